package reactor

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

	"canto/reactor/buf"
)

const (
	// handedIn is how much may wait for a goroutine that reads, before the connection is paused. One
	// read of the engine comes on top.
	handedIn = 64 << 10
	// handedOut is how much a goroutine may write ahead of the loop; the outbox may hold as much again,
	// and the engine.
	handedOut = 64 << 10
	// handedPatience is how long a Write waits for a peer that takes nothing, and what was written for
	// the end to be read.
	handedPatience = time.Minute
)

// handed is a connection in the hands of a goroutine: a net.Conn that waits. The loop feeds it and
// takes from it what is to be sent; neither side ever holds more than the limits above.
type handed struct {
	memConn
	c      *Conn
	left   func() // called once, when the goroutine and the loop are both done with it
	writer sync.Mutex
	space  chan struct{} // cap 1: the loop took what was there
	pump   func()        // one func for all posts
	resume func()

	// Under memConn.mu:
	posted, slowed  bool // a pump is on its way; the loop reads nothing
	shut            bool // Close was called
	gone            bool // the connection has ended
	lateOut         bool // a deadline of Write has passed
	why             error
	readBy, writeBy *time.Timer
	patience        time.Duration
}

// handOver makes the net.Conn of c, which begins with head and p. Whoever calls it is c's handler and
// passes on OnData, OnDrain and OnClose. On c's loop.
func (c *Conn) handOver(head, p []byte, left func()) *handed {
	h := &handed{c: c, left: left, space: make(chan struct{}, 1), patience: handedPatience}
	h.memConn = memConn{remote: c.Remote(), ready: make(chan struct{}, 1)}
	h.in = append(append(make([]byte, 0, len(head)+len(p)), head...), p...)
	h.pump, h.resume = h.pumpOut, h.resumeIn
	return h
}

// feedIn is OnData.
func (h *handed) feedIn(p []byte) {
	h.feed(p)
	h.mu.Lock()
	slow := len(h.in)-h.off > handedIn && !h.slowed
	h.slowed = h.slowed || slow
	h.mu.Unlock()
	if slow {
		h.c.Pause()
	}
}

func (h *handed) resumeIn() {
	if h.c.flags&flagDone == 0 {
		h.c.Resume()
	}
}

// limit is how much may wait in the outbox before more is taken.
func (h *handed) limit() int { return min(handedOut, h.c.loop.r.cfg.OutboxBytes/2) }

// pumpOut takes what the goroutine wrote to the outbox, as far as that has room. On the loop.
func (h *handed) pumpOut() {
	c := h.c
	full := c.Buffered() >= h.limit()
	h.mu.Lock()
	h.posted = false
	if h.gone {
		h.mu.Unlock()
		return
	}
	var out []byte
	if full { // perhaps only until the end of this turn, and the socket takes all
		c.NotifyDrain()
	} else {
		out, h.out = h.out, nil
	}
	shut, empty := h.shut, h.out == nil
	h.mu.Unlock()
	if out != nil {
		ok := c.Append(out)
		buf.Outbox.Put(out)
		if !ok {
			c.Close(errNotSaid)
			return
		}
		signal(h.space)
	}
	if shut {
		if empty && c.Buffered() == 0 {
			c.Close(nil)
			return
		}
		c.NotifyDrain()
		if c.timer.to == nil {
			c.Arm(c.loop.Tick().After(h.patience))
		}
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// ended is OnClose.
func (h *handed) ended(err error) {
	h.mu.Lock()
	h.memConn.ended, h.gone, h.why = true, true, err
	out := h.out
	h.out = nil
	done := h.shut
	h.mu.Unlock()
	if out != nil {
		buf.Outbox.Put(out)
	}
	h.signal()
	signal(h.space)
	if done {
		h.left()
	}
}

// Read waits for input.
func (h *handed) Read(p []byte) (int, error) {
	n, err := h.memConn.Read(p)
	h.mu.Lock()
	again := h.slowed && !h.gone && len(h.in)-h.off <= handedIn/2
	if again {
		h.slowed = false
	}
	switch {
	case h.shut:
		n, err = 0, net.ErrClosed
	case err == io.EOF && h.why != nil:
		err = h.why
	}
	h.mu.Unlock()
	if again {
		h.c.loop.Post(h.resume)
	}
	return n, err
}

// Write waits until the loop has room for p.
func (h *handed) Write(p []byte) (n int, err error) {
	h.writer.Lock()
	defer h.writer.Unlock()
	room := h.limit()
	for {
		h.mu.Lock()
		switch {
		case h.lateOut:
			err = os.ErrDeadlineExceeded
		case h.gone, h.shut:
			err = net.ErrClosed
		}
		if err != nil || len(p) == 0 {
			h.mu.Unlock()
			return n, err
		}
		if k := min(room-len(h.out), len(p)); k > 0 {
			if h.out == nil {
				h.out = buf.Outbox.Get(k)
			}
			h.out = append(h.out, p[:k]...)
			p, n = p[k:], n+k
			post := !h.posted
			h.posted = true
			h.mu.Unlock()
			if post && !h.c.loop.Post(h.pump) {
				return n, net.ErrClosed
			}
			continue
		}
		h.mu.Unlock()
		late := time.NewTimer(h.patience)
		select {
		case <-h.space:
		case <-late.C:
			return n, os.ErrDeadlineExceeded
		}
		late.Stop()
	}
}

// Close ends the connection behind what was written.
func (h *handed) Close() error {
	h.mu.Lock()
	if h.shut {
		h.mu.Unlock()
		return net.ErrClosed
	}
	h.shut, h.memConn.ended = true, true
	gone := h.gone
	for _, t := range []*time.Timer{h.readBy, h.writeBy} {
		if t != nil {
			t.Stop()
		}
	}
	h.mu.Unlock()
	h.signal()
	signal(h.space)
	if gone {
		h.left()
	} else {
		h.c.loop.Post(h.pump)
	}
	return nil
}

// SetReadDeadline is net.Conn's: a Read that waits ends when t has come.
func (h *handed) SetReadDeadline(t time.Time) error {
	h.deadline(t, &h.readBy, &h.late, h.ready)
	return nil
}

// SetWriteDeadline is net.Conn's.
func (h *handed) SetWriteDeadline(t time.Time) error {
	h.deadline(t, &h.writeBy, &h.lateOut, h.space)
	return nil
}

// SetDeadline is both.
func (h *handed) SetDeadline(t time.Time) error {
	h.SetReadDeadline(t)
	return h.SetWriteDeadline(t)
}

func (h *handed) deadline(t time.Time, timer **time.Timer, late *bool, wake chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if *timer != nil {
		(*timer).Stop()
		*timer = nil
	}
	*late = false
	if t.IsZero() || h.shut {
		return
	}
	d := time.Until(t)
	if d <= 0 {
		*late = true
		signal(wake)
		return
	}
	var own *time.Timer
	own = time.AfterFunc(d, func() {
		h.mu.Lock()
		if *timer == own {
			*late = true
		}
		h.mu.Unlock()
		signal(wake)
	})
	*timer = own
}
