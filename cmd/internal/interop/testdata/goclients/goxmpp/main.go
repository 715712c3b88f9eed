// Goxmpp logs in, sends a message to itself and gets it, through go-xmpp. The last line is "ok". Nothing
// is set but address and password; the CA is what SSL_CERT_FILE names.
//
// Usage: goxmpp PORT starttls|direct ADDRESS PASSWORD
package main

import (
	"fmt"
	"log"
	"os"

	"github.com/xmppo/go-xmpp"
)

func main() {
	port, direct, address, password := os.Args[1], os.Args[2] == "direct", os.Args[3], os.Args[4]
	o := xmpp.Options{Host: "localhost:" + port, User: address, Password: password, NoTLS: !direct,
		StartTLS: !direct}
	c, err := o.NewClient()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("bound", c.JID(), "by", c.Mechanism)
	const text = "note to self"
	if _, _, err := c.Send(xmpp.Chat{Remote: address, Type: "chat", Text: text}); err != nil {
		log.Fatal(err)
	}
	for {
		stanza, err := c.Recv()
		if err != nil {
			log.Fatal(err)
		}
		if m, ok := stanza.(xmpp.Chat); ok && m.Text == text {
			break
		}
	}
	if err := c.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ok")
}
