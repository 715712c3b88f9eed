package flame

import (
	"bytes"
	"fmt"
	"io"
	"runtime/pprof"
	"strings"
	"testing"

	"github.com/google/pprof/profile"

	"canto/xmlstream"
)

// build makes a profile of stacks, outermost function first, with a count and a time each.
func build(t *testing.T, stacks map[string][2]int64) []byte {
	t.Helper()
	p := &profile.Profile{SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"},
		{Type: "cpu", Unit: "nanoseconds"}},
		PeriodType: &profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, Period: 1}
	locations := map[string]*profile.Location{}
	for s, v := range stacks {
		sample := &profile.Sample{Value: []int64{v[0], v[1]}}
		for f := range strings.SplitSeq(s, ";") {
			l := locations[f]
			if l == nil {
				fn := &profile.Function{ID: uint64(len(p.Function) + 1), Name: f}
				p.Function = append(p.Function, fn)
				l = &profile.Location{ID: fn.ID, Address: fn.ID, Line: []profile.Line{{Function: fn}}}
				p.Location = append(p.Location, l)
				locations[f] = l
			}
			sample.Location = append([]*profile.Location{l}, sample.Location...)
		}
		p.Sample = append(p.Sample, sample)
	}
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestModule(t *testing.T) {
	for name, want := range map[string]string{
		"canto/session/mod/presence.(*module).broadcast":                          "mod/presence",
		"canto/session/mod/presence.Load.func1":                                   "mod/presence",
		"canto/session.(*Router).Route":                                           "session",
		"canto/session/c2s.(*door).OnData":                                        "session/c2s",
		"canto/session/store/codec.Encode":                                        "session/store",
		"canto/session/store.get[go.shape.struct { canto/session/jid.a string }]": "session/store",
		"canto/reactor/buf.(*Pool).Get":                                           "reactor",
		"canto/xmlstream.(*Parser).Stanza":                                        "xmlstream",
		"canto/xmlstream.AppendText[go.shape.[]uint8]":                            "xmlstream",
		"main.(*server).run":                                                      "cmd",
		"canto/cmd/internal/running.Run":                                          "cmd",
		"github.com/cockroachdb/pebble/v2.(*DB).Apply":                            "pebble",
		"github.com/cockroachdb/swiss.(*Map[go.shape.uint64,x]).Get":              "pebble",
		"github.com/panjf2000/gnet/v2.(*eventloop).run":                           "gnet",
		"runtime.gcBgMarkWorker.func2":                                            "runtime GC",
		"runtime.scanobject":                                                      "runtime GC",
		"runtime.(*mspan).sweep":                                                  "runtime GC",
		"runtime.mallocgc":                                                        "runtime",
		"runtime.gopark":                                                          "runtime",
		"sync.(*Mutex).Lock":                                                      "runtime",
		"memeqbody":                                                               "runtime",
		"type:.eq.canto/session/jid.JID":                                          "runtime",
		"runtime.futex":                                                           "syscall",
		"internal/runtime/syscall.Syscall6":                                       "syscall",
		"golang.org/x/sys/unix.EpollWait":                                         "syscall",
		"crypto/internal/fips140/sha256.blockSHANI":                               "crypto",
		"cryptography.F":                                                          "other",
		"net/http.(*Server).Serve":                                                "other",
		"cantor.F":                                                                "other",
	} {
		if got := Module(name); got != want {
			t.Errorf("%s is of %s, not %s", name, got, want)
		}
	}
}

var talk = map[string][2]int64{
	"canto/reactor.(*Loop).run;canto/session.(*Router).Route;canto/session/mod/presence.(*module).tell;" +
		"runtime.mallocgc": {1, 10},
	"canto/reactor.(*Loop).run;canto/session.(*Router).Route;canto/session/mod/presence.(*module).tell;" +
		"canto/session/mod/presence.(*set).add": {2, 20},
	"canto/reactor.(*Loop).run;canto/xmlstream.(*Parser).Stanza":     {4, 40},
	"canto/reactor.(*Loop).run;syscall.Syscall":                      {8, 80},
	"github.com/cockroachdb/pebble/v2.(*DB).compact;runtime.memmove": {16, 160},
	"runtime.gcBgMarkWorker;runtime.systemstack;runtime.memmove":     {32, 320},
	"runtime.mstart;runtime.findRunnable;runtime.futex":              {64, 640},
	"runtime.mstart;runtime.schedule":                                {128, 1280},
}

func flats(costs []Cost) map[string][2]int64 {
	m := map[string][2]int64{}
	for _, c := range costs {
		m[c.Module] = [2]int64{c.Flat, c.Cum}
	}
	return m
}

func TestCosts(t *testing.T) {
	costs, err := Costs(build(t, talk), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][2]int64{
		"mod/presence": {30, 30}, "xmlstream": {40, 40}, "reactor": {80, 150}, "session": {0, 30},
		"pebble":     {160, 160},
		"runtime GC": {320, 320}, "syscall": {640, 720}, "runtime": {1280, 10 + 160 + 320 + 640 + 1280},
	}
	if got := flats(costs); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, not %v", got, want)
	}
	var sum int64
	for i, c := range costs {
		sum += c.Flat
		if c.Total != 2550 || c.Unit != "nanoseconds" || i > 0 && c.Flat > costs[i-1].Flat {
			t.Errorf("%+v", c)
		}
	}
	if sum != 2550 {
		t.Errorf("the parts are %d", sum)
	}
	var b strings.Builder
	if err := Table(&b, costs); err != nil {
		t.Fatal(err)
	}
	if want := "mod/presence         30 ns    1.2%         30 ns    1.2%\n"; !strings.Contains(b.String(),
		want) {
		t.Errorf("%s", b.String())
	}
}

// Without a function of Canto's, the innermost that is not the runtime's is charged.
func TestChargedTo(t *testing.T) {
	for stack, want := range map[string]string{
		"net/http.F;crypto/tls.G;runtime.memmove":               "crypto",
		"crypto/tls.G;net/http.F;runtime.gcAssistAlloc":         "other",
		"crypto/tls.G;canto/session.F;net/http.F;syscall.Write": "session",
		"runtime.main;runtime.gcStart;runtime.futex":            "runtime GC",
	} {
		costs, err := Costs(build(t, map[string][2]int64{stack: {1, 1}}), nil)
		if err != nil || costs[0].Module != want || costs[0].Flat != 1 {
			t.Errorf("%s: %+v, %v", stack, costs, err)
		}
	}
}

func TestCostsOfAnotherTypeAndClassifier(t *testing.T) {
	costs, err := CostsOf(build(t, talk), Option{Sample: "samples"}, func(string) string { return "all" })
	if err != nil || len(costs) != 1 || costs[0] != (Cost{"all", 255, 255, 255, "count"}) {
		t.Errorf("%+v, %v", costs, err)
	}
	_, err = CostsOf(build(t, talk), Option{Sample: "alloc_space"}, nil)
	if err == nil || !strings.Contains(err.Error(), "samples, cpu") {
		t.Errorf("%v", err)
	}
}

func TestSubtract(t *testing.T) {
	now := build(t, map[string][2]int64{"canto/reactor.A": {5, 50}, "canto/xmlstream.B": {1, 10},
		"canto/session.C": {3, 30}})
	base := build(t, map[string][2]int64{"canto/reactor.A": {2, 20}, "canto/xmlstream.B": {4, 40},
		"canto/session.C": {3, 30}})
	costs, err := CostsOf(now, Option{Base: base}, nil)
	want := map[string][2]int64{"reactor": {30, 30}, "xmlstream": {-30, -30}}
	if got := flats(costs); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, %v", got, err)
	}
	var b strings.Builder
	if err := SVG(&b, now, Option{Base: base}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "reactor.A") || strings.Contains(b.String(), "xmlstream.B") ||
		!strings.Contains(b.String(), "cpu, 30 ns") {
		t.Errorf("%s", b.String())
	}
}

// A box is one of a drawing.
type box struct {
	x, y, width float64
	title       string
}

// draw gives the boxes of an SVG, which must be well-formed.
func draw(t *testing.T, prof []byte, opt Option) (map[string]box, string) {
	t.Helper()
	var b bytes.Buffer
	if err := SVG(&b, prof, opt); err != nil {
		t.Fatal(err)
	}
	e, err := xmlstream.Parse(b.Bytes())
	if err != nil {
		t.Fatalf("%v: %s", err, b.String())
	}
	const ns = "http://www.w3.org/2000/svg"
	g, ok := e.Child(xmlstream.N(ns, "g"))
	if !ok {
		t.Fatalf("no boxes: %s", b.String())
	}
	boxes := map[string]box{}
	for c, ok := g.First(); ok; c, ok = c.Next() {
		var x box
		number := func(name string) (v float64) {
			a, _ := c.Attr(xmlstream.N("", name))
			fmt.Sscan(string(a), &v)
			return v
		}
		x.x, x.y, x.width = number("x"), number("y"), number("width")
		title, _ := c.Child(xmlstream.N(ns, "title"))
		x.title = string(title.Text())
		name, _, _ := strings.Cut(x.title, "\n")
		boxes[name] = x
	}
	return boxes, b.String()
}

func TestSVG(t *testing.T) {
	boxes, text := draw(t, build(t, map[string][2]int64{
		"canto/reactor.run;canto/session.F[a<b>];runtime.mallocgc": {1, 250},
		"canto/reactor.run;canto/session.F[a<b>]":                  {1, 250},
		"canto/reactor.run;syscall.Write":                          {1, 300},
		"canto/reactor.run;tiny.F":                                 {1, 0},
		"main.main":                                                {1, 200},
	}), Option{Title: "a & b", Width: 1020})
	for name, want := range map[string]box{
		"all":                   {10, 44, 1000, "1.00 µs, 100.00 %"},
		"canto/reactor.run":     {10, 61, 800, "800 ns, 80.00 %, reactor"},
		"main.main":             {810, 61, 200, "200 ns, 20.00 %, cmd"},
		"canto/session.F[a<b>]": {10, 78, 500, "500 ns, 50.00 %, session"},
		"syscall.Write":         {510, 78, 300, "300 ns, 30.00 %, syscall"},
		"runtime.mallocgc":      {10, 95, 250, "250 ns, 25.00 %, runtime"},
	} {
		want.title = name + "\n" + want.title
		if boxes[name] != want {
			t.Errorf("%+v, not %+v", boxes[name], want)
		}
	}
	if len(boxes) != 6 {
		t.Errorf("%d boxes", len(boxes))
	}
	for _, want := range []string{"a &amp; b (cpu, 1.00 µs)", ">session 25.00 %<", ">reactor 0",
		"session.F[a&lt;b&gt;]", "width='1020'"} {
		if strings.Contains(text, want) != (want != ">reactor 0") {
			t.Errorf("%q: %s", want, text)
		}
	}
}

// What is narrower than can be seen is left out, with all below it.
func TestTinyBoxes(t *testing.T) {
	boxes, _ := draw(t, build(t, map[string][2]int64{"wide.F": {1, 100_000}, "tiny.F;tiny.G": {1, 10},
		"narrow.F": {1, 50}}), Option{})
	if _, ok := boxes["narrow.F"]; !ok || len(boxes) != 3 {
		t.Errorf("%v", boxes)
	}
}

func TestNoSamples(t *testing.T) {
	boxes, text := draw(t, build(t, nil), Option{})
	if len(boxes) != 0 || !strings.Contains(text, "no samples") {
		t.Errorf("%s", text)
	}
	if costs, err := Costs(build(t, nil), nil); err != nil || len(costs) != 0 {
		t.Errorf("%v, %v", costs, err)
	}
}

func TestNoProfile(t *testing.T) {
	for _, b := range []string{"", "<html>"} {
		if err := SVG(io.Discard, []byte(b), Option{}); err == nil ||
			!strings.Contains(err.Error(), "/debug/pprof/") {
			t.Errorf("%q: %v", b, err)
		}
	}
	if err := SVG(io.Discard, build(t, talk), Option{Base: []byte("x")}); err == nil ||
		!strings.Contains(err.Error(), "subtracted") {
		t.Errorf("%v", err)
	}
}

// The profiles of the runtime have defaults of their own.
func TestDefaultSample(t *testing.T) {
	for name, want := range map[string]string{"heap": "inuse_space, ", "allocs": "alloc_space, ",
		"mutex": "delay, ", "goroutine": "goroutine, "} {
		var b, out bytes.Buffer
		if err := pprof.Lookup(name).WriteTo(&b, 0); err != nil {
			t.Fatal(err)
		}
		if err := SVG(&out, b.Bytes(), Option{}); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v, %.600s", name, err, out.String())
		}
	}
}

func TestAmount(t *testing.T) {
	for want, v := range map[string]struct {
		v    int64
		unit string
	}{"1.50 s": {15e8, "nanoseconds"}, "999 ns": {999, "nanoseconds"}, "1.00 KiB": {1024, "bytes"},
		"-2.00 MiB": {-2 << 20, "bytes"}, "7": {7, "count"}, "0 B": {0, "bytes"}} {
		if got := amount(v.v, v.unit); got != want {
			t.Errorf("%s, not %s", got, want)
		}
	}
}

// A module always has the same colour, and those side by side in most profiles have different ones.
func TestColours(t *testing.T) {
	seen := map[string]string{}
	for _, m := range []string{"mod/presence", "mod/message", "mod/iq", "mod/roster", "mod/saslauth",
		"session", "session/store", "session/c2s", "session/jid", "session/sasl", "reactor", "xmlstream",
		"runtime", "runtime GC", "syscall", "pebble", "gnet", "crypto", "other", "cmd"} {
		c := colour(m)
		if was, ok := seen[c]; ok || c != colour(m) {
			t.Errorf("%s has the colour of %s", m, was)
		}
		seen[c] = m
	}
}
