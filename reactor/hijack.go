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
	// maxHijackedIn is how much input may wait for the goroutine; with more the connection is paused. One
	// read of the engine (readBuffer) may come on top.
	maxHijackedIn = 64 << 10
	// maxHijackedOut is how much output may wait for the loop; then Write blocks. The outbox may hold as
	// much again, and the engine, too.
	maxHijackedOut = 64 << 10
	// hijackedTimeout is how long a Write waits for a peer that reads nothing, and how long the output may
	// take to be read after Close.
	hijackedTimeout = time.Minute
)

// A hijackedConn is a connection that a goroutine of net/http reads and writes; it implements net.Conn with
// blocking calls. The loop still owns the Conn and moves the bytes: onData, pumpToOutbox, resumeRead and
// onClose run on the loop, the methods of net.Conn on any goroutine. Input and output of its memConn are
// bounded by the constants above.
type hijackedConn struct {
	memConn
	c          *Conn
	onDone     func()        // called once, when Close was called and the connection has ended
	writeMu    sync.Mutex    // held by Write: writes do not mix. Taken before memConn.mu
	spaceFreed chan struct{} // cap 1: signalled when the loop took output, and at the end
	pumpFunc   func()        // pumpToOutbox; one function value for all posts
	resumeFunc func()        // resumeRead

	// Guarded by memConn.mu:
	pumpPosted   bool  // pumpFunc was posted and has not run
	readPaused   bool  // the connection is paused, as too much input waits
	closeCalled  bool  // Close was called
	connClosed   bool  // the connection has ended
	writeExpired bool  // a write deadline has passed
	closeErr     error // what OnClose got: Read returns it
	// The timers of the deadlines; nil: none.
	readTimer, writeTimer *time.Timer
	timeout               time.Duration // hijackedTimeout; a test shortens it. Never changes
}

// hijack returns a net.Conn for c. Its input begins with head and p; both are copied. The caller is
// c's Handler, and must pass OnData, OnDrain and OnClose on. onDone is called once, when Close was
// called and the connection has ended. On c's loop.
func (c *Conn) hijack(head, p []byte, onDone func()) *hijackedConn {
	h := &hijackedConn{c: c, onDone: onDone, spaceFreed: make(chan struct{}, 1), timeout: hijackedTimeout}
	h.memConn = memConn{remote: c.Remote(), ready: make(chan struct{}, 1)}
	h.in = append(append(make([]byte, 0, len(head)+len(p)), head...), p...)
	h.pumpFunc, h.resumeFunc = h.pumpToOutbox, h.resumeRead
	return h
}

// onData takes input on the loop, as OnData does. With too much input waiting it pauses the
// connection.
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

// resumeRead resumes reading. On the loop; Read posts it.
func (h *hijackedConn) resumeRead() {
	if h.c.flags&flagClosed == 0 {
		h.c.Resume()
	}
}

// outLimit is the length of outbox and of output up to which more is taken: maxHijackedOut, or half
// of Config.OutboxBytes.
func (h *hijackedConn) outLimit() int { return min(maxHijackedOut, h.c.loop.r.cfg.OutboxBytes/2) }

// pumpToOutbox moves the output of the goroutine to the outbox, on the loop. It is posted by Write
// and Close, and called by OnDrain. The steps:
//
//  1. If the outbox is full, it asks for OnDrain and moves nothing.
//  2. Otherwise it appends all output and wakes a Write that waits for space.
//  3. After Close: when nothing is left it closes the connection; else it asks for OnDrain, and
//     arms a deadline for a peer that does not read.
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
	if full { // the end of this turn may empty it already
		c.NotifyDrain()
	} else {
		out, h.out = h.out, nil
	}
	closeCalled, empty := h.closeCalled, h.out == nil
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
	if closeCalled {
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

// signal sends to a channel of capacity 1 unless a signal waits in it already. It never blocks.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// onClose ends the net.Conn when the connection has ended, on the loop: calls that wait return.
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

// Read implements net.Conn. It waits for input. After the peer's FIN it returns io.EOF, after an
// error of the connection that error, and after Close net.ErrClosed. When half of the allowed input
// is read it resumes a paused connection.
func (h *hijackedConn) Read(p []byte) (int, error) {
	n, err := h.memConn.Read(p)
	h.mu.Lock()
	resume := h.readPaused && !h.connClosed && len(h.in)-h.off <= maxHijackedIn/2
	if resume {
		h.readPaused = false
	}
	switch {
	case h.closeCalled:
		n, err = 0, net.ErrClosed
	case err == io.EOF && h.closeErr != nil:
		err = h.closeErr
	}
	h.mu.Unlock()
	if resume {
		h.c.loop.Post(h.resumeFunc)
	}
	return n, err
}

// Write implements net.Conn. It copies p to the output, as far as there is space, posts
// pumpToOutbox, and waits for more space. It returns once all of p is copied, not when the peer has
// it. It fails after Close, after the end of the connection, after a write deadline, and when the
// peer has read nothing for timeout.
func (h *hijackedConn) Write(p []byte) (n int, err error) {
	h.writeMu.Lock()
	defer h.writeMu.Unlock()
	limit := h.outLimit()
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
		if k := min(limit-len(h.out), len(p)); k > 0 {
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
		timer := time.NewTimer(h.timeout)
		select {
		case <-h.spaceFreed:
		case <-timer.C:
			return n, os.ErrDeadlineExceeded
		}
		timer.Stop()
	}
}

// Close implements net.Conn. The connection is closed by the loop after the output has been
// written.
func (h *hijackedConn) Close() error {
	h.mu.Lock()
	if h.closeCalled {
		h.mu.Unlock()
		return net.ErrClosed
	}
	h.closeCalled, h.memConn.closed = true, true
	connClosed := h.connClosed
	for _, t := range []*time.Timer{h.readTimer, h.writeTimer} {
		if t != nil {
			t.Stop()
		}
	}
	h.mu.Unlock()
	h.signal()
	signal(h.spaceFreed)
	if connClosed {
		h.onDone()
	} else {
		h.c.loop.Post(h.pumpFunc)
	}
	return nil
}

// SetReadDeadline implements net.Conn: a Read that waits fails at t. The zero time is no deadline.
func (h *hijackedConn) SetReadDeadline(t time.Time) error {
	h.setDeadline(t, &h.readTimer, &h.readExpired, h.ready)
	return nil
}

// SetWriteDeadline implements net.Conn: a Write that waits fails at t. The zero time is no
// deadline.
func (h *hijackedConn) SetWriteDeadline(t time.Time) error {
	h.setDeadline(t, &h.writeTimer, &h.writeExpired, h.spaceFreed)
	return nil
}

// SetDeadline implements net.Conn: it sets both deadlines.
func (h *hijackedConn) SetDeadline(t time.Time) error {
	h.SetReadDeadline(t)
	return h.SetWriteDeadline(t)
}

// setDeadline replaces the timer of a deadline. When it fires, or if t has passed, it sets *expired
// and signals wake. A timer that was replaced while it fired changes nothing.
func (h *hijackedConn) setDeadline(t time.Time, timer **time.Timer, expired *bool, wake chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if *timer != nil {
		(*timer).Stop()
		*timer = nil
	}
	*expired = false
	if t.IsZero() || h.closeCalled {
		return
	}
	d := time.Until(t)
	if d <= 0 {
		*expired = true
		signal(wake)
		return
	}
	var own *time.Timer
	own = time.AfterFunc(d, func() {
		h.mu.Lock()
		if *timer == own {
			*expired = true
		}
		h.mu.Unlock()
		signal(wake)
	})
	*timer = own
}
