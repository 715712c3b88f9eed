//go:build invariants

package xmlstream

import (
	"strings"
	"testing"

	"canto/xmlstream/xmlstreamtest"
)

// What is kept past its life is caught: the Element panics, and its bytes are overwritten.
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
