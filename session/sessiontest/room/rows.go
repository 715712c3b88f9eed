package room

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/mod/disco"
	"canto/session/stanza"
	"canto/session/store"
	"canto/xmlstream"
)

// Rows of a room: an affiliation or an invitation under the bare JID that it is for, and the log.
var (
	rows     = store.NewMap[string, []byte]("test-room", '{', 1)
	messages = store.NewLog[[]byte]("test-room-log", '|', 1)
)

const (
	keyAffiliation = "a/" // the value is the affiliation
	// the value is the time in seconds since 1970 when it expires, 8 bytes, and the inviter
	keyInvitation = "i/"
)

// inviteDuration is how long an invitation holds.
const inviteDuration = 5 * time.Minute

// Affiliations.
const (
	owner  = "owner"
	member = "member"
	none   = "none"
)

// stored is what is resident of a room: all that is stored but for the log.
type stored struct {
	affiliated []affiliation
	invited    []invitation
	last       uint64 // the number of the last message, when it was read
}

type affiliation struct {
	jid jid.JID
	is  string
}

type invitation struct {
	jid, inviter jid.JID
	until        int64 // seconds since 1970
}

// of is the affiliation of who.
func (p *stored) of(who jid.JID) string {
	for i := range p.affiliated {
		if p.affiliated[i].jid == who {
			return p.affiliated[i].is
		}
	}
	return none
}

// set changes the affiliation of who.
func (p *stored) set(who jid.JID, is string) {
	i, found := slices.BinarySearchFunc(p.affiliated, who, func(a affiliation, who jid.JID) int {
		return strings.Compare(a.jid.String(), who.String()) // in the order in which rows are read
	})
	if found {
		p.affiliated = slices.Delete(p.affiliated, i, i+1)
	}
	if is != none {
		p.affiliated = slices.Insert(p.affiliated, i, affiliation{who, is})
	}
}

// read reads a room. A worker.
func (m *module) read(snap *store.Snapshot, who session.EntityRef) (*stored, error) {
	p := new(stored)
	var bad error
	err := m.rows.Scan(snap, who.ID, "", func(k string, v []byte) bool {
		var j jid.JID
		switch {
		case strings.HasPrefix(k, keyAffiliation):
			if j, bad = jid.Parse(k[len(keyAffiliation):]); bad == nil {
				p.set(j, string(v))
			}
		case strings.HasPrefix(k, keyInvitation) && len(v) > 8:
			var by jid.JID
			if j, bad = jid.Parse(k[len(keyInvitation):]); bad == nil {
				if by, bad = jid.ParseBytes(v[8:]); bad == nil {
					p.invited = append(p.invited, invitation{j, by, int64(binary.BigEndian.Uint64(v))})
				}
			}
		default:
			bad = errors.New("room: a row that is none of a room's")
		}
		return bad == nil
	})
	if err == nil && bad == nil {
		p.last, _, err = m.log.Last(snap, who.ID)
	}
	return p, errors.Join(err, bad)
}

// setAffiliation is for owners. It is answered when it is durable.
func (m *module) setAffiliation(ev *session.Stanza) session.Verdict {
	e, r := ev.Entity(), session.Live[room](ev.Entity())
	p := part.Mutable(e)
	who, is, c, ok := m.mayAffiliate(ev, p)
	if !ok {
		ev.Fail(c)
		m.deleteIfEmpty(ev)
		return session.Done
	}
	b, err := m.batch(e)
	if err != nil {
		ev.FailCommit(err)
		m.deleteIfEmpty(ev)
		return session.Done
	}
	p.set(who, is)
	if is == none {
		m.rows.Delete(b, b.Owner(), keyAffiliation+who.String())
	} else {
		m.rows.Put(b, b.Owner(), keyAffiliation+who.String(), []byte(is))
	}
	return ev.Commit(m.write(ev.LoopRouter(), e, r, b), answer)
}

func (m *module) mayAffiliate(ev *session.Stanza, p *stored) (who jid.JID, is string, c stanza.Condition,
	ok bool) {
	who, err := jidAttr(ev)
	v, _ := ev.Payload().Attr(attrIs)
	is = string(v)
	me := ev.From.Bare()
	switch {
	case err != nil:
		return who, is, stanza.JIDMalformed, false
	case is != owner && is != member && is != none:
		return who, is, stanza.BadRequest, false
	case p.of(me) != owner:
		return who, is, stanza.Forbidden, false
	case who == me && is != owner:
		return who, is, stanza.NotAllowed, false // a room without an owner could not be destroyed
	case p.of(who) == none && is != none && len(p.affiliated) >= maxAffiliations:
		return who, is, stanza.ResourceConstraint, false
	}
	return who, is, 0, true
}

// jidAttr is the bare JID that the payload names.
func jidAttr(ev *session.Stanza) (jid.JID, error) {
	v, _ := ev.Payload().Attr(stanza.AttrJID)
	j, err := jid.ParseBytes(v)
	return j.Bare(), err
}

func (m *module) affiliations(ev *session.Stanza) session.Verdict {
	list := part.Mutable(ev.Entity()).affiliated
	return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) {
		a.Open(affils)
		for _, x := range list {
			a.Open(affil).Attr(stanza.AttrJID, x.jid.String()).Attr(attrIs, x.is).Close()
		}
		a.Close()
	})
}

// invite keeps an invitation and, when that is durable, sends it.
func (m *module) invite(ev *session.Stanza) session.Verdict {
	e, r := ev.Entity(), session.Live[room](ev.Entity())
	p := part.Mutable(e)
	who, err := jidAttr(ev)
	switch {
	case err != nil:
		return ev.Fail(stanza.JIDMalformed)
	case p.of(ev.From.Bare()) == none:
		return ev.Fail(stanza.Forbidden)
	case len(p.invited) >= maxInvitations:
		return ev.Fail(stanza.ResourceConstraint)
	}
	b, err := m.batch(e)
	if err != nil {
		return ev.FailCommit(err)
	}
	i := invitation{who, ev.From.Bare(), m.now().Add(inviteDuration).Unix()}
	p.invited = append(slices.DeleteFunc(p.invited, func(x invitation) bool { return x.jid == who }), i)
	m.rows.Put(b, b.Owner(), keyInvitation+who.String(),
		append(binary.BigEndian.AppendUint64(nil, uint64(i.until)), i.inviter.String()...))
	m.arm(ev.LoopRouter(), e, r, p)
	return ev.Commit(m.write(ev.LoopRouter(), e, r, b), func(ev *session.Stanza, err error) session.Verdict {
		if err != nil {
			return ev.FailCommit(err)
		}
		m.tell(ev.LoopRouter(), e, invite, who, i.inviter)
		return ev.Reply(nil)
	})
}

// tell sends a message from the room about an invitation.
func (m *module) tell(l *session.LoopRouter, e *session.Entity, what xmlstream.Name, to, about jid.JID) {
	a := l.Appender()
	a.Open(stanza.MessageName).Attr(stanza.AttrFrom, e.JID().String()).Attr(stanza.AttrTo, to.String())
	a.Open(what).Attr(stanza.AttrJID, about.String()).Close()
	a.Close()
	l.Send(e.JID(), to, a.B)
}

// accept makes a member of the sender, who joins, if it is invited.
func (m *module) accept(ev *session.Stanza, r *room) {
	e := ev.Entity()
	p := part.Mutable(e)
	who := ev.From.Bare()
	i := slices.IndexFunc(p.invited, func(x invitation) bool { return x.jid == who && x.until > m.now().Unix() })
	if i < 0 {
		return
	}
	b, err := m.batch(e)
	if err != nil {
		return // it may join, and is invited still
	}
	p.invited = slices.Delete(p.invited, i, i+1)
	m.rows.Delete(b, b.Owner(), keyInvitation+who.String())
	if p.of(who) == none {
		p.set(who, member)
		m.rows.Put(b, b.Owner(), keyAffiliation+who.String(), []byte(member))
	}
	m.commitUntracked(ev.LoopRouter(), e, r, b, nil)
	m.arm(ev.LoopRouter(), e, r, p)
}

// commitUntracked gives b to the store, for a change that no stanza asked for; due are the invitations that
// expire with it.
func (m *module) commitUntracked(l *session.LoopRouter, e *session.Entity, r *room, b *store.Batch,
	due []invitation) {
	t := m.write(l, e, r, b)
	e.MarkUncommitted(l, t)
	r.untracked = append(r.untracked, untrackedBatch{t, due})
}

// arm has expire called when the next invitation is due, or a batch that no stanza waits for may be settled.
func (m *module) arm(l *session.LoopRouter, e *session.Entity, r *room, p *stored) {
	now, at := l.Loop.Tick(), reactor.Tick(0)
	if len(p.invited) > 0 {
		next := int64(math.MaxInt64)
		for i := range p.invited {
			next = min(next, p.invited[i].until)
		}
		at = now + reactor.Tick(max(time.Unix(next, 0).Sub(m.now()), 0)/reactor.TickLength) + 1
	}
	if r.retryAt > now {
		at = max(at, r.retryAt)
	}
	if len(r.untracked) > 0 {
		at = now + settleCheck
	}
	e.Arm(l, at)
}

// settleCheck is how long after a batch that no stanza waits for was given to the store the room looks
// whether it is settled, in ticks.
const settleCheck = 10

// expireRetry is how long after a failed batch invitations are looked at again, in ticks.
const expireRetry = 100

// settle looks at the batches that no stanza waits for. That an invitation has expired is said when that
// is durable. After one that failed the room is read again, and what it was to end is there: it is looked
// at again.
func (m *module) settle(l *session.LoopRouter, e *session.Entity, r *room) {
	durable := m.router.Committer
	for len(r.untracked) > 0 && r.untracked[0].ticket <= durable.LastSettled() {
		u := r.untracked[0]
		r.untracked = r.untracked[1:]
		if durable.Err(u.ticket) != nil {
			r.retryAt = l.Loop.Tick() + expireRetry
			continue
		}
		for _, i := range u.due {
			m.tell(l, e, expired, i.inviter, i.jid)
		}
	}
}

// expire ends the invitations that are due, and tells those who had invited when that is durable.
func (m *module) expire(l *session.LoopRouter, e *session.Entity) {
	p, r := part.Mutable(e), session.Live[room](e)
	m.settle(l, e, r)
	defer m.arm(l, e, r, p)
	if l.Loop.Tick() < r.retryAt {
		return
	}
	now := m.now().Unix()
	var due, open []invitation
	for _, i := range p.invited {
		if i.until <= now {
			due = append(due, i)
		} else {
			open = append(open, i)
		}
	}
	if len(due) == 0 {
		return
	}
	b, err := m.batch(e)
	if err != nil {
		r.retryAt = l.Loop.Tick() + expireRetry
		return
	}
	p.invited = open
	for _, i := range due {
		m.rows.Delete(b, b.Owner(), keyInvitation+i.jid.String())
	}
	m.commitUntracked(l, e, r, b, due)
}

// page answers with messages of the log, which a worker reads.
func (m *module) page(ev *session.Stanza) session.Verdict {
	e, r := ev.Entity(), session.Live[room](ev.Entity())
	if _, in := r.nickOf[ev.From]; !in && part.Mutable(e).of(ev.From.Bare()) == none {
		return ev.Fail(stanza.Forbidden)
	}
	after, max, ok := pageAttrs(ev.Payload())
	if !ok {
		return ev.Fail(stanza.BadRequest)
	}
	id, written := e.ID(), r.written
	var list []xmlstream.Element
	size, more := 0, false
	return ev.Await(reactor.Disk, func() (err error) {
		if id == 0 || max == 0 || after == math.MaxUint64 {
			return nil
		}
		m.router.Committer.Await(written) // what failed is not in the log
		snap := m.db.Snapshot()
		defer snap.Close()
		var bad error
		err = m.log.Scan(snap, id, after+1, math.MaxUint64, 0, false, func(_ uint64, v []byte) bool {
			if more = len(list) == max || size > 0 && size+len(v) > maxPageBytes; more {
				return false
			}
			el, err := xmlstream.Parse(v)
			bad = err
			list = append(list, el)
			size += len(v)
			return err == nil
		})
		return errors.Join(err, bad)
	}, func(ev *session.Stanza, err error) session.Verdict {
		if err != nil {
			return ev.Fail(stanza.InternalServerError)
		}
		return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) {
			a.Open(pageName)
			if !more {
				a.Attr(attrComplete, "true")
			}
			for _, el := range list {
				a.Raw(el)
			}
			a.Close()
		})
	})
}

// pageAttrs are the attributes of a request for a page; false: they can't be meant.
func pageAttrs(q xmlstream.Element) (after uint64, max int, ok bool) {
	max = maxPage
	if v, has := q.Attr(attrAfter); has {
		n, err := strconv.ParseUint(string(v), 10, 64)
		if err != nil {
			return 0, 0, false
		}
		after = n
	}
	if v, has := q.Attr(attrMax); has {
		n, err := strconv.Atoi(string(v))
		if err != nil || n < 0 {
			return 0, 0, false
		}
		max = min(n, maxPage)
	}
	return after, max, true
}

// occupants answers disco#items: nicks, in order, a page at a time.
func occupants(ev *session.Stanza, node string, p disco.Page) session.Verdict {
	if node != "" {
		return session.Pass
	}
	e, r := ev.Entity(), session.Live[room](ev.Entity())
	nicks := r.nicksAfter(p.After, p.Max)
	var list []disco.Item
	for _, nick := range nicks {
		if j, err := e.JID().WithResource(nick); err == nil {
			list = append(list, disco.Item{JID: j})
		}
	}
	if len(list) == 0 {
		return disco.ReplyItems(ev, nil, "", "", len(r.order))
	}
	return disco.ReplyItems(ev, list, list[0].JID.Resource(), list[len(list)-1].JID.Resource(), len(r.order))
}

// formatNumber is n as it is written.
func formatNumber(n uint64) string { return strconv.FormatUint(n, 10) }
