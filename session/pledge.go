package session

// A stanza that a tracked stream has sent is settled when everything that the server does with it has been done,
// and what it made entities store is durable or has failed. A module that acknowledges stanzas (XEP-0198 §4) may
// say so for no more than the longest settled prefix: what was not acknowledged is sent again.
//
// The stanza carries its [Origin], values only, through its sender's inbox, on to its recipient and through that
// one's inbox. What an entity stores because of it is a pledge: the ticket of [Stanza.Commit], [Stanza.Kept] or of
// the batch of phase [Record]. Where the stanza ends, the last of its tickets is waited for, and the loop of its
// stream is told once. What it sets off (broadcasts, probes, copies, answers) has the same origin and pledges
// nothing.

// An Origin says where a stanza comes from that a client sent: its stream, and which of that stream's stanzas it
// is, from 1; 0 on a stream that is not tracked. It is zero for what this server said of itself.
type Origin struct {
	Stream StreamRef
	Number uint32
}

// maxOpen is how many stanzas of one stream may be open: above it nothing more is read from it.
const maxOpen = 1024

// A ledger is what is open of a tracked stream. Its loop's.
type ledger struct {
	st      *Stream
	settled uint32  // the longest settled prefix
	last    uint32  // the number of the last stanza that was taken
	ring    []entry // of settled+1 to last
}

// An entry is one stanza of a ledger.
type entry struct {
	open   bool
	failed bool // something of it could not be stored: its sender was told
}

// Track numbers the stanzas that st takes from now on, from 1, and has the hooks Settled called when more of them
// are settled. On the stream's loop, once it is bound.
func (st *Stream) Track() {
	l := st.loop
	if l.ledgers == nil {
		l.ledgers = make(map[uint64]*ledger)
	}
	if l.ledgers[st.id] == nil {
		l.ledgers[st.id] = &ledger{st: st}
		st.bits |= bitTracked
	}
}

// Settled is the number of the last stanza of st before which, itself included, all are settled; 0 for a stream that
// is not tracked. On the stream's loop.
func (st *Stream) Settled() uint32 {
	if d := st.loop.ledgers[st.id]; d != nil {
		return d.settled
	}
	return 0
}

// take gives ev, which st has just read, the next number.
func (d *ledger) take(ev *Stanza) {
	d.last++
	d.ring = append(d.ring, entry{open: true})
	ev.origin.Number, ev.carrier = d.last, true
	if len(d.ring) == maxOpen {
		d.st.park(parkedPledges)
	}
}

// settle closes the entry of that number.
func (d *ledger) settle(number uint32, err error) {
	if number <= d.settled || number > d.last {
		return
	}
	e := &d.ring[number-d.settled-1]
	e.open, e.failed = false, err != nil
	n, failed := 0, 0
	for n < len(d.ring) && !d.ring[n].open {
		if d.ring[n].failed {
			failed++
		}
		n++
	}
	if n == 0 {
		return
	}
	full := len(d.ring) >= maxOpen
	d.settled += uint32(n)
	d.ring = append(d.ring[:0], d.ring[n:]...)
	if full && len(d.ring) < maxOpen {
		d.st.unpark(parkedPledges)
	}
	if st := d.st; st.sess != nil && st.state != Closing {
		d.tell(failed)
	}
}

// tell runs the Settled hooks. A panic ends the stream alone, whichever stanza has set them off: its client can't be
// told what was handled any more.
func (d *ledger) tell(failed int) {
	st, l := d.st, d.st.loop
	at := newFrame(l, st.Peer(), nil)
	at.held = l.held
	defer func() {
		if r := recover(); r != nil {
			l.panicked(r, at)
			st.Close(ErrInternal)
		}
	}()
	c := &st.host.Profile().Hooks.Settled
	for i := range c.links {
		c.links[i].f(st, d.settled, failed)
	}
}

// pledge notes that ev makes an entity store something with t.
func (ev *Stanza) pledge(t Ticket) {
	if ev.carrier && t > ev.pledged {
		ev.pledged = t
	}
}

// land is the end of ev's way. If it carries an origin, the origin's loop is told when all that it pledged is settled.
func (ev *Stanza) land(l *Local) {
	l.origin, l.originLoop = Origin{}, 0
	if !ev.carrier {
		return
	}
	ev.carrier = false
	origin, home := ev.origin, ev.loop
	if ev.pledged == 0 {
		origin.tell(l, home, nil)
		return
	}
	l.commits.await(ev.pledged, func(err error) { origin.tell(l, home, err) })
}

// tell has the ledger of o, which is on the loop home, settle o.
func (o Origin) tell(l *Local, home uint16, err error) {
	r := l.router
	if home == 0 || int(home) > len(r.locals) || o.Stream.Node != r.Node || o.Stream.Inc != r.Incarnation {
		return
	}
	at := r.locals[home-1]
	f := func() {
		if d := at.ledgers[o.Stream.ID]; d != nil {
			d.settle(o.Number, err)
		}
	}
	if at == l {
		f()
		return
	}
	at.Loop.Post(func() { at.Enter(f) })
}
