package c2s_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"canto/reactor"
	"canto/reactor/reactortest"
	"canto/session"
	"canto/session/c2s"
	"canto/session/sessiontest"
	"canto/session/stanza"
	"canto/xmlstream"
)

// S01: a client that is authenticated on one host stays on that host, whatever its next header says.
func TestAttackS01Hosts(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{Hosts: []string{"a.example", "b.example"}})
	s.AddAccount("romeo@a.example")
	s.AddAccount("romeo@b.example")
	c := s.Dial("c", 0)
	c.Open("a.example")
	c.Send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHJvbWVvAHIwbTMw</auth>")
	c.Received()
	c.Open("b.example")
	if got := c.Received(); !strings.Contains(got, "<not-authorized") || strings.Contains(got, "<bind") {
		t.Fatalf("after login at a.example, b.example says %s", got)
	}
}

// T03, X22: the unfinished element of an unauthenticated client is kept up to the limit; beyond it the stream
// ends with policy-violation.
func TestAttackT03X22Unfinished(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	for _, begin := range []string{"<auth xmlns='a", "<auth>", "<auth a='"} {
		c := s.Dial("c", 0)
		c.Open("localhost")
		c.Send(begin)
		for i := 0; !c.Conn().Ended(); i++ {
			if i > 40 {
				t.Fatalf("%q: 40 kB of it were taken", begin)
			}
			c.Send(strings.Repeat("x ", 512))
		}
		if got := c.Received(); !strings.Contains(got, "<policy-violation") ||
			!strings.Contains(got, "stanza-too-big") {
			t.Fatalf("%q: %s", begin, got[max(0, len(got)-300):])
		}
	}
}

// T13, K20: a flood is slowed to its rate and loses nothing; a neighbour is served meanwhile.
func TestAttackT13Flood(t *testing.T) {
	lim := session.DefaultLimits()
	lim.Rate, lim.RateBurst = 10_000, 20_000
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim})
	flood, neighbour := s.Login("flood", "flood@localhost/x"), s.Login("neighbour", "neighbour@localhost/x")
	flood.Send("<presence/>")
	flood.Received()
	var b strings.Builder
	const n = 2000
	for i := range n {
		fmt.Fprintf(&b, "<message to='flood@localhost' type='chat' id='%d'><body>%s</body></message>", i,
			strings.Repeat("f", 60))
	}
	flood.Conn().Write([]byte(b.String()))
	s.Net.Run()
	early := strings.Count(flood.Received(), "<message")
	if early >= n/2 || !flood.Conn().Paused() {
		t.Fatalf("%d of %d messages went through at once", early, n)
	}
	neighbour.Send("<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>")
	if got := neighbour.Received(); !strings.Contains(got, "type='result'") {
		t.Fatalf("the neighbour got %q", got)
	}
	seen := early
	for range 60 {
		s.Advance(time.Second)
		got := flood.Received()
		for seen < n && strings.Contains(got, fmt.Sprintf("id='%d'", seen)) {
			seen++
		}
	}
	if seen != n {
		t.Fatalf("%d of %d messages arrived in order", seen, n)
	}
}

// T13: a flood costs one read of 64 KiB for each time that it has earned something, and never its connection.
// What it takes is in the meter; what those take that stay below their rate is not.
func TestAttackT13Reads(t *testing.T) {
	lim := session.DefaultLimits()
	lim.Rate, lim.RateBurst = 10_000, 20_000
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim, Reactor: func(c *reactor.Config) { c.Loops = 1 }})
	flood, neighbour := s.Login("flood", "flood@localhost/x"), s.Login("neighbour", "neighbour@localhost/x")
	s.Net.ClockStep = time.Microsecond
	meter := func() reactor.Meter {
		s.Advance(reactor.TickLength)
		return s.Net.Loops()[0].Meter()
	}
	refills := func() uint64 { return s.Stream(flood).LoopRouter().Stats().Limits["rate"] }
	neighbour.Send("<presence/>")
	begin := meter()
	if begin.OverRate != 0 || begin.Handling == 0 {
		t.Fatalf("before the flood, %v of %v handling were for one", begin.OverRate, begin.Handling)
	}
	flood.Conn().Write([]byte(strings.Repeat("<message to='flood@localhost/y' type='chat'><body>"+
		strings.Repeat("f", 100)+"</body></message>", 8000)))
	for range 80 {
		hits := refills() // before the write: a meter is a tick old
		before := meter()
		// the one read that is not the flood's
		neighbour.Send("<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>")
		last := meter()
		if n := last.Reads - before.Reads; n > 2 {
			t.Fatalf("%d reads of a flood in a tick", n-1)
		}
		if refills() == hits && last.OverRate != before.OverRate {
			t.Fatal("what the neighbour asked for is in the meter of floods")
		}
		s.Advance(time.Second)
	}
	last := meter()
	reads, bytes, earned := last.Reads-begin.Reads-80, last.BytesIn-begin.BytesIn,
		s.Net.Now().Sub(reactortest.Start).Seconds()*10_000
	if n := refills(); reads > n || reads < 5 {
		t.Errorf("%d reads for %d times that it was paused at its rate", reads, n)
	}
	if float64(bytes) > 20_000+earned+64<<10+80*60 || float64(bytes) < earned/2 {
		t.Errorf("%d bytes were read; it had earned %.0f", bytes, earned)
	}
	if flood.Conn().Ended() || !flood.Conn().Paused() {
		t.Errorf("the flood is ended %v, paused %v", flood.Conn().Ended(), flood.Conn().Paused())
	}
	if last.OverRate == 0 || last.OverRate >= last.Handling+last.Posted {
		t.Errorf("%v of %v were for the flood", last.OverRate, last.Handling+last.Posted)
	}
}

// T13: a read full of stanzas does not keep a neighbour on the same loop waiting until all are handled.
func TestAttackT13Share(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	s.Login("x", "x@localhost/x")
	flood := s.Login("flood", "flood@localhost/x") // every other login is on the same loop
	s.Login("y", "y@localhost/x")
	neighbour := s.Login("neighbour", "neighbour@localhost/x")
	if s.Stream(flood).LoopRouter() != s.Stream(neighbour).LoopRouter() {
		t.Fatal("not on one loop")
	}
	neighbour.Send("<presence/>")
	neighbour.Received()
	const n = 500
	flood.Conn().Write([]byte(strings.Repeat("<message to='neighbour@localhost' "+
		"type='chat'><body>f</body></message>", n)))
	neighbour.Conn().Write([]byte("<message to='neighbour@localhost' type='chat' " +
		"id='mine'><body>n</body></message>"))
	s.Net.Run()
	got := neighbour.Received()
	before, _, _ := strings.Cut(got, "id='mine'")
	if k := strings.Count(got, "<message"); k != n+1 {
		t.Fatalf("%d of %d messages arrived", k, n+1)
	}
	if k := strings.Count(before, "<message"); k > n/4 {
		t.Fatalf("%d messages of the flood were handled before the neighbour's", k)
	}
}

// T13: a client that floods another is slowed to what the other reads: a recipient that reads late is not
// lost for it, and the message of a third client comes through.
func TestAttackT13Crowd(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	victim, friend := s.Login("victim", "victim@localhost/x"), s.Login("friend", "friend@localhost/x")
	victim.Send("<presence/>")
	victim.Received()
	victim.Conn().SetWindow(0)
	body := strings.Repeat("b", 2000)
	for i := range 3 {
		f := s.Login(fmt.Sprint("flood", i), fmt.Sprintf("flood%d@localhost/x", i))
		f.Conn().Write([]byte(strings.Repeat("<message to='victim@localhost/x' type='chat'><body>"+body+
			"</body></message>", 400)))
	}
	s.Net.Run()
	s.Advance(2 * time.Second)
	friend.Send("<message to='victim@localhost/x' type='chat' id='mine'><body>n</body></message>")
	if n := s.Stream(friend).CanReceive(); !n {
		t.Fatal("the friend was slowed down for one message")
	}
	victim.Conn().SetWindow(-1)
	seen := 0
	for range 20 {
		s.Advance(time.Second)
		seen += strings.Count(victim.Received(), "<message")
	}
	if seen != 3*400+1 {
		t.Fatalf("%d of %d messages arrived", seen, 3*400+1)
	}
}

// K21: a client that does not read loses its session at the outbox limit; nothing is kept for it, and the
// sender goes on.
func TestAttackK21SlowReader(t *testing.T) {
	lim := session.DefaultLimits()
	lim.Rate = 0
	const outbox = 400_000
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim, Reactor: func(c *reactor.Config) {
		c.Loops, c.OutboxBytes = 1, outbox
	}})
	reader, talker := s.Login("reader", "reader@localhost/x"), s.Login("talker", "talker@localhost/x")
	// Its other client, and one that reads as little and is sent less, go on.
	other, slow := s.Login("other", "reader@localhost/y"), s.Login("slow", "slow@localhost/x")
	reader.Send("<presence/>")
	reader.Conn().SetWindow(0)
	slow.Conn().SetWindow(0)
	body := strings.Repeat("b", 8000)
	most := 0
	for i := range 300 {
		talker.Send("<message to='reader@localhost/x' type='chat'><body>" + body + "</body></message>")
		if i%10 == 0 {
			talker.Send("<message to='slow@localhost/x' type='chat'><body>" + body + "</body></message>")
		}
		s.Advance(reactor.TickLength)
		most = max(most, s.Net.Loops()[0].Meter().OutboxBytes)
	}
	s.Advance(10 * time.Second)
	if of := 30 * 8200; most < outbox || most > outbox+64<<10+of {
		t.Errorf("%d bytes waited, of at most %d for one that does not read, and %d for another", most, outbox+
			64<<10, of)
	}
	if other.Conn().Ended() || slow.Conn().Ended() || s.Stream(slow).Session() == nil || talker.Conn().Ended() {
		t.Error("another's session has ended")
	}
	if a, ok := s.Router.Table.LookupAccount(reader.Bare()); !ok || len(a.Resources()) != 1 {
		t.Fatalf("the session is still there, or the account's other is not; %d bytes wait, ended %v",
			len(reader.Received()), reader.Conn().Ended())
	}
	talker.Received()
	talker.Send("<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>")
	if got := talker.Received(); !strings.Contains(got, "id='1'") {
		t.Fatalf("the talker got %q", got)
	}
}

// K23: a client that asks for much more than it asks with, and does not read, is not read from while 256
// KiB wait for it. It keeps its session, and gets every answer once it reads.
func TestAttackK23SlowAsker(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{Reactor: func(c *reactor.Config) { c.Loops = 1 }})
	c := s.Login("asker", "asker@localhost/x")
	c.Send("<iq type='set' id='v'><vCard xmlns='vcard-temp'><NOTE>" + strings.Repeat("n", 8000) +
		"</NOTE></vCard></iq>")
	s.Settle()
	if got := c.Received(); !strings.Contains(got, "type='result'") {
		t.Fatal(got)
	}
	c.Conn().SetWindow(0)
	const n = 400 // answers of 3 MB, and an outbox of 1 MiB
	c.Send(strings.Repeat("<iq type='get' id='q'><vCard xmlns='vcard-temp'/></iq>", n))
	most := 0
	for range 20 {
		s.Advance(time.Second)
		most = max(most, s.Net.Loops()[0].Meter().OutboxBytes)
	}
	if c.Conn().Ended() {
		t.Fatal("the session has ended")
	}
	if most < 256<<10 || most > 256<<10+64<<10 {
		t.Errorf("%d bytes wait, and it is read from while 262144 do", most)
	}
	c.Conn().SetWindow(-1)
	got := 0
	for range 20 {
		s.Advance(time.Second)
		got += strings.Count(c.Received(), "<NOTE>")
	}
	if got != n {
		t.Errorf("%d of %d answers came", got, n)
	}
}

// K56: the number of an account's resources is bounded.
func TestAttackK56Resources(t *testing.T) {
	lim := session.DefaultLimits()
	lim.ResourcesPerAccount = 3
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim})
	for i := range 3 {
		s.Login(fmt.Sprint("c", i), fmt.Sprintf("romeo@localhost/%d", i))
	}
	c := s.Dial("late", 0)
	c.Open("localhost")
	c.Send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHJvbWVvAHIwbTMw</auth>")
	c.Open("localhost")
	c.Send("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
	if got := c.Received(); !strings.Contains(got, "<resource-constraint") ||
		!strings.Contains(got, "type='wait'") {
		t.Fatalf("%s", got)
	}
}

// S22: an invalid or far too long language is not kept.
func TestAttackS22Lang(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	c := s.Dial("c", 0)
	c.Send("<stream:stream to='localhost' version='1.0' xml:lang='" + strings.Repeat("x", 2000) +
		"' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>")
	if got := c.Received(); !strings.Contains(got, "<stream:features>") {
		t.Fatalf("%s", got)
	}
}

// T20: a client that binds a resource again while its old connection is being closed keeps the resource.
func TestAttackT20Rebind(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	for i := range 50 {
		old := s.Login("old", "romeo@localhost/x")
		old.Send("<presence/>")
		next := s.Login("next", "romeo@localhost/x")
		next.Send("<presence/>")
		old.DropConn()
		next.Received()
		next.Send("<message to='romeo@localhost/x' type='chat'><body>here?</body></message>")
		if got := next.Received(); !strings.Contains(got, "here?") {
			t.Fatalf("round %d: the new session is not there: %q", i, got)
		}
	}
	if a, ok := s.Router.Table.LookupAccount(s.Client("next").Bare()); !ok || len(a.Resources()) != 1 {
		t.Fatal("not one session")
	}
}

// H12: no password and no proof is written to the log, at any level.
func TestAttackH12Log(t *testing.T) {
	var log strings.Builder
	s := sessiontest.New(t, sessiontest.Options{Log: &log})
	s.Login("romeo", "romeo@localhost/x")
	c := s.Dial("c", 0)
	c.Open("localhost")
	c.Send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' " +
		"mechanism='PLAIN'>AHJvbWVvAGFub3RoZXItcGFzc3dvcmQ=</auth>")
	c.Conn().Close(io.ErrUnexpectedEOF)
	for _, secret := range []string{sessiontest.Password, "another-password", "AHJvbWVv"} {
		if strings.Contains(log.String(), secret) {
			t.Fatalf("the log has %q: %s", secret, log.String())
		}
	}
}

// X01, X02: document types and entities are refused, before the header and after it.
func TestAttackX02Door(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	for _, in := range []string{
		"<?xml version='1.0'?><!DOCTYPE l [<!ENTITY a 'aa'>]><stream:stream to='localhost'>",
		"<!DOCTYPE l SYSTEM 'file:///etc/passwd'>",
	} {
		c := s.Dial("c", 0)
		c.Send(in)
		if got := c.Received(); !strings.Contains(got, "<restricted-xml") ||
			!strings.Contains(got, "<stream:stream") {
			t.Errorf("%s: %s", in, got)
		}
	}
}

// X04: bytes that are not UTF-8 are never passed on, at whatever byte the input is cut.
func TestAttackX04Door(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	victim := s.Login("victim", "victim@localhost/x")
	victim.Send("<presence/>")
	victim.Received()
	for _, bad := range []string{"\xEB<>", "\xC0\xAF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\x80"} {
		for step := 1; step < 4; step++ {
			c := s.Login("c", "mallory@localhost/x")
			c.Conn().SendChunks([]byte("<message to='victim@localhost' type='chat'><body>"+bad+"</body></message>"),
				step)
			if got := c.Received(); !strings.Contains(got, "unsupported-encoding") {
				t.Errorf("%x in pieces of %d: %s", bad, step, got)
			}
		}
	}
	if got := victim.Received(); got != "" {
		t.Errorf("the victim got %q", got)
	}
}

// K20: where the engine can't pause, a client that floods beyond its rate and what may be kept for it
// gets the reason why it ends.
func TestAttackK20NoPause(t *testing.T) {
	lim := session.DefaultLimits()
	lim.Rate, lim.RateBurst = 10_000, 20_000
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim, NoPause: true})
	c := s.Login("flood", "flood@localhost/x")
	one := "<message to='nobody@localhost' type='chat'><body>" + strings.Repeat("f", 900) + "</body></message>"
	for i := 0; !c.Conn().Ended(); i++ {
		if i > 1000 {
			t.Fatal("a megabyte was kept for a paused stream")
		}
		c.Send(one)
		if i == 100 && c.Conn().Ended() {
			t.Fatal("ended below the cap")
		}
	}
	if got := c.Received(); !strings.Contains(got, "<policy-violation") ||
		!strings.HasSuffix(got, "</stream:stream>") {
		t.Fatalf("the end was %s", got[max(0, len(got)-300):])
	}
}

const plain = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%s</auth>"

// K26: a storm from one address, with the most expensive logins, delays another address's login
// by its share and no more: counted in what of the storm is let in before it, as the clock goes on.
func TestAttackK26Storm(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{Reactor: func(c *reactor.Config) {
		c.Loops, c.AdmissionBurst = 1, 4000
	}})
	s.AddAccount("juliet@localhost")
	known := s.Login("known", "known@localhost/x")
	chat := func(d time.Duration) {
		known.Send("<message to='known@localhost' id='chat'/>") // the server has others to work for
		s.Advance(d)
	}
	wrong := base64.StdEncoding.EncodeToString([]byte("\x00romeo\x00wrong"))
	right := base64.StdEncoding.EncodeToString([]byte("\x00juliet\x00" + sessiontest.Password))
	chat(0)
	var storm []*sessiontest.Client
	for i := range 300 {
		c := s.DialFrom(netip.MustParseAddr("192.0.2.66"), fmt.Sprint("storm ", i), 0)
		c.Open("localhost")
		c.Send(fmt.Sprintf(plain, wrong))
		storm = append(storm, c)
	}
	c := s.DialFrom(netip.MustParseAddr("192.0.2.7"), "juliet", 0)
	c.Open("localhost")
	var got string
	answered := 0
	for steps := 0; !strings.Contains(got, "<success"); steps++ {
		if steps == 60 {
			t.Fatalf("in 3 s juliet is not in: %q; %d of the storm are answered", got, answered)
		}
		if strings.Contains(got, "</stream:features>") {
			c.Send(fmt.Sprintf(plain, right))
			got = ""
		}
		chat(50 * time.Millisecond)
		got += c.Received()
		for _, x := range storm {
			answered += strings.Count(x.Received(), "<not-authorized")
		}
	}
	if answered > 20 || answered == 0 {
		t.Errorf("%d of 300 failed logins of another address were answered before hers", answered)
	}
}

// K26: a client for which the admission queue has no place gets a stream error, also in the middle of a
// login, and is counted.
func TestAttackK26Crowded(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{Reactor: func(c *reactor.Config) {
		c.Loops, c.AdmissionBurst, c.AdmissionQueue = 1, 100, 4
	}})
	known := s.Login("known", "known@localhost/x")
	begun := s.Dial("begun", 0)
	begun.Open("localhost")
	if got := begun.Received(); !strings.Contains(got, "</stream:features>") {
		t.Fatal(got)
	}
	known.Send("<message to='known@localhost' id='chat'/>")
	s.Net.Loops()[0].ChargeAdmission(0, netip.Addr{}, 1000)
	for i := range 3 {
		s.Dial(fmt.Sprint("waits ", i), 0).Open("localhost")
	}
	late := s.Dial("late", 0)
	late.Open("localhost")
	want := "<stream:error><resource-constraint " +
		"xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
	if got := late.Received(); !strings.HasPrefix(got, "<?xml") || !strings.HasSuffix(got, want) ||
		!late.Conn().Ended() {
		t.Errorf("a newcomer got, with three of four places taken, %q", got)
	}
	begun.Send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'/>")
	if got := begun.Received(); got != "" || begun.Conn().Ended() {
		t.Errorf("a client whose login has begun does not get the fourth place: %q", got)
	}
	s.Advance(300 * time.Millisecond)
	if got := begun.Received(); !strings.Contains(got, "<challenge") {
		t.Errorf("then: %q", got)
	}
	if m := s.Net.Loops()[0].Meter(); m.AdmissionRefused != 1 || m.AdmissionQueued != 0 {
		t.Errorf("%d counted, %d wait", m.AdmissionRefused, m.AdmissionQueued)
	}
}

// T02: a connection that is refused at once gets a stream that ends with an error.
func TestAttackT02Refusal(t *testing.T) {
	d := &c2s.Handler{}
	for full, want := range map[bool]string{false: "policy-violation", true: "resource-constraint"} {
		p := xmlstream.NewParser(nil)
		var in xmlstream.Stream
		p.Feed(&in, d.Refusal(full))
		if _, err := p.Next(&in); err != nil {
			t.Fatal(err)
		}
		e, err := p.Stanza(&in)
		if err != nil || !e.Is(xmlstream.N(stanza.NSStream, "error")) {
			t.Fatalf("%v, %s", err, e.Raw())
		}
		if c, ok := e.First(); !ok || !c.Is(xmlstream.N("urn:ietf:params:xml:ns:xmpp-streams", want)) {
			t.Errorf("%s", e.Raw())
		}
		if _, err = p.Stanza(&in); err != io.EOF {
			t.Errorf("the stream does not end: %v", err)
		}
	}
}

// K26, K27: in the middle of SASL the answer to a full queue is a failure that says try again.
func TestAttackK27NoTurn(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{Reactor: func(c *reactor.Config) {
		c.Loops, c.AdmissionBurst, c.AdmissionQueue = 1, 200, 1
	}})
	known := s.Login("known", "known@localhost/x")
	c, other := s.Dial("c", 0), s.Dial("other", 0)
	c.Open("localhost")
	c.Received()
	known.Send("<message to='known@localhost' id='chat'/>")
	turns := func(x *sessiontest.Client, text string) {
		x.Conn().Write([]byte(text))
		for s.Net.RunTurn() { // and no worker
		}
	}
	turns(c, fmt.Sprintf(plain, base64.StdEncoding.EncodeToString([]byte("\x00known\x00"+sessiontest.Password))))
	s.Net.Loops()[0].ChargeAdmission(0, netip.Addr{}, 1000)
	turns(other, "<?xml version='1.0'?>")
	if got := c.Received(); !strings.Contains(got,
		"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><temporary-auth-failure/></failure>") {
		t.Errorf("%q", got)
	}
}

// K75: of a storm of logins by password only so many derivations are given to the workers as admission has
// work for; the rest wait on their connections. An established session goes on.
func TestAttackK75Storm(t *testing.T) {
	const logins = 2000
	s := sessiontest.New(t, sessiontest.Options{Reactor: func(c *reactor.Config) {
		c.Loops, c.AdmissionBurst = 1, 10_000 // microseconds of a worker
	}})
	known := s.Login("known", "known@localhost/x")
	var storm []*sessiontest.Client
	for i := range logins {
		c := s.DialFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), "storm", 0)
		c.Open("localhost")
		storm = append(storm, c)
	}
	s.Advance(time.Second)
	known.Send("<message to='known@localhost' id='chat'/>") // the server has others to work for
	for _, c := range storm {
		if got := c.Received(); !strings.Contains(got, "</stream:features>") {
			t.Fatalf("no features: %s", got)
		}
		c.Send(fmt.Sprintf(plain, base64.StdEncoding.EncodeToString([]byte("\x00romeo\x00wrong"))))
	}
	s.Settle()
	answered := 0
	for _, c := range storm {
		if strings.Contains(c.Received(), "<not-authorized") {
			answered++
		}
	}
	if answered == 0 || answered > 50 {
		t.Errorf("%d of %d passwords were derived at once", answered, logins)
	}
	known.Received()
	known.Send("<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>")
	if got := known.Received(); !strings.Contains(got, "id='1'") {
		t.Errorf("a session gets %q", got)
	}
}

// K23: a client whose requests produce more output than may wait is not read until it has taken the output,
// and is read again then, also if its socket takes everything at once.
func TestAttackK23(t *testing.T) {
	for _, room := range []int{-1, 100_000} {
		s := sessiontest.New(t, sessiontest.Options{Limits: noRate()})
		c := s.Login("c", "c@localhost/x")
		for i := range 6 {
			var q strings.Builder
			for j := range 50 {
				fmt.Fprintf(&q, "<iq type='set' id='s%d'><query xmlns='jabber:iq:roster'><item jid='c%d@localhost' "+
					"name='%s'/></query></iq>", j, i*50+j, strings.Repeat("n", 1000))
			}
			c.Send(q.String())
			s.Settle()
		}
		c.Received()
		for round := range 3 {
			c.Conn().SetWindow(room)
			c.Send("<iq type='get' id='r1'><query xmlns='jabber:iq:roster'/></iq><iq type='get' id='r2'><query " +
				"xmlns='jabber:iq:roster'/></iq><iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
			var got strings.Builder
			for range 100 {
				s.Advance(reactor.TickLength)
				got.WriteString(c.Received())
				if room > 0 {
					c.Conn().SetWindow(room)
				}
			}
			for _, id := range []string{"r1", "r2", "p"} {
				if strings.Count(got.String(), "<iq type='result' id='"+id+"'") != 1 {
					t.Fatalf("room for %d, round %d: %q is not answered; %d bytes came", room, round, id, got.Len())
				}
			}
			c.Send("<iq type='get' id='again'><ping xmlns='urn:xmpp:ping'/></iq>")
			if got := c.Received(); !strings.Contains(got, "id='again'") {
				t.Fatalf("room for %d, round %d: nothing is read any more", room, round)
			}
		}
	}
}

func noRate() *session.Limits {
	lim := session.DefaultLimits()
	lim.Rate = 0
	return &lim
}
