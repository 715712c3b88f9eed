package xmlstream

import (
	"io"
	"sync"
)

// Buffers lends memory for the bytes of unfinished stanzas. A [Parser] calls it on its own goroutine; if
// several parsers share it, it must be safe for concurrent use. A server gives one that counts and bounds the
// memory; a parser without one uses a sync.Pool of the process.
type Buffers interface {
	// Get returns a buffer of length 0 and a capacity of at least n. The parser owns it until Put.
	Get(n int) []byte
	// Put gives a buffer back. The parser does not use it any more.
	Put(b []byte)
}

// A Parser is the working memory of one event loop for all its streams: trees of nodes and attributes, and
// scratch memory. It is not safe for concurrent use: all calls, also those of a [Stream]'s Reset, are on one
// goroutine. One read of a stream is handled like this:
//
//	p.Feed(s, b)
//	for !paused {
//		el, err := p.Stanza(s)
//		if err == xmlstream.ErrNeedMore {
//			return len(b) // all is consumed; s keeps the unfinished stanza until the next read
//		}
//	}
//	return len(b) - p.Rest(s)
//
// What Next or Stanza returned is valid until the next call of Feed, Next or Stanza on this parser, for any
// stream. Copy what must be kept.
type Parser struct {
	tree     *tree    // the element that is parsed, or was returned, unless a Stream had it unfinished
	bufs     Buffers  // lends the bytes of unfinished stanzas
	fed      *Stream  // the stream of the last Feed; nil after Rest
	fedBytes []byte   // its bytes, with the unfinished ones of the stream before them
	pos      int      // how many of fedBytes were consumed
	lentBuf  []byte   // the buffer that fedBytes is in, if bufs lent it and no Stream has it any more
	returned *tree    // a Stream's tree whose element was returned: free at the next expire
	dup      dupTable // shared by all trees of the parser

	freeTrees []*tree // for Streams with an unfinished stanza; at most 256
	ring      []*tree // a stack of trees for Parser.Element, which are released in reverse order
	ringUsed  int     // how many of ring are in use
	fedCopy   []byte  // invariants: a copy of the fed bytes, which is overwritten when they expire
}

// NewParser returns a Parser that borrows the memory of unfinished stanzas from b. With nil it uses a pool
// that is shared by the process.
func NewParser(b Buffers) *Parser {
	if b == nil {
		b = &processBuffers
	}
	p := &Parser{bufs: b}
	p.tree = &tree{p: p, dup: &p.dup}
	return p
}

// Feed gives p the bytes of one read of s. It does not parse; Next and Stanza do. Anything left of an earlier
// Feed, of this or another stream, is dropped.
//
// p never changes b, and copies it only if s has an unfinished stanza. The caller must leave b as it is until
// Next or Stanza returned an error, or [Parser.Rest] was called and the element that was returned last is no
// longer used: that is a view of b.
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

// Next returns the next token of s: the stream header, white space, a complete element, or the end of the
// stream. It is for reading the header; [Parser.Stanza] is for what follows. Its errors are those of Stanza,
// but that it returns the end tag of the root as a Token before it returns io.EOF. The steps:
//
//  1. Expire the element that was returned last. Return the error of a stream that has ended.
//  2. Take the unfinished tree of s, or begin a new one: return white space between stanzas, and refuse text.
//  3. Cut the input at the limit for a stanza or header. If it was reached, no more bytes will be looked at.
//  4. Scan what comes before a header (prolog), the end tag of the root (closeRoot), or the element (scan).
//  5. If bytes are missing: keep what came in s. If it is wrong: end the stream.
//  6. If it is complete: consume its bytes, and pass the memory of its tail from s to p, which keeps it while
//     the element is valid. For a header: make the Root of s.
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

// Stanza returns the next complete child of the root element. It skips white space. The errors are
//
//   - [ErrNeedMore]: all fed bytes are consumed; call Feed with the next read;
//   - io.EOF: the end tag of the root was read. All bytes after it are dropped;
//   - a *[SyntaxError]: the input is wrong. The caller sends the stream error and closes the connection;
//   - an error of the caller: s has no stream header yet (call Next first).
//
// After io.EOF and after a *SyntaxError, s returns the same error until [Stream.Reset].
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

// Rest takes the bytes of the last Feed that were not consumed away from p, and returns how many there are.
// They are the last ones of b: the connection keeps them and feeds them again, as when it stops reading a
// client. Call it only after Next or Stanza returned a token: after an error, s has taken or dropped all
// bytes, and Rest returns 0. The element that was returned stays valid.
func (p *Parser) Rest(s *Stream) int {
	if p.fed != s {
		return 0
	}
	n := len(p.fedBytes) - p.pos
	p.fedBytes, p.pos, p.fed = nil, 0, nil
	return n
}

// consume moves p and s n bytes on.
func (p *Parser) consume(s *Stream, n int) {
	p.pos += n
	s.advance(n)
}

// endStream makes err the error that s returns from now on, and returns it. It adds the offset of s to
// the one in a *SyntaxError, which counts from the element. The bytes that s has not consumed are
// dropped; the tree of the unfinished stanza, or an empty one, holds the error.
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

// saveUnfinished keeps the unfinished element t, and its bytes, with s. The first time, when t is the tree of
// p, it copies the tree and the bytes so far. Later t is the tree of s, and Feed has appended the bytes.
// Capacity for half as many bytes again, and at least 512, keeps the next read from moving them.
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

// expire ends the life of the element that was returned last. Its tree goes back to freeTrees; its bytes go
// back with the next release, as fed bytes may follow them in the same buffer. With invariants it overwrites
// what has expired.
func (p *Parser) expire() {
	if invariants {
		poison(p.fedBytes[:p.pos])
		if p.fed == nil { // Rest left these, as the element was still valid
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

// release gives the memory of the fed bytes back, if bufs lent it. No more fed bytes are needed then.
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

// putBytes gives b back to bufs.
func (p *Parser) putBytes(b []byte) {
	if invariants {
		poison(b)
	}
	p.bufs.Put(b)
}

// putTail gives the bytes of an unfinished stanza back to bufs.
func (p *Parser) putTail(t *tree) {
	if t.tail != nil {
		p.putBytes(t.tail)
		t.tail = nil
	}
	t.buf = nil
}

// getTree returns an empty tree for a Stream.
func (p *Parser) getTree() *tree {
	if n := len(p.freeTrees); n > 0 {
		t := p.freeTrees[n-1]
		p.freeTrees = p.freeTrees[:n-1]
		return t
	}
	return &tree{p: p, dup: &p.dup}
}

// maxKept is how many bytes a buffer, or the tree of an unfinished stanza, may take to be kept for reuse.
// Larger ones are left to the garbage collector, so that one large stanza does not stay in memory.
const maxKept = 64 << 10

// putTree takes back the tree of a Stream, and keeps it unless it is large or there are 256 of them.
func (p *Parser) putTree(t *tree) {
	t.expire()
	t.err, t.buf, t.root = nil, nil, nil
	if len(p.freeTrees) < 256 && t.size() <= maxKept {
		p.freeTrees = append(p.freeTrees, t)
	}
}

// topLevelError returns the error for bytes between stanzas that are neither white space nor a tag. It judges
// by the first byte alone, so the result does not depend on how the input was cut.
func topLevelError(in []byte) error {
	if c := in[0]; c >= 0x80 && (c < 0xC2 || c > 0xF4) {
		return &SyntaxError{Condition: UnsupportedEncoding, Msg: "bytes that are not UTF-8"}
	}
	return &SyntaxError{Condition: BadFormat, Msg: "text between stanzas"}
}

// processBuffers is the Buffers of each Parser that was made without one. Any goroutine may use it.
var processBuffers bufferPool

// A bufferPool is a Buffers on two sync.Pools. bytes holds buffers, as a *[]byte, since a slice in an
// interface would be allocated; headers holds the *[]byte that have no buffer, so Put does not allocate
// one each time.
type bufferPool struct{ bytes, headers sync.Pool }

// Get returns a buffer of length 0 with room for n bytes. A buffer from the pool that is too small is
// dropped.
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

// Put keeps b for Get, unless it is over 64 KiB.
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

// poison overwrites b with a byte that is never in UTF-8, so a test notices it wherever it goes. It is called
// with invariants only.
func poison(b []byte) {
	for i := range b {
		b[i] = 0xDB
	}
}
