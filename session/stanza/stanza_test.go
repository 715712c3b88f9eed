package stanza_test

import (
	"testing"

	"canto/session/stanza"
	"canto/xmlstream"
)

func TestParseType(t *testing.T) {
	for _, c := range []struct {
		kind stanza.Kind
		attr string
		want stanza.Type
	}{
		{stanza.Message, "", stanza.TypeNone},
		{stanza.Message, "normal", stanza.TypeNone},
		{stanza.Message, "shout", stanza.TypeNone}, // RFC 6121 section 5.2.2: as "normal"
		{stanza.Message, "groupchat", stanza.TypeGroupchat},
		{stanza.Presence, "", stanza.TypeNone},
		{stanza.Presence, "probe", stanza.TypeProbe},
		{stanza.Presence, "available", stanza.TypeUnknown}, // RFC 6121 section 4.7.1: no such type
		{stanza.IQ, "set", stanza.TypeSet},
		{stanza.IQ, "", stanza.TypeUnknown},
	} {
		if got := stanza.ParseType(c.kind, []byte(c.attr)); got != c.want {
			t.Errorf("%v of type %q: %v, want %v", c.kind, c.attr, got, c.want)
		}
	}
}

// RFC 6120 section 8.3.3: each condition is written with its usual type.
func TestErrorAppend(t *testing.T) {
	for c := range stanza.NumConditions {
		var a xmlstream.Appender
		stanza.Error{Condition: c, Text: "why"}.Append(a.Reset(xmlstream.Streamed))
		e, err := xmlstream.NewParser(nil).Element(a.B)
		if err != nil {
			t.Fatal(err)
		}
		typ, _ := e.Attr(stanza.AttrType)
		first, _ := e.First()
		if string(typ) != c.Type() || first.Name() != xmlstream.N(stanza.NSStanzas, c.String()) {
			t.Errorf("%v: %s", c, a.B)
		}
	}
}
