package servers

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"canto/session/sasl"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files")

// lockedBuffer is a log for any goroutine.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// golden compares got with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s differs; go test -rewrite, and look at the difference. It is now:\n%s", name, got)
	}
}

func testPlan(t *testing.T, name string, options map[string]string) (launcher, *launch) {
	t.Helper()
	k, err := launcherOf(name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newLaunch(k, Config{Kind: name, Dir: "/bench", Options: options, Accounts: Accounts{N: 2}})
	if err != nil {
		t.Fatal(err)
	}
	p.ports = []uint16{15222, 15223, 15290}
	p.certificateFiles.cert, p.certificateFiles.key = "/bench/certs/localhost.crt", "/bench/certs/localhost.key"
	return k, p
}

func TestConfigurations(t *testing.T) {
	for _, tt := range []struct {
		golden, kind, template string
		options, more          map[string]string
	}{
		{"canto.toml", "canto", "canto.toml.tmpl", nil, map[string]string{"modules": ""}},
		{"canto-all.toml", "canto", "canto.toml.tmpl", map[string]string{"register": "on", "memory": "2GiB"},
			map[string]string{"modules": `"+register", "-version"`}},
		{"prosody.cfg.lua", "prosody", "prosody.cfg.lua.tmpl", nil, map[string]string{"modules": "", "root": "on"}},
		{"prosody-all.cfg.lua", "prosody", "prosody.cfg.lua.tmpl",
			map[string]string{"register": "on", "archive": "on", "push": "on", "sasl2": "on",
				"gc": "incremental", "scram": "SHA-256"}, map[string]string{"modules": `"vcard4";`, "root": ""}},
		{"ejabberd.yml", "ejabberd", "ejabberd.yml.tmpl", nil, map[string]string{"hash": "sha"}},
		{"ejabberd-all.yml", "ejabberd", "ejabberd.yml.tmpl",
			map[string]string{"register": "on", "archive": "on", "push": "on", "scram": "SHA-512"},
			map[string]string{"hash": "sha512"}},
	} {
		t.Run(tt.golden, func(t *testing.T) {
			_, p := testPlan(t, tt.kind, tt.options)
			text, err := p.text(tt.template, tt.more)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, tt.golden, text)
		})
	}
}

// What the kinds put into the templates.
func TestConfigure(t *testing.T) {
	for _, tt := range []struct {
		kind    string
		options map[string]string
		want    string
	}{
		{"canto", map[string]string{"roster": "10000"}, "[module.roster]\nmax_items = 10000\n\n[host."},
		{"canto", map[string]string{"register": "on", "modules": "-version -vcard"},
			`modules     = ["+register", "-archive", "+carbons", "-version", "-vcard"]`},
		{"canto", nil, `modules     = ["-archive", "+carbons"]`},
		{"prosody", map[string]string{"carbons": "off"}, "\t\"smacks\"; \"csi\";\n"},
		{"prosody", nil, "\t\"carbons\"; \"smacks\"; \"csi\";\n"},
		{"ejabberd", map[string]string{"carbons": "off"}, "  mod_caps: {}\n  mod_client_state: {}\n"},
		{"ejabberd", map[string]string{"push": "on"}, "  mod_push: {}\n"},
		{"prosody", map[string]string{"modules": "vcard4 csi_simple"}, "\t\"vcard4\"; \"csi_simple\";\n"},
		{"prosody", map[string]string{"archive": "asked"}, "default_archive_policy = false\n"},
		{"ejabberd", map[string]string{"archive": "asked"}, "    default: never\n"},
		{"ejabberd", map[string]string{"scram": "SHA-256"}, "auth_scram_hash: sha256 "},
	} {
		k, p := testPlan(t, tt.kind, tt.options)
		p.Dir = t.TempDir()
		p.found["modules"] = cantoModules
		if err := k.configure(p); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(p.server.Config, tt.want) {
			t.Errorf("%s: no %q in\n%s", tt.kind, tt.want, p.server.Config)
		}
	}
}

// cantoModules is a part of what a Canto says of its modules; push is unknown to it.
const cantoModules = `host localhost
  loaded   starttls       RFC 6120 section 5                 upgrades connections to TLS
             covers: all, as the receiving entity
  loaded   archive        XEP-0313 1.1.3                     keeps messages
  off      carbons        XEP-0280 1.0.1                     copies messages; off by default
  off      register       XEP-0077 2.4                       lets people make accounts; off by default
`

// The modules of options are switched where the program's default differs, and where it has them.
func TestCantoSwitches(t *testing.T) {
	for _, tt := range []struct {
		options map[string]string
		modules string
		want    string
	}{
		{nil, cantoModules, "-archive +carbons"},
		{map[string]string{"archive": "on", "carbons": "off"}, cantoModules, ""},
		{map[string]string{"archive": "on", "push": "on", "register": "on"}, cantoModules, "+register +carbons"},
		{map[string]string{"archive": "on", "push": "on"}, "", ""},
	} {
		_, p := testPlan(t, "canto", tt.options)
		p.found["modules"] = tt.modules
		if got := strings.Join((canto{}).switches(p), " "); got != tt.want {
			t.Errorf("%v: %q, not %q", tt.options, got, tt.want)
		}
	}
}

func TestExport(t *testing.T) {
	var b bytes.Buffer
	if err := Export(&b, "canto", "example.org", Accounts{N: 2, Prefix: "load", Password: "p w"}); err != nil {
		t.Fatal(err)
	}
	if b.String() != "load0@example.org\tp w\nload1@example.org\tp w\n" {
		t.Errorf("%q", b.String())
	}
	for _, tt := range []struct {
		format string
		a      Accounts
	}{{"csv", Accounts{N: 1}}, {"canto", Accounts{N: -1}}, {"canto", Accounts{Prefix: "A"}},
		{"canto", Accounts{Password: "a\tb"}}, {"canto", Accounts{Iterations: 5}}} {
		if err := Export(&b, tt.format, "localhost", tt.a); err == nil {
			t.Errorf("%q %+v was exported", tt.format, tt.a)
		}
	}
}

func TestExportProsody(t *testing.T) {
	dir := t.TempDir()
	if err := ExportProsody(dir, "bench.example", Accounts{N: 3}); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "bench%2eexample", "accounts", "*.dat"))
	if err != nil || len(files) != 3 || filepath.Base(files[2]) != "bench2.dat" {
		t.Fatalf("%v, %v", files, err)
	}
	first, _ := os.ReadFile(files[0])
	last, _ := os.ReadFile(files[2])
	if !bytes.Equal(first, last) || !bytes.Contains(first, []byte(`["iteration_count"] = 10000;`)) {
		t.Errorf("%s\n%s", first, last)
	}
}

// The keys in the golden file were computed apart, by hashlib.
func TestProsodyAccount(t *testing.T) {
	a := Accounts{Password: "pencil", Iterations: 4096}
	k, err := a.keyOf(sasl.SHA1, "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "prosody-account.dat", prosodyAccount(k))
}

func TestEjabberdAccounts(t *testing.T) {
	a := Accounts{N: 2, Prefix: "bench", Password: "pencil", Iterations: 4096}
	k, err := a.keyOf(sasl.SHA1, "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := writeEjabberd(&b, "localhost", a, k); err != nil {
		t.Fatal(err)
	}
	golden(t, "ejabberd-accounts.txt", b.String())
	b.Reset()
	if err := Export(&b, "ejabberd", "localhost", a); err != nil ||
		strings.Count(b.String(), "{passwd,{<<") != 2 {
		t.Errorf("%v\n%s", err, b.String())
	}
}

// Where ejabberd is stands in ejabberdctl.
func TestEjabberdctl(t *testing.T) {
	dir := t.TempDir()
	ctl, erl := filepath.Join(dir, "ejabberdctl"), filepath.Join(dir, "erl")
	if err := os.WriteFile(erl, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, text, want string }{
		{"as it is", "#!/bin/sh\n# ERL=no\nERL=\"" + erl +
			"\"\nIEX=x\nERL_LIBS='/usr/lib/x'\nexport ERL_LIBS\n", ""},
		{"says nothing", "#!/bin/sh\nexec something\n", "does not say where ERL and ERL_LIBS are"},
		{"by a variable", "#!/bin/sh\nERL=\"$X\"\nERL_LIBS='/usr/lib/x'\n", "does not say"},
		{"no erl", "#!/bin/sh\nERL='/nowhere/erl'\nERL_LIBS='/usr/lib/x'\n", "/nowhere/erl"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(ctl, []byte(tt.text), 0o700); err != nil {
				t.Fatal(err)
			}
			k, p := testPlan(t, "ejabberd", nil)
			p.Program = ctl
			err := k.find(t.Context(), p)
			if tt.want == "" {
				if err != nil || p.found["erl"] != erl || p.found["libs"] != "/usr/lib/x" ||
					p.server.Version != "unknown" {
					t.Errorf("%v %v %q", err, p.found, p.server.Version)
				}
			} else if err == nil || !strings.Contains(err.Error(), tt.want) ||
				!strings.Contains(err.Error(), "apt install") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestLuaString(t *testing.T) {
	for in, want := range map[string]string{`a`: `"a"`, `a"b\`: `"a\034b\092"`, "é\n1": `"\195\169\0101"`} {
		if got := luaString(in); got != want {
			t.Errorf("%q: %s, not %s", in, got, want)
		}
	}
}
