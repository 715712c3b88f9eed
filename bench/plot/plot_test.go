package plot

import (
	"encoding/xml"
	"io"
	"math"
	"strings"
	"testing"
)

// Values map to coordinates, and those outside of a scale to its ends.
func TestScale(t *testing.T) {
	linear, log := Scale{High: 10}, Scale{Low: 1, High: 100, Log: true}
	for _, c := range []struct {
		s       Scale
		v, want float64
	}{{linear, 5, 50}, {linear, -1, 0}, {linear, 20, 100}, {log, 10, 50}, {log, 0, 0}, {log, 1000, 100}} {
		if got := c.s.At(c.v, 0, 100); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%v at %v: %v, not %v", c.s, c.v, got, c.want)
		}
	}
}

func TestNice(t *testing.T) {
	for v, want := range map[float64]float64{0.1: 0.1, 0.3: 0.5, 1: 1, 1.1: 2, 6: 10, 101: 200} {
		if got := Nice(v); math.Abs(got-want) > 1e-12 {
			t.Errorf("%v: %v, not %v", v, got, want)
		}
	}
}

// A drawing is well-formed, whatever its texts are.
func TestSVG(t *testing.T) {
	var d SVG
	d.BeginFile(100, 100, `<a & "b">`, "text { fill: red }\n")
	d.GridY(Scale{High: 1, Ticks: []Tick{{0, "<0>"}, {.5, ""}, {1, "1"}}}, 10, 90, 90, 10)
	d.TextTitle(1, 2, "end", "a<b", "c&d")
	d.Rect(0, 0, 1, 1, BandClass(1), "<title>")
	d.Path("line "+SeriesClass(7), PathOf([]Point{{1, 2}, {3, 4}}))
	d.Dot("dot", 1, 2, 3)
	d.End()
	for x := xml.NewDecoder(strings.NewReader(d.String())); ; {
		if _, err := x.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("%v in %s", err, d.String())
		}
	}
	if want := `class="line c1 thin" d="M1.0 2.0L3.0 4.0"`; !strings.Contains(d.String(), want) {
		t.Errorf("no %s in %s", want, d.String())
	}
}
