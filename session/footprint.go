package session

import (
	"reflect"
	"runtime"
	"sort"
	"sync"
	"unsafe"

	"canto/session/jid"
)

// This file measures how many bytes of the heap entities and sessions take, for the metrics and for
// `canto bytes`. It follows pointers by reflection, with a compiled function for each type, as it visits
// 100,000 accounts.

// A Footprint is a number of things and the bytes of the heap that they take, rounded up to the size
// classes of Go's allocator.
type Footprint struct {
	Count int // how many there are
	Bytes int // of the heap, in all
}

// add adds count things of bytes in all.
func (h *Footprint) add(count, bytes int) { h.Count, h.Bytes = h.Count+count, h.Bytes+bytes }

// Footprints are the footprints of the kernel and its modules by part: "accounts", "sessions",
// "presences", "held" (elements in the outboxes of sessions), "inboxes", "tables", "not_weighed"
// (entities whose footprint could not be taken), and each [Part] of the resident sets by its name
// ("roster").
type Footprints map[string]Footprint

// add adds count things of bytes in all to a part.
func (h Footprints) add(part string, count, bytes int) {
	x := h[part]
	x.add(count, bytes)
	h[part] = x
}

// sizeClasses are the size classes of Go's allocator, smallest first, as runtime.MemStats lists them.
var sizeClasses = sync.OnceValue(func() (sizes []int) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	for _, c := range m.BySize {
		sizes = append(sizes, int(c.Size))
	}
	return sizes
})

// Allocated is how many bytes of the heap an object of n bytes takes. Any goroutine.
func Allocated(n int) int {
	if n <= 0 {
		return 0
	}
	sizes := sizeClasses()
	if i := sort.SearchInts(sizes, n); i < len(sizes) {
		return sizes[i]
	}
	const page = 8192 // larger objects take whole pages of the allocator, 8 KiB each
	return (n + page - 1) / page * page
}

// MapBytes estimates the bytes of a map with n entries that has never been larger; size is the bytes of a
// key and a value. Go's map has groups of eight entries and eight control bytes, and doubles when seven
// eighths are taken (internal/runtime/maps, Go 1.24 and later: with another map the estimate is wrong,
// nothing else). Any goroutine.
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

// A sizer returns the bytes that the value at p has outside of itself. It follows at most deep pointers
// one after the other. A nil sizer: values of the type have nothing outside. p must point to a value of
// the sizer's type: that is what makes the unsafe reads in this file right.
type sizer func(p unsafe.Pointer, deep int) int

// maxDepth bounds how many pointers are followed one after the other, so that a cycle ends.
const maxDepth = 8

// sizers are the sizers by type. A sizer stays in the map, so each type is analyzed once.
var sizers struct {
	sync.Mutex // guards of, not the sizers in it: a complete sizer does not change
	of         map[reflect.Type]*sizer
}

// notOwned are types whose values are counted elsewhere: a pointer to one is not followed.
var notOwned = map[reflect.Type]bool{
	reflect.TypeFor[Account](): true, reflect.TypeFor[Entity](): true, reflect.TypeFor[Session](): true,
	reflect.TypeFor[Stream]():         true,
	reflect.TypeFor[awaitedRequest](): true, reflect.TypeFor[Host](): true, reflect.TypeFor[Profile](): true,
	reflect.TypeFor[Router](): true, reflect.TypeFor[LoopRouter](): true,
}

// sizerOf returns the sizer of t, and makes it if it is new, a case for each kind of type: strings,
// slices, pointers, arrays, maps, structs. It does not follow functions, channels, interfaces, the
// entries of maps and the types of notOwned. A string or a value that several pointers lead to counts
// several times. It enters the sizer before it looks at the parts of t, so that recursive types end.
// Under the lock of sizers.
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

// A sliceHeader is the memory of a slice, as in reflect.SliceHeader, which is deprecated for its uintptr.
type sliceHeader struct {
	data     unsafe.Pointer
	len, cap int
}

// heapSize is the bytes of the value that v, a pointer, points to, with the value itself; 0 for a nil
// pointer.
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

// Footprint measures the entities in memory, their sessions, and the table itself. It takes the lock of
// each entity for about a microsecond, in all a tenth of a second for 100,000. Any goroutine that is not
// a loop.
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

// A seenSet has shared objects that were counted, so that they count once. It remembers the first 4,096:
// an object that very many share is among these.
type seenSet map[unsafe.Pointer]struct{}

// maxSeen bounds a seenSet.
const maxSeen = 4096

// add remembers p, and reports whether it is new.
func (m seenSet) add(p unsafe.Pointer) bool {
	if _, met := m[p]; met {
		return false
	}
	if len(m) < maxSeen {
		m[p] = struct{}{}
	}
	return true
}

// addEntity adds e to h: first the entity itself, with the account or with the live state of its kind;
// then its inbox; then each part of its resident set, once for a set that entities share; then the
// sessions of an account. What has a part of its own is taken off the entity. It takes the lock of e.
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

// liveFootprint is the size of the live state of e by [EntityHandler.Footprint]; false: it has panicked.
// This runs on no loop, where a panic would be counted, so the result says it.
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

// addSession adds s, its outbox and its presence to h. Under the account's lock; it takes the outbox lock.
func addSession(s *Session, h Footprints, once seenSet) {
	defer s.lockOutbox().unlock()
	n := heapSize(s)
	if s.outbox != nil {
		queued := heapSize(s.outbox)
		h.add("held", len(s.outbox.queue)+len(s.outbox.deferred), queued)
		n -= queued
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

// partName is the name of the part with that number.
func partName(id int) string {
	registry.Lock()
	defer registry.Unlock()
	return registry.parts[id]
}

// HeapBytes is the bytes of l: its parser, its cache of addresses, its mail queue and its buffers. On the
// loop of l.
func (l *LoopRouter) HeapBytes() int {
	return Allocated(int(unsafe.Sizeof(*l))) + Allocated(int(unsafe.Sizeof(*l.Parser))) + l.jids.Bytes() +
		Allocated(cap(l.mail.envelopes)*int(unsafe.Sizeof(envelope{}))) + Allocated(cap(l.mail.buf)) +
		Allocated(cap(l.scratch)) + Allocated(cap(l.appender.B))
}

// StreamBytes is the bytes of a stream whose session is bound. Any goroutine.
func StreamBytes() int { return Allocated(int(unsafe.Sizeof(Stream{}))) }
