package archive

import (
	"encoding/binary"
	"errors"
	"time"

	"canto/session/stanzaid"
)

// Flags say what a row is and what became of its message.
type Flags uint8

// The flags. They are stored and never change.
const (
	Sent      Flags = 1 << iota // the owner of the archive has sent it; else the owner has got it
	Waiting                     // no device had it when it came: it is kept for the next one (XEP-0160)
	PushDue                     // it waited, and push services were to be told (XEP-0357): see package push
	Retracted                   // its author has retracted it: the element is a tombstone (XEP-0424)
	Moved                       // it was stored by a version of the server without archives
)

// A Row is one archived message.
type Row struct {
	Flags Flags  // what the row is, and what became of its message
	Seq   uint64 // the number of the row in its archive: the first one ever has 1, and each has one more
	Total uint64 // the bytes of the elements of all rows from the first one ever up to this one
	Skew  int64  // the time at which the message came, less the time of its id, in milliseconds
	With  string // the JID of the other side, with its resource
	// Devices are the resources that got the message when it came, as AppendDevice appends them.
	Devices []byte
	// Element is the message, with the namespace declared on it: as a child of <forwarded/>.
	Element []byte
}

// maxSkew is how far the time of an id may be from that of its message, in milliseconds: ids begin above the
// lease of the start before (package stanzaid), which is a minute ahead of the clock, and more after several
// starts. After a jump of the clock some ids may be farther from it: a query by time may then miss their
// messages.
const maxSkew = 600_000

// Time returns when the message came, to the millisecond.
func (r Row) Time(id stanzaid.ID) time.Time {
	return id.Time().Add(time.Duration(r.Skew) * time.Millisecond)
}

// SkewOf returns the Skew of a message that comes at now and has the id.
func SkewOf(id stanzaid.ID, now time.Time) int64 { return now.UnixMilli() - id.Time().UnixMilli() }

// maxDevice is how many bytes of the name of a device are stored.
const maxDevice = 64

// AppendDevice appends a resource to the Devices of a Row. A name longer than 64 bytes is cut, and beyond
// 1,024 bytes none is added: devices are for the operator to read.
func AppendDevice(devices []byte, resource string) []byte {
	resource = resource[:min(len(resource), maxDevice)]
	if len(devices)+len(resource) > 1024 {
		return devices
	}
	return append(append(devices, byte(len(resource))), resource...)
}

// DeviceNames returns the names in the Devices of r.
func (r Row) DeviceNames() (list []string) {
	for b := r.Devices; len(b) > 0 && int(b[0]) < len(b); b = b[1+b[0]:] {
		list = append(list, string(b[1:1+b[0]]))
	}
	return list
}

// appendRow appends the stored form of r: the flags, and then numbers, as uvarints, and texts with their
// lengths. The element is the rest. The version of the form is the table's, which the store writes before it.
func appendRow(dst []byte, r Row) []byte {
	dst = append(dst, byte(r.Flags))
	dst = binary.AppendUvarint(binary.AppendUvarint(dst, r.Seq), r.Total)
	dst = binary.AppendVarint(dst, r.Skew)
	dst = append(binary.AppendUvarint(dst, uint64(len(r.With))), r.With...)
	dst = append(binary.AppendUvarint(dst, uint64(len(r.Devices))), r.Devices...)
	return append(dst, r.Element...)
}

// errRow: a stored row is damaged.
var errRow = errors.New("archive: a row is cut short")

// decodeRow reads what appendRow has written. The result shares b.
func decodeRow(_ uint8, b []byte) (r Row, err error) {
	if len(b) == 0 {
		return r, errRow
	}
	r.Flags, b = Flags(b[0]), b[1:]
	for _, n := range []*uint64{&r.Seq, &r.Total} {
		v, l := binary.Uvarint(b)
		if l <= 0 {
			return r, errRow
		}
		*n, b = v, b[l:]
	}
	skew, l := binary.Varint(b)
	if l <= 0 {
		return r, errRow
	}
	r.Skew, b = skew, b[l:]
	var text [2][]byte
	for i := range text {
		v, l := binary.Uvarint(b)
		if l <= 0 || v > uint64(len(b)-l) {
			return r, errRow
		}
		text[i], b = b[l:l+int(v)], b[l+int(v):]
	}
	r.With, r.Devices, r.Element = string(text[0]), text[1], b
	return r, nil
}

// An indexKey is the key of a row of the index by the other side: rows with one bare JID, by time. It begins
// with the bucket, so that expired rows of the index are one range; within the bucket the rows with one JID
// are.
type indexKey struct {
	bucket uint16      // the time of the id, in units of 2^31 ms, which is 25 days
	hash   uint64      // of the bare JID
	id     stanzaid.ID // of the row
}

// bucketShift is how far an id is shifted to the right to be the number of its bucket: 22 bits of node and
// counter, and 31 bits of milliseconds. It is part of stored keys and never changes.
const bucketShift = 22 + 31

// bucketOf returns the bucket of id.
func bucketOf(id stanzaid.ID) uint16 { return uint16(id >> bucketShift) }

// hashOf returns the hash of a bare JID in the keys of the index: FNV-1a, 64 bits. It is stored and never
// changes. Two JIDs may have one hash: the row says which JID it is with.
func hashOf(bare string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(bare) {
		h = (h ^ uint64(bare[i])) * 1099511628211
	}
	return h
}

// appendIndexKey appends the stored form of k: 18 bytes that sort as the fields do.
func appendIndexKey(dst []byte, k indexKey) []byte {
	dst = binary.BigEndian.AppendUint16(dst, k.bucket)
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(dst, k.hash), uint64(k.id))
}

// decodeIndexKey reads what appendIndexKey has written.
func decodeIndexKey(b []byte) (indexKey, error) {
	if len(b) != 18 {
		return indexKey{}, errRow
	}
	return indexKey{binary.BigEndian.Uint16(b), binary.BigEndian.Uint64(b[2:]),
		stanzaid.ID(binary.BigEndian.Uint64(b[10:]))}, nil
}
