// Package wallclock gives modules the time of day, for ids and time stamps. It may jump, so deadlines use
// the loop's ticks instead: see [session.LoopRouter.After].
package wallclock

import (
	"time"

	"canto/session"
)

// A Clock returns the time of day. The process gives it to modules as a [session.Dependency]; any
// goroutine may call it.
type Clock func() time.Time

// Of returns the process's clock. It panics if the process has given none. In Load only.
func Of(api *session.API) Clock {
	c, ok := session.Lookup[Clock](api)
	if !ok {
		panic("wallclock: the process gave no clock")
	}
	return c
}

// Timestamp returns t in UTC, in the form of XEP-0082.
func Timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }
