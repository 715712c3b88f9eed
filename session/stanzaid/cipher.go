package stanzaid

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
)

// KeyLen is the length of the key of a [Cipher] in bytes.
const KeyLen = 32

// WireLen is the length of an id on the wire, in bytes: 26 characters of base32.
const WireLen = 26

// alphabet is Crockford's base32 in lower case: none of its characters looks like another.
const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// decodeTable has the value of each character of the alphabet; 0xff for any other byte.
var decodeTable = func() (v [256]uint8) {
	for i := range v {
		v[i] = 0xff
	}
	for i := range alphabet {
		v[alphabet[i]] = uint8(i)
	}
	return v
}()

// ErrText is returned for a text that is not that of an ID. A query of the archive with it gets
// item-not-found.
var ErrText = errors.New("stanzaid: not an id")

// A Cipher makes the ids on the wire. The ids of XEP-0313 section 3 must be unpredictable, and an [ID] is a
// time and a counter. So an id on the wire is one block of AES-256: the id and its archive, encrypted under
// the server's key. Two consequences:
//
//   - Nothing about an id can be learned or guessed from others, neither its time nor how many lie between
//     two.
//   - A text that was not made for an archive is not an id of that archive: the chance that it is taken for
//     one is 1 in 2^64. So an id of another account's archive is as unknown as any other text.
//
// The key is kept for good: ids that clients remember must stay valid. Any goroutine.
type Cipher struct{ block cipher.Block }

// NewCipher returns the Cipher of a key of KeyLen bytes. It panics for a key of another length.
func NewCipher(key []byte) *Cipher {
	if len(key) != KeyLen {
		panic("stanzaid: a key has 32 bytes")
	}
	b, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	return &Cipher{b}
}

// Append appends the id of the archive of owner, as it is on the wire, to dst. It allocates nothing if dst
// has room for 16 more bytes than the id.
func (c *Cipher) Append(dst []byte, owner uint64, id ID) []byte {
	n := len(dst)
	var room [WireLen + aes.BlockSize]byte
	dst = append(dst, room[:]...)
	b := dst[n+WireLen:]
	binary.BigEndian.PutUint64(b, uint64(id))
	binary.BigEndian.PutUint64(b[8:], owner)
	c.block.Encrypt(b, b)
	hi, lo := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	for i := WireLen - 1; i >= 0; i-- {
		dst[n+i] = alphabet[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return dst[:n+WireLen]
}

// Parse returns the id of the archive of owner that text stands for. The error is [ErrText].
func (c *Cipher) Parse(text []byte, owner uint64) (ID, error) {
	if len(text) != WireLen || decodeTable[text[0]] > 7 { // 26 characters are 130 bits
		return 0, ErrText
	}
	var hi, lo uint64
	for _, ch := range text {
		v := decodeTable[ch]
		if v == 0xff {
			return 0, ErrText
		}
		hi = hi<<5 | lo>>59
		lo = lo<<5 | uint64(v)
	}
	b := make([]byte, aes.BlockSize)
	binary.BigEndian.PutUint64(b, hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	c.block.Decrypt(b, b)
	if binary.BigEndian.Uint64(b[8:]) != owner {
		return 0, ErrText
	}
	return ID(binary.BigEndian.Uint64(b)), nil
}
