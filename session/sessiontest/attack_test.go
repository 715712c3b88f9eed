package sessiontest

import (
	"encoding/xml"
	"slices"
	"strings"
	"testing"
)

const xmlNS = "http://www.w3.org/XML/1998/namespace"

// What a client wrote into an id, a resource, a node or a language comes back in answers as that, and as no
// XML of its own (CVE-2026-113867): every answer is one stanza, for two parsers, with these values.
func TestAttackX19(t *testing.T) {
	for _, evil := range []string{"'/><message to='x'/>", "'><a b='", "&apos;><a b=&apos;", `"><a b="`, "]]>&#60;"} {
		t.Run(evil, func(t *testing.T) {
			s := New(t, everything(Options{}))
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
						a := parse(t, raw) // fails where it is not one element
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
