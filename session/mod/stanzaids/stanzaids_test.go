package stanzaids_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/session"
	"canto/session/mod/stanzaids"
	"canto/session/sessiontest"
	"canto/session/stanzaid"
	"canto/session/store/storetest"
	"canto/session/wallclock"
)

func TestConversations(t *testing.T) { sessiontest.Run(t, "testdata", sessiontest.Options{}) }

var id = regexp.MustCompile(`<stanza-id xmlns='urn:xmpp:sid:0' id='(\w+)'`)

// ids returns the stanza ids of n messages to juliet.
func ids(t *testing.T, s *sessiontest.Server, juliet *sessiontest.Client, n int) (list []stanzaid.ID) {
	t.Helper()
	juliet.Send(strings.Repeat("<message to='juliet@localhost/balcony' type='chat'><body>Hi</body></message>",
		n))
	s.Settle()
	a, ok := s.Router.Table.LookupAccount(juliet.Bare())
	if !ok {
		t.Fatal("the account is not in memory")
	}
	cipher, err := stanzaids.NewCipher(s.DB)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range id.FindAllStringSubmatch(juliet.Received(), -1) {
		x, err := cipher.Parse([]byte(m[1]), a.ID())
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, x)
	}
	return list
}

// After a crash no id is given twice, and none is below an earlier one: also if the clock is back at its
// start, and if only the lease was written.
func TestCrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	last := stanzaid.ID(0)
	for start := range 4 {
		// Each server's clock begins at the same time.
		s := sessiontest.New(t, sessiontest.Options{FS: fs})
		juliet := s.Login("juliet", "juliet@localhost/balcony")
		for range 3 {
			list := ids(t, s, juliet, 5)
			if len(list) != 5 {
				t.Fatalf("start %d: %d ids", start, len(list))
			}
			for _, x := range list {
				if x <= last {
					t.Fatalf("start %d: %d after %d", start, x, last)
				}
				last = x
			}
			s.Advance(7 * time.Minute) // beyond the first lease, without a message
			s.Settle()
		}
		fs = fs.CrashClone(vfs.CrashCloneCfg{})
	}
}

// The clock steps back while an account is out of memory and while it is in memory: its ids still grow.
func TestClockBack(t *testing.T) {
	var back time.Duration
	var s *sessiontest.Server
	now := func() time.Time {
		if s == nil {
			return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		}
		return s.Net.Now().Add(-back)
	}
	s = sessiontest.New(t, sessiontest.Options{Dependencies: []session.Dependency{session.NewDependency(
		wallclock.Clock(now))}})
	last := stanzaid.ID(0)
	for i := range 6 {
		juliet := s.Login(fmt.Sprint("juliet", i), "juliet@localhost/balcony")
		for _, x := range ids(t, s, juliet, 3) {
			if x <= last {
				t.Fatalf("try %d: %d after %d", i, x, last)
			}
			last = x
		}
		juliet.DropConn()
		s.Settle()
		if i%2 == 0 {
			s.Advance(3 * time.Minute) // cold
		}
		back += 4 * time.Minute
	}
	if last == 0 {
		t.Error("no ids")
	}
}

// While the lease can't be extended, ids are drawn below it, also when the clock is past its end. A message
// that can't be written is answered with an error, and messages that are not archived pass.
func TestLeaseUsedUp(t *testing.T) {
	var flaky storetest.Flaky
	s := sessiontest.New(t, sessiontest.Options{Fault: flaky.Fault})
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	flaky.Writes.Store(true)
	s.Advance(55 * time.Second)
	if n := len(ids(t, s, juliet, 2)); n != 2 {
		t.Errorf("%d ids below the lease", n)
	}
	s.Advance(10 * time.Second)
	juliet.Send("<message to='juliet@localhost/balcony' type='chat'><body>Hi</body></message>")
	s.Settle()
	if got := juliet.Received(); !strings.Contains(got, "<message type='error'") ||
		!strings.Contains(got, "<stanza-id ") {
		t.Errorf("past the end of the lease: %s", got)
	}
	juliet.Send("<message to='juliet@localhost/balcony' type='headline'><body>Hi</body></message>")
	s.Settle()
	if got := juliet.Received(); !strings.Contains(got, "<body>Hi</body></message>") {
		t.Errorf("a headline above the lease: %s", got)
	}
	flaky.Writes.Store(false)
	ids(t, s, juliet, 1)
	if n := len(ids(t, s, juliet, 2)); n != 2 {
		t.Errorf("%d ids on a store that is well again", n)
	}
}

// Seven quick starts move the floor of the lease ahead of the clock. No id is given twice when an account
// leaves memory, when a module is loaded again, or when the clock stands still.
func TestNoIDTwiceAheadOfTheClock(t *testing.T) {
	fs := vfs.NewCrashableMem()
	seen := make(map[stanzaid.ID]bool)
	last := stanzaid.ID(0)
	for start := range 7 {
		frozen := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		s := sessiontest.New(t, sessiontest.Options{FS: fs,
			Dependencies: []session.Dependency{session.NewDependency(wallclock.Clock(func() time.Time {
				return frozen
			}))}})
		for round := range 3 {
			juliet := s.Login(fmt.Sprint("juliet", round), "juliet@localhost/balcony")
			for _, x := range ids(t, s, juliet, 1) {
				if seen[x] || x <= last {
					t.Fatalf("start %d, round %d: %d after %d", start, round, x, last)
				}
				seen[x], last = true, x
			}
			juliet.DropConn()
			s.Settle()
			s.Advance(5 * time.Minute)
			if _, ok := s.Router.Table.LookupAccount(juliet.Bare()); ok {
				t.Fatal("the account is in memory")
			}
			if round == 1 { // a reload with other options loads the modules again
				host, _ := s.Router.Table.Host("localhost")
				p, err := s.NewProfile()
				if err != nil {
					t.Fatal(err)
				}
				host.SwapProfile(p)
			}
		}
		s.Settle()
		fs = fs.CrashClone(vfs.CrashCloneCfg{})
	}
	if len(seen) != 21 {
		t.Errorf("%d ids", len(seen))
	}
}

// A forged id is removed from a message of any type: a client that has it would ask for what came after it,
// and get item-not-found.
func TestForgedInEveryType(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.Settle()
	juliet.Received()
	for _, typ := range []string{"chat", "normal", "headline", "groupchat", "error"} {
		inner := "<body>Hi</body>"
		if typ == "error" {
			inner += "<error type='cancel'><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
		}
		romeo.Send("<message to='juliet@localhost/balcony' type='" + typ + "' id='m'>" + inner +
			"<stanza-id xmlns='urn:xmpp:sid:0' id='forged' by='juliet@localhost'/>" +
			"<stanza-id xmlns='urn:xmpp:sid:0' id='forged too' by='romeo@localhost'/>" +
			"<stanza-id xmlns='urn:xmpp:sid:0' id='of a room' by='room@localhost'/></message>")
		s.Settle()
		got := juliet.Received()
		if !strings.Contains(got, "of a room") || strings.Contains(got, "forged") ||
			typ == "error" && !strings.Contains(got, "<gone ") {
			t.Errorf("%s: %s", typ, got)
		}
	}
}
