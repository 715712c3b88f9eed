package house

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"strings"
	"testing"
)

type pkg struct {
	ImportPath   string
	Dir          string
	Doc          string
	Name         string
	GoFiles      []string
	CgoFiles     []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
	Standard     bool
}

// packages are all of the module's.
func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,Name,GoFiles,CgoFiles,TestGoFiles,"+
		"XTestGoFiles,Imports,Standard", "canto/...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		var ee *exec.ExitError
		if errors.As(err, &ee) {
			t.Fatalf("go list: %s", ee.Stderr)
		}
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func root(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "canto").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// may says what packages that match may import of ours and of others, besides the standard library.
// The first row that matches a package holds. A pattern ending in /... matches what is below too.
var may = []struct {
	who     string
	ours    []string
	others  []string
	instead string
}{
	{"canto/xmlstream/...", []string{"canto/xmlstream/..."}, nil,
		"xmlstream is for strangers too: it has the standard library only"},
	{"canto/reactor/buf", nil, []string{"github.com/valyala/bytebufferpool"},
		"buf counts bytes and knows nothing else"},
	{"canto/reactor/...", []string{"canto/reactor/..."}, []string{"github.com/panjf2000/gnet/v2",
		"github.com/panjf2000/gnet/v2/...", "golang.org/x/sys/unix", "golang.org/x/crypto/chacha20poly1305"},
		"the reactor knows bytes and time; XML belongs in a front door"},
	{"canto/session/jid", nil, []string{"golang.org/x/text/..."}, "jid is a library"},
	{"canto/session/sasl", []string{"canto/session/jid"}, []string{"golang.org/x/text/..."},
		"sasl is a library: a front door or module moves its bytes"},
	{"canto/session/stanza", []string{"canto/xmlstream"}, nil, "stanza is a vocabulary"},
	{"canto/session/stanzaid", nil, nil, "stanzaid is a library"},
	{"canto/session/handling", []string{"canto/xmlstream", "canto/session/stanza"}, nil,
		"handling is a table: what a message is, not what the server knows"},
	{"canto/session/form", []string{"canto/session/jid", "canto/xmlstream"}, nil,
		"form is a library: which stanza error a wrong form has is for the protocol"},
	{"canto/session/rsm", []string{"canto/xmlstream"}, nil, "rsm is a library: the caller says what an id is"},
	{"canto/session/archive", []string{"canto/session/jid", "canto/session/stanzaid", "canto/session/store"},
		[]string{"pgregory.net/rapid"}, "archive has rows and pages; whose they are is for the caller"},
	{"canto/session/tomlstrict", nil, []string{"github.com/pelletier/go-toml/v2",
		"github.com/pelletier/go-toml/v2/unstable"}, "tomlstrict is a library"},
	{"canto/session/store/storetest", []string{"canto/session/store"}, []string{"pgregory.net/rapid"},
		"the conformance suite runs on any store"},
	{"canto/session/store/...", []string{"canto/session/store/...", "canto/session/jid",
		"canto/session/stanzaid"}, []string{"github.com/cockroachdb/pebble/v2",
		"github.com/cockroachdb/pebble/v2/...", "github.com/cockroachdb/errors", "golang.org/x/sys/unix"},
		"the kernel sees the store as session.Committer, which session/storage makes of it"},
	{"canto/session/storage", []string{"canto/session", "canto/session/jid", "canto/session/stanza",
		"canto/session/store",
		"canto/reactor"}, nil,
		"storage joins the kernel and the store, and nothing else"},
	{"canto/session/wallclock", []string{"canto/session"}, nil, "wallclock gives modules the time of day"},
	{"canto/session", []string{"canto/reactor", "canto/reactor/buf", "canto/xmlstream", "canto/session/jid",
		"canto/session/stanza", "canto/session/stanzaid", "canto/session/handling"},
		[]string{"golang.org/x/text/language"},
		"the kernel runs without a disk and without a socket: a module, or an interface that cmd fills"},
	{"canto/session/c2s", []string{"canto/reactor", "canto/reactor/...", "canto/xmlstream", "canto/session",
		"canto/session/jid", "canto/session/stanza"}, nil, "a front door knows no module"},
	{"canto/session/sessiontest", []string{"canto/reactor", "canto/reactor/...", "canto/xmlstream",
		"canto/session", "canto/session/..."}, []string{"github.com/cockroachdb/pebble/v2/vfs"}, ""},
	{"canto/session/sessiontest/...", []string{"canto/session", "canto/session/jid", "canto/session/sasl",
		"canto/session/form", "canto/session/rsm", "canto/session/stanza", "canto/session/stanzaid",
		"canto/session/handling",
		"canto/session/store", "canto/session/storage", "canto/session/wallclock", "canto/session/archive",
		"canto/session/pubsub", "canto/session/mod/...",
		"canto/xmlstream", "canto/reactor"}, nil, "an example of a module has what modules have: a module " +
		"reaches connections through the kernel and the disk through session/store"},
	{"canto/session/server", []string{"canto/reactor", "canto/reactor/...", "canto/xmlstream", "canto/session",
		"canto/session/..."}, nil, "what is parsed, and what is a process's own, belongs in cmd"},
	{"canto/session/admin", []string{"canto/session", "canto/session/...", "canto/reactor",
		"canto/reactor/buf", "canto/xmlstream"}, []string{"github.com/prometheus/..."}, ""},
	{"canto/session/metrics", []string{"canto/session", "canto/session/stanza", "canto/session/store",
		"canto/reactor", "canto/reactor/buf"}, []string{"github.com/prometheus/..."}, ""},
	{"canto/session/mod/...", []string{"canto/session", "canto/session/jid", "canto/session/sasl",
		"canto/session/form", "canto/session/rsm", "canto/session/stanza", "canto/session/stanzaid",
		"canto/session/handling",
		"canto/session/store", "canto/session/storage", "canto/session/wallclock", "canto/session/archive",
		"canto/session/pubsub", "canto/session/mod/...",
		"canto/xmlstream", "canto/reactor"}, nil, "a module reaches connections through the kernel and the " +
		"disk through session/store"},
	{"canto/bench/...", []string{"canto/bench/...", "canto/reactor", "canto/reactor/...",
		"canto/xmlstream/...", "canto/session/jid", "canto/session/stanza", "canto/session/sasl",
		"canto/session/tomlstrict"},
		[]string{"github.com/HdrHistogram/hdrhistogram-go", "github.com/pelletier/go-toml/v2",
			"github.com/google/pprof/profile",
			"github.com/prometheus/common/...", "github.com/prometheus/client_model/go", "golang.org/x/sys/unix"},
		"bench is a black box: it measures any server, and never sees the kernel"},
	{"canto/cmd/...", []string{"canto/..."}, []string{"*"}, ""},
}

func match(pattern, p string) bool {
	if pattern == "*" {
		return true
	}
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return p == base || strings.HasPrefix(p, base+"/")
	}
	return p == pattern
}

func among(patterns []string, p string) bool {
	for _, pat := range patterns {
		if match(pat, p) {
			return true
		}
	}
	return false
}

func standard(p string) bool { return !strings.Contains(strings.SplitN(p, "/", 2)[0], ".") }

// Arrows point one way (ARCHITECTURE.md, "Packages").
func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		found := false
		for _, row := range may {
			if !match(row.who, p.ImportPath) {
				continue
			}
			found = true
			for _, imp := range p.Imports {
				ours := imp == "canto" || strings.HasPrefix(imp, "canto/")
				if ours && !among(row.ours, imp) || !ours && !standard(imp) && !among(row.others, imp) {
					t.Errorf("%s imports %s, which it may not: %s", p.ImportPath, imp, row.instead)
				}
			}
			break
		}
		if !found {
			t.Errorf("%s: no rule says what it may import; add its row here and in ARCHITECTURE.md", p.ImportPath)
		}
		if top := strings.SplitN(strings.TrimPrefix(p.ImportPath, "canto/"), "/", 2)[0]; !among(
			[]string{"xmlstream", "reactor", "session", "bench", "cmd"}, top) {
			t.Errorf("%s: the five folders at the top stay five", p.ImportPath)
		}
	}
}

// Each package says once what it is.
func TestPackageDocs(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles)+len(p.CgoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", path.Clean(p.ImportPath))
		}
	}
}
