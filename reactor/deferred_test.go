package reactor

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"canto/reactor/buf"
)

// resting is a counting engine with timers that fire when the test says so.
type resting struct {
	counting
	rests []time.Duration
	wake  func()
}

func (e *resting) AfterFunc(d time.Duration, f func()) bool {
	e.rests = append(e.rests, d)
	e.wake = f
	return true
}

// grinder is a handler that needs some time for each delivery, and consumes one byte of it.
type grinder struct {
	quiet
	now    *time.Time
	took   time.Duration
	flood  bool
	served []string
}

func (g *grinder) OnData(c *Conn, p []byte) int {
	g.served = append(g.served, c.HandlerState.(string))
	*g.now = g.now.Add(g.took)
	if g.flood {
		c.MarkOverRate()
	}
	c.Pause()
	return 1
}

func (g *grinder) OnClose(*Conn, error) {}

// switched is a connection that knows whether it is read.
type switched struct {
	sink
	reads bool
}

func (s *switched) SetRead(on bool) { s.reads = on }
func (s *switched) Reading() bool   { return s.reads }

// A deferredTest is a loop with connections that polls when the test says so.
type deferredTest struct {
	*testing.T
	e     *resting
	l     *Loop
	g     *grinder
	conns []*Conn
}

func newDeferredTest(t *testing.T, n int, took time.Duration, flood bool) *deferredTest {
	now := time.Unix(1e9, 0)
	e := &resting{}
	r, err := New(Config{Loops: 1, backend: e, Clock: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.ownWorkers.close() })
	lt := &deferredTest{t, e, r.Loops()[0], &grinder{now: &now, took: took, flood: flood}, nil}
	for i := range n {
		c := &Conn{loop: lt.l, sock: &switched{reads: true}, endpoint: &endpoint{handler: lt.g}, flags: flagOpened,
			HandlerState: fmt.Sprint(i)}
		lt.l.addConn(c)
		lt.l.connCount.Add(1)
		lt.conns = append(lt.conns, c)
	}
	return lt
}

// arrive delivers p to c, as the engine does after a read.
func (lt *deferredTest) arrive(c *Conn, p string) { c.onTraffic([]byte(p)) }

// turn is a turn after a poll.
func (lt *deferredTest) turn() {
	lt.l.pollCompleted = true
	lt.l.turn()
}

func (lt *deferredTest) served(what string, want ...string) {
	lt.Helper()
	if !slices.Equal(lt.g.served, want) {
		lt.Errorf("%s: %q were served, not %q", what, lt.g.served, want)
	}
	lt.g.served = nil
}

// Connections in the deferred-input queue are served for 250 µs after each poll, in the order in
// which they were resumed.
func TestDeferredInTurn(t *testing.T) {
	lt := newDeferredTest(t, 7, 100*time.Microsecond, false)
	for _, c := range lt.conns {
		lt.arrive(c, "abc")
	}
	lt.served("as it came", "0", "1", "2", "3", "4", "5", "6")
	for _, c := range lt.conns {
		c.Resume()
		c.Pause()
		c.Resume() // it is there once all the same
	}
	if n := len(lt.l.deferred.conns); n != 7 {
		t.Errorf("%d are in the queue", n)
	}
	asked := lt.e.asked
	lt.l.turn()
	lt.served("a turn without a poll before it")
	lt.turn()
	lt.served("a slice", "0", "1", "2")
	if lt.e.asked == asked {
		t.Error("no other turn was asked for")
	}
	lt.conns[0].Resume()
	lt.conns[3].Pause()
	lt.conns[4].Close(nil)
	lt.l.flush()
	lt.turn()
	lt.served("the next slice, where one is paused and one has closed", "5", "6", "0")
	lt.turn()
	lt.served("all are through")
	lt.conns[3].Resume()
	lt.turn()
	lt.served("the one that was paused", "3")
	if len(lt.l.deferred.conns) != 0 {
		t.Errorf("%d are left in the queue", len(lt.l.deferred.conns))
	}
}

// Connections over their rate are served one at a time, and after each the queue is throttled for
// five times as long as it was served.
func TestDeferredThrottledAfterOverRate(t *testing.T) {
	lt := newDeferredTest(t, 3, 200*time.Microsecond, true)
	lt.arrive(lt.conns[0], "abc")
	lt.arrive(lt.conns[1], "a") // it takes all of this
	lt.arrive(lt.conns[2], "abc")
	lt.g.served = nil
	if len(lt.e.rests) != 1 || lt.e.rests[0] != time.Millisecond {
		t.Errorf("after a connection over its rate the queue is throttled for %v", lt.e.rests)
	}
	for _, c := range lt.conns {
		c.Resume()
	}
	one := lt.conns[1].sock.(*switched)
	lt.turn()
	lt.served("while it rests")
	over := func() {
		lt.e.wake()
		lt.l.turn()
	}
	over()
	lt.served("one flood", "0")
	over()
	if lt.served("one that has nothing left"); !one.reads {
		t.Error("it is not read again")
	}
	lt.turn()
	lt.served("the last", "2")
	if n := len(lt.e.rests); n != 3 {
		t.Errorf("the queue was throttled %d times, not 3", n)
	}
	if flooding := lt.l.meter.OverRate; flooding != 5*lt.g.took {
		t.Errorf("the meter has %v", flooding)
	}
	// A connection that keeps to its rate again is read at once.
	lt.g.flood = false
	over()
	lt.arrive(lt.conns[1], "a")
	one.reads = false
	if lt.conns[1].Resume(); !one.reads {
		t.Error("a connection that keeps to its rate waits in the queue")
	}
}

// Connections over their rate that have nothing parked are served one at a time, too: the next one
// after the input of the one before has been read.
func TestDeferredOverRateReadInTurn(t *testing.T) {
	lt := newDeferredTest(t, 2, 200*time.Microsecond, true)
	for _, c := range lt.conns {
		lt.arrive(c, "a") // it takes all of this
	}
	lt.e.wake() // the throttle is over
	lt.l.turn()
	first, second := lt.conns[0].sock.(*switched), lt.conns[1].sock.(*switched)
	for _, c := range lt.conns {
		c.Resume()
	}
	lt.turn()
	lt.l.turn() // no poll was done
	lt.l.turn()
	if !first.reads || second.reads {
		t.Errorf("read are %v and %v, want the first alone", first.reads, second.reads)
	}
	lt.arrive(lt.conns[0], "a")
	lt.turn()
	if second.reads {
		t.Error("the second is read without a rest")
	}
	lt.e.wake()
	lt.l.turn()
	if !second.reads {
		t.Error("the second is not read after the first")
	}
}

// What a flood has parked is taken in parts where it is: in a buffer for each part it would be many times
// the memory.
func TestParkedIsTakenInPlace(t *testing.T) {
	lt := newDeferredTest(t, 1, 0, false)
	lt.arrive(lt.conns[0], string(make([]byte, 1000)))
	c := lt.conns[0]
	where := &(*c.parked)[:1][0]
	for n := 998; n > 0; n-- {
		c.Resume()
		if lt.turn(); c.parked == nil || len(*c.parked) != n || lt.l.meter.ParkedBytes != n {
			t.Fatalf("%d bytes are left, and the meter has %d; want %d", c.unconsumed(), lt.l.meter.ParkedBytes, n)
		}
		if &(*c.parked)[0] != where {
			t.Fatalf("the last %d bytes are somewhere else", n)
		}
	}
	used := buf.Input.InUse()
	c.Resume()
	if lt.turn(); c.parked != nil || buf.Input.InUse() != used-1 || lt.l.meter.ParkedBytes != 0 {
		t.Error("the buffer was not given back")
	}
}

// asker is a handler that pauses for each 'q' to answer it, and takes what comes before.
type asker struct {
	quiet
	got []byte
}

func (a *asker) OnData(c *Conn, p []byte) int {
	for i, b := range p {
		a.got = append(a.got, b)
		if b == 'q' {
			c.PauseForReply()
			return i + 1
		}
	}
	return len(p)
}

// A connection that waits for a reply (PauseForReply) stays in the read set. It leaves it when the
// peer sends all the same; nothing of that is lost, and it is delivered after the reply.
func TestPauseForReply(t *testing.T) {
	lt := newDeferredTest(t, 1, 0, false)
	a := &asker{}
	c := lt.conns[0]
	c.endpoint = &endpoint{handler: a}
	io := c.sock.(*switched)
	see := func(what, got string, reads bool) {
		t.Helper()
		if string(a.got) != got || io.reads != reads {
			t.Errorf("%s: it got %q, and is read: %v; want %q and %v", what, a.got, io.reads, got, reads)
		}
	}
	answer := func() {
		c.Resume()
		lt.turn()
	}
	lt.arrive(c, "aq")
	see("a question", "aq", true)
	answer()
	see("its answer", "aq", true)
	if n := lt.l.meter.Paused; n != 0 {
		t.Errorf("%d are paused", n)
	}
	lt.arrive(c, "bqcqd")
	see("two questions at once", "aqbq", false)
	answer()
	see("the first answer", "aqbqcq", false)
	lt.arrive(c, "e") // the engine looks again when its own buffer drains
	answer()
	see("the second", "aqbqcqde", true)
	lt.arrive(c, "q")
	lt.arrive(c, "fq")
	see("more than the question", "aqbqcqdeq", false)
	answer()
	see("its answer", "aqbqcqdeqfq", false)
	answer()
	see("the last", "aqbqcqdeqfq", true)
	lt.arrive(c, "q")
	c.Pause()
	see("a pause for another reason", "aqbqcqdeqfqq", false)
	answer()
	see("all", "aqbqcqdeqfqq", true)
}
