package session_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod"
	"canto/session/sessiontest"
)

var halls = session.NewKind("test-hall")

// A hall is a kind of entity with very many occupants. A client that joins is sent their presence
// in shares; a groupchat message is broadcast to the clients that have joined.
type hall struct {
	recipients *session.Recipients
	said       int
}

const (
	hallSize  = 10_000
	hallShare = 40
)

func loadHall(api *session.API) error {
	b := api.Hooks.Serve(halls)
	b.New = func(l *session.LoopRouter, e *session.Entity) any {
		return &hall{recipients: session.NewRecipients(e, l)}
	}
	b.More = func(l *session.LoopRouter, e *session.Entity, to jid.JID, what []byte) {
		at, _ := strconv.Atoi(string(what))
		for i := at; i < min(at+hallShare, hallSize); i++ {
			from, _ := jid.New(e.JID().Local(), e.JID().Domain(), fmt.Sprint("nick", i))
			l.Send(from, to, fmt.Appendf(nil, "<presence><status>%d %s</status></presence>", i,
				strings.Repeat("x", 1000)))
		}
		if at+hallShare < hallSize {
			l.MoreWhenDrained(e, to, fmt.Append(nil, at+hallShare))
		}
	}
	b.Presence[session.ToFull].Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
		session.Live[hall](ev.Entity()).recipients.AddSender(ev)
		b.More(ev.LoopRouter(), ev.Entity(), ev.From, []byte("0"))
		return session.Done
	})
	b.Message[session.ToBare].Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
		h := session.Live[hall](ev.Entity())
		h.said++
		ev.LoopRouter().Fanout(ev.Entity(), ev.To, fmt.Appendf(nil, "<message type='groupchat'><body>said "+
			"%d</body></message>", h.said), h.recipients)
		return session.Done
	})
	api.Hooks.Make.Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
		ev.Create(halls)
		return session.Pass
	})
	return nil
}

// A client that joins a hall of thousands gets the presences as it reads them, within its
// outbox's bounds, in order, and with live messages between them.
func TestOffer(t *testing.T) {
	lim := session.DefaultLimits()
	lim.Rate = 0
	opt := sessiontest.Options{Limits: &lim, Hosts: []string{"localhost"}}
	opt.Shelf = append([]session.Manifest{{Name: "of-the-test", Spec: "a test", New: func() session.Module {
		return hooked(loadHall)
	}}}, mod.All...)
	opt.Modules = append(mod.DefaultNames(), "of-the-test")
	s := sessiontest.New(t, opt)
	p, err := s.NewProfile()
	if err != nil {
		t.Fatal(err)
	}
	service, err := session.NewService("halls.localhost", p)
	if err != nil || !s.Router.Table.AddHost(service) {
		t.Fatal("no service", err)
	}
	// Users do not log in there (RFC 6120 section 4.9.3.6).
	c := s.Dial("stranger", 0)
	c.Open("halls.localhost")
	if got := c.Received(); !strings.Contains(got, "<host-unknown") || strings.Contains(got, "<features") {
		t.Fatalf("a stream to a service host: %s", got)
	}
	romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
	juliet.Conn().SetWindow(0)
	juliet.Send("<presence to='hall@halls.localhost/juliet'/>")
	s.Settle()
	most := 0
	for range 20 {
		romeo.Send("<message to='hall@halls.localhost' type='groupchat'><body>x</body></message>")
		s.Advance(time.Second)
		n := 0
		for _, l := range s.Net.Loops() {
			n += l.Meter().OutboxBytes
		}
		most = max(most, n)
	}
	if juliet.Conn().Ended() || most == 0 || most > 512<<10 {
		t.Fatalf("ended: %v; %d bytes waited for a client that does not read", juliet.Conn().Ended(), most)
	}
	juliet.Conn().SetWindow(-1)
	next, said := 0, 0
	for range 50 {
		s.Advance(time.Second)
		s.Settle()
		for _, m := range regexp.MustCompile(`<status>(\d+) |said (\d+)<`).FindAllStringSubmatch(
			juliet.Received(), -1) {
			switch {
			case m[2] == fmt.Sprint(said+1):
				said++
			case m[1] == fmt.Sprint(next) && m[2] == "":
				next++
			default:
				t.Fatalf("%s comes where presence %d or message %d is next", m[0], next, said+1)
			}
		}
	}
	if next != hallSize || said != 20 {
		t.Errorf("%d of %d presences, and %d of 20 messages", next, hallSize, said)
	}
}

var twice = session.NewKind("test-twice")

// An entity with a kept set of recipients, and with a temporary set of the same addresses now and
// then, sends to each recipient in one order, whichever loops serve them.
func TestGatheredReceiversInOrder(t *testing.T) {
	type occupants struct {
		kept *session.Recipients
		all  []jid.JID
		said int
	}
	lim := session.DefaultLimits()
	lim.Rate = 0
	opt := sessiontest.Options{Limits: &lim, Services: []string{"halls.localhost"},
		ServiceModules: []string{"of-the-test"}}
	opt.Shelf = append([]session.Manifest{{Name: "of-the-test", Spec: "a test", Off: true,
		New: func() session.Module {
			return hooked(func(api *session.API) error {
				b := api.Hooks.Serve(twice)
				b.New = func(l *session.LoopRouter, e *session.Entity) any {
					return &occupants{kept: session.NewRecipients(e, l)}
				}
				b.Presence[session.ToFull].Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
					o := session.Live[occupants](ev.Entity())
					o.kept.AddSender(ev)
					o.all = append(o.all, ev.From)
					return session.Done
				})
				b.Message[session.ToBare].Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
					o, l := session.Live[occupants](ev.Entity()), ev.LoopRouter()
					for i := range 6 {
						recipients := o.kept
						if i%2 == 1 {
							recipients = l.TempRecipients()
							for _, to := range o.all {
								recipients.Add(to)
							}
						}
						l.Fanout(ev.Entity(), ev.To, fmt.Appendf(nil,
							"<message type='headline'><body>said %d</body></message>", o.said), recipients)
						o.said++
					}
					return session.Done
				})
				api.Hooks.Make.Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
					ev.Create(twice)
					return session.Pass
				})
				return nil
			})
		}}}, mod.All...)
	s := sessiontest.New(t, opt)
	var clients []*sessiontest.Client
	for i := range 90 {
		c := s.Login(fmt.Sprint("c", i), fmt.Sprintf("c%d@localhost/x", i))
		c.Send("<presence to='one@halls.localhost/n'/>")
		clients = append(clients, c)
	}
	clients[0].Send("<message to='one@halls.localhost'><body>x</body></message>")
	s.Settle()
	for _, c := range clients {
		got := regexp.MustCompile(`said \d+`).FindAllString(c.Received(), -1)
		if want := "[said 0 said 1 said 2 said 3 said 4 said 5]"; fmt.Sprint(got) != want {
			t.Errorf("%s gets %v", c.Name, got)
		}
	}
}
