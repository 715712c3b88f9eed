package saslauth_test

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"canto/session/sasl"
	"canto/session/sessiontest"
)

// A login is one try of a SCRAM client that is written here from RFC 5802 alone: it can send what the
// client of package sasl does not.
type login struct {
	mechanism string // SCRAM-SHA-256 if it is empty
	user      string
	password  string // as the client has prepared it
	first     string // extensions of the first message, each after a comma
	final     string // those of the last one
}

// try runs one exchange on c, whose stream is open, and returns the name of the last element.
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

// plain runs one try with PLAIN.
func plain(t *testing.T, s *sessiontest.Server, c *sessiontest.Client, user, password string) string {
	t.Helper()
	c.Send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" +
		base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+password)) + "</auth>")
	s.Settle()
	return outcome(t, c.Received())
}

// outcome returns "success", or the condition of a failure.
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

// opened returns a connection whose stream is open.
func opened(s *sessiontest.Server, name string) *sessiontest.Client {
	c := s.Dial(name, 0)
	c.Open("localhost")
	s.Settle()
	c.Received()
	return c
}

// RFC 5802 sections 5.1 and 7: unknown optional extensions are ignored, in the first message and in the
// last. A mandatory one (m=), or one that is no attr-val, fails the login.
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

// The forms of a password with compatibility characters: as a client sends it with PLAIN, as SASLprep (RFC
// 4013) prepares it, and as OpaqueString (RFC 8265 section 4.2) does.
var forms = []struct{ typed, prep, opaque string }{
	{"\ufb01sh and \uff23hips", "fish and Chips", "\ufb01sh and \uff23hips"},
	{"x\u00b2\u00a0+ \u2168", "x2 + IX", "x\u00b2 + \u2168"},
	{"\u212bngstr\u00f6m\u2122", "\u00c5ngstr\u00f6mTM", "\u00c5ngstr\u00f6m\u2122"},
}

// setKeys stores keys for romeo that are derived from exactly this text, as an older version or another
// server did.
func setKeys(t *testing.T, s *sessiontest.Server, prepared string) []byte {
	t.Helper()
	var keys sasl.Keys
	for _, h := range []sasl.Hash{sasl.SHA1, sasl.SHA256} {
		salt := []byte("salt of the test")
		salted, err := pbkdf2.Key(h.New, prepared, salt, sasl.MinIterations, h.Size())
		if err != nil {
			t.Fatal(err)
		}
		mac := func(text string) []byte {
			m := hmac.New(h.New, salted)
			m.Write([]byte(text))
			return m.Sum(nil)
		}
		stored := h.New()
		stored.Write(mac("Client Key"))
		keys = append(keys, sasl.Key{Hash: h, Iterations: sasl.MinIterations, Salt: salt,
			StoredKey: sasl.NewSecret(stored.Sum(nil)), ServerKey: sasl.NewSecret(mac("Server Key"))})
	}
	b := keys.Encode()
	if err := s.DB.Accounts().SetKeys(t.Context(), "localhost", "romeo", b); err != nil {
		t.Fatal(err)
	}
	return b
}

// stored returns the credentials of romeo in the store.
func stored(t *testing.T, s *sessiontest.Server) []byte {
	t.Helper()
	row, err := s.DB.Accounts().Get(s.DB, "localhost", "romeo")
	if err != nil {
		t.Fatal(err)
	}
	return row.Credentials
}

// RFC 5802 section 2.2, RFC 4013, RFC 8265 section 4.2: new keys are derived from the SASLprep form. An
// account keeps older keys, also of the OpaqueString form, until a login with PLAIN shows the password:
// then they are derived again, and every SCRAM mechanism works.
func TestPasswordForms(t *testing.T) {
	for _, f := range forms {
		s := sessiontest.New(t, sessiontest.Options{})
		s.AddAccount("romeo@localhost")
		scram := func(mechanism, password string) string {
			return login{mechanism: mechanism, user: "romeo", password: password}.try(t, s, opened(s, "c"))
		}
		// New keys.
		k, err := sasl.DeriveKeys([]byte(f.typed), sasl.MinIterations,
			strings.NewReader(strings.Repeat("salt", 99)))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.DB.Accounts().SetKeys(t.Context(), "localhost", "romeo", k.Encode()); err != nil {
			t.Fatal(err)
		}
		for _, m := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256"} {
			if got := scram(m, f.prep); got != "success" {
				t.Errorf("%+q: new keys, %s: %s", f.typed, m, got)
			}
		}
		for _, pw := range []string{f.typed, f.prep} {
			if got := plain(t, s, opened(s, "c"), "romeo", pw); got != "success" {
				t.Errorf("%+q: new keys, PLAIN with %+q: %s", f.typed, pw, got)
			}
		}
		if string(stored(t, s)) != string(k.Encode()) {
			t.Errorf("%+q: keys of the present form were made anew", f.typed)
		}
		// Old keys.
		old := setKeys(t, s, f.opaque)
		if got := scram("SCRAM-SHA-256", f.opaque); got != "success" {
			t.Errorf("%+q: old keys, a client that prepares as they were: %s", f.typed, got)
		}
		if got := scram("SCRAM-SHA-256", f.prep); got != "not-authorized" {
			t.Errorf("%+q: old keys, SASLprep: %s", f.typed, got)
		}
		for _, pw := range []string{f.prep, f.typed + "x", "\u2168"} {
			if got := plain(t, s, opened(s, "c"), "romeo", pw); got != "not-authorized" {
				t.Errorf("%+q: old keys, PLAIN with %+q: %s", f.typed, pw, got)
			}
		}
		if string(stored(t, s)) != string(old) {
			t.Errorf("%+q: keys changed without a login that showed the password", f.typed)
		}
		if got := plain(t, s, opened(s, "c"), "romeo", f.typed); got != "success" {
			t.Errorf("%+q: old keys, PLAIN: %s", f.typed, got)
		}
		renewed := stored(t, s)
		keys, err := sasl.DecodeKeys(renewed, 0)
		if err != nil || len(keys) != 2 || keys[0].Iterations != sasl.MinIterations {
			t.Fatalf("%+q: renewed keys: %v %v", f.typed, keys, err)
		}
		for _, m := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256"} {
			if got := scram(m, f.prep); got != "success" {
				t.Errorf("%+q: renewed keys, %s: %s", f.typed, m, got)
			}
		}
		if got := plain(t, s, opened(s, "c"), "romeo", f.typed); got != "success" {
			t.Errorf("%+q: renewed keys, PLAIN: %s", f.typed, got)
		}
		if string(stored(t, s)) != string(renewed) {
			t.Errorf("%+q: keys were made anew twice", f.typed)
		}
	}
}

// A banned account keeps its keys, and a store that refuses writes does not keep a user from logging in.
func TestPasswordFormsKept(t *testing.T) {
	f := forms[0]
	var fail atomic.Bool
	s := sessiontest.New(t, sessiontest.Options{Fault: func(write bool) error {
		if write && fail.Load() {
			return errors.New("the disk is full")
		}
		return nil
	}})
	s.AddAccount("romeo@localhost")
	old := setKeys(t, s, f.opaque)
	fail.Store(true)
	if got := plain(t, s, opened(s, "c"), "romeo", f.typed); got != "success" {
		t.Errorf("where new keys can't be stored: %s", got)
	}
	fail.Store(false)
	if err := s.DB.Accounts().Ban(t.Context(), "localhost", "romeo", "test"); err != nil {
		t.Fatal(err)
	}
	if got := plain(t, s, opened(s, "c"), "romeo", f.typed); got != "account-disabled" {
		t.Errorf("banned: %s", got)
	}
	if string(stored(t, s)) != string(old) {
		t.Error("the keys have changed")
	}
}
