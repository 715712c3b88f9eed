package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"canto/session/mod"
)

// serviceSection is one of a service host.
const serviceSection = "[host.\"rooms.example.org\"]\nservice = true\n"

// info asks to for disco#info (XEP-0030 §3.1) and returns the category of its identity and its features.
func (c *client) info(to string) (category string, features []string, err error) {
	if err := c.send("<iq type='get' id='info' to='" + to +
		"'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"); err != nil {
		return "", nil, err
	}
	n, err := c.stanza(func(n node) bool { return n.XMLName.Local == "iq" && n.attr("id") == "info" })
	if err == nil {
		err = errorOf(n)
	}
	q, _ := n.find("query")
	for _, e := range q.Nodes {
		switch e.XMLName.Local {
		case "identity":
			category = e.attr("category")
		case "feature":
			features = append(features, e.attr("var"))
		}
	}
	return category, features, err
}

// A service host is reached by the users of other hosts over their own streams. It has no logins and no
// accounts, and needs no certificate.
func TestServiceHost(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	s.write("canto.toml", listen+hostSection("example.org")+serviceSection)
	s.ok("user", "add", "romeo@example.org", "--password", "x")
	const refusal = `juliet@rooms.example.org: rooms.example.org is a service host, which has no accounts: name a host where users log in`
	s.fails(exitFailed, refusal, "user", "add", "juliet@rooms.example.org")

	p := s.serve()
	if !strings.Contains(p.ready, " hosts=2 ") {
		t.Errorf("the server says %q", p.ready)
	}
	romeo := p.login("example.org", "romeo", "x")
	category, features, err := romeo.info("rooms.example.org")
	want := []string{"http://jabber.org/protocol/disco#info", "http://jabber.org/protocol/disco#items",
		"jabber:iq:version",
		"urn:xmpp:ping", "urn:xmpp:time"}
	if err != nil || category != "component" || !slices.Equal(features, want) {
		t.Errorf("disco#info of the service host: %q %q, %v", category, features, err)
	}
	if category, _, err = romeo.info("example.org"); err != nil || category != "server" {
		t.Errorf("disco#info of the other host: %q, %v", category, err)
	}
	if _, err := connect(p.plain, "rooms.example.org", false); err != streamError("host-unknown") {
		t.Errorf("a stream to the service host: %v", err)
	}
	if got := handshake(t, p.direct, "rooms.example.org").DNSNames; !slices.Equal(got, []string{"example.org"}) {
		t.Errorf("a handshake that names the service host shows a certificate of %q", got)
	}

	if got := s.ok("host", "list"); got != "example.org\tfile\nrooms.example.org\tfile\tservice\n" {
		t.Errorf("canto host list: %q", got)
	}
	got := s.ok("modules", "--host", "rooms.example.org")
	loaded := regexp.MustCompile(`(?m)^  (\w+) +(\w+) `).FindAllStringSubmatch(got, -1)
	var list []string
	for _, m := range loaded {
		list = append(list, m[1]+" "+m[2])
	}
	if want := []string{"loaded store", "loaded disco", "loaded ping", "loaded version",
		"loaded entitytime"}; !slices.Equal(list, want) ||
		!strings.HasPrefix(got, "service host rooms.example.org\n") {
		t.Errorf("canto modules: %s", got)
	}
	for what, want := range map[string]string{
		"config": "ok   config: host example.org is fine\nok   config: service host rooms.example.org is fine\n",
		"tls":    "",
	} {
		if got := s.ok("check", what); want != "" && got != want || strings.Contains(got, "BAD") ||
			what == "tls" && strings.Contains(got, "rooms") {
			t.Errorf("canto check %s: %s", what, got)
		}
	}
	s.fails(exitFailed, refusal, "user", "add", "juliet@rooms.example.org")
	r := s.canto("nurse@example.org\tx\njuliet@rooms.example.org\tx\n", "user", "import", "-")
	refused(t, r, exitFailed, `standard input:2: `+refusal+`; nothing was imported`, "user", "import")
	s.fails(exitFailed, `rooms.example.org: the configuration file names it already`, "host", "add",
		"rooms.example.org")
}

// A key that a service host can't have is one line with the line of the key, the cause and a remedy, and
// nothing is made.
func TestServiceHostRefusals(t *testing.T) {
	for _, c := range []struct{ name, text, words string }{
		{"a certificate", "certificate = 'example.org.crt'\nkey = 'example.org.key'\n",
			`canto.toml:13: certificate: clients do not connect to a service host: take certificate out, or set service = false`},
		{"mechanisms", "sasl = ['PLAIN']\n",
			`canto.toml:13: sasl: users do not log in at a service host: take sasl out`},
		{"limits", "limits = { resources_per_account = 4 }\n",
			`canto.toml:13: limits: a host's own limits are those of logins, and users do not log in at a service host: take limits out`},
		{"a limit", "limits.failures_per_account = '1/m'\n",
			`canto.toml:13: limits: a host's own limits are those of logins`},
		{"an option for accounts", "module.offline.max_messages = 5\n",
			`canto.toml:13: the module offline is for accounts, and the service host rooms.example.org has none: take it out`},
		{"a module for accounts among plain names", "modules = ['disco', 'roster']\n",
			`canto.toml:13: the module roster is for accounts, .*; modules of a service host are store, disco, ping, version, entitytime\n`},
		{"an unknown module", "modules = ['+pnig']\n",
			`canto.toml:13: unknown module "pnig"; did you mean "ping"\?`},
		{"no truth", "", ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "example.org")
			text := listen + hostSection("example.org") + serviceSection + c.text
			if c.text == "" {
				text = strings.Replace(text, "service = true", "service = 'yes'", 1)
				c.words = `canto.toml:12: host.rooms.example.org.service is a TOML string, and true or false is wanted`
			}
			s.write("canto.toml", text)
			s.fails(exitUsage, c.words, "serve")
			s.nothingMade()
			if r := s.canto("", "check", "config"); r.status != exitUsage ||
				!regexp.MustCompile(c.words).MatchString(r.err) {
				t.Errorf("canto check config: %+v", r)
			}
		})
	}
}

// Each module runs at a service host, or is refused there in one line.
func TestServiceHostModules(t *testing.T) {
	t.Parallel()
	runs := []string{"store", "disco", "ping", "version", "entitytime"}
	s := newSite(t, "example.org")
	for _, m := range mod.All {
		s.write("canto.toml", listen+hostSection("example.org")+serviceSection+"modules = ['+"+m.Name+"']\n")
		if slices.Contains(runs, m.Name) {
			s.ok("check", "config")
			continue
		}
		s.fails(exitUsage, `canto.toml:13: the module `+m.Name+` is for accounts`, "check", "config")
	}
	s.write("canto.toml", listen+hostSection("example.org")+serviceSection+
		"modules = ['-disco', '-roster']\n[module.offline]\nmax_messages = 5\n")
	s.ok("check", "config")
}

// A reload adds a service host, gives it other modules and takes it away. Its role changes with a start
// only: that is one line, and nothing is changed.
func TestReloadServiceHost(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	s.ok("user", "add", "romeo@example.org", "--password", "x")
	p := s.serve()
	romeo := p.login("example.org", "romeo", "x")
	features := func() []string {
		t.Helper()
		_, list, err := romeo.info("rooms.example.org")
		if err != nil {
			t.Errorf("disco#info: %v", err)
		}
		return list
	}
	gone := func() {
		t.Helper()
		if _, _, err := romeo.info("rooms.example.org"); err != (stanzaError{"cancel", "remote-server-not-found"}) {
			t.Errorf("disco#info of a host that is not served: %v", err)
		}
	}
	login := listen + hostSection("example.org")
	gone()
	s.write("canto.toml", login+serviceSection)
	s.ok("reload")
	if !slices.Contains(features(), "urn:xmpp:ping") {
		t.Error("no pings at a service host that was added")
	}
	s.write("canto.toml", login+serviceSection+"modules = ['-ping']\n")
	s.ok("reload")
	if slices.Contains(features(), "urn:xmpp:ping") {
		t.Error("pings where the module was taken out")
	}

	// The other role, while it is served, and both ways.
	const kept = `host rooms.example.org has been a service host since canto was started: set service = true, or restart canto`
	s.write("canto.toml", login+strings.Replace(serviceSection, "true", "false", 1))
	s.fails(exitUsage, `canto.toml:12: `+kept, "reload")
	s.write("canto.toml", login+"[host.\"rooms.example.org\"]\n")
	s.fails(exitUsage, `canto.toml:11: `+kept, "reload")
	s.write("canto.toml", listen+"[host.\"example.org\"]\nservice = true\n"+
		strings.ReplaceAll(hostSection("other.example"), "other.example.", "example.org."))
	s.fails(exitUsage, `canto.toml:9: host example.org has been a host with logins since canto was started: remove service, or restart canto`, "reload")
	if slices.Contains(features(), "urn:xmpp:ping") {
		t.Error("a reload that was refused has changed the modules")
	}

	// And after it was taken away.
	s.write("canto.toml", login)
	s.ok("reload")
	gone()
	s.fails(exitFailed, `rooms.example.org has been a service host since canto was started: restart canto, and add it then`, "host", "add", "rooms.example.org")
	if got := s.ok("host", "list"); got != "example.org\tfile\n" {
		t.Errorf("a host that was refused is in the store: %q", got)
	}
	s.write("canto.toml", login+"[host.\"rooms.example.org\"]\n")
	s.fails(exitUsage, `canto.toml:11: `+kept, "reload")
	s.write("canto.toml", login+serviceSection)
	s.ok("reload")
	if !slices.Contains(features(), "urn:xmpp:ping") {
		t.Error("no pings at a service host that was added again")
	}

	// A start gives it the other role.
	s.write("canto.toml", login+"[host.\"rooms.example.org\"]\n")
	p.signal(syscall.SIGTERM)
	p.wait()
	s.ok("user", "add", "juliet@rooms.example.org", "--password", "x")
	s.serve().login("rooms.example.org", "juliet", "x")
}

// `serve --dev` makes accounts and certificates for hosts where users log in, and names one if there is none.
func TestDevServiceHost(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	s.write("canto.toml", listen+"[host.\"a.localhost\"]\nservice = true\n")
	p := s.serve("--dev")
	text, err := os.ReadFile(s.path("data/dev-accounts"))
	if err != nil || !strings.Contains(string(text), "account romeo@localhost password ") {
		t.Errorf("the accounts are %q, %v", text, err)
	}
	if _, err := os.Stat(s.path("data/a.localhost.crt")); !os.IsNotExist(err) {
		t.Errorf("a certificate for a service host: %v", err)
	}
	if _, err := connect(p.plain, "localhost", false); err != nil {
		t.Error(err)
	}
	s.write("canto.toml", listen+"[host.localhost]\nservice = true\n")
	const words = `canto.toml:9: no host has logins, and --dev can't add localhost, as it is a service host: give`
	s.fails(exitUsage, words, "reload")
	s = newSite(t, "example.org")
	s.write("canto.toml", listen+"[host.localhost]\nservice = true\n")
	s.fails(exitUsage, words, "serve", "--dev")
	s.nothingMade()
}

// A server whose hosts are all service hosts says that no user can log in.
func TestServiceHostsOnly(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	s.write("canto.toml", listen+serviceSection+"[c2s]\nrequire_tls = false\n")
	p := s.serve()
	p.says(`all hosts are service hosts, so no user can log in: add a section without service = true, or run canto host add`)
}
