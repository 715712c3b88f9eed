// Package saslauth authenticates client streams with SASL (RFC 6120 section 6) and lists the channel
// bindings that it accepts (XEP-0440).
//
//	S: <stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>
//	     <mechanism>SCRAM-SHA-256</mechanism></mechanisms></stream:features>
//	C: <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-256'>biwsbj1y...</auth>
//	S: <challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>cj1m...</challenge>
//	C: <response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>Yz1i...</response>
//	S: <success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>dj1t...</success>
//
// How it works. Package sasl implements the mechanisms: an [sasl.Exchange] gets what the client sends and
// returns a [sasl.Step], which says what it needs next. This package does these steps: it reads the
// account from the store, derives keys on a worker, and sends the answers. Functions run on the stream's
// loop, under no lock, except for those that are passed to a worker. While a worker runs or an answer is
// delayed, the stream takes no input, and nothing else uses the exchange; if the connection closes
// meanwhile, the rest is not called.
//
// Until the exchange is done its user is only the name that the client claims, and is used to look up the
// account and to count failures. The stream gets the user when the exchange has verified the password. An
// authorization identity (authzid) must be the user's own bare JID; package sasl checks it. The server takes
// the same steps for an unknown user as for a known one, with a salt derived
// from a secret of the server, so a client can't find out which accounts exist.
//
// A challenge of SCRAM has the hash of what was offered (XEP-0474), so a client finds out that the offer was
// changed on its way.
//
// Failures are rate-limited per address, and wrong passwords also per account. Over a limit, the answer
// to each failure is delayed by a second. No account is locked, because that would let an attacker lock
// out its owner.
//
// In memory: the running [exchange], in the stream's negotiation state. Stored: nothing of its own; the
// credentials are in the account's row. They are written here only when keys are derived again.
//
// This module has the exchanges of both profiles of SASL: that of RFC 6120, whose elements it reads and
// writes itself, and SASL2, for which module sasl2 has a [Profile]. So both have the same mechanisms, and
// count the same failures.
//
// Hooks: no stanza hooks. Two stream features: mechanisms, and channel binding types. (S04 and the like are
// attacks with a test each: cmd/internal/house/attacks.txt.)
package saslauth

import (
	"context"
	"crypto/tls"
	"errors"
	"io"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/sasl"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:    "saslauth",
	Spec:    "RFC 6120 section 6, XEP-0440 1.0.0, XEP-0474 0.5.0",
	Summary: "authenticates clients",
	Cases: "SCRAM-SHA-1, -256, -512, each with -PLUS (tls-exporter, tls-server-end-point; in TLS 1.2 " +
		"with extended master secret tls-unique, too), PLAIN under TLS; abort, retries, every failure of " +
		"section 6.5 that can occur",
	Provides: []session.Feature{"sasl"},
	Requires: []session.Feature{"accounts", "stream-features", "store"},
	New:      func() session.Module { return new(Service) },
}

// ns is the namespace of SASL elements (RFC 6120 section 6).
const ns = "urn:ietf:params:xml:ns:xmpp-sasl"

// The names of the elements of SASL and of XEP-0440.
var (
	mechanismsName = xmlstream.N(ns, "mechanisms")
	mechanismName  = xmlstream.N(ns, "mechanism")
	authName       = xmlstream.N(ns, "auth")
	responseName   = xmlstream.N(ns, "response")
	abortName      = xmlstream.N(ns, "abort")
	failureName    = xmlstream.N(ns, "failure")
	challengeName  = xmlstream.N(ns, "challenge")
	successName    = xmlstream.N(ns, "success")
	bindingsName   = xmlstream.N("urn:xmpp:sasl-cb:0", "sasl-channel-binding")
	bindingName    = xmlstream.N("urn:xmpp:sasl-cb:0", "channel-binding")
)

// A Policy holds the settings of authentication that are the same for all hosts. The process gives it to the
// module as a [session.Dependency].
type Policy struct {
	Mechanisms sasl.MechanismSet // the mechanisms of the configuration, with their -PLUS forms
	PlainText  bool              // all mechanisms are offered without TLS too, for tests on loopback
	Rand       io.Reader         // the source of nonces; several loops read it concurrently
	FakeKey    sasl.Secret       // makes the salts of unknown users; it must stay the same after a restart
	Failures   *session.Throttle // counts failures by address and by account; nil: no limit
	// EndPoint returns the tls-server-end-point binding of a certificate (RFC 5929 section 4), or nil if it
	// has none. It is called on a loop, so it must not block.
	EndPoint func(c *tls.Certificate) []byte
}

// maxTries is the number of failed tries after which a stream is closed. RFC 6120 section 6.4.4 recommends to
// allow between 2 and 5 retries.
const maxTries = 5

// iterationsPerMicrosecond is how many PBKDF2 iterations a processor computes in a microsecond, about: see
// [sasl.Derivation]. It converts iterations into microseconds of a worker: the cost for the admission queue,
// which starts the works of logins at a limited rate of microseconds. With a larger number more logins are
// computed at a time, and slow down established sessions; with a smaller one logins wait without need.
const iterationsPerMicrosecond = 5

// delayTicks is the delay of the answer to a failure once a limit is exceeded: 10 ticks are a second.
const delayTicks reactor.Tick = 10

// A Service is this module as one [session.Profile] has it: hosts with the same modules and options share a
// profile. It does not change after Load. Modules look it up to run exchanges of another [Profile]. Its
// methods run on a stream's loop, under no lock.
type Service struct {
	policy Policy
	db     *store.DB
	router *session.Router
}

// A Profile writes the elements of one profile of SASL. Its methods run on the stream's loop, under no lock.
type Profile interface {
	// Challenge sends a challenge. data is in base64, and may be empty.
	Challenge(st session.Negotiation, data []byte)
	// Success ends the exchange: the stream is authenticated as r says.
	Success(st session.Negotiation, r Result)
	// Failure sends a failure. The exchange is over; the client may begin another.
	Failure(st session.Negotiation, c sasl.Condition)
	// AllowsAuthzid reports whether the client may name its own account as the identity to act as: user is the
	// localpart. It is called if it has named one, and that is the account's bare JID.
	AllowsAuthzid(st session.Negotiation, user string) bool
}

// A Result is a login that has succeeded.
type Result struct {
	User        jid.JID        // the bare JID
	AccountID   uint64         // the id of the account in the store
	Credentials []byte         // the account's as they were read: see [store.Account]
	Mechanism   sasl.Mechanism // by which the client has logged in; NoMechanism: by a token
	Data        []byte         // additional data for the client, in base64; nil: none
}

// Load implements [session.Module]: it adds the two stream features. It fails if the process has not given
// a [Policy].
func (m *Service) Load(api *session.API) error {
	var ok bool
	if m.policy, ok = session.Lookup[Policy](api); !ok {
		return errors.New("the process has provided no SASL policy")
	}
	m.db, m.router = storage.DB(api), api.Router
	session.Provide(api, m)
	api.Hooks.Features = append(api.Hooks.Features,
		session.StreamFeature{
			Name:          authName,
			Continuations: []xmlstream.Name{responseName, abortName},
			Forbids:       session.HasUser | session.S2S,
			Available:     m.Allowed,
			Offer:         m.offerMechanisms,
			Handle:        m.handle,
		},
		session.StreamFeature{
			Name:    bindingsName,
			Needs:   session.Secure,
			Forbids: session.HasUser | session.S2S,
			Offer:   m.offerBindings,
		})
	return nil
}

// Policy returns the settings of authentication.
func (m *Service) Policy() *Policy { return &m.policy }

// Allowed reports whether st may log in as it is: with TLS, unless a test allows it without.
func (m *Service) Allowed(st session.Negotiation) bool {
	return m.policy.PlainText || st.Traits()&session.Secure != 0
}

// Mechanisms returns the mechanisms that st is offered, and the channel bindings of its connection. Both
// the offer and the exchange use this one function, so that a client can't use a mechanism that was not
// offered (attack S04).
func (m *Service) Mechanisms(st session.Negotiation) (sasl.MechanismSet, sasl.ChannelBinding) {
	b := m.binding(st)
	return m.policy.Mechanisms.ForStream(st.Traits()&session.Secure != 0, b, m.policy.PlainText), b
}

// binding returns the channel bindings of st's connection; the zero value without TLS.
//
// In TLS 1.2 tls-unique and tls-exporter need the extended master secret (RFC 7627 section 1). Without it
// a man in the middle can give two connections the same binding. ExportKeyingMaterial of crypto/tls fails
// for such connections, so its success shows that the secret is there.
func (m *Service) binding(st session.Negotiation) (b sasl.ChannelBinding) {
	cs := st.Transport().TLS()
	if cs == nil {
		return b
	}
	b.TLS13 = cs.Version >= tls.VersionTLS13
	if k, err := cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32); err == nil {
		b.Exporter = k // label and length are those of RFC 9266 section 2
		if !b.TLS13 {
			b.Unique = cs.TLSUnique // RFC 5929 section 3; not defined for TLS 1.3
		}
	}
	if c := st.Transport().PresentedCertificate(); c != nil && m.policy.EndPoint != nil {
		b.EndPoint = m.policy.EndPoint(c)
	}
	return b
}

// offerMechanisms writes the mechanisms of st, the strongest first. Without any it writes nothing, because
// the element must have at least one (RFC 6120 section 6.3.3 and appendix A.4).
func (m *Service) offerMechanisms(st session.Negotiation, a *xmlstream.Appender) {
	set, _ := m.Mechanisms(st)
	if set == 0 {
		return
	}
	a.Open(mechanismsName)
	set.Each(func(x sasl.Mechanism) { a.Open(mechanismName).Text(x.String()).Close() })
	a.Close()
}

// offerBindings writes the types of channel binding of st (XEP-0440), if a mechanism on st can use one.
func (m *Service) offerBindings(st session.Negotiation, a *xmlstream.Appender) {
	set, b := m.Mechanisms(st)
	if !set.Plus() {
		return
	}
	a.Open(bindingsName)
	for _, t := range b.Types() {
		a.Open(bindingName).Attr(stanza.AttrType, t).Close()
	}
	a.Close()
}

// advertised returns what both profiles offer, for XEP-0474: the types of channel binding are listed if a
// mechanism can use one.
func advertised(set sasl.MechanismSet, b sasl.ChannelBinding) string {
	var names, kinds []string
	set.Each(func(x sasl.Mechanism) { names = append(names, x.String()) })
	if set.Plus() {
		kinds = b.Types()
	}
	return sasl.Advertised(names, kinds)
}

// An exchange is the SASL state of a stream between two elements. After a failure an exchange with
// nothing but bindingRefused is kept; after success there is none.
type exchange struct {
	sasl           *sasl.Exchange    // the running exchange; nil after a failure
	profile        Profile           // of the running exchange
	user           jid.JID           // the bare JID that the client claims, from lookUpUser on
	accountID      uint64            // the id of the account in the store; 0: there is none
	credentials    []byte            // the account's credentials as they were read
	bindingRefused sasl.MechanismSet // mechanisms that were refused once for their channel binding: see fail
}

// exchangeOf returns the exchange of st, a new one if there is none.
func exchangeOf(st session.Negotiation) *exchange {
	if x, _ := st.Exchange().(*exchange); x != nil {
		return x
	}
	return new(exchange)
}

// classic is the profile of RFC 6120 section 6.
type classic struct{}

// Challenge implements [Profile].
func (classic) Challenge(st session.Negotiation, data []byte) { send(st, challengeName, data) }

// Success implements [Profile]. The client restarts the stream next. A revoked account is refused when it
// binds.
func (classic) Success(st session.Negotiation, r Result) {
	send(st, successName, r.Data)
	st.Authenticated(r.User, r.AccountID)
}

// Failure implements [Profile].
func (classic) Failure(st session.Negotiation, c sasl.Condition) {
	a := st.LoopRouter().Appender()
	a.Open(failureName).Open(xmlstream.N(ns, c.String())).Close().Close()
	st.Send(a.B)
}

// AllowsAuthzid implements [Profile].
func (classic) AllowsAuthzid(session.Negotiation, string) bool { return true }

// handle processes each SASL element of the client: auth begins an exchange, response continues it, abort
// ends it. An abort without an exchange is answered with aborted, and counts as a failed try. An auth during
// an exchange, or a response without one, ends it with malformed-request. An exchange of another profile is
// not mixed with these: the stream ends (attack K71). e is valid until handle returns.
func (m *Service) handle(st session.Negotiation, e xmlstream.Element) {
	x := exchangeOf(st)
	running := x.sasl != nil
	if running && x.profile != Profile(classic{}) {
		st.Close(session.ErrPolicyViolation)
		return
	}
	switch {
	case e.Is(abortName) && running:
		m.step(st, x, x.sasl.Abort())
	case e.Is(abortName):
		m.fail(st, x, classic{}, sasl.Step{Condition: sasl.Aborted})
	case e.Is(authName) == running:
		m.fail(st, x, classic{}, sasl.Step{Condition: sasl.MalformedRequest})
	case e.Is(authName):
		name, _ := e.Attr(stanza.AttrMechanism)
		m.begin(st, classic{}, string(name), e.Text())
	default:
		m.step(st, x, x.sasl.Next(e.Text()))
	}
}

// Running returns the profile of the exchange that runs on st, or nil.
func (m *Service) Running(st session.Negotiation) Profile {
	if x := exchangeOf(st); x.sasl != nil {
		return x.profile
	}
	return nil
}

// Begin starts an exchange of the profile p. With given, initial is the initial response, which may be empty;
// it is not kept. None may run.
func (m *Service) Begin(st session.Negotiation, p Profile, mechanism string, initial []byte, given bool) {
	switch {
	case !given:
		initial = nil
	case len(initial) == 0:
		initial = []byte("=") // the sign of RFC 6120 section 6.4.2 for an empty one
	case string(initial) == "=":
		initial = []byte("!") // no base64: SASL2 has no such sign
	}
	m.begin(st, p, mechanism, initial)
}

// Respond continues the running exchange with the text of a response.
func (m *Service) Respond(st session.Negotiation, text []byte) {
	if x := exchangeOf(st); x.sasl != nil {
		m.step(st, x, x.sasl.Next(text))
	}
}

// Abort ends the running exchange at the client's wish.
func (m *Service) Abort(st session.Negotiation) {
	if x := exchangeOf(st); x.sasl != nil {
		m.step(st, x, x.sasl.Abort())
	}
}

// Refuse sends a failure for a login that had no [sasl.Exchange], as by a token, and counts it as a failed
// try of user, which may be zero. With guess it counts against the account: see countAndCheck.
func (m *Service) Refuse(st session.Negotiation, p Profile, user jid.JID, c sasl.Condition, guess bool) {
	x := exchangeOf(st)
	x.user = user
	m.fail(st, x, p, sasl.Step{Condition: c, WrongPassword: guess})
}

// begin starts an exchange. text is the text of <auth/>.
func (m *Service) begin(st session.Negotiation, p Profile, mechanism string, text []byte) {
	set, b := m.Mechanisms(st)
	x := &exchange{profile: p, bindingRefused: exchangeOf(st).bindingRefused}
	x.sasl = sasl.NewExchange(&sasl.Config{Offer: set, Binding: b, Domain: st.Host().Name,
		Secure: st.Traits()&session.Secure != 0, FakeKey: m.policy.FakeKey, Rand: m.policy.Rand,
		Advertised: advertised(set, b),
		Authzid: func(authzid, user string) bool {
			j, err := jid.Parse(authzid)
			own, err2 := jid.New(user, st.Host().Name, "")
			return err == nil && err2 == nil && j == own && p.AllowsAuthzid(st, user)
		}})
	st.SetExchange(x)
	m.step(st, x, x.sasl.Start(mechanism, text))
}

// step does what the exchange needs next: send a challenge, look up the user, derive keys from a password
// (PLAIN), renew stored keys (NeedKeys), or end the negotiation with success or failure. If the queue of the
// workers is full, or a worker fails, the client gets temporary-auth-failure and may try again; only the
// renewal of keys may fail without that. Derivations wait for admission (AwaitAdmission), because they cost
// milliseconds; reads of the store do not (Await).
func (m *Service) step(st session.Negotiation, x *exchange, s sasl.Step) {
	switch s.Kind {
	case sasl.Challenge:
		x.profile.Challenge(st, s.Data)
	case sasl.NeedUser:
		m.lookUpUser(st, x, s.User)
	case sasl.NeedDerive:
		if !st.AwaitAdmission(reactor.Crypto, s.Work.Iterations()/iterationsPerMicrosecond, func() error {
			s.Work.Run()
			return nil
		}, func(err error) {
			if err != nil {
				m.step(st, x, x.sasl.Fail(sasl.TemporaryAuthFailure))
				return
			}
			m.step(st, x, x.sasl.Derived(s.Work))
		}) {
			m.step(st, x, x.sasl.Fail(sasl.TemporaryAuthFailure))
		}
	case sasl.NeedKeys:
		m.rederiveKeys(st, x, s.Renewal)
	case sasl.Done:
		st.SetExchange(nil)
		x.profile.Success(st, Result{User: x.user, AccountID: x.accountID, Credentials: x.credentials,
			Mechanism: x.sasl.Mechanism(), Data: s.Data})
	default:
		m.fail(st, x, x.profile, s)
	}
}

// rederiveKeys derives the keys of an account again, on a worker, and stores them: the account's keys come
// from a form of the password (another preparation of its characters) that is no longer used, see
// [sasl.NeedKeys]. The same worker waits for the write: this is rare. Errors are logged and do not end the
// login, since the old keys are still valid. The keys are stored only if the credentials are still those that
// lookUpUser read, so a password that was changed meanwhile is not overwritten.
func (m *Service) rederiveKeys(st session.Negotiation, x *exchange, r *sasl.Renewal) {
	then := func(err error) {
		if err != nil {
			st.LoopRouter().Log.Warn("an account keeps its old keys: new ones could not be stored",
				"jid", x.user.String(), "err", err)
		}
		m.step(st, x, x.sasl.Renewed())
	}
	work := func() error {
		keys, err := r.Run()
		if err != nil {
			return err
		}
		_, err = m.db.Accounts().ReplaceKeys(context.Background(), x.user.Domain(), x.user.Local(), x.accountID,
			x.credentials,
			keys.Encode())
		return err
	}
	if !st.AwaitAdmission(reactor.Crypto, r.Iterations()/iterationsPerMicrosecond, work, then) {
		then(session.ErrBusy)
	}
}

// AddKey stores credentials of an account that has logged in: those that it had, with a key more. It returns
// false if the account has others by now. It waits until that is durable. On a worker.
func (m *Service) AddKey(ctx context.Context, r Result, credentials []byte) (done bool, err error) {
	return m.db.Accounts().ReplaceKeys(ctx, r.User.Domain(), r.User.Local(), r.AccountID, r.Credentials,
		credentials)
}

// lookUpUser reads an account from the store, on a worker, and gives its keys to the exchange. user is the
// prepared localpart of its address. Its steps:
//
//  1. Make the user's JID, and snapshot the revocation epoch, which counts the accounts whose sessions an
//     operator has ended. If it has changed when the stream binds a resource, the stream is closed.
//  2. On a worker: read the account's row and decode the keys for the mechanism. Without an account, or
//     without keys for the mechanism, the Credentials have none: the exchange goes on in the same way and
//     fails at its end.
//  3. On the loop: continue the exchange. If the row can't be read or decoded, answer
//     temporary-auth-failure.
func (m *Service) lookUpUser(st session.Negotiation, x *exchange, user string) {
	host := st.Host().Name
	bare, err := jid.New(user, host, "")
	if err != nil {
		m.step(st, x, x.sasl.Fail(sasl.NotAuthorized)) // does not occur: the exchange has prepared the name
		return
	}
	x.user = bare
	st.SnapshotRevocations(bare)
	var a sasl.Credentials
	hash := x.sasl.Hash()
	work := func() error {
		row, err := m.db.Accounts().Get(m.db, host, bare.Local())
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		x.accountID = row.ID
		if !row.Banned.IsZero() {
			a.Denied = sasl.AccountDisabled
		}
		x.credentials = row.Credentials
		if len(row.Credentials) > 0 {
			a.Keys, err = sasl.DecodeKeys(row.Credentials, hash)
		}
		return err
	}
	if !st.Await(reactor.Disk, work, func(err error) {
		if err != nil {
			st.LoopRouter().Log.Error("an account could not be read", "jid", bare.String(), "err", err)
			m.step(st, x, x.sasl.Fail(sasl.TemporaryAuthFailure))
			return
		}
		m.step(st, x, x.sasl.UserFound(a))
	}) {
		m.step(st, x, x.sasl.Fail(sasl.TemporaryAuthFailure))
	}
}

// send sends an element n with the text data, which the exchange has encoded in base64.
func send(st session.Negotiation, n xmlstream.Name, data []byte) {
	a := st.LoopRouter().Appender()
	a.Open(n)
	if len(data) > 0 {
		a.TextBytes(data)
	}
	a.Close()
	st.Send(a.B)
}

// fail ends the exchange, answers with a failure element, and closes the stream after the fifth failure.
// Over a limit of failures the answer is delayed, see countAndCheck.
//
// A try that is refused for its channel binding has tested no password. A client that prefers a binding type
// that the server does not have finds the next mechanism in this way. Therefore the first such failure of
// each mechanism on a stream is not a failed try; only the metrics count it. Every other failure is a failed
// try of the stream (RFC 6120 section 6.4.4), also one that the server has caused; countAndCheck says which
// also count against address and account.
func (m *Service) fail(st session.Negotiation, x *exchange, p Profile, s sasl.Step) {
	uncounted := false
	if s.BindingRefused { // the exchange is still there: it has made this step
		mech := x.sasl.Mechanism()
		uncounted = !x.bindingRefused.Has(mech)
		x.bindingRefused = x.bindingRefused.With(mech)
	}
	x.sasl = nil
	st.SetExchange(nil)
	if x.bindingRefused != 0 {
		st.SetExchange(&exchange{bindingRefused: x.bindingRefused})
	}
	st.LoopRouter().CountLimit("sasl-" + s.Condition.String())
	tries, late := 0, false
	if !uncounted {
		tries = st.CountFailure()
		late = m.countAndCheck(st, x, s)
	}
	answer := func() {
		p.Failure(st, s.Condition)
		if tries >= maxTries {
			st.Close(session.ErrPolicyViolation)
		}
	}
	if late {
		st.Delay(delayTicks, answer)
		return
	}
	answer()
}

// countAndCheck counts a failure against the client's address and against the account, and reports
// whether one of the two has had too many.
//
//   - The account counts guesses at its password: not-authorized, also for a second refused binding of a
//     mechanism (a client has no reason to try that again), and any other failure after a wrong password. It
//     does not count failures that have tested no password, such as malformed-request and invalid-mechanism,
//     nor account-disabled, which only a client with the right password gets (RFC 6120 section 6.5.2): they
//     must not delay the owner's login.
//   - The address counts all failures except aborted, as the client gave up, and temporary-auth-failure
//     (section 6.5.11), as the server has caused it.
//
// Take and TakeAddr return false if the limit is exceeded.
func (m *Service) countAndCheck(st session.Negotiation, x *exchange, s sasl.Step) (late bool) {
	t := m.policy.Failures
	if t == nil {
		return false
	}
	clientFailed := s.WrongPassword || s.Condition != sasl.Aborted && s.Condition != sasl.TemporaryAuthFailure
	guess := s.WrongPassword || s.Condition == sasl.NotAuthorized
	lim := m.router.HostLimits(st.Host())
	now := st.LoopRouter().Loop.Tick()
	addr := st.Transport().Remote().Addr()
	if clientFailed && !lim.Exempted(addr) && !t.TakeAddr(addr, lim.FailuresPerAddress, now) {
		late = true
		st.LoopRouter().CountLimit("failures_per_address")
	}
	if guess && !x.user.IsZero() && !t.Take(x.user.String(), lim.FailuresPerAccount, now) {
		late = true
		st.LoopRouter().CountLimit("failures_per_account")
	}
	return late
}
