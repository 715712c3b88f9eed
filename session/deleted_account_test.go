package session_test

import (
	"context"
	"strings"
	"testing"

	"canto/session/sessiontest"
	"canto/session/storage"
)

// What waits for an account that is deleted in the meantime is answered as for an address without
// an account, and does not bring the account back. The next account of its name is in the table,
// and has no session of the first.
func TestDeletedWhileStanzasWait(t *testing.T) {
	for _, again := range []bool{false, true} {
		s := sessiontest.New(t, sessiontest.Options{})
		first, romeo := s.Login("first", "juliet@localhost/x"), s.Login("romeo", "romeo@localhost/x")
		host, _ := s.Router.Table.Host("localhost")
		p, err := s.NewProfile()
		if err != nil {
			t.Fatal(err)
		}
		host.SwapProfile(p) // accounts are read again
		romeo.Send("<presence/>")
		s.Settle()
		romeo.Received()
		held := s.PauseWorkers()
		romeo.Send("<iq type='get' id='1' to='juliet@localhost'><vCard xmlns='vcard-temp'/></iq>")
		gone, err := s.DB.Accounts().Delete(context.Background(), "localhost", "juliet")
		if err != nil {
			t.Fatal(err)
		}
		if err := storage.FinishDeletion(s.Router, s.DB, gone, nil); err != nil {
			t.Fatal(err)
		}
		if again {
			s.AddAccount("juliet@localhost")
		}
		romeo.Send("<iq type='get' id='2' to='juliet@localhost'><vCard xmlns='vcard-temp'/></iq>")
		held.Resume()
		for len(held.Jobs) > 0 {
			held.StartNext()
			s.Settle()
		}
		got := romeo.Received()
		for _, id := range []string{"1", "2"} {
			if strings.Count(got, "type='error' id='"+id+"'") != 1 {
				t.Errorf("again %v: answers are %q", again, got)
			}
		}
		if got := first.Received(); !strings.Contains(got, "<stream:error><not-authorized") {
			t.Errorf("again %v: the session of the account that was deleted got %q", again, got)
		}
		next := s.Login("next", "juliet@localhost/y")
		romeo.Send("<message to='juliet@localhost/y' type='chat'><body>for the next</body></message>")
		if got := next.Received(); !strings.Contains(got, "for the next") {
			t.Errorf("again %v: the next owner of the name got %q", again, got)
		}
		a, ok := s.Router.Table.LookupAccount(next.Bare())
		if !ok || len(a.Resources()) != 1 {
			t.Errorf("again %v: in the table %v", again, ok)
		}
	}
}
