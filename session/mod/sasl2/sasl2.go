// Package sasl2 authenticates client streams by the extensible profile of SASL (XEP-0388): with one element
// the client logs in and says what it wants its stream to be.
//
//	S: <stream:features><authentication xmlns='urn:xmpp:sasl:2'><mechanism>SCRAM-SHA-256</mechanism>
//	     <inline>…</inline></authentication></stream:features>
//	C: <authenticate xmlns='urn:xmpp:sasl:2' mechanism='SCRAM-SHA-256'>
//	     <initial-response>biwsbj1y...</initial-response>
//	     <user-agent id='d4565fa7-…'><software>AwesomeXMPP</software></user-agent></authenticate>
//	S: <challenge xmlns='urn:xmpp:sasl:2'>cj1m...</challenge>
//	C: <response xmlns='urn:xmpp:sasl:2'>Yz1i...</response>
//	S: <success xmlns='urn:xmpp:sasl:2'><additional-data>dj1t...</additional-data>
//	     <authorization-identifier>juliet@localhost</authorization-identifier></success><stream:features>…
//
// The exchanges are those of module saslauth, which also counts failures; this module has a
// [saslauth.Profile]. The stream is not restarted. While an exchange runs, only elements of SASL2 may come:
// all else ends the stream.
//
// What the client asks for besides, its inline requests, is copied when <authenticate/> comes, and handled
// when the login has succeeded: see [session.InlineLogin]. The features follow the success in any case, also
// with a session, as XEP-0388 section 2.6.1 says and clients expect.
//
// Other modules look up the [Service]: module fast, which has the mechanisms of tokens.
//
// In memory: the running [login], in the stream's negotiation state, at most 16 KiB as the element itself.
// Stored: nothing. Hooks: a stream feature.
package sasl2

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod/saslauth"
	"canto/session/sasl"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:    "sasl2",
	Spec:    "XEP-0388 1.0.4, XEP-0480 0.2.0",
	Summary: "authenticates clients in one round trip, with what their stream is to be",
	Cases: "the mechanisms of saslauth, inline requests, user agents, abort, retries, upgrades of SCRAM keys; " +
		"white space during an exchange is dropped, as clients that are in use send it",
	Provides: []session.Feature{"sasl2"},
	Requires: []session.Feature{"accounts", "stream-features", "sasl"},
	New:      func() session.Module { return new(Service) },
}

// ns is the namespace of SASL2.
const ns = "urn:xmpp:sasl:2"

// The names of the elements of SASL2, and the namespace of the conditions of failures.
var (
	authenticationName = xmlstream.N(ns, "authentication")
	mechanismName      = xmlstream.N(ns, "mechanism")
	inlineName         = xmlstream.N(ns, "inline")
	authenticateName   = xmlstream.N(ns, "authenticate")
	initialName        = xmlstream.N(ns, "initial-response")
	userAgentName      = xmlstream.N(ns, "user-agent")
	softwareName       = xmlstream.N(ns, "software")
	deviceName         = xmlstream.N(ns, "device")
	challengeName      = xmlstream.N(ns, "challenge")
	responseName       = xmlstream.N(ns, "response")
	abortName          = xmlstream.N(ns, "abort")
	successName        = xmlstream.N(ns, "success")
	additionalName     = xmlstream.N(ns, "additional-data")
	identifierName     = xmlstream.N(ns, "authorization-identifier")
	failureName        = xmlstream.N(ns, "failure")
)

// nsConditions is the namespace of the conditions of failures (RFC 6120 section 6.5).
const nsConditions = "urn:ietf:params:xml:ns:xmpp-sasl"

// maxDescription is how many bytes of a user agent's description are kept: of its software, and of its
// device.
const maxDescription = 128

// A Service is this module as one profile has it. It does not change after Load, but for Tokens.
type Service struct {
	// Tokens has the mechanisms of tokens; nil: there are none. Module fast sets it in Load.
	Tokens TokenMechanisms

	auth *saslauth.Service
}

// TokenMechanisms are mechanisms that need no exchange, and that are not in the list of those for passwords.
type TokenMechanisms interface {
	// Has reports whether mechanism is one of a token, whether the stream is offered it or not.
	Has(mechanism string) bool
	// Authenticate handles the login t on the stream's loop, under no lock. It ends with a call of
	// [TokenLogin.Done] or [TokenLogin.Fail] there, at once or later; the stream is parked meanwhile. e is the
	// <authenticate/>, and is valid until it returns.
	Authenticate(t TokenLogin, e xmlstream.Element)
}

// A TokenLogin is a login by a token.
type TokenLogin struct {
	Stream    session.Negotiation  // the stream that logs in
	Login     *session.InlineLogin // what the client asks for besides, and what it says of itself
	Mechanism string               // as the client has named it
	Initial   []byte               // the initial response, in base64; valid until Authenticate returns

	m *Service
	l *login
}

// Done ends t: the client has proved that it has a token of the account of r. keep is for the inline
// requests: see [session.InlineLogin.Token].
func (t TokenLogin) Done(r saslauth.Result, keep any) {
	t.Login.Token = keep
	t.l.Success(t.Stream, r)
}

// Fail ends t with a failure, which counts as a failed try. user may be zero. With guess it counts against
// the account.
func (t TokenLogin) Fail(user jid.JID, c sasl.Condition, guess bool) {
	t.m.auth.Refuse(t.Stream, t.l, user, c, guess)
}

// Load implements [session.Module]: it adds the stream feature.
func (m *Service) Load(api *session.API) error {
	var ok bool
	if m.auth, ok = session.Lookup[*saslauth.Service](api); !ok {
		return errors.New("there is no SASL")
	}
	session.Provide(api, m)
	api.Hooks.Features = append(api.Hooks.Features, session.StreamFeature{
		Name:          authenticateName,
		Continuations: []xmlstream.Name{responseName, abortName, nextName, taskDataName},
		Forbids:       session.HasUser | session.S2S,
		Available:     m.auth.Allowed,
		Offer:         m.offer,
		Handle:        m.handle,
	})
	return nil
}

// offer writes the mechanisms of st and the inline requests that it may make. The offer is the same for each
// address that the client's header may have named (attack K73). Without a mechanism it writes nothing.
func (m *Service) offer(st session.Negotiation, a *xmlstream.Appender) {
	set, _ := m.auth.Mechanisms(st)
	if set == 0 {
		return
	}
	a.Open(authenticationName)
	set.Each(func(x sasl.Mechanism) { a.Open(mechanismName).Text(x.String()).Close() })
	open := false
	fs := st.Host().Profile().Hooks.Inline
	for i := range fs {
		if fs[i].Place == session.InlineSession || fs[i].Offer == nil {
			continue
		}
		if !open {
			a.Open(inlineName)
			open = true
		}
		fs[i].Offer(st, a)
	}
	if open {
		a.Close()
	}
	offerUpgrades(set, a)
	a.Close()
}

// A login is one <authenticate/>, from then on until the login has succeeded or failed. It is the
// [saslauth.Profile] of its exchange.
type login struct {
	m        *Service
	inline   session.InlineLogin
	requests [][]byte    // copies of the children that are inline requests
	upgrades []sasl.Hash // for which the client wants to give keys: see upgrade.go
}

// handle processes each element of SASL2. An element out of turn ends the stream (attack K71): a second
// authenticate, a response or an abort without an exchange, or one in the middle of an exchange of RFC 6120.
// e is valid until handle returns.
func (m *Service) handle(st session.Negotiation, e xmlstream.Element) {
	if t := taskOf(st); t != nil {
		t.handle(st, e)
		return
	}
	running := m.auth.Running(st)
	_, ours := running.(*login)
	switch {
	case e.Is(authenticateName) && running == nil:
		m.authenticate(st, e)
	case e.Is(responseName) && ours:
		m.auth.Respond(st, e.Text())
	case e.Is(abortName) && ours:
		m.auth.Abort(st)
	default:
		st.Close(session.ErrPolicyViolation)
	}
}

// authenticate begins a login. The address of the client's header has to be one of the host, if it is there
// (XEP-0388 section 2.1).
func (m *Service) authenticate(st session.Negotiation, e xmlstream.Element) {
	if from := st.ClaimedFrom(); !from.IsZero() && from.Domain() != st.Host().Name {
		st.Close(session.ErrInvalidFrom)
		return
	}
	l := &login{m: m}
	st.SetExclusive(authenticateName.Space)
	if !l.readAgent(e) {
		m.auth.Refuse(st, l, jid.JID{}, sasl.MalformedRequest, false)
		return
	}
	l.requests = inlineRequests(st, e)
	set, _ := m.auth.Mechanisms(st)
	l.upgrades = readUpgrades(e, set)
	mechanism, _ := e.Attr(stanza.AttrMechanism)
	var initial []byte
	r, given := e.Child(initialName)
	if given {
		initial = r.Text()
	}
	if t := m.Tokens; t != nil && t.Has(string(mechanism)) {
		t.Authenticate(TokenLogin{Stream: st, Login: &l.inline, Mechanism: string(mechanism), Initial: initial,
			m: m, l: l}, e)
		return
	}
	m.auth.Begin(st, l, string(mechanism), initial, given)
}

// readAgent reads what the client says of itself. It returns false if the id is no UUID.
func (l *login) readAgent(e xmlstream.Element) bool {
	u, ok := e.Child(userAgentName)
	if !ok {
		return true
	}
	if id, ok := u.Attr(stanza.AttrID); ok {
		var err error
		if l.inline.Agent, err = session.ParseAgentID(id); err != nil {
			return false
		}
	}
	if c, ok := u.Child(softwareName); ok {
		l.inline.Software = description(c.Text())
	}
	if c, ok := u.Child(deviceName); ok {
		l.inline.Device = description(c.Text())
	}
	return true
}

// description returns the printable characters of text, at most maxDescription bytes of them.
func description(text []byte) string {
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if b.Len()+n > maxDescription {
			break
		}
		if r != utf8.RuneError && unicode.IsPrint(r) {
			b.WriteRune(r)
		}
		text = text[n:]
	}
	return strings.TrimSpace(b.String())
}

// inlineRequests returns copies of the children of e that modules of the host handle: the first of each name.
func inlineRequests(st session.Negotiation, e xmlstream.Element) (list [][]byte) {
	fs := st.Host().Profile().Hooks.Inline
	var seen []xmlstream.Name
	n := 0
	for c, ok := e.First(); ok && n < session.MaxInline; c, ok = c.Next() {
		n++
		for i := range fs {
			if fs[i].Place != session.InlineSession && c.Is(fs[i].Name) && !has(seen, fs[i].Name) {
				seen = append(seen, fs[i].Name)
				list = append(list, c.Append(nil, xmlstream.Streamed))
				break
			}
		}
	}
	return list
}

// has reports whether list has n.
func has(list []xmlstream.Name, n xmlstream.Name) bool {
	for _, x := range list {
		if x == n {
			return true
		}
	}
	return false
}

// Challenge implements [saslauth.Profile].
func (l *login) Challenge(st session.Negotiation, data []byte) {
	a := st.LoopRouter().Appender()
	a.Open(challengeName)
	if len(data) > 0 {
		a.TextBytes(data)
	}
	a.Close()
	st.Send(a.B)
}

// Failure implements [saslauth.Profile]. The client may try again.
func (l *login) Failure(st session.Negotiation, c sasl.Condition) {
	st.SetExclusive(xmlstream.None)
	a := st.LoopRouter().Appender()
	a.Open(failureName).Open(xmlstream.N(nsConditions, c.String())).Close().Close()
	st.Send(a.B)
}

// AllowsAuthzid implements [saslauth.Profile]: the address of the client's header must be the identity that
// it names, if the header has one (XEP-0388 section 2.3).
func (l *login) AllowsAuthzid(st session.Negotiation, user string) bool {
	from := st.ClaimedFrom()
	return from.IsZero() || from.Local() == user
}

// Success implements [saslauth.Profile]: the client upgrades its keys, if it wants to and some are missing.
func (l *login) Success(st session.Negotiation, r saslauth.Result) {
	if !l.beginTasks(st, r) {
		l.succeed(st, r)
	}
}

// succeed ends the login: the inline requests are handled, and then the success is sent.
func (l *login) succeed(st session.Negotiation, r saslauth.Result) {
	st.AuthenticatedInPlace(r.User, r.AccountID)
	l.inline.Run(st, l.requests, func(_ *session.InlineLogin, addr jid.JID, body []byte) {
		a := st.LoopRouter().Appender()
		a.Open(successName)
		if len(r.Data) > 0 {
			a.Open(additionalName).TextBytes(r.Data).Close()
		}
		a.Open(identifierName).Text(addr.String()).Close()
		a.B = append(a.B, body...)
		a.Close()
		st.Send(a.B)
		if !l.inline.HasResumed {
			st.SendFeatures()
		}
	})
}
