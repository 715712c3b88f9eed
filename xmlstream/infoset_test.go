package xmlstream

import (
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"
)

// infoset writes e in the form of oracle, with each piece of character data in its place.
func infoset(e Element) string {
	w := &infosetWriter{}
	w.element(e)
	return w.String()
}

type infosetWriter struct {
	strings.Builder
	name  func([]byte) string // changes a local name; nil leaves it
	value func(string) string // changes the value of an attribute, and a namespace
}

func (w *infosetWriter) start(e Element) {
	local := w.name
	if local == nil {
		local = func(b []byte) string { return string(b) }
	}
	value := w.value
	if value == nil {
		value = func(s string) string { return s }
	}
	var attrs []string
	for i := range e.NumAttr() {
		space, name, v := e.AttrAt(i)
		attrs = append(attrs, infosetAttr(value(string(space)), local(name), value(string(v))))
	}
	infosetStart(&w.Builder, value(string(e.Space())), local(e.Local()), attrs)
}

func infosetAttr(space, local, value string) string {
	return fmt.Sprintf(" {%s}%s=%q", space, local, value)
}

func infosetStart(w *strings.Builder, space, local string, attrs []string) {
	sort.Strings(attrs)
	fmt.Fprintf(w, "<{%s}%s%s>\n", space, local, strings.Join(attrs, ""))
}

func (w *infosetWriter) text(raw []byte) {
	if text := decode(nil, raw, false); len(text) > 0 {
		fmt.Fprintf(w, "%q\n", text)
	}
}

func (w *infosetWriter) element(e Element) {
	t, nd := e.t, e.node()
	w.start(e)
	if nd.nflags&nEmpty == 0 {
		from, own := nd.body, ""
		for c, ok := e.First(); ok; c, ok = c.Next() {
			w.text(t.buf[from:c.node().start])
			own += string(decode(nil, t.buf[from:c.node().start], false))
			w.element(c)
			from = t.end(c.node())
		}
		w.text(t.buf[from:nd.endTag])
		if own += string(decode(nil, t.buf[from:nd.endTag], false)); own != string(e.Text()) {
			fmt.Fprintf(w, "Text is %q\n", e.Text())
		}
	}
	w.WriteString("</>\n")
}

// asciiName turns a name into one that is also valid in the 4th edition of XML, as expat and encoding/xml
// know no other. It is the only way in which they accept less than this package.
func asciiName(b []byte) string {
	var w strings.Builder
	for _, r := range string(b) {
		if r < utf8.RuneSelf {
			w.WriteRune(r)
		} else {
			fmt.Fprintf(&w, "_u.%X.", r)
		}
	}
	return w.String()
}

type span struct{ from, to int }

// wideNames appends the spans of the names outside ASCII in e, which begins at offset base of the stream.
func wideNames(spans []span, e Element, base int) []span {
	t := e.t
	add := func(from, n uint32) {
		for _, c := range t.buf[from : from+n] {
			if c >= utf8.RuneSelf {
				spans = append(spans, span{base + int(from), base + int(from+n)})
				return
			}
		}
	}
	for i := range t.nodes {
		nd := &t.nodes[i]
		add(nd.start+1, uint32(nd.qnameLen))
		for k := nd.attr0; k < nd.attr0+uint32(nd.nattr); k++ {
			add(t.attrs[k].name, uint32(t.attrs[k].qnameLen))
		}
		if nd.nflags&nEmpty == 0 && !t.header {
			add(nd.endTag+2, uint32(nd.qnameLen))
		}
	}
	return spans
}

func sorted(s []span) []span {
	for i := range s {
		for j := i; j > 0 && s[j].from < s[j-1].from; j-- {
			s[j], s[j-1] = s[j-1], s[j]
		}
	}
	return s
}

// asciiNames returns in[from:to] with the names at spans turned into ASCII.
func asciiNames(in []byte, from, to int, spans []span) (doc []byte) {
	for _, n := range sorted(spans) {
		doc = append(doc, in[from:n.from]...)
		doc = append(doc, asciiName(in[n.from:n.to])...)
		from = n.to
	}
	return append(doc, in[from:to]...)
}
