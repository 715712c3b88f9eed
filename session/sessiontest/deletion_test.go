package sessiontest_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/session/mod"
	"canto/session/sessiontest"
	"canto/session/storage"
	"canto/session/store"
)

// friends makes juliet and romeo contacts that get each other's presence.
func friends(t *testing.T, s *sessiontest.Server) (romeo, juliet *sessiontest.Client) {
	t.Helper()
	romeo, juliet = s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
	for c, other := range map[*sessiontest.Client]string{romeo: "juliet@localhost", juliet: "romeo@localhost"} {
		c.Send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq><presence/><presence to='" + other +
			"' type='subscribe'/><presence to='" + other + "' type='subscribed'/>")
		s.Settle()
	}
	romeo.Received()
	juliet.Received()
	return romeo, juliet
}

// remove deletes juliet's account as `canto user del` does, while the server runs or not.
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
	if err := storage.FinishDeletion(s.Router, s.DB, gone, func() { done = true }); err != nil {
		t.Fatal(err)
	}
	s.Settle()
	if !done {
		t.Error("it is not done")
	}
}

// start is the next start of a server on fs, which finishes deletions.
func start(t *testing.T, fs *vfs.MemFS) *sessiontest.Server {
	t.Helper()
	s := sessiontest.New(t, sessiontest.Options{FS: fs})
	s.Settle()
	return s
}

// A deleted account has no subscriptions left, whether or not it was in memory and whether or not the
// server ran (XEP-0077 section 3.2): the next account of its name gets no presence that was meant for the
// first.
func TestDeletedAccount(t *testing.T) {
	for name, del := range map[string]func(t *testing.T, s *sessiontest.Server,
		fs *vfs.MemFS) *sessiontest.Server{
		"in memory, logged in": func(t *testing.T, s *sessiontest.Server, _ *vfs.MemFS) *sessiontest.Server {
			remove(t, s, true)
			return s
		},
		"cold": func(t *testing.T, s *sessiontest.Server, _ *vfs.MemFS) *sessiontest.Server {
			s.Client("juliet").DropConn()
			s.Settle() // all that she has sent is durable
			s.Advance(5 * time.Minute)
			if _, ok := s.Router.Table.LookupAccount(s.Client("juliet").Bare()); ok {
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
			s := sessiontest.New(t, sessiontest.Options{FS: fs, Modules: append(mod.DefaultNames(), "register")})
			friends(t, s)
			s.Settle()
			s = del(t, s, fs)
			if err := s.DB.Accounts().Deleted(s.DB, func(d store.DeletedAccount) bool {
				t.Errorf("%v is left", d)
				return true
			}); err != nil {
				t.Fatal(err)
			}
			// Another user gets the name and logs in while romeo is available.
			romeo := s.Login("romeo again", "romeo@localhost/orchard")
			romeo.Send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>")
			if got := romeo.Received(); strings.Contains(got, "subscription='from'") ||
				strings.Contains(got, "subscription='both'") || strings.Contains(got, "subscription='to'") {
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

// A contact that is logged in is notified at once.
func TestDeletedAccountIsHeardOf(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	romeo, _ := friends(t, s)
	remove(t, s, true)
	got := romeo.Received()
	for _, want := range []string{"<presence type='unavailable' from='juliet@localhost/balcony'",
		"type='unsubscribed' from='juliet@localhost'", "subscription='none'"} {
		if !strings.Contains(got, want) {
			t.Errorf("romeo does not get %q: %s", want, got)
		}
	}
	if got := s.Client("juliet").Received(); !strings.Contains(got, "<stream:error><not-authorized") {
		t.Errorf("juliet gets %s", got)
	}
}

// faults makes the next reads or writes of a store fail, as many as the test wants.
type faults struct{ reads, writes atomic.Int32 }

func (f *faults) fault(write bool) error {
	n := &f.reads
	if write {
		n = &f.writes
	}
	if n.Load() > 0 {
		n.Add(-1)
		return errors.New("for the test")
	}
	return nil
}

// bury starts to finish the deletion of juliet's account and returns when nothing moves. The clock moves
// so that failed steps are tried again.
func bury(t *testing.T, s *sessiontest.Server) {
	t.Helper()
	gone, err := s.DB.Accounts().Delete(context.Background(), "localhost", "juliet")
	if err != nil {
		t.Fatal(err)
	}
	buryAgain(t, s, gone)
}

func buryAgain(t *testing.T, s *sessiontest.Server, gone store.DeletedAccount) {
	t.Helper()
	if err := storage.FinishDeletion(s.Router, s.DB, gone, nil); err != nil {
		t.Fatal(err)
	}
	s.Settle()
	for range 30 {
		s.Advance(time.Second)
		s.Settle()
	}
}

// left returns how many deleted accounts are not erased.
func left(t *testing.T, s *sessiontest.Server) (n int) {
	t.Helper()
	if err := s.DB.Accounts().Deleted(s.DB, func(store.DeletedAccount) bool { n++; return true }); err != nil {
		t.Fatal(err)
	}
	return n
}

// noFriend checks that romeo has no subscription with juliet left, and that the next owner of her name
// does not get his presence.
func noFriend(t *testing.T, s *sessiontest.Server) {
	t.Helper()
	romeo := s.Login("romeo again", "romeo@localhost/again")
	romeo.Send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>")
	s.Settle()
	if got := romeo.Received(); !strings.Contains(got, "<item jid='juliet@localhost' subscription='none'/>") {
		t.Errorf("romeo's roster: %s", got)
	}
	next := s.Login("next", "juliet@localhost/other")
	next.Send("<presence/>")
	romeo.Send("<presence><status>secret</status></presence>")
	s.Settle()
	if got := next.Received(); strings.Contains(got, "secret") {
		t.Errorf("the next owner of the name gets %s", got)
	}
}

// A read or a write that fails while contacts are notified only delays it: nothing is erased before all of
// them are notified.
func TestDeletedAccountOnFlakyStore(t *testing.T) {
	for name, break1 := range map[string]func(f *faults, s *sessiontest.Server){
		"a contact's write": func(f *faults, s *sessiontest.Server) { f.writes.Store(1) },
		"the account's read": func(f *faults, s *sessiontest.Server) {
			f.reads.Store(1)
		},
		"the read of an account that was dropped": func(f *faults, s *sessiontest.Server) {
			f.writes.Store(1)
			s.Client("juliet").Send("<presence to='nurse@localhost' type='subscribe'/>")
			s.Settle()
			f.reads.Store(1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var f faults
			s := sessiontest.New(t, sessiontest.Options{Fault: f.fault})
			_, juliet := friends(t, s)
			s.AddAccount("nurse@localhost")
			s.Settle()
			gone, err := s.DB.Accounts().Delete(context.Background(), "localhost", "juliet")
			if err != nil {
				t.Fatal(err)
			}
			break1(&f, s)
			buryAgain(t, s, gone)
			if n := left(t, s); n != 0 {
				t.Errorf("%d deleted accounts are not worked off", n)
			}
			if !juliet.Conn().Ended() {
				t.Error("the session of a deleted account lives on")
			}
			noFriend(t, s)
		})
	}
}

// A contact that has blocked the deleted account is notified too: when it unblocks the address, another user
// may have it.
func TestDeletedAccountOfABlockedContact(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	romeo, _ := friends(t, s)
	romeo.Send("<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item " +
		"jid='juliet@localhost'/></block></iq>")
	s.Settle()
	bury(t, s)
	romeo.Send("<iq type='set' id='u'><unblock xmlns='urn:xmpp:blocking'/></iq>")
	s.Settle()
	noFriend(t, s)
}

// A removal that takes longer than the timeout of its answer still deletes the account, and the next owner
// of the name gets nothing of it.
func TestRemovalThatIsLate(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{Modules: append(mod.DefaultNames(), "register")})
	_, juliet := friends(t, s)
	held := s.PauseWorkers()
	juliet.Send("<iq type='set' id='1'><query xmlns='jabber:iq:register'><remove/></query></iq>")
	s.Advance(31 * time.Second)
	if got := juliet.Received(); !strings.Contains(got, "remote-server-timeout") {
		t.Fatalf("after 31 s: %s", got)
	}
	held.Resume()
	for len(held.Jobs) > 0 {
		held.StartNext()
		s.Settle()
	}
	if got := juliet.Received(); !strings.Contains(got, "<stream:error><not-authorized") ||
		strings.Contains(got, "id='1'") {
		t.Errorf("in the end: %s", got)
	}
	noFriend(t, s)
}

// A request to an account that is deleted while a worker handles it is answered as by an address without
// an account: one answer to each (RFC 6120 section 8.2.3; RFC 6121 section 8.5.1), at once and not after a
// timeout.
func TestRequestToAnAccountThatIsDeletedMeanwhile(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	// The account is in memory now.
	romeo.Send("<iq type='get' id='1' to='juliet@localhost'><query xmlns='jabber:iq:last'/></iq>")
	s.Settle()
	romeo.Received()
	held := s.PauseWorkers()
	romeo.Send("<iq type='get' id='2' to='juliet@localhost'><vCard xmlns='vcard-temp'/></iq>")
	if len(held.Jobs) != 1 {
		t.Fatalf("%d jobs", len(held.Jobs))
	}
	held.Resume()
	gone, err := s.DB.Accounts().Delete(context.Background(), "localhost", "juliet")
	if err != nil {
		t.Fatal(err)
	}
	work(t, s, gone)
	held.StartNext()
	s.Settle()
	want := "<iq type='error' id='2' from='juliet@localhost' to='romeo@localhost/orchard'>" +
		"<error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
	if got := romeo.Received(); got != want {
		t.Errorf("the answer is %q, not %q", got, want)
	}
}

// A login that is under way when its account is deleted, and the name given to another user, does not bind
// to the new account.
func TestLoginOfADeletedAccount(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	s.AddAccount("juliet@localhost")
	c := s.Dial("c", 0)
	c.Open("localhost")
	s.Settle()
	c.Send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGp1bGlldAByMG0zMA==</auth>")
	s.Settle()
	// Deleted by another process, which can't notify the server.
	if _, err := s.DB.Accounts().Delete(context.Background(), "localhost", "juliet"); err != nil {
		t.Fatal(err)
	}
	s.AddAccount("juliet@localhost")
	c.Open("localhost")
	c.Send("<iq type='set' id='bind'><bind " +
		"xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>y</resource></bind></iq>")
	s.Settle()
	if got := c.Received(); strings.Contains(got, "<jid>") {
		t.Errorf("bound: %s", got)
	}
}

// The next owner of a name gets nothing that a session of the deleted account had queued.
func TestQueuedForADeletedAccount(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	for range 2 {
		romeo.Send("<message to='juliet@localhost' type='chat'><body>" + strings.Repeat("stored ", 30_000) +
			"</body></message>")
	}
	s.Settle()
	first := s.Login("first", "juliet@localhost/x")
	first.Conn().SetWindow(0)
	first.Send("<presence/>")
	s.Settle()
	romeo.Send("<message to='juliet@localhost/x' type='chat'><body>for the first</body></message>")
	s.Settle()
	gone, err := s.DB.Accounts().Delete(context.Background(), "localhost", "juliet")
	if err != nil {
		t.Fatal(err)
	}
	s.AddAccount("juliet@localhost")
	buryAgain(t, s, gone)
	next := s.Login("next", "juliet@localhost/y")
	next.Send("<presence/>")
	s.Settle()
	if got := next.Received(); strings.Contains(got, "for the first") || strings.Contains(got, "stored") {
		t.Errorf("the next owner gets %.300s", got)
	}
}
