package session

import (
	"errors"

	"canto/reactor"
	"canto/session/jid"
)

// FinishDeletion ends what is left of an account that the directory has no more: its sessions, and what
// others know of it, by the hooks Deleted over what is still stored under its id. When all who are to be
// told have been, and what that has changed is durable, erase is called, which gives the end of its rows
// to the store. A failure begins it anew after a pause, a few times. done, which may be nil, is called
// once: when rows are erased, when it begins anew, or when it has to wait for the next start, as users do
// not log in at the domain. If the server stops before the end, Bury is to be called again with the next
// start; it may be called any number of times. Any goroutine.
func (r *Router) FinishDeletion(who EntityRef, erase, done func()) {
	r.Table.revoke(who.JID)
	l := r.homeLoop(who.JID)
	b := &deletion{who: who, erase: erase, done: done}
	l.Loop.Post(func() { l.Enter(func() { b.begin(l) }) })
}

// A deletion is one Bury. On the home loop of the address.
type deletion struct {
	who         EntityRef
	erase, done func()
	host        *Host
	hooksRun    bool
	toNotify    []notice // still to be told
	notified    []notice // and what they have written
	failed      []notice // to be told again
	tries       int
}

// A notice is what one contact is told.
type notice struct {
	to     jid.JID
	el     []byte
	ticket Ticket // of what it has changed
}

// After a failure of the store a burial waits for deletionRetry ticks, each time twice as long, and gives up
// until the next start after deletionTries.
const (
	deletionRetry = 100
	deletionTries = 8
)

// notifyBatchSize is how many notices are on their way at a time.
const notifyBatchSize = 64

func (b *deletion) begin(l *LoopRouter) {
	host, ok := l.router.Table.Host(domainOf(b.who.JID))
	if !ok || host.service {
		b.callDone() // its rows wait for a start with which users log in at the domain
		return
	}
	b.host = host
	if a, ok := l.router.Table.LookupAccount(b.who.JID); !ok || a.host != host {
		b.read(l)
		return
	}
	l.WithAccount(host, b.who.JID, func(l *LoopRouter, a *Account, exists bool, err error) {
		if err != nil {
			b.retry(l, err)
			return
		}
		if a != nil && a.id == b.who.ID { // else the name is another's by now
			a.endDeleted(l)
			l.router.Table.remove(&a.Entity, false, 0)
		}
		l.Loop.Post(func() { l.Enter(func() { b.read(l) }) })
	})
}

// read has a worker read what is stored, and asks the hooks.
func (b *deletion) read(l *LoopRouter) {
	p := b.host.Profile()
	var got *residentSet
	if !l.runOnWorker(p, reactor.Disk, func() (err error) {
		snap := l.router.Committer.Snapshot()
		if c, ok := snap.(interface{ Close() error }); ok {
			defer c.Close()
		}
		got, err = p.loadParts(snap, KindAccount, b.who, nil)
		return err
	}, func(err error) {
		l.Enter(func() {
			if err != nil {
				b.retry(l, err)
				return
			}
			b.runHooks(l, got)
		})
	}) {
		b.retry(l, ErrBusy)
	}
}

func (b *deletion) runHooks(l *LoopRouter, got *residentSet) {
	defer func() {
		if r := recover(); r != nil {
			l.handlePanic(r, newPanicFrame(l, b.who.JID, nil))
			b.retry(l, errors.New("session: a hook has panicked"))
		}
	}()
	if b.hooksRun { // who was told is not told again: the name may be another's by now
		b.toNotify, b.failed = b.failed, nil
		b.notifyBatch(l)
		return
	}
	a := &Account{Entity: Entity{addr: b.who.JID, id: b.who.ID, host: b.host, resident: got, kind: KindAccount}}
	a.live = a
	b.toNotify, b.notified, b.failed = nil, nil, nil
	a.lock(l)
	c := &b.host.Profile().Hooks.Deleted
	for i := range c.hooks {
		c.hooks[i].f(l, a, func(to jid.JID, el []byte) {
			b.toNotify = append(b.toNotify, notice{to: to, el: append([]byte(nil), el...)})
		})
	}
	a.unlock(l)
	b.hooksRun = true
	b.notifyBatch(l)
}

// notifyBatch tells a share of the contacts, and goes on when each has been.
func (b *deletion) notifyBatch(l *LoopRouter) {
	share := b.toNotify[:min(notifyBatchSize, len(b.toNotify))]
	b.toNotify = b.toNotify[len(share):]
	if len(share) == 0 {
		b.finish(l)
		return
	}
	left := len(share)
	told := func() {
		if left--; left == 0 {
			l.Loop.Post(func() { l.Enter(func() { b.notifyBatch(l) }) })
		}
	}
	for _, n := range share {
		b.notify(l, n, told)
	}
}

// notify tells one contact, under its lock, and calls told then, whatever a hook does.
func (b *deletion) notify(l *LoopRouter, n notice, told func()) {
	defer l.recoverPanic(newPanicFrame(l, n.to, nil))
	host, ours := l.router.Table.Host(domainOf(n.to))
	if !ours || host.service { // it is no account: news of presence is a stanza to it
		l.Send(b.who.JID, n.to, n.el)
		told()
		return
	}
	l.WithAccount(host, n.to, func(l *LoopRouter, a *Account, exists bool, err error) {
		ok := false
		defer func() {
			if !ok {
				b.failed = append(b.failed, n)
			}
			told()
		}()
		switch {
		case err != nil:
			return
		case exists:
			if !b.deliver(l, a, envelope{from: b.who.JID, to: n.to, bytes: n.el, target: ToBare, hops: 1}) {
				return
			}
			n.ticket = a.ticket
			b.notified = append(b.notified, n)
		}
		ok = true
	})
}

// deliver takes a piece of news about a deleted account through a's chain for presence, from where it is
// handed over: what a blocks is not asked. It reports whether it was taken.
func (b *deletion) deliver(l *LoopRouter, a *Account, env envelope) bool {
	e, err := l.Parser.Element(env.bytes)
	if err != nil {
		return false
	}
	defer l.Parser.Release(e)
	ev := l.stanzas.push(l)
	defer l.stanzas.pop()
	env.fillStanza(l, ev, e)
	ev.Host, ev.entity = a.host, &a.Entity
	ev.noReply = true // the one who would be answered is not there
	runPhases(&a.host.Profile().Hooks.Presence[ToBare], ev, Deliver, Fallback+1)
	return !ev.failed
}

// finish waits on a worker until all that was changed is durable, and has the rows erased.
func (b *deletion) finish(l *LoopRouter) {
	told := b.notified
	b.notified = nil
	var lost []notice // whose change was not written
	if !l.runOnWorker(b.host.Profile(), reactor.Disk, func() error {
		for _, n := range told {
			if l.router.Committer.Await(n.ticket) != nil {
				lost = append(lost, n)
			}
		}
		return nil
	}, func(error) {
		l.Enter(func() {
			if b.failed = append(b.failed, lost...); len(b.failed) > 0 {
				b.retry(l, errors.New("session: a contact could not be told"))
				return
			}
			b.erase()
			b.callDone()
		})
	}) {
		b.failed = append(b.failed, told...)
		b.retry(l, ErrBusy)
	}
}

// retry begins anew after a while.
func (b *deletion) retry(l *LoopRouter, err error) {
	if b.tries++; b.tries == deletionTries {
		l.Log.Error("the contacts of a deleted account could not be told; the next start tries again", "jid",
			b.who.JID.String(), "err", err)
		b.callDone()
		return
	}
	wait := reactor.Tick(deletionRetry << (b.tries - 1))
	l.Log.Warn("the contacts of a deleted account could not be told; again later", "jid", b.who.JID.String(),
		"seconds", wait/10, "err", err)
	l.After(wait, func() { b.begin(l) })
	b.callDone() // others need not wait for it
}

// callDone calls done, once.
func (b *deletion) callDone() {
	if done := b.done; done != nil {
		b.done = nil
		done()
	}
}
