package offline

import (
	"canto/session"
	"canto/session/jid"
)

// counters are what the module counts for the metrics. Each message that is counted as stored is counted in
// one of the others but delivered when it waits no more: the difference is by how much what waits has grown
// since the start of the process. A write that fails is counted all the same.
type counters struct {
	stored    *session.Counter // messages that began to wait
	delivered *session.Counter // messages that a client has taken, also if it gets one twice after a failure
	taken     *session.Counter // messages that wait no more: a client has taken them
	read      *session.Counter // messages that wait no more: a client reads them from the archive
	expired   *session.Counter // messages that wait no more: they were too old, or too many
	deleted   *session.Counter // messages that wait no more: their account was deleted
}

// countersOf returns the counters of the process.
func countersOf(api *session.API) *counters {
	ended := func(reason string) *session.Counter {
		return api.Router.Counter(session.CounterName{Name: "offline_ended_total", Label: "reason", Value: reason,
			Help: "Kept messages that wait no more, by reason."})
	}
	return &counters{
		stored: api.Router.Counter(session.CounterName{Name: "offline_stored_total",
			Help: "Messages kept for accounts without an available session."}),
		delivered: api.Router.Counter(session.CounterName{Name: "offline_delivered_total",
			Help: "Kept messages that a client has taken."}),
		taken:   ended("taken"),
		read:    ended("archive"),
		expired: ended("expired"),
		deleted: ended("account"),
	}
}

// deleted is the Deleted hook: what waits for a goes with it. Under the lock of a.
func (m *module) deleted(_ *session.LoopRouter, a *session.Account, _ func(to jid.JID, el []byte)) {
	if k := part.Get(a); k != nil {
		m.counters.deleted.Add(uint64(k.count))
	}
}
