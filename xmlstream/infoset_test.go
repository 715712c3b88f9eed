package xmlstream

import (
	"fmt"
	"sort"
	"strings"
)

// infoset writes e in the form that oracle has, each piece of character data in its place.
func infoset(e Element) string {
	w := &infosetWriter{}
	w.element(e)
	return w.String()
}

type infosetWriter struct {
	strings.Builder
	name func([]byte) string // how a local name is written; nil: as it is
}

func (w *infosetWriter) start(e Element) {
	local := w.name
	if local == nil {
		local = func(b []byte) string { return string(b) }
	}
	var attrs []string
	for i := range e.NumAttr() {
		space, name, value := e.AttrAt(i)
		attrs = append(attrs, infosetAttr(string(space), local(name), string(value)))
	}
	infosetStart(&w.Builder, string(e.Space()), local(e.Local()), attrs)
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
		w.text(t.buf[from:nd.shut])
		if own += string(decode(nil, t.buf[from:nd.shut], false)); own != string(e.Text()) {
			fmt.Fprintf(w, "Text is %q\n", e.Text())
		}
	}
	w.WriteString("</>\n")
}
