//go:build vm

package vm

import (
	"testing"
	"time"
)

// A guest boots, 500 sessions log in over TLS, and all that a result has is there.
func TestGuest(t *testing.T) {
	s, err := Run(t.Context(), Config{Clients: 500, Scenario: "testdata/smoke.toml",
		Limit: 5 * time.Minute, Out: t.TempDir(), Note: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	if s.Bound != 500 || s.Partial != "" || len(s.Failed) > 0 {
		t.Errorf("%d bound, %q, %v", s.Bound, s.Partial, s.Failed)
	}
	if len(s.Levels) != 2 || s.Levels[1].RSS <= 0 || s.Levels[1].Kernel < 1000 ||
		s.Levels[1].Slabs["TCP"] < 1000 {
		t.Errorf("%+v", s.Levels)
	}
	if len(s.Talks) != 2 || s.Talks[1].Done == 0 || s.Talks[1].Done != s.Talks[1].Sent || s.Talks[1].CPU <= 0 {
		t.Errorf("%+v", s.Talks)
	}
	for _, p := range s.Phases {
		if p.HostCPU <= 0 {
			t.Errorf("%s cost the host nothing", p.Name)
		}
	}
}
