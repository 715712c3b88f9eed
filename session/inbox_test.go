package session_test

import (
	"strings"
	"testing"

	"canto/reactor"
	"canto/session"
	"canto/session/sessiontest"
	"canto/session/store/storetest"
)

// An atOnce is a pool of workers that do a job in the turn in which it is given, or hold it until
// release.
type atOnce struct {
	hold bool
	jobs []func()
}

// Do implements reactor.Workers.
func (w *atOnce) Do(_ reactor.Class, l *reactor.Loop, work func() error, then func(error)) bool {
	w.jobs = append(w.jobs, func() {
		err := work()
		l.Post(func() { then(err) })
	})
	if !w.hold {
		w.release()
	}
	return true
}

// release does the jobs that were held, and holds no more.
func (w *atOnce) release() {
	w.hold = false
	for len(w.jobs) > 0 {
		job := w.jobs[0]
		w.jobs = w.jobs[1:]
		job()
	}
}

// After a load that failed the account is loaded again: if stanzas arrive faster than the inbox
// is drained, those that waited for the failed load get an error (RFC 6120 section 8.3.3.6), and no
// others.
func TestFailedReadEndsWithWhatWaited(t *testing.T) {
	var flaky storetest.Flaky
	lim := session.DefaultLimits()
	lim.Rate = 0
	s := sessiontest.New(t, sessiontest.Options{Limits: &lim, Fault: flaky.Fault})
	s.AddAccount("juliet@localhost")
	senders := []*sessiontest.Client{s.Login("romeo", "romeo@localhost/x"),
		s.Login("nurse", "nurse@localhost/x")}
	for _, c := range senders {
		c.Send("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
	}
	s.Settle()
	below := s.Router.Workers
	defer func() { s.Router.Workers = below }()
	work := &atOnce{hold: true}
	s.Router.Workers = work
	flood := func() {
		for _, c := range senders {
			c.Conn().Write([]byte(strings.Repeat("<iq type='get' id='q' to='juliet@localhost'><vCard "+
				"xmlns='vcard-temp'/></iq>", 24)))
		}
		s.Net.RunTurn()
	}
	flood()
	flaky.Reads.Store(true)
	work.release()
	loads := func() (n uint64) {
		for _, l := range s.Router.LoopRouters() {
			n += l.Stats().Loads
		}
		return n
	}
	before := loads()
	flaky.Reads.Store(false)
	for range 20 { // it is never empty
		flood()
	}
	if n := loads() - before; n == 0 {
		t.Error("it is not read again while stanzas come")
	}
	s.Settle()
	failed := 0
	for _, c := range senders {
		failed += strings.Count(c.Received(), "internal-server-error")
	}
	if failed == 0 || failed > 64 {
		t.Errorf("%d stanzas were answered with an error, and 64 may wait for one read", failed)
	}
}
