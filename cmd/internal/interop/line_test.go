//go:build interop

package interop

import (
	"io"
	"net"
	"sync"
	"testing"

	"canto/cmd/internal/running"
)

// A line is what the connections of one client go over. A test cuts it.
type line struct {
	t    *testing.T
	mu   sync.Mutex // guards what follows
	legs map[*leg]bool
	// away says that the client has no network: what connects is closed at once.
	away bool
}

// A leg is one connection over a line.
type leg struct {
	near, far *net.TCPConn // to the client, to the server
	lost      bool         // the client's end is cut, and the server does not know. Under the line's mu
}

// lineTo makes a line to a server until the test ends. The server that it returns is the one that the client
// is given.
func lineTo(t *testing.T, s *running.Server) (*line, *running.Server) {
	t.Helper()
	l := &line{t: t, legs: make(map[*leg]bool)}
	t.Cleanup(func() { l.cut(false) })
	return l, &running.Server{T: t, Dir: s.Dir, Plain: l.listen(s.Plain), Direct: l.listen(s.Direct)}
}

// listen takes connections to an address of the server.
func (l *line) listen(server string) string {
	l.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			go l.carry(near.(*net.TCPConn), server)
		}
	}()
	return ln.Addr().String()
}

// carry connects a connection with the server until either ends it or it is cut.
func (l *line) carry(near *net.TCPConn, server string) {
	defer near.Close()
	far, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	x := &leg{near: near, far: far.(*net.TCPConn)}
	l.mu.Lock()
	if l.away {
		l.mu.Unlock()
		far.Close()
		return
	}
	l.legs[x] = true
	l.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(x.far, near)
		if !l.isLost(x) {
			x.far.CloseWrite()
		}
	}()
	io.Copy(near, x.far)
	near.Close()
	<-done
	if !l.isLost(x) {
		x.far.Close()
		l.mu.Lock()
		delete(l.legs, x)
		l.mu.Unlock()
	}
}

func (l *line) isLost(x *leg) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return x.lost
}

// cut ends all connections, as a network that is gone. What is on its way is lost. If it is silent, the
// server does not notice: its end stays open until the next cut, and is not read any more.
func (l *line) cut(silent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for x := range l.legs {
		if x.lost || !silent {
			x.far.SetLinger(0)
			x.far.Close()
			delete(l.legs, x)
		}
		x.lost = true
		x.near.SetLinger(0)
		x.near.Close()
	}
}

// setAway says whether the client has no network.
func (l *line) setAway(away bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = away
}
