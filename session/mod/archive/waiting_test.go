package archive_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"canto/session/mod/archive"
	"canto/session/mod/offline"
	"canto/session/sessiontest"
)

// quotas returns options of the modules archive and offline.
func quotas(retention string, rows, waiting int) func(string, any) error {
	return func(_ string, v any) error {
		switch o := v.(type) {
		case *archive.Options:
			o.Retention, o.MaxMessages = retention, rows
		case *offline.Options:
			o.MaxMessages = waiting
		}
		return nil
	}
}

// A message that waits for a device holds up neither the retention nor the limits: it goes like any other,
// and is counted. What waits afterwards is delivered, and may be as many messages as before.
func TestWaitingExpires(t *testing.T) {
	for name, c := range map[string]struct {
		retention  string
		rows, most int
		hours      int
	}{
		"by age":           {"1h", 0, 0, 3},
		"by number":        {"0s", 20, 33, 0},
		"by both":          {"1h", 20, 0, 3},
		"by a large limit": {"0s", 100, 110, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := free(t, sessiontest.Options{Module: quotas(c.retention, c.rows, 30)})
			bot := s.Login("bot", "bot@localhost/x") // never sends presence
			romeo := s.Login("romeo", "romeo@localhost/orchard")
			fill := func(text string) {
				for i := range 30 {
					romeo.Send(chat("bot@localhost", fmt.Sprint("w", i), fmt.Sprint(text, i)))
				}
				s.Settle()
				if got := romeo.Received(); got != "" {
					t.Errorf("%s: %s", text, got)
				}
			}
			fill("first ")
			s.AdvanceSettled(time.Minute)
			for i := range 200 {
				bot.Send(chat("absent@localhost", fmt.Sprint("m", i), "number"))
				s.Settle()
			}
			s.Advance(time.Duration(c.hours) * time.Hour)
			s.Settle()
			bot.Send(chat("absent@localhost", "last", "number"))
			s.Settle()
			bot.Send(chat("absent@localhost", "last", "number"))
			s.Settle()
			bot.Received()
			if _, bodies := everything(t, s, bot); c.hours == 0 && len(bodies) > c.most ||
				c.hours > 0 && len(bodies) != 2 {
				t.Errorf("%d messages are left", len(bodies))
			}
			if n := counter(s, "waiting_expired_total", ""); n != 30 {
				t.Errorf("%d messages that waited were deleted", n)
			}
			fill("second ")
			bot.Send("<presence/>")
			s.Settle()
			got := bot.Received()
			if strings.Contains(got, "first ") || strings.Count(got, "second ") != 30 {
				t.Errorf("delivered: %s", got)
			}
			romeo.Received()
			s.Restart()
			bot = s.Login("again", "bot@localhost/x")
			bot.Send("<presence/>")
			s.Settle()
			if got := bot.Received(); strings.Contains(got, "<body>") {
				t.Errorf("delivered again: %s", got)
			}
		})
	}
}

// Rows that wait are not deleted while they are delivered, whichever begins first.
func TestDeliveredOrDeleted(t *testing.T) {
	for _, deliveredFirst := range []bool{false, true} {
		s := free(t, sessiontest.Options{Module: quotas("1h", 0, 1000)})
		romeo := s.Login("romeo", "romeo@localhost/orchard")
		bot := s.Login("bot", "bot@localhost/x") // this starts the sweep, which comes each hour
		s.AdvanceSettled(10 * time.Minute)
		for i := range 10 {
			romeo.Send(chat("bot@localhost", fmt.Sprint("w", i), fmt.Sprint("number ", i)))
		}
		s.Settle()
		s.AdvanceSettled(65 * time.Minute)
		bot.Send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>") // the account is warm
		s.Settle()
		workers := s.PauseWorkers()
		if deliveredFirst {
			bot.Send("<presence/>" + chat("absent@localhost", "m", "note"))
		} else {
			bot.Send(chat("absent@localhost", "m", "note") + "<presence/>")
		}
		s.Settle()
		if len(workers.Jobs) < 2 {
			t.Fatalf("%d jobs", len(workers.Jobs))
		}
		for len(workers.Jobs) > 0 {
			workers.StartNext()
			s.Settle()
		}
		workers.Resume()
		_, live := readPage(t, "x", append(bot.Stanzas(), "<iq id='x' id='x'/>"))
		var got []string
		for _, body := range live {
			if strings.HasPrefix(body, "number ") {
				got = append(got, body)
			}
		}
		equal(t, fmt.Sprint("delivered first ", deliveredFirst), got, numbered(0, 9))
		if n := counter(s, "waiting_expired_total", ""); n != 0 {
			t.Errorf("%d messages that waited were deleted", n)
		}
		s.Advance(2 * time.Hour)
		s.Settle()
		bot.Send(chat("absent@localhost", "m", "then"))
		s.Settle()
		bot.Received()
		if _, bodies := everything(t, s, bot); len(bodies) > 1 {
			t.Errorf("later: %d messages", len(bodies))
		}
	}
}

// Many rows behind one that waits go too, some at a time.
func TestManyBehindWaiting(t *testing.T) {
	s := free(t, sessiontest.Options{Module: quotas("1h", 0, 1000)})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	bot := s.Login("bot", "bot@localhost/x")
	romeo.Send(chat("bot@localhost", "w", "first"))
	s.Settle()
	for range 210 {
		bot.Send(strings.Repeat(chat("absent@localhost", "m", "x"), 100))
		s.Settle()
		bot.Received()
	}
	romeo.Send(chat("bot@localhost", "w", "second"))
	s.Settle()
	s.Advance(3 * time.Hour)
	s.Settle()
	bot.Send(chat("absent@localhost", "m", "last"))
	s.Settle()
	bot.Received()
	if _, bodies := everything(t, s, bot); fmt.Sprint(bodies) != "[last]" {
		t.Errorf("%d messages are left", len(bodies))
	}
	if n := counter(s, "waiting_expired_total", ""); n != 2 {
		t.Errorf("%d messages that waited were deleted", n)
	}
}
