package session_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"canto/session"
	"canto/session/mod"
	"canto/session/sessiontest"
	"canto/session/sessiontest/room"
	"canto/session/sessiontest/service"
)

// What was held back for a session without a stream is taken over by another kernel, and so are its flags: it can be
// resumed there.
func TestCarryHeld(t *testing.T) {
	s := tracked(t, sessiontest.Options{})
	romeo, juliet := s.Login("romeo", "romeo@localhost/orchard"), s.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence><priority>3</priority></presence><on xmlns='" + nsAcks + "'/>")
	s.Settle()
	juliet.Cut()
	s.Settle()
	romeo.Send("<message to='juliet@localhost/balcony' type='chat'><body>one</body></message><presence to='juliet@localhost/balcony'/>")
	if !s.Carry() || !s.Carry() {
		t.Fatal("the kernel could not be replaced")
	}
	romeo.Send("<message to='juliet@localhost/balcony' type='chat'><body>two</body></message>")
	next := s.Authenticate("next", "juliet@localhost", 1)
	next.Send(resume("balcony"))
	s.Settle()
	got := next.Received()
	one, here, two := strings.Index(got, "<body>one"), strings.Index(got, "<presence"), strings.Index(got, "<body>two")
	if one < 0 || here < one || two < here {
		t.Errorf("%q", got)
	}
}

// taking is a kernel that takes up what another has written down.
type taking struct {
	*sessiontest.Server
	log bytes.Buffer
}

// newTaking starts one on fs, which serves accounts, and rooms and a service at rooms.localhost.
func newTaking(tb testing.TB, fs vfs.FS) *taking {
	k := new(taking)
	k.Server = sessiontest.New(tb, sessiontest.Options{
		FS: fs, Log: &k.log, Services: []string{"rooms.localhost"},
		ServiceModules: []string{"store", "disco", room.Manifest.Name, service.Manifest.Name},
		Shelf:          slices.Concat(mod.All, []session.Manifest{room.Manifest, service.Manifest}),
	})
	return k
}

// in runs f on a loop, as something that came from outside.
func (k *taking) in(f func(l *session.Local)) {
	l := k.Router.Locals()[0]
	l.Loop.Post(func() { l.Enter(func() { f(l) }) })
	k.Settle()
}

// carry is what k has in memory only, an entity each; its sessions rest from then on.
func (k *taking) carry() (list [][]byte) {
	k.in(func(l *session.Local) { l.Carry(func(b []byte) { list = append(list, b) }) })
	// A room that is stored is in memory as soon as it was asked for: with no occupants it has nothing of its own.
	return slices.DeleteFunc(list, func(b []byte) bool {
		return bytes.Contains(b, []byte("orchard")) && bytes.HasSuffix(b, []byte(`,"Occupants":{}}`))
	})
}

// takeUp takes b up; a panic is the error that there was one.
func (k *taking) takeUp(b []byte) (err error) {
	err = errNotSaid
	k.in(func(l *session.Local) { l.TakeUp(b, func(e error) { err = e }) })
	return err
}

var errNotSaid = errors.New("nothing was said")

func (k *taking) panics() (n uint64) {
	for _, l := range k.Router.Locals() {
		n += l.Stats().Panics
	}
	return n
}

// carriedBy are what a kernel has written down: of juliet's account, which has a session with presence, directed
// presence, and a stanza that it holds back; of a room that is stored, of one that is not. fs is its store.
func carriedBy(tb testing.TB) (list [][]byte, fs *vfs.MemFS) {
	fs = vfs.NewCrashableMem()
	k := newTaking(tb, fs)
	juliet := k.Login("juliet", "juliet@localhost/balcony")
	juliet.Send("<presence/><presence to='romeo@localhost/x'/><presence to='tomb@rooms.localhost/Juliet'/>" +
		"<presence to='orchard@rooms.localhost/Juliet'/>" +
		"<message to='orchard@rooms.localhost' type='groupchat'><body>1</body></message>")
	k.Settle()
	list = k.carry()
	if len(list) != 3 {
		tb.Fatalf("%d entities are written down", len(list))
	}
	return list, fs
}

// unit is carriedBy's entity whose bytes have text in them, and where.
func unit(tb testing.TB, list [][]byte, text string) (b []byte, at int) {
	for _, b := range list {
		if i := bytes.Index(b, []byte(text)); i >= 0 {
			return slices.Clone(b), i
		}
	}
	tb.Fatalf("nothing that was written down has %q", text)
	return nil, 0
}

// What a module has written down has a version; one that it does not know is refused, and read as nothing else: a
// room's is an error, and a session goes on without the state of that module.
func TestCarriedVersions(t *testing.T) {
	list, fs := carriedBy(t)
	k := newTaking(t, fs.CrashClone(vfs.CrashCloneCfg{}))
	b, at := unit(t, list, `{"Last"`)
	b[at-1] = 99
	if err := k.takeUp(b); err == nil || !strings.Contains(err.Error(), "version 99") {
		t.Errorf("a room of another version: %v", err)
	}
	const state = "directed-presence"
	b, at = unit(t, list, state)
	b[at+len(state)] = 99
	if err := k.takeUp(b); err != nil {
		t.Errorf("a session with a state of another version: %v", err)
	}
	if log := k.log.String(); !strings.Contains(log, state) || !strings.Contains(log, "version 99") {
		t.Errorf("the log: %s", log)
	}
	if got := k.carry(); len(got) != 1 || bytes.Contains(got[0], []byte(state)) {
		t.Errorf("the session has %q", got)
	}
}

// wholly takes b up in k, and checks that all of it was taken up, or nothing, and that nothing panics. It reports
// whether it was.
func wholly(t *testing.T, k *taking, b []byte) (taken bool) {
	t.Helper()
	before := k.carry()
	err := k.takeUp(b)
	if n := k.panics(); n > 0 {
		t.Fatalf("%d panics by %q", n, b)
	}
	if err == nil {
		return true
	}
	if after := k.carry(); !slices.EqualFunc(before, after, bytes.Equal) {
		t.Fatalf("%q is refused (%v), and there is\n%q, where there was\n%q", b, err, after, before)
	}
	return false
}

// What was written down and was cut short, or has a wrong byte, is taken up as a whole or not at all, of each kind.
func TestTakeUpDamaged(t *testing.T) {
	list, fs := carriedBy(t)
	fresh := func() *taking { return newTaking(t, fs.CrashClone(vfs.CrashCloneCfg{})) }
	k := fresh()
	taken := 0
	try := func(b []byte) {
		if wholly(t, k, b) {
			k, taken = fresh(), taken+1
		}
	}
	for _, b := range list {
		for i := range b {
			try(b[:i])
		}
		for i := 0; i < len(b); i += 5 {
			c := slices.Clone(b)
			c[i] ^= 0x55
			try(c)
		}
		try(b)
	}
	if taken < len(list) {
		t.Errorf("%d were taken up", taken)
	}
}

// What another kernel wrote down is not trusted to be whole: nothing that stands there makes this one panic, and an
// entity is taken up as a whole or not at all.
func FuzzTakeUp(f *testing.F) {
	list, fs := carriedBy(f)
	for _, b := range list {
		f.Add(b)
	}
	f.Add([]byte{1, 7})
	k := newTaking(f, fs.CrashClone(vfs.CrashCloneCfg{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		k.TB = t
		wholly(t, k, b)
	})
}
