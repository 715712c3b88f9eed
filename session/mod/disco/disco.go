// Package disco says what the server and its accounts are and can do (XEP-0030), and sums it up in the
// stream features (XEP-0115).
//
//	C: <iq type='get' id='1' to='localhost'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>
//	S: <iq type='result' id='1' from='localhost' to='romeo@localhost/orchard'><query xmlns='http://jabber.org/protocol/disco#info'>
//	   <identity category='server' type='im' name='Canto'/><feature var='urn:xmpp:ping'/>...</query></iq>
//
// State: none. Stored: nothing. What modules advertise is in the profile. An account tells only its owner
// and those who get its presence; to all others it does not exist. What entities of other kinds tell,
// their modules say: see [Kind]. The domain of a service host tells besides what the modules of the host
// advertise; where no module has made an entity of it, it is a generic component (XEP-0030 §3.1). The
// items of a host are the service hosts below it, by name.
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
	"canto/session/mod/roster"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Manifest is how the loader knows this module.
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

const (
	nsInfo   = "http://jabber.org/protocol/disco#info"
	nsItems  = "http://jabber.org/protocol/disco#items"
	nsCaps   = "http://jabber.org/protocol/caps"
	nsForm   = "jabber:x:data"
	nsRSM    = "http://jabber.org/protocol/rsm"
	capsNode = "urn:canto:server"
)

var (
	info     = xmlstream.N(nsInfo, "query")
	items    = xmlstream.N(nsItems, "query")
	identity = xmlstream.N(nsInfo, "identity")
	feature  = xmlstream.N(nsInfo, "feature")
	item     = xmlstream.N(nsItems, "item")
	caps     = xmlstream.N(nsCaps, "c")
	formX    = xmlstream.N(nsForm, "x")
	field    = xmlstream.N(nsForm, "field")
	value    = xmlstream.N(nsForm, "value")
	category = xmlstream.N("", "category")
	rsmSet   = xmlstream.N(nsRSM, "set")
	rsmMax   = xmlstream.N(nsRSM, "max")
	rsmAfter = xmlstream.N(nsRSM, "after")
	rsmFirst = xmlstream.N(nsRSM, "first")
	rsmLast  = xmlstream.N(nsRSM, "last")
	rsmCount = xmlstream.N(nsRSM, "count")

	rsmBefore = xmlstream.N(nsRSM, "before")
	rsmIndex  = xmlstream.N(nsRSM, "index")
	hashAttr  = xmlstream.N("", "hash")
)

// A Form is extended information (XEP-0128): what Type defines, with its values.
type Form struct {
	Type   string
	Fields []Field
}

// A Field is one of a Form.
type Field struct {
	Var    string
	Values []string
}

// A Service is the module of one profile; modules that have a Form to add find it.
type Service struct {
	about        session.About
	Forms        []Form
	verCache     atomic.Pointer[cachedVer]
	table        *session.Table
	serviceCache atomic.Pointer[serviceIndex]
	kinds        map[session.KindID]*Kind // not changed after Load
	// domain is what a service host says of itself where no module has made an entity of its domain.
	domain Kind
}

// A version is what ver made of a profile, which does not change once it is loaded.
type cachedVer struct {
	profile *session.Profile
	ver     string
}

// Load adds the handlers and offers the Service.
func (m *Service) Load(api *session.API) error {
	m.about, _ = session.Lookup[session.About](api)
	m.table = api.Router.Table
	m.domain = Kind{Identities: []Identity{{Category: "component", Type: "generic", Name: m.about.Name}},
		Features: []string{nsInfo, nsItems}}
	api.Advertise(nsCaps, nsInfo, nsItems) // XEP-0115 §7: who has caps says so
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

// ver is the verification string (XEP-0115 §5.1).
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

// serviceIndex are the service hosts below each host where users log in, sorted, by that host's name.
type serviceIndex struct {
	hosts map[string]*session.Host // the hosts that were looked at: the table makes another map with each change
	list  map[string][]string
}

// servicesBelow are the service hosts whose names end in that of host, behind a dot: the items of the
// server (XEP-0030 §4.1). Hosts are gone through once after each change, not for each request.
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

func (m *Service) hostInfo(ev *session.Stanza) session.Verdict {
	p := ev.Host.Profile()
	n, asks := ev.Payload().Attr(stanza.AttrNode)
	if asks && len(n) > 0 && string(n) != capsNode+"#"+m.ver(p) {
		return ev.Fail(stanza.ItemNotFound)
	}
	d := &Description{Features: p.HostFeatures, Forms: m.Forms,
		Identities: []Identity{{Category: "server", Type: "im", Name: m.about.Name}}}
	return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) { d.append(a, n) })
}

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

// mayQuery reports whether the account answers ev: to its owner and to those who get its presence, where
// there are rosters.
func mayQuery(ev *session.Stanza) bool {
	return ev.Target == session.ToSelf || roster.Of(ev.Account()).State(ev.From.Bare()).From
}

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

// noItems is the answer to who asks for the items of an account that is not there or hides, whatever the node
// (XEP-0030 §8).
func noItems(ev *session.Stanza) session.Verdict {
	return ev.Reply(func(ev *session.Stanza, a *xmlstream.Appender) {
		a.Open(items)
		if n, ok := ev.Payload().Attr(stanza.AttrNode); ok {
			a.AttrBytes(stanza.AttrNode, n)
		}
		a.Close()
	})
}

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
