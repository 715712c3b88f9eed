package fast_test

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"canto/session"
	"canto/session/mod/fast"
	"canto/session/sasl"
	"canto/session/sessiontest"
)

// A modelToken is a token that was issued.
type modelToken struct {
	text            string
	issued, expires time.Time
	password        int // which password of the account it was issued under
}

// A modelClient is one user agent: the tokens that it may use.
type modelClient struct{ current, next *modelToken }

// Tokens against a table: each login has the outcome, and each success has a new token, exactly when the two
// slots of the user agent say so. Time passes, passwords change, clients are revoked, the account is banned,
// and the server is stopped and killed. CANTO_SEEDS is how many cases run.
func TestModel(t *testing.T) {
	checks := cmp.Or(os.Getenv("CANTO_SEEDS"), "15")
	was := flag.Lookup("rapid.checks").Value.String()
	if err := flag.Set("rapid.checks", checks); err != nil {
		t.Fatal(err)
	}
	defer flag.Set("rapid.checks", was)
	rapid.Check(t, func(r *rapid.T) {
		f := start(t)
		ctx := context.Background()
		agents := []string{phone, tablet}
		model := map[string]*modelClient{phone: {}, tablet: {}}
		var all []*modelToken
		password, salt := 0, 0
		owner, err := f.DB.Accounts().Get(f.DB, "localhost", "romeo")
		if err != nil {
			r.Fatal(err)
		}
		revoke := func(id session.AgentID) {
			h, _ := f.Router.Table.Host("localhost")
			if _, err := fast.Revoke(ctx, f.DB, h, owner.ID, id); err != nil {
				r.Fatal(err)
			}
		}
		// issue notes the token in a success, which must be there if due.
		issue := func(c *modelClient, got string, due bool) {
			text := tokenOf(got)
			if (text != "") != due {
				r.Fatalf("a new token is due: %v, but %s", due, got)
			}
			if due {
				now := f.Net.Now().Truncate(time.Second)
				c.next = &modelToken{text, now, now.Add(2 * time.Hour), password}
				all = append(all, c.next)
			}
		}
		for range rapid.IntRange(3, 25).Draw(r, "steps") {
			agent := rapid.SampledFrom(agents).Draw(r, "agent")
			c := model[agent]
			switch what := rapid.SampledFrom([]string{"password", "password", "token", "token", "token", "token",
				"invalidate", "time", "time", "new password", "revoke", "ban", "restart", "crash"}).Draw(r,
				"what"); what {
			case "password":
				asked := rapid.Bool().Draw(r, "asks for a token")
				inline := ""
				if asked {
					inline = wanted
				}
				got := f.password(agent, inline)
				if o := outcome(got); o != "success" {
					r.Fatalf("by password: %s", o)
				}
				issue(c, got, asked)
			case "token", "invalidate":
				if len(all) == 0 {
					continue
				}
				tk := all[rapid.IntRange(max(0, len(all)-4), len(all)-1).Draw(r, "token")]
				now := f.Net.Now()
				want, due := "success", false
				switch {
				case tk != c.current && tk != c.next, tk.password != password:
					want = "not-authorized"
				case now.Unix() >= tk.expires.Unix():
					want = "credentials-expired"
				default:
					if tk == c.next {
						c.current, c.next = tk, nil
					}
					due = what == "token" && now.Sub(tk.issued) >= time.Hour
				}
				attrs := ""
				if what == "invalidate" {
					attrs = " invalidate='1'"
				}
				got := f.login(request{token: tk.text, agent: agent, attrs: attrs})
				if o := outcome(got); o != want {
					r.Fatalf("a token: %s, want %s (%s)", o, want, got)
				}
				if want == "success" && what == "invalidate" {
					c.current, c.next = nil, nil
				}
				issue(c, got, due)
			case "time":
				f.Advance(time.Duration(rapid.IntRange(1, 70).Draw(r, "minutes")) * time.Minute)
			case "new password":
				password++
				salt++
				k, err := sasl.DeriveKeys([]byte(sessiontest.Password), sasl.MinIterations,
					bytes.NewReader(bytes.Repeat([]byte{byte(salt)}, 999)), sasl.SHA256)
				if err != nil {
					r.Fatal(err)
				}
				if err := f.DB.Accounts().SetKeys(ctx, "localhost", "romeo", k.Encode()); err != nil {
					r.Fatal(err)
				}
			case "revoke":
				id, _ := session.ParseAgentID([]byte(agent))
				revoke(id)
				*c = modelClient{}
			case "ban":
				if err := f.DB.Accounts().Ban(ctx, "localhost", "romeo", ""); err != nil {
					r.Fatal(err)
				}
				revoke(session.AgentID{}) // as the command does
				for _, c := range model {
					*c = modelClient{}
				}
				if o := outcome(f.password(agent, "")); o != "account-disabled" {
					r.Fatalf("banned: %s", o)
				}
				if err := f.DB.Accounts().Unban(ctx, "localhost", "romeo"); err != nil {
					r.Fatal(err)
				}
			case "restart":
				f.Restart()
			case "crash":
				f.Crash()
			}
		}
		f.DB.Close()
	})
}
