// Package store is the module that says whether the process has a store. Modules that keep what must last
// require its feature "store"; what they call is package storage.
//
// State: none. Stored: nothing of its own.
package store

import (
	"errors"

	"canto/session"
	"canto/session/storage"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "store",
	Spec:     "session/store",
	Summary:  "keeps what must last",
	Cases:    "Pebble, one database for all hosts",
	Provides: []session.Feature{"store"},
	New:      func() session.Module { return module{} },
}

type module struct{}

func (module) Load(api *session.API) error {
	if storage.DB(api) == nil {
		return errors.New("the process has no store")
	}
	return nil
}
