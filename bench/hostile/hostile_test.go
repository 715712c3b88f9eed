package hostile

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"canto/bench/stub"
)

func TestKinds(t *testing.T) {
	for _, name := range Kinds() {
		if about, rows := About(name); about == "" || len(rows) == 0 {
			t.Errorf("%s says nothing of itself", name)
		}
		if _, err := Start(t.Context(), name, Config{Domain: "localhost", Connections: 1}); err == nil ||
			!strings.Contains(err.Error(), "address") {
			t.Errorf("%s without an address: %v", name, err)
		}
	}
	_, err := Start(t.Context(), "nonsense", Config{})
	if err == nil || !strings.Contains(err.Error(), strings.Join(Kinds(), ", ")) {
		t.Errorf("an unknown attack: %v", err)
	}
}

func config(s *stub.Server, connections int) Config {
	return Config{Addr: s.Addr(), Direct: s.DirectAddr(), Domain: "localhost", Connections: connections,
		First: 2,
		User:  func(i int) string { return fmt.Sprint("bench", 100+i) }, Password: "bench"}
}

// await waits for what is about to come true.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			buf := make([]byte, 64<<10)
			t.Fatalf("never: %s\n%s", what, buf[:runtime.Stack(buf, true)])
		}
	}
}

// Each attack does what it can by each way to log in, has no failures of its own, and leaves no goroutine.
func TestAttacks(t *testing.T) {
	for _, name := range Kinds() {
		for _, way := range []string{"none", "starttls", "direct"} {
			t.Run(name+" "+way, func(t *testing.T) {
				s, err := stub.Start(stub.Config{RequireTLS: way == "starttls"})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				before := runtime.NumGoroutine()
				cfg := config(s, 24)
				cfg.TLS = way
				a, err := Start(t.Context(), name, cfg)
				if err != nil {
					t.Fatal(err)
				}
				in := slices.Contains([]string{"xml", "slowreader", "presence"}, name)
				await(t, "it does much", func() bool {
					return a.attempts.Load() > 60 && (!in || a.sessions.Load() > 4) &&
						(name == "slowreader" || name == "presence" || a.refused.Load() > 4 || name == "halfopen")
				})
				time.Sleep(100 * time.Millisecond)
				began := time.Now()
				st := a.Stop()
				if d := time.Since(began); d > 2*time.Second {
					t.Errorf("stopping took %v", d)
				}
				if st.Attempts == 0 || st.Bytes == 0 || st.Failed > 0 || st.Err != nil {
					t.Errorf("it did %+v", st)
				}
				if again := a.Stop(); again != st {
					t.Errorf("and then %+v", again)
				}
				await(t, "the server has no connection left", func() bool { return s.Stats().Connections == 0 })
				await(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
				if in != (st.Sessions > 0) && name != "keyupdate" {
					t.Errorf("%d sessions", st.Sessions)
				}
			})
		}
	}
}

// The end of its context ends an attack.
func TestContext(t *testing.T) {
	s, err := stub.Start(stub.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	a, err := Start(ctx, "halfopen", config(s, 24))
	if err != nil {
		t.Fatal(err)
	}
	await(t, "it begins", func() bool { return s.Stats().Connections >= 12 })
	cancel()
	await(t, "the server has no connection left", func() bool { return s.Stats().Connections == 0 })
	a.Stop()
}

// The rate is a bound, and much of it is used.
func TestRate(t *testing.T) {
	s, err := stub.Start(stub.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cfg := config(s, 20)
	cfg.Rate = 100
	began := time.Now()
	a, err := Start(t.Context(), "halfopen", cfg)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "it makes its attempts", func() bool { return s.Stats().Accepted >= 50 })
	st := a.Stop()
	if most := 100*time.Since(began).Seconds() + 10; float64(st.Attempts) > most ||
		float64(st.Attempts) < most/10 {
		t.Errorf("%d attempts in %v at 100 a second", st.Attempts, time.Since(began))
	}
}

// That attackers have no accounts, or that there is no server, is no success.
func TestTrouble(t *testing.T) {
	s, err := stub.Start(stub.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cfg := config(s, 2)
	cfg.Password = "wrong"
	a, err := Start(t.Context(), "presence", cfg)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "it can't log in", func() bool { return a.failed.Load() > 0 })
	if st := a.Stop(); st.Err == nil || !strings.Contains(st.Err.Error(), "not-authorized") ||
		strings.Contains(st.Err.Error(), "\n") || st.Sessions > 0 {
		t.Errorf("without accounts: %+v", st)
	}
	s.Close()
	if a, err = Start(t.Context(), "halfopen", cfg); err != nil {
		t.Fatal(err)
	}
	await(t, "no server answers", func() bool { return a.refused.Load() > 1 })
	if st := a.Stop(); st.Refused < 2 || st.Err != nil {
		t.Errorf("without a server: %+v", st)
	}
}

// A server that accepts a wrong password is reported: that is what the attack is for.
func TestLetIn(t *testing.T) {
	s, err := stub.Start(stub.Config{Mechanisms: []string{"PLAIN"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a, err := Start(t.Context(), "login", config(s, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Stop()
	x, err := (&attacker{a: a, i: 1}).openStream("none")
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if err := x.loginAtOnce("PLAIN", encode("\x00bench1\x00wrong")); err != nil || a.refused.Load() != 1 {
		t.Errorf("a wrong password: %v, %d refused", err, a.refused.Load())
	}
	if err := x.loginAtOnce("PLAIN", encode("\x00bench1\x00bench")); err == nil ||
		!strings.Contains(err.Error(), "accepted a wrong password") {
		t.Errorf("the right password: %v", err)
	}
}
