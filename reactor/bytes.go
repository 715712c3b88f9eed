package reactor

import (
	"reflect"
	"unsafe"
)

// Objects are the objects of the heap that something is made of, each in bytes.
type Objects struct {
	Conn    []int // a connection, ours and the engine's
	Entries []int // of maps, key and value, for each connection: the engine's
	Secured []int // more, where it has TLS
	Std     []int // and more, while crypto/tls holds that
	Warm    []int // and more, while our record layer is warm
	Loop    []int // a loop, beside Meter.ScratchBytes
}

// What others' objects take, which Sizeof can't ask; a test measures both.
const (
	aeadBytes   = 1440 // AES-GCM in both directions
	cryptoBytes = 6300 // crypto/tls, for an idle connection of TLS 1.3
)

// readBuffer is the engine's, for each loop: the most that is read at a time.
const readBuffer = 64 << 10

// Objects are those of r's connections and loops. Any goroutine.
func (r *Reactor) Objects() Objects {
	const word = int(unsafe.Sizeof(uintptr(0)))
	o := Objects{
		Conn:    []int{int(unsafe.Sizeof(Conn{}))},
		Secured: []int{int(unsafe.Sizeof(tlsConn{}))},
		Std:     []int{int(unsafe.Sizeof(std{})), cryptoBytes},
		Warm:    []int{int(unsafe.Sizeof(warm{})), aeadBytes},
		Loop:    []int{int(unsafe.Sizeof(Loop{})), readBuffer},
	}
	if e, ok := r.backend.(*engine); ok {
		// its callback, bound to it
		o.Conn = append(o.Conn, int(unsafe.Sizeof(gnetConn{})), int(reflect.TypeOf(e.conn).Elem().Size()), 2*word)
		// descriptor to connection
		o.Entries = append(o.Entries, 2*word)
	}
	return o
}
