// Package server puts a server together, once for every program: the store and the kernel on top of it, the
// profiles of its hosts, the door for clients, and the deleted accounts that a start finds unfinished. `canto
// serve`, `canto serve --dev` and the tests of session/sessiontest differ in what they give to it: a disk or
// memory, sockets or pipes, the system's clock or one of their own.
//
// A server is made in four calls: [New] opens the store, [Server.Apply] reads the hosts, the caller makes a
// reactor with [Server.Listeners] or in memory, and [Server.Start] joins the two. [Server.Apply] again is a
// reload.
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

// Options are what a server is made of. The zero value of a field means its default.
type Options struct {
	Store store.Options // of the database; Logger is Log, where it is nil
	Log   *slog.Logger  // slog.Default()
	Node  uint16        // of this process, in ids
	About session.About // what the program says of itself (XEP-0092)

	// Manifests is where modules are taken from: mod.All.
	Manifests []session.Manifest
	// Given is what the modules find besides what the server gives them; it replaces what has the same type.
	Given []session.Dependency

	Now      func() time.Time // the clock that modules see; must be given
	Random   io.Reader        // of salts, nonces and ids; must be given; used by several goroutines at once
	StreamID func() string    // see [session.Router.StreamID]: 128 random bits
	Resource func() string    // of a client that asks for none (RFC 6120 §7.6): 64 random bits
	// FakeKey makes the salts that an address without an account is shown: the store's secret "scram".
	FakeKey *sasl.Secret

	// TLS is the configuration for STARTTLS at a host; nil: no host has a certificate. It must not wait.
	TLS func(*session.Host) *tls.Config
	// NoThrottle: neither connections nor failed logins of an address are slowed down. For tests, all of
	// whose clients come from one address.
	NoThrottle bool
}

// A Server is all but the loops: the caller's reactor turns those. The fields do not change after Start.
type Server struct {
	DB      *store.DB
	Router  *session.Router
	C2S     *c2s.Handler          // where clients come in
	HTTP    *reactor.HTTPListener // what http and https ports hand over to net/http
	Reactor *reactor.Reactor      // nil before Start

	options   Options
	fakeKey   sasl.Secret
	failures  *session.Throttle
	mu        sync.Mutex // one Apply at a time
	profiles  map[string]*session.Profile
	isService map[string]bool // of each host that was ever served: whether it is a service host
}

// New opens the store and makes a server that has no hosts yet. The caller closes it.
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

// Close closes the store. The reactor has ended by then, or was never started.
func (s *Server) Close() error { return s.DB.Close() }

// Start joins the server with r, whose workers do its work unless Router.Workers is set already, and works
// off the accounts that were deleted while no server ran. Once, after the first Apply and before the first
// connection.
func (s *Server) Start(r *reactor.Reactor) error {
	s.Reactor = r
	if s.Router.Workers == nil {
		s.Router.Workers = r.Workers()
	}
	s.Router.Start(r.Loops())
	return s.eraseDeleted()
}

// eraseDeleted erases what was deleted shortly before the server stopped. Accounts that were deleted then, or
// while no server ran, are worked off one after the other.
func (s *Server) eraseDeleted() error {
	var gone []store.DeletedAccount
	snap := s.DB.Snapshot()
	defer snap.Close()
	if err := s.DB.Entities().Deleted(snap, func(e store.Entry) bool {
		if e.Kind != store.KindAccount { // accounts alone have contacts to be told
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

// Token is n bytes of random, in hexadecimal. It panics if there are none: nothing may be guessable instead.
func Token(random io.Reader, n int) string {
	b := make([]byte, n)
	if _, err := io.ReadFull(random, b); err != nil {
		panic(err)
	}
	return hex.EncodeToString(b)
}
