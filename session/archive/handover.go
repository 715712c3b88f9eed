package archive

import (
	"encoding/binary"
	"time"

	"canto/session/stanzaid"
	"canto/session/store"
)

// A Handover says to which device messages went that had waited: one row for each device that got some, not
// for each message. It covers the rows from one id to another of which the flags say that they have waited
// and that do not wait any more. The rows go with those of the archive: see [Archive.Trim].
type Handover struct {
	Last   stanzaid.ID // the last row that it covers
	At     time.Time   // when the device had that one, to the millisecond
	Device string      // its resource, cut as by [AppendDevice]
	// Reads: the messages were not sent to the device, which reads them from the archive (XEP-0386).
	Reads bool
}

// handoversDef has the handovers, each under the first row that it covers.
var handoversDef = store.NewLog[Handover]("archive-handover", 't', 1).Codec(store.Codec[Handover]{
	Append: appendHandover, Decode: decodeHandover})

// HandOver adds a handover of the rows from first to h.Last to b, in place of an earlier one from first. On a
// loop, under the owner's lock.
func (a *Archive) HandOver(b *store.Batch, owner uint64, first stanzaid.ID, h Handover) {
	a.handovers.Append(b, owner, uint64(first), h)
}

// maxHandovers is how many handovers are looked at for a row. The newest that begins before it may end before
// it, as a message may be stored under a number that is less than that of another one, which was taken.
const maxHandovers = 16

// HandoverOf returns the handover that covers the row id of owner; false if none is known: the row has never
// waited, or it waits, or a version of the server without handovers has delivered it. It may wait for the
// disk.
func (a *Archive) HandoverOf(r store.Reader, owner uint64, id stanzaid.ID) (h Handover, ok bool, err error) {
	err = a.handovers.Scan(r, owner, 0, uint64(id), maxHandovers, true, func(_ uint64, next Handover) bool {
		h, ok = next, next.Last >= id
		return !ok
	})
	if !ok {
		h = Handover{}
	}
	return h, ok, err
}

// appendHandover appends the stored form of h: the last row and the time in Unix milliseconds, 8 bytes each,
// a byte that is 1 for Reads, and the device.
func appendHandover(dst []byte, h Handover) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.Last))
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.At.UnixMilli()))
	reads := byte(0)
	if h.Reads {
		reads = 1
	}
	return append(append(dst, reads), h.Device[:min(len(h.Device), maxDevice)]...)
}

// decodeHandover reads what appendHandover has written.
func decodeHandover(_ uint8, b []byte) (h Handover, err error) {
	if len(b) < 17 {
		return h, errRow
	}
	return Handover{Last: stanzaid.ID(binary.BigEndian.Uint64(b)),
		At:    time.UnixMilli(int64(binary.BigEndian.Uint64(b[8:]))).UTC(),
		Reads: b[16] != 0, Device: string(b[17:])}, nil
}
