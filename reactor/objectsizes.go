package reactor

import (
	"reflect"
	"unsafe"
)

// ObjectSizes are the sizes in bytes of the heap objects that each thing consists of. Package metrics weighs
// the process's memory with them.
type ObjectSizes struct {
	Conn       []int // of a connection, with the engine's part
	MapEntries []int // of the engine's map entries for a connection, key and value
	TLS        []int // in addition, of a connection with TLS
	StdTLS     []int // in addition, while crypto/tls holds the connection
	WarmTLS    []int // in addition, while the TLS 1.3 record layer is warm
	Loop       []int // of a loop; Meter.ScratchBytes comes on top
}

// The sizes of objects of other packages, which unsafe.Sizeof can't tell. They are measured with Go
// 1.26; a test measures them again.
const (
	aeadBytes   = 1440 // AES-GCM in both directions
	stdTLSBytes = 6300 // crypto/tls, for an idle connection of TLS 1.3
)

// readBuffer is the size of the engine's read buffer, one for each loop: the most that is read at a
// time.
const readBuffer = 64 << 10

// ObjectSizes returns the sizes of the objects of connections and loops. unsafe.Sizeof gives those
// of our own types, and reflection that of gnet's unexported conn, through a sample. Any goroutine.
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
		// Two words are gnet's callback, a method value of its conn.
		o.Conn = append(o.Conn, int(unsafe.Sizeof(gnetConn{})), int(reflect.TypeOf(e.sampleConn).Elem().Size()),
			2*word)
		// A map from descriptor to conn.
		o.MapEntries = append(o.MapEntries, 2*word)
	}
	return o
}
