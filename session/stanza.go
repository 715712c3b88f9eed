package session

import (
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

	lang    string // of the sender's stream, for a stanza without xml:lang
	on      *Local
	at      *Entity
	stream  *Stream // the sender's, while it is on this loop and was not left
	origin  Origin  // of a stanza that a client sent, and of what it sets off
	extra   []byte  // elements that delivery puts behind the children
	raw     []byte  // of what is no stanza for chains, and not parsed
	iqs     *Chains // that have the handler of an iq
	loop    uint16  // of the connection that it came from, and one; 0: not known
	bare    bool    // a fresh stanza without 'to'
	form    form
	other   bool // Element is a rewritten one, to be released
	silent  bool // its sender has an answer: there is no other
	failed  bool // FailWith was called
	replied bool // an answer was mailed

	carrier  bool       // origin is settled where ev ends
	kept     bool       // it is stored for later
	recorded bool       // its chain has a phase Record
	pledged  Ticket     // the last one
	batch    any        // of the store
	takers   []*Session // that have it, where its chain has a phase Record
	copies   *copies    // of what sessions hold back of it
	taken    uint16     // how many sessions took it
}

// maxHops ends what mail keeps causing: a stanza is sent on this often.
const maxHops = 8

// Keep is a copy that stays. Cold path.
func (ev *Stanza) Keep() *Stanza {
	k := *ev
	k.Element, k.other, k.carrier, k.batch, k.takers, k.copies = ev.Element.Clone(), false, false, nil, nil, nil
	k.extra = append([]byte(nil), ev.extra...)
	return &k
}

// Add has every delivery of ev, to whomever, put el behind ev's own children; el is copied. In phase
// Rewrite or Archive.
func (ev *Stanza) Add(el []byte) { ev.extra = append(ev.extra, el...) }

// Replace makes el, one complete element, what is delivered and what later hooks see; el is copied.
// In phase Rewrite.
func (ev *Stanza) Replace(el []byte) error {
	b := ev.on.mail.bytes(el)
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

// Entity is the one whose lock is held: the sender's in a Pre chain, the recipient's later; nil at
// a login host itself. Account is the same, if it is an account.
func (ev *Stanza) Entity() *Entity { return ev.at }

// Account is the Entity, if it is an account; else nil.
func (ev *Stanza) Account() *Account {
	if ev.at == nil {
		return nil
	}
	return ev.at.account()
}

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
func header(ev *Stanza, a *xmlstream.Appender, typ string) {
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
	header(ev, a, "result")
	if build != nil {
		build(ev, a)
	}
	a.Close()
	answerTo(ev, a.B)
	return Done
}

// Fail answers by mail with a stanza error of this condition and its usual type, unless ev is an
// error or an iq result itself (RFC 6120 §8.3.1).
func (ev *Stanza) Fail(c stanza.Condition) Verdict { return ev.FailWith(stanza.Error{Condition: c}) }

// FailWith is Fail with more to say.
func (ev *Stanza) FailWith(e stanza.Error) Verdict {
	if ev.Type == stanza.TypeError || ev.Type == stanza.TypeResult && ev.Kind == stanza.IQ || ev.form != aStanza {
		return Done
	}
	ev.failed = true
	ev.on.stats.Bounced[e.Condition]++
	a := ev.Appender()
	header(ev, a, "error")
	e.Append(a)
	a.Close()
	answerTo(ev, a.B)
	return Done
}

// Send mails a stanza of the entity whose lock is held, or of the host: el is one complete element
// whose from and to these are.
func (ev *Stanza) Send(from, to jid.JID, el []byte) {
	ev.on.say(envelope{from: from, to: to, hops: ev.Hops + 1}, el)
}

// Origin is where ev, or what has set it off, comes from; zero for what this server says of itself.
func (ev *Stanza) Origin() Origin { return ev.origin }

// find makes ev, a fresh stanza that waited in the inbox of e, its sender's account, the stanza of its session
// again; false: the session has ended.
func find(ev *Stanza, e *Entity) bool {
	a := e.account()
	if a == nil {
		return false
	}
	s := a.Resource(ev.From)
	if s == nil || s.stream != ev.origin.Stream {
		return false
	}
	ev.Session, ev.stream = s, streamOn(s, ev.on)
	return true
}
