package reactor

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"sync"
)

// Workers run work that blocks or takes long, off the loops: disk, key derivation, look-ups. TLS handshakes
// do not run here: each has a goroutine of its own, as it waits for its peer. In tests (reactortest) work
// runs on the test's goroutine, in an order that a seed determines.
type Workers interface {
	// Do runs work on a worker of class c, and then then(err) on l, with the error of work or its panic as an
	// error. If l is nil, then runs on the worker. ok is false if the queue of c is full or closed: neither
	// is run, and the caller answers resource-constraint. Any goroutine.
	Do(c Class, l *Loop, work func() error, then func(error)) (ok bool)
}

// A Class is a kind of work, with a queue and a number of workers of its own, so that a slow disk
// does not delay key derivations.
type Class uint8

const (
	// Handshakes has a worker for each processor. Nothing uses it: handshakes have goroutines of their own.
	Handshakes Class = iota
	// Disk is for reads of the store: four workers for each processor.
	Disk
	// Crypto is for derivations of keys: a worker for each processor.
	Crypto
	// Lookups is for look-ups in the network, as of DNS: 16 workers. Nothing uses it yet.
	Lookups
	numClasses
)

var classNames = [numClasses]string{"handshakes", "disk", "crypto", "lookups"}

// String returns the name of c, which is also the pprof label "worker" of its goroutines.
func (c Class) String() string { return classNames[c] }

// maxJobs bounds the queue of each class.
const maxJobs = 65536

// A job is an argument list of Workers.Do.
type job struct {
	l    *Loop
	work func() error
	done func(error)
}

// A pool is the Workers of a reactor that got none in its configuration.
type pool struct {
	queues  [numClasses]queue
	running sync.WaitGroup // counts the goroutines
}

// A queue is a bounded queue of jobs: a ring buffer that doubles up to maxJobs, and is dropped when it is
// empty. A channel of that capacity would take megabytes for good.
type queue struct {
	mu       sync.Mutex // guards all fields
	notEmpty sync.Cond  // signalled with each job, and by close
	ring     []job      // its length is a power of two, or 0
	head, n  int        // position of the first job, and number of jobs
	closed   bool       // put takes nothing; take returns what is left
}

// maxIdleRing is the length up to which an empty ring is kept.
const maxIdleRing = 256

// put appends j. It returns false if the queue is full or closed.
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

// take removes the first job and waits for one. ok is false if the queue is closed and empty.
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

// newPool starts the workers of all classes. Disk has more than processors, as its work waits;
// Lookups has a fixed number, as it hardly computes.
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

// Do implements Workers.
func (p *pool) Do(c Class, l *Loop, work func() error, then func(error)) bool {
	return p.queues[c].put(job{l, work, then})
}

// close waits until the workers have done all queued jobs, and ends them. Do returns false from now
// on.
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

// run does the job on a worker and posts done to the loop. If the loop has stopped, done is not
// called.
func (j job) run() {
	err := CatchPanic(j.work)
	if j.l == nil {
		j.done(err)
		return
	}
	j.l.Post(func() { j.done(err) })
}

// CatchPanic runs work and returns its error. A panic in it is returned as an error with the stack.
func CatchPanic(work func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("reactor: panic in a worker: %v\n%s", r, debug.Stack())
		}
	}()
	return work()
}
