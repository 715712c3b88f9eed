package fast_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod/fast"
	"canto/session/sasl"
	"canto/session/sessiontest"
)

const (
	phone  = "d4565fa7-4d72-4749-b3d3-740edbf87770"
	tablet = "00000000-4d72-4749-b3d3-740edbf87770"
)

// A request is one <authenticate/>.
type request struct {
	user, token, agent string
	mechanism          string // HT-SHA-256-NONE if it is empty
	attrs              string // of <fast/>
	inline             string // further children
	noFast             bool   // <fast/> is left out
}

// A fixture is a server with romeo's account.
type fixture struct {
	*sessiontest.Server
	t *testing.T
	n int
}

func start(t *testing.T) *fixture {
	s := sessiontest.New(t, sessiontest.Options{Module: func(_ string, v any) error {
		if o, ok := v.(*fast.Options); ok {
			o.Lifetime = "2h" // a token of an hour is replaced
		}
		return nil
	}})
	s.AddAccount("romeo@localhost")
	return &fixture{Server: s, t: t}
}

// send sends an <authenticate/> on a new connection, and returns what comes.
func (f *fixture) send(el string) string {
	f.n++
	c := f.Dial("c", f.n)
	c.Open("localhost")
	f.Settle()
	c.Received()
	c.Send(el)
	f.Settle()
	got := c.Received()
	c.DropConn()
	f.Settle()
	return got
}

func agent(id string) string {
	if id == "" {
		return ""
	}
	return "<user-agent id='" + id + "'><software>Test</software><device>a phone</device></user-agent>"
}

// password logs in by the password.
func (f *fixture) password(id, inline string) string {
	return f.send("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>AHJvbWVvAHIwbTMw" +
		"</initial-response>" + agent(id) + inline + "</authenticate>")
}

const wanted = "<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-NONE'/>"

// login logs in by a token.
func (f *fixture) login(r request) string {
	if r.user == "" {
		r.user = "romeo"
	}
	if r.mechanism == "" {
		r.mechanism = "HT-SHA-256-NONE"
	}
	proof := sasl.TokenNone.InitiatorMAC(sasl.SecretString(r.token), sasl.ChannelBinding{})
	el := "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='" + r.mechanism + "'><initial-response>" +
		string(sasl.AppendTokenMessage(r.user, proof)) + "</initial-response>" + agent(r.agent)
	if !r.noFast {
		el += "<fast xmlns='urn:xmpp:fast:0'" + r.attrs + "/>"
	}
	return f.send(el + r.inline + "</authenticate>")
}

func between(s, before, after string) string {
	_, s, ok := strings.Cut(s, before)
	s, _, ok2 := strings.Cut(s, after)
	if !ok || !ok2 {
		return ""
	}
	return s
}

// tokenOf returns the token in a success, or nothing.
func tokenOf(got string) string { return between(got, " token='", "'") }

// outcome is "success", or the condition of the failure.
func outcome(got string) string {
	if strings.HasPrefix(got, "<success ") {
		return "success"
	}
	return between(got, "<failure xmlns='urn:xmpp:sasl:2'><", " ")
}

func (f *fixture) expect(what, got, want string) {
	f.t.Helper()
	if o := outcome(got); o != want {
		f.t.Errorf("%s: %s, want %s (%s)", what, o, want, got)
	}
}

// clients are the rows of romeo.
func (f *fixture) clients() []fast.Client {
	f.t.Helper()
	f.Settle()
	snap := f.DB.Snapshot()
	defer snap.Close()
	a, err := f.DB.Accounts().Get(snap, "localhost", "romeo")
	if err != nil {
		f.t.Fatal(err)
	}
	list, err := fast.List(f.DB, snap, a, f.Net.Now())
	if err != nil {
		f.t.Fatal(err)
	}
	return list
}

// XEP-0484 sections 3.3 to 3.5: a token is asked for, used, proved by the server, replaced by a newer one
// when it is a day old, and the older one is void once the newer one was used.
func TestRotation(t *testing.T) {
	f := start(t)
	got := f.password(phone, wanted)
	first := tokenOf(got)
	if len(first) != 43 || between(got, "expiry='", "'") != "2026-01-01T02:00:00Z" {
		t.Fatalf("no token, or a wrong expiry: %s", got)
	}
	got = f.login(request{token: first, agent: phone, inline: "<bind xmlns='urn:xmpp:bind:0'/>"})
	f.expect("the token", got, "success")
	mac := sasl.TokenNone.ResponderMAC(sasl.SecretString(first), sasl.ChannelBinding{})
	if v := between(got, "<additional-data>", "<"); v != base64.StdEncoding.EncodeToString(mac) ||
		!strings.Contains(got, "<bound ") || tokenOf(got) != "" {
		t.Errorf("the success: %s", got)
	}
	f.Advance(61 * time.Minute)
	second := tokenOf(f.login(request{token: first, agent: phone}))
	if second == "" || second == first {
		t.Fatalf("an hour later the token is %q", second)
	}
	// The new one did not reach the client, which uses the old one again: the unused one is replaced.
	third := tokenOf(f.login(request{token: first, agent: phone}))
	if third == "" || third == second {
		t.Fatalf("the next token is %q", third)
	}
	f.expect("the one that was not used", f.login(request{token: second, agent: phone}), "not-authorized")
	f.expect("the newest", f.login(request{token: third, agent: phone}), "success")
	f.expect("the oldest, when a newer one was used", f.login(request{token: first, agent: phone}),
		"not-authorized")
	f.Restart()
	f.expect("after a restart", f.login(request{token: third, agent: phone}), "success")
	if c := f.clients(); len(c) != 1 || c[0].ID != phone || c[0].Software != "Test" ||
		c[0].Device != "a phone" || len(c[0].Tokens) != 1 || !c[0].Tokens[0].Used || !c[0].Seen.Equal(f.Net.Now()) {
		t.Errorf("clients: %+v", c)
	}
}

// S09: a token is refused after each event that ends it, from another user agent, for another mechanism, and
// when it is replayed. All refusals but two are those of a wrong token.
func TestAttackS09Tokens(t *testing.T) {
	ctx := context.Background()
	revoke := func(f *fixture, id session.AgentID) {
		snap := f.DB.Snapshot()
		defer snap.Close()
		a, err := f.DB.Accounts().Get(snap, "localhost", "romeo")
		if err != nil {
			f.t.Fatal(err)
		}
		h, _ := f.Router.Table.Host("localhost")
		if n, err := fast.Revoke(ctx, f.DB, h, a.ID, id); n != 1 || err != nil {
			f.t.Errorf("%d revoked, %v", n, err)
		}
	}
	id, _ := session.ParseAgentID([]byte(phone))
	for name, c := range map[string]struct {
		before func(f *fixture, token string)
		change func(r *request)
		want   string
	}{
		"right":         {want: "success"},
		"as text":       {change: func(r *request) { r.agent = strings.ToUpper(phone) }, want: "success"},
		"no user agent": {change: func(r *request) { r.agent = "" }, want: "not-authorized"},
		"another agent": {change: func(r *request) { r.agent = tablet }, want: "not-authorized"},
		"another user":  {change: func(r *request) { r.user = "juliet" }, want: "not-authorized"},
		"no account":    {change: func(r *request) { r.user = "none" }, want: "not-authorized"},
		"no name":       {change: func(r *request) { r.user = "a b" }, want: "not-authorized"},
		"wrong token":   {change: func(r *request) { r.token += "x" }, want: "not-authorized"},
		"empty token":   {change: func(r *request) { r.token = "" }, want: "not-authorized"},
		"no binding":    {change: func(r *request) { r.mechanism = "HT-SHA-256-EXPR" }, want: "invalid-mechanism"},
		"unknown": {change: func(r *request) { r.mechanism = "HT-SHA-512-NONE" },
			want: "invalid-mechanism"},
		"without fast": {change: func(r *request) { r.noFast = true }, want: "invalid-mechanism"},
		"count 0":      {change: func(r *request) { r.attrs = " count='0'" }, want: "malformed-request"},
		"count -1":     {change: func(r *request) { r.attrs = " count='-1'" }, want: "malformed-request"},
		"invalidate":   {change: func(r *request) { r.attrs = " invalidate='maybe'" }, want: "malformed-request"},
		"password": {before: func(f *fixture, _ string) {
			k, err := sasl.DeriveKeys([]byte(sessiontest.Password), sasl.MinIterations,
				bytes.NewReader(bytes.Repeat([]byte("another salt"), 99)), sasl.SHA256)
			if err != nil {
				f.t.Fatal(err)
			}
			if err := f.DB.Accounts().SetKeys(ctx, "localhost", "romeo", k.Encode()); err != nil {
				f.t.Fatal(err)
			}
		}, want: "not-authorized"},
		"ban": {before: func(f *fixture, _ string) {
			if err := f.DB.Accounts().Ban(ctx, "localhost", "romeo", ""); err != nil {
				f.t.Fatal(err)
			}
		}, want: "account-disabled"},
		"new account of the name": {before: func(f *fixture, _ string) {
			if _, err := f.DB.Accounts().Delete(ctx, "localhost", "romeo"); err != nil {
				f.t.Fatal(err)
			}
			f.AddAccount("romeo@localhost")
		}, want: "not-authorized"},
		"revoked": {before: func(f *fixture, _ string) { revoke(f, id) }, want: "not-authorized"},
		"all revoked": {before: func(f *fixture, _ string) { revoke(f, session.AgentID{}) },
			want: "not-authorized"},
		"invalidated": {before: func(f *fixture, token string) {
			got := f.login(request{token: token, agent: phone, attrs: " invalidate='true'"})
			f.expect("invalidate", got, "success")
			if tokenOf(got) != "" {
				f.t.Errorf("a token with the invalidation: %s", got)
			}
		}, want: "not-authorized"},
		"just valid": {before: func(f *fixture, _ string) { f.Advance(2*time.Hour - time.Second) },
			want: "success"},
		"expired": {before: func(f *fixture, _ string) { f.Advance(2 * time.Hour) },
			want: "credentials-expired"},
		"replayed": {before: func(f *fixture, token string) {
			f.login(request{token: token, agent: phone, attrs: " count='7'"})
		}, change: func(r *request) { r.attrs = " count='7'" }, want: "not-authorized"},
		"lower count": {before: func(f *fixture, token string) {
			f.login(request{token: token, agent: phone, attrs: " count='7'"})
		}, change: func(r *request) { r.attrs = " count='6'" }, want: "not-authorized"},
		"no count after one": {before: func(f *fixture, token string) {
			f.login(request{token: token, agent: phone, attrs: " count='7'"})
		}, want: "not-authorized"},
		"higher count": {before: func(f *fixture, token string) {
			f.login(request{token: token, agent: phone, attrs: " count='7'"})
		}, change: func(r *request) { r.attrs = " count='9'" }, want: "success"},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			f.AddAccount("juliet@localhost")
			token := tokenOf(f.password(phone, wanted))
			r := request{token: token, agent: phone}
			if c.before != nil {
				c.before(f, token)
			}
			if c.change != nil {
				c.change(&r)
			}
			f.expect(name, f.login(r), c.want)
		})
	}
}

// S11: what is stored for a deleted account is erased with it, tokens too.
func TestAttackS11TokensErased(t *testing.T) {
	f := start(t)
	f.password(phone, wanted)
	f.Settle()
	d, err := f.DB.Accounts().Delete(context.Background(), "localhost", "romeo")
	if err != nil {
		t.Fatal(err)
	}
	f.DB.Accounts().Erase(d.ID)
	f.Settle()
	f.AddAccount("romeo@localhost")
	if c := f.clients(); len(c) > 0 {
		t.Errorf("clients of a new account: %+v", c)
	}
	snap := f.DB.Snapshot()
	defer snap.Close()
	a, err := f.DB.Accounts().Get(snap, "localhost", "romeo")
	if err != nil {
		t.Fatal(err)
	}
	a.ID = d.ID
	if c, err := fast.List(f.DB, snap, a, f.Net.Now()); err != nil || len(c) > 0 {
		t.Errorf("clients of the deleted account: %+v, %v", c, err)
	}
}

// An account has 32 user agents: the one that has not logged in for the longest time goes.
func TestClientsBounded(t *testing.T) {
	f := start(t)
	id := func(i int) string { return fmt.Sprintf("d4565fa7-4d72-4749-b3d3-%012x", i+1) }
	tokens := make([]string, 33)
	for i := range tokens {
		if i == 32 {
			f.expect("the first before there are too many", f.login(request{token: tokens[0], agent: id(0)}),
				"success")
			f.Advance(time.Second)
		}
		tokens[i] = tokenOf(f.password(id(i), wanted))
		f.Advance(time.Second)
	}
	if n := len(f.clients()); n != 32 {
		t.Errorf("%d user agents", n)
	}
	f.expect("the oldest", f.login(request{token: tokens[1], agent: id(1)}), "not-authorized")
	f.expect("the first, which was used since", f.login(request{token: tokens[0], agent: id(0)}), "success")
	f.expect("the newest", f.login(request{token: tokens[32], agent: id(32)}), "success")
}

// A client without an id of its user agent gets no token, and so does one that asks for another mechanism
// than those of its connection. The id is never shown to others.
func TestNoToken(t *testing.T) {
	f := start(t)
	for what, got := range map[string]string{
		"without an id": f.password("", wanted),
		"not offered":   f.password(phone, strings.Replace(wanted, "NONE", "EXPR", 1)),
		"no mechanism":  f.password(phone, "<request-token xmlns='urn:xmpp:fast:0'/>"),
		"wrong password": f.send("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>" +
			"AHJvbWVvAHdyb25n</initial-response>" + agent(tablet) + wanted + "</authenticate>"),
	} {
		if tokenOf(got) != "" {
			t.Errorf("%s: %s", what, got)
		}
	}
	if c := f.clients(); len(c) != 1 || c[0].ID != phone {
		t.Errorf("clients: %+v", c)
	}
	j, _ := jid.Parse("romeo@localhost")
	if got := f.password(phone, "<bind xmlns='urn:xmpp:bind:0'/>"); strings.Contains(got, phone[:8]) ||
		!strings.Contains(got, j.String()) {
		t.Errorf("the resource: %s", got)
	}
}

// A client that is signed out loses its session and its tokens; the account's other clients keep theirs.
func TestSignOut(t *testing.T) {
	f := start(t)
	bound := func(name, id string) (*sessiontest.Client, string) {
		c := f.Dial(name, 1)
		c.Open("localhost")
		c.Send("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>AHJvbWVvAHIwbTMw" +
			"</initial-response>" + agent(id) + wanted + "<bind xmlns='urn:xmpp:bind:0'/></authenticate>")
		f.Settle()
		return c, tokenOf(c.Received())
	}
	a, mine := bound("a", phone)
	b, other := bound("b", tablet)
	plain := f.Login("plain", "romeo@localhost/orchard")
	if mine == "" || other == "" {
		t.Fatal("no tokens")
	}
	acc, err := f.DB.Accounts().Get(f.DB, "localhost", "romeo")
	if err != nil {
		t.Fatal(err)
	}
	id, _ := session.ParseAgentID([]byte(phone))
	h, _ := f.Router.Table.Host("localhost")
	if n, err := fast.Revoke(t.Context(), f.DB, h, acc.ID, id); n != 1 || err != nil {
		t.Errorf("%d revoked, %v", n, err)
	}
	j, _ := jid.Parse("romeo@localhost")
	f.Router.KickAgent(j, id, session.ErrNotAuthorized)
	f.Settle()
	if got := a.Received(); !strings.Contains(got, "<stream:error><not-authorized") || !a.Ended() {
		t.Errorf("the client that was signed out: %s", got)
	}
	if b.Ended() || plain.Ended() {
		t.Error("another session has ended")
	}
	f.expect("its token", f.login(request{token: mine, agent: phone}), "not-authorized")
	f.expect("the other's token", f.login(request{token: other, agent: tablet}), "success")
}
