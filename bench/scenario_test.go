package bench

import (
	"strings"
	"testing"
	"time"
)

// What can't be run is said in one line, with its place where there is one.
func TestScenarioMistakes(t *testing.T) {
	phase := "[clients]\ncount = 10\n[[phase]]\nkind = 'hold'\nlength = '1s'\n"
	for text, want := range map[string]string{
		"[clients]\ncount=1":                                                                     "no [[phase]]",
		"[[phase]]\nkind='ramp'":                                                                 `group "all" has no clients`,
		"[clients]\ncount=1\n[[phase]]\nkind='jump'":                                             `kind is "jump": one of ramp, hold`,
		"[clients]\ncount=1\n[[phase]]\nkind='hold'":                                             "a hold needs a length",
		"[clients]\ncount=1\ntls='ssl'\n[[phase]]\nkind='ramp'":                                  `clients.tls is "ssl"`,
		"[clients]\ncount=1\nmechanism='DIGEST-MD5'\n[[phase]]\nkind='ramp'":                     `clients.mechanism is "DIGEST-MD5"`,
		"[clients]\ncount=1\nkey_exchange='RSA'\n[[phase]]\nkind='ramp'":                         `clients.key_exchange is "RSA"`,
		"[clients]\ncount=1\n[[phase]]\nkind='storm'\ngo_on=true":                                "go_on is for a ramp",
		"[clients]\ncount=1\n[[phase]]\nkind='ramp'\n[[phase]]\nkind='ramp'":                     "phase 2 needs a name of its own",
		"[clients]\ncount=1\n[[phase]]\nkind='ramp'\nrate='fast'":                                `:5: `,
		"[clients]\ncount=1\n[[phase]]\nkind='ramp'\ngroup=['x']":                                `there is no group "x"`,
		"requires=['omemo']\n[clients]\ncount=1\n[[phase]]\nkind='ramp'":                         `requires has "omemo"`,
		"[clients]\ncount=1\n[[phase]]\nkind='join'":                                             "how many rooms and occupants",
		"[clients]\ncount=1\n[[phase]]\nkind='befriend'":                                         "how many friends",
		"[clients]\ncount=1\n[[phase]]\nkind='storm'\nshare=2.0":                                 "share is 2",
		phase + "[[phase.do]]\nkind='chat'":                                                      "needs a rate (open loop), or a window",
		phase + "[[phase.do]]\nkind='chat'\nrate='1/s'\nwindow=2":                                "needs a rate (open loop), or a window",
		phase + "[[phase.do]]\nkind='dance'\nrate='1/s'":                                         `is "dance": one of chat`,
		phase + "[[phase.do]]\nkind='hostile-x'":                                                 "hostile-x",
		"[[group]]\nname='a'\ncount=2\napart=true\n[[phase]]\nkind='join'\nrooms=1\noccupants=2": "group \"a\" is apart: it can't join others",
		"[[group]]\nname='a'\ncount=2\napart=true\n[[group]]\nname='b'\ncount=2\n[[phase]]\nkind='hold'\nlength='1s'\n[[phase.do]]\nkind='chat'\nrate='1/s'\nto='b'": "one is apart",
		phase + "[[phase.do]]\nkind='chat'\nrate='1/s'\nto='x'":                                `there is no group "x" to send to`,
		phase + "[[phase.do]]\nkind='chat'\nrate='1/s'\nbody=70000":                            "from 0 to 60,000",
		phase + "[[phase.do]]\nkind='chat'\nrate='1/s'\n[[phase.do]]\nkind='chat'\nrate='1/s'": `"chat" needs a step of its own`,
	} {
		_, err := Parse("x.toml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "x.toml") {
			t.Errorf("%q: %v\nwant %s", text, err, want)
		}
	}
}

// Changes keep shares and proportions, and a changed scenario's source is the one that was run.
func TestChange(t *testing.T) {
	s, err := Parse("x.toml", []byte(`
name = "x"
[[group]]
name = "a"
count = 900
[[group]]
name = "b"
count = 100
[[phase]]
kind = "ramp"
rate = "30/m"
[[phase]]
kind = "hold"
length = "1m"
[[phase.do]]
kind = "chat"
rate = "100/s"
rate_to = "200/s"
`))
	if err != nil {
		t.Fatal(err)
	}
	if src := s.Source(); !strings.Contains(src, `rate = "30/m"`) {
		t.Errorf("the source of a scenario that was not changed is\n%s", src)
	}
	if err := s.Change(Changes{Clients: 500, Rates: 2, Length: Span(3 * time.Second), TLS: "direct", SM: true}); err != nil {
		t.Fatal(err)
	}
	again, err := Parse("again.toml", []byte(s.Source()))
	if err != nil {
		t.Fatalf("%v\n%s", err, s.Source())
	}
	for _, x := range []*Scenario{s, again} {
		a := x.Phases[1].Do[0]
		if x.Groups[0].Count != 450 || x.Groups[1].Count != 50 || x.Clients.Count != 500 || x.Phases[0].Rate != 1 || a.Rate != 200 || a.RateTo != 400 ||
			time.Duration(x.Phases[1].Length) != 3*time.Second || x.Clients.TLS != "direct" || !x.Clients.SM {
			t.Errorf("%+v", x)
		}
	}
}

// No file that anybody writes ends the program.
func FuzzScenario(f *testing.F) {
	for _, n := range Scenarios() {
		s, err := Find(n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s.Source())
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse("fuzz.toml", []byte(text))
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %q", err)
			}
			return
		}
		if len(s.Phases) > 1000 {
			return
		}
		if steps, first := plan(s); len(first) != len(s.Phases)+1 || int(first[len(first)-1]) != len(steps) {
			t.Errorf("%d steps, %d phases: %v", len(steps), len(s.Phases), first)
		}
	})
}
