package room_test

import (
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/session/sessiontest"
	"canto/session/storage"
	"canto/session/store"
)

// Accounts of a host that has become a service host do not exist there (RFC 6121 section 8.5.1), and exist
// again when users log in at the host again. The deletion of one that is deleted meanwhile is finished
// then: otherwise a subscription would give presence to the next owner of the name.
func TestAccountsOfAServiceHost(t *testing.T) {
	fs := vfs.NewCrashableMem()
	login := sessiontest.Options{FS: fs, Hosts: []string{"localhost", "rooms.localhost"}}
	s := sessiontest.New(t, login)
	romeo, juliet := s.Login("romeo", "romeo@localhost/a"), s.Login("juliet", "juliet@rooms.localhost/b")
	s.Login("nurse", "nurse@rooms.localhost/c")
	ask := "<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq><presence/>"
	romeo.Send(ask + "<presence to='juliet@rooms.localhost' type='subscribe'/>")
	juliet.Send(ask)
	s.Settle()
	juliet.Send("<presence to='romeo@localhost' type='subscribed'/>")
	s.Settle()
	again := func(opt sessiontest.Options) *sessiontest.Server {
		s.Settle()
		fs = fs.CrashClone(vfs.CrashCloneCfg{})
		opt.FS = fs
		return sessiontest.New(t, opt)
	}

	s = again(with(sessiontest.Options{}))
	romeo = s.Login("romeo", "romeo@localhost/a")
	romeo.Send("<presence/>")
	s.Settle()
	romeo.Received()
	for i, to := range []string{"juliet@rooms.localhost", "juliet@rooms.localhost/b"} {
		romeo.Send("<message to='" + to + "' type='chat'><body>Hi</body></message><presence to='" + to + "'/>" +
			"<iq type='get' id='d' to='" + to + "'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>" +
			"<iq type='get' id='p' to='" + to + "'><ping xmlns='urn:xmpp:ping'/></iq>")
		s.Settle()
		if got := romeo.Received(); strings.Count(got, "<service-unavailable ") != 3 {
			t.Errorf("%d: what is sent to an account of before is answered %q", i, got)
		}
	}
	for _, who := range []string{"juliet", "nurse"} {
		gone, err := s.DB.Accounts().Delete(t.Context(), "rooms.localhost", who)
		if err == nil {
			err = storage.FinishDeletion(s.Router, s.DB, gone, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s.Settle()
	left := func() (n int) {
		if err := s.DB.Accounts().Deleted(s.DB, func(store.DeletedAccount) bool { n++; return true }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := left(); n != 2 {
		t.Errorf("%d deleted accounts wait to be worked off, want 2", n)
	}

	s = again(login)
	s.Settle()
	if n := left(); n != 0 {
		t.Errorf("%d deleted accounts wait to be worked off where users log in again", n)
	}
	romeo = s.Login("romeo", "romeo@localhost/a")
	romeo.Send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>")
	s.Settle()
	if got := romeo.Received(); strings.Contains(got, "subscription='to'") {
		t.Errorf("romeo's roster has the deleted account still: %q", got)
	}
}

// A deleted account that had asked for the presence of a room is erased as any other (RFC 6121 section
// 3.3): the room is notified by a stanza, as it is no account.
func TestDeletedContactOfARoom(t *testing.T) {
	s := sessiontest.New(t, with(sessiontest.Options{}))
	romeo, juliet := s.Login("romeo", "romeo@localhost/a"), s.Login("juliet", "juliet@localhost/b")
	romeo.Send(join("Romeo"))
	s.Settle()
	juliet.Send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq><presence/><presence " +
		"to='orchard@rooms.localhost' type='subscribe'/>")
	s.Settle()
	if got := juliet.Received(); !strings.Contains(got, "ask='subscribe'") {
		t.Fatalf("juliet got %q", got)
	}
	gone, err := s.DB.Accounts().Delete(t.Context(), "localhost", "juliet")
	if err == nil {
		err = storage.FinishDeletion(s.Router, s.DB, gone, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Settle()
	for range 30 {
		s.Advance(time.Second)
		s.Settle()
	}
	if err := s.DB.Accounts().Deleted(s.DB, func(d store.DeletedAccount) bool {
		t.Errorf("%s@%s is not erased", d.Local, d.Domain)
		return true
	}); err != nil {
		t.Fatal(err)
	}
}
