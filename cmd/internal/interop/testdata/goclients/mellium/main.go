// Mellium logs in, sends a message to itself and gets it, through mellium.im/xmpp. The last line is "ok".
// Nothing is set but address and password; the library has no default for mechanisms, so all of its own
// are listed. The CA is what SSL_CERT_FILE names.
//
// Usage: mellium PORT starttls|direct ADDRESS PASSWORD
package main

import (
	"context"
	"crypto/tls"
	"encoding/xml"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"time"

	"mellium.im/sasl"
	"mellium.im/xmlstream"
	"mellium.im/xmpp"
	"mellium.im/xmpp/jid"
	"mellium.im/xmpp/stanza"
)

func main() {
	server, direct, address, password := "localhost:"+os.Args[1], os.Args[2] == "direct",
		jid.MustParse(os.Args[3]), os.Args[4]
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var conn net.Conn
	var err error
	if direct {
		conn, err = tls.Dial("tcp", server, nil)
	} else {
		conn, err = net.Dial("tcp", server)
	}
	if err != nil {
		log.Fatal(err)
	}
	s, err := xmpp.NewClientSession(ctx, address, conn, xmpp.StartTLS(nil), xmpp.BindResource(),
		xmpp.SASL("", password, sasl.ScramSha256Plus, sasl.ScramSha256, sasl.ScramSha1Plus, sasl.ScramSha1,
			sasl.Plain))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("bound", s.LocalAddr())
	got := make(chan struct{})
	go func() {
		err := s.Serve(xmpp.HandlerFunc(func(t xmlstream.TokenReadEncoder, start *xml.StartElement) error {
			if start.Name.Local == "message" {
				close(got)
			}
			return nil
		}))
		if err != nil && err != io.EOF {
			log.Print(err)
		}
	}()
	body := xmlstream.Wrap(xmlstream.Token(xml.CharData("note to self")),
		xml.StartElement{Name: xml.Name{Local: "body"}})
	for _, st := range []xml.TokenReader{
		stanza.Presence{}.Wrap(nil),
		stanza.Message{To: address, Type: stanza.ChatMessage}.Wrap(body),
	} {
		if err := s.Send(ctx, st); err != nil {
			log.Fatal(err)
		}
	}
	select {
	case <-got:
	case <-ctx.Done():
		log.Fatal("no message came")
	}
	if err := s.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ok")
}
