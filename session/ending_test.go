package session_test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod"
	"canto/session/sessiontest"
	"canto/session/sessiontest/acks"
	"canto/session/storage"
	"canto/session/store"
	"canto/session/store/storetest"
)

// An ended is one row of the table in session.txt.
type ended struct{ by, told, rests, unsent, contacts, counted string }

// endingsTable reads the table of session.txt.
func endingsTable(t *testing.T) (rows []ended) {
	t.Helper()
	text, err := os.ReadFile("session.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, part, _ := strings.Cut(string(text), "  by           the client is told")
	part, _, _ = strings.Cut(part, "\n\n")
	for _, line := range strings.Split(part, "\n")[1:] {
		c := regexp.MustCompile(`\s{2,}`).Split(strings.TrimSpace(line), -1)
		if len(c) != 6 {
			t.Fatalf("session.txt has the row %q", line)
		}
		rows = append(rows, ended{c[0], c[1], c[2], c[3], c[4], c[5]})
	}
	return rows
}

// An endingCase is a server on which juliet's session is ended. A module keeps the session
// hibernating if it is asked.
type endingCase struct {
	*sessiontest.Server
	t                    *testing.T
	juliet, romeo, nurse *sessiontest.Client
	resumed              *sessiontest.Client // the stream that had taken the session over; nil: none
}

// endingsBy has, for each name of an ending in session.txt, a function that ends juliet's session
// so.
var endingsBy = map[string]func(c *endingCase){
	"logged-out": func(c *endingCase) { c.write(c.juliet, "</stream:stream>") },
	"peer-error": func(c *endingCase) {
		c.write(c.juliet, "<stream:error><undefined-condition "+
			"xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>")
	},
	"our-error": func(c *endingCase) { c.write(c.juliet, "<unheard-of xmlns='urn:of-the-test'/>") },
	"shutdown": func(c *endingCase) {
		st := c.Stream(c.juliet)
		st.LoopRouter().Loop.Post(func() { c.C2S.OnShutdown(c.juliet.Conn().Conn()) })
		c.turns()
	},
	"slow-reader": func(c *endingCase) {
		c.juliet.Conn().SetWindow(0)
		for range 12 { // after 1 MiB on the wire and as much in the queue
			c.write(c.romeo, message("juliet@localhost/x", "flood"+strings.Repeat("x", 250_000)))
		}
	},
	"taken-over": func(c *endingCase) {
		st := c.Stream(c.juliet)
		l := st.LoopRouter()
		l.Loop.Post(func() {
			l.Enter(func() {
				st.Session().Outbox(func(o session.Outbox) { o.Manage(&session.Terms{Request: []byte("<r/>")}) })
				st.Track()
			})
		})
		c.turns()
		by := c.Stream(c.romeo)
		by.LoopRouter().Loop.Post(func() {
			by.LoopRouter().Enter(func() { by.Negotiation().TakeOver(st.Session(), func(uint32) {}) })
		})
		c.turns()
	},
	"line-lost": func(c *endingCase) { c.lose() },
	"overflow": func(c *endingCase) {
		c.lose()
		for range 5 {
			c.write(c.romeo, message("juliet@localhost/x", "flood"+strings.Repeat("x", 250_000)))
		}
	},
	"expired": func(c *endingCase) { c.lose(); c.Settle(); c.Advance(5*time.Minute + time.Second) },
	"displaced": func(c *endingCase) {
		c.lose()
		c.Settle()
		for i := range 4 {
			c.Login(fmt.Sprint("more", i), fmt.Sprintf("juliet@localhost/more%d", i)) // 4 are the limit
			if i < 3 && c.session() == nil {
				c.t.Error("it was displaced before the account had as many resources as it may")
			}
		}
	},
	"superseded": func(c *endingCase) { c.Login("next", "juliet@localhost/x") },
	"kicked": func(c *endingCase) {
		c.Router.Kick(c.juliet.Bare(), session.ErrPolicyViolation)
		c.turns()
	},
	"deleted": func(c *endingCase) {
		gone, err := c.DB.Accounts().Delete(context.Background(), "localhost", "juliet")
		if err != nil {
			c.t.Fatal(err)
		}
		if err := storage.FinishDeletion(c.Router, c.DB, gone, nil); err != nil {
			c.t.Fatal(err)
		}
		c.turns()
	},
	"failed": func(c *endingCase) {
		c.lose()
		c.Settle()
		c.resumed = c.resume("resumed") // and a hook of Hooks.Resumed panics
	},
}

func message(to, body string) string {
	return "<message to='" + to + "' type='chat'><body>" + body + "</body></message>"
}

// write sends text to the server and runs everything that follows without a timer.
func (c *endingCase) write(from *sessiontest.Client, text string) {
	from.Conn().Write([]byte(text))
	c.turns()
}

func (c *endingCase) turns() {
	for c.Net.RunTurn() {
	}
}

func (c *endingCase) lose() {
	c.juliet.DropConn()
	c.turns()
}

// session returns juliet's session; nil if there is none.
func (c *endingCase) session() *session.Session {
	a, ok := c.Router.Table.LookupAccount(c.juliet.Bare())
	if !ok {
		return nil
	}
	full, err := jid.Parse(c.juliet.JID)
	if err != nil {
		c.t.Fatal(err)
	}
	return a.Resource(full)
}

// resume logs in on another connection and resumes juliet's session.
func (c *endingCase) resume(name string) *sessiontest.Client {
	next := c.login(name)
	next.Send(resume("x"))
	c.Settle()
	return next
}

// login opens another connection of juliet's, without a session.
func (c *endingCase) login(name string) *sessiontest.Client {
	next := c.Authenticate(name, "juliet@localhost", 2)
	return next
}

// left reports whether nurse has seen juliet leave since the last call. juliet has sent nurse
// directed presence.
func (c *endingCase) left() bool {
	return strings.Contains(string(c.nurse.Conn().Take()), "type='unavailable'")
}

func (c *endingCase) ended(by string) (n uint64) {
	for _, l := range c.Router.LoopRouters() {
		for i, k := range l.Stats().Ended {
			if session.Ending(i).String() == by {
				n += k
			}
		}
	}
	return n
}

func newEnding(t *testing.T, by string) *endingCase { return newEndingOn(t, by, true, nil) }

// newEndingOn is newEnding on a store that may fail. With kept a module keeps juliet's session
// hibernating.
func newEndingOn(t *testing.T, by string, kept bool, fault store.Fault) *endingCase {
	lim := session.DefaultLimits()
	lim.Rate, lim.ResourcesPerAccount = 0, 4
	opt := sessiontest.Options{Limits: &lim, Fault: fault, AllowPanics: by == "failed",
		Modules: append(mod.DefaultNames(), acks.Manifest.Name, "of-the-test")}
	opt.Shelf = append([]session.Manifest{acks.Manifest, {Name: "of-the-test", Spec: "a test",
		New: func() session.Module {
			return hooked(func(api *session.API) error {
				api.Hooks.Resumed.Add(api.Module, session.Deliver, func(*session.LoopRouter, *session.Session) {
					panicIf(by == "failed")
				})
				return nil
			})
		}}}, mod.All...)
	s := sessiontest.New(t, opt)
	c := &endingCase{Server: s, t: t}
	c.juliet, c.romeo, c.nurse = s.Login("juliet", "juliet@localhost/x"),
		s.Login("romeo", "romeo@localhost/x"), s.Login("nurse", "nurse@localhost/x")
	if kept {
		c.juliet.Send("<on xmlns='" + nsAcks + "'/>")
	}
	c.juliet.Send("<presence/><presence to='nurse@localhost/x'/>")
	s.Settle()
	c.juliet.Received()
	c.nurse.Received()
	return c
}

// restedBefore lists the endings of a hibernating session: without a module that keeps it there
// is none.
var restedBefore = []string{"overflow", "expired", "displaced", "failed"}

// TestEndings holds each row of the table in session.txt, with a module that keeps every session
// and without one (then a session that may hibernate ends): what the client gets, whether the
// session hibernates, when contacts see it leave (RFC 6121 section 4.5.2), what becomes of unsent
// elements, what is counted. Only a peer's end tag or stream error is a logout (XEP-0198 section 5).
func TestEndings(t *testing.T) {
	rows := endingsTable(t)
	for by := range endingsBy {
		if !slices.ContainsFunc(rows, func(r ended) bool { return r.by == by }) {
			t.Errorf("session.txt has no row %s", by)
		}
	}
	for _, row := range rows {
		do := endingsBy[row.by]
		if do == nil {
			t.Errorf("no test ends a session by what session.txt calls %s", row.by)
			continue
		}
		t.Run(row.by, func(t *testing.T) { row.open(t, true, do) })
		t.Run(row.by+", clogged", func(t *testing.T) { row.clogged(t, true, do) })
		if slices.Contains(restedBefore, row.by) {
			continue
		}
		row.rests = "no"
		t.Run(row.by+", without a keeper", func(t *testing.T) { row.open(t, false, do) })
		t.Run(row.by+", without a keeper, clogged", func(t *testing.T) { row.clogged(t, false, do) })
	}
	var n session.Stats
	for i := range n.Ended {
		if name := session.Ending(i).String(); name != "" && endingsBy[name] == nil {
			t.Errorf("%s is not in session.txt", name)
		}
	}
}

// open ends a session with a client that reads.
func (row ended) open(t *testing.T, kept bool, do func(c *endingCase)) {
	c := newEndingOn(t, row.by, kept, nil)
	do(c)
	c.juliet.Conn().SetWindow(-1)
	c.Settle()
	c.Advance(6 * time.Second)
	c.Settle()
	told := c.juliet.Received()
	if c.resumed != nil {
		told = c.resumed.Received()
	}
	want := map[string]string{"end tag": "</stream:stream>", "the error": "<unsupported-stanza-type",
		"what the operator says": "<policy-violation",
		"nothing":                "", "-": ""}[row.told]
	if want == "" && row.told != "nothing" && row.told != "-" {
		want = "<stream:error><" + row.told
	}
	if !strings.Contains(told, want) || (want == "" || want == "</stream:stream>") &&
		strings.Contains(told, "stream:error") || want == "" && strings.Contains(told, "</stream:stream>") {
		t.Errorf("the client was told %.400q", told)
	}
	s := c.session()
	if row.by == "superseded" {
		s = nil // the other's
	}
	if rests := s != nil && !s.Connected(); rests != (row.rests == "yes") {
		t.Errorf("it rests: %v", rests)
	}
	if got := c.left(); got == (row.rests == "yes") {
		t.Errorf("nurse has seen it leave: %v", got)
	}
	n := c.ended(row.by)
	if want := row.rests == "no"; n != 1 && want || n != 0 && !want {
		t.Errorf("its end is counted %d times", n)
	}
	c.counted(row)
	if row.rests == "yes" {
		if got := c.resume("again").Received(); !strings.Contains(got, "<resumed") {
			t.Errorf("it can't be resumed: %q", got)
		}
		c.Settle()
		c.romeo.Send(message("juliet@localhost/x", "to the resumed"))
		c.Settle()
		if got := c.Client("again").Received(); !strings.Contains(got, "to the resumed") {
			t.Errorf("the stream that has resumed it got %q", got)
		}
	}
}

// counted checks what is counted besides.
func (c *endingCase) counted(row ended) {
	c.t.Helper()
	errors := uint64(0)
	for _, l := range c.Router.LoopRouters() {
		for _, n := range l.Stats().StreamErrors {
			errors += n
		}
	}
	switch row.counted {
	case "-":
		if errors != 0 {
			c.t.Errorf("%d stream errors are counted", errors)
		}
	case "stream error":
		if errors != 1 {
			c.t.Errorf("%d stream errors are counted", errors)
		}
	default:
		if n := limit(c.Server, row.counted); n != 1 {
			c.t.Errorf("the limit %s is counted %d times", row.counted, n)
		}
	}
}

// clogged ends a session with unsent elements. Its connection cannot be closed before five
// seconds have passed.
func (row ended) clogged(t *testing.T, kept bool, do func(c *endingCase)) {
	c := newEndingOn(t, row.by, kept, nil)
	if row.by == "failed" { // it rests with what it has to send, and the connection is that which resumes it
		c.lose()
		c.Settle()
		do = func(c *endingCase) {
			c.resumed = c.login("resumed")
			c.resumed.Conn().SetWindow(0)
			c.write(c.resumed, resume("x"))
		}
	} else {
		c.juliet.Conn().SetWindow(0)
		for i := range 5 { // more than the wire takes
			c.write(c.romeo, message("juliet@localhost/x", fmt.Sprintf("before %d", i)+strings.Repeat("x", 250_000)))
		}
	}
	c.write(c.romeo, strings.Replace(message("juliet@localhost/x", "unsent"), "<message ",
		"<message id='unsent' ", 1)+"<iq type='get' id='q' to='juliet@localhost/x'><ping "+
		"xmlns='urn:xmpp:ping'/></iq>")
	c.romeo.Conn().Take()
	do(c)
	// The other connections can't be closed yet; a stream that is taken over is not waited for.
	closed := row.rests == "no" && (row.by == "line-lost" || row.by == "taken-over")
	left := c.left()
	if left != (row.contacts == "at once" || closed) {
		t.Errorf("nurse has seen it leave before its connection is closed: %v", left)
	}
	if row.rests == "yes" { // there is no hole between the end of the stream and the rest of the session
		c.write(c.romeo, message("juliet@localhost/x", "meanwhile"))
		c.write(c.romeo, "<presence to='juliet@localhost/x'><status>meanwhile too</status></presence>")
	}
	c.Settle()
	c.Advance(6 * time.Second)
	c.Settle()
	if left = c.left() || left; left == (row.rests == "yes") {
		t.Errorf("nurse has seen it leave when its connection is closed: %v", left)
	}
	romeo := c.romeo.Received()
	var next *sessiontest.Client
	if row.rests == "yes" {
		next = c.resume("again")
	} else {
		if row.unsent == "bounced" {
			c.AddAccount("juliet@localhost")
		}
		if next = c.Client("more0"); next == nil { // else the account has as many as it may
			next = c.Login("again", "juliet@localhost/y")
		}
		next.Send("<presence/>")
	}
	c.Settle()
	c.Advance(time.Second)
	c.Settle()
	got := next.Received()
	if row.by == "superseded" {
		c.Client("next").Send("<presence/>")
		c.Settle()
		got += c.Client("next").Received()
	}
	if has := strings.Contains(got, ">unsent<"); has != (row.unsent == "again") {
		t.Errorf("what it had not sent comes to the next: %v (%.300q; romeo got %.300q)", has, got, romeo)
	}
	if refused := strings.Contains(romeo, ">unsent<") ||
		strings.Contains(romeo, "<message type='error' id='unsent'"); refused != (row.unsent == "bounced") {
		t.Errorf("the message that it had not sent is refused: %v (%.300q)", refused, romeo)
	}
	if row.rests == "no" && strings.Count(romeo, "id='q'") != 1 {
		t.Errorf("the request that it had not sent is answered with %.300q", romeo)
	}
	if row.rests == "yes" && (!strings.Contains(got, ">meanwhile<") ||
		!strings.Contains(got, ">meanwhile too<")) {
		t.Errorf("what came between the end of its stream and its rest is lost: %.300q", got)
	}
}

// Stanzas of a stream that has lost its session to another stream are dropped and counted. The
// session has the traits of its new stream (XEP-0198 section 5: the former stream is closed).
func TestTakenOver(t *testing.T) {
	c := newEnding(t, "")
	traits := session.Traits(0)
	former := c.Stream(c.juliet)
	former.LoopRouter().Loop.Post(func() { traits = c.session().Traits() })
	c.Settle()
	if traits != former.Traits() {
		t.Errorf("it has the traits %b, its stream %b", traits, former.Traits())
	}
	c.juliet.Conn().SetWindow(0) // so that its stream error waits, and what it sends is still read
	c.write(c.romeo, message("juliet@localhost/x", "waits"))
	next := c.login("next")
	st := c.Stream(next)
	if !c.take(st, st.Traits()|session.Secure) { // as a stream that came by another door
		t.Fatal("it is not taken over")
	}
	former.LoopRouter().Loop.Post(func() { traits = c.session().Traits() })
	c.Settle()
	if traits&session.Secure == 0 {
		t.Errorf("it has the traits %b of the stream that it was taken from", traits)
	}
	l := former.LoopRouter()
	l.Loop.Post(func() { // it was read before, with much else
		former.Feed([]byte(message("romeo@localhost/x", "from the former")), 0)
	})
	c.turns()
	dropped := uint64(0)
	for _, l := range c.Router.LoopRouters() {
		dropped += l.Stats().Superseded
	}
	if got := c.romeo.Received(); strings.Contains(got, "from the former") || dropped != 1 {
		t.Errorf("%d stanzas are counted; romeo got %q", dropped, got)
	}
	if n := c.ended("superseded") + c.ended("line-lost"); n != 0 || c.session() == nil {
		t.Errorf("the session has ended with its former stream: %d", n)
	}
}

// take attaches st's connection to juliet's session, with traits, as a module does that resumes
// sessions.
func (c *endingCase) take(st *session.Stream, traits session.Traits) (ok bool) {
	host, _ := c.Router.Table.Host("localhost")
	l := st.LoopRouter()
	l.Loop.Post(func() {
		l.Enter(func() {
			l.WithAccount(host, c.juliet.Bare(), func(l *session.LoopRouter, a *session.Account, _ bool, _ error) {
				ok = a.Attach(l, a.Resources()[0], st.Transport(), session.StreamRef{Node: c.Router.Node,
					Incarnation: c.Router.Incarnation, ID: st.ID()}, traits)
			})
		})
	})
	c.turns()
	return ok
}

// A session that a decision has ended, but that is not removed yet because its account cannot be
// read, cannot be resumed: not even by a stream that has logged in since, with the new password.
func TestKickedIsNotTakenOver(t *testing.T) {
	for _, by := range []string{"kicked", "logged-out"} {
		c := newEnding(t, "")
		c.juliet.Conn().SetWindow(0)
		c.write(c.romeo, message("juliet@localhost/x", "waits")) // its connection can't close yet
		s := c.session()
		if by == "kicked" {
			s.Close(session.ErrPolicyViolation) // as a kick does where the account can't be read
			c.turns()
		} else {
			c.write(c.juliet, "</stream:stream>")
		}
		next := c.login("next")
		if c.take(c.Stream(next), c.Stream(next).Traits()) {
			t.Errorf("%s: it goes on", by)
		}
		c.Advance(6 * time.Second)
		c.Settle()
		if n := c.ended(by); n != 1 || c.session() != nil {
			t.Errorf("%s: it has ended %d times", by, n)
		}
	}
}

// A hibernating session that is ended while its account cannot be read ends when the account can
// be read. Contacts see it leave (RFC 6121 section 4.5.2), as for a session with a connection.
func TestKickedWhileHibernating(t *testing.T) {
	var flaky storetest.Flaky
	c := newEndingOn(t, "", true, flaky.Fault)
	c.lose()
	c.Settle()
	c.Reload() // each account is read again
	flaky.Reads.Store(true)
	c.Router.Kick(c.juliet.Bare(), session.ErrPolicyViolation)
	c.Settle()
	c.Advance(2 * time.Second)
	c.Settle()
	if c.left() {
		t.Error("nurse has seen it leave while the account can't be read")
	}
	flaky.Reads.Store(false)
	for range 10 {
		c.Advance(time.Second)
		c.Settle()
	}
	if !c.left() || c.session() != nil || c.ended("kicked") != 1 {
		t.Errorf("it is there: %v; counted %d times, or nurse has not seen it leave", c.session() != nil,
			c.ended("kicked"))
	}
}

// A session that a module or an operator ends while it loses its stream, or while it is resumed,
// ends: the decision is not cleared with the end of its former stream.
func TestEndedMeanwhile(t *testing.T) {
	for _, at := range []string{"Rest", "Attach"} {
		t.Run(at, func(t *testing.T) {
			c := &endingCase{t: t}
			ends := false
			opt := sessiontest.Options{Modules: append(mod.DefaultNames(), acks.Manifest.Name, "of-the-test")}
			opt.Shelf = append([]session.Manifest{acks.Manifest, {Name: "of-the-test", Spec: "a test",
				New: func() session.Module {
					return hooked(func(api *session.API) error {
						api.Hooks.Hibernate.Add(api.Module, session.Guard,
							func(_ *session.LoopRouter, s *session.Session) session.Verdict {
								if ends {
									s.Close(session.ErrPolicyViolation)
								}
								return session.Pass
							})
						return nil
					})
				}}}, mod.All...)
			c.Server = sessiontest.New(t, opt)
			c.juliet, c.nurse = c.Login("juliet", "juliet@localhost/x"), c.Login("nurse", "nurse@localhost/x")
			c.juliet.Send("<on xmlns='" + nsAcks + "'/><presence/><presence to='nurse@localhost/x'/>")
			c.Settle()
			c.nurse.Received()
			if at == "Rest" {
				ends = true
				c.lose()
			} else {
				st, s := c.Stream(c.juliet), c.session()
				st.LoopRouter().Loop.Post(func() {
					s.Pull(st.LoopRouter(), &endless{end: func() { s.Close(session.ErrPolicyViolation) }}, false)
				})
				c.turns()
				next := c.login("next")
				if c.take(c.Stream(next), c.Stream(next).Traits()) {
					t.Error("it goes on")
				}
			}
			c.Settle()
			c.Advance(6 * time.Second)
			c.Settle()
			if n := c.ended("kicked"); n != 1 || c.session() != nil || !c.left() {
				t.Errorf("it is there: %v; counted %d times, or nurse has not seen it leave", c.session() != nil, n)
			}
		})
	}
}

// An endless is a source that never has an element and that calls end when it ends.
type endless struct{ end func() }

func (*endless) Next(*session.LoopRouter, *session.Session) (p session.OutboundStanza,
	is session.NextStatus) {
	return p, session.NextWouldBlock
}
func (*endless) Wanted(*session.Session) bool                                               { return true }
func (*endless) Taken(*session.LoopRouter, *session.Session, int)                           {}
func (e *endless) End(_ *session.LoopRouter, _ *session.Session, _ session.SourceEndReason) { e.end() }
