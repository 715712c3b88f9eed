package house

import (
	"go/types"
	"maps"
	"slices"
	"strings"
	"testing"
)

const kernelPath = "canto/session"

// unused are exported names of the kernel that nothing uses but the kernel and tests. The list only gets
// shorter: a seam has a user, or it is taken away.
var unused = strings.Fields(`
	Account.Attach KindAccount Checked Closing ErrConflict ErrConnectionTimeout
	ErrHostUnknown ErrInvalidNamespace ErrInvalidXML
	ErrUnsupportedStanza ErrUnsupportedVersion Flags Hooks.Chains Hooks.Remote Host.Connections MinLoginTimeout
	MaxLoginInterval MinOutbox MinRate MinStanza MaxLoginTimeout
	MaxOutbox MaxRateWindow Opening Origin Outbox.Append Run Recipients.Has Recipients.Reset
	Stanza.Clone
	Stanza.Origin Stream.ID Stream.Lang Stream.CanReceive StreamRef Table.Lookup Table.LookupAccount
	Unauthed Unloader
`)

// called are methods that others call by an interface of theirs: error, fmt.Stringer, reactor's.
var called = []string{"Error", "Unwrap", "String", "OnTimer"}

// kernelName is the name of an exported function, method, type, variable or constant of the kernel, or of
// one of its hooks; empty for what is none, and for the methods of an interface, which the kernel calls
// and others have.
func kernelName(o types.Object) string {
	if o == nil || o.Pkg() == nil || o.Pkg().Path() != kernelPath || !o.Exported() {
		return ""
	}
	f, ok := o.(*types.Func)
	if !ok || f.Signature().Recv() == nil {
		if o.Parent() != o.Pkg().Scope() {
			if v, ok := o.(*types.Var); ok && v.IsField() && isHook(v) {
				return "Hooks." + o.Name()
			}
			return ""
		}
		return o.Name()
	}
	of := f.Origin().Signature().Recv().Type()
	if p, ok := of.(*types.Pointer); ok {
		of = p.Elem()
	}
	n, ok := of.(*types.Named)
	if !ok || !n.Obj().Exported() || types.IsInterface(n) || slices.Contains(called, o.Name()) {
		return ""
	}
	return n.Obj().Name() + "." + o.Name()
}

// isHook reports whether v is a field of session.Hooks.
func isHook(v *types.Var) bool {
	hooks, ok := v.Pkg().Scope().Lookup("Hooks").Type().Underlying().(*types.Struct)
	if !ok {
		return false
	}
	for i := range hooks.NumFields() {
		if hooks.Field(i) == v {
			return true
		}
	}
	return false
}

// mentioned calls f with the kernel's types that stand in t: in a signature, or as what a field holds.
func mentioned(t types.Type, seen map[types.Type]bool, f func(o types.Object)) {
	if seen[t] {
		return
	}
	seen[t] = true
	below := func(t types.Type) { mentioned(t, seen, f) }
	switch t := types.Unalias(t).(type) {
	case *types.Named:
		for i := range t.TypeArgs().Len() {
			below(t.TypeArgs().At(i))
		}
		if t.Obj().Pkg() == nil || t.Obj().Pkg().Path() != kernelPath {
			return
		}
		f(t.Obj())
		below(t.Underlying())
	case *types.Pointer:
		below(t.Elem())
	case *types.Slice:
		below(t.Elem())
	case *types.Array:
		below(t.Elem())
	case *types.Map:
		below(t.Key())
		below(t.Elem())
	case *types.Signature:
		for _, tuple := range []*types.Tuple{t.Params(), t.Results()} {
			for i := range tuple.Len() {
				below(tuple.At(i).Type())
			}
		}
	case *types.Struct:
		for i := range t.NumFields() {
			if t.Field(i).Exported() {
				below(t.Field(i).Type())
			}
		}
	case *types.Interface:
		for i := range t.NumMethods() {
			below(t.Method(i).Type())
		}
	}
}

// Every exported function, method, type, variable, constant and hook of the kernel has a user outside of
// it: a module, a front door, the control plane, session/server, a program, or sessiontest. A type is
// used, too, where it stands in what is used.
func TestKernelNamesHaveUsers(t *testing.T) {
	all := typed(t, "package example", kernelPath, "canto/session/...", "canto/cmd/...")
	used := make(map[string]bool)
	for _, c := range all {
		if c.pkg.Path() == kernelPath {
			for _, o := range c.info.Defs {
				if n := kernelName(o); n != "" {
					used[n] = false
				}
			}
		}
	}
	if len(used) < 100 {
		t.Fatalf("only %d names of the kernel", len(used))
	}
	seen := make(map[types.Type]bool)
	for _, c := range all {
		if c.pkg.Path() == kernelPath {
			continue
		}
		for _, o := range c.info.Uses {
			if o == nil || o.Pkg() == nil || o.Pkg().Path() != kernelPath {
				continue
			}
			if n := kernelName(o); n != "" {
				used[n] = true
			}
			mentioned(o.Type(), seen, func(o types.Object) {
				if n := kernelName(o); n != "" {
					used[n] = true
				}
			})
		}
	}
	for _, n := range slices.Sorted(maps.Keys(used)) {
		known := slices.Contains(unused, n)
		switch {
		case !used[n] && !known:
			t.Errorf("session.%s has no user: take it away, or do not export it", n)
		case used[n] && known:
			t.Errorf("session.%s has a user: strike it from the list here", n)
		}
	}
	for _, n := range unused {
		if _, ok := used[n]; !ok {
			t.Errorf("session.%s is gone: strike it from the list here", n)
		}
	}
}
