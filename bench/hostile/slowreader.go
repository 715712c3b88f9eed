package hostile

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// slowReader is a session that has the server write a lot to it, and does not read it, or a byte a second.
// Even lines write to themselves, odd ones to their neighbours, too.
func slowReader(l *line, round int) error {
	s, err := l.logIn(l.a.cfg.TLS)
	if err != nil {
		return err
	}
	defer s.Close()
	s.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	if err := s.act(1, "<presence/>"); err != nil {
		return err
	}
	// A writer that the server has paused does not notice when it was given up: it lets go at some time.
	var mine atomic.Bool
	life := time.AfterFunc(time.Minute, func() { mine.Store(true); s.Conn.Close() })
	defer life.Stop()
	if l.i/2%2 == 0 {
		s.a.wg.Go(s.sip)
	}
	text := strings.Repeat("But soft, what light through yonder window breaks? ", 80)
	to := s.jid
	if l.i%2 == 1 {
		to = l.a.bare((l.i + 2) % l.a.cfg.Accounts)
	}
	for n := 0; ; n++ {
		var b strings.Builder
		for k, q := range []string{
			"<query xmlns='jabber:iq:roster'/>",
			"<query xmlns='http://jabber.org/protocol/disco#info'/>",
			"<query xmlns='http://jabber.org/protocol/disco#items'/>",
			"<vCard xmlns='vcard-temp'/>",
		} {
			at := ""
			if k == 1 || k == 2 {
				at = " to='" + s.a.domain() + "'"
			}
			fmt.Fprintf(&b, "<iq type='get' id='q%d-%d'%s>%s</iq>", n, k, at, q)
		}
		fmt.Fprintf(&b, "<message type='chat' to='%s' id='m%d'><body>%s</body></message>", s.jid, n, text)
		fmt.Fprintf(&b, "<message type='chat' to='%s' id='n%d'><body>%s</body></message>", to, n, text)
		if err := s.act(6, b.String()); err != nil {
			if mine.Load() {
				return errLeft
			}
			return err
		}
	}
}

// sip takes a byte a second from under TLS: nobody wants to know what it was.
func (s *session) sip() {
	b := make([]byte, 1)
	for {
		if _, err := s.Conn.Read(b); err != nil || sleep(s.a.ctx, time.Second) != nil {
			return
		}
	}
}
