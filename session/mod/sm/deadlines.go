package sm

import (
	"math"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/store"
)

// The pace of expireOld.
const (
	firstSweep reactor.Tick = 10                        // after the first session is bound
	sweepPause reactor.Tick = 10                        // between two steps
	sweepIdle  reactor.Tick = 60_000 / tickMillis       // while nothing is due
	sweepStep               = 200                       // accounts that one step looks at
	maxTime                 = math.MaxInt64 - 1         // after all deadlines
	maxKeep                 = 24 * int64(time.Hour/1e6) // the greatest value of Options.Resume, in milliseconds
)

// haveOld reports whether the index of deadlines has an entry. In Load.
func (m *module) haveOld() (found bool, err error) {
	err = each(m.db.Deadlines(), m.db, func(store.Deadline) (bool, error) {
		found = true
		return false, nil
	})
	return found, err
}

// bound is the Bound hook: the first session of a host begins what goes on beside the sessions.
func (m *module) bound(l *session.LoopRouter, s *session.Session) {
	host := s.Host()
	m.sweep.Do(func() {
		m.noteAlive(l)
		if m.old {
			end := m.db.Deadlines().Now() + maxKeep + store.AliveEvery.Milliseconds()
			l.After(firstSweep, func() { m.expireOld(l, host, store.Deadline{}, end) })
		}
	})
}

// noteAlive records that the server runs, now and then again and again.
func (m *module) noteAlive(l *session.LoopRouter) {
	if m.ended.Load() {
		return
	}
	if m.db.Full() == nil {
		m.db.Deadlines().NoteAlive()
	}
	l.After(reactor.Tick(store.AliveEvery.Milliseconds()/tickMillis), func() { m.noteAlive(l) })
}

// expireOld loads the accounts of which sessions of an earlier process are due, one step after another: they
// expire then, as loaded arms a timer. after is the last entry of the index that was looked at. It ends when
// all that an earlier process can have written was due: sessions of this one have timers of their own. On the
// loop of l, under no lock.
func (m *module) expireOld(l *session.LoopRouter, host *session.Host, after store.Deadline, end int64) {
	now := m.db.Deadlines().Now()
	if m.ended.Load() || now > end {
		return
	}
	again := func(pause reactor.Tick) {
		l.After(pause, func() { m.expireOld(l, host, after, end) })
	}
	var due []store.Deadline
	ok := l.RunOnWorker(host, reactor.Disk, func() error {
		return m.db.Deadlines().Scan(m.db, after, now, func(e store.Deadline) bool {
			due = append(due, e)
			return len(due) < sweepStep
		})
	}, func(l *session.LoopRouter, err error) {
		if err != nil {
			m.log.Error("the index of deadlines can't be read", "err", err)
		}
		for _, e := range due {
			after = e
			m.load(l, e)
		}
		if len(due) == sweepStep {
			again(sweepPause)
		} else {
			again(sweepIdle)
		}
	})
	if !ok {
		again(sweepIdle)
	}
}

// load loads the account of e, whose session is due. An entry of an account that is gone is deleted.
func (m *module) load(l *session.LoopRouter, e store.Deadline) {
	bare, err := jid.Parse(e.JID)
	host, ok := l.Router().Table.Host(bare.Domain())
	if err != nil || !ok {
		return
	}
	l.WithAccount(host, bare, func(_ *session.LoopRouter, a *session.Account, exists bool, err error) {
		if err == nil && (a == nil || !exists || a.ID() != e.Owner || find(a, e.Name) == nil) {
			b := m.db.NewBatch(e.Owner)
			b.DeleteDeadline(e)
			m.db.Commit(b)
		}
	})
}

// Unload implements [session.Unloader]: it ends expireOld and noteAlive.
func (m *module) Unload() error {
	m.ended.Store(true)
	return nil
}
