package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"canto/bench"
	"canto/bench/result"
	"canto/bench/stub"
)

// The test binary is canto-bench, too: with this variable set it carries a command line out.
const asBench = "CANTO_BENCH_TEST_COMMAND"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" { // a worker of a run under test
		os.Exit(execute(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	if os.Getenv(asBench) != "" {
		main()
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
	got := do(t.Context(), with(at, "run", file(t, "short.toml", short), "--out", dir, "--clients", "30",
		"--tls", "starttls", "--rates", "0.5")...)
	if got.code != 0 {
		t.Fatalf("status %d: %s", got.code, got.err)
	}
	r, err := result.Load(filepath.Join(dir, "result.json"))
	if err != nil {
		t.Fatal(err)
	}
	if f, ok := r.Figure("talk.chat.done"); !ok || f.Value != 100 || r.Sessions != 30 ||
		!strings.Contains(r.Target.TLS, "TLS 1.3") {
		t.Errorf("figure %+v, %d sessions, TLS %q", f, r.Sessions, r.Target.TLS)
	}
	if sc, err := bench.Parse("source", []byte(r.Scenario.Source)); err != nil || sc.Clients.Count != 30 ||
		sc.Clients.TLS != "starttls" {
		t.Errorf("the scenario in the result is not the one that was run: %v\n%s", err, r.Scenario.Source)
	}
	page, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil || !bytes.Contains(page, []byte("<svg")) {
		t.Errorf("the page has no plots: %v", err)
	}
	if !regexp.MustCompile(`(?m)^talk +chat +\d`).MatchString(got.out) ||
		!strings.Contains(got.out, "report: ") {
		t.Errorf("the summary is\n%s", got.out)
	}
	if !strings.Contains(got.err, "talk") {
		t.Errorf("nothing was shown while it ran: %s", got.err)
	}
	again := do(t.Context(), "report", filepath.Join(dir, "result.json"), "--out",
		filepath.Join(dir, "again.html"))
	if b, err := os.ReadFile(filepath.Join(dir, "again.html")); again.code != 0 || err != nil ||
		!bytes.Equal(b, page) {
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
		{"wrong password", with(at, "run", sc, "--password", "wrong"), 1,
			`authentication failed: not-authorized: the password is wrong, or the accounts do not exist`},
		{"no server there", []string{"run", sc, "--server", addr}, 1, `connection refused: is the server running`},
		{"unknown scenario", []string{"run", "chats"}, 2, `there is no scenario "chats": one of archive, `},
		{"no such file", []string{"run", "./none.toml"}, 2, `can't be read`},
		{"a typing error", []string{"run", file(t, "x.toml", "name = 'x'\n[clients]\ncuont = 1\n")}, 2,
			`x.toml:3: there is no key "cuont": did you mean "count"?`},
		{"a bad value", []string{"run", file(t, "x.toml", "[[phase]]\nkind = 'hold'\nlength = 'long'\n")}, 2,
			`x.toml:3: `},
		{"no domain", []string{"run", sc, "--server", "192.0.2.1:5222"}, 2, `--domain`},
		{"peer and server", []string{"run", sc, "--peer", "canto", "--server", addr}, 2, `set one of them`},
		{"unknown peer", []string{"run", sc, "--peer", "jackal"}, 2, `one of canto, prosody, ejabberd`},
		{"an open agent", []string{"agent", "--listen", "0.0.0.0:0"}, 2, `--secret`},
		{"untrusted certificate", []string{"run", sc, "--direct", s.DirectAddr().String(), "--tls", "direct"},
			1, `certificate is not one for localhost: name its CA with --ca`},
		{"not a result", []string{"report", sc}, 2, `not a result of canto-bench`},
		{"no profiles", with(at, "profile", sc, "--out", t.TempDir()), 1, `has no profiles`},
		{"unknown command line", []string{"run", "--frob"}, 2, `unknown flag --frob`},
		{"no clients", []string{"run", sc, "--clients", "0"}, 2, `--clients is 0: 1 or more`},
		{"fewer clients than none", []string{"run", sc, "--clients=-3"}, 2, `--clients is -3: 1 or more`},
		{"no rates", []string{"run", sc, "--rates", "0"}, 2, `--rates is 0: a factor above 0`},
		{"rates that are no number", []string{"run", sc, "--rates", "nan"}, 2, `--rates is NaN: a factor above 0`},
		{"another rate", []string{"run", sc, "--rate", "5/s"}, 2, `--rate is "5/s": one of max`},
		{"no rows", []string{"run", sc, "--rows", "0"}, 2, `--rows is 0: 1 or more`},
		{"rows of no archive", []string{"run", sc, "--rows", "5"}, 2, `the scenario fills no archive`},
		{"no length", []string{"run", sc, "--length", "0s"}, 2, `--length is 0s: 1ms or more`},
		{"a negative length", []string{"run", sc, "--length=-1s"}, 2, `--length is -1s: 1ms or more`},
		{"no limit", []string{"run", sc, "--limit", "0s"}, 2, `--limit is 0s: 1s or more; left out, there is none`},
		{"looks without a pause", []string{"run", sc, "--every", "0s"}, 2, `--every is 0s: 100ms or more`},
		{"fewer workers than none", []string{"run", sc, "--workers=-1"}, 2, `--workers is -1: 1 or more`},
		{"an account before the first", []string{"run", sc, "--first=-1"}, 2, `--first is -1: 0 or more`},
		{"no process", []string{"run", sc, "--pid", "0"}, 2, `--pid is 0: the number of a process`},
		{"another TLS", []string{"run", sc, "--tls", "ssl"}, 2, `--tls is "ssl": one of none, starttls, direct`},
		{"shares of more than all", []string{"run",
			file(t, "x.toml", "[clients]\ncount = 10\n[[group]]\nname = 'a'\nshare = 0.9\n[[group]]\nname = "+
				"'b'\nshare = 0.9\n[[phase]]\nkind = 'ramp'\n")}, 2,
			`x.toml:3: the shares of the groups are 1.8 together`},
		{"no clients to compare", []string{"compare", "--scenario", sc, "--clients", "0"}, 2, `--clients is 0`},
		{"no rounds", []string{"compare", "--rounds", "0"}, 2, `--rounds is 0: 1 or more`},
		{"a floor below 1", []string{"compare", "--floor", "0.5"}, 2, `--floor is 0.5: 1 or more`},
		{"a plan of nothing", []string{"plan", "--sessions", "5"}, 2, `--sessions is 5: 30 or more`},
		{"a plan of more than all", []string{"plan", "--utilisation", "1.5"}, 2,
			`--utilisation is 1.5: from 0.01 to 1`},
		{"a plan without time", []string{"plan", "--budget", "0s"}, 2, `--budget is 0s: 10s or more`},
		{"a guest of no clients", []string{"vm", "--clients", "0"}, 2, `--clients is 0: 1 or more`},
		{"a guest without cores", []string{"vm", "--cores", "0"}, 2, `--cores is 0: 1 or more`},
		{"accounts of another kind", []string{"accounts", "5", "--format", "xml"}, 2,
			`--format is "xml": one of canto, ejabberd, prosody`},
		{"no registrations at a time", []string{"accounts", "5", "--register", "--in-flight", "0"}, 2,
			`--in-flight is 0: 1 or more`},
		{"rates without end", []string{"run", sc, "--rates", "inf"}, 2, `--rates is +Inf: a factor up to 1000000`},
		{"rates beyond all", []string{"run", sc, "--rates", "1e300"}, 2,
			`--rates is 1e+300: a factor up to 1000000`},
		{"a length without unit", []string{"run", sc, "--length", "5"}, 2,
			`"5" is not a duration: write 30s, 5m or 1h`},
		{"a negative number", []string{"run", sc, "--clients", "-5"}, 2, `--clients is -5: 1 or more`},
		{"a negative time", []string{"run", sc, "--length", "-5s"}, 2, `--length is -5s: 1ms or more`},
		{"fewer clients than groups", []string{"run", "flood", "--clients", "1"}, 2, `1 clients can't be 2 groups`},
		{"more friends than clients", []string{"run", "presence", "--clients", "200"}, 2,
			`a star needs 500 friends, and there are 199 other clients`},
		{"an address without port", []string{"run", sc, "--server", "127.0.0.1"}, 2,
			`"127.0.0.1" is not the address of a server: write host:port`},
		{"a port that is none", []string{"run", sc, "--server", "127.0.0.1:99999"}, 2, `not the address of a server`},
		{"port 0", []string{"run", sc, "--direct", "127.0.0.1:0"}, 2, `not the address of a server`},
		{"accounts of one name", []string{"run", sc, "--server", addr, "--user", "x"}, 2, `it needs one %d`},
		{"a source that is none", []string{"run", sc, "--server", addr, "--source", "x"}, 2,
			`"x" is not an address to connect from`},
		{"no CA", []string{"run", sc, "--server", addr, "--ca", "nofile"}, 2, `the CA's certificate can't be read`},
		{"a CA that is none", []string{"run", sc, "--server", addr, "--ca", sc}, 2, `no certificate in`},
		{"no URL", []string{"run", sc, "--server", addr, "--metrics", "here"}, 2, `"here" is not a URL`},
		{"an unknown option", []string{"run", sc, "--option", "a=b"}, 2, `canto has no option "a": there are `},
		{"an option without peer", []string{"run", sc, "--server", addr, "--option", "a=b"}, 2,
			`options is of a server that is started`},
		{"a password of a server that is started", []string{"run", sc, "--password", "x"}, 2,
			`password is of a server that runs: canto is started here`},
		{"a domain of one", []string{"run", sc, "--peer", "prosody", "--domain", "x"}, 2,
			`domain is of a server that runs: prosody is started here`},
		{"a user of one", []string{"run", sc, "--user", "x%d"}, 2, `user is of a server that runs`},
		{"a process of one", []string{"run", sc, "--pid", "7"}, 2, `pids is of a server that runs`},
		{"a source for one", []string{"run", sc, "--source", "127.0.0.1"}, 2, `sources is of a server that runs`},
		{"a flag beside a target", []string{"run", sc, "--target",
			file(t, "t.toml", "server = '127.0.0.1:1'\n"), "--domain", "x"}, 2, `--domain stands beside --target`},
		{"a target's address", []string{"run", sc, "--target",
			file(t, "t.toml", "name = 'x'\nserver = '127.0.0.1:99999'\n")}, 2,
			`t.toml:2: server: "127.0.0.1:99999" is not the address`},
		{"a target's process", []string{"run", sc, "--target",
			file(t, "t.toml", "server = '127.0.0.1:1'\npids = [0]\n")}, 2, `t.toml:2: pids has 0`},
		{"a target's option", []string{"run", sc, "--target",
			file(t, "t.toml", "peer = 'canto'\noptions = {a = 'b'}\n")}, 2, `t.toml:2: canto has no option "a"`},
		{"a target's password", []string{"run", sc, "--target",
			file(t, "t.toml", "peer = 'canto'\npassword = 'x'\n")}, 2, `t.toml:2: password is of a server that runs`},
		{"a target's user", []string{"run", sc, "--target",
			file(t, "t.toml", "server = '127.0.0.1:1'\nuser = 'x'\n")}, 2, `t.toml:2: user: `},
		{"a target's CA", []string{"run", sc, "--target",
			file(t, "t.toml", "server = '127.0.0.1:1'\nca = 'nofile'\n")}, 2, `t.toml:2: the CA's certificate`},
		{"no address for its TLS", []string{"run", sc, "--server", addr, "--tls", "direct"}, 2,
			`no address for that is known: --direct`},
		{"help of no command", []string{"help", "nosuch"}, 2,
			`there is no command "nosuch": one of run, compare, `},
		{"unknown server", []string{"compare", "openfire"}, 2, `"openfire" is not a server: one of canto`},
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
	slo := file(t, "slo.toml", "[[require]]\nfigure = '*.lost'\nat_most = 0\n[[require]]\nfigure = "+
		"'talk.chat.done'\nat_least = 190\n")
	if got := do(t.Context(), with(at, "run", sc, "-q", "--out", dir, "--slo", slo)...); got.code != 0 {
		t.Errorf("status %d: %s%s", got.code, got.out, got.err)
	}
	s.Faults.Drop(10)
	got := do(t.Context(), with(at, "run", sc, "-q", "--out", filepath.Join(dir, "2"), "--slo", slo,
		"--length", "1s")...)
	if got.code != 1 || !strings.Contains(got.out, "FAIL") ||
		!strings.Contains(got.err, "requirements are not met") {
		t.Errorf("status %d with lost messages: %s%s", got.code, got.out, got.err)
	}
	// And afterwards, against another run.
	ratio := file(t, "ratio.toml", "[[require]]\nfigure = 'talk.chat.done'\nratio_to_baseline_at_least = 0.95\n")
	got = do(t.Context(), "slo", ratio, filepath.Join(dir, "2", "result.json"), "--baseline",
		filepath.Join(dir, "result.json"))
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
	got := do(t.Context(), with(at, "run", file(t, "short.toml", short), "-q", "--out", dir, "--length",
		"1h", "--limit", "2s")...)
	if got.code != exitFailed || !strings.Contains(got.err, "limit was over") {
		t.Fatalf("status %d: %s", got.code, got.err)
	}
	r, err := result.Load(filepath.Join(dir, "result.json"))
	if err != nil || r.Partial != "interrupted in phase talk: the limit of 2s was over" {
		t.Errorf("%v, %+v", err, r)
	}
}

// A limit that is over before the server answers says so, and leaves no report.
func TestLimitedBeforeItBegan(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes connections; nothing reads them
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dir := filepath.Join(t.TempDir(), "out")
	got := do(t.Context(), "run", file(t, "short.toml", short), "-q", "--server", ln.Addr().String(),
		"--out", dir, "--limit", "1s")
	if got.code != exitFailed || !strings.Contains(got.err,
		"limit was over before the server was ready") || strings.Count(got.err, "\n") != 1 {
		t.Errorf("status %d: %s", got.code, got.err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("there is a report")
	}
}

// SIGTERM ends a run with a report of what was seen, and the status of an interrupt; the processes
// that it started end with it.
func TestSIGTERM(t *testing.T) {
	s, at := server(t)
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], with(at, "run", file(t, "short.toml", short), "-q", "--out", dir,
		"--length", "1h", "--workers", "2")...)
	cmd.Env = append(os.Environ(), asBench+"=1")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut // Wait returns when the workers have closed them, too
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer late.Stop()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for s.Stats().Routed < 100 {
		select {
		case err := <-ended:
			t.Fatalf("the run ended before it was told to: %v: %s", err, &errOut)
		case <-time.After(time.Millisecond):
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-ended
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted ||
		!strings.Contains(errOut.String(), "interrupted: the report shows") {
		t.Errorf("status %d: %s", code, &errOut)
	}
	if r, err := result.Load(filepath.Join(dir, "result.json")); err != nil {
		t.Error(err)
	} else if !strings.HasPrefix(r.Partial, "interrupted in phase talk") {
		t.Errorf("the result says %q", r.Partial)
	}
}

// Of 40 clients two may fail to log in, a twentieth; a third ends the run with its reason. The
// status is of a failure.
func TestFailedLogins(t *testing.T) {
	for missing, code := range map[int]int{2: 0, 3: exitFailed} {
		s, err := stub.Start(stub.Config{Users: 40 - missing})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		got := do(t.Context(), "run", file(t, "short.toml", short), "-q", "--clients", "40", "--server",
			s.Addr().String(), "--out", t.TempDir())
		if got.code != code || (code != 0) != strings.Contains(got.err, "of 40 logins failed") {
			t.Errorf("%d of 40 can't log in: status %d: %s", missing, got.code, got.err)
		}
	}
}

// A comparison in which a server could not be measured has failed.
func TestCompareWithoutServer(t *testing.T) {
	s, _ := server(t)
	addr := s.Addr().String()
	s.Close()
	there, _ := server(t)
	describe := func(name, addr string) string {
		return file(t, name+".toml", fmt.Sprintf("server = %q\ninsecure = true\npassword = 'bench'\n", addr))
	}
	got := do(t.Context(), "compare", describe("there", there.Addr().String()), describe("gone", addr),
		"--scenario", file(t, "short.toml", short), "--rounds", "1", "--out", t.TempDir())
	if got.code != exitFailed || !strings.Contains(got.out, "FAIL short: gone has no figures: ") ||
		!strings.Contains(got.err, "could not be measured") {
		t.Errorf("status %d: %s%s", got.code, got.out, got.err)
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
	} else if r, err := result.Load(filepath.Join(dir, "result.json")); err != nil || r.Workers != 2 ||
		r.Sessions != 20 {
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
	got := do(t.Context(), with(at, "run", file(t, "short.toml", short), "-q", "--out", dir, "--workers",
		"2")...)
	if got.code != 0 {
		t.Fatalf("status %d: %s", got.code, got.err)
	}
	if r, err := result.Load(filepath.Join(dir, "result.json")); err != nil || r.Workers != 2 ||
		r.Sessions != 20 {
		t.Errorf("%v: %d workers, %d sessions", err, r.Workers, r.Sessions)
	}
}

// The built-in scenarios are listed, and printed as files that can be changed.
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

// Every command has a help text.
func TestHelp(t *testing.T) {
	got := do(t.Context(), "--help")
	if got.code != 0 || !strings.Contains(got.out, "canto-bench-report") {
		t.Fatalf("status %d: %s%s", got.code, got.out, got.err)
	}
	for _, cmd := range []string{"run", "compare", "agree", "plan", "profile", "vm", "report", "slo",
		"scenarios", "accounts", "agent", "version"} {
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
	if got := do(t.Context(), "accounts", "2", "--format", "canto", "--domain",
		"example.org"); got.code != 0 || got.out != "bench0@example.org\tbench\nbench1@example.org\tbench\n" {
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
		if got := do(t.Context(), with(at, "accounts", "20", "--register", "--user",
			"new%d")...); got.code != 0 || got.out != want {
			t.Errorf("time %d: status %d, %q, %s", i+1, got.code, got.out, got.err)
		}
	}
	if n := s.Stats().Registered; n != 20 {
		t.Errorf("the server has %d", n)
	}
	if got := do(t.Context(), with(at, "run", file(t, "short.toml", short), "-q", "--out", t.TempDir(),
		"--user", "new%d")...); got.code != 0 {
		t.Errorf("they can't log in: %s", got.err)
	}
	if got := do(t.Context(), "accounts", "20"); got.code != exitUsage ||
		!strings.Contains(got.err, "--register") {
		t.Errorf("status %d: %s", got.code, got.err)
	}
}

// What most programs understand: help, help of a command, and the version as a flag.
func TestHelpWords(t *testing.T) {
	for args, want := range map[string]string{"help": "Run a scenario against a server",
		"help compare": "--rounds", "--version": "canto-bench devel", "version": "canto-bench devel"} {
		if got := do(t.Context(), strings.Fields(args)...); got.code != 0 ||
			!strings.Contains(got.out, want) || got.err != "" {
			t.Errorf("canto-bench %s: status %d: %s%s", args, got.code, got.out, got.err)
		}
	}
}
