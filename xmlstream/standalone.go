package xmlstream

// Parse parses one complete element that is not on a stream, as from the store, into memory of its own. b
// is copied. White space may be around the element. Its default namespace is jabber:client unless it
// declares another, and the prefix stream is declared. The error is a *[SyntaxError]. Any goroutine may
// call it, and may use the Element. It allocates: on a loop use [Parser.Element].
func Parse(b []byte) (Element, error) {
	t := &tree{owned: true}
	return t.parseWhole(append([]byte(nil), b...))
}

// elementRing is how many elements of Parser.Element can be in use at once without allocating.
const elementRing = 8

// Element parses one complete element in b, as a stanza that another loop sent, in the context that
// [Parse] has. It does not disturb the stream that was fed, or other elements. b must stay as it is until
// [Parser.Release]. Elements are released in the reverse order. If more than 8 are in use at once, the
// others are allocated. The error is a *[SyntaxError]; then there is nothing to release.
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

// Release ends the life of an element that [Parser.Element] returned, and of all that was taken from it.
// It does nothing for the zero Element and for elements that were allocated. With invariants it panics if
// e is not the last one that is in use.
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

// parseWhole parses b as one element with nothing but white space around it, under relaxedLimits.
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
