package flame

import "strings"

// Module is the part of Canto, or of its dependencies, that a function belongs to: mod/<name>, session,
// session/<name>, reactor, xmlstream, bench, cmd; pebble, gnet, crypto, "runtime GC", runtime,
// syscall, other.
func Module(function string) string {
	p := pkg(function)
	if name, ok := strings.CutPrefix(p, "canto/"); ok {
		part := strings.Split(name, "/")
		switch {
		case part[0] != "session" || len(part) == 1:
			return part[0] // reactor/buf is the reactor's
		case part[1] == "mod" && len(part) > 2:
			return "mod/" + part[2]
		}
		return "session/" + part[1]
	}
	switch {
	case p == "main":
		return "cmd"
	case below(p, "github.com/cockroachdb"):
		return "pebble" // with packages that only it uses
	case below(p, "github.com/panjf2000"):
		return "gnet"
	case below(p, "syscall"), below(p, "internal/runtime/syscall"), below(p, "internal/syscall"),
		below(p, "golang.org/x/sys"), below(p, "internal/poll"), p == "runtime" && inKernel(function):
		return "syscall"
	case p == "runtime" && collects(function):
		return "runtime GC"
	case system(p):
		return "runtime"
	case below(p, "crypto"), below(p, "golang.org/x/crypto"):
		return "crypto"
	}
	return "other"
}

// pkg is the import path of a function's package; empty for assembly that has none.
func pkg(function string) string {
	function, _, _ = strings.Cut(function, "[") // type arguments have paths of their own
	if i := strings.Index(function, "("); i >= 0 {
		function = function[:i]
	}
	slash := strings.LastIndexByte(function, '/') + 1
	name, _, ok := strings.Cut(function[slash:], ".")
	if !ok {
		return ""
	}
	return function[:slash] + name
}

func below(p, parent string) bool {
	rest, ok := strings.CutPrefix(p, parent)
	return ok && (rest == "" || rest[0] == '/')
}

// ours reports whether a function is Canto's.
func ours(function string) bool {
	p := pkg(function)
	return below(p, "canto") || p == "main"
}

// system reports whether a package is the runtime, or code of the compiler.
func system(p string) bool {
	return p == "" || strings.HasPrefix(p, "type:") || below(p, "runtime") ||
		below(p, "internal/runtime") || p == "internal/bytealg" || p == "internal/abi" || below(p, "sync") ||
		p == "internal/sync" ||
		below(p, "internal/race")
}

// inKernel are the runtime's own system calls.
func inKernel(function string) bool {
	switch strings.TrimPrefix(function, "runtime.") {
	case "futex", "epollwait", "usleep", "nanosleep", "osyield", "write1", "read", "madvise", "sysMmap",
		"munmap", "tgkill", "clone":
		return true
	}
	return false
}

// collects reports whether a function of the runtime is the garbage collector's; mallocgc is not.
func collects(function string) bool {
	name := strings.TrimPrefix(function, "runtime.")
	for _, p := range []string{"gc", "GC", "bgsweep", "bgscavenge", "sweep", "scan", "grey", "mark",
		"wbBuf", "shade", "bulkBarrier", "tryDeferToSpanScan", "spanSet", "(*gc", "(*sweep", "(*mspan).sweep",
		"(*spanQueue)",
		"(*scavenge", "(*pageAlloc).scavenge"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// chargedFrame is the module that a stack is charged to: that of the innermost function of Canto's,
// as it asked for what is further in. Without one it is that of the innermost that is not the
// runtime's; without one of those the collector, the kernel, or the runtime.
func chargedFrame(frames []string, by func(string) string) string {
	rank, module := 0, ""
	for _, f := range frames {
		r := 1
		switch p := pkg(f); {
		case ours(f):
			return by(f)
		case p == "runtime" && collects(f):
			r = 3
		case Module(f) == "syscall":
			r = 2
		case !system(p):
			r = 4
		}
		if r > rank {
			rank, module = r, by(f)
		}
	}
	return module
}
