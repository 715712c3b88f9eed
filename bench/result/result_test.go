package result

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"
)

func TestHistogramSurvivesJSON(t *testing.T) {
	h := NewHistogram()
	for i := range 1000 {
		h.Record(time.Duration(i) * time.Millisecond)
	}
	h.Record(3 * time.Hour)
	b, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var g Histogram
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	if g.Count() != 1001 || g.Quantile(.5) != h.Quantile(.5) || g.Max() != h.Max() ||
		g.Over(100*time.Millisecond) != 900 {
		t.Errorf("%d recorded, median %v, longest %v, %d over 100 ms", g.Count(), g.Quantile(.5), g.Max(),
			g.Over(100*time.Millisecond))
	}
	g.Add(h)
	if g.Count() != 2002 {
		t.Errorf("%d after adding", g.Count())
	}
	empty, err := json.Marshal(NewHistogram())
	if err != nil || !bytes.Contains(empty, []byte(`"count":0`)) {
		t.Errorf("%s, %v", empty, err)
	}
}
