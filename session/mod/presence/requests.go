package presence

import (
	"canto/session"
	"canto/session/jid"
	"canto/session/mod/roster"
	"canto/session/stanza"
)

// A pendingRequests is a [session.Source] with the subscription requests that wait for the user's answer
// (RFC 6121 section 3.1.3), for one session, in the order of the contacts' addresses. Other users have
// sent these requests. They are pulled, and not sent at once, so that no number of them fills the
// session's outbox and ends the session.
type pendingRequests struct {
	to    jid.JID       // the full JID of the session
	after string        // the address of the last request that was looked up
	list  []roster.Item // the requests that were looked up and not yet passed to the kernel
	done  bool          // there is no request after that one
}

// requestBatch is how many requests are looked up at a time. It bounds the time under the account's lock.
const requestBatch = 64

// pullRequests sends s the pending requests of its account, if there are any. It is called after initial
// presence, under the account's lock.
func pullRequests(l *session.LoopRouter, s *session.Session) {
	r := &pendingRequests{to: s.JID()}
	if r.lookUp(s.Account()); len(r.list) > 0 {
		s.Pull(l, r, false)
	}
}

// lookUp puts the next requests of a, up to requestBatch of them, into r.list. Under the lock of a.
func (r *pendingRequests) lookUp(a *session.Account) {
	r.done = true
	for it := range roster.Of(a).All() {
		if !it.PendingIn || it.Request == "" || it.JID.String() <= r.after {
			continue
		}
		if len(r.list) == requestBatch {
			r.done = false
			return
		}
		r.list = append(r.list, it)
		r.after = it.JID.String()
	}
}

// Next implements [session.Source]: it returns the next request. On the loop of the stream, under no lock.
func (r *pendingRequests) Next(l *session.LoopRouter, s *session.Session) (session.OutboundStanza,
	session.NextStatus) {
	if len(r.list) == 0 && !r.done && !r.lookUpMore(l, s) {
		return session.OutboundStanza{}, session.NextWouldBlock
	}
	if len(r.list) == 0 {
		return session.OutboundStanza{}, session.NextExhausted
	}
	it := r.list[0]
	r.list = r.list[1:]
	return session.OutboundStanza{Bytes: []byte(it.Request), Kind: stanza.Presence, From: it.JID,
			To: r.to.Bare()},
		session.NextElement
}

// lookUpMore looks up the next requests under the account's lock. now is false if the account has to be
// loaded first: then the function that is passed to WithAccount runs later, and wakes the source. If the
// account was deleted or could not be loaded there are no more requests.
func (r *pendingRequests) lookUpMore(l *session.LoopRouter, s *session.Session) (now bool) {
	late, waker := false, s.Waker(r)
	l.WithAccount(s.Host(), r.to.Bare(), func(_ *session.LoopRouter, a *session.Account, exists bool,
		err error) {
		now = true
		if a == nil {
			return
		}
		if r.done = true; exists && err == nil {
			r.lookUp(a)
		}
		if late {
			waker.Wake()
		}
	})
	late = true
	return now
}

// Wanted implements [session.Source]: a session that has become unavailable gets no more requests.
func (r *pendingRequests) Wanted(s *session.Session) bool { return s.Available() }

// Taken implements [session.Source]. It does nothing: a request stays in the roster until the user answers
// it.
func (r *pendingRequests) Taken(*session.LoopRouter, *session.Session, int) {}

// End implements [session.Source]. It does nothing: the next initial presence starts another source.
func (r *pendingRequests) End(*session.LoopRouter, *session.Session, session.SourceEndReason) {}
