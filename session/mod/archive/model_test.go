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

	"canto/session"
	"canto/session/mod/archive"
	"canto/session/sessiontest"
)

// TestModel runs two accounts with three devices, which send, log in and out, page, retract, change
// preferences and let time go by, while the server is restarted and crashes. A message that was taken, for
// which no error came, is exactly once in the archive of each side and on each device after its catch-up, in
// one order, if the preferences let it be archived and it has not expired. CANTO_SEEDS is how many cases run.
func TestModel(t *testing.T) {
	checks := "6"
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
			"send":     m.send,
			"log in":   m.logIn,
			"log out":  m.logOut,
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
}

// A device of the model.
type device struct {
	account int
	full    string
	client  *sessiontest.Client // nil: it is not connected
	ids     []string            // the ids of its messages that it knows from the archive, in order of arrival
	texts   map[string]int      // how often it has each text, each id once
	seen    map[string]bool     // the ids that it has
	from    map[string]string   // the senders of messages that came in a page or as a copy, by id
}

// A conversation is the server, and what must be true of it.
type conversation struct {
	s        *sessiontest.Server
	devices  []*device
	messages []*sent
	policies [2]string
	unsent   []*sent // messages since the last time that the server had nothing left to do
	logins   int
}

// accounts are the model's accounts.
var accounts = [2]string{"romeo@localhost", "juliet@localhost"}

func newConversation(t *testing.T, _ *rapid.T) *conversation {
	lim := session.DefaultLimits()
	lim.Rate = 0
	m := &conversation{policies: [2]string{"always", "always"}}
	m.s = sessiontest.New(t, sessiontest.Options{Limits: &lim, Module: func(_ string, v any) error {
		if o, ok := v.(*archive.Options); ok {
			o.Retention = keptFor.String()
		}
		return nil
	}})
	for _, bare := range accounts {
		m.s.AddAccount(bare)
	}
	for i, full := range []string{"romeo@localhost/orchard", "romeo@localhost/phone",
		"juliet@localhost/balcony"} {
		m.devices = append(m.devices, &device{account: i / 2, full: full, texts: map[string]int{},
			seen: map[string]bool{}, from: map[string]string{}})
	}
	return m
}

// settle lets the server do what is left, and reads what the devices got.
func (m *conversation) settle() {
	m.s.Settle()
	m.unsent = nil
	for _, d := range m.devices {
		if d.client != nil {
			m.read(d)
		}
	}
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
			for _, s := range m.messages {
				s.failed = s.failed || s.text == f[1]
			}
			continue
		}
		id := pageID.FindStringSubmatch(el)
		if id != nil {
			page = append(page, id[1])
		} else {
			id = ownID.FindStringSubmatch(el)
		}
		if id != nil {
			if d.seen[id[1]] {
				continue
			}
			d.seen[id[1]] = true
			d.ids = append(d.ids, id[1])
		}
		if f := inner.FindStringSubmatch(el); f != nil && id != nil && f[1] != d.full {
			d.from[id[1]] = f[1]
		} else if f != nil && f[1] == d.full {
			continue // the device has it, as it has sent it
		}
		if b := text.FindStringSubmatch(el); b != nil {
			d.texts[b[1]]++
		}
	}
	return page, answer
}

// online returns the devices that are connected.
func (m *conversation) online() (list []*device) {
	for _, d := range m.devices {
		if d.client != nil {
			list = append(list, d)
		}
	}
	return list
}

// send sends a message from a device that is connected to the other account.
func (m *conversation) send(t *rapid.T) {
	list := m.online()
	if len(list) == 0 {
		return
	}
	d := rapid.SampledFrom(list).Draw(t, "device")
	s := &sent{text: fmt.Sprint("text ", len(m.messages)), by: d.account, to: 1 - d.account, at: m.s.Net.Now()}
	for i, p := range m.policies {
		s.archived[i] = p == "always"
	}
	m.messages = append(m.messages, s)
	m.unsent = append(m.unsent, s)
	d.client.Send("<message to='" + accounts[s.to] + "' type='chat' id='" + s.text + "'><body>" + s.text +
		"</body></message>")
	if rapid.IntRange(0, 3).Draw(t, "settle") > 0 {
		m.settle()
	}
}

// logIn connects a device, which catches up and then sends presence.
func (m *conversation) logIn(t *rapid.T) {
	d := rapid.SampledFrom(m.devices).Draw(t, "device")
	if d.client == nil {
		m.connect(t, d)
	}
}

func (m *conversation) connect(t *rapid.T, d *device) {
	m.logins++
	d.client = m.s.Login(fmt.Sprint("login ", m.logins), d.full)
	d.client.Send("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
	m.settle()
	m.catchUp(t, d)
	d.client.Send("<presence/>")
	m.settle()
}

// catchUp reads the archive behind the last id that the device has and the archive still knows.
func (m *conversation) catchUp(t *rapid.T, d *device) {
	from := len(d.ids)
	after := ""
	if from > 0 {
		after = d.ids[from-1]
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
				after = d.ids[from-1]
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
	s.retracted = s.retracted || s.by == d.account
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
	m.settle()
	m.s.AdvanceSettled(time.Duration(rapid.IntRange(1, 5).Draw(t, "seconds")) * time.Second)
	m.s.Advance(time.Duration(rapid.SampledFrom([]int{0, 1, 20}).Draw(t, "hours")) * time.Hour)
	m.settle()
}

func (m *conversation) restart(*rapid.T) {
	m.settle()
	m.s.Restart()
	m.lostConnections()
}

// crash kills the server. Messages since the last settling may be stored or not.
func (m *conversation) crash(*rapid.T) {
	for _, s := range m.unsent {
		s.unsure = true
	}
	m.unsent = nil
	m.s.Crash()
	m.lostConnections()
}

func (m *conversation) lostConnections() {
	for _, d := range m.devices {
		if d.client != nil {
			m.read(d)
			d.client = nil
		}
	}
}

// check lets each device catch up, and compares its messages and the archives with what was sent.
func (m *conversation) check(t *rapid.T) {
	m.settle()
	for _, d := range m.devices {
		if d.client == nil {
			m.connect(t, d)
		} else {
			m.catchUp(t, d)
		}
	}
	m.settle()
	for account := range accounts {
		reader := &device{account: account, full: accounts[account] + "/reader", texts: map[string]int{},
			seen: map[string]bool{}, from: map[string]string{}}
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
	for _, id := range reader.ids {
		if !d.seen[id] && reader.from[id] != d.full {
			t.Fatalf("%s has not got the message %s of its archive", d.full, id)
		}
	}
	for text, n := range d.texts {
		if n > 1 {
			t.Fatalf("%s has got %q %d times", d.full, text, n)
		}
	}
	var order []int
	for _, id := range d.ids {
		if i := slices.Index(reader.ids, id); i >= 0 {
			order = append(order, i)
		}
	}
	if !slices.IsSorted(order) {
		t.Fatalf("%s has got the messages of its archive in the order %v", d.full, order)
	}
}
