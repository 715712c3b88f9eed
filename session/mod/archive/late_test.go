package archive_test

import (
	"strings"
	"testing"
	"time"

	"canto/session/sessiontest"
)

// A page that is read so slowly that its client was told of it is not sent any more. Neither is one whose
// client has gone, to the next client with the same resource.
func TestLatePage(t *testing.T) {
	for _, gone := range []bool{false, true} {
		s := free(t, sessiontest.Options{})
		romeo := s.Login("romeo", "romeo@localhost/orchard")
		romeo.Send(chat("juliet@localhost", "m", "Hi"))
		s.Settle()
		romeo.Received()
		workers := s.PauseWorkers()
		romeo.Send("<iq type='set' id='query'><query xmlns='urn:xmpp:mam:2'/></iq>")
		s.Settle()
		workers.Resume() // what was asked for stays queued
		if gone {
			romeo.DropConn()
			s.Settle()
			romeo = s.Login("again", "romeo@localhost/orchard")
			romeo.Received()
		} else {
			s.AdvanceSettled(31 * time.Second)
			if got := romeo.Received(); !strings.Contains(got, "remote-server-timeout") {
				t.Fatalf("after 31 seconds: %q", got)
			}
		}
		for len(workers.Jobs) > 0 {
			workers.StartNext()
		}
		s.Settle()
		if got := romeo.Received(); got != "" {
			t.Errorf("gone %v: %q", gone, got)
		}
		if p := query(t, s, romeo, ""); len(p.ids) != 1 {
			t.Errorf("gone %v: then the page has %d messages", gone, len(p.ids))
		}
	}
}
