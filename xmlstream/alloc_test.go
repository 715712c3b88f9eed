package xmlstream

import (
	"testing"
	"unsafe"

	"canto/xmlstream/xmlstreamtest"
)

func TestSizes(t *testing.T) {
	if n := unsafe.Sizeof(Stream{}); n != 24 {
		t.Errorf("Stream: %d bytes", n)
	}
	if n := unsafe.Sizeof(Element{}); n != 16 {
		t.Errorf("Element: %d bytes", n)
	}
	if n := unsafe.Sizeof(node{}); n != nodeSize {
		t.Errorf("node: %d bytes", n)
	}
	if n := unsafe.Sizeof(attr{}); n != attrSize {
		t.Errorf("attr: %d bytes", n)
	}
	if n := unsafe.Sizeof(nsDecl{}); n != nsDeclSize {
		t.Errorf("nsDecl: %d bytes", n)
	}
	if n := len(xmlstreamtest.Message); n != 374 {
		t.Errorf("the message is of %d bytes", n)
	}
}

// kept is a Buffers that allocates nothing once it is warm. A sync.Pool would allocate now and then.
type kept struct{ free [][]byte }

func (k *kept) Get(n int) []byte {
	for i, b := range k.free {
		if cap(b) >= n {
			k.free = append(k.free[:i], k.free[i+1:]...)
			return b[:0]
		}
	}
	return make([]byte, 0, n)
}

func (k *kept) Put(b []byte) { k.free = append(k.free, b) }

func noAllocs(t *testing.T, what string, f func()) {
	t.Helper()
	for range 10 {
		f()
	}
	if n := testing.AllocsPerRun(200, f); n != 0 {
		t.Errorf("%s: %v allocations", what, n)
	}
}

func TestAllocs(t *testing.T) {
	p := NewParser(&kept{})
	var s Stream
	open(t, p, &s, xmlstreamtest.Header)
	msg := []byte(xmlstreamtest.Message)
	var e Element
	read := func() {
		p.Feed(&s, msg)
		var err error
		if e, err = p.Stanza(&s); err != nil {
			t.Fatal(err)
		}
	}
	next := func() {
		if _, err := p.Stanza(&s); err != ErrNeedMore {
			t.Fatal(err)
		}
	}
	noAllocs(t, "a message", func() { read(); next() })
	noAllocs(t, "a message, and what is left of a read", func() { read(); p.Rest(&s) })
	noAllocs(t, "a message in two reads", func() {
		p.Feed(&s, msg[:100])
		next()
		p.Feed(&s, msg[100:])
		if _, err := p.Stanza(&s); err != nil {
			t.Fatal(err)
		}
		next()
	})
	noAllocs(t, "a message in single bytes", func() {
		for i := range msg {
			p.Feed(&s, msg[i:i+1])
			p.Stanza(&s)
		}
		next()
	})
	for _, x := range xmlstreamtest.Unusual() {
		b := []byte(x.XML)
		var dst []byte
		noAllocs(t, x.Name, func() {
			p.Feed(&s, b)
			e, err := p.Stanza(&s)
			if err != nil {
				t.Fatal(err)
			}
			e.Text()
			for i := range e.NumAttr() {
				e.AttrAt(i)
			}
			dst = e.Append(dst[:0], Streamed)
			dst = e.Append(dst[:0], Framed)
			next()
		})
	}
	hdr := []byte(xmlstreamtest.Header)
	var h Stream
	noAllocs(t, "a usual stream header", func() {
		h.Reset(0)
		p.Feed(&h, hdr)
		if _, err := p.Next(&h); err != nil {
			t.Fatal(err)
		}
	})

	read()
	var dst []byte
	noAllocs(t, "splice", func() {
		dst = e.Append(dst[:0], Streamed, Attr{from, "juliet@example.com/balcony"}, Attr{to, ""})
	})
	var a Appender
	active := N("http://jabber.org/protocol/chatstates", "active")
	noAllocs(t, "views", func() {
		if c, ok := e.Child(active); !ok || !c.Is(active) || c.Name() != active {
			t.Fatal("no child")
		}
		e.Attr(to)
		e.Text()
	})
	noAllocs(t, "Appender", func() {
		a.Reset(Streamed)
		a.Open(message).Attr(from, "a'b").AttrBytes(to, msg[:3]).Attr(N(NSXML, "lang"), "en")
		a.Open(active).Close().Open(body).Text("hi & \u20ac").TextBytes(msg[:9]).Close().Raw(e,
			Attr{from, "x"}).Close()
	})
	noAllocs(t, "Element", func() {
		for range elementRing {
			if _, err := p.Element(msg); err != nil {
				t.Fatal(err)
			}
		}
		for i := elementRing; i > 0; i-- {
			p.Release(Element{p.ring[i-1], 0, p.ring[i-1].gen})
		}
	})
}
