package report

import (
	"fmt"
	"math"

	"canto/bench/plot"
)

// linear is a scale from 0 that has top in it, with about n ticks.
func linear(top float64, unit string, n int) plot.Scale {
	if !(top > 0) || math.IsInf(top, 0) {
		top = 1
	}
	scale := 1.0
	if unit == "bytes" { // steps must be round in the unit that is shown
		for scale*1024 <= top {
			scale *= 1024
		}
	}
	step := plot.Nice(top/scale/float64(n)) * scale
	if unit == "count" || unit == "1/s" || unit == "bytes" {
		step = max(step, 1)
	}
	a := plot.Scale{High: math.Ceil(top/step*(1-1e-9)) * step}
	for i := 0; float64(i)*step <= a.High*(1+1e-9); i++ {
		a.Ticks = append(a.Ticks, plot.Tick{Value: float64(i) * step,
			Label: tickLabel(float64(i)*step, a.High, unit)})
	}
	return a
}

// tickLabel is the label of the tick at v on a scale that ends at top.
func tickLabel(v, top float64, unit string) string {
	switch {
	case v == 0:
		return "0"
	case unit == "bytes":
		return size(v)
	case top >= 1e13:
		return digits(v/1e12) + " T"
	case top >= 1e10:
		return digits(v/1e9) + " G"
	case top >= 1e7:
		return digits(v/1e6) + " M"
	case top >= 1e5:
		return digits(v/1e3) + " k"
	}
	return number(v)
}

// logarithmic is an axis of latencies in ms that holds least and most, in whole decades, for a height of
// so many pixels.
func logarithmic(least, most, height float64) plot.Scale {
	if !(least > 0) || !(most >= least) || math.IsInf(most, 0) {
		least, most = 1, 10
	}
	lo, hi := math.Floor(math.Log10(least)+1e-9), math.Ceil(math.Log10(most)-1e-9)
	if hi <= lo {
		hi = lo + 1
	}
	a := plot.Scale{Low: math.Pow(10, lo), High: math.Pow(10, hi), Log: true}
	decade := height / (hi - lo)
	every := int(math.Ceil(16 / decade)) // decades from label to label
	for d := 0; d <= int(hi-lo); d++ {
		v := math.Pow(10, lo+float64(d))
		label := ""
		if d%every == 0 {
			label = duration(v / 1e3)
		}
		a.Ticks = append(a.Ticks, plot.Tick{Value: v, Label: label})
		if d == int(hi-lo) {
			break
		}
		for _, m := range []float64{2, 5} {
			if label = ""; decade >= 60 {
				label = duration(m * v / 1e3)
			}
			if decade >= 30 {
				a.Ticks = append(a.Ticks, plot.Tick{Value: m * v, Label: label})
			}
		}
	}
	return a
}

// timeline is the axis of a run of so many seconds.
func timeline(seconds float64) plot.Scale {
	if !(seconds > 0) || math.IsInf(seconds, 0) {
		seconds = 1
	}
	step := 0.0
	for _, step = range []float64{0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600,
		7200, 14400, 43200, 86400} {
		if seconds/step <= 12 {
			break
		}
	}
	for seconds/step > 12 {
		step *= 2
	}
	a := plot.Scale{High: seconds}
	for i := 0; float64(i)*step <= seconds*(1+1e-9); i++ {
		v := float64(i) * step
		label := elapsed(v)
		if seconds <= 120 {
			label = fmt.Sprintf("%g s", math.Round(v*10)/10)
		}
		a.Ticks = append(a.Ticks, plot.Tick{Value: v, Label: label})
	}
	return a
}

// percentiles is the axis of an HDR plot: log10(1/(1-q)), so that each nine is as wide as the last.
func percentiles() plot.Scale {
	a := plot.Scale{High: 5}
	for _, p := range []float64{0, 50, 75, 90, 99, 99.9, 99.99, 99.999} {
		label := fmt.Sprintf("%g%%", p)
		if p == 75 {
			label = ""
		}
		a.Ticks = append(a.Ticks, plot.Tick{Value: nines(p / 100), Label: label})
	}
	return a
}

func nines(q float64) float64 { return min(-math.Log10(max(1-q, 1e-12)), 5) }
