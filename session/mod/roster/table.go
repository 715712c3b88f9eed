package roster

import (
	"encoding/binary"
	"errors"
	"fmt"

	"canto/session"
	"canto/session/storage"
	"canto/session/store"
)

// rows has one row for each contact, keyed by the bare JID, and one with an empty key: the version.
var rows = store.NewMap[string, []byte]("roster", 'r', 1)

type table struct {
	db   *store.DB
	rows *store.Map[string, []byte]
}

func openTable(api *session.API) (*table, error) {
	db := storage.DB(api)
	if db == nil {
		return nil, errors.New("there is no store")
	}
	rows, err := storage.OpenMap(api, rows)
	return &table{db, rows}, err
}

// load reads a whole roster; nil: there is nothing of it.
func (t *table) load(snap *store.Snapshot, who session.EntityRef) (*Roster, error) {
	var b builder
	var bad error
	found := false
	err := t.rows.Scan(snap, who.ID, "", func(key string, v []byte) bool {
		found = true
		if key == "" {
			b.version = binary.BigEndian.Uint64(v)
			return true
		}
		if bad = b.add(key, v); bad != nil {
			bad = fmt.Errorf("roster of %s, item %q: %w", who.JID, key, bad)
		}
		return bad == nil
	})
	if err = errors.Join(err, bad); err != nil || !found {
		return nil, err
	}
	return b.roster(), nil
}

// save writes one contact and the version.
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
