package jid

import (
	"hash/maphash"
	"unsafe"
)

// cacheEntries is how many addresses a Cache holds; maxCachedLen the longest it keeps, so that one is
// bounded to about 2 MiB whatever peers send.
const (
	cacheEntries = 4096
	maxCachedLen = 256
)

// A Cache gives the JID of raw bytes that were seen before without preparing them again, and without
// allocating. It is direct-mapped, of fixed size, and seeded, so that nobody can choose addresses that push
// each other out. Refused addresses are not kept. For one goroutine (a loop).
type Cache struct {
	seed    maphash.Seed
	entries [cacheEntries]cacheEntry
}

type cacheEntry struct {
	raw string // as it came; the JID's own memory where it was canonical
	jid JID
}

// NewCache returns an empty cache with a seed of its own. About 160 KiB before any address.
func NewCache() *Cache { return &Cache{seed: maphash.MakeSeed()} }

// Parse is [ParseBytes] through c. raw is not kept.
func (c *Cache) Parse(raw []byte) (JID, error) {
	if len(raw) > maxCachedLen {
		return ParseBytes(raw)
	}
	e := &c.entries[maphash.Bytes(c.seed, raw)%cacheEntries]
	if e.raw == string(raw) && e.jid.s != "" {
		return e.jid, nil
	}
	j, err := ParseBytes(raw)
	if err != nil {
		return JID{}, err
	}
	if e.jid = j; j.s == string(raw) {
		e.raw = j.s
	} else {
		e.raw = string(raw)
	}
	return j, nil
}

// Bytes is what c holds, with its addresses.
func (c *Cache) Bytes() int {
	n := int(unsafe.Sizeof(*c))
	for i := range c.entries {
		e := &c.entries[i]
		n += len(e.jid.s)
		if unsafe.StringData(e.raw) != unsafe.StringData(e.jid.s) {
			n += len(e.raw)
		}
	}
	return n
}
