// Package clock gives modules the time of day: for ids and stamps, never for deadlines.
package clock

import (
	"time"

	"canto/session"
)

// A Clock is the wall clock; the process gives it to all modules.
type Clock func() time.Time

// Of is the process's clock.
func Of(api *session.API) Clock {
	c, ok := session.Find[Clock](api)
	if !ok {
		panic("clock: the process gave no clock")
	}
	return c
}

// Stamp is t as XEP-0082 writes it, in UTC.
func Stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }
