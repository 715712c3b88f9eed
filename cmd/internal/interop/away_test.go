//go:build interop

package interop

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"canto/bench/xmpp"
)

// A program is a client for people, that keeps what it hears in a database of its own.
type program interface {
	start()             // logs in as juliet
	stop()              // ends it, as its user would
	readsArchive() bool // reads what another device had while it was away
	kept() []string     // the bodies of the chat between romeo and juliet, in its order
}

// rows are the rows of a query of an SQLite database, each one a text.
func rows(t *testing.T, file, query string) (texts []string) {
	t.Helper()
	script, err := filepath.Abs("testdata/rows.py")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(python, script, file, query).Output()
	if err != nil {
		t.Fatalf("%s: %s: %v", file, query, err)
	}
	var all [][]string
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatalf("%s: %s: %s: %v", file, query, out, err)
	}
	for _, r := range all {
		texts = append(texts, r[0])
	}
	return texts
}

// A witness is a device of this process that counts what it hears.
type witness struct {
	*device
	mu    sync.Mutex // guards heard
	heard []string
}

func (h *host) witness(t *testing.T, u user, resource string) *witness {
	t.Helper()
	w := new(witness)
	d, err := h.open(u, resource, ears{heard: func(m message) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.heard = append(w.heard, m.body)
	}})
	if err != nil {
		t.Fatal(err)
	}
	w.device = d
	return w
}

// eventually waits until ok holds. what says what does not.
func eventually(t *testing.T, what func() string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(waitTimeout); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what())
		}
	}
}

// hears waits until the device has heard a text.
func (w *witness) hears(t *testing.T, text string) {
	t.Helper()
	eventually(t, func() string { return w.address + " does not hear " + text }, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.Contains(w.heard, text)
	})
}

// befriend makes both accounts see each other's presence.
func befriend(t *testing.T, romeo, juliet *device) {
	t.Helper()
	for _, w := range []*device{romeo, juliet} {
		other := romeo.user
		if w == romeo {
			other = juliet.user
		}
		// RFC 6121 section 3.4: what is approved in advance is subscribed at once. A server without that takes
		// the approval after the request, so it is sent again.
		for _, kind := range []string{"subscribed", "subscribe"} {
			if err := w.send(fmt.Sprintf("<presence type='%s' to='%s'/>", kind, other.address)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.request("get", "localhost", "<ping xmlns='"+xmpp.NSPing+"'/>"); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range []*device{romeo, juliet} {
		eventually(t, func() string { return w.address + " has no contact" }, func() bool {
			r, err := w.request("get", "", "<query xmlns='"+xmpp.NSRoster+"'/>")
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(r.Raw()), "subscription='both'") ||
				strings.Contains(string(r.Raw()), `subscription="both"`) {
				return true
			}
			other := romeo.user
			if w == romeo {
				other = juliet.user
			}
			w.send(fmt.Sprintf("<presence type='subscribed' to='%s'/>", other.address))
			return false
		})
	}
}

// A program is away while messages come: some that wait for it, some that another device of its account hears
// and sends. After its next start it has each of them once, and in order.
func wasAway(p *pair, h *host, g program) {
	t := p.t
	romeo, phone := h.witness(t, p.romeo, "orchard"), h.witness(t, p.juliet, "phone")
	befriend(t, romeo.device, phone.device)
	var want []string
	say := func(from *witness, to user, n int) {
		t.Helper()
		for range n {
			body := fmt.Sprintf("line %02d", len(want))
			if err := from.say(to.address, body, body); err != nil {
				t.Fatal(err)
			}
			want = append(want, body)
		}
		// The answer comes behind what was sent.
		if _, err := from.request("get", "localhost", "<ping xmlns='"+xmpp.NSPing+"'/>"); err != nil {
			t.Fatal(err)
		}
	}
	phone.close()
	say(romeo, p.juliet, 1)
	g.start()
	has := func() {
		t.Helper()
		var kept []string
		differ := func() string { return fmt.Sprintf("the program has kept\n%q, not\n%q", kept, want) }
		eventually(t, differ, func() bool {
			kept = g.kept()
			return len(kept) >= len(want)
		})
		if !slices.Equal(kept, want) {
			t.Fatalf("the program has kept\n%q, not\n%q", kept, want)
		}
	}
	has()
	say(romeo, p.juliet, 1) // live
	has()
	g.stop()
	// Programs sort by the second. Those of one second are in the order in which they came, which is another one
	// than that in which they were said if younger ones have waited and older ones are in the archive. So what
	// comes in different ways is said in different seconds. The margin is for servers that take the time from a
	// clock of coarse steps.
	later := func() {
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second + 50*time.Millisecond)))
	}
	// withPhone is an absence in which another device of the account hears and sends.
	withPhone := func() {
		t.Helper()
		// It waits, or it is for the session of the program, which the program has not logged out of. So the phone
		// reads it in the archive.
		say(romeo, p.juliet, 5)
		phone = h.witness(t, p.juliet, "phone")
		if all, err := phone.archive(""); err != nil || all[len(all)-1].body != want[len(want)-1] {
			t.Fatalf("the archive ends with %v, %v", all, err)
		}
		later()
		say(romeo, p.juliet, 5) // to the phone
		phone.hears(t, want[len(want)-1])
		say(phone, p.romeo, 5) // from the phone
		romeo.hears(t, want[len(want)-1])
		phone.close()
	}
	absences := []func(){
		func() { say(romeo, p.juliet, 5) }, // waits for the program
	}
	if g.readsArchive() {
		absences = append(absences, withPhone, func() {
			withPhone()
			later()
			say(romeo, p.juliet, 5)
		})
	}
	for _, absence := range absences {
		later()
		absence()
		g.start()
		has()
		// Live ones, and carbons both ways.
		phone = h.witness(t, p.juliet, "phone")
		say(romeo, p.juliet, 1)
		phone.hears(t, want[len(want)-1])
		say(phone, p.romeo, 1)
		romeo.hears(t, want[len(want)-1])
		say(romeo, user{address: phone.address}, 1)
		has()
		phone.close()
		g.stop()
	}
	if kept := g.kept(); !slices.Equal(kept, want) {
		t.Fatalf("at its end the program has kept\n%q, not\n%q", kept, want)
	}
	romeo.close()
}

// profanityKeeps is profanity on its screen.
type profanityKeeps struct {
	p *pair
	x *terminal
}

func (g *profanityKeeps) start() {
	p := g.p
	if g.x == nil {
		g.x = p.terminal(map[string]string{
			"config/profanity/profrc": "[ui]\nsplash=false\n[connection]\ncarbons=true\nreconnect=1\n" +
				"[chatstates]\nenabled=false\n",
			"share/profanity/accounts": fmt.Sprintf("[juliet]\nenabled=true\njid=%s\nserver=localhost\nport=%s\n"+
				"password=%s\nresource=profanity\n", p.juliet.address, p.port(), p.juliet.password),
		})
	}
	g.x.run("profanity -a juliet")
	g.x.wait("logged in successfully")
}

func (g *profanityKeeps) stop() {
	g.x.say("/quit")
	eventually(g.p.t, func() string { return "profanity does not end" }, func() bool { return !g.x.runs() })
}

// readsArchive is false: 0.13 looks for an archive among the features of the domain. XEP-0313 section 7 has
// it among those of the account.
func (g *profanityKeeps) readsArchive() bool { return false }

func (g *profanityKeeps) kept() []string {
	name := strings.ReplaceAll(g.p.juliet.address, "@", "_at_")
	return rows(g.p.t, filepath.Join(g.x.home, "share/profanity/database", name, "chatlog.db"),
		"SELECT message FROM ChatLogs ORDER BY julianday(timestamp), id")
}
