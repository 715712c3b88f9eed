package xmlstream_test

import (
	"bytes"
	"fmt"
	"io"

	"canto/xmlstream"
)

var (
	iq   = xmlstream.N(xmlstream.NSClient, "iq")
	ping = xmlstream.N("urn:xmpp:ping", "ping")
	typ  = xmlstream.N("", "type")
	id   = xmlstream.N("", "id")
	from = xmlstream.N("", "from")
)

func Example() {
	p := xmlstream.NewParser(nil)
	var s xmlstream.Stream
	var out xmlstream.Appender
	for _, read := range []string{
		"<?xml version='1.0'?><stream:stream to='example.org' version='1.0' xmlns='jabber:client' " +
			"xmlns:stream='http://etherx.jabber.org/streams'>",
		"<iq type='get' id='1'><ping xmln",
		"s='urn:xmpp:ping'/></iq>",
		"</stream:stream>",
	} {
		p.Feed(&s, []byte(read))
		if s.Root() == nil {
			if _, err := p.Next(&s); err != nil {
				fmt.Println(err)
				return
			}
			fmt.Println("header:", s.Root().Default)
		}
		for {
			el, err := p.Stanza(&s)
			if err == xmlstream.ErrNeedMore {
				fmt.Println("kept:", s.Pending())
				break
			}
			if err == io.EOF {
				fmt.Println("end")
				break
			}
			if err != nil {
				fmt.Println(err)
				break
			}
			if _, ok := el.Child(ping); ok && el.Is(iq) {
				request, _ := el.Attr(id)
				out.Open(iq).Attr(typ, "result").AttrBytes(id, request).Close()
				fmt.Printf("S: %s\n", out.B)
			}
		}
	}
	// Output:
	// header: jabber:client
	// kept: 0
	// kept: 32
	// S: <iq type='result' id='1'/>
	// kept: 0
	// end
}

// Routing changes the start tag and nothing else.
func ExampleElement_Append() {
	e, err := xmlstream.Parse([]byte(`<message from="forged" id='1'><body>Romeo?</body></message>`))
	if err != nil {
		fmt.Println(err)
		return
	}
	set := xmlstream.Attr{Name: from, Value: "juliet@example.com/balcony"}
	fmt.Printf("%s\n", e.Append(nil, xmlstream.Streamed, set))
	fmt.Printf("%s\n", e.Append(nil, xmlstream.Framed, set))
	// Output:
	// <message from="juliet@example.com/balcony" id='1'><body>Romeo?</body></message>
	// <message xmlns='jabber:client' from="juliet@example.com/balcony" id='1'><body>Romeo?</body></message>
}

func ExampleAppender() {
	inner, err := xmlstream.Parse([]byte(`<message to='romeo@example.net'><body>hi</body></message>`))
	if err != nil {
		fmt.Println(err)
		return
	}
	var a xmlstream.Appender
	a.Open(xmlstream.N(xmlstream.NSClient, "message")).Attr(from, "romeo@example.net")
	a.Open(xmlstream.N("urn:xmpp:forward:0", "forwarded")).Raw(inner).Close().Close()
	fmt.Printf("%s\n", bytes.ReplaceAll(a.B, []byte("'><message"), []byte("'>\n<message")))
	// Output:
	// <message from='romeo@example.net'><forwarded xmlns='urn:xmpp:forward:0'>
	// <message xmlns='jabber:client' to='romeo@example.net'><body>hi</body></message></forwarded></message>
}
