package saslauth_test

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"strconv"
	"strings"
	"testing"

	"canto/session/sessiontest"
)

// A login is one try of a SCRAM client that is written here from RFC 5802 alone, so that it can say what
// the client of package sasl does not.
type login struct {
	mechanism string // SCRAM-SHA-256 if it is empty
	user      string
	password  string // as the client has prepared it
	first     string // extensions of the first message, each with a comma before it
	final     string // those of the last one
}

// try goes through one exchange on c, whose stream is open, and returns the name of the last element.
func (x login) try(t *testing.T, s *sessiontest.Server, c *sessiontest.Client) string {
	t.Helper()
	var h func() hash.Hash = sha256.New
	if x.mechanism == "" {
		x.mechanism = "SCRAM-SHA-256"
	} else if x.mechanism == "SCRAM-SHA-1" {
		h = sha1.New
	}
	const ns = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
	ask := func(el string) string {
		c.Send(el)
		s.Settle()
		return c.Received()
	}
	code := base64.StdEncoding.EncodeToString
	bare := "n=" + x.user + ",r=clientnonce" + x.first
	got := ask("<auth " + ns + " mechanism='" + x.mechanism + "'>" + code([]byte("n,,"+bare)) + "</auth>")
	text, ok := between(got, "<challenge "+ns+">", "</challenge>")
	if !ok {
		return outcome(t, got)
	}
	challenge, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	part := strings.Split(string(challenge), ",")
	salt, err := base64.StdEncoding.DecodeString(part[1][2:])
	if err != nil {
		t.Fatal(err)
	}
	iterations, err := strconv.Atoi(part[2][2:])
	if err != nil {
		t.Fatal(err)
	}
	salted, err := pbkdf2.Key(h, x.password, salt, iterations, h().Size())
	if err != nil {
		t.Fatal(err)
	}
	mac := func(key []byte, text string) []byte {
		m := hmac.New(h, key)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	proof := mac(salted, "Client Key")
	stored := h()
	stored.Write(proof)
	final := "c=biws," + part[0] + x.final
	for i, b := range mac(stored.Sum(nil), bare+","+string(challenge)+","+final) {
		proof[i] ^= b
	}
	got = ask("<response " + ns + ">" + code([]byte(final+",p="+code(proof))) + "</response>")
	if v, ok := between(got, "<success "+ns+">", "</success>"); ok {
		want := "v=" + code(mac(mac(salted, "Server Key"), bare+","+string(challenge)+","+final))
		if v != code([]byte(want)) {
			t.Fatalf("the server's signature is wrong: %s", v)
		}
	}
	return outcome(t, got)
}

// plain is one try with PLAIN.
func plain(t *testing.T, s *sessiontest.Server, c *sessiontest.Client, user, password string) string {
	t.Helper()
	c.Send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" +
		base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+password)) + "</auth>")
	s.Settle()
	return outcome(t, c.Received())
}

// outcome is "success", or the condition of a failure.
func outcome(t *testing.T, got string) string {
	t.Helper()
	if strings.HasPrefix(got, "<success ") {
		return "success"
	}
	if c, ok := between(got, "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><", "/></failure>"); ok {
		return c
	}
	t.Fatalf("no outcome: %q", got)
	return ""
}

func between(s, before, after string) (string, bool) {
	_, s, ok := strings.Cut(s, before)
	s, _, ok2 := strings.Cut(s, after)
	return s, ok && ok2
}

// opened is a connection whose stream is open.
func opened(s *sessiontest.Server, name string) *sessiontest.Client {
	c := s.Dial(name, 0)
	c.Open("localhost")
	s.Settle()
	c.Received()
	return c
}

// RFC 5802 §5.1, §7: extensions that a server does not know are ignored where they are optional, in the
// first message and in the last; one that is mandatory (m=), or is no attr-val, fails the login.
func TestOptionalExtensions(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	s.AddAccount("romeo@localhost")
	for _, c := range []struct{ first, final, want string }{
		{"", "", "success"},
		{",x=1", "", "success"},
		{"", ",x=1", "success"},
		{",f=none,d=a=b,Z=\u00fc\u20ac", ",t=token,q==", "success"},
		{",x=1,x=2", ",x=1,x=2", "success"},
		{",m=1", "", "malformed-request"},
		{"", ",m=1", "malformed-request"},
		{",x=1,m=must", "", "malformed-request"},
		{"", ",x=1,m=must", "malformed-request"},
		{",x", "", "malformed-request"},
		{",x=", "", "malformed-request"},
		{",xy=1", "", "malformed-request"},
		{",1=1", "", "malformed-request"},
		{",", "", "malformed-request"},
		{"", ",x=", "malformed-request"},
		{"", ",=1", "malformed-request"},
		{",r=another", "", "malformed-request"},
		{"", ",r=another", "malformed-request"},
	} {
		x := login{user: "romeo", password: sessiontest.Password, first: c.first, final: c.final}
		if got := x.try(t, s, opened(s, "c")); got != c.want {
			t.Errorf("first %q, final %q: %s, want %s", c.first, c.final, got, c.want)
		}
	}
}
