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
// by address and by account: beyond the limit each answer is delayed by a second, and nobody is
// locked out.
package saslauth

import (
	"errors"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/mod/storage"
	"canto/session/sasl"
	"canto/session/store"
	"canto/xmlstream"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "saslauth",
	Spec:     "RFC 6120 section 6, XEP-0440 0.4.2",
	Summary:  "authenticates clients",
	Cases:    "SCRAM-SHA-1, -256, -512, each with -PLUS (tls-exporter, tls-server-end-point), PLAIN under TLS; abort, retries, every failure of section 6.5 that can occur",
	Provides: []session.Feature{"sasl"},
	Requires: []session.Feature{"stream-features", "store"},
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
	mechanism     = xmlstream.N("", "mechanism")
	bindings      = xmlstream.N("urn:xmpp:sasl-cb:0", "sasl-channel-binding")
	binding       = xmlstream.N("urn:xmpp:sasl-cb:0", "channel-binding")
	typeAttr      = xmlstream.N("", "type")
)

// A Policy is what the process says about authentication; see [session.Give].
type Policy struct {
	Mechanisms []string // without -PLUS forms, in order of preference
	PlainText  bool     // mechanisms are offered without TLS, PLAIN too: for tests on loopback
	Nonce      func() string
	FakeSecret sasl.Secret
	Failures   *session.Throttle // nil: no limit
	// EndPoint is the tls-server-end-point of a host's certificate (RFC 5929 §4), nil if it has none.
	// It must not wait.
	EndPoint func(h *session.Host) []byte
}

// maxTries is how often a client may try on one stream (RFC 6120 §6.4.4: between 2 and 5).
const maxTries = 5

// delayTicks is how long an answer is held back beyond a limit of failures.
const delayTicks reactor.Tick = 10

type module struct {
	p  Policy
	db *store.DB
	r  *session.Router
}

func (m *module) Load(api *session.API) error {
	var ok bool
	if m.p, ok = session.Find[Policy](api); !ok {
		return errors.New("nobody said which mechanisms there are")
	}
	m.db, m.r = storage.Of(api), api.Router
	open := func(st *session.Stream) bool { return m.p.PlainText || st.Traits()&session.Secure != 0 }
	api.Hooks.Features = append(api.Hooks.Features,
		session.StreamFeature{
			Name:    auth,
			More:    []xmlstream.Name{response, abort},
			Forbids: session.HasUser | session.S2S,
			Open:    open,
			Offer:   m.offerMechanisms,
			Handle:  m.handle,
		},
		session.StreamFeature{
			Name:    bindings,
			Needs:   session.Secure,
			Forbids: session.HasUser | session.S2S,
			Offer:   m.offerBindings,
		})
	return nil
}

// offer is the one value that says what is offered on st and what is accepted (attack S04).
func (m *module) offer(st *session.Stream) *sasl.Offer {
	o := &sasl.Offer{Nonce: m.p.Nonce}
	o.Own = func(authzid, user string) bool {
		a, err := jid.Parse(authzid)
		u, err2 := jid.New(user, st.Host().Name, "")
		return err == nil && err2 == nil && a == u
	}
	types := m.types(st)
	if len(types) > 0 {
		o.Channel.Data = func(typ string) ([]byte, bool) { return m.bindingData(st, typ) }
		for _, name := range m.p.Mechanisms {
			if name != sasl.Plain {
				o.Mechanisms = append(o.Mechanisms, name+"-PLUS")
			}
		}
	}
	o.Mechanisms = append(o.Mechanisms, m.p.Mechanisms...)
	return o
}

// types are the channel bindings that st has.
func (m *module) types(st *session.Stream) (types []string) {
	for _, t := range []string{"tls-exporter", "tls-server-end-point"} {
		if _, ok := m.bindingData(st, t); ok {
			types = append(types, t)
		}
	}
	return types
}

func (m *module) bindingData(st *session.Stream, typ string) ([]byte, bool) {
	cs := st.Wire().TLS()
	if cs == nil {
		return nil, false
	}
	switch typ {
	case "tls-exporter": // RFC 9266 §4.2: TLS 1.3, or earlier with extended master secret
		b, err := cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
		return b, err == nil
	case "tls-server-end-point":
		if m.p.EndPoint != nil {
			b := m.p.EndPoint(st.Host())
			return b, b != nil
		}
	}
	return nil, false
}

func (m *module) offerMechanisms(st *session.Stream, a *xmlstream.Appender) {
	a.Open(mechanisms)
	for _, name := range m.offer(st).Mechanisms {
		a.Open(mechanismName).Text(name).Close()
	}
	a.Close()
}

func (m *module) offerBindings(st *session.Stream, a *xmlstream.Appender) {
	types := m.types(st)
	if len(types) == 0 {
		return
	}
	a.Open(bindings)
	for _, t := range types {
		a.Open(binding).Attr(typeAttr, t).Close()
	}
	a.Close()
}

// exchange is what is kept on the stream between two elements.
type exchange struct {
	x      *sasl.Exchange
	who    jid.JID
	row    store.Account
	known  bool
	banned bool
}

func (m *module) handle(st *session.Stream, e xmlstream.Element) {
	x, running := st.Exchange().(*exchange)
	switch {
	case e.Is(abort):
		st.SetExchange(nil)
		m.fail(st, x, sasl.Aborted)
	case e.Is(auth) && running, e.Is(response) && !running:
		st.SetExchange(nil)
		m.fail(st, x, sasl.MalformedRequest)
	case e.Is(auth):
		m.begin(st, e)
	default:
		m.next(st, x, e.Text())
	}
}

func (m *module) begin(st *session.Stream, e xmlstream.Element) {
	name, _ := e.Attr(mechanism)
	sx, bad := m.offer(st).Begin(string(name))
	if bad != "" {
		m.fail(st, nil, bad)
		return
	}
	x := &exchange{x: sx}
	st.SetExchange(x)
	if initial := e.Text(); len(initial) > 0 {
		m.next(st, x, initial)
		return
	}
	m.send(st, challenge, nil) // the client speaks first, and has not: RFC 4422 §5
}

func (m *module) next(st *session.Stream, x *exchange, text []byte) {
	msg, ok := sasl.Decode(text)
	if !ok {
		st.SetExchange(nil)
		m.fail(st, x, sasl.IncorrectEncoding)
		return
	}
	m.step(st, x, x.x.Next(msg))
}

func (m *module) step(st *session.Stream, x *exchange, s sasl.Step) {
	switch {
	case s.Challenge != nil:
		m.send(st, challenge, s.Challenge)
	case s.User != "":
		m.look(st, x, s.User)
	case s.Derive != nil:
		var salted sasl.Secret
		if !st.Await(reactor.Crypto, func() error { salted = s.Derive.Run(); return nil }, func(err error) {
			if err != nil {
				m.fail(st, x, sasl.TemporaryAuthFailure)
				return
			}
			m.step(st, x, x.x.Derived(salted))
		}) {
			m.fail(st, x, sasl.TemporaryAuthFailure)
		}
	case s.Done && x.banned:
		m.fail(st, x, sasl.AccountDisabled)
	case s.Done:
		m.send(st, success, s.Final)
		st.Authenticated(x.who, x.row.ID)
	default:
		st.SetExchange(nil)
		m.fail(st, x, s.Fail)
	}
}

// look reads the account, with the same steps whether it is there or not.
func (m *module) look(st *session.Stream, x *exchange, user string) {
	host := st.Host().Name
	who, err := jid.New(user, host, "")
	bad := err != nil
	if bad {
		who, _ = jid.New("unknown", host, "")
	}
	var row store.Account
	var found bool
	work := func() error {
		snap := m.db.Snapshot()
		defer snap.Close()
		var err error
		row, found, err = snap.Lookup(who)
		return err
	}
	if !st.Await(reactor.Disk, work, func(err error) {
		if err != nil {
			m.fail(st, x, sasl.TemporaryAuthFailure)
			return
		}
		h := x.x.Hash()
		if h == 0 {
			h = sasl.SHA256
		}
		keys := sasl.Fake(h, m.p.FakeSecret, who.String())
		if found && !bad {
			if c, err := sasl.DecodeCredentials(row.Credentials); err == nil {
				if k, ok := c.For(h); ok {
					keys, x.known = k, true
				} else if x.x.Hash() == 0 && len(c) > 0 {
					keys, x.known = c[0], true
				}
			}
		}
		x.who, x.row, x.banned = who, row, row.Banned
		m.step(st, x, x.x.Credentials(keys, x.known))
	}) {
		m.fail(st, x, sasl.TemporaryAuthFailure)
	}
}

func (m *module) send(st *session.Stream, n xmlstream.Name, data []byte) {
	a := st.Local().Appender()
	a.Open(n)
	if data != nil {
		a.Text(sasl.Encode(data))
	}
	a.Close()
	st.Send(a.B)
}

// fail answers with a failure, late where there were many, and ends the stream after the last try.
func (m *module) fail(st *session.Stream, x *exchange, c sasl.Condition) {
	st.SetExchange(nil)
	st.Local().CountLimit("sasl-" + string(c))
	tries := st.Fail()
	late := false
	if t := m.p.Failures; t != nil && c != sasl.Aborted {
		lim := m.r.HostLimits(st.Host())
		now := st.Local().Loop.Tick()
		addr := st.Wire().Remote().Addr()
		if !lim.Exempted(addr) && !t.TakeAddr(addr, lim.FailuresPerAddress, now) {
			late = true
			st.Local().CountLimit("failures_per_address")
		}
		if x != nil && !x.who.IsZero() && !t.Take(x.who.String(), lim.FailuresPerAccount, now) {
			late = true
			st.Local().CountLimit("failures_per_account")
		}
	}
	answer := func() {
		a := st.Local().Appender()
		a.Open(failure).Open(xmlstream.N(ns, string(c))).Close().Close()
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
