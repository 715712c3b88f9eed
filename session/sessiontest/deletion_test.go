package sessiontest_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/session/mod"
	"canto/session/mod/storage"
	"canto/session/sessiontest"
	"canto/session/store"
)

// friends makes juliet and romeo see each other's presence.
func friends(t *testing.T, s *sessiontest.Server) (romeo, juliet *sessiontest.Client) {
	t.Helper()
	romeo, juliet = s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
	for c, other := range map[*sessiontest.Client]string{romeo: "juliet@localhost", juliet: "romeo@localhost"} {
		c.Send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq><presence/><presence to='" + other + "' type='subscribe'/><presence to='" + other + "' type='subscribed'/>")
		s.Settle()
	}
	romeo.Received()
	juliet.Received()
	return romeo, juliet
}

// remove deletes juliet's account as `canto user del` does; bury: with the server running.
func remove(t *testing.T, s *sessiontest.Server, bury bool) {
	t.Helper()
	gone, err := s.DB.Accounts().Delete(context.Background(), "localhost", "juliet")
	if err != nil {
		t.Fatal(err)
	}
	if bury {
		work(t, s, gone)
	}
}

func work(t *testing.T, s *sessiontest.Server, gone store.DeletedAccount) {
	t.Helper()
	done := false
	if err := storage.Bury(s.Router, s.DB, gone, func() { done = true }); err != nil {
		t.Fatal(err)
	}
	s.Settle()
	if !done {
		t.Error("it is not done")
	}
}

// start is the next start of a server on fs, which works off what is left to be done.
func start(t *testing.T, fs *vfs.MemFS) *sessiontest.Server {
	t.Helper()
	s := sessiontest.New(t, sessiontest.Options{FS: fs})
	var gone []store.DeletedAccount
	if err := s.DB.Accounts().Deleted(s.DB, func(d store.DeletedAccount) bool { gone = append(gone, d); return true }); err != nil {
		t.Fatal(err)
	}
	for _, d := range gone {
		work(t, s, d)
	}
	return s
}

// An account that is deleted has no subscriptions left, whether or not it was in memory, and whether or not the
// server ran (XEP-0077 §3.2): the next account of its name gets no presence that was meant for the first.
func TestDeletedAccount(t *testing.T) {
	for name, del := range map[string]func(t *testing.T, s *sessiontest.Server, fs *vfs.MemFS) *sessiontest.Server{
		"in memory, logged in": func(t *testing.T, s *sessiontest.Server, _ *vfs.MemFS) *sessiontest.Server {
			remove(t, s, true)
			return s
		},
		"cold": func(t *testing.T, s *sessiontest.Server, _ *vfs.MemFS) *sessiontest.Server {
			s.Client("juliet").Cut()
			s.Advance(5 * time.Minute)
			if _, ok := s.Router.Table.Loaded(s.Client("juliet").Bare()); ok {
				t.Fatal("juliet is in memory")
			}
			remove(t, s, true)
			return s
		},
		"after a restart": func(t *testing.T, s *sessiontest.Server, fs *vfs.MemFS) *sessiontest.Server {
			s.Settle()
			s = start(t, fs.CrashClone(vfs.CrashCloneCfg{}))
			remove(t, s, true)
			return s
		},
		"with the server stopped": func(t *testing.T, s *sessiontest.Server, fs *vfs.MemFS) *sessiontest.Server {
			s.Settle()
			remove(t, s, false)
			return start(t, fs.CrashClone(vfs.CrashCloneCfg{}))
		},
		"by the user": func(t *testing.T, s *sessiontest.Server, _ *vfs.MemFS) *sessiontest.Server {
			s.Client("juliet").Send("<iq type='set' id='1'><query xmlns='jabber:iq:register'><remove/></query></iq>")
			s.Settle()
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewCrashableMem()
			s := sessiontest.New(t, sessiontest.Options{FS: fs, Modules: append(mod.Default(), "register")})
			friends(t, s)
			s.Settle()
			s = del(t, s, fs)
			if err := s.DB.Accounts().Deleted(s.DB, func(d store.DeletedAccount) bool { t.Errorf("%v is left", d); return true }); err != nil {
				t.Fatal(err)
			}
			// The name goes to another person, who logs in while romeo is there.
			romeo := s.Login("romeo again", "romeo@localhost/orchard")
			romeo.Send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>")
			if got := romeo.Received(); strings.Contains(got, "subscription='from'") || strings.Contains(got, "subscription='both'") || strings.Contains(got, "subscription='to'") {
				t.Errorf("romeo's roster: %s", got)
			}
			next := s.Login("next", "juliet@localhost/other")
			next.Send("<presence/>")
			romeo.Send("<presence><status>secret</status></presence>")
			s.Settle()
			if got := next.Received(); strings.Contains(got, "romeo") {
				t.Errorf("the next owner of the name gets %s", got)
			}
			next.Send("<presence to='romeo@localhost' type='probe'/>")
			s.Settle()
			if got := next.Received(); strings.Contains(got, "secret") {
				t.Errorf("the next owner of the name asks, and gets %s", got)
			}
		})
	}
}

// A contact that is logged in hears of it at once.
func TestDeletedAccountIsHeardOf(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	romeo, _ := friends(t, s)
	remove(t, s, true)
	got := romeo.Received()
	for _, want := range []string{"<presence type='unavailable' from='juliet@localhost/balcony'", "type='unsubscribed' from='juliet@localhost'", "subscription='none'"} {
		if !strings.Contains(got, want) {
			t.Errorf("romeo does not get %q: %s", want, got)
		}
	}
	if got := s.Client("juliet").Received(); !strings.Contains(got, "<stream:error><not-authorized") {
		t.Errorf("juliet gets %s", got)
	}
}
