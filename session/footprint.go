package session

import (
	"reflect"
	"runtime"
	"sort"
	"sync"
	"unsafe"

	"canto/session/jid"
)

// A Footprint is how many of something there are, and how many bytes of the heap they hold: whole objects, as
// the allocator rounds them up.
type Footprint struct{ Count, Bytes int }

func (h *Footprint) add(count, bytes int) { h.Count, h.Bytes = h.Count+count, h.Bytes+bytes }

// Footprints are what the kernel and its modules hold, by part: "accounts", "sessions", "presences",
// "held" (for sessions that rest or catch up), "inboxes", "tables", and each part of the resident sets by the
// name that its module gave it ("roster").
type Footprints map[string]Footprint

func (h Footprints) add(part string, count, bytes int) {
	x := h[part]
	x.add(count, bytes)
	h[part] = x
}

// sizeClasses are the sizes that the allocator has, smallest first, as it tells them.
var sizeClasses = sync.OnceValue(func() (sizes []int) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	for _, c := range m.BySize {
		sizes = append(sizes, int(c.Size))
	}
	return sizes
})

// Allocated is what an object of n bytes takes of the heap. Any goroutine.
func Allocated(n int) int {
	if n <= 0 {
		return 0
	}
	sizes := sizeClasses()
	if i := sort.SearchInts(sizes, n); i < len(sizes) {
		return sizes[i]
	}
	const page = 8192 // of the allocator's
	return (n + page - 1) / page * page
}

// MapBytes is about what a map with n entries takes that has not shrunk, each of size bytes with key and
// value: groups of eight entries and eight bytes, twice as many whenever they are full to 7/8
// (internal/runtime/maps). Any goroutine.
func MapBytes(n, size int) int {
	if n == 0 {
		return 0
	}
	groups := 1
	for n > 8 && groups*7 < n {
		groups *= 2
	}
	return Allocated(48) + Allocated(groups*(8+8*size))
}

// A sizer is what a value of one type holds outside of itself, as far as deep pointers lead; nil: nothing.
type sizer func(p unsafe.Pointer, deep int) int

// maxDepth is how many pointers are followed one after the other: lists that lead to themselves end.
const maxDepth = 8

var sizers struct {
	sync.Mutex
	of map[reflect.Type]*sizer
}

// notOwned are what values point to and do not own.
var notOwned = map[reflect.Type]bool{
	reflect.TypeFor[Account](): true, reflect.TypeFor[Entity](): true, reflect.TypeFor[Session](): true,
	reflect.TypeFor[Stream]():         true,
	reflect.TypeFor[awaitedRequest](): true, reflect.TypeFor[Host](): true, reflect.TypeFor[Profile](): true,
	reflect.TypeFor[Router](): true, reflect.TypeFor[LoopRouter](): true,
}

// sizerOf makes the weigher of a type: of strings, slices and what pointers lead to. Functions,
// channels and interfaces are not followed, nor others; a string that is met again counts again. Under
// weighers' lock.
func sizerOf(t reflect.Type) *sizer {
	if w, ok := sizers.of[t]; ok {
		return w
	}
	w := new(sizer)
	sizers.of[t] = w
	switch t.Kind() {
	case reflect.String:
		*w = func(p unsafe.Pointer, deep int) int { return Allocated(len(*(*string)(p))) }
	case reflect.Slice:
		size, el := int(t.Elem().Size()), sizerOf(t.Elem())
		*w = func(p unsafe.Pointer, deep int) int {
			s := (*sliceHeader)(p)
			n := Allocated(s.cap * size)
			if *el != nil {
				for i := range s.len {
					n += (*el)(unsafe.Add(s.data, i*size), deep)
				}
			}
			return n
		}
	case reflect.Pointer:
		if notOwned[t.Elem()] {
			return w
		}
		size, el := int(t.Elem().Size()), sizerOf(t.Elem())
		*w = func(p unsafe.Pointer, deep int) int {
			at := *(*unsafe.Pointer)(p)
			if at == nil || deep == 0 {
				return 0
			}
			n := Allocated(size)
			if *el != nil {
				n += (*el)(at, deep-1)
			}
			return n
		}
	case reflect.Array:
		size, el := int(t.Elem().Size()), sizerOf(t.Elem())
		if *el == nil {
			return w
		}
		*w = func(p unsafe.Pointer, deep int) (n int) {
			for i := range t.Len() {
				n += (*el)(unsafe.Add(p, i*size), deep)
			}
			return n
		}
	case reflect.Map:
		size := int(t.Key().Size() + t.Elem().Size())
		*w = func(p unsafe.Pointer, deep int) int {
			return MapBytes(reflect.NewAt(t, p).Elem().Len(), size)
		}
	case reflect.Struct:
		type field struct {
			off uintptr
			w   *sizer
		}
		var fields []field
		for i := range t.NumField() {
			f := t.Field(i)
			if fw := sizerOf(f.Type); *fw != nil {
				fields = append(fields, field{f.Offset, fw})
			}
		}
		if len(fields) > 0 {
			*w = func(p unsafe.Pointer, deep int) (n int) {
				for _, f := range fields {
					n += (*f.w)(unsafe.Add(p, f.off), deep)
				}
				return n
			}
		}
	}
	return w
}

// sliceHeader is what a slice is made of.
type sliceHeader struct {
	data     unsafe.Pointer
	len, cap int
}

// heapSize is what the value that v points to takes, itself included.
func heapSize(v any) int {
	t := reflect.TypeOf(v)
	if t == nil || t.Kind() != reflect.Pointer || reflect.ValueOf(v).IsNil() {
		return 0
	}
	sizers.Lock()
	if sizers.of == nil {
		sizers.of = make(map[reflect.Type]*sizer)
	}
	w := sizerOf(t.Elem())
	sizers.Unlock()
	n := Allocated(int(t.Elem().Size()))
	if *w != nil {
		n += (*w)(reflect.ValueOf(v).UnsafePointer(), maxDepth)
	}
	return n
}

// Footprint is what the accounts in memory hold, and the maps that find them. It takes the lock of each
// account for about a microsecond, on the caller's goroutine: a tenth of a second for 100,000. Any
// goroutine but a loop's.
func (t *Table) Footprint() Footprints {
	h, once := Footprints{}, seenSet{}
	var list []*Entity
	for i := range t.shards {
		list = t.Entities(i, list[:0])
		s := &t.shards[i]
		s.mu.RLock()
		absent := len(s.negativeCache)
		found := Allocated(cap(s.entities.cells)*int(unsafe.Sizeof(&Entity{}))) + Allocated(cap(s.entities.tags)*2)
		for j := range s.negativeCache {
			h.add("tables", 0, Allocated(len(j.String())))
		}
		s.mu.RUnlock()
		h.add("tables", len(list)+absent, found+MapBytes(absent, int(unsafe.Sizeof(jid.JID{}))))
		for _, a := range list {
			addEntity(a, h, once)
		}
	}
	h.add("tables", 0, int(unsafe.Sizeof(*t)))
	return h
}

// seenSet are what counts once though many have it: whatever is met often is met early.
type seenSet map[unsafe.Pointer]struct{}

const maxSeen = 4096

// add reports whether p was not met before, as far as that is remembered.
func (m seenSet) add(p unsafe.Pointer) bool {
	if _, met := m[p]; met {
		return false
	}
	if len(m) < maxSeen {
		m[p] = struct{}{}
	}
	return true
}

// addEntity takes the entity's lock.
func addEntity(e *Entity, h Footprints, once seenSet) {
	lockCheck()
	e.mu.Lock()
	defer unlockCheck()
	defer e.mu.Unlock()
	if e.resident == evictedMark {
		return
	}
	n, part := heapSize(e), "accounts"
	a := e.account()
	if a != nil {
		n = heapSize(a)
	} else {
		part = e.kind.String() + "s"
		live, ok := liveFootprint(e)
		if n += live; !ok {
			h.add("not_weighed", 1, 0)
		}
	}
	if e.pending != nil {
		waits := heapSize(e.pending)
		h.add("inboxes", len(e.pending.inbox.items), waits)
		n -= waits
	}
	if r := e.resident; r != nil && once.add(unsafe.Pointer(r)) {
		for id, v := range r.parts {
			if n := heapSize(v); n > 0 {
				h.add(partName(id), 1, n)
			}
		}
	} else if r != nil {
		n -= heapSize(r)
	}
	h.add(part, 1, n)
	if a == nil {
		return
	}
	for _, s := range a.sessions {
		addSession(s, h, once)
	}
}

// liveFootprint is what the live state of e takes, as its kind says; false: its function has panicked. No
// loop runs this, so the panic is told by what is returned.
func liveFootprint(e *Entity) (n int, ok bool) {
	b := e.handler()
	if x, is := e.live.(*liveState); !is || x.value == nil || b == nil || b.Footprint == nil {
		return 0, true
	}
	defer func() {
		if recover() != nil {
			n, ok = 0, false
		}
	}()
	return b.Footprint(e), true
}

// addSession takes the outbox lock.
func addSession(s *Session, h Footprints, once seenSet) {
	defer s.lockOutbox().unlock()
	n := heapSize(s)
	if s.outbox != nil {
		held := heapSize(s.outbox)
		h.add("held", len(s.outbox.queue)+len(s.outbox.deferred), held)
		n -= held
	}
	if p := Allocated(cap(s.presence)); p > 0 {
		n -= p
		if !once.add(unsafe.Pointer(unsafe.SliceData(s.presence))) {
			p = 0
		}
		h.add("presences", 1, p)
	}
	for at := s.vars; at != nil; at = at.next {
		n += heapSize(at.v)
	}
	h.add("sessions", 1, n)
}

func partName(id int) string {
	registry.Lock()
	defer registry.Unlock()
	return registry.parts[id]
}

// HeapBytes is what l holds: its mail, what it writes with, its cache of addresses. On the loop.
func (l *LoopRouter) HeapBytes() int {
	return Allocated(int(unsafe.Sizeof(*l))) + Allocated(int(unsafe.Sizeof(*l.Parser))) + l.jids.Bytes() +
		Allocated(cap(l.mail.envelopes)*int(unsafe.Sizeof(envelope{}))) + Allocated(cap(l.mail.buf)) +
		Allocated(cap(l.scratch)) + Allocated(cap(l.appender.B))
}

// StreamBytes is what a connection's stream holds once it is bound.
func StreamBytes() int { return Allocated(int(unsafe.Sizeof(Stream{}))) }
