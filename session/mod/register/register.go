// Package register implements in-band registration (XEP-0077): users create accounts, change their
// password and delete their account. The module is off by default.
//
//	C: <iq type='get' id='1'><query xmlns='jabber:iq:register'/></iq>
//	S: <iq type='result' id='1'><query xmlns='jabber:iq:register'>
//	     <instructions>...</instructions><username/><password/></query></iq>
//	C: <iq type='set' id='2'><query xmlns='jabber:iq:register'>
//	     <username>romeo</username><password>secret</password></query></iq>
//	S: <iq type='result' id='2'/>
//
// New accounts are limited by the client's address. Names that look like an operator's can't be
// registered.
//
// In memory: the throttle of new accounts. Stored: the account's row, which is the store's.
//
// Hooks: a stream feature for clients without an account, on the stream's loop; iq handlers, and PreIQ in
// phase Deliver for requests to the host, both under the lock of the sender's account.
package register

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/sasl"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:    "register",
	Spec:    "XEP-0077 2.4",
	Summary: "lets people make accounts; off by default",
	Cases: "registration, password change, cancellation, conflict, missing fields, limits; no forms, " +
		"no redirection",
	Requires: []session.Feature{"accounts", "stream-features", "iq", "store"},
	Off:      true,
	Options:  func() any { o := defaultOptions(); return &o },
	New:      func() session.Module { return new(module) },
}

// ns is the namespace of in-band registration.
const ns = "jabber:iq:register"

// The names of the elements of XEP-0077.
var (
	feature      = xmlstream.N("http://jabber.org/features/iq-register", "register")
	query        = xmlstream.N(ns, "query")
	instructions = xmlstream.N(ns, "instructions")
	registered   = xmlstream.N(ns, "registered")
	username     = xmlstream.N(ns, "username")
	password     = xmlstream.N(ns, "password")
	remove       = xmlstream.N(ns, "remove")
)

// A Random is the source of salts for new passwords. The process gives it to the module as a
// [session.Dependency]. Workers read it at the same time, so it must allow that.
type Random struct{ io.Reader }

// Options is the module's section of the configuration.
type Options struct {
	PerAddress int      `toml:"per_address"` // new accounts from one address in an hour; 0: no limit
	Reserved   []string `toml:"reserved"`    // names that can't be registered
	PlainText  bool     `toml:"plain_text"`  // registration is offered without TLS too
}

// Check implements [session.OptionChecker].
func (o *Options) Check() (key, why string) {
	for _, name := range o.Reserved {
		if _, err := jid.New(name, "localhost", ""); err != nil || name == "" {
			return "reserved", fmt.Sprintf("%q is no name that an account could have: write it like admin, "+
				"without a domain", name)
		}
	}
	return session.CheckRanges(session.OptionRange{Key: "per_address", Value: o.PerAddress, Min: 0,
		Max: session.MaxRateEvents, Note: " in an hour; 0 is no limit"})
}

// deriveMicros is the cost of deriving an account's keys, in microseconds of a worker, for the admission
// queue. If it is wrong, registrations start too early or too late.
const deriveMicros = 6000

// A module is the module of one profile. It does not change after Load.
type module struct {
	opt      Options
	db       *store.DB
	router   *session.Router
	rand     Random
	throttle *session.Throttle
}

// defaultOptions returns the options of a configuration that does not mention the module.
func defaultOptions() Options {
	return Options{PerAddress: 5, Reserved: []string{"admin", "administrator", "root", "postmaster",
		"hostmaster", "webmaster",
		"abuse", "support", "security", "xmpp", "server"}}
}

// Load implements [session.Module]. Its steps: read the options and prepare the reserved names, look up the
// source of salts, then register the stream features and the handlers: of requests before login, of those
// to the user's account, and of those that a client sends to the host. It fails if an option is out of
// range, if a reserved name is no localpart, or if the process has given no [Random].
func (m *module) Load(api *session.API) error {
	m.opt = defaultOptions()
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	for i, name := range m.opt.Reserved { // they are compared with prepared names
		j, err := jid.New(name, "localhost", "")
		if err != nil {
			return err
		}
		m.opt.Reserved[i] = j.Local()
	}
	var ok bool
	if m.rand, ok = session.Lookup[Random](api); !ok {
		return errors.New("the process has given no source of salts")
	}
	m.db, m.router, m.throttle = storage.DB(api), api.Router, session.NewThrottle()
	allowed := func(st session.Negotiation) bool { return m.opt.PlainText || st.Traits()&session.Secure != 0 }
	api.Hooks.Features = append(api.Hooks.Features,
		session.StreamFeature{
			Name: feature, Forbids: session.HasUser | session.S2S, Available: allowed,
			Offer: func(_ session.Negotiation, a *xmlstream.Appender) { a.Open(feature).Close() },
		},
		session.StreamFeature{
			Name: query, IQ: true, Forbids: session.HasUser | session.S2S, Available: allowed,
			Handle: m.unauthenticated,
		})
	api.Advertise(ns)
	for _, set := range []bool{false, true} {
		api.Hooks.OnIQ(api.Module, set, query, m.authenticated, session.ToSelf)
	}
	// Clients send these requests to the host, and mean their own account. In a Pre chain the lock of that
	// account is held.
	api.Hooks.PreIQ[session.ToHost].Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
		if (ev.Type != stanza.TypeGet && ev.Type != stanza.TypeSet) || !ev.Payload().Is(query) {
			return session.Pass
		}
		if ev.To.String() != ev.Host.Name {
			return session.Pass // another host, or a gateway, has registrations of its own (attack R08)
		}
		return m.authenticated(ev)
	})
	return nil
}

// deriveKeys derives the keys of a new password. It takes milliseconds, so only workers call it. It fails
// with [sasl.ErrPassword] for a password that SASLprep forbids.
func (m *module) deriveKeys(pw string) ([]byte, error) {
	k, err := sasl.DeriveKeys([]byte(pw), sasl.DefaultIterations, m.rand, sasl.SHA1, sasl.SHA256, sasl.SHA512)
	return k.Encode(), err
}

// unauthenticated handles a request on a stream without an account: it answers with the form, or creates
// an account. On the stream's loop, under no lock. Its steps:
//
//  1. A get is answered with the fields to fill in. A removal is unexpected-request.
//  2. Check that name and password are there, that the name is valid, and that it is not reserved.
//  3. Take a token for the client's address, or answer resource-constraint.
//  4. On a worker, when the admission queue lets it start: derive the keys and create the account.
//  5. On the loop: answer the result, or conflict if the name is taken. The router forgets that the
//     address had no account.
func (m *module) unauthenticated(st session.Negotiation, iq xmlstream.Element) {
	raw, _ := iq.Attr(stanza.AttrID)
	id := string(raw)
	q, _ := iq.Child(query)
	if t, _ := iq.Attr(stanza.AttrType); string(t) == "get" {
		a := st.LoopRouter().Appender()
		a.Open(stanza.IQName).Attr(stanza.AttrType, "result").Attr(stanza.AttrID, id).Open(query)
		a.Open(instructions).Text("Choose a name and a password.").Close().Open(username).Close().Open(
			password).Close()
		a.Close().Close()
		st.Send(a.B)
		return
	}
	if _, removes := q.Child(remove); removes {
		st.FailIQ(id, stanza.UnexpectedRequest) // section 3.2
		return
	}
	name, ok := q.Child(username)
	pw, ok2 := q.Child(password)
	if !ok || !ok2 || len(name.Text()) == 0 || len(pw.Text()) == 0 {
		st.FailIQ(id, stanza.NotAcceptable) // section 3.1
		return
	}
	bare, err := jid.New(string(name.Text()), st.Host().Name, "")
	if err != nil {
		st.FailIQ(id, stanza.JIDMalformed)
		return
	}
	if slices.Contains(m.opt.Reserved, bare.Local()) || mixesScripts(bare.Local()) {
		st.FailIQ(id, stanza.NotAllowed)
		return
	}
	lim := m.router.HostLimits(st.Host())
	addr := st.Transport().Remote().Addr()
	if !lim.Exempted(addr) && !m.throttle.TakeAddr(addr, session.Rate{N: m.opt.PerAddress, Per: time.Hour},
		st.LoopRouter().Loop.Tick()) {
		st.LoopRouter().CountLimit("registrations")
		st.FailIQ(id, stanza.ResourceConstraint)
		return
	}
	secret := string(pw.Text())
	if !st.AwaitAdmission(reactor.Crypto, deriveMicros, func() error {
		c, err := m.deriveKeys(secret)
		if err != nil {
			return err
		}
		_, err = m.db.Accounts().Create(context.Background(), bare.Domain(), bare.Local(), c)
		return err
	}, func(err error) {
		switch {
		case errors.Is(err, store.ErrExists):
			st.FailIQ(id, stanza.Conflict)
		case errors.Is(err, sasl.ErrPassword):
			st.FailIQ(id, stanza.NotAcceptable)
		case err != nil:
			st.FailIQ(id, stanza.InternalServerError)
		default:
			m.router.Table.NoteCreated(bare)
			a := st.LoopRouter().Appender()
			a.Open(stanza.IQName).Attr(stanza.AttrType, "result").Attr(stanza.AttrID, id).Close()
			st.Send(a.B)
		}
	}) {
		st.FailIQ(id, stanza.ResourceConstraint)
	}
}

// mixesScripts reports whether a name mixes Latin letters with Greek or Cyrillic ones, many of which look
// the same: such a name could imitate another account's.
func mixesScripts(name string) bool {
	latin, other := false, false
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z':
			latin = true
		case r >= 0x370 && r <= 0x52F: // Greek, Cyrillic
			other = true
		}
	}
	return latin && other
}

// authenticated handles a request of a logged-in user. Under the lock of the user's account. Its steps:
//
//  1. A get is answered with the user's name.
//  2. A removal deletes the account on a worker. Then the account's contacts are notified and its rows erased
//     (storage.FinishDeletion); a failure of that is left to the next start of the server.
//  3. A new password needs TLS, unless plain_text is set, and must be for the user's own account (attack
//     S10). A worker derives and stores its keys. Then the account's other sessions are closed.
func (m *module) authenticated(ev *session.Stanza) session.Verdict {
	a, q := ev.Account(), ev.Payload()
	if ev.Type == stanza.TypeGet {
		return ev.Reply(func(_ *session.Stanza, ap *xmlstream.Appender) {
			ap.Open(query).Open(registered).Close().Open(username).Text(a.JID().Local()).Close().Open(
				password).Close().Close()
		})
	}
	own := a.JID()
	if _, ok := q.Child(remove); ok {
		first, _ := q.First()
		if _, more := first.Next(); more {
			return ev.Fail(stanza.BadRequest) // section 3.2: remove is the only child
		}
		var deleted store.DeletedAccount
		return ev.Await(reactor.Disk, func() (err error) {
			deleted, err = m.db.Accounts().Delete(context.Background(), own.Domain(), own.Local())
			return err
		}, func(ev *session.Stanza, err error) session.Verdict {
			if err != nil {
				return ev.FailCommit(err)
			}
			v := ev.Reply(nil)
			if err := storage.FinishDeletion(m.router, m.db, deleted, nil); err != nil {
				ev.LoopRouter().Log.Error("the rows of a deleted account stay until the next start",
					"jid", own.String(), "err", err)
			}
			return v
		})
	}
	if !m.opt.PlainText && ev.Session.Traits()&session.Secure == 0 {
		return ev.Fail(stanza.NotAuthorized) // section 3.3
	}
	name, ok := q.Child(username)
	pw, ok2 := q.Child(password)
	if !ok || !ok2 || len(pw.Text()) == 0 {
		return ev.Fail(stanza.BadRequest)
	}
	if named, err := jid.New(string(name.Text()), own.Domain(), ""); err != nil || named != own {
		return ev.Fail(stanza.Forbidden)
	}
	secret := string(pw.Text())
	return ev.Await(reactor.Crypto, func() error {
		c, err := m.deriveKeys(secret)
		if err != nil {
			return err
		}
		return m.db.Accounts().SetKeys(context.Background(), own.Domain(), own.Local(), c)
	}, func(ev *session.Stanza, err error) session.Verdict {
		switch {
		case errors.Is(err, sasl.ErrPassword):
			return ev.Fail(stanza.NotAcceptable)
		case err != nil:
			return ev.FailCommit(err)
		}
		for _, s := range ev.Account().Resources() {
			if s.JID() != ev.From {
				s.Close(&session.StreamError{Condition: "reset", Text: "the password was changed"})
			}
		}
		return ev.Reply(nil)
	})
}
