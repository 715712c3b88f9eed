package session

import (
	"strings"
	"testing"
)

// The id of a user agent is a UUID, and is read back from its text; nothing else is one.
func FuzzAgentID(f *testing.F) {
	for _, s := range []string{"d4565fa7-4d72-4749-b3d3-740edbf87770", "D4565FA7-4D72-4749-B3D3-740EDBF87770",
		"", "00000000-0000-0000-0000-000000000000", "d4565fa74d724749b3d3740edbf87770",
		"{d4565fa7-4d72-4749-b3d3-740edbf8777}", "d4565fa7-4d72-4749-b3d3-740edbf8777g"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParseAgentID([]byte(text))
		if err != nil {
			if id != (AgentID{}) || id.String() != "" {
				t.Errorf("%q: %v with an error", text, id)
			}
			return
		}
		if id.String() != strings.ToLower(text) {
			t.Errorf("%q is read as %v", text, id)
		}
	})
}
