package bench

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"canto/bench/hostile"
	"canto/bench/stub"
)

// There is a scenario for each attack, which names it, and it has accounts for the attackers.
func TestHostileScenarios(t *testing.T) {
	for _, kind := range hostile.Kinds() {
		file := filepath.Join("scenarios", Hostile+kind+".toml")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sc, err := Parse(file, text)
		if err != nil {
			t.Fatal(err)
		}
		a := sc.Phases[2].Do[1]
		if sc.Name != Hostile+kind || a.Kind != sc.Name || sc.Accounts() != 1000+a.Count {
			t.Errorf("%s: %s, %s, %d accounts", file, sc.Name, a.Kind, sc.Accounts())
		}
		_, rows := hostile.About(kind)
		if want := "# Rows of the list of attacks: " + strings.Join(rows, ", ") +
			"."; !strings.Contains(string(text), want) {
			t.Errorf("%s does not say %q", file, want)
		}
	}
}

func TestUnknownAttack(t *testing.T) {
	_, err := Parse("x.toml", fmt.Appendf(nil, beside, 1, "nonsense", 3))
	if err == nil || !strings.Contains(err.Error(), strings.Join(hostile.Kinds(), ", ")) ||
		strings.Contains(err.Error(), "\n") {
		t.Errorf("the error is %v", err)
	}
	if _, err = Parse("x.toml", fmt.Appendf(nil, beside, 1, "login", 1000000)); err == nil ||
		!strings.Contains(err.Error(), "count") {
		t.Errorf("the error is %v", err)
	}
}

const beside = `
name = "beside"
[clients]
count = 20
[[phase]]
kind = "ramp"
[[phase]]
name = "hostile"
kind = "hold"
length = "%ds"
  [[phase.do]]
  kind = "chat"
  rate = "200/s"
  [[phase.do]]
  kind = "hostile-%s"
  count = %d
[[phase]]
kind = "drain"
`

// Attackers have accounts of their own, after those of the clients, and others in each process.
func TestAttackersAccounts(t *testing.T) {
	_, target := start(t, stub.Config{})
	target.First = 7
	sc := scenario(t, fmt.Sprintf(beside, 1, "login", 10))
	sc.Phases[1].Do[1].Rate = 100
	next := 0
	for w := range 3 {
		f, err := NewFleet(sc, target, Assignment{Worker: w, Workers: 3}, 1)
		if err != nil {
			t.Fatal(err)
		}
		c := f.attackConfig(&sc.Phases[1].Do[1], Assignment{Worker: w, Workers: 3})
		f.Close()
		if c.First != next || c.Accounts != 10 || c.User(0) != "bench27" || c.User(9) != "bench36" ||
			c.Rate != float64(10*c.Connections) {
			t.Errorf("process %d: %d from %d, %s to %s, %g a second", w, c.Connections, c.First, c.User(0),
				c.User(9), c.Rate)
		}
		next += c.Connections
	}
	if next != 10 || sc.Accounts() != 30 {
		t.Errorf("%d attackers, %d accounts", next, sc.Accounts())
	}
}

// What attackers did is in the result, and the others are not harmed by a small attack.
func TestBesideAnAttack(t *testing.T) {
	for _, kind := range []string{"presence", "login"} {
		t.Run(kind, func(t *testing.T) {
			_, target := start(t, stub.Config{})
			r := run(t, scenario(t, fmt.Sprintf(beside, 1, kind, 4)), target)
			st := stepOf(t, r, "hostile", "hostile-"+kind)
			if st.Sent < 20 || kind == "login" && st.Failed == 0 || st.Lost > 0 || st.Done > 0 {
				t.Errorf("the attack did %d things, of which %d were refused; %d done, %d lost", st.Sent, st.Failed,
					st.Done, st.Lost)
			}
			if st := stepOf(t, r, "hostile", "chat"); st.Done != 200 || st.Lost+st.Failed > 0 {
				t.Errorf("%d messages came, %d lost, %d failed", st.Done, st.Lost, st.Failed)
			}
			if len(r.Refusals) > 0 {
				t.Errorf("refusals: %v", r.Refusals)
			}
		})
	}
}

// An attack that can't do what it should shows no defence of the server's: the result says so.
func TestAttackInTrouble(t *testing.T) {
	_, target := start(t, stub.Config{})
	target.Addr = stripped(t, target.Addr.String()).addr
	target.Direct = netip.AddrPort{}
	r := run(t, scenario(t, fmt.Sprintf(beside, 1, "keyupdate", 2)), target)
	if len(r.Refusals) != 1 || !strings.Contains(r.Refusals[0].What,
		"keyupdate had trouble of its own: the server offers no STARTTLS") || r.Refusals[0].Count == 0 {
		t.Errorf("refusals: %v", r.Refusals)
	}
}
