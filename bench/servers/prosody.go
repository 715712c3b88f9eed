package servers

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"canto/session/sasl"
)

// prosody launches Prosody, from Debian's packages or from PATH.
type prosody struct{}

func (prosody) options() map[string][]string {
	return map[string][]string{
		"gc":    {"generational", "incremental", "default"}, // of Lua; default: as it is shipped
		"scram": {"SHA-1", "SHA-256"},                       // Prosody keeps one hash of a password
		// of messages: none, for users who ask for it, for all
		"archive":  {"off", "asked", "on"},
		"register": {"off", "on"},
		"carbons":  {"on", "off"},
		"push":     {"off", "on"}, // XEP-0357, by the community's module
		"sasl2":    {"off", "on"}, // SASL2, Bind2 and FAST, by the community's modules
		"modules":  {},            // more of them: "csi_simple vcard4"
	}
}

// needPackage adds to err which package has the program.
func needPackage(program, pkg string, err error) error {
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%s is not installed: apt install %s", program, pkg)
	}
	return fmt.Errorf("%w: apt install %s", err, pkg)
}

func (prosody) find(ctx context.Context, p *launch) error {
	if p.Program == "" {
		p.Program = "prosody"
	}
	program, err := exec.LookPath(p.Program)
	if err == nil {
		program, err = absolute(program)
	}
	if err != nil {
		return needPackage(p.Program, "prosody", err)
	}
	p.Program = program
	p.server.Software, p.server.Version = "Prosody", packageVersion(ctx, "prosody", program)
	for _, m := range []struct{ option, module, what string }{{"sasl2", "mod_sasl2", "SASL2"},
		{"push", "mod_cloud_notify", "pushes"}} {
		if p.option(m.option) != "on" {
			continue
		}
		if _, err := os.Stat(communityModules + "/" + m.module); err != nil {
			return fmt.Errorf("no module for %s: %w: apt install prosody-modules", m.what, err)
		}
	}
	return nil
}

// communityModules is where Debian's prosody-modules are.
const communityModules = "/usr/lib/prosody/modules"

func (prosody) configure(p *launch) error {
	p.server.Rooms = roomsOf(p.Domain)
	var more strings.Builder
	for _, m := range strings.Fields(p.option("modules")) {
		fmt.Fprintf(&more, "%s; ", luaString(m))
	}
	if p.option("sasl2") == "on" {
		shim, err := conf.ReadFile("conf/mod_bench_sasl2.lua")
		if err != nil {
			return err
		}
		if err := os.MkdirAll(p.file("modules"), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(p.file("modules", "mod_bench_sasl2.lua"), shim, 0o600); err != nil {
			return err
		}
	}
	root := ""
	if os.Getuid() == 0 {
		root = "on"
	}
	return p.render("prosody.cfg.lua.tmpl", p.file("prosody.cfg.lua"),
		map[string]string{"modules": strings.TrimSpace(more.String()), "root": root})
}

func (prosody) populate(_ context.Context, p *launch) error {
	h := sasl.SHA1
	if p.option("scram") == "SHA-256" {
		h = sasl.SHA256
	}
	return exportProsody(p.file("data"), p.Domain, p.Accounts, h)
}

func (prosody) command(p *launch) command {
	return command{program: p.Program, args: []string{"-F", "--config", p.file("prosody.cfg.lua")}}
}

// ExportProsody writes the accounts into dir, the data folder of a Prosody that is stopped or
// running, with keys for SCRAM-SHA-1.
func ExportProsody(dir, domain string, a Accounts) error {
	a = a.defaults()
	if err := errors.Join(a.check(), checkDomain(domain)); err != nil {
		return err
	}
	return exportProsody(dir, domain, a, sasl.SHA1)
}

// exportProsody writes a file for each account: all have the same key.
func exportProsody(dir, domain string, a Accounts, h sasl.Hash) error {
	dir = filepath.Join(dir, prosodyName(domain), "accounts")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	k, err := a.key(h)
	if err != nil {
		return err
	}
	text := []byte(prosodyAccount(k))
	for i := range a.N {
		if err := os.WriteFile(filepath.Join(dir, prosodyName(a.User(i))+".dat"), text, 0o640); err != nil {
			return err
		}
	}
	return nil
}

// prosodyAccount is the file of an account with key k.
func prosodyAccount(k sasl.Key) string {
	return fmt.Sprintf("return {\n\t[\"iteration_count\"] = %d;\n\t[\"salt\"] = %s;\n\t[\"server_key\"] "+
		"= \"%s\";\n\t[\"stored_key\"] = \"%s\";\n};\n",
		k.Iterations, luaString(string(k.Salt)), hex.EncodeToString(k.ServerKey.Reveal()),
		hex.EncodeToString(k.StoredKey.Reveal()))
}

// prosodyName is a name as Prosody writes it in a path: all but letters and digits as %2e.
func prosodyName(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return b.String()
}

// luaString is s as Lua reads it.
func luaString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			fmt.Fprintf(&b, "\\%03d", c)
		} else {
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
