package archive_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"canto/reactor"
	"canto/session/mod/archive"
	"canto/session/sessiontest"
)

// retraction returns a message that retracts another one.
func retraction(to, own, id string) string {
	return "<message to='" + to + "' type='chat' id='" + own +
		"'><retract xmlns='urn:xmpp:message-retract:1' id='" + id + "'/></message>"
}

// A message that is retracted at once, before it is durable, is a tombstone in both archives.
func TestRetractedAtOnce(t *testing.T) {
	s := free(t, sessiontest.Options{})
	hasten(s)
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	romeo.Send(chat("juliet@localhost", "m1", "secret") + retraction("juliet@localhost", "r1", "m1"))
	s.Settle()
	for _, c := range []*sessiontest.Client{romeo, juliet} {
		c.Send("<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2'/></iq>")
		s.Settle()
		if got := c.Received(); strings.Contains(got, "secret") || !strings.Contains(got, "<retracted ") {
			t.Errorf("%s: %s", c.Name, got)
		}
	}
}

// A message and the query that follows it: the page has the message.
func TestQueryBehindMessage(t *testing.T) {
	const last = "<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2'>" +
		"<set xmlns='http://jabber.org/protocol/rsm'><max>1</max><before/></set></query></iq>"
	s := free(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	for i := range 20 {
		romeo.Send(chat("juliet@localhost", "m1", numbered(i, i)[0]) + last)
		s.Settle()
		var answer []string
		for _, el := range romeo.Stanzas() {
			if !strings.Contains(el, "service-unavailable") {
				answer = append(answer, el)
			}
		}
		p, _ := readPage(t, "q", answer)
		equal(t, "the last page", p.bodies, numbered(i, i))
		romeo.Send(chat("romeo@localhost", "m1", "note") + last)
		s.Settle()
		p, _ = readPage(t, "q", romeo.Stanzas())
		equal(t, "the last page", p.bodies, []string{"note"})
	}
}

// An account has one search for retracted messages at a time. What comes meanwhile waits for one more, in
// which all are searched for; what does not fit is archived and counted, and its message stays.
func TestManyRetractions(t *testing.T) {
	s := free(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	for i := range 50 {
		romeo.Send(chat("juliet@localhost", fmt.Sprint("m", i), fmt.Sprint("number ", i)))
	}
	s.Settle()
	workers := s.PauseWorkers()
	for i := range 50 {
		romeo.Send(retraction("juliet@localhost", fmt.Sprint("r", i), fmt.Sprint("m", i)))
	}
	s.Settle()
	searches := 0
	for len(workers.Jobs) > 0 {
		if len(workers.Jobs) > 2 {
			t.Fatalf("%d searches at a time in two archives", len(workers.Jobs))
		}
		searches++
		workers.StartNext()
		s.Settle()
	}
	workers.Resume()
	limit := uint64(0)
	for _, l := range s.Router.LoopRouters() {
		limit += l.Stats().Limits["retract"]
	}
	if done := counter(s, "retractions_total", "done"); searches != 4 || done != 66 || limit != 34 ||
		counter(s, "retractions_total", "limit") != 34 {
		t.Errorf("%d searches, %d tombstones, %d over the limit", searches, done, limit)
	}
	for _, c := range []*sessiontest.Client{romeo, juliet} {
		_, bodies := everything(t, s, c)
		var left []string
		for _, b := range bodies {
			if b != "" {
				left = append(left, b)
			}
		}
		equal(t, c.Name, left, numbered(33, 49))
	}
	romeo.Send(retraction("juliet@localhost", "again", "m40"))
	s.Settle()
	if done := counter(s, "retractions_total", "done"); done != 68 {
		t.Errorf("then %d tombstones", done)
	}
}

// A retraction with a very long id is archived, and nothing is searched for.
func TestLongRetraction(t *testing.T) {
	s := free(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	long := strings.Repeat("x", 1025)
	romeo.Send(chat("juliet@localhost", long, "secret") + retraction("juliet@localhost", "r", long) +
		chat("juliet@localhost", "m", "secret") + retraction("juliet@localhost", long, "m"))
	s.Settle()
	done, over := counter(s, "retractions_total", "done"), counter(s, "retractions_total", "limit")
	if done != 0 || over != 2 {
		t.Errorf("%d tombstones, %d over the limit", done, over)
	}
}

// A search that finds the workers busy is tried again.
func TestRetractionWhileWorkersAreBusy(t *testing.T) {
	s := free(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.Login("juliet", "juliet@localhost/balcony")
	romeo.Send(chat("juliet@localhost", "m1", "secret"))
	s.Settle()
	inner := s.Router.Workers
	s.Router.Workers = busy{}
	romeo.Send(retraction("juliet@localhost", "r1", "m1"))
	s.Settle()
	s.AdvanceSettled(3 * time.Second)
	s.Router.Workers = inner
	s.AdvanceSettled(3 * time.Second)
	if done := counter(s, "retractions_total", "done"); done != 2 {
		t.Errorf("%d tombstones", done)
	}
}

// busy are workers whose queue is full.
type busy struct{}

// Do implements [reactor.Workers].
func (busy) Do(reactor.Class, *reactor.Loop, func() error, func(error)) bool { return false }

// late are workers that do their work at once, and whose results come when the test says so.
type late struct{ results []func() }

// Do implements [reactor.Workers].
func (w *late) Do(_ reactor.Class, l *reactor.Loop, work func() error, then func(error)) bool {
	err := work()
	w.results = append(w.results, func() { l.Post(func() { then(err) }) })
	return true
}

// A message that was found for its retraction, and then deleted with all others, does not come back.
func TestRetractedAndDeleted(t *testing.T) {
	s := free(t, sessiontest.Options{Module: with(func(o *archive.Options) { o.Retention = "1h" })})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	romeo.Send(chat("juliet@localhost", "m1", "secret"))
	s.Settle()
	w, inner := &late{}, s.Router.Workers
	s.Router.Workers = w
	romeo.Send(retraction("juliet@localhost", "r1", "m1"))
	s.Settle()
	s.Router.Workers = inner
	s.Advance(3 * time.Hour)
	s.Settle()
	clients := []*sessiontest.Client{s.Login("romeo2", "romeo@localhost/x"),
		s.Login("juliet2", "juliet@localhost/x")}
	s.Settle()
	if len(w.results) != 2 || counter(s, "rows_expired_total", "") != 4 {
		t.Fatalf("%d searches, %d deleted", len(w.results), counter(s, "rows_expired_total", ""))
	}
	for _, result := range w.results {
		result()
	}
	s.Settle()
	for _, c := range clients {
		if p := query(t, s, c, ""); len(p.ids) > 0 {
			t.Errorf("%s: the archive has %v", c.Name, p.bodies)
		}
	}
}
