package hostile

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"canto/bench/xmpp"
	"canto/session/sasl"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A session is a connection with a stream that is read. Its methods block.
type session struct {
	*transport
	l          *attacker
	xml        *xmpp.Conn
	starttls   bool     // offered
	mechanisms []string // offered
	jid        string   // full address, escaped; "": not bound
	limit      int      // bytes of a stanza that the server accepts (XEP-0478), or a usual value
}

// answerTimeout is how long a server may take to answer: one under attack is slow.
const answerTimeout = 20 * time.Second

// header is what [xmpp.Conn.Open] sends.
func (a *Attack) header() string { return string(xmpp.AppendHeader(nil, a.cfg.Domain, "")) }

// connect opens a connection without beginning a stream.
func (l *attacker) connect(to netip.AddrPort) (*session, error) {
	w, err := l.dial(to)
	if err != nil {
		return nil, err
	}
	return &session{transport: w, l: l, xml: xmpp.NewConn(w), limit: 256 << 10}, nil
}

// beforeTLS opens a connection on which the TLS handshake is next.
func (l *attacker) beforeTLS() (*session, error) {
	if l.a.cfg.Direct.IsValid() {
		return l.connect(l.a.cfg.Direct)
	}
	s, err := l.connect(l.a.cfg.Addr)
	if err != nil {
		return nil, err
	}
	if err = s.exchangeHeaders(); err == nil {
		err = s.requestTLS()
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// openStream opens a connection by a way ("none", "starttls", "direct"), and reads what the server
// offers for a login.
func (l *attacker) openStream(way string) (*session, error) {
	to := l.a.cfg.Addr
	if way == "direct" {
		to = l.a.cfg.Direct
	}
	s, err := l.connect(to)
	if err != nil {
		return nil, err
	}
	if way == "direct" {
		if err = s.secure(); err == nil {
			err = s.exchangeHeaders()
		}
	} else if err = s.exchangeHeaders(); err == nil && (way == "starttls" || len(s.mechanisms) == 0) {
		if err = s.requestTLS(); err == nil {
			err = s.secure()
		}
		if err == nil {
			err = s.exchangeHeaders()
		}
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// exchangeHeaders sends a header and reads the features.
func (s *session) exchangeHeaders() error {
	e, err := s.await(func() (xmlstream.Element, error) { return s.xml.Open(s.a.cfg.Domain, "") })
	for ; ; e, err = s.next() {
		if err != nil {
			return err
		}
		if !e.Is(xmpp.Features) {
			continue
		}
		_, s.starttls = e.Child(xmpp.StartTLS)
		s.mechanisms = nil
		if m, ok := e.Child(xmpp.Mechanisms); ok {
			s.mechanisms = xmpp.Offered(m, xmpp.Mechanism)
		}
		if m, ok := e.Child(xmpp.StreamLimits); ok {
			if b, ok := m.Child(xmpp.MaxBytes); ok {
				if n, err := strconv.Atoi(string(b.Text())); err == nil && n > 0 {
					s.limit = min(n, 1<<20) // a server may allow more than this process has memory for
				}
			}
		}
		return nil
	}
}

// requestTLS sends <starttls/> and reads the answer.
func (s *session) requestTLS() error {
	if !s.starttls {
		return clientFault{errors.New("the server offers no STARTTLS: name its address for TLS first")}
	}
	if err := s.send(xmpp.RequestTLS); err != nil {
		return err
	}
	e, err := s.next()
	if err == nil && !e.Is(xmpp.Proceed) {
		err = errors.New("the server refused STARTTLS")
	}
	return err
}

// secure puts TLS on top.
func (s *session) secure() error {
	if err := s.transport.secure(); err != nil {
		return err
	}
	s.xml.Secure(s.top)
	return nil
}

// next reads the next element; it is good until the next call. A stream error is an error.
func (s *session) next() (xmlstream.Element, error) { return s.await(s.xml.Next) }

// await calls read with answerTimeout as its deadline.
func (s *session) await(read func() (xmlstream.Element, error)) (xmlstream.Element, error) {
	s.Conn.SetReadDeadline(time.Now().Add(answerTimeout))
	defer s.Conn.SetReadDeadline(time.Time{})
	e, err := read()
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		err = fmt.Errorf("no answer in %v", answerTimeout)
	}
	return e, err
}

// logIn is openStream and a login as the attacker's own user. A wrong password is a failure of the
// attack.
func (l *attacker) logIn(way string) (*session, error) {
	s, err := l.openStream(way)
	if err != nil {
		return nil, err
	}
	if err := s.authenticate(l.a.cfg.User(l.i)); err != nil {
		s.Close()
		return nil, err
	}
	l.a.sessions.Add(1)
	return s, nil
}

// authenticate logs in by the first of xmpp.Preferred that is offered, and binds a resource.
func (s *session) authenticate(user string) error {
	a := s.a
	m, ok := xmpp.Choose(s.mechanisms, xmpp.Preferred)
	if !ok {
		return clientFault{fmt.Errorf("the server offers %.120q, and none of %q", s.mechanisms, xmpp.Preferred)}
	}
	c := &sasl.Client{Mechanism: m, Username: user, Password: sasl.SecretString(a.cfg.Password),
		Rand: rand.Reader}
	text, err := c.Start()
	if err != nil {
		return clientFault{err}
	}
	err = s.auth(m.String(), string(text))
	for err == nil {
		var e xmlstream.Element
		if e, err = s.next(); err != nil {
			break
		}
		switch {
		case e.Is(xmpp.Challenge):
			if text, err = a.derive(c, e.Text()); err == nil {
				err = s.respond(string(text))
			}
		case e.Is(xmpp.Success):
			if err := c.Success(e.Text()); err != nil {
				return clientFault{err}
			}
			return s.bind()
		case e.Is(xmpp.Failure):
			return clientFault{fmt.Errorf("account %s: %s: are there accounts for attackers, and with this "+
				"password?", user, cmp.Or(xmpp.Condition(e, xmpp.NSSASL), "failure"))}
		}
	}
	return err
}

// derive answers a challenge. It takes milliseconds of CPU, which the clients that are measured
// would lack: the accounts have one salt, so the key is derived once.
func (a *Attack) derive(c *sasl.Client, challenge []byte) ([]byte, error) {
	a.deriving.Lock()
	defer a.deriving.Unlock()
	c.Salted = a.salted[c.Mechanism]
	text, err := c.Next(challenge)
	if err == nil {
		a.salted[c.Mechanism] = c.Salted
	}
	return text, err
}

// bind begins a new stream and binds a resource.
func (s *session) bind() error {
	if err := s.exchangeHeaders(); err != nil {
		return err
	}
	if err := s.send(string(xmpp.AppendBind(nil, ""))); err != nil {
		return err
	}
	for {
		e, err := s.next()
		if err != nil {
			return err
		}
		if !e.Is(stanza.IQName) {
			continue
		}
		jid, ok := xmpp.BoundJID(e)
		if !ok {
			return errors.New("the server refused to bind a resource")
		}
		s.jid = string(xmlstream.AppendValue(nil, jid))
		return nil
	}
}

// domain is the server's, escaped for an attribute.
func (a *Attack) domain() string { return string(xmlstream.AppendValue(nil, a.cfg.Domain)) }

// bare is the bare address of the i-th connection's account, escaped for an attribute.
func (a *Attack) bare(i int) string {
	return string(xmlstream.AppendValue(nil, a.cfg.User(i)+"@"+a.cfg.Domain))
}
