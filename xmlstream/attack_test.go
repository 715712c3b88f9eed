package xmlstream

import (
	"errors"
	"fmt"
	"io"
	"math/rand"
	"strings"
	"testing"

	"canto/xmlstream/xmlstreamtest"
)

// rows runs the attacks of the corpus that have the id. Each must end its stream with its condition, at its
// offset, and leave no memory in use. TestAttackK01 runs them in pieces.
func rows(t *testing.T, id string) {
	t.Helper()
	p := NewParser(nil)
	n := 0
	for _, a := range xmlstreamtest.Attacks() {
		if a.ID != id {
			continue
		}
		n++
		var s Stream
		err := last(p, &s, a.In)
		var syn *SyntaxError
		if !errors.As(err, &syn) {
			t.Errorf("%.200q: %v, want %s", a.In, err, a.Condition)
			continue
		}
		if syn.Condition != a.Condition || a.Offset >= 0 && int(syn.Offset) != a.Offset {
			t.Errorf("%.200q: %v, want %s at %d", a.In, err, a.Condition, a.Offset)
		}
		if s.Pending() != 0 {
			t.Errorf("%.200q: %d bytes held after the error", a.In, s.Pending())
		}
		p.Feed(&s, []byte("<message/>"))
		if _, again := p.Stanza(&s); again != err {
			t.Errorf("%.200q: then %v", a.In, again)
		}
	}
	if n == 0 && id != "" {
		t.Fatalf("no rows for %s", id)
	}
}

// last feeds in, in one piece, and returns the error that the stream ends with.
func last(p *Parser, s *Stream, in string) error {
	p.Feed(s, []byte(in))
	for {
		if _, err := p.Next(s); err != nil {
			return err
		}
	}
}

func condition(err error) string {
	var syn *SyntaxError
	if errors.As(err, &syn) {
		return syn.Condition
	}
	return fmt.Sprint(err)
}

func TestMalformed(t *testing.T) { rows(t, "") }

func TestAttackX01(t *testing.T) {
	rows(t, "X01")
	p := NewParser(nil)
	var s Stream
	in := "<?xml version='1.0'?><!DOCTYPE l [" + strings.Repeat(`<!ENTITY a "aa">`, 1000)
	p.tree.bytesScanned = 0
	if err := last(p, &s, in); condition(err) != RestrictedXML || p.tree.bytesScanned > 100 {
		t.Errorf("%v after %d bytes", err, p.tree.bytesScanned)
	}
}

func TestAttackX04(t *testing.T) { rows(t, "X04") }

// The parts of a name are never joined, so no character in a namespace can make another name.
func TestAttackX05(t *testing.T) {
	rows(t, "X05")
	e := stanza(t, xmlstreamtest.Header, "<a><d xmlns='b&#xA;c'/><d:c xmlns:d='b'/><c xmlns='b}'/><c "+
		"xmlns='b|:'/></a>")
	seen := map[string]bool{}
	for c, ok := e.First(); ok; c, ok = c.Next() {
		k := fmt.Sprintf("%q %q", c.Space(), c.Local())
		if seen[k] {
			t.Errorf("%s twice", k)
		}
		seen[k] = true
	}
	for _, k := range []string{`"b\nc" "d"`, `"b" "c"`, `"b}" "c"`, `"b|:" "c"`} {
		if !seen[k] {
			t.Errorf("%s missing in %v", k, seen)
		}
	}
	if d, _ := e.First(); d.Is(N("b", "c")) || !d.Is(N("b\nc", "d")) {
		t.Error("names joined")
	}
}

func TestAttackX06(t *testing.T) {
	rows(t, "X06")
	// Between stanzas they are accepted here: the session decides about them.
	e := stanza(t, xmlstreamtest.Header, "<stream:error/>")
	if !e.Is(N(NSStream, "error")) {
		t.Error("stream error not seen")
	}
}

var (
	from, to, id, typ = N("", "from"), N("", "to"), N("", "id"), N("", "type")
	body              = N(NSClient, "body")
	message           = N(NSClient, "message")
)

// An element that is passed on has exactly the attributes that were sent and set, in each form.
func TestAttackX07(t *testing.T) {
	for _, v := range []string{
		`'1" from="admin@x'`, `"1' from='admin@x"`, `'1&#34; from=&#34;admin@x'`, `'1&quot; from=&quot;x'`,
		`"1&#39; from=&apos;x"`, `'&lt;x/>'`, `'/>&lt;message to="x"/>'`, `"&gt;'"`, `''`,
	} {
		in := "<message to='b@x' id=" + v + " type='chat'><body q=" + v + ">" + v + "</body></message>"
		e := stanza(t, xmlstreamtest.Header, in)
		val, _ := e.Attr(id)
		want := string(val)
		for name, out := range outputs(e, Attr{from, `a"'<>&@x`}, Attr{typ, ""}) {
			got := stanza(t, xmlstreamtest.Header, out)
			if got.NumAttr() != 3 {
				t.Errorf("%s of %s: %d attributes: %s", name, in, got.NumAttr(), out)
			}
			if f, _ := got.Attr(from); string(f) != `a"'<>&@x` {
				t.Errorf("%s of %s: from %q", name, in, f)
			}
			if i, _ := got.Attr(id); string(i) != want {
				t.Errorf("%s of %s: id %q, want %q", name, in, i, want)
			}
			b, _ := got.Child(body)
			if q, _ := b.Attr(N("", "q")); string(q) != want {
				t.Errorf("%s of %s: body's q %q, want %q", name, in, q, want)
			}
		}
	}
}

// outputs writes e in each form, with and without changes.
func outputs(e Element, set ...Attr) map[string]string {
	out := map[string]string{
		"splice":  string(e.Append(nil, Streamed, set...)),
		"rewrite": string(e.rewrite(nil, Streamed, atomClient, true, set)),
		"clone":   string(e.Clone().Append(nil, Streamed, set...)),
		"framed":  string(e.Append(nil, Framed, set...)),
		"server":  string(e.Append(nil, ServerStreamed, set...)),
	}
	if !e.t.isStreams(e.node().ns) {
		var a Appender
		a.Open(N("urn:wrap", "wrap")).Raw(e, set...).Close()
		w, err := Parse(a.B)
		if err != nil {
			panic(fmt.Sprintf("%s: %v", a.B, err))
		}
		in, _ := w.First()
		out["wrapped"] = string(in.Append(nil, Streamed))
	}
	stored, err := Parse([]byte(out["splice"]))
	if err != nil {
		panic(fmt.Sprintf("%s: %v", out["splice"], err))
	}
	out["stored"] = string(stored.Append(nil, Streamed))
	return out
}

// Names are those of XML 1.0 (5th edition), productions 4 and 4a.
func TestAttackX08(t *testing.T) {
	rows(t, "X08")
	starts := [][2]rune{{'A', 'Z'}, {'_', '_'}, {'a', 'z'}, {0xC0, 0xD6}, {0xD8, 0xF6}, {0xF8, 0x2FF},
		{0x370, 0x37D}, {0x37F, 0x1FFF}, {0x200C, 0x200D},
		{0x2070, 0x218F}, {0x2C00, 0x2FEF}, {0x3001, 0xD7FF}, {0xF900, 0xFDCF}, {0xFDF0, 0xFFFD},
		{0x10000, 0xEFFFF}}
	others := [][2]rune{{'-', '-'}, {'.', '.'}, {'0', '9'}, {0xB7, 0xB7}, {0x300, 0x36F}, {0x203F, 0x2040}}
	in := func(r rune, ranges [][2]rune) bool {
		for _, x := range ranges {
			if r >= x[0] && r <= x[1] {
				return true
			}
		}
		return false
	}
	for r := rune(0); r <= 0x10FFFF; r++ {
		if r >= 0xD800 && r < 0xE000 {
			continue
		}
		if isNameStart(r) != in(r, starts) || isNameChar(r) != (in(r, starts) || in(r, others)) {
			t.Fatalf("U+%04X", r)
		}
	}
	p := NewParser(nil)
	for c := range 128 {
		r := rune(c)
		if r == ':' {
			continue // TestAttackX09
		}
		for i, in := range []struct {
			x  string
			ok bool
		}{
			{"<" + string(r) + "/>", in(r, starts)},
			{"<" + string(r) + "a/>", in(r, starts)},
			{"<a" + string(r) + "b/>", in(r, starts) || in(r, others)},
			{"<a " + string(r) + "='1'/>", in(r, starts)},
			{"<a b" + string(r) + "c='1'/>", in(r, starts) || in(r, others)},
		} {
			if charClass[c]&cSpace != 0 || r == '/' || r == '>' || r == '=' {
				continue // part of the grammar there
			}
			var s Stream
			open(t, p, &s, xmlstreamtest.Header)
			p.Feed(&s, []byte(in.x))
			_, err := p.Stanza(&s)
			if (err == nil) != in.ok {
				t.Errorf("%d: %q: %v", i, in.x, err)
			}
			if want := NotWellFormed; err != nil && condition(err) != want && r != '!' && r != '?' {
				t.Errorf("%q: %v", in.x, err)
			}
		}
	}
}

func TestAttackX09(t *testing.T) {
	rows(t, "X09")
	p := NewParser(nil)
	for _, x := range []string{"<" + strings.Repeat(":", 60<<10) + ">", "<a" + strings.Repeat(":b", 30<<10) +
		">", "<a " + strings.Repeat("b:", 30<<10) + "='1'>"} {
		var s Stream
		open(t, p, &s, xmlstreamtest.Header)
		if err := last(p, &s, x); condition(err) != NotWellFormed {
			t.Errorf("%.20s: %v", x, err)
		}
	}
}

// Names that a peer sends are not interned, and fill no table.
func TestAttackX10(t *testing.T) {
	count := func() uint32 { return atoms.table.Load().used }
	before := count()
	p := NewParser(nil)
	try := func(x string) error {
		var s Stream
		open(t, p, &s, xmlstreamtest.Header)
		return last(p, &s, x)
	}
	var attrs, prefixes, els strings.Builder
	for i := range 60000 {
		if i < 10000 {
			fmt.Fprintf(&attrs, " x%d=''", i)
		}
		if i < 10000 {
			fmt.Fprintf(&prefixes, " xmlns:p%d='u%d'", i, i)
		}
		if i < 16000 {
			fmt.Fprintf(&els, "<e%d/>", i)
		}
	}
	if err := try("<a" + attrs.String() + "/>"); condition(err) != PolicyViolation {
		t.Error(err)
	}
	if err := try("<a" + prefixes.String() + "/>"); condition(err) != PolicyViolation {
		t.Error(err)
	}
	var s Stream
	open(t, p, &s, xmlstreamtest.Header)
	p.Feed(&s, []byte("<m>"+els.String()+"</m>"))
	e, err := p.Stanza(&s)
	if err != nil {
		t.Fatal(err)
	}
	for c, ok := e.First(); ok; c, ok = c.Next() {
		if c.Name().Known() || c.Name().Local != Unknown {
			t.Fatalf("%s is known", c.Local())
		}
	}
	if count() != before {
		t.Errorf("%d atoms more", count()-before)
	}
}

// Many attributes are not each compared with all others.
func TestAttackX11(t *testing.T) {
	rows(t, "X11")
	p := NewParser(nil)
	tag := func(n int, double string) string {
		var w strings.Builder
		w.WriteString("<a")
		for i := range n {
			fmt.Fprintf(&w, " %s%02d=''", strings.Repeat("x", 1000), i)
		}
		return w.String() + double + "/>"
	}
	for _, n := range []int{1, 7, 8, 9, 10, 63} {
		x := "<m>" + strings.Repeat(tag(n, ""), 3) + "</m>"
		var s Stream
		open(t, p, &s, xmlstreamtest.Header)
		p.dup.compares = 0
		p.Feed(&s, []byte(x))
		if _, err := p.Stanza(&s); err != nil {
			t.Fatal(err)
		}
		if p.dup.compares > 1 { // two of 192 hashes of 32 bits being equal: once in 200,000 runs
			t.Errorf("%d attributes: %d names compared", n, p.dup.compares)
		}
		for k := range n {
			if err := last(p, &s, tag(n, fmt.Sprintf(" %s%02d='2'", strings.Repeat("x", 1000), k))); condition(
				err) != NotWellFormed {
				t.Errorf("attribute %d of %d doubled: %v", k, n, err)
			}
			s.Reset(0)
			open(t, p, &s, xmlstreamtest.Header)
		}
	}
}

// A large token in reads of one byte costs at most a few times as much as in one read.
func TestAttackX12(t *testing.T) {
	big := strings.Repeat("x]", 128<<10)
	lim, err := Limits{StanzaBytes: 1 << 20}.ID()
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]string{
		"value": "<a b='" + big + "'/>", "text": "<a>" + big + "</a>", "name": "<" +
			strings.Repeat("x", 256<<10) + "/>", "cdata": "<a><![CDATA[" + big + "]]></a>",
		"end tag": "<a></a" + strings.Repeat(" ", 256<<10) + ">", "blanks": "<a" +
			strings.Repeat("\n", 256<<10) + "/>", "reference": "<a>&#" + strings.Repeat("0", 256<<10) + "65;</a>",
		"reference in a value": "<a b='&#" + strings.Repeat("0", 256<<10) + "65;'/>", "entity": "<a>&" +
			strings.Repeat("l", 256<<10) + ";</a>",
		"cyrillic": "<a>" + strings.Repeat("\u0431", 128<<10) + "</a>",
	} {
		p := NewParser(nil)
		var s Stream
		s.Reset(lim)
		open(t, p, &s, xmlstreamtest.Header)
		p.tree.bytesScanned = 0
		work := 0
		err := ErrNeedMore
		for i := 0; i < len(x) && err == ErrNeedMore; i++ {
			p.Feed(&s, []byte{x[i]})
			part := s.unfinished
			if _, err = p.Stanza(&s); part != nil {
				work = part.bytesScanned
			}
		}
		if name == "name" || name == "entity" {
			if err == nil || err == ErrNeedMore {
				t.Errorf("%s: %v", name, err)
			}
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if work > 3*len(x) {
			t.Errorf("%s: %d bytes looked at for %d", name, work, len(x))
		}
	}
}

// The memory for an unfinished stanza is bounded by the bytes that were sent and by the limits.
func TestAttackX13(t *testing.T) {
	held := func(s *Stream) int {
		if t := s.unfinished; t != nil {
			return cap(t.tail) + 32*cap(t.nodes) + 16*cap(t.attrs) + 24*cap(t.nsDecls) + cap(t.arena)
		}
		return 0
	}
	var decls strings.Builder
	for i := range 16 {
		fmt.Fprintf(&decls, "<a xmlns:p%d=''/>", i)
	}
	pre, err := PreLogin.ID()
	if err != nil {
		t.Fatal(err)
	}
	for _, unit := range []string{"<a/>", "<a b=''/>", "<a>", "<a b='' c='' d='' e=''/>", "<a xmlns:p='u'/>",
		"<a xmlns='&#65;'/>", decls.String()} {
		for _, id := range []LimitID{0, pre} {
			p := NewParser(nil)
			var s Stream
			s.Reset(id)
			open(t, p, &s, xmlstreamtest.Header)
			x := "<m>" + strings.Repeat(unit, 256<<10/len(unit))
			most, err := 0, ErrNeedMore
			i := 0
			for ; i < len(x) && err == ErrNeedMore; i += 1000 {
				p.Feed(&s, []byte(x[i:min(i+1000, len(x))]))
				_, err = p.Stanza(&s)
				most = max(most, held(&s))
			}
			if err == ErrNeedMore || condition(err) != PolicyViolation && condition(err) != BadNamespacePrefix {
				t.Errorf("%s: %v", unit, err)
			}
			bound := 4 * id.Limits().StanzaBytes
			if most > bound {
				t.Errorf("%s: %d bytes held, bound %d", unit, most, bound)
			}
			if id == pre && i > 4000 {
				t.Errorf("%s: %d bytes taken before login", unit, i)
			}
			if s.Pending() != 0 || held(&s) != 0 {
				t.Errorf("%s: %d bytes held after the end", unit, held(&s))
			}
		}
	}
}

// Depth costs no stack: an element that is too deep is refused, and one of the largest depth is written,
// cloned and read.
func TestAttackX14(t *testing.T) {
	rows(t, "X14")
	p := NewParser(nil)
	for _, n := range []int{65, 100000, 1000000} {
		var s Stream
		open(t, p, &s, xmlstreamtest.Header)
		if err := last(p, &s, strings.Repeat("<a>", n)); condition(err) != PolicyViolation {
			t.Errorf("%d: %v", n, err)
		}
	}
	id, err := Limits{Depth: maxDepth}.ID()
	if err != nil {
		t.Fatal(err)
	}
	x := strings.Repeat("<a>", maxDepth-1) + "<a b='\n'/>" + strings.Repeat("</a>", maxDepth-1)
	var s Stream
	s.Reset(id)
	open(t, p, &s, xmlstreamtest.Header)
	p.Feed(&s, []byte(x))
	e, err := p.Stanza(&s)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(e.Clone().Append(nil, Streamed)); got != strings.Replace(x, "\n", " ", 1) {
		t.Errorf("%s", got)
	}
	if _, err := Parse([]byte(strings.Repeat("<a>", maxDepth+1))); condition(err) != PolicyViolation {
		t.Error(err)
	}
}

func TestAttackX15(t *testing.T) {
	for _, l := range []Limits{{StanzaBytes: 1<<30 + 1}, {StanzaBytes: -1}, {Depth: 201}, {Attrs: 256},
		{NameBytes: 1 << 13}, {Prefixes: -1}} {
		if _, err := l.ID(); err == nil {
			t.Errorf("%+v registered", l)
		}
	}
	p := NewParser(nil)
	var s Stream
	open(t, p, &s, xmlstreamtest.Header)
	s.advance(1<<32 - int(s.Offset()) - 5)
	p.Feed(&s, []byte("<a/><b/><c>"))
	for range 2 {
		if _, err := p.Stanza(&s); err != nil {
			t.Fatal(err)
		}
	}
	if s.Offset() != 1<<32+3 || s.limits().Depth != 64 {
		t.Errorf("offset %d", s.Offset())
	}
	if _, err := p.Stanza(&s); err != ErrNeedMore {
		t.Fatal(err)
	}
	p.Feed(&s, []byte("</d>"))
	var syn *SyntaxError
	if _, err := p.Stanza(&s); !errors.As(err, &syn) || syn.Offset != 1<<32+6 {
		t.Errorf("%v", err)
	}
}

// transcript returns all that a parser makes of the pieces: the elements, and the error that ends the stream,
// which must stay the same.
func transcript(t *testing.T, p *Parser, pieces ...[]byte) string {
	t.Helper()
	var s Stream
	defer s.Reset(0)
	var w strings.Builder
	for _, b := range pieces {
		p.Feed(&s, b)
		for {
			tok, err := p.Next(&s)
			if err == ErrNeedMore {
				break
			}
			if err != nil {
				if _, again := p.Next(&s); again == nil || again == ErrNeedMore {
					t.Errorf("%q: after %v the stream goes on: %v", pieces, err, again)
				}
				fmt.Fprintf(&w, "error %v\n", err)
				return w.String()
			}
			switch {
			case tok.Whitespace: // white space comes as it was cut
			case tok.End:
				w.WriteString("end\n")
			default:
				dump(&w, tok.Element)
				if !tok.t.header {
					outputs(tok.Element) // it panics if the output does not parse
				}
			}
		}
	}
	return w.String()
}

// No input causes a panic; malformed bytes end their stream for good; and the result does not depend on how
// the bytes are cut into reads. FuzzParse tries more.
func TestAttackX16(t *testing.T) {
	all := streams()
	r := rand.New(rand.NewSource(2))
	p := NewParser(nil)
	malformed := 0
	for range 20000 {
		in := []byte(all[r.Intn(len(all))])
		if len(in) > 2000 {
			in = in[:2000]
		}
		for range 1 + r.Intn(4) {
			switch i := r.Intn(len(in)); r.Intn(3) {
			case 0:
				in[i] = "<>&'\"/=: \n!?[]x;#\x00\x80\xE2"[r.Intn(20)]
			case 1:
				in = append(in[:i:i], in[min(len(in), i+r.Intn(9)):]...)
			default:
				in = append(in[:i:i], in[r.Intn(i+1):]...)
			}
			if len(in) == 0 {
				in = []byte("<")
			}
		}
		cut := r.Intn(len(in) + 1)
		want, got := transcript(t, p, in), transcript(t, p, in[:cut], in[cut:])
		if got != want {
			t.Fatalf("%q, cut at %d:\n%s\nuncut:\n%s", in, cut, got, want)
		}
		if strings.Contains(want, "error ") {
			malformed++
		}
	}
	if malformed < 5000 {
		t.Errorf("of 20,000 inputs %d are malformed: this tests nothing", malformed)
	}
}

func TestAttackX17(t *testing.T) { rows(t, "X17") }

// An element that was passed on parses to the same infoset, with encoding/xml as with this package.
func TestAttackX18(t *testing.T) {
	for _, x := range append(xmlstreamtest.Stanzas(), xmlstreamtest.Unusual()...) {
		e := stanza(t, xmlstreamtest.Header, x.XML)
		roundTrip(t, xmlstreamtest.Header, e)
	}
}

// roundTrip checks each way of writing e, which came from a stream with the given header, against
// encoding/xml.
func roundTrip(t testing.TB, header string, e Element) {
	t.Helper()
	want, err := oracle(header, string(e.Raw()))
	if err != nil {
		return // names of the 5th edition: encoding/xml knows the 4th
	}
	for name, out := range outputs(e) {
		h := xmlstreamtest.Header
		switch name {
		case "server":
			h = strings.Replace(h, NSClient, NSServer, 1)
		case "framed":
			h = "<stream:stream xmlns:stream='" + NSStream + "'>"
		}
		got, err := oracle(h, out)
		if err != nil {
			t.Errorf("%s of %s: %s: %v", name, e.Raw(), out, err)
			continue
		}
		want := want
		if name == "server" {
			want = contentAs(want, NSServer)
		}
		if got != want {
			t.Errorf("%s of %s:\n%s\n%s\nwant\n%s", name, e.Raw(), out, got, want)
		}
	}
}

// contentAs replaces the content namespace in a result of oracle, from the top down to elements of other
// namespaces.
func contentAs(s, space string) string {
	lines := strings.Split(s, "\n")
	var content []bool
	for i, l := range lines {
		switch {
		case strings.HasPrefix(l, "<{"):
			c := (len(content) == 0 || content[len(content)-1]) && strings.HasPrefix(l, "<{"+NSClient+"}")
			if c {
				lines[i] = strings.Replace(l, NSClient, space, 1)
			}
			content = append(content, c)
		case l == "</>":
			content = content[:len(content)-1]
		}
	}
	return strings.Join(lines, "\n")
}

func TestAttackX20(t *testing.T) {
	const text = "&<x/>]]>"
	e := stanza(t, xmlstreamtest.Header, "<message><body>&amp;<![CDATA[<x/>]]>]]&gt;</body></message>")
	for name, out := range outputs(e) {
		got := stanza(t, xmlstreamtest.Header, out)
		b, ok := got.First()
		if !ok || string(b.Text()) != text || strings.Contains(out, "CDATA") || strings.Contains(out, "]]>") {
			t.Errorf("%s: %s", name, out)
		}
	}
	var a Appender
	a.Open(body).Text(text).Close()
	if e, err := Parse(a.B); err != nil || string(e.Text()) != text || strings.Contains(string(a.B), "]]>") {
		t.Errorf("%s: %v", a.B, err)
	}
}

func TestAttackX22(t *testing.T) {
	rows(t, "X22")
	var s Stream
	p := NewParser(nil)
	pre, _ := PreLogin.ID()
	s.Reset(pre)
	open(t, p, &s, xmlstreamtest.Header)
	held := 0
	for range 1 << 10 {
		p.Feed(&s, []byte("<a "+strings.Repeat(" ", 1000)))
		_, err := p.Stanza(&s)
		held = max(held, s.Pending())
		if err != ErrNeedMore {
			break
		}
	}
	if held > 18<<10 {
		t.Errorf("%d bytes held", held)
	}
}

// An element that used declarations of the sender's stream header declares them itself at the receiver.
func TestAttackK03(t *testing.T) {
	header := strings.Replace(xmlstreamtest.Header, " to=", " xmlns:x='urn:x' xmlns:c='jabber:client' to=", 1)
	server := strings.Replace(xmlstreamtest.ServerHeader, " to=", " xmlns:x='urn:x' to=", 1)
	for _, x := range []string{
		"<message to='a'><x:y x:z='1' z='2'><w/></x:y><body>b</body></message>",
		"<message to='a' x:z='1'><body>b</body></message>",
		"<c:message to='a'><c:body>b</c:body><q xmlns='u' x:a='' x:b=''><x:r xmlns:x='urn:other' " +
			"x:s=''/></q></c:message>",
		"<message to='a'><body>b</body></message>",
	} {
		roundTrip(t, header, stanza(t, header, x))
		if strings.Contains(x, "c:") {
			continue
		}
		e := stanza(t, server, x)
		want, _ := oracle(server, x)
		for f, h := range map[Form]string{Streamed: xmlstreamtest.Header,
			ServerStreamed: strings.Replace(xmlstreamtest.Header, NSClient, NSServer, 1)} {
			out := string(e.Append(nil, f))
			got, err := oracle(h, out)
			if f == Streamed {
				got = contentAs(got, NSServer)
			}
			if err != nil || got != want {
				t.Errorf("form %d of %s: %s: %v\n%s\nwant\n%s", f, x, out, err, got, want)
			}
			if _, err := Parse([]byte(out)); f == Streamed && err != nil {
				t.Errorf("%s: %v", out, err)
			}
		}
	}
	for _, x := range []string{"<message xmlns='jabber:server'><body>b</body></message>",
		"<message><body xmlns='jabber:server'>b</body></message>"} {
		if got, want := string(stanza(t, xmlstreamtest.ServerHeader, x).Append(nil, Streamed)),
			"<message><body>b</body></message>"; got != want {
			t.Errorf("%s: %s", x, got)
		}
	}
	e := stanza(t, xmlstreamtest.ServerHeader, "<message><body>b</body></message>")
	if got, want := string(e.Append(nil, Framed)),
		"<message xmlns='jabber:client'><body>b</body></message>"; got != want {
		t.Errorf("%s", got)
	}
}

func TestAttackK04(t *testing.T) {
	rows(t, "K04")
	// The prefix stream for another namespace has no special meaning; the streams namespace has, with any
	// prefix.
	e := stanza(t, xmlstreamtest.Header, "<stream:message xmlns:stream='jabber:client'/>")
	if !e.Is(message) || e.Is(N(NSStream, "message")) {
		t.Error("compared by prefix")
	}
	e = stanza(t, xmlstreamtest.Header, "<s:error xmlns:s='http://etherx.jabber.org/streams'/>")
	if !e.Is(N(NSStream, "error")) {
		t.Error("compared by prefix")
	}
	e = stanza(t, xmlstreamtest.Header, "<message xmlns=''><body/></message>")
	if e.Is(message) || !e.Is(N("", "message")) || len(e.Space()) != 0 {
		t.Error("default namespace not undeclared")
	}
}

func TestAttackK05(t *testing.T) {
	for x, want := range map[string]bool{
		"<message xmlns='evil'/>": false, "<x:message xmlns:x='jabber:client'/>": true,
		"<message xmlns='jabber:server'/>": false, "<message/>": true,
		"<message xmlns='jabber:client'/>": true, "<message xmlns='jabber&#58;client'/>": true,
		"<message xmlns='jabber:client '/>": false,
	} {
		if e := stanza(t, xmlstreamtest.Header, x); e.Is(message) != want || (e.Name() == message) != want {
			t.Errorf("%s: %v", x, !want)
		}
	}
}

// White space in values is normalised in the tree and in the output alike; references to it are preserved.
func TestAttackK07(t *testing.T) {
	e := stanza(t, xmlstreamtest.Header, "<message id='a\nb\tc\r\nd&#10;e&#9;f&#13;g'><body "+
		"q='\n'>\r\n</body></message>")
	const want = "a b c d\ne\tf\rg"
	if v, _ := e.Attr(id); string(v) != want {
		t.Errorf("%q", v)
	}
	for name, out := range outputs(e) {
		got := stanza(t, xmlstreamtest.Header, out)
		if v, _ := got.Attr(id); string(v) != want {
			t.Errorf("%s: %q", name, v)
		}
		if strings.ContainsAny(strings.ReplaceAll(out, ">\n<", "><"), "\r\n\t") {
			t.Errorf("%s: %q", name, out)
		}
	}
	// Between stanzas white space costs no more than its bytes.
	p := NewParser(nil)
	var s Stream
	open(t, p, &s, xmlstreamtest.Header)
	for range 16 {
		p.Feed(&s, []byte(strings.Repeat(" \n", 32<<10)))
		if _, err := p.Stanza(&s); err != ErrNeedMore || s.unfinished != nil {
			t.Fatal(err)
		}
	}
}

func TestAttackK08(t *testing.T) { rows(t, "K08") }

func TestAttackK09(t *testing.T) {
	rows(t, "K09")
	p := NewParser(nil)
	var s Stream
	if err := last(p, &s, xmlstreamtest.Header+"</stream:stream><message/><!DOCTYPE"); err != io.EOF {
		t.Error(err)
	}
	p.Feed(&s, []byte("<message/>"))
	if e, err := p.Stanza(&s); err != io.EOF || !e.IsZero() {
		t.Error(err)
	}
	s.Reset(0)
	if err := last(p, &s, strings.Replace(xmlstreamtest.Header, " to=", " from='"+strings.Repeat("x", 8<<10)+
		"' to=", 1)); condition(err) != PolicyViolation {
		t.Error(err)
	}
	s.Reset(0)
	if err := last(p, &s, xmlstreamtest.Header); err != ErrNeedMore {
		t.Error(err)
	}
}

// lent is a Buffers that counts the buffers in use, and checks that each one given back was lent.
type lent struct {
	t   *testing.T
	out map[*byte]bool
	all [][]byte
}

func (l *lent) Get(n int) []byte {
	b := make([]byte, n)
	l.out[&b[0]] = true
	return b[:0]
}

func (l *lent) Put(b []byte) {
	if b = b[:1]; !l.out[&b[0]] {
		l.t.Error("buffer given back twice, or not lent")
	}
	delete(l.out, &b[0])
	l.all = append(l.all, b[:cap(b)])
}

// Each buffer is given back once, however a stream ends, and no stream sees the bytes of another.
func TestAttackK10(t *testing.T) {
	l := &lent{t: t, out: map[*byte]bool{}}
	p := NewParser(l)
	secret := "<message><body>secret"
	for range 3 {
		for _, end := range []string{"", "</body></message>", "</body></message><presence>",
			"</body></message>\n", "</x>", "\x00", "</body></message></stream:stream>"} {
			var s, other Stream
			p.Feed(&s, []byte(xmlstreamtest.Header[:30])) // a header that never ends
			if _, err := p.Next(&s); err != ErrNeedMore {
				t.Fatal(err)
			}
			s.Reset(0)
			open(t, p, &s, xmlstreamtest.Header)
			open(t, p, &other, xmlstreamtest.Header)
			p.Feed(&s, []byte(secret))
			if _, err := p.Stanza(&s); err != ErrNeedMore || len(l.out) != 1 {
				t.Fatal(err, len(l.out))
			}
			p.Feed(&s, []byte(end))
			for {
				e, err := p.Stanza(&s)
				if err != nil {
					break
				}
				if b, ok := e.First(); ok && string(b.Text()) != "secret" {
					t.Errorf("%q", b.Text())
				}
			}
			s.Reset(0)
			p.Feed(&other, []byte("<a>x</a>"))
			if e, err := p.Stanza(&other); err != nil || string(e.Text()) != "x" {
				t.Error(err)
			}
			if len(l.out) != 0 {
				t.Fatalf("after %q: %d buffers out", end, len(l.out))
			}
		}
	}
	if invariants {
		for _, b := range l.all {
			if strings.Contains(string(b), "secret") {
				t.Errorf("%q was given back", b)
			}
		}
	}
}
