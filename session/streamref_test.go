package session_test

import (
	"strings"
	"testing"

	"canto/session"
	"canto/session/sessiontest"
)

// An elsewhere is a wire of another node, as far as a session can tell.
type elsewhere struct{ session.Wire }

// Streams of two nodes, or of two starts of one, may have the same number. A stream that has lost
// its session neither acts for it any more nor ends it when its connection is lost (XEP-0198 section 5:
// the former stream is closed).
func TestStreamsAreComparedWhole(t *testing.T) {
	for name, other := range map[string]func(ref *session.StreamRef){
		"another node":  func(ref *session.StreamRef) { ref.Node++ },
		"another start": func(ref *session.StreamRef) { ref.Incarnation++ },
	} {
		t.Run(name, func(t *testing.T) {
			s := sessiontest.New(t, sessiontest.Options{})
			romeo := s.Login("romeo", "romeo@localhost/orchard")
			former, latter := s.Login("former", "juliet@localhost/one"), s.Login("latter", "juliet@localhost/two")
			former.Send("<presence/>")
			latter.Send("<presence/>")
			former.Conn().SetWindow(0) // so that its stream error waits, and what it sends is still read
			st := s.Stream(former)
			ref := session.StreamRef{Node: s.Router.Node, Incarnation: s.Router.Incarnation, ID: st.ID()}
			other(&ref)
			l := st.LoopRouter()
			host, _ := s.Router.Table.Host("localhost")
			var taken *session.Session
			l.Loop.Post(func() {
				l.Enter(func() {
					l.WithAccount(host, former.Bare(), func(l *session.LoopRouter, a *session.Account, _ bool, _ error) {
						taken = st.Session()
						a.Attach(l, taken, elsewhere{s.Stream(latter).Transport()}, ref, s.Stream(latter).Traits())
					})
				})
				st.Feed([]byte("<message to='romeo@localhost/orchard' type='chat'><body>from the "+
					"former</body></message>"), 0)
			})
			s.Settle()
			if got := romeo.Received(); strings.Contains(got, "from the former") {
				t.Errorf("a stream speaks for a session that it has lost: %q", got)
			}
			former.DropConn()
			s.Settle()
			if a, ok := s.Router.Table.LookupAccount(former.Bare()); !ok || a.Resource(taken.JID()) != taken ||
				!taken.Connected() {
				t.Error("a stream that has lost its session has ended it")
			}
			// What is sent to the session leaves by the wire that it has now.
			romeo.Send("<message to='juliet@localhost/one' type='chat'><body>to the latter</body></message>")
			if got := latter.Received(); !strings.Contains(got, "to the latter") {
				t.Errorf("its present stream got %q", got)
			}
		})
	}
}
