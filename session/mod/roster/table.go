package roster

import (
	"encoding/binary"
	"errors"
	"fmt"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod/storage"
	"canto/session/store"
)

// rows has one row for each contact, keyed by the bare JID, and one with an empty key: the version.
var rows = store.NewMap[string, []byte]("roster", 'r', 1)

type table struct {
	db   *store.DB
	rows *store.Map[string, []byte]
}

func openTable(api *session.API) (*table, error) {
	db := storage.Of(api)
	if db == nil {
		return nil, errors.New("there is no store")
	}
	rows, err := storage.Map(api, rows)
	return &table{db, rows}, err
}

// load reads a whole roster.
func (t *table) load(snap *store.Snapshot, who session.Who) (*Roster, error) {
	r := new(Roster)
	var bad error
	err := t.rows.Scan(snap, who.ID, "", func(key string, v []byte) bool {
		if key == "" {
			r.Version = binary.BigEndian.Uint64(v)
			return true
		}
		it, err := decode(v)
		if err == nil {
			it.JID, err = jid.Parse(key)
		}
		if err != nil {
			bad = fmt.Errorf("roster of %s, item %q: %w", who.JID, key, err)
			return false
		}
		r.put(it)
		return true
	})
	return r, errors.Join(err, bad)
}

// save writes one contact and the version.
func (t *table) save(a *session.Account, it *Item, version uint64) session.Ticket {
	b := t.db.NewBatch(a.ID())
	if it.empty() {
		t.rows.Delete(b, a.ID(), it.JID.String())
	} else {
		t.rows.Put(b, a.ID(), it.JID.String(), it.encode())
	}
	t.rows.Put(b, a.ID(), "", binary.BigEndian.AppendUint64(nil, version))
	return session.Ticket(t.db.Commit(b))
}

const listedBit = 1 << 7

func (it *Item) encode() []byte {
	flags := it.State.bits()
	if it.Listed {
		flags |= listedBit
	}
	b := []byte{flags}
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	text(it.Name)
	b = binary.AppendUvarint(b, uint64(len(it.Groups)))
	for _, g := range it.Groups {
		text(g)
	}
	text(string(it.Request))
	return b
}

var errRow = errors.New("a row that can't be read")

func decode(b []byte) (it Item, err error) {
	if len(b) == 0 {
		return it, errRow
	}
	it.State, it.Listed = stateOf(b[0]), b[0]&listedBit != 0
	b = b[1:]
	number := func() int {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > 1<<20 {
			err = errRow
			return 0
		}
		b = b[k:]
		return int(n)
	}
	text := func() string {
		n := number()
		if n > len(b) {
			err = errRow
			return ""
		}
		s := string(b[:n])
		b = b[n:]
		return s
	}
	it.Name = text()
	for n := number(); n > 0 && err == nil; n-- {
		it.Groups = append(it.Groups, text())
	}
	if r := text(); r != "" {
		it.Request = []byte(r)
	}
	return it, err
}
