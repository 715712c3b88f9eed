package offline_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"canto/session/mod/offline"
	"canto/session/sessiontest"
	"canto/session/store/storetest"
)

func TestConversations(t *testing.T) { sessiontest.Run(t, "testdata", sessiontest.Options{}) }

// Who fills another's offline store is refused beyond the limit, in messages and in bytes; nobody's message makes
// room for his, and there is room again once they were handed over.
func TestAttackK62(t *testing.T) {
	const refused = "<error type='wait'><resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
	for name, opt := range map[string]offline.Options{"messages": {MaxMessages: 5, MaxBytes: 1 << 20}, "bytes": {MaxMessages: 1000, MaxBytes: 2500}} {
		t.Run(name, func(t *testing.T) {
			s := sessiontest.New(t, sessiontest.Options{Module: func(_ string, v any) error {
				if o, ok := v.(*offline.Options); ok {
					*o = opt
				}
				return nil
			}})
			s.AddAccount("juliet@localhost")
			nurse := s.Login("nurse", "nurse@localhost/chamber")
			nurse.Send("<message to='juliet@localhost' type='chat' id='n'><body>first</body></message>")
			s.Settle()
			mallory := s.Login("mallory", "mallory@localhost/den")
			pad := strings.Repeat("x", 300)
			for i := range 20 {
				mallory.Send(fmt.Sprintf("<message to='juliet@localhost' type='chat' id='m%d'><body>%d %s</body></message>", i, i, pad))
			}
			s.Settle()
			no := strings.Count(mallory.Received(), refused)
			if no < 10 || no == 20 {
				t.Errorf("%d of 20 messages are refused", no)
			}
			juliet := s.Login("juliet", "juliet@localhost/balcony")
			juliet.Send("<presence/>")
			s.Settle()
			var bodies []string
			for _, m := range regexp.MustCompile(`<body>(\w+)`).FindAllStringSubmatch(juliet.Received(), -1) {
				bodies = append(bodies, m[1])
			}
			want := []string{"first"}
			for i := range 20 - no {
				want = append(want, fmt.Sprint(i))
			}
			if fmt.Sprint(bodies) != fmt.Sprint(want) {
				t.Errorf("kept were %v, not %v", bodies, want)
			}
			juliet.Cut()
			s.Settle()
			mallory.Send("<message to='juliet@localhost' type='chat' id='again'><body>again</body></message>")
			s.Settle()
			if got := mallory.Received(); got != "" {
				t.Errorf("with room again: %s", got)
			}
		})
	}
}

// What could not be read is not lost, and does not keep back what comes live.
func TestFlakyStore(t *testing.T) {
	var flaky storetest.Flaky
	s := sessiontest.New(t, sessiontest.Options{Fault: flaky.Fault})
	s.AddAccount("juliet@localhost")
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	send := func(text string) {
		romeo.Send("<message to='juliet@localhost' type='chat'><body>" + text + "</body></message>")
		s.Settle()
	}
	send("stored")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	flaky.Reads.Store(true)
	flaky.Writes.Store(true)
	juliet.Send("<presence/><presence to='nurse@localhost' type='subscribe'/>")
	s.Settle()
	flaky.Reads.Store(false)
	flaky.Writes.Store(false)
	if got := juliet.Received(); strings.Contains(got, "<body>") {
		t.Errorf("read from a store that can't be read: %s", got)
	}
	send("live")
	if got := juliet.Received(); !strings.Contains(got, "<body>live</body>") {
		t.Errorf("a live message is kept back: %s", got)
	}
	juliet.Send("<presence type='unavailable'/><presence/>")
	s.Settle()
	if got := juliet.Received(); !strings.Contains(got, "<body>stored</body>") {
		t.Errorf("a stored message is lost: %s", got)
	}
}
