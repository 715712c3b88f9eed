package stub

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"canto/session/sasl"
	"canto/session/stanza"
)

// talk has bench1 send n messages to bench2, and returns the ids that arrived, in order.
func talk(t *testing.T, s *Server, a, b *peer, n int) string {
	t.Helper()
	for i := 1; i <= n; i++ {
		a.say("<message to='%s' type='chat' id='%d'><body>x</body></message>", b.jid, i)
	}
	a.say("<iq type='get' id='end' to='%s'><ping xmlns='urn:xmpp:ping'/></iq>", b.jid)
	var got []string
	for {
		e, err := b.next()
		if err != nil {
			t.Fatal(err)
		}
		id := attr(e, stanza.AttrID)
		if id == "end" {
			return strings.Join(got, " ")
		}
		got = append(got, id)
	}
}

func TestDropDuplicateReorder(t *testing.T) {
	s := start(t, Config{ReorderTimeout: time.Hour})
	a, b := online(t, s, 1), online(t, s, 2)
	for _, c := range []struct {
		set  func()
		want string
	}{
		{func() {}, "1 2 3 4 5 6 7"},
		{func() { s.Faults.Drop(3) }, "1 2 4 5 7"},
		{func() { s.Faults.Drop(0); s.Faults.Duplicate(2) }, "1 2 2 3 4 4 5 6 6 7"},
		{func() { s.Faults.Duplicate(0); s.Faults.Reorder(3) }, "1 2 4 3 5 7 6"},
		{func() { s.Faults.Reorder(2) }, "1 3 2 5 4 7 6"},
		{func() { s.Faults.Reorder(0) }, "1 2 3 4 5 6 7"},
	} {
		c.set()
		if got := talk(t, s, a, b, 7); got != c.want {
			t.Errorf("%s arrived, not %s", got, c.want)
		}
	}
	if st := s.Stats(); st.Routed != 6*7 || st.Dropped != 2 || st.Duplicated != 3 || st.Reordered != 2+3 {
		t.Errorf("%+v", st)
	}
}

// A message that is held for nothing is not lost, and not counted.
func TestHeldMessageIsReleased(t *testing.T) {
	s := start(t, Config{ReorderTimeout: time.Millisecond})
	a, b := online(t, s, 1), online(t, s, 2)
	s.Faults.Reorder(1)
	a.say("<message to='%s' id='only'/>", b.jid)
	b.get("id='only'")

	s2 := start(t, Config{ReorderTimeout: time.Hour})
	a, b = online(t, s2, 1), online(t, s2, 2)
	s2.Faults.Reorder(1)
	a.say("<message to='%s' id='only'/>", b.jid)
	a.quiet() // it was routed
	b.quiet() // and held
	s2.Faults.Reorder(0)
	b.get("id='only'")
	s2.Faults.Reorder(1)
	a.say("<message to='%s' id='last'/>", b.jid)
	a.nc.Close()
	b.get("id='last'")
	if n := s.Stats().Reordered + s2.Stats().Reordered; n != 0 {
		t.Errorf("%d were counted", n)
	}
}

// Faults of a room's messages are counted by receivers.
func TestDropInRoom(t *testing.T) {
	s := start(t, Config{})
	a, b := online(t, s, 1), online(t, s, 2)
	for i, p := range []*peer{a, b} {
		p.say("<presence to='r@conference.localhost/%d'/>", i)
		for range i + 2 { // presences and the subject
			p.get()
		}
	}
	a.get("/1")
	s.Faults.Drop(4)
	for i := range 2 {
		a.say("<message type='groupchat' to='r@conference.localhost' id='%d'/>", i)
	}
	a.get("id='0'")
	a.get("id='1'")
	b.get("id='0'")
	a.quiet()
	b.quiet()
	if st := s.Stats(); st.Routed != 4 || st.Dropped != 1 {
		t.Errorf("%+v", st)
	}
}

func TestErrorEvery(t *testing.T) {
	s := start(t, Config{})
	a, b := online(t, s, 1), online(t, s, 2)
	s.Faults.ErrorEvery(2, "resource-constraint")
	for i := 1; i <= 4; i++ {
		a.say("<message to='%s' id='m%d'/>", b.jid, i)
	}
	a.get("type='error'", "id='m2'", "type='wait'", "resource-constraint")
	a.get("type='error'", "id='m4'")
	b.get("id='m1'")
	b.get("id='m3'")
	a.say("<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq><iq type='get' id='2'><ping " +
		"xmlns='urn:xmpp:ping'/></iq>")
	a.get("id='1'", "result")
	a.get("id='2'", "resource-constraint")
	s.Faults.ErrorEvery(0, "")
	a.quiet()
	a.quiet()
	if st := s.Stats(); st.Bounced != 2 || st.FailedIQs != 1 || st.Routed != 2 {
		t.Errorf("%+v", st)
	}
}

func TestStall(t *testing.T) {
	s := start(t, Config{})
	a, b := online(t, s, 1), online(t, s, 2)
	const d = 150 * time.Millisecond
	began := time.Now()
	s.Faults.Stall(d / 8)
	s.Faults.Stall(d)     // goes on for longer
	s.Faults.Stall(d / 4) // ends nothing
	if got := talk(t, s, a, b, 3); got != "1 2 3" {
		t.Errorf("%s arrived", got)
	}
	if took := time.Since(began); took < d {
		t.Errorf("%v, and the server was to stall for %v", took, d)
	}
	began = time.Now()
	s.Faults.Stall(d)
	login(t, s, 3)
	if took := time.Since(began); took < d {
		t.Errorf("a login took %v", took)
	}
	s.Faults.Stall(time.Hour) // does not keep Close waiting
}

// What waits to be written waits as well.
func TestStallHoldsWrites(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	go io.Copy(io.Discard, far)
	var g stallGate
	const d = 50 * time.Millisecond
	began := time.Now()
	g.shut(d)
	if _, err := (stallConn{near, &g}).Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < d {
		t.Errorf("written after %v", took)
	}
}

// Each delivery has its own time.
func TestQueueKeepsTimes(t *testing.T) {
	s := start(t, Config{})
	near, far := net.Pipe()
	defer far.Close()
	c := &client{s: s, raw: near, nc: near, wake: make(chan struct{}, 1), done: make(chan struct{})}
	began := time.Now()
	const d = 50 * time.Millisecond
	c.push(delivery{b: []byte("1")})
	c.push(delivery{due: began.Add(d), b: []byte("2")})
	c.push(delivery{b: []byte("3")})
	c.finish()
	s.wg.Add(1)
	go c.deliver()
	b := make([]byte, 1)
	for i, want := range "123" {
		if _, err := io.ReadFull(far, b); err != nil || rune(b[0]) != want {
			t.Fatalf("%q, %v", b, err)
		}
		if took := time.Since(began); i > 0 && took < d {
			t.Errorf("%q came after %v", b, took)
		}
	}
}

func TestDelay(t *testing.T) {
	s := start(t, Config{})
	a, b := online(t, s, 1), online(t, s, 2)
	const d = 100 * time.Millisecond
	s.Faults.Delay(d)
	began := time.Now()
	a.say("<message to='%s' id='first'/>", b.jid)
	a.quiet()
	s.Faults.Delay(0)
	a.say("<message to='%s' id='second'/>", b.jid)
	b.get("id='first'")
	if took := time.Since(began); took < d {
		t.Errorf("delivered after %v", took)
	}
	b.get("id='second'")
}

func TestSlowAndRefusedLogins(t *testing.T) {
	s := start(t, Config{})
	const d = 100 * time.Millisecond
	s.Faults.SlowLogin(d)
	began := time.Now()
	login(t, s, 1)
	if took := time.Since(began); took < d {
		t.Errorf("logged in after %v", took)
	}
	s.Faults.SlowLogin(0)
	s.Faults.RefuseLogins("temporary-auth-failure")
	p := dial(t, s.Addr())
	p.open()
	c := func() *sasl.Client {
		return &sasl.Client{Mechanism: sasl.ScramSHA1, Username: "bench2", Password: sasl.SecretString("bench")}
	}
	if e := p.auth(c()); !strings.Contains(string(e.Raw()), "<temporary-auth-failure/>") {
		t.Errorf("%s", e.Raw())
	}
	s.Faults.RefuseLogins("")
	if e := p.auth(c()); string(e.Local()) != "success" {
		t.Errorf("%s", e.Raw())
	}
	if st := s.Stats(); st.Refused != 1 {
		t.Errorf("%+v", st)
	}
}

func TestCloseSome(t *testing.T) {
	s := start(t, Config{})
	var all []*peer
	for i := range 3 {
		all = append(all, login(t, s, i))
	}
	if n := s.Faults.Close(2); n != 2 {
		t.Errorf("%d were dropped", n)
	}
	for _, p := range all[:2] {
		if e, err := p.next(); err == nil {
			t.Errorf("%s", e.Raw())
		}
	}
	all[2].quiet()
	if n := s.Faults.Close(5); n != 1 {
		t.Errorf("%d were left to drop", n)
	}
	all[2].next()
	if st := s.Stats(); st.Severed != 3 {
		t.Errorf("%+v", st)
	}
}

// Many talk at once while faults change: for the race detector, and every message is accounted for.
func TestMany(t *testing.T) {
	s := start(t, Config{ReorderTimeout: time.Hour})
	const pairs, each = 8, 50
	s.Faults.Drop(7)
	s.Faults.Duplicate(5)
	got := make(chan int, pairs)
	for i := range pairs {
		a, b := online(t, s, 2*i), online(t, s, 2*i+1)
		go func() {
			for k := range each {
				fmt.Fprintf(a.nc, "<message to='%s' id='%d'/>", b.jid, k)
			}
			fmt.Fprintf(a.nc, "<iq type='get' id='end' to='%s'><ping xmlns='urn:xmpp:ping'/></iq>", b.jid)
		}()
		go func() {
			n := 0
			for {
				e, err := b.next()
				if err != nil || attr(e, stanza.AttrID) == "end" {
					got <- n
					return
				}
				n++
			}
		}()
	}
	s.Faults.Delay(time.Microsecond)
	sum := 0
	for range pairs {
		sum += <-got
	}
	st := s.Stats()
	if st.Routed != pairs*each || sum != int(st.Routed-st.Dropped+st.Duplicated) || st.Dropped != pairs*each/7 {
		t.Errorf("%d arrived: %+v", sum, st)
	}
}
