// Package disco implements service discovery (XEP-0030) and the server's entity capabilities (XEP-0115).
//
//	C: <iq type='get' id='1' to='localhost'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>
//	S: <iq type='result' id='1' from='localhost' to='romeo@localhost/orchard'>
//	     <query xmlns='http://jabber.org/protocol/disco#info'>
//	       <identity category='server' type='im' name='Canto'/><feature var='urn:xmpp:ping'/>...</query></iq>
//
// What answers. A host lists the features that its modules advertise (session.API.Advertise, kept in the
// profile), and as its items the service hosts below it. An account answers only its owner and the
// contacts with a subscription; to any other client it does not exist. What entities of other kinds answer
// is in a [Kind], which their modules fill in. The domain of a service host also lists what the modules of
// the host advertise; if no module has made an entity of it, it is a generic component (XEP-0030 section
// 3.1).
//
// In memory: two caches for the whole profile, the verification string and the index of service hosts.
// Stored: nothing.
//
// Hooks: iq handlers for the host, for accounts and for entities of other kinds, under the lock of the
// entity; Absent, which answers for addresses without an account, under no lock. The stream features have
// the server's capabilities.
package disco

import (
	"crypto/sha1"
	"encoding/base64"
	"maps"
	"reflect"
	"slices"
	"sort"
	"strings"
	"sync/atomic"

	"canto/session"
	"canto/session/form"
	"canto/session/mod/roster"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:    "disco",
	Spec:    "XEP-0030 2.5.0, XEP-0115 1.6.0",
	Summary: "says what the server can do",
	Cases: "info and items of host, account and entities of other kinds, nodes, extended information, " +
		"pages of " +
		"items (XEP-0059, forwards); the server's caps",
	Provides: []session.Feature{"disco"},
	Requires: []session.Feature{"iq"},
	New:      func() session.Module { return new(Service) },
}

// The namespaces, and the node of the server's capabilities.
const (
	nsInfo   = "http://jabber.org/protocol/disco#info"
	nsItems  = "http://jabber.org/protocol/disco#items"
	nsCaps   = "http://jabber.org/protocol/caps"
	capsNode = "urn:canto:server"
)

// The names of the elements and attributes.
var (
	info     = xmlstream.N(nsInfo, "query")
	items    = xmlstream.N(nsItems, "query")
	identity = xmlstream.N(nsInfo, "identity")
	feature  = xmlstream.N(nsInfo, "feature")
	item     = xmlstream.N(nsItems, "item")
	caps     = xmlstream.N(nsCaps, "c")
	category = xmlstream.N("", "category")

	hashAttr = xmlstream.N("", "hash")
)

// A Form is extended information (XEP-0128): a data form.
type Form struct {
	Type   string  // the value of FORM_TYPE, which defines the fields
	Fields []Field // without FORM_TYPE
}

// A Field is one field of a Form.
type Field = form.Field

// A Service is the module of one profile. [session.Lookup] gives it to modules that add a Form or a [Kind]
// in Load. After Load only the two caches change; any loop uses it.
type Service struct {
	about session.About
	// Forms are the forms of the host. Modules append to it in Load.
	Forms        []Form
	verCache     atomic.Pointer[cachedVer]
	table        *session.Table
	serviceCache atomic.Pointer[serviceIndex]
	kinds        map[session.KindID]*Kind // does not change after Load
	// domain is the answer of a service host of whose domain no module has made an entity.
	domain Kind
}

// A cachedVer is the verification string of a profile. A profile does not change once it is loaded, so
// neither does the string.
type cachedVer struct {
	profile *session.Profile
	ver     string
}

// Load implements [session.Module]: it adds the handlers and provides the Service.
func (m *Service) Load(api *session.API) error {
	m.about, _ = session.Lookup[session.About](api)
	m.table = api.Router.Table
	m.domain = Kind{Identities: []Identity{{Category: "component", Type: "generic", Name: m.about.Name}},
		Features: []string{nsInfo, nsItems}}
	api.Advertise(nsCaps, nsInfo, nsItems) // an entity with capabilities lists them (XEP-0115 section 7)
	api.AdvertiseAccount(nsInfo, nsItems)
	api.Hooks.OnIQ(api.Module, false, info, m.hostInfo, session.ToHost)
	api.Hooks.OnIQ(api.Module, false, items, m.hostItems, session.ToHost)
	api.Hooks.OnIQ(api.Module, false, info, m.accountInfo, session.ToSelf, session.ToBare)
	api.Hooks.OnIQ(api.Module, false, items, m.accountItems, session.ToSelf, session.ToBare)
	api.Hooks.OnEveryIQ(api.Module, false, info, m.kindInfo, session.ToBare, session.ToHost)
	api.Hooks.OnEveryIQ(api.Module, false, items, m.kindItems, session.ToBare, session.ToHost)
	api.Hooks.Absent.Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
		if ev.Type != stanza.TypeGet || ev.Target != session.ToBare || !ev.Payload().Is(items) {
			return session.Pass
		}
		return noItems(ev)
	})
	api.Hooks.Features = append(api.Hooks.Features, session.StreamFeature{
		Name: caps,
		Offer: func(st session.Negotiation, a *xmlstream.Appender) {
			a.Open(caps).Attr(hashAttr, "sha-1").Attr(stanza.AttrNode, capsNode).Attr(stanza.AttrVer,
				m.ver(st.Host().Profile())).Close()
		},
	})
	session.Provide(api, m)
	return nil
}

// ver returns the verification string of the host (XEP-0115 section 5.1): a hash of its identity, features
// and forms. It is computed once for each profile. Any loop may call it.
func (m *Service) ver(p *session.Profile) string {
	if v := m.verCache.Load(); v != nil && v.profile == p {
		return v.ver
	}
	var b strings.Builder
	b.WriteString("server/im//" + m.about.Name + "<")
	for _, f := range p.HostFeatures {
		b.WriteString(f + "<")
	}
	forms := append([]Form(nil), m.Forms...)
	sort.Slice(forms, func(i, j int) bool { return forms[i].Type < forms[j].Type })
	for _, f := range forms {
		b.WriteString(f.Type + "<")
		fields := append([]Field(nil), f.Fields...)
		sort.Slice(fields, func(i, j int) bool { return fields[i].Var < fields[j].Var })
		for _, x := range fields {
			b.WriteString(x.Var + "<")
			vals := append([]string(nil), x.Values...)
			sort.Strings(vals)
			for _, v := range vals {
				b.WriteString(v + "<")
			}
		}
	}
	sum := sha1.Sum([]byte(b.String()))
	v := &cachedVer{p, base64.StdEncoding.EncodeToString(sum[:])}
	m.verCache.Store(v)
	return v.ver
}

// A serviceIndex has, for each host where users log in, the sorted names of the service hosts below it.
type serviceIndex struct {
	hosts map[string]*session.Host // the hosts that it was made from; the table makes a new map for a change
	list  map[string][]string      // by the name of the host above
}

// servicesBelow returns the names of the service hosts below host: those whose name ends in a dot and the
// name of host. They are the items of the server (XEP-0030 section 4.1). The index is made once after each
// change of the hosts: the address of the table's map shows whether they have changed.
func (m *Service) servicesBelow(host string) []string {
	hosts := m.table.Hosts()
	s := m.serviceCache.Load()
	if s == nil || reflect.ValueOf(s.hosts).Pointer() != reflect.ValueOf(hosts).Pointer() {
		s = &serviceIndex{hosts, make(map[string][]string)}
		for _, name := range slices.Sorted(maps.Keys(hosts)) {
			if !hosts[name].Service() {
				continue
			}
			for _, above, ok := strings.Cut(name, "."); ok; _, above, ok = strings.Cut(above, ".") {
				if h := hosts[above]; h != nil && !h.Service() {
					s.list[above] = append(s.list[above], name)
				}
			}
		}
		m.serviceCache.Store(s)
	}
	return s.list[host]
}

// hostInfo answers disco#info for the host. The node of the server's capabilities has the same answer
// (XEP-0115 section 6.2); any other node is item-not-found. Under no lock.
func (m *Service) hostInfo(ev *session.Stanza) session.Verdict {
	p := ev.Host.Profile()
	n, ok := ev.Payload().Attr(stanza.AttrNode)
	if ok && len(n) > 0 && string(n) != capsNode+"#"+m.ver(p) {
		return ev.Fail(stanza.ItemNotFound)
	}
	d := &Description{Features: p.HostFeatures, Forms: m.Forms,
		Identities: []Identity{{Category: "server", Type: "im", Name: m.about.Name}}}
	return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) { d.append(a, n) })
}

// hostItems answers disco#items for the host with the service hosts below it. Under no lock.
func (m *Service) hostItems(ev *session.Stanza) session.Verdict {
	if n, _ := ev.Payload().Attr(stanza.AttrNode); len(n) > 0 {
		return ev.Fail(stanza.ItemNotFound)
	}
	list := m.servicesBelow(ev.Host.Name)
	return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) {
		a.Open(items)
		for _, name := range list {
			a.Open(item).Attr(stanza.AttrJID, name).Close()
		}
		a.Close()
	})
}

// mayQuery reports whether the account answers ev: to its owner, and to contacts with a subscription to
// its presence. Under the account's lock.
func mayQuery(ev *session.Stanza) bool {
	return ev.Target == session.ToSelf || roster.Of(ev.Account()).State(ev.From.Bare()).From
}

// accountInfo answers disco#info for an account. To a client that may not ask it answers as an account
// that does not exist. Under the account's lock.
func (m *Service) accountInfo(ev *session.Stanza) session.Verdict {
	if !mayQuery(ev) {
		return ev.Fail(stanza.ServiceUnavailable)
	}
	if n, _ := ev.Payload().Attr(stanza.AttrNode); len(n) > 0 {
		return ev.Fail(stanza.ItemNotFound)
	}
	d := &Description{Features: ev.Host.Profile().AccountFeatures,
		Identities: []Identity{{Category: "account", Type: "registered"}}}
	return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) { d.append(a, nil) })
}

// noItems answers disco#items for an account that does not exist, or that hides from the client: an empty
// list, whatever the node (XEP-0030 section 8).
func noItems(ev *session.Stanza) session.Verdict {
	return ev.Reply(func(ev *session.Stanza, a *xmlstream.Appender) {
		a.Open(items)
		if n, ok := ev.Payload().Attr(stanza.AttrNode); ok {
			a.AttrBytes(stanza.AttrNode, n)
		}
		a.Close()
	})
}

// accountItems answers disco#items for an account with its available resources. Under the account's lock.
func (m *Service) accountItems(ev *session.Stanza) session.Verdict {
	if !mayQuery(ev) {
		return noItems(ev)
	}
	if n, _ := ev.Payload().Attr(stanza.AttrNode); len(n) > 0 {
		return ev.Fail(stanza.ItemNotFound)
	}
	return ev.Reply(func(ev *session.Stanza, a *xmlstream.Appender) {
		a.Open(items)
		for _, s := range ev.Account().Resources() {
			if s.Available() {
				a.Open(item).Attr(stanza.AttrJID, s.JID().String()).Close()
			}
		}
		a.Close()
	})
}
