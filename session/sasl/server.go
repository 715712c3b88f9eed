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

// A Config is what the exchanges of one stream have in common. Exchanges do not change it.
type Config struct {
	Offer   MechanismSet   // the mechanisms that the stream was offered: no other is accepted
	Binding ChannelBinding // the data by which a login can be bound to this connection
	Domain  string         // the prepared name of the host; it does not change once SASL has started
	Secure  bool           // the stream is encrypted; only the condition of a refused mechanism depends on it

	// Advertised is what the client was offered: see [Advertised]. SCRAM then has the hash of it, by which the
	// client finds out that the offer was changed on its way (XEP-0474). Empty: there is no such hash.
	Advertised string

	// FakeKey is the key from which the salts of unknown users are derived. It must survive restarts
	// (store.Secrets): a salt that changes would show that the user is unknown.
	FakeKey    Secret
	Iterations int       // the iteration count for unknown users; 0: DefaultIterations, as most accounts have
	Rand       io.Reader // for nonces: crypto/rand.Reader

	// Authzid, if not nil, reports whether a user may log in as authzid, which is as the client sent
	// it and not empty. If nil, the prepared authzid must be the user's own bare JID.
	Authzid func(authzid, user string) bool
}

// Credentials are what the caller has found under a user's name.
type Credentials struct {
	// Keys are the account's. Empty: there is no such account, or it has no password.
	Keys Keys
	// Denied is why the account may not log in: AccountDisabled, CredentialsExpired, MechanismTooWeak. Only a
	// client that has proved the password gets it.
	Denied Condition
}

// A StepKind says what the caller does next.
type StepKind uint8

const (
	// Fail: send <failure/> with Condition. The exchange is over.
	Fail StepKind = iota
	// Challenge: send <challenge/> with Data as its text, and give the response to Next.
	Challenge
	// NeedUser: look up User, and call UserFound.
	NeedUser
	// NeedDerive: let a worker call Work.Run, and then, on the goroutine of the exchange, call Derived.
	NeedDerive
	// NeedKeys: the password was right, but the account's keys are derived from an older form of it. Let a
	// worker call Renewal.Run and store its keys in place of those that were given to UserFound, if these are
	// still stored. Then, whether that was done or not, call Renewed.
	NeedKeys
	// Done: User is logged in; send <success/> with Data as its text, if it is not empty. The exchange is over.
	Done
)

// A Step is what an Exchange asks of its caller.
type Step struct {
	Kind      StepKind    // what to do
	Data      []byte      // text of the element to send, in base64; the caller's
	User      string      // prepared localpart
	Work      *Derivation // for NeedDerive
	Renewal   *Renewal    // for NeedKeys
	Condition Condition   // for Fail
	// BindingRefused, for Fail: the login was refused for its channel binding, before any password was
	// compared. So the caller need not count it as a guess.
	BindingRefused bool
	// WrongPassword, for Fail: a password or a proof was compared with the account's keys, and did not match.
	// The caller counts it as a guess, whatever the Condition: the server may have given up before it tried
	// the second form of the password.
	WrongPassword bool
	Reason        string // for Fail: for the log, not for the peer; it contains no secret
}

// A Derivation is one PBKDF2, for a worker.
type Derivation struct {
	hash       Hash
	password   Secret
	salt       []byte
	iterations int
	out        SaltedPassword
	err        error
}

// Run derives the key and wipes the password. It is called once, on any goroutine but a loop's: 10,000
// iterations take about 2 ms.
func (d *Derivation) Run() {
	d.out, d.err = saltPassword(d.hash, d.password, d.salt, d.iterations)
	d.password.Wipe()
}

// Iterations returns the cost of Run, in iterations.
func (d *Derivation) Iterations() int { return d.iterations }

// A state says what an Exchange waits for.
type state uint8

const (
	idle       state = iota // before Start
	wantPlain               // PLAIN without initial response
	wantFirst               // SCRAM without initial response
	wantUser                // the caller looks the user up
	wantDerive              // a worker derives a key
	wantKeys                // a worker derives and stores new keys
	wantFinal               // SCRAM's challenge is sent
	finished                // Done or Fail was returned
)

// An Exchange is the server's side of one login. It is used once, by one goroutine at a time. A
// call out of turn fails the exchange with MalformedRequest; once it is over, nothing changes.
type Exchange struct {
	cfg   *Config
	state state
	mech  Mechanism

	user   string    // prepared localpart
	key    Key       // the account's, or a fake one
	known  bool      // key is the account's
	denied Condition // see Credentials

	wrongPassword bool // see Step

	password        Secret // PLAIN: the prepared password, until it is derived
	oldForm         Secret // PLAIN: the form of older keys, until it is derived; empty if it is the same
	keys            Keys   // PLAIN with two forms: the account's keys
	renewalPassword Secret // PLAIN with two forms: the form from which new keys are derived
	gs2             string // SCRAM: gs2-header and binding data in base64, which "c=" must repeat
	clientFirstBare string // client-first-message-bare
	serverFirst     string // server-first-message
	nonce           string // SCRAM: the client's nonce, then with the server's

	hmacs int // for tests, which count the work for known and unknown users instead of timing it
}

// NewExchange returns the server's side of one login, for an <auth/>.
func NewExchange(cfg *Config) *Exchange { return &Exchange{cfg: cfg} }

// Mechanism returns the mechanism that the client has chosen; NoMechanism before Start.
func (x *Exchange) Mechanism() Mechanism { return x.mech }

// fail ends the exchange with a condition, and wipes the passwords.
func (x *Exchange) fail(c Condition, reason string) Step {
	x.wipePasswords()
	x.state = finished
	return Step{Kind: Fail, Condition: c, WrongPassword: x.wrongPassword, Reason: reason}
}

// wipePasswords wipes the forms of the password that are left.
func (x *Exchange) wipePasswords() {
	for _, s := range []*Secret{&x.password, &x.oldForm, &x.renewalPassword} {
		s.Wipe()
		*s = Secret{}
	}
	x.keys = nil
}

// failBinding ends an exchange that no password could have saved.
func (x *Exchange) failBinding(reason string) Step {
	s := x.fail(NotAuthorized, reason)
	s.BindingRefused = true
	return s
}

// outOfTurn ends an exchange whose client or caller broke the order of steps.
func (x *Exchange) outOfTurn() Step { return x.fail(MalformedRequest, "out of turn") }

// Start takes the mechanism and the text of <auth/>. No text means that there is no initial
// response, "=" an empty one (RFC 6120 section 6.4.2). The arguments are not kept.
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

// Next takes the text of <response/>. The text is not kept.
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

// Abort takes <abort/>: it ends the exchange with Aborted.
func (x *Exchange) Abort() Step {
	if x.state == finished {
		return x.outOfTurn()
	}
	return x.fail(Aborted, "aborted by the client")
}

// Fail ends the exchange because the caller can't go on: with TemporaryAuthFailure if the store
// does not answer.
func (x *Exchange) Fail(c Condition) Step { return x.fail(c, "given up by the server") }

// Hash returns the hash whose key of the account is needed for the mechanism; 0: it may be any, so
// all keys are needed.
func (x *Exchange) Hash() Hash { return x.mech.Hash() }

// UserFound answers NeedUser. a is the zero Credentials for an unknown user.
//
//  1. Choose the key: the account's for the mechanism's hash, or a fake one.
//  2. For PLAIN, ask for the key of the password (NeedDerive).
//  3. For SCRAM, return the challenge: both nonces, salt and iterations.
func (x *Exchange) UserFound(a Credentials) Step {
	if x.state != wantUser {
		return x.outOfTurn()
	}
	h := x.mech.Hash()
	if x.mech == Plain {
		h = plainHash(a.Keys)
	}
	// The fake key is made for known users, too: the work must not show which users exist.
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
	if x.cfg.Advertised != "" {
		x.serverFirst += ",h=" + advertisedHash(h, x.cfg.Advertised)
	}
	x.state = wantFinal
	return Step{Kind: Challenge, Data: encodeText(x.serverFirst)}
}

// derive returns a NeedDerive for one form of the password, which is moved into the Derivation.
func (x *Exchange) derive(form *Secret) Step {
	x.state = wantDerive
	w := &Derivation{hash: x.key.Hash, password: *form, salt: x.key.Salt, iterations: x.key.Iterations}
	*form = Secret{}
	return Step{Kind: NeedDerive, User: x.user, Work: w}
}

// Derived answers NeedDerive, after d.Run. If a PLAIN password has two forms and the first does not
// match the account's keys, it asks for the second, also for an unknown user. If the second
// matches, it asks for new keys (NeedKeys), unless the account is denied.
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

// Renewed answers NeedKeys. The login goes on, whether new keys were stored or not.
func (x *Exchange) Renewed() Step {
	if x.state != wantKeys {
		return x.outOfTurn()
	}
	return x.done(nil)
}

// done ends the exchange: the password is proved. An account that is denied fails here.
func (x *Exchange) done(data []byte) Step {
	x.wipePasswords()
	x.state = finished
	if x.denied != NoCondition {
		return x.fail(x.denied, "account is not allowed to log in")
	}
	return Step{Kind: Done, User: x.user, Data: data}
}

// lookUp ends the first message of either mechanism. It prepares the user's name, checks authzid,
// and returns NeedUser. Both are as the client sent them.
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

// mayActAs reports whether user may log in with that authorization identity.
func (x *Exchange) mayActAs(authzid string, user jid.JID) bool {
	if x.cfg.Authzid != nil {
		return x.cfg.Authzid(authzid, user.Local())
	}
	j, err := jid.Parse(authzid)
	return err == nil && j == user
}

// plain takes the message of PLAIN, [authzid] NUL authcid NUL passwd (RFC 4616 section 2).
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

// plainHash returns the hash of the key with which PLAIN is checked: SHA-256, which every account
// should have, or the first that there is.
func plainHash(k Keys) Hash {
	if _, ok := k.For(SHA256); ok || len(k) == 0 {
		return SHA256
	}
	return k[0].Hash
}

// fakeKey returns the key of a user that does not exist. It is always the same for a name and a
// host, as a stored key would be.
func (x *Exchange) fakeKey(h Hash) Key {
	b := append(make([]byte, 0, 128), "canto scram fake 2\x00"...)
	b = append(strconv.AppendInt(b, int64(h), 10), 0)
	b = append(append(b, x.cfg.Domain...), 0)
	seed := mac(&x.hmacs, SHA512, x.cfg.FakeKey.Reveal(), append(b, x.user...))
	k := Key{Hash: h, Iterations: x.cfg.Iterations, Salt: seed[:SaltLen:SaltLen]}
	if k.Iterations == 0 {
		k.Iterations = DefaultIterations
	}
	// No password has these keys. They are as long as real ones.
	hidden := seed[SaltLen:]
	k.StoredKey = NewSecret(append(hidden, hidden...)[:h.Size()])
	k.ServerKey = k.StoredKey
	return k
}

// clientFirst takes SCRAM's client-first-message (RFC 5802 section 7):
//
//  1. The gs2 flag: p= with a type of channel binding goes with a -PLUS mechanism and needs its
//     data; n and y with the others. y means that the client could bind but saw no -PLUS offer. If
//     there was one, a man in the middle has removed it, and the login fails (section 6).
//  2. The authorization identity, if there is one.
//  3. The user name and the client's nonce. Optional extensions are ignored, mandatory ones
//     refused (section 5.1).
//  4. What "c=" must be in the next message is kept, and the user is looked up.
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
		// The client could bind, and believes that this server can't: -PLUS was removed from the offer on the
		// way (RFC 5802 section 6).
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
	if len(attrs) < 2 { // a mandatory extension, m=, would come first and fail below
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

// clientFinal takes SCRAM's client-final-message (RFC 5802 section 7): c=, r=, optional extensions,
// which are ignored, and p=.
//
//  1. Parse it.
//  2. Compute the client's key from its proof, and the server's signature. All of the work is done
//     before anything is refused, so that its time shows nothing.
//  3. Compare nonce, channel binding and proof. An unknown user fails here, as with a wrong
//     password.
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
