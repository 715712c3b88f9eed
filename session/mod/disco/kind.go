package disco

import (
	"slices"

	"canto/session"
	"canto/session/form"
	"canto/session/jid"
	"canto/session/rsm"
	"canto/session/stanza"
	"canto/xmlstream"
)

// An Identity says what an entity is (XEP-0030 section 3.1).
type Identity struct {
	Category, Type string // registered values, such as "server" and "im"
	Name           string // for people; empty: none
}

// A Description is the answer to a disco#info request for an entity, or for one of its nodes.
type Description struct {
	Identities []Identity // one at least, for an entity
	Features   []string   // namespaces
	Forms      []Form     // extended information
}

// An Item is one item of an entity or of one of its nodes (XEP-0030 section 4).
type Item struct {
	JID  jid.JID // the address
	Node string  // empty: none
	Name string  // for people; empty: none
}

// A Page says which of the items a client wants (XEP-0059 sections 2.1 and 2.2): at most Max items, which
// come after the item with the key After. The module decides what the key of an item is.
type Page struct {
	After string // empty: from the first item
	Max   int    // 0: only the number of items is wanted (section 2.7)
}

// MaxItems is the most items in one answer, and the number of items if the request has none.
const MaxItems = 50

// A Kind is what the entities of one kind answer to service discovery. Modules add to it in Load. Its
// functions run under the entity's lock, on any loop.
type Kind struct {
	// Identities and Features are the same for every entity of the kind. Without an identity the entities do
	// not answer, because XEP-0030 section 3.1 wants one at least.
	Identities []Identity
	Features   []string
	// Info functions add to the description of the entity of ev, or of its node if node is not empty. They
	// return whether there is such a node. A node that no function knows is answered with item-not-found.
	Info []func(ev *session.Stanza, node string, d *Description) bool
	// Items functions are called in turn until one returns Done: it has answered with [ReplyItems], or will.
	// If none does, the entity has no items, and a node is answered with item-not-found.
	Items []func(ev *session.Stanza, node string, p Page) session.Verdict
}

// ForKind returns the Kind of the entities of kind k, to be filled in. All modules of the profile get the
// same one. In Load only.
func (m *Service) ForKind(k session.KindID) *Kind {
	if m.kinds == nil {
		m.kinds = make(map[session.KindID]*Kind)
	}
	if m.kinds[k] == nil {
		m.kinds[k] = &Kind{Features: []string{nsInfo, nsItems}}
	}
	return m.kinds[k]
}

// kindOf returns the Kind of the entity of ev, or nil if no module has filled in one. Under its lock.
func (m *Service) kindOf(ev *session.Stanza) *Kind {
	if k := ev.Entity().Kind(); k != 0 {
		return m.kinds[k]
	}
	return &m.domain
}

// kindInfo answers disco#info for an entity that is no account, or for one of its nodes. Under its lock.
// Its steps: collect the description from the Kind and its Info functions; for the domain add what the
// modules of the host advertise; sort the features and answer. Entities without an identity do not answer.
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
			d.Features = append(d.Features, rsm.NS) // XEP-0059 section 4
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

// kindItems answers disco#items for an entity that is no account. Under its lock.
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

// readPage reads the set element of a request (XEP-0059 section 2). If ok is false, the request is refused
// with the condition c. Pages that are asked for backwards or by index are refused: another page than the
// client meant would be worse than none (section 2.6).
func readPage(query xmlstream.Element) (p Page, c stanza.Condition, ok bool) {
	r, _, err := rsm.Of(query)
	switch {
	case err != nil:
		return p, stanza.BadRequest, false
	case r.Before.Given || r.Index.Given:
		return p, stanza.FeatureNotImplemented, false
	}
	return Page{After: r.After.Text, Max: r.Clamp(MaxItems, MaxItems)}, 0, true
}

// ReplyItems answers a request for items with a page of them. first and last are the keys of the first and
// the last item of list. count is the number of all items; a negative count means that it would be too
// expensive to know (XEP-0059 section 2.7). The answer describes the page if the client asked for one, or
// if list does not have all items (section 2.2). It returns Done. Under the entity's lock.
func ReplyItems(ev *session.Stanza, list []Item, first, last string, count int) session.Verdict {
	_, wantsPage := ev.Payload().Child(rsm.Set)
	paged := (wantsPage || count != len(list)) && count != 0
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
			r := rsm.Result{Count: rsm.Number{N: count, Given: count >= 0}}
			if len(list) > 0 {
				r.First, r.Last = []byte(first), []byte(last)
			}
			r.Append(a)
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
		x := form.Data{Type: form.TypeResult, FormType: f.Type, Fields: f.Fields}
		x.Append(a)
	}
	a.Close()
}
