package sampler

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// slab is the kernel's memory for its own structures on the whole machine in bytes, caches of files
// among them; 0: it does not tell.
func slab(root string) int64 {
	b, err := os.ReadFile(filepath.Join(root, "meminfo"))
	if err != nil {
		return 0
	}
	return field(b, "\nSlab:") << 10
}

// Slabs is how many bytes each of the kernel's caches takes, by their names in /proc/slabinfo, which root may
// read: TCP and sock_inode_cache are sockets, filp open files, eventpoll_epi what epoll watches.
func Slabs() (map[string]int64, error) {
	b, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		return nil, err
	}
	return parseSlabs(b)
}

// parseSlabs reads lines of "name active objects size per pages : tunables … : slabdata active
// slabs shared".
func parseSlabs(b []byte) (map[string]int64, error) {
	m := map[string]int64{}
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) == 0 || f[0] == "#" || strings.HasPrefix(f[0], "slabinfo") {
			continue
		}
		if len(f) != 16 || f[11] != ":" || f[12] != "slabdata" {
			return nil, errors.New("/proc/slabinfo has a form that is not known: is this Linux?")
		}
		pages, err1 := strconv.ParseInt(f[5], 10, 64)
		slabs, err2 := strconv.ParseInt(f[14], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		m[f[0]] += pages * slabs * int64(os.Getpagesize())
	}
	return m, nil
}
