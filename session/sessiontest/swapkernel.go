package sessiontest

import (
	"slices"

	"canto/session"
	"canto/session/jid"
)

// SwapKernel replaces the running kernel by another one on the same store, so that the clients see no
// difference. It returns false, and does nothing, if a stream is not bound yet. Its steps:
//
//  1. Marshal what the entities have in memory only; all sessions hibernate.
//  2. End the kernel, start another one on the store, and restore the entities.
//  3. Resume each client's session on a new connection, in the order in which they were opened.
func (s *Server) SwapKernel() bool {
	s.TB.Helper()
	s.Settle()
	var clients []*Client
	for _, name := range s.Names() {
		c := s.clients[name]
		if c.Ended() {
			continue
		}
		st := s.Stream(c)
		if st == nil || st.Session() == nil {
			return false
		}
		c.JID = st.Session().JID().String()
		clients = append(clients, c)
	}
	left, list := 0, [][]byte(nil)
	for range 2 { // streams of other loops are told first that their sessions hibernate
		list = nil
		s.runOn(s.Router.LoopRouters()[0], func(l *session.LoopRouter) {
			left = l.MarshalEntities(func(b []byte) { list = append(list, b) })
		})
	}
	if left > 0 {
		s.TB.Errorf("%d entities can't be marshaled", left)
	}
	s.Settle()
	s.Net.Halt()
	s.DB.Close()
	s.start(s.Net.Now())
	for _, b := range list {
		s.runOn(s.Router.LoopRouters()[0], func(l *session.LoopRouter) {
			l.RestoreEntity(b, func(err error) {
				if err != nil {
					s.TB.Error(err)
				}
			})
		})
	}
	s.Settle()
	slices.SortFunc(clients, func(a, b *Client) int { return a.dialIndex - b.dialIndex })
	for _, c := range clients {
		s.attach(c)
	}
	s.Settle()
	return true
}

// runOn runs f on the loop of l, as a function that was posted from outside, and settles.
func (s *Server) runOn(l *session.LoopRouter, f func(l *session.LoopRouter)) {
	l.Loop.Post(func() { l.Enter(func() { f(l) }) })
	s.Settle()
}

// attach resumes the hibernating session of c on a new connection of c.
func (s *Server) attach(c *Client) {
	full, err := jid.Parse(c.JID)
	if err != nil {
		s.TB.Fatal(err)
	}
	c.connect()
	c.Open(full.Domain())
	s.Settle()
	st := s.Stream(c)
	host, _ := s.Router.Table.Host(full.Domain())
	s.runOn(st.LoopRouter(), func(l *session.LoopRouter) {
		l.WithAccount(host, full.Bare(), func(_ *session.LoopRouter, a *session.Account, _ bool, _ error) {
			st.Negotiation().SnapshotRevocations(full.Bare())
			st.Negotiation().Authenticated(full.Bare(), a.ID())
		})
	})
	c.Open(full.Domain())
	s.Settle()
	c.conn.Received() // headers and features are not of the conversation
	s.runOn(st.LoopRouter(), func(*session.LoopRouter) {
		st.Negotiation().Bind(func(a *session.Account, _ bool, _ error) {
			if sess := a.Resource(full); sess == nil || !a.Resume(st.Negotiation(), sess) {
				s.TB.Errorf("%s has lost its session", full)
			}
		})
	})
	c.bound()
}
