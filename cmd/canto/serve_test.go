package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"canto/session"
	"canto/session/metrics"
	"canto/session/store"
)

// A mistake in the configuration is one line with file, line, cause and remedy, and nothing is made.
func TestServeRefusesConfiguration(t *testing.T) {
	certified := hostSection("example.org")
	for _, c := range []struct{ name, text, words string }{
		{"unknown key", "dta = 'x'\n", `^canto: canto.toml:1: unknown key "dta"; did you mean "data"\?`},
		{"a list of tables for one table", "[[listen]]\nc2s = []\n",
			`^canto: canto.toml:1: listen is one table: write \[listen\]`},
		{"unknown key in a section", listen + "\n[limits]\nstanzas = '1MiB'\n",
			`canto.toml:10: unknown key "limits.stanzas"; did you mean "stanza"\?`},
		{"unknown section", listen + "[hots.\"example.org\"]\ncertificate = 'x'\n",
			`canto.toml:8: unknown key "hots"; did you mean "host"\?`},
		{"unknown key of a host", listen + certified + "certifcate = 'x'\n",
			`canto.toml:11: unknown key "host.example.org.certifcate"; did you mean "certificate"\?`},
		{"bad size", "memory = 'much'\n", `canto.toml:1: .*"much" is not a size: write it like`},
		{"bad rate", "[limits]\nlogins_per_address = '5/y'\n",
			`canto.toml:2: .*"5/y" is not a rate: write it like`},
		{"bad flow", "[limits]\nrate = '5'\n", `canto.toml:2: .*"5" is not a rate of bytes: write it like`},
		{"bad duration", "[limits]\nlogin_timeout = 'soon'\n",
			`canto.toml:2: .*"soon" is not a duration: write it like`},
		{"bad prefix", "[limits]\nexempt = ['all']\n", `canto.toml:2: .*all`},
		{"wrong type", "data = 5\n", `canto.toml:1: data is a TOML integer, and a string is wanted`},
		{"wrong type of a limit", "[limits]\nconnections = 'many'\n",
			`canto.toml:2: limits.connections is a TOML string, and a number is wanted`},
		// Each has the line and the full name of its key, in a section of its own or in braces.
		{"unknown key in braces", "\nlog = { levl = 'x' }\n",
			`canto.toml:2: unknown key "log.levl"; did you mean "level"\?`},
		{"unknown key of c2s in braces", "c2s = { foo = 1 }\n",
			`canto.toml:1: unknown key "c2s.foo"; known here: compact_tls, require_tls, tls_versions`},
		{"unknown key of a host's limits", listen + certified + "limits = { foo = 1 }\n",
			`canto.toml:11: unknown key "host.example.org.limits.foo"; known here: .*failures_per_account`},
		{"a table for a rate", "[limits]\n\nrate = { a = 1 }\n",
			`canto.toml:3: limits.rate is a TOML table, and a string is wanted`},
		{"a section for a rate", "[limits.rate]\na = 1\n",
			`canto.toml:1: limits.rate is a TOML table, and a string is wanted`},
		{"a number for logins", "[limits]\nlogins_per_address = 5\n",
			`canto.toml:2: limits.logins_per_address is a TOML integer, and a string is wanted`},
		{"a number for a rate", "[limits]\nrate = 5\n",
			`canto.toml:2: limits.rate is a TOML integer, and a string is wanted`},
		{"a number for an address", "[limits]\nexempt = [1]\n",
			`canto.toml:2: limits.exempt has a TOML integer, and each of the list must be a string`},
		{"a list for an address", "[limits]\nexempt = [['a']]\n",
			`canto.toml:2: limits.exempt has a TOML array, and each of the list must be a string`},
		{"a truth for a size", "[limits]\nstanza = true\n",
			`canto.toml:2: limits.stanza is a TOML boolean, and a string is wanted`},
		{"a fraction for a number", "[limits]\nconnections = 1.5\n",
			`canto.toml:2: limits.connections is a TOML float, and a number is wanted`},
		{"a number for a duration", "[limits]\nlogin_timeout = 30\n",
			`canto.toml:2: limits.login_timeout is a TOML integer, and a string is wanted`},
		{"bad rate of a host", listen + certified + "limits = { failures_per_account = '0/m' }\n",
			`canto.toml:11: host.example.org.limits.failures_per_account: "0/m" is not a rate`},
		{"a number for a host", "[host]\n\"a.com\" = 1\n",
			`canto.toml:2: host.a.com is a TOML integer, and a table is wanted`},
		{"a table for a number", "node = { x = 1 }\n",
			`canto.toml:1: node is a TOML table, and a number is wanted`},
		{"a list of tables for a section", "[[log]]\nlevel = 'info'\n", `canto.toml:1: `},
		{"a number beyond the counter", "node = 99999999999999999999\n", `canto.toml:1: .*node`},
		{"a name that is like no other", "nope = 1\n", `canto.toml:1: unknown key "nope"; did you mean "node"`},
		{"a word that is like no other", "[limits]\nnope = 1\n",
			`canto.toml:2: unknown key "limits.nope"; known here: `},
		{"a name without an end", strings.Repeat("x", 2000) + " = 1\n",
			`^canto: canto.toml:1: unknown key "x{200}\.\.\."; known here: [^x]*$`},
		{"a list for a module's number", listen + certified + "[module]\noffline = { max_messages = [1] }\n",
			`canto.toml:12: module.offline.max_messages is a TOML array, and a number is wanted`},
		{"not TOML", "data = 'x'\n[listen\nc2s = []\n",
			`canto.toml:2: this is not TOML: .*: text stands in quotes`},
		{"text without quotes", "data = canto\n", `canto.toml:1: this is not TOML: .*: text stands in quotes`},
		{"no mechanisms", listen + certified + "sasl = []\n",
			`canto.toml:11: sasl is empty, and there would be no way to log in at example.org: name mechanisms`},
		{"a key twice", "data = 'x'\ndata = 'y'\n", `canto.toml:2: .*data`},
		{"bad level", "log = { level = 'loud' }\n", `canto.toml:1: log level "loud": it is debug, info`},
		{"bad level in a section", "\n[log]\nlevel = 'loud'\n",
			`canto.toml:3: log level "loud": it is debug, info`},
		{"bad format", "log = { format = 'xml' }\n", `canto.toml:1: log format "xml": it is text or json`},
		{"bad node", "node = 5000\n", `canto.toml:1: node is from 0 to 1023`},
		{"bad address", "[listen]\nc2s = ['everywhere']\n",
			`canto.toml:2: "everywhere" is not an address: write it like`},
		{"bad address without a host", "[listen]\nc2s = [':xmpp?']\n",
			`canto.toml:2: ":xmpp\?" is not an address: write it like`},
		{"debug on every address", "[listen]\ndebug = [':5290']\n",
			`canto.toml:2: debug on ":5290" .*: name the one address`},
		{"bad domain", listen + "[host.\"a b\"]\n", `canto.toml:8: "a b" is not a domain in its canonical form`},
		{"an account as a domain", listen + "[host.\"a@b\"]\n",
			`canto.toml:8: "a@b" is not a domain in its canonical form`},
		{"certificate without a key", listen + "[host.\"example.org\"]\ncertificate = 'example.org.crt'\n",
			`canto.toml:9: certificate and key go together`},
		{"key without a certificate", listen + "[host.\"example.org\"]\nkey = 'example.org.key'\n",
			`canto.toml:9: certificate and key go together`},
		{"unknown module", listen + certified + "modules = ['+pnig']\n",
			`canto.toml:11: unknown module "pnig"; did you mean "ping"\?`},
		{"unknown mechanism", listen + certified + "sasl = ['SCRAM-SHA-257']\n",
			`canto.toml:11: unknown SASL mechanism "SCRAM-SHA-257"; did you mean "SCRAM-SHA-256"\?`},
		{"no version of TLS", listen + "[c2s]\ntls_versions = []\n",
			`canto.toml:9: tls_versions is empty: name "1.2", "1.3", or both`},
		{"unknown version of TLS", listen + "[c2s]\ntls_versions = ['1.3', '1.1']\n",
			`canto.toml:9: tls_versions has "1.1": the versions are "1.2" and "1.3"`},
		{"no mechanism", listen + certified + "sasl = []\n",
			`canto.toml:11: sasl is empty, and there would be no way to log in at example.org: name mechanisms \(PLAIN, .*SCRAM-SHA-512-PLUS\), or leave sasl out`},
		{"unknown -PLUS form", listen + certified + "sasl = ['SCRAM-SHA-256', 'SCRAM-SHA-1-PLSU']\n",
			`canto.toml:11: unknown SASL mechanism "SCRAM-SHA-1-PLSU"; did you mean "SCRAM-SHA-1-PLUS"\?`},
		{"mechanism in lower case", listen + certified + "sasl = ['plain']\n",
			`canto.toml:11: unknown SASL mechanism "plain"; `},
		{"mechanisms that are no list", listen + certified + "sasl = 'PLAIN'\n",
			`canto.toml:11: .*sasl is a TOML string, and a list is wanted`},
		{"unknown key of a module", listen + certified + "[module.offline]\nmax_mesages = 1\n",
			`canto.toml:12: unknown key "module.offline.max_mesages"; did you mean "max_messages"\?`},
		{"unknown key of a host's module", listen + certified + "module.offline.max_mesages = 1\n",
			`canto.toml:11: unknown key "host.example.org.module.offline.max_mesages"; did you mean "max_messages"\?`},
		{"section of an unknown module", listen + certified + "[module.oflline]\nmax_messages = 1\n",
			`canto.toml:11: unknown module "oflline"; did you mean "offline"\?`},
		{"an option of a module without options", listen + certified + "[module.ping]\nx = 1\n",
			`canto.toml:12: unknown key "module.ping.x": the module ping has no options`},
		{"an option of a host's module without options", listen + certified + "module.ping.x = 1\n",
			`canto.toml:11: unknown key "host.example.org.module.ping.x": the module ping has no options`},
		{"registrations of less than none, which no host takes", listen + certified +
			"[module.register]\nper_address = -1\n", `canto.toml:12: module.register.per_address: -1: write 0`},
		{"unknown key of a module that no host runs", listen + certified + "[module.register]\nper_adress = 1\n",
			`canto.toml:12: unknown key "module.register.per_adress"; did you mean "per_address"`},
		{"an option of a module that the host leaves out", listen + certified +
			"modules = ['-vcard']\nmodule.vcard.max_bytes = 'x'\n",
			`canto.toml:12: host.example.org.module.vcard.max_bytes is a TOML string`},
		{"a roster for nothing", listen + certified + "[module.roster]\nmax_items = 0\n",
			`canto.toml:12: module.roster.max_items: 0: write 1 to`},
		{"a roster without bytes", listen + certified + "[module.roster]\nmax_bytes = 1000\n",
			`canto.toml:12: module.roster.max_bytes: 1000: write 65536 to`},
		{"private without bytes", listen + certified + "[module.private]\nmax_total_bytes = -1\n",
			`canto.toml:12: module.private.max_total_bytes: -1: write 1024 to`},
		{"bad value of a module", listen + certified + "[module.offline]\nmax_messages = 'many'\n",
			`canto.toml:12: module.offline.max_messages is a TOML string, and a number is wanted`},
		// A value is used or refused: each of these would lock peers out, or is none. RFC 6120 §13.12 has the least
		// stanza.
		{"stanza below the RFC's", "[limits]\nstanza = '9999B'\n",
			`canto.toml:2: limits.stanza: 9999 bytes: write 10000 bytes \(RFC 6120 §13.12`},
		{"stanza of nothing", "[limits]\nstanza = '0'\n", `canto.toml:2: limits.stanza: 0 bytes: write 10000`},
		{"stanza beyond the outbox", "[limits]\nstanza = '2MiB'\n",
			`canto.toml:2: limits.outbox: 1048576 bytes: write 2064KiB`},
		{"stanza without a bound", "[limits]\nstanza = '1GiB'\n", `canto.toml:2: limits.stanza: .* to 16MiB`},
		{"outbox below a stanza", "[limits]\noutbox = '200KiB'\n",
			`canto.toml:2: limits.outbox: 204800 bytes: write 272KiB`},
		{"outbox of nothing", "[limits]\noutbox = '0'\n", `canto.toml:2: limits.outbox: 0 bytes: write 272KiB`},
		{"outbox without a bound", "[limits]\noutbox = '2GiB'\n", `canto.toml:2: limits.outbox: .* to 1GiB`},
		{"rate of a byte", "[limits]\nrate = '1B/s'\n",
			`canto.toml:2: limits.rate: 1 bytes a second: write 4KiB/s`},
		{"rate beyond the counter", "[limits]\nrate = '2GiB/s'\n", `canto.toml:2: limits.rate: .* to 1GiB/s`},
		{"burst below the rate", "[limits]\nrate = '256KiB/s, burst 64KiB'\n",
			`canto.toml:2: limits.rate: a burst of 65536 bytes: write one that is what a second has, 256KiB`},
		{"burst beyond the counter", "[limits]\nrate = '256KiB/s, burst 4GiB'\n",
			`canto.toml:2: limits.rate: a burst of .* to 1GiB`},
		{"negative rate", "[limits]\nrate = '-1KiB/s'\n",
			`canto.toml:2: limits.rate: "-1KiB/s" is not a rate of bytes`},
		{"login timeout of a millisecond", "[limits]\nlogin_timeout = '1ms'\n",
			`canto.toml:2: limits.login_timeout: 1ms: write 5s`},
		{"no login timeout", "[limits]\nlogin_timeout = '0s'\n",
			`canto.toml:2: limits.login_timeout: 0s: write 5s`},
		{"login timeout of a day", "[limits]\nlogin_timeout = '24h'\n",
			`canto.toml:2: limits.login_timeout: .* to 10m`},
		{"negative duration", "[limits]\nlogin_timeout = '-5s'\n",
			`canto.toml:2: limits.login_timeout: "-5s" is not a duration`},
		{"negative connections", "[limits]\nconnections = -1\n",
			`canto.toml:2: limits.connections: -1 is less than none: write 1 or more, or 0`},
		{"negative connections of an address", "[limits]\nper_address = -1\n",
			`canto.toml:2: limits.per_address: -1 is less than none`},
		{"negative resources", "[limits]\nresources_per_account = -1\n",
			`canto.toml:2: limits.resources_per_account: -1 is less than none`},
		{"negative resources of a host", listen + certified + "limits = { resources_per_account = -1 }\n",
			`canto.toml:11: host.example.org.limits.resources_per_account: -1 is less than none`},
		{"no logins", "[limits]\nlogins_per_address = '0/s'\n",
			`canto.toml:2: limits.logins_per_address: "0/s" is not a rate: .*0 alone is no limit`},
		{"one login an hour", "[limits]\nlogins_per_address = '1/h'\n",
			`canto.toml:2: limits.logins_per_address: 1 in 1h0m0s keeps clients out .*: write 1/m`},
		{"negative failures", "[limits]\nfailures_per_account = '-5/m'\n",
			`canto.toml:2: limits.failures_per_account: "-5/m" is not a rate`},
		{"failures beyond the counter", "[limits]\nfailures_per_address = '5000000000/s'\n",
			`canto.toml:2: limits.failures_per_address: .* is not a rate: .*1 to 1000000`},
		{"a limit that is no host's own", listen + certified + "limits = { stanza = '1MiB' }\n",
			`canto.toml:11: limits.stanza holds for all hosts: write it under \[limits\]; a host's own are exempt,`},
		{"an exempt name", "[limits]\nexempt = [\n  '127.0.0.1',\n  'localhost',\n]\n",
			`canto.toml:4: limits.exempt: "localhost" is not an address or a range of addresses: write it like 192.0.2.7`},
		{"memory below the store's", "memory = '64MiB'\n", `canto.toml:1: memory: 67108864 bytes: write 512MiB`},
		{"memory beyond the counter", "memory = 9223372036854775807\n",
			`canto.toml:1: memory: 9223372036854775807 bytes: write 512MiB .* to 1024GiB`},
		{"negative memory", "memory = '-1GiB'\n", `canto.toml:1: memory: "-1GiB" is not a size`},
		{"negative node", "node = -1\n", `canto.toml:1: node is from 0 to 1023`},
		{"data of no name", "data = ''\n", `canto.toml:1: data is empty: name the folder`},
		{"one port twice", "[listen]\nhttp = ['127.0.0.1:5222']\n",
			`canto.toml:2: "127.0.0.1:5222" stands under c2s, too: one address is shared by`},
		{"no messages kept", listen + certified + "[module.offline]\nmax_messages = -1\n",
			`canto.toml:12: module.offline.max_messages: -1: write 1 to 1000000; to keep none, modules = \["-offline"\]`},
		{"no bytes kept", listen + certified + "module.offline.max_bytes = 0\n",
			`canto.toml:11: host.example.org.module.offline.max_bytes: 0: write 1024`},
		{"a roster of less than none", listen + certified + "[module.roster]\nmax_items = -5\n",
			`canto.toml:12: module.roster.max_items: -5: write 1 to`},
		{"private of nothing", listen + certified + "[module.private]\nmax_bytes = 0\n",
			`canto.toml:12: module.private.max_bytes: 0: write 1024`},
		{"private elements of less than none", listen + certified + "[module.private]\nmax_elements = -1\n",
			`canto.toml:12: module.private.max_elements: -1: write 1`},
		{"a vCard of nothing", listen + certified + "[module.vcard]\nmax_bytes = 0\n",
			`canto.toml:12: module.vcard.max_bytes: 0: write 1024`},
		{"registrations of less than none", listen + certified +
			"modules = ['+register']\n[module.register]\nper_address = -1\n",
			`canto.toml:13: module.register.per_address: -1: write 0 to 1000000 in an hour; 0 is no limit`},
		{"a reserved name that is none", listen + certified +
			"modules = ['+register']\n[module.register]\nreserved = ['ad min']\n",
			`canto.toml:13: module.register.reserved: "ad min" is no name that an account could have: write it like admin`},
		{"a conflict of another kind", listen + certified + "[module.bind]\nconflict = 'fight'\n",
			`canto.toml:12: module.bind.conflict: "fight": it is kick, refuse or rename`},
		{"a contact that is no URI", listen + certified +
			"modules = ['+contact']\n[module.contact]\nabuse = ['abuse@example.org']\n",
			`canto.toml:13: module.contact.abuse: "abuse@example.org" is no URI: write it like mailto:`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "example.org")
			s.write("canto.toml", c.text)
			s.fails(exitUsage, c.words, "serve")
			s.nothingMade()
			if r := s.canto("", "check", "config"); r.status != exitUsage ||
				!regexp.MustCompile(strings.TrimPrefix(c.words, "^canto: ")).MatchString(r.out+r.err) {
				t.Errorf("canto check config: %+v", r)
			}
		})
	}
}

// -PLUS forms are offered under TLS only: with no certificate a list of nothing else lets no client in.
func TestServeRefusesPlusWithoutTLS(t *testing.T) {
	s := newSite(t, "example.org")
	const open = "[c2s]\nrequire_tls = false\n[host.\"example.org\"]\n"
	s.write("canto.toml", listen+open+"sasl = ['SCRAM-SHA-1-PLUS']\n")
	s.fails(exitUsage, `canto.toml:11: sasl names -PLUS forms only, .*: name certificate and key, or another mechanism`, "serve")
	s.nothingMade()
}

// The smallest and the largest value of each limit are accepted, and a single address in exempt.
func TestServeTakesLeastAndMost(t *testing.T) {
	t.Parallel()
	for _, limits := range []string{
		"stanza = '10000B'\nrate = '4KiB/s, burst 4KiB'\noutbox = '256KiB'\nlogin_timeout = " +
			"'5s'\nconnections = 16\nper_address = 1\nlogins_per_address = '1/m'\nresources_per_account = " +
			"1\nexempt = ['127.0.0.1', '::1', '::ffff:10.0.0.0/104']\n",
		"stanza = '16MiB'\nrate = '1GiB/s'\noutbox = '1GiB'\nlogin_timeout = '10m'\nlogins_per_address = " +
			"'1000000/s'\nexempt = []\n",
		"rate = '0'\nconnections = 0\nper_address = 0\nresources_per_account = 0\nlogins_per_address = " +
			"'0'\nfailures_per_address = '0'\nfailures_per_account = '0'\n",
	} {
		s := newSite(t, "example.org")
		s.write("canto.toml", listen+hostSection("example.org")+"[limits]\n"+limits)
		s.ok("user", "add", "romeo@example.org", "--password", "x")
		p := s.serve()
		p.login("example.org", "romeo", "x")
		p.signal(syscall.SIGTERM)
		p.wait()
	}
}

// A configuration that serve refuses, reload refuses, too; the limits in effect stay. Keys that need a
// restart are named.
func TestReloadRefusesLimits(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	p := s.serve()
	before, err := os.ReadFile(s.path("canto.toml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ text, words string }{
		{"[limits]\nstanza = '100B'\n", `canto.toml:12: limits.stanza: 100 bytes: write 10000`},
		{"[module.offline]\nmax_messages = -1\n", `canto.toml:12: module.offline.max_messages: -1: write 1`},
	} {
		s.write("canto.toml", string(before)+c.text)
		s.fails(exitUsage, c.words, "reload")
	}
	s.write("canto.toml", string(before)+"[limits]\noutbox = '2MiB'\nconnections = 100\n")
	if out := s.ok("reload"); !strings.Contains(out,
		"limits.connections: changed, and takes effect at the next start") ||
		!strings.Contains(out, "limits.outbox: changed") {
		t.Errorf("reload says %q", out)
	}
	p.signal(syscall.SIGTERM)
	p.wait()
}

// limits.stanza takes effect only if it fits the outbox with which the server has started; another outbox
// takes effect at the next start.
func TestReloadRefusesStanzaBeyondOutbox(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	p := s.serveHereOnly()
	before, err := os.ReadFile(s.path("canto.toml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("canto.toml", string(before)+"[limits]\noutbox = '16MiB'\nstanza = '8MiB'\n")
	s.fails(exitUsage, `canto.toml:13: limits.stanza: 8388608 bytes: .*limits.outbox is 1048576 bytes.*restart canto`, "reload")
	if lim := p.server.Router.Limits(); lim.Stanza != session.DefaultLimits().Stanza {
		t.Errorf("stanzas may have %d bytes", lim.Stanza)
	}
	s.write("canto.toml", string(before)+"[limits]\noutbox = '16MiB'\nstanza = '512KiB'\n")
	if out := s.ok("reload"); !strings.Contains(out, "limits.outbox: changed") {
		t.Errorf("reload says %q", out)
	}
}

// A key that takes effect at the next start leaves the profiles as they are, with the accounts that they hold
// in memory.
func TestReloadKeepsProfiles(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	p := s.serveHereOnly()
	host, _ := p.server.Router.Table.Host("example.org")
	before := host.Profile()
	text, err := os.ReadFile(s.path("canto.toml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("canto.toml", string(text)+"[c2s]\ncompact_tls = false\ntls_versions = ['1.3']\n")
	s.ok("reload")
	if host.Profile() != before {
		t.Error("the host has another profile")
	}
}

// serveHereOnly is a server in this process that the test's end ends.
func (s *site) serveHereOnly() *process {
	p, _ := s.serveHere(nil)
	return p
}

// Another data folder in the file takes effect at the next start, unless the command line names it.
func TestReloadSaysData(t *testing.T) {
	t.Parallel()
	for _, given := range []bool{false, true} {
		s := newSite(t, "example.org")
		before, err := os.ReadFile(s.path("canto.toml"))
		if err != nil {
			t.Fatal(err)
		}
		s.write("canto.toml", "data = \"data\"\n"+string(before))
		cmd := exec.Command(os.Args[0], "serve", "--config", "canto.toml")
		if given {
			cmd.Args = append(cmd.Args, "--data", "data")
		}
		cmd.Dir, cmd.Env = s.dir, append(os.Environ(), asCanto+"=1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		until(t, "it answers", func() bool { return s.canto("", "bytes").status == 0 })
		s.write("canto.toml", "data = \"other\"\n"+string(before))
		if out := s.ok("reload"); strings.Contains(out,
			"data: changed, and takes effect at the next start") == given {
			t.Errorf("--data given %v: reload says %q", given, out)
		}
	}
}

// A bound on connections that exceeds the descriptors is logged when the server starts.
func TestServeSaysConnections(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	text, err := os.ReadFile(s.path("canto.toml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("canto.toml", string(text)+"[limits]\nconnections = 2000000000\n")
	s.serveHereOnly().says("limits.connections is more than there are descriptors " +
		"for.*configured=2000000000 connections=")
}

// A port that can't be opened is one line with the key's line and what to do.
func TestServeRefusesPort(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	ports := func(c2s string) {
		s.write("canto.toml", strings.Replace(listen, "127.0.0.1:0", c2s, 1)+hostSection("example.org"))
	}
	ports("192.0.2.1:5222")
	s.fails(exitFailed, `canto.toml:3: listen tcp 192.0.2.1:5222: .*: this machine does not have that address: change \[listen\]`, "serve")
	first, _ := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if os.Geteuid() == 0 && strings.TrimSpace(string(first)) == "1024" {
		ports("127.0.0.1:7")
		s.unprivileged()
		refused(t, finish(t, s.command("serve"), ""), exitFailed,
			`canto.toml:3: .*permission denied: a port below 1024 is root's: set AmbientCapabilities=CAP_NET_BIND_SERVICE`, "serve")
	}
}

// nothingMade checks that there is no data folder.
func (s *site) nothingMade() {
	s.t.Helper()
	if _, err := os.Lstat(s.data()); !errors.Is(err, os.ErrNotExist) {
		s.t.Errorf("there is a data folder (%v)", err)
	}
}

func TestServeRefusesCertificate(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(s *site)
		words string
	}{
		{"no certificate file", func(s *site) {
			os.Remove(s.path("example.org.crt"))
		}, `canto.toml:9: example.org.crt: .*no such file.*: check certificate and key`},
		{"no key file", func(s *site) {
			os.Remove(s.path("example.org.key"))
		}, `canto.toml:9: example.org.crt: .*example.org.key: no such file.*: check certificate and key`},
		{"not a certificate", func(s *site) {
			s.write("example.org.crt", "hello\n")
		}, `canto.toml:9: example.org.crt: .*PEM.*: check certificate and key`},
		{"half a certificate", func(s *site) {
			b, _ := os.ReadFile(s.path("example.org.crt"))
			s.write("example.org.crt", string(b[:len(b)/2]))
		}, `canto.toml:9: example.org.crt: .*: check certificate and key`},
		{"another's key", func(s *site) {
			s.certificate("example.net")
			os.Rename(s.path("example.net.key"), s.path("example.org.key"))
		}, `canto.toml:9: example.org.crt: .*private key does not match public key.*: check certificate and key`},
		{"a key that others may read", func(s *site) {
			os.Chmod(s.path("example.org.key"), 0o640)
		}, `canto.toml:9: example.org.key: others may read the key: chmod 600 example.org.key`},
		{"no certificate at all", func(s *site) {
			s.write("canto.toml", listen+"[host.\"example.org\"]\n")
		}, `canto.toml: no host has a certificate.*name certificate and key`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "example.org")
			c.spoil(s)
			s.fails(exitUsage, c.words, "serve")
			s.nothingMade()
		})
	}
}

func TestServeWithoutFile(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	os.Remove(s.path("canto.toml"))
	s.fails(exitUsage, `^canto: canto.toml: no such file or directory: name a file that you may read with --config`, "serve")
	cmd := s.command("serve")
	cmd.Args = []string{cmd.Args[0], "serve"}
	refused(t, finish(t, cmd, ""), exitUsage, `no configuration: name a file with --config, or start with --dev`)
	s.nothingMade()
}

// With a port in use nothing is made, and the server starts once it has another.
func TestServeTakenPort(t *testing.T) {
	for _, key := range []string{"c2s", "c2s_tls", "http", "https", "debug"} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "example.org")
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			good, _ := os.ReadFile(s.path("canto.toml"))
			bad := strings.Split(string(good), "\n")
			for i, l := range bad {
				if strings.HasPrefix(l, key+" ") {
					bad[i] = fmt.Sprintf("%s = [%q]", key, ln.Addr())
				}
			}
			s.write("canto.toml", strings.Join(bad, "\n"))
			s.fails(exitInUse, ln.Addr().String()+": .*address already in use: stop the program that uses it, "+
				"or change \\[listen\\]", "serve")
			s.nothingMade()
			s.write("canto.toml", string(good))
			s.serve()
		})
	}
}

func TestServeTakenFolder(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	p := s.serve()
	s.fails(exitInUse, `store is locked: data is in use by another process .*: stop it`, "serve")
	if out := s.ok("user", "list"); out != "" { // the first one goes on
		t.Errorf("user list: %q", out)
	}
	p.signal(syscall.SIGTERM)
	if n := p.wait(); n != 0 {
		t.Errorf("status %d: %s", n, p.log)
	}
	s.serve()
}

// A command beside a server without an admin socket finds the folder locked.
func TestCommandTakenFolder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.certificate("example.org")
	s.write("canto.toml", listen+"admin = ''\n"+hostSection("example.org"))
	s.serve()
	s.fails(exitInUse, `store is locked: data is in use by another process`, "user", "add", "romeo@example.org")
}

func TestServeOtherFormat(t *testing.T) {
	t.Run("newer", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, "example.org")
		s.ok("user", "add", "romeo@example.org", "--password", "x")
		p, err := pebble.Open(s.data(), &pebble.Options{FormatMajorVersion: pebble.FormatFlushableIngestExcises,
			Logger: quiet{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Set([]byte("\x00format"), []byte{0, 0, 0, 0, 0, 0, 0, 200}, pebble.Sync); err != nil {
			t.Fatal(err)
		}
		p.Close()
		s.fails(exitFormat, `store format is not supported: data has version 200, this program knows \d+: use the newer program`, "serve")
		s.fails(exitFormat, `store format is not supported: data has version 200`, "user", "list")
		s.fails(exitFormat, `store format is not supported: data has version 200`, "user", "add",
			"juliet@example.org")
	})
	t.Run("of another program", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, "example.org")
		p, err := pebble.Open(s.data(), &pebble.Options{FormatMajorVersion: pebble.FormatFlushableIngestExcises,
			Logger: quiet{}})
		if err != nil {
			t.Fatal(err)
		}
		p.Set([]byte("k"), []byte("v"), pebble.Sync)
		p.Close()
		s.fails(exitFormat, `data holds rows without a version: it is not a store of this program`, "serve")
	})
	t.Run("of a newer Pebble", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, "example.org")
		s.ok("user", "add", "romeo@example.org", "--password", "x")
		if n := renameMarker(t, s.data()); n == 0 {
			t.Fatal("no marker of Pebble's format")
		}
		s.fails(exitFormat, `store format is not supported: data: `, "serve")
	})
}

// renameMarker raises the version in the name of Pebble's marker file.
func renameMarker(t *testing.T, dir string) (n int) {
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), "marker.format-version.") {
			i := strings.LastIndexByte(e.Name(), '.')
			if err := os.Rename(dir+"/"+e.Name(), dir+"/"+e.Name()[:i]+".999"); err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	return n
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(string, ...any) {}

// A host may not be in the file and in the store.
func TestServeHostTwice(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	db, err := store.Open(store.Options{Dir: s.data()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Hosts().Add(context.Background(), "example.org"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	s.fails(exitUsage, `canto.toml:8: host example.org is in the configuration and in the store: take it out of one of them \(canto host del example.org\)`, "serve")
	s.ok("host", "del", "example.org")
	s.serve()
}

// handshake returns the certificate that addr presents for the server_name name.
func handshake(t *testing.T, addr, name string) *x509.Certificate {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

// afterStartTLS returns the same after STARTTLS.
func afterStartTLS(t *testing.T, addr, host string) *x509.Certificate {
	t.Helper()
	c, err := connect(addr, host, false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.conn.Close()
	return c.conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
}

// c2s.tls_versions applies to STARTTLS and direct TLS, from the start on.
func TestTLSVersions(t *testing.T) {
	t.Parallel()
	versions := []uint16{tls.VersionTLS12, tls.VersionTLS13}
	for list, only := range map[string]uint16{"'1.2'": tls.VersionTLS12, "'1.3'": tls.VersionTLS13,
		"'1.3', '1.2'": 0} {
		s := newSite(t, "example.org")
		text := listen + hostSection("example.org") + "[c2s]\ntls_versions = ["
		s.write("canto.toml", text+list+"]\n")
		p := s.serve()
		for _, v := range versions {
			c, err := tls.Dial("tcp", p.direct, &tls.Config{InsecureSkipVerify: true, MinVersion: v, MaxVersion: v})
			if (err == nil) != (only == 0 || only == v) {
				t.Errorf("[%s], a client with %s: %v", list, tls.VersionName(v), err)
			}
			if err == nil {
				c.Close()
			}
		}
		c, err := connect(p.plain, "example.org", false)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.conn.(*tls.Conn).ConnectionState().Version; only != 0 && got != only {
			t.Errorf("[%s]: STARTTLS is %s", list, tls.VersionName(got))
		}
		c.conn.Close()
		if only == tls.VersionTLS12 {
			s.write("canto.toml", text+"'1.3']\n")
			if got := s.ok("reload"); got != "c2s.tls_versions: changed, and takes effect at the next start\n" {
				t.Errorf("reload: %q", got)
			}
			if c, err := connect(p.plain, "example.org", false); err != nil {
				t.Error(err)
			} else if c.conn.(*tls.Conn).ConnectionState().Version != only {
				t.Error("a reload has changed the version")
			}
		}
	}
}

// Each host has its own certificate; a changed one is used from the reload on, and connections stay.
func TestReloadCertificate(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.net", "example.org")
	s.ok("user", "add", "romeo@example.org", "--password", "x")
	p := s.serve()
	romeo := p.login("example.org", "romeo", "x")
	serials := map[string]string{}
	look := func() {
		t.Helper()
		for _, h := range []string{"example.org", "example.net"} {
			for how, c := range map[string]*x509.Certificate{"TLS": handshake(t, p.direct, h),
				"STARTTLS": afterStartTLS(t, p.plain, h)} {
				if c.Subject.CommonName != h {
					t.Errorf("%s for %s shows the certificate of %s", how, h, c.Subject.CommonName)
				}
				if n := c.SerialNumber.String(); serials[h] == "" {
					serials[h] = n
				} else if serials[h] != n {
					t.Errorf("%s for %s shows another certificate than before", how, h)
				}
			}
		}
	}
	look()
	before := serials["example.org"]
	s.certificate("example.org") // without a reload, nothing changes at once
	look()
	delete(serials, "example.org")
	s.ok("reload")
	look()
	if serials["example.org"] == before {
		t.Error("the old certificate is still shown after the reload")
	}
	if _, err := romeo.iq("get", "<ping xmlns='urn:xmpp:ping'/>"); err != nil {
		t.Errorf("a client that was connected: %v", err)
	}

	// One that can't be used keeps the old one, and says so.
	os.Chmod(s.path("example.net.key"), 0o644)
	s.fails(exitUsage, `example.net.key: others may read the key: chmod 600`, "reload")
	look()
}

// A renewed certificate is used without a reload; one that can't be used is not.
func TestRenewedCertificate(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.net", "example.org")
	p, _ := s.serveHere(nil)
	serial := func() string { return handshake(t, p.direct, "example.org").SerialNumber.String() }
	s.ok("user", "add", "romeo@example.org", "--password", "x")
	early, err := connect(p.plain, "example.org", false)
	if err != nil {
		t.Fatal(err)
	}
	defer early.conn.Close()
	early.binding = "tls-server-end-point"
	first, other := serial(), handshake(t, p.direct, "example.net").SerialNumber.String()
	s.certificate("example.org")
	until(t, "the new certificate is shown", func() bool { return serial() != first })
	second := serial()
	// An earlier connection is bound to the certificate that its client saw (RFC 5929 §4).
	if err := early.auth("SCRAM-SHA-256-PLUS", "romeo", "x"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(s.path("example.org.crt"), []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "the broken one is noticed", func() bool {
		return strings.Contains(p.log.String(), "can't be used; the one before stays")
	})
	if serial() != second {
		t.Error("another certificate is shown")
	}
	s.certificate("example.org")
	until(t, "it is mended", func() bool { return serial() != second })
	if handshake(t, p.direct, "example.net").SerialNumber.String() != other {
		t.Error("the other host's has changed")
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org", "example.net")
	s.write("canto.toml", listen+hostSection("example.org"))
	s.ok("user", "add", "romeo@example.org", "--password", "x")
	s.ok("user", "add", "juliet@example.net", "--password", "x")
	p := s.serve()
	romeo := p.login("example.org", "romeo", "x")
	ping := func() error {
		_, err := romeo.iq("get", "<ping xmlns='urn:xmpp:ping'/>")
		return err
	}
	if err := ping(); err != nil {
		t.Fatal(err)
	}

	// Broken: one line, the old stays.
	s.write("canto.toml", listen+hostSection("example.org")+"modules = ['-pingg']\n")
	s.fails(exitUsage, `canto.toml:11: unknown module "pingg"; did you mean "ping"\?`, "reload")
	p.signal(syscall.SIGHUP)
	p.says(`reload failed; nothing was changed.*canto.toml:11: unknown module`)
	s.write("canto.toml", listen+"[module.offline]\nmax = 1\n"+hostSection("example.net"))
	s.fails(exitUsage, `canto.toml:9: unknown key "module.offline.max"`, "reload")
	if err := ping(); err != nil {
		t.Errorf("after a broken reload: %v", err)
	}
	if _, err := connect(p.plain, "example.net", false); err != streamError("host-unknown") {
		t.Errorf("a host of a broken file: %v", err)
	}

	// A new host, a module less, another limit.
	s.write("canto.toml", listen+"[limits]\nresources_per_account = 1\n"+hostSection("example.org")+
		"modules = ['-ping']\n"+hostSection("example.net"))
	s.ok("reload")
	juliet := p.login("example.net", "juliet", "x")
	if err := ping(); err != (stanzaError{"cancel", "service-unavailable"}) {
		t.Errorf("ping without its module: %v", err)
	}
	second, err := connect(p.plain, "example.net", false)
	if err != nil {
		t.Fatal(err)
	}
	defer second.conn.Close()
	if err := second.auth("SCRAM-SHA-256", "juliet", "x"); err != nil {
		t.Fatal(err)
	}
	if err := second.bind("second"); err != (stanzaError{"wait", "resource-constraint"}) {
		t.Errorf("a second resource where one is the limit: %v", err)
	}

	// What is read at the start only is told.
	s.write("canto.toml", "node = 7\nlog = { level = 'debug' }\n"+strings.Replace(listen, "debug   = []",
		"debug = ['127.0.0.1:0']", 1)+hostSection("example.org")+hostSection("example.net"))
	for range 2 {
		if out := s.ok("reload"); out != "node: changed, and takes effect at the next start\nlog: changed, and "+
			"takes effect at the next start\nlisten: changed, and takes effect at the next start\n" {
			t.Errorf("reload: %q", out)
		}
	}
	p.says(`takes effect at the next start.*keys="node, log, listen"`)

	// A host that goes takes its sessions with it; by SIGHUP this time.
	s.write("canto.toml", listen+hostSection("example.org"))
	p.signal(syscall.SIGHUP)
	if err := juliet.ended(); err != streamError("host-gone") {
		t.Errorf("a session of a host that went: %v", err)
	}
	if err := ping(); err != nil {
		t.Errorf("ping with its module again: %v", err)
	}
}

// On SIGTERM every client gets system-shutdown, in whatever state it is, and the exit status is 0.
func TestShutdown(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	s.ok("user", "add", "juliet@example.org", "--password", "x")
	s.ok("user", "add", "romeo@example.org", "--password", "x")
	p := s.serve()
	romeo := p.login("example.org", "romeo", "x")
	early, err := connect(p.direct, "example.org", true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := romeo.iq("set", "<query xmlns='jabber:iq:roster'>"+
		"<item jid='juliet@example.net'/></query>"); err != nil {
		t.Fatal(err)
	}
	for i := range 50 { // taken, and not yet durable, when the signal comes
		romeo.send(fmt.Sprintf("<message to='juliet@example.org' type='chat'><body>%d</body></message>", i))
	}
	if _, err := romeo.iq("get", "<ping xmlns='urn:xmpp:ping'/>"); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGTERM)
	for name, c := range map[string]*client{"a session": romeo, "a stream before its login": early} {
		if err := c.ended(); err != streamError("system-shutdown") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := p.wait(); n != 0 {
		t.Errorf("status %d: %s", n, p.log)
	}
	if _, err := net.Dial("tcp", p.plain); err == nil {
		t.Error("the port is still open")
	}
	if _, err := os.Lstat(s.path("data/admin.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the admin socket is left behind (%v)", err)
	}
	p = s.serve()
	n, err := p.login("example.org", "romeo", "x").iq("get", "<query xmlns='jabber:iq:roster'/>")
	if err != nil || !n.has("query", "item") {
		t.Errorf("the roster after a restart: %v %v", n, err)
	}
	juliet := p.login("example.org", "juliet", "x")
	juliet.send("<presence/>")
	for i := range 50 {
		if n, err := juliet.stanza(func(n node) bool {
			return n.XMLName.Local == "message"
		}); err != nil || !body(fmt.Sprint(i))(n) {
			t.Fatalf("message %d after a restart: %v %v", i, n, err)
		}
	}
}

// A data folder that is a file, that other users may write, or whose name is too long for a socket.
func TestServeRefusesFolder(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	s.write("data", "")
	s.fails(exitFailed, `data: .*not a directory`, "serve")
	s.fails(exitFailed, `data: .*not a directory`, "user", "list")
	os.Remove(s.data())
	if err := os.Mkdir(s.data(), 0); err != nil {
		t.Fatal(err)
	}
	os.Chmod(s.data(), 0o777)
	s.fails(exitFailed, `data: others may write there: chmod 700 data`, "serve")
	os.Chmod(s.data(), 0o700)
	p := s.serve()

	// Another's admin socket.
	other := newSite(t, "example.org")
	other.write("canto.toml", listen+"admin = '"+s.path("data/admin.sock")+"'\n"+hostSection("example.org"))
	other.fails(exitInUse, `admin.sock: another server answers there: stop it, or name another place with listen.admin`, "serve")
	p.signal(syscall.SIGINT)
	if n := p.wait(); n != 0 {
		t.Errorf("status after SIGINT: %d", n)
	}
	other.write("canto.toml", listen+"admin = '"+strings.Repeat("x", 120)+"'\n"+hostSection("example.org"))
	other.fails(exitFailed, `longer than the 107 bytes of a socket's path: name another with listen.admin`,
		"serve")
}

// A reload that changes nothing costs nothing: no account is read again, no limit's count and no
// certificate or TLS ticket is forgotten. One that changes a host changes that host.
func TestReloadOfTheSame(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org", "example.net")
	s.write("canto.toml", listen+hostSection("example.org")+"modules = ['+register']\n"+
		hostSection("example.net"))
	s.ok("user", "add", "romeo@example.org", "--password", "x")
	s.ok("user", "add", "paris@example.net", "--password", "x")
	p, _ := s.serveHere(nil)
	romeo, paris := p.login("example.org", "romeo", "x"), p.login("example.net", "paris", "x")
	host := func(name string) *session.Host {
		h, ok := p.server.Router.Table.Host(name)
		if !ok {
			t.Fatalf("%s is not served", name)
		}
		return h
	}
	cert := func(name string) *tls.Certificate {
		c, err := host(name).Certificate()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	loads := func() uint64 {
		for _, c := range []*client{romeo, paris} {
			if _, err := c.iq("get", "<query xmlns='jabber:iq:roster'/>"); err != nil {
				t.Fatal(err)
			}
		}
		return metrics.Stats(p.server.Router).Loads
	}
	before, profile, other, first := loads(), host("example.org").Profile(), host("example.net").Profile(),
		cert("example.org")
	config := p.server.certs.startTLSConfig(host("example.org"))
	s.ok("reload")
	if n := loads(); n != before {
		t.Errorf("%d accounts were read again", n-before)
	}
	if host("example.org").Profile() != profile || cert("example.org") != first ||
		p.server.certs.startTLSConfig(host("example.org")) != config {
		t.Error("the profile, the certificate or the tickets' keys are not the ones before")
	}

	// One host changes.
	s.write("canto.toml", listen+hostSection("example.org")+"modules = ['+register', '-version']\n"+
		hostSection("example.net"))
	s.ok("reload")
	if host("example.org").Profile() == profile || host("example.net").Profile() != other {
		t.Error("a changed host has its profile of before, or one that did not change has another")
	}
	if n := loads(); n != before+1 {
		t.Errorf("%d accounts were read again, and one host was changed", n-before)
	}

	// A certificate is renewed, and used at once.
	s.certificate("example.org")
	s.ok("reload")
	if cert("example.org") == first {
		t.Error("a reload does not see a renewed certificate")
	}

	// A limit of all hosts holds for a host that has limits of its own.
	s.write("canto.toml", listen+"[limits]\nresources_per_account = 3\n"+hostSection("example.org")+
		"limits = { failures_per_account = '7/m' }\n"+hostSection("example.net"))
	s.ok("reload")
	s.write("canto.toml", listen+"[limits]\nresources_per_account = 4\n"+hostSection("example.org")+
		"limits = { failures_per_account = '7/m' }\n"+hostSection("example.net"))
	s.ok("reload")
	if n := p.server.Router.HostLimits(host("example.org")).ResourcesPerAccount; n != 4 {
		t.Errorf("resources_per_account is %d, as before the reload", n)
	}
}

// A host that is removed and added again has the modules of its new configuration, also for accounts that
// were in memory meanwhile.
func TestHostRemovedAndAddedAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org", "example.net")
	s.ok("user", "add", "paris@example.net", "--password", "x")
	p, _ := s.serveHere(nil)
	paris := p.login("example.net", "paris", "x")
	s.write("canto.toml", listen+hostSection("example.org"))
	s.ok("reload")
	if err := paris.ended(); err != streamError("host-gone") {
		t.Errorf("a session of a host that went: %v", err)
	}
	s.write("canto.toml", listen+hostSection("example.org")+hostSection("example.net")+"modules = ['-ping']\n")
	s.ok("reload")
	paris = p.login("example.net", "paris", "x")
	unavailable := stanzaError{"cancel", "service-unavailable"}
	if _, err := paris.iq("get", "<ping xmlns='urn:xmpp:ping'/>"); err != unavailable {
		t.Errorf("ping on a host that was added again without it: %v", err)
	}
}

// Messages that were taken before a shutdown, for an account that is being read from a slow disk, are stored
// before the server ends.
func TestShutdownWaitsForReads(t *testing.T) {
	t.Parallel()
	s := newSite(t, "example.org")
	for _, name := range []string{"juliet", "romeo"} {
		s.ok("user", "add", name+"@example.org", "--password", "x")
	}
	var slow atomic.Bool
	p, stop := s.serveHere(func(o *store.Options) {
		o.Fault = func(write bool) error {
			if !write && slow.Load() {
				time.Sleep(100 * time.Millisecond) // for each read
			}
			return nil
		}
	})
	romeo := p.login("example.org", "romeo", "x")
	slow.Store(true)
	for i := range 5 {
		romeo.send(fmt.Sprintf("<message to='juliet@example.org' type='chat'><body>%d</body></message>", i))
	}
	if _, err := romeo.iq("get", "<ping xmlns='urn:xmpp:ping'/>"); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := romeo.ended(); err != streamError("system-shutdown") {
		t.Error(err)
	}
	if n := p.wait(); n != 0 {
		t.Fatalf("status %d: %s", n, p.log)
	}
	p = s.serve()
	juliet := p.login("example.org", "juliet", "x")
	juliet.send("<presence/>")
	for i := range 5 {
		if n, err := juliet.stanza(func(n node) bool {
			return n.XMLName.Local == "message"
		}); err != nil || !body(fmt.Sprint(i))(n) {
			t.Fatalf("message %d after a restart: %v %v", i, n, err)
		}
	}
}
