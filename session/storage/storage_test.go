package storage_test

import (
	"log/slog"
	"sync/atomic"
	"testing"

	"canto/session"
	"canto/session/jid"
	"canto/session/storage"
	"canto/session/store"
)

func address(t *testing.T, s string) jid.JID {
	t.Helper()
	j, err := jid.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// A store that creates entities faster than its disk can reserve ids refuses without waiting, like a full
// store, so that the kernel answers resource-constraint (RFC 6120 section 8.3.3.18).
func TestNewEntityRefused(t *testing.T) {
	held := make(chan struct{})
	var hold atomic.Bool
	db, err := store.Open(store.Options{
		Dir: "db", FS: store.NewMemFS(), CheckEvery: -1, Ballast: -1, MinFree: -1,
		Logger: slog.New(slog.DiscardHandler),
		Fault: func(write bool) error {
			if write && hold.Load() {
				<-held
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	defer close(held)
	hold.Store(true)
	addr := address(t, "orchard@rooms.example.org")
	for n := 0; ; n++ {
		_, err := storage.NewEntity(db, addr, "room")
		if err == nil && n < 1<<20 {
			continue
		}
		if full, ok := err.(interface{ Full() bool }); !ok || !full.Full() || n < 1<<15 {
			t.Errorf("after %d: %v", n, err)
		}
		return
	}
}

// The kernel finds entities of any kind, accounts among them, by address in a snapshot. If two are created
// at one address, the commit of one fails with an error that says so.
func TestDirectory(t *testing.T) {
	db, err := store.Open(store.Options{
		Dir: "db", FS: store.NewMemFS(), CheckEvery: -1, Ballast: -1, MinFree: -1,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	juliet, err := db.Accounts().Create(t.Context(), "example.org", "juliet", nil)
	if err != nil {
		t.Fatal(err)
	}
	d := storage.NewCommitter(db)
	ids := map[string]uint64{"juliet@example.org": juliet}
	for addr, kind := range map[string]string{
		"orchard@rooms.example.org": "room", "rooms.example.org": "service",
	} {
		b, err := storage.NewEntity(db, address(t, addr), kind)
		if err != nil {
			t.Fatal(err)
		}
		ids[addr] = b.Owner()
		if err := d.Await(session.Ticket(db.Commit(b))); err != nil {
			t.Fatal(err)
		}
	}
	snap := d.Snapshot()
	defer snap.(*store.Snapshot).Close()
	dir := storage.NewDirectory(db)
	for addr, want := range map[string]string{
		"juliet@example.org": "account", "orchard@rooms.example.org": "room", "rooms.example.org": "service",
		"romeo@example.org": "", "example.org": "", "rooms@example.org": "",
	} {
		id, kind, ok, err := dir.Lookup(snap, address(t, addr))
		if err != nil || kind != want || ok != (want != "") || id != ids[addr] {
			t.Errorf("%s: %#x %q %v %v", addr, id, kind, ok, err)
		}
	}
	b, err := storage.NewEntity(db, address(t, "juliet@example.org"), "room")
	if err != nil {
		t.Fatal(err)
	}
	tk := session.Ticket(db.Commit(b))
	err = d.Await(tk)
	if taken, ok := err.(interface{ Exists() bool }); !ok || !taken.Exists() {
		t.Errorf("a room under the name of an account: %v", err)
	}
	if taken, ok := d.Err(tk).(interface{ Exists() bool }); !ok || !taken.Exists() {
		t.Errorf("a room under the name of an account: %v", d.Err(tk))
	}
}
