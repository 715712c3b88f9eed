// Package metrics exports the counters of loops, kernel and store to Prometheus. Each loop has
// plain counters of its own; a scrape asks every loop for a copy and adds them up. Label values
// come from fixed sets only, so that a peer can't create series (attack K65).
package metrics

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"canto/reactor"
	"canto/reactor/buf"
	"canto/session"
	"canto/session/stanza"
	"canto/session/store"
)

// A Collector is a [prometheus.Collector] of one server. Any goroutine but a loop's.
type Collector struct {
	Reactor *reactor.Reactor // the server's loops
	Router  *session.Router  // its kernel
	DB      *store.DB        // its store

	mu         sync.Mutex    // guards the fields below; held while a report is made
	report     *MemoryReport // the last report
	freshUntil reactor.Tick  // when a scrape makes the next one
}

// The metrics. Their names and help texts are public: dashboards use them.
var (
	desc = func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("canto_"+name, help, labels, nil)
	}
	connections = desc("connections", "Open connections.")
	sessions    = desc("sessions_bound_total", "Sessions bound since the start.")
	unbound     = desc("sessions_unbound_total", "Sessions ended since the start.")
	ended       = desc("sessions_ended_total", "Sessions ended since the start, by what has ended them.", "by")
	superseded  = desc("stanzas_superseded_total",
		"Stanzas dropped, as another stream has the session of theirs.")
	online   = desc("sessions", "Sessions bound now.")
	entities = desc("entities_in_memory", "Entities in memory: accounts, and what service hosts have "+
		"(rooms, the service itself).")
	stanzas    = desc("stanzas_total", "Stanzas from clients and to sessions.", "kind", "direction")
	bounced    = desc("stanza_errors_total", "Stanza errors sent, by condition.", "condition")
	streamErrs = desc("stream_errors_total", "Stream errors sent, by condition.", "condition")
	limits     = desc("limit_hits_total", "Limits that were hit.", "limit")
	asked      = desc("asked_total", "Requests that the server itself has sent, by what came of them: "+
		"answered, timed_out.", "outcome")
	asking = desc("asking", "Requests of the server itself that have no answer yet.")
	stray  = desc("stray_answers_total", "Answers to the server that no request of it waits for: late, "+
		"doubled, or not from the address that was asked.")
	panics     = desc("panics_total", "Panics that were recovered.", "where")
	bytesTotal = desc("bytes_total", "Bytes on sockets.", "direction")
	inboxed    = desc("inboxed_total", "Stanzas that waited for an account to be read.")
	paused     = desc("connections_paused", "Connections that are not read now.")
	waiting    = desc("waiting_bytes", "Bytes that wait: in outboxes for sockets that have no room, "+
		"parked until their stream takes them.", "where")
	loops       = desc("loops", "Event loops.")
	loopSeconds = desc("loop_seconds_total", "Time that loops have spent, by kind of work: handling "+
		"what was read, posted functions, flushing. flooding is a part of the first two: input that took its "+
		"stream over its rate.", "loop", "work")
	buffers       = desc("buffers_in_use", "Buffers lent.", "pool")
	turnSeconds   = desc("turn_seconds", "Length of turns and callbacks.", "loop")
	longTurns     = desc("long_turns_total", "Turns and callbacks of over 20 ms.")
	longestTurn   = desc("longest_turn_seconds", "Longest turn or callback since the start.")
	loginsWaiting = desc("logins_waiting", "Connections that wait to go on with their handshake or login.")
	loginWaits    = desc("login_wait_seconds", "Waits of connections to go on with their handshake or "+
		"login, of those that had to.")
	commitSeconds = desc("commit_seconds", "Length of synced batches.")
	ops           = desc("store_operations_total", "Rows written.")
	cache         = desc("store_cache_bytes", "Bytes in the block cache.")
	memory        = desc("bytes", "Bytes of memory by the part of the server that holds them: of the "+
		"heap, but for the store's, which are outside of it where Pebble was built with cgo. unaccounted is "+
		"what the last collection found alive and no part knows of. As of 10 s ago at most, longer with very "+
		"many accounts.", "part")
	writesRefused = desc("store_refuses_writes", "1 while the disk has too little room.")
)

// Describe implements [prometheus.Collector]. One description is enough to register it.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) { ch <- connections }

// loopTimeout is how long a scrape waits for a loop.
const loopTimeout = time.Second

// Stats returns the sum of the kernel's counters over all loops. A loop that does not answer within
// loopTimeout is left out. Any goroutine but a loop's, which would wait for itself.
func Stats(r *session.Router) (sum session.Stats) {
	sum.StreamErrors, sum.Limits = map[string]uint64{}, map[string]uint64{}
	onEachLoop(r, (*session.LoopRouter).Stats, func(s session.Stats) { sum.Add(&s) })
	return sum
}

// onEachLoop runs f on each loop and calls take, on the caller's goroutine, with the result of each
// loop that answers within loopTimeout.
func onEachLoop[T any](r *session.Router, f func(l *session.LoopRouter) T, take func(T)) {
	answers := make(chan T, len(r.LoopRouters()))
	n := 0
	for _, l := range r.LoopRouters() {
		if l.Loop.Post(func() { answers <- f(l) }) {
			n++
		}
	}
	late := time.After(loopTimeout)
	for range n {
		select {
		case v := <-answers:
			take(v)
		case <-late:
			return
		}
	}
}

// Collect implements [prometheus.Collector]:
//
//  1. The kernel's counters, summed over the loops.
//  2. The meters of the loops, which can be read without asking them.
//  3. The counters of limits, from both.
//  4. The store's counters.
//  5. The memory report, as of a while ago.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := Stats(c.Router)
	gauge(loops, float64(len(c.Reactor.Loops())))
	gauge(connections, float64(c.Reactor.Connections()))
	counter(sessions, s.Bound)
	counter(unbound, s.Unbound)
	for i, n := range s.Ended {
		if n > 0 {
			counter(ended, n, session.Ending(i).String())
		}
	}
	counter(superseded, s.Superseded)
	gauge(online, float64(s.Bound-s.Unbound))
	gauge(entities, float64(c.Router.Table.Len()))
	for k := stanza.Message; k <= stanza.IQ; k++ {
		counter(stanzas, s.In[k], k.String(), "in")
		counter(stanzas, s.Out[k], k.String(), "out")
	}
	for i, n := range s.Bounced {
		if n > 0 {
			counter(bounced, n, stanza.Condition(i).String())
		}
	}
	for k, n := range s.StreamErrors {
		counter(streamErrs, n, k)
	}
	counter(asked, s.Answered, "answered")
	counter(asked, s.AskTimeouts, "timed_out")
	gauge(asking, float64(c.Router.Asks()))
	counter(stray, s.StrayAnswers)
	c.Router.EachRefused(func(limit string, n uint64) { s.Limits[limit] += n })
	s.Limits["connections"] += c.Reactor.Refused()
	counter(panics, s.Panics, "handler")
	counter(inboxed, s.Inboxed)
	var in, out, loopPanics, slowConsumers, long uint64
	var waits [24]uint64
	notRead, outbox, parked, queued := 0, 0, 0, 0
	longest := time.Duration(0)
	for _, l := range c.Reactor.Loops() {
		m := l.Meter()
		in, out, loopPanics, notRead = in+m.BytesIn, out+m.BytesOut, loopPanics+m.Panics, notRead+m.Paused
		outbox, parked = outbox+m.OutboxBytes, parked+m.ParkedBytes
		slowConsumers += m.SlowConsumers
		s.Limits["logins_waiting"] += m.AdmissionRefused
		s.Limits["handshakes_per_address"] += m.HandshakesRefused
		s.Limits["handshake_timeout"] += m.HandshakeTimeouts
		queued, long, longest = queued+m.AdmissionQueued, long+m.LongTurns, max(longest, m.Longest)
		for i, n := range m.AdmissionWaits {
			waits[i] += n
		}
		loop := strconv.Itoa(l.Index())
		histogram(ch, turnSeconds, m.Turns[:], loop)
		ch <- prometheus.MustNewConstMetric(loopSeconds, prometheus.CounterValue, m.Handling.Seconds(), loop,
			"handling")
		ch <- prometheus.MustNewConstMetric(loopSeconds, prometheus.CounterValue, m.Posted.Seconds(), loop,
			"posted")
		ch <- prometheus.MustNewConstMetric(loopSeconds, prometheus.CounterValue, m.Flushing.Seconds(), loop,
			"flushing")
		ch <- prometheus.MustNewConstMetric(loopSeconds, prometheus.CounterValue, m.OverRate.Seconds(), loop,
			"flooding")
	}
	counter(bytesTotal, in, "in")
	counter(bytesTotal, out, "out")
	counter(panics, loopPanics, "loop")
	s.Limits["unread"] += slowConsumers
	for k, n := range s.Limits {
		counter(limits, n, k)
	}
	c.Router.EachCounter(func(name session.CounterName, n uint64) {
		var labels, values []string
		if name.Label != "" {
			labels, values = []string{name.Label}, []string{name.Value}
		}
		counter(desc(name.Name, name.Help, labels...), n, values...)
	})
	gauge(loginsWaiting, float64(queued))
	histogram(ch, loginWaits, waits[:])
	counter(longTurns, long)
	gauge(longestTurn, longest.Seconds())
	gauge(paused, float64(notRead))
	gauge(waiting, float64(outbox), "outbox")
	gauge(waiting, float64(parked), "parked")
	gauge(buffers, float64(buf.Outbox.InUse()), "outbox")
	gauge(buffers, float64(buf.Input.InUse()), "tail")
	m := c.DB.Metrics()
	commitHistogram(ch, &m.Latency)
	counter(ops, m.Ops.Load())
	gauge(cache, float64(c.DB.Sizes().Cache))
	report := c.MemoryReport(false)
	for _, p := range report.Parts {
		gauge(memory, float64(p.Bytes), p.Name)
	}
	gauge(memory, float64(report.Unaccounted()), "unaccounted")
	v := 0.0
	if c.DB.Full() != nil {
		v = 1
	}
	gauge(writesRefused, v)
}

// histogram exports counts by powers of two of microseconds: counts[i] are the values below 2^i µs.
// The sum is estimated with the middle of each bucket.
func histogram(ch chan<- prometheus.Metric, d *prometheus.Desc, counts []uint64, labels ...string) {
	buckets := make(map[float64]uint64, len(counts))
	var total uint64
	var sum float64
	for i, n := range counts {
		total += n
		limit := float64(uint64(1)<<i) * 1e-6
		buckets[limit] = total
		sum += float64(n) * limit * 0.75
	}
	ch <- prometheus.MustNewConstHistogram(d, total, sum, buckets, labels...)
}

// commitHistogram exports the store's histogram of commits.
func commitHistogram(ch chan<- prometheus.Metric, h *store.Histogram) {
	buckets := make(map[float64]uint64, len(h.Counts))
	var total uint64
	for i := range h.Counts {
		total += h.Counts[i].Load()
		buckets[store.HistogramBound(i).Seconds()] = total
	}
	ch <- prometheus.MustNewConstHistogram(commitSeconds, total, float64(h.Sum.Load())/1e9, buckets)
}
