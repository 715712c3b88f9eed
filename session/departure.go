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
func (e speaker) elsewhere(l *Local) bool {
	return e.straight != 0 && e.straight != l.mark || e.waits != nil && e.waits.out.spread()
}

// say mails el under env's addresses, for the entity whose lock l holds, if it holds one. el is copied.
func (l *Local) say(env envelope, el []byte) {
	e := l.held
	env.origin, env.loop = l.origin, l.originLoop
	if e == nil || env.form == anAnswer && env.to.Bare() == e.addr { // the own session waits for nothing that others get
		l.mail.add(env, el)
		return
	}
	if e.speaker().elsewhere(l) {
		env.bytes = append([]byte(nil), el...)
		e.speaker().queue(l, env)
		return
	}
	e.speaker().speaks(l)
	l.mail.add(env, el)
}

// speaks notes that l's mail has letters of e. Under the lock.
func (e speaker) speaks(l *Local) {
	if e.straight == 0 {
		e.straight = l.mark
		l.mail.speakers = append(l.mail.speakers, e.Entity)
	}
}

// queue puts env behind what is under way from e; its bytes are its own. Under the lock.
func (e speaker) queue(l *Local, env envelope) {
	l.stats.Mailed++
	e.job(l, job{letter: env})
}

// job puts j behind what is under way from e. Under the lock.
func (e speaker) job(l *Local, j job) {
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
func (e speaker) spread(l *Local, j job) {
	d := &e.waits.out
	locals := l.router.locals
	p := &dispatch{job: j, of: e.Entity}
	give := func(loop int, to []*chunk) {
		p.left++
		d.left++
		target := locals[loop]
		pt := part{dispatch: p, to: to}
		if !target.Loop.Post(func() { target.shares.take(pt) }) {
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
func (e speaker) loopOf(l *Local, to jid.JID) int {
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
func (e speaker) spoken(l *Local) {
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
func (e speaker) departed(p *dispatch) {
	d := &e.waits.out
	if p.to != nil {
		d.jobs--
		e.crowds = p.crowded
	}
	d.bytes -= len(p.letter.bytes) + jobBytes
}

// delivered goes on with e when something of it has been: with its inbox, if that waited. Under the lock.
func (e speaker) delivered(l *Local) {
	w := e.waits
	if !w.out.spread() {
		if v, ok := e.live.(*lived); ok {
			v.resettle()
		}
	}
	e.mailbox().resume(l)
	e.calm()
}

// shares are what a loop has to deliver for entities that have something spread, in turn. The loop's.
type shares struct {
	l       *Local
	senders []*sender
	posted  bool   // serve is
	serve   func() // turn: made once, posted often
}

// take puts p behind what this loop has to deliver for its entity.
func (sh *shares) take(p part) {
	var s *sender
	for _, x := range sh.senders {
		if x.of == p.of {
			s = x
			break
		}
	}
	if s == nil {
		s = &sender{of: p.of}
		sh.senders = append(sh.senders, s)
	}
	s.parts = append(s.parts, p)
	if !sh.posted {
		sh.posted = true
		sh.l.Loop.Post(sh.serve) // its turn is one, whatever else was posted in this
	}
}

// turn delivers a share: of the first entity, of those after it where that leaves room. An entity that has more goes
// behind the others.
func (sh *shares) turn() {
	l := sh.l
	l.enter()
	defer l.leave()
	defer func() { // whatever happens to one broadcast
		if sh.posted = len(sh.senders) > 0; sh.posted {
			l.Loop.Post(sh.serve)
		}
	}()
	for left := sayShare; left > 0 && len(sh.senders) > 0; {
		s := sh.senders[0]
		copy(sh.senders, sh.senders[1:])
		sh.senders[len(sh.senders)-1] = nil
		sh.senders = sh.senders[:len(sh.senders)-1]
		for left > 0 && len(s.parts) > 0 {
			p := &s.parts[0]
			left -= p.deliver(l, left)
			if len(p.to) > 0 {
				continue
			}
			l.mail.deliver() // what receivers say of it
			s.of.speaker().partDone(l, p)
			s.parts[0] = part{}
			s.parts = s.parts[1:]
		}
		if len(s.parts) > 0 {
			sh.senders = append(sh.senders, s)
		}
	}
}

// deliver serves at most n receivers of p, and returns how many.
func (p *part) deliver(l *Local, n int) (served int) {
	before := l.crowded
	defer func() { p.crowded = p.crowded || l.crowded > before }()
	if p.to == nil {
		l.mail.route(&p.letter)
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
		l.mail.routeElement(&env, el)
		if p.at++; p.at == len(c.to) {
			p.to, p.at = p.to[1:], 0
		}
	}
	return served
}

// partDone is called when a loop has delivered p.
func (e speaker) partDone(l *Local, p *part) {
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

// A speaker is an Entity as what says something: what is under way from it. Under the lock, unless a line says
// otherwise.
type speaker struct{ *Entity }
