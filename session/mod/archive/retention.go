package archive

import (
	"bytes"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/archive"
	"canto/session/stanzaid"
	"canto/session/store"
)

// trimEvery is how often the oldest rows of a warm account are looked at.
const trimEvery = time.Hour

// trimIfDue deletes the oldest rows of a that exceed the retention or the limits, if that was not done in the
// last hour or if the archive is a tenth above a limit. It is called for each row that is written, and so
// costs next to nothing if nothing is due. newest is that row, whose id is st.sum.Last. Under the lock of a.
func (m *Service) trimIfDue(l *session.LoopRouter, a *session.Account, st *state, newest archive.Row) {
	if st.trimming {
		return
	}
	b := m.limits(a)
	over := b.MaxRows > 0 && st.sum.Count() > withSlack(b.MaxRows) || st.sum.Bytes() > withSlack(b.MaxBytes)
	if !over && m.retention == 0 {
		return
	}
	now := m.now()
	if !over && now.Unix() < st.nextTrim {
		return
	}
	st.nextTrim = now.Add(trimEvery).Unix()
	if m.retention > 0 {
		b.Before = stanzaid.FirstAt(now.Add(-m.retention))
		if !over && st.sum.First >= b.Before {
			return
		}
	}
	newest.Seq, newest.Total, newest.Devices = st.sum.LastSeq, st.sum.Total, nil
	newest.Element = bytes.Clone(newest.Element)
	m.trim(l, a, st, b, newest)
}

// limits returns what the archive of a may have. While a message waits for a device, that is also what may
// wait. Under the lock of a.
func (m *Service) limits(a *session.Account) archive.Bound {
	b := archive.Bound{MaxRows: uint64(m.opt.MaxMessages), MaxBytes: uint64(m.opt.MaxBytes)}
	if m.keep(a) != 0 {
		b.MaxBytes = max(b.MaxBytes, uint64(m.Offline.MaxBytes))
		if b.MaxRows != 0 {
			b.MaxRows = max(b.MaxRows, uint64(m.Offline.MaxRows))
		}
	}
	return b
}

// withSlack returns the size at which an archive with a limit is trimmed: a tenth above it, so that each
// search deletes many rows.
func withSlack(limit uint64) uint64 { return limit + limit/10 }

// trim looks for the oldest row of a that stays by b, on a worker, and then deletes those before it. Rows
// that wait for a device go like others, but not while they are delivered. The row newest, whose id is
// st.sum.Last, stays always: it is in a batch that may not be given to the store before the worker looks, and
// so the worker may not find it. A zero newest: all rows are given to the store, and all may go. Under the
// lock of a.
func (m *Service) trim(l *session.LoopRouter, a *session.Account, st *state, b archive.Bound,
	newest archive.Row) {
	host, addr, owner, sum, oldest := a.Host(), a.JID(), a.ID(), st.sum, m.keep(a)
	b.Keep = 0
	if oldest != 0 && !m.mayExpire(a) {
		b.Keep = oldest
	}
	var first stanzaid.ID
	var row archive.Row
	var w expiring
	st.trimming = l.RunOnWorker(host, reactor.Disk, func() (err error) {
		snap := m.db.Snapshot()
		defer snap.Close()
		first, row, err = m.Archive.Find(snap, owner, sum, b)
		if newest.Seq != 0 && first >= sum.Last {
			first, row = sum.Last, newest
		}
		if err == nil && oldest != 0 && first > oldest {
			w, err = m.expiringRows(snap, owner, max(oldest, sum.First), first)
		}
		if w.more {
			first, row = w.first, w.row
		}
		return err
	}, func(l *session.LoopRouter, err error) {
		l.WithAccount(host, addr, func(l *session.LoopRouter, a *session.Account, exists bool, failed error) {
			if failed != nil { // the next load may keep st, and trims then
				st.trimming = false
				return
			}
			if !exists || a.ID() != owner || part.Get(a) != st { // a write has failed, and the account was reloaded
				return
			}
			st.trimming = false
			if err != nil {
				m.counters.trimFailed.Add(1)
				return
			}
			if w.rows > 0 && (m.keep(a) != oldest || !m.mayExpire(a)) {
				return // they are delivered now: the next time
			}
			batch := m.db.NewBatch(owner)
			n := m.Archive.Trim(batch, owner, &st.sum, first, row)
			m.counters.expired.Add(n)
			if n == 0 {
				return
			}
			if w.rows > 0 {
				m.counters.expiredWaiting.Add(uint64(w.rows))
				m.Offline.Expired(a, batch, first, w.rows, w.bytes)
			}
			a.MarkUncommitted(l, session.Ticket(m.db.Commit(batch)))
			if w.more {
				m.trim(l, a, st, b, archive.Row{}) // it is no hook: all rows are given to the store
			}
		})
	})
}

// mayExpire reports whether rows of a that wait may be deleted now. Under the lock of a.
func (m *Service) mayExpire(a *session.Account) bool {
	return m.Offline.Expired != nil && !m.Offline.Replaying(a)
}

// maxExpiring is how many rows are read at a time for those among them that wait.
const maxExpiring = 20_000

// An expiring is what waits among the rows that have to go.
type expiring struct {
	rows, bytes int
	more        bool        // there are more than maxExpiring rows: for now those before first go
	first       stanzaid.ID // with more
	row         archive.Row // with more, of first
}

// expiringRows counts what waits among the rows from from on that are before first. On a worker.
func (m *Service) expiringRows(snap *store.Snapshot, owner uint64, from, first stanzaid.ID) (w expiring,
	err error) {
	n := 0
	err = m.Archive.Scan(snap, owner, from, first-1, false, func(id stanzaid.ID, row archive.Row) bool {
		if n++; n > maxExpiring {
			w.more, w.first, w.row = true, id, row
			w.row.Element, w.row.Devices = bytes.Clone(row.Element), nil
			return false
		}
		if row.Flags&archive.Waiting != 0 {
			w.rows, w.bytes = w.rows+1, w.bytes+len(row.Element)
		}
		return true
	})
	return w, err
}

// The pace of a sweep.
const (
	sweepAccounts              = 200    // accounts that one step looks at
	sweepPause    reactor.Tick = 10     // between two steps: 200 accounts a second
	sweepAgain    reactor.Tick = 36_000 // after the last account: an hour
)

// bound is the Bound hook: it trims the archive of an account whose client logs in, and starts the sweep of
// the host, once. Under the account's lock.
func (m *Service) bound(l *session.LoopRouter, s *session.Session) {
	if m.retention == 0 {
		return
	}
	m.expire(l, s.Account())
	if _, running := m.sweeps.LoadOrStore(s.Host().Name, true); !running {
		host := s.Host()
		l.After(sweepPause, func() { m.sweep(l, host, "") })
	}
}

// expire deletes the rows of a that are too old. Under the lock of a.
func (m *Service) expire(l *session.LoopRouter, a *session.Account) {
	st := part.Get(a)
	before := stanzaid.FirstAt(m.now().Add(-m.retention))
	if st == nil || st.trimming || st.sum.Last == 0 || st.sum.First >= before {
		return
	}
	m.trim(l, a, st, archive.Bound{Before: before}, archive.Row{})
}

// sweep looks for rows that are too old in the archives of a host, also of accounts that are not used: some
// accounts at a time, from the one after the localpart after. A worker reads the oldest row of each; only an
// account that has something to delete is loaded. An archive that can't be read is counted and left out. It
// continues until the module is unloaded. On a loop, under
// no lock.
func (m *Service) sweep(l *session.LoopRouter, host *session.Host, after string) {
	if m.unloaded.Load() {
		return
	}
	before := stanzaid.FirstAt(m.now().Add(-m.retention))
	var expired []store.Account
	seen, last := 0, ""
	ok := l.RunOnWorker(host, reactor.Disk, func() error {
		snap := m.db.Snapshot()
		defer snap.Close()
		return m.db.Accounts().List(snap, host.Name, after, func(acc store.Account) bool {
			seen, last = seen+1, acc.Local
			first, ok, err := m.Archive.First(snap, acc.ID)
			switch {
			case err != nil: // its rows are damaged: the others are looked at all the same
				m.counters.trimFailed.Add(1)
			case ok && first < before:
				expired = append(expired, acc)
			}
			return seen < sweepAccounts
		})
	}, func(l *session.LoopRouter, err error) {
		if err != nil {
			m.counters.trimFailed.Add(1)
		}
		for _, acc := range expired {
			addr, err := acc.JID()
			if err != nil {
				continue
			}
			m.withOwner(l, host, addr, acc.ID, m.expire)
		}
		pause := sweepPause
		if err != nil || seen < sweepAccounts {
			last, pause = "", sweepAgain
		}
		l.After(pause, func() { m.sweep(l, host, last) })
	})
	if !ok { // the workers are busy
		l.After(sweepPause, func() { m.sweep(l, host, after) })
	}
}

// Unload implements [session.Unloader]: it ends the sweeps.
func (m *Service) Unload() error {
	m.unloaded.Store(true)
	return nil
}

// keep returns the oldest row of a that waits, as no device has had it; 0 if there is none. Under the lock of
// a.
func (m *Service) keep(a *session.Account) stanzaid.ID {
	if m.Oldest == nil {
		return 0
	}
	return m.Oldest(a)
}
