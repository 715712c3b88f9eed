package session

import (
	"slices"

	"canto/reactor"
	"canto/session/stanza"
)

// An Ending is what has ended a stream, or a session that has none. The end of a stream is not the end of its session:
// what follows for the session is a row of the table in session.txt, and is decided by Account.end alone.
type Ending uint8

// The endings. Up to lineLost they are of a stream; those after it are decisions that the session itself ends.
const (
	goesOn     Ending = iota // nothing has ended
	loggedOut                // the peer's end tag (RFC 6120 §4.4)
	peerError                // the peer's stream error (RFC 6120 §4.9)
	ourError                 // a stream error of ours, for what the peer has sent or for a failure here
	shutdown                 // the server stops (RFC 6120 §4.9.3.19)
	slowReader               // the client does not read, and more waits for it than may
	lineLost                 // the connection was lost without an end tag
	overflow                 // it rested for longer than it can keep what it is sent
	expired                  // the module that kept it at rest has ended it
	displaced                // it rested, and the account needed its place for another session
	superseded               // another stream has bound its resource (RFC 6120 §7.7.2.2)
	kicked                   // by an operator: banned, given another password, its host taken away
	deleted                  // its account was deleted
	failed                   // a hook panicked that was to keep it at rest, or to go on with it
	numEndings
)

// endings is the table. rests: Hooks.Rest is asked whether the session outlives its stream. bounces: what the
// session had not sent is for no other session and no storage. limit is counted beside Stats.Ended.
var endings = [numEndings]struct {
	name           string
	rests, bounces bool
	limit          string
}{
	loggedOut:  {name: "logged-out"},
	peerError:  {name: "peer-error"},
	ourError:   {name: "our-error", rests: true},
	shutdown:   {name: "shutdown", rests: true},
	slowReader: {name: "slow-reader", rests: true}, // its limit is counted with the stream error
	lineLost:   {name: "line-lost", rests: true},
	overflow:   {name: "overflow", limit: "outbox"},
	expired:    {name: "expired"},
	displaced:  {name: "displaced", limit: "resting_displaced"},
	superseded: {name: "superseded"},
	kicked:     {name: "kicked"},
	deleted:    {name: "deleted", bounces: true},
	failed:     {name: "failed"},
}

// String is the label of the metric.
func (e Ending) String() string { return endings[e].name }

// endingOf is what a stream has ended by that this server closes with err.
func endingOf(err error) Ending {
	switch err {
	case ErrSystemShutdown:
		return shutdown
	case errSlowReader:
		return slowReader
	}
	return ourError
}

// An UnsentFunc is given what a session that ends had not sent, in order, and what hooks had held back, without what
// other sessions of the account have. It returns what it has not taken over: that is routed again, presence excepted.
// The account's resident set is in memory. Under the account's lock, before the Unbound hooks.
type UnsentFunc func(l *Local, s *Session, list []Parcel) (left []Parcel)

// stop notes what ends s: the first thing counts, but what is known of the connection only gives way to any other,
// and a decision that the session ends comes before all that happens to its stream. Under the outbox lock.
func (out Outbox) stop(why Ending) {
	if out.s.ending == goesOn || out.s.ending == lineLost || why > lineLost && out.s.ending < lineLost || why == deleted {
		out.s.ending = why
	}
}

// stopped is stop under the outbox lock, and returns what s has ended by.
func (s *Session) stopped(why Ending) Ending {
	out := s.lockOut()
	defer out.unlock()
	out.stop(why)
	return s.ending
}

// endedBy is what ends s, goesOn if nothing does, and whether it ends whatever the hooks of Hooks.Rest say.
func (s *Session) endedBy() (why Ending, over bool) {
	defer s.lockOut().unlock()
	return s.ending, s.ending != goesOn && !endings[s.ending].rests
}

// takes reports whether s takes what it is sent: it goes on, or may rest once its connection is closed, or rests and
// keeps what comes, until it is unbound, behind what it has. Under the outbox lock.
func (out Outbox) takes() bool {
	switch {
	case out.s.ending == goesOn:
		return true
	case out.s.wire == nil:
		return false
	case out.s.rests():
		return true
	}
	return endings[out.s.ending].rests && len(out.s.account.host.Profile().Hooks.Rest.links) > 0
}

// A session whose account can't be read is ended later: after firstUnbind ticks, then after twice as many, up to
// longestUnbind. After unbindTries tries, some five minutes, it is ended all the same, and its contacts are not told:
// an account that can't be read for good must not hold its sessions, and the store's work, for ever.
const (
	firstUnbind   = 10
	longestUnbind = 640
	unbindTries   = 10
)

// streamEnded is called when ref, the last stream of s, has ended by why, or was none and s has ended at rest. What
// follows needs the resident set, for those who are to be told: it is asked for again until the store has it. tries is
// how often it was asked for already.
func streamEnded(l *Local, s *Session, ref StreamRef, why Ending, tries int) {
	l.Account(s.account.host, s.account.addr, func(l *Local, a *Account, exists bool, err error) {
		if a == nil || a != s.account || s.stream != ref || a.index(s) < 0 {
			return // it has ended, or was taken over
		}
		if now, _ := s.endedBy(); s.rests() && now == goesOn {
			return // it was taken over, and rests again
		}
		s.stopped(why)
		switch {
		case err != nil && tries < unbindTries:
			wait := min(firstUnbind<<tries, longestUnbind)
			l.After(reactor.Tick(wait), func() { streamEnded(l, s, ref, why, tries+1) })
			return
		case err != nil:
			l.Log.Error("a session is ended without its contacts being told: its account can't be read",
				"jid", s.jid.String(), "tries", tries+1, "err", err)
			a.remove(l, s)
			return
		}
		a.end(l, s, why)
	})
}

// end is where the end of a stream, or a decision, becomes one of the session, and the only place: by what has ended
// it, s rests, if a hook of Hooks.Rest keeps it, or is removed. It may be called twice.
func (a *Account) end(l *Local, s *Session, why Ending) {
	if a.index(s) < 0 {
		return
	}
	if endings[s.stopped(why)].rests {
		kept, ok := askRest(l, s)
		if !ok { // its account is read again, and then it ends
			s.stopped(failed)
			ref := s.stream
			l.Loop.Post(func() { l.Enter(func() { streamEnded(l, s, ref, failed, 0) }) })
			return
		}
		if kept {
			a.rest(l, s)
			return
		}
	}
	a.remove(l, s)
}

// askRest asks whether a module keeps s; ok: none has panicked.
func askRest(l *Local, s *Session) (kept, ok bool) {
	ok = guarded(l, s, func() {
		links := s.account.host.Profile().Hooks.Rest.links
		kept = slices.ContainsFunc(links, func(h link[func(*Local, *Session) Verdict]) bool { return h.f(l, s) == Done })
	})
	return kept && ok, ok
}

// rest leaves s without a stream: what is sent to it is held back, within limits. The Rested hooks run after it.
func (a *Account) rest(l *Local, s *Session) {
	s.endSources(l, StreamEnded)
	s.hang(&resting{s.wire.Loop(), s}, StreamRef{})
	if !guarded(l, s, func() { runSessions(&a.host.Profile().Hooks.Rested, l, s) }) {
		s.close(ErrInternal, failed) // it might rest for ever
	}
}

// remove takes s, which has ended, out of the account: hooks are given what it had not sent, and the Unbound hooks run
// while it is still in the list. Messages and iqs that no hook has taken over are routed again, as to a resource that
// is not there. A panic in a hook does not keep s in the list.
func (a *Account) remove(l *Local, s *Session) {
	why, _ := s.endedBy()
	row := endings[why]
	list := s.unsent()
	if row.bounces {
		for _, h := range list {
			bounce(l, a, h, stanza.ServiceUnavailable)
		}
		list = nil
	}
	if a.warm() && a.resident.exists { // an account that was deleted has nothing for hooks to look at
		list = askUnsent(l, s, list)
		guarded(l, s, func() { runSessions(&a.host.Profile().Hooks.Unbound, l, s) })
	}
	if i := a.index(s); i >= 0 {
		a.sessions = append(a.sessions[:i:i], a.sessions[i+1:]...)
	}
	out := s.lockOut()
	s.wire, s.stream = nil, StreamRef{}
	out.unlock()
	l.stats.Unbound++
	l.stats.Ended[why]++
	if row.limit != "" {
		l.stats.Limits[row.limit]++
	}
	a.used = l.Loop.Tick()
	s.endSources(l, SessionEnded)
	if late := s.unsent(); !row.bounces { // what its hooks have said to it
		list = append(list, late...)
	}
	a.mailbox().first(l, list)
}

// bounce answers h, which was held back for a session of a, with a stanza error. Where a was deleted that is what a
// stanza to an address without an account gets (RFC 6121 §8.5.1): routed again it might be for another of that name.
func bounce(l *Local, a *Account, h heldElement, c stanza.Condition) {
	if h.to.IsZero() || h.kind == stanza.Presence {
		return
	}
	e, err := l.Parser.Element(h.bytes)
	if err != nil {
		l.Log.Error("a stanza that was held back does not parse", "jid", h.to.String(), "err", err)
		return
	}
	defer l.Parser.Release(e)
	ev := l.stack.push(l)
	defer l.stack.pop()
	env := envelope{from: h.from, to: h.to, kind: h.kind, hops: 1}
	env.fill(l, ev, e)
	ev.Host = a.host
	ev.Fail(c)
}

// askUnsent runs the Unsent hooks of s, and returns what none has taken over. One that panics has taken over nothing.
func askUnsent(l *Local, s *Session, list []heldElement) (left []heldElement) {
	hooks := s.account.host.Profile().Hooks.Unsent.links
	if len(list) == 0 || len(hooks) == 0 {
		return list
	}
	unsent := make([]Parcel, len(list))
	for i, h := range list {
		unsent[i] = Parcel{Bytes: h.bytes, Kind: h.kind, From: h.from, To: h.to}
	}
	for i := range hooks {
		guarded(l, s, func() { unsent = hooks[i].f(l, s, slices.Clone(unsent)) })
	}
	for _, p := range unsent {
		left = append(left, heldElement{bytes: p.Bytes, from: p.From, to: p.To, kind: p.Kind})
	}
	return left
}

// unsent takes everything that waits out of the outbox of s but its sources. What other sessions of the account have
// is left out. Under the account's lock.
func (s *Session) unsent() (list []heldElement) {
	defer s.lockOut().unlock()
	o := s.out
	if o == nil {
		return nil
	}
	for _, h := range append(o.held, o.kept...) {
		if h.last() {
			list = append(list, h)
		}
	}
	o.held, o.kept, o.bytes, o.weight = nil, nil, 0, 0
	if o.values = nil; len(o.sources) == 0 {
		s.out = nil
	}
	return list
}

// Close ends the stream of s with a stream error, or cleanly if err is nil, and s with it, at the latest when its
// connection is closed. Any goroutine, any lock held.
func (s *Session) Close(err error) { s.close(err, kicked) }

// close has s end by why, a decision, and tells its client err.
func (s *Session) close(err error, why Ending) {
	out := s.lockOut()
	w := s.wire
	out.stop(why)
	out.unlock()
	if w != nil {
		w.Close(err)
	}
}

// Unbind ends s, which a module had kept at rest. Under the account's lock.
func (a *Account) Unbind(l *Local, s *Session) { a.end(l, s, expired) }

// displace ends the session that has rested and was bound before all others that rest, to make room; false: none does.
func (a *Account) displace(l *Local) bool {
	for _, s := range a.sessions {
		if s.rests() {
			a.end(l, s, displaced)
			return true
		}
	}
	return false
}

// endAll ends all sessions of a, at once, or, where its resident set could not be read, when that can be.
func (a *Account) endAll(l *Local, err error, why Ending, read bool) {
	for _, s := range slices.Clone(a.sessions) {
		s.close(err, why)
		if read {
			a.end(l, s, why)
		}
	}
}

// forget ends the sessions of an account that was deleted. What they hold back is for no one else of that name.
func (a *Account) forget(l *Local) { a.endAll(l, ErrNotAuthorized, deleted, true) }

// A resting is the wire of a session without a stream. Nothing is sent by it; what closes it ends the session.
type resting struct {
	l *Local // where the session's last stream was
	s *Session
}

func (r *resting) Send([]byte) bool { return false }
func (r *resting) Crowded() bool    { return false }
func (r *resting) Loop() *Local     { return r.l }

// Close has the session removed, of which it is known by now what has ended it: nothing else would.
func (r *resting) Close(error) {
	r.l.Loop.Post(func() { r.l.Enter(func() { streamEnded(r.l, r.s, StreamRef{}, expired, 0) }) })
}
