// Package xmlstreamtest holds the corpus of XMPP input that unit tests, fuzz seeds, split tests and
// benchmarks share: usual stanzas, unusual ones, and attacks. It holds data only and does not import
// xmlstream. Each function returns new values, which the caller may change.
package xmlstreamtest

import (
	"fmt"
	"strings"
)

// Header and ServerHeader are the usual stream headers of a client and of a server; End ends both streams.
const (
	Header       = `<?xml version='1.0'?><stream:stream to='example.org' version='1.0' xml:lang='en' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>`
	ServerHeader = `<?xml version='1.0'?><stream:stream to='example.org' from='example.net' version='1.0' xmlns='jabber:server' xmlns:db='jabber:server:dialback' xmlns:stream='http://etherx.jabber.org/streams'>`
	End          = `</stream:stream>`
)

// A Stanza is a well-formed element, as it is on a client's stream.
type Stanza struct {
	Name string // a short name for a subtest
	XML  string // the element
}

// Message is the message of 374 bytes that the figures of docs/xmlstream.md are for.
const Message = `<message to='romeo@example.net/orchard' id='ktx72v49' type='chat' xml:lang='en'><body>Art thou not Romeo, and a Montague? Neither, fair saint, if either thee dislike. How cam'st thou hither</body><active xmlns='http://jabber.org/protocol/chatstates'/><request xmlns='urn:xmpp:receipts'/><origin-id xmlns='urn:xmpp:sid:0' id='de305d54-75b4-431b-adb2-eb6b9e546013'/></message>`

// Stanzas returns what clients and servers send every day, small and large, for benchmarks and tests. The
// names say what each has most of: "tiny" has 2,000 elements without attributes, "attrs" 800 attributes,
// "entities" 700 references.
func Stanzas() []Stanza {
	var roster, mam, tiny, attrs strings.Builder
	roster.WriteString(`<iq type='result' id='roster_1' to='juliet@example.com/balcony'><query xmlns='jabber:iq:roster' ver='ver11'>`)
	for i := range 50 {
		fmt.Fprintf(&roster, `<item jid='contact%d@example.org' name='Contact Number %d' subscription='both'><group>Friends</group></item>`, i, i)
	}
	roster.WriteString(`</query></iq>`)
	mam.WriteString(`<message id='aeb213' to='juliet@capulet.example/chamber'><result xmlns='urn:xmpp:mam:2' queryid='f27' id='28482-98726-73623'><forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' stamp='2010-07-10T23:08:25Z'/><message xmlns='jabber:client' from='witch@shakespeare.example/broom' to='macbeth@shakespeare.example' type='chat' id='x1'><body>Hail to thee</body></message></forwarded></result></message>`)
	tiny.WriteString(`<iq type='set' id='t'><q xmlns='a:b'>`)
	for range 1000 {
		tiny.WriteString(`<a><b/></a>`)
	}
	tiny.WriteString(`</q></iq>`)
	attrs.WriteString(`<iq type='set' id='t'>`)
	for range 20 {
		attrs.WriteString(`<q`)
		for i := range 40 {
			fmt.Fprintf(&attrs, ` a%d='v%d'`, i, i)
		}
		attrs.WriteString(`/>`)
	}
	attrs.WriteString(`</iq>`)
	return []Stanza{
		{"message", Message},
		{"presence", `<presence id='8d6f1c'><show>away</show><status>gone to lunch</status><priority>5</priority><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='https://gajim.org' ver='QgayPKawpkPSDYmwT/WM94uAlu0='/><x xmlns='vcard-temp:x:update'><photo>01b87fcd030b72895ff8e88db57ec525450f000d</photo></x></presence>`},
		{"roster50", roster.String()},
		{"mam", mam.String()},
		{"avatar4k", `<message from='juliet@capulet.example' to='romeo@montague.example/home' type='headline' id='foo'><event xmlns='http://jabber.org/protocol/pubsub#event'><items node='urn:xmpp:avatar:data'><item id='111f4b3c50d7b0df729d299bc6f8e9ef9066971f'><data xmlns='urn:xmpp:avatar:data'>` + strings.Repeat("iVBORw0KGgo+/abcDEF0123", 170) + `</data></item></items></event></message>`},
		{"tiny", tiny.String()},
		{"attrs", attrs.String()},
		{"entities", `<message to='a@b' type='chat'><body>` +
			strings.Repeat(`if a &lt; b &amp;&amp; c &gt; d then &quot;x&quot; &#x263A; `, 100) + `</body></message>`},
		{"cyrillic", `<message to='a@b' type='chat'><body>` +
			strings.Repeat("Съешь же ещё этих мягких французских булок, да выпей чаю. ", 20) + `</body></message>`},
		{"cjk", `<message to='a@b' type='chat'><body>` + strings.Repeat("我能吞下玻璃而不傷身體。いろはにほへとちりぬるを、わかよたれそつねならむ。",
			20) + `</body></message>`},
	}
}

// A Document is what one read of a client's stream may bring: one complete stanza or several.
type Document struct {
	Name     string // a short name for a table
	XML      string // the stanzas
	Elements int    // how many elements there are, at all depths
}

// Documents returns what the figures are for: the stanzas of [Stanzas], with a page of 20 messages from
// an archive in place of the single message.
func Documents() []Document {
	elements := map[string]int{"message": 5, "presence": 7, "roster50": 102, "avatar4k": 5, "tiny": 2002,
		"attrs": 21, "entities": 2, "cyrillic": 2, "cjk": 2}
	var list []Document
	for _, x := range Stanzas() {
		if x.Name == "mam" {
			list = append(list, Document{"mam20", mamPage(), 20 * 6})
			continue
		}
		list = append(list, Document{x.Name, x.XML, elements[x.Name]})
	}
	return list
}

// mamPage returns a page of an archive (XEP-0313 section 4.2): a message for each result.
func mamPage() string {
	var page strings.Builder
	for i := range 20 {
		fmt.Fprintf(&page, `<message id='aeb2%d' to='juliet@capulet.example/chamber'><result xmlns='urn:xmpp:mam:2' queryid='f27' id='28482-98726-7362%d'><forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' stamp='2010-07-10T23:08:25Z'/><message xmlns='jabber:client' from='witch@shakespeare.example/broom' to='macbeth@shakespeare.example' type='chat' id='x%d'><body>Hail to thee, number %d of the page, and some more words</body></message></forwarded></result></message>`, i, i, i, i)
	}
	return page.String()
}

// Unusual returns well-formed elements that are rare, and that must be read and passed on as faithfully
// as others.
func Unusual() []Stanza {
	return []Stanza{
		{"ping", `<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>`},
		{"empty", `<presence/>`},
		{"empty with blanks", "<presence \t\r\n/>"},
		{"blanks in tags", "<message  to = 'a'\n\tid\t=\"b\"  ><body  >x</body\n></message >"},
		{"double quotes", `<message to="a'b" id='c"d'><body a="&quot;'" b='&apos;"'>x</body></message>`},
		{"references", `<message id='&lt;&gt;&amp;&apos;&quot;&#65;&#x41;&#x1F600;'><body>&lt;&gt;&amp;&apos;&quot;&#65;&#x41;&#x1F600;&#000000000000000065;</body></message>`},
		{"line ends", "<message id='a\nb\r\nc\rd\te&#10;f&#13;g&#9;h'><body>a\nb\r\nc\rd\te&#10;f&#13;g" +
			"</body></message>"},
		{"cdata", "<message><body>a<![CDATA[<x/>&amp;]]]]><![CDATA[>\r\nb\r]]>c<![CDATA[]]></body></message>"},
		{"brackets", `<message><body>]] ]&gt; ]]&gt; ]</body></message>`},
		{"mixed", `<message>a<b xmlns='u'>b<c/>d</b>e<f/>g</message>`},
		{"prefix inside", `<message><x:y xmlns:x='urn:x' x:a='1' a='2'><x:z/><w xmlns='urn:w'/></x:y></message>`},
		{"prefix on the stanza", `<x:message xmlns:x='jabber:client' to='a'><x:body>hi</x:body></x:message>`},
		{"content by another prefix", `<message xmlns:c='jabber:client'><c:body>hi</c:body></message>`},
		{"explicit content", `<message xmlns='jabber:client' to='a'><body>hi</body></message>`},
		{"explicit content in a child", `<message to='a'><body xmlns='jabber:client'>hi</body></message>`},
		{"no namespace", `<message><x xmlns=''><y/></x></message>`},
		{"prefix declared again", `<message xmlns:p='urn:1'><p:a xmlns:p='urn:2' p:b='1'/><p:a/></message>`},
		{"xml prefix", `<message xml:lang='en' xml:base='x' xmlns:xml='http://www.w3.org/XML/1998/namespace'><body xml:lang='de'/></message>`},
		{"reference in a namespace", `<iq><q xmlns='urn&#58;x&amp;y'/></iq>`},
		{"names", `<message><ä-é.1 ñ='1'/><_/><日本語/></message>`},
		{"utf-8", "<message><body>\u00e9\u20ac\U0001F600\uFFFD\u0085\u2028</body></message>"},
		{"forwarded", `<message><sent xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' to='x'><body>y</body></message></forwarded></sent></message>`},
		{"sasl", `<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGp1bGlldAByMG0zMG15cjBtMzA=</auth>`},
		{"sm", `<a xmlns='urn:xmpp:sm:3' h='1'/>`},
		{"stream error", `<stream:error><host-gone xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>`},
	}
}

// An Attack is input that must end its stream with a stream error.
type Attack struct {
	ID        string // its row in the list of attacks; empty if it has none
	In        string // the input, from the first byte of the stream on
	Condition string // the stream error that the peer must get
	Offset    int    // the offset of the error in In; -1 if parsers may differ
}

// WithHeader returns body after the usual header of a client.
func WithHeader(body string) string { return Header + body }

// Attacks returns input that every XMPP parser must refuse, with the stream error for it (RFC 6120
// section 4.9.3) and the offset of the error, or -1 where the offset is not specified. It starts from a list
// that is written out, then adds broken UTF-8 at each place of a stanza (X04), and character references to
// characters that XML forbids (X17).
func Attacks() []Attack {
	const nwf, restricted, encoding, prefix = "not-well-formed", "restricted-xml", "unsupported-encoding",
		"bad-namespace-prefix"
	h := len(Header)
	laughs := `<!DOCTYPE l [<!ENTITY a "aa"><!ENTITY b "&a;&a;"><!ENTITY c "&b;&b;">]>`
	list := []Attack{
		{"X01", `<?xml version='1.0'?>` + laughs + `<stream:stream>&c;`, restricted, 21},
		{"X01", laughs, restricted, 0},
		{"X01", `<!DOCTYPE l SYSTEM "http://evil.example/x.dtd">` + Header, restricted, 0},
		{"X01", WithHeader(laughs), restricted, h},
		{"X01", WithHeader(`<message>` + laughs), restricted, h + 9},
		{"X01", WithHeader(`<message><!ENTITY a "b">`), restricted, h + 9},
		{"X01", WithHeader(`<message><body>&lol;</body></message>`), restricted, h + 15},
		{"X01", WithHeader(`<message to='&lol;'/>`), restricted, h + 13},
		{"X01", WithHeader(`<!-- x -->`), restricted, h},
		{"X01", WithHeader(`<message><!-- x --></message>`), restricted, h + 9},
		{"X01", WithHeader(`<?php x ?>`), restricted, h},
		{"X01", WithHeader(`<message><?php x ?></message>`), restricted, h + 9},
		{"X05", WithHeader("<a xmlns='b\uFFFFc'/>"), nwf, h + 11},
		{"X05", WithHeader(`<a xmlns='b&#1;c'/>`), nwf, h + 11},
		{"X06", WithHeader(`<message><body/><stream:stream xmlns:stream='http://etherx.jabber.org/streams'/></message>`),
			"policy-violation", h + 16},
		{"X06", WithHeader(`<message><stream:error/></message>`), "policy-violation", h + 9},
		{"X06", WithHeader(`<message><features xmlns='http://etherx.jabber.org/streams'/></message>`),
			"policy-violation",
			h + 9},
		{"X06", WithHeader(`<message><body></stream:stream>`), nwf, h + 15},
		{"X08", WithHeader(`<*/>`), nwf, h + 1},
		{"X08", WithHeader(`<\/>`), nwf, h + 1},
		{"X08", WithHeader(`<="/>`), nwf, h + 1},
		{"X08", WithHeader("<\u037E/>"), nwf, h + 1},
		{"X08", WithHeader("<\u00D7/>"), nwf, h + 1},
		{"X08", WithHeader("<\U000F0000/>"), nwf, h + 1},
		{"X08", WithHeader("<\u0301a/>"), nwf, h + 1},
		{"X09", WithHeader(`<a:b:c/>`), nwf, h + 4},
		{"X09", WithHeader(`<:a/>`), nwf, h + 1},
		{"X09", WithHeader(`<a:/>`), nwf, h + 3},
		{"X09", WithHeader(`<a xmlns:a:b='x'/>`), nwf, h + 10},
		{"X09", WithHeader(`<a xmlns:='x'/>`), nwf, h + 9},
		{"X09", WithHeader(`<a :b='x'/>`), nwf, h + 3},
		{"X11", WithHeader(`<a b='1' b='2'/>`), nwf, h + 9},
		{"X11", WithHeader(`<a a='' b='' c='' d='' e='' f='' g='' h='' i='' j='' k='' c=''/>`), nwf, -1},
		{"X11", WithHeader(`<a xmlns:p='u' xmlns:q='u' p:b='1' q:b='2'/>`), nwf, h + 35},
		{"X11", WithHeader(`<a xmlns='u' xmlns='u'/>`), nwf, h + 13},
		{"X14", WithHeader(strings.Repeat("<a>", 65)), "policy-violation", h + 3*64},
		{"K04", WithHeader(`<a xmlns:xml='urn:x'/>`), prefix, h + 3},
		{"K04", WithHeader(`<a xmlns:x='http://www.w3.org/XML/1998/namespace'/>`), prefix, h + 3},
		{"K04", WithHeader(`<a xmlns='http://www.w3.org/XML/1998/namespace'/>`), prefix, h + 3},
		{"K04", WithHeader(`<a xmlns:xmlns='urn:x'/>`), prefix, h + 3},
		{"K04", WithHeader(`<a xmlns:x='http://www.w3.org/2000/xmlns/'/>`), prefix, h + 3},
		{"K04", WithHeader(`<a xmlns:p=''/>`), prefix, h + 3},
		{"K04", WithHeader(`<p:a/>`), prefix, h + 1},
		{"K04", WithHeader(`<a p:b='1'/>`), prefix, h + 3},
		{"K04", WithHeader(`<message><a xmlns:p='u'/><p:a/></message>`), prefix, h + 26},
		{"K04", WithHeader(`<xmlns:a/>`), prefix, h + 1},
		{"K08", `<?xml version='1.0'?><?xml version='1.0'?>` + Header, restricted, 21},
		{"K08", WithHeader(`<?xml version='1.0'?>`), restricted, h},
		{"K08", `<?xml version='1.1'?><a>`, nwf, 0},
		{"K08", `<?xml?><a>`, restricted, 0},
		{"K08", `<?xml encoding='UTF-8'?><a>`, nwf, 0},
		{"K08", `<?xml version='1.0' encoding='ISO-8859-1'?><a>`, encoding, 0},
		{"K08", `<?xml version='1.0' encoding='UTF-16'?><a>`, encoding, 0},
		{"K08", `<?xml version='1.0' standalone='maybe'?><a>`, nwf, 0},
		{"K08", `<?xmlx version='1.0'?><a>`, restricted, 0},
		{"K08", "\xFF\xFE<\x00", encoding, 0},
		{"K08", "\xFE\xFF\x00<", encoding, 0},
		{"K08", "\xEF\xBB\xBF\xEF\xBB\xBF<a>", nwf, 3},
		{"K08", "<\x00s\x00", nwf, 1},
		{"K09", WithHeader(Header[21:] + `x`), "invalid-xml", h},
		{"X22", `<stream:stream` + strings.Repeat(" ", 1<<20), "policy-violation", 4096},
		{"X22", strings.Repeat(" ", 1<<20), "policy-violation", 4096},
		{"X22", WithHeader(`<message` + strings.Repeat(" ", 1<<20)), "policy-violation", h + 256<<10},
		{"", `GET / HTTP/1.1`, nwf, 0},
		{"", WithHeader(`x`), "bad-format", h},
		{"", WithHeader("\x80"), encoding, h},
		{"", WithHeader(`<message></presence>`), nwf, h + 9},
		{"", WithHeader(`<message></messag>`), nwf, h + 9},
		{"", WithHeader(`<message></messagee>`), nwf, h + 9},
		{"", WithHeader(`</stream:strea>`), nwf, h},
		{"", WithHeader(`</stream:streamm>`), nwf, h},
		{"", WithHeader(`</>`), nwf, h},
		{"", WithHeader(`<message></>`), nwf, h + 9},
		{"", WithHeader(`<message><<`), nwf, -1},
		{"", WithHeader(`<message to='a'id='b'/>`), nwf, -1},
		{"", WithHeader(`<message to=a/>`), nwf, -1},
		{"", WithHeader(`<message to/>`), nwf, -1},
		{"", WithHeader(`<message "/>`), nwf, -1},
		{"", WithHeader(`<message to='<'/>`), nwf, h + 13},
		{"", WithHeader(`<message / >`), nwf, -1},
		{"", WithHeader(`<message><body>]]></body></message>`), nwf, h + 15},
		{"", WithHeader(`<message><![CDAT[x]]></message>`), nwf, h + 9},
		{"", WithHeader(`<![CDATA[x]]>`), "bad-format", h},
		{"", WithHeader(`<message><body>a & b</body></message>`), nwf, h + 17},
		{"", WithHeader(`<message><body>&lt</body></message>`), nwf, h + 15},
		{"", WithHeader(`<message><body>&00`), nwf, h + 15},
		{"", WithHeader(`<message><body>&12a`), nwf, h + 15},
		{"", WithHeader(`<message><body>&#12a`), nwf, h + 15},
		{"", WithHeader(`<message><body>&#x1234g`), nwf, h + 15},
		{"", WithHeader(`<message><body>&am#p;`), nwf, h + 15},
		{"", WithHeader("<message><body>\x00</body></message>"), nwf, h + 15},
		{"", WithHeader("<message><body>\x1b</body></message>"), nwf, h + 15},
		{"", WithHeader("<message><body>\uFFFE</body></message>"), nwf, h + 15},
		{"", WithHeader("<message><body><![CDATA[\x01]]></body></message>"), nwf, h + 24},
	}
	for _, seq := range []string{"\xEB", "\xC0\xAF", "\xE0\x80\xAF", "\xF0\x80\x80\x80", "\xED\xA0\x80",
		"\xF4\x90\x80\x80", "\x80", "\xE2\x82", "\xC3", "\xF0\x9F\x98", "\xFF"} {
		for _, next := range []string{"<>", ">", "'", `"`, "&amp;"} {
			list = append(list,
				Attack{"X04", WithHeader("<message><body>" + seq + next + "</body></message>"), encoding, h + 15},
				Attack{"X04", WithHeader("<message><body><![CDATA[" + seq + next + "]]></body></message>"), encoding,
					h + 24},
				Attack{"X04", WithHeader("<message to='" + seq + next + "'/>"), encoding, h + 13})
		}
		list = append(list,
			Attack{"X04", WithHeader("<aaa" + seq + "/>"), encoding, h + 4},
			Attack{"X04", WithHeader("<" + seq + "/>"), encoding, h + 1},
			Attack{"X04", WithHeader("<a b" + seq + "='1'/>"), encoding, h + 4},
			Attack{"X04", WithHeader("<a " + seq + "='1'/>"), encoding, h + 3},
			Attack{"X04", WithHeader("<p" + seq + ":a/>"), encoding, h + 2},
			Attack{"X04", WithHeader("<a/\u00e9" + seq + ">"), nwf, -1})
	}
	for _, r := range []string{"#xD800", "#xDFFF", "#0", "#8", "#xFFFE", "#xFFFF", "#x110000",
		"#99999999999999999999", "#x", "#", "#xg", "#1a", "#-1", "#X41"} {
		list = append(list,
			Attack{"X17", WithHeader("<message><body>&" + r + ";</body></message>"), nwf, h + 15},
			Attack{"X17", WithHeader("<message to='&" + r + ";'/>"), nwf, h + 13})
	}
	return list
}
