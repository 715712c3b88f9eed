package session_test

import (
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod"
	"canto/session/mod/storage"
	"canto/session/sessiontest"
	"canto/session/store"
	"canto/session/store/storetest"
	"canto/xmlstream"
)

const nsAcks = "urn:canto:test:acks"

var (
	ackOn     = xmlstream.N(nsAcks, "on")
	ackAsk    = xmlstream.N(nsAcks, "r")
	outcomes  = store.NewLog[string]("outcomes", 'w', 1)
	recording = session.Manifest{Name: "recording", Spec: "a test", Requires: []session.Feature{"store"}, New: func() session.Module { return recorder{} }}
	acking    = session.Manifest{Name: "acking", Spec: "a test", New: func() session.Module { return acker{} }}
)

// An acker is a module that acknowledges, as XEP-0198 does: <on/> tracks the stream, <r/> asks how many stanzas are
// settled, and <a h='N'/> comes in answer to it and whenever there are more.
type acker struct{}

func (acker) Load(api *session.API) error {
	send := func(st *session.Stream, n uint32) { st.Send(fmt.Appendf(nil, "<a xmlns='%s' h='%d'/>", nsAcks, n)) }
	api.Hooks.Features = append(api.Hooks.Features,
		session.StreamFeature{Name: ackOn, Needs: session.HasResource, Handle: func(st *session.Stream, _ xmlstream.Element) { st.Track() }},
		session.StreamFeature{Name: ackAsk, Needs: session.HasResource, Handle: func(st *session.Stream, _ xmlstream.Element) { send(st, st.Settled()) }})
	api.Hooks.Settled.Add(api.Module, session.Deliver, send)
	return nil
}

// A recorder is a module that writes down what became of each message at an account.
type recorder struct{}

func (recorder) Load(api *session.API) error {
	rows, err := storage.Log(api, outcomes)
	if err != nil {
		return err
	}
	next := new(atomic.Uint64)
	for _, to := range []session.Target{session.ToSelf, session.ToBare, session.ToFull} {
		api.Hooks.Message[to].Add(api.Module, session.Record, func(ev *session.Stanza) session.Verdict {
			o := ev.Outcome()
			rows.Append(storage.Rows(ev), ev.Account().ID(), next.Add(1), fmt.Sprintf("%d %v %v", o.Taken, o.Kept, o.Refused))
			return session.Pass
		})
	}
	return nil
}

func tracked(t *testing.T, opt sessiontest.Options) *sessiontest.Server {
	t.Helper()
	opt.Shelf = append([]session.Manifest{acking, recording}, mod.All...)
	opt.Modules = append(mod.Default(), "acking", "recording")
	return sessiontest.New(t, opt)
}

var acks = regexp.MustCompile(`<a xmlns='[^']*' h='(\d+)'/>`)

// lastAck is the last number that text acknowledges; empty: none.
func lastAck(text string) string {
	all := acks.FindAllStringSubmatch(text, -1)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1][1]
}

// What a stanza makes an entity store is durable before its client is told that it was handled, and so is what all
// stanzas before it made entities store (XEP-0198 §4: "handled" is the server's promise).
func TestPledges(t *testing.T) {
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
	romeo.Send("<message to='juliet@localhost' type='chat'><body>to be read from disk</body></message><presence/><r xmlns='" + nsAcks + "'/>")
	s.Settle()
	if got := romeo.Received(); lastAck(got) != "2" {
		t.Fatalf("on a fast store: %q", got)
	}
	slow.Store(true)
	romeo.Send("<message to='juliet@localhost' type='chat'><body>kept</body></message><iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq><r xmlns='" + nsAcks + "'/>")
	got := romeo.Received()
	if !strings.Contains(got, "id='p'") || lastAck(got) != "2" {
		t.Fatalf("before the message is durable: %q", got)
	}
	s.Settle()
	if got := romeo.Received(); lastAck(got) != "4" {
		t.Fatalf("when it is durable: %q", got)
	}
}

// A stanza that is refused at the door, or whose commit fails, counts as handled: its sender has an error.
func TestPledgesThatFail(t *testing.T) {
	var flaky storetest.Flaky
	s := tracked(t, sessiontest.Options{Fault: flaky.Fault})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	romeo.Send("<on xmlns='" + nsAcks + "'/><message to='juliet@localhost' type='chat'><body>1</body></message>")
	s.Settle()
	romeo.Received()
	flaky.Writes.Store(true)
	romeo.Send("<message to='juliet@localhost' id='m' type='chat'><body>2</body></message><iq type='get' id='bad'/><message to='@' id='mal'/>")
	s.Settle()
	got := romeo.Received()
	if lastAck(got) != "4" || !strings.Contains(got, "id='m'") || !strings.Contains(got, "internal-server-error") {
		t.Fatalf("%q", got)
	}
}

// What becomes of a message is written down once, in one batch with the message if that is kept.
func TestRecord(t *testing.T) {
	s := tracked(t, sessiontest.Options{})
	romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/>")
	s.Settle()
	romeo.Send("<message to='juliet@localhost' type='chat'><body>taken</body></message>")
	s.Settle()
	juliet.Cut()
	s.Settle()
	romeo.Send("<message to='juliet@localhost' type='chat'><body>kept</body></message><message to='juliet@localhost/none' type='groupchat'><body>refused</body></message>")
	s.Settle()
	var got []string
	rows, err := store.LogOf(s.DB.Space(), outcomes)
	if err != nil {
		t.Fatal(err)
	}
	snap := s.DB.Snapshot()
	defer snap.Close()
	who, _ := jid.Parse("juliet@localhost")
	acct, err := s.DB.Accounts().Get(snap, who.Domain(), who.Local())
	if err != nil {
		t.Fatal(err)
	}
	if err := rows.Scan(snap, acct.ID, 0, 1<<60, 100, false, func(_ uint64, v string) bool { got = append(got, v); return true }); err != nil {
		t.Fatal(err)
	}
	if want := "[1 false false 0 true false 0 false true]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}
