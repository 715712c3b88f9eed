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
	// maxHijackedIn is how much may wait for a goroutine that reads, before the connection is paused. One
	// read of the engine comes on top.
	maxHijackedIn = 64 << 10
	// maxHijackedOut is how much a goroutine may write ahead of the loop; the outbox may hold as much again,
	// and the engine.
	maxHijackedOut = 64 << 10
	// hijackedTimeout is how long a Write waits for a peer that takes nothing, and what was written for
	// the end to be read.
	hijackedTimeout = time.Minute
)

// hijackedConn is a connection in the hands of a goroutine: a net.Conn that waits. The loop feeds it and
// takes from it what is to be sent; neither side ever holds more than the limits above.
type hijackedConn struct {
	memConn
	c          *Conn
	onDone     func() // called once, when the goroutine and the loop are both done with it
	writeMu    sync.Mutex
	spaceFreed chan struct{} // cap 1: the loop took what was there
	pumpFunc   func()        // one func for all posts
	resumeFunc func()

	// Under memConn.mu:
	pumpPosted, readPaused bool // a pump is on its way; the loop reads nothing
	closeCalled            bool // Close was called
	connClosed             bool // the connection has ended
	writeExpired           bool // a deadline of Write has passed
	closeErr               error
	readTimer, writeTimer  *time.Timer
	timeout                time.Duration
}

// hijack makes the net.Conn of c, which begins with head and p. Whoever calls it is c's handler and
// passes on OnData, OnDrain and OnClose. On c's loop.
func (c *Conn) hijack(head, p []byte, left func()) *hijackedConn {
	h := &hijackedConn{c: c, onDone: left, spaceFreed: make(chan struct{}, 1), timeout: hijackedTimeout}
	h.memConn = memConn{remote: c.Remote(), ready: make(chan struct{}, 1)}
	h.in = append(append(make([]byte, 0, len(head)+len(p)), head...), p...)
	h.pumpFunc, h.resumeFunc = h.pumpToOutbox, h.resumeRead
	return h
}

// onData is OnData.
func (h *hijackedConn) onData(p []byte) {
	h.feed(p)
	h.mu.Lock()
	slow := len(h.in)-h.off > maxHijackedIn && !h.readPaused
	h.readPaused = h.readPaused || slow
	h.mu.Unlock()
	if slow {
		h.c.Pause()
	}
}

func (h *hijackedConn) resumeRead() {
	if h.c.flags&flagClosed == 0 {
		h.c.Resume()
	}
}

// outLimit is how much may wait in the outbox before more is taken.
func (h *hijackedConn) outLimit() int { return min(maxHijackedOut, h.c.loop.r.cfg.OutboxBytes/2) }

// pumpToOutbox takes what the goroutine wrote to the outbox, as far as that has room. On the loop.
func (h *hijackedConn) pumpToOutbox() {
	c := h.c
	full := c.Buffered() >= h.outLimit()
	h.mu.Lock()
	h.pumpPosted = false
	if h.connClosed {
		h.mu.Unlock()
		return
	}
	var out []byte
	if full { // perhaps only until the end of this turn, and the socket takes all
		c.NotifyDrain()
	} else {
		out, h.out = h.out, nil
	}
	shut, empty := h.closeCalled, h.out == nil
	h.mu.Unlock()
	if out != nil {
		ok := c.Append(out)
		buf.Outbox.Put(out)
		if !ok {
			c.Close(errConnLost)
			return
		}
		signal(h.spaceFreed)
	}
	if shut {
		if empty && c.Buffered() == 0 {
			c.Close(nil)
			return
		}
		c.NotifyDrain()
		if c.timer.handler == nil {
			c.Arm(c.loop.Tick().After(h.timeout))
		}
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// onClose is OnClose.
func (h *hijackedConn) onClose(err error) {
	h.mu.Lock()
	h.memConn.closed, h.connClosed, h.closeErr = true, true, err
	out := h.out
	h.out = nil
	done := h.closeCalled
	h.mu.Unlock()
	if out != nil {
		buf.Outbox.Put(out)
	}
	h.signal()
	signal(h.spaceFreed)
	if done {
		h.onDone()
	}
}

// Read waits for input.
func (h *hijackedConn) Read(p []byte) (int, error) {
	n, err := h.memConn.Read(p)
	h.mu.Lock()
	again := h.readPaused && !h.connClosed && len(h.in)-h.off <= maxHijackedIn/2
	if again {
		h.readPaused = false
	}
	switch {
	case h.closeCalled:
		n, err = 0, net.ErrClosed
	case err == io.EOF && h.closeErr != nil:
		err = h.closeErr
	}
	h.mu.Unlock()
	if again {
		h.c.loop.Post(h.resumeFunc)
	}
	return n, err
}

// Write waits until the loop has room for p.
func (h *hijackedConn) Write(p []byte) (n int, err error) {
	h.writeMu.Lock()
	defer h.writeMu.Unlock()
	room := h.outLimit()
	for {
		h.mu.Lock()
		switch {
		case h.writeExpired:
			err = os.ErrDeadlineExceeded
		case h.connClosed, h.closeCalled:
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
			post := !h.pumpPosted
			h.pumpPosted = true
			h.mu.Unlock()
			if post && !h.c.loop.Post(h.pumpFunc) {
				return n, net.ErrClosed
			}
			continue
		}
		h.mu.Unlock()
		late := time.NewTimer(h.timeout)
		select {
		case <-h.spaceFreed:
		case <-late.C:
			return n, os.ErrDeadlineExceeded
		}
		late.Stop()
	}
}

// Close ends the connection behind what was written.
func (h *hijackedConn) Close() error {
	h.mu.Lock()
	if h.closeCalled {
		h.mu.Unlock()
		return net.ErrClosed
	}
	h.closeCalled, h.memConn.closed = true, true
	gone := h.connClosed
	for _, t := range []*time.Timer{h.readTimer, h.writeTimer} {
		if t != nil {
			t.Stop()
		}
	}
	h.mu.Unlock()
	h.signal()
	signal(h.spaceFreed)
	if gone {
		h.onDone()
	} else {
		h.c.loop.Post(h.pumpFunc)
	}
	return nil
}

// SetReadDeadline is net.Conn's: a Read that waits ends when t has come.
func (h *hijackedConn) SetReadDeadline(t time.Time) error {
	h.setDeadline(t, &h.readTimer, &h.readExpired, h.ready)
	return nil
}

// SetWriteDeadline is net.Conn's.
func (h *hijackedConn) SetWriteDeadline(t time.Time) error {
	h.setDeadline(t, &h.writeTimer, &h.writeExpired, h.spaceFreed)
	return nil
}

// SetDeadline is both.
func (h *hijackedConn) SetDeadline(t time.Time) error {
	h.SetReadDeadline(t)
	return h.SetWriteDeadline(t)
}

func (h *hijackedConn) setDeadline(t time.Time, timer **time.Timer, late *bool, wake chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if *timer != nil {
		(*timer).Stop()
		*timer = nil
	}
	*late = false
	if t.IsZero() || h.closeCalled {
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
