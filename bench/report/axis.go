package report

import (
	"fmt"
	"math"
)

// An axis maps values to a line, from lo to hi.
type axis struct {
	lo, hi float64
	log    bool
	ticks  []tick
}

// A tick is a grid line; without a label it is a fine one.
type tick struct {
	v     float64
	label string
}

// at is where v lies between the coordinates from and to; what is outside of the axis lies at its end.
func (a axis) at(v, from, to float64) float64 {
	v = min(max(v, a.lo), a.hi)
	if a.log {
		return from + (to-from)*math.Log(v/a.lo)/math.Log(a.hi/a.lo)
	}
	return from + (to-from)*(v-a.lo)/(a.hi-a.lo)
}

// nice is the smallest of 1, 2, 5, 10, 20 ... (and tenths of them) that is not less than v.
func nice(v float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*p >= v*(1-1e-9) {
			return m * p
		}
	}
	return 10 * p
}

// linear is an axis from 0 that holds top, with about n ticks.
func linear(top float64, unit string, n int) axis {
	if !(top > 0) || math.IsInf(top, 0) {
		top = 1
	}
	scale := 1.0
	if unit == "bytes" { // steps must be round in the unit that is shown
		for scale*1024 <= top {
			scale *= 1024
		}
	}
	step := nice(top/scale/float64(n)) * scale
	if unit == "count" || unit == "1/s" || unit == "bytes" {
		step = max(step, 1)
	}
	a := axis{hi: math.Ceil(top/step*(1-1e-9)) * step}
	for i := 0; float64(i)*step <= a.hi*(1+1e-9); i++ {
		a.ticks = append(a.ticks, tick{float64(i) * step, tickLabel(float64(i)*step, a.hi, unit)})
	}
	return a
}

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
func logarithmic(least, most, height float64) axis {
	if !(least > 0) || !(most >= least) || math.IsInf(most, 0) {
		least, most = 1, 10
	}
	lo, hi := math.Floor(math.Log10(least)+1e-9), math.Ceil(math.Log10(most)-1e-9)
	if hi <= lo {
		hi = lo + 1
	}
	a := axis{lo: math.Pow(10, lo), hi: math.Pow(10, hi), log: true}
	decade := height / (hi - lo)
	every := int(math.Ceil(16 / decade)) // decades from label to label
	for d := 0; d <= int(hi-lo); d++ {
		v := math.Pow(10, lo+float64(d))
		label := ""
		if d%every == 0 {
			label = duration(v / 1e3)
		}
		a.ticks = append(a.ticks, tick{v, label})
		if d == int(hi-lo) {
			break
		}
		for _, m := range []float64{2, 5} {
			if label = ""; decade >= 60 {
				label = duration(m * v / 1e3)
			}
			if decade >= 30 {
				a.ticks = append(a.ticks, tick{m * v, label})
			}
		}
	}
	return a
}

// timeline is the axis of a run of so many seconds.
func timeline(seconds float64) axis {
	if !(seconds > 0) || math.IsInf(seconds, 0) {
		seconds = 1
	}
	step := 0.0
	for _, step = range []float64{0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400} {
		if seconds/step <= 12 {
			break
		}
	}
	for seconds/step > 12 {
		step *= 2
	}
	a := axis{hi: seconds}
	for i := 0; float64(i)*step <= seconds*(1+1e-9); i++ {
		v := float64(i) * step
		label := clock(v)
		if seconds <= 120 {
			label = fmt.Sprintf("%g s", math.Round(v*10)/10)
		}
		a.ticks = append(a.ticks, tick{v, label})
	}
	return a
}

// percentiles is the axis of an HDR plot: log10(1/(1-q)), so that each nine is as wide as the last.
func percentiles() axis {
	a := axis{hi: 5}
	for _, p := range []float64{0, 50, 75, 90, 99, 99.9, 99.99, 99.999} {
		label := fmt.Sprintf("%g%%", p)
		if p == 75 {
			label = ""
		}
		a.ticks = append(a.ticks, tick{nines(p / 100), label})
	}
	return a
}

func nines(q float64) float64 { return min(-math.Log10(max(1-q, 1e-12)), 5) }
