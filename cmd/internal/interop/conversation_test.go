//go:build interop

package interop

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// perSecond is how many messages the conversation beside the clients has in a second.
const perSecond = 50

// A conversation is two accounts with two devices each that chat while other clients do their work. All four
// devices send in turn, to a bare address or to one device. At the end each message is on each device exactly
// once and in each archive exactly once, and the order is one: that of the archive.
//
// When the server ends, a device of a conversation that survives logs in again and reads what it missed from
// its archive, as XEP-0313 section 5 tells clients to.
type conversation struct {
	t        *testing.T
	h        *host
	devices  []*member // four, of romeo, juliet, romeo, juliet; the first two are devices of this process
	survives bool
	rate     int           // messages in a second
	stop     chan struct{} // closed: no more messages are sent
	running  sync.WaitGroup
	quiet    sync.Once // closes stop
	looked   time.Time // when the databases of programs were read last

	mu    sync.Mutex // guards what follows, and the log of each member
	sent  int        // messages that were written to a connection so far, whole or in part
	shown []string   // presence of the last device that has come to the third one: its sender, and its type
	err   error      // the first failure
}

// A member is a device of a conversation, over all of its sessions. It is a device of this process, a client
// of another project that is told what to do, or a program that keeps what it hears and sends nothing.
type member struct {
	c        *conversation
	user     user
	resource string
	d        *device // nil while it is not connected
	far      *remote
	keeps    program
	log      []message
	waiting  []message // came while the archive was read
	reading  bool      // the archive is read
	// paged has the ids of a page of the last catch-up that have not come live besides.
	paged map[string]bool
	own   []string  // bodies that this device has sent
	ended time.Time // when its last connection has ended
}

// prefix begins each body; the number of the message follows.
const prefix = "chat "

// converse starts a conversation between the two accounts of a name, with rate messages in a second.
func converse(t *testing.T, h *host, name string, survives bool, rate int) *conversation {
	t.Helper()
	c := meet(t, h, name, survives, rate, 4)
	c.begin()
	return c
}

// meet connects the first devices of a conversation. Before it begins, there are four members.
func meet(t *testing.T, h *host, name string, survives bool, rate, devices int) *conversation {
	t.Helper()
	c := &conversation{t: t, h: h, survives: survives, rate: rate, stop: make(chan struct{})}
	us := users(name)
	for i := range devices {
		m := &member{c: c, user: us[i%2], resource: fmt.Sprintf("device%d", i/2)}
		c.devices = append(c.devices, m)
		if err := m.connect(); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// begin lets the members speak.
func (c *conversation) begin() {
	for _, m := range c.devices {
		if m.d != nil {
			c.running.Go(m.stay)
		}
	}
	c.running.Go(c.send)
}

// end lets no member speak any more. A second call does nothing.
func (c *conversation) end() {
	c.quiet.Do(func() { close(c.stop) })
	c.running.Wait()
}

// fail keeps the first failure.
func (c *conversation) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

// hear takes a message that came live.
func (m *member) hear(s message) {
	if !strings.HasPrefix(s.body, prefix) {
		return
	}
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	s.at = time.Now()
	if m.paged[s.id] { // it waited, and was in a page of the last catch-up, too
		delete(m.paged, s.id)
		return
	}
	if m.reading {
		m.waiting = append(m.waiting, s)
	} else {
		m.log = append(m.log, s)
	}
}

// connect logs in, and reads what the device missed.
func (m *member) connect() error {
	c := m.c
	c.mu.Lock()
	last := m.last()
	m.reading = c.survives
	c.mu.Unlock()
	ears := ears{heard: m.hear}
	if len(c.devices) > 2 && m == c.devices[2] {
		ears.seen = func(from, kind string) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if strings.HasPrefix(from, m.c.devices[1].user.address+"/") && !strings.HasSuffix(from, "/device0") {
				c.shown = append(c.shown, from+" "+kind)
			}
		}
	}
	d, err := c.h.open(m.user, m.resource, ears)
	if err != nil {
		return err
	}
	if c.survives {
		missed, err := d.archive(last)
		for err != nil && d.alive() == nil {
			c.mu.Lock()
			again := m.forget(last)
			last = m.last()
			c.mu.Unlock()
			if !again {
				break
			}
			missed, err = d.archive(last)
		}
		if err != nil {
			err = errors.Join(err, d.alive())
			d.close()
			return err
		}
		c.mu.Lock()
		m.merge(missed)
		c.mu.Unlock()
	}
	c.mu.Lock()
	m.d = d
	c.mu.Unlock()
	return nil
}

// merge takes what was missed, and then what has come live since the device is back. Under mu.
func (m *member) merge(missed []message) {
	known := make(map[string]bool)
	for _, s := range m.log {
		known[s.id] = true
	}
	for _, s := range append(missed, m.waiting...) {
		// A message may come live and be in a page, too: its id says that it is the same one.
		if s.id == "" || !known[s.id] {
			m.log = append(m.log, s)
		}
		known[s.id] = true
	}
	m.paged = make(map[string]bool)
	for _, s := range missed {
		m.paged[s.id] = s.id != ""
	}
	for _, s := range m.waiting {
		delete(m.paged, s.id)
	}
	m.waiting, m.reading = nil, false
}

// voice says something for the member; nil while it is not connected, and for a program. Under mu.
func (m *member) voice() func(to, id, body string) error {
	switch {
	case m.d != nil:
		return m.d.say
	case m.far != nil && m.far.up:
		return m.far.say
	}
	return nil
}

// present says whether others may write to the member's full address: it is connected, or has a session that
// it resumes. Under mu.
func (m *member) present() bool {
	return m.d != nil || m.far != nil && (m.far.up || !m.c.survives)
}

// last is the id of the youngest message that the device knows; "" if it knows none. Under mu.
func (m *member) last() (id string) {
	for _, s := range m.log {
		if s.id != "" {
			id = s.id
		}
	}
	return id
}

// forget forgets the youngest message, whose id the archive does not have any more, if it came live in the
// last second before the connection ended. A server that was killed may not have stored it. Under mu.
func (m *member) forget(id string) bool {
	if len(m.log) == 0 {
		return false
	}
	s := m.log[len(m.log)-1]
	if s.id != id || s.at.IsZero() || m.ended.Sub(s.at) > time.Second {
		return false
	}
	m.log = m.log[:len(m.log)-1]
	return true
}

// stay connects again when the server has ended, if the conversation survives that.
func (m *member) stay() {
	c := m.c
	for {
		c.mu.Lock()
		d := m.d
		c.mu.Unlock()
		select {
		case <-d.ended:
		case <-c.stop:
			return
		}
		c.mu.Lock()
		m.d, m.ended = nil, time.Now()
		c.mu.Unlock()
		if !c.survives {
			c.fail(d.alive())
			return
		}
		var err error
		for end := time.Now().Add(deviceTimeout); ; time.Sleep(50 * time.Millisecond) {
			if err = m.connect(); err == nil {
				break
			}
			if time.Now().After(end) {
				c.fail(fmt.Errorf("%s/%s can't log in again: %w", m.user.address, m.resource, err))
				return
			}
		}
	}
}

// send sends a message every so often, from each device in turn.
func (c *conversation) send() {
	tick := time.NewTicker(time.Second / time.Duration(c.rate))
	defer tick.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-tick.C:
		case <-c.stop:
			return
		}
		from, to := c.devices[turn%4], c.devices[(turn+1)%4]
		c.mu.Lock()
		address := to.user.address
		if turn%3 == 0 {
			address += "/" + to.resource
		}
		say := from.voice()
		if say == nil || (turn%3 == 0 && !to.present()) {
			c.mu.Unlock() // a device that is away neither sends nor is written to by its full address
			continue
		}
		id := fmt.Sprintf("%s%06d", prefix, c.sent)
		c.sent++
		from.own = append(from.own, id)
		c.mu.Unlock()
		if err := say(address, id, id); err != nil && !c.survives {
			c.fail(err)
			return
		}
	}
}

// goOn waits until n more messages have come to each device.
func (c *conversation) goOn(n int) {
	c.t.Helper()
	from, _ := c.arrived()
	for end := time.Now().Add(deviceTimeout); ; time.Sleep(20 * time.Millisecond) {
		at, _ := c.arrived()
		least := n
		for i := range at {
			least = min(least, at[i]-from[i])
		}
		if least == n {
			return
		}
		c.mu.Lock()
		err := c.err
		c.mu.Unlock()
		if err != nil || time.Now().After(end) { // finish says what err is
			c.t.Fatalf("the conversation does not go on: %v messages, and earlier %v", at, from)
		}
	}
}

// arrived is how many messages each device has heard by now, and how many there should be at the end: all but
// those that it has sent itself.
func (c *conversation) arrived() (at, want []int) {
	c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.devices {
		at, want = append(at, len(m.log)), append(want, c.sent-len(m.own))
	}
	return at, want
}

// look reads what the programs have kept by now, if it was not read just now.
func (c *conversation) look() {
	for _, m := range c.devices {
		if m.keeps == nil || time.Since(c.looked) < time.Second/2 {
			continue
		}
		kept := m.keeps.kept()
		c.looked = time.Now()
		c.mu.Lock()
		m.log = nil
		for _, body := range kept {
			if strings.HasPrefix(body, prefix) {
				m.log = append(m.log, message{how: "kept", body: body})
			}
		}
		c.mu.Unlock()
	}
}

// presences are what contacts have seen of the last device, which is not of this process.
func (c *conversation) presences() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.shown)
}

// finish stops the conversation, waits until all that was said has arrived, and checks what each device and
// each archive has.
func (c *conversation) finish() {
	c.t.Helper()
	c.end()
	for end := time.Now().Add(deviceTimeout); !c.survives; time.Sleep(20 * time.Millisecond) {
		at, want := c.arrived()
		if slices.Equal(at, want) {
			break
		}
		if time.Now().After(end) {
			c.t.Errorf("the devices have %v messages, not %v", at, want)
			break
		}
	}
	var faults []error
	for end := time.Now().Add(deviceTimeout / 6); ; time.Sleep(100 * time.Millisecond) {
		// Of a conversation that survives it is not known how many messages the server has taken. Those that
		// are still on their way are waited for.
		if faults = c.faults(); len(faults) == 0 || !c.survives || time.Now().After(end) {
			break
		}
	}
	for _, err := range faults {
		c.t.Error(err)
	}
	for _, m := range c.devices {
		if m.d != nil {
			m.d.close()
		}
	}
	c.t.Logf("the conversation had %d messages", c.sent)
}

// faults are what is wrong with the archives and the devices at present.
func (c *conversation) faults() (all []error) {
	archives := make(map[string][]message)
	c.mu.Lock()
	if c.err != nil {
		all = append(all, fmt.Errorf("the conversation: %w", c.err))
	}
	c.mu.Unlock()
	for _, m := range c.devices[:2] {
		if m.d == nil {
			return append(all, fmt.Errorf("%s/%s is not connected at the end", m.user.address, m.resource))
		}
		a, err := m.d.archive("")
		if err != nil {
			all = append(all, err)
		}
		archives[m.user.address] = slices.DeleteFunc(a, func(s message) bool {
			return !strings.HasPrefix(s.body, prefix)
		})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for address, a := range archives {
		if err := c.checkArchive(a); err != nil {
			all = append(all, fmt.Errorf("the archive of %s: %w", address, err))
		}
	}
	for _, m := range c.devices {
		if m.keeps != nil {
			if err := m.checkKept(archives[m.user.address]); err != nil {
				all = append(all, fmt.Errorf("%s has kept: %w", m.user.address, err))
			}
			continue
		}
		if m.far != nil {
			if err := m.far.checkAcks(archives[m.user.address]); err != nil {
				all = append(all, err)
			}
		}
		if err := m.check(archives[m.user.address]); err != nil {
			all = append(all, fmt.Errorf("%s/%s: %w", m.user.address, m.resource, err))
		}
	}
	return all
}

// checkArchive checks that each message is in an archive once, under an id of its own, and that those of one
// sender are in the order in which they were sent.
func (c *conversation) checkArchive(all []message) error {
	ids, bodies, last := make(map[string]bool), make(map[string]bool), make(map[string]string)
	for _, s := range all {
		if s.id == "" || ids[s.id] {
			return fmt.Errorf("%q has the id %q, which is empty or that of another message", s.body, s.id)
		}
		if bodies[s.body] {
			return fmt.Errorf("%q is there twice", s.body)
		}
		if last[s.from] >= s.body {
			return fmt.Errorf("%s sent %q and %q, and they are the other way round", s.from, s.body, last[s.from])
		}
		ids[s.id], bodies[s.body], last[s.from] = true, true, s.body
	}
	if !c.survives && len(all) != c.sent {
		return fmt.Errorf("%d messages are there, and %d were sent: %v are not", len(all), c.sent,
			without(c.sent, bodies))
	}
	return nil
}

// without are the first few messages that are not in bodies.
func without(sent int, bodies map[string]bool) (names []string) {
	for i := 0; i < sent && len(names) < 10; i++ {
		if name := fmt.Sprintf("%s%06d", prefix, i); !bodies[name] {
			names = append(names, name)
		}
	}
	return names
}

// check checks what a device has heard against the archive of its account.
func (m *member) check(archive []message) error {
	own := make(map[string]bool)
	for _, b := range m.own {
		own[b] = true
	}
	at := make(map[string]int) // by body: the place in the archive
	for i, s := range archive {
		at[s.body] = i
	}
	heard, last := make(map[string]bool), -1
	for _, s := range m.log {
		i, ok := at[s.body]
		switch {
		case !ok:
			return fmt.Errorf("%q came (%s), and the archive does not have it", s.body, s.how)
		case heard[s.body]:
			return fmt.Errorf("%q came twice, the second time %s", s.body, s.how)
		case own[s.body] && !m.c.survives:
			return fmt.Errorf("%q came back (%s) to the device that had sent it", s.body, s.how)
		case own[s.body] && s.how != "archived":
			return fmt.Errorf("%q came back live (%s) to the device that had sent it", s.body, s.how)
		case s.id != "" && s.id != archive[i].id:
			return fmt.Errorf("%q came with the id %q, and the archive has it as %q", s.body, s.id, archive[i].id)
		case s.id == "" && (s.how == "direct" || !withProsody):
			return fmt.Errorf("%q came (%s) without the id that it has in the archive", s.body, s.how)
		case i < last:
			return fmt.Errorf("%q came (%s) after %q, and the archive has them the other way round", s.body,
				s.how, archive[last].body)
		}
		last, heard[s.body] = i, true
	}
	missing := slices.DeleteFunc(slices.Sorted(maps.Keys(at)), func(b string) bool { return heard[b] || own[b] })
	if len(missing) > 0 {
		return fmt.Errorf("%d messages of the archive never came, as %v", len(missing),
			missing[:min(10, len(missing))])
	}
	return nil
}

// checkKept checks what a program has kept against the archive of its account: each message once, and those
// of one sender in their order. Programs sort what they keep by times of their own.
func (m *member) checkKept(archive []message) error {
	from := make(map[string]string)
	for _, s := range archive {
		from[s.body] = s.from
	}
	heard, last := make(map[string]bool), make(map[string]string)
	for _, s := range m.log {
		sender, ok := from[s.body]
		switch {
		case !ok:
			return fmt.Errorf("%q, and the archive does not have it", s.body)
		case heard[s.body]:
			return fmt.Errorf("%q twice", s.body)
		case last[sender] > s.body:
			return fmt.Errorf("%q after %q, both of %s", s.body, last[sender], sender)
		}
		heard[s.body], last[sender] = true, s.body
	}
	missing := slices.DeleteFunc(slices.Sorted(maps.Keys(from)), func(b string) bool { return heard[b] })
	if len(missing) > 0 {
		return fmt.Errorf("not %d messages of the archive, as %v", len(missing), missing[:min(10, len(missing))])
	}
	return nil
}
