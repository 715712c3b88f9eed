package session

import "canto/reactor"

// This file has what a module does with the stream management of a session: see management.go.

// Manage begins to count what is sent to the client from now on. A second call does nothing.
func (out Outbox) Manage(t *Terms) {
	if o := out.ensure(); o.managed == nil {
		o.managed = &management{terms: t}
	}
}

// AccountID returns the id of the account of s, as [Entity.ID]. It takes the account's lock. On the loop of
// l, under no lock.
func AccountID(l *LoopRouter, s *Session) uint64 {
	a := s.account
	a.lock(l)
	defer a.unlock(l)
	return a.id
}

// Terms returns what Manage was given; nil if the session is not managed.
func (out Outbox) Terms() *Terms {
	if m := out.management(); m != nil {
		return m.terms
	}
	return nil
}

// Hibernations returns how often the session has begun to hibernate since Manage.
func (out Outbox) Hibernations() uint32 {
	if m := out.management(); m != nil {
		return m.hibernations
	}
	return 0
}

// Acknowledge notes that the client has handled the stanzas up to number h. It asks for more if some are
// left, unless the last request has led to nothing and no stanza was sent since: a client that counts too
// few is not asked all the time. It returns false, and changes nothing, if so many were not sent. sent is
// the number of the last stanza that was sent: they are counted from 1, modulo 2^32.
func (out Outbox) Acknowledge(h uint32) (sent uint32, ok bool) {
	m := out.management()
	switch {
	case m == nil:
		return 0, false
	case h-m.acked > m.sent-m.acked:
		return m.sent, false
	}
	n := h - m.acked
	m.drop(n)
	m.requested = false
	if m.acked != m.sent && (n > 0 || m.asked != m.sent) && !out.s.hibernating() && out.s.ending == notEnded {
		m.ask(out.s.wire)
	}
	return m.sent, true
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

// AckOverdue returns how many stanzas the client of s was sent and has not acknowledged, and whether it has
// no connection, or was asked more than d ago. Otherwise wait is how long it may be before that is so; 0:
// there are none. Any goroutine; it takes the outbox lock.
func AckOverdue(s *Session, d reactor.Tick) (n int, overdue bool, wait reactor.Tick) {
	out := s.lockOutbox()
	defer out.unlock()
	m := out.management()
	switch {
	case m == nil || m.acked == m.sent:
		return 0, false, 0
	case out.s.hibernating():
		return int(m.sent - m.acked), true, 0
	case !m.requested || s.wire == nil: // its client counts too few: see Acknowledge
		return 0, false, 0
	}
	passed := s.wire.Loop().router.Tick() - m.requestedAt
	return int(m.sent - m.acked), passed >= d, max(d-passed, 0)
}

// mayRewind reports whether the log has all that a client has not handled which has handled h stanzas.
func (m *management) mayRewind(h uint32) bool {
	return h-m.acked <= m.sent-m.acked && (!m.overflowed || h == m.sent)
}

// MayRewind returns what [Rewind] would return. Any goroutine; it takes the outbox lock.
func MayRewind(s *Session, h uint32) (sent uint32, ok bool) {
	out := s.lockOutbox()
	defer out.unlock()
	m := out.management()
	if m == nil {
		return 0, false
	}
	return m.sent, m.mayRewind(h)
}

// Rewind puts what the client has not acknowledged back in front of the queue: [Account.Resume] sends it
// again. h is what the client of the new stream has handled. It returns false, and changes nothing, if so
// many were not sent, which sent says, or if the session can't be resumed. The session hibernates. Under the
// account's lock, on the loop of l.
func Rewind(l *LoopRouter, s *Session, h uint32) (sent uint32, ok bool) {
	out := s.lockOutbox()
	defer out.unlock()
	m := out.management()
	switch {
	case m == nil:
		return 0, false
	case !m.mayRewind(h):
		return m.sent, false
	}
	m.drop(h - m.acked)
	list := m.take(l)
	m.sent, m.requested = m.acked, false
	o := s.outbox
	o.queue = append(list, o.queue...)
	for _, e := range list {
		o.queuedBytes += len(e.bytes)
	}
	return m.sent, true
}

// isManaged reports whether Outbox.Manage was called for s.
func isManaged(s *Session) bool {
	out := s.lockOutbox()
	defer out.unlock()
	return out.management() != nil
}

// Handled returns the number of the client's stanzas that streams of s before the present one have handled.
// Any goroutine; it takes the outbox lock.
func Handled(s *Session) uint32 {
	out := s.lockOutbox()
	defer out.unlock()
	if m := out.management(); m != nil {
		return m.handled
	}
	return 0
}

// windowOpened notes that the stream of d counts the stanzas of its session from now on. It returns the
// number of those that streams before it have handled.
func windowOpened(s *Session, d *ackWindow) (handled uint32) {
	out := s.lockOutbox()
	defer out.unlock()
	m := out.management()
	if m == nil {
		return 0
	}
	m.window, m.windowLoop, m.open = d.st.id, d.st.loop, d
	return m.handled
}

// windowClosed notes that the stream with that number has handled the stanzas up to number handled, and
// handles no more.
func windowClosed(s *Session, id uint64, handled uint32) {
	out := s.lockOutbox()
	defer out.unlock()
	if m := out.management(); m != nil && m.window == id {
		m.handled, m.windowLoop, m.open = handled, nil, nil
	}
}

// unsettled reports whether the ack window of a stream of s is open: its stanzas are not settled.
func unsettled(s *Session) bool {
	out := s.lockOutbox()
	defer out.unlock()
	m := out.management()
	return m != nil && m.windowLoop != nil
}
