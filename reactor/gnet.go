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

// engine is gnet without listeners: its own accept path ends the whole engine on EMFILE, so we accept
// ourselves and enrol.
type engine struct {
	gnet.BuiltinEventEngine
	r             *Reactor
	cli           *gnet.Client
	mu            sync.Mutex
	loops         map[gnet.EventLoop]*Loop
	stopping      bool
	done          chan struct{}
	cause         error
	sampleConn    gnet.Conn  // one of gnet's, for its type
	selfPipePeers []net.Conn // the other ends of the connections that watch over the loops
}

// A probe is the context of a connection of the engine's own. One on each loop stays: its end is how we
// hear that a loop has ended, which gnet tells nobody, and what is sent to it comes behind what sockets
// had.
type selfPipe struct {
	conn       chan gnet.Conn // cap 1
	readSignal chan struct{}  // cap 1: signalled with each read
	loop       *Loop          // where it stays
}

func newEngine() *engine {
	return &engine{loops: make(map[gnet.EventLoop]*Loop), done: make(chan struct{})}
}

// Start runs gnet and finds its loops: gnet hands them out only with connections, so one socket pair
// is enrolled for each.
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

// addSelfPipe leaves a probe on l, and tries with it whether reading can be paused: what is sent to it
// meanwhile must be read after, and not before, what is sent to a second one later.
func (e *engine) addSelfPipe(l *Loop, el gnet.EventLoop) (pauses bool, err error) {
	enrol := func(stays *Loop) (*selfPipe, net.Conn, error) {
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
	p, peer, err := enrol(l)
	if peer != nil {
		e.selfPipePeers = append(e.selfPipePeers, peer)
	}
	if err != nil || l.epollFD == 0 {
		return false, err
	}
	other, end, err := enrol(nil)
	if end != nil {
		defer end.Close()
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
	came := func(p *selfPipe) bool {
		select {
		case <-p.readSignal:
			return true
		case <-time.After(10 * time.Second): // a machine that is full may need some of it
			return false
		}
	}
	if err := set(false); err != nil {
		return false, err
	}
	peer.Write([]byte("x"))
	for range 2 { // two batches of events: the first may not have seen it yet
		end.Write([]byte("x"))
		if !came(other) {
			return false, nil
		}
	}
	early := len(p.readSignal) > 0
	if err := set(true); err != nil {
		return false, err
	}
	return !early && came(p), nil
}

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
	var probes []net.Conn
	defer func() {
		for _, p := range probes {
			p.Close()
		}
	}()
	// The balancer gives each new connection to the loop with the fewest: as many probes as loops
	// that stay open reach every loop.
	seen := make(map[gnet.EventLoop]bool)
	for range 4 * len(loops) {
		a, b, err := loopbackPair()
		if err != nil {
			return err
		}
		probes = append(probes, b)
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
	// A second pass binds them, now that all are known.
	i := 0
	probed := make(chan struct{})
	for _, p := range probes {
		p.Close()
	}
	probes = nil
	for el := range seen {
		if i == len(loops) {
			break
		}
		l := loops[i]
		i++
		e.mu.Lock()
		e.loops[el] = l
		e.mu.Unlock()
		l.engine = el
		err := el.Execute(context.Background(), gnet.RunnableFunc(func(context.Context) error {
			pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(),
				pprof.Labels("loop", strconv.Itoa(l.index))))
			l.bindGoroutine()
			probed <- struct{}{}
			return nil
		}))
		if err != nil {
			return err
		}
		<-probed
	}
	if i < len(loops) {
		return fmt.Errorf("reactor: the engine has %d of %d loops", i, len(loops))
	}
	return nil
}

// discoveryContext is the context of a probe.
type discoveryContext struct{ found func(gnet.Conn) }

func loopbackPair() (a, b net.Conn, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	return connectPair(ln)
}

// connectPair connects to ln. Somebody who wants to reach who had this port before is not taken for the
// other end.
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

// epollFDOf reads the descriptor of a loop's poller, which gnet does not give out; 0 where its fields
// are others than we know. [Reactor] tries pausing once before it relies on it.
func epollFDOf(el gnet.EventLoop) (fd int) {
	defer func() {
		if recover() != nil {
			fd = 0
		}
	}()
	return int(reflect.ValueOf(el).Elem().FieldByName("poller").Elem().FieldByName("fd").Int())
}

// Register does what gnet's Enroll does, without the net.Conn that that one wants: a net.Conn has been with
// another poller, is given a second descriptor and six objects of addresses, and is registered by a
// goroutine of its own; with all of it an accept is 20 system calls, and without it 3. gnet gives these
// two functions to nobody, so the linker does. What they take is known of the version that go.mod names.
func (e *engine) Register(c *Conn, fd int, remote netip.AddrPort, done func(error)) {
	el := c.loop.engine.(gnet.EventLoop)
	err := el.Execute(context.Background(), gnet.RunnableFunc(func(context.Context) error {
		gc := e.sampleConn
		loop := ifaceWords(&el)[1]
		ifaceWords(&gc)[1] = newStreamConn("tcp", fd, loop, nil, nil, nil)
		gc.SetContext(pendingConn{c, remote})
		err := register0(loop, ifaceWords(&gc)[1])
		if c.flags&flagOpen != 0 {
			err = nil // it has been there
		}
		done(err)
		return nil
	}))
	if err != nil {
		unix.Close(fd)
		done(err)
	}
}

//go:linkname newStreamConn github.com/panjf2000/gnet/v2.newStreamConn
func newStreamConn(proto string, fd int, loop unsafe.Pointer, sa unix.Sockaddr, local,
	remote net.Addr) unsafe.Pointer

//go:linkname register0 github.com/panjf2000/gnet/v2.(*eventloop).register0
func register0(loop, conn unsafe.Pointer) error

// ifaceWords are the two of an interface value: what type it is, and where.
func ifaceWords[I any](i *I) *[2]unsafe.Pointer { return (*[2]unsafe.Pointer)(unsafe.Pointer(i)) }

// pendingConn is the context of a connection that OnOpen has not seen yet.
type pendingConn struct {
	conn   *Conn
	remote netip.AddrPort
}

func (e *engine) Wakeup(l *Loop) error {
	return l.engine.(gnet.EventLoop).Execute(context.Background(), l)
}

// WakeupAfterPoll sends a byte to the loop's probe.
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

func (e *engine) AfterFunc(d time.Duration, f func()) bool {
	time.AfterFunc(d, f)
	return true
}

func (e *engine) Stop() {
	e.mu.Lock()
	e.stopping = true
	e.mu.Unlock()
	e.cli.Stop()
	for _, p := range e.selfPipePeers {
		p.Close()
	}
}

// OnOpen is gnet's.
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

// OnTraffic is gnet's.
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

// OnClose is gnet's, perhaps inside a Write of ours.
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

// OnShutdown is gnet's: nobody but Stop may end the engine.
func (e *engine) OnShutdown(gnet.Engine) { e.finish(errEngineEnded) }

// finish is told that the engine ends, with the cause if nobody asked for it.
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

// gnetConn is one connection of gnet's.
type gnetConn struct {
	gc      gnet.Conn
	loop    *Loop
	addr    [16]byte // the peer's, IPv4 as IPv6, and without a zone; gnet forgets it on close
	port    uint16
	readOff bool // not in the read set
	closed  bool // its descriptor may be another's
}

// Write may call OnClose before it returns. Where the socket had no room for all, gnet has put the
// connection back in the read set.
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

// sendNonblock writes what the socket takes of p; why it takes no more is for the engine to find out. The
// call does not block, and Go's scheduler is not told of it: where it is, a loop may lose its processor
// with each write, to handshakes or to the collector, and comes back behind them.
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

func (g *gnetConn) Flush() {
	if g.readOff && !g.closed && g.loop.epollFD != 0 {
		if g.gc.Flush(); !g.closed {
			g.updateInterest() // what has drained is back in the read set
		}
	}
}

func (g *gnetConn) Buffered() int { return g.gc.OutboundBuffered() }

// SetRead sets what epoll reports for the connection; hang-ups are reported always. While it is off
// gnet is told of no room to write either: what it keeps would drain, and gnet read again. EPOLLRDHUP is
// not asked for, as gnet doesn't by itself: it would read to the end at once, pause or no pause.
func (g *gnetConn) SetRead(on bool) {
	if g.loop.epollFD != 0 && !g.closed {
		g.readOff = !on
		g.updateInterest()
	}
}

func (g *gnetConn) Reading() bool { return !g.readOff }

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

func (g *gnetConn) CloseWrite() {
	if !g.closed && g.gc.OutboundBuffered() == 0 {
		unix.Shutdown(g.gc.Fd(), unix.SHUT_WR)
	}
}

func (g *gnetConn) Close() { g.gc.EventLoop().Close(g.gc) }

func (g *gnetConn) Remote() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(g.addr).Unmap(), g.port)
}

// gnetLog sends gnet's own words to our log.
type gnetLog struct{ r *Reactor }

func (g gnetLog) Debugf(string, ...any) {}
func (g gnetLog) Infof(string, ...any)  {}
func (g gnetLog) Warnf(format string, a ...any) {
	g.r.log.Debug("the event engine reports", "err", fmt.Sprintf(format, a...))
}
func (g gnetLog) Errorf(format string, a ...any) {
	g.r.log.Debug("the event engine reports", "err", fmt.Sprintf(format, a...))
}
func (g gnetLog) Fatalf(format string, a ...any) {
	g.r.log.Error("the event engine reports", "err", fmt.Sprintf(format, a...))
}
