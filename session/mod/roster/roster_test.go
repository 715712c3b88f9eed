package roster_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/session"
	"canto/session/mod/roster"
	"canto/session/sessiontest"
)

func TestConversations(t *testing.T) { sessiontest.Run(t, "testdata", sessiontest.Options{}) }

// A roster version that was pushed and lost in a crash is not given to another state of the roster:
// otherwise the server would tell the client that its old roster is current (RFC 6121 section 2.6.3).
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

// A flood of subscription requests fills only its own limit, and stanzas that change nothing cause no
// push.
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
	for i := range 3 * limit {
		romeo.Send(fmt.Sprintf("<presence to='a%d@localhost' type='subscribe'/>", i))
	}
	s.Settle()
	got := romeo.Received()
	if p, r := count(got, "<iq type='set' id='push-"), count(got, refused); p != limit || r != 2*limit {
		t.Errorf("%d pushes and %d refusals of %d requests", p, r, 3*limit)
	}
	// The same for approvals in advance, and for roster sets.
	romeo.Send("<presence to='b@localhost' type='subscribed'/><iq type='set' id='2'><query " +
		"xmlns='jabber:iq:roster'><item jid='c@localhost'/></query></iq>")
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
	// Approvals without a request change nothing, nor do requests beyond the limit of the user that they are
	// for.
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	for i := range limit + 10 {
		m := s.Login("mallory", fmt.Sprintf("mallory%d@localhost/den", i))
		m.Send(strings.Repeat("<presence to='juliet@localhost' type='subscribed'/><presence "+
			"to='juliet@localhost' type='unsubscribed'/>"+
			"<presence to='juliet@localhost' type='subscribe'/>", 3))
		s.Settle()
		m.DropConn()
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
	// Requests take no space of the user's contacts: a user that has asked can be added, by approval or by a
	// set, and others too.
	juliet.Send("<presence to='mallory0@localhost' type='subscribed'/><iq type='set' id='2'><query " +
		"xmlns='jabber:iq:roster'><item jid='mallory1@localhost'/></query></iq>" +
		"<iq type='set' id='3'><query xmlns='jabber:iq:roster'><item jid='romeo@localhost'/></query></iq>")
	s.Settle()
	if got := juliet.Received(); count(got, "push-") != 3 || count(got, refused) != 0 {
		t.Errorf("contacts beside %d requests: %s", limit, got)
	}
	// A full roster takes no other contact, not even one that has asked.
	for i := range limit {
		juliet.Send(fmt.Sprintf("<iq type='set' id='s%d'><query xmlns='jabber:iq:roster'><item "+
			"jid='a%d@localhost'/></query></iq>", i, i))
	}
	s.Settle()
	if got := juliet.Received(); count(got, "push-") != limit-3 || count(got, refused) != 3 {
		t.Errorf("%d pushes and %d refusals", count(got, "push-"), count(got, refused))
	}
	juliet.Send("<presence to='mallory2@localhost' type='subscribed'/>")
	s.Settle()
	if got := juliet.Received(); count(got, "push-") != 0 || count(got, refused) != 1 {
		t.Errorf("an approval in a full roster: %s", got)
	}
}

const refused = "<error type='wait'><resource-constraint " +
	"xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"

// fast returns limits without a rate.
func fast() *session.Limits {
	lim := session.DefaultLimits()
	lim.Rate, lim.RateBurst = 64<<20, 64<<20
	return &lim
}

// sized returns options with rosters of at most n bytes.
func sized(n int) sessiontest.Options {
	return sessiontest.Options{FS: vfs.NewMem(), Limits: fast(), Module: func(_ string, v any) error {
		if o, ok := v.(*roster.Options); ok && n > 0 {
			o.MaxBytes = n
		}
		return nil
	}}
}

// RFC 6121 section 2.3.3: a server may limit names and groups. The limit of the whole roster is what one
// answer can hold. A roster at its limit can be made smaller, and is as full after a restart.
func TestBytes(t *testing.T) {
	opt := sized(0)
	s := sessiontest.New(t, opt)
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	some := func(n int, letter string) (groups string) {
		for i := range n {
			groups += fmt.Sprintf("<group>%d%s</group>", i, strings.Repeat(letter, 1000))
		}
		return groups
	}
	groups := some(32, "x")
	set := func(c *sessiontest.Client, who, groups string) string {
		c.Send("<iq type='set' id='" + who + "'><query xmlns='jabber:iq:roster'><item jid='" + who +
			"@localhost' name='" +
			strings.Repeat("n", 1023) + "'>" + groups + "</item></query></iq>")
		s.Settle()
		return c.Received()
	}
	kept := 0
	for i := range 60 {
		if got := set(romeo, fmt.Sprintf("c%d", i), groups); strings.Contains(got, "type='result'") {
			kept++
		} else if !strings.Contains(got, refused) {
			t.Fatalf("contact %d: %.200s", i, got)
		}
	}
	if kept < 15 || kept > 23 {
		t.Errorf("%d contacts of 34 kB are kept", kept)
	}
	read := func() string {
		c := s.Login("reader", "romeo@localhost/reader")
		defer c.DropConn()
		c.Send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>")
		s.Settle()
		return c.Received()
	}
	if got := read(); len(got) > 1<<20 || strings.Count(got, "<item ") != kept {
		t.Errorf("the roster has %d bytes and %d of %d contacts", len(got), strings.Count(got, "<item "), kept)
	}
	// Escaped text counts with its escaped length.
	if got := set(romeo, "c0", some(32, "&amp;")); !strings.Contains(got, refused) {
		t.Errorf("with escapes: %.200s", got)
	}
	s.DB.Close()
	s = sessiontest.New(t, opt)
	romeo = s.Login("romeo", "romeo@localhost/orchard")
	if got := set(romeo, "d0", groups); !strings.Contains(got, refused) {
		t.Errorf("after a restart: %.200s", got)
	}
	if got := set(romeo, "c0", ""); !strings.Contains(got, "type='result'") {
		t.Errorf("less than before: %.200s", got)
	}
	if got := set(romeo, "d0", some(30, "x")); !strings.Contains(got, "type='result'") {
		t.Errorf("in the room that was made: %.200s", got)
	}
	// A roster that is older than its limit is there, and can be made smaller but not larger.
	s.DB.Close()
	opt.Module = sized(240_000).Module
	s = sessiontest.New(t, opt)
	romeo = s.Login("romeo", "romeo@localhost/orchard")
	if got := read(); strings.Count(got, "<item ") != kept+1 {
		t.Errorf("an old roster has %d contacts", strings.Count(got, "<item "))
	}
	if got := set(romeo, "c1", some(16, "x")); !strings.Contains(got, "type='result'") {
		t.Errorf("less in an old roster: %.200s", got)
	}
	if got := set(romeo, "c0", groups); !strings.Contains(got, refused) {
		t.Errorf("more in an old roster: %.200s", got)
	}
}

// RFC 6121 section 2.3.3: a name or a group that is too long, or too many groups, are not-acceptable and
// change nothing.
func TestLongNames(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	groups := ""
	for i := range 32 {
		groups += fmt.Sprintf("<group>%d</group>", i)
	}
	long := strings.Repeat("n", 1023)
	for item, want := range map[string]string{
		"<item jid='a@localhost' name='" + long + "'><group>" + long + "</group></item>": "type='result'",
		"<item jid='b@localhost'>" + groups + "</item>":                                  "type='result'",
		"<item jid='c@localhost' name='" + long + "n'/>":                                 "<not-acceptable ",
		"<item jid='c@localhost'><group>" + long + "n</group></item>":                    "<not-acceptable ",
		"<item jid='c@localhost'>" + groups + "<group>one more</group></item>":           "<not-acceptable ",
	} {
		romeo.Send("<iq type='set' id='1'><query xmlns='jabber:iq:roster'>" + item + "</query></iq>")
		s.Settle()
		if got := romeo.Received(); !strings.Contains(got, want) {
			t.Errorf("%.60s: %.200s; want %s", item, got, want)
		}
	}
	romeo.Send("<iq type='get' id='2'><query xmlns='jabber:iq:roster'/></iq>")
	s.Settle()
	if got := romeo.Received(); strings.Contains(got, "c@localhost") {
		t.Errorf("what was refused is in the roster: %.200s", got)
	}
}

// The default limit has space for 5,000 contacts of ordinary size: a tenth of it has space for 500.
func TestOrdinaryRoster(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{Limits: fast(), Module: func(_ string, v any) error {
		if o, ok := v.(*roster.Options); ok {
			o.MaxItems, o.MaxBytes = o.MaxItems/10, o.MaxBytes/10
		}
		return nil
	}})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	for i := range 500 {
		romeo.Send(fmt.Sprintf("<iq type='set' id='%d'><query xmlns='jabber:iq:roster'><item "+
			"jid='contact.%d@example.org' name='Contact Number %d'>"+
			"<group>Friends &amp; Family</group></item></query></iq>", i, i, i))
		if i%100 == 99 {
			s.Settle()
			if got := romeo.Received(); strings.Contains(got, "type='error'") {
				t.Fatalf("before contact %d: %.300s", i, got)
			}
		}
	}
	romeo.Send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>")
	s.Settle()
	if n := strings.Count(romeo.Received(), "<item "); n != 500 {
		t.Errorf("%d contacts", n)
	}
}

// RFC 6121 section 3.1.3: a request is kept whole, with extended content, until it is answered. The
// requests of all senders have a limit for the account; one beyond it is refused, none is cut. Long
// requests do not keep usual ones out, and requests take no space of the user's contacts.
func TestRequestsAreKeptWhole(t *testing.T) {
	opt := sized(400_000) // 100,000 for requests, half of it for long ones
	s := sessiontest.New(t, opt)
	s.AddAccount("juliet@localhost")
	ask := func(i, n int) string {
		m := s.Login("stranger", fmt.Sprintf("stranger%d@localhost/den", i))
		defer m.DropConn()
		m.Send("<presence/>")
		s.Settle()
		m.Received()
		m.Send(fmt.Sprintf("<presence to='juliet@localhost' type='subscribe' "+
			"id='%d'><status>%s</status><nick xmlns='http://jabber.org/protocol/nick'>Stranger %d</nick></presence>",
			i, strings.Repeat("s", n), i))
		s.Settle()
		return m.Received()
	}
	if got := ask(0, 16<<10); !strings.Contains(got, "<policy-violation ") { // by the sender's own server
		t.Errorf("a request beyond the limit: %.200s", got)
	}
	kept := map[int]int{}
	for i := 1; i < 10; i++ {
		if got := ask(i, 12_000); got == "" {
			kept[i] = 12_000
		} else if !strings.Contains(got, refused) {
			t.Errorf("request %d: %.200s", i, got)
		}
	}
	if len(kept) != 4 {
		t.Errorf("%d long requests are kept", len(kept))
	}
	for i := 10; i < 20; i++ {
		if got := ask(i, 100); got != "" {
			t.Errorf("a usual request beside long ones: %.200s", got)
		}
		kept[i] = 100
	}
	for round := range 2 {
		juliet := s.Login("juliet", "juliet@localhost/balcony")
		juliet.Send("<presence/>")
		s.Settle()
		got := juliet.Received()
		for i, n := range kept {
			want := fmt.Sprintf("<status>%s</status><nick xmlns='http://jabber.org/protocol/nick'>Stranger "+
				"%d</nick></presence>", strings.Repeat("s", n), i)
			if strings.Count(got, want) != 1 {
				t.Errorf("round %d: request %d is not whole", round, i)
			}
		}
		if n := strings.Count(got, "type='subscribe'"); n != len(kept) {
			t.Errorf("round %d: %d requests of %d", round, n, len(kept))
		}
		if round == 0 {
			s.DB.Close()
			s = sessiontest.New(t, opt)
			continue
		}
		// Answered requests free their space.
		for i := range kept {
			juliet.Send(fmt.Sprintf("<presence to='stranger%d@localhost' type='unsubscribed'/>", i))
		}
		juliet.Send("<presence type='unavailable'/>")
		s.Settle()
		if got := ask(30, 12_000); got != "" {
			t.Errorf("with room again: %.200s", got)
		}
	}
}
