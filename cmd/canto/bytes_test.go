package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"canto/session/store"
)

// account reads what canto bytes prints: counts and bytes by part.
func (s *site) account() (counts, bytes map[string]int) {
	s.t.Helper()
	counts, bytes = map[string]int{}, map[string]int{}
	for _, l := range strings.Split(s.ok("bytes", "--collect"), "\n")[1:] {
		if m := regexp.MustCompile(`^(\S.*?)  +(-|\d+) +(-?\d+) +(?:-?\d+|-)$`).FindStringSubmatch(l); m != nil {
			counts[m[1]], _ = strconv.Atoi(m[2])
			bytes[m[1]], _ = strconv.Atoi(m[3])
		}
	}
	return counts, bytes
}

// The parts of canto bytes cover the cost of sessions with rosters: the live heap grows by as much.
func TestBytes(t *testing.T) {
	const sessions, contacts = 1000, 10
	s := newSite(t, "example.org")
	db, err := store.Open(store.Options{Dir: s.data(), MinFree: -1, Ballast: -1})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := deriveKeys("x", 4096)
	if err != nil {
		t.Fatal(err)
	}
	for i := range sessions + 20 {
		if _, err := db.Accounts().Create(context.Background(), "example.org", fmt.Sprint("user", i),
			keys); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	p := s.serve()
	clients := make([]*client, sessions+20)
	login := func(from, to int) {
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for i := from + w; i < to; i += 8 {
					c, err := p.try("example.org", "PLAIN", fmt.Sprint("user", i), "x")
					if err != nil {
						t.Error(err)
						return
					}
					clients[i] = c
					var b strings.Builder
					for k := range contacts {
						fmt.Fprintf(&b, "<iq type='set' id='s%d'><query xmlns='jabber:iq:roster'><item "+
							"jid='contact-%d@example.net' name='A friend of mine "+
							"%d'><group>Friends</group></item></query></iq>", k, k, k)
					}
					c.send(b.String() + "<presence><show>away</show><status>Reading, back at five</status></presence>")
					if _, err := c.iq("get", "<query xmlns='jabber:iq:roster'/>"); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	login(0, 20) // what is made once
	_, before := s.account()
	login(20, sessions+20)
	counts, after := s.account()
	until(t, "loops have counted", func() bool { // they do once in 100 ms
		counts, after = s.account()
		return counts["tls"] == sessions+20
	})
	for part, want := range map[string]int{"connections": 1020, "tls": 1020, "streams": 1020, "sessions": 1020,
		"presences": 1020, "accounts": 1020, "roster": 1020} {
		if counts[part] != want {
			t.Errorf("%s: %d, not %d", part, counts[part], want)
		}
	}
	heap, sum := after["live heap"]-before["live heap"], after["all parts"]-before["all parts"]
	if outside := 0; raced {
		for part := range after {
			if strings.HasSuffix(part, ", outside of the heap") {
				outside += after[part] - before[part]
			}
		}
		if sum < heap*85/100 {
			sum += outside
		}
	}
	t.Logf("a session took %d bytes of heap, and %d are accounted for", heap/sessions, sum/sessions)
	if sum < heap*85/100 || sum > heap*115/100 {
		t.Errorf("a session took %d bytes of heap, and %d are accounted for", heap/sessions, sum/sessions)
		for part := range after {
			t.Logf("%s: %d each", part, (after[part]-before[part])/sessions)
		}
	}
	if n := after["roster"] - before["roster"]; n < sessions*contacts*50 {
		t.Errorf("%d bytes of rosters", n)
	}
	for _, c := range clients {
		c.conn.Close()
	}
	until(t, "connections are gone from the account", func() bool {
		counts, _ := s.account()
		return counts["connections"]+counts["tls"]+counts["sessions"] == 0
	})
}

// The runtime's metrics that docs/profiling.md and the bench read are there, whatever a new Go calls them.
func TestGoMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(goMetrics())
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, f := range families {
		there[f.GetName()] = true
	}
	for _, name := range []string{"go_cpu_classes_gc_total_cpu_seconds_total",
		"go_cpu_classes_gc_mark_assist_cpu_seconds_total", "go_cpu_classes_gc_mark_idle_cpu_seconds_total",
		"go_cpu_classes_total_cpu_seconds_total", "go_cpu_classes_idle_cpu_seconds_total",
		"go_gc_duration_seconds", "go_sched_pauses_total_gc_seconds", "go_sched_latencies_seconds"} {
		if !there[name] {
			t.Errorf("no %s", name)
		}
	}
}
