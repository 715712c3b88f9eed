package sessiontest

import (
	"encoding/xml"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"canto/session/mod"
	"canto/session/mod/register"
	"canto/session/stanza"
)

// everything starts a server with all modules, also those that are off by default.
func everything(opt Options) Options {
	opt.Modules = nil
	for _, m := range mod.All {
		opt.Modules = append(opt.Modules, m.Name)
	}
	opt.Module = func(_ string, v any) error {
		if o, ok := v.(*register.Options); ok {
			o.PlainText = true
		}
		return nil
	}
	return opt
}

// A node is an element that a test changes.
type node struct {
	space, local string
	attrs        []xml.Attr
	kids         []*node
	text         string // before the children
}

// parse parses one element of a client's stream.
func parse(t testing.TB, s string) *node {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader("<x xmlns='jabber:client'>" + s + "</x>"))
	top := &node{}
	open := []*node{top}
	for {
		tok, err := d.Token()
		if err != nil {
			break
		}
		at := open[len(open)-1]
		switch k := tok.(type) {
		case xml.StartElement:
			n := &node{space: k.Name.Space, local: k.Name.Local}
			for _, a := range k.Attr {
				if a.Name.Local != "xmlns" && a.Name.Space != "xmlns" {
					n.attrs = append(n.attrs, a)
				}
			}
			at.kids = append(at.kids, n)
			open = append(open, n)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			at.text += string(k)
		}
	}
	if len(top.kids) != 1 || len(top.kids[0].kids) != 1 {
		t.Fatalf("no element: %s", s)
	}
	return top.kids[0].kids[0]
}

func (n *node) write(b *strings.Builder, space string) {
	b.WriteString("<" + n.local)
	if n.space != space {
		b.WriteString(" xmlns='" + escape(n.space) + "'")
	}
	for _, a := range n.attrs {
		name := a.Name.Local
		if a.Name.Space != "" {
			name = "xml:" + name
		}
		b.WriteString(" " + name + "='" + escape(a.Value) + "'")
	}
	b.WriteString(">" + escape(n.text))
	for _, k := range n.kids {
		k.write(b, n.space)
	}
	b.WriteString("</" + n.local + ">")
}

func (n *node) String() string {
	var b strings.Builder
	n.write(&b, "jabber:client")
	return b.String()
}

func (n *node) attr(name string) (string, bool) {
	for _, a := range n.attrs {
		if a.Name.Space == "" && a.Name.Local == name {
			return a.Value, true
		}
	}
	return "", false
}

func (n *node) set(name, value string) {
	for i, a := range n.attrs {
		if a.Name.Space == "" && a.Name.Local == name {
			n.attrs[i].Value = value
			return
		}
	}
	n.attrs = append(n.attrs, xml.Attr{Name: xml.Name{Local: name}, Value: value})
}

func (n *node) drop(name string) {
	n.attrs = slices.DeleteFunc(n.attrs, func(a xml.Attr) bool {
		return a.Name.Space == "" && a.Name.Local == name
	})
}

// all returns n and all its descendants.
func (n *node) all() (list []*node) {
	list = append(list, n)
	for _, k := range n.kids {
		list = append(list, k.all()...)
	}
	return list
}

func (n *node) clone() *node {
	c := *n
	c.attrs = slices.Clone(n.attrs)
	c.kids = make([]*node, len(n.kids))
	for i, k := range n.kids {
		c.kids[i] = k.clone()
	}
	return &c
}

// stanzas returns all stanzas that the conversations of all modules send on a bound stream, each once.
func stanzas(t testing.TB) (list []*node) {
	all := conversations(t)
	seen := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		for _, st := range stepsOf(all[name]) {
			if !strings.Contains(st.line, " sends") {
				continue
			}
			for _, e := range elements(strings.Join(st.body, "\n")) {
				l := string(e.Local())
				if l != "iq" && l != "message" && l != "presence" {
					continue
				}
				n := parse(t, string(e.Raw()))
				n.drop("id")
				n.drop("from") // a wrong one ends the stream, as it should (RFC 6120 section 8.1.2.1)
				if !seen[n.String()] {
					seen[n.String()] = true
					list = append(list, n)
				}
			}
		}
	}
	if len(list) < 100 {
		t.Fatalf("only %d stanzas in the conversations of all modules", len(list))
	}
	return list
}

var (
	values = []string{"", " ", "get", "set", "result", "error", "chat", "groupchat", "headline", "normal",
		"subscribe",
		"subscribed", "unsubscribe", "unsubscribed", "probe", "unavailable", "bogus", "remove", "none", "both",
		"-129",
		"127", "true", "0", "99999999999999999999", "romeo@localhost", "juliet@localhost/balcony", "@", "a@b@c",
		"/",
		"localhost", "nowhere.example", "{}<>&'\"", "\u202e", strings.Repeat("x", 1100)}
	spaces = []string{"", "jabber:client", "jabber:server", "jabber:iq:roster", "jabber:iq:register",
		"urn:xmpp:blocking",
		"urn:ietf:params:xml:ns:xmpp-bind", "urn:ietf:params:xml:ns:xmpp-sasl",
		"urn:ietf:params:xml:ns:xmpp-stanzas", "urn:xmpp:sid:0", "unknown:namespace"}
	names = []string{"query", "item", "group", "remove", "username", "password", "block", "error", "body", "x",
		"iq", "priority", "resource"}
)

// mutate changes n in one way that no correct client would.
func mutate(rnd *rand.Rand, n *node) {
	list := n.all()
	at := list[rnd.IntN(len(list))]
	pick := func(l []string) string { return l[rnd.IntN(len(l))] }
	switch rnd.IntN(14) {
	case 0: // a child is missing
		if len(at.kids) > 0 {
			i := rnd.IntN(len(at.kids))
			at.kids = slices.Delete(at.kids, i, i+1)
		}
	case 1: // is there twice
		if len(at.kids) > 0 {
			at.kids = append(at.kids, at.kids[rnd.IntN(len(at.kids))].clone())
		}
	case 2: // stands elsewhere
		rnd.Shuffle(len(at.kids), func(i, j int) { at.kids[i], at.kids[j] = at.kids[j], at.kids[i] })
	case 3, 4: // another namespace
		if at != n {
			at.space = pick(spaces)
		}
	case 5:
		n.set("type", pick(values))
	case 6: // empty attributes
		for i := range at.attrs {
			at.attrs[i].Value = ""
		}
	case 7, 8:
		if len(at.attrs) > 0 {
			at.attrs[rnd.IntN(len(at.attrs))].Value = pick(values)
		}
	case 9:
		if len(at.attrs) > 0 {
			i := rnd.IntN(len(at.attrs))
			at.attrs = slices.Delete(at.attrs, i, i+1)
		}
	case 10:
		at.text = pick(values)
	case 11: // another name
		if at != n {
			at.local = pick(names)
		}
	case 12: // one level deeper
		at.kids = []*node{{space: at.space, local: at.local, kids: at.kids, attrs: slices.Clone(at.attrs)}}
	case 13:
		n.set("to", pick([]string{"localhost", "romeo@localhost", "romeo@localhost/orchard", "juliet@localhost",
			"juliet@localhost/balcony",
			"juliet@localhost/gone", "absent@localhost", "nowhere.example", "", "@", "a@b@c", "localhost/x",
			"juliet@localhost/" + strings.Repeat("r", 1024)}))
	}
}

// A stanza that a handler can't handle is answered with a stanza error, or not at all if it needs no
// answer. It never ends the stream or the server (CVE-2019-1000007). Every iq of type get or set has one
// answer, with its id.
func TestAttackX21(t *testing.T) {
	templates := stanzas(t)
	rnd := rand.New(rand.NewPCG(21, 21))
	opt := withKinds(everything(Options{}))
	const servers, each = 40, 250
	for range servers {
		s := New(t, opt)
		romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
		befriend(s, romeo, juliet)
		for i := range each {
			n := templates[rnd.IntN(len(templates))].clone()
			for range 1 + rnd.IntN(3) {
				mutate(rnd, n)
			}
			n.set("id", fmt.Sprint("x", i))
			n.drop("from")
			if rnd.IntN(40) == 0 {
				n.drop("id")
			}
			text := n.String()
			if strings.Contains(text, "jabber:iq:register") && strings.Contains(text, "<remove") {
				continue // it may delete the account
			}
			romeo.Send(text)
			s.Settle()
			held(t, s, "romeo", text)
			if t.Failed() {
				return
			}
		}
		s.Advance(0)
	}
}

// held checks what the clients got for one stanza that client has sent.
func held(t testing.TB, s *Server, client, text string) {
	t.Helper()
	got := s.got()
	for name, list := range got {
		if s.clients[name].conn.Ended() {
			t.Errorf("%s\nended the stream of %s:\n%s", text, name, strings.Join(list, "\n"))
		}
		for _, raw := range list {
			e := elements(raw)
			if len(e) != 1 {
				t.Errorf("%s\nmakes for %s what is not one element: %s", text, name, raw)
			} else if attr(e[0], stanza.AttrType) == "error" && name == client &&
				attr(e[0], stanza.AttrFrom) != s.clients[client].JID {
				proper(t, text, raw)
			}
		}
	}
	sent := elements(text)
	if len(sent) != 1 {
		t.Fatalf("the test sends what is not one element: %s", text)
	}
	if _, ok := sent[0].Attr(stanza.AttrID); ok {
		answered(t, client, s.clients[client].JID, sent, got)
	}
	if _, directed := sent[0].Attr(stanza.AttrTo); !directed && string(sent[0].Local()) == "presence" {
		return // it goes to many clients, and each may answer with an error
	}
	errs := 0
	for _, raw := range got[client] {
		if e := elements(raw); len(e) == 1 && attr(e[0], stanza.AttrType) == "error" &&
			attr(e[0], stanza.AttrID) == attr(sent[0], stanza.AttrID) {
			errs++
		}
	}
	if errs > 1 {
		t.Errorf("%s\nhas %d errors:\n%s", text, errs, strings.Join(got[client], "\n"))
	}
}

var errorTypes = []string{"auth", "cancel", "continue", "modify", "wait"}

// proper checks that raw is a stanza error as RFC 6120 section 8.3 describes it: one type, one defined
// condition.
func proper(t testing.TB, text, raw string) {
	t.Helper()
	n := parse(t, raw)
	for _, k := range n.kids {
		if k.local != "error" || k.space != stanza.NSClient {
			continue
		}
		typ, _ := k.attr("type")
		defined := 0
		for _, c := range k.kids {
			if c.space == "urn:ietf:params:xml:ns:xmpp-stanzas" && c.local != "text" {
				defined++
			}
		}
		if defined == 1 && slices.Contains(errorTypes, typ) {
			return
		}
	}
	t.Errorf("%s\nis answered with no proper error: %s", text, raw)
}
