package house

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"canto/session/mod"
)

// columns is how many columns a line of Go may have; a tab is one.
const columns = 110

// persons are the pronouns that stand for persons. A connection, a goroutine or a client is none.
var persons = regexp.MustCompile(
	`(?i)(?:^|\s)(?:no|some|every|any)(?:body|one)(?:\s|[.,;:]|$)|(?i)\bwho(?:m?ever)\b`)

// none is what persons finds, too, and is no person: "no one" is two words, and so is "any one".
var none = regexp.MustCompile(`(?i)\b(?:no|any) one\b`)

// personIn is the first pronoun for persons in a text, or empty.
func personIn(text string) string {
	return strings.TrimSpace(persons.FindString(none.ReplaceAllString(text, "")))
}

// Comments and texts do not speak of machines as persons: there is a client, a connection or a loop that
// does something. A literal that is one word is a name, as of a user of the system.
func TestPersons(t *testing.T) {
	for _, s := range sources(t) {
		say := func(at token.Pos, text string) {
			if p := personIn(text); p != "" {
				t.Errorf("%s: %q is for persons: name the client, connection, goroutine that is meant",
					s.set.Position(at), p)
			}
		}
		for _, g := range s.file.Comments {
			for _, c := range g.List {
				say(c.Pos(), strings.TrimPrefix(c.Text, "//"))
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			b, ok := n.(*ast.BasicLit)
			if !ok || b.Kind != token.STRING || s.path == "cmd/internal/house/words_test.go" {
				return true
			}
			if text, err := strconv.Unquote(b.Value); err == nil && strings.ContainsAny(text, " \n") {
				say(b.Pos(), text)
			}
			return true
		})
	}
	for _, page := range pages(t) {
		for i, line := range strings.Split(read(t, page), "\n") {
			if p := personIn(line); p != "" {
				t.Errorf("%s:%d: %q is for persons: name what is meant", page, i+1, p)
			}
		}
	}
}

// pages are the project's documents, but for the log of changes, which is history.
func pages(t *testing.T) (all []string) {
	for _, pattern := range []string{"*.md", "docs/*.md", "session/*.txt"} {
		found, err := filepath.Glob(filepath.Join(root(t), pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range found {
			rel, _ := filepath.Rel(root(t), p)
			if rel = filepath.ToSlash(rel); rel != "CHANGELOG.md" {
				all = append(all, rel)
			}
		}
	}
	return all
}

// read is the text of a file of the project.
func read(t *testing.T, name string) string {
	b, err := os.ReadFile(filepath.Join(root(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What TestPersons looks for it finds.
func TestPersonIn(t *testing.T) {
	for text, want := range map[string]bool{
		"No" + "body waits for it":       true,
		"a change that every" + "body":   true,
		"who" + "ever has read it":       true,
		"asks some" + "body, and":        true,
		"No one of them":                 false,
		"to='no" + "body@example.org'":   false,
		"the client that waits for it":   false,
		"at any one time":                false,
		"everyone of a room is told":     true,
		"a body, some body of a message": false,
	} {
		if got := personIn(text); (got != "") != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// A line of Go has no more than 110 columns, so that two files stand side by side. Raw strings and the
// tags of fields can't be broken.
func TestColumns(t *testing.T) {
	for _, s := range sources(t) {
		free := make(map[int]bool)
		ast.Inspect(s.file, func(n ast.Node) bool {
			if b, ok := n.(*ast.BasicLit); ok && b.Kind == token.STRING && b.Value[0] == '`' {
				for l := s.set.Position(b.Pos()).Line; l <= s.set.Position(b.End()).Line; l++ {
					free[l] = true
				}
			}
			return true
		})
		for i, line := range strings.Split(read(t, s.path), "\n") {
			if n := utf8.RuneCountInString(line); n > columns && !free[i+1] {
				t.Errorf("%s:%d: %d columns, and %d are the most", s.path, i+1, n, columns)
			}
		}
	}
}

// Every exported name has a comment: functions, methods, types, constants, variables, fields, and the
// methods of interfaces. A comment above a group of constants or fields is one for the group, up to a blank
// line; a comment at the end of the line counts.
func TestExportedNamesHaveComments(t *testing.T) {
	seen := 0
	for _, s := range sources(t) {
		if strings.HasSuffix(s.path, "_test.go") {
			continue
		}
		n, without := undocumented(s)
		seen += n
		for _, w := range without {
			t.Errorf("%s has no comment: say what it means, its unit, which goroutine may call, its source", w)
		}
	}
	if seen < 2500 {
		t.Errorf("%d exported names: this test finds none", seen)
	}
}

// undocumented counts the exported names of s, and lists those without a comment.
func undocumented(s source) (seen int, without []string) {
	ask := func(id *ast.Ident, owner string, has bool) {
		if !id.IsExported() {
			return
		}
		if seen++; !has {
			without = append(without, fmt.Sprintf("%s: %s%s", s.set.Position(id.Pos()), owner, id.Name))
		}
	}
	line := func(at token.Pos) int { return s.set.Position(at).Line }
	fields := func(owner string, list *ast.FieldList) {
		group, last := false, 0
		for _, f := range list.List {
			if f.Doc != nil {
				group = true
			} else if line(f.Pos()) > last+1 {
				group = false
			}
			for _, id := range f.Names {
				ask(id, owner+".", group || f.Comment != nil)
			}
			last = line(f.End())
		}
	}
	for _, d := range s.file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			ask(d.Name, "", d.Doc != nil)
		case *ast.GenDecl:
			group, last := d.Doc != nil, 0
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					ask(spec.Name, "", d.Doc != nil || spec.Doc != nil || spec.Comment != nil)
					if !spec.Name.IsExported() {
						continue
					}
					switch typ := spec.Type.(type) {
					case *ast.StructType:
						fields(spec.Name.Name, typ.Fields)
					case *ast.InterfaceType:
						fields(spec.Name.Name, typ.Methods)
					}
				case *ast.ValueSpec:
					if spec.Doc != nil {
						group = true
					} else if d.Doc == nil && line(spec.Pos()) > last+1 {
						group = false
					}
					for _, id := range spec.Names {
						ask(id, "", group || spec.Comment != nil)
					}
					last = line(spec.End())
				}
			}
		}
	}
	return seen, without
}

// example is the source of a file that is not in the tree.
func example(t *testing.T, text string) source {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, "example.go", text, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return source{"example.go", f, set}
}

// What TestExportedNamesHaveComments looks for it finds.
func TestUndocumented(t *testing.T) {
	n, without := undocumented(example(t, `package example

// Documented has one.
type Documented struct {
	A int // has one
	B int

	// C and D have one.
	C int
	D int

	E int
}

type Bare interface{ Method() }

const (
	// First has one.
	First = iota
	Second

	Third
)

func Function() {}
`))
	want := []string{"Documented.B", "Documented.E", "Bare", "Bare.Method", "Third", "Function"}
	if n != 12 || len(without) != len(want) {
		t.Fatalf("%d names, without a comment are %q, not %q", n, without, want)
	}
	for i, w := range want {
		if !strings.HasSuffix(without[i], " "+w) {
			t.Errorf("%q, not %q", without[i], w)
		}
	}
}

// A folder of session/mod has the name of its module. There is one exception: a package called session in
// session/mod would be taken for the kernel, so the module of RFC 3921's session request is legacysession.
func TestFoldersOfModules(t *testing.T) {
	var names []string
	for _, m := range mod.All {
		names = append(names, m.Name)
	}
	folders, err := os.ReadDir(filepath.Join(root(t), "session/mod"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, f := range folders {
		if !f.IsDir() {
			continue
		}
		seen++
		name := f.Name()
		if name == "legacysession" {
			name = "session"
		}
		if !slices.Contains(names, name) {
			t.Errorf("session/mod/%s: no module is called so", f.Name())
		}
	}
	if seen != len(names) {
		t.Errorf("%d folders in session/mod, and %d modules in mod.All", seen, len(names))
	}
}

// The glossary names what there is: each word in code quotes of its last column is an identifier of the tree,
// package.Name or package.Type.Member, or a file.
func TestGlossary(t *testing.T) {
	have := make(map[string]bool)
	for _, s := range sources(t) {
		if strings.HasSuffix(s.path, "_test.go") {
			continue
		}
		have[s.path] = true
		have[path.Dir(s.path)] = true
		for _, name := range declared(s) {
			have[s.file.Name.Name+"."+name] = true
		}
	}
	rows, terms := 0, make(map[string]bool)
	for i, line := range strings.Split(read(t, glossary), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || strings.HasPrefix(cells[1], "---") || strings.TrimSpace(cells[1]) == "term" {
			continue
		}
		rows++
		term := strings.TrimSpace(cells[1])
		if terms[term] {
			t.Errorf("%s:%d: %s stands twice: one word means one thing", glossary, i+1, term)
		}
		terms[term] = true
		quoted := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[3], -1)
		if len(quoted) == 0 {
			t.Errorf("%s:%d: %s lives nowhere", glossary, i+1, term)
		}
		for _, q := range quoted {
			if !have[q[1]] {
				t.Errorf("%s:%d: there is no %s", glossary, i+1, q[1])
			}
		}
	}
	if rows < 30 {
		t.Errorf("%s has %d rows: this test finds none", glossary, rows)
	}
}

// The pages for developers name files and folders that there are.
func TestPathsInPages(t *testing.T) {
	seen := 0
	for _, page := range []string{"CONTRIBUTING.md", "ARCHITECTURE.md", "README.md", "docs/modules.md",
		"docs/decisions.md", "docs/profiling.md"} {
		paths := regexp.MustCompile("`((?:bench|cmd|docs|reactor|session|xmlstream)/[\\w./-]+)`")
		for _, m := range paths.FindAllStringSubmatch(read(t, page), -1) {
			seen++
			name := strings.TrimSuffix(strings.TrimSuffix(m[1], "/..."), "/")
			if _, err := os.Stat(filepath.Join(root(t), name)); err != nil {
				t.Errorf("%s names %s, which there is not", page, m[1])
			}
		}
	}
	if seen < 40 {
		t.Errorf("%d paths: this test finds none", seen)
	}
}

// glossary is the page of terms.
const glossary = "docs/glossary.md"

// declared are the names that a file declares: Name, and Type.Member for fields and methods.
func declared(s source) (names []string) {
	for _, d := range s.file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv != nil {
				names = append(names, receiver(d)+"."+d.Name.Name)
			} else {
				names = append(names, d.Name.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					names = append(names, spec.Name.Name)
					var list *ast.FieldList
					switch typ := spec.Type.(type) {
					case *ast.StructType:
						list = typ.Fields
					case *ast.InterfaceType:
						list = typ.Methods
					default:
						continue
					}
					for _, f := range list.List {
						for _, id := range f.Names {
							names = append(names, spec.Name.Name+"."+id.Name)
						}
					}
				case *ast.ValueSpec:
					for _, id := range spec.Names {
						names = append(names, id.Name)
					}
				}
			}
		}
	}
	return names
}

// The second table of the glossary lists words that are not used in names, as they stood for several
// things, or for what the field calls otherwise. No package-level name, field or method has one.
func TestRetiredWords(t *testing.T) {
	text := read(t, glossary)
	_, table, ok := strings.Cut(text, "| not in names |")
	if !ok {
		t.Fatalf("%s has no table of words that are not in names", glossary)
	}
	retired := make(map[string]string)
	for _, line := range strings.Split(table, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 4 || strings.HasPrefix(cells[1], "---") {
			continue
		}
		for _, w := range strings.Split(cells[1], ",") {
			retired[strings.TrimSpace(w)] = strings.TrimSpace(cells[2])
		}
	}
	if len(retired) < 10 {
		t.Fatalf("%s lists %d words that are not in names: this test finds none", glossary, len(retired))
	}
	for _, s := range sources(t) {
		if strings.HasSuffix(s.path, "_test.go") {
			continue
		}
		for _, name := range declared(s) {
			for _, w := range wordsOf(name[strings.LastIndex(name, ".")+1:]) {
				if instead, ok := retired[w]; ok {
					t.Errorf("%s: %s has the word %q: %s", s.path, name, w, instead)
				}
			}
		}
	}
}

// wordsOf splits a name into its words, in lower case: maxParkedBytes is max, parked, bytes.
func wordsOf(name string) (words []string) {
	start := 0
	for i, r := range name {
		if i > start && unicode.IsUpper(r) {
			words = append(words, strings.ToLower(name[start:i]))
			start = i
		}
	}
	return append(words, strings.ToLower(name[start:]))
}

// What TestRetiredWords looks for it finds.
func TestWordsOf(t *testing.T) {
	if got := wordsOf("maxParkedBytes"); !slices.Equal(got, []string{"max", "parked", "bytes"}) {
		t.Errorf("%q", got)
	}
}
