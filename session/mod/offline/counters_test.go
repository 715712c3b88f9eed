package offline_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"canto/session"
	archivemod "canto/session/mod/archive"
	"canto/session/mod/offline"
	"canto/session/sessiontest"
	"canto/session/storage"
)

// What was counted as stored, less what was counted as ended, is what waits, whatever became of it: a message
// that is archived or is not, or that a session had in its queue; that a client takes, or leaves to the
// archive; that is too old, or whose account is deleted.
func TestCountersOfWaiting(t *testing.T) {
	s := free(t, sessiontest.Options{Module: func(_ string, v any) error {
		if o, ok := v.(*archivemod.Options); ok {
			o.Retention = "24h"
		}
		return nil
	}})
	counted := func() map[string]int {
		n := map[string]int{}
		s.Router.EachCounter(func(c session.CounterName, v uint64) {
			switch c.Name {
			case "offline_stored_total":
				n["stored"] = int(v)
			case "offline_ended_total":
				n[c.Value] = int(v)
			}
		})
		return n
	}
	names := []string{"juliet", "nurse", "paris", "romeo"}
	check := func(what string, reason string, want int) {
		t.Helper()
		s.Settle()
		waits := 0
		for _, name := range names {
			a, err := s.DB.Accounts().Get(s.DB, "localhost", name)
			if err != nil {
				continue
			}
			w, err := offline.StoredWaiting(s.DB, s.DB, a.ID)
			if err != nil {
				t.Fatal(err)
			}
			waits += w.Count
		}
		n := counted()
		if ended := n["taken"] + n["archive"] + n["expired"] + n["account"]; waits != n["stored"]-ended ||
			n[reason] != want {
			t.Errorf("%s: %d messages wait, and want %d %s: %v", what, waits, want, reason, n)
		}
	}
	for _, name := range names[:3] {
		s.AddAccount(name + "@localhost")
	}
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	write := func(to string, n int) {
		for i := range n {
			romeo.Send(fmt.Sprintf("<message to='%s@localhost' type='chat'><body>%s</body></message>", to,
				body(i, 60_000)))
		}
		romeo.Send(fmt.Sprintf("<message to='%s@localhost' type='chat'><body>%s</body><no-permanent-store "+
			"xmlns='urn:xmpp:hints'/></message>", to, body(n, 100)))
		s.Settle()
	}
	write("juliet", 9)
	check("ten were written", "stored", 10)
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Conn().SetWindow(200_000)
	juliet.Send("<presence/>")
	s.Settle()
	write("juliet", 0)
	juliet.DropConn()
	s.Settle()
	check("one is in the queue of a session that ends", "stored", 11)
	if n := counted()["taken"]; n == 0 || n == 11 {
		t.Errorf("%d messages were taken by a client that has read some", n)
	}
	juliet = s.Login("again", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.Settle()
	juliet.Received()
	check("all are taken", "taken", 11)

	write("nurse", 4)
	nurse := s.Dial("nurse", 0)
	nurse.Open("localhost")
	s.Settle()
	nurse.Send("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>AG51cnNlAHIwbTMw" +
		"</initial-response><bind xmlns='urn:xmpp:bind:0'/></authenticate>")
	check("four are left to the archive", "archive", 4)
	nurse.Send("<presence/>")
	check("the one that is not archived is taken", "taken", 12)

	write("paris", 2)
	s.Advance(26 * time.Hour)
	check("two are too old", "expired", 2)
	gone, err := s.DB.Accounts().Delete(context.Background(), "localhost", "paris")
	if err != nil {
		t.Fatal(err)
	}
	if err := storage.FinishDeletion(s.Router, s.DB, gone, func() {}); err != nil {
		t.Fatal(err)
	}
	check("one is deleted with its account", "account", 1)
}
