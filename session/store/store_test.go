package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"
)

var ctx = context.Background()

var (
	rosters  = NewMap[string, []byte]("roster", 'r', 1)
	archives = NewLog[string]("archive", 'm', 1)
)

// quiet returns the options of tests: a store in memory, without checks of the free space.
func quiet(fs FS) Options {
	return Options{Dir: "db", FS: fs, CheckEvery: -1, Ballast: -1, MemTableBytes: 1 << 20, CacheBytes: 1 << 20,
		Logger: slog.New(slog.DiscardHandler)}
}

func open(t testing.TB, o Options) *DB {
	t.Helper()
	db, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestMapAndLog(t *testing.T) {
	fs := NewMemFS()
	db := open(t, quiet(fs))
	r, m := must(MapOf(db.Tables(), rosters))(t), must(LogOf(db.Tables(), archives))(t)
	b := db.NewBatch(7)
	for _, k := range []string{"b", "a", "c"} {
		r.Put(b, 7, k, []byte("v"+k))
	}
	for i := uint64(1); i <= 10; i++ {
		m.Append(b, 7, i, fmt.Sprint("entry ", i))
	}
	other := db.NewBatch(8)
	r.Put(other, 8, "z", []byte("x"))
	m.Append(other, 8, 3, "theirs")
	db.Commit(b)
	if err := db.Wait(ctx, db.Commit(other)); err != nil {
		t.Fatal(err)
	}
	check := func(db *DB, r *Map[string, []byte], m *Log[string]) {
		t.Helper()
		snap := db.Snapshot()
		defer snap.Close()
		if v, ok, err := r.Get(snap, 7, "a"); err != nil || !ok || string(v) != "va" {
			t.Fatalf("%q %v %v", v, ok, err)
		}
		if _, ok, err := r.Get(snap, 8, "a"); err != nil || ok {
			t.Fatal("a row of another owner", err)
		}
		if got := scanMap(t, r, snap, 7, ""); got != "a=va b=vb c=vc " {
			t.Fatal(got)
		}
		if got := scanMap(t, r, snap, 7, "b"); got != "b=vb c=vc " {
			t.Fatal(got)
		}
		for _, c := range []struct {
			from, to uint64
			limit    int
			reverse  bool
			want     string
		}{
			{0, 1<<64 - 1, 0, false, "1 2 3 4 5 6 7 8 9 10 "},
			{0, 1<<64 - 1, 3, true, "10 9 8 "},
			{3, 5, 0, false, "3 4 5 "},
			{3, 5, 2, true, "5 4 "},
			{6, 5, 0, false, ""},
			{11, 1<<64 - 1, 0, false, ""},
		} {
			got := ""
			err := m.Scan(snap, 7, c.from, c.to, c.limit, c.reverse, func(id uint64, v string) bool {
				if v != fmt.Sprint("entry ", id) {
					t.Errorf("%d: %q", id, v)
				}
				got += fmt.Sprint(id, " ")
				return true
			})
			if err != nil || got != c.want {
				t.Errorf("scan %v: %q, %v", c, got, err)
			}
		}
		if id, ok, err := m.Last(snap, 7); id != 10 || !ok || err != nil {
			t.Error(id, ok, err)
		}
	}
	check(db, r, m)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, quiet(fs))
	r, m = must(MapOf(db.Tables(), rosters))(t), must(LogOf(db.Tables(), archives))(t)
	check(db, r, m)
	if db.Incarnation() != 2 {
		t.Error("incarnation", db.Incarnation())
	}
	b = db.NewBatch(7)
	r.Delete(b, 7, "b")
	m.Trim(b, 7, 9)
	db.Commit(b)
	snap := db.Snapshot() // sees what was given before, durable or not
	defer snap.Close()
	if got := scanMap(t, r, snap, 7, ""); got != "a=va c=vc " {
		t.Error(got)
	}
	if _, ok, _ := m.Get(snap, 7, 8); ok {
		t.Error("trimmed entry")
	}
	if v, ok, _ := m.Get(snap, 7, 9); !ok || v != "entry 9" {
		t.Error("entry 9", v)
	}
	if v, ok, _ := m.Get(snap, 8, 3); !ok || v != "theirs" {
		t.Error("another's entry", v)
	}
}

func scanMap(t testing.TB, m *Map[string, []byte], r Reader, owner uint64, from string) (got string) {
	t.Helper()
	if err := m.Scan(r, owner, from, func(k string, v []byte) bool {
		got += k + "=" + string(v) + " "
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestAccounts(t *testing.T) {
	o := quiet(NewMemFS())
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	o.Now = func() time.Time { return now }
	db := open(t, o)
	acc := db.Accounts()
	id, err := acc.Create(ctx, "Example.org", "Juliet", []byte("keys"))
	if err != nil {
		t.Fatal(err)
	}
	j := must(Account{Domain: "example.org", Local: "juliet"}.JID())(t)
	if IDPartition(id) != j.Partition() || id == 0 {
		t.Errorf("id %#x, partition %d", id, j.Partition())
	}
	if _, err := acc.Create(ctx, "example.org", "JULIET", nil); !errors.Is(err, ErrExists) {
		t.Errorf("twice: %v", err)
	}
	a := must(acc.Get(db, "example.org", "juliet"))(t)
	if a.ID != id || string(a.Credentials) != "keys" || !a.Created.Equal(now) || !a.Banned.IsZero() {
		t.Errorf("%+v", a)
	}
	now = now.Add(time.Hour)
	if err := errors.Join(acc.SetKeys(ctx, "example.org", "juliet", []byte("new")),
		acc.Ban(ctx, "example.org", "juliet", "spam"), acc.SetFlags(ctx, "example.org", "juliet", 5)); err != nil {
		t.Fatal(err)
	}
	a = must(acc.Get(db, "example.org", "juliet"))(t)
	if a.ID != id || string(a.Credentials) != "new" || !a.Banned.Equal(now) || a.BanReason != "spam" ||
		a.Flags != 5 {
		t.Errorf("%+v", a)
	}
	if err := acc.Unban(ctx, "example.org", "juliet"); err != nil {
		t.Fatal(err)
	}
	if a = must(acc.Get(db, "example.org", "juliet"))(t); !a.Banned.IsZero() || a.BanReason != "" {
		t.Errorf("%+v", a)
	}
	// Keys are replaced only where those are still there that were read, and the account is the same one.
	for _, c := range []struct {
		id        uint64
		old, keys string
		done      bool
	}{{id, "keys", "older", false}, {id + 1, "new", "another's", false}, {id, "new", "renewed", true},
		{id, "new", "again", false}} {
		if done, err := acc.ReplaceKeys(ctx, "example.org", "juliet", c.id, []byte(c.old),
			[]byte(c.keys)); err != nil || done != c.done {
			t.Errorf("%+v: %v %v", c, done, err)
		}
	}
	if a = must(acc.Get(db, "example.org", "juliet"))(t); string(a.Credentials) != "renewed" || a.Flags != 5 {
		t.Errorf("%+v", a)
	}
	if done, err := acc.ReplaceKeys(ctx, "example.org", "absent", id, nil, nil); done ||
		!errors.Is(err, ErrNotFound) {
		t.Errorf("%v %v", done, err)
	}
	for _, n := range []string{"b", "a", "d", "c"} {
		must(acc.Create(ctx, "example.net", n, nil))(t)
	}
	must(acc.Create(ctx, "example.nethack", "x", nil))(t)
	list := func(domain, after string, n int) (got string) {
		if err := acc.List(db, domain, after, func(a Account) bool {
			got += a.Local + "@" + a.Domain + " "
			n--
			return n != 0
		}); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := list("example.net", "", 0); got != "a@example.net b@example.net c@example.net d@example.net " {
		t.Error(got)
	}
	if got := list("example.net", "b", 1); got != "c@example.net " {
		t.Error(got)
	}
	if got := list("", "", 0); got != "a@example.net b@example.net c@example.net d@example.net "+
		"x@example.nethack juliet@example.org " {
		t.Error(got)
	}
	for _, err := range []error{
		second(acc.Delete(ctx, "example.net", "zz")), acc.Ban(ctx, "no.example", "a", ""),
		acc.SetKeys(ctx, "", "", nil),
		func() error { _, err := acc.Get(db, "a\x00b", "c"); return err }(),
	} {
		if !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	}
}

func TestHosts(t *testing.T) {
	db := open(t, quiet(NewMemFS()))
	h := db.Hosts()
	if name := must(h.Add(ctx, "B.example."))(t); name != "b.example" {
		t.Error(name)
	}
	must(h.Add(ctx, "a.example"))(t)
	if _, err := h.Add(ctx, "b.EXAMPLE"); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	if _, err := h.Add(ctx, "b..example"); err == nil {
		t.Error("a bad name was taken")
	}
	list := func() (got string) {
		if err := h.List(db, func(r HostRecord) bool { got += r.Domain + " "; return true }); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := list(); got != "a.example b.example " {
		t.Error(got)
	}
	if err := h.Delete(ctx, "A.example"); err != nil {
		t.Error(err)
	}
	if err := h.Delete(ctx, "a.example"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if got := list(); got != "b.example " {
		t.Error(got)
	}
}

func second[T any](_ T, err error) error { return err }
