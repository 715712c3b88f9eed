package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"canto/bench/accounts"
	"canto/bench/servers"
	"canto/bench/target"
)

// accountsCmd is the command accounts.
type accountsCmd struct {
	N        int    `arg:"" help:"Number of accounts."`
	Format   string `help:"Write the accounts in this format: canto (for canto user import), ejabberd (Mnesia's text) or prosody (a folder of files; needs --out)." placeholder:"KIND"`
	Register bool   `help:"Register the accounts on the server (XEP-0077)."`
	Out      string `help:"File to write, or Prosody's data folder; by default standard output." placeholder:"FILE"`
	TLS      string `name:"tls" help:"TLS of the connections that register: none, starttls or direct." default:"starttls"`
	InFlight int    `help:"Registrations in flight." default:"8"`
	serverFlags
}

// Run makes accounts. It checks the flags; with --register it registers the accounts on a running
// server; with --format it writes them for a server's own tool: for Prosody into the folder
// --out, otherwise to the file --out or to standard output. Mistakes in the flags are
// usageErrors.
func (c *accountsCmd) Run(w *environment) error {
	if c.N < 1 || (c.Format != "") == c.Register {
		return usageError{errors.New("how many accounts, and how? --format canto, --format prosody, " +
			"--format ejabberd, or --register")}
	}
	if err := firstError(
		atLeast("--in-flight", c.InFlight, 1, "1 or more"),
		oneOf("--tls", c.TLS, "none", "starttls", "direct"),
		oneOf("--format", c.Format, "canto", "ejabberd", "prosody"),
		c.serverFlags.check(),
	); err != nil {
		return err
	}
	if c.Register {
		return c.register(w)
	}
	a, err := c.exported()
	if err != nil {
		return usageError{err}
	}
	domain := c.Domain
	if domain == "" {
		domain = "localhost"
	}
	if c.Format == "prosody" {
		if c.Out == "" {
			return usageError{errors.New("Prosody has a file for each account: name its data folder with --out")}
		}
		return servers.ExportProsody(c.Out, domain, a)
	}
	if c.Out == "" {
		return servers.Export(w.out, c.Format, domain, a)
	}
	f, err := os.OpenFile(c.Out, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("the accounts can't be written: %w: name another file with --out", err)
	}
	if err := servers.Export(f, c.Format, domain, a); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// exported are the accounts as the exporters number them: a prefix, from 0.
func (c *accountsCmd) exported() (servers.Accounts, error) {
	prefix, ok := prefixOf(cmp.Or(c.User, "bench%d"))
	if !ok || c.First != 0 {
		return servers.Accounts{}, errors.New("exported accounts are called by a word and a number from 0: " +
			"--user 'word%d'")
	}
	return servers.Accounts{N: c.N, Prefix: prefix, Password: c.password()}, nil
}

func prefixOf(user string) (string, bool) {
	n := len(user) - len("%d")
	if n <= 0 || user[n:] != "%d" {
		return "", false
	}
	return user[:n], true
}

// register makes the accounts by in-band registration.
func (c *accountsCmd) register(w *environment) error {
	e, err := c.spec()
	if err != nil {
		return err
	}
	if e.Kind != "" {
		return usageError{errors.New("at which server? --server HOST:PORT (servers that are started here " +
			"have their accounts)")}
	}
	if err := e.CheckTLS(c.TLS); err != nil {
		return usageError{err}
	}
	s, err := e.Start(w.ctx, target.Requirements{})
	if err != nil {
		return err
	}
	made, existed, err := accounts.Register(w.ctx,
		accounts.Config{Target: s.Target, TLS: c.TLS, N: c.N, InFlight: c.InFlight})
	fmt.Fprintf(w.out, "%d accounts registered, %d existed\n", made, existed)
	return err
}
