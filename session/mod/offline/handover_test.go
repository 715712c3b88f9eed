package offline_test

import (
	"strings"
	"testing"
	"time"

	"canto/session/archive"
	"canto/session/sessiontest"
	"canto/session/stanzaid"
)

// The archive says which device has had what waited, and when; of what still waits it does not. One row says
// it for all that a device gets together.
func TestHandovers(t *testing.T) {
	s := free(t, sessiontest.Options{})
	s.AddAccount("juliet@localhost")
	acc, err := s.DB.Accounts().Get(s.DB, "localhost", "juliet")
	if err != nil {
		t.Fatal(err)
	}
	arc, err := archive.Open(s.DB.Tables())
	if err != nil {
		t.Fatal(err)
	}
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	write := func(n, size int) {
		for i := range n {
			romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(i, size) + "</body></message>")
		}
		s.Settle()
	}
	// devices are those that have had the messages, in the order of the archive; - for one that waits.
	devices := func() (list []string) {
		s.Settle()
		if err := arc.Scan(s.DB, acc.ID, 0, 1<<63, false, func(id stanzaid.ID, row archive.Row) bool {
			h, ok, err := arc.HandoverOf(s.DB, acc.ID, id)
			switch {
			case err != nil:
				t.Error(err)
			case !ok:
				list = append(list, "-")
			case h.Reads:
				list = append(list, h.Device+" reads")
			default:
				list = append(list, h.Device)
			}
			return true
		}); err != nil {
			t.Fatal(err)
		}
		return list
	}
	write(6, 60_000)
	equal(t, "all wait", devices(), []string{"-", "-", "-", "-", "-", "-"})
	one := s.Login("one", "juliet@localhost/one")
	one.Conn().SetWindow(200_000)
	one.Send("<presence/>")
	s.Settle()
	one.DropConn()
	had := 0
	for _, d := range devices() {
		if d == "one" {
			had++
		}
	}
	if had == 0 || had == 6 {
		t.Fatalf("a client that has read some has had %d of 6 messages: %v", had, devices())
	}
	s.Advance(time.Hour)
	at := s.Net.Now()
	two := s.Login("two", "juliet@localhost/two")
	two.Send("<presence/>")
	s.Settle()
	two.DropConn()
	want := []string{"one", "one", "one", "one", "one", "one"}
	for i := had; i < 6; i++ {
		want[i] = "two"
	}
	equal(t, "another device has the rest", devices(), want)
	sum, err := arc.Load(s.DB, acc.ID)
	if err != nil {
		t.Fatal(err)
	}
	if h, _, err := arc.HandoverOf(s.DB, acc.ID, sum.Last); err != nil || h.At.Before(at) ||
		h.At.After(s.Net.Now()) || h.Last != sum.Last {
		t.Errorf("at %v: %+v, %v", at, h, err)
	}
	write(2, 100)
	three := s.Dial("three", 0)
	three.Open("localhost")
	s.Settle()
	three.Send("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>" +
		"AGp1bGlldAByMG0zMA==</initial-response><bind xmlns='urn:xmpp:bind:0'><tag>x</tag></bind>" +
		"</authenticate>")
	s.Settle()
	got := devices()
	if got[6] != got[7] || !strings.HasPrefix(got[7], "x/") || !strings.HasSuffix(got[7], " reads") {
		t.Errorf("after a login by Bind 2: %v", got)
	}
}
