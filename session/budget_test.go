package session

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"canto/session/jid"
)

// The byte budgets: they decide what a hundred thousand sessions cost.
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
	sessions, _, _ := strings.Cut(rest, "\nroster ")
	for part, typ := range map[string]reflect.Type{streams: reflect.TypeFor[Stream](),
		sessions: reflect.TypeFor[Session]()} {
		_, part, _ = strings.Cut(part, "-----\n")
		want := map[string]bool{}
		for i := range typ.NumField() {
			want[typ.Field(i).Name] = true
		}
		for _, m := range regexp.MustCompile(`(?m)^([a-z][a-zA-Z]+)  +\S`).FindAllStringSubmatch(part, -1) {
			if !want[m[1]] {
				t.Errorf("session.txt has %q, which %s has not", m[1], typ.Name())
			}
			delete(want, m[1])
		}
		for f := range want {
			t.Errorf("session.txt does not say what %s.%s is", typ.Name(), f)
		}
	}
	// What the page calls by name there is.
	owners := map[string]reflect.Type{"Stream": reflect.TypeFor[*Stream](),
		"Session": reflect.TypeFor[*Session](), "Account": reflect.TypeFor[*Account](),
		"LoopRouter": reflect.TypeFor[*LoopRouter](), "Router": reflect.TypeFor[*Router]()}
	names := regexp.MustCompile(`\b(Stream|Session|Account|LoopRouter|Router)\.([A-Za-z]+)`).FindAllStringSubmatch(
		string(text), -1)
	if len(names) < 8 {
		t.Errorf("session.txt names %d methods and fields: this tests nothing", len(names))
	}
	for _, n := range names {
		typ := owners[n[1]]
		_, method := typ.MethodByName(n[2])
		if _, field := typ.Elem().FieldByName(n[2]); !method && !field {
			t.Errorf("session.txt speaks of %s, which there is not", n[0])
		}
	}
	// The states of a stream, in their order.
	states := regexp.MustCompile(`(?m)^(?:state|     ) +([A-Z][a-z]+)  `).FindAllStringSubmatch(streams, -1)
	var said []string
	for _, s := range states {
		said = append(said, s[1])
	}
	if want := []string{"Opening", "Unauthed", "Authed", "Closing"}; !slices.Equal(said, want) ||
		Opening >= Unauthed || Unauthed >= Authed || Authed >= Closing {
		t.Errorf("session.txt has the states %v, not %v", said, want)
	}
}
