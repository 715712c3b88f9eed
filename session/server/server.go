// Package server assembles a server, for every program in the same way: the store, the kernel on
// it, the profiles of its hosts, and the handler of client connections. `canto serve`, `canto serve
// --dev` and the tests of session/sessiontest differ in what they pass in: a disk or memory,
// sockets or pipes, the system's clock or their own.
//
// A server is made in four steps:
//
//  1. [New] opens the store and makes the kernel.
//  2. [Server.Apply] loads the hosts and their modules.
//  3. The caller makes a reactor, with [Server.Listeners] or with pipes in memory.
//  4. [Server.Start] joins the two.
//
// A reload is another [Server.Apply].
package server

import (
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/c2s"
	"canto/session/sasl"
	"canto/session/storage"
	"canto/session/store"
)

// Options are what a server is made of. The zero value of a field means its default, unless the
// comment says otherwise.
type Options struct {
	Store store.Options // of the database; its Logger is Log by default
	Log   *slog.Logger  // slog.Default()
	Node  uint16        // the number of this process in message ids
	About session.About // name and version of the program (XEP-0092)

	// Manifests are the modules that a host can name; mod.All.
	Manifests []session.Manifest
	// Given are further values that modules may look up; one replaces the server's of the same type.
	Given []session.Dependency

	Now      func() time.Time // the clock of the modules; required
	Random   io.Reader        // for salts, nonces and ids; required; used by several goroutines at once
	StreamID func() string    // see [session.Router.StreamID]; 128 random bits
	AskID    func() string    // see [session.Router.AskID]; nil: 96 random bits
	Resource func() string    // for a client that asks for none (RFC 6120 section 7.6); 64 random bits
	// Resumption makes the id of a session that can be resumed (XEP-0198); 128 random bits.
	Resumption func() string
	// FakeKey is the key for the salts of addresses without an account; the store's secret "scram".
	FakeKey *sasl.Secret

	// TLS returns the configuration for STARTTLS at a host; nil: no host has a certificate. It is called on
	// loops and must not wait.
	TLS func(*session.Host) *tls.Config
	// NoThrottle switches off the limits on connections and failed logins of an address. For tests, whose
	// clients all come from one address.
	NoThrottle bool
}

// A Server is everything of a server but the loops, which belong to the caller's reactor. The
// exported fields do not change after Start.
type Server struct {
	DB      *store.DB             // the store
	Router  *session.Router       // the kernel
	C2S     *c2s.Handler          // the handler of client connections
	HTTP    *reactor.HTTPListener // the connections of http and https ports, for net/http
	Reactor *reactor.Reactor      // nil before Start

	options  Options
	fakeKey  sasl.Secret
	failures *session.Throttle // of failed logins; nil: none

	mu        sync.Mutex                  // guards the fields below; held during an Apply
	profiles  map[string]*session.Profile // that hosts use, by the key that Server.profile makes
	isService map[string]bool             // of each host that was ever served: whether it is a service host
}

// New opens the store and makes a server that has no hosts yet. The caller closes it. The errors
// are those of [store.Open].
//
//  1. Fill in the defaults of opt, and open the store.
//  2. Get the key of fake salts.
//  3. Make the kernel with the default limits, and the handlers of connections.
func New(opt Options) (*Server, error) {
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	if opt.Store.Logger == nil {
		opt.Store.Logger = opt.Log
	}
	if opt.StreamID == nil {
		opt.StreamID = func() string { return Token(opt.Random, 16) }
	}
	if opt.Resource == nil {
		opt.Resource = func() string { return Token(opt.Random, 8) }
	}
	if opt.Resumption == nil {
		opt.Resumption = func() string { return Token(opt.Random, 16) }
	}
	db, err := store.Open(opt.Store)
	if err != nil {
		return nil, err
	}
	s := &Server{DB: db, options: opt, profiles: make(map[string]*session.Profile),
		isService: make(map[string]bool)}
	if opt.FakeKey != nil {
		s.fakeKey = *opt.FakeKey
	} else {
		_, key, err := db.Secrets().Current("scram")
		if err != nil {
			db.Close()
			return nil, err
		}
		s.fakeKey = sasl.NewSecret(key)
	}
	s.Router = &session.Router{
		Table:       session.NewTable(),
		Committer:   storage.NewCommitter(db),
		Directory:   storage.NewDirectory(db),
		Log:         opt.Log,
		Node:        opt.Node,
		Incarnation: db.Incarnation(),
		CurrentTick: func() reactor.Tick { return s.Reactor.Tick() },
		StreamID:    opt.StreamID,
		Random:      opt.Random,
		AskID:       opt.AskID,
	}
	if err := s.Router.SetLimits(session.DefaultLimits()); err != nil {
		db.Close()
		return nil, err
	}
	s.C2S = &c2s.Handler{Router: s.Router, TLS: opt.TLS}
	if !opt.NoThrottle {
		s.failures, s.C2S.Throttle = session.NewThrottle(), session.NewThrottle()
	}
	s.HTTP = &reactor.HTTPListener{Released: s.C2S.ReleaseAddress, Refused: func(status int) {
		s.Router.CountRefused(fmt.Sprint("http_", status))
	}}
	return s, nil
}

// Close closes the store. The reactor must have ended by then, or never been started.
func (s *Server) Close() error { return s.DB.Close() }

// Start joins the server with r. r's workers do the kernel's blocking work, unless Router.Workers
// is set. Then it finishes the deletions that a stop has interrupted, or that a command made while
// no server ran. It is called once, after the first Apply and before the first connection.
func (s *Server) Start(r *reactor.Reactor) error {
	s.Reactor = r
	if s.Router.Workers == nil {
		s.Router.Workers = r.Workers()
	}
	s.Router.Start(r.Loops())
	return s.eraseDeleted()
}

// eraseDeleted finishes the deletions that the store lists. Entities that are no accounts are
// erased at once, as they have no contacts. The contacts of accounts have to be notified first, one
// account after another: the callback of each starts the next. It returns before they are done.
func (s *Server) eraseDeleted() error {
	var gone []store.DeletedAccount
	snap := s.DB.Snapshot()
	defer snap.Close()
	if err := s.DB.Entities().Deleted(snap, func(e store.Entry) bool {
		if e.Kind != store.KindAccount { // only accounts have contacts to be notified
			s.DB.Entities().Erase(e.ID)
		}
		return true
	}); err != nil {
		return err
	}
	if err := s.DB.Accounts().Deleted(snap, func(d store.DeletedAccount) bool {
		gone = append(gone, d)
		return true
	}); err != nil {
		return err
	}
	var next func()
	next = func() {
		for len(gone) > 0 {
			d := gone[0]
			gone = gone[1:]
			err := storage.FinishDeletion(s.Router, s.DB, d, next)
			if err == nil {
				return
			}
			s.options.Log.Error("a deleted account can't be worked off", "account", d.Local+"@"+d.Domain, "err", err)
		}
	}
	next()
	return nil
}

// Token returns n bytes of random in hexadecimal. It panics if random fails: the token must not be
// guessable.
func Token(random io.Reader, n int) string {
	b := make([]byte, n)
	if _, err := io.ReadFull(random, b); err != nil {
		panic(err)
	}
	return hex.EncodeToString(b)
}
