package bench

// A traceID is the id of a stanza that is measured. It has all that the receiver needs to count the
// stanza, and to compute its latency. Servers do not change ids (RFC 6120 section 8.1.3), and an
// error has the id of the stanza that it answers.
type traceID struct {
	run  uint32 // of the run; stanzas of earlier runs are ignored
	boot uint16 // bootID of the sender's machine
	step uint16 // of the operation
	from uint32 // index of the sender
	seq  uint32 // of the sender's stanzas in this step to this receiver, or to manyReceivers
	at   int64  // when the operation was due (open loop) or sent, on the sender's monotonic clock
}

// traceIDPrefix begins all trace ids.
const traceIDPrefix = 'c'

// digits are those of base 36.
const digits = "0123456789abcdefghijklmnopqrstuvwxyz"

// appendBase36 appends v in base 36. 13 digits hold 64 bits.
func appendBase36(b []byte, v uint64) []byte {
	var t [13]byte
	i := len(t)
	for {
		i--
		t[i] = digits[v%36]
		if v /= 36; v == 0 {
			return append(b, t[i:]...)
		}
	}
}

// append appends t in its written form, six numbers in base 36: "c4f2a-9x-3-1c-5-2k9qp0".
func (t traceID) append(b []byte) []byte {
	b = append(b, traceIDPrefix)
	for i, v := range [...]uint64{uint64(t.run), uint64(t.boot), uint64(t.step), uint64(t.from),
		uint64(t.seq), uint64(t.at)} {
		if i > 0 {
			b = append(b, '-')
		}
		b = appendBase36(b, v)
	}
	return b
}

// parseTraceID reads an id. ok is false if it is not a trace id.
func parseTraceID(b []byte) (t traceID, ok bool) {
	if len(b) < 12 || b[0] != traceIDPrefix {
		return t, false
	}
	var f [6]uint64
	n, have := 0, false
	for _, c := range b[1:] {
		var d uint64
		switch {
		case c >= '0' && c <= '9':
			d = uint64(c - '0')
		case c >= 'a' && c <= 'z':
			d = uint64(c-'a') + 10
		case c == '-' && have && n < len(f)-1:
			n, have = n+1, false
			continue
		default:
			return t, false
		}
		if f[n] > (1<<63)/36 {
			return t, false
		}
		f[n] = f[n]*36 + d
		have = true
	}
	if n != len(f)-1 || !have || f[0] > 1<<32-1 || f[1] > 1<<16-1 || f[2] > 1<<16-1 || f[3] > 1<<32-1 ||
		f[4] > 1<<32-1 {
		return t, false
	}
	return traceID{uint32(f[0]), uint16(f[1]), uint16(f[2]), uint32(f[3]), uint32(f[4]), int64(f[5])}, true
}
