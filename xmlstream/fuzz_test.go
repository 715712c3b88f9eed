package xmlstream

import (
	"strings"
	"testing"

	"canto/xmlstream/xmlstreamtest"
)

// FuzzParse looks for panics, and for what we take and encoding/xml does not. Exceptions: names of the 5th edition of XML
// (encoding/xml has those of the 4th).
func FuzzParse(f *testing.F) {
	for _, x := range append(xmlstreamtest.Stanzas(), xmlstreamtest.Odd()...) {
		f.Add(x.XML)
	}
	for _, a := range xmlstreamtest.Attacks() {
		if x, ok := strings.CutPrefix(a.In, xmlstreamtest.Header); ok && len(x) < 10000 {
			f.Add(x)
		}
	}
	p := NewParser(nil)
	f.Fuzz(func(t *testing.T, x string) {
		var s Stream
		open(t, p, &s, xmlstreamtest.Header)
		p.Feed(&s, []byte(x))
		for {
			e, err := p.Stanza(&s)
			if err != nil {
				break
			}
			var w strings.Builder
			dump(&w, e)
			if _, err := oracle(xmlstreamtest.Header, string(e.Raw())); err != nil && !newNames(e) {
				t.Fatalf("%q: %v", e.Raw(), err)
			}
		}
		s.Reset(0)
	})
}

// newNames reports whether a name in e has characters outside of ASCII, or a character that the editions of XML differ on.
func newNames(e Element) bool {
	t := e.t
	wide := func(b []byte) bool {
		for _, c := range b {
			if c >= 0x80 {
				return true
			}
		}
		return false
	}
	for i := range t.nodes {
		if wide(t.buf[t.nodes[i].start+1 : t.nodes[i].start+1+uint32(t.nodes[i].qlen)]) {
			return true
		}
	}
	for i := range t.attrs {
		if wide(t.buf[t.attrs[i].name : t.attrs[i].name+uint32(t.attrs[i].qlen)]) {
			return true
		}
	}
	return false
}

// FuzzSplit cuts input twice: the outcome is that of the whole.
func FuzzSplit(f *testing.F) {
	for i, in := range streams() {
		if len(in) < 2000 {
			f.Add(in, i, 2*i)
		}
	}
	p := NewParser(nil)
	f.Fuzz(func(t *testing.T, in string, i, j int) {
		if i < 0 || j < i || j > len(in) {
			return
		}
		var s Stream
		want := outcome(t, p, &s, in)
		for _, cuts := range [][]int{{i, j}, everyByte(len(in))} {
			s.Reset(0)
			if got := outcome(t, p, &s, in, cuts...); got != want {
				t.Fatalf("%q cut at %v:\n%s\nwhole:\n%s", in, cuts, got, want)
			}
		}
		s.Reset(0)
	})
}

// FuzzAppendRoundTrip writes what was read in each form and reads it again, with encoding/xml.
func FuzzAppendRoundTrip(f *testing.F) {
	for _, x := range append(xmlstreamtest.Stanzas(), xmlstreamtest.Odd()...) {
		f.Add(x.XML, "a'\"<>&\n")
	}
	header := strings.Replace(xmlstreamtest.Header, " to=", " xmlns:h='urn:h' to=", 1)
	p := NewParser(nil)
	f.Fuzz(func(t *testing.T, x, v string) {
		var s Stream
		open(t, p, &s, header)
		p.Feed(&s, []byte(x))
		for {
			e, err := p.Stanza(&s)
			if err != nil {
				break
			}
			q, err := Parse(e.Append(nil, Streamed, Attr{to, v}))
			if err != nil {
				t.Fatalf("%q: %v", e.Raw(), err)
			}
			if got, ok := q.Attr(to); ok != (v != "") || ok && string(AppendValue(nil, got)) != string(AppendValue(nil, v)) {
				t.Fatalf("%q: to is %q, not %q", e.Raw(), got, v)
			}
			if strings.Contains(string(e.Raw()), NSServer) || strings.Contains(string(e.Raw()), NSClient) || strings.Contains(string(e.Raw()), ":") {
				for _, out := range outputs(e, Attr{to, v}) {
					if _, err := Parse([]byte(out)); err != nil && !strings.Contains(out, "stream:") {
						t.Fatalf("%q: %q: %v", e.Raw(), out, err)
					}
				}
				continue
			}
			roundTrip(t, header, e)
		}
		s.Reset(0)
	})
}
