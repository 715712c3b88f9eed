// Package sessiontest runs a whole server in memory, for tests of the kernel and of modules. The server
// has a simulated network (package reactortest), a simulated clock and a store in memory, and everything
// runs on the test's goroutine, except the store's commits. So a test gets the same result every time.
//
// [Run] plays conversations: scripts of what clients send, with what they get. [New] starts a server for
// tests in Go; [Server.Login] returns a client. Tests can restart or crash the server, make its store slow
// or failing, and put another kernel in place of the running one.
package sessiontest

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/reactor"
	"canto/reactor/reactortest"
	"canto/session"
	"canto/session/jid"
	"canto/session/sasl"
	"canto/session/server"
	"canto/session/store"
	"canto/xmlstream"
)

// Password is the password of every account that a test makes.
const Password = "r0m30"

// Options change the server that New starts. The zero value is a server with all modules and one host.
type Options struct {
	Seed    uint64             // of the simulated network
	Hosts   []string           // hosts where users log in; nil: localhost
	Shelf   []session.Manifest // the manifests of the modules that there are; nil: mod.All
	Modules []string           // the names of the modules that the hosts run; nil: mod.DefaultNames()
	// Services are the hosts without logins, and ServiceModules the names of the modules that they run; nil:
	// mod.DefaultServiceNames().
	Services       []string
	ServiceModules []string
	Limits         *session.Limits                  // nil: session.DefaultLimits()
	Module         func(module string, v any) error // fills in the options v of a module; nil: their defaults
	Dependencies   []session.Dependency             // further dependencies of modules
	Log            io.Writer                        // where the log goes; nil: nowhere
	FS             vfs.FS                           // the file system of the store; nil: vfs.NewCrashableMem()
	NoPause        bool                             // the engine can't stop reading a socket
	// SwapKernels makes another kernel take over before each step of a conversation, where that is possible:
	// see [Server.SwapKernel].
	SwapKernels bool
	// Slow is called before each read and each commit, and returns its delay in the server's own time. The
	// clock of modules does not count the delay, so the conversation stays the same.
	Slow func() time.Duration
	// Reactor changes the configuration of the reactor.
	Reactor     func(c *reactor.Config)
	AllowPanics bool // a panic in a handler does not fail the test
	// Fault makes operations of the store fail: see [store.Options].
	Fault store.Fault
}

// A Server is a server in memory. Its kernel may be replaced by another one on the same store:
// [Server.Restart], [Server.Crash], [Server.SwapKernel]. Its methods are for the test's goroutine.
type Server struct {
	*server.Server                  // of the running kernel
	TB             testing.TB       // the test
	Net            *reactortest.Net // the simulated network and clock of the running kernel
	// NewProfile loads the modules again, as a reload with other options does: for [session.Host.SwapProfile].
	NewProfile func() (*session.Profile, error)

	opt         Options
	log         *slog.Logger
	clients     map[string]*Client
	logins      int
	settledSeen atomic.Uint64
	slow        *slowStore // nil on a fast store
	// These go on from one kernel to the next, so that a conversation is the same every time.
	counter     counterReader
	streams     int
	asks        int
	resources   int
	resumptions int
	reloads     int
	dials       int
}

// New starts a server with all modules and the host localhost. It ends with the test.
func New(tb testing.TB, opt Options) *Server {
	tb.Helper()
	if opt.FS == nil {
		opt.FS = vfs.NewCrashableMem()
	}
	if opt.Log == nil {
		opt.Log = io.Discard
	}
	if opt.Hosts == nil {
		opt.Hosts = []string{"localhost"}
	}
	watch := &panicWatch{to: opt.Log}
	tb.Cleanup(func() {
		if watch.seen != "" && !opt.AllowPanics {
			tb.Errorf("a handler panicked: %s", watch.seen)
		}
	})
	log := slog.New(slog.NewTextHandler(watch, nil))
	s := &Server{TB: tb, opt: opt, log: log, clients: make(map[string]*Client)}
	s.start(reactortest.Start)
	tb.Cleanup(func() { s.DB.Close() })
	return s
}

// start starts a kernel on the store; the simulated clock begins at at. Its steps: make the network, put the
// slow store in place if the test has one, make the server with predictable ids and keys, apply the
// configuration of the hosts, start the server, and wait until its first commits are durable. The slow
// store keeps the clock skew of the one before a restart. An error fails the test.
func (s *Server) start(at time.Time) {
	s.TB.Helper()
	opt := s.opt
	conf := reactor.Config{Loops: 2, Log: s.log, NoPause: opt.NoPause,
		OnShutdown: func(c *reactor.Conn) { s.C2S.OnShutdown(c) }}
	if opt.Reactor != nil {
		opt.Reactor(&conf)
	}
	s.Net = reactortest.NewAt(at, opt.Seed, conf)
	now := s.Net.Now
	if opt.Slow != nil {
		next := &slowStore{s: s, delay: opt.Slow}
		if s.slow != nil {
			next.skew = s.slow.skew
		}
		s.slow = next
		now = next.now
	}
	key := testKey
	var err error
	s.Server, err = server.New(server.Options{
		Store: store.Options{FS: opt.FS, Dir: "data", MinFree: 1, Ballast: -1, CheckEvery: -1, Now: now,
			Fault: opt.Fault, Rand: sevens{}, Fatal: func(err error) { s.TB.Error(err) }},
		Log:        s.log,
		About:      session.About{Name: "Canto", Version: "test"},
		Manifests:  opt.Shelf,
		Given:      opt.Dependencies,
		Now:        now,
		Random:     &s.counter,
		StreamID:   func() string { s.streams++; return fmt.Sprint("stream-", s.streams) },
		AskID:      func() string { s.asks++; return fmt.Sprint("ask-", s.asks) },
		Resource:   func() string { s.resources++; return fmt.Sprint("resource-", s.resources) },
		Resumption: func() string { s.resumptions++; return fmt.Sprint("session-", s.resumptions) },
		FakeKey:    &key,
		NoThrottle: true,
	})
	if err != nil {
		s.TB.Fatal(err)
	}
	if s.slow != nil {
		s.slow.inner = s.Router.Committer
		s.Router.Committer, s.Router.Workers = s.slow, s.slow
	}
	s.NewProfile = func() (*session.Profile, error) {
		return s.Load("localhost", server.Host{Modules: opt.Modules, Module: opt.Module})
	}
	s.apply()
	if err := s.Start(s.Net.Reactor); err != nil {
		s.TB.Fatal(err)
	}
	// Registered after the kernel's callback, so it runs after that one.
	s.DB.OnCommit(func(store.Ticket, error) { s.settledSeen.Store(uint64(s.DB.Durable())) })
	s.DB.Wait(context.Background(), s.DB.Last())
	s.settledSeen.Store(uint64(s.DB.Durable()))
	if s.slow != nil {
		s.slow.settled = session.Ticket(s.DB.Durable())
	}
}

// apply configures the hosts of the running kernel.
func (s *Server) apply() {
	s.TB.Helper()
	opt := s.opt
	limits := session.DefaultLimits()
	if opt.Limits != nil {
		limits = *opt.Limits
	}
	host := server.Host{Modules: opt.Modules, Module: opt.Module, OptionsKey: fmt.Sprint(s.reloads)}
	service := server.Host{Service: true, Modules: opt.ServiceModules, Module: opt.Module,
		OptionsKey: host.OptionsKey}
	hostConfig := func(name string) (server.Host, error) {
		if slices.Contains(opt.Services, name) {
			return service, nil
		}
		return host, nil
	}
	hosts := slices.Concat(opt.Hosts, opt.Services)
	if err := s.Apply(server.Config{Limits: limits, Hosts: hosts, Host: hostConfig}); err != nil {
		s.TB.Fatal(err)
	}
}

// Reload loads the modules of every host again, as `canto reload` does after a changed option. Each
// account is reloaded before its next stanza.
func (s *Server) Reload() {
	s.TB.Helper()
	s.reloads++
	s.apply()
}

// FS returns the file system of the store; after a crash it has what was synced.
func (s *Server) FS() vfs.FS { return s.opt.FS }

// Restart ends the server as SIGTERM does: it notifies the clients and ends their sessions. Then another
// kernel starts on the same store. The clock goes on.
func (s *Server) Restart() {
	s.TB.Helper()
	s.Settle()
	s.Router.Stop()
	s.Settle()
	s.Net.Shutdown()
	s.Settle()
	for i := 0; s.Net.Connections() > 0 && i < 6; i++ { // at most reactor.Config.ShutdownTimeout
		s.Advance(time.Second)
		s.Settle()
	}
	for _, l := range s.Router.LoopRouters() { // the reactor asks until none is busy
		s.runOn(l, func(l *session.LoopRouter) { s.Router.Busy(l.Loop) })
	}
	s.replaceKernel()
}

// SetFull makes the store find its disk full, and refuse writes; or find space again. The store must be in
// memory.
func (s *Server) SetFull(full bool) {
	s.TB.Helper()
	fs, ok := s.opt.FS.(*vfs.MemFS)
	if !ok {
		s.TB.Fatal("the store is not in memory")
	}
	usage := vfs.DiskUsage{TotalBytes: 1 << 40}
	if !full {
		usage.AvailBytes = usage.TotalBytes
	}
	fs.TestingSetDiskUsage(usage)
	s.DB.CheckDiskSpace()
}

// Crash ends the server as kill -9 and a loss of power do: only what was synced to the disk survives.
// Another kernel starts on that. The clock goes on. The store must be on a crashable file system.
func (s *Server) Crash() {
	s.TB.Helper()
	fs, ok := s.opt.FS.(*vfs.MemFS)
	if !ok {
		s.TB.Fatal("the store is not in memory")
	}
	s.opt.FS = fs.CrashClone(vfs.CrashCloneCfg{})
	s.replaceKernel()
}

// replaceKernel ends the running kernel at once and starts another one.
func (s *Server) replaceKernel() {
	s.TB.Helper()
	s.Net.Halt()
	for _, c := range s.clients {
		c.serverGone = true
	}
	s.DB.Close() // the error is ignored: snapshots of the ended kernel may be open
	s.start(s.Net.Now())
}

// A panicWatch is a log that remembers a line about a panic. The server survives a panic; a test does not.
type panicWatch struct {
	to   io.Writer
	seen string
}

// Write implements [io.Writer].
func (p *panicWatch) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("panic")) {
		p.seen = string(b)
	}
	return p.to.Write(b)
}

// AddAccount creates an account with the password [Password].
func (s *Server) AddAccount(bare string) {
	s.TB.Helper()
	j, err := jid.Parse(bare)
	if err != nil {
		s.TB.Fatal(err)
	}
	if _, err := s.DB.Accounts().Create(context.Background(), j.Domain(), j.Local(),
		testKeys().Encode()); err != nil {
		s.TB.Fatal(err)
	}
	s.Router.Table.NoteCreated(j)
}

// testKey makes the salts of addresses without an account.
var testKey = sasl.SecretString("a key of the test's own")

// testKeys are the keys of Password, derived once.
var testKeys = sync.OnceValue(func() sasl.Keys {
	k, err := sasl.DeriveKeys([]byte(Password), sasl.MinIterations, &counterReader{}, sasl.SHA1, sasl.SHA256,
		sasl.SHA512)
	if err != nil {
		panic(err)
	}
	return k
})

// A counterReader gives the same random bytes every time.
type counterReader struct{ n byte }

// Read implements [io.Reader].
func (c *counterReader) Read(p []byte) (int, error) {
	for i := range p {
		c.n++
		p[i] = c.n
	}
	return len(p), nil
}

// A Client is one connection of a test to the server.
type Client struct {
	Name       string // its name in the conversation
	JID        string // its full JID, once it is bound
	server     *Server
	conn       *reactortest.Client
	serverGone bool // its server is gone
	parser     *xmlstream.Parser
	in         xmlstream.Stream
	ended      bool
	lang       string // the xml:lang of its stream headers
	dialIndex  int    // how many connections the test had opened by then
	addr       netip.Addr
	loop       int
}

// Dial opens a connection on a loop and sends nothing.
func (s *Server) Dial(name string, loop int) *Client {
	return s.DialFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), name, loop)
}

// DialFrom is Dial from the address from.
func (s *Server) DialFrom(from netip.Addr, name string, loop int) *Client {
	s.dials++
	c := &Client{Name: name, server: s, dialIndex: s.dials, addr: from, loop: loop,
		parser: xmlstream.NewParser(nil)}
	c.connect()
	s.clients[name] = c
	return c
}

// connect opens the connection of c.
func (c *Client) connect() {
	c.conn = c.server.Net.ConnectFrom(c.addr, c.loop, reactor.Listener{Handler: c.server.C2S})
}

// Open sends a stream header to host.
func (c *Client) Open(host string) {
	c.in.Reset(0)
	lang := ""
	if c.lang != "" {
		lang = " xml:lang='" + c.lang + "'"
	}
	c.conn.Send([]byte(fmt.Sprintf("<?xml version='1.0'?><stream:stream to='%s' version='1.0'%s "+
		"xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>", host, lang)))
}

// Login opens a stream on the next loop, logs in as the full JID full and binds it. If there is no
// account, Login creates it. The client has sent no presence and no roster request then.
func (s *Server) Login(name, full string) *Client {
	s.TB.Helper()
	return s.LoginLang(name, full, "")
}

// LoginLang is Login with an xml:lang in the stream headers.
func (s *Server) LoginLang(name, full, lang string) *Client {
	s.TB.Helper()
	j, err := jid.Parse(full)
	if err != nil {
		s.TB.Fatal(err)
	}
	snap := s.DB.Snapshot()
	_, err = s.DB.Accounts().Get(snap, j.Domain(), j.Local())
	snap.Close()
	if err != nil {
		s.AddAccount(j.Bare().String())
	}
	s.logins++
	c := s.Dial(name, s.logins)
	c.lang = lang
	c.authenticate(j)
	c.conn.Send([]byte("<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>" +
		escape(j.Resource()) + "</resource></bind></iq>"))
	s.Settle()
	got := c.conn.Received()
	c.JID = j.String()
	want := "<jid>" + escape(j.String()) + "</jid>"
	if !contains(got, want) {
		s.TB.Fatalf("%s can't log in: %s", full, got)
	}
	c.bound()
	return c
}

// bound makes the client parse what comes from now on as a stream whose header it knows.
func (c *Client) bound() {
	c.in.Reset(0)
	c.parser.Feed(&c.in, []byte("<stream:stream xmlns='jabber:client' "+
		"xmlns:stream='http://etherx.jabber.org/streams'>"))
	c.parser.Next(&c.in)
}

// Authenticate opens a connection on a loop and logs in as bare, which has an account. It does not bind a
// resource (RFC 6120 section 6.4.6).
func (s *Server) Authenticate(name, bare string, loop int) *Client {
	s.TB.Helper()
	j, err := jid.Parse(bare)
	if err != nil {
		s.TB.Fatal(err)
	}
	c := s.Dial(name, loop)
	c.authenticate(j)
	s.Settle()
	if got := c.conn.Received(); !contains(got, "<success ") {
		s.TB.Fatalf("%s can't log in: %s", bare, got)
	}
	return c
}

// authenticate sends the login of j, up to the header of the next stream.
func (c *Client) authenticate(j jid.JID) {
	c.Open(j.Domain())
	c.server.Settle()
	plain := base64.StdEncoding.EncodeToString([]byte("\x00" + j.Local() + "\x00" + Password))
	c.Send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" + plain + "</auth>")
	c.server.Settle()
	c.Open(j.Domain())
}

// escape escapes text as the server does.
func escape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&apos;", `"`, "&quot;").Replace(
		text)
}

// Send sends text as it is.
func (c *Client) Send(text string) { c.conn.Send([]byte(text)) }

// Received returns the bytes that have come since the last call.
func (c *Client) Received() string { return string(c.conn.Received()) }

// Ended reports whether the server has ended the connection, or has ended itself.
func (c *Client) Ended() bool { return c.serverGone || c.conn.Ended() }

// Conn returns the simulated connection.
func (c *Client) Conn() *reactortest.Client { return c.conn }

// DropConn loses the connection, without a stream's end.
func (c *Client) DropConn() { c.conn.Close(io.ErrUnexpectedEOF) }

// Client returns the client of that name, or nil.
func (s *Server) Client(name string) *Client { return s.clients[name] }

// Names returns the names of all clients, sorted.
func (s *Server) Names() (names []string) {
	for n := range s.clients {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Advance moves the clock. What becomes due by then happens.
func (s *Server) Advance(d time.Duration) {
	if s.slow == nil {
		s.Net.Advance(d)
		return
	}
	for ; d > 0; d -= reactor.TickLength {
		s.Net.Advance(min(d, reactor.TickLength))
		s.slow.runDue(s.Net.Now())
	}
}

func contains(b []byte, s string) bool { return indexOf(string(b), s) >= 0 }

// Bare returns the bare JID that c has logged in as.
func (c *Client) Bare() jid.JID {
	j, err := jid.Parse(c.JID)
	if err != nil {
		c.server.TB.Fatal(err)
	}
	return j.Bare()
}

// Stream returns the kernel's stream of c's connection, or nil.
func (s *Server) Stream(c *Client) *session.Stream { return s.C2S.Stream(c.conn.Conn()) }

// sevens is where the secrets of the store come from: they are the same in each test, and so are the ids of
// archived messages.
type sevens struct{}

// Read implements io.Reader.
func (sevens) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 7
	}
	return len(b), nil
}
