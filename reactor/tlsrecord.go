package reactor

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"net"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"

	"canto/reactor/buf"
)

// Content types of records and types of handshake messages (RFC 8446 §5.1, §4).
const (
	typeAlert       = 21
	typeHandshake   = 22
	typeApplication = 23

	messageTicket    = 4
	messageKeyUpdate = 24
)

// Alerts (RFC 8446 §6).
const (
	alertCloseNotify       tls.AlertError = 0
	alertUnexpectedMessage tls.AlertError = 10
	alertBadRecordMAC      tls.AlertError = 20
	alertRecordOverflow    tls.AlertError = 22
	alertIllegalParameter  tls.AlertError = 47
	alertDecodeError       tls.AlertError = 50
	alertInternalError     tls.AlertError = 80
	alertUserCanceled      tls.AlertError = 90
)

// Sizes (RFC 8446 §5.2): of a record's header, of the data in one, and of what follows a header at most.
const (
	recordHead    = 5
	maxContent    = 1 << 14
	maxCiphertext = maxContent + 256
	tagSize       = 16 // of every AEAD here
	ivSize        = 12
)

const (
	// maxUseless is how many records without data may come in a row, and maxDebt how many in all beyond
	// one for each usefulBytes of a record with data, until the connection has been quiet.
	maxUseless  = 32
	maxDebt     = 256
	usefulBytes = 64
	// updatePrice is what a change of keys counts for in Overhead, in bytes.
	updatePrice = 1024
	// maxTicket bounds a NewSessionTicket; none of it is kept.
	maxTicket = 64 << 10
)

// rekeyAfter is how many records are sealed under one key: with full records 2^36 bytes, well below the
// 2^24.5 records of RFC 8446 §5.5. A test lowers it.
var rekeyAfter uint64 = 1 << 22

// A suite is how a cipher suite makes keys and AEADs.
type suite struct {
	id     uint16
	hash   func() hash.Hash
	secret int // bytes
	key    int
	aead   func(key []byte) (cipher.AEAD, error)
}

// suites are those of which the record layer is ours; the others stay on crypto/tls.
var suites = [...]suite{
	{tls.TLS_AES_128_GCM_SHA256, sha256.New, 32, 16, newGCM},
	{tls.TLS_AES_256_GCM_SHA384, sha512.New384, 48, 32, newGCM},
	{tls.TLS_CHACHA20_POLY1305_SHA256, sha256.New, 32, chacha20poly1305.KeySize, chacha20poly1305.New},
}

func newGCM(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// checked, if a test sets it, stands around every AEAD that seals.
var checked func(a cipher.AEAD, key []byte) cipher.AEAD

// expand is HKDF-Expand-Label without a context (RFC 8446 §7.1), into dst.
func (s *suite) expand(dst, secret []byte, label string) error {
	var info [2 + 1 + 6 + 16 + 1]byte
	b := binary.BigEndian.AppendUint16(info[:0], uint16(len(dst)))
	b = append(append(append(b, byte(6+len(label))), "tls13 "...), label...)
	out, err := hkdf.Expand(s.hash, secret, string(append(b, 0)), len(dst))
	copy(dst, out)
	clear(out)
	return err
}

// A half is one direction: the application traffic secret, from which key and IV are derived when they
// are needed, and how many records went under it.
type half struct {
	secret [48]byte // as many of them as the suite's hash has
	seq    uint64
}

// make derives what records are sealed by (RFC 8446 §7.3).
func (h *half) make(s *suite, iv *[ivSize]byte, seals bool) (cipher.AEAD, error) {
	var k [32]byte
	key := k[:s.key]
	defer clear(key)
	if err := s.expand(key, h.secret[:s.secret], "key"); err != nil {
		return nil, err
	}
	if err := s.expand(iv[:], h.secret[:s.secret], "iv"); err != nil {
		return nil, err
	}
	a, err := s.aead(key)
	if err == nil && seals && checked != nil {
		a = checked(a, slices.Clone(key))
	}
	return a, err
}

// next goes on to the next secret (RFC 8446 §7.2).
func (h *half) next(s *suite) {
	must(s.expand(h.secret[:s.secret], h.secret[:s.secret], "traffic upd"))
	h.seq = 0
}

func (h *half) wipe() { clear(h.secret[:]) }

// must: what was derived once at the detach can be derived again.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

const (
	layerClient = 1 << iota // ours is the client's end
	layerDead               // a fatal alert was sent or received: nothing more is opened or sealed
	layerEOF                // the peer has sent close_notify: what follows is ignored
	layerShut               // we have
	layerOwed               // the peer has asked for our KeyUpdate
)

// A layer is the record layer of TLS 1.3 (RFC 8446 §5) under application traffic secrets that crypto/tls
// has agreed on. 136 bytes while quiet. Only on the loop.
type layer struct {
	in, out half
	warm    *warm   // nil while quiet
	rest    *rest   // nil while what has come ended with a record
	hand    [4]byte // head of a handshake message; its length counts down
	handN   uint8   // bytes of it that have come
	suite   uint8   // index in suites
	flags   uint8
}

// warm is what a layer has only while there is traffic; it can be made again from the secrets.
type warm struct {
	in, out       cipher.AEAD // nil until used
	inIV, outIV   [ivSize]byte
	nonce         [ivSize]byte // scratch
	window        []byte       // the engine's: what Read opens, while deliver runs
	alert         []byte       // sealed, waits to be taken
	useless, debt int
	over          int // see Conn.Overhead
	timer         Timer
	used          Tick
}

// rest is input that was not opened: it ends inside a record, or the handler is paused.
type rest struct {
	b   []byte // lent by buf.Tail
	off int
}

func (y *layer) suit() *suite { return &suites[y.suite] }

func (y *layer) heat() *warm {
	if y.warm == nil {
		y.warm = new(warm)
	}
	return y.warm
}

// cool drops what can be made again.
func (y *layer) cool() {
	if w := y.warm; w != nil {
		clear(w.inIV[:])
		clear(w.outIV[:])
		y.warm = nil
	}
}

// drop wipes y, and gives back what it was lent.
func (y *layer) drop() {
	y.in.wipe()
	y.out.wipe()
	y.cool()
	y.flags |= layerDead
	y.settle()
}

// feed takes what has come; p is looked at until settle.
func (y *layer) feed(p []byte) {
	if len(p) == 0 || y.flags&(layerDead|layerEOF) != 0 {
		return
	}
	r := y.rest
	if r == nil {
		y.heat().window = p
		return
	}
	if r.off > 0 && r.off >= len(r.b)-r.off {
		r.b, r.off = r.b[:copy(r.b, r.b[r.off:])], 0
	}
	r.b = append(r.b, p...)
}

// settle keeps what feed brought and Read did not open.
func (y *layer) settle() {
	ended := y.flags&(layerDead|layerEOF) != 0
	if r := y.rest; r != nil && (ended || r.off == len(r.b)) {
		buf.Tail.Put(r.b)
		y.rest = nil
	}
	w := y.warm
	if w == nil {
		return
	}
	if len(w.window) > 0 && !ended {
		y.rest = &rest{b: append(buf.Tail.Get(len(w.window)), w.window...)}
	}
	w.window = nil
}

func (y *layer) held() int {
	if y.rest == nil {
		return 0
	}
	return len(y.rest.b) - y.rest.off
}

// fail ends the connection with an alert, once.
func (y *layer) fail(a tls.AlertError) error {
	if y.flags&(layerDead|layerShut) == 0 {
		y.heat().alert = y.record(nil, typeAlert, []byte{2, byte(a)}, 0)
	}
	y.die()
	return &net.OpError{Op: "local error", Err: a}
}

func (y *layer) die() {
	y.flags |= layerDead
	y.in.wipe()
	y.out.wipe()
}

var (
	errSpent = errors.New("reactor: the TLS connection has failed")
	errShort = errors.New("reactor: too little room for a record")
)

// useless counts a record of n bytes without data (attacks T06, K33).
func (y *layer) useless(n int) error {
	w := y.warm
	w.over += n
	w.useless++
	w.debt++
	if w.useless > maxUseless || w.debt > maxDebt {
		return y.fail(alertUnexpectedMessage)
	}
	return nil
}

// Read opens the next record with data into p, which has room for the largest: maxCiphertext bytes.
// errWouldBlock: what has come ends before one does. io.EOF: close_notify. Any other error is the
// connection's end, and its alert waits to be taken.
func (y *layer) Read(p []byte) (int, error) {
	if cap(p) < maxCiphertext {
		return 0, errShort
	}
	for {
		switch {
		case y.flags&layerDead != 0:
			return 0, errSpent
		case y.flags&layerEOF != 0:
			return 0, io.EOF
		}
		rec, err := y.nextRecord()
		if err != nil {
			return 0, err
		}
		w := y.warm
		if w.in == nil {
			w.in, err = y.in.make(y.suit(), &w.inIV, false)
			must(err)
		}
		w.number(&w.inIV, y.in.seq)
		b, err := w.in.Open(p[:0], w.nonce[:], rec[recordHead:], rec[:recordHead])
		if err != nil {
			return 0, y.fail(alertBadRecordMAC)
		}
		if y.in.seq++; y.in.seq == math.MaxUint64 {
			return 0, y.fail(alertInternalError) // RFC 8446 §5.3: it must not wrap
		}
		if len(b) > maxContent+1 { // with its padding: RFC 8446 §5.4
			return 0, y.fail(alertRecordOverflow)
		}
		n := len(b)
		for n >= 8 && binary.LittleEndian.Uint64(b[n-8:]) == 0 {
			n -= 8
		}
		for n > 0 && b[n-1] == 0 {
			n--
		}
		if n == 0 {
			return 0, y.fail(alertUnexpectedMessage) // padding and no type
		}
		padding, kind := len(b)-n, b[n-1]
		b = b[:n-1]
		if kind == typeApplication && len(b) > 0 && y.handN == 0 {
			w.useless = 0
			w.debt = max(0, w.debt-len(b)/usefulBytes)
			w.over += padding
			return len(b), nil
		}
		if err := y.control(kind, b, len(rec)); err != nil {
			return 0, err
		}
	}
}

// nextRecord takes the next record out of what has come, without a copy. What is wrong with a header is
// said before its record is waited for (attacks K35, K36).
func (y *layer) nextRecord() ([]byte, error) {
	w := y.heat()
	b := w.window
	if y.rest != nil {
		b = y.rest.b[y.rest.off:]
	}
	if len(b) < recordHead {
		return nil, errWouldBlock
	}
	n := int(binary.BigEndian.Uint16(b[3:]))
	switch {
	case b[0] != typeApplication, b[1] != 3, b[2] != 3:
		return nil, y.fail(alertUnexpectedMessage) // in plain, too: RFC 8446 §5, and D.4 ends at Finished
	case n > maxCiphertext:
		return nil, y.fail(alertRecordOverflow)
	case n < tagSize:
		return nil, y.fail(alertBadRecordMAC)
	}
	if len(b) < recordHead+n {
		return nil, errWouldBlock
	}
	if y.rest != nil {
		y.rest.off += recordHead + n
	} else {
		w.window = b[recordHead+n:]
	}
	return b[: recordHead+n : recordHead+n], nil
}

// control handles a record that has no data for the handler.
func (y *layer) control(kind byte, b []byte, size int) error {
	switch {
	case kind != typeHandshake && y.handN > 0:
		return y.fail(alertUnexpectedMessage) // inside a handshake message: RFC 8446 §5.1
	case kind == typeApplication:
		return y.useless(size)
	case kind == typeHandshake && len(b) > 0:
		if err := y.useless(size); err != nil {
			return err
		}
		return y.handshake(b)
	case kind == typeAlert && len(b) > 0:
		return y.alerted(b, size)
	}
	return y.fail(alertUnexpectedMessage) // RFC 8446 §5.4 for what is empty
}

func (y *layer) alerted(b []byte, size int) error {
	if len(b) != 2 {
		return y.fail(alertDecodeError) // exactly one in a record: RFC 8446 §5.1
	}
	switch a := tls.AlertError(b[1]); a {
	case alertCloseNotify:
		y.flags |= layerEOF
		y.in.wipe()
		return io.EOF
	case alertUserCanceled: // close_notify follows (RFC 8446 §6.1); the only one that is no end
		return y.useless(size)
	default:
		y.die()
		return &net.OpError{Op: "remote error", Err: a}
	}
}

// handshake takes b, of messages that may be cut anywhere. No more than a head is kept (attack K40): a
// KeyUpdate has one byte, and a ticket is of no use to us, as who has a cache of sessions is not detached.
func (y *layer) handshake(b []byte) error {
	for len(b) > 0 {
		if y.handN < 4 {
			y.hand[y.handN] = b[0]
			y.handN++
			b = b[1:]
			n := int(y.hand[1])<<16 | int(y.hand[2])<<8 | int(y.hand[3])
			switch kind := y.hand[0]; {
			case kind != messageKeyUpdate && (kind != messageTicket || y.flags&layerClient == 0):
				return y.fail(alertUnexpectedMessage)
			case y.handN < 4:
			case kind == messageKeyUpdate && n != 1, n == 0, n > maxTicket:
				return y.fail(alertDecodeError)
			}
			continue
		}
		if y.hand[0] == messageKeyUpdate {
			return y.updated(b)
		}
		n := int(y.hand[1])<<16 | int(y.hand[2])<<8 | int(y.hand[3])
		k := min(n, len(b))
		b, n = b[k:], n-k
		y.hand[1], y.hand[2], y.hand[3] = byte(n>>16), byte(n>>8), byte(n)
		if n == 0 {
			y.handN = 0
		}
	}
	return nil
}

// updated takes the body of a KeyUpdate (RFC 8446 §4.6.3), which ends its record as the key changes
// behind it (§5.1; attack T05).
func (y *layer) updated(b []byte) error {
	switch {
	case len(b) > 1:
		return y.fail(alertUnexpectedMessage)
	case b[0] > 1:
		return y.fail(alertIllegalParameter)
	case b[0] == 1:
		y.flags |= layerOwed // one answer for as many as come before it is sent (attack T06)
	}
	y.handN = 0
	y.in.next(y.suit())
	y.warm.in = nil
	y.warm.over += updatePrice
	return nil
}

// number makes the nonce of a record (RFC 8446 §5.3).
func (w *warm) number(iv *[ivSize]byte, seq uint64) {
	w.nonce = *iv
	tail := w.nonce[ivSize-8:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^seq)
}

// record appends one record; zeros behind its type are padding. Not after layerDead or layerShut.
func (y *layer) record(dst []byte, kind byte, content []byte, padding int) []byte {
	w := y.heat()
	if w.out == nil {
		var err error
		w.out, err = y.out.make(y.suit(), &w.outIV, true)
		must(err)
	}
	n := len(content) + 1 + padding + tagSize
	dst = slices.Grow(dst, recordHead+n)
	head := len(dst)
	dst = append(dst, typeApplication, 3, 3, byte(n>>8), byte(n))
	body := len(dst)
	dst = append(append(dst, content...), kind)
	clear(dst[len(dst) : len(dst)+padding])
	dst = dst[:len(dst)+padding]
	w.number(&w.outIV, y.out.seq)
	y.out.seq++
	return w.out.Seal(dst[:body], w.nonce[:], dst[body:], dst[head:body])
}

// update appends our KeyUpdate, and changes the key behind it.
func (y *layer) update(dst []byte, request byte) []byte {
	dst = y.record(dst, typeHandshake, []byte{messageKeyUpdate, 0, 0, 1, request}, 0)
	y.out.next(y.suit())
	y.warm.out = nil
	y.flags &^= layerOwed
	return dst
}

// seal appends p as records to dst. The error is for a connection that has failed or was ended.
func (y *layer) seal(dst, p []byte) ([]byte, error) {
	if y.flags&(layerDead|layerShut) != 0 {
		return dst, errSpent
	}
	for len(p) > 0 {
		if y.flags&layerOwed != 0 || y.out.seq >= rekeyAfter {
			dst = y.update(dst, 0)
		}
		n := min(len(p), maxContent)
		dst = y.record(dst, typeApplication, p[:n], 0)
		p = p[n:]
	}
	return dst, nil
}

// take appends what y has to say by itself: an alert, the answer to a KeyUpdate.
func (y *layer) take(dst []byte) []byte {
	if y.flags&(layerOwed|layerDead|layerShut) == layerOwed {
		dst = y.update(dst, 0)
	}
	if w := y.warm; w != nil && w.alert != nil {
		dst = append(dst, w.alert...)
		w.alert = nil
	}
	return dst
}

// bye appends close_notify (RFC 8446 §6.1), once.
func (y *layer) bye(dst []byte) []byte {
	if y.flags&(layerDead|layerShut) == 0 {
		dst = y.record(dst, typeAlert, []byte{1, byte(alertCloseNotify)}, 0)
		y.flags |= layerShut
		y.out.wipe()
	}
	return dst
}

// newLayer goes on where crypto/tls has left off. sent are records that our end has written since the
// secrets are known, from the first one's header: some of the last ones may be sealed under our secret,
// as the server's tickets are, and are found by opening them, where they are; then all are wiped. An error
// says that the connection had better stay where it is. Any goroutine.
func newLayer(client bool, id uint16, theirs, ours, sent []byte) (*layer, error) {
	i := slices.IndexFunc(suites[:], func(s suite) bool { return s.id == id })
	if i < 0 {
		return nil, fmt.Errorf("reactor: %s stays on crypto/tls", tls.CipherSuiteName(id))
	}
	y := &layer{suite: uint8(i)}
	if client {
		y.flags |= layerClient
	}
	if n := suites[i].secret; len(theirs) != n || len(ours) != n {
		return nil, errors.New("reactor: secrets of another length")
	}
	copy(y.in.secret[:], theirs)
	copy(y.out.secret[:], ours)
	w := y.heat()
	a, err := y.out.make(y.suit(), &w.outIV, true)
	if err != nil {
		y.drop()
		return nil, err
	}
	w.out = a // what is sealed next comes soon
	defer clear(sent)
	for len(sent) > 0 {
		if len(sent) < recordHead {
			err = errCount
			break
		}
		n := recordHead + int(binary.BigEndian.Uint16(sent[3:]))
		if len(sent) < n || n > recordHead+maxCiphertext {
			err = errCount
			break
		}
		w.number(&w.outIV, y.out.seq)
		if _, no := a.Open(sent[recordHead:recordHead], w.nonce[:], sent[recordHead:n],
			sent[:recordHead]); no == nil && sent[0] == typeApplication {
			y.out.seq++
		} else if y.out.seq > 0 {
			err = errCount // once they are sealed under the secret, all are
			break
		}
		sent = sent[n:]
	}
	if err != nil {
		y.drop()
		return nil, err
	}
	return y, nil
}

var errCount = errors.New("reactor: how many records were sealed is not known")
