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

// A Roster is the roster of a warm account. It has the rows as they are stored, packed into blocks, so a
// contact costs the bytes of its text and five more, and loading copies bytes only. A reader unpacks one
// row after another; the strings of an Item are parts of the block. A change replaces one block by a new
// string and never changes bytes, so Items that were read before stay valid.
//
// A nil Roster is an empty one and can only be read. The account's lock guards a Roster.
type Roster struct {
	blocks   []string // rows in the order of the JIDs; a row is the JID's length, the JID, and the stored row
	listed   usage    // what the user's own contacts take
	requests usage    // what requests take that wait for the user's answer
	version  uint64   // the roster version, see Version
}

// A usage is how much a roster has of one of two things that have limits of their own: the user's
// contacts, and the requests of others. Because of the two limits other users can't fill the space of the
// user's contacts.
type usage struct {
	rows  int32 // contacts; for requests, only those of senders that are not listed
	bytes int32 // see Item.usage
}

// The bytes that a contact and a group take in the answer to a roster request, in addition to their text.
const (
	itemMarkup  = len("<item jid='' name='' subscription='both'></item>")
	groupMarkup = len("<group></group>")
)

// usage returns how much it takes of the two limits. The user's own part is measured in the XML that a
// client gets, escaped, so the limit holds for the size of the answer to a roster request too. A request
// is measured as it is stored.
func (it *Item) usage() (listed, requests usage) {
	own, others := 0, len(it.Request)
	if it.Listed {
		listed.rows = 1
		own = itemMarkup + len(it.JID.String()) + xmlstream.EscapedLen(it.Name)
		for g := range it.Groups.All() {
			own += groupMarkup + xmlstream.EscapedLen(g)
		}
	} else if !it.empty() {
		requests.rows = 1
		others += len(it.JID.String())
	}
	listed.bytes, requests.bytes = int32(own), int32(others)
	return listed, requests
}

// addUsage adds the usage of it to that of r (sign 1), or subtracts it (sign -1).
func (r *Roster) addUsage(it *Item, sign int32) {
	listed, requests := it.usage()
	r.listed.rows += sign * listed.rows
	r.listed.bytes += sign * listed.bytes
	r.requests.rows += sign * requests.rows
	r.requests.bytes += sign * requests.bytes
}

// A block with more rows or bytes than these is split in two, so that a change copies little of a long
// roster.
const (
	blockRows  = 32
	blockBytes = 8 << 10
)

// Len returns the number of contacts, including those that are not listed.
func (r *Roster) Len() int {
	if r == nil {
		return 0
	}
	return int(r.listed.rows + r.requests.rows)
}

// Version returns the roster version of RFC 6121 section 2.6. It is 0 until the first change.
func (r *Roster) Version() uint64 {
	if r == nil {
		return 0
	}
	return r.version
}

// All returns the contacts, in the order of their JIDs. r must not be changed during the iteration.
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

// find returns the block that has the row of the JID key, and the bounds of the row in it: b[from:to]. If
// there is no such row, from and to are both the place where it belongs. It finds the block by binary
// search and then reads the rows of that block in order.
func (r *Roster) find(key string) (block, from, to int) {
	if r == nil || len(r.blocks) == 0 {
		return 0, 0, 0
	}
	// The search never returns 0, so it finds the first block whose first JID is greater than key. The
	// block before that one has the row.
	block, _ = slices.BinarySearchFunc(r.blocks, key, func(b, key string) int {
		if first, _ := readText(b); first > key {
			return 1
		}
		return -1
	})
	block = max(block-1, 0)
	b := r.blocks[block]
	for rest := b; len(rest) > 0; {
		rowKey, row := readText(rest)
		from = len(b) - len(rest)
		if rest = skipRow(row); rowKey == key {
			return block, from, len(b) - len(rest)
		} else if rowKey > key {
			return block, from, from
		}
	}
	return block, len(b), len(b)
}

// Get returns the item of the contact, a bare JID or a domain; ok is false if there is none.
func (r *Roster) Get(contact jid.JID) (it Item, ok bool) {
	block, from, to := r.find(contact.String())
	if from == to {
		return Item{}, false
	}
	it, _ = readItem(r.blocks[block][from:to])
	return it, true
}

// State returns the subscription state of the contact; the zero State if there is no such contact.
func (r *Roster) State(contact jid.JID) State {
	it, _ := r.Get(contact)
	return it.State
}

// put replaces the contact's item by it, or removes the contact if it is empty. Its steps:
//
//  1. Find the row, and subtract its usage.
//  2. Encode the new row, and put it into a copy of the block in place of the old row.
//  3. Remove a block that is empty now.
//  4. Split a block that has become too large, between two rows near its middle.
func (r *Roster) put(it Item) {
	key := it.JID.String()
	block, from, to := r.find(key)
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
		row = it.encode(appendText(nil, key))
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
	half := 0 // where to split: after at least one row
	for rest := b; len(rest) > 0 && (half == 0 || half < len(b)/2); half = len(b) - len(rest) {
		_, row := readText(rest)
		rest = skipRow(row)
	}
	if half < len(b) {
		r.blocks[block] = strings.Clone(b[:half])
		r.blocks = slices.Insert(r.blocks, block+1, strings.Clone(b[half:]))
	}
}

// A builder makes a Roster from rows that come in order. For one goroutine; it is used once.
type builder struct {
	Roster
	block []byte // the block that is being filled, from blockPool
	rows  int    // the number of rows in it
	last  string // the key of the last row
}

// blockPool has buffers for the block that a builder fills, so that loading many accounts does not
// allocate one for each.
var blockPool = sync.Pool{New: func() any { return new([]byte) }}

// errRow is the error for a stored row that is damaged.
var errRow = errors.New("a row that can't be read")

// add takes the stored row of key. It checks the row completely, so that later readers need no checks. It
// returns errRow for a damaged row, and for a key that is not greater than the last one.
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

// endBlock appends the filled block to the roster and counts the usage of its rows.
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

// roster returns the Roster. The builder must not be used after that.
func (b *builder) roster() *Roster {
	b.endBlock()
	if b.block != nil {
		blockPool.Put(&b.block)
	}
	r := b.Roster
	r.blocks = slices.Clip(r.blocks)
	return &r
}

// Groups has the names of a contact's groups, packed. Two values are equal if they have the same names in
// the same order.
type Groups string

// packGroups packs names.
func packGroups(names []string) Groups {
	var b []byte
	for _, n := range names {
		b = appendText(b, n)
	}
	return Groups(b)
}

// All returns the names of the groups.
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

// listedBit is the bit of Item.Listed in the flags byte of a stored row; State.bits uses the low five.
const listedBit = 1 << 7

// encode appends the stored row of it to b: flags, name, number of groups, their names, the request.
// Lengths and the number are uvarints. The form is the store's format: see the table's version.
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

// appendText appends the length of s, as a uvarint, and s.
func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// valid reports whether b is one whole stored row and nothing else. Lengths over 1 MiB are damage: no row
// is longer than that.
func valid(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	b = b[1:]
	uvarint := func() (n uint64, ok bool) {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > 1<<20 {
			return 0, false
		}
		b = b[k:]
		return n, true
	}
	text := func() bool {
		n, ok := uvarint()
		if !ok || n > uint64(len(b)) {
			return false
		}
		b = b[n:]
		return true
	}
	if !text() {
		return false
	}
	for n, ok := uvarint(); ; n-- {
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

// readUvarint reads a uvarint of a row that valid has accepted. It panics at the end of s.
func readUvarint(s string) (n int, rest string) {
	for shift := 0; ; shift += 7 {
		c := s[0]
		s = s[1:]
		if n |= int(c&0x7f) << shift; c < 0x80 {
			return n, s
		}
	}
}

// readText reads a text that appendText has written, of a row that valid has accepted.
func readText(s string) (text, rest string) {
	n, s := readUvarint(s)
	return s[:n], s[n:]
}

// skipRow returns the rest of s after the stored row that it begins with.
func skipRow(s string) string {
	_, s = readText(s[1:])
	n, s := readUvarint(s)
	for ; n > 0; n-- {
		_, s = readText(s)
	}
	_, s = readText(s)
	return s
}

// readItem unpacks the first contact of a block and returns the rest of the block. The strings of it are
// parts of s.
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

// countRows returns the number of rows in a block.
func countRows(b string) (n int) {
	for ; len(b) > 0; n++ {
		_, row := readText(b)
		b = skipRow(row)
	}
	return n
}
