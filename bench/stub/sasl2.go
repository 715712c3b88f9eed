package stub

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"time"

	"canto/bench/xmpp"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A sasl2Request has the requests in <authenticate/> besides the login.
type sasl2Request struct {
	agent string
	bind  bool
	tag   string
	token bool
	// what the session is to begin with: elements in <bind/>
	enable, carbons, inactive bool
	resume                    xmlstream.Element // <resume/>; zero: none
}

// authenticate begins a login by XEP-0388.
func (c *client) authenticate(e xmlstream.Element) error {
	m := new(sasl2Request)
	if a, ok := e.Child(xmpp.UserAgent); ok {
		m.agent = attr(a, stanza.AttrID)
	}
	if b, ok := e.Child(xmpp.Bind2); ok {
		m.bind = true
		if t, ok := b.Child(xmpp.Tag); ok {
			m.tag = string(t.Text())
		}
		if c.s.cfg.Mobile {
			_, m.enable = b.Child(xmpp.SMEnable)
			_, m.carbons = b.Child(xmpp.EnableCarbons)
			_, m.inactive = b.Child(xmpp.Inactive)
		}
	}
	if _, ok := e.Child(xmpp.RequestToken); ok {
		m.token = c.s.cfg.FAST
	}
	if x, ok := e.Child(xmpp.SMResume); ok && c.s.cfg.Mobile {
		m.resume = x.Clone()
	}
	c.sasl2 = m
	var first []byte
	if r, ok := e.Child(xmpp.InitialResponse); ok {
		first = r.Text()
		if len(first) == 0 {
			first = []byte("=") // an empty response
		}
	}
	name := attr(e, stanza.AttrMechanism)
	if _, ok := e.Child(xmpp.Fast); ok && c.s.cfg.FAST && strings.HasPrefix(name, "HT-SHA-256-") {
		return c.fast(name, first)
	}
	c.sasl = c.exchange()
	return c.step(c.sasl.Start(name, first))
}

// fast is a login by a token: the name, NUL, and a keyed hash of "Initiator" and the channel's binding.
func (c *client) fast(mechanism string, first []byte) error {
	var binding []byte
	switch mechanism {
	case "HT-SHA-256-NONE":
	case "HT-SHA-256-EXPR":
		if binding = c.exporter(); binding == nil {
			return c.refused("invalid-mechanism")
		}
	default:
		return c.refused("invalid-mechanism")
	}
	msg, err := base64.StdEncoding.DecodeString(string(first))
	user, hash, ok := strings.Cut(string(msg), "\x00")
	if err != nil || !ok {
		return c.refused("malformed-request")
	}
	c.s.mu.Lock()
	token, known := c.s.tokens[user+"\x00"+c.sasl2.agent]
	c.s.mu.Unlock()
	if !known || !hmac.Equal([]byte(hash), tokenMAC(token, "Initiator", binding)) {
		return c.refused("not-authorized")
	}
	return c.loggedIn(user, base64.StdEncoding.AppendEncode(nil, tokenMAC(token, "Responder", binding)))
}

func tokenMAC(token, role string, binding []byte) []byte {
	m := hmac.New(sha256.New, []byte(token))
	m.Write([]byte(role))
	m.Write(binding)
	return m.Sum(nil)
}

// succeed2 ends a login by XEP-0388: features follow, and no new header comes.
func (c *client) succeed2(data []byte) error {
	m := c.sasl2
	success := func(address, bound string) string {
		var b strings.Builder
		b.WriteString("<success xmlns='" + xmpp.NSSASL2 + "'>")
		if len(data) > 0 {
			b.WriteString("<additional-data>" + string(data) + "</additional-data>")
		}
		b.WriteString("<authorization-identifier>" + escaped(address) + "</authorization-identifier>" + bound)
		if m.token {
			token := base64.RawURLEncoding.EncodeToString(random(24))
			c.s.tokens[c.user+"\x00"+m.agent] = token
			b.WriteString("<token xmlns='" + xmpp.NSFAST + "' token='" + token + "' expiry='" +
				time.Now().Add(14*24*time.Hour).UTC().Format(time.RFC3339) + "'/>")
		}
		b.WriteString("</success>")
		return b.String()
	}
	failed := ""
	if !m.resume.IsZero() {
		c.s.mu.Lock()
		ok := c.s.resume(c, m.resume, func(resumed string) string { return success(c.full, resumed) })
		c.s.mu.Unlock()
		if ok {
			return nil
		}
		failed = failedResume
	}
	if m.bind {
		resource := hex.EncodeToString(random(6))
		if m.tag != "" {
			resource = m.tag + "~" + resource
		}
		return c.bindTo(resource, func() string {
			bound := ""
			if m.enable {
				bound = c.s.enable(c)
			}
			c.carbons, c.inactive = m.carbons, m.inactive
			return success(c.full, failed+"<bound xmlns='"+xmpp.NSBind2+"'>"+bound+"</bound>") + c.features()
		})
	}
	c.s.mu.Lock()
	answer := success(c.user+"@"+c.s.cfg.Domain, failed)
	c.s.mu.Unlock()
	return c.write("%s", answer+c.features())
}
