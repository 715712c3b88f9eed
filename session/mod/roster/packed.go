package roster

import (
	"encoding/binary"
	"errors"
	"iter"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"canto/session/jid"
	"canto/xmlstream"
)

// A Roster is what is resident of an account: rows as they are stored, packed. A contact costs its text and
// five bytes. A nil Roster is an empty one, and can only be read.
type Roster struct {
	blocks   []string // each some rows, all by JID; a row is the JID's length, the JID, and the stored row
	listed   usage    // of the user's own contacts
	requests usage    // of requests that wait for the user's answer
	version  uint64
}

// A share is one of the two parts of a roster that have limits of their own: what the user keeps, and what
// others have sent to be kept. Strangers can't take the user's room, nor the user theirs.
type usage struct {
	rows  int32 // contacts; in the share of requests only those that are no contacts of the user
	bytes int32
}

// Bytes that a contact and a group take in the answer to a roster request, besides their text.
const (
	itemMarkup  = len("<item jid='' name='' subscription='both'></item>")
	groupMarkup = len("<group></group>")
)

// usage is what it takes of the two shares. The user's own is measured as a client gets it, so that the
// limit holds for the answer to a roster request too, whatever has to be escaped in it; a request as it
// is stored.
func (it *Item) usage() (listed, asked usage) {
	own, others := 0, len(it.Request)
	if it.Listed {
		listed.rows = 1
		own = itemMarkup + len(it.JID.String()) + xmlstream.EscapedLen(it.Name)
		for g := range it.Groups.All() {
			own += groupMarkup + xmlstream.EscapedLen(g)
		}
	} else if !it.empty() {
		asked.rows = 1
		others += len(it.JID.String())
	}
	listed.bytes, asked.bytes = int32(own), int32(others)
	return listed, asked
}

// addUsage adds (sign is 1) or takes off (sign is -1) what it takes.
func (r *Roster) addUsage(it *Item, sign int32) {
	listed, asked := it.usage()
	r.listed.rows += sign * listed.rows
	r.listed.bytes += sign * listed.bytes
	r.requests.rows += sign * asked.rows
	r.requests.bytes += sign * asked.bytes
}

// A block is split when it has more rows or bytes, so that a change copies little of a long roster.
const (
	blockRows  = 32
	blockBytes = 8 << 10
)

// Len is how many contacts there are, with those that have only asked.
func (r *Roster) Len() int {
	if r == nil {
		return 0
	}
	return int(r.listed.rows + r.requests.rows)
}

// Version is that of RFC 6121 §2.6; 0: nothing was ever changed.
func (r *Roster) Version() uint64 {
	if r == nil {
		return 0
	}
	return r.version
}

// All are the contacts, by JID, as they are at the call.
func (r *Roster) All() iter.Seq[Item] {
	return func(yield func(Item) bool) {
		if r == nil {
			return
		}
		for _, b := range r.blocks {
			for len(b) > 0 {
				var it Item
				if it, b = readItem(b); !yield(it) {
					return
				}
			}
		}
	}
}

// find is the block that has or would have who, and where in it: the row is b[from:to], or none.
func (r *Roster) find(who string) (block, from, to int) {
	if r == nil || len(r.blocks) == 0 {
		return 0, 0, 0
	}
	// The last block whose first contact is not behind who.
	block, _ = slices.BinarySearchFunc(r.blocks, who, func(b, who string) int {
		if key, _ := readText(b); key > who {
			return 1
		}
		return -1
	})
	block = max(block-1, 0)
	b := r.blocks[block]
	for rest := b; len(rest) > 0; {
		key, row := readText(rest)
		from = len(b) - len(rest)
		if rest = skipRow(row); key == who {
			return block, from, len(b) - len(rest)
		} else if key > who {
			return block, from, from
		}
	}
	return block, len(b), len(b)
}

// Get is the contact who, a bare JID; false if there is nothing of it.
func (r *Roster) Get(who jid.JID) (it Item, ok bool) {
	block, from, to := r.find(who.String())
	if from == to {
		return Item{}, false
	}
	it, _ = readItem(r.blocks[block][from:to])
	return it, true
}

// State is the subscription state of who.
func (r *Roster) State(who jid.JID) State {
	it, _ := r.Get(who)
	return it.State
}

// put makes it the contact's item; an empty one takes the contact out.
func (r *Roster) put(it Item) {
	who := it.JID.String()
	block, from, to := r.find(who)
	if from != to {
		old, _ := readItem(r.blocks[block][from:to])
		r.addUsage(&old, -1)
	}
	b := ""
	if len(r.blocks) > 0 {
		b = r.blocks[block]
	} else {
		r.blocks = append(r.blocks, "")
	}
	var row []byte
	if !it.empty() {
		row = it.encode(appendText(nil, who))
		r.addUsage(&it, 1)
	}
	b = b[:from] + string(row) + b[to:]
	if b == "" {
		r.blocks = slices.Delete(r.blocks, block, block+1)
		return
	}
	if r.blocks[block] = b; len(b) <= blockBytes && countRows(b) <= blockRows {
		return
	}
	half := 0 // in the middle, and never an empty one
	for rest := b; len(rest) > 0 && (half == 0 || half < len(b)/2); half = len(b) - len(rest) {
		_, row := readText(rest)
		rest = skipRow(row)
	}
	if half < len(b) {
		r.blocks[block] = strings.Clone(b[:half])
		r.blocks = slices.Insert(r.blocks, block+1, strings.Clone(b[half:]))
	}
}

// A builder makes a Roster of rows that come in order.
type builder struct {
	Roster
	block []byte
	rows  int
	last  string
}

var blockPool = sync.Pool{New: func() any { return new([]byte) }}

var errRow = errors.New("a row that can't be read")

// add takes the row of key as it is stored; it is checked, so that nobody has to look again.
func (b *builder) add(key string, row []byte) error {
	if key == "" || key <= b.last || !utf8.ValidString(key) || strings.IndexByte(key, '/') >= 0 || !valid(row) {
		return errRow
	}
	if b.block == nil {
		b.block = (*blockPool.Get().(*[]byte))[:0]
	}
	b.last = key
	b.block = append(appendText(b.block, key), row...)
	if b.rows++; b.rows == blockRows || len(b.block) >= blockBytes {
		b.endBlock()
	}
	return nil
}

func (b *builder) endBlock() {
	if b.rows > 0 {
		block := string(b.block)
		for rest := block; len(rest) > 0; {
			var it Item
			it, rest = readItem(rest)
			b.addUsage(&it, 1)
		}
		b.blocks = append(b.blocks, block)
		b.block, b.rows = b.block[:0], 0
	}
}

func (b *builder) roster() *Roster {
	b.endBlock()
	if b.block != nil {
		blockPool.Put(&b.block)
	}
	r := b.Roster
	r.blocks = slices.Clip(r.blocks)
	return &r
}

// Groups are the names of a contact's groups, packed: two are equal if the lists are.
type Groups string

func packGroups(names []string) Groups {
	var b []byte
	for _, n := range names {
		b = appendText(b, n)
	}
	return Groups(b)
}

// All are the names.
func (g Groups) All() iter.Seq[string] {
	return func(yield func(string) bool) {
		for rest := string(g); len(rest) > 0; {
			var name string
			if name, rest = readText(rest); !yield(name) {
				return
			}
		}
	}
}

const listedBit = 1 << 7

// encode appends the stored row: flags, name, number of groups, their names, the request.
func (it *Item) encode(b []byte) []byte {
	flags := it.State.bits()
	if it.Listed {
		flags |= listedBit
	}
	b = appendText(append(b, flags), it.Name)
	n := uint64(0)
	for range it.Groups.All() {
		n++
	}
	b = append(binary.AppendUvarint(b, n), it.Groups...)
	return appendText(b, it.Request)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// valid reports whether b is a whole stored row and no more.
func valid(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	b = b[1:]
	number := func() (n uint64, ok bool) {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > 1<<20 {
			return 0, false
		}
		b = b[k:]
		return n, true
	}
	text := func() bool {
		n, ok := number()
		if !ok || n > uint64(len(b)) {
			return false
		}
		b = b[n:]
		return true
	}
	if !text() {
		return false
	}
	for n, ok := number(); ; n-- {
		if !ok {
			return false
		}
		if n == 0 {
			break
		}
		if ok = text(); !ok {
			return false
		}
	}
	return text() && len(b) == 0
}

// readUvarint reads what binary.AppendUvarint wrote.
func readUvarint(s string) (n int, rest string) {
	for shift := 0; ; shift += 7 {
		c := s[0]
		s = s[1:]
		if n |= int(c&0x7f) << shift; c < 0x80 {
			return n, s
		}
	}
}

func readText(s string) (text, rest string) {
	n, s := readUvarint(s)
	return s[:n], s[n:]
}

// skipRow is what follows the stored row that s begins with.
func skipRow(s string) string {
	_, s = readText(s[1:])
	n, s := readUvarint(s)
	for ; n > 0; n-- {
		_, s = readText(s)
	}
	_, s = readText(s)
	return s
}

// readItem is the first contact of a block, and what follows it.
func readItem(s string) (it Item, rest string) {
	key, s := readText(s)
	it.JID = jid.FromPrepared(key)
	it.State, it.Listed = unpackState(s[0]), s[0]&listedBit != 0
	it.Name, s = readText(s[1:])
	n, s := readUvarint(s)
	groups := s
	for ; n > 0; n-- {
		_, s = readText(s)
	}
	it.Groups = Groups(groups[:len(groups)-len(s)])
	it.Request, s = readText(s)
	return it, s
}

func countRows(b string) (n int) {
	for ; len(b) > 0; n++ {
		_, row := readText(b)
		b = skipRow(row)
	}
	return n
}
