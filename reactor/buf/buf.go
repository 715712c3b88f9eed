// Package buf lends the byte buffers of outboxes and of unfinished stanzas. Its two pools never keep
// a buffer over 64 KiB, and count what is out.
package buf

import (
	"sync"
	"sync/atomic"

	"github.com/valyala/bytebufferpool"
)

// maxKept is the largest buffer that goes back to a pool.
const maxKept = 64 << 10

// A Pool lends byte slices. Safe from any goroutine.
type Pool struct {
	buffers  bytebufferpool.Pool
	wrappers sync.Pool // of *bytebufferpool.ByteBuffer without their bytes
	inUse    atomic.Int64
}

// Outbox is for bytes on their way out, Tail for unfinished input; Tail is an xmlstream.Buffers. Two
// pools, because each settles on the size that its own buffers have.
var Outbox, Input Pool

// Get lends a slice of length 0 and at least n bytes of capacity.
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

// Put takes b back; it must have come from Get, though it may have grown. Whoever keeps it may not
// look at it any more.
func (p *Pool) Put(b []byte) {
	p.inUse.Add(-1)
	if cap(b) <= maxKept {
		h, _ := p.wrappers.Get().(*bytebufferpool.ByteBuffer)
		if h == nil {
			h = new(bytebufferpool.ByteBuffer)
		}
		h.B = b
		p.buffers.Put(h)
	}
}

// InUse is how many buffers are lent.
func (p *Pool) InUse() (buffers int64) { return p.inUse.Load() }
