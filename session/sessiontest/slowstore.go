package sessiontest

import (
	"time"

	"canto/reactor"
	"canto/session"
)

// slowStore stands between the kernel and a store that is slow in the test's own time: a worker's job begins,
// and a commit is heard of, later than it could. On the test's goroutine.
type slowStore struct {
	inner     session.Committer
	s         *Server
	delay     func() time.Duration
	skew      time.Duration  // moved by next: what the modules' clock does not show
	settled   session.Ticket // what the kernel knows to be settled
	announced session.Ticket // what is on its way to be visible
	events    []event
	notify    func()
}

// A thing happens at a time.
type event struct {
	at time.Time
	do func()
}

func (w *slowStore) now() time.Time { return w.s.Net.Now().Add(-w.skew) }

func (w *slowStore) schedule(do func()) {
	w.events = append(w.events, event{w.s.Net.Now().Add(w.delay()), do})
}

// Do is reactor.Workers.
func (w *slowStore) Do(c reactor.Class, l *reactor.Loop, work func() error, then func(error)) bool {
	w.schedule(func() { w.s.Net.Do(c, l, work, then) })
	return true
}

// The methods of session.Committer.

func (w *slowStore) LastSettled() session.Ticket  { return w.settled }
func (w *slowStore) Notify(f func())              { w.notify = f }
func (w *slowStore) Err(t session.Ticket) error   { return w.inner.Err(t) }
func (w *slowStore) Await(t session.Ticket) error { return w.inner.Await(t) }
func (w *slowStore) Snapshot() any                { return w.inner.Snapshot() }
func (w *slowStore) Full() bool                   { return w.inner.Full() }
func (w *slowStore) NewBatch(id uint64) any       { return w.inner.NewBatch(id) }
func (w *slowStore) Commit(b any) session.Ticket  { return w.inner.Commit(b) }

// poll puts what the store has settled on its way.
func (w *slowStore) poll() {
	t := session.Ticket(w.s.DB.Durable())
	if t <= max(w.announced, w.settled) {
		return
	}
	w.announced = t
	w.schedule(func() {
		w.settled = max(w.settled, t)
		w.notify()
	})
}

// runDue has happen what is due by t, and reports whether there was anything.
func (w *slowStore) runDue(t time.Time) (any bool) {
	w.poll()
	for i := 0; i < len(w.events); {
		if th := w.events[i]; !th.at.After(t) {
			w.events = append(w.events[:i], w.events[i+1:]...)
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

// runNext moves the clock to the next thing that is late; false: there is none.
func (w *slowStore) runNext() bool {
	w.poll()
	if len(w.events) == 0 {
		return false
	}
	first := w.events[0].at
	for _, th := range w.events {
		if th.at.Before(first) {
			first = th.at
		}
	}
	if d := first.Sub(w.s.Net.Now()); d > 0 {
		w.skew += d
		w.s.Net.Advance(d)
	}
	w.runDue(first)
	return true
}

// PausedWorkers are workers whose jobs begin when a test says so. On the test's goroutine.
type PausedWorkers struct {
	Jobs   []func() // that wait to begin, in the order in which they were given
	server *Server
	inner  reactor.Workers
}

// PauseWorkers holds the jobs that are given to the server's workers from now on.
func (s *Server) PauseWorkers() *PausedWorkers {
	h := &PausedWorkers{server: s, inner: s.Router.Workers}
	s.Router.Workers = h
	return h
}

// Do is reactor.Workers.
func (h *PausedWorkers) Do(c reactor.Class, l *reactor.Loop, work func() error, then func(error)) bool {
	h.Jobs = append(h.Jobs, func() { h.inner.Do(c, l, work, then) })
	return true
}

// StartNext begins the first job that waits.
func (h *PausedWorkers) StartNext() {
	job := h.Jobs[0]
	h.Jobs = h.Jobs[1:]
	job()
}

// Resume lets jobs that are given from now on begin at once; those that wait still do.
func (h *PausedWorkers) Resume() { h.server.Router.Workers = h.inner }
