package sessiontest

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/metrics"
	"canto/session/stanza"
	"canto/xmlstream"
)

// On real loops accounts and a host ask the clients of other loops, which answer at once, late or twice, and
// strangers answer too. Each request has one outcome.
func TestAttackS16OnLoops(t *testing.T) {
	x := newStress(t, nil)
	const accounts, requests = 4, 150
	ask := xmlstream.N("urn:canto:test:ask", "ask")
	for i := range accounts {
		x.create(fmt.Sprint("asker", i), stressHost)
	}
	var clients []*stressClient
	for i := range accounts {
		x.create(fmt.Sprint("answerer", i), stressHost)
		c, err := x.login(fmt.Sprint("answerer", i), stressHost, "x", false)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	for i, c := range clients {
		stranger := clients[(i+1)%len(clients)]
		c.mu.Lock()
		c.hear = func(e xmlstream.Element) {
			p, ok := e.First()
			if !ok || !p.Is(ask) {
				return
			}
			id, _ := e.Attr(stanza.AttrID)
			from, _ := e.Attr(stanza.AttrFrom)
			answer := fmt.Sprintf("<iq type='result' to='%s' id='%s'/>", from, id)
			n := rand.IntN(4)
			go func() {
				switch n {
				case 0:
					stranger.send(answer)
				case 1:
					c.send(answer + answer)
				case 2:
					stranger.send(answer)
					c.send(answer)
				default:
					c.send(answer)
				}
			}()
		}
		c.mu.Unlock()
		c.send("<presence/>")
	}
	for _, c := range clients {
		c.ping()
		c.settle()
	}
	var asked, ended, doubled atomic.Int64
	h, _ := x.srv.Router.Table.Host(stressHost)
	locals := x.srv.Router.LoopRouters()
	for i := range requests * accounts {
		l := locals[rand.IntN(len(locals))]
		from, err := jid.Parse(fmt.Sprintf("asker%d@%s", i%accounts, stressHost))
		if err != nil {
			t.Fatal(err)
		}
		to, err := jid.Parse(clients[rand.IntN(accounts)].full)
		if err != nil {
			t.Fatal(err)
		}
		var calls atomic.Int32
		q := session.Question{To: to, Set: true, Most: 20, Timeout: reactor.Tick(1 + rand.IntN(20)),
			Payload: func(a *xmlstream.Appender) { a.Open(ask).Close() },
			Then: func(l *session.LoopRouter, e *session.Entity, answer *session.Stanza, err error) {
				if calls.Add(1) > 1 {
					doubled.Add(1)
				}
				if (answer == nil) != (err != nil) || answer != nil && answer.From != to {
					x.fault("%v beside an answer", err)
				}
				ended.Add(1)
			}}
		l.Loop.Post(func() {
			l.Enter(func() {
				if i%5 == 0 {
					q.Host = h
					if l.Ask(q) == nil {
						asked.Add(1)
					}
					return
				}
				l.WithAccount(h, from, func(l *session.LoopRouter, a *session.Account, exists bool, err error) {
					if q.From = a; exists && l.Ask(q) == nil {
						asked.Add(1)
					}
				})
			})
		})
		if i%8 == 0 {
			time.Sleep(time.Millisecond) // so that not all are refused
		}
	}
	if !until(func() bool {
		s := metrics.Stats(x.srv.Router)
		return s.Answered+s.AskTimeouts == s.Asked && s.Asked > 50
	}) {
		t.Error("requests have no outcome")
	}
	s := metrics.Stats(x.srv.Router)
	if doubled.Load() > 0 || int64(s.Asked) != asked.Load() || asked.Load() != ended.Load() {
		t.Errorf("%d doubled; %d asked, %d by the counter, %d ended", doubled.Load(), asked.Load(), s.Asked,
			ended.Load())
	}
	if s.Answered == 0 || s.StrayAnswers == 0 {
		t.Errorf("%d answered, %d strays", s.Answered, s.StrayAnswers)
	}
	if len(x.log.panics) > 0 {
		t.Error(x.log.panics)
	}
}
