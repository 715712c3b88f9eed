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

// A relay does with a message what a server must do, and no more: it parses it, finds the recipient
// by address and type, and appends it with the sender's address to the recipient's outbox.
type relay struct {
	canto
	boxes  map[string]*outbox // by bare address
	sender xmlstream.Attr
}

// An outbox is what waits for a recipient.
type outbox struct{ out []byte }

func newRelay() *relay {
	r := &relay{canto: *newCanto(0), boxes: map[string]*outbox{"romeo@example.net": {}},
		sender: xmlstream.Attr{Name: from, Value: "juliet@example.com/balcony"}}
	for i := range 10000 {
		r.boxes[fmt.Sprintf("contact%d@example.net", i)] = &outbox{}
	}
	return r
}

// passages are the documents of a relay: a message whose bytes can be passed on, and two with the
// same meaning that have to be serialized again.
func passages() []xmlstreamtest.Document {
	odd := bytes.Replace([]byte(xmlstreamtest.Message), []byte("Art thou not Romeo"),
		[]byte("<![CDATA[Art]]> thou not Romeo"), 1)
	prefixed := bytes.Replace([]byte(xmlstreamtest.Message), []byte("<message "),
		[]byte("<c:message xmlns:c='jabber:client' "), 1)
	prefixed = append(bytes.TrimSuffix(prefixed, []byte("</message>")), "</c:message>"...)
	return []xmlstreamtest.Document{
		{Name: "message", XML: xmlstreamtest.Message, Elements: 5},
		{Name: "message with CDATA, serialized again", XML: string(odd), Elements: 5},
		{Name: "message with a prefix, serialized again", XML: string(prefixed), Elements: 5},
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

// feed parses and routes f n times.
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

// route appends a message to its recipient's outbox.
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
