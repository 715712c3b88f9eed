package archive

import (
	"fmt"
	"strings"
	"testing"

	"canto/session/archive"
	"canto/session/jid"
	"canto/session/stanzaid"
)

// stored returns the row of a message of romeo, with the attributes and the content given.
func stored(attrs, inner string) archive.Row {
	return archive.Row{Element: []byte("<message xmlns='jabber:client' type='chat' " +
		"from='romeo@localhost/orchard' " + attrs + ">" + inner + "</message>")}
}

// A message is found by its id or its origin-id, in any form in which it may be stored.
func TestFoundInAnyForm(t *testing.T) {
	for _, c := range []struct{ id, attrs, inner string }{
		{"m1", "id='m1'", ""},
		{"m1", `id="m1"`, ""},
		{"m1", "id='other'", `<origin-id id = "m1" xmlns='urn:xmpp:sid:0'/>`},
		{"it's", "id='it&apos;s'", ""},
		{"it's", "id='it&#39;s'", ""},
		{"it's", `id="it's"`, ""},
		{"''", "id='&apos;&#x27;'", ""},
		{`a"<longer>`, "id='a&quot;&lt;longer>'", ""},
	} {
		r := retraction{id: []byte(c.id), markers: markersOf([]byte(c.id)), below: 9,
			author: jid.FromPrepared("romeo@localhost")}
		if !allFound([]*retraction{&r}, 1, stored(c.attrs, c.inner)) || r.at != 1 || r.row.Element == nil {
			t.Errorf("%q is not found in %s %s", c.id, c.attrs, c.inner)
		}
	}
}

// Few messages are parsed for a retraction of a message that is not there, whatever its id looks like: those
// that have it in quotation marks, and of those a bounded number.
func TestFewAreParsed(t *testing.T) {
	for id, want := range map[string]int{"message": 0, "x": 0, "nothing": 0, "no'thing": 0, "m12": 1,
		"'": maxCandidates, "decoy": maxCandidates} {
		r := retraction{id: []byte(id), markers: markersOf([]byte(id)), below: 1 << 40,
			author: jid.FromPrepared("romeo@localhost")}
		n := 0
		for n < 10_000 {
			row := stored(fmt.Sprint("id='m", n, "'"), "<body>a message x</body><thread id='decoy'/>")
			if n++; allFound([]*retraction{&r}, stanzaid.ID(n), row) {
				break
			}
		}
		if r.parsed != want || want == maxCandidates && n > want+1 {
			t.Errorf("%s: %d messages were parsed and %d looked at, want %d", id, r.parsed, n, want)
		}
	}
}

// One search looks for the messages of several retractions. Each message is the tombstone of one.
func TestFoundForEach(t *testing.T) {
	var list []*retraction
	for _, c := range []struct {
		id    string
		below stanzaid.ID
	}{{"m1", 9}, {"m2", 9}, {"m2", 9}, {"m3", 4}, {"m0", 9}} {
		list = append(list, &retraction{id: []byte(c.id), markers: markersOf([]byte(c.id)), below: c.below,
			author: jid.FromPrepared("romeo@localhost")})
	}
	var looked strings.Builder
	for at, id := range []string{"m0", "m3", "m1", "m3", "m2", "m2"} { // from 6 down to 1
		n := stanzaid.ID(6 - at)
		done := allFound(list, n, stored("id='"+id+"'", ""))
		fmt.Fprintf(&looked, "%d %v ", uint64(n), done)
	}
	const want = "6 false 5 false 4 false 3 false 2 false 1 true "
	got := ""
	for _, r := range list {
		got += fmt.Sprintf("%d ", uint64(r.at))
	}
	if looked.String() != want || got != "4 2 1 3 6 " {
		t.Errorf("%s: %s", looked.String(), got)
	}
}
