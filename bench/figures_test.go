package bench

import (
	"math"
	"testing"

	"canto/bench/result"
)

// The garbage collector's shares are those of the phase. The longest pause and the size of the cache
// are those at the phase's end.
func TestServerFigures(t *testing.T) {
	at := func(phase string, total, idle, gc, assist, pause, cache float64) result.Sample {
		return result.Sample{Phase: phase, Metrics: map[string]float64{
			"go_cpu_classes_total_cpu_seconds_total": total, "go_cpu_classes_idle_cpu_seconds_total": idle,
			"go_cpu_classes_gc_total_cpu_seconds_total":       gc,
			"go_cpu_classes_gc_mark_assist_cpu_seconds_total": assist, "go_gc_duration_seconds_max": pause,
			"canto_store_cache_bytes": cache}}
	}
	r := &result.Run{Samples: []result.Sample{
		at("ramp", 1, 0, .5, 0, .001, 10), at("ramp", 3, 1, .6, .1, .002, 20), {Phase: "talk"},
		at("talk", 5, 2, .7, .15, .004, 30), at("talk", 13, 6, 1.2, .2, .005, 40), {Phase: "silent"}}}
	for _, x := range []struct {
		phase string
		want  map[string]float64
	}{
		{"ramp", map[string]float64{"gc_share": .1, "gc_assist_share": .1, "gc_pause_max_ms": 2,
			"store_cache_bytes": 20}},
		// from the end of ramp
		{"talk", map[string]float64{"gc_share": .12, "gc_assist_share": .02, "gc_pause_max_ms": 5,
			"store_cache_bytes": 40}},
		{"silent", nil},
	} {
		got := serverFigures(r, result.Phase{Name: x.phase})
		if len(got) != len(x.want) {
			t.Errorf("%s: %+v", x.phase, got)
		}
		for _, f := range got {
			if w := x.want[f.Name[len(x.phase)+1:]]; math.Abs(f.Value-w) > 1e-9 {
				t.Errorf("%s is %v, not %v", f.Name, f.Value, w)
			}
		}
	}
}
