package presence_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"canto/session"
	"canto/session/sessiontest"
)

// fast returns limits without a rate.
func fast() sessiontest.Options {
	lim := session.DefaultLimits()
	lim.Rate, lim.RateBurst = 64<<20, 64<<20
	return sessiontest.Options{Limits: &lim}
}

// RFC 6121 section 4.4: presence is kept for each resource and sent to each contact, so it has a limit of
// its own. A longer stanza is refused, changes nothing, and reaches no contact.
func TestLongPresence(t *testing.T) {
	s := sessiontest.New(t, fast())
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	romeo.Send("<presence/>")
	s.Settle()
	romeo.Received()
	long := "<status>" + strings.Repeat("s", 16<<10) + "</status></presence>"
	for _, p := range []string{"<presence>", "<presence type='unavailable'>",
		"<presence to='juliet@localhost/balcony'>",
		"<presence to='juliet@localhost/balcony' type='unavailable'>",
		"<presence to='juliet@localhost' type='subscribe'>",
		"<presence to='juliet@localhost' type='unsubscribed'>"} {
		romeo.Send(p + long)
		s.Settle()
		if got := romeo.Received(); strings.Count(got, "<presence ") != 1 ||
			!strings.Contains(got, "<policy-violation ") {
			t.Errorf("%s of more than 16 KiB: %.200s", p, got)
		}
	}
	if got := juliet.Received(); got != "" {
		t.Errorf("juliet gets %.200s", got)
	}
	romeo.Send("<presence><status>" + strings.Repeat("s", 15<<10) + "</status></presence>")
	s.Settle()
	if got := romeo.Received(); strings.Contains(got, "error") || !strings.Contains(got, "sss") {
		t.Errorf("15 KiB: %.200s", got)
	}
}

// RFC 6121 section 4.6.3: the addresses that got directed presence are kept, within a limit of addresses
// and a limit of bytes (attack K58).
func TestLongDirected(t *testing.T) {
	s := sessiontest.New(t, fast())
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	name := strings.Repeat("n", 1000)
	sent := func(n int) (refused int) {
		for i := range n {
			romeo.Send(fmt.Sprintf("<presence to='a%d@localhost/%s%d'/>", i, name, i))
		}
		s.Settle()
		return strings.Count(romeo.Received(), "<resource-constraint ")
	}
	if n := sent(500); n < 300 || n > 450 {
		t.Errorf("%d of 500 addresses of 1 kB are refused", n)
	}
	romeo.Send(fmt.Sprintf("<presence to='a0@localhost/%s0' type='unavailable'/><presence "+
		"to='b@localhost/%s'/>", name, name))
	s.Settle()
	if got := romeo.Received(); got != "" {
		t.Errorf("in the room of one that was told: %.200s", got)
	}
}

// RFC 6121 section 4.6.3: all addresses that got directed presence get the unavailable presence, which is
// in memory once for all of them.
func TestOneCopyOfUnavailable(t *testing.T) {
	s := sessiontest.New(t, fast())
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	const n = 900
	for i := range n {
		romeo.Send(fmt.Sprintf("<presence to='a%d@localhost'/>", i))
	}
	romeo.Send("<presence to='juliet@localhost/balcony'/>")
	s.Settle()
	juliet.Received()
	bye := "<presence type='unavailable'><status>" + strings.Repeat("s", 15<<10) + "</status></presence>"
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	romeo.Send(bye)
	s.Settle()
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > n*(15<<10)/2 {
		t.Errorf("one presence of 15 KiB for %d addresses takes %d bytes", n, got)
	}
	if got := juliet.Received(); strings.Count(got, "type='unavailable'") != 1 {
		t.Errorf("juliet gets %.200s", got)
	}
}

// A broadcast costs its sender's rate more than a stanza to one address: a stream that broadcasts long
// presence is paused, a stream that broadcasts usual presence is not.
func TestBroadcastCosts(t *testing.T) {
	answered := func(size int) bool {
		s := sessiontest.New(t, sessiontest.Options{}) // 256 KiB a second, and 1 MiB at once
		romeo := s.Login("romeo", "romeo@localhost/orchard")
		for range 8 {
			for i := range 900 {
				romeo.Send(fmt.Sprintf("<presence to='a%d@localhost'/>", i))
			}
			romeo.Send("<presence type='unavailable'><status>" + strings.Repeat("s", size) + "</status></presence>")
			s.Settle()
		}
		romeo.Received()
		romeo.Send("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
		s.Settle()
		soon := strings.Contains(romeo.Received(), "id='p'")
		if !soon {
			s.Advance(30 * time.Second)
			s.Settle()
			if !strings.Contains(romeo.Received(), "id='p'") {
				t.Errorf("presence of %d bytes stops its sender for more than 30 seconds", size)
			}
		}
		return soon
	}
	if answered(15 << 10) {
		t.Error("eight broadcasts of 15 KiB to 900 addresses cost no more than eight times 15 KiB")
	}
	if !answered(100) {
		t.Error("eight broadcasts of 100 bytes to 900 addresses pause their sender")
	}
}
