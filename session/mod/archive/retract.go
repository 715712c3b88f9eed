package archive

import (
	"bytes"

	"canto/reactor"
	"canto/session"
	"canto/session/archive"
	"canto/session/handling"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/session/stanzaid"
	"canto/xmlstream"
)

// maxRetracted is how many messages of a conversation are looked at for the one that is retracted. Older ones
// stay as they are: a retraction is a request (XEP-0424 section 7).
const maxRetracted = 10_000

// The names of a tombstone, and of what a message may carry its id in.
var (
	retractedName = xmlstream.N("urn:xmpp:message-retract:1", "retracted")
	originIDName  = xmlstream.N("urn:xmpp:sid:0", "origin-id")
	applyToName   = xmlstream.N("urn:xmpp:fasten:0", "apply-to")
	oldRetract    = xmlstream.N("urn:xmpp:message-retract:0", "retract") // in an apply-to
)

// retractedID returns the id of the message that e retracts, or nil: the origin-id or the id attribute that
// its author has given it (XEP-0424 section 4). An <apply-to/> may attach other things too: it counts if it
// has the retraction of the version before.
func retractedID(e xmlstream.Element) []byte {
	for c, ok := e.First(); ok; c, ok = c.Next() {
		if c.Is(applyToName) {
			if _, old := c.Child(oldRetract); !old {
				continue
			}
		} else if !c.Is(handling.RetractName) {
			continue
		}
		id, _ := c.Attr(stanza.AttrID)
		return id
	}
	return nil
}

// mayRetract reports whether a message of the kind k may be a retraction: a private message of a room may be
// one, too.
func mayRetract(k handling.Kind) bool { return k == handling.Retraction || k == handling.RoomPrivate }

// retract replaces the message that ev retracts by a tombstone, in the archive of a (XEP-0424 section 5).
// with is the other side of the conversation. The message must be of the author of ev: the same bare JID. A
// private message that a room has sent must be of the same occupant, which is the same full JID, if it or ev
// is marked as one. ev itself is archived like any message, so a client that has the message learns of it.
// Under the lock of a.
//
//  1. A worker looks for the message among those of the conversation, the newest first.
//  2. If it is there, and is of the same author, it is replaced, under the account's lock.
//
// If the server ends in between, the retraction is archived and the message stays.
func (m *Service) retract(ev *session.Stanza, a *session.Account, with jid.JID) {
	id, own := bytes.Clone(retractedID(ev.Element)), bytes.Clone(ev.ID())
	if len(id) == 0 {
		return
	}
	host, addr, owner, below := a.Host(), a.JID(), a.ID(), ev.Number
	search := retraction{id: id, own: own, author: ev.From, by: stamp(m.now().UTC()),
		elsewhere: ev.From.Bare() != addr, occupant: ev.Handling().Kind == handling.RoomPrivate}
	ev.LoopRouter().RunOnWorker(host, reactor.Disk, func() error {
		snap := m.db.Snapshot()
		defer snap.Close()
		left := maxRetracted
		return m.Archive.ScanWith(snap, owner, with.Bare().String(), 1, below-1, true,
			func(at stanzaid.ID, row archive.Row) bool {
				left--
				return !search.found(at, row) && left > 0
			})
	}, func(l *session.LoopRouter, err error) {
		switch {
		case err != nil:
		case search.row.Element == nil:
			if search.others > 0 {
				m.counters.notAuthor.Add(1)
			}
		default:
			m.withOwner(l, host, addr, owner, func(l *session.LoopRouter, a *session.Account) {
				m.counters.retractions.Add(1)
				m.commitRow(l, a, search.at, search.row)
			})
		}
	})
}

// A retraction is the search for the message that is retracted, and its result.
type retraction struct {
	id     []byte  // that its author has given it
	own    []byte  // the id of the message that retracts it
	author jid.JID // who retracts it
	by     string  // the time of the retraction

	elsewhere bool // the author is not the owner of the archive
	occupant  bool // the retraction is a private message of a room

	at     stanzaid.ID // of the row
	row    archive.Row // the tombstone; without an element if the message was not found
	others int         // messages with the id, of another author
}

// found reports whether row is the message that is looked for, and prepares its tombstone.
func (r *retraction) found(at stanzaid.ID, row archive.Row) bool {
	plain := !bytes.ContainsAny(r.id, "<>&'\"\t\r\n") // it is stored as it is
	if row.Flags&archive.Retracted != 0 || plain && !bytes.Contains(row.Element, r.id) {
		return false
	}
	e, err := xmlstream.Parse(row.Element)
	if err != nil || !hasID(e, r.id) {
		return false
	}
	text, _ := e.Attr(stanza.AttrFrom)
	from, err := jid.Parse(string(text))
	if err != nil || !r.byAuthor(e, from) {
		r.others++
		return false
	}
	r.at, r.row = at, row
	r.row.Devices = bytes.Clone(row.Devices)
	r.row.Flags |= archive.Retracted
	r.row.Element = r.tombstone(e)
	return true
}

// byAuthor reports whether the message e, which has come from from, is of the author.
func (r *retraction) byAuthor(e xmlstream.Element, from jid.JID) bool {
	if from.Bare() != r.author.Bare() {
		return false
	}
	room := r.occupant || handling.Of(stanza.TypeChat, e).Kind == handling.RoomPrivate
	return !r.elsewhere || !room || from == r.author
}

// hasID reports whether the author of the message e has given it the id.
func hasID(e xmlstream.Element, id []byte) bool {
	if v, ok := e.Attr(stanza.AttrID); ok && bytes.Equal(v, id) {
		return true
	}
	c, ok := e.Child(originIDName)
	if !ok {
		return false
	}
	v, _ := c.Attr(stanza.AttrID)
	return bytes.Equal(v, id)
}

// tombstone returns what stands for the message e (XEP-0424 section 5): its attributes, the id of the message
// that retracts it, and the time of that.
func (r *retraction) tombstone(e xmlstream.Element) []byte {
	var a xmlstream.Appender
	a.Reset(xmlstream.Streamed)
	a.Open(forwardedName)
	n := len(a.B) + 1 // the tag is closed when its first child begins
	a.Open(stanza.MessageName)
	for _, name := range []xmlstream.Name{stanza.AttrType, stanza.AttrID, stanza.AttrFrom, stanza.AttrTo} {
		if v, ok := e.Attr(name); ok {
			a.AttrBytes(name, v)
		}
	}
	a.Open(retractedName).AttrBytes(stanza.AttrID, r.own).Attr(stanza.AttrStamp, r.by).Close()
	a.Close()
	return a.B[n:len(a.B):len(a.B)]
}
