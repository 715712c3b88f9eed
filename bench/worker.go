package bench

import (
	"bufio"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The coordinator and a worker in another process exchange lines of JSON over a pipe or a TCP connection:
//
//	{"id":1,"op":"plan","plan":{…}}   ->  {"id":1}
//	{"id":2,"op":"phase","phase":0}   ->  {"id":2}, when the worker's part of it is done
//	{"id":3,"op":"tick"}              ->  {"id":3,"tick":{…}}
//	{"id":4,"op":"cancel","of":2}     ->  {"id":4}, and the answer to 2 soon
//	{"id":5,"op":"info"}              ->  {"id":5,"info":{…}}
//
// A reply may have "what" and "remedy" of an error. The worker ends when its input ends. Histograms have
// HdrHistogram's compressed form.

// A request is a line from the coordinator to a worker.
type request struct {
	ID     int    `json:"id"`
	Op     string `json:"op"`
	Phase  int    `json:"phase,omitempty"`
	Of     int    `json:"of,omitempty"`
	Plan   *Plan  `json:"plan,omitempty"`
	Secret string `json:"secret,omitempty"`
}

// A reply is a line from a worker to the coordinator. ID is that of the request.
type reply struct {
	ID      int     `json:"id"`
	What    string  `json:"what,omitempty"`
	Remedy  string  `json:"remedy,omitempty"`
	Feature string  `json:"feature,omitempty"` // the feature of an ErrNotOffered
	Over    bool    `json:"over,omitempty"`    // the error is context.Canceled
	Counts  *Counts `json:"tick,omitempty"`
	Info    *Info   `json:"info,omitempty"`
}

// fail writes err into the reply; nil is no error.
func (r *reply) fail(err error) {
	var ref Failure
	var not ErrNotOffered
	switch {
	case err == nil:
	case errors.As(err, &not):
		r.What, r.Feature = err.Error(), not.Feature
	case errors.As(err, &ref) && err == error(ref):
		r.What, r.Remedy = ref.What, ref.Remedy
	default:
		r.What, r.Over = err.Error(), errors.Is(err, context.Canceled)
	}
}

// err is the error that fail has written.
func (r *reply) err() error {
	switch {
	case r.What == "":
		return nil
	case r.Feature != "":
		return ErrNotOffered{r.Feature}
	case r.Over:
		return context.Canceled
	}
	return Failure{r.What, r.Remedy}
}

// maxLine bounds a line of the protocol, in bytes. The longest lines are counts, with their
// histograms.
const maxLine = 64 << 20

// ServeWorker makes this process a worker: it handles the requests that it reads from in until in
// or ctx ends, and then closes its fleet. If secret is not empty, it must be in the first request.
// The error says that a peer does not speak the protocol or has another secret.
//
// Each line is handled in turn. A phase runs on a goroutine of its own, so that counts can be
// collected and the phase can be cancelled while it runs.
func ServeWorker(ctx context.Context, in io.Reader, out io.Writer, secret string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex // guards out and running
	enc := json.NewEncoder(out)
	say := func(r reply) {
		mu.Lock()
		defer mu.Unlock()
		enc.Encode(r)
	}
	var w *localWorker
	defer func() {
		if w != nil {
			w.Close()
		}
	}()
	running := map[int]context.CancelFunc{} // phases, by id of the request; guarded by mu
	sc := bufio.NewScanner(in)
	sc.Buffer(make([]byte, 64<<10), maxLine)
	known := secret == ""
	for sc.Scan() {
		var q request
		if err := json.Unmarshal(sc.Bytes(), &q); err != nil {
			return fmt.Errorf("the input is not the protocol of canto-bench: %v: do both ends have the same "+
				"version?", err)
		}
		r := reply{ID: q.ID}
		if !known {
			if known = subtle.ConstantTimeCompare([]byte(q.Secret), []byte(secret)) == 1; !known {
				r.fail(Failure{"the agent asks for another secret", "give both ends the same --secret"})
				say(r)
				return errors.New("a wrong secret was given")
			}
		}
		switch {
		case q.Op == "plan" && w == nil && q.Plan != nil && q.Plan.Scenario != nil &&
			q.Plan.Assignment.Workers > q.Plan.Assignment.Worker:
			var err error
			if err = q.Plan.Scenario.Check(); err == nil {
				w, err = newLocalWorker(q.Plan)
			}
			r.fail(err)
			say(r)
		case w == nil:
			r.fail(Failure{"a worker needs a plan first", ""})
			say(r)
		case q.Op == "phase" && q.Phase >= 0 && q.Phase < len(w.f.sc.Phases):
			pctx, stop := context.WithCancel(ctx)
			mu.Lock()
			running[q.ID] = stop
			mu.Unlock()
			go func() {
				r.fail(w.Phase(pctx, q.Phase))
				mu.Lock()
				delete(running, q.ID)
				mu.Unlock()
				stop()
				say(r)
			}()
		case q.Op == "cancel":
			mu.Lock()
			if stop := running[q.Of]; stop != nil {
				stop()
			}
			mu.Unlock()
			say(r)
		case q.Op == "tick":
			t, err := w.Collect()
			r.Counts = t
			r.fail(err)
			say(r)
		case q.Op == "info":
			i, err := w.Info()
			r.Info = &i
			r.fail(err)
			say(r)
		default:
			r.fail(Failure{fmt.Sprintf("a worker does not know %.40q", q.Op), "do both ends have the same version?"})
			say(r)
		}
	}
	return sc.Err()
}

// ServeAgent serves the coordinators that connect to ln, one after another, until ctx ends. log
// takes a line for each event.
func ServeAgent(ctx context.Context, ln net.Listener, secret string, log func(string)) error {
	context.AfterFunc(ctx, func() { ln.Close() })
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		log("a run from " + nc.RemoteAddr().String())
		stop := context.AfterFunc(ctx, func() { nc.Close() })
		if err := ServeWorker(ctx, nc, nc, secret); err != nil {
			log(err.Error())
		}
		stop()
		nc.Close()
		log("ready")
	}
}

// A remoteWorker is a worker in another process, at the other end of the protocol.
type remoteWorker struct {
	name    string // for errors
	out     io.Writer
	close   func() error
	mu      sync.Mutex         // guards the fields below, and writes to out
	last    int                // id of the last request
	pending map[int]chan reply // by id of the request; a channel of one place
	lost    error              // why there are no more replies; nil: there are
}

// newRemoteWorker starts to read replies from in.
func newRemoteWorker(name string, in io.Reader, out io.Writer, close func() error) *remoteWorker {
	w := &remoteWorker{name: name, out: out, close: close, pending: make(map[int]chan reply)}
	go w.read(in)
	return w
}

// read passes replies to their callers until in ends, and then fails all that are pending.
func (w *remoteWorker) read(in io.Reader) {
	sc := bufio.NewScanner(in)
	sc.Buffer(make([]byte, 64<<10), maxLine)
	var err error
	for err == nil && sc.Scan() {
		var r reply
		if err = json.Unmarshal(sc.Bytes(), &r); err != nil {
			break
		}
		w.mu.Lock()
		ch := w.pending[r.ID]
		delete(w.pending, r.ID)
		w.mu.Unlock()
		if ch != nil {
			ch <- r
		}
	}
	if err == nil {
		err = sc.Err()
	}
	why := "it ended"
	if err != nil {
		why = err.Error()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = Failure{fmt.Sprintf("%s was lost: %s", w.name, why), "look at what it printed"}
	for id, ch := range w.pending {
		delete(w.pending, id)
		ch <- reply{What: w.lost.(Failure).What, Remedy: w.lost.(Failure).Remedy}
	}
}

// send sends a request. The reply comes through the channel.
func (w *remoteWorker) send(q request) (int, chan reply, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost != nil {
		return 0, nil, w.lost
	}
	w.last++
	q.ID = w.last
	b, err := json.Marshal(q)
	if err != nil {
		return 0, nil, err
	}
	ch := make(chan reply, 1)
	w.pending[q.ID] = ch
	if _, err := w.out.Write(append(b, '\n')); err != nil {
		delete(w.pending, q.ID)
		return 0, nil, Failure{fmt.Sprintf("%s was lost: %v", w.name, err), "look at what it printed"}
	}
	return q.ID, ch, nil
}

// call sends a request and waits for its reply, whose error it returns.
func (w *remoteWorker) call(q request) (reply, error) {
	_, ch, err := w.send(q)
	if err != nil {
		return reply{}, err
	}
	r := <-ch
	return r, r.err()
}

// Phase implements worker. When ctx ends, it cancels the phase and waits 30 s at most.
func (w *remoteWorker) Phase(ctx context.Context, k int) error {
	id, ch, err := w.send(request{Op: "phase", Phase: k})
	if err != nil {
		return err
	}
	select {
	case r := <-ch:
		return r.err()
	case <-ctx.Done():
	}
	if _, _, err := w.send(request{Op: "cancel", Of: id}); err != nil {
		return err
	}
	select {
	case r := <-ch:
		return r.err()
	case <-time.After(30 * time.Second):
		return Failure{w.name + " does not stop", "end it by hand"}
	}
}

// Collect implements worker.
func (w *remoteWorker) Collect() (*Counts, error) {
	r, err := w.call(request{Op: "tick"})
	if err != nil {
		return nil, err
	}
	if r.Counts == nil {
		return nil, Failure{w.name + " sent no figures", "do both ends have the same version?"}
	}
	return r.Counts, nil
}

// Info implements worker.
func (w *remoteWorker) Info() (Info, error) {
	r, err := w.call(request{Op: "info"})
	if err != nil || r.Info == nil {
		return Info{}, err
	}
	return *r.Info, nil
}

// Close implements worker.
func (w *remoteWorker) Close() error { return w.close() }

// startWorker starts a worker process on this machine and sends it the plan. Close gives it 10 s to
// end, and then kills it.
func startWorker(command []string, p *Plan) (worker, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	// an interrupt at the terminal is for the coordinator alone, which ends the workers
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	start := cmd.Start
	if p.Assignment.Groups == ApartGroups {
		start = func() error { return startIdle(cmd.Start) }
	}
	if err := start(); err != nil {
		return nil, fmt.Errorf("a worker process could not be started: %w", err)
	}
	w := newRemoteWorker(fmt.Sprintf("worker %d", p.Assignment.Worker+1), out, in, func() error {
		in.Close()
		late := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		defer late.Stop()
		return cmd.Wait()
	})
	if _, err := w.call(request{Op: "plan", Plan: p}); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// startIdle calls start on a thread with the policy SCHED_IDLE: the thread, and the process that
// start makes, run only when no other thread wants the processor. The thread ends with the
// goroutine, which does not unlock it: an unprivileged thread may not leave the policy again.
func startIdle(start func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		// A sandbox may refuse the call: then the process runs at normal priority.
		unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
		done <- start()
	}()
	return <-done
}

// dialAgent connects to an agent and sends it the plan.
func dialAgent(ctx context.Context, addr, secret string, p *Plan) (worker, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, Failure{fmt.Sprintf("agent %s can't be reached: %v", addr, err),
			"start it there: canto-bench agent --listen " + addr}
	}
	w := newRemoteWorker("agent "+addr, nc, nc, nc.Close)
	if _, err := w.call(request{Op: "plan", Plan: p, Secret: secret}); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}
