package hostile

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// slowReader is a session that makes the server write much to it, and does not read, or a byte a
// second. Even attackers write to themselves, odd ones also to their neighbours.
//
// It logs in with a small receive buffer, stores a large vCard, and then sends short requests with
// long answers, until the server or a minute's timer ends it: a client whose output is blocked does
// not notice otherwise that the server has given it up.
func slowReader(l *attacker, round int) error {
	s, err := l.logIn(l.a.cfg.TLS)
	if err != nil {
		return err
	}
	defer s.Close()
	s.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	if err := s.sendCounted(1, "<presence/>"); err != nil {
		return err
	}
	// A writer that the server has paused does not notice when it was given up: it lets go at some time.
	var mine atomic.Bool
	life := time.AfterFunc(time.Minute, func() { mine.Store(true); s.Conn.Close() })
	defer life.Stop()
	if l.i/2%2 == 0 {
		s.a.wg.Go(s.readSlowly)
	}
	// Short questions with a long answer.
	text := strings.Repeat("But soft, what light through yonder window breaks? ", 160)
	if err := s.sendCounted(1, "<iq type='set' id='v'><vCard xmlns='vcard-temp'><DESC>"+text+
		"</DESC></vCard></iq>"); err != nil {
		return err
	}
	to := s.jid
	if l.i%2 == 1 {
		to = l.a.bare((l.i + 2) % l.a.cfg.Accounts)
	}
	for n := 0; ; n++ {
		var b strings.Builder
		acts := 0
		add := func(format string, args ...any) {
			fmt.Fprintf(&b, format, args...)
			acts++
		}
		add("<iq type='get' id='r%d'><query xmlns='jabber:iq:roster'/></iq>", n)
		for _, what := range []string{"info", "items"} {
			add("<iq type='get' id='%s%d' to='%s'><query xmlns='http://jabber.org/protocol/disco#%[1]s'/></iq>",
				what, n, s.a.domain())
		}
		for k := range 6 {
			add("<iq type='get' id='v%d-%d'><vCard xmlns='vcard-temp'/></iq>", n, k)
		}
		for _, to := range []string{s.jid, to} {
			add("<message type='chat' to='%s' id='m%d'><body>%s</body></message>", to, n, text[:4000])
		}
		if err := s.sendCounted(acts, b.String()); err != nil {
			if mine.Load() {
				return errDone
			}
			return err
		}
	}
}

// readSlowly reads a byte of the TCP connection a second.
func (s *session) readSlowly() {
	b := make([]byte, 1)
	for {
		if _, err := s.Conn.Read(b); err != nil || sleep(s.a.ctx, time.Second) != nil {
			return
		}
	}
}
