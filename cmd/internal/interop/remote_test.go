//go:build interop

package interop

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// A remote is a client of another project that a script of testdata runs. It stays logged in, comes back by
// itself when its connection is lost, sends what it is told, and says what comes. What it is told:
//
//	say TO BODY      send a message
//	archive [ID]     read the archive behind ID
//	inactive         say that the user does not look (XEP-0352)
//	end              log out
//
// What it says:
//
//	bound ADDRESS     it has a new session, with carbons, and is available
//	resumed           it has the session that it had
//	down              its connection is lost
//	heard HOW ID BODY a message; HOW is that of a message
//	missed ID BODY    a message of the archive
//	read              the archive is read
//	unknown           the archive does not have ID
//	acked BODY        the server has acknowledged this message
//	shown SHOW        presence of another account, if it was asked for that (show)
//	ok                it has logged out
type remote struct {
	t   *testing.T
	m   *member
	in  io.WriteCloser
	out sync.Mutex // guards writes to in
	// ended is closed when its process has ended.
	ended chan struct{}

	// What follows is guarded by the conversation's mu.
	up             bool // it has a session with a connection
	bound, resumed int  // how often
	missed         []message
	acked          []string
	shown          []string
	finished       bool // it has said ok
}

// join makes a script of testdata the last member of a conversation, and waits until it has a session.
func (c *conversation) join(p *pair, name string, args []string) *remote {
	c.t.Helper()
	r := &remote{t: c.t, ended: make(chan struct{})}
	r.m = &member{c: c, user: p.juliet, far: r}
	cmd := exec.Command(name, args...)
	cmd.Env = p.environment(c.t.TempDir())
	in, err := cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	var complaint bytes.Buffer
	cmd.Stderr, r.in = &complaint, in
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		defer close(r.ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			r.take(lines.Text())
		}
		cmd.Wait()
		c.mu.Lock()
		finished := r.finished
		c.mu.Unlock()
		if !finished {
			c.fail(fmt.Errorf("%v: %v: %s", args, cmd.ProcessState, tail(complaint.String())))
		}
	}()
	c.t.Cleanup(func() {
		cmd.Process.Kill()
		<-r.ended
		if c.t.Failed() {
			c.t.Logf("%v\n%s", args, tail(complaint.String()))
		}
	})
	c.devices = append(c.devices, r.m)
	r.until("have a session", func() bool { return r.bound == 1 })
	return r
}

// until waits until ok holds. It is called under the conversation's mu.
func (r *remote) until(what string, ok func() bool) {
	r.t.Helper()
	c := r.m.c
	var err error
	eventually(r.t, func() string { return r.m.user.address + " does not " + what }, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		err = c.err
		return err != nil || ok()
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// tell tells the script a line.
func (r *remote) tell(text string) error {
	r.out.Lock()
	defer r.out.Unlock()
	_, err := io.WriteString(r.in, text+"\n")
	return err
}

func (r *remote) say(to, _, body string) error { return r.tell("say " + to + " " + body) }

// end logs out.
func (r *remote) end() {
	r.t.Helper()
	r.tell("end")
	select {
	case <-r.ended:
	case <-time.After(deviceTimeout):
		r.t.Errorf("%s does not log out", r.m.user.address)
		return
	}
	r.m.c.mu.Lock()
	defer r.m.c.mu.Unlock()
	if !r.finished {
		r.t.Errorf("%s has not logged out: %v", r.m.user.address, r.m.c.err)
	}
}

// take takes a line of the script.
func (r *remote) take(text string) {
	c, m := r.m.c, r.m
	what, rest, _ := strings.Cut(text, " ")
	next := func() (word string) {
		word, rest, _ = strings.Cut(rest, " ")
		return strings.TrimPrefix(word, "-") // a word that is empty is written as -
	}
	if what == "heard" {
		m.hear(message{how: next(), id: next(), body: rest})
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch what {
	case "bound":
		_, m.resource, _ = strings.Cut(rest, "/")
		r.bound++
		r.up = true
		switch {
		case r.bound == 1:
		case !c.survives:
			c.err = fmt.Errorf("%s was not resumed: %s", m.user.address, text)
		default:
			r.catchUp()
		}
	case "resumed":
		r.resumed++
		r.up = true
		m.log = append(m.log, m.waiting...)
		m.waiting, m.reading = nil, false
	case "down":
		r.up = false
		m.reading, m.ended = c.survives, time.Now()
	case "missed":
		r.missed = append(r.missed, message{how: "archived", id: next(), body: rest})
	case "read":
		m.merge(r.missed)
		r.missed = nil
	case "unknown":
		if !m.forget(m.last()) {
			c.err = fmt.Errorf("the archive does not have %s, the last one that %s had heard", m.last(),
				m.user.address)
			return
		}
		r.catchUp()
	case "acked":
		r.acked = append(r.acked, rest)
	case "shown":
		r.shown = append(r.shown, rest)
	case "ok":
		r.finished = true
	}
}

// catchUp tells the script to read what it has missed. Under mu.
func (r *remote) catchUp() {
	last := r.m.last()
	go r.tell("archive " + last) // not under mu: the script may be writing, too
}

// checkAcks checks that what the server has acknowledged is in an archive. Under mu.
func (r *remote) checkAcks(archive []message) error {
	there := make(map[string]bool)
	for _, s := range archive {
		there[s.body] = true
	}
	for _, b := range r.acked {
		if !there[b] {
			return fmt.Errorf("%q of %s was acknowledged, and the archive does not have it", b, r.m.user.address)
		}
	}
	return nil
}
