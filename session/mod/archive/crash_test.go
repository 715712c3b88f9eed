package archive_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"canto/session/sessiontest"
)

// A server that is killed between a commit and a delivery, and between a delivery and its commit. What is in
// the recipient's archive is in that of the sender; both begin with the first message and have no hole. What
// waits for a device comes after the next start, and none is missing. What comes twice has the same id, which
// is that of the archive; an id that is not in the archive is one of the last, whose row was not durable.
func TestAttackK63(t *testing.T) {
	cut := 0
	for seed := range uint64(40) {
		cut += killed(t, seed)
	}
	if cut == 0 {
		t.Error("no kill came between the rows of messages")
	}
}

// killed kills a server while 30 messages are on their way, and while those that wait are delivered. It
// returns 1 if not all messages were stored.
func killed(t *testing.T, seed uint64) (cut int) {
	const n = 30
	s := free(t, sessiontest.Options{Seed: seed})
	rnd := rand.New(rand.NewPCG(seed, 63))
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	came := make(map[string]string) // the ids of the messages that have come
	var live []string
	take := func(c *sessiontest.Client) {
		t.Helper()
		for _, el := range c.Stanzas() {
			if text := match(bodyText, el); text != "" {
				id := match(stanzaID, el)
				if was := came[text]; was != "" && was != id {
					t.Errorf("seed %d: %s came with the id %s, and then with %s", seed, text, was, id)
				}
				came[text] = id
				live = append(live, text)
			}
		}
	}
	online := seed%2 == 0
	if online {
		s.Login("juliet", "juliet@localhost/balcony").Send("<presence/>")
		s.Settle()
	}
	for i := range n {
		romeo.Conn().Write([]byte(chat("juliet@localhost", fmt.Sprint("m", i), fmt.Sprint("m", i))))
	}
	some := func() {
		for range rnd.IntN(4) { // the committer's goroutine goes on meanwhile
			s.Net.Run()
			if rnd.IntN(3) == 0 {
				s.Settle()
			}
		}
	}
	some()
	if online {
		take(s.Client("juliet"))
	}
	s.Crash()
	_, sent := everything(t, s, s.Login("romeo", "romeo@localhost/orchard"))
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	ids, received := everything(t, s, juliet)
	equal(t, fmt.Sprint("seed ", seed, ", the sender's archive"), sent, messages(len(sent)))
	equal(t, fmt.Sprint("seed ", seed, ", the recipient's archive"), received, messages(len(received)))
	if len(received) > len(sent) {
		t.Errorf("seed %d: %d rows of the recipient, %d of the sender", seed, len(received), len(sent))
	}
	for text, id := range came {
		if i := slices.Index(received, text); i >= 0 && ids[i] != id {
			t.Errorf("seed %d: %s came with the id %s, and is archived with %s", seed, text, id, ids[i])
		}
	}
	live = nil
	juliet.Send("<presence/>")
	some()
	take(juliet)
	s.Crash()
	juliet = s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.Settle()
	take(juliet)
	if !online {
		for i, text := range received {
			if !slices.Contains(live, text) {
				t.Errorf("seed %d: %s waited, and has not come", seed, text)
			}
			if came[text] != ids[i] {
				t.Errorf("seed %d: %s came with the id %s, and is archived with %s", seed, text, came[text], ids[i])
			}
		}
	}
	again, _ := everything(t, s, juliet)
	equal(t, fmt.Sprint("seed ", seed, ", the ids after the second kill"), again, ids)
	if len(received) < n {
		return 1
	}
	return 0
}

// messages returns the texts of n messages.
func messages(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprint("m", i))
	}
	return list
}

// What the module counts: rows and their bytes, pages, ids that are not there, retractions, expired rows.
func TestCounters(t *testing.T) {
	s, ids := filled(t, sessiontest.Options{}, 3)
	romeo, juliet := s.Client("romeo"), s.Client("juliet")
	value := func(name, result string) uint64 { return counter(s, name, result) }
	if got := value("rows_total", ""); got != 6 {
		t.Errorf("%d rows", got)
	}
	before := value("queries_total", "page")
	query(t, s, romeo, submit("ids", ids["juliet"][0]))
	query(t, s, romeo, submit("ids", "none"))
	if got := value("queries_total", "item-not-found"); got != 2 {
		t.Errorf("%d ids were not found", got)
	}
	if got := value("queries_total", "page"); got != before {
		t.Errorf("%d pages, and there were %d", got, before)
	}
	romeo.Send(retraction("juliet@localhost", "r", "m1"))
	juliet.Send(retraction("romeo@localhost", "r", "m2"))
	s.Settle()
	for _, result := range []string{"done", "refused"} {
		if n := value("retractions_total", result); n != 2 {
			t.Errorf("%d retractions are %s", n, result)
		}
	}
}
