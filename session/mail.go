package session

import (
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A letter is a stanza between two entities: addresses and bytes, without pointers to either; fresh
// and stream are set only in the sender's own inbox.
type letter struct {
	from, to jid.JID
	bytes    []byte // in the loop's mail buffer, or the inbox's own copy
	lang     string
	kind     stanza.Kind
	target   Target
	hops     uint8
	answer   bool // made by this server for one session: no chain looks at it
	bare     bool
	fan      bool // bytes have no 'to': it is put in at delivery
	fresh    *Session
	stream   *Stream
}

// answer mails an answer to ev to ev.From.
func (l *Local) answer(ev *Stanza, el []byte) {
	if ev.silent {
		return
	}
	lt := letter{from: ev.To, to: ev.From, kind: ev.Kind, hops: ev.Hops + 1, answer: true}
	l.append(lt, el)
}

// post mails el, one complete element, from one address to another.
func (l *Local) post(from, to jid.JID, el []byte, hops uint8) {
	l.append(letter{from: from, to: to, hops: hops}, el)
}

// Post mails el, a stanza of the entity from, under its lock or under none; el is copied.
func (l *Local) Post(from, to jid.JID, el []byte) { l.post(from, to, el, 1) }

func (l *Local) append(lt letter, el []byte) {
	l.stats.Mailed++
	lt.bytes = l.mailBytes(el)
	l.mail = append(l.mail, lt)
}

// mailBytes copies el into the loop's mail buffer. Old letters keep the array they were put into
// when it grows.
func (l *Local) mailBytes(el []byte) []byte {
	b := l.mailBuf
	if len(b)+len(el) > cap(b) {
		b = make([]byte, 0, max(4096, 2*cap(b), len(el)))
	}
	n := len(b)
	b = append(b, el...)
	l.mailBuf = b
	return b[n:len(b):len(b)]
}

// deliverMail routes the mail in order, with no lock held; what is mailed meanwhile goes behind.
func (l *Local) deliverMail() {
	if l.moving {
		return
	}
	l.moving = true
	for l.next < len(l.mail) || len(l.pulls) > 0 {
		if n := len(l.pulls); n > 0 {
			s := l.pulls[n-1]
			l.pulls = l.pulls[:n-1]
			l.pull(s)
			continue
		}
		lt := l.mail[l.next]
		l.mail[l.next] = letter{}
		l.next++
		l.deliverLetter(lt)
	}
	l.mail, l.next = l.mail[:0], 0
	if l.mailBuf = l.mailBuf[:0]; cap(l.mailBuf) > 64<<10 {
		l.mailBuf = nil
	}
	if cap(l.mail) > 1024 {
		l.mail = nil
	}
	l.moving = false
}

// deliverLetter routes one stanza. A panic in a hook that it meets ends this stanza alone.
func (l *Local) deliverLetter(lt letter) {
	defer l.contain(lt.to)
	if lt.answer && l.deliverAnswer(lt) {
		return
	}
	if lt.fan {
		e, err := l.Parser.Element(lt.bytes)
		if err == nil {
			l.fanOne(lt.from, lt.to, e)
			l.Parser.Release(e)
		}
		return
	}
	e, err := l.Parser.Element(lt.bytes)
	if err != nil {
		l.Log.Error("mail that does not parse", "from", lt.from.String(), "to", lt.to.String(), "err", err)
		return
	}
	defer l.Parser.Release(e)
	ev := l.push()
	defer l.pop()
	lt.fill(l, ev, e)
	h, ok := l.router.Table.Host(domainOf(lt.from))
	if !ok {
		if h, ok = l.router.Table.Host(domainOf(lt.to)); !ok {
			return
		}
	}
	ev.Host = h
	ev.Target = l.target(ev)
	l.forward(ev)
}

// deliverAnswer puts an answer straight in front of the session that asked, if it is here.
func (l *Local) deliverAnswer(lt letter) bool {
	host, ours := l.router.Table.Host(domainOf(lt.to))
	if !ours {
		return false
	}
	bare := lt.to.Bare()
	if bare == lt.to {
		return false
	}
	a, ok := l.router.Table.Loaded(bare)
	if !ok || a.host != host {
		return true // who asked is gone
	}
	l.lock(&a.Entity)
	if s := a.Resource(lt.to); s != nil {
		l.stats.Out[lt.kind]++
		s.Send(Parcel{Bytes: lt.bytes, Kind: lt.kind})
	}
	l.unlock()
	return true
}

// fill makes ev the stanza of lt, whose element is e.
func (lt *letter) fill(l *Local, ev *Stanza, e xmlstream.Element) {
	ev.on, ev.Element, ev.From, ev.To, ev.Hops = l, e, lt.from, lt.to, lt.hops
	ev.lang, ev.bare, ev.Target = lt.lang, lt.bare, lt.target
	if ev.Kind = lt.kind; ev.Kind == stanza.Nonza {
		ev.Kind = stanza.KindOf(e)
	}
	t, _ := e.Attr(stanza.AttrType)
	ev.Type = stanza.ParseType(ev.Kind, t)
	if ev.Host == nil {
		ev.Host, _ = l.router.Table.Host(domainOf(lt.to))
	}
}

// enqueue keeps ev in the inbox of a, whose lock is held, and sees that it will be read.
func (l *Local) enqueue(a *Account, ev *Stanza) {
	lt := letter{from: ev.From, to: ev.To, kind: ev.Kind, target: ev.Target, hops: ev.Hops, lang: ev.lang, bare: ev.bare}
	lt.bytes = ev.Element.Append(nil, xmlstream.Streamed)
	if len(ev.extra) > 0 {
		lt.bytes = addChildren(lt.bytes, 0, ev.extra)
	}
	if ev.Fresh {
		lt.fresh, lt.stream = ev.Session, ev.stream
	}
	l.stats.Inboxed++
	if !a.put(item{letter: lt}) {
		l.stats.InboxFull++
		l.stats.Limits["inbox"]++
		ev.Fail(stanza.ResourceConstraint)
		return
	}
	l.load(a)
}

// arriveLetter takes a stanza out of the inbox of a, whose lock is held, through its chain.
func (l *Local) arriveLetter(a *Account, lt letter, err error) {
	e, perr := l.Parser.Element(lt.bytes)
	if perr != nil {
		return
	}
	defer l.Parser.Release(e)
	ev := l.push()
	defer l.pop()
	lt.fill(l, ev, e)
	ev.Host = a.host
	if err != nil {
		if err == ErrBusy {
			ev.Fail(stanza.ResourceConstraint)
		} else {
			ev.Fail(stanza.InternalServerError)
		}
		return
	}
	l.arriveAt(a, ev)
}

// failLetter answers a stanza of a's inbox whose handler has panicked.
func (l *Local) failLetter(a *Account, lt letter) {
	defer l.contain(a.bare)
	e, err := l.Parser.Element(lt.bytes)
	if err != nil {
		return
	}
	defer l.Parser.Release(e)
	ev := l.push()
	defer l.pop()
	lt.fill(l, ev, e)
	l.failed(ev)
}

// fanOne takes e, which has no 'to', to one receiver of a fan-out. A panic in a hook that it meets ends this
// delivery alone.
func (l *Local) fanOne(from, to jid.JID, e xmlstream.Element) {
	defer l.contain(to)
	ev := l.push()
	defer l.pop()
	lt := letter{from: from, to: to, hops: 1}
	lt.fill(l, ev, e)
	h, ok := l.router.Table.Host(domainOf(from))
	if !ok {
		return
	}
	ev.Host = h
	ev.Target = l.target(ev)
	l.forward(ev)
}
