package main

import (
	"encoding/json"
	"fmt"
	"time"

	"canto/session/mod/sm"
	"canto/session/store"
)

// sessionCmd is `canto session`.
type sessionCmd struct {
	List sessionList `cmd:"" help:"List sessions, in the order in which they expire."`
}

// sessionList is `canto session list`.
type sessionList struct {
	Resting bool `required:"" help:"Those without a connection, which their clients may resume."`
	JSON    bool `name:"json" help:"Print one JSON object a line."`
}

// Run prints a line for each session without a connection: its full JID, when it expires, how many elements
// wait for it, and the bytes that the store has of it. A resource is quoted, as a client has chosen it.
func (c *sessionList) Run(r *run) error {
	return r.withStore(false, func(db *store.DB) error {
		s := db.Snapshot()
		defer s.Close()
		enc := json.NewEncoder(r.out)
		var failed error
		err := sm.List(db, s, time.Now(), func(x sm.Resting) bool {
			if c.JSON {
				failed = enc.Encode(x)
			} else {
				_, failed = fmt.Fprintf(r.out, "%q\tuntil %s\t%d queued\t%d bytes\n", x.JID,
					x.Expires.Format(time.RFC3339), x.Queued, x.Bytes)
			}
			return failed == nil && r.ctx.Err() == nil
		})
		if err != nil {
			return err
		}
		return failed
	})
}
