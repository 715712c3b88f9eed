package store

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand"
	randv2 "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"canto/session/jid"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// Text of peers in keys: two different rows never share a store key, and no scan leaves its owner.
func FuzzAttackH15(f *testing.F) {
	for _, s := range []string{"", "a", "a\x00b", "\xff\xff", "|", "u|x\x00",
		"\x00\x00\x00\x00\x00\x00\x00\x01", strings.Repeat("\xff", 9)} {
		f.Add(uint64(1), s, uint64(2), s+"x", "example.org", s, s, "example.org")
		f.Add(uint64(1)<<56, "\x00"+s, uint64(256), s, s, "a", "a", s)
	}
	r, m := &rosters.table, &archives.table
	f.Fuzz(func(t *testing.T, o1 uint64, k1 string, o2 uint64, k2, d1, l1, d2, l2 string) {
		key := func(tab *table, o uint64, k string) string { return string(append(tab.ownerKey(nil, o), k...)) }
		seen := map[string]string{}
		add := func(key, what string) {
			if was, ok := seen[key]; ok && was != what {
				t.Fatalf("%s and %s have the key %q", was, what, key)
			}
			seen[key] = what
		}
		for _, tab := range []*table{r, m} {
			for _, c := range []struct {
				o uint64
				k string
			}{{o1, k1}, {o1, k2}, {o2, k1}, {o2, k2}} {
				k := key(tab, c.o, c.k)
				add(k, fmt.Sprintf("%s %d %q", tab.name, c.o, c.k))
				for _, o := range []uint64{o1, o2} {
					lo, hi := tab.ownerKey(nil, o), tab.ownerEnd(nil, o)
					if in := k >= string(lo) && k < string(hi); in != (o == c.o) {
						t.Fatalf("row %q of %d in the range of %d: %v", c.k, c.o, o, in)
					}
				}
			}
		}
		for _, d := range []string{d1, d2} {
			for _, l := range []string{l1, l2} {
				k, err := entityKey(d, l)
				if err != nil {
					continue
				}
				add(string(k), fmt.Sprintf("account %q %q", d, l))
				for _, other := range []string{d1, d2} {
					lo, hi := prefixRange(append(append([]byte{prefixEntities}, other...), 0))
					inRange := string(k) >= string(lo) && string(k) < string(hi)
					if strings.IndexByte(other, 0) < 0 && inRange != (d == other) {
						t.Fatalf("account %q of %q in the range of %q", l, d, other)
					}
				}
			}
		}
	})
}

// The same in a store: names of peers with every separator that there is.
func TestAttackH15(t *testing.T) {
	db := open(t, quiet(NewMemFS()))
	r := must(MapOf(db.Tables(), rosters))(t)
	keys := []string{"", "\x00", "\xff", "|", "a|b", "a\x00b", "\x00\x00\x00\x00\x00\x00\x00\x02k",
		strings.Repeat("\xff", 20)}
	ids := []uint64{1, 2, 3, 0x0100000000000000, ^uint64(0)}
	for _, id := range ids {
		b := db.NewBatch(id)
		for _, k := range keys {
			r.Put(b, id, k, fmt.Append(nil, id, k))
		}
		if err := db.Wait(ctx, db.Commit(b)); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range ids {
		n := 0
		if err := r.Scan(db, id, "", func(k string, v []byte) bool {
			if string(v) != fmt.Sprint(id, k) {
				t.Errorf("%d has %q", id, v)
			}
			n++
			return true
		}); err != nil || n != len(keys) {
			t.Errorf("%d has %d rows, %v", id, n, err)
		}
	}
	b := db.NewBatch(1)
	r.Put(b, 1, strings.Repeat("k", maxKey), nil)
	if err := db.Wait(ctx, db.Commit(b)); !errors.Is(err, ErrKey) {
		t.Errorf("a key of %d bytes: %v", maxKey, err)
	}
	b = db.NewBatch(1)
	for range 10 {
		r.Put(b, 1, "k", make([]byte, 1<<20))
	}
	if err := db.Wait(ctx, db.Commit(b)); !errors.Is(err, ErrKey) {
		t.Errorf("a batch of 10 MiB: %v", err)
	}
	for _, n := range [][2]string{{"a\x00b", "c"}, {"a", "b\x00c"}, {"", "a"}, {"a", ""}} {
		if _, err := db.Accounts().Create(ctx, n[0], n[1], nil); err == nil {
			t.Errorf("an account %q", n)
		}
	}
}

// A new account with the name of a deleted one inherits nothing.
func TestAttackS11(t *testing.T) {
	fs := NewMemFS()
	db := open(t, quiet(fs))
	r, m := must(MapOf(db.Tables(), rosters))(t), must(LogOf(db.Tables(), archives))(t)
	acc := db.Accounts()
	seen := map[uint64]bool{}
	for round := range 5 {
		id := must(acc.Create(ctx, "example.org", "bob", []byte{byte(round)}))(t)
		if seen[id] {
			t.Fatalf("id %#x was given twice", id)
		}
		seen[id] = true
		if got := scanMap(t, r, db, id, ""); got != "" {
			t.Fatal("inherited", got)
		}
		b := db.NewBatch(id)
		r.Put(b, id, "contact", []byte("x"))
		m.Append(b, id, 1, "secret")
		if err := db.Wait(ctx, db.Commit(b)); err != nil {
			t.Fatal(err)
		}
		if err := acc.SetFlags(ctx, "example.org", "bob", 1); err != nil {
			t.Fatal(err)
		}
		if round == 2 { // rows of modules that are not loaded now go too, and ids go on
			db.Close()
			db = open(t, quiet(fs))
			acc = db.Accounts()
		}
		gone, err := acc.Delete(ctx, "example.org", "bob")
		if err != nil || gone != (DeletedAccount{id, "example.org", "bob"}) {
			t.Fatal(gone, err)
		}
		if _, err := acc.Get(db, "example.org", "bob"); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		// What it has stays until its contacts were notified, after a restart too.
		db.Close()
		db = open(t, quiet(fs))
		acc = db.Accounts()
		left := func() (list []DeletedAccount) {
			if err := acc.Deleted(db, func(d DeletedAccount) bool {
				list = append(list, d)
				return true
			}); err != nil {
				t.Fatal(err)
			}
			return list
		}
		if got := left(); len(got) != 1 || got[0] != gone {
			t.Fatal(got)
		}
		if got := scanMap(t, must(MapOf(db.Tables(), rosters))(t), db, id, ""); got == "" {
			t.Fatal("nothing is left to tell its contacts by")
		}
		if err := db.Wait(ctx, acc.Erase(id)); err != nil || len(left()) != 0 {
			t.Fatal(err, left())
		}
		r, m = must(MapOf(db.Tables(), rosters))(t), must(LogOf(db.Tables(), archives))(t)
		if got := scanMap(t, r, db, id, ""); got != "" {
			t.Fatal("left", got)
		}
		if _, ok, err := m.Last(db, id); ok || err != nil {
			t.Fatal("left in the archive", err)
		}
		if _, err := acc.Get(db, "example.org", "bob"); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
	}
	// Neighbours stay.
	a, b2 := must(acc.Create(ctx, "example.org", "a", nil))(t), must(acc.Create(ctx, "example.org", "b", nil))(t)
	b := db.NewBatch(b2)
	r.Put(b, b2, "k", []byte("v"))
	db.Commit(b)
	if err := db.Wait(ctx, acc.Erase(must(acc.Delete(ctx, "example.org", "a"))(t).ID)); err != nil {
		t.Fatal(err)
	}
	if got := scanMap(t, r, db, b2, ""); got != "k=v " || a == b2 {
		t.Error(got)
	}
}

// The store keeps the version of the Unicode tables that names were prepared by. Names that another version
// would change are found.
func TestAttackK53(t *testing.T) {
	fs := NewMemFS()
	db := open(t, quiet(fs))
	if v, err := db.UnicodeVersion(); v != jid.UnicodeVersion || err != nil {
		t.Error(v, err)
	}
	must(db.Accounts().Create(ctx, "example.org", "stable", nil))(t)
	b := db.systemBatch()
	b.set(keyUnicode, []byte("3.2"))
	old := Account{ID: 99, Domain: "example.org", Local: "\uff21lt", Created: time.Unix(1, 0)}
	key := must(entityKey(old.Domain, old.Local))(t)
	b.set(key, old.encode())
	if err := db.Wait(ctx, db.Commit(b)); err != nil {
		t.Fatal(err)
	}
	db.Close()
	db = open(t, quiet(fs))
	if v, err := db.UnicodeVersion(); v != "3.2" || err != nil {
		t.Error(v, err)
	}
	got := ""
	if err := db.Accounts().NotNormalized(db, func(a Account) bool {
		got += a.Local
		return true
	}); err != nil || got != old.Local {
		t.Errorf("%q, %v", got, err)
	}
	if err := db.SetUnicodeVersion(ctx); err != nil {
		t.Fatal(err)
	}
	if v, _ := db.UnicodeVersion(); v != jid.UnicodeVersion {
		t.Error(v)
	}
}

// Nothing acknowledged is lost by kill -9: a process commits, prints what is durable, and is killed.
func TestAttackK63(t *testing.T) {
	if dir := os.Getenv("CANTO_STORE_CRASH"); dir != "" {
		crashChild(t, dir)
		return
	}
	dir := filepath.Join(t.TempDir(), "db")
	told := map[uint64]uint64{} // owner: its last entry that is durable
	for round := range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestAttackK63$")
		cmd.Env = append(os.Environ(), "CANTO_STORE_CRASH="+dir, fmt.Sprint("CANTO_STORE_ROUND=", round))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := 0
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			var owner, id uint64
			if n, _ := fmt.Sscanf(sc.Text(), "durable %d %d", &owner, &id); n == 2 {
				told[owner] = id
				lines++
			}
			if lines == 300 {
				cmd.Process.Kill()
				break
			}
		}
		for sc.Scan() { // what it said before it died counts
			var owner, id uint64
			if n, _ := fmt.Sscanf(sc.Text(), "durable %d %d", &owner, &id); n == 2 {
				told[owner] = id
			}
		}
		cmd.Wait()
		if lines < 300 {
			t.Fatalf("the child said %d lines", lines)
		}
		o := quiet(nil)
		o.Dir = dir
		db, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		m := must(LogOf(db.Tables(), archives))(t)
		for owner, last := range told {
			for id := uint64(1); id <= last; id++ {
				if v, ok, err := m.Get(db, owner, id); !ok || err != nil || v != fmt.Sprint("entry ", id) {
					t.Fatalf("round %d: entry %d of %d was durable up to %d: %q %v %v", round, id, owner, last, v, ok, err)
				}
			}
		}
		db.Close()
	}
}

// crashChild appends to logs of four owners for ever, a batch of two entries each time, and prints what
// is durable.
func crashChild(t *testing.T, dir string) {
	o := quiet(nil)
	o.Dir = dir
	db, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	m := must(LogOf(db.Tables(), archives))(t)
	type note struct {
		t         Ticket
		owner, id uint64
	}
	var mu sync.Mutex
	var wait []note
	out := bufio.NewWriter(os.Stdout)
	db.OnCommit(func(last Ticket, err error) {
		mu.Lock()
		defer mu.Unlock()
		for len(wait) > 0 && wait[0].t <= last && err == nil {
			fmt.Fprintf(out, "durable %d %d\n", wait[0].owner, wait[0].id)
			wait = wait[1:]
		}
		out.Flush()
	})
	next := map[uint64]uint64{}
	for owner := uint64(1); owner <= 4; owner++ {
		last, _, err := m.Last(db, owner)
		if err != nil {
			t.Fatal(err)
		}
		next[owner] = last + 1
	}
	for i := 0; ; i++ {
		owner := uint64(i%4) + 1
		id := next[owner]
		next[owner] += 2
		b := db.NewBatch(owner)
		m.Append(b, owner, id, fmt.Sprint("entry ", id))
		m.Append(b, owner, id+1, fmt.Sprint("entry ", id+1))
		mu.Lock()
		wait = append(wait, note{db.Commit(b), owner, id + 1})
		mu.Unlock()
		if i%50 == 49 {
			time.Sleep(time.Millisecond)
		}
	}
}

// Power loss: on a file system that keeps only synced data, everything that was reported durable is there.
func TestPowerLoss(t *testing.T) {
	fs := vfs.NewCrashableMem()
	db, err := Open(quiet(fs))
	if err != nil {
		t.Fatal(err)
	}
	m := must(LogOf(db.Tables(), archives))(t)
	rng := rand.New(rand.NewSource(1))
	var told uint64
	for id := uint64(1); id <= 200; id++ {
		b := db.NewBatch(1)
		m.Append(b, 1, id, "x")
		tk := db.Commit(b)
		if id%20 == 0 {
			if err := db.Wait(ctx, tk); err != nil {
				t.Fatal(err)
			}
			told = id
			clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.Intn(100),
				RNG: randv2.New(randv2.NewPCG(1, id))})
			after, err := Open(quiet(clone))
			if err != nil {
				t.Fatal(err)
			}
			am := must(LogOf(after.Tables(), archives))(t)
			n := uint64(0)
			if err := am.Scan(after, 1, 1, told, 0, false, func(uint64, string) bool {
				n++
				return true
			}); err != nil || n != told {
				t.Fatalf("%d of %d, %v", n, told, err)
			}
			after.Close()
		}
	}
	db.Close()
}

// Full disk, EIO, a flipped bit: refusals, and never a false acknowledgement.
func TestAttackK106(t *testing.T) {
	t.Run("space runs out", func(t *testing.T) {
		fs := NewMemFS()
		o := quiet(fs)
		o.MinFree = 512 << 20
		avail := func(mib uint64) {
			fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: mib << 20, TotalBytes: 1 << 40})
		}
		avail(1000)
		db := open(t, o)
		r := must(MapOf(db.Tables(), rosters))(t)
		put := func(v string) error {
			b := db.NewBatch(1)
			r.Put(b, 1, "k", []byte(v))
			return db.Wait(ctx, db.Commit(b))
		}
		if err := put("1"); err != nil || db.Full() != nil {
			t.Fatal(err)
		}
		avail(511)
		db.CheckDiskSpace()
		if err := put("2"); !errors.Is(err, ErrFull) || !errors.Is(db.Full(), ErrFull) ||
			!strings.Contains(err.Error(), "511 MiB") {
			t.Fatal(err)
		}
		if v, ok, err := r.Get(db, 1, "k"); string(v) != "1" || !ok || err != nil {
			t.Errorf("reads go on: %q %v %v", v, ok, err)
		}
		if db.Err() != nil {
			t.Error("a full disk is not the end:", db.Err())
		}
		avail(520) // not enough to begin again
		db.CheckDiskSpace()
		if err := put("2"); !errors.Is(err, ErrFull) {
			t.Error(err)
		}
		avail(600)
		db.CheckDiskSpace()
		if err := put("3"); err != nil {
			t.Error(err)
		}
		if n := db.Metrics().FullEvents.Load(); n != 1 {
			t.Errorf("%d full events", n)
		}
		if v, _, err := r.Get(db, 1, "k"); string(v) != "3" || err != nil {
			t.Errorf("%q %v", v, err)
		}
	})
	t.Run("ballast", func(t *testing.T) {
		small := &smallFS{FS: NewMemFS(), left: 4 << 20}
		o := quiet(small)
		o.Ballast = 1 << 20
		o.MinFree = -1
		fatal := make(chan error, 1)
		o.Fatal = func(err error) { fatal <- err }
		db, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		m := must(LogOf(db.Tables(), archives))(t)
		if _, err := small.Stat("db/" + ballastName); err != nil {
			t.Fatal("no ballast:", err)
		}
		var kept uint64
		for id := uint64(1); id < 1000; id++ {
			b := db.NewBatch(1)
			m.Append(b, 1, id, randomText(20_000, int64(id)))
			if err = db.Wait(ctx, db.Commit(b)); err != nil {
				break
			}
			kept = id
		}
		if !errors.Is(err, ErrFull) || db.Err() != nil {
			t.Fatalf("after %d entries: %v, %v", kept, err, db.Err())
		}
		if _, err := small.Stat("db/" + ballastName); err == nil {
			t.Error("the ballast is still there")
		}
		for id := uint64(1); id <= kept; id++ {
			if _, ok, err := m.Get(db, 1, id); !ok || err != nil {
				t.Fatalf("entry %d of %d: %v", id, kept, err)
			}
		}
		small.add(64 << 20)
		db.CheckDiskSpace()
		b := db.NewBatch(1)
		m.Append(b, 1, kept+1, "again")
		if err := db.Wait(ctx, db.Commit(b)); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		select {
		case err := <-fatal:
			t.Error("fatal:", err)
		default:
		}
	})
	t.Run("EIO", func(t *testing.T) {
		mem := vfs.NewCrashableMem()
		var broken sync.Map
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if _, on := broken.Load("x"); on && op.Kind.ReadOrWrite() == errorfs.OpIsWrite &&
				strings.HasSuffix(op.Path, ".log") {
				return syscall.EIO
			}
			return nil
		}))
		o := quiet(fs)
		fatal := make(chan error, 10)
		o.Fatal = func(err error) { fatal <- err }
		db, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		m := must(LogOf(db.Tables(), archives))(t)
		write := func(id uint64) error {
			b := db.NewBatch(1)
			m.Append(b, 1, id, "x")
			return db.Wait(ctx, db.Commit(b))
		}
		for id := uint64(1); id <= 10; id++ {
			if err := write(id); err != nil {
				t.Fatal(err)
			}
		}
		broken.Store("x", true)
		if err := write(11); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("EIO: %v", err)
		}
		if err := <-fatal; !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
		broken.Delete("x")
		if err := write(12); !errors.Is(err, ErrUnavailable) {
			t.Errorf("after EIO nothing is taken: %v", err)
		}
		if err := db.Close(); !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
		select {
		case err := <-fatal:
			t.Error("told twice:", err)
		default:
		}
		after := open(t, quiet(mem.CrashClone(vfs.CrashCloneCfg{})))
		am := must(LogOf(after.Tables(), archives))(t)
		for id := uint64(1); id <= 10; id++ {
			if _, ok, err := am.Get(after, 1, id); !ok || err != nil {
				t.Errorf("entry %d was durable: %v", id, err)
			}
		}
		if _, ok, _ := am.Get(after, 1, 12); ok {
			t.Error("a refused entry is there")
		}
	})
	t.Run("flipped bit", func(t *testing.T) {
		fs := NewMemFS()
		db := open(t, quiet(fs))
		m := must(LogOf(db.Tables(), archives))(t)
		for id := uint64(1); id <= 50; id++ {
			b := db.NewBatch(1)
			m.Append(b, 1, id, randomText(1000, int64(id)))
			db.Commit(b)
		}
		if err := db.Wait(ctx, db.Last()); err != nil {
			t.Fatal(err)
		}
		if err := db.pebble.Flush(); err != nil {
			t.Fatal(err)
		}
		db.Close()
		names, err := fs.List("db")
		if err != nil {
			t.Fatal(err)
		}
		flipped := 0
		for _, name := range names {
			if !strings.HasSuffix(name, ".sst") {
				continue
			}
			data, err := fs.UnsafeGetFileDataBuffer("db/" + name)
			if err != nil {
				t.Fatal(err)
			}
			if len(data) > 20_000 {
				data[10_000] ^= 4
				flipped++
			}
		}
		if flipped == 0 {
			t.Fatal("no table to damage")
		}
		db = open(t, quiet(fs))
		m = must(LogOf(db.Tables(), archives))(t)
		bad := 0
		for id := uint64(1); id <= 50; id++ {
			v, ok, err := m.Get(db, 1, id)
			switch {
			case err != nil && !errors.Is(err, ErrCorrupt):
				t.Errorf("entry %d: %v", id, err)
			case err != nil:
				bad++
			case !ok || v != randomText(1000, int64(id)):
				t.Errorf("entry %d is wrong, without an error", id)
			}
		}
		if bad == 0 {
			t.Error("the flipped bit was not noticed")
		}
	})
	t.Run("torn WAL", func(t *testing.T) {
		fs := NewMemFS()
		db := open(t, quiet(fs))
		m := must(LogOf(db.Tables(), archives))(t)
		for id := uint64(1); id <= 10; id++ {
			b := db.NewBatch(1)
			m.Append(b, 1, id, "x")
			if err := db.Wait(ctx, db.Commit(b)); err != nil {
				t.Fatal(err)
			}
		}
		db.Close()
		names, _ := fs.List("db")
		for _, name := range names {
			if strings.HasSuffix(name, ".log") {
				f, err := fs.OpenReadWrite("db/"+name, vfs.WriteCategoryUnspecified)
				if err != nil {
					t.Fatal(err)
				}
				st, _ := f.Stat()
				if _, err := f.WriteAt([]byte{1, 2, 3, 4, 5, 6, 7}, st.Size()); err != nil {
					t.Fatal(err)
				}
				f.Close()
			}
		}
		db = open(t, quiet(fs))
		m = must(LogOf(db.Tables(), archives))(t)
		for id := uint64(1); id <= 10; id++ {
			if _, ok, err := m.Get(db, 1, id); !ok || err != nil {
				t.Errorf("entry %d: %v %v", id, ok, err)
			}
		}
	})
}

// Two programs on one store, and a program that is older or newer than the store.
func TestAttackK110(t *testing.T) {
	t.Run("same process", func(t *testing.T) {
		fs := NewMemFS()
		open(t, quiet(fs))
		if _, err := Open(quiet(fs)); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "admin socket") {
			t.Error(err)
		}
	})
	t.Run("other process", func(t *testing.T) {
		if dir := os.Getenv("CANTO_STORE_LOCK"); dir != "" {
			o := quiet(nil)
			o.Dir = dir
			_, err := Open(o)
			fmt.Println("locked:", errors.Is(err, ErrLocked))
			return
		}
		o := quiet(nil)
		o.Dir = filepath.Join(t.TempDir(), "db")
		open(t, o)
		if _, err := Open(o); !errors.Is(err, ErrLocked) {
			t.Error("on disk, in one process:", err)
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestAttackK110$/^other")
		cmd.Env = append(os.Environ(), "CANTO_STORE_LOCK="+o.Dir)
		out, err := cmd.CombinedOutput()
		if !bytes.Contains(out, []byte("locked: true")) {
			t.Errorf("%s %v", out, err)
		}
	})
	setNumber := func(t *testing.T, fs FS, key []byte, n uint64) {
		t.Helper()
		p, err := pebble.Open("db", &pebble.Options{FS: fs, Logger: discardLogger{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(p.Set(key, binary.BigEndian.AppendUint64(nil, n), pebble.Sync),
			p.Close()); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("layout", func(t *testing.T) {
		fs := NewMemFS()
		open(t, quiet(fs)).Close()
		for _, v := range []uint64{formatVersion + 1, 0, 1 << 40} {
			setNumber(t, fs, keyFormat, v)
			if db, err := Open(quiet(fs)); !errors.Is(err, ErrFormat) {
				t.Errorf("layout %d: %v %v", v, db, err)
			}
		}
		setNumber(t, fs, keyFormat, formatVersion)
		open(t, quiet(fs)).Close()
	})
	t.Run("foreign", func(t *testing.T) {
		fs := NewMemFS()
		setNumber(t, fs, []byte("somebody's"), 1)
		if _, err := Open(quiet(fs)); !errors.Is(err, ErrFormat) {
			t.Error(err)
		}
	})
	t.Run("pebble", func(t *testing.T) {
		fs := NewMemFS()
		open(t, quiet(fs)).Close()
		names, _ := fs.List("db")
		for _, n := range names {
			if strings.HasPrefix(n, "marker.format-version.") {
				if err := fs.Rename("db/"+n, "db/"+n[:len(n)-3]+"999"); err != nil {
					t.Fatal(err)
				}
			}
		}
		if db, err := Open(quiet(fs)); !errors.Is(err, ErrFormat) {
			t.Error(db, err)
		}
	})
	t.Run("tables", func(t *testing.T) {
		fs := NewMemFS()
		use := func(version uint8, edit func(d *MapDef[string, string]),
			f func(db *DB, m *Map[string, string])) error {
			t.Helper()
			db := open(t, quiet(fs))
			defer db.Close()
			d := NewMap[string, string]("things", 't', version)
			if edit != nil {
				edit(d)
			}
			m, err := MapOf(db.Tables(), d)
			if err == nil && f != nil {
				f(db, m)
			}
			return err
		}
		write := func(k, v string) func(*DB, *Map[string, string]) {
			return func(db *DB, m *Map[string, string]) {
				t.Helper()
				b := db.NewBatch(1)
				m.Put(b, 1, k, v)
				if err := db.Wait(ctx, db.Commit(b)); err != nil {
					t.Fatal(err)
				}
			}
		}
		read := func(want string) func(*DB, *Map[string, string]) {
			return func(db *DB, m *Map[string, string]) {
				t.Helper()
				got := ""
				if err := m.Scan(db, 1, "", func(k, v string) bool {
					got += k + "=" + v + " "
					return true
				}); err != nil || got != want {
					t.Errorf("%q, %v, want %q", got, err, want)
				}
			}
		}
		if err := use(1, nil, write("a", "one")); err != nil {
			t.Fatal(err)
		}
		if err := use(2, nil, func(db *DB, m *Map[string, string]) {
			write("b", "two")(db, m)
			read("a=one b=two ")(db, m)
		}); err != nil {
			t.Fatal("the last version is read too:", err)
		}
		if err := use(1, nil, nil); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "newer program") {
			t.Errorf("an older program: %v", err)
		}
		if err := use(3, nil, nil); !errors.Is(err, ErrFormat) {
			t.Errorf("rows of version 1 may be left: %v", err)
		}
		convert := func(d *MapDef[string, string]) {
			d.Convert(func(version uint8, v []byte) ([]byte, error) {
				return fmt.Appendf(nil, "%s/%d", v, version), nil
			})
		}
		if err := use(3, convert, read("a=one/1 b=two/2 ")); err != nil {
			t.Fatal(err)
		}
		if err := use(4, nil, read("a=one/1 b=two/2 ")); err != nil {
			t.Fatal("converted rows are all of version 3:", err)
		}
		failing := func(d *MapDef[string, string]) {
			d.Convert(func(uint8, []byte) ([]byte, error) { return nil, errors.New("no way") })
		}
		if err := use(6, failing, nil); err == nil {
			t.Error("a conversion that fails")
		}
		db := open(t, quiet(fs))
		if _, err := MapOf(db.Tables(), NewMap[string, string]("others", 't', 1)); err == nil {
			t.Error("two tables of one prefix")
		}
		if _, err := MapOf(db.Tables(), NewMap[string, string]("things", 'T', 4)); !errors.Is(err, ErrFormat) {
			t.Error("a table with another prefix:", err)
		}
		for _, p := range []byte{prefixEntities, prefixHosts, prefixSecrets} {
			if _, err := MapOf(db.Tables(), NewMap[string, string]("mine", p, 1)); err == nil {
				t.Errorf("prefix %q is the system's", p)
			}
		}
		if _, err := MapOf(db.Tables(), NewMap[string, []int]("ints", 'i', 1)); err == nil {
			t.Error("a table without a codec")
		}
	})
}

// A discardLogger drops the log, but panics on Fatalf.
type discardLogger struct{}

func (discardLogger) Infof(string, ...any)  {}
func (discardLogger) Errorf(string, ...any) {}
func (discardLogger) Fatalf(f string, a ...any) {
	panic(fmt.Sprintf(f, a...))
}

// A smallFS has so much space left, and returns ENOSPC then.
type smallFS struct {
	vfs.FS
	mu   sync.Mutex
	left int64
}

func (s *smallFS) add(n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left+n < 0 {
		return false
	}
	s.left += n
	return true
}

func (s *smallFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.Create(name, c)
	return &smallFile{f, s}, err
}

func (s *smallFS) ReuseForWrite(o, n string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.ReuseForWrite(o, n, c)
	return &smallFile{f, s}, err
}

func (s *smallFS) Remove(name string) error {
	st, err := s.FS.Stat(name)
	if err == nil {
		s.add(st.Size())
	}
	return s.FS.Remove(name)
}

type smallFile struct {
	vfs.File
	s *smallFS
}

func (f *smallFile) Write(p []byte) (int, error) {
	if !f.s.add(-int64(len(p))) {
		return 0, &os.PathError{Op: "write", Err: syscall.ENOSPC}
	}
	return f.File.Write(p)
}

func randomText(n int, seed int64) string {
	b := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(b)
	return string(b)
}

func TestSecrets(t *testing.T) {
	fs := NewMemFS()
	o := quiet(fs)
	now := time.Unix(1_800_000_000, 0)
	o.Now = func() time.Time { return now }
	db := open(t, o)
	s := db.Secrets()
	id, key, err := s.Current("salts")
	if err != nil || id != 1 || len(key) != SecretLen || bytes.Equal(key, make([]byte, SecretLen)) {
		t.Fatal(id, key, err)
	}
	if _, other, _ := s.Current("tickets"); bytes.Equal(other, key) {
		t.Error("two names, one key")
	}
	db.Close()
	db = open(t, o)
	s = db.Secrets()
	if id2, key2, err := s.Current("salts"); id2 != id || !bytes.Equal(key, key2) || err != nil {
		t.Error("the key changed", id2, err)
	}
	for i, age := range []time.Duration{0, time.Hour, 2 * time.Hour, 2 * time.Hour} {
		now = now.Add(age)
		if err := s.Rotate("salts", 2*time.Hour, 2); err != nil {
			t.Fatal(i, err)
		}
	}
	id3, key3, _ := s.Current("salts")
	if id3 != 3 || bytes.Equal(key, key3) {
		t.Error(id3)
	}
	if k, ok, _ := s.Get("salts", 3); !ok || !bytes.Equal(k, key3) {
		t.Error("3 is not there")
	}
	if _, ok, _ := s.Get("salts", 1); ok {
		t.Error("1 is still there")
	}
	if _, ok, err := s.Get("salts", 2); !ok || err != nil {
		t.Error("2 is gone", err)
	}
	if _, _, err := s.Current("a\x00b"); !errors.Is(err, ErrKey) {
		t.Error(err)
	}
	o.Rand = bytes.NewReader(nil)
	o.FS = NewMemFS()
	if _, _, err := open(t, o).Secrets().Current("x"); !errors.Is(err, io.EOF) {
		t.Error("a secret without randomness:", err)
	}
}

// An extension counts as soon as Wait has returned, although the commit callbacks may run later.
func TestLeaseBeforeListeners(t *testing.T) {
	db := open(t, quiet(NewMemFS()))
	told := make(chan struct{})
	db.OnCommit(func(Ticket, error) { <-told })
	l := must(db.Lease("archive"))(t)
	if err := db.Wait(t.Context(), l.Extend(100)); err != nil || l.Until() != 100 {
		t.Error(l.Until(), err)
	}
	close(told)
}

func TestLease(t *testing.T) {
	fs := NewMemFS()
	var flaky struct {
		sync.Mutex
		on bool
	}
	o := quiet(fs)
	o.Fault = func(write bool) error {
		flaky.Lock()
		defer flaky.Unlock()
		if write && flaky.on {
			return errors.New("broken")
		}
		return nil
	}
	db := open(t, o)
	l := must(db.Lease("archive"))(t)
	if l.Floor() != 0 || l.Until() != 0 {
		t.Error(l.Floor(), l.Until())
	}
	if err := db.Wait(ctx, l.Extend(100)); err != nil {
		t.Fatal(err)
	}
	db.Snapshot().Close()
	waitFor(t, func() bool { return l.Until() == 100 })
	if l.Extend(50) != 0 {
		t.Error("backwards")
	}
	flaky.Lock()
	flaky.on = true
	flaky.Unlock()
	if err := db.Wait(ctx, l.Extend(200)); err == nil || l.Until() != 100 {
		t.Error("a lease that is not durable", l.Until(), err)
	}
	flaky.Lock()
	flaky.on = false
	flaky.Unlock()
	waitFor(t, func() bool { return l.Extend(200) != 0 }) // it may be asked again
	db.Close()
	db = open(t, quiet(fs))
	if l := must(db.Lease("archive"))(t); l.Floor() != 200 {
		t.Error(l.Floor())
	}
}

// waitFor waits for a commit callback, which runs after the callers of Wait have woken.
func waitFor(t *testing.T, f func() bool) {
	t.Helper()
	for range 5000 {
		if f() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("it never came")
}

func TestReadOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	o := quiet(nil)
	o.Dir, o.ReadOnly = dir, true
	if _, err := Open(o); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("reading made a folder")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(o); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
	o.ReadOnly = false
	db := open(t, o)
	must(db.Accounts().Create(ctx, "example.org", "a", nil))(t)
	db.Close()
	o.ReadOnly = true
	db = open(t, o)
	if _, err := db.Accounts().Get(db, "example.org", "a"); err != nil {
		t.Error(err)
	}
	if _, err := db.Accounts().Create(ctx, "example.org", "b", nil); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	if _, err := MapOf(db.Tables(), rosters); err != nil {
		t.Error(err)
	}
}

// Import: many accounts in few groups, failures one by one.
func TestCreateMany(t *testing.T) {
	db := open(t, quiet(NewMemFS()))
	acc := db.Accounts()
	must(acc.Create(ctx, "example.org", "u5", nil))(t)
	list := make([]NewAccount, 20_000)
	keys := bytes.Repeat([]byte("k"), 250)
	for i := range list {
		list[i] = NewAccount{"example.org", fmt.Sprint("u", i), keys}
	}
	list[7].Local = "u6"
	list[8].Local = "not a name"
	failed := map[int]error{}
	before := db.Metrics().Groups.Load()
	ids, err := acc.CreateMany(ctx, list, func(i int, err error) { failed[i] = err })
	if err != nil || len(failed) != 3 || !errors.Is(failed[5], ErrExists) ||
		!errors.Is(failed[7], ErrExists) || !errors.Is(failed[8], jid.ErrMalformed) {
		t.Fatal(err, failed)
	}
	if g := db.Metrics().Groups.Load() - before; g > 25 {
		t.Errorf("%d groups", g)
	}
	seen := map[uint64]bool{}
	for i, id := range ids {
		if (id == 0) != (failed[i] != nil) || id != 0 && seen[id] {
			t.Fatalf("%d has id %#x", i, id)
		}
		seen[id] = true
	}
	n := 0
	if err := acc.List(db, "example.org", "", func(Account) bool {
		n++
		return true
	}); err != nil || n != 20_000-2 {
		t.Error(n, err)
	}
	if _, err := acc.CreateMany(ctx, list[:1], nil); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
}

func TestSizesAndHistogram(t *testing.T) {
	db := open(t, quiet(NewMemFS()))
	if s := db.Sizes(); s.MemTables == 0 {
		t.Errorf("%+v", s)
	}
	var h Histogram
	for _, d := range []time.Duration{-1, 0, 31 * time.Microsecond, 32 * time.Microsecond, time.Millisecond,
		time.Hour} {
		h.observe(d)
		if d < 0 {
			continue
		}
	}
	for i, want := range map[int]uint64{0: 3, 1: 1, 5: 1, HistogramBuckets - 1: 1} {
		if got := h.Counts[i].Load(); got != want {
			t.Errorf("bucket %d has %d, want %d", i, got, want)
		}
	}
	if time.Millisecond < HistogramBound(4) || time.Millisecond >= HistogramBound(5) {
		t.Error("bounds")
	}
}

func TestDefinitionPanics(t *testing.T) {
	for _, f := range []func(){
		func() { NewMap[string, string]("", 'x', 1) },
		func() { NewMap[string, string]("x", 0, 1) },
		func() { NewLog[string]("x", 'x', 0) },
		func() { NewLog[string]("x", 0xff, 1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("a bad definition was taken")
				}
			}()
			f()
		}()
	}
}

func BenchmarkCommit(b *testing.B) {
	o := quiet(nil)
	o.Dir = filepath.Join(b.TempDir(), "db")
	o.MemTableBytes = 32 << 20
	o.Logger = slog.New(slog.DiscardHandler)
	db := open(b, o)
	m := must(LogOf(db.Tables(), archives))(b)
	text := strings.Repeat("x", 300)
	b.ReportAllocs()
	var last Ticket
	for i := range b.N {
		bt := db.NewBatch(uint64(i%1000) + 1)
		m.Append(bt, bt.Owner(), uint64(i), text)
		last = db.Commit(bt)
		if i%4096 == 4095 {
			db.Wait(ctx, last)
		}
	}
	if err := db.Wait(ctx, last); err != nil {
		b.Fatal(err)
	}
}

// The queue for a disk that does not answer is bounded. Beyond the bound writes are refused as on a full
// disk, in their order and without memory for each; reads go on, and the queue is written when the disk
// is back.
func TestStalledDisk(t *testing.T) {
	stalled := make(chan struct{})
	o := quiet(vfs.NewMem())
	o.QueueBytes = 1 << 20
	o.BatchBytes = 64 << 10
	var writes atomic.Bool
	o.Fault = func(write bool) error {
		if write && writes.Load() {
			<-stalled
		}
		return nil
	}
	db, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	m := must(LogOf(db.Tables(), archives))(t)
	writes.Store(true)
	const all = 200_000
	var tickets []Ticket
	for i := range uint64(all) {
		b := db.NewBatch(1)
		m.Append(b, 1, i, "entry")
		tickets = append(tickets, db.Commit(b))
	}
	if err := db.Full(); !errors.Is(err, ErrFull) {
		t.Fatalf("%d writes wait and Full says %v", all, err)
	}
	db.committer.mu.Lock()
	queued, bytes := len(db.committer.queue), db.committer.bytes
	db.committer.mu.Unlock()
	if bytes > o.QueueBytes+batchOverhead+1000 || queued > o.QueueBytes/batchOverhead+2 {
		t.Errorf("%d batches and %d bytes wait", queued, bytes)
	}
	if _, _, err := m.Last(db, 1); err != nil {
		t.Errorf("a read meanwhile: %v", err)
	}
	if got := db.Durable(); got >= tickets[0] {
		t.Errorf("%d is settled before its turn", got)
	}
	close(stalled)
	if err := db.Wait(t.Context(), tickets[all-1]); !errors.Is(err, ErrFull) {
		t.Errorf("the last one: %v", err)
	}
	taken := 0
	for i, tk := range tickets {
		switch err := db.Failed(tk); {
		case err == nil && taken == i:
			taken++
		case err == nil:
			t.Fatalf("write %d was taken after %d had been refused", i, taken)
		case !errors.Is(err, ErrFull):
			t.Fatal(err)
		}
	}
	if last, ok, err := m.Last(db, 1); err != nil || !ok || last != uint64(taken-1) || taken == 0 ||
		taken == all {
		t.Errorf("%d of %d were taken, the last one there is %d (%v, %v)", taken, all, last, ok, err)
	}
	if err := db.Full(); err != nil {
		t.Errorf("the disk is back: %v", err)
	}
	b := db.NewBatch(1)
	m.Append(b, 1, all, "entry")
	if err := db.Wait(t.Context(), db.Commit(b)); err != nil {
		t.Errorf("a write after it: %v", err)
	}
}
