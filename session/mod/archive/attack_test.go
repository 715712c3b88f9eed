package archive_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"canto/session/mod"
	"canto/session/sessiontest"
)

// filled starts a server with the accounts romeo and juliet, logs in both, and sends n messages from romeo to
// juliet, a minute apart. It returns the ids of each.
func filled(t testing.TB, opt sessiontest.Options, n int) (s *sessiontest.Server, ids map[string][]string) {
	t.Helper()
	s = free(t, opt)
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.Settle()
	for i := range n {
		romeo.Send(chat("juliet@localhost", fmt.Sprint("m", i), fmt.Sprint("number ", i)))
		s.Settle()
		s.Advance(time.Minute)
		s.Settle()
	}
	ids = make(map[string][]string)
	for _, c := range []*sessiontest.Client{romeo, juliet} {
		ids[c.Name], _ = everything(t, s, c)
		if len(ids[c.Name]) != n {
			t.Fatalf("%s has %d messages", c.Name, len(ids[c.Name]))
		}
	}
	return s, ids
}

// What is no id of the own archive, and what is no number, is answered with item-not-found or bad-request
// (CVE of ejabberd: ids of pages went into SQL). No answer has a message of another archive.
func TestAttackP02(t *testing.T) {
	s, ids := filled(t, sessiontest.Options{}, 10)
	romeo := s.Client("romeo")
	own, foreign := ids["romeo"][4], ids["juliet"][4]
	wrong := []string{foreign, "&apos; or 1=1--", "x", "0", "%00", "..", own[:25], own + "0", " " + own,
		own + "\n", strings.ToUpper(own), strings.Repeat("0", 26), strings.Repeat("z", 26), "00000000000", "&#xe9;",
		strings.Repeat("7", 1024)}
	for i := range own { // each character changed
		for _, by := range []string{"0", "1", "z"} {
			if own[i:i+1] != by {
				wrong = append(wrong, own[:i]+by+own[i+1:])
			}
		}
	}
	for _, id := range wrong {
		for _, content := range []string{set("<after>" + id + "</after>"), set("<before>" + id + "</before>"),
			submit("after-id", id), submit("before-id", id), submit("ids", id)} {
			p := query(t, s, romeo, content)
			if p.condition != "item-not-found" || len(p.ids) > 0 {
				t.Errorf("%q: %+v", content, p)
			}
		}
	}
	for content, want := range map[string]string{
		set("<after>" + strings.Repeat("7", 1025) + "</after>"):     "bad-request",
		set("<before>" + strings.Repeat("x", 10_000) + "</before>"): "bad-request",
		set("<max>-1</max>"):                                             "bad-request",
		set("<max>1e9</max>"):                                            "bad-request",
		set("<max>18446744073709551616</max>"):                           "bad-request",
		set("<max/>"):                                                    "bad-request",
		set("<max>5</max><max>5</max>"):                                  "bad-request",
		set("<index>-1</index>"):                                         "bad-request",
		set("<index>0</index>"):                                          "feature-not-implemented",
		set("<before/><after>" + own + "</after>"):                       "bad-request",
		set("<after>" + own + "</after><before>" + own + "</before>"):    "bad-request",
		set("<after><x/></after>"):                                       "bad-request",
		set("") + set(""):                                                "bad-request",
		submit("fulltext", "x"):                                          "feature-not-implemented",
		submit("with", "a b@c@d"):                                        "bad-request",
		submit("with", "a@b", "with", "c@d"):                             "bad-request",
		submit("include-groupchat", "perhaps"):                           "bad-request",
		strings.Replace(submit(), "urn:xmpp:mam:2", "urn:xmpp:mam:0", 1): "bad-request",
		strings.Replace(submit("ids", "x"), "<value>x</value>", strings.Repeat("<value>x</value>", 400),
			1): "bad-request",
	} {
		if p := query(t, s, romeo, content); p.condition != want || len(p.ids) > 0 {
			t.Errorf("%.200s: %+v, want %s", content, p, want)
		}
	}
	for content, n := range map[string]int{set(""): 10, set("<max> 3 </max>"): 3, set("<max>000000004</max>"): 4,
		set("<after/>"): 10, submit(): 10} {
		if p := query(t, s, romeo, content); len(p.ids) != n {
			t.Errorf("%s: %d messages, want %d", content, len(p.ids), n)
		}
	}
}

// The page that a client asks for has 250 messages at most. 1,000 queries at once from one session are
// answered one after the other, and a bystander chats meanwhile.
func TestAttackP07(t *testing.T) {
	s := free(t, sessiontest.Options{})
	mallory := s.Login("mallory", "mallory@localhost/den")
	var all strings.Builder
	for i := range 300 {
		all.WriteString(chat("absent@localhost", "m", fmt.Sprint("number ", i)))
	}
	mallory.Send(all.String())
	s.Settle()
	mallory.Received()
	for max, want := range map[string]int{"": 50, "<max>250</max>": 250, "<max>251</max>": 250,
		"<max>1000000</max>": 250, "<max>9223372036854775807</max>": 250, "<max>1000000</max><before/>": 250} {
		p := query(t, s, mallory, set(max))
		if len(p.ids) != want || p.complete || p.count != "300" {
			t.Errorf("%s: %d messages, complete %v, of %s", max, len(p.ids), p.complete, p.count)
		}
	}
	if p := query(t, s, mallory, submit("start", "1970-01-01T00:00:00Z")); len(p.ids) != 50 {
		t.Errorf("from 1970 on: %d messages", len(p.ids))
	}
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.Settle()
	juliet.Received()
	workers := s.PauseWorkers()
	const one = "<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2'>" +
		"<set xmlns='http://jabber.org/protocol/rsm'><max>1</max></set></query></iq>"
	mallory.Send(strings.Repeat(one, 1000))
	s.Settle()
	if len(workers.Jobs) != 1 {
		t.Errorf("%d pages of one session are in work at once", len(workers.Jobs))
	}
	answers, most := 0, 0
	for i := range 1100 {
		if len(workers.Jobs) == 0 {
			break
		}
		most = max(most, len(workers.Jobs))
		workers.StartNext()
		s.Settle()
		answers += strings.Count(mallory.Received(), "<fin ")
		if i%100 == 0 {
			romeo.Send(chat("juliet@localhost", "b", "bystander"))
			s.Settle()
			if got := juliet.Received(); !strings.Contains(got, "bystander") {
				t.Fatalf("behind %d queries a message waits: %q", i, got)
			}
		}
	}
	if answers != 1000 || most > 2 {
		t.Errorf("%d answers, %d pages in work", answers, most)
	}
}

// Dates that are none are bad requests; dates far away and reversed ranges leave an empty page that is
// complete.
func TestAttackK89(t *testing.T) {
	s, _ := filled(t, sessiontest.Options{}, 3)
	romeo := s.Client("romeo")
	for _, date := range []string{"x", "2026-01-01", "0000-12-31T00:00:00Z", "2026-13-01T00:00:00Z",
		"2026-02-30T00:00:00Z",
		"2026-01-01T24:00:01Z", "2026-01-01T25:00:00Z", "2026-01-01T00:60:00Z", "2026-01-01T00:00:61Z",
		"2026-01-01T00:00:00+99:99", "2026-01-01T00:00:00-99:99", "2026-01-01T00:00:00", "1000000000",
		"-1", "2026-01-01T00:00:00." + strings.Repeat("9", 1000) + "Z", "20260101T00:00:00",
		"1000000000-01-01T00:00:00Z", "２０２６-01-01T00:00:00Z"} {
		for _, field := range []string{"start", "end"} {
			p := query(t, s, romeo, submit(field, date))
			if p.condition != "bad-request" {
				t.Errorf("%s %.60q: %+v", field, date, p)
			}
		}
	}
	for _, c := range []struct {
		start, end string
		want       int
	}{
		{"0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", 3},
		{"", "0001-01-01T00:00:00Z", 0},
		{"1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z", 0},
		{"9999-12-31T23:59:59.999Z", "", 0},
		{"2200-01-01T00:00:00Z", "", 0},
		{"2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z", 0},
		{"9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", 0},
		{"2026-01-01T00:01:00.000000001Z", "", 1},
		{"2026-01-01T14:00:00+14:00", "2026-01-01T00:00:00-00:00", 1},
		{"2025-12-31T23:59:60Z", "2026-01-01T00:00:00Z", 1},
	} {
		var f []string
		if c.start != "" {
			f = append(f, "start", c.start)
		}
		if c.end != "" {
			f = append(f, "end", c.end)
		}
		for _, page := range []string{"", set("<before/>")} {
			p := query(t, s, romeo, submit(f...)+page)
			if p.condition != "" || len(p.ids) != c.want || !p.complete || c.want == 0 && p.first+p.last != "" {
				t.Errorf("from %s to %s: %+v, want %d messages", c.start, c.end, p, c.want)
			}
		}
	}
}

// An id of the archive can't be guessed: ids of messages that came one after the other, of one account and of
// two, have nothing in common; and an id alone grants nothing: to another account it is none.
func TestAttackK90(t *testing.T) {
	s, ids := filled(t, sessiontest.Options{}, 200)
	all := append(append([]string{}, ids["romeo"]...), ids["juliet"]...)
	seen := make(map[string]bool)
	var at [26]map[byte]int
	ordered := 0
	for i, id := range all {
		if !regexp.MustCompile(`^[0-9a-z]{26}$`).MatchString(id) || seen[id] {
			t.Fatalf("the id %q", id)
		}
		seen[id] = true
		if i > 0 && id > all[i-1] {
			ordered++
		}
		for n := range id {
			if at[n] == nil {
				at[n] = make(map[byte]int)
			}
			at[n][id[n]]++
		}
	}
	if ordered < 140 || ordered > 260 {
		t.Errorf("%d of 400 ids are above the one before", ordered)
	}
	for n := 1; n < 26; n++ { // the first character has 3 bits: 128 bits are 26 characters
		for c, times := range at[n] {
			if times > 60 {
				t.Errorf("character %d of %d of 400 ids is %c", n, times, c)
			}
		}
	}
	for _, id := range ids["juliet"] {
		if p := query(t, s, s.Client("romeo"), submit("ids", id)); p.condition != "item-not-found" {
			t.Fatalf("an id of juliet's: %+v", p)
		}
	}
	if p := query(t, s, s.Client("romeo"), submit("ids", ids["romeo"][0])); len(p.ids) != 1 {
		t.Errorf("an own id: %+v", p)
	}
}

// An account that is deleted takes its archive with it: a new account of the same name has none of it, and
// the ids are none of its archive.
func TestDeletedAccount(t *testing.T) {
	s, ids := filled(t, sessiontest.Options{Modules: append(mod.DefaultNames(), "register")}, 3)
	juliet := s.Client("juliet")
	juliet.Send("<iq type='set' id='p'><prefs xmlns='urn:xmpp:mam:2' default='never'/></iq>")
	s.Settle()
	juliet.Send("<iq type='set' id='r'><query xmlns='jabber:iq:register'><remove/></query></iq>")
	s.Settle()
	if got := juliet.Received(); !strings.Contains(got, "<iq type='result' id='r'") {
		t.Fatal(got)
	}
	for range 2 {
		again := s.Login("again", "juliet@localhost/balcony")
		if ids, _ := everything(t, s, again); len(ids) > 0 {
			t.Errorf("a new account has %d messages", len(ids))
		}
		again.Send("<iq type='get' id='p'><prefs xmlns='urn:xmpp:mam:2'/></iq>" +
			"<iq type='get' id='m'><metadata xmlns='urn:xmpp:mam:2'/></iq>")
		s.Settle()
		got := again.Received()
		if !strings.Contains(got, "default='always'") || strings.Contains(got, "<start") {
			t.Errorf("a new account has: %s", got)
		}
		for _, id := range ids["juliet"] {
			if p := query(t, s, again, submit("ids", id)); p.condition != "item-not-found" {
				t.Errorf("an id of the old account: %+v", p)
			}
		}
		s.Restart()
	}
	left, _ := everything(t, s, s.Login("romeo", "romeo@localhost/orchard"))
	equal(t, "the other side", left, ids["romeo"])
}

// Beyond the bounds of the preferences there is an error, and nothing is changed.
func TestTooManyPreferences(t *testing.T) {
	s := free(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	send := func(n int, local string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "<jid>%s%d@h</jid>", local, i)
		}
		romeo.Send("<iq type='set' id='p'><prefs xmlns='urn:xmpp:mam:2' default='always'><never>" + b.String() +
			"</never></prefs></iq>")
		s.Settle()
		return romeo.Received()
	}
	if got := send(1000, "a"); !strings.Contains(got, "type='result'") {
		t.Errorf("1,000 addresses: %.300s", got)
	}
	for _, got := range []string{send(1001, "b"), send(300, strings.Repeat("long", 60))} {
		if match(errorText, got) != "policy-violation" {
			t.Errorf("too many: %.300s", got)
		}
	}
	romeo.Send("<iq type='get' id='p'><prefs xmlns='urn:xmpp:mam:2'/></iq>")
	s.Settle()
	if got := romeo.Received(); strings.Count(got, "<jid>a") != 1000 || strings.Contains(got, "<jid>b") {
		t.Errorf("the preferences are %.300s", got)
	}
}

// Forged ids (Prosody 2016): 1, 2 and 50 ids in the name of the recipient, also with the address written
// otherwise, are taken out of what its device gets and of its archive. Exactly one true id comes, and the
// archive has the message under it.
func TestAttackR03(t *testing.T) {
	s, _ := filled(t, sessiontest.Options{}, 0)
	romeo, juliet := s.Client("romeo"), s.Client("juliet")
	for _, n := range []int{1, 2, 50} {
		for _, by := range []string{"juliet@localhost", "JULIET@localhost", "juliet@LOCALHOST", "", "@@"} {
			id := "<stanza-id xmlns='urn:xmpp:sid:0' id='forged' by='" + by + "'/>"
			romeo.Send("<message to='juliet@localhost' type='chat'>" + strings.Repeat(id, n/2) + "<body>x</body>" +
				strings.Repeat(id, n-n/2) + "</message>")
			s.Settle()
			got := juliet.Received()
			if strings.Contains(got, "forged") || strings.Count(got, "<stanza-id ") != 1 {
				t.Errorf("%d by %q: %s", n, by, got)
			}
			p := query(t, s, juliet, set("<max>1</max><before/>"))
			if len(p.ids) != 1 || p.ids[0] != match(stanzaID, got) {
				t.Errorf("%d by %q: archived as %v, and it came as %s", n, by, p.ids, got)
			}
			juliet.Send("<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2'>" + set("<max>1</max><before/>") +
				"</query></iq>")
			s.Settle()
			if got := juliet.Received(); strings.Contains(got, "forged") {
				t.Errorf("%d by %q: the archive has %s", n, by, got)
			}
		}
	}
}
