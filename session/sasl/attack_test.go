package sasl

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
)

func b64(s string) []byte { return []byte(base64.StdEncoding.EncodeToString([]byte(s))) }

// The password of A with the authzid of B.
func TestAttackS02(t *testing.T) {
	users := map[string]Credentials{"a": {Keys: keysOf(t, "pw")}, "b": {Keys: keysOf(t, "pw")}}
	for zid, want := range map[string]StepKind{
		"b": Fail, "b@example.org": Fail, "a@other": Fail, "a@example.org.evil": Fail, "a": Fail,
		"a@example.org/r": Fail, "example.org": Fail,
		"\u0430@example.org": Fail, "a@": Fail, "a@example.org@b": Fail, "a b@example.org": Fail, "a\xff": Fail,
		strings.Repeat("a", 2000): Fail,
		"":                        Done, "a@example.org": Done, "A@EXAMPLE.org": Done,
		"\uff21@example\u3002org": Done,
		"a@example.org.":          Done,
	} {
		x := NewExchange(config(t, ChannelBinding{}))
		s := answer(x, x.Start("PLAIN", b64(zid+"\x00a\x00pw")), users)
		bad := strings.Contains(zid, "\xff")
		if s.Kind != want || want == Fail && s.Condition != InvalidAuthzid &&
			!(bad && s.Condition == MalformedRequest) || want == Done && s.User != "a" {
			t.Errorf("PLAIN with authzid %q: %+v", zid, s)
		}
		if bad {
			continue
		}
		for _, m := range []Mechanism{ScramSHA1, ScramSHA256Plus} {
			c := &Client{Mechanism: m, Username: "a", Authzid: zid, Password: SecretString("pw"), Binding: binding,
				ServerPlus: true, Rand: rand.Reader}
			s, err := login(c, config(t, binding), users)
			if (err == nil) != (want == Done) || err != nil && err != InvalidAuthzid || want == Done && s.User != "a" {
				t.Errorf("%v with authzid %q: %+v, %v", m, zid, s, err)
			}
		}
	}
	// A policy of the caller's decides, and the account is still the one that was proved.
	cfg := config(t, ChannelBinding{})
	cfg.Authzid = func(zid, user string) bool { return zid == "b@example.org" && user == "a" }
	x := NewExchange(cfg)
	if s := answer(x, x.Start("PLAIN", b64("b@example.org\x00a\x00pw")), users); s.Kind != Done ||
		s.User != "a" {
		t.Errorf("%+v", s)
	}
}

// Every call in every state, also twice: no panic, and nothing out of turn changes anything.
func TestAttackS03(t *testing.T) {
	users := map[string]Credentials{"a": {Keys: keysOf(t, "pw")}}
	type call struct {
		name string
		do   func(x *Exchange, step *Step) Step
	}
	calls := []call{
		{"start plain", func(x *Exchange, _ *Step) Step { return x.Start("PLAIN", b64("\x00a\x00pw")) }},
		{"start plain empty", func(x *Exchange, _ *Step) Step { return x.Start("PLAIN", nil) }},
		{"start scram", func(x *Exchange, _ *Step) Step { return x.Start("SCRAM-SHA-1", b64("n,,n=a,r=x")) }},
		{"start unknown", func(x *Exchange, _ *Step) Step { return x.Start("X", nil) }},
		{"next", func(x *Exchange, _ *Step) Step { return x.Next(b64("c=biws,r=x,p=AAAA")) }},
		{"next empty", func(x *Exchange, _ *Step) Step { return x.Next(nil) }},
		{"found", func(x *Exchange, _ *Step) Step { return x.UserFound(users["a"]) }},
		{"not found", func(x *Exchange, _ *Step) Step { return x.UserFound(Credentials{}) }},
		{"derived", func(x *Exchange, s *Step) Step {
			if s.Work == nil {
				return x.Derived(&Derivation{})
			}
			s.Work.Run()
			return x.Derived(s.Work)
		}},
		{"renewed", func(x *Exchange, _ *Step) Step { return x.Renewed() }},
		{"abort", func(x *Exchange, _ *Step) Step { return x.Abort() }},
	}
	var walk func(path []int)
	done := 0
	walk = func(path []int) {
		x := NewExchange(config(t, ChannelBinding{}))
		var s Step
		finished := false
		for i, p := range path {
			before := s
			s = calls[p].do(x, &before)
			if finished && (s.Kind != Fail || s.Condition != MalformedRequest) {
				t.Fatalf("%v: after the end, %s gives %+v", path[:i], calls[p].name, s)
			}
			if s.Kind == Done {
				done++
				if s.User != "a" || x.Mechanism() != Plain {
					t.Fatalf("%v: %+v", path, s)
				}
			}
			finished = finished || s.Kind == Done || s.Kind == Fail
		}
		if len(path) < 4 {
			for p := range calls {
				walk(append(path[:len(path):len(path)], p))
			}
		}
	}
	walk(nil)
	if done == 0 {
		t.Error("no path logs in: the walk proves nothing")
	}
	x := NewExchange(config(t, ChannelBinding{}))
	if s := x.Abort(); s.Condition != Aborted {
		t.Errorf("%+v", s)
	}
	x = NewExchange(config(t, ChannelBinding{}))
	x.Start("PLAIN", b64("\x00a\x00pw"))
	if s := x.Fail(TemporaryAuthFailure); s.Kind != Fail || s.Condition != TemporaryAuthFailure {
		t.Errorf("%+v", s)
	}
}

// A mechanism that was not offered is not accepted.
func TestAttackS04(t *testing.T) {
	users := map[string]Credentials{"a": {Keys: keysOf(t, "pw")}}
	full := offer(t, "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN")
	for _, o := range []MechanismSet{0, full.ForStream(false, binding, false),
		full.ForStream(true, ChannelBinding{}, false),
		full.ForStream(true, binding, false), offer(t, "PLAIN").ForStream(true, binding, false),
		offer(t, "SCRAM-SHA-256").ForStream(true, ChannelBinding{}, false), full.Without(ScramSHA1)} {
		for m := Plain; m <= ScramSHA512Plus; m++ {
			cfg := config(t, binding)
			cfg.Offer = o
			c := &Client{Mechanism: m, Username: "a", Password: SecretString("pw"), Binding: binding,
				ServerPlus: true, Rand: rand.Reader}
			_, err := login(c, cfg, users)
			if o.Has(m) != (err == nil) || err != nil && err != InvalidMechanism {
				t.Errorf("%v of %b: %v", m, o, err)
			}
		}
	}
	for _, name := range []string{"", "plain", "ANONYMOUS", "EXTERNAL", "SCRAM-SHA-256-PLUS ", "SCRAM-MD5",
		"PLAIN\x00", strings.Repeat("X", 1e6)} {
		x := NewExchange(config(t, binding))
		if s := x.Start(name, b64("\x00a\x00pw")); s.Kind != Fail || s.Condition != InvalidMechanism {
			t.Errorf("%.20q: %+v", name, s)
		}
	}
	cfg := config(t, ChannelBinding{})
	cfg.Secure, cfg.Offer = false, full.ForStream(false, ChannelBinding{}, false)
	if s := NewExchange(cfg).Start("PLAIN", b64("\x00a\x00pw")); s.Condition != EncryptionRequired {
		t.Errorf("PLAIN without TLS: %+v", s)
	}
}

// Secrets are compared as a whole, whatever byte differs.
func TestAttackS05(t *testing.T) {
	a := NewSecret([]byte("0123456789abcdef"))
	for i := range 16 {
		b := append([]byte(nil), a.Reveal()...)
		b[i] ^= 1
		if a.Equal(NewSecret(b)) {
			t.Errorf("byte %d does not count", i)
		}
	}
	if !a.Equal(SecretString("0123456789abcdef")) || a.Equal(SecretString("0123456789abcde")) ||
		a.Equal(Secret{}) || !(Secret{}).Equal(Secret{}) {
		t.Error("Equal")
	}
	a.Wipe()
	if !a.Equal(NewSecret(make([]byte, 16))) {
		t.Error("Wipe")
	}
}

// SCRAM accepts only messages that follow RFC 5802.
func TestAttackS07(t *testing.T) {
	users := map[string]Credentials{"a": {Keys: keysOf(t, "pw")}}
	big := strings.Repeat("x", 1<<20)
	for first, want := range map[string]Condition{
		"n,,n=a":                      MalformedRequest,
		"n,,n=a,r=":                   MalformedRequest,
		"n,,r=x,n=a":                  MalformedRequest,
		"n,,n=a,r=x,m=1":              MalformedRequest,
		"n,,m=1,n=a,r=x":              MalformedRequest,
		"n,,n=a,r=x,y":                MalformedRequest,
		"n,,n=a,r=x,y=":               MalformedRequest,
		"n,,n=a,r=x,1=y":              MalformedRequest,
		"n,,n=a,r=x,yy=1":             MalformedRequest,
		"n,,n=a,r=x,y=1,m=1":          MalformedRequest,
		"n,,n=a,r=x,y=1,":             MalformedRequest,
		"n,,n=a,r=x,y=1\x00":          MalformedRequest,
		"n,,n=a,r=x,r=y":              MalformedRequest,
		"n,,y=1,n=a,r=x":              MalformedRequest,
		"n,,n=a,r=x,":                 MalformedRequest,
		",,n=a,r=x":                   MalformedRequest,
		"n,n=a,r=x":                   MalformedRequest,
		"N,,n=a,r=x":                  MalformedRequest,
		"n,a=,n=a,r=x":                MalformedRequest,
		"n,b=a,n=a,r=x":               MalformedRequest,
		"n,a=a=2c,n=a,r=x":            MalformedRequest,
		"n,,n=,r=x":                   MalformedRequest,
		"n,,n=a=,r=x":                 MalformedRequest,
		"n,,n=a=2c,r=x":               MalformedRequest,
		"n,,n=a\x00,r=x":              MalformedRequest,
		"n,,n=a,r=\x7f":               MalformedRequest,
		"n,,n=a,r=x y":                MalformedRequest,
		"n,,n=a,r=\u00fc":             MalformedRequest,
		"n,,n=\xff,r=x":               MalformedRequest,
		"n,,n=a b,r=x":                NotAuthorized, // no name of ours
		"n,,n=a@b,r=x":                NotAuthorized,
		"n,,n=" + big[:1500] + ",r=x": NotAuthorized,
		"n,,n=a,r=" + big[:257]:       MalformedRequest,
		"n,,n=" + big + ",r=x":        MalformedRequest,
		"n,,n=a,r=" + big:             MalformedRequest,
		"":                            MalformedRequest,
		"p=tls-exporter,,n=a,r=x":     MalformedRequest, // without -PLUS
	} {
		x := NewExchange(config(t, ChannelBinding{}))
		text := b64(first)
		if first == "" {
			text = []byte("=")
		}
		s := answer(x, x.Start("SCRAM-SHA-256", text), users)
		if s.Kind != Fail || s.Condition != want {
			t.Errorf("%.40q: %+v, want %v", first, s, want)
		}
	}
	other := "AAAAAAAAAAAAAAAAAAAAAAAA"
	for name, c := range map[string]struct {
		edit func(c, r, p string) string
		want Condition
	}{
		"right":             {func(c, r, p string) string { return c + "," + r + "," + p }, NoCondition},
		"client nonce only": {func(c, r, p string) string { return c + ",r=nonce," + p }, NotAuthorized},
		"short nonce": {func(c, r, p string) string {
			return c + "," + r[:len(r)-1] + "," + p
		}, NotAuthorized},
		"empty nonce":  {func(c, r, p string) string { return c + ",r=," + p }, NotAuthorized},
		"longer nonce": {func(c, r, p string) string { return c + "," + r + "x," + p }, NotAuthorized},
		"other nonce": {func(c, r, p string) string {
			return c + ",r=nonce" + other + "," + p
		}, NotAuthorized},
		"other gs2": {func(c, r, p string) string {
			return "c=" + string(b64("y,,")) + "," + r + "," + p
		}, NotAuthorized},
		"gs2 with authzid": {func(c, r, p string) string {
			return "c=" + string(b64("n,a=a,")) + "," + r + "," + p
		}, NotAuthorized},
		"gs2 and data": {func(c, r, p string) string {
			return "c=" + string(b64("n,,data")) + "," + r + "," + p
		}, NotAuthorized},
		"empty c":      {func(c, r, p string) string { return "c=," + r + "," + p }, NotAuthorized},
		"c not base64": {func(c, r, p string) string { return "c=bi ws," + r + "," + p }, IncorrectEncoding},
		"no c":         {func(c, r, p string) string { return r + "," + p }, MalformedRequest},
		"no proof":     {func(c, r, p string) string { return c + "," + r }, MalformedRequest},
		"empty proof":  {func(c, r, p string) string { return c + "," + r + ",p=" }, NotAuthorized},
		"short proof":  {func(c, r, p string) string { return c + "," + r + ",p=AAAA" }, NotAuthorized},
		"long proof": {func(c, r, p string) string {
			return c + "," + r + ",p=" + string(b64(strings.Repeat("\x00", 64)))
		}, NotAuthorized},
		"proof not base64": {func(c, r, p string) string {
			return c + "," + r + "," + p + "\n"
		}, IncorrectEncoding},
		"proof with spaces": {func(c, r, p string) string {
			return c + "," + r + ",p= " + p[2:]
		}, IncorrectEncoding},
		"loose bits": {func(c, r, p string) string {
			return c + "," + r + "," + p[:len(p)-2] + "B="
		}, IncorrectEncoding},
		// An extension is signed with the rest: added to a finished proof it is a wrong one.
		"extension, not signed": {func(c, r, p string) string { return c + "," + r + ",x=1," + p }, NotAuthorized},
		"extension, no value": {func(c, r, p string) string {
			return c + "," + r + ",x=," + p
		}, MalformedRequest},
		"extension, not UTF-8": {func(c, r, p string) string {
			return c + "," + r + ",x=\xff," + p
		}, MalformedRequest},
		"extension, mandatory": {func(c, r, p string) string {
			return c + "," + r + ",m=1," + p
		}, MalformedRequest},
		"extension, no letter": {func(c, r, p string) string {
			return c + "," + r + ",,1=1," + p
		}, MalformedRequest},
		"mandatory": {func(c, r, p string) string {
			return "m=1," + c + "," + r + "," + p
		}, MalformedRequest},
		"iterations": {func(c, r, p string) string {
			return c + "," + r + ",i=1," + p
		}, MalformedRequest},
		"after the proof": {func(c, r, p string) string {
			return c + "," + r + "," + p + ",x=1"
		}, MalformedRequest},
		"order": {func(c, r, p string) string { return r + "," + c + "," + p }, MalformedRequest},
		"twice": {func(c, r, p string) string {
			return c + "," + r + "," + p + "," + p
		}, MalformedRequest},
		"1 MiB": {func(c, r, p string) string {
			return c + "," + r + "," + p + big
		}, MalformedRequest},
		"nothing": {func(c, r, p string) string { return "" }, MalformedRequest},
	} {
		x := NewExchange(config(t, ChannelBinding{}))
		client := &Client{Mechanism: ScramSHA256, Username: "a", Password: SecretString("pw"), nonce: "nonce"}
		text, err := client.Start()
		if err != nil {
			t.Fatal(err)
		}
		s := answer(x, x.Start("SCRAM-SHA-256", text), users)
		if text, err = client.Next(s.Data); err != nil {
			t.Fatal(err)
		}
		parts := strings.SplitN(plainText(t, text), ",", 3)
		s = answer(x, x.Next(b64(c.edit(parts[0], parts[1], parts[2]))), users)
		if (s.Kind == Done) != (c.want == NoCondition) || s.Kind == Fail && s.Condition != c.want {
			t.Errorf("%s: %+v, want %v", name, s, c.want)
		}
	}
	// A proof of another session is worth nothing.
	x := NewExchange(config(t, ChannelBinding{}))
	x.Start("SCRAM-SHA-256", b64("n,,n=a,r=nonce"))
	x.UserFound(users["a"])
	one := &Client{Mechanism: ScramSHA256, Username: "a", Password: SecretString("pw"), nonce: "nonce"}
	one.Start()
	y := NewExchange(config(t, ChannelBinding{}))
	replay, _ := one.Next(answer(y, y.Start("SCRAM-SHA-256", b64("n,,n=a,r=nonce")), users).Data)
	if s := x.Next(replay); s.Kind != Fail || s.Condition != NotAuthorized {
		t.Errorf("replay: %+v", s)
	}
	// A client that knows the password, and proves it over a nonce that is not the server's.
	x = NewExchange(config(t, ChannelBinding{}))
	first := plainText(t, answer(x, x.Start("SCRAM-SHA-256", b64("n,,n=a,r=nonce")), users).Data)
	key, _ := users["a"].Keys.For(SHA256)
	salted, err := saltPassword(SHA256, SecretString("pw"), key.Salt, key.Iterations)
	if err != nil {
		t.Fatal(err)
	}
	final := "c=biws,r=nonce" + other
	proof := mac(nil, SHA256, salted.Password.Reveal(), []byte("Client Key"))
	for i, c := range mac(nil, SHA256, key.StoredKey.Reveal(), []byte("n=a,r=nonce,"+first+","+final)) {
		proof[i] ^= c
	}
	if s := x.Next(b64(final + ",p=" + string(b64(string(proof))))); s.Kind != Fail ||
		s.Condition != NotAuthorized || s.Reason != "wrong nonce" {
		t.Errorf("proof over another nonce: %+v", s)
	}
	// RFC 6120 section 6.4.2: base64, strictly.
	for _, bad := range []string{" biwsbj1hLHI9eA==", "biws bj1hLHI9eA==", "biwsbj1hLHI9eA==\n",
		"biwsbj1hLHI9eA", "biwsbj1hLHI9eA=", "biwsbj1hLHI9eB==", "!!!!", "biwsbj1hLHI9eA==biws", "==", "\xff",
		"biws\r\nbj1hLHI9eA=="} {
		for _, m := range []string{"SCRAM-SHA-1", "PLAIN"} {
			x := NewExchange(config(t, ChannelBinding{}))
			if s := x.Start(m, []byte(bad)); s.Kind != Fail || s.Condition != IncorrectEncoding {
				t.Errorf("%s %q: %+v", m, bad, s)
			}
		}
	}
	for _, bad := range []string{"a\x00pw", "\x00a", "\x00\x00pw", "\x00a\x00", "\x00a\x00pw\x00x",
		"\x00a\x00p\x00w", "", "\x00a\x00\xff"} {
		x := NewExchange(config(t, ChannelBinding{}))
		text := b64(bad)
		if bad == "" {
			text = []byte("=")
		}
		if s := answer(x, x.Start("PLAIN", text), users); s.Kind != Fail || s.Condition != MalformedRequest {
			t.Errorf("PLAIN %q: %+v", bad, s)
		}
	}
	// Without an initial response there is an empty challenge first.
	for m, first := range map[string]string{"PLAIN": "\x00a\x00pw", "SCRAM-SHA-1": "n,,n=a,r=x"} {
		x := NewExchange(config(t, ChannelBinding{}))
		if s := x.Start(m, nil); s.Kind != Challenge || len(s.Data) != 0 {
			t.Errorf("%s: %+v", m, s)
		} else if s = x.Next(b64(first)); s.Kind != NeedUser {
			t.Errorf("%s: %+v", m, s)
		}
	}
}

// Steps, salts, texts and work do not show whether a user exists. Work is counted, not timed.
func TestAttackK66(t *testing.T) {
	users := map[string]Credentials{"known": {Keys: keysOf(t, "pw")},
		"banned": {Keys: keysOf(t, "pw"), Denied: AccountDisabled}}
	for m := Plain; m <= ScramSHA512Plus; m++ {
		type trace struct {
			steps      string
			hmacs      int
			iterations int
			lens       string
		}
		run := func(name, password string) (tr trace) {
			x := NewExchange(config(t, binding))
			c := &Client{Mechanism: m, Username: name, Password: SecretString(password), Binding: binding,
				ServerPlus: true, Rand: rand.Reader}
			text, err := c.Start()
			if err != nil {
				t.Fatal(err)
			}
			s := x.Start(m.String(), text)
			for {
				tr.steps += fmt.Sprint(s.Kind, s.Condition, s.Reason, " ")
				tr.lens += fmt.Sprint(len(s.Data), " ")
				switch s.Kind {
				case NeedUser:
					s = x.UserFound(users[s.User])
				case NeedDerive:
					tr.iterations += s.Work.Iterations()
					s.Work.Run()
					s = x.Derived(s.Work)
				case Challenge:
					if text, err = c.Next(s.Data); err != nil {
						t.Fatal(err)
					}
					s = x.Next(text)
				default:
					tr.hmacs = x.hmacs
					return tr
				}
			}
		}
		for password, forms := range map[string]int{"wrong": 1, "wrong \u2168": 2} {
			want := run("known", password)
			if want.hmacs == 0 || m == Plain && want.iterations != forms*MinIterations {
				t.Errorf("%v: nothing was counted: %+v", m, want)
			}
			for _, name := range []string{"unknown", "other", "banned"} {
				if got := run(name, password); got != want {
					t.Errorf("%v: %s gives %+v, a known user %+v", m, name, got, want)
				}
			}
		}
	}
	// The salt of an unknown name stays, and is another for each name, host and hash.
	salts := map[string]string{}
	first := func(name, host string, m Mechanism, key Secret) string {
		cfg := config(t, ChannelBinding{})
		cfg.Domain, cfg.FakeKey = host, key
		x := NewExchange(cfg)
		s := answer(x, x.Start(m.String(), b64("n,,n="+name+",r=x")), nil)
		_, salt, _ := strings.Cut(plainText(t, s.Data), ",")
		return salt
	}
	for _, c := range []struct {
		name, host string
		m          Mechanism
		key        Secret
	}{{"u", "a.example", ScramSHA1, fakeKey}, {"v", "a.example", ScramSHA1, fakeKey},
		{"u", "b.example", ScramSHA1, fakeKey}, {"u", "a.example", ScramSHA256, fakeKey},
		{"u", "a.example", ScramSHA1, SecretString("other")}} {
		s := first(c.name, c.host, c.m, c.key)
		if s != first(c.name, c.host, c.m, c.key) || s != first(strings.ToUpper(c.name), c.host, c.m, c.key) {
			t.Errorf("%v: the salt changes", c)
		}
		if was, twice := salts[s]; twice {
			t.Errorf("%v and %v have one salt", c, was)
		}
		salts[s] = fmt.Sprint(c)
	}
	// Only the owner of an account learns that it is banned.
	c := &Client{Mechanism: ScramSHA256, Username: "banned", Password: SecretString("pw"), Rand: rand.Reader}
	if _, err := login(c, config(t, ChannelBinding{}), users); err != AccountDisabled {
		t.Error(err)
	}
	c = &Client{Mechanism: Plain, Username: "banned", Password: SecretString("pw")}
	if _, err := login(c, config(t, ChannelBinding{}), users); err != AccountDisabled {
		t.Error(err)
	}
}

// The rounds of a login come from the stored key alone. SCRAM costs the server none, for known and unknown
// users, with the most expensive key; PLAIN costs those of the key.
func TestAttackK75(t *testing.T) {
	dear, err := DecodeKeys(withIterations(keysOf(t, "pw").Encode(), MaxIterations), 0)
	if err != nil {
		t.Fatal(err)
	}
	users := map[string]Credentials{"a": {Keys: keysOf(t, "pw")}, "dear": {Keys: dear}}
	for user, want := range map[string]int{"a": MinIterations, "dear": MaxIterations, "unknown": 12_345} {
		cfg := config(t, ChannelBinding{})
		cfg.Iterations = 12_345
		for _, m := range []Mechanism{ScramSHA1, ScramSHA256, ScramSHA512} {
			x := NewExchange(cfg)
			s := x.Start(m.String(), b64("n,,n="+user+",r=x,z=i=1"))
			if s.Kind != NeedUser {
				t.Fatalf("%v, %s: %+v", m, user, s)
			}
			if s = x.UserFound(users[user]); s.Kind != Challenge {
				t.Fatalf("%v, %s: SCRAM asks for work: %+v", m, user, s)
			}
			text := plainText(t, s.Data) + ","
			if !strings.Contains(text, fmt.Sprintf(",i=%d,", want)) || strings.Count(text, ",i=") != 1 {
				t.Errorf("%v, %s: the challenge is %q, want %d rounds", m, user, text, want)
			}
			nonce, _, _ := strings.Cut(strings.TrimPrefix(text, "r="), ",")
			proof := string(b64(strings.Repeat("p", m.Hash().Size())))
			s = x.Next(b64("c=biws,r=" + nonce + ",z=i=1,p=" + proof))
			if s.Kind != Fail || s.Condition != NotAuthorized {
				t.Errorf("%v, %s: SCRAM's last step is %+v", m, user, s)
			}
		}
		x := NewExchange(cfg)
		x.Start("PLAIN", b64("\x00"+user+"\x00wrong"))
		s := x.UserFound(users[user])
		if s.Kind != NeedDerive || s.Work.Iterations() != want {
			t.Errorf("PLAIN, %s: %+v, want %d rounds", user, s, want)
		}
	}
	// A client that names a number of rounds is refused.
	for _, ext := range []string{",i=1", ",i=4294967295"} {
		x := NewExchange(config(t, ChannelBinding{}))
		if s := x.Start("SCRAM-SHA-256", b64("n,,n=a,r=x"+ext)); s.Kind != Fail || s.Condition != MalformedRequest {
			t.Errorf("%q: %+v", ext, s)
		}
	}
	// A stored number of rounds that no worker should compute is no key.
	for _, n := range []uint32{0, MaxIterations + 1, 1<<32 - 1} {
		if _, err := DecodeKeys(withIterations(keysOf(t, "pw").Encode(), n), 0); err != ErrKeys {
			t.Errorf("%d rounds: %v", n, err)
		}
	}
}

// withIterations returns encoded keys with another number of rounds in each.
func withIterations(b []byte, n uint32) []byte {
	for at := 1; at < len(b); {
		binary.BigEndian.PutUint32(b[at+1:], n)
		at += 6 + int(b[at+5]) + 2*Hash(b[at]).Size()
	}
	return b
}

// Channel binding: by type, by what was offered, by connection.
func TestAttackS08(t *testing.T) {
	users := map[string]Credentials{"a": {Keys: keysOf(t, "pw")}}
	first := func(b ChannelBinding, m Mechanism, flag string) Step {
		x := NewExchange(config(t, b))
		return answer(x, x.Start(m.String(), b64(flag+",,n=a,r=x")), users)
	}
	tls12 := ChannelBinding{EndPoint: []byte("p"), Unique: []byte("u")}
	for _, c := range []struct {
		b    ChannelBinding
		m    Mechanism
		flag string
		ok   bool
		want Condition
	}{
		{binding, ScramSHA256Plus, "p=tls-exporter", true, 0},
		{binding, ScramSHA256Plus, "p=tls-server-end-point", true, 0},
		{binding, ScramSHA256Plus, "p=tls-unique", false, NotAuthorized}, // TLS 1.3
		{tls12, ScramSHA256Plus, "p=tls-unique", true, 0},
		{tls12, ScramSHA256Plus, "p=tls-exporter", false, NotAuthorized},
		{binding, ScramSHA256Plus, "p=tls-unknown", false, NotAuthorized},
		{binding, ScramSHA256Plus, "p=TLS-EXPORTER", false, NotAuthorized},
		{binding, ScramSHA256Plus, "p=", false, MalformedRequest},
		{binding, ScramSHA256Plus, "p", false, MalformedRequest},
		{binding, ScramSHA256Plus, "p=a b", false, MalformedRequest},
		{binding, ScramSHA256Plus, "n", false, MalformedRequest},
		{binding, ScramSHA256Plus, "y", false, MalformedRequest},
		{binding, ScramSHA256, "y", false, NotAuthorized}, // -PLUS was offered, and removed on the way
		{binding, ScramSHA256, "n", true, 0},
		{binding, ScramSHA256, "p=tls-exporter", false, MalformedRequest},
		{ChannelBinding{}, ScramSHA256, "y", true, 0},
		{ChannelBinding{}, ScramSHA256Plus, "p=tls-exporter", false, InvalidMechanism},
	} {
		s := first(c.b, c.m, c.flag)
		if (s.Kind == Challenge) != c.ok || s.Kind == Fail && s.Condition != c.want {
			t.Errorf("%v %s: %+v", c.m, c.flag, s)
		}
	}
	// The binding of another connection.
	mitm := ChannelBinding{Exporter: bytes.Repeat([]byte("E"), 32), EndPoint: binding.EndPoint, TLS13: true}
	c := &Client{Mechanism: ScramSHA256Plus, Username: "a", Password: SecretString("pw"), Binding: mitm,
		ServerPlus: true, Rand: rand.Reader}
	if _, err := login(c, config(t, binding), users); err != NotAuthorized {
		t.Error(err)
	}
	// A client that could bind and saw no -PLUS offer sends "y"; but -PLUS was offered.
	c = &Client{Mechanism: ScramSHA256, Username: "a", Password: SecretString("pw"), Binding: binding,
		ServerPlus: false, Rand: rand.Reader}
	if _, err := login(c, config(t, binding), users); err != NotAuthorized {
		t.Error(err)
	}
	if _, err := login(c2(ChannelBinding{}), config(t, binding), users); err != nil {
		t.Error("a client that can't bind:", err)
	}
	if k := binding.Types(); fmt.Sprint(k) != "[tls-exporter tls-server-end-point]" {
		t.Error(k)
	}
}

func c2(b ChannelBinding) *Client {
	return &Client{Mechanism: ScramSHA256, Username: "a", Password: SecretString("pw"), Binding: b,
		Rand: rand.Reader}
}

// No way of printing shows a secret.
func TestAttackH12(t *testing.T) {
	const word = "hunter2"
	s := SecretString(word)
	type holder struct {
		S    Secret
		P    *Secret
		List []Secret
		Map  map[string]Secret
	}
	h := holder{s, &s, []Secret{s}, map[string]Secret{"k": s}}
	key, _ := keysOf(t, word).For(SHA256)
	var out strings.Builder
	for _, v := range []any{s, &s, h, &h, []any{s}, key, Client{Password: s}, Derivation{password: s},
		Config{FakeKey: s}, Exchange{password: s}, SaltedPassword{Password: s}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%U", "%t", "%08b"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		for _, hd := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(hd).Info("x", "v", v)
		}
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
	}
	got := out.String()
	for _, leak := range []string{word, fmt.Sprintf("%x", word), fmt.Sprintf("%X", word), string(b64(word)),
		fmt.Sprint([]byte(word)), "104 117 110", "0x68, 0x75",
		fmt.Sprintf("%x", key.StoredKey.Reveal()), fmt.Sprint(key.StoredKey.Reveal())} {
		if i := strings.Index(got, leak); i >= 0 {
			t.Errorf("%q is in …%s…", leak, got[max(0, i-60):min(len(got), i+60)])
		}
	}
	if !strings.Contains(got, "***") {
		t.Error("nothing was printed")
	}
	if _, err := json.Marshal(s); err == nil {
		t.Error("json")
	}
	if err := gob.NewEncoder(io.Discard).Encode(s); err == nil {
		t.Error("gob")
	}
	if _, err := s.MarshalText(); err == nil {
		t.Error("text")
	}
	if _, err := s.MarshalBinary(); err == nil {
		t.Error("binary")
	}
	// Nor by what a failed exchange says.
	x := NewExchange(config(t, ChannelBinding{}))
	st := answer(x, x.Start("PLAIN", b64("\x00a\x00"+word)),
		map[string]Credentials{"a": {Keys: keysOf(t, "pw")}})
	if strings.Contains(fmt.Sprintf("%+v %#v", st, x), word) {
		t.Error("the exchange prints the password")
	}
}

// A client refuses a server that does not know the password, or that asks for too much work.
func TestClientChecksServer(t *testing.T) {
	for name, edit := range map[string]func(first string) string{
		"other nonce":           func(f string) string { return "r=other" + f[2:] },
		"no own nonce":          func(f string) string { return "r=nonce," + strings.SplitN(f, ",", 2)[1] },
		"iterations 0":          func(f string) string { return f[:strings.Index(f, ",i=")] + ",i=0" },
		"iterations -":          func(f string) string { return f[:strings.Index(f, ",i=")] + ",i=-1" },
		"many":                  func(f string) string { return f[:strings.Index(f, ",i=")] + ",i=100000000" },
		"plus sign":             func(f string) string { return f[:strings.Index(f, ",i=")] + ",i=+4096" },
		"few":                   func(f string) string { return f[:strings.Index(f, ",i=")] + ",i=1" },
		"no salt":               func(f string) string { return strings.SplitN(f, ",", 2)[0] + ",s=,i=4096" },
		"mandatory":             func(f string) string { return "m=x," + f },
		"mandatory, at the end": func(f string) string { return f + ",x=1,m=x" },
		"empty":                 func(f string) string { return "" },
	} {
		c := &Client{Mechanism: ScramSHA1, Username: "a", Password: SecretString("pw"), nonce: "nonce",
			MinIterations: 4096}
		c.Start()
		if _, err := c.Next(b64(edit("r=nonceserver,s=c2FsdA==,i=4096"))); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	for _, v := range []string{"", "v=", "v=AAAA", "e=other-error", "v=" +
		string(b64(strings.Repeat("\x00", 20)))} {
		c := &Client{Mechanism: ScramSHA1, Username: "a", Password: SecretString("pw"), nonce: "nonce"}
		c.Start()
		if _, err := c.Next(b64("r=nonceserver,s=c2FsdA==,i=4096")); err != nil {
			t.Fatal(err)
		}
		if err := c.Success(b64(v)); err == nil {
			t.Errorf("%q was taken", v)
		}
	}
	c := &Client{Mechanism: ScramSHA1, Username: "a", Password: SecretString("pw"), Rand: rand.Reader}
	c.Start()
	if err := c.Success(nil); err == nil {
		t.Error("success before the proof")
	}
	for c := Aborted; c <= TemporaryAuthFailure; c++ {
		if ParseCondition(c.String()) != c {
			t.Error(c)
		}
	}
}

func FuzzServer(f *testing.F) {
	f.Add("PLAIN", []byte("AGEAcHc="), []byte(""))
	f.Add("SCRAM-SHA-256", b64("n,,n=a,r=x"), b64("c=biws,r=x,p=AAAA"))
	f.Add("SCRAM-SHA-1-PLUS", b64("p=tls-exporter,a=a,n=a,r=x"), b64("c=,r=,p="))
	f.Add("SCRAM-SHA-512", []byte("="), []byte("===="))
	users := map[string]Credentials{"a": {Keys: keysOf(f, "pw")}}
	cfg := config(f, binding)
	f.Fuzz(func(t *testing.T, mech string, first, second []byte) {
		x := NewExchange(cfg)
		s := answer(x, x.Start(mech, first), users)
		if s.Kind == Challenge {
			s = answer(x, x.Next(second), users)
		}
		m, _ := ParseMechanism(mech)
		if s.Kind == Done && m != Plain {
			t.Fatal("logged in without a password")
		}
		if s.Kind == Done && s.User != "a" {
			t.Fatal(s.User)
		}
		if s.Kind == Fail && (s.Condition == NoCondition || s.Reason == "") {
			t.Fatalf("%+v", s)
		}
	})
}

func FuzzClient(f *testing.F) {
	f.Add(b64("r=nonceserver,s=c2FsdA==,i=1"), b64("v=AAAA"))
	f.Add(b64("r=nonce,s=,i="), []byte("="))
	f.Fuzz(func(t *testing.T, challenge, success []byte) {
		c := &Client{Mechanism: ScramSHA1, Username: "a", Password: SecretString("pw"), nonce: "nonce",
			MaxIterations: 10}
		c.Start()
		if _, err := c.Next(challenge); err == nil {
			if c.Success(success) == nil {
				t.Fatal("a server without the password was believed")
			}
		}
	})
}

// A password with two forms is compared twice. A server that has no time for the second derivation has
// compared the first, and the client that hears temporary-auth-failure knows that it was wrong: that is a
// guess, where the same condition before any comparison is none (RFC 6120 section 6.5.11).
func TestAttackGuessOnBusyServer(t *testing.T) {
	users := map[string]Credentials{"a": {Keys: keysOf(t, "pw")}}
	for _, c := range []struct {
		name, password string
		derivations    int
		guessed        bool
	}{
		{"before any derivation", "\ufb01sh", 0, false},
		{"before the second", "\ufb01sh", 1, true},
		{"right form, before its derivation", "pw", 0, false},
	} {
		x := NewExchange(config(t, binding))
		s := x.Start("PLAIN", b64("\x00a\x00"+c.password))
		if s.Kind != NeedUser {
			t.Fatalf("%s: %+v", c.name, s)
		}
		s = x.UserFound(users[s.User])
		for range c.derivations {
			s.Work.Run()
			s = x.Derived(s.Work)
		}
		if s.Kind != NeedDerive {
			t.Fatalf("%s: %+v", c.name, s)
		}
		if s = x.Fail(TemporaryAuthFailure); s.Kind != Fail || s.WrongPassword != c.guessed {
			t.Errorf("%s: %+v", c.name, s)
		}
	}
	// Wrong passwords are guesses by either mechanism; right ones of an account that may not log in are none.
	for _, m := range []Mechanism{Plain, ScramSHA256} {
		for pw, guessed := range map[string]bool{"pw": false, "wrong": true} {
			x := NewExchange(config(t, binding))
			cl := &Client{Mechanism: m, Username: "a", Password: SecretString(pw), Rand: rand.Reader}
			text, err := cl.Start()
			if err != nil {
				t.Fatal(err)
			}
			denied := map[string]Credentials{"a": {Keys: keysOf(t, "pw"), Denied: AccountDisabled}}
			s := answer(x, x.Start(m.String(), text), denied)
			if s.Kind == Challenge {
				if text, err = cl.Next(s.Data); err != nil {
					t.Fatal(err)
				}
				s = answer(x, x.Next(text), denied)
			}
			if s.Kind != Fail || s.WrongPassword != guessed || guessed == (s.Condition == AccountDisabled) {
				t.Errorf("%v with %q: %+v", m, pw, s)
			}
		}
	}
}
