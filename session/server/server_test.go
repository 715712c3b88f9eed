package server_test

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
	"time"

	"canto/session"
	"canto/session/mod/starttls"
	"canto/session/server"
	"canto/session/store"
)

// zeros is a source of randomness that returns zeros.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A reload whose last host can't be served changes nothing, and says which host and which part of it;
// hosts that are described alike share a profile, and keep it over a reload that changes nothing of them.
func TestApply(t *testing.T) {
	s, err := server.New(server.Options{
		Store: store.Options{Dir: "data", FS: store.NewMemFS(), MinFree: -1, Ballast: -1, CheckEvery: -1},
		Log:   slog.New(slog.NewTextHandler(new(bytes.Buffer), nil)), Now: time.Now, Random: zeros{},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	as := map[string]server.Host{}
	config := func(stanza int, hosts ...string) server.Config {
		lim := session.DefaultLimits()
		lim.Stanza = stanza
		describe := func(name string) (server.Host, error) { return as[name], nil }
		return server.Config{Limits: lim, Hosts: hosts, Host: describe}
	}
	if err := s.Apply(config(100_000, "b.example", "a.example")); err != nil {
		t.Fatal(err)
	}
	profile := func(name string) *session.Profile {
		h, ok := s.Router.Table.Host(name)
		if !ok {
			t.Fatalf("%s is not served", name)
		}
		return h.Profile()
	}
	first := profile("a.example")
	if profile("b.example") != first {
		t.Error("two hosts that are described alike have two profiles")
	}

	for _, c := range []struct {
		part server.Part
		name string
		host server.Host
	}{
		{server.PartMechanisms, "c.example", server.Host{Mechanisms: []string{"ROT13"}}},
		{server.PartModules, "c.example", server.Host{Modules: []string{"nosuchmodule"}}},
		{server.PartName, "c@example", server.Host{}},
	} {
		as[c.name] = c.host
		as["a.example"] = server.Host{OptionsKey: "other options"}
		err := s.Apply(config(200_000, "a.example", "b.example", c.name))
		var he *server.HostError
		if !errors.As(err, &he) || he.Host != c.name || he.Part != c.part {
			t.Errorf("%s: the error is %v (%+v)", c.part, err, he)
		}
		served := len(s.Router.Table.Hosts())
		if profile("a.example") != first || s.Router.Limits().Stanza != 100_000 || served != 2 {
			t.Errorf("%s: something was changed", c.part)
		}
	}

	as["a.example"] = server.Host{TLS: starttls.Policy{Required: true}}
	if err := s.Apply(config(200_000, "a.example", "b.example")); err != nil {
		t.Fatal(err)
	}
	if profile("a.example") == first || profile("b.example") != first {
		t.Error("the host that has changed has its old profile, or the other has a new one")
	}
	if s.Router.Limits().Stanza != 200_000 {
		t.Error("the limits are the old ones")
	}
}
