package c2s_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"canto/session/sessiontest"
)

// A stanza without xml:lang has that of its sender's stream wherever it goes, as its bytes are passed on
// without the stream around them (RFC 6120 section 8.1.5); one that has its own keeps it, and an empty one
// says that there is none. A stanza that used a prefix of the sender's header comes with its declaration, and
// one that is written again has the same.
func TestStreamLang(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.AddAccount("romeo@localhost")
	romeo := s.Dial("romeo", 1)
	const header = "<?xml version='1.0'?><stream:stream to='localhost' version='1.0' xml:lang='it' " +
		"xmlns='jabber:client' xmlns:x='urn:x' xmlns:stream='http://etherx.jabber.org/streams'>"
	romeo.Send(header)
	s.Settle()
	romeo.Send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" +
		base64.StdEncoding.EncodeToString([]byte("\x00romeo\x00"+sessiontest.Password)) + "</auth>")
	s.Settle()
	romeo.Send(header + "<iq type='set' id='b'><bind " +
		"xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>o</resource></bind></iq>")
	s.Settle()
	if got := romeo.Received(); !strings.Contains(got, "<jid>romeo@localhost/o</jid>") {
		t.Fatalf("no login: %s", got)
	}
	juliet.Received()
	const to = " type='headline' to='juliet@localhost/balcony'"
	for in, want := range map[string]string{
		"<message" + to + "><body>a</body></message>": "<message" + to +
			" from='romeo@localhost/o' xml:lang='it'><body>a</body></message>",
		"<message" + to + " xml:lang='de'><body>a</body></message>": "<message" + to +
			" xml:lang='de' from='romeo@localhost/o'><body>a</body></message>",
		"<message" + to + " xml:lang=''><body>a</body></message>": "<message" + to +
			" xml:lang='' from='romeo@localhost/o'><body>a</body></message>",
		"<message" + to + "><body xml:lang='de'><![CDATA[a]]></body></message>": "<message" + to +
			" from='romeo@localhost/o' xml:lang='it'><body xml:lang='de'>a</body></message>",
		"<message" + to + "><x:y/></message>": "<message" + to +
			" from='romeo@localhost/o' xml:lang='it'><y xmlns='urn:x'/></message>",
	} {
		romeo.Send(in)
		s.Settle()
		got := juliet.Received()
		if a, b, ok := strings.Cut(got, "<stanza-id "); ok { // XEP-0359 has its own tests
			_, b, _ = strings.Cut(b, "/>")
			got = a + b
		}
		if got != want {
			t.Errorf("%s: %s\nwant %s", in, got, want)
		}
	}
}
