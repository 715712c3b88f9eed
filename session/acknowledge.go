package session

// This file has what a module does with the stream management of a session: see management.go.

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

// Hibernations returns how often the session has begun to hibernate since Manage.
func (out Outbox) Hibernations() uint32 {
	if m := out.management(); m != nil {
		return m.hibernations
	}
	return 0
}

// Acknowledge notes that the client has handled the stanzas up to number h, and asks for more if some are
// left. It returns false, and changes nothing, if so many were not sent. sent is the number of the last
// stanza that was sent: they are counted from 1, modulo 2^32.
func (out Outbox) Acknowledge(h uint32) (sent uint32, ok bool) {
	m := out.management()
	switch {
	case m == nil:
		return 0, false
	case h-m.acked > m.sent-m.acked:
		return m.sent, false
	}
	m.drop(h - m.acked)
	m.requested = false
	if m.acked != m.sent && !out.s.hibernating() && out.s.ending == notEnded {
		m.requested = out.s.wire.Send(m.terms.Request)
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
	case h-m.acked > m.sent-m.acked || m.overflowed && h != m.sent:
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

// handledOf returns the number of the client's stanzas that streams before the present one have handled.
func handledOf(s *Session) uint32 {
	out := s.lockOutbox()
	defer out.unlock()
	if m := out.management(); m != nil {
		return m.handled
	}
	return 0
}

// windowOpened notes that the stream st counts the stanzas of its session from now on. It returns the number
// of those that streams before it have handled.
func windowOpened(s *Session, st *Stream) (handled uint32) {
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
func windowClosed(s *Session, id uint64, handled uint32) {
	out := s.lockOutbox()
	defer out.unlock()
	if m := out.management(); m != nil && m.window == id {
		m.handled, m.windowLoop = handled, nil
	}
}

// unsettled reports whether the ack window of a stream of s is open: its stanzas are not settled.
func unsettled(s *Session) bool {
	out := s.lockOutbox()
	defer out.unlock()
	m := out.management()
	return m != nil && m.windowLoop != nil
}
