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
	tree     *tree // for what is complete in one read
	bufs     Buffers
	fed      *Stream
	fedBytes []byte // the fed bytes, behind those that s kept
	pos      int    // how much of in was consumed
	lentBuf  []byte // memory of in, if it was lent by bufs
	returned *tree  // had been a Stream's, and its element was returned
	dup      dupTable

	freeTrees []*tree // for Streams
	ring      []*tree // of Element
	ringUsed  int     // how many of ring are in use
	fedCopy   []byte  // invariants: the fed bytes, so that they can be overwritten
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
	if p.tree.tooBig() {
		p.tree.expire()
		p.tree = &tree{p: p, dup: &p.dup}
	}
	p.fed, p.pos = s, 0
	t := s.unfinished
	if t == nil {
		p.fedBytes = b
		if invariants {
			p.fedCopy = append(p.fedCopy[:0], b...)
			p.fedBytes = p.fedCopy
		}
		return
	}
	p.fedBytes = nil
	if t.err != nil {
		return
	}
	if need := len(t.tail) + len(b); need > cap(t.tail) {
		old := t.tail
		t.tail = append(p.bufs.Get(max(need, 2*cap(old))), old...)
		p.putBytes(old)
	}
	t.tail = append(t.tail, b...)
	p.fedBytes = t.tail
}

// Next returns what comes next: the stream header, a blank, a complete element, or the end of the stream.
// It is for reading the header; afterwards [Parser.Stanza] is. Its errors are those of Stanza.
func (p *Parser) Next(s *Stream) (Token, error) {
	p.expire()
	t := s.unfinished
	if t != nil && t.err != nil {
		p.fedBytes, p.pos = nil, 0
		return Token{}, t.err
	}
	if p.fed != s || p.pos >= len(p.fedBytes) {
		return Token{}, ErrNeedMore
	}
	lim := s.limits()
	in := p.fedBytes[p.pos:]
	if t == nil {
		t = p.tree
		if s.root != nil {
			n := 0
			for n < len(in) && charClass[in[n]]&cSpace != 0 {
				n++
			}
			if n > 0 {
				p.consume(s, n)
				return Token{Whitespace: true}, nil
			}
			if in[0] != '<' {
				return Token{}, p.endStream(s, topLevelError(in))
			}
			t.reset(s.root)
		} else {
			t.reset(rootNone)
			t.header, t.state = true, inProlog
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
	st, closing := statusDone, false
	if t.header && (t.state == inProlog || t.state == inDecl) {
		st = t.prolog(final)
	}
	if st == statusDone {
		if closing = !t.header && t.depth == 0 && len(in) > 1 && in[1] == '/'; closing {
			st = t.closeRoot(final)
		} else {
			st = t.scan(lim, final)
		}
	}
	switch {
	case st == statusMore && final:
		return Token{}, p.endStream(s, &SyntaxError{Offset: int64(size), Condition: PolicyViolation,
			Msg: "stanza or stream header too long", TooBig: true})
	case st == statusMore:
		p.saveUnfinished(s, t)
		return Token{}, ErrNeedMore
	case st != statusDone:
		return Token{}, p.endStream(s, t.err)
	}
	if s.unfinished == t {
		s.unfinished = nil
		p.returned, p.lentBuf = t, t.tail
		t.tail = nil
	}
	p.consume(s, t.pos)
	if closing {
		p.endStream(s, io.EOF)
		return Token{End: true}, nil
	}
	tok := Token{Element: Element{t, 0, t.gen}}
	if t.header {
		s.root = newRoot(tok.Element)
		if t.state&selfClose != 0 {
			p.endStream(s, io.EOF)
		}
	}
	return tok, nil
}

// Stanza returns the next complete child of the root element, and skips blanks. Its error is
// [ErrNeedMore] if there is none, io.EOF for the end tag of the root, after which everything is dropped
// unread, or a *[SyntaxError]; the last two are returned again until [Stream.Reset].
func (p *Parser) Stanza(s *Stream) (Element, error) {
	if s.root == nil && (s.unfinished == nil || s.unfinished.err == nil) {
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
		if !tok.Whitespace {
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
	n := len(p.fedBytes) - p.pos
	p.fedBytes, p.pos, p.fed = nil, 0, nil
	return n
}

func (p *Parser) consume(s *Stream, n int) {
	p.pos += n
	s.advance(n)
}

// endStream makes err the end of s. What s has not consumed is dropped.
func (p *Parser) endStream(s *Stream, err error) error {
	if e, ok := err.(*SyntaxError); ok {
		e.Offset += s.Offset()
	}
	t := s.unfinished
	if t != nil {
		p.putTail(t)
	} else {
		t = p.getTree()
		s.unfinished = t
	}
	t.nodes, t.attrs, t.nsDecls, t.arena, t.buf = nil, nil, nil, nil, nil
	t.err = err
	p.fedBytes, p.pos = nil, 0
	return err
}

// saveUnfinished keeps the unfinished bytes with s.
func (p *Parser) saveUnfinished(s *Stream, t *tree) {
	if s.unfinished != t {
		rest := p.fedBytes[p.pos:]
		k := p.getTree()
		k.reset(t.root)
		k.nodes, k.attrs = append(k.nodes, t.nodes...), append(k.attrs, t.attrs...)
		k.nsDecls, k.arena = append(k.nsDecls, t.nsDecls...), append(k.arena, t.arena...)
		k.pos, k.searched, k.openNode, k.depth, k.state, k.quote, k.flags = t.pos, t.searched, t.openNode,
			t.depth, t.state, t.quote,
			t.flags
		k.header, k.decl, k.bytesScanned = t.header, t.decl, t.bytesScanned
		t.bytesScanned = 0
		k.tail = append(p.bufs.Get(max(512, len(rest)+len(rest)/2)), rest...)
		s.unfinished, t = k, k
	}
	t.buf = nil
	p.fedBytes, p.pos = nil, 0
	p.release()
}

// expire ends the life of what the last call returned.
func (p *Parser) expire() {
	if invariants {
		poison(p.fedBytes[:p.pos])
		if p.fed == nil { // what Rest left standing
			poison(p.fedCopy)
			poison(p.lentBuf)
		}
		p.tree.expire()
	}
	if t := p.returned; t != nil {
		p.returned = nil
		p.putTree(t)
	}
}

// release gives back the memory behind in.
func (p *Parser) release() {
	if p.lentBuf != nil {
		p.putBytes(p.lentBuf)
		p.lentBuf = nil
	}
	if invariants {
		poison(p.fedCopy)
		p.fedCopy = p.fedCopy[:0]
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
	if n := len(p.freeTrees); n > 0 {
		t := p.freeTrees[n-1]
		p.freeTrees = p.freeTrees[:n-1]
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
	if len(p.freeTrees) < 256 && t.size() <= maxKept {
		p.freeTrees = append(p.freeTrees, t)
	}
}

// topLevelError is the error of bytes between stanzas that are neither blank nor a tag.
func topLevelError(in []byte) error {
	// known by its first byte alone, for any cut of the input
	if c := in[0]; c >= 0x80 && (c < 0xC2 || c > 0xF4) {
		return &SyntaxError{Condition: UnsupportedEncoding, Msg: "bytes that are not UTF-8"}
	}
	return &SyntaxError{Condition: BadFormat, Msg: "text between stanzas"}
}

// processBuffers is the Buffers of a Parser that got none.
var processBuffers bufferPool

type bufferPool struct{ bytes, headers sync.Pool }

func (l *bufferPool) Get(n int) []byte {
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

func (l *bufferPool) Put(b []byte) {
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
