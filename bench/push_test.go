package bench

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"canto/bench/result"
	"canto/bench/stub"
)

// leaving has 200 messages to phones that are away and have registered for pushes, and to others.
const leaving = `
name = "leaving"
requires = ["push"]
[[group]]
name = "senders"
count = 10
[[group]]
name = "others"
count = 10
[[group]]
name = "phones"
count = 10
[[group]]
name = "apps"
count = 2
[[phase]]
kind = "ramp"
[[phase]]
name = "register"
kind = "push"
group = ["phones"]
to = "apps"
[[phase]]
name = "leave"
kind = "drain"
group = ["others", "phones"]
[[phase]]
name = "rest"
kind = "settle"
length = "1ms"
[[phase]]
name = "plain"
kind = "hold"
length = "500ms"
grace = "1s"
[[phase.do]]
kind = "chat"
to = "others"
away = true
rate = "400/s"
[[phase]]
name = "pushed"
kind = "hold"
length = "500ms"
grace = "1s"
base = "plain"
[[phase.do]]
kind = "chat"
to = "phones"
away = true
pushed = true
rate = "400/s"
[[phase]]
name = "back"
kind = "ramp"
group = ["others", "phones"]
grace = "1s"
[[phase]]
name = "again"
kind = "storm"
group = ["others", "phones"]
[[phase]]
kind = "drain"
`

// runLeaving runs a scenario of leaving, whose senders begin when the stub has noticed that the others have
// left. then is called before that.
func runLeaving(t *testing.T, sc *Scenario, s *stub.Server, target Target, then func()) *result.Run {
	t.Helper()
	r, err := Run(t.Context(), sc, target, Options{Progress: func(p result.Progress) {
		if p.Phase != "rest" {
			return
		}
		for s.Stats().Sessions > 12 { // senders and app servers
			time.Sleep(time.Millisecond)
		}
		then()
	}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What the stub does wrong with pushes, and with messages that it keeps, is what the result counts.
func TestPushFaultsAreCounted(t *testing.T) {
	for _, c := range []struct {
		name        string
		do          func(f *stub.Faults)
		pushes      int // of 200; -1: not looked at
		silent      uint64
		wrong       func(s stub.Stats) uint64
		lost, twice func(s stub.Stats) uint64 // of the messages
		why         string
	}{
		{name: "none", do: func(*stub.Faults) {}, pushes: 200},
		{name: "dropped", do: func(f *stub.Faults) { f.DropPushes(4) }, pushes: 150},
		{name: "all dropped", do: func(f *stub.Faults) { f.DropPushes(1) }, silent: 10},
		{name: "duplicated", do: func(f *stub.Faults) { f.DuplicatePushes(1) }, pushes: 200,
			wrong: func(s stub.Stats) uint64 { return s.DuplicatedPushes },
			why:   "more pushes came for an account than messages"},
		{name: "misdirected", do: func(f *stub.Faults) { f.MisdirectPushes(5) }, pushes: 160,
			wrong: func(s stub.Stats) uint64 { return s.MisdirectedPushes },
			why:   "a push came for a node that was not registered"},
		{name: "messages lost", do: func(f *stub.Faults) { f.DropKept(8) }, pushes: 200,
			lost: func(s stub.Stats) uint64 { return s.DroppedKept }},
		{name: "messages twice", do: func(f *stub.Faults) { f.DuplicateKept(8) }, pushes: 200,
			twice: func(s stub.Stats) uint64 { return s.DuplicatedKept }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, target := start(t, stub.Config{Offline: true})
			r := runLeaving(t, scenario(t, leaving), s, target, func() { c.do(s.Faults) })
			of := func(count func(s stub.Stats) uint64) uint64 {
				if count == nil {
					return 0
				}
				n := count(s.Stats())
				if n < 20 {
					t.Errorf("the stub did %d things wrong", n)
				}
				return n
			}
			pushes := stepOf(t, r, "pushed", "chat-pushes")
			if int(pushes.Done) != c.pushes || pushes.Lost != c.silent || pushes.Wrong != of(c.wrong) {
				t.Errorf("%d pushes, %d accounts without, %d wrong; the stub: %+v", pushes.Done, pushes.Lost,
					pushes.Wrong, s.Stats())
			}
			if f, ok := r.Figure("pushed.chat-pushes.per_message"); !ok || f.Value != float64(c.pushes)/200 {
				t.Errorf("the figure is %+v", f)
			}
			plain, pushed := stepOf(t, r, "plain", "chat"), stepOf(t, r, "pushed", "chat")
			if plain.Lost+pushed.Lost != of(c.lost) || plain.Duplicated+pushed.Duplicated != of(c.twice) ||
				plain.Done+plain.Lost != 200 || pushed.Done+pushed.Lost != 200 || plain.Failed+pushed.Failed != 0 {
				t.Errorf("%+v\n%+v; the stub: %+v", plain, pushed, s.Stats())
			}
			if text := fmt.Sprint(r.Refusals); !strings.Contains(text, c.why) || c.why == "" && len(r.Refusals) > 0 {
				t.Errorf("the failures are %s", text)
			}
			if st := s.Stats(); st.Kept != 400 || st.AnsweredPushes != st.Pushes-st.DroppedPushes+st.DuplicatedPushes {
				t.Errorf("the stub: %+v", st)
			}
		})
	}
}

// The latency of a push is from when its message was due.
func TestPushLatency(t *testing.T) {
	s, target := start(t, stub.Config{Offline: true})
	r := runLeaving(t, scenario(t, leaving), s, target, func() { s.Faults.Delay(100 * time.Millisecond) })
	pushes := stepOf(t, r, "pushed", "chat-pushes")
	if n := pushes.Latency.Count(); n != 200 || pushes.Latency.Quantile(.01) < 99*time.Millisecond {
		t.Errorf("%d latencies, the quickest %v; each was held for 100 ms", n, pushes.Latency.Quantile(.01))
	}
}

// A server that keeps no messages refuses them: that is a failure, and no loss.
func TestAwayRefused(t *testing.T) {
	s, target := start(t, stub.Config{})
	register := "kind = \"push\"\ngroup = [\"phones\"]\nto = \"apps\""
	sc := scenario(t, strings.NewReplacer(`requires = ["push"]`, "", "pushed = true", "",
		register, "kind = \"settle\"\nlength = \"1ms\"").Replace(leaving))
	r := runLeaving(t, sc, s, target, func() {})
	for _, phase := range []string{"plain", "pushed"} {
		if st := stepOf(t, r, phase, "chat"); st.Failed != 200 || st.Done+st.Lost != 0 {
			t.Errorf("%s: %+v", phase, st)
		}
	}
	if n := s.Stats().Returned; n != 400 {
		t.Errorf("the stub refused %d", n)
	}
}

// In a closed loop a message to an account that is away makes room for the next one when it was handled.
func TestAwayInClosedLoop(t *testing.T) {
	s, target := start(t, stub.Config{Offline: true})
	sc := scenario(t, strings.ReplaceAll(leaving, `rate = "400/s"`, "window = 4"))
	r := runLeaving(t, sc, s, target, func() {})
	for _, phase := range []string{"plain", "pushed"} {
		st := stepOf(t, r, phase, "chat")
		if st.Done < 100 || st.Done != st.Sent || st.Lost+st.Failed+st.Duplicated != 0 {
			t.Errorf("%s: %+v", phase, st)
		}
	}
	if st := s.Stats(); st.Kept < 200 {
		t.Errorf("%+v", st)
	}
}

// A push to another app server than was registered is wrong, and so is a request to one that is no push.
func TestPushToAnother(t *testing.T) {
	_, target := start(t, stub.Config{})
	f, err := NewFleet(scenario(t, leaving), target, Assignment{Workers: 1}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ls, apps, phone := f.loops[0], f.members("apps"), f.members("phones")[0]
	phone.push.Store(&pushRegistration{server: apps[0]})
	step := f.steps[f.actionStep(5, 0)].pushes
	f.pushStep.Store(uint32(step))
	f.expectPush(ls, step, phone, 1)
	publish := func(node string) string { return "<publish node='" + node + "'><item/></publish>" }
	for _, c := range []struct {
		app         *client
		in          string
		done, wrong uint64
		why         string
	}{
		{apps[1], publish(fmt.Sprint("device", phone.index)), 0, 1, "a push came to another app server"},
		{apps[0], publish("device4000000000"), 0, 2, "a push came for a node that was not registered"},
		{apps[0], publish(fmt.Sprint("x", phone.index)), 0, 3, "a push came for a node that was not registered"},
		{apps[0], "", 0, 4, "a request to an app server was no push"},
		{apps[0], publish(fmt.Sprint("device", phone.index)), 1, 4, ""},
		{apps[0], publish(fmt.Sprint("device", phone.index)), 1, 5,
			"more pushes came for an account than messages"},
	} {
		ls.failures = nil
		f.countPush(ls, c.app, element(t, "<pubsub xmlns='http://jabber.org/protocol/pubsub'>"+c.in+"</pubsub>"))
		y := ls.tally(step)
		if y.Done != c.done || y.Wrong != c.wrong || y.Expected != 1 ||
			c.why == "" != (len(ls.failures) == 0) || c.why != "" && !strings.HasPrefix(ls.failures[0].What, c.why) {
			t.Errorf("%s: %d done, %d wrong, %v", c.in, y.Done, y.Wrong, ls.failures)
		}
	}
	if phone := f.members("phones")[1]; f.answerPush(ls, phone, element(t,
		"<pubsub xmlns='http://jabber.org/protocol/pubsub'/>")) {
		t.Error("a phone is no app server")
	}
}
