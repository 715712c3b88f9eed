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

// userCmd is `canto user`.
type userCmd struct {
	Add    userAdd    `cmd:"" help:"Add an account."`
	Passwd userPasswd `cmd:"" help:"Change a password; the account's sessions end."`
	Del    userDel    `cmd:"" help:"Delete an account and everything stored for it."`
	List   userList   `cmd:"" help:"List the accounts of one domain, or of all."`
	Show   userShow   `cmd:"" help:"Show one account."`
	Ban    userBan    `cmd:"" help:"Keep an account from logging in; its sessions and tokens end."`
	Unban  userUnban  `cmd:"" help:"Let an account log in again."`
	Import userImport `cmd:"" help:"Add accounts from lines of jid<TAB>password."`

	Clients userClients `cmd:"" help:"List the clients of an account, or sign one out."`
}

// password has the flags of commands that set a password.
type password struct {
	Password      string `help:"The password; by default a random one, which is printed." placeholder:"P"`
	PasswordStdin bool   `help:"Read the password from standard input."`
}

// get returns the password: the first line of standard input, the flag's value, or a random one (made).
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

// parseAccount parses the address of an account. The error names the character that is not allowed.
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
		return j, exitStatus{exitUsage, fmt.Errorf("%q is not an account: write it like name@domain", text)}
	}
	return j, nil
}

// checkTakesAccounts returns an error if j is at a service host of the file, which has no accounts.
func (c *config) checkTakesAccounts(j jid.JID) error {
	if c.Host[j.Domain()].Service {
		return fmt.Errorf("%s: %s is a service host, which has no accounts: name a host where users log in", j,
			j.Domain())
	}
	return nil
}

// parseDomain parses the name of a domain, in any spelling, and prepares it.
func parseDomain(text string) (string, error) {
	d, err := jid.PrepareDomain(text)
	if err != nil {
		return "", exitStatus{exitUsage, fmt.Errorf("%q is not a domain: write it like example.org", text)}
	}
	return d, nil
}

// deriveKeys derives the keys of a password for every hash and returns them encoded, as they are
// stored.
func deriveKeys(pw string, iterations int) ([]byte, error) {
	k, err := sasl.DeriveKeys([]byte(pw), iterations, rand.Reader, sasl.SHA1, sasl.SHA256, sasl.SHA512)
	return k.Encode(), passwordError(pw, err)
}

// passwordError says why pw is not allowed as a password, if that is what err is about; otherwise
// it returns err.
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
		err = errors.New("the password is not UTF-8: " + allowed)
	case at >= 0:
		r, _ := utf8.DecodeRuneInString(pw[at:])
		err = fmt.Errorf("the password has %U as its character %d, which is a control character, a joiner, "+
			"or not assigned: %s", r, utf8.RuneCountInString(pw[:at])+1, allowed)
	default:
		err = fmt.Errorf("the password has %d bytes: %s", len(pw), allowed)
	}
	return exitStatus{exitUsage, err}
}

// firstInvalidRune returns the index of the first character of text that is not ok by itself, nor
// together with the characters before it; -1 if there is none.
func firstInvalidRune(text string, ok func(string) bool) int {
	for i, r := range text {
		if !ok(string(r)) && !ok(text[:i]+string(r)) {
			return i
		}
	}
	return -1
}

// announceAccount tells the running server that there is an account at j, as it may have j in its
// negative cache.
func (r *run) announceAccount(j jid.JID) {
	if r.server != nil {
		r.server.Router.Table.NoteCreated(j)
	}
}

// endSessions ends the account's sessions on the running server with a stream error.
func (r *run) endSessions(j jid.JID, reason error) {
	if r.server != nil {
		r.server.Router.Kick(j, reason)
	}
}

// changeKeys is the common part of `user add` and `user passwd`. check refuses an account before a
// password is read; it may be nil.
//
//  1. Parse the address, and forward the command if a server runs.
//  2. Read or make the password, and derive its keys.
//  3. Let change store the keys, and print the password if it was made here.
func (r *run) changeKeys(account string, p *password, check func(jid.JID) error,
	change func(db *store.DB, j jid.JID, keys []byte) error) error {
	j, err := parseAccount(account)
	if err != nil {
		return err
	}
	if done, err := r.forward(); done || err != nil { // reads standard input, if it forwards
		return err
	}
	if check != nil {
		if err := check(j); err != nil {
			return err
		}
	}
	pw, made, err := p.get(r)
	if err != nil {
		return err
	}
	keys, err := deriveKeys(pw, sasl.DefaultIterations)
	if err != nil {
		return err
	}
	return r.withStore(true, func(db *store.DB) error {
		if err := change(db, j, keys); err != nil {
			return err
		}
		if made {
			fmt.Fprintf(r.out, "%s\t%s\n", j, pw)
		}
		return nil
	})
}

// userAdd is `canto user add`.
type userAdd struct {
	JID string `arg:"" name:"jid" help:"The account: name@domain."`
	password
}

// Run makes the account.
func (u *userAdd) Run(r *run) error {
	check := func(j jid.JID) error {
		conf, err := r.config()
		if err == nil {
			err = conf.checkTakesAccounts(j)
		}
		r.mayCreate = true
		return err
	}
	return r.changeKeys(u.JID, &u.password, check, func(db *store.DB, j jid.JID, keys []byte) error {
		if err := createAccount(r, db, j, keys); err != nil {
			return err
		}
		r.announceAccount(j)
		return nil
	})
}

// userPasswd is `canto user passwd`.
type userPasswd struct {
	JID string `arg:"" name:"jid" help:"The account: name@domain."`
	password
}

// Run replaces the account's password and ends its sessions.
func (u *userPasswd) Run(r *run) error {
	return r.changeKeys(u.JID, &u.password, nil, func(db *store.DB, j jid.JID, keys []byte) error {
		if err := accountError(j, db.Accounts().SetKeys(r.ctx, j.Domain(), j.Local(), keys)); err != nil {
			return err
		}
		r.endSessions(j, &session.StreamError{Condition: "reset", Text: "the password was changed"})
		return nil
	})
}

// userDel is `canto user del`.
type userDel struct {
	JID string `arg:"" name:"jid" help:"The account: name@domain."`
}

// Run deletes the account. A running server tells its contacts and erases its rows; otherwise the next start
// does.
func (u *userDel) Run(r *run) error {
	j, err := parseAccount(u.JID)
	if err != nil {
		return err
	}
	return r.withStore(true, func(db *store.DB) error {
		gone, err := db.Accounts().Delete(r.ctx, j.Domain(), j.Local())
		if err != nil || r.server == nil {
			return accountError(j, err)
		}
		return storage.FinishDeletion(r.server.Router, db, gone, nil)
	})
}

// userList is `canto user list`.
type userList struct {
	Domain string `arg:"" optional:"" help:"Only the accounts of this domain."`
}

// Run prints the addresses of accounts, one on each line.
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

// userShow is `canto user show`.
type userShow struct {
	JID string `arg:"" name:"jid" help:"The account: name@domain."`
}

// Run prints what the store has in the account's row, but for secrets.
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

// userBan is `canto user ban`.
type userBan struct {
	JID string `arg:"" name:"jid" help:"The account: name@domain."`
}

// Run keeps the account from logging in and ends its sessions.
func (u *userBan) Run(r *run) error { return ban(r, u.JID, true) }

// userUnban is `canto user unban`.
type userUnban struct {
	JID string `arg:"" name:"jid" help:"The account: name@domain."`
}

// Run lets the account log in again.
func (u *userUnban) Run(r *run) error { return ban(r, u.JID, false) }

// ban bans an account, or ends a ban.
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
			if err := r.revokeClients(db, j); err != nil {
				return fmt.Errorf("%s is banned, but its tokens could not be deleted: %w: try again", j, err)
			}
			r.endSessions(j, &session.StreamError{Condition: "policy-violation", Text: "the account is disabled"})
		}
		return nil
	})
}

// userImport is `canto user import`.
type userImport struct {
	SharedSalt bool   `help:"Derive the keys of equal passwords once. For load tests only: the store then shows which accounts have equal passwords."`
	Iterations int    `help:"Iterations of PBKDF2." default:"10000"`
	File       string `arg:"" help:"The file; - is standard input."`
}

// maxImportLine bounds a line of an import, in bytes. The longest address and the longest password
// have 4 KiB together.
const maxImportLine = 64 << 10

// importBatch is how many accounts are derived, and then given to the store, at a time.
const importBatch = 2000

// Run adds the accounts of a file.
//
//  1. Open the file, as the user who has typed the command, and forward its contents if a server runs: the
//     server opens no file.
//  2. Read and check all lines. If one is wrong, nothing is imported.
//  3. Derive the keys and add the accounts. Accounts that exist are reported and skipped.
func (u *userImport) Run(r *run) error {
	if u.Iterations < sasl.MinIterations || u.Iterations > sasl.MaxIterations {
		return exitStatus{exitUsage, fmt.Errorf("--iterations is from %d to %d", sasl.MinIterations,
			sasl.MaxIterations)}
	}
	name := "standard input"
	if u.File != "-" {
		name = u.File
	}
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
	if done, err := r.forward(); done || err != nil { // reads the input, if it forwards
		return err
	}
	conf, err := r.config()
	if err != nil {
		return err
	}
	rows, err := u.read(r.stdin, name, conf) // a wrong line leaves no data folder behind
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

// An importLine is an account of an import.
type importLine struct {
	line     int // number of the line
	jid      jid.JID
	password string
	creds    []byte // the derived keys
	err      error  // of deriving
}

// read reads and checks all lines. If one is wrong, nothing is imported.
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

// load derives keys on all cores and adds the accounts, importBatch at a time. It returns how many
// were added. An account that can't be added is reported on errOut; an error of the store ends the
// import.
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

// derive derives the keys of a password; with --shared-salt once for equal passwords, by memo.
func (u *userImport) derive(pw string, memo *sync.Map) ([]byte, error) {
	if !u.SharedSalt {
		return deriveKeys(pw, u.Iterations)
	}
	f, _ := memo.LoadOrStore(pw, sync.OnceValues(func() ([]byte, error) {
		return deriveKeys(pw, u.Iterations)
	}))
	return f.(func() ([]byte, error))()
}

// hostCmd is `canto host`.
type hostCmd struct {
	List hostList `cmd:"" help:"List the hosts."`
	Add  hostAdd  `cmd:"" help:"Serve another domain."`
	Del  hostDel  `cmd:"" help:"Stop serving a domain; its accounts are kept."`
}

// hostList is `canto host list`.
type hostList struct{}

// Run prints the hosts of store and file.
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

// hostAdd is `canto host add`.
type hostAdd struct {
	Domain string `arg:""`
}

// Run adds a host to the store. A running server serves it at once.
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
			if service, _ := r.server.Role(d); service { // it was in the file when the server started
				return fmt.Errorf("%s has been a service host since canto was started: restart canto, and add "+
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

// hostDel is `canto host del`.
type hostDel struct {
	Domain string `arg:""`
}

// Run removes a host from the store. A running server ends its sessions.
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
			return fmt.Errorf("%w: canto host list shows the hosts", err)
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

// freshConfig returns the configuration as the file is now. In a server, the command ends with a
// reload, so the file must be one that the server can take, and it is checked before anything is
// changed.
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

// addHost adds a host to the store.
func addHost(r *run, db *store.DB, domain string) error {
	_, err := db.Hosts().Add(r.ctx, domain)
	if errors.Is(err, store.ErrExists) {
		return fmt.Errorf("%w: canto host list shows the hosts", err)
	}
	return err
}

// createAccount adds an account to the store.
func createAccount(r *run, db *store.DB, j jid.JID, creds []byte) error {
	_, err := db.Accounts().Create(r.ctx, j.Domain(), j.Local(), creds)
	return accountError(j, err)
}

// accountError adds the account and a remedy to an error of the store.
func accountError(j jid.JID, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("%s: %w: canto user list shows the accounts", j, err)
	case errors.Is(err, store.ErrExists):
		return fmt.Errorf("%w: canto user passwd gives it another password", err)
	}
	return fmt.Errorf("%s: %w", j, err)
}

// domains returns the names of all hosts, of file and store.
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

// hashName returns the name of the SCRAM mechanism with that hash.
func hashName(h sasl.Hash) string {
	switch h {
	case sasl.SHA1:
		return sasl.ScramSHA1.String()
	case sasl.SHA256:
		return sasl.ScramSHA256.String()
	}
	return sasl.ScramSHA512.String()
}
