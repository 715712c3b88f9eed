package sessiontest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"

	"canto/session"
	"canto/session/jid"
	"canto/session/sessiontest/room"
	"canto/session/stanza"
	"canto/xmlstream"
)

// One order (RFC 6120 section 10.1): all that a room sends to an occupant arrives in the order in which
// the room has sent it, on whichever of four real loops it was sent and delivered.

const (
	orderRoom = "orchard@rooms.localhost"
	farDomain = "far.example" // its occupants have no sockets: see far
)

var (
	logName  = xmlstream.N("urn:canto:test:room", "log")
	lastName = xmlstream.N("urn:canto:test:room", "last")
	numName  = xmlstream.N("", "n")
)

// A view is what one occupant has seen of a room. Messages have the number that the log gave them;
// presence and answers have the number of the last message before them.
type view struct {
	mu   sync.Mutex
	in   bool   // it got the presence that it is an occupant
	last uint64 // number of the last message
	seen int
	sent map[string]int // the number of the last message of each sender

	refused bool // it may not join, as the room's inbox was full (resource-constraint)
}

// see checks one stanza from the room. mine says that it is the occupant's own presence.
func (v *view) see(e xmlstream.Element, mine bool) (fault string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	kind, typ := stanza.KindOf(e), attr(e, stanza.AttrType)
	child, ok := e.Child(logName)
	if kind == stanza.Presence && typ == "error" {
		v.refused = true
		return ""
	}
	if kind == stanza.IQ && typ == "result" {
		child, ok = e.Child(lastName)
	}
	if stream, n := counted(e, "body"); stream != "" && kind == stanza.Message && typ != "error" {
		if v.sent == nil {
			v.sent = make(map[string]int)
		}
		if n <= v.sent[stream] {
			return fmt.Sprintf("message %d of %s after its message %d", n, stream, v.sent[stream])
		}
		v.sent[stream] = n
	}
	if !ok {
		return ""
	}
	n, err := strconv.ParseUint(attr(child, numName), 10, 64)
	switch {
	case err != nil:
		return "no number"
	case kind == stanza.Presence && mine && typ == "":
		if v.in && n != v.last {
			return fmt.Sprintf("it comes at %d, and has seen %d", n, v.last)
		}
		v.in, v.last = true, n
	case !v.in:
	case kind == stanza.Message && n != v.last+1:
		return fmt.Sprintf("message %d after message %d", n, v.last)
	case kind == stanza.Message:
		v.last = n
		v.seen++
	case n != v.last:
		return fmt.Sprintf("an answer of when %d was the last message, after message %d", n, v.last)
	}
	return ""
}

// out makes v no occupant until it joins again.
func (v *view) out() {
	v.mu.Lock()
	v.in = false
	v.mu.Unlock()
}

// entered reports whether the occupant is in the room; if it was refused, entered calls join.
func (v *view) entered(join func()) bool {
	if v.again() {
		join()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.in
}

// again reports whether the occupant was refused, and forgets it.
func (v *view) again() (refused bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	refused, v.refused = v.refused, false
	return refused
}

func (v *view) number() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last
}

// far are occupants at a domain that this server does not serve. The test sees their stanzas where a
// server-to-server module would take them. Two thousand sockets would cost half a minute of logins under
// -race, and would test no more.
type far struct {
	x     *stress
	views map[string]*view // by full JID; not changed while the server runs

	mu    sync.Mutex
	heard map[string]*hearing // by full JID, of occupants that are sockets
	moved int                 // occupants that changed loops during a broadcast
}

// A hearing says which loop serves an occupant with a socket.
type hearing struct {
	loop, times int // the loop that has delivered the last message to it, and the last so many
	home        int // loop of its connection
	from        int // the loop before, if it joined during a broadcast; else negative
}

// heardBy returns the hearing of an occupant. Under mu.
func (f *far) heardBy(full string) *hearing {
	h := f.heard[full]
	if h == nil {
		h = &hearing{loop: -1, from: -1}
		f.heard[full] = h
	}
	return h
}

func (f *far) manifest() session.Manifest {
	return session.Manifest{Name: "far", Spec: "a test", New: func() session.Module { return f }}
}

func (f *far) Load(api *session.API) error {
	// On the host of the sockets: which loop delivers the room's broadcasts.
	api.Hooks.Message[session.ToFull].Add(api.Module, session.Guard, func(ev *session.Stanza) session.Verdict {
		if ev.Type != stanza.TypeGroupchat {
			return session.Pass
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		h, loop := f.heardBy(ev.To.String()), ev.LoopRouter().Loop.Index()
		if h.loop != loop {
			h.loop, h.times = loop, 0
		}
		// It was served by another loop than that of its connection, and is now served by that one, more than
		// once by chance. That is not the loop that its address would have without a connection.
		if h.times++; h.times == 3 && h.from >= 0 {
			if loop == h.home && loop != h.from && loop != int(ev.To.Partition())%len(f.x.srv.Router.LoopRouters()) {
				f.moved++
			}
			h.from = -1
		}
		return session.Pass
	})
	api.Hooks.Bound.Add(api.Module, session.Guard, func(l *session.LoopRouter, s *session.Session) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.heardBy(s.JID().String()).home = l.Loop.Index()
	})
	// On the host of the room: stanzas that arrive while only some occupants have its last message.
	rooms := api.Hooks.Serve(room.Kind)
	rooms.Presence[session.ToFull].Add(api.Module, session.Guard, func(ev *session.Stanza) session.Verdict {
		if !f.under() {
			return session.Pass
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if h := f.heardBy(ev.From.String()); ev.Type == stanza.TypeNone && h.times >= 3 {
			h.from, h.times = h.loop, 0
		}
		return session.Pass
	})
	api.Hooks.Remote.Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
		v := f.views[ev.To.String()]
		if v == nil {
			return session.Pass
		}
		if fault := v.see(ev.Element, ev.From.Resource() == ev.To.Local()); fault != "" {
			f.x.fault("%s: %s: %s", ev.To, fault, ev.Element.Raw())
		}
		return session.Done
	})
	return nil
}

// under reports whether a broadcast is under way: some occupants have a message that others have not.
func (f *far) under() bool {
	least, most := uint64(math.MaxUint64), uint64(0)
	for _, v := range f.views {
		v.mu.Lock()
		if v.in {
			least, most = min(least, v.last), max(most, v.last)
		}
		v.mu.Unlock()
	}
	return least < most
}

// hasMoved returns how many occupants have changed loops during a broadcast.
func (f *far) hasMoved() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.moved
}

// say makes a loop send something to the room, as if it came from that occupant's server.
func (f *far) say(rnd *rand.Rand, from, resource, el string) {
	j, err := jid.Parse(from)
	if err != nil {
		f.x.fault("%v", err)
		return
	}
	to := orderRoom
	if resource != "" {
		to += "/" + resource
	}
	orchard, err := jid.Parse(to)
	if err != nil {
		f.x.fault("%v", err)
		return
	}
	locals := f.x.srv.Router.LoopRouters()
	l := locals[rnd.IntN(len(locals))]
	l.Loop.Post(func() { l.Enter(func() { l.Send(j, orchard, []byte(el)) }) })
}

// An occupant has a connection. Each time it joins it has another nick, so that it knows which join a
// presence is about.
type occupant struct {
	*stressClient
	v     *view
	local string
	comes int
	nick  string    // under mu
	nicks *sync.Map // the last nick of each
}

// enter logs in, on any loop, and joins.
func (x *stress) enter(local string, nicks *sync.Map) *occupant {
	c, err := x.login(local, stressHost, "home", false)
	if err != nil {
		return nil
	}
	o := &occupant{stressClient: c, v: new(view), local: local, nicks: nicks}
	c.mu.Lock()
	c.hear = func(e xmlstream.Element) {
		if !strings.HasPrefix(attr(e, stanza.AttrFrom), orderRoom) {
			return
		}
		if fault := o.v.see(e, attr(e, stanza.AttrFrom) == orderRoom+"/"+o.nick); fault != "" {
			x.fault("%s (stream %d): %s: %s", c.full, c.number, fault, e.Raw())
		}
	}
	c.mu.Unlock()
	o.come()
	return o
}

// come joins under a new nick.
func (o *occupant) come() {
	o.comes++
	o.mu.Lock()
	o.nick = fmt.Sprintf("%s-%d-%d", o.local, o.number, o.comes)
	o.mu.Unlock()
	o.nicks.Store(o.local, o.nick)
	o.join()
}

func (o *occupant) join() { o.send("<presence to='" + orderRoom + "/" + o.nick + "'/>") }

// speak sends the room a message for all.
func (o *occupant) speak() {
	o.seq++
	o.send(fmt.Sprintf("<message to='%s' type='groupchat'><body>%d %d</body></message>", orderRoom, o.number,
		o.seq))
}

// whisper sends a message to one occupant.
func (o *occupant) whisper(local string) {
	nick, ok := o.nicks.Load(local)
	if !ok {
		return
	}
	o.seq++
	o.send(fmt.Sprintf("<message to='%s/%s' type='chat'><body>%d %d</body></message>", orderRoom, nick,
		o.number, o.seq))
}

// TestOneOrder has clients of four loops speak in one room, to all and to one, ask it what its last
// message was, leave it and come back, and bind again on other connections. CANTO_STRESS_SEED and
// CANTO_STRESS_SIZE are as in TestStress.
func TestOneOrder(t *testing.T) {
	seed, size := stressNumber(t, "CANTO_STRESS_SEED", 1), int(stressNumber(t, "CANTO_STRESS_SIZE", 1))
	for _, c := range []struct{ clients, far, steps int }{{5, 0, 120}, {64, 0, 12}, {40, 1960, 8}} {
		t.Run(fmt.Sprint(c.clients+c.far), func(t *testing.T) { oneOrder(t, seed, c.clients, c.far, c.steps*size) })
	}
}

func oneOrder(t *testing.T, seed uint64, clients, others, steps int) {
	f := &far{views: make(map[string]*view), heard: make(map[string]*hearing)}
	x := newStress(t, f)
	names := make([]string, others)
	for i := range names {
		names[i] = fmt.Sprintf("far%d@%s/x", i, farDomain)
		f.views[names[i]] = new(view)
	}
	var nicks sync.Map
	nick := func(i int) string { return fmt.Sprint("user", i) }
	for i := range clients {
		x.create(nick(i), stressHost)
	}
	first := x.enter(nick(0), &nicks) // which stays
	if first == nil {
		t.Fatal("no login")
	}
	rnd := rand.New(rand.NewPCG(seed, 2000))
	if !until(func() bool { return first.v.entered(first.join) }) {
		t.Fatal("the first does not come in")
	}
	const share = 32 // at a time: the inbox of the room takes 64 stanzas
	for at := 0; at < len(names); at += share {
		some := names[at:min(at+share, len(names))]
		for i, name := range some {
			f.say(rnd, name, fmt.Sprint("far", at+i), "<presence/>")
		}
		for i, name := range some {
			if !until(func() bool {
				return f.views[name].entered(func() { f.say(rnd, name, fmt.Sprint("far", at+i), "<presence/>") })
			}) {
				t.Fatalf("%s does not come in", name)
			}
		}
	}
	var all sync.WaitGroup
	last := make([]*occupant, clients)
	last[0] = first
	for i := range clients {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			o := first
			if i > 0 {
				o = x.enter(nick(i), &nicks)
			}
			for range steps {
				if o == nil || o.gone() {
					o = x.enter(nick(i), &nicks)
					continue
				}
				switch n := rnd.IntN(16); {
				case n < 6:
					o.speak()
				case n < 8:
					o.whisper(nick(rnd.IntN(clients)))
				case n < 11:
					o.ask("get", orderRoom, "<last xmlns='urn:canto:test:room'/>", false)
				case n < 12:
					o.settle()
				case n < 13 && i > 0:
					o.v.out()
					o.send("<presence type='unavailable' to='" + orderRoom + "/" + o.nick + "'/>")
					o.come()
				case n < 14 && i > 0: // the same session's address, by another connection
					o.v.out()
					o.mu.Lock()
					o.left = true
					o.mu.Unlock()
					o = x.enter(nick(i), &nicks)
				default:
					if others == 0 {
						o.speak()
						continue
					}
					k := rnd.IntN(others)
					switch rnd.IntN(4) {
					case 0:
						f.views[names[k]].out()
						f.say(rnd, names[k], fmt.Sprint("far", k), "<presence type='unavailable'/>")
					default:
						f.say(rnd, names[k], "", "<iq type='get' id='1'><last xmlns='urn:canto:test:room'/></iq>")
					}
				}
			}
			last[i] = o
		})
	}
	all.Wait()
	// An occupant that joins again by a connection of another loop during a broadcast is moved to that loop
	// after it.
	moves := rand.New(rand.NewPCG(seed, 3000))
	if others > 0 && !until(func() bool {
		if f.hasMoved() > 0 {
			return true
		}
		for range 4 {
			first.speak()
		}
		for range 8 {
			i := 1 + moves.IntN(clients-1)
			if o := last[i]; o != nil {
				o.leave(2)
			}
			last[i] = x.enter(nick(i), &nicks)
		}
		for range 4 { // so that each new occupant gets more than one
			first.speak()
		}
		first.ask("get", orderRoom, "<last xmlns='urn:canto:test:room'/>", false)
		first.settle()
		return false
	}) {
		t.Error("no occupant has changed loops while something was spread")
	}
	// Each occupant gets the last message, and nothing is in flight any more.
	for _, o := range last {
		if o != nil && !o.gone() {
			o.settle()
		}
	}
	if first.gone() {
		t.Fatalf("the stream that stays has ended: %s", first.cause)
	}
	first.ask("get", orderRoom, "<last xmlns='urn:canto:test:room'/>", false)
	first.settle()
	end := first.v.number()
	for _, o := range last {
		if o != nil && !o.gone() && !until(func() bool {
			if o.v.again() { // its leaving may have met a full inbox too
				o.send("<presence type='unavailable' to='" + orderRoom + "/" + o.nick + "'/>")
				o.join()
			}
			return o.v.number() == first.v.number()
		}) {
			t.Errorf("%s has seen %d of %d", o.full, o.v.number(), first.v.number())
		}
	}
	end = first.v.number()
	seen, there := 0, 0
	for name, v := range f.views {
		at := func() (in bool, last uint64) {
			v.mu.Lock()
			defer v.mu.Unlock()
			return v.in, v.last
		}
		if in, _ := at(); in {
			there++
			if !until(func() bool { _, last := at(); return last == end }) {
				_, last := at()
				t.Errorf("%s has seen %d of %d", name, last, end)
			}
		}
		v.mu.Lock()
		seen += v.seen
		v.mu.Unlock()
	}
	t.Logf("%d messages, %d deliveries to occupants without a socket, of whom %d are there; %d were moved",
		end, seen, there, f.hasMoved())
	if there < others/2 {
		t.Errorf("only %d of %d occupants without a socket are there in the end", there, others)
	}
	if end < uint64(clients) || others > 0 && seen < others {
		t.Errorf("only %d messages, %d deliveries", end, seen)
	}
	for _, o := range last {
		if o != nil {
			o.leave(2)
		}
	}
	x.log.mu.Lock()
	defer x.log.mu.Unlock()
	if n := len(x.log.panics); n > 0 {
		t.Errorf("%d panics: %s", n, x.log.panics[0])
	}
}
