package plot

import (
	"fmt"
	"html"
	"strings"
)

// An SVG is a drawing under construction. Begin it with Begin or BeginFile, and close it with End.
// Coordinates are in pixels, from the top left. Text is escaped, and class names are not.
type SVG struct{ strings.Builder }

// A Point is a place in a drawing: X from the left, Y from the top.
type Point struct {
	X, Y float64 // X from the left, Y from the top
}

// Printf appends markup as it is: the caller escapes what is not its own.
func (d *SVG) Printf(format string, a ...any) { fmt.Fprintf(&d.Builder, format, a...) }

// Begin opens a drawing that stands in a page and has the page's style sheet. label is for screen readers.
func (d *SVG) Begin(width, height float64, class, label string) {
	d.Printf(`<svg viewBox="0 0 %g %g" class="%s" role="img" aria-label="%s">`,
		width, height, class, html.EscapeString(label))
}

// BeginFile opens a drawing that is a file of its own, with a style sheet.
func (d *SVG) BeginFile(width, height float64, label, css string) {
	d.Printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" `+
		`font-size="12" role="img" aria-label="%s">`+"\n<style>\n%s</style>\n",
		width, height, html.EscapeString(label), css)
}

// End closes the drawing.
func (d *SVG) End() { d.WriteString("</svg>") }

// Text writes s with its baseline at y. The class says to which side of x it goes.
func (d *SVG) Text(x, y float64, class, s string) { d.TextTitle(x, y, class, s, "") }

// TextTitle is Text with a longer text, title, that the pointer shows.
func (d *SVG) TextTitle(x, y float64, class, s, title string) {
	d.Printf(`<text x="%.1f" y="%.1f"`, x, y)
	if class != "" {
		d.Printf(` class="%s"`, class)
	}
	d.Printf(`>%s%s</text>`, html.EscapeString(s), titled(title))
}

// Rect fills a rectangle. title is what the pointer shows; "" is nothing.
func (d *SVG) Rect(x, y, width, height float64, class, title string) {
	d.Printf(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" class="%s">%s</rect>`,
		x, y, width, height, class, titled(title))
}

func titled(s string) string {
	if s == "" {
		return ""
	}
	return "<title>" + html.EscapeString(s) + "</title>"
}

// HLine draws a horizontal line from x to the x coordinate to.
func (d *SVG) HLine(class string, x, y, to float64) {
	d.Printf(`<path class="%s" d="M%.1f %.1fH%.1f"/>`, class, x, y, to)
}

// VLine draws a vertical line from y to the y coordinate to.
func (d *SVG) VLine(class string, x, y, to float64) {
	d.Printf(`<path class="%s" d="M%.1f %.1fV%.1f"/>`, class, x, y, to)
}

// Dot draws a filled circle.
func (d *SVG) Dot(class string, x, y, radius float64) {
	d.Printf(`<circle class="%s" cx="%.1f" cy="%.1f" r="%g"/>`, class, x, y, radius)
}

// Path draws a path from its data, such as that of [PathOf].
func (d *SVG) Path(class, data string) { d.Printf(`<path class="%s" d="%s"/>`, class, data) }

// PathOf is the data of a path through points.
func PathOf(points []Point) string {
	var b strings.Builder
	for i, p := range points {
		c := 'L'
		if i == 0 {
			c = 'M'
		}
		fmt.Fprintf(&b, "%c%.1f %.1f", c, p.X, p.Y)
	}
	return b.String()
}

// GridY draws a horizontal grid line for each tick of s, from left to right, and its label left of it. s runs
// from bottom to top.
func (d *SVG) GridY(s Scale, left, right, bottom, top float64) {
	for _, k := range s.Ticks {
		y := s.At(k.Value, bottom, top)
		d.HLine(gridClass(k), left, y, right)
		if k.Label != "" {
			d.Text(left-8, y+4, "end", k.Label)
		}
	}
}

// GridX draws a vertical grid line for each tick of s, from bottom to top, and its label below it.
// s runs from left to right.
func (d *SVG) GridX(s Scale, left, right, bottom, top float64) {
	for _, k := range s.Ticks {
		x := s.At(k.Value, left, right)
		d.VLine(gridClass(k), x, bottom, top)
		if k.Label != "" {
			d.Text(x, bottom+16, "mid", k.Label)
		}
	}
}

func gridClass(k Tick) string {
	if k.Label == "" {
		return "grid fine"
	}
	return "grid"
}

// SeriesClass is the class of the i-th series of a plot. There are six colours; later series are drawn thin.
func SeriesClass(i int) string {
	class := fmt.Sprintf("c%d", i%6)
	if i >= 6 {
		class += " thin"
	}
	return class
}

// BandClass is the class of the i-th of the bands that shade a plot in turn.
func BandClass(i int) string {
	if i%2 == 1 {
		return "phase odd"
	}
	return "phase"
}
