package carbons_test

import (
	"strings"
	"testing"

	"canto/session"
	"canto/session/sessiontest"
)

func TestConversations(t *testing.T) { sessiontest.Run(t, "testdata", sessiontest.Options{}) }

// M-9 (complaints of the field): no copy of a message of type groupchat, of a private message that a room has
// sent, or of an error.
func TestFieldM9(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	for _, name := range []string{"one", "two"} {
		s.Login(name, "juliet@localhost/"+name).Send("<presence/><iq type='set' id='c'>" +
			"<enable xmlns='urn:xmpp:carbons:2'/></iq>")
	}
	s.Settle()
	one, two := s.Client("one"), s.Client("two")
	one.Received()
	two.Received()
	for _, m := range []string{
		"type='groupchat'><body>x</body>",
		"type='chat'><body>x</body><x xmlns='http://jabber.org/protocol/muc#user'/>",
		"type='error'><body>x</body><error type='cancel'/>",
		"type='headline'><body>x</body>",
		"type='chat'><body>x</body><private xmlns='urn:xmpp:carbons:2'/>",
		"type='chat'><body>x</body><no-copy xmlns='urn:xmpp:hints'/>",
	} {
		romeo.Send("<message to='juliet@localhost/one' " + m + "</message>")
		s.Settle()
		if got := one.Received(); !strings.Contains(got, "<body>x</body>") {
			t.Errorf("%s has not come: %s", m, got)
		}
		if got := two.Received(); got != "" {
			t.Errorf("%s was copied: %s", m, got)
		}
	}
}

// A copy that a device has not got when its session ends is not the last one: the message is routed again if
// no other session has it, and then it is kept, once.
func TestCopyOfAnEndedSession(t *testing.T) {
	lim := session.DefaultLimits()
	lim.Rate = 0
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	for _, name := range []string{"one", "two"} {
		s.Login(name, "juliet@localhost/"+name).Send("<presence/><iq type='set' id='c'>" +
			"<enable xmlns='urn:xmpp:carbons:2'/></iq>")
	}
	s.Settle()
	one, two := s.Client("one"), s.Client("two")
	one.Conn().SetWindow(0)
	two.Conn().SetWindow(0)
	pad := strings.Repeat("x", 200_000)
	const n = 12
	for range n {
		romeo.Send("<message to='juliet@localhost/one' type='chat'><body>" + pad + "</body></message>")
		s.Settle()
	}
	romeo.Send("<message to='juliet@localhost/one' type='chat'><body>the last</body></message>")
	s.Settle()
	one.DropConn()
	s.Settle()
	two.DropConn()
	s.Settle()
	three := s.Login("three", "juliet@localhost/three")
	three.Send("<presence/>")
	s.Settle()
	got := three.Received()
	if c := strings.Count(got, "<body>the last</body>"); c != 1 {
		t.Errorf("the last message has come %d times", c)
	}
	if strings.Contains(got, "<received") {
		t.Error("a copy was routed again, and not its content")
	}
}

// A message and its copies, archived for both sides, allocate nothing.
func TestCopyAllocs(t *testing.T) {
	lim := session.DefaultLimits()
	lim.Rate = 0
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim})
	enable := "<presence/><iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>"
	var all []*sessiontest.Client
	for _, full := range []string{"romeo@localhost/orchard", "romeo@localhost/phone", "juliet@localhost/balcony",
		"juliet@localhost/phone"} {
		c := s.Login(full, full)
		c.Send(enable)
		all = append(all, c)
	}
	s.Settle()
	const messages = 256
	many := []byte(strings.Repeat("<message to='juliet@localhost/balcony' type='chat' id='m1'><body>"+
		strings.Repeat("x", 100)+"</body></message>", messages))
	once := func() {
		all[0].Conn().Feed(many)
		s.Settle()
		for _, c := range all {
			c.Conn().Discard()
		}
	}
	if a := sessiontest.Allocations(messages, once); a >= 0.5 && !session.Checked && !raced {
		t.Errorf("%v allocations a message", a)
	}
}

// What is routed again, as its session has ended before the client had it, is not copied again. That holds
// for what has no number too.
func TestNoCopyOfWhatIsRoutedAgain(t *testing.T) {
	lim := session.DefaultLimits()
	lim.Rate = 0
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim})
	romeo, one := s.Login("romeo", "romeo@localhost/orchard"), s.Login("one", "juliet@localhost/one")
	one.Send("<presence/>")
	s.Settle()
	one.Conn().SetWindow(0)
	for range 12 {
		romeo.Send("<message to='juliet@localhost/one' type='chat'><body>" + strings.Repeat("x", 200_000) +
			"</body></message>")
		s.Settle()
	}
	romeo.Send("<message to='juliet@localhost/one' type='chat'><composing " +
		"xmlns='http://jabber.org/protocol/chatstates'/></message>")
	two, three := s.Login("two", "juliet@localhost/two"), s.Login("three", "juliet@localhost/three")
	two.Send("<presence/><iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
	three.Send("<presence><priority>1</priority></presence>")
	s.Settle()
	two.Received()
	one.DropConn()
	s.Settle()
	if got := three.Received(); strings.Count(got, "<composing ") != 1 {
		t.Errorf("it was not routed again: %.500s", got)
	}
	if got := two.Received(); strings.Contains(got, "<received ") {
		t.Errorf("copied again: %.500s", got)
	}
}
