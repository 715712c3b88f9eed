package sessiontest

import (
	"time"

	"canto/reactor"
	"canto/session"
)

// late stands between the kernel and a store that is slow in the test's own time: a worker's job begins,
// and a commit is heard of, later than it could. On the test's goroutine.
type late struct {
	below   session.Durable
	s       *Server
	delay   func() time.Duration
	spent   time.Duration  // moved by next: what the modules' clock does not show
	visible session.Ticket // what the kernel knows to be settled
	heard   session.Ticket // what is on its way to be visible
	things  []thing
	tell    func()
}

// A thing happens at a time.
type thing struct {
	at time.Time
	do func()
}

func (w *late) now() time.Time { return w.s.Net.Now().Add(-w.spent) }

func (w *late) add(do func()) {
	w.things = append(w.things, thing{w.s.Net.Now().Add(w.delay()), do})
}

// Do is reactor.Workers.
func (w *late) Do(c reactor.Class, l *reactor.Loop, work func() error, then func(error)) bool {
	w.add(func() { w.s.Net.Do(c, l, work, then) })
	return true
}

// The methods of session.Durable.

func (w *late) Durable() session.Ticket      { return w.visible }
func (w *late) Notify(f func())              { w.tell = f }
func (w *late) Err(t session.Ticket) error   { return w.below.Err(t) }
func (w *late) Await(t session.Ticket) error { return w.below.Await(t) }
func (w *late) Snapshot() any                { return w.below.Snapshot() }
func (w *late) Full() bool                   { return w.below.Full() }
func (w *late) NewBatch(id uint64) any       { return w.below.NewBatch(id) }
func (w *late) Commit(b any) session.Ticket  { return w.below.Commit(b) }

// listen puts what the store has settled on its way.
func (w *late) listen() {
	t := session.Ticket(w.s.DB.Durable())
	if t <= max(w.heard, w.visible) {
		return
	}
	w.heard = t
	w.add(func() {
		w.visible = max(w.visible, t)
		w.tell()
	})
}

// due has happen what is due by t, and reports whether there was anything.
func (w *late) due(t time.Time) (any bool) {
	w.listen()
	for i := 0; i < len(w.things); {
		if th := w.things[i]; !th.at.After(t) {
			w.things = append(w.things[:i], w.things[i+1:]...)
			th.do()
			any = true
			continue
		}
		i++
	}
	if any {
		w.s.Net.Run()
	}
	return any
}

// next moves the clock to the next thing that is late; false: there is none.
func (w *late) next() bool {
	w.listen()
	if len(w.things) == 0 {
		return false
	}
	first := w.things[0].at
	for _, th := range w.things {
		if th.at.Before(first) {
			first = th.at
		}
	}
	if d := first.Sub(w.s.Net.Now()); d > 0 {
		w.spent += d
		w.s.Net.Advance(d)
	}
	w.due(first)
	return true
}

// HeldWork are workers whose jobs begin when a test says so. On the test's goroutine.
type HeldWork struct {
	Jobs   []func() // that wait to begin, in the order in which they were given
	server *Server
	below  reactor.Workers
}

// HoldWork holds the jobs that are given to the server's workers from now on.
func (s *Server) HoldWork() *HeldWork {
	h := &HeldWork{server: s, below: s.Router.Workers}
	s.Router.Workers = h
	return h
}

// Do is reactor.Workers.
func (h *HeldWork) Do(c reactor.Class, l *reactor.Loop, work func() error, then func(error)) bool {
	h.Jobs = append(h.Jobs, func() { h.below.Do(c, l, work, then) })
	return true
}

// Next begins the first job that waits.
func (h *HeldWork) Next() {
	job := h.Jobs[0]
	h.Jobs = h.Jobs[1:]
	job()
}

// Release lets jobs that are given from now on begin at once; those that wait still do.
func (h *HeldWork) Release() { h.server.Router.Workers = h.below }
