package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Amount is v in a unit of result.Figure (ms, us, s, bytes, 1/s, count, ratio), as a person reads it: three
// digits, and a larger or smaller unit where that is shorter. A number that is none is a dash.
func Amount(v float64, unit string) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "–"
	}
	switch unit {
	case "ms":
		return duration(v / 1e3)
	case "us":
		return duration(v / 1e6)
	case "s":
		return duration(v)
	case "bytes":
		return size(v)
	case "1/s":
		return number(v) + "/s"
	case "", "count", "ratio":
		return number(v)
	}
	return number(v) + " " + Clean(unit)
}

// digits is v with three significant digits, without zeros at the end, and plain unless it is tiny.
func digits(v float64) string {
	if v == 0 {
		return "0"
	}
	if math.Abs(v) < 1e-4 {
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	n := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	s := strconv.FormatFloat(v, 'f', min(max(n, 0), 9), 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	if s == "-0" {
		return "0"
	}
	return s
}

// number is a count with separators of thousands, or a small number with three digits.
func number(v float64) string {
	if math.Abs(v) < 999.5 {
		return digits(v)
	}
	s := strconv.FormatFloat(math.Round(math.Abs(v)), 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if v < 0 {
		return "-" + s
	}
	return s
}

func count[N int | int64 | uint64](n N) string { return number(float64(n)) }

func duration(s float64) string {
	switch a := math.Abs(s); {
	case a == 0:
		return "0 ms"
	case a < 0.9995e-3:
		return digits(s*1e6) + " µs"
	case a < 0.9995:
		return digits(s*1e3) + " ms"
	case a < 600:
		return digits(s) + " s"
	}
	return digits(s/60) + " min"
}

func latency(d time.Duration) string { return duration(d.Seconds()) }

func size(v float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; math.Abs(v) >= 999.5 && i < len(units)-1; i++ {
		v /= 1024
	}
	return digits(v) + " " + units[i]
}

// elapsed is a time of a run as minutes and seconds, with hours if there are any.
func elapsed(s float64) string {
	if math.IsNaN(s) || math.IsInf(s, 0) {
		return "–"
	}
	n := int64(math.Round(s))
	if n >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", n/3600, n/60%60, n%60)
	}
	return fmt.Sprintf("%d:%02d", n/60, n%60)
}

// Clean is s without characters that a terminal would interpret: names and errors come from
// servers. Line breaks become spaces.
func Clean(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\n' || c == '\t' || c == '\r':
			return ' '
		case !unicode.IsPrint(c):
			return '?'
		}
		return c
	}, s)
}
