package sasl2_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"canto/session"
	"canto/session/mod/saslauth"
	"canto/session/sasl"
	"canto/session/sessiontest"
)

const (
	open2  = "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='"
	right  = open2 + "PLAIN'><initial-response>AHJvbWVvAHIwbTMw</initial-response>"
	wrong  = open2 + "PLAIN'><initial-response>AHJvbWVvAHdyb25n</initial-response>"
	begin  = open2 + "SCRAM-SHA-256'><initial-response>biwsbj1yb21lbyxyPWFiY2RlZmdo</initial-response>"
	end    = "</authenticate>"
	begin1 = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-256'>" +
		"biwsbj1yb21lbyxyPWFiY2RlZmdo</auth>"
	right1 = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHJvbWVvAHIwbTMw</auth>"
)

// opened returns a connection whose stream is open.
func opened(s *sessiontest.Server) *sessiontest.Client {
	c := s.Dial("c", 0)
	c.Open("localhost")
	s.Settle()
	c.Received()
	return c
}

func say(s *sessiontest.Server, c *sessiontest.Client, el string) string {
	c.Send(el)
	s.Settle()
	return c.Received()
}

// K70: what a client sends behind its login waits for it. It is not handled after a failure, nor are the
// inline requests of a login that fails.
func TestAttackK70Pipelined(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	s.AddAccount("romeo@localhost")
	const bind = "<bind xmlns='urn:xmpp:bind:0'><enable xmlns='urn:xmpp:carbons:2'/></bind>"
	const ping = "<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>"
	got := say(s, opened(s), right+bind+end+ping)
	if !strings.Contains(got, "<bound ") ||
		strings.Index(got, "id='p'") < strings.Index(got, "</stream:features>") {
		t.Errorf("a right login: %s", got)
	}
	got = say(s, opened(s), wrong+bind+end+ping)
	if strings.Contains(got, "bound") || strings.Contains(got, "id='p'") || !strings.Contains(got,
		"<stream:error><not-authorized") {
		t.Errorf("a wrong login: %s", got)
	}
	// In the middle of an exchange it ends the stream.
	got = say(s, opened(s), begin+bind+end+ping)
	if !strings.HasPrefix(got, "<challenge ") || !strings.Contains(got, "<policy-violation") {
		t.Errorf("a login that has just begun: %s", got)
	}
}

// K71: during an exchange nothing but its elements may come; the two profiles are not mixed; there are never
// two successes.
func TestAttackK71OutOfTurn(t *testing.T) {
	for name, steps := range map[string][]string{
		"a stanza":           {begin + end, "<presence/>"},
		"an iq":              {begin + end, "<iq type='get' id='1'><query xmlns='jabber:iq:register'/></iq>"},
		"starttls":           {begin + end, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"},
		"an unknown element": {begin + end, "<x xmlns='urn:x'/>"},
		"another of SASL2":   {begin + end, "<next xmlns='urn:xmpp:sasl:2' task='x'/>"},
		"twice":              {begin + end, right + end},
		"SASL in SASL2":      {begin + end, right1},
		"a response of SASL": {begin + end,
			"<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>AA==</response>"},
		"SASL2 in SASL":         {begin1, right + end},
		"a response of SASL2":   {begin1, "<response xmlns='urn:xmpp:sasl:2'>AA==</response>"},
		"after success":         {right + end, right + end},
		"abort after success":   {right + end, "<abort xmlns='urn:xmpp:sasl:2'/>"},
		"SASL after success":    {right + end, right1},
		"response to nothing":   {"<response xmlns='urn:xmpp:sasl:2'>AA==</response>"},
		"task data for nothing": {"<task-data xmlns='urn:xmpp:sasl:2'/>"},
	} {
		t.Run(name, func(t *testing.T) {
			s := sessiontest.New(t, sessiontest.Options{})
			s.AddAccount("romeo@localhost")
			c := opened(s)
			all := ""
			for _, el := range steps {
				all += say(s, c, el)
			}
			if !c.Ended() || strings.Count(all, "<success") > 1 ||
				!strings.Contains(all, "<policy-violation") && !strings.Contains(all, "<unsupported-stanza-type") {
				t.Errorf("the stream has not ended: %s", all)
			}
		})
	}
	// The right order of two exchanges.
	s := sessiontest.New(t, sessiontest.Options{})
	s.AddAccount("romeo@localhost")
	c := opened(s)
	say(s, c, begin+end)
	say(s, c, "<abort xmlns='urn:xmpp:sasl:2'/>")
	if got := say(s, c, right1); !strings.HasPrefix(got, "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'") {
		t.Errorf("SASL after an exchange of SASL2 that was given up: %s", got)
	}
}

// K73: what is offered does not depend on the address in the client's header. An address of another domain
// ends the login, and so does an identity that is not that of the header.
func TestAttackK73From(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	s.AddAccount("romeo@localhost")
	header := func(from string) (*sessiontest.Client, string) {
		c := s.Dial("c", 0)
		c.Send("<?xml version='1.0'?><stream:stream to='localhost' version='1.0' xmlns='jabber:client' " +
			"xmlns:stream='http://etherx.jabber.org/streams'" + from + ">")
		s.Settle()
		_, features, _ := strings.Cut(c.Received(), "<stream:features>")
		return c, features
	}
	_, want := header("")
	for _, from := range []string{"romeo@localhost", "none@localhost", "a b", "x@example.net"} {
		if _, got := header(" from='" + from + "'"); got != want || !strings.Contains(got, "<authentication ") {
			t.Errorf("%s is offered %s", from, got)
		}
	}
	const zid = open2 + "PLAIN'><initial-response>cm9tZW9AbG9jYWxob3N0AHJvbWVvAHIwbTMw</initial-response>" + end
	for _, x := range []struct{ from, el, want string }{
		{" from='romeo@localhost'", right + end, "<success "},
		{" from='romeo@localhost'", zid, "<success "},
		{" from='juliet@localhost'", right + end, "<success "}, // a hint is no identity
		{" from='juliet@localhost'", zid, "<invalid-authzid"},
		{" from='romeo@example.net'", right + end, "<stream:error><invalid-from"},
	} {
		c, _ := header(x.from)
		if got := say(s, c, x.el); !strings.Contains(got, x.want) {
			t.Errorf("%s, %.120s: %s", x.from, x.el, got)
		}
	}
}

// S04, T10: no mechanism is accepted that was not offered: a stream without TLS at a host that requires it is
// offered neither profile, and can log in by none.
func TestAttackT10SASL2WithoutTLS(t *testing.T) {
	offer, err := sasl.NewMechanismSet("PLAIN", "SCRAM-SHA-256")
	if err != nil {
		t.Fatal(err)
	}
	s := sessiontest.New(t, sessiontest.Options{Dependencies: []session.Dependency{
		session.NewDependency(saslauth.Policy{Mechanisms: offer, FakeKey: sasl.SecretString("key"),
			EndPoint: func(*tls.Certificate) []byte { return nil }})}})
	s.AddAccount("romeo@localhost")
	for _, el := range []string{right + end, begin + end, open2 + "HT-SHA-256-NONE'><initial-response>AA==" +
		"</initial-response><fast xmlns='urn:xmpp:fast:0'/>" + end, "<bind xmlns='urn:xmpp:bind:0'/>"} {
		c := s.Dial("c", 0)
		c.Open("localhost")
		s.Settle()
		if got := c.Received(); strings.Contains(got, "authentication") {
			t.Fatalf("offered without TLS: %s", got)
		}
		if got := say(s, c, el); !c.Ended() || strings.Contains(got, "success") ||
			strings.Contains(got, "challenge") {
			t.Errorf("%.60s: %s", el, got)
		}
	}
}

// S23: a banned account can't log in by SASL2 either, and only a client with the password learns of the ban.
func TestAttackS23Banned(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	s.AddAccount("romeo@localhost")
	if err := s.DB.Accounts().Ban(context.Background(), "localhost", "romeo", ""); err != nil {
		t.Fatal(err)
	}
	const bind = "<bind xmlns='urn:xmpp:bind:0'/>"
	if got := say(s, opened(s), right+bind+end); !strings.Contains(got, "<account-disabled") {
		t.Errorf("the right password: %s", got)
	}
	if got := say(s, opened(s), wrong+bind+end); !strings.Contains(got, "<not-authorized") {
		t.Errorf("a wrong password: %s", got)
	}
}

// A wrong token is counted as a guess at a password: the answers are late then, by account.
func TestTokensAreCounted(t *testing.T) {
	offer, err := sasl.NewMechanismSet("PLAIN")
	if err != nil {
		t.Fatal(err)
	}
	lim := session.DefaultLimits()
	lim.FailuresPerAccount = session.Rate{N: 5, Per: time.Hour}
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim,
		Dependencies: []session.Dependency{session.NewDependency(saslauth.Policy{Mechanisms: offer,
			PlainText: true, FakeKey: sasl.SecretString("key"), Failures: session.NewThrottle()})}})
	s.AddAccount("romeo@localhost")
	for _, user := range []string{"romeo", "none"} { // an account, and a name without one
		for i := range 7 {
			c := s.DialFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), "c", 0)
			c.Open("localhost")
			s.Settle()
			c.Received()
			msg := base64.StdEncoding.EncodeToString([]byte(user + "\x00" + strings.Repeat("x", 32)))
			got := say(s, c, fmt.Sprintf("%sHT-SHA-256-NONE'><initial-response>%s</initial-response><user-agent "+
				"id='d4565fa7-4d72-4749-b3d3-740edbf87770'/><fast xmlns='urn:xmpp:fast:0'/>%s", open2, msg, end))
			if late := got == ""; late != (i >= 5) {
				t.Errorf("%s, try %d: late %v, %s", user, i+1, late, got)
			}
			s.Advance(1200 * time.Millisecond)
			if got += c.Received(); !strings.Contains(got, "<not-authorized") {
				t.Errorf("%s, try %d: %s", user, i+1, got)
			}
		}
	}
}
