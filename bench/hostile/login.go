package hostile

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"canto/bench/xmpp"
	"canto/session/sasl"
	"canto/xmlstream"
)

// guessPasswords is a connection that tries to log in until the server ends it. Its passwords are
// wrong.
func guessPasswords(l *attacker, _ int) error {
	s, err := l.openStream(l.a.cfg.TLS)
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		if err := l.a.attempt(1); err != nil {
			return err
		}
		if err := s.tryLogin(); err != nil {
			return err
		}
	}
}

// tryLogin is one failed login. It chooses a user that exists or not, and a mechanism. Some
// messages are no base64 or too long; PLAIN has a wrong password; SCRAM is aborted, left in the
// middle, or has a forged nonce, channel binding or proof. The error ends the connection.
func (s *session) tryLogin() error {
	rng := s.l.rng
	user := s.a.cfg.User(s.l.i)
	if rng.IntN(2) == 0 {
		user = fmt.Sprintf("nobody%d", rng.IntN(100000))
	}
	name := "GSSAPI" // which is not offered
	if len(s.mechanisms) > 0 && rng.IntN(10) > 0 {
		name = strings.TrimSuffix(s.mechanisms[rng.IntN(len(s.mechanisms))], "-PLUS")
	}
	mechanism, known := sasl.ParseMechanism(name)
	switch way := rng.IntN(10); {
	case !known:
		return s.loginAtOnce(name, "YWJj")
	case way == 0:
		return s.loginAtOnce(name, "!!!")
	case way == 1: // as much as a server may take before login
		return s.loginAtOnce(name, strings.Repeat("QUFB", 1000))
	case mechanism == sasl.Plain && way%2 == 0:
		return s.loginAtOnce(name, encode("admin@"+s.a.cfg.Domain+"\x00"+user+"\x00wrong"))
	case mechanism == sasl.Plain:
		return s.loginAtOnce(name, encode(fmt.Sprintf("\x00%s\x00%x", user, rng.Uint64())))
	}
	if err := s.auth(name, encode(fmt.Sprintf("n,,n=%s,r=%016x", user, rng.Uint64()))); err != nil {
		return err
	}
	e, err := s.next()
	if err != nil {
		return err
	}
	if !e.Is(xmpp.Challenge) {
		return s.classify(e)
	}
	first, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(e.Text())))
	nonce, _, ok := strings.Cut(strings.TrimPrefix(string(first), "r="), ",")
	if err != nil || !ok {
		return errors.New("the server's challenge is none of SCRAM")
	}
	proof := ",p=" + encode(strings.Repeat("\x07", mechanism.Hash().Size()))
	final := ""
	switch rng.IntN(7) {
	case 0:
		if err := s.send("<abort xmlns='" + xmpp.NSSASL + "'/>"); err != nil {
			return err
		}
		return s.answer()
	case 1:
		return errDone // in the middle of it
	case 2:
		final = "c=biws,r=" + nonce[:len(nonce)-1] + proof
	case 3: // other channel binding than in the first message
		final = "c=eSws,r=" + nonce + proof
	case 4:
		final = "c=biws,r=" + nonce
	default:
		final = "c=biws,r=" + nonce + proof
	}
	if err := s.respond(encode(final)); err != nil {
		return err
	}
	return s.answer()
}

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func (s *session) auth(mechanism, text string) error {
	return s.send(string(xmpp.AppendAuth(nil, mechanism, text)))
}

func (s *session) respond(text string) error {
	return s.send(string(xmpp.AppendResponse(nil, xmpp.NSSASL, text)))
}

// loginAtOnce is a login in one message.
func (s *session) loginAtOnce(mechanism, text string) error {
	if err := s.auth(mechanism, text); err != nil {
		return err
	}
	return s.answer()
}

func (s *session) answer() error {
	e, err := s.next()
	if err != nil {
		return err
	}
	return s.classify(e)
}

// classify counts a refusal. A login that succeeds is a failure of the attack: there must be no
// such hole.
func (s *session) classify(e xmlstream.Element) error {
	switch {
	case e.Is(xmpp.Failure):
		if xmpp.Condition(e, xmpp.NSSASL) != "aborted" {
			s.a.refused.Add(1)
		}
		return nil
	case e.Is(xmpp.Success):
		return clientFault{errors.New("the server accepted a wrong password")}
	case e.Is(xmpp.Challenge): // to a message that is no valid first message
		if err := s.send("<abort xmlns='" + xmpp.NSSASL + "'/>"); err != nil {
			return err
		}
		return s.answer()
	}
	return fmt.Errorf("the server answered a login with <%.40s/>", e.Local())
}
