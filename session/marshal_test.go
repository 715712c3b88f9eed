package session_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/session"
	"canto/session/mod"
	"canto/session/sessiontest"
	"canto/session/sessiontest/room"
	"canto/session/sessiontest/service"
	"canto/session/stanza"
	"canto/session/store/storetest"
)

// Stanzas queued for a hibernating session, and its flags, move to another kernel: the session can be
// resumed there.
func TestMarshalQueued(t *testing.T) {
	s := tracked(t, sessiontest.Options{})
	romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence><priority>3</priority></presence><on xmlns='" + nsAcks + "'/>")
	s.Settle()
	juliet.DropConn()
	s.Settle()
	romeo.Send("<message to='juliet@localhost/balcony' type='chat'><body>one</body></message><presence " +
		"to='juliet@localhost/balcony'/>")
	if !s.SwapKernel() || !s.SwapKernel() {
		t.Fatal("the kernel could not be replaced")
	}
	romeo.Send("<message to='juliet@localhost/balcony' type='chat'><body>two</body></message>")
	next := s.Authenticate("next", "juliet@localhost", 1)
	next.Send(resume("balcony"))
	s.Settle()
	got := next.Received()
	one, here, two := strings.Index(got, "<body>one"), strings.Index(got, "<presence"),
		strings.Index(got, "<body>two")
	if one < 0 || here < one || two < here {
		t.Errorf("%q", got)
	}
}

// A restoring is a kernel that restores the entities that another has marshaled.
type restoring struct {
	*sessiontest.Server
	log bytes.Buffer
}

// newRestoring starts one on fs, which serves accounts, and rooms and a service at rooms.localhost.
func newRestoring(tb testing.TB, fs vfs.FS) *restoring {
	k := new(restoring)
	k.Server = sessiontest.New(tb, sessiontest.Options{
		FS: fs, Log: &k.log, Services: []string{"rooms.localhost"},
		ServiceModules: []string{"store", "disco", room.Manifest.Name, service.Manifest.Name},
		Shelf:          slices.Concat(mod.All, []session.Manifest{room.Manifest, service.Manifest}),
	})
	return k
}

// in runs f on a loop, as a posted task.
func (k *restoring) in(f func(l *session.LoopRouter)) {
	l := k.Router.LoopRouters()[0]
	l.Loop.Post(func() { l.Enter(func() { f(l) }) })
	k.Settle()
}

// marshal returns the entities that k has in memory only, one in each element. Their sessions hibernate.
func (k *restoring) marshal() (list [][]byte) {
	k.in(func(l *session.LoopRouter) { l.MarshalEntities(func(b []byte) { list = append(list, b) }) })
	// A room that is stored is in memory after the first stanza to it: without occupants it has no state to
	// restore.
	return slices.DeleteFunc(list, func(b []byte) bool {
		return bytes.Contains(b, []byte("orchard")) && bytes.HasSuffix(b, []byte(`,"Occupants":{}}`))
	})
}

// restore restores b and returns the error. If the callback is not called, as after a panic, it returns
// errNotCalled.
func (k *restoring) restore(b []byte) (err error) {
	err = errNotCalled
	k.in(func(l *session.LoopRouter) { l.RestoreEntity(b, func(e error) { err = e }) })
	return err
}

var errNotCalled = errors.New("the callback was not called")

func (k *restoring) panics() (n uint64) {
	for _, l := range k.Router.LoopRouters() {
		n += l.Stats().Panics
	}
	return n
}

// marshaled returns the entities that a kernel has marshaled: juliet's account, which has a session with
// presence, directed presence and a queued stanza; a room that is stored; a room that is not. fs is its
// store.
func marshaled(tb testing.TB) (list [][]byte, fs *vfs.MemFS) {
	fs = vfs.NewCrashableMem()
	k := newRestoring(tb, fs)
	juliet := k.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/><presence to='romeo@localhost/x'/><presence to='tomb@rooms.localhost/Juliet'/>" +
		"<presence to='orchard@rooms.localhost/Juliet'/>" +
		"<message to='orchard@rooms.localhost' type='groupchat'><body>1</body></message>")
	k.Settle()
	list = k.marshal()
	if len(list) != 3 {
		tb.Fatalf("%d entities are marshaled", len(list))
	}
	return list, fs
}

// unit returns the entity of list whose bytes contain text, and the offset of text in it.
func unit(tb testing.TB, list [][]byte, text string) (b []byte, at int) {
	for _, b := range list {
		if i := bytes.Index(b, []byte(text)); i >= 0 {
			return slices.Clone(b), i
		}
	}
	tb.Fatalf("no marshaled entity has %q", text)
	return nil, 0
}

// A module marshals its state with a version. It refuses a version that it does not know: for a room that is
// an error, and a session goes on without the state of that module.
func TestMarshalVersions(t *testing.T) {
	list, fs := marshaled(t)
	k := newRestoring(t, fs.CrashClone(vfs.CrashCloneCfg{}))
	b, at := unit(t, list, `{"Last"`)
	b[at-1] = 99
	if err := k.restore(b); err == nil || !strings.Contains(err.Error(), "version 99") {
		t.Errorf("a room of another version: %v", err)
	}
	const state = "directed-presence"
	b, at = unit(t, list, state)
	b[at+len(state)] = 99
	if err := k.restore(b); err != nil {
		t.Errorf("a session with a state of another version: %v", err)
	}
	if log := k.log.String(); !strings.Contains(log, state) || !strings.Contains(log, "version 99") {
		t.Errorf("the log: %s", log)
	}
	if got := k.marshal(); len(got) != 1 || bytes.Contains(got[0], []byte(state)) {
		t.Errorf("the session has %q", got)
	}
}

// wholly restores b in k, and checks that all of it was restored, or nothing, and that no function panics. It
// reports whether it was restored.
func wholly(t *testing.T, k *restoring, b []byte) (restored bool) {
	t.Helper()
	before := k.marshal()
	err := k.restore(b)
	if n := k.panics(); n > 0 {
		t.Fatalf("%d panics by %q", n, b)
	}
	if err == nil {
		return true
	}
	if after := k.marshal(); !slices.EqualFunc(before, after, bytes.Equal) {
		t.Fatalf("%q is refused (%v), and there is\n%q, where there was\n%q", b, err, after, before)
	}
	return false
}

// A marshaled entity of each kind that is cut short, or has a wrong byte, is restored as a whole or not at
// all.
func TestRestoreDamaged(t *testing.T) {
	list, fs := marshaled(t)
	fresh := func() *restoring { return newRestoring(t, fs.CrashClone(vfs.CrashCloneCfg{})) }
	k := fresh()
	restored := 0
	try := func(b []byte) {
		if wholly(t, k, b) {
			k, restored = fresh(), restored+1
		}
	}
	for _, b := range list {
		for i := range b {
			try(b[:i])
		}
		for i := 0; i < len(b); i += 5 {
			c := slices.Clone(b)
			c[i] ^= 0x55
			try(c)
		}
		try(b)
	}
	if restored < len(list) {
		t.Errorf("%d were restored", restored)
	}
}

// The input of RestoreEntity is not trusted: no input makes the kernel panic, and an entity is restored as a
// whole or not at all.
func FuzzRestoreEntity(f *testing.F) {
	list, fs := marshaled(f)
	for _, b := range list {
		f.Add(b)
	}
	f.Add([]byte{1, 7})
	k := newRestoring(f, fs.CrashClone(vfs.CrashCloneCfg{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		k.TB = t
		wholly(t, k, b)
	})
}

// An entity with waiting stanzas is left, even without sessions: those stanzas would be lost.
func TestMarshalWithWaitingStanzas(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	s.AddAccount("nurse@localhost")
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	held := s.PauseWorkers()
	romeo.Conn().Write([]byte("<message to='nurse@localhost' type='chat'><body>waits</body></message>"))
	s.Net.Run()
	if len(held.Jobs) == 0 {
		t.Fatal("the account is not being read")
	}
	left := 0
	l := s.Router.LoopRouters()[0]
	l.Loop.Post(func() { l.Enter(func() { left = l.MarshalEntities(func([]byte) {}) }) })
	s.Net.Run()
	if left != 1 {
		t.Errorf("%d are left", left)
	}
	held.Resume()
	for len(held.Jobs) > 0 {
		held.StartNext()
	}
	s.Settle()
}

// written returns the entities that MarshalEntities passes, and how many are left.
func (c *endingCase) written() (list string, left int) {
	l := c.Router.LoopRouters()[0]
	l.Loop.Post(func() {
		l.Enter(func() { left = l.MarshalEntities(func(b []byte) { list += string(b) + "\n" }) })
	})
	c.turns()
	return list, left
}

// hasJuliet reports whether juliet's account is in list.
func hasJuliet(list string) bool { return strings.Contains(list, "account\x10juliet@localhost") }

// A session that has ended, and is not removed yet, is not restored to another kernel, where it would go on:
// its account is left until its end has restored effect. A logout is one although the connection still
// lingers (RFC 6120 section 4.4, XEP-0198 section 5), and so is what an operator has decided.
func TestMarshalEndedSession(t *testing.T) {
	for by, do := range map[string]func(c *endingCase, flaky *storetest.Flaky){
		"logged-out": func(c *endingCase, _ *storetest.Flaky) { c.write(c.juliet, "</stream:stream>") },
		"kicked": func(c *endingCase, flaky *storetest.Flaky) {
			c.Reload() // the account is read again before its sessions are ended
			flaky.Reads.Store(true)
			c.Router.Kick(c.juliet.Bare(), session.ErrPolicyViolation)
			c.Settle() // it could not be read, and is tried again later
		},
		"kicked while hibernating": func(c *endingCase, flaky *storetest.Flaky) {
			c.juliet.Conn().SetWindow(-1)
			c.lose()
			c.Settle()
			c.Reload()
			flaky.Reads.Store(true)
			c.Router.Kick(c.juliet.Bare(), session.ErrPolicyViolation)
			c.Settle() // it could not be read, and is tried again later
		},
	} {
		t.Run(by, func(t *testing.T) {
			var flaky storetest.Flaky
			c := newEndingOn(t, "", true, flaky.Fault)
			c.juliet.Conn().SetWindow(0)
			c.write(c.romeo, message("juliet@localhost/x", "waits")) // her connection can't close yet
			c.Settle()
			do(c, &flaky)
			if c.session() == nil {
				t.Fatal("its end has restored effect")
			}
			if list, left := c.written(); hasJuliet(list) || left == 0 {
				t.Errorf("%q was marshaled, and %d entities are left", list, left)
			}
			flaky.Reads.Store(false)
			for range 10 {
				c.Advance(time.Second)
				c.Settle()
			}
			row, _, _ := strings.Cut(by, " ")
			if n := c.ended(row); c.session() != nil || n != 1 {
				t.Errorf("it is there: %v; counted %d times", c.session() != nil, n)
			}
			c.Advance(time.Minute)
			c.Settle()
			list, left := c.written()
			if hasJuliet(list) || left > 0 {
				t.Errorf("after its end %q was marshaled, and %d entities are left", list, left)
			}
			// nurse hibernates
			if !strings.Contains(list, "<presence type='unavailable' from='juliet@localhost/x' "+
				"to='nurse@localhost/x'/>") {
				t.Error("nurse has not seen it leave")
			}
		})
	}
}

// A fragile is the state that the module of TestPanicInMarshal has of a thing or of a session: its name.
type fragile struct{ name string }

var (
	things     = session.NewKind("test-thing")
	fragileVar = session.NewSessionVar("test-fragile", &session.Codec[fragile]{Version: 1,
		AppendMarshal: func(dst []byte, f *fragile) []byte {
			breaks("Append", f.name)
			return append(dst, f.name...)
		},
		Unmarshal: func(_ uint8, b []byte) (*fragile, error) {
			breaks("Read", string(b))
			return &fragile{string(b)}, nil
		}})
	breaksAt string // the function and the localpart at which breaks panics
)

// breaks panics in the function of that name at the address whose localpart this is, once.
func breaks(function, local string) {
	if breaksAt == function+" "+local {
		breaksAt = ""
		panic("for the test: " + function)
	}
}

// loadThings is the Load of a module with a kind that is in memory only, and a state in each session.
func loadThings(api *session.API) error {
	b := api.Hooks.Serve(things)
	b.New = func(*session.LoopRouter, *session.Entity) any { return new(fragile) }
	b.Cold = func(*session.Entity) bool { return false }
	b.MarshalLive = func(e *session.Entity, dst []byte) []byte { breaks("Marshal", e.JID().Local()); return dst }
	b.RestoreLive = func(_ *session.LoopRouter, e *session.Entity, _ []byte) error {
		breaks("Restore", e.JID().Local())
		return nil
	}
	api.Hooks.Make.Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
		if ev.Kind == stanza.Presence {
			ev.Create(things)
		}
		return session.Pass
	})
	api.Hooks.Bound.Add(api.Module, session.Deliver, func(_ *session.LoopRouter, s *session.Session) {
		fragileVar.Set(s, &fragile{s.JID().Local()})
	})
	api.Hooks.Hibernated.Add(api.Module, session.Deliver, func(_ *session.LoopRouter, s *session.Session) {
		breaks("Hibernated", s.JID().Local())
	})
	return nil
}

// A panic in a module's function while entities are marshaled or restored costs that entity only: the others
// are marshaled or restored, and that one is counted as left, or is an error.
func TestPanicInMarshal(t *testing.T) {
	for _, at := range []string{
		"Marshal one", "Append juliet", "Hibernated juliet", "Restore one", "Read juliet",
	} {
		t.Run(at, func(t *testing.T) {
			shelf := append([]session.Manifest{{Name: "of-the-test", Spec: "a test", New: func() session.Module {
				return hooked(loadThings)
			}}}, mod.All...)
			s := sessiontest.New(t, sessiontest.Options{AllowPanics: true, Shelf: shelf,
				Modules:  append(mod.DefaultNames(), "of-the-test"),
				Services: []string{"b.localhost"}, ServiceModules: []string{"of-the-test"}})
			juliet := s.Login("juliet", "juliet@localhost/x")
			s.Login("romeo", "romeo@localhost/x")
			juliet.Send("<presence to='one@b.localhost'/><presence to='two@b.localhost'/>")
			s.Settle()
			everything := []string{"juliet@localhost", "one@b.localhost", "romeo@localhost", "two@b.localhost"}
			_, broken, _ := strings.Cut(at, " ")
			others := slices.DeleteFunc(slices.Clone(everything), func(e string) bool {
				return strings.HasPrefix(e, broken+"@")
			})
			in := func(f func(l *session.LoopRouter)) {
				l := s.Router.LoopRouters()[0]
				l.Loop.Post(func() { l.Enter(func() { f(l) }) })
				s.Settle()
			}
			var list [][]byte
			marshal := func() (names []string, left int) {
				list = nil
				in(func(l *session.LoopRouter) { left = l.MarshalEntities(func(b []byte) { list = append(list, b) }) })
				for _, b := range list {
					for _, name := range everything {
						if i := strings.Index(string(b), name); i > 0 && i < 20 { // its address, which follows its kind
							names = append(names, name)
						}
					}
				}
				slices.Sort(names)
				return names, left
			}
			while := strings.HasPrefix(at, "Marshal") || strings.HasPrefix(at, "Append")
			if while {
				breaksAt = at
				if names, left := marshal(); left != 1 || !slices.Equal(names, others) {
					t.Errorf("%q are marshaled, and %d are left", names, left)
				}
			}
			if names, left := marshal(); left != 0 || !slices.Equal(names, everything) {
				t.Fatalf("%q are marshaled, and %d are left", names, left)
			}
			if while {
				return
			}
			s.Crash()
			breaksAt = at
			failed := 0
			in(func(l *session.LoopRouter) {
				for _, b := range list {
					l.RestoreEntity(b, func(err error) {
						if err != nil {
							failed++
						}
					})
				}
			})
			if failed != 1 || breaksAt != "" {
				t.Errorf("%d could not be restored", failed)
			}
			s.Advance(time.Minute)
			s.Settle()
			for _, name := range everything {
				there := false
				if e := s.Router.Table.Lookup(address(t, name)); e != nil && e.Host().Service() {
					there = e.Kind() == things
				} else if a, ok := s.Router.Table.LookupAccount(address(t, name)); ok {
					there = len(a.Resources()) == 1
				}
				if there != slices.Contains(others, name) {
					t.Errorf("%s is there: %v", name, there)
				}
			}
		})
	}
}
