// Package stanzaids gives each message that an account gets an id of the account's own (XEP-0359), and
// takes out ids that somebody else wrote in its name.
//
//	juliet gets: <message from='romeo@localhost/orchard' to='juliet@localhost' type='chat'><body>Hi</body>
//	             <stanza-id xmlns='urn:xmpp:sid:0' id='...' by='juliet@localhost'/></message>
//
// Resident: nothing; ids are drawn for the whole process, so that none depends on what is in memory of an
// account. Stored: the lease below which ids are drawn, so that none is given twice, whatever a crash or
// the clock does; while it is used up, which a store that fails for a minute brings about, messages pass
// without an id. Phase Rewrite, before whatever keeps or copies the message. Ids are 64 bits of time,
// node and counter, so that they are in the order of the account's messages.
package stanzaids

import (
	"context"
	"errors"
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

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "stanzaids",
	Spec:     "XEP-0359 0.7.0",
	Summary:  "numbers messages",
	Cases:    "stanza-id by the account, forged ones removed; origin-id passes",
	Provides: []session.Feature{"stanza-id"},
	Requires: []session.Feature{"accounts", "message", "store"},
	New:      func() session.Module { return new(module) },
}

const ns = "urn:xmpp:sid:0"

var (
	stanzaIDName = xmlstream.N(ns, "stanza-id")
	byAttr       = xmlstream.N("", "by")
	attrs        = []xmlstream.Name{stanza.AttrType, stanza.AttrID, stanza.AttrFrom, stanza.AttrTo,
		stanza.AttrLang}
)

// The lease is kept between low and long ahead of the clock: a store may fail that long, and after a
// crash ids are ahead of the time by no more.
const (
	leaseAhead = 60 * time.Second
	leaseLow   = 30 * time.Second
	// leaseCheckTicks is how often an idle server looks at it, in ticks.
	leaseCheckTicks reactor.Tick = 100
)

type module struct {
	now         wallclock.Clock
	node        uint16
	storedLease *store.Lease
	generator   *stanzaid.SharedGenerator
	lease       *stanzaid.Lease // of source
	checking    atomic.Bool     // the lease is looked at by the clock
	unloaded    atomic.Bool
}

func (m *module) Load(api *session.API) error {
	m.now, m.node = wallclock.Of(api), api.Router.Node
	db := storage.DB(api)
	if db == nil {
		return errors.New("there is no store")
	}
	var err error
	if m.storedLease, err = db.Lease("stanzaids"); err != nil {
		return err
	}
	m.generator = m.storedLease.Value(func() any {
		return stanzaid.NewSharedGenerator(stanzaid.NewLease(m.storedLease.Floor()))
	}).(*stanzaid.SharedGenerator)
	m.lease = m.generator.Lease()
	// A store that can't write now may be able to later: until then there are no ids.
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

// extend takes over what has become durable of the lease, and asks for more when it runs low.
func (m *module) extend(now time.Time) (t store.Ticket) {
	m.lease.Extend(m.storedLease.Until())
	if m.lease.Low(now, leaseLow) {
		t = m.storedLease.Extend(m.lease.Next(now, leaseAhead))
	}
	return t
}

// checkLease keeps the lease ahead of the clock while nobody sends anything.
func (m *module) checkLease(l *session.LoopRouter) {
	if m.unloaded.Load() {
		return
	}
	m.extend(m.now())
	l.After(leaseCheckTicks, func() { m.checkLease(l) })
}

// Unload ends the looking.
func (m *module) Unload() error {
	m.unloaded.Store(true)
	return nil
}

// nextID is the next id, above every one before.
func (m *module) nextID() (stanzaid.ID, error) {
	now := m.now()
	m.extend(now)
	return m.generator.Next(now.UnixMilli(), m.node)
}

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
		return session.Pass // better none than one that another message may have
	}
	var text [stanzaid.TextLen]byte
	ap := ev.Appender()
	ap.Open(stanzaIDName).AttrBytes(stanza.AttrID, id.Append(text[:0])).Attr(byAttr, a.JID().String()).Close()
	ev.Add(ap.B)
	return session.Pass
}

// forged reports whether c claims to be by this account; one that names nobody does.
func (m *module) forged(ev *session.Stanza, c xmlstream.Element) bool {
	by, _ := c.Attr(byAttr)
	j, err := ev.LoopRouter().JID(by)
	return err != nil || j == ev.Account().JID()
}

// strip writes the message again without them.
func (m *module) strip(ev *session.Stanza) error {
	a := ev.Appender()
	a.Open(stanza.MessageName)
	e := ev.Element
	for _, n := range attrs { // those that RFC 6120 §8.1 gives a stanza
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
