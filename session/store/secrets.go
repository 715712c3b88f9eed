package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// SecretLen is the length of every key in bytes.
const SecretLen = 32

// Secrets are random keys that outlive the process: for fake salts, TLS tickets, tokens. Each name
// has one or more keys, whose ids grow. The newest, the current one, is for making new tokens; the
// older ones are for checking tokens that were made with them. Any goroutine, but no loop: each
// method may wait for the disk.
type Secrets struct {
	db    *DB
	mu    sync.Mutex          // guards cache; held while keys are read or written
	cache map[string][]secret // the keys in memory by name, newest last
}

// A secret is one key. created is in Unix seconds.
type secret struct {
	id      uint32
	created int64
	key     [SecretLen]byte
}

// secretVersion is the first byte of a key's row; the time of creation and the key follow.
const secretVersion = 1

func newSecrets(db *DB) *Secrets { return &Secrets{db: db, cache: map[string][]secret{}} }

// Current returns the newest key of a name. If there is none it makes one and waits until that is
// durable. The key is the caller's.
func (s *Secrets) Current(name string) (id uint32, key []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, err := s.load(name)
	if err != nil {
		return 0, nil, err
	}
	if len(list) == 0 {
		if list, err = s.add(name, list, 0); err != nil {
			return 0, nil, err
		}
	}
	last := list[len(list)-1]
	return last.id, append([]byte(nil), last.key[:]...), nil
}

// Get returns the key with an id; false if it was never made or was dropped. The key is the
// caller's.
func (s *Secrets) Get(name string, id uint32) (key []byte, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, err := s.load(name)
	for _, x := range list {
		if x.id == id {
			return append([]byte(nil), x.key[:]...), true, nil
		}
	}
	return nil, false, err
}

// Rotate makes a new current key if the newest is as old as age, and then drops all but the newest
// keep keys, at least one. It waits until that is durable.
func (s *Secrets) Rotate(name string, age time.Duration, keep int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, err := s.load(name)
	if err != nil {
		return err
	}
	if n := len(list); n > 0 && s.db.opts.Now().Sub(time.Unix(list[n-1].created, 0)) < age {
		return nil
	}
	_, err = s.add(name, list, max(keep, 1))
	return err
}

// secretKey returns the beginning of the store keys of a name's keys; the id follows, 4 bytes.
func secretKey(name string) []byte {
	return append(append([]byte{prefixSecrets}, name...), 0)
}

// load returns the keys of a name, newest last, from memory or the store. The caller holds mu.
func (s *Secrets) load(name string) ([]secret, error) {
	if list, ok := s.cache[name]; ok {
		return list, nil
	}
	for i := range len(name) {
		if name[i] == 0 {
			return nil, fmt.Errorf("%w: the name of a secret", ErrKey)
		}
	}
	var list []secret
	lo, hi := prefixRange(secretKey(name))
	err := s.db.scan(lo, hi, false, func(key, value []byte) (bool, error) {
		if len(value) > 0 && value[0] != secretVersion {
			return false, formatError("a secret", uint64(value[0]), secretVersion)
		}
		if len(key) != len(lo)+4 || len(value) != 1+8+SecretLen {
			return false, corruptError("a secret", errors.New("wrong length"))
		}
		list = append(list, secret{binary.BigEndian.Uint32(key[len(lo):]),
			int64(binary.BigEndian.Uint64(value[1:])), [SecretLen]byte(value[9:])})
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	s.cache[name] = list
	return list, nil
}

// add makes a new key, and drops all but the newest keep (0: none is dropped). It waits until that
// is durable: a token must not be made with a key that a crash could lose. The caller holds mu.
func (s *Secrets) add(name string, list []secret, keep int) ([]secret, error) {
	x := secret{id: 1, created: s.db.opts.Now().Unix()}
	if n := len(list); n > 0 {
		x.id = list[n-1].id + 1
	}
	if _, err := io.ReadFull(s.db.opts.Rand, x.key[:]); err != nil {
		return nil, fmt.Errorf("store: no randomness: %w", err)
	}
	b := s.db.systemBatch()
	value := append(binary.BigEndian.AppendUint64([]byte{secretVersion}, uint64(x.created)), x.key[:]...)
	b.set(binary.BigEndian.AppendUint32(secretKey(name), x.id), value)
	list = append(list[:len(list):len(list)], x)
	for keep > 0 && len(list) > keep {
		b.del(binary.BigEndian.AppendUint32(secretKey(name), list[0].id))
		list = list[1:]
	}
	if err := s.db.Wait(context.Background(), s.db.Commit(b)); err != nil {
		return nil, err
	}
	s.cache[name] = list
	return list, nil
}
