// Package saslauth authenticates client streams with SASL (RFC 6120 §6) and says which channel
// bindings it takes (XEP-0440).
//
//	S: <stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-256</mechanism></mechanisms></stream:features>
//	C: <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-256'>biwsbj1y...</auth>
//	S: <challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>cj1m...</challenge>
//	C: <response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>Yz1i...</response>
//	S: <success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>dj1t...</success>
//
// State: the exchange, in the stream's negotiation. Stored: nothing; credentials are the account's.
//
// Who is authenticated is whoever the verifier says, never what the client claims; an unknown user
// takes the same steps as a known one, with keys made of a secret of the server. Failures are limited
// by address, and wrong passwords by account, too: beyond the limit each answer is delayed by a second, and
// no account is locked out.
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

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:    "saslauth",
	Spec:    "RFC 6120 section 6, XEP-0440 0.4.2",
	Summary: "authenticates clients",
	Cases: "SCRAM-SHA-1, -256, -512, each with -PLUS (tls-exporter, tls-server-end-point; in TLS 1.2 " +
		"with extended master secret tls-unique, too), PLAIN under TLS; abort, retries, every failure of " +
		"section 6.5 that can occur",
	Provides: []session.Feature{"sasl"},
	Requires: []session.Feature{"accounts", "stream-features", "store"},
	New:      func() session.Module { return new(module) },
}

const ns = "urn:ietf:params:xml:ns:xmpp-sasl"

var (
	mechanisms    = xmlstream.N(ns, "mechanisms")
	mechanismName = xmlstream.N(ns, "mechanism")
	auth          = xmlstream.N(ns, "auth")
	response      = xmlstream.N(ns, "response")
	abort         = xmlstream.N(ns, "abort")
	failure       = xmlstream.N(ns, "failure")
	challenge     = xmlstream.N(ns, "challenge")
	success       = xmlstream.N(ns, "success")
	bindings      = xmlstream.N("urn:xmpp:sasl-cb:0", "sasl-channel-binding")
	binding       = xmlstream.N("urn:xmpp:sasl-cb:0", "channel-binding")
)

// A Policy is what the process says about authentication; see [session.NewDependency].
type Policy struct {
	Mechanisms sasl.MechanismSet // what the host has, -PLUS forms included
	PlainText  bool              // mechanisms are offered without TLS, PLAIN too: for tests on loopback
	Rand       io.Reader
	FakeKey    sasl.Secret
	Failures   *session.Throttle // nil: no limit
	// EndPoint is the tls-server-end-point of a certificate (RFC 5929 §4), nil if it has none.
	// It must not wait.
	EndPoint func(c *tls.Certificate) []byte
}

// maxTries is how often a client may try on one stream (RFC 6120 §6.4.4: between 2 and 5).
const maxTries = 5

// iterationsPerMicrosecond of PBKDF2, rounded down: see [sasl.Derivation].
const iterationsPerMicrosecond = 5

// delayTicks is how long an answer is held back beyond a limit of failures.
const delayTicks reactor.Tick = 10

type module struct {
	policy Policy
	db     *store.DB
	router *session.Router
}

func (m *module) Load(api *session.API) error {
	var ok bool
	if m.policy, ok = session.Lookup[Policy](api); !ok {
		return errors.New("nobody said which mechanisms there are")
	}
	m.db, m.router = storage.DB(api), api.Router
	open := func(st session.Negotiation) bool { return m.policy.PlainText || st.Traits()&session.Secure != 0 }
	api.Hooks.Features = append(api.Hooks.Features,
		session.StreamFeature{
			Name:          auth,
			Continuations: []xmlstream.Name{response, abort},
			Forbids:       session.HasUser | session.S2S,
			Available:     open,
			Offer:         m.offerMechanisms,
			Handle:        m.handle,
		},
		session.StreamFeature{
			Name:    bindings,
			Needs:   session.Secure,
			Forbids: session.HasUser | session.S2S,
			Offer:   m.offerBindings,
		})
	return nil
}

// mechanisms is the one value that says what is offered on st and what is accepted (attack S04).
func (m *module) mechanisms(st session.Negotiation) (sasl.MechanismSet, sasl.ChannelBinding) {
	b := m.binding(st)
	return m.policy.Mechanisms.ForStream(st.Traits()&session.Secure != 0, b, m.policy.PlainText), b
}

// binding is what st can be bound by.
func (m *module) binding(st session.Negotiation) (b sasl.ChannelBinding) {
	cs := st.Transport().TLS()
	if cs == nil {
		return b
	}
	b.TLS13 = cs.Version >= tls.VersionTLS13
	if k, err := cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32); err == nil {
		b.Exporter = k // RFC 9266 §4.2: TLS 1.3, or earlier with extended master secret
		if !b.TLS13 {
			// RFC 7627 §1: without that secret, what one connection is bound by can be made to bind another.
			b.Unique = cs.TLSUnique
		}
	}
	if c := st.Transport().PresentedCertificate(); c != nil && m.policy.EndPoint != nil {
		b.EndPoint = m.policy.EndPoint(c)
	}
	return b
}

func (m *module) offerMechanisms(st session.Negotiation, a *xmlstream.Appender) {
	o, _ := m.mechanisms(st)
	if o == 0 {
		return // <mechanisms/> has at least one (RFC 6120 §6.3.3, appendix A.4)
	}
	a.Open(mechanisms)
	o.Each(func(x sasl.Mechanism) { a.Open(mechanismName).Text(x.String()).Close() })
	a.Close()
}

func (m *module) offerBindings(st session.Negotiation, a *xmlstream.Appender) {
	o, b := m.mechanisms(st)
	if !o.Plus() {
		return // no mechanism could use one
	}
	a.Open(bindings)
	for _, t := range b.Types() {
		a.Open(binding).Attr(stanza.AttrType, t).Close()
	}
	a.Close()
}

// exchange is what is kept on the stream between two elements, and of an exchange that failed until the next.
type exchange struct {
	sasl           *sasl.Exchange // nil: none is running
	user           jid.JID
	accountID      uint64
	credentials    []byte            // of PLAIN: the account's credentials as they were read
	bindingRefused sasl.MechanismSet // mechanisms that were refused once for their channel binding: see fail
}

func (m *module) handle(st session.Negotiation, e xmlstream.Element) {
	x, _ := st.Exchange().(*exchange)
	if x == nil {
		x = new(exchange)
	}
	running := x.sasl != nil
	switch {
	case e.Is(abort) && running:
		m.step(st, x, x.sasl.Abort())
	case e.Is(abort):
		m.fail(st, x, sasl.Step{Condition: sasl.Aborted})
	case e.Is(auth) == running:
		m.fail(st, x, sasl.Step{Condition: sasl.MalformedRequest})
	case e.Is(auth):
		m.begin(st, x, e)
	default:
		m.step(st, x, x.sasl.Next(e.Text()))
	}
}

func (m *module) begin(st session.Negotiation, last *exchange, e xmlstream.Element) {
	name, _ := e.Attr(stanza.AttrMechanism)
	o, b := m.mechanisms(st)
	x := &exchange{bindingRefused: last.bindingRefused,
		sasl: sasl.NewExchange(&sasl.Config{Offer: o, Binding: b, Domain: st.Host().Name,
			Secure: st.Traits()&session.Secure != 0, FakeKey: m.policy.FakeKey, Rand: m.policy.Rand})}
	st.SetExchange(x)
	m.step(st, x, x.sasl.Start(string(name), e.Text()))
}

func (m *module) step(st session.Negotiation, x *exchange, s sasl.Step) {
	switch s.Kind {
	case sasl.Challenge:
		m.send(st, challenge, s.Data)
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
		m.send(st, success, s.Data)
		st.Authenticated(x.user, x.accountID)
	default:
		m.fail(st, x, s)
	}
}

// rederiveKeys has the keys of an account derived and stored anew. The login goes on however that ends:
// the keys that are there let the user in as before.
func (m *module) rederiveKeys(st session.Negotiation, x *exchange, r *sasl.Renewal) {
	then := func(err error) {
		if err != nil {
			st.LoopRouter().Log.Warn("an account keeps its old keys: new ones could not be stored", "jid",
				x.user.String(),
				"err", err)
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

// lookUpUser reads the account, with the same steps whether it is there or not.
func (m *module) lookUpUser(st session.Negotiation, x *exchange, user string) {
	host := st.Host().Name
	who, err := jid.New(user, host, "")
	if err != nil {
		m.step(st, x, x.sasl.Fail(sasl.NotAuthorized)) // no exchange gives a name that is none
		return
	}
	x.user = who
	st.SnapshotRevocations(who)
	var a sasl.Credentials
	only := x.sasl.Hash()
	work := func() error {
		row, err := m.db.Accounts().Get(m.db, host, who.Local())
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
		if only == 0 {
			x.credentials = row.Credentials
		}
		if len(row.Credentials) > 0 {
			a.Keys, err = sasl.DecodeKeys(row.Credentials, only)
		}
		return err
	}
	if !st.Await(reactor.Disk, work, func(err error) {
		if err != nil {
			st.LoopRouter().Log.Error("an account could not be read", "jid", who.String(), "err", err)
			m.step(st, x, x.sasl.Fail(sasl.TemporaryAuthFailure))
			return
		}
		m.step(st, x, x.sasl.UserFound(a))
	}) {
		m.step(st, x, x.sasl.Fail(sasl.TemporaryAuthFailure))
	}
}

func (m *module) send(st session.Negotiation, n xmlstream.Name, data []byte) {
	a := st.LoopRouter().Appender()
	a.Open(n)
	if len(data) > 0 {
		a.TextBytes(data)
	}
	a.Close()
	st.Send(a.B)
}

// fail answers with a failure, late where there were many, and ends the stream after the last try.
//
// A try that is refused for its channel binding has tested no password. Clients that know another type of
// binding than we do come to the next mechanism that way, so each one may fail so once on a stream without
// being counted, be it against the stream, its address or the account. Every other failure is one of the
// stream's tries (RFC 6120 §6.4.4); which of them count beyond the stream, limited says.
func (m *module) fail(st session.Negotiation, x *exchange, s sasl.Step) {
	free := false
	if s.BindingRefused {
		mech := x.sasl.Mechanism()
		free = !x.bindingRefused.Has(mech)
		x.bindingRefused = x.bindingRefused.With(mech)
	}
	x.sasl = nil
	st.SetExchange(nil)
	if x.bindingRefused != 0 {
		st.SetExchange(&exchange{bindingRefused: x.bindingRefused})
	}
	st.LoopRouter().CountLimit("sasl-" + s.Condition.String())
	tries, late := 0, false
	if !free {
		tries = st.CountFailure()
		late = m.overLimit(st, x, s)
	}
	answer := func() {
		a := st.LoopRouter().Appender()
		a.Open(failure).Open(xmlstream.N(ns, s.Condition.String())).Close().Close()
		st.Send(a.B)
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

// overLimit counts a failure against its address and account, and reports whether either has had too many.
//
// Against the account count guesses at its password alone: not-authorized, and whatever else ends an
// exchange in which a password was compared and was wrong. A request that can't be read or a mechanism
// that is not offered has tested no password, and who is told account-disabled has given the right one
// (RFC 6120 §6.5.2): none of them may make the owner wait. Against the address these count, but not what
// the client gave up, nor temporary-auth-failure (§6.5.11), which is the server's own.
func (m *module) overLimit(st session.Negotiation, x *exchange, s sasl.Step) (late bool) {
	t := m.policy.Failures
	if t == nil {
		return false
	}
	clients := s.WrongPassword || s.Condition != sasl.Aborted && s.Condition != sasl.TemporaryAuthFailure
	guess := s.WrongPassword || s.Condition == sasl.NotAuthorized
	lim := m.router.HostLimits(st.Host())
	now := st.LoopRouter().Loop.Tick()
	addr := st.Transport().Remote().Addr()
	if clients && !lim.Exempted(addr) && !t.TakeAddr(addr, lim.FailuresPerAddress, now) {
		late = true
		st.LoopRouter().CountLimit("failures_per_address")
	}
	if guess && !x.user.IsZero() && !t.Take(x.user.String(), lim.FailuresPerAccount, now) {
		late = true
		st.LoopRouter().CountLimit("failures_per_account")
	}
	return late
}
