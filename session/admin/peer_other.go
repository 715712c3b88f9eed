//go:build !linux

package admin

import (
	"net"
	"os"
)

// peer is not known here: the modes of socket and folder keep others out.
func peer(net.Conn) (uid int, err error) { return os.Geteuid(), nil }

func owner(os.FileInfo) int { return os.Geteuid() }
