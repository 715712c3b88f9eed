package session

import (
	"bytes"

	"canto/session/jid"
	"canto/session/stanza"
)

// An outbox is what a [Session] has beside its wire while something waits: live stanzas for which there
// is no room yet, sources of many elements, and what hooks keep. Nil while there is none of these. Under
// the outbox lock.
type outbox struct {
	queue       []queuedElement // live stanzas that wait, in order
	queuedBytes int             // of held
	// bytes given to the wire by release since the client was last known to have everything
	sentSinceDrain int
	// a message was refused for want of room. So are those after it, which keeps their order
	refusing bool
	// the wire had no room. Everything waits until the client has what the wire took
	blocked bool
	// what is held back is looked at again after a while, as the account could not be read
	retryPending  bool
	drainsPending int             // how often the wire was asked to tell when it has drained, and has not yet
	sources       []*activeSource // the first one is asked; the others wait their turn
	deferred      []queuedElement // what hooks hold back: see Outbox.Defer
	deferredBytes int             // bytes of kept
	vars          *varNode        // of hooks: see OutboxVar
}

// An Outbox is a Session whose outbox lock is held, and what a hook may do with its outbox. Good until
// the hook returns.
type Outbox struct{ s *Session }

// lockOutbox takes the outbox lock of s; it is the last of the order of locks.
func (s *Session) lockOutbox() Outbox {
	outboxCheck()
	s.outboxMu.Lock()
	return Outbox{s}
}

func (out Outbox) unlock() {
	out.s.outboxMu.Unlock()
	outboxUncheck()
}

// A queuedElement waits in an outbox.
type queuedElement struct {
	bytes      []byte
	from, to   jid.JID
	kind       stanza.Kind
	deliveries *deliveryCount // nil: it is for this session alone
}

// An OutboundStanza is one element on its way out; its bytes are copied.
type OutboundStanza struct {
	Bytes []byte
	Kind  stanza.Kind

	fromSource bool // it is of a Source
	hooksRun   bool // the hooks were asked about it

	deliveries **deliveryCount // of a stanza that several sessions may get; made when one holds it back

	// From and To are the addresses of a stanza that another entity has sent: it keeps its place among
	// those, and is routed again if s ends before it has it. What the server itself says has none, and waits
	// for nothing.
	From, To jid.JID
}

// dropCopy reports whether h, whose session ends, is the only copy that is left.
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

// What a session may hold back: bytes, and elements.
const (
	maxQueuedBytes = 1 << 20
	maxQueuedCount = 1000
)

// A session whose account can't be read is ended later: after firstUnbindRetry ticks, then after twice as
// many, up to maxUnbindRetry. After maxUnbindTries tries, some five minutes, it is ended all the same, and
// its contacts are not told: an account that can't be read for good must not hold its sessions, and the
// store's work, for ever.
const (
	firstUnbindRetry = 10
	maxUnbindRetry   = 640
	maxUnbindTries   = 10
)

// LowWaterMark is how much of a [Source], in bytes, may be on its way to the client before the source is
// asked for more: no amount of what the server itself has to say fills the outbox, whose limit is for
// what others send.
const LowWaterMark = 128 << 10

// Send puts p in the outbox of s: it runs the Outgoing hooks and gives p to the wire. A session that
// rests, is given stored messages, or whose wire has no room keeps p for later. It reports whether s took
// p: a session that is closing takes nothing; one that is [Session.Backlogged] and has no room for
// another message refuses it, and lives; one whose client does not read ends when it can keep no more, as
// does one that rests. Any goroutine, any lock held; the order is that of callers that hold the account's
// lock.
func (s *Session) Send(p OutboundStanza) (ok bool) {
	out := s.lockOutbox()
	defer out.unlock()
	return out.send(p)
}

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

// write is send behind the hooks.
func (out Outbox) write(p OutboundStanza) (ok bool) {
	if !out.mustQueue(p) {
		if out.s.wire.Send(p.Bytes) {
			return true
		}
		if !out.block() && !out.accepts() || p.fromSource {
			return false // what is pulled is kept where it is
		}
	}
	switch {
	case out.enqueue(p):
		return true
	case out.backlogged() && p.Kind == stanza.Message:
		return false // it is stored behind what s is given
	case p.Kind == stanza.Presence && out.s.ending == notEnded && !out.s.hibernating() &&
		!out.s.outbox.blocked &&
		out.s.wire.Send(p.Bytes):
		return true // presence overtakes two megabytes rather than being lost
	case out.s.ending != notEnded: // and it is about to be unbound, or to rest
		return false
	}
	why := slowReader
	if out.s.hibernating() {
		why = overflow // it could not be resumed without a hole
	}
	out.setEnding(why)
	out.s.wire.Close(errSlowReader)
	return out.accepts() && out.enqueue(p) // behind what it has, and routed again with that if it ends
}

// mustQueue reports whether p is held back. Under the outbox lock.
func (out Outbox) mustQueue(p OutboundStanza) bool {
	switch {
	case out.s.hibernating() || out.s.ending != notEnded || out.s.outbox != nil && out.s.outbox.blocked:
		return true
	case p.fromSource || p.From.IsZero():
		return false
	}
	return out.backlogged() && p.Kind == stanza.Message || out.s.outbox != nil && len(out.s.outbox.queue) > 0
}

// block has everything wait until the client has what the wire took, which has refused an element; false:
// it closes, and s ends. Under the outbox lock.
func (out Outbox) block() (ok bool) {
	o := out.ensure()
	o.blocked = out.requestDrain() // also where it was asked before: it may close by now
	if !o.blocked {
		out.setEnding(connLost)
	}
	return o.blocked
}

// requestDrain has [Session.drained] called once the client has what was sent; false: the wire closes. Under
// the outbox lock.
func (out Outbox) requestDrain() (ok bool) {
	if out.s.hibernating() {
		return false
	}
	if d, is := out.s.wire.(Drainer); is {
		ok = d.NotifyDrain()
	} else { // it never refuses an element, and so has sent it
		l, ref := out.s.wire.Loop(), out.s.stream
		ok = l.Loop.Post(func() { l.Enter(func() { out.s.drained(l, ref) }) })
	}
	if ok {
		out.ensure().drainsPending++
	}
	return ok
}

// ensure is the outbox of s, made where there is none. Under the outbox lock.
func (out Outbox) ensure() *outbox {
	if out.s.outbox == nil {
		out.s.outbox = new(outbox)
	}
	return out.s.outbox
}

// releaseIfEmpty forgets an outbox in which nothing is. Under the outbox lock.
func (out Outbox) releaseIfEmpty() {
	if o := out.s.outbox; o != nil && !o.blocked && o.drainsPending == 0 && len(o.queue)+len(o.sources)+
		len(o.deferred) == 0 &&
		o.vars == nil {
		out.s.outbox = nil
	}
}

// enqueue keeps p for later; false: there is no room. One element has room, whatever its length. Presence
// and iqs have twice the room of messages, which can be stored. A session that has ended, or whose stream
// has, keeps what comes until it is unbound or rests, so that nothing overtakes what it has: as much
// again. Under the outbox lock.
func (out Outbox) enqueue(p OutboundStanza) bool {
	o, room := out.ensure(), 2
	if p.Kind == stanza.Message {
		room = 1
	}
	if out.s.ending != notEnded {
		room += 2
	}
	if o.refusing && p.Kind == stanza.Message || len(o.queue) >= room*maxQueuedCount || len(o.queue) > 0 &&
		o.queuedBytes+
			len(p.Bytes) > room*maxQueuedBytes {
		o.refusing = o.refusing || p.Kind == stanza.Message && out.backlogged()
		return false
	}
	o.queue = append(o.queue, p.copyElement())
	o.queuedBytes += len(p.Bytes)
	return true
}

// copyElement is p with bytes of its own.
func (p *OutboundStanza) copyElement() queuedElement {
	h := queuedElement{bytes: bytes.Clone(p.Bytes), from: p.From, to: p.To, kind: p.Kind}
	if p.deliveries != nil {
		if *p.deliveries == nil {
			*p.deliveries = new(deliveryCount)
		}
		h.deliveries = *p.deliveries
	}
	return h
}

// refusesMessages reports whether no message is taken, as there are as many held back as may be.
func (out Outbox) refusesMessages() bool {
	s := out.s
	return s.ending == notEnded && s.outbox != nil && s.outbox.refusing
}

// Ended reports whether nothing more leaves for the client of s, as its stream closes. Under the
// account's lock.
func (s *Session) Ended() bool {
	why, _ := s.endedBy()
	return why != notEnded
}

// streamClosing says that the stream ref of s ends by why.
func (s *Session) streamClosing(ref StreamRef, why Ending) {
	out := s.lockOutbox()
	defer out.unlock()
	if s.stream == ref {
		out.setEnding(why)
	}
}

// nextQueued takes the first element that is held back, if the wire should have it now; left: there is one,
// and it waits until the client has what the wire took.
func (out Outbox) nextQueued() (h queuedElement, ok, left bool) {
	s, o := out.s, out.s.outbox
	switch {
	case o == nil || len(o.queue) == 0:
		return h, false, false
	case s.hibernating() || s.ending != notEnded || o.blocked:
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

// sendQueued gives h to the wire, or puts it back in the first place.
func (out Outbox) sendQueued(h queuedElement) bool {
	s, o := out.s, out.ensure()
	if !s.hibernating() && s.wire.Send(h.bytes) {
		o.sentSinceDrain += len(h.bytes)
		return true
	}
	o.queue = append([]queuedElement{h}, o.queue...)
	o.queuedBytes += len(h.bytes)
	out.block()
	return false
}

// endingTable is the table. rests: Hooks.Hibernate is asked whether the session outlives its stream.
// bounces: what the session had not sent is for no other session and no storage. limit is counted beside
// Stats.Ended.
var endingTable = [numEndings]struct {
	name           string
	rests, bounces bool
	limit          string
}{

	loggedOut:  {name: "logged-out"},
	peerError:  {name: "peer-error"},
	ourError:   {name: "our-error", rests: true},
	shutdown:   {name: "shutdown", rests: true},
	slowReader: {name: "slow-reader", rests: true}, // its limit is counted with the stream error
	connLost:   {name: "line-lost", rests: true},
	overflow:   {name: "overflow", limit: "outbox"},
	expired:    {name: "expired"},
	displaced:  {name: "displaced", limit: "resting_displaced"},
	superseded: {name: "superseded"},
	kicked:     {name: "kicked"},
	deleted:    {name: "deleted", bounces: true},
	hookFailed: {name: "failed"},
}

// String is the label of the metric.
func (e Ending) String() string { return endingTable[e].name }

// endingOf is what a stream has ended by that this server closes with err.
func endingOf(err error) Ending {
	switch err {
	case ErrSystemShutdown:
		return shutdown
	case errSlowReader:
		return slowReader
	}
	return ourError
}

// setEnding notes what ends s: the first thing counts, but what is known of the connection only gives way to
// any other, and a decision that the session ends comes before all that happens to its stream. Under the
// outbox lock.
func (out Outbox) setEnding(why Ending) {
	if out.s.ending == notEnded || out.s.ending == connLost || why > connLost && out.s.ending < connLost ||
		why == deleted {
		out.s.ending = why
	}
}

// setEnding is stop under the outbox lock, and returns what s has ended by.
func (s *Session) setEnding(why Ending) Ending {
	out := s.lockOutbox()
	defer out.unlock()
	out.setEnding(why)
	return s.ending
}

// endedBy is what ends s, notEnded if nothing does, and whether it ends whatever the hooks of
// Hooks.Hibernate say.
func (s *Session) endedBy() (why Ending, over bool) {
	defer s.lockOutbox().unlock()
	return s.ending, s.ending != notEnded && !endingTable[s.ending].rests
}

// accepts reports whether s takes what it is sent: it goes on, or may rest once its connection is closed,
// or rests and keeps what comes, until it is unbound, behind what it has. Under the outbox lock.
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
		return true // behind what is routed again when it is unbound
	}
	return endingTable[out.s.ending].rests && len(out.s.account.host.Profile().Hooks.Hibernate.hooks) > 0
}

// takeUnsent takes everything that waits out of the outbox of s but its sources. What other sessions of the
// account have is left out. Under the account's lock.
func (s *Session) takeUnsent() (list []queuedElement) {
	defer s.lockOutbox().unlock()
	o := s.outbox
	if o == nil {
		return nil
	}
	for _, h := range append(o.queue, o.deferred...) {
		if h.dropCopy() {
			list = append(list, h)
		}
	}
	o.queue, o.deferred, o.queuedBytes, o.deferredBytes = nil, nil, 0, 0
	if o.vars = nil; len(o.sources) == 0 {
		s.outbox = nil
	}
	return list
}

// Close ends the stream of s with a stream error, or cleanly if err is nil, and s with it, at the latest
// when its connection is closed. Any goroutine, any lock held.
func (s *Session) Close(err error) { s.close(err, kicked) }

// close has s end by why, a decision, and tells its client err.
func (s *Session) close(err error, why Ending) {
	out := s.lockOutbox()
	w := s.wire
	out.setEnding(why)
	out.unlock()
	if w != nil {
		w.Close(err)
	}
}

// A hibernatingWire is the wire of a session without a stream. Nothing is sent by it; what closes it ends the
// session.
type hibernatingWire struct {
	l *LoopRouter // where the session's last stream was
	s *Session
}

func (r *hibernatingWire) Send([]byte) bool { return false }

func (r *hibernatingWire) Congested() bool { return false }

func (r *hibernatingWire) Loop() *LoopRouter { return r.l }

// Outbox runs f with the outbox of s, under its lock: for a module that changes there what it has in an
// [OutboxVar]. Any goroutine, the account's lock held or not.
func (s *Session) Outbox(f func(o Outbox)) {
	out := s.lockOutbox()
	defer out.unlock()
	f(out)
	out.releaseIfEmpty()
}

// Append sends p before what the hook was asked about, past the hooks. It reports whether the session
// took it: see [Session.Send].
func (out Outbox) Append(p OutboundStanza) (ok bool) { return out.accepts() && out.write(p) }

// Defer keeps a copy of p until [Outbox.Flush]; false: it can't be held back, as it is from a [Source],
// which would be told that it was taken, or there is no room: 1 MiB and 1,000 elements. If the session
// ends before, stanzas of others are routed again.
func (out Outbox) Defer(p OutboundStanza) (ok bool) {
	b := out.ensure()
	if p.fromSource || len(b.deferred) >= maxQueuedCount || len(b.deferred) > 0 && b.deferredBytes+
		len(p.Bytes) > maxQueuedBytes {
		return false
	}
	b.deferred = append(b.deferred, p.copyElement())
	b.deferredBytes += len(p.Bytes)
	return true
}

// Flush sends what was held back, in order, past the hooks. What the session does not take now stays held
// back.
func (out Outbox) Flush() {
	b := out.s.outbox
	if b == nil {
		return
	}
	list := b.deferred
	b.deferred, b.deferredBytes = nil, 0
	for i := range list {
		h := &list[i]
		p := OutboundStanza{Bytes: h.bytes, Kind: h.kind, From: h.from, To: h.to}
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

// DropDeferred drops what is held back and old says so of: presence that a newer one replaces.
func (out Outbox) DropDeferred(old func(kind stanza.Kind, from jid.JID) bool) {
	b := out.s.outbox
	if b == nil {
		return
	}
	rest := b.deferred[:0]
	for _, h := range b.deferred {
		if old(h.kind, h.from) {
			b.deferredBytes -= len(h.bytes)
			continue
		}
		rest = append(rest, h)
	}
	clear(b.deferred[len(rest):])
	b.deferred = rest
}

// An OutboxVar is one module's state in an outbox, under the outbox lock: what its OutgoingFunc has to
// know. It is for what few sessions have, and is lost when the session ends.
type OutboxVar[T any] struct{ id uint16 }

// NewOutboxVar makes an OutboxVar, for a package variable.
func NewOutboxVar[T any](name string) OutboxVar[T] {
	return OutboxVar[T]{registerName(&registry.outSlots, name)}
}

// Get is the state in o, nil if there is none.
func (k OutboxVar[T]) Get(out Outbox) *T {
	if out.s.outbox == nil {
		return nil
	}
	return varOf[T](out.s.outbox.vars, k.id)
}

// Set puts v into o; nil takes it out.
func (k OutboxVar[T]) Set(out Outbox, v *T) {
	if v != nil || out.s.outbox != nil {
		setVar(&out.ensure().vars, k.id, v)
	}
}

// mayReceiveFrom reports whether the account of s takes what from sent, by the rules that hold now.
func mayReceiveFrom(l *LoopRouter, s *Session, from jid.JID) bool {
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

// Backlogged reports whether live messages for s wait behind what a [Source] gives it. A message that
// such a session does not take belongs behind what is stored. Under the account's lock.
func (s *Session) Backlogged() bool {
	out := s.lockOutbox()
	defer out.unlock()
	return out.backlogged()
}

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

// requestTakenDrain has the wire tell when the client has what f has given. Under the outbox lock.
func (out Outbox) requestTakenDrain(f *activeSource) {
	if out.s.outbox.drainsPending == 0 {
		f.drainCount, f.drainBytes = f.inFlight, f.inFlightBytes
		out.requestDrain()
	}
}
