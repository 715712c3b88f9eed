package house

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A checked is a package with its types.
type checked struct {
	set   *token.FileSet
	files []*ast.File
	pkg   *types.Package
	info  *types.Info
}

// typed type-checks packages of ours, by what the compiler wrote for those that they import, and a
// package example that is made of text and may import the same.
func typed(t *testing.T, example string, patterns ...string) (all []checked) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-export", "-deps",
		"-json=ImportPath,Dir,GoFiles,Export,DepOnly"}, patterns...)...)
	cmd.Dir, cmd.Stderr = root(t), os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	type listed struct {
		ImportPath, Dir, Export string
		GoFiles                 []string
		DepOnly                 bool
	}
	exports := make(map[string]string)
	var ours []listed
	for d := json.NewDecoder(out); ; {
		var p listed
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if !p.DepOnly {
			ours = append(ours, p)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	imports := importer.ForCompiler(set, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})
	for _, p := range ours {
		texts := make(map[string]any) // nil: the file's
		for _, name := range p.GoFiles {
			texts[filepath.Join(p.Dir, name)] = nil
		}
		all = append(all, check(t, set, imports, p.ImportPath, texts))
	}
	return append(all, check(t, set, imports, "canto/session/mod/example",
		map[string]any{"example.go": example}))
}

func check(t *testing.T, set *token.FileSet, imports types.Importer, path string,
	texts map[string]any) checked {
	t.Helper()
	c := checked{set: set, info: &types.Info{Types: make(map[ast.Expr]types.TypeAndValue),
		Uses: make(map[*ast.Ident]types.Object), Defs: make(map[*ast.Ident]types.Object)}}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		f, err := parser.ParseFile(set, name, texts[name], 0)
		if err != nil {
			t.Fatal(err)
		}
		c.files = append(c.files, f)
	}
	var err error
	if c.pkg, err = (&types.Config{Importer: imports}).Check(path, set, c.files, c.info); err != nil {
		t.Fatal(err)
	}
	return c
}

// holds reports whether a value of type t keeps a pointer to a session: itself, in what it is made of, or
// in what that points to. What other packages' types are made of is their business, but for their type
// arguments.
func holds(t types.Type, in *types.Package, seen map[types.Type]bool) bool {
	if seen[t] {
		return false
	}
	seen[t] = true
	below := func(t types.Type) bool { return holds(t, in, seen) }
	switch t := types.Unalias(t).(type) {
	case *types.Named:
		if o := t.Obj(); o.Name() == "Session" && o.Pkg() != nil && strings.HasSuffix(o.Pkg().Path(), "/session") {
			return true
		}
		for i := range t.TypeArgs().Len() {
			if below(t.TypeArgs().At(i)) {
				return true
			}
		}
		return t.Obj().Pkg() == in && below(t.Underlying())
	case *types.Pointer:
		return below(t.Elem())
	case *types.Slice:
		return below(t.Elem())
	case *types.Array:
		return below(t.Elem())
	case *types.Chan:
		return below(t.Elem())
	case *types.Map:
		return below(t.Key()) || below(t.Elem())
	case *types.Struct:
		for i := range t.NumFields() {
			if below(t.Field(i).Type()) {
				return true
			}
		}
	}
	return false // of a function the arguments are given, not kept
}

// keptSessions are the places of c where a session outlives the hook that was given it: fields, variables
// of the package, and variables that a function takes along which runs later.
func keptSessions(c checked) (found []string) {
	add := func(pos token.Pos, what string) {
		found = append(found, fmt.Sprintf("%s: %s", c.set.Position(pos), what))
	}
	kept := func(t types.Type) bool { return t != nil && holds(t, c.pkg, make(map[types.Type]bool)) }
	for _, f := range c.files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.StructType:
				for _, field := range n.Fields.List {
					if kept(c.info.TypeOf(field.Type)) {
						add(field.Pos(), "a field holds a session")
					}
				}
			case *ast.CallExpr:
				for _, arg := range n.Args {
					if lit, ok := arg.(*ast.FuncLit); ok && later(n) {
						for _, v := range captured(c, lit) {
							if kept(v.Type()) {
								add(lit.Pos(), v.Name()+" is taken along by a function that runs later")
							}
						}
					}
				}
			}
			return true
		})
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, spec := range g.Specs {
				for _, name := range spec.(*ast.ValueSpec).Names {
					if o := c.info.Defs[name]; o != nil && kept(o.Type()) {
						add(name.Pos(), "a variable of the package holds a session")
					}
				}
			}
		}
	}
	return found
}

// runLater are the methods that keep a function and call it when the hook that gave it has long returned.
var runLater = map[string]bool{"After": true, "Await": true, "AwaitTurn": true, "Commit": true,
	"Delay": true, "Post": true, "Do": true, "Go": true, "AfterFunc": true, "Notify": true}

func later(call *ast.CallExpr) bool {
	switch f := call.Fun.(type) {
	case *ast.SelectorExpr:
		return runLater[f.Sel.Name]
	case *ast.Ident:
		return runLater[f.Name]
	}
	return false
}

// captured are the variables that lit uses and that are declared around it, in a function.
func captured(c checked, lit *ast.FuncLit) (vars []*types.Var) {
	seen := make(map[types.Object]bool)
	ast.Inspect(lit.Body, func(n ast.Node) bool {
		id, ok := n.(*ast.Ident)
		if !ok {
			return true
		}
		v, ok := c.info.Uses[id].(*types.Var)
		if ok && !v.IsField() && !seen[v] && v.Parent() != c.pkg.Scope() &&
			(v.Pos() < lit.Pos() || v.Pos() > lit.End()) {
			seen[v] = true
			vars = append(vars, v)
		}
		return true
	})
	return vars
}

// ways are all those of keeping a session that the test below must see, one a line, and then what is no
// such way.
const ways = `package example
import "canto/session"
type one struct { s *session.Session }
type many struct { s []*session.Session }
type by struct { s map[string]*session.Session }
type keys struct { s map[*session.Session]bool }
type four struct { s [4]*session.Session }
type queue struct { s chan *session.Session }
type deep struct { s struct{ t []map[int]*session.Session } }
type list []*session.Session
type named struct { l list }
type embedded struct { *session.Session }
type generic[T any] struct { v T }
type filled struct { g generic[*session.Session] }
var all []*session.Session
func later(l *session.LoopRouter, s *session.Session) { l.After(1, func() { _ = s }) }
func rest(l *session.LoopRouter, a *session.Account) { some := a.Resources(); l.After(1, func() { _ = some }) }
// And these are none.
type hook struct { f func(*session.Session) bool }
func now(s *session.Session) { func() { _ = s }() }
func name(l *session.LoopRouter, s *session.Session) { j := s.JID(); l.After(1, func() { _ = j }) }
`

// No session is kept by pointer in a module: a resource may live on another node one day.
func TestNoSessionPointersKept(t *testing.T) {
	all := typed(t, ways, "canto/session/mod/...")
	for _, c := range all[:len(all)-1] {
		for _, f := range keptSessions(c) {
			t.Errorf("%s: keep its full JID", f)
		}
	}
	// What looks for them finds each way, and nothing else.
	seen := make(map[int]bool)
	for _, f := range keptSessions(all[len(all)-1]) {
		var line int
		if _, err := fmt.Sscanf(strings.TrimPrefix(f, "example.go:"), "%d", &line); err != nil {
			t.Fatal(f, err)
		}
		seen[line] = true
	}
	for i, line := range strings.Split(ways, "\n") {
		want := i >= 2 && i < 17 && !strings.HasPrefix(line, "type list") &&
			!strings.HasPrefix(line, "type generic")
		if seen[i+1] != want {
			t.Errorf("seen: %v, want %v: %s", seen[i+1], want, line)
		}
	}
}
