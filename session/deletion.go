package session

import (
	"errors"

	"canto/reactor"
	"canto/session/jid"
)

// Bury ends what is left of an account that the directory has no more: its sessions, and what others know
// of it, by the hooks Deleted over what is still stored under its id. When all who are to be told have
// been, and what that has changed is durable, erase is called, which gives the end of its rows to the
// store. A failure begins it anew after a pause, a few times. done, which may be nil, is called once:
// when rows are erased, when it begins anew, or when it has to wait for the next start, as users do not
// log in at the domain. If the server stops before the end, Bury is to be called again with the next
// start; it may be called any number of times. Any goroutine.
func (r *Router) Bury(who Who, erase, done func()) {
	r.Table.kicked(who.JID)
	l := r.home(who.JID)
	b := &burial{who: who, erase: erase, done: done}
	l.Loop.Post(func() { l.Enter(func() { b.begin(l) }) })
}

// A burial is one Bury. On the home loop of the address.
type burial struct {
	who         Who
	erase, done func()
	host        *Host
	asked       bool
	tell        []notice // still to be told
	told        []notice // and what they have written
	failed      []notice // to be told again
	tries       int
}

// A notice is what one contact is told.
type notice struct {
	to jid.JID
	el []byte
	t  Ticket // of what it has changed
}

// After a failure of the store a burial waits for buryAgain ticks, each time twice as long, and gives up
// until the next start after buryTries.
const (
	buryAgain = 100
	buryTries = 8
)

// buryShare is how many notices are on their way at a time.
const buryShare = 64

func (b *burial) begin(l *Local) {
	host, ok := l.router.Table.Host(domainOf(b.who.JID))
	if !ok || host.service {
		b.end() // its rows wait for a start with which users log in at the domain
		return
	}
	b.host = host
	if a, ok := l.router.Table.Loaded(b.who.JID); !ok || a.host != host {
		b.read(l)
		return
	}
	l.Account(host, b.who.JID, func(l *Local, a *Account, exists bool, err error) {
		if err != nil {
			b.again(l, err)
			return
		}
		if a != nil && a.id == b.who.ID { // else the name is another's by now
			a.forget(l)
			l.router.Table.drop(&a.Entity, false, 0)
		}
		l.Loop.Post(func() { l.Enter(func() { b.read(l) }) })
	})
}

// read has a worker read what is stored, and asks the hooks.
func (b *burial) read(l *Local) {
	p := b.host.Profile()
	var got *resident
	if !l.do(p, reactor.Disk, func() (err error) {
		snap := l.router.Durable.Snapshot()
		if c, ok := snap.(interface{ Close() error }); ok {
			defer c.Close()
		}
		got, err = p.read(snap, Accounts, b.who, nil)
		return err
	}, func(err error) {
		l.Enter(func() {
			if err != nil {
				b.again(l, err)
				return
			}
			b.ask(l, got)
		})
	}) {
		b.again(l, ErrBusy)
	}
}

func (b *burial) ask(l *Local, got *resident) {
	defer func() {
		if r := recover(); r != nil {
			l.panicked(r, newFrame(l, b.who.JID, nil))
			b.again(l, errors.New("session: a hook has panicked"))
		}
	}()
	if b.asked { // who was told is not told again: the name may be another's by now
		b.tell, b.failed = b.failed, nil
		b.next(l)
		return
	}
	a := &Account{Entity: Entity{addr: b.who.JID, id: b.who.ID, host: b.host, resident: got, kind: Accounts}}
	a.live = a
	b.tell, b.told, b.failed = nil, nil, nil
	a.lock(l)
	c := &b.host.Profile().Hooks.Deleted
	for i := range c.links {
		c.links[i].f(l, a, func(to jid.JID, el []byte) {
			b.tell = append(b.tell, notice{to: to, el: append([]byte(nil), el...)})
		})
	}
	a.unlock(l)
	b.asked = true
	b.next(l)
}

// next tells a share of the contacts, and goes on when each has been.
func (b *burial) next(l *Local) {
	share := b.tell[:min(buryShare, len(b.tell))]
	b.tell = b.tell[len(share):]
	if len(share) == 0 {
		b.finish(l)
		return
	}
	left := len(share)
	told := func() {
		if left--; left == 0 {
			l.Loop.Post(func() { l.Enter(func() { b.next(l) }) })
		}
	}
	for _, n := range share {
		b.notify(l, n, told)
	}
}

// notify tells one contact, under its lock, and calls told then, whatever a hook does.
func (b *burial) notify(l *Local, n notice, told func()) {
	defer l.boundary(newFrame(l, n.to, nil))
	host, ours := l.router.Table.Host(domainOf(n.to))
	if !ours || host.service { // it is no account: news of presence is a stanza to it
		l.Post(b.who.JID, n.to, n.el)
		told()
		return
	}
	l.Account(host, n.to, func(l *Local, a *Account, exists bool, err error) {
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
			if !b.notice(l, a, envelope{from: b.who.JID, to: n.to, bytes: n.el, target: ToBare, hops: 1}) {
				return
			}
			n.t = a.ticket
			b.told = append(b.told, n)
		}
		ok = true
	})
}

// notice takes a piece of news about a deleted account through a's chain for presence, from where it is
// handed over: what a blocks is not asked. It reports whether it was taken.
func (b *burial) notice(l *Local, a *Account, env envelope) bool {
	e, err := l.Parser.Element(env.bytes)
	if err != nil {
		return false
	}
	defer l.Parser.Release(e)
	ev := l.stack.push(l)
	defer l.stack.pop()
	env.fill(l, ev, e)
	ev.Host, ev.at = a.host, &a.Entity
	ev.silent = true // the one who would be answered is not there
	runPhases(&a.host.Profile().Hooks.Presence[ToBare], ev, Deliver, Fallback+1)
	return !ev.failed
}

// finish waits on a worker until all that was changed is durable, and has the rows erased.
func (b *burial) finish(l *Local) {
	told := b.told
	b.told = nil
	var lost []notice // whose change was not written
	if !l.do(b.host.Profile(), reactor.Disk, func() error {
		for _, n := range told {
			if l.router.Durable.Await(n.t) != nil {
				lost = append(lost, n)
			}
		}
		return nil
	}, func(error) {
		l.Enter(func() {
			if b.failed = append(b.failed, lost...); len(b.failed) > 0 {
				b.again(l, errors.New("session: a contact could not be told"))
				return
			}
			b.erase()
			b.end()
		})
	}) {
		b.failed = append(b.failed, told...)
		b.again(l, ErrBusy)
	}
}

// again begins anew after a while.
func (b *burial) again(l *Local, err error) {
	if b.tries++; b.tries == buryTries {
		l.Log.Error("the contacts of a deleted account could not be told; the next start tries again", "jid",
			b.who.JID.String(), "err", err)
		b.end()
		return
	}
	wait := reactor.Tick(buryAgain << (b.tries - 1))
	l.Log.Warn("the contacts of a deleted account could not be told; again later", "jid", b.who.JID.String(),
		"seconds", wait/10, "err", err)
	l.After(wait, func() { b.begin(l) })
	b.end() // others need not wait for it
}

// end calls done, once.
func (b *burial) end() {
	if done := b.done; done != nil {
		b.done = nil
		done()
	}
}
