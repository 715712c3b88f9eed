package compare

import (
	"fmt"
	"html"
	"io"
	"strings"
	"unicode/utf8"

	"canto/bench/report"
)

// absent stands where a target has no such figure.
const absent = "–"

// show is a cell in a few words.
func (t *Table) show(row Row, i int) string {
	c := row.Cells[i]
	if len(c.Values) == 0 {
		return absent
	}
	s := report.Amount(c.Median, row.Unit)
	if c.Ratio != nil {
		s += "  " + c.Ratio.String()
	}
	if c.Verdict != "" {
		s += " " + c.Verdict
	}
	return s
}

// headings are the targets' names with their rounds.
func (t *Table) headings() (h []string) {
	for i, e := range t.Targets {
		s := fmt.Sprintf("%s (%d rounds)", report.Clean(e), t.Rounds[i])
		if t.Rounds[i] == 1 {
			s = report.Clean(e) + " (1 round)"
		}
		h = append(h, s)
	}
	return h
}

// legend says how to read the cells.
func (t *Table) legend() string {
	s := "Medians, and the ratio to " + report.Clean(t.Baseline) +
		" with its confidence interval (95 % from three rounds on), paired by round. A verdict stands where " +
		"the interval excludes 1"
	if t.Floor > 1 {
		s += fmt.Sprintf(" and the ratio is beyond %s", significant(t.Floor))
	}
	return s + "; one in twenty intervals misses the truth. " + absent + ": not offered."
}

// Text writes t as an aligned table for a terminal.
func (t *Table) Text(w io.Writer) error {
	rows := [][]string{append([]string{"figure"}, t.headings()...)}
	for _, r := range t.Rows {
		line := []string{report.Clean(r.Figure)}
		for i := range r.Cells {
			line = append(line, t.show(r, i))
		}
		rows = append(rows, line)
	}
	wide := make([]int, len(rows[0]))
	for _, r := range rows {
		for i, c := range r {
			wide[i] = max(wide[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for _, r := range rows {
		line := ""
		for i, c := range r {
			line += c + strings.Repeat(" ", wide[i]-utf8.RuneCountInString(c)+3)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	b.WriteString("\n" + t.legend() + "\n")
	for _, n := range t.Notes {
		b.WriteString("note: " + report.Clean(n) + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Markdown writes t as a table of Markdown.
func (t *Table) Markdown(w io.Writer) error {
	// Characters that have a meaning in a table's cell or in HTML.
	escape := func(s string) string {
		s = html.EscapeString(report.Clean(s))
		return strings.NewReplacer(`\`, `\\`, "|", `\|`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]",
			`\]`).Replace(s)
	}
	var b strings.Builder
	b.WriteString("| figure |")
	for _, h := range t.headings() {
		b.WriteString(" " + escape(h) + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(t.Targets)) + "\n")
	for _, r := range t.Rows {
		b.WriteString("| " + escape(r.Figure) + " |")
		for i, c := range r.Cells {
			s := escape(t.show(r, i))
			if c.Verdict != "" {
				s = "**" + s + "**"
			}
			b.WriteString(" " + s + " |")
		}
		b.WriteString("\n")
	}
	b.WriteString("\n" + escape(t.legend()) + "\n")
	for _, n := range t.Notes {
		b.WriteString("\n- " + escape(n))
	}
	if len(t.Notes) > 0 {
		b.WriteString("\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
