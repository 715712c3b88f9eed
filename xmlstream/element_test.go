package xmlstream

import (
	"strings"
	"sync"
	"testing"

	"canto/xmlstream/xmlstreamtest"
)

func TestElement(t *testing.T) {
	e := stanza(t, xmlstreamtest.Header,
		`<iq id='a&amp;b' x:a='1' xmlns:x='urn:x' type='get' a='2'>t&lt;1<q xmlns='urn:q'>in</q>t2<r/><q xmlns='urn:q' n='2'/></iq>`)
	for n, want := range map[Name]string{id: "a&b", N("urn:x", "a"): "1", typ: "get", N("", "a"): "2"} {
		if v, ok := e.Attr(n); !ok || string(v) != want {
			t.Errorf("%v: %q %v", n, v, ok)
		}
	}
	for _, n := range []Name{to, N("urn:y", "a"), N("", "xmlns"), N("", "x"), {None, Unknown},
		{Unknown, Unknown}} {
		if v, ok := e.Attr(n); ok {
			t.Errorf("%v: %q", n, v)
		}
	}
	if e.NumAttr() != 4 {
		t.Errorf("%d attributes", e.NumAttr())
	}
	if sp, l, v := e.AttrAt(1); string(sp) != "urn:x" || string(l) != "a" || string(v) != "1" {
		t.Errorf("%s %s %s", sp, l, v)
	}
	if string(e.Text()) != "t<1t2" {
		t.Errorf("%q", e.Text())
	}
	q, ok := e.Child(N("urn:q", "q"))
	if !ok || string(q.Text()) != "in" || string(q.Raw()) != "<q xmlns='urn:q'>in</q>" {
		t.Errorf("%s", q.Raw())
	}
	r, _ := q.Next()
	if !r.Is(N(NSClient, "r")) || r.Is(Name{Unknown, Unknown}) || r.Is(Name{Intern(NSClient), Unknown}) {
		t.Error("r is not r")
	}
	if last, ok := r.Next(); !ok || last.NumAttr() != 1 {
		t.Error("no third child")
	} else if _, ok := last.Next(); ok {
		t.Error("a fourth child")
	}
	if _, ok := r.First(); ok {
		t.Error("r has a child")
	}
	if (Element{}).IsZero() == e.IsZero() {
		t.Error("IsZero")
	}
	odd := stanza(t, xmlstreamtest.Header, "<message><no-one-interned-this xmlns='nor this'/></message>")
	c, _ := odd.First()
	if n := c.Name(); n.Known() || n.Local != Unknown || n.Space != Unknown || c.Is(n) {
		t.Errorf("%v", n)
	}
}

func TestAtoms(t *testing.T) {
	if Intern("") != None || None.String() != "" || Unknown.String() != "" || lookup(nil) != None {
		t.Error("empty")
	}
	var wg sync.WaitGroup
	got := make([][]Atom, 4)
	for g := range got {
		wg.Go(func() {
			for i := range 3000 {
				s := "atom" + strings.Repeat("x", i%50) + string(rune('a'+i%26)) + string(rune(0x100+i))
				a := Intern(s)
				if a.String() != s || lookup([]byte(s)) != a {
					t.Errorf("%s: %s", s, a)
				}
				got[g] = append(got[g], a)
			}
		})
	}
	wg.Wait()
	for g := range got {
		for i := range got[g] {
			if got[g][i] != got[0][i] {
				t.Fatal("two atoms of one string")
			}
		}
	}
	if N("urn:a", "b").String() != "{urn:a}b" || N("", "b").String() != "b" {
		t.Error("String")
	}
}

// Clones and elements from Parse outlive the parser's memory, and any goroutine can read them.
func TestClone(t *testing.T) {
	p := NewParser(nil)
	for _, x := range append(xmlstreamtest.Stanzas(), xmlstreamtest.Unusual()...) {
		var s Stream
		open(t, p, &s, strings.Replace(xmlstreamtest.Header, " to=", " xmlns:h='urn:h' to=", 1))
		b := []byte(x.XML)
		p.Feed(&s, b)
		e, err := p.Stanza(&s)
		if err != nil {
			t.Fatal(err)
		}
		var want, got strings.Builder
		dump(&want, e)
		c := e.Clone()
		q, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		var kid Element
		if k, ok := e.First(); ok {
			kid = k.Clone()
		}
		poison(b)
		p.Feed(&s, []byte("<other><thing/></other>"))
		p.Stanza(&s)
		dump(&got, c)
		if got.String() != want.String() {
			t.Errorf("%s: %s\nwant\n%s", x.Name, got.String(), want.String())
		}
		got.Reset()
		dump(&got, q)
		if got.String() != want.String() {
			t.Errorf("%s: Parse: %s\nwant\n%s", x.Name, got.String(), want.String())
		}
		if k, ok := c.First(); ok && string(k.Raw()) != string(kid.Raw()) {
			t.Errorf("%s: child %s", x.Name, kid.Raw())
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				var w strings.Builder
				dump(&w, c)
				dump(&w, q)
				c.Append(nil, ServerStreamed, Attr{from, "x"})
			})
		}
		wg.Wait()
	}
}

func TestParse(t *testing.T) {
	p := NewParser(nil)
	for _, x := range []string{"", " ", "x", "<a>", "<a/><b/>", "<a/>x", "<a", "<!-- -->", "<a>\x00</a>",
		"</a>", "<?xml version='1.0'?><a/>", "<p:a/>", "<a/>\x00"} {
		if _, err := Parse([]byte(x)); err == nil {
			t.Errorf("%q parsed", x)
		}
		if _, err := p.Element([]byte(x)); err == nil {
			t.Errorf("%q parsed", x)
		}
	}
	if p.ringUsed != 0 {
		t.Error("a failed Element is in use")
	}
	e, err := Parse([]byte("\n <message><stream:x/></message>"))
	if condition(err) != PolicyViolation || !e.IsZero() {
		t.Error(err)
	}
	if e, err = Parse([]byte("\n <message/>\n")); err != nil || !e.Is(message) {
		t.Error(err)
	}
}

// Parser.Element does not disturb the stanza in progress, can be nested, and can be called again.
func TestParserElement(t *testing.T) {
	p := NewParser(nil)
	var s Stream
	open(t, p, &s, xmlstreamtest.Header)
	p.Feed(&s, []byte("<message id='outer'><body>a&amp;b</body></message><presence/>"))
	outer, err := p.Stanza(&s)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := outer.First()
	text := b.Text()
	for range 3 {
		var all []Element
		for i := range elementRing + 3 {
			e, err := p.Element([]byte("<message><body>" + strings.Repeat("&amp;", i+1) + "</body></message>"))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
		}
		for i := len(all) - 1; i >= 0; i-- {
			c, _ := all[i].First()
			if string(c.Text()) != strings.Repeat("&", i+1) {
				t.Errorf("%d: %q", i, c.Text())
			}
			p.Release(all[i])
		}
		if p.ringUsed != 0 {
			t.Errorf("%d in use", p.ringUsed)
		}
	}
	if v, _ := outer.Attr(id); string(v) != "outer" || string(text) != "a&b" {
		t.Errorf("%s, %s", v, text)
	}
	if e, err := p.Stanza(&s); err != nil || !e.Is(N(NSClient, "presence")) {
		t.Error(err)
	}
}
