package sm_test

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod/sm"
	"canto/session/sessiontest"
	"canto/session/store"
)

// TestModel runs two accounts with three devices, whose clients keep to XEP-0198, while connections are lost,
// sessions are resumed, refused and expire, accounts are kicked and rest, and the server is restarted and
// crashes, also between two commits. A message that the server has acknowledged, or of which an h in
// <resumed/> or <failed/> says so,
//
//   - is exactly once in the archive of each side, and on each device after its catch-up, with one id;
//   - comes live to a session at most once, in its sender's order, and exactly once while the device is
//     available with copies (XEP-0280), over all connections of the session;
//   - comes to one device at least if it is not archived, unless a connection had it when the server crashed.
//
// An h is never lower than one before, and never higher than what was sent. A session that the server has to
// have is resumed; contacts do not see it leave. At the end the store has no session and no deadline.
//
// CANTO_SEEDS is how many cases run.
func TestModel(t *testing.T) {
	was, checks := flag.Lookup("rapid.checks").Value.String(), "20" // .ci/run runs more
	if testing.Short() {
		checks = "4"
	}
	if err := flag.Set("rapid.checks", cmp.Or(os.Getenv("CANTO_SEEDS"), checks)); err != nil {
		t.Fatal(err)
	}
	defer flag.Set("rapid.checks", was)
	events := map[string]int{} // what has happened in all cases
	rapid.Check(t, func(rt *rapid.T) {
		m := newConversation(t, events)
		rt.Repeat(map[string]func(*rapid.T){
			"send":     m.sendSome,
			"send 2":   m.sendSome, // more than once in the list: it is drawn more often
			"send 3":   m.sendSome,
			"cut":      m.cut,
			"cut 2":    m.cut,
			"resume":   m.resumeOne,
			"resume 2": m.resumeOne,
			"resume 3": m.resumeOne,
			"log in":   m.logIn,
			"ack":      m.ackOne,
			"request":  m.requestOne,
			"log out":  m.logOut,
			"presence": m.presence,
			"kick":     m.kick,
			"expire":   m.expire,
			"rest":     m.rest,
			"restart":  m.restart,
			"crash":    m.crash,
		})
		m.check(rt)
		m.s.DB.Close()
	})
	t.Log(events)
}

// A message of the model.
type message struct {
	text     string
	by       *device
	to       int // account
	archived bool
	known    int  // how many ids its sender knew when it sent it
	acked    bool // the server has acknowledged it
	unsure   bool // its client has found it in its archive after a crash: the other side may not have it
	again    bool // it may come with two ids, or twice without one
	lost     bool // a connection had it when the server crashed
	late     bool // it waited in a session that has ended, so that it comes after newer ones
	came     bool // a device of the recipient has it
}

// An outgoing is a stanza that a client keeps until it is acknowledged.
type outgoing struct {
	el string
	m  *message // nil: another stanza
}

// A device of the model, with its client.
type device struct {
	account  int
	resource string
	renamed  int // how often it has taken another resource
	full     string
	client   *sessiontest.Client // nil: it has no connection

	// The session, which outlives the connection.
	id        string // with which it is resumed; empty: it can't be
	alive     bool   // there is one, as far as the client knows
	in        uint32 // stanzas handled
	out       uint32 // stanzas sent
	acked     uint32 // of these
	queue     []outgoing
	unacked   []*message        // messages that it has handled and not acknowledged
	onTheWay  int               // so many of them are acknowledged when the server has read that
	given     map[*message]bool // messages without an archive that its connections had, unacknowledged
	came      map[*message]int  // how often each message came live
	order     []*message        // in which order
	complete  bool              // from the message since on all come live
	since     int
	answers   bool      // the client answers each request
	unsettled bool      // it was cut since the server had nothing left to do
	crashed   bool      // the server has crashed while it had a connection
	kicked    bool      // the server has ended it
	sure      time.Time // until then the server has to have it
	reply     string    // to <resume/>

	// The client's history.
	pending []*message // to be sent again after the next login
	checked bool       // ... those that the archive does not have
	ids     []string   // in the order of the pages, and in which they came to a session that gets all
	seen    map[string]bool
	own     map[string]bool  // texts by it that it has read in its archive
	texts   map[*message]int // how many ids it has of each message
	plain   map[*message]int // how often it came without an id
	ends    int              // how many of its sessions have ended
	noticed map[*device]int  // ends of others when they were last unavailable
	logins  int              // of its account, when the session began
}

// A conversation is the server, and what must be true of it.
type conversation struct {
	s        *sessiontest.Server
	devices  []*device
	messages []*message
	byText   map[string]*message
	logins   int
	begun    [2]int // sessions of each account
	gate     gate
	events   map[string]int
}

// accounts are the model's accounts.
var accounts = [2]string{"romeo@localhost", "juliet@localhost"}

// keptFor is how long a session is kept without a connection.
const keptFor = 10 * time.Minute

// A gate holds the writes of the store while it is closed. It lets a crash come at a known place.
type gate struct{ held atomic.Pointer[chan struct{}] }

// fault is the store's Fault.
func (g *gate) fault(write bool) error {
	if held := g.held.Load(); write && held != nil {
		<-*held
		return errors.New("the process is killed")
	}
	return nil
}

// close holds the writes from now on.
func (g *gate) close() {
	held := make(chan struct{})
	g.held.Store(&held)
}

// kill makes the writes that are held fail. Later ones are not held.
func (g *gate) kill() { close(*g.held.Swap(nil)) }

// newConversation returns a server with the accounts, which are contacts of each other.
func newConversation(t *testing.T, events map[string]int) *conversation {
	lim := session.DefaultLimits()
	lim.Rate = 0
	m := &conversation{byText: map[string]*message{}, events: events}
	m.s = sessiontest.New(t, sessiontest.Options{Limits: &lim, Fault: m.gate.fault})
	for i, bare := range accounts {
		m.s.AddAccount(bare)
		c := m.s.Login(fmt.Sprint("contact ", i), bare+"/contact")
		c.Send("<presence type='subscribed' to='" + accounts[1-i] + "'/>")
		c.Send("<presence type='subscribe' to='" + accounts[1-i] + "'/>")
		m.s.Settle()
	}
	for i := range accounts { // the second one has accepted before it was asked
		c := m.s.Client(fmt.Sprint("contact ", i))
		c.Send("<presence type='subscribed' to='" + accounts[1-i] + "'/></stream:stream>")
		m.s.Settle()
	}
	for i, resource := range []string{"orchard", "phone", "balcony"} {
		m.devices = append(m.devices, &device{account: i / 2, resource: resource,
			full: accounts[i/2] + "/" + resource, seen: map[string]bool{}, own: map[string]bool{},
			texts: map[*message]int{}, plain: map[*message]int{}, noticed: map[*device]int{}})
	}
	return m
}

// devicesThat returns the devices for which f is true.
func (m *conversation) devicesThat(f func(d *device) bool) (list []*device) {
	for _, d := range m.devices {
		if f(d) {
			list = append(list, d)
		}
	}
	return list
}

// online returns the devices with a connection.
func (m *conversation) online() []*device {
	return m.devicesThat(func(d *device) bool { return d.client != nil })
}

// pick draws a device of a list; nil: it is empty.
func pick(t *rapid.T, list []*device) *device {
	if len(list) == 0 {
		return nil
	}
	var names []string
	for _, d := range list {
		names = append(names, d.resource)
	}
	name := rapid.SampledFrom(names).Draw(t, "device")
	return list[slices.Index(names, name)]
}

// settle lets the server do what is left, and the clients read, until nothing is left. Then it checks what is
// true whenever that is so.
func (m *conversation) settle(t *rapid.T) {
	for again := true; again; {
		m.s.Settle()
		again = false
		for _, d := range m.online() {
			again = m.read(t, d, -1) || again
		}
	}
	for _, d := range m.devices {
		d.unsettled = d.unsettled && d.client != nil
		m.hasAcknowledged(d, d.onTheWay)
	}
	m.checkSessions(t)
}

// write sends a stanza of d. It does not run the server.
func (m *conversation) write(t *rapid.T, d *device, el string, msg *message) {
	t.Logf("%s sends %s", d.resource, el)
	d.client.Conn().Write([]byte(el))
	d.out++
	d.queue = append(d.queue, outgoing{el, msg})
}

// The parts of an element that a client looks at.
var (
	idOfPage  = regexp.MustCompile(`<result [^>]*id='(\w{26})'`)
	ownID     = regexp.MustCompile(`<stanza-id xmlns='urn:xmpp:sid:0' id='(\w{26})'`)
	bodyText  = regexp.MustCompile(`<body>(text \d+)</body>`)
	countOf   = regexp.MustCompile(` h='(\d+)'`)
	idOf      = regexp.MustCompile(` id='([^']*)'`)
	leaver    = regexp.MustCompile(`^<presence type='unavailable' from='([^']*)'`)
	namespace = "xmlns='urn:xmpp:sm:3'"
)

// match returns what the first group of re matches in el, or an empty string.
func match(re *regexp.Regexp, el string) string {
	if f := re.FindStringSubmatch(el); f != nil {
		return f[1]
	}
	return ""
}

// read handles the first n elements that have come to d; all, if n is negative. It reports whether the client
// has answered.
func (m *conversation) read(t *rapid.T, d *device, n int) (answered bool) {
	list := d.client.Stanzas()
	for i, el := range list {
		if msg := m.byText[match(bodyText, el)]; msg != nil && !msg.archived && strings.HasPrefix(el, "<message") {
			d.given[msg] = true
		}
		if n >= 0 && i >= n {
			t.Logf("%s does not get %s", d.resource, el)
			m.events["lost on the way"]++
			continue
		}
		answered = m.handle(t, d, el) || answered
	}
	return answered
}

// handle handles one element that has come to d.
func (m *conversation) handle(t *rapid.T, d *device, el string) (answered bool) {
	t.Logf("%s gets %s", d.resource, el)
	switch {
	case strings.HasPrefix(el, "<r "+namespace):
		if d.answers {
			m.ack(d)
		}
		return d.answers
	case strings.HasPrefix(el, "<a "+namespace):
		m.acknowledged(t, d, el)
	case strings.HasPrefix(el, "<enabled "):
		d.id, d.in, d.out, d.acked = match(idOf, el), 0, 0, 0
	case strings.HasPrefix(el, "<resumed "), strings.HasPrefix(el, "<failed "):
		d.reply = el
	case strings.HasPrefix(el, "<success xmlns='urn:xmpp:sasl:2'"):
		d.reply = el
	case strings.HasPrefix(el, "<presence"):
		d.in++
		m.sawPresence(t, d, el)
	case strings.HasPrefix(el, "<iq"):
		d.in++
		if strings.Contains(el, "id='page'") {
			d.reply = el
		}
	case strings.HasPrefix(el, "<message"):
		d.in++
		m.cameTo(t, d, el)
	case strings.Contains(el, "<conflict"), strings.Contains(el, "<system-shutdown"),
		strings.Contains(el, "<policy-violation"):
	case strings.HasPrefix(el, "<stream:error"):
		t.Fatalf("%s: %s", d.full, el)
	}
	return false
}

// acknowledged notes that the server has handled the first h stanzas of d, as el says.
func (m *conversation) acknowledged(t *rapid.T, d *device, el string) {
	v, err := strconv.ParseUint(match(countOf, el), 10, 32)
	h := uint32(v)
	if err != nil || h < d.acked || h > d.out {
		t.Fatalf("%s has sent %d stanzas, %d of them acknowledged, and gets %s", d.full, d.out, d.acked, el)
	}
	for _, o := range d.queue[:h-d.acked] {
		if o.m != nil {
			o.m.acked = true
		}
	}
	d.queue, d.acked = d.queue[h-d.acked:], h
}

// ack sends <a/> for all that d has handled.
func (m *conversation) ack(d *device) {
	d.client.Conn().Write([]byte(fmt.Sprintf("<a %s h='%d'/>", namespace, d.in)))
	d.onTheWay = len(d.unacked)
}

// hasAcknowledged notes that the server knows that d has handled the first n messages.
func (m *conversation) hasAcknowledged(d *device, n int) {
	for _, msg := range d.unacked[:n] {
		delete(d.given, msg)
	}
	d.unacked, d.onTheWay = d.unacked[n:], 0
}

// sawPresence checks that a contact that leaves has had a session that ended.
func (m *conversation) sawPresence(t *rapid.T, d *device, el string) {
	from := match(leaver, el)
	for _, other := range m.devices {
		if from != other.full || other.account == d.account {
			continue
		}
		if d.noticed[other] == other.ends {
			t.Fatalf("%s sees %s leave, which has not ended: %s", d.full, from, el)
		}
		d.noticed[other] = other.ends
	}
}

// cameTo notes a message that has come to d.
func (m *conversation) cameTo(t *rapid.T, d *device, el string) {
	if strings.HasPrefix(el, "<message type='error'") {
		t.Fatalf("%s gets an error: %s", d.full, el)
	}
	msg := m.byText[match(bodyText, el)]
	if msg == nil {
		return
	}
	id := match(idOfPage, el)
	if id != "" {
		d.reply += id + "\n"
		if msg.by == d {
			d.own[msg.text] = true
			d.seen[id] = true
		}
	} else {
		id = match(ownID, el)
		m.cameLive(t, d, msg, id, el)
	}
	if id == "" {
		if strings.Contains(el, "<received xmlns='urn:xmpp:carbons:2'") {
			return // the message itself may wait, and come to a later session
		}
		if d.plain[msg]++; d.plain[msg] > 1 && !msg.again {
			t.Fatalf("%q has come to %s twice", msg.text, d.full)
		}
		return
	}
	if d.seen[id] {
		return
	}
	d.seen[id] = true
	if d.texts[msg]++; d.texts[msg] > 1 && !msg.again {
		t.Fatalf("%q has come to %s with two ids: %s", msg.text, d.full, el)
	}
}

// cameLive notes a message that has come live or from offline storage.
func (m *conversation) cameLive(t *rapid.T, d *device, msg *message, id, el string) {
	msg.came = msg.came || msg.to == d.account
	d.unacked = append(d.unacked, msg)
	if (id == "") == msg.archived {
		t.Fatalf("archived: %v, but %s gets %s", msg.archived, d.full, el)
	}
	if d.came[msg]++; d.came[msg] > 1 && !msg.again {
		t.Fatalf("%q has come live to %s twice in one session", msg.text, d.full)
	}
	if !msg.late && !msg.again {
		for _, other := range d.order {
			if other.by == msg.by && slices.Index(m.messages, other) > slices.Index(m.messages, msg) {
				t.Fatalf("%q has come to %s after %q", msg.text, d.full, other.text)
			}
		}
		d.order = append(d.order, msg)
	}
	if d.complete && id != "" {
		d.ids = append(d.ids, id)
	}
}

// checkSessions checks that the sessions that get all messages live have got them.
func (m *conversation) checkSessions(t *rapid.T) {
	for _, d := range m.online() {
		if !d.complete {
			continue
		}
		for _, msg := range m.messages[d.since:] {
			if msg.acked && msg.by != d && d.came[msg] == 0 && !msg.unsure && !msg.lost {
				t.Fatalf("%q has not come to %s, whose session gets all", msg.text, d.full)
			}
		}
	}
}

// sendSome sends some messages. If no device is connected it logs one in.
func (m *conversation) sendSome(t *rapid.T) {
	if len(m.online()) == 0 {
		m.logIn(t)
	}
	for range rapid.IntRange(1, 4).Draw(t, "messages") {
		d := pick(t, m.online())
		msg := &message{text: fmt.Sprint("text ", len(m.messages)), by: d, to: 1 - d.account, archived: true,
			known: len(d.ids)}
		to := accounts[msg.to]
		if rapid.IntRange(0, 2).Draw(t, "full") == 0 {
			to = pick(t, m.devicesThat(func(o *device) bool { return o.account == msg.to })).full
		}
		hint := ""
		if rapid.IntRange(0, 3).Draw(t, "hint") == 3 {
			hint, msg.archived = "<no-permanent-store xmlns='urn:xmpp:hints'/>", false
		}
		m.messages, m.byText[msg.text] = append(m.messages, msg), msg
		m.write(t, d, "<message to='"+to+"' type='chat' id='"+msg.text+"'>"+hint+"<body>"+msg.text+
			"</body></message>", msg)
		if rapid.IntRange(0, 3).Draw(t, "request") == 3 {
			d.client.Conn().Write([]byte("<r " + namespace + "/>"))
		}
	}
	if rapid.IntRange(0, 2).Draw(t, "settle") > 0 {
		m.settle(t)
	}
}

// ackOne makes a client acknowledge what it has handled.
func (m *conversation) ackOne(t *rapid.T) {
	if d := pick(t, m.online()); d != nil {
		m.settle(t)
		m.ack(d)
		m.settle(t)
	}
}

// requestOne makes a client ask for an acknowledgement, which has to be complete.
func (m *conversation) requestOne(t *rapid.T) {
	if d := pick(t, m.online()); d != nil {
		m.request(t, d)
	}
}

func (m *conversation) request(t *rapid.T, d *device) {
	d.client.Conn().Write([]byte("<r " + namespace + "/>"))
	m.settle(t)
	if len(d.queue) > 0 {
		m.s.Advance(time.Second)
		m.settle(t)
		t.Fatalf("%s has asked, and %d stanzas are not acknowledged", d.full, len(d.queue))
	}
}

// lose takes the connection from d, whose client has got some of what the server had sent last.
func (m *conversation) lose(t *rapid.T, d *device) {
	m.read(t, d, rapid.SampledFrom([]int{-1, -1, 0, 1, 2}).Draw(t, "elements that come still"))
	d.client = nil
	d.onTheWay, d.unsettled, d.sure = 0, true, m.s.Net.Now().Add(keptFor)
	if d.id == "" {
		m.ended(d)
	}
}

// ended notes that the session of d has ended, or goes on without its client.
func (m *conversation) ended(d *device) {
	if !d.alive {
		return
	}
	d.alive, d.complete, d.id, d.sure = false, false, "", time.Time{}
	d.ends++
	for msg := range d.given {
		msg.again = true
	}
	m.comeLate(d)
	for _, o := range d.queue {
		if o.m != nil {
			d.pending = append(d.pending, o.m)
		}
	}
	d.queue = nil
}

// comeLate notes that a session of d ends, or may end: what it had waits for another session of the account,
// and comes to that after newer messages. An account with one device at a time has no other session.
func (m *conversation) comeLate(d *device) {
	if d.account == 1 && d.renamed == 0 {
		return
	}
	for _, msg := range m.messages {
		msg.late = msg.late || msg.to == d.account || msg.by.account == d.account
	}
}

// cut loses the connection of a device, with stanzas on the way.
func (m *conversation) cut(t *rapid.T) {
	d := pick(t, m.online())
	if d == nil {
		return
	}
	m.events["cut"]++
	for range rapid.IntRange(0, 2).Draw(t, "rounds") {
		m.s.SettleOnce()
	}
	c := d.client
	m.lose(t, d)
	c.DropConn()
	if rapid.IntRange(0, 3).Draw(t, "settle") > 0 {
		m.settle(t)
	}
}

// resumeOne resumes a session that has no connection, or still has one.
func (m *conversation) resumeOne(t *rapid.T) {
	d := pick(t, m.devicesThat(func(d *device) bool { return d.alive && d.id != "" }))
	if d == nil {
		return
	}
	if d.client != nil {
		if rapid.Bool().Draw(t, "leave it") {
			return
		}
		m.lose(t, d)
	}
	m.resume(t, d, rapid.IntRange(0, 2).Draw(t, "inline") == 2)
}

// resume resumes the session of d. If it is refused the client logs in.
func (m *conversation) resume(t *rapid.T, d *device, inline bool) {
	m.logins++
	c := m.s.Dial(fmt.Sprint("login ", m.logins), m.logins)
	local, _, _ := strings.Cut(d.full, "@")
	plain := base64.StdEncoding.EncodeToString([]byte("\x00" + local + "\x00" + sessiontest.Password))
	resume := fmt.Sprintf("<resume %s previd='%s' h='%d'/>", namespace, d.id, d.in)
	c.Open("localhost")
	m.s.Settle()
	c.Stanzas()
	if inline {
		c.Send("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>" + plain +
			"</initial-response><user-agent id='d4565fa7-4d72-4749-b3d3-74000000000" +
			strconv.Itoa(slices.Index(m.devices, d)) + "'/>" + resume + "</authenticate>")
	} else {
		c.Send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" + plain + "</auth>")
		m.s.Settle()
		c.Open("localhost")
		m.s.Settle()
		c.Stanzas()
		c.Send(resume)
	}
	d.client, d.reply = c, ""
	sure, before := m.s.Net.Now().Before(d.sure), len(d.unacked)
	m.s.Settle()
	m.read(t, d, -1)
	switch {
	case strings.Contains(d.reply, "<resumed "):
		m.events["resumed"]++
		if d.kicked {
			t.Fatalf("%s has resumed a session that was ended", d.full)
		}
		m.hasAcknowledged(d, before)
		m.acknowledged(t, d, d.reply)
		for _, o := range d.queue {
			c.Conn().Write([]byte(o.el))
		}
		m.settle(t)
	case strings.Contains(d.reply, "<failed "):
		m.events["refused"]++
		if sure {
			t.Fatalf("%s can't resume its session: %s", d.full, d.reply)
		}
		m.refused(t, d)
		c.DropConn()
		d.client = nil
		m.connect(t, d)
	default:
		t.Fatalf("%s has asked for its session, and gets %q", d.full, d.reply)
	}
}

// refused notes that the session of d is not there any more.
func (m *conversation) refused(t *rapid.T, d *device) {
	if strings.Contains(d.reply, " h='") {
		m.acknowledged(t, d, d.reply[strings.Index(d.reply, "<failed "):])
		d.checked = d.checked || d.crashed
	} else {
		if d.acked > 0 && m.begun[d.account]-d.logins < 10 {
			t.Fatalf("%d stanzas of %s were acknowledged, and it gets %s", d.acked, d.full, d.reply)
		}
		d.checked = true
	}
	m.ended(d)
}

// logIn logs in a device, which does not resume its session.
func (m *conversation) logIn(t *rapid.T) {
	d := pick(t, m.devices)
	old := d.client
	if old != nil {
		m.lose(t, d)
	}
	if d.alive && d.id != "" && rapid.IntRange(0, 2).Draw(t, "late bind") < 2 {
		m.resume(t, d, false)
		return
	}
	if d.alive || len(d.pending) > 0 {
		d.checked = true
	}
	m.ended(d)
	if rapid.IntRange(0, 2).Draw(t, "rename") == 2 { // its session, if there is one, goes on without a client
		if old != nil {
			old.DropConn()
		}
		d.renamed++
		d.full = fmt.Sprint(accounts[d.account], "/", d.resource, d.renamed)
	}
	m.connect(t, d)
}

// connect makes a new session for d, which catches up and sends what was not acknowledged.
func (m *conversation) connect(t *rapid.T, d *device) {
	m.logins++
	m.begun[d.account]++
	c := m.s.Login(fmt.Sprint("login ", m.logins), d.full)
	d.client, d.alive, d.id, d.queue, d.unacked = c, true, "", nil, nil
	d.given, d.came, d.order = map[*message]bool{}, map[*message]int{}, nil
	d.logins, d.kicked = m.begun[d.account], false
	d.answers = rapid.Bool().Draw(t, "answers")
	resumable := ""
	if rapid.IntRange(0, 4).Draw(t, "resumable") < 4 {
		resumable = " resume='true'"
	}
	c.Send("<enable " + namespace + resumable + "/>")
	m.settle(t)
	from := len(d.ids)
	for _, msg := range d.pending {
		from = min(from, msg.known)
	}
	first := rapid.Bool().Draw(t, "catch up first")
	if first {
		m.catchUp(t, d, from)
	}
	d.order = nil
	carbons := rapid.IntRange(0, 3).Draw(t, "carbons") < 3
	if carbons {
		m.write(t, d, "<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>", nil)
	}
	m.sendPresence(t, d)
	if !first {
		m.catchUp(t, d, from)
	}
	d.complete = d.complete && carbons
	d.since = len(m.messages)
	m.sendPending(t, d)
}

// sendPending sends again what was not acknowledged in the session before.
func (m *conversation) sendPending(t *rapid.T, d *device) {
	for _, msg := range d.pending {
		if d.checked {
			if msg.archived && d.own[msg.text] {
				m.events["found in the archive"]++
				msg.acked, msg.unsure = true, d.crashed
				continue
			}
			msg.again = msg.again || d.crashed || !msg.archived
		}
		m.events["sent again"]++
		m.write(t, d, "<message to='"+accounts[msg.to]+"' type='chat' id='"+msg.text+"'>"+hintOf(msg)+"<body>"+
			msg.text+"</body></message>", msg)
	}
	d.pending, d.checked, d.crashed = nil, false, false
	m.settle(t)
}

// hintOf returns the hint of a message.
func hintOf(msg *message) string {
	if msg.archived {
		return ""
	}
	return "<no-permanent-store xmlns='urn:xmpp:hints'/>"
}

// sendPresence sends presence of d, and whether it is active. What comes after it has an order of its own: a
// device with a negative priority has copies of what is newer than messages that wait.
func (m *conversation) sendPresence(t *rapid.T, d *device) {
	priority := rapid.SampledFrom([]int{0, 0, 5, -1}).Draw(t, "priority")
	d.order = nil
	m.write(t, d, fmt.Sprintf("<presence><priority>%d</priority></presence>", priority), nil)
	csi := rapid.SampledFrom([]string{"active", "inactive"}).Draw(t, "csi")
	d.client.Conn().Write([]byte("<" + csi + " xmlns='urn:xmpp:csi:0'/>"))
	m.settle(t)
	d.complete = priority >= 0
}

// presence changes the presence of a device.
func (m *conversation) presence(t *rapid.T) {
	if d := pick(t, m.online()); d != nil {
		m.settle(t)
		was := d.complete
		m.sendPresence(t, d)
		d.complete = d.complete && was
	}
}

// catchUp reads the archive behind the first n ids that d has, or fewer, if the archive does not know the
// last of them.
func (m *conversation) catchUp(t *rapid.T, d *device, n int) {
	after := ""
	if n > 0 {
		after = d.ids[n-1]
	}
	var list []string
	for range 1000 {
		set := "<max>5</max>"
		if after != "" {
			set += "<after>" + after + "</after>"
		}
		d.reply = ""
		m.write(t, d, "<iq type='set' id='page'><query xmlns='urn:xmpp:mam:2'>"+
			"<set xmlns='http://jabber.org/protocol/rsm'>"+set+"</set></query></iq>", nil)
		page, answer := m.page(t, d)
		switch {
		case strings.Contains(answer, "<item-not-found ") && n > 0:
			n--
			after = ""
			if n > 0 {
				after = d.ids[n-1]
			}
			continue
		case !strings.Contains(answer, "type='result'"):
			t.Fatalf("a page of %s: %q", d.full, answer)
		}
		list = append(list, page...)
		if strings.Contains(answer, "complete='true'") {
			d.ids = append(d.ids, list...)
			return
		}
		after = page[len(page)-1]
	}
	t.Fatal("the pages have no end")
}

// page waits for the answer to the query that d has sent. It returns the ids of its results.
func (m *conversation) page(t *rapid.T, d *device) (ids []string, answer string) {
	m.s.Settle()
	for _, el := range d.client.Stanzas() {
		if id := match(idOfPage, el); id != "" && strings.HasPrefix(el, "<message") {
			ids = append(ids, id)
		}
		if strings.HasPrefix(el, "<iq") && strings.Contains(el, "id='page'") {
			answer = el
		}
		m.handle(t, d, el)
	}
	return ids, answer
}

// logOut ends the session of a device in order.
func (m *conversation) logOut(t *rapid.T) {
	if d := pick(t, m.online()); d != nil {
		m.leave(t, d)
	}
}

func (m *conversation) leave(t *rapid.T, d *device) {
	m.request(t, d)
	m.ack(d)
	m.settle(t)
	d.client.Send("</stream:stream>")
	d.client = nil
	m.ended(d)
	m.settle(t)
}

// kick ends the sessions of an account, as a ban does.
func (m *conversation) kick(t *rapid.T) {
	if rapid.IntRange(0, 2).Draw(t, "kick") < 2 {
		return
	}
	m.events["kick"]++
	account := rapid.IntRange(0, 1).Draw(t, "account")
	local, _, _ := strings.Cut(accounts[account], "@")
	m.settle(t)
	ctx := context.Background()
	if err := m.s.DB.Accounts().Ban(ctx, "localhost", local, ""); err != nil {
		t.Fatal(err)
	}
	bare, err := jid.Parse(accounts[account])
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range m.devices { // contacts may see it at once
		if d.account == account && d.alive {
			d.ends++
		}
	}
	m.s.Router.Kick(bare, session.ErrPolicyViolation)
	m.settle(t)
	for _, d := range m.devices {
		if d.account != account || !d.alive {
			continue
		}
		d.client, d.kicked, d.sure = nil, true, time.Time{}
		m.comeLate(d)
		if d.id == "" {
			m.ended(d)
		}
	}
	if err := m.s.DB.Accounts().Unban(ctx, "localhost", local); err != nil {
		t.Fatal(err)
	}
	m.settle(t)
}

// pass lets time go by. Sessions without a connection may end.
func (m *conversation) pass(t *rapid.T, d time.Duration) {
	m.settle(t)
	for _, o := range m.devices {
		if o.client == nil {
			o.ends++
			m.comeLate(o)
		} else if o.renamed > 0 { // the session under its former name
			m.comeLate(o)
		}
	}
	for ; d > 0; d -= 30 * time.Second {
		m.s.Advance(30 * time.Second)
		m.settle(t)
	}
}

// expire lets time go by until sessions without a connection have ended.
func (m *conversation) expire(t *rapid.T) {
	if rapid.IntRange(0, 2).Draw(t, "expire") == 2 {
		m.events["expire"]++
		m.pass(t, keptFor+time.Minute)
	}
}

// rest lets time go by until accounts without a connection are not in memory.
func (m *conversation) rest(t *rapid.T) {
	if rapid.IntRange(0, 2).Draw(t, "rest") == 2 {
		m.pass(t, 4*time.Minute)
		for _, bare := range accounts {
			if j, err := jid.Parse(bare); err == nil && m.s.Router.Table.Lookup(j) == nil {
				m.events["cold"]++
			}
		}
	}
}

// restart stops the server and starts it again.
func (m *conversation) restart(t *rapid.T) {
	if rapid.IntRange(0, 2).Draw(t, "restart") < 2 {
		return
	}
	m.events["restart"]++
	m.s.Restart()
	for _, d := range m.online() {
		m.lose(t, d)
	}
	m.settle(t)
}

// crash kills the server: some commits are durable, and what the server has done since is lost.
func (m *conversation) crash(t *rapid.T) {
	if rapid.IntRange(0, 2).Draw(t, "crash") < 2 {
		return
	}
	m.events["crash"]++
	for range rapid.IntRange(0, 3).Draw(t, "rounds") {
		m.s.SettleOnce()
	}
	m.gate.close()
	m.s.Net.Run()
	for _, d := range m.devices {
		connected := d.client != nil
		if connected {
			m.lose(t, d)
		}
		if !d.unsettled {
			continue
		}
		d.crashed, d.sure = true, time.Time{}
		d.ends++
		for msg := range d.given {
			msg.lost, msg.again = true, true
		}
	}
	m.gate.kill()
	m.s.Crash()
	m.settle(t)
}

// check brings all devices back, lets them acknowledge all and log out, and looks at the archives.
func (m *conversation) check(t *rapid.T) {
	m.settle(t)
	m.pass(t, keptFor+2*time.Minute)
	for _, d := range m.devices {
		if d.client == nil {
			if d.alive && d.id != "" {
				m.resume(t, d, false)
			} else {
				d.checked = d.checked || len(d.pending) > 0
				m.connect(t, d)
			}
		}
		d.order = nil
		m.write(t, d, "<presence/>", nil)
		m.settle(t)
	}
	for _, d := range m.devices {
		m.request(t, d)
		m.catchUp(t, d, 0)
	}
	for _, d := range m.devices {
		m.leave(t, d)
	}
	for account := range accounts {
		m.checkAccount(t, account)
	}
	for _, msg := range m.messages {
		if !msg.acked {
			t.Fatalf("%q is not acknowledged", msg.text)
		}
		if !msg.archived && !msg.came && !msg.lost {
			t.Fatalf("%q has come to no device of %s", msg.text, accounts[msg.to])
		}
	}
	m.pass(t, keptFor+time.Minute)
	m.checkEmpty(t)
}

// checkAccount compares the archive of an account, and what its devices have, with what was sent.
func (m *conversation) checkAccount(t *rapid.T, account int) {
	reader := &device{account: account, full: accounts[account] + "/reader", seen: map[string]bool{},
		own: map[string]bool{}, texts: map[*message]int{}, plain: map[*message]int{},
		noticed: map[*device]int{}, given: map[*message]bool{}, came: map[*message]int{}}
	for _, d := range m.devices {
		reader.noticed[d] = -1
	}
	m.logins++
	reader.client = m.s.Login(fmt.Sprint("login ", m.logins), reader.full)
	m.catchUp(t, reader, 0)
	for _, msg := range m.messages {
		n := reader.texts[msg]
		switch {
		case n > 1 && !msg.again, !msg.archived && n > 0:
			t.Fatalf("%q is %d times in the archive of %s", msg.text, n, accounts[account])
		case n == 0 && msg.archived && !(msg.unsure && account == msg.to):
			t.Fatalf("%q is not in the archive of %s", msg.text, accounts[account])
		}
	}
	for _, d := range m.devices {
		for _, id := range reader.ids {
			if d.account == account && !d.seen[id] {
				t.Fatalf("%s has not got %s", d.full, id)
			}
		}
	}
	reader.client.Send("</stream:stream>")
	m.s.Settle()
}

// checkEmpty checks that no session is left, in memory or in the store.
func (m *conversation) checkEmpty(t *rapid.T) {
	rows, err := store.MapOf(m.s.DB.Tables(), sm.RowsDef)
	if err != nil {
		t.Fatal(err)
	}
	for _, bare := range accounts {
		j, err := jid.Parse(bare)
		if err != nil {
			t.Fatal(err)
		}
		if left := m.sessionsOf(t, j); len(left) > 0 {
			t.Fatalf("sessions are left: %v", left)
		}
		account, err := m.s.DB.Accounts().Get(m.s.DB, "localhost", j.Local())
		if err != nil {
			t.Fatal(err)
		}
		err = rows.ScanRange(m.s.DB, account.ID, "", "\xff", false, func(key string, _ []byte) bool {
			if !strings.HasSuffix(key, "\x00h") {
				t.Fatalf("the store has the row %q of %s", key, bare)
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err = m.s.DB.Deadlines().Scan(m.s.DB, store.Deadline{}, math.MaxInt64-1, func(e store.Deadline) bool {
		t.Fatalf("the store has the deadline of %s", e.Name)
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sessionsOf returns the full addresses of the sessions of an account.
func (m *conversation) sessionsOf(t *rapid.T, bare jid.JID) (list []string) {
	h, _ := m.s.Router.Table.Host("localhost")
	l := m.s.Router.LoopRouters()[0]
	var failed error
	l.Loop.Post(func() {
		l.Enter(func() {
			l.WithAccount(h, bare, func(_ *session.LoopRouter, a *session.Account, _ bool, err error) {
				for _, s := range a.Resources() {
					list = append(list, fmt.Sprint(s.JID(), ", connected: ", s.Connected()))
				}
				failed = err
			})
		})
	})
	m.s.Settle()
	if failed != nil {
		t.Fatal(failed)
	}
	return list
}
