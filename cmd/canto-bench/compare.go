package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"canto/bench"
	"canto/bench/compare"
	"canto/bench/servers"
	"canto/bench/suite"
	"canto/bench/target"
)

// compareCmd is the command compare.
type compareCmd struct {
	Servers  []string `arg:"" optional:"" help:"Servers to compare: canto, prosody, ejabberd, canto@COMMIT, or files that describe a server (TOML). The first is the baseline of all ratios. Default: canto, prosody and ejabberd."`
	Suite    string   `help:"Suite to run: the name of a built-in suite, or a TOML file." default:"small" placeholder:"NAME"`
	Scenario string   `help:"Compare all figures of this scenario, instead of a suite." placeholder:"NAME"`
	Rounds   int      `help:"Runs of each scenario on each server; confidence intervals need at least 3." default:"3"`
	Floor    float64  `help:"Noise floor: ratios between 1/FLOOR and FLOOR get no verdict." default:"1" placeholder:"FLOOR"`
	scenarioFlags
	loadFlags
	Out string `help:"Folder for results and tables." default:"canto-bench-compare" placeholder:"DIR"`
}

// Run compares servers. It checks the flags; finds the suite and the servers; runs the suite;
// saves the tables and prints them. It returns a usageError for a mistake in the flags,
// errInterrupted after an interrupt, errMissing if a server has no figures of a case that it
// should have, and errUnmet if a limit of the suite was not kept. What was measured until an
// error is saved.
func (c *compareCmd) Run(w *environment) error {
	var chosen *suite.Suite
	var err error
	if err := firstError(
		c.scenarioFlags.check(),
		c.loadFlags.check(),
		atLeast("--rounds", c.Rounds, 1, "1 or more; intervals need three"),
		atLeast("--floor", c.Floor, 1, "1 or more, such as 1.05"),
	); err != nil {
		return err
	}
	if c.Scenario != "" {
		chosen = suite.Single(c.Scenario, c.changes())
	} else if chosen, err = suite.Find(c.Suite); err != nil {
		return usageError{err}
	} else if c.changes() != (bench.Overrides{}) {
		return usageError{errors.New("a suite says itself how its scenarios are changed: these flags go " +
			"with --scenario")}
	}
	if len(c.Servers) == 0 {
		c.Servers = servers.Kinds()
	}
	var targets []*target.Spec
	for _, s := range c.Servers {
		e, err := namedTarget(s)
		if err != nil {
			return usageError{err}
		}
		targets = append(targets, e)
	}
	o, err := c.options(w)
	if err != nil {
		return err
	}
	out, err := suite.Run(w.ctx, suite.Config{Suite: chosen, Targets: targets, Rounds: c.Rounds,
		Floor: c.Floor, Out: c.Out, Options: o,
		Note: func(s string) { fmt.Fprintln(w.errOut, s) }})
	if out == nil {
		return err
	}
	if err := c.save(out); err != nil {
		return err
	}
	if err := out.Text(w.out); err != nil {
		return err
	}
	fmt.Fprintf(w.out, "\ntables: %s, pages and all results beside it\n", filepath.Join(c.Out, "table.md"))
	if errors.Is(err, context.Canceled) {
		return errInterrupted
	}
	if err != nil {
		return err
	}
	for _, m := range out.Missing {
		if m.Offered {
			fmt.Fprintf(w.out, "FAIL %s: %s has no figures: %s\n", m.Case, m.Target,
				strings.ReplaceAll(m.Why, "\n", " "))
			err = errMissing
		}
	}
	for _, u := range out.Unmet() {
		fmt.Fprintln(w.out, "FAIL", u)
		err = errUnmet
	}
	return err
}

// save writes the tables, as JSON, Markdown and HTML.
func (c *compareCmd) save(o *suite.Outcome) error {
	if err := write(filepath.Join(c.Out, "outcome.json"), func(f io.Writer) error {
		e := json.NewEncoder(f)
		e.SetIndent("", " ")
		return e.Encode(o)
	}); err != nil {
		return err
	}
	if err := write(filepath.Join(c.Out, "table.md"), o.Markdown); err != nil {
		return err
	}
	for i, t := range o.Tables {
		if t == nil {
			continue
		}
		name := filepath.Join(c.Out, o.Suite.Cases[i].Name)
		if err := write(name+".html", t.HTML); err != nil {
			return err
		}
		if err := write(name+".table.json", t.JSON); err != nil {
			return err
		}
	}
	return nil
}

// namedTarget is a server by its description's file, its kind, or a commit of ours.
func namedTarget(s string) (*target.Spec, error) {
	if strings.HasSuffix(s, ".toml") {
		return target.Read(s)
	}
	kind, commit, _ := strings.Cut(s, "@")
	if !slices.Contains(servers.Kinds(), kind) {
		return nil, fmt.Errorf("%q is not a server: one of %s, canto@COMMIT, or a TOML file", s,
			strings.Join(servers.Kinds(), ", "))
	}
	e := &target.Spec{Name: s, Kind: kind, Commit: commit}
	return e, e.Check()
}

// agreeCmd is the command agree.
type agreeCmd struct {
	A string `arg:"" help:"*.table.json of a comparison, or the comparison's folder."`
	B string `arg:"" help:"The same of a second comparison."`
}

// Run says whether two comparisons agree.
func (c *agreeCmd) Run(w *environment) error {
	pairs := [][2]string{{c.A, c.B}}
	if !strings.HasSuffix(c.A, ".json") {
		pairs = nil
		list, err := filepath.Glob(filepath.Join(c.A, "*.table.json"))
		if err != nil || len(list) == 0 {
			return usageError{fmt.Errorf("%s has no *.table.json: name what canto-bench compare left", c.A)}
		}
		for _, a := range list {
			pairs = append(pairs, [2]string{a, filepath.Join(c.B, filepath.Base(a))})
		}
	}
	ratios, differ := 0, 0
	for _, p := range pairs {
		a, err := compare.Load(p[0])
		if err != nil {
			return usageError{err}
		}
		b, err := compare.Load(p[1])
		if err != nil {
			return usageError{err}
		}
		for _, d := range compare.Agree(a, b) {
			differ++
			fmt.Fprintf(w.out, "%s: %s\n", a.Scenario, d)
		}
		for _, r := range a.Rows {
			for _, cell := range r.Cells {
				if cell.Ratio != nil {
					ratios++
				}
			}
		}
	}
	_, err := fmt.Fprintf(w.out, "%d ratios, and in %d of them the intervals do not meet\n", ratios, differ)
	return err
}
