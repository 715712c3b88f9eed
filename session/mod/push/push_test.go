package push_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"canto/session"
	"canto/session/archive"
	"canto/session/jid"
	"canto/session/mod/push"
	"canto/session/sessiontest"
	"canto/session/stanzaid"
	"canto/session/storage"
)

func TestConversations(t *testing.T) { sessiontest.Run(t, "testdata", sessiontest.Options{}) }

// outcomes are the counters of pushes of a server.
type outcomes map[string]uint64

func count(s *fixture) outcomes {
	o := outcomes{}
	s.Router.EachCounter(func(name session.CounterName, n uint64) {
		if name.Name == "pushes_total" {
			o[name.Value] = n
		}
	})
	return o
}

// A fixture is juliet with a registration at the client app, away; romeo writes to her.
type fixture struct {
	*sessiontest.Server
	t          *testing.T
	app, romeo *sessiontest.Client
}

func start(t *testing.T, opt sessiontest.Options) *fixture {
	lim := session.DefaultLimits()
	lim.Rate = 0
	opt.Limits = &lim
	f := &fixture{Server: sessiontest.New(t, opt), t: t}
	juliet := f.Login("juliet", "juliet@localhost/phone")
	f.app, f.romeo = f.Login("app", "app@localhost/push"), f.Login("romeo", "romeo@localhost/orchard")
	f.app.Send("<presence/>")
	f.enable(juliet, "app@localhost/push", "n1")
	juliet.DropConn()
	f.Settle()
	f.app.Received()
	return f
}

func (f *fixture) enable(c *sessiontest.Client, service, node string) string {
	c.Send(fmt.Sprintf("<iq type='set' id='e'><enable xmlns='urn:xmpp:push:0' jid='%s' node='%s'/></iq>",
		service, node))
	f.Settle()
	return c.Received()
}

// write sends a message to juliet.
func (f *fixture) write() {
	f.romeo.Send("<message to='juliet@localhost' type='chat'><body>Hi</body></message>")
	f.Settle()
}

// pushes returns the ids of the pushes that the service has got since the last call, and how many messages
// each counts.
func (f *fixture) pushes() (ids, counts []string) {
	text := f.app.Received()
	for _, m := range regexp.MustCompile(`id='(ask-\d+)'`).FindAllStringSubmatch(text, -1) {
		ids = append(ids, m[1])
	}
	for _, m := range regexp.MustCompile(`message-count'><value>(\d+)<`).FindAllStringSubmatch(text, -1) {
		counts = append(counts, m[1])
	}
	return ids, counts
}

// answer answers a push: with a result, or with an error of a type and a condition.
func (f *fixture) answer(id, typ, condition string) {
	if typ == "" {
		f.app.Send("<iq type='result' id='" + id + "' to='juliet@localhost'/>")
	} else {
		f.app.Send("<iq type='error' id='" + id + "' to='juliet@localhost'><error type='" + typ + "'><" +
			condition + " xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
	}
	f.Settle()
}

// registered returns how many registrations the store has of juliet.
func (f *fixture) registered() int {
	f.Settle()
	s := f.DB.Snapshot()
	defer s.Close()
	a, err := f.DB.Accounts().Get(s, "localhost", "juliet")
	if err != nil {
		f.t.Fatal(err)
	}
	list, err := push.List(f.DB, s, a.ID)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, r := range list {
		if r.Service != "app@localhost/push" || r.Node == "" {
			f.t.Errorf("%+v is stored", r)
		}
	}
	return len(list)
}

// An error that may pass makes the next push wait, twice as long each time; another one ends the
// registration.
func TestErrors(t *testing.T) {
	for name, c := range map[string]struct {
		typ, condition string
		stays          bool
	}{
		"wait":        {"wait", "resource-constraint", true},
		"no server":   {"cancel", "remote-server-not-found", true},
		"away":        {"cancel", "service-unavailable", true},
		"no node":     {"cancel", "item-not-found", false},
		"not allowed": {"auth", "forbidden", false},
		"bad options": {"cancel", "conflict", false},
		"bad request": {"modify", "bad-request", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, sessiontest.Options{})
			f.write()
			f.AdvanceSettled(2 * time.Second)
			ids, _ := f.pushes()
			if len(ids) != 1 {
				t.Fatalf("%d pushes", len(ids))
			}
			f.answer(ids[0], c.typ, c.condition)
			if n := f.registered(); (n == 1) != c.stays {
				t.Fatalf("%d registrations", n)
			}
			f.AdvanceSettled(3 * time.Second)
			if ids, _ := f.pushes(); (len(ids) == 1) != c.stays {
				t.Errorf("%d pushes after the error", len(ids))
			}
			if count(f)["failed"] != 1 || (count(f)["ended"] == 0) != c.stays {
				t.Errorf("%d failed, %d ended", count(f)["failed"], count(f)["ended"])
			}
		})
	}
}

// The pauses after failures double from a second to an hour; an answer ends them.
func TestBackOff(t *testing.T) {
	f := start(t, sessiontest.Options{})
	f.write()
	f.AdvanceSettled(2 * time.Second)
	ids, _ := f.pushes()
	for _, pause := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128} {
		if len(ids) != 1 {
			t.Fatalf("%d pushes, before a pause of %d s", len(ids), pause)
		}
		f.answer(ids[0], "wait", "resource-constraint")
		f.write() // it does not push earlier
		if pause > 2 {
			f.AdvanceSettled((pause - 1) * time.Second)
			if ids, _ := f.pushes(); len(ids) > 0 {
				t.Fatalf("a push before a pause of %d s was over", pause)
			}
			f.AdvanceSettled(2 * time.Second)
		} else {
			f.AdvanceSettled((pause + 1) * time.Second)
		}
		ids, _ = f.pushes()
	}
	f.answer(ids[0], "", "")
	f.write()
	f.AdvanceSettled(2 * time.Second)
	if ids, counts := f.pushes(); len(ids) != 1 || counts[0] != "10" {
		t.Errorf("%d pushes of %v messages after an answer", len(ids), counts)
	}
	if count(f)["answered"] != 1 || count(f)["failed"] != 8 || count(f)["coalesced"] == 0 {
		t.Errorf("%d answered, %d failed, %d coalesced", count(f)["answered"], count(f)["failed"],
			count(f)["coalesced"])
	}
}

// A service that never answers is tried less and less, and its registration ends after a day.
func TestDeadService(t *testing.T) {
	f := start(t, sessiontest.Options{})
	f.write()
	for range 20 * 60 {
		f.Advance(time.Minute)
		f.Settle()
	}
	if f.registered() != 1 {
		t.Fatal("the registration ends within a day")
	}
	if n := count(f)["timed_out"]; n < 20 || n > 40 {
		t.Errorf("%d timeouts in 20 hours", n)
	}
	for range 8 * 60 {
		f.Advance(time.Minute)
		f.Settle()
	}
	if f.registered() != 0 || count(f)["ended"] != 1 {
		t.Errorf("%d registrations after 28 hours", f.registered())
	}
}

// When a client becomes available, what waits is not pushed, and the count begins again.
func TestAvailable(t *testing.T) {
	f := start(t, sessiontest.Options{})
	f.write()
	phone := f.Login("juliet", "juliet@localhost/phone")
	phone.Send("<presence/>")
	f.Settle()
	f.AdvanceSettled(3 * time.Second)
	if ids, _ := f.pushes(); len(ids) > 0 {
		t.Error("a push though the client has come")
	}
	f.write() // it is delivered
	f.AdvanceSettled(3 * time.Second)
	if ids, _ := f.pushes(); len(ids) > 0 {
		t.Error("a push of a message that was delivered")
	}
	phone.DropConn()
	f.Settle()
	f.write()
	f.AdvanceSettled(2 * time.Second)
	if _, counts := f.pushes(); fmt.Sprint(counts) != "[1]" {
		t.Errorf("the pushes count %v", counts)
	}
}

// M-8 (complaints of the field): a client that is asleep is told of messages, also if its session hibernates,
// and not of chat states, nor when an archive is read. After it has resumed its session it is told nothing.
func TestFieldM8(t *testing.T) {
	f := start(t, sessiontest.Options{})
	phone := f.Login("juliet", "juliet@localhost/phone")
	phone.Send("<presence/><enable xmlns='urn:xmpp:sm:3' resume='true'/>")
	f.Settle()
	phone.DropConn()
	f.Settle()
	f.romeo.Send("<message to='juliet@localhost' type='chat'><composing " +
		"xmlns='http://jabber.org/protocol/chatstates'/></message>")
	f.AdvanceSettled(3 * time.Second)
	if ids, _ := f.pushes(); len(ids) > 0 {
		t.Error("a push of a chat state")
	}
	f.write()
	f.AdvanceSettled(3 * time.Second)
	if _, counts := f.pushes(); fmt.Sprint(counts) != "[1]" {
		t.Errorf("for a session that hibernates the pushes count %v", counts)
	}
	again := f.Authenticate("again", "juliet@localhost", 0)
	again.Send("<resume xmlns='urn:xmpp:sm:3' previd='session-1' h='0'/>")
	f.Settle()
	again.Send("<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2'/></iq>")
	f.write()
	f.AdvanceSettled(3 * time.Second)
	if got := again.Received(); !strings.Contains(got, "<resumed") || strings.Count(got, "<body>Hi") < 2 {
		t.Errorf("the resumed client gets %q", got)
	}
	if ids, _ := f.pushes(); len(ids) > 0 {
		t.Error("a push though the session has a connection")
	}
}

// A client that is connected and acknowledges nothing for 30 seconds is asleep: what it was sent is pushed,
// once.
func TestUnacknowledged(t *testing.T) {
	f := start(t, sessiontest.Options{})
	phone := f.Login("juliet", "juliet@localhost/phone")
	phone.Send("<presence/><enable xmlns='urn:xmpp:sm:3' resume='true'/>")
	f.Settle()
	expect := func(what, want string) {
		t.Helper()
		ids, counts := f.pushes()
		if fmt.Sprint(counts) != want {
			t.Errorf("%s: the pushes count %v, want %s", what, counts, want)
		}
		for _, id := range ids {
			f.answer(id, "", "")
		}
	}
	f.write()
	phone.Send("<a xmlns='urn:xmpp:sm:3' h='1'/>")
	f.AdvanceSettled(40 * time.Second)
	expect("acknowledged", "[]")
	f.write()
	f.AdvanceSettled(20 * time.Second)
	f.write()
	f.AdvanceSettled(9 * time.Second)
	expect("after 29 seconds", "[]")
	f.AdvanceSettled(3 * time.Second)
	expect("after 32 seconds", "[2]")
	f.AdvanceSettled(2 * time.Minute)
	expect("later", "[]")
	f.write()
	f.AdvanceSettled(3 * time.Second)
	expect("one more", "[3]")
	phone.Send("<a xmlns='urn:xmpp:sm:3' h='4'/>")
	f.write()
	f.AdvanceSettled(10 * time.Second)
	phone.DropConn()
	f.AdvanceSettled(25 * time.Second)
	expect("the connection is lost with a message unacknowledged", "[4]")
}

// An account has ten registrations, whatever it asks for; none of another's, none of its own address, no
// large options.
func TestAttackP08Registrations(t *testing.T) {
	f := start(t, sessiontest.Options{})
	phone := f.Login("juliet", "juliet@localhost/phone")
	for i := range 1000 {
		got := f.enable(phone, "app@localhost/push", fmt.Sprint("node", i))
		if refused := strings.Contains(got, "resource-constraint"); refused != (i >= 9) {
			t.Fatalf("registration %d: %s", i, got)
		}
	}
	if got := f.enable(phone, "app@localhost/push", "node3"); !strings.Contains(got, "type='result'") {
		t.Errorf("a registration is not replaced: %s", got)
	}
	const head = "<enable xmlns='urn:xmpp:push:0' jid='a.example'><x xmlns='jabber:x:data' type='submit'>" +
		"<field var='FORM_TYPE'><value>http://jabber.org/protocol/pubsub#publish-options</value></field>"
	for what, x := range map[string]string{
		"a node of 1,024 bytes": "<enable xmlns='urn:xmpp:push:0' jid='a.example' node='" +
			strings.Repeat("x", 1024) + "'/>",
		"long secrets": head + "<field var='secret'><value>" + strings.Repeat("x", 5000) +
			"</value></field></x></enable>",
		"much else in the form": head + "<title>" + strings.Repeat("x", 9000) + "</title></x></enable>",
	} {
		phone.Send("<iq type='set' id='x'>" + x + "</iq>")
		f.Settle()
		if got := phone.Received(); !strings.Contains(got, "bad-request") {
			t.Errorf("%s: %s", what, got)
		}
	}
	if n := f.registered(); n != 10 {
		t.Errorf("%d registrations are stored", n)
	}
	phone.DropConn()
	f.Settle()
	for range 50 {
		f.write()
	}
	f.AdvanceSettled(20 * time.Second)
	if ids, _ := f.pushes(); len(ids) != 10 {
		t.Errorf("%d pushes for ten registrations", len(ids))
	}
}

// A push has no text of the message. The sender is there only if the operator wants that.
func TestNoBody(t *testing.T) {
	for _, sender := range []bool{false, true} {
		f := start(t, sessiontest.Options{Module: func(name string, v any) error {
			if o, ok := v.(*push.Options); ok {
				o.Sender = sender
			}
			return nil
		}})
		f.write()
		f.AdvanceSettled(2 * time.Second)
		got := f.app.Received()
		if !strings.Contains(got, "message-count") || strings.Contains(got, "Hi") ||
			strings.Contains(got, "romeo") != sender {
			t.Errorf("sender %v: %s", sender, got)
		}
	}
}

// An account that is deleted while a push waits, or has no answer, is not pushed for any more; neither is
// the next account of its name.
func TestDeleted(t *testing.T) {
	for _, pushed := range []bool{false, true} {
		f := start(t, sessiontest.Options{})
		f.write()
		if pushed {
			f.AdvanceSettled(2 * time.Second)
			f.pushes()
		}
		gone, err := f.DB.Accounts().Delete(context.Background(), "localhost", "juliet")
		if err != nil {
			t.Fatal(err)
		}
		if err := storage.FinishDeletion(f.Router, f.DB, gone, nil); err != nil {
			t.Fatal(err)
		}
		f.Settle()
		f.AddAccount("juliet@localhost")
		f.write()
		f.AdvanceSettled(40 * time.Second)
		if ids, _ := f.pushes(); len(ids) > 0 || f.registered() != 0 {
			t.Errorf("pushed %v: %d pushes after the deletion", pushed, len(ids))
		}
		if count(f)["timed_out"]+count(f)["failed"] > 0 || f.Router.Asks() != 0 {
			t.Errorf("pushed %v: %v", pushed, f.Router.Asks())
		}
	}
}

// A message that causes no push allocates nothing more for an account with registrations.
func TestNoAllocations(t *testing.T) {
	f := start(t, sessiontest.Options{})
	juliet := f.Login("juliet", "juliet@localhost/phone")
	juliet.Send("<presence/>")
	f.Settle()
	const messages = 256
	many := []byte(strings.Repeat("<message to='juliet@localhost' type='chat' id='m1'><body>Hi</body>"+
		"<no-store xmlns='urn:xmpp:hints'/></message>", messages)) // commits would be measured too
	measure := func() float64 {
		return sessiontest.Allocations(messages, func() {
			f.romeo.Conn().Feed(many)
			f.Settle()
			juliet.Conn().Discard()
		})
	}
	with := measure()
	juliet.Send("<iq type='set' id='d'><disable xmlns='urn:xmpp:push:0' jid='app@localhost/push'/></iq>")
	f.Settle()
	if without := measure(); with > without+0.5 && !session.Checked {
		t.Errorf("%v allocations a message, and %v without a registration", with, without)
	}
}

// Nothing is asked of a URL: a service is an address. Its domain gets the push, and no other.
func TestAttackH04NoURL(t *testing.T) {
	f := start(t, sessiontest.Options{})
	phone := f.Login("juliet", "juliet@localhost/phone")
	for _, url := range []string{"http://127.0.0.1:1/", "https://push.example/x", "file:///etc/passwd"} {
		if got := f.enable(phone, url, "n"); strings.Contains(got, "type='result'") {
			list := f.registered()
			t.Errorf("%s is taken: %d", url, list)
		}
	}
}

// A push keeps its account in memory until it has an answer, and no longer.
func TestMemory(t *testing.T) {
	f := start(t, sessiontest.Options{})
	f.write()
	f.AdvanceSettled(2 * time.Second)
	ids, _ := f.pushes()
	f.answer(ids[0], "", "")
	f.AdvanceSettled(3 * time.Minute)
	if _, in := f.Router.Table.LookupAccount(jid.FromPrepared("juliet@localhost")); in {
		t.Error("the account stays in memory after its push")
	}
}

// When a client removes its last registration, nothing of the account stays in memory, though messages wait:
// with the next registration their count begins again.
func TestDisabledWhileDue(t *testing.T) {
	for _, node := range []string{"", " node='n1'"} {
		f := start(t, sessiontest.Options{})
		f.write()
		f.write()
		phone := f.Login("again", "juliet@localhost/phone") // without presence: they go on waiting
		phone.Send("<iq type='set' id='d'><disable xmlns='urn:xmpp:push:0' jid='app@localhost/push'" + node +
			"/></iq>")
		f.Settle()
		f.enable(phone, "app@localhost/push", "n1")
		phone.DropConn()
		f.AdvanceSettled(3 * time.Second)
		if ids, _ := f.pushes(); len(ids) != 0 {
			t.Errorf("%q: a push of what came before the registration", node)
		}
		f.write()
		f.AdvanceSettled(3 * time.Second)
		if _, counts := f.pushes(); fmt.Sprint(counts) != "[1]" {
			t.Errorf("%q: the pushes count %v", node, counts)
		}
	}
}

// The row of a message says that a push was due, also if a client comes before any is sent; it does not say
// so of a message that a client has got.
func TestPushDue(t *testing.T) {
	f := start(t, sessiontest.Options{})
	f.write()
	phone := f.Login("again", "juliet@localhost/phone")
	phone.Send("<presence/>")
	f.Settle()
	f.write()
	f.AdvanceSettled(5 * time.Second)
	if ids, _ := f.pushes(); len(ids) != 0 {
		t.Errorf("%d pushes", len(ids))
	}
	rows, err := archive.Open(f.DB.Tables())
	if err != nil {
		t.Fatal(err)
	}
	a, _ := f.Router.Table.LookupAccount(phone.Bare())
	var due []bool
	err = rows.Scan(f.DB, a.ID(), 0, 1<<63, false, func(_ stanzaid.ID, r archive.Row) bool {
		due = append(due, r.Flags&archive.PushDue != 0)
		return true
	})
	if err != nil || fmt.Sprint(due) != "[true false]" {
		t.Errorf("the rows say that a push was due: %v, %v", due, err)
	}
}
