// Package room is a small chat room at a service host. It shows how a module brings a kind of entity of
// its own, as docs/modules.md describes it, and tests use it. It is not XEP-0045: it has what a room asks
// of the kernel, and no more.
//
// A presence to room@host/nick joins the room, and creates it if there is none. The user that creates a
// room is its owner. The number is that of the last message in the room's log:
//
//	C: <presence to='orchard@rooms.localhost/Romeo'/>
//	S: <presence from='orchard@rooms.localhost/Romeo' to='romeo@localhost/a'>
//	     <log xmlns='urn:canto:test:room' n='0'/></presence>
//
// A client that sends <occupants xmlns='urn:canto:test:room'/> in it gets a presence with the same child
// for each occupant, in the order of nicks: the first 50 before its own presence, the others in parts,
// while it reads them.
//
// A message to the room gets a number, is put into the log, and is sent to every occupant. A message to a
// nick is private:
//
//	C: <message to='orchard@rooms.localhost' type='groupchat'><body>Hi</body></message>
//	S: <message from='orchard@rooms.localhost/Romeo' to='juliet@localhost/b' type='groupchat'><body>Hi</body>
//	   <log xmlns='urn:canto:test:room' n='1'/></message>
//
// Requests to the room's bare JID, all in the namespace urn:canto:test:room:
//
//	set <affiliation jid='juliet@localhost' is='member'/>  owner, member or none; answered when durable
//	get <affiliations/>                                    <affiliation/> for each
//	set <invite jid='nurse@localhost'/>                    the user becomes a member by joining within
//	                                                       5 minutes; else the inviter gets
//	                                                       <message><expired jid=''/></message>
//	get <page after='17' max='20'/>                        messages of the log; complete='true': no more
//	get <last/>                                            <last n='42'/>, answered from memory
//	set <destroy/>                                         all occupants get unavailable presence
//
// Live state: the occupants and the number of the last message. Resident set: affiliations and
// invitations. Stored: these, a row for each, and the log. A room of which nothing is stored ends with its
// last occupant. Another room leaves memory a minute after its last stanza, if it has no occupants. In a
// room with more than [Options.Announce] occupants, only the joining client gets its presence. After a
// panic the occupants stay. While a room is in memory a number is used once, even if its message could not
// be stored.
//
// Hooks, all under the room's lock: Presence and Message in phase Deliver, Message in phase Rewrite, iq
// handlers, Make, and the functions of the entity handler.
package room

import (
	"errors"
	"slices"
	"sync/atomic"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/mod/disco"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
	"canto/session/wallclock"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "test-room",
	Spec:     "docs/modules.md",
	Summary:  "a small chat room, for tests",
	Cases:    "occupants, log, broadcast, private messages, affiliations, invitations, pages, deletion",
	Requires: []session.Feature{"kinds", "store", "disco", "fanout", "commit"},
	Options:  func() any { o := defaultOptions(); return &o },
	Off:      true,
	New:      func() session.Module { return new(module) },
}

// Options is the module's section of the configuration.
type Options struct {
	// MaxOccupants is how many occupants a room may have.
	MaxOccupants int `toml:"max_occupants"`
	// MaxTemporary is how many rooms a host may have of which nothing is stored.
	MaxTemporary int `toml:"max_temporary"`
	// MaxMessage is the longest message in bytes.
	MaxMessage int `toml:"max_message"`
	// Announce is the most occupants with which a room announces joins and leaves to all.
	Announce int `toml:"announce"`
}

// defaultOptions returns the options of a configuration that does not mention the module.
func defaultOptions() Options {
	return Options{MaxOccupants: 5000, MaxTemporary: 1000, MaxMessage: 16 << 10, Announce: 64}
}

// Check implements [session.OptionChecker].
func (o *Options) Check() (key, why string) {
	return session.CheckRanges(
		session.OptionRange{Key: "max_occupants", Value: o.MaxOccupants, Min: 1, Max: 100_000},
		session.OptionRange{Key: "max_temporary", Value: o.MaxTemporary, Min: 1, Max: 1_000_000},
		session.OptionRange{Key: "max_message", Value: o.MaxMessage, Min: 1, Max: 1 << 20},
		session.OptionRange{Key: "announce", Value: o.Announce, Min: 0, Max: 100_000},
	)
}

// ns is the namespace of the room.
const ns = "urn:canto:test:room"

// The limits of one room. A nick has at most 1023 bytes (RFC 7622 section 3.4).
const (
	maxAffiliations = 200
	maxInvitations  = 50
	maxPage         = 50       // messages in a page
	maxPageBytes    = 64 << 10 // bytes of the messages in a page, except the first
)

// Kind is the kind of rooms.
var Kind = session.NewKind("room")

var (
	log          = xmlstream.N(ns, "log")
	last         = xmlstream.N(ns, "last")
	affil        = xmlstream.N(ns, "affiliation")
	affils       = xmlstream.N(ns, "affiliations")
	invite       = xmlstream.N(ns, "invite")
	expired      = xmlstream.N(ns, "expired")
	pageName     = xmlstream.N(ns, "page")
	destroy      = xmlstream.N(ns, "destroy")
	attrN        = xmlstream.N("", "n")
	attrIs       = xmlstream.N("", "is")
	attrAfter    = xmlstream.N("", "after")
	attrMax      = xmlstream.N("", "max")
	attrComplete = xmlstream.N("", "complete")

	// attrs are the attributes that RFC 6120 section 8.1 gives a stanza.
	attrs = []xmlstream.Name{stanza.AttrType, stanza.AttrID, stanza.AttrFrom, stanza.AttrTo, stanza.AttrLang}

	// part is the resident set of a room, and temporary the number of a host's rooms of which nothing is stored.
	part      = session.NewPart[stored]("test-room")
	temporary = session.NewHostVar("test-room-temporary", func(*session.Host) *atomic.Int64 {
		return new(atomic.Int64)
	})
)

// A room is the live state of a room. The room's lock guards it.
type room struct {
	recipients *session.Recipients // the occupants, by full JID
	occupantOf map[string]jid.JID  // the full JIDs of the occupants, by nick
	nickOf     map[jid.JID]string  // the nicks, by full JID
	order      []string            // the nicks, sorted
	last       uint64              // the number of the last message
	written    session.Ticket      // the ticket of the last batch
	temporary  bool                // the room is counted in the host variable temporary
	host       *session.Host
	untracked  []untrackedBatch // batches that are not settled; at most one for each invitation
	retryAt    reactor.Tick     // after a failed batch: the tick before which no invitation expires; 0: none
}

// An untrackedBatch is a batch for which no stanza waits: an invitation was accepted or has expired. The
// timer checks it until it is settled.
type untrackedBatch struct {
	ticket session.Ticket
	due    []invitation // the invitations that the batch deletes because they have expired
}

// A module is the module of one profile. It does not change after Load.
type module struct {
	opt    Options
	db     *store.DB
	rows   *store.Map[string, []byte]
	log    *store.Log[[]byte]
	now    wallclock.Clock
	router *session.Router
}

// Load implements [session.Module]. Its steps: read the options, open the rows and the message log, register
// the loader of the resident part, the callbacks and handlers of the kind, the hook that creates rooms, and
// what service discovery says about a room. It fails if an option is wrong, if there is no store, if stored
// rows have a newer format, or if the module disco is not loaded.
func (m *module) Load(api *session.API) (err error) {
	m.opt = defaultOptions()
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	if m.db, err = storage.Open(api); err != nil {
		return err
	}
	if m.rows, err = storage.OpenMap(api, rows); err != nil {
		return err
	}
	if m.log, err = storage.OpenLog(api, messages); err != nil {
		return err
	}
	m.now, m.router = wallclock.Of(api), api.Router
	session.ResidentOf(api, Kind, part, m.read)

	b := api.Hooks.Serve(Kind)
	b.New, b.Ended, b.Timer, b.More = m.newRoom, m.ended, m.expire, m.sendOccupants
	b.MarshalLive, b.RestoreLive = m.marshalLive, m.restoreLive
	b.Cold = func(e *session.Entity) bool { return session.Live[room](e).recipients.Len() == 0 }
	b.Footprint = func(e *session.Entity) int { return 512 + 256*session.Live[room](e).recipients.Len() }
	b.Presence[session.ToFull].Add(api.Module, session.Deliver, m.presence)
	for _, to := range []session.Target{session.ToBare, session.ToFull} {
		b.Message[to].Add(api.Module, session.Rewrite, strip)
	}
	b.Message[session.ToBare].Add(api.Module, session.Deliver, m.groupchat)
	b.Message[session.ToFull].Add(api.Module, session.Deliver, m.private)
	b.OnIQ(api.Module, true, affil, m.setAffiliation, session.ToBare)
	b.OnIQ(api.Module, false, affils, m.affiliations, session.ToBare)
	b.OnIQ(api.Module, true, invite, m.invite, session.ToBare)
	b.OnIQ(api.Module, false, pageName, m.page, session.ToBare)
	b.OnIQ(api.Module, false, last, m.lastNumber, session.ToBare)
	b.OnIQ(api.Module, true, destroy, m.destroy, session.ToBare)
	api.Hooks.Make.Add(api.Module, session.Deliver, m.createRoom)

	d, ok := session.Lookup[*disco.Service](api)
	if !ok {
		return errors.New("there is no service discovery")
	}
	k := d.ForKind(Kind)
	k.Identities = append(k.Identities, disco.Identity{Category: "conference", Type: "text"})
	k.Features = append(k.Features, ns)
	k.Items = append(k.Items, occupants)
	return nil
}

// createRoom is the Make hook: it creates a room for the first stanza to its address, if that is a
// presence that joins or a request that sets an affiliation. Any other request gets item-not-found.
func (m *module) createRoom(ev *session.Stanza) session.Verdict {
	joins := ev.Kind == stanza.Presence && ev.Type == stanza.TypeNone && ev.Target == session.ToFull
	sets := ev.Kind == stanza.IQ && ev.Type == stanza.TypeSet && ev.Target == session.ToBare &&
		ev.Payload().Is(affil)
	switch {
	case ev.Target == session.ToHost:
		return session.Pass // the domain is no room's address
	case ev.Kind == stanza.Presence && !joins:
		return session.Done
	case !joins && !sets:
		return ev.Fail(stanza.ItemNotFound)
	}
	count := temporary.Get(ev.Host)
	if count.Load() >= int64(m.opt.MaxTemporary) {
		return ev.Fail(stanza.ResourceConstraint)
	}
	e := ev.Create(Kind)
	count.Add(1)
	session.Live[room](e).temporary = true
	part.Mutable(e).set(ev.From.Bare(), owner)
	return session.Pass
}

// newRoom is EntityHandler.New: it makes the live state of a room that was loaded or created.
func (m *module) newRoom(l *session.LoopRouter, e *session.Entity) any {
	r := &room{recipients: session.NewRecipients(e, l), occupantOf: make(map[string]jid.JID),
		nickOf: make(map[jid.JID]string),
		host:   e.Host()}
	if p := part.Get(e); p != nil {
		r.last = p.last
		m.arm(l, e, r, p)
	}
	return r
}

// markStored records that the room is stored now, or has ended: it no longer counts as temporary.
func (r *room) markStored() {
	if r.temporary {
		r.temporary = false
		temporary.Get(r.host).Add(-1)
	}
}

// write gives b to the store and returns its ticket. Under the lock of e.
func (m *module) write(l *session.LoopRouter, e *session.Entity, r *room, b *store.Batch) session.Ticket {
	r.written = storage.Commit(l, m.db, e, b)
	r.markStored()
	return r.written
}

// batch returns a batch for rows of the room e. The first one has all that the room has in memory. The
// error is one for [session.Stanza.FailCommit]. Under the lock of e.
func (m *module) batch(e *session.Entity) (*store.Batch, error) {
	b, err := storage.Batch(m.db, e)
	if err == nil && e.ID() == 0 {
		for _, a := range part.Mutable(e).affiliated {
			m.rows.Put(b, b.Owner(), keyAffiliation+a.jid.String(), []byte(a.is))
		}
	}
	return b, err
}

// deleteIfEmpty ends a room that has no occupants and of which nothing is stored.
func (m *module) deleteIfEmpty(ev *session.Stanza) {
	if e := ev.Entity(); e.ID() == 0 && session.Live[room](e).recipients.Len() == 0 {
		storage.Delete(ev.LoopRouter(), m.db, e)
	}
}

// presence handles presence to a nick: available joins, unavailable and an error leave.
func (m *module) presence(ev *session.Stanza) session.Verdict {
	r := session.Live[room](ev.Entity())
	switch ev.Type {
	case stanza.TypeNone:
		if c, ok := m.mayJoin(ev, r); !ok {
			ev.Fail(c)
			m.deleteIfEmpty(ev)
			return session.Done
		}
		m.join(ev, r)
	case stanza.TypeUnavailable, stanza.TypeError:
		m.leave(ev, r)
	}
	return session.Done
}

// mayJoin reports whether the sender may have the nick; if not, c is the condition of the answer.
func (m *module) mayJoin(ev *session.Stanza, r *room) (c stanza.Condition, ok bool) {
	nick := ev.To.Resource()
	current, in := r.nickOf[ev.From]
	other, taken := r.occupantOf[nick]
	switch {
	case taken && other != ev.From:
		return stanza.Conflict, false
	case in && current != nick:
		return stanza.NotAcceptable, false
	case !in && r.recipients.Len() >= m.opt.MaxOccupants:
		return stanza.ServiceUnavailable, false
	}
	return 0, true
}

// join adds the sender to the occupants. An occupant may join again: its connection may be on another loop
// now, and AddSender moves it there.
func (m *module) join(ev *session.Stanza, r *room) {
	nick := ev.To.Resource()
	r.recipients.AddSender(ev)
	r.enter(nick, ev.From)
	m.accept(ev, r)
	if _, wantsList := ev.Element.Child(listName); wantsList {
		m.sendOccupants(ev.LoopRouter(), ev.Entity(), ev.From, nil)
	}
	a := ev.Appender()
	a.Open(stanza.PresenceName).Attr(stanza.AttrFrom, ev.To.String())
	if r.recipients.Len() > m.opt.Announce {
		a.Attr(stanza.AttrTo, ev.From.String())
	}
	r.appendLog(a)
	a.Close()
	if r.recipients.Len() > m.opt.Announce {
		ev.Send(ev.To, ev.From, a.B)
		return
	}
	ev.LoopRouter().Fanout(ev.Entity(), ev.To, a.B, r.recipients)
}

// appendLog writes the element with the number of the last message.
func (r *room) appendLog(a *xmlstream.Appender) {
	a.Open(log).Attr(attrN, formatNumber(r.last)).Close()
}

// enter records that the occupant has the nick.
func (r *room) enter(nick string, occupant jid.JID) {
	r.occupantOf[nick], r.nickOf[occupant] = occupant, nick
	if i, there := slices.BinarySearch(r.order, nick); !there {
		r.order = slices.Insert(r.order, i, nick)
	}
}

// exit records that the occupant has left, and that its nick is free.
func (r *room) exit(nick string, occupant jid.JID) {
	delete(r.nickOf, occupant)
	delete(r.occupantOf, nick)
	if i, there := slices.BinarySearch(r.order, nick); there {
		r.order = slices.Delete(r.order, i, i+1)
	}
}

// nicksAfter returns the first n nicks, or fewer, that come after the nick after, in order. An empty after
// means the beginning.
func (r *room) nicksAfter(after string, n int) []string {
	i, there := slices.BinarySearch(r.order, after)
	if there {
		i++
	}
	return r.order[i:min(i+n, len(r.order))]
}

// leave removes the sender, if it is an occupant, and sends its unavailable presence to the others.
func (m *module) leave(ev *session.Stanza, r *room) {
	nick, in := r.nickOf[ev.From]
	if !in {
		return
	}
	r.recipients.Remove(ev.From)
	r.exit(nick, ev.From)
	if n := r.recipients.Len(); n > 0 && n <= m.opt.Announce {
		from, err := ev.Entity().JID().WithResource(nick)
		if err == nil {
			a := ev.Appender()
			a.Open(stanza.PresenceName).Attr(stanza.AttrType, "unavailable").Attr(stanza.AttrFrom,
				from.String()).Close()
			ev.LoopRouter().Fanout(ev.Entity(), from, a.B, r.recipients)
		}
	}
	m.deleteIfEmpty(ev)
}

// ended is EntityHandler.Ended: it sends the occupants unavailable presence from the room.
func (m *module) ended(l *session.LoopRouter, e *session.Entity) {
	r := session.Live[room](e)
	r.markStored()
	a := l.Appender()
	a.Open(stanza.PresenceName).Attr(stanza.AttrType, "unavailable").Attr(stanza.AttrFrom,
		e.JID().String()).Close()
	l.Fanout(e, e.JID(), a.B, r.recipients)
}

// strip removes log elements that a client has put into its message, so that the first one which an
// occupant finds is the room's.
func strip(ev *session.Stanza) session.Verdict {
	e := ev.Element
	if _, forged := e.Child(log); !forged {
		return session.Pass
	}
	a := ev.Appender()
	a.Open(stanza.MessageName)
	for _, n := range attrs {
		if v, ok := e.Attr(n); ok {
			a.AttrBytes(n, v)
		}
	}
	for c, ok := e.First(); ok; c, ok = c.Next() {
		if !c.Is(log) {
			a.Raw(c)
		}
	}
	a.Close()
	if err := ev.Replace(a.B); err != nil {
		return ev.Fail(stanza.BadRequest)
	}
	return session.Pass
}

// groupchat gives a message a number, stores it, and sends it to all occupants. It does not wait for the
// commit: if that fails, the sender gets an error after the occupants have got the message. If the store
// is known to be full no occupant gets it. Its steps:
//
//  1. Check that the sender is an occupant and that the message is not too long. An error removes the sender.
//  2. Take a batch, or answer why there is none.
//  3. Draw the number, and make the element with the sender's nick and the number.
//  4. Put the element into the log and send it to the occupants.
func (m *module) groupchat(ev *session.Stanza) session.Verdict {
	e, r := ev.Entity(), session.Live[room](ev.Entity())
	nick, in := r.nickOf[ev.From]
	switch {
	case ev.Type == stanza.TypeError:
		m.leave(ev, r) // the occupant's server has returned a message of the room
		return session.Done
	case ev.Type != stanza.TypeGroupchat:
		return session.Pass
	case !in:
		return ev.Fail(stanza.NotAcceptable)
	case len(ev.Element.Raw()) > m.opt.MaxMessage:
		return ev.Fail(stanza.PolicyViolation)
	}
	from, err := e.JID().WithResource(nick)
	if err != nil {
		return ev.Fail(stanza.InternalServerError)
	}
	b, err := m.batch(e)
	if err != nil {
		return ev.FailCommit(err)
	}
	n := r.last + 1
	r.last = n
	el := ev.Element.Append(nil, xmlstream.Streamed, xmlstream.Attr{Name: stanza.AttrTo},
		xmlstream.Attr{Name: stanza.AttrFrom, Value: from.String()})
	a := ev.Appender()
	r.appendLog(a)
	el = session.AppendChildren(nil, el, a.B)
	m.log.Append(b, b.Owner(), n, el)
	t := m.write(ev.LoopRouter(), e, r, b)
	ev.LoopRouter().Fanout(e, from, el, r.recipients)
	return ev.Stored(t)
}

// private forwards a message from one occupant to another, from the sender's nick.
func (m *module) private(ev *session.Stanza) session.Verdict {
	e, r := ev.Entity(), session.Live[room](ev.Entity())
	nick, in := r.nickOf[ev.From]
	to, there := r.occupantOf[ev.To.Resource()]
	switch {
	case ev.Type == stanza.TypeError:
		m.leave(ev, r)
		return session.Done
	case !in:
		return ev.Fail(stanza.NotAcceptable)
	case !there:
		return ev.Fail(stanza.ItemNotFound)
	case ev.Type == stanza.TypeGroupchat:
		return ev.Fail(stanza.BadRequest)
	}
	from, err := e.JID().WithResource(nick)
	if err != nil {
		return ev.Fail(stanza.InternalServerError)
	}
	ev.Send(from, to, ev.Element.Append(nil, xmlstream.Streamed,
		xmlstream.Attr{Name: stanza.AttrFrom, Value: from.String()},
		xmlstream.Attr{Name: stanza.AttrTo, Value: to.String()}))
	return session.Done
}

// lastNumber answers with the number of the last message.
func (m *module) lastNumber(ev *session.Stanza) session.Verdict {
	n := session.Live[room](ev.Entity()).last
	return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) {
		a.Open(last).Attr(attrN, formatNumber(n)).Close()
	})
}

// destroy deletes the room for an owner. The occupants are notified before that is durable, so a full store
// refuses it first.
func (m *module) destroy(ev *session.Stanza) session.Verdict {
	e := ev.Entity()
	switch {
	case part.Mutable(e).of(ev.From.Bare()) != owner:
		return ev.Fail(stanza.Forbidden)
	case m.db.Full() != nil:
		return ev.Fail(stanza.ResourceConstraint)
	}
	return ev.Commit(storage.Delete(ev.LoopRouter(), m.db, e), storage.Reply)
}
