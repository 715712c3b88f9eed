package offline

import (
	"canto/session/archive"
	"canto/session/stanzaid"
	"canto/session/store"
)

// A Waiting says what waits for an account, for the operator's commands.
type Waiting struct {
	Count int // the number of messages
	Bytes int // the size of their elements
	// Oldest is the oldest row of the archive that may wait; 0: none waits.
	Oldest stanzaid.ID

	from stanzaid.ID // the row of the archive from which on rows that are flagged as waiting do wait
	rows *store.Log[waitingRow]
}

// StoredWaiting reads what waits for the account with the id owner. Messages that a version of the server
// without archives has stored are counted too, if they have not been moved yet. It may wait for the disk.
func StoredWaiting(db *store.DB, r store.Reader, owner uint64) (w Waiting, err error) {
	if w.rows, err = store.LogOf(db.Tables(), rowsDef); err != nil {
		return w, err
	}
	cursors, err := store.MapOf(db.Tables(), cursorDef)
	if err != nil {
		return w, err
	}
	k, _, err := cursors.Get(r, owner, "")
	if err != nil {
		return w, err
	}
	w.Count, w.Bytes = k.count, k.bytes
	if k.count > 0 {
		w.Oldest, w.from = k.oldest(), k.from
	}
	err = w.rows.Scan(r, owner, 0, firstVersionEnd, 0, false, func(_ uint64, row waitingRow) bool {
		w.Count, w.Bytes = w.Count+1, w.Bytes+len(row.el)
		return true
	})
	return w, err
}

// Has reports whether the message with an id, which has the row in the archive of owner, waits: no device has
// had it, or the session that had it in its queue has ended. r is the one of StoredWaiting. It may wait for
// the disk.
func (w Waiting) Has(r store.Reader, owner uint64, id stanzaid.ID, row archive.Row) (bool, error) {
	if row.Flags&archive.Waiting != 0 && w.from != 0 && id >= w.from {
		return true, nil
	}
	_, queued, err := w.rows.Get(r, owner, uint64(id))
	return queued, err
}
