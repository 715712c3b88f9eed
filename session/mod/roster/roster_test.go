package roster_test

import (
	"regexp"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/session/sessiontest"
)

func TestConversations(t *testing.T) { sessiontest.Run(t, "testdata", sessiontest.Options{}) }

// A version that a client was told and that was lost in a crash is not given to another roster: the client would be
// told that what it has is current (RFC 6121 §2.6.3).
func TestVersionAfterCrash(t *testing.T) {
	ver := regexp.MustCompile(`ver='(\d+)'`)
	add := func(s *sessiontest.Server, who string) string {
		t.Helper()
		c := s.Login("romeo", "romeo@localhost/orchard")
		c.Send("<iq type='get' id='1'><query xmlns='jabber:iq:roster'/></iq>" +
			"<iq type='set' id='2'><query xmlns='jabber:iq:roster'><item jid='" + who + "'/></query></iq>")
		s.Settle()
		m := ver.FindStringSubmatch(c.Received())
		if m == nil {
			t.Fatal("no push")
		}
		return m[1]
	}
	fs := vfs.NewCrashableMem()
	s := sessiontest.New(t, sessiontest.Options{FS: fs})
	s.AddAccount("romeo@localhost")
	before := fs.CrashClone(vfs.CrashCloneCfg{})
	lost := add(s, "juliet@localhost")
	if next := add(sessiontest.New(t, sessiontest.Options{FS: before}), "nurse@localhost"); next == lost {
		t.Errorf("the version %s was given twice", next)
	}
}
