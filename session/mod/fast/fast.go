// Package fast lets clients log in by a token instead of the password (XEP-0484), in one round trip.
//
//	C: <authenticate xmlns='urn:xmpp:sasl:2' mechanism='SCRAM-SHA-256'>… <user-agent id='d4565fa7-…'/>
//	     <request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-EXPR'/></authenticate>
//	S: <success …>…<token xmlns='urn:xmpp:fast:0' token='kJ3…' expiry='2026-01-22T00:00:00Z'/></success>
//	(and the next time)
//	C: <authenticate xmlns='urn:xmpp:sasl:2' mechanism='HT-SHA-256-EXPR'><initial-response>…</initial-response>
//	     <user-agent id='d4565fa7-…'/><fast xmlns='urn:xmpp:fast:0' count='1'/></authenticate>
//	S: <success …>…</success>
//
// A token belongs to an account, to the id of a user agent, and to one mechanism, so to one type of channel
// binding. A user agent has two at most: the one that it has used last, and a newer one. When it uses the
// newer one, the older one is void. A token that is a day old is replaced by a newer one in the success.
//
// A token ends at its expiry, with invalidate='true', with its user agent (by command, or as an account has
// 32 of them), with a ban, with the account, and with the password: it has the print of one of the account's
// keys, and is refused once the account has no such key. So a password may be changed anywhere.
//
// A wrong token, one of another mechanism or user agent, one that was revoked, a name without an account, and
// a count that is not higher than the last one are all answered with not-authorized, and count as guesses at
// a password do. Only a client that has the token learns that it has expired, or that the account is banned.
// The server takes no early data, so a login can't be replayed by it (attack K41).
//
// The same rows say which user agents an account has: each login with SASL2 notes what the client says of
// itself.
//
// In memory: rows that are not durable yet. Stored: a row for each user agent, with the tokens themselves, as
// the mechanisms need them; they are as secret as the store. They are read at a login only. Hooks: an inline
// request, and the mechanisms of module sasl2.
package fast

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"slices"
	"strconv"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/mod/sasl2"
	"canto/session/mod/saslauth"
	"canto/session/sasl"
	"canto/session/storage"
	"canto/session/store"
	"canto/session/wallclock"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:    "fast",
	Spec:    "XEP-0484 0.2.0",
	Summary: "lets clients log in by a token",
	Cases: "HT-SHA-256 with each channel binding and without, rotation, expiry, invalidation, counts, " +
		"revocation by password, ban and command; no early data",
	Provides: []session.Feature{"fast"},
	Requires: []session.Feature{"accounts", "sasl2", "store"},
	Options:  func() any { o := defaultOptions(); return &o },
	New:      func() session.Module { return new(module) },
}

// ns is the namespace of FAST.
const ns = "urn:xmpp:fast:0"

var (
	fastName       = xmlstream.N(ns, "fast")
	mechanismName  = xmlstream.N(ns, "mechanism")
	requestName    = xmlstream.N(ns, "request-token")
	tokenName      = xmlstream.N(ns, "token")
	attrMechanism  = xmlstream.N("", "mechanism")
	attrCount      = xmlstream.N("", "count")
	attrInvalidate = xmlstream.N("", "invalidate")
	attrToken      = xmlstream.N("", "token")
	attrExpiry     = xmlstream.N("", "expiry")
)

// maxAge is the age at which a token that is used is replaced by a newer one; less if tokens live shorter
// than two days.
const maxAge = 24 * time.Hour

// Options is the module's section of the configuration.
type Options struct {
	Lifetime string `toml:"lifetime"` // how long a token is valid, as "504h"
}

// defaultOptions returns the options of a configuration that does not mention the module: three weeks.
func defaultOptions() Options { return Options{Lifetime: "504h"} }

// Check implements [session.OptionChecker].
func (o *Options) Check() (key, why string) {
	if d, err := time.ParseDuration(o.Lifetime); err != nil || d < time.Hour || d > 10_000*time.Hour {
		return "lifetime", `has to be a duration from "1h" to "10000h"`
	}
	return "", ""
}

// counters count logins by token, by outcome.
type counters struct{ done, refused, issued *session.Counter }

// A module is the module of one profile. It does not change after Load.
type module struct {
	lifetime time.Duration
	db       *store.DB
	table    *store.Map[string, client]
	auth     *saslauth.Service
	random   io.Reader
	now      wallclock.Clock
	count    counters
}

// Load implements [session.Module].
func (m *module) Load(api *session.API) error {
	opt := defaultOptions()
	if err := api.Decode(&opt); err != nil {
		return err
	}
	m.lifetime, _ = time.ParseDuration(opt.Lifetime)
	var err error
	if m.db, err = storage.Open(api); err != nil {
		return err
	}
	if m.table, err = storage.OpenMap(api, rows); err != nil {
		return err
	}
	s, ok := session.Lookup[*sasl2.Service](api)
	if !ok {
		return errors.New("there is no SASL2")
	}
	if m.auth, ok = session.Lookup[*saslauth.Service](api); !ok {
		return errors.New("there is no SASL")
	}
	m.random, m.now = m.auth.Policy().Rand, wallclock.Of(api)
	of := func(outcome string) *session.Counter {
		return api.Router.Counter(session.CounterName{Name: "tokens_total", Label: "outcome", Value: outcome,
			Help: "Login tokens by what became of them: accepted and refused at a login, issued."})
	}
	m.count = counters{of("accepted"), of("refused"), of("issued")}
	s.Tokens = m
	api.Hooks.Inline = append(api.Hooks.Inline, session.InlineFeature{Module: api.Module, Name: requestName,
		Place: session.InlineAccount, Always: true, Offer: m.offer, Handle: m.loggedIn})
	return nil
}

// offer writes the advertised <fast/> with the mechanisms of the connection.
func (m *module) offer(st session.Negotiation, a *xmlstream.Appender) {
	_, b := m.auth.Mechanisms(st)
	a.Open(fastName)
	for _, t := range sasl.TokenMechanisms(b) {
		a.Open(mechanismName).Text(t.String()).Close()
	}
	a.Close()
}

// Has implements [sasl2.TokenMechanisms].
func (m *module) Has(mechanism string) bool {
	_, ok := sasl.ParseTokenMechanism(mechanism)
	return ok
}

// A try is one login by a token. The stream's loop uses it before and after the worker does.
type try struct {
	m          *module
	agent      session.AgentID
	software   string
	device     string
	user       jid.JID
	mechanism  sasl.TokenMechanism
	binding    sasl.ChannelBinding
	proof      sasl.Secret
	count      uint64 // 0: the client has sent none
	invalidate bool
	request    sasl.TokenMechanism // of the token that it asks for; NoToken: it asks for none

	account uint64
	refusal sasl.Condition // NoCondition: the login is right
	guess   bool           // the refusal is one for a wrong token
	answer  []byte         // the server's proof
	issued  *issued
}

// An issued is a token for a client.
type issued struct {
	text   string
	expiry time.Time
}

// Authenticate implements [sasl2.TokenMechanisms].
func (m *module) Authenticate(t sasl2.TokenLogin, e xmlstream.Element) {
	st := t.Stream
	_, b := m.auth.Mechanisms(st)
	mechanism, _ := sasl.ParseTokenMechanism(t.Mechanism)
	fast, asked := e.Child(fastName)
	if !asked || !mechanism.OfferedBy(b) { // without <fast/> the mechanism is none that was offered
		t.Fail(jid.JID{}, sasl.InvalidMechanism, false)
		return
	}
	x := &try{m: m, agent: t.Login.Agent, software: t.Login.Software, device: t.Login.Device,
		mechanism: mechanism, binding: b, request: requested(e, b)}
	var ok bool
	if x.count, x.invalidate, ok = readFast(fast); !ok {
		t.Fail(jid.JID{}, sasl.MalformedRequest, false)
		return
	}
	msg, c := sasl.ParseTokenMessage(t.Initial)
	if c != sasl.NoCondition {
		t.Fail(jid.JID{}, c, false)
		return
	}
	x.proof = msg.Proof
	var err error
	if x.user, err = jid.New(msg.User, st.Host().Name, ""); err != nil {
		t.Fail(jid.JID{}, sasl.NotAuthorized, true)
		return
	}
	st.SnapshotRevocations(x.user)
	book := books.Get(st.Host())
	if !st.Await(reactor.Disk, func() error { return x.run(book) }, func(err error) {
		switch {
		case err != nil:
			st.LoopRouter().Log.Error("a token could not be checked", "jid", x.user.String(), "err", err)
			t.Fail(x.user, sasl.TemporaryAuthFailure, false)
		case x.refusal != sasl.NoCondition:
			m.count.refused.Add(1)
			t.Fail(x.user, x.refusal, x.guess)
		default:
			m.count.done.Add(1)
			t.Done(saslauth.Result{User: x.user, AccountID: x.account, Data: x.answer}, x)
		}
	}) {
		t.Fail(x.user, sasl.TemporaryAuthFailure, false)
	}
}

// readFast reads the attributes of <fast/>. ok is false if they are not of their types.
func readFast(e xmlstream.Element) (count uint64, invalidate, ok bool) {
	if v, has := e.Attr(attrCount); has {
		n, err := strconv.ParseUint(string(v), 10, 63)
		if err != nil || n == 0 {
			return 0, false, false
		}
		count = n
	}
	if v, has := e.Attr(attrInvalidate); has {
		switch string(v) {
		case "1", "true":
			invalidate = true
		case "0", "false":
		default:
			return 0, false, false
		}
	}
	return count, invalidate, true
}

// requested returns the mechanism of the token that the client asks for, if it is one that it was offered. e
// is the <authenticate/>.
func requested(e xmlstream.Element, b sasl.ChannelBinding) sasl.TokenMechanism {
	r, ok := e.Child(requestName)
	if !ok {
		return sasl.NoToken
	}
	return offered(r, b)
}

// offered returns the mechanism of a <request-token/>, or NoToken if it is none that was offered.
func offered(r xmlstream.Element, b sasl.ChannelBinding) sasl.TokenMechanism {
	name, _ := r.Attr(attrMechanism)
	if t, ok := sasl.ParseTokenMechanism(string(name)); ok && t.OfferedBy(b) {
		return t
	}
	return sasl.NoToken
}

// run checks the token, on a worker. The work is about the same whether there is an account, a user agent and
// a token, or not.
func (x *try) run(b *book) error {
	m := x.m
	a, err := m.db.Accounts().Get(m.db, x.user.Domain(), x.user.Local())
	switch {
	case errors.Is(err, store.ErrNotFound):
		a = store.Account{}
	case err != nil:
		return err
	}
	x.account, x.refusal, x.guess = a.ID, sasl.NotAuthorized, true
	if a.ID == 0 || x.agent == (session.AgentID{}) {
		x.find(&client{})
		return nil
	}
	prints := printsOf(a.Credentials)
	var failed error
	t, err := b.update(m.db, m.table, rowKey{a.ID, x.agent}, func(c *client, _ bool) bool {
		now := m.now()
		used := x.find(c)
		switch {
		case used == nil, !prints[used.password], x.count <= used.count && used.count > 0:
			return false
		case used.expires <= now.Unix():
			x.refusal, x.guess = sasl.CredentialsExpired, false
			return false
		case !a.Banned.IsZero():
			x.refusal, x.guess = sasl.AccountDisabled, false
			return false
		}
		text := tokenText(used.secret)
		x.answer = base64.StdEncoding.AppendEncode(nil, x.mechanism.ResponderMAC(text, x.binding))
		used.count = max(used.count, x.count)
		issued := used.issued
		if used == &c.next {
			c.current, c.next = c.next, token{}
		}
		if x.invalidate {
			c.current, c.next = token{}, token{}
		} else if x.request == sasl.NoToken && now.Sub(time.Unix(issued, 0)) >= min(maxAge, m.lifetime/2) {
			x.request = x.mechanism
		}
		if x.request != sasl.NoToken {
			if x.issued, failed = m.issue(c, x.request, a.Credentials, now); failed != nil {
				return false
			}
		}
		m.note(c, now, x.software, x.device)
		x.refusal = sasl.NoCondition
		return true
	})
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	if x.issued != nil || x.invalidate {
		return m.db.Wait(context.Background(), t)
	}
	return nil
}

// find returns the token of c that the client has proved to have: it looks at both, the newer one first. A
// token of another mechanism is not found. The comparisons take the same time whatever they find.
func (x *try) find(c *client) (used *token) {
	for _, t := range []*token{&c.current, &c.next} {
		right := x.mechanism.InitiatorMAC(tokenText(t.secret), x.binding).Equal(x.proof)
		if right && t.mechanism == x.mechanism {
			used = t
		}
	}
	return used
}

// tokenText returns a token as its client has it.
func tokenText(secret sasl.Secret) sasl.Secret {
	return sasl.NewSecret(base64.RawURLEncoding.AppendEncode(nil, secret.Reveal()))
}

// issue makes a token for c, in the place of an earlier one that was not used. It fails if there is no
// randomness, and if the account has no password.
func (m *module) issue(c *client, mechanism sasl.TokenMechanism, credentials []byte, now time.Time) (*issued,
	error) {
	keys, err := sasl.DecodeKeys(credentials, 0)
	if err != nil || len(keys) == 0 {
		return nil, errors.Join(err, errors.New("the account has no keys"))
	}
	secret := make([]byte, tokenLen)
	if _, err := io.ReadFull(m.random, secret); err != nil {
		return nil, err
	}
	t := token{mechanism: mechanism, issued: now.Unix(), expires: now.Add(m.lifetime).Unix(),
		password: keys[len(keys)-1].Print(), secret: sasl.NewSecret(secret)}
	c.next = t
	m.count.issued.Add(1)
	return &issued{text: string(tokenText(t.secret).Reveal()), expiry: time.Unix(t.expires, 0)}, nil
}

// note notes a login of c.
func (m *module) note(c *client, now time.Time, software, device string) {
	c.seen, c.software, c.device = now.Unix(), software, device
}

// loggedIn is the inline request of each login: it gives the client its new token. After a login by password
// it notes the user agent, and makes the token if the client asks for one. A client without an id of its user
// agent has none. If that fails the login goes on without a token.
func (m *module) loggedIn(l *session.InlineLogin, e xmlstream.Element) {
	if x, ok := l.Token.(*try); ok {
		m.add(l, x.issued)
		l.Continue()
		return
	}
	if l.Agent == (session.AgentID{}) {
		l.Continue()
		return
	}
	st := l.Stream()
	request := sasl.NoToken
	if !e.IsZero() {
		_, b := m.auth.Mechanisms(st)
		request = offered(e, b)
	}
	book, bare := books.Get(st.Host()), st.Peer()
	var made *issued
	work := func() (err error) {
		made, err = m.noteLogin(book, l, bare, request)
		return err
	}
	then := func(err error) {
		if err != nil {
			st.LoopRouter().Log.Warn("a user agent could not be noted", "jid", bare.String(), "err", err)
		} else {
			m.add(l, made)
		}
		l.Continue()
	}
	if !st.Await(reactor.Disk, work, then) {
		then(session.ErrBusy)
	}
}

// noteLogin notes a login by password, on a worker. The account's row is read again, as the login may have
// given it other keys.
func (m *module) noteLogin(b *book, l *session.InlineLogin, bare jid.JID, request sasl.TokenMechanism) (
	made *issued, err error) {
	var a store.Account
	if request != sasl.NoToken {
		a, err = m.db.Accounts().Get(m.db, bare.Domain(), bare.Local())
		if err != nil || a.ID != l.Account {
			return nil, err // deleted since the login
		}
	}
	var failed error
	t, err := b.update(m.db, m.table, rowKey{l.Account, l.Agent}, func(c *client, _ bool) bool {
		m.note(c, m.now(), l.Software, l.Device)
		if request != sasl.NoToken {
			made, failed = m.issue(c, request, a.Credentials, m.now())
		}
		return true
	})
	if err != nil || failed != nil {
		return nil, errors.Join(err, failed)
	}
	if made != nil {
		err = m.db.Wait(context.Background(), t)
	}
	return made, err
}

// add adds a token to the success.
func (m *module) add(l *session.InlineLogin, t *issued) {
	if t == nil {
		return
	}
	var a xmlstream.Appender
	a.Reset(xmlstream.Streamed)
	a.Open(tokenName).Attr(attrToken, t.text).Attr(attrExpiry, wallclock.Timestamp(t.expiry)).Close()
	l.Add(slices.Clip(a.B))
}
