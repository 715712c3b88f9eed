// Package roster implements the contact list of an account (RFC 6121 section 2). It also keeps the
// subscription state of each contact, which module presence changes.
//
//	C: <iq type='set' id='1'><query xmlns='jabber:iq:roster'>
//	     <item jid='juliet@localhost' name='Juliet'/></query></iq>
//	S: <iq type='set' id='push-1048577' to='romeo@localhost/orchard'>
//	   <query xmlns='jabber:iq:roster' ver='1048577'>
//	     <item jid='juliet@localhost' name='Juliet' subscription='none'/></query></iq>
//	S: <iq type='result' id='1'/>
//
// How it works. An account is warm while package session, the kernel, has its stored state in memory; hooks
// run only then. The roster of a warm account is in memory as a [Roster], which is packed (packed.go). A
// change is made in memory under the account's lock, given to the store (table.go), and pushed to the
// sessions that asked for the roster. The answer to a roster set waits until the change is durable. If the
// write fails, the kernel reloads the roster and the client gets an error. state.go has the transitions of
// subscription states. Other modules read a roster by [Of], and change it by [Service.Put].
//
// Versioning (section 2.6): a client that has the current version gets an empty result, any other client
// gets the whole roster. Results and pushes may have a version that is not durable yet: see Load.
//
// In memory, in a session: the kernel's flag "interested", set by the first roster request. In memory, in
// a warm account: the roster, shared by its sessions. Stored: one row for each contact and one for the
// version, keyed by the account's id.
//
// Hooks: the iq handlers for get and set, under the account's lock; PreIQ in phase Guard, which refuses a
// roster set for another account. The module also offers the stream features of roster versioning and of
// subscription pre-approval (section 3.4).
package roster

import (
	"slices"
	"strconv"

	"canto/session"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
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

// ns is the namespace of roster requests.
const ns = "jabber:iq:roster"

// The names of the elements and attributes in roster requests and stream features.
var (
	queryName    = xmlstream.N(ns, "query")
	itemName     = xmlstream.N(ns, "item")
	groupName    = xmlstream.N(ns, "group")
	verName      = xmlstream.N("urn:xmpp:features:rosterver", "ver")
	preName      = xmlstream.N("urn:xmpp:features:pre-approval", "sub")
	askAttr      = xmlstream.N("", "ask")
	approvedAttr = xmlstream.N("", "approved")
)

// The limits of one contact. A roster set beyond them is answered with not-acceptable (RFC 6121 section
// 2.3.3).
const (
	maxName   = 1023 // bytes of the contact's name, or of the name of a group
	maxGroups = 32   // groups of one contact
)

// MaxRequest is the longest subscription request that is kept until the user answers it, in bytes; the option
// max_bytes may allow less. A request is kept whole or refused (RFC 6121 section 3.1.3). A request of a user
// of this server fits: module presence allows 16 KiB for the stanza, and its addresses have at most 3 KiB
// each.
const MaxRequest = 24 << 10

// The range of the option max_bytes. The minimum has space for one contact with the longest name and the most
// groups, each with the longest name, if these need no XML escaping.
const (
	minBytes = 64 << 10
	maxBytes = 1 << 30
)

// An Item is one contact, unpacked. It is a value; its strings share memory with the roster that it was
// read from. That memory never changes, so an Item stays valid without the account's lock.
type Item struct {
	JID    jid.JID // a bare JID, or a domain
	Name   string  // what the user calls the contact
	Groups Groups  // the groups that the user has put the contact into
	State          // the subscription state
	// Listed reports whether the contact is in the roster that the client sees. A contact that has asked for
	// a subscription, and no more, has an Item that is not listed: RFC 6121 section A.1 says that a state of
	// "None + Pending In" is no roster item.
	Listed bool
	// Request is the presence stanza of type subscribe that waits for the user's answer, as it arrived.
	Request string
}

// empty reports whether it has nothing that must be stored: the contact is not listed and has no
// subscription state.
func (it *Item) empty() bool { return !it.Listed && it.State == State{} }

// part is the module's part of the resident set.
var part = session.NewPart[Roster]("roster")

// Of returns the roster of a, to be read under the lock of a. It is nil if nothing is stored, and on a
// host without the module; a nil Roster is an empty one.
func Of(a *session.Account) *Roster { return part.Get(a) }

// Options is the module's section of the configuration. A change over one of these limits is answered with
// resource-constraint.
type Options struct {
	// MaxItems is how many contacts an account may have. A second limit has the same number: the users who
	// are not contacts, and who have a subscription request that waits for the user's answer.
	MaxItems int `toml:"max_items"`
	// MaxBytes bounds the roster of one account in bytes. Three quarters are for its contacts, measured in
	// the XML that a client gets; one quarter is for requests that wait for an answer, of all senders
	// together.
	MaxBytes int `toml:"max_bytes"`
}

// Check implements [session.OptionChecker]: it returns the key of an option that is out of range, and why.
func (o *Options) Check() (key, why string) {
	return session.CheckRanges(
		session.OptionRange{Key: "max_items", Value: o.MaxItems, Min: 1, Max: 100_000},
		session.OptionRange{Key: "max_bytes", Value: o.MaxBytes, Min: minBytes, Max: maxBytes})
}

// A Service is the module as one [session.Profile] has it: hosts with the same modules and options share a
// profile. [session.Lookup] gives it to modules that change rosters. It does not change after Load. Its
// methods run under the lock of the account, unless noted otherwise.
type Service struct {
	opt          Options
	db           *table
	firstVersion uint64 // the lowest roster version that this process assigns
}

// defaultOptions returns the options of a configuration that does not mention the module. They have space
// for 5,000 contacts of ordinary size: 120 bytes of XML each are 600 kB.
func defaultOptions() Options { return Options{MaxItems: 5000, MaxBytes: 1 << 20} }

// Load implements [session.Module]: it adds the hooks and features, and provides the Service. It fails if
// an option is out of range, if there is no store, or if the rows have a newer format.
func (m *Service) Load(api *session.API) error {
	m.opt = defaultOptions()
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	var err error
	if m.db, err = openTable(api); err != nil {
		return err
	}
	// After a crash, a client may have a version that was pushed and never became durable. No later process may
	// assign it to another state of the roster. So the versions of each process begin above those of the
	// processes before it: Incarnation counts the starts of the process, durably. An account with more than a
	// million changes in one process (20 bits) goes on with the numbers of later incarnations, and loses this
	// protection for them.
	m.firstVersion = uint64(api.Router.Incarnation)<<20 + 1
	session.Resident(api, part, m.db.load)
	api.Hooks.OnIQ(api.Module, false, queryName, m.get, session.ToSelf)
	api.Hooks.OnIQ(api.Module, true, queryName, m.set, session.ToSelf)
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

// refuseForeign answers forbidden to a roster set for another account (RFC 6121 sections 2.1.5 and
// 2.3.3). It is a PreIQ hook: it sees only what clients of this server send, under the sender's lock,
// before the address is looked up. So the answer does not say whether the account exists. A set to
// another server passes.
func refuseForeign(ev *session.Stanza) session.Verdict {
	if ev.Type != stanza.TypeSet || !ev.Payload().Is(queryName) || ev.To.Bare() == ev.Account().JID() {
		return session.Pass
	}
	if _, ours := ev.LoopRouter().Router().Table.Host(ev.To.Domain()); !ours {
		return session.Pass
	}
	return ev.Fail(stanza.Forbidden)
}

// get answers a roster request with the whole roster, or with an empty result if the client has the current
// version. From now on the session gets roster pushes. It is an iq handler, under the account's lock; Reply
// calls its function before it returns.
func (m *Service) get(ev *session.Stanza) session.Verdict {
	r := Of(ev.Account())
	ev.Session.SetInterested()
	have, versioned := ev.Payload().Attr(stanza.AttrVer)
	version := strconv.FormatUint(r.Version(), 10)
	if versioned && string(have) == version {
		return ev.Reply(nil) // RFC 6121 section 2.6.3
	}
	return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) {
		a.Open(queryName)
		if versioned {
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

// append writes it as the item element of a roster result or push (RFC 6121 section 2.1.2). A contact that
// is not listed has the subscription "remove".
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
		a.Attr(approvedAttr, "true")
	}
	for g := range it.Groups.All() {
		a.Open(groupName).Text(g).Close()
	}
	a.Close()
}

// set handles a roster set: it adds, changes or removes one contact (RFC 6121 sections 2.3 to 2.5). Its
// steps:
//
//  1. Check that there is one item, with a well-formed address that is not the user's own. A resource in it
//     is cut off.
//  2. For subscription='remove' go to remove; a contact that is not listed is item-not-found.
//  3. Read name and groups within their limits. An empty, duplicate or too long group is an error.
//  4. Check the limits of the account and the space on the disk, before any session gets a push.
//  5. Change the roster, push the change, and answer once it is durable.
func (m *Service) set(ev *session.Stanza) session.Verdict {
	e, ok := ev.Payload().First()
	if !ok || !e.Is(itemName) {
		return ev.Fail(stanza.BadRequest)
	}
	if _, more := e.Next(); more {
		return ev.Fail(stanza.BadRequest) // section 2.1.5: exactly one item
	}
	raw, _ := e.Attr(stanza.AttrJID)
	contact, err := ev.LoopRouter().JID(raw)
	if err != nil || contact.IsZero() {
		return ev.Fail(stanza.JIDMalformed)
	}
	contact = contact.Bare()
	a := ev.Account()
	if contact == a.JID() {
		return ev.Fail(stanza.NotAllowed)
	}
	r := Of(a)
	it, _ := r.Get(contact)
	if sub, _ := e.Attr(stanza.AttrSubscription); string(sub) == "remove" {
		if !it.Listed {
			return ev.Fail(stanza.ItemNotFound) // section 2.5.3
		}
		return m.remove(ev, a, it)
	}
	it.JID = contact
	name, _ := e.Attr(stanza.AttrName)
	if len(name) > maxName {
		return ev.Fail(stanza.NotAcceptable)
	}
	it.Name = string(name)
	var groups []string
	for c, ok := e.First(); ok; c, ok = c.Next() {
		if !c.Is(groupName) {
			continue
		}
		g := string(c.Text())
		if g == "" || len(g) > maxName || len(groups) == maxGroups {
			return ev.Fail(stanza.NotAcceptable) // section 2.3.3
		}
		if slices.Contains(groups, g) {
			return ev.Fail(stanza.BadRequest)
		}
		groups = append(groups, g)
	}
	it.Groups = packGroups(groups)
	it.Listed = true
	if m.Full() || !m.Fits(a, &it) {
		return ev.Fail(stanza.ResourceConstraint)
	}
	return ev.Commit(m.put(ev.LoopRouter(), a, it, true), storage.Reply) // Reply runs once the ticket is settled
}

// remove removes a contact. It ends the subscriptions in both directions, as if the user had cancelled
// both (RFC 6121 section 2.5.2): the contact gets unavailable presence of each session, "unsubscribe" and
// "unsubscribed", as far as the state calls for them. The answer waits until the removal is durable.
func (m *Service) remove(ev *session.Stanza, a *session.Account, it Item) session.Verdict {
	if m.Full() { // refuse before the stanzas below are sent: they can't be taken back if the commit fails
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
	return ev.Commit(m.Put(ev.LoopRouter(), a, Item{JID: it.JID}), storage.Reply)
}

// Put replaces the contact's item with the parameter it, or removes the contact if it.empty(). Put changes
// memory, gives the change to the store, and sends a roster push (RFC 6121 section 2.1.6) if a client sees
// a difference. It returns the ticket of the write and does not wait for it. If the write fails the kernel
// reloads the account. Call Full and Fits first. Under the lock of a, on the loop of l.
func (m *Service) Put(l *session.LoopRouter, a *session.Account, it Item) session.Ticket {
	old, _ := Of(a).Get(it.JID)
	return m.put(l, a, it, !it.looksLike(&old))
}

// put is Put; withPush says whether the roster gets a new version and is pushed. A roster set is pushed even
// if it changed nothing (RFC 6121 section 2.3.2).
func (m *Service) put(l *session.LoopRouter, a *session.Account, it Item, withPush bool) session.Ticket {
	r := part.Mutable(a)
	if withPush {
		r.version = max(r.version+1, m.firstVersion)
	}
	r.put(it)
	t := m.db.save(a, &it, r.version)
	a.MarkUncommitted(l, t)
	if withPush {
		push(l, a, &it, r.version)
	}
	return t
}

// looksLike reports whether a client sees no difference between it and o, two items of one contact.
func (it *Item) looksLike(o *Item) bool {
	if !it.Listed || !o.Listed {
		return it.Listed == o.Listed
	}
	return it.Name == o.Name && it.Groups == o.Groups && it.Subscription() == o.Subscription() &&
		it.PendingOut == o.PendingOut && it.Approved == o.Approved
}

// push sends a roster push to every session of a that has asked for the roster. Under the lock of a.
func push(l *session.LoopRouter, a *session.Account, it *Item, version uint64) {
	v := strconv.FormatUint(version, 10)
	for _, s := range a.Resources() {
		if !s.Interested() {
			continue
		}
		ap := l.Appender()
		ap.Open(stanza.IQName).Attr(stanza.AttrType, "set").Attr(stanza.AttrID, "push-"+v).Attr(stanza.AttrTo,
			s.JID().String())
		ap.Open(queryName).Attr(stanza.AttrVer, v)
		it.append(ap)
		ap.Close().Close()
		s.Send(session.OutboundStanza{Bytes: ap.B, Kind: stanza.IQ})
	}
}

// Full reports whether the store refuses writes now: its disk or its queue is full. The commit of a change
// that is made nevertheless most likely fails, and the change is lost. Any goroutine may call it.
func (m *Service) Full() bool { return m.db.db.Full() != nil }

// Fits reports whether the limits allow the item it in place of the contact's current item. An item that
// takes no more than the current one always fits, because a roster may be older than its limits. Contacts
// and requests have limits of their own. Under the lock of a.
func (m *Service) Fits(a *session.Account, it *Item) bool {
	r := Of(a)
	old, _ := r.Get(it.JID)
	oldListed, oldRequests := old.usage()
	listed, requests := it.usage()
	var current Roster
	if r != nil {
		current = *r
	}
	requestBytes := m.opt.MaxBytes / 4
	fits := func(total, old, want usage, maxBytes int) bool {
		return (want.rows <= old.rows || int(total.rows-old.rows+want.rows) <= m.opt.MaxItems) &&
			(want.bytes <= old.bytes || int(total.bytes-old.bytes+want.bytes) <= maxBytes)
	}
	if !fits(current.listed, oldListed, listed, m.opt.MaxBytes-requestBytes) {
		return false
	}
	// A long request is refused if all requests together would take more than half of their limit, so that a
	// few long ones do not keep usual requests out.
	if requests.bytes > usualRequest {
		requestBytes /= 2
	}
	return fits(current.requests, oldRequests, requests, requestBytes)
}

// usualRequest is the maximum size, in bytes, of a request without extended content, with its sender's
// address.
const usualRequest = 4 << 10
