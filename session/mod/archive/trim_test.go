package archive_test

import (
	"testing"

	"canto/session"
	"canto/session/mod/archive"
	"canto/session/sessiontest"
)

// The service of a host is found from outside of the modules; what no module provides is not.
func TestServiceIsProvided(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	h, _ := s.Router.Table.Host("localhost")
	if m, ok := session.Provided[*archive.Service](h.Profile()); !ok || m.Archive == nil {
		t.Errorf("%v, %v", m, ok)
	}
	if _, ok := session.Provided[*testing.T](h.Profile()); ok {
		t.Error("a value that no module provides")
	}
}
