package session_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/mod/offline"
	"canto/session/sessiontest"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A peer that has no room for what the server itself sends on its stream does not read: the
// stream ends with policy-violation (RFC 6120 section 4.9.3.14), which is counted, and does not go on
// with an element missing.
func TestNoRoomForANonza(t *testing.T) {
	name := xmlstream.N("urn:of-the-test", "r")
	s := withModule(t, sessiontest.Options{Reactor: func(c *reactor.Config) {
		c.OutboxBytes = 10_000
	}}, func(api *session.API) error {
		api.Hooks.Features = append(api.Hooks.Features,
			session.StreamFeature{Name: name, Needs: session.HasResource,
				Handle: func(st session.Negotiation, e xmlstream.Element) {
					st.Send([]byte("<a xmlns='urn:of-the-test'/>"))
				}})
		return nil
	})
	juliet, romeo := s.Login("juliet", "juliet@localhost/x"), s.Login("romeo", "romeo@localhost/x")
	juliet.Send("<r xmlns='urn:of-the-test'/>")
	if got := juliet.Received(); got != "<a xmlns='urn:of-the-test'/>" {
		t.Fatalf("with room: %q", got)
	}
	juliet.Conn().SetWindow(0)
	for range 12 {
		romeo.Send("<message to='juliet@localhost/x' type='chat'><body>" + strings.Repeat("x", 9_000) +
			"</body></message>")
	}
	juliet.Send("<r xmlns='urn:of-the-test'/>")
	s.Advance(5 * time.Second)
	if n := limit(s, "outbox"); n != 1 || !juliet.Conn().Ended() {
		t.Errorf("counted %d times; ended: %v", n, juliet.Conn().Ended())
	}
}

// limit returns how often a limit was hit.
func limit(s *sessiontest.Server, name string) (n uint64) {
	for _, l := range s.Router.LoopRouters() {
		n += l.Stats().Limits[name]
	}
	return n
}

// keepsHibernating is a module that keeps a session hibernating when its connection is lost.
func keepsHibernating(api *session.API) error {
	api.Hooks.Hibernate.Add(api.Module, session.Deliver,
		func(*session.LoopRouter, *session.Session) session.Verdict {
			return session.Done
		})
	return nil
}

// A hibernating session with a full queue ends: the kernel removes it, its contacts are notified (RFC
// 6121 section 4.5.2), the limit is counted, and its unsent messages are stored, in order.
func TestRestingSessionThatIsFull(t *testing.T) {
	for name, n := range map[string]int{"bytes": 250_000, "elements": 100} {
		t.Run(name, func(t *testing.T) {
			lim := session.DefaultLimits()
			lim.Rate = 0
			s := withModule(t, sessiontest.Options{Limits: &lim, Module: func(_ string, v any) error {
				if o, ok := v.(*offline.Options); ok {
					*o = offline.Options{MaxMessages: 5000, MaxBytes: 64 << 20}
				}
				return nil
			}}, keepsHibernating)
			juliet, romeo, nurse := s.Login("juliet", "juliet@localhost/x"), s.Login("romeo", "romeo@localhost/x"),
				s.Login("nurse", "nurse@localhost/x")
			juliet.Send("<presence/><presence to='nurse@localhost/x'/>")
			nurse.Received()
			juliet.DropConn()
			s.Settle()
			const all = 1010
			sent := 0
			for sent < all && limit(s, "outbox") == 0 {
				romeo.Send(fmt.Sprintf("<message to='juliet@localhost/x' type='chat'><body>number "+
					"%04d%s</body></message>", sent, strings.Repeat("x", n)))
				s.Settle()
				sent++
			}
			romeo.Send("<iq type='get' id='q' to='juliet@localhost/x'><ping xmlns='urn:xmpp:ping'/></iq>")
			s.Settle()
			if got := limit(s, "outbox"); got != 1 || sent == all {
				t.Errorf("the limit was counted %d times, after %d messages", got, sent)
			}
			if got := nurse.Received(); !strings.Contains(got, "type='unavailable'") {
				t.Errorf("a contact was told %q", got)
			}
			if got := romeo.Received(); !strings.Contains(got, "type='error' id='q'") {
				t.Errorf("a request to the session that has ended has no answer: %.300q", got)
			}
			if a, ok := s.Router.Table.LookupAccount(juliet.Bare()); ok && len(a.Resources()) > 0 {
				t.Error("the session is still there")
			}
			again := s.Login("again", "juliet@localhost/x")
			again.Send("<presence/>")
			got := ""
			for range 30 {
				s.Advance(time.Second)
				got += again.Received()
			}
			at := 0
			for i := range sent {
				p := strings.Index(got[at:], fmt.Sprintf("number %04d", i))
				if p < 0 {
					t.Fatalf("message %d of %d is lost, or out of order", i, sent)
				}
				at += p
			}
		})
	}
}

// A pages is a Source of a test.
type pages struct {
	left   int // elements
	size   int // of each
	mark   string
	hush   bool // it has nothing yet
	refuse bool // Wanted says no
	panics string
	next   int

	taken int
	ends  []session.SourceEndReason
}

func (p *pages) Next(l *session.LoopRouter, s *session.Session) (session.OutboundStanza, session.NextStatus) {
	panicIf(p.panics == "next")
	switch {
	case p.hush:
		return session.OutboundStanza{}, session.NextWouldBlock
	case p.next == p.left:
		return session.OutboundStanza{}, session.NextExhausted
	}
	p.next++
	return session.OutboundStanza{Kind: stanza.Message,
		Bytes: []byte(fmt.Sprintf("<message from='archive@localhost'><body>%s %04d%s</body></message>",
			p.mark, p.next, strings.Repeat("x", p.size)))}, session.NextElement
}

func (p *pages) Wanted(*session.Session) bool {
	panicIf(p.panics == "wanted")
	return !p.refuse
}

func (p *pages) Taken(_ *session.LoopRouter, _ *session.Session, n int) {
	panicIf(p.panics == "taken")
	p.taken += n
}

func (p *pages) End(_ *session.LoopRouter, _ *session.Session, why session.SourceEndReason) {
	p.ends = append(p.ends, why)
	panicIf(p.panics == "end")
}

// pulls makes the session of c pull from src.
func pulls(s *sessiontest.Server, c *sessiontest.Client, ahead bool, srcs ...session.Source) {
	st := s.Stream(c)
	h, _ := s.Router.Table.Host("localhost")
	st.LoopRouter().Loop.Post(func() {
		st.LoopRouter().Enter(func() {
			st.LoopRouter().WithAccount(h, c.Bare(), func(l *session.LoopRouter, a *session.Account, _ bool, _ error) {
				for _, src := range srcs {
					a.Resources()[0].Pull(l, src, ahead)
				}
			})
		})
	})
	s.Settle()
}

// reads makes c read so many bytes at a time until nothing arrives any more.
func reads(s *sessiontest.Server, c *sessiontest.Client, n int) (got string) {
	for quiet := 0; quiet < 10; {
		c.Conn().SetWindow(n)
		s.Advance(100 * time.Millisecond)
		s.Settle()
		more := c.Received()
		if got += more; more == "" {
			quiet++
		} else {
			quiet = 0
		}
	}
	return got
}

// A Source of any length does not fill the outbox of a client that reads slowly. The source is
// notified of what the socket has taken, and not before. A live message and presence of others come in
// between, or after it if it blocks live messages.
func TestSource(t *testing.T) {
	for _, ahead := range []bool{false, true} {
		s := sessiontest.New(t, sessiontest.Options{})
		juliet, romeo := s.Login("juliet", "juliet@localhost/x"), s.Login("romeo", "romeo@localhost/x")
		juliet.Send("<presence/>")
		juliet.Received()
		juliet.Conn().SetWindow(0)
		src := &pages{left: 2000, size: 2000, mark: "page"} // four outboxes
		pulls(s, juliet, ahead, src)
		if n := juliet.Conn().Conn().Buffered(); n < 50_000 || n > session.LowWaterMark+3000 {
			t.Errorf("ahead %v: %d bytes wait for the client", ahead, n)
		}
		if src.taken != 0 {
			t.Errorf("ahead %v: %d are taken by a client that has read nothing", ahead, src.taken)
		}
		romeo.Send("<message to='juliet@localhost/x' type='chat'><body>live</body></message><iq type='get' " +
			"id='between' to='juliet@localhost/x'><ping xmlns='urn:xmpp:ping'/></iq>")
		most, got := 0, ""
		for len(src.ends) == 0 && len(got) < 6_000_000 {
			juliet.Conn().SetWindow(50_000)
			s.Advance(100 * time.Millisecond)
			got += juliet.Received()
			most = max(most, juliet.Conn().Conn().Buffered())
			if read := strings.Count(got, "<body>page"); src.taken > read {
				t.Fatalf("ahead %v: %d are taken, and the client has read %d", ahead, src.taken, read)
			}
		}
		got += reads(s, juliet, -1)
		if fmt.Sprint(src.ends) != fmt.Sprint([]session.SourceEndReason{session.SourceDone}) || src.taken != 2000 ||
			strings.Count(got, "<body>page") != 2000 {
			t.Errorf("ahead %v: it ended with %v, %d are taken, %d came", ahead, src.ends, src.taken,
				strings.Count(got, "<body>page"))
		}
		if most > session.LowWaterMark+10_000 {
			t.Errorf("ahead %v: %d bytes waited for the client", ahead, most)
		}
		last, live, between := strings.Index(got, "page 2000"), strings.Index(got, ">live<"),
			strings.Index(got, "id='between'")
		if live < 0 || between < 0 || ahead == (live < last) {
			t.Errorf("ahead %v: the live message is at %d, the request at %d, the last page at %d", ahead, live,
				between, last)
		}
	}
}

// A second Source waits for the end of the first. A source that would block keeps its place until
// it is woken.
func TestSourcesTakeTurns(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	juliet := s.Login("juliet", "juliet@localhost/x")
	one, two := &pages{left: 3, mark: "one", hush: true}, &pages{left: 3, mark: "two"}
	pulls(s, juliet, false, one, two)
	if got := juliet.Received(); got != "" {
		t.Errorf("before the first has something: %q", got)
	}
	one.hush = false
	for _, src := range []session.Source{one, one, two, &pages{}} { // as often as it likes, and for nothing
		s.Stream(juliet).Session().Waker(src).Wake()
	}
	s.Settle()
	got := regexp.MustCompile(`<body>(\w+ \d+)`).FindAllString(juliet.Received(), -1)
	want := "[<body>one 0001 <body>one 0002 <body>one 0003 <body>two 0001 <body>two 0002 <body>two 0003]"
	if fmt.Sprint(got) != want {
		t.Errorf("got %v", got)
	}
	if len(one.ends) != 1 || len(two.ends) != 1 || one.taken != 3 || two.taken != 3 {
		t.Errorf("ends %v and %v, taken %d and %d", one.ends, two.ends, one.taken, two.taken)
	}
}

// A Source ends once, with the reason: with its stream, whether the session ends or hibernates;
// with its last element; when it is not wanted any more; when it panics, which costs nothing
// else. The session goes on.
func TestSourceEnds(t *testing.T) {
	for name, c := range map[string]struct {
		src  pages
		rest bool
		do   func(s *sessiontest.Server, c *sessiontest.Client)
		want session.SourceEndReason
	}{
		"done":              {src: pages{left: 3}, want: session.SourceDone},
		"nothing":           {want: session.SourceDone},
		"unwanted":          {src: pages{left: 3, refuse: true}, want: session.SourceUnwanted},
		"a panic in Next":   {src: pages{left: 3, panics: "next"}, want: session.SourceFailed},
		"a panic in Wanted": {src: pages{left: 3, panics: "wanted"}, want: session.SourceFailed},
		"a panic in Taken":  {src: pages{left: 3, panics: "taken"}, want: session.SourceFailed},
		"a panic in End":    {src: pages{left: 3, panics: "end"}, want: session.SourceDone},
		"the line is lost": {src: pages{hush: true}, do: func(_ *sessiontest.Server, c *sessiontest.Client) {
			c.DropConn()
		}, want: session.SessionEnded},
		"the session rests": {src: pages{hush: true}, rest: true,
			do: func(_ *sessiontest.Server, c *sessiontest.Client) {
				c.DropConn()
			}, want: session.StreamEnded},
		"the peer's end tag": {src: pages{hush: true}, do: func(_ *sessiontest.Server, c *sessiontest.Client) {
			c.Send("</stream:stream>")
		}, want: session.SessionEnded},
		"a kick": {src: pages{hush: true}, do: func(s *sessiontest.Server, c *sessiontest.Client) {
			s.Router.Kick(c.Bare(), session.ErrNotAuthorized)
		}, want: session.SessionEnded},
	} {
		t.Run(name, func(t *testing.T) {
			s := withModule(t, sessiontest.Options{AllowPanics: true}, func(api *session.API) error {
				if c.rest {
					return keepsHibernating(api)
				}
				return nil
			})
			juliet, romeo := s.Login("juliet", "juliet@localhost/x"), s.Login("romeo", "romeo@localhost/x")
			pulls(s, juliet, true, &c.src, &pages{left: 1, mark: "after"})
			if c.do != nil {
				c.do(s, juliet)
				s.Advance(5 * time.Second)
			}
			if fmt.Sprint(c.src.ends) != fmt.Sprint([]session.SourceEndReason{c.want}) {
				t.Errorf("it ended with %v, not %v", c.src.ends, c.want)
			}
			if c.do != nil {
				return
			}
			got := juliet.Received()
			romeo.Send("<message to='juliet@localhost/x' type='chat'><body>live</body></message>")
			s.Settle()
			if got += juliet.Received(); strings.Count(got, ">after 0001<") != 1 || !strings.Contains(got, ">live<") {
				t.Errorf("after it came %q", got)
			}
			works(t, s)
		})
	}
}

// A message between two sessions allocates nothing if an Outgoing hook runs that has a value in
// the outbox of neither.
func TestOutgoingAllocations(t *testing.T) {
	seen := session.NewOutboxVar[int]("of-the-test")
	lim := session.DefaultLimits()
	lim.Rate = 0
	s := withModule(t, sessiontest.Options{Limits: &lim}, func(api *session.API) error {
		api.Hooks.Outgoing.Add(api.Module, session.Guard,
			func(o session.Outbox, p session.OutboundStanza) session.Verdict {
				n := seen.Get(o)
				if n == nil {
					n = new(int)
					seen.Set(o, n)
				}
				*n += len(p.Bytes)
				return session.Pass
			})
		return nil
	})
	juliet, romeo := s.Login("juliet", "juliet@localhost/x"), s.Login("romeo", "romeo@localhost/x")
	juliet.Send("<presence/>")
	msg := []byte("<message to='juliet@localhost/x' type='chat'><body>" + strings.Repeat("x", 100) +
		"</body></message>")
	noAllocations(t, s, romeo, juliet, msg)
}
