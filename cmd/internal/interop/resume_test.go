//go:build interop

package interop

import "testing"

// A client of another project is cut off, and resumes its session (XEP-0198). What is important comes at once
// while it is inactive (XEP-0352).
func TestResume(t *testing.T) {
	s := start(t, "1.3")
	pairs(s, "resume")
	pairOf(t, s, "resume", "starttls").script("resume_slix.py")
}
