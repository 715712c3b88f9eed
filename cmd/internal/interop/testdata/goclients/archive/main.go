// Archive uses the archive, carbons and offline storage through mellium.im/xmpp. The last line is "ok".
// Nothing is set but addresses and passwords. The CA is what SSL_CERT_FILE names.
//
// Usage: archive PORT ROMEO PASSWORD JULIET PASSWORD STAGE
package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"slices"
	"time"

	"mellium.im/sasl"
	"mellium.im/xmlstream"
	"mellium.im/xmpp"
	"mellium.im/xmpp/carbons"
	"mellium.im/xmpp/disco"
	"mellium.im/xmpp/history"
	"mellium.im/xmpp/jid"
	"mellium.im/xmpp/mux"
	"mellium.im/xmpp/ping"
	"mellium.im/xmpp/stanza"
)

// A message is what a client hears.
type message struct {
	From, To, ID, Body string
	Archive            string // its id in the archive
	How                string // "direct", "sent", "received", "archived"
	Delayed            bool
}

// A chat is a message on the wire.
type chat struct {
	stanza.Message
	Body     string `xml:"body,omitempty"`
	StanzaID []struct {
		ID string `xml:"id,attr"`
		By string `xml:"by,attr"`
	} `xml:"urn:xmpp:sid:0 stanza-id"`
	Delay *struct {
		Stamp string `xml:"stamp,attr"`
	} `xml:"urn:xmpp:delay delay"`
}

// A result is an item of an archive on the wire.
type result struct {
	ID        string `xml:"id,attr"`
	QueryID   string `xml:"queryid,attr"`
	Forwarded struct {
		Delay struct {
			Stamp string `xml:"stamp,attr"`
		} `xml:"urn:xmpp:delay delay"`
		Message chat `xml:"jabber:client message"`
	} `xml:"urn:xmpp:forward:0 forwarded"`
}

// A client is a session.
type client struct {
	s       *xmpp.Session
	bare    jid.JID
	heard   chan message // live
	results chan result  // of queries
}

var ctx context.Context

func must(err error) {
	if err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
}

func check(ok bool, format string, args ...any) {
	if !ok {
		log.Output(2, fmt.Sprintf(format, args...))
		os.Exit(1)
	}
}

func open(address, password string) *client {
	c := &client{bare: jid.MustParse(address).Bare(), heard: make(chan message, 1000),
		results: make(chan result, 1000)}
	conn, err := net.Dial("tcp", "localhost:"+os.Args[1])
	must(err)
	c.s, err = xmpp.NewClientSession(ctx, jid.MustParse(address), conn, xmpp.StartTLS(nil), xmpp.BindResource(),
		xmpp.SASL("", password, sasl.ScramSha256Plus, sasl.ScramSha256, sasl.ScramSha1Plus, sasl.ScramSha1,
			sasl.Plain))
	must(err)
	body := mux.MessageHandlerFunc(func(m stanza.Message, r xmlstream.TokenReadEncoder) error {
		var got chat
		if err := xml.NewTokenDecoder(r).Decode(&got); err != nil {
			return err
		}
		c.hear(got, "direct")
		return nil
	})
	fetched := mux.MessageHandlerFunc(func(m stanza.Message, r xmlstream.TokenReadEncoder) error {
		if !c.mine(m) {
			return fmt.Errorf("a result came from %s", m.From)
		}
		var got result
		if err := xml.NewTokenDecoder(r).Decode(&got); err != nil {
			return err
		}
		c.results <- got
		return nil
	})
	copied := carbons.Handler{F: func(m stanza.Message, sent bool, inner xml.TokenReader) error {
		if !c.mine(m) {
			return fmt.Errorf("a carbon came from %s", m.From)
		}
		d := xml.NewTokenDecoder(inner)
		for {
			t, err := d.Token()
			if err != nil {
				return err
			}
			start, ok := t.(xml.StartElement)
			if !ok || start.Name.Local != "message" {
				continue
			}
			var got chat
			if err := d.DecodeElement(&got, &start); err != nil {
				return err
			}
			how := "received"
			if sent {
				how = "sent"
			}
			c.hear(got, how)
			return nil
		}
	}}
	m := mux.New(stanza.NSClient, disco.Handle(), ping.Handle(), carbons.Handle(copied),
		history.Handle(history.NewHandler(fetched)),
		mux.Message(stanza.ChatMessage, xml.Name{Local: "body"}, body))
	go func() {
		if err := c.s.Serve(m); err != nil && !errors.Is(err, io.EOF) {
			log.Fatalf("%s: %v", c.s.LocalAddr(), err)
		}
	}()
	return c
}

// mine says that a message is from the client's own account. The library leaves its address out.
func (c *client) mine(m stanza.Message) bool {
	return m.From.Equal(c.bare) || m.From.Equal(jid.JID{})
}

// hear keeps a live message.
func (c *client) hear(got chat, how string) {
	m := message{From: got.From.String(), To: got.To.String(), ID: got.ID, Body: got.Body, How: how,
		Delayed: got.Delay != nil}
	for _, s := range got.StanzaID {
		if s.By == c.bare.String() {
			m.Archive = s.ID
		}
	}
	c.heard <- m
}

// expect is the next live message, which has this body.
func (c *client) expect(body, how string) message {
	select {
	case m := <-c.heard:
		check(m.Body == body && m.How == how, "%s heard %+v, not %q (%s)", c.s.LocalAddr(), m, body, how)
		return m
	case <-ctx.Done():
		check(false, "%s did not hear %q", c.s.LocalAddr(), body)
		panic("unreachable")
	}
}

func (c *client) available() {
	must(c.s.Send(ctx, stanza.Presence{}.Wrap(nil)))
	c.ping()
}

// ping waits until the server has taken what was sent.
func (c *client) ping() { must(ping.Send(ctx, c.s, c.bare.Domain())) }

func (c *client) say(to, id, body string, more ...xml.TokenReader) {
	inner := append([]xml.TokenReader{xmlstream.Wrap(xmlstream.Token(xml.CharData(body)),
		xml.StartElement{Name: xml.Name{Local: "body"}})}, more...)
	must(c.s.Send(ctx, stanza.Message{To: jid.MustParse(to), Type: stanza.ChatMessage, ID: id}.Wrap(
		xmlstream.MultiReader(inner...))))
}

// page runs one query.
func (c *client) page(q history.Query) ([]result, history.Result) {
	fin, err := history.Fetch(ctx, q, jid.JID{}, c.s)
	must(err)
	var got []result
	for {
		select {
		case r := <-c.results:
			got = append(got, r)
		default:
			return got, fin
		}
	}
}

// all reads pages until the last one.
func (c *client) all(q history.Query) (got []result) {
	for {
		page, fin := c.page(q)
		if q.Last || q.Reverse {
			got = append(page, got...)
		} else {
			got = append(got, page...)
		}
		if fin.Complete {
			return got
		}
		check(len(page) > 0 && uint64(len(page)) <= q.Limit,
			"a page has %d items, and is not the last one", len(page))
		check(fin.Set.First.ID == page[0].ID && fin.Set.Last == page[len(page)-1].ID,
			"a page from %s to %s says %+v", page[0].ID, page[len(page)-1].ID, fin.Set)
		q.PageID = fin.Set.Last
		if q.Last {
			q.PageID = fin.Set.First.ID
		}
	}
}

func bodies(rs []result) (all []string) {
	for _, r := range rs {
		all = append(all, r.Forwarded.Message.Body)
	}
	return all
}

func numbered(prefix string, from, to int) (all []string) {
	for i := from; i < to; i++ {
		all = append(all, fmt.Sprintf("%s %02d", prefix, i))
	}
	return all
}

func same(what string, got, want []string) {
	if !slices.Equal(got, want) {
		log.Output(2, fmt.Sprintf("%s:\n got %q\nwant %q", what, got, want))
		os.Exit(1)
	}
}

func main() {
	log.SetFlags(log.Lshortfile)
	romeo, rpw, juliet, jpw := os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	var cancel func()
	ctx, cancel = context.WithTimeout(context.Background(), 115*time.Second)
	defer cancel()
	switch stage := os.Args[6]; stage {
	case "archive":
		pages(romeo, rpw, juliet, jpw)
	case "away":
		away(romeo, rpw, os.Args[7])
	case "back":
		back(juliet, jpw, os.Args[7:])
	default:
		log.Fatalf("no stage %q", stage)
	}
	fmt.Println("ok")
}

func step(name string) { fmt.Println(name) }

// pages is a chat, its archive on both sides, and carbons.
func pages(romeo, rpw, juliet, jpw string) {
	a, b, b2 := open(romeo+"/orchard", rpw), open(juliet+"/balcony", jpw), open(juliet+"/garden", jpw)
	step("disco")
	for _, entity := range []struct {
		address  jid.JID
		features []string
	}{
		{a.bare, []string{history.NS, history.NSExt}},
		{a.bare.Domain(), []string{carbons.NS}},
	} {
		info, err := disco.GetInfo(ctx, "", entity.address, a.s)
		must(err)
		var vars []string
		for _, f := range info.Features {
			vars = append(vars, f.Var)
		}
		for _, want := range entity.features {
			check(slices.Contains(vars, want), "%s does not have the feature %s: %q", entity.address, want, vars)
		}
	}

	step("carbons")
	must(carbons.Enable(ctx, b.s))
	must(carbons.Enable(ctx, b2.s))
	for _, c := range []*client{a, b, b2} {
		c.available()
	}
	full := b.s.LocalAddr().String()
	var want []string
	for i, body := range numbered("to", 0, 12) {
		a.say(full, fmt.Sprint("a", i), body)
		m := b.expect(body, "direct")
		copied := b2.expect(body, "received")
		check(m.Archive != "", "no stanza-id: %+v", m)
		check(copied.Archive == "" || copied.Archive == m.Archive, "%+v and its copy %+v", m, copied)
		want = append(want, body)
	}
	for i, body := range numbered("from", 0, 12) {
		b.say(a.s.LocalAddr().String(), fmt.Sprint("b", i), body)
		a.expect(body, "direct")
		b2.expect(body, "sent")
		want = append(want, body)
	}
	must(carbons.Disable(ctx, b2.s))
	a.say(full, "c", "not copied")
	b.expect("not copied", "direct")
	b2.ping()
	check(len(b2.heard) == 0, "a copy came to a device that wants none")
	want = append(want, "not copied")

	for _, c := range []*client{a, b} {
		step("pages of " + c.bare.String())
		whole := c.all(history.Query{Limit: 100})
		same("one page", bodies(whole), want)
		same("forwards", bodies(c.all(history.Query{Limit: 7})), want)
		same("backwards", bodies(c.all(history.Query{Limit: 7, Last: true})), want)
		other := b.bare
		if c == b {
			other = a.bare
		}
		same("with", bodies(c.all(history.Query{Limit: 10, With: other})), want)
		same("with a stranger", bodies(c.all(history.Query{Limit: 10, With: jid.MustParse("stranger@localhost")})),
			nil)
		same("after-id", bodies(c.all(history.Query{Limit: 7, AfterID: whole[9].ID})), want[10:])
		same("before-id", bodies(c.all(history.Query{Limit: 7, BeforeID: whole[9].ID})), want[:9])
		same("between", bodies(c.all(history.Query{Limit: 7, AfterID: whole[4].ID, BeforeID: whole[9].ID})),
			want[5:9])
		same("ids", bodies(c.all(history.Query{Limit: 7, IDs: []string{whole[3].ID, whole[8].ID}})),
			[]string{want[3], want[8]})
		flipped, _ := c.page(history.Query{Limit: 5, Reverse: true})
		turned := slices.Clone(want[:5])
		slices.Reverse(turned)
		same("flipped", bodies(flipped), turned)
		_, fin := c.page(history.Query{Limit: 5})
		check(fin.Set.Count == nil || *fin.Set.Count == uint64(len(want)), "the count is %v", fin.Set.Count)

		_, err := history.Fetch(ctx, history.Query{Limit: 5, PageID: "not-an-id"}, jid.JID{}, c.s)
		var e stanza.Error
		check(errors.As(err, &e) && e.Condition == stanza.ItemNotFound,
			"a page after an id that is not there: %v", err)
	}
	for _, c := range []*client{a, b, b2} {
		must(c.s.Close())
	}
}

// away sends three messages, and waits until they are in the sender's archive.
func away(romeo, rpw, name string) {
	a := open(romeo+"/orchard", rpw)
	a.available()
	_, fin := a.page(history.Query{Limit: 1, Last: true})
	q := history.Query{Limit: 50, AfterID: fin.Set.Last}
	want := numbered(name, 0, 3)
	for i, body := range want {
		a.say(os.Args[4], fmt.Sprint(name, i), body)
	}
	for {
		got := bodies(a.all(q))
		if len(got) == len(want) {
			same("the sender's archive", got, want)
			break
		}
		a.ping()
	}
	must(a.s.Close())
}

// back is away no longer: what waited comes once, delayed and in order, and is in the archive once.
func back(juliet, jpw string, names []string) {
	b := open(juliet+"/balcony", jpw)
	b.available()
	var all []string
	for i, name := range names {
		all = append(all, numbered(name, 0, 3)...)
		if i < len(names)-1 {
			continue // it was heard at an earlier return
		}
		for _, body := range numbered(name, 0, 3) {
			m := b.expect(body, "direct")
			check(m.Delayed, "no delay: %+v", m)
			check(m.Archive != "", "no stanza-id: %+v", m)
		}
	}
	got := b.all(history.Query{Limit: 4})
	same("the archive", bodies(got), all)
	must(b.s.Close())
	again := open(juliet+"/balcony", jpw)
	again.available()
	again.ping()
	check(len(again.heard) == 0, "what was handed over comes again")
	must(again.s.Close())
}
