package session

import (
	"encoding/binary"

	"canto/reactor"
	"canto/reactor/buf"
	"canto/session/stanza"
	"canto/session/stanzaid"
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
//     again when an answer leaves stanzas over. So there is at most one in a round trip, and there are not
//     more of them than stanzas and acknowledgements that say something new.
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
	asked        uint32 // number of the last stanza that was sent before the last request
	// requested is set while a request is unanswered. overflowed is set when the log had no room: it is
	// empty then, and the session can't be resumed until everything is acknowledged.
	requested, overflowed bool
	requestedAt           reactor.Tick // when the request that is unanswered was sent

	// handled counts the client's stanzas of all streams before the present one. window is the number of the
	// stream whose ack window counts now, and windowLoop its loop; nil: no window is open.
	handled    uint32
	window     uint64
	windowLoop *LoopRouter
	open       *ackWindow // that one
}

// logHeader is the length of an entry's header in the log: 4 bytes of length, one of kind, one of flags, 8 of
// the number.
const logHeader = 14

// The flags of an entry of the log.
const (
	logArchived  = 1 << iota // queuedElement.archived
	logShared                // it has a deliveryCount
	logAddressed             // it has a sender: see OutboundStanza.From
	logKept                  // queuedElement.kept
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
	Owner   uint64       // the id of the account, for rows that are written without its lock
}

// A sentElement is an element that was given to the wire, as the log keeps it.
type sentElement struct {
	bytes               []byte
	kind                stanza.Kind
	number              stanzaid.ID
	archived, addressed bool // it is archived; it has a sender: see OutboundStanza.From
	kept                bool // a copy of a message that is stored for later delivery
	copyFrom, copyTo    int32
	shared              *deliveryCount
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
	if e.kept {
		flags |= logKept
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
