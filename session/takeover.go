package session

// takeOver makes s hibernate, if it has a stream, and waits until everything that its streams have accepted
// is settled. Then it calls then, on the loop of l, under no lock, with the number of stanzas that are
// handled. The stream that s has ends with the error conflict. Whether s may be resumed has to be looked up
// again: it may have ended. Any lock but an outbox lock may be held.
func takeOver(l *LoopRouter, s *Session, then func(handled uint32)) {
	out := s.lockOutbox()
	var at *LoopRouter
	var id uint64
	if m := out.management(); m != nil {
		at, id = m.windowLoop, m.window
	}
	out.unlock()
	back := func() {
		l.Loop.Post(func() { l.Enter(func() { then(Handled(s)) }) })
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

// AfterHandled calls then with the number of the client's stanzas that the streams of s have handled, when
// the last stream reads no more and all that it has accepted is settled, also if s has ended by then: at
// once, under the account's lock, or later on the loop of that stream, under no lock. Under the
// account's lock.
func AfterHandled(s *Session, then func(handled uint32)) {
	out := s.lockOutbox()
	var at *LoopRouter
	var d *ackWindow
	handled := uint32(0)
	if m := out.management(); m != nil {
		at, d, handled = m.windowLoop, m.open, m.handled
	}
	out.unlock()
	if at == nil {
		then(handled)
		return
	}
	at.Loop.Post(func() {
		at.Enter(func() {
			if at.ackWindows[d.st.id] == d {
				d.waiters = append(d.waiters, func() { then(d.lastNumber) })
				return
			}
			then(d.lastNumber) // it has ended meanwhile, and s with it
		})
	})
}
