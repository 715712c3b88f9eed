package roster

import (
	"encoding/binary"
	"errors"
	"fmt"

	"canto/session"
	"canto/session/storage"
	"canto/session/store"
)

// rows has one row for each contact, whose key is the contact's bare JID, and one row with an empty key:
// the version, in 8 bytes. The prefix 'r' is part of the store's format and does not change.
var rows = store.NewMap[string, []byte]("roster", 'r', 1)

// A table reads and writes the rows of rosters. Any goroutine may use it.
type table struct {
	db   *store.DB
	rows *store.Map[string, []byte]
}

// openTable opens the table in the store of the process. It fails if there is no store, or if the rows
// were written by a newer version. In Load only.
func openTable(api *session.API) (*table, error) {
	db, err := storage.Open(api)
	if err != nil {
		return nil, err
	}
	rows, err := storage.OpenMap(api, rows)
	return &table{db, rows}, err
}

// load reads the whole roster of the account acc from a snapshot, on a worker; nil if nothing is stored. A
// row that can't be read is an error: the account is not loaded, rather than loaded in part.
func (t *table) load(snap *store.Snapshot, acc session.EntityRef) (*Roster, error) {
	var b builder
	var bad error
	found := false
	err := t.rows.Scan(snap, acc.ID, "", func(key string, v []byte) bool {
		found = true
		if key == "" {
			b.version = binary.BigEndian.Uint64(v)
			return true
		}
		if bad = b.add(key, v); bad != nil {
			bad = fmt.Errorf("roster of %s, item %q: %w", acc.JID, key, bad)
		}
		return bad == nil
	})
	if err = errors.Join(err, bad); err != nil || !found {
		return nil, err
	}
	return b.roster(), nil
}

// save writes the item it, or deletes its row if it is empty, and writes the version, in one batch. It
// returns the batch's ticket and does not wait. Under the lock of a.
func (t *table) save(a *session.Account, it *Item, version uint64) session.Ticket {
	b := t.db.NewBatch(a.ID())
	if it.empty() {
		t.rows.Delete(b, a.ID(), it.JID.String())
	} else {
		t.rows.Put(b, a.ID(), it.JID.String(), it.encode(nil))
	}
	t.rows.Put(b, a.ID(), "", binary.BigEndian.AppendUint64(nil, version))
	return session.Ticket(t.db.Commit(b))
}
