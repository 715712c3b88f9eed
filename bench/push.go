package bench

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"canto/bench/xmpp"
	"canto/xmlstream"
)

// This file has what is about accounts that are away: messages that wait for them (XEP-0160), and the pushes
// that the server sends to an app server meanwhile (XEP-0357). App servers are clients of the run.

// A pushRegistration is where a client wants its pushes, and what has come of them in the step that runs now.
// Senders and the app server use it, on their loops.
type pushRegistration struct {
	server *client // the app server

	mu       sync.Mutex // guards the fields below
	step     uint16     // that counts the pushes; 0: none yet
	messages uint64     // that were sent to the account in the step
	pushes   uint64     // that came for it, without those that are wrong
	// when the messages were due that have no push yet, the oldest first
	waiting []int64
}

// maxWaiting bounds the messages of an account that have no push yet. Those that are sent beyond it are
// counted, and their pushes have no latency.
const maxWaiting = 1 << 12

// nodePrefix begins the nodes of registrations (XEP-0357 section 5). The index of the client follows.
const nodePrefix = "device"

// registerPush registers the clients of list with the app servers of the phase's group To, in turn (XEP-0357
// section 5).
func (f *Fleet) registerPush(ctx context.Context, k int, list []*client) error {
	p := &f.sc.Phases[k]
	var servers []*client
	for _, c := range f.members(p.To) {
		if c.online.Load() && c.jid.Load() != nil {
			servers = append(servers, c)
		}
	}
	if len(list) > 0 && len(servers) == 0 {
		return Failure{fmt.Sprintf("no client of group %s is online in this process", p.To),
			"put a ramp before this phase; with more --workers, that group needs two clients for each"}
	}
	for i, c := range list {
		c.push.Store(&pushRegistration{server: servers[i%len(servers)]})
	}
	return f.enable(ctx, k, list, "requests to enable pushes", func(c *client, b []byte) []byte {
		b = append(b, "<enable xmlns='"+xmpp.NSPush+"' jid='"...)
		b = xmlstream.AppendValue(b, *c.push.Load().server.jid.Load())
		return fmt.Appendf(b, "' node='%s%d'/>", nodePrefix, c.index)
	})
}

// expectPush notes a message to p, which is away, that was due at the given time. The server may make one
// push of several messages, so each account is expected to have one push, and may have one for each message.
// It is called on the sender's loop, before the message is sent. The latency of the n-th push is that of the
// account's n-th message: where the server makes one push of several messages, latencies are too long.
func (f *Fleet) expectPush(ls *loopState, step uint16, p *client, due int64) {
	r := p.push.Load()
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.step != step {
		r.step, r.messages, r.pushes, r.waiting = step, 0, 0, nil
	}
	if r.messages++; r.messages == 1 {
		ls.tally(step).Expected++
	}
	if len(r.waiting) < maxWaiting {
		r.waiting = append(r.waiting, due)
	}
}

// countPush counts what an app server gets: x is the pubsub element of the request e. A push is wrong if no
// account has registered for it, if it is for another app server, or if there are more of them than messages.
// It is called on c's loop.
func (f *Fleet) countPush(ls *loopState, c *client, x xmlstream.Element) {
	wrong := func(step uint16, what string) {
		ls.tally(step).Wrong++
		ls.countFailure(Failure{what, "the server breaks XEP-0357"})
	}
	publish, _ := x.Child(xmpp.Publish)
	step := uint16(f.pushStep.Load())
	if publish.IsZero() {
		wrong(step, "a request to an app server was no push")
		return
	}
	node, _ := publish.Attr(xmpp.AttrNode)
	digits, named := strings.CutPrefix(string(node), nodePrefix)
	n, err := strconv.ParseUint(digits, 10, 32)
	p := f.clients[uint32(n)]
	var r *pushRegistration
	if named && err == nil && p != nil {
		r = p.push.Load()
	}
	switch {
	case r == nil:
		wrong(step, "a push came for a node that was not registered")
		return
	case r.server != c:
		wrong(step, "a push came to another app server than was registered")
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.step == 0 || r.pushes >= r.messages {
		wrong(max(r.step, step), "more pushes came for an account than messages")
		return
	}
	y := ls.tally(r.step)
	if r.pushes++; r.pushes > 1 {
		y.Expected++ // expectPush has counted the first
	}
	if len(r.waiting) == 0 {
		y.Done++
		return
	}
	y.done(ls.readAt-r.waiting[0], f.steps[r.step].lateAfter)
	r.waiting = r.waiting[1:]
}

// awaitHandled waits until the server has handled what the clients of list have sent, up to 10 s: it answers
// a ping of each, after what that client sent before. It must not be called on a loop.
func (f *Fleet) awaitHandled(ctx context.Context, list []*client) {
	ctx = context.WithoutCancel(ctx) // the phase's length may be over
	var wg sync.WaitGroup
	for _, c := range list {
		if !c.online.Load() {
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			f.queryIQ(ctx, c, "get", f.target.Domain, "<ping xmlns='"+xmpp.NSPing+"'/>")
		}()
	}
	wg.Wait()
}

// answerPush counts a request to an app server and reports whether it was one for it. It is called on c's
// loop.
func (f *Fleet) answerPush(ls *loopState, c *client, child xmlstream.Element) bool {
	if !f.appServers[c.group] || !child.Is(xmpp.PubSub) {
		return false
	}
	f.countPush(ls, c, child)
	return true
}

// findAppServers notes which groups are app servers: those that a phase registers with.
func (f *Fleet) findAppServers() {
	f.appServers = make(map[uint16]bool)
	for _, p := range f.sc.Phases {
		if n := f.sc.groupNumber(p.To); n >= 0 {
			f.appServers[uint16(n)] = true
		}
	}
}
