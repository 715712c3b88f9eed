package archive_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"canto/reactor"
	"canto/session"
	"canto/session/mod/archive"
	"canto/session/sessiontest"
)

// TestModel runs two accounts with three devices, which send, log in and out, page, retract, change priority
// and preferences, stop to read and let time go by, while the server is restarted and crashes. Of a message
// that was taken, for which no error came:
//
//   - It is exactly once in the archive of each side, and on each device after its catch-up, in one order, if
//     the preferences let it be archived and it has not expired.
//   - It comes live to a device at most once, but for a copy in another session before, and to one device of
//     the recipient at least, when one is available: also if it is not archived.
//   - What comes live to a session comes in the order of the archive.
//   - If its author has retracted it, its text is in no archive any more.
//
// CANTO_SEEDS is how many cases run.
func TestModel(t *testing.T) {
	checks := "4" // .ci/run runs more
	if n := os.Getenv("CANTO_SEEDS"); n != "" {
		checks = n
	}
	was := flag.Lookup("rapid.checks").Value.String()
	if err := flag.Set("rapid.checks", checks); err != nil {
		t.Fatal(err)
	}
	defer flag.Set("rapid.checks", was)
	rapid.Check(t, func(rt *rapid.T) {
		m := newConversation(t, rt)
		rt.Repeat(map[string]func(*rapid.T){
			"send":     m.sendSome,
			"send on":  m.sendSome, // twice in the list, as is log in: else most cases send little
			"log in":   m.logIn,
			"log in 2": m.logIn,
			"log out":  m.logOut,
			"presence": m.presence,
			"raise":    m.raise,
			"stall":    m.stall,
			"go on":    m.goOn,
			"replace":  m.replace,
			"retract":  m.retract,
			"policy":   m.policy,
			"pass":     m.pass,
			"restart":  m.restart,
			"crash":    m.crash,
			"catch up": m.catchUpOne,
		})
		m.check(rt)
	})
}

// keptFor is how long the model's server keeps messages.
const keptFor = 48 * time.Hour

// A sent message of the model.
type sent struct {
	text     string
	by, to   int       // accounts
	at       time.Time // when it was sent
	archived [2]bool   // whether the preferences of each account let it be archived
	unsure   bool      // the server crashed before the message was settled
	failed   bool      // its sender has an error
	// retracted: its author has retracted it, so that a tombstone without the text stands for it.
	retracted bool
	tombstone [2]bool // whether each archive has to have a tombstone for it
	came      bool    // a device of the recipient has got it live
	lost      bool    // it may have been in the buffer of a connection that was lost, which loses it
	late      bool    // a session may have ended with it in its queue, so that it comes later than newer ones
}

// A device of the model.
type device struct {
	account int
	full    string
	client  *sessiontest.Client // nil: it is not connected
	stalled int                 // the number of messages when it stopped to read, and one; 0: it reads
	paged   []string            // the ids that it has from pages, in order
	texts   map[string]int      // how often it has each text with an id, each id once
	seen    map[string]bool     // the ids that it has
	from    map[string]string   // the senders of messages that came in a page or as a copy, by id
	live    map[string]int      // how often each text came live, but for copies
	session map[string]int      // how often each text came live to the session
	twice   string              // a text that came live to one session twice
	order   [][]string          // the ids that came live, after each presence
}

// newDevice returns a device that is not connected.
func newDevice(account int, full string) *device {
	return &device{account: account, full: full, texts: map[string]int{}, seen: map[string]bool{},
		from: map[string]string{}, live: map[string]int{}}
}

// A conversation is the server, and what must be true of it.
type conversation struct {
	s        *sessiontest.Server
	devices  []*device
	messages []*sent
	policies [2]string
	unsent   []*sent // messages since the last time that the server had nothing left to do
	logins   int
	late     map[string]bool // ids of messages that may come late
}

// accounts are the model's accounts.
var accounts = [2]string{"romeo@localhost", "juliet@localhost"}

func newConversation(t *testing.T, _ *rapid.T) *conversation {
	lim := session.DefaultLimits()
	lim.Rate = 0
	m := &conversation{policies: [2]string{"always", "always"}, late: map[string]bool{}}
	m.s = sessiontest.New(t, sessiontest.Options{Limits: &lim, Module: func(_ string, v any) error {
		if o, ok := v.(*archive.Options); ok {
			o.Retention = keptFor.String()
		}
		return nil
	}, Reactor: func(c *reactor.Config) { c.OutboxBytes = connectionBytes }})
	for _, bare := range accounts {
		m.s.AddAccount(bare)
	}
	for i, full := range []string{"romeo@localhost/orchard", "romeo@localhost/phone",
		"juliet@localhost/balcony"} {
		m.devices = append(m.devices, newDevice(i/2, full))
	}
	return m
}

// connectionBytes is how much a connection holds for a client that does not read. What the server has given
// to it is lost with it: fewer than inConnection messages. What is more waits in the queue of the session.
const (
	connectionBytes = 4000
	inConnection    = 12
)

// padding makes a message long enough for inConnection.
var padding = strings.Repeat("x", 400)

// settle lets the server do what is left, and reads what the devices got.
func (m *conversation) settle() {
	m.s.Settle()
	m.unsent = nil
	for _, d := range m.devices {
		if d.client != nil && d.stalled == 0 {
			m.read(d)
		}
	}
}

// byText returns the message with a text.
func (m *conversation) byText(text string) *sent {
	for _, s := range m.messages {
		if s.text == text {
			return s
		}
	}
	return nil
}

// The parts of a message that a device looks at.
var (
	pageID  = regexp.MustCompile(`<result [^>]*id='(\w{26})'`)
	inner   = regexp.MustCompile(`<message xmlns='jabber:client'[^>]* from='([^']*)'`)
	ownID   = regexp.MustCompile(`<stanza-id xmlns='urn:xmpp:sid:0' id='(\w{26})'`)
	text    = regexp.MustCompile(`<body>(text \d+)</body>`)
	failure = regexp.MustCompile(`^<message type='error' id='(text \d+)'`)
)

// read reads what d got. It returns the ids of the results of a page, and what its answer is.
func (m *conversation) read(d *device) (page []string, answer string) {
	for _, el := range d.client.Stanzas() {
		if strings.HasPrefix(el, "<iq ") && strings.Contains(el, "id='page'") {
			answer = el
		}
		if !strings.HasPrefix(el, "<message") {
			continue
		}
		if f := failure.FindStringSubmatch(el); f != nil {
			if s := m.byText(f[1]); s != nil {
				s.failed = true
			}
			continue
		}
		id := pageID.FindStringSubmatch(el)
		if id != nil {
			page = append(page, id[1])
			if !slices.Contains(d.paged, id[1]) {
				d.paged = append(d.paged, id[1])
			}
		} else {
			id = ownID.FindStringSubmatch(el)
			m.cameLive(d, el, id)
		}
		if id != nil {
			if d.seen[id[1]] {
				continue
			}
			d.seen[id[1]] = true
		}
		if f := inner.FindStringSubmatch(el); f != nil && id != nil && f[1] != d.full {
			d.from[id[1]] = f[1]
		} else if f != nil && f[1] == d.full {
			continue // the device has it, as it has sent it
		}
		if b := text.FindStringSubmatch(el); b != nil && id != nil {
			d.texts[b[1]]++
		}
	}
	return page, answer
}

// cameLive notes a message that has come to d live or from offline storage; id has its id in the archive, or
// is nil.
func (m *conversation) cameLive(d *device, el string, id []string) {
	b := text.FindStringSubmatch(el)
	if b == nil {
		return
	}
	if !strings.Contains(el, "<received xmlns='urn:xmpp:carbons:2'") {
		d.live[b[1]]++ // a device that had a copy may get what waits in its next session
	}
	if d.session[b[1]]++; d.session[b[1]] > 1 {
		d.twice = b[1]
	}
	if s := m.byText(b[1]); s.to == d.account {
		s.came = true
	}
	if id != nil {
		m.late[id[1]] = m.late[id[1]] || m.byText(b[1]).late
		d.order[len(d.order)-1] = append(d.order[len(d.order)-1], id[1])
	}
}

// online returns the devices that are connected and read.
func (m *conversation) online() (list []*device) {
	for _, d := range m.devices {
		if d.client != nil && d.stalled == 0 {
			list = append(list, d)
		}
	}
	return list
}

// sendSome sends some messages. If no device is connected it logs one in.
func (m *conversation) sendSome(t *rapid.T) {
	if len(m.online()) == 0 {
		m.logIn(t)
	}
	if list := m.online(); len(list) > 0 {
		for range rapid.IntRange(1, 4).Draw(t, "messages") {
			m.send(t, list)
		}
	}
}

// send sends a message from a device that is connected to the other account, to one of its devices, or to its
// own account.
func (m *conversation) send(t *rapid.T, list []*device) {
	d := rapid.SampledFrom(list).Draw(t, "device")
	s := &sent{text: fmt.Sprint("text ", len(m.messages)), by: d.account, to: 1 - d.account, at: m.s.Net.Now()}
	to, hint := accounts[s.to], ""
	switch rapid.IntRange(0, 5).Draw(t, "address") {
	case 5:
		s.to = d.account
		to = accounts[s.to]
	case 3, 4:
		to = rapid.SampledFrom(m.devices).Draw(t, "to").full
		if s.to = 0; strings.HasPrefix(to, accounts[1]) {
			s.to = 1
		}
		if to == d.full {
			to = accounts[s.to]
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "hint") == 3 {
		hint = "<no-permanent-store xmlns='urn:xmpp:hints'/>"
	}
	for i, p := range m.policies {
		s.archived[i] = p == "always" && hint == "" && (i == s.by || i == s.to)
	}
	m.messages = append(m.messages, s)
	m.unsent = append(m.unsent, s)
	d.client.Send("<message to='" + to + "' type='chat' id='" + s.text + "'>" + hint + "<body>" + s.text +
		"</body><x xmlns='urn:example:padding'>" + padding + "</x></message>")
	if rapid.IntRange(0, 3).Draw(t, "settle") > 0 {
		m.settle()
	}
}

// logIn connects a device, which catches up and then sends presence, or the other way round.
func (m *conversation) logIn(t *rapid.T) {
	var list []*device
	for _, d := range m.devices {
		if d.client == nil {
			list = append(list, d)
		}
	}
	if len(list) > 0 {
		d := rapid.SampledFrom(list).Draw(t, "device")
		m.connect(t, d, rapid.SampledFrom(presences).Draw(t, "presence"), rapid.Bool().Draw(t, "catch up first"))
	}
}

// presences are what a device may send. The first ones are drawn more often.
var presences = []string{"<presence><priority>-1</priority></presence>", "<presence/>",
	"<presence type='unavailable'/>", "<presence/>"}

func (m *conversation) connect(t *rapid.T, d *device, presence string, first bool) {
	m.logins++
	d.client, d.stalled = m.s.Login(fmt.Sprint("login ", m.logins), d.full), 0
	d.order, d.session = append(d.order, nil), map[string]int{}
	d.client.Send("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
	m.settle()
	if first {
		m.catchUp(t, d)
	}
	m.sendPresence(d, presence)
	if !first {
		m.catchUp(t, d)
	}
}

// presence changes the presence of a device.
func (m *conversation) presence(t *rapid.T) {
	if list := m.online(); len(list) > 0 {
		d := rapid.SampledFrom(list).Draw(t, "device")
		m.settle()
		m.sendPresence(d, rapid.SampledFrom(presences).Draw(t, "presence"))
	}
}

// raise makes all devices available that are connected and read.
func (m *conversation) raise(*rapid.T) {
	for _, d := range m.online() {
		m.sendPresence(d, "<presence/>")
	}
}

// sendPresence sends presence. What comes after it has an order of its own: a device that is not available
// has copies of what is newer than messages that wait.
func (m *conversation) sendPresence(d *device, presence string) {
	d.order = append(d.order, nil)
	d.client.Send(presence)
	m.settle()
}

// stall makes a device read nothing any more, while others send messages.
func (m *conversation) stall(t *rapid.T) {
	list := m.online()
	if len(list) == 0 {
		return
	}
	m.settle()
	d := rapid.SampledFrom(list).Draw(t, "device")
	d.client.Conn().SetWindow(0)
	d.stalled = len(m.messages) + 1
	if others := m.online(); len(others) > 0 { // more than its connection holds
		for range rapid.IntRange(inConnection/2, 2*inConnection).Draw(t, "messages") {
			m.send(t, others)
		}
	}
}

// goOn lets the devices that have stalled read what has come.
func (m *conversation) goOn(*rapid.T) {
	for _, d := range m.devices {
		if d.stalled == 0 {
			continue
		}
		d.client.Conn().SetWindow(-1)
		d.stalled = 0
		for range 3 {
			m.s.Advance(time.Second)
			m.settle()
		}
	}
}

// replace logs a device in again while its session is there: the server ends that.
func (m *conversation) replace(t *rapid.T) {
	d := rapid.SampledFrom(m.devices).Draw(t, "device")
	if d.client == nil {
		return
	}
	m.settle()
	m.endsUnread(d, inConnection)
	m.connect(t, d, rapid.SampledFrom(presences).Draw(t, "presence"), rapid.Bool().Draw(t, "catch up first"))
}

// endsUnread notes that the session of d ends. If it has stalled, up to so many of the messages since then
// may be lost, and the others come late.
func (m *conversation) endsUnread(d *device, lost int) {
	if d.stalled == 0 {
		return
	}
	for _, s := range m.messages[d.stalled-1:] {
		if s.to != d.account && s.by != d.account {
			continue
		}
		s.late = true
		if lost > 0 {
			s.lost = true
			lost--
		}
	}
}

// catchUp reads the archive behind the last id that the device has from a page and the archive still knows.
func (m *conversation) catchUp(t *rapid.T, d *device) {
	before := slices.Clone(d.paged)
	from := len(before)
	after := ""
	if from > 0 {
		after = before[from-1]
	}
	for range 1000 {
		set := "<max>3</max>"
		if after != "" {
			set += "<after>" + after + "</after>"
		}
		d.client.Send("<iq type='set' id='page'><query xmlns='urn:xmpp:mam:2'>" +
			"<set xmlns='http://jabber.org/protocol/rsm'>" + set + "</set></query></iq>")
		m.s.Settle()
		m.unsent = nil
		page, answer := m.read(d)
		switch {
		case strings.Contains(answer, "<item-not-found "):
			if from--; from > 0 {
				after = before[from-1]
			} else {
				after = ""
			}
			continue
		case !strings.Contains(answer, "type='result'"):
			t.Fatalf("a page of %s: %q", d.full, answer)
		case strings.Contains(answer, "complete='true'"):
			return
		}
		if len(page) == 0 {
			t.Fatalf("an empty page that is not complete: %s", answer)
		}
		after = page[len(page)-1]
	}
	t.Fatal("the pages have no end")
}

func (m *conversation) catchUpOne(t *rapid.T) {
	if list := m.online(); len(list) > 0 {
		m.catchUp(t, rapid.SampledFrom(list).Draw(t, "device"))
	}
}

// logOut ends a device's session: in order, or by a lost connection.
func (m *conversation) logOut(t *rapid.T) {
	list := m.online()
	if len(list) == 0 {
		return
	}
	d := rapid.SampledFrom(list).Draw(t, "device")
	m.settle()
	if rapid.Bool().Draw(t, "in order") {
		d.client.Send("</stream:stream>")
	} else {
		d.client.DropConn()
	}
	d.client = nil
	m.settle()
}

// retract retracts one of the messages that an account has sent.
func (m *conversation) retract(t *rapid.T) {
	list := m.online()
	if len(list) == 0 || len(m.messages) == 0 {
		return
	}
	d := rapid.SampledFrom(list).Draw(t, "device")
	s := rapid.SampledFrom(m.messages).Draw(t, "message")
	d.client.Send("<message to='" + accounts[1-d.account] + "' type='chat' id='r'><retract " +
		"xmlns='urn:xmpp:message-retract:1' id='" + s.text + "'/><store xmlns='urn:xmpp:hints'/></message>")
	if s.by == d.account && s.to != s.by && !s.unsure {
		s.retracted = true
		for i, p := range m.policies {
			s.tombstone[i] = s.tombstone[i] || p == "always"
		}
	}
	m.settle()
}

// policy changes the preferences of the account of a device that is connected.
func (m *conversation) policy(t *rapid.T) {
	list := m.online()
	if len(list) == 0 {
		return
	}
	d := rapid.SampledFrom(list).Draw(t, "device")
	p := rapid.SampledFrom([]string{"always", "never"}).Draw(t, "policy")
	m.settle()
	d.client.Send("<iq type='set' id='p'><prefs xmlns='urn:xmpp:mam:2' default='" + p + "'/></iq>")
	m.settle()
	m.policies[d.account] = p
}

// pass lets time go by.
func (m *conversation) pass(t *rapid.T) {
	m.goOn(t)
	m.settle()
	m.s.AdvanceSettled(time.Duration(rapid.IntRange(1, 5).Draw(t, "seconds")) * time.Second)
	m.s.Advance(time.Duration(rapid.SampledFrom([]int{0, 1, 20}).Draw(t, "hours")) * time.Hour)
	m.settle()
}

func (m *conversation) restart(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "restart") < 3 {
		return
	}
	m.settle()
	m.s.Restart()
	m.lostConnections(inConnection)
}

// crash kills the server. Messages since the last settling may be stored or not.
func (m *conversation) crash(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "crash") < 3 {
		return
	}
	for _, s := range m.unsent {
		s.unsure = true
	}
	m.unsent = nil
	m.s.Crash()
	m.lostConnections(len(m.messages))
}

// lostConnections notes that all sessions have ended. See endsUnread.
func (m *conversation) lostConnections(lost int) {
	for _, d := range m.devices {
		if d.client != nil {
			m.endsUnread(d, lost)
			m.read(d)
			d.client, d.stalled = nil, 0
		}
	}
}

// check lets each device catch up, and compares its messages and the archives with what was sent.
func (m *conversation) check(t *rapid.T) {
	m.settle()
	m.goOn(t)
	for _, d := range m.devices {
		if d.client == nil {
			m.connect(t, d, "<presence/>", true)
		} else {
			m.sendPresence(d, "<presence/>")
			m.catchUp(t, d)
		}
	}
	m.settle()
	m.checkLive(t)
	for account := range accounts {
		reader := newDevice(account, accounts[account]+"/reader")
		reader.order, reader.session = [][]string{nil}, map[string]int{}
		m.logins++
		reader.client = m.s.Login(fmt.Sprint("login ", m.logins), reader.full)
		m.s.Settle()
		m.catchUp(t, reader)
		m.checkArchive(t, account, reader)
		for _, d := range m.devices {
			if d.account == account {
				m.checkDevice(t, d, reader)
			}
		}
	}
}

// young reports whether a message can't have expired.
func (m *conversation) young(s *sent) bool { return m.s.Net.Now().Sub(s.at) < keptFor }

// checkArchive checks the archive of an account, which reader has read.
func (m *conversation) checkArchive(t *rapid.T, account int, reader *device) {
	for _, s := range m.messages {
		n := reader.texts[s.text]
		switch {
		case n > 0 && s.tombstone[account]:
			t.Fatalf("%q is in the archive of %s, although its author has retracted it", s.text, accounts[account])
		case n > 1:
			t.Fatalf("%q is %d times in the archive of %s", s.text, n, accounts[account])
		case n == 1 && !s.archived[account]:
			t.Fatalf("%q is in the archive of %s, against its preferences", s.text, accounts[account])
		case n == 0 && s.archived[account] && !s.unsure && !s.failed && m.young(s) && !s.retracted:
			t.Fatalf("%q is not in the archive of %s", s.text, accounts[account])
		}
	}
}

// checkDevice checks that a device has each message of the archive once, in the archive's order where it has
// read it.
func (m *conversation) checkDevice(t *rapid.T, d, reader *device) {
	for _, id := range reader.paged {
		if !d.seen[id] && reader.from[id] != d.full {
			t.Fatalf("%s has not got the message %s of its archive", d.full, id)
		}
	}
	for text, n := range d.texts {
		if n > 1 {
			t.Fatalf("%s has got %q %d times", d.full, text, n)
		}
	}
	for _, list := range append([][]string{d.paged}, d.order...) {
		var order []int
		for _, id := range list {
			if i := slices.Index(reader.paged, id); i >= 0 && !m.late[id] {
				order = append(order, i)
			}
		}
		if !slices.IsSorted(order) {
			t.Fatalf("%s has got the messages of its archive in the order %v", d.full, order)
		}
	}
}

// checkLive checks what has come live.
func (m *conversation) checkLive(t *rapid.T) {
	for _, d := range m.devices {
		if d.twice != "" {
			t.Fatalf("%q has come live to %s twice, in one session", d.twice, d.full)
		}
		for text, n := range d.live {
			if n > 1 && !m.byText(text).unsure {
				t.Fatalf("%q has come live to %s %d times", text, d.full, n)
			}
		}
	}
	for _, s := range m.messages {
		if !s.came && !s.unsure && !s.failed && !s.lost && !s.retracted && m.young(s) {
			t.Fatalf("%q has come live to no device of %s", s.text, accounts[s.to])
		}
	}
}
