package session

import (
	"slices"

	"canto/reactor"
	"canto/session/stanza"
)

// awaitTicks is how long a request waits for its work.
const awaitTicks = 300

// maxAsked is how many requests from elsewhere may wait for one entity's work.
const maxAsked = 64

// Await is for the handler of an iq, of any kind of entity: it runs work on a worker and then then on the
// loop under the entity's lock, also if the asker is gone by then, but not if the entity is. A client's
// own stream takes no element meanwhile. A request from elsewhere can't be held back there: one of each
// asker is under way, the next begins when it has ended. After 30 s the answer is remote-server-timeout
// and the stream goes on; then still runs when work ends, and what it answers goes nowhere. Cold path.
func (ev *Stanza) Await(c reactor.Class, work func() error,
	then func(ev *Stanza, err error) Verdict) Verdict {
	if ev.at == nil || ev.Kind != stanza.IQ {
		panic("session: Await outside of an iq handler of an entity")
	}
	w := &await{l: ev.on, e: ev.at, ev: ev.Keep(), st: ev.stream, class: c, work: work, then: then,
		kind: ev.at.kind, id: ev.at.id, life: ev.at.live, profile: ev.at.host.Profile()}
	w.ev.stream = nil
	if w.st == nil && !w.queue() {
		return ev.Fail(stanza.ResourceConstraint)
	}
	passOn(ev, w.ev)
	ev.replied = true // then sees to it
	w.e.pins++
	w.profile.works.Add(1) // until it has begun, and is counted as work
	if w.st != nil {
		w.st.park(parkedWork)
	}
	if (w.st != nil || w.first()) && !w.begin() {
		w.drop()
		ev.carrier, w.ev.carrier, ev.heir = w.ev.carrier, false, nil
		return ev.Fail(stanza.ResourceConstraint)
	}
	w.l.Loop.Arm(&w.timer, w.l.Loop.Tick()+awaitTicks, w)
	return Done
}

// queue puts w behind the requests from elsewhere that e has; false: there are too many.
func (w *await) queue() bool {
	b := w.e.busy()
	if len(b.asked) >= maxAsked {
		return false
	}
	b.asked = append(b.asked, w)
	return true
}

// first reports whether w is the first of its asker. Under the lock.
func (w *await) first() bool {
	i := slices.IndexFunc(w.e.waits.asked, func(x *await) bool { return x.ev.From == w.ev.From })
	return w.e.waits.asked[i] == w
}

// begin gives w's work to a worker; false: there is no room.
func (w *await) begin() bool {
	w.begun = true
	defer w.profile.works.Add(-1)
	return w.l.do(w.profile, w.class, w.work, func(err error) { w.done(err) })
}

// drop ends w, which is in no worker's hands. Under the lock.
func (w *await) drop() {
	w.e.pins--
	if w.st != nil {
		w.st.unpark(parkedWork)
		return
	}
	b := w.e.waits
	b.asked = slices.DeleteFunc(b.asked, func(x *await) bool { return x == w })
	w.e.calm()
	if next := slices.IndexFunc(b.asked, func(x *await) bool {
		return x.ev.From == w.ev.From
	}); next >= 0 && !b.asked[next].begun {
		n := b.asked[next]
		n.l.Loop.Post(func() { n.l.Enter(n.start) })
	}
}

// start begins w, which has waited for another of its asker.
func (w *await) start() {
	defer func() {
		if w.refused {
			w.ev.land(w.l)
		}
	}()
	w.e.lock(w.l)
	defer w.e.release(w.l)
	if w.begun || w.late || w.begin() {
		return
	}
	w.l.Loop.Arm(&w.timer, 0, w)
	w.ev.on, w.ev.at = w.l, w.e
	w.ev.Fail(stanza.ResourceConstraint)
	w.drop()
	w.refused = true
}

// done goes on with w, whose work has ended. A panic in then ends that request alone, which is answered.
func (w *await) done(err error) {
	l, e := w.l, w.e
	l.enter()
	defer l.leave()
	l.Loop.Arm(&w.timer, 0, w)
	l.origin, l.originLoop = w.ev.origin, w.ev.loop
	defer w.ev.land(l)
	defer l.boundary(newFrame(l, w.ev.From, w.ev))
	w.ev.silent = w.late
	e.lock(l)
	if w.late && w.st != nil { // the stream has gone on
		w.st = nil
		e.pins--
	} else {
		w.drop()
	}
	w.ev.on, w.ev.at = l, e
	if w.same() {
		w.then(w.ev, err)
		writeBatch(w.ev)
	} else {
		orphaned(w.ev)
	}
	e.unlock(l)
}

// same reports whether the entity is the one that was asked: another may have been made at its address
// meanwhile. Under the lock.
func (w *await) same() bool {
	e := w.e
	switch {
	case e.resident == goneMark || e.kind != w.kind:
		return false
	case w.id != 0:
		return e.id == w.id
	}
	return w.life == nil || e.live == w.life
}

// OnTimer answers a request whose work takes too long.
func (w *await) OnTimer(*reactor.Loop) {
	l := w.l
	l.enter()
	defer l.leave()
	defer w.ev.land(l) // it is answered; what then stores all the same is not its sender's any more
	defer l.boundary(newFrame(l, w.ev.From, nil))
	w.e.lock(l)
	w.late = true
	w.ev.on, w.ev.at = l, w.e
	w.ev.Fail(stanza.RemoteServerTimeout)
	if !w.begun {
		w.drop()
		w.profile.works.Add(-1)
	}
	w.e.unlock(l)
	if w.st != nil {
		w.st.unpark(parkedWork)
	}
}
