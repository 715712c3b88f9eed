package sessiontest

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/metrics"
	"canto/session/mod"
	"canto/session/mod/offline"
	"canto/session/server"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
	"canto/xmlstream"
)

// How much the stress run does. CANTO_STRESS_SEED chooses its actions, CANTO_STRESS_SIZE how many: 1 takes
// some seconds, and .ci/run uses more.
const (
	stressUsers = 16 // accounts that are kicked and deleted, on each of two hosts
	stressFans  = 72 // contacts of one account: more than 64, so that its presence is a broadcast of all loops
	stressSteps = 40 // steps of each of these users, times the size
	// stressTimeout is how long anything that must happen may take on a busy machine.
	stressTimeout = 60 * time.Second
	stressHost    = "one.example"
	stressOther   = "two.example" // removed and added again
)

var delayed = xmlstream.N("urn:xmpp:delay", "delay")

func stressNumber(t *testing.T, name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: %v", name, text, err)
	}
	return n
}

// A stress is a server with real loops, on ports of the loopback device, and what its clients have seen.
type stress struct {
	t       *testing.T
	srv     *server.Server
	addr    string
	ahead   atomic.Int64 // the server's clock is this far ahead of the machine's
	streams atomic.Int64 // numbers of the clients' streams
	pace    chan struct{}
	said    atomic.Int64
	log     stressLog
	rooms   bool // rooms.localhost is served
}

// fault reports a broken invariant. Any goroutine.
func (x *stress) fault(format string, args ...any) {
	if x.said.Add(1) <= 20 {
		x.t.Errorf(format, args...)
	}
}

// A stressLog keeps the lines about panics.
type stressLog struct {
	mu     sync.Mutex
	panics []string
}

func (l *stressLog) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("panic")) {
		l.mu.Lock()
		l.panics = append(l.panics, string(b[:min(len(b), 1200)]))
		l.mu.Unlock()
	}
	return len(b), nil
}

// until waits for something that must happen, and reports whether it did.
func until(happened func() bool) bool {
	for end := time.Now().Add(stressTimeout); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if happened() {
			return true
		}
	}
	return false
}

// newStress starts the server. With f it has rooms, and f's occupants in them.
func newStress(t *testing.T, f *far) *stress {
	x := &stress{t: t, pace: make(chan struct{}, 1024)}
	shelf := mod.All
	if f != nil {
		f.x, x.rooms = x, true
		shelf = append(withKinds(Options{}).Shelf, f.manifest())
	}
	now := func() time.Time { return time.Now().Add(time.Duration(x.ahead.Load())) }
	log := slog.New(slog.NewTextHandler(&x.log, nil))
	key := testKey
	srv, err := server.New(server.Options{
		Store: store.Options{FS: vfs.NewMem(), Dir: "data", MinFree: -1, Ballast: -1, CheckEvery: -1, Now: now,
			Fatal: func(err error) { x.fault("the store: %v", err) }},
		Manifests: shelf, Log: log, Now: now, Random: crand.Reader, FakeKey: &key, NoThrottle: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	x.srv = srv
	x.apply(0, true)
	r, err := reactor.New(reactor.Config{Loops: 4, Log: log, Clock: now, OnShutdown: srv.C2S.OnShutdown,
		Listeners: srv.Listeners(server.Ports{C2S: []string{"127.0.0.1:0"}})})
	if err != nil {
		t.Fatal(err)
	}
	x.addr = r.Addrs()[0]
	if err := srv.Start(r); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return x
}

// apply reloads the server: each version has other options, so that every account is reloaded. other says
// whether the second host is served.
func (x *stress) apply(version int, other bool) {
	limits := session.DefaultLimits()
	limits.Rate = 0 // the test is not about floods
	hosts := []string{stressHost}
	if other {
		hosts = append(hosts, stressOther)
	}
	if x.rooms {
		hosts = append(hosts, "rooms.localhost")
	}
	if err := x.srv.Apply(server.Config{Limits: limits, Hosts: hosts, Host: func(name string) (server.Host,
		error) {
		if kinds := withKinds(Options{}); name == kinds.Services[0] {
			return server.Host{Service: true, Modules: append(kinds.ServiceModules, "far")}, nil
		}
		modules := append(mod.DefaultNames(), "register")
		if x.rooms {
			modules = append(modules, "far")
		}
		return server.Host{
			Modules:    modules,
			OptionsKey: fmt.Sprint(version % 3),
			Module: func(_ string, v any) error {
				if o, ok := v.(*offline.Options); ok {
					o.MaxMessages += version % 3
				}
				return nil
			},
		}, nil
	}}); err != nil {
		x.fault("a reload: %v", err)
	}
}

// create creates an account.
func (x *stress) create(local, domain string) {
	_, err := x.srv.DB.Accounts().Create(context.Background(), domain, local, testKeys().Encode())
	if err != nil && !errors.Is(err, store.ErrExists) {
		x.fault("%s@%s can't be made: %v", local, domain, err)
		return
	}
	if j, err := jid.New(local, domain, ""); err == nil {
		x.srv.Router.Table.NoteCreated(j)
	}
}

// A stressClient is one stream of a client. It reads on a goroutine of its own.
type stressClient struct {
	x      *stress
	full   string
	bare   string
	number int64 // the number of the stream, which is in all that it sends
	conn   net.Conn
	parser *xmlstream.Parser
	in     xmlstream.Stream
	steady bool          // nothing may end it
	ended  chan struct{} // closed when the stream has ended

	mu      sync.Mutex
	asked   map[string]string // requests that are not answered, by id
	maybe   map[string]bool   // requests that another client may never answer
	last    map[string]int    // number of the last message or presence, by kind and sending stream
	twice   map[string]bool   // messages that were received
	got     map[string]int    // how many messages came, by sending stream
	bounced int               // messages that came back
	left    bool              // the client has ended the connection
	cause   string            // the server's
	hear    func(e xmlstream.Element)

	asks, seq, shown int // the writer's own
}

var errRefused = errors.New("refused")

// login opens a stream and binds it. A server may refuse that with an error.
func (x *stress) login(local, domain, resource string, steady bool) (*stressClient, error) {
	conn, err := net.Dial("tcp", x.addr)
	if err != nil {
		return nil, err
	}
	c := &stressClient{x: x, bare: local + "@" + domain, full: local + "@" + domain + "/" + resource, conn: conn,
		number: x.streams.Add(1), parser: xmlstream.NewParser(nil), steady: steady, ended: make(chan struct{}),
		asked: make(map[string]string), maybe: make(map[string]bool), last: make(map[string]int),
		twice: make(map[string]bool), got: make(map[string]int)}
	if err := c.negotiate(local, domain, resource); err != nil {
		conn.Close()
		if !errors.Is(err, errRefused) {
			x.fault("the login of %s: %v", c.full, err)
		}
		return nil, err
	}
	go c.read()
	return c, nil
}

func (c *stressClient) negotiate(local, domain, resource string) error {
	c.conn.SetReadDeadline(time.Now().Add(stressTimeout))
	header := "<?xml version='1.0'?><stream:stream to='" + domain + "' version='1.0' xmlns='jabber:client' " +
		"xmlns:stream='http://etherx.jabber.org/streams'>"
	steps := []struct{ send, want string }{
		{header, "features"},
		{"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" +
			base64.StdEncoding.EncodeToString([]byte("\x00"+local+"\x00"+Password)) + "</auth>", "success"},
		{header, "features"},
		{"<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>" + resource +
			"</resource></bind></iq>", "iq"},
	}
	for _, st := range steps {
		if st.send == header {
			c.in.Reset(0)
		}
		if _, err := io.WriteString(c.conn, st.send); err != nil {
			return fmt.Errorf("%w: %v", errRefused, err) // the server has ended the stream before
		}
		e, err := c.next()
		var ne net.Error
		switch {
		case errors.As(err, &ne) && ne.Timeout():
			return fmt.Errorf("no answer to %s", st.send)
		case err != nil:
			return fmt.Errorf("%w: %v", errRefused, err)
		case string(e.Local()) != st.want || attr(e, stanza.AttrType) == "error":
			return fmt.Errorf("%w: %s", errRefused, e.Raw())
		}
	}
	return c.conn.SetReadDeadline(time.Time{})
}

// next waits for an element.
func (c *stressClient) next() (xmlstream.Element, error) {
	buf := make([]byte, 16<<10)
	for {
		for {
			if c.in.Root() == nil {
				if _, err := c.parser.Next(&c.in); err == nil {
					continue
				} else if err != xmlstream.ErrNeedMore {
					return xmlstream.Element{}, err
				}
				break
			}
			e, err := c.parser.Stanza(&c.in)
			if err != xmlstream.ErrNeedMore {
				return e, err
			}
			break
		}
		n, err := c.conn.Read(buf)
		if n > 0 {
			c.parser.Feed(&c.in, buf[:n])
			buf = make([]byte, len(buf))
			continue
		}
		if err != nil {
			return xmlstream.Element{}, err
		}
	}
}

// read handles what arrives until the stream ends.
func (c *stressClient) read() {
	defer close(c.ended)
	defer c.conn.Close()
	told := false // whether the server has said why the stream ends
	for {
		e, err := c.next()
		if err == nil {
			if string(e.Local()) == "error" && string(e.Space()) == "http://etherx.jabber.org/streams" {
				told = true
				c.mu.Lock()
				c.cause = string(e.Raw())
				c.mu.Unlock()
				continue
			}
			c.take(e)
			continue
		}
		c.mu.Lock()
		left, cause := c.left, c.cause
		c.mu.Unlock()
		var se *xmlstream.SyntaxError
		switch {
		case errors.As(err, &se):
			c.x.fault("%s gets what is no XML: %v", c.full, err)
		case c.steady && !left:
			c.x.fault("the stream of %s has ended: %v, %s", c.full, err, cause)
		case err == io.EOF && !left && !told && c.in.Root() != nil:
			c.x.fault("the stream of %s has ended without a word", c.full)
		}
		return
	}
}

// take checks one stanza.
func (c *stressClient) take(e xmlstream.Element) {
	typ, id, from := attr(e, stanza.AttrType), attr(e, stanza.AttrID), attr(e, stanza.AttrFrom)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hear != nil {
		c.hear(e)
	}
	switch string(e.Local()) {
	case "iq":
		if typ == "get" { // another client's ping
			c.conn.SetWriteDeadline(time.Now().Add(stressTimeout))
			io.WriteString(c.conn, "<iq type='result' id='"+id+"' to='"+from+"'/>")
			return
		}
		if typ == "set" {
			return // a push
		}
		if _, ok := c.asked[id]; ok {
			delete(c.asked, id)
			return
		}
		if c.maybe[id] {
			delete(c.maybe, id)
			return
		}
		// The answer to a stream that has ended goes to the next one of its address (RFC 6120 section 10.5.4).
		if stream, _, _ := strings.Cut(id, "-"); stream == fmt.Sprint(c.number) {
			c.x.fault("%s has a second answer: %s", c.full, e.Raw())
		}
	case "message":
		if typ == "error" {
			c.bounced++
			return
		}
		stream, n := counted(e, "body")
		if stream == "" {
			return
		}
		// Messages to one address are in order. A message to a resource that has ended goes to another one (RFC
		// 6121 section 8.5.3.2.1), after those that were sent to that one.
		way := "message " + stream + " to " + attr(e, stanza.AttrTo)
		if n <= c.last[way] {
			c.x.fault("%s (stream %d) gets message %d of stream %s after its message %d (RFC 6120 §10.1): %s",
				c.full, c.number, n, stream, c.last[way], e.Raw())
		}
		c.last[way] = n
		if c.twice[fmt.Sprint(stream, " ", n)] {
			c.x.fault("%s (stream %d) gets a message twice: %s", c.full, c.number, e.Raw())
		}
		c.twice[fmt.Sprint(stream, " ", n)] = true
		c.got[stream]++
	case "presence":
		if typ == "subscribe" {
			io.WriteString(c.conn, "<presence type='subscribed' to='"+from+"'/>")
			return
		}
		stream, n := counted(e, "status")
		if stream == "" {
			return
		}
		// The same presence may come by a broadcast and in answer to a probe.
		if n < c.last["presence "+stream] {
			c.x.fault("%s (stream %d) gets presence %d of stream %s after its presence %d (RFC 6120 §10.1): %s",
				c.full, c.number, n, stream, c.last["presence "+stream], e.Raw())
		}
		c.last["presence "+stream] = n
	}
}

// counted reads "stream number" from the text of a child.
func counted(e xmlstream.Element, child string) (stream string, n int) {
	for k, ok := e.First(); ok; k, ok = k.Next() {
		if string(k.Local()) != child {
			continue
		}
		stream, num, _ := strings.Cut(string(k.Text()), " ")
		n, err := strconv.Atoi(num)
		if err != nil {
			return "", 0
		}
		return stream, n
	}
	return "", 0
}

func (c *stressClient) send(text string) {
	c.conn.SetWriteDeadline(time.Now().Add(stressTimeout))
	if _, err := io.WriteString(c.conn, text); err != nil {
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			c.x.fault("%s: the server does not read", c.full)
		}
	}
}

// ask sends a request that must have one answer; maybe: at most one.
func (c *stressClient) ask(typ, to, payload string, maybe bool) {
	c.asks++
	id := fmt.Sprintf("%d-%d", c.number, c.asks)
	if to != "" {
		to = " to='" + to + "'"
	}
	text := "<iq type='" + typ + "' id='" + id + "'" + to + ">" + payload + "</iq>"
	c.mu.Lock()
	if maybe {
		c.maybe[id] = true
	} else {
		c.asked[id] = text
	}
	c.mu.Unlock()
	c.send(text)
}

// message is the text of the stream's next message.
func (c *stressClient) message(to string) string {
	c.seq++
	return fmt.Sprintf("<message to='%s' type='chat'><body>%d %d</body></message>", to, c.number, c.seq)
}

// show is the text of the stream's next presence.
func (c *stressClient) show(to string) string {
	c.shown++
	if to != "" {
		to = " to='" + to + "'"
	}
	return fmt.Sprintf("<presence%s><status>%d %d</status></presence>", to, c.number, c.shown)
}

func (c *stressClient) gone() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// settle waits until every request is answered or the stream has ended.
func (c *stressClient) settle() {
	var open []string
	if !until(func() bool {
		if c.gone() {
			return true
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		open = open[:0]
		for _, text := range c.asked {
			open = append(open, text)
		}
		return len(open) == 0
	}) {
		c.x.fault("%s has no answer to %s", c.full, strings.Join(open, " "))
	}
}

// ping returns when what was sent before has been taken.
func (c *stressClient) ping() {
	c.ask("get", "", "<ping xmlns='urn:xmpp:ping'/>", false)
	c.settle()
}

// leave ends the stream, in one of three ways.
func (c *stressClient) leave(how int) {
	if how == 0 {
		c.settle()
	}
	c.mu.Lock()
	c.left = true
	c.mu.Unlock()
	switch how {
	case 0:
		c.send("</stream:stream>")
		if !until(c.gone) {
			c.x.fault("%s has ended its stream, and the server does not", c.full)
			c.conn.Close()
		}
	case 1:
		c.send("<message to='stranger@" + stressHost + "'><body>half")
		c.conn.Close()
	default:
		c.conn.Close()
	}
	<-c.ended
}

// wander is what one user does: what it sends, to which address, when it logs in and out.
func (x *stress) wander(rnd *rand.Rand, me, steps int) {
	var c *stressClient
	name := func() (local, domain string) {
		local = fmt.Sprint("user", rnd.IntN(stressUsers))
		if rnd.IntN(2) == 0 {
			return local, stressHost
		}
		return local, stressOther
	}
	to := func() string {
		if rnd.IntN(8) == 0 {
			return fmt.Sprint("stranger", rnd.IntN(5), "@", stressHost)
		}
		local, domain := name()
		return local + "@" + domain
	}
	resource := func() string { return fmt.Sprint("r", rnd.IntN(2)) }
	for range steps {
		select {
		case x.pace <- struct{}{}:
		default:
		}
		if c == nil || c.gone() {
			local, domain := name()
			if rnd.IntN(3) > 0 {
				local = fmt.Sprint("user", me)
			}
			if c, _ = x.login(local, domain, resource(), false); c == nil {
				continue
			}
			c.ask("get", "", "<query xmlns='jabber:iq:roster'/>", false)
			c.send(c.show(""))
			continue
		}
		switch rnd.IntN(16) {
		case 0, 1:
			c.send(c.message(to()))
		case 2:
			c.send(c.message(to() + "/" + resource()))
		case 3:
			var b strings.Builder
			for range 10 {
				b.WriteString(c.message(to()))
			}
			c.send(b.String())
		case 4:
			c.ask("get", "", "<query xmlns='jabber:iq:roster'/>", false)
		case 5:
			c.ask("get", stressHost, "<query xmlns='http://jabber.org/protocol/disco#info'/>", false)
		case 6:
			c.ask("get", to(), "<vCard xmlns='vcard-temp'/>", false)
		case 7:
			c.ask("set", "", "<vCard xmlns='vcard-temp'><FN>"+fmt.Sprint(c.number)+"</FN></vCard>", false)
		case 8:
			item := fmt.Sprintf("<item jid='%s' name='%d'/>", to(), c.seq)
			c.ask("set", "", "<query xmlns='jabber:iq:roster'>"+item+"</query>", false)
		case 9:
			who := to()
			c.ask("set", "", "<block xmlns='urn:xmpp:blocking'><item jid='"+who+"'/></block>", false)
			c.ask("set", "", "<unblock xmlns='urn:xmpp:blocking'><item jid='"+who+"'/></unblock>", false)
		case 10:
			c.send(c.show(""))
		case 11:
			c.send(c.show(to()))
		case 12:
			who := to()
			if rnd.IntN(2) == 0 {
				who = "hub@" + stressHost
			}
			typ := []string{"subscribe", "unsubscribe", "subscribed", "unsubscribed", "probe"}[rnd.IntN(5)]
			c.send("<presence type='" + typ + "' to='" + who + "'/>")
		case 13:
			c.ask("get", to()+"/"+resource(), "<ping xmlns='urn:xmpp:ping'/>", true)
		case 14:
			c.settle()
		case 15:
			c.leave(rnd.IntN(3))
			c = nil
		}
	}
	if c != nil {
		c.leave(0)
	}
}

// upset does what an operator does, one action for every few steps of the users, until they are done.
func (x *stress) upset(rnd *rand.Rand) {
	version, other := 0, true
	for n := 0; ; n++ {
		if _, ok := <-x.pace; !ok {
			break
		}
		if n%6 != 0 {
			continue
		}
		local, domain := fmt.Sprint("user", rnd.IntN(stressUsers)), stressHost
		if rnd.IntN(2) == 0 {
			domain = stressOther
		}
		who, err := jid.New(local, domain, "")
		if err != nil {
			x.t.Error(err)
			return
		}
		switch rnd.IntN(8) {
		case 0, 1:
			x.srv.Router.Kick(who, session.ErrPolicyViolation)
		case 2, 3:
			version++
			x.apply(version, other)
		case 4:
			other = !other
			x.apply(version, other)
		case 5, 6:
			gone, err := x.srv.DB.Accounts().Delete(context.Background(), domain, local)
			if err == nil {
				err = storage.FinishDeletion(x.srv.Router, x.srv.DB, gone, nil)
			}
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				x.fault("%s can't be deleted: %v", who, err)
			}
			if rnd.IntN(4) > 0 {
				x.create(local, domain)
			}
		case 7:
			x.ahead.Add(int64(10 * time.Second)) // accounts leave memory
			for i := range stressUsers {
				x.create(fmt.Sprint("user", i), domain)
			}
		}
	}
	x.apply(version, true)
}

// Users on several loops log in and out, and send messages, requests and subscriptions, while an operator
// kicks, reloads, deletes accounts and removes a host. No handler panics; each request has one answer or
// its stream has ended; what one stream sends another arrives in order and once; streams that nothing may
// end do not end; and when all have left, nothing is left in memory.
func TestStress(t *testing.T) {
	seed, size := stressNumber(t, "CANTO_STRESS_SEED", 1), int(stressNumber(t, "CANTO_STRESS_SIZE", 1))
	x := newStress(t, nil)
	for i := range stressUsers {
		x.create(fmt.Sprint("user", i), stressHost)
		x.create(fmt.Sprint("user", i), stressOther)
	}
	var steady []*stressClient
	stay := func(local string) *stressClient {
		x.create(local, stressHost)
		c, err := x.login(local, stressHost, "home", true)
		if err != nil {
			t.Fatalf("%s: %v", local, err)
		}
		c.ask("get", "", "<query xmlns='jabber:iq:roster'/>", false)
		c.send("<presence/>")
		steady = append(steady, c)
		return c
	}
	hub := stay("hub")
	for i := range stressFans {
		stay(fmt.Sprint("fan", i))
	}
	hears := func(c *stressClient, stream int64, n int) func() bool {
		return func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.last[fmt.Sprint("presence ", stream)] >= n
		}
	}
	hub.settle()
	for _, fan := range steady[1:] {
		if !until(func() bool {
			fan.send("<presence type='subscribe' to='hub@" + stressHost + "'/>")
			fan.ping()
			hub.send(hub.show(""))
			hub.ping()
			return hears(fan, hub.number, 1)()
		}) {
			t.Fatalf("%s does not hear of the hub", fan.full)
		}
	}

	var users, rest sync.WaitGroup
	for i := range 2 * stressUsers {
		users.Go(func() { x.wander(rand.New(rand.NewPCG(seed, uint64(i))), i%stressUsers, stressSteps*size) })
	}
	rest.Go(func() { x.upset(rand.New(rand.NewPCG(seed, 1000))) })
	done := make(chan struct{})
	sent := make(map[*stressClient]int) // messages of each; only the goroutine below uses it
	rest.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			c, other := steady[i%len(steady)], steady[(i+1)%len(steady)]
			c.send(c.message(other.bare))
			sent[c]++
			c.ping()
			if i%4 == 0 {
				hub.send(hub.show(""))
				hub.ping()
			}
		}
	})
	users.Wait()
	close(done)
	close(x.pace)
	rest.Wait()

	// A client that was there all the time has got everything, except that a presence may have met a full
	// inbox: the last one did not.
	hub.settle()
	hub.send(hub.show(""))
	for i, c := range steady {
		other := steady[(i+1)%len(steady)]
		if n := 0; !until(func() bool {
			other.mu.Lock()
			n = other.got[fmt.Sprint(c.number)]
			other.mu.Unlock()
			c.mu.Lock()
			defer c.mu.Unlock()
			return n+c.bounced == sent[c]
		}) {
			x.fault("%d messages of %s came to %s, of %d, and %d came back", n, c.full, other.full, sent[c],
				c.bounced)
		}
		if i > 0 && !until(hears(c, hub.number, hub.shown)) {
			x.fault("%s does not hear the hub's last presence", c.full)
		}
	}
	for _, c := range steady {
		c.leave(0)
	}
	x.flat()
}

// flat checks that nothing is left when all clients have left and time has passed.
func (x *stress) flat() {
	var st session.Stats
	if !until(func() bool {
		st = metrics.Stats(x.srv.Router)
		return x.srv.Reactor.Connections() == 0 && st.Bound == st.Unbound && st.Streams == st.StreamsEnd
	}) {
		x.fault("%d connections are left, %d of %d sessions and %d of %d streams have ended",
			x.srv.Reactor.Connections(), st.Unbound, st.Bound, st.StreamsEnd, st.Streams)
	}
	if st.Panics > 0 {
		x.fault("%d panics", st.Panics)
	}
	x.log.mu.Lock()
	for _, line := range x.log.panics[:min(len(x.log.panics), 3)] {
		x.fault("the log says %s", line)
	}
	x.log.mu.Unlock()
	if !until(func() bool {
		x.ahead.Add(int64(10 * time.Second))
		return x.srv.Router.Table.Len() == 0
	}) {
		var names []string
		for i := range 256 {
			for _, a := range x.srv.Router.Table.Accounts(i, nil) {
				names = append(names, a.JID().String())
			}
		}
		x.fault("in memory are still %s", strings.Join(names, ", "))
	}
	if err := x.srv.DB.Accounts().Deleted(x.srv.DB, func(d store.DeletedAccount) bool {
		if d.Domain == stressHost { // accounts of the other host wait for the next start, if it was removed
			x.fault("the deleted %s@%s is not worked off", d.Local, d.Domain)
		}
		return true
	}); err != nil {
		x.fault("%v", err)
	}
	x.t.Logf("%d sessions, %d messages in, %d out, %d presences out, %d iqs, %d loads, %d waited in "+
		"inboxes, %d had no room",
		st.Bound, st.In[stanza.Message], st.Out[stanza.Message], st.Out[stanza.Presence], st.In[stanza.IQ],
		st.Loads, st.Inboxed, st.InboxFull)
}
