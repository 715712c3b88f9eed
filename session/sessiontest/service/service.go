// Package service is what a service host is itself: the entity behind its bare domain, a kind that a
// module outside of the kernel brings, for tests, and as the example of docs/modules.md. It keeps nodes
// with items, and lists what there is at its host.
//
// Requests to the domain, all in the namespace urn:canto:test:service:
//
//	set <create node='news'/>                              the sender owns the node
//	set <publish node='news'><item id='1'>...</item></publish>    for its owner; the same id again replaces the item
//	get <items node='news'/>                               all items of the node
//	set <delete node='news'/>                              for its owner
//
//	C: <iq type='set' id='1' to='rooms.localhost'><create xmlns='urn:canto:test:service' node='news'/></iq>
//	S: <iq type='result' id='1' from='rooms.localhost' to='romeo@localhost/a'/>
//
// Service discovery: disco#info describes the service and each node; disco#items of the service lists
// what has an address at the host in the directory, a page at a time, and of a node the items in it.
//
// Live state: none. Resident: the nodes and who owns them. Stored: a row for each node and each item. The
// entity is made by the first stanza to the domain, in memory, and stored with its first node.
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

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "test-service",
	Spec:     "docs/modules.md",
	Summary:  "a service host's own nodes, for tests",
	Cases:    "nodes, items, discovery of both and of what there is at the host",
	Requires: []session.Feature{"kinds", "store", "disco", "commit"},
	Off:      true,
	New:      func() session.Module { return new(module) },
}

const ns = "urn:canto:test:service"

// Bounds of what is stored.
const (
	maxNodes = 100
	maxItems = 50      // of a node: one answer has all of them
	maxItem  = 4 << 10 // bytes
	maxName  = 256     // bytes of the name of a node or an item
)

// Kind is that of services.
var Kind = session.NewKind("service")

var (
	create  = xmlstream.N(ns, "create")
	publish = xmlstream.N(ns, "publish")
	list    = xmlstream.N(ns, "items")
	remove  = xmlstream.N(ns, "delete")
	item    = xmlstream.N(ns, "item")

	// Rows: of a node "n/name" with its owner, of an item "i/name NUL id" with its element.
	Rows = store.NewMap[string, []byte]("test-service", '^', 1)
	part = session.NewPart[nodes]("test-service")
)

// nodes are the resident set: owners and ids of items by node.
type nodes map[string]*node

type node struct {
	owner jid.JID
	ids   []string // sorted
}

type module struct {
	db   *store.DB
	rows *store.Map[string, []byte]
}

func (m *module) Load(api *session.API) (err error) {
	if m.db = storage.DB(api); m.db == nil {
		return errors.New("there is no store")
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

// read reads the nodes. A worker.
func (m *module) read(snap *store.Snapshot, who session.EntityRef) (*nodes, error) {
	all := make(nodes)
	var bad error
	err := m.rows.Scan(snap, who.ID, "", func(k string, v []byte) bool {
		name, id, isItem := strings.Cut(k[2:], "\x00")
		switch {
		case !isItem:
			var j jid.JID
			if j, bad = jid.ParseBytes(v); bad == nil {
				all.ensure(name).owner = j
			}
		default: // before its node's row, in the order of keys
			n := all.ensure(name)
			n.ids = append(n.ids, id)
		}
		return bad == nil
	})
	return &all, errors.Join(err, bad)
}

func (all nodes) ensure(name string) *node {
	if all[name] == nil {
		all[name] = new(node)
	}
	return all[name]
}

// nodesOf is what the service of ev has.
func nodesOf(ev *session.Stanza) nodes {
	p := part.Mutable(ev.Entity())
	if *p == nil {
		*p = make(nodes)
	}
	return *p
}

// name is the attribute of the payload that names a node.
func name(ev *session.Stanza) string {
	v, _ := ev.Payload().Attr(stanza.AttrNode)
	return string(v)
}

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

func itemKey(node, id string) string { return "i/" + node + "\x00" + id }

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

// commit gives b to the store and answers when it is durable.
func (m *module) commit(ev *session.Stanza, b *store.Batch) session.Verdict {
	t := storage.Commit(ev.LoopRouter(), m.db, ev.Entity(), b)
	return ev.Commit(t, func(ev *session.Stanza, err error) session.Verdict {
		if err != nil {
			return ev.FailCommit(err)
		}
		return ev.Reply(nil)
	})
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

// info describes a node to disco#info.
func (m *module) info(ev *session.Stanza, name string, d *disco.Description) bool {
	if name == "" || nodesOf(ev)[name] == nil {
		return false
	}
	d.Identities = append(d.Identities, disco.Identity{Category: "pubsub", Type: "leaf", Name: name})
	d.Features = append(d.Features, ns)
	return true
}

// nodeItems answers disco#items of a node with the ids of its items (as XEP-0060 §5.5 has them, in name).
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

// maxCounted is how many rows of the directory are read to say how many there are: of more, the number is
// not told.
const maxCounted = 1000

// addresses answers disco#items of the service: what is stored at its host, which a worker reads.
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
