package session

import (
	"slices"

	"canto/reactor"
	"canto/session/stanza"
)

// awaitTicks is how long the sender of an awaited request waits for its answer: 30 seconds.
const awaitTicks = 300

// maxRequests bounds the awaited requests of senders elsewhere, for one entity.
const maxRequests = 64

// Await is for the handler of an iq that must block, at an entity of any kind. A worker runs
// work; then then runs on the loop under the entity's lock, even if the sender has gone, but not
// if the entity has. Await returns the Verdict for the handler.
//
// A client's own stream is parked in the meantime. Requests of senders elsewhere cannot be
// parked: one of each sender runs at a time, the others wait, and more than 64 for one entity are
// answered with resource-constraint. After 30 seconds the sender gets remote-server-timeout, and
// the stream continues; then still runs when work ends, but its answer is dropped. Under the
// lock. It allocates.
func (ev *Stanza) Await(c reactor.Class, work func() error,
	then func(ev *Stanza, err error) Verdict) Verdict {
	if ev.entity == nil || ev.Kind != stanza.IQ {
		panic("session: Await outside of an iq handler of an entity")
	}
	w := &awaitedRequest{l: ev.loopRouter, e: ev.entity, ev: ev.Clone(), st: ev.stream, class: c, work: work,
		then: then,
		kind: ev.entity.kind, id: ev.entity.id, liveAtStart: ev.entity.live, profile: ev.entity.host.Profile()}
	w.ev.stream = nil
	if w.st == nil && !w.enqueue() {
		return ev.Fail(stanza.ResourceConstraint)
	}
	transferOrigin(ev, w.ev)
	ev.replied = true // then will answer
	w.e.pins++
	w.profile.pendingWork.Add(1) // until startWork, which counts it as work
	if w.st != nil {
		w.st.park(parkedWork)
	}
	if (w.st != nil || w.isFirst()) && !w.startWork() {
		w.remove()
		ev.settlesOrigin, w.ev.settlesOrigin, ev.successor = w.ev.settlesOrigin, false, nil
		return ev.Fail(stanza.ResourceConstraint)
	}
	w.l.Loop.Arm(&w.timer, w.l.Loop.Tick()+awaitTicks, w)
	return Done
}

// enqueue appends w to the requests of senders elsewhere. It returns false if there are too many.
// Under the lock.
func (w *awaitedRequest) enqueue() bool {
	b := w.e.ensurePending()
	if len(b.requests) >= maxRequests {
		return false
	}
	b.requests = append(b.requests, w)
	return true
}

// isFirst reports whether no other request of w's sender waits before it. Under the lock.
func (w *awaitedRequest) isFirst() bool {
	i := slices.IndexFunc(w.e.pending.requests, func(x *awaitedRequest) bool { return x.ev.From == w.ev.From })
	return w.e.pending.requests[i] == w
}

// startWork gives w's work to a worker. It returns false if the queue of the workers is full.
func (w *awaitedRequest) startWork() bool {
	w.started = true
	defer w.profile.pendingWork.Add(-1)
	return w.l.runOnWorker(w.profile, w.class, w.work, func(err error) { w.done(err) })
}

// remove takes w off its entity, unparks its stream, and starts the sender's next request. w's
// work must not be in flight. Under the lock.
func (w *awaitedRequest) remove() {
	w.e.pins--
	if w.st != nil {
		w.st.unpark(parkedWork)
		return
	}
	b := w.e.pending
	b.requests = slices.DeleteFunc(b.requests, func(x *awaitedRequest) bool { return x == w })
	w.e.releasePending()
	if next := slices.IndexFunc(b.requests, func(x *awaitedRequest) bool {
		return x.ev.From == w.ev.From
	}); next >= 0 && !b.requests[next].started {
		n := b.requests[next]
		n.l.Loop.Post(func() { n.l.Enter(n.startQueued) })
	}
}

// startQueued starts w, which has waited for another request of its sender. If the queue of the
// workers is full, w is answered with resource-constraint. On w's loop, under no lock.
func (w *awaitedRequest) startQueued() {
	defer func() {
		if w.rejected {
			w.ev.finish(w.l)
		}
	}()
	w.e.lock(w.l)
	defer w.e.unlockOrRepanic(w.l)
	if w.started || w.timedOut || w.startWork() {
		return
	}
	w.l.Loop.Arm(&w.timer, 0, w)
	w.ev.loopRouter, w.ev.entity = w.l, w.e
	w.ev.Fail(stanza.ResourceConstraint)
	w.remove()
	w.rejected = true
}

// done continues with w after its work has ended with err: it calls then under the lock. If the
// entity was deleted, the request is answered as if it had never existed. A panic in then ends
// only this request, which is answered. On w's loop, under no lock.
func (w *awaitedRequest) done(err error) {
	l, e := w.l, w.e
	l.enter()
	defer l.leave()
	l.Loop.Arm(&w.timer, 0, w)
	l.origin, l.originLoopNumber = w.ev.origin, w.ev.originLoopNumber
	defer w.ev.finish(l)
	defer l.recoverPanic(newPanicFrame(l, w.ev.From, w.ev))
	w.ev.noReply = w.timedOut
	e.lock(l)
	if w.timedOut && w.st != nil { // the stream has gone on
		w.st = nil
		e.pins--
	} else {
		w.remove()
	}
	w.ev.loopRouter, w.ev.entity = l, e
	if w.sameEntity() {
		w.then(w.ev, err)
		writeBatch(w.ev)
	} else {
		failDeleted(w.ev)
	}
	e.unlock(l)
}

// sameEntity reports whether the entity is still the one that was asked: another may have been
// created at its address. Under the lock.
func (w *awaitedRequest) sameEntity() bool {
	e := w.e
	switch {
	case e.resident == evictedMark || e.kind != w.kind:
		return false
	case w.id != 0:
		return e.id == w.id
	}
	return w.liveAtStart == nil || e.live == w.liveAtStart
}

// OnTimer answers a request with work that takes too long, and lets its stream continue. The loop's
// timer calls it.
func (w *awaitedRequest) OnTimer(*reactor.Loop) {
	l := w.l
	l.enter()
	defer l.leave()
	defer w.ev.finish(l) // what then stores later is no longer waited for
	defer l.recoverPanic(newPanicFrame(l, w.ev.From, nil))
	w.e.lock(l)
	w.timedOut = true
	w.ev.loopRouter, w.ev.entity = l, w.e
	w.ev.Fail(stanza.RemoteServerTimeout)
	if !w.started {
		w.remove()
		w.profile.pendingWork.Add(-1)
	}
	w.e.unlock(l)
	if w.st != nil {
		w.st.unpark(parkedWork)
	}
}
