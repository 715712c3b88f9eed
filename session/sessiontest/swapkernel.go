package sessiontest

import (
	"slices"

	"canto/session"
	"canto/session/jid"
)

// SwapKernel puts a fresh kernel on the same store in the place of the one that runs, without its clients
// noticing: every session is detached, all that entities have in memory only is written down and taken up
// by the fresh kernel, and each client's session is given a stream again. It reports whether it could:
// all streams are bound, and nothing is under way.
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
	s.runOn(s.Router.LoopRouters()[0], func(l *session.LoopRouter) {
		left = l.MarshalEntities(func(b []byte) { list = append(list, b) })
	})
	if left > 0 {
		s.TB.Errorf("%d entities can't be written down", left)
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

// runOn runs f on the loop of l, as something that came from outside.
func (s *Server) runOn(l *session.LoopRouter, f func(l *session.LoopRouter)) {
	l.Loop.Post(func() { l.Enter(func() { f(l) }) })
	s.Settle()
}

// attach gives the session of c, which rests, to another connection, as if nothing had happened.
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
	c.conn.Received() // headers and features: not of the conversation
	s.runOn(st.LoopRouter(), func(*session.LoopRouter) {
		st.Negotiation().Bind(func(a *session.Account, _ bool, _ error) {
			if rests := a.Resource(full); rests == nil || !a.Resume(st.Negotiation(), rests) {
				s.TB.Errorf("%s has lost its session", full)
			}
		})
	})
	c.bound()
}
