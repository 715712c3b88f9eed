package hostile

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"canto/session/sasl"
	"canto/session/stanza"
	"canto/xmlstream"
)

const (
	nsTLS    = "urn:ietf:params:xml:ns:xmpp-tls"
	nsSASL   = "urn:ietf:params:xml:ns:xmpp-sasl"
	nsBind   = "urn:ietf:params:xml:ns:xmpp-bind"
	nsLimits = "urn:xmpp:stream-limits:0"
)

var (
	nameFeatures   = xmlstream.N(xmlstream.NSStream, "features")
	nameError      = xmlstream.N(xmlstream.NSStream, "error")
	nameStartTLS   = xmlstream.N(nsTLS, "starttls")
	nameProceed    = xmlstream.N(nsTLS, "proceed")
	nameMechanisms = xmlstream.N(nsSASL, "mechanisms")
	nameChallenge  = xmlstream.N(nsSASL, "challenge")
	nameSuccess    = xmlstream.N(nsSASL, "success")
	nameFailure    = xmlstream.N(nsSASL, "failure")
	nameBind       = xmlstream.N(nsBind, "bind")
	nameJID        = xmlstream.N(nsBind, "jid")
	nameLimits     = xmlstream.N(nsLimits, "limits")
	nameMaxBytes   = xmlstream.N(nsLimits, "max-bytes")
)

// A session is a connection with a stream on it that is read. It blocks.
type session struct {
	*wire
	l          *line
	p          *xmlstream.Parser
	in         xmlstream.Stream
	buf        []byte
	starttls   bool     // offered
	mechanisms []string // offered
	jid        string   // once it is bound
	limit      int      // bytes of a stanza: what the server says (XEP-0478), or what many have
}

// patience is how long an answer may take, which a server under attack may need.
const patience = 20 * time.Second

func (a *Attack) header() string {
	return "<?xml version='1.0'?><stream:stream to='" + a.domain() +
		"' version='1.0' xmlns='jabber:client' xmlns:stream='" + xmlstream.NSStream + "'>"
}

// hail opens a connection that a stream may begin on.
func (l *line) hail(to netip.AddrPort) (*session, error) {
	w, err := l.dial(to)
	if err != nil {
		return nil, err
	}
	return &session{wire: w, l: l, p: xmlstream.NewParser(nil), buf: make([]byte, 4<<10), limit: 256 << 10}, nil
}

// beforeTLS opens a connection on which a handshake is what comes next.
func (l *line) beforeTLS() (*session, error) {
	if l.a.cfg.Direct.IsValid() {
		return l.hail(l.a.cfg.Direct)
	}
	s, err := l.hail(l.a.cfg.Addr)
	if err != nil {
		return nil, err
	}
	if err = s.open(); err == nil {
		err = s.askTLS()
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// stream opens a connection by a way ("none", "starttls", "direct"), and reads what the server offers there
// to who wants to log in.
func (l *line) stream(way string) (*session, error) {
	to := l.a.cfg.Addr
	if way == "direct" {
		to = l.a.cfg.Direct
	}
	s, err := l.hail(to)
	if err != nil {
		return nil, err
	}
	if way == "direct" {
		if err = s.secure(); err == nil {
			err = s.open()
		}
	} else if err = s.open(); err == nil && (way == "starttls" || len(s.mechanisms) == 0) {
		if err = s.askTLS(); err == nil {
			err = s.secure()
		}
		if err == nil {
			err = s.open()
		}
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// open sends a header and reads the features.
func (s *session) open() error {
	s.in.Reset(0)
	if err := s.say(s.a.header()); err != nil {
		return err
	}
	for {
		e, err := s.next()
		if err != nil {
			return err
		}
		if !e.Is(nameFeatures) {
			continue
		}
		_, s.starttls = e.Child(nameStartTLS)
		s.mechanisms = s.mechanisms[:0]
		if m, ok := e.Child(nameMechanisms); ok {
			for k, ok := m.First(); ok; k, ok = k.Next() {
				s.mechanisms = append(s.mechanisms, string(k.Text()))
			}
		}
		if m, ok := e.Child(nameLimits); ok {
			if b, ok := m.Child(nameMaxBytes); ok {
				if n, err := strconv.Atoi(string(b.Text())); err == nil && n > 0 {
					s.limit = min(n, 1<<20) // who allows more is not told how much memory we have
				}
			}
		}
		return nil
	}
}

// askTLS sends <starttls/> and reads the answer.
func (s *session) askTLS() error {
	if !s.starttls {
		return own{errors.New("the server offers no STARTTLS: name its address for TLS first")}
	}
	if err := s.say("<starttls xmlns='" + nsTLS + "'/>"); err != nil {
		return err
	}
	e, err := s.next()
	if err == nil && !e.Is(nameProceed) {
		err = errors.New("the server refused STARTTLS")
	}
	return err
}

// next reads the next element, headers included; it is good until the next call. A stream error is an error.
func (s *session) next() (xmlstream.Element, error) {
	s.Conn.SetReadDeadline(time.Now().Add(patience))
	defer s.Conn.SetReadDeadline(time.Time{})
	return s.listen()
}

// listen is next, however long it takes.
func (s *session) listen() (xmlstream.Element, error) {
	for {
		t, err := s.p.Next(&s.in)
		switch {
		case err == xmlstream.ErrNeedMore:
			n, err := s.top.Read(s.buf)
			if n == 0 && err != nil {
				var late net.Error
				if errors.As(err, &late) && late.Timeout() {
					err = fmt.Errorf("no answer in %v", patience)
				}
				return xmlstream.Element{}, err
			}
			s.p.Feed(&s.in, s.buf[:n])
			continue
		case err != nil:
			return xmlstream.Element{}, err
		case t.End:
			return xmlstream.Element{}, io.EOF
		case t.Whitespace:
			continue
		case t.Is(nameError):
			cond := "error"
			if k, ok := t.First(); ok {
				cond = string(k.Local())
			}
			return xmlstream.Element{}, fmt.Errorf("the server ended the stream: %.60s", cond)
		}
		return t.Element, nil
	}
}

// logIn is stream, and a login as the line's own user. A login that fails for its password is the attack's
// own failure.
func (l *line) logIn(way string) (*session, error) {
	s, err := l.stream(way)
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

func (s *session) authenticate(user string) error {
	a := s.a
	want := []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"}
	n := slices.IndexFunc(want, func(w string) bool { return slices.Contains(s.mechanisms, w) })
	if n < 0 {
		return own{fmt.Errorf("the server offers %.120q, and none of %q", s.mechanisms, want)}
	}
	m, _ := sasl.ParseMechanism(want[n])
	c := &sasl.Client{Mechanism: m, Username: user, Password: sasl.SecretString(a.cfg.Password), Rand: rand.Reader}
	text, err := c.Start()
	if err != nil {
		return own{err}
	}
	err = s.say(fmt.Sprintf("<auth xmlns='%s' mechanism='%s'>%s</auth>", nsSASL, m, text))
	for err == nil {
		var e xmlstream.Element
		if e, err = s.next(); err != nil {
			break
		}
		switch {
		case e.Is(nameChallenge):
			if text, err = a.respond(c, e.Text()); err == nil {
				err = s.say(fmt.Sprintf("<response xmlns='%s'>%s</response>", nsSASL, text))
			}
		case e.Is(nameSuccess):
			if err := c.Success(e.Text()); err != nil {
				return own{err}
			}
			return s.bind()
		case e.Is(nameFailure):
			return own{fmt.Errorf("account %s: %s: are there accounts for attackers, and with this password?", user, condition(e))}
		}
	}
	return err
}

// respond answers a challenge. Deriving takes milliseconds of CPU, which those who are measured would miss: as
// accounts for load tests have one salt, one derives for all.
func (a *Attack) respond(c *sasl.Client, challenge []byte) ([]byte, error) {
	a.deriving.Lock()
	defer a.deriving.Unlock()
	c.Salted = a.salted[c.Mechanism]
	text, err := c.Next(challenge)
	if err == nil {
		a.salted[c.Mechanism] = c.Salted
	}
	return text, err
}

// condition is the name of the first child.
func condition(e xmlstream.Element) string {
	if k, ok := e.First(); ok {
		return string(k.Local())
	}
	return "failure"
}

func (s *session) bind() error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.say("<iq type='set' id='bind'><bind xmlns='" + nsBind + "'/></iq>"); err != nil {
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
		b, _ := e.Child(nameBind)
		if t, _ := e.Attr(stanza.AttrType); string(t) != "result" || b.IsZero() {
			return errors.New("the server refused to bind a resource")
		}
		j, ok := b.Child(nameJID)
		if !ok {
			return errors.New("the server bound no address")
		}
		s.jid = string(xmlstream.AppendValue(nil, j.Text()))
		return nil
	}
}

// domain is the server's, as the value of an attribute.
func (a *Attack) domain() string { return string(xmlstream.AppendValue(nil, a.cfg.Domain)) }

// bare is the address of the account of the i-th connection, as the value of an attribute.
func (a *Attack) bare(i int) string {
	return string(xmlstream.AppendValue(nil, a.cfg.User(i)+"@"+a.cfg.Domain))
}
