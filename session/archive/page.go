package archive

import (
	"errors"
	"math"
	"slices"
	"time"

	"canto/session/stanzaid"
	"canto/session/store"
)

// The bounds of a page. What a client asks for beyond them is cut: the page is shorter, and not complete
// (XEP-0313 section 4.3.1).
const (
	DefaultRows = 50        // rows of a page if the query does not say how many
	MaxRows     = 250       // rows of a page at most
	MaxBytes    = 256 << 10 // bytes of the elements of a page, but one row always fits
	maxExamined = 20_000    // rows that are read for a page, of which a filter may leave out any number
)

// ErrNotFound is returned for a query with an id that is not in the archive (XEP-0313 section 4.1.3).
var ErrNotFound = errors.New("archive: there is no such id")

// A Query says which rows of an archive are asked for, and which page of them. The zero Query is the first
// page of all rows.
type Query struct {
	With string // only rows with this JID; a bare JID stands for all its resources

	Start, End time.Time     // only rows from Start to End, both included; zero: no bound
	IDs        []stanzaid.ID // only these rows; all must exist
	AfterID    stanzaid.ID   // only rows after this one, which must exist; 0: no bound
	BeforeID   stanzaid.ID   // only rows before this one, which must exist; 0: no bound

	// After and Before are the place of the page among the rows (XEP-0059): the page begins after a row, or ends
	// before it. Both must exist; 0: not given.
	After, Before stanzaid.ID
	Backwards     bool // the page is the last one before Before, or of all
	Max           int  // rows of the page; 0: none, only the count is asked for
}

// An Item is one row of a page.
type Item struct {
	ID  stanzaid.ID // its id
	Row Row         // with bytes of its own
}

// A Page is the answer to a query.
type Page struct {
	Items    []Item      // in the order of ids
	Complete bool        // there are no more rows in the direction of the query
	Count    int         // the number of rows that all pages have together; -1: not known
	Index    int         // the place of the first row among them, from 0; -1: not known, or Backwards
	Last     stanzaid.ID // the id to continue with if the page has no Items and is not Complete
}

// Page reads one page of the archive of owner. The error is ErrNotFound, or one of the store. On a worker.
func (a *Archive) Page(r store.Reader, owner uint64, q Query) (p Page, err error) {
	p.Count, p.Index = -1, -1
	for _, id := range append([]stanzaid.ID{q.AfterID, q.BeforeID, q.After, q.Before}, q.IDs...) {
		if id == 0 {
			continue
		}
		if _, ok, err := a.Get(r, owner, id); err != nil {
			return p, err
		} else if !ok {
			return p, ErrNotFound
		}
	}
	from, to := q.span()
	if q.With == "" && len(q.IDs) == 0 && q.Start.IsZero() && q.End.IsZero() {
		if err := a.count(r, owner, &p, from, to); err != nil {
			return p, err
		}
	}
	if q.After != 0 {
		from = max(from, q.After+1)
	}
	if q.Before != 0 {
		to = min(to, q.Before-1)
	}
	if q.Max == 0 {
		return p, nil
	}
	err = a.collect(r, owner, q, &p, from, to)
	if q.Backwards {
		slices.Reverse(p.Items)
	}
	// A page from the end has no index: clients of the field take it for one from the beginning.
	if p.Count >= 0 && len(p.Items) > 0 && !q.Backwards {
		p.Index += int(p.Items[0].Row.Seq) // count has left the negative number of the first row
	} else {
		p.Index = -1
	}
	return p, err
}

// span returns the ids of the first and the last row that q may ask for, but for the place of the page. Ids
// are near the time of their message: matches compares the times.
func (q Query) span() (from, to stanzaid.ID) {
	from, to = 1, math.MaxUint64-1
	if !q.Start.IsZero() {
		from = max(from, stanzaid.FirstAt(q.Start.Add(-maxSkew*time.Millisecond)))
	}
	if !q.End.IsZero() {
		to = min(to, stanzaid.FirstAt(q.End.Add((maxSkew+1)*time.Millisecond)))
	}
	if q.AfterID != 0 {
		from = max(from, q.AfterID+1)
	}
	if q.BeforeID != 0 {
		to = min(to, q.BeforeID-1)
	}
	return from, to
}

// count sets the Count of p to the number of rows from from to to, and its Index to the negative number of
// the first of them.
func (a *Archive) count(r store.Reader, owner uint64, p *Page, from, to stanzaid.ID) error {
	var ends [2]uint64
	for i := range ends {
		err := a.Scan(r, owner, from, to, i == 1, func(_ stanzaid.ID, row Row) bool {
			ends[i] = row.Seq
			return false
		})
		if err != nil {
			return err
		}
	}
	p.Count = 0
	if ends[0] != 0 {
		p.Count, p.Index = int(ends[1]-ends[0]+1), -int(ends[0])
	}
	return nil
}

// collect reads the rows of the page, in the direction of q.
func (a *Archive) collect(r store.Reader, owner uint64, q Query, p *Page, from, to stanzaid.ID) error {
	rows, size, examined := min(q.Max, MaxRows), 0, 0
	p.Complete = true
	take := func(id stanzaid.ID, row Row) bool {
		examined++
		if q.matches(id, row) {
			if size += len(row.Element); len(p.Items) == rows || len(p.Items) > 0 && size > MaxBytes {
				p.Complete = false
				return false
			}
			row.Element, row.Devices = slices.Clone(row.Element), nil
			p.Items = append(p.Items, Item{id, row})
		}
		if examined == maxExamined {
			p.Complete, p.Last = false, id
			return false
		}
		return true
	}
	if len(q.IDs) > 0 {
		ids := slices.Compact(slices.Sorted(slices.Values(q.IDs)))
		if q.Backwards {
			slices.Reverse(ids)
		}
		for _, id := range ids {
			row, ok, err := a.Get(r, owner, id)
			if err != nil {
				return err
			}
			if ok && id >= from && id <= to && !take(id, row) {
				break
			}
		}
		return nil
	}
	if q.With != "" {
		return a.ScanWith(r, owner, bareOf(q.With), from, to, q.Backwards, take)
	}
	return a.Scan(r, owner, from, to, q.Backwards, take)
}

// matches reports whether q asks for messages with the other side of row. For With the owner's own JID these
// are what the owner has sent to itself, which is archived once: with its own JID.
func (q Query) matches(id stanzaid.ID, row Row) bool {
	if at := row.Time(id); !q.Start.IsZero() && at.Before(q.Start) || !q.End.IsZero() && at.After(q.End) {
		return false
	}
	return q.With == "" || row.With == q.With || bareOf(row.With) == q.With
}
