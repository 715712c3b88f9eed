package session

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unsafe"

	"canto/session/jid"
)

// The byte budgets: what a hundred thousand sessions cost is decided here.
func TestSizes(t *testing.T) {
	for _, s := range []struct {
		name      string
		is, limit uintptr
	}{
		{"Stream", unsafe.Sizeof(Stream{}), 112},
		{"Session", unsafe.Sizeof(Session{}), 128},
		{"Account", unsafe.Sizeof(Account{}), 128}, // and no resident set of its own where nothing is stored
		{"Host", unsafe.Sizeof(Host{}), 256},
		{"jid.JID", unsafe.Sizeof(jid.JID{}), 24},
	} {
		if s.is > s.limit {
			t.Errorf("%s is %d bytes, and may be %d", s.name, s.is, s.limit)
		}
	}
}

// session.txt names every field of Stream and Session, and no other.
func TestSessionPage(t *testing.T) {
	text, err := os.ReadFile("session.txt")
	if err != nil {
		t.Fatal(err)
	}
	streams, rest, ok := strings.Cut(string(text), "\nSession (session.go)")
	if !ok {
		t.Fatal("session.txt has no part about Session")
	}
	sessions, _, _ := strings.Cut(rest, "\nroster    is not a field")
	for part, typ := range map[string]reflect.Type{streams: reflect.TypeFor[Stream](), sessions: reflect.TypeFor[Session]()} {
		_, part, _ = strings.Cut(part, "-----\n")
		want := map[string]bool{}
		for i := range typ.NumField() {
			want[typ.Field(i).Name] = true
		}
		for _, m := range regexp.MustCompile(`(?m)^([a-z]+)  +\S`).FindAllStringSubmatch(part, -1) {
			if !want[m[1]] {
				t.Errorf("session.txt has %q, which %s has not", m[1], typ.Name())
			}
			delete(want, m[1])
		}
		for f := range want {
			t.Errorf("session.txt does not say what %s.%s is", typ.Name(), f)
		}
	}
}
