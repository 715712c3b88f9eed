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
	resuming    bool         // <resume/> is unanswered
	resume      uint16       // the step that counts whether the session is resumed; 0: none is to be
	asked       uint8        // what was asked for within SASL2: see awaitsSM and the others
	awaits      uint8        // answers that are to come before the client is online, likewise
	again       [][]byte     // stanzas of a session that was not resumed, for the new one
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
	awaitResumed
	awaitBind
	awaitSession
)

// What a client asks for in its session.
const (
	awaitsRoster  = 1 << iota
	awaitsCarbons // copies of messages (XEP-0280)
	awaitsSM      // stream management
	awaitsNothing // it says that it is inactive, which has no answer
)

var stageNames = [...]string{"waiting for features", "asking for TLS", "authenticating",
	"waiting for features after authentication", "resuming a session", "binding",
	"waiting for the answers to what it needs"}

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
// the resource already, or to the request to resume a session; the answers to what the client needs in its
// session, such as the roster. awaitFeatures comes twice with STARTTLS.
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
		if _, ok := e.Child(xmpp.SM); ok && f.resumes(c) {
			l.stage = awaitResumed
			c.conn.Append(appendResume(f.scratch(c), c))
			return nil
		}
		f.bind(c)
		return nil
	case awaitResumed:
		switch {
		case e.Is(xmpp.SMResumed):
			return f.resumed(ls, c, e)
		case e.Is(xmpp.SMFailed):
			f.refused(ls, c, e)
			f.bind(c)
			return nil
		}
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
	case awaitSession:
		return f.sessionAnswer(ls, c, e)
	}
	return Failure{fmt.Sprintf("the server said <%.40s/> while %s", e.Local(), l.describe()),
		"is this an XMPP server for clients?"}
}

// bind asks for a resource (RFC 6120 section 7).
func (f *Fleet) bind(c *client) {
	c.login.stage = awaitBind
	f.forgetSession(c) // there is none, or the server does not let it be resumed
	c.conn.Append(xmpp.AppendBind(f.scratch(c), f.resource(c)))
}

// sessionAnswer handles an element of a client that has a session and waits for what it has asked for. The
// client is online when all has come. A refusal fails the login: the figures would be of something else.
func (f *Fleet) sessionAnswer(ls *loopState, c *client, e xmlstream.Element) error {
	l := c.login
	switch {
	case e.Is(xmpp.SMEnabled) && l.awaits&awaitsSM != 0:
		c.enabled(e)
		l.awaits &^= awaitsSM
	case e.Is(xmpp.SMFailed):
		return Failure{fmt.Sprintf("stream management was refused: %.60s",
			cmp.Or(xmpp.Condition(e, stanza.NSStanzas), "no reason")), "look at the server's log"}
	default:
		id, _ := e.Attr(stanza.AttrID)
		what := map[string]uint8{"roster": awaitsRoster, "carbons": awaitsCarbons}[string(id)] & l.awaits
		if !e.Is(stanza.IQName) || what == 0 {
			f.stanza(ls, c, e)
			return nil
		}
		if c.flags&flagSM != 0 {
			c.sm.h++
		}
		if t, _ := e.Attr(stanza.AttrType); string(t) == "error" {
			return stanzaFailure(map[uint8]string{awaitsRoster: "asking for the roster",
				awaitsCarbons: "turning carbons on"}[what], e)
		}
		l.awaits &^= what
	}
	if l.awaits == 0 {
		f.loggedIn(ls, c)
	}
	return nil
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
	_, sm := inline.Child(xmpp.SM)
	// A session that can't be resumed within the login is resumed after it, if nothing is bound yet.
	if bind, ok := inline.Child(xmpp.Bind2); ok && (sm || !f.resumes(c)) {
		b = append(b, "<bind xmlns='"+xmpp.NSBind2+"'><tag>"+f.resource(c)+"</tag>"...)
		b = append(f.appendSessionRequests(c, b, bind), "</bind>"...)
	}
	if sm && f.resumes(c) {
		c.login.resuming = true
		b = appendResume(b, c)
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

// appendSessionRequests appends what the client wants in a session that Bind 2 binds, as far as the server's
// offer bind has it (XEP-0386 section 3). What is left is asked for afterwards: see afterBind.
func (f *Fleet) appendSessionRequests(c *client, b []byte, bind xmlstream.Element) []byte {
	list, ok := bind.Child(xmpp.Bind2Inline)
	if !ok {
		return b
	}
	for k, ok := list.First(); ok; k, ok = k.Next() {
		v, _ := k.Attr(xmpp.AttrVar)
		switch space := string(v); {
		case !k.Is(xmpp.Bind2Feature):
		case space == xmpp.NSSM && f.sc.Clients.SM:
			c.login.asked |= awaitsSM
			b = appendEnable(b)
		case space == xmpp.NSCarbons && f.sc.Clients.Carbons:
			c.login.asked |= awaitsCarbons
			b = append(b, "<enable xmlns='"+xmpp.NSCarbons+"'/>"...)
		case space == xmpp.NSCSI && f.sc.Clients.Inactive:
			c.login.asked |= awaitsNothing
			b = append(b, sayInactive...)
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
// token, and notes the address if Bind 2 has bound a resource, or that the session is resumed. The server
// sends its features next, without a new header; after a resumption it may leave them out (XEP-0198 section
// 9.2).
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
	if x, ok := e.Child(xmpp.SMResumed); ok && l.resuming {
		return f.resumed(ls, c, x)
	}
	if x, ok := e.Child(xmpp.SMFailed); ok && l.resuming {
		f.refused(ls, c, x)
	}
	bound, ok := e.Child(xmpp.Bound2)
	if !ok {
		return nil
	}
	j, _ := e.Child(xmpp.AuthorizationID)
	f.noteBound(ls, c, string(j.Text()))
	l.bound = true
	f.forgetSession(c)
	if l.asked&awaitsSM != 0 {
		x, ok := bound.Child(xmpp.SMEnabled)
		if !ok {
			return Failure{"the server binds a resource, and does not turn stream management on", "look at its log"}
		}
		c.sm = new(smState)
		c.enabled(x)
	}
	if l.asked&awaitsCarbons != 0 {
		c.flags |= flagCarbons
	}
	if l.asked&awaitsNothing != 0 {
		c.flags |= flagInactive
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
// the server wants it, carbons, that it is inactive, the roster, and its presence, without what it has asked
// for within SASL2. The client is online when all is answered.
func (f *Fleet) afterBind(ls *loopState, c *client) error {
	l, own := c.login, &f.sc.Clients
	l.stage = awaitSession
	if own.SM && l.asked&awaitsSM == 0 {
		c.conn.Append(appendEnable(f.scratch(c)))
		c.sm = new(smState) // counts what is sent from here on; what comes counts from <enabled/> on
		l.awaits |= awaitsSM
	}
	if f.needsSession.Load() {
		f.send(c, append(f.scratch(c), "<iq type='set' id='session'><session xmlns='"+xmpp.NSSession+"'/></iq>"...))
	}
	if own.Carbons && l.asked&awaitsCarbons == 0 {
		c.flags |= flagCarbons
		f.send(c, append(f.scratch(c), "<iq type='set' id='carbons'><enable xmlns='"+xmpp.NSCarbons+"'/></iq>"...))
		l.awaits |= awaitsCarbons
	}
	if own.Inactive && l.asked&awaitsNothing == 0 {
		c.conn.Append([]byte(sayInactive))
		c.flags |= flagInactive
	}
	if !own.Quiet {
		f.send(c, append(f.scratch(c), "<iq type='get' id='roster'><query xmlns='"+xmpp.NSRoster+"'/></iq>"...))
		f.send(c, append(f.scratch(c), "<presence/>"...))
		l.awaits |= awaitsRoster
	}
	if l.awaits == 0 {
		f.loggedIn(ls, c)
	}
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
	if a, ok := e.Child(xmpp.Authentication); ok {
		f.serverFeatures["sasl2"] = true
		inline, _ := a.Child(xmpp.Inline)
		bind, _ := inline.Child(xmpp.Bind2)
		list, _ := bind.Child(xmpp.Bind2Inline)
		for k, ok := list.First(); ok; k, ok = k.Next() {
			v, _ := k.Attr(xmpp.AttrVar)
			f.noteFeature(string(v))
		}
	}
	for k, ok := e.First(); ok; k, ok = k.Next() {
		if k.Is(xmpp.SM) || k.Is(xmpp.CSI) {
			f.noteFeature(string(k.Space()))
		}
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

// noteFeature notes that the server offers what has this namespace, where scenarios have a name for it. The
// caller holds f.mu.
func (f *Fleet) noteFeature(space string) {
	switch space {
	case xmpp.NSSM:
		f.serverFeatures["sm"] = true
	case xmpp.NSCSI:
		f.serverFeatures["csi"] = true
	}
}
