package bind_test

import (
	"testing"

	"canto/session/mod/bind"
	"canto/session/sessiontest"
)

func TestConversations(t *testing.T) { sessiontest.Run(t, "testdata", sessiontest.Options{}) }

// The options refuse and rename for a resource that another session has (RFC 6120 section 7.7.2.2).
func TestConflict(t *testing.T) {
	for _, policy := range []string{"refuse", "rename"} {
		t.Run(policy, func(t *testing.T) {
			sessiontest.Run(t, "testdata/"+policy, sessiontest.Options{Module: func(module string, v any) error {
				if o, ok := v.(*bind.Options); ok {
					o.Conflict = policy
				}
				return nil
			}})
		})
	}
}
