// Package roster keeps each account's contact list (RFC 6121 §2) and the subscription states in it.
//
//	C: <iq type='set' id='1'><query xmlns='jabber:iq:roster'><item jid='juliet@localhost' name='Juliet'/></query></iq>
//	S: <iq type='set' id='push-1' to='romeo@localhost/orchard'><query xmlns='jabber:iq:roster' ver='1'><item jid='juliet@localhost' name='Juliet' subscription='none'/></query></iq>
//	S: <iq type='result' id='1'/>
//
// State in a session: the kernel's "interested" flag, set by the first request. Resident in an
// account: the whole roster, shared by its sessions. Stored: one row for each contact and one for
// the version, keyed by the account's id. Versioning (§2.6) answers an empty result to a client that
// has the current version, and the whole roster to any other.
package roster

import (
	"slices"
	"strconv"

	"canto/session"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "roster",
	Spec:     "RFC 6121 section 2",
	Summary:  "keeps contact lists",
	Cases:    "get, set, remove, push, versioning; group and name limits",
	Provides: []session.Feature{"roster"},
	Requires: []session.Feature{"accounts", "iq", "resident", "commit", "stream-features", "store"},
	Options:  func() any { o := defaultOptions(); return &o },
	New:      func() session.Module { return new(Service) },
}

const ns = "jabber:iq:roster"

var (
	query    = xmlstream.N(ns, "query")
	itemName = xmlstream.N(ns, "item")
	group    = xmlstream.N(ns, "group")
	verName  = xmlstream.N("urn:xmpp:features:rosterver", "ver")
	preName  = xmlstream.N("urn:xmpp:features:pre-approval", "sub")
	askAttr  = xmlstream.N("", "ask")
	approved = xmlstream.N("", "approved")
)

// Limits of one contact, in bytes and in groups; more is not-acceptable (RFC 6121 §2.3.3).
const (
	maxName   = 1023
	maxGroups = 32
)

// MaxRequest is the longest presence of type subscribe that is kept until it is answered, in bytes: it is
// kept whole or not at all (RFC 6121 §3.1.3). A user's own presence stanza, of 16 KiB at most, fits with
// its addresses.
const MaxRequest = 24 << 10

// What max_bytes may be. The least has room for one contact with the longest name and all groups of full
// length.
const (
	minBytes = 64 << 10
	maxBytes = 1 << 30
)

// An Item is one contact. Its strings are parts of the roster they came from, and stay good.
type Item struct {
	JID    jid.JID // bare, or a domain
	Name   string
	Groups Groups
	State
	// Listed: the user has the contact in the roster. One that has only asked is kept too, and is
	// not shown (RFC 6121 §A.1: a state of "None + Pending In" is no roster item).
	Listed bool
	// Request is the presence of type subscribe that waits for an answer, as it came.
	Request string
}

func (it *Item) empty() bool { return !it.Listed && it.State == State{} }

var part = session.NewPart[Roster]("roster")

// Of is the roster of a: under its lock, while it is resident; nil on a host without the module, which is an
// empty one.
func Of(a *session.Account) *Roster { return part.Get(a) }

// Options are the module's section of the configuration. More than they say is resource-constraint.
type Options struct {
	// MaxItems is how many contacts an account may have; as many others may wait for an answer.
	MaxItems int `toml:"max_items"`
	// MaxBytes bounds all that is kept of one account: three quarters are for its contacts, measured as a client
	// gets them; one quarter is for requests that wait for an answer, of all senders together.
	MaxBytes int `toml:"max_bytes"`
}

// Check is [session.OptionChecker].
func (o *Options) Check() (key, why string) {
	return session.CheckRanges(
		session.OptionRange{Key: "max_items", Value: o.MaxItems, Min: 1, Max: 100_000},
		session.OptionRange{Key: "max_bytes", Value: o.MaxBytes, Min: minBytes, Max: maxBytes})
}

// A Service is the module of one profile; [session.Lookup] gives it to modules that change rosters.
type Service struct {
	opt          Options
	db           *table
	firstVersion uint64 // the lowest version given since the start
}

// defaultOptions has room for 5,000 contacts of ordinary size, 120 bytes each in the roster's XML, which
// are 600 kB.
func defaultOptions() Options { return Options{MaxItems: 5000, MaxBytes: 1 << 20} }

// Load adds the handlers and offers the Service.
func (m *Service) Load(api *session.API) error {
	m.opt = defaultOptions()
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	var err error
	if m.db, err = openTable(api); err != nil {
		return err
	}
	// A version that was pushed and lost in a crash is not given again to another roster.
	m.firstVersion = uint64(api.Router.Incarnation)<<20 + 1
	session.Resident(api, part, m.db.load)
	api.Hooks.OnIQ(api.Module, false, query, m.get, session.ToSelf)
	api.Hooks.OnIQ(api.Module, true, query, m.set, session.ToSelf)
	for _, t := range []session.Target{session.ToBare, session.ToFull, session.ToHost} {
		api.Hooks.PreIQ[t].Add(api.Module, session.Guard, refuseForeign)
	}
	feature := func(n xmlstream.Name) session.StreamFeature {
		return session.StreamFeature{
			Name:    n,
			Needs:   session.HasUser,
			Forbids: session.HasResource | session.S2S,
			Offer:   func(_ session.Negotiation, a *xmlstream.Appender) { a.Open(n).Close() },
		}
	}
	api.Hooks.Features = append(api.Hooks.Features, feature(verName), feature(preName))
	session.Provide(api, m)
	return nil
}

// refuseForeign refuses a roster set for an account that is not the sender's (RFC 6121 §2.1.5, §2.3.3),
// before anything is looked up, so that the answer says nothing of the address.
func refuseForeign(ev *session.Stanza) session.Verdict {
	if ev.Type != stanza.TypeSet || !ev.Payload().Is(query) || ev.To.Bare() == ev.Account().JID() {
		return session.Pass
	}
	if _, ours := ev.LoopRouter().Router().Table.Host(ev.To.Domain()); !ours {
		return session.Pass // another server's to say
	}
	return ev.Fail(stanza.Forbidden)
}

func (m *Service) get(ev *session.Stanza) session.Verdict {
	r := Of(ev.Account())
	ev.Session.SetInterested()
	have, asks := ev.Payload().Attr(stanza.AttrVer)
	version := strconv.FormatUint(r.Version(), 10)
	if asks && string(have) == version {
		return ev.Reply(nil) // RFC 6121 §2.6.3: the client has it
	}
	return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) {
		a.Open(query)
		if asks {
			a.Attr(stanza.AttrVer, version)
		}
		for it := range r.All() {
			if it.Listed {
				it.append(a)
			}
		}
		a.Close()
	})
}

func (it *Item) append(a *xmlstream.Appender) {
	a.Open(itemName).Attr(stanza.AttrJID, it.JID.String())
	if it.Name != "" {
		a.Attr(stanza.AttrName, it.Name)
	}
	if !it.Listed {
		a.Attr(stanza.AttrSubscription, "remove").Close()
		return
	}
	a.Attr(stanza.AttrSubscription, it.Subscription())
	if it.PendingOut {
		a.Attr(askAttr, "subscribe")
	}
	if it.Approved {
		a.Attr(approved, "true")
	}
	for g := range it.Groups.All() {
		a.Open(group).Text(g).Close()
	}
	a.Close()
}

// set changes or removes one contact (RFC 6121 §2.3 to §2.5).
func (m *Service) set(ev *session.Stanza) session.Verdict {
	e, ok := ev.Payload().First()
	if !ok || !e.Is(itemName) {
		return ev.Fail(stanza.BadRequest)
	}
	if _, more := e.Next(); more {
		return ev.Fail(stanza.BadRequest) // §2.1.5: exactly one
	}
	raw, _ := e.Attr(stanza.AttrJID)
	who, err := ev.LoopRouter().JID(raw)
	if err != nil || who.IsZero() {
		return ev.Fail(stanza.JIDMalformed)
	}
	who = who.Bare()
	a := ev.Account()
	if who == a.JID() {
		return ev.Fail(stanza.NotAllowed) // oneself is no contact
	}
	r := Of(a)
	it, _ := r.Get(who)
	if sub, _ := e.Attr(stanza.AttrSubscription); string(sub) == "remove" {
		if !it.Listed {
			return ev.Fail(stanza.ItemNotFound) // §2.5.3
		}
		return m.remove(ev, a, it)
	}
	it.JID = who
	name, _ := e.Attr(stanza.AttrName)
	if len(name) > maxName {
		return ev.Fail(stanza.NotAcceptable)
	}
	it.Name = string(name)
	var groups []string
	for c, ok := e.First(); ok; c, ok = c.Next() {
		if !c.Is(group) {
			continue
		}
		g := string(c.Text())
		if g == "" || len(g) > maxName || len(groups) == maxGroups {
			return ev.Fail(stanza.NotAcceptable) // §2.3.3
		}
		if slices.Contains(groups, g) {
			return ev.Fail(stanza.BadRequest)
		}
		groups = append(groups, g)
	}
	it.Groups = packGroups(groups)
	it.Listed = true
	if m.Full() || !m.Fits(a, &it) {
		return ev.Fail(stanza.ResourceConstraint) // before resources are told by a push
	}
	return ev.Commit(m.put(ev.LoopRouter(), a, it, true), result)
}

// remove takes a contact out; what bound the two is ended as if both subscriptions had been
// cancelled (RFC 6121 §2.5.2).
func (m *Service) remove(ev *session.Stanza, a *session.Account, it Item) session.Verdict {
	if m.Full() { // before the contact and the resources are told
		return ev.Fail(stanza.ResourceConstraint)
	}
	send := func(from jid.JID, typ string) {
		ap := ev.Appender()
		ap.Open(stanza.PresenceName).Attr(stanza.AttrType, typ).Close()
		ev.Send(from, it.JID, ap.B)
	}
	if it.From {
		for _, s := range a.Resources() {
			if s.Available() {
				send(s.JID(), "unavailable")
			}
		}
	}
	if it.To || it.PendingOut {
		send(a.JID(), "unsubscribe")
	}
	if it.From || it.PendingIn {
		send(a.JID(), "unsubscribed")
	}
	return ev.Commit(m.Put(ev.LoopRouter(), a, Item{JID: it.JID}), result)
}

func result(ev *session.Stanza, err error) session.Verdict {
	if err != nil {
		return ev.FailCommit(err)
	}
	return ev.Reply(nil)
}

// Put makes it the contact's item, an empty one removes it, gives the change to the store, and sends
// the roster push (RFC 6121 §2.1.6) if what the user sees has changed. Under a's lock.
func (m *Service) Put(l *session.LoopRouter, a *session.Account, it Item) session.Ticket {
	old, _ := Of(a).Get(it.JID)
	return m.put(l, a, it, !it.looksLike(&old))
}

// put is Put with a push or without; a roster set is pushed whatever it changed (§2.3.2).
func (m *Service) put(l *session.LoopRouter, a *session.Account, it Item, seen bool) session.Ticket {
	r := part.Mutable(a)
	if seen {
		r.version = max(r.version+1, m.firstVersion)
	}
	r.put(it)
	t := m.db.save(a, &it, r.version)
	a.MarkUncommitted(l, t)
	if seen {
		push(l, a, &it, r.version)
	}
	return t
}

// looksLike reports whether a client sees no difference between two items of one contact.
func (it *Item) looksLike(o *Item) bool {
	if !it.Listed || !o.Listed {
		return it.Listed == o.Listed
	}
	return it.Name == o.Name && it.Groups == o.Groups && it.Subscription() == o.Subscription() &&
		it.PendingOut == o.PendingOut && it.Approved == o.Approved
}

// push tells every interested resource.
func push(l *session.LoopRouter, a *session.Account, it *Item, version uint64) {
	v := strconv.FormatUint(version, 10)
	for _, s := range a.Resources() {
		if !s.Interested() {
			continue
		}
		ap := l.Appender()
		ap.Open(stanza.IQName).Attr(stanza.AttrType, "set").Attr(stanza.AttrID, "push-"+v).Attr(stanza.AttrTo,
			s.JID().String())
		ap.Open(query).Attr(stanza.AttrVer, v)
		it.append(ap)
		ap.Close().Close()
		s.Send(session.OutboundStanza{Bytes: ap.B, Kind: stanza.IQ})
	}
}

// Full reports whether the store refuses writes: a change that is made all the same would be taken back.
// Any goroutine.
func (m *Service) Full() bool { return m.db.db.Full() != nil }

// Fits reports whether a's roster has room for it in the place of what it has of that contact. What takes
// no more than before always fits, as a roster may be older than its limits. Under a's lock.
func (m *Service) Fits(a *session.Account, it *Item) bool {
	r := Of(a)
	old, _ := r.Get(it.JID)
	hadListed, hadAsked := old.usage()
	listed, asked := it.usage()
	var now Roster
	if r != nil {
		now = *r
	}
	requests := m.opt.MaxBytes / 4
	fits := func(total, had, want usage, bytes int) bool {
		return (want.rows <= had.rows || int(total.rows-had.rows+want.rows) <= m.opt.MaxItems) &&
			(want.bytes <= had.bytes || int(total.bytes-had.bytes+want.bytes) <= bytes)
	}
	if !fits(now.listed, hadListed, listed, m.opt.MaxBytes-requests) {
		return false
	}
	// Long requests may fill half of the share: a few of them don't keep the usual ones out.
	if asked.bytes > usualRequest {
		requests /= 2
	}
	return fits(now.requests, hadAsked, asked, requests)
}

// usualRequest is the most that a request without extended content takes, with its sender's address.
const usualRequest = 4 << 10
