package session_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod"
	"canto/session/sessiontest"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
)

// A brittle is a module with a kind of entity in which functions panic at the addresses that are
// named after them. Presence creates an entity and stores it; a message is answered; a message
// with the id "arm", "fail", "delete" or "commit" does what the id says.
type brittle struct{ db *store.DB }

var (
	brittleKind = session.NewKind("brittle")
	brittlePart = session.NewPart[int]("brittle")
)

// rage panics if the local part of e's address is where, or memory- and where.
func rage(e *session.Entity, where string) {
	if strings.TrimPrefix(e.JID().Local(), "memory-") == where {
		panic("for the test: " + where)
	}
}

func (m *brittle) Load(api *session.API) error {
	m.db = storage.DB(api)
	b := api.Hooks.Serve(brittleKind)
	session.ResidentOf(api, brittleKind, brittlePart, func(_ *store.Snapshot, who session.EntityRef) (*int,
		error) {
		if who.JID.Local() == "load" {
			panic("for the test: load")
		}
		return new(int), nil
	})
	b.New = func(l *session.LoopRouter, e *session.Entity) any {
		rage(e, "new")
		if e.ID() != 0 {
			rage(e, "again")
		}
		return new(int)
	}
	b.Cold = func(e *session.Entity) bool { rage(e, "cold"); return *session.Live[int](e) >= 0 }
	b.Footprint = func(e *session.Entity) int { rage(e, "weigh"); return *session.Live[int](e) }
	b.Failed = func(_ *session.LoopRouter, e *session.Entity) { rage(e, "failed") }
	b.Ended = func(_ *session.LoopRouter, e *session.Entity) { rage(e, "ended") }
	b.Timer = func(_ *session.LoopRouter, e *session.Entity) { *brittlePart.Mutable(e) = 1; rage(e, "timer") }
	api.Hooks.Make.Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
		if ev.Kind == stanza.Presence {
			ev.Create(brittleKind)
		}
		return session.Pass
	})
	b.Presence[session.ToBare].Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
		if strings.HasPrefix(ev.To.Local(), "memory") {
			return session.Done
		}
		batch, err := storage.Batch(m.db, ev.Entity())
		if err != nil {
			return ev.FailCommit(err)
		}
		storage.Commit(ev.LoopRouter(), m.db, ev.Entity(), batch)
		return session.Done
	})
	b.Message[session.ToBare].Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
		e, l := ev.Entity(), ev.LoopRouter()
		switch string(ev.ID()) {
		case "arm":
			e.Arm(l, l.Loop.Tick()+1)
		case "fail":
			*brittlePart.Mutable(e) = 1
			panic("for the test: fail")
		case "delete":
			storage.Delete(l, m.db, e)
		case "commit":
			batch, err := storage.Batch(m.db, e)
			if err != nil {
				return ev.FailCommit(err)
			}
			return ev.Commit(storage.Commit(l, m.db, e, batch), func(ev *session.Stanza, err error) session.Verdict {
				if err != nil {
					return ev.FailCommit(err)
				}
				return tellStored(ev)
			})
		}
		if session.Live[int](e) == nil && string(ev.ID()) != "delete" {
			return ev.Fail(stanza.UndefinedCondition) // there is no live state
		}
		return tellStored(ev)
	})
	return nil
}

// tellStored answers a message with what is in memory of its entity.
func tellStored(ev *session.Stanza) session.Verdict {
	e, a := ev.Entity(), ev.Appender()
	a.Open(stanza.MessageName).Attr(stanza.AttrID, fmt.Sprint("stored ", brittlePart.Get(e) != nil &&
		*brittlePart.Get(e) > 0)).
		Attr(stanza.AttrFrom, ev.To.String()).Attr(stanza.AttrTo, ev.From.String()).Close()
	ev.Send(ev.To, ev.From, a.B)
	return session.Done
}

func brittleServer(t *testing.T) (*sessiontest.Server, *sessiontest.Client) {
	m := session.Manifest{Name: "brittle", Spec: "a test", Requires: []session.Feature{"store"},
		New: func() session.Module { return new(brittle) }}
	s := sessiontest.New(t, sessiontest.Options{AllowPanics: true, Services: []string{"b.localhost"},
		ServiceModules: []string{"store", "brittle"}, Shelf: append(slices.Clone(mod.All), m)})
	return s, s.Login("romeo", "romeo@localhost/a")
}

// A panic in any function of a kind ends the smallest thing, releases the locks, and leaves the
// loops and all other entities as they are. The sender of the stanza gets an error, and the
// entity works afterwards, as far as its functions do.
func TestPanicInKind(t *testing.T) {
	for _, c := range []struct {
		at, does  string // a message with this id, first
		first, it string // what comes of that, and of the next message
	}{
		{"well", "", "stored false", "stored false"},
		{"fail", "fail", "<internal-server-error", "stored false"}, // what it has is read again
		{"new", "", "<service-unavailable", "<service-unavailable"},
		{"memory-fail", "fail", "<internal-server-error", "stored true"}, // nothing is stored to be read again
		{"timer", "arm", "stored false", "stored false"},
		{"failed", "fail", "<internal-server-error", "stored false"},
		{"ended", "delete", "stored false", "<service-unavailable"},
		{"cold", "", "stored false", "stored false"},
		{"weigh", "", "stored false", "stored false"},
	} {
		t.Run(c.at, func(t *testing.T) {
			s, romeo := brittleServer(t)
			say := func(at, id string) string {
				return "<message to='" + at + "@b.localhost' id='" + id + "'><body>x</body></message>"
			}
			romeo.Send("<presence to='" + c.at + "@b.localhost'/><presence to='other@b.localhost'/>")
			s.Settle()
			romeo.Received()
			for i, want := range []string{c.first, c.it} {
				id := ""
				if i == 0 {
					id = c.does
				}
				romeo.Send(say(c.at, id) + say("other", ""))
				s.Settle()
				got := romeo.Received()
				if !strings.Contains(got, want) || !strings.Contains(got, "from='other@b.localhost'") {
					t.Errorf("message %d: %s", i, got)
				}
				s.Advance(time.Second) // timers
				s.Settle()
			}
			if n := s.Router.Table.Footprint()["not_weighed"].Count; n > 0 != (c.at == "weigh") {
				t.Errorf("%d are not weighed", n)
			}
			s.Advance(5 * time.Minute)
			s.Settle()
			left := 0
			for i := range 256 {
				for _, e := range s.Router.Table.Entities(i, nil) {
					if e.Host().Service() {
						left++
					}
				}
			}
			want := map[string]int{"cold": 1, "memory-fail": 0}[c.at]
			if left != want {
				t.Errorf("%d are in memory, want %d", left, want)
			}
			romeo.Send(say("other", ""))
			s.Settle()
			if got := romeo.Received(); !strings.Contains(got, "from='other@b.localhost'") {
				t.Errorf("another has: %s", got)
			}
		})
	}
}

// An entity that is in memory only is evicted in the end, even if its Timer has panicked.
func TestPanicInTimer(t *testing.T) {
	s, romeo := brittleServer(t)
	romeo.Send("<presence to='memory-timer@b.localhost'/>")
	s.Settle()
	romeo.Send("<message to='memory-timer@b.localhost' id='arm'/>")
	s.Advance(5 * time.Minute)
	s.Settle()
	if e := s.Router.Table.Lookup(address(t, "memory-timer@b.localhost")); e != nil {
		t.Error("it is in memory")
	}
}

// If the loader or the New function of an entity panics, its stanzas are answered with an error
// each time, and other entities are loaded.
func TestPanicWhileRead(t *testing.T) {
	for _, at := range []string{"load", "again"} {
		s, romeo := brittleServer(t)
		for _, name := range []string{at, "other"} {
			b, err := s.DB.Entities().New("b.localhost", name, "brittle")
			if err != nil {
				t.Fatal(err)
			}
			if err := s.DB.Wait(t.Context(), s.DB.Commit(b)); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			romeo.Send("<message to='" + at + "@b.localhost'/><message to='other@b.localhost'/>")
			s.Settle()
			got := romeo.Received()
			if strings.Count(got, "<internal-server-error") != 1 ||
				!strings.Contains(got, "from='other@b.localhost'") {
				t.Errorf("%s: %s", at, got)
			}
		}
		s.Router.Table.Footprint()
		s.Advance(5 * time.Minute)
		s.Settle()
		if e := s.Router.Table.Lookup(address(t, at+"@b.localhost")); e != nil {
			t.Errorf("%s is in memory", at)
		}
	}
}

// A panic in a function that a module runs under an entity's lock
// ([session.LoopRouter.WithEntity]) invalidates the entity, as a panic in a chain does.
func TestPanicInCall(t *testing.T) {
	s, romeo := brittleServer(t)
	romeo.Send("<presence to='x@b.localhost'/>")
	s.Settle()
	host, _ := s.Router.Table.Host("b.localhost")
	l := s.Router.LoopRouters()[0]
	l.Loop.Post(func() {
		l.Enter(func() {
			l.WithEntity(host, address(t, "x@b.localhost"), func(_ *session.LoopRouter, e *session.Entity, _ error) {
				*brittlePart.Mutable(e) = 1
				panic("for the test")
			})
		})
	})
	s.Settle()
	romeo.Send("<message to='x@b.localhost'/>")
	s.Settle()
	if got := romeo.Received(); !strings.Contains(got, "stored false") {
		t.Errorf("what was changed halfway is kept: %s", got)
	}
}

func address(t *testing.T, s string) jid.JID {
	t.Helper()
	j, err := jid.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// A forgetful store has had so many failures that it says of old tickets that they may have
// failed.
type forgetful struct {
	committer
	last session.Ticket // of which it does not know any more
}

func (f forgetful) Err(t session.Ticket) error {
	if t <= f.last {
		return errors.New("for the test: it is not known any more")
	}
	return f.committer.Err(t)
}

// The commits of an entity no longer depend on the batch that created it once that is durable,
// for as long as the entity is in memory.
func TestCreationIsDurable(t *testing.T) {
	s, romeo := brittleServer(t)
	romeo.Send("<presence to='x@b.localhost'/>")
	s.Settle()
	s.Router.Committer = forgetful{s.Router.Committer, session.Ticket(s.DB.Last())}
	romeo.Send("<message to='x@b.localhost' id='commit'/>")
	s.Settle()
	if got := romeo.Received(); !strings.Contains(got, "id='stored false'") || strings.Contains(got, "error") {
		t.Errorf("%q", got)
	}
}
