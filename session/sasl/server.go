package sasl

import (
	"bytes"
	"encoding/base64"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Channel is what the stream is bound to; the zero Channel is no TLS.
type Channel struct {
	// Data is the channel binding data of a type, false if the connection has none: "tls-exporter"
	// (RFC 9266), "tls-server-end-point" (RFC 5929).
	Data func(typ string) ([]byte, bool)
}

// An Offer is the mechanisms of one stream: what is offered and what is accepted are one value
// (attack S04).
type Offer struct {
	Mechanisms []string
	Channel    Channel
	// Nonce is 18 or more random bytes, printable.
	Nonce func() string
	// Own reports whether an authzid names the authenticated user himself (attack S02).
	Own func(authzid, user string) bool
}

// Has reports whether mechanism is offered.
func (o *Offer) Has(mechanism string) bool {
	for _, m := range o.Mechanisms {
		if m == mechanism {
			return true
		}
	}
	return false
}

// plus reports whether any offered mechanism binds to a channel.
func (o *Offer) plus() bool {
	for _, m := range o.Mechanisms {
		if strings.HasSuffix(m, "-PLUS") {
			return true
		}
	}
	return false
}

// A Step is what a server does next; exactly one of its parts is set.
type Step struct {
	Challenge []byte // send it, and go on with Next
	// User: look him up, and go on with Credentials.
	User string
	// Derive: make the SaltedPassword of Password with Keys on a worker, and go on with Derived.
	Derive *Derivation
	// Done: User is authenticated; Final goes with the success.
	Done  bool
	Final []byte
	Fail  Condition
}

// A Derivation is slow work.
type Derivation struct {
	Keys     Keys
	Password Secret
}

// Run does it.
func (d *Derivation) Run() Secret {
	return Salted(d.Keys.Hash, string(d.Password), d.Keys.Salt, d.Keys.Iterations)
}

// maxMessage bounds what a client may send in one step.
const maxMessage = 8 << 10

// An Exchange is one authentication, server side. Not safe for two goroutines.
type Exchange struct {
	offer    *Offer
	hash     Hash // 0: PLAIN
	plus     bool
	user     string
	authzid  string
	gs2      string // the client's header, as it was sent
	binding  []byte
	bare     string // client-first-message-bare
	nonce    string
	first    string // server-first-message
	keys     Keys
	password Secret
	known    bool
	state    int
	unusable bool // it will fail whatever comes
}

const (
	wantFirst = iota
	wantKeys
	wantFinal
	wantDerived
	over
)

// Begin starts an exchange; a mechanism that is not offered is refused.
func (o *Offer) Begin(mechanism string) (*Exchange, Condition) {
	if !o.Has(mechanism) {
		return nil, InvalidMechanism
	}
	x := &Exchange{offer: o}
	if mechanism != Plain {
		x.hash, x.plus, _ = hashOf(mechanism)
	}
	return x, ""
}

// User is whom the exchange is about, as the client wrote it; a claim until Done.
func (x *Exchange) User() string { return x.user }

func (x *Exchange) fail(c Condition) Step {
	x.state, x.password = over, nil
	return Step{Fail: c}
}

// Next takes what the client said, decoded.
func (x *Exchange) Next(msg []byte) Step {
	if len(msg) > maxMessage || !utf8.Valid(msg) {
		return x.fail(MalformedRequest)
	}
	switch {
	case x.state == wantFirst && x.hash == 0:
		return x.plain(msg)
	case x.state == wantFirst:
		return x.clientFirst(string(msg))
	case x.state == wantFinal:
		return x.clientFinal(string(msg))
	}
	return x.fail(MalformedRequest)
}

// plain is RFC 4616: authzid NUL authcid NUL password.
func (x *Exchange) plain(msg []byte) Step {
	p := bytes.Split(msg, []byte{0})
	if len(p) != 3 || len(p[1]) == 0 || len(p[2]) == 0 {
		return x.fail(MalformedRequest)
	}
	x.authzid, x.user = string(p[0]), string(p[1])
	password, err := Prepare(string(p[2]))
	if err != nil {
		password, x.unusable = "-", true // the same steps, and a failure at the end
	}
	x.password = Secret(password)
	x.state = wantKeys
	return Step{User: x.user}
}

// clientFirst is RFC 5802 §7: gs2-header client-first-message-bare.
func (x *Exchange) clientFirst(msg string) Step {
	flag, rest, ok := strings.Cut(msg, ",")
	if !ok {
		return x.fail(MalformedRequest)
	}
	switch {
	case flag == "n":
		if x.plus {
			return x.fail(MalformedRequest)
		}
	case flag == "y":
		// The client could bind and thinks that we can't: somebody took -PLUS out of the offer.
		if x.plus || x.offer.plus() {
			return x.fail(NotAuthorized)
		}
	case strings.HasPrefix(flag, "p="):
		if !x.plus || x.offer.Channel.Data == nil {
			return x.fail(MalformedRequest)
		}
		if x.binding, ok = x.offer.Channel.Data(flag[2:]); !ok {
			return x.fail(NotAuthorized)
		}
	default:
		return x.fail(MalformedRequest)
	}
	authzid, bare, ok := strings.Cut(rest, ",")
	if !ok {
		return x.fail(MalformedRequest)
	}
	if authzid != "" {
		a, ok := strings.CutPrefix(authzid, "a=")
		if !ok {
			return x.fail(MalformedRequest)
		}
		if x.authzid, ok = saslName(a); !ok || x.authzid == "" {
			return x.fail(MalformedRequest)
		}
	}
	x.gs2 = msg[:len(msg)-len(bare)]
	x.bare = bare
	fields := strings.Split(bare, ",")
	if len(fields) < 2 {
		return x.fail(MalformedRequest)
	}
	name, ok := strings.CutPrefix(fields[0], "n=") // m= is a mandatory extension, and we know none
	if !ok {
		return x.fail(MalformedRequest)
	}
	if x.user, ok = saslName(name); !ok || x.user == "" {
		return x.fail(MalformedRequest)
	}
	cnonce, ok := strings.CutPrefix(fields[1], "r=")
	if !ok || cnonce == "" || !printable(cnonce) {
		return x.fail(MalformedRequest)
	}
	for _, f := range fields[2:] {
		if len(f) < 2 || f[1] != '=' {
			return x.fail(MalformedRequest)
		}
	}
	x.nonce = cnonce + x.offer.Nonce()
	x.state = wantKeys
	return Step{User: x.user}
}

// Credentials goes on with what the store has of User: known is false, and keys those of [Fake], for
// a user who is not there, or may not log in. keys are of the exchange's hash, or, for PLAIN, any.
func (x *Exchange) Credentials(keys Keys, known bool) Step {
	if x.state != wantKeys {
		return x.fail(MalformedRequest)
	}
	x.keys, x.known = keys, known
	if x.hash == 0 {
		x.state = wantDerived
		return Step{Derive: &Derivation{keys, x.password}}
	}
	x.first = "r=" + x.nonce + ",s=" + base64.StdEncoding.EncodeToString(keys.Salt) + ",i=" + strconv.Itoa(keys.Iterations)
	x.state = wantFinal
	return Step{Challenge: []byte(x.first)}
}

// Hash is that of the keys that Credentials wants; 0: any.
func (x *Exchange) Hash() Hash { return x.hash }

// Derived goes on with the result of a Derivation.
func (x *Exchange) Derived(salted Secret) Step {
	if x.state != wantDerived {
		return x.fail(MalformedRequest)
	}
	got := FromSalted(x.keys.Hash, salted, nil, 0)
	ok := got.Stored.Equal(x.keys.Stored)
	if !ok || !x.known || x.unusable {
		return x.fail(NotAuthorized)
	}
	return x.success(nil)
}

// clientFinal checks the proof.
func (x *Exchange) clientFinal(msg string) Step {
	i := strings.LastIndex(msg, ",p=")
	if i < 0 {
		return x.fail(MalformedRequest)
	}
	without, proof64 := msg[:i], msg[i+3:]
	fields := strings.Split(without, ",")
	c, ok := strings.CutPrefix(fields[0], "c=")
	if !ok || len(fields) < 2 {
		return x.fail(MalformedRequest)
	}
	r, ok := strings.CutPrefix(fields[1], "r=")
	if !ok {
		return x.fail(MalformedRequest)
	}
	for _, f := range fields[2:] {
		if len(f) < 2 || f[1] != '=' || f[0] == 'm' {
			return x.fail(MalformedRequest)
		}
	}
	header, okc := decode64([]byte(c))
	proof, okp := decode64([]byte(proof64))
	if !okc || !okp {
		return x.fail(IncorrectEncoding)
	}
	want := append([]byte(x.gs2), x.binding...)
	good := Secret(header).Equal(want)
	good = Secret(r).Equal(Secret(x.nonce)) && good
	auth := []byte(x.bare + "," + x.first + "," + without)
	signature := mac(x.hash, x.keys.Stored, auth)
	if len(proof) != len(signature) {
		return x.fail(NotAuthorized)
	}
	key := make([]byte, len(proof))
	for i := range proof {
		key[i] = proof[i] ^ signature[i]
	}
	sum := x.hash.new()()
	sum.Write(key)
	good = Secret(sum.Sum(nil)).Equal(x.keys.Stored) && good
	final := mac(x.hash, x.keys.Server, auth)
	if !good || !x.known {
		return x.fail(NotAuthorized)
	}
	return x.success([]byte("v=" + base64.StdEncoding.EncodeToString(final)))
}

func (x *Exchange) success(final []byte) Step {
	if x.authzid != "" && (x.offer.Own == nil || !x.offer.Own(x.authzid, x.user)) {
		return x.fail(InvalidAuthzid)
	}
	x.state, x.password = over, nil
	return Step{Done: true, Final: final}
}

// saslName undoes RFC 5802 §5.1: "=2C" is a comma, "=3D" an equals sign, and there is no other "=".
func saslName(s string) (string, bool) {
	if !strings.Contains(s, "=") {
		return s, true
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '=' {
			b.WriteByte(s[i])
			continue
		}
		switch {
		case strings.HasPrefix(s[i:], "=2C"):
			b.WriteByte(',')
		case strings.HasPrefix(s[i:], "=3D"):
			b.WriteByte('=')
		default:
			return "", false
		}
		i += 2
	}
	return b.String(), true
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7E || s[i] == ',' {
			return false
		}
	}
	return true
}
