// Package bench measures an XMPP server from outside: a fleet of clients on Canto's own reactor, one
// small state machine each. It is a black box: it knows the protocol and nothing of the server behind
// it.
package bench

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"canto/reactor"
	"canto/reactor/buf"
	"canto/session/sasl"
	"canto/xmlstream"
)

// A Config says what a Fleet is.
type Config struct {
	Addr     netip.AddrPort
	Domain   string
	Clients  int
	User     func(i int) (name, password string)
	TLS      *tls.Config // direct TLS; nil: plain
	InFlight int         // logins at a time; 200
}

// A Fleet is clients on one server. Its methods are for one goroutine.
type Fleet struct {
	cfg     Config
	r       *reactor.Reactor
	parsers []*xmlstream.Parser
	clients []*client
	keys    sync.Map // password -> sasl.Salted
	slots   chan struct{}
	bound   atomic.Int64
	failed  atomic.Int64
	first   atomic.Pointer[error]
	got     atomic.Int64
	news    chan struct{}
	stop    context.CancelFunc
	done    chan error
}

// states of a client.
const (
	opening = iota
	proving
	restarted
	binding
	online
	gone
)

// A client is one connection's state.
type client struct {
	f     *Fleet
	i     int
	conn  *reactor.Conn
	in    xmlstream.Stream
	sasl  *sasl.Client
	state int
	jid   string
}

// New starts the loops of a fleet and connects nobody.
func New(cfg Config) (*Fleet, error) {
	if cfg.InFlight == 0 {
		cfg.InFlight = 200
	}
	f := &Fleet{cfg: cfg, slots: make(chan struct{}, cfg.InFlight), news: make(chan struct{}, 1), done: make(chan error, 1)}
	r, err := reactor.New(reactor.Config{})
	if err != nil {
		return nil, err
	}
	f.r = r
	for range r.Loops() {
		f.parsers = append(f.parsers, xmlstream.NewParser(&buf.Tail))
	}
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	go func() { f.done <- r.Run(ctx) }()
	return f, nil
}

// Close ends every connection.
func (f *Fleet) Close() error {
	f.stop()
	return <-f.done
}

// Login connects and binds every client, and returns when all are bound; ctx bounds it.
func (f *Fleet) Login(ctx context.Context) error {
	loops := f.r.Loops()
	for i := range f.cfg.Clients {
		select {
		case f.slots <- struct{}{}:
		case <-ctx.Done():
			return f.report("logged in", int(f.bound.Load()))
		}
		c := &client{f: f, i: i}
		f.clients = append(f.clients, c)
		l := loops[i%len(loops)]
		f.r.Dial(l, reactor.DialConfig{Addr: f.cfg.Addr, Local: local(f.cfg.Addr, i), TLS: f.cfg.TLS, Handler: handler{f}, Owner: c}, func(err error) {
			f.fail(err)
			<-f.slots
		})
	}
	for f.bound.Load()+f.failed.Load() < int64(f.cfg.Clients) {
		if !f.wait(ctx) {
			break
		}
	}
	if int(f.bound.Load()) < f.cfg.Clients {
		return f.report("logged in", int(f.bound.Load()))
	}
	return nil
}

// local spreads clients over loopback source addresses, 20,000 each, so that ports don't run out.
func local(to netip.AddrPort, i int) netip.AddrPort {
	if !to.Addr().IsLoopback() || !to.Addr().Is4() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(1 + i/20000)}), 0)
}

func (f *Fleet) wait(ctx context.Context) bool {
	select {
	case <-f.news:
		return true
	case <-ctx.Done():
		return false
	}
}

func (f *Fleet) tell() {
	select {
	case f.news <- struct{}{}:
	default:
	}
}

func (f *Fleet) fail(err error) {
	f.failed.Add(1)
	f.first.CompareAndSwap(nil, &err)
	f.tell()
}

func (f *Fleet) report(what string, n int) error {
	err := errors.New("it took too long")
	if e := f.first.Load(); e != nil {
		err = *e
	}
	return fmt.Errorf("%d of %d clients %s: %w", n, f.cfg.Clients, what, err)
}

// Bound is how many clients are online.
func (f *Fleet) Bound() int { return int(f.bound.Load()) }

// Exchange has every client send its neighbour rounds messages, each after the one before was
// delivered, and returns how many arrived.
func (f *Fleet) Exchange(ctx context.Context, rounds int, body string) (int, error) {
	f.got.Store(0)
	n := int64(len(f.clients) &^ 1)
	for round := range int64(rounds) {
		for _, c := range f.clients[:n] {
			to := f.clients[c.i^1]
			c.conn.Append(fmt.Appendf(nil, "<message type='chat' id='m%d' to='%s'><body>%s</body></message>", round, to.jid, body))
		}
		for f.got.Load() < (round+1)*n {
			if !f.wait(ctx) {
				return int(f.got.Load()), f.report("got their messages", int(f.got.Load()))
			}
		}
	}
	return int(f.got.Load()), nil
}

type handler struct{ f *Fleet }

func (h handler) header(c *client) {
	c.in.Reset(0)
	c.conn.Append([]byte("<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0' to='" + h.f.cfg.Domain + "'>"))
}

// OnOpen begins the stream.
func (h handler) OnOpen(conn *reactor.Conn) {
	c := conn.Owner.(*client)
	c.conn = conn
	if h.f.cfg.TLS == nil {
		h.header(c)
	}
}

// OnSecure begins it behind TLS.
func (h handler) OnSecure(conn *reactor.Conn, _ *tls.ConnectionState) {
	h.header(conn.Owner.(*client))
}

// OnTimer is not used.
func (h handler) OnTimer(*reactor.Conn) {}

// OnDrain is not used.
func (h handler) OnDrain(*reactor.Conn) {}

// OnClose counts a client that was lost before it was online.
func (h handler) OnClose(conn *reactor.Conn, err error) {
	c := conn.Owner.(*client)
	if c.state < online {
		if err == nil {
			err = errors.New("the server closed the connection")
		}
		h.lost(c, err)
	}
	c.state = gone
}

func (h handler) lost(c *client, err error) {
	if c.state < online {
		c.state = gone
		h.f.fail(err)
		<-h.f.slots
	}
}

// OnData takes what the server says.
func (h handler) OnData(conn *reactor.Conn, p []byte) int {
	c := conn.Owner.(*client)
	ps := h.f.parsers[conn.Loop().Index()]
	ps.Feed(&c.in, p)
	for {
		if c.in.Root() == nil {
			if _, err := ps.Next(&c.in); err != nil {
				h.syntax(c, err)
				return len(p)
			}
			continue
		}
		e, err := ps.Stanza(&c.in)
		if err != nil {
			h.syntax(c, err)
			return len(p)
		}
		if err := h.element(c, e); err != nil {
			h.lost(c, err)
			conn.Close(nil)
			return len(p)
		}
	}
}

func (h handler) syntax(c *client, err error) {
	if err != xmlstream.ErrNeedMore {
		h.lost(c, err)
		c.conn.Close(nil)
	}
}

const nsSASL = "urn:ietf:params:xml:ns:xmpp-sasl"

var (
	features  = xmlstream.N("http://etherx.jabber.org/streams", "features")
	challenge = xmlstream.N(nsSASL, "challenge")
	success   = xmlstream.N(nsSASL, "success")
	iq        = xmlstream.N("jabber:client", "iq")
	message   = xmlstream.N("jabber:client", "message")
	typeName  = xmlstream.N("", "type")
	bindName  = xmlstream.N("urn:ietf:params:xml:ns:xmpp-bind", "bind")
	jidName   = xmlstream.N("urn:ietf:params:xml:ns:xmpp-bind", "jid")
)

// element goes one step on.
func (h handler) element(c *client, e xmlstream.Element) error {
	switch {
	case c.state == online:
		if e.Is(message) {
			h.f.got.Add(1)
			h.f.tell()
		}
		return nil
	case c.state == opening && e.Is(features):
		name, password := h.f.cfg.User(c.i)
		c.sasl = &sasl.Client{Mechanism: sasl.ScramSHA1, Username: name, Password: sasl.SecretString(password), Rand: rand.Reader, Salted: h.f.salted(password)}
		first, err := c.sasl.Start()
		if err != nil {
			return err
		}
		c.state = proving
		c.conn.Append([]byte("<auth xmlns='" + nsSASL + "' mechanism='SCRAM-SHA-1'>" + string(first) + "</auth>"))
		return nil
	case c.state == proving && e.Is(challenge):
		answer, err := c.sasl.Next(e.Text())
		if err != nil {
			return err
		}
		c.conn.Append([]byte("<response xmlns='" + nsSASL + "'>" + string(answer) + "</response>"))
		return nil
	case c.state == proving && e.Is(success):
		if err := c.sasl.Success(e.Text()); err != nil {
			return err
		}
		_, password := h.f.cfg.User(c.i)
		h.f.keys.Store(password, c.sasl.Salted)
		c.sasl, c.state = nil, restarted
		h.header(c)
		return nil
	case c.state == restarted && e.Is(features):
		c.state = binding
		c.conn.Append([]byte("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>bench</resource></bind></iq>"))
		return nil
	case c.state == binding && e.Is(iq):
		b, _ := e.Child(bindName)
		if t, _ := e.Attr(typeName); string(t) != "result" || b.IsZero() {
			return fmt.Errorf("binding was refused: %s", e.Raw())
		}
		j, _ := b.Child(jidName)
		c.jid = string(j.Text())
		c.state = online
		c.conn.Append([]byte("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq><presence/>"))
		h.f.bound.Add(1)
		<-h.f.slots
		h.f.tell()
		return nil
	}
	return fmt.Errorf("the server said what was not looked for: %.200s", e.Raw())
}

// salted is what a login with this password derived last: with one salt for all, nobody derives twice.
func (f *Fleet) salted(password string) sasl.Salted {
	if v, ok := f.keys.Load(password); ok {
		return v.(sasl.Salted)
	}
	return sasl.Salted{}
}

// Settle waits until nothing has been heard for a while.
func (f *Fleet) Settle(quiet time.Duration) {
	for {
		select {
		case <-f.news:
		case <-time.After(quiet):
			return
		}
	}
}
