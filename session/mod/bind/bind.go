// Package bind implements resource binding (RFC 6120 section 7): it gives an authenticated stream its
// resource, and with it a session.
//
//	C: <iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>
//	     <resource>orchard</resource></bind></iq>
//	S: <iq type='result' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>
//	     <jid>romeo@localhost/orchard</jid></bind></iq>
//
// The kernel loads the account's resident set before it makes the session, so that the account's chains
// can run for the first stanza.
//
// In memory: the session itself, which is the kernel's. Stored: nothing.
//
// Hooks: none. A stream feature, and an iq handler that refuses a second bind.
package bind

import (
	"errors"
	"fmt"

	"canto/session"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:    "bind",
	Spec:    "RFC 6120 section 7",
	Summary: "binds resources",
	Cases: "server-generated resources, also for what can't be one; client-submitted ones, conflicts " +
		"by policy, resource limit",
	Provides: []session.Feature{"bind"},
	Requires: []session.Feature{"accounts", "stream-features"},
	Options:  func() any { o := defaultOptions(); return &o },
	New:      func() session.Module { return new(module) },
}

// ns is the namespace of resource binding.
const ns = "urn:ietf:params:xml:ns:xmpp-bind"

// The names of the elements of resource binding.
var (
	bindName     = xmlstream.N(ns, "bind")
	resourceName = xmlstream.N(ns, "resource")
	jidName      = xmlstream.N(ns, "jid")
)

// A ResourceGenerator makes the name of a resource for a client that asks for none: 64 random bits. The
// process gives it to the module as a [session.Dependency]; any loop calls it.
type ResourceGenerator func() string

// Options is the module's section of the configuration.
type Options struct {
	// Conflict says what happens if another session has the resource (RFC 6120 section 7.7.2.2): "kick" ends
	// the older session, "refuse" answers the newer client with conflict, "rename" gives the newer session
	// another resource.
	Conflict string `toml:"conflict"`
}

// Check implements [session.OptionChecker].
func (o *Options) Check() (key, why string) {
	switch o.Conflict {
	case "kick", "refuse", "rename":
		return "", ""
	}
	return "conflict", fmt.Sprintf("%q: it is kick, refuse or rename", o.Conflict)
}

// A module is the module of one profile. It does not change after Load.
type module struct {
	opt         Options
	newResource ResourceGenerator
}

// defaultOptions returns the options of a configuration that does not mention the module.
func defaultOptions() Options { return Options{Conflict: "kick"} }

// Load implements [session.Module]. It fails if the process has given no [ResourceGenerator].
func (m *module) Load(api *session.API) error {
	m.opt = defaultOptions()
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	var ok bool
	if m.newResource, ok = session.Lookup[ResourceGenerator](api); !ok {
		return errors.New("the process has given no generator of resource names")
	}
	api.Hooks.Features = append(api.Hooks.Features, session.StreamFeature{
		Name:    bindName,
		IQ:      true,
		Needs:   session.HasUser,
		Forbids: session.HasResource | session.S2S,
		Offer:   func(_ session.Negotiation, a *xmlstream.Appender) { a.Open(bindName).Close() },
		Handle:  m.bind,
	})
	// A stream has one resource: a second bind is answered with not-allowed (RFC 6120 section 7.1).
	api.Hooks.OnIQ(api.Module, true, bindName, func(ev *session.Stanza) session.Verdict {
		return ev.Fail(stanza.NotAllowed)
	}, session.ToSelf, session.ToHost)
	return nil
}

// bind handles the bind request of a stream. A resource that is no valid resourcepart is replaced by a
// generated one, rather than refused (RFC 6120 section 7.7.2.1). The session is made by finish when the
// account is in memory. On the stream's loop, under no lock.
func (m *module) bind(st session.Negotiation, iq xmlstream.Element) {
	idBytes, _ := iq.Attr(stanza.AttrID)
	id := string(idBytes)
	if t, _ := iq.Attr(stanza.AttrType); string(t) != "set" {
		refuse(st, id, stanza.BadRequest)
		return
	}
	want := ""
	if p, ok := iq.Child(bindName); ok {
		if r, ok := p.Child(resourceName); ok {
			want = string(r.Text())
		}
	}
	full, err := st.Peer().WithResource(want)
	if want == "" || err != nil {
		full, err = st.Peer().WithResource(m.newResource())
	}
	if err != nil {
		refuse(st, id, stanza.InternalServerError)
		return
	}
	st.Bind(func(a *session.Account, exists bool, err error) {
		switch {
		case err == session.ErrBusy:
			refuse(st, id, stanza.ResourceConstraint)
			return
		case err != nil:
			refuse(st, id, stanza.InternalServerError)
			return
		}
		if !exists {
			st.Close(session.ErrNotAuthorized) // the account was deleted since SASL
			return
		}
		m.finish(st, a, id, full)
	})
}

// finish makes the session, answers the request and then adds the session to the account. The answer is
// written first, so that it comes before any stanza to the new session. Errors are answered: conflict,
// resource-constraint for too many sessions, or internal-server-error. Under the account's lock, on the
// loop of st.
func (m *module) finish(st session.Negotiation, a *session.Account, id string, full jid.JID) {
	s, err := a.Bind(st, full, m.opt.Conflict != "kick")
	if errors.Is(err, session.ErrResourceConflict) && m.opt.Conflict == "rename" {
		if full, err = full.Bare().WithResource(m.newResource()); err == nil {
			s, err = a.Bind(st, full, true)
		}
	}
	switch {
	case errors.Is(err, session.ErrResourceConflict):
		refuse(st, id, stanza.Conflict)
		return
	case errors.Is(err, session.ErrResourceLimit):
		st.LoopRouter().CountLimit("resources_per_account")
		refuse(st, id, stanza.ResourceConstraint)
		return
	case err != nil:
		refuse(st, id, stanza.InternalServerError)
		return
	}
	ap := st.LoopRouter().Appender()
	ap.Open(stanza.IQName).Attr(stanza.AttrType, "result").Attr(stanza.AttrID, id)
	ap.Open(bindName).Open(jidName).Text(full.String()).Close().Close().Close()
	st.Send(ap.B)
	a.AddSession(st, s)
}

// refuse answers the bind request id with a stanza error. The client may try again.
func refuse(st session.Negotiation, id string, c stanza.Condition) { st.FailIQ(id, c) }
