package bench

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"canto/bench/xmpp"
	"canto/reactor"
	"canto/session/sasl"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A login is the state of a client between dialling and its first operation. Its loop alone uses
// it. The times are on the monotonic clock.
type login struct {
	step        uint16       // of the whole login; the steps of its parts follow it
	stage       stage        // what the client waits for
	handshaking bool         // STARTTLS is accepted, and the handshake runs
	secure      bool         // the stream is under TLS
	sasl2       bool         // the login is by SASL2 (XEP-0388)
	fast        bool         // the login is by a FAST token
	bound       bool         // a resource was bound by Bind 2, within SASL2
	intended    int64        // when the login was due
	opened      int64        // when the connection was open
	secured     int64        // when the TLS handshake was done
	authed      int64        // when the server accepted the login
	last        int64        // when the last part ended
	sasl        *sasl.Client // the exchange; nil before and after it, and with a FAST token
	mac         []byte       // the proof that a server must show for a FAST token
}

// A stage is what a login waits for.
type stage uint8

const (
	awaitFeatures stage = iota
	awaitProceed
	awaitSASL
	awaitFeaturesAgain
	awaitBind
	awaitRoster
)

var stageNames = [...]string{"waiting for features", "asking for TLS", "authenticating",
	"waiting for features after authentication", "binding", "waiting for the roster"}

// describe says what the login is doing, for an error.
func (l *login) describe() string {
	if l.opened == 0 {
		return "connecting"
	}
	return stageNames[l.stage]
}

// The parts of a login. The id of a part's step is that of the login and this number.
const (
	partConnect = 1 + iota
	partSecure
	partAuth
	partBind
)

var partNames = [...]string{"", "connect", "tls", "auth", "bind"}

// stepOf is the step of a part of a login.
func (f *Fleet) stepOf(l *login, part uint16) uint16 { return l.step + part }

// endPart ends a part of a login: it stores the time in at, and counts how long the part took.
func (l *login) endPart(f *Fleet, at *int64, step uint16, ls *loopState) {
	n := nanos(ls.loop.Now())
	*at = n
	y := ls.tally(step)
	y.Sent++
	y.done(n-l.last, f.steps[step].lateAfter)
	l.last = n
}

// A fastToken is the secret by which a later login proves the account instead of by its password
// (XEP-0484).
type fastToken struct {
	// the mechanism that it is for, and the secret that the server has issued
	mechanism, secret string
	uses              int // logins with it, which the server counts against replays
}

// negotiate takes an element of a login one stage further. It is called on c's loop. An error fails
// the login.
//
// The stages: features, and STARTTLS if the scenario wants it; the answer to STARTTLS; the SASL
// exchange, by SASL or SASL2; the features after it; the answer to bind, unless Bind 2 has bound
// the resource already; the roster. awaitFeatures comes twice with STARTTLS.
func (f *Fleet) negotiate(ls *loopState, c *client, e xmlstream.Element) error {
	l := c.login
	if e.Is(xmpp.StreamFailure) {
		return streamFailure(e)
	}
	switch l.stage {
	case awaitFeatures:
		if !e.Is(xmpp.Features) {
			break
		}
		if f.sc.Clients.TLS == "starttls" && !l.secure {
			if _, ok := e.Child(xmpp.StartTLS); !ok {
				// Never on in clear (attack T11).
				return Failure{"the server does not offer STARTTLS", "--tls direct or --tls none"}
			}
			l.stage = awaitProceed
			c.conn.Append([]byte(xmpp.RequestTLS))
			return nil
		}
		return f.authenticate(ls, c, e)
	case awaitProceed:
		if !e.Is(xmpp.Proceed) {
			return Failure{"the server refused STARTTLS", "look at its log: has it a certificate?"}
		}
		l.handshaking, l.stage = true, awaitFeatures
		return c.conn.StartTLS(f.tls, reactor.ClientRole)
	case awaitSASL:
		return f.saslStep(ls, c, e)
	case awaitFeaturesAgain:
		if !e.Is(xmpp.Features) {
			break
		}
		if l.bound {
			f.noteFeatures(e)
			return f.afterBind(ls, c)
		}
		f.noteFeatures(e)
		l.stage = awaitBind
		c.conn.Append(xmpp.AppendBind(f.scratch(c), f.resource(c)))
		return nil
	case awaitBind:
		if !e.Is(stanza.IQName) {
			return nil // a server may send other elements first
		}
		jid, ok := xmpp.BoundJID(e)
		if !ok {
			return stanzaFailure("binding", e)
		}
		f.noteBound(ls, c, jid)
		return f.afterBind(ls, c)
	case awaitRoster:
		id, _ := e.Attr(stanza.AttrID)
		if !e.Is(stanza.IQName) || string(id) != "roster" {
			f.stanza(ls, c, e)
			return nil
		}
		if t, _ := e.Attr(stanza.AttrType); string(t) == "error" {
			return stanzaFailure("asking for the roster", e)
		}
		if c.flags&flagSM != 0 {
			c.sm.h++
		}
		f.loggedIn(ls, c)
		return nil
	}
	return Failure{fmt.Sprintf("the server said <%.40s/> while %s", e.Local(), l.describe()),
		"is this an XMPP server for clients?"}
}

// resource is the resource that clients ask for. Second devices of an account add the number of their
// group.
const resource = "bench"

// resource is the resource that c asks for.
func (f *Fleet) resource(c *client) string {
	if c.account == c.index {
		return resource
	}
	return fmt.Sprintf("%s%d", resource, c.group)
}

// authenticate begins the SASL exchange of c, by the stream features e:
//
//  1. It chooses SASL2 (XEP-0388) if the server offers it and the scenario does not turn it off,
//     otherwise SASL of RFC 6120 section 6.
//  2. With SASL2, a FAST token (XEP-0484) and a server that offers FAST, it authenticates by the
//     token.
//  3. Otherwise it chooses the mechanism, makes its first message, and appends the element to the
//     connection's output; with SASL2 the requests that go inline too.
//
// It returns a Failure if the server offers no SASL, or not the SASL2 that the scenario requires,
// and the errors of the mechanism.
func (f *Fleet) authenticate(ls *loopState, c *client, e xmlstream.Element) error {
	l := c.login
	f.noteFeatures(e)
	a2, sasl2 := e.Child(xmpp.Authentication)
	if f.sc.Clients.SASL2 == "off" {
		sasl2 = false
	}
	if !sasl2 && f.sc.Clients.SASL2 == "require" {
		return Failure{"the server does not offer SASL2 (XEP-0388)", "clients.sasl2 = \"auto\""}
	}
	parent, mechanisms := a2, xmpp.Mechanism2
	if !sasl2 {
		p, ok := e.Child(xmpp.Mechanisms)
		if !ok {
			return Failure{"the server offers no way to log in here",
				"--tls starttls or --tls direct: most allow logins under TLS only"}
		}
		parent, mechanisms = p, xmpp.Mechanism
	}
	offered := xmpp.Offered(parent, mechanisms)
	l.sasl2, l.stage = sasl2, awaitSASL
	if sasl2 && c.fast != nil {
		if inline, ok := parent.Child(xmpp.Inline); ok {
			if _, ok := inline.Child(xmpp.Fast); ok {
				return f.authenticateByToken(c, parent)
			}
		}
	}
	m, err := f.chooseMechanism(offered, l.secure)
	if err != nil {
		return err
	}
	password := f.target.Password
	l.sasl = &sasl.Client{Mechanism: m, Username: f.target.name(int(c.account)),
		Password: sasl.SecretString(password), Rand: rand.Reader, Salted: f.cachedSalted(m)}
	first, err := l.sasl.Start()
	if err != nil {
		return err
	}
	f.mechanism.Store(m.String())
	if !sasl2 {
		c.conn.Append(xmpp.AppendAuth(f.scratch(c), m.String(), first))
		return nil
	}
	b := fmt.Appendf(f.scratch(c), "<authenticate xmlns='%s' "+
		"mechanism='%s'><initial-response>%s</initial-response>", xmpp.NSSASL2, m, first)
	b = f.appendInline(c, b, parent)
	c.conn.Append(append(b, "</authenticate>"...))
	return nil
}

// appendInline appends to a SASL2 request what the client asks for besides the login: its user
// agent, a resource by Bind 2, and a FAST token, each if the server offers it.
func (f *Fleet) appendInline(c *client, b []byte, offer xmlstream.Element) []byte {
	b = fmt.Appendf(b, "<user-agent id='%s'><software>canto-bench</software></user-agent>", f.userAgentID(c))
	inline, ok := offer.Child(xmpp.Inline)
	if !ok {
		return b
	}
	if _, ok := inline.Child(xmpp.Bind2); ok {
		b = append(b, "<bind xmlns='"+xmpp.NSBind2+"'><tag>"+f.resource(c)+"</tag></bind>"...)
	}
	if fast, ok := inline.Child(xmpp.Fast); ok && f.sc.Clients.FAST && c.fast == nil {
		for k, ok := fast.First(); ok; k, ok = k.Next() {
			if string(k.Text()) == fastMechanism {
				b = append(b, "<request-token xmlns='"+xmpp.NSFAST+"' mechanism='"+fastMechanism+"'/>"...)
				break
			}
		}
	}
	return b
}

// fastMechanism is the mechanism of FAST tokens. It has no channel binding: the tokens protect test
// accounts only.
const fastMechanism = "HT-SHA-256-NONE"

// userAgentID is a UUID of version 4 (XEP-0388 section 2.2). A client has the same one in all runs,
// as tokens are stored by it. The devices of an account have different ones.
func (f *Fleet) userAgentID(c *client) string {
	text := fmt.Appendf(nil, "canto-bench %s", f.target.name(int(c.account)))
	if r := f.resource(c); r != resource {
		text = append(text, "/"+r...)
	}
	h := sha256.Sum256(text)
	h[6], h[8] = h[6]&0x0f|0x40, h[8]&0x3f|0x80
	x := hex.EncodeToString(h[:16])
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}

// authenticateByToken logs in by a FAST token (draft-schmaus-kitten-sasl-ht): the client sends its
// name and a MAC by the token. sasl2Succeeded checks the server's MAC.
func (f *Fleet) authenticateByToken(c *client, offer xmlstream.Element) error {
	l, t := c.login, c.fast
	l.fast = true
	t.uses++
	f.mechanism.Store(t.mechanism)
	mac := func(role string) []byte {
		h := hmac.New(sha256.New, []byte(t.secret))
		h.Write([]byte(role))
		return h.Sum(nil)
	}
	l.mac = mac("Responder")
	msg := append([]byte(f.target.name(int(c.account))+"\x00"), mac("Initiator")...)
	b := fmt.Appendf(f.scratch(c), "<authenticate xmlns='%s' "+
		"mechanism='%s'><initial-response>%s</initial-response>", xmpp.NSSASL2, t.mechanism,
		base64.StdEncoding.EncodeToString(msg))
	b = f.appendInline(c, b, offer)
	b = fmt.Appendf(b, "<fast xmlns='%s' count='%d'/></authenticate>", xmpp.NSFAST, t.uses)
	c.conn.Append(b)
	return nil
}

// chooseMechanism returns the mechanism that the scenario names, otherwise the first of
// xmpp.Preferred that is offered.
func (f *Fleet) chooseMechanism(offered []string, secure bool) (sasl.Mechanism, error) {
	want := xmpp.Preferred
	if f.sc.Clients.Mechanism != "" {
		want = []string{f.sc.Clients.Mechanism}
	} else if !secure {
		want = want[:len(want)-1] // PLAIN in the clear only if the scenario names it
	}
	if m, ok := xmpp.Choose(offered, want); ok {
		return m, nil
	}
	return 0, Failure{fmt.Sprintf("the server offers %.120q, and not what is wanted", offered),
		"choose with --mechanism, or use TLS"}
}

// saslStep answers a challenge of the server, or handles the outcome of the exchange.
func (f *Fleet) saslStep(ls *loopState, c *client, e xmlstream.Element) error {
	l := c.login
	switch {
	case e.Is(xmpp.Challenge), e.Is(xmpp.Challenge2):
		if l.sasl == nil {
			return errors.New("the server sent a challenge to a token")
		}
		answer, err := l.sasl.Next(e.Text())
		if err != nil {
			return err
		}
		ns := xmpp.NSSASL
		if l.sasl2 {
			ns = xmpp.NSSASL2
		}
		c.conn.Append(xmpp.AppendResponse(f.scratch(c), ns, answer))
		return nil
	case e.Is(xmpp.Success) && !l.sasl2:
		if err := l.sasl.Success(e.Text()); err != nil {
			return err
		}
		f.cacheSalted(l.sasl)
		l.endPart(f, &l.authed, f.stepOf(l, partAuth), ls)
		l.sasl, l.stage = nil, awaitFeaturesAgain
		c.openStream(f)
		return nil
	case e.Is(xmpp.Success2) && l.sasl2:
		return f.sasl2Succeeded(ls, c, e)
	case e.Is(xmpp.Continue2):
		return Failure{"the server wants more than a password", "accounts for load tests need no second factor"}
	case e.Is(xmpp.Failure), e.Is(xmpp.Failure2):
		cond := cmp.Or(xmpp.Condition(e, xmpp.NSSASL), "not-authorized")
		if l.fast {
			c.fast = nil // expired or revoked: the next login asks for another one
		}
		return Failure{fmt.Sprintf("authentication failed: %.40s", cond), saslRemedy(cond)}
	}
	return Failure{fmt.Sprintf("the server said <%.40s/> while authenticating", e.Local()),
		"is this an XMPP server for clients?"}
}

// sasl2Succeeded handles the success of SASL2. It checks the server's proof, keeps a new FAST
// token, and notes the address if Bind 2 has bound a resource. The server sends its features next,
// without a new header.
func (f *Fleet) sasl2Succeeded(ls *loopState, c *client, e xmlstream.Element) error {
	l := c.login
	data, _ := e.Child(xmpp.AdditionalData)
	if l.fast {
		got, err := base64.StdEncoding.DecodeString(string(data.Text()))
		if err != nil || !hmac.Equal(got, l.mac) {
			return sasl.ErrServer
		}
	} else {
		var text []byte
		if !data.IsZero() {
			text = data.Text()
		}
		if err := l.sasl.Success(text); err != nil {
			return err
		}
		f.cacheSalted(l.sasl)
	}
	if t, ok := e.Child(xmpp.Token); ok && f.sc.Clients.FAST {
		if secret, ok := t.Attr(xmpp.AttrToken); ok {
			c.fast = &fastToken{mechanism: fastMechanism, secret: string(secret)}
			f.fastTokens.Add(1)
		}
	}
	l.endPart(f, &l.authed, f.stepOf(l, partAuth), ls)
	l.sasl, l.stage = nil, awaitFeaturesAgain // without a header
	if _, ok := e.Child(xmpp.Bound2); ok {
		j, _ := e.Child(xmpp.AuthorizationID)
		f.noteBound(ls, c, string(j.Text()))
		l.bound = true
	}
	return nil
}

// noteBound notes the full address that the server has bound.
func (f *Fleet) noteBound(ls *loopState, c *client, jid string) {
	var t int64
	c.login.endPart(f, &t, f.stepOf(c.login, partBind), ls)
	if old := c.jid.Load(); old == nil || *old != jid {
		c.jid.Store(&jid)
	}
}

// afterBind sends what a client asks for after bind, in one write: stream management, a session if
// the server wants it, carbons, the roster, and its presence. With Clients.Quiet the login ends
// here, otherwise with the roster.
func (f *Fleet) afterBind(ls *loopState, c *client) error {
	b := f.scratch(c)
	if f.sc.Clients.SM {
		c.sm = &smState{}
		c.flags |= flagSM
		b = append(b, "<enable xmlns='"+xmpp.NSSM+"' resume='true'/>"...)
	}
	if f.needsSession.Load() { // after <enable/>: stanzas before <enabled/> are not counted
		b = append(b, "<iq type='set' id='session'><session xmlns='"+xmpp.NSSession+"'/></iq>"...)
	}
	if f.sc.Clients.Carbons {
		c.flags |= flagCarbons
		b = append(b, "<iq type='set' id='carbons'><enable xmlns='"+xmpp.NSCarbons+"'/></iq>"...)
	}
	if f.sc.Clients.Quiet {
		c.conn.Append(b)
		f.loggedIn(ls, c)
		return nil
	}
	b = append(b, "<iq type='get' id='roster'><query xmlns='"+xmpp.NSRoster+"'/></iq><presence/>"...)
	c.conn.Append(b)
	c.login.stage = awaitRoster
	return nil
}

// cachedSalted returns the salted key of the last login with mechanism m. Test accounts share a
// salt, so one derivation of some milliseconds serves all logins.
func (f *Fleet) cachedSalted(m sasl.Mechanism) sasl.SaltedPassword {
	if v, ok := f.saltedKeys.Load(m); ok {
		return v.(sasl.SaltedPassword)
	}
	return sasl.SaltedPassword{}
}

// cacheSalted keeps the salted key of s for later logins.
func (f *Fleet) cacheSalted(s *sasl.Client) {
	if s.Mechanism != sasl.Plain {
		f.saltedKeys.Store(s.Mechanism, s.Salted)
	}
}

// noteFeatures notes what the features of one client offer. It stops after the features that follow
// authentication, so that later logins take no lock.
func (f *Fleet) noteFeatures(e xmlstream.Element) {
	if f.featuresSeen.Load() >= 2 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := e.Child(xmpp.Authentication); ok {
		f.serverFeatures["sasl2"] = true
	}
	if _, ok := e.Child(xmpp.SM); ok {
		f.serverFeatures["sm"] = true
	}
	if s, ok := e.Child(xmpp.Session); ok {
		if _, ok := s.Child(xmpp.Optional); !ok {
			f.needsSession.Store(true)
		}
	}
	if _, ok := e.Child(xmpp.Bind); ok {
		f.featuresSeen.Store(2)
	}
}
