package report

import (
	"fmt"
	"html/template"
	"math"
	"strings"

	"canto/bench/plot"
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

// A legend is an entry of a plot's legend.
type legend struct{ Name, Style string }

// The plots over time are all as wide, so that a moment is at the same place in each.
const (
	plotWidth          = 1000.0
	plotLeft, plotEdge = 66.0, 974.0 // where the axis begins and ends
	plotTop            = 18.0        // room for the phases' names
	plotBottom         = 22.0        // room for the times
	letter             = 6.6         // width of a small letter at most, on average
)

// fit is s, cut to what a width of so many pixels holds; "" if that is too little to be of use.
func fit(s string, width float64) string {
	n := int(width / letter)
	if short, _ := cut(s, n); short == s || n >= 4 {
		return short
	}
	return ""
}

// shade draws a band for each phase, and its name above the plot if there is room.
func (t *timeAxis) shade(d *plot.SVG, bottom float64) {
	for i, p := range t.phases {
		from, to := t.at2x(p.From), t.at2x(p.To)
		if to <= from {
			continue
		}
		class := plot.BandClass(i)
		if p.Kind == "storm" {
			class += " storm"
		}
		title := fmt.Sprintf("%s (%s): %s to %s", p.Name, p.Kind, elapsed(p.From), elapsed(p.To))
		d.Rect(from, plotTop, to-from, bottom-plotTop, class, title)
		if name := fit(Clean(p.Name), to-from-2); name != "" {
			d.Text((from+to)/2, plotTop-6, "mid small", name)
		}
	}
}

func (t *timeAxis) at2x(seconds float64) float64 { return t.scale.At(seconds, plotLeft, plotEdge) }

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
	d := new(plot.SVG)
	d.Begin(plotWidth, bottom+plotBottom, "time", strings.TrimSpace(p.title+" "+p.about)+" over time")
	t.shade(d, bottom)
	d.GridY(y, plotLeft, plotEdge, bottom, plotTop)
	for _, k := range t.scale.Ticks {
		x := t.at2x(k.Value)
		d.Printf(`<path class="tick" d="M%.1f %.1fv4"/>`, x, bottom)
		d.Text(x, bottom+16, "mid", k.Label)
	}
	d.HLine("base", plotLeft, bottom, plotEdge)
	f := figure{Title: p.title, About: p.about, Note: p.note, Unit: p.unit, Panel: number}
	for _, s := range p.series {
		if t.lineOf(d, s, y, bottom) {
			f.Legend = append(f.Legend, legend{s.name, s.style})
		} else {
			f.Legend = append(f.Legend, legend{s.name + " (none)", s.style})
		}
	}
	d.Printf(`<path class="cross" d="M0 %.1fV%.1f" visibility="hidden"/></svg>`, plotTop, bottom)
	f.SVG = template.HTML(d.String())
	return f, true
}

// lineOf draws one series, and reports whether it has values. A value without neighbours is a dot.
func (t *timeAxis) lineOf(d *plot.SVG, s series, y plot.Scale, bottom float64) bool {
	var line, area strings.Builder
	var dots []plot.Point
	for i := 0; i < len(s.values); {
		if math.IsNaN(s.values[i]) {
			i++
			continue
		}
		var run []plot.Point // of values without a gap
		for ; i < len(s.values) && !math.IsNaN(s.values[i]); i++ {
			run = append(run, plot.Point{X: t.at2x(t.at[i]), Y: y.At(s.values[i], bottom, plotTop)})
		}
		line.WriteString(plot.PathOf(run))
		if len(run) == 1 {
			dots = append(dots, run[0])
		} else if s.area {
			first, last := run[0].X, run[len(run)-1].X
			outline := append([]plot.Point{{X: first, Y: bottom}}, run...)
			area.WriteString(plot.PathOf(append(outline, plot.Point{X: last, Y: bottom})) + "Z")
		}
	}
	if line.Len() == 0 {
		return false
	}
	if area.Len() > 0 {
		d.Path("area "+s.style, area.String())
	}
	d.Path("line "+s.style, line.String())
	for _, p := range dots {
		d.Dot("dot "+s.style, p.X, p.Y, 2.5)
	}
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

// curve plots the latencies of a step by percentile, with a line for each phase. It computes the
// points of each line up to the last operation, finds the scale, and draws grid, lines and labels.
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
			l.x, l.ms = append(l.x, x), append(l.ms, max(result.Millis(s.Latency.Quantile(max(1-math.Pow(10, -x),
				first))), 0.001))
		}
		last := s.Latency.Max()
		if end == 5 {
			last = s.Latency.Quantile(0.99999)
		}
		l.x, l.ms = append(l.x, end), append(l.ms, max(result.Millis(last), 0.001))
		least, highest = min(least, l.ms[0]), max(highest, l.ms[len(l.ms)-1])
	}
	x, y := percentiles(), logarithmic(least, highest, b-top)
	d := new(plot.SVG)
	d.Begin(width, height, "curve", "latency of "+name+" by percentile")
	d.GridY(y, left, right, b, top)
	d.GridX(x, left, right, b, top)
	d.HLine("base", left, b, right)
	d.Text((left+right)/2, height-10, "mid small", "share of operations that were no slower")
	f := figure{Title: name, Panel: -1}
	for i, l := range lines {
		style := plot.SeriesClass(i)
		points := make([]plot.Point, len(l.x))
		for j := range l.x {
			points[j] = plot.Point{X: x.At(l.x[j], left, right), Y: y.At(l.ms[j], b, top)}
		}
		d.Path("line "+style, plot.PathOf(points))
		if len(points) == 1 {
			d.Dot("dot "+style, points[0].X, points[0].Y, 2.5)
		}
		f.Legend = append(f.Legend, legend{steps[i].Phase, style})
	}
	d.End()
	f.SVG = template.HTML(d.String())
	return f
}
