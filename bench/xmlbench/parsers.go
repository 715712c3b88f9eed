package main

import (
	"encoding/xml"
	"fmt"
	"io"
	"runtime"
	"time"

	"canto/xmlstream"
	"canto/xmlstream/xmlstreamtest"
)

// A canto measures canto/xmlstream, which is fed as a loop feeds it: with whole documents, or with
// pieces of step bytes.
type canto struct {
	p    *xmlstream.Parser
	step int // 0: whole
	docs []*document
}

// A document is one that is fed to a stream.
type document struct {
	stream xmlstream.Stream
	b      []byte
	runs   int // how often it was fed
	inside int // elements of one document
}

func newCanto(step int) *canto { return &canto{p: xmlstream.NewParser(nil), step: step} }

func (o *canto) name() string {
	if o.step > 0 {
		return fmt.Sprint(o.step)
	}
	return "canto"
}

// open reads the stream header.
func open(p *xmlstream.Parser, s *xmlstream.Stream) error {
	p.Feed(s, []byte(xmlstreamtest.Header))
	_, err := p.Next(s)
	return err
}

// add opens a stream and counts the elements of d.
func (o *canto) add(d xmlstreamtest.Document) error {
	f := &document{b: []byte(d.XML)}
	o.docs = append(o.docs, f)
	if err := open(o.p, &f.stream); err != nil {
		return err
	}
	o.p.Feed(&f.stream, f.b)
	for {
		e, err := o.p.Stanza(&f.stream)
		if err == xmlstream.ErrNeedMore {
			return nil
		}
		if err != nil {
			return err
		}
		f.inside += elements(e)
	}
}

func elements(e xmlstream.Element) int {
	n := 1
	for c, ok := e.First(); ok; c, ok = c.Next() {
		n += elements(c)
	}
	return n
}

func (o *canto) run(i, warm, n int) (time.Duration, error) {
	if err := o.feed(o.docs[i], warm); err != nil {
		return 0, err
	}
	from := time.Now()
	err := o.feed(o.docs[i], n)
	return time.Since(from), err
}

// feed parses f n times.
func (o *canto) feed(f *document, n int) error {
	f.runs += n
	step := o.step
	if step == 0 {
		step = len(f.b)
	}
	for range n {
		for b := f.b; len(b) > 0; {
			k := min(step, len(b))
			o.p.Feed(&f.stream, b[:k])
			b = b[k:]
			for {
				_, err := o.p.Stanza(&f.stream)
				if err == xmlstream.ErrNeedMore {
					break
				}
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (o *canto) elements(i int) int { return o.docs[i].runs * o.docs[i].inside }

// allocs returns how often c allocates for document i, on average of n times.
func allocs(c parser, i, n int) (float64, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := c.run(i, 0, n)
	runtime.ReadMemStats(&after)
	return float64((after.Mallocs - before.Mallocs) / uint64(n)), err
}

// A std measures encoding/xml. It uses Token, as RawToken does not handle namespaces.
type std struct{ docs []*stdDoc }

// A stdDoc is a document with its decoder.
type stdDoc struct {
	d      *xml.Decoder
	in     endless
	left   int // how often it is still to be fed
	depth  int
	starts int
}

func (*std) name() string { return "encoding/xml" }

// add opens a stream with a decoder.
func (s *std) add(d xmlstreamtest.Document) error {
	x := &stdDoc{in: endless{now: []byte(xmlstreamtest.Header), next: []byte(d.XML)}}
	x.d = xml.NewDecoder(&x.in)
	s.docs = append(s.docs, x)
	for {
		t, err := x.d.Token()
		if err != nil {
			return err
		}
		if _, ok := t.(xml.StartElement); ok {
			return nil
		}
	}
}

func (s *std) run(i, warm, n int) (time.Duration, error) {
	x := s.docs[i]
	if err := x.feed(warm); err != nil {
		return 0, err
	}
	from := time.Now()
	err := x.feed(n)
	took := time.Since(from)
	runtime.GC() // off the clock, in its favour: its garbage is not for the next parser to collect
	return took, err
}

// feed decodes the document n times.
func (x *stdDoc) feed(n int) error {
	for x.in.left = n; x.in.left > 0 || x.depth > 0 || len(x.in.now) > 0; {
		t, err := x.d.Token()
		if err != nil {
			return err
		}
		switch t.(type) {
		case xml.StartElement:
			x.starts++
			x.depth++
		case xml.EndElement:
			x.depth--
		}
	}
	return nil
}

func (s *std) elements(i int) int { return s.docs[i].starts }

// An endless reader reads now, and then next left times. It reads single bytes too, so that
// encoding/xml does not wrap it.
type endless struct {
	now, next []byte
	left      int
}

func (r *endless) refill() bool {
	if len(r.now) == 0 {
		if r.left == 0 {
			return false
		}
		r.left--
		r.now = r.next
	}
	return true
}

// ReadByte reads a byte, io.EOF at the end.
func (r *endless) ReadByte() (byte, error) {
	if !r.refill() {
		return 0, io.EOF
	}
	c := r.now[0]
	r.now = r.now[1:]
	return c, nil
}

// Read reads up to the end of the document.
func (r *endless) Read(b []byte) (int, error) {
	if !r.refill() {
		return 0, io.EOF
	}
	n := copy(b, r.now)
	r.now = r.now[n:]
	return n, nil
}
