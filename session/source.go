package session

import (
	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/session/stanzaid"
	"canto/xmlstream"
)

// How a source is pulled: [Session.Pull] appends it to the session's outbox. When no lock is held, the loop
// of the stream runs pull. It takes the first source (nextSource), asks it for elements under no lock
// (fetch), and gives them to the client under the account's lock (sendAll), until LowWaterMark bytes are in
// flight, the source has nothing yet, or the wire has no room. Then a drain notification of the wire
// (Session.drained) notifies the source of what was taken and continues the pull.

// A Source gives many elements to one session, one after another: stored messages, the pages of an
// archive, the occupants of a room. It is asked for an element while less than [LowWaterMark] bytes are in
// flight to the client, so that its length does not matter for the outbox. [Session.Pull] begins it; it
// ends with the session's stream at the latest. All methods are called with that session, on the loop of
// the stream; only End may be called on any loop. If a method panics the source ends (SourceFailed).
type Source interface {
	// Next returns the next element if is is NextElement. Its bytes must not change until it is Taken or the
	// source has ended. An element without bytes is not sent: it counts as taken when the client's socket has
	// taken what was sent before it. Next is called under no lock, and must not block: it may take the account's
	// lock by [LoopRouter.WithAccount], let a worker read by [LoopRouter.RunOnWorker] or mail another entity,
	// and return NextWouldBlock. Of s it may only use what never changes.
	Next(l *LoopRouter, s *Session) (p OutboundStanza, is NextStatus)
	// Wanted is called before each element is sent: it reports whether s should still have it. If not, the
	// source ends (SourceUnwanted). Under the account's lock.
	Wanted(s *Session) bool
	// Taken is called when the client's socket has taken n more elements, the oldest first. Elements that the
	// client must not have (of a blocked address) count as taken. Where they are stored they may be
	// erased now. Under the account's lock.
	Taken(l *LoopRouter, s *Session, n int)
	// End is the last call. Elements that were not Taken may have reached the client or not. If the source
	// blocked live messages (see Session.Pull) these were sent before the call, for the reasons SourceDone,
	// SourceUnwanted and SourceFailed; for the others they still wait. End may begin another Source. Under
	// the account's lock.
	End(l *LoopRouter, s *Session, why SourceEndReason)
}

// A NextStatus is the second result of [Source.Next].
type NextStatus uint8

// The results of Source.Next.
const (
	NextElement    NextStatus = iota // there is an element
	NextWouldBlock                   // not yet: the source will call Waker.Wake
	NextExhausted                    // there are no more elements
)

// A SourceEndReason is why a [Source] has ended.
type SourceEndReason uint8

// The reasons of Source.End.
const (
	SourceDone     SourceEndReason = iota // the client has taken everything
	SourceUnwanted                        // Wanted returned false
	SourceFailed                          // a method has panicked, or the account could not be read
	StreamEnded                           // the session hibernates, or has another stream
	SessionEnded                          // the session was removed
)

// An activeSource is a [Source] in an outbox. The outbox lock guards its fields.
type activeSource struct {
	src        Source
	blocksLive bool // live messages wait until it has ended

	inFlight, inFlightBytes int  // elements that were sent and not yet reported as taken; their bytes
	drainCount, drainBytes  int  // those of them that the pending drain notification covers
	pulling                 bool // a pull is asking it or sending its elements
	parked, woken           bool // it returned NextWouldBlock; it was woken while it was asked
	ended                   bool // it is not asked again, but waits until the rest is taken
	why                     SourceEndReason
	unsent                  []OutboundStanza // elements that the wire refused: the next pull sends them
	unsentResult            fetchResult      // the result that followed unsent
}

// A fetchResult is how a fetch ended, after the elements that it returned.
type fetchResult struct {
	status NextStatus
	failed bool // Next has panicked
}

// Pull makes s pull elements from src, after the sources that it has already. Live stanzas are
// sent between them; if ahead is true, live messages wait until src has ended. If s hibernates or
// its stream is ending, src is ended at once. Under the account's lock.
func (s *Session) Pull(l *LoopRouter, src Source, ahead bool) { pullBehind(l, s, src, ahead, 0) }

// PullFrom is [Session.Pull] with ahead, for a source whose first message has the number first or a later
// one. What s has queued already up to its last message with a smaller number is sent before src is asked, so
// that a client which takes nothing for a while gets its messages in their order. Under the account's lock.
func PullFrom(l *LoopRouter, s *Session, src Source, first stanzaid.ID) {
	pullBehind(l, s, src, true, first)
}

// pullBehind is [Session.Pull] and [PullFrom]. Under the account's lock.
func pullBehind(l *LoopRouter, s *Session, src Source, ahead bool, first stanzaid.ID) {
	out := s.lockOutbox()
	if s.ending != notEnded || s.hibernating() {
		out.unlock()
		src.End(l, s, StreamEnded)
		return
	}
	o := out.ensure()
	o.sources = append(o.sources, &activeSource{src: src, blocksLive: ahead})
	early := false
	for i := len(o.queue) - 1; i >= 0 && first != 0; i-- {
		early = early || o.queue[i].early || o.queue[i].number != 0 && o.queue[i].number < first
		o.queue[i].early = early
	}
	out.unlock()
	schedulePull(l, s)
}

// wakeSource does what [Waker.Wake] says.
func (s *Session) wakeSource(src Source) {
	defer s.lockOutbox().unlock()
	if s.outbox == nil || s.hibernating() {
		return
	}
	for _, f := range s.outbox.sources {
		if f.src != src {
			continue
		}
		if f.pulling {
			f.woken = true
			return
		}
		f.parked = false
		l := s.wire.Loop()
		l.Loop.Post(func() { l.Enter(func() { pull(l, s) }) })
	}
}

// A Waker wakes one Source of one session. It may be kept, copied, and used by any goroutine with any lock
// but an outbox lock held. After the source has ended it does nothing.
type Waker struct {
	s   *Session
	src Source
}

// Waker returns the Waker of src in s. A source gets it before it returns NextWouldBlock.
func (s *Session) Waker(src Source) Waker { return Waker{s, src} }

// Wake asks the source again, which has returned NextWouldBlock or is about to.
func (w Waker) Wake() { w.s.wakeSource(w.src) }

// schedulePull makes the loop of s's stream pull from its source, when no lock is held and before
// the mail is routed. Under the account's lock.
func schedulePull(l *LoopRouter, s *Session) {
	if at := s.wire.Loop(); at != l {
		at.Loop.Post(func() { at.Enter(func() { pull(at, s) }) })
		return
	}
	l.mail.pulls = append(l.mail.pulls, s)
}

// pull asks the source of s for elements and sends them to the client, until enough is in flight,
// the source has nothing now, or the wire has no room. If the account cannot be read, nothing may
// be sent (the rules about blocked addresses are not known), and the source fails. On the loop of
// the stream, under no lock.
func pull(l *LoopRouter, s *Session) {
	for {
		f := nextSource(s)
		if f == nil {
			return
		}
		list, then := f.fetch(l, s)
		inline, again := true, false
		l.WithAccount(s.account.host, s.account.addr, func(l *LoopRouter, a *Account, _ bool, err error) {
			switch {
			case a != s.account || a.sessionIndex(s) < 0:
			case err != nil:
				again = f.pullDone(s) && f.end(l, s, SourceFailed, false)
				retryAfterDrain(l, s, s.stream, 0)
			default:
				again = f.sendAll(l, s, list, then)
			}
			if again && !inline {
				schedulePull(l, s)
			}
		})
		if inline = false; !again {
			return
		}
	}
}

// nextSource returns the source that s is to pull from now, and marks it as pulling. It returns
// nil if there is none, if it is parked or asked already, or if the client has enough to take:
// then a drain notification is requested, which continues the pull.
func nextSource(s *Session) *activeSource {
	out := s.lockOutbox()
	defer out.unlock()
	if s.outbox == nil || len(s.outbox.sources) == 0 || s.hibernating() || s.ending != notEnded {
		return nil
	}
	f := s.outbox.sources[0]
	switch {
	case f.blocksLive && len(s.outbox.queue) > 0 && s.outbox.queue[0].early:
		if s.outbox.drainsPending == 0 {
			out.requestDrain() // the drain flushes what goes first, and then the source is asked
		}
	case f.pulling || f.parked || f.ended || s.outbox.blocked:
	case f.inFlightBytes >= LowWaterMark || s.wire.Congested():
		out.requestTakenDrain(f)
	default:
		f.pulling, f.woken = true, false
		return f
	}
	return nil
}

// fetch returns the elements that the wire has refused before, or else asks the source for so
// many that LowWaterMark bytes are in flight. then says how the source continues after them; if
// Next panics it says failed, and only the source ends. Under no lock.
func (f *activeSource) fetch(l *LoopRouter, s *Session) (list []OutboundStanza, then fetchResult) {
	out := s.lockOutbox()
	list, f.unsent = f.unsent, nil
	out.unlock()
	if len(list) > 0 {
		return list, f.unsentResult
	}
	then.failed = true // unless it returns
	defer l.recoverPanic(newPanicFrame(l, s.jid, nil))
	is := NextElement
	for size := f.inFlightBytes; size < LowWaterMark; {
		var p OutboundStanza
		if p, is = f.src.Next(l, s); is != NextElement {
			break
		}
		list = append(list, p)
		size += len(p.Bytes)
	}
	return list, fetchResult{status: is}
}

// sendAll sends list to the client, and continues by what the source said after it. It returns
// true if the source, or the next one, is to be asked again at once. If the wire refuses an
// element the rest is kept in unsent until it has drained. Under the account's lock.
func (f *activeSource) sendAll(l *LoopRouter, s *Session, list []OutboundStanza, then fetchResult) (
	again bool) {
	if !f.pullDone(s) {
		return false // it has ended meanwhile
	}
	for i, p := range list {
		wanted, gave := false, false
		switch {
		case !runHook(l, s, func() { wanted = f.src.Wanted(s) }):
			return f.end(l, s, SourceFailed, true)
		case !wanted:
			return f.end(l, s, SourceUnwanted, true)
		case !runHook(l, s, func() { gave = f.sendOne(l, s, p) }):
			return f.end(l, s, SourceFailed, true)
		case !gave:
			list[i].hooksRun = true
			out := s.lockOutbox()
			f.unsent, f.unsentResult = list[i:], then
			out.unlock()
			return false
		}
	}
	switch {
	case then.failed:
		return f.end(l, s, SourceFailed, true)
	case then.status == NextExhausted:
		return f.end(l, s, SourceDone, true)
	}
	return then.status == NextElement || f.park(s)
}

// sendOne sends one element, by the rules of now; an element that the client must not have counts
// as sent. It returns false if there is no room. Under the account's lock.
func (f *activeSource) sendOne(l *LoopRouter, s *Session, p OutboundStanza) (ok bool) {
	may := false
	if len(p.Bytes) > 0 {
		p, may = applyRules(l, s, p)
	}
	p.fromSource = true
	out := s.lockOutbox()
	defer out.unlock()
	switch {
	case !may: // it counts as taken
		p.Bytes = nil
	case out.send(p):
		l.stats.Out[p.Kind]++
	default:
		return false
	}
	f.inFlight++
	f.inFlightBytes += len(p.Bytes)
	return true
}

// park notes that the source has nothing yet. It returns true if it was woken in the meantime,
// and is to be asked again.
func (f *activeSource) park(s *Session) (woken bool) {
	out := s.lockOutbox()
	defer out.unlock()
	if woken, f.woken = f.woken, false; !woken {
		f.parked = true
		if f.inFlight > 0 {
			out.requestTakenDrain(f)
		}
	}
	return woken
}

// pullDone notes that a pull of f is over. It returns false if f was ended in the meantime.
func (f *activeSource) pullDone(s *Session) bool {
	defer s.lockOutbox().unlock()
	f.pulling = false
	return s.outbox != nil && len(s.outbox.sources) > 0 && s.outbox.sources[0] == f
}

// end stops asking f. If elements are in flight, f is finished when they are taken; else now.
// read is false if the account could not be read. It returns true if another source may be pulled
// from. Under the account's lock.
func (f *activeSource) end(l *LoopRouter, s *Session, why SourceEndReason, read bool) (again bool) {
	out := s.lockOutbox()
	f.ended, f.why, f.unsent = true, why, nil
	if f.inFlight > 0 {
		out.requestTakenDrain(f)
		out.unlock()
		return false
	}
	out.unlock()
	return f.finish(l, s, read)
}

// finish takes f, with nothing in flight, out of the outbox and calls its End. If f blocked live
// messages these are sent first; if they have no room on the wire, finish is called again after
// the drain. If the account could not be read (read is false) queued stanzas stay queued, because
// the rules about blocked addresses are not known. It returns true if another source may be
// pulled from. Under the account's lock, on the loop of the stream.
func (f *activeSource) finish(l *LoopRouter, s *Session, read bool) (again bool) {
	if f.blocksLive && read && !s.flushQueue(l) {
		return false
	}
	out := s.lockOutbox()
	o := s.outbox
	if o == nil || len(o.sources) == 0 || o.sources[0] != f {
		out.unlock()
		return false
	}
	o.sources = o.sources[1:]
	out.unlock()
	defer allowMessages(s)
	runHook(l, s, func() { f.src.End(l, s, f.why) })
	if read {
		s.flushQueue(l)
	}
	return true
}

// allowMessages lets s queue messages again, after a source has ended: a module sees to those
// that were refused.
func allowMessages(s *Session) {
	out := s.lockOutbox()
	defer out.unlock()
	if s.outbox != nil {
		s.outbox.refusing = false
		out.releaseIfEmpty()
	}
}

// endSources ends all sources of s, at once, also those with elements in flight. Under the
// account's lock.
func (s *Session) endSources(l *LoopRouter, why SourceEndReason) {
	out := s.lockOutbox()
	var list []*activeSource
	if s.outbox != nil {
		list, s.outbox.sources, s.outbox.refusing = s.outbox.sources, nil, false
	}
	out.unlock()
	for _, f := range list {
		runHook(l, s, func() { f.src.End(l, s, why) })
	}
}

// drained is called when the client's socket has taken everything that the stream ref had sent.
// If it is the last notification that was requested, the outbox is no longer blocked, the source
// is notified of what was taken (afterDrain), and the queue is flushed. An older notification, or one of
// an earlier stream, does nothing. On the loop of the stream, under no lock.
func (s *Session) drained(l *LoopRouter, ref StreamRef) {
	out := s.lockOutbox()
	o := s.outbox
	if o == nil || s.stream != ref || o.drainsPending == 0 {
		out.unlock()
		return
	}
	if o.drainsPending--; o.drainsPending > 0 {
		out.unlock()
		return // more was sent since: the last notification counts
	}
	o.blocked, o.sentSinceDrain = false, 0
	var f *activeSource
	taken := 0
	if len(o.sources) > 0 {
		f = o.sources[0]
		taken = f.drainCount
		f.inFlight, f.inFlightBytes, f.drainCount, f.drainBytes = f.inFlight-f.drainCount,
			f.inFlightBytes-f.drainBytes, 0, 0
	}
	idle := f == nil && len(o.queue) == 0
	out.releaseIfEmpty()
	out.unlock()
	if idle {
		return
	}
	afterDrain(l, s, ref, f, taken, 0)
}

// afterDrain continues with s after a drain: taken is how many elements of f the client has, if f
// is not nil. tries is how often the account could not be read before. On the loop of the stream,
// under no lock.
func afterDrain(l *LoopRouter, s *Session, ref StreamRef, f *activeSource, taken, tries int) {
	inline, again := true, false
	l.WithAccount(s.account.host, s.account.addr, func(l *LoopRouter, a *Account, _ bool, err error) {
		if a != s.account || a.sessionIndex(s) < 0 || s.stream != ref {
			return
		}
		again = advance(l, s, f, taken, err)
		if err != nil {
			retryAfterDrain(l, s, ref, tries)
		}
		if again && !inline {
			schedulePull(l, s)
		}
	})
	if inline = false; again {
		pull(l, s)
	}
}

// retryAfterDrain arms a timer to flush the queue of s again, because its account could not be
// read. It doubles the delay with each try; after the last try it ends s, and the unsent stanzas
// are routed again. It does nothing if nothing is queued, or if a drain or another timer is
// pending. Under the account's lock.
func retryAfterDrain(l *LoopRouter, s *Session, ref StreamRef, tries int) {
	out := s.lockOutbox()
	waits := s.outbox != nil && len(s.outbox.queue) > 0 && s.outbox.drainsPending == 0 && !s.outbox.retryPending
	if waits && tries < maxUnbindTries {
		s.outbox.retryPending = true
	}
	out.unlock()
	switch {
	case !waits:
	case tries == maxUnbindTries:
		s.close(ErrInternal, hookFailed)
	default:
		wait := reactor.Tick(min(firstUnbindRetry<<tries, maxUnbindRetry))
		l.After(wait, func() {
			out := s.lockOutbox()
			if s.outbox != nil {
				s.outbox.retryPending = false
			}
			out.unlock()
			afterDrain(l, s, ref, nil, 0, tries+1)
		})
	}
}

// advance notifies f of so many elements that the client has taken, finishes it if it has ended and
// that was all, and flushes the queue if no source blocks it. err is why the account could not be
// read: then f fails. It returns true if a source is to be asked. Under the account's lock.
func advance(l *LoopRouter, s *Session, f *activeSource, taken int, err error) (again bool) {
	out := s.lockOutbox()
	current := s.outbox != nil && len(s.outbox.sources) > 0 && s.outbox.sources[0] == f
	out.unlock()
	if !current {
		f = nil
	}
	switch {
	case f == nil:
		if err == nil {
			s.flushQueue(l)
		}
		return true
	case err != nil:
		return f.end(l, s, SourceFailed, false)
	case taken > 0 && !runHook(l, s, func() { f.src.Taken(l, s, taken) }):
		return f.end(l, s, SourceFailed, true)
	}
	out = s.lockOutbox()
	ended, left := f.ended, f.inFlight
	if left > 0 {
		out.requestTakenDrain(f)
	}
	out.unlock()
	switch {
	case ended && left == 0:
		return f.finish(l, s, true)
	default:
		s.flushQueue(l)
	}
	return true
}

// DeliverStored sends s an element that was stored or remembered, by the rules that hold for a
// live one now: if the account blocks the sender by now it is dropped (XEP-0191 section 3.3).
// from and to replace the addresses in el, unless from is zero. It returns true if s took el or
// must not have it. For the xml:lang see [Stanza.AppendForStorage]; many elements are a [Source].
// el is copied. Under the account's lock.
func (l *LoopRouter) DeliverStored(s *Session, kind stanza.Kind, from, to jid.JID, el []byte) bool {
	p, may := applyRules(l, s, OutboundStanza{Bytes: el, Kind: kind, From: from, To: to})
	if !may {
		return true
	}
	ok := s.Send(p)
	if ok {
		l.stats.Out[kind]++
	}
	return ok
}

// applyRules returns p, an element that was stored, as it may be delivered now: with p.From and
// p.To as addresses, if p.From is not zero. It returns false if the account does not take stanzas
// from the sender, or if the element is not well-formed. The bytes may be the loop's scratch
// buffer: they are valid until the next delivery. Under the account's lock.
func applyRules(l *LoopRouter, s *Session, p OutboundStanza) (OutboundStanza, bool) {
	e, err := l.Parser.Element(p.Bytes)
	if err != nil {
		l.Log.Error("a stored stanza does not parse", "jid", s.jid.String(), "err", err)
		return p, false
	}
	defer l.Parser.Release(e)
	if !p.From.IsZero() {
		l.scratch = e.Append(l.scratch[:0], xmlstream.Streamed, xmlstream.Attr{Name: stanza.AttrFrom,
			Value: p.From.String()},
			xmlstream.Attr{Name: stanza.AttrTo, Value: p.To.String()})
		p.Bytes = l.scratch
	} else {
		v, _ := e.Attr(stanza.AttrFrom)
		p.From, _ = l.JID(v)
	}
	return p, mayReceiveFrom(s, p.From)
}

// MoreWhenDrained makes the kernel call [EntityHandler.More] of e, with the cursor what, when the
// client of the session to has taken most of what was sent to it. An entity uses it to send more
// than may be in flight, such as the occupants of a room to a client that joins. If the session
// ends or hibernates first, More is not called. What e has sent before arrives first. what is
// copied. Under the lock of e.
func (l *LoopRouter) MoreWhenDrained(e *Entity, to jid.JID, what []byte) {
	if mayBeSession(l, to) {
		l.sendEnvelope(envelope{from: e.addr, to: to, form: formMoreAvailable}, what)
		return
	}
	// to is on another server, and no outbox of ours is known for it: More is called in the next turn.
	next := envelope{from: to, to: e.addr, form: formMoreRequest, bytes: append([]byte(nil), what...)}
	l.Loop.Post(func() { l.Enter(func() { l.mail.add(next, next.bytes) }) })
}

// A moreSource is the [Source] of a MoreWhenDrained in the session. It has no elements: when it is asked, it
// mails the entity to continue.
type moreSource struct {
	from   jid.JID // the entity
	cursor []byte  // where it continues
}

// Next implements [Source]: it mails the request for more.
func (o *moreSource) Next(l *LoopRouter, s *Session) (OutboundStanza, NextStatus) {
	l.mail.add(envelope{from: s.jid, to: o.from, form: formMoreRequest}, o.cursor)
	return OutboundStanza{}, NextExhausted
}

// Wanted implements [Source].
func (*moreSource) Wanted(*Session) bool { return true }

// Taken implements [Source].
func (*moreSource) Taken(*LoopRouter, *Session, int) {}

// End implements [Source].
func (*moreSource) End(*LoopRouter, *Session, SourceEndReason) {}

// runMore calls the More function of e for the session that ev is from; ev.raw is the cursor.
// Under the lock.
func runMore(e *Entity, l *LoopRouter, ev *Stanza) {
	if b := e.handler(); e.exists() && b != nil && b.More != nil {
		b.More(l, e, ev.From, ev.raw)
	}
}

// addMoreSource adds a moreSource to the session that ev is for, if the account e has it. Under
// the lock.
func addMoreSource(e *Entity, l *LoopRouter, ev *Stanza) {
	if a := e.account(); a != nil {
		if s := a.Resource(ev.To); s != nil {
			s.Pull(l, &moreSource{ev.From, append([]byte(nil), ev.raw...)}, false)
		}
	}
}

// flushQueue sends queued elements in order, as far as the wire should take them now. Before each
// it applies the blocking rules of now; an iq of a blocked sender is routed again, which answers
// it. It returns true if the queue is empty then. Under the account's lock, on the loop of the
// stream.
func (s *Session) flushQueue(l *LoopRouter) (all bool) {
	for {
		out := s.lockOutbox()
		h, ok, left := out.nextQueued()
		out.unlock()
		if !ok {
			return !left
		}
		may := h.from.IsZero()
		switch {
		case !may && !runHook(l, s, func() { may = mayReceiveFrom(s, h.from) }):
			if h.dropCopy() {
				bounce(l, s.account, h, stanza.InternalServerError)
			}
			continue
		case !may:
			if h.kind == stanza.IQ {
				l.mail.requeue(h) // so that it is answered
			}
			continue
		}
		out = s.lockOutbox()
		ok = out.sendQueued(h)
		out.unlock()
		if !ok {
			return false
		}
	}
}
