package servers

import (
	"context"
	"path/filepath"
	"strings"
)

// absolute is the absolute path of a program. Symbolic links stay, since a program may act by its
// name.
func absolute(program string) (string, error) { return filepath.Abs(program) }

// packageVersion is the version of Debian's package if program is in it; otherwise "unknown".
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
