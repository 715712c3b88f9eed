package xmlstream

import (
	"strings"
	"testing"

	"canto/xmlstream/xmlstreamtest"
)

func TestAppender(t *testing.T) {
	e := stanza(t, xmlstreamtest.Header, "<message to='a'><body>h</body><x xmlns='urn:x'><y/></x></message>")
	x, _ := e.Child(N("urn:x", "x"))
	y, _ := x.First()
	b, _ := e.First()
	write := map[string]func(a *Appender){
		"carbon": func(a *Appender) {
			a.Open(message).Attr(to, "b").Open(N("urn:c", "sent")).Open(N("urn:f", "forwarded")).Raw(e,
				Attr{from, "c"}).Close().Close().Close()
		},
		"features": func(a *Appender) {
			a.Open(N(NSStream, "features")).Open(N("urn:t", "starttls")).Open(
				N("urn:t", "required")).Close().Close().Close()
		},
		"children": func(a *Appender) {
			a.Open(message).Raw(x).Raw(y).Raw(b).Open(N("urn:x", "z")).Raw(y).Close().Close()
		},
		"dialback": func(a *Appender) { a.Open(N(NSDialback, "result")).Text("k").Close() },
		"server":   func(a *Appender) { a.Open(N(NSServer, "iq")).Open(N(NSServer, "error")).Close().Close() },
		"declared": func(a *Appender) {
			a.Open(N("urn:f", "forwarded")).Open(message).Open(N(NSServer, "iq")).Close().Close().Close()
		},
		"nothing": func(a *Appender) { a.Open(N("", "x")).Open(N("", "y")).Close().Close() },
		"attributes": func(a *Appender) {
			a.Open(message).Attr(to, "1").Attr(to, "2").AttrBytes(from, []byte("to='")).Attr(N(NSXML, "lang"),
				"a").Attr(N(NSXML, "lang"), "b").Attr(N("", "lang"), "c").Close()
		},
		"prefixes": func(a *Appender) {
			a.Open(message).Attr(N("", "q"), "urn:k").Attr(N("urn:k", "a"), "1").Attr(N("urn:k", "a"),
				"2").Attr(N("urn:k", "b"), "3").Attr(N("urn:l", "a"), "4").Close()
		},
		"escapes": func(a *Appender) {
			a.Open(message).Attr(to, "<>&'\"\n\t\r\x00\x7f\xff\uFFFE\u00e9").Text(
				"<>&'\"\n\t\r\x1b\xff\uFFFF\u00e9").Close()
		},
	}
	for name, want := range map[string][3]string{
		"carbon": {"<message to='b'><sent xmlns='urn:c'><forwarded xmlns='urn:f'><message " +
			"xmlns='jabber:client' to='a' from='c'><body>h</body><x " +
			"xmlns='urn:x'><y/></x></message></forwarded></sent></message>",
			"<message xmlns='jabber:client' to='b'><sent xmlns='urn:c'><forwarded xmlns='urn:f'><message " +
				"xmlns='jabber:client' to='a' from='c'><body>h</body><x " +
				"xmlns='urn:x'><y/></x></message></forwarded></sent></message>", "="},
		"features": {"<stream:features><starttls xmlns='urn:t'><required/></starttls></stream:features>",
			"<stream:features xmlns:stream='http://etherx.jabber.org/streams'><starttls " +
				"xmlns='urn:t'><required/></starttls></stream:features>", "="},
		"children": {"<message><x xmlns='urn:x'><y/></x><y xmlns='urn:x'/><body>h</body><z " +
			"xmlns='urn:x'><y/></z></message>",
			"<message xmlns='jabber:client'><x xmlns='urn:x'><y/></x><y xmlns='urn:x'/><body>h</body><z " +
				"xmlns='urn:x'><y/></z></message>", "="},
		"dialback": {"<result xmlns='jabber:server:dialback'>k</result>", "=", "<db:result>k</db:result>"},
		"server":   {"<iq xmlns='jabber:server'><error/></iq>", "=", "<iq><error/></iq>"},
		"nothing":  {"<x xmlns=''><y/></x>", "<x><y/></x>", "="},
		"attributes": {"<message to='1' from='to=&apos;' xml:lang='a' lang='c'/>",
			"<message xmlns='jabber:client' to='1' from='to=&apos;' xml:lang='a' lang='c'/>", "="},
		"declared": {"<forwarded xmlns='urn:f'><message xmlns='jabber:client'><iq " +
			"xmlns='jabber:server'/></message></forwarded>", "=", "="},
		"prefixes": {"<message q='urn:k' xmlns:n1='urn:k' n1:a='1' n1:b='3' xmlns:n2='urn:l' n2:a='4'/>",
			"<message xmlns='jabber:client' q='urn:k' xmlns:n1='urn:k' n1:a='1' n1:b='3' xmlns:n2='urn:l' " +
				"n2:a='4'/>", "="},
		"escapes": {"<message to='&lt;&gt;&amp;&apos;&quot;&#xA;&#x9;&#xD;\x7f\uFFFD\uFFFD\u00e9'>&lt;&gt;" +
			"&amp;&apos;&quot;\n\t&#xD;\uFFFD\uFFFD\u00e9</message>",
			"<message xmlns='jabber:client' " +
				"to='&lt;&gt;&amp;&apos;&quot;&#xA;&#x9;&#xD;\x7f\uFFFD\uFFFD\u00e9'>&lt;&gt;&amp;&apos;&quot;" +
				"\n\t&#xD;\uFFFD\uFFFD\u00e9</message>", "="},
	} {
		for f := Streamed; f <= ServerStreamed; f++ {
			if want[f] == "=" {
				want[f] = want[0]
			}
			a := Appender{Form: f}
			write[name](&a)
			if a.Depth() != 0 || string(a.B) != want[f] {
				t.Errorf("%s, form %d:\n%s\nwant\n%s", name, f, a.B, want[f])
			}
		}
	}
}

// An Appender panics on a fault of the program, and never writes XML that is not well-formed.
func TestAppenderPanics(t *testing.T) {
	for name, f := range map[string]func(a *Appender){
		"close":          func(a *Appender) { a.Close() },
		"text":           func(a *Appender) { a.Text("x") },
		"bytes":          func(a *Appender) { a.TextBytes([]byte("x")) },
		"attribute":      func(a *Appender) { a.Attr(to, "x") },
		"late attribute": func(a *Appender) { a.Open(message).Text("").Attr(to, "x") },
		"deep": func(a *Appender) {
			for range maxOpenElements + 1 {
				a.Open(message)
			}
		},
		"unknown":           func(a *Appender) { a.Open(Name{Unknown, Unknown}) },
		"unknown space":     func(a *Appender) { a.Open(Name{Unknown, message.Local}) },
		"no name":           func(a *Appender) { a.Open(Name{}) },
		"bad name":          func(a *Appender) { a.Open(N("", "a b")) },
		"colon":             func(a *Appender) { a.Open(N("", "a:b")) },
		"bad attribute":     func(a *Appender) { a.Open(message).Attr(N("", "a='"), "") },
		"declaration":       func(a *Appender) { a.Open(message).Attr(N("", "xmlns"), "") },
		"unknown attribute": func(a *Appender) { a.Open(message).Attr(Name{None, Unknown}, "") },
		"set unknown": func(a *Appender) {
			e, _ := Parse([]byte("<a/>"))
			a.Raw(e, Attr{Name{None, Unknown}, "x"})
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f(new(Appender))
		}()
	}
}

// Append changes the attributes in set and copies the other bytes.
func TestAppend(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"<message/>", "<message to='t' from='f'/>"},
		{"<message />", "<message to='t' from='f'/>"},
		{"<message>x</message>", "<message to='t' from='f'>x</message>"},
		{"<message from='a' to='b' id='i'/>", "<message from='f' to='t' id='i'/>"},
		{`<message id="i"  from = "a" to="b">x</message >`, `<message id="i"  from = "f" to="t">x</message >`},
		{"<message\ntype='chat'\n\tto='b'>x</message>", "<message\n\tto='t' from='f'>x</message>"},
		{"<message type='chat'/>", "<message to='t' from='f'/>"},
		{"<message to='b' type='chat' />", "<message to='t' from='f'/>"},
		{"<message type='chat' to='b' ><a b=\"'\"/></message>", "<message to='t' from='f'><a b=\"'\"/></message>"},
		{"<message xmlns='jabber:client' to='b'/>", "<message to='t' from='f'/>"},
		{"<message xml:lang='en' lang='de'/>", "<message xml:lang='en' lang='de' to='t' from='f'/>"},
	} {
		e := stanza(t, xmlstreamtest.Header, c.in)
		if got := string(e.Append([]byte("#"), Streamed, Attr{typ, ""}, Attr{to, "t"}, Attr{from, "f"},
			Attr{from, "second"})); got != "#"+c.want {
			t.Errorf("%s: %s, want %s", c.in, got, c.want)
		}
		want, _ := oracle(xmlstreamtest.Header, c.want)
		again := string(e.rewrite(nil, Streamed, atomClient, true, []Attr{{typ, ""}, {to, "t"}, {from, "f"},
			{from, "second"}}))
		if got, err := oracle(xmlstreamtest.Header, again); got != want {
			t.Errorf("%s rewritten: %s, %v", c.in, again, err)
		}
	}
	e := stanza(t, xmlstreamtest.Header, "<message xml:lang='en' lang='de'/>")
	if got := string(e.Append(nil, Streamed, Attr{langName, "fr"},
		Attr{N("", "lang"), ""})); got != "<message xml:lang='fr'/>" {
		t.Error(got)
	}
	// The usual case is a copy.
	for _, x := range xmlstreamtest.Stanzas() {
		e := stanza(t, xmlstreamtest.Header, x.XML)
		if got := string(e.Append(nil, Streamed)); got != x.XML {
			t.Errorf("%s: %s", x.Name, got)
		}
		if got, want := string(e.Append(nil, Framed)), strings.Replace(x.XML, ">", " xmlns='jabber:client'>",
			1); len(got) != len(want) {
			t.Errorf("%s: %s", x.Name, got)
		}
	}
}
