package session

import (
	"canto/session/jid"
)

// What an entity says leaves it in one order for each receiver, whichever loops it was said on.
//
// With nothing under way it is the mail of the loop that runs its chain: straight. That loop routes its mail as
// soon as the lock is given back, and tells the entity when it has. What the entity says meanwhile on another loop
// waits here, in order, and so does a broadcast to many. Then it is spread: each receiver belongs to one loop, that
// of its connection as far as a [Seats] knows it, else one by its slot, and what is for it is queued there under
// the entity's lock, first in, first out. A loop takes turns among entities, a share each. While anything is
// spread, whatever the entity says goes the same way; when all has been delivered it is straight again.

// Numbers of a broadcast: up to sayInline receivers are served at once; of what is spread a loop serves sayShare
// receivers in a turn, which with their writes is less than a millisecond.
const (
	sayInline = 64
	sayShare  = 64
)

// More than this under way has an entity's stanzas wait in its inbox: broadcasts, and bytes of all that it says.
const (
	maxJobs     = 64
	maxJobBytes = 1 << 20
	jobBytes    = 256 // what one takes besides its element
)

// departures is what is under way from one entity. Under its lock.
type departures struct {
	queue []job // that wait until what was said straight is delivered
	left  int   // parts that loops have not delivered
	jobs  int   // broadcasts in queue, or with parts left
	bytes int   // of all that is in queue, or with parts left
}

// A job is something that an entity said: one letter, or a broadcast.
type job struct {
	letter envelope
	to     [][]*chunk // by loop, never changed; nil: the letter's own address
}

// A part is one loop's of a job.
type part struct {
	*dispatch
	to      []*chunk // what is not served yet; nil: the letter's own address
	at      int      // how far the first chunk was served
	crowded bool     // a receiver's client does not take what it is sent
}

// A dispatch is a job whose parts are with their loops. Left and crowded are under its entity's lock.
type dispatch struct {
	job
	of      *Entity
	left    int
	crowded bool
}

// A sender is what one loop has to deliver for one entity, first in, first out.
type sender struct {
	of    *Entity
	parts []part
}

// full reports whether e's next stanza waits.
func (d *departures) full() bool { return d.jobs >= maxJobs || d.bytes >= maxJobBytes }

// elsewhere reports whether something of e is under way that is not in the mail of l.
func (e *Entity) elsewhere(l *Local) bool {
	return e.straight != 0 && e.straight != l.mark || e.waits != nil && e.waits.out.spread()
}

// say mails el under env's addresses, for the entity whose lock l holds, if it holds one. el is copied.
func (l *Local) say(env envelope, el []byte) {
	e := l.held
	env.origin, env.loop = l.origin, l.originLoop
	if e == nil || env.form == anAnswer && env.to.Bare() == e.addr { // the own session waits for nothing that others get
		l.mail.add(l, env, el)
		return
	}
	if e.elsewhere(l) {
		env.bytes = append([]byte(nil), el...)
		e.queue(l, env)
		return
	}
	e.speaks(l)
	l.mail.add(l, env, el)
}

// speaks notes that l's mail has letters of e. Under the lock.
func (e *Entity) speaks(l *Local) {
	if e.straight == 0 {
		e.straight = l.mark
		l.mail.speakers = append(l.mail.speakers, e)
	}
}

// queue puts env behind what is under way from e; its bytes are its own. Under the lock.
func (e *Entity) queue(l *Local, env envelope) {
	l.stats.Mailed++
	e.job(l, job{letter: env})
}

// job puts j behind what is under way from e. Under the lock.
func (e *Entity) job(l *Local, j job) {
	d := &e.busy().out
	if j.to != nil {
		d.jobs++
	}
	d.bytes += len(j.letter.bytes) + jobBytes
	if e.straight != 0 {
		d.queue = append(d.queue, j)
		return
	}
	e.spread(l, j)
}

// spread gives j's receivers to their loops. Under the lock.
func (e *Entity) spread(l *Local, j job) {
	d := &e.waits.out
	locals := l.router.locals
	p := &dispatch{job: j, of: e}
	give := func(loop int, to []*chunk) {
		p.left++
		d.left++
		target := locals[loop]
		pt := part{dispatch: p, to: to}
		if !target.Loop.Post(func() { target.take(pt) }) {
			p.left-- // the loop has ended, and its receivers with it
			d.left--
		}
	}
	if j.to == nil {
		give(e.loopOf(l, j.letter.to), nil)
	}
	for i, chunks := range j.to {
		if len(chunks) > 0 {
			give(i, chunks)
		}
	}
	if p.left == 0 {
		e.departed(p)
	}
}

// loopOf is the loop that serves to while anything of e is spread.
func (e *Entity) loopOf(l *Local, to jid.JID) int {
	if v, ok := e.live.(*lived); ok {
		if p, ok := v.places[to]; ok {
			return int(p.loop)
		}
	}
	return slotLoop(to, len(l.router.locals))
}

// slotLoop is the loop of a receiver of which nothing else is known.
func slotLoop(to jid.JID, loops int) int { return int(to.Slot()) % loops }

// spoken is called when l has routed its mail, with what e said straight. What waited for that is spread.
func (e *Entity) spoken(l *Local) {
	e.lock(l)
	e.straight = 0
	if w := e.waits; w != nil {
		for _, j := range w.out.queue {
			e.spread(l, j)
		}
		w.out.queue = nil
		e.delivered(l)
	}
	e.unlock(l)
}

// departed is called when all parts of p are delivered. Under the lock.
func (e *Entity) departed(p *dispatch) {
	d := &e.waits.out
	if p.to != nil {
		d.jobs--
		e.crowds = p.crowded
	}
	d.bytes -= len(p.letter.bytes) + jobBytes
}

// delivered goes on with e when something of it has been: with its inbox, if that waited. Under the lock.
func (e *Entity) delivered(l *Local) {
	w := e.waits
	if !w.out.spread() {
		e.resettle()
	}
	e.resume(l)
	e.calm()
}

// take puts p behind what this loop has to deliver for its entity.
func (l *Local) take(p part) {
	var s *sender
	for _, x := range l.senders {
		if x.of == p.of {
			s = x
			break
		}
	}
	if s == nil {
		s = &sender{of: p.of}
		l.senders = append(l.senders, s)
	}
	s.parts = append(s.parts, p)
	if !l.sending {
		l.sending = true
		l.Loop.Post(l.serve) // its turn is one, whatever else was posted in this
	}
}

// serveTurn delivers a share: of the first entity, of those after it where that leaves room. An entity that has more
// goes behind the others.
func (l *Local) serveTurn() {
	l.enter()
	defer l.leave()
	defer func() { // whatever happens to one broadcast
		if l.sending = len(l.senders) > 0; l.sending {
			l.Loop.Post(l.serve)
		}
	}()
	for left := sayShare; left > 0 && len(l.senders) > 0; {
		s := l.senders[0]
		copy(l.senders, l.senders[1:])
		l.senders[len(l.senders)-1] = nil
		l.senders = l.senders[:len(l.senders)-1]
		for left > 0 && len(s.parts) > 0 {
			p := &s.parts[0]
			left -= l.deliver(p, left)
			if len(p.to) > 0 {
				continue
			}
			l.mail.deliver(l) // what receivers say of it
			s.of.partDone(l, p)
			s.parts[0] = part{}
			s.parts = s.parts[1:]
		}
		if len(s.parts) > 0 {
			l.senders = append(l.senders, s)
		}
	}
}

// deliver serves at most n receivers of p, and returns how many.
func (l *Local) deliver(p *part, n int) (served int) {
	before := l.crowded
	defer func() { p.crowded = p.crowded || l.crowded > before }()
	if p.to == nil {
		l.route(&p.letter)
		return 1
	}
	el, err := l.Parser.Element(p.letter.bytes)
	if err != nil {
		l.Log.Error("a broadcast that does not parse", "from", p.letter.from.String(), "err", err)
		p.to = nil
		return 1
	}
	defer l.Parser.Release(el)
	for ; served < n && len(p.to) > 0; served++ {
		c := p.to[0]
		env := p.letter
		env.to = c.to[p.at]
		l.routeElement(&env, el)
		if p.at++; p.at == len(c.to) {
			p.to, p.at = p.to[1:], 0
		}
	}
	return served
}

// partDone is called when a loop has delivered p.
func (e *Entity) partDone(l *Local, p *part) {
	e.lock(l)
	d := &e.waits.out
	d.left--
	p.dispatch.crowded = p.dispatch.crowded || p.crowded
	if p.dispatch.left--; p.dispatch.left == 0 {
		e.departed(p.dispatch)
	}
	e.delivered(l)
	e.unlock(l)
}

// spread reports whether receivers belong to their loops now.
func (d *departures) spread() bool { return d.left > 0 || len(d.queue) > 0 }
