package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"canto/session/metrics"
	"canto/session/store"
)

// Everything acknowledged is there after kill -9: a roster item by its result, a vCard by its result, and a
// message for an offline account by the result of its sender's next request. Nothing is there twice.
func TestAttackK63(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	s.ok("user", "add", "romeo@example.org", "--password", "x")
	s.ok("user", "add", "juliet@example.org", "--password", "x")
	last, lastCard := 0, 0 // numbers go on from round to round; a round may end between an item and its vCard
	for round := range 3 {
		doomed := s.serve()
		romeo := doomed.login("example.org", "romeo", "x")
		from, victim := last, 1+rand.IntN(30)
		acked := map[string]int{"r": from, "v": lastCard} // kind -> the highest number acknowledged
		sent := from
		ended := make(chan error, 1)
		go func() { // the writer never waits for an answer
			for n := from + 1; ; n++ {
				if err := romeo.send(fmt.Sprintf("<message to='juliet@example.org' type='chat' "+
					"id='m%d'><body>%d</body></message>"+
					"<iq type='set' id='r%d'><query xmlns='jabber:iq:roster'><item jid='c%d@example.net'/></query></iq>"+
					"<iq type='set' id='v%d'><vCard xmlns='vcard-temp'><FN>%d</FN></vCard></iq>", n, n, n, n, n,
					n)); err != nil {
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
				time.AfterFunc(rand.N(20*time.Millisecond), func() { doomed.signal(syscall.SIGKILL) }) // amid a commit
			}
		}
		romeo.conn.Close()
		<-ended
		if n := doomed.wait(); n != -1 {
			t.Fatalf("the server ended by itself: %d %s", n, doomed.log)
		}
		if acked["r"]-from < victim-1 {
			t.Fatalf("round %d: only %d of %d were acknowledged", round, acked["r"]-from, victim)
		}

		p := s.serve()
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
				t.Errorf("round %d: item %d was acknowledged, and is there %d times", round, n,
					items[fmt.Sprintf("c%d@example.net", n)])
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
		if lastCard, _ = strconv.Atoi(fn.Text); lastCard < acked["v"] || lastCard > sent {
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
		t.Logf("round %d: %d acknowledged of %d sent, %d stored messages", round, acked["r"]-from, sent-from,
			want-1-from)
		// What was delivered is not there again.
		juliet.send("</stream:stream>")
		juliet.ended()
		juliet = p.login("example.org", "juliet", "x")
		juliet.send("<presence/><message to='juliet@example.org' type='chat'><body>end</body></message>")
		if n, err := juliet.stanza(func(n node) bool {
			return n.XMLName.Local == "message"
		}); err != nil || !body("end")(n) {
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

// A smallDisk is a file system that reports so many free bytes.
type smallDisk struct {
	store.FS
	left atomic.Uint64
}

func (d *smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	n := d.left.Load()
	return vfs.DiskUsage{AvailBytes: n, TotalBytes: 1 << 40, UsedBytes: 1<<40 - n}, nil
}

// On a full disk stanzas that would write are refused with resource-constraint; online clients can chat,
// stored data can be read, and logins work. When there is space again, everything works.
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
		for _, r := range []string{"<query xmlns='jabber:iq:roster'/>", "<vCard xmlns='vcard-temp'/>",
			"<query xmlns='jabber:iq:private'><x xmlns='test'/></query>", "<blocklist xmlns='urn:xmpp:blocking'/>"} {
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
	if n, err := romeo.stanza(func(n node) bool {
		return n.attr("id") == "lost"
	}); err != nil || errorOf(n) != full {
		t.Errorf("a message that can't be kept: %v %v", n, err)
	}
	// A subscription whose state can't be kept is refused, too (RFC 6121 §3.1.2): nothing of it would be left.
	romeo.send("<presence to='tybalt@example.org' type='subscribe' id='asks'/>")
	if n, err := romeo.stanza(func(n node) bool {
		return n.attr("id") == "asks"
	}); err != nil || errorOf(n) != full {
		t.Errorf("a subscription that can't be kept: %v %v", n, err)
	}
	// A message that is archived is refused, and one that is not goes on.
	romeo.send("<message to='juliet@example.org' type='chat' id='archived'><body>archived</body></message>")
	if n, err := romeo.stanza(func(n node) bool {
		return n.attr("id") == "archived"
	}); err != nil || errorOf(n) != full {
		t.Errorf("a message that can't be archived: %v %v", n, err)
	}
	const noStore = "<no-store xmlns='urn:xmpp:hints'/>"
	romeo.send("<message to='juliet@example.org' type='chat'><body>live</body>" + noStore + "</message>")
	if _, err := juliet.stanza(body("live")); err != nil {
		t.Errorf("live chat on a full disk: %v", err)
	}
	nurse := p.login("example.org", "nurse", "x")
	nurse.send("<presence/>")
	romeo.send("<message to='nurse@example.org' type='chat'><body>hello</body>" + noStore + "</message>")
	if _, err := nurse.stanza(body("hello")); err != nil {
		t.Errorf("a client that logged in on a full disk: %v", err)
	}
	s.fails(exitFailed, `store is full: 1 MiB left in .*data, less than 512 MiB`, "user", "add",
		"tybalt@example.org")
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
	if _, err := nurse.stanza(func(n node) bool {
		return n.XMLName.Local == "message" && body("kept")(n)
	}); err != nil {
		t.Errorf("a message with room again: %v", err)
	}
	s.ok("user", "add", "tybalt@example.org", "--password", "x")
}

// nasty are names that a peer may give itself.
var nasty = []string{
	"romeo\nlevel=ERROR msg=\"forged\"",
	"romeo\r\n{\"level\":\"ERROR\"}",
	"\x1b[2J\x1b]0;title\x07",
	"\u009b31m and \u202egnp.exe and \u2028 and \u2029 and \x7f",
	"\xff\xfe\xc3",
	"%s%n%!d(MISSING)",
	"\x00",
	`a" b='c' \\ `,
	strings.Repeat("\u00e9\n", 1<<19),
	strings.Repeat("\x1b", 1<<20),
	"caf\u00e9",
}

type stringer string

func (s stringer) String() string { return string(s) }

// oneLine checks that b is one line of the log, without characters that a terminal could take for commands.
func oneLine(t *testing.T, b []byte, format string) {
	t.Helper()
	if bytes.Count(b, []byte("\n")) != 1 || b[len(b)-1] != '\n' {
		t.Errorf("not one line: %.300q", b)
		return
	}
	b = b[:len(b)-1]
	if !utf8.Valid(b) {
		t.Errorf("not UTF-8: %.300q", b)
	}
	if i := bytes.IndexFunc(b, func(r rune) bool { return !unicode.IsPrint(r) && r != utf8.RuneError }); i >= 0 {
		t.Errorf("not printable at %d: %.300q", i, b)
	}
	if format == "json" && !json.Valid(b) {
		t.Errorf("not JSON: %.300q", b)
	}
}

// Whatever name a peer has, the log has one line with it, quoted and truncated at 256 bytes.
func TestAttackK64(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		for _, n := range nasty {
			var b bytes.Buffer
			c := defaults()
			c.Log.Format = format
			newLog(c, &b).With("module", n).WithGroup("g").Warn(n, "jid", n, "err", errors.New(n), "s", stringer(n),
				"b", []byte(n), "any", []string{n}, slog.Group("inner", "x", n), "panic", any(n))
			oneLine(t, b.Bytes(), format)
			if most := 9 * (logValue*6 + 100); b.Len() > most { // \u00e9 is the longest way to write a byte or two
				t.Errorf("%s: %d bytes for %.20q", format, b.Len(), n)
			}
			if len(n) > 1000 && !strings.Contains(b.String(), fmt.Sprintf("... (%d bytes)", len(n))) {
				t.Errorf("%s: a long value was not cut: %.300q", format, b.Bytes())
			}
		}
		var b bytes.Buffer
		c := defaults()
		c.Log.Format = format
		newLog(c, &b).Warn("caf\u00e9", "n", 5, "d", time.Second, "ok", true)
		if !strings.Contains(b.String(), "caf\u00e9") || !strings.Contains(b.String(), "5") {
			t.Errorf("%s: what needs no quoting is quoted: %q", format, b.Bytes())
		}

		// The same on a server that logs all it can.
		s := newSite(t, "example.org")
		text, _ := os.ReadFile(s.path("canto.toml"))
		s.write("canto.toml", "log = { level = 'debug', format = '"+format+"' }\n"+string(text))
		s.ok("user", "add", "romeo@example.org", "--password", "x")
		p := s.serve()
		s.ok("reload")
		// a name that a handshake asks for is logged where there is no certificate
		os.Remove(s.path("example.org.crt"))
		for _, n := range nasty {
			if len(n) > 1000 {
				n = n[:1000]
			}
			if c, err := tls.Dial("tcp", p.direct, &tls.Config{ServerName: n, InsecureSkipVerify: true}); err == nil {
				c.Close()
				t.Errorf("a handshake without a certificate")
			}
		}
		p.says("no certificate for a handshake")
		s.certificate("example.org")
		s.ok("reload")
		for _, n := range nasty {
			c, err := connect(p.plain, "example.org", false)
			if err != nil {
				t.Fatal(err)
			}
			if len(n) > 1000 {
				c.send("<" + n)
			} else {
				c.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='" + n + "'>" + n +
					"</auth></stream:stream>")
			}
			c.ended()
			if c, err = connect(p.plain, n, true); err == nil { // TLS where a stream is to be opened first
				c.conn.Close()
			}
		}
		for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-1"} {
			for _, n := range nasty {
				if c, err := p.try("example.org", mechanism, n, n); err == nil {
					t.Errorf("%.20q logged in: %s", n, c.jid)
				}
			}
		}
		p.signal(syscall.SIGTERM)
		p.wait()
		for _, line := range strings.SplitAfter(p.log.String(), "\n") {
			if line != "" {
				oneLine(t, []byte(line), format)
				if !strings.Contains(line, "level=") && !strings.Contains(line, "\"level\":") {
					t.Errorf("not a line of the log: %.300q", line)
				}
			}
		}
	}
}

// series returns the names and labels of all series of a scrape.
func series(t *testing.T, s *program) (list []string) {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(&metrics.Collector{Reactor: s.Reactor, Router: s.Router, DB: s.DB})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += "{" + l.GetName() + "=" + l.GetValue() + "}"
			}
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// Peers can't choose labels: more clients with other names add no series.
func TestAttackK65(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.certificate("example.org")
	s.write("canto.toml", listen+"[limits]\nfailures_per_account = '0'\n"+hostSection("example.org"))
	s.ok("user", "add", "romeo@example.org", "--password", "x")
	p, _ := s.serveHere(nil)
	crowd := func(from, to int) {
		for i := from; i < to; i++ {
			if _, err := connect(p.plain, fmt.Sprintf("h%d.invalid", i), false); err != streamError("host-unknown") {
				t.Errorf("host %d: %v", i, err)
			}
			c, err := connect(p.direct, "example.org", true)
			if err != nil {
				t.Fatal(err)
			}
			c.send(fmt.Sprintf("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='MECHANISM-%d'>=</auth>", i))
			if n, err := c.next(); err != nil || !n.has("invalid-mechanism") {
				t.Errorf("mechanism %d: %v %v", i, n, err)
			}
			c.send(fmt.Sprintf("<wrong%d:x/>", i))
			c.ended()
			if _, err := p.try("example.org", "PLAIN", fmt.Sprintf("user%d", i), "x"); err == nil {
				t.Error("a client has logged in")
			}
			romeo, err := connect(p.plain, "example.org", false)
			if err == nil {
				err = romeo.auth("SCRAM-SHA-1", "romeo", "x")
			}
			if err == nil {
				err = romeo.bind(fmt.Sprintf("r%d", i))
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, to := range []string{"", fmt.Sprintf("to='d%d.invalid'", i),
				fmt.Sprintf("to='u%d@example.org'", i), fmt.Sprintf("to='u@d%d.invalid/r'", i)} {
				romeo.send(fmt.Sprintf("<iq type='get' id='i' %s><q xmlns='urn:x:%d'/></iq><message type='t%d' "+
					"%s><body/></message>", to, i, i, to))
			}
			romeo.send(fmt.Sprintf("<message type='error' to='romeo@example.org'><error type='e%d'><c%d "+
				"xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message><presence type='p%d'/><iq "+
				"type='q%d' id='x'/>", i, i, i, i))
			if _, err := romeo.iq("get", "<ping xmlns='urn:xmpp:ping'/>"); err != nil {
				t.Fatal(err)
			}
			romeo.send(fmt.Sprintf("<stream:error><c%d xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"+
				"</stream:error></stream:stream>", i))
			romeo.ended()
		}
	}
	crowd(0, 10)
	before := series(t, p.server)
	crowd(1000, 1040)
	after := series(t, p.server)
	if !slices.Equal(before, after) {
		t.Errorf("a crowd added series:\n%s\nto\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
	known := regexp.MustCompile(`^canto_[a-z_]+(\{(kind|direction|condition|limit|where|pool|work|part|by|result|outcome|reason)=[a-z_-]+\}|\{loop=\d+\})*$`)
	for _, n := range after {
		if !known.MatchString(n) {
			t.Errorf("a series with a label of no fixed set: %s", n)
		}
	}
	if len(after) < 30 {
		t.Errorf("only %d series: %v", len(after), after)
	}
}

// The debug port can't be opened on every address of the machine, only on a named one.
func TestAttackK108(t *testing.T) {
	t.Parallel()
	for _, a := range []string{":5290", "0.0.0.0:5290", "[::]:5290", "[::ffff:0.0.0.0]:5290"} {
		s := newSite(t, "example.org")
		s.write("canto.toml", strings.Replace(listen, "debug   = []", "debug = ['"+a+"']", 1)+
			hostSection("example.org"))
		s.fails(exitUsage, `canto.toml:7: debug on .* name the one address that is meant`, "serve")
		s.nothingMade()
	}
	for a, want := range map[string]bool{"127.0.0.1:5290": true, "192.0.2.1:5290": true,
		"[2001:db8::1]:5290": true} {
		c := defaults()
		c.Listen.Debug = []string{a}
		if err := c.check(); (err == nil) != want {
			t.Errorf("%s: %v", a, err)
		}
	}
}

// Only the owner may read the files that the server makes.
func TestAttackK109(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.write("canto.toml", listen)
	s.serve("--dev")
	for name, want := range map[string]os.FileMode{"": os.ModeDir | 0o700, "localhost.key": 0o600,
		"dev-accounts": 0o600, "admin.sock": os.ModeSocket | 0o600} {
		fi, err := os.Stat(s.path("data/" + name))
		if err != nil || fi.Mode() != want {
			t.Errorf("data/%s: %v %v, want %v", name, fi.Mode(), err, want)
		}
	}
	if r := s.canto("", "check", "config"); r.status != 0 {
		t.Errorf("check of a folder in order: %+v", r)
	}
	os.Chmod(s.data(), 0o755)
	if r := s.canto("", "check", "config"); r.status != exitFailed ||
		!strings.Contains(r.out, "BAD  data: others may look into data: chmod 700 data") {
		t.Errorf("check of a folder that others may read: %+v", r)
	}
	if os.Getuid() == 0 {
		s.certificate("example.org")
		s.write("canto.toml", listen+hostSection("example.org"))
		os.Chown(s.path("example.org.key"), 65534, -1)
		if r := s.canto("", "check", "tls"); r.status != exitFailed ||
			!strings.Contains(r.out, "BAD  tls: example.org.key belongs to user 65534") {
			t.Errorf("check of another's key: %+v", r)
		}
	}
}

// Rules that change during a login: once the command has returned, no client stays that the new rule
// excludes, however far its login was.
func TestAttackK69(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.certificate("example.org")
	s.write("canto.toml", listen+"[limits]\nfailures_per_account = '0'\n"+hostSection("example.org"))
	p, _ := s.serveHere(nil)
	s.ok("host", "add", "example.net")
	s.ok("user", "add", "romeo@example.org", "--password", "x0")
	s.ok("user", "add", "romeo@example.net", "--password", "x0")
	password := "x0"
	let := 0 // logins that went through before the rule
	for i := range 24 {
		host, undo := "example.org", []string(nil)
		var rule []string
		next := password
		switch i % 3 {
		case 0:
			rule, undo = []string{"user", "ban", "romeo@example.org"}, []string{"user", "unban", "romeo@example.org"}
		case 1:
			next = fmt.Sprint("x", i)
			rule = []string{"user", "passwd", "romeo@example.org", "--password", next}
		case 2:
			host = "example.net"
			rule, undo = []string{"host", "del", "example.net"}, []string{"host", "add", "example.net"}
		}
		old := password
		if host == "example.net" {
			old = "x0"
		}
		began := make(chan struct{})
		result := make(chan error, 1)
		go func() {
			close(began)
			c, err := p.try(host, "SCRAM-SHA-1", "romeo", old)
			if err == nil {
				let++
				err = c.ended()
			}
			result <- err
		}()
		<-began
		time.Sleep(rand.N(12 * time.Millisecond)) // somewhere amid the login
		s.ok(rule...)
		err := <-result // a session that stayed would run into the deadline
		var se streamError
		var sf saslFailure
		if !errors.As(err, &se) && !errors.As(err, &sf) {
			t.Errorf("%v: %v", rule, err)
		}
		if undo != nil {
			s.ok(undo...)
		}
		password = next
	}
	t.Logf("%d of 24 logins went through before the rule changed", let)
}

// A client with a TLS ticket from before a reload, or from before its host's certificate was renewed, can
// connect to either port and log in (attack T08).
func TestAttackT08Reload(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	s.ok("user", "add", "romeo@example.org", "--password", "x")
	p := s.serve()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cc := &tls.Config{ServerName: "example.org", InsecureSkipVerify: true, MaxVersion: version,
			ClientSessionCache: tls.NewLRUClientSessionCache(1)}
		login := func() bool {
			t.Helper()
			nc, err := tls.Dial("tcp", p.direct, cc)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			nc.SetDeadline(time.Now().Add(waitTimeout))
			c := &client{host: "example.org", conn: nc}
			if err := c.header(); err != nil {
				t.Fatal(err)
			}
			if err := c.auth("SCRAM-SHA-256-PLUS", "romeo", "x"); err != nil {
				t.Error(err)
			}
			return nc.ConnectionState().DidResume
		}
		if login() {
			t.Error("the first was resumed")
		}
		if !login() {
			t.Error("the second was not resumed")
		}
		s.ok("reload")
		login()
		s.certificate("example.org")
		s.ok("reload")
		login()
		if !login() {
			t.Error("nothing is resumed after a reload")
		}
	}
}
