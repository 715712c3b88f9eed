package capacity

import (
	"fmt"
	"time"

	"canto/bench"
)

// shares are the sizes of the fit's steps, as parts of the largest. Each step is a group that logs
// in while those before stay.
var shares = []float64{.15, .3, .45, .6, .8, 1}

// further is how many times more sessions the check has than the fit, if possible.
const further = 1.4

const (
	// Sessions of the fit by default: enough for memory to show, few enough for the check to fit into
	// a process with 20,000 descriptors.
	mostSessions     = 7000
	fewSessions      = LeastSessions
	maxProbeSessions = 300 // of the probe
	// longer is how many times longer the first and the last rest are: the cost of an idle session is
	// the smallest that is measured, and a plan has most of it.
	longer = 3
)

// A probeResult is what the probe showed.
type probeResult struct {
	logins        float64 // a second that the machine can do
	subscriptions float64 // a second, likewise
	message       float64 // seconds of CPU for a message, of server and client
	room          int     // sessions that the file descriptors allow
}

// A stepPlan is the size of the runs.
type stepPlan struct {
	steps   []int         // sessions at each step
	check   int           // sessions of the check
	slice   time.Duration // length of each settle and hold of the fit
	settle  time.Duration // lengths of the settle and the hold of the check
	hold    time.Duration
	rate    float64 // the highest, in messages or deliveries of presence a second
	logins  float64 // a second that the machine can do
	session float64 // seconds for a session to log in and to get its contacts
}

// plan chooses the sizes so that the runs take about budget. It fails if there would be too few
// sessions to measure anything.
func plan(s probeResult, p Profile, most int, budget time.Duration, cores int) (stepPlan, error) {
	h := stepPlan{logins: s.logins, session: 1/s.logins + float64(p.Contacts)/s.subscriptions}
	fit, check := .6*budget.Seconds(), .3*budget.Seconds()
	// With few sessions nothing much shows, as margins will say; a slow server takes longer than asked for.
	n := max(min(float64(most), .35*fit/h.session, .5*check/h.session/further), fewSessions)
	if n = min(n, float64(s.room)/further); n < fewSessions {
		return h, bench.Failure{What: fmt.Sprintf("there is room for %d sessions only, which show nothing",
			max(int(n), 0)), Remedy: "a higher ulimit -n for the server and the bench"}
	}
	for _, q := range shares {
		h.steps = append(h.steps, int(q*n))
	}
	h.check = int(n * further)
	span := func(seconds, least float64) time.Duration {
		return time.Duration(min(max(seconds, least), 15) * float64(time.Second)).Round(time.Millisecond)
	}
	h.slice = span((fit-n*(h.session+1/h.logins))/float64(4*len(shares)+2*(longer-1)+1), .1)
	rest := check - further*n*h.session
	h.settle, h.hold = span(.2*rest, .1), span(.4*rest, .2)
	// A third of the machine: with more, server and client wait for each other, and costs are not their own.
	h.rate = min(max(.35*float64(cores)/s.message, 50), 10000)
	return h, nil
}

// rampTimeout bounds a phase that should take so many seconds.
func rampTimeout(seconds float64) bench.Span {
	return bench.Span(time.Duration((30 + 5*seconds) * float64(time.Second)))
}

func clients(p Profile) bench.Clients { return bench.Clients{TLS: p.TLS} }

// hold is a phase in which members of group do one thing. Arrivals are random, as those of people,
// so the costs include what a server saves by handling several at once.
func hold(name, kind, group string, rate float64, p Profile, length time.Duration) bench.Phase {
	body := 0 // presence has none
	if kind == bench.Chat {
		body = max(p.Body, 1)
	}
	return bench.Phase{Name: name, Kind: bench.Hold, Group: []string{group}, Length: bench.Span(length),
		Grace: bench.Span(2 * time.Second),
		Do: []bench.Action{{Kind: kind, Rate: bench.Rate(rate), Arrivals: "poisson", Body: body,
			Late: bench.Span(time.Second)}}}
}

func probeScenario(p Profile, n int, length time.Duration) *bench.Scenario {
	sc := &bench.Scenario{Name: "plan: probe", About: "How fast this machine is.", Clients: clients(p),
		Groups: []bench.Group{{Name: "all", Count: n}}, Phases: []bench.Phase{{Kind: bench.Ramp}}}
	if p.Contacts > 0 {
		sc.Phases = append(sc.Phases, bench.Phase{Kind: bench.Befriend, Friends: p.Contacts})
	}
	sc.Phases = append(sc.Phases, bench.Phase{Name: "rest", Kind: bench.Settle,
		Length: bench.Span(length / 2)}, hold("talk", bench.Chat, "all", 1000, p, length),
		bench.Phase{Kind: bench.Drain})
	return sc
}

// fitScenario is the run that is fitted: steps of sessions, each with messages at two rates,
// presence, sessions that leave and come back, and rest. Rates differ from step to step, so that
// the costs of sessions and of messages can be told apart. In every second step presence comes
// together with messages, as servers then write both at once. Rest is last in a step, when the
// server has tidied up after logins.
func fitScenario(p Profile, h stepPlan) *bench.Scenario {
	sc := &bench.Scenario{Name: "plan: fit", About: "Steps of sessions, each at rest, with messages and " +
		"with presence.", Clients: clients(p)}
	sc.Phases = append(sc.Phases, bench.Phase{Name: "empty", Kind: bench.Settle,
		Length: bench.Span(longer * h.slice)})
	before := 0
	moving := h.steps[0] / 3
	for i, n := range h.steps {
		g := fmt.Sprintf("step%d", i+1)
		group := []string{g}
		if i == 0 {
			sc.Groups = groupsOf(g, n, moving)
			group = append(group, "near", "moving")
		} else {
			sc.Groups = append(sc.Groups, bench.Group{Name: g, Count: n - before})
		}
		long := rampTimeout(float64(n-before) * h.session)
		before = n
		sc.Phases = append(sc.Phases, bench.Phase{Name: g + "-login", Kind: bench.Ramp, Group: group, Length: long})
		switch {
		case i == 0:
			sc.Phases = append(sc.Phases, befriendPhases(g+"-", g, p, moving, long)...)
		case p.Contacts > 0:
			sc.Phases = append(sc.Phases, bench.Phase{Name: g + "-befriend", Kind: bench.Befriend, Group: group,
				Friends: p.Contacts, Length: long})
		}
		// Each step has other rates, so that the costs of sessions and of messages can be told apart. All
		// clients take part.
		low, high := .25, 1.0
		if i%2 == 1 {
			low, high = .5, .75
		}
		for j, q := range []float64{low, high} {
			sc.Phases = append(sc.Phases, spread(hold(fmt.Sprintf("%s-talk%d", g, j+1), bench.Chat, g, q*h.rate,
				p, h.slice), sc.Groups))
		}
		if p.Contacts > 0 {
			q := high / float64(p.Contacts)
			ph := spread(hold(g+"-presence", bench.Presence, g, q*h.rate, p, h.slice), sc.Groups)
			if i%2 == 1 { // a server writes stanzas that come together at once, which costs less
				ph.Do = append(ph.Do, spread(hold("", bench.Chat, g, low*h.rate, p, 0), sc.Groups).Do...)
			}
			sc.Phases = append(sc.Phases, ph)
		}
		sc.Phases = append(sc.Phases, resumePhases(g+"-", h, moving)...)
		// Last: the server has tidied up after logins and new contacts by then.
		rest := h.slice
		if i == len(h.steps)-1 {
			rest *= longer
		}
		sc.Phases = append(sc.Phases, bench.Phase{Name: g + "-rest", Kind: bench.Settle, Length: bench.Span(rest)})
	}
	sc.Phases = append(sc.Phases, bench.Phase{Kind: bench.Drain})
	return sc
}

// groupsOf divides n clients into three groups: the moving, which leave and come back; the near, as
// many, which are their contacts and stay; and the others, far, which are each other's contacts.
func groupsOf(far string, n, moving int) []bench.Group {
	return []bench.Group{{Name: far, Count: n - 2*moving}, {Name: "near", Count: moving},
		{Name: "moving", Count: moving}}
}

// befriendPhases gives the clients of groupsOf their contacts.
func befriendPhases(prefix, far string, p Profile, moving int, long bench.Span) []bench.Phase {
	n := min(p.Contacts, moving)
	if n == 0 {
		return nil
	}
	befriend := func(name string, stars int, group ...string) bench.Phase {
		return bench.Phase{Name: prefix + name, Kind: bench.Befriend, Group: group, Stars: stars, Friends: n,
			Length: long}
	}
	return []bench.Phase{befriend("befriend", 0, far), befriend("befriend1", moving, "near", "moving"),
		befriend("befriend2", moving, "moving", "near")}
}

// resumePhases let the moving clients leave and come back, at a third of the rate that the machine
// can do: not as after a failure, where all come at once.
func resumePhases(prefix string, h stepPlan, moving int) []bench.Phase {
	rate := .3 * h.logins
	return []bench.Phase{{Name: prefix + "leave", Kind: bench.Drain, Group: []string{"moving"}},
		{Name: prefix + "back", Kind: bench.Ramp, Group: []string{"moving"}, Rate: bench.Rate(rate),
			Length: rampTimeout(float64(moving) / rate)}}
}

// spread lets each group do its part of a hold's one action.
func spread(ph bench.Phase, groups []bench.Group) bench.Phase {
	total := 0
	for _, g := range groups {
		total += g.Count
	}
	a := ph.Do[0]
	ph.Do, ph.Group = nil, nil
	for _, g := range groups {
		b := a
		b.Group, b.Step = g.Name, a.Kind+"-"+g.Name
		b.Rate = a.Rate * bench.Rate(g.Count) / bench.Rate(total)
		ph.Do = append(ph.Do, b)
		ph.Group = append(ph.Group, g.Name)
	}
	return ph
}

// checkScenario is the run that checks the fit: more sessions, other accounts, and the mix of the
// profile, speed times faster, so that its cost can be measured.
func checkScenario(p Profile, h stepPlan) (sc *bench.Scenario, speed float64) {
	n := float64(h.check)
	speed = max(1, h.rate/max(n*(p.Messages+p.Presence*float64(p.Contacts))/3600, 1e-9))
	if p.Messages+p.Presence*float64(p.Contacts) == 0 {
		speed = 1
	}
	moves := p.Reconnects * n * speed / 3600 * h.hold.Seconds()
	moving := int(min(max(moves, .05*n, float64(p.Contacts)), .15*n))
	sc = &bench.Scenario{Name: "plan: check", About: "The profile's own mix, with more sessions than the " +
		"fit saw.", Clients: clients(p), Groups: groupsOf("far", h.check, moving)}
	sc.Phases = append(sc.Phases, bench.Phase{Name: "login", Kind: bench.Ramp,
		Length: rampTimeout(n * h.session)})
	sc.Phases = append(sc.Phases, befriendPhases("", "far", p, moving, rampTimeout(n*h.session))...)
	sc.Phases = append(sc.Phases, bench.Phase{Name: "rest", Kind: bench.Settle, Length: bench.Span(h.settle)})
	chat := n * p.Messages * speed / 3600
	mix := bench.Phase{Name: "mix", Kind: bench.Hold, Length: bench.Span(h.hold),
		Grace: bench.Span(2 * time.Second)}
	if p.Messages > 0 {
		mix.Do = spread(hold("", bench.Chat, "far", chat, p, 0), sc.Groups).Do
	}
	if p.Presence > 0 && p.Contacts > 0 {
		mix.Do = append(mix.Do, spread(hold("", bench.Presence, "far", n*p.Presence*speed/3600, p, 0),
			sc.Groups).Do...)
	}
	sc.Phases = append(append(append(sc.Phases, mix), resumePhases("", h, moving)...),
		bench.Phase{Kind: bench.Drain})
	return sc, speed
}
