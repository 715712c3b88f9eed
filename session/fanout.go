package session

import (
	"canto/session/jid"
)

// Fanout numbers (design §3): up to fanInline receivers are served at once; of all jobs together a loop
// serves fanShare in a turn, which with their writes is less than a millisecond.
const (
	fanInline = 64
	fanShare  = 64
)

// Seats are the receivers that an entity keeps (a room's occupants) or gathers (a roster), grouped
// by the loop that will serve them. Under the entity's lock; Fanout takes a snapshot.
type Seats struct {
	groups [][]jid.JID
	n      int
}

// Reset empties s for n loops and keeps its memory.
func (s *Seats) Reset(n int) {
	for len(s.groups) < n {
		s.groups = append(s.groups, nil)
	}
	for i := range s.groups {
		s.groups[i] = s.groups[i][:0]
	}
	s.n = 0
}

// Add puts to in.
func (s *Seats) Add(to jid.JID) {
	if len(s.groups) == 0 {
		s.groups = make([][]jid.JID, 1)
	}
	i := int(to.Slot()) % len(s.groups)
	s.groups[i] = append(s.groups[i], to)
	s.n++
}

// Remove takes to out.
func (s *Seats) Remove(to jid.JID) {
	if len(s.groups) == 0 {
		return
	}
	g := s.groups[int(to.Slot())%len(s.groups)]
	for i := range g {
		if g[i] == to {
			g[i] = g[len(g)-1]
			s.groups[int(to.Slot())%len(s.groups)] = g[:len(g)-1]
			s.n--
			return
		}
	}
}

// Len is how many there are.
func (s *Seats) Len() int { return s.n }

// A fanJob is one loop's part of a fan-out.
type fanJob struct {
	from   jid.JID
	sender *fanSender
	el     []byte // the element without 'to'
	to     []jid.JID
}

// A fanSender counts what is left of one fan-out, under the sender's lock.
type fanSender struct {
	acct *Account
	left int
}

// Fanout sends el, one element of from without a 'to', to each of seats, as mail. Up to 64 receivers
// are served as soon as the lock is released; more are one job for each loop, 64 receivers of
// all its jobs a turn, jobs taken in turn. Until the last has it in the outbox, the account's own next stanza
// waits in its inbox, so that order for each pair stays. Under a's lock; el is copied.
func (l *Local) Fanout(a *Account, from jid.JID, el []byte, seats *Seats) {
	if seats.n == 0 {
		return
	}
	l.copied += len(el) * seats.n
	if seats.n <= fanInline || a.resident == nil {
		b := l.mailBytes(el)
		for _, g := range seats.groups {
			for _, to := range g {
				l.stats.Mailed++
				l.mail = append(l.mail, letter{from: from, to: to, hops: 1, fan: true, bytes: b})
			}
		}
		return
	}
	own := append([]byte(nil), el...)
	fs := &fanSender{acct: a}
	for i, g := range seats.groups {
		if len(g) == 0 {
			continue
		}
		fs.left++
		target := l.router.locals[i%len(l.router.locals)]
		j := &fanJob{from: from, sender: fs, el: own, to: append([]jid.JID(nil), g...)}
		target.Loop.Post(func() {
			target.jobs = append(target.jobs, j)
			if !target.fanning {
				target.fanning = true
				target.Loop.Post(target.fan) // its turn is one, whatever else was posted in this
			}
		})
	}
	a.sending++
	a.Pin()
}

// fanTurn serves a share: of the first job, of those behind it where that leaves room, and puts the one that
// is not done behind the others.
func (l *Local) fanTurn() {
	l.enter()
	defer l.leave()
	defer func() { // whatever happens to one broadcast
		if l.fanning = len(l.jobs) > 0; l.fanning {
			l.Loop.Post(l.fan)
		}
	}()
	for left := fanShare; left > 0 && len(l.jobs) > 0; {
		j := l.jobs[0]
		copy(l.jobs, l.jobs[1:])
		l.jobs[len(l.jobs)-1] = nil
		l.jobs = l.jobs[:len(l.jobs)-1]
		n := min(left, len(j.to))
		left -= n
		e, err := l.Parser.Element(j.el)
		if err == nil {
			for _, to := range j.to[:n] {
				l.fanOne(j.from, to, e)
			}
			l.Parser.Release(e)
		}
		if j.to = j.to[n:]; len(j.to) > 0 && err == nil {
			l.jobs = append(l.jobs, j)
		} else {
			l.fanDone(j.sender)
		}
	}
}

func (l *Local) fanDone(fs *fanSender) {
	a := fs.acct
	l.lock(&a.Entity)
	if fs.left--; fs.left == 0 {
		a.Unpin()
		a.sending--
		if a.inbox != nil && !a.inbox.taken {
			l.workOff(a, 0, nil)
		}
	}
	l.unlock()
}
