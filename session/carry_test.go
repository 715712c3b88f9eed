package session_test

import (
	"strings"
	"testing"
	"time"

	"canto/session"
	"canto/session/sessiontest"
	"canto/session/store/storetest"
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
	next.Send("<resume xmlns='" + nsAcks + "'/>")
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

// An entity for which something waits is left, also where it has no sessions: what waits would be lost.
func TestCarryWhileSomethingWaits(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	s.AddAccount("nurse@localhost")
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	held := s.HoldWork()
	romeo.Conn().Write([]byte("<message to='nurse@localhost' type='chat'><body>waits</body></message>"))
	s.Net.Run()
	if len(held.Jobs) == 0 {
		t.Fatal("the account is not being read")
	}
	left := 0
	l := s.Router.Locals()[0]
	l.Loop.Post(func() { l.Enter(func() { left = l.Carry(func([]byte) {}) }) })
	s.Net.Run()
	if left != 1 {
		t.Errorf("%d are left", left)
	}
	held.Release()
	for len(held.Jobs) > 0 {
		held.Next()
	}
	s.Settle()
}

// written is what Carry writes down, and how many entities are left.
func (c *endingCase) written() (list string, left int) {
	l := c.Router.Locals()[0]
	l.Loop.Post(func() {
		l.Enter(func() { left = l.Carry(func(b []byte) { list += string(b) + "\n" }) })
	})
	c.turns()
	return list, left
}

// carried reports whether juliet's account is in what was written down.
func carried(list string) bool { return strings.Contains(list, "account\x10juliet@localhost") }

// A session that has ended, and is not removed yet, is not taken to another kernel, where it would go on: its account
// is left until its end has taken effect. A logout is one although the connection still lingers (RFC 6120 §4.4,
// XEP-0198 §5), and so is what an operator has decided.
func TestCarryOfWhatHasEnded(t *testing.T) {
	for by, do := range map[string]func(c *endingCase, flaky *storetest.Flaky){
		"logged-out": func(c *endingCase, _ *storetest.Flaky) { c.write(c.juliet, "</stream:stream>") },
		"kicked": func(c *endingCase, flaky *storetest.Flaky) {
			c.Reload() // the account is read again before its sessions are ended
			flaky.Reads.Store(true)
			c.Router.Kick(c.juliet.Bare(), session.ErrPolicyViolation)
			c.Settle() // it could not be read, and is tried again later
		},
		"kicked at rest": func(c *endingCase, flaky *storetest.Flaky) {
			c.juliet.Conn().Room(-1)
			c.lose()
			c.Settle()
			c.Reload()
			flaky.Reads.Store(true)
			c.Router.Kick(c.juliet.Bare(), session.ErrPolicyViolation)
			c.Settle() // it could not be read, and is tried again later
		},
	} {
		t.Run(by, func(t *testing.T) {
			var flaky storetest.Flaky
			c := newEndingOn(t, "", flaky.Fault)
			c.juliet.Conn().Room(0)
			c.write(c.romeo, message("juliet@localhost/x", "waits")) // her connection can't close yet
			c.Settle()
			do(c, &flaky)
			if c.session() == nil {
				t.Fatal("its end has taken effect")
			}
			if list, left := c.written(); carried(list) || left == 0 {
				t.Errorf("%q was written down, and %d entities are left", list, left)
			}
			flaky.Reads.Store(false)
			for range 10 {
				c.Advance(time.Second)
				c.Settle()
			}
			row, _, _ := strings.Cut(by, " ")
			if n := c.ended(row); c.session() != nil || n != 1 {
				t.Errorf("it is there: %v; counted %d times", c.session() != nil, n)
			}
			c.Advance(time.Minute)
			c.Settle()
			list, left := c.written()
			if carried(list) || left > 0 {
				t.Errorf("after its end %q was written down, and %d entities are left", list, left)
			}
			if !strings.Contains(list, "<presence type='unavailable' from='juliet@localhost/x' to='nurse@localhost/x'/>") { // nurse rests
				t.Error("nurse has not seen it leave")
			}
		})
	}
}
