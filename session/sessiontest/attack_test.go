package sessiontest

import (
	"encoding/xml"
	"slices"
	"strings"
	"testing"
)

const xmlNS = "http://www.w3.org/XML/1998/namespace"

// What a client writes into an id, a resource, a node or a language comes back in answers as the same
// value, and never as XML of its own (CVE-2026-113867): two parsers find that every answer is one stanza
// with these values.
func TestAttackX19(t *testing.T) {
	for _, evil := range []string{"'/><message to='x'/>", "'><a b='", "&apos;><a b=&apos;", `"><a b="`,
		"]]>&#60;"} {
		t.Run(evil, func(t *testing.T) {
			s := New(t, withKinds(everything(Options{})))
			juliet := s.Login("juliet", "juliet@localhost/balcony")
			s.AddAccount("nurse@localhost")
			romeo := s.Login("romeo", "romeo@localhost/"+evil)
			befriend(s, romeo, juliet)
			answers := 0
			for _, n := range stanzas(t) {
				if strings.Contains(n.String(), "<remove") {
					continue
				}
				n.set("id", evil)
				n.attrs = slices.DeleteFunc(n.attrs, func(a xml.Attr) bool { return a.Name.Local == "lang" })
				n.attrs = append(n.attrs, xml.Attr{Name: xml.Name{Space: xmlNS, Local: "lang"}, Value: evil})
				for _, k := range n.all()[1:] {
					if _, has := k.attr("node"); has || strings.Contains(k.space, "disco") {
						k.set("node", evil)
					}
					if k.text != "" && k.local != "priority" {
						k.text = evil
					}
					if _, has := k.attr("name"); has {
						k.set("name", evil)
					}
				}
				to, directed := n.attr("to")
				if strings.HasSuffix(to, "/gone") || strings.HasPrefix(to, "juliet@localhost/") && len(n.kids) > 1 {
					to = "juliet@localhost/" + evil
					n.set("to", to)
				}
				romeo.Send(n.String())
				s.Settle()
				got := s.got()
				for name, list := range got {
					for _, raw := range list {
						if len(elements(raw)) != 1 {
							t.Fatalf("%s\nmakes for %s: %s", n, name, raw)
						}
						a := parse(t, raw) // fails if it is not one element
						full := s.clients[name].JID
						if v, has := a.attr("to"); has && bareOf(v) != bareOf(full) {
							t.Errorf("%s\nmakes a stanza to %q: %s", n, v, raw)
						}
						if name != "romeo" {
							continue
						}
						if typ, _ := a.attr("type"); typ != "result" && typ != "error" {
							continue
						}
						answers++
						if id, _ := a.attr("id"); id != evil {
							t.Errorf("%s\nis answered with the id %q: %s", n, id, raw)
						}
						if from, has := a.attr("from"); has != directed && has {
							t.Errorf("%s\nis answered from %q: %s", n, from, raw)
						}
					}
				}
				if juliet.conn.Ended() || romeo.conn.Ended() {
					t.Fatalf("%s\nended a stream", n)
				}
			}
			if answers < 40 {
				t.Errorf("only %d answers", answers)
			}
		})
	}
}

func bareOf(j string) string {
	b, _, _ := strings.Cut(j, "/")
	return b
}

// erase removes from an answer what may differ: its id and its addresses.
func erase(t testing.TB, raw string) string {
	n := parse(t, raw)
	n.drop("id")
	n.drop("from")
	n.drop("to")
	return n.String()
}

// ask sends n from c to an address. It returns what c got, and whether another client got anything.
func ask(t testing.TB, s *Server, c *Client, n *node, to string) (answer string, others bool) {
	t.Helper()
	n = n.clone()
	n.set("to", to)
	n.set("id", "q")
	c.Send(n.String())
	s.Settle()
	var list []string
	for name, got := range s.got() {
		for _, raw := range got {
			if name != c.Name {
				others = true
				continue
			}
			list = append(list, erase(t, raw))
		}
	}
	return strings.Join(list, "\n"), others
}

// iqs are the requests of all modules, without addresses.
func iqs(t testing.TB) (list []*node) {
	seen := make(map[string]bool)
	for _, n := range stanzas(t) {
		if typ, _ := n.attr("type"); n.local != "iq" || typ != "get" && typ != "set" {
			continue
		}
		n.drop("to")
		if k := n.String(); !seen[k] {
			seen[k] = true
			list = append(list, n)
		}
	}
	return list
}

// Two hosts of one server have accounts with the same localparts. No request of any module to an account
// of the other host reads or changes it, or shows that it exists.
func TestAttackR08(t *testing.T) {
	opt := everything(Options{Hosts: []string{"localhost", "example.net"}})
	s := New(t, opt)
	s.Login("there", "romeo@example.net/orchard")
	s.Login("juliet", "juliet@example.net/balcony")
	fill := `<iq type='set' id='1'><query xmlns='jabber:iq:roster'><item jid='nurse@example.net' name='secret'/></query></iq>` +
		`<iq type='set' id='2'><query xmlns='jabber:iq:private'><exodus xmlns='exodus:prefs'>secret</exodus></query></iq>` +
		`<iq type='set' id='3'><block xmlns='urn:xmpp:blocking'><item jid='tybalt@example.net'/></block></iq><presence/>`
	for _, n := range []string{"there", "juliet"} {
		s.clients[n].Send(fill)
		s.Settle()
		s.clients[n].DropConn()
		s.Settle()
	}
	before := kept(s, "romeo@example.net") + kept(s, "juliet@example.net")
	s.got()
	here := s.Login("here", "romeo@localhost/orchard")
	s.Login("present", "juliet@example.net/balcony").Send("<presence/>")
	s.Settle()
	s.got()
	asked := 0
	requests := append(iqs(t),
		parse(t, "<iq type='set'><query "+
			"xmlns='jabber:iq:register'><username>romeo</username><password>x</password></query></iq>"),
		parse(t, "<iq type='set'><query xmlns='jabber:iq:register'><remove/></query></iq>"))
	for _, n := range requests {
		for _, resource := range []string{"", "/nowhere"} {
			absent, _ := ask(t, s, here, n, "absent@example.net"+resource)
			for _, to := range []string{"romeo@example.net", "juliet@example.net"} {
				got, others := ask(t, s, here, n, to+resource)
				if got != absent || others {
					t.Errorf("%s\nto %s%s is answered %s\nto an absent account %s (another client got it: %t)", n, to,
						resource, got,
						absent, others)
				}
				asked++
			}
		}
		got, others := ask(t, s, here, n, "example.net")
		if others || strings.Contains(got, "secret") || strings.Contains(got, "romeo") ||
			strings.Contains(got, "juliet") {
			t.Errorf("%s\nto the other host is answered %s (another client got it: %t)", n, got, others)
		}
		if typ, _ := n.attr("type"); typ == "set" && !strings.Contains(got, "type='error'") &&
			!strings.Contains(n.String(), "xmpp-session") {
			t.Errorf("%s\nto the other host is taken: %s", n, got)
		}
		if here.conn.Ended() {
			t.Fatalf("%s\nended the stream", n)
		}
	}
	if asked < 100 {
		t.Errorf("only %d requests", asked)
	}
	s.clients["present"].DropConn()
	s.Settle()
	if after := kept(s, "romeo@example.net") + kept(s, "juliet@example.net"); after != before {
		t.Errorf("it was\n%s\nand is\n%s", before, after)
	}
	s.Login("mine", "romeo@localhost/still") // with the password it had
}

// A client without a subscription learns nothing of an account by requests. An account that is available,
// one that is not, one that blocks the client, and one that does not exist answer with the same bytes
// except id and addresses, to requests to the bare JID and to guessed resources. A probe is answered to
// none of them (attack K60).
func TestAttackR11(t *testing.T) {
	s := New(t, everything(Options{}))
	s.AddAccount("away@localhost")
	s.Login("juliet", "juliet@localhost/balcony").Send("<presence/>")
	s.Login("foe", "foe@localhost/balcony").Send(
		"<presence/><iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item " +
			"jid='mallory@localhost'/></block></iq>")
	mallory := s.Login("mallory", "mallory@localhost/den")
	mallory.Send("<presence/>")
	s.Settle()
	s.got()
	requests := iqs(t)
	for _, get := range []string{"<query xmlns='http://jabber.org/protocol/disco#info'/>",
		"<query xmlns='http://jabber.org/protocol/disco#items'/>",
		"<vCard xmlns='vcard-temp'/>", "<query xmlns='jabber:iq:last'/>", "<query xmlns='jabber:iq:version'/>",
		"<ping xmlns='urn:xmpp:ping'/>",
		"<query xmlns='jabber:iq:private'><a xmlns='b'/></query>", "<time xmlns='urn:xmpp:time'/>",
		"<query xmlns='jabber:iq:register'/>", "<unknown xmlns='knows:this'/>"} {
		requests = append(requests, parse(t, "<iq type='get'>"+get+"</iq>"))
	}
	for _, typ := range []string{"probe", "unsubscribe", "unsubscribed", "subscribed"} {
		requests = append(requests, parse(t, "<presence type='"+typ+"'/>"))
	}
	for _, n := range requests {
		for _, resource := range []string{"", "/guess"} {
			want, _ := ask(t, s, mallory, n, "nobody@localhost"+resource)
			if typ, _ := n.attr("type"); typ == "probe" && want != "" {
				t.Errorf("a probe is answered %s", want)
			}
			for _, to := range []string{"juliet@localhost", "away@localhost", "foe@localhost"} {
				if got, others := ask(t, s, mallory, n, to+resource); got != want || others {
					t.Errorf("%s\nto %s%s is answered %s\nto an absent account %s (another client got it: %t)", n, to,
						resource, got, want,
						others)
				}
			}
		}
		// The true resource of an account that blocks the client is like one that does not exist.
		want, _ := ask(t, s, mallory, n, "nobody@localhost/balcony")
		if got, others := ask(t, s, mallory, n, "foe@localhost/balcony"); got != want || others {
			t.Errorf("%s\nto an account that blocks is answered %s\nto an absent account %s (another client got "+
				"it: %t)", n, got, want, others)
		}
	}
}
