package fast

import (
	"encoding/binary"
	"errors"
	"time"

	"canto/session"
	"canto/session/sasl"
	"canto/session/store"
)

// rows has a row for each user agent of an account, by the 16 bytes of its id: see appendClient. The prefix
// 'g' and the version are part of the store's format.
var rows = store.NewMap[string, client]("user-agents", 'g', 1).
	Codec(store.Codec[client]{Append: appendClient, Decode: decodeClient})

// tokenLen is the length of a token in bytes; its text is longer.
const tokenLen = 32

// A token is one that was issued. The zero value is none.
type token struct {
	mechanism sasl.TokenMechanism
	issued    int64       // Unix seconds
	expires   int64       // Unix seconds: from then on it is refused
	count     uint64      // the highest count of a login with it; 0: none had one
	password  [16]byte    // the print of a key of the account when it was issued: see [sasl.Key.Print]
	secret    sasl.Secret // tokenLen bytes; the client has them as text
}

// A client is one user agent of an account.
type client struct {
	seen     int64  // Unix seconds of the last login
	software string // as it describes itself
	device   string
	current  token // the one that was used last
	next     token // one that was issued after it, and not used yet
}

// errRow says that a row is not one that this program has written.
var errRow = errors.New("fast: a row that this program does not know")

// appendClient appends the stored form of c: the time, two strings with their lengths, and two tokens.
func appendClient(dst []byte, c client) []byte {
	dst = binary.AppendVarint(dst, c.seen)
	for _, text := range []string{c.software, c.device} {
		dst = append(binary.AppendUvarint(dst, uint64(len(text))), text...)
	}
	for _, t := range []*token{&c.current, &c.next} {
		dst = append(dst, byte(t.mechanism))
		if t.mechanism == sasl.NoToken {
			continue
		}
		dst = binary.AppendVarint(binary.AppendVarint(dst, t.issued), t.expires)
		dst = binary.AppendUvarint(dst, t.count)
		dst = append(append(dst, t.password[:]...), t.secret.Reveal()...)
	}
	return dst
}

// decodeClient reads what appendClient has written. b is not kept.
func decodeClient(_ uint8, b []byte) (c client, err error) {
	number := func() (v int64) {
		v, n := binary.Varint(b)
		if n <= 0 {
			err, b = errRow, nil
			return 0
		}
		b = b[n:]
		return v
	}
	unsigned := func() (v uint64) {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			err, b = errRow, nil
			return 0
		}
		b = b[n:]
		return v
	}
	text := func(n uint64) (v []byte) {
		if n > uint64(len(b)) {
			err, b = errRow, nil
			return nil
		}
		v, b = append(v, b[:n]...), b[n:]
		return v
	}
	c.seen = number()
	c.software = string(text(unsigned()))
	c.device = string(text(unsigned()))
	for _, t := range []*token{&c.current, &c.next} {
		kind := text(1)
		if err != nil {
			return client{}, err
		}
		if t.mechanism = sasl.TokenMechanism(kind[0]); t.mechanism == sasl.NoToken {
			continue
		}
		if t.mechanism > sasl.TokenExporter {
			return client{}, errRow
		}
		t.issued, t.expires, t.count = number(), number(), unsigned()
		copy(t.password[:], text(uint64(len(t.password))))
		t.secret = sasl.NewSecret(text(tokenLen))
	}
	if err != nil || len(b) > 0 {
		return client{}, errRow
	}
	return c, nil
}

// A Client is a user agent of an account, for the operator.
type Client struct {
	ID       string      `json:"id"`         // the id that it has given itself, a UUID
	Software string      `json:"software"`   // as it describes itself; may be empty
	Device   string      `json:"device"`     // as it describes itself; may be empty
	Seen     time.Time   `json:"last_login"` // of the last login
	Tokens   []TokenInfo `json:"tokens"`     // those that are valid
}

// A TokenInfo says of a token what is no secret.
type TokenInfo struct {
	Mechanism string    `json:"mechanism"` // the only one that it is for
	Issued    time.Time `json:"issued"`    // when it was made
	Expires   time.Time `json:"expires"`   // from then on it is refused
	Used      bool      `json:"used"`      // the client has logged in with it
}

// List reads the user agents of the account a, in the order of their ids. It may wait for the disk.
func List(db *store.DB, r store.Reader, a store.Account, now time.Time) (list []Client, err error) {
	table, err := store.MapOf(db.Tables(), rows)
	if err != nil {
		return nil, err
	}
	prints := printsOf(a.Credentials)
	err = table.Scan(r, a.ID, "", func(key string, c client) bool {
		x := Client{ID: agentOf(key).String(), Software: c.software, Device: c.device,
			Seen: time.Unix(c.seen, 0).UTC(), Tokens: []TokenInfo{}}
		for _, t := range []*token{&c.current, &c.next} {
			if t.mechanism != sasl.NoToken && t.expires > now.Unix() && prints[t.password] && a.Banned.IsZero() {
				x.Tokens = append(x.Tokens, TokenInfo{Mechanism: t.mechanism.String(),
					Issued: time.Unix(t.issued, 0).UTC(), Expires: time.Unix(t.expires, 0).UTC(), Used: t == &c.current})
			}
		}
		list = append(list, x)
		return true
	})
	return list, err
}

// agentOf returns the id that a key of the table has.
func agentOf(key string) (id session.AgentID) {
	copy(id[:], key)
	return id
}

// printsOf returns the prints of the keys in an account's credentials.
func printsOf(credentials []byte) map[[16]byte]bool {
	keys, err := sasl.DecodeKeys(credentials, 0)
	if err != nil {
		return nil
	}
	prints := make(map[[16]byte]bool, len(keys))
	for i := range keys {
		prints[keys[i].Print()] = true
	}
	return prints
}
