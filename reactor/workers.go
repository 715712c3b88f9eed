package reactor

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"sync"
)

// Workers run what may wait or takes long: handshakes, disk, key derivation, look-ups. Nothing else
// starts a goroutine for work. A test's workers (reactortest) run it inline, in an order that its
// seed says.
type Workers interface {
	// Do runs work, and then then on l; work's panic is then's error. ok is false if c's queue is
	// full: the caller answers resource-constraint, and neither is run. Any goroutine.
	Do(c Class, l *Loop, work func() error, then func(error)) (ok bool)
}

// A Class is a queue and a width of its own, so that slow disks don't delay handshakes.
type Class uint8

// The classes.
const (
	Handshakes Class = iota
	Disk
	Crypto
	Lookups
	numClasses
)

var classNames = [numClasses]string{"handshakes", "disk", "crypto", "lookups"}

func (c Class) String() string { return classNames[c] }

const maxJobs = 65536

type job struct {
	l    *Loop
	work func() error
	done func(error)
}

// pool is the Workers of a running server.
type pool struct {
	queues  [numClasses]queue
	running sync.WaitGroup
}

// A queue is a ring of jobs that grows to maxJobs, and is given back when it is empty: a channel of that
// size would hold on to megabytes.
type queue struct {
	mu       sync.Mutex
	notEmpty sync.Cond
	ring     []job // of a power of two
	head, n  int
	closed   bool
}

// maxIdleRing is how large a ring may be that is kept while empty.
const maxIdleRing = 256

func (q *queue) put(j job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.n == maxJobs {
		return false
	}
	if q.n == len(q.ring) {
		ring := make([]job, max(2*len(q.ring), 16))
		copy(ring[copy(ring, q.ring[q.head:]):], q.ring[:q.head])
		q.ring, q.head = ring, 0
	}
	q.ring[(q.head+q.n)&(len(q.ring)-1)] = j
	q.n++
	q.notEmpty.Signal()
	return true
}

// take waits for a job; false: the queue is closed and empty.
func (q *queue) take() (j job, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.n == 0 {
		if q.closed {
			return j, false
		}
		q.notEmpty.Wait()
	}
	j, q.ring[q.head] = q.ring[q.head], job{}
	q.head = (q.head + 1) & (len(q.ring) - 1)
	if q.n--; q.n == 0 && len(q.ring) > maxIdleRing {
		q.ring, q.head = nil, 0
	}
	return j, true
}

func newPool() *pool {
	p := new(pool)
	cpus := runtime.GOMAXPROCS(0)
	for c, width := range [numClasses]int{Handshakes: cpus, Disk: 4 * cpus, Crypto: cpus, Lookups: 16} {
		q := &p.queues[c]
		q.notEmpty.L = &q.mu
		for range width {
			p.running.Add(1)
			go func() {
				defer p.running.Done()
				pprof.Do(context.Background(), pprof.Labels("worker", classNames[c]), func(context.Context) {
					for {
						j, ok := q.take()
						if !ok {
							return
						}
						j.run()
					}
				})
			}()
		}
	}
	return p
}

func (p *pool) Do(c Class, l *Loop, work func() error, then func(error)) bool {
	return p.queues[c].put(job{l, work, then})
}

// close ends the workers when they have done what is queued.
func (p *pool) close() {
	for i := range p.queues {
		q := &p.queues[i]
		q.mu.Lock()
		q.closed = true
		q.notEmpty.Broadcast()
		q.mu.Unlock()
	}
	p.running.Wait()
}

func (j job) run() {
	err := CatchPanic(j.work)
	if j.l == nil {
		j.done(err)
		return
	}
	j.l.Post(func() { j.done(err) })
}

// CatchPanic runs work; its panic is an error.
func CatchPanic(work func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("reactor: panic in a worker: %v\n%s", r, debug.Stack())
		}
	}()
	return work()
}
