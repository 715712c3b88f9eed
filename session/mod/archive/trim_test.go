package archive_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"canto/session"
	engine "canto/session/archive"
	"canto/session/mod/archive"
	"canto/session/sessiontest"
)

// The service of a host is found from outside of the modules; what no module provides is not.
func TestServiceIsProvided(t *testing.T) {
	s := sessiontest.New(t, sessiontest.Options{})
	h, _ := s.Router.Table.Host("localhost")
	if m, ok := session.Provided[*archive.Service](h.Profile()); !ok || m.Archive == nil {
		t.Errorf("%v, %v", m, ok)
	}
	if _, ok := session.Provided[*testing.T](h.Profile()); ok {
		t.Error("a value that no module provides")
	}
}

// An archive whose account can't be loaded when a worker has found what has to go, as the modules were loaded
// again and the workers are busy, is trimmed later: by size, and by a command.
func TestTrimWithoutAccount(t *testing.T) {
	for _, asked := range []bool{false, true} {
		s := free(t, sessiontest.Options{Module: with(func(o *archive.Options) { o.MaxMessages = 20 })})
		romeo := s.Login("romeo", "romeo@localhost/orchard")
		send := func(n int) {
			for i := range n {
				romeo.Send(chat("juliet@localhost", "m", fmt.Sprint("number ", i)))
			}
			s.Settle()
		}
		done := make(chan error, 1)
		trim := func(keep uint64) {
			h, _ := s.Router.Table.Host("localhost")
			m, _ := session.Provided[*archive.Service](h.Profile())
			go func() {
				_, err := m.TrimAccount(context.Background(), s.Router, h, romeo.Bare(), engine.Bound{MaxRows: keep})
				done <- err
			}()
		}
		send(20)
		workers := s.PauseWorkers()
		if asked {
			trim(10)
		} else {
			send(5)
		}
		wait(t, s, func() bool { return len(workers.Jobs) > 0 })
		s.Reload()
		s.Router.Workers = busy{}
		for len(workers.Jobs) > 0 {
			workers.StartNext()
		}
		s.Settle()
		if asked {
			wait(t, s, func() bool { return len(done) > 0 })
			if err := <-done; !errors.Is(err, session.ErrBusy) {
				t.Errorf("the first command: %v", err)
			}
		}
		workers.Resume()
		if asked {
			trim(10)
			wait(t, s, func() bool { return len(done) > 0 })
			if err := <-done; err != nil {
				t.Errorf("the second command: %v", err)
			}
		}
		send(5)
		if _, bodies := everything(t, s, romeo); len(bodies) > 22 || asked && len(bodies) != 15 {
			t.Errorf("asked %v: %d messages are left", asked, len(bodies))
		}
	}
}

// wait runs the loops of s until ok reports true: a command comes from a goroutine of its own.
func wait(t testing.TB, s *sessiontest.Server, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("the command does not go on")
		}
		s.Net.Run()
	}
}
