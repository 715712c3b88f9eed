//go:build expat

package xmlstream

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"canto/xmlstream/xmlstreamtest"
)

// expat is the reference parser in a child process: testdata/expat/expat.c, built with cc and Debian's
// libexpat1-dev.
type expat struct {
	t   testing.TB
	in  *bufio.Writer
	out *bufio.Reader
}

func startExpat(t testing.TB) *expat {
	bin := filepath.Join(t.TempDir(), "expat")
	if out, err := exec.Command("cc", "-O2", "-o", bin, "testdata/expat/expat.c",
		"-lexpat").CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, out)
	}
	cmd := exec.Command(bin)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("expat: %v", err)
		}
	})
	return &expat{t, bufio.NewWriter(in), bufio.NewReader(out)}
}

// parse returns expat's error code for doc, 0 if there is none, and its events in the form of oracle,
// without the character data of the root, which is only white space in the inputs that are compared. Unless
// final is set, more of doc may follow.
func (x *expat) parse(doc []byte, final bool) (code uint32, events string) {
	var head [12]byte
	binary.LittleEndian.PutUint32(head[:], uint32(len(doc)))
	if final {
		head[4] = 1
	}
	x.in.Write(head[:5])
	x.in.Write(doc)
	if err := x.in.Flush(); err != nil {
		x.t.Fatal(err)
	}
	if _, err := io.ReadFull(x.out, head[:]); err != nil {
		x.t.Fatal(err)
	}
	b := make([]byte, binary.LittleEndian.Uint32(head[8:]))
	if _, err := io.ReadFull(x.out, b); err != nil {
		x.t.Fatal(err)
	}
	num := func() (n int) {
		n, b = int(binary.LittleEndian.Uint32(b)), b[4:]
		return n
	}
	str := func() (s string) {
		n := num()
		s, b = string(b[:n]), b[n:]
		return s
	}
	name := func() (space, local string) {
		s := str()
		if i := strings.IndexByte(s, 0xFF); i >= 0 {
			return s[:i], s[i+1:]
		}
		return "", s
	}
	var w strings.Builder
	depth, text := 0, ""
	flush := func() {
		if text != "" && depth > 1 {
			fmt.Fprintf(&w, "%q\n", text)
		}
		text = ""
	}
	for len(b) > 0 {
		kind := b[0]
		b = b[1:]
		switch kind {
		case 'S':
			flush()
			depth++
			space, local := name()
			var attrs []string
			for range num() {
				space, local := name()
				attrs = append(attrs, infosetAttr(space, local, str()))
			}
			infosetStart(&w, space, local, attrs)
		case 'E':
			flush()
			depth--
			w.WriteString("</>\n")
		default:
			text += str()
		}
	}
	return binary.LittleEndian.Uint32(head[:]), w.String()
}

// ours are the refusals that expat does not share, by condition and message: XMPP forbids the input (RFC 6120
// section 11), or a limit does. "*" stands for each message.
var ours = map[string]string{
	RestrictedXML + " *":   "document types, processing instructions, comments, entities: section 11.1",
	PolicyViolation + " *": "Limits, and elements of the stream inside a stanza",
	InvalidXML + " *":      "a second stream header",
	BadFormat + " *":       "character data between stanzas",
	UnsupportedEncoding + " encoding other than UTF-8": "section 11.6",
	UnsupportedEncoding + " byte order mark of UTF-16": "section 11.6",
	NotWellFormed + " XML version other than 1.0":      "section 11.5; expat reads 1.1 as 1.0",
}

// compare compares verdict and events of the stream in with those of expat, and returns the class, for
// counts.
func (x *expat) compare(t testing.TB, in []byte) string {
	t.Helper()
	var (
		s     Stream
		w     = infosetWriter{name: asciiName}
		names []span
		err   error
		ended bool
		tok   Token
	)
	p := NewParser(nil)
	defer s.Reset(0)
	p.Feed(&s, in)
	for {
		if tok, err = p.Next(&s); err != nil {
			break
		}
		off := int(s.Offset())
		switch {
		case tok.Whitespace:
		case tok.End:
			ended = true
			w.WriteString("</>\n")
			if from := bytes.LastIndex(in[:off], []byte("</")) + 2; asciiName(in[from:off]) != string(in[from:off]) {
				names = append(names, span{from, off})
			}
		case tok.t.header:
			w.start(tok.Element)
			names = wideNames(names, tok.Element, off-tok.t.pos)
		default:
			w.element(tok.Element)
			names = wideNames(names, tok.Element, off-tok.t.pos)
		}
	}
	if err == io.EOF && !ended {
		w.WriteString("</>\n") // the root was an empty-element tag
	}
	// The input for expat: names in ASCII, and no white space before the XML declaration, which we accept.
	taken := int(s.Offset())
	from := 0
	if bytes.HasPrefix(in, []byte("\xEF\xBB\xBF")) {
		from = 3
	}
	if k := bytes.IndexByte(in, '<'); k >= from && bytes.HasPrefix(in[k:], []byte("<?xml")) &&
		len(bytes.TrimSpace(in[from:k])) == 0 {
		from = k
	} else {
		from = 0
	}
	if from > taken {
		from = 0
	}
	doc := asciiNames(in, from, taken, names)
	code, events := x.parse(doc, err == io.EOF)
	if code != 0 {
		t.Fatalf("we accept %q, expat has error %d in %q", in[:taken], code, doc)
	}
	if got := w.String(); got != events {
		t.Fatalf("%q:\n%s\nexpat:\n%s", in[:taken], got, events)
	}
	doc = append(doc, in[taken:]...)
	var syn *SyntaxError
	switch {
	case err == io.EOF:
		return "accepted"
	case err == ErrNeedMore:
		if code, _ := x.parse(doc, true); code == 0 {
			t.Fatalf("expat accepts %q, and we want more", doc)
		}
		return "unfinished"
	case !errors.As(err, &syn):
		t.Fatal(err)
	}
	// Expat guesses UTF-16 without a byte order mark; for us a NUL is no character (RFC 6120 section 11.6).
	utf16 := len(in) > 1 && (in[0] == 0) != (in[1] == 0)
	if !utf16 && ours[syn.Condition+" *"] == "" && ours[syn.Condition+" "+syn.Msg] == "" {
		// Expat reports an error in a tag, a word, a literal or the XML declaration when its end is there.
		for _, end := range []string{"", ">", " >", "?>", "\">", "'>", "######"} {
			if code, _ = x.parse(append(doc, end...), false); code != 0 {
				return "refused by both: " + syn.Condition
			}
		}
		t.Fatalf("expat accepts %q, we have %v", in, err)
	}
	if code, _ := x.parse(doc, true); code != 0 {
		return "refused by both: " + syn.Condition
	}
	return "refused by us: " + syn.Condition
}

// The corpus, complete and cut short at each byte.
func TestAttackK02(t *testing.T) {
	x := startExpat(t)
	counts := map[string]int{}
	for _, in := range streams() {
		counts[x.compare(t, []byte(in))]++
		if len(in) > 3000 {
			continue
		}
		for i := range len(in) {
			counts[x.compare(t, []byte(in[:i]))]++
		}
	}
	for _, what := range []string{"accepted", "unfinished", "refused by both: not-well-formed"} {
		if counts[what] == 0 {
			t.Errorf("none %s", what)
		}
	}
	for what, n := range counts {
		t.Logf("%6d %s", n, what)
	}
}

// Each case of the W3C, as a stream of its own and as an element (see w3cBody) of a stream.
func TestExpatConformance(t *testing.T) {
	x := startExpat(t)
	counts := map[string]int{}
	accepted := 0
	for _, c := range w3cTests(t) {
		counts["doc "+x.compare(t, c.doc)]++
		if c.body == nil {
			continue
		}
		counts["body "+x.compare(t, []byte(xmlstreamtest.Header+string(c.body)+xmlstreamtest.End))]++
		if _, err := Parse(c.body); err == nil {
			accepted++
		}
	}
	for what, n := range counts {
		t.Logf("%6d %s", n, what)
	}
	if accepted < 1000 || counts["body refused by both: "+NotWellFormed] < 200 {
		t.Errorf("%d bodies accepted", accepted)
	}
}

// FuzzExpat compares verdict and events with those of expat, for a complete stream or for a part of one.
// Its seeds are the corpus and, where CANTO_W3C_DIR is set, the cases of the W3C.
func FuzzExpat(f *testing.F) {
	for _, in := range streams() {
		if len(in) < 2000 {
			f.Add([]byte(in), false)
		}
	}
	for _, x := range append(xmlstreamtest.Stanzas(), xmlstreamtest.Unusual()...) {
		f.Add([]byte(x.XML), true)
	}
	if os.Getenv("CANTO_W3C_DIR") != "" {
		for _, c := range w3cTests(f) {
			if len(c.doc) < 1000 {
				f.Add(c.doc, false)
				f.Add(c.body, true)
			}
		}
	}
	x := startExpat(f)
	f.Fuzz(func(t *testing.T, in []byte, inside bool) {
		if inside {
			in = append([]byte(xmlstreamtest.Header), append(in, xmlstreamtest.End...)...)
		}
		x.compare(t, in)
	})
}
