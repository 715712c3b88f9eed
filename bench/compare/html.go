package compare

import (
	_ "embed"
	"fmt"
	"html"
	"html/template"
	"io"
	"math"
	"strings"

	"canto/bench/report"
)

//go:embed page.html
var pageHTML string

// HTML writes t as one page that needs nothing else: a plot of the ratios with their intervals, and all
// medians.
func (t *Table) HTML(w io.Writer) error {
	p, err := template.New("page").Parse(pageHTML)
	if err != nil {
		return err
	}
	type cell struct {
		Median, Ratio, Verdict string
		Base                   bool
	}
	type row struct {
		Figure, About string
		Cells         []cell
	}
	d := struct {
		*Table
		CSS      template.CSS
		Legend   string
		Headings []string
		Keys     []key
		Plots    []plot
		Lines    []row
	}{Table: t, CSS: report.CSS(), Legend: t.legend(), Headings: t.headings()}
	for i, e := range t.Entrants[1:] {
		d.Keys = append(d.Keys, key{e, style(i)})
	}
	for _, better := range []string{"lower", "higher", ""} {
		if p, ok := t.plot(better); ok {
			d.Plots = append(d.Plots, p)
		}
	}
	for _, r := range t.Rows {
		l := row{Figure: r.Figure, About: r.About}
		for i, c := range r.Cells {
			k := cell{Median: absent, Verdict: c.Verdict, Base: i == 0}
			if len(c.Values) > 0 {
				k.Median = report.Amount(c.Median, r.Unit)
			}
			if c.Ratio != nil {
				k.Ratio = c.Ratio.String()
			}
			l.Cells = append(l.Cells, k)
		}
		d.Lines = append(d.Lines, l)
	}
	return p.Execute(w, d)
}

type key struct{ Name, Style string }

type plot struct {
	Title string
	SVG   template.HTML
}

func style(i int) string { return fmt.Sprintf("c%d", i%6) }

const (
	plotWidth         = 1000.0
	plotLeft, plotEnd = 250.0, 800.0
	rowHeight         = 17.0
	letter            = 6.8 // width of a letter, on average
)

// plot is the ratios of the figures of which less, or more, is better.
func (t *Table) plot(better string) (plot, bool) {
	var rows []Row
	low, high := 1/1.6, 1.6
	for _, r := range t.Rows {
		some := false
		for _, c := range r.Cells {
			if c.Ratio != nil {
				some = true
				low, high = min(low, c.Ratio.Low), max(high, c.Ratio.High)
			}
		}
		if some && (r.Better == better || better == "" && r.Better != "lower" && r.Better != "higher") {
			rows = append(rows, r)
		}
	}
	if len(rows) == 0 {
		return plot{}, false
	}
	// An interval that is no help must not squeeze the others: beyond, it is drawn to the edge.
	low, high = math.Log(max(low, 0.01)/1.05), math.Log(min(high, 100)*1.05)
	x := func(v float64) float64 {
		return plotLeft + (plotEnd-plotLeft)*(min(max(math.Log(v), low), high)-low)/(high-low)
	}
	per := rowHeight*float64(len(t.Entrants)-1) + 10
	const top = 30.0
	bottom := top + per*float64(len(rows))
	var b strings.Builder
	title := map[string]string{"lower": "Lower is better", "higher": "Higher is better", "": "Neither is better"}[better]
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" class="time" role="img" aria-label="%s: ratio to %s">`, plotWidth, bottom+30, title, html.EscapeString(t.Baseline))
	for i := range rows {
		class := "phase"
		if i%2 == 1 {
			class = "phase odd"
		}
		fmt.Fprintf(&b, `<rect x="0" y="%.1f" width="%g" height="%.1f" class="%s"/>`, top+per*float64(i), plotWidth, per, class)
	}
	last := math.Inf(-1)
	for _, v := range []float64{.01, .02, .05, .1, .2, .5, .75, 1, 1.5, 2, 5, 10, 20, 50, 100} {
		if l := math.Log(v); l < low || l > high {
			continue
		}
		at := x(v)
		class := "grid"
		if v == 1 {
			class = "base"
		}
		fmt.Fprintf(&b, `<path class="%s" d="M%.1f %gV%.1f"/>`, class, at, top, bottom)
		if v == 1 || at-last > 34 && math.Abs(at-x(1)) > 34 {
			fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" class="mid">×%g</text>`, at, bottom+16, v)
			last = at
		}
	}
	switch better {
	case "lower":
		fmt.Fprintf(&b, `<text x="%.1f" y="%g" class="end">← better</text><text x="%.1f" y="%g">worse →</text>`, x(1)-8, top-10, x(1)+8, top-10)
	case "higher":
		fmt.Fprintf(&b, `<text x="%.1f" y="%g" class="end">← worse</text><text x="%.1f" y="%g">better →</text>`, x(1)-8, top-10, x(1)+8, top-10)
	}
	for i, r := range rows {
		mid := top + per*(float64(i)+.5)
		fmt.Fprintf(&b, `<text x="%g" y="%.1f" class="end">%s<title>%s</title></text>`, plotLeft-10, mid+4, html.EscapeString(fit(report.Clean(r.Figure), plotLeft-16)), html.EscapeString(r.Figure+": "+r.About))
		for k, c := range r.Cells[1:] {
			y := top + per*float64(i) + 5 + rowHeight*(float64(k)+.5)
			if c.Ratio == nil {
				continue
			}
			fmt.Fprintf(&b, `<path class="line %s" d="M%.1f %.1fH%.1f"/>`, style(k), x(c.Ratio.Low), y, x(c.Ratio.High))
			// A filled mark has a verdict.
			fill := "dot"
			if c.Verdict == "" {
				fill = "ring"
			}
			fmt.Fprintf(&b, `<circle class="%s %s" cx="%.1f" cy="%.1f" r="4"/>`, fill, style(k), x(c.Ratio.Value), y)
			fmt.Fprintf(&b, `<text x="%g" y="%.1f">%s</text>`, plotEnd+12, y+4, html.EscapeString(strings.TrimSpace(c.Ratio.String()+" "+c.Verdict)))
		}
	}
	b.WriteString("</svg>")
	return plot{title, template.HTML(b.String())}, true
}

// fit is s, cut to what so many pixels hold. What sets figures apart is at both ends, so the middle goes.
func fit(s string, width float64) string {
	r := []rune(s)
	n := int(width / letter)
	if len(r) <= n {
		return s
	}
	return string(r[:n/2-1]) + "…" + string(r[len(r)-(n-n/2):])
}
