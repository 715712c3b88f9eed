package session

import (
	"slices"

	"canto/session/jid"
	"canto/xmlstream"
)

// This file runs the requests within a login: see inlinerequest.go.

// Run handles the requests of l on st, which has just been authenticated
// ([Negotiation.AuthenticatedInPlace]). requests are the elements that the client has sent, as children of
// <authenticate/>. finish is called once at the end, unless the stream closes before: it sends the success,
// with addr and the answers in body, and the features. If a session was bound or resumed it runs under the
// account's lock, and before anything is sent to that session. On the loop of st, under no lock.
func (l *InlineLogin) Run(st Negotiation, requests [][]byte,
	finish func(l *InlineLogin, addr jid.JID, body []byte)) {
	l.st, l.requests, l.finish, l.Account = st, requests, finish, st.negotiation.accountID
	fs := st.host.Profile().Hooks.Inline
	for place := InlineAccount; place < InlineSession; place++ {
		for i := range fs {
			if fs[i].Place == place {
				l.pending = append(l.pending, &fs[i])
			}
		}
	}
	l.next()
}

// next runs handlers until one waits, or until all are done.
func (l *InlineLogin) next() {
	for len(l.pending) > 0 {
		f := l.pending[0]
		l.pending = l.pending[1:]
		if l.handle(f); l.state == inlineOver {
			return
		}
		if l.state == inlineHandling {
			l.waiting = true
			l.st.park(parkedWork)
			return
		}
	}
	l.state = inlineOver
	l.finish(l, l.st.negotiation.peer, l.body)
}

// handle calls the handler of f, if f was asked for or runs always.
func (l *InlineLogin) handle(f *InlineFeature) {
	e, asked := l.request(f.Name)
	if !asked && !f.Always {
		l.state = inlineContinued
		return
	}
	if asked {
		defer l.st.loop.Parser.Release(e)
	}
	l.state = inlineHandling
	f.Handle(l, e)
}

// request parses the request called name. It is valid until it is released.
func (l *InlineLogin) request(name xmlstream.Name) (e xmlstream.Element, ok bool) {
	for _, el := range l.requests {
		e, err := l.st.loop.Parser.Element(el)
		if err != nil {
			continue
		}
		if e.Is(name) {
			return e, true
		}
		l.st.loop.Parser.Release(e)
	}
	return e, false
}

// Stream returns the stream that has logged in.
func (l *InlineLogin) Stream() Negotiation { return l.st }

// Add adds el, an answer that is valid by itself, to the success.
func (l *InlineLogin) Add(el []byte) { l.body = append(l.body, el...) }

// over reports whether nothing is left to do, as the stream has ended. A handler that has waited calls a
// method that begins with it.
func (l *InlineLogin) over() bool {
	if l.waiting {
		l.waiting = false
		l.st.unpark(parkedWork)
	}
	if l.st.bits&bitGone != 0 || l.st.state == Closing {
		l.state = inlineOver
	}
	return l.state == inlineOver
}

// Continue ends a handler: its answer, if it has one, was added, and the next request is due. On the stream's
// loop, under no lock.
func (l *InlineLogin) Continue() {
	waited := l.waiting
	if l.over() {
		return
	}
	l.state = inlineContinued
	if waited {
		defer closeOnPanic(l.st.Stream)
		l.next()
	}
}

// Close ends the stream with err instead of the success.
func (l *InlineLogin) Close(err error) {
	if l.over() {
		return
	}
	l.state = inlineOver
	l.st.Close(err)
}

// revoked reports whether the login may not get a session of a any more, and closes the stream then: the
// account was banned, deleted, or got another password since the credentials were looked up. Under the lock
// of a.
func (l *InlineLogin) revoked(a *Account) bool {
	n := l.st.negotiation
	if a.addr == n.peer && a.id == n.accountID &&
		l.st.loop.router.Table.revocationEpoch(n.peer) == n.revocationEpoch {
		return false
	}
	l.Close(ErrReset)
	return true
}

// Bound ends the login with s, which [Account.Bind] has made: the success is sent, and s begins. Under the
// lock of a, on the stream's loop.
func (l *InlineLogin) Bound(a *Account, s *Session) {
	if l.over() || l.revoked(a) {
		return
	}
	l.state = inlineOver
	setAgent(s, l.Agent)
	l.st.traits |= HasResource
	l.st.sess = s // the features that finish sends depend on it
	l.finish(l, s.jid, l.body)
	a.AddSession(l.st, s)
}

// Resumed ends the login with s, a session of a: the success is sent, and s goes on with the stream. el is
// the answer of the module. It returns false, and has done nothing, if s can't be resumed any more; then the
// handler adds another answer and calls Continue. Under the lock of a, on the stream's loop.
func (l *InlineLogin) Resumed(a *Account, s *Session, el []byte) bool {
	if _, ended := s.endedBy(); ended || a.sessionIndex(s) < 0 {
		return false
	}
	if l.over() || l.revoked(a) {
		return true
	}
	l.state, l.HasResumed = inlineOver, true
	l.Add(el)
	setAgent(s, l.Agent)
	l.st.traits |= HasResource
	l.finish(l, s.jid, l.body)
	if !a.Resume(l.st, s) { // a decision has ended it since
		l.st.Close(ErrReset)
	}
	return true
}

// BeginSession runs the requests of the new session s that stand in bind, and the Begin hooks, and returns
// their answers. Under the account's lock, before Bound.
func (l *InlineLogin) BeginSession(s *Session, bind xmlstream.Element) []byte {
	h := l.st.host.Profile().Hooks
	var a xmlstream.Appender
	a.Reset(xmlstream.Streamed)
	n := 0
	for e, ok := bind.First(); ok && n < MaxInline; e, ok = e.Next() {
		n++
		for i := range h.Inline {
			if f := &h.Inline[i]; f.Place == InlineSession && e.Is(f.Name) {
				f.Begin(l, s, e, &a)
			}
		}
	}
	runSessions(&h.BoundInline, l.st.loop, s)
	return a.B
}

// EndAgent ends the earlier sessions of the user agent of l, for the session s that replaces them (XEP-0386
// section 3.2). Under the lock of a, after s was made.
func (a *Account) EndAgent(l *LoopRouter, id AgentID, except *Session) {
	if id == (AgentID{}) {
		return
	}
	for _, old := range slices.Clone(a.sessions) {
		if old != except && agentOf(old) == id {
			old.close(ErrConflict, superseded)
			a.endSession(l, old, superseded)
		}
	}
}

// KickAgent is [Router.Kick] for the sessions of one user agent. A stream of the account that has logged in
// but not bound is closed when it binds, whatever its user agent is. Any goroutine.
func (r *Router) KickAgent(bare jid.JID, id AgentID, reason error) {
	r.kick(bare, reason, func(s *Session) bool { return agentOf(s) == id })
}
