package session

import (
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/text/language"

	"canto/reactor"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// contentNamespace reports whether a client's header may have the default namespace def (RFC 6120
// §4.8.2): the content namespace, or none of that kind, where each stanza declares its own: the namespace
// of the header itself, as in prefix-free canonicalization, or nothing at all.
func contentNamespace(def xmlstream.Atom) bool {
	switch def.String() {
	case stanza.NSClient, stanza.NSStream:
		return true
	}
	return def == xmlstream.None
}

// wellFormedLang reports whether tag has the syntax of a language tag (BCP 47, RFC 5646 §2.2.9); its subtags
// need not be registered.
func wellFormedLang(tag string) bool {
	if len(tag) > 64 || strings.ContainsRune(tag, '_') {
		return false
	}
	_, err := language.Raw.Parse(tag)
	var unknown language.ValueError
	return err == nil || errors.As(err, &unknown)
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
	if st.traits&HasUser != 0 && domainOf(st.negotiation.peer) != domain {
		return ErrNotAuthorized
	}
	if st.host != h {
		if st.host != nil {
			st.leaveHost()
		}
		st.host = h
		h.connections.Add(1)
		st.bits |= bitCounted
	}
	v, ok := e.Attr(stanza.AttrVersion)
	if !ok || len(v) == 0 || v[0] == '0' { // RFC 6120 §4.7.5: we speak 1.0 and no less
		return ErrUnsupportedVersion
	}
	if from, ok := e.Attr(stanza.AttrFrom); ok {
		if f, err := st.loop.JID(from); err == nil {
			st.negotiation.claimedFrom = f
		}
	}
	return nil
}

// sendFeatures offers what st may negotiate now (RFC 6120 §4.3.2).
func (st Negotiation) sendFeatures() {
	st.bits |= bitFeatures
	a := st.loop.Appender()
	a.B = append(a.B, "<stream:features>"...)
	fs := st.host.Profile().Hooks.Features
	for i := range fs {
		if fs[i].Offer != nil && st.offers(&fs[i]) {
			fs[i].Offer(st, a)
		}
	}
	a.B = append(a.B, "</stream:features>"...)
	st.Send(a.B)
}

// offers reports whether f is offered on st, and so accepted: the two are one value (attack S04).
func (st Negotiation) offers(f *StreamFeature) bool {
	return st.traits&f.Needs == f.Needs && st.traits&f.Forbids == 0 && (f.Available == nil || f.Available(st))
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
		if f.IQ != iq || f.Handle == nil || !st.offers(f) {
			continue
		}
		if f.Name == n {
			return f
		}
		for _, m := range f.Continuations {
			if m == n {
				return f
			}
		}
	}
	return nil
}

// forUs reports whether a stanza of a stream that is not bound is for the server itself or the client's
// account.
func (st Negotiation) forUs(e xmlstream.Element) bool {
	to, directed := e.Attr(stanza.AttrTo)
	if !directed {
		return true
	}
	j, err := st.loop.JID(to)
	return err == nil && (j == st.negotiation.peer || j == st.host.JID)
}

// knowsElement reports whether some feature of the host has this element, open or not.
func (st Negotiation) knowsElement(n xmlstream.Name) bool {
	if st.host == nil {
		return false
	}
	fs := st.host.Profile().Hooks.Features
	for i := range fs {
		if !fs[i].IQ {
			if fs[i].Name == n {
				return true
			}
			for _, m := range fs[i].Continuations {
				if m == n {
					return true
				}
			}
		}
	}
	return false
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

// Exchange is what a feature keeps between two elements of one negotiation; SASL's is here.
func (st Negotiation) Exchange() any {
	if st.negotiation == nil {
		return nil
	}
	return st.negotiation.exchange
}

// SetExchange replaces it; nil ends the exchange.
func (st Negotiation) SetExchange(v any) {
	if st.negotiation != nil {
		st.negotiation.exchange = v
	}
}

// CountFailure counts a failed try to authenticate and returns how many there were on this stream.
func (st Negotiation) CountFailure() int {
	if st.negotiation == nil {
		return 0
	}
	st.negotiation.authFailures++
	return st.negotiation.authFailures
}

// SnapshotRevocations says that who is looked up now, to become what Authenticated is given: a
// [Router.Kick] from here on keeps st from binding, whatever the lookup saw.
func (st Negotiation) SnapshotRevocations(who jid.JID) {
	st.negotiation.revocationEpoch = st.loop.router.Table.revocationEpoch(who.Bare())
}

// Authenticated ends a successful SASL negotiation (RFC 6120 §6.4.6): who is the bare JID that the
// verifier returned, account its id in the store. The peer restarts the stream next.
func (st Negotiation) Authenticated(who jid.JID, account uint64) {
	st.negotiation.peer, st.negotiation.accountID, st.negotiation.exchange = who.Bare(), account, nil
	st.traits |= HasUser
	st.restart()
}

// Secured is called when TLS is up; the peer restarts the stream next (RFC 6120 §5.4.3.3). Nothing
// that came before survives: host, id, language, a SASL exchange.
func (st *Stream) Secured() {
	st.traits |= Secure
	if st.host != nil {
		st.leaveHost()
	}
	st.negotiation = &negotiationState{}
	st.restart()
}

// Upgrade is what the starttls feature calls: if nothing was sent behind <starttls/>, <proceed/> leaves
// and the handshake begins.
func (st Negotiation) Upgrade() { st.bits |= bitUpgrade }

func (st *Stream) restart() {
	st.state = Opening
	st.bits &^= bitFeatures | bitHeader // an error from here on is the new stream's, behind its own header
	lim := st.loop.router.limits().unauthed
	if st.traits&HasUser != 0 {
		lim = st.loop.router.limits().authed
	}
	st.in.Reset(lim)
}

func (st *Stream) leaveHost() {
	if st.bits&bitCounted != 0 {
		st.host.connections.Add(-1)
		st.bits &^= bitCounted
	}
	st.host = nil
}

// Send sends one nonza, or the features, past no hook. A peer that has no room for what the server itself
// says does not read: its stream ends, as it could not go on without a hole.
func (st *Stream) Send(el []byte) {
	if st.state != Closing && !st.transport.Send(el) && !st.transport.Closing() {
		st.Close(errSlowReader)
	}
}

// parkForReply is park for work that ends in an answer that the peer waits for.
func (st Negotiation) parkForReply() {
	if st.parked == 0 {
		st.transport.PauseForReply()
	}
	st.parked |= parkedWork
	st.pendingWork++
}

// closeOnPanic, deferred around what the negotiation of a stream sets off, turns a panic into the end of that
// stream.
func closeOnPanic(st *Stream) {
	if r := recover(); r != nil {
		st.loop.handlePanic(r, panicFrame{addr: st.Peer(), depth: 0})
		st.Close(ErrInternal)
	}
}

// Await runs work on a worker while st takes no element, then runs then on st's loop, unless the
// connection is gone by then; a panic in then ends st alone. For negotiation only. Cold path. It reports
// whether the queue of c had room; if not, nothing is run.
func (st Negotiation) Await(c reactor.Class, work func() error, then func(err error)) (ok bool) {
	st.parkForReply()
	if c == reactor.Disk {
		st.charge(readCost)
	}
	return st.awaitWork(st.profile(), c, work, then)
}

// AwaitAdmission is Await for work that costs a guest cost microseconds on a worker: it begins when it is
// st's turn, fair by address and host.
func (st Negotiation) AwaitAdmission(c reactor.Class, cost int, work func() error, then func(err error)) (
	ok bool) {
	p := st.profile()
	p.pendingWork.Add(1) // until it has begun, and is counted as work
	st.park(parkedWork)
	host, addr := st.admissionKey()
	ok = st.loop.Loop.RunAdmitted(host, addr, cost, func() {
		defer p.pendingWork.Add(-1)
		st.loop.enter()
		defer st.loop.leave()
		defer closeOnPanic(st.Stream)
		if st.bits&bitGone == 0 && st.state != Closing && !st.awaitWork(p, c, work, then) {
			then(ErrBusy)
		}
	})
	if !ok {
		p.pendingWork.Add(-1)
		st.unpark(parkedWork)
	}
	return ok
}

// profile is the profile whose features st is offered: what they have set off counts as work of it. Of a
// stream that has left its host it is one of no module.
func (st Negotiation) profile() *Profile {
	if st.host == nil {
		return new(Profile)
	}
	return st.host.Profile()
}

func (st Negotiation) awaitWork(p *Profile, c reactor.Class, work func() error, then func(err error)) (
	ok bool) {
	if st.host == nil { // the stream has left its host, and its features with it
		st.unpark(parkedWork)
		return false
	}
	ok = st.loop.runOnWorker(p, c, work, func(err error) {
		st.loop.enter()
		defer st.loop.leave()
		defer closeOnPanic(st.Stream)
		if st.bits&bitGone != 0 {
			return
		}
		st.unpark(parkedWork)
		if st.state != Closing {
			then(err)
		}
	})
	if !ok {
		st.unpark(parkedWork)
	}
	return ok
}

// Costs of what a login sets off besides its own steps, as [reactor.LoginStepCost].
const (
	readCost = 30 // one row
	loadCost = 60 // a resident set
)

// charge has st, which has not logged in, pay so many microseconds for work elsewhere: the later is its turn,
// and that of its address and host, where many log in.
func (st Negotiation) charge(cost int) {
	if st.sess == nil {
		host, addr := st.admissionKey()
		st.loop.Loop.ChargeAdmission(host, addr, cost)
	}
}

func (st Negotiation) admissionKey() (host uint32, addr netip.Addr) {
	if st.host != nil {
		host = st.host.ID
	}
	return host, st.transport.Remote().Addr()
}

// Delay runs then after d, while st takes no element: the delay before an answer to a failed login.
func (st Negotiation) Delay(d reactor.Tick, then func()) {
	p := st.profile()
	p.pendingWork.Add(1)
	st.park(parkedWork)
	st.loop.After(d, func() {
		defer p.pendingWork.Add(-1)
		defer closeOnPanic(st.Stream)
		if st.bits&bitGone != 0 {
			return
		}
		st.unpark(parkedWork)
		if st.state != Closing {
			then()
		}
	})
}

// Bind makes the session of st once the account's resident set is in memory: with runs under the
// account's lock, where [Account.Bind] and [Account.AddSession] are called. exists is false if the
// account was deleted meanwhile.
func (st Negotiation) Bind(with func(a *Account, exists bool, err error)) {
	l := st.loop
	st.parkForReply()
	if _, ok := l.router.Table.LookupAccount(st.negotiation.peer); !ok {
		st.charge(loadCost)
	}
	l.WithAccount(st.host, st.negotiation.peer, func(l *LoopRouter, a *Account, exists bool, err error) {
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
			st.Close(ErrHostGone) // its sessions were ended before this one was in the list
			return
		}
		if l.router.Table.revocationEpoch(st.negotiation.peer) != st.negotiation.revocationEpoch {
			st.Close(ErrReset) // banned, deleted, or with another password since SASL: it may try again
			return
		}
		if exists && a.id != st.negotiation.accountID {
			st.Close(ErrReset) // the account that has logged in was deleted, and the name is another's
			return
		}
		with(a, exists, err)
		done = true
	})
}
