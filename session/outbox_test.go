package session_test

import (
	"strings"
	"testing"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/sessiontest"
	"canto/xmlstream"
)

// A peer that has no room for what the server itself says on its stream does not read: the stream ends with
// policy-violation (RFC 6120 §4.9.3.14), which is counted, and does not go on with a hole.
func TestNoRoomForANonza(t *testing.T) {
	name := xmlstream.N("urn:of-the-test", "r")
	s := withModule(t, sessiontest.Options{Reactor: func(c *reactor.Config) { c.OutboxBytes = 10_000 }}, func(api *session.API) error {
		api.Hooks.Features = append(api.Hooks.Features, session.StreamFeature{Name: name, Needs: session.HasResource,
			Handle: func(st *session.Stream, e xmlstream.Element) { st.Send([]byte("<a xmlns='urn:of-the-test'/>")) }})
		return nil
	})
	juliet, romeo := s.Login("juliet", "juliet@localhost/x"), s.Login("romeo", "romeo@localhost/x")
	juliet.Send("<r xmlns='urn:of-the-test'/>")
	if got := juliet.Received(); got != "<a xmlns='urn:of-the-test'/>" {
		t.Fatalf("with room: %q", got)
	}
	juliet.Conn().Room(0)
	for range 12 {
		romeo.Send("<message to='juliet@localhost/x' type='chat'><body>" + strings.Repeat("x", 9_000) + "</body></message>")
	}
	juliet.Send("<r xmlns='urn:of-the-test'/>")
	s.Advance(5 * time.Second)
	if n := limit(s, "outbox"); n != 1 || !juliet.Conn().Ended() {
		t.Errorf("counted %d times; ended: %v", n, juliet.Conn().Ended())
	}
}

// limit is how often a limit was hit.
func limit(s *sessiontest.Server, name string) (n uint64) {
	for _, l := range s.Router.Locals() {
		n += l.Stats().Limits[name]
	}
	return n
}
