package bench

import (
	"strings"
	"testing"
	"time"
)

// What can't be run is said in one line, with its place where there is one.
func TestScenarioMistakes(t *testing.T) {
	phase := "[clients]\ncount = 10\n[[phase]]\nkind = 'hold'\nlength = '1s'\n"
	for _, c := range []struct{ text, want string }{
		{"[clients]\ncount=1", "no [[phase]]"},
		{"[[phase]]\nkind='ramp'", `group "all" has no clients`},
		{"[clients]\ncount=1\n[[phase]]\nkind='jump'", `kind is "jump": one of ramp, hold`},
		{"[clients]\ncount=1\n[[phase]]\nkind='hold'", "a hold needs a length"},
		{"[clients]\ncount=1\ntls='ssl'\n[[phase]]\nkind='ramp'", `clients.tls is "ssl"`},
		{"[clients]\ncount=1\nmechanism='DIGEST-MD5'\n[[phase]]\nkind='ramp'", `clients.mechanism is "DIGEST-MD5"`},
		{"[clients]\ncount=1\nkey_exchange='RSA'\n[[phase]]\nkind='ramp'", `clients.key_exchange is "RSA"`},
		{"[clients]\ncount=1\n[[phase]]\nkind='storm'\ngo_on=true", "go_on is for a ramp"},
		{"[clients]\ncount=1\n[[phase]]\nkind='ramp'\n[[phase]]\nkind='ramp'", "phase 2 needs a name of its own"},
		{"[clients]\ncount=1\n[[phase]]\nkind='ramp'\nrate='fast'", `:5: `},
		{"[clients]\ncount=1\n[[phase]]\nkind='ramp'\ngroup=['x']", `there is no group "x"`},
		{"requires=['omemo']\n[clients]\ncount=1\n[[phase]]\nkind='ramp'", `requires has "omemo"`},
		{"[clients]\ncount=1\n[[phase]]\nkind='join'", "how many rooms and occupants"},
		{"[clients]\ncount=1\n[[phase]]\nkind='befriend'", "how many friends"},
		{"[clients]\ncount=1\n[[phase]]\nkind='storm'\nshare=2.0",
			"x.toml:5: share = 2.0: it is from 0.000001 to 1"},
		{phase + "[[phase.do]]\nkind='chat'", "needs a rate (open loop), or a window"},
		{phase + "[[phase.do]]\nkind='chat'\nrate='1/s'\nwindow=2", "needs a rate (open loop), or a window"},
		{phase + "[[phase.do]]\nkind='dance'\nrate='1/s'", `is "dance": one of chat`},
		{phase + "[[phase.do]]\nkind='hostile-x'", "hostile-x"},
		{"[[group]]\nname='a'\ncount=2\napart=true\n[[phase]]\nkind='join'\nrooms=1\noccupants=2",
			"group \"a\" is apart: it can't join others"},
		{"[[group]]\nname='a'\ncount=2\napart=true\n[[group]]\nname='b'\ncount=2\n[[phase]]\nkind='hold'\n" +
			"length='1s'\n[[phase.do]]\nkind='chat'\nrate='1/s'\nto='b'", "one is apart"},
		{phase + "[[phase.do]]\nkind='chat'\nrate='1/s'\nto='x'", `there is no group "x" to send to`},
		{phase + "[[phase.do]]\nkind='chat'\nrate='1/s'\nbody=70000",
			"x.toml:9: body = 70000: it is from 1 to 60000"},
		{phase + "[[phase.do]]\nkind='chat'\nrate='1/s'\n[[phase.do]]\nkind='chat'\nrate='1/s'",
			`"chat" needs a step of its own`},
	} {
		text, want := c.text, c.want
		_, err := Parse("x.toml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") ||
			!strings.HasPrefix(err.Error(), "x.toml") {
			t.Errorf("%q: %v\nwant %s", text, err, want)
		}
	}
}

// What a file says is used or refused, at its line: a 0 is not taken for nothing written, and
// shares are of a whole.
func TestScenarioRefusesAbsurdValues(t *testing.T) {
	phase := "[clients]\ncount = 10\n[[phase]]\nkind = 'hold'\nlength = '1s'\n"
	do := phase + "[[phase.do]]\nkind = 'chat'\nrate = '1/s'\n"
	for _, c := range []struct{ text, want string }{
		{"[clients]\ncount = 0\n[[phase]]\nkind='ramp'", "x.toml:2: count = 0: it is 1 or more"},
		{"[clients]\ncount = -5\n[[phase]]\nkind='ramp'", "x.toml:2: count = -5: it is 1 or more"},
		{"[clients]\ncount = 1\ntimeout = '0s'\n[[phase]]\nkind='ramp'",
			"x.toml:3: timeout = 0s: it is 1ms or more"},
		{"[clients]\ncount = 1\n[[phase]]\nkind='ramp'\nlength='0s'", "x.toml:5: length = 0s: it is 1ms or more"},
		{"[clients]\ncount = 1\n[[phase]]\nkind='ramp'\nin_flight=0", "x.toml:5: in_flight = 0: it is 1 or more"},
		{"[clients]\ncount = 1\n[[phase]]\nkind='ramp'\nin_flight=-3", "x.toml:5: in_flight = -3: it is 1 or more"},
		{"[clients]\ncount = 1\n[[phase]]\nkind='ramp'\nrate='0/s'", "x.toml:5: rate = 0/s: it is 1/h or more"},
		{"[clients]\ncount = 1\n[[phase]]\nkind='storm'\nshare=0", "x.toml:5: share = 0: it is from"},
		{"[clients]\ncount = 1\n[[phase]]\nkind='storm'\nshare=nan", "x.toml:5: share = nan: it is from"},
		{phase + "grace = '0s'", "x.toml:6: grace = 0s: it is 1ms or more"},
		{do + "body = 0", "x.toml:9: body = 0: it is from 1"},
		{do + "late = '0s'", "x.toml:9: late = 0s: it is 1us or more"},
		{do + "page = 0", "x.toml:9: page = 0: it is 1 or more"},
		{do + "window = -1", "x.toml:9: window = -1: it is 1 or more"},
		{do + "rate_to = '0/s'", "x.toml:9: rate_to = 0/s: it is 1/h or more"},
		{do + "zipf = 0", "x.toml:9: zipf = 0: it is 1.01 or more"},
		{do + "stars = -1", "x.toml:9: stars = -1: it is 0 or more"},
		{do + "arrivals = 'odd'", "x.toml:9: phase \"hold\": \"chat\": arrivals is"},
		{do + "[[phase]]\nkind = 'jump'\nname = 'leap'", "x.toml:10: phase \"leap\": kind is \"jump\""},
		{phase + "do = [{kind = 'chat', rate = '1/s', body = 0}]", "x.toml:6: body = 0: it is from 1"},
		{"[clients]\ncount = 10\n[[group]]\nname = 'a'\nshare = 0.9\n[[group]]\nname = 'b'\nshare = 0.9\n" +
			"[[phase]]\nkind='ramp'", "x.toml:3: the shares of the groups are 1.8 together"},
		{"[clients]\ncount = 10\n[[group]]\nname = 'a'\nshare = 0.4\n[[group]]\nname = 'b'\nshare = 0.4\n" +
			"[[phase]]\nkind='ramp'", "x.toml:3: the shares of the groups are 0.8 together"},
		{"[clients]\ncount = 10\n[[group]]\nname = 'a'\nshare = 1.0\ncount = 3\n[[phase]]\nkind='ramp'",
			"x.toml:5: group \"a\" has a share and a count"},
		{"[clients]\ncount = 10\n[[group]]\nname = 'a'\ncount = 3\n[[phase]]\nkind='ramp'",
			"x.toml:2: clients.count is 10, and the groups have 3"},
		{"[clients]\ncount = 10\n[[group]]\nname = 'a'\nshare = -0.5\n[[phase]]\nkind='ramp'",
			"x.toml:5: share = -0.5: it is from"},
		{"[clients]\ncount = 1\n[[group]]\nname = 'a'\nshare = 0.999\n[[group]]\nname = 'b'\nshare = 0.001\n" +
			"[[phase]]\nkind='ramp'", "x.toml:6: group \"b\" has no clients"},
		{"[clients]\ncount = 10\n[[phase]]\nkind='ramp'\n[[phase]]\nkind='hold'\nlength='1s'\n[[phase.do]]\n" +
			"kind='chat'\nrate='1/s'\nto='x'", "x.toml:11: phase \"hold\": \"chat\": there is no group \"x\""},
	} {
		text, want := c.text, c.want
		_, err := Parse("x.toml", []byte(text))
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v\nwant %s", text, err, want)
		}
	}
}

// What means nothing to a kind of phase or action is refused at its line, and so are groups that
// don't add up.
func TestScenarioRefusesWhatMeansNothing(t *testing.T) {
	clients := "[clients]\ncount = 10\n"
	twoGroups := "[[group]]\nname='a'\ncount=2\n[[group]]\nname='b'\ncount=2\n"
	second := "[[group]]\nname='a'\ncount=2\n[[group]]\nname='b'\n"
	secondChat := second + "of='a'\n[[phase]]\nkind='hold'\nlength='1s'\ngroup=['a']\n[[phase.do]]\n" +
		"kind='chat'\n"
	phase := clients + "[[phase]]\nkind = 'hold'\nlength = '1s'\n[[phase.do]]\n"
	for _, c := range []struct{ text, want string }{
		{clients + "[[phase]]\nkind='settle'\nlength='1s'\nrate='5/s'",
			"x.toml:6: phase \"settle\": rate is for a ramp or a storm"},
		{clients + "[[phase]]\nkind='settle'\nlength='1s'\nrooms=3",
			"x.toml:6: phase \"settle\": rooms is for a join"},
		{clients + "[[phase]]\nkind='befriend'\ngrace='1s'",
			"x.toml:5: phase \"befriend\": grace is for a hold or a ramp"},
		{clients + "[[phase]]\nkind='ramp'\nshare=0.5", "x.toml:5: phase \"ramp\": share is for a storm"},
		{clients + "[[phase]]\nkind='ramp'\ngentle=true", "x.toml:5: phase \"ramp\": gentle is for a storm"},
		{clients + "[[phase]]\nkind='join'\nrooms=1\noccupants=2\nrate='1/s'",
			"x.toml:7: phase \"join\": rate is for a ramp or a storm"},
		{clients + "[[phase]]\nkind='ramp'\nrate='1/s'\nin_flight=5",
			"x.toml:6: phase \"ramp\" has a rate (open loop), and in_flight"},
		{clients + "[[phase]]\nkind='storm'\nshare=0.01",
			"x.toml:5: phase \"storm\": a share of 0.01 is none of 10 clients"},
		{clients + "[[phase]]\nkind='befriend'\nstars=1\nfriends=10",
			"x.toml:6: phase \"befriend\": a star needs 10 friends, and there are 9 other clients"},
		{clients + "[[phase]]\nkind='join'\nrooms=4\noccupants=3",
			"x.toml:5: phase \"join\": 4 rooms of 3 are more than 10 clients"},
		{clients + "[[phase]]\nkind='ramp'\nrate='inf/s'", "x.toml:5: "},
		{clients + "[[phase]]\nkind='ramp'\nrate='1e300/s'", "x.toml:5: "},
		{clients + "resume=true\n[[phase]]\nkind='ramp'",
			"x.toml:3: clients.resume is for sessions with stream management: sm = true"},
		{clients + "sm=true\n[[phase]]\nkind='sm'",
			"x.toml:5: phase \"sm\": with clients.sm, stream management is on already"},
		{clients + "[[phase]]\nkind='cut'\noff=true", "x.toml:5: phase \"cut\": off is for a carbons or a csi"},
		{clients + "[[phase]]\nkind='restart'\nrate='1/s'", "x.toml:5: phase \"restart\": rate is for a ramp"},
		{twoGroups + "[[phase]]\nkind='befriend'\nto='b'",
			"x.toml:9: phase \"befriend\": to is \"b\": it is the group of the subscribers"},
		{twoGroups + "[[phase]]\nkind='befriend'\ngroup=['a']\nto='b'\nstars=1",
			"x.toml:11: phase \"befriend\": with to, each client has subscribers"},
		{phase + "kind='presence'\nrate='1/s'\nheld=true",
			"x.toml:9: phase \"hold\": \"presence\": no csi with off comes after it"},
		{phase + "kind='chat'\nrate='1/s'\nheld=true", "x.toml:9: phase \"hold\": \"chat\" does not use held"},
		{phase + "kind='slow'\nrate='1/s'", "x.toml:8: phase \"hold\": \"slow\" does not use rate"},
		{phase + "kind='flood'\nwindow=3", "x.toml:8: phase \"hold\": \"flood\" does not use window"},
		{phase + "kind='chat'\nwindow=3\nrate_to='9/s'", "x.toml:9: phase \"hold\": \"chat\" does not use rate_to"},
		{phase + "kind='chat'\nwindow=3\narrivals='poisson'",
			"x.toml:9: phase \"hold\": \"chat\" does not use arrivals"},
		{phase + "kind='chat'\nrate='1/s'\nzipf=1.5", "x.toml:9: phase \"hold\": \"chat\" does not use zipf"},
		{phase + "kind='ping'\nrate='1/s'\nbody=9", "x.toml:9: phase \"hold\": \"ping\" does not use body"},
		{phase + "kind='ping'\nrate='1/s'\npage=9", "x.toml:9: phase \"hold\": \"ping\" does not use page"},
		{phase + "kind='chat'\nrate='1/s'\ncount=9", "x.toml:9: phase \"hold\": \"chat\" does not use count"},
		{phase + "kind='hostile-login'\nwindow=9", "x.toml:8: phase \"hold\": \"hostile-login\" does not " +
			"use window"},
		{clients + "[[phase]]\nkind='ramp'\nrows=3", "x.toml:5: phase \"ramp\": rows is for a fill"},
		{clients + "[[phase]]\nkind='ramp'\naway=true", "x.toml:5: phase \"ramp\": away is for a fill"},
		{clients + "[[phase]]\nkind='drain'\nrounds=2", "x.toml:5: phase \"drain\": rounds is for a ramp"},
		{clients + "[[phase]]\nkind='ramp'\n[[phase]]\nkind='hold'\nlength='1s'\nbase='ramp'",
			"x.toml:8: phase \"hold\": there is no hold \"ramp\" before it"},
		{clients + "[[phase]]\nkind='fill'\nrows=3", "x.toml:3: phase \"fill\": to is \"\": it is the group that"},
		{clients + "[[phase]]\nkind='fill'\nrows=3\nto='all'",
			"x.toml:6: phase \"fill\": to is \"all\": it is the"},
		{twoGroups + "[[phase]]\nkind='fill'\ngroup=['a']\nto='b'", "x.toml:7: phase \"fill\": how many rows?"},
		{twoGroups + "[[phase]]\nkind='fill'\ngroup=['a']\nto='b'\nrows=3\naway=true",
			"x.toml:12: phase \"fill\": no ramp after it logs \"b\" in and has a grace"},
		{phase + "kind='archive'\nrate='1/s'\npages='all'",
			"x.toml:9: phase \"hold\": \"archive\": pages is \"all\": one of walk, last"},
		{phase + "kind='ping'\nrate='1/s'\npages='walk'", "x.toml:9: phase \"hold\": \"ping\" does not use pages"},
		{phase + "kind='chat'\nrate='1/s'\naway=true", "x.toml:9: phase \"hold\": \"chat\" does not use away"},
		{phase + "kind='chat'\nrate='1/s'\nto='all'\npushed=true",
			"x.toml:10: phase \"hold\": \"chat\" does not use pushed"},
		{phase + "kind='chat'\nrate='1/s'\nto='all'\naway=true\n[[phase]]\nkind='ramp'",
			"x.toml:10: phase \"hold\": \"chat\": no ramp after it logs \"all\" in and has a grace"},
		{phase + "kind='chat'\nrate='1/s'\nto='all'\naway=true\npushed=true\n[[phase]]\nkind='ramp'\n" +
			"grace='1s'",
			"x.toml:11: phase \"hold\": \"chat\": no phase of kind push before it registers \"all\""},
		{clients + "[[phase]]\nkind='push'", "x.toml:3: phase \"push\": to is \"\": it is the group of the app"},
		{clients + "[[phase]]\nkind='push'\nto='all'", "x.toml:5: phase \"push\": to is \"all\": it is the group"},
		{clients + "[[phase]]\nkind='ramp'\nto='all'", "x.toml:5: phase \"ramp\": to is for a push"},
		{clients + "[[phase]]\nkind='ramp'\noff=true", "x.toml:5: phase \"ramp\": off is for a carbons"},
		{clients + "[[phase]]\nkind='drain'\nbase='drain'",
			"x.toml:5: phase \"drain\": base is for a hold or a ramp"},
		{clients + "[[phase]]\nkind='hold'\nlength='1s'\nbase='hold'",
			"x.toml:6: phase \"hold\": there is no hold \"hold\" before it"},
		{phase + "kind='ping'\nrate='1/s'\ncopies='all'",
			"x.toml:9: phase \"hold\": \"ping\": copies is \"all\": "},
		{phase + "kind='chat'\nrate='1/s'\ncopies='x'", "x.toml:9: phase \"hold\": \"chat\": copies is \"x\": "},
		{second + "of='x'\n[[phase]]\nkind='ramp'", "x.toml:6: group \"b\" is of \"x\": there is no such group"},
		{second + "of='b'\n[[phase]]\nkind='ramp'", "x.toml:6: group \"b\" is of \"b\", which has second devices"},
		{second + "of='a'\ncount=3\n[[phase]]\nkind='ramp'", "x.toml:7: group \"b\" is of \"a\", and has a count"},
		{second + "of='a'\nshare=0.5\n[[phase]]\nkind='ramp'",
			"x.toml:7: group \"b\" is of \"a\", and has a share"},
		{second + "of='a'\napart=true\n[[phase]]\nkind='ramp'", "x.toml:6: of groups \"b\" and \"a\" one is apart"},
		{second + "of='a'\n[[phase]]\nkind='join'\nrooms=1\noccupants=2",
			"x.toml:7: phase \"join\": group \"b\" has second devices"},
		{secondChat + "rate='1/s'\n" +
			"copies='b'", "x.toml:14: phase \"hold\": \"chat\": copies is \"b\": "},
		{secondChat + "rate='1/s'\n" +
			"to='a'\ncopies='b'\n[[phase.do]]\nkind='chat'\nrate='1/s'\nstep='chat-carbons'",
			"x.toml:19: phase \"hold\": \"chat-carbons\" needs a step of its own"},
		{clients + "[[group]]\nname='a'\nshare=0.5\n[[group]]\nname='b'\ncount=200\n[[phase]]\nkind='ramp'",
			"x.toml:2: clients.count is 10, and the groups have 205 together"},
	} {
		text, want := c.text, c.want
		_, err := Parse("x.toml", []byte(text))
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v\nwant %s", text, err, want)
		}
	}
}

// --clients is how many there are, to the last one, however many groups they are spread over;
// groups keep their shares.
func TestClientsAreAsMany(t *testing.T) {
	for n := 2; n < 60; n++ {
		s, err := Find("flood")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Override(Overrides{Clients: n}); err != nil {
			t.Fatal(err)
		}
		if a, b := s.Groups[0].Count, s.Groups[1].Count; a+b != n || s.Clients.Count != n || a < 1 || b < 1 ||
			b > 1 && b != int(float64(n)*50/1050+.5) {
			t.Errorf("%d clients are %d and %d", n, a, b)
		}
	}
	s, err := Find("flood")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Override(Overrides{Clients: 1}); err == nil ||
		!strings.Contains(err.Error(), "1 clients can't be 2 groups") {
		t.Errorf("one client for two groups: %v", err)
	}
	thirds := "[[group]]\nname='%s'\nshare=0.333333333\n"
	text := "[clients]\ncount = 10\n"
	for _, g := range []string{"a", "b", "c"} {
		text += strings.Replace(thirds, "%s", g, 1)
	}
	if s, err = Parse("x.toml", []byte(text+"[[phase]]\nkind='ramp'")); err != nil || s.Clients.Count != 10 {
		t.Errorf("thirds of 10: %v, %+v", err, s)
	}
}

// The highest rate is a closed loop, and rows are those of archives that are filled.
func TestOverrideRateAndRows(t *testing.T) {
	for _, c := range []struct {
		scenario string
		o        Overrides
		want     string // of the error; "": none
	}{
		{"archive", Overrides{Rate: "max"}, ""},
		{"archive", Overrides{Rate: "9/s"}, `the rate is "9/s": max, or nothing`},
		{"archive", Overrides{Rows: 9}, "9 rows: the scenario fills no archive: archive-rows and archive-login do"},
		{"archive-rows", Overrides{Rows: 9}, ""},
		{"archive-login", Overrides{Rows: 9}, ""},
		{"hostile-xml", Overrides{Rate: "max"}, ""},
	} {
		s, err := Find(c.scenario)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Override(c.o); c.want == "" && err != nil ||
			c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s, %+v: %v", c.scenario, c.o, err)
		}
		for _, p := range s.Phases {
			if p.Kind == Fill && !p.Away && c.o.Rows > 0 && p.Rows != c.o.Rows || p.Away && p.Rows != 100 {
				t.Errorf("%s: %s has %d rows", c.scenario, p.Name, p.Rows)
			}
			for _, a := range p.Do {
				if attack := strings.HasPrefix(a.Kind, Hostile); c.o.Rate == "max" && !attack &&
					(a.Rate != 0 || a.Arrivals != "" || a.Window != MaxWindow) {
					t.Errorf("%s: %+v", c.scenario, a)
				}
			}
		}
	}
}

// What must be written is not said to have a usual value.
func TestScenarioWithoutUsualValue(t *testing.T) {
	for _, text := range []string{"[[phase.do]]\nkind='chat'\nrate='0/s'",
		"[[phase.do]]\nkind='chat'\nwindow=0", "length='0s'"} {
		_, err := Parse("x.toml", []byte("[clients]\ncount=1\n[[phase]]\nkind='hold'\n"+text))
		if err == nil || !strings.Contains(err.Error(), " or more") || strings.Contains(err.Error(), "left out") {
			t.Errorf("%q: %v", text, err)
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
	if err := s.Override(Overrides{Clients: 500, Rates: 2, Length: Span(3 * time.Second), TLS: "direct",
		SM: true}); err != nil {
		t.Fatal(err)
	}
	again, err := Parse("again.toml", []byte(s.Source()))
	if err != nil {
		t.Fatalf("%v\n%s", err, s.Source())
	}
	for _, x := range []*Scenario{s, again} {
		a := x.Phases[1].Do[0]
		if x.Groups[0].Count != 450 || x.Groups[1].Count != 50 || x.Clients.Count != 500 ||
			x.Phases[0].Rate != 1 || a.Rate != 200 || a.RateTo != 400 ||
			time.Duration(x.Phases[1].Length) != 3*time.Second || x.Clients.TLS != "direct" || !x.Clients.SM {
			t.Errorf("%+v", x)
		}
	}
}

// No file makes the parser panic.
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

// What comes along can be changed, and the text of what was changed is a scenario that can be read again.
func TestScenariosReadTheirOwnSource(t *testing.T) {
	for _, name := range Scenarios() {
		s, err := Find(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []Overrides{{}, {Rates: 2, SM: name != "chat-sm"},
			{Clients: s.Clients.Count + 1}} {
			if err := s.Override(c); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if again, err := Parse(name+".toml", []byte(s.Source())); err != nil ||
				again.Clients.Count != s.Clients.Count {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
