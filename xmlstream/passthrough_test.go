package xmlstream

import (
	"strings"
	"testing"

	"canto/xmlstream/xmlstreamtest"
)

// When the bytes of a stanza are copied and when it is written again, as docs/xmlstream.md says: a row
// for each condition. An element that was written again has no extra white space in its tags.
func TestPassThroughRows(t *testing.T) {
	client, server := xmlstreamtest.Header, xmlstreamtest.ServerHeader
	outer := strings.Replace(client, " to=", " xmlns:o='urn:o' to=", 1)
	const blank = "<y  a=\"1\" />" // it is preserved only if the bytes are copied
	for _, c := range []struct {
		header, in string
		form       Form
		want       string // empty if it is written again
	}{
		{client, `<message to="a"  id='1' ><body>x &amp; y&#13;&#10;` + "\n\t" + `'"</body>` + blank +
			`</message >`, Streamed,
			`<message to="a"  id='1' from='f'><body>x &amp; y&#13;&#10;` + "\n\t" + `'"</body>` + blank +
				`</message >`},
		{client, `<message from="a'b" to='c'>` + blank + `</message>`, Streamed, `<message from="f" to='c'>` +
			blank + `</message>`},
		// 1, 2: prefixes
		{client, `<c:message xmlns:c='jabber:client'>` + blank + `</c:message>`, Streamed, ""},
		{outer, `<message><o:x/>` + blank + `</message>`, Streamed, ""},
		{outer, `<message o:x=''>` + blank + `</message>`, Streamed, ""},
		{outer, `<message xml:lang='en'>` + blank + `</message>`, Streamed, `<message xml:lang='en' from='f'>` +
			blank + `</message>`},
		{outer, `<message><p:x xmlns:p='u' p:a=''/>` + blank + `</message>`, Streamed,
			`<message from='f'><p:x xmlns:p='u' p:a=''/>` + blank + `</message>`},
		// 3: CDATA sections and white space
		{client, `<message><![CDATA[]]>` + blank + `</message>`, Streamed, ""},
		{client, "<message>\r" + blank + `</message>`, Streamed, ""},
		{client, "<message id='\n'>" + blank + `</message>`, Streamed, ""},
		{client, "<message id='\t'>" + blank + `</message>`, Streamed, ""},
		{client, "<message id='\r'>" + blank + `</message>`, Streamed, ""},
		{client, "<message id='&#10;&#9;'>" + blank + `</message>`, Streamed,
			`<message id='&#10;&#9;' from='f'>` + blank + `</message>`},
		// 4: the default namespace
		{client, `<message xmlns='jabber:client'>` + blank + `</message>`, Streamed, `<message from='f'>` +
			blank + `</message>`},
		{server, `<message>` + blank + `</message>`, Streamed, `<message from='f'>` + blank + `</message>`},
		{server, `<message xmlns='jabber:server'>` + blank + `</message>`, Streamed, `<message from='f'>` +
			blank + `</message>`},
		{client, `<message>` + blank + `</message>`, Framed, `<message xmlns='jabber:client' from='f'>` + blank +
			`</message>`},
		{client, `<message xmlns='jabber:client'>` + blank + `</message>`, Framed,
			`<message xmlns='jabber:client' from='f'>` + blank + `</message>`},
		{server, `<message xmlns='jabber:server'>` + blank + `</message>`, Framed, ""},
		{client, `<x xmlns='urn:x'>` + blank + `</x>`, Streamed, `<x xmlns='urn:x' from='f'>` + blank + `</x>`},
		{client, `<x xmlns=''>` + blank + `</x>`, Streamed, `<x xmlns='' from='f'>` + blank + `</x>`},
		// 5: the content namespaces inside
		{client, `<message><x xmlns='jabber:client'/>` + blank + `</message>`, Streamed,
			`<message from='f'><x xmlns='jabber:client'/>` + blank + `</message>`},
		{client, `<message><x xmlns='jabber:client'/>` + blank + `</message>`, ServerStreamed, ""},
		{client, `<message xmlns:p='jabber:server'>` + blank + `</message>`, ServerStreamed, ""},
		{server, `<message><x xmlns='jabber:client'/>` + blank + `</message>`, Streamed, ""},
		{client, `<message>` + blank + `</message>`, ServerStreamed, `<message from='f'>` + blank + `</message>`},
	} {
		e := stanza(t, c.header, c.in)
		got := string(e.Append(nil, c.form, Attr{from, "f"}))
		if c.want == "" {
			if strings.Contains(got, blank) || !strings.Contains(got, "<y a='1'/>") {
				t.Errorf("%s, form %d: not written again: %s", c.in, c.form, got)
			}
		} else if got != c.want {
			t.Errorf("%s, form %d:\n%s\nwant\n%s", c.in, c.form, got, c.want)
		}
	}
	// A child that is passed on alone declares its namespace; a prefix of any attribute makes Append write
	// it again.
	for in, want := range map[string]string{
		`<message><z  b="2" >` + blank +
			`</z></message>`: `<z  b="2">` + blank + `</z>`,
		`<message><x xmlns='u'><z  b="2" >` + blank +
			`</z></x></message>`: `<z xmlns='u'  b="2">` + blank + `</z>`,
		`<message><x xmlns='u'><z  b="2" xmlns:p='v' p:a=''>` + blank +
			`</z></x></message>`: `<z xmlns='u' b='2' xmlns:p='v' p:a=''><y a='1'/></z>`,
		`<message><x xmlns='u'><z  b="2">` + blank +
			`</z><![CDATA[]]></x><w xmlns:p='v' p:a=''/></message>`: `<z xmlns='u'  b="2">` + blank + `</z>`,
		`<message><x xmlns=''><z  b="2">` + blank +
			`</z></x></message>`: `<z xmlns='' b='2'><y a='1'/></z>`,
	} {
		c, _ := stanza(t, client, in).First()
		for string(c.Local()) != "z" {
			c, _ = c.First()
		}
		if got := string(c.Append(nil, Streamed)); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", in, got, want)
		}
	}
}
