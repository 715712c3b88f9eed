// Package archive stores the messages of an account, and gives them back a page at a time (XEP-0313). A user
// says which messages are stored (XEP-0441).
//
//	romeo:  <message to='juliet@localhost' type='chat'><body>Hi</body></message>
//	juliet: <iq type='set' id='1'><query xmlns='urn:xmpp:mam:2'/></iq>
//	juliet gets: <message from='juliet@localhost' to='juliet@localhost/balcony'>
//	             <result xmlns='urn:xmpp:mam:2' id='…'><forwarded xmlns='urn:xmpp:forward:0'>
//	               <delay xmlns='urn:xmpp:delay' stamp='2026-01-01T00:00:00.000Z'/>
//	               <message xmlns='jabber:client' …><body>Hi</body></message></forwarded></result></message>
//	             <iq type='result' id='1'><fin xmlns='urn:xmpp:mam:2' complete='true'>…</fin></iq>
//
// Which messages are archived is decided by package handling and by the preferences of each side.
// docs/messages.md has the table.
//
// How a message is archived. In the Pre chain of its sender, phase Archive writes the sender's row, which is
// given to the store before the message goes on, and so is durable before that of its recipient. In the chain
// of its recipient, phase Archive decides, and adds the stanza-id to what devices get. Phase Record writes
// the row, when it is known which devices got the message and whether it waits for one (module offline). Each
// row goes into the batch of the message at its account: if it can't be written, the sender gets an error. A
// message that is refused is in the sender's archive alone.
//
// How a page is read. A worker reads it from a snapshot that has all messages which were taken before;
// messages that come in the meantime are delivered live. So what arrives while a client catches up is in a
// page, or comes live, or both with one id.
//
// In memory, in a warm account: a [state], if it has rows or preferences: 100 bytes. While a retracted
// message is searched for: the retractions of its account that wait, 32 at most. Stored: rows of package
// archive, and a row of preferences.
//
// Hooks: PreMessage and Message in phase Archive; Message in phase Record; iq handlers.
package archive

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"canto/session"
	"canto/session/archive"
	"canto/session/jid"
	"canto/session/mod/disco"
	"canto/session/mod/stanzaids"
	"canto/session/stanza"
	"canto/session/stanzaid"
	"canto/session/storage"
	"canto/session/store"
	"canto/session/wallclock"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:    "archive",
	Spec:    "XEP-0313 1.1.3, XEP-0441 0.2.0, XEP-0059 1.0, XEP-0424 0.4.2",
	Summary: "archives messages",
	Cases: "pages, filters, ids, flipped pages, metadata, preferences, retractions, retention, quotas; " +
		"groupchat is in the archives of rooms",
	Provides: []session.Feature{"archive"},
	Requires: []session.Feature{"accounts", "message", "resident", "store", "stanza-id", "disco", "roster"},
	Options:  func() any { o := defaultOptions(); return &o },
	New:      func() session.Module { return &Service{} },
}

// The namespaces of an archive, and of what is around an archived message.
const (
	ns         = "urn:xmpp:mam:2"
	nsExtended = "urn:xmpp:mam:2#extended"
	nsGroup    = "urn:xmpp:mam:2#groupchat-field"
)

var (
	// part is the module's part of the resident set. It is nil in an account that has no rows and no
	// preferences.
	part = session.NewPart[state]("archive")
	// prefsDef has the row of preferences of an account. The prefix is part of the store's format.
	prefsDef = store.NewMap[string, []byte]("archive-prefs", 'a', 1)
)

// A state is what is in memory of the archive of a warm account. It belongs to the account's lock.
type state struct {
	sum   archive.Summary
	prefs *prefs // nil: the defaults of the host
	// nextTrim is when the oldest rows are looked at again, in seconds of Unix time, and trimming whether a
	// worker does.
	nextTrim int64
	trimming bool
}

// Options is the module's section of the configuration.
type Options struct {
	Default     string `toml:"default"`      // for accounts without preferences: always, roster or never
	Retention   string `toml:"retention"`    // how long messages are kept, as "8760h"; "0s": for ever
	MaxMessages int    `toml:"max_messages"` // rows of one archive; the oldest go; 0: any number
	MaxBytes    int    `toml:"max_bytes"`    // bytes of one archive; the oldest go
}

// defaultOptions returns the options of a configuration that does not mention the module.
func defaultOptions() Options {
	return Options{Default: "always", Retention: "0s", MaxBytes: 4 << 30}
}

// Check implements [session.OptionChecker]: it returns the key of an option that is out of range, and why.
func (o *Options) Check() (key, why string) {
	if _, ok := parsePolicy(o.Default); !ok {
		return "default", `has to be "always", "roster" or "never"`
	}
	if d, err := time.ParseDuration(o.Retention); err != nil || d != 0 && d < time.Hour {
		return "retention", `has to be a duration of an hour or more, as "8760h", or "0s" to keep messages for ever`
	}
	return session.CheckRanges(
		session.OptionRange{Key: "max_messages", Value: o.MaxMessages, Min: 0, Max: 1 << 40,
			Note: `; to archive none, modules = ["-archive"]`},
		session.OptionRange{Key: "max_bytes", Value: o.MaxBytes, Min: 64 << 10, Max: 1 << 50,
			Note: `; to archive none, modules = ["-archive"]`})
}

// A Service is the module of one profile. Other modules look it up to read the archive of an account. It does
// not change after Load, so any loop uses it.
type Service struct {
	Archive *archive.Archive // the archives of all accounts in the store
	// Oldest returns the oldest row of an account that waits for a device; 0: there is none. Module offline sets
	// it in Load. Under the account's lock.
	Oldest func(a *session.Account) stanzaid.ID
	// Offline is what else module offline sets in Load. Without it no row that waits is deleted.
	Offline Offline

	opt       Options
	policy    policy        // the default of accounts without preferences
	retention time.Duration // 0: for ever
	db        *store.DB
	ids       *stanzaids.IDs
	prefs     *store.Map[string, []byte]
	now       wallclock.Clock
	counters  *counters
	searches  retractionSearches
	sweeps    sync.Map    // the names of the hosts for which a sweep runs
	unloaded  atomic.Bool // the sweeps end
}

// An Offline says how rows that wait for a device are deleted. The functions are called under the account's
// lock.
type Offline struct {
	// MaxRows and MaxBytes are what may wait. While something waits, an archive may have as much, if its own
	// limits are lower.
	MaxRows, MaxBytes int
	// Replaying reports whether rows of the account are being delivered: none that waits is deleted then.
	Replaying func(a *session.Account) bool
	// Expired is told that b deletes all rows of the archive of the account before first, among them rows that
	// waited, which have so many bytes.
	Expired func(a *session.Account, b *store.Batch, first stanzaid.ID, rows, bytes int)
}

// Load implements [session.Module]. It fails if an option is out of range, if there is no store, or if the
// rows in the store have a newer format.
func (m *Service) Load(api *session.API) (err error) {
	m.opt = defaultOptions()
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	m.policy, _ = parsePolicy(m.opt.Default)
	m.retention, _ = time.ParseDuration(m.opt.Retention)
	if m.db, err = storage.Open(api); err != nil {
		return err
	}
	if m.Archive, err = archive.Open(m.db.Tables()); err != nil {
		return err
	}
	if m.prefs, err = storage.OpenMap(api, prefsDef); err != nil {
		return err
	}
	var ok bool
	if m.ids, ok = session.Lookup[*stanzaids.IDs](api); !ok {
		return errors.New("no module draws ids")
	}
	if _, ok = session.Lookup[*disco.Service](api); !ok {
		return errors.New("there is no service discovery")
	}
	m.now = wallclock.Of(api)
	m.counters = countersOf(api)
	session.Resident(api, part, m.load)
	m.addHooks(api)
	session.Provide(api, m)
	api.AdvertiseAccount(ns, nsExtended, nsGroup, "urn:xmpp:message-retract:1#tombstone")
	return nil
}

// addHooks adds the hooks and the handlers of iqs.
func (m *Service) addHooks(api *session.API) {
	h := api.Hooks
	for _, t := range []session.Target{session.ToBare, session.ToFull, session.ToHost} {
		h.PreMessage[t].Add(api.Module, session.Archive, m.archiveSent)
	}
	for _, t := range []session.Target{session.ToSelf, session.ToBare, session.ToFull} {
		h.Message[t].Add(api.Module, session.Archive, m.decide)
		h.Message[t].Add(api.Module, session.Record, m.record)
	}
	for _, t := range []session.Target{session.ToBare, session.ToHost} {
		h.OnIQ(api.Module, true, queryName, refuse, t)
		h.OnIQ(api.Module, false, queryName, refuse, t)
		h.OnIQ(api.Module, false, metadataName, refuse, t)
		h.OnIQ(api.Module, true, prefsName, refuse, t)
		h.OnIQ(api.Module, false, prefsName, refuse, t)
	}
	h.Bound.Add(api.Module, session.Archive, m.bound)
	h.Absent.Add(api.Module, session.Deliver, refuseAbsent)
	h.OnIQ(api.Module, true, queryName, m.query, session.ToSelf)
	h.OnIQ(api.Module, false, queryName, sendForm, session.ToSelf)
	h.OnIQ(api.Module, false, metadataName, m.metadata, session.ToSelf)
	h.OnIQ(api.Module, true, prefsName, m.setPrefs, session.ToSelf)
	h.OnIQ(api.Module, false, prefsName, m.getPrefs, session.ToSelf)
}

// load reads the state of an account from a snapshot, on a worker; nil if nothing is stored.
func (m *Service) load(snap *store.Snapshot, acc session.EntityRef) (*state, error) {
	sum, err := m.Archive.Load(snap, acc.ID)
	if err != nil {
		return nil, err
	}
	row, ok, err := m.prefs.Get(snap, acc.ID, "")
	if err != nil || !ok && sum.Last == 0 {
		return nil, err
	}
	st := &state{sum: sum}
	if ok {
		if st.prefs, err = readPrefs(row); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// archiveSent writes the sender's row of a message that one of its clients sends. A message to the sender's
// own account is archived once, as one that the account gets. It is the Archive hook of the Pre chain, so it
// runs under the sender's lock; what it writes is given to the store before the message goes on.
func (m *Service) archiveSent(ev *session.Stanza) session.Verdict {
	a := ev.Account()
	h := ev.Handling()
	if !h.Archive || ev.To.Bare() == a.JID() || !m.wants(a, ev.To) {
		return session.Pass
	}
	if m.db.Full() != nil {
		ev.LoopRouter().CountLimit("archive")
		return ev.Fail(stanza.ResourceConstraint)
	}
	id, err := m.ids.Next()
	if err != nil {
		ev.LoopRouter().CountLimit("stanza-id-lease")
		return ev.Fail(stanza.ResourceConstraint)
	}
	ev.Number, ev.Archived = id, true
	m.write(ev, a, id, archive.Row{Flags: archive.Sent, With: ev.To.String()})
	if mayRetract(h.Kind) {
		m.retract(ev, a, ev.To)
	}
	return session.Pass
}

// decide decides whether a message that has arrived is archived, and adds its stanza-id for the devices of
// the account. It is the Archive hook of the recipient's chain, under the recipient's lock. A message that is
// routed again, as its session has ended before the client had it, is in the archive already.
func (m *Service) decide(ev *session.Stanza) session.Verdict {
	a := ev.Account()
	if !ev.Again {
		with := ev.From
		if with.Bare() == a.JID() {
			with = ev.To // a message to oneself
		}
		if !ev.Handling().Archive || !m.wants(a, with) {
			return session.Pass
		}
		if m.db.Full() != nil {
			ev.LoopRouter().CountLimit("archive")
			return ev.Fail(stanza.ResourceConstraint)
		}
		if ev.Number == 0 { // the lease of ids is used up
			return ev.Fail(stanza.ResourceConstraint)
		}
		ev.Archived = true
	}
	if !ev.Archived {
		return session.Pass
	}
	ap := ev.Appender()
	m.ids.AppendElement(ap, a.ID(), a.JID().String(), ev.Number)
	ev.Add(ap.B)
	return session.Pass
}

// record writes the recipient's row, when it is known what became of the message. A message that was refused
// has none (XEP-0313 section 6.1). It is a Record hook, under the recipient's lock.
func (m *Service) record(ev *session.Stanza) session.Verdict {
	out := ev.Outcome()
	if !ev.Archived || out.Refused || ev.Again {
		return session.Pass
	}
	a := ev.Account()
	row := archive.Row{With: ev.From.String()}
	if ev.From.Bare() == a.JID() {
		row.With, row.Flags = a.JID().String(), archive.Sent
	}
	if out.Stored {
		row.Flags |= archive.Waiting
	}
	if ev.PushDue {
		row.Flags |= archive.PushDue
	}
	m.write(ev, a, ev.Number, row)
	if mayRetract(ev.Handling().Kind) {
		m.retract(ev, a, ev.From)
	}
	return session.Pass
}

// write adds the row of ev, the newest of a, to the batch of ev. It fills in the element and the devices.
// Under the lock of a.
func (m *Service) write(ev *session.Stanza, a *session.Account, id stanzaid.ID, row archive.Row) {
	st := part.Mutable(a)
	ap := ev.Appender()
	ap.B = session.AppendForwarded(ap.B[:0], ev)
	n := len(ap.B)
	for _, s := range a.Resources() {
		if ev.DeliveredTo(s) {
			ap.B = append(ap.B[:n], archive.AppendDevice(ap.B[n:], s.JID().Resource())...)
		}
	}
	row.Element, row.Devices, row.Skew = ap.B[:n], ap.B[n:], archive.SkewOf(id, m.now())
	m.Archive.Append(storage.BatchOf(ev), a.ID(), &st.sum, id, row)
	m.counters.rows.Add(1)
	m.counters.bytes.Add(uint64(n))
	m.trimIfDue(ev.LoopRouter(), a, st, row)
}

// withOwner calls f with the account at addr if it still has the id owner. On a loop, under no lock.
func (m *Service) withOwner(l *session.LoopRouter, host *session.Host, addr jid.JID, owner uint64,
	f func(l *session.LoopRouter, a *session.Account)) {
	l.WithAccount(host, addr, func(l *session.LoopRouter, a *session.Account, exists bool, err error) {
		if err == nil && exists && a.ID() == owner {
			f(l, a)
		}
	})
}

// commitRow writes a row again. Under the lock of a.
func (m *Service) commitRow(l *session.LoopRouter, a *session.Account, id stanzaid.ID, row archive.Row) {
	if st := part.Get(a); st == nil || st.sum.Last == 0 || id < st.sum.First {
		return // it was trimmed meanwhile
	}
	b := m.db.NewBatch(a.ID())
	m.Archive.Replace(b, a.ID(), id, row)
	a.MarkUncommitted(l, session.Ticket(m.db.Commit(b)))
}

// refuse answers a request for the archive of another account or of the domain (XEP-0313 section 8.1).
func refuse(ev *session.Stanza) session.Verdict { return ev.Fail(stanza.Forbidden) }

// refuseAbsent answers such a request at an address without an account, so that both look the same. It is an
// Absent hook: it looks at no account.
func refuseAbsent(ev *session.Stanza) session.Verdict {
	if ev.Target != session.ToBare || ev.Type != stanza.TypeGet && ev.Type != stanza.TypeSet {
		return session.Pass
	}
	p := ev.Payload()
	if p.Is(queryName) || p.Is(prefsName) || p.Is(metadataName) && ev.Type == stanza.TypeGet {
		return ev.Fail(stanza.Forbidden)
	}
	return session.Pass
}

// The names of payloads.
var (
	queryName    = xmlstream.N(ns, "query")
	metadataName = xmlstream.N(ns, "metadata")
	prefsName    = xmlstream.N(ns, "prefs")
)
