package store

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	randv2 "math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"canto/session/jid"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

// makeEntity makes an entity with a row in each of two tables, and returns its id and ticket.
func makeEntity(t testing.TB, db *DB, domain, local, kind string) (id uint64, tk Ticket) {
	t.Helper()
	b, err := db.Entities().New(domain, local, kind)
	if err != nil {
		t.Fatalf("%s@%s: %v", local, domain, err)
	}
	r, m := must(MapOf(db.Tables(), rosters)), must(LogOf(db.Tables(), archives))
	id = b.Owner()
	r(t).Put(b, id, "first", []byte(kind))
	m(t).Append(b, id, 1, kind)
	return id, db.Commit(b)
}

// A fataler is the common part of *testing.T and *rapid.T.
type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func lookup(t *testing.T, db *DB, domain, local string) Entry {
	t.Helper()
	e, ok, err := db.Entities().Lookup(db, domain, local)
	if err != nil || ok != (e.ID != 0) {
		t.Fatal(ok, err)
	}
	return e
}

// A room and a service are made with their first rows in one batch, found with their kind, removed and
// erased.
func TestEntities(t *testing.T) {
	fs := NewMemFS()
	o := quiet(fs)
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	o.Now = func() time.Time { return now }
	db := open(t, o)
	ents := db.Entities()
	room, tk := makeEntity(t, db, "Rooms.example.org", "Orchard", "room")
	service, _ := makeEntity(t, db, "rooms.example.org", "", "service")
	juliet := must(db.Accounts().Create(ctx, "example.org", "juliet", []byte("keys")))(t)
	if err := db.Wait(ctx, tk); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		for _, want := range []Entry{
			{room, "rooms.example.org", "orchard", "room", now},
			{service, "rooms.example.org", "", "service", now},
			{juliet, "example.org", "juliet", KindAccount, now},
		} {
			e := lookup(t, db, want.Domain, want.Local)
			if e != want {
				t.Errorf("%+v, not %+v", e, want)
			}
			if j := must(e.JID())(t); IDPartition(e.ID) != j.Partition() || j.IsZero() {
				t.Errorf("%v has the partition %d", j, IDPartition(e.ID))
			}
		}
		if e := lookup(t, db, "rooms.example.org", "nowhere"); e != (Entry{}) {
			t.Errorf("%+v", e)
		}
		if e := lookup(t, db, "a\x00b", ""); e != (Entry{}) {
			t.Errorf("%+v", e)
		}
	}
	check()
	db.Close()
	db = open(t, o)
	ents = db.Entities()
	check()
	// A room is not found as an account.
	if _, err := db.Accounts().Get(db, "rooms.example.org", "orchard"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := db.Accounts().Ban(ctx, "rooms.example.org", "orchard", ""); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if _, err := db.Accounts().Delete(ctx, "rooms.example.org", "orchard"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := db.Accounts().List(db, "", "", func(a Account) bool {
		if a.ID != juliet {
			t.Errorf("an account %+v", a)
		}
		return true
	}); err != nil {
		t.Error(err)
	}
	// One name, one entity.
	if _, err := db.Accounts().Create(ctx, "rooms.example.org", "ORCHARD", nil); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	for _, n := range [][2]string{
		{"rooms.example.org", "orchard"}, {"rooms.example.org", ""}, {"example.org", "juliet"},
	} {
		id, tk := makeEntity(t, db, n[0], n[1], "node")
		if err := db.Wait(ctx, tk); !errors.Is(err, ErrExists) {
			t.Error(n, err)
		}
		if got := scanMap(t, must(MapOf(db.Tables(), rosters))(t), db, id, ""); got != "" {
			t.Errorf("%v was refused, and has rows: %s", n, got)
		}
	}
	// The wrong id or kind removes nothing.
	e := lookup(t, db, "rooms.example.org", "orchard")
	for _, bad := range []Entry{
		{ID: e.ID, Domain: e.Domain, Local: e.Local, Kind: "node"},
		{ID: e.ID, Domain: e.Domain, Local: "", Kind: "room"},
		{ID: e.ID, Domain: e.Domain, Local: "nowhere", Kind: "room"},
	} {
		b := db.NewBatch(bad.ID)
		ents.Remove(b, bad)
		if err := db.Wait(ctx, db.Commit(b)); !errors.Is(err, ErrNotFound) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	b := db.NewBatch(service)
	ents.Remove(b, e)
	if err := db.Wait(ctx, db.Commit(b)); !errors.Is(err, ErrOwner) {
		t.Error(err)
	}
	check()
	// The last row and the removal are one batch. The name is free at once, for the next batch of the same
	// group.
	b = db.NewBatch(e.ID)
	must(LogOf(db.Tables(), archives))(t).Append(b, e.ID, 2, "destroyed")
	ents.Remove(b, e)
	gone := db.Commit(b)
	heir, tk := makeEntity(t, db, "rooms.example.org", "orchard", "room")
	if err := errors.Join(db.Wait(ctx, gone), db.Wait(ctx, tk)); err != nil || heir == room {
		t.Fatal(err)
	}
	db.Close()
	db = open(t, o) // with no table registered
	ents = db.Entities()
	left := func() (list []Entry) {
		if err := ents.Deleted(db, func(e Entry) bool { list = append(list, e); return true }); err != nil {
			t.Fatal(err)
		}
		return list
	}
	want := Entry{room, "rooms.example.org", "orchard", "room", time.Time{}}
	if got := left(); len(got) != 1 || got[0] != want {
		t.Fatal(got)
	}
	if err := db.Accounts().Deleted(db, func(d DeletedAccount) bool {
		t.Errorf("%+v is no account", d)
		return true
	}); err != nil {
		t.Error(err)
	}
	if n := len(rowsOf(t, db)[room]); n != 3 {
		t.Errorf("%d rows are left of a room that is not erased", n)
	}
	if err := db.Wait(ctx, ents.Erase(room)); err != nil || len(left()) != 0 || len(rowsOf(t, db)[room]) != 0 {
		t.Error(err, left(), rowsOf(t, db)[room])
	}
	if rows := rowsOf(t, db); len(rows[heir]) != 2 || len(rows[service]) != 2 {
		t.Error(rows)
	}
}

// rowsOf returns the keys of all rows with an owner, in whichever tables.
func rowsOf(t fataler, r Reader) map[uint64][]string {
	t.Helper()
	rows := map[uint64][]string{}
	if err := r.scan([]byte{'!'}, []byte{'~' + 1}, false, func(key, value []byte) (bool, error) {
		if key[0] != prefixEntities && key[0] != prefixHosts && key[0] != prefixSecrets {
			id := beUint64(key[1:])
			rows[id] = append(rows[id], fmt.Sprintf("%c%q", key[0], key[ownerLen:]))
		}
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	return rows
}

func beUint64(b []byte) (n uint64) {
	for _, c := range b[:8] {
		n = n<<8 | uint64(c)
	}
	return n
}

// The items of a service come a page at a time, each once, with the service itself before them.
func TestEntitiesByPage(t *testing.T) {
	db := open(t, quiet(NewMemFS()))
	var last Ticket
	want := ""
	for _, local := range []string{"", "a", "a1", "ab", "b", "c"} {
		_, last = makeEntity(t, db, "rooms.example.org", local, "room")
		want += local + " "
	}
	for _, d := range []string{"rooms.example.or", "rooms.example.orga", "z.example"} {
		_, last = makeEntity(t, db, d, "other", "room")
	}
	if err := db.Wait(ctx, last); err != nil {
		t.Fatal(err)
	}
	for size := 1; size < 8; size++ {
		got, from := "", ""
		for {
			n := 0
			if err := db.Entities().List(db, "rooms.example.org", from, func(e Entry) bool {
				n++
				got, from = got+e.Local+" ", e.Local+"\x00"
				return n < size
			}); err != nil {
				t.Fatal(err)
			}
			if n < size {
				break
			}
		}
		if got != want {
			t.Errorf("by %d: %q", size, got)
		}
	}
	n := 0
	if err := db.Entities().List(db, "", "", func(Entry) bool { n++; return true }); err != nil || n != 9 {
		t.Error(n, err)
	}
}

// holdWrites is a fault that holds the groups of writes while it is armed: take waits for one that has come,
// and give lets it go, with an error or without.
type holdWrites struct {
	armed chan struct{} // one token: the next group is held
	in    chan struct{}
	out   chan error
}

func newHoldWrites() *holdWrites {
	return &holdWrites{make(chan struct{}, 1), make(chan struct{}), make(chan error)}
}

func (h *holdWrites) fault(write bool) error {
	if !write {
		return nil
	}
	select {
	case <-h.armed:
		h.in <- struct{}{}
		return <-h.out
	default:
		return nil
	}
}

// hold commits a batch, and holds its group.
func (h *holdWrites) hold(db *DB) {
	h.armed <- struct{}{}
	db.Commit(db.NewBatch(1))
	<-h.in
}

// Two batches make one name while neither is durable: the first one succeeds, whatever the two kinds are. If
// the first is refused, the second succeeds. If the store can't write, both fail, and the next one succeeds.
func TestTwoMakeOneEntity(t *testing.T) {
	h := newHoldWrites()
	o := quiet(NewMemFS())
	o.Fault = h.fault
	db := open(t, o)
	must(MapOf(db.Tables(), rosters))(t)
	must(LogOf(db.Tables(), archives))(t)
	h.hold(db)
	first, t1 := makeEntity(t, db, "example.org", "a", "room")
	second, t2 := makeEntity(t, db, "example.org", "a", "node")
	h.out <- nil
	if err := db.Wait(ctx, t1); err != nil {
		t.Error(err)
	}
	if err := db.Wait(ctx, t2); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	e := lookup(t, db, "example.org", "a")
	if e.ID != first || e.Kind != "room" || len(rowsOf(t, db)[second]) != 0 {
		t.Errorf("%+v, %v", e, rowsOf(t, db))
	}

	h.hold(db)
	b := must(db.Entities().New("example.org", "b", "room"))(t)
	must(MapOf(db.Tables(), rosters))(t).Put(b, b.Owner()+1, "another's", nil)
	t1 = db.Commit(b)
	second, t2 = makeEntity(t, db, "example.org", "b", "node")
	h.out <- nil
	if err := db.Wait(ctx, t1); !errors.Is(err, ErrOwner) {
		t.Error(err)
	}
	if err := db.Wait(ctx, t2); err != nil {
		t.Error(err)
	}
	if e := lookup(t, db, "example.org", "b"); e.ID != second {
		t.Errorf("%+v", e)
	}

	h.hold(db)
	_, t1 = makeEntity(t, db, "example.org", "c", "room")
	made := make(chan error, 1)
	go func() { // sees a free name, and is queued after the first
		_, err := db.Accounts().Create(ctx, "example.org", "c", nil)
		made <- err
	}()
	waitFor(t, func() bool { return db.Last() > t1 })
	h.out <- errors.New("injected")
	if err := db.Wait(ctx, t1); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	if err := <-made; !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	id := must(db.Accounts().Create(ctx, "example.org", "c", nil))(t)
	if e := lookup(t, db, "example.org", "c"); e.ID != id {
		t.Errorf("%+v", e)
	}
}

// Making entities waits for nothing until the block of reserved numbers is used up, while the next block is
// not durable; then it is refused as a store that is full is, and Create waits.
func TestNumbersUsedUp(t *testing.T) {
	h := newHoldWrites()
	o := quiet(NewMemFS())
	o.Fault = h.fault
	db := open(t, o)
	h.hold(db)
	seen := map[uint64]bool{}
	give := func() error {
		b, err := db.Entities().New("example.org", "a", "room")
		if err == nil {
			if seen[b.Owner()] {
				t.Fatalf("id %#x was given twice", b.Owner())
			}
			seen[b.Owner()] = true
			b.release()
		}
		return err
	}
	for i := range idBlock {
		if err := give(); err != nil {
			t.Fatalf("number %d of the block: %v", i+1, err)
		}
	}
	for range 3 {
		if err := give(); !errors.Is(err, ErrFull) {
			t.Fatalf("beyond the block: %v", err)
		}
	}
	made := make(chan error, 1)
	go func() {
		id, err := db.Accounts().Create(ctx, "example.org", "b", nil)
		if seen[id] {
			err = fmt.Errorf("id %#x was given twice", id)
		}
		made <- err
	}()
	h.out <- nil
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	if err := give(); err != nil {
		t.Error("after the block:", err)
	}
	// A block that can't be reserved is asked for again.
	db.entities.ids.lastGiven.Store(db.entities.ids.lease.Until())
	h.hold(db)
	if err := give(); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
	extension := db.entities.ids.lease.lastPending()
	h.out <- errors.New("injected")
	if err := db.Wait(ctx, extension); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	must(db.Accounts().Create(ctx, "example.org", "d", nil))(t)
}

// A number that may have been given before a crash is not given after it, also where nothing but the block
// was durable. A store of the format before blocks continues after the last number that it gave.
func TestNumbersAfterCrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	seen := map[uint64]bool{}
	var closing []*DB
	defer func() {
		for _, db := range closing {
			db.Close()
		}
	}()
	for round := range 4 {
		db := must(Open(quiet(fs)))(t)
		closing = append(closing, db)
		for range idBlock/2 + 10 {
			b := must(db.Entities().New("example.org", "a", "room"))(t)
			if seen[b.Owner()] {
				t.Fatalf("round %d: id %#x was given twice", round, b.Owner())
			}
			seen[b.Owner()] = true
			b.release()
		}
		fs = fs.CrashClone(vfs.CrashCloneCfg{})
	}
	db := open(t, quiet(NewMemFS()))
	fs2 := db.opts.FS
	b := db.systemBatch()
	b.setNumber(keyIDBlock, 12)
	if err := db.Wait(ctx, db.Commit(b)); err != nil {
		t.Fatal(err)
	}
	db.Close()
	db = open(t, quiet(fs2))
	if b := must(db.Entities().New("example.org", "a", "room"))(t); b.Owner()&maxIDNumber != 13 {
		t.Errorf("%#x after 12", b.Owner())
	}
	// The last number of all.
	db.entities.ids.lastGiven.Store(maxIDNumber - 1)
	db.entities.ids.lease.until.Store(maxIDNumber)
	if b := must(db.Entities().New("example.org", "a", "room"))(t); b.Owner()&maxIDNumber != maxIDNumber {
		t.Errorf("%#x is not the last", b.Owner())
	}
	if _, err := db.Entities().New("example.org", "a", "room"); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}

// Rows and tombstones from before there were kinds are those of accounts.
func TestEntitiesOfVersion1(t *testing.T) {
	fs := NewMemFS()
	db := open(t, quiet(fs))
	raw := func(s string) []byte { return must(hex.DecodeString(s))(t) }
	b := db.systemBatch()
	b.set([]byte("uexample.org\x00juliet"),
		raw("01"+"abc0000000000007"+"0000000065000000"+"0000000000000000"+"00000005"+"00"+"6b657973"))
	b.set(append([]byte("\x00gone\x00"), raw("abc0000000000006")...), []byte("example.org\x00romeo"))
	if err := db.Wait(ctx, db.Commit(b)); err != nil {
		t.Fatal(err)
	}
	want := Entry{0xabc0000000000007, "example.org", "juliet", KindAccount, time.Unix(0x65000000, 0).UTC()}
	if e := lookup(t, db, "example.org", "juliet"); e != want {
		t.Errorf("%+v", e)
	}
	a := must(db.Accounts().Get(db, "example.org", "juliet"))(t)
	if a.Flags != 5 || string(a.Credentials) != "keys" || a.ID != want.ID {
		t.Errorf("%+v", a)
	}
	if err := db.Entities().Deleted(db, func(e Entry) bool {
		if e != (Entry{ID: 0xabc0000000000006, Domain: "example.org", Local: "romeo", Kind: KindAccount}) {
			t.Errorf("%+v", e)
		}
		return true
	}); err != nil {
		t.Error(err)
	}
	// And they are written as they were, so that a program of that time reads the accounts of a newer one.
	must(db.Accounts().Create(ctx, "example.org", "nurse", []byte("k")))(t)
	row, _, err := db.get([]byte("uexample.org\x00nurse"))
	if err != nil || row[0] != 1 || !bytes.HasSuffix(row, []byte("\x00k")) {
		t.Errorf("%x, %v", row, err)
	}
}

// Names and kinds that can't be.
func TestEntityNames(t *testing.T) {
	db := open(t, quiet(NewMemFS()))
	for _, c := range []struct {
		domain, local, kind string
		want                error
	}{
		{"example.org", "a", "", ErrKey},
		{"example.org", "a", "Room", ErrKey},
		{"example.org", "a", "ro\x00om", ErrKey},
		{"example.org", "a", strings.Repeat("r", maxKind+1), ErrKey},
		{"example.org", "", KindAccount, ErrKey},
		{"", "a", "room", jid.ErrMalformed},
		{"example..org", "a", "room", jid.ErrMalformed},
		{"example.org", "a b", "room", jid.ErrMalformed},
		{"example.org", "a\x00b", "room", jid.ErrMalformed},
	} {
		if _, err := db.Entities().New(c.domain, c.local, c.kind); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	o := quiet(NewMemFS())
	open(t, o).Close()
	o.ReadOnly = true
	if _, err := open(t, o).Entities().New("example.org", "a", "room"); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}

// Opening a store reads as much with 100,000 entities as with ten, and so do a look-up and the making of one
// more.
func TestEntitiesCostNoStart(t *testing.T) {
	blocks := func(n int) int64 {
		fs := NewMemFS()
		o := quiet(fs)
		db := open(t, o)
		var last Ticket
		for i := range n {
			b := must(db.Entities().New("rooms.example.org", fmt.Sprintf("room%06d", i), "room"))(t)
			last = db.Commit(b)
		}
		if err := db.Wait(ctx, last); err != nil {
			t.Fatal(err)
		}
		// A start reads the log, whatever is in it, and compactions read what they like.
		if err := db.pebble.Compact(ctx, []byte{0}, []byte{0xff}, false); err != nil {
			t.Fatal(err)
		}
		db.Close()
		db = open(t, o)
		if e := lookup(t, db, "rooms.example.org", "room000007"); e.Kind != "room" {
			t.Errorf("%+v", e)
		}
		b := must(db.Entities().New("rooms.example.org", "new", "room"))(t)
		if err := db.Wait(ctx, db.Commit(b)); err != nil {
			t.Fatal(err)
		}
		m := db.pebble.Metrics()
		return m.BlockCache.Hits + m.BlockCache.Misses
	}
	few, many := blocks(10), blocks(100_000)
	t.Logf("blocks that were read: %d with 10 entities, %d with 100,000", few, many)
	if many > few+50 {
		t.Errorf("%d blocks were read with 10 entities, %d with 100,000", few, many)
	}
}

// To see that a name is free, the committer reads no rows: it asks the filters of the tables, of the last
// level too.
func TestFreeNamesReadNoRows(t *testing.T) {
	db := open(t, quiet(NewMemFS()))
	add := func(n int, name string) {
		t.Helper()
		var last Ticket
		for i := range n {
			b := must(db.Entities().New("rooms.example.org", fmt.Sprintf(name, i), "room"))(t)
			last = db.Commit(b)
		}
		if err := db.Wait(ctx, last); err != nil {
			t.Fatal(err)
		}
	}
	add(10_000, "room%06d")
	if err := db.pebble.Compact(ctx, []byte{0}, []byte{0xff}, false); err != nil {
		t.Fatal(err)
	}
	before := db.pebble.Metrics().Filter
	add(1000, "room%06da")
	if spared := db.pebble.Metrics().Filter.Hits - before.Hits; spared < 900 {
		t.Errorf("of 1,000 names that were free the filters spared %d reads", spared)
	}
}

// Any bytes as a row of the directory or a tombstone: an error, or an entry that is encoded as the same
// bytes.
func FuzzEntityRow(f *testing.F) {
	for _, e := range []Entry{
		{ID: 1, Kind: "room"}, {ID: 7, Kind: "a-1"},
		{ID: 1 << 63, Kind: KindAccount, Created: time.Unix(1, 0)},
	} {
		f.Add(e.encode())
		f.Add(e.tombstone())
	}
	f.Add([]byte{})
	f.Add([]byte{3})
	f.Add([]byte("example.org\x00juliet"))
	f.Add([]byte("example.org\x00\x00room"))
	f.Fuzz(func(t *testing.T, b []byte) {
		was := bytes.Clone(b)
		e, err := decodeEntry("example.org", "a", b)
		switch {
		case err != nil:
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrFormat) || e != (Entry{}) {
				t.Fatal(e, err)
			}
		case e.Kind == KindAccount:
			a, err := decodeAccount("example.org", "a", b)
			if err != nil || a.ID != e.ID {
				t.Fatal(a, err)
			}
		default:
			if !bytes.Equal(e.encode(), b) {
				t.Fatalf("%x became %x", b, e.encode())
			}
		}
		m, err := decodeTombstone(deletedKey(5), b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) || m != (Entry{}) {
				t.Fatal(m, err)
			}
		} else if back, err := decodeTombstone(deletedKey(5), m.tombstone()); err != nil || back != m {
			t.Fatal(m, back, err)
		}
		if !bytes.Equal(was, b) {
			t.Fatal("the row was changed")
		}
	})
}

// A directoryModel is what the directory and the tables should hold.
type directoryModel struct {
	names map[[2]string]Entry // by domain and local
	gone  map[uint64]Entry
	rows  map[uint64]int // of each id, in one of the tables; as many in the other
}

func newModel() directoryModel {
	return directoryModel{map[[2]string]Entry{}, map[uint64]Entry{}, map[uint64]int{}}
}

func (m directoryModel) clone() directoryModel {
	return directoryModel{maps.Clone(m.names), maps.Clone(m.gone), maps.Clone(m.rows)}
}

func (m directoryModel) String() string {
	var lines []string
	for _, e := range m.names {
		lines = append(lines, fmt.Sprintf("%s@%s is %s %#x", e.Local, e.Domain, e.Kind, e.ID))
	}
	for _, e := range m.gone {
		lines = append(lines, fmt.Sprintf("%s@%s was %s %#x", e.Local, e.Domain, e.Kind, e.ID))
	}
	for id, n := range m.rows {
		lines = append(lines, fmt.Sprintf("%#x has %d rows", id, 2*n))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// holding is what a store holds, as a model's String is.
func holding(t *rapid.T, db *DB, r Reader) string {
	m := newModel()
	if err := db.Entities().List(r, "", "", func(e Entry) bool {
		m.names[[2]string{e.Domain, e.Local}] = e
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Entities().Deleted(r, func(e Entry) bool { m.gone[e.ID] = e; return true }); err != nil {
		t.Fatal(err)
	}
	for id, keys := range rowsOf(t, r) {
		m.rows[id] = len(keys) / 2
	}
	return m.String()
}

// Any sequence of entities of several kinds that are made, written to, removed and erased, of restarts and of
// crashes gives what maps would. After a crash there is what some of the batches in the order of their
// tickets made, and all that was durable; no id is given twice.
func TestDirectoryModel(t *testing.T) {
	domains, locals := []string{"example.org", "rooms.example.org"}, []string{"", "a", "b", "c"}
	kinds := []string{KindAccount, "room", "node"}
	type expected struct {
		t    Ticket
		want error
	}
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewCrashableMem()
		var db *DB
		var rows *Map[string, []byte]
		var log *Log[string]
		now := newModel()
		var after []directoryModel // after each batch that is perhaps not durable, the first being what is
		var waiting []expected
		used := map[uint64]bool{}
		start := func() {
			var err error
			if db, err = Open(quiet(fs)); err == nil {
				if rows, err = MapOf(db.Tables(), rosters); err == nil {
					log, err = LogOf(db.Tables(), archives)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			after = []directoryModel{now.clone()}
		}
		start()
		defer func() { db.Close() }()
		given := func(tk Ticket, want error) {
			waiting = append(waiting, expected{tk, want})
			after = append(after, now.clone())
		}
		settle := func() {
			for _, w := range waiting {
				if err := db.Wait(ctx, w.t); !errors.Is(err, w.want) {
					t.Fatalf("ticket %d: %v, not %v", w.t, err, w.want)
				}
			}
			waiting, after = nil, []directoryModel{now.clone()}
		}
		put := func(b *Batch, n int) {
			rows.Put(b, b.Owner(), fmt.Sprint(n), nil)
			log.Append(b, b.Owner(), uint64(n), "x")
		}
		// one draws an entity of those in from; false if there is none.
		one := func(t *rapid.T, from map[uint64]Entry) (Entry, bool) {
			ids := slices.Sorted(maps.Keys(from))
			if len(ids) == 0 {
				return Entry{}, false
			}
			return from[rapid.SampledFrom(ids).Draw(t, "id")], true
		}
		named := func() map[uint64]Entry {
			m := map[uint64]Entry{}
			for _, e := range now.names {
				m[e.ID] = e
			}
			return m
		}
		t.Repeat(map[string]func(*rapid.T){
			"make": func(t *rapid.T) {
				e := Entry{
					Domain: rapid.SampledFrom(domains).Draw(t, "domain"),
					Local:  rapid.SampledFrom(locals).Draw(t, "local"),
					Kind:   rapid.SampledFrom(kinds).Draw(t, "kind"),
				}
				b, err := db.Entities().New(e.Domain, e.Local, e.Kind)
				if e.Local == "" && e.Kind == KindAccount {
					if !errors.Is(err, ErrKey) {
						t.Fatal(err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if e.ID = b.Owner(); used[e.ID] {
					t.Fatalf("id %#x was given twice", e.ID)
				}
				used[e.ID] = true
				put(b, 1)
				name := [2]string{e.Domain, e.Local}
				_, taken := now.names[name]
				switch {
				case rapid.IntRange(0, 9).Draw(t, "mistake") == 0:
					rows.Put(b, e.ID+1, "another's", nil)
					given(db.Commit(b), ErrOwner)
				case taken:
					given(db.Commit(b), ErrExists)
				default:
					now.names[name], now.rows[e.ID] = e, 1
					given(db.Commit(b), nil)
				}
			},
			"write": func(t *rapid.T) {
				e, ok := one(t, named())
				if !ok {
					return
				}
				b := db.NewBatch(e.ID)
				now.rows[e.ID]++
				put(b, now.rows[e.ID])
				given(db.Commit(b), nil)
			},
			"remove": func(t *rapid.T) {
				e, ok := one(t, named())
				if !ok {
					return
				}
				b := db.NewBatch(e.ID)
				if rapid.IntRange(0, 4).Draw(t, "mistake") == 0 {
					e.Kind += "x"
					db.Entities().Remove(b, e)
					given(db.Commit(b), ErrNotFound)
					return
				}
				db.Entities().Remove(b, e)
				delete(now.names, [2]string{e.Domain, e.Local})
				now.gone[e.ID] = e
				given(db.Commit(b), nil)
			},
			"erase": func(t *rapid.T) {
				e, ok := one(t, now.gone)
				if !ok {
					return
				}
				delete(now.gone, e.ID)
				delete(now.rows, e.ID)
				given(db.Entities().Erase(e.ID), nil)
			},
			"settle": func(*rapid.T) { settle() },
			"restart": func(*rapid.T) {
				settle()
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				start()
			},
			"crash": func(t *rapid.T) {
				kept := rapid.IntRange(0, 100).Draw(t, "unsynced data kept")
				rng := randv2.New(randv2.NewPCG(1, rapid.Uint64().Draw(t, "seed")))
				clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: kept, RNG: rng})
				db.Close()
				fs = clone
				possible := after
				waiting = nil
				start()
				got := holding(t, db, db)
				i := slices.IndexFunc(possible, func(m directoryModel) bool { return m.String() == got })
				if i < 0 {
					t.Fatalf("after a crash there is\n%s\nnot one of %d, the last of which is\n%s",
						got, len(possible), now)
				}
				now = possible[i]
				after = []directoryModel{now.clone()}
			},
			"": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "look") != 0 {
					return // a snapshot waits until all is durable, and a crash is to find what is not
				}
				snap := db.Snapshot()
				defer snap.Close()
				if got := holding(t, db, snap); got != now.String() {
					t.Fatalf("there is\n%s\nand should be\n%s", got, now)
				}
				for _, d := range domains {
					for _, l := range locals {
						e, ok, err := db.Entities().Lookup(snap, d, l)
						want, there := now.names[[2]string{d, l}]
						if err != nil || ok != there || e.ID != want.ID || e.Kind != want.Kind {
							t.Fatalf("%s@%s is %+v, %v, and should be %+v", l, d, e, err, want)
						}
					}
				}
			},
		})
		settle()
	})
}
