package sessiontest

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"canto/session"
	"canto/session/handling"
)

// messagesPage is the page that has the table of TestMessages. The flag -rewrite writes it.
const messagesPage = "../../docs/messages.md"

// The marks between which the table is on the page.
const (
	tableBegin = "<!-- The table is written by go test ./session/sessiontest -run TestMessages -rewrite. -->\n"
	tableEnd   = "<!-- End of the table. -->\n"
)

// samples are messages of each kind, and of a text with each hint: what is inside of the message, and its
// type.
var samples = []struct {
	name, typ, payload string
	kind               handling.Kind
}{
	{"a text", "chat", "<body>b</body>", handling.Body},
	{"a text of type normal", "", "<body>b</body>", handling.Body},
	{"encrypted", "chat", "<encrypted xmlns='eu.siacs.conversations.axolotl'/>", handling.Encrypted},
	{"a subject", "chat", "<subject>s</subject>", handling.Subject},
	{"a delivery receipt", "chat", "<received xmlns='urn:xmpp:receipts' id='1'/>", handling.Receipt},
	{"a marker", "chat", "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>", handling.Marker},
	{"a chat state", "chat", "<composing xmlns='http://jabber.org/protocol/chatstates'/>", handling.ChatState},
	{"reactions", "chat", "<reactions xmlns='urn:xmpp:reactions:0' id='1'/>", handling.Reaction},
	{"a retraction", "chat", "<retract xmlns='urn:xmpp:message-retract:1' id='1'/>", handling.Retraction},
	{"an invitation", "", "<x xmlns='jabber:x:conference' jid='room@localhost'/>", handling.Invitation},
	{"the proposal of a call", "chat", "<propose xmlns='urn:xmpp:jingle-message:0' id='1'/>", handling.Call},
	{"another state of a call", "chat", "<proceed xmlns='urn:xmpp:jingle-message:0' id='1'/>",
		handling.CallState},
	{"a private message of a room", "chat", "<body>b</body><x xmlns='http://jabber.org/protocol/muc#user'/>",
		handling.RoomPrivate},
	{"another payload", "chat", "<x xmlns='urn:example:other'/>", handling.Other},
	{"nothing", "chat", "", handling.Empty},
	{"type groupchat", "groupchat", "<body>b</body>", handling.Groupchat},
	{"type headline", "headline", "<body>b</body>", handling.Headline},
	{"type error", "error", "<body>b</body><error type='cancel'/>", handling.Error},
	{"a text, no-copy", "chat", "<body>b</body><no-copy xmlns='urn:xmpp:hints'/>", handling.Body},
	{"a text, no-permanent-store", "chat", "<body>b</body><no-permanent-store xmlns='urn:xmpp:hints'/>",
		handling.Body},
	{"a text, no-store", "chat", "<body>b</body><no-store xmlns='urn:xmpp:hints'/>", handling.Body},
	{"a chat state, store", "chat", "<gone xmlns='http://jabber.org/protocol/chatstates'/>" +
		"<store xmlns='urn:xmpp:hints'/>", handling.ChatState},
}

// states are what the recipient's devices may do when a message comes: the presence of the devices desk and
// phone, both of which want copies. No presence: the device is not connected.
var states = []struct{ name, desk, phone string }{
	{"one device", "<presence/>", ""},
	{"two devices", "<presence><priority>1</priority></presence>", "<presence/>"},
	{"negative priority", "<presence><priority>-1</priority></presence>", ""},
	{"away", "", ""},
	{"no account", "", ""},
	{"blocked", "<presence/>", ""},
}

// TestMessages is the table of what happens with each kind of message in each state of its recipient, as a
// server does it: docs/messages.md has the same table.
func TestMessages(t *testing.T) {
	var b strings.Builder
	b.WriteString("| message | kind |")
	for _, s := range states {
		fmt.Fprintf(&b, " %s |", s.name)
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(states)) + "\n")
	seen := make(map[handling.Kind]bool)
	for _, m := range samples {
		seen[m.kind] = true
		fmt.Fprintf(&b, "| %s | %s |", m.name, m.kind)
		for i := range states {
			fmt.Fprintf(&b, " %s |", outcome(t, m.typ, m.payload, i))
		}
		b.WriteString("\n")
	}
	for k := handling.Empty; k <= handling.Error; k++ {
		if !seen[k] {
			t.Errorf("no message of the kind %s", k)
		}
	}
	page, err := os.ReadFile(messagesPage)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(page), tableBegin)
	was, tail, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", messagesPage)
	}
	table := "\n" + b.String() + "\n"
	if was == table {
		return
	}
	if f := flag.Lookup("rewrite"); f != nil && f.Value.String() == "true" {
		if err := os.WriteFile(messagesPage, []byte(head+tableBegin+table+tableEnd+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("the table is not that of %s:\n%s", messagesPage, table)
}

// outcome sends a message of a type with a payload from romeo to juliet, who is in the state i, and returns
// what has become of it, as a cell of the table.
func outcome(t *testing.T, typ, payload string, i int) string {
	t.Helper()
	lim := session.DefaultLimits()
	lim.Rate = 0
	s := New(t, Options{Limits: &lim})
	state := states[i]
	romeo, other := s.Login("romeo", "romeo@localhost/desk"), s.Login("other", "romeo@localhost/phone")
	app := s.Login("app", "push@localhost/app")
	app.Send("<presence to='juliet@localhost'/>") // else it gets no requests of juliet's
	const carbons = "<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>"
	other.Send(carbons + "<presence to='juliet@localhost'/>")
	if state.name != "no account" {
		juliet := s.Login("juliet", "juliet@localhost/first")
		juliet.Send("<iq type='set' id='p'><enable xmlns='urn:xmpp:push:0' jid='push@localhost/app' node='n'/>" +
			"</iq>")
		if state.name == "blocked" {
			juliet.Send("<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='romeo@localhost'/>" +
				"</block></iq>")
		}
		s.Settle()
		juliet.DropConn()
		s.Settle()
	}
	var devices []*Client
	for name, presence := range map[string]string{"desk": state.desk, "phone": state.phone} {
		if presence != "" {
			c := s.Login("juliet-"+name, "juliet@localhost/"+name)
			c.Send(carbons + presence)
			devices = append(devices, c)
		}
	}
	s.Settle()
	for _, name := range s.Names() {
		s.Client(name).Received()
	}
	if typ != "" {
		typ = "type='" + typ + "' "
	}
	romeo.Send("<message " + typ + "to='juliet@localhost' id='m'>" + payload + "</message>")
	s.Settle()
	s.AdvanceSettled(5 * time.Second)

	var cell []string
	add := func(letter string, is bool) {
		if is {
			cell = append(cell, letter)
		}
	}
	answer := romeo.Received()
	add("S", archived(s, romeo))
	add("s", strings.Contains(other.Received(), "<sent "))
	delivered, copied := 0, 0
	for _, c := range devices {
		switch got := c.Received(); {
		case strings.Contains(got, "<received xmlns='urn:xmpp:carbons:2'>"):
			copied++
		case strings.Contains(got, "id='m'"):
			delivered++
		}
	}
	add(fmt.Sprint("D", delivered), delivered > 0)
	add("c", copied > 0)
	pushed := strings.Contains(app.Received(), "urn:xmpp:push:0")
	if state.name != "no account" {
		late := s.Login("late", "juliet@localhost/late")
		add("R", archived(s, late))
		for _, c := range devices {
			c.DropConn()
		}
		s.Settle()
		late.Received()
		late.Send("<presence/>")
		s.Settle()
		add("k", strings.Contains(late.Received(), "id='m'"))
	}
	add("p", pushed)
	from := strings.Index(answer, "<error type=")
	if from >= 0 && strings.Contains(answer, "type='error' id='m'") {
		name := answer[from+strings.Index(answer[from:], "><")+2:]
		cell = append(cell, name[:strings.IndexAny(name, " /")])
	}
	if len(cell) == 0 {
		return "–"
	}
	return strings.Join(cell, " ")
}

// archived reports whether the archive of c's account has a message.
func archived(s *Server, c *Client) bool {
	c.Received()
	c.Send("<iq type='set' id='a'><query xmlns='urn:xmpp:mam:2'/></iq>")
	s.Settle()
	return strings.Contains(c.Received(), "<result ")
}
