package session

import (
	"bytes"
	"encoding/binary"

	"canto/reactor"
	"canto/reactor/buf"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/session/stanzaid"
	"canto/xmlstream"
)

// This file is the kernel's part of stream management (XEP-0198): what a session has been sent and has not
// acknowledged, and how many stanzas of its client are handled. A module negotiates it, and keeps the session
// while it hibernates.
//
//   - Sent stanzas. [Outbox.Manage] begins to count what is given to the wire. Each stanza is kept in the log
//     of the session until [Outbox.Acknowledge] is called for it. [Outbox.Rewind] puts what is left in front
//     of the queue, for another stream. If the session ends, the log is unsent, as the queue is: see
//     removeSession.
//   - Requests. The kernel sends the module's request (<r/>) behind a stanza if none is unanswered, and
//     again when an answer leaves stanzas over. So there is at most one in a round trip.
//   - Received stanzas. The ack window of a tracked stream counts them ([Stream.Track]). The count goes on
//     with the session's next stream, once all that the streams before it had accepted is settled
//     ([LoopRouter.TakeOver]).

// A management is the state of stream management in an outbox. The outbox lock guards it.
type management struct {
	// log has the stanzas that were sent and not acknowledged, oldest first, from the offset head on: each
	// is a logHeader and its bytes. nil while there are none.
	log    []byte
	head   int
	counts []*deliveryCount // of the entries with logShared, in order

	terms        *Terms // as the module has negotiated them
	hibernations uint32
	sent, acked  uint32 // numbers of the last stanza that was sent, and acknowledged (XEP-0198 section 4)
	// requested is set while a request is unanswered. overflowed is set when the log had no room: it is
	// empty then, and the session can't be resumed until everything is acknowledged.
	requested, overflowed bool

	// handled counts the client's stanzas of all streams before the present one. window is the number of the
	// stream whose ack window counts now, and windowLoop its loop; nil: no window is open.
	handled    uint32
	window     uint64
	windowLoop *LoopRouter
}

// logHeader is the length of an entry's header in the log: 4 bytes of length, one of kind, one of flags, 8 of
// the number.
const logHeader = 14

// The flags of an entry of the log.
const (
	logArchived  = 1 << iota // queuedElement.archived
	logShared                // it has a deliveryCount
	logAddressed             // it has a sender: see OutboundStanza.From
	logCopy                  // 8 bytes of queuedElement.copyFrom and copyTo come before its bytes
)

// Bounds of the log. Beyond them the session goes on, but can't be resumed (attack W08).
const (
	maxLogCount = 1000
	maxLogBytes = 1 << 20
)

// Terms are what a module has negotiated for a session. They do not change.
type Terms struct {
	Request []byte       // what asks the client for an acknowledgement
	ID      string       // with which the client names the session when it resumes it; empty: it can't
	Keep    reactor.Tick // how long the session hibernates at most
}

// Manage begins to count what is sent to the client from now on. A second call does nothing.
func (out Outbox) Manage(t *Terms) {
	if o := out.ensure(); o.managed == nil {
		o.managed = &management{terms: t}
	}
}

// Terms returns what Manage was given; nil if the session is not managed.
func (out Outbox) Terms() *Terms {
	if m := out.management(); m != nil {
		return m.terms
	}
	return nil
}

// SentCount returns the number of the last stanza that was sent: they are counted from 1, modulo 2^32.
func (out Outbox) SentCount() uint32 {
	if m := out.management(); m != nil {
		return m.sent
	}
	return 0
}

// Hibernations returns how often the session has begun to hibernate since Manage.
func (out Outbox) Hibernations() uint32 {
	if m := out.management(); m != nil {
		return m.hibernations
	}
	return 0
}

// management returns the state of stream management; nil if there is none.
func (out Outbox) management() *management {
	if out.s.outbox == nil {
		return nil
	}
	return out.s.outbox.managed
}

// Acknowledge notes that the client has handled the stanzas up to number h, and asks for more if some are
// left. It returns false, and changes nothing, if so many were not sent.
func (out Outbox) Acknowledge(h uint32) (ok bool) {
	m := out.management()
	if m == nil || h-m.acked > m.sent-m.acked {
		return false
	}
	m.drop(h - m.acked)
	m.requested = false
	if m.acked != m.sent && !out.s.hibernating() && out.s.ending == notEnded {
		m.requested = out.s.wire.Send(m.terms.Request)
	}
	return true
}

// Unacknowledged returns how many stanzas were sent and not acknowledged, and the bytes that are kept of
// them. whole is false if the session can't be resumed, because they were too many.
func (out Outbox) Unacknowledged() (count, size int, whole bool) {
	m := out.management()
	if m == nil {
		return 0, 0, false
	}
	size = len(m.log) - m.head
	return int(m.sent - m.acked), size, !m.overflowed
}

// A sentElement is an element that was given to the wire, as the log keeps it.
type sentElement struct {
	bytes               []byte
	kind                stanza.Kind
	number              stanzaid.ID
	archived, addressed bool // it is archived; it has a sender: see OutboundStanza.From
	copyFrom, copyTo    int32
	shared              *deliveryCount
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
		m.requested = out.s.wire.Send(m.terms.Request)
	}
}

// keep appends an element to the log, or gives up the log if it has no room.
func (m *management) keep(e sentElement) {
	if m.log == nil {
		m.log = logs.Get(logHeader + len(e.bytes))
	}
	n := int(m.sent - m.acked)
	if n > maxLogCount || n > 1 && len(m.log)-m.head+len(e.bytes) > maxLogBytes {
		m.overflowed = true
		m.release()
		return
	}
	if m.head > len(m.log)/2 && m.head > 4096 { // most of it was acknowledged: use the room again
		m.log = m.log[:copy(m.log, m.log[m.head:])]
		m.head = 0
	}
	flags := byte(0)
	if e.archived {
		flags |= logArchived
	}
	if e.addressed {
		flags |= logAddressed
	}
	if e.shared != nil {
		flags |= logShared
		e.shared.refs.Add(1)
		m.counts = append(m.counts, e.shared)
	}
	size := len(e.bytes)
	if e.copyTo > 0 {
		flags |= logCopy
		size += 8
	}
	b := binary.LittleEndian.AppendUint32(m.log, uint32(size))
	b = binary.LittleEndian.AppendUint64(append(b, byte(e.kind), flags), uint64(e.number))
	if e.copyTo > 0 {
		b = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, uint32(e.copyFrom)),
			uint32(e.copyTo))
	}
	m.log = append(b, e.bytes...)
}

// logs has the buffers of logs.
var logs buf.Pool

// release gives the log back. The counts of its elements are the caller's.
func (m *management) release() {
	if m.log != nil {
		logs.Put(m.log)
	}
	m.log, m.head = nil, 0
	if clear(m.counts); cap(m.counts) > 8 {
		m.counts = nil
	}
	m.counts = m.counts[:0]
}

// drop takes the n oldest stanzas out of the log: the client has them.
func (m *management) drop(n uint32) {
	m.acked += n
	switch {
	case m.acked == m.sent:
		m.releaseCounts(len(m.counts))
		m.release()
		m.overflowed = false
		return
	case m.overflowed || m.log == nil:
		return
	}
	shared := 0
	for range n {
		h := m.log[m.head:]
		if h[5]&logShared != 0 {
			shared++
		}
		m.head += logHeader + int(binary.LittleEndian.Uint32(h))
	}
	m.releaseCounts(shared)
}

// releaseCounts gives back the n oldest counts.
func (m *management) releaseCounts(n int) {
	for _, c := range m.counts[:n] {
		c.release()
	}
	m.counts = m.counts[:copy(m.counts, m.counts[n:])]
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
		h := queuedElement{kind: stanza.Kind(b[4]), archived: b[5]&logArchived != 0,
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

// Rewind puts what the client has not acknowledged back in front of the queue: [Account.Resume] sends it
// again. h is what the client of the new stream has handled. It returns false, and changes nothing, if so
// many were not sent, or if the session can't be resumed. The session hibernates. Under the account's lock,
// on the loop of l.
func (s *Session) Rewind(l *LoopRouter, h uint32) (ok bool) {
	out := s.lockOutbox()
	defer out.unlock()
	m := out.management()
	if m == nil || h-m.acked > m.sent-m.acked || m.overflowed && h != m.sent {
		return false
	}
	m.drop(h - m.acked)
	list := m.take(l)
	m.sent, m.requested = m.acked, false
	o := s.outbox
	o.queue = append(list, o.queue...)
	for _, e := range list {
		o.queuedBytes += len(e.bytes)
	}
	return true
}

// TakeOver makes s hibernate, if it has a stream, and waits until everything that its streams have accepted
// is settled. Then it calls then, on the loop of l, under no lock, with the number of stanzas that are
// handled. The stream that s has ends with the error conflict. Whether s may be resumed has to be looked up
// again: it may have ended. Any lock but an outbox lock may be held.
func (l *LoopRouter) TakeOver(s *Session, then func(handled uint32)) {
	out := s.lockOutbox()
	var at *LoopRouter
	var id uint64
	if m := out.management(); m != nil {
		at, id = m.windowLoop, m.window
	}
	out.unlock()
	back := func() {
		l.Loop.Post(func() { l.Enter(func() { then(s.handled()) }) })
	}
	if at == nil {
		back()
		return
	}
	at.Loop.Post(func() {
		at.Enter(func() {
			d := at.ackWindows[id]
			if d == nil {
				back()
				return
			}
			d.waiters = append(d.waiters, back)
			if st := d.st; st.sess == s && st.bits&bitGone == 0 {
				st.endStream(ErrConflict, takenOver)
				sessionStreamEnded(at, s, st.ref(), takenOver, 0)
			}
			d.close()
		})
	})
}

// isManaged reports whether Outbox.Manage was called for s.
func (s *Session) isManaged() bool {
	out := s.lockOutbox()
	defer out.unlock()
	return out.management() != nil
}

// handled returns the number of the client's stanzas that streams before the present one have handled.
func (s *Session) handled() uint32 {
	out := s.lockOutbox()
	defer out.unlock()
	if m := out.management(); m != nil {
		return m.handled
	}
	return 0
}

// windowOpened notes that the stream st counts the stanzas of its session from now on. It returns the number
// of those that streams before it have handled.
func (s *Session) windowOpened(st *Stream) (handled uint32) {
	out := s.lockOutbox()
	defer out.unlock()
	m := out.management()
	if m == nil {
		return 0
	}
	m.window, m.windowLoop = st.id, st.loop
	return m.handled
}

// windowClosed notes that the stream with that number has handled the stanzas up to number handled, and
// handles no more.
func (s *Session) windowClosed(id uint64, handled uint32) {
	out := s.lockOutbox()
	defer out.unlock()
	if m := out.management(); m != nil && m.window == id {
		m.handled, m.windowLoop = handled, nil
	}
}

// closeWindow closes the ack window of the stream that s had: it hibernates. Under the account's lock, on the
// loop of l.
func (s *Session) closeWindow(l *LoopRouter) {
	out := s.lockOutbox()
	var at *LoopRouter
	var id uint64
	if m := out.management(); m != nil {
		at, id = m.windowLoop, m.window
	}
	out.unlock()
	f := func() {
		if d := at.ackWindows[id]; d != nil {
			d.close()
		}
	}
	switch at {
	case nil:
	case l:
		f()
	default:
		at.Loop.Post(func() { at.Enter(f) })
	}
}

// unsettled reports whether the ack window of a stream of s is open: its stanzas are not settled.
func (s *Session) unsettled() bool {
	out := s.lockOutbox()
	defer out.unlock()
	m := out.management()
	return m != nil && m.windowLoop != nil
}

// marshal appends m to b, as part of its session: whether there is one; its terms, counts, and the log. The
// counts of deliveries are left out. Under the outbox lock.
func (m *management) marshal(b []byte) []byte {
	if m == nil {
		return append(b, 0)
	}
	b = appendString(append(b, 1), string(m.terms.Request))
	b = binary.AppendUvarint(appendString(b, m.terms.ID), uint64(m.terms.Keep))
	for _, n := range []uint32{m.sent, m.acked, m.handled, m.hibernations} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	if m.overflowed {
		return append(b, 1)
	}
	return appendString(append(b, 0), string(m.log[m.head:]))
}

// unmarshalManagement reads what marshal has written; nil if there is none, or if it is damaged.
func unmarshalManagement(r *unmarshaler) *management {
	if r.byte() == 0 || r.err != nil {
		return nil
	}
	m := &management{terms: &Terms{Request: []byte(r.string()), ID: r.string(), Keep: reactor.Tick(r.uvarint())}}
	for _, n := range []*uint32{&m.sent, &m.acked, &m.handled, &m.hibernations} {
		*n = uint32(r.uvarint())
	}
	if m.overflowed = r.byte() == 1; m.overflowed {
		return m
	}
	log := []byte(r.string())
	entries := uint32(0)
	for b := log; len(b) > 0; entries++ {
		n := logHeader
		if len(b) >= logHeader {
			n += int(binary.LittleEndian.Uint32(b))
		}
		if n > len(b) || n < logHeader || b[5]&logCopy != 0 && !validCopy(b[logHeader:n]) {
			r.fail()
			return nil
		}
		b[5] &^= logShared
		b = b[n:]
	}
	if entries != m.sent-m.acked {
		r.fail()
		return nil
	}
	if len(log) > 0 {
		m.log = append(logs.Get(len(log)), log...)
	}
	return m
}

// validCopy reports whether the bounds before the bytes of a copy are within them.
func validCopy(b []byte) bool {
	if len(b) < 8 {
		return false
	}
	from, to := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	return from <= to && uint64(to) <= uint64(len(b)-8)
}
