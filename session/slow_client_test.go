package session_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"canto/session"
	"canto/session/mod/offline"
	"canto/session/sessiontest"
	"canto/session/storage"
	"canto/session/store"
	"canto/session/store/storetest"
)

// unbounded are the default limits without those on how much a client may send.
func unbounded() *session.Limits {
	lim := session.DefaultLimits()
	lim.Rate = 0
	return &lim
}

// numbered returns the marks "number 0000" and so on of got, in their order.
var numberedIn = regexp.MustCompile(`number (\d{4})`)

func numbered(got string) (list []string) {
	for _, m := range numberedIn.FindAllStringSubmatch(got, -1) {
		list = append(list, m[1])
	}
	return list
}

// inOrder checks that list is 0000, 0001 and so on, up to n of them.
func inOrder(t *testing.T, list []string, n int) {
	t.Helper()
	for i, got := range list {
		if got != fmt.Sprintf("%04d", i) {
			t.Fatalf("in the place %d of %d comes %s", i, len(list), got)
		}
	}
	if len(list) != n {
		t.Errorf("%d came, of %d", len(list), n)
	}
}

// A client reads slowly, more waits for it than the wire takes, and it sends a request, so that
// its own stream waits for the socket too. All arrives in order, in each of several such phases,
// and a Source is notified of no element as taken that the client has not read.
func TestSlowClientThatAsks(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{Limits: unbounded()})
	juliet, romeo := s.Login("juliet", "juliet@localhost/x"), s.Login("romeo", "romeo@localhost/x")
	juliet.Send("<presence/>")
	juliet.Received()
	got, sent, read := "", 0, 0
	for phase := range 4 {
		juliet.Conn().SetWindow(0)
		src := &pages{left: 300, size: 2000, mark: fmt.Sprint("page", phase)}
		pulls(s, juliet, false, src)
		for range 130 {
			romeo.Send(fmt.Sprintf("<message to='juliet@localhost/x' type='chat'><body>number "+
				"%04d%s</body></message>", sent, strings.Repeat("x", 9000)))
			sent++
		}
		for step := 0; step < 60; step++ {
			juliet.Send(fmt.Sprintf("<iq type='get' id='q%d.%d'><ping xmlns='urn:xmpp:ping'/></iq>", phase, step))
			juliet.Conn().SetWindow(50_000)
			s.Advance(100 * time.Millisecond)
			got += juliet.Received()
			if read = strings.Count(got, "<body>"+src.mark); src.taken > read {
				t.Fatalf("phase %d: %d elements are taken, and the client has read %d", phase, src.taken, read)
			}
		}
		got += reads(s, juliet, -1)
		if n := strings.Count(got, "<body>"+src.mark); n != src.left || len(src.ends) != 1 {
			t.Errorf("phase %d: of the source %d came, and it has ended %d times", phase, n, len(src.ends))
		}
	}
	inOrder(t, numbered(got), sent)
}

// A message never overtakes another of the same sender, even if the queue for the client is full:
// its stream ends then, and the messages that it did not get are stored after those before them.
func TestMessagesDoNotOvertake(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{Limits: unbounded(), Module: func(_ string, v any) error {
		if o, ok := v.(*offline.Options); ok {
			*o = offline.Options{MaxMessages: 5000, MaxBytes: 64 << 20}
		}
		return nil
	}})
	juliet, romeo := s.Login("juliet", "juliet@localhost/x"), s.Login("romeo", "romeo@localhost/x")
	juliet.Send("<presence/>")
	juliet.Received()
	sent := 0
	say := func(n, size int) {
		for range n {
			romeo.Send(fmt.Sprintf("<message to='juliet@localhost/x' type='chat'><body>number "+
				"%04d%s</body></message>", sent, strings.Repeat("x", size)))
			sent++
		}
	}
	juliet.Conn().SetWindow(0)
	say(118, 9000) // the outbox is full, and the last are held back
	say(850, 900)
	juliet.Conn().SetWindow(1_150_000) // the socket takes what the outbox has, and some of the next 128 KiB
	s.Advance(100 * time.Millisecond)
	juliet.Conn().SetWindow(0)
	say(400, 900)
	got := reads(s, juliet, -1)
	if !juliet.Conn().Ended() {
		romeo.Send("<message to='juliet@localhost/x' type='chat'><body>afterwards</body></message>")
		got += juliet.Received()
	}
	again := s.Login("again", "juliet@localhost/x")
	again.Send("<presence/>")
	list := append(numbered(got), numbered(reads(s, again, -1))...)
	for i, n := range list {
		if n != fmt.Sprintf("%04d", i) {
			t.Fatalf("in the place %d of %d comes %s", i, len(list), n)
		}
	}
	if len(list) < 968 {
		t.Errorf("%d of %d came", len(list), sent)
	}
}

// Stanzas that are refused because an inbox is full are answered at once, however many they are:
// the answers fill no inbox.
func TestRefusalsHaveABound(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{Limits: unbounded()})
	romeo, nurse := s.Login("romeo", "romeo@localhost/x"), s.Login("nurse", "nurse@localhost/x")
	held := s.PauseWorkers()
	s.Reload() // each account is read again before its next stanza
	const all = 3000
	var text strings.Builder
	for i := range all {
		fmt.Fprintf(&text, "<message to='nurse@localhost/x' type='chat' id='m%d'><body>x</body></message>", i)
	}
	romeo.Conn().Write([]byte(text.String()))
	s.Net.Run()
	if n := s.Router.Table.Footprint()["inboxes"].Count; n > 200 {
		t.Errorf("%d wait in inboxes", n)
	}
	if n := strings.Count(romeo.Received(), "<resource-constraint"); n < all-200 {
		t.Errorf("%d are refused at once, of %d", n, all)
	}
	held.Resume()
	for len(held.Jobs) > 0 {
		held.StartNext()
		s.Net.Run()
	}
	s.Settle()
	if got := nurse.Received(); !strings.Contains(got, "id='m0'") {
		t.Errorf("what waited has not come: %.300q", got)
	}
}

// Queued stanzas for a client that reads again wait until its account can be read: they are
// neither lost nor forgotten.
func TestQueuedWhileTheAccountCannotBeRead(t *testing.T) {
	var flaky storetest.Flaky
	s := sessiontest.New(t, sessiontest.Options{Limits: unbounded(), Fault: flaky.Fault})
	juliet, romeo := s.Login("juliet", "juliet@localhost/x"), s.Login("romeo", "romeo@localhost/x")
	juliet.Send("<presence/>")
	juliet.Received()
	juliet.Conn().SetWindow(0)
	for i := range 140 {
		romeo.Send(fmt.Sprintf("<message to='juliet@localhost/x' type='chat'><body>number "+
			"%04d%s</body></message>", i, strings.Repeat("x", 9000)))
	}
	s.Reload() // each account is read again before it is next looked at
	flaky.Reads.Store(true)
	juliet.Conn().SetWindow(-1)
	s.Advance(3 * time.Second)
	got := juliet.Received()
	if n := len(numbered(got)); n == 0 || n == 140 {
		t.Fatalf("%d came although the account can't be read: the test shows nothing", n)
	}
	flaky.Reads.Store(false)
	for range 20 {
		s.Advance(time.Second)
		s.Settle()
		got += juliet.Received()
	}
	inOrder(t, numbered(got), 140)
}

// A stanza has one answer, even if a module stores its outcome and that fails (RFC 6120 section 8.2.3,
// Section 8.3.1). What a module stores of it at its sender suppresses no later answer.
func TestAnswersOfABatchThatFails(t *testing.T) {
	rows := store.NewMap[string, []byte]("of-the-test", '~', 1)
	var flaky storetest.Flaky
	var m *store.Map[string, []byte]
	armed := false
	late := func() time.Duration { return 10 * time.Millisecond }
	s := withModule(t, sessiontest.Options{AllowPanics: true, Fault: flaky.Fault, Slow: late},
		func(api *session.API) (err error) {
			if m, err = storage.OpenMap(api, rows); err != nil {
				return err
			}
			write := func(ev *session.Stanza) session.Verdict {
				m.Put(storage.BatchOf(ev), ev.Entity().ID(), string(ev.ID()), []byte("x"))
				return session.Pass
			}
			for _, to := range []session.Target{session.ToBare, session.ToFull} {
				api.Hooks.Message[to].Add(api.Module, session.Record, write)
				api.Hooks.IQ[to].Add(api.Module, session.Record, write)
				api.Hooks.PreMessage[to].Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
					if string(ev.ID()) != "two" {
						return session.Pass
					}
					return write(ev)
				})
				api.Hooks.Message[to].Add(api.Module, session.Guard, func(ev *session.Stanza) session.Verdict {
					panicIf(armed)
					return session.Pass
				})
			}
			return nil
		})
	s.Login("juliet", "juliet@localhost/x") // in memory, so that nothing waits for it
	romeo := s.Login("romeo", "romeo@localhost/x")
	for _, c := range []struct{ what, send string }{
		{"a message to a resource that is not there",
			"<message to='juliet@localhost/none' type='headline' id='%s'><body>x</body></message>"},
		{"a request to an account", "<iq to='juliet@localhost' type='get' id='%s'><query " +
			"xmlns='urn:example:none'/></iq>"},
	} {
		flaky.Writes.Store(true)
		romeo.Send(fmt.Sprintf(c.send, "one"))
		s.Settle()
		flaky.Writes.Store(false)
		if got := romeo.Received(); strings.Count(got, "id='one'") != 1 {
			t.Errorf("%s has the answers %s", c.what, got)
		}
		s.Settle()
	}
	// nothing waits for juliet from here on
	romeo.Send("<message to='juliet@localhost/x' id='warm'><body>x</body></message>")
	s.Settle()
	armed = true
	romeo.Send("<message to='juliet@localhost' type='chat' id='two'><body>x</body></message>")
	s.Settle()
	if got := romeo.Received(); strings.Count(got, "<internal-server-error") != 1 {
		t.Errorf("a message to a recipient with a chain that panics, after a batch at its sender, has the "+
			"answers %q", got)
	}
}

// Elements that a hook defers, for a session that refuses messages for now, stay deferred, and
// are sent with the next Flush.
func TestFlushOfWhatIsNotTaken(t *testing.T) {
	s := withModule(t, sessiontest.Options{Limits: unbounded()}, func(api *session.API) error {
		api.Hooks.Outgoing.Add(api.Module, session.Guard,
			func(o session.Outbox, p session.OutboundStanza) session.Verdict {
				if strings.Contains(string(p.Bytes), "<body>number") && o.Defer(p) {
					return session.Done
				}
				return session.Pass
			})
		return nil
	})
	juliet, romeo := s.Login("juliet", "juliet@localhost/x"), s.Login("romeo", "romeo@localhost/x")
	juliet.Send("<presence/>")
	juliet.Received()
	src := &pages{hush: true}
	pulls(s, juliet, true, src)
	for i := range 3 {
		romeo.Send(fmt.Sprintf("<message to='juliet@localhost/x' type='chat'><body>number %04d</body></message>",
			i))
	}
	for i := 0; limit(s, "held") == 0; i++ {
		if i > 2000 {
			t.Fatal("no message is refused")
		}
		romeo.Send("<message to='juliet@localhost/x' type='chat'><body>live</body></message>")
	}
	flush := func() {
		s.Stream(juliet).Session().Outbox(func(o session.Outbox) { o.Flush() })
		s.Settle()
	}
	flush()
	if got := juliet.Received(); got != "" {
		t.Fatalf("messages overtake the source: %.300q", got)
	}
	src.hush = false
	s.Stream(juliet).Session().Waker(src).Wake()
	s.Settle()
	flush()
	inOrder(t, numbered(reads(s, juliet, -1)), 3)
}

// Messages that did not fit into the output buffer when a Source ended are sent when they fit again.
func TestQueuedWhenASourceEnds(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{Limits: unbounded()})
	juliet, romeo := s.Login("juliet", "juliet@localhost/x"), s.Login("romeo", "romeo@localhost/x")
	juliet.Send("<presence/>")
	juliet.Received()
	juliet.Conn().SetWindow(0)
	src := &pages{left: 20, size: 2000, mark: "page"}
	pulls(s, juliet, false, src) // all are given, and not yet taken
	for i := range 140 {
		romeo.Send(fmt.Sprintf("<message to='juliet@localhost/x' type='chat'><body>number "+
			"%04d%s</body></message>", i, strings.Repeat("x", 9000)))
	}
	got := reads(s, juliet, -1)
	inOrder(t, numbered(got), 140)
	if len(src.ends) != 1 || src.taken != 20 {
		t.Errorf("the source has ended %d times, and %d are taken", len(src.ends), src.taken)
	}
}

// While the account cannot be read nothing of a Source is sent, because the blocked addresses are
// not known.
func TestSourceOfAnAccountThatCannotBeRead(t *testing.T) {
	var flaky storetest.Flaky
	s := sessiontest.New(t, sessiontest.Options{Fault: flaky.Fault})
	juliet := s.Login("juliet", "juliet@localhost/x")
	src := &pages{left: 3, mark: "page", hush: true}
	pulls(s, juliet, true, src)
	s.Reload()
	flaky.Reads.Store(true)
	src.hush = false
	s.Stream(juliet).Session().Waker(src).Wake()
	s.Settle()
	if got := juliet.Received(); strings.Contains(got, "page") {
		t.Errorf("juliet gets %q", got)
	}
	if fmt.Sprint(src.ends) != fmt.Sprint([]session.SourceEndReason{session.SourceFailed}) {
		t.Errorf("it has ended with %v", src.ends)
	}
	flaky.Reads.Store(false)
	works(t, s)
}
