package private_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/session"
	"canto/session/mod/private"
	"canto/session/sessiontest"
	"canto/session/store/storetest"
)

func TestConversations(t *testing.T) { sessiontest.Run(t, "testdata", sessiontest.Options{}) }

// limited returns options with at most rows elements and total bytes for an account.
func limited(rows, total int) sessiontest.Options {
	lim := session.DefaultLimits()
	lim.Rate, lim.RateBurst = 64<<20, 64<<20
	return sessiontest.Options{FS: vfs.NewMem(), Limits: &lim, Module: func(_ string, v any) error {
		if o, ok := v.(*private.Options); ok {
			o.MaxRows, o.MaxTotal = rows, total
		}
		return nil
	}}
}

const (
	kept    = "type='result'"
	refused = "<error type='wait'><resource-constraint "
)

// set stores elements, and returns the answer.
func set(s *sessiontest.Server, c *sessiontest.Client, elements string) string {
	c.Send("<iq type='set' id='s'><query xmlns='jabber:iq:private'>" + elements + "</query></iq>")
	s.Settle()
	return c.Received()
}

func element(i, size int) string {
	return fmt.Sprintf("<x xmlns='test:%d'>%s</x>", i, strings.Repeat("x", size))
}

// XEP-0049: the limits of elements and bytes hold for all requests of an account together. A new value
// replaces the old one, an empty one frees its space, and a restart changes nothing.
func TestLimitsOfAccount(t *testing.T) {
	expect := func(t *testing.T, got, want, what string) {
		t.Helper()
		if !strings.Contains(got, want) {
			t.Errorf("%s: %.300s; want %s", what, got, want)
		}
	}
	for name, c := range map[string]struct {
		opt  sessiontest.Options
		size int
	}{"elements": {limited(10, 1<<20), 10}, "bytes": {limited(1000, 10_400), 1000}} {
		t.Run(name, func(t *testing.T) {
			s := sessiontest.New(t, c.opt)
			romeo := s.Login("romeo", "romeo@localhost/orchard")
			for i := range 10 {
				expect(t, set(s, romeo, element(i, c.size)), kept, "an element that has room")
			}
			expect(t, set(s, romeo, element(10, c.size)), refused, "one more")
			expect(t, set(s, romeo, element(3, c.size)), kept, "another value of the same length")
			s.DB.Close()
			s = sessiontest.New(t, c.opt)
			romeo = s.Login("romeo", "romeo@localhost/orchard")
			home := s.Login("home", "romeo@localhost/home")
			// Two sessions at once, before the usage is loaded.
			romeo.Send("<iq type='set' id='1'><query xmlns='jabber:iq:private'>" + element(10, c.size) +
				"</query></iq>")
			expect(t, set(s, home, element(11, c.size)), refused, "one more of another resource after a restart")
			expect(t, romeo.Received(), refused, "one more after a restart")
			expect(t, set(s, romeo, element(4, 0)), kept, "an empty one")
			expect(t, set(s, home, element(10, c.size)), kept, "one more where one was emptied")
			expect(t, set(s, romeo, element(4, c.size)), refused, "the emptied one again")
			// The same element twice in one request counts once.
			expect(t, set(s, romeo, element(10, c.size)+element(10, c.size)), kept, "one element twice")
			romeo.Send("<iq type='get' id='g'><query xmlns='jabber:iq:private'><x xmlns='test:4'/></query></iq>")
			s.Settle()
			expect(t, romeo.Received(), "<query xmlns='jabber:iq:private'><x xmlns='test:4'/></query>",
				"the emptied one")
		})
	}
}

// Elements that are older than the limits stay, can be read, and can be made smaller.
func TestOlderThanLimits(t *testing.T) {
	opt := limited(100, 1<<20)
	s := sessiontest.New(t, opt)
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	for i := range 20 {
		set(s, romeo, element(i, 1000))
	}
	s.DB.Close()
	opt.Module = limited(10, 5000).Module
	s = sessiontest.New(t, opt)
	romeo = s.Login("romeo", "romeo@localhost/orchard")
	for elements, want := range map[string]string{element(5, 999): kept, element(6, 1001): refused,
		element(20, 1): refused} {
		if got := set(s, romeo, elements); !strings.Contains(got, want) {
			t.Errorf("%.60s: %.200s", elements, got)
		}
	}
	romeo.Send("<iq type='get' id='g'><query xmlns='jabber:iq:private'><x xmlns='test:6'/></query></iq>")
	s.Settle()
	if got := romeo.Received(); !strings.Contains(got, strings.Repeat("x", 1000)) {
		t.Errorf("an old element: %.200s", got)
	}
}

// A set whose commit fails takes no space.
func TestFlakyStore(t *testing.T) {
	var flaky storetest.Flaky
	opt := limited(10, 5000)
	opt.Fault = flaky.Fault
	s := sessiontest.New(t, opt)
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	set(s, romeo, element(0, 100))
	for i := range 10 {
		flaky.Writes.Store(true)
		if got := set(s, romeo, element(i, 1000)); strings.Contains(got, kept) {
			t.Fatalf("kept by a store that can't write: %s", got)
		}
		flaky.Writes.Store(false)
	}
	for i := range 4 {
		if got := set(s, romeo, element(i, 1000)); !strings.Contains(got, kept) {
			t.Errorf("element %d after failures: %.200s", i, got)
		}
	}
	if got := set(s, romeo, element(4, 1000)); !strings.Contains(got, refused) {
		t.Errorf("beyond the limit: %.200s", got)
	}
}
