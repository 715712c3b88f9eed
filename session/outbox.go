package session

import (
	"bytes"
	"encoding/binary"
	"slices"

	"canto/session/jid"
	"canto/session/stanza"
	"canto/session/stanzaid"
	"canto/xmlstream"
)

// This file is what a session has to send. The terms: the wire is the session's connection ([Wire]); a
// session hibernates while it has no stream and a module keeps it for resumption (XEP-0198); a [Source]
// has many elements, as stored messages, and is asked for one after another; the outbox is what waits for
// the client (type outbox), and an [Outbox] is the handle with which it is used, while its lock is held.
//
// How an element reaches a client: Session.Send runs the Outgoing hooks and writes the element to the wire.
// If the wire has no room the element is queued, and the wire is asked for a drain notification. When the
// client's socket has taken everything, Session.drained (source.go) continues with the sources and with
// Session.flushQueue, which sends queued elements up to LowWaterMark. If the queue is full, the client is a
// slow consumer and the session ends; but while stored messages are delivered, a further message is refused
// instead, and is stored after them. When a session is removed its unsent elements are routed again
// (ending.go).

// An outbox is what a [Session] has besides its wire while elements wait for the client: live stanzas
// for which the wire has no room, sources of many elements, and elements that hooks defer. It is made
// by Outbox.ensure and freed by Outbox.releaseIfEmpty, so that an idle session has none. The session's
// outbox lock (Session.outboxMu) guards all fields.
type outbox struct {
	queue       []queuedElement // live elements that wait for room on the wire, oldest first
	queuedBytes int             // sum of the lengths of queue's elements
	// sentSinceDrain counts the bytes that sendQueued gave to the wire since the client was last known to
	// have taken everything; Session.drained sets it to 0. At LowWaterMark nextQueued waits for the next drain
	// notification.
	sentSinceDrain int
	// refusing is set when a message was refused because the queue is full while a source blocks live
	// messages. Later messages are refused too: a module stores them all, in their order.
	refusing bool
	// blocked is set when the wire had no room for an element. Every element is queued until the wire has
	// drained.
	blocked bool
	// retryPending is set while a timer of retryAfterDrain (source.go) is armed: what follows a drain needs the
	// account, which could not be read from the store.
	retryPending  bool
	drainsPending int             // drain notifications that were requested and have not arrived
	sources       []*activeSource // the first is pulled; the others wait for its end
	deferred      []queuedElement // elements that hooks deferred: see Outbox.Defer; gaps have no bytes
	deferredBytes int             // sum of the lengths of deferred's elements
	vars          *varNode        // values of modules: see OutboxVar
	managed       *management     // what was sent and is not acknowledged; nil: not managed
}

// An Outbox is the handle of a session's outbox. It exists only while the outbox lock is held: hooks of the
// Outgoing chain and the callback of [Session.Outbox] get one, and must not keep it. In the lock order the
// outbox lock comes after the locks of entities and before those of the connection. So the wire is used under
// it, and no entity lock is taken; nothing may block. All methods need the lock, unless their comment says
// otherwise.
type Outbox struct{ s *Session }

// lockOutbox takes the outbox lock of s and returns the Outbox to unlock. Any goroutine, with or
// without the account's lock. With -tags invariants a wrong lock order panics here.
func (s *Session) lockOutbox() Outbox {
	outboxCheck()
	s.outboxMu.Lock()
	return Outbox{s}
}

// unlock releases the outbox lock. The Outbox must not be used afterwards.
func (out Outbox) unlock() {
	out.s.outboxMu.Unlock()
	outboxUncheck()
}

// A queuedElement is one element that waits in an outbox. Its bytes are its own and do not change.
type queuedElement struct {
	bytes      []byte
	from, to   jid.JID // zero for elements that the server itself originates: see OutboundStanza.From
	kind       stanza.Kind
	number     stanzaid.ID    // see OutboundStanza.Number
	archived   bool           // see OutboundStanza.Archived
	kept       bool           // see OutboundStanza.kept
	ordered    bool           // see OutboundStanza.Ordered
	early      bool           // it is sent before the source that blocks live messages: see PullFrom
	deliveries *deliveryCount // of a message for several sessions; nil: for this session alone
	// copyFrom and copyTo are where the content of a copy is in bytes; both are 0 for what is no copy.
	copyFrom, copyTo int32
}

// content replaces the bytes of a copy by its content, which is what is stored or routed again.
func (h *queuedElement) content() {
	if h.copyTo > 0 {
		h.bytes, h.copyFrom, h.copyTo = h.bytes[h.copyFrom:h.copyTo], 0, 0
	}
}

// An OutboundStanza is one complete XML element on its way to the client of a session. [Session.Send]
// copies the bytes; the caller may reuse them when it returns.
type OutboundStanza struct {
	Bytes []byte      // one complete element
	Kind  stanza.Kind // what Bytes are; Nonza if Bytes are not a stanza

	// fromSource: a [Source] gave it. A source is asked only while nothing blocks, and keeps an element that
	// was not sent.
	fromSource bool
	hooksRun   bool // the Outgoing hooks have seen it, and Done was not their answer: they do not run again

	// deliveries points to the count of a stanza that several sessions may get. The first session that
	// queues the stanza makes the count; LoopRouter.Deliver (route.go), which knows the sessions, sets it.
	deliveries **deliveryCount

	// From and To are the addresses of a stanza that another entity has sent. Such a stanza waits after those
	// that are queued (only presence is sent past a queue that is full), and it is routed again if the session
	// ends before the client has it. Both are zero for elements that the server itself originates, as answers:
	// these are not queued while the wire has room.
	From, To jid.JID

	// Ordered: it waits after what is queued, as a stanza of another entity does, although the server itself has
	// made it: a copy of what another device has sent. It is not routed again.
	Ordered          bool
	Number           stanzaid.ID // see [Stanza.Number]
	Archived         bool        // see [Stanza.Archived]
	Unimportant      bool        // a message that may wait for an inactive client: see handling.Handling
	kept             bool        // a copy of a message that is stored for later delivery: see DeliverCopy
	copyFrom, copyTo int32       // see queuedElement
}

// outbound returns h as it was given to the session.
func (h *queuedElement) outbound() OutboundStanza {
	return OutboundStanza{Bytes: h.bytes, Kind: h.kind, From: h.from, To: h.to, Ordered: h.ordered,
		Number: h.number, Archived: h.archived, kept: h.kept, copyFrom: h.copyFrom, copyTo: h.copyTo}
}

// dropCopy takes h out of the count of its message, because its session ends. It returns true if
// no other session has or queues the message, so that the caller must route it again or answer
// it; false if another session has it. An element without a count is always the last copy. Under
// the account's lock, which guards the count: a message with a count is only delivered under that lock.
func (h *queuedElement) dropCopy() bool {
	if h.deliveries == nil {
		return true
	}
	if h.deliveries.n--; h.deliveries.n > 0 {
		return false
	}
	h.deliveries = nil
	return true
}

// Bounds of a session's queue of live elements and, separately, of its deferred elements. Presence and iqs,
// and elements for an ending session, have more room in the queue: see Outbox.enqueue.
const (
	maxQueuedBytes = 1 << 20
	maxQueuedCount = 1000
)

// The removal of a session (ending.go) needs the stored parts of its account. If the store cannot read them,
// the removal is tried again: after firstUnbindRetry ticks (a second), then after twice as many each time, up
// to maxUnbindRetry (64 seconds). After maxUnbindTries tries, some five minutes, the session is removed
// without a notification of its contacts: an account that is permanently unreadable must not keep its
// sessions, and the work of reading it, forever.
const (
	firstUnbindRetry = 10
	maxUnbindRetry   = 640
	maxUnbindTries   = 10
)

// LowWaterMark is the number of bytes in flight to the client below which a [Source] is asked for its next
// element. It is also how much of the queue is given to the wire between two drain notifications. So stored
// messages and archive pages, of any length, never fill the queue of the session or the buffer of the
// connection; the bounds of these are for what other entities send.
const LowWaterMark = 128 << 10

// Send gives p to the client of s. It runs the Outgoing hooks, then writes p to the wire, or copies it into
// the queue if the session hibernates, if the wire has no room, or if messages must wait for a [Source].
// It returns true if the session, or a hook, took p. If it returns false the caller must store p or answer
// it:
//
//   - The session is ending, and nothing of it is kept or routed again: see Outbox.accepts. Otherwise an
//     ending session queues p, within larger bounds, and Send returns true.
//   - p is a message, the session is [Session.Backlogged], and its queue is full. The session goes on.
//   - The queue is full for another reason: the client does not read, or the session has hibernated for too
//     long. Then Send ends the stream of the slow consumer, and with it the session unless a module lets it
//     hibernate; a hibernating session it ends. If the ending session can still queue p, to be routed again
//     with the others, Send returns true.
//
// Any goroutine, with any lock but an outbox lock held. Elements leave in the order of calls that are made
// under the account's lock.
func (s *Session) Send(p OutboundStanza) (ok bool) {
	out := s.lockOutbox()
	defer out.unlock()
	return out.send(p)
}

// send is [Session.Send] under the outbox lock. Elements of a Source are refused as soon as the
// stream is ending.
func (out Outbox) send(p OutboundStanza) (ok bool) {
	if !out.accepts() || p.fromSource && out.s.ending != notEnded {
		return false
	}
	if !p.hooksRun {
		links := out.s.account.host.Profile().Hooks.Outgoing.hooks
		for i := range links {
			if links[i].f(out, p) == Done {
				return true
			}
		}
	}
	return out.write(p)
}

// write is send without the Outgoing hooks. Its steps:
//
//   - If p need not wait, it is written to the wire. If the wire refuses it, the outbox is
//     blocked until the wire has drained. An element of a Source is refused then: its source
//     keeps it. (A Source is not asked while its elements would have to wait: see mustQueue.)
//   - p is queued, if the queue has room.
//   - Without room, a message of a backlogged session is refused: a module stores it after
//     those that are stored already.
//   - Presence is written past the queue if the wire takes it: overtaking two megabytes is less
//     harmful than losing it.
//   - Else the client is a slow consumer (or the session has hibernated for too long): the
//     session or its stream is ended. An ending session has more room, and p is queued there,
//     so that it is routed again in its order.
func (out Outbox) write(p OutboundStanza) (ok bool) {
	if !out.mustQueue(p) {
		if out.sendNow(&p) {
			return true
		}
		if !out.block() && !out.accepts() || p.fromSource {
			return false // a source keeps its element itself
		}
	}
	switch {
	case out.enqueue(p):
		return true
	case out.backlogged() && p.Kind == stanza.Message:
		return false // the caller stores it
	case p.Kind == stanza.Presence && out.s.ending == notEnded && !out.s.hibernating() &&
		!out.s.outbox.blocked && out.sendNow(&p):
		return true
	case out.s.ending != notEnded:
		return false
	}
	why := slowReader
	if out.s.hibernating() {
		why = overflow // the session cannot be resumed without a gap
	}
	out.setEnding(why)
	out.s.wire.Close(errSlowReader)
	return out.accepts() && out.enqueue(p) // it is routed again, in its order, if the session is removed
}

// sendNow writes p to the wire. It returns false if the wire has no room.
func (out Outbox) sendNow(p *OutboundStanza) (ok bool) {
	if !out.s.wire.Send(p.Bytes) {
		return false
	}
	if out.management() != nil {
		out.noteSent(sentElement{p.Bytes, p.Kind, p.Number, p.Archived, !p.From.IsZero(), p.kept, p.copyFrom,
			p.copyTo, p.sharedCount()})
	}
	return true
}

// sharedCount returns the count of the sessions that get p, which the first session that keeps p makes; nil
// if p is for this session alone.
func (p *OutboundStanza) sharedCount() *deliveryCount {
	if p.deliveries == nil {
		return nil
	}
	if *p.deliveries == nil {
		*p.deliveries = newDeliveryCount()
	}
	return *p.deliveries
}

// mustQueue reports whether p has to wait in the queue although the wire may have room.
// Everything waits while the session hibernates, while its stream is ending, and while the outbox
// is blocked. Otherwise elements of a Source and of the server itself do not wait; a stanza of
// another entity waits if the queue has elements, and a message also while a Source blocks live
// messages.
func (out Outbox) mustQueue(p OutboundStanza) bool {
	switch {
	case out.s.hibernating() || out.s.ending != notEnded || out.s.outbox != nil && out.s.outbox.blocked:
		return true
	case p.fromSource || p.From.IsZero() && !p.Ordered:
		return false
	}
	return out.backlogged() && p.Kind == stanza.Message || out.s.outbox != nil && len(out.s.outbox.queue) > 0
}

// block is called after the wire has refused an element: it makes every element wait until the
// wire has drained. It returns false if the wire is closing instead; then the ending connLost is
// noted. The notification is requested even if one is pending: its failure is how a closing wire
// is noticed. Not for a session that hibernates: its wire is never written to.
func (out Outbox) block() (ok bool) {
	o := out.ensure()
	o.blocked = out.requestDrain()
	if !o.blocked {
		out.setEnding(connLost)
	}
	return o.blocked
}

// requestDrain asks the wire to notify the session ([Session.drained], on the stream's loop) when
// the client's socket has taken everything that was sent so far. It returns false if the wire is
// closing or the session hibernates: then there is no notification. The wire of a connection that
// is not a [Drainer] never refuses elements: its notification is posted to the loop at once.
func (out Outbox) requestDrain() (ok bool) {
	if out.s.hibernating() {
		return false
	}
	if d, is := out.s.wire.(Drainer); is {
		ok = d.NotifyDrain()
	} else { // this wire refuses no element, so it has sent them
		l, ref := out.s.wire.Loop(), out.s.stream
		ok = l.Loop.Post(func() { l.Enter(func() { out.s.drained(l, ref) }) })
	}
	if ok {
		out.ensure().drainsPending++
	}
	return ok
}

// ensure returns the session's outbox, and makes it if there is none.
func (out Outbox) ensure() *outbox {
	if out.s.outbox == nil {
		out.s.outbox = new(outbox)
	}
	return out.s.outbox
}

// releaseIfEmpty frees the session's outbox if it holds nothing and waits for no drain
// notification. refusing and retryPending need no check: they are set only while
// there are sources or queued elements.
func (out Outbox) releaseIfEmpty() {
	if o := out.s.outbox; o != nil && !o.blocked && o.drainsPending == 0 && o.managed == nil &&
		len(o.queue)+len(o.sources)+len(o.deferred) == 0 && o.vars == nil {
		out.s.outbox = nil
	}
}

// enqueue copies p into the queue. It returns false if there is no room. There is one queue. It takes a
// message while it has less than 1,000 elements and 1 MiB; presence or an iq while it has less than twice
// that, because messages can be stored instead. In an ending session both bounds are 2,000 elements and 2
// MiB larger: it keeps what arrives until it is removed (then the queue is routed again) or hibernates,
// so that no element overtakes the queued ones. An empty queue takes an element of any length, but no
// message while it refuses them.
func (out Outbox) enqueue(p OutboundStanza) bool {
	o, room := out.ensure(), 2
	if p.Kind == stanza.Message {
		room = 1
	}
	if out.s.ending != notEnded {
		room += 2
	}
	if o.refusing && p.Kind == stanza.Message || len(o.queue) >= room*maxQueuedCount ||
		len(o.queue) > 0 && o.queuedBytes+len(p.Bytes) > room*maxQueuedBytes {
		o.refusing = o.refusing || p.Kind == stanza.Message && out.backlogged()
		return false
	}
	o.queue = append(o.queue, p.copyElement())
	o.queuedBytes += len(p.Bytes)
	return true
}

// copyElement copies p, with its bytes, for a queue. If several sessions may get p, the copies share one
// deliveryCount, which the first of them makes.
func (p *OutboundStanza) copyElement() queuedElement {
	h := queuedElement{bytes: bytes.Clone(p.Bytes), from: p.From, to: p.To, kind: p.Kind,
		number: p.Number, archived: p.Archived, kept: p.kept, ordered: p.Ordered, copyFrom: p.copyFrom,
		copyTo: p.copyTo}
	if h.deliveries = p.sharedCount(); h.deliveries != nil {
		h.deliveries.refs.Add(1) // never given back: see deliveryCount
	}
	return h
}

// refusesMessages reports whether messages are refused until a source has ended: see
// outbox.refusing.
func (out Outbox) refusesMessages() bool {
	s := out.s
	return s.ending == notEnded && s.outbox != nil && s.outbox.refusing
}

// Ended reports whether the session or its stream is ending, so that nothing more is written to the
// client. If only the stream ends, a module may let the session hibernate: then its ending is notEnded
// again, and Ended is false. Any goroutine; it takes the outbox lock.
func (s *Session) Ended() bool {
	why, _ := s.endedBy()
	return why != notEnded
}

// streamClosing notes why the stream ref of s ends. It does nothing if s has another stream by
// now. On the stream's loop.
func (s *Session) streamClosing(ref StreamRef, why Ending) {
	out := s.lockOutbox()
	defer out.unlock()
	if s.stream == ref {
		out.setEnding(why)
	}
}

// nextQueued takes the oldest element out of the queue for sendQueued. ok is false if there is
// none to send now; left is true if the queue had elements when it was called. The two are separate calls
// because the caller checks between them, under the account's lock, whether the account takes the
// element; that lock keeps other elements from overtaking it. Elements stay while the session
// hibernates or ends, while the outbox is blocked, while a source goes first, and while LowWaterMark bytes
// were sent since the last drain: then it requests a drain notification, which continues the flush.
func (out Outbox) nextQueued() (h queuedElement, ok, left bool) {
	s, o := out.s, out.s.outbox
	switch {
	case o == nil || len(o.queue) == 0:
		return h, false, false
	case s.hibernating() || s.ending != notEnded || o.blocked || o.sourceGoesFirst():
		return h, false, true
	case o.sentSinceDrain >= LowWaterMark:
		if o.drainsPending == 0 {
			out.requestDrain()
		}
		return h, false, true
	}
	h = o.queue[0]
	o.queue[0] = queuedElement{}
	o.queue = o.queue[1:]
	o.queuedBytes -= len(h.bytes)
	return h, true, true
}

// sendQueued writes h, which nextQueued returned, to the wire, past the hooks: they have seen it
// before it was queued. If the wire refuses it, sendQueued puts h back at the head of the queue,
// blocks the outbox, and returns false. The session does not begin to hibernate between the two calls, as
// that needs the account's lock, which the caller holds.
func (out Outbox) sendQueued(h queuedElement) bool {
	s, o := out.s, out.ensure()
	if !s.hibernating() && s.wire.Send(h.bytes) {
		o.sentSinceDrain += len(h.bytes)
		if o.managed != nil {
			out.noteSent(sentElement{h.bytes, h.kind, h.number, h.archived, !h.from.IsZero(), h.kept, h.copyFrom,
				h.copyTo, h.deliveries})
		}
		return true
	}
	o.queue = append([]queuedElement{h}, o.queue...)
	o.queuedBytes += len(h.bytes)
	out.block()
	return false
}

// endingTable has a row for each [Ending]; session.txt explains the rows, and TestEndings tests them.
var endingTable = [numEndings]struct {
	name         string // label of the metric canto_sessions_ended_total
	mayHibernate bool   // the hooks of Hooks.Hibernate may keep the session for resumption
	bounces      bool   // unsent stanzas are answered with an error; else they are routed again
	limit        string // counted in Stats.Limits besides Stats.Ended; empty: no limit was hit
}{
	loggedOut:  {name: "logged-out"},
	peerError:  {name: "peer-error"},
	ourError:   {name: "our-error", mayHibernate: true},
	shutdown:   {name: "shutdown", mayHibernate: true},
	slowReader: {name: "slow-reader", mayHibernate: true}, // the stream error is what counts the limit "outbox"
	takenOver:  {name: "taken-over", mayHibernate: true},
	connLost:   {name: "line-lost", mayHibernate: true}, // a metric's label does not change
	overflow:   {name: "overflow", limit: "outbox"},
	expired:    {name: "expired"},
	// it hibernated, and made room for a new session
	displaced:  {name: "displaced", limit: "resting_displaced"},
	superseded: {name: "superseded"}, // another stream has bound its resource
	kicked:     {name: "kicked"},
	deleted:    {name: "deleted", bounces: true},
	hookFailed: {name: "failed"},
}

// String returns the label of e in the metric of ended sessions.
func (e Ending) String() string { return endingTable[e].name }

// endingOf returns the Ending of a stream that this server closes with the stream error err.
func endingOf(err error) Ending {
	switch err {
	case errSystemShutdown:
		return shutdown
	case errSlowReader:
		return slowReader
	}
	return ourError
}

// setEnding notes why the session, or its stream, ends. The first reason wins, with three
// exceptions: connLost gives way to any other reason; the end of a session (overflow to hookFailed, the
// constants after connLost) replaces the end of a stream; deleted replaces everything.
func (out Outbox) setEnding(why Ending) {
	if out.s.ending == notEnded || out.s.ending == connLost || why > connLost && out.s.ending < connLost ||
		why == deleted {
		out.s.ending = why
	}
}

// setEnding calls [Outbox.setEnding] under the outbox lock, which it takes, and returns the
// reason that counts.
func (s *Session) setEnding(why Ending) Ending {
	out := s.lockOutbox()
	defer out.unlock()
	out.setEnding(why)
	return s.ending
}

// endedBy returns why s ends, notEnded if it does not. over is true if s cannot hibernate,
// whatever the hooks of Hooks.Hibernate say. It takes the outbox lock.
func (s *Session) endedBy() (why Ending, over bool) {
	defer s.lockOutbox().unlock()
	return s.ending, s.ending != notEnded && !endingTable[s.ending].mayHibernate
}

// accepts reports whether the session takes elements at all. It does while it has not ended, and
// while it hibernates. An ending session still takes elements if its queue has some (they are
// routed again together) or if a hook may keep it for resumption. A removed session, which has no
// wire, takes none.
func (out Outbox) accepts() bool {
	switch {
	case out.s.ending == notEnded:
		return true
	case out.s.wire == nil:
		return false
	case out.s.hibernating():
		return true
	}
	if o := out.s.outbox; o != nil && len(o.queue) > 0 {
		return true // the queue is routed again when the session is removed
	}
	return endingTable[out.s.ending].mayHibernate && len(out.s.account.host.Profile().Hooks.Hibernate.hooks) > 0
}

// takeUnsent empties the log, the queue and the deferred elements, and returns those that no other session
// of the account has: what was sent and not acknowledged first, the queue, the deferred ones. Copies
// of messages that wait in the store are dropped: the next device gets the messages. The caller routes or
// answers those that have a sender; what the server itself originated is dropped. Sources stay: see
// endSources. Under the account's lock, on the loop of l; it takes the outbox lock.
func (s *Session) takeUnsent(l *LoopRouter) (list []queuedElement) {
	defer s.lockOutbox().unlock()
	o := s.outbox
	if o == nil {
		return nil
	}
	all := append(o.queue, o.deferred...)
	if o.managed != nil {
		all = append(o.managed.take(l), all...)
	}
	for _, h := range all {
		if h.bytes != nil && !h.kept && h.dropCopy() {
			h.content()
			list = append(list, h)
		}
	}
	o.queue, o.deferred, o.queuedBytes, o.deferredBytes = nil, nil, 0, 0
	o.vars = nil
	if o.managed == nil && len(o.sources) == 0 {
		s.outbox = nil
	}
	return list
}

// Close ends s and its stream. Its client is sent the stream error err, or only the end tag if
// err is nil. The session does not hibernate. It is removed later, on its loop: at once where that
// can be, and at the latest when its connection has closed. Any goroutine, with any lock but an outbox lock
// held.
func (s *Session) Close(err error) { s.close(err, kicked) }

// close notes why s ends and closes its wire with err. The wire of a hibernating session posts the
// removal of the session to its loop. The wire is closed after the outbox lock is released; write closes it
// under the lock, which is allowed as well.
func (s *Session) close(err error, why Ending) {
	out := s.lockOutbox()
	w := s.wire
	out.setEnding(why)
	out.unlock()
	if w != nil {
		w.Close(err)
	}
}

// A hibernatingWire is the [Wire] of a session without a stream. It takes no element, so everything is
// queued. Its Close (in ending.go) ends the session.
type hibernatingWire struct {
	l *LoopRouter // of the session's last stream
	s *Session
}

// Send implements [Wire]. It takes nothing.
func (r *hibernatingWire) Send([]byte) bool { return false }

// Congested implements [Wire].
func (r *hibernatingWire) Congested() bool { return false }

// Loop implements [Wire]. It returns the loop of the session's last stream.
func (r *hibernatingWire) Loop() *LoopRouter { return r.l }

// Outbox calls f with the outbox of s, under its lock, so that a module can change its
// [OutboxVar] or flush deferred elements. f must not block or take a lock. Any goroutine, with or
// without the account's lock.
func (s *Session) Outbox(f func(o Outbox)) {
	out := s.lockOutbox()
	defer out.unlock()
	f(out)
	out.releaseIfEmpty()
}

// Append sends p at once, without the Outgoing hooks. In such a hook that is before the element for which
// the hook was called. It returns true if the session took p: see [Session.Send]. p.Bytes are copied.
func (out Outbox) Append(p OutboundStanza) (ok bool) { return out.accepts() && out.write(p) }

// Defer keeps a copy of p until [Outbox.Flush]. It returns false, and keeps nothing, if p comes
// from a [Source] (which would be notified that the client took it) or if the bounds are reached:
// 1,000 elements or 1 MiB. If the session ends first, deferred stanzas of other entities are
// routed again.
func (out Outbox) Defer(p OutboundStanza) (ok bool) {
	b := out.ensure()
	if len(b.deferred) >= maxQueuedCount {
		b.closeGaps()
	}
	if p.fromSource || len(b.deferred) >= maxQueuedCount ||
		len(b.deferred) > 0 && b.deferredBytes+len(p.Bytes) > maxQueuedBytes {
		return false
	}
	b.deferred = append(b.deferred, p.copyElement())
	b.deferredBytes += len(p.Bytes)
	return true
}

// Flush sends the deferred elements in order, without the Outgoing hooks. It stops at the first
// element that the session does not take; that one and those after it stay deferred until the module calls
// Flush again, or the session ends.
func (out Outbox) Flush() {
	b := out.s.outbox
	if b == nil {
		return
	}
	list := b.deferred
	b.deferred, b.deferredBytes = nil, 0
	for i := range list {
		h := &list[i]
		if h.bytes == nil {
			continue // a gap of DeferPresence
		}
		p := h.outbound()
		if h.deliveries != nil {
			p.deliveries = &h.deliveries
		}
		if !out.Append(p) {
			b = out.ensure()
			b.deferred = list[i:]
			for _, h := range b.deferred {
				b.deferredBytes += len(h.bytes)
			}
			return
		}
	}
}

// DeferPresence is [Outbox.Defer] for presence of a resource: older deferred presence of the same resource is
// dropped.
func (out Outbox) DeferPresence(p OutboundStanza) (ok bool) {
	b := out.s.outbox
	if b == nil || p.fromSource {
		return out.Defer(p)
	}
	for i := range b.deferred {
		h := b.deferred[i]
		if h.kind != stanza.Presence || h.from != p.From || h.bytes == nil {
			continue
		}
		b.deferred[i] = queuedElement{}
		b.deferredBytes += len(p.Bytes) - len(h.bytes)
		h.bytes, h.to = append(h.bytes[:0], p.Bytes...), p.To
		if len(b.deferred) == cap(b.deferred) {
			b.closeGaps() // so that the list does not grow
		}
		b.deferred = append(b.deferred, h)
		return true
	}
	return out.Defer(p)
}

// closeGaps takes the gaps out of the deferred elements.
func (o *outbox) closeGaps() {
	o.deferred = slices.DeleteFunc(o.deferred, func(h queuedElement) bool { return h.bytes == nil })
}

// Hibernating reports whether the session has no stream.
func (out Outbox) Hibernating() bool { return out.s.hibernating() }

// An OutboxVar is the key of one module's value in an outbox: the state that its OutgoingFunc needs. The
// value is lost when the session ends. It suits state that few sessions have, because an outbox with a
// value is not freed until it is removed or the session ends.
type OutboxVar[T any] struct{ id uint16 }

// NewOutboxVar registers an OutboxVar under a name that must be unique in the process. Call it
// once, for a package variable.
func NewOutboxVar[T any](name string) OutboxVar[T] {
	return OutboxVar[T]{registerName(&registry.outboxVars, name)}
}

// Get returns the value in out, nil if there is none.
func (k OutboxVar[T]) Get(out Outbox) *T {
	if out.s.outbox == nil {
		return nil
	}
	return varOf[T](out.s.outbox.vars, k.id)
}

// Set stores v in out; nil removes the value.
func (k OutboxVar[T]) Set(out Outbox, v *T) {
	if v != nil || out.s.outbox != nil {
		setVar(&out.ensure().vars, k.id, v)
	}
}

// mayReceiveFrom reports whether the account of s accepts stanzas from that sender under the current blocking
// rules (Hooks.Blocked). An account always accepts its own. Under the account's lock.
func mayReceiveFrom(s *Session, from jid.JID) bool {
	a := s.account
	if from.Bare() == a.addr {
		return true
	}
	for _, refuses := range a.host.Profile().Hooks.Blocked {
		if refuses(a, from) {
			return false
		}
	}
	return true
}

// Backlogged reports whether live messages for s wait until a [Source] has ended (see
// [Session.Pull]). If such a session refuses a message, the message belongs in storage after
// those that the source reads. Under the account's lock; it takes the outbox lock.
func (s *Session) Backlogged() bool {
	out := s.lockOutbox()
	defer out.unlock()
	return out.backlogged()
}

// backlogged is [Session.Backlogged] under the outbox lock.
func (out Outbox) backlogged() bool {
	if out.s.outbox != nil {
		for _, f := range out.s.outbox.sources {
			if f.blocksLive {
				return true
			}
		}
	}
	return false
}

// sourceGoesFirst reports whether the oldest element of the queue waits until a source has ended: there is a
// source that blocks live messages, the element was not queued before it, and the source has not come to its
// end, with all its elements taken. Under the outbox lock.
func (o *outbox) sourceGoesFirst() bool {
	if o.queue[0].early {
		return false
	}
	for _, f := range o.sources {
		if f.blocksLive {
			return !f.ended || f.inFlight > 0
		}
	}
	return false
}

// DropKeptCopies takes the copies of messages that are stored for later delivery out of the queue, and calls
// dropped with the number of each. A module that is about to deliver the messages themselves calls it, by
// [Session.Outbox]. dropped must not lock.
func (out Outbox) DropKeptCopies(dropped func(number stanzaid.ID)) {
	o := out.s.outbox
	if o == nil {
		return
	}
	for _, list := range []struct {
		elements *[]queuedElement
		bytes    *int
	}{{&o.queue, &o.queuedBytes}, {&o.deferred, &o.deferredBytes}} {
		rest := (*list.elements)[:0]
		for _, h := range *list.elements {
			if h.kept {
				*list.bytes -= len(h.bytes)
				dropped(h.number)
				continue
			}
			rest = append(rest, h)
		}
		clear((*list.elements)[len(rest):])
		*list.elements = rest
	}
}

// requestTakenDrain requests a drain notification for what f has in flight, and remembers how much that
// is: when it arrives, Session.drained notifies the source that so many elements were taken
// ([Source.Taken]). It does nothing if a notification is pending, as drained calls it again for what is
// in flight then.
func (out Outbox) requestTakenDrain(f *activeSource) {
	if out.s.outbox.drainsPending == 0 {
		f.drainCount, f.drainBytes = f.inFlight, f.inFlightBytes
		out.requestDrain()
	}
}

// management returns the state of stream management; nil if there is none.
func (out Outbox) management() *management {
	if out.s.outbox == nil {
		return nil
	}
	return out.s.outbox.managed
}

// noteSent is called for each element that was given to the wire of a managed session.
func (out Outbox) noteSent(e sentElement) {
	m := out.management()
	if e.kind == stanza.Nonza {
		return
	}
	m.sent++
	if !m.overflowed {
		m.keep(e)
	}
	if !m.requested {
		m.ask(out.s.wire)
	}
}

// ask asks the client to acknowledge what it was sent. Under the outbox lock.
func (m *management) ask(w Wire) {
	if m.requested, m.asked = w.Send(m.terms.Request), m.sent; m.requested {
		m.requestedAt = w.Loop().router.Tick()
	}
}

// take empties the log and returns its elements, with bytes of their own. l parses their addresses. Under
// the outbox lock, on the loop of l.
func (m *management) take(l *LoopRouter) (list []queuedElement) {
	if m.log == nil {
		return nil
	}
	shared := 0
	for b := m.log[m.head:]; len(b) > 0; {
		n := logHeader + int(binary.LittleEndian.Uint32(b))
		h := queuedElement{kind: stanza.Kind(b[4]), archived: b[5]&logArchived != 0, kept: b[5]&logKept != 0,
			number: stanzaid.ID(binary.LittleEndian.Uint64(b[6:]))}
		el := b[logHeader:n]
		if b[5]&logCopy != 0 {
			h.copyFrom = int32(binary.LittleEndian.Uint32(el))
			h.copyTo = int32(binary.LittleEndian.Uint32(el[4:]))
			el = el[8:]
		}
		h.bytes = bytes.Clone(el)
		if b[5]&logShared != 0 {
			h.deliveries = m.counts[shared]
			shared++
		}
		if b[5]&logAddressed != 0 {
			if h.from, h.to = addressesOf(l, h.bytes); h.copyTo > 0 {
				h.from, h.to = addressesOf(l, h.bytes[h.copyFrom:h.copyTo])
			}
		}
		list = append(list, h)
		b = b[n:]
	}
	m.release()
	return list
}

// addressesOf returns the addresses of a stanza.
func addressesOf(l *LoopRouter, b []byte) (from, to jid.JID) {
	el, err := l.Parser.Element(b)
	if err != nil {
		return from, to
	}
	defer l.Parser.Release(el)
	read := func(n xmlstream.Name) (j jid.JID) {
		if v, ok := el.Attr(n); ok {
			j, _ = l.JID(v)
		}
		return j
	}
	return read(stanza.AttrFrom), read(stanza.AttrTo)
}
