package room_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/mod/disco"
	"canto/session/sessiontest"
	"canto/session/sessiontest/room"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A fragile makes each function of the kind of rooms panic once if it is armed with the function's name.
type fragile struct{ armed string }

// rage panics if f is armed for that function, and disarms it.
func (f *fragile) rage(function string) {
	if f.armed == function {
		f.armed = ""
		panic("for the test: " + function)
	}
}

// slowly is a request whose handler uses a worker.
var slowly = xmlstream.N("urn:of-the-test", "slowly")

func (f *fragile) Load(api *session.API) error {
	b := api.Hooks.Serve(room.Kind)
	more, marshal, restore, weigh := b.More, b.MarshalLive, b.RestoreLive, b.Footprint
	b.More = func(l *session.LoopRouter, e *session.Entity, to jid.JID, what []byte) {
		f.rage("More")
		more(l, e, to, what)
	}
	b.MarshalLive = func(e *session.Entity, dst []byte) []byte { f.rage("Marshal"); return marshal(e, dst) }
	b.RestoreLive = func(l *session.LoopRouter, e *session.Entity, b []byte) error {
		f.rage("Restore")
		return restore(l, e, b)
	}
	b.Footprint = func(e *session.Entity) int { f.rage("Weigh"); return weigh(e) }
	b.OnIQ(api.Module, false, slowly, func(ev *session.Stanza) session.Verdict {
		return ev.Await(reactor.Disk, func() error { return nil },
			func(ev *session.Stanza, err error) session.Verdict {
				if err != nil {
					return ev.Fail(stanza.InternalServerError)
				}
				f.rage("then of Await")
				return ev.Reply(nil)
			})
	}, session.ToBare)
	d, ok := session.Lookup[*disco.Service](api)
	if !ok {
		return errors.New("there is no service discovery")
	}
	k := d.ForKind(room.Kind)
	k.Info = append(k.Info, func(*session.Stanza, string, *disco.Description) bool {
		f.rage("Info")
		return false
	})
	items := func(*session.Stanza, string, disco.Page) session.Verdict { f.rage("Items"); return session.Pass }
	k.Items = slices.Insert(k.Items, 0, items)
	return nil
}

// on runs f on a loop.
func on(s *sessiontest.Server, f func(l *session.LoopRouter)) {
	l := s.Router.LoopRouters()[0]
	l.Loop.Post(func() { l.Enter(func() { f(l) }) })
	s.Settle()
}

// A panic in any function of the kind of rooms, besides its chains, costs one thing of one room: a request
// is answered with internal-server-error (RFC 6120 section 8.2.3). It is counted once; the occupants stay,
// the next call works, and another room does not notice. (TestPanicInKind has New, Cold, Failed, Ended and
// Timer.)
func TestPanicInFunctionOfARoom(t *testing.T) {
	ask := func(payload string) func(s *sessiontest.Server, c *sessiontest.Client) string {
		return func(s *sessiontest.Server, c *sessiontest.Client) string {
			c.Send("<iq type='get' id='q' to='" + orchard + "'>" + payload + "</iq>")
			s.Settle()
			return c.Received()
		}
	}
	const failed, answer = "<internal-server-error", "<iq type='result' id='q'"
	for _, c := range []struct {
		at     string
		do     func(s *sessiontest.Server, c *sessiontest.Client) string // once with a panic, once without
		panics string                                                    // what do returns with a panic
		works  string                                                    // and without
	}{
		{"Info", ask("<query xmlns='http://jabber.org/protocol/disco#info'/>"), failed, answer},
		{"Items", ask("<query xmlns='http://jabber.org/protocol/disco#items'/>"), failed, answer},
		{"then of Await", ask("<slowly xmlns='urn:of-the-test'/>"), failed, answer},
		// The remaining occupants are not sent; a client that joins may ask again.
		{"More", func(s *sessiontest.Server, c *sessiontest.Client) string {
			c.Send("<presence type='unavailable' to='" + orchard + "/asks'/>" +
				"<presence to='" + orchard + "/asks'><occupants xmlns='urn:canto:test:room'/></presence>")
			s.Settle()
			return fmt.Sprint(strings.Count(c.Received(), "<occupants"), " occupants")
		}, "49 occupants", "81 occupants"},
		// An entity that was not marshaled is counted as left: the caller tries again.
		{"Marshal", func(s *sessiontest.Server, _ *sessiontest.Client) string {
			left := -1
			on(s, func(l *session.LoopRouter) { left = l.MarshalEntities(func([]byte) {}) })
			return fmt.Sprint("left ", left)
		}, "left 1", "left 0"},
		{"Restore", func(s *sessiontest.Server, _ *sessiontest.Client) string {
			err := errors.New("nothing was said")
			on(s, func(l *session.LoopRouter) {
				l.RestoreEntity([]byte("\x04\x04room\x14lawn@rooms.localhost\x00\x01{}"), func(e error) { err = e })
			})
			return fmt.Sprint("taken up: ", err)
		}, "panic", "taken up: <nil>"},
		{"Weigh", func(s *sessiontest.Server, _ *sessiontest.Client) string {
			h := s.Router.Table.Footprint() // on no loop: the result says that an entity could not be measured
			return fmt.Sprintf("%d rooms, %d not weighed", h["rooms"].Count, h["not_weighed"].Count)
		}, "2 rooms, 1 not weighed", "2 rooms, 0 not weighed"},
	} {
		t.Run(c.at, func(t *testing.T) {
			f := new(fragile)
			s := sessiontest.New(t, with(sessiontest.Options{AllowPanics: true, Limits: unlimited()}, session.Manifest{
				Name: "fragile", Spec: "a test", Requires: []session.Feature{"test-room", "disco"},
				New: func() session.Module { return f }}))
			for i := range 80 {
				s.Login(fmt.Sprint("c", i), fmt.Sprintf("c%d@localhost/x", i)).Send(join(fmt.Sprintf("nick%02d", i)))
			}
			romeo, asks := s.Login("romeo", "romeo@localhost/a"), s.Login("asks", "asks@localhost/a")
			romeo.Send(join("Romeo") + "<presence to='tomb@rooms.localhost/R'/>" + say("one"))
			s.Settle()
			romeo.Received()
			f.armed = c.at
			if got := c.do(s, asks); !strings.Contains(got, c.panics) {
				t.Errorf("with a panic: %s", got)
			}
			n := uint64(0)
			for _, l := range s.Router.LoopRouters() {
				n += l.Stats().Panics
			}
			if n != 1 && c.at != "Weigh" || f.armed != "" {
				t.Errorf("%d panics are counted", n)
			}
			if got := c.do(s, asks); !strings.Contains(got, c.works) {
				t.Errorf("afterwards: %s", got)
			}
			if c.at == "Marshal" {
				return // all sessions hibernate
			}
			romeo.Send(say("two") + strings.ReplaceAll(say("three"), "orchard@", "tomb@"))
			s.Settle()
			mustHave(t, "romeo", romeo.Received(), "id='two'", "id='three'")
			mustHave(t, "an occupant", s.Client("c33").Received(), "id='two'")
		})
	}
}
