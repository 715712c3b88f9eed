package session

import (
	"canto/reactor"
)

// A stanza of a tracked stream is settled when the server has done all that it does with it, and
// when what it made entities store is durable or has failed. A module that acknowledges stanzas
// (XEP-0198 section 4) may acknowledge the longest settled prefix and no more: the client sends
// the others again after a failure.
//
// The stanza carries its [Origin], which is a value, through its sender's inbox, to its recipient
// and through that one's inbox. Each write that it causes there is noted by its ticket
// (addWrite): those of [Stanza.Commit], [Stanza.Stored] and of the batch of [Stanza.Batch]. At
// the end of the stanza's way (finish) the last of these tickets is waited for, and then the loop
// of the stream is notified once. What the stanza causes besides (broadcasts, probes, copies,
// answers) has the same Origin, but does not settle it.

// maxUnsettled bounds the unsettled stanzas of one tracked stream: at the bound the stream is
// parked.
const maxUnsettled = 1024

// Track makes st a tracked stream: stanzas that it reads from now on are numbered, and the Settled hooks run
// when more of them are settled. The first number is 1, or follows those of the session's streams before st
// if the session is managed ([Outbox.Manage]). On the stream's loop, after binding.
func (st *Stream) Track() {
	l := st.loop
	if l.ackWindows == nil {
		l.ackWindows = make(map[uint64]*ackWindow)
	}
	d := l.ackWindows[st.id]
	if d != nil {
		windowOpened(st.sess, d)
		return
	}
	d = &ackWindow{st: st, sess: st.sess}
	n := windowOpened(st.sess, d)
	d.settledNumber, d.lastNumber = n, n
	l.ackWindows[st.id] = d
	st.bits |= bitTracked
}

// Settled returns the number up to which all stanzas of st are settled; 0 if st is not tracked.
// On the stream's loop.
func (st *Stream) Settled() uint32 {
	if d := st.loop.ackWindows[st.id]; d != nil {
		return d.settledNumber
	}
	return 0
}

// WhenSettled calls f with the number of settled stanzas, as Settled returns it, when no stanza of st is
// unsettled: at once, or later, but not later than within ticks from now. One call waits at a time: of others
// meanwhile there are none. f should be made once, for all streams. It does nothing if st is not tracked, and
// f is not called if st ends. On the stream's loop.
func WhenSettled(st *Stream, within reactor.Tick, f func(st *Stream, n uint32)) {
	d := st.loop.ackWindows[st.id]
	switch {
	case d == nil:
	case len(d.entries) == 0:
		f(st, d.settledNumber)
	case d.answer == nil:
		d.answer, d.answerBy = f, st.loop.Loop.Tick()+within
		d.arm()
	}
}

// arm starts the timer of an answer that waits, unless it runs.
func (d *ackWindow) arm() {
	if d.armed {
		return
	}
	l := d.st.loop
	d.armed = true
	l.After(d.answerBy-l.Loop.Tick(), func() {
		d.armed = false
		switch {
		case d.answer == nil || d.closed:
		case l.Loop.Tick() >= d.answerBy:
			d.giveAnswer()
		default:
			d.arm()
		}
	})
}

// giveAnswer gives the answer that waits.
func (d *ackWindow) giveAnswer() {
	f := d.answer
	if d.answer = nil; f != nil && d.st.state != Closing && d.st.sess != nil {
		f(d.st, d.settledNumber)
	}
}

// assign gives ev, which the stream has just read, the next number. It parks the stream at the
// bound.
func (d *ackWindow) assign(ev *Stanza) {
	if d.cut {
		return
	}
	d.lastNumber++
	d.entries = append(d.entries, ackEntry{open: true})
	ev.origin.Number, ev.settlesOrigin = d.lastNumber, true
	if len(d.entries) == maxUnsettled {
		d.st.park(parkedUnsettled)
	}
}

// settle marks a stanza as settled, and advances the settled prefix if it was the oldest. err
// says that a write of it has failed. On the stream's loop.
func (d *ackWindow) settle(number uint32, err error) {
	if number-d.settledNumber-1 >= uint32(len(d.entries)) { // numbers wrap (XEP-0198 section 4)
		return
	}
	e := &d.entries[number-d.settledNumber-1]
	e.open, e.failed = false, err != nil
	n, failed := 0, 0
	for n < len(d.entries) && !d.entries[n].open {
		if d.entries[n].failed {
			failed++
		}
		n++
	}
	if n == 0 {
		return
	}
	full := len(d.entries) >= maxUnsettled
	d.settledNumber += uint32(n)
	d.entries = append(d.entries[:0], d.entries[n:]...)
	if full && len(d.entries) < maxUnsettled {
		d.st.unpark(parkedUnsettled)
	}
	if st := d.st; st.sess != nil && st.state != Closing {
		d.notifySettled(failed)
	}
	if len(d.entries) == 0 {
		d.giveAnswer()
	}
	if d.closed && len(d.entries) == 0 {
		d.end()
	}
}

// drop notes that a stanza was not handled, and that so no later one will be: their stream has lost its
// session. On the stream's loop.
func (d *ackWindow) drop(number uint32) {
	n := number - d.settledNumber - 1
	if n >= uint32(len(d.entries)) {
		return
	}
	d.entries, d.lastNumber, d.cut = d.entries[:n], number-1, true
	d.st.unpark(parkedUnsettled)
	if d.closed && n == 0 {
		d.end()
	}
}

// close is called when the stream reads no more: the window ends when its last entry is settled. On the
// stream's loop.
func (d *ackWindow) close() {
	d.closed, d.cut = true, true
	if len(d.entries) == 0 {
		d.end()
	}
}

// end takes the window out of its loop. On the stream's loop.
func (d *ackWindow) end() {
	delete(d.st.loop.ackWindows, d.st.id)
	windowClosed(d.sess, d.st.id, d.lastNumber)
	for _, f := range d.waiters {
		f()
	}
	d.waiters = nil
}

// notifySettled runs the Settled hooks. failed is how many of the newly settled stanzas have
// failed. A panic ends the stream, because its client can no longer learn what was handled.
func (d *ackWindow) notifySettled(failed int) {
	st, l := d.st, d.st.loop
	at := newPanicFrame(l, st.Peer(), nil)
	at.lockedEntity = l.lockedEntity
	defer func() {
		if r := recover(); r != nil {
			l.handlePanic(r, at)
			st.state, st.ending = Closing, ourError // as Stream.Close does
			st.sess.streamClosing(st.ref(), ourError)
			l.stats.StreamErrors[ErrInternal.Condition]++
			st.transport.Close(ErrInternal)
		}
	}()
	c := &st.host.Profile().Hooks.Settled
	for i := range c.hooks {
		c.hooks[i].f(st, d.settledNumber, failed)
	}
}

// settle notifies the ack window of o, on the loop with the number loopNumber, that its stanza is
// settled. It does nothing if the stream is not of this process. It allocates only if that is another loop.
func (o Origin) settle(l *LoopRouter, loopNumber uint16, err error) {
	switch at := o.windowLoop(l, loopNumber); at {
	case nil:
	case l:
		if d := l.ackWindows[o.Stream.ID]; d != nil {
			d.settle(o.Number, err)
		}
	default:
		o.post(at, func(d *ackWindow) { d.settle(o.Number, err) })
	}
}

// drop notifies the ack window of o that its stanza was dropped.
func (o Origin) drop(l *LoopRouter, loopNumber uint16) {
	at := o.windowLoop(l, loopNumber)
	switch {
	case at == nil || o.Number == 0:
	case at == l:
		if d := l.ackWindows[o.Stream.ID]; d != nil {
			d.drop(o.Number)
		}
	default:
		o.post(at, func(d *ackWindow) { d.drop(o.Number) })
	}
}

// windowLoop returns the loop that has the ack window of o, if the window is open; nil if the stream is not
// of this process.
func (o Origin) windowLoop(l *LoopRouter, loopNumber uint16) *LoopRouter {
	r := l.router
	if loopNumber == 0 || int(loopNumber) > len(r.loopRouters) || o.Stream.Node != r.Node ||
		o.Stream.Incarnation != r.Incarnation {
		return nil
	}
	return r.loopRouters[loopNumber-1]
}

// post calls f for the ack window of o, on its loop, if it is open then.
func (o Origin) post(at *LoopRouter, f func(d *ackWindow)) {
	at.Loop.Post(func() {
		at.Enter(func() {
			if d := at.ackWindows[o.Stream.ID]; d != nil {
				f(d)
			}
		})
	})
}

// closeWindow closes the ack window of the stream that s had: it hibernates. Under the account's lock, on the
// loop of l.
func closeWindow(s *Session, l *LoopRouter) {
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
