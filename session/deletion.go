package session

import (
	"errors"

	"canto/reactor"
	"canto/session/jid"
)

// This file finishes the deletion of an account: its contacts are told before its rows are erased.

// FinishDeletion ends what is left of an account that was taken out of the directory. It goes through
// these steps: logins under way are revoked and the sessions end; a worker reads the rows that are still
// stored under the account's id; the hooks of [Hooks.Deleted] say which contacts are told what; the
// contacts are told, 64 at a time; a worker waits until the changes at the contacts are durable; erase is
// called, which must delete the rows. After a failure it goes on after a pause, up to seven times: it
// reads the rows again, and tells the contacts that failed and those whose change was lost, but no
// others. done is called once: after erase, at the first failure, or at once if the domain has no logins
// now. It may be nil. If the server stops before erase was called, the next start must call
// FinishDeletion again. Any goroutine. erase and done run on a loop.
func (r *Router) FinishDeletion(who EntityRef, erase, done func()) {
	r.Table.revoke(who.JID)
	l := r.homeLoop(who.JID)
	b := &deletion{who: who, erase: erase, done: done}
	l.Loop.Post(func() { l.Enter(func() { b.begin(l) }) })
}

// A deletion is the state of one call of [Router.FinishDeletion]. It belongs to the home loop of the address.
type deletion struct {
	who         EntityRef
	erase, done func()
	host        *Host
	hooksRun    bool     // the hooks have said which contacts are told
	toNotify    []notice // contacts that are not told yet
	notified    []notice // contacts that were told, with the tickets of what they have stored
	failed      []notice // contacts that are to be told again
	tries       int      // failures so far
}

// A notice is the stanza that one contact gets.
type notice struct {
	to     jid.JID
	el     []byte
	ticket Ticket // of what the contact has stored
}

// After a failure a deletion waits for deletionRetry ticks, twice as long each time. After deletionTries
// failures it waits for the next start.
const (
	deletionRetry = 100
	deletionTries = 8
)

// notifyBatchSize is how many contacts are told at a time: each may have to be loaded.
const notifyBatchSize = 64

// begin ends the sessions of the account and goes on with read.
func (b *deletion) begin(l *LoopRouter) {
	host, ok := l.router.Table.Host(domainOf(b.who.JID))
	if !ok || host.service {
		b.callDone() // the rows wait for a start in which the domain has logins
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
		if a != nil && a.id == b.who.ID { // else another account has the name by now
			a.endDeleted(l)
			l.router.Table.remove(&a.Entity, false, 0)
		}
		l.Loop.Post(func() { l.Enter(func() { b.read(l) }) })
	})
}

// read lets a worker read the rows of the account, and goes on with runHooks.
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

// runHooks asks the hooks which contacts are told, on an account made of the rows got, and goes on with
// notifyBatch.
func (b *deletion) runHooks(l *LoopRouter, got *residentSet) {
	defer func() {
		if r := recover(); r != nil {
			l.handlePanic(r, newPanicFrame(l, b.who.JID, nil))
			b.retry(l, errors.New("session: a hook has panicked"))
		}
	}()
	if b.hooksRun { // only the contacts that failed are told: another account may have the name by now
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

// notifyBatch tells the next contacts, and calls itself again once each of them is done; after the last
// it goes on with finish.
func (b *deletion) notifyBatch(l *LoopRouter) {
	batch := b.toNotify[:min(notifyBatchSize, len(b.toNotify))]
	b.toNotify = b.toNotify[len(batch):]
	if len(batch) == 0 {
		b.finish(l)
		return
	}
	left := len(batch)
	told := func() {
		if left--; left == 0 {
			l.Loop.Post(func() { l.Enter(func() { b.notifyBatch(l) }) })
		}
	}
	for _, n := range batch {
		b.notify(l, n, told)
	}
}

// notify tells one contact, and calls told in any case: a local account under its lock, another address by a
// stanza to it. A contact that can't be told is added to failed.
func (b *deletion) notify(l *LoopRouter, n notice, told func()) {
	defer l.recoverPanic(newPanicFrame(l, n.to, nil))
	host, ours := l.router.Table.Host(domainOf(n.to))
	if !ours || host.service { // no account of this server
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

// deliver runs the phases Deliver and Fallback of a's chain for presence with env; the phases before, as
// that of the block list, do not run. It reports whether that worked. Under a's lock.
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
	ev.noReply = true // the sender does not exist any more
	runPhases(&a.host.Profile().Hooks.Presence[ToBare], ev, Deliver, Fallback+1)
	return !ev.failed
}

// finish waits on a worker until the changes at all contacts are durable, and calls erase and done.
// Contacts whose change was lost are told again.
func (b *deletion) finish(l *LoopRouter) {
	told := b.notified
	b.notified = nil
	var lost []notice // contacts whose change was not stored
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

// retry calls begin again after a pause, unless there were too many failures.
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
	b.callDone() // the caller does not wait for the retries
}

// callDone calls done, once.
func (b *deletion) callDone() {
	if done := b.done; done != nil {
		b.done = nil
		done()
	}
}
