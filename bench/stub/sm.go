package stub

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"canto/bench/xmpp"
	"canto/session/stanza"
	"canto/xmlstream"
)

// An smSession is the state of a session with stream management (XEP-0198), under the server's lock. It
// outlives the connection, until the server is closed.
type smSession struct {
	id     string
	owner  *client
	in     uint32   // stanzas of the client
	out    uint32   // stanzas to it
	queue  [][]byte // of out: those that it has not acknowledged
	asking int      // stanzas since the last request for an ack
}

// askEvery is how many stanzas to a client lie between two requests for an ack.
const askEvery = 8

// failedResume refuses a resumption.
const failedResume = "<failed xmlns='" + xmpp.NSSM + "'><item-not-found xmlns='" + stanza.NSStanzas +
	"'/></failed>"

// enable turns stream management on, and returns the answer.
func (s *Server) enable(c *client) string {
	c.sm = &smSession{id: hex.EncodeToString(random(8)), owner: c}
	s.managed[c.sm.id] = c.sm
	return "<enabled xmlns='" + xmpp.NSSM + "' id='" + c.sm.id + "' resume='true'/>"
}

// ask asks for an ack, if it is time to.
func (m *smSession) ask(c *client) {
	if m.asking++; m.asking >= askEvery {
		m.asking = 0
		c.sendPlain([]byte("<r xmlns='" + xmpp.NSSM + "'/>"))
	}
}

// acknowledge drops what the client has handled. It does not check the number.
func (m *smSession) acknowledge(e xmlstream.Element) {
	h, err := strconv.ParseUint(attr(e, xmpp.AttrHandled), 10, 32)
	n := len(m.queue) - int(m.out-uint32(h))
	if err == nil && n > 0 && n <= len(m.queue) {
		m.queue = m.queue[n:]
	}
}

// nonza handles what is no stanza, and reports whether e was. It counts the others.
func (s *Server) nonza(c *client, e xmlstream.Element) bool {
	switch space := string(e.Space()); {
	case !s.cfg.Mobile || space != xmpp.NSSM && space != xmpp.NSCSI:
		if c.sm != nil {
			c.sm.in++
		}
		return false
	case e.Is(xmpp.SMEnable) && c.sm == nil:
		c.sendPlain([]byte(s.enable(c)))
	case e.Is(xmpp.SMRequest) && c.sm != nil:
		s.stats.Acknowledged++
		c.sendPlain(fmt.Appendf(nil, "<a xmlns='%s' h='%d'/>", xmpp.NSSM, c.sm.in))
	case e.Is(xmpp.SMAnswer) && c.sm != nil:
		c.sm.acknowledge(e)
	case e.Is(xmpp.Inactive):
		c.inactive = true
	case e.Is(xmpp.Active):
		c.inactive = false
		for _, p := range c.held {
			if !s.faults.dropHeld.hit() {
				c.send(p.b)
			}
		}
		c.held = nil
	}
	return true
}

// rest keeps the session of a client whose connection is lost. It reports false if it can't be resumed.
func (s *Server) rest(c *client) bool {
	select {
	case <-s.closing:
		return false
	default:
	}
	c.resting = c.sm != nil && !c.gentle
	return c.resting
}

// resume gives the session that e names to c, which has authenticated, and sends the answer that answer makes
// of <resumed/>, and what was not acknowledged. It reports false if there is no such session.
func (s *Server) resume(c *client, e xmlstream.Element, answer func(resumed string) string) bool {
	id := attr(e, xmpp.AttrPrevID)
	m := s.managed[id]
	if m == nil || m.owner.full == "" || !strings.HasPrefix(m.owner.bare, c.user+"@") ||
		s.faults.refuseResumes.hit() {
		s.stats.RefusedResumes++
		if m != nil && m.owner.full != "" {
			s.unbind(m.owner)
		}
		return false
	}
	s.stats.Resumed++
	old := m.owner
	if !old.resting {
		old.finish()
	}
	handled := m.queue
	m.acknowledge(e)
	handled = handled[:len(handled)-len(m.queue)]
	m.owner, c.sm, old.sm = c, m, nil
	c.bare, c.resource, c.full, old.full = old.bare, old.resource, old.full, ""
	c.available, c.directed, c.joined, c.carbons = old.available, old.directed, old.joined, old.carbons
	s.users[c.bare][c.resource] = c
	c.bound = true
	c.push(delivery{b: []byte(answer(fmt.Sprintf("<resumed xmlns='%s' previd='%s' h='%d'/>", xmpp.NSSM, id,
		m.in)))})
	if s.faults.replayHandled.hit() {
		for _, b := range handled {
			if strings.HasPrefix(string(b), "<message") {
				s.stats.ReplayedHandled++
			}
			c.push(delivery{b: b})
		}
	}
	for _, b := range m.queue {
		s.stats.Replayed++
		if s.faults.dropReplays.hit() {
			s.stats.DroppedReplays++
			continue
		}
		c.push(delivery{b: b})
		if s.faults.duplicateReplays.hit() {
			s.stats.DuplicatedReplays++
			c.push(delivery{b: b})
		}
	}
	s.wg.Add(1)
	go c.deliver()
	return true
}

// sendAll sends stanzas.
func (c *client) sendAll(list [][]byte) {
	for _, b := range list {
		c.send(b)
	}
}

// A heldPresence is the last presence of one resource, which waits for an inactive client (XEP-0352).
type heldPresence struct {
	from string
	b    []byte
}

// sendPresence sends a presence, or holds it back from an inactive client.
func (s *Server) sendPresence(c *client, b []byte) {
	subscription := strings.Contains(string(b[:strings.IndexByte(string(b), '>')]), "subscribe")
	if !c.inactive || subscription || s.faults.ignoreInactive {
		c.send(b)
		return
	}
	s.stats.HeldPresences++
	_, from, _ := strings.Cut(string(b), " from='")
	from, _, _ = strings.Cut(from, "'")
	for i := range c.held {
		if c.held[i].from == from {
			c.held[i].b = b
			return
		}
	}
	c.held = append(c.held, heldPresence{from, b})
}
