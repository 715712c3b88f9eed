// Canto-bench measures Canto: it starts a server in a second process, logs its clients in, has each
// exchange messages with its neighbour, and prints what that cost the server.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"canto/bench"
)

type cli struct {
	Sessions int    `help:"How many." default:"10000"`
	Rounds   int    `help:"Messages that each client sends." default:"5"`
	Server   string `help:"The canto program; built if it is not named." placeholder:"FILE"`
}

func main() {
	var c cli
	kong.Parse(&c, kong.Name("canto-bench"), kong.Description("Measures Canto with many sessions."))
	if err := c.run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "canto-bench:", err)
		os.Exit(1)
	}
}

func (c *cli) run(out io.Writer) error {
	dir, err := os.MkdirTemp("", "canto-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if c.Server == "" {
		c.Server = filepath.Join(dir, "canto")
		if b, err := exec.Command("go", "build", "-o", c.Server, "canto/cmd/canto").CombinedOutput(); err != nil {
			return fmt.Errorf("building the server: %s: name one with --server", b)
		}
	}
	config := filepath.Join(dir, "canto.toml")
	text := "[listen]\nc2s = ['127.0.0.1:0']\nc2s_tls = []\nhttp = []\nhttps = []\ndebug = []\n[c2s]\nrequire_tls = false\n[host.localhost]\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	var users strings.Builder
	for i := range c.Sessions {
		fmt.Fprintf(&users, "bench%d@localhost\tbench\n", i)
	}
	args := []string{"--config", config, "--data", filepath.Join(dir, "data")}
	start := time.Now()
	imp := exec.Command(c.Server, append([]string{"user", "import", "--shared-salt", "-"}, args...)...)
	imp.Stdin = strings.NewReader(users.String())
	if b, err := imp.CombinedOutput(); err != nil {
		return fmt.Errorf("accounts: %s", b)
	}
	fmt.Fprintf(out, "accounts   %d in %.1f s\n", c.Sessions, time.Since(start).Seconds())
	srv := exec.Command(c.Server, append([]string{"serve"}, args...)...)
	srv.Stderr = os.Stderr
	stdout, err := srv.StdoutPipe()
	if err != nil {
		return err
	}
	if err := srv.Start(); err != nil {
		return err
	}
	defer func() {
		srv.Process.Signal(syscall.SIGTERM)
		srv.Wait()
	}()
	addr, err := ready(stdout)
	if err != nil {
		return err
	}
	return c.measure(out, addr, srv.Process.Pid)
}

// ready waits for the server's line and takes the address out of it.
func ready(r io.Reader) (netip.AddrPort, error) {
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		for _, f := range strings.Fields(sc.Text()) {
			if a, ok := strings.CutPrefix(f, "c2s="); ok {
				return netip.ParseAddrPort(strings.Split(a, ",")[0])
			}
		}
	}
	return netip.AddrPort{}, errors.New("the server did not start")
}

// idleAfter is how long after the last login memory is looked at: a server may need it to tidy up.
const idleAfter = 15 * time.Second

func (c *cli) measure(out io.Writer, addr netip.AddrPort, pid int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	f, err := bench.New(bench.Config{Addr: addr, Domain: "localhost", Clients: c.Sessions,
		User: func(i int) (string, string) { return fmt.Sprintf("bench%d", i), "bench" }})
	if err != nil {
		return err
	}
	defer f.Close()
	before, err := bench.Process(pid)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := f.Login(ctx); err != nil {
		return err
	}
	f.Settle(time.Second)
	wall := time.Since(start)
	after, err := bench.Process(pid)
	if err != nil {
		return err
	}
	n := float64(c.Sessions)
	fmt.Fprintf(out, "bound      %d sessions in %.1f s\n", f.Bound(), wall.Seconds())
	fmt.Fprintf(out, "login      %.0f us of server CPU each (goal 120 plain)\n", (after.CPU-before.CPU).Seconds()*1e6/n)
	time.Sleep(idleAfter)
	idle, err := bench.Process(pid)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "memory     %.2f kB RSS a session (goal 1.7 plain)\n", float64(idle.RSS-before.RSS)/1000/n)
	start = time.Now()
	got, err := f.Exchange(ctx, c.Rounds, strings.Repeat("x", 100))
	if err != nil {
		return err
	}
	wall = time.Since(start)
	end, err := bench.Process(pid)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "messages   %d delivered, none lost, in %.1f s: %.0f us of server CPU each (goal 18)\n", got, wall.Seconds(), (end.CPU-idle.CPU).Seconds()*1e6/float64(got))
	return nil
}
