package session

import (
	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Pull has s given what src has, behind what other sources had to say by then, and among live stanzas;
// ahead: live messages wait until it has ended. If s has no stream, or closes, src ends at once. Under
// the account's lock.
func (s *Session) Pull(l *Local, src Source, ahead bool) {
	out := s.lockOut()
	if s.ending != goesOn || s.rests() {
		out.unlock()
		src.End(l, s, StreamEnded)
		return
	}
	o := out.box()
	o.sources = append(o.sources, &pulled{src: src, ahead: ahead})
	out.unlock()
	pullSoon(l, s)
}

// wake is [Waker.Wake].
func (s *Session) wake(src Source) {
	defer s.lockOut().unlock()
	if s.out == nil || s.rests() {
		return
	}
	for _, f := range s.out.sources {
		if f.src != src {
			continue
		}
		if f.asking {
			f.woken = true
			return
		}
		f.sleeping = false
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

// Waker is what src keeps before it says NotYet.
func (s *Session) Waker(src Source) Waker { return Waker{s, src} }

// Wake has the source, which said NotYet, asked again.
func (w Waker) Wake() { w.s.wake(w.src) }

// pullSoon has the source of s asked when no lock is held any more, before the mail is routed. Under the
// account's lock.
func pullSoon(l *Local, s *Session) {
	if at := s.wire.Loop(); at != l {
		at.Loop.Post(func() { at.Enter(func() { pull(at, s) }) })
		return
	}
	l.mail.pulls = append(l.mail.pulls, s)
}

// pull asks the source of s for elements, and gives them to the client, until enough is on its way. On
// the loop of the stream, under no lock.
func pull(l *Local, s *Session) {
	for {
		f := toAsk(s)
		if f == nil {
			return
		}
		list, then := f.ask(l, s)
		inline, again := true, false
		l.Account(s.account.host, s.account.addr, func(l *Local, a *Account, _ bool, err error) {
			switch {
			case a != s.account || a.index(s) < 0:
			case err != nil: // who is blocked is not known, so that nothing may be given
				again = f.answered(s) && f.ends(l, s, SourceFailed, false)
				proceedLater(l, s, s.stream, 0)
			default:
				again = f.give(l, s, list, then)
			}
			if again && !inline {
				pullSoon(l, s)
			}
		})
		if inline = false; !again {
			return
		}
	}
}

// toAsk is the source of s that is to be asked now; nil: none, or the client has enough to take. What was
// given by then is asked about at the wire.
func toAsk(s *Session) *pulled {
	out := s.lockOut()
	defer out.unlock()
	if s.out == nil || len(s.out.sources) == 0 || s.rests() || s.ending != goesOn {
		return nil
	}
	f := s.out.sources[0]
	switch {
	case f.asking || f.sleeping || f.ended || s.out.clogged:
	case f.sent >= LowMark || s.wire.Crowded():
		out.askTaken(f)
	default:
		f.asking, f.woken = true, false
		return f
	}
	return nil
}

// ask asks f for as much as may be on its way to the client. A panic ends f alone.
func (f *pulled) ask(l *Local, s *Session) (list []Parcel, then answer) {
	out := s.lockOut()
	list, f.rest = f.rest, nil
	out.unlock()
	if len(list) > 0 {
		return list, f.then
	}
	then.failed = true // unless it returns
	defer l.boundary(newFrame(l, s.jid, nil))
	is := Ready
	for size := f.sent; size < LowMark; {
		var p Parcel
		if p, is = f.src.Next(l, s); is != Ready {
			break
		}
		list = append(list, p)
		size += len(p.Bytes)
	}
	return list, answer{is: is}
}

// give gives the client of s what f had, and goes on by what f has said behind it: again, if f is to be
// asked again. Under the account's lock.
func (f *pulled) give(l *Local, s *Session, list []Parcel, then answer) (again bool) {
	if !f.answered(s) {
		return false // it has ended meanwhile
	}
	for i, p := range list {
		wanted, gave := false, false
		switch {
		case !guarded(l, s, func() { wanted = f.src.Wanted(s) }):
			return f.ends(l, s, SourceFailed, true)
		case !wanted:
			return f.ends(l, s, SourceUnwanted, true)
		case !guarded(l, s, func() { gave = f.giveOne(l, s, p) }):
			return f.ends(l, s, SourceFailed, true)
		case !gave:
			list[i].asked = true
			out := s.lockOut()
			f.rest, f.then = list[i:], then
			out.unlock()
			return false
		}
	}
	switch {
	case then.failed:
		return f.ends(l, s, SourceFailed, true)
	case then.is == Exhausted:
		return f.ends(l, s, SourceDone, true)
	}
	return then.is == Ready || f.sleeps(s)
}

// giveOne gives the client of s one element of f, if it may have it; false: there is no room.
func (f *pulled) giveOne(l *Local, s *Session, p Parcel) (ok bool) {
	p, may := asOfToday(l, s, p)
	p.pulled = true
	out := s.lockOut()
	defer out.unlock()
	switch {
	case !may: // it must not have it, and that is that
		p.Bytes = nil
	case out.send(p):
		l.stats.Out[p.Kind]++
	default:
		return false
	}
	f.given++
	f.sent += len(p.Bytes)
	return true
}

// sleeps notes that f has nothing yet; true: it was woken meanwhile.
func (f *pulled) sleeps(s *Session) (woken bool) {
	out := s.lockOut()
	defer out.unlock()
	if woken, f.woken = f.woken, false; !woken {
		f.sleeping = true
		if f.given > 0 {
			out.askTaken(f)
		}
	}
	return woken
}

// answered notes that f has answered; false: it has ended.
func (f *pulled) answered(s *Session) bool {
	defer s.lockOut().unlock()
	f.asking = false
	return s.out != nil && len(s.out.sources) > 0 && s.out.sources[0] == f
}

// ends has f asked for nothing any more; again: there is another source. read: the account could be read.
func (f *pulled) ends(l *Local, s *Session, why SourceEnd, read bool) (again bool) {
	out := s.lockOut()
	f.ended, f.why, f.rest = true, why, nil
	if f.given > 0 {
		out.askTaken(f)
		out.unlock()
		return false
	}
	out.unlock()
	return f.finish(l, s, read)
}

// finish tells f, of which everything was taken, that it has ended, once the live messages that wait
// behind it have left; again: there may be another source. Where the account could not be read, and so
// not who is blocked, what is held back stays so. Under the account's lock, on the loop of the stream.
func (f *pulled) finish(l *Local, s *Session, read bool) (again bool) {
	if f.ahead && read && !s.release(l) {
		return false
	}
	out := s.lockOut()
	o := s.out
	if o == nil || len(o.sources) == 0 || o.sources[0] != f {
		out.unlock()
		return false
	}
	o.sources = o.sources[1:]
	out.unlock()
	defer reopen(s)
	guarded(l, s, func() { f.src.End(l, s, f.why) })
	if read && !s.Backlogged() {
		s.release(l) // what waited for room on the wire meanwhile
	}
	return true
}

// reopen lets s hold messages back again: a source that has ended sees to those that were refused.
func reopen(s *Session) {
	out := s.lockOut()
	defer out.unlock()
	if s.out != nil {
		s.out.full = false
		out.unbox()
	}
}

// endSources ends all sources of s. Under the account's lock.
func (s *Session) endSources(l *Local, why SourceEnd) {
	out := s.lockOut()
	var list []*pulled
	if s.out != nil {
		list, s.out.sources, s.out.full = s.out.sources, nil, false
	}
	out.unlock()
	for _, f := range list {
		guarded(l, s, func() { f.src.End(l, s, why) })
	}
}

// drained goes on with what waits for the client of s, which has what was sent before: its stream ref
// says so. On the loop of the stream, under no lock.
func (s *Session) drained(l *Local, ref StreamRef) {
	out := s.lockOut()
	o := s.out
	if o == nil || s.stream != ref || o.asks == 0 {
		out.unlock()
		return
	}
	if o.asks--; o.asks > 0 {
		out.unlock()
		return // what was sent since is behind this: the last answer counts
	}
	o.clogged, o.given = false, 0
	var f *pulled
	taken := 0
	if len(o.sources) > 0 {
		f = o.sources[0]
		taken = f.due
		f.given, f.sent, f.due, f.dueSent = f.given-f.due, f.sent-f.dueSent, 0, 0
	}
	idle := f == nil && len(o.held) == 0
	out.unbox()
	out.unlock()
	if idle {
		return
	}
	proceed(l, s, ref, f, taken, 0)
}

// proceed goes on with s, whose client has what was sent before: of that so many elements of f, if f is a
// source. tries is how often the account could not be read for it.
func proceed(l *Local, s *Session, ref StreamRef, f *pulled, taken, tries int) {
	inline, again := true, false
	l.Account(s.account.host, s.account.addr, func(l *Local, a *Account, _ bool, err error) {
		if a != s.account || a.index(s) < 0 || s.stream != ref {
			return
		}
		again = goOn(l, s, f, taken, err)
		if err != nil {
			proceedLater(l, s, ref, tries)
		}
		if again && !inline {
			pullSoon(l, s)
		}
	})
	if inline = false; again {
		pull(l, s)
	}
}

// proceedLater has what s holds back, which waits for an account that could not be read, looked at again,
// or ends s. Under the account's lock.
func proceedLater(l *Local, s *Session, ref StreamRef, tries int) {
	out := s.lockOut()
	waits := s.out != nil && len(s.out.held) > 0 && s.out.asks == 0 && !s.out.later
	if waits && tries < unbindTries {
		s.out.later = true
	}
	out.unlock()
	switch {
	case !waits:
	case tries == unbindTries:
		s.close(ErrInternal, failed) // and what it holds back is routed again
	default:
		wait := reactor.Tick(min(firstUnbind<<tries, longestUnbind))
		l.After(wait, func() {
			out := s.lockOut()
			if s.out != nil {
				s.out.later = false
			}
			out.unlock()
			proceed(l, s, ref, nil, 0, tries+1)
		})
	}
}

// goOn tells f, if there is a source, how much was taken, and gives what is held back to a client that
// waits for none. Under the account's lock.
func goOn(l *Local, s *Session, f *pulled, taken int, err error) (again bool) {
	out := s.lockOut()
	current := s.out != nil && len(s.out.sources) > 0 && s.out.sources[0] == f
	out.unlock()
	if !current {
		f = nil
	}
	switch {
	case f == nil:
		if !s.Backlogged() && err == nil {
			s.release(l)
		}
		return true
	case err != nil:
		return f.ends(l, s, SourceFailed, false)
	case taken > 0 && !guarded(l, s, func() { f.src.Taken(l, s, taken) }):
		return f.ends(l, s, SourceFailed, true)
	}
	out = s.lockOut()
	ended, left := f.ended, f.given
	if left > 0 {
		out.askTaken(f)
	}
	out.unlock()
	switch {
	case ended && left == 0:
		return f.finish(l, s, true)
	case !s.Backlogged():
		s.release(l) // what waited for room on the wire
	}
	return true
}

// HandOver sends s an element that was remembered, as a live one of the same sender would be delivered:
// see [Stanza.AppendKept] for its xml:lang. An address that the account blocks by now is heard no more
// (XEP-0191 §3.3). from and to replace what el has, unless they are zero. It reports whether s has it or
// must not have it. Many elements are a [Source]. Under the account's lock.
func (l *Local) HandOver(s *Session, kind stanza.Kind, from, to jid.JID, el []byte) bool {
	p, may := asOfToday(l, s, Parcel{Bytes: el, Kind: kind, From: from, To: to})
	if !may {
		return true
	}
	ok := s.Send(p)
	if ok {
		l.stats.Out[kind]++
	}
	return ok
}

// asOfToday is p, which was stored or remembered, as it is delivered by the rules that hold now: its
// addresses, where p has some, in the place of those in its bytes. false: the account takes nothing from
// its sender. The bytes are good until the loop delivers something else.
func asOfToday(l *Local, s *Session, p Parcel) (Parcel, bool) {
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
	return p, mayHave(l, s, p.From)
}

// Offer has [Behaviour.More] called, under the lock of e, when the client of the session to has taken
// most of what e, and others, have said to it: for more than may be on its way at a time, like the
// occupants of a room that is joined. what says where to go on; it is copied. If the session ends, or
// rests, before, More is not called. What e has said before comes first. Under the lock of e.
func (l *Local) Offer(e *Entity, to jid.JID, what []byte) {
	if mayBeSession(l, to) {
		l.say(envelope{from: e.addr, to: to, form: anOffer}, what)
		return
	}
	// What another server has room for is for the queue to that server to say: a share each turn.
	next := envelope{from: to, to: e.addr, form: aPull, bytes: append([]byte(nil), what...)}
	l.Loop.Post(func() { l.Enter(func() { l.mail.add(next, next.bytes) }) })
}

// offered is the [Source] of an Offer: it has nothing itself, but asks the entity to go on.
type offered struct {
	by   jid.JID
	what []byte
}

func (o *offered) Next(l *Local, s *Session) (Parcel, Supply) {
	l.mail.add(envelope{from: s.jid, to: o.by, form: aPull}, o.what)
	return Parcel{}, Exhausted
}

func (*offered) Wanted(*Session) bool { return true }

func (*offered) Taken(*Local, *Session, int) {}

func (*offered) End(*Local, *Session, SourceEnd) {}

// pulledFrom goes on with what e has offered to the session that ev is from. Under the lock.
func pulledFrom(e *Entity, l *Local, ev *Stanza) {
	if b := e.behaviour(); e.exists() && b != nil && b.More != nil {
		b.More(l, e, ev.From, ev.raw)
	}
}

// offerTo has the session that ev is for take what another entity has offered to it, if it is here. Under
// the lock.
func offerTo(e *Entity, l *Local, ev *Stanza) {
	if a := e.account(); a != nil {
		if s := a.Resource(ev.To); s != nil {
			s.Pull(l, &offered{ev.From, append([]byte(nil), ev.raw...)}, false)
		}
	}
}

// release gives the client of s what is held back, in order, as far as the wire should take it now: all
// says that nothing is left. Under the account's lock, on the loop of the stream.
func (s *Session) release(l *Local) (all bool) {
	for {
		out := s.lockOut()
		h, ok, left := out.nextHeld()
		out.unlock()
		if !ok {
			return !left
		}
		may := h.from.IsZero()
		switch {
		case !may && !guarded(l, s, func() { may = mayHave(l, s, h.from) }):
			if h.last() { // else another session of the account has it
				bounce(l, s.account, h, stanza.InternalServerError)
			}
			continue
		case !may:
			if h.kind == stanza.IQ {
				l.mail.again(h) // it has an answer, as to an address that takes nothing
			}
			continue
		}
		out = s.lockOut()
		ok = out.giveHeld(h)
		out.unlock()
		if !ok {
			return false
		}
	}
}
