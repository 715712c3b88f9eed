package archive_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"canto/session/mod"
	"canto/session/sessiontest"
	"canto/session/store/storetest"
)

// refusedIDs returns the ids of the messages that were answered with an error.
func refusedIDs(elements []string) map[string]bool {
	m := make(map[string]bool)
	for _, el := range elements {
		if strings.HasPrefix(el, "<message") && strings.Contains(el, "<error ") {
			m[match(messageID, el)] = true
		}
	}
	return m
}

// M-3 (complaints of the field): accepted, and not stored. On a store that fails now and then, each message
// is in both archives, and waits for its recipient or has reached it, or its sender has got an error. No
// message is in one archive twice. The same holds for what is there after a crash.
func TestFieldM3(t *testing.T) {
	for _, online := range []bool{true, false} {
		for seed := range uint64(8) {
			t.Run(fmt.Sprint("online=", online, ",seed=", seed), func(t *testing.T) { fieldM3(t, online, seed) })
		}
	}
}

// fieldM3 is one case of [TestFieldM3].
func fieldM3(t *testing.T, online bool, seed uint64) {
	var flaky storetest.Flaky
	s := free(t, sessiontest.Options{Fault: flaky.Fault, Seed: seed})
	rnd := rand.New(rand.NewPCG(seed, 3))
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	var got, answers []string
	if online {
		s.Login("juliet", "juliet@localhost/balcony").Send("<presence/>")
		s.Settle()
	}
	const n = 60
	fails := 0
	for i := range n {
		flaky.Writes.Store(rnd.IntN(3) == 0)
		if flaky.Writes.Load() {
			fails++
		}
		romeo.Send(chat("juliet@localhost", fmt.Sprint("m", i), fmt.Sprint("m", i)))
		if rnd.IntN(2) == 0 {
			s.Settle()
		}
	}
	s.Settle()
	flaky.Writes.Store(false)
	s.Settle()
	answers = romeo.Stanzas()
	if online {
		got = s.Client("juliet").Stanzas()
	}
	check := func(when string) {
		t.Helper()
		refused := refusedIDs(answers)
		_, sent := everything(t, s, s.Login("again", "romeo@localhost/again"))
		juliet := s.Login("reader", "juliet@localhost/reader")
		_, received := everything(t, s, juliet)
		juliet.Send("<presence/>")
		s.Settle()
		_, live := readPage(t, "x", append(append(slices.Clone(got), juliet.Stanzas()...), "<iq id='x' id='x'/>"))
		for i := range n {
			id := fmt.Sprint("m", i)
			in, out, has := count(received, id), count(sent, id), count(live, id)
			if !refused[id] && (in != 1 || out != 1 || has != 1) {
				t.Errorf("%s: %s was accepted, and is %d times in the sender's archive, %d times in the "+
					"recipient's, and %d times at the recipient", when, id, out, in, has)
			}
			if in > 1 || out > 1 || in > out && !refused[id] {
				t.Errorf("%s: %s is %d times in the sender's archive, and %d times in the recipient's", when, id, out, in)
			}
		}
		if !slices.IsSortedFunc(received, byNumber) || !slices.IsSortedFunc(sent, byNumber) {
			t.Errorf("%s: out of order: %q, %q", when, sent, received)
		}
		juliet.DropConn()
		s.Settle()
		got = nil
		for _, b := range live {
			got = append(got, "<message><body>"+b+"</body></message>")
		}
	}
	if r := len(refusedIDs(answers)); fails > 0 && r == 0 || r == n {
		t.Errorf("%d of %d messages were refused, while the store has failed %d times", r, n, fails)
	}
	check("at once")
	s.Crash()
	check("after a crash")
}

// count returns how often s is in list.
func count(list []string, s string) (n int) {
	for _, x := range list {
		if x == s {
			n++
		}
	}
	return n
}

// byNumber compares texts such as m12 by their numbers.
func byNumber(a, b string) int { return numberOf(a) - numberOf(b) }

// numberOf returns the number at the end of a text such as m12.
func numberOf(s string) (n int) {
	fmt.Sscanf(strings.TrimPrefix(s, "m"), "%d", &n)
	return n
}

// M-6 (complaints of the field): a catch-up with holes. Messages arrive while a client reads page after page,
// in both directions, and behind each answer. Each message is in a page, or came live, and its id is the same
// in both; pages and live messages are in one order. Ids that are gone: TestRetention.
func TestFieldM6(t *testing.T) {
	for _, backwards := range []bool{false, true} {
		t.Run(fmt.Sprint("backwards=", backwards), func(t *testing.T) { fieldM6(t, backwards) })
	}
}

// fieldM6 is one case of [TestFieldM6].
func fieldM6(t *testing.T, backwards bool) {
	s := free(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	sent := 0
	send := func(n int) {
		for range n {
			romeo.Send(chat("juliet@localhost", fmt.Sprint("m", sent), fmt.Sprint("m", sent)))
			sent++
		}
	}
	send(40)
	s.Settle()
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	var ids, bodies, live, liveIDs []string
	workers := s.PauseWorkers()
	run := func() {
		for len(workers.Jobs) > 0 {
			workers.StartNext()
			send(1) // between the page and its answer
			s.Settle()
		}
	}
	next := set("<max>7</max>")
	if backwards {
		next = set("<max>7</max><before/>")
	}
	online := false
	for step := 0; ; step++ {
		send(2)
		juliet.Send("<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2'>" + next + "</query></iq>")
		send(2)
		s.Settle()
		run()
		var page0 []string
		for _, el := range juliet.Stanzas() {
			if strings.HasPrefix(el, "<message") && !strings.Contains(el, "<result ") {
				live, liveIDs = append(live, match(bodyText, el)), append(liveIDs, match(stanzaID, el))
				continue
			}
			page0 = append(page0, el)
		}
		p, _ := readPage(t, "q", page0)
		if p.condition != "" {
			t.Fatalf("page %d: %s", step, p.condition)
		}
		if backwards {
			ids, bodies = append(slices.Clone(p.ids), ids...), append(slices.Clone(p.bodies), bodies...)
			next = set("<max>7</max><before>" + p.first + "</before>")
		} else {
			ids, bodies = append(ids, p.ids...), append(bodies, p.bodies...)
			next = set("<max>7</max><after>" + p.last + "</after>")
		}
		if !online { // as a client does: the first page is asked for, and then it becomes available
			online = true
			juliet.Send("<presence/>")
			s.Settle()
			run()
		}
		if p.complete {
			break
		}
		if step > 60 {
			t.Fatal("the pages do not end")
		}
	}
	s.Settle()
	run()
	for _, el := range juliet.Stanzas() {
		if strings.HasPrefix(el, "<message") {
			live, liveIDs = append(live, match(bodyText, el)), append(liveIDs, match(stanzaID, el))
		}
	}
	if !slices.IsSortedFunc(bodies, byNumber) || !slices.IsSortedFunc(live, byNumber) {
		t.Errorf("out of order: %q, %q", bodies, live)
	}
	for i := range sent {
		text := fmt.Sprint("m", i)
		a, b := slices.Index(bodies, text), slices.Index(live, text)
		switch {
		case a < 0 && b < 0:
			t.Errorf("%s is in no page, and has not come", text)
		case a >= 0 && b >= 0 && ids[a] != liveIDs[b]:
			t.Errorf("%s has the id %s in a page, and came with %s", text, ids[a], liveIDs[b])
		case count(bodies, text) > 1 || count(live, text) > 1:
			t.Errorf("%s came twice", text)
		}
	}
	if len(workers.Jobs) > 0 || len(bodies) == 0 || len(live) == 0 {
		t.Errorf("%d jobs, %d in pages, %d live", len(workers.Jobs), len(bodies), len(live))
	}
}

// inPage reports whether an element belongs to the answer to a query.
func inPage(el string) bool { return strings.Contains(el, "urn:xmpp:mam:2'") }

// M-7 (complaints of the field): messages that wait, and the archive: twice, or never. A device that logs in,
// becomes available and asks for its archive, in both orders, has each message once as an id, and none is
// missing; sessions that end with messages in their queue, a restart and a crash lie between. Without the
// archive each message that has waited comes once.
func TestFieldM7(t *testing.T) {
	const ask = "<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2'>" +
		"<set xmlns='http://jabber.org/protocol/rsm'><max>250</max></set></query></iq>"
	pad := "<x xmlns='urn:example:pad'>" + strings.Repeat("x", 200_000) + "</x>"
	for _, c := range []struct {
		name, send string
		archive    bool
	}{{"available first", "<presence/>" + ask, true}, {"archive first", ask + "<presence/>", true},
		{"without archive", "<presence/>", false}} {
		t.Run(c.name, func(t *testing.T) {
			opt := sessiontest.Options{}
			if !c.archive {
				opt.Modules = slices.DeleteFunc(mod.DefaultNames(), func(m string) bool { return m == "archive" })
			}
			s := free(t, opt)
			romeo := s.Login("romeo", "romeo@localhost/orchard")
			s.AddAccount("juliet@localhost")
			at := 0
			send := func(hint string) {
				romeo.Send("<message to='juliet@localhost' type='chat'><body>m" + fmt.Sprint(at) + "</body>" + hint +
					"</message>")
				at++
			}
			seen := make(map[string]string) // the id with which each text came
			for round := range 6 {
				for i := range 10 {
					if i%4 == 3 {
						send("<no-permanent-store xmlns='urn:xmpp:hints'/>")
					} else {
						send("")
					}
				}
				s.Settle()
				juliet := s.Login("juliet", "juliet@localhost/balcony")
				juliet.Send(c.send)
				send("")
				s.Settle()
				times := make(map[string]int)
				list := juliet.Stanzas()
				for c.archive {
					p, _ := readPage(t, "q", list[slices.IndexFunc(list, inPage):])
					if p.complete {
						break
					}
					juliet.Send(strings.Replace(ask, "<max>", "<after>"+p.last+"</after><max>", 1))
					s.Settle()
					list = slices.DeleteFunc(list, func(el string) bool { return strings.HasPrefix(el, "<iq") })
					next := juliet.Stanzas()
					list = append(list, next...)
				}
				for _, el := range list {
					text, _, _ := strings.Cut(match(bodyText, el), " ")
					if text == "" {
						continue
					}
					id := match(stanzaID, el)
					if strings.Contains(el, "<result ") {
						id = match(resultID, el)
					} else if times[text]++; times[text] > 1 {
						t.Errorf("round %d: %s came twice", round, text)
					}
					if was, ok := seen[text]; ok && (was != id || id == "") {
						t.Errorf("round %d: %s came with the id %q, and then with %q", round, text, was, id)
					}
					seen[text] = id
				}
				for i := range at {
					if _, ok := seen[fmt.Sprint("m", i)]; !ok {
						t.Errorf("round %d: m%d has not come", round, i)
					}
				}
				if round%2 == 0 && c.archive { // the next ones arrive while the session ends
					juliet.Conn().SetWindow(0)
					for range 12 {
						send(pad)
						s.Settle()
					}
				}
				juliet.DropConn()
				s.Settle()
				switch round {
				case 2:
					s.Restart()
					romeo = s.Login("romeo", "romeo@localhost/orchard")
				case 4:
					s.Crash()
					romeo = s.Login("romeo", "romeo@localhost/orchard")
				}
			}
		})
	}
}
