package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"canto/session/jid"
)

// Hosts are the hosts that were added to the store by commands, besides those of the configuration.
// The methods that write wait until the write is durable: they are for commands. Any goroutine.
type Hosts struct {
	db *DB
	mu sync.Mutex // held from the read to the durable write, so that of two Adds one fails
}

// A HostRecord is one host of the store.
type HostRecord struct {
	Domain  string    // the prepared name
	Created time.Time // when it was added, to the second
}

func newHosts(db *DB) *Hosts { return &Hosts{db: db} }

// hostVersion is the first byte of a host's row; the time of its creation follows, 8 bytes.
const hostVersion = 1

// hostKey returns the key of a host's row and its prepared name.
func hostKey(domain string) ([]byte, string, error) {
	j, err := jid.New("", domain, "")
	if err != nil {
		return nil, "", err
	}
	return append([]byte{prefixHosts}, j.Domain()...), j.Domain(), nil
}

// Add adds a host and returns its prepared name. The error is [ErrExists] if the store has it. It
// waits until the row is durable, also if ctx ends before.
func (h *Hosts) Add(ctx context.Context, domain string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key, name, err := hostKey(domain)
	if err != nil {
		return "", err
	}
	if _, ok, err := h.db.get(key); err != nil {
		return "", err
	} else if ok {
		return name, fmt.Errorf("host %s %w", name, ErrExists)
	}
	b := h.db.systemBatch()
	b.set(key, binary.BigEndian.AppendUint64([]byte{hostVersion}, uint64(h.db.opts.Now().Unix())))
	return name, h.db.Wait(context.WithoutCancel(ctx), h.db.Commit(b))
}

// Delete removes a host. Its accounts stay, and are back when the host is added again. The error is
// [ErrNotFound] if the store does not have it. It waits until that is durable, also if ctx ends
// before.
func (h *Hosts) Delete(ctx context.Context, domain string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	key, name, err := hostKey(domain)
	if err != nil {
		return err
	}
	if _, ok, err := h.db.get(key); err != nil {
		return err
	} else if !ok {
		return fmt.Errorf("host %s %w", name, ErrNotFound)
	}
	b := h.db.systemBatch()
	b.del(key)
	return h.db.Wait(context.WithoutCancel(ctx), h.db.Commit(b))
}

// List calls fn for all hosts in the order of their names, until fn returns false.
func (h *Hosts) List(r Reader, fn func(HostRecord) bool) error {
	return r.scan([]byte{prefixHosts}, []byte{prefixHosts + 1}, false, func(key, value []byte) (bool, error) {
		if len(value) == 0 || value[0] != hostVersion {
			return false, fmt.Errorf("%w: the row of host %q", ErrFormat, key[1:])
		}
		rec := HostRecord{Domain: string(key[1:])}
		if len(value) >= 9 {
			rec.Created = time.Unix(int64(binary.BigEndian.Uint64(value[1:])), 0).UTC()
		}
		return fn(rec), nil
	})
}
