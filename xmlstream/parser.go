package xmlstream

import (
	"io"
	"sync"
)

// Buffers lend the memory of unfinished stanzas. Any goroutine. The default is a sync.Pool; a server
// gives its own, which counts and bounds.
type Buffers interface {
	Get(n int) []byte // length 0, capacity at least n
	Put(b []byte)
}

// A Parser is one loop's working memory: nodes, attributes, scratch. Not safe for two goroutines. What
// Next or Stanza returned is good until the next call of Feed, Next or Stanza; bytes of it must be copied
// to be kept.
//
//	p.Feed(s, b)
//	for !paused {
//		el, err := p.Stanza(s)
//		if err == xmlstream.ErrNeedMore {
//			return len(b) // until the next read
//		}
//	}
//	return len(b) - p.Rest(s)
type Parser struct {
	tree  *tree // for what is complete in one read
	bufs  Buffers
	fed   *Stream
	in    []byte // the fed bytes, behind those that s kept
	pos   int    // how much of in was consumed
	hold  []byte // memory of in, if it was lent by bufs
	spent *tree  // had been a Stream's, and its element was returned
	dup   dupTable

	free []*tree // for Streams
	ring []*tree // of Element
	top  int     // how many of ring are in use
	copy []byte  // invariants: the fed bytes, so that they can be overwritten
}

// NewParser returns a Parser that takes the memory of unfinished stanzas from b; nil is a pool of the
// process.
func NewParser(b Buffers) *Parser {
	if b == nil {
		b = &processBuffers
	}
	p := &Parser{bufs: b}
	p.tree = &tree{p: p, dup: &p.dup}
	return p
}

// Feed hands p the bytes of one read of s. p may look at b until the call that returns an error,
// [Parser.Rest], or the next Feed, and never changes it.
func (p *Parser) Feed(s *Stream, b []byte) {
	p.expire()
	p.release()
	if p.tree.big() {
		p.tree.expire()
		p.tree = &tree{p: p, dup: &p.dup}
	}
	p.fed, p.pos = s, 0
	t := s.part
	if t == nil {
		p.in = b
		if invariants {
			p.copy = append(p.copy[:0], b...)
			p.in = p.copy
		}
		return
	}
	p.in = nil
	if t.err != nil {
		return
	}
	if need := len(t.tail) + len(b); need > cap(t.tail) {
		old := t.tail
		t.tail = append(p.bufs.Get(max(need, 2*cap(old))), old...)
		p.putBytes(old)
	}
	t.tail = append(t.tail, b...)
	p.in = t.tail
}

// Next returns what comes next: the stream header, a blank, a complete element, or the end of the stream.
// It is for reading the header; afterwards [Parser.Stanza] is. Its errors are those of Stanza.
func (p *Parser) Next(s *Stream) (Token, error) {
	p.expire()
	t := s.part
	if t != nil && t.err != nil {
		p.in, p.pos = nil, 0
		return Token{}, t.err
	}
	if p.fed != s || p.pos >= len(p.in) {
		return Token{}, ErrNeedMore
	}
	lim := s.limits()
	in := p.in[p.pos:]
	if t == nil {
		t = p.tree
		if s.root != nil {
			n := 0
			for n < len(in) && class[in[n]]&cBlank != 0 {
				n++
			}
			if n > 0 {
				p.take(s, n)
				return Token{Blank: true}, nil
			}
			if in[0] != '<' {
				return Token{}, p.end(s, topLevel(in))
			}
			t.reset(s.root)
		} else {
			t.reset(rootBare)
			t.header, t.mode = true, inProlog
		}
	}
	size := lim.StanzaBytes
	if t.header {
		size = min(size, headerBytes)
	}
	final := len(in) >= size
	if final {
		in = in[:size]
	}
	t.buf = in
	st, closing := done, false
	if t.header && (t.mode == inProlog || t.mode == inDecl) {
		st = t.prolog(final)
	}
	if st == done {
		if closing = !t.header && t.depth == 0 && len(in) > 1 && in[1] == '/'; closing {
			st = t.closeRoot(final)
		} else {
			st = t.scan(lim, final)
		}
	}
	switch {
	case st == more && final:
		return Token{}, p.end(s, &SyntaxError{Offset: int64(size), Condition: PolicyViolation,
			Msg: "stanza or stream header too long", TooBig: true})
	case st == more:
		p.save(s, t)
		return Token{}, ErrNeedMore
	case st != done:
		return Token{}, p.end(s, t.err)
	}
	if s.part == t {
		s.part = nil
		p.spent, p.hold = t, t.tail
		t.tail = nil
	}
	p.take(s, t.i)
	if closing {
		p.end(s, io.EOF)
		return Token{End: true}, nil
	}
	tok := Token{Element: Element{t, 0, t.gen}}
	if t.header {
		s.root = newRoot(tok.Element)
		if t.mode&selfClose != 0 {
			p.end(s, io.EOF)
		}
	}
	return tok, nil
}

// Stanza returns the next complete child of the root element, and skips blanks. Its error is
// [ErrNeedMore] if there is none, io.EOF for the end tag of the root, after which everything is dropped
// unread, or a *[SyntaxError]; the last two are returned again until [Stream.Reset].
func (p *Parser) Stanza(s *Stream) (Element, error) {
	if s.root == nil && (s.part == nil || s.part.err == nil) {
		return Element{}, errNoHeader
	}
	for {
		tok, err := p.Next(s)
		if err != nil {
			return Element{}, err
		}
		if tok.End {
			return Element{}, io.EOF
		}
		if !tok.Blank {
			return tok.Element, nil
		}
	}
}

// Rest gives up what is left of the last Feed and returns its length: those bytes stay with the
// connection, to be fed again. Good only after Next or Stanza returned a token, as otherwise s has taken
// all of them.
func (p *Parser) Rest(s *Stream) int {
	if p.fed != s {
		return 0
	}
	n := len(p.in) - p.pos
	p.in, p.pos, p.fed = nil, 0, nil
	return n
}

func (p *Parser) take(s *Stream, n int) {
	p.pos += n
	s.advance(n)
}

// end makes err the end of s. What s has not consumed is dropped.
func (p *Parser) end(s *Stream, err error) error {
	if e, ok := err.(*SyntaxError); ok {
		e.Offset += s.Offset()
	}
	t := s.part
	if t != nil {
		p.putTail(t)
	} else {
		t = p.getTree()
		s.part = t
	}
	t.nodes, t.attrs, t.binds, t.arena, t.buf = nil, nil, nil, nil, nil
	t.err = err
	p.in, p.pos = nil, 0
	return err
}

// save keeps the unfinished bytes with s.
func (p *Parser) save(s *Stream, t *tree) {
	if s.part != t {
		rest := p.in[p.pos:]
		k := p.getTree()
		k.reset(t.root)
		k.nodes, k.attrs = append(k.nodes, t.nodes...), append(k.attrs, t.attrs...)
		k.binds, k.arena = append(k.binds, t.binds...), append(k.arena, t.arena...)
		k.i, k.seen, k.cur, k.depth, k.mode, k.quote, k.flags = t.i, t.seen, t.cur, t.depth, t.mode, t.quote,
			t.flags
		k.header, k.decl, k.work = t.header, t.decl, t.work
		t.work = 0
		k.tail = append(p.bufs.Get(max(512, len(rest)+len(rest)/2)), rest...)
		s.part, t = k, k
	}
	t.buf = nil
	p.in, p.pos = nil, 0
	p.release()
}

// expire ends the life of what the last call returned.
func (p *Parser) expire() {
	if invariants {
		poison(p.in[:p.pos])
		if p.fed == nil { // what Rest left standing
			poison(p.copy)
			poison(p.hold)
		}
		p.tree.expire()
	}
	if t := p.spent; t != nil {
		p.spent = nil
		p.putTree(t)
	}
}

// release gives back the memory behind in.
func (p *Parser) release() {
	if p.hold != nil {
		p.putBytes(p.hold)
		p.hold = nil
	}
	if invariants {
		poison(p.copy)
		p.copy = p.copy[:0]
	}
}

func (p *Parser) putBytes(b []byte) {
	if invariants {
		poison(b)
	}
	p.bufs.Put(b)
}

func (p *Parser) putTail(t *tree) {
	if t.tail != nil {
		p.putBytes(t.tail)
		t.tail = nil
	}
	t.buf = nil
}

func (p *Parser) getTree() *tree {
	if n := len(p.free); n > 0 {
		t := p.free[n-1]
		p.free = p.free[:n-1]
		return t
	}
	return &tree{p: p, dup: &p.dup}
}

// maxKept is what a buffer, or the tree of an unfinished stanza, may take and still be kept for the next.
const maxKept = 64 << 10

// putTree takes back a Stream's tree, unless it grew large.
func (p *Parser) putTree(t *tree) {
	t.expire()
	t.err, t.buf, t.root = nil, nil, nil
	if len(p.free) < 256 && t.size() <= maxKept {
		p.free = append(p.free, t)
	}
}

// topLevel is the error of bytes between stanzas that are neither blank nor a tag.
func topLevel(in []byte) error {
	// known by its first byte alone, for any cut of the input
	if c := in[0]; c >= 0x80 && (c < 0xC2 || c > 0xF4) {
		return &SyntaxError{Condition: UnsupportedEncoding, Msg: "bytes that are not UTF-8"}
	}
	return &SyntaxError{Condition: BadFormat, Msg: "text between stanzas"}
}

// processBuffers is the Buffers of a Parser that got none.
var processBuffers pool

type pool struct{ bytes, headers sync.Pool }

func (l *pool) Get(n int) []byte {
	if v, _ := l.bytes.Get().(*[]byte); v != nil {
		b := *v
		*v = nil
		l.headers.Put(v)
		if cap(b) >= n {
			return b[:0]
		}
	}
	return make([]byte, 0, n)
}

func (l *pool) Put(b []byte) {
	if cap(b) == 0 || cap(b) > maxKept {
		return
	}
	v, _ := l.headers.Get().(*[]byte)
	if v == nil {
		v = new([]byte)
	}
	*v = b
	l.bytes.Put(v)
}

func poison(b []byte) {
	for i := range b {
		b[i] = 0xDB // no UTF-8, so that it is noticed wherever it goes
	}
}
