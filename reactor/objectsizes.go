package reactor

import (
	"reflect"
	"unsafe"
)

// ObjectSizes are the objects of the heap that something is made of, each in bytes.
type ObjectSizes struct {
	Conn       []int // a connection, ours and the engine's
	MapEntries []int // of maps, key and value, for each connection: the engine's
	TLS        []int // more, where it has TLS
	StdTLS     []int // and more, while crypto/tls holds that
	WarmTLS    []int // and more, while our record layer is warm
	Loop       []int // a loop, beside Meter.ScratchBytes
}

// What others' objects take, which Sizeof can't ask; a test measures both.
const (
	aeadBytes   = 1440 // AES-GCM in both directions
	stdTLSBytes = 6300 // crypto/tls, for an idle connection of TLS 1.3
)

// readBuffer is the engine's, for each loop: the most that is read at a time.
const readBuffer = 64 << 10

// ObjectSizes are those of r's connections and loops. Any goroutine.
func (r *Reactor) ObjectSizes() ObjectSizes {
	const word = int(unsafe.Sizeof(uintptr(0)))
	o := ObjectSizes{
		Conn:    []int{int(unsafe.Sizeof(Conn{}))},
		TLS:     []int{int(unsafe.Sizeof(tlsConn{}))},
		StdTLS:  []int{int(unsafe.Sizeof(stdTLS{})), stdTLSBytes},
		WarmTLS: []int{int(unsafe.Sizeof(warmState{})), aeadBytes},
		Loop:    []int{int(unsafe.Sizeof(Loop{})), readBuffer},
	}
	if e, ok := r.backend.(*engine); ok {
		// its callback, bound to it
		o.Conn = append(o.Conn, int(unsafe.Sizeof(gnetConn{})), int(reflect.TypeOf(e.sampleConn).Elem().Size()),
			2*word)
		// descriptor to connection
		o.MapEntries = append(o.MapEntries, 2*word)
	}
	return o
}
