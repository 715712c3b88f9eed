package reactor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"reflect"
	"runtime/pprof"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"github.com/panjf2000/gnet/v2"
	"github.com/panjf2000/gnet/v2/pkg/logging"
	"golang.org/x/sys/unix"
)

// engine is the backend of real sockets: gnet v2.9.7 as a gnet.Client, which runs event loops without
// listeners. gnet's own accept path shuts all loops down on EMFILE, so acceptor accepts, and Register adds
// each socket to a loop. engine is also gnet's event handler: its methods OnOpen, OnTraffic, OnClose and
// OnShutdown are called by gnet, on a loop.
//
// This file depends on unexported parts of gnet, of exactly the version in go.mod: the fields
// eventloop.poller and Poller.fd (epollFDOf), the functions newStreamConn and register0, and the fact that
// gnet.Conn holds a *conn and gnet.EventLoop a *eventloop (Register). A new version of gnet has to be
// compared with this file first. This dependence is worth it: an accepted connection costs 3 system calls
// this way and 20 through gnet's public Enroll.
type engine struct {
	gnet.BuiltinEventEngine
	r   *Reactor
	cli *gnet.Client
	// mu guards stopping and cause. The other fields are set by Start and do not change after it.
	mu       sync.Mutex
	stopping bool          // Stop was called: the end of a loop is no error
	done     chan struct{} // closed when the first loop has ended: the others may still run
	cause    error         // why that loop ended without Stop
	// sampleConn is a connection of start's step 1, which is not used as a connection any more. Register
	// takes the type word of its interface value, as the type itself is unexported.
	sampleConn gnet.Conn
	// selfPipePeers are the process's ends of the loops' self-pipes, by Loop.Index.
	selfPipePeers []net.Conn
}

// A selfPipe is a TCP connection from the process to one of its own loops, and the gnet context of the
// loop's side. Each loop has one for its whole life. WakeupAfterPoll sends a byte to it: when the loop
// reads the byte, it has polled since. If the socket is closed without Stop, the loop has terminated: gnet
// reports the end of a single loop in no other way.
type selfPipe struct {
	conn       chan gnet.Conn // cap 1: the loop's side, once it is open
	readSignal chan struct{}  // cap 1: signalled with each read
	loop       *Loop          // the loop that it wakes; nil for the second pipe of addSelfPipe
}

// newEngine returns an engine that is not started.
func newEngine() *engine {
	return &engine{done: make(chan struct{})}
}

// Start starts gnet, binds each of loops to one loop of gnet, and gives each its self-pipe. pauses
// is false, and no loop pauses, if Config.NoPause is set, if the epoll descriptor was not found, or if a
// pause did not work on some loop. After an error the loops of gnet still run. Called once, by New.
func (e *engine) Start(r *Reactor, loops []*Loop) (pauses bool, err error) {
	if err := e.start(r, loops); err != nil {
		return false, err
	}
	pauses = true
	for _, l := range loops {
		el := l.engine.(gnet.EventLoop)
		if l.epollFD = epollFDOf(el); r.cfg.NoPause {
			l.epollFD = 0
		}
		ok, err := e.addSelfPipe(l, el)
		if err != nil {
			return false, err
		}
		pauses = pauses && ok
	}
	if !pauses {
		for _, l := range loops {
			l.epollFD = 0
		}
	}
	return pauses, nil
}

// addSelfPipe makes l's self-pipe, and tests with it whether pausing works. The steps:
//
//  1. It connects two pairs of sockets and adds one end of each to l: the self-pipe, and a second
//     pipe that is closed at the end.
//  2. It turns reading of the self-pipe off and writes a byte to it.
//  3. It writes a byte to the second pipe and waits until it was read, twice. The loop may have called
//     epoll_wait before step 2, and read the first byte after that call. It reads the second byte after a
//     call that began later, and that would have reported the byte of step 2.
//  4. The byte of step 2 must not have been read so far. Once reading is on again it must be read.
//
// It runs at start only, on the goroutine of New; SetRead runs on the loop, as a task of gnet. The test
// fails, without an error, if a byte is not read within 10 seconds. Enroll closes the net.Conn that it is
// given, and keeps a duplicate.
func (e *engine) addSelfPipe(l *Loop, el gnet.EventLoop) (pauses bool, err error) {
	enroll := func(stays *Loop) (*selfPipe, net.Conn, error) {
		a, b, err := loopbackPair()
		if err != nil {
			return nil, nil, err
		}
		p := &selfPipe{make(chan gnet.Conn, 1), make(chan struct{}, 1), stays}
		res, err := el.Enroll(gnet.NewContext(context.Background(), p), a)
		if err != nil {
			return nil, b, err
		}
		return p, b, (<-res).Err
	}
	p, peer, err := enroll(l)
	if peer != nil {
		e.selfPipePeers = append(e.selfPipePeers, peer)
	}
	if err != nil || l.epollFD == 0 {
		return false, err
	}
	other, otherPeer, err := enroll(nil)
	if otherPeer != nil {
		defer otherPeer.Close()
	}
	if err != nil {
		return false, err
	}
	gc := &gnetConn{gc: <-p.conn, loop: l}
	set := func(on bool) error {
		done := make(chan struct{})
		if err := el.Execute(context.Background(), gnet.RunnableFunc(func(context.Context) error {
			gc.SetRead(on)
			close(done)
			return nil
		})); err != nil {
			return err
		}
		<-done
		return nil
	}
	wasRead := func(p *selfPipe) bool {
		select {
		case <-p.readSignal:
			return true
		case <-time.After(10 * time.Second): // far more than a loaded machine needs
			return false
		}
	}
	if err := set(false); err != nil {
		return false, err
	}
	peer.Write([]byte("x"))
	// Step 3.
	for range 2 {
		otherPeer.Write([]byte("x"))
		if !wasRead(other) {
			return false, nil
		}
	}
	early := len(p.readSignal) > 0
	if err := set(true); err != nil {
		return false, err
	}
	return !early && wasRead(p), nil
}

// start runs gnet with as many loops as there are Loops, and pairs them. gnet's client exposes its
// loops only through connections, so the steps are:
//
//  1. Connections from the process to itself are added one after another. gnet gives each to the loop
//     with the fewest connections (a Client always does), so after as many as there are loops all have
//     been seen; up to four times as many are tried.
//  2. Those connections are closed at the process's side; gnet closes its side when it reads the FIN.
//  3. Each gnet loop is bound to a Loop: its goroutine gets the pprof label "loop", and the goroutine's
//     id is noted for AssertOwned.
//
// gnet's write buffer is 64 KiB, as writeChunk (conn.go) is; its read buffer, readBuffer
// (objectsizes.go), is shared by the connections of a loop.
func (e *engine) start(r *Reactor, loops []*Loop) error {
	e.r = r
	cli, err := gnet.NewClient(e, gnet.WithNumEventLoop(len(loops)), gnet.WithLogger(gnetLog{r}),
		gnet.WithLogLevel(logging.ErrorLevel), gnet.WithTCPNoDelay(gnet.TCPNoDelay),
		gnet.WithReadBufferCap(readBuffer),
		gnet.WithWriteBufferCap(64<<10))
	if err != nil {
		return err
	}
	if err := cli.Start(); err != nil {
		return err
	}
	e.cli = cli
	found := make(chan gnet.Conn)
	var peers []net.Conn
	defer func() {
		for _, p := range peers {
			p.Close()
		}
	}()
	// Step 1.
	seen := make(map[gnet.EventLoop]bool)
	for range 4 * len(loops) {
		a, b, err := loopbackPair()
		if err != nil {
			return err
		}
		peers = append(peers, b)
		if _, err := cli.EnrollContext(a, discoveryContext{func(gc gnet.Conn) {
			go func() { found <- gc }()
		}}); err != nil {
			return err
		}
		e.sampleConn = <-found
		if seen[e.sampleConn.EventLoop()] = true; len(seen) == len(loops) {
			break
		}
	}
	// Steps 2 and 3.
	i := 0
	bound := make(chan struct{})
	for _, p := range peers {
		p.Close()
	}
	peers = nil
	for el := range seen {
		if i == len(loops) {
			break
		}
		l := loops[i]
		i++
		l.engine = el
		err := el.Execute(context.Background(), gnet.RunnableFunc(func(context.Context) error {
			pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(),
				pprof.Labels("loop", strconv.Itoa(l.index))))
			l.bindGoroutine()
			bound <- struct{}{}
			return nil
		}))
		if err != nil {
			return err
		}
		<-bound
	}
	if i < len(loops) {
		return fmt.Errorf("reactor: the engine has %d of %d loops", i, len(loops))
	}
	return nil
}

// discoveryContext is the context of a connection of start's step 1. found must not block the loop.
type discoveryContext struct{ found func(gnet.Conn) }

// loopbackPair returns the two ends of a new TCP connection over the loopback interface. gnet's
// Enroll wants a TCP connection or Unix socket of package net.
func loopbackPair() (a, b net.Conn, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	return connectPair(ln)
}

// connectPair connects to ln and accepts that connection. Another process may also connect to the port;
// its connections are closed.
func connectPair(ln net.Listener) (a, b net.Conn, err error) {
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		return nil, nil, err
	}
	for {
		if b, err = ln.Accept(); err != nil {
			a.Close()
			return nil, nil, err
		}
		if b.RemoteAddr().String() == a.LocalAddr().String() {
			return a, b, nil
		}
		b.Close()
	}
}

// epollFDOf returns the epoll descriptor of a gnet loop, which SetRead needs and gnet does not give out.
// It reads el.poller.fd by reflection, as gnet v2.9.7 names these fields. With other names or types the
// result is 0, which is never an epoll descriptor here (0 is the standard input), and the loop works
// without pauses; addSelfPipe tries a pause before anything relies on it. gnet's build tag poll_opt must
// not be used: it keeps a pointer in the epoll event, where updateInterest writes the descriptor.
func epollFDOf(el gnet.EventLoop) (fd int) {
	defer func() {
		if recover() != nil {
			fd = 0
		}
	}()
	return int(reflect.ValueOf(el).Elem().FieldByName("poller").Elem().FieldByName("fd").Int())
}

// Register makes a gnet connection for fd and adds it to the loop of c, as a task on that loop. It
// does what gnet's Enroll does after its preparations. Enroll wants a net.Conn, which means
// that the socket was added to Go's own poller; it duplicates the descriptor, allocates addresses, and
// starts a goroutine: 20 system calls and 20 µs for each accepted connection, instead of 3 calls.
//
// The task builds a gnet.Conn: it copies the interface value sampleConn, as its type word is right,
// and sets its data word to what newStreamConn returned. register0 adds the descriptor to epoll and
// calls engine.OnOpen. If it can't add it, it closes fd and returns the error. It may also return an
// error after OnOpen, if the socket was closed during OnOpen. flagOpened, which is never cleared, tells
// the two apart: the connection was open then, and onClose has reported its end.
//
// done is called on the loop, or on the caller's goroutine if the loops have ended. Any goroutine.
func (e *engine) Register(c *Conn, fd int, remote netip.AddrPort, done func(error)) {
	el := c.loop.engine.(gnet.EventLoop)
	err := el.Execute(context.Background(), gnet.RunnableFunc(func(context.Context) error {
		gc := e.sampleConn
		loop := ifaceWords(&el)[1]
		ifaceWords(&gc)[1] = newStreamConn("tcp", fd, loop, nil, nil, nil)
		gc.SetContext(pendingConn{c, remote})
		err := register0(loop, ifaceWords(&gc)[1])
		if c.flags&flagOpened != 0 {
			err = nil // see above: the error of a connection that was open
		}
		done(err)
		return nil
	}))
	if err != nil {
		unix.Close(fd)
		done(err)
	}
}

// newStreamConn is gnet's unexported constructor of a TCP connection. The linker resolves it: gnet
// does not mark it for linkname, but Go's linker asks for such a mark only in the standard library. In
// v2.9.7 its parameters are the protocol, the descriptor, the *eventloop, the peer's unix.Sockaddr
// and two net.Addr; the last three are for gnet's own accessors only and may be nil. The result is
// a *conn. If a new gnet renames the function, the program does not link. If it changes the
// parameters or the result, memory is corrupted without a message: that is why go.mod fixes the
// version.
//
//go:linkname newStreamConn github.com/panjf2000/gnet/v2.newStreamConn
func newStreamConn(proto string, fd int, loop unsafe.Pointer, sa unix.Sockaddr, local,
	remote net.Addr) unsafe.Pointer

// register0 is gnet's unexported method that adds a connection to its loop's epoll set, read events
// only, and calls the event handler's OnOpen. It must run on the loop. In v2.9.7 it takes the
// *eventloop (the receiver) and the *conn, and returns an error. The same
// caveats apply as for newStreamConn.
//
//go:linkname register0 github.com/panjf2000/gnet/v2.(*eventloop).register0
func register0(loop, conn unsafe.Pointer) error

// ifaceWords returns the two words of an interface value: the type word, and the pointer to the
// value. The gc compiler (Go 1.26) lays out an interface with methods that holds a pointer this way.
// With another layout Register would give gnet a wrong pointer, and the first accepted connection
// would crash the process.
func ifaceWords[I any](i *I) *[2]unsafe.Pointer { return (*[2]unsafe.Pointer)(unsafe.Pointer(i)) }

// pendingConn is the context of a gnet connection until OnOpen, which replaces it by conn.
type pendingConn struct {
	conn   *Conn
	remote netip.AddrPort
}

// Wakeup implements backend: it adds a task that runs l.turn (Loop.Run) to the queue of l's poller. gnet
// writes to an eventfd if the loop may be asleep.
func (e *engine) Wakeup(l *Loop) error {
	return l.engine.(gnet.EventLoop).Execute(context.Background(), l)
}

// WakeupAfterPoll implements backend: it writes a byte to the loop's self-pipe, unless one is there
// that was not read yet. So the write does not block. On l only.
func (e *engine) WakeupAfterPoll(l *Loop) error {
	if l.pollWakeupPending {
		return nil
	}
	if _, err := e.selfPipePeers[l.index].Write([]byte{0}); err != nil {
		return err
	}
	l.pollWakeupPending = true
	return nil
}

// AfterFunc implements backend with a timer of Go's runtime, which runs f on a goroutine of its own. It
// returns true: this engine has timers.
func (e *engine) AfterFunc(d time.Duration, f func()) bool {
	time.AfterFunc(d, f)
	return true
}

// Stop implements backend: it ends gnet's loops, and closes the process's ends of the self-pipes. Reactor.Run
// calls it once, at its end.
func (e *engine) Stop() {
	e.mu.Lock()
	e.stopping = true
	e.mu.Unlock()
	e.cli.Stop()
	for _, p := range e.selfPipePeers {
		p.Close()
	}
}

// OnOpen implements gnet.EventHandler. gnet calls it on a loop once a connection is in the poller.
func (e *engine) OnOpen(gc gnet.Conn) ([]byte, gnet.Action) {
	switch c := gc.Context().(type) {
	case pendingConn:
		gc.SetContext(c.conn)
		g := &gnetConn{gc: gc, loop: c.conn.loop}
		if c.remote.IsValid() {
			g.addr, g.port = c.remote.Addr().As16(), c.remote.Port()
		}
		c.conn.onOpen(g)
	case discoveryContext:
		c.found(gc)
	case *selfPipe:
		c.conn <- gc
	}
	return nil, gnet.None
}

// OnTraffic implements gnet.EventHandler. gnet calls it on a loop after each read, with readBuffer
// bytes at most. The bytes stay in gnet's buffer until it returns; Next(-1) consumes all of them,
// so that gnet keeps no copy. Input of a self-pipe means that the loop has polled since
// WakeupAfterPoll, so the turn runs, with Loop.sincePoll at 0 and Loop.pollCompleted set. Loop.afterRead may
// also run a turn, after many reads.
func (e *engine) OnTraffic(gc gnet.Conn) gnet.Action {
	p, _ := gc.Next(-1)
	switch c := gc.Context().(type) {
	case *Conn:
		c.onTraffic(p)
		c.loop.afterRead()
	case *selfPipe:
		signal(c.readSignal)
		if c.loop != nil && c.loop.pollWakeupPending {
			c.loop.pollWakeupPending = false
			c.loop.sincePoll, c.loop.pollCompleted = 0, true
			c.loop.turn()
		}
	}
	return gnet.None
}

// OnClose implements gnet.EventHandler. gnet calls it on a loop when a socket was closed by the
// peer, failed, or is about to be closed by us; perhaps inside a Write of ours. The descriptor is
// still open during the call. io.EOF stands for a FIN, and also for a reset while reading is off.
// It is passed on as nil; so is the nil of a close by Conn itself, which has noted that it is closing.
// c.sock is nil if the socket fails before onOpen.
func (e *engine) OnClose(gc gnet.Conn, err error) gnet.Action {
	switch c := gc.Context().(type) {
	case *Conn:
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if g, ok := c.sock.(*gnetConn); ok {
			g.closed = true
		}
		c.onClose(err)
	case *selfPipe:
		if c.loop != nil {
			e.finish(errors.New("reactor: an event loop ended by itself"))
		}
	}
	return gnet.None
}

// OnShutdown implements gnet.EventHandler: gnet shuts its loops down. Without Stop that is an error.
func (e *engine) OnShutdown(gnet.Engine) { e.finish(errEngineEnded) }

// finish notes that a loop has ended, which ends the engine, and the first cause unless Stop was called. Any
// goroutine.
func (e *engine) finish(cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.stopping && e.cause == nil {
		e.cause = cause
	}
	select {
	case <-e.done:
	default:
		close(e.done)
	}
}

// Wait implements backend. It may return while other loops still run; the reactor then stops them.
func (e *engine) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-e.done:
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.cause
	}
}

// gnetConn is the backendConn of a socket. gnet buffers the output that the socket does not take, and
// writes it when epoll reports that the socket is writable. Only on the loop. After gnet has closed the
// connection its methods do nothing: those that use the descriptor check closed, gnet's OutboundBuffered
// returns 0, and gnet ignores a second Close.
type gnetConn struct {
	gc      gnet.Conn
	loop    *Loop
	addr    [16]byte // the peer's address, IPv4 mapped to IPv6, without a zone; gnet forgets it on close
	port    uint16
	readOff bool // SetRead(false): epoll reports neither readable nor writable
	closed  bool // gnet has closed the descriptor: its number may belong to another connection
}

// Write implements backendConn. It first tries a send of its own (sendNonblock). gnet gets the
// rest: it tries a write, closes the connection if that fails, or else buffers the rest and asks epoll for
// readable and writable. If reading is off, the events are set to none again. gnet may call OnClose before
// this returns.
func (g *gnetConn) Write(p []byte) error {
	if !g.closed && g.gc.OutboundBuffered() == 0 {
		if p = p[sendNonblock(g.gc.Fd(), p):]; len(p) == 0 {
			return nil
		}
	}
	_, err := g.gc.Write(p)
	if g.readOff && !g.closed && g.gc.OutboundBuffered() > 0 {
		g.updateInterest()
	}
	return err
}

// sendNonblock sends as much of p as the socket takes, and returns that number; on an error it returns 0,
// and the caller's next write finds the error. It makes a raw system call without telling Go's scheduler.
// During a call through package unix the scheduler may give the loop's processor (P) to another
// goroutine. The loop would then have to wait for a P, among the goroutines of TLS handshakes and the
// garbage collector. A raw call is right only because MSG_DONTWAIT never waits; a call that blocked would
// stop every goroutine of this P. p is alive during the call: the conversion unsafe.Pointer to uintptr
// stands in the call's argument list, as rule 4 of package unsafe asks.
func sendNonblock(fd int, p []byte) int {
	if len(p) == 0 {
		return 0
	}
	n, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	if e != 0 {
		return 0
	}
	return int(n)
}

// Flush implements backendConn. It does something only while reading is off: Conn.flush calls it for
// paused connections, in retries (Loop.flushPaused). Otherwise epoll reports writable, and gnet writes by
// itself.
func (g *gnetConn) Flush() {
	if g.readOff && !g.closed && g.loop.epollFD != 0 {
		if g.gc.Flush(); !g.closed {
			g.updateInterest() // gnet adds the connection to the read set when its buffer is empty
		}
	}
}

// Buffered implements backendConn.
func (g *gnetConn) Buffered() int { return g.gc.OutboundBuffered() }

// SetRead implements backendConn. It changes what epoll reports for the descriptor, without gnet's
// knowledge; epoll always reports errors and hang-ups. While reading is off, writable is not
// reported either: gnet would write its buffer, and turn reading on when that is empty. EPOLLRDHUP is
// never requested: gnet would answer it by reading to the end of the input, in spite of the pause.
// Without an epoll descriptor SetRead does nothing.
func (g *gnetConn) SetRead(on bool) {
	if g.loop.epollFD != 0 && !g.closed {
		g.readOff = !on
		g.updateInterest()
	}
}

// Reading implements backendConn.
func (g *gnetConn) Reading() bool { return !g.readOff }

// updateInterest sets the epoll events of the descriptor from readOff and gnet's buffer. The events
// are those that gnet v2.9.7 uses (netpoll.ReadEvents, ReadWriteEvents).
func (g *gnetConn) updateInterest() {
	var ev uint32
	if !g.readOff {
		ev = unix.EPOLLIN | unix.EPOLLPRI
		if g.gc.OutboundBuffered() > 0 {
			ev |= unix.EPOLLOUT
		}
	}
	unix.EpollCtl(g.loop.epollFD, unix.EPOLL_CTL_MOD, g.gc.Fd(), &unix.EpollEvent{Fd: int32(g.gc.Fd()),
		Events: ev})
}

// CloseWrite implements backendConn. While gnet has unsent bytes it does nothing; Conn's timer of lingerTicks
// then closes the connection.
func (g *gnetConn) CloseWrite() {
	if !g.closed && g.gc.OutboundBuffered() == 0 {
		unix.Shutdown(g.gc.Fd(), unix.SHUT_WR)
	}
}

// resetOnClose makes Close send RST, and drop what was not sent.
func (g *gnetConn) resetOnClose() {
	if !g.closed {
		unix.SetsockoptLinger(g.gc.Fd(), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
}

// Close implements backendConn. gnet calls OnClose, then tries once to write its buffer, and closes the
// descriptor.
func (g *gnetConn) Close() { g.gc.EventLoop().Close(g.gc) }

// Remote implements backendConn.
func (g *gnetConn) Remote() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(g.addr).Unmap(), g.port)
}

// gnetLog is gnet's logger. It writes gnet's messages to the reactor's log: warnings and errors of single
// connections at level debug, as they are routine, and fatal ones at level error. The text is under the
// key "err".
type gnetLog struct{ r *Reactor }

// Debugf implements gnet's logging.Logger; it drops the message.
func (g gnetLog) Debugf(string, ...any) {}

// Infof implements gnet's logging.Logger; it drops the message.
func (g gnetLog) Infof(string, ...any) {}

// Warnf implements gnet's logging.Logger.
func (g gnetLog) Warnf(format string, a ...any) {
	g.r.log.Debug("the event engine reports", "err", fmt.Sprintf(format, a...))
}

// Errorf implements gnet's logging.Logger. gnet reports failed reads and writes through it.
func (g gnetLog) Errorf(format string, a ...any) {
	g.r.log.Debug("the event engine reports", "err", fmt.Sprintf(format, a...))
}

// Fatalf implements gnet's logging.Logger. It does not end the process.
func (g gnetLog) Fatalf(format string, a ...any) {
	g.r.log.Error("the event engine reports", "err", fmt.Sprintf(format, a...))
}
