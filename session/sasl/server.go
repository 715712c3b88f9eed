package sasl

import (
	"crypto/hmac"
	"encoding/base64"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"canto/session/jid"
)

// MaxText is the longest text of <auth/> or <response/> in bytes, before base64 is decoded.
const MaxText = 6 * 1024

// A Config is what the exchanges of one stream have in common. It is not changed by them.
type Config struct {
	Offer   MechanismSet   // what was offered on this stream, which is what is accepted
	Binding ChannelBinding // what this connection can be bound by
	Domain  string         // the host, prepared: fixed when SASL starts
	Secure  bool           // the stream is encrypted; only the condition of a refused mechanism depends on it

	// FakeKey makes the salts that unknown users get. It must outlive restarts (store.Secrets), or a salt that
	// changes would tell the unknown from the known.
	FakeKey    Secret
	Iterations int       // what unknown users get, as most accounts have; 0 is DefaultIterations
	Rand       io.Reader // for nonces: crypto/rand's Reader

	// Authzid, if not nil, says whether a user may log in as authzid, which is as sent and not empty. If nil,
	// the prepared authzid must be the user's own bare JID.
	Authzid func(authzid, user string) bool
}

// An Account is what the caller found for a user's name.
type Credentials struct {
	Keys Keys // empty: there is no such account, or it has no password
	// Denied is why the account may not log in, which is told only to who has proved to know its password:
	// AccountDisabled, CredentialsExpired, MechanismTooWeak.
	Denied Condition
}

// A StepKind says what the caller does next.
type StepKind uint8

const (
	// Fail: send <failure/> with Condition. The exchange is over.
	Fail StepKind = iota
	// Challenge: send <challenge/> with Data as its text, and give the response to Next.
	Challenge
	// NeedUser: look up User, and call Found.
	NeedUser
	// NeedDerive: have a worker call Work.Run, and then, on the goroutine of the exchange, call Derived.
	NeedDerive
	// NeedKeys: User has proved to know the password, and the account's keys are those of a form that they
	// are no longer derived from. Have a worker call Renewal.Run and store its keys in place of the ones
	// that were given to Found, if these are still there; then, whether that was done or not, call Renewed.
	NeedKeys
	// Done: User is logged in; send <success/> with Data as its text, if it is not empty. The exchange is over.
	Done
)

// A Step is what an Exchange asks of its caller.
type Step struct {
	Kind      StepKind
	Data      []byte      // base64, as it goes into the element; the caller's to keep
	User      string      // prepared localpart
	Work      *Derivation // for NeedDerive
	Renewal   *Renewal    // for NeedKeys
	Condition Condition   // for Fail
	// BindingRefused, for Fail: the try was refused for its channel binding, whatever the password. The
	// answer says nothing about a password, so that the caller need not count it as a guess.
	BindingRefused bool
	// WrongPassword, for Fail: a password or a proof was compared with the account's keys, and was not
	// theirs. The caller counts the failure as a guess, whatever its Condition: a server that has no time
	// for the second form of a password has answered for the first.
	WrongPassword bool
	Reason        string // for Fail: for the log, never for the peer; nothing secret
}

// A Derivation is one PBKDF2 for a worker.
type Derivation struct {
	hash       Hash
	password   Secret
	salt       []byte
	iterations int
	out        SaltedPassword
	err        error
}

// Run derives the key, on any goroutine. 10,000 iterations are about 2 ms.
func (d *Derivation) Run() {
	d.out, d.err = saltPassword(d.hash, d.password, d.salt, d.iterations)
	d.password.Wipe()
}

// Iterations returns the work to do, in iterations.
func (d *Derivation) Iterations() int { return d.iterations }

type state uint8

const (
	idle       state = iota // before Start
	wantPlain               // PLAIN without initial response
	wantFirst               // SCRAM without initial response
	wantUser                // the caller looks up
	wantDerive              // the caller derives
	wantKeys                // the caller derives and stores new keys
	wantFinal               // SCRAM's challenge is out
	finished
)

// An Exchange is one login on the server's side. It is used once, by one goroutine. What is called out of
// turn fails with MalformedRequest, or, once the exchange is over, changes nothing.
type Exchange struct {
	cfg   *Config
	state state
	mech  Mechanism

	user   string
	key    Key // the account's, or a fake one
	known  bool
	denied Condition

	wrongPassword bool // what the client gave was compared with key, and is not its password

	password        Secret // PLAIN, until it is derived
	oldForm         Secret // PLAIN: the form of older keys, until it is derived; empty if it is the same
	keys            Keys   // PLAIN with two forms: the account's
	renewalPassword Secret // PLAIN with two forms: what new keys are derived from
	gs2             string // SCRAM's gs2-header with binding data, as "c=" must have it
	clientFirstBare string // client-first-message-bare
	serverFirst     string // server-first-message
	nonce           string

	hmacs int // for tests: equal work for known and unknown users is counted, not timed
}

// NewExchange returns an exchange for one <auth/>.
func NewExchange(cfg *Config) *Exchange { return &Exchange{cfg: cfg} }

// Mechanism returns what was chosen; NoMechanism before Start.
func (x *Exchange) Mechanism() Mechanism { return x.mech }

func (x *Exchange) fail(c Condition, reason string) Step {
	x.wipePasswords()
	x.state = finished
	return Step{Kind: Fail, Condition: c, WrongPassword: x.wrongPassword, Reason: reason}
}

// wipePasswords wipes what is left of the password.
func (x *Exchange) wipePasswords() {
	for _, s := range []*Secret{&x.password, &x.oldForm, &x.renewalPassword} {
		s.Wipe()
		*s = Secret{}
	}
	x.keys = nil
}

// failBinding ends a try that no password could have saved.
func (x *Exchange) failBinding(reason string) Step {
	s := x.fail(NotAuthorized, reason)
	s.BindingRefused = true
	return s
}

// outOfTurn is the answer to what comes out of turn.
func (x *Exchange) outOfTurn() Step { return x.fail(MalformedRequest, "out of turn") }

// Start begins with the mechanism and the text of <auth/>; empty text is no initial response, "=" an
// empty one (RFC 6120 §6.4.2). Neither is kept.
func (x *Exchange) Start(mechanism string, text []byte) Step {
	if x.state != idle {
		return x.outOfTurn()
	}
	m, known := ParseMechanism(mechanism)
	if !x.cfg.Offer.Has(m) {
		if known && !x.cfg.Secure && (m == Plain || m.Plus()) {
			return x.fail(EncryptionRequired, "mechanism needs encryption")
		}
		return x.fail(InvalidMechanism, "mechanism was not offered")
	}
	x.mech = m
	if m == Plain {
		x.state = wantPlain
	} else {
		x.state = wantFirst
	}
	if len(text) == 0 {
		return Step{Kind: Challenge}
	}
	return x.Next(text)
}

// Next takes the text of <response/>. It is not kept.
func (x *Exchange) Next(text []byte) Step {
	if x.state != wantPlain && x.state != wantFirst && x.state != wantFinal {
		return x.outOfTurn()
	}
	if len(text) > MaxText {
		return x.fail(MalformedRequest, "response too long")
	}
	msg, ok := decodeText(text)
	if !ok {
		return x.fail(IncorrectEncoding, "not base64")
	}
	switch x.state {
	case wantPlain:
		return x.plain(msg)
	case wantFirst:
		return x.clientFirst(string(msg))
	}
	return x.clientFinal(string(msg))
}

// Abort takes <abort/>.
func (x *Exchange) Abort() Step {
	if x.state == finished {
		return x.outOfTurn()
	}
	return x.fail(Aborted, "aborted by the client")
}

// Fail ends the exchange because the caller can't go on: with TemporaryAuthFailure if the store does not
// answer.
func (x *Exchange) Fail(c Condition) Step { return x.fail(c, "given up by the server") }

// Hash is what the mechanism's key is for: no other is needed of the account. 0: any may be.
func (x *Exchange) Hash() Hash { return x.mech.Hash() }

// UserFound answers NeedUser. For an unknown user a is the zero Account.
func (x *Exchange) UserFound(a Credentials) Step {
	if x.state != wantUser {
		return x.outOfTurn()
	}
	h := x.mech.Hash()
	if x.mech == Plain {
		h = plainHash(a.Keys)
	}
	// The fake key is made for everybody: the work must not tell who exists.
	fake := x.fakeKey(h)
	x.key, x.known = a.Keys.For(h)
	if !x.known {
		x.key = fake
	}
	x.denied = a.Denied
	if x.mech == Plain {
		if x.oldForm.Len() > 0 {
			x.keys, x.renewalPassword = a.Keys, NewSecret(append([]byte(nil), x.password.Reveal()...))
		}
		return x.derive(&x.password)
	}
	nonce, err := newNonce(x.cfg.Rand)
	if err != nil {
		return x.fail(TemporaryAuthFailure, "no randomness")
	}
	x.nonce += nonce
	x.serverFirst = "r=" + x.nonce + ",s=" + base64.StdEncoding.EncodeToString(x.key.Salt) + ",i=" +
		strconv.Itoa(x.key.Iterations)
	x.state = wantFinal
	return Step{Kind: Challenge, Data: encodeText(x.serverFirst)}
}

// derive asks for the key of one form of the password, which is the caller's from here on.
func (x *Exchange) derive(form *Secret) Step {
	x.state = wantDerive
	w := &Derivation{hash: x.key.Hash, password: *form, salt: x.key.Salt, iterations: x.key.Iterations}
	*form = Secret{}
	return Step{Kind: NeedDerive, User: x.user, Work: w}
}

// Derived answers NeedDerive, after its Work has run. Where the password has two forms, and the keys are
// not those of the first, it asks for the second: of an unknown user, too.
func (x *Exchange) Derived(d *Derivation) Step {
	if x.state != wantDerive {
		return x.outOfTurn()
	}
	if d.err != nil || d.out.Password.Len() == 0 {
		return x.fail(TemporaryAuthFailure, "no key was derived")
	}
	got := d.out.key(&x.hmacs)
	right := got.StoredKey.Equal(x.key.StoredKey) && x.known
	second := x.renewalPassword.Len() > 0 && x.oldForm.Len() == 0
	x.wrongPassword = !right
	switch {
	case !right && x.oldForm.Len() > 0:
		return x.derive(&x.oldForm)
	case !right:
		return x.fail(NotAuthorized, "wrong user or password")
	case second && x.denied == NoCondition:
		x.state = wantKeys
		r := &Renewal{password: x.renewalPassword, old: x.keys, rand: x.cfg.Rand}
		x.renewalPassword = Secret{}
		return Step{Kind: NeedKeys, User: x.user, Renewal: r}
	}
	return x.done(nil)
}

// Renewed answers NeedKeys: the login goes on, with the new keys or without.
func (x *Exchange) Renewed() Step {
	if x.state != wantKeys {
		return x.outOfTurn()
	}
	return x.done(nil)
}

func (x *Exchange) done(data []byte) Step {
	x.wipePasswords()
	x.state = finished
	if x.denied != NoCondition {
		return x.fail(x.denied, "account is not allowed to log in")
	}
	return Step{Kind: Done, User: x.user, Data: data}
}

// lookUp ends the first message: user and authzid as sent.
func (x *Exchange) lookUp(user, authzid string) Step {
	j, err := jid.New(user, x.cfg.Domain, "")
	if err != nil || user == "" {
		return x.fail(NotAuthorized, "not a user name")
	}
	x.user = j.Local()
	if authzid != "" && !x.mayActAs(authzid, j) {
		return x.fail(InvalidAuthzid, "authzid is not the user's own address")
	}
	x.state = wantUser
	return Step{Kind: NeedUser, User: x.user}
}

func (x *Exchange) mayActAs(authzid string, user jid.JID) bool {
	if x.cfg.Authzid != nil {
		return x.cfg.Authzid(authzid, user.Local())
	}
	j, err := jid.Parse(authzid)
	return err == nil && j == user
}

// plain takes [authzid] NUL authcid NUL passwd (RFC 4616 §2).
func (x *Exchange) plain(msg []byte) Step {
	if !utf8.Valid(msg) {
		return x.fail(MalformedRequest, "not UTF-8")
	}
	authzid, rest, ok := strings.Cut(string(msg), "\x00")
	user, password, ok2 := strings.Cut(rest, "\x00")
	if !ok || !ok2 || user == "" || password == "" || strings.Contains(password, "\x00") {
		return x.fail(MalformedRequest, "not a PLAIN message")
	}
	clear(msg)
	var err error
	if x.password, x.oldForm, err = passwordForms([]byte(password)); err != nil {
		return x.fail(NotAuthorized, "password can't be prepared")
	}
	return x.lookUp(user, authzid)
}

// plainHash chooses the key that PLAIN is checked by: the cheapest kind that every account has.
func plainHash(k Keys) Hash {
	if _, ok := k.For(SHA256); ok || len(k) == 0 {
		return SHA256
	}
	return k[0].Hash
}

// fakeKey returns the key of a user who does not exist, always the same for the name.
func (x *Exchange) fakeKey(h Hash) Key {
	b := append(make([]byte, 0, 128), "canto scram fake 2\x00"...)
	b = append(strconv.AppendInt(b, int64(h), 10), 0)
	b = append(append(b, x.cfg.Domain...), 0)
	seed := mac(&x.hmacs, SHA512, x.cfg.FakeKey.Reveal(), append(b, x.user...))
	k := Key{Hash: h, Iterations: x.cfg.Iterations, Salt: seed[:SaltLen:SaltLen]}
	if k.Iterations == 0 {
		k.Iterations = DefaultIterations
	}
	// The keys open nothing: they are as long as real ones, and as unknown.
	hidden := seed[SaltLen:]
	k.StoredKey = NewSecret(append(hidden, hidden...)[:h.Size()])
	k.ServerKey = k.StoredKey
	return k
}

// clientFirst takes gs2-header client-first-message-bare (RFC 5802 §7). Optional extensions are ignored
// (§5.1).
func (x *Exchange) clientFirst(msg string) Step {
	if !utf8.ValidString(msg) {
		return x.fail(MalformedRequest, "not UTF-8")
	}
	flag, rest, ok := strings.Cut(msg, ",")
	zid, bare, ok2 := strings.Cut(rest, ",")
	if !ok || !ok2 {
		return x.fail(MalformedRequest, "no gs2 header")
	}
	var binding []byte
	switch kind, p := strings.CutPrefix(flag, "p="); {
	case p:
		if !x.mech.Plus() {
			return x.fail(MalformedRequest, "channel binding without -PLUS")
		}
		if !bindingName(kind) {
			return x.fail(MalformedRequest, "bad name of a channel binding")
		}
		if binding = x.cfg.Binding.Data(kind); len(binding) == 0 {
			return x.failBinding("channel binding type not available")
		}
	case flag == "n" || flag == "y":
		if x.mech.Plus() {
			return x.fail(MalformedRequest, "-PLUS without channel binding")
		}
		// The client could bind and believes that we can't: somebody took -PLUS out of what we offered
		// (RFC 5802 §6).
		if flag == "y" && x.cfg.Offer.Plus() {
			return x.failBinding("channel binding was stripped from the offer")
		}
	default:
		return x.fail(MalformedRequest, "bad gs2 flag")
	}
	authzid := ""
	if zid != "" {
		if authzid, ok = strings.CutPrefix(zid, "a="); !ok || authzid == "" {
			return x.fail(MalformedRequest, "bad authzid")
		}
		if authzid, ok = saslName(authzid); !ok {
			return x.fail(MalformedRequest, "bad authzid")
		}
	}
	attrs := strings.Split(bare, ",")
	if len(attrs) < 2 { // m= would be first
		return x.fail(MalformedRequest, "not name and nonce")
	}
	name, ok := strings.CutPrefix(attrs[0], "n=")
	nonce, ok2 := strings.CutPrefix(attrs[1], "r=")
	if !ok || !ok2 || !validNonce(nonce) {
		return x.fail(MalformedRequest, "not name and nonce")
	}
	if !areOptional(attrs[2:]) {
		return x.fail(MalformedRequest, "mandatory or malformed extension")
	}
	if name, ok = saslName(name); !ok {
		return x.fail(MalformedRequest, "bad name")
	}
	x.gs2 = base64.StdEncoding.EncodeToString(append([]byte(msg[:len(msg)-len(bare)]), binding...))
	x.clientFirstBare, x.nonce = bare, nonce
	return x.lookUp(name, authzid)
}

// clientFinal takes c=, r=, optional extensions, which are ignored (RFC 5802 §5.1), and p=.
func (x *Exchange) clientFinal(msg string) Step {
	attrs := strings.Split(msg, ",")
	last := len(attrs) - 1
	if last < 2 {
		return x.fail(MalformedRequest, "not binding, nonce and proof")
	}
	c, ok := strings.CutPrefix(attrs[0], "c=")
	r, ok2 := strings.CutPrefix(attrs[1], "r=")
	p, ok3 := strings.CutPrefix(attrs[last], "p=")
	if !ok || !ok2 || !ok3 {
		return x.fail(MalformedRequest, "not binding, nonce and proof")
	}
	if !utf8.ValidString(msg) || !areOptional(attrs[2:last]) {
		return x.fail(MalformedRequest, "mandatory or malformed extension")
	}
	proof, ok := strictBase64([]byte(p))
	if !ok {
		return x.fail(IncorrectEncoding, "proof is not base64")
	}
	if _, ok := strictBase64([]byte(c)); !ok {
		return x.fail(IncorrectEncoding, "binding is not base64")
	}
	h := x.mech.Hash()
	auth := []byte(x.clientFirstBare + "," + x.serverFirst + "," + msg[:len(msg)-len(",")-len(attrs[last])])
	// All the work is done before anything is refused.
	signature := mac(&x.hmacs, h, x.key.StoredKey.Reveal(), auth)
	server := mac(&x.hmacs, h, x.key.ServerKey.Reveal(), auth)
	sized := len(proof) == len(signature)
	clientKey := signature
	if sized {
		for i := range clientKey {
			clientKey[i] ^= proof[i]
		}
	}
	right := NewSecret(hashSum(h, clientKey)).Equal(x.key.StoredKey)
	bound := hmac.Equal([]byte(c), []byte(x.gs2))
	same := hmac.Equal([]byte(r), []byte(x.nonce))
	switch {
	case !same:
		return x.fail(NotAuthorized, "wrong nonce")
	case !bound:
		return x.failBinding("wrong channel binding or gs2 header")
	case !sized || !right || !x.known:
		x.wrongPassword = true
		return x.fail(NotAuthorized, "wrong user or password")
	}
	return x.done(encodeText("v=" + base64.StdEncoding.EncodeToString(server)))
}
