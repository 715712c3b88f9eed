package session

import (
	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A Stanza is one stanza on its way, in its loop's stack: good until the hook returns; Keep it to
// look at it later.
type Stanza struct {
	Session  *Session // the sender's, in Pre chains and for ToSelf only, else nil: for state, never for an answer
	Host     *Host    // where it is looked at now
	Element  xmlstream.Element
	From, To jid.JID
	Kind     stanza.Kind
	Type     stanza.Type
	Target   Target
	Fresh    bool // straight from a local client: the Pre chain is yet to run
	Hops     uint8

	lang   string // of the sender's stream, for a stanza without xml:lang
	on     *Local
	at     *Entity
	acct   *Account
	stream *Stream // the sender's, while it is on this loop and was not left
	bare   bool    // a fresh stanza without 'to'
	extra  []byte  // elements that delivery puts behind the children
	other  bool    // Element is a rewritten one, to be released
	silent bool    // its sender has an answer: there is no other
	failed bool    // FailWith was called
}

// maxHops ends what mail keeps causing: a stanza is sent on this often.
const maxHops = 8

// Keep is a copy that stays. Cold path.
func (ev *Stanza) Keep() *Stanza {
	k := *ev
	k.Element, k.other = ev.Element.Clone(), false
	k.extra = append([]byte(nil), ev.extra...)
	return &k
}

// Add has every delivery of ev, to whomever, put el behind ev's own children; el is copied. In phase
// Rewrite or Archive.
func (ev *Stanza) Add(el []byte) { ev.extra = append(ev.extra, el...) }

// Replace makes el, one complete element, what is delivered and what later hooks see; el is copied.
// In phase Rewrite.
func (ev *Stanza) Replace(el []byte) error {
	b := ev.on.mailBytes(el)
	e, err := ev.on.Parser.Element(b)
	if err != nil {
		return err
	}
	if ev.other {
		ev.on.Parser.Release(ev.Element)
	}
	ev.Element, ev.other = e, true
	return nil
}

// Entity is the one whose lock is held: the sender's in a Pre chain, the recipient's later; nil for
// ToHost. Account is the same, if it is an account.
func (ev *Stanza) Entity() *Entity   { return ev.at }
func (ev *Stanza) Account() *Account { return ev.acct }

// Local is the loop's kernel.
func (ev *Stanza) Local() *Local { return ev.on }

// Directed reports whether the stanza had a 'to' attribute as it was sent.
func (ev *Stanza) Directed() bool { return !ev.bare }

// ID is the 'id' attribute.
func (ev *Stanza) ID() []byte {
	v, _ := ev.Element.Attr(stanza.AttrID)
	return v
}

// Payload is the one child of an iq of type get or set.
func (ev *Stanza) Payload() xmlstream.Element {
	e, _ := ev.Element.First()
	return e
}

// Appender lends the loop's, emptied, until the hook returns or what was written is sent. There is one for each
// loop: the next call empties it.
func (ev *Stanza) Appender() *xmlstream.Appender { return ev.on.Appender() }

// Appender lends the loop's, emptied: see [Stanza.Appender].
func (l *Local) Appender() *xmlstream.Appender {
	if cap(l.app.B) > 64<<10 {
		l.app.B = nil
	}
	return l.app.Reset(xmlstream.Streamed)
}

// header writes the start of an answer to ev: its addresses and id.
func (ev *Stanza) header(a *xmlstream.Appender, typ string) {
	a.Open(ev.Kind.Name())
	a.Attr(stanza.AttrType, typ)
	if id, ok := ev.Element.Attr(stanza.AttrID); ok {
		a.AttrBytes(stanza.AttrID, id)
	}
	if !ev.bare && !ev.To.IsZero() {
		a.Attr(stanza.AttrFrom, ev.To.String())
	}
	a.Attr(stanza.AttrTo, ev.From.String())
}

// Reply answers an iq by mail to ev.From: the result's addresses are in place, and build, which may
// be nil, adds the payload.
func (ev *Stanza) Reply(build func(ev *Stanza, a *xmlstream.Appender)) Verdict {
	a := ev.Appender()
	ev.header(a, "result")
	if build != nil {
		build(ev, a)
	}
	a.Close()
	ev.on.answer(ev, a.B)
	return Done
}

// Fail answers by mail with a stanza error of this condition and its usual type, unless ev is an
// error or an iq result itself (RFC 6120 §8.3.1).
func (ev *Stanza) Fail(c stanza.Condition) Verdict { return ev.FailWith(stanza.Error{Condition: c}) }

// FailWith is Fail with more to say.
func (ev *Stanza) FailWith(e stanza.Error) Verdict {
	if ev.Type == stanza.TypeError || ev.Type == stanza.TypeResult && ev.Kind == stanza.IQ {
		return Done
	}
	ev.failed = true
	ev.on.stats.Bounced[e.Condition]++
	a := ev.Appender()
	ev.header(a, "error")
	e.Append(a)
	a.Close()
	ev.on.answer(ev, a.B)
	return Done
}

// Send mails a stanza of the entity whose lock is held, or of the host: el is one complete element
// whose from and to these are.
func (ev *Stanza) Send(from, to jid.JID, el []byte) { ev.on.post(from, to, el, ev.Hops+1) }

// Picked reports whether delivery will put ev, a message as addressed, in front of s (RFC 6121
// §8.5). Under the recipient's lock.
func (ev *Stanza) Picked(s *Session) bool {
	if ev.acct == nil || s.account != ev.acct {
		return false
	}
	if ev.Target == ToFull {
		if r := ev.acct.Resource(ev.To); r != nil || ev.Type != stanza.TypeChat {
			return r == s // RFC 6121 §8.5.3.2.1: only a chat goes on to the bare JID
		}
	}
	switch ev.Type {
	case stanza.TypeGroupchat, stanza.TypeError:
		return false
	case stanza.TypeHeadline:
		return s.Available() && s.priority >= 0
	}
	return s.Available() && s.priority >= 0 && s.priority == ev.acct.TopPriority()
}

// TopPriority is the highest non-negative priority of the available resources, -1 if there is none.
func (a *Account) TopPriority() int8 {
	top := int8(-1)
	for _, s := range a.sessions {
		if s.Available() && s.priority > top {
			top = s.priority
		}
	}
	return top
}

// Await is for the last handler only, that of a client's own iq: it keeps the client's input back,
// runs work on a worker and then then on the loop under the account's lock, also if the stream is gone by
// then, but not if the account is. Anywhere else it panics. After 30 s the answer is remote-server-timeout
// and the stream goes on; then still runs when work ends, and what it answers goes nowhere. Cold path.
func (ev *Stanza) Await(c reactor.Class, work func() error, then func(ev *Stanza, err error) Verdict) Verdict {
	if ev.acct == nil || ev.Kind != stanza.IQ {
		panic("session: Await outside of an iq handler of an account")
	}
	l, kept, a, st := ev.on, ev.Keep(), ev.acct, ev.stream
	a.Pin()
	late := &overdue{then: func() {
		l.lock(&a.Entity)
		kept.on, kept.at, kept.acct = l, &a.Entity, a
		kept.Fail(stanza.RemoteServerTimeout)
		l.unlock()
		if st != nil {
			st.unpark(parkedWork)
		}
	}, l: l}
	if st != nil {
		st.park(parkedWork)
	}
	ok := l.do(a.host.Profile(), c, work, func(err error) { l.awaited(kept, a, st, late, then, err) })
	if !ok {
		a.Unpin()
		if st != nil {
			st.unpark(parkedWork)
		}
		return ev.Fail(stanza.ResourceConstraint)
	}
	l.Loop.Arm(&late.timer, l.Loop.Tick()+awaitTicks, late)
	return Done
}

// awaited ends an Await. A panic in then ends that stanza alone, which is answered.
func (l *Local) awaited(ev *Stanza, a *Account, st *Stream, late *overdue, then func(*Stanza, error) Verdict, err error) {
	l.enter()
	defer l.leave()
	defer func() {
		if r := recover(); r != nil {
			l.panicked(r, ev.From)
			l.failed(ev)
		}
	}()
	if st != nil && !late.fired { // else the stream has gone on
		defer st.unpark(parkedWork)
	}
	l.Loop.Arm(&late.timer, 0, late)
	l.lock(&a.Entity)
	a.Unpin()
	if a.resident != goneMark {
		ev.on, ev.at, ev.acct, ev.silent = l, &a.Entity, a, late.fired
		then(ev, err)
	} else {
		ev.silent = late.fired
		l.orphaned(ev, a)
	}
	l.unlock()
}

// orphaned answers ev, whose account a was deleted while it was worked on, as if there had been none (RFC 6121
// §8.5.1). What a's own sessions asked has ended with their streams.
func (l *Local) orphaned(ev *Stanza, a *Account) {
	if ev.From.Bare() != a.bare {
		ev.on, ev.at, ev.acct = l, nil, nil
		ev.Absent()
	}
}

const awaitTicks = 300

type overdue struct {
	timer reactor.Timer
	l     *Local
	then  func()
	fired bool
}

func (o *overdue) OnTimer(*reactor.Loop) {
	o.l.enter()
	defer o.l.leave()
	o.fired = true
	o.then()
}
