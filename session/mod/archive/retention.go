package archive

import (
	"bytes"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/archive"
	"canto/session/stanzaid"
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
	over := m.opt.MaxMessages > 0 && st.sum.Count() > withSlack(uint64(m.opt.MaxMessages)) ||
		st.sum.Bytes() > withSlack(uint64(m.opt.MaxBytes))
	if !over && m.retention == 0 {
		return
	}
	now := m.now()
	if !over && now.Unix() < st.nextTrim {
		return
	}
	st.nextTrim = now.Add(trimEvery).Unix()
	b := archive.Bound{MaxRows: uint64(m.opt.MaxMessages), MaxBytes: uint64(m.opt.MaxBytes), Keep: m.keep(a)}
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

// withSlack returns the size at which an archive with a limit is trimmed: a tenth above it, so that each
// search deletes many rows.
func withSlack(limit uint64) uint64 { return limit + limit/10 }

// trim looks for the oldest row of a that stays by b, on a worker, and then deletes those before it. The row
// newest, whose id is st.sum.Last, stays always: it is in a batch that may not be given to the store before
// the worker looks, and so the worker may not find it. Under the lock of a.
func (m *Service) trim(l *session.LoopRouter, a *session.Account, st *state, b archive.Bound,
	newest archive.Row) {
	host, addr, owner, sum := a.Host(), a.JID(), a.ID(), st.sum
	var first stanzaid.ID
	var row archive.Row
	st.trimming = l.RunOnWorker(host, reactor.Disk, func() (err error) {
		snap := m.db.Snapshot()
		defer snap.Close()
		first, row, err = m.Archive.Find(snap, owner, sum, b)
		if first >= sum.Last {
			first, row = sum.Last, newest
		}
		return err
	}, func(l *session.LoopRouter, err error) {
		m.withOwner(l, host, addr, owner, func(l *session.LoopRouter, a *session.Account) {
			if part.Get(a) != st { // a write has failed, and the account was reloaded
				return
			}
			st.trimming = false
			if err != nil {
				m.counters.trimFailed.Add(1)
				return
			}
			batch := m.db.NewBatch(owner)
			n := m.Archive.Trim(batch, owner, &st.sum, first, row)
			m.counters.expired.Add(n)
			if n > 0 {
				a.MarkUncommitted(l, session.Ticket(m.db.Commit(batch)))
			}
		})
	})
}

// keep returns the oldest row of a that must not be deleted, as no device has had it; 0 if there is none.
func (m *Service) keep(a *session.Account) stanzaid.ID {
	if m.Oldest == nil {
		return 0
	}
	return m.Oldest(a)
}
