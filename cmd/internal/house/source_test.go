package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// bans are calls and imports that have a better way here.
var bans = []struct {
	what    string   // an import path, or import path and name
	below   []string // folders it is banned in
	except  []string // folders and files below them where it is not
	tests   bool     // tests too
	instead string
}{
	{"time.Now", []string{"session"}, []string{"session/store", "session/admin", "session/metrics"}, false,
		"Loop.Now, or a clock that cmd gives"},
	{"time.Since", []string{"session"}, []string{"session/store", "session/admin", "session/metrics"}, false,
		"Loop.Now"},
	{"time.Sleep", []string{"session", "reactor", "xmlstream"}, []string{"session/store", "session/admin",
		"reactor/acceptor.go"}, false, "a timer on the loop: LoopRouter.After, Loop.Arm"},
	{"math/rand", []string{"session"}, []string{"session/store", "session/admin"}, false,
		"an io.Reader that cmd gives"},
	{"math/rand/v2", []string{"session"}, []string{"session/store", "session/admin"}, false,
		"an io.Reader that cmd gives"},
	{"crypto/rand", []string{"session"}, []string{"session/store", "session/admin"}, false,
		"an io.Reader that cmd gives"},
	{"os", []string{"session"}, []string{"session/store", "session/admin", "session/metrics",
		"session/sessiontest"}, false, "session/store takes a vfs.FS; files are read by cmd"},
	{"net", []string{"session"}, []string{"session/store", "session/admin"}, false,
		"reactor.Dial and reactor.Listen"},
	{"encoding/xml", []string{"."}, []string{"bench/xmlbench"}, false,
		"xmlstream: one parser for everything a peer sends (attack X02)"},
	{"github.com/panjf2000/gnet/v2", []string{"."}, []string{"reactor/gnet.go"}, false,
		"the seam in reactor/backend.go"},
	{"encoding/gob", []string{"."}, nil, false, "nothing from outside is decoded by reflection"},
}

// goStatements may stand in these folders only.
var goStatements = []string{"reactor", "session/store", "session/admin", "bench", "cmd"}

type source struct {
	path string // from the root, with slashes
	file *ast.File
	set  *token.FileSet
}

func sources(t *testing.T) []source {
	t.Helper()
	dir := root(t)
	var all []source
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && p != dir || d.Name() == "testdata" ||
			d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		all = append(all, source{filepath.ToSlash(rel), f, set})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func within(p string, folders []string) bool {
	for _, f := range folders {
		if f == "." || p == f || strings.HasPrefix(p, f+"/") {
			return true
		}
	}
	return false
}

func TestBans(t *testing.T) {
	for _, s := range sources(t) {
		test := strings.HasSuffix(s.path, "_test.go")
		names := map[string]string{} // local name -> import path
		for _, imp := range s.file.Imports {
			p, _ := strconv.Unquote(imp.Path.Value)
			n := p[strings.LastIndex(p, "/")+1:]
			if imp.Name != nil {
				n = imp.Name.Name
			}
			names[n] = p
			for _, b := range bans {
				if b.what == p && within(s.path, b.below) && !within(s.path, b.except) && (!test || b.tests) {
					t.Errorf("%s: import of %s is banned here: use %s", s.set.Position(imp.Pos()), p, b.instead)
				}
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok && !test && !within(s.path, goStatements) {
				t.Errorf("%s: a go statement is banned here: give the work to reactor.Workers", s.set.Position(g.Pos()))
			}
			sel, ok := n.(*ast.SelectorExpr)
			if !ok || test {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if !ok || x.Obj != nil {
				return true
			}
			for _, b := range bans {
				if p, ok := names[x.Name]; ok && b.what == p+"."+sel.Sel.Name && within(s.path, b.below) &&
					!within(s.path, b.except) {
					t.Errorf("%s: %s is banned here: use %s", s.set.Position(sel.Pos()), b.what, b.instead)
				}
			}
			return true
		})
	}
}

// Nothing unfinished lands, and no test is skipped without a word.
func TestUnfinished(t *testing.T) {
	marks := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	skip := regexp.MustCompile(`\bt\.Skip(f|Now)?\(`)
	for _, s := range sources(t) {
		b, err := os.ReadFile(filepath.Join(root(t), s.path))
		if err != nil {
			t.Fatal(err)
		}
		if m := marks.Find(b); m != nil {
			t.Errorf("%s: %s: finish it, or write an issue", s.path, m)
		}
		if s.path != "cmd/internal/house/source_test.go" && skip.Match(b) {
			t.Errorf("%s: a skipped test checks nothing", s.path)
		}
	}
}

// attackID is the id of an attack: the letter of its class, and a number. P256 and the like are curves.
const attackID = `(?:[HKRSTWX]\d\d\d?|P\d\d\b)`

// citations finds the ids in a text that says "attack T09", "attacks K33, K34" or "attack rows X13, T03",
// and in one that is nothing but ids.
func citations(text string) (ids []string) {
	list := attackID + `(?:(?:,| and|,? or)?\s+` + attackID + `)*`
	for _, m := range regexp.MustCompile(`\b[Aa]ttacks?(?:\s+rows?)?\s+(`+list+`)`).FindAllStringSubmatch(text,
		-1) {
		ids = append(ids, regexp.MustCompile(attackID).FindAllString(m[1], -1)...)
	}
	if regexp.MustCompile(`^` + attackID + `(?: ` + attackID + `)*$`).MatchString(text) {
		ids = append(ids, strings.Fields(text)...)
	}
	return ids
}

// testedAttacks are the ids of attacks that have a test: TestAttack<ID>..., FuzzAttack<ID>..., or a
// conversation testdata/attack-<id>.txt.
func testedAttacks(t *testing.T, all []source) map[string]bool {
	have := make(map[string]bool)
	name := regexp.MustCompile(`^(?:Test|Fuzz)Attack((?:[A-Z]\d\d\d?)+)`)
	id := regexp.MustCompile(`[A-Z]\d\d\d?`)
	for _, s := range all {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && strings.HasSuffix(s.path, "_test.go") {
				if m := name.FindStringSubmatch(f.Name.Name); m != nil {
					for _, i := range id.FindAllString(m[1], -1) {
						have[i] = true
					}
				}
			}
		}
	}
	dir := root(t)
	scripts, _ := filepath.Glob(filepath.Join(dir, "session/*/*/testdata/attack-*.txt"))
	more, _ := filepath.Glob(filepath.Join(dir, "session/*/testdata/attack-*.txt"))
	file := regexp.MustCompile(`^attack-([a-z])(\d+)`)
	for _, p := range append(scripts, more...) {
		if m := file.FindStringSubmatch(filepath.Base(p)); m != nil {
			have[strings.ToUpper(m[1])+m[2]] = true
		}
	}
	return have
}

// An attack that the code cites as the reason of what it does has a test of its id. And the list in
// attacks.txt is that of the tests there are: one that is taken away, or added, shows there.
func TestAttacksCovered(t *testing.T) {
	all := sources(t)
	have := testedAttacks(t, all)
	cited := 0
	for _, s := range all {
		if strings.HasSuffix(s.path, "_test.go") && s.path != "cmd/internal/house/source_test.go" {
			continue
		}
		see := func(pos token.Pos, text string) {
			for _, id := range citations(text) {
				cited++
				if !have[id] {
					t.Errorf("%s: attack %s is cited, and no test has its id", s.set.Position(pos), id)
				}
			}
		}
		for _, g := range s.file.Comments {
			if s.path != "cmd/internal/house/source_test.go" {
				see(g.Pos(), g.Text())
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if b, ok := n.(*ast.BasicLit); ok && b.Kind == token.STRING {
				if text, err := strconv.Unquote(b.Value); err == nil {
					see(b.Pos(), text)
				}
			}
			return true
		})
	}
	if cited < 40 {
		t.Errorf("the code cites %d attacks: this test finds no citations", cited)
	}
	b, err := os.ReadFile(filepath.Join(root(t), "cmd/internal/house/attacks.txt"))
	if err != nil {
		t.Fatal(err)
	}
	listed := make(map[string]bool)
	for _, line := range strings.Split(string(b), "\n") {
		line, _, _ = strings.Cut(line, "#")
		for _, id := range strings.Fields(line) {
			listed[id] = true
			if !have[id] {
				t.Errorf("attacks.txt lists %s, and no test has its id", id)
			}
		}
	}
	for id := range have {
		if !listed[id] {
			t.Errorf("%s has a test, and attacks.txt does not list it: add it", id)
		}
	}
}

// What TestAttacksCovered looks for it finds.
func TestCitations(t *testing.T) {
	for text, want := range map[string]string{
		"nothing before TLS (attack T09).":           "T09",
		"and what TLS brought (attacks K33, K34). B": "K33 K34",
		"no load (attack rows X13, T03).":            "X13 T03",
		"never passes (attack\nR01).":                "R01",
		"as attacks K35 and K36 do":                  "K35 K36",
		"in other queries (attack P07). It is":       "P07",
		"P256":                                       "",
		"X13 X12 X01":                                "X13 X12 X01",
		"P256 is a curve, and an attack is none":     "",
		"attack of the clones":                       "",
	} {
		if got := strings.Join(citations(text), " "); got != want {
			t.Errorf("%q cites %q, want %q", text, got, want)
		}
	}
}
