package stub

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"canto/bench/xmpp"
	"canto/session/jid"
	"canto/session/sasl"
	"canto/session/stanza"
	"canto/xmlstream"
)

var (
	usernameName = xmlstream.N(xmpp.NSRegister, "username")
	passwordName = xmlstream.N(xmpp.NSRegister, "password")
	removeName   = xmlstream.N(xmpp.NSRegister, "remove")
)

// escaped is v for an attribute or for text.
func escaped[S []byte | string](v S) string { return string(xmlstream.AppendValue(nil, v)) }

func attr(e xmlstream.Element, n xmlstream.Name) string {
	v, _ := e.Attr(n)
	return string(v)
}

// header answers a stream header.
func (c *client) header() error {
	err := c.write("<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='%s' id='%s' "+
		"from='%s' version='1.0' xml:lang='en'>",
		stanza.NSStream, hex.EncodeToString(random(8)), escaped(c.s.cfg.Domain))
	if err != nil {
		return err
	}
	return c.write("%s", c.features())
}

// features are the stream features before or after login.
func (c *client) features() string {
	var b strings.Builder
	b.WriteString("<stream:features>")
	switch {
	case c.bound:
	case c.user != "":
		b.WriteString("<bind xmlns='" + xmpp.NSBind + "'/><session xmlns='" + xmpp.NSSession +
			"'><optional/></session>")
		if c.s.cfg.Mobile {
			b.WriteString("<sm xmlns='" + xmpp.NSSM + "'/><csi xmlns='" + xmpp.NSCSI + "'/>")
		}
	default:
		if c.state == nil {
			b.WriteString("<starttls xmlns='" + xmpp.NSTLS + "'>")
			if c.s.cfg.RequireTLS {
				b.WriteString("<required/></starttls></stream:features>")
				return b.String()
			}
			b.WriteString("</starttls>")
		}
		b.WriteString("<mechanisms xmlns='" + xmpp.NSSASL + "'>")
		mechanisms := c.mechanisms()
		b.WriteString(mechanisms + "</mechanisms><register xmlns='http://jabber.org/features/iq-register'/>")
		if c.offer().Plus() {
			b.WriteString("<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'><channel-binding " +
				"type='tls-exporter'/></sasl-channel-binding>")
		}
		if c.s.cfg.SASL2 {
			b.WriteString("<authentication xmlns='" + xmpp.NSSASL2 + "'>" + mechanisms +
				"<inline><bind xmlns='" + xmpp.NSBind2 + "'><inline>")
			if c.s.cfg.Mobile {
				b.WriteString("<feature var='" + xmpp.NSSM + "'/><feature var='" + xmpp.NSCarbons +
					"'/><feature var='" + xmpp.NSCSI + "'/>")
			}
			b.WriteString("</inline></bind>")
			if c.s.cfg.Mobile && !c.s.cfg.NoInlineSM {
				b.WriteString("<sm xmlns='" + xmpp.NSSM + "'/>")
			}
			if c.s.cfg.FAST {
				b.WriteString("<fast xmlns='" + xmpp.NSFAST + "'><mechanism>HT-SHA-256-NONE</mechanism>")
				if c.exporter() != nil {
					b.WriteString("<mechanism>HT-SHA-256-EXPR</mechanism>")
				}
				b.WriteString("</fast>")
			}
			b.WriteString("</inline></authentication>")
		}
	}
	b.WriteString("</stream:features>")
	return b.String()
}

func (c *client) mechanisms() string {
	var b strings.Builder
	c.offer().Each(func(m sasl.Mechanism) { b.WriteString("<mechanism>" + m.String() + "</mechanism>") })
	return b.String()
}

func (c *client) offer() sasl.MechanismSet {
	return c.s.offer.ForStream(c.state != nil, c.channelBinding(), true)
}

func (c *client) channelBinding() (b sasl.ChannelBinding) {
	if c.s.cfg.Binding {
		b.Exporter = c.exporter()
	}
	return b
}

func (c *client) exporter() []byte {
	if c.state == nil {
		return nil
	}
	k, err := c.state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	if err != nil {
		return nil
	}
	return k
}

// negotiate handles an element of a client that is not bound.
func (c *client) negotiate(e xmlstream.Element) error {
	locked := c.s.cfg.RequireTLS && c.state == nil
	switch {
	case e.Is(xmpp.StartTLS) && c.state == nil && c.user == "":
		if err := c.write("<proceed xmlns='%s'/>", xmpp.NSTLS); err != nil {
			return err
		}
		c.restart, c.starttl = true, true
		return nil
	case locked:
		return c.write("<failure xmlns='%s'><encryption-required/></failure>", xmpp.NSSASL)
	case e.Is(xmpp.Auth) && c.user == "":
		c.sasl2 = nil
		c.sasl = c.exchange()
		return c.step(c.sasl.Start(attr(e, stanza.AttrMechanism), e.Text()))
	case e.Is(xmpp.Authenticate2) && c.user == "" && c.s.cfg.SASL2:
		return c.authenticate(e)
	case (e.Is(xmpp.Response) || e.Is(xmpp.Response2)) && c.sasl != nil:
		return c.step(c.sasl.Next(e.Text()))
	case (e.Is(xmpp.Abort) || e.Is(xmpp.Abort2)) && c.sasl != nil:
		return c.step(c.sasl.Abort())
	case e.Is(stanza.IQName):
		return c.negotiateBind(e)
	case e.Is(xmpp.SMResume) && c.user != "":
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		if !c.s.resume(c, e, func(resumed string) string { return resumed }) {
			return c.write("%s", failedResume)
		}
		return nil
	}
	return errEnd
}

func (c *client) exchange() *sasl.Exchange {
	return sasl.NewExchange(&sasl.Config{Offer: c.offer(), Binding: c.channelBinding(),
		Domain: c.s.cfg.Domain, Secure: c.state != nil,
		FakeKey: c.s.fake, Iterations: sasl.MinIterations, Rand: rand.Reader})
}

// step sends the next message of a SASL exchange, or its outcome.
func (c *client) step(st sasl.Step) error {
	for {
		switch st.Kind {
		case sasl.Challenge:
			return c.write("<challenge xmlns='%s'>%s</challenge>", c.nsAuth(), st.Data)
		case sasl.NeedUser:
			st = c.sasl.UserFound(sasl.Credentials{Keys: c.s.credentialsOf(st.User)})
		case sasl.NeedDerive:
			st.Work.Run()
			st = c.sasl.Derived(st.Work)
		case sasl.Done:
			c.sasl = nil
			return c.loggedIn(st.User, st.Data)
		default:
			c.sasl = nil
			return c.refused(st.Condition.String())
		}
	}
}

func (c *client) nsAuth() string {
	if c.sasl2 != nil {
		return xmpp.NSSASL2
	}
	return xmpp.NSSASL
}

// delayLogin holds a login back, if a fault says so.
func (c *client) delayLogin() (refuse string) {
	c.s.mu.Lock()
	slow, refuse := c.s.faults.slow, c.s.faults.refuse
	c.s.mu.Unlock()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-c.s.closing:
		}
	}
	return refuse
}

func (c *client) loggedIn(user string, data []byte) error {
	if cond := c.delayLogin(); cond != "" {
		return c.refuse(cond)
	}
	c.user = user
	if c.sasl2 != nil {
		return c.succeed2(data)
	}
	c.restart = true
	return c.write("<success xmlns='%s'>%s</success>", xmpp.NSSASL, data)
}

func (c *client) refused(cond string) error {
	if f := c.delayLogin(); f != "" {
		cond = f
	}
	return c.refuse(cond)
}

func (c *client) refuse(cond string) error {
	c.s.mu.Lock()
	c.s.stats.Refused++
	c.s.mu.Unlock()
	if c.sasl2 != nil {
		return c.write("<failure xmlns='%s'><%s xmlns='%s'/></failure>", xmpp.NSSASL2, cond, xmpp.NSSASL)
	}
	return c.write("<failure xmlns='%s'><%s/></failure>", xmpp.NSSASL, cond)
}

// credentialsOf are the keys of an account; nil: there is no such account.
func (s *Server) credentialsOf(name string) sasl.Keys {
	s.mu.Lock()
	defer s.mu.Unlock()
	password, ok := s.accounts[name]
	if !ok {
		if !s.isNumbered(name) {
			return nil
		}
		password = s.cfg.Password
	}
	return s.derive(password)
}

// isNumbered reports whether name is one of the accounts of Config.Prefix and a number.
func (s *Server) isNumbered(name string) bool {
	digits, ok := strings.CutPrefix(name, s.cfg.Prefix)
	if !ok || digits == "" || strings.Trim(digits, "0123456789") != "" {
		return false
	}
	n, err := strconv.Atoi(digits)
	return s.cfg.Users == 0 || err == nil && n < s.cfg.Users
}

// derive uses one salt for all accounts, so that keys are derived once here, and once by clients
// that keep what they derived.
func (s *Server) derive(password string) sasl.Keys {
	if k, ok := s.keys[password]; ok {
		return k
	}
	salts := bytes.NewReader(bytes.Repeat(s.salt, 2))
	k, err := sasl.DeriveKeys([]byte(password), sasl.MinIterations, salts, sasl.SHA1, sasl.SHA256)
	if err != nil {
		return nil // not allowed as a password: no login can succeed
	}
	s.keys[password] = k
	return k
}

// negotiateBind takes IQs before binding: the binding itself, and registration.
func (c *client) negotiateBind(e xmlstream.Element) error {
	id := escaped(attr(e, stanza.AttrID))
	if b, ok := e.Child(xmpp.Bind); ok && c.user != "" {
		resource := ""
		if r, ok := b.Child(xmpp.BindResource); ok {
			resource = string(r.Text())
		}
		return c.bindTo(resource, func() string {
			return "<iq type='result' id='" + id + "'><bind xmlns='" + xmpp.NSBind + "'><jid>" +
				escaped(c.full) + "</jid></bind></iq>"
		})
	}
	query, ok := e.Child(xmpp.Register)
	if !ok || c.user != "" {
		return c.write("<iq type='error' id='%s'><error type='auth'><not-authorized xmlns='%s'/></error></iq>",
			id, stanza.NSStanzas)
	}
	if attr(e, stanza.AttrType) == "get" {
		return c.write("<iq type='result' id='%s'><query xmlns='%s'><instructions>Choose a name and a "+
			"password.</instructions><username/><password/></query></iq>", id, xmpp.NSRegister)
	}
	if cond := c.s.register(query); cond != "" {
		return c.write("%s", iqError(id, "", cond))
	}
	return c.write("<iq type='result' id='%s'/>", id)
}

// register makes an account. The condition is that of the error; "": none.
func (s *Server) register(query xmlstream.Element) (condition string) {
	u, ok := query.Child(usernameName)
	p, ok2 := query.Child(passwordName)
	if !ok || !ok2 {
		return "bad-request"
	}
	j, err := jid.New(string(u.Text()), s.cfg.Domain, "")
	if err != nil || j.Local() == "" {
		return "jid-malformed"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.accounts[j.Local()]; ok || s.isNumbered(j.Local()) {
		return "conflict"
	}
	password := string(p.Text())
	if s.derive(password) == nil {
		return "not-acceptable"
	}
	s.accounts[j.Local()] = password
	s.stats.Registered++
	return ""
}

// bindTo binds the client to its address, sends answer, and starts to write its queue. Another
// client with the address loses it.
func (c *client) bindTo(resource string, answer func() string) error {
	if resource == "" {
		resource = hex.EncodeToString(random(6))
	}
	j, err := jid.New(c.user, c.s.cfg.Domain, resource)
	if err != nil {
		return c.write("<stream:error><bad-format xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>")
	}
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closing:
		return errEnd
	default:
	}
	c.bare, c.resource, c.full = j.Bare().String(), j.Resource(), j.String()
	if old := s.users[c.bare][c.resource]; old != nil {
		s.unbind(old)
		old.sendPlain([]byte("<stream:error><conflict " +
			"xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"))
		old.finish()
	}
	if s.users[c.bare] == nil {
		s.users[c.bare] = map[string]*client{}
	}
	s.users[c.bare][c.resource] = c
	s.stats.Logins++
	c.bound = true
	c.directed, c.joined = map[string]bool{}, map[*room]string{}
	c.push(delivery{b: []byte(answer())})
	s.wg.Add(1)
	go c.deliver()
	return nil
}
