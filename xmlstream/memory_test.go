package xmlstream

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"canto/xmlstream/xmlstreamtest"

	"pgregory.net/rapid"
)

// counted is a Buffers that counts the buffers in use.
type counted struct {
	out, bytes, gets int
}

func (c *counted) Get(n int) []byte {
	b := make([]byte, 0, n)
	c.out++
	c.gets++
	c.bytes += cap(b)
	return b
}

func (c *counted) Put(b []byte) {
	c.out--
	c.bytes -= cap(b)
}

// An idle stream takes 24 bytes: it has no buffer and no tree, and its Root is shared.
func TestMemoryIdle(t *testing.T) {
	const n = 20000
	bufs := &counted{}
	p := NewParser(bufs)
	all := make([]Stream, n)
	header := []byte(xmlstreamtest.Header)
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	read := func(s *Stream, b []byte, want error) {
		p.Feed(s, b)
		for {
			if _, err := p.Next(s); err != nil {
				if err != want {
					t.Fatal(err)
				}
				return
			}
		}
	}
	read(&all[0], header, ErrNeedMore)
	before := heap()
	for i := range all[1:] {
		s := &all[1+i]
		read(s, header[:50], ErrNeedMore)
		read(s, header[50:], ErrNeedMore)
		read(s, []byte("<message><body>"), ErrNeedMore)
		read(s, []byte("x</body></message> <presence/>\n"), ErrNeedMore)
		if s.unfinished != nil || s.Pending() != 0 || s.root == nil {
			t.Fatal("an idle stream holds something")
		}
	}
	p.Feed(&Stream{}, nil)
	if bufs.out != 0 || bufs.gets < 2*(n-1) {
		t.Errorf("%d buffers out of %d", bufs.out, bufs.gets)
	}
	if grown := heap() - before; grown > n {
		t.Errorf("%d idle streams hold %d bytes beside their own", n, grown)
	}
	runtime.KeepAlive(all)
}

// An unfinished stanza takes one buffer, at most twice as large as what has come, and the nodes so far.
// When it is complete, nothing is left.
func TestMemoryPartial(t *testing.T) {
	for _, x := range append(xmlstreamtest.Stanzas(), xmlstreamtest.Unusual()...) {
		for _, step := range []int{1, 7, 64, 1400} {
			bufs := &counted{}
			p := NewParser(bufs)
			var s Stream
			open(t, p, &s, xmlstreamtest.Header)
			for i := 0; i < len(x.XML); i += step {
				p.Feed(&s, []byte(x.XML[i:min(i+step, len(x.XML))]))
				_, err := p.Stanza(&s)
				if err == nil {
					_, err = p.Stanza(&s)
				}
				if err != ErrNeedMore {
					t.Fatal(err)
				}
				if most := 512 + 2*s.Pending(); s.unfinished != nil && (bufs.out != 1 || bufs.bytes > most) ||
					s.unfinished == nil && bufs.bytes > max(512, 2*len(x.XML)) {
					t.Fatalf("%s in %d: %d buffers of %d bytes for %d", x.Name, step, bufs.out, bufs.bytes, s.Pending())
				}
			}
			p.Feed(&s, nil)
			if bufs.out != 0 || s.unfinished != nil {
				t.Errorf("%s in %d: %d buffers out at the end", x.Name, step, bufs.out)
			}
			if grown := bufs.gets; grown > 20 {
				t.Errorf("%s in %d: %d buffers taken", x.Name, step, grown)
			}
		}
	}
}

// Large memory is not kept: no buffers and no trees of unfinished stanzas over 64 KiB, and no trees of a
// Parser over 4,096 nodes.
func TestMemoryKept(t *testing.T) {
	large := map[string]string{
		"text":       strings.Repeat("x", 200<<10),
		"references": strings.Repeat("&lt;", 50<<10),
		"nodes":      strings.Repeat("<a/>", 15000),
		"attributes": strings.Repeat("<a b='' c='' d='' e='' f='' g='' h='' i=''/>", 1000),
		"namespaces": strings.Repeat("<a xmlns='u'/>", 7000),
		"coded":      strings.Repeat("<a xmlns='"+strings.Repeat("&#65;u", 150)+"'/>", 250),
	}
	for what, x := range large {
		x = "<message>" + x + "</message>"
		p := NewParser(nil)
		var s Stream
		open(t, p, &s, xmlstreamtest.Header)
		for _, step := range []int{len(x), 1000, 100000} {
			for i := 0; i < len(x); i += step {
				p.Feed(&s, []byte(x[i:min(i+step, len(x))]))
				if e, err := p.Stanza(&s); err == nil {
					e.Text()
					for c, ok := e.First(); ok; c, ok = c.Next() {
						c.Space()
					}
				} else if err != ErrNeedMore {
					t.Fatalf("%s: %v", what, err)
				}
			}
		}
		for range elementRing {
			if _, err := p.Element([]byte(x)); err != nil {
				t.Fatal(err)
			}
		}
		for i := elementRing; i > 0; i-- {
			p.Release(Element{p.ring[i-1], 0, p.ring[i-1].gen})
		}
		p.Feed(&s, []byte("<a/>"))
		if _, err := p.Stanza(&s); err != nil {
			t.Fatal(err)
		}
		for _, k := range p.freeTrees {
			if k.size() > 64<<10 || k.tail != nil || k.buf != nil {
				t.Errorf("%s: a tree of %d bytes is kept", what, k.size())
			}
		}
		for _, k := range append([]*tree{p.tree}, p.ring...) {
			if k.tooBig() || k.size() > 400<<10 {
				t.Errorf("%s: the parser keeps %d bytes", what, k.size())
			}
		}
	}
	var l bufferPool
	for range 100 {
		l.Put(make([]byte, 0, 64<<10+1))
		if b := l.Get(10); cap(b) > 64<<10 {
			t.Fatalf("a buffer of %d bytes was kept", cap(b))
		}
	}
}

// For each document, however it is cut, at most four bytes are looked at for each one that came. Three
// are the first parse of a tag, the search for its end, and the parse when the end is there.
func TestWorkAnySplit(t *testing.T) {
	docs := append(xmlstreamtest.Stanzas(), xmlstreamtest.Unusual()...)
	count := func(x string, cuts []int) int {
		p := NewParser(nil)
		var s Stream
		open(t, p, &s, xmlstreamtest.Header)
		p.tree.bytesScanned = 0
		from := 0
		for _, to := range append(cuts, len(x)) {
			p.Feed(&s, []byte(x[from:to]))
			from = to
			part := s.unfinished
			switch _, err := p.Stanza(&s); {
			case err == nil && part != nil:
				return part.bytesScanned + p.tree.bytesScanned
			case err == nil:
				return p.tree.bytesScanned
			case err != ErrNeedMore:
				t.Fatal(err)
			}
		}
		t.Fatalf("%.100q is unfinished", x)
		return 0
	}
	rapid.Check(t, func(t *rapid.T) {
		x := docs[rapid.IntRange(0, len(docs)-1).Draw(t, "document")].XML
		var cuts []int
		if step := rapid.SampledFrom([]int{0, 1, 2, 3, 7, 64, 1400}).Draw(t, "step"); step > 0 {
			for i := step; i < len(x); i += step {
				cuts = append(cuts, i)
			}
		} else {
			cuts = rapid.SliceOfN(rapid.IntRange(0, len(x)), 1, 60).Draw(t, "cuts")
			slices.Sort(cuts)
		}
		if n := count(x, cuts); n < len(x) || n > 4*len(x)+64 {
			t.Fatal(fmt.Sprintf("%d bytes looked at of %d, cut %d times: %.100q", n, len(x), len(cuts), x))
		}
	})
}
