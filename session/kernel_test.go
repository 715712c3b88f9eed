package session_test

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"canto/session"
	"canto/session/mod"
	"canto/session/sessiontest"
)

// A routingCase is one step of a conversation: what is sent, and what follows.
type routingCase struct{ file, sent, came string }

// routingCases returns the steps of conversations, by the row of stanza_routing.txt with which
// the comment before them begins.
func routingCases(t *testing.T) map[string][]routingCase {
	t.Helper()
	files, _ := filepath.Glob("mod/*/testdata/routing*.txt")
	files = append(files, "mod/roster/testdata/roster.txt")
	row := regexp.MustCompile(`^# (\d\.\d)\b`)
	cases := make(map[string][]routingCase)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		at, c, answer := "", routingCase{file: f}, false
		end := func() { // of a step
			if at != "" && c.sent != "" {
				cases[at] = append(cases[at], c)
			}
			c, answer = routingCase{file: f}, false
		}
		comment := false // of several lines: the row is in the first
		for _, line := range strings.Split(string(b), "\n") {
			switch {
			case strings.HasPrefix(line, "#"):
				end()
				switch {
				case row.MatchString(line):
					at = row.FindStringSubmatch(line)[1]
				case !comment:
					at = ""
				}
			case line == "----":
				answer = true
			case line == "":
				end()
			case answer:
				c.came += line + "\n"
			default:
				c.sent += line + "\n"
			}
			comment = strings.HasPrefix(line, "#")
		}
		end()
	}
	return cases
}

// Each row of stanza_routing.txt has a step in a conversation in which a stanza of the row's kind
// is sent, and which has the result that the row says: the error that it names, or nothing if it
// says dropped. (The module's own test holds that the server answers as the conversation says.)
func TestRoutingTable(t *testing.T) {
	page, err := os.ReadFile("stanza_routing.txt")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^ (\d\.\d)  (.*(?:\n {10,}\S.*)*)`).FindAllStringSubmatch(string(page), -1)
	if len(rows) < 30 {
		t.Fatalf("only %d rows in the table", len(rows))
	}
	kinds := regexp.MustCompile(`\b(message|presence|iq)\b`)
	errors := regexp.MustCompile(`\b(jid-malformed|service-unavailable|remote-server-not-found|invalid-from)\b`)
	cases := routingCases(t)
	for _, r := range rows {
		columns := regexp.MustCompile(`\s{2,}`).Split(strings.TrimSpace(r[2]), -1)
		kind, condition := kinds.FindString(columns[0]), errors.FindString(columns[len(columns)-1])
		if strings.Contains(r[2], "without it") {
			condition = "" // another configuration's
		}
		dropped := regexp.MustCompile(`\bdropped$`).MatchString(r[2])
		met := ""
		for _, c := range cases[r[1]] {
			switch {
			case !strings.Contains(c.sent, "<"+kind):
				met = "no " + kind + " is sent"
			case condition != "" && !strings.Contains(c.came, "<"+condition):
				met = "no " + condition + " comes"
			case dropped && strings.Trim(c.came, "\n") != "(nothing)":
				met = "something comes"
			case c.came == "":
				met = "nothing is expected"
			default:
				met = "ok"
			}
			if met == "ok" {
				break
			}
			met += " in " + c.file
		}
		if met != "ok" {
			t.Errorf("row %s of stanza_routing.txt (%s): %s", r[1], r[2], cmp.Or(met, "it is in no conversation"))
		}
		delete(cases, r[1])
	}
	for row, c := range cases {
		t.Errorf("%s has a case of row %s, which stanza_routing.txt has not", c[0].file, row)
	}
}

// A keeper is a module that keeps a session hibernating when its connection is lost.
type keeper struct{}

func (keeper) Load(api *session.API) error {
	api.Hooks.Hibernate.Add(api.Module, session.Deliver,
		func(*session.LoopRouter, *session.Session) session.Verdict {
			return session.Done
		})
	return nil
}

// A hibernating session queues what it is sent, and sends it in order to the stream that it is
// attached to next, on another loop.
func TestRestingSession(t *testing.T) {
	shelf := append([]session.Manifest{{Name: "keeper", Spec: "a test", New: func() session.Module {
		return keeper{}
	}}}, mod.All...)
	s := sessiontest.New(t, sessiontest.Options{Shelf: shelf, Modules: append(mod.DefaultNames(), "keeper")})
	juliet, romeo := s.Login("juliet", "juliet@localhost/balcony"), s.Login("romeo", "romeo@localhost/orchard")
	juliet.Send("<presence/>")
	juliet.Received()
	juliet.DropConn()
	a, ok := s.Router.Table.LookupAccount(juliet.Bare())
	if !ok || len(a.Resources()) != 1 || a.Resources()[0].Connected() {
		t.Fatal("the session does not rest")
	}
	for i := range 3 {
		romeo.Send(fmt.Sprintf("<message to='juliet@localhost/balcony' type='chat'><body>number "+
			"%d</body></message>", i))
	}
	if got := romeo.Received(); got != "" {
		t.Fatalf("romeo got %q", got)
	}
	// Another connection, on the other loop, takes the session over before it binds.
	next := s.Authenticate("next", "juliet@localhost", 2)
	st := s.Stream(next)
	l := st.LoopRouter()
	l.Enter(func() {
		l.WithAccount(a.Host(), a.JID(), func(_ *session.LoopRouter, a *session.Account, exists bool, err error) {
			a.Resume(st.Negotiation(), a.Resources()[0])
		})
	})
	s.Settle()
	got := next.Received()
	at := -1
	for i := range 3 {
		p := strings.Index(got, fmt.Sprintf("number %d", i))
		if p <= at {
			t.Fatalf("out of order, or missing: %s", got)
		}
		at = p
	}
	romeo.Send("<message to='juliet@localhost/balcony' type='chat'><body>live</body></message>")
	if got := next.Received(); !strings.Contains(got, "live") {
		t.Fatalf("after resumption: %q", got)
	}
}

// A cold account's inbox holds 64 stanzas. The 65th is answered with resource-constraint, and the
// others are drained in order.
func TestInboxLimit(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	var b strings.Builder
	for i := range 70 {
		fmt.Fprintf(&b, "<iq type='get' id='%d' to='juliet@localhost'><query xmlns='jabber:iq:last'/></iq>", i)
	}
	romeo.Send(b.String())
	got := romeo.Received()
	if n := strings.Count(got, "<resource-constraint"); n != 6 {
		t.Errorf("%d were refused, want 6", n)
	}
	if n := strings.Count(got, "<service-unavailable"); n != 64 {
		t.Errorf("%d were worked off, want 64", n)
	}
	last := -1
	for _, m := range regexp.MustCompile(`id='(\d+)'[^>]*><error type='cancel'`).FindAllStringSubmatch(got, -1) {
		var n int
		fmt.Sscan(m[1], &n)
		if n < last {
			t.Fatalf("%d was answered after %d", n, last)
		}
		last = n
	}
}

// What one sender broadcasts to many and sends to one of them arrives there in the order in which
// it was sent, even if the broadcast is a job of several turns.
func TestFanoutOrder(t *testing.T) {
	const contacts = 300 // more than are served at once, and enough for several shares
	s := sessiontest.New(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	var clients []*sessiontest.Client
	for i := range contacts {
		c := s.Login(fmt.Sprint("c", i), fmt.Sprintf("c%d@localhost/x", i))
		c.Send("<presence/><presence type='subscribe' to='romeo@localhost'/>")
		clients = append(clients, c)
		romeo.Send(fmt.Sprintf("<presence type='subscribed' to='c%d@localhost'/>", i))
	}
	romeo.Send("<presence/>")
	s.Settle()
	for _, c := range clients {
		c.Received()
	}
	rapid.Check(t, func(rt *rapid.T) {
		var b strings.Builder
		want := make([][]string, contacts)
		for n := range rapid.IntRange(1, 8).Draw(rt, "stanzas") {
			mark := fmt.Sprintf("mark-%d-", n)
			if rapid.Bool().Draw(rt, "broadcast") {
				fmt.Fprintf(&b, "<presence><status>%s</status></presence>", mark)
				for i := range want {
					want[i] = append(want[i], mark)
				}
			} else {
				i := rapid.IntRange(0, contacts-1).Draw(rt, "to")
				fmt.Fprintf(&b, "<message to='c%d@localhost/x' type='chat'><body>%s</body></message>", i, mark)
				want[i] = append(want[i], mark)
			}
		}
		romeo.Send(b.String())
		s.Settle()
		romeo.Received()
		for i, c := range clients {
			got := regexp.MustCompile(`mark-\d+-`).FindAllString(c.Received(), -1)
			if fmt.Sprint(got) != fmt.Sprint(want[i]) {
				rt.Fatalf("c%d got %v, want %v", i, got, want[i])
			}
		}
		s.Advance(time.Minute) // tokens come back
	})
}

// A message between two sessions of this server, from the bytes that were read to the outbox,
// allocates nothing once warm; also if it is archived for both sides.
func TestRouteAllocations(t *testing.T) {
	lim := session.DefaultLimits()
	lim.Rate = 0
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim})
	juliet, romeo := s.Login("juliet", "juliet@localhost/balcony"), s.Login("romeo", "romeo@localhost/orchard")
	juliet.Send("<presence/>")
	msg := []byte("<message to='juliet@localhost/balcony' type='chat' id='m1'><body>" +
		strings.Repeat("x", 100) + "</body><active xmlns='http://jabber.org/protocol/chatstates'/></message>")
	noAllocations(t, s, romeo, juliet, msg)
	noAllocations(t, s, romeo, juliet, bytes.Replace(msg, []byte("</message>"),
		[]byte("<no-store xmlns='urn:xmpp:hints'/></message>"), 1))
}

// noAllocations checks that msg, from one client to another, allocates nothing once warm. It is sent 256
// times in a run: the store allocates some 30 times for each group of batches, which is no cost of a message.
func noAllocations(t *testing.T, s *sessiontest.Server, from, to *sessiontest.Client, msg []byte) {
	t.Helper()
	const messages = 256
	many := bytes.Repeat(msg, messages)
	once := func() {
		from.Conn().Feed(many)
		s.Settle()
		to.Conn().Discard()
	}
	if a := sessiontest.Allocations(messages, once); a >= 0.5 && !session.Checked && !raced {
		t.Errorf("%v allocations a message", a)
	}
}

// Ten thousand idle hosts with one profile cost ten megabytes at most.
func TestIdleHosts(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	h, _ := s.Router.Table.Host("localhost")
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	hosts := make([]*session.Host, 10_000)
	for i := range hosts {
		x, err := session.NewHost(fmt.Sprintf("host%d.example", i), h.Profile(), nil)
		if err != nil {
			t.Fatal(err)
		}
		hosts[i] = x
	}
	if !s.Router.Table.AddHost(hosts...) {
		t.Fatal("a host was there already")
	}
	if used := int64(heap()) - int64(before); used > 10<<20 {
		t.Errorf("10,000 hosts hold %d bytes", used)
	}
	runtime.KeepAlive(hosts)
}

// waiting returns n clients, on the two loops in turn, that have logged in as juliet and have not
// bound yet.
func waiting(s *sessiontest.Server, n int) (clients []*sessiontest.Client) {
	for i := range n {
		c := s.Authenticate(fmt.Sprint("c", i), "juliet@localhost", i)
		clients = append(clients, c)
	}
	return clients
}

// bindAll makes all of them bind at once, and returns what each gets.
func bindAll(s *sessiontest.Server, clients []*sessiontest.Client) (told []string) {
	for i, c := range clients {
		c.Conn().Write([]byte(fmt.Sprintf("<iq type='set' id='bind'><bind "+
			"xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>r%d</resource></bind></iq>", i)))
	}
	s.Settle()
	for _, c := range clients {
		told = append(told, c.Received())
	}
	return told
}

// Several clients that log in to one account at once, on two loops, each have their session bound
// on the loop of their own connection, whichever loop has loaded the account. (The reactor panics
// if not.)
func TestBindAtHome(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	s.AddAccount("juliet@localhost")
	for i, got := range bindAll(s, waiting(s, 6)) {
		if want := fmt.Sprintf("<jid>juliet@localhost/r%d</jid>", i); !strings.Contains(got, want) {
			t.Errorf("client %d got %q", i, got)
		}
	}
}

// So do clients that log in while the account fans out on both loops, and what was sent to the
// account in the meantime arrives in its order.
func TestBindAtHomeAfterFanout(t *testing.T) {
	const contacts = 200
	s := sessiontest.New(t, sessiontest.Options{})
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	for i := range contacts {
		c := s.Login(fmt.Sprint("contact", i), fmt.Sprintf("contact%d@localhost/x", i))
		c.Send("<presence/><presence type='subscribe' to='juliet@localhost'/>")
		juliet.Send(fmt.Sprintf("<presence type='subscribed' to='contact%d@localhost'/>", i))
	}
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	clients := waiting(s, 4)
	juliet.Received()
	juliet.Conn().Write([]byte("<presence><priority>1</priority></presence><presence><priority>2" +
		"</priority></presence>"))
	for n := range 5 {
		romeo.Conn().Write([]byte(fmt.Sprintf("<message to='juliet@localhost/balcony' "+
			"type='chat'><body>number %d</body></message>", n)))
	}
	for i, got := range bindAll(s, clients) {
		if want := fmt.Sprintf("<jid>juliet@localhost/r%d</jid>", i); !strings.Contains(got, want) {
			t.Errorf("client %d got %q", i, got)
		}
	}
	if got := regexp.MustCompile(`number \d`).FindAllString(juliet.Received(), -1); fmt.Sprint(
		got) != "[number 0 number 1 number 2 number 3 number 4]" {
		t.Errorf("juliet got %v", got)
	}
}

// A clumsy is a module with a hook that panics for one resource.
type clumsy struct{}

func (clumsy) Load(api *session.API) error {
	api.Hooks.Bound.Add(api.Module, session.Deliver, func(_ *session.LoopRouter, s *session.Session) {
		if s.JID().Resource() == "r1" {
			panic("for the test")
		}
	})
	return nil
}

// A panic in a call that waits for an account ends only the stream of that call. Other calls that
// wait go on, and later ones find the account.
func TestPanicInInbox(t *testing.T) {
	shelf := append([]session.Manifest{{Name: "clumsy", Spec: "a test", New: func() session.Module {
		return clumsy{}
	}}}, mod.All...)
	s := sessiontest.New(t, sessiontest.Options{Shelf: shelf, Modules: append(mod.DefaultNames(), "clumsy"),
		AllowPanics: true})
	s.AddAccount("juliet@localhost")
	for i, got := range bindAll(s, waiting(s, 4)) {
		want := fmt.Sprintf("<jid>juliet@localhost/r%d</jid>", i)
		if i == 1 {
			want = "<internal-server-error"
		}
		if !strings.Contains(got, want) {
			t.Errorf("client %d got %q", i, got)
		}
	}
	late, romeo := s.Login("late", "juliet@localhost/late"), s.Login("romeo", "romeo@localhost/orchard")
	romeo.Send("<message to='juliet@localhost/late' type='chat'><body>still there</body></message>")
	if got := late.Received(); !strings.Contains(got, "still there") {
		t.Errorf("the account got %q", got)
	}
}
