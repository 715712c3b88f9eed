package disco

import (
	"slices"
	"strconv"

	"canto/session"
	"canto/session/jid"
	"canto/session/stanza"
	"canto/xmlstream"
)

// An Identity says what sort of entity answers (XEP-0030 §3.1). Category and Type are registered values.
type Identity struct{ Category, Type, Name string }

// A Description is what disco#info says of an entity or of one of its nodes.
type Description struct {
	Identities []Identity
	Features   []string
	Forms      []Form
}

// An Item is one of the items of an entity or of one of its nodes (XEP-0030 §4). A zero Node is none.
type Item struct {
	JID  jid.JID
	Node string
	Name string
}

// A Page is which of the items are asked for (XEP-0059 §2.1, §2.2): at most Max, behind the one whose key
// is After. What the key of an item is, the module decides; an empty After is the beginning. With a Max
// of 0 only their number is asked for (§2.7).
type Page struct {
	After string
	Max   int
}

// MaxItems is the most items that one answer holds, and as many as it holds where the request does not say.
const MaxItems = 50

// A Kind is what the entities of one kind answer to service discovery. Modules add to it in Load. Its
// functions run under the entity's lock, on any loop.
type Kind struct {
	// Identities and Features are those of every entity of the kind. Without an identity the entities do not
	// answer at all, as XEP-0030 §3.1 asks for one.
	Identities []Identity
	Features   []string
	// Info adds to the description of the entity of ev, with an empty node, or of one of its nodes. true:
	// the node is there. A node that no function knows is answered with item-not-found.
	Info []func(ev *session.Stanza, node string, d *Description) bool
	// Items are asked in turn until one is Done: it has answered, or will, with [ReplyItems]. If none is,
	// the entity has no items, and a node is answered with item-not-found. Each answers a page, see [Page],
	// for nodes too.
	Items []func(ev *session.Stanza, node string, p Page) session.Verdict
}

// ForKind is what entities of kind k answer, to be added to by any module of the profile. In Load.
func (m *Service) ForKind(k session.KindID) *Kind {
	if m.kinds == nil {
		m.kinds = make(map[session.KindID]*Kind)
	}
	if m.kinds[k] == nil {
		m.kinds[k] = &Kind{Features: []string{nsInfo, nsItems}}
	}
	return m.kinds[k]
}

// kindOf is what the entity of ev answers; nil: nothing.
func (m *Service) kindOf(ev *session.Stanza) *Kind {
	if k := ev.Entity().Kind(); k != 0 {
		return m.kinds[k]
	}
	return &m.domain
}

// kindInfo answers disco#info for an entity that is no account.
func (m *Service) kindInfo(ev *session.Stanza) session.Verdict {
	k := m.kindOf(ev)
	if k == nil || len(k.Identities) == 0 {
		return session.Pass
	}
	node, _ := ev.Payload().Attr(stanza.AttrNode)
	d := new(Description)
	known := len(node) == 0
	if known {
		d.Identities, d.Features = slices.Clone(k.Identities), slices.Clone(k.Features)
		if len(k.Items) > 0 {
			d.Features = append(d.Features, nsRSM) // XEP-0059 §4
		}
	}
	for _, f := range k.Info {
		if f(ev, string(node), d) {
			known = true
		}
	}
	if !known {
		return ev.Fail(stanza.ItemNotFound)
	}
	if len(node) == 0 && ev.Target == session.ToHost {
		for _, f := range ev.Host.Profile().HostFeatures {
			if f != nsCaps { // those are in stream features, and a service host has no streams
				d.Features = append(d.Features, f)
			}
		}
	}
	slices.Sort(d.Features)
	d.Features = slices.Compact(d.Features)
	return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) { d.append(a, node) })
}

// kindItems answers disco#items for an entity that is no account.
func (m *Service) kindItems(ev *session.Stanza) session.Verdict {
	k := m.kindOf(ev)
	if k == nil || len(k.Identities) == 0 {
		return session.Pass
	}
	node, _ := ev.Payload().Attr(stanza.AttrNode)
	p, c, ok := readPage(ev.Payload())
	if !ok {
		return ev.Fail(c)
	}
	for _, f := range k.Items {
		if f(ev, string(node), p) == session.Done {
			return session.Done
		}
	}
	if len(node) > 0 {
		return ev.Fail(stanza.ItemNotFound)
	}
	return ReplyItems(ev, nil, "", "", 0)
}

// readPage reads the <set/> of a request (XEP-0059 §2); false: c is why it is refused. Pages that are asked
// for backwards or by index are not served: another page than the one that was meant would be worse than
// none (§2.6).
func readPage(query xmlstream.Element) (p Page, c stanza.Condition, ok bool) {
	p.Max = MaxItems
	set, ok := query.Child(rsmSet)
	if !ok {
		return p, 0, true
	}
	for _, n := range []xmlstream.Name{rsmBefore, rsmIndex} {
		if _, asked := set.Child(n); asked {
			return p, stanza.FeatureNotImplemented, false
		}
	}
	if e, ok := set.Child(rsmMax); ok {
		n, err := strconv.Atoi(string(e.Text()))
		if err != nil || n < 0 {
			return p, stanza.BadRequest, false
		}
		p.Max = min(n, MaxItems)
	}
	if e, ok := set.Child(rsmAfter); ok {
		p.After = string(e.Text())
	}
	return p, 0, true
}

// ReplyItems answers a request for items with a page of them: list, the keys of its first and its last,
// and count, how many there are in all; negative: that would be too much work to know (XEP-0059 §2.7).
// The answer says so of itself where a page was asked for, or where list is not all there is (§2.2).
func ReplyItems(ev *session.Stanza, list []Item, first, last string, count int) session.Verdict {
	_, asked := ev.Payload().Child(rsmSet)
	paged := (asked || count != len(list)) && count != 0 // of nothing there is no page
	return ev.Reply(func(ev *session.Stanza, a *xmlstream.Appender) {
		a.Open(items)
		if n, ok := ev.Payload().Attr(stanza.AttrNode); ok && len(n) > 0 {
			a.AttrBytes(stanza.AttrNode, n)
		}
		for _, it := range list {
			a.Open(item).Attr(stanza.AttrJID, it.JID.String())
			if it.Node != "" {
				a.Attr(stanza.AttrNode, it.Node)
			}
			if it.Name != "" {
				a.Attr(stanza.AttrName, it.Name)
			}
			a.Close()
		}
		if paged {
			a.Open(rsmSet)
			if len(list) > 0 {
				a.Open(rsmFirst).Text(first).Close()
				a.Open(rsmLast).Text(last).Close()
			}
			if count >= 0 {
				a.Open(rsmCount).Text(strconv.Itoa(count)).Close()
			}
			a.Close()
		}
		a.Close()
	})
}

// append writes d as the answer to a disco#info request for a node, which may be empty.
func (d *Description) append(a *xmlstream.Appender, node []byte) {
	a.Open(info)
	if len(node) > 0 {
		a.AttrBytes(stanza.AttrNode, node)
	}
	for _, id := range d.Identities {
		a.Open(identity).Attr(category, id.Category).Attr(stanza.AttrType, id.Type)
		if id.Name != "" {
			a.Attr(stanza.AttrName, id.Name)
		}
		a.Close()
	}
	for _, f := range d.Features {
		a.Open(feature).Attr(stanza.AttrVar, f).Close()
	}
	for _, f := range d.Forms {
		a.Open(formX).Attr(stanza.AttrType, "result")
		a.Open(field).Attr(stanza.AttrVar, "FORM_TYPE").Attr(stanza.AttrType, "hidden").
			Open(value).Text(f.Type).Close().Close()
		for _, x := range f.Fields {
			a.Open(field).Attr(stanza.AttrVar, x.Var)
			for _, v := range x.Values {
				a.Open(value).Text(v).Close()
			}
			a.Close()
		}
		a.Close()
	}
	a.Close()
}
