package xmlstream

import (
	"fmt"
	"strings"
	"testing"

	"canto/xmlstream/xmlstreamtest"

	"pgregory.net/rapid"
)

// A sender is a stream that stanzas come from: its header, and the namespaces that it declares.
type sender struct {
	header  string // "" for a framed one
	content string // its content namespace
	def     string // the default namespace
	top     []string
}

const streamsDecl = " xmlns:stream='" + NSStream + "'"

var senders = []sender{
	{xmlstreamtest.Header, NSClient, NSClient, nil},
	{xmlstreamtest.ServerHeader, NSServer, NSServer, []string{"db"}},
	{"<stream:stream xmlns='" + NSClient + "' xmlns:x='urn:x' xmlns:c='" + NSClient + "'" + streamsDecl + ">",
		NSClient, NSClient, []string{"x", "c"}},
	{"<stream:stream xmlns='" + NSServer + "' xmlns:x='urn:x' xmlns:c='" + NSServer + "'" + streamsDecl + ">",
		NSServer, NSServer, []string{"x", "c"}},
	{"<stream:stream xmlns='" + NSComponent + "'" + streamsDecl + ">", NSComponent, NSComponent, nil},
	{"<s:stream xmlns='" + NSClient + "' xmlns:s='" + NSStream + "' xmlns:stream='urn:y'>", NSClient, NSClient,
		[]string{"stream"}},
	{"<stream xmlns='" + NSStream + "' xmlns:c='" + NSClient + "'>", NSClient, NSStream, []string{"c"}},
	{"<stream:stream xmlns='urn:other'" + streamsDecl + ">", NSClient, "urn:other", nil},
	{"", NSClient, "", nil},
}

// open returns a stream of the sender after its header.
func (x *sender) open(p *Parser, s *Stream) {
	if x.header == "" {
		s.ResetFramed(0)
		return
	}
	p.Feed(s, []byte(x.header))
	if _, err := p.Next(s); err != nil {
		panic(err)
	}
}

var (
	spaces = []string{"urn:x", "urn:x", "urn:y", NSClient, NSServer, NSComponent, "a&amp;'b"}
	pieces = []string{"a", "&lt;", "&amp;", "&#10;", "&#9;", "&#13;", "\n", "\t", "\r\n", "\r", " ",
		"&apos;", "&quot;", ">", "\u00e9", "\U0001F600", "]]"}
	textMarks = []string{"<![CDATA[<&>]]>", "<![CDATA[]]>", "\"'", "<![CDATA[\r\n]]>"}
)

// genElement draws an element; outside is the prefixes that are declared around it.
func genElement(t *rapid.T, w *strings.Builder, prefixes []string, depth int, odd bool) {
	chance := func(n int) bool { return rapid.IntRange(0, n-1).Draw(t, "chance") == 0 }
	pick := func(from []string) string { return rapid.SampledFrom(from).Draw(t, "pick") }
	prefixes = prefixes[:len(prefixes):len(prefixes)]
	var attrs []string
	seen := map[string]bool{}
	value := func(list []string) string {
		q := pick([]string{"'", "\""})
		v := ""
		for range rapid.IntRange(0, 3).Draw(t, "pieces") {
			if p := pick(list); odd || !strings.ContainsAny(p, "\n\t\r") {
				v += p
			}
		}
		return q + v + q
	}
	attr := func(name, v string) {
		if !seen[name] {
			seen[name] = true
			attrs = append(attrs, pick([]string{" ", " ", "  ", "\n"})+name+pick([]string{"=", "=", " = "})+v)
		}
	}
	if chance(4) {
		attr("xmlns", "\""+pick(append(spaces, ""))+"\"")
	}
	for chance(4) {
		p := pick([]string{"p", "q", "x", "c"})
		attr("xmlns:"+p, "\""+pick(spaces)+"\"")
		prefixes = append(prefixes, p)
	}
	prefix := ""
	if len(prefixes) > 0 && chance(4) {
		prefix = pick(prefixes) + ":"
	}
	for chance(2) {
		switch {
		case len(prefixes) > 0 && chance(3):
			attr(pick(prefixes)+":"+pick([]string{"a", "from"}), value(pieces))
		case chance(5):
			attr("xml:lang", value(pieces))
		default:
			attr(pick([]string{"from", "to", "a", "type"}), value(pieces))
		}
	}
	if chance(3) && len(attrs) > 1 {
		// declarations after the prefixes that need them
		attrs[0], attrs[len(attrs)-1] = attrs[len(attrs)-1], attrs[0]
	}
	name := prefix + pick([]string{"message", "body", "m", "xmlns"})
	fmt.Fprintf(w, "<%s%s%s", name, strings.Join(attrs, ""), pick([]string{"", "", " ", "\n"}))
	if chance(3) {
		w.WriteString("/>")
		return
	}
	w.WriteString(">")
	for rapid.IntRange(0, 2).Draw(t, "child") > 0 {
		switch {
		case depth < 4 && chance(2):
			genElement(t, w, prefixes, depth+1, odd)
		case odd && chance(4):
			w.WriteString(pick(textMarks))
		default:
			if p := pick(pieces); odd || !strings.ContainsAny(p, "\r") {
				w.WriteString(p)
			}
			if strings.HasSuffix(w.String(), "]]") {
				w.WriteString("x")
			}
		}
	}
	w.WriteString("</" + name + pick([]string{"", " ", "\n"}) + ">")
}

// received returns how a receiver with the given content namespace must read e, a stanza of x or a part
// of one: the same element, with set, and with that namespace in place of the sender's content namespace,
// from the top down to elements of other namespaces.
func (x *sender) received(e Element, space string, set []Attr) string {
	var w infosetWriter
	var walk func(e Element, top, content bool, was string)
	walk = func(e Element, top, content bool, was string) {
		sp := string(e.Space())
		if top {
			// On a server's stream, jabber:client that is declared is content, too.
			content = sp == x.content || sp == NSClient
		} else {
			content = content && sp == was
		}
		was = sp
		if content {
			sp = space
		}
		var attrs []string
		used := map[int]bool{}
		find := func(s, l string) int {
			for j := range set {
				if set[j].Name.Space.String() == s && set[j].Name.Local.String() == l {
					return j
				}
			}
			return -1
		}
		for i := range e.NumAttr() {
			s, l, v := e.AttrAt(i)
			j := -1
			if top {
				j = find(string(s), string(l))
			}
			if j < 0 {
				attrs = append(attrs, infosetAttr(string(s), string(l), string(v)))
				continue
			}
			used[j] = true
			if set[j].Value != "" {
				attrs = append(attrs, infosetAttr(string(s), string(l), readable(set[j].Value)))
			}
		}
		for j, a := range set {
			s, l := a.Name.Space.String(), a.Name.Local.String()
			if top && find(s, l) == j && !used[j] && a.Value != "" {
				attrs = append(attrs, infosetAttr(s, l, readable(a.Value)))
			}
		}
		infosetStart(&w.Builder, sp, string(e.Local()), attrs)
		t, nd := e.t, e.node()
		from := nd.body
		for c, ok := e.First(); ok; c, ok = c.Next() {
			w.text(t.buf[from:c.node().start])
			walk(c, false, content, was)
			from = t.end(c.node())
		}
		if from < nd.endTag {
			w.text(t.buf[from:nd.endTag])
		}
		w.WriteString("</>\n")
	}
	walk(e, true, false, "")
	return w.String()
}

var forms = []struct {
	form     Form
	receiver sender
}{
	{Streamed, senders[0]},
	{Framed, senders[8]},
	{ServerStreamed, senders[1]},
}

// check is rapid.Check with more than a hundred tries, as some combinations are rare.
func check(t *testing.T, f func(*rapid.T)) {
	for range 40 {
		if rapid.Check(t, f); t.Failed() {
			return
		}
	}
}

// passOn checks each way of writing e in each form against received.
func (x *sender) passOn(e Element, set []Attr) error {
	for _, f := range forms {
		space, def := NSClient, atomClient
		switch f.form {
		case Framed:
			def = None
		case ServerStreamed:
			space = NSServer
		}
		want := x.received(e, space, set)
		for what, out := range map[string][]byte{
			"Append": e.Append(nil, f.form, set...), "rewrite": e.rewrite(nil, f.form, def, true, set),
			"Clone": e.Clone().Append(nil, f.form, set...),
		} {
			var r Stream
			q := NewParser(nil)
			f.receiver.open(q, &r)
			q.Feed(&r, out)
			got, err := q.Stanza(&r)
			if err != nil {
				return fmt.Errorf("%s, form %d, of %q on %s: %q: %v", what, f.form, e.Raw(), x.header, out, err)
			}
			if got := infoset(got); got != want {
				return fmt.Errorf("%s, form %d, of %q on %s: %q:\n%s\nwant\n%s", what, f.form, e.Raw(), x.header, out,
					got, want)
			}
			if _, err := q.Stanza(&r); err != ErrNeedMore || r.Pending() != 0 {
				return fmt.Errorf("%s, form %d, of %q on %s: %q: something follows it: %v", what, f.form, e.Raw(),
					x.header, out, err)
			}
		}
	}
	return nil
}

// A stanza that is passed on, by copying or by writing it again, in each form, is read as it was sent.
func TestPassThrough(t *testing.T) {
	copied := 0
	check(t, func(t *rapid.T) {
		x := &senders[rapid.IntRange(0, len(senders)-1).Draw(t, "sender")]
		odd := rapid.Bool().Draw(t, "odd")
		var w strings.Builder
		genElement(t, &w, x.top, 0, odd)
		in := w.String()
		p := NewParser(nil)
		var s Stream
		x.open(p, &s)
		p.Feed(&s, []byte(in))
		e, err := p.Stanza(&s)
		if err != nil {
			if c := condition(err); c != NotWellFormed && c != InvalidXML && c != PolicyViolation {
				t.Fatalf("%s: %v", in, err)
			}
			return // two attributes of one name
		}
		if rapid.Bool().Draw(t, "child") {
			for c, ok := e.First(); ok && rapid.Bool().Draw(t, "down"); c, ok = e.First() {
				e = c
			}
		}
		var set []Attr
		for range rapid.IntRange(0, 3).Draw(t, "set") {
			set = append(set, Attr{rapid.SampledFrom([]Name{from, to, typ, langName}).Draw(t, "name"),
				rapid.SampledFrom([]string{"", "a", "'\"<>&\n\u00e9"}).Draw(t, "value")})
		}
		if err := x.passOn(e, set); err != nil {
			t.Fatalf("%s: %v", in, err)
		}
		if strings.Contains(string(e.Append(nil, Streamed)), " = ") {
			copied++
		}
	})
	if copied == 0 {
		t.Error("nothing was copied")
	}
}

// The conditions of Append, each with an element that meets it and one that does not. Double quotes are
// preserved if bytes are copied.
func TestPassThroughConditions(t *testing.T) {
	const prefixed = "<stream:stream xmlns='" + NSClient + "' xmlns:x='urn:x'" + streamsDecl + ">"
	for _, c := range []struct {
		header, in string
		form       Form
		copied     bool
	}{
		{xmlstreamtest.Header, `<message a="1"/>`, Streamed, true},
		{xmlstreamtest.Header, `<message a="1"/>`, Framed, true},
		{xmlstreamtest.Header, `<message a="1"/>`, ServerStreamed, true},
		// A prefix that the stanza declares, and one from outside.
		{xmlstreamtest.Header, `<c:message xmlns:c='jabber:client' a="1"/>`, Streamed, false},
		{prefixed, `<message a="1"/>`, Streamed, true},
		{prefixed, `<message a="1"><x:y/></message>`, Streamed, false},
		{prefixed, `<message a="1" x:y=''/>`, Streamed, false},
		{prefixed, `<message a="1"><m><m x:y=''/></m></message>`, Framed, false},
		{prefixed, `<message a="1"><x:y xmlns:x='urn:x'/></message>`, Streamed, true},
		{xmlstreamtest.Header, `<message a="1" xml:lang='en'><x:y xmlns:x='urn:x' x:z=''/></message>`, Framed,
			true},
		// Character data and values that are not copied.
		{xmlstreamtest.Header, "<message a=\"1\"><![CDATA[x]]></message>", Streamed, false},
		{xmlstreamtest.Header, "<message a=\"1\">\r</message>", Streamed, false},
		{xmlstreamtest.Header, "<message a=\"1\">\n&#13;&lt;</message>", Streamed, true},
		{xmlstreamtest.Header, "<message a=\"\n\"/>", Streamed, false},
		{xmlstreamtest.Header, "<message a=\"\t\"/>", Streamed, false},
		{xmlstreamtest.Header, "<message a=\"&#10;&#9;&#13;&lt;'\"/>", Streamed, true},
		{xmlstreamtest.Header, "<message\na\t=\r\"1\"/>", Streamed, true},
		// Content namespaces.
		{xmlstreamtest.Header, `<message xmlns='jabber:client' a="1"/>`, ServerStreamed, true},
		{xmlstreamtest.Header, `<message a="1"><f xmlns='u'><message xmlns='jabber:client'/></f></message>`,
			Streamed, true},
		{xmlstreamtest.Header, `<message a="1"><f xmlns='u'><message xmlns='jabber:client'/></f></message>`,
			Framed, true},
		{xmlstreamtest.Header, `<message a="1"><f xmlns='u'><message xmlns='jabber:client'/></f></message>`,
			ServerStreamed, false},
		{xmlstreamtest.ServerHeader, `<message a="1"/>`, Streamed, true},
		{xmlstreamtest.ServerHeader, `<message a="1"/>`, ServerStreamed, true},
		{xmlstreamtest.ServerHeader, `<message a="1"><f xmlns='u'><message xmlns='jabber:client'/></f></message>`,
			Streamed, false},
		{xmlstreamtest.ServerHeader, `<message a="1"><p:f xmlns:p='u'><m/></p:f></message>`, Streamed, false},
		{xmlstreamtest.Header, `<message a="1"><p:f xmlns:p='u'><m/></p:f></message>`, Streamed, true},
		{xmlstreamtest.Header, `<message a="1"><p:f xmlns:p='u'><m/></p:f></message>`, ServerStreamed, false},
	} {
		e := stanza(t, c.header, c.in)
		out := string(e.Append(nil, c.form))
		if strings.Contains(out, "\"") != c.copied {
			t.Errorf("form %d of %q on %s: %q", c.form, c.in, c.header, out)
		}
	}
	// A child alone.
	for in, copied := range map[string]bool{
		`<message><m a="1"/></message>`: true, `<message><m a="1" xml:lang=''/></message>`: true,
		`<message xmlns:p='u'><m a="1"><p:m/></m></message>`: false,
		`<message><m a="1" xmlns:p='u' p:b=''/></message>`:   false,
		`<message>&amp;<![CDATA[]]><m a="1"/></message>`:     true, `<message><m a="1">` + "\r" +
			`</m></message>`: false,
	} {
		e, _ := stanza(t, xmlstreamtest.Header, in).First()
		if out := string(e.Append(nil, Streamed)); strings.Contains(out, "\"") != copied {
			t.Errorf("child of %q: %q", in, out)
		}
	}
}

// anyText draws any text that a program may pass, with bytes that are not UTF-8 and characters that XML
// does not allow.
func anyText(t *rapid.T) string {
	s := ""
	for range rapid.IntRange(0, 4).Draw(t, "parts") {
		if rapid.Bool().Draw(t, "bytes") {
			s += string(rapid.SliceOfN(rapid.Byte(), 0, 12).Draw(t, "b"))
		} else {
			s += rapid.SampledFrom([]string{"'", "\"", "='", " to='x'", "<", ">", "&", "]]>", "\r\n", "\r", "\t",
				"\n", "\x00", "\u0085", "\u2028", "\uFFFE", "\uFFFF", "\uFFFD", "\xED\xA0\x80", "\xE2\x82", "\u20ac",
				"\U0001F600", "<!--", "<?x?>", "&amp;", "12345678", "xmlns:n1='urn:k'"}).Draw(t, "part")
		}
	}
	return s
}

// readable returns how s is read: characters that XML does not allow are left out; U+FFFE, U+FFFF and
// bytes that are not UTF-8 become U+FFFD.
func readable(s string) string {
	var w strings.Builder
	for _, r := range s {
		switch {
		case r == 0xFFFE || r == 0xFFFF:
			w.WriteRune(0xFFFD)
		case isChar(r):
			w.WriteRune(r)
		}
	}
	return w.String()
}

// An Appender writes well-formed XML that is read as it was meant, whatever the values: by this package, on a
// stream of the same form, and by encoding/xml.
func TestAppenderProperty(t *testing.T) {
	names := []Name{message, body, N("urn:x", "x"), N("urn:y", "x"), N("", "none"), N(NSServer, "iq"),
		N("urn:'\"<&>", "q"), N(NSDialback, "result"), N("urn:x", "\u00e9-1.")}
	attrs := []Name{to, from, N(NSXML, "lang"), N("", "lang"), N("urn:k", "a"), N("urn:k", "b"),
		N("urn:l", "a"), N("urn:'\"<&>", "a"), N("", "n1"), N(NSClient, "to"), N("urn:k", "n1")}
	e := stanza(t, xmlstreamtest.Header, "<message a=\"1\"><x xmlns='urn:x' "+
		"xmlns:p='urn:p'><p:y>b</p:y><z/></x><c>&lt;<![CDATA[<]]></c></message>")
	x, _ := e.First()
	y, _ := x.First()
	z, _ := y.Next()
	c, _ := x.Next()
	raws := []Element{e, x, y, z, c}
	check(t, func(t *rapid.T) {
		f := rapid.SampledFrom(forms).Draw(t, "form")
		var a Appender
		a.Reset(f.form)
		var w infosetWriter
		content := NSClient
		if f.form == ServerStreamed {
			content = NSServer
		}
		text := ""
		flush := func() {
			if text != "" {
				fmt.Fprintf(&w, "%q\n", text)
			}
			text = ""
		}
		// inContent says that the default namespace is the stream's: there an element in jabber:client is content.
		var element func(depth int, inContent bool)
		element = func(depth int, inContent bool) {
			flush()
			n := rapid.SampledFrom(names).Draw(t, "name")
			if depth == 0 && rapid.IntRange(0, 9).Draw(t, "stream") == 0 {
				n = N(NSStream, "error")
			}
			space := n.Space.String()
			if prefixed := space == NSStream || space == NSDialback && f.form == ServerStreamed; !prefixed {
				if inContent = inContent && (space == NSClient || space == NSServer &&
					f.form == ServerStreamed); inContent {
					space = content
				}
			}
			a.Open(n)
			var list []string
			seen := map[Name]bool{}
			for range rapid.IntRange(0, 5).Draw(t, "attributes") {
				n, v := rapid.SampledFrom(attrs).Draw(t, "attr"), anyText(t)
				if rapid.Bool().Draw(t, "as bytes") {
					a.AttrBytes(n, []byte(v))
				} else {
					a.Attr(n, v)
				}
				if !seen[n] {
					seen[n] = true
					list = append(list, infosetAttr(n.Space.String(), n.Local.String(), readable(v)))
				}
			}
			infosetStart(&w.Builder, space, n.Local.String(), list)
			for range rapid.IntRange(0, 3).Draw(t, "children") {
				switch k := rapid.IntRange(0, 3).Draw(t, "child"); {
				case k == 0 && depth < 5:
					element(depth+1, inContent)
				case k == 1 && (f.form != ServerStreamed || !inContent):
					flush()
					r := rapid.SampledFrom(raws).Draw(t, "raw")
					a.Raw(r)
					w.element(r)
				default:
					v := anyText(t)
					if k == 2 {
						a.Text(v)
					} else {
						a.TextBytes([]byte(v))
					}
					text += readable(v)
				}
			}
			flush()
			a.Close()
			w.WriteString("</>\n")
		}
		element(0, true)
		p := NewParser(nil)
		var s Stream
		f.receiver.open(p, &s)
		p.Feed(&s, a.B)
		got, err := p.Stanza(&s)
		if err != nil {
			t.Fatalf("form %d: %s: %v", f.form, a.B, err)
		}
		if got := infoset(got); got != w.String() {
			t.Fatalf("form %d: %s:\n%s\nwant\n%s", f.form, a.B, got, w.String())
		}
		if _, err := p.Stanza(&s); err != ErrNeedMore || s.Pending() != 0 || a.Depth() != 0 {
			t.Fatalf("form %d: %s: more than one element: %v", f.form, a.B, err)
		}
		h := f.receiver.header
		if h == "" {
			h = "<stream:stream" + streamsDecl + ">"
		}
		if _, err := oracle(h, string(a.B)); err != nil {
			t.Fatalf("form %d: %s: encoding/xml: %v", f.form, a.B, err)
		}
	})
}

// EscapedLen is the length of a text in an attribute, and at least that of the same text between tags.
func TestEscapedLen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringOf(rapid.RuneFrom([]rune("ab<>&'\"\t\r\né€\U0001F600"))).Draw(t, "text")
		n := EscapedLen(s)
		if v := len(AppendValue(nil, s)); v != n {
			t.Fatalf("%q takes %d bytes, and EscapedLen is %d", s, v, n)
		}
		if v := len(AppendText(nil, s)); v > n {
			t.Fatalf("%q takes %d bytes as text, and EscapedLen is %d", s, v, n)
		}
	})
}
