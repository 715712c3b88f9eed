// Package stanzaids gives archived messages their ids (XEP-0359), and removes ids in the account's name that
// the sender has written.
//
//	juliet gets: <message from='romeo@localhost/orchard' to='juliet@localhost' type='chat'><body>Hi</body>
//	             <stanza-id xmlns='urn:xmpp:sid:0' id='...' by='juliet@localhost'/></message>
//
// An id promises that the message is in the account's archive, so module archive adds the element, and only
// to copies for those who may read the archive (XEP-0313 section 3.4). This package has what is needed for
// it: [IDs], which draws ids and writes them.
//
// An id has 64 bits of time, node and counter, so the ids of an account's messages are in the order of the
// messages. On the wire they are encrypted ([stanzaid.Cipher]): they must be unpredictable. No id is given
// twice, not even after a crash or a step of the clock back: ids stay below a lease, an upper bound that is
// durable in the store before it is used. When the store fails for a minute the lease is used up; no message
// can be archived then.
//
// In memory: the generator and the lease, one for the whole process, so that ids do not depend on the
// accounts in memory. Stored: the lease, and the key of the cipher.
//
// Hooks: Message and PreMessage in phase Rewrite, under the lock of the account whose ids are removed;
// Message in phase Archive, which numbers messages; Bound, which starts the periodic check of the lease.
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
	Summary:  "ids of archived messages",
	Cases:    "ids are unpredictable and in order, forged ones are removed; origin-id passes",
	Provides: []session.Feature{"stanza-id"},
	Requires: []session.Feature{"accounts", "message", "store"},
	New:      func() session.Module { return module{new(IDs)} },
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

// IDs draws the ids of archived messages, and writes and reads them as they are on the wire. Module archive
// looks it up. All profiles share the generator, the leases and the key. Any goroutine.
type IDs struct {
	now         wallclock.Clock
	cipher      *stanzaid.Cipher
	node        uint16                    // the number of this node, a part of each id
	storedLease *store.Lease              // the lease in the store
	generator   *stanzaid.SharedGenerator // makes ids below its lease
	lease       *stanzaid.Lease           // the lease of the generator
	checking    atomic.Bool               // the periodic check runs
	unloaded    atomic.Bool               // the periodic check ends
}

// A module is the module of one profile.
type module struct{ *IDs }

// secretName is the name of the cipher's key in the store.
const secretName = "stanza-ids"

// NewCipher returns the cipher of the ids of a store. It makes the key if there is none. It may wait for the
// disk: for Load and for commands.
func NewCipher(db *store.DB) (*stanzaid.Cipher, error) {
	_, key, err := db.Secrets().Current(secretName)
	if err != nil {
		return nil, err
	}
	return stanzaid.NewCipher(key), nil
}

// Load implements [session.Module]. It waits until the first lease is durable, and then asks for the next.
// If the store can't write now, messages get no ids until it can. It fails if there is no store.
func (m module) Load(api *session.API) error {
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
	if m.cipher, err = NewCipher(db); err != nil {
		return err
	}
	for _, t := range []session.Target{session.ToSelf, session.ToBare, session.ToFull} {
		api.Hooks.Message[t].Add(api.Module, session.Rewrite, m.removeForged)
		api.Hooks.Message[t].Add(api.Module, session.Archive, m.number)
	}
	for _, t := range session.Targets {
		api.Hooks.PreMessage[t].Add(api.Module, session.Rewrite, m.removeForged)
	}
	session.Provide(api, m.IDs)
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
func (m *IDs) extend(now time.Time) (t store.Ticket) {
	m.lease.Extend(m.storedLease.Until())
	if m.lease.Low(now, leaseLow) {
		t = m.storedLease.Extend(m.lease.Next(now, leaseAhead))
	}
	return t
}

// checkLease keeps the lease ahead of the clock while no messages arrive. It runs on the loop of l until
// the module is unloaded.
func (m *IDs) checkLease(l *session.LoopRouter) {
	if m.unloaded.Load() {
		return
	}
	m.extend(m.now())
	l.After(leaseCheckTicks, func() { m.checkLease(l) })
}

// Unload implements [session.Unloader]: it ends the periodic check.
func (m *IDs) Unload() error {
	m.unloaded.Store(true)
	return nil
}

// Next returns an id that is greater than all ids before it, or an error if the lease is used up.
func (m *IDs) Next() (stanzaid.ID, error) {
	now := m.now()
	m.extend(now)
	return m.generator.Next(now.UnixMilli(), m.node)
}

// Append appends the id of the archive of owner to dst, as it is on the wire.
func (m *IDs) Append(dst []byte, owner uint64, id stanzaid.ID) []byte {
	return m.cipher.Append(dst, owner, id)
}

// Parse returns the id of the archive of owner that text stands for: see [stanzaid.Cipher.Parse].
func (m *IDs) Parse(text []byte, owner uint64) (stanzaid.ID, error) {
	return m.cipher.Parse(text, owner)
}

// AppendElement appends to a the <stanza-id/> element of the message id in the archive of owner, whose bare
// JID is by.
func (m *IDs) AppendElement(a *xmlstream.Appender, owner uint64, by string, id stanzaid.ID) {
	a.Open(stanzaIDName).Attr(stanza.AttrID, placeholder)
	n := len(a.B) // behind the quotation mark
	a.B = m.cipher.Append(a.B, owner, id)
	copy(a.B[n-1-stanzaid.WireLen:], a.B[n:])
	a.B = a.B[:n]
	a.Attr(byAttr, by).Close()
}

// placeholder stands where an id is written, so that its text needs no memory of its own.
const placeholder = "00000000000000000000000000"

// number gives a message that may be stored its number. If the lease is used up it has none: a module that
// has to store it refuses it then, because a number that another message may have is worse than none. It is
// the first hook of phase Archive, under the recipient's lock.
func (m *IDs) number(ev *session.Stanza) session.Verdict {
	if h := ev.Handling(); ev.Number != 0 || !h.Archive && !h.Keep {
		return session.Pass
	}
	id, err := m.Next()
	if err != nil {
		ev.LoopRouter().CountLimit("stanza-id-lease")
		return session.Pass
	}
	ev.Number = id
	return session.Pass
}

// removeForged removes the ids in the account's name that the sender of a message has written (XEP-0359
// section 5), also from an error, which a sender may write as it likes. The account is the recipient, and in
// a Pre chain the sender. Under its lock.
func (m *IDs) removeForged(ev *session.Stanza) session.Verdict {
	for c, ok := ev.Element.First(); ok; c, ok = c.Next() {
		if c.Is(stanzaIDName) && m.forged(ev, c) {
			if err := m.strip(ev); err != nil {
				return ev.Fail(stanza.BadRequest)
			}
			break
		}
	}
	return session.Pass
}

// forged reports whether the stanza-id c claims to be by this account. One whose 'by' is no valid address
// counts as forged too.
func (m *IDs) forged(ev *session.Stanza, c xmlstream.Element) bool {
	by, _ := c.Attr(byAttr)
	j, err := ev.LoopRouter().JID(by)
	return err != nil || j == ev.Account().JID()
}

// strip replaces the message by one without forged ids. It fails if the new element can't be parsed.
func (m *IDs) strip(ev *session.Stanza) error {
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
