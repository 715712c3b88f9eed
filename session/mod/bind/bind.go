// Package bind gives an authenticated stream its resource, and so its session (RFC 6120 §7).
//
//	C: <iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>orchard</resource></bind></iq>
//	S: <iq type='result' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>romeo@localhost/orchard</jid></bind></iq>
//
// State: the session itself. Stored: nothing. The account's resident set is read before the session
// is made, so that its chains can run from the first stanza on.
package bind

import (
	"errors"
	"fmt"

	"canto/session"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Manifest is how the loader knows this module.
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

const ns = "urn:ietf:params:xml:ns:xmpp-bind"

var (
	bindName     = xmlstream.N(ns, "bind")
	resourceName = xmlstream.N(ns, "resource")
	jidName      = xmlstream.N(ns, "jid")
)

// ResourceGenerator makes the name of a resource for a client that asks for none: 64 random bits.
type ResourceGenerator func() string

// Options are the module's section of the configuration.
type Options struct {
	// Conflict says what happens when the resource is in use (RFC 6120 §7.7.2.2): "kick" ends the
	// older session, "refuse" answers conflict, "rename" gives the newer another name.
	Conflict string `toml:"conflict"`
}

// Check is [session.OptionChecker].
func (o *Options) Check() (key, why string) {
	switch o.Conflict {
	case "kick", "refuse", "rename":
		return "", ""
	}
	return "conflict", fmt.Sprintf("%q: it is kick, refuse or rename", o.Conflict)
}

type module struct {
	opt         Options
	newResource ResourceGenerator
}

func defaultOptions() Options { return Options{Conflict: "kick"} }

func (m *module) Load(api *session.API) error {
	m.opt = defaultOptions()
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	var ok bool
	if m.newResource, ok = session.Lookup[ResourceGenerator](api); !ok {
		return errors.New("nobody gave a source of resource names")
	}
	api.Hooks.Features = append(api.Hooks.Features, session.StreamFeature{
		Name:    bindName,
		IQ:      true,
		Needs:   session.HasUser,
		Forbids: session.HasResource | session.S2S,
		Offer:   func(_ session.Negotiation, a *xmlstream.Appender) { a.Open(bindName).Close() },
		Handle:  m.bind,
	})
	// A second bind on a bound stream is refused (RFC 6120 §7.1).
	api.Hooks.OnIQ(api.Module, true, bindName, func(ev *session.Stanza) session.Verdict {
		return ev.Fail(stanza.NotAllowed)
	}, session.ToSelf, session.ToHost)
	return nil
}

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
	if want == "" || err != nil { // RFC 6120 §7.7.2.1: rather than refuse what can't be prepared
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
			st.Close(session.ErrNotAuthorized) // deleted since SASL
			return
		}
		m.finish(st, a, id, full)
	})
}

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

func refuse(st session.Negotiation, id string, c stanza.Condition) { st.FailIQ(id, c) }
