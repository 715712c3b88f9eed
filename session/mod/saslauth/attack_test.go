package saslauth_test

import (
	"encoding/base64"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"canto/session"
	"canto/session/mod/saslauth"
	"canto/session/sasl"
	"canto/session/sessiontest"
)

// zeros is a source of random bytes for a test to which they do not matter.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// K67: answers to guessed passwords are delayed, by address and by account. The account's owner is not
// locked out, and its sessions go on.
func TestAttackK67Guessing(t *testing.T) {
	offer, err := sasl.NewMechanismSet("PLAIN")
	if err != nil {
		t.Fatal(err)
	}
	lim := session.DefaultLimits()
	lim.FailuresPerAddress, lim.FailuresPerAccount = session.Rate{N: 5, Per: time.Minute},
		session.Rate{N: 10, Per: time.Minute}
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim,
		Dependencies: []session.Dependency{session.NewDependency(saslauth.Policy{
			Mechanisms: offer, PlainText: true, Rand: zeros{}, FakeKey: sasl.SecretString("a key of the test's own"),
			Failures: session.NewThrottle()})}})
	owner := s.Login("owner", "juliet@localhost/balcony")
	try := func(from byte, password string) *sessiontest.Client {
		c := s.DialFrom(netip.AddrFrom4([4]byte{192, 0, 2, from}), "guess", 0)
		c.Open("localhost")
		s.Settle()
		c.Received()
		c.Send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" +
			base64.StdEncoding.EncodeToString([]byte("\x00juliet\x00"+password)) + "</auth>")
		return c
	}
	const refused = "<not-authorized"
	// From one address: five at once, and then each delayed by a second.
	for i := range 8 {
		c := try(1, "guess")
		at := strings.Contains(c.Received(), refused)
		if at != (i < 5) {
			t.Errorf("try %d from one address is answered at once: %v", i+1, at)
		}
		s.Advance(1200 * time.Millisecond)
		if !at && !strings.Contains(c.Received(), refused) {
			t.Errorf("try %d from one address is not answered after a second", i+1)
		}
	}
	// From many addresses against one account: ten in all.
	late := 0
	for from := range byte(10) {
		if c := try(100+from, "guess"); !strings.Contains(c.Received(), refused) {
			late++
		}
	}
	if late < 6 {
		t.Errorf("%d of 10 tries on an account that was guessed at already are late", late)
	}
	// The owner logs in meanwhile.
	if got := try(200, sessiontest.Password).Received(); !strings.Contains(got, "<success") {
		t.Errorf("the right password: %s", got)
	}
	owner.Send("<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>")
	if got := owner.Received(); !strings.Contains(got, "id='1'") {
		t.Errorf("the owner's session gets %q", got)
	}
}

// RFC 6120 section 6.5: only a guess at a password counts against the account. A failure of the server
// itself (temporary-auth-failure, section 6.5.11) does not count against the address either. Every failure
// is a try of its stream (section 6.4.4).
func TestFailuresThatAreNoGuess(t *testing.T) {
	offer, err := sasl.NewMechanismSet("PLAIN", "SCRAM-SHA-256")
	if err != nil {
		t.Fatal(err)
	}
	code := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	const ns = " xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
	auth := func(mechanism, text string) string {
		return "<auth" + ns + " mechanism='" + mechanism + "'>" + text + "</auth>"
	}
	scram := auth("SCRAM-SHA-256", code("n,,n=juliet,r=nonce"))
	right := auth("PLAIN", code("\x00juliet\x00"+sessiontest.Password))
	for _, c := range []struct {
		condition        string
		say              []string
		broken, banned   bool
		account, address bool // whether the failure counts against it
	}{
		{"temporary-auth-failure", []string{right}, true, false, false, false},
		{"temporary-auth-failure", []string{scram}, true, false, false, false},
		{"invalid-mechanism", []string{auth("DIGEST-MD5", "=")}, false, false, false, true},
		{"encryption-required", []string{auth("SCRAM-SHA-256-PLUS", "=")}, false, false, false, true},
		{"incorrect-encoding", []string{scram, "<response" + ns + ">!</response>"}, false, false, false, true},
		{"malformed-request", []string{scram, "<response" + ns + ">" + code("x") + "</response>"}, false, false,
			false, true},
		{"malformed-request", []string{scram, scram}, false, false, false, true},
		{"account-disabled", []string{right}, false, true, false, true},
		{"aborted", []string{scram, "<abort" + ns + "/>"}, false, false, false, false},
		{"not-authorized", []string{auth("PLAIN", code("\x00juliet\x00guess"))}, false, false, true, true},
	} {
		lim := session.DefaultLimits()
		lim.FailuresPerAddress = session.Rate{N: 6, Per: time.Hour}
		lim.FailuresPerAccount = session.Rate{N: 6, Per: time.Hour}
		var broken atomic.Bool
		s := sessiontest.New(t, sessiontest.Options{
			Limits: &lim,
			Fault: func(write bool) error {
				if !write && broken.Load() {
					return errors.New("the disk has failed")
				}
				return nil
			},
			Dependencies: []session.Dependency{session.NewDependency(saslauth.Policy{Mechanisms: offer,
				PlainText: true, Rand: zeros{},
				FakeKey: sasl.SecretString("a key of the test's own"), Failures: session.NewThrottle()})}})
		s.AddAccount("juliet@localhost")
		if c.banned {
			if err := s.DB.Accounts().Ban(t.Context(), "localhost", "juliet", "test"); err != nil {
				t.Fatal(err)
			}
		}
		from := func(last byte) *sessiontest.Client {
			d := s.DialFrom(netip.AddrFrom4([4]byte{192, 0, 2, last}), "c", 0)
			d.Open("localhost")
			s.Settle()
			d.Received()
			return d
		}
		say := func(d *sessiontest.Client, el string) string {
			d.Send(el)
			s.Settle()
			return d.Received()
		}
		// Five on one stream, which ends it, and one on another: the limits are reached if the failures count.
		broken.Store(c.broken)
		for stream, n := range []int{5, 1} {
			d := from(1)
			for i := range n {
				var got string
				for _, el := range c.say {
					got = say(d, el)
				}
				if !strings.Contains(got, "<"+c.condition+"/>") {
					t.Fatalf("%s, stream %d, try %d: %s", c.condition, stream, i, got)
				}
				if ended := strings.Contains(got, "<policy-violation"); ended != (i == 4) {
					t.Errorf("%s, try %d: the stream has ended: %v", c.condition, i, ended)
				}
			}
		}
		broken.Store(false)
		guess := func(last byte, user string) (late bool) {
			return !strings.Contains(say(from(last), auth("PLAIN", code("\x00"+user+"\x00guess"))), "<not-authorized")
		}
		if late := guess(1, "romeo"); late != c.address {
			t.Errorf("%s counts against the address: %v", c.condition, late)
		}
		if late := guess(2, "juliet"); late != c.account {
			t.Errorf("%s counts against the account: %v", c.condition, late)
		}
	}
}
