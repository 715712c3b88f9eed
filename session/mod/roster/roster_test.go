package roster_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/session/mod/roster"
	"canto/session/sessiontest"
)

func TestConversations(t *testing.T) { sessiontest.Run(t, "testdata", sessiontest.Options{}) }

// A version that a client was told and that was lost in a crash is not given to another roster: the client would be
// told that what it has is current (RFC 6121 §2.6.3).
func TestVersionAfterCrash(t *testing.T) {
	ver := regexp.MustCompile(`ver='(\d+)'`)
	add := func(s *sessiontest.Server, who string) string {
		t.Helper()
		c := s.Login("romeo", "romeo@localhost/orchard")
		c.Send("<iq type='get' id='1'><query xmlns='jabber:iq:roster'/></iq>" +
			"<iq type='set' id='2'><query xmlns='jabber:iq:roster'><item jid='" + who + "'/></query></iq>")
		s.Settle()
		m := ver.FindStringSubmatch(c.Received())
		if m == nil {
			t.Fatal("no push")
		}
		return m[1]
	}
	fs := vfs.NewCrashableMem()
	s := sessiontest.New(t, sessiontest.Options{FS: fs})
	s.AddAccount("romeo@localhost")
	before := fs.CrashClone(vfs.CrashCloneCfg{})
	lost := add(s, "juliet@localhost")
	if next := add(sessiontest.New(t, sessiontest.Options{FS: before}), "nurse@localhost"); next == lost {
		t.Errorf("the version %s was given twice", next)
	}
}

// A flood of subscriptions fills no more than the limit, and what changes nothing is told to nobody.
func TestAttackR04(t *testing.T) {
	const limit = 20
	s := sessiontest.New(t, sessiontest.Options{Module: func(_ string, v any) error {
		if o, ok := v.(*roster.Options); ok {
			o.MaxItems = limit
		}
		return nil
	}})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	romeo.Send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq><presence/>")
	s.Settle()
	romeo.Received()
	count := func(text, what string) int { return strings.Count(text, what) }
	const refused = "<error type='wait'><resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
	for i := range 3 * limit {
		romeo.Send(fmt.Sprintf("<presence to='a%d@localhost' type='subscribe'/>", i))
	}
	s.Settle()
	got := romeo.Received()
	if p, r := count(got, "<iq type='set' id='push-"), count(got, refused); p != limit || r != 2*limit {
		t.Errorf("%d pushes and %d refusals of %d requests", p, r, 3*limit)
	}
	// The same for approvals in advance, and for roster sets.
	romeo.Send("<presence to='b@localhost' type='subscribed'/><iq type='set' id='2'><query xmlns='jabber:iq:roster'><item jid='c@localhost'/></query></iq>")
	s.Settle()
	if got := romeo.Received(); count(got, refused) != 2 || count(got, "push-") != 0 {
		t.Errorf("beyond the limit: %s", got)
	}
	// Toggling changes the state each time, asking twice does not.
	for range 10 {
		romeo.Send("<presence to='a0@localhost' type='subscribe'/><presence to='a0@localhost' type='subscribe'/>" +
			"<presence to='a0@localhost' type='unsubscribe'/><presence to='a0@localhost' type='unsubscribe'/>")
	}
	s.Settle()
	if n := count(romeo.Received(), "push-"); n > 20 {
		t.Errorf("%d pushes for 20 changes", n)
	}
	// Approvals that nobody asked for change nothing, nor do requests beyond the limit of who is asked.
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	for i := range limit + 10 {
		m := s.Login("mallory", fmt.Sprintf("mallory%d@localhost/den", i))
		m.Send(strings.Repeat("<presence to='juliet@localhost' type='subscribed'/><presence to='juliet@localhost' type='unsubscribed'/>"+
			"<presence to='juliet@localhost' type='subscribe'/>", 3))
		s.Settle()
		m.Cut()
	}
	juliet.Send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq><presence/>")
	s.Settle()
	got = juliet.Received()
	if n := count(got, "type='subscribe'"); n != limit {
		t.Errorf("%d requests are kept", n)
	}
	if count(got, "<item") != 0 || count(got, "push-") != 0 {
		t.Errorf("who has asked is in the roster: %s", got)
	}
	// They are counted already: a full roster takes those who have asked, by approval or by a set, and nobody else.
	juliet.Send("<presence to='mallory0@localhost' type='subscribed'/><iq type='set' id='2'><query xmlns='jabber:iq:roster'><item jid='mallory1@localhost'/></query></iq>")
	s.Settle()
	if got := juliet.Received(); count(got, "push-") != 2 || count(got, refused) != 0 {
		t.Errorf("accepting those who are counted: %s", got)
	}
	juliet.Send("<presence to='romeo@localhost' type='subscribed'/><iq type='set' id='3'><query xmlns='jabber:iq:roster'><item jid='romeo@localhost'/></query></iq>")
	s.Settle()
	if got := juliet.Received(); count(got, "push-") != 0 || count(got, refused) != 2 {
		t.Errorf("another one in a full roster: %s", got)
	}
}
