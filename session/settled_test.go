package session_test

import (
	"math"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/mod"
	"canto/session/sessiontest"
	"canto/session/sessiontest/acks"
	"canto/session/storage"
	"canto/session/store"
	"canto/session/store/storetest"
	"canto/xmlstream"
)

const nsAcks = "urn:canto:test:acks"

// resume asks for the account's hibernating session of that resource.
func resume(resource string) string {
	return "<resume xmlns='" + nsAcks + "' resource='" + resource + "'/>"
}

func tracked(t *testing.T, opt sessiontest.Options) *sessiontest.Server {
	t.Helper()
	opt.Shelf = append([]session.Manifest{acks.Manifest}, mod.All...)
	opt.Modules = append(mod.DefaultNames(), acks.Manifest.Name)
	return sessiontest.New(t, opt)
}

var ackPattern = regexp.MustCompile(`<a xmlns='[^']*' h='(\d+)'/>`)

// lastAck returns the last number that text acknowledges; empty: none.
func lastAck(text string) string {
	all := ackPattern.FindAllStringSubmatch(text, -1)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1][1]
}

// What a stanza makes an entity store is durable before its client gets the ack for it,
// and so is what all stanzas before it made entities store (XEP-0198 section 4: "handled" is the
// server's promise).
func TestSettledInOrder(t *testing.T) {
	var slow atomic.Bool
	s := tracked(t, sessiontest.Options{Slow: func() time.Duration {
		if slow.Load() {
			return time.Second
		}
		return 0
	}})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	s.Settle()
	romeo.Send("<on xmlns='" + nsAcks + "'/>")
	romeo.Send("<message to='juliet@localhost' type='chat'><body>to be read from " +
		"disk</body></message><presence/><r xmlns='" + nsAcks + "'/>")
	s.Settle()
	if got := romeo.Received(); lastAck(got) != "2" {
		t.Fatalf("on a fast store: %q", got)
	}
	slow.Store(true)
	romeo.Send("<message to='juliet@localhost' type='chat'><body>kept</body></message><iq type='get' " +
		"id='p'><ping xmlns='urn:xmpp:ping'/></iq><r xmlns='" + nsAcks + "'/>")
	got := romeo.Received()
	if !strings.Contains(got, "id='p'") || lastAck(got) != "2" {
		t.Fatalf("before the message is durable: %q", got)
	}
	s.Settle()
	if got := romeo.Received(); lastAck(got) != "4" {
		t.Fatalf("when it is durable: %q", got)
	}
}

// A stanza that is refused before it is routed, or with a commit that fails, counts as handled:
// its sender has an error.
func TestSettledWithAnError(t *testing.T) {
	var flaky storetest.Flaky
	s := tracked(t, sessiontest.Options{Fault: flaky.Fault})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	romeo.Send("<on xmlns='" + nsAcks + "'/><message to='juliet@localhost' type='chat'><body>1</body></message>")
	s.Settle()
	romeo.Received()
	flaky.Writes.Store(true)
	romeo.Send("<message to='juliet@localhost' id='m' type='chat'><body>2</body></message><iq type='get' " +
		"id='bad'/><message to='@' id='mal'/>")
	s.Settle()
	got := romeo.Received()
	if lastAck(got) != "4" || !strings.Contains(got, "id='m'") ||
		!strings.Contains(got, "internal-server-error") {
		t.Fatalf("%q", got)
	}
}

// recorded returns the rows that the module acks has written of an account.
func recorded(t *testing.T, s *sessiontest.Server, bare string) (got []string) {
	t.Helper()
	rows, err := store.LogOf(s.DB.Tables(), acks.Rows)
	if err != nil {
		t.Fatal(err)
	}
	snap := s.DB.Snapshot()
	defer snap.Close()
	who, _ := jid.Parse(bare)
	a, err := s.DB.Accounts().Get(snap, who.Domain(), who.Local())
	if err != nil {
		t.Fatal(err)
	}
	err = rows.Scan(snap, a.ID, 0, math.MaxUint64, 0, false, func(_ uint64, v string) bool {
		got = append(got, v)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// The outcome of a message is stored once, with the message itself if that is stored: in one
// batch. Its sender's archive has another.
func TestRecord(t *testing.T) {
	s := tracked(t, sessiontest.Options{})
	romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	romeo.Send("<message to='juliet@localhost' type='chat'><body>one</body></message>")
	s.Settle()
	juliet.DropConn()
	s.Settle()
	before := s.DB.Last()
	romeo.Send("<message to='juliet@localhost' type='chat'><body>two</body></message>")
	s.Settle()
	if n := s.DB.Last() - before; n != 2 {
		t.Errorf("%d batches for one message", n)
	}
	romeo.Send("<message to='juliet@localhost/none' type='groupchat'><body>three</body></message>")
	s.Settle()
	want := []string{"one: taken by [balcony], kept false, refused false",
		"two: taken by [], kept true, refused false",
		"three: taken by [], kept false, refused true"}
	if got := recorded(t, s, "juliet@localhost"); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A store that is known to be full refuses a message before it is delivered to any session.
func TestRecordWithoutRoom(t *testing.T) {
	s := tracked(t, sessiontest.Options{})
	romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.Settle()
	juliet.Received()
	s.SetFull(true)
	romeo.Send("<message to='juliet@localhost' id='m' type='chat'><body>one</body></message>")
	s.Settle()
	if got := romeo.Received(); !strings.Contains(got, "id='m'") ||
		!strings.Contains(got, "resource-constraint") {
		t.Errorf("romeo got %q", got)
	}
	if got := juliet.Received(); got != "" {
		t.Errorf("juliet got %q", got)
	}
}

// committer is a [session.Committer] to be embedded.
type committer = session.Committer

// A stream has a bounded number of unsettled stanzas: at the bound nothing is read from its
// client until some are settled.
func TestUnsettledAreBounded(t *testing.T) {
	var slow atomic.Bool
	lim := session.DefaultLimits()
	lim.Rate = 0
	s := tracked(t, sessiontest.Options{Limits: &lim, Slow: func() time.Duration {
		if slow.Load() {
			return time.Second
		}
		return 0
	}})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	romeo.Send("<on xmlns='" + nsAcks + "'/>")
	s.Settle()
	slow.Store(true)
	romeo.Send(strings.Repeat("<message to='juliet@localhost' type='chat'><body>x</body></message>", 1500))
	if n := strings.Count(juliet.Received(), "<body>x"); n != 1024 {
		t.Errorf("%d messages were taken while none was settled, want 1024", n)
	}
	s.Settle()
	if got := lastAck(romeo.Received()); got != "1500" {
		t.Errorf("%s are acknowledged, want 1500", got)
	}
}

// A session that has lost its connection is resumed on another loop with all that was sent to it.
// One that is not resumed ends.
func TestResumption(t *testing.T) {
	s := tracked(t, sessiontest.Options{})
	romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/><on xmlns='" + nsAcks + "'/>")
	s.Settle()
	juliet.DropConn()
	s.Settle()
	romeo.Send("<message to='juliet@localhost/balcony' type='chat'><body>meanwhile</body></message>")
	s.Settle()
	next := s.Authenticate("next", "juliet@localhost", 2)
	next.Send(resume("balcony"))
	s.Settle()
	if got := next.Received(); !strings.Contains(got, "<resumed") || !strings.Contains(got, "meanwhile") {
		t.Fatalf("%q", got)
	}
	next.DropConn()
	s.Advance(6 * time.Minute)
	romeo.Received()
	romeo.Send("<message to='juliet@localhost/balcony' type='groupchat' id='m'><body>late</body></message>")
	s.Settle()
	if got := romeo.Received(); !strings.Contains(got, "service-unavailable") {
		t.Errorf("the session is there after six minutes: %q", got)
	}
}

// A session that hibernates, is resumed, and hibernates again, is kept for as long the second
// time as the first: the time in which a client may resume begins with the loss of its connection
// (XEP-0198 section 5).
func TestResumptionTwice(t *testing.T) {
	s := tracked(t, sessiontest.Options{})
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/><on xmlns='" + nsAcks + "'/>")
	s.Settle()
	for i, rest := range []time.Duration{4 * time.Minute, 4 * time.Minute, 4 * time.Minute, 6 * time.Minute} {
		juliet.DropConn()
		s.Settle()
		s.AdvanceSettled(rest)
		juliet = s.Authenticate("juliet", "juliet@localhost", 1)
		juliet.Send(resume("balcony"))
		s.Settle()
		if got := juliet.Received(); strings.Contains(got, "<resumed ") != (rest < 5*time.Minute) {
			t.Fatalf("after rest %d, of %v: %q", i, rest, got)
		}
	}
}

// A client resumes the session that it names (XEP-0198 section 5, previd), whichever other device of the
// account hibernates, and gets <resumed/> before anything else.
func TestResumptionByName(t *testing.T) {
	s := tracked(t, sessiontest.Options{})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	for _, r := range []string{"balcony", "garden"} {
		c := s.Login(r, "juliet@localhost/"+r)
		c.Send("<presence/><on xmlns='" + nsAcks + "'/>")
		s.Settle()
		c.DropConn()
		s.Settle()
		romeo.Send("<message to='juliet@localhost/" + r + "' type='chat'><body>to " + r + "</body></message>")
		s.Settle()
	}
	for resource, want := range map[string]string{
		"garden":    "<resumed xmlns='" + nsAcks + "' jid='juliet@localhost/garden'/>",
		"elsewhere": "<failed ",
	} {
		next := s.Authenticate(resource, "juliet@localhost", 2)
		next.Received()
		next.Send(resume(resource))
		s.Settle()
		got := next.Received()
		if !strings.Contains(got, want) || strings.Contains(got, "to balcony") ||
			strings.Contains(got, "to garden") != (resource == "garden") {
			t.Errorf("%s gets %q", resource, got)
		}
		if first := strings.Index(got, "<message"); first >= 0 && first < strings.Index(got, want) {
			t.Errorf("a message comes before <resumed/>: %q", got)
		}
	}
}

// If a hibernating session cannot be resumed because a decision has ended it, its client is told
// <failed/> and not <resumed/>, and may bind a resource on the same stream (XEP-0198 section 5).
func TestResumptionOfWhatHasEnded(t *testing.T) {
	var flaky storetest.Flaky
	s := tracked(t, sessiontest.Options{Fault: flaky.Fault})
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/><on xmlns='" + nsAcks + "'/>")
	s.Settle()
	juliet.DropConn()
	s.Settle()
	s.Reload() // the account is to be read again, and can't be: the session is there until it is
	flaky.Reads.Store(true)
	s.Router.Kick(juliet.Bare(), session.ErrPolicyViolation)
	s.Settle()
	flaky.Reads.Store(false)
	next := s.Authenticate("next", "juliet@localhost", 1)
	next.Received()
	next.Send(resume("balcony") + "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>" +
		"<resource>garden</resource></bind></iq>")
	s.Settle()
	got := next.Received()
	if !strings.Contains(got, "<failed ") || strings.Contains(got, "<resumed") ||
		!strings.Contains(got, "<jid>juliet@localhost/garden</jid>") {
		t.Errorf("%q", got)
	}
}

// A stanza that is dropped because another stream has its session is not acknowledged: its client
// sends it again.
func TestDroppedIsNotSettled(t *testing.T) {
	s := tracked(t, sessiontest.Options{})
	romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	romeo.Send("<on xmlns='" + nsAcks + "'/><message to='juliet@localhost' " +
		"type='chat'><body>one</body></message>")
	s.Settle()
	juliet.Received()
	old := s.Stream(romeo)
	if old.Settled() != 1 {
		t.Fatalf("%d settled", old.Settled())
	}
	next := s.Authenticate("next", "romeo@localhost", int(old.LoopRouter().Loop.Index()))
	st := s.Stream(next)
	st.LoopRouter().Loop.Post(func() {
		st.LoopRouter().Enter(func() {
			st.Negotiation().Bind(func(a *session.Account, _ bool, _ error) {
				a.Resume(st.Negotiation(), a.Resources()[0])
			})
			// What the old connection had sent by then is read before it is closed.
			old.Feed([]byte("<message to='juliet@localhost' type='chat'><body>two</body></message>"), 0)
			if n := old.Settled(); n != 1 {
				t.Errorf("%d are settled, and the second was dropped", n)
			}
		})
	})
	s.Settle()
	if got := juliet.Received(); strings.Contains(got, "two") {
		t.Errorf("juliet got %q", got)
	}
}

// A stalled store is one in which the commits up to upTo are settled as far as the kernel knows,
// and the others are not.
type stalled struct {
	committer
	upTo session.Ticket
}

func (s *stalled) LastSettled() session.Ticket { return min(s.committer.LastSettled(), s.upTo) }

// What a stanza makes an entity store after an Await, or in the callback of a commit, counts for
// that stanza like all else: it is not acknowledged before that is durable (XEP-0198 section 4).
func TestSettledAfterAwait(t *testing.T) {
	name := xmlstream.N("urn:of-the-test", "q")
	rows := store.NewLog[string]("test-settled", '|', 1)
	for _, how := range []string{"Await, then Record", "Commit in a Commit", "Record in a Commit"} {
		t.Run(how, func(t *testing.T) {
			var s *sessiontest.Server
			disk := &stalled{upTo: math.MaxUint64}
			written := false
			load := func(api *session.API) error {
				list, err := storage.OpenLog(api, rows)
				if err != nil {
					return err
				}
				write := func(ev *session.Stanza) {
					written = true
					list.Append(storage.BatchOf(ev), ev.Account().ID(), 1, "x")
				}
				commit := func(ev *session.Stanza,
					then func(ev *session.Stanza, err error) session.Verdict) session.Verdict {
					return ev.Commit(api.Router.Committer.Commit(api.Router.Committer.NewBatch(ev.Account().ID())), then)
				}
				answer := func(ev *session.Stanza, err error) session.Verdict { return ev.Reply(nil) }
				api.Hooks.OnIQ(api.Module, true, name, func(ev *session.Stanza) session.Verdict {
					if how == "Await, then Record" {
						return ev.Await(reactor.Disk, nothing, answer)
					}
					return commit(ev, func(ev *session.Stanza, err error) session.Verdict {
						disk.upTo = session.Ticket(s.DB.Last()) // what comes from now on is not settled
						if how == "Commit in a Commit" {
							written = true
							return commit(ev, answer)
						}
						write(ev)
						return ev.Reply(nil)
					})
				}, session.ToSelf)
				if how == "Await, then Record" {
					api.Hooks.IQ[session.ToSelf].Add(api.Module, session.Record, func(ev *session.Stanza) session.Verdict {
						disk.upTo = session.Ticket(s.DB.Last())
						write(ev)
						return session.Pass
					})
				}
				return nil
			}
			opt := sessiontest.Options{Modules: append(mod.DefaultNames(), acks.Manifest.Name, "of-the-test")}
			opt.Shelf = append([]session.Manifest{acks.Manifest, {Name: "of-the-test", Spec: "a test",
				Requires: []session.Feature{"store"},
				New:      func() session.Module { return hooked(load) }}}, mod.All...)
			s = sessiontest.New(t, opt)
			romeo := s.Login("romeo", "romeo@localhost/orchard")
			romeo.Send("<on xmlns='" + nsAcks + "'/>")
			s.Settle()
			disk.committer, s.Router.Committer = s.Router.Committer, disk
			romeo.Send("<iq type='set' id='q'><q xmlns='urn:of-the-test'/></iq>")
			s.Settle()
			romeo.Send("<r xmlns='" + nsAcks + "'/>")
			s.Settle()
			if got := romeo.Received(); !written || lastAck(got) == "1" {
				t.Errorf("written: %v; before it is durable: %q", written, got)
			}
			disk.upTo = math.MaxUint64
			s.AddAccount("another@localhost") // a commit, with which the loops look
			s.Settle()
			if got := romeo.Received(); lastAck(got) != "1" {
				t.Errorf("when it is durable: %q", got)
			}
		})
	}
}

// A stanza with a commit that fails together with the batch that creates its entity could not be
// stored: its sender gets an error, and it is counted so.
func TestSettledBeforeCreation(t *testing.T) {
	failed := 0
	count := hooked(func(api *session.API) error {
		api.Hooks.Settled.Add(api.Module, session.Deliver, func(_ *session.Stream, _ uint32, n int) { failed += n })
		return nil
	})
	opt := sessiontest.Options{Services: []string{"b.localhost"}, ServiceModules: []string{"store", "brittle"}}
	opt.Modules = append(mod.DefaultNames(), acks.Manifest.Name, "of-the-test")
	opt.Shelf = append([]session.Manifest{acks.Manifest, {Name: "of-the-test", Spec: "a test",
		New: func() session.Module {
			return count
		}},
		{Name: "brittle", Spec: "a test", Requires: []session.Feature{"store"}, New: func() session.Module {
			return new(brittle)
		}}}, mod.All...)
	s := sessiontest.New(t, opt)
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	romeo.Send("<on xmlns='" + nsAcks + "'/>")
	s.Settle()
	romeo.Received()
	disk := &stalled{committer: s.Router.Committer, upTo: session.Ticket(s.DB.Last())}
	s.Router.Committer = disk
	romeo.Send("<presence to='x@b.localhost'/>")
	s.Settle()
	born := session.Ticket(s.DB.Last())
	romeo.Send("<message to='x@b.localhost' id='commit'/>")
	s.Settle()
	disk.upTo = math.MaxUint64
	s.Router.Committer = forgetful{disk, born} // it has failed, and later batches have not
	s.AddAccount("another@localhost")
	s.Settle()
	if got := romeo.Received(); strings.Count(got, "type='error' id='commit'") != 1 || lastAck(got) != "2" ||
		failed != 1 {
		t.Errorf("%d are counted as failed; romeo got %q", failed, got)
	}
}

// A stanza that has waited for a commit is not kept in memory afterwards, whether one commit is
// settled before another or not.
func TestSettledIsGone(t *testing.T) {
	name := xmlstream.N("urn:of-the-test", "q")
	freed := make(chan string, 2)
	s := withModule(t, sessiontest.Options{}, func(api *session.API) error {
		api.Hooks.OnIQ(api.Module, true, name, func(ev *session.Stanza) session.Verdict {
			what := &struct{ b [1 << 16]byte }{} // what its answer needs
			runtime.AddCleanup(what, func(id string) { freed <- id }, string(ev.ID()))
			t := api.Router.Committer.Commit(api.Router.Committer.NewBatch(ev.Account().ID()))
			return ev.Commit(t, func(ev *session.Stanza, err error) session.Verdict {
				what.b[0]++
				return ev.Reply(nil)
			})
		}, session.ToSelf)
		return nil
	})
	one := s.Login("one", "one@localhost/x")
	s.Login("elsewhere", "elsewhere@localhost/x")
	two := s.Login("two", "two@localhost/x") // of the same loop
	disk := &stalled{committer: s.Router.Committer, upTo: session.Ticket(s.DB.Last())}
	s.Router.Committer = disk
	one.Send("<iq type='set' id='1'><q xmlns='urn:of-the-test'/></iq>")
	first := session.Ticket(s.DB.Last())
	two.Send("<iq type='set' id='2'><q xmlns='urn:of-the-test'/></iq>")
	for i, upTo := range []session.Ticket{first, math.MaxUint64} {
		disk.upTo = upTo
		s.AddAccount([]string{"a@localhost", "b@localhost"}[i]) // a commit, with which the loops look
		s.Settle()
	}
	if one, two := one.Received(), two.Received(); !strings.Contains(one, "id='1'") ||
		!strings.Contains(two, "id='2'") {
		t.Fatalf("%q, %q", one, two)
	}
	for range 2 {
		for range 3 {
			runtime.GC()
		}
		select {
		case <-freed:
		case <-time.After(5 * time.Second):
			t.Fatal("what has waited for a commit that is settled is kept")
		}
	}
	runtime.KeepAlive(s)
}
