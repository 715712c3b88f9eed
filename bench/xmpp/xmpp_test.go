package xmpp

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"canto/session/stanza"
	"canto/xmlstream"
)

// serve answers the client's header with text and closes the connection.
func serve(t *testing.T, text string) *Conn {
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close() })
	go func() {
		defer server.Close()
		buf := make([]byte, 1024)
		if _, err := server.Read(buf); err == nil {
			io.WriteString(server, text)
		}
	}()
	return NewConn(client)
}

const serverHeader = "<stream:stream xmlns='jabber:client' " +
	"xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>"

// Open returns the features, Next the elements and the end of the stream.
func TestConn(t *testing.T) {
	c := serve(t, serverHeader+"<stream:features><mechanisms xmlns='"+NSSASL+
		"'><mechanism>PLAIN</mechanism><mechanism>SCRAM-SHA-256</mechanism></mechanisms></stream:features>"+
		"<iq type='result' id='bind'><bind xmlns='"+NSBind+"'><jid>a@localhost/b</jid></bind></iq></stream:stream>")
	e, err := c.Open("localhost", "")
	if err != nil || !e.Is(Features) {
		t.Fatalf("%v, %v", e, err)
	}
	m, _ := e.Child(Mechanisms)
	if got, ok := Choose(Offered(m, Mechanism), Preferred); !ok || got.String() != "SCRAM-SHA-256" {
		t.Errorf("chose %v, %t", got, ok)
	}
	if e, err = c.Next(); err != nil || !e.Is(stanza.IQName) {
		t.Fatalf("%v, %v", e, err)
	}
	if jid, ok := BoundJID(e); !ok || jid != "a@localhost/b" {
		t.Errorf("bound %q, %t", jid, ok)
	}
	if _, err := c.Next(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// A stream error is an error with its condition.
func TestStreamError(t *testing.T) {
	c := serve(t, serverHeader+"<stream:error><host-unknown xmlns='"+stanza.NSStreams+"'/></stream:error>")
	_, err := c.Open("localhost", "")
	var ended StreamError
	if !errors.As(err, &ended) || ended.Condition != "host-unknown" {
		t.Errorf("%v", err)
	}
}

// Addresses are escaped, and the client's own is left out where there is none.
func TestAppendHeader(t *testing.T) {
	with, without := string(AppendHeader(nil, "localhost", "a'b@localhost")),
		string(AppendHeader(nil, "localhost", ""))
	if !strings.Contains(with, "from='a&apos;b@localhost'") &&
		!strings.Contains(with, "from='a&#39;b@localhost'") {
		t.Error(with)
	}
	if strings.Contains(without, "from=") {
		t.Error(without)
	}
	for _, h := range []string{with, without} {
		var in xmlstream.Stream
		p := xmlstream.NewParser(nil)
		p.Feed(&in, []byte(h))
		if _, err := p.Next(&in); err != nil || in.Root() == nil {
			t.Errorf("%s: %v", h, err)
		}
	}
}

// A text beside the condition is not the condition.
func TestCondition(t *testing.T) {
	e, err := xmlstream.Parse([]byte("<failure xmlns='" + NSSASL +
		"'><text>no</text><not-authorized/></failure>"))
	if err != nil {
		t.Fatal(err)
	}
	if got := Condition(e, NSSASL); got != "not-authorized" {
		t.Errorf("%q", got)
	}
	if got := Condition(e, stanza.NSStanzas); got != "" {
		t.Errorf("%q", got)
	}
}
