package service_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"canto/session"
	"canto/session/mod"
	"canto/session/sessiontest"
	"canto/session/sessiontest/service"
	"canto/session/store"
	"canto/session/store/storetest"
)

// with starts a server with a service.
func with(opt sessiontest.Options) sessiontest.Options {
	opt.Services = []string{"rooms.localhost"}
	opt.ServiceModules = []string{"store", "disco", "test-service"}
	opt.Shelf = slices.Concat(mod.All, []session.Manifest{service.Manifest})
	return opt
}

// rows returns the keys of what the service has stored.
func rows(t *testing.T, s *sessiontest.Server) (keys []string) {
	t.Helper()
	m, err := store.MapOf(s.DB.Tables(), service.Rows)
	if err != nil {
		t.Fatal(err)
	}
	snap := s.DB.Snapshot()
	defer snap.Close()
	e, ok, err := s.DB.Entities().Lookup(snap, "rooms.localhost", "")
	if err != nil || !ok {
		t.Fatalf("the service is not in the directory: %v", err)
	}
	if err := m.Scan(snap, e.ID, "", func(k string, _ []byte) bool {
		keys = append(keys, k)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return keys
}

// A deleted node leaves no row, of its own or of an item, whether the server goes on or crashes after the
// answer; nodes whose names begin with the same letters keep theirs. If the deletion could not be stored,
// all of the node is there.
func TestDeletedNode(t *testing.T) {
	for _, how := range []string{"runs on", "crashes", "fails"} {
		t.Run(how, func(t *testing.T) {
			var fails atomic.Int64 // how many writes from now the one that fails is
			s := sessiontest.New(t, with(sessiontest.Options{Fault: func(write bool) error {
				if write && fails.Add(-1) == 0 {
					return storetest.ErrFault
				}
				return nil
			}}))
			romeo := s.Login("romeo", "romeo@localhost/a")
			set := func(id int, payload string) string {
				return fmt.Sprintf("<iq type='set' id='%d' to='rooms.localhost'>%s</iq>", id, payload)
			}
			for _, node := range []string{"news", "new", "news/x"} {
				romeo.Send(set(1, "<create xmlns='urn:canto:test:service' node='"+node+"'/>"))
				for i := range 3 {
					romeo.Send(set(2, fmt.Sprintf("<publish xmlns='urn:canto:test:service' node='%s'><item "+
						"id='%d'/></publish>", node, i)))
				}
			}
			s.Settle()
			if n := strings.Count(romeo.Received(), "type='result'"); n != 12 || len(rows(t, s)) != 12 {
				t.Fatalf("%d requests are answered, and there are %q", n, rows(t, s))
			}
			s.Settle()
			if how == "fails" {
				fails.Store(1)
			}
			romeo.Send(set(3, "<delete xmlns='urn:canto:test:service' node='news'/>"))
			s.Settle()
			want, typ := []string{"i/new\x000", "i/new\x001", "i/new\x002",
				"i/news/x\x000", "i/news/x\x001", "i/news/x\x002", "n/new", "n/news/x"}, "result"
			if how == "fails" {
				want, typ = append(want, "i/news\x000", "i/news\x001", "i/news\x002", "n/news"), "error"
				slices.Sort(want)
			}
			if got := romeo.Received(); !strings.Contains(got, "<iq type='"+typ+"' id='3'") {
				t.Errorf("the answer: %s", got)
			}
			if how == "crashes" {
				s.Crash()
				s.Settle()
			}
			if got := rows(t, s); !slices.Equal(got, want) {
				t.Errorf("there are %q, want %q", got, want)
			}
		})
	}
}
