// Canto is an XMPP server. `canto serve --dev` starts one that needs nothing; `canto --help` lists the
// commands.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/alecthomas/kong"

	"canto/session/admin"
	"canto/session/store"
)

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
	exitFormat = 3
	exitInUse  = 4 // port or lock
)

// cli is the command line.
type cli struct {
	Config string `help:"Configuration file." placeholder:"FILE"`
	Data   string `help:"Data folder, instead of the one that the configuration names." placeholder:"DIR"`

	Serve   serveCmd   `cmd:"" help:"Run the server."`
	User    userCmd    `cmd:"" help:"Add, change and list accounts."`
	Host    hostCmd    `cmd:"" help:"List, add and delete hosts kept in the store."`
	Modules modulesCmd `cmd:"" help:"Show which modules are loaded, skipped and why."`
	Check   checkCmd   `cmd:"" help:"Check the configuration, certificates and limits of this machine."`
	Bytes   bytesCmd   `cmd:"" help:"Show which part of the running server holds how many bytes."`
	Reload  reloadCmd  `cmd:"" help:"Have the running server read its configuration again."`
	Version versionCmd `cmd:"" help:"Show the version."`
}

// A run is one command being carried out: by the process that the user started, or, given over the
// admin socket, by the server.
type run struct {
	ctx       context.Context
	cli       *cli
	args      []string
	stdin     io.Reader
	out       io.Writer
	errOut    io.Writer
	server    *program // nil: no server runs in this process
	noServer  bool     // no server answered
	mayCreate bool     // the command may make a data folder: one that adds the first account or host
	onServe   func()   // what a server does first with a process of its own; nil: it has none

	// Nil but in tests: what changes the store's options, and what is shown the server once it is ready.
	options      func(*store.Options)
	onReady      func(*program)
	dns          resolver      // what canto check dns asks; nil: the system's
	certInterval time.Duration // how often certificates are looked at; 0: as ever
}

type exitStatus struct {
	status int
	err    error
}

func (e exitStatus) Error() string { return e.err.Error() }
func (e exitStatus) Unwrap() error { return e.err }

func main() {
	os.Exit(execute(&run{ctx: context.Background(), args: os.Args[1:], stdin: os.Stdin, out: os.Stdout,
		errOut: os.Stderr, onServe: setTimerSlack}))
}

// execute carries a command line out and returns the exit status.
func execute(r *run) (status int) {
	r.cli = new(cli)
	stop := -1
	k, err := kong.New(r.cli, kong.Name("canto"),
		kong.Description("An XMPP server that holds hundreds of thousands of sessions in one process."),
		kong.UsageOnError(), kong.Writers(r.out, r.errOut), kong.Exit(func(code int) {
			stop = code
			panic(exitPanic{})
		}))
	if err != nil {
		panic(err) // the struct above is wrong
	}
	defer func() {
		if v := recover(); v != nil {
			if _, ok := v.(exitPanic); !ok {
				panic(v)
			}
			status = stop
		}
	}()
	for i, a := range r.args {
		if !utf8.ValidString(a) { // it may be a password: it is not shown
			fmt.Fprintf(r.errOut, "canto: argument %d is no UTF-8: write it in UTF-8\n", i+1)
			return exitUsage
		}
	}
	r.args = plainWords(r.args)
	ctx, err := k.Parse(r.args)
	if err == nil {
		err = emptyFlag(ctx)
	}
	if err != nil {
		fmt.Fprintf(r.errOut, "canto: %v: see canto help\n", err)
		return exitUsage
	}
	if err := ctx.Run(r); err != nil {
		fmt.Fprintf(r.errOut, "canto: %v\n", err)
		var es exitStatus
		var ce *configError
		switch {
		case errors.As(err, &es):
			return es.status
		case errors.As(err, &ce):
			return exitUsage
		case errors.Is(err, store.ErrFormat):
			return exitFormat
		case errors.Is(err, store.ErrLocked), errors.Is(err, admin.ErrSocketInUse):
			return exitInUse
		}
		return exitFailed
	}
	return 0
}

type exitPanic struct{}

// emptyFlag is an error about a flag that was given with nothing as its value: it does not mean the same
// as no flag.
func emptyFlag(ctx *kong.Context) error {
	for _, p := range ctx.Path {
		if p.Flag == nil {
			continue
		}
		if text, ok := ctx.FlagValue(p.Flag).(string); ok && text == "" {
			return fmt.Errorf("--%s is empty: give it a value, or leave it out", p.Flag.Name)
		}
	}
	return nil
}

// plainWords are args with what most programs understand written as the commands below are: nothing and
// "help" are --help, "help COMMAND" is COMMAND --help, and --version is version.
func plainWords(args []string) []string {
	if len(args) == 0 {
		return []string{"--help"}
	}
	at := 0 // of the first word that is neither --config nor --data nor its value
	for at < len(args)-1 && (args[at] == "--config" || args[at] == "--data") {
		at += 2
	}
	for at < len(args) && (strings.HasPrefix(args[at], "--config=") || strings.HasPrefix(args[at], "--data=")) {
		at++
	}
	switch {
	case at >= len(args):
		return args
	case args[at] == "help":
		return append(slices.Concat(args[:at], args[at+1:]), "--help")
	case args[at] == "--version":
		return slices.Concat(args[:at], []string{"version"}, args[at+1:])
	case at+2 == len(args) && args[at+1] == "help" && (args[at] == "user" || args[at] == "host"):
		return slices.Concat(args[:at+1], []string{"--help"})
	}
	return args
}

// config is the file that --config names, canto.toml in this folder, or the defaults.
func (r *run) config() (*config, error) {
	if r.server != nil {
		return r.server.config(), nil
	}
	path := r.cli.Config
	if path == "" {
		if _, err := os.Stat("canto.toml"); err == nil {
			path = "canto.toml"
		}
	}
	c := defaults()
	if path == "" {
		c.dev = true
	} else {
		var err error
		if c, err = readConfig(path); err != nil {
			return nil, err
		}
	}
	if r.cli.Data != "" {
		c.Data = r.cli.Data
	}
	return c, nil
}

func (c *config) adminSocket() string {
	if filepath.IsAbs(c.Listen.Admin) {
		return c.Listen.Admin
	}
	return filepath.Join(c.Data, c.Listen.Admin)
}

// withStore runs f with the store: that of the server in this process, or, after the running server
// was asked to carry the command out and did not answer, the data folder's own.
func (r *run) withStore(write bool, f func(db *store.DB) error) error {
	if r.server != nil {
		return f(r.server.DB)
	}
	if done, err := r.forward(); done || err != nil {
		return err
	}
	c, err := r.config()
	if err != nil {
		return err
	}
	if _, err := os.Stat(c.Data); err != nil && !r.mayCreate {
		return fmt.Errorf("%s: there is no data folder: give it with --data, or make one with canto serve", c.Data)
	}
	if write {
		defer chownToOwner(c.Data)
	}
	db, err := store.Open(store.Options{Dir: c.Data, ReadOnly: !write,
		Logger: slog.New(slog.NewTextHandler(r.errOut, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if errors.Is(err, store.ErrMissing) {
		return fmt.Errorf("%w: give another with --data, or make one with canto serve", err)
	}
	if err != nil {
		return err
	}
	defer db.Close()
	return f(db)
}

// chownToOwner gives what root has made in the data folder of another user to that user, whose server
// could not read it.
func chownToOwner(dir string) {
	if os.Geteuid() != 0 {
		return
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return
	}
	owner, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return
	}
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		if info, err := f.Info(); err == nil && info.Sys().(*syscall.Stat_t).Uid == 0 {
			os.Lchown(filepath.Join(dir, f.Name()), int(owner.Uid), int(owner.Gid))
		}
	}
}

// forward has the running server carry the command out; done is false if there is none, or if this
// is it.
func (r *run) forward() (done bool, err error) {
	if r.server != nil || r.noServer {
		return false, nil
	}
	c, err := r.config()
	if err != nil {
		return false, err
	}
	done, err = r.forwardTo(c)
	r.noServer = !done
	return done, err
}

// forwardTo has the running server carry the command out; done is false if there is none.
func (r *run) forwardTo(c *config) (done bool, err error) {
	if c.Listen.Admin == "" {
		return false, nil
	}
	switch _, err := os.Stat(c.adminSocket()); {
	case errors.Is(err, os.ErrPermission): // a server may run all the same
		return true, c.permissionError(err)
	case err != nil:
		return false, nil
	}
	var in []byte
	if r.cli.wantsInput() {
		if in, err = io.ReadAll(io.LimitReader(r.stdin, maxInput+1)); err != nil {
			return true, fmt.Errorf("reading the input: %w", err)
		}
		if len(in) > maxInput {
			return true, fmt.Errorf("the input is longer than the %d MiB that a running server takes at a time: "+
				"split it, or stop the server first", maxInput>>20)
		}
		r.stdin = bytes.NewReader(in)
	}
	res, err := admin.Call(c.adminSocket(), admin.Command{Args: r.args, Stdin: in})
	if errors.Is(err, admin.ErrNoServer) {
		return false, nil
	}
	if errors.Is(err, os.ErrPermission) {
		return true, c.permissionError(err)
	}
	if err != nil {
		return true, err
	}
	r.out.Write(res.Out)
	if res.Status != 0 {
		return true, exitStatus{res.Status, errors.New(trimErrorPrefix(res.Err))}
	}
	r.errOut.Write(res.Err)
	return true, nil
}

// permissionError is err, which is that this user may not look into the data folder or use its socket, with
// what to do.
func (c *config) permissionError(err error) error {
	if fi, e := os.Stat(filepath.Dir(c.adminSocket())); e == nil {
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
			return fmt.Errorf("%w: the folder is user %d's: run this as that user or as root", err, st.Uid)
		}
	}
	return fmt.Errorf("%w: run this as the user who runs the server, or as root; if the folder is this user's, "+
		"%s must be user %d's with all rights (chown, chmod u+rwX)", err, c.Data, os.Geteuid())
}

// maxInput bounds what is sent to a running server as a command's standard input: in base64, and with the
// rest of the command, it fits the request that the admin socket takes.
const maxInput = 180 << 20

// trimErrorPrefix is an error line without the name that comes in front again.
func trimErrorPrefix(b []byte) string {
	return string(bytes.TrimPrefix(bytes.TrimSpace(b), []byte("canto: ")))
}

// wantsInput reports whether the command reads standard input, which for an import is the file that it names.
func (c *cli) wantsInput() bool {
	return c.User.Import.File != "" || c.User.Add.PasswordStdin || c.User.Passwd.PasswordStdin
}

type versionCmd struct{}

// Version is what `canto version` and XEP-0092 say.
const Version = "0.1.0"

func (versionCmd) Run(r *run) error {
	revision := ""
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, s := range bi.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				revision = " (" + s.Value[:12] + ")"
			}
		}
	}
	fmt.Fprintf(r.out, "canto %s%s\n", Version, revision)
	return nil
}
