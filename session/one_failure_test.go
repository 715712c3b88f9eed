package session_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/mod"
	"canto/session/sessiontest"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/xmlstream"
)

// A hooked is a module of a test.
type hooked func(api *session.API) error

func (h hooked) Load(api *session.API) error { return h(api) }

// withModule returns a server with all modules and one of the test's own.
func withModule(t *testing.T, opt sessiontest.Options,
	load func(api *session.API) error) *sessiontest.Server {
	t.Helper()
	opt.Shelf = append([]session.Manifest{{Name: "of-the-test", Spec: "a test", New: func() session.Module {
		return hooked(load)
	}}}, mod.All...)
	opt.Modules = append(mod.DefaultNames(), "of-the-test")
	return sessiontest.New(t, opt)
}

func panicIf(cond bool) {
	if cond {
		panic("for the test")
	}
}

// works checks that other users on every loop exchange messages, are answered, and see presence.
func works(t *testing.T, s *sessiontest.Server) {
	t.Helper()
	for i := range 4 {
		a, b := s.Login(fmt.Sprint("a", i), fmt.Sprintf("a%d@localhost/x", i)),
			s.Login(fmt.Sprint("b", i), fmt.Sprintf("b%d@localhost/x", i))
		a.Send(fmt.Sprintf("<presence/><iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq><iq "+
			"type='get' id='2' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>"+
			"<message to='b%d@localhost/x' type='chat'><body>Hi</body></message><presence to='b%d@localhost/x'/>", i,
			i))
		s.Settle()
		if got := a.Received(); !strings.Contains(got, "id='1'") || !strings.Contains(got, "id='2'") ||
			!strings.Contains(got, "<presence") {
			t.Errorf("pair %d: the first got %q", i, got)
		}
		if got := b.Received(); !strings.Contains(got, "<body>Hi</body>") || !strings.Contains(got, "<presence") {
			t.Errorf("pair %d: the second got %q", i, got)
		}
	}
}

// A panic in a hook that processes mail costs that stanza alone: the loop routes the rest of its
// mail, then and later.
func TestPanicInMail(t *testing.T) {
	armed := false
	s := withModule(t, sessiontest.Options{AllowPanics: true}, func(api *session.API) error {
		api.Hooks.Presence[session.ToBare].Add(api.Module, session.Guard, func(ev *session.Stanza) session.Verdict {
			panicIf(armed && ev.To.Local() == "victim")
			return session.Pass
		})
		return nil
	})
	s.Login("victim", "victim@localhost/x") // in memory, so that nothing waits for it
	romeo := s.Login("romeo", "romeo@localhost/x")
	juliet := s.Login("juliet", "juliet@localhost/x")
	armed = true
	// The subscription stanza is mail from the bare JID; what follows it in the same read is not lost.
	romeo.Send("<presence to='victim@localhost' type='subscribe'/><presence to='juliet@localhost' " +
		"type='subscribe'/><iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
	s.Settle()
	if got := romeo.Received(); !strings.Contains(got, "id='p'") {
		t.Errorf("romeo got %q", got)
	}
	juliet.Send("<presence/>")
	if got := juliet.Received(); !strings.Contains(got, "type='subscribe'") {
		t.Errorf("juliet got %q", got)
	}
	works(t, s)
}

// A panic at one recipient of a broadcast, small or large, costs the other recipients nothing,
// and the sender's account goes on.
func TestPanicInBroadcast(t *testing.T) {
	for _, n := range []int{10, 200} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			armed := false
			s := withModule(t, sessiontest.Options{AllowPanics: true}, func(api *session.API) error {
				for _, to := range []session.Target{session.ToBare, session.ToFull} {
					api.Hooks.Message[to].Add(api.Module, session.Guard, func(ev *session.Stanza) session.Verdict {
						panicIf(armed && strings.HasSuffix(ev.To.Local(), "7"))
						return session.Pass
					})
				}
				return nil
			})
			star := s.Login("star", "star@localhost/x")
			recipients := &session.Recipients{}
			recipients.Reset(len(s.Router.LoopRouters()))
			var fans []*sessiontest.Client
			for i := range n {
				c := s.Login(fmt.Sprint("fan", i), fmt.Sprintf("fan%d@localhost/x", i))
				fans = append(fans, c)
				to, err := jid.Parse(c.JID)
				if err != nil {
					t.Fatal(err)
				}
				recipients.Add(to)
			}
			armed = true
			host, _ := s.Router.Table.Host("localhost")
			me, _ := jid.Parse(star.JID)
			l := s.Stream(star).LoopRouter()
			l.Loop.Post(func() {
				l.Enter(func() {
					l.WithAccount(host, star.Bare(), func(l *session.LoopRouter, a *session.Account, _ bool, err error) {
						l.Fanout(a, me, []byte("<message type='headline'><body>news</body></message>"), recipients)
					})
				})
			})
			s.Settle()
			for i, c := range fans {
				if got := strings.Contains(c.Received(), "news"); got == (i%10 == 7) {
					t.Errorf("fan %d got it: %v", i, got)
				}
			}
			star.Send("<iq type='get' id='after'><ping xmlns='urn:xmpp:ping'/></iq>")
			s.Settle()
			if got := star.Received(); !strings.Contains(got, "id='after'") {
				t.Errorf("the star got %q", got)
			}
			armed = false
			works(t, s)
		})
	}
}

// A panic in a callback that waits for a commit, or for a worker, costs that request, which is
// answered (RFC 6120 section 8.2.3). Other callbacks that wait go on.
func TestPanicWhereARequestWaits(t *testing.T) {
	name := xmlstream.N("urn:of-the-test", "q")
	for _, how := range []string{"commit", "worker"} {
		t.Run(how, func(t *testing.T) {
			s := withModule(t, sessiontest.Options{AllowPanics: true}, func(api *session.API) error {
				api.Hooks.OnIQ(api.Module, true, name, func(ev *session.Stanza) session.Verdict {
					then := func(ev *session.Stanza, err error) session.Verdict {
						panicIf(string(ev.ID()) == "bad")
						return ev.Reply(nil)
					}
					if how == "commit" {
						return ev.Commit(session.Ticket(api.Router.Committer.LastSettled()+1), then)
					}
					return ev.Await(reactor.Disk, func() error { return nil }, then)
				}, session.ToSelf)
				return nil
			})
			one, two := s.Login("one", "one@localhost/x"), s.Login("two", "two@localhost/x")
			set := "<iq type='set' id='%s'><q xmlns='urn:of-the-test'/></iq>"
			one.Send(fmt.Sprintf(set, "bad") + "<iq type='get' id='next'><ping xmlns='urn:xmpp:ping'/></iq>")
			two.Send(fmt.Sprintf(set, "good"))
			s.AddAccount("another@localhost") // a commit, so that the tickets are settled
			s.Settle()
			got := one.Received()
			if !strings.Contains(got, "<iq type='error' id='bad'") ||
				!strings.Contains(got, "internal-server-error") || !strings.Contains(got, "id='next'") {
				t.Errorf("the client with the handler that panics got %q", got)
			}
			if got := two.Received(); !strings.Contains(got, "<iq type='result' id='good'") {
				t.Errorf("the other got %q", got)
			}
			works(t, s)
		})
	}
}

// A panic in a hook that is called at a session's end does not keep the session in its account.
func TestPanicAtUnbind(t *testing.T) {
	s := withModule(t, sessiontest.Options{AllowPanics: true}, func(api *session.API) error {
		api.Hooks.Unbound.Add(api.Module, session.Guard, func(_ *session.LoopRouter, se *session.Session) {
			panicIf(se.JID().Local() == "juliet")
		})
		return nil
	})
	juliet, romeo := s.Login("juliet", "juliet@localhost/x"), s.Login("romeo", "romeo@localhost/x")
	juliet.Send("<presence/>")
	juliet.DropConn()
	s.Settle()
	romeo.Send("<message to='juliet@localhost' type='chat'><body>kept</body></message><iq type='get' " +
		"id='q' to='juliet@localhost/x'><ping xmlns='urn:xmpp:ping'/></iq>")
	s.Settle()
	if got := romeo.Received(); !strings.Contains(got, "id='q'") ||
		!strings.Contains(got, "service-unavailable") {
		t.Errorf("romeo got %q", got)
	}
	again := s.Login("again", "juliet@localhost/y")
	again.Send("<presence/>")
	s.Settle()
	if got := again.Received(); !strings.Contains(got, "kept") {
		t.Errorf("juliet got %q", got)
	}
	works(t, s)
}

// A request that has waited in an account's inbox, and that makes a hook panic, is answered.
func TestPanicInInboxIsAnswered(t *testing.T) {
	s := withModule(t, sessiontest.Options{AllowPanics: true}, func(api *session.API) error {
		api.Hooks.IQ[session.ToBare].Add(api.Module, session.Guard, func(ev *session.Stanza) session.Verdict {
			panicIf(string(ev.ID()) == "bad")
			return session.Pass
		})
		return nil
	})
	s.AddAccount("juliet@localhost")
	romeo := s.Login("romeo", "romeo@localhost/x")
	romeo.Send("<iq type='get' id='bad' to='juliet@localhost'><vCard xmlns='vcard-temp'/></iq><iq " +
		"type='get' id='good' to='juliet@localhost'><vCard xmlns='vcard-temp'/></iq>")
	s.Settle()
	if got := romeo.Received(); !strings.Contains(got, "id='bad'") ||
		!strings.Contains(got, "internal-server-error") || !strings.Contains(got, "id='good'") {
		t.Errorf("romeo got %q", got)
	}
}

// Work that ends after its request has timed out does not let a stream continue that waits for
// something else by then: its requests are answered in their order.
func TestLateWorkUnparksNothing(t *testing.T) {
	name := xmlstream.N("urn:of-the-test", "q")
	s := withModule(t, sessiontest.Options{Slow: func() time.Duration {
		return 0
	}}, func(api *session.API) error {
		api.Hooks.OnIQ(api.Module, true, name, func(ev *session.Stanza) session.Verdict {
			return ev.Await(reactor.Disk, func() error {
				return nil
			}, func(ev *session.Stanza, err error) session.Verdict { return ev.Reply(nil) })
		}, session.ToSelf)
		return nil
	})
	c := s.Login("c", "c@localhost/x")
	held := s.PauseWorkers()
	set := "<iq type='set' id='%d'><q xmlns='urn:of-the-test'/></iq>"
	c.Send(fmt.Sprintf(set, 1))
	s.Advance(31 * time.Second)
	if got := c.Received(); !strings.Contains(got, "id='1'") || !strings.Contains(got, "remote-server-timeout") {
		t.Fatalf("after 31 s: %q", got)
	}
	c.Send(fmt.Sprintf(set, 2) + "<iq type='get' id='3'><ping xmlns='urn:xmpp:ping'/></iq>")
	if len(held.Jobs) != 2 {
		t.Fatalf("%d works are under way", len(held.Jobs))
	}
	held.StartNext() // the first one ends at last
	s.Settle()
	if got := c.Received(); got != "" {
		t.Errorf("the third request overtook the second: %q", got)
	}
	held.StartNext()
	s.Settle()
	got := c.Received()
	if two, three := strings.Index(got, "id='2'"), strings.Index(got, "id='3'"); two < 0 || three < two ||
		strings.Contains(got, "id='1'") {
		t.Errorf("in the end: %q", got)
	}
}

// Contacts see a session end at once when an operator ends it.
func TestKickIsSeen(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	one, two := s.Login("one", "juliet@localhost/one"), s.Login("two", "romeo@localhost/two")
	two.Send("<presence/>")
	one.Send("<presence/><presence to='romeo@localhost/two'/>")
	two.Received()
	one.Conn().SetWindow(0)
	one.Send("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>") // its connection can't close yet
	s.Router.Kick(one.Bare(), session.ErrNotAuthorized)
	for s.Net.RunTurn() { // no time passes
	}
	if got := string(two.Conn().Take()); !strings.Contains(got, "type='unavailable'") {
		t.Errorf("romeo got %q", got)
	}
}

// An unloading is a module that notes when it is unloaded.
type unloading struct {
	load     func(api *session.API) error
	unloaded *bool
}

func (u unloading) Load(api *session.API) error { return u.load(api) }
func (u unloading) Unload() error               { *u.unloaded = true; return nil }

// A profile that no host uses any more is unloaded when nothing of it is in flight: no request on
// a worker, no load.
func TestRetireWaits(t *testing.T) {
	name := xmlstream.N("urn:of-the-test", "q")
	unloaded, answered := false, false
	part := session.NewPart[int]("of-the-test")
	shelf := append([]session.Manifest{{Name: "of-the-test", Spec: "a test", New: func() session.Module {
		return unloading{func(api *session.API) error {
			session.Resident(api, part, func(any, session.EntityRef) (*int, error) {
				if unloaded {
					return nil, errors.New("a module that is unloaded is asked to load")
				}
				return nil, nil
			})
			api.Hooks.OnIQ(api.Module, true, name, func(ev *session.Stanza) session.Verdict {
				return ev.Await(reactor.Disk, func() error {
					return nil
				}, func(ev *session.Stanza, err error) session.Verdict {
					answered = !unloaded
					return ev.Reply(nil)
				})
			}, session.ToSelf)
			return nil
		}, &unloaded}
	}}}, mod.All...)
	s := sessiontest.New(t, sessiontest.Options{Shelf: shelf,
		Modules: append(mod.DefaultNames(), "of-the-test")})
	c := s.Login("c", "c@localhost/x")
	s.AddAccount("cold@localhost")
	held := s.PauseWorkers()
	c.Send("<message to='cold@localhost' type='chat'><body>has it read</body></message><iq type='set' " +
		"id='1'><q xmlns='urn:of-the-test'/></iq>")
	host, _ := s.Router.Table.Host("localhost")
	done := false
	s.Router.RetireProfile(host.Profile(), func(error) { done = true })
	for len(held.Jobs) > 0 {
		s.Advance(2 * time.Second)
		if unloaded {
			t.Fatalf("it was unloaded with %d works under way", len(held.Jobs))
		}
		held.StartNext()
		s.Settle()
	}
	s.Advance(2 * time.Second)
	if !unloaded || !done || !answered {
		t.Errorf("unloaded %v, told %v, the request answered before it %v", unloaded, done, answered)
	}
}

// A request, or a step of a negotiation, that waits for its start is in flight too: a reload in
// the meantime does not unload the module that has to work and to answer.
func TestRetireWaitsForWhatHasNotBegun(t *testing.T) {
	name := xmlstream.N("urn:of-the-test", "q")
	for how, do := range map[string]func(s *sessiontest.Server, c *sessiontest.Client){
		"a second request of one asker": func(_ *sessiontest.Server, c *sessiontest.Client) {
			get := "<iq type='get' id='%d' to='juliet@localhost'><q xmlns='urn:of-the-test'/></iq>"
			c.Send(fmt.Sprintf(get, 1) + fmt.Sprintf(get, 2))
		},
		"Delay": func(_ *sessiontest.Server, c *sessiontest.Client) { c.Send("<q xmlns='urn:of-the-test'/>") },
		"AwaitTurn": func(s *sessiontest.Server, _ *sessiontest.Client) {
			// Both are of one loop, and the first takes all that unauthenticated connections may have in a turn.
			for _, name := range []string{"juliet", "nurse"} {
				s.Client(name).Conn().Write([]byte("<q xmlns='urn:of-the-test'/>"))
			}
			s.Net.RunTurn()
		},
	} {
		t.Run(how, func(t *testing.T) {
			unloaded, answers := false, 0
			answered := func() {
				if !unloaded {
					answers++
				}
			}
			load := func(api *session.API) error {
				api.Hooks.OnIQ(api.Module, false, name, func(ev *session.Stanza) session.Verdict {
					return ev.Await(reactor.Disk, nothing, func(ev *session.Stanza, err error) session.Verdict {
						answered()
						return ev.Reply(nil)
					})
				}, session.ToBare)
				api.Hooks.Features = append(api.Hooks.Features,
					session.StreamFeature{Name: name, Handle: func(st session.Negotiation, _ xmlstream.Element) {
						if how == "Delay" {
							st.Delay(60, answered)
							return
						}
						st.AwaitAdmission(reactor.Crypto, 2_000_000, nothing, func(error) { answered() })
					}})
				return nil
			}
			first := true
			shelf := append([]session.Manifest{{Name: "of-the-test", Spec: "a test", New: func() session.Module {
				if first {
					first = false
					return unloading{load, &unloaded}
				}
				return unloading{load, new(bool)}
			}}}, mod.All...)
			s := sessiontest.New(t, sessiontest.Options{Shelf: shelf,
				Modules: append(mod.DefaultNames(), "of-the-test")})
			s.Login("juliet", "juliet@localhost/x")
			romeo := s.Login("romeo", "romeo@localhost/x")
			s.Login("nurse", "nurse@localhost/x")
			p, err := s.NewProfile()
			if err != nil {
				t.Fatal(err)
			}
			held := s.PauseWorkers()
			do(s, romeo)
			host, _ := s.Router.Table.Host("localhost")
			old := host.SwapProfile(p)
			s.Router.RetireProfile(old, func(error) {})
			want := map[string]int{"Delay": 1}[how]
			if want == 0 {
				want = 2
				if len(held.Jobs) != 1 {
					t.Fatalf("%d works of 2 have begun", len(held.Jobs))
				}
				held.StartNext()
			}
			s.Advance(time.Second)
			if unloaded {
				t.Errorf("it was unloaded with %d of %d answers to come", want-answers, want)
			}
			for range 10 {
				s.Advance(time.Second)
				for len(held.Jobs) > 0 {
					held.StartNext()
				}
				s.Settle()
			}
			if !unloaded || answers != want {
				t.Errorf("unloaded: %v; %d answers before it, want %d", unloaded, answers, want)
			}
		})
	}
}

// No stanza stops its sender for longer than the time to earn a burst, however many congested
// clients it goes to and however large it is.
func TestCrowdPriceHasAnEnd(t *testing.T) {
	lim := session.DefaultLimits()
	lim.Stanza, lim.Rate, lim.RateBurst = 16<<20, 1<<20, 16<<20
	lim.ResourcesPerAccount = 100
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim, Reactor: func(c *reactor.Config) {
		c.OutboxBytes = 1 << 30
	}})
	for i := range 40 {
		c := s.Login(fmt.Sprint("c", i), fmt.Sprintf("victim@localhost/%d", i))
		c.Send("<presence/>")
		c.Conn().SetWindow(0)
		c.Conn().Conn().Append([]byte("<message><body>" + strings.Repeat("x", 300<<10) + "</body></message>"))
	}
	romeo := s.Login("romeo", "romeo@localhost/x")
	s.Settle() // what the victim has begun is done: the message is delivered at once
	romeo.Send("<message to='victim@localhost' type='chat'><body>" + strings.Repeat("x", 4<<20) +
		"</body></message>")
	if s.Stream(romeo).CanReceive() {
		t.Error("a message to 40 clogged clients costs its sender nothing")
	}
	s.Advance(18 * time.Second) // a burst is 16 MiB, and 1 MiB is earned in a second
	romeo.Send("<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>")
	if got := romeo.Received(); !strings.Contains(got, "id='1'") {
		t.Error("after that time its sender is still stopped")
	}
}

// Each limit that is hit is counted by its name.
func TestLimitsAreCounted(t *testing.T) {
	lim := session.DefaultLimits()
	lim.Rate = 0
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim, Reactor: func(c *reactor.Config) {
		c.OutboxBytes = 10_000
	}})
	count := func(limit string) (n uint64) {
		for _, l := range s.Router.LoopRouters() {
			n += l.Stats().Limits[limit]
		}
		return n
	}
	slow, romeo := s.Login("slow", "slow@localhost/x"), s.Login("romeo", "romeo@localhost/x")
	slow.Conn().SetWindow(0)
	for range 200 {
		romeo.Send("<message to='slow@localhost/x' type='chat'><body>" + strings.Repeat("x", 8000) +
			"</body></message>")
	}
	s.Advance(5 * time.Second)
	if n := count("outbox"); n != 1 {
		t.Errorf("outbox: %d", n)
	}
	// A session with a stream that ends by itself is no slow consumer.
	gone := s.Login("gone", "gone@localhost/x")
	gone.Conn().SetWindow(0)
	gone.Send("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
	gone.Send("</stream:stream>")
	romeo.Send("<message to='gone@localhost/x' type='chat'><body>Hi</body></message>")
	s.Advance(5 * time.Second)
	if n := count("outbox"); n != 1 {
		t.Errorf("outbox, after a clean end: %d", n)
	}
	// A session that is backlogged and has no room for more.
	s.AddAccount("late@localhost")
	for range 20 {
		romeo.Send("<message to='late@localhost' type='chat'><body>" + strings.Repeat("x", 8000) +
			"</body></message>")
	}
	s.Settle()
	late := s.Login("late", "late@localhost/x")
	late.Conn().SetWindow(0)
	late.Send("<presence/>")
	s.Settle()
	for range 200 {
		romeo.Send("<message to='late@localhost/x' type='chat'><body>" + strings.Repeat("x", 8000) +
			"</body></message>")
	}
	s.Settle()
	if n := count("held"); n == 0 || late.Conn().Ended() {
		t.Errorf("held: %d, ended %v", n, late.Conn().Ended())
	}
}

// A panic in an Outgoing hook, under the outbox lock, ends that stanza alone: the lock is
// released.
func TestPanicInOutgoing(t *testing.T) {
	s := withModule(t, sessiontest.Options{AllowPanics: true}, func(api *session.API) error {
		api.Hooks.Outgoing.Add(api.Module, session.Guard,
			func(_ session.Outbox, p session.OutboundStanza) session.Verdict {
				panicIf(strings.Contains(string(p.Bytes), "poison"))
				return session.Pass
			})
		return nil
	})
	juliet, romeo, nurse := s.Login("juliet", "juliet@localhost/x"), s.Login("romeo", "romeo@localhost/x"),
		s.Login("nurse", "nurse@localhost/x")
	romeo.Send("<message to='juliet@localhost/x' type='chat'><body>poison</body></message>")
	nurse.Send("<message to='juliet@localhost/x' type='chat'><body>Hi</body></message>")
	if got := juliet.Received(); !strings.Contains(got, "<body>Hi</body>") {
		t.Errorf("juliet got %q", got)
	}
	works(t, s)
}

// If a hook panics at a contact of an account that is deleted, the contact is notified again: rows
// are erased when all contacts have been notified.
func TestPanicAtAContact(t *testing.T) {
	panics := 0
	s := withModule(t, sessiontest.Options{AllowPanics: true}, func(api *session.API) error {
		api.Hooks.Presence[session.ToBare].Add(api.Module, session.Deliver,
			func(ev *session.Stanza) session.Verdict {
				if panics > 0 && ev.Type == stanza.TypeUnsubscribed {
					panics--
					panic("for the test")
				}
				return session.Pass
			})
		return nil
	})
	romeo, juliet := s.Login("romeo", "romeo@localhost/x"), s.Login("juliet", "juliet@localhost/x")
	romeo.Send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq><presence " +
		"to='juliet@localhost' type='subscribe'/>")
	s.Settle()
	juliet.Send("<presence to='romeo@localhost' type='subscribed'/>")
	s.Settle()
	romeo.Received()
	panics = 1
	gone, err := s.DB.Accounts().Delete(t.Context(), "localhost", "juliet")
	if err != nil {
		t.Fatal(err)
	}
	if err := storage.FinishDeletion(s.Router, s.DB, gone, nil); err != nil {
		t.Fatal(err)
	}
	s.Settle()
	for range 30 {
		s.Advance(time.Second)
		s.Settle()
	}
	if got := romeo.Received(); panics != 0 || !strings.Contains(got, "subscription='none'") {
		t.Errorf("%d panics are left; romeo got %q", panics, got)
	}
}
