package archive

import "canto/session"

// counters are what the module counts for the metrics.
type counters struct {
	rows, bytes    *session.Counter // rows that were written, and the bytes of their messages
	expired        *session.Counter // rows that were deleted, by age or by size
	expiredWaiting *session.Counter // of these, rows that waited for a device
	pages          *session.Counter // pages that were read
	pageNanos      *session.Counter // how long workers took for them, in ns
	notFound       *session.Counter // queries with an id that is not there
	retractions    *session.Counter // messages that were replaced by a tombstone
	notAuthor      *session.Counter // retractions of a message of another author
	unsearched     *session.Counter // retractions over a limit, whose message was not searched for
	searchFailed   *session.Counter // retractions whose search the store has failed
	trimFailed     *session.Counter // searches for the oldest row that stays, which the store has failed
	preferencesSet *session.Counter // changes of preferences
}

// countersOf returns the counters of the process.
func countersOf(api *session.API) *counters {
	plain := func(name, help string) *session.Counter {
		return api.Router.Counter(session.CounterName{Name: name, Help: help})
	}
	query := func(result string) *session.Counter {
		return api.Router.Counter(session.CounterName{Name: "archive_queries_total", Label: "result", Value: result,
			Help: "Queries of archives, by result."})
	}
	retraction := func(result string) *session.Counter {
		return api.Router.Counter(session.CounterName{Name: "archive_retractions_total", Label: "result",
			Value: result, Help: "Retractions of archived messages, by result."})
	}
	return &counters{
		rows:    plain("archive_rows_total", "Messages archived, once for each side."),
		bytes:   plain("archive_bytes_total", "Bytes of archived messages."),
		expired: plain("archive_rows_expired_total", "Archived messages deleted, by age or by size."),
		expiredWaiting: plain("archive_waiting_expired_total",
			"Archived messages deleted by age or by size before a device had them."),
		trimFailed:     plain("archive_expiry_failures_total", "Searches for expired messages that have failed."),
		pages:          query("page"),
		notFound:       query("item-not-found"),
		pageNanos:      plain("archive_page_nanoseconds_total", "Time that workers took for pages."),
		retractions:    retraction("done"),
		notAuthor:      retraction("refused"),
		unsearched:     retraction("limit"),
		searchFailed:   retraction("failed"),
		preferencesSet: plain("archive_preferences_total", "Changes of archive preferences."),
	}
}
