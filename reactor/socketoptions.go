package reactor

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What every TCP connection is given, of either end. A socket that is listened on has it before it
// listens, and those accepted there have it from it (tcp(7); a test asks the kernel), so that accepting
// costs no call for it.
const (
	// keepIdle is how long nothing may come before the kernel asks the peer, which wakes a phone's radio: as
	// seldom as still keeps the mapping of most NATs and load balancers, which forget after 6 minutes and more
	// (RFC 5382 REQ-5 wants 124, and few do it). Linux's own 2 hours are longer than all of them, and Go's 15 s
	// drain batteries.
	keepIdle = 5 * time.Minute
	// keepEvery and keepCount: a phone without a network for less than two minutes keeps its connection.
	keepEvery = 30 * time.Second
	keepCount = 4
	// userTimeout is how long what was sent may stay unacknowledged (RFC 793 §3.8; RFC 1122 §4.2.3.5 wants
	// 100 s or more, RFC 5482 §1 tells of 5 minutes; Linux's own comes to 15). Where it is set it ends a
	// keepalive too, with the first probe that is not answered behind it: it is what idle, interval and
	// count come to.
	userTimeout = keepIdle + keepCount*keepEvery
)

// socketOptions are those constants as the kernel takes them.
var socketOptions = []struct {
	name         string
	level, which int
	value        int
}{
	// What the loop writes at the end of a turn is all there is: nothing is gained by waiting for more of it
	// (Nagle, RFC 9293 §3.7.4), and a delayed ACK of the peer would cost each answer 40 ms.
	{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepIdle / time.Second)},
	{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepEvery / time.Second)},
	{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepCount},
	{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout / time.Millisecond)},
}

// setSocketOptions sets them, before a socket listens or connects. A kernel that knows one of them not
// does without.
func setSocketOptions(fd int) {
	for _, o := range socketOptions {
		unix.SetsockoptInt(fd, o.level, o.which, o.value)
	}
}

// listenConfig is for sockets that accept. The backlog is net.core.somaxconn, which package net reads: a
// limit of the operator's, whom `canto check limits` tells what a storm of reconnects needs. Multipath
// TCP, which package net asks for where the kernel has it, is off: its sockets do not hand every option
// on, nor do they take less memory.
func listenConfig() *net.ListenConfig {
	lc := &net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, rc syscall.RawConn) error {
		return rc.Control(func(fd uintptr) { setSocketOptions(int(fd)) })
	}} // without KeepAlive -1, package net would set its own 15 s
	lc.SetMultipathTCP(false)
	return lc
}
