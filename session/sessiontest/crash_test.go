package sessiontest

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A change that was answered with a result survives a loss of power at any moment (ARCHITECTURE.md,
// "Promises", 1; RFC 6121 section 2.1.6 for a roster). The server is killed while changes are being
// written.
func TestCrashWhileChangesAreOnTheirWay(t *testing.T) {
	const changes = 30
	resultID := regexp.MustCompile(`type='result' id='(\d+)'`)
	told := 0
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 17))
		s := New(t, Options{Seed: seed})
		romeo := s.Login("romeo", "romeo@localhost/orchard")
		for i := range changes {
			romeo.Conn().Write([]byte(fmt.Sprintf("<iq type='set' id='%d'><query xmlns='jabber:iq:roster'>"+
				"<item jid='contact%d@localhost'/></query></iq>", i, i)))
		}
		for range rnd.IntN(6) { // the committer's goroutine goes on meanwhile
			s.Net.Run()
			if rnd.IntN(2) == 0 {
				s.Settle()
			}
		}
		s.Crash()
		answers := resultID.FindAllStringSubmatch(romeo.Received(), -1)
		again := s.Login("again", "romeo@localhost/orchard")
		again.Send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>")
		s.Settle()
		roster := again.Received()
		for _, m := range answers {
			i, _ := strconv.Atoi(m[1])
			if told++; !strings.Contains(roster, fmt.Sprintf("contact%d@localhost", i)) {
				t.Errorf("seed %d: change %d was answered, and is lost", seed, i)
			}
		}
	}
	if told == 0 || told == 20*changes {
		t.Errorf("%d of %d changes were answered before the crash: the test looks at one side only", told,
			20*changes)
	}
}
