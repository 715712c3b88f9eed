package sessiontest

import (
	"time"

	"canto/reactor"
	"canto/session"
)

// A slowStore is between the kernel and its store, and makes the store slow in the test's own time: it
// delays the start of each worker's job, and the news that a commit is settled. It implements
// [session.Committer] and [reactor.Workers]. On the test's goroutine.
type slowStore struct {
	inner     session.Committer
	s         *Server
	delay     func() time.Duration
	skew      time.Duration  // by how much the modules' clock lags the network's: runNext moves only that
	settled   session.Ticket // the last ticket that the kernel knows to be settled
	announced session.Ticket // the last ticket for which an event is scheduled
	events    []event        // delayed events, in no order
	notify    func()         // the kernel's commit callback
}

// An event is something that happens at a time.
type event struct {
	at time.Time
	do func()
}

// now returns the time for modules: the network's, less the delays of the store.
func (w *slowStore) now() time.Time { return w.s.Net.Now().Add(-w.skew) }

// schedule makes do happen after the next delay.
func (w *slowStore) schedule(do func()) {
	w.events = append(w.events, event{w.s.Net.Now().Add(w.delay()), do})
}

// Do implements [reactor.Workers]: it starts the job after a delay.
func (w *slowStore) Do(c reactor.Class, l *reactor.Loop, work func() error, then func(error)) bool {
	w.schedule(func() { w.s.Net.Do(c, l, work, then) })
	return true
}

// LastSettled implements [session.Committer], with the delay.
func (w *slowStore) LastSettled() session.Ticket { return w.settled }

// Notify implements [session.Committer]: f is called after the delay.
func (w *slowStore) Notify(f func()) { w.notify = f }

// Err implements [session.Committer].
func (w *slowStore) Err(t session.Ticket) error { return w.inner.Err(t) }

// Await implements [session.Committer].
func (w *slowStore) Await(t session.Ticket) error { return w.inner.Await(t) }

// Snapshot implements [session.Committer].
func (w *slowStore) Snapshot() any { return w.inner.Snapshot() }

// Full implements [session.Committer].
func (w *slowStore) Full() bool { return w.inner.Full() }

// NewBatch implements [session.Committer].
func (w *slowStore) NewBatch(id uint64) any { return w.inner.NewBatch(id) }

// Commit implements [session.Committer].
func (w *slowStore) Commit(b any) session.Ticket { return w.inner.Commit(b) }

// poll schedules the news of what the store has settled since the last call.
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

// runDue runs the events that are due by t, and reports whether there were any.
func (w *slowStore) runDue(t time.Time) (any bool) {
	w.poll()
	for i := 0; i < len(w.events); {
		if e := w.events[i]; !e.at.After(t) {
			w.events = append(w.events[:i], w.events[i+1:]...)
			e.do()
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

// runNext moves the clock to the next event and runs it; false: there is none.
func (w *slowStore) runNext() bool {
	w.poll()
	if len(w.events) == 0 {
		return false
	}
	first := w.events[0].at
	for _, e := range w.events {
		if e.at.Before(first) {
			first = e.at
		}
	}
	if d := first.Sub(w.s.Net.Now()); d > 0 {
		w.skew += d
		w.s.Net.Advance(d)
	}
	w.runDue(first)
	return true
}

// PausedWorkers are workers whose jobs start when the test says so. On the test's goroutine.
type PausedWorkers struct {
	Jobs   []func() // the jobs that were not started, in the order in which they came
	server *Server
	inner  reactor.Workers
}

// PauseWorkers replaces the server's workers by paused ones.
func (s *Server) PauseWorkers() *PausedWorkers {
	h := &PausedWorkers{server: s, inner: s.Router.Workers}
	s.Router.Workers = h
	return h
}

// Do implements [reactor.Workers]: it queues the job.
func (h *PausedWorkers) Do(c reactor.Class, l *reactor.Loop, work func() error, then func(error)) bool {
	h.Jobs = append(h.Jobs, func() { h.inner.Do(c, l, work, then) })
	return true
}

// StartNext starts the first queued job.
func (h *PausedWorkers) StartNext() {
	job := h.Jobs[0]
	h.Jobs = h.Jobs[1:]
	job()
}

// Resume starts jobs that come from now on at once. Queued jobs stay queued until StartNext.
func (h *PausedWorkers) Resume() { h.server.Router.Workers = h.inner }
