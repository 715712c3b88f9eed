// Package sessiontest runs a whole server in memory and holds conversations with it: scripts of what
// clients send and what everybody gets, rewritten with -rewrite and read as diffs.
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

// Password is that of every account that a test makes.
const Password = "r0m30"

// Options change what New makes.
type Options struct {
	Seed    uint64
	Hosts   []string // localhost
	Shelf   []session.Manifest
	Modules []string
	// Services are hosts without logins, and ServiceModules what they run: mod.DefaultServiceNames().
	Services       []string
	ServiceModules []string
	Limits         *session.Limits
	Module         func(module string, v any) error
	Dependencies   []session.Dependency
	Log            io.Writer
	FS             vfs.FS // vfs.NewCrashableMem()
	NoPause        bool   // the engine can't stop reading
	// SwapKernels has another kernel take over before each step of a conversation before which that can be: see
	// [Server.SwapKernel].
	SwapKernels bool
	// Slow says, asked before each read and each commit, how much later it happens in the server's own
	// time; the clock that modules see does not count it, so that a conversation reads the same.
	Slow func() time.Duration
	// Reactor changes how the reactor is set up.
	Reactor     func(c *reactor.Config)
	AllowPanics bool // are what the test is about: it does not fail for one
	// Fault is the store's: see [store.Options].
	Fault store.Fault
}

// A Server is one in memory, with kernels that come one after the other on the same store: [Server.Restart],
// [Server.Crash]. All on the test's goroutine.
type Server struct {
	*server.Server // of the kernel that runs now
	TB             testing.TB
	Net            *reactortest.Net
	// NewProfile loads the modules anew, as a reload with other options does: for [session.Host.SwapProfile].
	NewProfile func() (*session.Profile, error)

	opt         Options
	log         *slog.Logger
	clients     map[string]*Client
	logins      int
	settledSeen atomic.Uint64
	slow        *slowStore // nil on a fast store
	// What goes on from one kernel to the next, so that a conversation reads the same every time.
	counter   counterReader
	streams   int
	resources int
	reloads   int
	dials     int
}

// New starts a server with all modules and the host localhost.
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

// start makes a kernel on the store, whose clock begins at a time.
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
			Fault: opt.Fault, Fatal: func(err error) { s.TB.Error(err) }},
		Log:        s.log,
		About:      session.About{Name: "Canto", Version: "test"},
		Manifests:  opt.Shelf,
		Given:      opt.Dependencies,
		Now:        now,
		Random:     &s.counter,
		StreamID:   func() string { s.streams++; return fmt.Sprint("stream-", s.streams) },
		Resource:   func() string { s.resources++; return fmt.Sprint("resource-", s.resources) },
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
	// behind the kernel's
	s.DB.OnCommit(func(store.Ticket, error) { s.settledSeen.Store(uint64(s.DB.Durable())) })
	s.DB.Wait(context.Background(), s.DB.Last())
	s.settledSeen.Store(uint64(s.DB.Durable()))
	if s.slow != nil {
		s.slow.settled = session.Ticket(s.DB.Durable())
	}
}

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
	conform := func(name string) (server.Host, error) {
		if slices.Contains(opt.Services, name) {
			return service, nil
		}
		return host, nil
	}
	hosts := slices.Concat(opt.Hosts, opt.Services)
	if err := s.Apply(server.Config{Limits: limits, Hosts: hosts, Host: conform}); err != nil {
		s.TB.Fatal(err)
	}
}

// Reload loads the modules of every host anew, as `canto reload` does where an option has changed: each
// account is read again before its next stanza.
func (s *Server) Reload() {
	s.TB.Helper()
	s.reloads++
	s.apply()
}

// FS is what the store is on: after a crash what that has left.
func (s *Server) FS() vfs.FS { return s.opt.FS }

// Restart ends the server as SIGTERM does, its clients told and their sessions ended, and starts another
// kernel on the same store. The clock goes on.
func (s *Server) Restart() {
	s.TB.Helper()
	s.Settle()
	s.Net.Shutdown()
	s.Settle()
	for i := 0; s.Net.Connections() > 0 && i < 6; i++ { // no longer than [reactor.Config.ShutdownTimeout]
		s.Advance(time.Second)
		s.Settle()
	}
	s.replaceKernel()
}

// SetFull has the store know that its disk has no room, and refuse writes; or that it has room again. The
// store's FS is one in memory.
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

// Crash ends the server as kill -9 and a loss of power do: only what was synced to the disk survives, and
// nothing that is under way goes on. Another kernel starts on what is left; the clock goes on. The store's FS
// is a crashable one.
func (s *Server) Crash() {
	s.TB.Helper()
	fs, ok := s.opt.FS.(*vfs.MemFS)
	if !ok {
		s.TB.Fatal("the store is not in memory")
	}
	s.opt.FS = fs.CrashClone(vfs.CrashCloneCfg{})
	s.replaceKernel()
}

// replaceKernel puts another kernel in the place of the one that runs.
func (s *Server) replaceKernel() {
	s.TB.Helper()
	s.Net.Halt()
	for _, c := range s.clients {
		c.serverGone = true
	}
	s.DB.Close() // it may say that snapshots are open: nothing of a process that is gone is given back
	s.start(s.Net.Now())
}

// panicWatch looks for them in a log: the server survives one, a test does not.
type panicWatch struct {
	to   io.Writer
	seen string
}

func (p *panicWatch) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("panic")) {
		p.seen = string(b)
	}
	return p.to.Write(b)
}

// AddAccount makes an account with the password [Password].
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

// testKeys are those of Password, derived once.
var testKeys = sync.OnceValue(func() sasl.Keys {
	k, err := sasl.DeriveKeys([]byte(Password), sasl.MinIterations, &counterReader{}, sasl.SHA1, sasl.SHA256,
		sasl.SHA512)
	if err != nil {
		panic(err)
	}
	return k
})

// counterReader is randomness that is the same every time.
type counterReader struct{ n byte }

func (c *counterReader) Read(p []byte) (int, error) {
	for i := range p {
		c.n++
		p[i] = c.n
	}
	return len(p), nil
}

// A Client is one connection of a test.
type Client struct {
	Name       string
	JID        string
	server     *Server
	conn       *reactortest.Client
	serverGone bool // its server is gone
	parser     *xmlstream.Parser
	in         xmlstream.Stream
	ended      bool
	lang       string // of its stream headers
	dialIndex  int    // of all that were dialed
	addr       netip.Addr
	loop       int
}

// Dial opens a connection on a loop and says nothing.
func (s *Server) Dial(name string, loop int) *Client {
	return s.DialFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), name, loop)
}

// DialFrom is Dial from an address.
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

// Open sends a stream header.
func (c *Client) Open(host string) {
	c.in.Reset(0)
	lang := ""
	if c.lang != "" {
		lang = " xml:lang='" + c.lang + "'"
	}
	c.conn.Send([]byte(fmt.Sprintf("<?xml version='1.0'?><stream:stream to='%s' version='1.0'%s "+
		"xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>", host, lang)))
}

// Login opens a stream for a full JID, on the next loop, and binds it; the account is made if there is
// none. Nothing else is sent: no roster is asked for and no presence sent.
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

// bound has what comes from here on parsed as of a stream whose header is known.
func (c *Client) bound() {
	c.in.Reset(0)
	c.parser.Feed(&c.in, []byte("<stream:stream xmlns='jabber:client' "+
		"xmlns:stream='http://etherx.jabber.org/streams'>"))
	c.parser.Next(&c.in)
}

// Authenticate opens a connection on a loop that has logged in as bare, which has an account, and has not
// bound a resource (RFC 6120 §6.4.6).
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

// authenticate sends what logs in as j, up to the header of the next stream.
func (c *Client) authenticate(j jid.JID) {
	c.Open(j.Domain())
	c.server.Settle()
	plain := base64.StdEncoding.EncodeToString([]byte("\x00" + j.Local() + "\x00" + Password))
	c.Send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" + plain + "</auth>")
	c.server.Settle()
	c.Open(j.Domain())
}

// escape writes text as the server does.
func escape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&apos;", `"`, "&quot;").Replace(
		text)
}

// Send sends text, as it is.
func (c *Client) Send(text string) { c.conn.Send([]byte(text)) }

// Received is what has come since it was last asked for, as it came.
func (c *Client) Received() string { return string(c.conn.Received()) }

// Ended reports whether the server has ended the connection, or is gone.
func (c *Client) Ended() bool { return c.serverGone || c.conn.Ended() }

// Conn is the connection below.
func (c *Client) Conn() *reactortest.Client { return c.conn }

// DropConn loses the connection.
func (c *Client) DropConn() { c.conn.Close(io.ErrUnexpectedEOF) }

// Client is the one of that name.
func (s *Server) Client(name string) *Client { return s.clients[name] }

// Names are those of all clients, sorted.
func (s *Server) Names() (names []string) {
	for n := range s.clients {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Advance moves the clock.
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

// Bare is the bare JID that c logged in as.
func (c *Client) Bare() jid.JID {
	j, err := jid.Parse(c.JID)
	if err != nil {
		c.server.TB.Fatal(err)
	}
	return j.Bare()
}

// Stream is the kernel's half of c's connection.
func (s *Server) Stream(c *Client) *session.Stream { return s.C2S.Stream(c.conn.Conn()) }
