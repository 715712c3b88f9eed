package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"canto/bench"
	"canto/bench/report"
	"canto/bench/result"
	"canto/bench/slo"
	"canto/bench/target"
)

// serverFlags say which server is measured.
type serverFlags struct {
	Peer     string            `help:"Start this kind of server: canto, prosody or ejabberd." placeholder:"KIND" group:"Server"`
	Program  string            `help:"Executable of the server to start; by default canto is built." placeholder:"FILE" group:"Server"`
	Option   map[string]string `help:"Option of the started server's configuration." placeholder:"NAME=VALUE" group:"Server"`
	Target   string            `help:"File that describes the server (TOML)." placeholder:"FILE" group:"Server"`
	Server   string            `help:"Address of a running server, for plain connections and STARTTLS." placeholder:"HOST:PORT" group:"Server"`
	Direct   string            `help:"Address of a running server, for direct TLS." placeholder:"HOST:PORT" group:"Server"`
	Domain   string            `help:"XMPP domain of the server; by default the host of its address." group:"Server"`
	Rooms    string            `help:"Domain of the server's chat rooms; by default service discovery finds it." group:"Server"`
	User     string            `help:"User name of the accounts, with %d for their number; by default bench%d." placeholder:"NAME" group:"Server"`
	First    int               `help:"Number of the first account." group:"Server"`
	Password string            `help:"Password of all accounts; by default bench." group:"Server"`
	CA       string            `name:"ca" help:"CA certificate that verifies the server's certificate (PEM)." placeholder:"FILE" group:"Server"`
	Insecure bool              `help:"Accept any certificate." group:"Server"`
	Source   []string          `help:"Local addresses to connect from." placeholder:"ADDR" group:"Server"`
	PID      []int             `name:"pid" help:"Process IDs of the server, if it runs on this machine; the report shows their CPU and memory." group:"Server"`
	Metrics  string            `help:"URL of the server's Prometheus metrics." placeholder:"URL" group:"Server"`
	Pprof    string            `help:"URL of the server's /debug/pprof." placeholder:"URL" group:"Server"`
}

// spec is the server that the flags describe, or that the file of --target does.
func (f *serverFlags) spec() (*target.Spec, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	if f.Target != "" {
		if flag := f.strayFlag(); flag != "" {
			return nil, usageError{fmt.Errorf("%s stands beside --target: its file describes the whole server, "+
				"so write it there", flag)}
		}
		e, err := target.Read(f.Target)
		if err != nil {
			return nil, usageError{err}
		}
		return e, nil
	}
	e := &target.Spec{Kind: f.Peer, Program: f.Program, Options: f.Option, Server: f.Server,
		Direct: f.Direct, Domain: f.Domain, Rooms: f.Rooms, User: f.User,
		First: f.First, Password: f.Password, CA: f.CA, Insecure: f.Insecure, Sources: f.Source, PIDs: f.PID,
		Metrics: f.Metrics, Profiles: f.Pprof}
	if e.Kind == "" && e.Server == "" && e.Direct == "" {
		e.Kind = "canto"
	}
	e.Name = e.Kind
	if e.Name == "" {
		e.Name = e.Server + e.Direct
	}
	if e.Kind == "" {
		e.Password = f.password()
	}
	if err := e.Check(); err != nil {
		return nil, usageError{err}
	}
	return e, nil
}

// password is that of all accounts.
func (f *serverFlags) password() string { return cmp.Or(f.Password, "bench") }

// strayFlag is the first flag that is given beside --target, "" if there is none.
func (f *serverFlags) strayFlag() string {
	for _, x := range []struct {
		flag string
		set  bool
	}{
		{"--peer", f.Peer != ""}, {"--program", f.Program != ""}, {"--option", len(f.Option) > 0},
		{"--server", f.Server != ""},
		{"--direct", f.Direct != ""}, {"--domain", f.Domain != ""}, {"--rooms", f.Rooms != ""},
		{"--user", f.User != ""},
		{"--first", f.First != 0}, {"--password", f.Password != ""}, {"--ca", f.CA != ""},
		{"--insecure", f.Insecure},
		{"--source", len(f.Source) > 0}, {"--pid", len(f.PID) > 0}, {"--metrics", f.Metrics != ""},
		{"--pprof", f.Pprof != ""},
	} {
		if x.set {
			return x.flag
		}
	}
	return ""
}

// scenarioFlags change a scenario.
type scenarioFlags struct {
	Clients   *int           `help:"Total number of clients, instead of the scenario's; groups keep their shares." placeholder:"N" group:"Scenario"`
	Rates     *float64       `help:"Multiply all rates by this factor." placeholder:"FACTOR" group:"Scenario"`
	Rate      string         `help:"max: operations that have a rate follow each other instead, as fast as the server takes them." placeholder:"max" group:"Scenario"`
	Rows      *int           `help:"Number of messages that archives are filled with, in scenarios that fill them." placeholder:"N" group:"Scenario"`
	Length    *time.Duration `help:"Duration of each hold phase." placeholder:"TIME" group:"Scenario"`
	TLS       string         `name:"tls" help:"TLS of the clients: none, starttls or direct." placeholder:"KIND" group:"Scenario"`
	Mechanism string         `help:"SASL mechanism of the clients." placeholder:"NAME" group:"Scenario"`
	SASL2     string         `name:"sasl2" help:"Use of SASL2 (XEP-0388): auto, off or require." placeholder:"WHEN" group:"Scenario"`
	FAST      bool           `name:"fast" help:"Log in again with FAST tokens (XEP-0484)." group:"Scenario"`
	SM        bool           `name:"sm" help:"Enable stream management (XEP-0198)." group:"Scenario"`
	Carbons   bool           `help:"Enable message carbons (XEP-0280)." group:"Scenario"`
	Resume    bool           `help:"Resume sessions after their connections were lost; enables stream management." group:"Scenario"`
	Restart   bool           `help:"Restart the server, if it is started here, before clients that were cut off come back." group:"Scenario"`
}

func (f *scenarioFlags) changes() bench.Overrides {
	return bench.Overrides{Clients: valueOf(f.Clients), Rates: valueOf(f.Rates), Rate: f.Rate,
		Rows:   valueOf(f.Rows),
		Length: bench.Span(valueOf(f.Length)), TLS: f.TLS, Mechanism: f.Mechanism, SASL2: f.SASL2,
		FAST: f.FAST, SM: f.SM, Carbons: f.Carbons, Resume: f.Resume, Restart: f.Restart}
}

// scenario finds one and changes it.
func (f *scenarioFlags) scenario(name string) (*bench.Scenario, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	s, err := bench.Find(name)
	if err != nil {
		return nil, usageError{err}
	}
	if err := s.Override(f.changes()); err != nil {
		return nil, usageError{fmt.Errorf("%s, with what the command line changes: %w", name, err)}
	}
	return s, nil
}

// loadFlags say where the clients run.
type loadFlags struct {
	Workers int      `help:"Number of local processes that share the clients; 0: as many as the limit of descriptors requires." placeholder:"N" group:"Load"`
	Agent   []string `help:"Agents on other machines that share the clients (see canto-bench agent)." placeholder:"HOST:PORT" group:"Load"`
	Secret  string   `help:"Secret that the agents require." env:"CANTO_BENCH_SECRET" group:"Load"`
}

func (f *loadFlags) options(w *environment) (bench.Options, error) {
	if err := f.check(); err != nil {
		return bench.Options{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return bench.Options{}, err
	}
	return bench.Options{Processes: f.Workers, Command: []string{self, "agent", "--stdio"},
		Agents: f.Agent, Secret: f.Secret, Tool: w.tool()}, nil
}

// runCmd is the command run.
type runCmd struct {
	Scenario string `arg:"" optional:"" default:"default" help:"Name of a built-in scenario (see canto-bench scenarios), or a TOML file."`
	serverFlags
	scenarioFlags
	loadFlags
	Every time.Duration  `help:"Sampling interval of processes and metrics." default:"1s" placeholder:"TIME"`
	Limit *time.Duration `help:"End the run after this time, and report what was measured." placeholder:"TIME"`
	Dir   string         `help:"Folder of the started server; a later run with the same folder reuses its accounts. By default a temporary folder." placeholder:"DIR"`
	Out   string         `help:"Folder for the report." default:"canto-bench-report" placeholder:"DIR"`
	SLO   string         `name:"slo" help:"File of requirements (TOML) to check the result against; decides the exit status." placeholder:"FILE"`
	Quiet bool           `short:"q" help:"Do not show progress."`
}

// Run runs a scenario. It checks the flags; reads the requirements, so that a mistake shows
// before the run; runs the scenario, at most until --limit; saves the result; and judges it by
// the requirements. It returns a usageError for a mistake in flags or files, errLimit,
// errLimitEarly or errLimitStarting after --limit, errInterrupted after an interrupt, and errUnmet
// if a requirement is not met.
func (c *runCmd) Run(w *environment) error {
	if err := firstError(
		atLeast("--every", c.Every, 100*time.Millisecond, "100ms or more"),
		atLeastIfSet("--limit", c.Limit, time.Second, "1s or more; left out, there is none"),
	); err != nil {
		return err
	}
	e, err := c.spec()
	if err != nil {
		return err
	}
	sc, err := c.scenario(c.Scenario)
	if err != nil {
		return err
	}
	var gate *slo.File
	var baseline *result.Run
	if c.SLO != "" {
		if gate, err = slo.Read(c.SLO); err != nil {
			return usageError{err}
		}
		if baseline, err = gate.LoadBaseline(); err != nil {
			return usageError{err}
		}
	}
	o, err := c.options(w)
	if err != nil {
		return err
	}
	o.Interval = c.Every
	if c.Limit != nil {
		ctx, cancel := context.WithTimeoutCause(w.ctx, *c.Limit, fmt.Errorf("the limit of %v was over", *c.Limit))
		defer cancel()
		w.ctx = ctx
	}
	r, err := measure(w, e, sc, o, c.Dir, c.Quiet, nil)
	if r != nil {
		if err := save(w, r, c.Out); err != nil {
			return err
		}
	}
	over := errors.Is(w.ctx.Err(), context.DeadlineExceeded)
	switch {
	case over && r == nil && e.Kind == "":
		return errLimitEarly
	case over && r == nil:
		return errLimitStarting
	case err != nil:
		return err
	case over && r.Partial != "":
		return errLimit
	case r.Partial != "":
		return errInterrupted
	}
	if gate != nil {
		v := gate.Judge(r, baseline)
		if err := v.Text(w.out); err != nil {
			return err
		}
		if !v.Pass {
			return errUnmet
		}
	}
	return nil
}

// measure runs the scenario sc against the server e. It makes the folder dir, or a temporary one
// that it removes; starts the server, or connects to the one that runs; lets prepare, if not nil,
// read the target and change the options; and runs the scenario with the live view. It returns
// the result, which may be there together with an error if the run ended early. If the server's
// process is gone, the error says so.
func measure(w *environment, e *target.Spec, sc *bench.Scenario, o bench.Options, dir string,
	quiet bool, prepare func(t *bench.Target, o *bench.Options) error) (*result.Run, error) {
	if err := e.CheckTLS(sc.Clients.TLS); err != nil {
		return nil, usageError{err}
	}
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "canto-bench"); err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("the server's folder can't be made: %w: name another with --dir", err)
	}
	live := newLive(w, quiet)
	defer live.Close()
	if e.Kind != "" {
		live.Note(fmt.Sprintf("starting %s with %d accounts", e.Name, sc.Accounts()))
	}
	log, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		return nil, fmt.Errorf("the server's log can't be written: %w: name another folder with --dir", err)
	}
	defer log.Close()
	s, err := e.Start(w.ctx, target.Requirements{Accounts: sc.Accounts(), Requires: sc.Requires, Dir: dir,
		Log: log})
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	if prepare != nil {
		if err := prepare(&s.Target, &o); err != nil {
			return nil, err
		}
	}
	o.Progress = live.Update
	if e.Kind != "" {
		o.Restart = s.Restart
	}
	r, err := bench.Run(w.ctx, sc, s.Target, o)
	if err != nil {
		if gone := s.Alive(); gone != nil && w.ctx.Err() == nil {
			err = fmt.Errorf("%w (%s: %v)", err, e.Name, gone)
		}
	}
	return r, err
}

// save writes a result as JSON and HTML, and prints its summary.
func save(w *environment, r *result.Run, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("the report can't be written: %w", err)
	}
	name := filepath.Join(dir, "result.json")
	if err := r.Save(name); err != nil {
		return fmt.Errorf("the report can't be written: %w", err)
	}
	if err := write(filepath.Join(dir, "report.html"),
		func(f io.Writer) error { return report.HTML(f, r) }); err != nil {
		return err
	}
	if err := report.Text(w.out, r); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w.out, "\nreport: %s, %s\n", filepath.Join(dir, "report.html"), name)
	return err
}

// write creates a file, and do writes it.
func write(name string, do func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("the report can't be written: %w", err)
	}
	if err := do(f); err != nil {
		f.Close()
		return fmt.Errorf("the report can't be written: %w", err)
	}
	return f.Close()
}

// newLive is the live view: lines that are redrawn on a terminal, plain ones elsewhere.
func newLive(w *environment, quiet bool) *report.Live {
	if quiet {
		return report.NewLive(io.Discard, false, 0)
	}
	f, ok := w.errOut.(*os.File)
	if !ok {
		return report.NewLive(w.errOut, false, 0)
	}
	width, tty := terminal(f)
	if os.Getenv("TERM") == "dumb" {
		tty = false
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		width = n
	}
	return report.NewLive(f, tty, width)
}

// reportCmd is the command report.
type reportCmd struct {
	Result string `arg:"" help:"result.json of a run."`
	Out    string `help:"File to write; by default beside the result." placeholder:"FILE"`
}

// Run draws a report again.
func (c *reportCmd) Run(w *environment) error {
	r, err := result.Load(c.Result)
	if err != nil {
		return usageError{err}
	}
	if c.Out == "" {
		c.Out = strings.TrimSuffix(c.Result, filepath.Ext(c.Result)) + ".html"
	}
	if err := write(c.Out, func(f io.Writer) error { return report.HTML(f, r) }); err != nil {
		return err
	}
	if err := report.Text(w.out, r); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w.out, "\nreport: %s\n", c.Out)
	return err
}

// sloCmd is the command slo.
type sloCmd struct {
	File     string `arg:"" help:"File of requirements (TOML)."`
	Result   string `arg:"" help:"result.json of a run."`
	Baseline string `help:"Result to compute ratios against, instead of the baseline in FILE." placeholder:"FILE"`
}

// Run judges.
func (c *sloCmd) Run(w *environment) error {
	f, err := slo.Read(c.File)
	if err != nil {
		return usageError{err}
	}
	r, err := result.Load(c.Result)
	if err != nil {
		return usageError{err}
	}
	var baseline *result.Run
	if c.Baseline != "" {
		baseline, err = result.Load(c.Baseline)
	} else {
		baseline, err = f.LoadBaseline()
	}
	if err != nil {
		return usageError{err}
	}
	v := f.Judge(r, baseline)
	if err := v.Text(w.out); err != nil {
		return err
	}
	if !v.Pass {
		return errUnmet
	}
	return nil
}

// agentCmd is the command agent.
type agentCmd struct {
	Listen string `help:"Address to listen on for runs; an address other than loopback needs --secret." default:"127.0.0.1:5299" placeholder:"HOST:PORT"`
	Secret string `help:"Secret that a run must present." env:"CANTO_BENCH_SECRET"`
	Stdio  bool   `help:"Serve one run on standard input and output; a run starts its workers with this." hidden:""`
}

// Run serves.
func (c *agentCmd) Run(w *environment) error {
	if c.Stdio {
		// An interrupt of the terminal is for the run, which ends its workers by closing their input.
		return bench.ServeWorker(context.WithoutCancel(w.ctx), os.Stdin, w.out, "")
	}
	ln, err := listen(c.Listen, c.Secret)
	if err != nil {
		return usageError{err}
	}
	fmt.Fprintf(w.out, "canto-bench: agent ready at %s\n", ln.Addr())
	return bench.ServeAgent(w.ctx, ln, c.Secret, func(s string) { fmt.Fprintln(w.errOut, "canto-bench:", s) })
}

var errSecret = errors.New("any program that reaches this address can make the machine's clients " +
	"flood other servers: give a --secret, or listen on loopback")
