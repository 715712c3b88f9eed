package session_test

import (
	"strings"
	"testing"

	"canto/session/sessiontest"
)

// What was held back for a session without a stream is taken over by another kernel, and so are its flags: it can be
// resumed there.
func TestCarryHeld(t *testing.T) {
	s := tracked(t, sessiontest.Options{})
	romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence><priority>3</priority></presence><on xmlns='" + nsAcks + "'/>")
	s.Settle()
	juliet.Cut()
	s.Settle()
	romeo.Send("<message to='juliet@localhost/balcony' type='chat'><body>one</body></message><presence to='juliet@localhost/balcony'/>")
	if !s.Carry() || !s.Carry() {
		t.Fatal("the kernel could not be replaced")
	}
	romeo.Send("<message to='juliet@localhost/balcony' type='chat'><body>two</body></message>")
	next := s.Authenticate("next", "juliet@localhost", 1)
	next.Send(resume("balcony"))
	s.Settle()
	got := next.Received()
	one, here, two := strings.Index(got, "<body>one"), strings.Index(got, "<presence"), strings.Index(got, "<body>two")
	if one < 0 || here < one || two < here {
		t.Errorf("%q", got)
	}
}

// What another kernel wrote down is not trusted to be whole: nothing that stands there makes this one panic, and a
// session is taken up as a whole or not at all.
func FuzzTakeUp(f *testing.F) {
	s := sessiontest.New(f, sessiontest.Options{})
	s.AddAccount("juliet@localhost")
	c := s.Login("juliet", "juliet@localhost/balcony")
	c.Send("<presence/><presence to='romeo@localhost/x'/>")
	s.Settle()
	l := s.Router.Locals()[0]
	in := func(f func()) {
		l.Loop.Post(func() { l.Enter(f) })
		s.Settle()
	}
	in(func() { l.Carry(func(b []byte) { f.Add(b) }) })
	f.Add([]byte{1, 7})
	f.Fuzz(func(t *testing.T, b []byte) {
		s.TB = t
		in(func() { l.TakeUp(b, func(error) {}) })
		if n := l.Stats().Panics; n > 0 {
			t.Fatalf("%d panics", n)
		}
	})
}
