package main

import (
	"fmt"
	"math"
	"strings"

	"canto/xmlstream/xmlstreamtest"
)

const (
	minSize = 64
	maxSize = 64 << 10
	points  = 11 // one for each power of two
)

// sizes returns the documents of the plot: for each power of two a stanza of so many bytes that is one text, and then
// for each one that is many small elements.
func sizes() []xmlstreamtest.Document {
	const words = "Art thou not Romeo, and a Montague? Neither, fair saint, if either thee dislike. "
	fill := func(n int) string { return strings.Repeat(words, n/len(words)+1)[:n] }
	var docs []xmlstreamtest.Document
	for n := minSize; n <= maxSize; n *= 2 {
		head, tail := `<message to='a@b'><body>`, `</body></message>`
		docs = append(docs, xmlstreamtest.Document{Name: "text", XML: head + fill(n-len(head)-len(tail)) + tail, Elements: 2})
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

// plot draws ns per byte of [sizes], both axes logarithmic, so that it can be read on light and on dark ground.
func plot(docs []xmlstreamtest.Document, field []entrant, cells [][]cell) []byte {
	const (
		width, height = 860, 400
		top, bottom   = 60, 340
		panel, gap    = 340, 65 // width of a panel, and what is left of it
		low, high     = 0.05, 50.0
	)
	colors := []string{"canto", "expat", "libxml2", "std"} // classes, in the order of the field
	x := func(left int, size int) float64 {
		return float64(left) + panel*math.Log2(float64(size)/minSize)/math.Log2(maxSize/minSize)
	}
	y := func(v float64) float64 {
		v = min(max(v, low), high)
		return bottom - (bottom-top)*math.Log(v/low)/math.Log(high/low)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" role="img" aria-label="ns per byte against stanza size for four XML parsers">
<style>
text { fill: #6e7781 } .grid { stroke: #8884; stroke-width: 1 } .line { fill: none; stroke-width: 2 }
.canto { stroke: #0969da } .expat { stroke: #1a7f37 } .libxml2 { stroke: #bc4c00 } .std { stroke: #8250df }
text.canto { fill: #0969da; stroke: none; font-weight: bold } text.expat { fill: #1a7f37; stroke: none } text.libxml2 { fill: #bc4c00; stroke: none } text.std { fill: #8250df; stroke: none }
@media (prefers-color-scheme: dark) {
text { fill: #d1d7e0 }
.canto { stroke: #58a6ff } .expat { stroke: #56d364 } .libxml2 { stroke: #f0883e } .std { stroke: #bc8cff }
text.canto { fill: #58a6ff } text.expat { fill: #56d364 } text.libxml2 { fill: #f0883e } text.std { fill: #bc8cff }
}
</style>
`, width, height)
	for k, title := range []string{"one text, ns per byte", "many small elements, ns per byte"} {
		left := gap + k*(panel+gap)
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" font-size=\"14\">%s</text>\n", left, top-36, title)
		for _, v := range []float64{0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50} {
			fmt.Fprintf(&b, "<path class=\"grid\" d=\"M%d %.1fh%d\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", left, y(v), panel, left-6, y(v)+4, v)
		}
		for n := minSize; n <= maxSize; n *= 4 {
			label := fmt.Sprint(n)
			if n >= 1024 {
				label = fmt.Sprintf("%d Ki", n/1024)
			}
			fmt.Fprintf(&b, "<path class=\"grid\" d=\"M%.1f %dv%d\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", x(left, n), top, bottom-top, x(left, n), bottom+18, label)
		}
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">bytes of the stanza</text>\n", left+panel/2, bottom+40)
		for j, c := range field {
			var line strings.Builder
			var lastY float64
			for i := range points {
				d := docs[k*points+i]
				lastY = y(cells[k*points+i][j].best / float64(len(d.XML)))
				fmt.Fprintf(&line, "%s%.1f %.1f", string("ML"[min(i, 1)]), x(left, len(d.XML)), lastY)
			}
			above := 6.0
			if j == 0 {
				above = -15 // ours is below the others
			}
			fmt.Fprintf(&b, "<path class=\"line %s\" d=\"%s\"/><text class=\"%s\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", colors[j], line.String(), colors[j], left+panel-4, lastY-above, c.name())
		}
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}
