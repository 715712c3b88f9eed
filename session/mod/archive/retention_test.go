package archive_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	engine "canto/session/archive"
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
// sweep, which any login on the host starts. An account without such messages is not loaded.
func TestSweep(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{Module: func(_ string, v any) error {
		if o, ok := v.(*archive.Options); ok {
			o.Retention = "24h"
		}
		return nil
	}})
	s.AddAccount("nurse@localhost")
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	romeo.Send("<message to='juliet@localhost' type='chat'><body>old</body></message>")
	s.Settle()
	owner := map[string]uint64{}
	for _, c := range []*sessiontest.Client{romeo, juliet} {
		a, _ := s.Router.Table.LookupAccount(c.Bare())
		owner[c.Name] = a.ID()
		c.Send("</stream:stream>")
	}
	s.Settle()
	count := func(owner uint64) (n int) {
		arc, err := engine.Open(s.DB.Tables())
		if err != nil {
			t.Fatal(err)
		}
		if err := arc.Scan(s.DB, owner, 0, 1<<63, false, func(stanzaid.ID, engine.Row) bool {
			n++
			return true
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, hours := range []int{1, 30} {
		s.Advance(time.Duration(hours) * time.Hour)
		s.Settle()
		s.AdvanceSettled(5 * time.Second)
		for name, id := range owner {
			if n, want := count(id), map[int]int{1: 1, 30: 0}[hours]; n != want {
				t.Errorf("after %d hours the archive of %s has %d messages, want %d", hours, name, n, want)
			}
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
