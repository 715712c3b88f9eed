// Package buf lends byte buffers to the outboxes of connections and to unfinished input. A
// connection has a buffer only while there are bytes in it, so idle connections cost none. The two
// pools drop buffers over 64 KiB, so that one large stanza does not stay in memory, and count the
// buffers in use, for metrics and for tests that look for leaks.
package buf

import (
	"sync"
	"sync/atomic"

	"github.com/valyala/bytebufferpool"
)

// maxKept is the capacity up to which a buffer goes back to its pool.
const maxKept = 64 << 10

// A Pool lends byte slices. The zero Pool is ready to use. Its methods are safe on any goroutine.
type Pool struct {
	buffers  bytebufferpool.Pool // buffers that are not in use
	wrappers sync.Pool           // of *bytebufferpool.ByteBuffer without bytes: Put allocates none
	inUse    atomic.Int64
}

// Outbox lends buffers for output, Input those for unfinished input; Input is an xmlstream.Buffers.
// There are two because a bytebufferpool.Pool adapts to the size of its own buffers.
var Outbox, Input Pool

// Get lends a slice of length 0 and with a capacity of n bytes at least. The caller owns it until
// Put.
func (p *Pool) Get(n int) []byte {
	b := p.buffers.Get()
	s := b.B[:0]
	b.B = nil
	p.wrappers.Put(b)
	if cap(s) < n {
		s = make([]byte, 0, n)
	}
	p.inUse.Add(1)
	return s
}

// Put takes b back. It must come from Get, but may have been reallocated by append since. The
// caller must not use b, or a slice of it, after the call.
func (p *Pool) Put(b []byte) {
	p.inUse.Add(-1)
	if cap(b) <= maxKept {
		wrapper, _ := p.wrappers.Get().(*bytebufferpool.ByteBuffer)
		if wrapper == nil {
			wrapper = new(bytebufferpool.ByteBuffer)
		}
		wrapper.B = b
		p.buffers.Put(wrapper)
	}
}

// InUse returns the number of buffers that are lent now.
func (p *Pool) InUse() (buffers int64) { return p.inUse.Load() }
