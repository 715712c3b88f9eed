package sm_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod/sm"
	"canto/session/sessiontest"
	"canto/session/store"
)

// accountID returns the id of an account in the store.
func accountID(t *testing.T, s *sessiontest.Server, local string) uint64 {
	t.Helper()
	a, err := s.DB.Accounts().Get(s.DB, "localhost", local)
	if err != nil {
		t.Fatal(err)
	}
	return a.ID
}

// deadlines returns how many entries the index has.
func deadlines(t *testing.T, s *sessiontest.Server) (n int) {
	t.Helper()
	err := s.DB.Deadlines().Scan(s.DB, store.Deadline{}, math.MaxInt64-1, func(store.Deadline) bool {
		n++
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// juliets is the address of juliet's account.
func juliets(t *testing.T) jid.JID {
	t.Helper()
	j, err := jid.Parse("juliet@localhost")
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// inMemory reports whether juliet's account is in memory.
func inMemory(t *testing.T, s *sessiontest.Server) bool {
	_, in := s.Router.Table.LookupAccount(juliets(t))
	return in
}

// An account of which all sessions hibernate leaves the memory, and comes back with them: for a message, for
// the client that resumes, and at the deadline, when its contacts see it leave once. Nothing is left then.
func TestCold(t *testing.T) {
	for _, end := range []string{"resume", "expiry", "kick"} {
		t.Run(end, func(t *testing.T) {
			s, romeo, juliet := enabled(t)
			juliet.DropConn()
			s.Settle()
			romeo.Send("<message to='juliet@localhost' type='chat'><body>one</body></message>")
			s.AdvanceSettled(4 * time.Minute)
			if inMemory(t, s) {
				t.Fatal("the account is in memory")
			}
			romeo.Send("<message to='juliet@localhost' type='chat'><body>two</body></message>")
			s.Settle()
			if !inMemory(t, s) {
				t.Fatal("a message has not loaded the account")
			}
			s.AdvanceSettled(4 * time.Minute)
			if inMemory(t, s) {
				t.Fatal("the account is in memory again")
			}
			n, queued, _ := sm.CountRows(t, s.DB, accountID(t, s, "juliet"))
			if n != 1 || queued != 2 || deadlines(t, s) != 1 {
				t.Errorf("%d rows, %d of the queue, %d deadlines", n, queued, deadlines(t, s))
			}
			name := "again"
			switch end {
			case "resume":
				got := resume(s, name, "session-1", 0).Received()
				if !strings.Contains(got, "<resumed") || strings.Index(got, ">one<") > strings.Index(got, ">two<") ||
					strings.Count(got, "<body>") != 2 {
					t.Errorf("juliet got %q", got)
				}
			case "expiry":
				s.AdvanceSettled(3 * time.Minute)
				juliet := s.Login(name, "juliet@localhost/next")
				juliet.Send("<presence/>")
				s.Settle()
				if got := juliet.Received(); strings.Count(got, "<body>") != 2 || strings.Contains(got, "balcony") {
					t.Errorf("juliet got %q", got)
				}
			case "kick":
				s.Router.Kick(juliets(t), session.ErrNotAuthorized)
				s.Settle()
				if got := resume(s, name, "session-1", 0).Received(); !strings.Contains(got, "<item-not-found") {
					t.Errorf("juliet got %q", got)
				}
			}
			s.Settle()
			n, queued, _ = sm.CountRows(t, s.DB, accountID(t, s, "juliet"))
			if n+queued != 0 || deadlines(t, s) != 0 {
				t.Errorf("%d rows, %d of the queue, %d deadlines are left", n, queued, deadlines(t, s))
			}
		})
	}
}

// Two devices have a message in their queues. It waits once when both have expired, whatever the server does
// in between, and not while one of them may still resume.
func TestQueuedTwice(t *testing.T) {
	for _, between := range []string{"", "restart", "crash"} {
		for _, resumed := range []bool{false, true} {
			t.Run(fmt.Sprint(between, resumed), func(t *testing.T) {
				s := sessiontest.New(t, sessiontest.Options{})
				romeo := s.Login("romeo", "romeo@localhost/orchard")
				for i, max := range []int{60, 600} {
					c := s.Login(fmt.Sprint("c", i), fmt.Sprintf("juliet@localhost/%d", i))
					c.Send(fmt.Sprintf("<presence/><enable xmlns='urn:xmpp:sm:3' resume='true' max='%d'/>", max))
					s.Settle()
				}
				for i := range 2 {
					s.Client(fmt.Sprint("c", i)).DropConn()
				}
				s.Settle()
				romeo.Send("<message to='juliet@localhost' type='chat'><body>one</body></message>")
				s.Settle()
				turn := func() {
					switch between {
					case "restart":
						s.Restart()
					case "crash":
						s.Crash()
					}
				}
				turn()
				s.Login("lady", "lady@localhost/x") // a first login begins what expires sessions of before
				s.AdvanceSettled(3 * time.Minute)
				turn()
				next := s.Login("next", "juliet@localhost/next")
				next.Send("<presence/>")
				s.Settle()
				if got := next.Received(); strings.Contains(got, "<body>") {
					t.Errorf("one device may resume, and another gets %q", got)
				}
				next.Send("</stream:stream>")
				s.Settle()
				want := 1
				if resumed {
					if got := resume(s, "again", "session-2", 0).Received(); strings.Count(got, "<body>") != 1 {
						t.Errorf("the other device got %q", got)
					}
					want = 0
					s.Client("again").Send("<a xmlns='urn:xmpp:sm:3' h='1'/>")
				} else {
					s.AdvanceSettled(10 * time.Minute)
				}
				s.Settle()
				last := s.Login("last", "juliet@localhost/last")
				last.Send("<presence/>")
				s.Settle()
				if got := last.Received(); strings.Count(got, "<body>") != want {
					t.Errorf("a later device got %q, and %d messages are right", got, want)
				}
			})
		}
	}
}

// What is handled of sessions that have ended is told to their clients, and bounded: ten sessions, a day.
func TestHandledIsBounded(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	for i := range 14 {
		c := s.Login(fmt.Sprint("c", i), fmt.Sprintf("juliet@localhost/%d", i))
		c.Send("<enable xmlns='urn:xmpp:sm:3' resume='true' max='10'/><presence/><r xmlns='urn:xmpp:sm:3'/>")
		s.Settle()
		c.DropConn()
		s.AdvanceSettled(20 * time.Second)
	}
	if got := resume(s, "known", "session-14", 0).Received(); !strings.Contains(got, "h='1'><item-not-found") {
		t.Errorf("the last session: %q", got)
	}
	s.Client("known").DropConn()
	s.AdvanceSettled(4 * time.Minute) // the account leaves the memory
	juliet := s.Login("next", "juliet@localhost/next")
	s.Settle()
	if _, _, n := sm.CountRows(t, s.DB, accountID(t, s, "juliet")); n != 10 {
		t.Errorf("%d sessions that have ended are known", n)
	}
	juliet.Send("<enable xmlns='urn:xmpp:sm:3' resume='true'/><presence/><r xmlns='urn:xmpp:sm:3'/>")
	s.Settle()
	juliet.Send("</stream:stream>") // it will not be resumed
	s.Settle()
	if _, _, n := sm.CountRows(t, s.DB, accountID(t, s, "juliet")); n != 10 {
		t.Errorf("%d sessions that have ended are known after a logout", n)
	}
	s.AdvanceSettled(4 * time.Minute)
	sm.PutHandled(t, s.DB, accountID(t, s, "juliet"), s.DB.Deadlines().Now()-(24*time.Hour).Milliseconds())
	s.Login("later", "juliet@localhost/later")
	s.Settle()
	if _, _, n := sm.CountRows(t, s.DB, accountID(t, s, "juliet")); n != 0 {
		t.Errorf("a day later %d sessions that have ended are known", n)
	}
}

// A row that can't be read is logged and deleted; the account works.
func TestDamagedRows(t *testing.T) {
	var log strings.Builder
	s := sessiontest.New(t, sessiontest.Options{Log: &log})
	s.AddAccount("juliet@localhost")
	id := accountID(t, s, "juliet")
	rows, err := store.MapOf(s.DB.Tables(), sm.RowsDef)
	if err != nil {
		t.Fatal(err)
	}
	b := s.DB.NewBatch(id)
	for key, v := range map[string]string{"a": "", "b": "\x01\x02\x03rubbish", "c\x00\x00\x00\x00\x00": "x",
		"d\x00h": "", "e": "\x01\x02\xff"} {
		rows.Put(b, id, key, []byte(v))
	}
	s.DB.Commit(b)
	s.Settle()
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.Settle()
	if got := juliet.Received(); !strings.Contains(got, "<presence") {
		t.Errorf("juliet got %q", got)
	}
	if n, _, _ := sm.CountRows(t, s.DB, id); n != 0 || strings.Count(log.String(), "level=ERROR") != 3 {
		t.Errorf("%d rows are left; the log: %s", n, log.String())
	}
}

// On a full disk a session hibernates in memory, and is resumed. It does not outlive the process.
func TestFullDisk(t *testing.T) {
	s, _, juliet := enabled(t)
	s.SetFull(true)
	juliet.DropConn()
	s.Settle()
	s.SetFull(false)
	if got := resume(s, "again", "session-1", 0).Received(); !strings.Contains(got, "<resumed") {
		t.Errorf("juliet got %q", got)
	}
	s.SetFull(true)
	s.Client("again").DropConn()
	s.Settle()
	s.SetFull(false)
	s.AdvanceSettled(5 * time.Minute) // it is stored before the account leaves the memory
	if got := resume(s, "later", "session-1", 0).Received(); !strings.Contains(got, "<resumed") {
		t.Errorf("after five minutes juliet got %q", got)
	}
	s.SetFull(true)
	s.Client("later").DropConn()
	s.Settle()
	s.Restart()
	s.SetFull(false)
	if got := resume(s, "third", "session-1", 0).Received(); !strings.Contains(got, "<item-not-found") {
		t.Errorf("after a restart juliet got %q", got)
	}
}

// If the rows of a session can't be deleted it is not resumed, and nothing is lost.
func TestResumeWhileTheStoreFails(t *testing.T) {
	fail := false
	s := sessiontest.New(t, sessiontest.Options{Fault: func(write bool) error {
		if fail && write {
			return errors.New("the test lets it fail")
		}
		return nil
	}})
	romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/><enable xmlns='urn:xmpp:sm:3' resume='true'/>")
	s.Settle()
	juliet.DropConn()
	s.Settle()
	romeo.Send("<message to='juliet@localhost' type='chat'><body>one</body></message>")
	s.Settle()
	fail = true
	if got := resume(s, "again", "session-1", 0).Received(); !strings.Contains(got, "<resource-constraint") {
		t.Errorf("juliet got %q", got)
	}
	fail = false
	s.Client("again").DropConn()
	s.Settle()
	if got := resume(s, "third", "session-1", 0).Received(); strings.Count(got, "<body>one") != 1 {
		t.Errorf("juliet got %q", got)
	}
}

// A resumption that is not completed, as its client counts too much or has gone, or the store fails, leaves
// the session as it was: it is stored, resumed later, or ends at its deadline.
func TestResumptionIsNotCompleted(t *testing.T) {
	for _, how := range []string{"counts too much", "has gone"} {
		for _, then := range []string{"resume", "restart", "expiry"} {
			t.Run(how+", "+then, func(t *testing.T) {
				s, romeo, juliet := enabled(t)
				juliet.DropConn()
				s.Settle()
				romeo.Send("<message to='juliet@localhost' type='chat'><body>one</body></message>")
				s.Settle()
				if how == "has gone" {
					c := s.Authenticate("x", "juliet@localhost", 1)
					c.Send("<resume xmlns='urn:xmpp:sm:3' previd='session-1' h='0'/>")
					c.DropConn()
					s.Settle()
				} else {
					resume(s, "x", "session-1", 4_000_000)
				}
				switch then {
				case "restart":
					s.Restart()
				case "expiry":
					s.AdvanceSettled(11 * time.Minute)
					next := s.Login("next", "juliet@localhost/next")
					next.Send("<presence/>")
					s.Settle()
					if got := next.Received(); strings.Count(got, "<body>one") != 1 || strings.Contains(got, "balcony") {
						t.Errorf("after the deadline juliet got %q", got)
					}
					n, queued, _ := sm.CountRows(t, s.DB, accountID(t, s, "juliet"))
					if n+queued+deadlines(t, s) != 0 {
						t.Errorf("%d rows, %d of the queue, %d deadlines are left", n, queued, deadlines(t, s))
					}
					return
				}
				if got := resume(s, "again", "session-1", 0).Received(); strings.Count(got, "<body>one") != 1 {
					t.Errorf("juliet got %q", got)
				}
			})
		}
	}
}

// An account is reloaded while a session hibernates: what comes for it then is stored, as before.
func TestReloadedWhileHibernating(t *testing.T) {
	s, romeo, juliet := enabled(t)
	juliet.DropConn()
	s.Settle()
	s.Reload()
	for i := range 2 {
		romeo.Send(fmt.Sprintf("<message to='juliet@localhost' type='chat'><body>%d</body></message>", i))
		s.Settle()
	}
	s.Crash()
	if got := resume(s, "again", "session-1", 0).Received(); strings.Count(got, "<body>") != 2 {
		t.Errorf("juliet got %q", got)
	}
}
