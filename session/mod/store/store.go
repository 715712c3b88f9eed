// Package store is the module that provides the feature "store": the process has a store. Modules that
// store something require the feature and call package storage. If the process has no store, Load of this
// module fails, and so does the start of the server.
//
// In memory: nothing. Stored: nothing. Hooks: none.
package store

import (
	"errors"

	"canto/session"
	"canto/session/storage"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "store",
	Spec:     "session/store",
	Summary:  "keeps what must last",
	Cases:    "Pebble, one database for all hosts",
	Provides: []session.Feature{"store"},
	New:      func() session.Module { return module{} },
}

type module struct{}

// Load implements [session.Module]. It fails if the process has no store.
func (module) Load(api *session.API) error {
	if storage.DB(api) == nil {
		return errors.New("the process has no store")
	}
	return nil
}
