package xmlstream

import "bytes"

// A Stream is what one stream keeps between reads: 24 bytes, and no buffer while idle. The zero
// Stream is one without a header yet.
type Stream struct {
	part *partial // unfinished input: pooled tail, nodes so far, restart point
	root *Root    // what the header declared; shared by streams with the same header
	off  uint64   // bytes consumed (55 bits), whether the stream has ended, the Limits in force (8 bits)
}

const (
	deadBit   = 1 << 55
	limitBits = 56
	offMask   = deadBit - 1
)

// Reset makes s ready for a new header, as after STARTTLS or SASL, and gives back what it holds.
func (s *Stream) Reset(l LimitID) {
	// A tail goes to the collector, not to a pool: no Parser is at hand, and this is rare.
	*s = Stream{off: uint64(l) << limitBits}
}

// Offset is the number of bytes consumed since the last Reset.
func (s *Stream) Offset() int64 { return int64(s.off & offMask) }

// Root is what the header declared; nil before there was one.
func (s *Stream) Root() *Root { return s.root }

// SetLimits puts other Limits in force, from the next stanza on.
func (s *Stream) SetLimits(l LimitID) { s.off = s.off&(1<<limitBits-1) | uint64(l)<<limitBits }

// Held is how many bytes of an unfinished stanza s keeps.
func (s *Stream) Held() int {
	if s.part == nil {
		return 0
	}
	return cap(s.part.tail)
}

func (s *Stream) limit() LimitID { return LimitID(s.off >> limitBits) }
func (s *Stream) isDead() bool   { return s.off&deadBit != 0 }
func (s *Stream) kill()          { s.off |= deadBit }

// A Root is what a stream header put in force for all stanzas. Never changed.
type Root struct {
	Default Atom   // "jabber:client", "jabber:server"
	Lang    string // xml:lang, if it is one: at most 35 bytes (RFC 5646 §4.4.1)

	uri      string
	uriBytes []byte
	binds    []rootBind
	name     string // as written, for the end tag
}

type rootBind struct {
	prefix string
	uri    []byte
	atom   Atom
}

var clientRoot = &Root{Default: atomClient, uri: "jabber:client", uriBytes: []byte("jabber:client"), name: "stream:stream"}

func (r *Root) equal(o *Root) bool {
	if r.Default != o.Default || r.Lang != o.Lang || r.uri != o.uri || r.name != o.name || len(r.binds) != len(o.binds) {
		return false
	}
	for i := range r.binds {
		if r.binds[i].prefix != o.binds[i].prefix || !bytes.Equal(r.binds[i].uri, o.binds[i].uri) {
			return false
		}
	}
	return true
}

// sharedRoots is how many different headers a Parser remembers.
const sharedRoots = 64

// share is r, or one just like it that was seen before.
func (p *Parser) share(r *Root) *Root {
	for _, o := range p.roots {
		if o.equal(r) {
			return o
		}
	}
	if len(p.roots) < sharedRoots {
		p.roots = append(p.roots, r)
	}
	return r
}

// header reads what stands in front of the first stanza.
func (p *Parser) header(s *Stream) (Token, error) {
	if p.cur == nil {
		return Token{}, ErrNeedMore
	}
	if s.part == nil {
		p.start = p.pos
	}
	b := p.cur[p.start:]
	if len(b) == 0 {
		return Token{}, ErrNeedMore
	}
	if s.Offset() == 0 {
		if n, f := mark(b); f == errMore {
			return Token{}, p.keep(s, p.start, 0, 0, headerBytes)
		} else if f != nil {
			return Token{}, p.fail(s, p.start, f)
		} else if n > 0 {
			p.skip(s, n)
			b = b[n:]
		}
		n, f := declaration(b)
		if f == errMore {
			return Token{}, p.keep(s, p.start, 0, 0, headerBytes)
		}
		if f != nil {
			return Token{}, p.fail(s, p.start, f)
		}
		p.skip(s, n)
		b = b[n:]
	}
	n := 0
	for n < len(b) && class[b[n]]&cSpace != 0 {
		n++
	}
	p.skip(s, n)
	b = b[n:]
	if int(s.Offset()) > headerBytes {
		return Token{}, p.fail(s, p.start, errBig)
	}
	if len(b) == 0 {
		p.release(s)
		p.cur, p.pos, p.start = nil, 0, 0
		return Token{}, ErrNeedMore
	}
	if b[0] != '<' {
		return Token{}, p.fail(s, p.start, outsideFault(b))
	}
	if len(b) > 1 {
		switch b[1] {
		case '!':
			if len(b) > 2 && b[2] == '-' {
				return Token{}, p.fail(s, p.start, errComment)
			}
			if len(b) > 2 {
				return Token{}, p.fail(s, p.start, errDTD)
			}
		case '?':
			return Token{}, p.fail(s, p.start, errPI)
		case '/':
			return Token{}, p.fail(s, p.start, errEndTag)
		}
	}
	tagAt, quote := p.start+1, byte(0)
	if part := s.part; part != nil && part.tagAt > 0 && n == 0 {
		tagAt, quote = max(part.tagAt, tagAt), part.quote
	}
	end, q, ok := tagEnd(p.cur, tagAt, quote)
	work(end - tagAt)
	if !ok {
		return Token{}, p.keep(s, p.start, end, q, headerBytes)
	}
	if end-p.start > headerBytes {
		return Token{}, p.fail(s, p.start+headerBytes, errBig)
	}
	t := p.tree
	t.reset()
	t.root, t.buf = nil, p.cur
	node, bad, f := t.open(p.start, end, s.limit().limits(), atoms.Load())
	if f != nil {
		return Token{}, p.fail(s, bad, f)
	}
	if node.flags&nodeEmpty != 0 {
		return Token{}, p.fail(s, p.start, errTag)
	}
	node.innerEnd, node.end = uint32(end), uint32(end)
	s.root = p.share(t.asRoot(node))
	p.finish(s, end)
	return Token{Element: Element{t: t, gen: t.gen}}, nil
}

// skip counts n bytes in front of the header as done with, also when they came in pieces.
func (p *Parser) skip(s *Stream, n int) {
	if n == 0 {
		return
	}
	s.off += uint64(n)
	p.start += n
	p.pos = p.start
	if s.part != nil {
		s.part.tagAt = 0
	}
}

// asRoot is what the header n puts in force.
func (t *tree) asRoot(n *node) *Root {
	r := &Root{name: string(t.buf[n.name : n.name+uint32(n.nameLen)])}
	for i := range t.binds {
		b := &t.binds[i]
		uri := bytes.Clone(t.uri(int32(i)))
		if b.prefixLen == 0 {
			r.Default, r.uri, r.uriBytes = b.atom, string(uri), uri
		} else {
			r.binds = append(r.binds, rootBind{string(t.buf[b.prefix : b.prefix+b.prefixLen]), uri, b.atom})
		}
	}
	e := Element{t: t, gen: t.gen}
	if l, ok := e.Attr(Name{atomXML, atomLang}); ok && langTag(l) {
		r.Lang = string(l)
	}
	return r
}

// langTag reports whether b looks like a language tag and is no longer than one need be.
func langTag(b []byte) bool {
	if len(b) == 0 || len(b) > 35 {
		return false
	}
	for _, c := range b {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// mark takes a byte order mark at the very start; one of another encoding is refused.
func mark(b []byte) (int, *fault) {
	switch b[0] {
	case 0xFE, 0xFF, 0:
		return 0, errBOM
	case '<':
		if len(b) > 1 && b[1] == 0 {
			return 0, errBOM
		}
	case 0xEF:
		n := min(3, len(b))
		if string(b[:n]) != "\xEF\xBB\xBF"[:n] {
			return 0, errBOM
		}
		if n < 3 {
			return 0, errMore
		}
		return 3, nil
	}
	return 0, nil
}

// maxDecl bounds the XML declaration.
const maxDecl = 256

// declaration takes an XML declaration, if there is one: version 1.0, no encoding or UTF-8 (XML 1.0
// §2.8). RFC 6120 §11.5 and §11.6 ask no more.
func declaration(b []byte) (int, *fault) {
	const open = "<?xml"
	n := min(len(b), len(open))
	if string(b[:n]) != open[:n] {
		if n > 1 && string(b[:2]) == "<?" {
			return 0, errPI
		}
		return 0, nil
	}
	if len(b) <= len(open) {
		return 0, errMore
	}
	if class[b[len(open)]]&cSpace == 0 {
		return 0, errPI // <?xml-stylesheet
	}
	end := bytes.Index(b[:min(len(b), maxDecl)], []byte("?>"))
	if end < 0 {
		if len(b) >= maxDecl {
			return 0, errDecl
		}
		return 0, errMore
	}
	return end + 2, declared(b[len(open):end])
}

// declared checks the pseudo attributes.
func declared(b []byte) *fault {
	for step := 0; ; {
		n := 0
		for n < len(b) && class[b[n]]&cSpace != 0 {
			n++
		}
		b = b[n:]
		if len(b) == 0 {
			if step == 0 {
				return errDecl
			}
			return nil
		}
		if n == 0 {
			return errDecl
		}
		eq := bytes.IndexByte(b, '=')
		if eq < 0 {
			return errDecl
		}
		key := bytes.TrimRight(b[:eq], " \t\r\n")
		b = bytes.TrimLeft(b[eq+1:], " \t\r\n")
		if len(b) == 0 || b[0] != '\'' && b[0] != '"' {
			return errDecl
		}
		q := bytes.IndexByte(b[1:], b[0])
		if q < 0 {
			return errDecl
		}
		v := b[1 : q+1]
		b = b[q+2:]
		switch {
		case string(key) == "version" && step == 0:
			if string(v) != "1.0" {
				return errDecl
			}
			step = 1
		case string(key) == "encoding" && step == 1:
			if !bytes.EqualFold(v, []byte("utf-8")) {
				return errEncoding
			}
			step = 2
		case string(key) == "standalone" && (step == 1 || step == 2):
			if string(v) != "yes" && string(v) != "no" {
				return errDecl
			}
			step = 3
		default:
			return errDecl
		}
	}
}
