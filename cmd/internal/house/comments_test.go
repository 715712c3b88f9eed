package house

import (
	"go/ast"
	"go/token"
	"path"
	"strings"
	"testing"
	"unicode"
)

// A doc comment in the kernel begins with the name that it documents, of what is not exported too
// (go.dev/doc/comment has it so for what is): after a rename the comment says so.
func TestCommentsName(t *testing.T) {
	seen := 0
	for _, s := range sources(t) {
		if path.Dir(s.path) != "session" {
			continue
		}
		look := func(name string, doc *ast.CommentGroup) {
			if doc == nil {
				return
			}
			if seen++; !names(doc.Text(), name) {
				t.Errorf("%s: the comment of %s begins %q: begin it with the name", s.set.Position(doc.Pos()), name,
					strings.SplitN(doc.Text(), "\n", 2)[0])
			}
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && strings.HasSuffix(s.path, "_test.go") && isTest(d.Name.Name) {
					continue // it says what holds
				}
				look(d.Name.Name, d.Doc)
			case *ast.GenDecl:
				if d.Tok != token.TYPE {
					continue
				}
				for _, spec := range d.Specs {
					ts := spec.(*ast.TypeSpec)
					if ts.Doc == nil && !d.Lparen.IsValid() {
						ts.Doc = d.Doc
					}
					look(ts.Name.Name, ts.Doc)
				}
			}
		}
	}
	if seen < 500 {
		t.Errorf("%d comments: this test finds none", seen)
	}
}

// isTest reports whether a function of that name is one that go test calls.
func isTest(name string) bool {
	for _, prefix := range []string{"Test", "Fuzz", "Benchmark", "Example"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// names reports whether text begins with name as a word, perhaps behind an article.
func names(text, name string) bool {
	for _, article := range []string{"A ", "An ", "The "} {
		text = strings.TrimPrefix(text, article)
	}
	rest, ok := strings.CutPrefix(text, name)
	next := strings.IndexFunc(rest, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_'
	})
	return ok && (next == 0 || rest == "")
}

// What TestCommentsName looks for it finds.
func TestNames(t *testing.T) {
	for text, want := range map[string]bool{
		"walk takes ev on its way":  true,
		"A walk is one":             true,
		"The walk is one":           true,
		"walk":                      true,
		"walks are taken":           false,
		"walked reports":            false,
		"takes ev on its way: walk": false,
	} {
		if names(text, "walk") != want {
			t.Errorf("%q begins with the name: %v", text, !want)
		}
	}
}
