// Package blocklist implements the blocking command (XEP-0191): stanzas of blocked addresses do not reach
// the account.
//
//	C: <iq type='set' id='1'><block xmlns='urn:xmpp:blocking'><item jid='romeo@localhost'/></block></iq>
//	S: <iq type='set' id='block-1' to='juliet@localhost/balcony'><block xmlns='urn:xmpp:blocking'>
//	     <item jid='romeo@localhost'/></block></iq>
//	S: <iq type='result' id='1'/>
//
// A blocked address may be a full JID, a bare JID, a domain, or a domain with a resource (XEP-0191 section
// 6). A stanza from a blocked address is answered as by an account that does not exist. A stanza that the
// user sends to a blocked address is refused. Stored messages and presence of blocked addresses are not
// delivered either: see [session.Hooks] Blocked.
//
// In memory, in a session: a flag, set by a request for the list; such a session gets pushes. In memory,
// in a warm account: the list. Stored: one row for each address.
//
// Hooks, all in phase Guard, so that they run before any other: PreMessage, PrePresence and PreIQ under
// the sender's lock; Message, Presence and IQ under the recipient's lock.
package blocklist

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod/presence"
	"canto/session/mod/roster"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:    "blocklist",
	Spec:    "XEP-0191 1.3",
	Summary: "blocks contacts",
	Cases: "retrieve, block, unblock one and all, pushes, every kind of stanza both ways, presence on " +
		"block and unblock",
	Provides: []session.Feature{"blocking"},
	Requires: []session.Feature{"accounts", "iq", "message", "presence", "resident", "commit", "store",
		"presence-delivery", "roster"},
	New: func() session.Module { return new(module) },
}

// ns is the namespace of the blocking command.
const ns = "urn:xmpp:blocking"

// The limits of one account's list; more is answered with resource-constraint.
const (
	maxItems = 2000      // addresses
	maxBytes = 256 << 10 // bytes of the list as a client gets it
)

var (
	// rows has a row with an empty value for each blocked address. The prefix 'b' is part of the store's
	// format and does not change.
	rows = store.NewMap[string, []byte]("blocklist", 'b', 1)
	part = session.NewPart[blockList]("blocklist")
	// subscribed marks the sessions that have asked for the list and get pushes.
	subscribed       = session.NewFlag("blocklist")
	listName         = xmlstream.N(ns, "blocklist")
	blockName        = xmlstream.N(ns, "block")
	unblockName      = xmlstream.N(ns, "unblock")
	itemName         = xmlstream.N(ns, "item")
	blockedCondition = xmlstream.N("urn:xmpp:blocking:errors", "blocked")
)

// A blockList is the list of one account. The account's lock guards it. A nil blockList is an empty one.
type blockList struct {
	jids   []jid.JID // sorted as strings
	bytes  int32     // the size of the list as a client gets it
	pushes int32     // the number of pushes since the list was loaded, for their ids
}

// itemLen returns how many bytes j takes in the list that a client gets.
func itemLen(j jid.JID) int32 { return int32(len("<item jid=''/>") + xmlstream.EscapedLen(j.String())) }

// find returns where j is in the list, or where it belongs. compare is [strings.Compare], except in tests
// that count the comparisons.
func (b *blockList) find(j string, compare func(a, b string) int) (int, bool) {
	return slices.BinarySearchFunc(b.jids, j, func(a jid.JID, j string) int { return compare(a.String(), j) })
}

// matches reports whether j is blocked. It looks up the four forms of j in the order of XEP-0191 section
// 6, each by binary search, so a long list costs little.
func (b *blockList) matches(j jid.JID) bool { return b.matchesBy(j, strings.Compare) }

// matchesBy is matches with a given compare.
func (b *blockList) matchesBy(j jid.JID, compare func(a, b string) int) bool {
	if b == nil || len(b.jids) == 0 {
		return false
	}
	full := j.String()
	host := full[len(j.Local()):] // the domain, and the resource if there is one
	if j.Local() != "" {
		host = host[1:]
	}
	forms := [...]string{full, j.Bare().String(), host, j.Domain()}
	for i, form := range forms {
		if i > 0 && form == forms[i-1] {
			continue // an address without a localpart or resource has fewer forms
		}
		if _, ok := b.find(form, compare); ok {
			return true
		}
	}
	return false
}

// add inserts those of jids that are not in the list, and returns them, sorted and without duplicates.
func (b *blockList) add(jids []jid.JID) (fresh []jid.JID) {
	for _, j := range jids {
		if _, found := b.find(j.String(), strings.Compare); !found {
			fresh = append(fresh, j)
		}
	}
	slices.SortFunc(fresh, byString)
	fresh = slices.Compact(fresh)
	b.jids = append(b.jids, fresh...)
	slices.SortFunc(b.jids, byString)
	for _, j := range fresh {
		b.bytes += itemLen(j)
	}
	return fresh
}

// byString compares two JIDs as strings.
func byString(a, b jid.JID) int { return strings.Compare(a.String(), b.String()) }

// A module is the module of one profile. It does not change after Load.
type module struct {
	db        *store.DB
	rows      *store.Map[string, []byte]
	presences *presence.Service
}

// Load implements [session.Module]: it adds the hooks, and makes module presence hide the account from
// blocked contacts. It fails if there is no store or no module presence, or if the rows have a newer
// format.
func (m *module) Load(api *session.API) error {
	var err error
	if m.db, err = storage.Open(api); err != nil {
		return err
	}
	if m.rows, err = storage.OpenMap(api, rows); err != nil {
		return err
	}
	var ok bool
	if m.presences, ok = session.Lookup[*presence.Service](api); !ok {
		return errors.New("no module sends presence")
	}
	m.presences.Hidden = func(a *session.Account, contact jid.JID) bool { return part.Get(a).matches(contact) }
	api.Hooks.Blocked = append(api.Hooks.Blocked, m.presences.Hidden)
	session.Resident(api, part, m.load)
	api.Advertise(ns)
	h := api.Hooks
	h.OnIQ(api.Module, false, listName, m.get, session.ToSelf)
	h.OnIQ(api.Module, true, blockName, m.block, session.ToSelf)
	h.OnIQ(api.Module, true, unblockName, m.unblock, session.ToSelf)
	for _, t := range session.Targets {
		h.PreMessage[t].Add(api.Module, session.Guard, refuseOutgoing)
		h.PrePresence[t].Add(api.Module, session.Guard, refuseOutgoing)
		h.PreIQ[t].Add(api.Module, session.Guard, refuseOutgoing)
	}
	for _, t := range []session.Target{session.ToBare, session.ToFull} {
		h.Message[t].Add(api.Module, session.Guard, refuseIncoming)
		h.Presence[t].Add(api.Module, session.Guard, refuseIncoming)
		h.IQ[t].Add(api.Module, session.Guard, refuseIncoming)
	}
	return nil
}

// load reads the list of the account acc from a snapshot, on a worker; nil if there are no rows. The rows
// come in the order of their keys, so the list is sorted.
func (m *module) load(snap *store.Snapshot, acc session.EntityRef) (b *blockList, err error) {
	var bad error
	err = m.rows.Scan(snap, acc.ID, "", func(key string, _ []byte) bool {
		j, err := jid.Parse(key)
		if err != nil {
			bad = err
			return false
		}
		if b == nil {
			b = new(blockList)
		}
		b.jids = append(b.jids, j)
		b.bytes += itemLen(j)
		return true
	})
	return b, errors.Join(err, bad)
}

// refuseOutgoing refuses a stanza that the user sends to a blocked address (XEP-0191 section 3.3). The
// user's own account and own host are never refused: a user who has blocked the whole domain can still use
// the server. Under the sender's lock.
func refuseOutgoing(ev *session.Stanza) session.Verdict {
	if !ev.Directed() || ev.To.Bare() == ev.Account().JID() || ev.To.String() == ev.Host.Name ||
		!part.Get(ev.Account()).matches(ev.To) {
		return session.Pass
	}
	return ev.FailWith(stanza.Error{Condition: stanza.NotAcceptable, Type: "cancel", App: blockedCondition})
}

// refuseIncoming answers a stanza from a blocked address as if there were no account (XEP-0191 section
// 3.3). Under the recipient's lock.
func refuseIncoming(ev *session.Stanza) session.Verdict {
	if ev.From.Bare() == ev.Account().JID() || !part.Get(ev.Account()).matches(ev.From) {
		return session.Pass
	}
	return ev.FailAbsent()
}

// get answers a request for the list. From now on the session gets pushes.
func (m *module) get(ev *session.Stanza) session.Verdict {
	subscribed.Set(ev.Session, true)
	return ev.Reply(func(ev *session.Stanza, a *xmlstream.Appender) {
		a.Open(listName)
		if p := part.Get(ev.Account()); p != nil {
			for _, j := range p.jids {
				a.Open(itemName).Attr(stanza.AttrJID, j.String()).Close()
			}
		}
		a.Close()
	})
}

// readJIDs reads the addresses of a block or unblock request. If ok is false, bad is the condition of the
// answer.
func readJIDs(ev *session.Stanza) (jids []jid.JID, bad stanza.Condition, ok bool) {
	for e, more := ev.Payload().First(); more; e, more = e.Next() {
		raw, _ := e.Attr(stanza.AttrJID)
		j, err := ev.LoopRouter().JID(raw)
		if !e.Is(itemName) {
			return nil, stanza.BadRequest, false
		}
		if err != nil {
			return nil, stanza.JIDMalformed, false
		}
		jids = append(jids, j)
	}
	return jids, 0, true
}

// block adds addresses to the list. Under the account's lock. Its steps:
//
//  1. Read the addresses. There must be one at least, and not the user's own.
//  2. Check the limits and the disk on a copy of the list, before any contact or session is notified.
//  3. Send unavailable presence to contacts that saw the user and are blocked now (section 3.3).
//  4. Change the list, push the change, and answer once it is durable.
func (m *module) block(ev *session.Stanza) session.Verdict {
	jids, bad, ok := readJIDs(ev)
	if !ok {
		return ev.Fail(bad)
	}
	if len(jids) == 0 {
		return ev.Fail(stanza.BadRequest) // section 3.3
	}
	a := ev.Account()
	for _, j := range jids {
		if j.Bare() == a.JID() {
			return ev.Fail(stanza.NotAllowed)
		}
	}
	p := part.Mutable(a)
	grown := blockList{jids: slices.Clone(p.jids), bytes: p.bytes, pushes: p.pushes}
	added := grown.add(jids)
	if len(added) > 0 && (len(grown.jids) > maxItems || grown.bytes > maxBytes) || m.db.Full() != nil {
		return ev.Fail(stanza.ResourceConstraint)
	}
	// Presence goes out before the list changes: afterwards the account hides from these contacts.
	m.presences.SendPresence(ev.LoopRouter(), a, false, slices.DeleteFunc(m.watchers(a, jids), p.matches)...)
	b := m.db.NewBatch(a.ID())
	*p = grown
	for _, j := range added {
		m.rows.Put(b, a.ID(), j.String(), nil)
	}
	m.push(ev, blockName, jids)
	return storage.CommitAndReply(ev, m.db, b)
}

// unblock removes addresses from the list, or all addresses if the request has none (XEP-0191 section
// 3.4). Contacts that are no longer blocked get the user's presence. The change is pushed, and the answer
// waits until it is durable. Under the account's lock.
func (m *module) unblock(ev *session.Stanza) session.Verdict {
	jids, bad, ok := readJIDs(ev)
	if !ok {
		return ev.Fail(bad)
	}
	if m.db.Full() != nil { // presence and pushes could not be taken back
		return ev.Fail(stanza.ResourceConstraint)
	}
	a := ev.Account()
	p := part.Mutable(a)
	b := m.db.NewBatch(a.ID())
	removed := jids
	if len(jids) == 0 {
		removed = slices.Clone(p.jids)
	}
	watchers := m.watchers(a, removed)
	set := new(blockList)
	set.add(removed)
	p.jids = slices.DeleteFunc(p.jids, func(j jid.JID) bool {
		_, found := set.find(j.String(), strings.Compare)
		if found {
			p.bytes -= itemLen(j)
			m.rows.Delete(b, a.ID(), j.String())
		}
		return found
	})
	m.presences.SendPresence(ev.LoopRouter(), a, true, slices.DeleteFunc(watchers, p.matches)...)
	m.push(ev, unblockName, jids)
	return storage.CommitAndReply(ev, m.db, b)
}

// watchers returns the contacts that get the account's presence and that one of jids matches. Under the
// lock of a.
func (m *module) watchers(a *session.Account, jids []jid.JID) (list []jid.JID) {
	set := new(blockList)
	set.add(jids)
	for it := range roster.Of(a).All() {
		if it.From && set.matches(it.JID) {
			list = append(list, it.JID)
		}
	}
	return list
}

// push sends the change to the sessions that have asked for the list (XEP-0191 section 3.6). name is block
// or unblock. Under the account's lock.
func (m *module) push(ev *session.Stanza, name xmlstream.Name, jids []jid.JID) {
	p := part.Mutable(ev.Account())
	p.pushes++
	for _, s := range ev.Account().Resources() {
		if !subscribed.Is(s) {
			continue
		}
		a := ev.Appender()
		a.Open(stanza.IQName).Attr(stanza.AttrType, "set").Attr(stanza.AttrID, "block-"+
			strconv.Itoa(int(p.pushes))).Attr(stanza.AttrTo, s.JID().String())
		a.Open(name)
		for _, j := range jids {
			a.Open(itemName).Attr(stanza.AttrJID, j.String()).Close()
		}
		a.Close().Close()
		s.Send(session.OutboundStanza{Bytes: a.B, Kind: stanza.IQ})
	}
}
