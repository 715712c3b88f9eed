package servers

import (
	"context"
	"path/filepath"
	"strings"
)

// absolute is the path of a program whatever folder its process runs in; links stay, since a program
// may look at what it is called.
func absolute(program string) (string, error) { return filepath.Abs(program) }

// packageVersion is the version of Debian's package if program comes from it; else unknown.
func packageVersion(ctx context.Context, pkg, program string) string {
	if real, err := filepath.EvalSymlinks(program); err == nil {
		program = real // /sbin may be /usr/sbin, and only that is in the package
	}
	owner, err := output(ctx, nil, nil, nil, "dpkg-query", "-S", program)
	if err != nil || !strings.HasPrefix(owner, pkg+":") && !strings.HasPrefix(owner, pkg+" ") {
		return "unknown"
	}
	v, err := output(ctx, nil, nil, nil, "dpkg-query", "-W", "-f", "${Version}", pkg)
	if err != nil || v == "" {
		return "unknown"
	}
	return v
}
