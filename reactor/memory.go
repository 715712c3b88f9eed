package reactor

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Memory is a Reactor for tests. Its connections are Pipes in memory, and its loops run only inside
// RunTurn, on the caller's goroutine, one at a time. It has no timers but ticks: TickLoops advances them.
// It is its own engine. All methods are for the test's goroutine, except that a loop may be woken from
// any goroutine. Package reactortest adds a clock, workers and clients.
type Memory struct {
	*Reactor
	mu       sync.Mutex // guards runnable: other goroutines, as a committer of the store, wake loops
	runnable []*Loop    // loops with a pending turn, in the order in which they were woken

	running *Loop // the loop inside RunTurn, for AssertOwned
}

// NewMemory makes a Memory. Config.Listeners are ignored: connections come from Open.
func NewMemory(cfg Config) *Memory {
	m := new(Memory)
	cfg.backend = m
	cfg.Listeners = nil
	r, err := New(cfg)
	if err != nil {
		panic(err) // New fails only for listeners and engine
	}
	m.Reactor = r
	return m
}

// Start implements backend; New calls it.
func (m *Memory) Start(r *Reactor, loops []*Loop) (bool, error) { return !r.cfg.NoPause, nil }

// Register implements backend: it fails, as there are no sockets in memory. Dial needs real loops.
func (m *Memory) Register(_ *Conn, fd int, _ netip.AddrPort, done func(error)) {
	unix.Close(fd)
	done(errors.New("reactor: no sockets in memory"))
}

// Wakeup implements backend: it appends l to the loops that RunTurn will run. Any goroutine.
func (m *Memory) Wakeup(l *Loop) error {
	m.mu.Lock()
	m.runnable = append(m.runnable, l)
	m.mu.Unlock()
	return nil
}

// WakeupAfterPoll implements backend. Pipes have no poll; the turn behaves as if one had been done.
func (m *Memory) WakeupAfterPoll(l *Loop) error {
	l.pollCompleted = true
	return m.Wakeup(l)
}

// AfterFunc implements backend: there are no timers, so callers try again in each tick.
func (m *Memory) AfterFunc(time.Duration, func()) bool { return false }

// Stop implements backend; it does nothing.
func (m *Memory) Stop() {}

// Wait implements backend: it waits for ctx, as loops in memory never end by themselves.
func (m *Memory) Wait(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Shutdown begins what Run does when its context ends: OnShutdown is called for every connection,
// which is then closed. The caller must run turns afterwards.
func (m *Memory) Shutdown() { m.shutdownConns() }

// RunTurn runs a turn of the loop that was woken first. It returns false if no loop has a pending
// turn.
func (m *Memory) RunTurn() bool {
	m.mu.Lock()
	if len(m.runnable) == 0 {
		m.mu.Unlock()
		return false
	}
	l := m.runnable[0]
	m.runnable = m.runnable[:copy(m.runnable, m.runnable[1:])]
	m.mu.Unlock()
	m.running = l
	defer func() { m.running = nil }()
	l.turn()
	return true
}

// TickLoops posts a tick to every loop: timers fire that the clock has reached.
func (m *Memory) TickLoops() {
	for _, l := range m.loops {
		l.Post(l.tick)
	}
}

// Pending reports whether a loop has a pending turn. Any goroutine.
func (m *Memory) Pending() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.runnable) > 0
}

// Open connects a Pipe to ln on the loop with this index, modulo the number of loops, as if a
// client at remote had connected. OnOpen is called in the loop's next turn. Listener.Accept is not
// asked.
func (m *Memory) Open(loop int, ln Listener, remote netip.AddrPort) *Pipe {
	l := m.loops[loop%len(m.loops)]
	c := &Conn{loop: l, endpoint: listenerEndpoint(ln)}
	l.connCount.Add(1)
	m.conns.Add(1)
	p := &Pipe{c: c, remote: remote, window: -1, reading: true}
	l.Post(func() { c.onOpen(&pipeEnd{p}) })
	return p
}

// A Pipe is the peer's end of a connection in memory. Its methods are for the test's goroutine, between
// turns.
type Pipe struct {
	c       *Conn
	remote  netip.AddrPort
	reading bool   // the loop reads
	input   []byte // written by the peer, not read by the loop yet
	sent    []byte // written by the loop, for Take
	unsent  []byte // written by the loop while window was 0: the engine's buffer
	window  int    // how many more bytes the peer takes; -1: any number
	fin     bool   // the loop has sent FIN
	closed  bool   // the connection is closed, by either side
	hangup  bool   // Hangup was called
	err     error  // its error
}

// A pipeEnd is the loop's end of a Pipe, a backendConn.
type pipeEnd struct{ pipe *Pipe }

// Write implements backendConn: bytes beyond the peer's window are buffered.
func (e *pipeEnd) Write(b []byte) error {
	p := e.pipe
	if p.window < 0 {
		p.sent = append(p.sent, b...)
		return nil
	}
	if len(p.unsent) == 0 {
		k := min(len(b), p.window)
		p.window -= k
		p.sent = append(p.sent, b[:k]...)
		b = b[k:]
	}
	p.unsent = append(p.unsent, b...)
	return nil
}

// Buffered implements backendConn.
func (e *pipeEnd) Buffered() int { return len(e.pipe.unsent) }

// Flush implements backendConn; SetWindow moves the buffered bytes.
func (e *pipeEnd) Flush() {}

// Reading implements backendConn.
func (e *pipeEnd) Reading() bool { return e.pipe.reading }

// SetRead implements backendConn. With Config.NoPause it does nothing.
func (e *pipeEnd) SetRead(on bool) {
	if e.pipe.c.loop.r.cfg.NoPause {
		return
	}
	if e.pipe.reading = on; on {
		e.pipe.scheduleRead()
	}
}

// CloseWrite implements backendConn.
func (e *pipeEnd) CloseWrite() { e.pipe.fin = true }

// Close implements backendConn.
func (e *pipeEnd) Close() { e.pipe.closed = true }

// Remote implements backendConn.
func (e *pipeEnd) Remote() netip.AddrPort { return e.pipe.remote }

// scheduleRead makes the loop read the input in its next turn, in pieces of maxPipeRead, each in a
// turn. The piece is overwritten afterwards, as the buffer of a real engine is. When all is read, a
// hang-up follows.
func (p *Pipe) scheduleRead() {
	p.c.loop.Post(func() {
		if !p.reading || p.closed {
			return
		}
		if len(p.input) > 0 {
			b := p.input[:min(len(p.input), maxPipeRead)]
			if p.input = p.input[len(b):]; len(p.input) == 0 {
				p.input = nil
			} else {
				p.scheduleRead()
			}
			p.c.onTraffic(b)
			for i := range b {
				b[i] = 0xDD
			}
		}
		if p.hangup && len(p.input) == 0 {
			p.closed = true
			p.c.onClose(p.err)
		}
	})
}

// maxPipeRead is the most that is read at a time, as readBuffer is for a socket.
const maxPipeRead = 64 << 10

// Write sends b to the loop. The bytes are copied.
func (p *Pipe) Write(b []byte) {
	p.input = append(p.input, b...)
	p.scheduleRead()
}

// Hangup ends the connection from the peer's side, after the input: err is nil for a FIN, or an
// error such as that of a reset.
func (p *Pipe) Hangup(err error) {
	p.hangup, p.err = true, err
	p.scheduleRead()
}

// Take removes and returns the bytes that the peer has received from the loop.
func (p *Pipe) Take() []byte {
	b := p.sent
	p.sent = nil
	return b
}

// Discard is Take for a caller that does not need the bytes; their memory is used again.
func (p *Pipe) Discard() { p.sent = p.sent[:0] }

// SetWindow sets how many more bytes the peer takes; -1: any number.
func (p *Pipe) SetWindow(n int) {
	p.window = n
	if k := min(len(p.unsent), n); n < 0 {
		p.sent, p.unsent = append(p.sent, p.unsent...), nil
	} else if k > 0 {
		p.sent, p.unsent = append(p.sent, p.unsent[:k]...), p.unsent[k:]
		p.window -= k
	}
}

// Ended reports whether the loop has ended its side, with a FIN or altogether.
func (p *Pipe) Ended() bool { return p.fin || p.closed }

// Paused reports whether the loop does not read.
func (p *Pipe) Paused() bool { return !p.reading }

// Conn returns the loop's side of the connection.
func (p *Pipe) Conn() *Conn { return p.c }

// Feed makes the loop handle the input b inside this call, without a copy. It is for benchmarks;
// the caller acts as the loop.
func (p *Pipe) Feed(b []byte) { p.c.onTraffic(b) }
