// Package wallclock gives modules the time of day: for ids and stamps, never for deadlines.
package wallclock

import (
	"time"

	"canto/session"
)

// A Clock is the wall clock; the process gives it to all modules.
type Clock func() time.Time

// Of is the process's clock.
func Of(api *session.API) Clock {
	c, ok := session.Lookup[Clock](api)
	if !ok {
		panic("wallclock: the process gave no clock")
	}
	return c
}

// Timestamp is t as XEP-0082 writes it, in UTC.
func Timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }
