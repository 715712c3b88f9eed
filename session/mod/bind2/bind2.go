// Package bind2 binds a resource within a login by SASL2 (XEP-0386), and gives the new session what it is to
// begin with.
//
//	C: <authenticate …>…<user-agent id='d4565fa7-…'/><bind xmlns='urn:xmpp:bind:0'><tag>AwesomeXMPP</tag>
//	     <enable xmlns='urn:xmpp:carbons:2'/></bind></authenticate>
//	S: <success …><authorization-identifier>juliet@localhost/AwesomeXMPP/rQ7Lwut0CcxW<…>
//	     <bound xmlns='urn:xmpp:bind:0'><metadata xmlns='urn:xmpp:mam:2'>…</metadata></bound></success>
//
// The resource. It is the client's tag, a slash, and 12 characters of the server. For a client that has said
// the id of its user agent these are a keyed hash of id, tag and account: the client has the same resource
// each time, and the id can't be found from it. Otherwise they are random. A tag that can't be part of a
// resource is left out.
//
// Earlier sessions of the same user agent are ended.
//
// All is done under the lock of the account: the session is made, its requests are handled by their modules
// ([session.InlineSession]), the metadata of the archive are read, and the success is sent, before anything
// that arrives for the session. So the metadata are those of the moment of binding.
//
// In memory: the id of the user agent, in the session. Stored: a key for the hash, a secret of the store.
// Hooks: an inline request, and [session.Hooks].BoundInline runs, by which module offline drops what is in
// the archive.
package bind2

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod/archive"
	"canto/session/mod/bind"
	"canto/session/sasl"
	"canto/session/storage"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:    "bind2",
	Spec:    "XEP-0386 1.1.0",
	Summary: "binds a resource within the login",
	Cases: "stable resources by tag and user agent, earlier sessions of the user agent end, requests for the " +
		"session, metadata of the archive; archived offline messages are left to the archive",
	Provides: []session.Feature{"bind2"},
	Requires: []session.Feature{"accounts", "sasl2", "bind", "store"},
	New:      func() session.Module { return new(module) },
}

// ns is the namespace of Bind 2.
const ns = "urn:xmpp:bind:0"

var (
	bindName    = xmlstream.N(ns, "bind")
	tagName     = xmlstream.N(ns, "tag")
	boundName   = xmlstream.N(ns, "bound")
	inlineName  = xmlstream.N(ns, "inline")
	featureName = xmlstream.N(ns, "feature")
	attrVar     = xmlstream.N("", "var")
)

// maxTag is how many bytes a tag may have; a longer one is left out.
const maxTag = 256

// A module is the module of one profile. It does not change after Load.
type module struct {
	key         sasl.Secret
	newResource bind.ResourceGenerator
	archive     *archive.Service // nil: the hosts of the profile archive nothing
	hooks       *session.Hooks
}

// Load implements [session.Module]. It makes the key of the hash in the store, the first time.
func (m *module) Load(api *session.API) error {
	db, err := storage.Open(api)
	if err != nil {
		return err
	}
	_, key, err := db.Secrets().Current("resource")
	if err != nil {
		return err
	}
	m.key = sasl.NewSecret(key)
	var ok bool
	if m.newResource, ok = session.Lookup[bind.ResourceGenerator](api); !ok {
		return errors.New("the process has given no generator of resource names")
	}
	m.archive, _ = session.Lookup[*archive.Service](api)
	m.hooks = api.Hooks
	api.Hooks.Inline = append(api.Hooks.Inline, session.InlineFeature{
		Module: api.Module,
		Name:   bindName,
		Place:  session.InlineBind,
		Offer:  m.offer,
		Handle: m.bind,
	})
	return nil
}

// offer writes the advertised <bind/> with the requests that it may have (XEP-0386 section 3.1): for each the
// namespace, once.
func (m *module) offer(_ session.Negotiation, a *xmlstream.Appender) {
	a.Open(bindName)
	open := false
	for i := range m.hooks.Inline {
		f := &m.hooks.Inline[i]
		if f.Place != session.InlineSession || m.offeredBefore(i) {
			continue
		}
		if !open {
			a.Open(inlineName)
			open = true
		}
		a.Open(featureName).Attr(attrVar, f.Name.Space.String()).Close()
	}
	if open {
		a.Close()
	}
	a.Close()
}

// offeredBefore reports whether a request before number i has its namespace, as two elements of client state.
func (m *module) offeredBefore(i int) bool {
	for k := range i {
		f := &m.hooks.Inline[k]
		if f.Place == session.InlineSession && f.Name.Space == m.hooks.Inline[i].Name.Space {
			return true
		}
	}
	return false
}

// bind binds the resource and ends the login. There is no error for it in XEP-0386: if the account has too
// many sessions, or its rows can't be read, the stream ends. On the stream's loop, under no lock.
func (m *module) bind(l *session.InlineLogin, e xmlstream.Element) {
	tag := ""
	if c, ok := e.Child(tagName); ok {
		tag = string(c.Text())
	}
	request := e.Append(nil, xmlstream.Streamed)
	st := l.Stream()
	full, err := m.resource(l, st.Peer(), tag)
	if err != nil {
		l.Close(session.ErrInternal)
		return
	}
	st.Bind(func(a *session.Account, exists bool, err error) {
		switch {
		case err == session.ErrBusy:
			l.Close(session.ErrResourceConstraint)
			return
		case err != nil:
			l.Close(session.ErrInternal)
			return
		case !exists:
			l.Close(session.ErrNotAuthorized) // the account was deleted since the login
			return
		}
		m.finish(l, a, full, request)
	})
}

// resource returns the full JID for a client. It is the same for the same user agent, tag and account.
func (m *module) resource(l *session.InlineLogin, bare jid.JID, tag string) (jid.JID, error) {
	id := ""
	if l.Agent == (session.AgentID{}) {
		id = m.newResource()
	} else {
		h := hmac.New(sha256.New, m.key.Reveal())
		h.Write(l.Agent[:])
		h.Write([]byte(bare.String() + "\x00" + tag))
		id = base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:9])
	}
	if tag != "" && len(tag) <= maxTag {
		if full, err := bare.WithResource(tag + "/" + id); err == nil {
			return full, nil
		}
	}
	return bare.WithResource(id)
}

// finish makes the session and ends the login. Under the account's lock, on the stream's loop.
func (m *module) finish(l *session.InlineLogin, a *session.Account, full jid.JID, request []byte) {
	st := l.Stream()
	a.EndAgent(st.LoopRouter(), l.Agent, nil)
	s, err := a.Bind(st, full, false)
	switch {
	case errors.Is(err, session.ErrResourceLimit):
		st.LoopRouter().CountLimit("resources_per_account")
		l.Close(session.ErrResourceConstraint)
		return
	case err != nil:
		l.Close(session.ErrInternal)
		return
	}
	e, err := st.LoopRouter().Parser.Element(request)
	if err != nil {
		l.Close(session.ErrInternal)
		return
	}
	defer st.LoopRouter().Parser.Release(e)
	answers := l.BeginSession(s, e)
	var ap xmlstream.Appender
	ap.Reset(xmlstream.Streamed)
	ap.Open(boundName)
	if m.archive != nil {
		m.archive.AppendMetadata(a, &ap)
	}
	if len(answers) > 0 {
		ap.Text("") // the start tag is complete
		ap.B = append(ap.B, answers...)
	}
	ap.Close()
	l.Add(ap.B)
	l.Bound(a, s)
}
