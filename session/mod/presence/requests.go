package presence

import (
	"canto/session"
	"canto/session/jid"
	"canto/session/mod/roster"
	"canto/session/stanza"
)

// requests are those that wait for an answer of the user (RFC 6121 §3.1.3): a [session.Source] for one
// client, in the order of the addresses. Strangers have sent them, and nothing that they send ends a
// session.
type requests struct {
	to    jid.JID
	after string        // the last address that is in list, or was
	list  []roster.Item // not asked for yet
	done  bool          // there is none behind after
}

// slice is how many requests are looked up at a time.
const slice = 64

// pullRequests gives s the requests that wait, if there is one. Under the account's lock.
func pullRequests(l *session.Local, s *session.Session) {
	r := &requests{to: s.JID()}
	if r.look(s.Account()); len(r.list) > 0 {
		s.Pull(l, r, false)
	}
}

// look looks the next requests up. Under the account's lock.
func (r *requests) look(a *session.Account) {
	r.done = true
	for it := range roster.Of(a).All() {
		if !it.In || it.Request == "" || it.JID.String() <= r.after {
			continue
		}
		if len(r.list) == slice {
			r.done = false
			return
		}
		r.list = append(r.list, it)
		r.after = it.JID.String()
	}
}

// Next is [session.Source].
func (r *requests) Next(l *session.Local, s *session.Session) (session.Parcel, session.Supply) {
	if len(r.list) == 0 && !r.done && !r.more(l, s) {
		return session.Parcel{}, session.NotYet
	}
	if len(r.list) == 0 {
		return session.Parcel{}, session.Exhausted
	}
	it := r.list[0]
	r.list = r.list[1:]
	return session.Parcel{Bytes: []byte(it.Request), Kind: stanza.Presence, From: it.JID, To: r.to.Bare()},
		session.Ready
}

// more looks up the next requests; false: the account is being read, and the source is woken.
func (r *requests) more(l *session.Local, s *session.Session) (now bool) {
	late, waker := false, s.Waker(r)
	l.Account(s.Host(), r.to.Bare(), func(_ *session.Local, a *session.Account, exists bool, err error) {
		now = true
		if a == nil {
			return
		}
		if r.done = true; exists && err == nil {
			r.look(a)
		}
		if late {
			waker.Wake()
		}
	})
	late = true
	return now
}

// Wanted is [session.Source].
func (r *requests) Wanted(s *session.Session) bool { return s.Available() }

// Taken is [session.Source]: a request is kept until it is answered.
func (r *requests) Taken(*session.Local, *session.Session, int) {}

// End is [session.Source].
func (r *requests) End(*session.Local, *session.Session, session.SourceEnd) {}
