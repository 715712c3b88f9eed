package session

import (
	"bytes"
	"encoding/hex"
	"io"
	"slices"

	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// This file has the requests of the server itself: an entity, or a host, sends an iq of type get or set to
// any address, and a function of the module gets what comes of it. The rules, against attack S16:
//
//   - The id has 96 random bits: nothing that was not sent the request knows it.
//   - An answer is an iq of type result or error. It has the id. It comes from exactly the address that was
//     asked, which may be written in any form that RFC 7622 makes equal. It is addressed to the entity that
//     has asked, or has no address and comes from a client of the asking account, which is the same (RFC 6120
//     section 10.3.3). The kernel stamps the true sender on all stanzas, so that an answer of the asking
//     account itself, or of its host, has its address too, where RFC 6120 section 8.1.2.1 lets a client
//     leave it out.
//   - What has the id and is anything else is treated as if there were no request. It is counted
//     (Stats.StrayAnswers), and so is a result or an error with an id of this form that no request waits for:
//     one that is late, and one that comes twice.
//   - One request has one outcome. It is taken off the list before the function is called.
//
// A request keeps its entity in memory: it counts as pending, for the time of the timeout at most. If the
// entity is deleted meanwhile, the function is called at the timeout, with ErrAskEnded. Another kernel that
// takes over does not know the requests, and a server that stops forgets them.

// A Question is a request of an entity or a host: see [LoopRouter.Ask].
type Question struct {
	From AnyEntity // the entity that asks, which is locked; nil: Host asks
	Host *Host     // asks if From is nil
	To   jid.JID   // any address
	Set  bool      // the iq is of type set, else of type get
	// Payload writes the one child of the iq. It is called before Ask returns.
	Payload func(a *xmlstream.Appender)
	// Timeout is how long an answer may take, in ticks, at most ten minutes; 0: 30 seconds.
	Timeout reactor.Tick
	// Most is how many requests the entity, or the host, may have without an answer, this one included; 0: 10.
	Most int
	// Then is called once, on a loop. With an answer, err is nil, and answer is valid until Then returns: it
	// is an iq of type result or error. Else answer is nil, and err is ErrAskTimeout or ErrAskEnded.
	//
	// e is the asking entity. It is locked and in memory. It is nil if a host has asked; then there is no lock.
	// It is nil as well with ErrAskEnded: the entity was deleted, and Then must only forget what it has kept.
	Then func(l *LoopRouter, e *Entity, answer *Stanza, err error)
}

// Bounds of requests. They are counted where they refuse one (Limits "asks").
const (
	askTicks    = 300    // how long an answer may take, if the question does not say
	maxAskTicks = 6000   // and at most
	asksOfOne   = 10     // requests of one entity or host, if the question does not say
	maxAsks     = 65_536 // requests of the process
)

// The errors of requests.
var (
	// ErrAskTimeout is the error of a request to which no answer came in time.
	ErrAskTimeout error = askError("no answer in time")
	// ErrAskEnded is the error of a request whose entity has ended.
	ErrAskEnded error = askError("the asking entity has ended")
)

// An askError says why a request has no answer.
type askError string

// Error implements error.
func (e askError) Error() string { return "session: " + string(e) }

// Ask sends q and returns nil; then q.Then is called once. It returns [ErrBusy], and sends nothing, if too
// many requests of the entity or of the process have no answer yet. The iq leaves like any stanza of the
// entity ([LoopRouter.Send]). On the loop of l, under the lock of q.From, or under none for a host; it
// panics otherwise. It uses the appender of l. Then is not called if the loop of l ends before.
func (l *LoopRouter) Ask(q Question) error {
	var e *Entity
	from, host := jid.JID{}, q.Host
	if q.From != nil {
		e = q.From.entity()
		from, host = e.addr, e.host
	} else {
		from = host.JID
	}
	if l.lockedEntity != e {
		panic("session: Ask without the lock of the entity that asks, or for a host under a lock")
	}
	w := &pendingAsk{l: l, host: host, e: e, to: q.To, then: q.Then, profile: host.Profile()}
	if !w.add(l.router, q.Most) {
		l.stats.Limits["asks"]++
		return ErrBusy
	}
	w.profile.pendingWork.Add(1) // until callThen
	timeout := q.Timeout
	if timeout <= 0 {
		timeout = askTicks
	}
	l.Loop.Arm(&w.timer, l.Loop.Tick()+min(timeout, maxAskTicks), w)
	typ := "get"
	if q.Set {
		typ = "set"
	}
	a := l.Appender()
	a.Open(stanza.IQName).Attr(stanza.AttrType, typ).Attr(stanza.AttrFrom, from.String()).
		Attr(stanza.AttrTo, q.To.String()).Attr(stanza.AttrID, w.id)
	q.Payload(a)
	a.Close()
	l.stats.Asked++
	l.Send(from, q.To, a.B)
	return nil
}

// askPrefix begins the ids of requests, so that an answer that comes too late is known as one.
const askPrefix = "ask-"

// Asks returns how many requests of the process have no answer yet. Any goroutine.
func (r *Router) Asks() int64 { return r.asks.Load() }

// newAskID returns the id of a request. The random bytes are read ahead, for 128 ids. On the loop of l.
func newAskID(l *LoopRouter) string {
	if f := l.router.AskID; f != nil {
		return f()
	}
	const size = 12
	if len(l.askBytes) < size {
		l.askBytes = make([]byte, 128*size)
		if _, err := io.ReadFull(l.router.Random, l.askBytes); err != nil {
			panic("session: no random bytes: " + err.Error()) // ids that can be guessed would be worse
		}
	}
	id := askPrefix + hex.EncodeToString(l.askBytes[:size])
	l.askBytes = l.askBytes[size:]
	return id
}

// add gives q its id and notes it as pending. It returns false, and has done nothing, if there are too
// many. Under the lock of the entity, if there is one.
func (q *pendingAsk) add(r *Router, most int) bool {
	if most <= 0 {
		most = asksOfOne
	}
	if r.asks.Add(1) > maxAsks {
		r.asks.Add(-1)
		return false
	}
	q.id = newAskID(q.l)
	ok := false
	if q.e == nil {
		ok = r.hostAsks.add(q, most)
	} else if w := q.e.ensurePending(); len(w.asks) < most {
		w.asks = append(w.asks, q)
		ok = true
	} else {
		q.e.releasePending()
	}
	if !ok {
		r.asks.Add(-1)
	}
	return ok
}

// add notes q as pending. It returns false if its host has most requests already.
func (h *hostAsks) add(q *pendingAsk, most int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byHost[q.host] >= most {
		return false
	}
	if h.byID == nil {
		h.byID, h.byHost = make(map[string]*pendingAsk), make(map[*Host]int)
	}
	h.byID[q.id] = q
	h.byHost[q.host]++
	h.n.Add(1)
	return true
}

// take takes the request that ev answers off the list; nil if there is none.
func (h *hostAsks) take(ev *Stanza) *pendingAsk {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.byID[string(ev.ID())]
	if q == nil || q.to != ev.From || q.host != ev.Host {
		return nil
	}
	h.remove(q)
	return q
}

// remove takes q off the list. The lock of h is held.
func (h *hostAsks) remove(q *pendingAsk) {
	q.ended = true
	delete(h.byID, q.id)
	if h.byHost[q.host]--; h.byHost[q.host] == 0 {
		delete(h.byHost, q.host)
	}
	h.n.Add(-1)
}

// isAnswer reports whether ev could answer a request.
func isAnswer(ev *Stanza) bool {
	return ev.Kind == stanza.IQ && (ev.Type == stanza.TypeResult || ev.Type == stanza.TypeError)
}

// answersHost reports whether ev answers a request of the host h, for whose domain it is; then it has called
// Then. Under no lock.
func answersHost(l *LoopRouter, h *Host, ev *Stanza) bool {
	r := l.router
	if r.hostAsks.n.Load() == 0 || ev.form != formStanza || !isAnswer(ev) || ev.To != h.JID {
		return false
	}
	q := r.hostAsks.take(ev)
	if q == nil {
		return false
	}
	q.stopTimer(l)
	l.stats.Answered++
	q.callThen(l, nil, ev, nil)
	return true
}

// answersEntity reports whether ev answers a request of the entity that processes it; then it has called
// Then. It counts what only looks like an answer. Under the lock of the entity; a host has none.
func answersEntity(l *LoopRouter, ev *Stanza) bool {
	e := ev.entity
	waits := e != nil && e.pending != nil && len(e.pending.asks) > 0
	if !waits && !isAnswer(ev) {
		return false
	}
	id := ev.ID()
	if !waits {
		if bytes.HasPrefix(id, []byte(askPrefix)) {
			l.stats.StrayAnswers++
		}
		return false
	}
	i := slices.IndexFunc(e.pending.asks, func(q *pendingAsk) bool { return q.id == string(id) })
	if i >= 0 && e.pending.asks[i].takes(e, ev) {
		q := e.pending.asks[i]
		q.remove(e)
		q.stopTimer(l)
		l.stats.Answered++
		defer e.releasePending()
		q.callThen(l, e, ev, nil)
		return true
	}
	own := ev.From == e.addr && !isAnswer(ev) // the request itself, as when an account asks one of its clients
	if i >= 0 && !own || isAnswer(ev) && bytes.HasPrefix(id, []byte(askPrefix)) {
		l.stats.StrayAnswers++
	}
	return false
}

// takes reports whether ev, which has the id of q, answers q, a request of e. Under the lock of e.
func (q *pendingAsk) takes(e *Entity, ev *Stanza) bool {
	return isAnswer(ev) && ev.From == q.to && ev.To == e.addr
}

// remove takes q off the requests of e. Under the lock of e.
func (q *pendingAsk) remove(e *Entity) {
	q.ended = true
	w := e.pending
	w.asks = slices.DeleteFunc(w.asks, func(x *pendingAsk) bool { return x == q })
	if len(w.asks) == 0 {
		w.asks = nil
	}
}

// stopTimer stops the timer of q, on its loop.
func (q *pendingAsk) stopTimer(l *LoopRouter) {
	if q.l == l {
		l.Loop.Arm(&q.timer, 0, q)
		return
	}
	q.l.Loop.Post(func() { q.l.Loop.Arm(&q.timer, 0, q) })
}

// callThen calls the function of q, which was taken off its list, and forgets it. With a panic in it the
// request has ended all the same.
func (q *pendingAsk) callThen(l *LoopRouter, e *Entity, answer *Stanza, err error) {
	l.router.asks.Add(-1)
	defer q.profile.pendingWork.Add(-1)
	then := q.then
	q.then = nil
	then(l, e, answer, err)
}

// OnTimer ends q, to which no answer has come. The loop's timer calls it.
func (q *pendingAsk) OnTimer(*reactor.Loop) {
	l := q.l
	l.enter()
	defer l.leave()
	defer l.recoverPanic(newPanicFrame(l, q.to, nil))
	if q.e == nil {
		h := &l.router.hostAsks
		h.mu.Lock()
		late := !q.ended
		if late {
			h.remove(q)
		}
		h.mu.Unlock()
		if late {
			l.stats.AskTimeouts++
			q.callThen(l, nil, nil, ErrAskTimeout)
		}
		return
	}
	e := q.e
	e.lock(l)
	defer e.unlockOrRepanic(l)
	switch {
	case q.ended:
	case q.orphan || e.resident == evictedMark: // the entity was deleted
		q.timedOut(l, nil, nil)
	default:
		e.mailbox().runWarm(l, q.timedOut)
	}
}

// timedOut ends q once its entity is warm, or tries again later if the entity could not be read. e is what is
// at the address by then; nil if the address has nothing, or if the entity is known to be deleted. Under the
// lock of e, or of the deleted entity.
func (q *pendingAsk) timedOut(l *LoopRouter, e *Entity, err error) {
	switch {
	case q.ended: // the answer has waited in the inbox before this
		return
	case err != nil:
		l.Loop.Arm(&q.timer, l.Loop.Tick()+timerRetry, q)
		return
	}
	l.stats.AskTimeouts++
	q.ended = true
	if e == q.e && !q.orphan {
		defer e.releasePending()
		q.remove(e)
	}
	if e != q.e || q.orphan || !e.exists() {
		q.callThen(l, nil, nil, ErrAskEnded)
		return
	}
	q.callThen(l, e, nil, ErrAskTimeout)
}
