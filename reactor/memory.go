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
	mu    sync.Mutex // a committer's goroutine may wake a loop
	ready []*Loop

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

// Enrol is the engine's.
func (m *Memory) Enrol(_ *Conn, fd int, _ netip.AddrPort, done func(error)) {
	unix.Close(fd)
	done(errors.New("reactor: no sockets in memory"))
}

// Execute is the engine's.
func (m *Memory) Execute(l *Loop) error {
	m.mu.Lock()
	m.ready = append(m.ready, l)
	m.mu.Unlock()
	return nil
}

// Again is the engine's.
func (m *Memory) Again(l *Loop) error {
	l.seen = true
	return m.Execute(l)
}

// Later is the engine's.
func (m *Memory) Later(time.Duration, func()) bool { return false }

// Stop is the engine's.
func (m *Memory) Stop() {}

// Wait is the engine's.
func (m *Memory) Wait(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Drain has every connection told that the reactor stops, and closed, as Run does when its context ends.
// The loops must be run for it.
func (m *Memory) Drain() { m.dismiss() }

// Turn ends the turn of the loop that has waited longest; false: none has anything to do.
func (m *Memory) Turn() bool {
	m.mu.Lock()
	if len(m.ready) == 0 {
		m.mu.Unlock()
		return false
	}
	l := m.ready[0]
	m.ready = m.ready[:copy(m.ready, m.ready[1:])]
	m.mu.Unlock()
	m.running = l
	defer func() { m.running = nil }()
	l.turn()
	return true
}

// Tick has every loop look at its timers.
func (m *Memory) Tick() {
	for _, l := range m.loops {
		l.Post(l.tick)
	}
}

// Ready reports whether a loop has something to do.
func (m *Memory) Ready() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.ready) > 0
}

// Open makes a connection on a loop, as one to ln.
func (m *Memory) Open(loop int, ln Listener, remote netip.AddrPort) *Pipe {
	l := m.loops[loop%len(m.loops)]
	c := &Conn{loop: l, port: ports(ln)}
	l.conns.Add(1)
	m.conns.Add(1)
	p := &Pipe{c: c, remote: remote, room: -1, reading: true}
	l.Post(func() { c.opened(&memEnd{p}) })
	return p
}

// A Pipe is the peer's end of a connection in memory.
type Pipe struct {
	c       *Conn
	remote  netip.AddrPort
	reading bool
	in      []byte // written by the peer, not read yet
	sent    []byte // written by the loop
	kept    []byte // written by the loop, no room at the peer
	room    int    // bytes that the peer takes; -1: any
	fin     bool   // the loop wrote FIN
	closed  bool
	hangup  bool
	err     error
}

// memEnd is the loop's end.
type memEnd struct{ p *Pipe }

func (e *memEnd) Write(b []byte) error {
	p := e.p
	if p.room < 0 {
		p.sent = append(p.sent, b...)
		return nil
	}
	if len(p.kept) == 0 {
		k := min(len(b), p.room)
		p.room -= k
		p.sent = append(p.sent, b[:k]...)
		b = b[k:]
	}
	p.kept = append(p.kept, b...)
	return nil
}

func (e *memEnd) Buffered() int { return len(e.p.kept) }

func (e *memEnd) Flush() {}

func (e *memEnd) Reading() bool { return e.p.reading }

func (e *memEnd) SetRead(on bool) {
	if e.p.c.loop.r.cfg.NoPause {
		return
	}
	if e.p.reading = on; on {
		e.p.wake()
	}
}

func (e *memEnd) CloseWrite()            { e.p.fin = true }
func (e *memEnd) Close()                 { e.p.closed = true }
func (e *memEnd) Remote() netip.AddrPort { return e.p.remote }

// wake has the loop read what is there, in its next turn.
func (p *Pipe) wake() {
	p.c.loop.Post(func() {
		if !p.reading || p.closed {
			return
		}
		if len(p.in) > 0 {
			b := p.in[:min(len(p.in), memoryRead)]
			if p.in = p.in[len(b):]; len(p.in) == 0 {
				p.in = nil
			} else {
				p.wake()
			}
			p.c.traffic(b)
			for i := range b {
				b[i] = 0xDD // as an engine's buffer is used again
			}
		}
		if p.hangup && len(p.in) == 0 {
			p.closed = true
			p.c.closed(p.err)
		}
	})
}

// memoryRead is the most that is read at a time, as from a socket.
const memoryRead = 64 << 10

// Write is what the peer sends.
func (p *Pipe) Write(b []byte) {
	p.in = append(p.in, b...)
	p.wake()
}

// Hangup ends the connection from the peer's side; err nil: cleanly.
func (p *Pipe) Hangup(err error) {
	p.hangup, p.err = true, err
	p.wake()
}

// Take is what the loop has written since the last Take, as far as the peer takes it.
func (p *Pipe) Take() []byte {
	b := p.sent
	p.sent = nil
	return b
}

// Discard is Take for who does not look: the memory is used again.
func (p *Pipe) Discard() { p.sent = p.sent[:0] }

// Room says how many more bytes the peer takes; -1: any number.
func (p *Pipe) Room(n int) {
	p.room = n
	if k := min(len(p.kept), n); n < 0 {
		p.sent, p.kept = append(p.sent, p.kept...), nil
	} else if k > 0 {
		p.sent, p.kept = append(p.sent, p.kept[:k]...), p.kept[k:]
		p.room -= k
	}
}

// Ended reports whether the loop has ended its side.
func (p *Pipe) Ended() bool { return p.fin || p.closed }

// Paused reports whether the loop does not read.
func (p *Pipe) Paused() bool { return !p.reading }

// Conn is the loop's side of the connection.
func (p *Pipe) Conn() *Conn { return p.c }

// Feed has the loop read b at once, without a copy: for measuring.
func (p *Pipe) Feed(b []byte) { p.c.traffic(b) }
