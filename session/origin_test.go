package session_test

import (
	"testing"
	"time"

	"canto/session"
	"canto/session/sessiontest"
	"canto/session/stanza"
	"canto/session/storage"
	"canto/session/store"
	"canto/session/store/storetest"
)

// originRows is a table of the module of TestOriginAfterFailedCommit.
var originRows = store.NewMap[string, string]("of-the-test-origin", '|', 1)

// What the server sends of itself has no origin, also if the last thing that its loop did was to answer a
// stanza whose commit has failed. A message of type error is not answered, so no stanza is routed between.
func TestOriginAfterFailedCommit(t *testing.T) {
	var flaky storetest.Flaky
	var got []session.Origin
	s := withModule(t, sessiontest.Options{Fault: flaky.Fault}, func(api *session.API) error {
		rows, err := storage.OpenMap(api, originRows)
		if err != nil {
			return err
		}
		api.Hooks.Message[session.ToFull].Add(api.Module, session.Guard, func(ev *session.Stanza) session.Verdict {
			if ev.Type == stanza.TypeHeadline {
				got = append(got, ev.Origin())
			}
			if ev.Type != stanza.TypeError {
				return session.Pass
			}
			if ev.Origin() == (session.Origin{}) {
				t.Error("the client's stanza has no origin")
			}
			rows.Put(storage.BatchOf(ev), ev.Account().ID(), "k", "v")
			host, from, to := ev.Host, ev.To, &session.Recipients{}
			to.Reset(len(api.Router.LoopRouters()))
			to.Add(ev.To)
			l := ev.LoopRouter()
			l.After(1, func() {
				l.WithAccount(host, from.Bare(), func(l *session.LoopRouter, a *session.Account, _ bool, _ error) {
					l.Fanout(a, from, []byte("<message type='headline'><body>news</body></message>"), to)
				})
			})
			return session.Done
		})
		return nil
	})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.Login("juliet", "juliet@localhost/balcony")
	flaky.Writes.Store(true)
	romeo.Send("<message to='juliet@localhost/balcony' type='error'><body>Hi</body></message>")
	s.Settle()
	s.AdvanceSettled(time.Second)
	if len(got) != 1 || got[0] != (session.Origin{}) {
		t.Errorf("the origins of what the server sends are %v", got)
	}
}
