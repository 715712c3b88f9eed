//go:build interop

package interop

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// An island is a network of its own, in which the server listens on XMPP's port of localhost, and a screen.
// So programs find it that know no port but the one of the domain, several at once, and whatever else listens
// on this machine. The server's certificate is in the place of the system's CAs, for the programs on the
// island only.
type island struct {
	p       *pair
	home    string
	display string
	thread  chan func() // runs functions on a thread in the island's network
}

// newIsland makes an island until the test ends.
func (p *pair) newIsland() *island {
	p.t.Helper()
	i := &island{p: p, home: p.t.TempDir(), thread: make(chan func())}
	go func() {
		// The thread is not unlocked, so it ends with the goroutine, and no other goroutine is in this network.
		runtime.LockOSThread()
		for f := range i.thread {
			f()
		}
	}()
	p.t.Cleanup(func() { close(i.thread) })
	i.on(func() error { return unix.Unshare(unix.CLONE_NEWNET) })
	i.on(func() error {
		out, err := exec.Command("sh", "-c", "ip link set lo up && ip route add default dev lo").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	var ln net.Listener
	i.on(func() (err error) { ln, err = net.Listen("tcp", "127.0.0.1:5222"); return err })
	p.t.Cleanup(func() { ln.Close() })
	go i.ferry(ln)
	i.screen()
	return i
}

// on runs a function in the island's network.
func (i *island) on(f func() error) {
	i.p.t.Helper()
	done := make(chan error)
	i.thread <- func() { done <- f() }
	if err := <-done; err != nil {
		i.p.t.Fatal(err)
	}
}

// ferry connects each connection of the island with the server.
func (i *island) ferry(ln net.Listener) {
	for {
		near, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer near.Close()
			far, err := net.Dial("tcp", i.p.Plain)
			if err != nil {
				return
			}
			defer far.Close()
			go func() {
				io.Copy(far, near)
				far.(*net.TCPConn).CloseWrite()
			}()
			io.Copy(near, far)
		}()
	}
}

// screen starts an X server without a screen that is seen. It chooses its number.
func (i *island) screen() {
	i.p.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		i.p.t.Fatal(err)
	}
	defer r.Close()
	x := exec.Command("Xvfb", "-displayfd", "3", "-screen", "0", "1024x768x24", "-nolisten", "tcp")
	x.ExtraFiles = []*os.File{w}
	err = x.Start()
	w.Close()
	if err != nil {
		i.p.t.Fatal(err)
	}
	i.p.t.Cleanup(func() {
		x.Process.Signal(syscall.SIGTERM)
		x.Wait()
	})
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		i.p.t.Fatalf("Xvfb has no display: %v", err)
	}
	i.display = ":" + strings.TrimSpace(line)
}

// An inhabitant is a program on an island, with a session bus of its own.
type inhabitant struct {
	i      *island
	cmd    *exec.Cmd
	output bytes.Buffer
}

// bundle is where GnuTLS on Debian looks for CAs.
const bundle = "/etc/ssl/certs/ca-certificates.crt"

// run starts a program on the island, where there is no DNS server to wait for. To the program its user is
// not root, as Gajim refuses root; outside of its user namespace its user is that of the test. It runs until
// end or the end of the test.
func (i *island) run(args ...string) *inhabitant {
	i.p.t.Helper()
	h := &inhabitant{i: i}
	h.cmd = exec.Command("unshare", append([]string{"--mount", "sh", "-c", "mount --bind \"$0\" " + bundle +
		" && mount --bind /dev/null /etc/resolv.conf" +
		" && exec unshare --user --map-user=1000 --map-group=1000 dbus-run-session -- \"$@\"",
		i.p.Certificate()}, args...)...)
	h.cmd.Env = append(i.p.environment(i.home), "DISPLAY="+i.display, "GDK_BACKEND=x11", "GSK_RENDERER=cairo",
		"LIBGL_ALWAYS_SOFTWARE=1", "NO_AT_BRIDGE=1", "GTK_A11Y=none", "XDG_CACHE_HOME="+i.home+"/cache",
		"XDG_RUNTIME_DIR="+i.home)
	h.cmd.Stdout, h.cmd.Stderr = &h.output, &h.output
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	i.on(h.cmd.Start)
	i.p.t.Cleanup(func() {
		h.end(syscall.SIGKILL)
		if i.p.t.Failed() {
			i.p.t.Logf("%v\n%s", args, tail(h.output.String()))
		}
	})
	return h
}

// end ends the program and its bus with a signal, and waits for it. A second call does nothing.
func (h *inhabitant) end(sig syscall.Signal) {
	if h.cmd.ProcessState == nil {
		syscall.Kill(-h.cmd.Process.Pid, sig)
		h.cmd.Wait()
	}
}

// sqlite runs SQL on a database, which it makes.
func sqlite(t *testing.T, file, sql string) {
	t.Helper()
	script, err := filepath.Abs("testdata/rows.py")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, script, file, "write")
	cmd.Stdin = strings.NewReader(sql)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", file, err, out)
	}
}

// dino is Dino. Its account is put into its database.
type dino struct {
	p *pair
	i *island
	h *inhabitant
}

func (g *dino) database() string { return filepath.Join(g.i.home, "share/dino/dino.db") }

func (g *dino) start() {
	if g.i == nil {
		g.i = g.p.newIsland()
		sqlite(g.p.t, g.database(), fmt.Sprintf("CREATE TABLE account ( id INTEGER PRIMARY KEY AUTOINCREMENT, "+
			"bare_jid TEXT NOT NULL UNIQUE, resourcepart TEXT, password TEXT, alias TEXT, enabled INTEGER, "+
			"roster_version TEXT, mam_earliest_synced INTEGER);\n"+
			"INSERT INTO account (bare_jid, resourcepart, password, enabled) VALUES ('%s', 'dino.1', '%s', 1);\n",
			g.p.juliet.address, g.p.juliet.password))
	}
	g.h = g.i.run("dino-im")
}

func (g *dino) stop() { g.h.end(syscall.SIGTERM) }

func (g *dino) readsArchive() bool { return true }

func (g *dino) kept() []string {
	return rows(g.p.t, g.database(), "SELECT m.body FROM content_item c JOIN message m ON m.id = c.foreign_id "+
		"WHERE c.content_type = 1 ORDER BY c.time, c.local_time, c.id")
}

// gajim is Gajim. Its account is put into the database of its settings.
type gajim struct {
	p *pair
	i *island
	h *inhabitant
}

// gajimSettings are those of version 5 of the database. The password is in it, as there is no keyring.
const gajimSettings = `CREATE TABLE settings (name TEXT UNIQUE, settings TEXT);
CREATE TABLE account_settings (account TEXT UNIQUE, settings TEXT);
INSERT INTO settings(name, settings) VALUES ('app', '{"use_keyring": false, "check_for_update": false,
	"autoaway": false, "sounds_on": false}');
INSERT INTO settings(name, settings) VALUES ('soundevents', '{}');
INSERT INTO settings(name, settings) VALUES ('status_presets', '{}');
INSERT INTO settings(name, settings) VALUES ('proxies', '{}');
INSERT INTO settings(name, settings) VALUES ('plugins', '{}');
INSERT INTO settings(name, settings) VALUES ('workspaces', '{"one": {"name": "One"}}');
INSERT INTO account_settings(account, settings) VALUES ('juliet', '{"account": {"name": "%[1]s",
	"hostname": "localhost", "password": "%[2]s", "savepass": true, "active": true, "autoconnect": true,
	"resource": "gajim"}, "contact": {}, "group_chat": {}}');
PRAGMA user_version=5;
`

func (g *gajim) start() {
	if g.i == nil {
		g.i = g.p.newIsland()
		local, _, _ := strings.Cut(g.p.juliet.address, "@")
		sqlite(g.p.t, filepath.Join(g.i.home, "config/gajim/settings.sqlite"),
			fmt.Sprintf(gajimSettings, local, g.p.juliet.password))
	}
	g.h = g.i.run("gajim", "-l", "gajim=INFO")
}

func (g *gajim) stop() { g.h.end(syscall.SIGTERM) }

func (g *gajim) readsArchive() bool { return true }

func (g *gajim) kept() []string {
	return rows(g.p.t, filepath.Join(g.i.home, "share/gajim/logs.db"), "SELECT message FROM logs "+
		"WHERE kind IN (4, 6) ORDER BY time, log_line_id")
}
