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
// A second row, of 27 bytes of key and no value, finds the messages with one bare JID. Its key begins with
// the month, so that it is deleted by ranges too. The rows of the month in which an archive begins now may be
// left over: a page passes over them.
//
// # Cost
//
// A page costs one seek and its rows, wherever it is and however long the archive is. A page with one JID
// costs one seek for each month without a match besides.
package archive

import (
	"errors"
	"math"

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
	rows  *store.Log[Row]
	index *store.Map[indexKey, struct{}]
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
	return &Archive{rows, index}, nil
}

// A Summary is what is in memory of one archive. The zero Summary is an archive that never had a row. The
// owner's lock guards it.
type Summary struct {
	First, Last       stanzaid.ID // the ids of the oldest and the newest row; 0: the archive is empty
	FirstSeq, LastSeq uint64      // their numbers; of an empty archive the numbers of the last row that it had
	Before, Total     uint64      // the bytes before the oldest row, and up to the newest
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
				s.Last, s.LastSeq, s.Total = stanzaid.ID(id), row.Seq, row.Total
			} else {
				s.First, s.FirstSeq, s.Before = stanzaid.ID(id), row.Seq, row.Total-uint64(len(row.Element))
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
	if s.Last == 0 {
		s.First, s.FirstSeq, s.Before = id, s.LastSeq, s.Total-uint64(len(r.Element))
	}
	s.Last = id
	r.Seq, r.Total = s.LastSeq, s.Total
	a.rows.Append(b, owner, uint64(id), r)
	a.index.Put(b, owner, indexKey{bucketOf(id), hashOf(bareOf(r.With)), id}, struct{}{})
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
	hash, more := hashOf(with), true
	bucket, end, step := int(bucketOf(from)), int(bucketOf(to)), 1
	if reverse {
		bucket, end, step = end, bucket, -1
	}
	for ; more && err == nil && bucket != end+step; bucket += step {
		var inner error
		err = a.index.ScanRange(r, owner, indexKey{uint16(bucket), hash, from},
			indexKey{uint16(bucket), hash, to + 1}, reverse, func(k indexKey, _ struct{}) bool {
				row, ok, err := a.Get(r, owner, k.id)
				if err != nil {
					inner = err
					return false
				}
				if ok && bareOf(row.With) == with {
					more = fn(k.id, row)
				}
				return more
			})
		err = errors.Join(err, inner)
	}
	return err
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
	a.index.DeleteRange(b, owner, indexKey{}, indexKey{bucket: bucketOf(first)})
	if row.Seq == 0 { // all rows went
		rows = s.Count()
		s.First, s.Last, s.FirstSeq, s.Before = 0, 0, s.LastSeq, s.Total
		return rows
	}
	rows = row.Seq - s.FirstSeq
	s.First, s.FirstSeq, s.Before = first, row.Seq, row.Total-uint64(len(row.Element))
	return rows
}
