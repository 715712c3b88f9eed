// Package archive stores messages under ids that grow with time, and reads them back a page at a time
// (XEP-0313, XEP-0059). Accounts and rooms have archives; this package knows neither: an archive is the rows
// of one owner in the store.
//
//	var sum archive.Summary                   // in memory, read by Load
//	arc.Append(batch, owner, &sum, id, row)   // on a loop, in the batch of the message
//	page, err := arc.Page(snapshot, owner, q) // on a worker
//
// # Rows
//
// One row for each message and side, keyed by owner and id ([Row]). A row has its number in the archive and
// the number of bytes up to it. So the size of an archive and the number of rows between two ids are known
// from two rows, and nothing that grows is read when an account is loaded: see [Summary]. Only the oldest
// rows are ever deleted, by one range ([Archive.Trim]); a retracted message leaves a tombstone.
//
// # The index
//
// A second table finds the messages with one bare JID. A run is a series of rows with one bare JID, with no
// other row between them. The index has an entry, of 27 bytes of key and no value, for the first row of each
// run, and for every 64th row of a long one. Its key begins with the month, so that it is deleted by ranges
// too, and a new month begins a new run. The entries of the month in which an archive begins now may be left
// over: a page passes over them. The batch of a row without an entry fails if a batch between it and that
// entry has failed: so every row that is read back can be found.
//
// A third table says to which devices messages went that had waited: see [Handover].
//
// # Cost
//
// A page costs one seek and its rows, wherever it is and however long the archive is. A page with one JID
// costs one seek for each run, and for each month without a match, besides.
package archive

import (
	"errors"
	"math"
	"slices"

	"canto/session/stanzaid"
	"canto/session/store"
)

var (
	rowsDef  = store.NewLog[Row]("archive", 'm', 1).Codec(store.Codec[Row]{Append: appendRow, Decode: decodeRow})
	indexDef = store.NewMap[indexKey, struct{}]("archive-with", 'i', 1).
			KeyCodec(store.KeyCodec[indexKey]{Append: appendIndexKey, Decode: decodeIndexKey})
)

// An Archive is the archives of all owners in one store. Any goroutine.
type Archive struct {
	rows      *store.Log[Row]
	index     *store.Map[indexKey, struct{}]
	handovers *store.Log[Handover]
}

// Open opens the tables. It fails if they were written by a newer version. It may wait for the disk.
func Open(t *store.TableRegistry) (*Archive, error) {
	rows, err := store.LogOf(t, rowsDef)
	if err != nil {
		return nil, err
	}
	index, err := store.MapOf(t, indexDef)
	if err != nil {
		return nil, err
	}
	handovers, err := store.LogOf(t, handoversDef)
	if err != nil {
		return nil, err
	}
	return &Archive{rows, index, handovers}, nil
}

// A Summary is what is in memory of one archive. The zero Summary is an archive that never had a row. The
// owner's lock guards it.
type Summary struct {
	First, Last       stanzaid.ID // the ids of the oldest and the newest row; 0: the archive is empty
	FirstSeq, LastSeq uint64      // their numbers; of an empty archive the numbers of the last row that it had
	// FirstSkew and LastSkew are the Skew of these rows.
	FirstSkew, LastSkew int64
	Before, Total       uint64 // the bytes before the oldest row, and up to the newest
	with                uint64 // the hash of the bare JID of the newest row
	failures            uint64 // Batch.Failures when the last entry of the index was added
}

// Count returns the number of rows.
func (s *Summary) Count() uint64 {
	if s.Last == 0 {
		return 0
	}
	return s.LastSeq - s.FirstSeq + 1
}

// Bytes returns the bytes of the elements of all rows.
func (s *Summary) Bytes() uint64 { return s.Total - s.Before }

// Load reads the summary of an archive: two seeks. On a worker.
func (a *Archive) Load(r store.Reader, owner uint64) (s Summary, err error) {
	for _, reverse := range []bool{true, false} {
		err = a.rows.Scan(r, owner, 0, math.MaxUint64, 1, reverse, func(id uint64, row Row) bool {
			if reverse {
				s.Last, s.LastSeq, s.Total, s.LastSkew = stanzaid.ID(id), row.Seq, row.Total, row.Skew
				s.with = hashOf(bareOf(row.With))
			} else {
				s.First, s.FirstSeq, s.Before = stanzaid.ID(id), row.Seq, row.Total-uint64(len(row.Element))
				s.FirstSkew = row.Skew
			}
			return false
		})
		if err != nil || s.Last == 0 {
			return s, err
		}
	}
	return s, nil
}

// Append adds r to b as the newest row, under id, which must be greater than s.Last. It sets Seq and Total of
// the row, and changes s. It allocates nothing. On a loop, under the owner's lock.
func (a *Archive) Append(b *store.Batch, owner uint64, s *Summary, id stanzaid.ID, r Row) {
	s.LastSeq++
	s.Total += uint64(len(r.Element))
	hash, bucket := hashOf(bareOf(r.With)), bucketOf(id)
	if f := b.Failures(); f != s.failures || hash != s.with || s.Last == 0 || bucket != bucketOf(s.Last) ||
		s.LastSeq%runRows == 0 {
		a.index.Put(b, owner, indexKey{bucket, hash, id}, struct{}{})
		s.failures = f
	} else {
		b.BuildsOn(f)
	}
	if s.Last == 0 {
		s.First, s.FirstSeq, s.Before = id, s.LastSeq, s.Total-uint64(len(r.Element))
		s.FirstSkew = r.Skew
	}
	s.Last, s.LastSkew, s.with = id, r.Skew, hash
	r.Seq, r.Total = s.LastSeq, s.Total
	a.rows.Append(b, owner, uint64(id), r)
}

// Replace adds a new form of the row id to b, which is there already. r must have the Seq, the Total and the
// With of the row; its element may be shorter or longer, which Total does not show.
func (a *Archive) Replace(b *store.Batch, owner uint64, id stanzaid.ID, r Row) {
	a.rows.Append(b, owner, uint64(id), r)
}

// Get reads one row. The row is the caller's. It may wait for the disk.
func (a *Archive) Get(r store.Reader, owner uint64, id stanzaid.ID) (Row, bool, error) {
	return a.rows.Get(r, owner, uint64(id))
}

// First returns the id of the oldest row; false if there is none: one seek. It may wait for the disk.
func (a *Archive) First(r store.Reader, owner uint64) (id stanzaid.ID, ok bool, err error) {
	err = a.rows.Scan(r, owner, 0, math.MaxUint64, 1, false, func(first uint64, _ Row) bool {
		id, ok = stanzaid.ID(first), true
		return false
	})
	return id, ok, err
}

// Scan calls fn for the rows from from to to, both included, until fn returns false. The bytes of a row are
// valid until fn returns. On a worker.
func (a *Archive) Scan(r store.Reader, owner uint64, from, to stanzaid.ID, reverse bool,
	fn func(id stanzaid.ID, row Row) bool) error {
	return a.rows.Scan(r, owner, uint64(from), uint64(to), 0, reverse, func(id uint64, row Row) bool {
		return fn(stanzaid.ID(id), row)
	})
}

// ScanWith calls fn for the rows with a bare JID, as Scan does. Rows of other JIDs whose hash is the same are
// left out.
func (a *Archive) ScanWith(r store.Reader, owner uint64, with string, from, to stanzaid.ID, reverse bool,
	fn func(id stanzaid.ID, row Row) bool) error {
	first, _, err := a.First(r, owner) // rows of the index before it are left over
	last, ok, lerr := a.rows.Last(r, owner)
	if err != nil || lerr != nil || !ok {
		return errors.Join(err, lerr)
	}
	from, to = max(from, first), min(to, stanzaid.ID(last))
	if from > to {
		return nil
	}
	w := withScan{a: a, r: r, owner: owner, with: with, hash: hashOf(with), from: from, to: to, fn: fn}
	if reverse {
		return w.backward()
	}
	return w.forward()
}

// A withScan reads the rows with one bare JID, run by run. from and to bound the rows that are not read yet.
type withScan struct {
	a        *Archive
	r        store.Reader
	owner    uint64
	with     string
	hash     uint64
	from, to stanzaid.ID
	fn       func(id stanzaid.ID, row Row) bool
	stopped  bool // fn has returned false
}

// forward calls fn for the rows in ascending order. The run in which the span begins has its entry before it,
// or none any more, so the first rows are read without the index.
func (w *withScan) forward() error {
	start, ok := w.from, true
	for {
		err := w.a.Scan(w.r, w.owner, start, w.to, false, func(id stanzaid.ID, row Row) bool {
			if hashOf(bareOf(row.With)) != w.hash {
				return false
			}
			w.from = id + 1
			w.call(id, row)
			return !w.stopped
		})
		if err != nil || w.stopped || w.from > w.to {
			return err
		}
		if start, ok, err = w.entry(false); err != nil || !ok {
			return err
		}
		w.from = start + 1 // also if the row is gone
	}
}

// backward calls fn for the rows in descending order.
func (w *withScan) backward() error {
	start, ok, err := w.entry(true)
	var run []Item
	for err == nil {
		if !ok {
			start = w.from // the entry of the run in which the span begins is before it
		}
		run = run[:0]
		err = w.a.Scan(w.r, w.owner, start, w.to, false, func(id stanzaid.ID, row Row) bool {
			if hashOf(bareOf(row.With)) != w.hash {
				return false
			}
			row.Element, row.Devices = slices.Clone(row.Element), slices.Clone(row.Devices)
			run = append(run, Item{id, row})
			return len(run) <= runRows
		})
		for i := len(run) - 1; i >= 0 && !w.stopped; i-- {
			w.call(run[i].ID, run[i].Row)
		}
		if w.to = start - 1; err != nil || w.stopped || !ok || w.from > w.to {
			return err
		}
		start, ok, err = w.entry(true)
	}
	return err
}

// call calls fn if row is with the JID, and not with another one of the same hash.
func (w *withScan) call(id stanzaid.ID, row Row) {
	if bareOf(row.With) == w.with {
		w.stopped = !w.fn(id, row)
	}
}

// entry returns the row of the first entry of the index between from and to, with last of the last one.
func (w *withScan) entry(last bool) (id stanzaid.ID, ok bool, err error) {
	bucket, end, step := int(bucketOf(w.from)), int(bucketOf(w.to)), 1
	if last {
		bucket, end, step = end, bucket, -1
	}
	for ; !ok && err == nil && bucket != end+step; bucket += step {
		err = w.a.index.ScanRange(w.r, w.owner, indexKey{uint16(bucket), w.hash, w.from},
			indexKey{uint16(bucket), w.hash, w.to + 1}, last, func(k indexKey, _ struct{}) bool {
				id, ok = k.id, true
				return false
			})
	}
	return id, ok, err
}

// bareOf returns the bare JID of a prepared JID: what is before the first slash.
func bareOf(full string) string {
	for i := range len(full) {
		if full[i] == '/' {
			return full[:i]
		}
	}
	return full
}

// runRows is how many rows of a run there are at most from one entry of the index to the next.
const runRows = 64

// A Bound says where a trimmed archive begins: the first row that stays is the oldest one for which no field
// says that it has to go.
type Bound struct {
	Before   stanzaid.ID // rows before it go
	MaxRows  uint64      // so many rows stay at most; 0: any number
	MaxBytes uint64      // so many bytes stay at most; 0: any number
	Keep     stanzaid.ID // rows from it on stay, whatever the other fields say; 0: none has to
}

// Find returns the first row that stays of an archive with the summary s, of which r has all rows. Its id is
// 0 if nothing has to go. If all rows have to go, the result is above s.Last. It costs some 50 seeks. On a
// worker.
func (a *Archive) Find(r store.Reader, owner uint64, s Summary, b Bound) (first stanzaid.ID, row Row,
	err error) {
	stays := func(id stanzaid.ID, row Row) bool {
		return b.Keep != 0 && id >= b.Keep || id >= b.Before &&
			(b.MaxRows == 0 || s.LastSeq-row.Seq < b.MaxRows) &&
			(b.MaxBytes == 0 || s.Total-row.Total+uint64(len(row.Element)) <= b.MaxBytes)
	}
	if s.Last == 0 {
		return 0, row, nil
	}
	lo, hi := s.First, s.Last+1 // the first id that stays is from lo to hi
	for lo < hi {
		mid, found := lo+(hi-lo)/2, false
		err = a.rows.Scan(r, owner, uint64(mid), uint64(s.Last), 1, false, func(id uint64, next Row) bool {
			if found = stays(stanzaid.ID(id), next); found {
				first, row = stanzaid.ID(id), next
				row.Element = append([]byte(nil), next.Element...)
				row.Devices = nil
			} else {
				lo = stanzaid.ID(id) + 1
			}
			return false
		})
		switch {
		case err != nil:
			return 0, row, err
		case found:
			hi = min(mid, first)
		case lo <= mid: // there is no row from mid on
			hi = mid
		}
	}
	switch first {
	case s.First:
		return 0, row, nil
	case 0:
		return s.Last + 1, row, nil
	}
	return first, row, nil
}

// Trim adds the deletion of the rows before first to b, and changes s: first and row are what Find has
// returned, for the same archive, which may have got newer rows since. On a loop, under the owner's lock.
func (a *Archive) Trim(b *store.Batch, owner uint64, s *Summary, first stanzaid.ID, row Row) (rows uint64) {
	if first == 0 || s.Last == 0 || first <= s.First || row.Seq == 0 && s.Last >= first {
		return 0 // in the last case all rows had to go, and there is a newer one by now: the next time
	}
	a.rows.Trim(b, owner, uint64(first))
	a.handovers.Trim(b, owner, uint64(first)) // one that covers rows that stay may go
	a.index.DeleteRange(b, owner, indexKey{}, indexKey{bucket: bucketOf(first)})
	if row.Seq == 0 { // all rows went
		rows = s.Count()
		s.First, s.Last, s.FirstSeq, s.Before = 0, 0, s.LastSeq, s.Total
		return rows
	}
	rows = row.Seq - s.FirstSeq
	s.First, s.FirstSeq, s.Before = first, row.Seq, row.Total-uint64(len(row.Element))
	s.FirstSkew = row.Skew
	return rows
}
