package sm

import (
	"context"

	"canto/session/store"
)

// RowsDef is the table of sessions that hibernate.
var RowsDef = rowsDef

// CountRows returns how many rows of sessions, of their queues, and of what is handled an account has.
func CountRows(t interface{ Fatal(...any) }, db *store.DB, owner uint64) (sessions, queued, handled int) {
	rows, err := store.MapOf(db.Tables(), rowsDef)
	if err != nil {
		t.Fatal(err)
	}
	err = rows.ScanRange(db, owner, "", "\xff", false, func(key string, _ []byte) bool {
		switch {
		case key[max(0, len(key)-2):] == "\x00h":
			handled++
		case key[max(0, len(key)-2):] == "\x00s":
		case len(key) > 5 && key[len(key)-5] == 0:
			queued++
		default:
			sessions++
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return sessions, queued, handled
}

// PutHandled makes all that is known of sessions of an account as old as the time at.
func PutHandled(t interface{ Fatal(...any) }, db *store.DB, owner uint64, at int64) {
	rows, err := store.MapOf(db.Tables(), rowsDef)
	if err != nil {
		t.Fatal(err)
	}
	b := db.NewBatch(owner)
	err = rows.ScanRange(db, owner, "", "\xff", false, func(key string, _ []byte) bool {
		if key[max(0, len(key)-2):] == "\x00h" {
			rows.Put(b, owner, key, handled{1, at}.append(nil))
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Wait(context.Background(), db.Commit(b)); err != nil {
		t.Fatal(err)
	}
}
