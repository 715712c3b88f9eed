package main

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"canto/session"
	"canto/session/jid"
	"canto/session/sasl"
	"canto/session/storage"
	"canto/session/store"
)

type userCmd struct {
	Add    userAdd    `cmd:"" help:"Add an account."`
	Passwd userPasswd `cmd:"" help:"Change a password; the account's sessions end."`
	Del    userDel    `cmd:"" help:"Delete an account with all it has."`
	List   userList   `cmd:"" help:"List the accounts of a domain, or of all."`
	Show   userShow   `cmd:"" help:"Show one account."`
	Ban    userBan    `cmd:"" help:"Keep an account from logging in; its sessions end."`
	Unban  userUnban  `cmd:"" help:"Let it log in again."`
	Import userImport `cmd:"" help:"Add accounts from lines of jid<TAB>password."`
}

type password struct {
	Password      string `help:"The password; without it one is made and printed." placeholder:"P"`
	PasswordStdin bool   `help:"Read the password from standard input."`
}

func (p *password) get(r *run) (pw string, made bool, err error) {
	switch {
	case p.PasswordStdin:
		line, err := bufio.NewReader(r.stdin).ReadString('\n')
		if err != nil && err != io.EOF {
			return "", false, err
		}
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return "", false, exitStatus{exitUsage, errors.New("the password is empty: write it as the first " +
				"line of standard input")}
		}
		return line, false, nil
	case p.Password != "":
		return p.Password, false, nil
	}
	return rand.Text()[:20], true, nil
}

// parseAccount reads the address of an account.
func parseAccount(text string) (jid.JID, error) {
	j, err := jid.Parse(text)
	if err != nil {
		why := strings.TrimPrefix(err.Error(), "jid: ")
		if local, _, ok := strings.Cut(text, "@"); ok {
			at := firstInvalidRune(local, func(s string) bool {
				_, err := jid.New(s, "localhost", "")
				return err == nil
			})
			if at >= 0 {
				r, _ := utf8.DecodeRuneInString(local[at:])
				why += fmt.Sprintf(" (%q)", r)
			}
		}
		return j, exitStatus{exitUsage, fmt.Errorf("%q: %s: write it like name@domain", text, why)}
	}
	if l, _, res := j.Parts(); l == "" || res != "" {
		return j, exitStatus{exitUsage, fmt.Errorf("%q is no account: write it like name@domain", text)}
	}
	return j, nil
}

// checkTakesAccounts is an error if j is at a service host of the file, where users do not log in.
func (c *config) checkTakesAccounts(j jid.JID) error {
	if c.Host[j.Domain()].Service {
		return fmt.Errorf("%s: %s is a service host, which has no accounts: name a host where users log in", j,
			j.Domain())
	}
	return nil
}

// parseDomain reads the name of a domain, in any spelling, and prepares it.
func parseDomain(text string) (string, error) {
	d, err := jid.PrepareDomain(text)
	if err != nil {
		return "", exitStatus{exitUsage, fmt.Errorf("%q is no domain: write it like example.org", text)}
	}
	return d, nil
}

// deriveKeys makes the keys of a password for every hash, as they are stored.
func deriveKeys(pw string, iterations int) ([]byte, error) {
	k, err := sasl.DeriveKeys([]byte(pw), iterations, rand.Reader, sasl.SHA1, sasl.SHA256, sasl.SHA512)
	return k.Encode(), passwordError(pw, err)
}

// passwordError says what of pw no password may have (RFC 8265 §4.2), if that is what err is about.
func passwordError(pw string, err error) error {
	if !errors.Is(err, sasl.ErrPassword) {
		return err
	}
	const allowed = "letters, digits, symbols and blanks of any script are allowed, up to 1,023 bytes"
	switch at := firstInvalidRune(pw, func(s string) bool {
		_, err := sasl.PreparePassword([]byte(s))
		return err == nil
	}); {
	case pw == "":
		err = errors.New("the password is empty: " + allowed)
	case !utf8.ValidString(pw):
		err = errors.New("the password is no UTF-8: " + allowed)
	case at >= 0:
		r, _ := utf8.DecodeRuneInString(pw[at:])
		err = fmt.Errorf("the password has %U as its character %d, which is a control character, a joiner, "+
			"or not assigned: %s", r, utf8.RuneCountInString(pw[:at])+1, allowed)
	default:
		err = fmt.Errorf("the password has %d bytes: %s", len(pw), allowed)
	}
	return exitStatus{exitUsage, err}
}

// firstInvalidRune is where the first character of text begins that is not ok by itself, nor with those
// before it; -1: there is none.
func firstInvalidRune(text string, ok func(string) bool) int {
	for i, r := range text {
		if !ok(string(r)) && !ok(text[:i]+string(r)) {
			return i
		}
	}
	return -1
}

// announceAccount tells a running server that there is an account.
func (r *run) announceAccount(j jid.JID) {
	if r.server != nil {
		r.server.Router.Table.NoteCreated(j)
	}
}

// endSessions ends the account's sessions on a running server.
func (r *run) endSessions(j jid.JID, reason error) {
	if r.server != nil {
		r.server.Router.Kick(j, reason)
	}
}

type userAdd struct {
	JID string `arg:"" name:"jid" help:"The account: name@domain."`
	password
}

func (u *userAdd) Run(r *run) error {
	j, err := parseAccount(u.JID)
	if err != nil {
		return err
	}
	if done, err := r.forward(); done || err != nil { // before standard input is read here
		return err
	}
	conf, err := r.config()
	if err == nil {
		err = conf.checkTakesAccounts(j)
	}
	if err != nil {
		return err
	}
	pw, made, err := u.get(r)
	if err != nil {
		return err
	}
	c, err := deriveKeys(pw, sasl.DefaultIterations)
	if err != nil {
		return err
	}
	r.mayCreate = true
	return r.withStore(true, func(db *store.DB) error {
		if err := createAccount(r, db, j, c); err != nil {
			return err
		}
		r.announceAccount(j)
		if made {
			fmt.Fprintf(r.out, "%s\t%s\n", j, pw)
		}
		return nil
	})
}

type userPasswd struct {
	JID string `arg:"" name:"jid" help:"The account: name@domain."`
	password
}

func (u *userPasswd) Run(r *run) error {
	j, err := parseAccount(u.JID)
	if err != nil {
		return err
	}
	if done, err := r.forward(); done || err != nil { // before standard input is read here
		return err
	}
	pw, made, err := u.get(r)
	if err != nil {
		return err
	}
	c, err := deriveKeys(pw, sasl.DefaultIterations)
	if err != nil {
		return err
	}
	return r.withStore(true, func(db *store.DB) error {
		if err := accountError(j, db.Accounts().SetKeys(r.ctx, j.Domain(), j.Local(), c)); err != nil {
			return err
		}
		r.endSessions(j, &session.StreamError{Condition: "reset", Text: "the password was changed"})
		if made {
			fmt.Fprintf(r.out, "%s\t%s\n", j, pw)
		}
		return nil
	})
}

type userDel struct {
	JID string `arg:"" name:"jid" help:"The account: name@domain."`
}

func (u *userDel) Run(r *run) error {
	j, err := parseAccount(u.JID)
	if err != nil {
		return err
	}
	return r.withStore(true, func(db *store.DB) error {
		gone, err := db.Accounts().Delete(r.ctx, j.Domain(), j.Local())
		if err != nil || r.server == nil { // then the next start tells its contacts
			return accountError(j, err)
		}
		return storage.FinishDeletion(r.server.Router, db, gone, nil)
	})
}

type userList struct {
	Domain string `arg:"" optional:"" help:"Only this domain's."`
}

func (u *userList) Run(r *run) error {
	only := ""
	if u.Domain != "" {
		var err error
		if only, err = parseDomain(u.Domain); err != nil {
			return err
		}
	}
	return r.withStore(false, func(db *store.DB) error {
		s := db.Snapshot()
		defer s.Close()
		out := bufio.NewWriter(r.out)
		defer out.Flush()
		domains := []string{only}
		if only == "" {
			var err error
			if domains, err = r.domains(db, s); err != nil {
				return err
			}
		}
		for _, d := range domains {
			if err := db.Accounts().List(s, d, "", func(a store.Account) bool {
				fmt.Fprintf(out, "%s@%s\n", a.Local, a.Domain)
				return true
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

type userShow struct {
	JID string `arg:"" name:"jid" help:"The account: name@domain."`
}

func (u *userShow) Run(r *run) error {
	j, err := parseAccount(u.JID)
	if err != nil {
		return err
	}
	return r.withStore(false, func(db *store.DB) error {
		s := db.Snapshot()
		defer s.Close()
		a, err := db.Accounts().Get(s, j.Domain(), j.Local())
		if err != nil {
			return accountError(j, err)
		}
		fmt.Fprintf(r.out, "jid      %s\nid       %016x\ncreated  %s\nbanned   %v\n", j, a.ID,
			a.Created.UTC().Format(time.RFC3339), !a.Banned.IsZero())
		if c, err := sasl.DecodeKeys(a.Credentials, 0); err == nil {
			for _, k := range c {
				fmt.Fprintf(r.out, "keys     %s, %d iterations\n", hashName(k.Hash), k.Iterations)
			}
		}
		return nil
	})
}

type userBan struct {
	JID string `arg:"" name:"jid" help:"The account: name@domain."`
}

func (u *userBan) Run(r *run) error { return ban(r, u.JID, true) }

type userUnban struct {
	JID string `arg:"" name:"jid" help:"The account: name@domain."`
}

func (u *userUnban) Run(r *run) error { return ban(r, u.JID, false) }

func ban(r *run, text string, on bool) error {
	j, err := parseAccount(text)
	if err != nil {
		return err
	}
	return r.withStore(true, func(db *store.DB) error {
		change := func() error { return db.Accounts().Unban(r.ctx, j.Domain(), j.Local()) }
		if on {
			change = func() error { return db.Accounts().Ban(r.ctx, j.Domain(), j.Local(), "") }
		}
		if err := accountError(j, change()); err != nil {
			return err
		}
		if on {
			r.endSessions(j, &session.StreamError{Condition: "policy-violation", Text: "the account is disabled"})
		}
		return nil
	})
}

type userImport struct {
	SharedSalt bool   `help:"Derive equal passwords once. For load tests only: equal passwords show."`
	Iterations int    `help:"Iterations of PBKDF2." default:"10000"`
	File       string `arg:"" help:"The file; - is standard input."`
}

// maxImportLine bounds a line of an import: the longest address and the longest password are 4 KiB.
const maxImportLine = 64 << 10

// importBatch is how many accounts are one commit.
const importBatch = 2000

func (u *userImport) Run(r *run) error {
	if u.Iterations < sasl.MinIterations || u.Iterations > sasl.MaxIterations {
		return exitStatus{exitUsage, fmt.Errorf("--iterations is from %d to %d", sasl.MinIterations,
			sasl.MaxIterations)}
	}
	name := "standard input"
	if u.File != "-" {
		name = u.File
	}
	// The file is read here, as the user who typed the command: a running server gets what is in it, and
	// opens nothing.
	if name == u.File && r.server == nil {
		f, err := os.Open(u.File)
		if err != nil {
			return fmt.Errorf("%w: name a file that you may read, or - for standard input", err)
		}
		defer f.Close()
		if fi, err := f.Stat(); err == nil && fi.IsDir() {
			return fmt.Errorf("%s is a folder: name a file, or - for standard input", u.File)
		}
		r.stdin = f
	}
	if done, err := r.forward(); done || err != nil { // before the input is read here
		return err
	}
	conf, err := r.config()
	if err != nil {
		return err
	}
	rows, err := u.read(r.stdin, name, conf) // before a data folder is made
	if err != nil {
		return err
	}
	r.mayCreate = true
	return r.withStore(true, func(db *store.DB) error {
		n, err := u.load(r, db, rows, name)
		if err == nil && n < len(rows) {
			err = fmt.Errorf("%s: %d of %d accounts were not added, see above", name, len(rows)-n, len(rows))
		}
		if err == nil || n > 0 {
			fmt.Fprintf(r.out, "%d accounts added\n", n)
		}
		return err
	})
}

type importLine struct {
	line     int
	jid      jid.JID
	password string
	creds    []byte
	err      error
}

// read reads and checks all lines, so that of a file with a broken one nothing is imported.
func (u *userImport) read(in io.Reader, name string, conf *config) (rows []importLine, err error) {
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, maxImportLine)
	line := 0
	broken := func(err error) error {
		return fmt.Errorf("%s:%d: %v; nothing was imported", name, line, err)
	}
	for sc.Scan() {
		line++
		if strings.TrimSpace(sc.Text()) == "" {
			continue
		}
		who, pw, ok := strings.Cut(sc.Text(), "\t")
		if !ok {
			return nil, broken(errors.New("no tab: a line is jid<TAB>password"))
		}
		j, err := parseAccount(who)
		if err == nil {
			err = conf.checkTakesAccounts(j)
		}
		if err != nil {
			return nil, broken(err)
		}
		if _, err := sasl.PreparePassword([]byte(pw)); err != nil {
			return nil, broken(passwordError(pw, err))
		}
		rows = append(rows, importLine{line: line, jid: j, password: pw})
	}
	if err := sc.Err(); err != nil {
		line++
		if errors.Is(err, bufio.ErrTooLong) {
			err = fmt.Errorf("longer than %d bytes: a line is jid<TAB>password, and ends with a newline",
				maxImportLine)
		}
		return nil, broken(err)
	}
	return rows, nil
}

// load derives keys on all cores and adds the accounts, a block at a time.
func (u *userImport) load(r *run, db *store.DB, rows []importLine, name string) (n int, err error) {
	var memo sync.Map // password -> sync.OnceValues
	for len(rows) > 0 {
		block := rows[:min(len(rows), importBatch)]
		rows = rows[len(block):]
		var wg sync.WaitGroup
		next := make(chan *importLine)
		for range runtime.GOMAXPROCS(0) {
			wg.Go(func() {
				for row := range next {
					row.creds, row.err = u.derive(row.password, &memo)
				}
			})
		}
		for i := range block {
			next <- &block[i]
		}
		close(next)
		wg.Wait()
		list := make([]store.NewAccount, len(block))
		for i, row := range block {
			if row.err != nil {
				return n, fmt.Errorf("%s:%d: %w", name, row.line, row.err)
			}
			list[i] = store.NewAccount{Domain: row.jid.Domain(), Local: row.jid.Local(), Credentials: row.creds}
		}
		bad := 0
		_, err := db.Accounts().CreateMany(r.ctx, list, func(i int, err error) {
			bad++
			fmt.Fprintf(r.errOut, "canto: %s:%d: %v\n", name, block[i].line, err)
		})
		for _, row := range block {
			r.announceAccount(row.jid)
		}
		if err != nil {
			return n, fmt.Errorf("%s, lines %d to %d: %w", name, block[0].line, block[len(block)-1].line, err)
		}
		n += len(list) - bad
	}
	return n, nil
}

func (u *userImport) derive(pw string, memo *sync.Map) ([]byte, error) {
	if !u.SharedSalt {
		return deriveKeys(pw, u.Iterations)
	}
	f, _ := memo.LoadOrStore(pw, sync.OnceValues(func() ([]byte, error) {
		return deriveKeys(pw, u.Iterations)
	}))
	return f.(func() ([]byte, error))()
}

type hostCmd struct {
	List hostList `cmd:"" help:"List the hosts."`
	Add  hostAdd  `cmd:"" help:"Serve another domain."`
	Del  hostDel  `cmd:"" help:"Stop serving a domain; its accounts are kept."`
}

type hostList struct{}

func (hostList) Run(r *run) error {
	return r.withStore(false, func(db *store.DB) error {
		s := db.Snapshot()
		defer s.Close()
		err := db.Hosts().List(s, func(h store.HostRecord) bool {
			fmt.Fprintf(r.out, "%s\tstore\n", h.Domain)
			return true
		})
		c, err2 := r.config()
		if err2 == nil {
			for _, n := range c.hostNames() {
				role := ""
				if c.Host[n].Service {
					role = "\tservice"
				}
				fmt.Fprintf(r.out, "%s\tfile%s\n", n, role)
			}
		}
		return errors.Join(err, err2)
	})
}

type hostAdd struct {
	Domain string `arg:""`
}

func (h *hostAdd) Run(r *run) error {
	d, err := parseDomain(h.Domain)
	if err != nil {
		return err
	}
	r.mayCreate = true
	return r.withStore(true, func(db *store.DB) error {
		c, err := r.freshConfig()
		if err != nil {
			return err
		}
		if _, ok := c.Host[d]; ok {
			return fmt.Errorf("%s: the configuration file names it already", d)
		}
		if r.server != nil {
			if service, _ := r.server.Role(d); service { // it was in the file
				return fmt.Errorf("%s has been a service host since canto was started: start canto again, and add "+
					"it then", d)
			}
		}
		if err := addHost(r, db, d); err != nil {
			return err
		}
		if r.server != nil {
			_, err := r.server.reload()
			return err
		}
		return nil
	})
}

type hostDel struct {
	Domain string `arg:""`
}

func (h *hostDel) Run(r *run) error {
	d, err := parseDomain(h.Domain)
	if err != nil {
		return err
	}
	return r.withStore(true, func(db *store.DB) error {
		c, err := r.freshConfig()
		if err != nil {
			return err
		}
		if _, ok := c.Host[d]; ok && r.server != nil {
			return fmt.Errorf("%s: the configuration file names it: take its section out and run canto reload", d)
		}
		if err := db.Hosts().Delete(r.ctx, d); errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("%w: canto host list shows who is served", err)
		} else if err != nil {
			return err
		}
		if r.server != nil {
			_, err := r.server.reload()
			return err
		}
		return nil
	})
}

// freshConfig is the file as it is now. A running server takes it with the host that is added or deleted,
// so it must be one that it can take before anything is changed.
func (r *run) freshConfig() (*config, error) {
	if r.server == nil {
		return r.config()
	}
	c, _, err := r.server.read()
	if err == nil {
		err = c.dryRun()
	}
	if ce := new(configError); errors.As(err, &ce) {
		ce.cause += "; nothing was changed"
	}
	return c, err
}

func addHost(r *run, db *store.DB, domain string) error {
	_, err := db.Hosts().Add(r.ctx, domain)
	if errors.Is(err, store.ErrExists) {
		return fmt.Errorf("%w: canto host list shows who is served", err)
	}
	return err
}

func createAccount(r *run, db *store.DB, j jid.JID, creds []byte) error {
	_, err := db.Accounts().Create(r.ctx, j.Domain(), j.Local(), creds)
	return accountError(j, err)
}

// accountError says whom an error is about.
func accountError(j jid.JID, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("%s: %w: canto user list shows who there is", j, err)
	case errors.Is(err, store.ErrExists):
		return fmt.Errorf("%w: canto user passwd gives it another password", err)
	}
	return fmt.Errorf("%s: %w", j, err)
}

// domains are all hosts, of file and store.
func (r *run) domains(db *store.DB, s *store.Snapshot) (names []string, err error) {
	c, err := r.config()
	if err != nil {
		return nil, err
	}
	if names = c.hostNames(); len(names) == 0 && c.dev {
		names = []string{"localhost"}
	}
	err = db.Hosts().List(s, func(h store.HostRecord) bool {
		names = append(names, h.Domain)
		return true
	})
	return names, err
}

func hashName(h sasl.Hash) string {
	switch h {
	case sasl.SHA1:
		return sasl.ScramSHA1.String()
	case sasl.SHA256:
		return sasl.ScramSHA256.String()
	}
	return sasl.ScramSHA512.String()
}
