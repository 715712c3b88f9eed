package sasl

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

const domain = "example.org"

// keysOf derives keys once for each password: 4,096 rounds, three hashes.
func keysOf(t testing.TB, password string) Keys {
	t.Helper()
	if k, ok := derived[password]; ok {
		return k
	}
	k, err := DeriveKeys([]byte(password), MinIterations, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	derived[password] = k
	return k
}

var derived = map[string]Keys{}

var fakeKey = SecretString("a key for unknown salts, 32 byte")

func offer(t testing.TB, names ...string) MechanismSet {
	t.Helper()
	o, err := NewMechanismSet(names...)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func config(t testing.TB, b ChannelBinding) *Config {
	all := offer(t, "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN")
	return &Config{Offer: all.ForStream(true, b, false), Binding: b, Domain: domain, Secure: true,
		FakeKey:    fakeKey,
		Iterations: MinIterations, Rand: rand.Reader}
}

var binding = ChannelBinding{Exporter: bytes.Repeat([]byte("e"), 32), EndPoint: bytes.Repeat([]byte("p"), 32),
	Unique: []byte("finished"), TLS13: true}

// answer is the caller of an exchange: it has users in a map, and runs work at once.
func answer(x *Exchange, s Step, users map[string]Credentials) Step {
	for {
		switch s.Kind {
		case NeedUser:
			s = x.UserFound(users[s.User])
		case NeedDerive:
			s.Work.Run()
			s = x.Derived(s.Work)
		default:
			return s
		}
	}
}

// login runs both sides to the end.
func login(c *Client, cfg *Config, users map[string]Credentials) (Step, error) {
	x := NewExchange(cfg)
	text, err := c.Start()
	if err != nil {
		return Step{}, err
	}
	s := answer(x, x.Start(c.Mechanism.String(), text), users)
	for s.Kind == Challenge {
		if text, err = c.Next(s.Data); err != nil {
			return s, err
		}
		s = answer(x, x.Next(text), users)
	}
	if s.Kind == Fail {
		return s, s.Condition
	}
	return s, c.Success(s.Data)
}

func TestLogin(t *testing.T) {
	for _, password := range []string{"pencil", "p\u00e4ss w\u00f6rd", "a,b=c"} {
		users := map[string]Credentials{"juliet": {Keys: keysOf(t, password)}, "a,=b": {Keys: keysOf(t, password)}}
		config(t, binding).Offer.Each(func(m Mechanism) {
			for _, name := range []string{"juliet", "JULIET", "a,=b"} {
				for _, zid := range []string{"", strings.ToLower(name) + "@example.org"} {
					for _, kind := range []string{"", "tls-server-end-point"} {
						c := &Client{Mechanism: m, Username: name, Authzid: zid, Password: SecretString(password),
							Binding: binding, BindingType: kind, ServerPlus: true, Rand: rand.Reader}
						s, err := login(c, config(t, binding), users)
						if err != nil || s.Kind != Done || s.User != strings.ToLower(name) {
							t.Errorf("%v %q %q: %+v, %v", m, name, zid, s, err)
						}
						c2 := &Client{Mechanism: m, Username: name, Password: SecretString(password + "x"), Binding: binding,
							ServerPlus: true, Rand: rand.Reader}
						if _, err := login(c2, config(t, binding), users); err != NotAuthorized {
							t.Errorf("%v with a wrong password: %v", m, err)
						}
						c3 := &Client{Mechanism: m, Username: "absent", Password: SecretString(password), Binding: binding,
							ServerPlus: true, Rand: rand.Reader}
						if _, err := login(c3, config(t, binding), users); err != NotAuthorized {
							t.Errorf("%v without a user: %v", m, err)
						}
						if kind != "" && !m.Plus() {
							return
						}
					}
				}
			}
		})
	}
}

// A client that keeps Salted derives once, and needs no password.
func TestSaltedIsEnough(t *testing.T) {
	users := map[string]Credentials{"juliet": {Keys: keysOf(t, "pencil")}}
	c := &Client{Mechanism: ScramSHA256, Username: "juliet", Password: SecretString("pencil"), Rand: rand.Reader}
	if _, err := login(c, config(t, ChannelBinding{}), users); err != nil {
		t.Fatal(err)
	}
	c = &Client{Mechanism: ScramSHA256, Username: "juliet", Salted: c.Salted, Rand: rand.Reader}
	if _, err := login(c, config(t, ChannelBinding{}), users); err != nil {
		t.Error(err)
	}
}

// The exchanges printed in RFC 5802 section 5 and RFC 7677 section 3.
func TestVectors(t *testing.T) {
	for _, c := range []struct {
		mech                       Mechanism
		salt, clientNonce          string
		serverNonce                string
		first, sFirst, final, sFin string
	}{
		{ScramSHA1, "QSXCR+Q6sek8bf92", "fyko+d2lbbFgONRv9qkxdawL", "3rfcNHYJY1ZVvWVs7j",
			"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
			"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
			"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
			"v=rmF9pqV8S7suAoZWja4dJRkFsKQ="},
		{ScramSHA256, "W22ZaJ0SNY7soEsUEjb6gQ==", "rOprNGfwEbeRWgbNEkqO", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
			"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
			"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
			"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0," +
				"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
			"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="},
	} {
		salt, err := base64.StdEncoding.DecodeString(c.salt)
		if err != nil {
			t.Fatal(err)
		}
		salted, err := saltPassword(c.mech.Hash(), SecretString("pencil"), salt, 4096)
		if err != nil {
			t.Fatal(err)
		}
		users := map[string]Credentials{"user": {Keys: Keys{salted.key(nil)}}}
		client := &Client{Mechanism: c.mech, Username: "user", Password: SecretString("pencil"),
			nonce: c.clientNonce}
		x := NewExchange(config(t, ChannelBinding{}))
		text, err := client.Start()
		if err != nil || plainText(t, text) != c.first {
			t.Fatalf("client-first %s, %v", plainText(t, text), err)
		}
		s := x.Start(c.mech.String(), text)
		x.nonce = c.clientNonce + c.serverNonce // the vector's randomness is not base64
		x.cfg = &Config{Rand: bytes.NewReader(nil), FakeKey: fakeKey}
		s = foundWithNonce(x, users["user"], c.serverNonce, c.clientNonce)
		if plainText(t, s.Data) != c.sFirst {
			t.Fatalf("server-first %s", plainText(t, s.Data))
		}
		text, err = client.Next(s.Data)
		if err != nil || plainText(t, text) != c.final {
			t.Fatalf("client-final %s, %v", plainText(t, text), err)
		}
		s = x.Next(text)
		if s.Kind != Done || plainText(t, s.Data) != c.sFin {
			t.Fatalf("server-final %v %s %v", s.Kind, plainText(t, s.Data), s.Reason)
		}
		if err := client.Success(s.Data); err != nil {
			t.Error(err)
		}
	}
}

// foundWithNonce is UserFound with a server nonce that is given.
func foundWithNonce(x *Exchange, a Credentials, server, client string) Step {
	x.nonce = client
	x.cfg = &Config{Rand: bytes.NewReader(make([]byte, nonceBytes)), FakeKey: fakeKey}
	x.UserFound(a)
	x.nonce = client + server
	x.serverFirst = "r=" + x.nonce + x.serverFirst[strings.Index(x.serverFirst, ",s="):]
	return Step{Kind: Challenge, Data: encodeText(x.serverFirst)}
}

func plainText(t testing.TB, text []byte) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return string(b)
}

func TestOffer(t *testing.T) {
	all := offer(t, "PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512")
	for _, c := range []struct {
		o    MechanismSet
		want string
	}{
		{all.ForStream(true, binding, false), "SCRAM-SHA-512-PLUS SCRAM-SHA-256-PLUS SCRAM-SHA-1-PLUS " +
			"SCRAM-SHA-512 SCRAM-SHA-256 SCRAM-SHA-1 PLAIN"},
		{all.ForStream(true, ChannelBinding{}, false), "SCRAM-SHA-512 SCRAM-SHA-256 SCRAM-SHA-1 PLAIN"},
		{all.ForStream(true, ChannelBinding{Unique: []byte("x"), TLS13: true}, false),
			"SCRAM-SHA-512 SCRAM-SHA-256 SCRAM-SHA-1 PLAIN"},
		{all.ForStream(false, binding, false), "SCRAM-SHA-512 SCRAM-SHA-256 SCRAM-SHA-1"},
		{all.ForStream(false, ChannelBinding{}, true), "SCRAM-SHA-512 SCRAM-SHA-256 SCRAM-SHA-1 PLAIN"},
		{offer(t, "PLAIN").ForStream(false, ChannelBinding{}, false), ""},
		{offer(t, "SCRAM-SHA-256").ForStream(true, binding, false), "SCRAM-SHA-256-PLUS SCRAM-SHA-256"},
	} {
		var got []string
		c.o.Each(func(m Mechanism) {
			got = append(got, m.String())
			if back, ok := ParseMechanism(m.String()); !ok || back != m {
				t.Errorf("%v is not parsed", m)
			}
		})
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v, want %v", got, c.want)
		}
	}
	for _, bad := range [][]string{{}, {"plain"}, {"SCRAM-SHA-256", "X"}, {"EXTERNAL"}, {""}} {
		if _, err := NewMechanismSet(bad...); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestKeysEncoding(t *testing.T) {
	k := keysOf(t, "pencil")
	enc := k.Encode()
	back, err := DecodeKeys(enc, 0)
	if err != nil || len(back) != 3 || !bytes.Equal(back.Encode(), enc) {
		t.Fatal(back, err)
	}
	for _, h := range Hashes {
		one, err := DecodeKeys(enc, h)
		want, _ := back.For(h)
		if err != nil || len(one) != 1 || !bytes.Equal(one.Encode(), Keys{want}.Encode()) {
			t.Errorf("of %v alone: %v, %v", h, one, err)
		}
	}
	if one, err := DecodeKeys([]byte{keysVersion}, 0); err != nil || len(one) != 0 {
		t.Error("no keys", err)
	}
	for i := 1; i < len(enc); i++ {
		if k, err := DecodeKeys(enc[:i], 0); err == nil && len(k.Encode()) != i {
			t.Errorf("%d of %d bytes were taken", i, len(enc))
		}
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "newer": append([]byte{2}, enc[1:]...), "twice": append(enc, enc[1:]...),
		"hash":       {1, 9, 0, 0, 16, 0, 1, 1},
		"iterations": {1, 1, 255, 255, 255, 255, 1, 1}, "no salt": append([]byte{1, 1, 0, 0, 16, 0, 0},
			make([]byte, 40)...),
	} {
		for _, only := range []Hash{0, SHA1, SHA512} {
			if _, err := DecodeKeys(b, only); !errors.Is(err, ErrKeys) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for _, n := range []int{1, MinIterations - 1, MaxIterations + 1, -1} {
		if _, err := DeriveKeys([]byte("x"), n, rand.Reader); err == nil {
			t.Errorf("%d iterations", n)
		}
	}
	if _, err := DeriveKeys([]byte("x"), 0, bytes.NewReader(nil)); err == nil {
		t.Error("keys without randomness")
	}
	for _, p := range []string{"", "\x00", "a\nb", "\x7f", "\xff", strings.Repeat("x", 1024), "\u0378"} {
		if _, err := PreparePassword([]byte(p)); !errors.Is(err, ErrPassword) {
			t.Errorf("password %q: %v", p, err)
		}
	}
	if p, err := PreparePassword([]byte("a\u00a0e\u0301")); err != nil || string(p.Reveal()) != "a \u00e9" {
		t.Errorf("%q %v", p.Reveal(), err)
	}
}

func FuzzDecodeKeys(f *testing.F) {
	f.Add(keysOf(f, "pencil").Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := DecodeKeys(b, 0); err == nil && !bytes.Equal(k.Encode(), b) {
			t.Error("read and written differ")
		}
	})
}

// The cost of the server's side of a login with SCRAM-SHA-1, without the client's.
func BenchmarkExchange(b *testing.B) {
	enc := keysOf(b, "pencil").Encode()
	pw, cfg := SecretString("pencil"), config(b, ChannelBinding{})
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		c := &Client{Mechanism: ScramSHA1, Username: "user", Password: pw, Rand: rand.Reader}
		text, err := c.Start()
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		x := NewExchange(cfg)
		x.Start("SCRAM-SHA-1", text)
		keys, err := DecodeKeys(enc, x.Hash())
		if err != nil {
			b.Fatal(err)
		}
		s := x.UserFound(Credentials{Keys: keys})
		b.StopTimer()
		if text, err = c.Next(s.Data); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if s = x.Next(text); s.Kind != Done {
			b.Fatal(s.Reason)
		}
	}
}

// A list that names no -PLUS form brings those of its SCRAM mechanisms; one that names a -PLUS form is
// complete.
func TestNewOffer(t *testing.T) {
	for list, want := range map[string]string{
		"PLAIN":                            "PLAIN",
		"PLAIN SCRAM-SHA-1":                "SCRAM-SHA-1-PLUS SCRAM-SHA-1 PLAIN",
		"SCRAM-SHA-512 SCRAM-SHA-256":      "SCRAM-SHA-512-PLUS SCRAM-SHA-256-PLUS SCRAM-SHA-512 SCRAM-SHA-256",
		"SCRAM-SHA-256-PLUS SCRAM-SHA-256": "SCRAM-SHA-256-PLUS SCRAM-SHA-256",
		"SCRAM-SHA-256 SCRAM-SHA-1-PLUS":   "SCRAM-SHA-1-PLUS SCRAM-SHA-256",
		"SCRAM-SHA-512-PLUS":               "SCRAM-SHA-512-PLUS",
		"PLAIN PLAIN SCRAM-SHA-1-PLUS":     "SCRAM-SHA-1-PLUS PLAIN",
	} {
		o, err := NewMechanismSet(strings.Fields(list)...)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		o.Each(func(m Mechanism) { got = append(got, m.String()) })
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", list, got, want)
		}
	}
}

// RFC 4013 section 3 gives the first seven; the others are one for each step, and what is left to
// OpaqueString.
func TestSASLprep(t *testing.T) {
	for _, c := range []struct {
		in, want string
		ok       bool
	}{
		{"I\u00adX", "IX", true},
		{"user", "user", true},
		{"USER", "USER", true},
		{"\u00aa", "a", true},
		{"\u2168", "IX", true},
		{"\u0007", "", false},
		{"\u0627\u0031", "", false},
		{"a\u00a0b\u3000c\u2003d", "a b c d", true},
		{"\u200b\ufe0f\u2060", "", false},
		{"\ufb01 \uff21 x\u00b2 \u212b", "fi A x2 \u00c5", true},
		{"\u2764\ufe0f", "\u2764", true},
		{"\U0001f468\u200d\U0001f469", "\U0001f468\U0001f469", true},
		{"\u0627a\u0628", "", false},
		{"\u0627 1\u0628", "\u0627 1\u0628", true},
		{"x\u200ey", "", false},
		{"x\ue000y", "", false},
		{"x\U0002ffffy", "", false},
		{"x\u0085y", "", false},
		{"x\u0378y", "", false},
	} {
		got, ok := saslPrep([]byte(c.in))
		if ok != c.ok || ok && string(got) != c.want {
			t.Errorf("%+q: %+q, %v, want %+q", c.in, got, ok, c.want)
		}
		if ok {
			if again, ok := saslPrep(got); !ok || string(again) != string(got) {
				t.Errorf("%+q: prepared again it is %+q", got, again)
			}
		}
	}
	// What SASLprep refuses and OpaqueString allows is a password all the same; what both refuse is none.
	if p, err := PreparePassword([]byte("\u0627a\u0628")); err != nil || string(p.Reveal()) != "\u0627a\u0628" {
		t.Errorf("%+q %v", p.Reveal(), err)
	}
	if _, err := PreparePassword([]byte("x\U000e0041y")); !errors.Is(err, ErrPassword) {
		t.Error(err)
	}
}

func FuzzSASLprep(f *testing.F) {
	f.Add([]byte("\u2168\u00ad\u0627"))
	f.Fuzz(func(t *testing.T, b []byte) {
		now, before, err := passwordForms(b)
		if err != nil {
			return
		}
		if now.Len() == 0 || before.Equal(now) {
			t.Fatalf("%+q: forms %+q and %+q", b, now.Reveal(), before.Reveal())
		}
		if p, ok := saslPrep(b); ok && string(p) != string(now.Reveal()) {
			t.Fatalf("%+q: %+q, SASLprep gives %+q", b, now.Reveal(), p)
		}
	})
}

// XEP-0474 section 5.2, the example: the text of an offer, and its hash with SHA-1.
func TestAdvertised(t *testing.T) {
	s := Advertised([]string{"SCRAM-SHA-1-PLUS", "SCRAM-SHA-1"},
		[]string{"tls-server-end-point", "tls-exporter"})
	if s != "SCRAM-SHA-1\x1eSCRAM-SHA-1-PLUS\x1ftls-exporter\x1etls-server-end-point" {
		t.Errorf("%q", s)
	}
	if h := advertisedHash(SHA1, s); h != "G6k/rBLDqgOhRRaCuuatSDFkJ08=" {
		t.Error(h)
	}
	if s := Advertised([]string{"PLAIN"}, nil); s != "PLAIN" {
		t.Errorf("without bindings: %q", s)
	}
}

// K74: a client that was shown another offer than the server has made finds that out, whichever part of it
// was changed, and whatever the hash function is.
func TestAttackK74Downgrade(t *testing.T) {
	keys, err := DeriveKeys([]byte("pencil"), MinIterations, bytes.NewReader(make([]byte, 999)), Hashes...)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"SCRAM-SHA-512", "SCRAM-SHA-256", "SCRAM-SHA-1", "SCRAM-SHA-512-PLUS",
		"SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS"}
	kinds := []string{"tls-exporter", "tls-server-end-point"}
	offer, _ := NewMechanismSet(names...)
	for _, m := range []Mechanism{ScramSHA1, ScramSHA256, ScramSHA512} {
		for seen, want := range map[string]error{
			Advertised(names, kinds):                    nil,
			"":                                          nil, // a client that does not look
			Advertised(names[:3], nil):                  ErrDowngrade,
			Advertised(names[1:], kinds):                ErrDowngrade,
			Advertised(names, kinds[1:]):                ErrDowngrade,
			Advertised(names, nil):                      ErrDowngrade,
			Advertised(append(names, "PLAIN"), kinds):   ErrDowngrade,
			Advertised(names, append(kinds, "tls-new")): ErrDowngrade,
		} {
			x := NewExchange(&Config{Offer: offer, Domain: "localhost", Secure: true, FakeKey: fakeKey,
				Rand: bytes.NewReader(make([]byte, 99)), Advertised: Advertised(names, kinds)})
			c := &Client{Mechanism: m, Username: "user", Password: SecretString("pencil"),
				Rand: bytes.NewReader(make([]byte, 99)), Advertised: seen}
			first, err := c.Start()
			if err != nil {
				t.Fatal(err)
			}
			x.Start(m.String(), first)
			final, err := c.Next(x.UserFound(Credentials{Keys: keys}).Data)
			if !errors.Is(err, want) || want != nil && final != nil {
				t.Errorf("%v, %q: %v", m, seen, err)
			}
			if want == nil && x.Next(final).Kind != Done {
				t.Errorf("%v, %q: the login fails", m, seen)
			}
		}
	}
}

// XEP-0480: an upgrade makes the key that the password has.
func TestUpgrade(t *testing.T) {
	for _, h := range Upgrades {
		name := UpgradeName(h)
		if got, ok := ParseUpgrade(name); !ok || got != h {
			t.Errorf("%s: %v %v", name, got, ok)
		}
		u, err := NewUpgrade(h, bytes.NewReader(bytes.Repeat([]byte{7}, 99)))
		if err != nil {
			t.Fatal(err)
		}
		salted, err := saltPassword(h, SecretString("pencil"), u.Salt, u.Iterations)
		if err != nil {
			t.Fatal(err)
		}
		k, err := u.Key([]byte(base64.StdEncoding.EncodeToString(salted.Password.Reveal())))
		if want := salted.key(nil); err != nil || !k.StoredKey.Equal(want.StoredKey) ||
			!k.ServerKey.Equal(want.ServerKey) || k.Iterations != DefaultIterations || k.Hash != h {
			t.Errorf("%s: %+v %v", name, k, err)
		}
		for _, bad := range []string{"", "=", "AA==", "!", strings.Repeat("A", 200)} {
			if _, err := u.Key([]byte(bad)); err != ErrUpgrade {
				t.Errorf("%s, %q: %v", name, bad, err)
			}
		}
	}
	for _, bad := range []string{"", "UPGR-", "SCRAM-SHA-256", "UPGR-SCRAM-SHA-1", "UPGR-SCRAM-SHA-256-PLUS",
		"UPGR-PLAIN", "UPGR-SCRAM-SHA-384"} {
		if _, ok := ParseUpgrade(bad); ok {
			t.Errorf("%q is an upgrade", bad)
		}
	}
}

// What a client sends with a token never makes ParseTokenMessage panic, and is read as it was written.
func FuzzTokenMessage(f *testing.F) {
	for _, s := range []string{"", "=", "AA==", "cm9tZW8A", "!"} {
		f.Add([]byte(s))
	}
	f.Add(AppendTokenMessage("romeo", TokenNone.InitiatorMAC(SecretString("x"), ChannelBinding{})))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, c := ParseTokenMessage(text)
		if c == NoCondition && string(AppendTokenMessage(m.User, m.Proof)) != string(text) {
			t.Errorf("%q is read as %q", text, m.User)
		}
	})
}

// A token is proved by the mechanism and the binding that it is for, and no other.
func TestTokenMechanisms(t *testing.T) {
	b := ChannelBinding{Exporter: []byte("e"), EndPoint: []byte("p"), Unique: []byte("u")}
	if got := TokenMechanisms(b); len(got) != 4 || got[0] != TokenExporter || got[3] != TokenNone {
		t.Errorf("in TLS 1.2: %v", got)
	}
	b13 := b
	b13.TLS13 = true
	if got := TokenMechanisms(b13); len(got) != 3 {
		t.Errorf("in TLS 1.3: %v", got)
	}
	if got := TokenMechanisms(ChannelBinding{}); len(got) != 1 || got[0] != TokenNone {
		t.Errorf("without TLS: %v", got)
	}
	token := SecretString("token")
	seen := map[string]bool{}
	for _, m := range TokenMechanisms(b) {
		if back, ok := ParseTokenMechanism(m.String()); !ok || back != m {
			t.Errorf("%v is read as %v", m, back)
		}
		seen[string(m.InitiatorMAC(token, b).Reveal())] = true
		seen[string(m.ResponderMAC(token, b))] = true
	}
	if len(seen) != 8 {
		t.Errorf("%d different proofs of 8", len(seen))
	}
	if TokenUnique.OfferedBy(b13) || NoToken.OfferedBy(b) || TokenMechanism(9).OfferedBy(b) {
		t.Error("a mechanism without its binding is offered")
	}
}
