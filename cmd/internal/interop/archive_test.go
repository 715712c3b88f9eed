//go:build interop

package interop

import (
	"maps"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// archiveClients are the clients that use the archive, carbons and push. Each has the pair of accounts of its
// name.
var archiveClients = map[string]func(p *pair){
	"mellium": func(p *pair) { p.mellium("archive") },
	"slixmpp": func(p *pair) {
		app := users("slixmpp-app")[0]
		p.script("archive_slix.py", "archive", app.address, app.password)
	},
	"aioxmpp": func(p *pair) { p.script("archive_aio.py", "archive") },
	"nbxmpp":  func(p *pair) { p.script("archive_nbx.py") },
	"xmppjs":  func(p *pair) { xmppjs(p, "archive.js", "archive") },
}

// programs are clients for people. Each has the pair of accounts of its name.
var programs = map[string]func(p *pair) program{
	"profanity": func(p *pair) program { return &profanityKeeps{p: p} },
	"dino":      func(p *pair) program { return &dino{p: p} },
	"gajim":     func(p *pair) program { return &gajim{p: p} },
}

// mellium runs a stage of testdata/goclients/archive.
func (p *pair) mellium(stage string, more ...string) {
	p.t.Helper()
	p.run(filepath.Join(goClients(p.t), "archive"), append([]string{p.port(), p.romeo.address, p.romeo.password,
		p.juliet.address, p.juliet.password, stage}, more...)...)
}

// script runs a script of testdata with Debian's Python.
func (p *pair) script(name string, more ...string) {
	p.t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		p.t.Fatal(err)
	}
	p.run(python, append([]string{path, p.port(), p.Certificate(), p.romeo.address, p.romeo.password,
		p.juliet.address, p.juliet.password}, more...)...)
}

// Clients of other projects read the archive and get carbons, what waited for them, and pushes (XEP-0313,
// XEP-0441, XEP-0280, XEP-0160, XEP-0357), while two accounts with two devices each chat beside them.
func TestArchiveClients(t *testing.T) {
	names := []string{"background", "slixmpp-app"}
	names = slices.AppendSeq(names, maps.Keys(archiveClients))
	names = slices.AppendSeq(names, maps.Keys(programs))
	h := newHost(t, names...)
	t.Cleanup(removeGoClients)
	c := converse(t, h, "background", false, perSecond)
	defer c.finish()
	t.Run("clients", func(t *testing.T) {
		t.Run("restart", func(t *testing.T) {
			t.Parallel()
			restarts(t)
		})
		for name, client := range programs {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := pairOf(t, h.Server, name, "starttls")
				wasAway(p, h, client(p))
			})
		}
		// The libraries are done long before the programs. Two at a time leave them room.
		room := make(chan struct{}, 2)
		for name, client := range archiveClients {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				room <- struct{}{}
				defer func() { <-room }()
				client(pairOf(t, h.Server, name, "starttls"))
			})
		}
	})
}

// returning are the clients of accounts that are away while the server is restarted. They have the stages
// "away" and "back".
var returning = map[string]func(p *pair, stage ...string){
	"mellium": func(p *pair, stage ...string) { p.mellium(stage[0], stage[1:]...) },
	"slixmpp": func(p *pair, stage ...string) { p.script("archive_slix.py", stage...) },
	"aioxmpp": func(p *pair, stage ...string) { p.script("archive_aio.py", stage...) },
	"xmppjs":  func(p *pair, stage ...string) { xmppjs(p, "archive.js", stage...) },
}

// What waits for an account that is away is there once after a restart, and after the process was killed. Two
// accounts that chat all the while find all of their messages again, too.
func restarts(t *testing.T) {
	h := newHost(t, append([]string{"background"}, slices.Collect(maps.Keys(returning))...)...)
	// A kill comes between the delivery of a message and its end on the disk the more often, the more there are.
	rate := 200
	if withProsody { // whose file of an archive is read as a whole for each page
		rate = perSecond
	}
	c := converse(t, h, "background", true, rate)
	defer c.finish()
	// all runs a stage of all clients, which do it at the same time.
	all := func(name, stage string, more ...string) {
		t.Helper()
		ok := t.Run(name+" "+stage, func(t *testing.T) {
			for name, client := range returning {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					client(pairOf(t, h.Server, name, "starttls"), append([]string{stage}, more...)...)
				})
			}
		})
		if !ok {
			t.FailNow()
		}
	}
	var before []string
	for _, end := range []struct {
		name   string
		signal syscall.Signal
	}{{"restart", syscall.SIGTERM}, {"kill", syscall.SIGKILL}} {
		all(end.name, "away", end.name)
		c.goOn(perSecond)
		h.Stop(end.signal)
		h.restart()
		before = append(before, end.name)
		all(end.name, "back", before...)
		c.goOn(perSecond)
	}
	for range 5 {
		h.Stop(syscall.SIGKILL)
		h.restart()
		c.goOn(perSecond)
	}
}
