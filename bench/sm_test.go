package bench

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"canto/bench/result"
	"canto/bench/stub"
)

// resuming cuts phones off, which get 300 messages while they rest, come back, and get 300 more.
const resuming = `
name = "resuming"
[clients]
sm = true
resume = true
%s
[[group]]
name = "senders"
count = 10
[[group]]
name = "phones"
count = 20
[[group]]
name = "observers"
count = 2
observes = true
[[phase]]
kind = "ramp"
[[phase]]
kind = "befriend"
length = "20s"
group = ["phones"]
to = "observers"
[[phase]]
name = "warm"
kind = "hold"
length = "500ms"
[[phase.do]]
kind = "chat"
group = "senders"
to = "phones"
rate = "600/s"
[[phase]]
name = "cut"
kind = "cut"
group = ["phones"]
[[phase]]
name = "queue"
kind = "hold"
length = "500ms"
[[phase.do]]
kind = "chat"
group = "senders"
to = "phones"
away = true
rate = "600/s"
[[phase]]
name = "back"
kind = "ramp"
group = ["phones"]
grace = "1s"
[[phase]]
name = "after"
kind = "hold"
length = "500ms"
[[phase.do]]
kind = "chat"
group = "senders"
to = "phones"
rate = "600/s"
[[phase]]
kind = "drain"
`

// figure is the value of a figure of r.
func figure(t *testing.T, r *result.Run, name string) float64 {
	t.Helper()
	f, ok := r.Figure(name)
	if !ok {
		t.Fatalf("there is no figure %s", name)
	}
	return f.Value
}

// Sessions that are cut off are resumed, and what the stub does wrong with them is what the result counts: by
// <resume/> after the login, and within a login by a token.
func TestResumeFaultsAreCounted(t *testing.T) {
	ways := map[string]string{"sasl": "", "sasl2": "tls = 'direct'\nsasl2 = 'require'\nfast = true\n" +
		"carbons = true\ninactive = true"}
	for _, c := range []struct {
		name                      string
		do                        func(f *stub.Faults)
		lost, duplicated, refused func(s stub.Stats) uint64
	}{
		{name: "none", do: func(*stub.Faults) {}},
		{name: "refused", do: func(f *stub.Faults) { f.RefuseResumes(4) },
			refused: func(s stub.Stats) uint64 { return s.RefusedResumes }},
		{name: "lost", do: func(f *stub.Faults) { f.DropReplays(7) },
			lost: func(s stub.Stats) uint64 { return s.DroppedReplays }},
		{name: "duplicated", do: func(f *stub.Faults) { f.DuplicateReplays(5) },
			duplicated: func(s stub.Stats) uint64 { return s.DuplicatedReplays }},
	} {
		for way, clients := range ways {
			t.Run(c.name+"/"+way, func(t *testing.T) {
				s, target := start(t, stub.Config{Mobile: true, SASL2: true, FAST: true, Offline: true})
				r, err := Run(t.Context(), scenario(t, fmt.Sprintf(resuming, clients)), target,
					Options{Progress: func(p result.Progress) {
						if p.Phase == "cut" {
							c.do(s.Faults)
						}
					}})
				if err != nil {
					t.Fatal(err)
				}
				of := func(count func(s stub.Stats) uint64) uint64 {
					if count == nil {
						return 0
					}
					n := count(s.Stats())
					if n < 5 {
						t.Errorf("the stub did %d things wrong", n)
					}
					return n
				}
				refused := of(c.refused)
				if x, y := figure(t, r, "back.resumed"), figure(t, r, "back.refused"); x != float64(20-refused) ||
					y != float64(refused) || s.Stats().Resumed != 20-refused {
					t.Errorf("%v resumed, %v refused, want %d; the stub: %+v", x, y, refused, s.Stats())
				}
				if text := fmt.Sprint(r.Refusals); (refused > 0) != strings.Contains(text,
					"a session was not resumed: item-not-found") || refused == 0 && len(r.Refusals) > 0 {
					t.Errorf("the failures are %s", text)
				}
				for _, phase := range []string{"warm", "after"} {
					st := stepOf(t, r, phase, "chat")
					if st.Done != 300 || st.Lost+st.Duplicated+st.Failed+st.Reordered != 0 {
						t.Errorf("%s: %d of 300 messages came, %+v", phase, st.Done, st)
					}
				}
				st := stepOf(t, r, "queue", "chat")
				if refused > 0 { // what a session has that is refused, is lost with it
					if st.Done+st.Lost != 300 || st.Lost == 0 || st.Duplicated+st.Failed != 0 {
						t.Errorf("%+v", st)
					}
				} else if st.Lost != of(c.lost) || st.Duplicated != of(c.duplicated) || st.Done+st.Lost != 300 {
					t.Errorf("%d lost, %d twice, %d done; the stub: %+v", st.Lost, st.Duplicated, st.Done, s.Stats())
				}
				if n := s.Stats().Acknowledged; n == 0 || n > 150 { // of about 1,100 stanzas that clients send
					t.Errorf("the clients asked for %d acks", n)
				}
				if n := figure(t, r, "cut.observed") + figure(t, r, "queue.observed"); n != 0 {
					t.Errorf("contacts saw %v presences", n)
				}
				// The stub takes a session away that it refuses, and the client logs in anew. Observers that are
				// inactive do not see it.
				if n := figure(t, r, "back.observed"); n != float64(2*refused) && way == "sasl" {
					t.Errorf("contacts saw %v presences when %d of 20 were refused", n, refused)
				}
				if n := figure(t, r, "back.back_seconds"); n <= 0 || n > 60 {
					t.Errorf("all were back after %v s", n)
				}
			})
		}
	}
}

// What a client had before its connection was lost, and gets again, came twice: it does not forget what it
// has got in earlier phases.
func TestReplayOfWhatWasHandled(t *testing.T) {
	s, target := start(t, stub.Config{Mobile: true})
	r, err := Run(t.Context(), scenario(t, fmt.Sprintf(resuming, "")), target,
		Options{Progress: func(p result.Progress) {
			if p.Phase == "cut" {
				s.Faults.ReplayHandled(1)
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	warm, queue := stepOf(t, r, "warm", "chat"), stepOf(t, r, "queue", "chat")
	n := s.Stats().ReplayedHandled
	if n < 10 || warm.Duplicated != n || warm.Done != 300 || queue.Duplicated != 0 {
		t.Errorf("%d of 300 messages came, %d twice; the stub sent %d twice", warm.Done, warm.Duplicated, n)
	}
}

// A session that can't be resumed within a login by SASL2 is resumed after it.
func TestResumeAfterSASL2(t *testing.T) {
	s, target := start(t, stub.Config{Mobile: true, SASL2: true, NoInlineSM: true})
	r := run(t, scenario(t, fmt.Sprintf(resuming, "tls = 'direct'\nsasl2 = 'require'")), target)
	if n := figure(t, r, "back.resumed"); n != 20 || s.Stats().Resumed != 20 || s.Stats().Logins != 33 {
		t.Errorf("%v resumed; the stub: %+v", n, s.Stats())
	}
}

// A storm of clients that resume loses and doubles nothing of what comes meanwhile.
func TestResumeInStorm(t *testing.T) {
	s, target := start(t, stub.Config{Mobile: true})
	text := fmt.Sprintf(resuming, "")
	text = text[:strings.Index(text, "[[phase]]\nname = \"cut\"")] + `
[[phase]]
name = "drop"
kind = "storm"
group = ["phones"]
[[phase.do]]
kind = "chat"
group = "senders"
to = "phones"
rate = "2000/s"
[[phase]]
kind = "drain"
`
	whenTalking(s, func() { s.Faults.SlowLogin(200 * time.Millisecond) })
	r := run(t, scenario(t, text), target)
	st := stepOf(t, r, "drop", "chat")
	if st.Done != st.Sent || st.Lost+st.Duplicated+st.Failed+st.Reordered != 0 || st.Sent < 2000 {
		t.Errorf("%+v, %v", st, r.Refusals)
	}
	if n := figure(t, r, "drop.resumed"); n != 20 || s.Stats().Replayed == 0 {
		t.Errorf("%v resumed, %d stanzas replayed", n, s.Stats().Replayed)
	}
}

// A run whose server is restarted goes on with the new one: its sessions are refused, as a stub knows none
// after a restart, and all are back. That the server ends all sessions is no failure.
func TestRestart(t *testing.T) {
	s, target := start(t, stub.Config{Mobile: true, Offline: true})
	sc := scenario(t, fmt.Sprintf(resuming, ""))
	if err := sc.Override(Overrides{Restart: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), sc, target, Options{}); err == nil ||
		!strings.Contains(err.Error(), "restarts the server, which was not started here") {
		t.Errorf("the error is %v", err)
	}
	target.PIDs = []int{os.Getpid()}
	var once sync.Once
	r, err := Run(t.Context(), sc, target, Options{Restart: func(context.Context) ([]int, error) {
		once.Do(func() {
			s.Close()
			start(t, stub.Config{Mobile: true, Offline: true, Addr: s.Addr(), Direct: s.DirectAddr()})
		})
		return target.PIDs, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if figure(t, r, "back.refused") != 20 || figure(t, r, "others-back.refused") != 12 ||
		figure(t, r, "back.resumed") != 0 || figure(t, r, "back.back_seconds") <= 0 {
		t.Errorf("%v", r.Figures)
	}
	if len(r.Refusals) != 1 || r.Refusals[0].Count != 32 {
		t.Errorf("the failures are %v", r.Refusals)
	}
	if st := stepOf(t, r, "after", "chat"); st.Done != 300 || st.Lost+st.Duplicated+st.Failed != 0 {
		t.Errorf("%+v", st)
	}
	if r.Partial != "" || s.Stats().Logins != 33 {
		t.Errorf("%s, %d logins", r.Partial, s.Stats().Logins)
	}
	_, target = start(t, stub.Config{Mobile: true, Offline: true})
	_, err = Run(t.Context(), sc, target, Options{Restart: func(context.Context) ([]int, error) {
		return nil, context.DeadlineExceeded
	}})
	if err == nil || !strings.Contains(err.Error(), "the server was not restarted: ") {
		t.Errorf("the error is %v", err)
	}
}

const lookingAway = `
name = "away"
%s
[[group]]
name = "stars"
count = 2
[[group]]
name = "phones"
count = 20
[[phase]]
kind = "ramp"
[[phase]]
kind = "befriend"
length = "20s"
group = ["stars"]
to = "phones"
[[phase]]
name = "active"
kind = "hold"
length = "500ms"
[[phase.do]]
kind = "presence"
group = "stars"
rate = "20/s"
[[phase]]
name = "look-away"
kind = "csi"
group = ["phones"]
[[phase]]
name = "inactive"
kind = "hold"
length = "500ms"
base = "active"
[[phase.do]]
kind = "presence"
group = "stars"
held = true
rate = "20/s"
[[phase]]
name = "look"
kind = "csi"
off = true
grace = "500ms"
group = ["phones"]
[[phase]]
kind = "drain"
`

// What comes to inactive clients is counted, and so is the last presence if it does not come afterwards.
func TestInactiveClients(t *testing.T) {
	for _, c := range []struct {
		name, clients string
		do            func(f *stub.Faults)
		stanzas       float64
		lost          uint64
	}{
		{"held", "", func(*stub.Faults) {}, 0, 0},
		{"held, with SM", "[clients]\nsm = true", func(*stub.Faults) {}, 0, 0},
		{"ignored", "", func(f *stub.Faults) { f.IgnoreInactive() }, 100, 0},
		{"lost", "", func(f *stub.Faults) { f.DropHeld(4) }, 0, 5 * 5}, // of five broadcasts of a star
	} {
		t.Run(c.name, func(t *testing.T) {
			s, target := start(t, stub.Config{Mobile: true})
			c.do(s.Faults)
			r := run(t, scenario(t, fmt.Sprintf(lookingAway, c.clients)), target)
			if n := figure(t, r, "inactive.inactive_stanzas"); n != c.stanzas {
				t.Errorf("%v stanzas came to inactive clients, not %v", n, c.stanzas)
			}
			if n := figure(t, r, "inactive.inactive_writes"); (n > 0) != (c.stanzas > 0) || n > c.stanzas {
				t.Errorf("%v writes came to inactive clients", n)
			}
			if _, ok := r.Figure("active.inactive_stanzas"); ok {
				t.Error("what comes to active clients is counted")
			}
			if st := stepOf(t, r, "active", "presence"); st.Done != 100 || st.Lost+st.Duplicated != 0 {
				t.Errorf("%+v", st)
			}
			if st := stepOf(t, r, "inactive", "presence"); st.Lost != c.lost || st.Done != 100-c.lost ||
				st.Duplicated+st.Reordered != 0 {
				t.Errorf("%d lost, not %d: %+v", st.Lost, c.lost, st)
			}
			if held := s.Stats().HeldPresences; (held == 100) != (c.stanzas == 0) {
				t.Errorf("%d presences were held", held)
			}
		})
	}
}

// Clients that are inactive from the beginning have said so when they are online, in both ways.
func TestInactiveFromTheBeginning(t *testing.T) {
	for _, clients := range []string{"inactive = true",
		"tls = 'direct'\nsasl2 = 'require'\ninactive = true\nsm = true"} {
		s, target := start(t, stub.Config{Mobile: true, SASL2: true})
		text := fmt.Sprintf(lookingAway, "[clients]\n"+clients)
		i := strings.Index(text, "[[phase]]\nname = \"active\"")
		j := strings.Index(text, "[[phase]]\nname = \"inactive\"")
		text = strings.Replace(text[:i]+text[j:], "base = \"active\"", "", 1)
		r := run(t, scenario(t, text), target)
		if n := figure(t, r, "inactive.inactive_stanzas"); n != 0 || s.Stats().HeldPresences < 100 {
			t.Errorf("%s: %v stanzas came, %d were held", clients, n, s.Stats().HeldPresences)
		}
	}
}

// Stream management is turned on in the middle of a run, and then the same messages are compared.
func TestChatWithSM(t *testing.T) {
	target := stubProcess(t)
	sc, err := Find("chat-sm")
	if err != nil {
		t.Fatal(err)
	}
	if err := sc.Override(Overrides{Clients: 10, Length: Span(500 * time.Millisecond), Rates: .5}); err != nil {
		t.Fatal(err)
	}
	r := run(t, sc, target)
	if st := stepOf(t, r, "enable", "request"); st.Done != 10 || st.Failed != 0 {
		t.Errorf("%+v", st)
	}
	off, on, ratio := figure(t, r, "off.cpu_us"), figure(t, r, "on.cpu_us"), figure(t, r, "on.cpu_ratio")
	if ratio != on/off || ratio <= 0 {
		t.Errorf("%v us without, %v with, a ratio of %v", off, on, ratio)
	}
}

// A server that refuses stream management or does not offer it ends the run.
func TestSMRefused(t *testing.T) {
	_, target := start(t, stub.Config{})
	for _, text := range []string{fmt.Sprintf(resuming, ""), fmt.Sprintf(lookingAway, "")} {
		if _, err := Run(t.Context(), scenario(t, text), target, Options{}); err == nil ||
			!strings.Contains(err.Error(), "the server does not offer what the scenario requires: ") {
			t.Errorf("the error is %v", err)
		}
	}
}

// An ack of more stanzas than were sent is the server's fault, and changes nothing.
func TestWrongAcks(t *testing.T) {
	m := &smState{sent: 5, acked: 1<<32 - 2, unacked: make([][]byte, 7)}
	for _, c := range []struct {
		e  string
		ok bool
		n  int
	}{
		{"<a xmlns='urn:xmpp:sm:3' h='4294967295'/>", true, 6},
		{"<a xmlns='urn:xmpp:sm:3' h='4294967294'/>", false, 6},
		{"<a xmlns='urn:xmpp:sm:3' h='6'/>", false, 6},
		{"<a xmlns='urn:xmpp:sm:3' h='-1'/>", false, 6},
		{"<a xmlns='urn:xmpp:sm:3'/>", false, 6},
		{"<a xmlns='urn:xmpp:sm:3' h='2'/>", true, 3},
		{"<a xmlns='urn:xmpp:sm:3' h='2'/>", true, 3},
		{"<a xmlns='urn:xmpp:sm:3' h='5'/>", true, 0},
	} {
		if ok := m.acknowledged(element(t, c.e)); ok != c.ok || len(m.unacked) != c.n {
			t.Errorf("%s: %v, %d left", c.e, ok, len(m.unacked))
		}
	}
}
