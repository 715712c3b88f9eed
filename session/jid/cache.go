package jid

import (
	"hash/maphash"
	"unsafe"
)

// cacheEntries is the number of addresses that a Cache holds. maxCachedLen is the longest address
// that it keeps. So a cache is bounded to about 2 MiB, whatever peers send.
const (
	cacheEntries = 4096
	maxCachedLen = 256
)

// A Cache maps the bytes of addresses to JIDs, so that an address that was seen lately is neither
// prepared nor allocated again. It is direct-mapped and of fixed size: two addresses with one entry
// evict each other. The hash is seeded, so that a peer can't choose such addresses. Refused
// addresses are not kept. One goroutine: each loop has a cache.
type Cache struct {
	seed    maphash.Seed
	entries [cacheEntries]cacheEntry
}

// A cacheEntry is one address.
type cacheEntry struct {
	raw string // as it was received; shares the memory of the JID if it was in canonical form
	jid JID
}

// NewCache returns an empty cache with its own seed. It takes about 160 KiB without any address.
func NewCache() *Cache { return &Cache{seed: maphash.MakeSeed()} }

// Parse is [ParseBytes] with the cache. raw is not kept.
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

// Bytes returns how much memory c takes, with its addresses.
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
