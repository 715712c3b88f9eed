package hostile

import (
	"fmt"
	"strings"

	"canto/bench/xmpp"
	"canto/session/stanza"
	"canto/xmlstream"
)

const (
	contacts  = 32  // that each attacker asks among the others, and that get each of its changes
	strangers = 256 // addresses without accounts, which rosters remember
)

// flipPresence is a session that makes the other attackers its contacts and changes its presence
// all the time.
//
// It logs in and reads requests on another goroutine. In each round it approves the requests, sends
// eight presence changes, and one of six kinds of extra load: subscriptions to strangers, directed
// presence to strangers or to contacts, probes, going offline and back, and revoked subscriptions.
func flipPresence(l *attacker, round int) error {
	s, err := l.logIn(l.a.cfg.TLS)
	if err != nil {
		return err
	}
	defer s.Close()
	end := make(chan error, 1)
	asked := make(chan string, contacts)
	s.a.wg.Go(func() { end <- s.readRequests(asked) })
	const online = "<iq type='get' id='roster'><query xmlns='" + xmpp.NSRoster + "'/></iq><presence/>"
	if err := s.send(online); err != nil {
		return err
	}
	var near []string
	for k := 1; k <= contacts && k < l.a.cfg.Accounts; k++ {
		near = append(near, l.a.bare((l.i+k)%l.a.cfg.Accounts))
	}
	if len(near) == 0 {
		near = append(near, l.a.bare(l.i))
	}
	for n := l.i + round; ; n++ {
		var b strings.Builder
		acts := 0
		add := func(format string, args ...any) {
			fmt.Fprintf(&b, format, args...)
			acts++
		}
		for done := false; !done; {
			select {
			case from := <-asked:
				add("<presence type='subscribed' to='%s'/>", from)
			case err := <-end:
				return err
			default:
				done = true
			}
		}
		if n == l.i { // in the first life
			for _, contact := range near {
				add("<presence type='subscribe' to='%s'/>", contact)
			}
		}
		for k := range 8 {
			add("<presence><show>%s</show><status>%d</status><priority>%d</priority></presence>",
				[...]string{"away", "chat", "xa", "dnd"}[k&3], n, n%100)
		}
		switch n % 6 {
		case 0:
			add("<presence type='subscribe' to='stranger%d@%s'/>", l.rng.IntN(strangers), s.a.domain())
			add("<presence type='unsubscribe' to='stranger%d@%s'/>", l.rng.IntN(strangers), s.a.domain())
		case 1: // directed presence: the server must store the recipients
			for range 8 {
				add("<presence to='stranger%d@%s/r%d'/>", l.rng.IntN(strangers), s.a.domain(), l.rng.IntN(1000))
			}
		case 2:
			for k := range min(8, len(near)) {
				add("<presence to='%s'><status>%d</status></presence>", near[(n+k)%len(near)], n)
			}
		case 3:
			add("<presence type='probe' to='%s'/>", near[n%len(near)])
		case 4:
			add("<presence type='unavailable'/><presence/>")
			acts++
		case 5:
			add("<presence type='unsubscribed' to='%s'/>", l.a.bare(l.i))
		}
		if err := s.sendCounted(acts, b.String()); err != nil {
			return err
		}
	}
}

// readRequests reads the stream until it ends, and passes the addresses of subscription requests
// on, as far as there is room.
func (s *session) readRequests(asked chan<- string) error {
	for {
		e, err := s.xml.Next()
		if err != nil {
			s.Conn.Close() // the writer may wait
			return err
		}
		if !e.Is(stanza.PresenceName) {
			continue
		}
		if t, _ := e.Attr(stanza.AttrType); string(t) == "subscribe" {
			from, _ := e.Attr(stanza.AttrFrom)
			select {
			case asked <- string(xmlstream.AppendValue(nil, from)):
			default:
			}
		}
	}
}
