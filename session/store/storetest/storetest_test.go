package storetest

import (
	"log/slog"
	"testing"

	"canto/session/store"
)

func TestPebble(t *testing.T) {
	Run(t, func(tb testing.TB, fs store.FS, fault store.Fault) *store.DB {
		db, err := store.Open(store.Options{Dir: "db", FS: fs, Fault: fault, CheckEvery: -1, Ballast: -1,
			MemTableBytes: 1 << 20, CacheBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			tb.Fatal(err)
		}
		return db
	})
}
