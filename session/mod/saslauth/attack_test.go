package saslauth_test

import (
	"encoding/base64"
	"net/netip"
	"strings"
	"testing"
	"time"

	"canto/session"
	"canto/session/mod/saslauth"
	"canto/session/sasl"
	"canto/session/sessiontest"
)

// zeros is randomness that a test needs none of.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// K67: who guesses passwords is answered late, by address and by account; the account's owner is not locked out, and
// its sessions go on.
func TestAttackK67Guessing(t *testing.T) {
	offer, err := sasl.NewOffer("PLAIN")
	if err != nil {
		t.Fatal(err)
	}
	lim := session.DefaultLimits()
	lim.FailuresPerAddress, lim.FailuresPerAccount = session.Rate{N: 5, Per: time.Minute}, session.Rate{N: 10, Per: time.Minute}
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim, Given: []session.Given{session.Give(saslauth.Policy{
		Offer: offer, PlainText: true, Rand: zeros{}, FakeKey: sasl.SecretString("a key of the test's own"), Failures: session.NewThrottle()})}})
	owner := s.Login("owner", "juliet@localhost/balcony")
	try := func(from byte, password string) *sessiontest.Client {
		c := s.DialFrom(netip.AddrFrom4([4]byte{192, 0, 2, from}), "guess", 0)
		c.Open("localhost")
		s.Settle()
		c.Received()
		c.Send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" + base64.StdEncoding.EncodeToString([]byte("\x00juliet\x00"+password)) + "</auth>")
		return c
	}
	const refused = "<not-authorized"
	// From one address: five at once, and then each a second late.
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
	// Its owner, meanwhile.
	if got := try(200, sessiontest.Password).Received(); !strings.Contains(got, "<success") {
		t.Errorf("the right password: %s", got)
	}
	owner.Send("<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>")
	if got := owner.Received(); !strings.Contains(got, "id='1'") {
		t.Errorf("the owner's session gets %q", got)
	}
}
