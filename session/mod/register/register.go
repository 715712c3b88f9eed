// Package register lets people make accounts, change their password and leave, in band (XEP-0077). It
// is off by default.
//
//	C: <iq type='get' id='1'><query xmlns='jabber:iq:register'/></iq>
//	S: <iq type='result' id='1'><query xmlns='jabber:iq:register'><instructions>...</instructions><username/><password/></query></iq>
//	C: <iq type='set' id='2'><query xmlns='jabber:iq:register'><username>romeo</username><password>secret</password></query></iq>
//	S: <iq type='result' id='2'/>
//
// State: none. Stored: the account. New accounts are limited by address; names that look like the
// operator's are kept back.
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

// Manifest is how the loader knows this module.
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

const ns = "jabber:iq:register"

var (
	feature      = xmlstream.N("http://jabber.org/features/iq-register", "register")
	query        = xmlstream.N(ns, "query")
	instructions = xmlstream.N(ns, "instructions")
	registered   = xmlstream.N(ns, "registered")
	username     = xmlstream.N(ns, "username")
	password     = xmlstream.N(ns, "password")
	remove       = xmlstream.N(ns, "remove")
)

// Random is where salts come from; the process gives it.
type Random struct{ io.Reader }

// Options are the module's section of the configuration.
type Options struct {
	PerAddress int      `toml:"per_address"` // new accounts in an hour
	Reserved   []string `toml:"reserved"`
	PlainText  bool     `toml:"plain_text"` // without TLS too
}

// Check is [session.OptionChecker].
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

// deriveMicros of an account's keys, in microseconds of a core.
const deriveMicros = 6000

type module struct {
	opt      Options
	db       *store.DB
	router   *session.Router
	rand     Random
	throttle *session.Throttle
}

func defaultOptions() Options {
	return Options{PerAddress: 5, Reserved: []string{"admin", "administrator", "root", "postmaster",
		"hostmaster", "webmaster",
		"abuse", "support", "security", "xmpp", "server"}}
}

func (m *module) Load(api *session.API) error {
	m.opt = defaultOptions()
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	for i, name := range m.opt.Reserved { // compared with names that are prepared
		j, err := jid.New(name, "localhost", "")
		if err != nil {
			return err
		}
		m.opt.Reserved[i] = j.Local()
	}
	var ok bool
	if m.rand, ok = session.Lookup[Random](api); !ok {
		return errors.New("nobody gave a source of salts")
	}
	m.db, m.router, m.throttle = storage.DB(api), api.Router, session.NewThrottle()
	open := func(st session.Negotiation) bool { return m.opt.PlainText || st.Traits()&session.Secure != 0 }
	api.Hooks.Features = append(api.Hooks.Features,
		session.StreamFeature{
			Name: feature, Forbids: session.HasUser | session.S2S, Available: open,
			Offer: func(_ session.Negotiation, a *xmlstream.Appender) { a.Open(feature).Close() },
		},
		session.StreamFeature{
			Name: query, IQ: true, Forbids: session.HasUser | session.S2S, Available: open, Handle: m.unauthenticated,
		})
	api.Advertise(ns)
	for _, set := range []bool{false, true} {
		api.Hooks.OnIQ(api.Module, set, query, m.authenticated, session.ToSelf)
	}
	// Clients address the host: the account is the sender's, whose lock is held in a Pre chain.
	api.Hooks.PreIQ[session.ToHost].Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
		if (ev.Type != stanza.TypeGet && ev.Type != stanza.TypeSet) || !ev.Payload().Is(query) {
			return session.Pass
		}
		if ev.To.String() != ev.Host.Name {
			return session.Pass // another host, or a gateway: its registration is not the account's (attack R08)
		}
		return m.authenticated(ev)
	})
	return nil
}

// deriveKeys are the keys of a new password; slow.
func (m *module) deriveKeys(pw string) ([]byte, error) {
	k, err := sasl.DeriveKeys([]byte(pw), sasl.DefaultIterations, m.rand, sasl.SHA1, sasl.SHA256, sasl.SHA512)
	return k.Encode(), err
}

// unauthenticated is somebody without an account.
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
	if _, leaves := q.Child(remove); leaves {
		st.FailIQ(id, stanza.UnexpectedRequest) // §3.2: this stream has logged in to no account
		return
	}
	name, ok := q.Child(username)
	pw, ok2 := q.Child(password)
	if !ok || !ok2 || len(name.Text()) == 0 || len(pw.Text()) == 0 {
		st.FailIQ(id, stanza.NotAcceptable) // XEP-0077 §3.1
		return
	}
	who, err := jid.New(string(name.Text()), st.Host().Name, "")
	if err != nil {
		st.FailIQ(id, stanza.JIDMalformed)
		return
	}
	if slices.Contains(m.opt.Reserved, who.Local()) || mixesScripts(who.Local()) {
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
		_, err = m.db.Accounts().Create(context.Background(), who.Domain(), who.Local(), c)
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
			m.router.Table.NoteCreated(who)
			a := st.LoopRouter().Appender()
			a.Open(stanza.IQName).Attr(stanza.AttrType, "result").Attr(stanza.AttrID, id).Close()
			st.Send(a.B)
		}
	}) {
		st.FailIQ(id, stanza.ResourceConstraint)
	}
}

// mixesScripts reports whether a name mixes Latin letters with those of scripts that look like them.
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

// authenticated is somebody with an account, changing its password or leaving.
func (m *module) authenticated(ev *session.Stanza) session.Verdict {
	a, q := ev.Account(), ev.Payload()
	if ev.Type == stanza.TypeGet {
		return ev.Reply(func(_ *session.Stanza, ap *xmlstream.Appender) {
			ap.Open(query).Open(registered).Close().Open(username).Text(a.JID().Local()).Close().Open(
				password).Close().Close()
		})
	}
	me := a.JID()
	if _, ok := q.Child(remove); ok {
		first, _ := q.First()
		if _, more := first.Next(); more {
			return ev.Fail(stanza.BadRequest) // §3.2: it is alone
		}
		var gone store.DeletedAccount
		return ev.Await(reactor.Disk, func() (err error) {
			gone, err = m.db.Accounts().Delete(context.Background(), me.Domain(), me.Local())
			return err
		}, func(ev *session.Stanza, err error) session.Verdict {
			if err != nil {
				return ev.FailCommit(err)
			}
			v := ev.Reply(nil)
			if err := storage.FinishDeletion(m.router, m.db, gone, nil); err != nil {
				ev.LoopRouter().Log.Error("what is left of a deleted account stays until the next start", "jid",
					me.String(),
					"err", err)
			}
			return v
		})
	}
	if !m.opt.PlainText && ev.Session.Traits()&session.Secure == 0 {
		return ev.Fail(stanza.NotAuthorized) // §3.3: the channel is not safe enough
	}
	name, ok := q.Child(username)
	pw, ok2 := q.Child(password)
	if !ok || !ok2 || len(pw.Text()) == 0 {
		return ev.Fail(stanza.BadRequest)
	}
	if who, err := jid.New(string(name.Text()), me.Domain(), ""); err != nil || who != me {
		return ev.Fail(stanza.Forbidden) // attack S10: one's own password only
	}
	secret := string(pw.Text())
	return ev.Await(reactor.Crypto, func() error {
		c, err := m.deriveKeys(secret)
		if err != nil {
			return err
		}
		return m.db.Accounts().SetKeys(context.Background(), me.Domain(), me.Local(), c)
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
