// Package push notifies the push services of an account when a message waits for it (XEP-0357 0.4.1): the
// server of a client on a phone, which then wakes the client. A client names its service; that is a
// registration. The server sends an iq to it.
//
//	juliet: <iq type='set' id='1'><enable xmlns='urn:xmpp:push:0' jid='push.example' node='n1'>
//	          <x xmlns='jabber:x:data' type='submit'>…publish-options…</x></enable></iq>
//	S:      <iq type='result' id='1'/>
//	(juliet is away, and a message for her is stored; a second later)
//	S to push.example:
//	  <iq type='set' id='…' from='juliet@localhost' to='push.example'>
//	    <pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='n1'><item>
//	      <notification xmlns='urn:xmpp:push:0'>
//	        <x xmlns='jabber:x:data' type='submit'>…message-count…</x></notification></item></publish>
//	      <publish-options>…</publish-options></pubsub></iq>
//
// # Which messages
//
// A message is pushed if it was stored for later delivery, if a session without a connection took it
// (XEP-0198), or if a client has not acknowledged it for 30 seconds, and if the table of package handling
// says so of its kind. It is pushed once. The push has the number of messages that have come since a client
// of the account was last available or has resumed its session. It never has a text, and the sender only if
// the operator has chosen that.
//
// # How often
//
// Messages that come within a second share a push. A registration has one push without an answer; what comes
// meanwhile shares the next one. After a failure that may pass it waits, from a second to an hour. It ends
// after another error, and after ten failures in a row over a day at least (XEP-0357 section 7.1): its row is
// erased. Failures that may pass are no answer, errors of type wait, remote-server-not-found,
// internal-server-error, and service-unavailable, which a server answers for a service that is not connected.
// When a client becomes available, what was not pushed yet is not pushed.
//
// In memory, in a warm account: its registrations, as a part of the resident set. In memory, in a host: the
// state of accounts with a push that waits, or with failures; it is lost when the server stops. Stored: a row
// for each registration. Bounds: ten registrations of an account, 4 KiB of publish options each.
//
// Hooks: two iq handlers; Message in phase Record, where it stores nothing; Available. All
// run under the account's lock.
package push

import (
	"errors"
	"strconv"
	"strings"
	"sync"

	"canto/reactor"
	"canto/session"
	"canto/session/form"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:    "push",
	Spec:    "XEP-0357 0.4.1",
	Summary: "tells a push service that a message waits",
	Cases: "enable, disable, publish options, count of messages, back-off, dead registrations; affiliation " +
		"changes of the service are not read",
	Requires: []session.Feature{"accounts", "iq", "message", "resident", "store"},
	Options:  func() any { return new(Options) },
	New:      func() session.Module { return new(module) },
}

// The namespaces, and the kinds of forms.
const (
	ns             = "urn:xmpp:push:0"
	nsPubSub       = "http://jabber.org/protocol/pubsub"
	summaryForm    = "urn:xmpp:push:summary"
	publishOptions = "http://jabber.org/protocol/pubsub#publish-options"
)

var (
	// rows has a row for each registration of an account: see [registration.key] and appendRow. The prefix
	// 'n' and the version are part of the store's format.
	rows = store.NewMap[string, []byte]("push", 'n', 1)
	part = session.NewPart[registrations]("push")
	// states has what the accounts of a host have in memory only.
	states = session.NewHostVar("push", func(*session.Host) *hostState {
		return &hostState{accounts: make(map[uint64]*accountState)}
	})

	enableName   = xmlstream.N(ns, "enable")
	disableName  = xmlstream.N(ns, "disable")
	notification = xmlstream.N(ns, "notification")
	pubsub       = xmlstream.N(nsPubSub, "pubsub")
	publish      = xmlstream.N(nsPubSub, "publish")
	item         = xmlstream.N(nsPubSub, "item")
	optionsName  = xmlstream.N(nsPubSub, "publish-options")
)

// The bounds of an account.
const (
	maxRegistrations = 10        // more are refused with resource-constraint (attack P08)
	maxNode          = 1023      // bytes of a node
	maxOptions       = 4096      // bytes of the publish options
	maxStates        = 1_000_000 // accounts of a host with a state in memory: some 200 bytes each
)

// The times of a push.
const (
	coalesce   = 10          // ticks that a message waits for others
	overdue    = 300         // ticks without an acknowledgement after which a client counts as away
	firstPause = 10          // ticks after the first failure; it doubles
	maxPause   = 36_000      // ticks at most: an hour
	maxFailing = 10          // failures in a row after which a registration ends,
	failingFor = 24 * 36_000 // if the first of them is so many ticks ago: a day
)

// counters are the counters of pushes by outcome.
type counters struct {
	sent      *session.Counter // to a service
	answered  *session.Counter // with a result
	failed    *session.Counter // with an error
	timedOut  *session.Counter // without an answer
	backedOff *session.Counter // put off, as the one before has failed
	ended     *session.Counter // registrations that ended
	coalesced *session.Counter // messages that shared a push with another
}

// countersOf returns the counters of the process.
func countersOf(api *session.API) *counters {
	of := func(outcome string) *session.Counter {
		return api.Router.Counter(session.CounterName{Name: "pushes_total", Label: "outcome", Value: outcome,
			Help: "Pushes by what became of them. coalesced: messages that shared a push. ended: registrations " +
				"that were erased."})
	}
	return &counters{sent: of("sent"), answered: of("answered"), failed: of("failed"), timedOut: of("timed_out"),
		backedOff: of("backed_off"), ended: of("ended"), coalesced: of("coalesced")}
}

// Options is the module's section of the configuration.
type Options struct {
	Sender bool `toml:"sender"` // a push names the sender of the last message
}

// A registration is one service of an account. The account's lock guards it.
type registration struct {
	service jid.JID
	node    string
	options []byte // the publish options, one element; nil: none
}

// key returns the key of the row of r. No address has NUL, so two registrations never have the same key.
func (r *registration) key() string { return r.service.String() + "\x00" + r.node }

// rowVersion is the first byte of a row.
const rowVersion = 1

// row returns the value of the row of r.
func (r *registration) row() []byte { return append([]byte{rowVersion}, r.options...) }

// parseRow returns the registration of a row.
func parseRow(key string, row []byte) (*registration, error) {
	service, node, ok := strings.Cut(key, "\x00")
	if !ok || len(row) == 0 || row[0] != rowVersion {
		return nil, errors.New("push: a row that this program does not know")
	}
	j, err := jid.Parse(service)
	if err != nil {
		return nil, err
	}
	r := &registration{service: j, node: node}
	if len(row) > 1 {
		r.options = append([]byte(nil), row[1:]...)
	}
	return r, nil
}

// registrations are those of one account, in the order of their keys. The account's lock guards them.
type registrations struct{ list []*registration }

// A hostState has the states of the accounts of one host, by id. Any goroutine uses it; an accountState is
// guarded by its account's lock.
type hostState struct {
	mu       sync.Mutex
	accounts map[uint64]*accountState
}

// get returns the state of an account; nil if there is none, and make is false or the host has too many.
func (h *hostState) get(id uint64, make bool) *accountState {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.accounts[id]
	if s == nil && make && len(h.accounts) < maxStates {
		s = new(accountState)
		h.accounts[id] = s
	}
	return s
}

// drop forgets the state of an account.
func (h *hostState) drop(id uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.accounts, id)
}

// An accountState is what an account has in memory only.
type accountState struct {
	waiting  int          // messages since a client was last available
	sender   jid.JID      // of the last of them
	sent     int          // messages that clients were sent, and may not have acknowledged
	sentBy   jid.JID      // the sender of the last of them
	armedAt  reactor.Tick // when the timer fires; 0: there is none
	services map[string]*serviceState
}

// A serviceState is that of one registration, by its key.
type serviceState struct {
	due      bool         // messages wait that were not pushed
	asking   bool         // a push has no answer yet
	failures int          // in a row
	failing  reactor.Tick // when the first of them was
	after    reactor.Tick // no push before this
}

// idle reports whether nothing of s is worth keeping.
func (s *accountState) idle() bool {
	for k, v := range s.services {
		if !v.due && !v.asking && v.failures == 0 {
			delete(s.services, k)
		}
	}
	if len(s.services) == 0 {
		s.services = nil
	}
	return s.waiting == 0 && s.sent == 0 && s.armedAt == 0 && s.services == nil
}

// service returns the state of a registration.
func (s *accountState) service(key string) *serviceState {
	v := s.services[key]
	if v == nil {
		v = new(serviceState)
		if s.services == nil {
			s.services = make(map[string]*serviceState)
		}
		s.services[key] = v
	}
	return v
}

// A module is the module of one profile. It does not change after Load.
type module struct {
	opt  Options
	db   *store.DB
	rows *store.Map[string, []byte]

	count *counters
}

// Load implements [session.Module]. It fails if there is no store, or if the rows have a newer format.
func (m *module) Load(api *session.API) error {
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	var err error
	if m.db, err = storage.Open(api); err != nil {
		return err
	}
	if m.rows, err = storage.OpenMap(api, rows); err != nil {
		return err
	}
	m.count = countersOf(api)
	session.Resident(api, part, m.load)
	api.AdvertiseAccount(ns)
	api.Hooks.OnIQ(api.Module, true, enableName, m.enable, session.ToSelf)
	api.Hooks.OnIQ(api.Module, true, disableName, m.disable, session.ToSelf)
	for _, t := range []session.Target{session.ToSelf, session.ToBare, session.ToFull} {
		api.Hooks.Message[t].Add(api.Module, session.Record, m.record)
	}
	api.Hooks.Available.Add(api.Module, session.Deliver, m.available)
	api.Hooks.Resumed.Add(api.Module, session.Deliver, m.available)
	return nil
}

// load reads the registrations of an account from a snapshot, on a worker; nil if there are none.
func (m *module) load(snap *store.Snapshot, acc session.EntityRef) (p *registrations, err error) {
	var bad error
	err = m.rows.Scan(snap, acc.ID, "", func(key string, row []byte) bool {
		r, err := parseRow(key, row)
		if err != nil {
			bad = err
			return false
		}
		if p == nil {
			p = new(registrations)
		}
		p.list = append(p.list, r)
		return true
	})
	return p, errors.Join(err, bad)
}

// readService returns the address and the node of a request. If ok is false, c is the condition of the
// answer.
func readService(ev *session.Stanza) (r registration, hasNode bool, c stanza.Condition, ok bool) {
	raw, given := ev.Payload().Attr(stanza.AttrJID)
	node, hasNode := ev.Payload().Attr(stanza.AttrNode)
	if !given || len(node) > maxNode {
		return r, hasNode, stanza.BadRequest, false
	}
	j, err := ev.LoopRouter().JID(raw)
	if err != nil {
		return r, hasNode, stanza.JIDMalformed, false
	}
	return registration{service: j, node: string(node)}, hasNode, 0, true
}

// enable adds a registration, or replaces its publish options (XEP-0357 section 5), and answers once that is
// durable. Under the account's lock.
func (m *module) enable(ev *session.Stanza) session.Verdict {
	r, _, c, ok := readService(ev)
	if !ok {
		return ev.Fail(c)
	}
	a := ev.Account()
	if r.service.Bare() == a.JID() {
		return ev.Fail(stanza.NotAllowed) // it would be told of its own pushes
	}
	for e, more := ev.Payload().First(); more; e, more = e.Next() {
		if !form.Is(e) {
			continue
		}
		d, err := form.ParseFields(e, form.Limits{Fields: 32, Values: 64, Bytes: maxOptions})
		if err != nil || d.FormType != publishOptions || r.options != nil {
			return ev.Fail(stanza.BadRequest)
		}
		var x xmlstream.Appender
		x.Raw(e)
		if len(x.B) > 2*maxOptions {
			return ev.Fail(stanza.BadRequest)
		}
		r.options = x.B
	}
	p := part.Mutable(a)
	at := -1
	for i := range p.list {
		if p.list[i].key() == r.key() {
			at = i
		}
	}
	if at < 0 && len(p.list) >= maxRegistrations {
		ev.LoopRouter().CountLimit("push")
		return ev.Fail(stanza.ResourceConstraint)
	}
	if at < 0 {
		p.list = append(p.list, &r)
	} else {
		p.list[at] = &r
	}
	if s := states.Get(ev.Host).get(a.ID(), false); s != nil {
		delete(s.services, r.key()) // its client is there, so the service is tried again at once
	}
	b := m.db.NewBatch(a.ID())
	m.rows.Put(b, a.ID(), r.key(), r.row())
	return storage.CommitAndReply(ev, m.db, b)
}

// disable removes one registration, or all of a service (XEP-0357 section 6), and answers once that is
// durable. Under the account's lock.
func (m *module) disable(ev *session.Stanza) session.Verdict {
	r, hasNode, c, ok := readService(ev)
	if !ok {
		return ev.Fail(c)
	}
	a := ev.Account()
	b := m.db.NewBatch(a.ID())
	m.remove(&a.Entity, b, func(x *registration) bool {
		return x.service == r.service && (!hasNode || x.node == r.node)
	})
	return storage.CommitAndReply(ev, m.db, b)
}

// remove removes the registrations of e that which chooses, and what is in memory of them. Without
// registrations nothing of the account stays in memory: its count of messages begins again. Under the lock of
// e.
func (m *module) remove(e *session.Entity, b *store.Batch, which func(r *registration) bool) (n int) {
	p := part.Get(e)
	if p == nil {
		return 0
	}
	var left []*registration
	s := states.Get(e.Host()).get(e.ID(), false)
	for _, r := range p.list {
		if which(r) {
			m.rows.Delete(b, b.Owner(), r.key())
			if s != nil {
				delete(s.services, r.key())
			}
			n++
		} else {
			left = append(left, r)
		}
	}
	p.list = left
	if len(left) == 0 {
		states.Get(e.Host()).drop(e.ID())
	}
	return n
}

// record notes a message that waits, and arms the timer of the account. It allocates nothing if the account
// has no registration. Under the account's lock.
func (m *module) record(ev *session.Stanza) session.Verdict {
	a := ev.Account()
	if a == nil {
		return session.Pass
	}
	p := part.Get(a)
	if p == nil || len(p.list) == 0 {
		return session.Pass
	}
	o := ev.Outcome()
	if o.Refused || ev.Again || !ev.Handling().Push {
		return session.Pass
	}
	wait, asleep := reactor.Tick(0), o.Stored
	if !asleep {
		if asleep, wait = sleeps(ev); !asleep && wait == 0 {
			return session.Pass // its clients have it
		}
	}
	s := states.Get(ev.Host).get(a.ID(), true)
	if s == nil {
		ev.LoopRouter().CountLimit("push")
		return session.Pass
	}
	l := ev.LoopRouter()
	if !asleep {
		s.sent++
		s.sentBy = ev.From.Bare()
		m.arm(l, &a.Entity, s, l.Loop.Tick()+wait)
		return session.Pass
	}
	s.sender = ev.From.Bare()
	ev.PushDue = true // no push leaves if a client comes first, or the service fails
	m.wait(s, p, 1)
	m.arm(l, &a.Entity, s, l.Loop.Tick()+coalesce)
	return session.Pass
}

// wait notes that n messages more wait, which are to be pushed to each service. Under the account's lock.
func (m *module) wait(s *accountState, p *registrations, n int) {
	s.waiting += n
	for _, r := range p.list {
		v := s.service(r.key())
		if v.due || v.asking {
			m.count.coalesced.Add(uint64(n))
		}
		v.due = true
	}
}

// sleeps reports whether a session that took ev has no connection, or a client that acknowledges nothing: the
// client is asleep (XEP-0198). Otherwise wait is how long it may be before that is known; 0: no client
// acknowledges what it gets. Under the account's lock.
func sleeps(ev *session.Stanza) (asleep bool, wait reactor.Tick) {
	for _, s := range ev.Account().Resources() {
		if !ev.DeliveredTo(s) {
			continue
		}
		_, is, in := session.AckOverdue(s, overdue)
		asleep = asleep || is || !s.Connected()
		wait = max(wait, in)
	}
	return asleep, wait
}

// lookForSleepers lets the messages that were sent wait, if a client has not acknowledged what it got for too
// long, or forgets them, if all have. Otherwise it arms the timer. Under the account's lock.
func (m *module) lookForSleepers(l *session.LoopRouter, e *session.Entity, s *accountState, p *registrations,
	sessions []*session.Session) {
	if s.sent == 0 {
		return
	}
	soonest, most := reactor.Tick(0), 0
	for _, o := range sessions {
		n, is, in := session.AckOverdue(o, overdue)
		if is {
			m.wait(s, p, min(s.sent, n))
			s.sent, s.sender = 0, s.sentBy
			return
		}
		most = max(most, n)
		if in > 0 && (soonest == 0 || in < soonest) {
			soonest = in
		}
	}
	s.sent = min(s.sent, most)
	if soonest == 0 {
		s.sent = 0
		return
	}
	m.arm(l, e, s, l.Loop.Tick()+soonest)
}

// arm makes the timer of an account fire at a tick, or earlier. Under the account's lock.
func (m *module) arm(l *session.LoopRouter, e *session.Entity, s *accountState, at reactor.Tick) {
	if s.armedAt != 0 && s.armedAt <= at {
		return
	}
	s.armedAt = at
	h, addr, id := e.Host(), e.JID(), e.ID()
	l.After(at-l.Loop.Tick(), func() {
		if states.Get(h).get(id, false) != s { // what s has is looked at under the lock
			return
		}
		l.WithEntity(h, addr, func(l *session.LoopRouter, e *session.Entity, err error) {
			switch {
			case e == nil || err == nil && e.ID() != id:
				states.Get(h).drop(id)
			case s.armedAt != at:
			case err != nil:
				s.armedAt = 0
				m.arm(l, e, s, l.Loop.Tick()+firstPause)
			default:
				s.armedAt = 0
				m.push(l, e, s)
			}
		})
	})
}

// push pushes to each service that is due and may be told now, and arms the timer for the others. Under the
// account's lock.
func (m *module) push(l *session.LoopRouter, e *session.Entity, s *accountState) {
	now, next := l.Loop.Tick(), reactor.Tick(0)
	if p := part.Get(e); p != nil {
		m.lookForSleepers(l, e, s, p, session.AccountOf(e).Resources())
		for _, r := range p.list {
			v := s.service(r.key())
			switch {
			case !v.due || v.asking:
			case v.after > now:
				m.count.backedOff.Add(1)
				if next == 0 || v.after < next {
					next = v.after
				}
			default:
				m.send(l, e, s, r, v)
			}
		}
	}
	if next != 0 {
		m.arm(l, e, s, next)
	}
	m.forget(e, s)
}

// forget drops the state of an account if nothing of it is worth keeping. Under the account's lock.
func (m *module) forget(e *session.Entity, s *accountState) {
	if s.idle() {
		states.Get(e.Host()).drop(e.ID())
	}
}

// send sends one push. Under the account's lock.
func (m *module) send(l *session.LoopRouter, e *session.Entity, s *accountState, r *registration,
	v *serviceState) {
	key, id, h := r.key(), e.ID(), e.Host()
	err := l.Ask(session.Question{From: e, To: r.service, Set: true, Most: maxRegistrations,
		Payload: func(a *xmlstream.Appender) { m.appendPublish(l, a, s, r) },
		Then: func(l *session.LoopRouter, e *session.Entity, answer *session.Stanza, err error) {
			if e == nil {
				states.Get(h).drop(id)
				return
			}
			s := states.Get(h).get(id, false)
			if s == nil || s.services[key] == nil {
				return // the client has removed the registration, or has made it again
			}
			m.outcome(l, e, s, key, answer, err)
		}})
	if err != nil { // the process has too many requests
		v.after = l.Loop.Tick() + firstPause
		m.arm(l, e, s, v.after)
		return
	}
	v.due, v.asking = false, true
	m.count.sent.Add(1)
}

// appendPublish writes the payload of a push to r: the publish request, with the publish options as they were
// given. The element of the options stays parsed until the push is written.
func (m *module) appendPublish(l *session.LoopRouter, a *xmlstream.Appender, s *accountState,
	r *registration) {
	x := form.Data{Type: form.TypeSubmit, FormType: summaryForm,
		Fields: []form.Field{{Var: "message-count", Values: []string{strconv.Itoa(s.waiting)}}}}
	if m.opt.Sender {
		x.Fields = append(x.Fields, form.Field{Var: "last-message-sender", Values: []string{s.sender.String()}})
	}
	a.Open(pubsub).Open(publish)
	if r.node != "" {
		a.Attr(stanza.AttrNode, r.node)
	}
	a.Open(item).Open(notification)
	x.Append(a)
	a.Close().Close().Close()
	if r.options != nil {
		if e, err := l.Parser.Element(r.options); err == nil {
			a.Open(optionsName).Raw(e).Close()
			l.Parser.Release(e)
		}
	}
	a.Close()
}

// outcome handles the answer to a push, or that there is none. Under the account's lock.
func (m *module) outcome(l *session.LoopRouter, e *session.Entity, s *accountState, key string,
	answer *session.Stanza, err error) {
	v, now := s.services[key], l.Loop.Tick()
	v.asking = false
	switch {
	case err != nil:
		m.count.timedOut.Add(1)
	case answer.Type == stanza.TypeResult:
		m.count.answered.Add(1)
		v.failures, v.failing, v.after = 0, 0, 0
		m.again(l, e, s, v)
		return
	default:
		m.count.failed.Add(1)
		if !mayPass(answer.Element) {
			m.end(l, e, s, key)
			return
		}
	}
	if v.failures++; v.failures == 1 {
		v.failing = now
	}
	if v.failures >= maxFailing && now-v.failing >= failingFor {
		m.end(l, e, s, key)
		return
	}
	v.after = now + reactor.Tick(min(firstPause<<min(v.failures-1, 12), maxPause))
	v.due = s.waiting > 0 // the messages were not pushed
	m.again(l, e, s, v)
}

// again arms the timer for a service that is due. Under the account's lock.
func (m *module) again(l *session.LoopRouter, e *session.Entity, s *accountState, v *serviceState) {
	if v.due {
		m.arm(l, e, s, max(v.after, l.Loop.Tick()+coalesce))
	}
	m.forget(e, s)
}

// end erases a registration. Under the account's lock.
func (m *module) end(l *session.LoopRouter, e *session.Entity, s *accountState, key string) {
	m.count.ended.Add(1)
	delete(s.services, key)
	b := m.db.NewBatch(e.ID())
	if m.remove(e, b, func(r *registration) bool { return r.key() == key }) > 0 {
		e.MarkUncommitted(l, storage.Commit(l, m.db, e, b))
	}
	m.forget(e, s)
}

// mayPass reports whether the error iq is about a state that may pass.
func mayPass(iq xmlstream.Element) bool {
	e, ok := iq.Child(stanza.ErrorName)
	if !ok {
		return false
	}
	if t, _ := e.Attr(stanza.AttrType); string(t) == "wait" {
		return true
	}
	for c, ok := e.First(); ok; c, ok = c.Next() {
		if string(c.Space()) != stanza.NSStanzas {
			continue
		}
		switch string(c.Local()) {
		case "remote-server-not-found", "remote-server-timeout", "internal-server-error", "service-unavailable":
			return true
		}
	}
	return false
}

// available forgets what waits: a client of the account has come. Under the account's lock.
func (m *module) available(_ *session.LoopRouter, s *session.Session) {
	a := s.Account()
	st := states.Get(s.Host()).get(a.ID(), false)
	if st == nil {
		return
	}
	st.waiting, st.sent, st.armedAt = 0, 0, 0
	for _, v := range st.services {
		v.due = false
	}
	m.forget(&a.Entity, st)
}

// A Registration is one row, for the operator's commands.
type Registration struct {
	Service string `json:"service"` // the address of the push service
	Node    string `json:"node"`    // the node there
	Options int    `json:"options"` // bytes of the publish options, which may have secrets
}

// List returns the registrations of the account with the id, in the order of their keys. Any goroutine.
func List(db *store.DB, snap *store.Snapshot, id uint64) (list []Registration, err error) {
	table, err := store.MapOf(db.Tables(), rows)
	if err != nil {
		return nil, err
	}
	err = table.Scan(snap, id, "", func(key string, row []byte) bool {
		service, node, _ := strings.Cut(key, "\x00")
		list = append(list, Registration{service, node, max(len(row)-1, 0)})
		return true
	})
	return list, err
}
