package c2s_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"canto/session/sessiontest"
)

const (
	nsStreams = "http://etherx.jabber.org/streams"
	toUs      = " to='localhost' version='1.0'>"
)

// The headers of RFC 6120 section 4.8.2 that do not make the content namespace the default, each with its end
// tag.
var explicit = map[string][2]string{
	"streams as default namespace": {"<stream xml:lang='en' xmlns='" + nsStreams + "'" + toUs, "</stream>"},
	"no default namespace": {"<stream:stream xmlns:stream='" + nsStreams + "'" + toUs,
		"</stream:stream>"},
	"prefix of its own": {"<s:stream xmlns='jabber:client' xmlns:s='" + nsStreams + "'" + toUs,
		"</s:stream>"},
	"prefix for stanzas": {"<stream xmlns:c='jabber:client' xmlns:x='urn:x' xmlns='" + nsStreams + "'" + toUs,
		"</stream >"},
}

// RFC 6120 section 4.8.2: a header need not make the content namespace the default, if each element declares
// its own, as in prefix-free canonicalization. Others get such stanzas as they get any.
func TestExplicitNamespaces(t *testing.T) {
	for name, h := range explicit {
		t.Run(name, func(t *testing.T) {
			s := sessiontest.New(t, sessiontest.Options{})
			s.AddAccount("romeo@localhost")
			s.AddAccount("mercutio@localhost")
			juliet := s.Login("juliet", "juliet@localhost/balcony")
			juliet.Send("<presence/>")
			s.Settle()
			juliet.Received()
			romeo := s.Dial("romeo", 0)
			ask := func(text, want string) {
				t.Helper()
				romeo.Send(text)
				s.Settle()
				if got := romeo.Received(); !strings.Contains(got, want) {
					t.Fatalf("%s\nanswered: %s\nwant: %s", text, got, want)
				}
			}
			ask("<?xml version='1.0'?>"+h[0], "</stream:features>")
			ask("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>"+
				base64.StdEncoding.EncodeToString([]byte("\x00romeo\x00"+sessiontest.Password))+"</auth>", "<success ")
			ask(h[0], "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>")
			ask("<iq xmlns='jabber:client' type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>"+
				"<resource>o</resource></bind></iq>", "<jid>romeo@localhost/o</jid>")
			ask("<iq xmlns='jabber:client' type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>",
				"type='result' id='r'")
			ask("<presence xmlns='jabber:client'/>", "<presence from='romeo@localhost/o'")
			// Stanzas to others: by a session, and through the store.
			for _, to := range []string{"juliet@localhost", "mercutio@localhost"} {
				romeo.Send("<message xmlns='jabber:client' type='chat' to='" + to + "'><body>as default</body></message>")
				romeo.Send("<m:message xmlns:m='jabber:client' type='chat' to='" + to + "'>" +
					"<m:body>with a prefix</m:body></m:message>")
				romeo.Send("<message to='" + to + "' xmlns='jabber:client' type='chat'>" +
					"<body>a child of its own</body><x xmlns='urn:x'><y/></x></message>")
				if strings.Contains(h[0], "xmlns:c=") {
					romeo.Send("<c:message type='chat' to='" + to + "'>" +
						"<c:body>with the stream's prefix</c:body><x:x/></c:message>")
				}
			}
			s.Settle()
			if got := romeo.Received(); got != "" {
				t.Fatalf("refused: %s", got)
			}
			mercutio := s.Login("mercutio", "mercutio@localhost/street")
			mercutio.Send("<presence/>")
			s.Settle()
			for _, c := range []*sessiontest.Client{juliet, mercutio} {
				got := strings.Join(c.Stanzas(), "\n")
				for _, want := range []string{"<body>as default</body>", "<body>with a prefix</body>",
					"<body>a child of its own</body><x xmlns='urn:x'><y/></x>"} {
					if !strings.Contains(got, want) {
						t.Errorf("%s got %s\nwant %s", c.Name, got, want)
					}
				}
				if strings.Contains(h[0], "xmlns:c=") &&
					!strings.Contains(got, "<body>with the stream's prefix</body><x xmlns='urn:x'/>") {
					t.Errorf("%s got %s", c.Name, got)
				}
				for _, bad := range []string{"xmlns='jabber:client'", "ill-formed", "<m:", "<c:"} {
					if strings.Contains(got, bad) {
						t.Errorf("%s got %s", c.Name, got)
					}
				}
			}
			romeo.Send(h[1])
			s.Settle()
			if got := romeo.Received(); got != "</stream:stream>" || !romeo.Conn().Ended() {
				t.Errorf("after the end tag: %q", got)
			}
		})
	}
}

// RFC 6120 section 4.8.2, section 4.9.3.10: a default namespace other than the content namespace and that of
// streams is refused, and so is a stanza in no namespace of ours, on a stream that gives it none.
func TestForeignNamespaces(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	for _, ns := range []string{"jabber:server", "jabber:component:accept", "urn:other", nsStreams + "/"} {
		c := s.Dial("c", 0)
		c.Send("<stream:stream xmlns='" + ns + "' xmlns:stream='" + nsStreams + "'" + toUs)
		s.Settle()
		if got := c.Received(); !strings.Contains(got, "<invalid-namespace ") {
			t.Errorf("%s: %s", ns, got)
		}
	}
	for name, h := range explicit {
		if name == "prefix of its own" {
			continue
		}
		c := s.Dial("c", 0)
		c.Send(h[0])
		s.Settle()
		c.Received()
		c.Send("<message to='juliet@localhost'><body>in no namespace of ours</body></message>")
		s.Settle()
		got := c.Received()
		if !strings.Contains(got, "<unsupported-stanza-type ") && !strings.Contains(got, "<policy-violation ") {
			t.Errorf("%s: %s", name, got)
		}
	}
}
