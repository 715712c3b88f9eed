package handling

import (
	"testing"

	"canto/session/stanza"
	"canto/xmlstream"
)

// The kind of each message that the table names, and that of the payloads that must not be taken for it.
func TestKinds(t *testing.T) {
	for _, c := range []struct {
		typ     stanza.Type
		payload string
		want    Kind
	}{
		{stanza.TypeChat, ``, Empty},
		{stanza.TypeChat, `<thread>t</thread><stanza-id xmlns='urn:xmpp:sid:0' id='a' by='b@c'/>`, Empty},
		{stanza.TypeChat, `<request xmlns='urn:xmpp:receipts'/><markable xmlns='urn:xmpp:chat-markers:0'/>`, Empty},
		{stanza.TypeChat, `<attention xmlns='urn:xmpp:attention:0'/>`, Other},
		{stanza.TypeChat, `<body xmlns='urn:other'/>`, Other},
		{stanza.TypeChat, `<composing xmlns='http://jabber.org/protocol/chatstates'/>`, ChatState},
		{stanza.TypeChat, `<received xmlns='urn:xmpp:receipts' id='1'/>`, Receipt},
		{stanza.TypeChat, `<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>`, Marker},
		{stanza.TypeNone, `<subject>s</subject>`, Subject},
		{stanza.TypeNone, `<subject>s</subject><body>b</body>`, Body},
		{stanza.TypeChat, `<body>b</body><active xmlns='http://jabber.org/protocol/chatstates'/>` +
			`<request xmlns='urn:xmpp:receipts'/>`, Body},
		{stanza.TypeChat, `<encrypted xmlns='eu.siacs.conversations.axolotl'/>`, Encrypted},
		{stanza.TypeChat, `<encrypted xmlns='urn:xmpp:omemo:2'/><body>fallback</body>`, Encrypted},
		{stanza.TypeChat, `<openpgp xmlns='urn:xmpp:openpgp:0'>x</openpgp>`, Encrypted},
		{stanza.TypeNone, `<x xmlns='jabber:x:encrypted'>x</x>`, Encrypted},
		{stanza.TypeChat, `<reactions xmlns='urn:xmpp:reactions:0' id='1'/><body>+1</body>`, Reaction},
		{stanza.TypeChat, `<retract xmlns='urn:xmpp:message-retract:1' id='1'/><body>gone</body>`, Retraction},
		{stanza.TypeChat, `<apply-to xmlns='urn:xmpp:fasten:0' id='1'><retract xmlns='urn:xmpp:message-retract:0'/>` +
			`</apply-to>`, Retraction},
		{stanza.TypeChat, `<apply-to xmlns='urn:xmpp:fasten:0' id='1'/>`, Other},
		{stanza.TypeNone, `<x xmlns='jabber:x:conference' jid='r@h'/>`, Invitation},
		{stanza.TypeNone, `<x xmlns='http://jabber.org/protocol/muc#user'><invite from='a@b'/></x><body>b</body>`,
			Invitation},
		{stanza.TypeNone, `<x xmlns='http://jabber.org/protocol/muc#user'><decline from='a@b'/></x>`, Invitation},
		{stanza.TypeChat, `<propose xmlns='urn:xmpp:jingle-message:0' id='1'/>`, Call},
		{stanza.TypeChat, `<proceed xmlns='urn:xmpp:jingle-message:0' id='1'/>`, CallState},
		{stanza.TypeChat, `<body>b</body><x xmlns='http://jabber.org/protocol/muc#user'/>`, RoomPrivate},
		{stanza.TypeGroupchat, `<body>b</body><store xmlns='urn:xmpp:hints'/>`, Groupchat},
		{stanza.TypeHeadline, `<body>b</body>`, Headline},
		{stanza.TypeError, `<body>b</body><store xmlns='urn:xmpp:hints'/>`, Error},
	} {
		e, err := xmlstream.Parse([]byte(`<message xmlns='jabber:client'>` + c.payload + `</message>`))
		if err != nil {
			t.Fatal(err)
		}
		h := Of(c.typ, e)
		if h.Kind != c.want {
			t.Errorf("%s: %s, want %s", c.payload, h.Kind, c.want)
		}
		if plain := Decide(c.want, 0); c.want >= Groupchat && (h != plain || plain.Archive || plain.Keep) {
			t.Errorf("%s: a hint is followed: %+v", c.payload, h)
		}
	}
}

// Each set of hints for each kind: what a hint forbids does not happen, and what it asks for does, if no
// other hint forbids it (XEP-0334 section 4).
func TestHints(t *testing.T) {
	elements := []string{`<no-store xmlns='urn:xmpp:hints'/>`, `<no-permanent-store xmlns='urn:xmpp:hints'/>`,
		`<no-copy xmlns='urn:xmpp:hints'/>`, `<store xmlns='urn:xmpp:hints'/>`}
	for k := Empty; k <= Error; k++ {
		for hints := range Hints(16) {
			h, plain := Decide(k, hints), Decide(k, 0)
			if h.Kind != k {
				t.Fatalf("%s has become %s", k, h.Kind)
			}
			if k >= Groupchat {
				if h != plain {
					t.Errorf("%s follows hints %b", k, hints)
				}
				continue
			}
			want := plain
			want.Archive = hints&(NoStore|NoPermanentStore) == 0 && (plain.Archive || hints&Store != 0)
			want.Keep = hints&NoStore == 0 && (plain.Keep || hints&Store != 0)
			want.Push = hints&NoStore == 0 && plain.Push
			want.CopySent = hints&NoCopy == 0 && plain.CopySent
			want.CopyReceived = hints&NoCopy == 0 && plain.CopyReceived
			if h != want {
				t.Errorf("%s with hints %b: %+v, want %+v", k, hints, h, want)
			}
		}
	}
	for i, el := range elements {
		e, err := xmlstream.Parse([]byte(`<message xmlns='jabber:client'><body>b</body>` + el + `</message>`))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := Of(stanza.TypeChat, e), Decide(Body, 1<<i); got != want {
			t.Errorf("%s: %+v, want %+v", el, got, want)
		}
	}
	forged, _ := xmlstream.Parse([]byte(`<message xmlns='jabber:client'><received xmlns='urn:xmpp:carbons:2'/></message>`))
	if h := Of(stanza.TypeChat, forged); h.CopyReceived || h.CopySent {
		t.Error("a copy is copied")
	}
	e, _ := xmlstream.Parse([]byte(`<message xmlns='jabber:client'><body>b</body><private xmlns='urn:xmpp:carbons:2'/>` +
		`</message>`))
	if h := Of(stanza.TypeChat, e); h != Decide(Body, NoCopy) {
		t.Errorf("<private/>: %+v", h)
	}
}

// What is kept for later is archived, or may not be; what is pushed is kept. Nothing that a device must not
// keep is announced.
func TestTable(t *testing.T) {
	for k := Empty; k <= Error; k++ {
		h := Decide(k, 0)
		if h.Push && !h.Keep || h.Archive && !h.Keep {
			t.Errorf("%s: %+v", k, h)
		}
	}
}

// The decision is made for each message on its way, and must not allocate.
func TestAllocs(t *testing.T) {
	e, err := xmlstream.Parse([]byte(`<message xmlns='jabber:client'><body>b</body><active xmlns='` + nsStates +
		`'/><x xmlns='urn:unknown:namespace:of:a:client'/></message>`))
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { Of(stanza.TypeChat, e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
