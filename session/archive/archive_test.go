package archive

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"canto/session/stanzaid"
	"canto/session/store"
)

// memory returns the options of a store in memory.
func memory() store.Options {
	return store.Options{FS: store.NewMemFS(), Dir: "data", MinFree: 1, Ballast: -1, CheckEvery: -1}
}

// openStore opens a store in memory with the tables of archives.
func openStore(t testing.TB) (*store.DB, *Archive) {
	db, err := store.Open(memory())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	a, err := Open(db.Tables())
	if err != nil {
		t.Fatal(err)
	}
	return db, a
}

// entry is one row of the slice that the model compares with.
type entry struct {
	id   stanzaid.ID
	with string
	text string
}

// seeds makes a model run as many cases as CANTO_SEEDS says; 100 without it.
func seeds(t *testing.T) {
	n := os.Getenv("CANTO_SEEDS")
	if n == "" {
		return
	}
	was := flag.Lookup("rapid.checks").Value.String()
	if err := flag.Set("rapid.checks", n); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { flag.Set("rapid.checks", was) })
}

// Paging against a slice: rows arrive and are trimmed between pages, in two archives at once. Each page has
// what the slice has; following the pages in either direction passes each row that was there at the start
// exactly once, unless it was trimmed; an id that is gone is not found.
func TestPages(t *testing.T) {
	seeds(t)
	rapid.Check(t, func(t *rapid.T) {
		db, a := openModel(t)
		defer db.Close()
		m := &model{db: db, a: a, next: 1 << 40}
		t.Repeat(map[string]func(*rapid.T){
			"append": m.append,
			"run":    m.run,
			"trim":   m.trim,
			"page":   m.page,
			"reload": m.reload,
			"walk":   m.walk,
		})
	})
}

// openModel opens a store for one case of the model.
func openModel(t *rapid.T) (*store.DB, *Archive) {
	db, err := store.Open(memory())
	if err != nil {
		t.Fatal(err)
	}
	a, err := Open(db.Tables())
	if err != nil {
		t.Fatal(err)
	}
	return db, a
}

// A model is an archive, and what it must have.
type model struct {
	db   *store.DB
	a    *Archive
	sum  Summary
	rows []entry
	next stanzaid.ID
}

const (
	modelOwner = 7
	otherOwner = 8
)

// jids are the other sides of the model's messages.
var jids = []string{"a@h/1", "a@h/2", "b@h/1", "b@h", "cc@h/long resource"}

// append adds up to 20 rows, at times that may be months apart, and rows of another archive beside them.
func (m *model) append(t *rapid.T) {
	b, other := m.db.NewBatch(modelOwner), m.db.NewBatch(otherOwner)
	var beside Summary
	for range rapid.IntRange(1, 20).Draw(t, "rows") {
		m.next += stanzaid.ID(rapid.SampledFrom([]uint64{1, 2, 1 << 22, 1 << 40, 1 << 53, 1 << 54}).Draw(t, "step"))
		e := entry{m.next, rapid.SampledFrom(jids).Draw(t, "with"),
			string(bytes.Repeat([]byte("x"), rapid.IntRange(0, 300).Draw(t, "size")))}
		m.a.Append(b, modelOwner, &m.sum, e.id, Row{With: e.with, Element: []byte(e.text)})
		m.a.Append(other, otherOwner, &beside, e.id, Row{With: e.with, Element: []byte("other")})
		m.rows = append(m.rows, e)
	}
	m.db.Commit(other)
	if err := m.db.Wait(context.Background(), m.db.Commit(b)); err != nil {
		t.Fatal(err)
	}
}

// run adds a run of rows with one JID, in one batch or in several. The index may have several entries for it.
func (m *model) run(t *rapid.T) {
	with := rapid.SampledFrom(jids).Draw(t, "with")
	each := rapid.SampledFrom([]int{1, 1000}).Draw(t, "rows of a batch")
	b := m.db.NewBatch(modelOwner)
	for range rapid.IntRange(1, 3*runRows).Draw(t, "rows") {
		m.next += stanzaid.ID(rapid.SampledFrom([]uint64{1, 1 << 30}).Draw(t, "step"))
		e := entry{m.next, with, "x"}
		m.a.Append(b, modelOwner, &m.sum, e.id, Row{With: e.with, Element: []byte(e.text)})
		m.rows = append(m.rows, e)
		if b.Len() >= each {
			m.db.Commit(b)
			b = m.db.NewBatch(modelOwner)
		}
	}
	if err := m.db.Wait(context.Background(), m.db.Commit(b)); err != nil {
		t.Fatal(err)
	}
}

// trim deletes the oldest rows by one of the bounds.
func (m *model) trim(t *rapid.T) {
	bound := Bound{MaxRows: uint64(rapid.IntRange(0, 30).Draw(t, "max rows")),
		MaxBytes: uint64(rapid.IntRange(0, 4000).Draw(t, "max bytes"))}
	if len(m.rows) > 0 {
		bound.Before = m.rows[rapid.IntRange(0, len(m.rows)-1).Draw(t, "before")].id +
			stanzaid.ID(rapid.IntRange(0, 1).Draw(t, "beyond"))
		if rapid.Bool().Draw(t, "keep") {
			bound.Keep = m.rows[rapid.IntRange(0, len(m.rows)-1).Draw(t, "kept")].id
		}
	}
	first, row, err := m.a.Find(m.db, modelOwner, m.sum, bound)
	if err != nil {
		t.Fatal(err)
	}
	b := m.db.NewBatch(modelOwner)
	n := m.a.Trim(b, modelOwner, &m.sum, first, row)
	if err := m.db.Wait(context.Background(), m.db.Commit(b)); err != nil {
		t.Fatal(err)
	}
	size, gone := 0, 0
	for i := len(m.rows) - 1; i >= 0; i-- {
		size += len(m.rows[i].text)
		left := uint64(len(m.rows) - i)
		if id := m.rows[i].id; (bound.Keep == 0 || id < bound.Keep) && (id < bound.Before ||
			bound.MaxRows > 0 && left > bound.MaxRows || bound.MaxBytes > 0 && uint64(size) > bound.MaxBytes) {
			gone = i + 1
			break
		}
	}
	if n != uint64(gone) {
		t.Fatalf("%d rows of %d were trimmed, want %d", n, len(m.rows), gone)
	}
	m.rows = m.rows[gone:]
}

// reload reads the summary again, and compares it with the one in memory.
func (m *model) reload(t *rapid.T) {
	s, err := m.a.Load(m.db, modelOwner)
	if err != nil {
		t.Fatal(err)
	}
	if s.Count() != uint64(len(m.rows)) || s.Count() != m.sum.Count() || s.Bytes() != m.sum.Bytes() ||
		s.First != m.sum.First || s.Last != m.sum.Last {
		t.Fatalf("loaded %+v, in memory %+v, %d rows", s, m.sum, len(m.rows))
	}
	if len(m.rows) > 0 {
		m.sum = s
	}
}

// query draws a query, and returns it with the rows that it matches.
func (m *model) query(t *rapid.T) (q Query, all []entry, found bool) {
	found = true
	id := func(what string) stanzaid.ID {
		switch i := rapid.IntRange(-8, len(m.rows)).Draw(t, what); {
		case i < -1:
			return 0
		case i == -1 || i == len(m.rows):
			found = false
			return m.next + 1
		default:
			return m.rows[i].id
		}
	}
	q.Max = rapid.IntRange(0, 12).Draw(t, "max")
	q.Backwards = rapid.Bool().Draw(t, "backwards")
	q.AfterID, q.BeforeID = id("after-id"), id("before-id")
	if rapid.Bool().Draw(t, "by with") {
		q.With = rapid.SampledFrom(append([]string{"a@h", "b@h", "cc@h", "d@h"}, jids...)).Draw(t, "with")
	}
	if len(m.rows) > 0 && rapid.IntRange(0, 3).Draw(t, "by time") == 0 {
		q.Start = m.rows[rapid.IntRange(0, len(m.rows)-1).Draw(t, "start")].id.Time()
		q.End = m.rows[rapid.IntRange(0, len(m.rows)-1).Draw(t, "end")].id.Time().Add(
			time.Duration(rapid.IntRange(0, 999_999).Draw(t, "nanoseconds")))
	}
	for _, e := range m.rows {
		if q.With != "" && e.with != q.With && bareOf(e.with) != q.With || e.id <= q.AfterID ||
			q.BeforeID != 0 && e.id >= q.BeforeID || !q.Start.IsZero() && e.id.Time().Before(q.Start) ||
			!q.End.IsZero() && e.id.Time().After(q.End) {
			continue
		}
		all = append(all, e)
	}
	return q, all, found
}

// page reads one page.
func (m *model) page(t *rapid.T) {
	q, all, found := m.query(t)
	snap := m.db.Snapshot()
	defer snap.Close()
	p, err := m.a.Page(snap, modelOwner, q)
	if !found {
		if !errors.Is(err, ErrNotFound) {
			t.Fatalf("%+v: %v", q, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	want := all[:min(q.Max, len(all))]
	if q.Backwards {
		want = all[len(all)-len(want):]
	}
	m.compare(t, q, p, want, all)
}

// compare compares a page with what it must have.
func (m *model) compare(t *rapid.T, q Query, p Page, want, all []entry) {
	if len(p.Items) != len(want) {
		t.Fatalf("%+v: %d rows, want %d", q, len(p.Items), len(want))
	}
	for i, it := range p.Items {
		if it.ID != want[i].id || string(it.Row.Element) != want[i].text || it.Row.With != want[i].with {
			t.Fatalf("%+v: row %d is %d with %s, want %d with %s", q, i, it.ID, it.Row.With, want[i].id, want[i].with)
		}
	}
	if q.Max > 0 && p.Complete != (len(want) == len(all)) {
		t.Fatalf("%+v: complete %v with %d of %d rows", q, p.Complete, len(want), len(all))
	}
	if q.With == "" && q.Start.IsZero() {
		if p.Count != len(all) {
			t.Fatalf("%+v: count %d of %d", q, p.Count, len(all))
		}
		if len(want) > 0 && !q.Backwards && p.Index != slices.Index(all, want[0]) {
			t.Fatalf("%+v: index %d, want %d", q, p.Index, slices.Index(all, want[0]))
		}
	}
}

// walk follows the pages from one end to the other. Between pages rows arrive, and old ones may go.
func (m *model) walk(t *rapid.T) {
	backwards, with := rapid.Bool().Draw(t, "backwards"), ""
	if rapid.Bool().Draw(t, "by with") {
		with = rapid.SampledFrom([]string{"a@h", "b@h"}).Draw(t, "with")
	}
	var must []stanzaid.ID
	for _, e := range m.rows {
		if with == "" || bareOf(e.with) == with {
			must = append(must, e.id)
		}
	}
	q := Query{With: with, Backwards: backwards, Max: rapid.IntRange(1, 7).Draw(t, "max")}
	var got []stanzaid.ID
	for steps := 0; ; steps++ {
		p, err := m.a.Page(m.db, modelOwner, q)
		if errors.Is(err, ErrNotFound) && len(m.rows) > 0 {
			return // the id went between the pages: the client is told so
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range p.Items {
			got = append(got, it.ID)
		}
		if p.Complete || len(p.Items) == 0 {
			break
		}
		if backwards {
			q.Before = p.Items[0].ID
		} else {
			q.After = p.Items[len(p.Items)-1].ID
		}
		if steps < 30 && rapid.IntRange(0, 4).Draw(t, "meanwhile") == 0 {
			m.append(t)
		}
	}
	for _, id := range must {
		n := 0
		for _, g := range got {
			if g == id {
				n++
			}
		}
		if n != 1 {
			t.Fatalf("row %d came %d times", id, n)
		}
	}
}

// A page is cut by bytes and by rows, and one row always fits (attack P07).
func TestPageLimits(t *testing.T) {
	db, a := openStore(t)
	var s Summary
	b := db.NewBatch(1)
	for i := range 600 {
		a.Append(b, 1, &s, stanzaid.ID(1000+i), Row{With: "a@h", Element: make([]byte, 10)})
	}
	for i := range 3 {
		a.Append(b, 1, &s, stanzaid.ID(2000+i), Row{With: "a@h", Element: make([]byte, MaxBytes-1)})
	}
	if err := db.Wait(context.Background(), db.Commit(b)); err != nil {
		t.Fatal(err)
	}
	for _, max := range []int{MaxRows + 1, 1 << 20, math.MaxInt} {
		p, err := a.Page(db, 1, Query{Max: max})
		if err != nil || len(p.Items) != MaxRows || p.Complete || p.Count != 603 {
			t.Errorf("max %d: %d rows, complete %v, %v", max, len(p.Items), p.Complete, err)
		}
	}
	p, err := a.Page(db, 1, Query{Max: 10, Backwards: true})
	if err != nil || len(p.Items) != 1 || p.Items[0].ID != 2002 || p.Complete {
		t.Errorf("%d large rows, %v", len(p.Items), err)
	}
	p, err = a.Page(db, 1, Query{Max: 10, IDs: []stanzaid.ID{1003, 1001, 1003}})
	if err != nil || len(p.Items) != 2 || p.Items[0].ID != 1001 || !p.Complete {
		t.Errorf("by ids: %d rows, %v", len(p.Items), err)
	}
	if _, err = a.Page(db, 1, Query{Max: 10, IDs: []stanzaid.ID{1003, 9}}); !errors.Is(err, ErrNotFound) {
		t.Errorf("an id that is not there: %v", err)
	}
}

// A row without an entry of its own in the index is lost together with the row that has the entry of its run:
// whatever is there can be found.
func TestRunAfterLoss(t *testing.T) {
	var failing atomic.Bool
	o := memory()
	o.Fault = func(write bool) error {
		if write && failing.Load() {
			return errors.New("no disk")
		}
		return nil
	}
	db, err := store.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	a, err := Open(db.Tables())
	if err != nil {
		t.Fatal(err)
	}
	var s Summary
	row := func(id stanzaid.ID, with string) *store.Batch {
		b := db.NewBatch(1)
		a.Append(b, 1, &s, id, Row{With: with, Element: []byte("x")})
		return b
	}
	give := func(b *store.Batch) error { return db.Wait(t.Context(), db.Commit(b)) }
	found := func(with string) (n int) {
		for _, backwards := range []bool{false, true} {
			p, err := a.Page(db, 1, Query{With: with, Max: 10, Backwards: backwards})
			if err != nil || backwards && len(p.Items) != n {
				t.Fatalf("%d rows, then %d, %v", n, len(p.Items), err)
			}
			n = len(p.Items)
		}
		return n
	}
	for id := stanzaid.ID(1); id <= 3; id++ {
		b := row(id, "a@h")
		if got, want := b.Len(), 1; id > 1 && got != want {
			t.Errorf("row %d of a run: %d writes, want %d", id, got, want)
		}
		if err := give(b); err != nil {
			t.Fatal(err)
		}
	}
	failing.Store(true)
	first := db.Commit(row(4, "b@h"))
	second := row(5, "b@h") // built before the loss is known
	if db.Wait(t.Context(), first) == nil {
		t.Fatal("the fault does not work")
	}
	failing.Store(false)
	if err := give(second); err == nil {
		t.Error("the second row of a run is stored, the first is not")
	}
	if err := give(row(6, "b@h")); err != nil { // built after it
		t.Error(err)
	}
	if err := give(row(7, "b@h")); err != nil {
		t.Error(err)
	}
	if n, m := found("a@h"), found("b@h"); n != 3 || m != 2 {
		t.Errorf("found %d rows of a, %d of b", n, m)
	}
	if s, err = a.Load(db, 1); err != nil {
		t.Fatal(err)
	}
	if err := give(row(8, "b@h")); err != nil || found("b@h") != 3 {
		t.Errorf("after a read: %v, %d rows", err, found("b@h"))
	}
}

// A page whose filter leaves out most rows ends after a bounded number of them, and says where to go on.
func TestExamined(t *testing.T) {
	db, a := openStore(t)
	var s Summary
	for i := 0; i < 2*maxExamined; {
		b := db.NewBatch(1)
		for range 1000 {
			i++
			with := "a@h/1"
			if i == 2*maxExamined {
				with = "a@h/2"
			}
			a.Append(b, 1, &s, stanzaid.ID(i), Row{With: with, Element: []byte("x")})
		}
		if err := db.Wait(context.Background(), db.Commit(b)); err != nil {
			t.Fatal(err)
		}
	}
	q := Query{With: "a@h/2", Max: 10}
	p, err := a.Page(db, 1, q)
	if err != nil || len(p.Items) != 0 || p.Complete || p.Last != maxExamined {
		t.Fatalf("%d rows, complete %v, last %d, %v", len(p.Items), p.Complete, p.Last, err)
	}
	q.After = p.Last
	if p, err = a.Page(db, 1, q); err != nil || len(p.Items) != 1 {
		t.Fatalf("then %d rows, %v", len(p.Items), err)
	}
}

// A stored row comes back as it was; damaged ones are errors.
func FuzzRow(f *testing.F) {
	f.Add(appendRow(nil, Row{Sent | Waiting, 3, 400, -5, "a@h/r", AppendDevice(nil, "orchard"),
		[]byte("<message/>")}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRow(1, b)
		if err != nil {
			return
		}
		again, err := decodeRow(1, appendRow(nil, r))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(r) {
			t.Errorf("%v, then %v, %v", r, again, err)
		}
		r.DeviceNames()
	})
}

// The names of devices are bounded, whatever a client calls itself.
func TestDevices(t *testing.T) {
	var d []byte
	for i := range 100 {
		d = AppendDevice(d, fmt.Sprint(i, string(bytes.Repeat([]byte("x"), 100))))
	}
	names := Row{Devices: d}.DeviceNames()
	if len(d) > 1024+65 || len(names) < 15 || len(names[0]) != 64 {
		t.Errorf("%d bytes, %d names", len(d), len(names))
	}
}

// BenchmarkPage reads pages of 50 from the middle of archives of 10³, 10⁵ and 10⁷ rows, and of those with one
// of 100 JIDs. CANTO_BENCH_ROWS adds the largest.
func BenchmarkPage(b *testing.B) {
	sizes := []int{1_000, 100_000}
	if os.Getenv("CANTO_BENCH_ROWS") != "" {
		sizes = append(sizes, 10_000_000)
	}
	for _, n := range sizes {
		db, err := store.Open(store.Options{Dir: b.TempDir(), MinFree: 1, Ballast: -1, CheckEvery: -1})
		if err != nil {
			b.Fatal(err)
		}
		a, err := Open(db.Tables())
		if err != nil {
			b.Fatal(err)
		}
		fill(b, db, a, n)
		for _, with := range []string{"", "user50@example.org"} {
			b.Run(fmt.Sprintf("rows=%d,with=%v", n, with != ""), func(b *testing.B) {
				b.ReportAllocs()
				for i := range b.N {
					// Pages all over the archive, each after a row that exists and is not in a cache.
					at := stanzaid.ID(1+(uint64(i)*7919)%uint64(n)) << 20
					q := Query{With: with, Max: 50, After: at}
					snap := db.Snapshot()
					if _, err := a.Page(snap, 1, q); err != nil {
						b.Fatal(err)
					}
					snap.Close()
				}
			})
		}
		db.Close()
	}
}

// fill writes n rows, a quarter of a second apart, with 100 JIDs.
func fill(b *testing.B, db *store.DB, a *Archive, n int) {
	var s Summary
	el := bytes.Repeat([]byte("<message xmlns='jabber:client'>"), 6)
	var last store.Ticket
	for i := 0; i < n; {
		batch := db.NewBatch(1)
		for range 100 {
			i++
			with := fmt.Sprintf("user%d@example.org", i%100)
			a.Append(batch, 1, &s, stanzaid.ID(i)<<20, Row{With: with + "/phone", Element: el})
		}
		last = db.Commit(batch)
		if i%100_000 == 0 {
			if err := db.Wait(context.Background(), last); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := db.Wait(context.Background(), last); err != nil {
		b.Fatal(err)
	}
}
