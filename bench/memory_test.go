package bench

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
	"unsafe"

	"canto/bench/sampler"
	"canto/bench/stub"
)

// stubProcess runs a stub in a process of its own, so that its memory is not ours.
func stubProcess(t *testing.T) Target {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "CANTO_BENCH_STUB=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var addr string
	if _, err := fmt.Sscan(line, &addr); err != nil {
		t.Fatal(err)
	}
	target := Target{Name: "stub", Domain: "localhost", Password: "bench", Insecure: true,
		PIDs: []int{cmd.Process.Pid}}
	if err := target.Addr.UnmarshalText([]byte(addr)); err != nil {
		t.Fatal(err)
	}
	return target
}

// serveStub is that process: it ends with its input.
func serveStub() {
	s, err := stub.Start(stub.Config{Mobile: true})
	if err != nil {
		panic(err)
	}
	fmt.Println(s.Addr())
	os.Stdin.Read(make([]byte, 1))
	s.Close()
}

// A plain client costs 2 kB or less of this process, its part of the runtime included.
func TestClientMemory(t *testing.T) {
	const n = 3000
	target := stubProcess(t)
	sc := scenario(t, fmt.Sprintf("name = 'memory'\n[clients]\ncount = %d\n[[phase]]\nkind = 'ramp'\n", 1000+n))
	f, err := NewFleet(sc, target, Assignment{Workers: 1}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	self, err := sampler.Self()
	if err != nil {
		t.Fatal(err)
	}
	look := func() (heap, rss int64) {
		debug.FreeOSMemory()
		time.Sleep(50 * time.Millisecond)
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		u, err := self.Usage()
		if err != nil {
			t.Fatal(err)
		}
		return int64(m.HeapAlloc), u.RSS
	}
	// The first thousand pay for histograms and pools; what the others add is a client's own. Their structs
	// are there from the beginning, and count on top.
	all := f.members("all")
	if err := f.ramp(t.Context(), 0, all[:1000], now(), Assignment{Workers: 1}); err != nil {
		t.Fatal(err)
	}
	heap0, rss0 := look()
	if err := f.ramp(t.Context(), 0, all[1000:], now(), Assignment{Workers: 1}); err != nil {
		t.Fatal(err)
	}
	heap1, rss1 := look()
	own := int64(unsafe.Sizeof(client{})) + 40 // and its place in the maps
	each := (heap1-heap0)/n + own
	t.Logf("%d bytes of heap a client, %d of RSS", each, (rss1-rss0)/n+own)
	if each > 1500 {
		t.Errorf("a client costs %d bytes of heap", each)
	}
	// What the runtime keeps on top depends on what happened before: a bound against surprises, as docs/bench.md
	// has figures of large fleets.
	if rss := (rss1-rss0)/n + own; rss > 3500 && !raceEnabled {
		t.Errorf("a client costs %d bytes of RSS", rss)
	}
}
