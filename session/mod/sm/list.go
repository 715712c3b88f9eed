package sm

import (
	"time"

	"canto/session"
	"canto/session/store"
)

// A Resting is one session without a connection, as the store has it.
type Resting struct {
	JID     string    `json:"jid"`     // the full JID
	Expires time.Time `json:"expires"` // when it ends, if the server runs until then
	Queued  int       `json:"queued"`  // elements in its queue that are stored
	Bytes   int       `json:"bytes"`   // of its rows
}

// List calls fn for each session without a connection that the store has, in the order in which they expire,
// until it returns false. now is the time by the clock. It may wait for the disk.
func List(db *store.DB, from store.Reader, now time.Time, fn func(r Resting) bool) error {
	rows, err := store.MapOf(db.Tables(), rowsDef)
	if err != nil {
		return err
	}
	d := db.Deadlines()
	return each(d, from, func(e store.Deadline) (bool, error) {
		r := Resting{Expires: now.Add(time.Duration(e.At-d.Now()) * time.Millisecond).UTC().Truncate(time.Second)}
		found := false
		err := rows.ScanRange(from, e.Owner, e.Name, afterKeys(e.Name), false, func(key string, v []byte) bool {
			switch key {
			case handledKey(e.Name):
				return true
			case sentKey(e.Name):
			case e.Name:
				if row, err := parseRow(v); err == nil {
					resource, ok := session.StoredResource(row.state)
					r.JID, found = e.JID+"/"+resource, ok
				}
			default:
				r.Queued++
			}
			r.Bytes += len(key) + len(v)
			return true
		})
		if err != nil || !found {
			return err == nil, err
		}
		return fn(r), nil
	})
}

// each calls fn for each entry of the index of deadlines, until it returns false.
func each(d *store.Deadlines, from store.Reader, fn func(e store.Deadline) (bool, error)) (err error) {
	scanned := d.Scan(from, store.Deadline{}, maxTime, func(e store.Deadline) (more bool) {
		more, err = fn(e)
		return more && err == nil
	})
	if scanned != nil {
		return scanned
	}
	return err
}
