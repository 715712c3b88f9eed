package servers

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"

	"canto/session/sasl"
)

// ejabberd launches ejabberd, from Debian's packages or from PATH. It starts the Erlang runtime as
// ejabberdctl does, but without ejabberdctl, which needs a certain user and its folders. The node
// has no name, as no other node connects to it: so there is no epmd and no port for Erlang.
type ejabberd struct{}

func (ejabberd) options() map[string][]string {
	return map[string][]string{
		"scram":    {"SHA-1", "SHA-256", "SHA-512"}, // ejabberd keeps one hash of a password
		"archive":  {"off", "asked", "on"},          // of messages: none, for users who ask for it, for all
		"carbons":  {"on", "off"},
		"push":     {"off", "on"}, // XEP-0357
		"register": {"off", "on"},
		"busywait": {"off", "on"}, // whether idle schedulers spin, as the emulator is shipped
	}
}

// Where ejabberdctl says that the Erlang runtime and ejabberd's libraries are.
var (
	ctlErl  = regexp.MustCompile(`(?m)^ERL=["']([^"'$]+)["']$`)
	ctlLibs = regexp.MustCompile(`(?m)^(?:export )?ERL_LIBS=["']([^"'$]+)["']$`)
)

func (ejabberd) find(ctx context.Context, p *launch) error {
	ctl := p.Program
	if ctl == "" {
		ctl = "ejabberdctl"
	}
	program, err := exec.LookPath(ctl)
	if errors.Is(err, exec.ErrNotFound) && p.Program == "" {
		program, err = exec.LookPath("/usr/sbin/ejabberdctl") // not in PATH of a user
		if err != nil {
			err = exec.ErrNotFound
		}
	}
	if err == nil {
		program, err = absolute(program)
	}
	if err != nil {
		return needPackage(ctl, "ejabberd", err)
	}
	script, err := os.ReadFile(program)
	if err != nil {
		return fmt.Errorf("%w: ejabberd's folders are written there, let us read it", err)
	}
	erl, libs := ctlErl.FindSubmatch(script), ctlLibs.FindSubmatch(script)
	if erl == nil || libs == nil {
		return fmt.Errorf("%s does not say where ERL and ERL_LIBS are: use that of Debian's package: apt "+
			"install ejabberd", program)
	}
	if _, err := exec.LookPath(string(erl[1])); err != nil {
		return needPackage(string(erl[1]), "erlang-base", err)
	}
	p.found["erl"], p.found["libs"] = string(erl[1]), string(libs[1])
	p.server.Software, p.server.Version = "ejabberd", packageVersion(ctx, "ejabberd", program)
	return nil
}

func (e ejabberd) configure(p *launch) error {
	p.server.Rooms = roomsOf(p.Domain)
	name, _ := e.hash(p)
	return p.render("ejabberd.yml.tmpl", p.file("ejabberd.yml"), map[string]string{"hash": name})
}

// hash is ejabberd's name for the hash of the option scram.
func (ejabberd) hash(p *launch) (name string, h sasl.Hash) {
	switch p.option("scram") {
	case "SHA-256":
		return "sha256", sasl.SHA256
	case "SHA-512":
		return "sha512", sasl.SHA512
	}
	return "sha", sasl.SHA1
}

// load makes Mnesia's folder and loads the accounts from a text file.
const load = `ok = mnesia:create_schema([node()]),
	{atomic, ok} = mnesia:load_textfile(os:getenv("PEER_ACCOUNTS")),
	stopped = mnesia:stop(), halt(0).`

func (e ejabberd) populate(ctx context.Context, p *launch) error {
	_, h := e.hash(p)
	var text bytes.Buffer
	if err := exportEjabberd(&text, p.Domain, p.Accounts, h); err != nil {
		return err
	}
	file := p.file("accounts.txt")
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		return err
	}
	env := append(e.env(p), "PEER_ACCOUNTS="+file)
	_, err := output(ctx, p.log, nil, env, p.found["erl"], "-noinput", "-mnesia", "dir",
		strconv.Quote(p.file("mnesia")), "-eval", load)
	return err
}

func (ejabberd) env(p *launch) []string {
	return []string{
		"HOME=" + p.Dir,
		"ERL_LIBS=" + p.found["libs"],
		"ERL_CRASH_DUMP=" + p.file("erl_crash.dump"),
		"EJABBERD_CONFIG_PATH=" + p.file("ejabberd.yml"),
		"EJABBERD_LOG_PATH=" + p.file("ejabberd.log"),
		"EJABBERD_PID_PATH=",
	}
}

// Limits of the Erlang runtime: a connection is a port, and takes a process or two.
const (
	erlPorts     = 262144
	erlProcesses = 1048576
)

func (e ejabberd) command(p *launch) command {
	args := []string{"-noinput", "+K", "true", "+P", strconv.Itoa(erlProcesses), "+Q", strconv.Itoa(erlPorts)}
	if p.option("busywait") == "off" {
		// Idle schedulers that spin take CPU from the clients beside them, and count as the server's.
		args = append(args, "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none")
	}
	args = append(args, "-mnesia", "dir", strconv.Quote(p.file("mnesia")),
		"-mnesia", "dump_log_write_threshold", "50000", // dumps of the log pause writers: fewer of them
		"-s", "ejabberd")
	return command{program: p.found["erl"], args: args, env: append(e.env(p), "ERL_MAX_ETS_TABLES=10000")}
}

// exportEjabberd writes Mnesia's text form of the table of passwords.
func exportEjabberd(w io.Writer, domain string, a Accounts, h sasl.Hash) error {
	k, err := a.key(h)
	if err != nil {
		return err
	}
	return writeEjabberd(w, domain, a, k)
}

func writeEjabberd(w io.Writer, domain string, a Accounts, k sasl.Key) error {
	name := map[sasl.Hash]string{sasl.SHA1: "sha", sasl.SHA256: "sha256", sasl.SHA512: "sha512"}[k.Hash]
	text := base64.StdEncoding.EncodeToString
	// In memory, with a copy on disk: ejabberd's own default reads a file for each login.
	if _, err := io.WriteString(w, "{tables,[{passwd,[{disc_copies,[nonode@nohost]},{attributes,[us,"+
		"password]}]}]}.\n"); err != nil {
		return err
	}
	for i := range a.N {
		if _, err := fmt.Fprintf(w, "{passwd,{<<\"%s\">>,<<\"%s\">>},{scram,<<\"%s\">>,<<\"%s\">>,<<\"%s\">>"+
			",%s,%d}}.\n", a.User(i), domain,
			text(k.StoredKey.Reveal()), text(k.ServerKey.Reveal()), text(k.Salt), name, k.Iterations); err != nil {
			return err
		}
	}
	return nil
}
