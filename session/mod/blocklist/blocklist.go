// Package blocklist keeps contacts from reaching an account at all (XEP-0191).
//
//	C: <iq type='set' id='1'><block xmlns='urn:xmpp:blocking'><item jid='romeo@localhost'/></block></iq>
//	S: <iq type='set' id='block-1' to='juliet@localhost/balcony'><block xmlns='urn:xmpp:blocking'><item jid='romeo@localhost'/></block></iq>
//	S: <iq type='result' id='1'/>
//
// State in a session: a flag, set by asking for the list: it gets pushes. Resident in an account: the
// list. Stored: one row for each address. Hooks in phase Guard, in front of everything: what a blocked
// address sends is answered as by an account that is not there, and what the user sends there is
// refused. An address may be full, bare, a domain, or a domain with a resource (XEP-0191 §6).
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

// Manifest is how the loader knows this module.
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

const ns = "urn:xmpp:blocking"

// What one account may block: addresses, and bytes of all of them as a client gets them.
const (
	maxItems = 2000
	maxBytes = 256 << 10
)

var (
	rows             = store.NewMap[string, []byte]("blocklist", 'b', 1)
	part             = session.NewPart[blockList]("blocklist")
	subscribed       = session.NewFlag("blocklist")
	listName         = xmlstream.N(ns, "blocklist")
	blockName        = xmlstream.N(ns, "block")
	unblockName      = xmlstream.N(ns, "unblock")
	itemName         = xmlstream.N(ns, "item")
	blockedCondition = xmlstream.N("urn:xmpp:blocking:errors", "blocked")
)

type blockList struct {
	jids   []jid.JID // sorted as strings
	bytes  int32     // of jids, as a client gets them
	pushes int32
}

// itemLen is what j takes in the list that a client gets.
func itemLen(j jid.JID) int32 { return int32(len("<item jid=''/>") + xmlstream.EscapedLen(j.String())) }

func (b *blockList) find(j string, compare func(a, b string) int) (int, bool) {
	return slices.BinarySearchFunc(b.jids, j, func(a jid.JID, j string) int { return compare(a.String(), j) })
}

// matches reports whether j is blocked: four look-ups, in the order of XEP-0191 §6, however long the list is.
func (b *blockList) matches(j jid.JID) bool { return b.matchesBy(j, strings.Compare) }

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

// add puts those of jids that are not there into the list, and returns them.
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

func byString(a, b jid.JID) int { return strings.Compare(a.String(), b.String()) }

type module struct {
	db        *store.DB
	rows      *store.Map[string, []byte]
	presences *presence.Service
}

func (m *module) Load(api *session.API) error {
	if m.db = storage.DB(api); m.db == nil {
		return errors.New("there is no store")
	}
	var err error
	if m.rows, err = storage.OpenMap(api, rows); err != nil {
		return err
	}
	var ok bool
	if m.presences, ok = session.Lookup[*presence.Service](api); !ok {
		return errors.New("nobody sends presence")
	}
	m.presences.Hidden = func(a *session.Account, who jid.JID) bool { return part.Get(a).matches(who) }
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

func (m *module) load(snap *store.Snapshot, who session.EntityRef) (b *blockList, err error) {
	var bad error
	err = m.rows.Scan(snap, who.ID, "", func(key string, _ []byte) bool {
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

// refuseOutgoing refuses what the user sends to a blocked address (XEP-0191 §3.3). The account's own host
// stays in reach of one who has blocked everybody there.
func refuseOutgoing(ev *session.Stanza) session.Verdict {
	if !ev.Directed() || ev.To.Bare() == ev.Account().JID() || ev.To.String() == ev.Host.Name ||
		!part.Get(ev.Account()).matches(ev.To) {
		return session.Pass
	}
	return ev.FailWith(stanza.Error{Condition: stanza.NotAcceptable, Type: "cancel", App: blockedCondition})
}

// refuseIncoming keeps out what a blocked address sends, and answers as if there were no account
// (XEP-0191 §3.3).
func refuseIncoming(ev *session.Stanza) session.Verdict {
	if ev.From.Bare() == ev.Account().JID() || !part.Get(ev.Account()).matches(ev.From) {
		return session.Pass
	}
	return ev.FailAbsent()
}

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

// readJIDs takes the addresses of a request.
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

func (m *module) block(ev *session.Stanza) session.Verdict {
	jids, bad, ok := readJIDs(ev)
	if !ok {
		return ev.Fail(bad)
	}
	if len(jids) == 0 {
		return ev.Fail(stanza.BadRequest) // §3.3
	}
	a := ev.Account()
	for _, j := range jids {
		if j.Bare() == a.JID() {
			return ev.Fail(stanza.NotAllowed) // a user can't block the own account
		}
	}
	p := part.Mutable(a)
	grown := blockList{jids: slices.Clone(p.jids), bytes: p.bytes, pushes: p.pushes}
	fresh := grown.add(jids)
	if len(fresh) > 0 && (len(grown.jids) > maxItems || grown.bytes > maxBytes) || m.db.Full() != nil {
		return ev.Fail(stanza.ResourceConstraint) // before contacts and resources are told
	}
	// Those who see the user go see it before they see nothing (§3.3).
	m.presences.SendPresence(ev.LoopRouter(), a, false, slices.DeleteFunc(m.watchers(a, jids), p.matches)...)
	b := m.db.NewBatch(a.ID())
	*p = grown
	for _, j := range fresh {
		m.rows.Put(b, a.ID(), j.String(), nil)
	}
	m.push(ev, blockName, jids)
	return m.commit(ev, b)
}

func (m *module) unblock(ev *session.Stanza) session.Verdict {
	jids, bad, ok := readJIDs(ev)
	if !ok {
		return ev.Fail(bad)
	}
	if m.db.Full() != nil { // before contacts and resources are told
		return ev.Fail(stanza.ResourceConstraint)
	}
	a := ev.Account()
	p := part.Mutable(a)
	b := m.db.NewBatch(a.ID())
	gone := jids
	if len(jids) == 0 { // all of them (§3.4)
		gone = slices.Clone(p.jids)
	}
	watchers := m.watchers(a, gone)
	these := new(blockList)
	these.add(gone)
	p.jids = slices.DeleteFunc(p.jids, func(j jid.JID) bool {
		_, found := these.find(j.String(), strings.Compare)
		if found {
			p.bytes -= itemLen(j)
			m.rows.Delete(b, a.ID(), j.String())
		}
		return found
	})
	m.presences.SendPresence(ev.LoopRouter(), a, true, slices.DeleteFunc(watchers, p.matches)...)
	m.push(ev, unblockName, jids)
	return m.commit(ev, b)
}

// watchers are the contacts who get the account's presence and whom one of jids matches.
func (m *module) watchers(a *session.Account, jids []jid.JID) (list []jid.JID) {
	these := new(blockList)
	these.add(jids)
	for it := range roster.Of(a).All() {
		if it.From && these.matches(it.JID) {
			list = append(list, it.JID)
		}
	}
	return list
}

// push tells the resources that have asked for the list (§3.6).
func (m *module) push(ev *session.Stanza, what xmlstream.Name, jids []jid.JID) {
	p := part.Mutable(ev.Account())
	p.pushes++
	for _, s := range ev.Account().Resources() {
		if !subscribed.Is(s) {
			continue
		}
		a := ev.Appender()
		a.Open(stanza.IQName).Attr(stanza.AttrType, "set").Attr(stanza.AttrID, "block-"+
			strconv.Itoa(int(p.pushes))).Attr(stanza.AttrTo, s.JID().String())
		a.Open(what)
		for _, j := range jids {
			a.Open(itemName).Attr(stanza.AttrJID, j.String()).Close()
		}
		a.Close().Close()
		s.Send(session.OutboundStanza{Bytes: a.B, Kind: stanza.IQ})
	}
}

func (m *module) commit(ev *session.Stanza, b *store.Batch) session.Verdict {
	return ev.Commit(session.Ticket(m.db.Commit(b)), func(ev *session.Stanza, err error) session.Verdict {
		if err != nil {
			return ev.FailCommit(err)
		}
		return ev.Reply(nil)
	})
}
