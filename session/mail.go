package session

import (
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// mail is what a loop has still to route: what entities said under their locks, in order. It is empty whenever
// nothing runs on the loop.
type mail struct {
	l        *Local
	list     []envelope
	next     int
	buf      []byte
	moving   bool
	pulls    []*Session // whose sources are to be asked before the next letter
	speakers []*Entity  // that have letters in list, and are to be told when those are routed
}

// add puts el, under env's addresses, behind what is there. el is copied.
func (m *mail) add(env envelope, el []byte) {
	m.l.stats.Mailed++
	env.bytes = m.bytes(el)
	m.list = append(m.list, env)
}

// bytes copies el into the mail's buffer. Old letters keep the array they were put into when it grows.
func (m *mail) bytes(el []byte) []byte {
	b := m.buf
	if len(b)+len(el) > cap(b) {
		b = make([]byte, 0, max(4096, 2*cap(b), len(el)))
	}
	n := len(b)
	b = append(b, el...)
	m.buf = b
	return b[n:len(b):len(b)]
}

// deliver routes the mail in order, with no lock held; what is mailed meanwhile goes behind.
func (m *mail) deliver() {
	if m.moving || m.next == len(m.list) && len(m.speakers) == 0 && len(m.pulls) == 0 {
		return
	}
	m.moving = true
	defer func() { m.moving = false }() // whatever a letter meets
	for {
		for m.next < len(m.list) || len(m.pulls) > 0 {
			if n := len(m.pulls); n > 0 {
				s := m.pulls[n-1]
				m.pulls = m.pulls[:n-1]
				pull(m.l, s)
				continue
			}
			env := &m.list[m.next]
			m.next++
			m.route(env)
		}
		clear(m.list)
		m.list, m.next = m.list[:0], 0
		if len(m.speakers) == 0 {
			break
		}
		e := m.speakers[len(m.speakers)-1]
		m.speakers = m.speakers[:len(m.speakers)-1]
		e.speaker().spoken(m.l)
	}
	if m.buf = m.buf[:0]; cap(m.buf) > 64<<10 {
		m.buf = nil
	}
	if cap(m.list) > 1024 {
		m.list = nil
	}
}

// route takes one letter on its way. A panic ends it alone.
func (m *mail) route(env *envelope) {
	l := m.l
	if env.form == anAnswer {
		if m.toSession(env) {
			return
		}
		env.form = aStanza // to another domain, or an entity that has asked: as any stanza
	}
	if env.form != aStanza {
		ev := l.stack.push(l)
		defer l.stack.pop()
		env.fill(l, ev, xmlstream.Element{})
		ev.raw = env.bytes
		walk(l, ev)
		return
	}
	e, err := l.Parser.Element(env.bytes)
	if err != nil {
		l.Log.Error("mail that does not parse", "from", env.from.String(), "to", env.to.String(), "err", err)
		return
	}
	defer l.Parser.Release(e)
	m.routeElement(env, e)
}

// toSession hands an answer that this server made to the session that asked: behind what waits for its account, if
// something does. false: the address is none of a session here.
func (m *mail) toSession(env *envelope) bool {
	l := m.l
	a, ok := l.router.Table.Loaded(env.to.Bare())
	if !ok {
		return mayBeSession(l, env.to) // the one that asked is gone
	}
	defer l.boundary(newFrame(l, env.to, nil))
	a.lock(l)
	if w := a.waits; w != nil && (w.running || !w.inbox.empty()) {
		kept := *env
		kept.bytes = append([]byte(nil), env.bytes...)
		a.mailbox().put(kept)
	} else {
		a.answer(l, env)
	}
	a.unlock(l)
	return true
}

// answer gives an answer to the session that asked, if it is here. Under the lock.
func (a *Account) answer(l *Local, env *envelope) {
	if s := a.Resource(env.to); s != nil {
		l.stats.Out[env.kind]++
		s.Send(Parcel{Bytes: env.bytes, Kind: env.kind})
	}
}

// routeElement takes a letter on its way whose element is e.
func (m *mail) routeElement(env *envelope, e xmlstream.Element) {
	l := m.l
	ev := l.stack.push(l)
	defer l.stack.pop()
	env.fill(l, ev, e)
	walk(l, ev)
}

// answer mails an answer to ev to ev.From.
func answerTo(ev *Stanza, el []byte) {
	ev.replied = true
	if ev.silent {
		return
	}
	env := envelope{from: ev.To, to: ev.From, kind: ev.Kind, hops: ev.Hops + 1}
	if !ev.From.IsBare() {
		env.form = anAnswer // to a session of ours it needs no chain
	}
	ev.on.say(env, el)
}

// resource reports whether j may be a session of ours.
func mayBeSession(l *Local, j jid.JID) bool {
	h, ours := l.router.Table.Host(domainOf(j))
	return ours && !h.service && j.Resource() != ""
}

// Post mails el, a stanza of the entity from, under its lock or under none; el is copied.
func (l *Local) Post(from, to jid.JID, el []byte) { l.say(envelope{from: from, to: to, hops: 1}, el) }

// again mails a stanza once more that was held back for a session: its sender's, not what this entity says.
func (m *mail) again(h heldElement) {
	l := m.l
	if !h.to.IsZero() && h.kind != stanza.Presence {
		l.mail.add(envelope{from: h.from, to: h.to, hops: 1}, h.bytes)
	}
}
