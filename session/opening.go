package session

import (
	"errors"
	"io"

	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// NewStream is the kernel's half of the connection w, on its loop. The front door sets it up, and feeds it: see
// [Stream.Feed]. The peer has until the login deadline to become a session.
func NewStream(l *Local, w Transport, traits Traits) *Stream {
	lim := l.router.limits()
	st := &Stream{wire: w, loop: l, id: l.router.streams.Add(1), deal: &deal{}, traits: traits}
	st.in.Reset(lim.before)
	st.tokens = int32(lim.burst())
	l.stats.Streams++
	if d := lim.LoginTimeout; d > 0 {
		st.arm(dueLogin, l.Loop.Tick().After(d))
	}
	return st
}

// header takes the peer's stream header (RFC 6120 §4.7) and answers with ours and the features.
func (st reader) header(e xmlstream.Element) {
	l := st.loop
	l.enter()
	defer l.leave()
	defer caught(st.Stream)
	if st.state == Closing {
		return
	}
	if st.state != Opening {
		st.Close(ErrInvalidXML) // a second header without a restart
		return
	}
	if string(e.Local()) != "stream" || string(e.Space()) != stanza.NSStream {
		if string(e.Local()) == "stream" {
			st.Close(ErrInvalidNamespace)
		} else {
			st.Close(ErrBadFormat)
		}
		return
	}
	if r := st.in.Root(); r == nil || !contentNamespace(r.Default) {
		st.Close(ErrInvalidNamespace)
		return
	}
	if err := st.Negotiation().readHeader(e); err != nil {
		st.Close(err)
		return
	}
	st.bits &^= bitLang
	if r := st.in.Root(); r.Lang != "" && wellFormedLang(r.Lang) {
		st.bits |= bitLang
	}
	st.state = Unauthed
	if st.traits&HasUser != 0 {
		st.state = Authed
	}
	st.openHeader()
	st.Negotiation().sendFeatures()
}

// contentNamespace reports whether a client's header may have the default namespace def (RFC 6120 §4.8.2): the
// content namespace, or none of that kind, where each stanza declares its own: the namespace of the header
// itself, as in prefix-free canonicalization, or nothing at all.
func contentNamespace(def xmlstream.Atom) bool {
	switch def.String() {
	case stanza.NSClient, stanza.NSStream:
		return true
	}
	return def == xmlstream.None
}

// readHeader takes host, language and claimed sender from a header. The host is fixed once SASL has
// succeeded (attack S01).
func (st Negotiation) readHeader(e xmlstream.Element) error {
	to, ok := e.Attr(stanza.AttrTo)
	if !ok {
		return ErrHostUnknown
	}
	j, err := st.loop.JID(to)
	if err != nil {
		return ErrHostUnknown
	}
	local, domain, _ := j.Parts()
	h, ours := st.loop.router.Table.Host(domain)
	if !ours || local != "" || h.service { // no user logs in at a service
		return ErrHostUnknown
	}
	if st.traits&HasUser != 0 && domainOf(st.deal.peer) != domain {
		return ErrNotAuthorized
	}
	if st.host != h {
		if st.host != nil {
			st.leaveHost()
		}
		st.host = h
		h.conns.Add(1)
		st.bits |= bitCounted
	}
	v, ok := e.Attr(stanza.AttrVersion)
	if !ok || len(v) == 0 || v[0] == '0' { // RFC 6120 §4.7.5: we speak 1.0 and no less
		return ErrUnsupportedVersion
	}
	if from, ok := e.Attr(stanza.AttrFrom); ok {
		if f, err := st.loop.JID(from); err == nil {
			st.deal.from = f
		}
	}
	return nil
}

// openHeader sends our stream header.
func (st *Stream) openHeader() {
	var from jid.JID
	if st.host != nil {
		from = st.host.JID
	}
	id := ""
	if st.loop.router.StreamID != nil {
		id = st.loop.router.StreamID()
	}
	st.bits |= bitHeader
	var to jid.JID
	if st.deal != nil {
		to = st.deal.from
	}
	st.wire.Open(from, to, id, "en")
}

// sendFeatures offers what st may negotiate now (RFC 6120 §4.3.2).
func (st Negotiation) sendFeatures() {
	st.bits |= bitFeatures
	a := st.loop.Appender()
	a.B = append(a.B, "<stream:features>"...)
	fs := st.host.Profile().Hooks.Features
	for i := range fs {
		if fs[i].Offer != nil && st.may(&fs[i]) {
			fs[i].Offer(st, a)
		}
	}
	a.B = append(a.B, "</stream:features>"...)
	st.Send(a.B)
}

// may reports whether f is offered on st, and so accepted: the two are one value (attack S04).
func (st Negotiation) may(f *StreamFeature) bool {
	return st.traits&f.Needs == f.Needs && st.traits&f.Forbids == 0 && (f.Open == nil || f.Open(st))
}

// feature is the one that an element belongs to; for an iq, by its payload.
func (st Negotiation) feature(e, payload xmlstream.Element, iq bool) *StreamFeature {
	if st.host == nil {
		return nil
	}
	n := payload.Name()
	fs := st.host.Profile().Hooks.Features
	for i := range fs {
		f := &fs[i]
		if f.IQ != iq || f.Handle == nil || !st.may(f) {
			continue
		}
		if f.Name == n {
			return f
		}
		for _, m := range f.More {
			if m == n {
				return f
			}
		}
	}
	return nil
}

// negotiate takes an element of a stream without a session (RFC 6120 §4.3).
func (st reader) negotiate(e xmlstream.Element) {
	kind := stanza.KindOf(e)
	if kind == stanza.Nonza {
		if f := st.Negotiation().feature(e, e, false); f != nil {
			f.Handle(st.Negotiation(), e)
			return
		}
		if e.Is(nameStreamErr) {
			st.end(nil, peerError)
			return
		}
		if st.Negotiation().known(e.Name()) {
			st.Close(ErrPolicyViolation) // a negotiation that is not open now: twice, too early, or closed
			return
		}
		st.Close(ErrUnsupportedStanza)
		return
	}
	if kind == stanza.IQ {
		if typ, _ := e.Attr(stanza.AttrType); string(typ) == "set" || string(typ) == "get" {
			if p, ok := e.First(); ok {
				if f := st.Negotiation().feature(e, p, true); f != nil {
					f.Handle(st.Negotiation(), e)
					return
				}
			}
			if id, ok := e.Attr(stanza.AttrID); ok && st.traits&HasUser != 0 && st.Negotiation().forUs(e) {
				// RFC 6120 §7.1 ends the stream for a stanza to others only.
				st.Negotiation().FailIQ(string(id), stanza.ServiceUnavailable)
				return
			}
		}
	}
	// RFC 6120 §4.9.3.12: a stanza before the stream may carry one; never routed, never stored.
	st.Close(ErrNotAuthorized)
}

// forUs reports whether a stanza of a stream that is not bound is for the server itself or the client's account.
func (st Negotiation) forUs(e xmlstream.Element) bool {
	to, directed := e.Attr(stanza.AttrTo)
	if !directed {
		return true
	}
	j, err := st.loop.JID(to)
	return err == nil && (j == st.deal.peer || j == st.host.JID)
}

// known reports whether some feature of the host has this element, open or not.
func (st Negotiation) known(n xmlstream.Name) bool {
	if st.host == nil {
		return false
	}
	fs := st.host.Profile().Hooks.Features
	for i := range fs {
		if !fs[i].IQ {
			if fs[i].Name == n {
				return true
			}
			for _, m := range fs[i].More {
				if m == n {
					return true
				}
			}
		}
	}
	return false
}

// syntax ends st for what the parser refused, or for the peer's end tag (io.EOF).
func (st reader) syntax(err error) {
	l := st.loop
	l.enter()
	defer l.leave()
	if errors.Is(err, io.EOF) {
		st.end(nil, loggedOut)
		return
	}
	se := syntaxStreamError(err)
	if se == errStanzaTooBig {
		l.stats.Limits["stanza"]++
	}
	st.Close(se)
}

// Gone takes a stream apart whose connection is closed, the one teardown path: what becomes of its session is
// decided by what has ended the stream. err is why the connection was closed. A second call does nothing.
func (st *Stream) Gone(err error) {
	l := st.loop
	if st.bits&bitGone != 0 {
		return
	}
	l.enter()
	defer l.leave()
	why := st.ending
	if why == goesOn {
		why = lineLost
		countClose(l, err) // of the session: st itself has not heard of it
	}
	st.bits |= bitGone
	if st.bits&bitTracked != 0 {
		delete(l.ledgers, st.id)
	}
	st.state = Closing
	l.stats.StreamsEnd++
	st.leaveHost()
	st.in.Reset(l.router.limits().before)
	s := st.sess
	st.sess, st.deal = nil, nil
	if s == nil {
		return
	}
	streamEnded(l, s, st.ref(), why, 0)
}

// Due is what the front door's timer calls: deadlines that have passed take effect.
func (st *Stream) Due() {
	l := st.loop
	l.enter()
	defer l.leave()
	now := l.Loop.Tick()
	if d := st.due[dueRate]; d != 0 && d <= now {
		st.due[dueRate] = 0
		st.reader().refill()
		st.unpark(parkedRate)
	}
	if d := st.due[dueLogin]; d != 0 && d <= now {
		st.due[dueLogin] = 0
		if st.sess == nil {
			l.stats.Limits["login_timeout"]++
			st.Close(ErrConnectionTimeout)
			return
		}
	}
	st.arm(dueRate, st.due[dueRate])
}

// Bind makes the session of st once the account's resident set is in memory: with runs under the
// account's lock, where [Account.Bind] and [Account.Ready] are called. exists is false if the
// account was deleted meanwhile.
func (st Negotiation) Bind(with func(a *Account, exists bool, err error)) {
	l := st.loop
	st.parkToAnswer()
	if _, ok := l.router.Table.Loaded(st.deal.peer); !ok {
		st.charge(loadCost)
	}
	l.Account(st.host, st.deal.peer, func(l *Local, a *Account, exists bool, err error) {
		if st.bits&bitGone != 0 {
			return
		}
		st.unpark(parkedWork)
		if st.state == Closing || st.sess != nil {
			return
		}
		done := false
		defer func() {
			if !done {
				st.Close(ErrInternal) // unless it is closing, a hook has panicked: the rest is not st's
			}
		}()
		if h, ok := l.router.Table.Host(st.host.Name); !ok || h != st.host {
			st.Close(ErrHostGone) // whoever took the host away looked for sessions before this one
			return
		}
		if l.router.Table.kicks(st.deal.peer) != st.deal.kicks {
			st.Close(ErrReset) // banned, deleted, or with another password since SASL: it may try again
			return
		}
		if exists && a.id != st.deal.account {
			st.Close(ErrReset) // the account that has logged in was deleted, and the name is another's
			return
		}
		with(a, exists, err)
		done = true
	})
}

// countClose counts the stream error that ends a stream.
func countClose(l *Local, err error) {
	if se, ok := err.(*StreamError); ok {
		c := se.Condition
		if _, ok := streamErrorConditions[c]; !ok {
			c = "undefined-condition"
		}
		l.stats.StreamErrors[c]++
		if se == errSlowReader {
			l.stats.Limits["outbox"]++
		}
	}
}

// FailIQ answers an iq of a stream without a session with a stanza error.
func (st Negotiation) FailIQ(id string, c stanza.Condition) {
	a := st.loop.Appender()
	a.Open(stanza.IQName).Attr(stanza.AttrType, "error").Attr(stanza.AttrID, id)
	stanza.Error{Condition: c}.Append(a)
	a.Close()
	st.loop.stats.Bounced[c]++
	st.Send(a.B)
}
