package archive

import (
	"context"
	"errors"

	"canto/reactor"
	"canto/session"
	"canto/session/archive"
	"canto/session/jid"
	"canto/session/stanzaid"
	"canto/session/store"
)

// The errors of TrimAccount, besides those of the store.
var (
	ErrNoAccount = errors.New("archive: there is no such account")
	ErrTrimming  = errors.New("archive: the archive is being changed")
)

// A trimResult is what became of a command: how many rows were deleted, and the ticket of that write.
type trimResult struct {
	rows uint64
	t    store.Ticket
	err  error
}

// TrimAccount deletes the oldest rows of the account at addr of h: those that go by b, but none that waits
// for a device, whatever b.Keep is. It returns when that is durable. The error is ErrNoAccount, ErrTrimming
// if the archive is busy (the caller tries again), session.ErrBusy, or one of the store or of ctx. Any
// goroutine that may wait; no loop.
func (m *Service) TrimAccount(ctx context.Context, r *session.Router, h *session.Host, addr jid.JID,
	b archive.Bound) (uint64, error) {
	done := make(chan trimResult, 1)
	end := func(x trimResult) { done <- x } // called once
	loops := r.LoopRouters()
	l := loops[int(addr.Partition())%len(loops)]
	l.Loop.Post(func() {
		l.Enter(func() {
			l.WithAccount(h, addr, func(l *session.LoopRouter, a *session.Account, exists bool, err error) {
				switch {
				case err != nil:
					end(trimResult{err: err})
				case !exists:
					end(trimResult{err: ErrNoAccount})
				case part.Get(a) == nil: // an empty archive
					end(trimResult{})
				case part.Get(a).trimming:
					end(trimResult{err: ErrTrimming})
				default:
					m.trimAsked(l, a, part.Mutable(a), b, end)
				}
			})
		})
	})
	select {
	case x := <-done:
		if x.err != nil || x.rows == 0 {
			return 0, x.err
		}
		return x.rows, m.db.Wait(ctx, x.t)
	case <-ctx.Done(): // also if the server stops
		return 0, ctx.Err()
	}
}

// trimAsked looks for the oldest row of a that stays by b, on a worker, and then deletes those before it.
// Rows that come meanwhile stay. At the end it calls end. Under the lock of a, and not in a hook: what a has
// written is given to the store.
func (m *Service) trimAsked(l *session.LoopRouter, a *session.Account, st *state, b archive.Bound,
	end func(trimResult)) {
	host, addr, owner, sum := a.Host(), a.JID(), a.ID(), st.sum
	b.Keep = m.keep(a)
	var first stanzaid.ID
	var row archive.Row
	st.trimming = l.RunOnWorker(host, reactor.Disk, func() (err error) {
		snap := m.db.Snapshot()
		defer snap.Close()
		first, row, err = m.Archive.Find(snap, owner, sum, b)
		return err
	}, func(l *session.LoopRouter, err error) {
		l.WithAccount(host, addr, func(l *session.LoopRouter, a *session.Account, exists bool, failed error) {
			switch {
			case failed != nil: // the next load may keep st, and the next command trims then
				st.trimming = false
				end(trimResult{err: failed})
			case !exists || a.ID() != owner:
				end(trimResult{err: ErrNoAccount})
			case part.Get(a) != st: // a write has failed, and the account was reloaded
				end(trimResult{err: ErrTrimming})
			default:
				st.trimming = false
				end(m.trimFound(l, a, st, first, row, err))
			}
		})
	})
	if !st.trimming {
		end(trimResult{err: session.ErrBusy})
	}
}

// trimFound deletes the rows of a before first, whose row is row, if err is nil: these are the results of a
// search. Under the lock of a.
func (m *Service) trimFound(l *session.LoopRouter, a *session.Account, st *state, first stanzaid.ID,
	row archive.Row, err error) trimResult {
	if err != nil {
		m.counters.trimFailed.Add(1)
		return trimResult{err: err}
	}
	if first != 0 && row.Seq == 0 && st.sum.Last >= first { // all had to go, and there is a newer one by now
		return trimResult{err: ErrTrimming}
	}
	b := m.db.NewBatch(a.ID())
	x := trimResult{rows: m.Archive.Trim(b, a.ID(), &st.sum, first, row)}
	if x.rows > 0 {
		m.counters.expired.Add(x.rows)
		x.t = m.db.Commit(b)
		a.MarkUncommitted(l, session.Ticket(x.t))
	}
	return x
}

// TrimStored deletes the oldest rows of the archive of owner, as b says, in a store that no server has open.
// It returns when that is durable. The caller sets b.Keep. On a goroutine that may wait.
func TrimStored(ctx context.Context, db *store.DB, owner uint64, b archive.Bound) (rows uint64, err error) {
	arc, err := archive.Open(db.Tables())
	if err != nil {
		return 0, err
	}
	snap := db.Snapshot()
	defer snap.Close()
	sum, err := arc.Load(snap, owner)
	if err != nil {
		return 0, err
	}
	first, row, err := arc.Find(snap, owner, sum, b)
	if err != nil {
		return 0, err
	}
	batch := db.NewBatch(owner)
	if rows = arc.Trim(batch, owner, &sum, first, row); rows == 0 {
		return 0, nil
	}
	return rows, db.Wait(ctx, db.Commit(batch))
}
