package session

import (
	"bytes"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"canto/session/handling"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/session/stanzaid"
	"canto/xmlstream"
)

// A Verdict is what a hook returns about a stanza.
type Verdict uint8

// The verdicts.
const (
	Pass Verdict = iota // the next hook is called
	Done                // the stanza is handled: no other hook is called
)

// A Stanza is one stanza while a loop routes it and hooks process it. It lies on the loop's stack of
// stanzas: a hook may use it until it returns, and must Clone it to keep it. The exported fields may be
// read by hooks, and are the kernel's to change.
type Stanza struct {
	// Session is the sender's, in Pre chains and for ToSelf only; else nil. It is for state of the session:
	// answers go by Reply and Fail.
	Session    *Session
	Host       *Host             // its hooks process the stanza now
	Element    xmlstream.Element // as it was sent, or rewritten by Replace
	From, To   jid.JID           // the true sender; the recipient
	Kind       stanza.Kind       // message, presence or iq
	Type       stanza.Type       // of the type attribute
	Target     Target            // what kind of address To is
	PrePending bool              // it comes straight from a client of ours; the Pre chain has not run yet
	Hops       uint8             // how often a hook has sent it on: see maxHops
	// Number is the place of a message in the order of what Entity, an account, has sent and got; 0 if it has
	// none. A hook of phase Archive sets it for messages that may be stored. A message that is routed again, as
	// its session has ended before the client had it, has it already.
	Number stanzaid.ID
	// Again: the stanza is routed again, as its session has ended before the client had it. What was stored of
	// it is stored already, and what was copied is copied.
	Again bool
	// Archived: the message is in the archive of Entity under its Number. A hook of phase Archive sets it.
	Archived bool
	// PushDue: push services of Entity are to be told that the message waits. A hook of phase Record sets it.
	PushDue bool

	lang             string // xml:lang of the sender's stream, for a stanza without one
	loopRouter       *LoopRouter
	entity           *Entity // the locked entity
	stream           *Stream // the sender's, if it is of this loop and still has the session
	origin           Origin
	extra            []byte // elements that Add has appended to the children
	raw              []byte // the bytes, if they are not parsed: see form
	originLoopNumber uint16 // loop number (index + 1) of the sender's connection; 0: not known
	noTo             bool   // it was sent without 'to'
	form             envelopeForm
	rewritten        bool // Element was made by Replace, and must be released
	decided          bool // handling is set
	noReply          bool // its sender has an answer already: others are dropped
	unprocessed      bool // it is refused before an entity has processed it: see sendReply
	failed           bool // FailWith was called
	replied          bool // an answer was mailed, or a callback will see to it

	// The next fields are about the settling of the origin: see Stream.Track.
	settlesOrigin  bool    // the origin is settled where ev ends
	stored         bool    // it is stored for later delivery
	recorded       bool    // its chain has hooks of phase Record
	successor      *Stanza // a copy that is kept, and that settles the origin instead
	lastWrite      Ticket  // the last ticket of what it has made entities store
	creationTicket Ticket  // of the batch that creates the entity with lastWrite, while that may fail
	senderTicket   Ticket  // of what its sender's account has stored of it; a failure is answered where ev ends
	batch          any     // see Batch

	handling handling.Handling // see Handling

	deliveredTo    []*Session     // sessions that took it, if recorded
	deliveries     *deliveryCount // shared with the queues of sessions
	deliveredCount uint16         // how many sessions took it
}

// Clone returns a copy of ev that may be kept. It has neither a batch nor the settling of the
// origin. It allocates.
func (ev *Stanza) Clone() *Stanza {
	k := *ev
	k.Element, k.rewritten, k.settlesOrigin, k.successor = ev.Element.Clone(), false, false, nil
	k.batch, k.deliveredTo, k.deliveries, k.senderTicket = nil, nil, nil, 0
	k.extra = append([]byte(nil), ev.extra...)
	return &k
}

// Add appends el to ev's children in all its deliveries; el is copied. For hooks of phases
// Rewrite and Archive.
func (ev *Stanza) Add(el []byte) { ev.extra = append(ev.extra, el...) }

// Replace makes el, one complete element, the content of ev: later hooks see it and it is
// delivered. el is copied. It returns an error, and changes nothing, if el is not well-formed.
// For hooks of phase Rewrite.
func (ev *Stanza) Replace(el []byte) error {
	b, old := ev.loopRouter.mail.copyBytes(el), []byte(nil)
	if ev.rewritten { // elements of the parser are released in the reverse order of their making
		old = ev.Element.Raw()
		ev.loopRouter.Parser.Release(ev.Element)
	}
	e, err := ev.loopRouter.Parser.Element(b)
	if err != nil {
		if ev.rewritten {
			ev.Element, _ = ev.loopRouter.Parser.Element(old)
		}
		return err
	}
	ev.Element, ev.rewritten, ev.decided = e, true, false
	return nil
}

// Handling returns what is to be done with ev, a message: whether it is archived, copied, kept and pushed. It
// is decided at the first call. Under the lock.
func (ev *Stanza) Handling() handling.Handling {
	if !ev.decided {
		ev.handling, ev.decided = handling.Of(ev.Type, ev.Element), true
	}
	return ev.handling
}

// Entity returns the locked entity: the sender's account in a Pre chain, later the
// recipient; nil at a host with logins itself.
func (ev *Stanza) Entity() *Entity { return ev.entity }

// Account returns Entity as an account; nil if it is none.
func (ev *Stanza) Account() *Account {
	if ev.entity == nil {
		return nil
	}
	return ev.entity.account()
}

// LoopRouter returns the kernel's part of the loop that processes ev.
func (ev *Stanza) LoopRouter() *LoopRouter { return ev.loopRouter }

// Directed reports whether the stanza was sent with a 'to' attribute.
func (ev *Stanza) Directed() bool { return !ev.noTo }

// ID returns the 'id' attribute, nil without one. The bytes are valid until the hook returns.
func (ev *Stanza) ID() []byte {
	v, _ := ev.Element.Attr(stanza.AttrID)
	return v
}

// Payload returns the first child: the one child of an iq of type get or set.
func (ev *Stanza) Payload() xmlstream.Element {
	e, _ := ev.Element.First()
	return e
}

// Appender lends the loop's appender, emptied: see [LoopRouter.Appender].
func (ev *Stanza) Appender() *xmlstream.Appender { return ev.loopRouter.Appender() }

// Appender lends the loop's one appender, emptied, for the building of an element. It is valid
// until the hook returns, until the element is sent by this package, or until the next call,
// which empties it.
func (l *LoopRouter) Appender() *xmlstream.Appender {
	if cap(l.appender.B) > 64<<10 {
		l.appender.B = nil
	}
	return l.appender.Reset(xmlstream.Streamed)
}

// Origin names the client's stanza that ev is, or that has caused it; zero for what the server
// sends of itself.
func (ev *Stanza) Origin() Origin { return ev.origin }

// restoreSender sets the session and the stream of ev, a stanza from a client that has waited in
// the inbox of e, its sender's account. It returns false if the session has ended or has another
// stream. Under the lock.
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

// streamOn returns the stream of s if it belongs to the loop of l and its connection is open;
// else nil. Under the account's lock.
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

// Intern returns the bytes of ev for storage in memory, as [Stanza.AppendForStorage] makes them.
// They must never be changed: sessions of a loop that have sent the same bytes share them, as far
// as the loop's cache has them.
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

// Append appends the bytes of ev for delivery: with the sender's true address, the 'to' of ev,
// the xml:lang of the sender's stream if the stanza has none (RFC 6120 section 8.1.5), and the
// elements of Add after its children.
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
	return AddChildren(dst, start, ev.extra)
}

// AppendForwarded appends the bytes of ev as the child of a <forwarded/> element (XEP-0297): like
// [Stanza.Append], but without the elements of [Stanza.Add], and with the namespace of the element declared
// on it, so that it means the same at any place. For rows of an archive and for copies.
func AppendForwarded(dst []byte, ev *Stanza) []byte {
	l := ev.loopRouter
	a := l.forwarder.Reset(xmlstream.Streamed)
	a.Open(forwardedName)
	from := xmlstream.Attr{Name: stanza.AttrFrom, Value: ev.From.String()}
	to := xmlstream.Attr{Name: stanza.AttrTo, Value: ev.To.String()}
	if _, has := ev.Element.Attr(stanza.AttrLang); ev.lang != "" && !has {
		a.Raw(ev.Element, from, to, xmlstream.Attr{Name: stanza.AttrLang, Value: ev.lang})
	} else {
		a.Raw(ev.Element, from, to)
	}
	dst = append(dst, a.B[len(forwardedTag):]...)
	if cap(a.B) > 64<<10 {
		a.B = nil
	}
	return dst
}

// forwardedName is the element around a forwarded stanza, and forwardedTag its start tag as an Appender
// writes it.
var (
	forwardedName = xmlstream.N("urn:xmpp:forward:0", "forwarded")
	forwardedTag  = "<forwarded xmlns='urn:xmpp:forward:0'>"
)

// AppendForStorage appends the bytes of ev to be kept: as it was sent, but with the xml:lang of
// the sender's stream if it has none (RFC 6120 section 8.1.5).
func (ev *Stanza) AppendForStorage(dst []byte) []byte {
	if _, has := ev.Element.Attr(stanza.AttrLang); ev.lang != "" && !has {
		return ev.Element.Append(dst, xmlstream.Streamed, xmlstream.Attr{Name: stanza.AttrLang, Value: ev.lang})
	}
	return ev.Element.Append(dst, xmlstream.Streamed)
}

// AppendChildren appends el, one complete element, with the elements in extra after its own
// children.
func AppendChildren(dst, el, extra []byte) []byte {
	start := len(dst)
	return AddChildren(append(dst, el...), start, extra)
}

// AddChildren inserts the elements in extra after the children of the element that dst[start:] is, and
// returns dst. An empty-element tag becomes a start tag and an end tag. extra may be a part of dst before
// start.
func AddChildren(dst []byte, start int, extra []byte) []byte {
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
	if len(dst)-i > len(tag) { // a client has chosen a long prefix
		end := append([]byte(nil), dst[i:]...)
		return append(append(dst[:i], extra...), end...)
	}
	n := copy(tag[:], dst[i:])
	return append(append(dst[:i], extra...), tag[:n]...)
}

// A stanzaStack has the Stanzas of a loop: one for each stanza that is being routed, the newest last.
// Reusing them keeps routing free of allocation. Routing nests a few levels deep (an item of an inbox, its
// mail, an error for an unsent element), so eight are enough.
type stanzaStack struct {
	stanzas [8]Stanza
	depth   int // how many are in use
}

// push returns the next free Stanza, empty but for its loop and spare memory. It panics if the
// stack is full.
func (s *stanzaStack) push(l *LoopRouter) *Stanza {
	if s.depth == len(s.stanzas) {
		panic("session: stanzas nested too deep")
	}
	s.depth++
	ev := &s.stanzas[s.depth-1]
	ev.loopRouter = l
	return ev
}

// pop empties the Stanza that push returned last and gives it back.
func (s *stanzaStack) pop() {
	s.depth--
	ev := &s.stanzas[s.depth]
	if ev.rewritten {
		ev.loopRouter.Parser.Release(ev.Element)
	}
	if ev.deliveries != nil {
		ev.deliveries.release()
	}
	extra, takers := ev.extra[:0], ev.deliveredTo[:0]
	*ev = Stanza{}
	if cap(extra) <= 4096 {
		ev.extra = extra
	}
	clear(takers[:cap(takers)])
	ev.deliveredTo = takers
}

// fillStanza fills ev from env and its parsed element e. It keeps no pointer to env.
func (env *envelope) fillStanza(l *LoopRouter, ev *Stanza, e xmlstream.Element) {
	ev.loopRouter, ev.Element, ev.From, ev.To, ev.Hops = l, e, env.from, env.to, env.hops
	ev.lang, ev.noTo, ev.Target, ev.form = env.lang, env.noTo, env.target, env.form
	ev.origin, ev.originLoopNumber, ev.PrePending = env.origin, env.originLoopNumber, env.prePending
	ev.Number, ev.Archived, ev.Again = env.number, env.archived, env.again
	ev.senderTicket = env.senderTicket
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

// seal makes an envelope of ev, with bytes of its own: for an inbox or a job.
func seal(ev *Stanza) envelope {
	env := valuesOf(ev)
	if ev.form != formStanza {
		env.bytes = append([]byte(nil), ev.raw...)
		return env
	}
	env.bytes = ev.Element.Append(nil, xmlstream.Streamed)
	if len(ev.extra) > 0 {
		env.bytes = AddChildren(env.bytes, 0, ev.extra)
	}
	return env
}

// valuesOf returns an envelope of ev without its bytes.
func valuesOf(ev *Stanza) envelope {
	return envelope{from: ev.From, to: ev.To, kind: ev.Kind, target: ev.Target, hops: ev.Hops, lang: ev.lang,
		noTo: ev.noTo, prePending: ev.PrePending, form: ev.form, number: ev.Number, archived: ev.Archived,
		again: ev.Again, senderTicket: ev.senderTicket,
		origin: ev.origin, originLoopNumber: ev.originLoopNumber, settlesOrigin: ev.settlesOrigin,
		lastWrite: ev.lastWrite, creationTicket: ev.creationTicket}
}

// A deliveryCount counts the sessions of one account that took one message: those that sent it to their
// client, and those that queue it. When the last of them ends without having sent it, the message is
// routed again. The account's lock guards it.
type deliveryCount struct {
	n int
	// refs counts the places that point to it and that give it back: the Stanza, and entries of logs of
	// unacknowledged stanzas. Queues don't count: what they had is left to the garbage collector.
	refs atomic.Int32
}

// deliveryCounts has counts that are not used.
var deliveryCounts = sync.Pool{New: func() any { return new(deliveryCount) }}

// newDeliveryCount returns a count for a Stanza, which has to release it.
func newDeliveryCount() *deliveryCount {
	c := deliveryCounts.Get().(*deliveryCount)
	c.n = 0
	c.refs.Store(1)
	return c
}

// release gives c back, if it was the last reference.
func (c *deliveryCount) release() {
	if c.refs.Add(-1) == 0 {
		deliveryCounts.Put(c)
	}
}
