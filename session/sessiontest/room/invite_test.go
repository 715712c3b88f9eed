package room_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"canto/session/sessiontest"
	"canto/session/store/storetest"
)

// The inviter is notified once that an invitation has expired, when that is durable. While it can't be stored
// nothing is sent, and the store is not written at each tick. When it can be stored the invitation
// expires, also if the room has occupants, which keep it in memory. The same holds if an invitation was
// accepted and that could not be stored.
func TestExpiryOnFlakyStore(t *testing.T) {
	for _, how := range []string{"fails", "is full", "fails as it is accepted"} {
		t.Run(how, func(t *testing.T) {
			var flaky storetest.Flaky
			var writes atomic.Int64
			s := sessiontest.New(t, with(sessiontest.Options{Fault: func(write bool) error {
				if write {
					writes.Add(1)
				}
				return flaky.Fault(write)
			}}))
			romeo, nurse := s.Login("romeo", "romeo@localhost/a"), s.Login("nurse", "nurse@localhost/b")
			romeo.Send("<presence/>" + join("Romeo") + say("one") + iq("set", "1", "<invite jid='nurse@localhost'/>"))
			s.Settle()
			romeo.Received()
			broken := func(on bool) {
				if flaky.Writes.Store(on && how != "is full"); how == "is full" {
					s.SetFull(on)
				}
			}
			if how == "fails as it is accepted" {
				broken(true)
				nurse.Send(join("Nurse"))
				s.Settle()
				broken(false)
			}
			s.AdvanceSettled(4 * time.Minute)
			broken(true)
			before := writes.Load()
			s.AdvanceSettled(2 * time.Minute)
			if got := romeo.Received(); strings.Contains(got, "<expired") {
				t.Errorf("before it is durable: %s", got)
			}
			if n := writes.Load() - before; n > 18 { // two or three of them say that the server runs
				t.Errorf("the store is asked %d times in two minutes", n)
			}
			broken(false)
			s.AdvanceSettled(time.Minute)
			if got := romeo.Received(); strings.Count(got, "<expired") != 1 {
				t.Errorf("on a store that is well again: %s", got)
			}
			nurse.Send("<presence type='unavailable' to='" + orchard + "/Nurse'/>" + join("Nurse"))
			romeo.Send(iq("get", "2", "<affiliations/>"))
			s.Settle()
			if got := romeo.Received(); strings.Contains(got, "nurse@localhost") || !strings.Contains(got, "id='2'") {
				t.Errorf("the invitation holds still: %s", got)
			}
			s.AdvanceSettled(6 * time.Minute)
			if got := romeo.Received(); strings.Contains(got, "<expired") {
				t.Errorf("and again: %s", got)
			}
		})
	}
}

// A client that joins gets the occupants a page at a time, in the order of nicks, each once; so does a
// client that uses disco#items (XEP-0059 section 2.2).
func TestOccupantsByPage(t *testing.T) {
	const occupants = 230
	s := sessiontest.New(t, with(sessiontest.Options{Limits: unlimited()}))
	for i := range occupants {
		s.Login(fmt.Sprint("c", i), fmt.Sprintf("c%d@localhost/x", i)).Send(
			join(fmt.Sprintf("nick%03d", (i*7)%occupants)))
	}
	s.Client("c0").Send("<presence type='unavailable' to='" + orchard + "/nick000'/>")
	last := s.Login("last", "last@localhost/x")
	last.Send("<presence to='" + orchard + "/last'><occupants xmlns='urn:canto:test:room'/></presence>")
	s.Settle()
	var told []string
	for _, el := range last.Stanzas() {
		if e := strings.Index(el, "<occupants"); e >= 0 {
			from, _, _ := strings.Cut(el[strings.Index(el, "/nick")+1:], "'")
			told = append(told, from)
		}
	}
	var listed []string
	for after := ""; ; {
		last.Send("<iq type='get' id='1' to='" + orchard +
			"'><query xmlns='http://jabber.org/protocol/disco#items'>" +
			"<set xmlns='http://jabber.org/protocol/rsm'><max>40</max><after>" + after + "</after></set></query></iq>")
		s.Settle()
		got := last.Received()
		mustHave(t, "a page", got, fmt.Sprintf("<count>%d</count>", occupants)) // one has left, and one has come
		items := strings.Split(got, "<item jid='"+orchard+"/")[1:]
		for _, it := range items {
			nick, _, _ := strings.Cut(it, "'")
			listed = append(listed, nick)
		}
		if len(items) == 0 {
			break
		}
		after = listed[len(listed)-1]
	}
	var want []string
	for i := 1; i < occupants; i++ {
		want = append(want, fmt.Sprintf("nick%03d", i))
	}
	if fmt.Sprint(told) != fmt.Sprint(want) {
		t.Errorf("one that joins is told of %v", told)
	}
	if want = append([]string{"last"}, want...); fmt.Sprint(listed) != fmt.Sprint(want) {
		t.Errorf("disco#items lists %v", listed)
	}
}
