package session

import (
	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A Source is many elements for one session: what is stored, what a page of an archive has, who is in a
// room. It is asked for one after another, while less than [LowWaterMark] waits for the client, so that no
// amount of it fills the outbox. It is given to a session by [Session.Pull], and ends with the session's
// stream. All methods are called with that session, on the loop of the stream, but for End, which may be
// called on any.
type Source interface {
	// Next is the next element, whose bytes do not change until it is Taken, or the source has ended. Under
	// no lock: it may take the account's by [LoopRouter.WithAccount], or have a worker read by
	// [LoopRouter.RunOnWorker], or ask another entity by mail, and say NextWouldBlock. s is there for what
	// never changes.
	Next(l *LoopRouter, s *Session) (p OutboundStanza, is NextStatus)
	// Wanted is asked before each element, under the account's lock: whether s should still have it. If not, the
	// source ends.
	Wanted(s *Session) bool
	// Taken says that the client's socket has the first n of the elements of which that was not said yet, or
	// that the client must not have them (a blocked address): where they are stored they may be erased.
	// Under the account's lock.
	Taken(l *LoopRouter, s *Session, n int)
	// End is called once, and nothing after it. What was not Taken by then the client may have, or not. Live
	// messages that waited behind the source, see [Session.Pull] with ahead, have left before it if why is
	// SourceDone, SourceUnwanted or SourceFailed; else they still wait. A new Source may follow at once.
	// Under the account's lock.
	End(l *LoopRouter, s *Session, why SourceEndReason)
}

// A NextStatus is what a [Source] says of its next element.
type NextStatus uint8

// NextElement: here it is. NextWouldBlock: it will call [Waker.Wake] when it has one, or knows that there
// is none. Exhausted: there is none any more.
const (
	NextElement NextStatus = iota
	NextWouldBlock
	NextExhausted
)

// A SourceEndReason is why a [Source] is asked for nothing any more.
type SourceEndReason uint8

// SourceDone: all was taken. SourceUnwanted: Wanted said no. SourceFailed: the account could not be read,
// or the source has panicked. StreamEnded: the session rests, or has another stream. SessionEnded: it is
// no more.
const (
	SourceDone SourceEndReason = iota
	SourceUnwanted
	SourceFailed
	StreamEnded
	SessionEnded
)

// An activeSource is a Source in an outbox. Under the outbox lock.
type activeSource struct {
	src        Source
	blocksLive bool // live messages wait behind it

	inFlight, inFlightBytes int // elements, and their bytes, that were given and not known to be taken
	drainCount, drainBytes  int // those among them that were given when the wire was asked to tell
	pulling                 bool
	parked, woken           bool // it said NextWouldBlock; it was woken before it had said so
	ended                   bool // it is asked for nothing any more, and waits until all was taken
	why                     SourceEndReason
	unsent                  []OutboundStanza // for which the wire had no room: they come first
	unsentResult            fetchResult      // behind rest
}

// A fetchResult is what a Source has said behind the elements that it had.
type fetchResult struct {
	status NextStatus
	failed bool // it has panicked instead
}

// Pull has s given what src has, behind what other sources had to say by then, and among live stanzas;
// ahead: live messages wait until it has ended. If s has no stream, or closes, src ends at once. Under
// the account's lock.
func (s *Session) Pull(l *LoopRouter, src Source, ahead bool) {
	out := s.lockOutbox()
	if s.ending != notEnded || s.hibernating() {
		out.unlock()
		src.End(l, s, StreamEnded)
		return
	}
	o := out.ensure()
	o.sources = append(o.sources, &activeSource{src: src, blocksLive: ahead})
	out.unlock()
	schedulePull(l, s)
}

// wakeSource is [Waker.Wake].
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

// A Waker wakes one Source of one session. It may be kept, and used by any goroutine, with any lock held;
// when the source has ended nothing happens.
type Waker struct {
	s   *Session
	src Source
}

// Waker is what src keeps before it says NextWouldBlock.
func (s *Session) Waker(src Source) Waker { return Waker{s, src} }

// Wake has the source, which said NextWouldBlock, asked again.
func (w Waker) Wake() { w.s.wakeSource(w.src) }

// schedulePull has the source of s asked when no lock is held any more, before the mail is routed. Under the
// account's lock.
func schedulePull(l *LoopRouter, s *Session) {
	if at := s.wire.Loop(); at != l {
		at.Loop.Post(func() { at.Enter(func() { pull(at, s) }) })
		return
	}
	l.mail.pulls = append(l.mail.pulls, s)
}

// pull asks the source of s for elements, and gives them to the client, until enough is on its way. On
// the loop of the stream, under no lock.
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
			case err != nil: // who is blocked is not known, so that nothing may be given
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

// nextSource is the source of s that is to be asked now; nil: none, or the client has enough to take.
// What was given by then is asked about at the wire.
func nextSource(s *Session) *activeSource {
	out := s.lockOutbox()
	defer out.unlock()
	if s.outbox == nil || len(s.outbox.sources) == 0 || s.hibernating() || s.ending != notEnded {
		return nil
	}
	f := s.outbox.sources[0]
	switch {
	case f.pulling || f.parked || f.ended || s.outbox.blocked:
	case f.inFlightBytes >= LowWaterMark || s.wire.Congested():
		out.requestTakenDrain(f)
	default:
		f.pulling, f.woken = true, false
		return f
	}
	return nil
}

// fetch asks f for as much as may be on its way to the client. A panic ends f alone.
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

// sendAll gives the client of s what f had, and goes on by what f has said behind it: again, if f is to be
// asked again. Under the account's lock.
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

// sendOne gives the client of s one element of f, if it may have it; false: there is no room.
func (f *activeSource) sendOne(l *LoopRouter, s *Session, p OutboundStanza) (ok bool) {
	p, may := applyRules(l, s, p)
	p.fromSource = true
	out := s.lockOutbox()
	defer out.unlock()
	switch {
	case !may: // it must not have it, and that is that
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

// park notes that f has nothing yet; true: it was woken meanwhile.
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

// pullDone notes that f has answered; false: it has ended.
func (f *activeSource) pullDone(s *Session) bool {
	defer s.lockOutbox().unlock()
	f.pulling = false
	return s.outbox != nil && len(s.outbox.sources) > 0 && s.outbox.sources[0] == f
}

// end has f asked for nothing any more; again: there is another source. read: the account could be read.
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

// finish tells f, of which everything was taken, that it has ended, once the live messages that wait
// behind it have left; again: there may be another source. Where the account could not be read, and so
// not who is blocked, what is held back stays so. Under the account's lock, on the loop of the stream.
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
	if read && !s.Backlogged() {
		s.flushQueue(l) // what waited for room on the wire meanwhile
	}
	return true
}

// allowMessages lets s hold messages back again: a source that has ended sees to those that were refused.
func allowMessages(s *Session) {
	out := s.lockOutbox()
	defer out.unlock()
	if s.outbox != nil {
		s.outbox.refusing = false
		out.releaseIfEmpty()
	}
}

// endSources ends all sources of s. Under the account's lock.
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

// drained goes on with what waits for the client of s, which has what was sent before: its stream ref
// says so. On the loop of the stream, under no lock.
func (s *Session) drained(l *LoopRouter, ref StreamRef) {
	out := s.lockOutbox()
	o := s.outbox
	if o == nil || s.stream != ref || o.drainsPending == 0 {
		out.unlock()
		return
	}
	if o.drainsPending--; o.drainsPending > 0 {
		out.unlock()
		return // what was sent since is behind this: the last answer counts
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

// afterDrain goes on with s, whose client has what was sent before: of that so many elements of f, if f is a
// source. tries is how often the account could not be read for it.
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

// retryAfterDrain has what s holds back, which waits for an account that could not be read, looked at again,
// or ends s. Under the account's lock.
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
		s.close(ErrInternal, hookFailed) // and what it holds back is routed again
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

// advance tells f, if there is a source, how much was taken, and gives what is held back to a client that
// waits for none. Under the account's lock.
func advance(l *LoopRouter, s *Session, f *activeSource, taken int, err error) (again bool) {
	out := s.lockOutbox()
	current := s.outbox != nil && len(s.outbox.sources) > 0 && s.outbox.sources[0] == f
	out.unlock()
	if !current {
		f = nil
	}
	switch {
	case f == nil:
		if !s.Backlogged() && err == nil {
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
	case !s.Backlogged():
		s.flushQueue(l) // what waited for room on the wire
	}
	return true
}

// DeliverStored sends s an element that was remembered, as a live one of the same sender would be delivered:
// see [Stanza.AppendForStorage] for its xml:lang. An address that the account blocks by now is heard no more
// (XEP-0191 §3.3). from and to replace what el has, unless they are zero. It reports whether s has it or
// must not have it. Many elements are a [Source]. Under the account's lock.
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

// applyRules is p, which was stored or remembered, as it is delivered by the rules that hold now: its
// addresses, where p has some, in the place of those in its bytes. false: the account takes nothing from
// its sender. The bytes are good until the loop delivers something else.
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
	return p, mayReceiveFrom(l, s, p.From)
}

// MoreWhenDrained has [EntityHandler.More] called, under the lock of e, when the client of the session to
// has taken most of what e, and others, have said to it: for more than may be on its way at a time, like
// the occupants of a room that is joined. what says where to go on; it is copied. If the session ends, or
// rests, before, More is not called. What e has said before comes first. Under the lock of e.
func (l *LoopRouter) MoreWhenDrained(e *Entity, to jid.JID, what []byte) {
	if mayBeSession(l, to) {
		l.sendEnvelope(envelope{from: e.addr, to: to, form: formMoreAvailable}, what)
		return
	}
	// What another server has room for is for the queue to that server to say: a share each turn.
	next := envelope{from: to, to: e.addr, form: formMoreRequest, bytes: append([]byte(nil), what...)}
	l.Loop.Post(func() { l.Enter(func() { l.mail.add(next, next.bytes) }) })
}

// moreSource is the [Source] of an Offer: it has nothing itself, but asks the entity to go on.
type moreSource struct {
	from   jid.JID
	cursor []byte
}

func (o *moreSource) Next(l *LoopRouter, s *Session) (OutboundStanza, NextStatus) {
	l.mail.add(envelope{from: s.jid, to: o.from, form: formMoreRequest}, o.cursor)
	return OutboundStanza{}, NextExhausted
}

func (*moreSource) Wanted(*Session) bool { return true }

func (*moreSource) Taken(*LoopRouter, *Session, int) {}

func (*moreSource) End(*LoopRouter, *Session, SourceEndReason) {}

// runMore goes on with what e has offered to the session that ev is from. Under the lock.
func runMore(e *Entity, l *LoopRouter, ev *Stanza) {
	if b := e.handler(); e.exists() && b != nil && b.More != nil {
		b.More(l, e, ev.From, ev.raw)
	}
}

// addMoreSource has the session that ev is for take what another entity has offered to it, if it is here.
// Under the lock.
func addMoreSource(e *Entity, l *LoopRouter, ev *Stanza) {
	if a := e.account(); a != nil {
		if s := a.Resource(ev.To); s != nil {
			s.Pull(l, &moreSource{ev.From, append([]byte(nil), ev.raw...)}, false)
		}
	}
}

// flushQueue gives the client of s what is held back, in order, as far as the wire should take it now: all
// says that nothing is left. Under the account's lock, on the loop of the stream.
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
		case !may && !runHook(l, s, func() { may = mayReceiveFrom(l, s, h.from) }):
			if h.dropCopy() { // else another session of the account has it
				bounce(l, s.account, h, stanza.InternalServerError)
			}
			continue
		case !may:
			if h.kind == stanza.IQ {
				l.mail.requeue(h) // it has an answer, as to an address that takes nothing
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
