package room_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/session"
	"canto/session/sessiontest"
	"canto/session/sessiontest/room"
	"canto/session/store"
	"canto/session/store/storetest"
)

const orchard = "orchard@rooms.localhost"

func iq(typ, id, payload string) string {
	return fmt.Sprintf("<iq type='%s' id='%s' to='%s'>%s</iq>", typ, id, orchard, ns(payload))
}

// ns gives the first element of a payload the module's namespace.
func ns(payload string) string {
	i := strings.IndexAny(payload, " />")
	return payload[:i] + " xmlns='urn:canto:test:room'" + payload[i:]
}

func join(nick string) string { return "<presence to='" + orchard + "/" + nick + "'/>" }

func say(id string) string {
	return "<message to='" + orchard + "' type='groupchat' id='" + id + "'><body>" + id + "</body></message>"
}

var logNumber = regexp.MustCompile(`<log xmlns='urn:canto:test:room' n='(\d+)'/></message>`)

// numbers returns the numbers of the messages in got, in order.
func numbers(got string) (list []string) {
	for _, m := range logNumber.FindAllStringSubmatch(got, -1) {
		list = append(list, m[1])
	}
	return list
}

// mustHave checks that each of wants is in got.
func mustHave(t *testing.T, what, got string, wants ...string) {
	t.Helper()
	for _, w := range wants {
		if !strings.Contains(got, w) {
			t.Errorf("%s: %q is missing in %s", what, w, got)
		}
	}
}

// rooms returns the entities of the kind in the directory.
func rooms(t *testing.T, db *store.DB) (list []store.Entry) {
	t.Helper()
	if err := db.Entities().List(db, "rooms.localhost", "", func(e store.Entry) bool {
		list = append(list, e)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

func unlimited() *session.Limits {
	lim := session.DefaultLimits()
	lim.Rate, lim.ResourcesPerAccount = 0, 0
	return &lim
}

// Two first stanzas at once, on two loops, create one room: one of the senders is its owner, both have an
// answer, and the directory has one row.
func TestTwoAtOnceMakeOne(t *testing.T) {
	s := sessiontest.New(t, with(sessiontest.Options{}))
	romeo, juliet := s.Login("romeo", "romeo@localhost/a"), s.Login("juliet", "juliet@localhost/b")
	set := iq("set", "1", "<affiliation jid='nurse@localhost' is='member'/>")
	romeo.Conn().Write([]byte(set + join("Romeo")))
	juliet.Conn().Write([]byte(set + join("Juliet")))
	s.Settle()
	both := romeo.Received() + juliet.Received()
	if n := strings.Count(both, "<iq type='result' id='1'"); n != 1 {
		t.Errorf("%d have made the room: %s", n, both)
	}
	if n := strings.Count(both, "<forbidden"); n != 1 {
		t.Errorf("%d found it made: %s", n, both)
	}
	if all := rooms(t, s.DB); len(all) != 1 || all[0].Kind != room.Kind.String() {
		t.Errorf("the directory has %v", all)
	}
	romeo.Send(say("m"))
	mustHave(t, "romeo", romeo.Received(), "n='1'")
	mustHave(t, "juliet", juliet.Received(), "n='1'")
}

// silent is a logger for Pebble that writes nothing.
type silent struct{}

func (silent) Infof(string, ...any)      {}
func (silent) Errorf(string, ...any)     {}
func (silent) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

// dump returns every key of the store that has the bytes of id in its key or value.
func dump(t *testing.T, fs *vfs.MemFS, id uint64) (keys []string) {
	t.Helper()
	db, err := pebble.Open("data", &pebble.Options{FS: fs.CrashClone(vfs.CrashCloneCfg{}), ReadOnly: true,
		Logger: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	want := fmt.Sprintf("%016x", id)
	for ok := it.First(); ok; ok = it.Next() {
		if strings.Contains(fmt.Sprintf("%x %x", it.Key(), it.Value()), want) {
			keys = append(keys, fmt.Sprintf("%q", it.Key()))
		}
	}
	return keys
}

// failing makes the n-th write from now fail; 0: none.
type failing struct{ n, seen atomic.Int32 }

func (f *failing) arm(n int32) {
	f.seen.Store(0)
	f.n.Store(n)
}

func (f *failing) fault(write bool) error {
	if n := f.n.Load(); write && n > 0 && f.seen.Add(1) == n {
		return storetest.ErrFault
	}
	return nil
}

// A destroyed room leaves no row under its id once it is erased: in the directory, in a table or in the
// log. After the answer it has no address, wherever the server stops; a start erases what is left. If its
// removal from the directory could not be stored, the room is there with all that it had.
func TestDeletedWithProof(t *testing.T) {
	for _, c := range []struct {
		how string
		// The write that fails after <destroy/>: that of the directory is the first, the erasure the second.
		fails   int32
		crashes bool
		stays   bool
	}{
		{how: "runs on"},
		{how: "crashes behind the answer", crashes: true},
		{how: "can't erase the rows, and crashes", fails: 2, crashes: true},
		{how: "can't take the address away", fails: 1, stays: true},
		{how: "can't take the address away, and crashes", fails: 1, crashes: true, stays: true},
	} {
		t.Run(c.how, func(t *testing.T) {
			fs := vfs.NewCrashableMem()
			var store failing
			s := sessiontest.New(t, with(sessiontest.Options{FS: fs, Fault: store.fault}))
			romeo := s.Login("romeo", "romeo@localhost/a")
			romeo.Send(join("Romeo") + say("one") + say("two") + iq("set", "1", "<invite jid='nurse@localhost'/>"))
			s.Settle()
			id := rooms(t, s.DB)[0].ID
			had := dump(t, fs, id)
			if len(had) < 5 {
				t.Fatalf("only %d rows are found before", len(had))
			}
			romeo.Received()
			store.arm(c.fails)
			romeo.Send(iq("set", "2", "<destroy/>"))
			s.Settle()
			want := "<iq type='result' id='2'"
			if c.stays {
				want = "<iq type='error' id='2'"
			}
			mustHave(t, "romeo", romeo.Received(), want)
			if keys := dump(t, fs, id); c.fails == 2 && len(keys) < 4 {
				t.Errorf("the rows are erased although that has failed: %v", keys)
			}
			store.arm(0)
			if c.crashes {
				s.Crash()
				s.Settle()
				romeo = s.Login("romeo", "romeo@localhost/b")
			}
			keys := dump(t, s.FS().(*vfs.MemFS), id)
			romeo.Send(iq("get", "3", "<affiliations/>"))
			s.Settle()
			if c.stays {
				if !slices.Equal(keys, had) {
					t.Errorf("there are the rows %v, of %v", keys, had)
				}
				mustHave(t, "romeo", romeo.Received(), "is='owner'")
				return
			}
			if len(keys) > 0 {
				t.Errorf("rows are left: %v", keys)
			}
			mustHave(t, "romeo", romeo.Received(), "<item-not-found")
		})
	}
}

// clumsy panics in a room's chain if a message says so.
type clumsy struct{}

func (clumsy) Load(api *session.API) error {
	b := api.Hooks.Serve(room.Kind)
	b.Message[session.ToBare].Add(api.Module, session.Guard, func(ev *session.Stanza) session.Verdict {
		if strings.HasPrefix(string(ev.ID()), "panic") {
			panic("for the test")
		}
		return session.Pass
	})
	return nil
}

var clumsyManifest = session.Manifest{Name: "clumsy", Spec: "a test", New: func() session.Module {
	return clumsy{}
}}

// A panic in a handler of a room costs one stanza of that room: its sender gets an error, the occupants
// stay, the next stanza works, and another room does not notice. RFC 6120 section 8.3.1: each stanza that
// could not be processed is answered with an error.
func TestPanicCostsOneStanza(t *testing.T) {
	s := sessiontest.New(t, with(sessiontest.Options{AllowPanics: true}, clumsyManifest))
	romeo, juliet := s.Login("romeo", "romeo@localhost/a"), s.Login("juliet", "juliet@localhost/b")
	tomb := "<presence to='tomb@rooms.localhost/R'/>"
	romeo.Send(join("Romeo") + tomb)
	juliet.Send(join("Juliet"))
	romeo.Send(say("one") + say("panic1") + say("two"))
	s.Settle()
	got := romeo.Received()
	mustHave(t, "romeo", got, "<message type='error' id='panic1'", "<internal-server-error", "id='one'",
		"id='two'")
	if n := numbers(got); fmt.Sprint(n) != "[1 2]" {
		t.Errorf("romeo gets %v", n)
	}
	if n := numbers(juliet.Received()); fmt.Sprint(n) != "[1 2]" {
		t.Errorf("juliet gets %v", n)
	}
	romeo.Send(strings.ReplaceAll(say("three"), "orchard@", "tomb@"))
	mustHave(t, "the other room", romeo.Received(), "id='three'", "n='1'")
}

// The same while a broadcast to many is in flight and the inbox is full: each message has a number and is
// delivered to all, in one order, or its sender gets an error; afterwards nothing is pending.
func TestPanicBehindBroadcasts(t *testing.T) {
	const occupants, messages = 150, 400
	s := sessiontest.New(t, with(sessiontest.Options{AllowPanics: true, Limits: unlimited()}, clumsyManifest))
	var clients []*sessiontest.Client
	for i := range occupants {
		c := s.Login(fmt.Sprint("c", i), fmt.Sprintf("c%d@localhost/x", i%20)+fmt.Sprint(i))
		c.Send(join(fmt.Sprint("nick", i)))
		clients = append(clients, c)
	}
	for _, c := range clients {
		c.Received()
	}
	for i := range messages {
		id := fmt.Sprint("m", i)
		if i%10 == 5 {
			id = fmt.Sprint("panic", i)
		}
		clients[i%7].Conn().Write([]byte(say(id)))
	}
	s.Settle()
	var first []string
	errs, panics := 0, 0
	for i, c := range clients {
		got := c.Received()
		n := numbers(got)
		if i == 0 {
			first = n
		}
		if !slices.Equal(n, first) {
			t.Fatalf("%s gets %v, another %v", c.Name, n, first)
		}
		errs += strings.Count(got, "<resource-constraint")
		panics += strings.Count(got, "<internal-server-error")
	}
	for i, n := range first {
		if n != fmt.Sprint(i+1) {
			t.Fatalf("the %dth message has the number %s", i+1, n)
		}
	}
	t.Logf("%d are delivered, %d found the inbox full, %d were panics", len(first), errs, panics)
	if len(first)+errs+panics != messages || errs == 0 || panics == 0 {
		t.Errorf("%d, %d and %d of %d", len(first), errs, panics, messages)
	}
	clients[0].Send(say("afterwards"))
	mustHave(t, "an occupant", clients[9].Received(), "id='afterwards'")
	s.Settle()
	if inboxes := s.Router.Table.Footprint()["inboxes"]; inboxes != (session.Footprint{}) {
		t.Errorf("afterwards %d stanzas wait, and %d bytes", inboxes.Count, inboxes.Bytes)
	}
}

// A failed commit is reported to the sender of the message once. The room is reloaded, its occupants stay,
// and the next message works, with a number of its own.
func TestFailedCommit(t *testing.T) {
	var flaky storetest.Flaky
	s := sessiontest.New(t, with(sessiontest.Options{Fault: flaky.Fault}))
	romeo, juliet := s.Login("romeo", "romeo@localhost/a"), s.Login("juliet", "juliet@localhost/b")
	romeo.Send(join("Romeo") + say("one"))
	juliet.Send(join("Juliet"))
	s.Settle()
	romeo.Received()
	juliet.Received()
	flaky.Writes.Store(true)
	romeo.Send(say("two") + iq("set", "a", "<affiliation jid='juliet@localhost' is='member'/>"))
	s.Settle()
	got := romeo.Received()
	mustHave(t, "romeo", got, "<message type='error' id='two'", "<iq type='error' id='a'")
	if n := strings.Count(got, "<internal-server-error"); n != 2 {
		t.Errorf("%d errors: %s", n, got)
	}
	flaky.Writes.Store(false)
	romeo.Send(say("three") + iq("get", "b", "<affiliations/>"))
	s.Settle()
	got = romeo.Received()
	mustHave(t, "romeo", got, "id='three'", "is='owner'")
	if strings.Contains(got, "juliet@localhost' is=") {
		t.Errorf("an affiliation that was not stored is there: %s", got)
	}
	if n := numbers(juliet.Received()); fmt.Sprint(n) != "[2 3]" {
		t.Errorf("juliet gets %v", n)
	}
	romeo.Send(iq("get", "c", "<page/>"))
	s.Settle()
	got = romeo.Received()
	mustHave(t, "the log", got, "<body>one</body>", "<body>three</body>")
	if strings.Contains(got, "two") {
		t.Errorf("the log has what was refused: %s", got)
	}
}

// If the batch that creates a room fails, later batches fail with it: each sender gets an error, the
// occupants get a stanza that the room has ended, and no row is left under an id that the directory does not
// have.
func TestFailedCreation(t *testing.T) {
	fs := vfs.NewCrashableMem()
	var fail atomic.Int32
	var late time.Duration // the delay after which the kernel gets the callback of a commit
	slow := func() time.Duration { return late }
	s := sessiontest.New(t, with(sessiontest.Options{FS: fs, Slow: slow, Fault: func(write bool) error {
		if write && fail.Add(-1) >= 0 {
			return storetest.ErrFault
		}
		return nil
	}}))
	romeo := s.Login("romeo", "romeo@localhost/a")
	romeo.Send(join("Romeo"))
	s.Settle()
	romeo.Received()
	fail.Store(1)
	late = time.Second
	romeo.Send(say("one"))
	if err := s.DB.Wait(t.Context(), s.DB.Last()); err == nil {
		t.Fatal("the room is made")
	}
	romeo.Send(say("two"))
	if err := s.DB.Wait(t.Context(), s.DB.Last()); err != nil {
		t.Fatal(err)
	}
	id := s.Router.Table.Lookup(parse(t, orchard)).ID() // nothing runs meanwhile
	if len(dump(t, fs, id)) == 0 {
		t.Fatal("nothing is written behind")
	}
	s.Settle()
	got := romeo.Received()
	mustHave(t, "romeo", got, "<message type='error' id='one'", "<message type='error' id='two'")
	romeo.Send(iq("get", "1", "<affiliations/>"))
	s.Settle()
	mustHave(t, "romeo", romeo.Received(), "<presence type='unavailable' from='"+orchard+"'", "<item-not-found")
	if all := rooms(t, s.DB); len(all) > 0 {
		t.Errorf("the directory has %v", all)
	}
	if keys := dump(t, fs, id); len(keys) > 0 {
		t.Errorf("rows are left: %v", keys)
	}
}

// Pages for two clients are read at the same time; two pages for one client are read one after the other.
func TestPagesAtOnce(t *testing.T) {
	s := sessiontest.New(t, with(sessiontest.Options{}))
	romeo, juliet := s.Login("romeo", "romeo@localhost/a"), s.Login("juliet", "juliet@localhost/b")
	romeo.Send(join("Romeo") + say("one"))
	juliet.Send(join("Juliet"))
	s.Settle()
	romeo.Received()
	juliet.Received()
	work := s.PauseWorkers()
	romeo.Send(iq("get", "1", "<page/>") + iq("get", "2", "<page after='1'/>") + say("meanwhile"))
	juliet.Send(iq("get", "3", "<page/>"))
	s.Net.Run()
	if len(work.Jobs) != 2 {
		t.Fatalf("%d pages are read, want one for each asker", len(work.Jobs))
	}
	mustHave(t, "while they are read, juliet", juliet.Received(), "id='meanwhile'")
	romeo.Received()
	work.StartNext()
	s.Net.Run()
	got := romeo.Received()
	if len(work.Jobs) != 2 || !strings.Contains(got, "<iq type='result' id='1'") ||
		strings.Contains(got, "id='2'") {
		t.Fatalf("after the first page, %d are read, and romeo has %s", len(work.Jobs), got)
	}
	work.StartNext()
	s.Net.Run()
	mustHave(t, "juliet", juliet.Received(), "<iq type='result' id='3'")
	work.StartNext()
	work.Resume()
	s.Settle()
	mustHave(t, "romeo", romeo.Received(), "<iq type='result' id='2'", "<body>meanwhile</body>")
}

// A page that is read while the room is destroyed is answered with an error, also if there is another room
// of that name by then; the page has nothing of either.
func TestPageOfDestroyedRoom(t *testing.T) {
	for _, again := range []bool{false, true} {
		s := sessiontest.New(t, with(sessiontest.Options{}))
		romeo, juliet := s.Login("romeo", "romeo@localhost/a"), s.Login("juliet", "juliet@localhost/b")
		romeo.Send(join("Romeo") + say("secret"))
		s.Settle()
		work := s.PauseWorkers()
		romeo.Send(iq("get", "1", "<page/>"))
		s.Net.Run()
		romeo.Send(iq("set", "2", "<destroy/>"))
		s.Settle()
		if again {
			juliet.Send(join("Juliet") + say("mine"))
			s.Settle()
		}
		romeo.Received()
		for len(work.Jobs) > 0 {
			work.StartNext()
			s.Net.Run()
		}
		work.Resume()
		s.Settle()
		got := romeo.Received()
		mustHave(t, fmt.Sprint("again ", again), got, "<iq type='error' id='1'", "<service-unavailable")
		if strings.Contains(got, "secret") {
			t.Errorf("again %t: %s", again, got)
		}
		s.Advance(3 * time.Minute) // nothing of the request may hold memory
		s.Settle()
		if e := s.Router.Table.Lookup(parse(t, orchard)); e != nil && !again {
			t.Error("the address is in memory still")
		}
	}
}
