package xmlstream

import (
	"bytes"
	"io"
	"sync"
)

// Buffers lend the memory of unfinished stanzas. Any goroutine. The default is a sync.Pool; the
// server gives its own, which counts and bounds.
type Buffers interface {
	Get(n int) []byte // length 0, capacity at least n
	Put(b []byte)
}

type poolBuffers struct{ p sync.Pool }

func (p *poolBuffers) Get(n int) []byte {
	if b, _ := p.p.Get().(*[]byte); b != nil && cap(*b) >= n {
		return (*b)[:0]
	}
	return make([]byte, 0, n)
}

func (p *poolBuffers) Put(b []byte) {
	if cap(b) <= 64<<10 {
		p.p.Put(&b)
	}
}

var defaultBuffers = new(poolBuffers)

// A Parser is one loop's working memory: nodes, attributes, scratch. Not safe for two goroutines.
// What it returned is good until its next Feed.
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
	bufs  Buffers
	tree  *tree
	cur   []byte // what is being read: the fed bytes, or the stream's tail with them behind it
	pos   int
	start int    // where in cur the bytes begin that the stream has not counted
	tail  []byte // cur, if it is ours to give back
	spent []byte // a tail that views may still look at until the next Feed

	parts []*partial // to be used again
	aux   []*tree    // of Element, a stack
	depth int
	roots []*Root // headers seen before: shared
}

// NewParser makes a Parser that takes tails from b; nil: from a pool of its own.
func NewParser(b Buffers) *Parser {
	if b == nil {
		b = defaultBuffers
	}
	return &Parser{bufs: b, tree: new(tree)}
}

// A partial is what an unfinished token or stanza keeps.
type partial struct {
	tail  []byte
	tree  *tree // of the unfinished stanza
	pos   int   // scanned so far
	tagAt int   // where the search for the end of the tag at pos goes on; 0: no tag
	quote byte  // that is open there
}

// Feed hands p the bytes of one read of s. p may look at b until the next Feed.
func (p *Parser) Feed(s *Stream, b []byte) {
	p.drop()
	part := s.part
	if part == nil {
		p.cur = b
		return
	}
	if len(part.tail)+len(b) > cap(part.tail) {
		grown := append(p.bufs.Get(2*len(part.tail)+len(b)), part.tail...)
		p.give(part.tail)
		part.tail = grown
	}
	part.tail = append(part.tail, b...)
	p.cur, p.tail, p.pos = part.tail, part.tail, part.pos
}

// drop ends the life of what was returned.
func (p *Parser) drop() {
	p.tree.gen++
	if p.tail != nil {
		p.give(p.tail)
	}
	if p.spent != nil {
		p.give(p.spent)
	}
	p.tail, p.spent = nil, nil
	p.cur, p.pos, p.start = nil, 0, 0
}

func (p *Parser) give(b []byte) {
	poison(b)
	p.bufs.Put(b[:0])
}

// fail makes a SyntaxError of f at p.cur[at:]; s takes nothing more.
func (p *Parser) fail(s *Stream, at int, f *fault) error {
	err := &SyntaxError{Offset: s.Offset() + int64(at-p.start), Condition: f.condition, Msg: f.msg, TooBig: f.tooBig}
	s.kill()
	p.release(s)
	p.cur, p.pos, p.start = nil, 0, 0
	return err
}

// release gives the partial of s back to p. Its tail is p.tail by then.
func (p *Parser) release(s *Stream) {
	part := s.part
	if part == nil {
		return
	}
	s.part = nil
	if part.tree != nil {
		part.tree.shrink()
	}
	*part = partial{tree: part.tree}
	if len(p.parts) < 64 {
		p.parts = append(p.parts, part)
	}
}

// keep saves what is unfinished: p.cur from p.start on, scanned up to pos.
func (p *Parser) keep(s *Stream, pos, tagAt int, quote byte, lim int) error {
	start := p.start
	rest := p.cur[start:]
	if len(rest) > lim {
		return p.fail(s, start+lim, errBig)
	}
	part := s.part
	if part == nil {
		if n := len(p.parts); n > 0 {
			part, p.parts = p.parts[n-1], p.parts[:n-1]
		} else {
			part = &partial{tree: new(tree)}
		}
		s.part = part
	}
	if p.tail == nil || start > 0 {
		part.tail = append(p.bufs.Get(max(256, len(rest))), rest...)
		p.spent = p.tail
	} else {
		part.tail = p.tail
	}
	p.tail = nil
	part.pos, part.quote, part.tagAt = pos-start, quote, 0
	if tagAt > 0 {
		part.tagAt = tagAt - start
	}
	p.cur, p.pos, p.start = nil, 0, 0
	return ErrNeedMore
}

// Next returns the next thing outside of stanzas: the stream header, its end tag, or white space (a
// keepalive). In front of the header there may be a byte order mark, one XML declaration and white
// space. After the header, a stanza is not for Next.
func (p *Parser) Next(s *Stream) (Token, error) {
	if s.isDead() {
		return Token{}, p.dead(s)
	}
	if s.root == nil {
		return p.header(s)
	}
	if s.part == nil {
		p.start = p.pos
		if n := p.blanks(); n > 0 {
			p.consumed(s, n)
			return Token{Blank: true}, nil
		}
	}
	_, err := p.Stanza(s)
	if err == io.EOF {
		return Token{End: true}, nil
	}
	if err == nil {
		err = &SyntaxError{Offset: s.Offset(), Condition: NotWellFormed, Msg: "a stanza where none is looked for"}
	}
	return Token{}, err
}

func (p *Parser) blanks() int {
	i := p.pos
	for i < len(p.cur) && class[p.cur[i]]&cSpace != 0 {
		i++
	}
	return i - p.pos
}

// consumed counts n bytes as done with.
func (p *Parser) consumed(s *Stream, n int) {
	p.pos += n
	s.off += uint64(n)
	p.start = p.pos
}

func (p *Parser) dead(s *Stream) error {
	return &SyntaxError{Offset: s.Offset(), Condition: NotWellFormed, Msg: "the stream has ended"}
}

// Stanza returns the next complete child of the stream's root, and io.EOF for the root's end tag.
// White space between stanzas is passed over. The Element is good until the next call of Stanza,
// Next or Feed.
func (p *Parser) Stanza(s *Stream) (Element, error) {
	if s.isDead() {
		return Element{}, p.dead(s)
	}
	if s.root == nil {
		return Element{}, &SyntaxError{Offset: s.Offset(), Condition: NotWellFormed, Msg: "a stanza in front of the stream header"}
	}
	pos, tagAt, quote := p.pos, 0, byte(0)
	if part := s.part; part == nil {
		p.start = p.pos
		p.consumed(s, p.blanks())
		if p.pos == len(p.cur) {
			p.cur, p.pos, p.start = nil, 0, 0
			return Element{}, ErrNeedMore
		}
		if p.cur[p.pos] != '<' {
			return Element{}, p.fail(s, p.pos, outsideFault(p.cur[p.pos:]))
		}
		pos = p.pos
		p.tree.reset()
	} else {
		if p.cur == nil { // not fed since
			return Element{}, ErrNeedMore
		}
		p.tree, part.tree = part.tree, p.tree // the unfinished one
		tagAt, quote = part.tagAt, part.quote
	}
	lim := s.limit().limits()
	at := atoms.Load()
	t, start := p.tree, p.start
	t.root, t.buf = s.root, p.cur
	for {
		if pos-start > lim.StanzaBytes {
			return Element{}, p.fail(s, start+lim.StanzaBytes, errBig)
		}
		if tagAt == 0 && len(t.stack) > 0 && (pos >= len(p.cur) || p.cur[pos] != '<') {
			end, refs, f := text(p.cur, pos)
			work(end - pos)
			if end > pos {
				t.characters(refs)
			}
			if f == errMore {
				return Element{}, p.pause(s, end, 0, 0, lim)
			}
			if f != nil {
				return Element{}, p.fail(s, end, f)
			}
			pos = end
		}
		if pos+1 >= len(p.cur) {
			return Element{}, p.pause(s, pos, 0, 0, lim)
		}
		switch p.cur[pos+1] {
		case '!':
			from := 0
			if tagAt > pos {
				from = tagAt - pos
			}
			end, done, f := cdata(p.cur[pos:], len(t.stack) > 0, from)
			if f == errMore {
				return Element{}, p.pause(s, pos, 0, 0, lim)
			}
			if f != nil {
				return Element{}, p.fail(s, pos, f)
			}
			if !done {
				return Element{}, p.pause(s, pos, pos+end, 0, lim)
			}
			t.characters(true)
			pos, tagAt = pos+end, 0
			continue
		case '?':
			return Element{}, p.fail(s, pos, errPI)
		}
		if tagAt == 0 {
			tagAt = pos + 1
		}
		end, q, ok := tagEnd(p.cur, tagAt, quote)
		work(end - tagAt)
		if !ok {
			return Element{}, p.pause(s, pos, end, q, lim)
		}
		tagAt, quote = 0, 0
		work(end - pos)
		if p.cur[pos+1] == '/' {
			if len(t.stack) == 0 {
				if f := endTag(p.cur[pos:end], []byte(s.root.name)); f != nil {
					return Element{}, p.fail(s, pos, f)
				}
				p.finish(s, end)
				s.kill()
				return Element{}, io.EOF
			}
			if f := t.close(pos, end); f != nil {
				return Element{}, p.fail(s, pos, f)
			}
		} else if _, bad, f := t.open(pos, end, lim, at); f != nil {
			return Element{}, p.fail(s, bad, f)
		}
		pos = end
		if len(t.stack) == 0 {
			if pos-start > lim.StanzaBytes {
				return Element{}, p.fail(s, start+lim.StanzaBytes, errBig)
			}
			p.finish(s, pos)
			return Element{t: t, gen: t.gen}, nil
		}
	}
}

// outsideFault says what is wrong with bytes between stanzas that do not begin a tag.
func outsideFault(b []byte) *fault {
	if b[0] >= 0x80 {
		if _, f := char(b); f == errUTF8 {
			return f
		}
	}
	return errText
}

// pause keeps the unfinished stanza with its tree.
func (p *Parser) pause(s *Stream, pos, tagAt int, quote byte, lim *Limits) error {
	t, start := p.tree, p.start
	err := p.keep(s, pos, tagAt, quote, lim.StanzaBytes)
	if s.part == nil {
		return err
	}
	p.tree, s.part.tree = s.part.tree, t
	t.buf = nil
	if start > 0 {
		t.shift(uint32(start))
	}
	return err
}

// shift moves all offsets back by n: the stanza now begins at 0.
func (t *tree) shift(n uint32) {
	for i := range t.nodes {
		d := &t.nodes[i]
		d.start -= n
		d.name -= n
		d.inner -= n
		d.innerEnd -= min(n, d.innerEnd)
		d.end -= min(n, d.end)
	}
	for i := range t.attrs {
		t.attrs[i].name -= n
		t.attrs[i].value -= n
	}
	for i := range t.binds {
		b := &t.binds[i]
		if b.prefixLen > 0 {
			b.prefix -= n
		}
		b.uri -= n
		b.declared -= n
	}
}

// finish counts a stanza, or the end tag, as done with.
func (p *Parser) finish(s *Stream, end int) {
	s.off += uint64(end - p.start)
	p.pos, p.start = end, end
	p.release(s)
}

// cdata takes what begins with "<!" at b: CDATA inside an element, and nothing else. from is how far
// it was scanned before. Not done: end is how far it has been scanned now.
func cdata(b []byte, inside bool, from int) (end int, done bool, f *fault) {
	const open = "<![CDATA["
	n := min(len(b), len(open))
	if string(b[:n]) != open[:n] || !inside {
		switch {
		case len(b) < 3:
			return 0, false, errMore
		case b[2] == '-':
			return 0, false, errComment
		case b[2] == '[':
			return 0, false, errTag
		}
		return 0, false, errDTD
	}
	if n < len(open) {
		return 0, false, errMore
	}
	i := max(from, len(open))
	defer func(at int) { work(i - at) }(i)
	for i < len(b) {
		switch c := b[i]; {
		case c == ']':
			if len(b)-i < 3 {
				if len(b)-i == 1 || b[i+1] == ']' {
					return i, false, nil
				}
			} else if b[i+1] == ']' && b[i+2] == '>' {
				return i + 3, true, nil
			}
			i++
		case c >= 0x20 && c < 0x80 || c == '\t' || c == '\n' || c == '\r':
			i++
		case c < 0x20:
			return 0, false, errChar
		default:
			n, f := char(b[i:])
			if f == errMore {
				return i, false, nil
			}
			if f != nil {
				return 0, false, f
			}
			i += n
		}
	}
	return i, false, nil
}

// Rest gives up what is left of the last Feed and returns its length: those bytes stay with the
// connection. Good only after Stanza or Next returned something other than ErrNeedMore.
func (p *Parser) Rest(s *Stream) int {
	n := len(p.cur) - p.pos
	p.cur = p.cur[:p.pos]
	return n
}

// Element parses b, one complete element of the namespace jabber:client unless it says otherwise,
// beside whatever else p is parsing. b must stay as it is until Release. Elements are released in
// reverse order.
func (p *Parser) Element(b []byte) (Element, error) {
	if p.depth == len(p.aux) {
		p.aux = append(p.aux, new(tree))
	}
	t := p.aux[p.depth]
	if err := t.whole(b); err != nil {
		return Element{}, err
	}
	p.depth++
	return Element{t: t, gen: t.gen}, nil
}

// Release ends the life of an Element that Element returned.
func (p *Parser) Release(e Element) {
	p.depth--
	t := p.aux[p.depth]
	if t != e.t {
		panic("xmlstream: elements released out of order")
	}
	t.gen++
	t.buf = nil
	t.shrink()
}

// Parse parses b, one complete element of the namespace jabber:client unless it says otherwise, into
// memory of its own. Cold path.
func Parse(b []byte) (Element, error) {
	t := new(tree)
	if err := t.whole(bytes.Clone(b)); err != nil {
		return Element{}, err
	}
	return Element{t: t, gen: t.gen}, nil
}

var wholeLimits = Limits{StanzaBytes: 1 << 30, Depth: maxDepth, NameBytes: 1 << 15, Prefixes: 4096, Attrs: 8192, StanzaAttrs: 1 << 20, Nodes: 1 << 20}

// whole parses b as one element.
func (t *tree) whole(b []byte) error {
	t.reset()
	t.buf, t.root = b, clientRoot
	at := atoms.Load()
	bad := func(at int, f *fault) error {
		if f == errMore {
			f = errTag
		}
		return &SyntaxError{Offset: int64(at), Condition: f.condition, Msg: f.msg}
	}
	for pos := 0; ; {
		if len(t.stack) > 0 && (pos >= len(b) || b[pos] != '<') {
			end, refs, f := text(b, pos)
			if f != nil {
				return bad(end, f)
			}
			t.characters(refs)
			pos = end
		}
		if pos+1 >= len(b) || b[pos] != '<' {
			return bad(pos, errTag)
		}
		if b[pos+1] == '!' {
			end, done, f := cdata(b[pos:], len(t.stack) > 0, 0)
			if f == nil && !done {
				f = errMore
			}
			if f != nil {
				return bad(pos, f)
			}
			t.characters(true)
			pos += end
			continue
		}
		end, _, ok := tagEnd(b, pos+1, 0)
		if !ok {
			return bad(pos, errTag)
		}
		if b[pos+1] == '/' {
			if len(t.stack) == 0 {
				return bad(pos, errEndTag)
			}
			if f := t.close(pos, end); f != nil {
				return bad(pos, f)
			}
		} else if _, at, f := t.open(pos, end, &wholeLimits, at); f != nil {
			return bad(at, f)
		}
		if pos = end; len(t.stack) == 0 {
			if pos != len(b) {
				return bad(pos, errText)
			}
			return nil
		}
	}
}
