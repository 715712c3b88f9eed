package xmlstream

import (
	"strings"
	"testing"

	"canto/xmlstream/xmlstreamtest"
)

func TestFramed(t *testing.T) {
	p := NewParser(nil)
	var s Stream
	s.ResetFramed(0)
	next := func(x string) (Element, error) {
		p.Feed(&s, []byte(x))
		return p.Stanza(&s)
	}
	if e, err := next("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='a'/>"); err != nil ||
		!e.Is(N(NSFraming, "open")) {
		t.Error(err)
	}
	e, err := next("<message xmlns='jabber:client'><body>x</body></message>")
	if err != nil || !e.Is(message) {
		t.Fatal(err)
	}
	for f, want := range []string{"<message><body>x</body></message>",
		"<message xmlns='jabber:client'><body>x</body></message>", "<message><body>x</body></message>"} {
		if got := string(e.Append(nil, Form(f))); got != want {
			t.Errorf("form %d: %s", f, got)
		}
	}
	if e, err = next("<stream:error xmlns:stream='http://etherx.jabber.org/streams'/>"); err != nil ||
		!e.Is(N(NSStream, "error")) {
		t.Error(err)
	}
	if e, err = next("<message/>"); err != nil || e.Is(message) || len(e.Space()) != 0 {
		t.Error("a stanza without a namespace is in jabber:client")
	}
	if _, err = next("</stream:stream>"); condition(err) != NotWellFormed {
		t.Error(err)
	}
	s.ResetFramed(0)
	if _, err = next("<stream:error/>"); condition(err) != BadNamespacePrefix {
		t.Error(err)
	}
}

func TestRoot(t *testing.T) {
	p := NewParser(nil)
	root := func(h string) *Root {
		var s Stream
		open(t, p, &s, h)
		return s.Root()
	}
	const streams = " xmlns:stream='http://etherx.jabber.org/streams'"
	for _, c := range []struct {
		h, lang string
		def     Atom
		shared  bool
	}{
		{xmlstreamtest.Header, "en", atomClient, true},
		{xmlstreamtest.ServerHeader, "", atomServer, true},
		{"<stream:stream xmlns='jabber:client'" + streams + ">", "", atomClient, true},
		{"<stream:stream xmlns='jabber:server'" + streams + ">", "", atomServer, true},
		{"<stream:stream xmlns='jabber:client' xml:lang='en-US'" + streams + ">", "en-US", atomClient, false},
		{"<stream:stream xmlns='jabber:client' xml:lang='E!'" + streams + ">", "E!", atomClient, false},
		{"<stream:stream xmlns='nobody interned this'" + streams + ">", "", Unknown, false},
		{"<stream:stream" + streams + ">", "", None, false},
		{"<stream xmlns='http://etherx.jabber.org/streams'>", "", atomStream, false},
		{"<stream:stream xmlns='jabber:client' xmlns:x='y'" + streams + ">", "", atomClient, false},
		{"<stream:stream xmlns='jabber:client' xmlns:stream='y'>", "", atomClient, false},
	} {
		r := root(c.h)
		if r.Default != c.def || r.Lang != c.lang || (r == root(c.h)) != c.shared {
			t.Errorf("%s: %v %q", c.h, r.Default, r.Lang)
		}
	}
}

func TestLimits(t *testing.T) {
	if id, err := (Limits{}).ID(); id != 0 || err != nil || id.Limits().StanzaBytes != 256<<10 {
		t.Error(id, err)
	}
	a, err := Limits{StanzaBytes: 100, Nodes: 2}.ID()
	if b, _ := (Limits{StanzaBytes: 100, Nodes: 2, Depth: 64}).ID(); a != b || err != nil {
		t.Error("equal limits have two IDs")
	}
	p := NewParser(nil)
	var s Stream
	open(t, p, &s, xmlstreamtest.Header)
	s.SetLimits(a)
	p.Feed(&s, []byte("<a><b/></a><a><b/><c/></a>"))
	if _, err := p.Stanza(&s); err != nil {
		t.Error(err)
	}
	before := s.Offset()
	_, err = p.Stanza(&s)
	if condition(err) != PolicyViolation || s.Offset() != before || err.(*SyntaxError).TooBig {
		t.Error(err)
	}
	s.Reset(0)
	open(t, p, &s, xmlstreamtest.Header)
	s.SetLimits(a)
	p.Feed(&s, append([]byte("<a>"), make([]byte, 0)...))
	p.Stanza(&s)
	p.Feed(&s, []byte(strings.Repeat("0123456789", 10)))
	if _, err = p.Stanza(&s); condition(err) != PolicyViolation || !err.(*SyntaxError).TooBig ||
		err.(*SyntaxError).Offset != before-11+100 {
		t.Error(err, before)
	}
	if limitSets.used > 200 {
		t.Fatal("too many limits in these tests")
	}
	limitSets.Lock()
	used := limitSets.used
	limitSets.used = len(limitSets.at)
	limitSets.Unlock()
	if _, err := (Limits{Depth: 63}).ID(); err == nil {
		t.Error("a 257th set of limits")
	}
	limitSets.used = used
}

func TestRest(t *testing.T) {
	p := NewParser(nil)
	var s Stream
	open(t, p, &s, xmlstreamtest.Header)
	in := []byte("</a><b/><c/>")
	p.Feed(&s, []byte("<a>"))
	p.Stanza(&s)
	p.Feed(&s, in)
	for i, want := range []int{8, 4, 0} {
		e, err := p.Stanza(&s)
		if err != nil || string(e.Local()) != string(rune('a'+i)) {
			t.Fatal(err)
		}
		n := p.Rest(&s)
		if n != want || p.Rest(&s) != 0 || s.Pending() != 0 {
			t.Errorf("%d left, want %d", n, want)
		}
		if string(e.Local()) != string(rune('a'+i)) {
			t.Error("the element died with Rest")
		}
		p.Feed(&s, in[len(in)-n:])
	}
	if _, err := p.Stanza(&s); err != ErrNeedMore {
		t.Error(err)
	}
	var unread Stream
	if _, err := p.Stanza(&unread); err != errNoHeader {
		t.Error(err)
	}
}
