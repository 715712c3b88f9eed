// Package service is the entity of a service host's own domain: a kind that a module brings. It stores
// nodes with items, and lists what is at its host. It shows how such a module is written, see
// docs/modules.md, and tests use it.
//
// Requests to the domain, all in the namespace urn:canto:test:service:
//
//	set <create node='news'/>         the sender owns the node
//	set <publish node='news'><item id='1'>...</item></publish>
//	                                  for the owner; the same id again replaces the item
//	get <items node='news'/>          all items of the node
//	set <delete node='news'/>         for the owner
//
//	C: <iq type='set' id='1' to='rooms.localhost'><create xmlns='urn:canto:test:service' node='news'/></iq>
//	S: <iq type='result' id='1' from='rooms.localhost' to='romeo@localhost/a'/>
//
// Service discovery: disco#info describes the service and each node. disco#items of the service lists the
// addresses of the host in the directory, a page at a time; disco#items of a node lists its items.
//
// Live state: none. Resident set: the nodes, with their owners and the ids of their items. Stored: a row
// for each node and each item. The first stanza to the domain creates the entity, in memory; it is stored
// with its first node.
//
// Hooks: iq handlers and Make, under the entity's lock.
package service

import (
	"errors"
	"slices"
	"strings"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/mod/disco"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
	"canto/xmlstream"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "test-service",
	Spec:     "docs/modules.md",
	Summary:  "a service host's own nodes, for tests",
	Cases:    "nodes, items, discovery of both and of what there is at the host",
	Requires: []session.Feature{"kinds", "store", "disco", "commit"},
	Off:      true,
	New:      func() session.Module { return new(module) },
}

// ns is the namespace of the service.
const ns = "urn:canto:test:service"

// The limits of what is stored.
const (
	maxNodes = 100
	maxItems = 50      // items of a node; one answer has all of them
	maxItem  = 4 << 10 // bytes of an item
	maxName  = 256     // bytes of the name of a node or an item
)

// Kind is the kind of services.
var Kind = session.NewKind("service")

var (
	create  = xmlstream.N(ns, "create")
	publish = xmlstream.N(ns, "publish")
	list    = xmlstream.N(ns, "items")
	remove  = xmlstream.N(ns, "delete")
	item    = xmlstream.N(ns, "item")

	// Rows has a row for each node, with the key "n/name" and its owner as value, and a row for each item, with
	// the key "i/name NUL id" and the element as value.
	Rows = store.NewMap[string, []byte]("test-service", '^', 1)
	part = session.NewPart[nodes]("test-service")
)

// nodes is the resident set: the nodes by name.
type nodes map[string]*node

// A node is one node in memory.
type node struct {
	owner jid.JID
	ids   []string // the ids of its items, sorted
}

// A module is the module of one profile. It does not change after Load.
type module struct {
	db   *store.DB
	rows *store.Map[string, []byte]
}

// Load implements [session.Module].
func (m *module) Load(api *session.API) (err error) {
	if m.db, err = storage.Open(api); err != nil {
		return err
	}
	if m.rows, err = storage.OpenMap(api, Rows); err != nil {
		return err
	}
	session.ResidentOf(api, Kind, part, m.read)
	b := api.Hooks.Serve(Kind)
	b.OnIQ(api.Module, true, create, m.create, session.ToHost)
	b.OnIQ(api.Module, true, publish, m.publish, session.ToHost)
	b.OnIQ(api.Module, true, remove, m.remove, session.ToHost)
	b.OnIQ(api.Module, false, list, m.items, session.ToHost)
	api.Hooks.Make.Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
		if ev.Target == session.ToHost {
			ev.Create(Kind)
		}
		return session.Pass
	})
	d, ok := session.Lookup[*disco.Service](api)
	if !ok {
		return errors.New("there is no service discovery")
	}
	k := d.ForKind(Kind)
	k.Identities = append(k.Identities, disco.Identity{Category: "component", Type: "generic"})
	k.Features = append(k.Features, ns)
	k.Info = append(k.Info, m.info)
	k.Items = append(k.Items, m.nodeItems, m.addresses)
	return nil
}

// read reads the nodes from a snapshot, on a worker.
func (m *module) read(snap *store.Snapshot, ref session.EntityRef) (*nodes, error) {
	all := make(nodes)
	var bad error
	err := m.rows.Scan(snap, ref.ID, "", func(k string, v []byte) bool {
		name, id, isItem := strings.Cut(k[2:], "\x00")
		switch {
		case !isItem:
			var j jid.JID
			if j, bad = jid.ParseBytes(v); bad == nil {
				all.ensure(name).owner = j
			}
		default: // an item, whose row comes before that of its node
			n := all.ensure(name)
			n.ids = append(n.ids, id)
		}
		return bad == nil
	})
	return &all, errors.Join(err, bad)
}

// ensure returns the node called name, and makes it if there is none.
func (all nodes) ensure(name string) *node {
	if all[name] == nil {
		all[name] = new(node)
	}
	return all[name]
}

// nodesOf returns the nodes of the service that ev is for. Under its lock.
func nodesOf(ev *session.Stanza) nodes {
	p := part.Mutable(ev.Entity())
	if *p == nil {
		*p = make(nodes)
	}
	return *p
}

// name returns the name of the node in the payload.
func name(ev *session.Stanza) string {
	v, _ := ev.Payload().Attr(stanza.AttrNode)
	return string(v)
}

// create creates a node for the sender.
func (m *module) create(ev *session.Stanza) session.Verdict {
	all, n := nodesOf(ev), name(ev)
	switch {
	case n == "" || len(n) > maxName:
		return ev.Fail(stanza.BadRequest)
	case all[n] != nil:
		return ev.Fail(stanza.Conflict)
	case len(all) >= maxNodes:
		return ev.Fail(stanza.ResourceConstraint)
	}
	b, err := storage.Batch(m.db, ev.Entity())
	if err != nil {
		return ev.FailCommit(err)
	}
	all.ensure(n).owner = ev.From.Bare()
	m.rows.Put(b, b.Owner(), "n/"+n, []byte(ev.From.Bare().String()))
	return m.commit(ev, b)
}

// publish stores an item in a node of the sender.
func (m *module) publish(ev *session.Stanza) session.Verdict {
	n := nodesOf(ev)[name(ev)]
	el, ok := ev.Payload().Child(item)
	var id []byte
	if ok {
		id, _ = el.Attr(stanza.AttrID)
	}
	switch {
	case n == nil:
		return ev.Fail(stanza.ItemNotFound)
	case n.owner != ev.From.Bare():
		return ev.Fail(stanza.Forbidden)
	case !ok || len(id) == 0 || len(id) > maxName:
		return ev.Fail(stanza.BadRequest)
	case len(el.Raw()) > maxItem:
		return ev.Fail(stanza.PolicyViolation)
	}
	at, has := slices.BinarySearch(n.ids, string(id))
	if !has && len(n.ids) >= maxItems {
		return ev.Fail(stanza.ResourceConstraint)
	}
	b, err := storage.Batch(m.db, ev.Entity())
	if err != nil {
		return ev.FailCommit(err)
	}
	if !has {
		n.ids = slices.Insert(n.ids, at, string(id))
	}
	var a xmlstream.Appender
	a.Raw(el)
	m.rows.Put(b, b.Owner(), itemKey(name(ev), string(id)), a.B)
	return m.commit(ev, b)
}

// itemKey returns the key of an item's row.
func itemKey(node, id string) string { return "i/" + node + "\x00" + id }

// remove deletes a node of the sender with its items.
func (m *module) remove(ev *session.Stanza) session.Verdict {
	all, name := nodesOf(ev), name(ev)
	n := all[name]
	switch {
	case n == nil:
		return ev.Fail(stanza.ItemNotFound)
	case n.owner != ev.From.Bare():
		return ev.Fail(stanza.Forbidden)
	}
	b, err := storage.Batch(m.db, ev.Entity())
	if err != nil {
		return ev.FailCommit(err)
	}
	for _, id := range n.ids {
		m.rows.Delete(b, b.Owner(), itemKey(name, id))
	}
	m.rows.Delete(b, b.Owner(), "n/"+name)
	delete(all, name)
	return m.commit(ev, b)
}

// commit gives b to the store and answers ev once it is durable.
func (m *module) commit(ev *session.Stanza, b *store.Batch) session.Verdict {
	t := storage.Commit(ev.LoopRouter(), m.db, ev.Entity(), b)
	return ev.Commit(t, storage.Reply)
}

// items answers with the items of a node, which a worker reads.
func (m *module) items(ev *session.Stanza) session.Verdict {
	n, id := name(ev), ev.Entity().ID()
	if nodesOf(ev)[n] == nil {
		return ev.Fail(stanza.ItemNotFound)
	}
	var els []xmlstream.Element
	return ev.Await(reactor.Disk, func() error {
		snap := m.db.Snapshot()
		defer snap.Close()
		var bad error
		err := m.rows.Scan(snap, id, itemKey(n, ""), func(k string, v []byte) bool {
			if !strings.HasPrefix(k, itemKey(n, "")) {
				return false
			}
			el, err := xmlstream.Parse(v)
			bad = err
			els = append(els, el)
			return err == nil
		})
		return errors.Join(err, bad)
	}, func(ev *session.Stanza, err error) session.Verdict {
		if err != nil {
			return ev.Fail(stanza.InternalServerError)
		}
		return ev.Reply(func(_ *session.Stanza, a *xmlstream.Appender) {
			a.Open(list).Attr(stanza.AttrNode, n)
			for _, el := range els {
				a.Raw(el)
			}
			a.Close()
		})
	})
}

// info adds a node's description to a disco#info answer; false: there is no such node.
func (m *module) info(ev *session.Stanza, name string, d *disco.Description) bool {
	if name == "" || nodesOf(ev)[name] == nil {
		return false
	}
	d.Identities = append(d.Identities, disco.Identity{Category: "pubsub", Type: "leaf", Name: name})
	d.Features = append(d.Features, ns)
	return true
}

// nodeItems answers disco#items of a node with the ids of its items, as names (XEP-0060 section 5.5).
func (m *module) nodeItems(ev *session.Stanza, name string, p disco.Page) session.Verdict {
	n := nodesOf(ev)[name]
	if name == "" || n == nil {
		return session.Pass
	}
	at, there := slices.BinarySearch(n.ids, p.After)
	if there {
		at++
	}
	var list []disco.Item
	for _, id := range n.ids[at:min(at+p.Max, len(n.ids))] {
		list = append(list, disco.Item{JID: ev.To, Name: id})
	}
	if len(list) == 0 {
		return disco.ReplyItems(ev, nil, "", "", len(n.ids))
	}
	return disco.ReplyItems(ev, list, list[0].Name, list[len(list)-1].Name, len(n.ids))
}

// maxCounted is how many rows of the directory are read to count them. If there are more, the answer has
// no number.
const maxCounted = 1000

// addresses answers disco#items of the service with the addresses of its host in the directory, which a
// worker reads. A page with a Max of 0 wants only their number, so the worker counts them, up to
// maxCounted. Otherwise it reads up to Max entries and one more, which shows whether the page is the last.
func (m *module) addresses(ev *session.Stanza, name string, p disco.Page) session.Verdict {
	if name != "" {
		return session.Pass
	}
	domain := ev.Entity().JID().Domain()
	var found []disco.Item
	count, more := 0, false
	return ev.Await(reactor.Disk, func() error {
		snap := m.db.Snapshot()
		defer snap.Close()
		var bad error
		if p.Max == 0 {
			return m.db.Entities().List(snap, domain, "\x00", func(store.Entry) bool {
				count++
				return count <= maxCounted
			})
		}
		err := m.db.Entities().List(snap, domain, p.After+"\x00", func(e store.Entry) bool {
			if more = len(found) == p.Max; more {
				return false
			}
			j, err := e.JID()
			bad = err
			found = append(found, disco.Item{JID: j})
			return err == nil
		})
		return errors.Join(err, bad)
	}, func(ev *session.Stanza, err error) session.Verdict {
		switch {
		case err != nil:
			return ev.Fail(stanza.InternalServerError)
		case p.Max > 0 && p.After == "" && !more:
			count = len(found)
		case p.Max > 0 || count > maxCounted:
			count = -1
		}
		if len(found) == 0 {
			return disco.ReplyItems(ev, nil, "", "", count)
		}
		return disco.ReplyItems(ev, found, found[0].JID.Local(), found[len(found)-1].JID.Local(), count)
	})
}
