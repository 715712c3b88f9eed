package session

import (
	"bytes"
	"hash/maphash"

	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A Verdict is what a hook says of a stanza: ask the next hook, or it is handled here and no other is
// asked.
type Verdict uint8

// The two verdicts.
const (
	Pass Verdict = iota
	Done
)

// A Stanza is one stanza on its way, in its loop's stack: good until the hook returns; Keep it to
// look at it later.
type Stanza struct {
	// the sender's, in Pre chains and for ToSelf only, else nil: for state, never for an answer
	Session    *Session
	Host       *Host // where it is looked at now
	Element    xmlstream.Element
	From, To   jid.JID
	Kind       stanza.Kind
	Type       stanza.Type
	Target     Target
	PrePending bool // straight from a local client: the Pre chain is yet to run
	Hops       uint8

	lang             string // of the sender's stream, for a stanza without xml:lang
	loopRouter       *LoopRouter
	entity           *Entity
	stream           *Stream // the sender's, while it is on this loop and was not left
	origin           Origin  // of a stanza that a client sent, and of what it sets off
	extra            []byte  // elements that delivery puts behind the children
	raw              []byte  // of what is no stanza for chains, and not parsed
	originLoopNumber uint16  // of the connection that it came from, and one; 0: not known
	noTo             bool    // a fresh stanza without 'to'
	form             envelopeForm
	rewritten        bool // Element is a rewritten one, to be released
	noReply          bool // its sender has an answer: there is no other
	unprocessed      bool // it is refused, and no entity has looked at it
	failed           bool // FailWith was called
	replied          bool // an answer was mailed

	settlesOrigin  bool           // origin is settled where ev ends
	stored         bool           // it is stored for later
	recorded       bool           // its chain has a phase Record
	successor      *Stanza        // a copy that is kept for later, with which origin is settled instead
	lastWrite      Ticket         // the last one
	creationTicket Ticket         // of the batch that made the entity that has pledged it, if that may fail yet
	batch          any            // of the store
	deliveredTo    []*Session     // that have it, where its chain has a phase Record
	deliveries     *deliveryCount // of what sessions hold back of it
	deliveredCount uint16         // how many sessions took it
}

// Clone is a copy that stays. Cold path.
func (ev *Stanza) Clone() *Stanza {
	k := *ev
	k.Element, k.rewritten, k.settlesOrigin, k.successor = ev.Element.Clone(), false, false, nil
	k.batch, k.deliveredTo, k.deliveries = nil, nil, nil
	k.extra = append([]byte(nil), ev.extra...)
	return &k
}

// Add has every delivery of ev, to whomever, put el behind ev's own children; el is copied. In phase
// Rewrite or Archive.
func (ev *Stanza) Add(el []byte) { ev.extra = append(ev.extra, el...) }

// Replace makes el, one complete element, what is delivered and what later hooks see; el is copied.
// In phase Rewrite.
func (ev *Stanza) Replace(el []byte) error {
	b := ev.loopRouter.mail.copyBytes(el)
	e, err := ev.loopRouter.Parser.Element(b)
	if err != nil {
		return err
	}
	if ev.rewritten {
		ev.loopRouter.Parser.Release(ev.Element)
	}
	ev.Element, ev.rewritten = e, true
	return nil
}

// Entity is the one whose lock is held: the sender's in a Pre chain, the recipient's later; nil at
// a login host itself. Account is the same, if it is an account.
func (ev *Stanza) Entity() *Entity { return ev.entity }

// Account is the Entity, if it is an account; else nil.
func (ev *Stanza) Account() *Account {
	if ev.entity == nil {
		return nil
	}
	return ev.entity.account()
}

// LoopRouter is the loop's kernel.
func (ev *Stanza) LoopRouter() *LoopRouter { return ev.loopRouter }

// Directed reports whether the stanza had a 'to' attribute as it was sent.
func (ev *Stanza) Directed() bool { return !ev.noTo }

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

// Appender lends the loop's, emptied, until the hook returns or what was written is sent. There is one
// for each loop: the next call empties it.
func (ev *Stanza) Appender() *xmlstream.Appender { return ev.loopRouter.Appender() }

// Appender lends the loop's, emptied: see [Stanza.Appender].
func (l *LoopRouter) Appender() *xmlstream.Appender {
	if cap(l.appender.B) > 64<<10 {
		l.appender.B = nil
	}
	return l.appender.Reset(xmlstream.Streamed)
}

// Origin is where ev, or what has set it off, comes from; zero for what this server says of itself.
func (ev *Stanza) Origin() Origin { return ev.origin }

// restoreSender makes ev, a fresh stanza that waited in the inbox of e, its sender's account, the stanza of
// its session again; false: the session has ended.
func restoreSender(ev *Stanza, e *Entity) bool {
	a := e.account()
	if a == nil {
		return false
	}
	s := a.Resource(ev.From)
	if s == nil || s.stream != ev.origin.Stream {
		return false
	}
	ev.Session, ev.stream = s, streamOn(s, ev.loopRouter)
	return true
}

// streamOn is the stream of s, if it is of l's loop and its connection is open. Under the account's lock.
func streamOn(s *Session, l *LoopRouter) *Stream {
	w, ok := s.wire.(interface{ Stream() *Stream })
	if !ok {
		return nil
	}
	if st := w.Stream(); st != nil && st.loop == l && st.bits&bitGone == 0 {
		return st
	}
	return nil
}

// Intern is a copy of ev as it is to be kept, see [Stanza.AppendForStorage], never to be changed: one for all
// who ask for the same bytes, as far as the loop remembers them.
func (l *LoopRouter) Intern(ev *Stanza) []byte {
	l.scratch = ev.AppendForStorage(l.scratch[:0])
	b := l.scratch
	if len(b) > maxInternedBytes {
		return bytes.Clone(b)
	}
	at := &l.interned[maphash.Bytes(l.seed, b)%internedElements]
	if !bytes.Equal(*at, b) {
		*at = bytes.Clone(b)
	}
	return *at
}

// Append appends ev as it is delivered: from is the sender's true address, to the one it was sent
// to, xml:lang the sender's if the stanza has none (RFC 6120 §8.1), and what was added behind the
// children.
func (ev *Stanza) Append(dst []byte) []byte {
	from := xmlstream.Attr{Name: stanza.AttrFrom, Value: ev.From.String()}
	to := xmlstream.Attr{Name: stanza.AttrTo, Value: ev.To.String()}
	start := len(dst)
	if _, has := ev.Element.Attr(stanza.AttrLang); ev.lang != "" && !has {
		dst = ev.Element.Append(dst, xmlstream.Streamed, from, to, xmlstream.Attr{Name: stanza.AttrLang,
			Value: ev.lang})
	} else {
		dst = ev.Element.Append(dst, xmlstream.Streamed, from, to)
	}
	if len(ev.extra) == 0 {
		return dst
	}
	return addChildren(dst, start, ev.extra)
}

// AppendForStorage appends ev as it is to be kept for later: with the sender's xml:lang if it has none of
// its own (RFC 6120 §8.1.5), and otherwise as it was sent.
func (ev *Stanza) AppendForStorage(dst []byte) []byte {
	if _, has := ev.Element.Attr(stanza.AttrLang); ev.lang != "" && !has {
		return ev.Element.Append(dst, xmlstream.Streamed, xmlstream.Attr{Name: stanza.AttrLang, Value: ev.lang})
	}
	return ev.Element.Append(dst, xmlstream.Streamed)
}

// AppendChildren appends el, one complete element, with extra after its own children.
func AppendChildren(dst, el, extra []byte) []byte {
	start := len(dst)
	return addChildren(append(dst, el...), start, extra)
}

// addChildren puts extra behind the children of the element that dst[start:] is.
func addChildren(dst []byte, start int, extra []byte) []byte {
	if bytes.HasSuffix(dst, []byte("/>")) {
		name := dst[start+1:]
		if i := bytes.IndexAny(name, " \t\r\n/>"); i >= 0 {
			name = name[:i]
		}
		dst = append(dst[:len(dst)-2], '>')
		dst = append(dst, extra...)
		dst = append(append(dst, "</"...), dst[start+1:start+1+len(name)]...)
		return append(dst, '>')
	}
	i := bytes.LastIndex(dst, []byte("</"))
	var tag [64]byte
	if len(dst)-i > len(tag) { // a prefix that long is a client's own choice
		end := append([]byte(nil), dst[i:]...)
		return append(append(dst[:i], extra...), end...)
	}
	n := copy(tag[:], dst[i:])
	return append(append(dst[:i], extra...), tag[:n]...)
}

// A stanzaStack has the Stanzas that chains run on. The loop's.
type stanzaStack struct {
	stanzas [8]Stanza
	depth   int
}

// push is a Stanza of l, to be filled in.
func (s *stanzaStack) push(l *LoopRouter) *Stanza {
	if s.depth == len(s.stanzas) {
		panic("session: stanzas nested too deep")
	}
	s.depth++
	ev := &s.stanzas[s.depth-1]
	ev.loopRouter = l
	return ev
}

// pop gives back what push gave last.
func (s *stanzaStack) pop() {
	s.depth--
	ev := &s.stanzas[s.depth]
	if ev.rewritten {
		ev.loopRouter.Parser.Release(ev.Element)
	}
	extra, takers := ev.extra[:0], ev.deliveredTo[:0]
	*ev = Stanza{}
	if cap(extra) <= 4096 {
		ev.extra = extra
	}
	clear(takers[:cap(takers)])
	ev.deliveredTo = takers
}

// fillStanza makes ev the stanza of env, whose element is e.
func (env *envelope) fillStanza(l *LoopRouter, ev *Stanza, e xmlstream.Element) {
	ev.loopRouter, ev.Element, ev.From, ev.To, ev.Hops = l, e, env.from, env.to, env.hops
	ev.lang, ev.noTo, ev.Target, ev.form = env.lang, env.noTo, env.target, env.form
	ev.origin, ev.originLoopNumber, ev.PrePending = env.origin, env.originLoopNumber, env.prePending
	ev.settlesOrigin, ev.lastWrite, ev.creationTicket, ev.unprocessed = env.settlesOrigin, env.lastWrite,
		env.creationTicket, env.unprocessed
	if ev.Kind = env.kind; env.form != formStanza {
		return // nothing of it is looked at
	}
	if ev.Kind == stanza.Nonza {
		ev.Kind = stanza.KindOf(e)
	}
	t, _ := e.Attr(stanza.AttrType)
	ev.Type = stanza.ParseType(ev.Kind, t)
}

// seal makes an envelope of ev, with bytes of its own.
func seal(ev *Stanza) envelope {
	env := envelope{from: ev.From, to: ev.To, kind: ev.Kind, target: ev.Target, hops: ev.Hops, lang: ev.lang,
		noTo: ev.noTo, prePending: ev.PrePending, form: ev.form,
		origin: ev.origin, originLoopNumber: ev.originLoopNumber, settlesOrigin: ev.settlesOrigin,
		lastWrite: ev.lastWrite, creationTicket: ev.creationTicket}
	if ev.form != formStanza {
		env.bytes = append([]byte(nil), ev.raw...)
		return env
	}
	env.bytes = ev.Element.Append(nil, xmlstream.Streamed)
	if len(ev.extra) > 0 {
		env.bytes = addChildren(env.bytes, 0, ev.extra)
	}
	return env
}

// deliveryCount counts the sessions of an account that took one message: those that sent it to their
// client, and those that hold it back. Under the account's lock.
type deliveryCount struct{ n int }
