package reactor_test

import (
	"io"
	"testing"

	"canto/reactor"
	"canto/reactor/reactortest"
)

// After Close nothing is taken, and Append says so: a caller must not believe that an element left.
func TestAppendAfterClose(t *testing.T) {
	n := reactortest.New(1, reactor.Config{Loops: 1})
	for name, end := range map[string]func(c *reactor.Conn, p *reactortest.Client){
		"closed by the handler": func(c *reactor.Conn, _ *reactortest.Client) { c.Close(nil) },
		"closed by the peer":    func(_ *reactor.Conn, p *reactortest.Client) { p.Close(nil) },
		"lost":                  func(_ *reactor.Conn, p *reactortest.Client) { p.Close(io.ErrUnexpectedEOF) },
	} {
		t.Run(name, func(t *testing.T) {
			p := n.Connect(0, &script{})
			c := p.Conn()
			if c.Closing() || !c.Append([]byte("before")) {
				t.Fatal("an open connection takes nothing")
			}
			n.Run()
			end(c, p)
			if !c.Closing() || c.Append([]byte("after")) {
				t.Error("a closed connection says that it has taken something")
			}
			n.Run()
			if c.Append([]byte("later")) {
				t.Error("a connection that is gone says that it has taken something")
			}
			if got := string(p.Take()); got != "before" {
				t.Errorf("the peer got %q", got)
			}
		})
	}
}

// Flushed is answered once, when the socket has everything, or with false when the connection closes
// first: whatever is written meanwhile, and in whichever order the peer makes room.
func TestFlushed(t *testing.T) {
	n := reactortest.New(1, reactor.Config{Loops: 1})
	var answers []bool
	open := func(room int) (*reactortest.Client, *reactor.Conn) {
		answers = nil
		p := n.Connect(0, &script{})
		p.SetWindow(room)
		return p, p.Conn()
	}
	want := func(what string, list ...bool) {
		t.Helper()
		if len(answers) != len(list) || len(list) > 0 && answers[0] != list[0] {
			t.Fatalf("%s: answers are %v, not %v", what, answers, list)
		}
	}
	note := func(taken bool) { answers = append(answers, taken) }

	_, c := open(-1)
	c.Append(make([]byte, 1000))
	c.AfterFlush(note)
	want("inside the call")
	n.Run()
	want("the socket takes all", true)

	_, c = open(-1)
	c.AfterFlush(note)
	n.Run()
	want("nothing was to be written", true)

	p, c := open(1000)
	c.Append(make([]byte, 200_000))
	c.AfterFlush(note)
	n.Run()
	want("the socket takes a part")
	c.Append(make([]byte, 10))
	p.SetWindow(150_000)
	n.Advance(reactor.TickLength * 20)
	want("the outbox is empty, and the engine keeps some")
	p.SetWindow(-1)
	n.Advance(reactor.TickLength * 20)
	want("there is room", true)

	p, c = open(1000)
	c.Append(make([]byte, 200_000))
	c.AfterFlush(note)
	n.Run()
	p.Close(io.ErrUnexpectedEOF)
	want("lost before it was taken", false)

	_, c = open(-1)
	c.Append(make([]byte, 1000))
	c.AfterFlush(note)
	c.Close(nil)
	n.Run()
	want("closed in the turn that wrote it", false)

	c.AfterFlush(note)
	n.Run()
	want("asked after the end", false, false)
}

// OnDrain is called where it was asked for, also where nothing ever had to wait for the socket (K23).
func TestNotifyDrain(t *testing.T) {
	n := reactortest.New(1, reactor.Config{Loops: 1})
	drained := 0
	p := n.Connect(0, &script{drain: func(*reactor.Conn) { drained++ }})
	for _, size := range []int{0, 300_000} {
		drained = 0
		if size > 0 {
			p.Conn().Append(make([]byte, size))
		}
		p.Conn().NotifyDrain()
		n.Run()
		if drained != 1 {
			t.Errorf("with %d bytes OnDrain was called %d times", size, drained)
		}
	}
}

// A peer that does not read while something waits for it to have everything costs its loop a look in a
// tick, and the handler nothing.
func TestFlushedOfAPeerThatDoesNotRead(t *testing.T) {
	n := reactortest.New(1, reactor.Config{Loops: 1})
	drained, answered := 0, 0
	p := n.Connect(0, &script{drain: func(*reactor.Conn) { drained++ }})
	p.SetWindow(0)
	p.Conn().Append(make([]byte, 10_000)) // less than the engine keeps
	p.Conn().AfterFlush(func(bool) { answered++ })
	turns := func() (sum uint64) {
		for _, c := range n.Loops()[0].Meter().Turns {
			sum += c
		}
		return sum
	}
	n.Advance(2 * reactor.TickLength * 10)
	before := turns()
	n.Advance(reactor.TickLength * 100)
	if got := turns() - before; got > 400 {
		t.Errorf("%d turns in 10 s", got)
	}
	if drained != 0 || answered != 0 {
		t.Errorf("OnDrain was called %d times, and the flush answered %d times", drained, answered)
	}
	p.SetWindow(-1)
	n.Advance(reactor.TickLength * 5)
	if answered != 1 {
		t.Errorf("with room again the flush was answered %d times", answered)
	}
}
