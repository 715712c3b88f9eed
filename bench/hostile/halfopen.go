package hostile

import (
	"strings"
	"time"

	"canto/bench/xmpp"
)

// halfOpen is a connection that stops before login. Of two attackers one keeps its connections
// until the server ends them (attack T17), and the other closes them soon, to leave something
// behind (T01).
//
// There are twelve ways in turn: before the stream header, within it, after it, a byte a second,
// blanks, within SASL, and the same for the TLS handshake.
func halfOpen(l *attacker, round int) error {
	life, pause := time.Hour, time.Second
	if l.i%2 == 1 {
		life, pause = time.Duration(l.rng.Int64N(int64(300*time.Millisecond))), 20*time.Millisecond
	}
	header, hello := l.a.header(), string(l.a.hello)
	const shaking = 6 // from here on a TLS handshake stops
	n := (l.i/2 + round) % 12
	var s *session
	var err error
	switch {
	case n >= shaking:
		s, err = l.beforeTLS()
	case l.a.cfg.Addr.IsValid():
		s, err = l.connect(l.a.cfg.Addr)
	default:
		if s, err = l.connect(l.a.cfg.Direct); err == nil {
			if err = s.secure(); err != nil {
				s.Close()
			}
		}
	}
	if err != nil {
		return err
	}
	defer s.Close()
	switch n {
	case 0: // says nothing
	case 1:
		err = s.sendCounted(1, header[:len(header)/2])
	case 2: // the client does not choose from the features
		err = s.sendCounted(1, header)
	case 3:
		err = s.trickle(header, pause, life)
	case 4:
		err = s.trickle(strings.Repeat(" ", 1000), pause, life)
	case 5: // a login that stops
		err = s.sendCounted(1, header+"<auth xmlns='"+xmpp.NSSASL+
			"' mechanism='SCRAM-SHA-1'>biwsbj1ub2JvZHkscj1hYmNkZWY=</auth>")
	case 6: // no handshake
	case 7:
		err = s.sendCounted(1, hello[:len(hello)/2])
	case 8: // the head of a record of 16 KiB that does not follow
		err = s.sendCounted(1, "\x16\x03\x01\x40\x00")
	case 9, 10: // the server has done the expensive part, and waits for the Finished message
		err = s.sendCounted(1, hello)
	case 11:
		err = s.trickle(hello, pause, life)
	}
	if err == nil {
		err = s.readFor(life)
	}
	if err != nil {
		return err
	}
	if round%2 == 0 {
		s.closeGracefully()
	}
	return errDone
}
