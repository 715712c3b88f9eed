package main

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// terminal is how wide f is, and whether it is one.
func terminal(f *os.File) (width int, tty bool) {
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, false
	}
	return int(ws.Col), true
}

// listen opens an agent's port: to the world only with a secret.
func listen(addr, secret string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil,
			fmt.Errorf("the agent can't listen: %w: write --listen HOST:PORT, with a port that is free", err)
	}
	if a, ok := ln.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() && secret == "" {
		ln.Close()
		return nil, errSecret
	}
	return ln, nil
}
