package bench

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"canto/bench/result"
	"canto/bench/stub"
	"canto/xmlstream"
)

// reading fills an archive by one writer, and reads pages of it one after another.
const reading = `
name = "reading"
requires = ["mam"]
[[group]]
name = "reader"
count = 1
[[group]]
name = "writer"
count = 1
[[phase]]
kind = "ramp"
[[phase]]
name = "fill"
kind = "fill"
group = ["writer"]
to = "reader"
rows = 200
in_flight = 20
[[phase]]
name = "read"
kind = "hold"
length = "600ms"
group = ["reader"]
[[phase.do]]
kind = "archive"
pages = "%s"
page = 20
window = 1
[[phase]]
kind = "drain"
`

func readingPages(t *testing.T, pages string) *Scenario {
	t.Helper()
	return scenario(t, fmt.Sprintf(reading, pages))
}

// Pages whose rows are in order, each once and without holes, are right, whichever way they are asked for;
// and each page that the stub spoils is counted.
func TestPageFaultsAreCounted(t *testing.T) {
	for _, c := range []struct {
		name, pages string
		do          func(f *stub.Faults)
		why         string
	}{
		{"dropped", pagesLast, func(f *stub.Faults) { f.DropRows(3) }, "a page had a hole"},
		{"dropped", pagesWalk, func(f *stub.Faults) { f.DropRows(3) }, "a page had a hole"},
		{"duplicated", pagesFirst, func(f *stub.Faults) { f.DuplicateRows(2) }, "a row came twice"},
		{"swapped", pagesWith, func(f *stub.Faults) { f.SwapRows(2) }, "rows were out of order"},
		{"skipped", pagesWalk, func(f *stub.Faults) { f.SkipRows(4) }, "rows between two pages are missing"},
		{"none", pagesWalk, nil, ""}, {"none", pagesLast, nil, ""}, {"none", pagesFirst, nil, ""},
		{"none", pagesBefore, nil, ""}, {"none", pagesAfter, nil, ""}, {"none", pagesWith, nil, ""},
		{"none", pagesStart, nil, ""},
	} {
		t.Run(c.name+" "+c.pages, func(t *testing.T) {
			s, target := start(t, stub.Config{Archiving: true})
			if c.do != nil {
				c.do(s.Faults)
			}
			r := run(t, readingPages(t, c.pages), target)
			st, stats := stepOf(t, r, "read", "archive"), s.Stats()
			// The last spoilt page of a walk may be the last one of the run: then none is there that lacks its row.
			spare := uint64(0)
			if c.name == "skipped" {
				spare = 1
			}
			if st.Wrong > stats.WrongPages || st.Wrong+spare < stats.WrongPages || st.Done < 10 ||
				c.do != nil && st.Wrong < 2 {
				t.Errorf("%d pages done, %d wrong; the stub: %+v", st.Done, st.Wrong, stats)
			}
			if st.Done != stats.Pages || st.Lost+st.Failed+st.Duplicated != 0 {
				t.Errorf("%+v; the stub: %+v", st, stats)
			}
			text := fmt.Sprint(r.Refusals)
			if !strings.Contains(text, c.why) || c.why == "" && len(r.Refusals) > 0 || len(r.Refusals) > 1 {
				t.Errorf("the failures are %s", text)
			}
			if f, ok := r.Figure("read.archive.wrong"); !ok || f.Value != float64(st.Wrong) {
				t.Errorf("the figure is %+v", f)
			}
			if st := stepOf(t, r, "fill", "fill"); st.Done != 200 || st.Sent != 200 {
				t.Errorf("the fill: %+v", st)
			}
		})
	}
}

// element parses one.
func element(t *testing.T, text string) xmlstream.Element {
	t.Helper()
	e, err := xmlstream.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// A row that a walk never gets to is missing, too: the archive begins with the first message.
func TestOldestRowsMissing(t *testing.T) {
	q := &pageQuery{walk: true, most: 10, rows: 2, first: map[rowKey]uint32{{1, 2, 3}: 1},
		last: map[rowKey]uint32{{1, 2, 3}: 2}}
	new(archiveReader).check(q, element(t, "<fin xmlns='urn:xmpp:mam:2' complete='true'>"+
		"<set xmlns='http://jabber.org/protocol/rsm'><first>a</first></set></fin>"))
	if q.fault != "the oldest rows are missing" {
		t.Errorf("%q", q.fault)
	}
}

// What a page says of itself is checked.
func TestPageEnds(t *testing.T) {
	k := rowKey{1, 2, 3}
	at := func(n uint32) map[rowKey]uint32 { return map[rowKey]uint32{k: n} }
	named := row{id: "x", key: k, seq: 7}
	const set = "<set xmlns='http://jabber.org/protocol/rsm'><first>a</first></set>"
	for _, c := range []struct {
		q       pageQuery
		in, why string
	}{
		{pageQuery{pages: pagesLast, most: 2, rows: 3}, set, "a page had more rows than were asked for"},
		{pageQuery{pages: pagesLast, most: 2, rows: 2}, "", "a page does not say which row is its first"},
		{pageQuery{pages: pagesLast, most: 2}, "", "a page had no rows, and was not the last"},
		{pageQuery{pages: pagesAfter, most: 2, rows: 2, anchor: named, first: at(9)}, set,
			"a page does not begin after the row that was named"},
		{pageQuery{pages: pagesAfter, most: 2, rows: 2, anchor: named, first: at(8)}, set, ""},
		{pageQuery{pages: pagesBefore, most: 2, rows: 2, anchor: named, last: at(7)}, set,
			"a page does not end before the row that was named"},
		{pageQuery{pages: pagesBefore, most: 2, rows: 2, anchor: named, last: at(6)}, set, ""},
		{pageQuery{pages: pagesFirst, most: 2, rows: 2, first: at(1)}, set, "the oldest rows are missing"},
		{pageQuery{pages: pagesFirst, most: 2, rows: 2, first: at(0)}, set, ""},
	} {
		new(archiveReader).check(&c.q, element(t, "<fin xmlns='urn:xmpp:mam:2'>"+c.in+"</fin>"))
		if c.q.fault != c.why {
			t.Errorf("%+v, %s: %q, not %q", c.q, c.in, c.q.fault, c.why)
		}
	}
}

// A page that begins somewhere in the archive needs ids of messages, which a server may not name.
func TestPagesWithoutIDs(t *testing.T) {
	_, target := start(t, stub.Config{})
	r := run(t, readingPages(t, pagesAfter), target)
	st := stepOf(t, r, "read", "archive")
	if st.Done != 0 || st.Failed == 0 || len(r.Refusals) != 1 ||
		!strings.Contains(r.Refusals[0].What, "no message has come with an id of its receiver's archive") {
		t.Errorf("%+v, %v", st, r.Refusals)
	}
}

// Each thing that can be wrong with a row is told.
func TestRowFaults(t *testing.T) {
	_, target := start(t, stub.Config{})
	f, err := NewFleet(readingPages(t, pagesAfter), target, Assignment{Workers: 1}, 9)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ls, c := f.loops[0], f.members("reader")[0]
	query := traceID{run: f.run, boot: bootID, step: 3, from: c.index, seq: 1}
	id := string(query.append(nil))
	at := time.Now()
	message := func(from, to string, seq uint32) string {
		k := traceID{run: f.run, boot: bootID, step: 2, from: 1, seq: seq}
		return fmt.Sprintf("<message xmlns='jabber:client' id='%s' from='%s' to='%s'/>", k.append(nil), from, to)
	}
	good := message("bench1@localhost/x", "bench0@localhost", 5)
	stamp := func(d time.Duration) string {
		return "<delay xmlns='urn:xmpp:delay' stamp='" + at.Add(d).UTC().Format(time.RFC3339) + "'/>"
	}
	for _, tt := range []struct {
		pages, from, queryid, inner string
		want                        string
	}{
		{pagesLast, "", id, good, ""},
		{pagesLast, "bench0@localhost", id, good, ""},
		{pagesLast, "mallory@localhost", id, good, "a page was not from its archive"},
		{pagesLast, "", id, "<other xmlns='x'/>", "a row of an archive has no message"},
		{pagesLast, "", id, message("bench1@localhost", "bench1@localhost", 5), "a row is of other accounts"},
		{pagesWith, "", id, good, ""},
		{pagesStart, "", id, good, "a row of an archive has no time"},
		{pagesStart, "", id, stamp(-time.Hour) + good, "a row is older than was asked for"},
		{pagesStart, "", id, stamp(0) + good, ""},
		{pagesLast, "", "q", good, ""},
	} {
		q := &pageQuery{step: 3, seq: 1, pages: tt.pages, most: 9, anchor: row{key: rowKey{from: 1}, at: at},
			first: make(map[rowKey]uint32), last: make(map[rowKey]uint32)}
		c.archiveReader().queries = []*pageQuery{q}
		from := ""
		if tt.from != "" {
			from = " from='" + tt.from + "'"
		}
		e := element(t, "<message xmlns='jabber:client'"+from+"><result xmlns='urn:xmpp:mam:2' queryid='"+
			tt.queryid+"' id='r'><forwarded xmlns='urn:xmpp:forward:0'>"+tt.inner+"</forwarded></result></message>")
		x, _ := e.First()
		ls.failures = nil
		f.archiveRow(ls, c, e, x)
		if q.fault != tt.want {
			t.Errorf("%s, from %q, %s: %q, not %q", tt.pages, tt.from, tt.inner, q.fault, tt.want)
		}
		if stray := tt.queryid != id; stray != (len(ls.failures) == 1) || stray != (q.rows == 0) {
			t.Errorf("query %s: %d rows, %v", tt.queryid, q.rows, ls.failures)
		}
	}
	// A row of another contact: the one that was asked for is the reader itself, say.
	q := &pageQuery{pages: pagesWith, step: 3, seq: 1, anchor: row{key: rowKey{from: 1}},
		first: make(map[rowKey]uint32), last: make(map[rowKey]uint32)}
	c.reader.queries = []*pageQuery{q}
	k := traceID{run: f.run, boot: bootID, step: 2, from: 0}
	e := element(t, fmt.Sprintf("<message xmlns='jabber:client'><result xmlns='urn:xmpp:mam:2' queryid='%s' "+
		"id='r'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' id='%s' "+
		"from='bench0@localhost/x' to='bench0@localhost'/></forwarded></result></message>", id, k.append(nil)))
	x, _ := e.First()
	f.archiveRow(ls, c, e, x)
	if q.fault != "a row is of another contact than was asked for" {
		t.Errorf("%q", q.fault)
	}
}

// The random choice of rows is bounded, and of all messages.
func TestSamples(t *testing.T) {
	_, target := start(t, stub.Config{})
	f, err := NewFleet(readingPages(t, pagesAfter), target, Assignment{Workers: 1}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := f.members("reader")[0]
	if c.flags&flagSamples == 0 || f.members("writer")[0].flags&flagSamples != 0 {
		t.Error("the reader alone keeps samples")
	}
	const n = 4000
	for i := range uint32(n) {
		for _, by := range []string{"bench0@localhost", "mallory@localhost"} {
			f.sample(f.loops[0], c, element(t, fmt.Sprintf("<message xmlns='jabber:client'><stanza-id "+
				"xmlns='urn:xmpp:sid:0' by='%s' id='%s%d'/></message>", by, by, i)), traceID{step: 1, from: 1, seq: i})
		}
	}
	late := 0
	for _, s := range c.reader.samples {
		if s.id != fmt.Sprintf("bench0@localhost%d", s.seq) {
			t.Errorf("%+v", s)
		}
		if s.seq >= n/2 {
			late++
		}
	}
	if len(c.reader.samples) != maxSamples || late < maxSamples/8 || late > maxSamples*7/8 {
		t.Errorf("%d samples, %d of the second half", len(c.reader.samples), late)
	}
}

// A fill whose messages do not arrive ends with a reason.
func TestFillTooSlow(t *testing.T) {
	s, target := start(t, stub.Config{})
	s.Faults.Drop(10)
	sc := readingPages(t, pagesLast)
	sc.Phases[1].Length = Span(2e9)
	_, err := Run(t.Context(), sc, target, Options{})
	if err == nil ||
		!strings.Contains(err.Error(), "of 200 messages were handled, and the phase's length was over") {
		t.Errorf("the error is %v", err)
	}
}

// Logins to an account with messages that wait bring them, and rounds log in again.
func TestArchiveLogin(t *testing.T) {
	s, target := start(t, stub.Config{Archiving: true, Offline: true})
	sc, err := Find("archive-login")
	if err != nil {
		t.Fatal(err)
	}
	if err := sc.Override(Overrides{Rows: 30, Clients: 32}); err != nil {
		t.Fatal(err)
	}
	r, err := Run(t.Context(), sc, target, Options{Progress: func(p result.Progress) {
		for p.Phase == "gone" && int(s.Stats().Sessions) > sc.group("writers").Count {
			time.Sleep(time.Millisecond)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	groups := map[string]uint64{}
	for _, g := range sc.Groups {
		groups[g.Name] = uint64(g.Count)
	}
	for _, c := range []struct {
		phase, step string
		want        uint64
	}{{"fill", "fill", 30 * groups["full"]}, {"wait", "fill", 100 * groups["waiting"]},
		{"empty", "login", 50 * groups["empty"]}, {"full", "login", 50 * groups["full"]},
		{"waiting", "login", groups["waiting"]}} {
		if st := stepOf(t, r, c.phase, c.step); st.Done != c.want || st.Expected != c.want ||
			st.Lost+st.Failed+st.Duplicated+st.Reordered+st.Wrong != 0 {
			t.Errorf("%s: want %d, %+v", c.phase, c.want, st)
		}
	}
}
