package session

import (
	"slices"

	"canto/reactor"
	"canto/session/stanza"
)

// awaitTicks is how long a request waits for its work.
const awaitTicks = 300

// maxRequests is how many requests from elsewhere may wait for one entity's work.
const maxRequests = 64

// Await is for the handler of an iq, of any kind of entity: it runs work on a worker and then then on the
// loop under the entity's lock, also if the asker is gone by then, but not if the entity is. A client's
// own stream takes no element meanwhile. A request from elsewhere can't be held back there: one of each
// asker is under way, the next begins when it has ended. After 30 s the answer is remote-server-timeout
// and the stream goes on; then still runs when work ends, and what it answers goes nowhere. Cold path.
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
	ev.replied = true // then sees to it
	w.e.pins++
	w.profile.pendingWork.Add(1) // until it has begun, and is counted as work
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

// enqueue puts w behind the requests from elsewhere that e has; false: there are too many.
func (w *awaitedRequest) enqueue() bool {
	b := w.e.ensurePending()
	if len(b.requests) >= maxRequests {
		return false
	}
	b.requests = append(b.requests, w)
	return true
}

// isFirst reports whether w is the first of its asker. Under the lock.
func (w *awaitedRequest) isFirst() bool {
	i := slices.IndexFunc(w.e.pending.requests, func(x *awaitedRequest) bool { return x.ev.From == w.ev.From })
	return w.e.pending.requests[i] == w
}

// startWork gives w's work to a worker; false: there is no room.
func (w *awaitedRequest) startWork() bool {
	w.started = true
	defer w.profile.pendingWork.Add(-1)
	return w.l.runOnWorker(w.profile, w.class, w.work, func(err error) { w.done(err) })
}

// remove ends w, which is in no worker's hands. Under the lock.
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

// startQueued begins w, which has waited for another of its asker.
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

// done goes on with w, whose work has ended. A panic in then ends that request alone, which is answered.
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

// sameEntity reports whether the entity is the one that was asked: another may have been made at its address
// meanwhile. Under the lock.
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

// OnTimer answers a request whose work takes too long.
func (w *awaitedRequest) OnTimer(*reactor.Loop) {
	l := w.l
	l.enter()
	defer l.leave()
	defer w.ev.finish(l) // it is answered; what then stores all the same is not its sender's any more
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
