package live

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A pair is two clients that chat at 50 messages a second during an attack.
type pair struct {
	to, from *client
	sent     atomic.Int64
	seen     atomic.Int64
	slowest  atomic.Int64 // of a message, in ns
	err      atomic.Value
	stop     chan struct{}
	done     sync.WaitGroup
}

func (s *server) chat() *pair {
	p := &pair{from: s.login("alice", "a"), to: s.login("bob", "b"), stop: make(chan struct{})}
	at := make([]atomic.Int64, 1<<16)
	p.done.Go(func() {
		beat := time.NewTicker(20 * time.Millisecond)
		defer beat.Stop()
		for n := 0; n < len(at); n++ {
			at[n].Store(time.Now().UnixNano())
			if _, err := fmt.Fprintf(p.from.nc, "<message to='bob@localhost/b' type='chat' "+
				"id='n%d.'><body>number %[1]d</body></message>", n); err != nil {
				p.err.Store(fmt.Errorf("message %d could not be sent: %w", n, err))
				return
			}
			p.sent.Add(1)
			select {
			case <-p.stop:
				return
			case <-beat.C:
			}
		}
	})
	p.done.Go(func() {
		for n := 0; ; n++ {
			got := ""
			for !strings.Contains(got, "from='alice@localhost/a'") { // others write to bob as well
				var err error
				if got, err = p.to.read("</message>"); err != nil {
					select {
					case <-p.stop:
					default:
						p.err.Store(fmt.Errorf("message %d did not arrive: %w after %.3000q", n, err, tail(got)))
					}
					return
				}
			}
			if !strings.Contains(got, fmt.Sprintf("id='n%d.'", n)) {
				p.err.Store(fmt.Errorf("instead of message %d came %s", n, got))
				return
			}
			if d := time.Now().UnixNano() - at[n].Load(); d > p.slowest.Load() {
				p.slowest.Store(d)
			}
			p.seen.Add(1)
		}
	})
	return p
}

// chats waits until that many more messages have arrived.
func (p *pair) chats(t *testing.T, more int64, during string) {
	t.Helper()
	want := p.seen.Load() + more
	for end := time.Now().Add(waitTimeout); p.seen.Load() < want; time.Sleep(5 * time.Millisecond) {
		if err := p.err.Load(); err != nil || time.Now().After(end) {
			t.Fatalf("%s: %d of %d messages arrived in order: %v", during, p.seen.Load(), want, err)
		}
	}
}

// settled waits until everything sent so far has arrived.
func (p *pair) settled(t *testing.T, during string) {
	t.Helper()
	want := p.sent.Load()
	for end := time.Now().Add(waitTimeout); p.seen.Load() < want; time.Sleep(5 * time.Millisecond) {
		if err := p.err.Load(); err != nil || time.Now().After(end) {
			t.Fatalf("%s: %d of %d messages arrived in order: %v", during, p.seen.Load(), want, err)
		}
	}
}

// A keeper writes contacts, one after the other, and remembers what the server has acknowledged.
type keeper struct {
	c    *client
	kept []int
	stop chan struct{}
	done sync.WaitGroup
	err  error
}

func (s *server) keep() *keeper {
	k := &keeper{c: s.login("carol", "c"), stop: make(chan struct{})}
	k.done.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-k.stop:
				return
			case <-time.After(25 * time.Millisecond):
			}
			if _, err := fmt.Fprintf(k.c.nc, "<iq type='set' id='k%d.'><query xmlns='jabber:iq:roster'><item "+
				"jid='k%[1]d@localhost'/></query></iq>", n); err != nil {
				k.err = err
				return
			}
			got, err := k.c.read(fmt.Sprintf("id='k%d.'", n))
			if err != nil {
				k.err = err
				return
			}
			if tag := got[strings.LastIndex(got, "<iq"):]; !strings.Contains(tag+k.peek(), "type='result'") {
				k.err = fmt.Errorf("write %d is answered with %s", n, tag)
				return
			}
			k.kept = append(k.kept, n)
		}
	})
	return k
}

// peek returns what was read after the id of an answer, up to the end of its tag.
func (k *keeper) peek() string {
	got, _ := k.c.read(">")
	return got
}

// A hostile is an attacker's connection. The server may close it at any time without failing the test.
type hostile struct{ net.Conn }

func (s *server) stranger() (hostile, error) {
	nc, err := net.DialTimeout("tcp", s.Plain, 5*time.Second)
	if err != nil {
		return hostile{}, err
	}
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	return hostile{nc}, nil
}

// tell sends text on a new connection and returns all that comes until it is closed.
func (s *server) tell(text string) string {
	h, err := s.stranger()
	if err != nil {
		return err.Error()
	}
	defer h.Close()
	go io.WriteString(h, text)
	b, _ := io.ReadAll(h)
	return string(b)
}

// enter logs mallory in.
func (s *server) enter(resource string) (hostile, error) {
	h, err := s.stranger()
	if err != nil {
		return h, err
	}
	c := &client{nc: h}
	step := func(say string, ends ...string) bool {
		if err != nil {
			return false
		}
		if _, err = io.WriteString(c.nc, say); err == nil {
			_, err = c.read(ends...)
		}
		return err == nil
	}
	step(header, "</stream:features>")
	step("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
		"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
	if err == nil {
		c.nc = tls.Client(h, s.tls(tls.VersionTLS13))
	}
	step(header, "</stream:features>")
	step("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>"+
		base64.StdEncoding.EncodeToString([]byte("\x00mallory\x00"+password))+"</auth>",
		"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
	step(header, "</stream:features>")
	step("<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>"+resource+
		"</resource></bind></iq><presence/>", "</iq>")
	if err != nil {
		h.Close()
	}
	return hostile{c.nc}, err
}

// within is tell for a client that has logged in.
func (s *server) within(resource, text string) string {
	h, err := s.enter(resource)
	if err != nil {
		return err.Error()
	}
	defer h.Close()
	go io.WriteString(h, text)
	b, _ := io.ReadAll(h)
	return string(b)
}

// An attack is repeated by several goroutines at once until stop is closed. Its error says what should
// not be.
type attack struct {
	name string
	run  func(s *server, attacker int, stop <-chan struct{}) error
}

// each repeats an input whose answer holds want.
func each(name, text, want string) attack {
	return attack{name, func(s *server, _ int, stop <-chan struct{}) error {
		if got := s.tell(text); !strings.Contains(got, want) {
			return fmt.Errorf("answered with %.500q", got)
		}
		return nil
	}}
}

// inside is each after login.
func inside(name, text, want string) attack {
	return attack{name, func(s *server, who int, stop <-chan struct{}) error {
		if got := s.within(fmt.Sprint("m", who), text); !strings.Contains(got, want) {
			return fmt.Errorf("answered with %.500q", got)
		}
		return nil
	}}
}

// stream is a session that writes text until the end; it reads, or does not.
func stream(name, text string, reads bool, end string) attack {
	return attack{name, func(s *server, who int, stop <-chan struct{}) error {
		h, err := s.enter(fmt.Sprint("m", who))
		if err != nil {
			return err
		}
		defer h.Close()
		if reads {
			go io.Copy(io.Discard, h)
		}
		go func() { <-stop; time.Sleep(50 * time.Millisecond); h.Close() }()
		for n := 0; ; n++ {
			if _, err := io.WriteString(h, strings.ReplaceAll(text, "#", fmt.Sprint(n))); err != nil {
				select {
				case <-stop:
					return nil
				default:
				}
				if end != "" {
					return nil
				}
				return err
			}
			select {
			case <-stop:
				return nil
			default:
			}
		}
	}}
}

// crowd holds n connections that have sent text and nothing more.
func crowd(name string, n int, text string) attack {
	return attack{name, func(s *server, _ int, stop <-chan struct{}) error {
		var held []hostile
		defer func() {
			for _, h := range held {
				h.Close()
			}
		}()
		for range n {
			h, err := s.stranger()
			if err != nil {
				return err
			}
			held = append(held, h)
			io.WriteString(h, text)
		}
		<-stop
		return nil
	}}
}

var attacks = []attack{
	each("malformed XML", header+"<a></b>", "<not-well-formed"),
	each("bytes that are not UTF-8", header+"<a>\xED\xA0\x80</a>", "<unsupported-encoding"),
	each("a document type", "<?xml version='1.0'?><!DOCTYPE l [<!ENTITY a 'aa'><!ENTITY b '&a;&a;'>]>"+header,
		"<restricted-xml"),
	each("depth", header+strings.Repeat("<a>", 1000), "<policy-violation"),
	each("an endless tag before login", header+"<auth "+strings.Repeat("x", 64<<10), "<policy-violation"),
	inside("attributes", "<message to='bob@localhost'><a "+func() string {
		var b strings.Builder
		for i := range 5000 {
			fmt.Fprintf(&b, "a%d='' ", i)
		}
		return b.String()
	}()+"/></message>", "<policy-violation"),
	inside("depth after login", "<message to='bob@localhost'>"+strings.Repeat("<a>", 5000), "<policy-violation"),
	inside("elements", "<message to='bob@localhost'>"+strings.Repeat("<a/>", 60000), "<policy-violation"),
	inside("a stanza too big", "<message to='bob@localhost'><body>"+strings.Repeat("x", 300<<10),
		"<policy-violation"),
	inside("a spoofed sender", "<message from='alice@localhost/a' to='bob@localhost/b' "+
		"id='forged'><body>x</body></message>", "<invalid-from"),
	inside("a second login", "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' "+
		"mechanism='PLAIN'>AGJvYgB4</auth>", "<policy-violation"),
	inside("invalid addresses", strings.Repeat("<message to='b@d@e\u0000'/>", 1), "<not-well-formed"),
	inside("addresses that are none", strings.Repeat("<iq type='get' id='1' to='@localhost'><ping "+
		"xmlns='urn:xmpp:ping'/></iq>", 300)+"</stream:stream>", "<jid-malformed"),
	each("a stanza before login", header+"<message to='bob@localhost'><body>x</body></message>",
		"<not-authorized"),
	each("plaintext behind STARTTLS", header+"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><auth "+
		"xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGJvYgB4</auth>", "<policy-violation"),
	{"broken base64 and SCRAM, and guessing", func(s *server, who int, stop <-chan struct{}) error {
		h, err := s.stranger()
		if err != nil {
			return err
		}
		defer h.Close()
		c := &client{nc: h}
		io.WriteString(c.nc, header+"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
		if _, err := c.read("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"); err != nil {
			return err
		}
		c.nc = tls.Client(h, s.tls(tls.VersionTLS13))
		io.WriteString(c.nc, header)
		if _, err := c.read("</stream:features>"); err != nil {
			return err
		}
		go func() { <-stop; h.Close() }()
		for _, try := range []string{"PLAIN'>!!!", "PLAIN'>AGJvYgB3cm9uZw==", "SCRAM-SHA-256'>biwsbj1ib2Iscj0=",
			"SCRAM-SHA-1'>eSwsbj1ib2Iscj1h", "GSSAPI'>"} {
			io.WriteString(c.nc, "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='"+try+"</auth>")
			if got, err := c.read("</failure>", "</challenge>"); err != nil {
				select {
				case <-stop:
					return nil
				default:
				}
				return fmt.Errorf("%s: %w %.300q", try, err, got)
			}
			io.WriteString(c.nc, "<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
		}
		return nil
	}},
	crowd("connections that say nothing", 300, ""),
	crowd("half a header", 300, header[:60]),
	crowd("handshakes that stop after the first record's head", 300, header+
		"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"),
	{"connections that are reset", func(s *server, _ int, stop <-chan struct{}) error {
		for range 50 {
			h, err := s.stranger()
			if err != nil {
				return err
			}
			io.WriteString(h, header)
			h.Conn.(*net.TCPConn).SetLinger(0)
			h.Close()
		}
		return nil
	}},
	{"no TLS in the handshake", func(s *server, _ int, stop <-chan struct{}) error {
		nc, err := net.DialTimeout("tcp", s.Direct, 5*time.Second)
		if err != nil {
			return err
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(nc, "GET / HTTP/1.0\r\n\r\n"+strings.Repeat("\x16\x03\x01\xff\xff", 2000))
		io.Copy(io.Discard, nc)
		return nil
	}},
	{"a stanza a byte at a time", func(s *server, who int, stop <-chan struct{}) error {
		h, err := s.enter(fmt.Sprint("m", who))
		if err != nil {
			return err
		}
		defer h.Close()
		stanza := "<message to='mallory@localhost/m" + fmt.Sprint(who) + "' type='chat'><body>" +
			strings.Repeat("b", 400) + "</body></message>"
		for i := range len(stanza) {
			if _, err := h.Write([]byte{stanza[i]}); err != nil {
				return err
			}
		}
		c := &client{nc: h}
		_, err = c.read("</message>")
		return err
	}},
	stream("a flood to oneself", "<message to='mallory@localhost/m0' type='chat' "+
		"id='#'><body>x</body></message>", true, ""),
	stream("a flood of requests", "<iq type='get' id='#'><query "+
		"xmlns='http://jabber.org/protocol/disco#info'/></iq>", true, ""),
	stream("a flood at one of the pair", "<message to='bob@localhost' type='chat' "+
		"id='#'><body>noise</body></message>", true, ""),
	stream("a flood for a user that is away", "<message to='dave@localhost' type='chat' "+
		"id='#'><body>noise</body></message>", true, ""),
	stream("a flood of strangers' addresses", "<message to='absent-#@localhost' "+
		"type='chat'><body>x</body></message>", true, ""),
	stream("subscriptions", "<presence to='absent-#@localhost' type='subscribe'/>", true, ""),
	stream("presence at line rate", "<presence><status>#</status></presence>", true, ""),
	stream("requests whose answers are not read",
		"<iq type='get' id='#'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>", false, "slow"),
	stream("messages to one who does not read", "<message to='mallory@localhost' type='chat' id='#'><body>"+
		strings.Repeat("x", 4000)+"</body></message>", false, "slow"),
}

// While each attack runs, a pair goes on chatting at 50 messages a second: none is lost, their order is
// kept, memory stays bounded; and what the server has acknowledged meanwhile is there after kill -9.
func TestBeside(t *testing.T) {
	s := start(t, "[limits]\nlogin_timeout = '10s'\n", "alice@localhost", "bob@localhost", "carol@localhost",
		"dave@localhost", "mallory@localhost")
	k := s.keep()
	p := s.chat()
	p.chats(t, 25, "alone")
	base := s.rss()
	for _, a := range attacks {
		p.slowest.Store(0)
		before := s.turns()
		stop := make(chan struct{})
		noise := listen(stop)
		var wg sync.WaitGroup
		var mu sync.Mutex
		var wrong error
		rounds := 0
		for who := range 3 {
			wg.Go(func() {
				for {
					err := a.run(s, who, stop)
					mu.Lock()
					rounds++
					if err != nil && wrong == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
						wrong = err
					}
					mu.Unlock()
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
		p.chats(t, 20, a.name) // it goes on while they do
		close(stop)
		stuck := make(chan string, 1)
		look := time.AfterFunc(5*time.Second, func() { stuck <- s.state() })
		wg.Wait()
		if look.Stop() {
			stuck <- ""
		}
		p.settled(t, a.name)
		if state := <-stuck; wrong != nil {
			t.Errorf("%s: %v\n%s", a.name, wrong, state)
		}
		rss := s.rss()
		t.Logf("%-52s %5d rounds, slowest message %8v (the machine alone: %8v), RSS %d MiB, turns over "+
			"16/33/131 ms: %v", a.name, rounds, time.Duration(p.slowest.Load()).Round(10*time.Microsecond), <-noise,
			rss>>20, s.turns().less(before))
		if rss > base+256<<20 {
			t.Errorf("%s: memory grew from %d to %d MiB", a.name, base>>20, rss>>20)
		}
	}
	if n := s.metrics("canto_panics_total"); n[`canto_panics_total{where="loop"}`]+
		n[`canto_panics_total{where="handler"}`] > 0 {
		t.Errorf("panics: %v %s", n, &s.Err)
	}
	for end := time.Now().Add(waitTimeout); ; time.Sleep(100 * time.Millisecond) {
		n := s.metrics("canto_waiting_bytes")
		if len(n) == 2 && n[`canto_waiting_bytes{where="outbox"}`]+n[`canto_waiting_bytes{where="parked"}`] == 0 {
			break
		}
		if time.Now().After(end) {
			t.Errorf("after the attacks still waits: %v", n)
			break
		}
	}
	close(p.stop)
	s.Stop(syscall.SIGKILL)
	p.done.Wait()
	close(k.stop)
	k.done.Wait()
	if err := p.err.Load(); err != nil {
		t.Log(err)
	}
	if len(k.kept) < 50 {
		t.Fatalf("only %d writes: %v", len(k.kept), k.err)
	}
	s.Serve()
	c := s.login("carol", "d")
	c.say("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>")
	roster := c.until("</query></iq>")
	for _, n := range k.kept {
		if !strings.Contains(roster, fmt.Sprintf("'k%d@localhost'", n)) {
			t.Errorf("contact %d of %d was acknowledged and is lost", n, len(k.kept))
		}
	}
	t.Logf("%d messages, %d acknowledged writes", p.seen.Load(), len(k.kept))
}

// The devices of many users, all of them offline, come back at once: each is bound, and what one sends
// reaches the others. (A server that checks itself panics where a loop binds for another.)
func TestDevicesAtOnce(t *testing.T) {
	const users, devices = 30, 4
	var names []string
	for u := range users {
		names = append(names, fmt.Sprintf("user%d@localhost", u))
	}
	s := start(t, "", names...)
	var list []*client
	for i := range users * devices {
		c, _ := s.connect(false, tls.VersionTLS13)
		c.plain(fmt.Sprint("user", i/devices))
		list = append(list, c)
	}
	for i, c := range list {
		c.say(fmt.Sprintf("<iq type='set' id='bind'><bind "+
			"xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>d%d</resource></bind></iq><presence/>", i%devices))
	}
	for i, c := range list {
		if got, want := c.until("</iq>"), fmt.Sprintf("<jid>user%d@localhost/d%d</jid>", i/devices,
			i%devices); !strings.Contains(got, want) {
			t.Fatalf("%s was told %s", want, got)
		}
	}
	for u := range users {
		list[u*devices].say(fmt.Sprintf("<message to='user%d@localhost/d%d' type='chat'><body>user "+
			"%[1]d</body></message>", u, devices-1))
		list[u*devices+devices-1].until(fmt.Sprintf("<body>user %d</body>", u))
	}
	if n := s.metrics("canto_panics_total"); n[`canto_panics_total{where="loop"}`]+
		n[`canto_panics_total{where="handler"}`] > 0 {
		t.Errorf("panics: %v %s", n, &s.Err)
	}
}

// state returns what a server that keeps clients waiting says of itself. Any goroutine.
func (s *server) state() string {
	var b strings.Builder
	for _, path := range []string{"/metrics", "/debug/pprof/goroutine?debug=1"} {
		text, err := s.debug(path)
		if err != nil {
			fmt.Fprintln(&b, err)
		}
		for line := range strings.Lines(text) {
			if path != "/metrics" || strings.HasPrefix(line, "canto_") {
				b.WriteString(line)
			}
		}
	}
	return b.String()
}

// turns counts the turns of all loops that took longer than 16.384, 32.768 and 131.072 ms.
type turns [3]int

func (s *server) turns() (n turns) {
	m := s.metrics("canto_turn_seconds_bucket")
	for i, le := range []string{"0.016384", "0.032768", "0.131072"} {
		for loop := range 64 {
			n[i] += int(m[fmt.Sprintf(`canto_turn_seconds_bucket{loop="%d",le="+Inf"}`, loop)] - m[fmt.Sprintf(
				`canto_turn_seconds_bucket{loop="%d",le=%q}`, loop, le)])
		}
	}
	return n
}

func (n turns) less(o turns) turns {
	for i := range n {
		n[i] -= o[i]
	}
	return n
}

// listen measures how late the machine wakes a goroutine that sleeps a millisecond, until stop.
func listen(stop <-chan struct{}) <-chan time.Duration {
	worst := make(chan time.Duration, 1)
	go func() {
		var max time.Duration
		for {
			select {
			case <-stop:
				worst <- max.Round(10 * time.Microsecond)
				return
			default:
			}
			at := time.Now()
			time.Sleep(time.Millisecond)
			if d := time.Since(at) - time.Millisecond; d > max {
				max = d
			}
		}
	}()
	return worst
}

// tail returns the end of s, for messages.
func tail(s string) string { return s[max(0, len(s)-1000):] }
