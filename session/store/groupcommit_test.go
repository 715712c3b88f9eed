package store

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A syncFS counts the syncs of the write-ahead log, and lets each of them wait for hold, if that is not nil.
type syncFS struct {
	vfs.FS
	syncs atomic.Int64
	hold  atomic.Pointer[func()]
}

func (fs *syncFS) of(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil || path.Ext(name) != ".log" {
		return f, err
	}
	return syncFile{f, fs}, nil
}

func (fs *syncFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, c)
	return fs.of(name, f, err)
}

func (fs *syncFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(from, to, c)
	return fs.of(to, f, err)
}

func (fs *syncFS) synced() {
	fs.syncs.Add(1)
	if f := fs.hold.Load(); f != nil {
		(*f)()
	}
}

type syncFile struct {
	vfs.File
	fs *syncFS
}

func (f syncFile) Sync() error     { f.fs.synced(); return f.File.Sync() }
func (f syncFile) SyncData() error { f.fs.synced(); return f.File.SyncData() }

// atOnce runs f on n goroutines, and holds the syncs of fs until they have given db as many batches as
// queued, for at most so long. It returns how many syncs there were.
func atOnce(db *DB, fs *syncFS, n, queued int, most time.Duration, f func(i int)) int64 {
	want := db.Last() + Ticket(queued)
	deadline := time.Now().Add(most)
	hold := func() {
		for db.Last() < want && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
	}
	fs.hold.Store(&hold)
	defer fs.hold.Store(nil)
	before := fs.syncs.Load()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
	return fs.syncs.Load() - before
}

// A thousand accounts that are made at once share a few syncs; each has an id of its own.
func TestCreateSharesSyncs(t *testing.T) {
	const n = 1000
	fs := &syncFS{FS: NewMemFS()}
	db := open(t, quiet(fs))
	ids := make([]uint64, n)
	syncs := atOnce(db, fs, n, n, 10*time.Second, func(i int) {
		var err error
		ids[i], err = db.Accounts().Create(ctx, "example.org", fmt.Sprint("u", i), []byte("keys"))
		if err != nil {
			t.Error(err)
		}
	})
	if syncs > 10 {
		t.Errorf("%d accounts took %d syncs", n, syncs)
	}
	seen := map[uint64]bool{}
	for i, id := range ids {
		a := must(db.Accounts().Get(db, "example.org", fmt.Sprint("u", i)))(t)
		if a.ID != id || seen[id] {
			t.Fatalf("account %d has the id %#x, and was told %#x", i, a.ID, id)
		}
		seen[id] = true
	}
}

// Of many goroutines that make one account at once, one succeeds, and the others get ErrExists.
func TestCreateOneName(t *testing.T) {
	const n = 200
	fs := &syncFS{FS: NewMemFS()}
	db := open(t, quiet(fs))
	var made, taken atomic.Int64
	var id atomic.Uint64
	atOnce(db, fs, n, 2, 100*time.Millisecond, func(i int) {
		got, err := db.Accounts().Create(ctx, "example.org", "juliet", fmt.Append(nil, i))
		switch {
		case err == nil:
			made.Add(1)
			id.Store(got)
		case errors.Is(err, ErrExists) && strings.Contains(err.Error(), "account juliet@example.org exists"):
			taken.Add(1)
		default:
			t.Error(err)
		}
	})
	if made.Load() != 1 || taken.Load() != n-1 {
		t.Errorf("%d made it, %d were told that it exists", made.Load(), taken.Load())
	}
	if a := must(db.Accounts().Get(db, "example.org", "juliet"))(t); a.ID != id.Load() {
		t.Errorf("the account has the id %#x, its maker was told %#x", a.ID, id.Load())
	}
	if f := db.Metrics().Failed.Load(); f != 0 {
		t.Errorf("%d batches count as failed", f)
	}
}

// CreateMany reports the names that were taken between its read and its write, and makes the other accounts.
func TestCreateManyAmongOthers(t *testing.T) {
	h := newHoldWrites()
	o := quiet(NewMemFS())
	o.Fault = h.fault
	db := open(t, o)
	must(MapOf(db.Tables(), rosters))(t)
	must(LogOf(db.Tables(), archives))(t)
	h.hold(db)
	room, tk := makeEntity(t, db, "example.org", "b", "room") // no reader sees it yet
	list := []NewAccount{{"example.org", "a", nil}, {"example.org", "b", nil}, {"example.org", "c", nil}}
	var ids []uint64
	var err error
	failed := map[int]error{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		ids, err = db.Accounts().CreateMany(ctx, list, func(i int, err error) { failed[i] = err })
	}()
	waitFor(t, func() bool { return db.Last() >= tk+3 })
	h.out <- nil
	<-done
	if err != nil || len(failed) != 1 || !errors.Is(failed[1], ErrExists) {
		t.Fatal(err, failed)
	}
	for i, want := range []string{"a", "", "c"} {
		if (ids[i] != 0) != (want != "") || want != "" && lookup(t, db, "example.org", want).ID != ids[i] {
			t.Errorf("%d has the id %#x", i, ids[i])
		}
	}
	if e := lookup(t, db, "example.org", "b"); e.ID != room || e.Kind != "room" {
		t.Errorf("%+v", e)
	}
}

// When several goroutines change one account at once, no change is lost, and a deleted account stays deleted.
func TestChangesAtOnce(t *testing.T) {
	fs := &syncFS{FS: NewMemFS()}
	db := open(t, quiet(fs))
	acc := db.Accounts()
	for round := range 20 {
		name := fmt.Sprint("u", round)
		id := must(acc.Create(ctx, "example.org", name, nil))(t)
		var deleted atomic.Bool
		atOnce(db, fs, 4, 3, 100*time.Millisecond, func(i int) {
			var err error
			switch i {
			case 0:
				err = acc.Ban(ctx, "example.org", name, "spam")
			case 1:
				err = acc.SetKeys(ctx, "example.org", name, []byte("new"))
			case 2:
				err = acc.SetFlags(ctx, "example.org", name, 5)
			case 3:
				if round%2 == 1 {
					_, err = acc.Delete(ctx, "example.org", name)
					deleted.Store(err == nil)
				} else {
					_, err = acc.ReplaceKeys(ctx, "example.org", name, id+1, nil, []byte("another's"))
				}
			}
			if err != nil && (round%2 == 0 || !errors.Is(err, ErrNotFound)) {
				t.Error(err)
			}
		})
		a, err := acc.Get(db, "example.org", name)
		switch {
		case round%2 == 1 && (!deleted.Load() || !errors.Is(err, ErrNotFound)):
			t.Errorf("a deleted account is there: %v, %v", a, err)
		case round%2 == 0 && (err != nil || a.ID != id || a.BanReason != "spam" || a.Flags != 5 ||
			string(a.Credentials) != "new"):
			t.Errorf("%+v, %v", a, err)
		}
	}
}

// Every ticket that failed is known to have failed, however many did and whatever succeeded between them.
func TestFailuresAreRemembered(t *testing.T) {
	db := open(t, quiet(NewMemFS()))
	m := must(MapOf(db.Tables(), rosters))(t)
	var bad []Ticket
	var last Ticket
	for range 3000 {
		b := db.NewBatch(1)
		m.Put(b, 2, "k", nil) // not its own
		bad = append(bad, db.Commit(b))
		b = db.NewBatch(1)
		m.Put(b, 1, "k", nil)
		last = db.Commit(b)
	}
	if err := db.Wait(ctx, last); err != nil {
		t.Fatal(err)
	}
	for _, tk := range bad {
		if err := db.Failed(tk); !errors.Is(err, ErrOwner) || db.Failed(tk+1) != nil {
			t.Fatalf("ticket %d: %v, and the next: %v", tk, err, db.Failed(tk+1))
		}
	}
}

// Where failures are too many to be remembered, no ticket from among them counts as durable.
func TestFailuresAreForgotten(t *testing.T) {
	var c committer
	for i := range Ticket(maxFailed + 10) {
		c.failLocked(2*i+2, 2*i+2, ErrFull)
	}
	db := &DB{}
	db.committer.failures, db.committer.lastForgotten = c.failures, c.lastForgotten
	db.committer.anyFailed.Store(true)
	if len(c.failures) != maxFailed {
		t.Errorf("%d are remembered", len(c.failures))
	}
	for _, x := range []struct {
		t    Ticket
		want error
	}{
		{0, nil}, {1, ErrUnavailable}, {2, ErrUnavailable}, {20, ErrUnavailable},
		{21, nil}, {22, ErrFull}, {23, nil},
		{2*maxFailed + 20, ErrFull}, {2*maxFailed + 21, nil},
	} {
		if err := db.Failed(x.t); !errors.Is(err, x.want) {
			t.Errorf("ticket %d: %v", x.t, err)
		}
	}
}

// Accounts that are made by many goroutines at once, as by registration: accounts per second, and syncs for
// each.
func BenchmarkCreate(b *testing.B) {
	o := quiet(nil)
	o.Dir = b.TempDir()
	db := open(b, o)
	keys := make([]byte, 250)
	var n atomic.Uint64
	before := db.Metrics().Groups.Load()
	b.SetParallelism(500)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			name := fmt.Sprint("u", n.Add(1))
			if _, err := db.Accounts().Create(ctx, "example.org", name, keys); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "accounts/s")
	b.ReportMetric(float64(db.Metrics().Groups.Load()-before)/float64(b.N), "syncs/op")
}
