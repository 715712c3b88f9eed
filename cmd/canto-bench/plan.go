package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"canto/bench/capacity"
	"canto/bench/target"
)

// planCmd is the command plan.
type planCmd struct {
	serverFlags
	Profile     string        `help:"What an average session does in an hour (TOML; see docs/bench.md). Default: mobile phones." placeholder:"FILE"`
	Cores       int           `help:"Cores of the server; 0: all cores of this machine."`
	Memory      int64         `help:"Memory of the server in bytes; default: 80 % of this machine's memory." placeholder:"BYTES"`
	Utilisation float64       `help:"Share of the cores that may be busy on average." default:"0.7"`
	Budget      time.Duration `help:"Approximate duration of all measurements." default:"5m"`
	Sessions    int           `help:"Most sessions in the runs that the costs are fitted to." default:"7000"`
	Out         string        `help:"Folder for plan.json." default:"canto-bench-report" placeholder:"DIR"`
	Quiet       bool          `short:"q" help:"Do not show progress."`
}

// Run makes a capacity plan. It checks the flags and the profile; starts the server in a
// temporary folder; makes the plan with clients in processes of their own; and writes the plan to
// plan.json and, as text, to standard output. Mistakes in flags and profile are usageErrors.
func (c *planCmd) Run(w *environment) error {
	if err := firstError(
		atLeast("--cores", c.Cores, 0, "1 or more, or 0 for all of this machine"),
		atLeast("--memory", c.Memory, 0, "bytes, or 0 for 80 % of this machine's"),
		within("--utilisation", c.Utilisation, 0.01, 1, "from 0.01 to 1"),
		atLeast("--budget", c.Budget, 10*time.Second, "10s or more; margins are wide below some minutes"),
		atLeast("--sessions", c.Sessions, capacity.LeastSessions,
			fmt.Sprintf("%d or more: fewer show nothing", capacity.LeastSessions)),
	); err != nil {
		return err
	}
	e, err := c.spec()
	if err != nil {
		return err
	}
	cfg := capacity.Config{Cores: c.Cores, Memory: c.Memory, Utilisation: c.Utilisation, Budget: c.Budget,
		Sessions: c.Sessions, Tool: w.tool()}
	if c.Profile != "" {
		b, err := os.ReadFile(c.Profile)
		if err != nil {
			return usageError{fmt.Errorf("the profile can't be read: %w", err)}
		}
		if cfg.Profile, err = capacity.ParseProfile(c.Profile, b); err != nil {
			return usageError{err}
		}
	}
	kind := capacity.Mobile().TLS
	if c.Profile != "" {
		kind = cfg.Profile.TLS
	}
	if err := e.CheckTLS(kind); err != nil {
		return usageError{err}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cfg.Command = []string{self, "agent", "--stdio"}
	dir, err := os.MkdirTemp("", "canto-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	live := newLive(w, c.Quiet)
	defer live.Close()
	s, err := e.Start(w.ctx, target.Requirements{Accounts: capacity.Accounts(cfg), Dir: dir})
	if err != nil {
		return err
	}
	defer s.Stop()
	cfg.Target, cfg.Watch, cfg.Note = s.Target, live.Update, live.Note
	p, err := capacity.Run(w.ctx, cfg)
	if err != nil {
		return err
	}
	live.Close()
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return fmt.Errorf("the plan can't be written: %w", err)
	}
	name := filepath.Join(c.Out, "plan.json")
	if err := write(name, func(f io.Writer) error {
		enc := json.NewEncoder(f)
		enc.SetIndent("", " ")
		return enc.Encode(p)
	}); err != nil {
		return err
	}
	if err := p.Text(w.out); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w.out, "\nplan: %s\n", name)
	return err
}
