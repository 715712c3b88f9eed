package sampler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const (
	maxMetrics = 16 << 20
	maxProfile = 256 << 20
	// grace is how long an answer may take beyond the length of the profile.
	grace = 15 * time.Second
)

// client connects to a server directly, without a proxy of the environment.
func client() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableCompression: true,
		IdleConnTimeout: 10 * time.Second, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}}
}

// A Scraper reads the metrics of a server in Prometheus's text format. For one goroutine at a time.
type Scraper struct {
	url  string
	pick []string
	c    *http.Client
}

// DefaultPick are prefixes of the most useful metrics of Canto.
func DefaultPick() []string {
	return []string{"canto_",
		"go_gc_cycles_total", "go_gc_duration_seconds", "go_gc_pauses_seconds",
		"go_gc_heap_allocs_bytes_total", "go_gc_heap_allocs_objects_total", "go_gc_heap_goal_bytes",
		"go_gc_heap_live_bytes",
		"go_gc_heap_objects", "go_gc_scan_total_bytes", "go_cpu_classes_", "go_sched_latencies_seconds",
		"go_sched_pauses_", "go_memstats_heap_inuse_bytes", "go_memstats_heap_released_bytes",
		"go_memstats_stack_inuse_bytes", "go_memstats_sys_bytes",
		"go_goroutines", "go_threads", "process_cpu_seconds_total", "process_open_fds",
		"process_resident_memory_bytes"}
}

// NewScraper scrapes a URL (http://127.0.0.1:5290/metrics) and picks the metrics that begin with
// one of pick; with none, with [DefaultPick]. "" picks all.
func NewScraper(url string, pick ...string) *Scraper {
	if len(pick) == 0 {
		pick = DefaultPick()
	}
	return &Scraper{url: url, pick: pick, c: client()}
}

// Scrape is the metrics at this moment, each summed over its labels: counters and gauges by their
// names, a counter with a label "work" by each kind, too, as <name>_<kind>, histograms and
// summaries as <name>_count and <name>_sum, and a summary's largest, where it tells it, as
// <name>_max. Values that are no numbers are left out.
func (s *Scraper) Scrape(ctx context.Context) (map[string]float64, error) {
	ctx, stop := context.WithTimeout(ctx, grace)
	defer stop()
	b, err := get(ctx, s.c, s.url, maxMetrics)
	if err != nil {
		return nil, fmt.Errorf("no metrics: %w", err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(b)))
	if err != nil {
		return nil, fmt.Errorf("no metrics: %s did not answer in Prometheus's text format (%s): is this the "+
			"right path?", s.url, strings.TrimSpace(err.Error()))
	}
	sums := map[string]float64{}
	for name, f := range families {
		for _, m := range f.Metric {
			s.add(sums, name, m)
		}
	}
	for name, v := range sums {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			delete(sums, name) // JSON has neither
		}
	}
	return sums, nil
}

func (s *Scraper) add(sums map[string]float64, name string, m *dto.Metric) {
	put := func(name string, v float64) {
		if slices.ContainsFunc(s.pick, func(p string) bool { return strings.HasPrefix(name, p) }) {
			sums[name] += v
		}
	}
	switch {
	case m.Counter != nil:
		put(name, m.Counter.GetValue())
		for _, l := range m.Label {
			if l.GetName() == "work" {
				put(name+"_"+l.GetValue(), m.Counter.GetValue())
			}
		}
	case m.Gauge != nil:
		put(name, m.Gauge.GetValue())
	case m.Untyped != nil:
		put(name, m.Untyped.GetValue())
	case m.Histogram != nil:
		put(name+"_count", float64(m.Histogram.GetSampleCount()))
		put(name+"_sum", m.Histogram.GetSampleSum())
	case m.Summary != nil:
		put(name+"_count", float64(m.Summary.GetSampleCount()))
		put(name+"_sum", m.Summary.GetSampleSum())
		for _, q := range m.Summary.Quantile {
			if q.GetQuantile() == 1 {
				put(name+"_max", q.GetValue())
			}
		}
	}
}

// FetchProfile fetches a profile of net/http/pprof from a server whose debug listener is at base
// (http://127.0.0.1:5290). kind is cpu, heap, allocs, mutex, block, goroutine or trace. cpu and
// trace cover the next d, in whole seconds; the others cover the next d if d is over 0, and
// the time since the process began if it is 0. It returns after d.
func FetchProfile(ctx context.Context, base, kind string, d time.Duration) ([]byte, error) {
	path := kind
	switch kind {
	case "cpu":
		path = "profile"
	case "heap", "allocs", "mutex", "block", "goroutine", "trace":
	default:
		return nil,
			fmt.Errorf("there is no profile %q: name cpu, heap, allocs, mutex, block, goroutine or trace", kind)
	}
	u, err := url.Parse(base)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return nil, fmt.Errorf("%q is not the address of a debug listener: name one like "+
			"http://127.0.0.1:5290", base)
	}
	u = u.JoinPath("debug/pprof", path)
	if seconds := int((d + time.Second - 1) / time.Second); seconds > 0 || kind == "cpu" || kind == "trace" {
		seconds = max(seconds, 1)
		d = time.Duration(seconds) * time.Second
		u.RawQuery = "seconds=" + strconv.Itoa(seconds)
	}
	ctx, stop := context.WithTimeout(ctx, d+grace)
	defer stop()
	c := client()
	defer c.CloseIdleConnections()
	b, err := get(ctx, c, u.String(), maxProfile)
	if err != nil {
		return nil, fmt.Errorf("no %s profile: %w", kind, err)
	}
	return b, nil
}

// CollectGarbage makes a Go program collect its garbage, whose /debug/pprof/ of net/http/pprof is at base. It
// returns when that is done.
func CollectGarbage(ctx context.Context, base string) error {
	u, err := url.Parse(base)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return fmt.Errorf("%q is not the address of a debug listener: name one like http://127.0.0.1:5290", base)
	}
	if u.Path = strings.TrimSuffix(u.Path, "/"); !strings.HasSuffix(u.Path, "/debug/pprof") {
		u = u.JoinPath("debug/pprof")
	}
	u = u.JoinPath("heap")
	u.RawQuery = "gc=1"
	ctx, stop := context.WithTimeout(ctx, grace)
	defer stop()
	c := client()
	defer c.CloseIdleConnections()
	if _, err := get(ctx, c, u.String(), maxProfile); err != nil {
		return fmt.Errorf("no collection: %w", err)
	}
	return nil
}

// get is the body of an answer with status 200.
func get(ctx context.Context, c *http.Client, u string, most int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, fmt.Errorf("%q is not a URL: %v", u, err)
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4, */*;q=0.5")
	resp, err := c.Do(req)
	if err != nil {
		var e *url.Error
		if errors.As(err, &e) {
			err = e.Err // the URL stands in front
		}
		return nil, fmt.Errorf("%s: %v: is the server up, and [listen] debug on?", u, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	switch {
	case resp.StatusCode != http.StatusOK:
		why, _, _ := strings.Cut(strings.TrimSpace(string(b[:min(len(b), 200)])), "\n")
		return nil, fmt.Errorf("%s: %s (%s): is this the debug listener, and is no other profile running?", u,
			resp.Status, why)
	case err != nil:
		return nil, fmt.Errorf("%s: %v: did the server end?", u, err)
	case int64(len(b)) > most:
		return nil, fmt.Errorf("%s: more than %d MiB: ask for a shorter time", u, most>>20)
	}
	return b, nil
}
