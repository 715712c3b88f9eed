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
	"canto/session/storage"
	"canto/session/store"
	"canto/xmlstream"
)

// rows has the affiliations and invitations of a room, keyed by the user's bare JID, and messages its log.
var (
	rows     = store.NewMap[string, []byte]("test-room", '{', 1)
	messages = store.NewLog[[]byte]("test-room-log", '|', 1)
)

// The prefixes of keys in rows.
const (
	keyAffiliation = "a/" // the value is the affiliation
	keyInvitation  = "i/" // the value is when it expires, in seconds since 1970, in 8 bytes, and the inviter
)

// inviteDuration is how long an invitation is valid.
const inviteDuration = 5 * time.Minute

// The affiliations.
const (
	owner  = "owner"
	member = "member"
	none   = "none"
)

// stored is the resident set of a room: all that is stored, except the log. The room's lock guards it.
type stored struct {
	affiliated []affiliation
	invited    []invitation
	last       uint64 // the number of the last message when the room was loaded
}

// An affiliation is what a user is in the room: owner or member.
type affiliation struct {
	jid jid.JID
	is  string
}

// An invitation makes the user jid a member if it joins before until.
type invitation struct {
	jid, inviter jid.JID // bare
	until        int64   // seconds since 1970
}

// of returns the affiliation of the user, a bare JID.
func (p *stored) of(user jid.JID) string {
	for i := range p.affiliated {
		if p.affiliated[i].jid == user {
			return p.affiliated[i].is
		}
	}
	return none
}

// set changes the affiliation of the user, a bare JID. The list stays in the order of the rows' keys.
func (p *stored) set(user jid.JID, is string) {
	i, found := slices.BinarySearchFunc(p.affiliated, user, func(a affiliation, user jid.JID) int {
		return strings.Compare(a.jid.String(), user.String())
	})
	if found {
		p.affiliated = slices.Delete(p.affiliated, i, i+1)
	}
	if is != none {
		p.affiliated = slices.Insert(p.affiliated, i, affiliation{user, is})
	}
}

// read reads the resident set of a room from a snapshot, on a worker.
func (m *module) read(snap *store.Snapshot, ref session.EntityRef) (*stored, error) {
	p := new(stored)
	var bad error
	err := m.rows.Scan(snap, ref.ID, "", func(k string, v []byte) bool {
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
			bad = errors.New("room: a row with an unknown key")
		}
		return bad == nil
	})
	if err == nil && bad == nil {
		p.last, _, err = m.log.Last(snap, ref.ID)
	}
	return p, errors.Join(err, bad)
}

// setAffiliation changes the affiliation of a user, for an owner, and answers once it is committer.
func (m *module) setAffiliation(ev *session.Stanza) session.Verdict {
	e, r := ev.Entity(), session.Live[room](ev.Entity())
	p := part.Mutable(e)
	user, is, c, ok := m.mayAffiliate(ev, p)
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
	p.set(user, is)
	if is == none {
		m.rows.Delete(b, b.Owner(), keyAffiliation+user.String())
	} else {
		m.rows.Put(b, b.Owner(), keyAffiliation+user.String(), []byte(is))
	}
	return ev.Commit(m.write(ev.LoopRouter(), e, r, b), storage.Reply)
}

// mayAffiliate reads a request for an affiliation; if ok is false, it is refused with the condition c. An
// owner can't resign, because a room without an owner could not be destroyed.
func (m *module) mayAffiliate(ev *session.Stanza, p *stored) (user jid.JID, is string, c stanza.Condition,
	ok bool) {
	user, err := jidAttr(ev)
	v, _ := ev.Payload().Attr(attrIs)
	is = string(v)
	sender := ev.From.Bare()
	switch {
	case err != nil:
		return user, is, stanza.JIDMalformed, false
	case is != owner && is != member && is != none:
		return user, is, stanza.BadRequest, false
	case p.of(sender) != owner:
		return user, is, stanza.Forbidden, false
	case user == sender && is != owner:
		return user, is, stanza.NotAllowed, false
	case p.of(user) == none && is != none && len(p.affiliated) >= maxAffiliations:
		return user, is, stanza.ResourceConstraint, false
	}
	return user, is, 0, true
}

// jidAttr returns the bare JID that the payload names.
func jidAttr(ev *session.Stanza) (jid.JID, error) {
	v, _ := ev.Payload().Attr(stanza.AttrJID)
	j, err := jid.ParseBytes(v)
	return j.Bare(), err
}

// affiliations answers with all affiliations.
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

// invite stores an invitation and sends it to the invited user once it is committer.
func (m *module) invite(ev *session.Stanza) session.Verdict {
	e, r := ev.Entity(), session.Live[room](ev.Entity())
	p := part.Mutable(e)
	user, err := jidAttr(ev)
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
	i := invitation{user, ev.From.Bare(), m.now().Add(inviteDuration).Unix()}
	p.invited = append(slices.DeleteFunc(p.invited, func(x invitation) bool { return x.jid == user }), i)
	m.rows.Put(b, b.Owner(), keyInvitation+user.String(),
		append(binary.BigEndian.AppendUint64(nil, uint64(i.until)), i.inviter.String()...))
	m.arm(ev.LoopRouter(), e, r, p)
	return ev.Commit(m.write(ev.LoopRouter(), e, r, b), func(ev *session.Stanza, err error) session.Verdict {
		if err != nil {
			return ev.FailCommit(err)
		}
		m.notify(ev.LoopRouter(), e, invite, user, i.inviter)
		return ev.Reply(nil)
	})
}

// notify sends to the user to a message from the room about the invitation of the user about. name is invite
// or expired.
func (m *module) notify(l *session.LoopRouter, e *session.Entity, name xmlstream.Name, to, about jid.JID) {
	a := l.Appender()
	a.Open(stanza.MessageName).Attr(stanza.AttrFrom, e.JID().String()).Attr(stanza.AttrTo, to.String())
	a.Open(name).Attr(stanza.AttrJID, about.String()).Close()
	a.Close()
	l.Send(e.JID(), to, a.B)
}

// accept makes the joining sender a member if it is invited. If there is no batch, as the store is full,
// the user joins nevertheless and stays invited.
func (m *module) accept(ev *session.Stanza, r *room) {
	e := ev.Entity()
	p := part.Mutable(e)
	user := ev.From.Bare()
	i := slices.IndexFunc(p.invited,
		func(x invitation) bool { return x.jid == user && x.until > m.now().Unix() })
	if i < 0 {
		return
	}
	b, err := m.batch(e)
	if err != nil {
		return
	}
	p.invited = slices.Delete(p.invited, i, i+1)
	m.rows.Delete(b, b.Owner(), keyInvitation+user.String())
	if p.of(user) == none {
		p.set(user, member)
		m.rows.Put(b, b.Owner(), keyAffiliation+user.String(), []byte(member))
	}
	m.commitUntracked(ev.LoopRouter(), e, r, b, nil)
	m.arm(ev.LoopRouter(), e, r, p)
}

// commitUntracked gives b to the store for a change for which no stanza waits. due are the invitations
// that expire with it.
func (m *module) commitUntracked(l *session.LoopRouter, e *session.Entity, r *room, b *store.Batch,
	due []invitation) {
	t := m.write(l, e, r, b)
	e.MarkUncommitted(l, t)
	r.untracked = append(r.untracked, untrackedBatch{t, due})
}

// arm sets the room's timer: to when the next invitation expires, or to when an untracked batch may be
// settled.
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

// settleCheck is the time between two checks of untracked batches, in ticks.
const settleCheck = 10

// expireRetry is the time after a failed batch until invitations expire again, in ticks.
const expireRetry = 100

// settle checks the untracked batches. If one is durable, the inviters of its expired invitations are
// notified. If one has failed, the kernel has reloaded the room, so its invitations are there again: expire
// deletes them later.
func (m *module) settle(l *session.LoopRouter, e *session.Entity, r *room) {
	committer := m.router.Committer
	for len(r.untracked) > 0 && r.untracked[0].ticket <= committer.LastSettled() {
		u := r.untracked[0]
		r.untracked = r.untracked[1:]
		if committer.Err(u.ticket) != nil {
			r.retryAt = l.Loop.Tick() + expireRetry
			continue
		}
		for _, i := range u.due {
			m.notify(l, e, expired, i.inviter, i.jid)
		}
	}
}

// expire is EntityHandler.Timer: it deletes the invitations that have expired. Their inviters are notified
// once that is durable, see settle.
func (m *module) expire(l *session.LoopRouter, e *session.Entity) {
	p, r := part.Mutable(e), session.Live[room](e)
	m.settle(l, e, r)
	defer m.arm(l, e, r, p)
	if l.Loop.Tick() < r.retryAt {
		return
	}
	now := m.now().Unix()
	var due, valid []invitation
	for _, i := range p.invited {
		if i.until <= now {
			due = append(due, i)
		} else {
			valid = append(valid, i)
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
	p.invited = valid
	for _, i := range due {
		m.rows.Delete(b, b.Owner(), keyInvitation+i.jid.String())
	}
	m.commitUntracked(l, e, r, b, due)
}

// page answers with messages of the log, which a worker reads. The worker first waits for the room's last
// batch, so that the page has all messages that were sent before the request. Then it reads until the page
// is full.
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
		m.router.Committer.Await(written) // after an error the message is not in the log
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

// pageAttrs reads the attributes of a request for a page; false if one is no number.
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

// occupants answers disco#items with the occupants, in the order of nicks, a page at a time.
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

// formatNumber returns n in decimal digits.
func formatNumber(n uint64) string { return strconv.FormatUint(n, 10) }
