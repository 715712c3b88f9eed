package main

import (
	"fmt"
	"strings"

	"canto/bench/plot"
	"canto/xmlstream/xmlstreamtest"
)

const (
	minSize = 64
	maxSize = 64 << 10
	points  = 11 // one for each power of two
)

// sizes returns the documents of the plot: for each power of two a stanza of so many bytes that is
// one text, and then for each one that is many small elements.
func sizes() []xmlstreamtest.Document {
	const words = "Art thou not Romeo, and a Montague? Neither, fair saint, if either thee dislike. "
	fill := func(n int) string { return strings.Repeat(words, n/len(words)+1)[:n] }
	var docs []xmlstreamtest.Document
	for n := minSize; n <= maxSize; n *= 2 {
		head, tail := `<message to='a@b'><body>`, `</body></message>`
		docs = append(docs, xmlstreamtest.Document{Name: "text", XML: head + fill(n-len(head)-len(tail)) +
			tail, Elements: 2})
	}
	for n := minSize; n <= maxSize; n *= 2 {
		head, tail := `<message to='a@b'><x>`, `</x></message>`
		var b strings.Builder
		b.WriteString(head)
		elements := 2
		for i := 0; b.Len()+100+len(tail) < n; i++ {
			fmt.Fprintf(&b, `<item jid='contact%d@example.org' name='Contact %d'><group>Friends</group></item>`, i, i)
			elements += 2
		}
		b.WriteString(fill(n - b.Len() - len(tail)))
		b.WriteString(tail)
		docs = append(docs, xmlstreamtest.Document{Name: "elements", XML: b.String(), Elements: elements})
	}
	return docs
}

// css is the style sheet of the plot: it can be read on light and on dark ground. The parsers'
// classes stand in the order of the field.
const css = `text { fill: #6e7781 } .title { font-size: 14px }
.mid { text-anchor: middle } .end { text-anchor: end }
.grid { stroke: #8884; stroke-width: 1 } .line { fill: none; stroke-width: 2 }
.canto { stroke: #0969da } .expat { stroke: #1a7f37 } .libxml2 { stroke: #bc4c00 } .std { stroke: #8250df }
text.canto { fill: #0969da; stroke: none; font-weight: bold } text.expat { fill: #1a7f37; stroke: none }
text.libxml2 { fill: #bc4c00; stroke: none } text.std { fill: #8250df; stroke: none }
@media (prefers-color-scheme: dark) {
text { fill: #d1d7e0 }
.canto { stroke: #58a6ff } .expat { stroke: #56d364 } .libxml2 { stroke: #f0883e } .std { stroke: #bc8cff }
text.canto { fill: #58a6ff } text.expat { fill: #56d364 }
text.libxml2 { fill: #f0883e } text.std { fill: #bc8cff }
}
`

// drawPlot returns an SVG file with the ns per byte of the documents of [sizes], by size, on two
// logarithmic axes. It makes the scales, and draws two panels: left the documents that are one
// text, right those of many elements. Each panel has a line for each parser of field. cells are
// the measurements by document and parser.
func drawPlot(docs []xmlstreamtest.Document, field []parser, cells [][]cell) []byte {
	const (
		width, height = 860, 400
		top, bottom   = 60, 340
		panel, gap    = 340, 65 // width of a panel, and the space left of it
	)
	classes := []string{"canto", "expat", "libxml2", "std"} // in the order of the field
	x := plot.Scale{Low: minSize, High: maxSize, Log: true}
	for n := minSize; n <= maxSize; n *= 4 {
		label := fmt.Sprint(n)
		if n >= 1024 {
			label = fmt.Sprintf("%d Ki", n/1024)
		}
		x.Ticks = append(x.Ticks, plot.Tick{Value: float64(n), Label: label})
	}
	y := plot.Scale{Low: 0.05, High: 50, Log: true}
	for _, v := range []float64{0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50} {
		y.Ticks = append(y.Ticks, plot.Tick{Value: v, Label: fmt.Sprint(v)})
	}
	var d plot.SVG
	d.BeginFile(width, height, "ns per byte against stanza size for four XML parsers", css)
	for k, title := range []string{"one text, ns per byte", "many small elements, ns per byte"} {
		left := float64(gap + k*(panel+gap))
		right := left + panel
		d.Text(left, top-36, "title", title)
		d.GridY(y, left, right, bottom, top)
		d.GridX(x, left, right, bottom, top)
		d.Text(left+panel/2, bottom+40, "mid", "bytes of the stanza")
		for j, e := range field {
			line := make([]plot.Point, points)
			for i := range line {
				doc := docs[k*points+i]
				perByte := cells[k*points+i][j].best / float64(len(doc.XML))
				size := float64(len(doc.XML))
				line[i] = plot.Point{X: x.At(size, left, right), Y: y.At(perByte, bottom, top)}
			}
			above := 6.0
			if j == 0 {
				above = -15 // the line of canto is below the others
			}
			d.Path("line "+classes[j], plot.PathOf(line))
			d.Text(right-4, line[points-1].Y-above, "end "+classes[j], e.name())
		}
	}
	d.End()
	return []byte(d.String() + "\n")
}
