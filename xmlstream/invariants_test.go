//go:build invariants || race

package xmlstream

import (
	"strings"
	"testing"

	"canto/xmlstream/xmlstreamtest"
)

// An Element that is used after its life panics, and its bytes are overwritten.
func TestAttackK11(t *testing.T) {
	stale := func(what string, e Element) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("%s: a stale Element was read", what)
			}
		}()
		e.Text()
	}
	p := NewParser(nil)
	for _, whole := range []bool{true, false} {
		var s Stream
		open(t, p, &s, xmlstreamtest.Header)
		in := "<message id='&amp;secret'><body>secret</body></message><presence/>"
		if !whole {
			p.Feed(&s, []byte(in[:10]))
			p.Stanza(&s)
			in = in[10:]
		}
		p.Feed(&s, []byte(in))
		e, err := p.Stanza(&s)
		if err != nil {
			t.Fatal(err)
		}
		c, _ := e.First()
		text, raw := c.Text(), e.Raw()
		val, _ := e.Attr(id)
		if string(text) != "secret" {
			t.Fatal(string(text))
		}
		if _, err := p.Stanza(&s); err != nil {
			t.Fatal(err)
		}
		for _, b := range [][]byte{text, raw, val} {
			if strings.Contains(string(b), "secret") {
				t.Errorf("expired bytes are %q", b)
			}
		}
		stale("stanza", e)
		stale("child", c)
	}
	e, err := p.Element([]byte("<a>x</a>"))
	if err != nil {
		t.Fatal(err)
	}
	p.Release(e)
	stale("released", e)
}

// Each way to end an element's life makes it panic and overwrites what its methods returned, wherever its
// bytes are: in the read, in the tail of an unfinished stanza, or in decoded values.
func TestPoison(t *testing.T) {
	const in = "<message a='secret' b='&lt;secret' xml:lang='secret'>secret<secret xmlns='urn&#58;secret' " +
		"xmlns:p='urn:secret' p:c='secret'>&amp;secret<![CDATA[secret]]></secret>secret</message>"
	enders := map[string]func(p *Parser, s, other *Stream){
		"Feed":             func(p *Parser, s, other *Stream) { p.Feed(s, nil) },
		"Feed of another":  func(p *Parser, s, other *Stream) { p.Feed(other, []byte("<a/>")) },
		"Next":             func(p *Parser, s, other *Stream) { p.Next(s) },
		"Stanza":           func(p *Parser, s, other *Stream) { p.Stanza(s) },
		"Next of another":  func(p *Parser, s, other *Stream) { p.Next(other) },
		"Rest and Next":    func(p *Parser, s, other *Stream) { p.Rest(s); p.Next(s) },
		"Rest and Feed":    func(p *Parser, s, other *Stream) { p.Rest(s); p.Feed(s, []byte("<a/>")) },
		"Feed of an error": func(p *Parser, s, other *Stream) { p.Feed(s, []byte("</x>")); p.Stanza(s) },
	}
	for what, end := range enders {
		for _, behind := range []string{"", "<presence/>", "<presence"} {
			for _, cut := range []int{0, 5, 60, len(in) - 1} {
				p := NewParser(nil)
				var s, other Stream
				open(t, p, &s, xmlstreamtest.Header)
				open(t, p, &other, xmlstreamtest.Header)
				p.Feed(&s, []byte(in[:cut]))
				p.Stanza(&s)
				p.Feed(&s, []byte(in[cut:]+behind))
				e, err := p.Stanza(&s)
				if err != nil {
					t.Fatal(err)
				}
				kid, _ := e.First()
				views := [][]byte{e.Text(), e.Raw(), kid.Text(), kid.Raw(), kid.Local(), kid.Space()}
				for _, e := range []Element{e, kid} {
					for i := range e.NumAttr() {
						space, local, value := e.AttrAt(i)
						views = append(views, value)
						if strings.Contains(string(space)+string(local), "secret") {
							views = append(views, space)
						}
					}
				}
				for i, v := range views {
					if !strings.Contains(string(v), "secret") {
						t.Fatalf("view %d is %q", i, v)
					}
				}
				clone := e.Clone()
				end(p, &s, &other)
				for i, v := range views {
					if strings.Contains(string(v), "secret") {
						t.Errorf("%s, cut at %d, with %q after it: view %d is still %q", what, cut, behind, i, v)
					}
				}
				for _, e := range []Element{e, kid} {
					func() {
						defer func() {
							if recover() == nil {
								t.Errorf("%s, cut at %d, with %q after it: a stale Element was read", what, cut, behind)
							}
						}()
						e.NumAttr()
					}()
				}
				if string(clone.Raw()) != in || string(clone.Text()) != "secretsecret" {
					t.Errorf("%s: the clone died: %q", what, clone.Raw())
				}
			}
		}
	}
	// Parser.Element: the bytes are the caller's, decoded values are the parser's.
	p := NewParser(nil)
	b := []byte(in)
	e, err := p.Element(b)
	if err != nil {
		t.Fatal(err)
	}
	kid, _ := e.First()
	text, space := kid.Text(), kid.Space()
	v, _ := e.Attr(N("", "b"))
	p.Release(e)
	for _, v := range [][]byte{text, space, v} {
		if strings.Contains(string(v), "secret") {
			t.Errorf("Release: %q", v)
		}
	}
	if string(b) != in {
		t.Error("Release wrote into the caller's bytes")
	}
}

// The parser does not change the fed bytes, also not when their elements expire.
func TestFedUnchanged(t *testing.T) {
	p := NewParser(nil)
	for _, in := range streams() {
		if len(in) > 10000 {
			continue
		}
		for _, cut := range []int{0, 1, len(in) / 2} {
			var s Stream
			b := []byte(in)
			for _, part := range [][]byte{b[:cut], b[cut:]} {
				p.Feed(&s, part)
				for {
					tok, err := p.Next(&s)
					if err != nil {
						break
					}
					if tok.t != nil && !tok.t.header {
						tok.Append(nil, Framed)
						tok.Text()
					}
				}
			}
			s.Reset(0)
			p.Feed(&s, nil)
			if string(b) != in {
				t.Fatalf("%.200q was changed", in)
			}
		}
	}
}
