// Package accounts makes accounts on any server by in-band registration (XEP-0077), for servers
// whose files and tools are out of reach. It fills in forms as long as they ask for a name, a
// password and the like; makes several accounts on a connection where the server allows it; and
// slows down where the server asks for it.
package accounts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"canto/bench"
	"canto/bench/xmpp"
)

// A Config says which accounts to make: those of the Target, with numbers from First on.
type Config struct {
	Target   bench.Target // Target is the server, with the name and password of its accounts.
	TLS      string       // TLS is "none", "starttls" or "direct"; "": none.
	N        int          // N is how many accounts.
	InFlight int          // InFlight is how many connections there are at a time; 0: 8.
	// GiveUpAfter is how long to retry, slower and slower, while the server makes no account because
	// of its limits; 0: a minute.
	GiveUpAfter time.Duration
	// Progress takes the number of accounts that exist so far; from one goroutine at a time; may be
	// nil.
	Progress func(done int)
}

// Register makes the accounts. Existing ones are counted and left alone; whether they have this
// password is not known. The error is one line, a [bench.Failure] if there is a remedy. The counts
// are valid with an error too, and accounts that were made stay. When ctx ends, its error is
// returned. Nothing runs when Register returns.
func Register(ctx context.Context, c Config) (made, existed int, err error) {
	c.TLS = cmp.Or(c.TLS, "none")
	if err := c.Target.Check(c.TLS); err != nil {
		return 0, 0, err
	}
	c.InFlight = min(cmp.Or(max(c.InFlight, 0), 8), max(c.N, 1))
	c.GiveUpAfter = cmp.Or(c.GiveUpAfter, time.Minute)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &registrar{Config: c}
	r.success()
	var wg sync.WaitGroup
	for k := range c.InFlight {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := r.work(ctx, k); err != nil {
				cancel(err) // the first says why
			}
		}()
	}
	wg.Wait()
	return r.made, r.existed, context.Cause(ctx)
}

// A registrar is what the connections share.
type registrar struct {
	Config
	next   atomic.Int64 // number of the next account
	single atomic.Bool  // the server makes one account on a connection
	last   atomic.Int64 // when an account was made, or found to exist

	mu            sync.Mutex // guards made and existed
	made, existed int
}

func (r *registrar) success() { r.last.Store(time.Now().UnixNano()) }

func (r *registrar) user(i int) string {
	return strings.Replace(r.Target.User, "%d", fmt.Sprint(r.Target.First+i), 1)
}

// work makes accounts until there are enough, on the k-th connection. It takes the next number;
// tries it, with backoff, until it succeeds or can't; and opens another connection after an error,
// or if the server makes one account on each.
func (r *registrar) work(ctx context.Context, k int) error {
	var s *stream
	defer func() {
		if s != nil {
			s.close()
		}
	}()
	for {
		i := int(r.next.Add(1)) - 1
		if i >= r.N || ctx.Err() != nil {
			return ctx.Err()
		}
		for try := 0; ; try++ {
			err := r.account(ctx, &s, k, i)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err = r.retryable(err, s); err != nil {
				return err
			}
			reuse := s != nil && s.used > 1
			if s != nil {
				s.close()
				s = nil
			}
			if reuse { // the connection was used before, and a new one may do
				try = -1
				continue
			}
			if !backoff(ctx, try) {
				return ctx.Err()
			}
		}
		if s != nil && r.single.Load() {
			s.close()
			s = nil
		}
	}
}

// account asks for the i-th account on *s, which it opens if it is nil.
func (r *registrar) account(ctx context.Context, s **stream, k, i int) (err error) {
	if *s == nil {
		var from net.Addr
		if n := len(r.Target.Sources); n > 0 {
			from = &net.TCPAddr{IP: r.Target.Sources[k%n].AsSlice()}
		}
		if *s, err = open(ctx, &r.Config, from); err != nil {
			return err
		}
	}
	st := *s
	st.used++
	e, err := st.request("set", st.form.fill(r.user(i), r.Target.Password, r.Target.Domain))
	if err != nil {
		return explain(err, &r.Target)
	}
	err = stanzaErrorOf(e)
	var f stanzaError
	exists := errors.As(err, &f) && f.condition == "conflict"
	if err != nil && !exists {
		return err
	}
	r.success()
	r.mu.Lock()
	defer r.mu.Unlock()
	if exists {
		r.existed++
	} else {
		r.made++
	}
	if r.Progress != nil {
		r.Progress(r.made + r.existed)
	}
	return nil
}

// retryable judges err, with which a registration on the stream s failed; s is nil if there was
// no stream. It returns nil if the request may succeed on another connection, otherwise the error
// that ends the run:
//
//  1. After the first account of a connection, any error but a bench.Failure leads to a new
//     connection. It also sets single, and from then on each connection makes one account.
//  2. A request to wait, a limit of the server, a stream error and a connection that the server
//     closed may pass. A name or a password that the server rejects, and a server without
//     registration, become a bench.Failure. Any other error is returned as it is.
//  3. If no account was made for GiveUpAfter, an error that may pass becomes a bench.Failure too.
func (r *registrar) retryable(err error, s *stream) error {
	if s != nil && s.used > 1 {
		var refusal bench.Failure
		if !errors.As(err, &refusal) {
			// An entity that has an account may be refused another (XEP-0077 §3.1.1), or cut off. Whether a
			// limit was reached or that is so shows on a new connection.
			r.single.Store(true)
			return nil
		}
	}
	var f stanzaError
	var end xmpp.StreamError
	what := ""
	switch {
	case errors.As(err, &f):
		switch {
		case f.wait, f.condition == "resource-constraint", f.condition == "policy-violation":
			what = "the server limits registrations: " + f.Error()
		case f.condition == "not-acceptable":
			return bench.Failure{What: "the server does not accept a registration: " + f.Error(),
				Remedy: "has it rules for names or passwords? choose others with --user and --password"}
		case f.condition == "jid-malformed", f.condition == "bad-request":
			return bench.Failure{What: "the server does not take the name: " + f.Error(),
				Remedy: "choose another with --user"}
		default:
			return registrationOff(f)
		}
	case errors.As(err, &end):
		if end.Condition == "not-authorized" { // at once: strangers may do nothing but log in
			return registrationOff(end)
		}
		what = end.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE):
		what = "the server closes connections that register"
	default:
		return err
	}
	if time.Since(time.Unix(0, r.last.Load())) > r.GiveUpAfter {
		return bench.Failure{What: fmt.Sprintf("%s, for %v now", what, r.GiveUpAfter),
			Remedy: "raise its limits of registrations and of connections from an address"}
	}
	return nil
}

// registrationOff explains an error by which a server refuses registration as such.
func registrationOff(err error) error {
	return bench.Failure{What: "the server does not register accounts here: " + err.Error(),
		Remedy: "turn in-band registration (XEP-0077) on, and mind that some allow it under TLS only: --tls " +
			"starttls"}
}

// backoff waits longer with each try: 50 ms to 5 s. It returns false if ctx ends.
func backoff(ctx context.Context, try int) bool {
	t := time.NewTimer(min(50*time.Millisecond<<min(try, 10), 5*time.Second))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
