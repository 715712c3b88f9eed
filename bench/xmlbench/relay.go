package main

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"canto/xmlstream"
	"canto/xmlstream/xmlstreamtest"
)

var (
	message = xmlstream.N(xmlstream.NSClient, "message")
	to      = xmlstream.N("", "to")
	from    = xmlstream.N("", "from")
	typ     = xmlstream.N("", "type")
)

// A relay does with a message what a server must, and no more: it parses it, decides by its recipient and type where it
// goes, and appends it with the sender's address to what waits for that recipient.
type relay struct {
	canto
	boxes  map[string]*outbox // by bare address
	sender xmlstream.Attr
}

type outbox struct{ out []byte }

func newRelay() *relay {
	r := &relay{canto: *newCanto(0), boxes: map[string]*outbox{"romeo@example.net": {}}, sender: xmlstream.Attr{Name: from, Value: "juliet@example.com/balcony"}}
	for i := range 10000 {
		r.boxes[fmt.Sprintf("contact%d@example.net", i)] = &outbox{}
	}
	return r
}

// passages are the documents of a relay: a message whose bytes may be passed on, and two that mean the same and have to
// be written anew.
func passages() []xmlstreamtest.Document {
	odd := bytes.Replace([]byte(xmlstreamtest.Message), []byte("Art thou not Romeo"), []byte("<![CDATA[Art]]> thou not Romeo"), 1)
	prefixed := bytes.Replace([]byte(xmlstreamtest.Message), []byte("<message "), []byte("<c:message xmlns:c='jabber:client' "), 1)
	prefixed = append(bytes.TrimSuffix(prefixed, []byte("</message>")), "</c:message>"...)
	return []xmlstreamtest.Document{
		{Name: "message", XML: xmlstreamtest.Message, Elements: 5},
		{Name: "message with CDATA, written anew", XML: string(odd), Elements: 5},
		{Name: "message with a prefix, written anew", XML: string(prefixed), Elements: 5},
	}
}

var errNoRoute = errors.New("no route")

func (r *relay) run(i, warm, n int) (time.Duration, error) {
	if err := r.feed(r.docs[i], warm); err != nil {
		return 0, err
	}
	start := time.Now()
	err := r.feed(r.docs[i], n)
	return time.Since(start), err
}

func (r *relay) feed(f *document, n int) error {
	f.runs += n
	for range n {
		r.p.Feed(&f.stream, f.b)
		for {
			e, err := r.p.Stanza(&f.stream)
			if err == xmlstream.ErrNeedMore {
				break
			}
			if err == nil {
				err = r.route(e)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *relay) route(e xmlstream.Element) error {
	if !e.Is(message) {
		return errNoRoute
	}
	addr, _ := e.Attr(to)
	if k := bytes.IndexByte(addr, '/'); k >= 0 {
		addr = addr[:k]
	}
	switch t, _ := e.Attr(typ); string(t) {
	case "", "normal", "chat", "headline":
	default:
		return errNoRoute
	}
	b := r.boxes[string(addr)]
	if b == nil {
		return errNoRoute
	}
	b.out = e.Append(b.out[:0], xmlstream.Streamed, r.sender)
	return nil
}
