package reactor

import (
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What the kernel takes for a write of a presence to one of 500 connections over loopback, in CPU of the
// thread that writes: the floor under a delivery of a broadcast.
func BenchmarkWriteFloor(b *testing.B) {
	const peers, bytes, perSecond = 500, 130, 20
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	var fds []int
	for range peers {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		go func() { // it reads, on another thread
			for p := make([]byte, 4096); ; {
				if _, err := c.Read(p); err != nil {
					return
				}
			}
		}()
		s, err := ln.Accept()
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		f, err := s.(*net.TCPConn).File()
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		unix.SetNonblock(int(f.Fd()), true)
		setSocketOptions(int(f.Fd()))
		fds = append(fds, int(f.Fd()))
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p := make([]byte, bytes)
	var before, after unix.Rusage
	unix.Getrusage(unix.RUSAGE_THREAD, &before)
	n := 0
	for b.Loop() {
		for _, fd := range fds {
			if sendNonblock(fd, p) == bytes {
				n++
			}
		}
		time.Sleep(time.Second / perSecond)
	}
	unix.Getrusage(unix.RUSAGE_THREAD, &after)
	spent := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(spent)/1e3/float64(n), "cpu-µs/write")
	b.ReportMetric(0, "ns/op")
}
