package archive_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	engine "canto/session/archive"
	"canto/session/jid"
	"canto/session/mod/archive"
	"canto/session/sessiontest"
	"canto/session/stanzaid"
	"canto/session/store"
)

// The message that comes when all others are older than the retention stays, and they go. It stays also if a
// worker looks for the oldest row before the message is given to the store.
func TestRetention(t *testing.T) {
	for _, fast := range []bool{false, true} {
		t.Run(fmt.Sprint("fast=", fast), func(t *testing.T) { retention(t, fast) })
	}
}

// retention is [TestRetention].
func retention(t *testing.T, fast bool) {
	s := free(t, sessiontest.Options{Module: with(func(o *archive.Options) { o.Retention = "1h" })})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.Settle()
	for i := range 3 {
		romeo.Send(chat("juliet@localhost", "1", fmt.Sprint("number ", i)))
		s.Settle()
		s.AdvanceSettled(time.Minute)
	}
	old, _ := everything(t, s, romeo)
	if fast {
		hasten(s)
	}
	s.Advance(3 * time.Hour)
	s.Settle()
	romeo.Send(chat("juliet@localhost", "1", "number 3"))
	s.Settle()
	romeo.Send(chat("juliet@localhost", "1", "number 4"))
	s.Settle()
	for _, c := range []*sessiontest.Client{romeo, juliet} {
		_, bodies := everything(t, s, c)
		equal(t, c.Name, bodies, numbered(3, 4))
	}
	pages := counter(s, "queries_total", "page")
	for _, content := range []string{set("<after>" + old[2] + "</after>"),
		set("<before>" + old[0] + "</before>"), submit("ids", old[1]), submit("after-id", old[2]),
		submit("before-id", old[2])} {
		if p := query(t, s, romeo, content); p.condition != "item-not-found" {
			t.Errorf("an id of an expired message (attack K90): %+v", p)
		}
	}
	if n := counter(s, "queries_total", "page"); n != pages {
		t.Errorf("%d pages without an id were counted", n-pages)
	}
	if n := counter(s, "rows_expired_total", ""); n != 6 {
		t.Errorf("%d rows have expired", n)
	}
	s.Restart()
	romeo = s.Login("romeo", "romeo@localhost/orchard")
	_, bodies := everything(t, s, romeo)
	equal(t, "after a restart", bodies, numbered(3, 4))
	s.Advance(40 * time.Minute)
	s.Settle()
	romeo.Send(chat("juliet@localhost", "1", "number 5"))
	s.Advance(61 * time.Minute)
	s.Settle()
	romeo.Send(chat("juliet@localhost", "1", "number 6"))
	s.Settle()
	_, bodies = everything(t, s, romeo)
	equal(t, "an hour later", bodies, numbered(6, 6))
}

// An archive keeps at most so many messages, and a tenth more until the oldest go. Pages, counts and metadata
// agree. What waits for a device is never deleted.
func TestMaxMessages(t *testing.T) {
	s := free(t, sessiontest.Options{Module: with(func(o *archive.Options) { o.MaxMessages = 20 })})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	for i := range 100 {
		romeo.Send(chat("juliet@localhost", "1", fmt.Sprint("number ", i)))
		s.Settle()
		ids, bodies := everything(t, s, romeo)
		n := len(bodies)
		equal(t, fmt.Sprint("after ", i), bodies, numbered(i+1-n, i))
		if n > 22 || i >= 20 && n < 20 || i < 20 && n != i+1 {
			t.Fatalf("after %d messages: %d", i+1, n)
		}
		if p := query(t, s, romeo, set("<max>1</max>")); p.count != fmt.Sprint(n) || p.first != ids[0] {
			t.Fatalf("after %d messages: %+v, and %d rows", i, p, n)
		}
		romeo.Send("<iq type='get' id='m'><metadata xmlns='urn:xmpp:mam:2'/></iq>")
		s.Settle()
		if got := romeo.Received(); !strings.Contains(got, "<start id='"+ids[0]+"'") ||
			!strings.Contains(got, "<end id='"+ids[n-1]+"'") {
			t.Fatalf("metadata: %s", got)
		}
	}
	s.Restart()
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	_, bodies := everything(t, s, juliet)
	equal(t, "what waits", bodies, numbered(0, 99))
	juliet.Send("<presence/>")
	s.Settle()
	_, live := readPage(t, "x", append(juliet.Stanzas(), "<iq id='x' id='x'/>"))
	equal(t, "delivered", live, numbered(0, 99))
	romeo = s.Login("romeo", "romeo@localhost/orchard")
	romeo.Send(chat("juliet@localhost", "1", "number 100"))
	s.Settle()
	_, bodies = everything(t, s, juliet)
	equal(t, "when nothing waits", bodies, numbered(81, 100))
}

// An archive keeps at most so many bytes, and a tenth more until the oldest messages go.
func TestMaxBytes(t *testing.T) {
	const size = 4000
	s := free(t, sessiontest.Options{Module: with(func(o *archive.Options) { o.MaxBytes = 64 << 10 })})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	for i := range 60 {
		romeo.Send(chat("juliet@localhost", "1", fmt.Sprint("number ", i)+strings.Repeat(" ", size)))
		s.Settle()
	}
	_, bodies := everything(t, s, romeo)
	if n := len(bodies); n*size > 64<<10*11/10 || n < 14 || !strings.HasPrefix(bodies[n-1], "number 59 ") ||
		!strings.HasPrefix(bodies[0], fmt.Sprint("number ", 60-n, " ")) {
		t.Errorf("%d messages are left", n)
	}
}

// Messages that are too old are deleted from the archive of an account that is not used any more: by the
// sweep, which any login on the host starts. An account whose messages are all younger is not loaded for it.
func TestSweep(t *testing.T) {
	s := free(t, sessiontest.Options{Module: with(func(o *archive.Options) { o.Retention = "24h" })})
	arc, err := engine.Open(s.DB.Tables())
	if err != nil {
		t.Fatal(err)
	}
	count := func(name string) (n int) {
		acc, err := s.DB.Accounts().Get(s.DB, "localhost", name)
		if err != nil {
			t.Fatal(err)
		}
		if err := arc.Scan(s.DB, acc.ID, 0, 1<<63, false, func(stanzaid.ID, engine.Row) bool {
			n++
			return true
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	// talk lets one account write to another, which is away.
	talk := func(from, to string) {
		s.AddAccount(to + "@localhost")
		c := s.Login(from, from+"@localhost/x")
		c.Send(chat(to+"@localhost", "m", "text") + "</stream:stream>")
		s.Settle()
	}
	talk("romeo", "juliet")
	s.Advance(22 * time.Hour)
	talk("peter", "nurse")
	// An account stays in memory for a minute after it was loaded: half a minute misses none.
	loaded := map[string]int{}
	look := func(d time.Duration) {
		for ; d > 0; d -= 30 * time.Second {
			s.AdvanceSettled(30 * time.Second)
			for _, name := range []string{"romeo", "juliet", "peter", "nurse"} {
				addr, err := jid.New(name, "localhost", "")
				if err != nil {
					t.Fatal(err)
				}
				if _, ok := s.Router.Table.LookupAccount(addr); ok {
					loaded[name]++
				}
			}
		}
	}
	look(2 * time.Minute)
	if loaded["peter"] == 0 {
		t.Error("an account that was used is not seen in memory")
	}
	clear(loaded)
	look(100 * time.Minute)
	if len(loaded) > 0 {
		t.Errorf("loaded before any message is too old: %v", loaded)
	}
	for _, name := range []string{"romeo", "juliet", "peter", "nurse"} {
		if n := count(name); n != 1 {
			t.Errorf("after 24 hours the archive of %s has %d messages, want 1", name, n)
		}
	}
	look(90 * time.Minute)
	if loaded["romeo"] == 0 || loaded["juliet"] == 0 || loaded["peter"]+loaded["nurse"] > 0 {
		t.Errorf("loaded for their old messages: %v", loaded)
	}
	for name, want := range map[string]int{"romeo": 0, "juliet": 0, "peter": 1, "nurse": 1} {
		if n := count(name); n != want {
			t.Errorf("after 25 hours the archive of %s has %d messages, want %d", name, n, want)
		}
	}
}

// An archive that can't be read is counted, and does not keep the sweep from the accounts after it.
func TestSweepPassesDamagedRows(t *testing.T) {
	s := free(t, sessiontest.Options{Module: with(func(o *archive.Options) { o.Retention = "24h" })})
	s.AddAccount("anna@localhost")
	rows, err := store.LogOf(s.DB.Tables(), store.NewLog[[]byte]("archive", 'm', 1)) // as package archive has it
	if err != nil {
		t.Fatal(err)
	}
	anna, err := s.DB.Accounts().Get(s.DB, "localhost", "anna")
	if err != nil {
		t.Fatal(err)
	}
	b := s.DB.NewBatch(anna.ID)
	rows.Append(b, anna.ID, 1, nil)
	s.DB.Commit(b)
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	romeo.Send(chat("absent@localhost", "m", "old"))
	s.Settle()
	romeo.Send("</stream:stream>")
	s.Settle()
	s.Advance(30 * time.Hour)
	s.Settle()
	s.AdvanceSettled(5 * time.Second)
	n, bad := counter(s, "rows_expired_total", ""), counter(s, "expiry_failures_total", "")
	if n != 1 || bad == 0 {
		t.Errorf("%d messages were deleted, %d archives could not be read", n, bad)
	}
}
