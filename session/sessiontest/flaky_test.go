package sessiontest

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/session"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/session/store"
	"canto/session/store/storetest"
	"canto/xmlstream"
)

// A step is one step of a script, without what the clients should get.
type step struct {
	line string
	body []string
}

func stepsOf(text string) (list []step) {
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		if strings.TrimSpace(lines[i]) == "" || strings.HasPrefix(lines[i], "#") {
			continue
		}
		st := step{line: lines[i]}
		for i++; i < len(lines) && lines[i] != "----"; i++ {
			st.body = append(st.body, lines[i])
		}
		for i++; i < len(lines) && strings.TrimSpace(lines[i]) != ""; i++ {
			continue
		}
		list = append(list, st)
	}
	return list
}

// elements returns the top-level elements of text as a bound client sends them, or nil if it is no XML.
func elements(text string) (list []xmlstream.Element) {
	p := xmlstream.NewParser(nil)
	var in xmlstream.Stream
	in.Reset(0)
	p.Feed(&in, []byte("<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"))
	p.Next(&in)
	p.Feed(&in, []byte(text))
	for {
		e, err := p.Stanza(&in)
		if err != nil {
			return list
		}
		list = append(list, e.Clone())
	}
}

func attr(e xmlstream.Element, n xmlstream.Name) string {
	v, _ := e.Attr(n)
	return string(v)
}

// request reports whether e is an iq that must be answered.
func request(e xmlstream.Element) bool {
	t := attr(e, stanza.AttrType)
	return string(e.Local()) == "iq" && (t == "get" || t == "set")
}

// got returns what the clients received since the last call, by client.
func (s *Server) got() map[string][]string {
	m := make(map[string][]string)
	for _, n := range s.Names() {
		m[n] = s.clients[n].Stanzas()
	}
	return m
}

// answered checks that each request in sent has one answer, unless it was delivered to another client,
// which has to answer.
func answered(t testing.TB, client, from string, sent []xmlstream.Element, got map[string][]string) {
	t.Helper()
	for _, e := range sent {
		if !request(e) {
			continue
		}
		id, n := attr(e, stanza.AttrID), 0
		for name, list := range got {
			for _, raw := range list {
				for _, r := range elements(raw) {
					if string(r.Local()) != "iq" || attr(r, stanza.AttrID) != id {
						continue
					}
					answer := !request(r)
					if answer && name == client || !answer && attr(r, stanza.AttrFrom) == from {
						n++
					}
				}
			}
		}
		if n != 1 {
			t.Errorf("%s sent %s\nand has %d answers:\n%s", client, e.Raw(), n, strings.Join(got[client], "\n"))
		}
	}
}

var streamError = regexp.MustCompile(`<stream:error><[a-z-]+ xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>`)

// The requests by which a client sees all that its account has stored.
const inventory = `<iq type='get' id='i1'><query xmlns='jabber:iq:roster'/></iq>` +
	`<iq type='get' id='i2'><blocklist xmlns='urn:xmpp:blocking'/></iq>` +
	`<iq type='get' id='i3'><vCard xmlns='vcard-temp'/></iq>` +
	`<iq type='get' id='i4'><query xmlns='jabber:iq:private'><exodus xmlns='exodus:prefs'/></query></iq>` +
	`<presence/>`

// kept returns what the account of bare shows a new client of s: its lists, its pending requests and its
// stored messages.
func kept(s *Server, bare string) string {
	c := s.Login("inventory", bare+"/inventory")
	c.Send(inventory)
	s.Settle()
	var list []string
	for _, raw := range c.Stanzas() {
		e := elements(raw)
		if len(e) != 1 || string(e[0].Local()) == "presence" && attr(e[0], stanza.AttrType) != "subscribe" {
			continue
		}
		if string(e[0].Local()) == "iq" && attr(e[0], stanza.AttrType) != "result" {
			s.TB.Errorf("%s: on a store that is well again: %s", bare, raw)
		}
		list = append(list, raw)
	}
	if len(list) < 4 {
		s.TB.Errorf("%s: answers are missing on a store that is well again:\n%s", bare, strings.Join(list, "\n"))
	}
	c.DropConn()
	s.Settle()
	return strings.Join(list, "\n")
}

// notFlaky are the conversations that are not played on a failing store, and why.
var notFlaky = map[string]string{
	"sm/expiry":         "a request to a session that hibernates is answered when that ends",
	"register/password": "what looks at the accounts afterwards needs the password they had",
}

// With every k-th read and every k-th commit of every conversation failing, no handler panics, each
// request has one answer, and a stream lives or ends with a stream error. When the store works again,
// everything works, and what the server has in memory is what it has stored.
func TestConversationsOnFlakyStore(t *testing.T) {
	var kinds strings.Builder // the answers of rooms and nodes
	for name, text := range plain(t) {
		if notFlaky[name] != "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			for _, k := range []uint64{1, 2, 3, 5} {
				t.Run(fmt.Sprint(k), func(t *testing.T) { kinds.WriteString(flaky(t, text, optionsOf(name), k)) })
			}
		})
	}
	for _, want := range []string{
		"is='owner'", "is='member'", "<body>", "<item xmlns='urn:canto:test:service'", "<forbidden",
	} {
		if !strings.Contains(kinds.String(), want) {
			t.Errorf("in no conversation %s was compared", want)
		}
	}
}

// flaky plays a conversation on a store of which every k-th read and commit fails, and returns what its
// rooms and nodes answered afterwards.
func flaky(t *testing.T, text string, opt Options, k uint64) (kinds string) {
	var on atomic.Bool
	var n [2]atomic.Uint64
	fault := func(write bool) error {
		kind := &n[0]
		if write {
			kind = &n[1]
		}
		if on.Load() && kind.Add(1)%k == 0 {
			return storetest.ErrFault
		}
		return nil
	}
	opt.Fault = fault
	s := New(t, opt)
	var accounts []string
	for _, st := range stepsOf(text) {
		f := strings.Fields(st.line)
		if c := s.clients[f[0]]; c != nil && c.Ended() {
			continue // a fault ended it
		}
		if c := s.clients[f[len(f)-1]]; f[0] == "cut" && c.Ended() {
			continue
		}
		kernel := f[0] == "restart" || f[0] == "crash" || f[0] == "reload"
		setUp := f[0] == "connect" || f[0] == "account"
		if setUp {
			j, err := jid.Parse(f[1])
			if err != nil {
				t.Fatal(err)
			}
			if b := j.Bare().String(); !slices.Contains(accounts, b) {
				accounts = append(accounts, b)
			}
		}
		c := s.clients[f[0]]
		on.Store(!setUp && !kernel && f[0] != "open" && (c == nil || c.JID != ""))
		s.runStep(st.line, st.body)
		on.Store(false)
		got := s.got()
		for name, c := range s.clients {
			text := strings.Join(got[name], "\n")
			if c.Ended() && !c.ended {
				c.ended = true
				// At a stop, a client that may resume is told nothing.
				lost := f[len(f)-1] == "leaves" || f[0] == "cut" || f[0] == "crash" || f[0] == "restart"
				if !lost && !strings.HasSuffix(text, "(end of stream)") && !streamError.MatchString(text) {
					t.Errorf("%s: %s's stream ended so: %s", st.line, name, text)
				}
			}
		}
		if c := s.clients[f[0]]; c != nil && c.JID != "" && f[1] == "sends" && !c.ended {
			answered(t, f[0], c.JID, elements(strings.Join(st.body, "\n")), got)
		}
	}
	s.Settle()
	for i := 0; buried(s) > 0 && i < 30; i++ { // the start of the other server finishes deletions at once
		s.Advance(time.Second)
		s.Settle()
	}
	opt.FS, opt.Fault = s.opt.FS.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{}), nil
	other := New(t, opt)
	for _, a := range accounts {
		if mem, stored := kept(s, a), kept(other, a); mem != stored {
			t.Errorf("%s in memory:\n%s\nand in the store:\n%s", a, mem, stored)
		}
	}
	if len(opt.Services) == 0 {
		return ""
	}
	requests := kindsAsked(t, s, other, text)
	for _, a := range accounts {
		mem, stored := keptByKinds(s, a, requests), keptByKinds(other, a, requests)
		if mem != stored {
			t.Errorf("what kinds tell %s in memory:\n%s\nand in the store:\n%s", a, mem, stored)
		}
		kinds += mem
	}
	return kinds
}

var (
	roomAddress = regexp.MustCompile(`[\w-]+@rooms\.localhost`)
	nodeAttr    = regexp.MustCompile(`node='([\w-]+)'`)
)

// kindsAsked returns the requests for all that rooms and nodes of a conversation have stored:
// affiliations, the log, items. It has none for a room of which nothing is stored; the kernel must not
// take such a room for a stored one.
func kindsAsked(t *testing.T, s, other *Server, text string) (requests []string) {
	stored := make(map[string]bool)
	if err := other.DB.Entities().List(other.DB, "rooms.localhost", "", func(e store.Entry) bool {
		j, err := e.JID()
		stored[j.String()] = true
		return err == nil
	}); err != nil {
		t.Fatal(err)
	}
	ask := func(to, payload string) {
		requests = append(requests, fmt.Sprintf("<iq type='get' id='k%02d' to='%s'>%s</iq>", len(requests), to,
			payload))
	}
	found := roomAddress.FindAllString(text, -1)
	slices.Sort(found)
	looks := s.Login("inventory", "inventory@localhost/x")
	for _, addr := range slices.Compact(found) {
		if !stored[addr] {
			j, err := jid.Parse(addr)
			if err != nil {
				t.Fatal(err)
			}
			// A room whose first batch has failed is reloaded with its next stanza.
			looks.Send("<iq type='get' id='k' to='" + addr + "'><last xmlns='urn:canto:test:room'/></iq>")
			s.Settle()
			if e := s.Router.Table.Lookup(j); e != nil && e.ID() != 0 { // nothing runs meanwhile
				t.Errorf("%s has the id %#x in memory, and is not stored", addr, e.ID())
			}
			continue
		}
		ask(addr, "<affiliations xmlns='urn:canto:test:room'/>")
		ask(addr, "<page xmlns='urn:canto:test:room'/>")
	}
	var nodes []string
	for _, m := range nodeAttr.FindAllStringSubmatch(text, -1) {
		nodes = append(nodes, m[1])
	}
	slices.Sort(nodes)
	for _, n := range slices.Compact(nodes) {
		ask("rooms.localhost", "<items xmlns='urn:canto:test:service' node='"+n+"'/>")
		ask("rooms.localhost", "<query xmlns='http://jabber.org/protocol/disco#items' node='"+n+"'/>")
	}
	return requests
}

// keptByKinds returns the answers to a new client of bare, in the order of the requests.
func keptByKinds(s *Server, bare string, requests []string) string {
	c := s.Login("inventory", bare+"/kinds")
	for _, r := range requests {
		c.Send(r)
		s.Settle()
	}
	list := slices.DeleteFunc(c.Stanzas(), func(raw string) bool {
		return !strings.HasPrefix(raw, "<iq") || !strings.Contains(raw, " id='k")
	})
	if len(list) != len(requests) {
		s.TB.Errorf("%s has %d answers to %d requests", bare, len(list), len(requests))
	}
	c.DropConn()
	s.Settle()
	return strings.Join(list, "\n")
}

// buried returns how many deleted accounts are not finished.
func buried(s *Server) (n int) {
	if err := s.DB.Accounts().Deleted(s.DB, func(store.DeletedAccount) bool { n++; return true }); err != nil {
		s.TB.Fatal(err)
	}
	return n
}

// befriend makes two clients each other's contacts, with a subscription in both directions, and available.
func befriend(s *Server, a, b *Client) {
	ab, bb := a.Bare().String(), b.Bare().String()
	get := "<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq><presence/>"
	a.Send(get + "<presence to='" + bb + "' type='subscribe'/>")
	s.Settle()
	b.Send(get + "<presence to='" + ab + "' type='subscribed'/><presence to='" + ab + "' type='subscribe'/>")
	s.Settle()
	a.Send("<presence to='" + bb + "' type='subscribed'/>")
	s.Settle()
	s.got()
}

// A session whose account can't be loaded when its connection is lost is ended once, as soon as possible,
// and its contacts are notified.
func TestTeardownOnFlakyStore(t *testing.T) {
	for _, how := range []string{"lost", "ended", "kicked"} {
		t.Run(how, func(t *testing.T) {
			var flaky storetest.Flaky
			s := New(t, Options{Fault: flaky.Fault})
			romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
			befriend(s, romeo, juliet)
			flaky.Writes.Store(true)
			// it is not stored, so the account is reloaded
			romeo.Send("<presence to='nurse@localhost' type='subscribe'/>")
			s.Settle()
			flaky.Reads.Store(true)
			switch how {
			case "lost":
				romeo.DropConn()
			case "ended":
				romeo.Send("</stream:stream>")
			case "kicked":
				s.Router.Kick(romeo.Bare(), session.ErrNotAuthorized)
			}
			s.Settle()
			s.Advance(5 * time.Second)
			if got := juliet.Received(); got != "" {
				t.Errorf("while nothing can be read: %s", got)
			}
			flaky.Reads.Store(false)
			flaky.Writes.Store(false)
			s.Advance(2 * time.Second)
			s.Settle()
			want := "<presence type='unavailable' from='romeo@localhost/orchard' to='juliet@localhost'/>"
			if got := juliet.Received(); got != want {
				t.Errorf("juliet gets %q, not %q", got, want)
			}
			if how != "lost" && !romeo.conn.Ended() {
				t.Error("the connection is still there")
			}
			if again := s.Login("again", "romeo@localhost/orchard"); again.conn.Ended() {
				t.Error("no second session")
			}
		})
	}
}

// A session whose account can never be loaded again is tried with growing pauses and then ended: the store
// is not read forever, and the log has a line for each try.
func TestTeardownWithoutStore(t *testing.T) {
	var flaky storetest.Flaky
	var log bytes.Buffer
	s := New(t, Options{Fault: flaky.Fault, Log: &log})
	romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
	befriend(s, romeo, juliet)
	bound := func() (n int) {
		for i := range 256 {
			for _, a := range s.Router.Table.Accounts(i, nil) {
				n += len(a.Resources())
			}
		}
		return n
	}
	flaky.Writes.Store(true)
	// it is not stored, so the account is reloaded
	romeo.Send("<presence to='nurse@localhost' type='subscribe'/>")
	s.Settle()
	flaky.Reads.Store(true)
	romeo.DropConn()
	s.Settle()
	for range 600 {
		s.Advance(time.Second)
		s.Settle()
	}
	if n := strings.Count(log.String(), "an entity could not be read"); n < 5 || n > 12 {
		t.Errorf("%d tries in ten minutes", n)
	}
	if n := bound(); n != 1 {
		t.Errorf("%d sessions, want juliet's alone", n)
	}
	if n := strings.Count(log.String(), "a session is ended without its contacts being told"); n != 1 {
		t.Errorf("%d lines about the end", n)
	}
}

// A login while the store fails is refused with a failure that says so, and works when the store works
// again.
func TestLoginOnFlakyStore(t *testing.T) {
	for k := range uint64(6) {
		var n atomic.Uint64
		var on atomic.Bool
		s := New(t, Options{Fault: func(bool) error {
			if on.Load() && n.Add(1) > k {
				return storetest.ErrFault
			}
			return nil
		}})
		s.AddAccount("romeo@localhost")
		on.Store(true)
		c := s.Dial("romeo", 0)
		c.Open("localhost")
		c.Stanzas()
		c.Send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHJvbWVvAHIwbTMw</auth>")
		s.Settle()
		got := strings.Join(c.Stanzas(), "")
		if strings.Contains(got, "<temporary-auth-failure/>") {
			on.Store(false)
			c.Send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHJvbWVvAHIwbTMw</auth>")
			s.Settle()
			got = strings.Join(c.Stanzas(), "")
		}
		if !strings.Contains(got, "<success ") {
			t.Fatalf("k=%d: %s", k, got)
		}
		c.Open("localhost")
		c.Stanzas()
		bind := "<iq type='set' id='b'><bind " +
			"xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>x</resource></bind></iq>"
		c.Send(bind)
		s.Settle()
		got = strings.Join(c.Stanzas(), "")
		if strings.Contains(got, "<internal-server-error ") {
			on.Store(false)
			c.Send(bind)
			s.Settle()
			got = strings.Join(c.Stanzas(), "")
		}
		if !strings.Contains(got, "<jid>romeo@localhost/x</jid>") {
			t.Errorf("k=%d: %s", k, got)
		}
	}
}
