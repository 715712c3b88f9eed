package reactor

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Memory is a Reactor whose connections are pipes in memory and whose loops run when they are told
// to, all on the caller's goroutine. reactortest makes it pleasant.
type Memory struct {
	*Reactor
	mu       sync.Mutex // a committer's goroutine may wake a loop
	runnable []*Loop

	running *Loop // whose turn it is
}

// NewMemory makes one. Listeners are not opened.
func NewMemory(cfg Config) *Memory {
	m := new(Memory)
	cfg.backend = m
	cfg.Listeners = nil
	r, err := New(cfg)
	if err != nil {
		panic(err) // there is nothing that could fail
	}
	m.Reactor = r
	return m
}

// Start is the engine's.
func (m *Memory) Start(r *Reactor, loops []*Loop) (bool, error) { return !r.cfg.NoPause, nil }

// Register is the engine's.
func (m *Memory) Register(_ *Conn, fd int, _ netip.AddrPort, done func(error)) {
	unix.Close(fd)
	done(errors.New("reactor: no sockets in memory"))
}

// Wakeup is the engine's.
func (m *Memory) Wakeup(l *Loop) error {
	m.mu.Lock()
	m.runnable = append(m.runnable, l)
	m.mu.Unlock()
	return nil
}

// WakeupAfterPoll is the engine's.
func (m *Memory) WakeupAfterPoll(l *Loop) error {
	l.pollCompleted = true
	return m.Wakeup(l)
}

// AfterFunc is the engine's.
func (m *Memory) AfterFunc(time.Duration, func()) bool { return false }

// Stop is the engine's.
func (m *Memory) Stop() {}

// Wait is the engine's.
func (m *Memory) Wait(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Shutdown has every connection told that the reactor stops, and closed, as Run does when its context ends.
// The loops must be run for it.
func (m *Memory) Shutdown() { m.shutdownConns() }

// RunTurn ends the turn of the loop that has waited longest; false: none has anything to do.
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

// TickLoops has every loop look at its timers.
func (m *Memory) TickLoops() {
	for _, l := range m.loops {
		l.Post(l.tick)
	}
}

// Pending reports whether a loop has something to do.
func (m *Memory) Pending() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.runnable) > 0
}

// Open makes a connection on a loop, as one to ln.
func (m *Memory) Open(loop int, ln Listener, remote netip.AddrPort) *Pipe {
	l := m.loops[loop%len(m.loops)]
	c := &Conn{loop: l, endpoint: listenerEndpoint(ln)}
	l.connCount.Add(1)
	m.conns.Add(1)
	p := &Pipe{c: c, remote: remote, window: -1, reading: true}
	l.Post(func() { c.onOpen(&pipeEnd{p}) })
	return p
}

// A Pipe is the peer's end of a connection in memory.
type Pipe struct {
	c       *Conn
	remote  netip.AddrPort
	reading bool
	input   []byte // written by the peer, not read yet
	sent    []byte // written by the loop
	unsent  []byte // written by the loop, no room at the peer
	window  int    // bytes that the peer takes; -1: any
	fin     bool   // the loop wrote FIN
	closed  bool
	hangup  bool
	err     error
}

// pipeEnd is the loop's end.
type pipeEnd struct{ pipe *Pipe }

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

func (e *pipeEnd) Buffered() int { return len(e.pipe.unsent) }

func (e *pipeEnd) Flush() {}

func (e *pipeEnd) Reading() bool { return e.pipe.reading }

func (e *pipeEnd) SetRead(on bool) {
	if e.pipe.c.loop.r.cfg.NoPause {
		return
	}
	if e.pipe.reading = on; on {
		e.pipe.scheduleRead()
	}
}

func (e *pipeEnd) CloseWrite()            { e.pipe.fin = true }
func (e *pipeEnd) Close()                 { e.pipe.closed = true }
func (e *pipeEnd) Remote() netip.AddrPort { return e.pipe.remote }

// scheduleRead has the loop read what is there, in its next turn.
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
				b[i] = 0xDD // as an engine's buffer is used again
			}
		}
		if p.hangup && len(p.input) == 0 {
			p.closed = true
			p.c.onClose(p.err)
		}
	})
}

// maxPipeRead is the most that is read at a time, as from a socket.
const maxPipeRead = 64 << 10

// Write is what the peer sends.
func (p *Pipe) Write(b []byte) {
	p.input = append(p.input, b...)
	p.scheduleRead()
}

// Hangup ends the connection from the peer's side; err nil: cleanly.
func (p *Pipe) Hangup(err error) {
	p.hangup, p.err = true, err
	p.scheduleRead()
}

// Take is what the loop has written since the last Take, as far as the peer takes it.
func (p *Pipe) Take() []byte {
	b := p.sent
	p.sent = nil
	return b
}

// Discard is Take for who does not look: the memory is used again.
func (p *Pipe) Discard() { p.sent = p.sent[:0] }

// SetWindow says how many more bytes the peer takes; -1: any number.
func (p *Pipe) SetWindow(n int) {
	p.window = n
	if k := min(len(p.unsent), n); n < 0 {
		p.sent, p.unsent = append(p.sent, p.unsent...), nil
	} else if k > 0 {
		p.sent, p.unsent = append(p.sent, p.unsent[:k]...), p.unsent[k:]
		p.window -= k
	}
}

// Ended reports whether the loop has ended its side.
func (p *Pipe) Ended() bool { return p.fin || p.closed }

// Paused reports whether the loop does not read.
func (p *Pipe) Paused() bool { return !p.reading }

// Conn is the loop's side of the connection.
func (p *Pipe) Conn() *Conn { return p.c }

// Feed has the loop read b at once, without a copy: for measuring.
func (p *Pipe) Feed(b []byte) { p.c.onTraffic(b) }
