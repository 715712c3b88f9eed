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

// contentNamespace reports whether def may be the default namespace of a client's header (RFC
// 6120 section 4.8.2): jabber:client, or the stream's namespace or none, with which each stanza
// declares its own.
func contentNamespace(def xmlstream.Atom) bool {
	switch def.String() {
	case stanza.NSClient, stanza.NSStream:
		return true
	}
	return def == xmlstream.None
}

// wellFormedLang reports whether tag has the syntax of a language tag (BCP 47, RFC 5646 section
// 2.2.9). Its subtags need not be registered.
func wellFormedLang(tag string) bool {
	if len(tag) > 64 || strings.ContainsRune(tag, '_') {
		return false
	}
	_, err := language.Raw.Parse(tag)
	var unknown language.ValueError
	return err == nil || errors.As(err, &unknown)
}

// readHeader reads host, version and claimed sender from the peer's stream header. It returns a
// stream error if the host is not served here, is a service host, or is not the one for which
// SASL has succeeded (attack S01), and for a version below 1.0.
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
	if !ours || local != "" || h.service {
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
	if !ok || len(v) == 0 || v[0] == '0' { // RFC 6120 section 4.7.5
		return ErrUnsupportedVersion
	}
	if from, ok := e.Attr(stanza.AttrFrom); ok {
		if f, err := st.loop.JID(from); err == nil {
			st.negotiation.claimedFrom = f
		}
	}
	return nil
}

// sendFeatures sends the stream features that st offers now (RFC 6120 section 4.3.2).
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

// offers reports whether f is offered on st now. An element of f is accepted on the same
// condition (attack S04).
func (st Negotiation) offers(f *StreamFeature) bool {
	return st.traits&f.Needs == f.Needs && st.traits&f.Forbids == 0 && (f.Available == nil || f.Available(st))
}

// feature returns the offered feature that an element belongs to, by the name of payload: the
// element itself, or the payload of an iq. nil: there is none.
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

// forUs reports whether an iq of a stream without a session is for the server itself, or for the
// client's own account.
func (st Negotiation) forUs(e xmlstream.Element) bool {
	to, directed := e.Attr(stanza.AttrTo)
	if !directed {
		return true
	}
	j, err := st.loop.JID(to)
	return err == nil && (j == st.negotiation.peer || j == st.host.JID)
}

// knowsElement reports whether a feature of the host has an element of this name, offered now or
// not.
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

// Exchange returns what a feature has stored with SetExchange: the state of SASL between two
// elements. nil: nothing.
func (st Negotiation) Exchange() any {
	if st.negotiation == nil {
		return nil
	}
	return st.negotiation.exchange
}

// SetExchange stores the state of an exchange; nil ends it. It does nothing on a bound stream.
func (st Negotiation) SetExchange(v any) {
	if st.negotiation != nil {
		st.negotiation.exchange = v
	}
}

// CountFailure counts a failed try to authenticate, and returns how many there were on this
// stream.
func (st Negotiation) CountFailure() int {
	if st.negotiation == nil {
		return 0
	}
	st.negotiation.authFailures++
	return st.negotiation.authFailures
}

// SnapshotRevocations stores the revocation epoch of an account before its credentials are looked
// up. If the account is kicked afterwards ([Router.Kick]), Bind closes the stream, whatever the
// look-up returned.
func (st Negotiation) SnapshotRevocations(user jid.JID) {
	st.negotiation.revocationEpoch = st.loop.router.Table.revocationEpoch(user.Bare())
}

// Authenticated ends a successful SASL negotiation (RFC 6120 section 6.4.6): user is the bare JID
// that the verifier returned, account its id in the store. The peer restarts the stream next.
func (st Negotiation) Authenticated(user jid.JID, account uint64) {
	st.negotiation.peer, st.negotiation.accountID, st.negotiation.exchange = user.Bare(), account, nil
	st.traits |= HasUser
	st.restart()
}

// AuthenticatedInPlace is Authenticated for a profile of SASL in which no new stream header follows (XEP-0388
// section 2.6.1): the stream goes on with the parser's limits of a client that has logged in. The caller
// sends what the success is, and then the features ([Negotiation.SendFeatures]).
func (st Negotiation) AuthenticatedInPlace(user jid.JID, account uint64) {
	st.negotiation.peer, st.negotiation.accountID, st.negotiation.exchange = user.Bare(), account, nil
	st.negotiation.exclusive = xmlstream.None
	st.traits |= HasUser
	st.state = Authed
	st.in.SetLimits(st.loop.router.limits().authed)
}

// SendFeatures sends the features that st offers now, without a header before them.
func (st Negotiation) SendFeatures() { st.sendFeatures() }

// SetExclusive keeps everything from st but elements of one namespace, for an exchange during which nothing
// else may come (XEP-0388 section 2.4): another element, also of an offered feature, ends the stream with
// policy-violation. [xmlstream.None] ends that. It does nothing on a bound stream.
func (st Negotiation) SetExclusive(space xmlstream.Atom) {
	if st.negotiation != nil {
		st.negotiation.exclusive = space
	}
}

// exclusive returns the namespace that [Negotiation.SetExclusive] has set, or None.
func (st *Stream) exclusive() xmlstream.Atom {
	if st.negotiation == nil {
		return xmlstream.None
	}
	return st.negotiation.exclusive
}

// ClaimedFrom returns the 'from' of the peer's stream header (RFC 6120 section 4.7.1): it is only a hint. It
// is zero if there was none, if it was no address, and on a bound stream.
func (st Negotiation) ClaimedFrom() jid.JID {
	if st.negotiation == nil {
		return jid.JID{}
	}
	return st.negotiation.claimedFrom
}

// Secured is called when the TLS handshake has succeeded. The peer restarts the stream next (RFC
// 6120 section 5.4.3.3); nothing that was negotiated in the clear is kept.
func (st *Stream) Secured() {
	st.traits |= Secure
	if st.host != nil {
		st.leaveHost()
	}
	st.negotiation = &negotiationState{}
	st.restart()
}

// Upgrade is called by the starttls feature: after the handler <proceed/> is sent and the
// handshake begins, if no data follows <starttls/>.
func (st Negotiation) Upgrade() { st.bits |= bitUpgrade }

// restart makes st expect a new stream header (RFC 6120 section 4.3.3), with the parser's limits
// for what the peer is now. A stream error from here on is sent after a header of its own.
func (st *Stream) restart() {
	st.state = Opening
	st.bits &^= bitFeatures | bitHeader
	lim := st.loop.router.limits().unauthed
	if st.traits&HasUser != 0 {
		lim = st.loop.router.limits().authed
	}
	st.in.Reset(lim)
}

// leaveHost takes st out of its host's count of connections.
func (st *Stream) leaveHost() {
	if st.bits&bitCounted != 0 {
		st.host.connections.Add(-1)
		st.bits &^= bitCounted
	}
	st.host = nil
}

// Send sends one nonza, or the features, without hooks. If the transport has no room for it the
// peer does not read: the stream ends as a slow consumer, because it could not continue with an
// element missing.
func (st *Stream) Send(el []byte) {
	if st.state != Closing && !st.transport.Send(el) && !st.transport.Closing() {
		st.Close(errSlowReader)
	}
}

// parkForReply is park for a work that ends in a reply, for which the peer is expected to wait.
func (st Negotiation) parkForReply() {
	if st.parked == 0 {
		st.transport.PauseForReply()
	}
	st.parked |= parkedWork
	st.pendingWork++
}

// closeOnPanic is deferred around the handling of a nonza and around negotiation: it turns a
// panic into the end of the stream.
func closeOnPanic(st *Stream) {
	if r := recover(); r != nil {
		st.loop.handlePanic(r, panicFrame{addr: st.Peer(), depth: 0})
		st.Close(ErrInternal)
	}
}

// Await lets a worker run work while st is parked, and then runs then on st's loop, unless the
// connection has closed. A panic in then ends the stream alone. It returns false if the queue of
// c is full; then neither runs. For negotiation only. It allocates.
func (st Negotiation) Await(c reactor.Class, work func() error, then func(err error)) (ok bool) {
	st.parkForReply()
	if c == reactor.Disk {
		st.charge(readCost)
	}
	return st.awaitWork(st.profile(), c, work, then)
}

// AwaitAdmission is Await for work that takes cost microseconds of a worker, before the client
// has logged in. It starts when the loop admits it: fair by host and address. It returns false if
// it cannot wait for admission; if the queue of c is full at its turn, then gets ErrBusy.
func (st Negotiation) AwaitAdmission(c reactor.Class, cost int, work func() error, then func(err error)) (
	ok bool) {
	p := st.profile()
	p.pendingWork.Add(1) // until awaitWork, which counts it as work
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

// profile returns the profile that offers the features of st: the works that they start count as
// its pending work. A stream that has left its host gets an empty one.
func (st Negotiation) profile() *Profile {
	if st.host == nil {
		return new(Profile)
	}
	return st.host.Profile()
}

// awaitWork is the part of Await after the parking. p is the profile that the work counts for.
func (st Negotiation) awaitWork(p *Profile, c reactor.Class, work func() error, then func(err error)) (
	ok bool) {
	if st.host == nil {
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

// Costs, in microseconds, of what a login makes workers read, besides its own steps: see
// reactor.LoginStepCost. With smaller numbers many logins at a time slow down established sessions more.
const (
	readCost = 30 // one row
	loadCost = 60 // a resident set
)

// charge lets st, if it has no session yet, pay for work elsewhere, in microseconds: its next
// admission, and those of its address and host, come later.
func (st Negotiation) charge(cost int) {
	if st.sess == nil {
		host, addr := st.admissionKey()
		st.loop.Loop.ChargeAdmission(host, addr, cost)
	}
}

// admissionKey returns the host and the address that admission charges.
func (st Negotiation) admissionKey() (host uint32, addr netip.Addr) {
	if st.host != nil {
		host = st.host.ID
	}
	return host, st.transport.Remote().Addr()
}

// Delay runs then after d, while st is parked: the delay before the answer to a failed login. On
// st's loop.
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

// Bind calls with under the lock of the client's account, once its resident set is in memory:
// with calls [Account.Bind] and [Account.AddSession], or answers an error. exists is false if
// there is no such account any more. st is parked until then. st is closed instead, without a
// call of with, if its host was removed, if the account was kicked since SASL, or if the account
// was deleted and another created. A panic closes st.
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
				st.Close(ErrInternal) // a hook has panicked, or st is closing already
			}
		}()
		if h, ok := l.router.Table.Host(st.host.Name); !ok || h != st.host {
			st.Close(ErrHostGone)
			return
		}
		if l.router.Table.revocationEpoch(st.negotiation.peer) != st.negotiation.revocationEpoch {
			st.Close(ErrReset) // banned, deleted, or another password since SASL: the client may try again
			return
		}
		if exists && a.id != st.negotiation.accountID {
			st.Close(ErrReset) // the name belongs to another account now
			return
		}
		with(a, exists, err)
		done = true
	})
}

// TakeOver is takeOver for a stream that wants to resume s: st is parked until then is called.
// then is not called if st has ended meanwhile.
func (st Negotiation) TakeOver(s *Session, then func(handled uint32)) {
	st.parkForReply()
	takeOver(st.loop, s, func(handled uint32) { st.goOn(func() { then(handled) }) })
}

// goOn ends the parking of parkForReply and calls then, unless st has ended.
func (st Negotiation) goOn(then func()) {
	defer closeOnPanic(st.Stream)
	if st.bits&bitGone != 0 {
		return
	}
	st.unpark(parkedWork)
	if st.state != Closing {
		then()
	}
}

// WhenDurable is [WhenDurable] for a stream whose answer waits for t: st is parked until then is called. then
// is not called if st has ended meanwhile.
func (st Negotiation) WhenDurable(t Ticket, then func(err error)) {
	st.parkForReply()
	WhenDurable(st.loop, t, func(err error) { st.goOn(func() { then(err) }) })
}
