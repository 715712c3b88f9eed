package main

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/session/store"
)

// What was acknowledged is there after kill -9: a roster item by its result, a vCard by its result, and
// a message for somebody away by the result of what its sender asked for behind it. Nothing is there
// twice.
func TestAttackK63(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	s.ok("user", "add", "romeo@example.org", "--password", "x")
	s.ok("user", "add", "juliet@example.org", "--password", "x")
	last := 0 // numbers go on from round to round
	for round := range 3 {
		p := s.serve()
		romeo := p.login("example.org", "romeo", "x")
		from, victim := last, 1+rand.IntN(30)
		acked := map[string]int{"r": from, "v": from} // kind -> the highest number acknowledged
		sent := from
		ended := make(chan error, 1)
		go func() { // the writer never waits for an answer
			for n := from + 1; ; n++ {
				if err := romeo.send(fmt.Sprintf("<message to='juliet@example.org' type='chat' id='m%d'><body>%d</body></message>"+
					"<iq type='set' id='r%d'><query xmlns='jabber:iq:roster'><item jid='c%d@example.net'/></query></iq>"+
					"<iq type='set' id='v%d'><vCard xmlns='vcard-temp'><FN>%d</FN></vCard></iq>", n, n, n, n, n, n)); err != nil {
					sent = n
					ended <- err
					return
				}
				if n-from > 800 {
					time.Sleep(time.Millisecond) // enough is under way
				}
			}
		}()
		for {
			n, err := romeo.next()
			if err != nil {
				break
			}
			if n.XMLName.Local != "iq" || n.attr("type") == "set" {
				continue
			}
			if n.attr("type") != "result" {
				t.Fatalf("round %d: %v", round, n)
			}
			kind := n.attr("id")[:1]
			k, _ := strconv.Atoi(n.attr("id")[1:])
			acked[kind] = max(acked[kind], k)
			if k-from == victim {
				time.AfterFunc(rand.N(20*time.Millisecond), func() { p.signal(syscall.SIGKILL) }) // amid a commit
			}
		}
		romeo.conn.Close()
		<-ended
		if n := p.wait(); n != -1 {
			t.Fatalf("the server ended by itself: %d %s", n, p.log)
		}
		if acked["r"]-from < victim-1 {
			t.Fatalf("round %d: only %d of %d were acknowledged", round, acked["r"]-from, victim)
		}

		p = s.serve()
		romeo = p.login("example.org", "romeo", "x")
		roster, err := romeo.iq("get", "<query xmlns='jabber:iq:roster'/>")
		if err != nil {
			t.Fatal(err)
		}
		q, _ := roster.find("query")
		items := map[string]int{}
		for _, i := range q.Nodes {
			items[i.attr("jid")]++
		}
		for n := 1; n <= acked["r"]; n++ {
			if items[fmt.Sprintf("c%d@example.net", n)] != 1 {
				t.Errorf("round %d: item %d was acknowledged, and is there %d times", round, n, items[fmt.Sprintf("c%d@example.net", n)])
			}
		}
		if len(items) > sent {
			t.Errorf("round %d: %d items, of %d sent", round, len(items), sent)
		}
		card, err := romeo.iq("get", "<vCard xmlns='vcard-temp'/>")
		if err != nil {
			t.Fatal(err)
		}
		fn, _ := card.find("vCard", "FN")
		if v, _ := strconv.Atoi(fn.Text); v < acked["v"] || v > sent {
			t.Errorf("round %d: the vCard is %q; %d was acknowledged", round, fn.Text, acked["v"])
		}
		juliet := p.login("example.org", "juliet", "x")
		juliet.send("<presence/><message to='juliet@example.org' type='chat'><body>end</body></message>")
		want := from + 1
		for {
			n, err := juliet.stanza(func(n node) bool { return n.XMLName.Local == "message" })
			if err != nil {
				t.Fatal(err)
			}
			if body("end")(n) {
				break
			}
			if b, _ := n.find("body"); b.Text != strconv.Itoa(want) {
				t.Fatalf("round %d: message %q, where %d is next", round, b.Text, want)
			}
			want++
		}
		if want <= acked["r"] {
			t.Errorf("round %d: messages up to %d are there, and %d was acknowledged", round, want-1, acked["r"])
		}
		t.Logf("round %d: %d acknowledged of %d sent, %d stored messages", round, acked["r"]-from, sent-from, want-1-from)
		// What was delivered is not there again.
		juliet.send("</stream:stream>")
		juliet.ended()
		juliet = p.login("example.org", "juliet", "x")
		juliet.send("<presence/><message to='juliet@example.org' type='chat'><body>end</body></message>")
		if n, err := juliet.stanza(func(n node) bool { return n.XMLName.Local == "message" }); err != nil || !body("end")(n) {
			t.Errorf("round %d: delivered again: %v %v", round, n, err)
		}
		romeo.conn.Close()
		juliet.conn.Close()
		p.signal(syscall.SIGTERM)
		if n := p.wait(); n != 0 {
			t.Errorf("round %d: status %d: %s", round, n, p.log)
		}
		last = len(items)
		for items[fmt.Sprintf("c%d@example.net", last+1)] > 0 {
			t.Fatalf("round %d: there is a hole before item %d", round, last+1)
		}
	}
}

// smallDisk says of a file system that so many bytes are left.
type smallDisk struct {
	store.FS
	left atomic.Uint64
}

func (d *smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	n := d.left.Load()
	return vfs.DiskUsage{AvailBytes: n, TotalBytes: 1 << 40, UsedBytes: 1<<40 - n}, nil
}

// On a full disk what would be written is refused with resource-constraint; who is online chats on, what
// is stored can be read, and logging in works. When there is room again, so does all.
func TestAttackK106(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	disk := &smallDisk{FS: vfs.Default}
	disk.left.Store(1 << 40)
	p, _ := s.serveHere(func(o *store.Options) { o.FS, o.CheckEvery, o.Ballast = disk, 5*time.Millisecond, -1 })
	for _, n := range []string{"romeo", "juliet", "nurse"} {
		s.ok("user", "add", n+"@example.org", "--password", "x")
	}
	romeo, juliet := p.login("example.org", "romeo", "x"), p.login("example.org", "juliet", "x")
	for _, c := range []*client{romeo, juliet} {
		c.send("<presence/>")
	}
	const (
		roster  = "<query xmlns='jabber:iq:roster'><item jid='%s@example.net'/></query>"
		vcard   = "<vCard xmlns='vcard-temp'><FN>%s</FN></vCard>"
		private = "<query xmlns='jabber:iq:private'><x xmlns='test'>%s</x></query>"
		block   = "<block xmlns='urn:xmpp:blocking'><item jid='%s@example.net'/></block>"
	)
	writes := []string{roster, vcard, private, block}
	for _, w := range writes {
		if _, err := romeo.iq("set", fmt.Sprintf(w, "before")); err != nil {
			t.Fatalf("%s: %v", w, err)
		}
	}
	reads := func(want, not string) {
		t.Helper()
		for _, r := range []string{"<query xmlns='jabber:iq:roster'/>", "<vCard xmlns='vcard-temp'/>", "<query xmlns='jabber:iq:private'><x xmlns='test'/></query>", "<blocklist xmlns='urn:xmpp:blocking'/>"} {
			n, err := romeo.iq("get", r)
			if text := fmt.Sprint(n); err != nil || !strings.Contains(text, want) || strings.Contains(text, not) {
				t.Errorf("%s: %v %v", r, text, err)
			}
		}
	}

	disk.left.Store(1 << 20)
	p.says("writes are refused")
	full := stanzaError{"wait", "resource-constraint"}
	for range 2 {
		for _, w := range writes {
			if _, err := romeo.iq("set", fmt.Sprintf(w, "while")); err != full {
				t.Errorf("%s on a full disk: %v", w, err)
			}
		}
		reads("before", "while")
	}
	romeo.send("<message to='nurse@example.org' type='chat' id='lost'><body>while</body></message>")
	if n, err := romeo.stanza(func(n node) bool { return n.attr("id") == "lost" }); err != nil || errorOf(n) != full {
		t.Errorf("a message that can't be kept: %v %v", n, err)
	}
	romeo.send("<message to='juliet@example.org' type='chat'><body>live</body></message>")
	if _, err := juliet.stanza(body("live")); err != nil {
		t.Errorf("live chat on a full disk: %v", err)
	}
	nurse := p.login("example.org", "nurse", "x")
	nurse.send("<presence/>")
	romeo.send("<message to='nurse@example.org' type='chat'><body>hello</body></message>")
	if _, err := nurse.stanza(body("hello")); err != nil {
		t.Errorf("who logged in on a full disk: %v", err)
	}
	s.fails(exitFailed, `store is full: 1 MiB left in .*data, less than 512 MiB`, "user", "add", "tybalt@example.org")
	s.fails(exitFailed, `store is full: 1 MiB left`, "user", "ban", "romeo@example.org")
	s.fails(exitFailed, `store is full: 1 MiB left`, "host", "add", "example.net")
	nurse.send("</stream:stream>")
	nurse.ended()

	disk.left.Store(1 << 40)
	p.says("writes are taken")
	for _, w := range writes {
		if _, err := romeo.iq("set", fmt.Sprintf(w, "after")); err != nil {
			t.Errorf("%s with room again: %v", w, err)
		}
	}
	reads("after", "while")
	romeo.send("<message to='nurse@example.org' type='chat'><body>kept</body></message>")
	if _, err := romeo.iq("get", "<ping xmlns='urn:xmpp:ping'/>"); err != nil {
		t.Fatal(err)
	}
	nurse = p.login("example.org", "nurse", "x")
	nurse.send("<presence/>")
	if _, err := nurse.stanza(func(n node) bool { return n.XMLName.Local == "message" && body("kept")(n) }); err != nil {
		t.Errorf("a message with room again: %v", err)
	}
	s.ok("user", "add", "tybalt@example.org", "--password", "x")
}
