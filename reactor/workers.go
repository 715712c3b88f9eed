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

const workQueue = 65536

type job struct {
	l    *Loop
	work func() error
	then func(error)
}

// pool is the Workers of a running server.
type pool struct {
	queues [numClasses]chan job
	stop   sync.WaitGroup
}

func newPool() *pool {
	p := new(pool)
	cpus := runtime.GOMAXPROCS(0)
	for c, width := range [numClasses]int{Handshakes: cpus, Disk: 4 * cpus, Crypto: cpus, Lookups: 16} {
		p.queues[c] = make(chan job, workQueue)
		for range width {
			p.stop.Add(1)
			go func() {
				defer p.stop.Done()
				pprof.Do(context.Background(), pprof.Labels("worker", classNames[c]), func(context.Context) {
					for j := range p.queues[c] {
						j.run()
					}
				})
			}()
		}
	}
	return p
}

func (p *pool) Do(c Class, l *Loop, work func() error, then func(error)) bool {
	select {
	case p.queues[c] <- job{l, work, then}:
		return true
	default:
		return false
	}
}

func (p *pool) close() {
	for _, q := range p.queues {
		close(q)
	}
	p.stop.Wait()
}

func (j job) run() {
	err := Protected(j.work)
	if j.l == nil {
		j.then(err)
		return
	}
	j.l.Post(func() { j.then(err) })
}

// Protected runs work; its panic is an error.
func Protected(work func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("reactor: panic in a worker: %v\n%s", r, debug.Stack())
		}
	}()
	return work()
}
