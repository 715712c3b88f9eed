package reactor

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Times of all TCP connections, accepted and dialled. A listening socket gets the options before it
// listens, and sockets accepted from it inherit them (tcp(7); a test asks the kernel), so accepting
// needs no call for it.
const (
	// keepIdle is how long a connection is silent before the kernel sends a keepalive probe, which
	// wakes a phone's radio. It is as long as the state of most NATs and load balancers lives: 6
	// minutes and more (RFC 5382 REQ-5 asks for 124, few have them). Linux's 2 hours are longer than
	// all of these, and Go's 15 s drain batteries.
	keepIdle = 5 * time.Minute
	// keepEvery is the time between probes, keepCount their number: a phone without a network for less
	// than two minutes keeps its connection.
	keepEvery = 30 * time.Second
	keepCount = 4
	// userTimeout is how long sent bytes may stay unacknowledged (RFC 9293 section 3.8.3; RFC 1122
	// section 4.2.3.5 asks for 100 s or more; Linux's default comes to 15 minutes). Where it is set,
	// it also ends a connection with the first probe that is not answered after this time, so it has
	// to be what idle time, interval and count add up to.
	userTimeout = keepIdle + keepCount*keepEvery
)

// socketOptions are the options as setsockopt takes them.
var socketOptions = []struct {
	name         string
	level, which int
	value        int
}{
	// Nagle's algorithm (RFC 9293 section 3.7.4) waits for more bytes, but all bytes of a turn are
	// written at once. With it, a peer that delays its ACKs would cost each answer 40 ms.
	{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepIdle / time.Second)},
	{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepEvery / time.Second)},
	{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepCount},
	{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout / time.Millisecond)},
}

// setSocketOptions sets the options on fd, before it listens or connects. Errors are ignored: a
// kernel without one of them works without it.
func setSocketOptions(fd int) {
	for _, o := range socketOptions {
		unix.SetsockoptInt(fd, o.level, o.which, o.value)
	}
}

// listenConfig returns the configuration of listening sockets. Their backlog is net.core.somaxconn,
// which package net reads; `canto check limits` tells the operator what a storm of reconnects
// needs. KeepAlive -1 keeps package net from setting its own 15 s. Multipath TCP, which package net
// asks for by default, is off: its accepted sockets do not inherit every option, and need more
// memory.
func listenConfig() *net.ListenConfig {
	lc := &net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, rc syscall.RawConn) error {
		return rc.Control(func(fd uintptr) { setSocketOptions(int(fd)) })
	}}
	lc.SetMultipathTCP(false)
	return lc
}
