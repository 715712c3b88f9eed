package session_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/sessiontest"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/xmlstream"
)

var (
	askPing = xmlstream.N("urn:xmpp:ping", "ping")
	askTest = xmlstream.N("urn:canto:test:ask", "ask")
)

// An asked is one request of a test and what came of it.
type asked struct {
	refused error // of Ask
	calls   int
	answer  string // the type of the answer and its first child; empty: none
	err     error
	entity  bool // the function got the asking entity
}

// String says what came of the request.
func (a *asked) String() string {
	switch {
	case a.refused != nil:
		return "refused"
	case a.calls == 0:
		return "waits"
	case a.calls > 1:
		return fmt.Sprint(a.calls, " calls")
	case a.err == session.ErrAskTimeout:
		return "timeout"
	case a.err == session.ErrAskEnded:
		return "ended"
	}
	return a.answer
}

// A failer is a test of package testing, or of rapid.
type failer interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Fatal(args ...any)
}

// ask makes from, an account or a host, ask to on a loop.
func ask(t failer, s *sessiontest.Server, loop int, from, to string, q session.Question) *asked {
	t.Helper()
	a := new(asked)
	who := jid.FromPrepared(from)
	addr, err := jid.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	h, ok := s.Router.Table.Host(who.Domain())
	if !ok {
		t.Fatalf("no host of %s", from)
	}
	q.To = addr
	if q.Payload == nil {
		q.Payload = func(a *xmlstream.Appender) { a.Open(askTest).Close() }
	}
	then := q.Then
	q.Then = func(l *session.LoopRouter, e *session.Entity, answer *session.Stanza, err error) {
		a.calls++
		a.err, a.entity = err, e != nil
		if e != nil && e.JID() != who {
			t.Errorf("%s has asked, and %s gets the answer", who, e.JID())
		}
		if answer != nil {
			a.answer = "result"
			if answer.Type == stanza.TypeError {
				a.answer = "error"
			}
			if answer.From != addr || answer.To != who {
				t.Errorf("%s to %s has asked, and the answer is of %s to %s", who, addr, answer.From, answer.To)
			}
		}
		if then != nil {
			then(l, e, answer, err)
		}
	}
	l := s.Router.LoopRouters()[loop]
	l.Loop.Post(func() {
		l.Enter(func() {
			if who.Local() == "" {
				q.Host = h
				a.refused = l.Ask(q)
				return
			}
			l.WithAccount(h, who, func(l *session.LoopRouter, acc *session.Account, exists bool, err error) {
				if !exists || err != nil {
					t.Errorf("%s: %v %v", who, exists, err)
					return
				}
				q.From = acc
				a.refused = l.Ask(q)
			})
		})
	})
	s.Settle()
	return a
}

// stats are the counters of all loops.
func stats(s *sessiontest.Server) (sum session.Stats) {
	sum.StreamErrors, sum.Limits = map[string]uint64{}, map[string]uint64{}
	for _, l := range s.Router.LoopRouters() {
		one := l.Stats()
		sum.Add(&one)
	}
	return sum
}

// idOf is the id of the last request of the server in text.
func idOf(t failer, text string) string {
	t.Helper()
	m := regexp.MustCompile(`id='(ask-[^']*)'`).FindAllStringSubmatch(text, -1)
	if len(m) == 0 {
		t.Fatalf("no request of the server in %q", text)
	}
	return m[len(m)-1][1]
}

// An answer is taken from the address that was asked, once, in time, and if it is one. All else is as if
// there were no request, and is counted.
func TestAttackS16Answers(t *testing.T) {
	const right = "juliet sends <iq type='result' to='FROM' id='ID'/>"
	for name, c := range map[string]struct {
		from, to string
		steps    string // of clients, a line each; "wait" lets the time pass
		want     string
		stray    uint64
		gets     string // what a client gets besides: its name, and a part of the text
	}{
		"a result": {steps: right, want: "result"},
		"an error": {
			steps: "juliet sends <iq type='error' to='FROM' id='ID'><error type='cancel'/></iq>",
			want:  "error"},
		"by a host": {from: "localhost", steps: right, want: "result"},
		"of another account": {
			steps: "mallory sends <iq type='result' to='FROM' id='ID'/>",
			want:  "waits", stray: 1},
		"of another account to a host": {from: "localhost",
			steps: "mallory sends <iq type='result' to='FROM' id='ID'/>",
			want:  "waits", stray: 1},
		"of another account, then the right one": {
			steps: "mallory sends <iq type='error' to='FROM' id='ID'>" +
				"<error type='cancel'/></iq>\n" + right, want: "result", stray: 1},
		"of another resource": {
			steps: "phone sends <iq type='result' to='FROM' id='ID'/>",
			want:  "waits", stray: 1},
		"with a false from": {steps: "phone sends <iq type='result' to='FROM' " +
			"id='ID' from='juliet@localhost/phone'/>",
			want: "waits", stray: 1},
		"to a full address": {steps: "juliet sends <iq type='result' to='romeo@localhost/orchard' id='ID'/>",
			want: "waits", stray: 1, gets: "romeo <iq type='result'"},
		"to the host instead": {
			steps: "juliet sends <iq type='result' to='localhost' id='ID'/>",
			want:  "waits", stray: 1},
		"to the account instead": {from: "localhost",
			steps: "juliet sends <iq type='result' to='romeo@localhost' id='ID'/>",
			want:  "waits", stray: 1},
		"to its own account": {
			steps: "juliet sends <iq type='result' id='ID'/>",
			want:  "waits", stray: 1},
		"a get": {steps: "juliet sends <iq type='get' to='FROM' id='ID'><ping xmlns='urn:xmpp:ping'/></iq>",
			want: "waits", stray: 1, gets: "juliet id='ID'"},
		"a set": {steps: "juliet sends <iq type='set' to='FROM' id='ID'><x xmlns='urn:x'/></iq>",
			want: "waits", stray: 1, gets: "juliet service-unavailable"},
		"a message": {steps: "juliet sends <message type='chat' to='FROM' id='ID'><body>result</body></message>",
			want: "waits", stray: 1, gets: "romeo <body>result</body>"},
		"an error message": {steps: "juliet sends <message type='error' to='FROM' id='ID'>" +
			"<error type='cancel'/></message>",
			want: "waits", stray: 1},
		"presence": {
			steps: "juliet sends <presence to='FROM' id='ID'/>",
			want:  "waits", stray: 1},
		"another id": {
			steps: "juliet sends <iq type='result' to='FROM' id='IDx'/>",
			want:  "waits", stray: 1},
		"no id of ours": {
			steps: "juliet sends <iq type='result' to='FROM' id='push'/>",
			want:  "waits"},
		"the id in capitals": {
			steps: "juliet sends <iq type='result' to='FROM' id='ASK-1'/>",
			want:  "waits"},
		"twice":           {steps: right + "\n" + right, want: "result", stray: 1},
		"twice to a host": {from: "localhost", steps: right + "\n" + right, want: "result", stray: 1},
		"late":            {steps: "wait\n" + right, want: "timeout", stray: 1},
		"late to a host": {from: "localhost",
			steps: "wait\n" + right, want: "timeout", stray: 1},
		"a own client without to": {to: "romeo@localhost/orchard",
			steps: "romeo sends <iq type='result' id='ID'/>",
			want:  "result"},
		"a own client with to": {to: "romeo@localhost/orchard",
			steps: "romeo sends <iq type='result' to='FROM' id='ID'/>",
			want:  "result"},
		"a own client for another": {
			steps: "romeo sends <iq type='result' id='ID'/>",
			want:  "waits", stray: 1},
		"a own client in the name of its account": {
			steps: "romeo sends <iq type='result' id='ID' from='romeo@localhost'/>",
			want:  "waits", stray: 1},
	} {
		t.Run(name, func(t *testing.T) {
			for loop := range 2 {
				s := sessiontest.New(t, sessiontest.Options{})
				clients := map[string]*sessiontest.Client{"romeo": s.Login("romeo", "romeo@localhost/orchard"),
					"juliet":  s.Login("juliet", "juliet@localhost/balcony"),
					"phone":   s.Login("phone", "juliet@localhost/phone"),
					"mallory": s.Login("mallory", "mallory@localhost/x")}
				for _, c := range clients {
					c.Send("<presence/>")
				}
				s.Settle()
				from, to := c.from, c.to
				if from == "" {
					from = "romeo@localhost"
				}
				if to == "" {
					to = "juliet@localhost/balcony"
				}
				a := ask(t, s, loop, from, to, session.Question{})
				local, _, _ := strings.Cut(to, "@")
				id := idOf(t, clients[local].Received())
				for _, c := range clients {
					c.Received()
				}
				for _, step := range strings.Split(c.steps, "\n") {
					if step == "wait" {
						s.AdvanceSettled(31 * time.Second)
						continue
					}
					who, text, _ := strings.Cut(step, " sends ")
					clients[who].Send(strings.NewReplacer("FROM", from, "ID", id).Replace(text))
					s.Settle()
				}
				if a.String() != c.want {
					t.Errorf("%s, want %s", a, c.want)
				}
				if n := stats(s).StrayAnswers; n != c.stray {
					t.Errorf("%d answers are counted as no request's, want %d", n, c.stray)
				}
				if who, text, ok := strings.Cut(c.gets, " "); ok {
					if got := clients[who].Received(); !strings.Contains(got, strings.ReplaceAll(text, "ID", id)) {
						t.Errorf("%s got %q", who, got)
					}
				}
				s.AdvanceSettled(31 * time.Second)
				if a.calls != 1 {
					t.Errorf("%d calls", a.calls)
				}
				if st := stats(s); st.Asked != 1 || st.Answered+st.AskTimeouts != 1 {
					t.Errorf("asked %d, answered %d, timed out %d", st.Asked, st.Answered, st.AskTimeouts)
				}
			}
		})
	}
}

// What is asked need not be a client.
func TestAskWithoutAClient(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{Hosts: []string{"localhost", "other.example"},
		Services: []string{"rooms.localhost"}})
	for _, who := range []string{"romeo@localhost", "juliet@localhost"} {
		s.AddAccount(who)
	}
	ping := session.Question{Payload: func(a *xmlstream.Appender) { a.Open(askPing).Close() }}
	for _, from := range []string{"romeo@localhost", "localhost", "rooms.localhost"} {
		for to, want := range map[string]string{
			"localhost": "result", "other.example": "result", "rooms.localhost": "result",
			"romeo@localhost": "error", "juliet@localhost": "error", "juliet@localhost/gone": "error",
			"no-one@localhost": "error", "elsewhere.example": "error", "a@elsewhere.example/b": "error",
			"x@rooms.localhost": "error",
		} {
			if a := ask(t, s, 0, from, to, ping); a.String() != want {
				t.Errorf("%s to %s: %s, want %s", from, to, a, want)
			}
		}
	}
}

// An entity has a bound of requests without an answer, and so has the host; each answer makes room.
func TestAskBounds(t *testing.T) {
	for _, from := range []string{"romeo@localhost", "localhost"} {
		s := sessiontest.New(t, sessiontest.Options{})
		s.AddAccount("romeo@localhost")
		s.AddAccount("mercutio@localhost")
		juliet := s.Login("juliet", "juliet@localhost/balcony")
		juliet.Send("<presence/>")
		s.Settle()
		var list []*asked
		for range 12 {
			list = append(list, ask(t, s, 0, from, juliet.JID, session.Question{}))
		}
		if got := fmt.Sprint(list[9:]); got != "[waits refused refused]" || list[10].refused != session.ErrBusy {
			t.Errorf("%s: %s, %v", from, got, list[10].refused)
		}
		if n := stats(s).Limits["asks"]; n != 2 {
			t.Errorf("%d refusals are counted", n)
		}
		if a := ask(t, s, 0, "mercutio@localhost", juliet.JID, session.Question{Most: 1}); a.refused != nil {
			t.Error("the bound of one account holds for another")
		}
		a := ask(t, s, 0, "mercutio@localhost", juliet.JID, session.Question{Most: 1})
		if a.refused != session.ErrBusy {
			t.Error("the bound of the question does not hold")
		}
		ids := regexp.MustCompile(`id='(ask-[^']*)'`).FindAllStringSubmatch(juliet.Received(), -1)
		juliet.Send("<iq type='result' to='" + from + "' id='" + ids[3][1] + "'/>")
		s.Settle()
		if list[3].String() != "result" {
			t.Error(list[3])
		}
		if a := ask(t, s, 1, from, juliet.JID, session.Question{}); a.refused != nil {
			t.Error("an answer makes no room")
		}
		s.AdvanceSettled(31 * time.Second)
		for i, a := range list[:10] {
			if i != 3 && a.String() != "timeout" {
				t.Errorf("%d: %s", i, a)
			}
		}
		if a := ask(t, s, 1, from, juliet.JID, session.Question{}); a.refused != nil {
			t.Error("a timeout makes no room")
		}
	}
}

// The id of a request has 96 random bits.
func TestAttackS16IDs(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	s.Router.AskID, s.Router.Random = nil, rand.Reader
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.AddAccount("romeo@localhost")
	seen := map[string]bool{}
	for range 300 { // more than are read ahead
		ask(t, s, 0, "romeo@localhost", juliet.JID, session.Question{Timeout: 1})
		id := idOf(t, juliet.Received())
		if !regexp.MustCompile(`^ask-[0-9a-f]{24}$`).MatchString(id) || seen[id] {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
		s.Advance(200 * time.Millisecond)
		s.Settle()
	}
}

// A request keeps its account in memory until it has ended, and no longer.
func TestAskKeepsItsAccount(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	s.AddAccount("romeo@localhost")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.Settle()
	romeo := jid.FromPrepared("romeo@localhost")
	a := ask(t, s, 0, "romeo@localhost", juliet.JID, session.Question{Timeout: 3000})
	s.AdvanceSettled(4 * time.Minute)
	if _, in := s.Router.Table.LookupAccount(romeo); !in || a.calls > 0 {
		t.Fatalf("the account is in memory: %v; %s", in, a)
	}
	juliet.Send("<iq type='result' to='romeo@localhost' id='" + idOf(t, juliet.Received()) + "'/>")
	s.Settle()
	if a.String() != "result" || !a.entity {
		t.Errorf("%s", a)
	}
	s.AdvanceSettled(3 * time.Minute)
	if _, in := s.Router.Table.LookupAccount(romeo); in {
		t.Error("the account stays in memory after the answer")
	}
}

// A timeout comes as well if the account must be read again first, and if it can't be read for a while.
func TestAskOfAColdAccount(t *testing.T) {
	failing := false
	s := sessiontest.New(t, sessiontest.Options{Fault: func(write bool) error {
		if failing && !write {
			return errors.New("for the test")
		}
		return nil
	}})
	s.AddAccount("romeo@localhost")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.Settle()
	a := ask(t, s, 1, "romeo@localhost", juliet.JID, session.Question{})
	s.Reload() // another profile: the account is cold
	s.AdvanceSettled(31 * time.Second)
	if a.String() != "timeout" || !a.entity {
		t.Errorf("%s, %v", a, a.entity)
	}
	a = ask(t, s, 1, "romeo@localhost", juliet.JID, session.Question{})
	s.Reload()
	failing = true
	s.AdvanceSettled(35 * time.Second)
	if a.calls > 0 {
		t.Errorf("%s while the account can't be read", a)
	}
	juliet.Send("<iq type='result' to='romeo@localhost' id='" + idOf(t, juliet.Received()) + "'/>") // it is late
	s.AdvanceSettled(time.Second)
	failing = false
	s.AdvanceSettled(20 * time.Second)
	if a.String() != "timeout" || !a.entity {
		t.Errorf("%s, %v", a, a.entity)
	}
}

// An answer that has come in time, and waits for the account to be read, is the outcome.
func TestAskAnsweredWhileRead(t *testing.T) {
	delay := time.Duration(0)
	s := sessiontest.New(t, sessiontest.Options{Slow: func() time.Duration { return delay }})
	s.AddAccount("romeo@localhost")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.Settle()
	a := ask(t, s, 1, "romeo@localhost", juliet.JID, session.Question{Timeout: 20})
	id := idOf(t, juliet.Received())
	s.Reload()
	juliet.Send("<presence to='localhost'/>") // her account is read again
	s.Settle()
	delay = 3 * time.Second
	s.Advance(time.Second)
	juliet.Send("<iq type='result' to='romeo@localhost' id='" + id + "'/>")
	s.Net.Run()
	s.Advance(2 * time.Second) // the time is over, and the account is still being read
	if a.calls > 0 {
		t.Error(a)
	}
	s.AdvanceSettled(10 * time.Second)
	if a.String() != "result" {
		t.Error(a)
	}
}

// The process has a bound of requests, which answers and timeouts make room in.
func TestAskProcessBound(t *testing.T) {
	s := withModule(t, sessiontest.Options{}, func(api *session.API) error {
		api.Hooks.Remote.Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
			return session.Done
		})
		return nil
	})
	h, _ := s.Router.Table.Host("localhost")
	nowhere := jid.FromPrepared("elsewhere.example")
	sent, refused := 0, 0
	l := s.Router.LoopRouters()[0]
	l.Loop.Post(func() {
		l.Enter(func() {
			for range 70_000 {
				err := l.Ask(session.Question{Host: h, To: nowhere, Most: 70_000,
					Payload: func(a *xmlstream.Appender) { a.Open(askTest).Close() },
					Then:    func(*session.LoopRouter, *session.Entity, *session.Stanza, error) {}})
				if err == nil {
					sent++
				} else {
					refused++
				}
			}
		})
	})
	s.Settle()
	if sent != 65_536 || refused != 70_000-65_536 || s.Router.Asks() != 65_536 {
		t.Errorf("%d are sent, %d refused, %d wait", sent, refused, s.Router.Asks())
	}
	s.AdvanceSettled(31 * time.Second)
	if n := s.Router.Asks(); n != 0 {
		t.Errorf("%d wait after their timeout", n)
	}
}

// A panic in the function costs that answer: the request has ended, and the next one works.
func TestAskPanics(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{AllowPanics: true})
	s.AddAccount("romeo@localhost")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.Settle()
	boom := session.Question{Most: 1, Then: func(*session.LoopRouter, *session.Entity, *session.Stanza, error) {
		panic("for the test")
	}}
	for _, from := range []string{"romeo@localhost", "localhost"} {
		for _, answer := range []bool{true, false} {
			a := ask(t, s, 0, from, juliet.JID, boom)
			if answer {
				juliet.Send("<iq type='result' to='" + from + "' id='" + idOf(t, juliet.Received()) + "'/>")
			}
			s.AdvanceSettled(31 * time.Second)
			if a.calls != 1 || a.refused != nil {
				t.Errorf("%s, answered %v: %s", from, answer, a)
			}
		}
	}
	if n := stats(s).Panics; n != 4 {
		t.Errorf("%d panics are counted", n)
	}
	if a := ask(t, s, 0, "romeo@localhost", "localhost", session.Question{Most: 1}); a.String() != "error" {
		t.Error(a)
	}
	works(t, s)
}

// A module is not unloaded while its request has no answer.
func TestAskHoldsItsModule(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	s.AddAccount("romeo@localhost")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.Settle()
	h, _ := s.Router.Table.Host("localhost")
	old := h.Profile()
	ask(t, s, 0, "romeo@localhost", juliet.JID, session.Question{})
	p, err := s.NewProfile()
	if err != nil {
		t.Fatal(err)
	}
	h.SwapProfile(p)
	done := false
	s.Router.RetireProfile(old, func(err error) { done = err == nil })
	s.AdvanceSettled(5 * time.Second)
	if done {
		t.Fatal("the module is unloaded while its request waits")
	}
	juliet.Send("<iq type='result' to='romeo@localhost' id='" + idOf(t, juliet.Received()) + "'/>")
	s.AdvanceSettled(5 * time.Second)
	if !done {
		t.Error("the module is not unloaded")
	}
}

// modelAsk is what the model of TestAskModel knows of one request.
type modelAsk struct {
	*asked
	from, to string
	id       string
	due      time.Time // when its timeout is
	want     string
}

// Accounts come and go, ask, are answered rightly and wrongly, or not at all: each request has one outcome,
// and the right one.
func TestAskModel(t *testing.T) {
	lim := session.DefaultLimits()
	lim.Rate = 0
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim})
	var answerers []*sessiontest.Client
	for i := range 3 {
		c := s.Login(fmt.Sprint("c", i), fmt.Sprintf("c%d@localhost/x", i))
		c.Send("<presence/>")
		answerers = append(answerers, c)
	}
	mallory := s.Login("mallory", "mallory@localhost/x")
	s.Settle()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		var list []*modelAsk
		askers := map[string]bool{}
		name := func() string {
			return fmt.Sprintf("a%d-%d@localhost", rapid.IntRange(0, 2).Draw(rt, "who"), runs)
		}
		pick := func() *modelAsk {
			var open []*modelAsk
			for _, m := range list {
				if m.want == "waits" {
					open = append(open, m)
				}
			}
			if len(open) == 0 {
				return nil
			}
			return open[rapid.IntRange(0, len(open)-1).Draw(rt, "which")]
		}
		check := func() {
			now := s.Net.Now()
			for i, m := range list {
				if m.want == "waits" && now.After(m.due.Add(time.Second)) {
					m.want = "timeout"
				}
				if m.want == "deleted" && now.After(m.due.Add(time.Second)) {
					m.want = "ended"
				}
				got := m.String()
				ok := got == m.want || m.want == "deleted" && got == "waits"
				if !ok && now.After(m.due.Add(-time.Second)) { // about now
					ok = m.want == "waits" && got == "timeout" || m.want == "deleted" && got == "ended"
				}
				if !ok {
					rt.Fatalf("request %d of %s: %s, want %s", i, m.from, got, m.want)
				}
				if got == "timeout" && m.want == "waits" {
					m.want = got
				}
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"ask": func(rt *rapid.T) {
				from := name()
				if !askers[from] {
					s.AddAccount(from)
					askers[from] = true
				}
				to := answerers[rapid.IntRange(0, 2).Draw(rt, "to")]
				open := 0
				for _, m := range list {
					if m.from == from && m.want == "waits" {
						open++
					}
				}
				to.Received()
				ticks := rapid.IntRange(10, 1200).Draw(rt, "timeout")
				m := &modelAsk{from: from, to: to.Name,
					due:  s.Net.Now().Add(time.Duration(ticks) * 100 * time.Millisecond),
					want: "waits"}
				m.asked = ask(rt, s, rapid.IntRange(0, 1).Draw(rt, "loop"), from, to.JID,
					session.Question{Most: 3, Timeout: reactor.Tick(ticks)})
				if m.refused != nil {
					if open < 3 {
						rt.Fatalf("%s is refused with %d open", from, open)
					}
					return
				}
				if open >= 3 {
					rt.Fatalf("%s has %d open, and asks", from, open)
				}
				m.id = idOf(rt, to.Received())
				list = append(list, m)
			},
			"answer": func(rt *rapid.T) {
				m := pick()
				if m == nil {
					return
				}
				m.want = "result"
				s.Client(m.to).Send("<iq type='result' to='" + m.from + "' id='" + m.id + "'/>")
			},
			"wrong answer": func(rt *rapid.T) {
				m := pick()
				if m == nil {
					return
				}
				switch rapid.IntRange(0, 3).Draw(rt, "how") {
				case 0:
					mallory.Send("<iq type='result' to='" + m.from + "' id='" + m.id + "'/>")
				case 1:
					s.Client(m.to).Send("<iq type='result' to='" + m.from + "/x' id='" + m.id + "'/>")
				case 2:
					s.Client(m.to).Send("<message to='" + m.from + "' id='" + m.id + "'/>")
				default:
					other := list[rapid.IntRange(0, len(list)-1).Draw(rt, "other")]
					if other.id != m.id && other.from != m.from {
						s.Client(m.to).Send("<iq type='result' to='" + other.from + "' id='" + m.id + "'/>")
					}
				}
			},
			"time": func(rt *rapid.T) {
				s.AdvanceSettled(time.Duration(rapid.IntRange(1, 12).Draw(rt, "seconds")) * time.Second)
			},
			"reload": func(rt *rapid.T) { s.Reload() },
			"delete": func(rt *rapid.T) {
				from := name()
				if !askers[from] {
					return
				}
				check()
				delete(askers, from)
				j := jid.FromPrepared(from)
				gone, err := s.DB.Accounts().Delete(context.Background(), j.Domain(), j.Local())
				if err != nil {
					rt.Fatal(err)
				}
				if err := storage.FinishDeletion(s.Router, s.DB, gone, nil); err != nil {
					rt.Fatal(err)
				}
				s.Settle()
				for _, m := range list {
					if m.from == from && m.want == "waits" {
						m.want = "deleted"
					}
				}
			},
			"": func(rt *rapid.T) {
				s.Settle()
				check()
			},
		})
		for range 40 {
			s.Advance(10 * time.Second)
			s.Settle()
		}
		check()
		for _, m := range list {
			if m.calls != 1 {
				rt.Fatalf("%s: %d calls", m.from, m.calls)
			}
		}
		in := func(who string) bool {
			_, ok := s.Router.Table.LookupAccount(jid.FromPrepared(who))
			return ok
		}
		for who := range askers {
			if in(who) {
				rt.Fatalf("%s stays in memory", who)
			}
		}
	})
	if st := stats(s); st.Asked != st.Answered+st.AskTimeouts || s.Router.Asks() != 0 {
		t.Errorf("asked %d, answered %d, timed out %d", st.Asked, st.Answered, st.AskTimeouts)
	}
}
