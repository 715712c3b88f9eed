package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"canto/bench/result"
	"canto/bench/stub"

	"golang.org/x/sys/unix"
)

// start runs a stub until the test ends, and says where it is.
func start(t *testing.T, cfg stub.Config) (*stub.Server, Target) {
	t.Helper()
	s, err := stub.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, Target{Name: "stub", Addr: s.Addr(), Direct: s.DirectAddr(), Domain: "localhost",
		Password: "bench", Insecure: true}
}

func scenario(t *testing.T, text string) *Scenario {
	t.Helper()
	sc, err := Parse("test.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return sc
}

func run(t *testing.T, sc *Scenario, target Target) *result.Run {
	t.Helper()
	r, err := Run(t.Context(), sc, target, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func stepOf(t *testing.T, r *result.Run, phase, name string) *result.Step {
	t.Helper()
	for i := range r.Steps {
		if r.Steps[i].Phase == phase && r.Steps[i].Name == name {
			return &r.Steps[i]
		}
	}
	t.Fatalf("there is no step %s.%s in %+v; refusals %v", phase, name, r.Steps, r.Refusals)
	return nil
}

// whenTalking does something when messages are on their way: all have logged in by then.
func whenTalking(s *stub.Server, do func()) {
	go func() {
		for s.Stats().Routed == 0 {
			time.Sleep(time.Millisecond)
		}
		do()
	}()
}

const talk = `
name = "talk"
[clients]
count = 40
[[phase]]
kind = "ramp"
[[phase]]
name = "talk"
kind = "hold"
length = "%s"
grace = "%s"
[[phase.do]]
kind = "chat"
rate = "%s"
late = "20ms"
[[phase]]
kind = "drain"
`

func talking(t *testing.T, length, grace, rate string) *Scenario {
	return scenario(t, fmt.Sprintf(talk, length, grace, rate))
}

// A server that does nothing for a second while 1,000 messages a second should be sent makes 1,000 of them
// late, evenly from 0 to 1 s: a load tester that waits for answers before it goes on would see a few.
func TestStallIsSeenInFull(t *testing.T) {
	s, target := start(t, stub.Config{})
	sc := talking(t, "3s", "10s", "1000/s")
	whenTalking(s, func() { s.Faults.Stall(time.Second) })
	r := run(t, sc, target)
	st := stepOf(t, r, "talk", "chat")
	if st.Sent != 3000 || st.Done != 3000 || st.Lost != 0 {
		t.Errorf("%d sent, %d came, %d lost; want 3000, 3000, 0", st.Sent, st.Done, st.Lost)
	}
	// Of the thousand, those of the last 20 ms are not late by 20 ms; on top come those that find the stub, or a
	// busy machine, still catching up.
	if st.Late < 960 || st.Late > 2000 {
		t.Errorf("a stall of 1 s at 1,000 messages a second shows as %d late messages", st.Late)
	}
	if half := st.Latency.Over(500 * time.Millisecond); half < 480 || half > 1000 {
		t.Errorf("%d messages took over 500 ms; want the half of 1,000 that was meant to go out in the "+
			"first half of the stall", half)
	}
	if m := st.Latency.Max(); m < 950*time.Millisecond {
		t.Errorf("the latest message took %v", m)
	}
	// And the timeline shows it in its second.
	var worst float64
	for _, x := range r.Samples {
		worst = math.Max(worst, x.Steps["chat"].Max)
	}
	if worst < 950 {
		t.Errorf("the worst second of the time axis has %v ms", worst)
	}
}

// A phase ends when it is over, also at a rate that the client can't send: what was due and not
// sent is counted, the result adds up, and says it.
func TestPhaseEndsAtRateBeyondTheClient(t *testing.T) {
	_, target := start(t, stub.Config{})
	sc := talking(t, "100ms", "100ms", "1000000000/s")
	began := time.Now()
	r := run(t, sc, target)
	if d := time.Since(began); d > 20*time.Second { // it is some three seconds; all of it would take minutes
		t.Errorf("a phase of 100 ms took %v", d)
	}
	st := stepOf(t, r, "talk", "chat")
	if st.Intended != 100_000_000 || st.Unsent == 0 || st.Unsent+st.Sent+st.Failed != st.Intended {
		t.Errorf("%d intended, %d sent, %d failed, %d unsent", st.Intended, st.Sent, st.Failed, st.Unsent)
	}
	if f, ok := r.Figure("talk.chat.unsent"); !ok || f.Value != float64(st.Unsent) {
		t.Errorf("the figure is %+v", f)
	}
	if !slices.ContainsFunc(r.Warnings, func(w string) bool {
		return strings.Contains(w,
			"the rate of talk.chat was beyond the client")
	}) {
		t.Errorf("the warnings are %q", r.Warnings)
	}
}

// An interrupt does not wait for the next operation of a slow pace.
func TestInterruptOfSlowPace(t *testing.T) {
	s, target := start(t, stub.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	sc := talking(t, "1h", "1s", "2/h") // the first at once, the second in half an hour
	whenTalking(s, cancel)
	ended := make(chan error, 1)
	go func() {
		_, err := Run(ctx, sc, target, Options{})
		ended <- err
	}()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the run goes on")
	}
}

// What the stub loses, doubles and puts out of order is what the result counts.
func TestFaultsAreCounted(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(f *stub.Faults)
		want func(st stub.Stats) (lost, duplicated, reordered, failed uint64)
	}{
		{"none", func(*stub.Faults) {}, func(stub.Stats) (a, b, c, d uint64) { return 0, 0, 0, 0 }},
		{"lost", func(f *stub.Faults) { f.Drop(10) },
			func(s stub.Stats) (a, b, c, d uint64) { return s.Dropped, 0, 0, 0 }},
		{"duplicated", func(f *stub.Faults) { f.Duplicate(7) },
			func(s stub.Stats) (a, b, c, d uint64) { return 0, s.Duplicated, 0, 0 }},
		{"reordered", func(f *stub.Faults) { f.Reorder(9) },
			func(s stub.Stats) (a, b, c, d uint64) { return 0, 0, s.Reordered, 0 }},
		{"failed", func(f *stub.Faults) { f.ErrorEvery(5, "service-unavailable") },
			func(s stub.Stats) (a, b, c, d uint64) { return 0, 0, 0, s.Bounced }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, target := start(t, stub.Config{ReorderTimeout: 500 * time.Millisecond})
			whenTalking(s, func() { c.do(s.Faults) })
			r := run(t, talking(t, "1s", "3s", "2000/s"), target)
			st := stepOf(t, r, "talk", "chat")
			lost, duplicated, reordered, failed := c.want(s.Stats())
			if c.name != "none" && lost+duplicated+reordered+failed == 0 {
				t.Fatal("the stub did nothing wrong")
			}
			if st.Lost != lost || st.Duplicated != duplicated || st.Reordered != reordered || st.Failed != failed {
				t.Errorf("counted %d lost, %d duplicated, %d reordered, %d failed; the stub did %d, %d, %d, %d",
					st.Lost, st.Duplicated, st.Reordered, st.Failed, lost, duplicated, reordered, failed)
			}
			if st.Sent != 2000 || st.Done+st.Lost+st.Failed != 2000 {
				t.Errorf("%d sent; %d done + %d lost + %d failed are not 2000", st.Sent, st.Done, st.Lost, st.Failed)
			}
		})
	}
}

// What a flood has written and the server has not read is not lost, and what the server has read and lost is.
func TestFloodsLosses(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(f *stub.Faults)
		lost bool
	}{
		{"a server that stops reading", func(f *stub.Faults) { f.Stall(3 * time.Second) }, false},
		{"a server that loses", func(f *stub.Faults) { f.Drop(10) }, true},
	} {
		s, target := start(t, stub.Config{})
		whenTalking(s, func() { c.do(s.Faults) })
		r := run(t, scenario(t, `
name = "flood"
[clients]
count = 4
[[phase]]
kind = "ramp"
[[phase]]
name = "flood"
kind = "hold"
length = "1s"
grace = "100ms"
[[phase.do]]
kind = "flood"
late = "20s"
`), target)
		st := stepOf(t, r, "flood", "flood")
		if st.Sent < st.Expected || st.Expected != st.Done+st.Lost || st.Duplicated+st.Reordered+st.Failed != 0 {
			t.Errorf("%s: %d sent, %d expected, %d done, %d lost, %d failed", c.name, st.Sent, st.Expected,
				st.Done, st.Lost, st.Failed)
		}
		switch {
		case !c.lost && (st.Lost != 0 || st.Sent == st.Done):
			t.Errorf("%s: %d lost of %d sent, %d of which arrived", c.name, st.Lost, st.Sent, st.Done)
		case c.lost && (st.Lost > s.Stats().Dropped || st.Lost < st.Expected/20):
			t.Errorf("%s: %d lost of %d; the stub dropped %d", c.name, st.Lost, st.Expected, s.Stats().Dropped)
		}
	}
}

// A delay is in every latency, and the schedule goes on.
func TestDelayIsLatency(t *testing.T) {
	s, target := start(t, stub.Config{})
	s.Faults.Delay(100 * time.Millisecond)
	r := run(t, talking(t, "1s", "5s", "500/s"), target)
	st := stepOf(t, r, "talk", "chat")
	if p := st.Latency.Quantile(.01); p < 99*time.Millisecond {
		t.Errorf("the quickest took %v; each was held for 100 ms", p)
	}
	if st.Done != 500 {
		t.Errorf("%d came", st.Done)
	}
}

// A closed loop is there for comparison: the same stall is seen by as many operations as the window has.
func TestClosedLoopHidesAStall(t *testing.T) {
	s, target := start(t, stub.Config{})
	sc := talking(t, "3s", "10s", "1000/s")
	a := &sc.Phases[1].Do[0]
	a.Rate, a.Arrivals, a.Window = 0, "", 10
	whenTalking(s, func() { s.Faults.Stall(time.Second) })
	r := run(t, sc, target)
	st := stepOf(t, r, "talk", "chat")
	if n := st.Latency.Over(400 * time.Millisecond); n < 1 || n > 10 {
		t.Errorf("%d operations of a window of 10 saw the stall", n)
	}
	if st.Open {
		t.Error("it calls itself an open loop")
	}
}

// A login that fails is no latency: it ends the run with cause and remedy.
func TestWrongPassword(t *testing.T) {
	_, target := start(t, stub.Config{})
	target.Password = "wrong"
	_, err := Run(t.Context(), talking(t, "1s", "1s", "10/s"), target, Options{})
	var r Failure
	if !errors.As(err, &r) || r.What != "authentication failed: not-authorized" ||
		!strings.Contains(r.Remedy, "--password") {
		t.Errorf("the error is %v", err)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("the error has several lines: %q", err)
	}
}

// In the middle of a run, too.
func TestRefusedLogins(t *testing.T) {
	s, target := start(t, stub.Config{})
	sc := scenario(t, `
name = "x"
[clients]
count = 40
[[phase]]
kind = "ramp"
[[phase]]
kind = "storm"
`)
	time.AfterFunc(0, func() {
		for s.Stats().Logins < 41 {
			time.Sleep(time.Millisecond)
		}
		s.Faults.RefuseLogins("temporary-auth-failure")
	})
	r, err := Run(t.Context(), sc, target, Options{})
	if err == nil || !strings.Contains(err.Error(), "temporary-auth-failure") {
		t.Fatalf("the error is %v", err)
	}
	if r == nil || r.Partial == "" {
		t.Fatal("there is no partial result")
	}
	if st := stepOf(t, r, "storm", "login"); st.Done != 0 || st.Latency.Count() != 0 || st.Failed == 0 {
		t.Errorf("%d logins done, %d latencies, %d failed", st.Done, st.Latency.Count(), st.Failed)
	}
}

// A ramp with go_on ends with its length, and the run goes on with the sessions that there are; the next one
// gets the others.
func TestRampGoesOn(t *testing.T) {
	_, target := start(t, stub.Config{})
	r := run(t, scenario(t, `
[clients]
count = 40
[[phase]]
name = "some"
kind = "ramp"
rate = "20/s"
length = "1s"
go_on = true
[[phase]]
name = "rest"
kind = "ramp"
length = "30s"
`), target)
	if n := r.Phases[0].Sessions; n < 1 || n > 30 || r.Phases[1].Sessions != 40 || r.Partial != "" {
		t.Errorf("%d sessions after the first ramp, %d after the second, %q", n, r.Phases[1].Sessions, r.Partial)
	}
	if a, b := stepOf(t, r, "some", "login").Done, stepOf(t, r, "rest", "login").Done; a+b != 40 || b < 10 {
		t.Errorf("%d and %d logins", a, b)
	}
}

// The run's own limit ends it, and the result says so.
func TestLimit(t *testing.T) {
	_, target := start(t, stub.Config{})
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	over := func(p result.Progress) {
		if p.Phase == "talk" { // whatever the ramp takes
			cancel(errors.New("the limit was over"))
		}
	}
	r, err := Run(ctx, talking(t, "1m", "1s", "100/s"), target, Options{Progress: over})
	if err != nil {
		t.Fatal(err)
	}
	if r.Sessions != 40 || r.Partial != "interrupted in phase talk: the limit was over" || r.Base == nil {
		t.Errorf("%d sessions, %q, base %v", r.Sessions, r.Partial, r.Base)
	}
}

// How often a run looks can be chosen.
func TestEvery(t *testing.T) {
	_, target := start(t, stub.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := 0
	r, err := Run(ctx, talking(t, "1m", "1s", "100/s"), target,
		Options{Interval: 10 * time.Millisecond, Progress: func(result.Progress) {
			if seen++; seen == 12 {
				cancel()
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.Samples); n < 10 || r.Samples[n-1].At > 6 { // ten of a second each take longer
		t.Errorf("%d samples in %v s", n, r.Seconds)
	}
}

// A scenario may say how keys are agreed on.
func TestKeyExchange(t *testing.T) {
	for name, want := range map[string]tls.CurveID{"X25519": tls.X25519, "P-256": tls.CurveP256,
		"X25519MLKEM768": tls.X25519MLKEM768} {
		_, target := start(t, stub.Config{})
		sc := scenario(t, fmt.Sprintf("[clients]\ncount=1\ntls='direct'\nkey_exchange='%s'\n[[phase]]\n"+
			"kind='ramp'\n", name))
		if r := run(t, sc, target); r.Sessions != 1 {
			t.Errorf("%s: %v", name, r.Refusals)
		}
		if cfg, err := target.tls(&sc.Clients); err != nil ||
			!slices.Equal(cfg.CurvePreferences, []tls.CurveID{want}) {
			t.Errorf("%s: %v, %v", name, cfg, err)
		}
	}
}

func TestServerUnreachable(t *testing.T) {
	s, target := start(t, stub.Config{})
	s.Close()
	_, err := Run(t.Context(), talking(t, "1s", "1s", "10/s"), target, Options{})
	if err == nil || !strings.Contains(err.Error(), "connection refused: is the server running") {
		t.Errorf("the error is %v", err)
	}
}

// An interrupt ends a run cleanly, with what was seen.
func TestInterrupt(t *testing.T) {
	s, target := start(t, stub.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	sc := talking(t, "1h", "1s", "500/s")
	r, err := Run(ctx, sc, target, Options{Progress: func(p result.Progress) {
		if p.Sample.Phase == "talk" && s.Stats().Routed >= 600 { // a second of it is sampled
			cancel()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Partial != "interrupted in phase talk" {
		t.Errorf("partial: %q", r.Partial)
	}
	if st := stepOf(t, r, "talk", "chat"); st.Done < 500 || len(r.Samples) == 0 {
		t.Errorf("%d came, %d samples", st.Done, len(r.Samples))
	}
}

// A server that drops connections is told of.
func TestLostSessions(t *testing.T) {
	s, target := start(t, stub.Config{})
	whenTalking(s, func() { s.Faults.Close(10) })
	r := run(t, talking(t, "2s", "1s", "200/s"), target)
	n := uint64(0)
	for _, x := range r.Refusals {
		if strings.HasPrefix(x.What, "the server closed a session") ||
			strings.HasPrefix(x.What, "the server reset") || strings.HasPrefix(x.What, "the server ended") {
			n += x.Count
		}
	}
	if n != 10 {
		t.Errorf("%d of 10 lost sessions were counted: %v", n, r.Refusals)
	}
}

// Every way to log in.
func TestLogins(t *testing.T) {
	for _, kind := range []string{"none", "starttls", "direct"} {
		for _, mechanism := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "PLAIN"} {
			for _, sasl2 := range []string{"off", "require"} {
				t.Run(kind+" "+mechanism+" "+sasl2, func(t *testing.T) {
					_, target := start(t, stub.Config{SASL2: sasl2 == "require", FAST: true})
					sc := scenario(t, fmt.Sprintf(`
name = "logins"
[clients]
count = 10
tls = %q
mechanism = %q
sasl2 = %q
[[phase]]
kind = "ramp"
[[phase]]
kind = "drain"
`, kind, mechanism, sasl2))
					r := run(t, sc, target)
					st := stepOf(t, r, "ramp", "login")
					if st.Done != 10 || st.Failed != 0 || r.Target.Mechanism != mechanism || r.Sessions != 10 {
						t.Errorf("%d logins, %d failed, by %s, %d sessions: %v", st.Done, st.Failed, r.Target.Mechanism,
							r.Sessions, r.Refusals)
					}
					if kind != "none" && stepOf(t, r, "ramp", "tls").Done != 10 {
						t.Error("handshakes were not counted")
					}
				})
			}
		}
	}
}

// With tokens, the second login shows one instead of the password.
func TestFAST(t *testing.T) {
	_, target := start(t, stub.Config{SASL2: true, FAST: true})
	sc := scenario(t, `
name = "fast"
[clients]
count = 10
tls = "direct"
fast = true
tickets = true
sasl2 = "require"
[[phase]]
kind = "ramp"
[[phase]]
kind = "storm"
`)
	r := run(t, sc, target)
	if st := stepOf(t, r, "storm", "login"); st.Done != 10 {
		t.Errorf("%d logins by token: %v", st.Done, r.Refusals)
	}
	// The first handshakes of all had no ticket yet; those of the storm had.
	if f, ok := r.Figure("tls.resumed"); !ok || f.Value < 10 {
		t.Errorf("%v handshakes were resumed", f.Value)
	}
	if r.Target.Mechanism != fastMechanism {
		t.Errorf("the last login was by %s", r.Target.Mechanism)
	}
}

// Without STARTTLS nothing goes on in clear (attack T11).
func TestAttackT11(t *testing.T) {
	_, target := start(t, stub.Config{})
	p := stripped(t, target.Addr.String())
	target.Addr = p.addr
	sc := talking(t, "1s", "1s", "10/s")
	sc.Clients.TLS = "starttls"
	_, err := Run(t.Context(), sc, target, Options{})
	if err == nil || !strings.Contains(err.Error(), "does not offer STARTTLS") {
		t.Errorf("the error is %v", err)
	}
	if said := p.said(); strings.Contains(said, "<auth") {
		t.Errorf("the client went on in clear: %s", said)
	}
}

// A server, or what stands between, that answers STARTTLS in any way but its own gets no byte in
// clear after it; the connection ends, with a reason (attack T11).
func TestAttackT11Answers(t *testing.T) {
	const (
		header = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' " +
			"xmlns:stream='http://etherx.jabber.org/streams' id='1' from='localhost' version='1.0'>"
		features = "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><mechanisms " +
			"xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>"
		proceed = "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
	)
	for _, c := range []struct{ name, first, then, why string }{
		{"failure", header + features, "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>",
			"the server refused STARTTLS"},
		{"proceed twice", header + features, proceed + proceed, "the server closed the connection"},
		{"success of SASL in place of proceed", header + features,
			"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", "the server refused STARTTLS"},
		{"a second header in place of proceed", header + features, header + features,
			"the server closed the connection (asking for TLS)"},
		{"features before the header", features, "", "the server closed the connection (waiting for features)"},
		{"mechanisms alone", header + "<stream:features><mechanisms " +
			"xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>", "",
			"does not offer STARTTLS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			type heard struct {
				text  string
				ended error
			}
			all := make(chan heard, 100)
			go func() {
				for {
					nc, err := ln.Accept()
					if err != nil {
						return
					}
					go func() {
						defer nc.Close()
						nc.SetDeadline(time.Now().Add(20 * time.Second))
						var h heard
						b := make([]byte, 4096)
						said := false
						for h.ended == nil {
							n, err := nc.Read(b)
							if h.text == "" && n > 0 {
								io.WriteString(nc, c.first)
							}
							h.text += string(b[:n])
							if !said && strings.Contains(h.text, "<starttls") {
								io.WriteString(nc, c.then)
								said = true
							}
							h.ended = err
							if strings.Contains(h.text, "\x16\x03") { // a ClientHello: nothing in clear can follow
								h.ended = io.EOF
							}
						}
						all <- h
					}()
				}
			}()
			sc := talking(t, "1s", "1s", "10/s")
			sc.Clients.TLS = "starttls"
			target := Target{Name: "liar", Addr: ln.Addr().(*net.TCPAddr).AddrPort(), Domain: "localhost",
				Password: "s3cret", Insecure: true}
			_, err = Run(t.Context(), sc, target, Options{})
			if err == nil || !strings.Contains(err.Error(), c.why) || strings.Contains(err.Error(), "\n") {
				t.Errorf("the error is %v, want %q", err, c.why)
			}
			var h heard
			select {
			case h = <-all:
			case <-time.After(30 * time.Second): // the deadline of a connection is over by then
				t.Fatal("no connection has ended")
			}
			if h.ended != io.EOF && !errors.Is(h.ended, unix.ECONNRESET) {
				t.Errorf("the connection did not end: %v", h.ended)
			}
			for _, bad := range []string{"<auth", "s3cret", "<iq", "<bind"} {
				if strings.Contains(h.text, bad) {
					t.Errorf("the client went on in clear: %q", h.text)
				}
			}
		})
	}
}

// All the things that clients do.
func TestActions(t *testing.T) {
	_, target := start(t, stub.Config{Archive: 120})
	sc := scenario(t, `
name = "day"
requires = ["muc", "mam"]
[clients]
count = 60
[[phase]]
kind = "ramp"
rate = "400/s"
[[phase]]
kind = "befriend"
stars = 2
friends = 20
[[phase]]
kind = "join"
rooms = 3
occupants = 20
in_flight = 4
[[phase]]
name = "day"
kind = "hold"
length = "1s"
  [[phase.do]]
  kind = "chat"
  partners = "zipf"
  rate = "300/s"
  arrivals = "poisson"
  [[phase.do]]
  kind = "presence"
  rate = "20/s"
  [[phase.do]]
  kind = "groupchat"
  rate = "30/s"
  [[phase.do]]
  kind = "roster"
  rate = "90/s"
  [[phase.do]]
  kind = "archive"
  rate = "30/s"
  page = 50
  [[phase.do]]
  kind = "ping"
  rate = "50/s"
[[phase]]
name = "crowd"
kind = "hold"
length = "1s"
  [[phase.do]]
  kind = "groupchat"
  window = 3
  [[phase.do]]
  kind = "chat"
  step = "ring"
  partners = "ring"
  window = 4
[[phase]]
kind = "drain"
`)
	r := run(t, sc, target)
	for _, c := range []struct {
		phase, step string
		expected    uint64
	}{
		{"ramp", "login", 60}, {"befriend", "subscribe", 40}, {"join", "join", 60}, {"day", "presence", 400},
		{"day", "groupchat", 600},
		{"day", "roster", 90}, {"day", "archive", 30}, {"day", "ping", 50},
	} {
		st := stepOf(t, r, c.phase, c.step)
		if st.Expected != c.expected || st.Done != c.expected || st.Failed+st.Lost+st.Duplicated+st.Reordered != 0 {
			t.Errorf("%s.%s: %d of %d expected came (want %d), %d failed, %d lost, %d duplicated, %d reordered",
				c.phase, c.step, st.Done, st.Expected, c.expected, st.Failed, st.Lost, st.Duplicated, st.Reordered)
		}
	}
	for _, name := range []string{"day.chat", "crowd.groupchat", "crowd.ring"} {
		phase, step, _ := strings.Cut(name, ".")
		if st := stepOf(t, r, phase, step); st.Done < 20 || st.Failed+st.Lost+st.Duplicated+st.Reordered != 0 {
			t.Errorf("%s: %d came, %d failed, %d lost, %d duplicated, %d reordered", name, st.Done, st.Failed,
				st.Lost, st.Duplicated, st.Reordered)
		}
	}
	if len(r.Refusals) > 0 {
		t.Errorf("refusals: %v", r.Refusals)
	}
}

// A subscription whose approval the server does not take has failed, and holds nothing up.
func TestBefriendRefused(t *testing.T) {
	s, target := start(t, stub.Config{})
	s.Faults.RefuseApprovals(5)
	r := run(t, scenario(t, `
[clients]
count = 60
[[phase]]
kind = "ramp"
[[phase]]
kind = "befriend"
stars = 2
friends = 20
length = "20s"
[[phase]]
kind = "drain"
`), target)
	st := stepOf(t, r, "befriend", "subscribe")
	if st.Done != 32 || st.Failed != 8 {
		t.Errorf("%d done, %d failed", st.Done, st.Failed)
	}
	if text := fmt.Sprint(r.Refusals); !strings.Contains(text, "resource-constraint") {
		t.Errorf("refusals: %s", text)
	}
}

func TestTargetNumber(t *testing.T) {
	target := Target{User: "u%dx", First: 7, Domain: "example.org"}
	for i := range 120 {
		if n, ok := target.number(target.name(i) + "@example.org"); !ok || int(n) != i {
			t.Errorf("client %d: %d, %t", i, n, ok)
		}
	}
	for _, bare := range []string{"", "@", "u@example.org", "ux@example.org", "u6x@example.org",
		"u07x@example.org", "u-7x@example.org", "u+7x@example.org",
		"u7@example.org", "7x@example.org", "u7x", "u7x@example.com", "u7x@example.org@",
		"u99999999999999999999x@example.org", "u4294967303x@example.org", "room@conference.example.org"} {
		if n, ok := target.number(bare); ok {
			t.Errorf("%q is client %d", bare, n)
		}
	}
}

// A scenario that the server can't serve says so, before anything else.
func TestNotOffered(t *testing.T) {
	_, target := start(t, stub.Config{})
	sc := talking(t, "1s", "1s", "10/s")
	sc.Clients.SM = true
	_, err := Run(t.Context(), sc, target, Options{})
	var not ErrNotOffered
	if !errors.As(err, &not) || not.Feature != "sm" {
		t.Errorf("the error is %v", err)
	}
}

// Several processes give what one gives.
func TestWorkers(t *testing.T) {
	_, target := start(t, stub.Config{})
	r, err := Run(t.Context(), talking(t, "1s", "5s", "1000/s"), target,
		Options{Processes: 3, Command: workerCommand(t)})
	if err != nil {
		t.Fatal(err)
	}
	st := stepOf(t, r, "talk", "chat")
	if r.Workers != 3 || r.Sessions != 40 || st.Done != st.Sent || st.Sent < 995 || st.Sent > 1001 ||
		st.Latency.Count() != int64(st.Done) {
		t.Errorf("%d workers, %d sessions, %d of %d came, %d latencies", r.Workers, r.Sessions, st.Done,
			st.Sent, st.Latency.Count())
	}
}

// A storm takes from when all were dropped until the last one is back: not the second in which
// others begin to chat.
func TestStormSeconds(t *testing.T) {
	_, target := start(t, stub.Config{})
	sc := scenario(t, `
name = "storm"
[[group]]
name = "calm"
count = 4
[[group]]
name = "crowd"
count = 300
[[phase]]
name = "ramp"
kind = "ramp"
[[phase]]
name = "storm"
kind = "storm"
group = ["crowd"]
  [[phase.do]]
  kind = "chat"
  group = "calm"
  rate = "100/s"
`)
	r := run(t, sc, target)
	took := -1.0
	for _, f := range r.Figures {
		if f.Name == "storm.seconds" {
			took = f.Value
		}
	}
	wall := r.Phases[1].To - r.Phases[1].From
	last := stepOf(t, r, "storm", "login").Latency.Max().Seconds()
	if took != last || took <= 0 || took > wall-.9 {
		t.Errorf("the storm took %.2f s, the last login %.2f, the phase %.2f", took, last, wall)
	}
}

// The clients of a group that is apart run in another process, and do their actions there.
func TestApart(t *testing.T) {
	_, target := start(t, stub.Config{})
	sc := scenario(t, `
name = "apart"
[[group]]
name = "here"
count = 10
[[group]]
name = "there"
count = 6
apart = true
[[phase]]
name = "ramp"
kind = "ramp"
[[phase]]
name = "talk"
kind = "hold"
length = "2s"
  [[phase.do]]
  kind = "chat"
  rate = "100/s"
  [[phase.do]]
  step = "beside"
  kind = "chat"
  group = "there"
  rate = "50/s"
`)
	for _, command := range [][]string{workerCommand(t), nil} {
		r, err := Run(t.Context(), sc, target, Options{Command: command})
		if err != nil {
			t.Fatal(err)
		}
		here, there := stepOf(t, r, "talk", "chat"), stepOf(t, r, "talk", "beside")
		if r.Sessions != 16 || here.Done != 200 || there.Done != 100 {
			t.Errorf("%d sessions; %d and %d messages came, not 200 and 100", r.Sessions, here.Done, there.Done)
		}
		if want := min(1+len(command), 2); r.Workers != want {
			t.Errorf("%d workers, not %d", r.Workers, want)
		}
	}
	f, err := NewFleet(sc, target, Assignment{0, 1, OtherGroups}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n := len(f.members("there")); n != 0 || len(f.clients) != 10 {
		t.Errorf("%d of %d clients here are to be apart", n, len(f.clients))
	}
}

// What is to give way runs at idle priority, and the process that starts it does not.
func TestGivingWay(t *testing.T) {
	var out strings.Builder
	cmd := exec.Command("cat", "/proc/self/stat")
	cmd.Stdout = &out
	if err := startIdle(cmd.Start); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if f := strings.Fields(out.String()); len(f) < 41 || f[40] != "5" { // proc(5): policy; 5 is SCHED_IDLE
		t.Errorf("its policy is not SCHED_IDLE: %q", out.String())
	}
	if a, err := unix.SchedGetAttr(0, 0); err != nil || a.Policy != unix.SCHED_NORMAL {
		t.Errorf("this thread's is %v, %v", a, err)
	}
	if err := startIdle(func() error { return os.ErrNotExist }); err != os.ErrNotExist {
		t.Errorf("an error of the start is %v", err)
	}
}

// When the client itself is late, that is in the latencies, too: they count from when a message was
// meant to be sent, whenever it was. And the lag says whose fault it was.
func TestLatencyCountsFromTheIntendedTime(t *testing.T) {
	_, target := start(t, stub.Config{})
	sc := talking(t, "2s", "10s", "1000/s")
	f, err := NewFleet(sc, target, Assignment{Workers: 1}, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Phase(t.Context(), 0, Assignment{Workers: 1}); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(time.Second, func() {
		for _, ls := range f.loops {
			ls.loop.Post(func() { time.Sleep(400 * time.Millisecond) })
		}
	})
	if err := f.Phase(t.Context(), 1, Assignment{Workers: 1}); err != nil {
		t.Fatal(err)
	}
	id := f.actionStep(1, 0)
	all := newTotal()
	for all.add(f.Collect()); all.missing(func(n uint16) bool { return n >= id }) > 0; all.add(f.Collect()) {
		time.Sleep(10 * time.Millisecond)
	}
	y := all.steps[id]
	if y.Sent != 2000 || y.Done != 2000 {
		t.Errorf("%d sent, %d came", y.Sent, y.Done)
	}
	// Of some 400 that were meant to go out meanwhile, those of the first 300 ms waited for 100 ms and more.
	if n := y.Latency.Over(100 * time.Millisecond); n < 270 {
		t.Errorf("%d latencies show that the client stood still for 400 ms", n)
	}
	if n := y.Lag.Over(100 * time.Millisecond); n < 270 {
		t.Errorf("%d lags show it", n)
	}
}
