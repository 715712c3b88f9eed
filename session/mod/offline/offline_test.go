package offline_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/mod"
	"canto/session/mod/offline"
	"canto/session/sessiontest"
	"canto/session/store/storetest"
)

func TestConversations(t *testing.T) { sessiontest.Run(t, "testdata", sessiontest.Options{}) }

// A user that fills the offline store of another account gets resource-constraint beyond the limit of
// messages and beyond the limit of bytes. No stored message is dropped for a new one. After the messages
// are delivered there is space again.
func TestAttackK62(t *testing.T) {
	const refused = "<error type='wait'><resource-constraint " +
		"xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
	for name, opt := range map[string]offline.Options{"messages": {MaxMessages: 5, MaxBytes: 1 << 20},
		"bytes": {MaxMessages: 1000, MaxBytes: 2500}} {
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
				mallory.Send(fmt.Sprintf("<message to='juliet@localhost' type='chat' id='m%d'><body>%d "+
					"%s</body></message>", i, i, pad))
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
			juliet.DropConn()
			s.Settle()
			mallory.Send("<message to='juliet@localhost' type='chat' id='again'><body>again</body></message>")
			s.Settle()
			if got := mallory.Received(); got != "" {
				t.Errorf("with room again: %s", got)
			}
		})
	}
}

// A stored message that can't be read now is not lost, and does not hold up live messages.
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

// bodies returns the texts of the messages in what a client got.
func bodies(received string) (list []string) {
	for _, m := range regexp.MustCompile(`<body>([^<]{1,20})`).FindAllStringSubmatch(received, -1) {
		list = append(list, m[1])
	}
	return list
}

func numbers(from, to int) (list []string) {
	for i := from; i < to; i++ {
		list = append(list, fmt.Sprintf("number %04d", i))
	}
	return list
}

// body returns a text of n bytes that begins with a number.
func body(i, size int) string {
	n := fmt.Sprintf("number %04d", i)
	return n + strings.Repeat(" ", 9) + strings.Repeat("x", max(size-len(n)-9, 0))
}

// texts returns the numbers of the messages in what a client got.
func texts(received string) (list []string) {
	for _, b := range bodies(received) {
		list = append(list, strings.TrimSpace(strings.TrimRight(b, "x")))
	}
	return list
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %d %.300v..., want %d %.300v...", what, len(got), got, len(want), want)
	}
}

// free starts a server without a limit of rates.
func free(t *testing.T, opt sessiontest.Options) *sessiontest.Server {
	lim := session.DefaultLimits()
	lim.Rate = 0
	opt.Limits = &lim
	return sessiontest.New(t, opt)
}

// roomy returns options with which accounts can store what a session can't queue.
func roomy(_ string, v any) error {
	if o, ok := v.(*offline.Options); ok {
		*o = offline.Options{MaxMessages: 5000, MaxBytes: 64 << 20}
	}
	return nil
}

// No amount of stored messages ends a session: more than an outbox holds is sent as the client reads, and
// erased after that; another login works.
func TestManyStoredBytes(t *testing.T) {
	for _, size := range []int{100, 250_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			n := min(1000, 4_000_000/size)
			s := free(t, sessiontest.Options{})
			romeo := s.Login("romeo", "romeo@localhost/orchard")
			s.AddAccount("juliet@localhost")
			for i := range n {
				romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(i, size) + "</body></message>")
			}
			s.Settle()
			if got := romeo.Received(); got != "" {
				t.Fatalf("refused: %.300s", got)
			}
			juliet := s.Login("juliet", "juliet@localhost/balcony")
			juliet.Conn().SetWindow(0)
			juliet.Send("<presence/>")
			s.Settle()
			most, got := 0, ""
			for range 1000 { // the client reads a part at a time
				most = max(most, juliet.Conn().Conn().Buffered())
				juliet.Conn().SetWindow(50_000)
				s.Advance(100 * time.Millisecond)
				s.Settle()
				got += juliet.Received()
				if len(texts(got)) == n {
					break
				}
			}
			if juliet.Conn().Ended() {
				t.Error("the session was ended")
			}
			if most > session.LowWaterMark+300_000 {
				t.Errorf("%d bytes waited for the client", most)
			}
			equal(t, "in parts", texts(got), numbers(0, n))
			juliet.Conn().SetWindow(-1)
			s.Advance(time.Second)
			juliet.DropConn()
			s.Settle()
			again := s.Login("again", "juliet@localhost/balcony")
			again.Send("<presence/>")
			equal(t, "a second time", texts(again.Received()), nil)
		})
	}
}

// Messages that the client has not taken when its connection is lost stay stored, for the next login or
// for another available session. A message that arrives in between is neither lost nor delivered before
// them.
func TestLostWhileHandedOver(t *testing.T) {
	const n, size = 12, 50_000
	s := free(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	for i := range n {
		romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(i, size) + "</body></message>")
	}
	one := s.Login("one", "juliet@localhost/one")
	one.Conn().SetWindow(0)
	one.Send("<presence/>")
	s.Settle()
	two := s.Login("two", "juliet@localhost/two")
	two.Send("<presence><priority>-1</priority></presence>")
	two.Received()
	romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(n, 50) + "</body></message>")
	s.Settle()
	two.Send("<presence/>") // becomes available during the replay of the other session
	s.Settle()
	one.DropConn()
	s.Settle()
	got := texts(two.Received())
	equal(t, "the other device", got, numbers(0, n+1))
}

// A message that arrives during a replay while the session's queue is full is stored after the others: the
// client gets all in order, however slowly it reads, and the sender gets no error.
func TestLiveWhileHandedOver(t *testing.T) {
	const stored, live = 3, 1500
	s := free(t, sessiontest.Options{Module: roomy})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	for i := range stored {
		romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(i, 200_000) + "</body></message>")
	}
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Conn().SetWindow(0)
	juliet.Send("<presence/>")
	s.Settle()
	for i := range live {
		romeo.Send("<message to='juliet@localhost/balcony' type='chat'><body>" + body(stored+i, 1200) +
			"</body></message>")
	}
	s.Settle()
	if got := romeo.Received(); got != "" {
		t.Fatalf("refused: %.300s", got)
	}
	// An answer is delivered too.
	juliet.Send("<iq type='get' id='ping'><ping xmlns='urn:xmpp:ping'/></iq>")
	got := ""
	for i := 0; i < 2000 && len(texts(got)) < stored+live+100; i++ {
		juliet.Conn().SetWindow(40_000)
		s.Advance(100 * time.Millisecond)
		s.Settle()
		got += juliet.Received()
		if i < 100 { // more arrive while it reads
			romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(stored+live+i, 50) +
				"</body></message>")
		}
	}
	equal(t, "all", texts(got), numbers(0, stored+live+100))
	if !strings.Contains(got, "id='ping'") {
		t.Error("the answer is lost")
	}
	juliet.Conn().SetWindow(-1)
	s.Settle()
	romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(9999, 0) + "</body></message>")
	equal(t, "live again", texts(juliet.Received()), []string{"number 9999"})
}

// Messages that a session has queued after the stored ones are not lost when the session ends.
func TestQueuedWhenTheSessionEnds(t *testing.T) {
	s := free(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	for i := range 2 {
		romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(i, 200_000) + "</body></message>")
	}
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Conn().SetWindow(0)
	juliet.Send("<presence/>")
	s.Settle()
	romeo.Send("<message to='juliet@localhost/balcony' type='chat'><body>" + body(2, 0) + "</body></message>")
	romeo.Send("<message to='juliet@localhost/balcony' type='chat' id='g'><body>never " +
		"stored</body><no-store xmlns='urn:xmpp:hints'/></message>")
	juliet.DropConn()
	s.Settle()
	if got := romeo.Received(); !strings.Contains(got, "type='error' id='g'") {
		t.Errorf("romeo got %q", got)
	}
	again := s.Login("again", "juliet@localhost/balcony")
	again.Send("<presence/>")
	equal(t, "at the next login", texts(again.Received()), numbers(0, 3))
}

// A client that becomes unavailable during a replay gets no more stored messages; the next available
// session gets them.
func TestUnavailableWhileHandedOver(t *testing.T) {
	s := free(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	for i := range 8 {
		romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(i, 100_000) + "</body></message>")
	}
	one := s.Login("one", "juliet@localhost/one")
	one.Conn().SetWindow(0)
	one.Send("<presence/>")
	s.Settle()
	one.Send("<presence type='unavailable'/>")
	s.Settle()
	one.Conn().SetWindow(-1)
	s.Advance(time.Second)
	s.Settle()
	first := texts(one.Received())
	if len(first) == 0 || len(first) == 8 {
		t.Fatalf("an unavailable client got %d messages", len(first))
	}
	two := s.Login("two", "juliet@localhost/two")
	two.Send("<presence/>")
	equal(t, "both together", append(first, texts(two.Received())...), numbers(0, 8))
}

// XEP-0160 section 3, XEP-0334 section 4: which messages are stored. The others are answered (RFC 6121
// section 8.5.2.2.1).
func TestWhatIsKept(t *testing.T) {
	const hints = " xmlns='urn:xmpp:hints'/>"
	for payload, kept := range map[string]bool{
		"<body>Hi</body>":                                                              true,
		"<subject>Topic</subject>":                                                     true,
		"<body>Hi</body><no-store" + hints:                                             false,
		"<body>Hi</body><no-permanent-store" + hints:                                   true,
		"<received xmlns='urn:xmpp:receipts' id='1'/>":                                 true,
		"<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>":                          true,
		"<x xmlns='jabber:x:conference' jid='room@conference.localhost'/>":             true,
		"<encrypted xmlns='eu.siacs.conversations.axolotl'/><store" + hints:            true,
		"<encrypted xmlns='urn:xmpp:omemo:2'/>":                                        true,
		"<composing xmlns='http://jabber.org/protocol/chatstates'/>":                   false,
		"<composing xmlns='http://jabber.org/protocol/chatstates'/><thread>1</thread>": false,
		"<composing xmlns='http://jabber.org/protocol/chatstates'/><store" + hints:     true,
		"<active xmlns='http://jabber.org/protocol/chatstates'/><body>Hi</body>":       true,
	} {
		for _, to := range []string{"juliet@localhost", "juliet@localhost/balcony"} {
			s := sessiontest.New(t, sessiontest.Options{})
			s.AddAccount("juliet@localhost")
			romeo := s.Login("romeo", "romeo@localhost/orchard")
			romeo.Send("<message to='" + to + "' type='chat' id='m'>" + payload + "</message>")
			s.Settle()
			refused := strings.Contains(romeo.Received(), "type='error' id='m' from='"+to+
				"' to='romeo@localhost/orchard'><error type='cancel'><service-unavailable")
			juliet := s.Login("juliet", "juliet@localhost/balcony")
			juliet.Send("<presence/>")
			came := strings.Contains(juliet.Received(), "id='m'")
			if came != kept || refused == kept {
				t.Errorf("%s to %s: kept %v, refused %v", payload, to, came, refused)
			}
		}
	}
}

// Stored and queued messages of an address that the account has blocked meanwhile are not delivered
// (XEP-0191 section 3.3).
func TestBlockedSinceStored(t *testing.T) {
	s := free(t, sessiontest.Options{})
	romeo, nurse := s.Login("romeo", "romeo@localhost/orchard"), s.Login("nurse", "nurse@localhost/chamber")
	s.AddAccount("juliet@localhost")
	for _, c := range []*sessiontest.Client{nurse, romeo} {
		c.Send("<message to='juliet@localhost' type='chat'><body>" + body(1, 100_000) + "</body></message>")
		c.Send("<message to='juliet@localhost' type='chat'><body>" + body(2, 100_000) + "</body></message>")
		c.Send("<presence to='juliet@localhost' type='subscribe'/>")
	}
	one := s.Login("one", "juliet@localhost/one")
	one.Send("<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='romeo@localhost'/></block></iq>")
	s.Settle()
	one.Send("<presence/>")
	got := one.Received()
	if strings.Contains(got, "from='romeo@localhost") {
		t.Error("juliet hears romeo, whom she has blocked")
	}
	if len(texts(got)) != 2 || !strings.Contains(got, "from='nurse@localhost' type='subscribe'") &&
		!strings.Contains(got, "type='subscribe' from='nurse@localhost'") {
		t.Errorf("of the nurse came %v", texts(got))
	}
}

// A stanza that is stored, broadcast or sent from memory has the sender's xml:lang, as a live stanza has
// (RFC 6120 section 8.1.5). A value that is no language tag (BCP 47) is not put on stanzas.
func TestLanguageOfWhatIsKept(t *testing.T) {
	for lang, stamped := range map[string]bool{"de-CH": true, "not a tag": false, "en_US": false} {
		s := sessiontest.New(t, sessiontest.Options{})
		s.AddAccount("juliet@localhost")
		romeo := s.LoginLang("romeo", "romeo@localhost/orchard", lang)
		romeo.Send("<message to='juliet@localhost' type='chat'><body>Hallo</body></message><presence " +
			"to='juliet@localhost' type='subscribe'/>" +
			"<presence to='juliet@localhost' type='subscribed'/><presence><status>da</status></presence>")
		s.Settle()
		has := func(what, got, mark string) {
			t.Helper()
			for _, el := range regexp.MustCompile(`<(message|presence)[^>]*`).FindAllString(got, -1) {
				if !strings.Contains(el, "from='romeo@localhost") {
					continue
				}
				if mark == "" || strings.Contains(el, mark) {
					if strings.Contains(el, "xml:lang='"+lang+"'") != stamped {
						t.Errorf("%s: %s", what, el)
					}
					return
				}
			}
			t.Errorf("%s: nothing of romeo in %q", what, got)
		}
		juliet := s.Login("juliet", "juliet@localhost/balcony")
		juliet.Send("<presence/>")
		got := juliet.Received()
		has("a stored message", got, "type='chat'")
		has("a kept request", got, "type='subscribe'")
		juliet.Send("<presence to='romeo@localhost' type='subscribe'/>")
		s.Settle()
		has("presence at approval", juliet.Received(), "from='romeo@localhost/orchard'")
		romeo.Send("<presence><status>weg</status></presence>")
		has("a broadcast", juliet.Received(), "from='romeo@localhost/orchard'")
		juliet.Send("<presence to='romeo@localhost' type='probe'/>")
		has("an answer to a probe", juliet.Received(), "from='romeo@localhost/orchard'")
		romeo.Send("<presence type='unavailable'><status>fort</status></presence>")
		has("unavailable presence", juliet.Received(), "type='unavailable'")
	}
}

// While the store refuses writes, delivered messages can't be erased. The client gets them once, and again
// with its next presence, but not in an endless loop. After that they are erased.
func TestNothingIsErased(t *testing.T) {
	var flaky storetest.Flaky
	s := free(t, sessiontest.Options{Fault: flaky.Fault})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	for i := range 5 {
		romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(i, 60_000) + "</body></message>")
		s.Settle()
	}
	one, two := s.Login("one", "juliet@localhost/one"), s.Login("two", "juliet@localhost/two")
	flaky.Writes.Store(true)
	one.Send("<presence/>")
	two.Send("<presence/>")
	s.Settle()
	got := texts(one.Received())
	if n := len(texts(two.Received())); n > 5 { // it may get what the first one got, but not in an endless loop
		t.Errorf("while nothing can be erased, the other device got %d of 5 messages", n)
	}
	flaky.Writes.Store(false)
	for range 60 { // the replay is tried again after a pause
		s.Advance(time.Second)
		s.Settle()
	}
	equal(t, "in all", append(got, texts(one.Received())...), numbers(0, 5))
	one.Send("<presence type='unavailable'/><presence/>")
	s.Settle()
	equal(t, "once more", texts(one.Received()), nil)
	three := s.Login("three", "juliet@localhost/three")
	three.Send("<presence/>")
	s.Settle()
	equal(t, "another device, later", texts(three.Received()), nil)
}

// A message or a subscription request that could not be written is answered with an error.
func TestNotWritten(t *testing.T) {
	var flaky storetest.Flaky
	s := sessiontest.New(t, sessiontest.Options{Fault: flaky.Fault})
	s.AddAccount("juliet@localhost")
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	romeo.Send("<presence/>")
	s.Settle()
	romeo.Received()
	flaky.Writes.Store(true)
	romeo.Send("<message to='juliet@localhost' type='chat' id='m'><body>Hi</body></message><presence " +
		"to='juliet@localhost' type='subscribe' id='s'/>")
	s.Settle()
	got := romeo.Received()
	for _, want := range []string{"<message type='error' id='m'", "<presence type='error' id='s'"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %q", want, got)
		}
	}
	flaky.Writes.Store(false)
	romeo.Send("<message to='juliet@localhost' type='chat' id='again'><body>Hi again</body></message>")
	s.Settle()
	if got := romeo.Received(); got != "" {
		t.Errorf("romeo got %q", got)
	}
}

// Messages that a session had queued, and those that arrived while its queue was full, stay in order if
// the session ends.
func TestOrderWhenTheSessionEnds(t *testing.T) {
	s := free(t, sessiontest.Options{Module: roomy})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	const all = 1103
	for i := range all {
		size := 50
		if i < 3 {
			size = 200_000
		}
		if i == 3 {
			juliet := s.Login("juliet", "juliet@localhost/balcony")
			juliet.Conn().SetWindow(0)
			juliet.Send("<presence/>")
			s.Settle()
		}
		romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(i, size) + "</body></message>")
	}
	s.Settle()
	if got := romeo.Received(); got != "" {
		t.Fatalf("refused: %.300s", got)
	}
	two := s.Login("two", "juliet@localhost/two")
	two.Send("<presence/>")
	s.Client("juliet").DropConn()
	got := ""
	for range 50 {
		s.Advance(100 * time.Millisecond)
		s.Settle()
		got += two.Received()
	}
	equal(t, "the other device", texts(got), numbers(0, all))
}

// An iq that a session has queued after messages is answered when the session ends (RFC 6120 section
// 8.2.3).
func TestRequestBehindMessages(t *testing.T) {
	s := free(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	for i := range 2 {
		romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(i, 200_000) + "</body></message>")
	}
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Conn().SetWindow(0)
	juliet.Send("<presence/>")
	s.Settle()
	romeo.Send("<message to='juliet@localhost/balcony' type='chat'><body>" + body(2, 0) + "</body></message>")
	romeo.Send("<iq type='get' id='q' to='juliet@localhost/balcony'><ping xmlns='urn:xmpp:ping'/></iq>")
	juliet.DropConn()
	s.Settle()
	if got := romeo.Received(); strings.Count(got, "type='error' id='q'") != 1 {
		t.Errorf("romeo got %q", got)
	}
}

// Presence is delivered in the order of its arrival, also if it is queued during a replay: no contact
// seems to be available that has left.
func TestPresenceBehindMessages(t *testing.T) {
	s := free(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	for i := range 2 {
		romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(i, 200_000) + "</body></message>")
	}
	one := s.Login("one", "juliet@localhost/one")
	one.Conn().SetWindow(0)
	one.Send("<presence/>")
	s.Settle()
	romeo.Send("<message to='juliet@localhost/one' type='chat'><body>live</body></message>")
	two := s.Login("two", "juliet@localhost/two")
	two.Send("<presence><priority>-1</priority></presence>")
	two.Send("</stream:stream>")
	one.Conn().SetWindow(-1)
	s.Advance(time.Second)
	s.Settle()
	got := one.Received()
	if a, u := strings.Index(got, "<priority>-1"), strings.Index(got, "type='unavailable'"); a < 0 || u < a {
		t.Errorf("available presence is at %d, unavailable presence at %d", a, u)
	}
}

// An answer of the server itself is not queued during a replay.
func TestAnswerWhileHandedOver(t *testing.T) {
	s := free(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	for i := range 16 {
		romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(i, 200_000) + "</body></message>")
	}
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Conn().SetWindow(0)
	juliet.Send("<presence/>")
	s.Settle()
	romeo.Send("<message to='juliet@localhost/balcony' type='chat'><body>" + body(99, 0) + "</body></message>")
	juliet.Send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>")
	got := ""
	for len(got) < 600_000 && !juliet.Conn().Ended() { // two slices with their markup
		juliet.Conn().SetWindow(20_000)
		s.Advance(100 * time.Millisecond)
		if got += juliet.Received(); strings.Contains(got, "id='r'") {
			return
		}
	}
	t.Errorf("no answer in %d bytes", len(got))
}

// If the worker queue is full once, stored messages are delivered a little later, not at the next login.
func TestHandedOverLater(t *testing.T) {
	s := free(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(0, 50) + "</body></message>")
	s.Settle()
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	s.Router.Workers = &busy{s.Router.Workers, 2}
	juliet.Send("<presence/>")
	romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(1, 50) + "</body></message>")
	for range 60 {
		s.Advance(time.Second)
		s.Settle()
	}
	got := texts(juliet.Received())
	slices.Sort(got)
	equal(t, "in all", got, numbers(0, 2))
}

// busy are workers that refuse the next n jobs.
type busy struct {
	below reactor.Workers
	n     int
}

func (b *busy) Do(c reactor.Class, l *reactor.Loop, work func() error, then func(error)) bool {
	if b.n > 0 {
		b.n--
		return false
	}
	return b.below.Do(c, l, work, then)
}

// Messages that are queued for a client that no longer reads go to another session when its connection is
// lost.
func TestQueuedForAnotherResource(t *testing.T) {
	s := free(t, sessiontest.Options{Reactor: func(c *reactor.Config) { c.OutboxBytes = 300_000 }})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	one, two := s.Login("one", "juliet@localhost/one"), s.Login("two", "juliet@localhost/two")
	one.Send("<presence><priority>5</priority></presence>")
	two.Send("<presence/>")
	two.Received()
	one.Conn().SetWindow(0)
	for i := range 8 {
		romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(i, 100_000) + "</body></message>")
	}
	one.DropConn()
	s.Settle()
	s.Advance(time.Second)
	s.Settle()
	got := texts(two.Received())
	if len(got) < 3 || got[len(got)-1] != "number 0007" {
		t.Errorf("the other resource got %v", got)
	}
}

// After all stored messages were taken and the account was reloaded, a message that is stored then is
// still delivered to the session that took the others.
func TestStoredAfterAReload(t *testing.T) {
	var flaky storetest.Flaky
	s := free(t, sessiontest.Options{Fault: flaky.Fault})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	send := func(from, to int) {
		for i := from; i < to; i++ {
			romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(i, 50) + "</body></message>")
		}
		s.Settle()
	}
	send(0, 5)
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.Settle()
	equal(t, "the first", texts(juliet.Received()), numbers(0, 5))
	flaky.Writes.Store(true)
	// the write fails, and the account is reloaded
	juliet.Send("<presence to='nurse@localhost' type='subscribe'/>")
	s.Settle()
	flaky.Writes.Store(false)
	juliet.Send("<presence type='unavailable'/>")
	s.Settle()
	juliet.Received()
	send(5, 8)
	juliet.Send("<presence/>")
	s.Settle()
	equal(t, "the next", texts(juliet.Received()), numbers(5, 8))
}

// A client that becomes unavailable and available again during a replay gets each message once.
func TestPresenceToggled(t *testing.T) {
	const n = 12
	s := free(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	for i := range n {
		romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(i, 60_000) + "</body></message>")
	}
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Conn().SetWindow(0)
	juliet.Send("<presence/>")
	s.Settle()
	romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(n, 50) + "</body></message>")
	got := ""
	for i := range 200 {
		juliet.Conn().SetWindow(30_000)
		if i < 40 {
			juliet.Send("<presence type='unavailable'/><presence/>")
		}
		s.Advance(100 * time.Millisecond)
		s.Settle()
		got += juliet.Received()
	}
	list := texts(got)
	slices.Sort(list)
	equal(t, "in all", list, numbers(0, n+1))
}

// A message that one session has got is not delivered again when another session ends that had queued it
// too: one client is enough (RFC 6121 section 8.5.2.1.1). If all sessions that queued it end, it is stored
// once.
func TestOneClientIsEnough(t *testing.T) {
	for name, cut := range map[string][]string{"one": {"one"}, "both": {"one", "two"}} {
		t.Run(name, func(t *testing.T) {
			s := free(t, sessiontest.Options{Reactor: func(c *reactor.Config) { c.OutboxBytes = 300_000 }})
			romeo := s.Login("romeo", "romeo@localhost/orchard")
			s.AddAccount("juliet@localhost")
			for i := range 3 {
				romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(i, 200_000) + "</body></message>")
			}
			one, two := s.Login("one", "juliet@localhost/one"), s.Login("two", "juliet@localhost/two")
			one.Conn().SetWindow(0)
			one.Send("<presence/>")
			s.Settle()
			two.Send("<presence/>")
			two.Received()
			if name == "both" { // its outbox is full
				two.Conn().SetWindow(0)
				for range 3 {
					romeo.Send("<message to='juliet@localhost/two' type='headline'><body>news" +
						strings.Repeat("x", 200_000) + "</body></message>")
				}
			}
			s.Settle()
			romeo.Send("<message to='juliet@localhost' type='chat'><body>" + body(3, 50) + "</body></message>")
			s.Settle()
			got := ""
			for _, c := range cut {
				s.Client(c).DropConn()
				s.Settle()
			}
			if name == "one" {
				got = two.Received()
			} else {
				three := s.Login("three", "juliet@localhost/three")
				three.Send("<presence/>")
				s.Advance(time.Second)
				got = three.Received()
			}
			list := texts(got)
			slices.Sort(list)
			equal(t, "in all", list, numbers(0, 4))
		})
	}
}

// narrow returns options with which a connection holds little that its client has not taken, so that the rest
// waits in the queue of the session.
func narrow() sessiontest.Options {
	return sessiontest.Options{Reactor: func(c *reactor.Config) { c.OutboxBytes = 300_000 }}
}

// chat sends juliet the messages from one number to another, each of 100,000 bytes, and waits after each.
func chat(s *sessiontest.Server, from *sessiontest.Client, to, hint string, first, end int) {
	for i := first; i < end; i++ {
		from.Send("<message to='" + to + "' type='chat'>" + hint + "<body>" + body(i, 100_000) +
			"</body></message>")
		s.Settle()
	}
}

// hints are the payloads with which a message is archived, and with which it is not but may wait.
var hints = map[string]string{"archived": "",
	"not archived": "<no-permanent-store xmlns='urn:xmpp:hints'/>"}

// read lets a client take all that the server has for it, and returns it.
func read(s *sessiontest.Server, c *sessiontest.Client) string {
	c.Conn().SetWindow(-1)
	got := ""
	for range 20 {
		s.Advance(time.Second)
		s.Settle()
		got += c.Received()
	}
	return got
}

// The copy of a message that waits is not the message: if it is in the queue of a session that ends, the
// message waits once, and the next device gets it once.
func TestQueuedCopyOfWhatWaits(t *testing.T) {
	for name, hint := range hints {
		t.Run(name, func(t *testing.T) {
			s := free(t, narrow())
			romeo, one := s.Login("romeo", "romeo@localhost/orchard"), s.Login("one", "juliet@localhost/one")
			one.Send("<presence><priority>-1</priority></presence>" +
				"<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
			s.Settle()
			one.Conn().SetWindow(0)
			chat(s, romeo, "juliet@localhost", hint, 0, 8)
			one.DropConn()
			s.Settle()
			two := s.Login("two", "juliet@localhost/two")
			two.Send("<presence/>")
			equal(t, "the next device", texts(read(s, two)), numbers(0, 8))
			three := s.Login("three", "juliet@localhost/three")
			two.Send("<presence type='unavailable'/>")
			three.Send("<presence/>")
			equal(t, "a device after it", texts(read(s, three)), nil)
		})
	}
}

// What waits in the archive is delivered also if module archive is switched off, and what is not delivered
// then still waits when it is on again.
func TestArchiveSwitchedOff(t *testing.T) {
	for _, login := range []bool{true, false} {
		names := mod.DefaultNames()
		s := free(t, sessiontest.Options{Modules: names})
		romeo := s.Login("romeo", "romeo@localhost/orchard")
		s.AddAccount("juliet@localhost")
		chat(s, romeo, "juliet@localhost", "", 0, 4)
		names[slices.Index(names, "archive")] = "ping" // the loader takes a name that comes twice once
		s.Restart()
		if login {
			juliet := s.Login("juliet", "juliet@localhost/balcony")
			juliet.Send("<presence/>")
			equal(t, "without module archive", texts(read(s, juliet)), numbers(0, 4))
		}
		copy(names, mod.DefaultNames())
		s.Restart()
		juliet, want := s.Login("juliet", "juliet@localhost/balcony"), numbers(0, 4)
		juliet.Send("<presence/>")
		if login {
			want = nil
		}
		equal(t, "with it again", texts(read(s, juliet)), want)
	}
}

// What a session had queued when it ended is delivered in the order of the messages: before what came later,
// if no device has had that, and else after it. It does not matter whether another session is in a replay
// then.
func TestQueuedWhileAnotherReplays(t *testing.T) {
	for name, hint := range hints {
		for _, during := range []bool{false, true} {
			t.Run(fmt.Sprint(name, during), func(t *testing.T) {
				s := free(t, narrow())
				romeo, one := s.Login("romeo", "romeo@localhost/orchard"), s.Login("one", "juliet@localhost/one")
				one.Send("<presence><priority>-1</priority></presence>")
				s.Settle()
				one.Conn().SetWindow(0)
				chat(s, romeo, "juliet@localhost/one", hint, 0, 10)
				chat(s, romeo, "juliet@localhost", hint, 10, 20)
				if !during {
					one.DropConn()
					s.Settle()
				}
				two := s.Login("two", "juliet@localhost/two")
				two.Conn().SetWindow(150_000)
				two.Send("<presence/>")
				s.Settle()
				got := two.Received()
				if during {
					one.DropConn()
					s.Settle()
				}
				list := texts(got + read(s, two))
				if !during {
					equal(t, "the other device", list, numbers(4, 20))
				} else {
					slices.Sort(list)
					equal(t, "the other device, in all", list, numbers(4, 20))
				}
				three := s.Login("three", "juliet@localhost/three")
				two.Send("<presence type='unavailable'/>")
				three.Send("<presence/>")
				equal(t, "a device after it", texts(read(s, three)), nil)
			})
		}
	}
}

// A device with a negative priority that has copies of what waits does not get it again when it becomes
// available: also if the copies were in its queue. It gets what it has no copy of, and then nothing waits.
func TestCopiesBeforeAvailable(t *testing.T) {
	for name, hint := range hints {
		for _, window := range []int{-1, 0} {
			t.Run(fmt.Sprint(name, window), func(t *testing.T) {
				s := free(t, narrow())
				romeo, one := s.Login("romeo", "romeo@localhost/orchard"), s.Login("one", "juliet@localhost/one")
				chat(s, romeo, "juliet@localhost", hint, 0, 2)
				one.Send("<presence><priority>-1</priority></presence>" +
					"<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
				s.Settle()
				one.Conn().SetWindow(window)
				chat(s, romeo, "juliet@localhost", hint, 2, 8)
				chat(s, romeo, "juliet@localhost", hint+"<no-copy xmlns='urn:xmpp:hints'/>", 8, 9)
				chat(s, romeo, "juliet@localhost", hint, 9, 10)
				one.Send("<presence/>")
				s.Settle()
				list := texts(one.Received() + read(s, one))
				slices.Sort(list)
				equal(t, "in all", list, numbers(0, 10))
				two := s.Login("two", "juliet@localhost/two")
				one.DropConn()
				two.Send("<presence/>")
				equal(t, "a device after it", texts(read(s, two)), nil)
			})
		}
	}
}

// Copies that a device has do not hide what another session had queued between them, nor what waits if the
// device is lost before it has them.
func TestCopiesHideNothing(t *testing.T) {
	s := free(t, narrow())
	romeo, one := s.Login("romeo", "romeo@localhost/orchard"), s.Login("one", "juliet@localhost/one")
	two := s.Login("two", "juliet@localhost/two")
	one.Send("<presence><priority>-1</priority></presence>" +
		"<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
	two.Send("<presence><priority>-1</priority></presence>")
	s.Settle()
	two.Conn().SetWindow(0)
	for i := 0; i < 16; i += 2 {
		chat(s, romeo, "juliet@localhost/two", "<no-copy xmlns='urn:xmpp:hints'/>", i, i+1)
		chat(s, romeo, "juliet@localhost", "", i+1, i+2)
	}
	two.DropConn()
	s.Settle()
	one.Send("<presence/>")
	list := texts(read(s, one))
	for i := range 16 {
		want := 1
		if i < 8 && i%2 == 0 {
			want = 0 // the socket of the other device had it
		}
		n := 0
		for _, text := range list {
			if text == fmt.Sprintf("number %04d", i) {
				n++
			}
		}
		if n != want && (i < 6 || i > 7) {
			t.Errorf("number %d has come %d times, not %d", i, n, want)
		}
	}
}

// Copies in the queue of a device that becomes available, and is then lost, are not taken for delivered.
func TestCopiesOfALostDevice(t *testing.T) {
	for window := 60_000; window < 700_000; window += 80_000 {
		s := free(t, narrow())
		romeo, one := s.Login("romeo", "romeo@localhost/orchard"), s.Login("one", "juliet@localhost/one")
		one.Send("<presence><priority>-1</priority></presence>" +
			"<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
		s.Settle()
		one.Received()
		one.Conn().SetWindow(0)
		chat(s, romeo, "juliet@localhost", "", 0, 12)
		one.Send("<presence/>")
		got := ""
		for range 2 {
			one.Conn().SetWindow(window)
			for range 8 {
				s.Advance(100 * time.Millisecond)
				s.Settle()
			}
			got += one.Received()
		}
		again := s.Login("again", "juliet@localhost/one") // the server ends the session
		again.Send("<presence/>")
		list := append(texts(strings.Join(whole(got), "")), texts(read(s, again))...)
		slices.Sort(list)
		equal(t, fmt.Sprint("with ", window), slices.Compact(list), numbers(0, 12))
	}
}

// whole returns the messages in what a client got that it has got to their ends.
func whole(received string) (list []string) {
	parts := strings.SplitAfter(received, "</message>")
	return parts[:len(parts)-1]
}

// A client that takes nothing for a while, and is unavailable in between, gets its messages in order.
func TestOrderWithAFullWindow(t *testing.T) {
	s := free(t, narrow())
	romeo, one := s.Login("romeo", "romeo@localhost/orchard"), s.Login("one", "juliet@localhost/one")
	one.Send("<presence/>")
	s.Settle()
	one.Conn().SetWindow(0)
	chat(s, romeo, "juliet@localhost", "", 0, 12)
	one.Send("<presence type='unavailable'/>")
	one.Conn().SetWindow(420_000) // it takes what the connection holds, so that its presence is read
	s.Settle()
	chat(s, romeo, "juliet@localhost", "", 12, 15)
	one.Send("<presence/>")
	one.Conn().SetWindow(220_000)
	s.Settle()
	chat(s, romeo, "juliet@localhost", "", 15, 18)
	equal(t, "all", texts(one.Received()+read(s, one)), numbers(0, 18))
}

// A message that is retracted while it waits, as the session that had queued it has ended, comes as a
// tombstone: the archive has it, and the module a reference.
func TestRetractedWhileQueued(t *testing.T) {
	s := free(t, narrow())
	romeo, one := s.Login("romeo", "romeo@localhost/orchard"), s.Login("one", "juliet@localhost/one")
	one.Send("<presence/>")
	s.Settle()
	one.Conn().SetWindow(0)
	chat(s, romeo, "juliet@localhost", "", 0, 8)
	romeo.Send("<message to='juliet@localhost' type='chat' id='secret'><body>secret</body></message>")
	s.Settle()
	one.DropConn()
	s.Settle()
	romeo.Send("<message to='juliet@localhost' type='chat' id='r'><retract id='secret' " +
		"xmlns='urn:xmpp:message-retract:1'/><store xmlns='urn:xmpp:hints'/></message>")
	s.Settle()
	two := s.Login("two", "juliet@localhost/two")
	two.Send("<presence/>")
	got := read(s, two)
	if strings.Contains(got, "secret</body>") || !strings.Contains(got, "<retracted ") {
		t.Errorf("after the retraction came %d bytes with the text", len(got))
	}
}
