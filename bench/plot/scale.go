// Package plot draws plots as SVG: for the page of a run (bench/report), for the page of a comparison
// (bench/compare) and for the tokenizer's figures (bench/xmlbench).
//
// A [Scale] maps values to coordinates and has the ticks of an axis. An [SVG] is a drawing under
// construction: its methods append grid lines, lines, marks and text. Colours and line widths are
// classes of the style sheet: that of the page, or the one that [SVG.BeginFile] embeds. Labels and
// units are the caller's.
package plot

import "math"

// A Scale maps the values from Low to High to a line, linearly or by logarithm.
type Scale struct {
	Low, High float64 // with Log both are above 0
	Log       bool    // the scale is logarithmic
	Ticks     []Tick  // grid lines, in any order
}

// A Tick is a grid line at Value. Without a Label it is a fine one.
type Tick struct {
	Value float64 // where the grid line is
	Label string  // its text
}

// At is where v lies between the coordinates from and to. A value outside of the scale lies at its end.
func (s Scale) At(v, from, to float64) float64 {
	v = min(max(v, s.Low), s.High)
	if s.Log {
		return from + (to-from)*math.Log(v/s.Low)/math.Log(s.High/s.Low)
	}
	return from + (to-from)*(v-s.Low)/(s.High-s.Low)
}

// Nice is the smallest of 1, 2, 5, 10, 20 and so on, and of their tenths, that is not less than v.
func Nice(v float64) float64 {
	const rounding = 1e-9 // so that 0.1*10 is not above 1
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*p >= v*(1-rounding) {
			return m * p
		}
	}
	return 10 * p
}
