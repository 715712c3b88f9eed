package sampler

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/pprof"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"canto/bench/result"
)

// proc writes a /proc of its own.
type proc struct {
	t    *testing.T
	root string
}

func (p proc) write(name, text string) {
	p.t.Helper()
	f := filepath.Join(p.root, name)
	if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// process writes a process with one thread.
func (p proc) process(pid, parent, user, system, began int) {
	p.write(fmt.Sprintf("%d/stat", pid), fmt.Sprintf("%d (a (b) c) S %d 0 0 0 -1 0 0 0 0 0 %d %d 0 0 20 "+
		"0 3 0 %d 9999999 0 0 0\n", pid, parent, user, system, began))
	p.write(fmt.Sprintf("%d/task/%d/status", pid, pid),
		fmt.Sprintf("Name:\tx\nvoluntary_ctxt_switches:\t%d\nnonvoluntary_ctxt_switches:\t%d\n", user*2, system*2))
	p.write(fmt.Sprintf("%d/statm", pid), "500 100 50 1 0 60 0\n")
	p.write(fmt.Sprintf("%d/fd/0", pid), "")
	p.write(fmt.Sprintf("%d/fd/1", pid), "")
	p.write(fmt.Sprintf("%d/smaps_rollup", pid),
		"0-1 ---p 0 00:00 0 [rollup]\nRss: 400 kB\nPss: 25 kB\nPss_Dirty: 10 kB\n")
}

func (p proc) end(pid int) { os.RemoveAll(filepath.Join(p.root, fmt.Sprint(pid))) }

func usage(t *testing.T, p *Process) result.Usage {
	t.Helper()
	u, err := p.Usage()
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestUsage(t *testing.T) {
	fs := proc{t, t.TempDir()}
	fs.write("net/sockstat", "sockets: used 47\nTCP: inuse 13 orphan 0 tw 467 alloc 15 mem 62\nUDP: "+
		"inuse 0 mem 9\n")
	fs.write("meminfo", "MemTotal:       24670000 kB\nSlab:              12 kB\nSReclaimable:      4 kB\n")
	fs.process(10, 1, 150, 50, 7)
	fs.process(20, 1, 100, 0, 8)
	p, err := open(fs.root, false, []int{10, 20})
	if err != nil {
		t.Fatal(err)
	}
	page := int64(os.Getpagesize())
	want := result.Usage{CPU: 3, User: 2.5, RSS: 200 * page, FDs: 4, Threads: 6, Voluntary: 500,
		Involuntary: 100, Sockets: 62 * page, Slab: 12 << 10}
	before := usage(t, p)
	if before != want {
		t.Errorf("%+v, not %+v", before, want)
	}
	if pss, err := p.PSS(); err != nil || pss != 50<<10 {
		t.Errorf("%d, %v", pss, err)
	}
	fs.process(10, 1, 250, 50, 7)
	want.CPU, want.User, want.Voluntary, want.Involuntary = 1, 1, 200, 0
	if d := usage(t, p).Since(before); d != want {
		t.Errorf("%+v, not %+v", d, want)
	}
}

// Descriptors are not counted one by one where they are many: it costs kernel memory and time.
func TestManyDescriptors(t *testing.T) {
	fs := proc{t, t.TempDir()}
	fs.process(10, 1, 1, 1, 7)
	p, err := open(fs.root, false, []int{10})
	if err != nil {
		t.Fatal(err)
	}
	if n := usage(t, p).FDs; n != 2 {
		t.Errorf("%d descriptors, not 2", n)
	}
	for i := range maxEntries {
		fs.write(fmt.Sprintf("10/fd/%d", i), "")
	}
	if n := usage(t, p).FDs; n != 0 {
		t.Errorf("%d descriptors, where they are too many to be counted", n)
	}
	if err := os.RemoveAll(filepath.Join(fs.root, "10/fd")); err != nil {
		t.Fatal(err)
	}
	fs.write("10/fd/0", "")
	if n := usage(t, p).FDs; n != 0 {
		t.Error("they are sampled again")
	}
}

// The kernel's caches are what their pages take.
func TestSlabs(t *testing.T) {
	text := `slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : ` +
		`tunables <limit> <batchcount> <sharedfactor> : ` +
		`slabdata <active_slabs> <num_slabs> <sharedavail>
TCP                 5990   6006   2432   13    8 : tunables    0    0    0 : slabdata    462    462      0
dentry             28770  28770    192   21    1 : tunables    0    0    0 : slabdata   1370   1370      0
`
	got, err := parseSlabs([]byte(text))
	page := int64(os.Getpagesize())
	if err != nil || len(got) != 2 || got["TCP"] != 462*8*page || got["dentry"] != 1370*page {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"TCP 1 2 3\n", strings.Replace(text, "slabdata", "slab", 2),
		strings.Replace(text, "  462      0", "  x      0", 1)} {
		if got, err := parseSlabs([]byte(bad)); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

// A process that has ended is an error, and so is one whose number was given to another, and a zombie.
func TestGone(t *testing.T) {
	fs := proc{t, t.TempDir()}
	if _, err := open(fs.root, false, []int{10}); !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
	for _, end := range []func(){
		func() { fs.end(10) },
		func() { fs.process(10, 1, 1, 1, 8) },
		func() { fs.write("10/stat", "10 (x) Z 1 0 0 0 -1 0 0 0 0 0 1 1 0 0 20 0 3 0 7 0 0 0 0\n") },
	} {
		fs.process(10, 1, 1, 1, 7)
		p, err := open(fs.root, false, []int{10})
		if err != nil {
			t.Fatal(err)
		}
		end()
		if _, err := p.Usage(); !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), "10") {
			t.Errorf("%v", err)
		}
	}
	fs.write("11/stat", "nonsense")
	if _, err := open(fs.root, false, []int{11}); err == nil || errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
	if _, err := Open(); err == nil {
		t.Error("no pid is no error")
	}
}

// What a part of a tree has used still counts when it has ended.
func TestTree(t *testing.T) {
	fs := proc{t, t.TempDir()}
	fs.process(10, 1, 100, 0, 7)
	fs.process(11, 10, 200, 0, 8)
	fs.process(12, 11, 400, 0, 9)
	fs.process(13, 1, 800, 0, 9)
	p, err := open(fs.root, true, []int{10})
	if err != nil {
		t.Fatal(err)
	}
	if u := usage(t, p); u.CPU != 7 || u.Threads != 9 || u.Voluntary != 1400 ||
		fmt.Sprint(p.PIDs()) != "[10 11 12]" {
		t.Errorf("%+v of %v", u, p.PIDs())
	}
	fs.end(12)
	fs.process(11, 10, 50, 0, 10) // another one, by the same number
	if u := usage(t, p); u.CPU != 7.5 || u.Threads != 6 || u.Voluntary != 1500 {
		t.Errorf("%+v", u)
	}
	if u := usage(t, p); u.CPU != 7.5 {
		t.Errorf("%+v the second time", u)
	}
	fs.end(10)
	if _, err := p.Usage(); !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
}

func TestSelf(t *testing.T) {
	p, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	before := usage(t, p)
	for began := time.Now(); ; {
		if u := usage(t, p).Since(before); u.CPU > .05 {
			break
		}
		if time.Since(began) > 20*time.Second {
			t.Fatal("no CPU time was counted")
		}
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	u := usage(t, p)
	f.Close()
	if u.RSS < 1<<20 || u.Threads < 2 || u.FDs <= usage(t, p).FDs || u.Voluntary+u.Involuntary == 0 {
		t.Errorf("%+v", u)
	}
	if pss, err := p.PSS(); err != nil || pss < 1<<20 {
		t.Errorf("%d, %v", pss, err)
	}
}

func TestChild(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if u := usage(t, p); u.RSS == 0 || u.Threads != 1 {
		t.Errorf("%+v", u)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if _, err := p.Usage(); !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
	if _, err := p.PSS(); !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
}

func TestMachine(t *testing.T) {
	m := Machine()
	if m.CPU == "" || m.Cores < 1 || m.Memory < 64<<20 || m.OS == "" || m.Kernel == "" ||
		m.Descriptors == 0 || len(strings.Fields(m.Load)) != 3 {
		t.Errorf("%+v", m)
	}
}

func TestScrape(t *testing.T) {
	text := `# HELP canto_stanzas_total x
# TYPE canto_stanzas_total counter
canto_stanzas_total{kind="iq"} 3
canto_stanzas_total{kind="message"} 4
# TYPE canto_loop_seconds_total counter
canto_loop_seconds_total{loop="0",work="posted"} 1
canto_loop_seconds_total{loop="1",work="posted"} 2
canto_loop_seconds_total{loop="1",work="flooding"} 4
# TYPE canto_connections gauge
canto_connections 7
# TYPE canto_turn_seconds histogram
canto_turn_seconds_bucket{loop="0",le="1"} 5
canto_turn_seconds_bucket{loop="0",le="+Inf"} 6
canto_turn_seconds_sum{loop="0"} 1.5
canto_turn_seconds_count{loop="0"} 6
canto_turn_seconds_bucket{loop="1",le="+Inf"} 1
canto_turn_seconds_sum{loop="1"} 1
canto_turn_seconds_count{loop="1"} 1
# TYPE go_gc_duration_seconds summary
go_gc_duration_seconds{quantile="1"} 9
go_gc_duration_seconds_sum 2
go_gc_duration_seconds_count 3
canto_odd NaN
other_untyped 5
# EOF
`
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
		r *http.Request) {
		w.Write([]byte(text))
	}))
	defer srv.Close()
	got, err := NewScraper(srv.URL).Scrape(t.Context())
	want := map[string]float64{"canto_stanzas_total": 7, "canto_loop_seconds_total": 7,
		"canto_loop_seconds_total_posted": 3, "canto_loop_seconds_total_flooding": 4, "canto_connections": 7,
		"canto_turn_seconds_sum": 2.5, "canto_turn_seconds_count": 7, "go_gc_duration_seconds_sum": 2,
		"go_gc_duration_seconds_count": 3, "go_gc_duration_seconds_max": 9}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, %v", got, err)
	}
	got, err = NewScraper(srv.URL, "other_", "canto_conn").Scrape(t.Context())
	if err != nil || fmt.Sprint(got) != "map[canto_connections:7 other_untyped:5]" {
		t.Errorf("%v, %v", got, err)
	}
	text = "<html>no metrics"
	if _, err := NewScraper(srv.URL).Scrape(t.Context()); err == nil ||
		!strings.Contains(err.Error(), "right path") {
		t.Errorf("%v", err)
	}
}

func oneLine(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
}

func TestFetchProfile(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	srv := httptest.NewServer(mux)
	for _, kind := range []string{"heap", "allocs", "mutex", "block", "goroutine"} {
		b, err := FetchProfile(t.Context(), srv.URL, kind, 0)
		if err != nil || len(b) < 2 || b[0] != 0x1f || b[1] != 0x8b {
			t.Errorf("%s: %d bytes, %v", kind, len(b), err)
		}
	}
	began := time.Now()
	b, err := FetchProfile(t.Context(), srv.URL+"/", "trace", time.Millisecond)
	if err != nil || !strings.HasPrefix(string(b), "go 1.") || time.Since(began) < time.Second {
		t.Errorf("%.20q after %v, %v", b, time.Since(began), err)
	}
	_, err = FetchProfile(t.Context(), srv.URL, "nothing", 0)
	oneLine(t, err, "name cpu")
	_, err = FetchProfile(t.Context(), "localhost", "heap", 0)
	oneLine(t, err, "http://127.0.0.1:5290")
	_, err = FetchProfile(t.Context(), srv.URL+"/elsewhere", "heap", 0)
	oneLine(t, err, "404")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	_, err = FetchProfile(ctx, srv.URL, "heap", 0)
	oneLine(t, err, "canceled")
	srv.Close()
	_, err = FetchProfile(t.Context(), srv.URL, "heap", 0)
	oneLine(t, err, "[listen] debug on?")
}

// A collection has happened when CollectGarbage returns, whether or not the base has the path of pprof.
func TestCollectGarbage(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	for _, base := range []string{srv.URL, srv.URL + "/debug/pprof/", srv.URL + "/debug/pprof"} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := CollectGarbage(t.Context(), base)
		runtime.ReadMemStats(&after)
		if err != nil || after.NumForcedGC == before.NumForcedGC {
			t.Errorf("%s: %d collections, then %d: %v", base, before.NumForcedGC, after.NumForcedGC, err)
		}
	}
	oneLine(t, CollectGarbage(t.Context(), "localhost"), "http://127.0.0.1:5290")
	oneLine(t, CollectGarbage(t.Context(), srv.URL+"/elsewhere"), "404")
}

func TestTooMuch(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
		r *http.Request) {
		w.Write(make([]byte, 100))
	}))
	defer srv.Close()
	if b, err := get(t.Context(), client(), srv.URL, 100); err != nil || len(b) != 100 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	_, err := get(t.Context(), client(), srv.URL, 99)
	oneLine(t, err, "shorter")
}
