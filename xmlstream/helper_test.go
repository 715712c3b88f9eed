package xmlstream

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"canto/xmlstream/xmlstreamtest"
)

// dump writes all that the methods of e return, one line for each element.
func dump(w *strings.Builder, e Element) {
	type at struct {
		e     Element
		depth int
	}
	for stack := []at{{e, 0}}; len(stack) > 0; {
		top := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		fmt.Fprintf(w, "%d {%s}%s", top.depth, top.e.Space(), top.e.Local())
		for i := range top.e.NumAttr() {
			space, local, value := top.e.AttrAt(i)
			fmt.Fprintf(w, " {%s}%s=%q", space, local, value)
		}
		fmt.Fprintf(w, " %q\n", top.e.Text())
		var kids []at
		for c, ok := top.e.First(); ok; c, ok = c.Next() {
			kids = append(kids, at{c, top.depth + 1})
		}
		for i := len(kids) - 1; i >= 0; i-- {
			stack = append(stack, kids[i])
		}
	}
}

// outcome feeds in, cut before each offset in cuts, and returns the tokens and the error as text. White space
// between stanzas is left out, as a cut may be in it.
func outcome(t testing.TB, p *Parser, s *Stream, in string, cuts ...int) string {
	t.Helper()
	var w strings.Builder
	from := 0
	for _, to := range append(append([]int(nil), cuts...), len(in)) {
		b := []byte(in[from:to])
		from = to
		p.Feed(s, b)
		for {
			tok, err := p.Next(s)
			if err == ErrNeedMore {
				break
			}
			var syn *SyntaxError
			switch {
			case errors.As(err, &syn):
				fmt.Fprintf(&w, "error %s at %d, too big %v: %s\n", syn.Condition, syn.Offset, syn.TooBig, syn.Msg)
				return w.String()
			case err == io.EOF:
				fmt.Fprintf(&w, "EOF\n")
				return w.String()
			case err != nil:
				t.Fatal(err)
			case tok.End:
				fmt.Fprintf(&w, "end at %d\n", s.Offset())
			case !tok.Whitespace:
				fmt.Fprintf(&w, "at %d: %s\n", s.Offset(), tok.Raw())
				dump(&w, tok.Element)
			}
		}
		for i := range b {
			b[i] = '#' // the buffer of a read is reused
		}
	}
	return w.String()
}

// everyByte returns the cuts of a string of n bytes into single bytes.
func everyByte(n int) (cuts []int) {
	for i := 1; i < n; i++ {
		cuts = append(cuts, i)
	}
	return cuts
}

// streams returns complete streams, with all of the corpus.
func streams() (all []string) {
	for _, s := range append(xmlstreamtest.Stanzas(), xmlstreamtest.Unusual()...) {
		all = append(all, xmlstreamtest.Header+" "+s.XML+"\n"+s.XML+xmlstreamtest.End+"dropped")
	}
	for _, a := range xmlstreamtest.Attacks() {
		all = append(all, a.In)
	}
	return append(all, "\xEF\xBB\xBF"+xmlstreamtest.Header, "\n "+xmlstreamtest.ServerHeader+"<message/>",
		"<?xml version = \"1.0\"\tencoding='utf-8' standalone='yes' ?>\n<a/>x",
		"<stream xmlns='http://etherx.jabber.org/streams'></stream >", xmlstreamtest.Header+
			"</stream:stream \n><a/>")
}

// open feeds and reads the stream header h.
func open(t testing.TB, p *Parser, s *Stream, h string) {
	t.Helper()
	p.Feed(s, []byte(h))
	if _, err := p.Next(s); err != nil {
		t.Fatal(err)
	}
}

// stanza reads one stanza x on a stream with the header h. It is valid until the end of the test.
func stanza(t testing.TB, h, x string) Element {
	t.Helper()
	p := NewParser(nil)
	var s Stream
	open(t, p, &s, h)
	p.Feed(&s, []byte(x))
	e, err := p.Stanza(&s)
	if err != nil {
		t.Fatalf("%s: %v", x, err)
	}
	return e
}

// oracle reads x as encoding/xml does, with the declarations of header around it, and returns it in
// canonical form: namespaces resolved, attributes sorted, declarations left out.
func oracle(header, x string) (string, error) {
	d := xml.NewDecoder(strings.NewReader(header + x + xmlstreamtest.End))
	var w strings.Builder
	depth, text := 0, ""
	flush := func() {
		if text != "" {
			fmt.Fprintf(&w, "%q\n", text)
			text = ""
		}
	}
	for {
		tok, err := d.Token()
		if err == io.EOF {
			return w.String(), nil
		}
		if err != nil {
			return "", err
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			if depth++; depth == 1 {
				continue
			}
			flush()
			var attrs []string
			for _, a := range tok.Attr {
				if a.Name.Space == "xmlns" || a.Name.Space == "" && a.Name.Local == "xmlns" {
					continue
				}
				attrs = append(attrs, infosetAttr(blanks(a.Name.Space), a.Name.Local, blanks(a.Value)))
			}
			infosetStart(&w, blanks(tok.Name.Space), tok.Name.Local, attrs)
		case xml.EndElement:
			flush()
			if depth--; depth > 0 {
				fmt.Fprintf(&w, "</>\n")
			}
		case xml.CharData:
			if depth > 1 {
				text += string(tok)
			}
		}
	}
}

// blanks replaces other white space by spaces: encoding/xml does not tell a line feed from a reference to
// one.
func blanks(s string) string {
	return strings.NewReplacer("\r\n", " ", "\r", " ", "\n", " ", "\t", " ").Replace(s)
}
