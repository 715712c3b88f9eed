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
	// maxNoDataRun is how many records without data may come in a row, and maxNoDataDebt how many in all beyond
	// one for each dataBytesPerDebt of a record with data, until the connection has been quiet.
	maxNoDataRun     = 32
	maxNoDataDebt    = 256
	dataBytesPerDebt = 64
	// keyUpdateOverhead is what a change of keys counts for in Overhead, in bytes.
	keyUpdateOverhead = 1024
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

// wrapSealAEAD, if a test sets it, stands around every AEAD that seals.
var wrapSealAEAD func(a cipher.AEAD, key []byte) cipher.AEAD

// expandLabel is HKDF-Expand-Label without a context (RFC 8446 §7.1), into dst.
func (s *suite) expandLabel(dst, secret []byte, label string) error {
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
type halfConn struct {
	secret [48]byte // as many of them as the suite's hash has
	seq    uint64
}

// newAEAD derives what records are sealed by (RFC 8446 §7.3).
func (h *halfConn) newAEAD(s *suite, iv *[ivSize]byte, seals bool) (cipher.AEAD, error) {
	var k [32]byte
	key := k[:s.key]
	defer clear(key)
	if err := s.expandLabel(key, h.secret[:s.secret], "key"); err != nil {
		return nil, err
	}
	if err := s.expandLabel(iv[:], h.secret[:s.secret], "iv"); err != nil {
		return nil, err
	}
	a, err := s.aead(key)
	if err == nil && seals && wrapSealAEAD != nil {
		a = wrapSealAEAD(a, slices.Clone(key))
	}
	return a, err
}

// updateSecret goes on to the next secret (RFC 8446 §7.2).
func (h *halfConn) updateSecret(s *suite) {
	must(s.expandLabel(h.secret[:s.secret], h.secret[:s.secret], "traffic upd"))
	h.seq = 0
}

func (h *halfConn) wipe() { clear(h.secret[:]) }

// must: what was derived once at the detach can be derived again.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

const (
	layerClient        = 1 << iota // ours is the client's end
	layerDead                      // a fatal alert was sent or received: nothing more is opened or sealed
	layerEOF                       // the peer has sent close_notify: what follows is ignored
	layerCloseSent                 // we have
	layerKeyUpdateOwed             // the peer has asked for our KeyUpdate
)

// A layer is the record layer of TLS 1.3 (RFC 8446 §5) under application traffic secrets that crypto/tls
// has agreed on. 136 bytes while quiet. Only on the loop.
type tls13Layer struct {
	in, out    halfConn
	warm       *warmState // nil while quiet
	unopened   *unopened  // nil while what has come ended with a record
	msgHead    [4]byte    // head of a handshake message; its length counts down
	msgHeadLen uint8      // bytes of it that have come
	suiteIndex uint8      // index in suites
	flags      uint8
}

// warmState is what a layer has only while there is traffic; it can be made again from the secrets.
type warmState struct {
	in, out               cipher.AEAD // nil until used
	inIV, outIV           [ivSize]byte
	nonce                 [ivSize]byte // scratch
	input                 []byte       // the engine's: what Read opens, while deliver runs
	alert                 []byte       // sealed, waits to be taken
	noDataRun, noDataDebt int
	overhead              int // see Conn.TakeTLSOverhead
	timer                 Timer
	lastUsed              Tick
}

// unopened is input that was not opened: it ends inside a record, or the handler is paused.
type unopened struct {
	buf []byte // lent by buf.Input
	off int
}

func (y *tls13Layer) cipherSuite() *suite { return &suites[y.suiteIndex] }

func (y *tls13Layer) ensureWarm() *warmState {
	if y.warm == nil {
		y.warm = new(warmState)
	}
	return y.warm
}

// cool drops what can be made again.
func (y *tls13Layer) cool() {
	if w := y.warm; w != nil {
		clear(w.inIV[:])
		clear(w.outIV[:])
		y.warm = nil
	}
}

// wipeAll wipes y, and gives back what it was lent.
func (y *tls13Layer) wipeAll() {
	y.in.wipe()
	y.out.wipe()
	y.cool()
	y.flags |= layerDead
	y.parkUnread()
}

// feed takes what has come; p is looked at until settle.
func (y *tls13Layer) feed(p []byte) {
	if len(p) == 0 || y.flags&(layerDead|layerEOF) != 0 {
		return
	}
	r := y.unopened
	if r == nil {
		y.ensureWarm().input = p
		return
	}
	if r.off > 0 && r.off >= len(r.buf)-r.off {
		r.buf, r.off = r.buf[:copy(r.buf, r.buf[r.off:])], 0
	}
	r.buf = append(r.buf, p...)
}

// parkUnread keeps what feed brought and Read did not open.
func (y *tls13Layer) parkUnread() {
	ended := y.flags&(layerDead|layerEOF) != 0
	if r := y.unopened; r != nil && (ended || r.off == len(r.buf)) {
		buf.Input.Put(r.buf)
		y.unopened = nil
	}
	w := y.warm
	if w == nil {
		return
	}
	if len(w.input) > 0 && !ended {
		y.unopened = &unopened{buf: append(buf.Input.Get(len(w.input)), w.input...)}
	}
	w.input = nil
}

func (y *tls13Layer) buffered() int {
	if y.unopened == nil {
		return 0
	}
	return len(y.unopened.buf) - y.unopened.off
}

// failWithAlert ends the connection with an alert, once.
func (y *tls13Layer) failWithAlert(a tls.AlertError) error {
	if y.flags&(layerDead|layerCloseSent) == 0 {
		y.ensureWarm().alert = y.appendRecord(nil, typeAlert, []byte{2, byte(a)}, 0)
	}
	y.markDead()
	return &net.OpError{Op: "local error", Err: a}
}

func (y *tls13Layer) markDead() {
	y.flags |= layerDead
	y.in.wipe()
	y.out.wipe()
}

var (
	errTLSFailed   = errors.New("reactor: the TLS connection has failed")
	errShortBuffer = errors.New("reactor: too little room for a record")
)

// countNoData counts a record of n bytes without data (attacks T06, K33).
func (y *tls13Layer) countNoData(n int) error {
	w := y.warm
	w.overhead += n
	w.noDataRun++
	w.noDataDebt++
	if w.noDataRun > maxNoDataRun || w.noDataDebt > maxNoDataDebt {
		return y.failWithAlert(alertUnexpectedMessage)
	}
	return nil
}

// Read opens the next record with data into p, which has room for the largest: maxCiphertext bytes.
// errWouldBlock: what has come ends before one does. io.EOF: close_notify. Any other error is the
// connection's end, and its alert waits to be taken.
func (y *tls13Layer) Read(p []byte) (int, error) {
	if cap(p) < maxCiphertext {
		return 0, errShortBuffer
	}
	for {
		switch {
		case y.flags&layerDead != 0:
			return 0, errTLSFailed
		case y.flags&layerEOF != 0:
			return 0, io.EOF
		}
		rec, err := y.nextRecord()
		if err != nil {
			return 0, err
		}
		w := y.warm
		if w.in == nil {
			w.in, err = y.in.newAEAD(y.cipherSuite(), &w.inIV, false)
			must(err)
		}
		w.setNonce(&w.inIV, y.in.seq)
		b, err := w.in.Open(p[:0], w.nonce[:], rec[recordHead:], rec[:recordHead])
		if err != nil {
			return 0, y.failWithAlert(alertBadRecordMAC)
		}
		if y.in.seq++; y.in.seq == math.MaxUint64 {
			return 0, y.failWithAlert(alertInternalError) // RFC 8446 §5.3: it must not wrap
		}
		if len(b) > maxContent+1 { // with its padding: RFC 8446 §5.4
			return 0, y.failWithAlert(alertRecordOverflow)
		}
		n := len(b)
		for n >= 8 && binary.LittleEndian.Uint64(b[n-8:]) == 0 {
			n -= 8
		}
		for n > 0 && b[n-1] == 0 {
			n--
		}
		if n == 0 {
			return 0, y.failWithAlert(alertUnexpectedMessage) // padding and no type
		}
		padding, kind := len(b)-n, b[n-1]
		b = b[:n-1]
		if kind == typeApplication && len(b) > 0 && y.msgHeadLen == 0 {
			w.noDataRun = 0
			w.noDataDebt = max(0, w.noDataDebt-len(b)/dataBytesPerDebt)
			w.overhead += padding
			return len(b), nil
		}
		if err := y.control(kind, b, len(rec)); err != nil {
			return 0, err
		}
	}
}

// nextRecord takes the next record out of what has come, without a copy. What is wrong with a header is
// said before its record is waited for (attacks K35, K36).
func (y *tls13Layer) nextRecord() ([]byte, error) {
	w := y.ensureWarm()
	b := w.input
	if y.unopened != nil {
		b = y.unopened.buf[y.unopened.off:]
	}
	if len(b) < recordHead {
		return nil, errWouldBlock
	}
	n := int(binary.BigEndian.Uint16(b[3:]))
	switch {
	case b[0] != typeApplication, b[1] != 3, b[2] != 3:
		return nil, y.failWithAlert(alertUnexpectedMessage) // in plain, too: RFC 8446 §5, and D.4 ends at Finished
	case n > maxCiphertext:
		return nil, y.failWithAlert(alertRecordOverflow)
	case n < tagSize:
		return nil, y.failWithAlert(alertBadRecordMAC)
	}
	if len(b) < recordHead+n {
		return nil, errWouldBlock
	}
	if y.unopened != nil {
		y.unopened.off += recordHead + n
	} else {
		w.input = b[recordHead+n:]
	}
	return b[: recordHead+n : recordHead+n], nil
}

// control handles a record that has no data for the handler.
func (y *tls13Layer) control(kind byte, b []byte, size int) error {
	switch {
	case kind != typeHandshake && y.msgHeadLen > 0:
		return y.failWithAlert(alertUnexpectedMessage) // inside a handshake message: RFC 8446 §5.1
	case kind == typeApplication:
		return y.countNoData(size)
	case kind == typeHandshake && len(b) > 0:
		if err := y.countNoData(size); err != nil {
			return err
		}
		return y.onHandshake(b)
	case kind == typeAlert && len(b) > 0:
		return y.onAlert(b, size)
	}
	return y.failWithAlert(alertUnexpectedMessage) // RFC 8446 §5.4 for what is empty
}

func (y *tls13Layer) onAlert(b []byte, size int) error {
	if len(b) != 2 {
		return y.failWithAlert(alertDecodeError) // exactly one in a record: RFC 8446 §5.1
	}
	switch a := tls.AlertError(b[1]); a {
	case alertCloseNotify:
		y.flags |= layerEOF
		y.in.wipe()
		return io.EOF
	case alertUserCanceled: // close_notify follows (RFC 8446 §6.1); the only one that is no end
		return y.countNoData(size)
	default:
		y.markDead()
		return &net.OpError{Op: "remote error", Err: a}
	}
}

// onHandshake takes b, of messages that may be cut anywhere. No more than a head is kept (attack K40): a
// KeyUpdate has one byte, and a ticket is of no use to us, as who has a cache of sessions is not detached.
func (y *tls13Layer) onHandshake(b []byte) error {
	for len(b) > 0 {
		if y.msgHeadLen < 4 {
			y.msgHead[y.msgHeadLen] = b[0]
			y.msgHeadLen++
			b = b[1:]
			n := int(y.msgHead[1])<<16 | int(y.msgHead[2])<<8 | int(y.msgHead[3])
			switch kind := y.msgHead[0]; {
			case kind != messageKeyUpdate && (kind != messageTicket || y.flags&layerClient == 0):
				return y.failWithAlert(alertUnexpectedMessage)
			case y.msgHeadLen < 4:
			case kind == messageKeyUpdate && n != 1, n == 0, n > maxTicket:
				return y.failWithAlert(alertDecodeError)
			}
			continue
		}
		if y.msgHead[0] == messageKeyUpdate {
			return y.onKeyUpdate(b)
		}
		n := int(y.msgHead[1])<<16 | int(y.msgHead[2])<<8 | int(y.msgHead[3])
		k := min(n, len(b))
		b, n = b[k:], n-k
		y.msgHead[1], y.msgHead[2], y.msgHead[3] = byte(n>>16), byte(n>>8), byte(n)
		if n == 0 {
			y.msgHeadLen = 0
		}
	}
	return nil
}

// onKeyUpdate takes the body of a KeyUpdate (RFC 8446 §4.6.3), which ends its record as the key changes
// behind it (§5.1; attack T05).
func (y *tls13Layer) onKeyUpdate(b []byte) error {
	switch {
	case len(b) > 1:
		return y.failWithAlert(alertUnexpectedMessage)
	case b[0] > 1:
		return y.failWithAlert(alertIllegalParameter)
	case b[0] == 1:
		y.flags |= layerKeyUpdateOwed // one answer for as many as come before it is sent (attack T06)
	}
	y.msgHeadLen = 0
	y.in.updateSecret(y.cipherSuite())
	y.warm.in = nil
	y.warm.overhead += keyUpdateOverhead
	return nil
}

// setNonce makes the nonce of a record (RFC 8446 §5.3).
func (w *warmState) setNonce(iv *[ivSize]byte, seq uint64) {
	w.nonce = *iv
	tail := w.nonce[ivSize-8:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^seq)
}

// appendRecord appends one record; zeros behind its type are padding. Not after layerDead or layerCloseSent.
func (y *tls13Layer) appendRecord(dst []byte, kind byte, content []byte, padding int) []byte {
	w := y.ensureWarm()
	if w.out == nil {
		var err error
		w.out, err = y.out.newAEAD(y.cipherSuite(), &w.outIV, true)
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
	w.setNonce(&w.outIV, y.out.seq)
	y.out.seq++
	return w.out.Seal(dst[:body], w.nonce[:], dst[body:], dst[head:body])
}

// appendKeyUpdate appends our KeyUpdate, and changes the key behind it.
func (y *tls13Layer) appendKeyUpdate(dst []byte, request byte) []byte {
	dst = y.appendRecord(dst, typeHandshake, []byte{messageKeyUpdate, 0, 0, 1, request}, 0)
	y.out.updateSecret(y.cipherSuite())
	y.warm.out = nil
	y.flags &^= layerKeyUpdateOwed
	return dst
}

// seal appends p as records to dst. The error is for a connection that has failed or was ended.
func (y *tls13Layer) seal(dst, p []byte) ([]byte, error) {
	if y.flags&(layerDead|layerCloseSent) != 0 {
		return dst, errTLSFailed
	}
	for len(p) > 0 {
		if y.flags&layerKeyUpdateOwed != 0 || y.out.seq >= rekeyAfter {
			dst = y.appendKeyUpdate(dst, 0)
		}
		n := min(len(p), maxContent)
		dst = y.appendRecord(dst, typeApplication, p[:n], 0)
		p = p[n:]
	}
	return dst, nil
}

// takePending appends what y has to say by itself: an alert, the answer to a KeyUpdate.
func (y *tls13Layer) takePending(dst []byte) []byte {
	if y.flags&(layerKeyUpdateOwed|layerDead|layerCloseSent) == layerKeyUpdateOwed {
		dst = y.appendKeyUpdate(dst, 0)
	}
	if w := y.warm; w != nil && w.alert != nil {
		dst = append(dst, w.alert...)
		w.alert = nil
	}
	return dst
}

// appendCloseNotify appends close_notify (RFC 8446 §6.1), once.
func (y *tls13Layer) appendCloseNotify(dst []byte) []byte {
	if y.flags&(layerDead|layerCloseSent) == 0 {
		dst = y.appendRecord(dst, typeAlert, []byte{1, byte(alertCloseNotify)}, 0)
		y.flags |= layerCloseSent
		y.out.wipe()
	}
	return dst
}

// newTLS13Layer goes on where crypto/tls has left off. sent are records that our end has written since the
// secrets are known, from the first one's header: some of the last ones may be sealed under our secret,
// as the server's tickets are, and are found by opening them, where they are; then all are wiped. An error
// says that the connection had better stay where it is. Any goroutine.
func newTLS13Layer(client bool, id uint16, theirs, ours, sent []byte) (*tls13Layer, error) {
	i := slices.IndexFunc(suites[:], func(s suite) bool { return s.id == id })
	if i < 0 {
		return nil, fmt.Errorf("reactor: %s stays on crypto/tls", tls.CipherSuiteName(id))
	}
	y := &tls13Layer{suiteIndex: uint8(i)}
	if client {
		y.flags |= layerClient
	}
	if n := suites[i].secret; len(theirs) != n || len(ours) != n {
		return nil, errors.New("reactor: secrets of another length")
	}
	copy(y.in.secret[:], theirs)
	copy(y.out.secret[:], ours)
	w := y.ensureWarm()
	a, err := y.out.newAEAD(y.cipherSuite(), &w.outIV, true)
	if err != nil {
		y.wipeAll()
		return nil, err
	}
	w.out = a // what is sealed next comes soon
	defer clear(sent)
	for len(sent) > 0 {
		if len(sent) < recordHead {
			err = errSealCount
			break
		}
		n := recordHead + int(binary.BigEndian.Uint16(sent[3:]))
		if len(sent) < n || n > recordHead+maxCiphertext {
			err = errSealCount
			break
		}
		w.setNonce(&w.outIV, y.out.seq)
		if _, no := a.Open(sent[recordHead:recordHead], w.nonce[:], sent[recordHead:n],
			sent[:recordHead]); no == nil && sent[0] == typeApplication {
			y.out.seq++
		} else if y.out.seq > 0 {
			err = errSealCount // once they are sealed under the secret, all are
			break
		}
		sent = sent[n:]
	}
	if err != nil {
		y.wipeAll()
		return nil, err
	}
	return y, nil
}

var errSealCount = errors.New("reactor: how many records were sealed is not known")
