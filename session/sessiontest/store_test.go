package sessiontest

import (
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"canto/session"
	"canto/session/mod"
	"canto/session/sessiontest/asker"
	"canto/session/sessiontest/room"
	"canto/session/sessiontest/service"
)

// conversations returns the scripts of all modules, by module and file.
func conversations(t testing.TB) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../mod/*/testdata/*.txt")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d conversations: %v", len(files), err)
	}
	own, _ := filepath.Glob("testdata/*.txt")
	kinds, _ := filepath.Glob("*/testdata/*.txt")
	all := make(map[string]string)
	for _, f := range slices.Concat(files, own, kinds) {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		module := filepath.Base(filepath.Dir(filepath.Dir(f)))
		if module == "." {
			module = "sessiontest"
		}
		all[module+"/"+strings.TrimSuffix(filepath.Base(f), ".txt")] = string(text)
	}
	return all
}

var (
	gotLine  = regexp.MustCompile(`^[\w-]+: `)
	fromAttr = regexp.MustCompile(`^[^>]* from='([^']*)'`)
)

// byPair sorts what one step brought each client by sender: stanzas of two senders may come in either
// order (RFC 6120 section 10.1), those of one may not.
func byPair(text string) string {
	lines := strings.Split(text, "\n")
	key := func(l string) string {
		from := ""
		if m := fromAttr.FindStringSubmatch(l); m != nil {
			from = m[1]
		}
		return gotLine.FindString(l) + from
	}
	for i := 0; i < len(lines); {
		n := i
		for n < len(lines) && gotLine.MatchString(lines[n]) {
			n++
		}
		slices.SortStableFunc(lines[i:n], func(a, b string) int { return strings.Compare(key(a), key(b)) })
		i = n + 1
	}
	return strings.Join(lines, "\n")
}

// configured are the modules whose conversations need the options of their own tests, and why.
var configured = map[string]string{
	"contact":  "its addresses are what an operator has configured",
	"starttls": "it needs a certificate, and a connection that makes a handshake",
}

// plain returns the conversations that need no configuration, and those of register.
func plain(t testing.TB) map[string]string {
	all := conversations(t)
	maps.DeleteFunc(all, func(name, _ string) bool {
		module, _, _ := strings.Cut(name, "/")
		return configured[module] != ""
	})
	return all
}

// Each name in the lists of exceptions is that of a conversation, so that no exception outlives it.
func TestExceptions(t *testing.T) {
	all := plain(t)
	for _, list := range []map[string]string{notSwapped, nowhereBound, notFlaky} {
		for name, why := range list {
			if all[name] == "" || why == "" {
				t.Errorf("%q is no conversation, or has no reason", name)
			}
		}
	}
}

// optionsOf returns the options with which a module plays a conversation.
func optionsOf(name string) Options {
	if strings.HasPrefix(name, "register/") {
		return everything(Options{Hosts: []string{"localhost", "example.net"}})
	}
	if strings.HasPrefix(name, "asker/") {
		return Options{Shelf: append([]session.Manifest{asker.Manifest}, mod.All...),
			Modules: append(mod.DefaultNames(), asker.Manifest.Name)}
	}
	switch opt := withKinds(Options{}); {
	case strings.HasPrefix(name, "room/"):
		return opt
	case strings.HasPrefix(name, "service/"):
		opt.ServiceModules = slices.DeleteFunc(opt.ServiceModules, func(m string) bool {
			return m == room.Manifest.Name
		})
		return opt
	}
	return Options{}
}

// withKinds adds the host rooms.localhost to opt, with the two kinds that are not accounts.
func withKinds(opt Options) Options {
	opt.Services = []string{"rooms.localhost"}
	opt.ServiceModules = []string{"store", "disco", "test-room", "test-service"}
	opt.Shelf = slices.Concat(mod.All, []session.Manifest{room.Manifest, service.Manifest})
	return opt
}

// ofAStart are the values that differ by intention from one start of a server to the next: ids that are
// never given twice, the time since the start, and which entities are in memory.
var ofAStart = regexp.MustCompile(
	`\(in memory: .*|id='[0-9a-z]{26}'|>[0-9a-z]{26}<|'(push|block)-\d+'| ver='\d+'|seconds='\d+'`)

// notSwapped are the conversations that are not played with another kernel, and why.
var notSwapped = map[string]string{
	"archive/pages": "it names ids of the archive that another start does not give",
	"push/push":     "what waits to be pushed, and a push without an answer, are in memory only",
	"asker/ask":     "a request without an answer is in memory only",
	"roster/roster": "it names a version of the roster that another start does not give",
	"sm/inline":     "the client is inactive, which another kernel does not know: its stream is resumed",
	"sm/expiry":     "it names the time of an id, which another start draws from its own lease",
	"sm/restart":    "the time of a session that hibernates begins anew with another kernel",
	"sm/requests":   "a request for an acknowledgement is sent again on each stream",
	"sm/presence":   "a request for an acknowledgement is sent again on each stream",
}

// nowhereBound are the conversations without a step before which all streams are bound, and why.
var nowhereBound = map[string]string{
	"disco/caps":          "a stream that only looks at the features stays open",
	"roster/rfc6121-2":    "a stream that looks at the features stays open, to log in at the end",
	"register/attack-k95": "it is about streams without an account",
	"saslauth/failures":   "it is about streams that fail to log in",
	"limits/limits":       "it is about a stream before its login",
}

// Every conversation is the same if another kernel takes over before each step before which all streams
// are bound; also on a slow store. Each conversation has at least one such step.
func TestConversationsSwapped(t *testing.T) {
	for name, text := range plain(t) {
		if notSwapped[name] != "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			for _, slow := range []bool{false, true} {
				opt := optionsOf(name)
				opt.SwapKernels = true
				if slow {
					opt.Slow = lateBy(1)
				}
				mask := func(text string) string { return ofAStart.ReplaceAllString(byPair(text), "...") }
				script, swaps := converse(t, text, opt)
				if got, want := mask(script), mask(text); got != want {
					t.Errorf("slow %v: %s", slow, difference(want, got))
				}
				if why := nowhereBound[name]; (swaps == 0) != (why != "") {
					t.Errorf("another kernel took over before %d steps; known of it: %q", swaps, why)
				}
			}
		})
	}
}

// lateBy returns the delays of a slow store: 5 to 50 ms.
func lateBy(seed uint64) func() time.Duration {
	rnd := rand.New(rand.NewPCG(seed, 11))
	return func() time.Duration {
		return 5*time.Millisecond + time.Duration(rnd.Int64N(int64(45*time.Millisecond)))
	}
}

// Every conversation is the same on a store that answers each read and each commit 5 to 50 ms late (design
// section 11.5): no client gets a result before it is true, and the order stays.
func TestConversationsOnSlowStore(t *testing.T) {
	for name, text := range plain(t) {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(3) {
				opt := optionsOf(name)
				opt.Slow, opt.Seed = lateBy(seed), seed
				got, want := byPair(Converse(t, text, opt)), byPair(text)
				if strings.HasPrefix(name, "room/") { // its timer is due by the server's own time, which shows in ids
					got, want = ofAStart.ReplaceAllString(got, "..."), ofAStart.ReplaceAllString(want, "...")
				}
				if got != want {
					t.Errorf("seed %d: %s", seed, difference(want, got))
				}
			}
		})
	}
}
