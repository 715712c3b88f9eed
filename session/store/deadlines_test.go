package store

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Deadlines are found in the order of time, whatever their owners, and the server's time stands still while
// no process has the store.
func TestDeadlines(t *testing.T) {
	fs := vfs.NewMem()
	now := time.UnixMilli(1_000_000)
	open := func() *DB {
		t.Helper()
		db, err := Open(Options{FS: fs, Dir: "data", MinFree: 1, Ballast: -1, CheckEvery: -1,
			Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	db := open()
	d := db.Deadlines()
	start := d.Now()
	list := []Deadline{{start + 10, 7, "a", "juliet@localhost"}, {start + 10, 7, "b", "juliet@localhost"},
		{start + 10, 300, "a", "romeo@localhost"}, {start + 20, 2, "", "nurse@localhost"}}
	for i := len(list) - 1; i >= 0; i-- {
		b := db.NewBatch(list[i].Owner)
		b.PutDeadline(list[i])
		db.Commit(b)
	}
	foreign := db.NewBatch(1)
	foreign.PutDeadline(list[0])
	if err := db.Wait(context.Background(), db.Commit(foreign)); err == nil {
		t.Error("a batch of another owner is taken")
	}
	scan := func(after Deadline, until int64) (got []Deadline) {
		t.Helper()
		err := d.Scan(db, after, until, func(e Deadline) bool {
			got = append(got, e)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := scan(Deadline{}, start+20); !slices.Equal(got, list) {
		t.Errorf("%v", got)
	}
	if got := scan(Deadline{}, start+19); !slices.Equal(got, list[:3]) {
		t.Errorf("until: %v", got)
	}
	if got := scan(list[1], start+100); !slices.Equal(got, list[2:]) {
		t.Errorf("after: %v", got)
	}
	b := db.NewBatch(7)
	b.DeleteDeadline(list[1])
	db.Wait(context.Background(), db.Commit(b))
	if got := scan(Deadline{}, start+10); len(got) != 2 {
		t.Errorf("deleted: %v", got)
	}
	now = now.Add(5 * time.Second)
	d.NoteAlive()
	db.Close()
	now = now.Add(time.Hour)
	db = open()
	defer db.Close()
	if d = db.Deadlines(); d.Now() != start+5000 {
		t.Errorf("after an hour without a process it is %d ms later", d.Now()-start)
	}
	now = now.Add(time.Second)
	if d.Now() != start+6000 {
		t.Errorf("a second later it is %d ms later", d.Now()-start)
	}
	if got := scan(Deadline{}, start+10_000); len(got) != 3 {
		t.Errorf("after a restart: %v", got)
	}
}
