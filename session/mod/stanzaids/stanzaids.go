// Package stanzaids implements unique stanza ids (XEP-0359): each message that an account receives gets an
// id of that account. Ids in the account's name that the sender has written are removed.
//
//	juliet gets: <message from='romeo@localhost/orchard' to='juliet@localhost' type='chat'><body>Hi</body>
//	             <stanza-id xmlns='urn:xmpp:sid:0' id='...' by='juliet@localhost'/></message>
//
// An id has 64 bits of time, node and counter, so the ids of an account's messages are in the order of the
// messages. No id is given twice, not even after a crash or a step of the clock back: ids stay below a
// lease, an upper bound that is durable in the store before it is used. When the store fails for a minute
// the lease is used up; messages then pass without an id.
//
// In memory: the generator and the lease, one for the whole process, so that ids do not depend on the
// accounts in memory. Stored: the lease.
//
// Hooks: Message in phase Rewrite, under the recipient's lock, so that storing and copying hooks see the
// id; Bound, which starts the periodic check of the lease.
package stanzaids

import (
	"context"
	"sync/atomic"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/stanza"
	"canto/session/stanzaid"
	"canto/session/storage"
	"canto/session/store"
	"canto/session/wallclock"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "stanzaids",
	Spec:     "XEP-0359 0.7.0",
	Summary:  "numbers messages",
	Cases:    "stanza-id by the account, forged ones removed; origin-id passes",
	Provides: []session.Feature{"stanza-id"},
	Requires: []session.Feature{"accounts", "message", "store"},
	New:      func() session.Module { return new(module) },
}

// ns is the namespace of stanza ids.
const ns = "urn:xmpp:sid:0"

// The names of the elements and attributes. attrs are the attributes that RFC 6120 section 8.1 gives a
// stanza.
var (
	stanzaIDName = xmlstream.N(ns, "stanza-id")
	byAttr       = xmlstream.N("", "by")
	attrs        = []xmlstream.Name{stanza.AttrType, stanza.AttrID, stanza.AttrFrom, stanza.AttrTo,
		stanza.AttrLang}
)

// The lease ends between leaseLow and leaseAhead after the present time. The store may fail for that long
// before ids run out, and after a crash the ids are ahead of the time by no more than that.
const (
	leaseAhead = 60 * time.Second
	leaseLow   = 30 * time.Second
	// leaseCheckTicks is the time between two periodic checks: 10 s. It must be less than leaseLow.
	leaseCheckTicks reactor.Tick = 100
)

// A module is the module of one profile. All profiles share the generator and the leases; any loop uses
// them.
type module struct {
	now         wallclock.Clock
	node        uint16                    // the number of this node, a part of each id
	storedLease *store.Lease              // the lease in the store
	generator   *stanzaid.SharedGenerator // makes ids below its lease
	lease       *stanzaid.Lease           // the lease of the generator
	checking    atomic.Bool               // the periodic check runs
	unloaded    atomic.Bool               // the periodic check ends
}

// Load implements [session.Module]. It waits until the first lease is durable, and then asks for the next.
// If the store can't write now, messages get no ids until it can. It fails if there is no store.
func (m *module) Load(api *session.API) error {
	m.now, m.node = wallclock.Of(api), api.Router.Node
	db, err := storage.Open(api)
	if err != nil {
		return err
	}
	if m.storedLease, err = db.Lease("stanzaids"); err != nil {
		return err
	}
	m.generator = m.storedLease.Value(func() any {
		return stanzaid.NewSharedGenerator(stanzaid.NewLease(m.storedLease.Floor()))
	}).(*stanzaid.SharedGenerator)
	m.lease = m.generator.Lease()
	// The error is ignored: extend tries again with each message.
	_ = db.Wait(context.Background(), m.extend(m.now()))
	m.extend(m.now())
	for _, t := range []session.Target{session.ToSelf, session.ToBare, session.ToFull} {
		api.Hooks.Message[t].Add(api.Module, session.Rewrite, m.addID)
	}
	api.Hooks.Bound.Add(api.Module, session.Rewrite, func(l *session.LoopRouter, _ *session.Session) {
		if !m.checking.Swap(true) {
			m.checkLease(l)
		}
	})
	api.Advertise(ns)
	api.AdvertiseAccount(ns)
	return nil
}

// extend gives the generator the part of the lease that has become durable, and asks the store for more if
// less than leaseLow is left. It returns the ticket of that request, or 0, and does not wait. Any
// goroutine.
func (m *module) extend(now time.Time) (t store.Ticket) {
	m.lease.Extend(m.storedLease.Until())
	if m.lease.Low(now, leaseLow) {
		t = m.storedLease.Extend(m.lease.Next(now, leaseAhead))
	}
	return t
}

// checkLease keeps the lease ahead of the clock while no messages arrive. It runs on the loop of l until
// the module is unloaded.
func (m *module) checkLease(l *session.LoopRouter) {
	if m.unloaded.Load() {
		return
	}
	m.extend(m.now())
	l.After(leaseCheckTicks, func() { m.checkLease(l) })
}

// Unload implements [session.Unloader]: it ends the periodic check.
func (m *module) Unload() error {
	m.unloaded.Store(true)
	return nil
}

// nextID returns an id that is greater than all ids before it, or an error if the lease is used up. Any
// goroutine.
func (m *module) nextID() (stanzaid.ID, error) {
	now := m.now()
	m.extend(now)
	return m.generator.Next(now.UnixMilli(), m.node)
}

// addID removes forged ids from a message and adds the account's own. Errors get no id. If the lease is
// used up, the message passes without one, because an id that another message may have is worse than none.
// Under the recipient's lock.
func (m *module) addID(ev *session.Stanza) session.Verdict {
	if ev.Type == stanza.TypeError {
		return session.Pass
	}
	a := ev.Account()
	for c, ok := ev.Element.First(); ok; c, ok = c.Next() {
		if c.Is(stanzaIDName) && m.forged(ev, c) {
			if err := m.strip(ev); err != nil {
				return ev.Fail(stanza.BadRequest)
			}
			break
		}
	}
	id, err := m.nextID()
	if err != nil {
		ev.LoopRouter().CountLimit("stanza-id-lease")
		return session.Pass
	}
	var text [stanzaid.TextLen]byte
	ap := ev.Appender()
	ap.Open(stanzaIDName).AttrBytes(stanza.AttrID, id.Append(text[:0])).Attr(byAttr, a.JID().String()).Close()
	ev.Add(ap.B)
	return session.Pass
}

// forged reports whether the stanza-id c claims to be by this account. One whose 'by' is no valid address
// counts as forged too.
func (m *module) forged(ev *session.Stanza, c xmlstream.Element) bool {
	by, _ := c.Attr(byAttr)
	j, err := ev.LoopRouter().JID(by)
	return err != nil || j == ev.Account().JID()
}

// strip replaces the message by one without forged ids. It fails if the new element can't be parsed.
func (m *module) strip(ev *session.Stanza) error {
	a := ev.Appender()
	a.Open(stanza.MessageName)
	e := ev.Element
	for _, n := range attrs {
		if v, ok := e.Attr(n); ok {
			a.AttrBytes(n, v)
		}
	}
	for c, ok := e.First(); ok; c, ok = c.Next() {
		if !c.Is(stanzaIDName) || !m.forged(ev, c) {
			a.Raw(c)
		}
	}
	a.Close()
	return ev.Replace(a.B)
}
