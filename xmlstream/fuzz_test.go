package xmlstream

import (
	"strings"
	"testing"

	"canto/xmlstream/xmlstreamtest"
)

// FuzzParse looks for panics, and for input that this package accepts and encoding/xml does not, or reads as
// another tree. The exceptions, and how the rest is made comparable:
//
//   - encoding/xml has the names of the 4th edition of XML, and this package those of the 5th: names are
//     turned into ASCII;
//   - it does not normalise white space in values and namespaces: after decoding, all white space is replaced
//     by spaces on both sides;
//   - it takes attributes of a namespace "xmlns" for declarations, and puts no element named xmlns into the
//     default namespace: such input is left out;
//   - input that only encoding/xml accepts is not judged: it allows two attributes with one name, undeclared
//     prefixes, and names with two colons. FuzzExpat judges these.
func FuzzParse(f *testing.F) {
	for _, x := range append(xmlstreamtest.Stanzas(), xmlstreamtest.Unusual()...) {
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
			if strings.Contains(string(e.Raw()), "xmlns") && !ordinaryXMLNS(e) {
				continue
			}
			want, err := oracle(xmlstreamtest.Header,
				string(asciiNames(e.Raw(), 0, len(e.Raw()), wideNames(nil, e, 0))))
			if err != nil {
				t.Fatalf("%q: %v", e.Raw(), err)
			}
			got := infosetWriter{name: asciiName, value: blanks}
			if got.element(e); got.String() != want {
				t.Fatalf("%q:\n%s\nencoding/xml:\n%s", e.Raw(), got.String(), want)
			}
		}
		s.Reset(0)
	})
}

// ordinaryXMLNS reports whether no element is named xmlns, and no namespace.
func ordinaryXMLNS(e Element) bool {
	t := e.t
	for i := range t.nodes {
		if string(t.local(&t.nodes[i])) == "xmlns" {
			return false
		}
	}
	for i := range t.nsDecls {
		if string(t.nsURI(uint16(i+1))) == "xmlns" {
			return false
		}
	}
	return true
}

// FuzzSplit cuts input in two places: the outcome must be that of the whole.
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

// FuzzAppendRoundTrip passes elements on from each kind of sender in each form, as a whole and each child
// alone. The receiver must read what was sent, whether the bytes were copied or the element was written
// again. If no prefix and no content namespace is declared in it, encoding/xml must read the same.
func FuzzAppendRoundTrip(f *testing.F) {
	for i, x := range append(xmlstreamtest.Stanzas(), xmlstreamtest.Unusual()...) {
		if len(x.XML) < 4000 {
			f.Add(x.XML, "a'\"<>&\n", byte(i))
		}
	}
	f.Fuzz(func(t *testing.T, x, v string, by byte) {
		sent := &senders[int(by)%len(senders)]
		p := NewParser(nil)
		var s Stream
		sent.open(p, &s)
		p.Feed(&s, []byte(x))
		for {
			e, err := p.Stanza(&s)
			if err != nil {
				break
			}
			for ok := true; ok; e, ok = e.First() {
				if err := sent.passOn(e, []Attr{{to, v}}); err != nil {
					t.Fatal(err)
				}
			}
		}
		s.Reset(0)
		header := strings.Replace(xmlstreamtest.Header, " to=", " xmlns:h='urn:h' to=", 1)
		open(t, p, &s, header)
		p.Feed(&s, []byte(x))
		for {
			e, err := p.Stanza(&s)
			if err != nil {
				break
			}
			if raw := string(e.Raw()); !strings.Contains(raw, NSServer) && !strings.Contains(raw, NSClient) &&
				!strings.Contains(raw, ":") {
				roundTrip(t, header, e)
			}
		}
		s.Reset(0)
	})
}
