// Package storetest is the conformance suite of package store: what every store must do, run
// against one that is fast, one that is slow, and one that fails. A test calls [Run] with a
// function that opens stores.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"canto/session/store"

	"pgregory.net/rapid"
)

// Open opens a store in fs with a fault, which may be nil. The suite closes the store. An error
// ends the test.
type Open func(tb testing.TB, fs store.FS, fault store.Fault) *store.DB

// The tables that the tests write to.
var (
	notes = store.NewMap[string, string]("storetest notes", '~', 1)
	logs  = store.NewLog[[]byte]("storetest logs", '}', 1)
)

// tables are notes and logs of one open store.
type tables struct {
	notes *store.Map[string, string]
	logs  *store.Log[[]byte]
}

// tablesOf opens the tables in db.
func tablesOf(tb testing.TB, db *store.DB) (t tables) {
	tb.Helper()
	var err error
	if t.notes, err = store.MapOf(db.Tables(), notes); err == nil {
		t.logs, err = store.LogOf(db.Tables(), logs)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// ErrFault is the error that a Flaky store injects.
var ErrFault = errors.New("storetest: injected failure")

// Slow returns a fault that makes every read and every group of writes take d longer.
func Slow(d time.Duration) store.Fault {
	return func(bool) error {
		time.Sleep(d)
		return nil
	}
}

// A Flaky makes a store fail while its flags are set. Any goroutine.
type Flaky struct {
	Reads  atomic.Bool // reads fail
	Writes atomic.Bool // groups of writes fail
}

// Fault is the [store.Fault] of f.
func (f *Flaky) Fault(write bool) error {
	if write && f.Writes.Load() || !write && f.Reads.Load() {
		return ErrFault
	}
	return nil
}

// Run runs the suite against the stores that open opens. Each test has a store of its own.
func Run(t *testing.T, open Open) {
	for _, kind := range []struct {
		name  string
		fault store.Fault
	}{{"fast", nil}, {"slow", Slow(2 * time.Millisecond)}} {
		t.Run(kind.name, func(t *testing.T) {
			o := func(tb testing.TB, fs store.FS) *store.DB { return open(tb, fs, kind.fault) }
			t.Run("Order", func(t *testing.T) { order(t, o) })
			t.Run("Owners", func(t *testing.T) { owners(t, o) })
			t.Run("Concurrent", func(t *testing.T) { concurrent(t, o) })
			t.Run("Notify", func(t *testing.T) { notify(t, o) })
			t.Run("Delete", func(t *testing.T) { deletes(t, o) })
			t.Run("Model", func(t *testing.T) { model(t, o) })
			t.Run("Entities", func(t *testing.T) { entities(t, o) })
		})
	}
	t.Run("Failing", func(t *testing.T) { failing(t, open) })
	t.Run("FailingEntities", func(t *testing.T) { failingEntities(t, open) })
	t.Run("QueuedAfterFailure", func(t *testing.T) { queuedAfterFailure(t, open) })
	t.Run("Closed", func(t *testing.T) { closed(t, open) })
}

// An openFunc opens a store whose fault is given.
type openFunc func(tb testing.TB, fs store.FS) *store.DB

// order checks that a later ticket wins, that a snapshot has exactly the batches committed before it, and
// that all batches are there when the store is opened again. Its steps: commit 100 batches and compare their
// tickets, take a snapshot and commit one more, read both, then close the store, open it and read it again.
func order(t *testing.T, open openFunc) {
	fs := store.NewMemFS()
	db := open(t, fs)
	tab := tablesOf(t, db)
	var last store.Ticket
	for i := range 100 {
		b := db.NewBatch(1)
		tab.notes.Put(b, 1, "k", fmt.Sprint(i))
		tab.notes.Put(b, 1, fmt.Sprint("row", i), "")
		tk := db.Commit(b)
		if tk <= last {
			t.Fatalf("ticket %d after %d", tk, last)
		}
		last = tk
	}
	snap := db.Snapshot()
	defer snap.Close()
	after := db.NewBatch(1)
	tab.notes.Put(after, 1, "k", "after")
	if err := db.Wait(context.Background(), db.Commit(after)); err != nil {
		t.Fatal(err)
	}
	if v, ok, err := tab.notes.Get(snap, 1, "k"); v != "99" || !ok || err != nil {
		t.Errorf("the snapshot has %q, %v, %v", v, ok, err)
	}
	if v, _, err := tab.notes.Get(db, 1, "k"); v != "after" || err != nil {
		t.Errorf("the store has %q, %v", v, err)
	}
	if db.Durable() < last || db.Failed(last) != nil {
		t.Error("waited, and not durable")
	}
	snap.Close()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, fs)
	defer db.Close()
	tab = tablesOf(t, db)
	if v, _, err := tab.notes.Get(db, 1, "k"); v != "after" || err != nil {
		t.Errorf("opened again it has %q, %v", v, err)
	}
	n := 0
	if err := tab.notes.Scan(db, 1, "row", func(string, string) bool {
		n++
		return true
	}); err != nil || n != 100 {
		t.Error(n, err)
	}
}

// owners checks that a batch with a row of another owner fails as a whole, and that no scan returns rows of
// another owner. Its steps: commit a batch with a row of another owner, one with each other change, and one
// without an owner; commit a refused batch next to a good one; then write and scan the rows of owners whose
// ids are next to each other or at the ends of the range.
func owners(t *testing.T, open openFunc) {
	db := open(t, store.NewMemFS())
	defer db.Close()
	tab := tablesOf(t, db)
	b := db.NewBatch(1)
	tab.notes.Put(b, 1, "mine", "1")
	tab.notes.Put(b, 2, "theirs", "1")
	if err := db.Wait(context.Background(), db.Commit(b)); !errors.Is(err, store.ErrOwner) {
		t.Errorf("a row of another: %v", err)
	}
	for _, f := range []func(b *store.Batch){
		func(b *store.Batch) { tab.notes.Delete(b, 2, "x") },
		func(b *store.Batch) { tab.notes.Clear(b, 2) },
		func(b *store.Batch) { tab.logs.Append(b, 2, 1, nil) },
		func(b *store.Batch) { tab.logs.Delete(b, 2, 1) },
		func(b *store.Batch) { tab.logs.Trim(b, 2, 1) },
		func(b *store.Batch) { tab.logs.Clear(b, 2) },
	} {
		b := db.NewBatch(1)
		f(b)
		if err := db.Wait(context.Background(), db.Commit(b)); !errors.Is(err, store.ErrOwner) {
			t.Errorf("a change of another's: %v", err)
		}
	}
	if err := db.Wait(context.Background(), db.Commit(db.NewBatch(0))); !errors.Is(err, store.ErrOwner) {
		t.Errorf("a batch of no entity: %v", err)
	}
	if _, ok, _ := tab.notes.Get(db, 1, "mine"); ok {
		t.Error("half a batch was written")
	}
	// A refused batch does not take its neighbours with it.
	good, bad := db.NewBatch(3), db.NewBatch(3)
	tab.notes.Put(good, 3, "k", "v")
	tab.notes.Put(bad, 4, "k", "v")
	t1, t2 := db.Commit(bad), db.Commit(good)
	if err := db.Wait(context.Background(), t2); err != nil {
		t.Error(err)
	}
	if db.Failed(t1) == nil || db.Failed(t2) != nil {
		t.Error(db.Failed(t1), db.Failed(t2))
	}
	ids := []uint64{1, 2, 255, 256, 1<<52 | 1, 1<<64 - 1}
	for _, id := range ids {
		b := db.NewBatch(id)
		tab.notes.Put(b, id, "k", fmt.Sprint(id))
		tab.logs.Append(b, id, 0, []byte{1})
		tab.logs.Append(b, id, 1<<64-1, []byte{2})
		if err := db.Wait(context.Background(), db.Commit(b)); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range ids {
		got := ""
		if err := tab.notes.Scan(db, id, "", func(k, v string) bool {
			got += k + v
			return true
		}); err != nil || got != "k"+fmt.Sprint(id) {
			t.Errorf("owner %d has %q, %v", id, got, err)
		}
		n := 0
		if err := tab.logs.Scan(db, id, 0, 1<<64-1, 0, true, func(uint64, []byte) bool {
			n++
			return true
		}); err != nil || n != 2 {
			t.Errorf("owner %d has %d entries, %v", id, n, err)
		}
	}
}

// Of batches that several goroutines commit at once none is lost, and those of one goroutine keep their
// order.
func concurrent(t *testing.T, open openFunc) {
	db := open(t, store.NewMemFS())
	defer db.Close()
	tab := tablesOf(t, db)
	const writers, each = 8, 100
	var wg sync.WaitGroup
	for w := range uint64(writers) {
		wg.Go(func() {
			var last store.Ticket
			for i := range each {
				b := db.NewBatch(w + 1)
				tab.notes.Put(b, w+1, "last", fmt.Sprint(i))
				tab.logs.Append(b, w+1, uint64(i), []byte("x"))
				last = db.Commit(b)
			}
			if err := db.Wait(context.Background(), last); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for w := range uint64(writers) {
		n := 0
		err := tab.logs.Scan(db, w+1, 0, 1<<64-1, 0, false, func(uint64, []byte) bool { n++; return true })
		if v, _, _ := tab.notes.Get(db, w+1, "last"); v != fmt.Sprint(each-1) || n != each || err != nil {
			t.Errorf("writer %d: %q, %d, %v", w, v, n, err)
		}
	}
	if g, b := db.Metrics().Groups.Load(), db.Metrics().Batches.Load(); g == 0 || g > b/4 {
		t.Errorf("%d batches were written in %d groups", b, g)
	}
}

// Commit callbacks hear of every ticket, in order, and only of tickets that are durable.
func notify(t *testing.T, open openFunc) {
	db := open(t, store.NewMemFS())
	defer db.Close()
	tab := tablesOf(t, db)
	heard := make(chan store.Ticket, 1000)
	last := db.Durable()
	db.OnCommit(func(tk store.Ticket, err error) {
		if err != nil || tk < last || db.Durable() < tk {
			t.Errorf("%d after %d, %v", tk, last, err)
		}
		last = tk
		heard <- tk
	})
	var want store.Ticket
	for range 50 {
		b := db.NewBatch(1)
		tab.notes.Put(b, 1, "k", "v")
		want = db.Commit(b)
	}
	for tk := range heard {
		if tk == want {
			break
		}
	}
	// An empty batch is a ticket too.
	want = db.Commit(db.NewBatch(1))
	for tk := range heard {
		if tk == want {
			break
		}
	}
}

// Deleted rows are gone, and no others.
func deletes(t *testing.T, open openFunc) {
	db := open(t, store.NewMemFS())
	defer db.Close()
	tab := tablesOf(t, db)
	for _, owner := range []uint64{4, 5, 6} {
		b := db.NewBatch(owner)
		for i := range 10 {
			tab.notes.Put(b, owner, fmt.Sprint(i), "v")
			tab.logs.Append(b, owner, uint64(i), []byte("x"))
		}
		db.Commit(b)
	}
	b := db.NewBatch(5)
	tab.notes.Clear(b, 5)
	tab.notes.Put(b, 5, "new", "v") // after the range, in the same batch
	tab.logs.Trim(b, 5, 4)
	tab.logs.Delete(b, 5, 7)
	db.Commit(b)
	snap := db.Snapshot()
	defer snap.Close()
	count := func(owner uint64) (n, l int, ids string) {
		if err := errors.Join(tab.notes.Scan(snap, owner, "", func(string, string) bool { n++; return true }),
			tab.logs.Scan(snap, owner, 0, 1<<64-1, 0, false, func(id uint64, _ []byte) bool {
				l++
				ids += fmt.Sprint(id, " ")
				return true
			})); err != nil {
			t.Fatal(err)
		}
		return n, l, ids
	}
	if n, l, ids := count(5); n != 1 || l != 5 || ids != "4 5 6 8 9 " {
		t.Error(n, l, ids)
	}
	for _, owner := range []uint64{4, 6} {
		if n, l, _ := count(owner); n != 10 || l != 10 {
			t.Error(owner, n, l)
		}
	}
}

// model checks that any sequence of batches, snapshots and restarts gives the same rows as a map. Each of up
// to 15 runs draws up to 12 steps: open the store again, compare a snapshot with the map, or commit a batch
// of random changes and make the same changes in the map. At the end it compares all rows.
func model(t *testing.T, open openFunc) {
	checks := 0
	rapid.Check(t, func(rt *rapid.T) {
		if checks++; checks > 15 {
			return // each opens stores: fifteen sequences a run, others every time
		}
		fs := store.NewMemFS()
		db := open(t, fs)
		defer func() { db.Close() }()
		tab := tablesOf(t, db)
		want := map[string]string{}
		rows := func(r store.Reader) string {
			var out []string
			for owner := uint64(1); owner <= 3; owner++ {
				if err := tab.notes.Scan(r, owner, "", func(k, v string) bool {
					out = append(out, fmt.Sprintf("%d/%q=%s", owner, k, v))
					return true
				}); err != nil {
					rt.Fatal(err)
				}
			}
			return strings.Join(out, "\n")
		}
		expected := func() string {
			var out []string
			for k, v := range want {
				out = append(out, k+"="+v)
			}
			sort.Strings(out)
			return strings.Join(out, "\n")
		}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.IntRange(0, 6).Draw(rt, "do") {
			case 0:
				if err := db.Close(); err != nil {
					rt.Fatal(err)
				}
				db = open(t, fs)
				tab = tablesOf(t, db)
			case 1:
				snap := db.Snapshot()
				got := rows(snap)
				snap.Close()
				if got != expected() {
					rt.Fatalf("there is\n%s\nand should be\n%s", got, expected())
				}
			default:
				owner := rapid.Uint64Range(1, 3).Draw(rt, "owner")
				b := db.NewBatch(owner)
				for range rapid.IntRange(0, 5).Draw(rt, "ops") {
					k := rapid.SampledFrom([]string{"", "a", "aa", "ab", "b\x00", "b\xff", "\x00\x01"}).Draw(rt, "key")
					name := fmt.Sprintf("%d/%q", owner, k)
					switch rapid.IntRange(0, 9).Draw(rt, "op") {
					case 0:
						tab.notes.Clear(b, owner)
						for n := range want {
							if strings.HasPrefix(n, fmt.Sprint(owner, "/")) {
								delete(want, n)
							}
						}
					case 1, 2:
						tab.notes.Delete(b, owner, k)
						delete(want, name)
					default:
						v := rapid.StringMatching(`[a-z]{0,3}`).Draw(rt, "value")
						tab.notes.Put(b, owner, k, v)
						want[name] = v
					}
				}
				db.Commit(b)
			}
		}
		snap := db.Snapshot()
		defer snap.Close()
		got := strings.Split(rows(snap), "\n")
		sort.Strings(got)
		if strings.Join(got, "\n") != expected() {
			rt.Fatalf("there is\n%q\nand should be\n%s", got, expected())
		}
	})
}

// failing checks that a store that fails reports each lost ticket as failed, and works again afterwards. Its
// steps: commit a batch; make writes fail and commit a second one, whose error Wait and the commit callback
// must report; let writes succeed and commit a third; then make reads fail, of the store and of a snapshot,
// and let them succeed again.
func failing(t *testing.T, open Open) {
	var flaky Flaky
	db := open(t, store.NewMemFS(), flaky.Fault)
	defer db.Close()
	tab := tablesOf(t, db)
	type event struct {
		last store.Ticket
		err  error
	}
	events := make(chan event, 100)
	put := func(v string) store.Ticket {
		b := db.NewBatch(1)
		tab.notes.Put(b, 1, "k", v)
		return db.Commit(b)
	}
	if err := db.Wait(context.Background(), put("first")); err != nil {
		t.Fatal(err)
	}
	db.OnCommit(func(last store.Ticket, err error) { events <- event{last, err} })
	flaky.Writes.Store(true)
	lost := put("lost")
	if err := db.Wait(context.Background(), lost); !errors.Is(err, ErrFault) ||
		!errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("a write that failed: %v", err)
	}
	if e := <-events; e.err == nil || e.last >= lost {
		t.Errorf("callbacks heard %+v of ticket %d", e, lost)
	}
	flaky.Writes.Store(false)
	kept := put("kept")
	if err := db.Wait(context.Background(), kept); err != nil {
		t.Fatal(err)
	}
	if e := <-events; e.err != nil || e.last < kept {
		t.Errorf("callbacks heard %+v of ticket %d", e, kept)
	}
	if db.Durable() < kept || db.Failed(lost) == nil || db.Failed(kept) != nil || db.Failed(lost-1) != nil {
		t.Error("a lost ticket counts as durable, or a kept one as lost")
	}
	if v, _, err := tab.notes.Get(db, 1, "k"); v != "kept" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	flaky.Reads.Store(true)
	snap := db.Snapshot()
	defer snap.Close()
	for name, r := range map[string]store.Reader{"store": db, "snapshot": snap} {
		if _, _, err := tab.notes.Get(r, 1, "k"); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		if err := tab.notes.Scan(r, 1, "", func(string, string) bool {
			return true
		}); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	flaky.Reads.Store(false)
	if v, _, err := tab.notes.Get(snap, 1, "k"); v != "kept" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
}

// The batches that are queued when a group fails, fail with it: no caller waits for ever.
func queuedAfterFailure(t *testing.T, open Open) {
	var armed atomic.Bool
	in, out := make(chan struct{}), make(chan struct{})
	db := open(t, store.NewMemFS(), func(write bool) error {
		if write && armed.CompareAndSwap(true, false) {
			in <- struct{}{}
			<-out
			return ErrFault
		}
		return nil
	})
	defer db.Close()
	tab := tablesOf(t, db)
	put := func(k string) store.Ticket {
		b := db.NewBatch(1)
		tab.notes.Put(b, 1, k, "v")
		return db.Commit(b)
	}
	armed.Store(true)
	first := put("first")
	<-in
	second, third := put("second"), put("third")
	out <- struct{}{}
	for _, tk := range []store.Ticket{first, second, third} {
		if err := db.Wait(context.Background(), tk); !errors.Is(err, ErrFault) {
			t.Errorf("ticket %d: %v", tk, err)
		}
	}
	if err := db.Wait(context.Background(), put("fourth")); err != nil {
		t.Error(err)
	}
	got := ""
	if err := tab.notes.Scan(db, 1, "", func(k, _ string) bool {
		got += k
		return true
	}); err != nil || got != "fourth" {
		t.Errorf("%q, %v", got, err)
	}
}

// A closed store refuses, and does not panic or hang.
func closed(t *testing.T, open Open) {
	db := open(t, store.NewMemFS(), nil)
	tab := tablesOf(t, db)
	b := db.NewBatch(1)
	tab.notes.Put(b, 1, "k", "v")
	before := db.Commit(b)
	if err := errors.Join(db.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	if err := db.Wait(context.Background(), before); err != nil {
		t.Errorf("what was given before Close: %v", err)
	}
	b = db.NewBatch(1)
	tab.notes.Put(b, 1, "k", "w")
	if err := db.Wait(context.Background(), db.Commit(b)); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("commit: %v", err)
	}
	if _, _, err := tab.notes.Get(db, 1, "k"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("get: %v", err)
	}
	snap := db.Snapshot()
	if _, _, err := tab.notes.Get(snap, 1, "k"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("snapshot: %v", err)
	}
	if err := errors.Join(snap.Close(), snap.Close()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := db.Wait(ctx, db.Last()+10); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for what was never given: %v", err)
	}
}

// Of several goroutines that make entities of one name at once, whatever their kind, one succeeds;
// the first rows of its entity are stored with it, and none of the others'. When the entity is
// removed its name is free. Its rows are left until they are erased, also after a restart.
func entities(t *testing.T, open openFunc) {
	ctx := context.Background()
	fs := store.NewMemFS()
	db := open(t, fs)
	tab := tablesOf(t, db)
	const names, makers = 8, 6
	var mu sync.Mutex
	ids := map[uint64]bool{}
	made := map[string]store.Entry{}
	var wg sync.WaitGroup
	for i := range names * makers {
		wg.Go(func() {
			e := store.Entry{Domain: "example.org", Local: fmt.Sprint("n", i%names)}
			e.Kind = fmt.Sprint("kind-", i/names)
			var err error
			if i/names == 0 {
				e.Kind = store.KindAccount
				e.ID, err = db.Accounts().Create(ctx, e.Domain, e.Local, nil)
			} else {
				var b *store.Batch
				if b, err = db.Entities().New(e.Domain, e.Local, e.Kind); err == nil {
					e.ID = b.Owner()
					tab.notes.Put(b, e.ID, "kind", e.Kind)
					err = db.Wait(ctx, db.Commit(b))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if e.ID != 0 && ids[e.ID] {
				t.Errorf("id %#x was given twice", e.ID)
			}
			ids[e.ID] = true
			if err == nil {
				if was, twice := made[e.Local]; twice {
					t.Errorf("both %v and %v were made", was, e)
				}
				made[e.Local] = e
			} else if !errors.Is(err, store.ErrExists) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, fs)
	defer db.Close()
	tab = tablesOf(t, db)
	var list []store.Entry
	if err := db.Entities().List(db, "example.org", "", func(e store.Entry) bool {
		list = append(list, e)
		return true
	}); err != nil || len(list) != names || len(made) != names {
		t.Fatal(list, err)
	}
	for _, e := range list {
		if m := made[e.Local]; e.ID != m.ID || e.Kind != m.Kind {
			t.Errorf("%+v was made, and there is %+v", m, e)
		}
		kind, ok, err := tab.notes.Get(db, e.ID, "kind")
		if err != nil || ok != (e.Kind != store.KindAccount) || ok && kind != e.Kind {
			t.Errorf("%+v has the row %q, %v", e, kind, err)
		}
		b := db.NewBatch(e.ID)
		tab.notes.Put(b, e.ID, "kind", "gone")
		db.Entities().Remove(b, e)
		if err := db.Wait(ctx, db.Commit(b)); err != nil {
			t.Error(err)
		}
		again := db.NewBatch(e.ID)
		db.Entities().Remove(again, e)
		if err := db.Wait(ctx, db.Commit(again)); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("removed twice: %v", err)
		}
		if _, there, err := db.Entities().Lookup(db, e.Domain, e.Local); there || err != nil {
			t.Error("it is still there", err)
		}
	}
	var gone []store.Entry
	if err := db.Entities().Deleted(db, func(e store.Entry) bool {
		gone = append(gone, e)
		return true
	}); err != nil || len(gone) != names {
		t.Fatal(gone, err)
	}
	for _, e := range gone {
		if m := made[e.Local]; e.ID != m.ID || e.Kind != m.Kind {
			t.Errorf("%+v was made, and %+v removed", m, e)
		}
		if v, _, err := tab.notes.Get(db, e.ID, "kind"); v != "gone" || err != nil {
			t.Errorf("%+v has %q left, %v", e, v, err)
		}
		if err := db.Wait(ctx, db.Entities().Erase(e.ID)); err != nil {
			t.Error(err)
		}
		if _, left, err := tab.notes.Get(db, e.ID, "kind"); left || err != nil {
			t.Error("it is erased and has rows", err)
		}
	}
	if err := db.Entities().Deleted(db, func(e store.Entry) bool {
		t.Errorf("%+v is left", e)
		return true
	}); err != nil {
		t.Error(err)
	}
}

// A store that can't read can't say that a name is free: a batch that would take it is refused. A
// store that can't write leaves the name free.
func failingEntities(t *testing.T, open Open) {
	ctx := context.Background()
	var flaky Flaky
	db := open(t, store.NewMemFS(), flaky.Fault)
	defer db.Close()
	var ids []uint64
	add := func() error {
		b, err := db.Entities().New("example.org", "a", "room")
		if err != nil {
			t.Fatal(err) // it neither reads nor writes
		}
		ids = append(ids, b.Owner())
		return db.Wait(ctx, db.Commit(b))
	}
	for _, fails := range []*atomic.Bool{&flaky.Reads, &flaky.Writes} {
		fails.Store(true)
		if err := add(); !errors.Is(err, ErrFault) || !errors.Is(err, store.ErrUnavailable) {
			t.Error(err)
		}
		if _, err := db.Accounts().Create(ctx, "example.org", "a", nil); !errors.Is(err, ErrFault) {
			t.Error(err)
		}
		fails.Store(false)
	}
	if err := add(); err != nil {
		t.Error(err)
	}
	e, ok, err := db.Entities().Lookup(db, "example.org", "a")
	if !ok || err != nil || e.ID != ids[len(ids)-1] {
		t.Errorf("%+v, %v", e, err)
	}
}
