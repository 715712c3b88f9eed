package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"canto/bench"
	"canto/bench/result"
	"canto/bench/stub"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" { // a worker of a run under test
		os.Exit(execute(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// said is what a command line printed, and its exit status.
type said struct {
	code     int
	out, err string
}

func do(ctx context.Context, args ...string) said {
	var out, errOut bytes.Buffer
	code := execute(ctx, args, &out, &errOut)
	return said{code, out.String(), errOut.String()}
}

func server(t *testing.T) (*stub.Server, []string) {
	t.Helper()
	s, err := stub.Start(stub.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, []string{"--server", s.Addr().String(), "--direct", s.DirectAddr().String(), "--insecure"}
}

func with(a []string, more ...string) []string { return append(append([]string{}, more...), a...) }

const short = `
name = "short"
about = "a test"
[clients]
count = 20
[[phase]]
kind = "ramp"
[[phase]]
name = "talk"
kind = "hold"
length = "1s"
[[phase.do]]
kind = "chat"
rate = "200/s"
`

func file(t *testing.T, name, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// A run leaves a result that can be read and a page, and prints a summary.
func TestRun(t *testing.T) {
	_, at := server(t)
	dir := t.TempDir()
	got := do(t.Context(), with(at, "run", file(t, "short.toml", short), "--out", dir, "--clients", "30", "--tls", "starttls", "--rates", "0.5")...)
	if got.code != 0 {
		t.Fatalf("status %d: %s", got.code, got.err)
	}
	r, err := result.Load(filepath.Join(dir, "result.json"))
	if err != nil {
		t.Fatal(err)
	}
	if f, ok := r.Figure("talk.chat.done"); !ok || f.Value != 100 || r.Sessions != 30 || !strings.Contains(r.Target.TLS, "TLS 1.3") {
		t.Errorf("figure %+v, %d sessions, TLS %q", f, r.Sessions, r.Target.TLS)
	}
	if sc, err := bench.Parse("source", []byte(r.Scenario.Source)); err != nil || sc.Clients.Count != 30 || sc.Clients.TLS != "starttls" {
		t.Errorf("the scenario in the result is not the one that was run: %v\n%s", err, r.Scenario.Source)
	}
	page, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil || !bytes.Contains(page, []byte("<svg")) {
		t.Errorf("the page has no plots: %v", err)
	}
	if !regexp.MustCompile(`(?m)^talk +chat +\d`).MatchString(got.out) || !strings.Contains(got.out, "report: ") {
		t.Errorf("the summary is\n%s", got.out)
	}
	if !strings.Contains(got.err, "talk") {
		t.Errorf("nothing was shown while it ran: %s", got.err)
	}
	again := do(t.Context(), "report", filepath.Join(dir, "result.json"), "--out", filepath.Join(dir, "again.html"))
	if b, err := os.ReadFile(filepath.Join(dir, "again.html")); again.code != 0 || err != nil || !bytes.Equal(b, page) {
		t.Errorf("the report made again differs: status %d, %v", again.code, err)
	}
}

// What is wrong is said in one line, with what to do about it; its status tells usage from failure.
func TestRefusals(t *testing.T) {
	s, at := server(t)
	sc := file(t, "short.toml", short)
	dead, _ := server(t)
	addr := dead.Addr().String()
	dead.Close()
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"wrong password", with(at, "run", sc, "--password", "wrong"), 1, `authentication failed: not-authorized: the password is wrong, or the accounts do not exist`},
		{"nobody there", []string{"run", sc, "--server", addr}, 1, `connection refused: is the server running`},
		{"unknown scenario", []string{"run", "chats"}, 2, `there is no scenario "chats": one of archive, `},
		{"no such file", []string{"run", "./none.toml"}, 2, `can't be read`},
		{"a typing error", []string{"run", file(t, "x.toml", "name = 'x'\n[clients]\ncuont = 1\n")}, 2, `x.toml:3: there is no key "cuont": did you mean "count"?`},
		{"a bad value", []string{"run", file(t, "x.toml", "[[phase]]\nkind = 'hold'\nlength = 'long'\n")}, 2, `x.toml:3: `},
		{"no domain", []string{"run", sc, "--server", "192.0.2.1:5222"}, 1, `--domain`},
		{"peer and server", []string{"run", sc, "--peer", "canto", "--server", addr}, 2, `set one of them`},
		{"unknown peer", []string{"run", sc, "--peer", "jackal"}, 2, `one of canto, prosody, ejabberd`},
		{"an open agent", []string{"agent", "--listen", "0.0.0.0:0"}, 2, `--secret`},
		{"untrusted certificate", []string{"run", sc, "--direct", s.DirectAddr().String(), "--tls", "direct"}, 1, `certificate is not one for localhost: name its CA with --ca`},
		{"not a result", []string{"report", sc}, 2, `not a result of canto-bench`},
		{"no profiles", with(at, "profile", sc, "--out", t.TempDir()), 1, `has no profiles`},
		{"unknown command line", []string{"run", "--frob"}, 2, `unknown flag --frob`},
		{"unknown server", []string{"compare", "openfire"}, 2, `"openfire" is no server: one of canto`},
		{"unknown suite", []string{"compare", "--suite", "none"}, 2, `there is no suite "none"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := c.args
			if args[0] == "run" {
				args = append(append([]string{}, args...), "-q", "--out", t.TempDir())
			}
			got := do(t.Context(), args...)
			if got.code != c.code || !strings.Contains(got.err, c.want) {
				t.Errorf("status %d (want %d), and it says %q", got.code, c.code, got.err)
			}
			if strings.Count(got.err, "\n") != 1 {
				t.Errorf("it is not one line: %q", got.err)
			}
		})
	}
}

// A gate sets the status.
func TestGate(t *testing.T) {
	s, at := server(t)
	sc := file(t, "short.toml", short)
	dir := t.TempDir()
	slo := file(t, "slo.toml", "[[require]]\nfigure = '*.lost'\nat_most = 0\n[[require]]\nfigure = 'talk.chat.done'\nat_least = 190\n")
	if got := do(t.Context(), with(at, "run", sc, "-q", "--out", dir, "--slo", slo)...); got.code != 0 {
		t.Errorf("status %d: %s%s", got.code, got.out, got.err)
	}
	s.Faults.Drop(10)
	got := do(t.Context(), with(at, "run", sc, "-q", "--out", filepath.Join(dir, "2"), "--slo", slo, "--length", "1s")...)
	if got.code != 1 || !strings.Contains(got.out, "FAIL") || !strings.Contains(got.err, "requirements are not met") {
		t.Errorf("status %d with lost messages: %s%s", got.code, got.out, got.err)
	}
	// And afterwards, against another run.
	ratio := file(t, "ratio.toml", "[[require]]\nfigure = 'talk.chat.done'\nratio_to_baseline_at_least = 0.95\n")
	got = do(t.Context(), "slo", ratio, filepath.Join(dir, "2", "result.json"), "--baseline", filepath.Join(dir, "result.json"))
	if got.code != 1 || !strings.Contains(got.out, "FAIL") {
		t.Errorf("status %d with fewer done than the baseline: %s%s", got.code, got.out, got.err)
	}
}

// An interrupt leaves what was seen.
func TestInterrupted(t *testing.T) {
	s, at := server(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for s.Stats().Routed < 100 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	got := do(ctx, with(at, "run", file(t, "short.toml", short), "-q", "--out", dir, "--length", "1h")...)
	if got.code != exitInterrupted {
		t.Fatalf("status %d: %s", got.code, got.err)
	}
	r, err := result.Load(filepath.Join(dir, "result.json"))
	if err != nil || r.Partial != "interrupted in phase talk" {
		t.Errorf("%v, %+v", err, r)
	}
}

// A limit leaves what was seen, and fails.
func TestLimited(t *testing.T) {
	_, at := server(t)
	dir := t.TempDir()
	got := do(t.Context(), with(at, "run", file(t, "short.toml", short), "-q", "--out", dir, "--length", "1h", "--limit", "2s")...)
	if got.code != exitFailed || !strings.Contains(got.err, "limit was over") {
		t.Fatalf("status %d: %s", got.code, got.err)
	}
	r, err := result.Load(filepath.Join(dir, "result.json"))
	if err != nil || r.Partial != "interrupted in phase talk: the limit of 2s was over" {
		t.Errorf("%v, %+v", err, r)
	}
}

// Agents do what one process does.
func TestAgents(t *testing.T) {
	_, at := server(t)
	sc := file(t, "short.toml", short)
	var agents []string
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int, 2)
	for range 2 {
		ln, err := listen("127.0.0.1:0", "s3cret")
		if err != nil {
			t.Fatal(err)
		}
		agents = append(agents, "--agent", ln.Addr().String())
		go func() {
			bench.ServeAgent(ctx, ln, "s3cret", func(string) {})
			ended <- 0
		}()
	}
	dir := t.TempDir()
	got := do(t.Context(), with(append(at, agents...), "run", sc, "-q", "--out", dir, "--secret", "s3cret")...)
	if got.code != 0 {
		t.Errorf("status %d: %s", got.code, got.err)
	} else if r, err := result.Load(filepath.Join(dir, "result.json")); err != nil || r.Workers != 2 || r.Sessions != 20 {
		t.Errorf("%v: %d workers, %d sessions", err, r.Workers, r.Sessions)
	}
	got = do(t.Context(), with(append(at, agents...), "run", sc, "-q", "--out", dir, "--secret", "guess")...)
	if got.code != 1 || !strings.Contains(got.err, "another secret: give both ends the same --secret") {
		t.Errorf("status %d with a wrong secret: %s", got.code, got.err)
	}
	cancel()
	for range 2 {
		<-ended
	}
}

// Workers are processes of this program.
func TestWorkers(t *testing.T) {
	_, at := server(t)
	dir := t.TempDir()
	got := do(t.Context(), with(at, "run", file(t, "short.toml", short), "-q", "--out", dir, "--workers", "2")...)
	if got.code != 0 {
		t.Fatalf("status %d: %s", got.code, got.err)
	}
	if r, err := result.Load(filepath.Join(dir, "result.json")); err != nil || r.Workers != 2 || r.Sessions != 20 {
		t.Errorf("%v: %d workers, %d sessions", err, r.Workers, r.Sessions)
	}
}

// The scenarios that come along are listed, and printed as files that can be changed.
func TestScenarios(t *testing.T) {
	got := do(t.Context(), "scenarios")
	for _, n := range bench.Scenarios() {
		if !strings.Contains(got.out, n+" ") {
			t.Errorf("%s is not listed", n)
		}
		text := do(t.Context(), "scenarios", n)
		if s, err := bench.Parse(n, []byte(text.out)); err != nil || s.About == "" || s.Name != n {
			t.Errorf("%s, printed: %v", n, err)
		}
	}
}

// Every command and flag has a word of help.
func TestHelp(t *testing.T) {
	got := do(t.Context(), "--help")
	if got.code != 0 || !strings.Contains(got.out, "canto-bench-report") {
		t.Fatalf("status %d: %s%s", got.code, got.out, got.err)
	}
	for _, cmd := range []string{"run", "compare", "agree", "plan", "profile", "vm", "report", "slo", "scenarios", "accounts", "agent", "version"} {
		if h := do(t.Context(), cmd, "--help"); h.code != 0 || !strings.Contains(h.out, "Usage: canto-bench "+cmd) {
			t.Errorf("%s --help: status %d\n%s", cmd, h.code, h.out)
		}
	}
	if v := do(t.Context(), "version"); v.code != 0 || !strings.HasPrefix(v.out, "canto-bench ") {
		t.Error(fmt.Sprint(v))
	}
}

// Accounts come from a file for the server's tool, or from registering them; what was registered logs in.
func TestAccounts(t *testing.T) {
	s, at := server(t)
	if got := do(t.Context(), "accounts", "2", "--format", "canto", "--domain", "example.org"); got.code != 0 || got.out != "bench0@example.org\tbench\nbench1@example.org\tbench\n" {
		t.Errorf("status %d, exported: %q", got.code, got.out)
	}
	dir := t.TempDir()
	if got := do(t.Context(), "accounts", "3", "--format", "prosody", "--out", dir); got.code != 0 {
		t.Errorf("status %d: %s", got.code, got.err)
	}
	if list, _ := filepath.Glob(filepath.Join(dir, "*", "accounts", "*.dat")); len(list) != 3 {
		t.Errorf("%d of Prosody's files", len(list))
	}
	for i, want := range []string{"20 accounts registered, 0 existed\n", "0 accounts registered, 20 existed\n"} {
		if got := do(t.Context(), with(at, "accounts", "20", "--register", "--user", "new%d")...); got.code != 0 || got.out != want {
			t.Errorf("time %d: status %d, %q, %s", i+1, got.code, got.out, got.err)
		}
	}
	if n := s.Stats().Registered; n != 20 {
		t.Errorf("the server has %d", n)
	}
	if got := do(t.Context(), with(at, "run", file(t, "short.toml", short), "-q", "--out", t.TempDir(), "--user", "new%d")...); got.code != 0 {
		t.Errorf("they can't log in: %s", got.err)
	}
	if got := do(t.Context(), "accounts", "20"); got.code != exitUsage || !strings.Contains(got.err, "--register") {
		t.Errorf("status %d: %s", got.code, got.err)
	}
}
