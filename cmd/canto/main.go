// Canto is an XMPP server. `canto serve --dev` starts one without any configuration; `canto --help`
// lists the commands.
//
// A command line becomes a [run], which execute carries out. `canto serve` makes a program: a
// [server.Server] with its configuration, log, certificates and control plane. Every other command
// works on the store. If a server runs, the command is forwarded to it over the admin socket, and
// the server carries it out with the same code; otherwise the command opens the data folder itself.
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

// The exit statuses. Scripts use them: they do not change.
const (
	exitFailed = 1 // an error of another kind
	exitUsage  = 2 // the command line or the configuration is wrong
	exitFormat = 3 // another version of the program has written the store
	exitInUse  = 4 // another process has the port, the socket or the lock of the store
)

// cli is the command line, as kong parses it.
type cli struct {
	Config string `help:"Configuration file." placeholder:"FILE"`
	Data   string `help:"Data folder; overrides the one of the configuration." placeholder:"DIR"`

	Serve   serveCmd   `cmd:"" help:"Run the server."`
	User    userCmd    `cmd:"" help:"Add, change and list accounts."`
	Session sessionCmd `cmd:"" help:"Show sessions."`
	Push    pushCmd    `cmd:"" help:"Show what wakes the clients of an account."`
	Host    hostCmd    `cmd:"" help:"List, add and delete hosts kept in the store."`
	Archive archiveCmd `cmd:"" help:"Show and trim the archive of an account."`
	Message messageCmd `cmd:"" help:"Show what became of an archived message."`
	Modules modulesCmd `cmd:"" help:"Show which modules are loaded or skipped, and why."`
	Check   checkCmd   `cmd:"" help:"Check the configuration, certificates and limits of this machine."`
	Bytes   bytesCmd   `cmd:"" help:"Show how much memory each part of the running server holds."`
	Reload  reloadCmd  `cmd:"" help:"Make the running server read its configuration again."`
	Version versionCmd `cmd:"" help:"Show the version."`
}

// A run is one command that is carried out: by the process that the user has started, or by the
// server, for a command that came over the admin socket.
type run struct {
	ctx       context.Context // ends when the client of the admin socket goes away
	cli       *cli            // the parsed command line
	args      []string        // the arguments after the program's name
	stdin     io.Reader
	out       io.Writer
	errOut    io.Writer
	server    *program // the server that carries the command out; nil: this process is none
	noServer  bool     // no server answered at the admin socket
	mayCreate bool     // the command may make a data folder: it adds an account or a host
	onServe   func()   // called first by canto serve, in a process of its own; nil in tests

	// For tests; nil or 0 otherwise.
	options      func(*store.Options) // changes the store's options
	onReady      func(*program)       // called when the server is ready
	dns          resolver             // replaces the system's resolver in canto check dns
	certInterval time.Duration        // replaces certCheckInterval
}

// An exitStatus is an error with the exit status that it causes.
type exitStatus struct {
	status int
	err    error
}

// Error returns the text of the error.
func (e exitStatus) Error() string { return e.err.Error() }

// Unwrap returns the error.
func (e exitStatus) Unwrap() error { return e.err }

func main() {
	os.Exit(execute(&run{ctx: context.Background(), args: os.Args[1:], stdin: os.Stdin, out: os.Stdout,
		errOut: os.Stderr, onServe: setTimerSlack}))
}

// execute parses r.args, runs the command and returns the exit status. It prints an error as one
// line, with a remedy.
//
//  1. Refuse arguments that are not UTF-8, and rewrite common spellings (plainWords).
//  2. Parse. kong ends the process for --help; here that is a panic, which is recovered.
//  3. Run the command, and choose the exit status by its error.
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
		panic(err) // the tags of cli are wrong
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
			fmt.Fprintf(r.errOut, "canto: argument %d is not UTF-8: write it in UTF-8\n", i+1)
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

// An exitPanic is the value of the panic that replaces kong's exit.
type exitPanic struct{}

// emptyFlag returns an error for a flag with an empty value, as from an unset variable of a shell:
// it does not mean the same as no flag.
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

// plainWords rewrites spellings that many programs understand: no arguments and "help" become
// --help, "help COMMAND" becomes COMMAND --help, and --version becomes version.
func plainWords(args []string) []string {
	if len(args) == 0 {
		return []string{"--help"}
	}
	at := 0 // index of the first word that is neither --config nor --data nor the value of one
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
	case at+2 == len(args) && args[at+1] == "help" &&
		slices.Contains([]string{"user", "host", "archive"}, args[at]):
		return slices.Concat(args[:at+1], []string{"--help"})
	}
	return args
}

// config returns the configuration: the running server's; or the file that --config names; or
// canto.toml in the current folder; or the defaults. --data overrides its data folder.
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

// adminSocket returns the path of the admin socket, which is relative to the data folder.
func (c *config) adminSocket() string {
	if filepath.IsAbs(c.Listen.Admin) {
		return c.Listen.Admin
	}
	return filepath.Join(c.Data, c.Listen.Admin)
}

// withStore carries out a command that needs the store. In a server, it calls f with the server's
// store. Otherwise it forwards the command to the running server; if there is none, it opens the
// data folder and calls f with that store. write: f changes something.
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

// chownToOwner gives files that root has made in the data folder of another user to that user,
// whose server could not open them otherwise.
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

// forward gives the command to the running server, which carries it out. done is false if no server
// runs, or if this process is the server. A second call does not ask again.
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

// forwardTo is forward with a configuration that was read before. It sends the arguments and
// standard input, and prints what the server returns. A socket that this user may not use is an
// error, as a server may run behind it.
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

// permissionError adds a remedy to err, which says that this user may not use the data folder or
// its socket.
func (c *config) permissionError(err error) error {
	if fi, e := os.Stat(filepath.Dir(c.adminSocket())); e == nil {
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
			return fmt.Errorf("%w: the folder is user %d's: run this as that user or as root", err, st.Uid)
		}
	}
	return fmt.Errorf("%w: run this as the user who runs the server, or as root; if the folder is this user's, "+
		"%s must be user %d's with all rights (chown, chmod u+rwX)", err, c.Data, os.Geteuid())
}

// maxInput bounds the standard input that is sent to a running server, in bytes. In base64, and
// with the rest of the command, it fits the request that the admin socket accepts.
const maxInput = 180 << 20

// trimErrorPrefix removes the program's name from an error line, as it will be printed again.
func trimErrorPrefix(b []byte) string {
	return string(bytes.TrimPrefix(bytes.TrimSpace(b), []byte("canto: ")))
}

// wantsInput reports whether the command reads standard input. For an import that is the file that
// it names.
func (c *cli) wantsInput() bool {
	return c.User.Import.File != "" || c.User.Add.PasswordStdin || c.User.Passwd.PasswordStdin
}

// versionCmd is `canto version`.
type versionCmd struct{}

// Version is what `canto version` prints and what clients are told (XEP-0092).
const Version = "0.1.0"

// Run prints the version, and the revision that the program was built from.
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
