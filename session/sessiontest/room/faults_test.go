package room_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"canto/session"
	"canto/session/mod"
	"canto/session/sessiontest"
	"canto/session/sessiontest/room"
	"canto/session/sessiontest/service"
	"canto/session/store/storetest"
)

// clumsyEverywhere panics in a chain of each kind if a stanza's id says so.
type clumsyEverywhere struct{}

func (clumsyEverywhere) Load(api *session.API) error {
	panics := func(ev *session.Stanza) session.Verdict {
		if strings.HasPrefix(string(ev.ID()), "panic") {
			panic("for the test")
		}
		return session.Pass
	}
	inRoom, atService := api.Hooks.Serve(room.Kind), api.Hooks.Serve(service.Kind)
	inRoom.Message[session.ToBare].Add(api.Module, session.Guard, panics)
	inRoom.IQ[session.ToBare].Add(api.Module, session.Guard, panics)
	atService.IQ[session.ToHost].Add(api.Module, session.Guard, panics)
	api.Hooks.Message[session.ToBare].Add(api.Module, session.Guard, panics)
	api.Hooks.IQ[session.ToBare].Add(api.Module, session.Guard, panics)
	return nil
}

var clumsyEverywhereManifest = session.Manifest{Name: "clumsy-everywhere", Spec: "a test",
	New: func() session.Module { return clumsyEverywhere{} }}

// Everything at once: each fifth read and each fifth commit of a slow store fails, some handlers of each
// kind panic, broadcasts to many are in flight and inboxes are full. Each message has arrived, or its
// sender has an error; each request has one answer; all occupants see one order; afterwards nothing is
// pending.
func TestFaultsAtOnce(t *testing.T) {
	counts := make(map[string]int)
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { faultsAtOnce(t, seed, counts) })
	}
	for _, what := range []string{"room", "room failed", "absent", "absent failed", "iq", "iq failed"} {
		if counts[what] < 20 {
			t.Errorf("%d are %q: the test shows less than it says", counts[what], what)
		}
	}
	t.Log(counts)
}

// faultsAtOnce is one run, which adds the outcomes of its stanzas to counts.
func faultsAtOnce(t *testing.T, seed uint64, counts map[string]int) {
	const occupants, senders, stanzas = 100, 6, 900
	var on atomic.Bool
	var reads, writes atomic.Uint64
	fault := func(write bool) error {
		n := &reads
		if write {
			n = &writes
		}
		if on.Load() && n.Add(1)%5 == 0 {
			return storetest.ErrFault
		}
		return nil
	}
	delays := rand.New(rand.NewPCG(seed, 1))
	slow := func() time.Duration {
		return 5*time.Millisecond + time.Duration(delays.Int64N(int64(45*time.Millisecond)))
	}
	s := sessiontest.New(t, with(sessiontest.Options{Seed: seed, AllowPanics: true, Limits: unlimited(),
		Slow: slow,
		// Without archives the accounts of the occupants are not read again while the room sends: an occupant whose
		// account can't be read gets nothing.
		Modules: slices.DeleteFunc(mod.DefaultNames(), func(name string) bool { return name == "archive" }),
		Fault:   fault},
		clumsyEverywhereManifest))
	var clients []*sessiontest.Client
	for i := range occupants {
		c := s.Login(fmt.Sprint("c", i), fmt.Sprintf("c%d@localhost/x%d", i%10, i))
		c.Send("<presence/>" + join(fmt.Sprint("nick", i)))
		clients = append(clients, c)
	}
	s.Login("nurse", "nurse@localhost/n").Send("</stream:stream>")
	clients[0].Send(say("first") + strings.ReplaceAll(iq("set", "node", "<create node='news'/>"),
		"to='"+orchard+"'><create xmlns='urn:canto:test:room'",
		"to='rooms.localhost'><create xmlns='urn:canto:test:service'"))
	s.Settle()
	for _, c := range clients {
		c.Received()
	}

	rnd := rand.New(rand.NewPCG(seed, 2))
	type sent struct{ by, kind, id string }
	var all []sent
	on.Store(true)
	for i := range stanzas {
		by, id := rnd.IntN(senders), fmt.Sprint("n", i)
		if rnd.IntN(12) == 0 {
			id = fmt.Sprint("panic", i)
		}
		kind, text := "", ""
		switch rnd.IntN(7) {
		case 0, 1, 2:
			kind, text = "room", say(id)
		case 3:
			kind, text = "absent", "<message to='nurse@localhost' type='chat' id='"+id+"'><body>"+id+
				"</body></message>"
		case 4:
			kind, text = "iq", iq("get", id, "<page after='1000000' max='1'/>")
		case 5:
			kind, text = "iq", iq("set", id, fmt.Sprintf("<affiliation jid='friend%d@localhost' is='member'/>", i%20))
		default:
			kind, text = "iq", "<iq type='set' id='"+id+
				"' to='rooms.localhost'><publish xmlns='urn:canto:test:service' node='news'>"+
				fmt.Sprintf("<item id='%d'/></publish></iq>", i%10)
		}
		all = append(all, sent{clients[by].Name, kind, id})
		clients[by].Conn().Write([]byte(text))
		if rnd.IntN(150) == 0 {
			s.Settle()
		}
	}
	s.Settle()
	on.Store(false)
	s.Advance(time.Minute)
	s.Settle()

	got := make(map[string]string)
	var order []string
	for i, c := range clients {
		got[c.Name] = c.Received()
		n := numbers(got[c.Name])
		if i == 0 {
			order = n
		}
		if !slices.Equal(n, order) {
			t.Errorf("%s sees the order %v, another %v", c.Name, n, order)
		}
		if c.Ended() {
			t.Errorf("%s has lost its stream", c.Name)
		}
	}
	nurse := s.Login("nurse", "nurse@localhost/n")
	nurse.Send("<presence/>")
	s.Settle()
	stored := nurse.Received()
	for _, m := range all {
		mine := got[m.by]
		failed := strings.Count(mine, "type='error' id='"+m.id+"'")
		came := strings.Count(mine, " id='"+m.id+"'") - failed
		if m.kind == "absent" {
			came = strings.Count(stored, " id='"+m.id+"'")
		}
		switch {
		case m.kind == "iq" && came+failed != 1:
			t.Errorf("the request %s of %s has %d answers", m.id, m.by, came+failed)
		case failed > 1 || came > 1:
			t.Errorf("the message %s of %s has come %d times, and has %d errors", m.id, m.by, came, failed)
		case failed+came == 0:
			t.Errorf("the message %s (%s) of %s is lost", m.id, m.kind, m.by)
		}
		counts[m.kind] += came
		counts[m.kind+" failed"] += failed
	}
	for _, what := range []string{"inboxes", "held"} {
		if h := s.Router.Table.Footprint()[what]; h.Count > 0 {
			t.Errorf("%d wait in %s", h.Count, what)
		}
	}
	clients[3].Send(say("afterwards") + iq("get", "afterwards", "<last/>"))
	s.Settle()
	mustHave(t, "an occupant", clients[9].Received(), "id='afterwards'")
	mustHave(t, "the asker", clients[3].Received(), "<iq type='result' id='afterwards'")
}
