package house

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// layers are the kernel's files, from the ground up: a file uses what stands in those before it.
var layers = strings.Fields(`
	doc lockcheck counter committer table config session envelope router errors entity vars inlinerequest stanza
	management recipients outbox acknowledge hooks outgoing reply boundary source ackwindow ending takeover
	evict commit resident lifecycle mailbox timer
	ask route await throttle negotiation inline resolve marshal outlive start deletion footprint module stream
`)

// upward are the pairs of files of which the first uses something of the second, which stands above it.
// The list only gets shorter.
var upward = strings.Fields(`
	table>entity table>hooks session>router session>entity session>vars session>outbox router>entity
	router>stanza router>recipients entity>stanza entity>recipients entity>hooks entity>mailbox
	outbox>boundary outbox>source boundary>lifecycle boundary>route source>mailbox ending>mailbox
	mailbox>route
`)

// mostUpward is how many such pairs there may be, and mostMethods how many methods a type of the kernel
// may have.
const (
	mostUpward  = 20
	mostMethods = 30
)

// The kernel's files use each other in one direction, but for a few known pairs, and no type of the
// kernel is what everything else hangs on.
func TestKernelLayers(t *testing.T) {
	var c checked
	for _, x := range typed(t, "package example", kernelPath) {
		if x.pkg.Path() == kernelPath {
			c = x
		}
	}
	file := func(at token.Pos) string {
		return strings.TrimSuffix(filepath.Base(c.set.Position(at).Filename), ".go")
	}
	methods := make(map[string]int)
	for _, f := range c.files {
		if !slices.Contains(layers, file(f.Pos())) {
			t.Errorf("session/%s.go stands in no layer: put it into the list here", file(f.Pos()))
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv != nil {
				methods[receiver(fn)]++
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		if methods[name] > mostMethods {
			t.Errorf("session.%s has %d methods, and %d are the most: a part of it is a type of its own", name,
				methods[name], mostMethods)
		}
	}
	up := make(map[string]string)
	for id, o := range c.info.Uses {
		if fn, ok := o.(*types.Func); ok {
			o = fn.Origin()
		}
		fn, _ := o.(*types.Func)
		if o.Pkg() != c.pkg || o.Parent() != c.pkg.Scope() && (fn == nil || fn.Signature().Recv() == nil) {
			continue
		}
		from, to := file(id.Pos()), file(o.Pos())
		if slices.Index(layers, from) < slices.Index(layers, to) {
			up[from+">"+to] = fmt.Sprintf("%s uses %s", c.set.Position(id.Pos()), o.Name())
		}
	}
	for _, pair := range slices.Sorted(maps.Keys(up)) {
		if !slices.Contains(upward, pair) {
			t.Errorf("%s is a new pair of files in which the lower uses the upper: %s", pair, up[pair])
		}
	}
	for _, pair := range upward {
		if up[pair] == "" {
			t.Errorf("%s is no more: strike it from the list here", pair)
		}
	}
	if len(upward) > mostUpward {
		t.Errorf("%d pairs of files, and %d are the most", len(upward), mostUpward)
	}
}

// receiver is the name of the type that fn is a method of.
func receiver(fn *ast.FuncDecl) string {
	x := fn.Recv.List[0].Type
	for {
		switch y := x.(type) {
		case *ast.StarExpr:
			x = y.X
		case *ast.IndexExpr:
			x = y.X
		case *ast.Ident:
			return y.Name
		default:
			return ""
		}
	}
}
