// Canto-bench measures XMPP servers. `canto-bench` alone starts Canto in a second process, holds
// 10,000 sessions that chat, and leaves a report. `canto-bench --help` lists the commands, and
// docs/bench.md describes them.
//
// Each command is a struct with its flags and a method Run. main.go parses the command line;
// flags.go checks values of flags; run.go has the commands that run scenarios, and the flags that
// they share; the other files have one command each. The work is done by the packages below
// canto/bench.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"canto/bench"
	"canto/bench/result"
	"canto/session/tomlstrict"
)

// Exit statuses.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// cli is the command line.
type cli struct {
	Run runCmd `cmd:"" default:"withargs" help:"Run a scenario against a server and write a report; without a server, start Canto."`

	Compare   compareCmd   `cmd:"" help:"Run scenarios against several servers in turn, and print ratios with confidence intervals."`
	Agree     agreeCmd     `cmd:"" help:"Report the ratios in which two comparisons differ by more than their intervals."`
	Plan      planCmd      `cmd:"" help:"Measure, in five minutes, how many sessions of a profile this machine can hold."`
	Profile   profileCmd   `cmd:"" help:"Run a scenario, record the server's profiles, and draw flame graphs."`
	VM        vmCmd        `cmd:"" name:"vm" help:"Hold 100,000 sessions with one server process in a virtual machine, and report the cost of each."`
	Report    reportCmd    `cmd:"" help:"Write the HTML report of a result again."`
	SLO       sloCmd       `cmd:"" name:"slo" help:"Check a result against a file of requirements."`
	Scenarios scenariosCmd `cmd:"" help:"List the built-in scenarios, or print one as a file to copy and change."`

	Accounts accountsCmd `cmd:"" help:"Make the accounts of a load test: write files that servers import, or register them."`
	Agent    agentCmd    `cmd:"" help:"Run clients on this machine for a run on another one."`
	Version  versionCmd  `cmd:"" help:"Show the version."`
}

// An environment is the part of the process that commands use.
type environment struct {
	ctx    context.Context
	out    io.Writer
	errOut io.Writer
	args   []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second one ends the process
	os.Exit(execute(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// errInterrupted is the error of a run that a signal has ended.
var errInterrupted = errors.New("interrupted: the report shows what was seen until then")

// errLimit is the error of a run that its own limit has ended.
var errLimit = errors.New("the run's limit was over: the report shows what was seen until then; give " +
	"it more, or log in fewer")

// errMissing is the error of a comparison that has printed which server has no figures.
var errMissing = errors.New("a server could not be measured: look at its lines above")

// errLimitEarly is the error of a run with a limit that was over before a running server had
// answered.
var errLimitEarly = errors.New("the run's limit was over before the server was ready: there is " +
	"nothing to report; look whether it answers at this address, or give it more")

// errLimitStarting is the same for a server that had to be started.
var errLimitStarting = errors.New("the run's limit was over before the server was ready: there is " +
	"nothing to report; give it more, or start the server before (--server)")

// errUnmet is the error of a command that has printed which requirements are not met.
var errUnmet = errors.New("the requirements are not met")

// execute runs the command of args, and returns the exit status. It builds the parser; rejects
// help of an unknown command; parses the command line; runs the command; and prints its error as
// one line to errOut. The status is 0, exitUsage for a mistake in the command line,
// exitInterrupted after an interrupt, and otherwise exitFailed. A panic means that a tag of a
// command is wrong.
func execute(ctx context.Context, args []string, out, errOut io.Writer) int {
	var c cli
	code := -1
	k, err := kong.New(&c, kong.Name("canto-bench"),
		kong.Description("Measures XMPP servers. Without arguments: 10,000 sessions on a Canto of its own, "+
			"two minutes, report in ./canto-bench-report."),
		kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(duration)),
		kong.Writers(out, errOut), kong.Exit(func(n int) { code = n }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	if err != nil {
		panic(err)
	}
	if len(args) > 1 && args[0] == "help" {
		var commands []string
		for _, n := range k.Model.Children {
			commands = append(commands, n.Name)
		}
		if !slices.Contains(commands, args[1]) {
			fmt.Fprintf(errOut, "canto-bench: there is no command %q: one of %s\n", tomlstrict.Short(args[1]),
				strings.Join(commands, ", "))
			return exitUsage
		}
	}
	cmd, err := k.Parse(joinNegatives(plainWords(args)))
	switch {
	case code >= 0:
		return code // --help
	case err != nil:
		fmt.Fprintf(errOut, "canto-bench: %v: see canto-bench --help\n", err)
		return exitUsage
	}
	err = cmd.Run(&environment{ctx: ctx, out: out, errOut: errOut, args: args})
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errInterrupted):
		fmt.Fprintln(errOut, "canto-bench:", err)
		return exitInterrupted
	case ctx.Err() != nil:
		fmt.Fprintln(errOut, "canto-bench: interrupted")
		return exitInterrupted
	}
	var usage usageError
	fmt.Fprintln(errOut, "canto-bench:", strings.ReplaceAll(err.Error(), "\n", " "))
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// duration reads the value of a flag that is a length of time.
func duration(ctx *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := ctx.Scan.PopValueInto("time", &text); err != nil {
		return err
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q is not a duration: write 30s, 5m or 1h", tomlstrict.Short(text))
	}
	target.SetInt(int64(d))
	return nil
}

var (
	longFlag = regexp.MustCompile(`^--[a-z][a-z0-9-]*$`)
	negative = regexp.MustCompile(`^-[0-9.]`)
)

// joinNegatives are args with each negative value written as its flag's: "--clients", "-5" is
// --clients=-5, so that it is the value that is refused, and not taken for a flag.
func joinNegatives(args []string) (all []string) {
	for i := 0; i < len(args); i++ {
		if args[i] == "--" {
			return append(all, args[i:]...)
		}
		if i+1 < len(args) && longFlag.MatchString(args[i]) && negative.MatchString(args[i+1]) {
			all = append(all, args[i]+"="+args[i+1])
			i++
			continue
		}
		all = append(all, args[i])
	}
	return all
}

// plainWords replaces words in args that most programs understand by the commands above: "help"
// is --help, "help COMMAND" is COMMAND --help, and --version is version.
func plainWords(args []string) []string {
	switch {
	case len(args) == 0:
	case args[0] == "help":
		return append(args[1:len(args):len(args)], "--help")
	case args[0] == "--version":
		return append([]string{"version"}, args[1:]...)
	}
	return args
}

// A usageError is an error in the command line.
type usageError struct{ error }

// Unwrap is the error itself.
func (e usageError) Unwrap() error { return e.error }

// tool describes this program for reports.
func (w *environment) tool() result.Tool {
	t := result.Tool{Version: "devel", Go: runtime.Version(),
		Command: strings.Join(append([]string{"canto-bench"}, quoted(w.args)...), " ")}
	if i, ok := debug.ReadBuildInfo(); ok {
		if v := i.Main.Version; v != "" && v != "(devel)" {
			t.Version = v
		}
		for _, s := range i.Settings {
			if s.Key == "vcs.revision" {
				t.Commit = s.Value
			}
		}
	}
	return t
}

func quoted(args []string) (q []string) {
	for _, a := range args {
		if strings.ContainsAny(a, " '\"\\$&|<>;*?") || a == "" {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		q = append(q, a)
	}
	return q
}

// versionCmd is the command version.
type versionCmd struct{}

// Run prints it.
func (*versionCmd) Run(w *environment) error {
	t := w.tool()
	fmt.Fprintln(w.out, strings.TrimSpace(fmt.Sprintf("canto-bench %s %s %s", t.Version, t.Commit, t.Go)))
	return nil
}

// scenariosCmd is the command scenarios.
type scenariosCmd struct {
	Name string `arg:"" optional:"" help:"Print this scenario."`
}

// Run lists or prints.
func (c *scenariosCmd) Run(w *environment) error {
	if c.Name != "" {
		s, err := bench.Find(c.Name)
		if err != nil {
			return usageError{err}
		}
		_, err = io.WriteString(w.out, s.Source())
		return err
	}
	for _, n := range bench.Scenarios() {
		s, err := bench.Find(n)
		if err != nil {
			return err
		}
		fmt.Fprintf(w.out, "%-22s %s\n", n, s.About)
	}
	return nil
}
