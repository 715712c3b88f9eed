package report

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"

	"canto/bench/result"
)

// A series is one line of a plot. Its style is a class of page.css.
type series struct {
	name, style string
	area        bool // filled down to the axis
	values      []float64
}

// A panel is one plot over time.
type panel struct {
	title, about, note, unit string
	log                      bool
	height                   float64
	series                   []series
}

// A figure is a plot as the page shows it: the legend is HTML, so that it wraps.
type figure struct {
	Title, About, Note string
	Legend             []legend
	SVG                template.HTML
	Unit               string
	Panel              int // its number among those that share the time axis, from 0; -1: none of them
}

type legend struct{ Name, Style string }

// The plots over time are all as wide, so that a moment is at the same place in each.
const (
	plotWidth          = 1000.0
	plotLeft, plotEdge = 66.0, 974.0 // where the axis begins and ends
	plotTop            = 18.0        // room for the phases' names
	plotBottom         = 22.0        // room for the times
	letter             = 6.6         // width of a small letter at most, on average
)

// drawing is an SVG in the making.
type drawing struct{ strings.Builder }

func (d *drawing) printf(format string, a ...any) { fmt.Fprintf(&d.Builder, format, a...) }

// begin opens an SVG; what is not drawn by printf's verbs must have been escaped.
func (d *drawing) begin(width, height float64, class, label string) {
	d.printf(`<svg viewBox="0 0 %g %g" class="%s" role="img" aria-label="%s">`, width, height, class, html.EscapeString(label))
}

func (d *drawing) text(x, y float64, class, s string) {
	d.printf(`<text x="%.1f" y="%.1f" class="%s">%s</text>`, x, y, class, html.EscapeString(s))
}

// fit is s, cut to what a width of so many pixels holds; empty if that is too little to be of use.
func fit(s string, width float64) string {
	n := int(width / letter)
	if short, _ := cut(s, n); short == s || n >= 4 {
		return short
	}
	return ""
}

// shade draws the phases behind a plot, with their names above it where there is room.
func (t *timeAxis) shade(d *drawing, bottom float64) {
	for i, p := range t.phases {
		from, to := t.at2x(p.From), t.at2x(p.To)
		if to <= from {
			continue
		}
		class := "phase"
		if i%2 == 1 {
			class = "phase odd"
		}
		if p.Kind == "storm" {
			class += " storm"
		}
		d.printf(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" class="%s"><title>%s</title></rect>`, from, plotTop, to-from, bottom-plotTop, class,
			html.EscapeString(fmt.Sprintf("%s (%s): %s to %s", p.Name, p.Kind, clock(p.From), clock(p.To))))
		if name := fit(Clean(p.Name), to-from-2); name != "" {
			d.text((from+to)/2, plotTop-6, "mid small", name)
		}
	}
}

func (t *timeAxis) at2x(seconds float64) float64 { return t.axis.at(seconds, plotLeft, plotEdge) }

// draw is the plot of p; false if there is nothing to draw.
func (t *timeAxis) draw(p panel, number int) (figure, bool) {
	least, top, any := math.Inf(1), 0.0, false
	for _, s := range p.series {
		for _, v := range s.values {
			if !math.IsNaN(v) {
				least, top, any = min(least, v), max(top, v), true
			}
		}
	}
	if !any {
		return figure{}, false
	}
	y := linear(top, p.unit, max(int(p.height/36), 2))
	if p.log {
		y = logarithmic(least, top, p.height)
	}
	bottom := plotTop + p.height
	d := new(drawing)
	d.begin(plotWidth, bottom+plotBottom, "time", strings.TrimSpace(p.title+" "+p.about)+" over time")
	t.shade(d, bottom)
	for _, k := range y.ticks {
		at := y.at(k.v, bottom, plotTop)
		class := "grid"
		if k.label == "" {
			class = "grid fine"
		} else {
			d.text(plotLeft-8, at+4, "end", k.label)
		}
		d.printf(`<path class="%s" d="M%.1f %.1fH%.1f"/>`, class, plotLeft, at, plotEdge)
	}
	for _, k := range t.ticks {
		x := t.at2x(k.v)
		d.printf(`<path class="tick" d="M%.1f %.1fv4"/>`, x, bottom)
		d.text(x, bottom+16, "mid", k.label)
	}
	d.printf(`<path class="base" d="M%.1f %.1fH%.1f"/>`, plotLeft, bottom, plotEdge)
	f := figure{Title: p.title, About: p.about, Note: p.note, Unit: p.unit, Panel: number}
	for _, s := range p.series {
		if t.lineOf(d, s, y, bottom) {
			f.Legend = append(f.Legend, legend{s.name, s.style})
		} else {
			f.Legend = append(f.Legend, legend{s.name + " (none)", s.style})
		}
	}
	d.printf(`<path class="cross" d="M0 %.1fV%.1f" visibility="hidden"/></svg>`, plotTop, bottom)
	f.SVG = template.HTML(d.String())
	return f, true
}

// lineOf draws one series and says if it had anything; a value without neighbours is a dot.
func (t *timeAxis) lineOf(d *drawing, s series, y axis, bottom float64) bool {
	var line, area, dots strings.Builder
	for i := 0; i < len(s.values); {
		if math.IsNaN(s.values[i]) {
			i++
			continue
		}
		j := i
		for ; j < len(s.values) && !math.IsNaN(s.values[j]); j++ {
			c := "L"
			if j == i {
				c = "M"
			}
			fmt.Fprintf(&line, "%s%.1f %.1f", c, t.at2x(t.at[j]), y.at(s.values[j], bottom, plotTop))
		}
		first, last := t.at2x(t.at[i]), t.at2x(t.at[j-1])
		if j-i == 1 {
			fmt.Fprintf(&dots, `<circle class="dot %s" cx="%.1f" cy="%.1f" r="2.5"/>`, s.style, first, y.at(s.values[i], bottom, plotTop))
		} else if s.area {
			fmt.Fprintf(&area, "M%.1f %.1f", first, bottom)
			for k := i; k < j; k++ {
				fmt.Fprintf(&area, "L%.1f %.1f", t.at2x(t.at[k]), y.at(s.values[k], bottom, plotTop))
			}
			fmt.Fprintf(&area, "L%.1f %.1fZ", last, bottom)
		}
		i = j
	}
	if line.Len() == 0 {
		return false
	}
	if area.Len() > 0 {
		d.printf(`<path class="area %s" d="%s"/>`, s.style, area.String())
	}
	d.printf(`<path class="line %s" d="%s"/>%s`, s.style, line.String(), dots.String())
	return true
}

// curves are the HDR plots: one for each step's name, a line for each phase that it ran in.
func curves(r *result.Run) (all []figure) {
	for _, name := range stepNames(r) {
		var of []result.Step
		for _, s := range r.Steps {
			if s.Name == name && s.Latency != nil && s.Latency.Count() > 0 {
				of = append(of, s)
			}
		}
		if len(of) > 0 {
			all = append(all, curve(name, of))
		}
	}
	return all
}

func curve(name string, steps []result.Step) figure {
	const (
		width, height       = 520.0, 270.0
		left, right, top, b = 66.0, 490.0, 12.0, 224.0
	)
	type line struct{ x, ms []float64 }
	lines := make([]line, len(steps))
	least, highest := math.Inf(1), 0.0
	for i, s := range steps {
		// Beyond the last operation there is nothing to draw.
		end := min(math.Log10(float64(s.Latency.Count())), 5)
		l := &lines[i]
		first := 1 / float64(s.Latency.Count()) // the fastest one's share
		for x := 0.0; x < end; x += 5.0 / 160 {
			l.x, l.ms = append(l.x, x), append(l.ms, max(result.Millis(s.Latency.Quantile(max(1-math.Pow(10, -x), first))), 0.001))
		}
		last := s.Latency.Max()
		if end == 5 {
			last = s.Latency.Quantile(0.99999)
		}
		l.x, l.ms = append(l.x, end), append(l.ms, max(result.Millis(last), 0.001))
		least, highest = min(least, l.ms[0]), max(highest, l.ms[len(l.ms)-1])
	}
	x, y := percentiles(), logarithmic(least, highest, b-top)
	d := new(drawing)
	d.begin(width, height, "curve", "latency of "+name+" by percentile")
	for _, k := range y.ticks {
		at := y.at(k.v, b, top)
		class := "grid"
		if k.label == "" {
			class = "grid fine"
		} else {
			d.text(left-8, at+4, "end", k.label)
		}
		d.printf(`<path class="%s" d="M%g %.1fH%g"/>`, class, left, at, right)
	}
	for _, k := range x.ticks {
		at := x.at(k.v, left, right)
		class := "grid"
		if k.label == "" {
			class = "grid fine"
		} else {
			d.text(at, b+16, "mid", k.label)
		}
		d.printf(`<path class="%s" d="M%.1f %gV%g"/>`, class, at, b, top)
	}
	d.printf(`<path class="base" d="M%g %gH%g"/>`, left, b, right)
	d.text((left+right)/2, height-10, "mid small", "share of operations that were no slower")
	f := figure{Title: name, Panel: -1}
	for i, l := range lines {
		style := fmt.Sprintf("c%d", i%6)
		if i >= 6 {
			style += " thin"
		}
		var path strings.Builder
		for j := range l.x {
			c := "L"
			if j == 0 {
				c = "M"
			}
			fmt.Fprintf(&path, "%s%.1f %.1f", c, x.at(l.x[j], left, right), y.at(l.ms[j], b, top))
		}
		d.printf(`<path class="line %s" d="%s"/>`, style, path.String())
		if len(l.x) == 1 {
			d.printf(`<circle class="dot %s" cx="%.1f" cy="%.1f" r="2.5"/>`, style, x.at(l.x[0], left, right), y.at(l.ms[0], b, top))
		}
		f.Legend = append(f.Legend, legend{steps[i].Phase, style})
	}
	d.WriteString("</svg>")
	f.SVG = template.HTML(d.String())
	return f
}
