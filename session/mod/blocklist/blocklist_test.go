package blocklist_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/session"
	"canto/session/sessiontest"
)

func TestConversations(t *testing.T) { sessiontest.Run(t, "testdata", sessiontest.Options{}) }

// XEP-0191 section 3.3: a block list has a limit of addresses and a limit of bytes. Both hold for all
// requests together. The list fits into one answer, and an address that is on it already costs nothing.
func TestLimits(t *testing.T) {
	lim := session.DefaultLimits()
	lim.Rate, lim.RateBurst = 64<<20, 64<<20
	opt := sessiontest.Options{FS: vfs.NewMem(), Limits: &lim}
	s := sessiontest.New(t, opt)
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	const refused = "<resource-constraint "
	block := func(who string) string {
		romeo.Send("<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='" + who + "'/></block></iq>")
		s.Settle()
		return romeo.Received()
	}
	long := func(i int) string { return fmt.Sprintf("c%d@example.org/%s", i, strings.Repeat("&amp;", 1000)) }
	kept := 0
	for i := range 100 {
		if got := block(long(i)); strings.Contains(got, "type='result'") {
			kept++
		} else if !strings.Contains(got, refused) {
			t.Fatalf("address %d: %.200s", i, got)
		}
	}
	if kept < 40 || kept > 52 { // each takes 5 kB of XML
		t.Errorf("%d addresses of 5 kB are kept", kept)
	}
	if got := block(long(0)); !strings.Contains(got, "type='result'") {
		t.Errorf("one that is there already: %.200s", got)
	}
	s.DB.Close()
	s = sessiontest.New(t, opt)
	romeo = s.Login("romeo", "romeo@localhost/orchard")
	if got := block(long(200)); !strings.Contains(got, refused) {
		t.Errorf("after a restart: %.200s", got)
	}
	romeo.Send("<iq type='set' id='u'><unblock xmlns='urn:xmpp:blocking'><item jid='" + long(0) +
		"'/></unblock></iq>")
	s.Settle()
	romeo.Received()
	if got := block(long(200)); !strings.Contains(got, "type='result'") {
		t.Errorf("in the room of one that was taken off: %.200s", got)
	}
}
