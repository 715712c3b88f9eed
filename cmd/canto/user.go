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

	"canto/session"
	"canto/session/jid"
	"canto/session/sasl"
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
		return strings.TrimRight(line, "\r\n"), false, nil
	case p.Password != "":
		return p.Password, false, nil
	}
	return rand.Text()[:20], true, nil
}

// account reads the address of an account.
func account(text string) (jid.JID, error) {
	j, err := jid.Parse(text)
	if err != nil {
		return j, exitStatus{exitUsage, fmt.Errorf("%q: %w", text, err)}
	}
	if l, _, res := j.Parts(); l == "" || res != "" {
		return j, exitStatus{exitUsage, fmt.Errorf("%q is no account: write it like name@domain", text)}
	}
	return j, nil
}

// derive makes the keys of a password for every hash.
func derive(pw string, iterations int) (sasl.Credentials, error) {
	p, err := sasl.Prepare(pw)
	if err != nil {
		return nil, err
	}
	var c sasl.Credentials
	for _, h := range sasl.Hashes {
		salt := make([]byte, 16)
		rand.Read(salt)
		c = append(c, sasl.Derive(h, p, salt, iterations))
	}
	return c, nil
}

// born tells a running server that there is an account.
func (r *run) born(j jid.JID) {
	if r.server != nil {
		r.server.router.Table.Born(j)
	}
}

// kick ends the account's sessions on a running server.
func (r *run) kick(j jid.JID, reason error, f func(l *session.Local, a *session.Account)) {
	if r.server != nil {
		r.server.router.Kick(j, reason, f)
	}
}

type userAdd struct {
	JID string `arg:"" name:"jid" help:"The account: name@domain."`
	password
}

func (u *userAdd) Run(r *run) error {
	j, err := account(u.JID)
	if err != nil {
		return err
	}
	pw, made, err := u.get(r)
	if err != nil {
		return err
	}
	c, err := derive(pw, sasl.DefaultIterations)
	if err != nil {
		return err
	}
	return r.withStore(true, func(db *store.DB) error {
		if err := db.CreateAccounts([]store.NewAccount{{JID: j, Credentials: c.Encode(), Created: time.Now().Unix()}}); err != nil {
			return err
		}
		r.born(j)
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
	j, err := account(u.JID)
	if err != nil {
		return err
	}
	pw, made, err := u.get(r)
	if err != nil {
		return err
	}
	c, err := derive(pw, sasl.DefaultIterations)
	if err != nil {
		return err
	}
	return r.withStore(true, func(db *store.DB) error {
		if err := db.ChangeAccount(j, func(a *store.Account) error { a.Credentials = c.Encode(); return nil }); err != nil {
			return err
		}
		r.kick(j, &session.StreamError{Condition: "reset", Text: "the password was changed"}, nil)
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
	j, err := account(u.JID)
	if err != nil {
		return err
	}
	return r.withStore(true, func(db *store.DB) error {
		if err := db.DeleteAccount(j); err != nil {
			return err
		}
		r.kick(j, session.ErrNotAuthorized, func(l *session.Local, a *session.Account) { l.Forget(a) })
		return nil
	})
}

type userList struct {
	Domain string `arg:"" optional:"" help:"Only this domain's."`
}

func (u *userList) Run(r *run) error {
	return r.withStore(false, func(db *store.DB) error {
		s := db.Snapshot()
		defer s.Close()
		out := bufio.NewWriter(r.out)
		defer out.Flush()
		return s.AllAccounts(u.Domain, func(domain, local string, a store.Account) bool {
			fmt.Fprintf(out, "%s@%s\n", local, domain)
			return true
		})
	})
}

type userShow struct {
	JID string `arg:"" name:"jid" help:"The account: name@domain."`
}

func (u *userShow) Run(r *run) error {
	j, err := account(u.JID)
	if err != nil {
		return err
	}
	return r.withStore(false, func(db *store.DB) error {
		s := db.Snapshot()
		defer s.Close()
		a, ok, err := s.Lookup(j)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%s: %w", j, store.ErrNone)
		}
		fmt.Fprintf(r.out, "jid      %s\nid       %016x\ncreated  %s\nbanned   %v\n", j, a.ID, time.Unix(a.Created, 0).UTC().Format(time.RFC3339), a.Banned)
		if c, err := sasl.DecodeCredentials(a.Credentials); err == nil {
			for _, k := range c {
				fmt.Fprintf(r.out, "keys     %s, %d iterations\n", k.Hash.Mechanism(), k.Iterations)
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
	j, err := account(text)
	if err != nil {
		return err
	}
	return r.withStore(true, func(db *store.DB) error {
		if err := db.ChangeAccount(j, func(a *store.Account) error { a.Banned = on; return nil }); err != nil {
			return err
		}
		if on {
			r.kick(j, &session.StreamError{Condition: "policy-violation", Text: "the account is disabled"}, nil)
		}
		return nil
	})
}

type userImport struct {
	SharedSalt bool   `help:"Derive equal passwords once. For load tests only: equal passwords show."`
	Iterations int    `help:"Iterations of PBKDF2." default:"10000"`
	File       string `arg:"" help:"The file; - is standard input."`
}

// importBlock is how many accounts are one commit.
const importBlock = 2000

func (u *userImport) Run(r *run) error {
	if u.Iterations < sasl.MinIterations {
		return exitStatus{exitUsage, fmt.Errorf("--iterations is at least %d", sasl.MinIterations)}
	}
	return r.withStore(true, func(db *store.DB) error {
		in := r.stdin
		if u.File != "-" {
			f, err := os.Open(u.File)
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
		}
		n, err := u.load(r, db, in)
		if err == nil {
			fmt.Fprintf(r.out, "%d accounts added\n", n)
		}
		return err
	})
}

type importLine struct {
	jid   jid.JID
	creds []byte
	err   error
}

func (u *userImport) load(r *run, db *store.DB, in io.Reader) (n int, err error) {
	var memo sync.Map // password -> *sync.OnceValues
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, 64<<10)
	line := 0
	for more := true; more; {
		var raw []string
		for len(raw) < importBlock {
			if more = sc.Scan(); !more {
				break
			}
			raw = append(raw, sc.Text())
		}
		rows := make([]importLine, len(raw))
		var wg sync.WaitGroup
		next := make(chan int)
		for range runtime.GOMAXPROCS(0) {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for i := range next {
					rows[i] = u.parse(raw[i], &memo)
				}
			}()
		}
		for i := range raw {
			next <- i
		}
		close(next)
		wg.Wait()
		var list []store.NewAccount
		for i, row := range rows {
			if row.err != nil {
				return n, fmt.Errorf("%s:%d: %w", u.File, line+i+1, row.err)
			}
			if !row.jid.IsZero() {
				list = append(list, store.NewAccount{JID: row.jid, Credentials: row.creds, Created: time.Now().Unix()})
			}
		}
		if err := db.CreateAccounts(list); err != nil {
			return n, fmt.Errorf("%s, lines %d to %d: %w; nothing of these was added", u.File, line+1, line+len(raw), err)
		}
		for _, a := range list {
			r.born(a.JID)
		}
		n += len(list)
		line += len(raw)
	}
	return n, sc.Err()
}

func (u *userImport) parse(text string, memo *sync.Map) (row importLine) {
	if strings.TrimSpace(text) == "" {
		return row
	}
	name, pw, ok := strings.Cut(text, "\t")
	if !ok {
		row.err = errors.New("no tab: a line is jid<TAB>password")
		return row
	}
	if row.jid, row.err = account(name); row.err != nil {
		return row
	}
	if !u.SharedSalt {
		c, err := derive(pw, u.Iterations)
		row.creds, row.err = c.Encode(), err
		return row
	}
	f, _ := memo.LoadOrStore(pw, sync.OnceValues(func() ([]byte, error) {
		c, err := derive(pw, u.Iterations)
		return c.Encode(), err
	}))
	row.creds, row.err = f.(func() ([]byte, error))()
	return row
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
		names, err := s.Hosts()
		for _, n := range names {
			fmt.Fprintf(r.out, "%s\tstore\n", n)
		}
		c, err2 := r.config()
		if err2 == nil {
			for _, n := range c.hostNames() {
				fmt.Fprintf(r.out, "%s\tfile\n", n)
			}
		}
		return errors.Join(err, err2)
	})
}

type hostAdd struct {
	Domain string `arg:""`
}

func (h *hostAdd) Run(r *run) error {
	j, err := jid.Parse(h.Domain)
	if err != nil || j.Domain() != j.String() {
		return exitStatus{exitUsage, fmt.Errorf("%q is no domain", h.Domain)}
	}
	return r.withStore(true, func(db *store.DB) error {
		c, err := r.config()
		if err != nil {
			return err
		}
		if _, ok := c.Host[j.String()]; ok {
			return fmt.Errorf("%s: the configuration file names it already", j)
		}
		if err := db.AddHost(j.String()); err != nil {
			return err
		}
		if r.server != nil {
			return r.server.reload()
		}
		return nil
	})
}

type hostDel struct {
	Domain string `arg:""`
}

func (h *hostDel) Run(r *run) error {
	return r.withStore(true, func(db *store.DB) error {
		if err := db.DeleteHost(h.Domain); err != nil {
			return err
		}
		if r.server != nil {
			return r.server.reload()
		}
		return nil
	})
}
