package session

import (
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A Source is many elements for one session: what is stored, what a page of an archive has, who is in a room. It is
// asked for one after another, while less than [LowMark] waits for the client, so that no amount of it fills the
// outbox. It is given to a session by [Session.Pull], and ends with the session's stream. All methods are called
// with that session, on the loop of the stream, but for End, which may be called on any.
type Source interface {
	// Next is the next element, whose bytes do not change until it is Taken, or the source has ended. Under no
	// lock: it may take the account's by [Local.Account], or have a worker read by [Local.Work], or ask another
	// entity by mail, and say NotYet. s is there for what never changes.
	Next(l *Local, s *Session) (p Parcel, is Supply)
	// Wanted is asked before each element, under the account's lock: whether s should still have it. If not, the
	// source ends.
	Wanted(s *Session) bool
	// Taken says that the client's socket has the first n of the elements of which that was not said yet, or that the
	// client must not have them (a blocked address): where they are stored they may be erased. Under the account's
	// lock.
	Taken(l *Local, s *Session, n int)
	// End is called once, and nothing after it. What was not Taken by then the client may have, or not. Messages that
	// came meanwhile have left before it if why is SourceDone, SourceUnwanted or SourceFailed; a new Source may
	// follow at once. Under the account's lock.
	End(l *Local, s *Session, why SourceEnd)
}

// A Supply is what a [Source] says of its next element.
type Supply uint8

// Ready: here it is. NotYet: it will call [Waker.Wake] when it has one, or knows that there is none.
// Exhausted: there is none any more.
const (
	Ready Supply = iota
	NotYet
	Exhausted
)

// A SourceEnd is why a [Source] is asked for nothing any more.
type SourceEnd uint8

// SourceDone: all was taken. SourceUnwanted: Wanted said no. SourceFailed: the account could not be read, or the source
// has panicked. StreamEnded: the session rests, or has another stream. SessionEnded: it is no more.
const (
	SourceDone SourceEnd = iota
	SourceUnwanted
	SourceFailed
	StreamEnded
	SessionEnded
)

// A pulled is a Source in an outbox. Under the outbox lock.
type pulled struct {
	src   Source
	ahead bool // live messages wait behind it

	given, sent     int // elements, and their bytes, that were given and not known to be taken
	due, dueSent    int // those among them that were given when the wire was asked to tell
	asking          bool
	sleeping, woken bool // it said NotYet; it was woken before it had said so
	ended           bool // it is asked for nothing any more, and waits until all was taken
	why             SourceEnd
	rest            []Parcel // for which the wire had no room: they come first
	then            answer   // behind rest
}

// An answer is what a Source has said behind the elements that it had.
type answer struct {
	is     Supply
	failed bool // it has panicked instead
}

// Pull has s given what src has, behind what other sources had to say by then, and among live stanzas; ahead: live
// messages wait until it has ended. If s has no stream, or closes, src ends at once. Under the account's lock.
func (s *Session) Pull(l *Local, src Source, ahead bool) {
	s.lockOut()
	if s.ending != goesOn || s.rests() {
		s.unlockOut()
		src.End(l, s, StreamEnded)
		return
	}
	o := s.box()
	o.sources = append(o.sources, &pulled{src: src, ahead: ahead})
	s.unlockOut()
	l.pullSoon(s)
}

// Backlogged reports whether live messages for s wait behind what a [Source] gives it. A message that such a session
// does not take belongs behind what is stored. Under the account's lock.
func (s *Session) Backlogged() bool {
	s.lockOut()
	defer s.unlockOut()
	return s.backlogged()
}

func (s *Session) backlogged() bool {
	if s.out != nil {
		for _, f := range s.out.sources {
			if f.ahead {
				return true
			}
		}
	}
	return false
}

// wake is [Waker.Wake].
func (s *Session) wake(src Source) {
	s.lockOut()
	defer s.unlockOut()
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
		l.Loop.Post(func() { l.Enter(func() { l.pull(s) }) })
	}
}

// A Waker wakes one Source of one session. It may be kept, and used by any goroutine, with any lock held; when the
// source has ended nothing happens.
type Waker struct {
	s   *Session
	src Source
}

// Waker is what src keeps before it says NotYet.
func (s *Session) Waker(src Source) Waker { return Waker{s, src} }

// Wake has the source, which said NotYet, asked again.
func (w Waker) Wake() { w.s.wake(w.src) }

// pullSoon has the source of s asked when no lock is held any more, before the mail is routed. Under the account's
// lock.
func (l *Local) pullSoon(s *Session) {
	if at := s.wire.Loop(); at != l {
		at.Loop.Post(func() { at.Enter(func() { at.pull(s) }) })
		return
	}
	l.mail.pulls = append(l.mail.pulls, s)
}

// pull asks the source of s for elements, and gives them to the client, until enough is on its way. On the loop of the
// stream, under no lock.
func (l *Local) pull(s *Session) {
	for {
		f := s.asks()
		if f == nil {
			return
		}
		list, then := l.ask(s, f)
		inline, again := true, false
		l.Account(s.account.host, s.account.addr, func(l *Local, a *Account, _ bool, err error) {
			then.failed = then.failed || err != nil
			again = a == s.account && a.index(s) >= 0 && l.give(s, f, list, then)
			if again && !inline {
				l.pullSoon(s)
			}
		})
		if inline = false; !again {
			return
		}
	}
}

// asks is the source of s that is to be asked now; nil: none, or the client has enough to take. What was given by
// then is asked about at the wire.
func (s *Session) asks() *pulled {
	s.lockOut()
	defer s.unlockOut()
	if s.out == nil || len(s.out.sources) == 0 || s.rests() || s.ending != goesOn {
		return nil
	}
	f := s.out.sources[0]
	switch {
	case f.asking || f.sleeping || f.ended || s.out.clogged:
	case f.sent >= LowMark || s.wire.Crowded():
		s.askTaken(f)
	default:
		f.asking, f.woken = true, false
		return f
	}
	return nil
}

// askTaken has the wire tell when the client has what f has given. Under the outbox lock.
func (s *Session) askTaken(f *pulled) {
	if s.out.asks == 0 {
		f.due, f.dueSent = f.given, f.sent
		s.askDrain()
	}
}

// ask asks f for as much as may be on its way to the client. A panic ends f alone.
func (l *Local) ask(s *Session, f *pulled) (list []Parcel, then answer) {
	s.lockOut()
	list, f.rest = f.rest, nil
	s.unlockOut()
	if len(list) > 0 {
		return list, f.then
	}
	then.failed = true // unless it returns
	defer l.boundary(l.frame(s.jid, nil))
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

// give gives the client of s what f had, and goes on by what f has said behind it: again, if f is to be asked again.
// Under the account's lock.
func (l *Local) give(s *Session, f *pulled, list []Parcel, then answer) (again bool) {
	if !s.answered(f) {
		return false // it has ended meanwhile
	}
	for i, p := range list {
		wanted, gave := false, false
		switch {
		case !l.guarded(s, func() { wanted = f.src.Wanted(s) }):
			return l.ends(s, f, SourceFailed)
		case !wanted:
			return l.ends(s, f, SourceUnwanted)
		case !l.guarded(s, func() { gave = l.giveOne(s, f, p) }):
			return l.ends(s, f, SourceFailed)
		case !gave:
			list[i].asked = true
			s.lockOut()
			f.rest, f.then = list[i:], then
			s.unlockOut()
			return false
		}
	}
	switch {
	case then.failed:
		return l.ends(s, f, SourceFailed)
	case then.is == Exhausted:
		return l.ends(s, f, SourceDone)
	}
	return then.is == Ready || s.sleeps(f)
}

// giveOne gives the client of s one element of f, if it may have it; false: there is no room.
func (l *Local) giveOne(s *Session, f *pulled, p Parcel) (ok bool) {
	p, may := l.asOfToday(s, p)
	p.pulled = true
	s.lockOut()
	defer s.unlockOut()
	switch {
	case !may: // it must not have it, and that is that
		p.Bytes = nil
	case s.send(p):
		l.stats.Out[p.Kind]++
	default:
		return false
	}
	f.given++
	f.sent += len(p.Bytes)
	return true
}

// sleeps notes that f has nothing yet; true: it was woken meanwhile.
func (s *Session) sleeps(f *pulled) (woken bool) {
	s.lockOut()
	defer s.unlockOut()
	if woken, f.woken = f.woken, false; !woken {
		f.sleeping = true
		if f.given > 0 {
			s.askTaken(f)
		}
	}
	return woken
}

// answered notes that f has answered; false: it has ended.
func (s *Session) answered(f *pulled) bool {
	s.lockOut()
	defer s.unlockOut()
	f.asking = false
	return s.out != nil && len(s.out.sources) > 0 && s.out.sources[0] == f
}

// ends has f asked for nothing any more; again: there is another source.
func (l *Local) ends(s *Session, f *pulled, why SourceEnd) (again bool) {
	s.lockOut()
	f.ended, f.why, f.rest = true, why, nil
	if f.given > 0 {
		s.askTaken(f)
		s.unlockOut()
		return false
	}
	s.unlockOut()
	return l.finish(s, f)
}

// finish tells f, of which everything was taken, that it has ended, once the live messages that wait behind it have
// left; again: there is another source. Under the account's lock, on the loop of the stream.
func (l *Local) finish(s *Session, f *pulled) (again bool) {
	if f.ahead && !l.release(s) {
		return false
	}
	s.lockOut()
	o := s.out
	if o == nil || len(o.sources) == 0 || o.sources[0] != f {
		s.unlockOut()
		return false
	}
	o.sources = o.sources[1:]
	s.unlockOut()
	defer s.reopen()
	l.guarded(s, func() { f.src.End(l, s, f.why) })
	return true
}

// reopen lets s hold messages back again: a source that has ended sees to those that were refused.
func (s *Session) reopen() {
	s.lockOut()
	defer s.unlockOut()
	if s.out != nil {
		s.out.full = false
		s.unbox()
	}
}

// guarded runs f, a call of a module under the account's lock, and keeps a panic to it: what is in memory of the
// account is read again. ok: there was none.
func (l *Local) guarded(s *Session, f func()) (ok bool) {
	at := l.frame(s.jid, nil)
	at.held = l.held // the caller gives it back
	defer l.boundary(at)
	f()
	return true
}

// endSources ends all sources of s. Under the account's lock.
func (l *Local) endSources(s *Session, why SourceEnd) {
	s.lockOut()
	var list []*pulled
	if s.out != nil {
		list, s.out.sources, s.out.full = s.out.sources, nil, false
	}
	s.unlockOut()
	for _, f := range list {
		l.guarded(s, func() { f.src.End(l, s, why) })
	}
}

// drained goes on with what waits for the client of s, which has what was sent before: its stream ref says so. On the
// loop of the stream, under no lock.
func (l *Local) drained(s *Session, ref StreamRef) {
	s.lockOut()
	o := s.out
	if o == nil || s.stream != ref {
		s.unlockOut()
		return
	}
	if o.asks--; o.asks > 0 {
		s.unlockOut()
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
	s.unbox()
	s.unlockOut()
	if idle {
		return
	}
	inline, again := true, false
	l.Account(s.account.host, s.account.addr, func(l *Local, a *Account, _ bool, err error) {
		if a != s.account || a.index(s) < 0 || s.stream != ref {
			return
		}
		again = l.goOn(s, f, taken, err)
		if again && !inline {
			l.pullSoon(s)
		}
	})
	if inline = false; again {
		l.pull(s)
	}
}

// goOn tells f, if there is a source, how much was taken, and gives what is held back to a client that waits for none.
// Under the account's lock.
func (l *Local) goOn(s *Session, f *pulled, taken int, err error) (again bool) {
	s.lockOut()
	current := s.out != nil && len(s.out.sources) > 0 && s.out.sources[0] == f
	s.unlockOut()
	if !current {
		f = nil
	}
	switch {
	case f == nil:
		if !s.Backlogged() && err == nil {
			l.release(s)
		}
		return true
	case err != nil:
		return l.ends(s, f, SourceFailed)
	case taken > 0 && !l.guarded(s, func() { f.src.Taken(l, s, taken) }):
		return l.ends(s, f, SourceFailed)
	}
	s.lockOut()
	ended, left := f.ended, f.given
	if left > 0 {
		s.askTaken(f)
	}
	s.unlockOut()
	switch {
	case ended && left == 0:
		return l.finish(s, f)
	case !s.Backlogged():
		l.release(s) // what waited for room on the wire
	}
	return true
}

// HandOver sends s an element that was remembered, as a live one of the same sender would be delivered: see
// [Stanza.AppendKept] for its xml:lang. An address that the account blocks by now is heard no more (XEP-0191 §3.3).
// from and to replace what el has, unless they are zero. It reports whether s has it or must not have it. Many
// elements are a [Source]. Under the account's lock.
func (l *Local) HandOver(s *Session, kind stanza.Kind, from, to jid.JID, el []byte) bool {
	p, may := l.asOfToday(s, Parcel{Bytes: el, Kind: kind, From: from, To: to})
	if !may {
		return true
	}
	ok := s.Send(p)
	if ok {
		l.stats.Out[kind]++
	}
	return ok
}

// asOfToday is p, which was stored or remembered, as it is delivered by the rules that hold now: its addresses, where
// p has some, in the place of those in its bytes. false: the account takes nothing from its sender. The bytes are
// good until the loop delivers something else.
func (l *Local) asOfToday(s *Session, p Parcel) (Parcel, bool) {
	e, err := l.Parser.Element(p.Bytes)
	if err != nil {
		l.Log.Error("a stored stanza does not parse", "jid", s.jid.String(), "err", err)
		return p, false
	}
	defer l.Parser.Release(e)
	if !p.From.IsZero() {
		l.scratch = e.Append(l.scratch[:0], xmlstream.Streamed, xmlstream.Attr{Name: stanza.AttrFrom, Value: p.From.String()},
			xmlstream.Attr{Name: stanza.AttrTo, Value: p.To.String()})
		p.Bytes = l.scratch
	} else {
		v, _ := e.Attr(stanza.AttrFrom)
		p.From, _ = l.JID(v)
	}
	return p, l.mayHave(s, p.From)
}
