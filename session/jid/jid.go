package jid

import "errors"

// MaxPart is the largest length of each part of an address in bytes, before preparation and after
// (RFC 7622 section 3.1).
const MaxPart = 1023

// maxRaw is the longest text that can be an address: three parts, two separators, and a trailing
// dot of the domain.
const maxRaw = 3*MaxPart + 3

// A JID is a prepared address. Two JIDs are equal with ==, and a JID may be a map key. The zero JID
// is no address. It is one string and the places where its parts begin, 24 bytes; entities and
// envelopes hold many of them. JIDs are not changed, so any goroutine may use one.
type JID struct {
	s        string // the whole address, as String returns it
	localLen uint32 // length of the localpart; 0: there is none
	bareLen  uint32 // length of the bare JID; len(s): there is no resourcepart
}

// ErrMalformed is what every error of this package is, by errors.Is. In XMPP it is the condition
// jid-malformed (RFC 6120 section 8.3.3.8). The text of the error gives the reason and contains
// nothing that a peer has sent, so it may be logged.
var ErrMalformed = errors.New("jid: malformed address")

// A reason is an ErrMalformed with its cause. All reasons are package variables, so that refusing
// an address allocates nothing.
type reason string

// Error returns the reason.
func (r reason) Error() string { return "jid: " + string(r) }

// Is reports whether target is ErrMalformed.
func (r reason) Is(target error) bool { return target == ErrMalformed }

// The reasons for which an address is refused.
var (
	errUTF8          error = reason("not valid UTF-8")
	errLong          error = reason("longer than three parts of 1023 bytes")
	errLocalEmpty    error = reason("empty localpart")
	errLocalLong     error = reason("localpart longer than 1023 bytes")
	errLocalChar     error = reason("localpart has a character that is not allowed there")
	errLocalUnstable error = reason("localpart has no stable prepared form")
	errResEmpty      error = reason("empty resourcepart")
	errResLong       error = reason("resourcepart longer than 1023 bytes")
	errResChar       error = reason("resourcepart has a character that is not allowed there")
	errResUnstable   error = reason("resourcepart has no stable prepared form")
	errDomEmpty      error = reason("empty domainpart")
	errDomLong       error = reason("domainpart longer than 1023 bytes")
	errDomChar       error = reason("domainpart has a character that is not allowed there")
	errDomUnstable   error = reason("domainpart has no stable prepared form")
	errLabelEmpty    error = reason("domainpart has an empty label")
	errLabelLong     error = reason("domainpart has a label longer than 63 bytes")
	errLabelHyphen   error = reason("domainpart has a label with a hyphen where none may be")
	errLabelPuny     error = reason("domainpart has an invalid A-label")
	errLabelBidi     error = reason("domainpart breaks the rule for right-to-left labels")
	errIP            error = reason("domainpart is not a valid IP address literal")
	errNoLocal       error = reason("a resourcepart or localpart was given to no domain")
)

// Parse splits an address by RFC 7622 section 3.1 and prepares its parts. The resourcepart is
// everything after the first '/', the localpart everything before the first '@' of the rest. An
// address of ASCII costs one allocation. Any error is [ErrMalformed].
func Parse(s string) (JID, error) { return parse(s) }

// ParseBytes is [Parse] for bytes. b is not kept.
func ParseBytes(b []byte) (JID, error) { return parse(b) }

// FromPrepared returns the JID of s without preparing it. s must be a bare address that String has
// returned, as the store keeps it: anything else gives a JID that breaks the promise of this
// package. The JID shares the memory of s.
func FromPrepared(s string) JID {
	j := JID{s: s, bareLen: uint32(len(s))}
	for i := 0; i < len(s); i++ {
		if s[i] == '@' {
			j.localLen = uint32(i)
			break
		}
	}
	return j
}

// New puts an address together from its parts and prepares them. The domain must not be empty. An
// empty local or resource means that there is none. Any error is [ErrMalformed].
func New(local, domain, resource string) (JID, error) {
	switch {
	case len(local) > MaxPart:
		return JID{}, errLocalLong
	case len(domain) > MaxPart+1:
		return JID{}, errDomLong
	case len(resource) > MaxPart:
		return JID{}, errResLong
	}
	var scratch [scratchSize]byte
	return prepareParts(scratch[:0], local, local != "", domain, resource, resource != "")
}

// WithResource returns j with another resourcepart, which it prepares; without one if resource is
// empty.
func (j JID) WithResource(resource string) (JID, error) {
	switch {
	case resource == "":
		return j.Bare(), nil
	case j.s == "":
		return JID{}, errNoLocal
	case len(resource) > MaxPart:
		return JID{}, errResLong
	}
	var scratch [scratchSize]byte
	b := append(scratch[:0], j.s[:j.bareLen]...)
	b = append(b, '/')
	b, err := appendResource(b, resource)
	if err != nil {
		return JID{}, err
	}
	return JID{s: string(b), localLen: j.localLen, bareLen: j.bareLen}, nil
}

// Parts returns the three parts of j. local and resource are empty if there is none.
func (j JID) Parts() (local, domain, resource string) {
	return j.Local(), j.Domain(), j.Resource()
}

// Local returns the localpart of j; empty if there is none.
func (j JID) Local() string { return j.s[:j.localLen] }

// Domain returns the domainpart of j; empty for the zero JID only.
func (j JID) Domain() string {
	if j.localLen == 0 {
		return j.s[:j.bareLen]
	}
	return j.s[j.localLen+1 : j.bareLen]
}

// Resource returns the resourcepart of j; empty if there is none.
func (j JID) Resource() string {
	if int(j.bareLen) == len(j.s) {
		return ""
	}
	return j.s[j.bareLen+1:]
}

// Bare returns j without its resourcepart. It shares j's memory.
func (j JID) Bare() JID { return JID{s: j.s[:j.bareLen], localLen: j.localLen, bareLen: j.bareLen} }

// IsBare reports whether j has no resourcepart.
func (j JID) IsBare() bool { return int(j.bareLen) == len(j.s) }

// IsZero reports whether j is the zero JID, which is no address.
func (j JID) IsZero() bool { return j.s == "" }

// String returns the address as it goes on the wire (before XML escaping).
func (j JID) String() string { return j.s }

// Partition returns the partition of j's bare JID, 0 to 4,095. It chooses the shard of the table,
// the loop of an entity, and the upper bits of its id, and so of its store keys. It is the 64-bit
// FNV-1a hash (as in hash/fnv) of the bare JID, finished by two xor-shifts and a multiplication;
// the low 12 bits are taken.
//
// The function must never change: partitions are part of stored ids. A test holds golden values.
func (j JID) Partition() uint16 {
	h := uint64(14695981039346656037)
	for i := 0; i < int(j.bareLen); i++ {
		h = (h ^ uint64(j.s[i])) * 1099511628211
	}
	h = (h ^ h>>32) * 0xd6e8feb86659fd93
	h ^= h >> 32
	return uint16(h & (Partitions - 1))
}

// Partitions is the number of partitions.
const Partitions = 4096

// parse splits raw and prepares the parts: see Parse.
func parse[T string | []byte](raw T) (JID, error) {
	if len(raw) > maxRaw {
		return JID{}, errLong
	}
	slash, at := -1, -1
	for i := 0; i < len(raw); i++ {
		if c := raw[i]; c == '/' {
			slash = i
			break
		} else if c == '@' && at < 0 {
			at = i
		}
	}
	bare, res := raw, raw[len(raw):]
	if slash >= 0 {
		bare, res = raw[:slash], raw[slash+1:]
	}
	local, domain := bare[:0], bare
	if at >= 0 {
		local, domain = bare[:at], bare[at+1:]
	}
	switch {
	case len(local) > MaxPart:
		return JID{}, errLocalLong
	case len(domain) > MaxPart+1: // a trailing dot is not part of the domain
		return JID{}, errDomLong
	case len(res) > MaxPart:
		return JID{}, errResLong
	}
	var scratch [scratchSize]byte
	return prepareParts(scratch[:0], local, at >= 0, domain, res, slash >= 0)
}

// scratchSize is the size of a buffer on the stack in which an address is prepared. Nearly every
// address fits, so that preparing one allocates only its string.
const scratchSize = 256

// prepareParts prepares the parts, appends them to b with their separators, and makes one string of
// the result.
func prepareParts[T string | []byte](b []byte, local T, hasLocal bool, domain T, res T, hasRes bool) (JID,
	error) {
	var j JID
	var err error
	if hasLocal {
		if b, err = appendLocal(b, local); err != nil {
			return JID{}, err
		}
		j.localLen = uint32(len(b))
		b = append(b, '@')
	}
	if b, err = appendDomain(b, domain); err != nil {
		return JID{}, err
	}
	j.bareLen = uint32(len(b))
	if hasRes {
		b = append(b, '/')
		if b, err = appendResource(b, res); err != nil {
			return JID{}, err
		}
	}
	j.s = string(b)
	return j, nil
}
