// Gologin logs in with SASL2, Bind 2 and FAST through go-xmpp: first by the password, with the check of the
// offer (XEP-0474), an upgrade of the keys (XEP-0480) if the account lacks some, and a request for a token;
// then twice by the token. The last line is "ok". The CA is what SSL_CERT_FILE names.
//
// Usage: gologin PORT starttls|direct ADDRESS PASSWORD
package main

import (
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/xmppo/go-xmpp"
)

func main() {
	port, direct, address, password := os.Args[1], os.Args[2] == "direct", os.Args[3], os.Args[4]
	options := func() xmpp.Options {
		return xmpp.Options{Host: "localhost:" + port, User: address, Password: password, NoTLS: !direct,
			StartTLS: !direct, SSDP: true, Fast: true, UserAgentID: "d4565fa7-4d72-4749-b3d3-740edbf87770",
			UserAgentSW: "gologin", UserAgentDev: "a test", Resource: "gologin"}
	}
	o := options()
	c, err := o.NewClient()
	if err != nil {
		log.Fatal("by password: ", err)
	}
	first := c.JID()
	fmt.Println("bound", first, "by", c.Mechanism, "; the token is for", c.Fast.Mechanism, "until", c.Fast.Expiry)
	if !strings.HasSuffix(c.Mechanism, "-PLUS") || c.Fast.Token == "" || c.Fast.Expiry.IsZero() {
		log.Fatal("no channel binding, or no token")
	}
	token := c.Fast.Token
	if err := c.Close(); err != nil {
		log.Fatal(err)
	}
	for i := range 3 {
		o := options()
		o.Password = "" // the token alone
		// go-xmpp asks for a token for the exporter, and remembers tls-unique with TLS 1.2.
		o.FastToken, o.FastMechanism, o.FastInvalidate = token, "HT-SHA-256-EXPR", i == 1
		c, err := o.NewClient()
		if i == 2 {
			if err == nil {
				log.Fatal("a token that was invalidated is accepted")
			}
			break
		}
		if err != nil {
			log.Fatal("by token: ", err)
		}
		fmt.Println("bound", c.JID(), "by", c.Mechanism)
		if c.Mechanism != "HT-SHA-256-EXPR" || c.JID() != first {
			log.Fatal("another mechanism, or another resource for the same user agent")
		}
		const text = "note to self"
		if _, _, err := c.Send(xmpp.Chat{Remote: c.JID(), Type: "chat", Text: text}); err != nil {
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
	}
	fmt.Println("ok")
}
