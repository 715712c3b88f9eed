package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"canto/bench/xmpp"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Capabilities are what a server offers to clients, as far as scenarios need it.
type Capabilities struct {
	// name and version, as the server reports them (XEP-0092); "": it does not
	Software, Version string
	Rooms             string   // domain of its chat rooms; "": none
	Features          []string // by the names of Scenario.Requires, sorted
	LoginSeconds      float64  // how long the login of Discover took
}

// Discover logs in with the first account and asks the server what it offers, by its features and
// by service discovery (XEP-0030). It takes half a minute at most. It makes a scenario that can't
// work fail before anything is measured.
//
// Its steps: it runs a fleet of one client through a ramp; it collects the stream features; it
// queries software version, disco#info of the server and of the account, and disco#items for a
// service with rooms; it drains the fleet.
func Discover(ctx context.Context, t Target, clients Clients) (*Capabilities, error) {
	sc := &Scenario{Name: "scout", Clients: clients,
		Phases: []Phase{{Kind: Ramp, Length: Span(30 * time.Second)}}}
	sc.Clients.Count, sc.Clients.Quiet, sc.Clients.SM, sc.Clients.Carbons = 1, true, false, false
	sc.Clients.Resume, sc.Clients.Inactive = false, false
	sc.Clients.Timeout = Span(25 * time.Second)
	if err := sc.Check(); err != nil {
		return nil, err
	}
	f, err := NewFleet(sc, t, Assignment{Workers: 1}, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	began := time.Now()
	if err := f.Phase(ctx, 0, Assignment{Workers: 1}); err != nil {
		if w := f.firstFailure.Load(); w != nil {
			return nil, fmt.Errorf("%s: %w", t.addr(clients.TLS), *w)
		}
		return nil, fmt.Errorf("%s: %w", t.addr(clients.TLS), err)
	}
	o := &Capabilities{LoginSeconds: time.Since(began).Seconds(), Rooms: t.Rooms}
	f.mu.Lock()
	for k := range f.serverFeatures {
		o.Features = append(o.Features, k)
	}
	f.mu.Unlock()
	c := f.groups[0].clients[0]
	if e, err := f.queryIQ(ctx, c, "get", t.Domain, "<query xmlns='"+xmpp.NSVersion+"'/>"); err == nil {
		if q, ok := e.First(); ok {
			o.Software, o.Version = childText(q, xmpp.NSVersion, "name"), childText(q, xmpp.NSVersion, "version")
		}
	}
	var vars []string
	for _, to := range []string{t.Domain, f.bareAddress(c)} {
		if e, err := f.queryIQ(ctx, c, "get", to, "<query xmlns='"+xmpp.NSDiscoInfo+"'/>"); err == nil {
			_, v := parseDiscoInfo(e)
			vars = append(vars, v...)
		}
	}
	for feature, ns := range map[string]string{"mam": xmpp.NSMAM, "carbons": xmpp.NSCarbons,
		"push": xmpp.NSPush, "register": xmpp.NSRegister} {
		if slices.Contains(vars, ns) {
			o.Features = append(o.Features, feature)
		}
	}
	if o.Rooms == "" {
		if e, err := f.queryIQ(ctx, c, "get", t.Domain, "<query xmlns='"+xmpp.NSDiscoItems+"'/>"); err == nil {
			o.Rooms = f.findRooms(ctx, c, e)
		}
	}
	if o.Rooms != "" {
		o.Features = append(o.Features, "muc")
	}
	slices.Sort(o.Features)
	return o, f.drain(ctx, f.groups[0].clients)
}

var attrJID, attrVar, attrCategory, attrKind = stanza.AttrJID, stanza.AttrVar,
	xmlstream.N("", "category"), stanza.AttrType

// findRooms queries the services of a server, 20 at most, and returns the address of the first that
// has chat rooms; "" if there is none.
func (f *Fleet) findRooms(ctx context.Context, c *client, items xmlstream.Element) string {
	q, ok := items.First()
	if !ok {
		return ""
	}
	n := 0
	for k, ok := q.First(); ok && n < 20; k, ok = k.Next() {
		jid, ok := k.Attr(stanza.AttrJID)
		if !ok {
			continue
		}
		n++
		e, err := f.queryIQ(ctx, c, "get", string(jid), "<query xmlns='"+xmpp.NSDiscoInfo+"'/>")
		if err != nil {
			continue
		}
		if conference, vars := parseDiscoInfo(e); conference && slices.Contains(vars, xmpp.NSMUC) {
			return string(jid)
		}
	}
	return ""
}

// parseDiscoInfo reads an answer of disco#info: whether there is an identity of a chat service, and
// all features.
func parseDiscoInfo(e xmlstream.Element) (conference bool, vars []string) {
	q, ok := e.First()
	if !ok {
		return
	}
	for k, ok := q.First(); ok; k, ok = k.Next() {
		switch string(k.Local()) {
		case "identity":
			category, _ := k.Attr(attrCategory)
			kind, _ := k.Attr(stanza.AttrType)
			conference = conference || string(category) == "conference" && string(kind) == "text"
		case "feature":
			v, _ := k.Attr(stanza.AttrVar)
			vars = append(vars, string(v))
		}
	}
	return
}

// childText is the text of a child of e; "" if there is none.
func childText(e xmlstream.Element, ns, name string) string {
	for k, ok := e.First(); ok; k, ok = k.Next() {
		if string(k.Local()) == name && string(k.Space()) == ns {
			return string(k.Text())
		}
	}
	return ""
}

// discover fills in what the target does not say of the server, and returns [ErrNotOffered] if the
// scenario needs something that it does not offer.
func (c *collector) discover(ctx context.Context, t *Target) error {
	o, err := Discover(ctx, *t, c.scenario.Clients)
	if err != nil {
		return err
	}
	setDefault(&t.Software, o.Software)
	setDefault(&t.Version, o.Version)
	setDefault(&t.Rooms, o.Rooms)
	need := slices.Clone(c.scenario.Requires)
	if c.scenario.usesCSI() {
		need = append(need, "csi")
	}
	turnsOn := func(p Phase) bool { return p.Kind == SM }
	if c.scenario.Clients.SM || slices.ContainsFunc(c.scenario.Phases, turnsOn) {
		need = append(need, "sm")
	}
	if c.scenario.Clients.Carbons {
		need = append(need, "carbons")
	}
	for _, f := range need {
		if !slices.Contains(o.Features, f) {
			return ErrNotOffered{f}
		}
	}
	return nil
}
