package reactor

import (
	"crypto/cipher"
	"crypto/tls"
	"errors"
	"net/netip"
	"unsafe"

	"github.com/panjf2000/gnet/v2"
)

// SlotsHeld is how many handshakes hold a slot now.
func (r *Reactor) SlotsHeld() int { return len(r.handshakeSlots.tokens) }

// Shaking is how many handshakes are in flight.
func (r *Reactor) Shaking() int {
	r.handshakeLimit.mu.Lock()
	defer r.handshakeLimit.mu.Unlock()
	return r.handshakeLimit.n
}

// Sizes are the sizes of the types that have a budget.
func Sizes() map[string]uintptr {
	return map[string]uintptr{
		"Conn":     unsafe.Sizeof(Conn{}),
		"tlsConn":  unsafe.Sizeof(tlsConn{}),
		"Timer":    unsafe.Sizeof(Timer{}),
		"gnetConn": unsafe.Sizeof(gnetConn{}),
		"webConn":  unsafe.Sizeof(httpConn{}),
	}
}

// EngineConn is the engine's side of c, for tests of the engine itself. On c's loop.
func (c *Conn) EngineConn() gnet.Conn { return c.sock.(*gnetConn).gc }

// EngineLoop is the engine's side of l.
func (l *Loop) EngineLoop() gnet.EventLoop { return l.engine.(gnet.EventLoop) }

// Held is how much ciphertext and parked input c keeps. On its loop.
func (c *Conn) Held() int { return c.unconsumed() }

// FailWrites makes every write of c's engine fail from now on, as a reset socket's does: OnClose is
// called before the write returns. It returns the count of writes since: after the first there may be
// none, as the descriptor is another's by then. On c's loop.
func (c *Conn) FailWrites() *int {
	f := &failing{c.sock, c, 0}
	c.sock = f
	return &f.n
}

type failing struct {
	backendConn
	c *Conn
	n int
}

// PanicWrites makes every write of c's engine panic from now on. On c's loop.
func (c *Conn) PanicWrites() { c.sock = panicking{c.sock} }

type panicking struct{ backendConn }

func (panicking) Write([]byte) error { panic("in a write") }

var errFailed = errors.New("the write failed")

func (f *failing) Write([]byte) error {
	f.n++
	f.c.onClose(errFailed)
	return errFailed
}

// Detached reports whether c's record layer is a tls13Layer. On c's loop.
func (c *Conn) Detached() bool { return c.Secure() && c.tls.std == nil }

// Warm reports whether c's tls13Layer has its AEADs. On c's loop.
func (c *Conn) Warm() bool { return c.tls.layer.warm != nil }

// Say seals one record of any kind and writes it. On c's loop; c is detached.
func (c *Conn) Say(kind byte, content []byte, padding int) {
	c.tls.write(c, c.tls.layer.appendRecord(nil, kind, content, padding))
}

// Renew writes a KeyUpdate. On c's loop; c is detached.
func (c *Conn) Renew(request byte) { c.tls.write(c, c.tls.layer.appendKeyUpdate(nil, request)) }

// Push seals what was appended, now. On c's loop.
func (c *Conn) Push() { c.flush() }

// ForgetNonces is for tests with very many keys: what TestMain's AEADs have noted is dropped.
func ForgetNonces() { seenNonces.Clear() }

// Detaching is the configuration that serves handshakes for cfg, with the keys of their tickets.
func (r *Reactor) Detaching(cfg *tls.Config) *tls.Config {
	r.captureConfigs.mu.Lock()
	defer r.captureConfigs.mu.Unlock()
	return r.captureConfigs.byConfig[cfg]
}

// Configs is how many configurations of handshakes are kept.
func (r *Reactor) Configs() int { return len(r.captureConfigs.byConfig) }

// Options are the socket options of every connection.
func Options() map[string][3]int {
	m := make(map[string][3]int)
	for _, o := range socketOptions {
		m[o.name] = [3]int{o.level, o.which, o.value}
	}
	return m
}

// ListenFD is the descriptor of the port at addr.
func (r *Reactor) ListenFD(addr string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	fd := -1
	if rc, err := r.acceptors[addr].file.SyscallConn(); err == nil {
		rc.Control(func(s uintptr) { fd = int(s) })
	}
	return fd
}

// Admit gives the reactor a descriptor as one that was accepted for ln.
func (r *Reactor) Admit(ln Listener, fd int, remote netip.AddrPort) {
	room := make(chan struct{}, 1)
	room <- struct{}{}
	r.assign(listenerEndpoint(ln), fd, remote, room)
}

// The sizes that objectsizes.go assumes for objects of other packages, and that of a stdTLS.
const (
	AEADBytes   = aeadBytes
	CryptoBytes = stdTLSBytes
	StdSize     = int(unsafe.Sizeof(stdTLS{}))
)

// AEADs are those of a warm record layer.
func AEADs() any {
	var both [2]cipher.AEAD
	for i := range both {
		both[i], _ = newGCM(make([]byte, 16))
	}
	return both
}

// PairOn is connectPair.
var PairOn = connectPair

// NewSlots makes handshake slots, as if this many connections waited for admission.
func NewSlots(n, queued int) *handshakeSlots {
	s := newHandshakeSlots(n)
	s.waiters.Store(int32(queued))
	return s
}

// Take is acquire.
func (s *handshakeSlots) Take() { s.acquire() }

// Leave is release.
func (s *handshakeSlots) Leave() { s.release() }

// Crowd is the length of the admission queues of all loops.
func (r *Reactor) Crowd() int { return int(r.handshakeSlots.waiters.Load()) }
