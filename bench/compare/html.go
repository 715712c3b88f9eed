package compare

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"

	"canto/bench/plot"
	"canto/bench/report"
)

//go:embed page.html
var pageHTML string

// HTML writes t as a page that needs no other file: plots of the ratios with their intervals, and
// all medians.
//
// It fills the template page.html: the targets with their colours, a plot for figures of which
// lower is better and one for higher, and the rows of the table.
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
		Plots    []figure
		Lines    []row
	}{Table: t, CSS: report.CSS(), Legend: t.legend(), Headings: t.headings()}
	for i, e := range t.Targets[1:] {
		d.Keys = append(d.Keys, key{e, plot.SeriesClass(i)})
	}
	for _, better := range []string{"lower", "higher", ""} {
		if p, ok := t.draw(better); ok {
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

// A key is an entry of the page's legend.
type key struct{ Name, Style string }

// A figure is a plot with its title.
type figure struct {
	Title string
	SVG   template.HTML
}

const (
	plotWidth         = 1000.0
	plotLeft, plotEnd = 250.0, 800.0
	rowHeight         = 17.0
	labelWidth        = 34.0 // of a label of the axis
	letter            = 6.8  // width of a letter, on average
)

// draw plots the ratios of the figures of which lower, or higher, is better. ok is false if there
// are none.
//
// It finds the range of the ratios, from a hundredth to a hundred at most; it draws bands, grid and
// labels; it draws each figure's name, and for each target a line for the interval and a mark for
// the ratio.
func (t *Table) draw(better string) (figure, bool) {
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
		return figure{}, false
	}
	// An interval that is no help must not squeeze the others: beyond, it is drawn to the edge.
	scale := plot.Scale{Low: max(low, 0.01) / 1.05, High: min(high, 100) * 1.05, Log: true}
	x := func(v float64) float64 { return scale.At(v, plotLeft, plotEnd) }
	per := rowHeight*float64(len(t.Targets)-1) + 10
	const top = 30.0
	bottom := top + per*float64(len(rows))
	var d plot.SVG
	title := map[string]string{"lower": "Lower is better", "higher": "Higher is better",
		"": "Neither is better"}[better]
	d.Begin(plotWidth, bottom+30, "time", title+": ratio to "+t.Baseline)
	for i := range rows {
		d.Rect(0, top+per*float64(i), plotWidth, per, plot.BandClass(i), "")
	}
	last := math.Inf(-1)
	for _, v := range []float64{.01, .02, .05, .1, .2, .5, .75, 1, 1.5, 2, 5, 10, 20, 50, 100} {
		if v < scale.Low || v > scale.High {
			continue
		}
		at := x(v)
		class := "grid"
		if v == 1 {
			class = "base"
		}
		d.VLine(class, at, top, bottom)
		if v == 1 || at-last > labelWidth && math.Abs(at-x(1)) > labelWidth {
			d.Text(at, bottom+16, "mid", fmt.Sprintf("×%g", v))
			last = at
		}
	}
	switch better {
	case "lower":
		d.Text(x(1)-8, top-10, "end", "← better")
		d.Text(x(1)+8, top-10, "", "worse →")
	case "higher":
		d.Text(x(1)-8, top-10, "end", "← worse")
		d.Text(x(1)+8, top-10, "", "better →")
	}
	for i, r := range rows {
		mid := top + per*(float64(i)+.5)
		d.TextTitle(plotLeft-10, mid+4, "end", fit(report.Clean(r.Figure), plotLeft-16), r.Figure+": "+r.About)
		for k, c := range r.Cells[1:] {
			y := top + per*float64(i) + 5 + rowHeight*(float64(k)+.5)
			if c.Ratio == nil {
				continue
			}
			d.HLine("line "+plot.SeriesClass(k), x(c.Ratio.Low), y, x(c.Ratio.High))
			mark := "dot" // a filled mark has a verdict
			if c.Verdict == "" {
				mark = "ring"
			}
			d.Dot(mark+" "+plot.SeriesClass(k), x(c.Ratio.Value), y, 4)
			d.Text(plotEnd+12, y+4, "", strings.TrimSpace(c.Ratio.String()+" "+c.Verdict))
		}
	}
	d.End()
	return figure{title, template.HTML(d.String())}, true
}

// fit is s, cut to what a width of so many pixels holds. Names of figures differ at both ends, so
// the middle is left out.
func fit(s string, width float64) string {
	r := []rune(s)
	n := int(width / letter)
	if len(r) <= n {
		return s
	}
	return string(r[:n/2-1]) + "…" + string(r[len(r)-(n-n/2):])
}
