// Package suite runs comparison suites: it measures several servers, or commits of one, by the same
// scenarios in turn. Rounds alternate between the servers, so that slow times of the machine affect
// all of them alike.
//
// For each case, server and round it starts the server with new data, runs the scenario, stops the
// server, and saves the result. The package compare then judges the results of each case. The
// package bench/compare has no part in running; this one has none in judging.
package suite

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"canto/bench"
	"canto/bench/compare"
	"canto/bench/report"
	"canto/bench/result"
	"canto/bench/target"
	"canto/session/tomlstrict"
)

// A Suite is what is compared: cases, and the rows of a table with their figures. It is read from
// TOML.
type Suite struct {
	Name  string `toml:"name"`  // Name of the suite.
	About string `toml:"about"` // About says what it compares.
	Cases []Case `toml:"case"`  // Cases run in this order in each round.
}

// A Case is a scenario with overrides.
type Case struct {
	// Name is unique in the suite; "": the scenario's. Files of results have it.
	Name     string `toml:"name"`
	Scenario string `toml:"scenario"` // Scenario is a built-in one, or a file.
	bench.Overrides
	Rows []Row `toml:"row"` // Rows that the table of the suite has of it.
}

// A Row is a figure in the table of the suite.
type Row struct {
	Label  string  `toml:"label"`  // Label of the row.
	Figure string  `toml:"figure"` // Figure by its name in results.
	Goal   float64 `toml:"goal"`   // Goal of the baseline, in the figure's unit; 0: none.
	// AtMost is a limit that each server must keep in each round for the comparison to succeed; nil:
	// none.
	AtMost *float64 `toml:"at_most"`
}

//go:embed suites/*.toml
var files embed.FS

// Suites are the names of the suites that are built in.
func Suites() (names []string) {
	list, _ := files.ReadDir("suites")
	for _, f := range list {
		names = append(names, strings.TrimSuffix(f.Name(), ".toml"))
	}
	return names
}

// Find returns the built-in suite of that name, or reads a file: a name with a dot or a slash is a
// path.
func Find(name string) (*Suite, error) {
	var b []byte
	var err error
	if strings.ContainsAny(name, "./\\") {
		if b, err = os.ReadFile(name); err != nil {
			return nil, fmt.Errorf("the suite can't be read: %w", err)
		}
	} else if b, err = files.ReadFile(path.Join("suites", name+".toml")); err != nil {
		return nil, fmt.Errorf("there is no suite %q: one of %s, or a file (with .toml in its name)", name,
			strings.Join(Suites(), ", "))
	}
	s := &Suite{Name: name}
	if err := tomlstrict.Decode(b, s); err != nil {
		return nil, tomlstrict.Named(name, err)
	}
	if err := s.check(); err != nil {
		return nil, tomlstrict.Named(name, tomlstrict.Placed(b, err))
	}
	return s, nil
}

// Single is a suite of one scenario, without rows: all its figures are compared.
func Single(scenario string, c bench.Overrides) *Suite {
	name := strings.TrimSuffix(filepath.Base(scenario), ".toml")
	return &Suite{Name: name, Cases: []Case{{Name: name, Scenario: scenario, Overrides: c}}}
}

// check fills in names, and returns an error if a case can't be run.
func (s *Suite) check() error {
	if len(s.Cases) == 0 {
		return tomlstrict.At(nil, "suite %s has no [[case]]", s.Name)
	}
	for i := range s.Cases {
		c := &s.Cases[i]
		if c.Name == "" {
			c.Name = c.Scenario
		}
		if _, err := c.scenario(); err != nil {
			return tomlstrict.At(tomlstrict.Path{"case", i, "scenario"}, "suite %s, case %s: %v", s.Name, c.Name, err)
		}
		if c.Name != clean(c.Name) {
			return tomlstrict.At(tomlstrict.Path{"case", i, "name"},
				"suite %s, case %q: a name is letters, digits, dots and hyphens: results are files of that name",
				s.Name, c.Name)
		}
		if slices.ContainsFunc(s.Cases[:i], func(d Case) bool { return d.Name == c.Name }) {
			return tomlstrict.At(tomlstrict.Path{"case", i, "name"},
				"suite %s has two cases %s: give each a name", s.Name, c.Name)
		}
	}
	return nil
}

func (c *Case) scenario() (*bench.Scenario, error) {
	sc, err := bench.Find(c.Scenario)
	if err != nil {
		return nil, err
	}
	if err := sc.Override(c.Overrides); err != nil {
		return nil, err
	}
	return sc, nil
}

// A Config says how a suite is run.
type Config struct {
	Suite   *Suite         // Suite to run.
	Targets []*target.Spec // Targets are the servers; the first is the baseline.
	Rounds  int            // Rounds is how often each case runs on each server.
	Floor   float64        // Floor: see compare.Input.
	Out     string         // Out is the folder for results and tables.
	Options bench.Options  // Options of each run.
	Note    func(string)   // Note takes a line for each event; may be nil.
}

// An Outcome is what a suite has shown.
type Outcome struct {
	Suite   *Suite           `json:"suite"`             // Suite that ran.
	Targets []string         `json:"entrants"`          // Targets by name, in order.
	Servers []string         `json:"servers"`           // Servers are the software and version of each.
	Machine result.Machine   `json:"machine"`           // Machine that it ran on.
	Tool    result.Tool      `json:"tool"`              // Tool that ran it.
	Rounds  int              `json:"rounds"`            // Rounds that were asked for.
	Tables  []*compare.Table `json:"tables"`            // Tables by case; nil where no server has a result.
	Missing []Missing        `json:"missing,omitempty"` // Missing cases of servers.
}

// A Missing says why a server has no results of a case.
type Missing struct {
	Case    string `json:"case"`    // Case by name.
	Target  string `json:"entrant"` // Target by name.
	Why     string `json:"why"`     // Why in one line.
	Offered bool   `json:"offered"` // Offered is false if the server does not have the feature.
}

// Run runs a suite. If ctx ends, the outcome has the rounds that were complete, and the error is
// that of ctx.
//
// Its steps: it checks the suite and the names of the servers; it builds canto once for each server
// that needs it; in each round it runs each case on each server, beginning with another one each
// time, and saves the results; it makes the table of each case. A server that fails in the first
// round, or that lacks a feature, is left out of the case; one that fails later only lacks that
// round.
func Run(ctx context.Context, c Config) (*Outcome, error) {
	if c.Note == nil {
		c.Note = func(string) {}
	}
	if err := c.Suite.check(); err != nil {
		return nil, err
	}
	o := &Outcome{Suite: c.Suite, Tool: c.Options.Tool, Rounds: c.Rounds,
		Tables: make([]*compare.Table, len(c.Suite.Cases)), Servers: make([]string, len(c.Targets))}
	for i, e := range c.Targets {
		if slices.Contains(o.Targets, e.Name) {
			return nil, fmt.Errorf("two servers are called %q: give each a name", e.Name)
		}
		o.Targets = append(o.Targets, c.Targets[i].Name)
	}
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return nil, fmt.Errorf("results can't be written: %w", err)
	}
	dir, err := os.MkdirTemp("", "canto-bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	for _, e := range c.Targets {
		if e.Kind == "canto" && e.Program == "" { // once, not in each round
			if e.Program, err = c.build(ctx, dir, e); err != nil {
				return nil, err
			}
			e.Commit = ""
		}
	}
	runs := make([][][]*result.Run, len(c.Suite.Cases)) // by case, target, round
	for i := range runs {
		runs[i] = make([][]*result.Run, len(c.Targets))
	}
	var over error
rounds:
	for round := range c.Rounds {
		for i := range c.Suite.Cases {
			cs := &c.Suite.Cases[i]
			for j := range c.Targets {
				k := (j + round) % len(c.Targets) // no server is always first
				e := c.Targets[k]
				if o.missing(cs.Name, e.Name) {
					continue
				}
				c.Note(fmt.Sprintf("round %d of %d: %s, %s", round+1, c.Rounds, cs.Name, e.Name))
				r, err := c.runOnce(ctx, dir, cs, e)
				if ctx.Err() != nil {
					over = ctx.Err()
					break rounds
				}
				var not bench.ErrNotOffered
				switch {
				case errors.As(err, &not):
					o.Missing = append(o.Missing, Missing{cs.Name, e.Name, "not offered: " + not.Feature, false})
					c.Note(fmt.Sprintf("%s does not offer %s", e.Name, not.Feature))
					continue
				case err != nil && round == 0:
					o.Missing = append(o.Missing, Missing{cs.Name, e.Name, err.Error(), true})
					c.Note(fmt.Sprintf("%s: %v", e.Name, err))
					continue
				case err != nil:
					c.Note(fmt.Sprintf("%s: %v: this round is left out", e.Name, err))
					r = nil
				}
				runs[i][k] = append(runs[i][k], r)
				if r == nil {
					continue
				}
				o.Servers[k], o.Machine = strings.TrimSpace(r.Target.Software+" "+r.Target.Version), r.Machine
				if err := r.Save(filepath.Join(c.Out, fmt.Sprintf("%s-%s-%d.json", cs.Name, clean(e.Name), round+
					1))); err != nil {
					return o, fmt.Errorf("results can't be written: %w", err)
				}
				for _, w := range r.Warnings {
					c.Note(e.Name + ": " + w)
				}
			}
		}
	}
	for i := range c.Suite.Cases {
		ct := compare.Input{Floor: c.Floor}
		for _, row := range c.Suite.Cases[i].Rows {
			ct.Order = append(ct.Order, row.Figure)
		}
		for k, e := range c.Targets {
			if slices.ContainsFunc(runs[i][k], func(r *result.Run) bool { return r != nil }) {
				if ct.Baseline == "" {
					ct.Baseline = e.Name
				}
				ct.Targets = append(ct.Targets, compare.Target{Name: e.Name, Runs: runs[i][k]})
			}
		}
		if len(ct.Targets) == 0 {
			continue
		}
		t, err := compare.Judge(ct)
		if err != nil {
			return o, fmt.Errorf("case %s: %w", c.Suite.Cases[i].Name, err)
		}
		o.Tables[i] = t
	}
	return o, over
}

func (o *Outcome) missing(cs, name string) bool {
	return slices.ContainsFunc(o.Missing, func(m Missing) bool { return m.Case == cs && m.Target == name })
}

func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' {
			return r
		}
		return '-'
	}, s)
}

func (c *Config) build(ctx context.Context, dir string, e *target.Spec) (string, error) {
	d := filepath.Join(dir, "build-"+clean(e.Name))
	if err := os.MkdirAll(d, 0o755); err != nil {
		return "", err
	}
	c.Note("building " + e.Name)
	program, _, err := target.Build(ctx, d, e.Commit)
	return program, err
}

// runOnce runs one case against one server, which it starts and stops.
func (c *Config) runOnce(ctx context.Context, dir string, cs *Case, e *target.Spec) (*result.Run, error) {
	sc, err := cs.scenario()
	if err != nil {
		return nil, err
	}
	d, err := os.MkdirTemp(dir, "run")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(d)
	s, err := e.Start(ctx, target.Requirements{Accounts: sc.Accounts(), Requires: sc.Requires, Dir: d})
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	o := c.Options
	if e.Kind != "" {
		o.Restart = s.Restart
	}
	r, err := bench.Run(ctx, sc, s.Target, o)
	if err != nil {
		if gone := s.Alive(); gone != nil {
			err = fmt.Errorf("%w (%v)", err, gone)
		}
		return nil, err
	}
	return r, nil
}

// Unmet has a line for each limit that a server did not keep (Row.AtMost), or could not be measured
// by.
func (o *Outcome) Unmet() (all []string) {
	for i, cs := range o.Suite.Cases {
		for _, row := range cs.Rows {
			if row.AtMost == nil {
				continue
			}
			for _, m := range o.Missing {
				if m.Case == cs.Name && m.Offered {
					all = append(all, fmt.Sprintf("%s: %s failed: %s", cs.Name, m.Target, m.Why))
				}
			}
			t := o.Tables[i]
			if t == nil {
				continue
			}
			k := slices.IndexFunc(t.Rows, func(r compare.Row) bool { return r.Figure == row.Figure })
			for j, name := range t.Targets {
				if k < 0 || len(t.Rows[k].Cells[j].Values) == 0 {
					all = append(all, fmt.Sprintf("%s: %s has no %s", cs.Name, name, row.Figure))
					continue
				}
				for _, v := range t.Rows[k].Cells[j].Values {
					if v > *row.AtMost {
						all = append(all, fmt.Sprintf("%s: %s of %s is %g, and at most %g will do", cs.Name, row.Figure,
							name, v, *row.AtMost))
					}
				}
			}
		}
	}
	return all
}

// A tableLine is a row of the suite's table.
type tableLine struct {
	label string
	cells []string
}

// lines are the suite's rows, with a cell for each server: its median, and the ratio to the
// baseline.
func (o *Outcome) lines() (rows []tableLine) {
	for i, cs := range o.Suite.Cases {
		t := o.Tables[i]
		for _, row := range cs.Rows {
			l := tableLine{label: row.Label, cells: make([]string, len(o.Targets)+1)}
			unit := ""
			for k, name := range o.Targets {
				l.cells[k] = o.cell(t, cs.Name, row.Figure, name, &unit)
			}
			if row.Goal > 0 {
				l.cells[len(o.Targets)] = report.Amount(row.Goal, unit)
			}
			rows = append(rows, l)
		}
	}
	return rows
}

func (o *Outcome) cell(t *compare.Table, cs, figure, name string, unit *string) string {
	for _, m := range o.Missing {
		if m.Case == cs && m.Target == name {
			if !m.Offered {
				return "not offered"
			}
			return "failed"
		}
	}
	if t == nil {
		return "–"
	}
	for _, r := range t.Rows {
		k := slices.Index(t.Targets, name)
		if r.Figure != figure || k < 0 || len(r.Cells[k].Values) == 0 {
			continue
		}
		*unit = r.Unit
		s := report.Amount(r.Cells[k].Median, r.Unit)
		if q := r.Cells[k].Ratio; q != nil {
			s += " (" + q.String() + ")"
		}
		return s
	}
	return "–"
}

// Text writes the suite's table; a suite without rows has the tables of its cases instead.
func (o *Outcome) Text(w io.Writer) error {
	rows := o.lines()
	if len(rows) == 0 {
		for _, t := range o.Tables {
			if t != nil {
				if err := t.Text(w); err != nil {
					return err
				}
			}
		}
		return o.notes(w, "")
	}
	head := tableLine{label: "", cells: append(slices.Clone(o.Targets), "goal")}
	width := make([]int, len(head.cells)+1)
	all := append([]tableLine{head}, rows...)
	for _, l := range all {
		width[0] = max(width[0], len([]rune(l.label)))
		for k, c := range l.cells {
			width[k+1] = max(width[k+1], len([]rune(c)))
		}
	}
	for _, l := range all {
		var b strings.Builder
		fmt.Fprintf(&b, "%-*s", width[0], l.label)
		for k, c := range l.cells {
			fmt.Fprintf(&b, "  %*s", width[k+1], c)
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return o.notes(w, "")
}

// Markdown writes the suite's table as Markdown.
func (o *Outcome) Markdown(w io.Writer) error {
	rows := o.lines()
	if len(rows) == 0 {
		for _, t := range o.Tables {
			if t != nil {
				if err := t.Markdown(w); err != nil {
					return err
				}
			}
		}
		return o.notes(w, "- ")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| | %s | goal |\n|---|%s--:|\n", strings.Join(o.Targets, " | "),
		strings.Repeat("--:|", len(o.Targets)))
	for _, l := range rows {
		fmt.Fprintf(&b, "| %s | %s |\n", l.label, strings.Join(l.cells, " | "))
	}
	b.WriteString("\n")
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	return o.notes(w, "- ")
}

func (o *Outcome) notes(w io.Writer, lead string) error {
	var b strings.Builder
	for k, s := range o.Servers {
		if s != "" {
			fmt.Fprintf(&b, "%s%s: %s\n", lead, o.Targets[k], s)
		}
	}
	of := fmt.Sprintf("medians of %d rounds, and in brackets the ratio to %s with its 95 %% interval",
		o.Rounds, o.Targets[0])
	switch o.Rounds { // as bench/compare has it
	case 1:
		of = "one round, which has no intervals; in brackets the ratio to " + o.Targets[0]
	case 2:
		of = fmt.Sprintf("means of 2 rounds, and in brackets the ratio to %s with the range of the two, "+
			"widened (about 80 %%)", o.Targets[0])
	}
	fmt.Fprintf(&b, "%s%s; %s, %d cores, Linux %s\n", lead, of, o.Machine.CPU, o.Machine.Cores, o.Machine.Kernel)
	for _, m := range o.Missing {
		if m.Offered {
			fmt.Fprintf(&b, "%s%s, %s: %s\n", lead, m.Case, m.Target, m.Why)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
