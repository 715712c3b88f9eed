package result

import (
	"encoding/json"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Histogram keeps latencies from 1 µs to an hour with three digits, in HdrHistogram's form, so that
// those of many workers and seconds add up without loss. Longer durations count as an hour. For one
// goroutine at a time.
type Histogram struct{ h *hdrhistogram.Histogram }

const longest = int64(time.Hour / time.Microsecond)

// NewHistogram is empty.
func NewHistogram() *Histogram { return &Histogram{hdrhistogram.New(1, longest, 3)} }

// Record adds one latency.
func (h *Histogram) Record(d time.Duration) { h.RecordN(d, 1) }

// RecordN adds n equal ones.
func (h *Histogram) RecordN(d time.Duration, n int64) {
	h.h.RecordValues(min(max(int64(d/time.Microsecond), 0), longest), n)
}

// Add adds all of o, which may be nil.
func (h *Histogram) Add(o *Histogram) {
	if o != nil {
		h.h.Merge(o.h)
	}
}

// Reset empties it.
func (h *Histogram) Reset() { h.h.Reset() }

// Count is how many were recorded.
func (h *Histogram) Count() int64 { return h.h.TotalCount() }

// Quantile is the latency that a share q, 0 to 1, does not pass; 0 if there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h == nil || h.h.TotalCount() == 0 {
		return 0
	}
	return time.Duration(h.h.ValueAtQuantile(q*100)) * time.Microsecond
}

// Max is the longest.
func (h *Histogram) Max() time.Duration {
	if h == nil || h.h.TotalCount() == 0 {
		return 0
	}
	return time.Duration(h.h.Max()) * time.Microsecond
}

// Mean is the average.
func (h *Histogram) Mean() time.Duration {
	if h == nil || h.h.TotalCount() == 0 {
		return 0
	}
	return time.Duration(h.h.Mean() * float64(time.Microsecond))
}

// Over is how many are longer than d, to three digits of d.
func (h *Histogram) Over(d time.Duration) (n int64) {
	us := int64(d / time.Microsecond)
	for _, b := range h.h.Distribution() {
		if b.From > us {
			n += b.Count
		}
	}
	return n
}

// A Point is one of a percentile curve.
type Point struct {
	Quantile float64       // 0 to 1
	Latency  time.Duration // Latency at Quantile.
}

// Curve is the percentile curve, finer and finer towards 1, as HDR plots draw it.
func (h *Histogram) Curve() (c []Point) {
	if h == nil || h.h.TotalCount() == 0 {
		return nil
	}
	for _, b := range h.h.CumulativeDistribution() {
		c = append(c, Point{b.Quantile / 100, time.Duration(b.ValueAt) * time.Microsecond})
	}
	return c
}

// A histogramJSON is the JSON of a Histogram.
type histogramJSON struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	P9999 float64 `json:"p9999_ms"`
	Max   float64 `json:"max_ms"`
	HDR   string  `json:"hdr,omitempty"` // HdrHistogram V2, compressed, base64; µs
}

// Millis is d in ms.
func Millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// MarshalJSON writes the percentiles for people, and all of it in HdrHistogram's own form.
func (h *Histogram) MarshalJSON() ([]byte, error) {
	j := histogramJSON{Count: h.Count(), Mean: Millis(h.Mean()), P50: Millis(h.Quantile(.5)),
		P90: Millis(h.Quantile(.9)), P99: Millis(h.Quantile(.99)),
		P999: Millis(h.Quantile(.999)), P9999: Millis(h.Quantile(.9999)), Max: Millis(h.Max())}
	if j.Count > 0 {
		b, err := h.h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
		if err != nil {
			return nil, err
		}
		j.HDR = string(b)
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (h *Histogram) UnmarshalJSON(b []byte) error {
	var j histogramJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*h = *NewHistogram()
	if j.HDR == "" {
		return nil
	}
	d, err := hdrhistogram.Decode([]byte(j.HDR))
	if err != nil {
		return err
	}
	h.h.Merge(d)
	return nil
}
