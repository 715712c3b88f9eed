package xmlstream

// Parse parses one complete standalone element into memory of its own, as is wanted for what was stored,
// and for workers. Its default namespace is jabber:client unless it declares another, and the prefix
// stream is bound. b is copied. The error is a *[SyntaxError]. Any goroutine. Cold path.
func Parse(b []byte) (Element, error) {
	t := &tree{owned: true}
	return t.parseWhole(append([]byte(nil), b...))
}

// elementRing is how many elements of [Parser.Element] can be in use at once without allocating.
const elementRing = 8

// Element parses one complete element of b, such as a stanza that was mailed, in the context that [Parse]
// has. It disturbs neither the stream that was fed nor other elements. b must be kept alive and unchanged
// until [Parser.Release]; elements are released in the reverse order. With more than 8 in use at once it
// allocates. The error is a *[SyntaxError].
func (p *Parser) Element(b []byte) (Element, error) {
	if p.ringUsed == elementRing {
		return (&tree{owned: true}).parseWhole(b)
	}
	if p.ringUsed == len(p.ring) {
		p.ring = append(p.ring, &tree{p: p, dup: &p.dup})
	}
	t := p.ring[p.ringUsed]
	e, err := t.parseWhole(b)
	if err == nil {
		t.released = false
		p.ringUsed++
	}
	return e, err
}

// Release ends the life of an element that [Parser.Element] returned, and of everything taken from it.
func (p *Parser) Release(e Element) {
	if e.t == nil || e.t.owned {
		return
	}
	e.node()
	if invariants && (p.ringUsed == 0 || p.ring[p.ringUsed-1] != e.t) {
		panic("xmlstream: Release out of order")
	}
	e.t.released = true
	e.t.expire()
	e.t.buf = nil
	for p.ringUsed > 0 && p.ring[p.ringUsed-1].released {
		p.ringUsed--
		if t := p.ring[p.ringUsed]; t.tooBig() {
			p.ring[p.ringUsed] = &tree{p: p, dup: &p.dup}
		}
	}
}

// parseWhole parses b as one element with nothing but blanks around it.
func (t *tree) parseWhole(b []byte) (Element, error) {
	off := 0
	for off < len(b) && charClass[b[off]]&cSpace != 0 {
		off++
	}
	t.reset(rootClient)
	t.buf = b[off:]
	if len(t.buf) == 0 {
		return Element{}, errShort
	}
	if t.buf[0] != '<' {
		return Element{}, errTrailing
	}
	switch t.scan(&relaxedLimits, true) {
	case statusMore:
		return Element{}, errShort
	case statusBad:
		err := t.err.(*SyntaxError)
		t.err = nil
		err.Offset += int64(off)
		return Element{}, err
	}
	for _, c := range t.buf[t.pos:] {
		if charClass[c]&cSpace == 0 {
			return Element{}, errTrailing
		}
	}
	return Element{t, 0, t.gen}, nil
}
