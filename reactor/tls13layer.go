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

// Content types of records and types of handshake messages (RFC 8446 sections 5.1 and 4).
const (
	typeAlert       = 21
	typeHandshake   = 22
	typeApplication = 23

	messageTicket    = 4
	messageKeyUpdate = 24
)

// Alerts (RFC 8446 section 6).
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

// Sizes in bytes (RFC 8446 section 5.2).
const (
	recordHead    = 5                // header of a record
	maxContent    = 1 << 14          // plaintext in one record, at most
	maxCiphertext = maxContent + 256 // what follows a header, at most
	tagSize       = 16               // authentication tag of every AEAD here
	ivSize        = 12               // nonce of every AEAD here
)

const (
	// maxNoDataRun bounds records without data in a row, as crypto/tls does with maxUselessRecords, but at
	// 32 instead of 16. maxNoDataDebt bounds them in all: each counts one, and each dataBytesPerDebt of
	// data in a record pay one back. A pause of coolTicks resets both counts (attacks T06, K33).
	maxNoDataRun     = 32
	maxNoDataDebt    = 256
	dataBytesPerDebt = 64
	// keyUpdateOverhead is what a KeyUpdate of the peer counts for in Conn.TakeTLSOverhead, in bytes.
	// Deriving keys and making an AEAD takes about a microsecond.
	keyUpdateOverhead = 1024
	// maxTicket bounds a NewSessionTicket message; none of it is kept.
	maxTicket = 64 << 10
)

// rekeyAfter is the number of records that are sealed under one key: 2^22. RFC 8446 section 5.5
// allows 2^24.5 full records with AES-GCM, so this is well below. It is a variable because a test
// lowers it.
var rekeyAfter uint64 = 1 << 22

// A suite is a cipher suite of TLS 1.3: its hash, the lengths of its keys, and its AEAD.
type suite struct {
	id     uint16           // as in tls.ConnectionState.CipherSuite
	hash   func() hash.Hash // of the key schedule
	secret int              // bytes of a traffic secret: the size of the hash
	key    int              // bytes of an AEAD key
	aead   func(key []byte) (cipher.AEAD, error)
}

// suites are the cipher suites that tls13Layer supports: all that Go 1.26 negotiates in TLS 1.3. A
// connection with another one stays on crypto/tls. tls13Layer.suiteIndex is an index here.
var suites = [...]suite{
	{tls.TLS_AES_128_GCM_SHA256, sha256.New, 32, 16, newGCM},
	{tls.TLS_AES_256_GCM_SHA384, sha512.New384, 48, 32, newGCM},
	{tls.TLS_CHACHA20_POLY1305_SHA256, sha256.New, 32, chacha20poly1305.KeySize, chacha20poly1305.New},
}

// newGCM returns AES-GCM for a key of 16 or 32 bytes.
func newGCM(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// wrapSealAEAD is nil, or a function of a test that wraps every AEAD that seals, to check that no
// nonce is used twice under one key.
var wrapSealAEAD func(a cipher.AEAD, key []byte) cipher.AEAD

// expandLabel writes HKDF-Expand-Label(secret, label, "", len(dst)) to dst (RFC 8446 section 7.1).
// dst may be secret. label has up to 16 bytes: info has room for the length, the label with its
// prefix "tls13 ", and an empty context.
func (s *suite) expandLabel(dst, secret []byte, label string) error {
	var info [2 + 1 + 6 + 16 + 1]byte
	b := binary.BigEndian.AppendUint16(info[:0], uint16(len(dst)))
	b = append(append(append(b, byte(6+len(label))), "tls13 "...), label...)
	out, err := hkdf.Expand(s.hash, secret, string(append(b, 0)), len(dst))
	copy(dst, out)
	clear(out)
	return err
}

// A halfConn is one direction of a connection: the application traffic secret, from which key and IV are
// derived when they are needed, and the sequence number of the next record under it.
type halfConn struct {
	secret [48]byte // the first suite.secret bytes are used
	seq    uint64
}

// newAEAD derives key and IV from the secret (RFC 8446 section 7.3), writes the IV to iv, and
// returns the AEAD. seals is whether it will seal, for wrapSealAEAD. The key is wiped; the AEAD has
// its own copy.
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

// updateSecret replaces the secret by the next one, after a KeyUpdate (RFC 8446 section 7.2). The
// AEAD of the old secret must be dropped.
func (h *halfConn) updateSecret(s *suite) {
	must(s.expandLabel(h.secret[:s.secret], h.secret[:s.secret], "traffic upd"))
	h.seq = 0
}

// wipe overwrites the secret.
func (h *halfConn) wipe() { clear(h.secret[:]) }

// must panics if err is not nil. It stands after derivations that have succeeded with the same
// suite before, in newTLS13Layer; the loop recovers a panic and closes the connection.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// The bits of tls13Layer.flags.
const (
	layerClient        = 1 << iota // our end is the client
	layerDead                      // a fatal alert was sent or received: nothing more is opened or sealed
	layerEOF                       // the peer has sent close_notify: further input is ignored
	layerCloseSent                 // we have sent close_notify: nothing more is sealed
	layerKeyUpdateOwed             // the peer has asked for a KeyUpdate of ours, which was not sent yet
)

// A tls13Layer is the record layer of TLS 1.3 (RFC 8446 section 5) under application traffic secrets that a
// handshake in crypto/tls agreed on. It implements recordLayer. It handles records, alerts, KeyUpdate and
// NewSessionTicket, and nothing else of the protocol. It takes 136 bytes while there is no traffic, where a
// tls.Conn takes 4 to 9 kB; the parts that traffic needs are in warmState and unopened. After an error it is
// dead: its secrets are wiped, and an alert waits in takePending. On the loop.
type tls13Layer struct {
	in, out    halfConn   // what the peer sends, and what we send
	warm       *warmState // nil after coolTicks without traffic
	unopened   *unopened  // nil while the input ends with a record
	msgHead    [4]byte    // the head of a handshake message; its length counts down as bytes come
	msgHeadLen uint8      // how many bytes of the head have come
	suiteIndex uint8      // index in suites
	flags      uint8
}

// A warmState is what a tls13Layer has only while there is traffic. It is made from the secrets again when it
// is needed. The counts in it start again at zero.
type warmState struct {
	in, out               cipher.AEAD // nil until needed, and after a KeyUpdate
	inIV, outIV           [ivSize]byte
	nonce                 [ivSize]byte // scratch: a local array would be allocated by each call of an AEAD
	input                 []byte       // what feed was given and Read has not opened; belongs to the engine
	alert                 []byte       // a sealed record that takePending will return
	noDataRun, noDataDebt int          // see maxNoDataRun
	overhead              int          // see Conn.TakeTLSOverhead
	timer                 Timer        // drops the warmState: see tlsConn.OnTimer
	lastUsed              Tick         // when there was traffic last
}

// unopened is input that was not opened: it ends within a record, or the handler is paused.
type unopened struct {
	buf []byte // lent by buf.Input
	off int    // buf[:off] was opened
}

// cipherSuite returns the negotiated suite.
func (y *tls13Layer) cipherSuite() *suite { return &suites[y.suiteIndex] }

// ensureWarm returns the warmState and makes it if there is none.
func (y *tls13Layer) ensureWarm() *warmState {
	if y.warm == nil {
		y.warm = new(warmState)
	}
	return y.warm
}

// cool drops the warmState, with its AEADs.
func (y *tls13Layer) cool() {
	if w := y.warm; w != nil {
		clear(w.inIV[:])
		clear(w.outIV[:])
		y.warm = nil
	}
}

// wipeAll overwrites the secrets, drops all state, and gives the input buffer back. y is dead after
// it.
func (y *tls13Layer) wipeAll() {
	y.in.wipe()
	y.out.wipe()
	y.cool()
	y.flags |= layerDead
	y.parkUnread()
}

// feed implements recordLayer. If no input is left from before, p is not copied, and must stay valid
// until parkUnread. Otherwise p is appended to the input that is left; its array is compacted when half
// of it was opened.
func (y *tls13Layer) feed(p []byte) {
	if len(p) == 0 || y.flags&(layerDead|layerEOF) != 0 {
		return
	}
	u := y.unopened
	if u == nil {
		y.ensureWarm().input = p
		return
	}
	if u.off > 0 && u.off >= len(u.buf)-u.off {
		u.buf, u.off = u.buf[:copy(u.buf, u.buf[u.off:])], 0
	}
	u.buf = append(u.buf, p...)
}

// parkUnread implements recordLayer: it copies input that was not opened to a buffer of its own, or
// gives that buffer back if all of it was opened or the connection has ended.
func (y *tls13Layer) parkUnread() {
	ended := y.flags&(layerDead|layerEOF) != 0
	if u := y.unopened; u != nil && (ended || u.off == len(u.buf)) {
		buf.Input.Put(u.buf)
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

// buffered implements recordLayer.
func (y *tls13Layer) buffered() int {
	if y.unopened == nil {
		return 0
	}
	return len(y.unopened.buf) - y.unopened.off
}

// failWithAlert makes y dead, prepares alert a for takePending, and returns an error that wraps it.
// Only one alert is ever sent.
func (y *tls13Layer) failWithAlert(a tls.AlertError) error {
	if y.flags&(layerDead|layerCloseSent) == 0 {
		y.ensureWarm().alert = y.appendRecord(nil, typeAlert, []byte{2, byte(a)}, 0)
	}
	y.markDead()
	return &net.OpError{Op: "local error", Err: a}
}

// markDead makes y dead and wipes its secrets. A prepared alert stays.
func (y *tls13Layer) markDead() {
	y.flags |= layerDead
	y.in.wipe()
	y.out.wipe()
}

var (
	errTLSFailed   = errors.New("reactor: the TLS connection has failed")
	errShortBuffer = errors.New("reactor: too little room for a record")
)

// countNoData counts a record of n bytes without data, and fails when there are too many (attacks
// T06, K33).
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

// Read implements recordLayer. p must have a capacity of maxCiphertext bytes; the plaintext is
// opened into it. The steps, for one record after another until one has data:
//
//  1. A dead connection is an error; after close_notify it is io.EOF.
//  2. nextRecord cuts the next record out of the input.
//  3. It is opened; the AEAD is made if it is not there. The sequence number counts up, and must
//     not reach its maximum (RFC 8446 section 5.3).
//  4. The padding is removed: zeros at the end, eight at a time. The last byte that is not zero is
//     the content type (RFC 8446 section 5.4).
//  5. Data is returned. Other records go to control; its errors are returned.
//
// An error other than errWouldBlock and io.EOF ends the connection; its alert waits in takePending.
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
			return 0, y.failWithAlert(alertInternalError) // RFC 8446 section 5.3: it must not wrap
		}
		if len(b) > maxContent+1 { // with type and padding: RFC 8446 section 5.4
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
			return 0, y.failWithAlert(alertUnexpectedMessage) // padding without a type
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

// nextRecord removes the next record from the input and returns it, with its header and without a
// copy. Wrong headers fail at once, before the rest of the record has come (attacks K35, K36).
// ChangeCipherSpec is wrong, too: RFC 8446 appendix D.4 allows it only before the peer's Finished.
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
		return nil, y.failWithAlert(alertUnexpectedMessage) // RFC 8446 section 5: not protected
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

// control handles a record without data for the handler: its type is kind, its content b, and size
// its length on the wire. The checks:
//
//  1. Inside a handshake message no other type may come (RFC 8446 section 5.1).
//  2. Empty data is allowed, and counted.
//  3. Handshake messages and alerts must not be empty (section 5.4).
//  4. Other types are an error.
func (y *tls13Layer) control(kind byte, b []byte, size int) error {
	switch {
	case kind != typeHandshake && y.msgHeadLen > 0:
		return y.failWithAlert(alertUnexpectedMessage)
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
	return y.failWithAlert(alertUnexpectedMessage)
}

// onAlert handles an alert: close_notify is io.EOF, user_canceled is ignored, because close_notify
// follows it (RFC 8446 section 6.1). Every other alert makes y dead, whatever its level says
// (section 6).
func (y *tls13Layer) onAlert(b []byte, size int) error {
	if len(b) != 2 {
		return y.failWithAlert(alertDecodeError) // one alert in a record: RFC 8446 section 5.1
	}
	switch a := tls.AlertError(b[1]); a {
	case alertCloseNotify:
		y.flags |= layerEOF
		y.in.wipe()
		return io.EOF
	case alertUserCanceled:
		return y.countNoData(size)
	default:
		y.markDead()
		return &net.OpError{Op: "remote error", Err: a}
	}
}

// onHandshake handles b, a piece of one or more handshake messages, which may be cut anywhere. Only
// the four bytes of a message's head are kept (attack K40): the body of a KeyUpdate has one byte,
// and a NewSessionTicket is dropped, as a client with a session cache stays on crypto/tls. The
// steps:
//
//  1. The head is collected. Its type and length are checked as soon as they are known: a server
//     accepts KeyUpdate only, a client NewSessionTicket, too.
//  2. The body of a KeyUpdate goes to onKeyUpdate.
//  3. The body of a ticket is skipped; msgHead counts down how much is left of it.
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
		skipped := min(n, len(b))
		b, n = b[skipped:], n-skipped
		y.msgHead[1], y.msgHead[2], y.msgHead[3] = byte(n>>16), byte(n>>8), byte(n)
		if n == 0 {
			y.msgHeadLen = 0
		}
	}
	return nil
}

// onKeyUpdate handles the body of a KeyUpdate (RFC 8446 section 4.6.3): it changes the key of the
// input. The message must end its record, because the key changes after it (section 5.1, attack
// T05).
func (y *tls13Layer) onKeyUpdate(b []byte) error {
	switch {
	case len(b) > 1:
		return y.failWithAlert(alertUnexpectedMessage)
	case b[0] > 1:
		return y.failWithAlert(alertIllegalParameter)
	case b[0] == 1:
		y.flags |= layerKeyUpdateOwed // one answer for all that come before it is sent (attack T06)
	}
	y.msgHeadLen = 0
	y.in.updateSecret(y.cipherSuite())
	y.warm.in = nil
	y.warm.overhead += keyUpdateOverhead
	return nil
}

// setNonce sets w.nonce for the record with number seq (RFC 8446 section 5.3).
func (w *warmState) setNonce(iv *[ivSize]byte, seq uint64) {
	w.nonce = *iv
	tail := w.nonce[ivSize-8:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^seq)
}

// appendRecord seals one record of content type kind and appends it to dst. content has up to
// maxContent bytes and must not overlap the free part of dst; padding is the number of zeros after
// the type. y must not be dead or closed, as its secret is wiped then.
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

// appendKeyUpdate appends a KeyUpdate of ours, and changes the key of the output after it. request
// is 1 to ask the peer for one of its own, else 0.
func (y *tls13Layer) appendKeyUpdate(dst []byte, request byte) []byte {
	dst = y.appendRecord(dst, typeHandshake, []byte{messageKeyUpdate, 0, 0, 1, request}, 0)
	y.out.updateSecret(y.cipherSuite())
	y.warm.out = nil
	y.flags &^= layerKeyUpdateOwed
	return dst
}

// seal implements recordLayer: it appends p, in records of up to maxContent bytes. A KeyUpdate that
// is owed, or due after rekeyAfter records, goes before the next record. It fails if y is dead or
// closed.
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

// takePending implements recordLayer: it appends the KeyUpdate that is owed, and an alert.
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

// appendCloseNotify implements recordLayer (RFC 8446 section 6.1). It appends nothing if y is dead,
// or the second time.
func (y *tls13Layer) appendCloseNotify(dst []byte) []byte {
	if y.flags&(layerDead|layerCloseSent) == 0 {
		dst = y.appendRecord(dst, typeAlert, []byte{1, byte(alertCloseNotify)}, 0)
		y.flags |= layerCloseSent
		y.out.wipe()
	}
	return dst
}

// newTLS13Layer returns a record layer that continues where crypto/tls left off. id is the cipher
// suite. peerSecret and ourSecret are the application traffic secrets; they are copied. sent are
// the records that our end has written since the secrets were logged, from the header of the first
// one; they are wiped. The steps:
//
//  1. Suite and secrets are checked.
//  2. The AEAD of our direction is made, and kept: output follows soon.
//  3. Our sequence number is found. The first records of sent are those of the handshake, under its
//     keys; the last ones, as a server's tickets, may be under ourSecret, numbered from 0. So each
//     is opened with the next number, in its own array. Once one has opened, all later ones must.
//
// After an error the connection has to stay on crypto/tls, as a wrong sequence number would repeat
// a nonce. Any goroutine.
func newTLS13Layer(client bool, id uint16, peerSecret, ourSecret, sent []byte) (*tls13Layer, error) {
	i := slices.IndexFunc(suites[:], func(s suite) bool { return s.id == id })
	if i < 0 {
		return nil, fmt.Errorf("reactor: %s stays on crypto/tls", tls.CipherSuiteName(id))
	}
	y := &tls13Layer{suiteIndex: uint8(i)}
	if client {
		y.flags |= layerClient
	}
	if n := suites[i].secret; len(peerSecret) != n || len(ourSecret) != n {
		return nil, errors.New("reactor: secrets of another length")
	}
	copy(y.in.secret[:], peerSecret)
	copy(y.out.secret[:], ourSecret)
	w := y.ensureWarm()
	a, err := y.out.newAEAD(y.cipherSuite(), &w.outIV, true)
	if err != nil {
		y.wipeAll()
		return nil, err
	}
	w.out = a
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
		if _, openErr := a.Open(sent[recordHead:recordHead], w.nonce[:], sent[recordHead:n],
			sent[:recordHead]); openErr == nil && sent[0] == typeApplication {
			y.out.seq++
		} else if y.out.seq > 0 {
			err = errSealCount
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

// errSealCount: see step 3 of newTLS13Layer.
var errSealCount = errors.New("reactor: how many records were sealed is not known")
