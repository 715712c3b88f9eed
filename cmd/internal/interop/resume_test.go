//go:build interop

package interop

import (
	"bufio"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"canto/cmd/internal/running"
)

// A client of another project is cut off, and resumes its session (XEP-0198). What is important comes at once
// while it is inactive (XEP-0352).
func TestResume(t *testing.T) {
	t.Parallel()
	s := start(t, "1.3")
	pairs(s, "resume")
	pairOf(t, s, "resume", "starttls").script("resume_slix.py")
}

// remotes are the clients that do what they are told.
var remotes = map[string]struct {
	how  string
	csi  bool // it can say that it is inactive
	join func(c *conversation, p *pair) *remote
}{
	"xmppjs": {"direct", true, func(c *conversation, p *pair) *remote {
		return c.join(p, "node", xmppjsArguments(p, "remote.js"))
	}},
	"aioxmpp": {"starttls", false, func(c *conversation, p *pair) *remote {
		return c.python(p, "remote_aio.py")
	}},
	"nbxmpp": {"starttls", true, func(c *conversation, p *pair) *remote {
		return c.python(p, "remote_nbx.py")
	}},
}

// python joins a script for Debian's Python.
func (c *conversation) python(p *pair, name string) *remote {
	c.t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		c.t.Fatal(err)
	}
	return c.join(p, python, []string{path, p.port(), p.Certificate(), p.romeo.address, p.romeo.password,
		p.juliet.address, p.juliet.password})
}

// counted is the value of a counter of the server.
func counted(t *testing.T, s *running.Server, name string) (n int) {
	t.Helper()
	r, err := http.Get("http://" + s.Debug + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			if n, err = strconv.Atoi(value); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("the server does not count %s", name)
	return 0
}

// A client is cut off again and again while its account chats, and resumes its session each time: each
// message is there once, on each device and in each archive, and contacts see no presence. Three devices of
// this process are in the conversation, too; one of them is another one of the client's account.
func TestResumptions(t *testing.T) {
	t.Parallel()
	for name, client := range remotes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, name)
			c := meet(t, h, name, false, perSecond, 3)
			befriend(t, c.devices[0].d, c.devices[1].d)
			l, s := lineTo(t, h.Server)
			r := client.join(c, pairOf(t, s, name, client.how))
			c.begin()
			c.goOn(perSecond)
			const cuts = 6
			for cut := range cuts {
				c.cut(l, cut)
				r.until("resume its session", func() bool { return r.resumed > cut })
				c.goOn(perSecond / 2)
			}
			if shown := c.presences(); len(shown) != 1 {
				t.Errorf("a contact got presence %q, and not once", shown)
			}
			c.end()
			if client.csi {
				inactive(c, r, l)
			}
			c.finish()
			r.end()
			n := counted(t, h.Server, "canto_sm_resumed_total")
			refused := counted(t, h.Server, "canto_sm_refused_total")
			if n != r.resumed || refused != 0 {
				t.Errorf("%d resumptions and %d refused ones, and the client says %d", n, refused, r.resumed)
			}
		})
	}
}

// A program for people is cut off while its account chats, comes back by itself, and has kept each message
// once. Contacts do not see it go. Dino is not among them: when TLS ends without a close_notify, 0.4.2 has an
// "uncaught error" in its stanza_reader.vala, and for minutes it does not know that it is cut off.
func TestProgramsResume(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"profanity", "gajim"} {
		client := programs[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, name)
			c := meet(t, h, name, false, perSecond, 3)
			befriend(t, c.devices[0].d, c.devices[1].d)
			l, s := lineTo(t, h.Server)
			p := pairOf(t, s, name, "starttls")
			g := client(p)
			c.watch(p, g)
			c.begin()
			c.goOn(perSecond)
			const cuts = 3
			for cut := range cuts {
				l.cut(cut == 1)
				eventually(t, func() string { return name + " does not resume its session" }, func() bool {
					return counted(t, h.Server, "canto_sm_resumed_total") > cut
				})
				c.goOn(perSecond)
			}
			// profanity says again that it is available when it is back.
			shown := c.presences()
			if i := slices.IndexFunc(shown, func(s string) bool { return !strings.HasSuffix(s, " ") }); i >= 0 {
				t.Errorf("a contact got presence %q", shown)
			}
			c.finish()
			g.stop()
			if n := counted(t, h.Server, "canto_sm_refused_total"); n != 0 {
				t.Errorf("%d resumptions were refused", n)
			}
		})
	}
}

// watch makes a program the last member of a conversation, and waits until it is there.
func (c *conversation) watch(p *pair, g program) {
	c.t.Helper()
	m := &member{c: c, user: p.juliet, keeps: g}
	c.devices = append(c.devices, m)
	g.start()
	// What its account sends comes to it when it is available and has carbons.
	const hello = "is it there?"
	eventually(c.t, func() string { return p.juliet.address + " gets no carbon" }, func() bool {
		if err := c.devices[1].d.say(p.romeo.address, "hello", hello); err != nil {
			c.t.Fatal(err)
		}
		return slices.Contains(g.kept(), hello)
	})
}

// The server is restarted while clients chat: by SIGTERM, and by kill -9. A client is resumed or refused. One
// that is refused logs in and reads the archive, as XEP-0313 section 5 tells clients to. Each message is
// there once, in the order of the archive, and what was acknowledged is in the archive.
func TestRestarts(t *testing.T) {
	t.Parallel()
	for name, client := range remotes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, name)
			c := meet(t, h, name, true, perSecond, 3)
			l, s := lineTo(t, h.Server)
			r := client.join(c, pairOf(t, s, name, client.how))
			c.begin()
			const term, kill = syscall.SIGTERM, syscall.SIGKILL
			for i, sig := range []syscall.Signal{term, kill, term, kill} {
				c.goOn(perSecond / 2)
				if i > 1 { // it is away when the server ends
					l.setAway(true)
					l.cut(false)
					c.more(perSecond / 5)
				}
				h.Stop(sig)
				h.restart()
				l.setAway(false)
				r.until("come back", func() bool { return r.up && r.bound+r.resumed == i+2 })
			}
			c.goOn(perSecond)
			c.finish()
			r.end()
			t.Logf("of %d restarts %d were followed by a resumption", r.bound+r.resumed-1, r.resumed)
		})
	}
}

// cut cuts a client off: the server notices at once, or not, and the client comes back at once, or after some
// more messages.
func (c *conversation) cut(l *line, turn int) {
	c.t.Helper()
	l.setAway(turn%3 != 0)
	l.cut(turn%2 == 1)
	c.more(perSecond / 2)
	l.setAway(false)
}

// more waits until n more messages are sent.
func (c *conversation) more(n int) {
	c.t.Helper()
	count := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.sent
	}
	from := count()
	eventually(c.t, func() string { return "the conversation does not go on" }, func() bool {
		return count() >= from+n
	})
}

// A client that says that it is inactive gets the last presence of a contact, in front of the next message.
// After it was resumed it is active.
func inactive(c *conversation, r *remote, l *line) {
	c.t.Helper()
	romeo, address := c.devices[0], r.m.user.address+"/"+r.m.resource
	show := func(shows ...string) {
		c.t.Helper()
		for _, s := range shows {
			err := romeo.d.send(fmt.Sprintf("<presence to='%s'><show>%s</show></presence>", address, s))
			if err != nil {
				c.t.Fatal(err)
			}
		}
	}
	c.mu.Lock()
	before := len(r.shown)
	c.mu.Unlock()
	shown := func(want ...string) {
		c.t.Helper()
		r.until("see "+want[len(want)-1], func() bool {
			return len(r.shown) > before && r.shown[len(r.shown)-1] == want[len(want)-1]
		})
		c.mu.Lock()
		defer c.mu.Unlock()
		if got := r.shown[before:]; strings.Join(got, " ") != strings.Join(want, " ") {
			c.t.Errorf("%s sees %v, not %v", address, got, want)
		}
		before = len(r.shown)
	}
	r.tell("inactive")
	// What it says after that arrives behind it.
	c.say(r.m, romeo)
	show("away", "xa", "dnd")
	c.say(romeo, r.m)
	shown("dnd")
	r.tell("inactive")
	c.say(r.m, romeo)
	resumed := r.resumed
	l.cut(false)
	r.until("resume its session", func() bool { return r.resumed > resumed })
	show("away")
	shown("away")
}

// say makes one member say something to another one, and waits until that has heard it.
func (c *conversation) say(from, to *member) {
	c.t.Helper()
	c.mu.Lock()
	say := from.voice()
	body := fmt.Sprintf("%s%06d", prefix, c.sent)
	c.sent++
	from.own = append(from.own, body)
	c.mu.Unlock()
	if err := say(to.user.address, body, body); err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, func() string { return to.user.address + " does not hear " + body }, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(to.log) > 0 && to.log[len(to.log)-1].body == body
	})
}
