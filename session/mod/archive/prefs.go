package archive

import (
	"errors"
	"slices"
	"strings"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod/roster"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
	"canto/xmlstream"
)

// A policy says which messages are archived that no list of the preferences names (XEP-0441 section 2.1.1).
type policy uint8

// The policies. They are stored and never change.
const (
	always     policy = iota // all
	never                    // none
	fromRoster               // those with contacts of the roster
)

// policyNames has the names of the policies on the wire and in the configuration.
var policyNames = [...]string{"always", "never", "roster"}

// parsePolicy returns the policy called s.
func parsePolicy(s string) (policy, bool) {
	i := slices.Index(policyNames[:], s)
	return policy(max(i, 0)), i >= 0
}

// A prefs has the preferences of one account. It is replaced, and not changed.
type prefs struct {
	policy        policy
	always, never []jid.JID // addresses that the policy does not count for; a bare one stands for its resources
}

// The bounds of the preferences of one account.
const (
	maxPrefs      = 1000     // addresses in both lists
	maxPrefsBytes = 64 << 10 // of the stored form
)

// append appends the stored form: the policy, and the lists, each address on a line; an empty line is between
// the lists. No JID has a line feed.
func (p *prefs) append(dst []byte) []byte {
	dst = append(dst, byte(p.policy))
	for i, list := range [][]jid.JID{p.always, p.never} {
		if i > 0 {
			dst = append(dst, '\n')
		}
		for _, j := range list {
			dst = append(append(dst, j.String()...), '\n')
		}
	}
	return dst
}

// errPrefs: the stored preferences are damaged.
var errPrefs = errors.New("archive: damaged preferences")

// readPrefs reads what append has written.
func readPrefs(b []byte) (*prefs, error) {
	if len(b) == 0 || int(b[0]) >= len(policyNames) {
		return nil, errPrefs
	}
	p := &prefs{policy: policy(b[0])}
	list := &p.always
	for line := range strings.Lines(string(b[1:])) {
		if line == "\n" {
			list = &p.never
			continue
		}
		j, err := jid.Parse(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, errPrefs
		}
		*list = append(*list, j)
	}
	return p, nil
}

// lists reports whether list has j, or its bare JID (XEP-0441 section 2.3.1).
func lists(list []jid.JID, j jid.JID) bool {
	return slices.Contains(list, j) || !j.IsBare() && slices.Contains(list, j.Bare())
}

// wants reports whether the preferences of a let a message with j be archived. Under the lock of a.
func (m *Service) wants(a *session.Account, j jid.JID) bool {
	p, decides := (*prefs)(nil), m.policy
	if st := part.Get(a); st != nil && st.prefs != nil {
		p, decides = st.prefs, st.prefs.policy
	}
	if p != nil && lists(p.never, j) {
		return false
	}
	if decides == always || p != nil && lists(p.always, j) {
		return true
	}
	if decides == never {
		return false
	}
	if j.Bare() == a.JID() {
		return true
	}
	_, ok := roster.Of(a).Get(j.Bare())
	return ok
}

// Preferences are the stored preferences of an account, for the operator's commands.
type Preferences struct {
	Policy string `json:"policy"` // always, roster or never; "default": the account has none, the host's count
	Always int    `json:"always"` // the number of addresses that are always archived
	Never  int    `json:"never"`  // and of those that are never archived
}

// StoredPreferences reads the preferences of the account with the id owner. It may wait for the disk.
func StoredPreferences(db *store.DB, r store.Reader, owner uint64) (Preferences, error) {
	table, err := store.MapOf(db.Tables(), prefsDef)
	if err != nil {
		return Preferences{}, err
	}
	row, ok, err := table.Get(r, owner, "")
	if err != nil || !ok {
		return Preferences{Policy: "default"}, err
	}
	p, err := readPrefs(row)
	if err != nil {
		return Preferences{}, err
	}
	return Preferences{policyNames[p.policy], len(p.always), len(p.never)}, nil
}

// WantsStored reports whether the stored preferences of the account with the id owner let a message with j be
// archived. The policy roster counts as never: rosters are not read. On a worker.
func (m *Service) WantsStored(r store.Reader, owner uint64, j jid.JID) (bool, error) {
	row, ok, err := m.prefs.Get(r, owner, "")
	if err != nil {
		return false, err
	}
	p := &prefs{policy: m.policy}
	if ok {
		if p, err = readPrefs(row); err != nil {
			return false, err
		}
	}
	return !lists(p.never, j) && (p.policy == always || lists(p.always, j)), nil
}

// The names of the preferences' elements.
var (
	alwaysName  = xmlstream.N(ns, "always")
	neverName   = xmlstream.N(ns, "never")
	jidName     = xmlstream.N(ns, "jid")
	attrDefault = xmlstream.N("", "default")
)

// getPrefs answers a request for the preferences.
func (m *Service) getPrefs(ev *session.Stanza) session.Verdict {
	return ev.Reply(m.appendPrefs)
}

// appendPrefs appends the preferences of the account of ev.
func (m *Service) appendPrefs(ev *session.Stanza, a *xmlstream.Appender) {
	p := &prefs{policy: m.policy}
	if st := part.Get(ev.Account()); st != nil && st.prefs != nil {
		p = st.prefs
	}
	a.Open(prefsName).Attr(attrDefault, policyNames[p.policy])
	for _, of := range []struct {
		name xmlstream.Name
		list []jid.JID
	}{{alwaysName, p.always}, {neverName, p.never}} {
		a.Open(of.name)
		for _, j := range of.list {
			a.Open(jidName).Text(j.String()).Close()
		}
		a.Close()
	}
	a.Close()
}

// setPrefs changes the preferences. The answer, which has them, comes when they are durable.
func (m *Service) setPrefs(ev *session.Stanza) session.Verdict {
	p, bad, ok := parsePrefs(ev)
	if !ok {
		return ev.Fail(bad)
	}
	a := ev.Account()
	b, err := storage.Batch(m.db, &a.Entity)
	if err != nil {
		return ev.FailCommit(err)
	}
	m.prefs.Put(b, a.ID(), "", p.append(nil))
	part.Mutable(a).prefs = p
	m.counters.preferencesSet.Add(1)
	return ev.Commit(session.Ticket(m.db.Commit(b)), func(ev *session.Stanza, err error) session.Verdict {
		if err != nil {
			return ev.FailCommit(err)
		}
		return ev.Reply(m.appendPrefs)
	})
}

// parsePrefs reads the preferences of a request. If ok is false, bad is the condition of the answer. Each
// address is taken once; one that is in both lists counts as never.
func parsePrefs(ev *session.Stanza) (p *prefs, bad stanza.Condition, ok bool) {
	e := ev.Payload()
	name, _ := e.Attr(attrDefault)
	p = new(prefs)
	if p.policy, ok = parsePolicy(string(name)); !ok {
		return nil, stanza.BadRequest, false
	}
	for _, of := range []struct {
		name xmlstream.Name
		list *[]jid.JID
	}{{neverName, &p.never}, {alwaysName, &p.always}} {
		list, has := e.Child(of.name)
		if !has {
			continue
		}
		for c, more := list.First(); more; c, more = c.Next() {
			j, err := ev.LoopRouter().JID(c.Text())
			switch {
			case !c.Is(jidName):
				return nil, stanza.BadRequest, false
			case err != nil:
				return nil, stanza.JIDMalformed, false
			case len(p.always)+len(p.never) >= maxPrefs:
				return nil, stanza.PolicyViolation, false
			case !slices.Contains(p.never, j) && !slices.Contains(p.always, j):
				*of.list = append(*of.list, j)
			}
		}
	}
	if len(p.append(nil)) > maxPrefsBytes {
		return nil, stanza.PolicyViolation, false
	}
	return p, 0, true
}
