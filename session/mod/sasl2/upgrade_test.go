package sasl2_test

import (
	"bytes"
	"context"
	"crypto/pbkdf2"
	"encoding/base64"
	"strings"
	"testing"

	"canto/session/sasl"
	"canto/session/sessiontest"
)

const (
	upgrade256 = "<upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-256</upgrade>"
	upgrade512 = "<upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-512</upgrade>"
	bind2      = "<bind xmlns='urn:xmpp:bind:0'/>"
)

// between returns what is in s after before and before after; empty if they are not there.
func between(s, before, after string) string {
	_, s, ok := strings.Cut(s, before)
	s, _, ok2 := strings.Cut(s, after)
	if !ok || !ok2 {
		return ""
	}
	return s
}

// only gives romeo the keys of these hash functions alone.
func only(t *testing.T, s *sessiontest.Server, hashes ...sasl.Hash) {
	t.Helper()
	k, err := sasl.DeriveKeys([]byte(sessiontest.Password), sasl.MinIterations,
		bytes.NewReader(bytes.Repeat([]byte("salt"), 99)), hashes...)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DB.Accounts().SetKeys(context.Background(), "localhost", "romeo", k.Encode()); err != nil {
		t.Fatal(err)
	}
}

// hashesOf returns the hash functions of romeo's keys.
func hashesOf(t *testing.T, s *sessiontest.Server) (list []sasl.Hash) {
	t.Helper()
	s.Settle()
	a, err := s.DB.Accounts().Get(s.DB, "localhost", "romeo")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := sasl.DecodeKeys(a.Credentials, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		list = append(list, k.Hash)
	}
	return list
}

// scram logs in up to the answer to the proof.
func scram(t *testing.T, s *sessiontest.Server, c *sessiontest.Client, m sasl.Mechanism,
	inline string) string {
	t.Helper()
	x := &sasl.Client{Mechanism: m, Username: "romeo", Password: sasl.SecretString(sessiontest.Password),
		Rand: bytes.NewReader(make([]byte, 99))}
	first, err := x.Start()
	if err != nil {
		t.Fatal(err)
	}
	got := say(s, c, open2+m.String()+"'><initial-response>"+string(first)+"</initial-response>"+inline+end)
	final, err := x.Next([]byte(between(got, "<challenge xmlns='urn:xmpp:sasl:2'>", "<")))
	if err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	got = say(s, c, "<response xmlns='urn:xmpp:sasl:2'>"+string(final)+"</response>")
	if data := between(got, "<additional-data>", "<"); data != "" {
		if err := x.Success([]byte(data)); err != nil {
			t.Error(err)
		}
	}
	return got
}

// XEP-0480: a client that logs in by SCRAM gives the keys that the account does not have, one task after the
// other. The inline requests are handled after the last one.
func TestUpgrade(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	s.AddAccount("romeo@localhost")
	only(t, s, sasl.SHA1)
	c := opened(s)
	got := scram(t, s, c, sasl.ScramSHA1, upgrade256+upgrade512+bind2)
	for _, h := range []sasl.Hash{sasl.SHA512, sasl.SHA256} {
		name := sasl.UpgradeName(h)
		if !strings.Contains(got, "<tasks><task>"+name+"</task></tasks></continue>") ||
			strings.Contains(got, "bound") {
			t.Fatalf("before %s: %s", name, got)
		}
		got = say(s, c, "<next xmlns='urn:xmpp:sasl:2' task='"+name+"'/>")
		salt, err := base64.StdEncoding.DecodeString(between(got, "iterations='10000'>", "<"))
		if err != nil || len(salt) != sasl.SaltLen {
			t.Fatalf("the salt for %s: %s", name, got)
		}
		salted, err := pbkdf2.Key(h.New, sessiontest.Password, salt, 10000, h.Size())
		if err != nil {
			t.Fatal(err)
		}
		got = say(s, c, "<task-data xmlns='urn:xmpp:sasl:2'><hash xmlns='urn:xmpp:scram-upgrade:0'>"+
			base64.StdEncoding.EncodeToString(salted)+"</hash></task-data>")
	}
	if !strings.HasPrefix(got, "<success ") || !strings.Contains(got, "<bound ") ||
		strings.Contains(got, "additional") {
		t.Errorf("after the tasks: %s", got)
	}
	if list := hashesOf(t, s); len(list) != 3 {
		t.Errorf("keys: %v", list)
	}
	for _, m := range []sasl.Mechanism{sasl.ScramSHA1, sasl.ScramSHA256, sasl.ScramSHA512} {
		if got := scram(t, s, opened(s), m, upgrade256+upgrade512); !strings.HasPrefix(got, "<success ") {
			t.Errorf("%v: %s", m, got)
		}
	}
}

// K74: an upgrade follows a proof of the password by SCRAM only: not a failure, not a token, not PLAIN. A
// password that was changed meanwhile stays. What is out of turn ends the stream, and a wrong value the
// login; then nothing is stored.
func TestAttackK74Upgrade(t *testing.T) {
	const next = "<next xmlns='urn:xmpp:sasl:2' task='UPGR-SCRAM-SHA-256'/>"
	data := func(text string) string {
		return "<task-data xmlns='urn:xmpp:sasl:2'><hash xmlns='urn:xmpp:scram-upgrade:0'>" + text +
			"</hash></task-data>"
	}
	valid := data(base64.StdEncoding.EncodeToString(make([]byte, 32)))
	start := func(t *testing.T) (*sessiontest.Server, *sessiontest.Client) {
		s := sessiontest.New(t, sessiontest.Options{})
		s.AddAccount("romeo@localhost")
		only(t, s, sasl.SHA1)
		return s, opened(s)
	}
	for name, x := range map[string]struct {
		say  []string
		want string
	}{
		"another task": {[]string{"<next xmlns='urn:xmpp:sasl:2' task='UPGR-SCRAM-SHA-512'/>"},
			"<malformed-request"},
		"no task":           {[]string{"<next xmlns='urn:xmpp:sasl:2'/>"}, "<malformed-request"},
		"data first":        {[]string{valid}, "<policy-violation"},
		"next twice":        {[]string{next, next}, "<policy-violation"},
		"a response":        {[]string{"<response xmlns='urn:xmpp:sasl:2'/>"}, "<policy-violation"},
		"a stanza":          {[]string{"<presence/>"}, "<policy-violation"},
		"another login":     {[]string{right + end}, "<policy-violation"},
		"given up":          {[]string{"<abort xmlns='urn:xmpp:sasl:2'/>"}, "<aborted"},
		"given up later":    {[]string{next, "<abort xmlns='urn:xmpp:sasl:2'/>"}, "<aborted"},
		"no hash":           {[]string{next, "<task-data xmlns='urn:xmpp:sasl:2'/>"}, "<malformed-request"},
		"no base64":         {[]string{next, data("!")}, "<incorrect-encoding"},
		"of another size":   {[]string{next, data("AA==")}, "<incorrect-encoding"},
		"after the upgrade": {[]string{next, valid, valid}, "<policy-violation"},
	} {
		t.Run(name, func(t *testing.T) {
			s, c := start(t)
			got := scram(t, s, c, sasl.ScramSHA1, upgrade256+bind2)
			for _, el := range x.say {
				got = say(s, c, el)
			}
			if !strings.Contains(got, x.want) {
				t.Errorf("%s", got)
			}
			if list := hashesOf(t, s); (len(list) != 1) != (name == "after the upgrade") {
				t.Errorf("keys: %v", list)
			}
		})
	}
	s, c := start(t)
	if got := say(s, c, wrong+upgrade256+end); !strings.HasPrefix(got, "<failure ") {
		t.Errorf("a wrong password: %s", got)
	}
	if got := say(s, c, right+upgrade256+"<user-agent id='d4565fa7-4d72-4749-b3d3-740edbf87770'/>"+
		"<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-NONE'/>"+end); strings.Contains(got,
		"continue") {
		t.Errorf("PLAIN: %s", got)
	} else {
		token := sasl.SecretString(between(got, " token='", "'"))
		proof := sasl.TokenNone.InitiatorMAC(token, sasl.ChannelBinding{})
		got := say(s, opened(s), open2+"HT-SHA-256-NONE'><initial-response>"+
			string(sasl.AppendTokenMessage("romeo", proof))+"</initial-response><user-agent "+
			"id='d4565fa7-4d72-4749-b3d3-740edbf87770'/><fast xmlns='urn:xmpp:fast:0'/>"+upgrade256+end)
		if !strings.HasPrefix(got, "<success ") {
			t.Errorf("a token: %s", got)
		}
	}
	// The password is changed between the proof and the key.
	s, c = start(t)
	scram(t, s, c, sasl.ScramSHA1, upgrade256)
	say(s, c, next)
	only(t, s, sasl.SHA1, sasl.SHA512)
	say(s, c, valid)
	if list := hashesOf(t, s); len(list) != 2 || list[1] != sasl.SHA512 {
		t.Errorf("keys after a change of the password: %v", list)
	}
}
