// Package compare judges several servers, or commits of one, that were measured by the same
// scenario in alternating rounds. For each figure it has the medians, the ratio to a baseline with
// its confidence interval, and a verdict where the interval allows one. It measures nothing:
// bench/suite runs the scenarios.
package compare

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"

	"canto/bench/result"
)

// An Input is what is compared: results of one scenario, of several servers, in rounds.
type Input struct {
	Baseline string   // Baseline is the name of the target that the others are divided by.
	Targets  []Target // Targets are what is compared.
	// Order has the figures that a table begins with; the others follow in the order of the results.
	Order []string
	// Floor is the noise floor: a ratio between 1/Floor and Floor has no verdict, however narrow its
	// interval is. 0 is 1: no floor.
	Floor float64
}

// A Target is a server with its results, in the order of the rounds. Rounds of the same number are
// paired, since the machine was in the same state. The result of a round that failed is nil.
type Target struct {
	Name string        // Name is unique in an Input.
	Runs []*result.Run // Runs by round.
}

// A Table is the outcome: plain data that is written as JSON.
type Table struct {
	Format   int    `json:"format"`   // Format is the version of this type.
	Scenario string `json:"scenario"` // Scenario that all results are of.
	Baseline string `json:"baseline"` // Baseline by name.
	// Targets by name: the baseline first, then the others in the order of the Input.
	Targets []string `json:"entrants"`
	Rounds  []int    `json:"rounds"` // Rounds that count, of each target.
	Floor   float64  `json:"floor"`  // Floor is the noise floor.
	Rows    []Row    `json:"rows"`   // Rows are the figures.
	// Notes say what limits the table: rounds that were left out, warnings of runs, too few rounds.
	Notes []string `json:"notes,omitempty"`
}

// Format is the version of a table's JSON.
const Format = 1

// A Row is one figure of all targets.
type Row struct {
	Figure string `json:"figure"` // Figure by its name in results.
	Unit   string `json:"unit"`   // Unit of the values.
	Better string `json:"better"` // Better is "lower" or "higher".
	About  string `json:"about"`  // About says what it is.
	Cells  []Cell `json:"cells"`  // Cells are in the order of Table.Targets.
}

// A Cell is one figure of one target. It has no values if the target lacks the figure, since it
// does not offer the feature.
type Cell struct {
	Values []float64 `json:"values,omitempty"` // Values by round.
	Median float64   `json:"median"`           // Median of the values.
	// Ratio is nil for the baseline, where no rounds can be paired, and where a value is not above 0.
	Ratio   *Ratio `json:"ratio,omitempty"`
	Verdict string `json:"verdict,omitempty"` // Verdict is "better", "worse", or "".
}

// A Ratio is that of a target to the baseline: the geometric mean of the rounds' ratios.
type Ratio struct {
	Value float64 `json:"value"` // Value of the ratio.
	Low   float64 `json:"low"`   // Low end of the interval.
	High  float64 `json:"high"`  // High end of the interval.
	Pairs int     `json:"pairs"` // Pairs is in how many rounds both have the figure.
	// Level is the confidence of the interval: 0.95 by Student's t from three rounds on. With two
	// rounds the interval is their range, widened by itself on both sides, which is about 0.8. With
	// one it is 0, and there is no interval.
	Level float64 `json:"level"`
}

// Judge makes the table. It fails if the baseline is unknown, if a name occurs twice, if a target
// has no complete run, or if the runs are of different scenarios or units. It reads c only, and any
// goroutine may call it.
//
// Its steps: it orders the targets; it leaves out rounds that are missing or partial, and notes
// them; it checks that the scenarios agree; it fills the rows; it sorts them by Order.
func Judge(c Input) (*Table, error) {
	if c.Floor == 0 {
		c.Floor = 1
	}
	if !(c.Floor >= 1) || math.IsInf(c.Floor, 0) {
		return nil, fmt.Errorf("noise floor %v: give a ratio of at least 1, such as 1.05", c.Floor)
	}
	field, err := ordered(c)
	if err != nil {
		return nil, err
	}
	t := &Table{Format: Format, Baseline: c.Baseline, Floor: c.Floor}
	rounds := make([][]*result.Run, len(field)) // nil where a round does not count
	for i, e := range field {
		t.Targets = append(t.Targets, e.Name)
		n := 0
		for k, r := range e.Runs {
			var why string
			switch {
			case r == nil:
				why = "it failed"
			case r.Partial != "":
				why = "it is partial: " + r.Partial
			}
			if why != "" {
				t.Notes = append(t.Notes, fmt.Sprintf("round %d of %s is left out: %s", k+1, e.Name, why))
				rounds[i] = append(rounds[i], nil)
				continue
			}
			if t.Scenario == "" {
				t.Scenario = r.Scenario.Name
			}
			if r.Scenario.Name != t.Scenario {
				return nil, fmt.Errorf("round %d of %s ran the scenario %q, the others %q: compare runs of one "+
					"scenario", k+1, e.Name, r.Scenario.Name, t.Scenario)
			}
			for _, w := range r.Warnings {
				t.Notes = append(t.Notes, fmt.Sprintf("round %d of %s: %s", k+1, e.Name, w))
			}
			rounds[i] = append(rounds[i], r)
			n++
		}
		if n == 0 {
			return nil, fmt.Errorf("%s has no run that ended: run the scenario against it, or leave it out", e.Name)
		}
		t.Rounds = append(t.Rounds, n)
	}
	switch least := slices.Min(t.Rounds); {
	case least == 1:
		t.Notes = append(t.Notes, "one round has no interval, and so no verdict: measure at least three rounds")
	case least == 2:
		t.Notes = append(t.Notes, "the interval of two rounds is their range, widened by itself on both "+
			"sides, and misses the truth one time in five: measure at least three rounds")
	}
	if err := t.fill(rounds); err != nil {
		return nil, err
	}
	rank := func(r Row) int {
		if i := slices.Index(c.Order, r.Figure); i >= 0 {
			return i
		}
		return len(c.Order)
	}
	slices.SortStableFunc(t.Rows, func(a, b Row) int { return cmp.Compare(rank(a), rank(b)) })
	return t, nil
}

// ordered are the targets, with the baseline first.
func ordered(c Input) ([]Target, error) {
	var field []Target
	var names []string
	for _, e := range c.Targets {
		if slices.Contains(names, e.Name) {
			return nil, fmt.Errorf("two targets are called %q: give each a name of its own", e.Name)
		}
		names = append(names, e.Name)
		if e.Name == c.Baseline {
			field = slices.Insert(field, 0, e)
		} else {
			field = append(field, e)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("nothing to compare: name the results of at least one server")
	}
	if !slices.Contains(names, c.Baseline) {
		return nil, fmt.Errorf("the baseline %q is none of %q: name one of them", c.Baseline, names)
	}
	return field, nil
}

// fill makes the rows of the rounds' figures. Each target's results are in the order of the rounds,
// nil where one is missing.
func (t *Table) fill(rounds [][]*result.Run) error {
	index := map[string]int{}
	for i := range rounds {
		for _, r := range rounds[i] {
			if r == nil {
				continue
			}
			for _, f := range r.Figures {
				k, ok := index[f.Name]
				if !ok {
					k = len(t.Rows)
					index[f.Name] = k
					t.Rows = append(t.Rows, Row{Figure: f.Name, Unit: f.Unit, Better: f.Better, About: f.About,
						Cells: make([]Cell, len(rounds))})
				}
				if t.Rows[k].Unit != f.Unit {
					return fmt.Errorf("%s is in %s for one run and in %s for another: run all of them with one "+
						"canto-bench", f.Name, t.Rows[k].Unit, f.Unit)
				}
			}
		}
	}
	for k := range t.Rows {
		row := &t.Rows[k]
		for i := range rounds {
			row.Cells[i] = t.cell(row, rounds[0], rounds[i], i > 0)
		}
	}
	return nil
}

// cell is that of the results of, compared with those of the baseline.
func (t *Table) cell(row *Row, base, of []*result.Run, ratio bool) (c Cell) {
	var logs []float64
	positive := true
	for i, r := range of {
		v, ok := value(r, row.Figure)
		if !ok {
			continue
		}
		c.Values = append(c.Values, v)
		if i >= len(base) {
			continue
		}
		if b, ok := value(base[i], row.Figure); ok {
			positive = positive && v > 0 && b > 0
			logs = append(logs, math.Log(v/b))
		}
	}
	c.Median = median(c.Values)
	if !ratio || !positive || len(logs) == 0 {
		return c
	}
	r := interval(logs)
	c.Ratio = &r
	c.Verdict = t.verdict(r, row.Better)
	return c
}

func value(r *result.Run, figure string) (float64, bool) {
	if r == nil {
		return 0, false
	}
	f, ok := r.Figure(figure)
	return f.Value, ok && !math.IsNaN(f.Value) && !math.IsInf(f.Value, 0)
}

// verdict is the verdict on r: none without an interval, if the interval has 1 in it, or within the
// noise floor.
func (t *Table) verdict(r Ratio, better string) string {
	if r.Level == 0 || r.Low <= 1 && r.High >= 1 || r.Value <= t.Floor && r.Value >= 1/t.Floor {
		return ""
	}
	switch {
	case better == "lower" && r.Value < 1, better == "higher" && r.Value > 1:
		return "better"
	case better == "lower", better == "higher":
		return "worse"
	case r.Value < 1:
		return "lower"
	}
	return "higher"
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	return s[(n-1)/2]/2 + s[n/2]/2
}

// interval is the mean of paired differences of logarithms, as a ratio.
func interval(logs []float64) Ratio {
	n := len(logs)
	sum := 0.0
	for _, l := range logs {
		sum += l
	}
	m := sum / float64(n)
	squares := 0.0
	for _, l := range logs {
		squares += (l - m) * (l - m)
	}
	var half, level float64
	switch {
	case n == 2:
		half, level = 1.5*math.Abs(logs[0]-logs[1]), 0.8
	case n > 2:
		half, level = studentT(n-1)*math.Sqrt(squares/float64(n-1)/float64(n)), 0.95
	}
	exp := func(l float64) float64 { return math.Exp(min(max(l, -700), 700)) } // JSON has no infinity
	return Ratio{Value: exp(m), Low: exp(m - half), High: exp(m + half), Pairs: n, Level: level}
}

// studentT is the 0.975 quantile of Student's t for so many degrees of freedom.
func studentT(df int) float64 {
	few := [...]float64{12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281}
	if df <= len(few) {
		return few[df-1]
	}
	// Beyond, the expansion in 1/df (Abramowitz and Stegun 26.7.5) is right to 0.0002.
	const z = 1.959964
	v, z2 := float64(df), z*z
	return z + z*(z2+1)/(4*v) + z*((5*z2+16)*z2+3)/(96*v*v) + z*(((3*z2+19)*z2+17)*z2-15)/(384*v*v*v)
}

// A Disagreement is a ratio that differs between two tables.
type Disagreement struct {
	Figure string `json:"figure"`  // Figure by name.
	Target string `json:"entrant"` // Target by name.
	A, B   Ratio  // A and B are the ratios in the two tables.
}

// String is one line for an operator.
func (d Disagreement) String() string {
	return fmt.Sprintf("%s of %s: %s in one, %s in the other", d.Figure, d.Target, d.A, d.B)
}

// String is the ratio with its interval.
func (r Ratio) String() string {
	if r.Level == 0 {
		return "×" + significant(r.Value)
	}
	return fmt.Sprintf("×%s [%s, %s]", significant(r.Value), significant(r.Low), significant(r.High))
}

// Agree returns the ratios that a and b both have, and that have intervals which do not overlap.
// Two measurements of the same servers agree if there are about as few as chance allows. Tables
// with different baselines have no ratios in common.
func Agree(a, b *Table) (all []Disagreement) {
	if a.Baseline != b.Baseline {
		return nil
	}
	for _, row := range a.Rows {
		k := slices.IndexFunc(b.Rows, func(r Row) bool { return r.Figure == row.Figure })
		if k < 0 {
			continue
		}
		for i, c := range row.Cells {
			j := slices.Index(b.Targets, a.Targets[i])
			if j < 0 || c.Ratio == nil || c.Ratio.Level == 0 {
				continue
			}
			d := b.Rows[k].Cells[j].Ratio
			if d != nil && d.Level > 0 && (c.Ratio.High < d.Low || d.High < c.Ratio.Low) {
				all = append(all, Disagreement{row.Figure, a.Targets[i], *c.Ratio, *d})
			}
		}
	}
	return all
}

// JSON writes t, for [Load].
func (t *Table) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(t)
}

// Load reads a table that JSON wrote to a file.
func Load(name string) (*Table, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("the comparison can't be read: %w", err)
	}
	t := new(Table)
	if err := json.Unmarshal(b, t); err != nil {
		return nil, fmt.Errorf("%s is not a comparison of canto-bench: %v: name the JSON that one left", name, err)
	}
	if t.Format != Format {
		return nil, fmt.Errorf("%s has format %d, and this canto-bench reads %d: compare again", name,
			t.Format, Format)
	}
	for _, r := range t.Rows {
		if len(r.Cells) != len(t.Targets) {
			return nil, fmt.Errorf("%s: %s has %d cells for %d targets: the file is damaged, compare again",
				name, r.Figure, len(r.Cells), len(t.Targets))
		}
	}
	return t, nil
}

// significant is v with three significant digits.
func significant(v float64) string {
	n := 2
	if v > 0 && !math.IsInf(v, 0) {
		n = min(max(2-int(math.Floor(math.Log10(v))), 0), 6)
	}
	return strconv.FormatFloat(v, 'f', n, 64)
}
