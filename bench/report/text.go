package report

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"canto/bench/result"
)

// Text writes a plain summary of r for a terminal: a heading, warnings, a table of the steps, one
// of the phases, and the failures. Text from servers is written without control characters. It
// reads r only, and any goroutine may call it.
func Text(w io.Writer, r *result.Run) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s against %s", Clean(r.Scenario.Name), Clean(r.Target.Name))
	if s := strings.TrimSpace(r.Target.Software + " " + r.Target.Version); s != "" {
		fmt.Fprintf(&b, " (%s)", Clean(s))
	}
	fmt.Fprintf(&b, ": %s sessions, %s", count(r.Sessions), length(r.Seconds))
	for _, s := range []string{r.Target.TLS, r.Target.Mechanism} {
		if s != "" {
			b.WriteString(", " + Clean(s))
		}
	}
	b.WriteString("\n")
	if r.Partial != "" {
		fmt.Fprintf(&b, "PARTIAL: %s\n", Clean(r.Partial))
	}
	for _, s := range r.Warnings {
		fmt.Fprintf(&b, "WARNING: %s\n", Clean(s))
	}
	if len(r.Steps) > 0 {
		t := table{left: 2, rows: [][]string{{"phase", "step", "done/s", "p50", "p99", "p99.9", "max", "lost",
			"twice", "swapped", "failed", "wrong", "late"}}}
		for _, s := range r.Steps {
			row := newStepRow(r, s)
			t.rows = append(t.rows, []string{Clean(s.Phase), Clean(s.Name), row.Rate, row.P50, row.P99, row.P999,
				row.Max, count(s.Lost), count(s.Duplicated), count(s.Reordered), count(s.Failed),
				count(s.Wrong), row.LateShare})
		}
		b.WriteString("\n" + t.String())
	}
	if len(r.Phases) > 0 {
		t := table{left: 2, rows: [][]string{{"phase", "kind", "length", "sessions", "server cores",
			"server RSS", "client cores"}}}
		for _, p := range r.Phases {
			row := newPhaseRow(p)
			t.rows = append(t.rows, []string{Clean(p.Name), Clean(p.Kind), row.Length, count(p.Sessions),
				row.Server, row.RSS, row.Client})
		}
		b.WriteString("\n" + t.String())
	}
	if len(r.Refusals) > 0 {
		b.WriteString("\n")
		for _, f := range r.Refusals {
			fmt.Fprintf(&b, "%s × %s: %s\n", count(f.Count), Clean(f.What), Clean(f.Remedy))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Table is rows of aligned text; the first left columns are words, the others numbers.
func Table(left int, rows [][]string) string { return table{left: left, rows: rows}.String() }

// A table is aligned text; the first columns are words, the others numbers.
type table struct {
	left int
	rows [][]string
}

// String aligns the columns: words to the left, numbers to the right.
func (t table) String() string {
	var wide []int
	for _, row := range t.rows {
		for i, c := range row {
			if i == len(wide) {
				wide = append(wide, 0)
			}
			wide[i] = max(wide[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for _, row := range t.rows {
		var line strings.Builder
		for i, c := range row {
			pad := strings.Repeat(" ", wide[i]-utf8.RuneCountInString(c))
			if i > 0 {
				line.WriteString("  ")
			}
			if i < t.left {
				line.WriteString(c + pad)
			} else {
				line.WriteString(pad + c)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}
