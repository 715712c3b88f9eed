package room_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/session"
	"canto/session/sessiontest"
	"canto/session/sessiontest/room"
	"canto/session/stanza"
	"canto/session/store"
)

// A countingFS counts the bytes that are read from its files.
type countingFS struct {
	vfs.FS
	read atomic.Int64
}

// A countedFile is a file of a countingFS.
type countedFile struct {
	vfs.File
	fs *countingFS
}

func (f countedFile) Read(p []byte) (n int, err error) {
	n, err = f.File.Read(p)
	f.fs.read.Add(int64(n))
	return n, err
}

func (f countedFile) ReadAt(p []byte, off int64) (n int, err error) {
	n, err = f.File.ReadAt(p, off)
	f.fs.read.Add(int64(n))
	return n, err
}

func (fs *countingFS) counted(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return countedFile{f, fs}, nil
}

func (fs *countingFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	return fs.counted(fs.FS.Open(name, opts...))
}

func (fs *countingFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File,
	error) {
	return fs.counted(fs.FS.OpenReadWrite(name, c, opts...))
}

// onDisk makes a disk with n rooms in the directory, in files that are read by block.
func onDisk(t *testing.T, count int) *countingFS {
	t.Helper()
	fs := &countingFS{FS: vfs.NewMem()}
	s := sessiontest.New(t, with(sessiontest.Options{FS: fs}))
	var last store.Ticket
	for i := 0; i < count; {
		b, err := s.DB.Entities().New("rooms.localhost", fmt.Sprintf("room%d", i), room.Kind.String())
		if errors.Is(err, store.ErrFull) { // the next ids are reserved when the last are durable
			err = s.DB.Wait(t.Context(), last)
		} else if err == nil {
			last = s.DB.Commit(b)
			i++
		}
		if err != nil {
			t.Fatalf("room %d: %v", i, err)
		}
	}
	if err := s.DB.Wait(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	s.DB.Close()
	// The write-ahead log is empty, and nothing is compacted while a start is measured.
	db, err := pebble.Open("data", &pebble.Options{FS: fs, Logger: silent{}})
	if err == nil {
		err = errors.Join(db.Compact(t.Context(), []byte{0}, []byte{0xff}, false), db.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// A start with 100,000 rooms on disk reads as many bytes as one with ten, and loads none of them; the
// first stanza to each finds it.
func TestManyRoomsOnDisk(t *testing.T) {
	const count, slack = 100_000, 16 << 10 // slack: a block or two of files that are larger
	start := func(fs *countingFS) (s *sessiontest.Server, read int64) {
		fs.read.Store(0)
		s = sessiontest.New(t, with(sessiontest.Options{FS: fs}))
		s.Settle()
		return s, fs.read.Load()
	}
	_, few := start(onDisk(t, 10))
	fs := onDisk(t, count)
	s, many := start(fs)
	t.Logf("a start reads %d bytes with ten rooms, %d with %d", few, many, count)
	if many > few+slack || s.Router.Table.Len() != 0 {
		t.Errorf("a start reads %d bytes (with ten rooms: %d), and has %d entities in memory",
			many, few, s.Router.Table.Len())
	}
	for part, held := range s.Router.Table.Footprint() {
		if held.Count > 0 {
			t.Errorf("after a start %d %s are in memory", held.Count, part)
		}
	}
	romeo := s.Login("romeo", "romeo@localhost/a")
	romeo.Send("<presence to='room77777@rooms.localhost/Romeo'/>" +
		"<iq type='get' id='1' to='room77777@rooms.localhost'><affiliations xmlns='urn:canto:test:room'/></iq>")
	s.Settle()
	if got := romeo.Received(); !strings.Contains(got, "<iq type='result' id='1'") ||
		strings.Contains(got, "owner") {
		t.Errorf("a room that is there: %s", got)
	}
	if n := s.Router.Table.Len(); n != 2 {
		t.Errorf("%d entities are in memory, want the room and its occupant", n)
	}
	// A start that read all of them would fail this test.
	fs.read.Store(0)
	n := 0
	err := s.DB.Entities().List(s.DB, "rooms.localhost", "", func(store.Entry) bool { n++; return true })
	if read := fs.read.Load(); err != nil || n != count || read < 4*slack {
		t.Errorf("to list %d rooms takes %d bytes: %v", n, read, err)
	}
}

// A flood to random addresses of rooms leaves nothing: an address without a room leaves memory, rooms
// without a message are limited in number, and those of one account end with its session (attacks K58,
// T20).
func TestFloodOfAddresses(t *testing.T) {
	opt := with(sessiontest.Options{Limits: unlimited()})
	opt.Module = func(_ string, v any) error {
		if o, ok := v.(*room.Options); ok {
			o.MaxTemporary = 100
		}
		return nil
	}
	s := sessiontest.New(t, opt)
	romeo := s.Login("romeo", "romeo@localhost/a")
	send := func(n int, el string) (got string) {
		for i := range n {
			romeo.Conn().Write([]byte(strings.ReplaceAll(el, "N", fmt.Sprint(i))))
			if i%50 == 49 {
				s.Settle()
				got += romeo.Received()
			}
		}
		s.Settle()
		return got + romeo.Received()
	}
	got := send(5000, "<message to='nN@rooms.localhost' type='groupchat'/><iq type='get' id='N' "+
		"to='qN@rooms.localhost'><page xmlns='urn:canto:test:room'/></iq>")
	if n := strings.Count(got, "<item-not-found"); n < 9900 {
		t.Errorf("%d of 10,000 have an answer that says so", n)
	}
	if n := strings.Count(got, "type='error'"); n != 10_000 {
		t.Errorf("%d of 10,000 have an error", n)
	}
	s.Advance(2 * time.Minute)
	s.Settle()
	if n := s.Router.Table.Len(); n != 1 {
		t.Errorf("%d entities are in memory afterwards", n)
	}
	got = send(900, "<presence to='rN@rooms.localhost/x'/>")
	if n := strings.Count(got, "<resource-constraint"); n != 800 {
		t.Errorf("%d of 900 rooms are refused, want all but 100", n)
	}
	romeo.DropConn()
	s.Settle()
	s.Advance(2 * time.Minute)
	s.Settle()
	if n := s.Router.Table.Len(); n != 0 {
		t.Errorf("%d entities are in memory when the flood is over", n)
	}
	juliet := s.Login("juliet", "juliet@localhost/a")
	juliet.Send(join("Juliet"))
	s.Settle()
	mustHave(t, "who comes later", juliet.Received(), "from='"+orchard+"/Juliet'")
}

// A message that is too large for a room is refused and reaches no occupant. A cold room takes 64 stanzas
// and 256 KiB into its inbox; further ones are answered with an error.
func TestBoundsOfARoom(t *testing.T) {
	s := sessiontest.New(t, with(sessiontest.Options{Limits: unlimited()}))
	romeo, juliet := s.Login("romeo", "romeo@localhost/a"), s.Login("juliet", "juliet@localhost/b")
	romeo.Send(join("Romeo") + say("one"))
	juliet.Send(join("Juliet"))
	s.Settle()
	romeo.Received()
	juliet.Received()
	romeo.Send("<message to='" + orchard + "' type='groupchat' id='big'><body>" +
		strings.Repeat("x", 17<<10) + "</body></message>")
	s.Settle()
	mustHave(t, "romeo", romeo.Received(), "<policy-violation")
	if got := juliet.Received(); got != "" {
		t.Errorf("juliet gets %.100s", got)
	}
	s.Restart()
	romeo = s.Login("romeo", "romeo@localhost/a")
	var b strings.Builder
	for i := range 70 {
		b.WriteString(iq("get", fmt.Sprint(i), "<affiliations/>"))
	}
	romeo.Send(b.String())
	s.Settle()
	got := romeo.Received()
	if full, done := strings.Count(got, "<resource-constraint"), strings.Count(got, "is='owner'"); full != 6 ||
		done != 64 {
		t.Errorf("%d are refused and %d are answered, want 6 and 64", full, done)
	}
}

// echo is a module whose rooms send to each other whatever they get.
type echo struct{}

func (echo) Load(api *session.API) error {
	b := api.Hooks.Serve(room.Kind)
	b.Message[session.ToBare].Add(api.Module, session.Guard, func(ev *session.Stanza) session.Verdict {
		to := "ping@rooms.localhost"
		if ev.To.Local() == "ping" {
			to = "pong@rooms.localhost"
		}
		j, err := ev.LoopRouter().JID([]byte(to))
		if err != nil || ev.Type != stanza.TypeHeadline {
			return session.Pass
		}
		ev.Send(ev.To, j, []byte("<message type='headline' from='"+ev.To.String()+"' to='"+to+"'/>"))
		return session.Done
	})
	return nil
}

// Two rooms that answer each other end after a few hops.
func TestRoomsThatAnswerEachOther(t *testing.T) {
	s := sessiontest.New(t, with(sessiontest.Options{},
		session.Manifest{Name: "echo", Spec: "a test", New: func() session.Module { return echo{} }}))
	romeo := s.Login("romeo", "romeo@localhost/a")
	romeo.Send("<presence to='ping@rooms.localhost/x'/><presence to='pong@rooms.localhost/x'/>" +
		"<message to='ping@rooms.localhost' type='headline'/>")
	s.Settle()
	var hops uint64
	for _, l := range s.Router.LoopRouters() {
		hops += l.Stats().Limits["hops"]
	}
	if hops != 1 {
		t.Errorf("%d stanzas were ended by their hops, want the one", hops)
	}
}

// crowd is a module that takes what is sent to occupants at another domain, and counts it by loop.
type crowd struct {
	delivered [2]int // by loop: the loops of a test are turned one after the other
	said      []int  // how many were delivered when the room had its next message
}

func (c *crowd) Load(api *session.API) error {
	api.Hooks.Remote.Add(api.Module, session.Deliver, func(ev *session.Stanza) session.Verdict {
		c.delivered[ev.LoopRouter().Loop.Index()]++
		return session.Done
	})
	b := api.Hooks.Serve(room.Kind)
	b.Message[session.ToBare].Add(api.Module, session.Guard, func(*session.Stanza) session.Verdict {
		c.said = append(c.said, c.delivered[0]+c.delivered[1])
		return session.Pass
	})
	return nil
}

// A broadcast to 2,000 occupants delays neither the room's next ten messages, nor a client of the same
// loop for longer than 64 deliveries; all of it arrives.
func TestNextOfALargeRoom(t *testing.T) {
	const occupants, share = 2000, 64
	c := new(crowd)
	s := sessiontest.New(t, with(sessiontest.Options{Limits: unlimited()},
		session.Manifest{Name: "crowd", Spec: "a test", New: func() session.Module { return c }}))
	romeo, neighbour := s.Login("romeo", "romeo@localhost/a"), s.Login("neighbour", "neighbour@localhost/b")
	romeo.Send(join("Romeo"))
	s.Settle()
	l := s.Router.LoopRouters()[0]
	for i := range occupants {
		from, to := fmt.Sprintf("far%d@far.example/x", i), orchard+"/"+fmt.Sprint("far", i)
		l.Loop.Post(func() { l.Enter(func() { l.Send(parse(t, from), parse(t, to), []byte("<presence/>")) }) })
		if i%32 == 31 {
			s.Settle()
		}
	}
	s.Settle()
	romeo.Received()
	c.delivered = [2]int{}
	romeo.Conn().Write([]byte(say("first")))
	s.Net.RunTurn()
	var ten strings.Builder
	for i := range 10 {
		ten.WriteString(say(fmt.Sprint("next", i)))
	}
	romeo.Conn().Write([]byte(ten.String()))
	neighbour.Conn().Write([]byte("<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>"))
	answered := -1
	for before := c.delivered; s.Net.RunTurn(); before = c.delivered {
		for i := range before {
			if d := c.delivered[i] - before[i]; d > share {
				t.Fatalf("a turn of loop %d delivers to %d", i, d)
			}
		}
		if answered < 0 && strings.Contains(string(neighbour.Conn().Take()), "type='result'") {
			answered = max(c.delivered[0], c.delivered[1])
		}
	}
	s.Settle()
	if n := c.delivered[0] + c.delivered[1]; n != 11*occupants {
		t.Errorf("%d deliveries of %d", n, 11*occupants)
	}
	if len(c.said) != 11 || c.said[10] > share {
		t.Errorf("the room has had its messages behind %v deliveries", c.said)
	}
	t.Logf("the messages behind %v deliveries, the neighbour's answer behind %d", c.said, answered)
	if answered < 0 || answered > share {
		t.Errorf("the neighbour is answered behind %d deliveries on a loop", answered)
	}
}
