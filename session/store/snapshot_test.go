package store

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// openFour has four tables, of which account 1 has rows in two.
func openFour(tb testing.TB) (db *DB, maps []*Map[string, []byte]) {
	tb.Helper()
	db, err := Open(Options{FS: vfs.NewMem()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { db.Close() })
	b := db.NewBatch(1)
	for i := range 4 {
		m, err := MapOf(db.Tables(), NewMap[string, []byte](fmt.Sprint("table", i), "ABCD"[i], 1))
		if err != nil {
			tb.Fatal(err)
		}
		maps = append(maps, m)
		for k := range 3 * (i % 2) {
			m.Put(b, 1, fmt.Sprint("k", k), []byte{byte(i), byte(k)})
		}
	}
	if err := db.Wait(tb.Context(), db.Commit(b)); err != nil {
		tb.Fatal(err)
	}
	return db, maps
}

// The scans of one snapshot find the same rows as scans of their own, also a nested one, and after one that
// ended early.
func TestSnapshotScans(t *testing.T) {
	db, maps := openFour(t)
	s := db.Snapshot()
	defer s.Close()
	for round := range 3 {
		for i, m := range maps {
			n := 0
			err := m.Scan(s, 1, "", func(k string, v []byte) bool {
				if k != fmt.Sprint("k", n) || v[0] != byte(i) {
					t.Errorf("table %d has %s = %v", i, k, v)
				}
				inner := 0
				if err := maps[1].Scan(s, 1, "k1", func(string, []byte) bool {
					inner++
					return true
				}); err != nil || inner != 2 {
					t.Errorf("inside a scan another finds %d rows, %v", inner, err)
				}
				n++
				return round != 1 // in the second round only the first row
			})
			want := 3 * (i % 2)
			if round == 1 {
				want = i % 2
			}
			if err != nil || n != want {
				t.Errorf("round %d: table %d has %d rows, not %d; %v", round, i, n, want, err)
			}
		}
	}
}

// What a login reads: the tables of one account, most of them empty.
func BenchmarkSnapshotScans(b *testing.B) {
	db, maps := openFour(b)
	b.ReportAllocs()
	for b.Loop() {
		s := db.Snapshot()
		for _, m := range maps {
			if err := m.Scan(s, 1, "", func(string, []byte) bool { return true }); err != nil {
				b.Fatal(err)
			}
		}
		s.Close()
	}
}
