package archive

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"

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
// An account has one search at a time. Retractions that come meanwhile wait ([retractionSearches]). If the
// server ends in between, the retraction is archived and the message stays.
func (m *Service) retract(ev *session.Stanza, a *session.Account, with jid.JID) {
	id, own := retractedID(ev.Element), ev.ID()
	if len(id) == 0 {
		return
	}
	l := ev.LoopRouter()
	start, ok := false, len(id) <= maxRetractedID && len(own) <= maxRetractedID
	if ok {
		id = bytes.Clone(id) // the markers are parts of it
		start, ok = m.searches.add(a.ID(), &retraction{id: id, markers: markersOf(id),
			own: bytes.Clone(own), author: ev.From, by: stamp(m.now().UTC()), elsewhere: ev.From.Bare() != a.JID(),
			occupant: ev.Handling().Kind == handling.RoomPrivate, with: with.Bare(), below: ev.Number})
	}
	if !ok {
		m.counters.unsearched.Add(1)
		l.CountLimit("retract")
	}
	if start {
		m.search(l, a.Host(), a.JID(), a.ID())
	}
}

// search looks for the messages that the waiting retractions of an account retract, and goes on until none
// waits. On a loop, with any lock held.
func (m *Service) search(l *session.LoopRouter, host *session.Host, addr jid.JID, owner uint64) {
	list := m.searches.next(owner)
	if len(list) == 0 {
		return
	}
	ok := l.RunOnWorker(host, reactor.Disk, func() error {
		snap := m.db.Snapshot()
		defer snap.Close()
		below, left := stanzaid.ID(0), maxRetracted
		for _, r := range list {
			below = max(below, r.below)
		}
		return m.Archive.ScanWith(snap, owner, list[0].with.String(), 1, below-1, true,
			func(at stanzaid.ID, row archive.Row) bool {
				left--
				return !allFound(list, at, row) && left > 0
			})
	}, func(l *session.LoopRouter, err error) {
		defer m.search(l, host, addr, owner)
		if err != nil {
			m.counters.searchFailed.Add(uint64(len(list)))
		}
		for _, r := range list {
			if r.row.Element == nil && r.others > 0 {
				m.counters.notAuthor.Add(1)
			}
		}
		m.withOwner(l, host, addr, owner, func(l *session.LoopRouter, a *session.Account) {
			for _, r := range list {
				if r.row.Element != nil {
					m.counters.retractions.Add(1)
					m.commitRow(l, a, r.at, r.row)
				}
			}
		})
	})
	if ok {
		return
	}
	m.searches.putBack(owner, list) // the workers are busy
	l.After(searchPause, func() {
		if !m.unloaded.Load() {
			m.search(l, host, addr, owner)
		}
	})
}

// searchPause is how long a search waits if the workers are busy: a second.
const searchPause reactor.Tick = 10

// The bounds of the retractions that wait for a search. One beyond them is archived, and the message that it
// retracts stays as it is: a retraction is a request.
const (
	maxRetractions = 32     // of one account
	maxSearches    = 10_000 // accounts that have some
	maxRetractedID = 1024   // bytes of the ids of a retraction
	maxCandidates  = 1000   // messages that one retraction parses, as they may have its id
)

// retractionSearches has the retractions whose message is searched for, by account. A search is for all
// retractions of one conversation that wait. Any goroutine.
type retractionSearches struct {
	mu       sync.Mutex
	accounts map[uint64][]*retraction // those that wait; an account with a search has an entry
}

// add adds r to those of an account that wait. ok is false if there are too many. start says that there is no
// search: the caller starts one.
func (s *retractionSearches) add(owner uint64, r *retraction) (start, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, running := s.accounts[owner]
	if len(list) >= maxRetractions || !running && len(s.accounts) >= maxSearches {
		return false, false
	}
	if s.accounts == nil {
		s.accounts = make(map[uint64][]*retraction)
	}
	s.accounts[owner] = append(list, r)
	return !running, true
}

// next takes the first retraction of an account that waits, and all others of its conversation. If there is
// none the search ends.
func (s *retractionSearches) next(owner uint64) (list []*retraction) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.accounts[owner]
	if len(waiting) == 0 {
		delete(s.accounts, owner)
		return nil
	}
	with, left := waiting[0].with, []*retraction(nil)
	for _, r := range waiting {
		if r.with == with {
			list = append(list, r)
		} else {
			left = append(left, r)
		}
	}
	s.accounts[owner] = left
	return list
}

// putBack puts what next has returned before those that wait.
func (s *retractionSearches) putBack(owner uint64, list []*retraction) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accounts[owner] = append(list, s.accounts[owner]...)
}

// A retraction is the search for the message that is retracted, and its result.
type retraction struct {
	id      []byte      // that its author has given it
	markers [][]byte    // texts of which a message with the id has one
	own     []byte      // the id of the message that retracts it
	author  jid.JID     // who retracts it
	by      string      // the time of the retraction
	with    jid.JID     // the bare JID of the other side
	below   stanzaid.ID // the row of the retraction; the message is before it

	elsewhere bool // the author is not the owner of the archive
	occupant  bool // the retraction is a private message of a room

	at     stanzaid.ID // of the row
	row    archive.Row // the tombstone; without an element if the message was not found
	others int         // messages with the id, of another author
	parsed int         // messages that were parsed
}

// allFound looks at one row for each retraction of list whose message was not found yet. It reports whether
// that of all was found, or is given up.
func allFound(list []*retraction, at stanzaid.ID, row archive.Row) bool {
	all, taken := true, false
	for _, r := range list {
		if r.row.Element != nil || r.parsed >= maxCandidates {
			continue
		}
		if !taken && at < r.below && r.found(at, row) {
			taken = true
			continue
		}
		all = false
	}
	return all
}

// markersOf returns texts of which a stored message with the id has one: so that next to no other message is
// parsed. They are the id in quotation marks. An id with characters that are written as references, in one of
// several ways, is found by its longest part without them.
func markersOf(id []byte) [][]byte {
	const special = "<>&'\"\t\r\n"
	if !bytes.ContainsAny(id, special) {
		return [][]byte{fmt.Appendf(nil, "'%s'", id), fmt.Appendf(nil, `"%s"`, id)}
	}
	var longest []byte
	for part := range bytes.FieldsFuncSeq(id, func(r rune) bool { return strings.ContainsRune(special, r) }) {
		if len(part) > len(longest) {
			longest = part
		}
	}
	return [][]byte{longest}
}

// found reports whether row is the message that is looked for, and prepares its tombstone.
func (r *retraction) found(at stanzaid.ID, row archive.Row) bool {
	if row.Flags&archive.Retracted != 0 || !slices.ContainsFunc(r.markers, func(marker []byte) bool {
		return bytes.Contains(row.Element, marker)
	}) {
		return false
	}
	r.parsed++
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
