package offline

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	"canto/session"
	"canto/session/archive"
	"canto/session/handling"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/session/stanzaid"
	"canto/session/store"
	"canto/session/wallclock"
	"canto/xmlstream"
)

// tableName is the name of the table of messages that wait and are not archived. Its first version had all
// messages that wait, under numbers that began with 0 in each account.
const tableName = "offline"

// firstVersionEnd is above all numbers of the first version, and below all ids.
const firstVersionEnd = 1 << 40

var (
	// rowsDef has the messages that wait and that the cursor does not find: those that must not be archived, and
	// references to those that a session had in its queue when it ended. The prefix is part of the store's
	// format.
	rowsDef = store.NewLog[waitingRow](tableName, 'o', 3).Oldest(1).Codec(store.Codec[waitingRow]{
		Append: appendWaiting, Decode: decodeWaiting})
	// cursorDef has one row for each account for which messages wait.
	cursorDef = store.NewMap[string, backlog]("offline-cursor", 'c', 2).Codec(store.Codec[backlog]{
		Append: appendBacklog, Decode: decodeBacklog})
)

// A waitingRow is one row of the table.
type waitingRow struct {
	at      int64  // when the message came, in Unix milliseconds
	el      []byte // the message, as a client gets it but for the delay; nil: it is in the archive
	size    int    // the length of a message that is in the archive, when it was stored
	version uint8  // of the form in which it was stored
}

// appendWaiting appends the stored form of r: the time, 8 bytes, and the element. A row that refers to the
// archive has a zero byte and the size, as a uvarint, instead of the element.
func appendWaiting(dst []byte, r waitingRow) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.at))
	if r.el == nil {
		return binary.AppendUvarint(append(dst, 0), uint64(r.size))
	}
	return append(dst, r.el...)
}

// errRow: a stored row is damaged.
var errRow = errors.New("offline: a row is cut short")

// decodeWaiting reads what appendWaiting has written. A row of version 1 is the element, with its delay.
func decodeWaiting(version uint8, b []byte) (waitingRow, error) {
	if version == 1 {
		return waitingRow{el: b, version: 1}, nil
	}
	if len(b) < 9 {
		return waitingRow{}, errRow
	}
	r := waitingRow{at: int64(binary.BigEndian.Uint64(b)), version: version}
	if b[8] != 0 {
		r.el = b[8:]
		return r, nil
	}
	size, n := binary.Uvarint(b[9:])
	if n <= 0 || size > math.MaxInt32 {
		return waitingRow{}, errRow
	}
	r.size = int(size)
	return r, nil
}

// A backlog says what waits for an account. It is in memory while the account is warm, and stored as it is in
// memory: the cursor. The rows of the table wait, and those of the archive that are flagged as waiting and
// are not before from. It belongs to the account's lock.
type backlog struct {
	from         stanzaid.ID // rows of the archive before it are delivered, or the table refers to them
	first        stanzaid.ID // no message that waits has a smaller number
	queued       stanzaid.ID // no row of the table refers to a smaller number; 0: none refers to the archive
	last         stanzaid.ID // the greatest number of a row that was stored
	count, bytes int         // the number of messages that wait, and the size of their elements
	// changes counts the messages that were stored since the account was loaded. It is not stored.
	changes int
}

// oldest returns the oldest row of the archive that waits; 0: there is none.
func (k *backlog) oldest() stanzaid.ID {
	if k.queued == 0 || k.from == 0 {
		return max(k.from, k.queued)
	}
	return min(k.from, k.queued)
}

// appendBacklog appends the stored form of k: its fields as uvarints.
func appendBacklog(dst []byte, k backlog) []byte {
	for _, v := range []uint64{uint64(k.from), uint64(k.last), uint64(k.count), uint64(k.bytes),
		uint64(k.first), uint64(k.queued)} {
		dst = binary.AppendUvarint(dst, v)
	}
	return dst
}

// decodeBacklog reads what appendBacklog has written. Of version 1 it has four fields; zero in the others
// says nothing about what waits.
func decodeBacklog(version uint8, b []byte) (k backlog, err error) {
	var v [6]uint64
	for i := range v {
		n := 0
		if i == 4 && version == 1 {
			break
		}
		if v[i], n = binary.Uvarint(b); n <= 0 {
			return k, errRow
		}
		b = b[n:]
	}
	if v[2] > math.MaxInt32 || v[3] > math.MaxInt64 {
		return k, errRow
	}
	return backlog{from: stanzaid.ID(v[0]), last: stanzaid.ID(v[1]), count: int(v[2]), bytes: int(v[3]),
		first: stanzaid.ID(v[4]), queued: stanzaid.ID(v[5])}, nil
}

// writeCursor adds the cursor of a to b. Under the lock of a.
func (m *module) writeCursor(b *store.Batch, a *session.Account, k *backlog) {
	if k.count == 0 {
		m.cursors.Delete(b, a.ID(), "")
		return
	}
	m.cursors.Put(b, a.ID(), "", *k)
}

// moveRows moves the messages that the first version of the table has of an account: into the archive, with a
// cursor, where they would be archived today, and else into rows of this version. It is a mover of
// [session.MoveRows]: on a worker. It returns nil if there are none.
func (m *module) moveRows(snap *store.Snapshot, who session.EntityRef) (any, error) {
	var old []waitingRow
	err := m.rows.Scan(snap, who.ID, 0, firstVersionEnd, 0, false, func(_ uint64, r waitingRow) bool {
		r.el = append([]byte(nil), r.el...)
		old = append(old, r)
		return true
	})
	if err != nil || len(old) == 0 {
		return nil, err
	}
	b := m.db.NewBatch(who.ID)
	k, _, err := m.cursors.Get(snap, who.ID, "")
	if err != nil {
		return nil, err
	}
	var sum archive.Summary
	if m.service != nil {
		if sum, err = m.archive.Load(snap, who.ID); err != nil {
			return nil, err
		}
	}
	id := sum.Last
	for _, r := range old {
		msg, err := readFirstVersion(r.el, who.JID)
		if err != nil {
			continue // it could not be delivered either: package session drops what does not parse
		}
		id = max(id+1, stanzaid.FirstAt(msg.at))
		k.count, k.bytes, k.last = k.count+1, k.bytes+len(msg.el), max(k.last, id)
		archived, err := m.archives(snap, who, msg)
		if err != nil {
			return nil, err
		}
		if !archived {
			m.rows.Append(b, who.ID, uint64(id), waitingRow{at: msg.at.UnixMilli(), el: msg.el})
			continue
		}
		if k.from == 0 {
			k.from = id
		}
		m.archive.Append(b, who.ID, &sum, id, archive.Row{Flags: archive.Waiting | archive.Moved,
			Skew: archive.SkewOf(id, msg.at), With: msg.from.String(), Element: msg.forwarded})
	}
	m.rows.Trim(b, who.ID, firstVersionEnd)
	m.cursors.Put(b, who.ID, "", k)
	return b, nil
}

// archives reports whether a message of the first version belongs into the archive.
func (m *module) archives(snap *store.Snapshot, who session.EntityRef, msg firstVersion) (bool, error) {
	if m.service == nil || !msg.handling.Archive {
		return false, nil
	}
	return m.service.WantsStored(snap, who.ID, msg.from)
}

// A firstVersion is a message that the first version of the table had.
type firstVersion struct {
	at            time.Time // when it came: its delay
	from          jid.JID
	el, forwarded []byte // the element without the delay and the id, on a stream and in a <forwarded/>
	handling      handling.Handling
}

// readFirstVersion reads a message of the first version. It takes out the delay, and the id, which was
// predictable.
func readFirstVersion(el []byte, to jid.JID) (m firstVersion, err error) {
	e, err := xmlstream.Parse(el)
	if err != nil {
		return m, err
	}
	text, _ := e.Attr(stanza.AttrFrom)
	if m.from, err = jid.Parse(string(text)); err != nil {
		return m, err
	}
	var a xmlstream.Appender
	a.Reset(xmlstream.Streamed)
	a.Open(stanza.MessageName)
	for _, n := range []xmlstream.Name{stanza.AttrType, stanza.AttrID, stanza.AttrFrom, stanza.AttrTo,
		stanza.AttrLang} {
		if v, ok := e.Attr(n); ok {
			a.AttrBytes(n, v)
		}
	}
	var last xmlstream.Element // the last delay is this server's
	for c, ok := e.First(); ok; c, ok = c.Next() {
		if c.Is(delayName) {
			last = c
		}
	}
	for c, ok := e.First(); ok; c, ok = c.Next() {
		by, _ := c.Attr(byAttr)
		if !last.IsZero() && c == last || c.Is(stanzaIDName) && string(by) == to.String() {
			continue
		}
		a.Raw(c)
	}
	a.Close()
	m.el = a.B
	if !last.IsZero() {
		stamp, _ := last.Attr(stanza.AttrStamp)
		m.at, _ = time.Parse(time.RFC3339, string(stamp))
	}
	m.at = m.at.UTC()
	if e, err = xmlstream.Parse(m.el); err != nil {
		return m, err
	}
	typ, _ := e.Attr(stanza.AttrType)
	m.handling = handling.Of(stanza.ParseType(stanza.Message, typ), e)
	m.forwarded = forwardedForm(e)
	return m, nil
}

// forwardedForm returns e as a child of <forwarded/>, with its namespace declared on it.
func forwardedForm(e xmlstream.Element) []byte {
	var a xmlstream.Appender
	a.Reset(xmlstream.Streamed)
	a.Open(forwardedName)
	n := len(a.B) + 1 // the tag is closed when its first child begins
	a.Raw(e)
	return a.B[n:len(a.B):len(a.B)]
}

// fromArchive returns the element of a row of the archive as a client gets it: with the stanza-id, and the
// delay with the time at which it came. On a worker.
func (m *module) fromArchive(owner uint64, bare, host string, id stanzaid.ID, row archive.Row) ([]byte,
	error) {
	e, err := xmlstream.Parse(row.Element)
	if err != nil {
		return nil, err
	}
	var a xmlstream.Appender
	a.Reset(xmlstream.Streamed)
	m.ids.AppendElement(&a, owner, bare, id)
	appendDelay(&a, host, row.Time(id))
	return session.AppendChildren(nil, e.Append(nil, xmlstream.Streamed), a.B), nil
}

// appendDelay appends the delay of a message that came at t (XEP-0203).
func appendDelay(a *xmlstream.Appender, host string, t time.Time) {
	a.Open(delayName).Attr(stanza.AttrFrom, host).Attr(stanza.AttrStamp, wallclock.Timestamp(t)).Close()
}

// The names of what a message that waits has.
var (
	delayName     = xmlstream.N("urn:xmpp:delay", "delay")
	stanzaIDName  = xmlstream.N("urn:xmpp:sid:0", "stanza-id")
	forwardedName = xmlstream.N("urn:xmpp:forward:0", "forwarded")
	byAttr        = xmlstream.N("", "by")
)
