package presence

import (
	"canto/session"
	"canto/session/jid"
	"canto/session/mod/roster"
	"canto/session/stanza"
)

// MustTell is set in a session that an earlier process had. Its client has resumed it then, or will: what the
// client knows of its contacts is as old as that process, so it is told the presence of each as it is. The
// contacts are told nothing. The module that restores sessions sets it.
var MustTell = session.NewFlag("presence-retell")

// retellStep is how many contacts one turn of the loop looks at.
const retellStep = 64

// retell is the Resumed hook: it tells the client the presence of its contacts, if MustTell is set. A contact
// without an available session is told by unavailable presence of its bare JID (RFC 6121 section 4.3.2).
// Contacts of other servers are probed. Under the account's lock.
func (m *Service) retell(l *session.LoopRouter, s *session.Session) {
	if !MustTell.Is(s) {
		return
	}
	MustTell.Set(s, false)
	if !s.Available() {
		return
	}
	a := s.Account()
	ap := l.Appender()
	ap.Open(stanza.PresenceName).Attr(stanza.AttrType, "probe").Close()
	remote, table := l.TempRecipients(), l.Router().Table
	var local []jid.JID
	for it := range roster.Of(a).All() {
		switch _, ours := table.Host(it.JID.Domain()); {
		case !it.To || m.isHidden(a, it.JID):
		case ours:
			local = append(local, it.JID)
		default:
			remote.Add(it.JID)
		}
	}
	l.Fanout(a, s.JID(), ap.B, remote)
	m.tellOf(l, s.JID(), local)
}

// tellOf tells the session at the full JID to of the contacts in list, some in each turn of the loop. Any
// lock may be held.
func (m *Service) tellOf(l *session.LoopRouter, to jid.JID, list []jid.JID) {
	if len(list) == 0 {
		return
	}
	l.Loop.Post(func() {
		l.Enter(func() {
			n := min(len(list), retellStep)
			for _, contact := range list[:n] {
				m.tell(l, to, contact)
			}
			m.tellOf(l, to, list[n:])
		})
	})
}

// tell tells the session at the full JID to of a local contact. Under no lock.
func (m *Service) tell(l *session.LoopRouter, to, contact jid.JID) {
	host, ok := l.Router().Table.Host(contact.Domain())
	if !ok {
		return
	}
	l.WithAccount(host, contact, func(l *session.LoopRouter, a *session.Account, exists bool, err error) {
		if exists && err == nil && !m.answerProbe(l, a, to) {
			ap := l.Appender()
			ap.Open(stanza.PresenceName).Attr(stanza.AttrType, "unavailable").Close()
			l.Send(contact, to, ap.B)
		}
	})
}

// answerProbe sends the presence of each available session of a to the full JID of a prober, if the prober is
// the user or a contact with a subscription. It reports whether it has sent any. Under the lock of a.
func (m *Service) answerProbe(l *session.LoopRouter, a *session.Account, prober jid.JID) (any bool) {
	who := prober.Bare()
	if who != a.JID() && (!roster.Of(a).State(who).From || m.isHidden(a, who)) {
		return false
	}
	for _, s := range a.Resources() {
		if s.Available() && s.JID() != prober {
			p, _ := s.Presence()
			l.Send(s.JID(), prober, p)
			any = true
		}
	}
	return any
}
