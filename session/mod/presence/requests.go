package presence

import (
	"canto/session"
	"canto/session/jid"
	"canto/session/mod/roster"
	"canto/session/stanza"
)

// pendingRequests are those that wait for an answer of the user (RFC 6121 §3.1.3): a [session.Source] for one
// client, in the order of the addresses. Strangers have sent them, and nothing that they send ends a
// session.
type pendingRequests struct {
	to    jid.JID
	after string        // the last address that is in list, or was
	list  []roster.Item // not asked for yet
	done  bool          // there is none behind after
}

// requestBatch is how many requests are looked up at a time.
const requestBatch = 64

// pullRequests gives s the requests that wait, if there is one. Under the account's lock.
func pullRequests(l *session.LoopRouter, s *session.Session) {
	r := &pendingRequests{to: s.JID()}
	if r.lookUp(s.Account()); len(r.list) > 0 {
		s.Pull(l, r, false)
	}
}

// lookUp looks the next requests up. Under the account's lock.
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

// Next is [session.Source].
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

// lookUpMore looks up the next requests; false: the account is being read, and the source is woken.
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

// Wanted is [session.Source].
func (r *pendingRequests) Wanted(s *session.Session) bool { return s.Available() }

// Taken is [session.Source]: a request is kept until it is answered.
func (r *pendingRequests) Taken(*session.LoopRouter, *session.Session, int) {}

// End is [session.Source].
func (r *pendingRequests) End(*session.LoopRouter, *session.Session, session.SourceEndReason) {}
