package bench

import (
	"fmt"
	"strings"
	"testing"

	"canto/bench/result"
	"canto/bench/stub"
)

// copying has 300 messages from senders to phones in each of its holds. Tablets get carbons in the second.
const copying = `
name = "copying"
[[group]]
name = "senders"
count = 10
[[group]]
name = "tablets"
of = "phones"
[[group]]
name = "phones"
count = 10
[[phase]]
kind = "ramp"
[[phase]]
name = "enable"
kind = "carbons"
group = ["senders", "phones"]
[[phase]]
name = "alone"
kind = "hold"
length = "500ms"
grace = "1s"
[[phase.do]]
kind = "chat"
group = "senders"
to = "phones"
rate = "600/s"
[[phase]]
name = "second"
kind = "carbons"
group = ["tablets"]
[[phase]]
name = "copied"
kind = "hold"
length = "500ms"
grace = "1s"
base = "alone"
[[phase.do]]
kind = "chat"
group = "senders"
to = "phones"
copies = "tablets"
rate = "600/s"
[[phase]]
kind = "drain"
`

// What the stub does wrong with carbons is what the result counts.
func TestCarbonFaultsAreCounted(t *testing.T) {
	for _, c := range []struct {
		name                    string
		do                      func(f *stub.Faults)
		lost, duplicated, wrong func(s stub.Stats) uint64
		why                     string // of what is wrong
	}{
		{name: "none", do: func(*stub.Faults) {}},
		{name: "lost", do: func(f *stub.Faults) { f.DropCarbons(7) },
			lost: func(s stub.Stats) uint64 { return s.DroppedCarbons }},
		{name: "duplicated", do: func(f *stub.Faults) { f.DuplicateCarbons(5) },
			duplicated: func(s stub.Stats) uint64 { return s.DuplicatedCarbons }},
		{name: "forged", do: func(f *stub.Faults) { f.ForgeCarbons(6) },
			lost:  func(s stub.Stats) uint64 { return s.ForgedCarbons },
			wrong: func(s stub.Stats) uint64 { return s.ForgedCarbons },
			why:   "a carbon was not from the bare address of its account"},
		{name: "echoed", do: func(f *stub.Faults) { f.EchoCarbons(10) },
			wrong: func(s stub.Stats) uint64 { return s.EchoedCarbons },
			why:   "a carbon came to the session that had sent the message"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, target := start(t, stub.Config{})
			sc := scenario(t, copying)
			// In the phase copied: the faults begin with its first message, and the stub is told before.
			r, err := Run(t.Context(), sc, target, Options{Progress: func(p result.Progress) {
				if p.Phase == "second" {
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
				if n < 20 {
					t.Errorf("the stub did %d things wrong", n)
				}
				return n
			}
			chat, carbons := stepOf(t, r, "copied", "chat"), stepOf(t, r, "copied", "chat-carbons")
			if n := carbons.Wrong + chat.Wrong; carbons.Lost != of(c.lost) || n != of(c.wrong) ||
				carbons.Duplicated != of(c.duplicated) || carbons.Done+carbons.Lost != 300 || carbons.Expected != 300 {
				t.Errorf("%d carbons expected, %d done, %d lost, %d twice, %d wrong; the stub: %+v", carbons.Expected,
					carbons.Done, carbons.Lost, carbons.Duplicated, n, s.Stats())
			}
			for _, phase := range []string{"alone", "copied"} {
				st := stepOf(t, r, phase, "chat")
				if st.Done != 300 || st.Lost+st.Duplicated+st.Failed+st.Reordered != 0 {
					t.Errorf("%s: %d of 300 messages came, %+v", phase, st.Done, st)
				}
			}
			if text := fmt.Sprint(r.Refusals); !strings.Contains(text, c.why) || c.why == "" && len(r.Refusals) > 0 {
				t.Errorf("the failures are %s", text)
			}
			if s.Stats().Logins != 31 { // and the first look at what is offered
				t.Errorf("%d logins", s.Stats().Logins)
			}
			f, ok := r.Figure("copied.chat-carbons.lost")
			if !ok || f.Value != float64(carbons.Lost) {
				t.Errorf("the figure is %+v", f)
			}
		})
	}
}

// A server that refuses to turn carbons on ends the run, which would measure something else.
func TestCarbonsRefused(t *testing.T) {
	s, target := start(t, stub.Config{})
	sc := scenario(t, copying)
	r, err := Run(t.Context(), sc, target, Options{Progress: func(p result.Progress) {
		if p.Phase == "ramp" && p.Sample.Sessions == 0 {
			s.Faults.RefuseCarbons(4)
		}
	}})
	if err == nil || !strings.Contains(err.Error(), "5 of 20 requests to enable carbons failed: ") || r == nil {
		t.Fatalf("the error is %v", err)
	}
	if st := stepOf(t, r, "enable", "request"); st.Done != 15 || st.Failed != 5 {
		t.Errorf("%d done, %d failed", st.Done, st.Failed)
	}
}

// The operations of a phase, by which its CPU is divided, are messages: a carbon is on top of one.
func TestCarbonsAreNoOperations(t *testing.T) {
	target := stubProcess(t)
	r := run(t, scenario(t, copying), target)
	var cpu float64
	for _, p := range r.Phases {
		if p.Name == "copied" {
			cpu = p.Server.CPU * 1e6 / 300
		}
	}
	alone, _ := r.Figure("alone.cpu_us")
	copied, ok := r.Figure("copied.cpu_us")
	added, ok2 := r.Figure("copied.added_cpu_us")
	if !ok || !ok2 || copied.Value != cpu || added.Value != copied.Value-alone.Value {
		t.Errorf("%v us a message alone, %v with a carbon, %v added; the phase took %v", alone.Value, copied.Value,
			added.Value, cpu)
	}
}

// Clients of several processes have their second devices beside them; app servers have to be in each.
func TestSecondDevicesInWorkers(t *testing.T) {
	_, target := start(t, stub.Config{Offline: true})
	r, err := Run(t.Context(), scenario(t, copying), target, Options{Processes: 2, Command: workerCommand(t)})
	if err != nil {
		t.Fatal(err)
	}
	st := stepOf(t, r, "copied", "chat-carbons")
	if st.Expected < 299 || st.Done != st.Expected || st.Wrong+st.Duplicated != 0 || r.Sessions != 30 {
		t.Errorf("%d sessions, %+v, %v", r.Sessions, st, r.Refusals)
	}
	_, err = Run(t.Context(), scenario(t, leaving), target, Options{Processes: 2, Command: workerCommand(t)})
	if err == nil || !strings.Contains(err.Error(), "no client of group apps is online in this process") {
		t.Errorf("the error is %v", err)
	}
}

// Second devices are as many as the first ones, whatever --clients is, and take no accounts.
func TestSecondDevices(t *testing.T) {
	for n := 2; n < 40; n++ {
		sc := scenario(t, copying)
		if err := sc.Override(Overrides{Clients: n}); err != nil {
			t.Fatal(err)
		}
		senders, tablets, phones := sc.Groups[0].Count, sc.Groups[1].Count, sc.Groups[2].Count
		if senders+phones != n || tablets != phones || sc.Accounts() != n || sc.Sessions() != n+phones {
			t.Errorf("%d clients: %d senders, %d phones, %d tablets, %d accounts", n, senders, phones, tablets,
				sc.Accounts())
		}
		if again, err := Parse("again.toml", []byte(sc.Source())); err != nil || again.Groups[1].Count != tablets {
			t.Errorf("%v\n%s", err, sc.Source())
		}
	}
	sc := scenario(t, copying)
	for _, workers := range []int{1, 3} {
		for w := range workers {
			_, target := start(t, stub.Config{})
			f, err := NewFleet(sc, target, Assignment{Worker: w, Workers: workers}, 1)
			if err != nil {
				t.Fatal(err)
			}
			phones, tablets := f.members("phones"), f.members("tablets")
			if len(phones) != len(tablets) {
				t.Errorf("%d phones, %d tablets", len(phones), len(tablets))
			}
			s := &f.steps[f.actionStep(4, 0)]
			for i, p := range phones {
				if d := f.device(s, p); d != tablets[i] || d.account != p.index || f.resource(d) == f.resource(p) {
					t.Errorf("the tablet of phone %d is %d, of account %d", p.index, d.index, d.account)
				}
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// Each thing that can be wrong with a carbon is told.
func TestCarbonFault(t *testing.T) {
	_, target := start(t, stub.Config{})
	f, err := NewFleet(scenario(t, copying), target, Assignment{Workers: 1}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sender, phone, tablet := f.members("senders")[0], f.members("phones")[0], f.members("tablets")[0]
	for _, c := range []*client{sender, phone, tablet} {
		jid := f.bareAddress(c) + "/" + f.resource(c)
		c.jid.Store(&jid)
		c.flags |= flagCarbons
	}
	own, full := f.bareAddress(tablet), *tablet.jid.Load()
	step := &f.steps[f.actionStep(4, 0)]
	for _, c := range []struct {
		to                     *client
		from, at, inner, other string
		sent                   bool
		off                    bool
		want                   string
	}{
		{to: tablet, from: own, at: full, inner: *phone.jid.Load(), other: *sender.jid.Load()},
		{to: tablet, from: own, inner: *phone.jid.Load(), other: *sender.jid.Load()},
		{to: sender, from: own, at: full, inner: *phone.jid.Load(), other: *sender.jid.Load(),
			want: "a carbon came to the session that had sent the message"},
		{to: tablet, off: true, from: own, at: full, inner: *phone.jid.Load(), other: *sender.jid.Load(),
			want: "a carbon came to a session that has not turned them on"},
		{to: tablet, from: full, at: full, inner: *phone.jid.Load(), other: *sender.jid.Load(),
			want: "a carbon was not from the bare address of its account"},
		{to: tablet, at: full, inner: *phone.jid.Load(), other: *sender.jid.Load(),
			want: "a carbon was not from the bare address of its account"},
		{to: tablet, from: own, at: *phone.jid.Load(), inner: *phone.jid.Load(), other: *sender.jid.Load(),
			want: "a carbon was not to the session that it came to"},
		{to: tablet, from: own, at: full, inner: *phone.jid.Load(), other: *sender.jid.Load(), sent: true,
			want: "a carbon was marked as sent by a device that had received the message"},
		{to: tablet, from: own, at: full, inner: *sender.jid.Load(), other: *sender.jid.Load(),
			want: "a carbon has a message to another account"},
		{to: tablet, from: own, at: full, inner: full, other: *sender.jid.Load(),
			want: "a carbon came to the session that the message was for"},
		{to: tablet, from: own, at: full, inner: *phone.jid.Load(), other: *phone.jid.Load(),
			want: "a carbon has a message with another sender"},
		{to: phone, from: own, at: *phone.jid.Load(), inner: own + "/other", other: *sender.jid.Load(),
			want: "a carbon came to a session that should not have it"},
	} {
		e := element(t, fmt.Sprintf("<message xmlns='jabber:client' from='%s' to='%s'/>", c.from, c.at))
		m := element(t, fmt.Sprintf("<message xmlns='jabber:client' from='%s' to='%s'/>", c.other, c.inner))
		c.to.flags |= flagCarbons
		if c.off {
			c.to.flags &^= flagCarbons
		}
		if got := f.carbonFault(c.to, e, m, traceID{from: sender.index}, step, c.sent); got != c.want {
			t.Errorf("from %q to %q, of %q to %q: %q, not %q", c.from, c.at, c.other, c.inner, got, c.want)
		}
	}
}
