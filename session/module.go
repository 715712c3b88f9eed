package session

import (
	"fmt"
	"slices"
)

// This file has what the kernel offers to modules by name, and how a module reads its options.

// core are the features of the kernel itself, at a host where users log in: manifests name them in
// Requires and Conflicts. When a module becomes part of the kernel its name is added here; a module from
// outside that conflicts with it is then skipped.
var core = []Feature{
	"iq",              // routing of iq by payload, Hooks.OnIQ
	"message",         // routing of message, Hooks.Message
	"presence",        // routing of presence, Hooks.Presence
	"stream-features", // Hooks.Features
	"outgoing",        // Hooks.Outgoing
	"resident",        // Resident, ResidentOf: parts of an entity kept in memory
	"commit",          // Stanza.Commit
	"resting",         // sessions that outlive their stream: Hooks.Hibernate, Account.Attach
	"fanout",          // LoopRouter.Fanout
	"kinds",           // Hooks.Serve, Hooks.Make: entities other than accounts
	"accounts",        // users log in at the host: it has accounts, their sessions, and streams
}

// loginOnly are the features of core that a service host does not have.
var loginOnly = []Feature{"stream-features", "outgoing", "resting", "accounts"}

// CoreOf returns the features of the kernel at a host, fewer at a service host (see [NewService]), where
// users do not log in. The slice is the caller's. Any goroutine.
func CoreOf(service bool) []Feature {
	list := slices.Clone(core)
	if service {
		list = slices.DeleteFunc(list, func(f Feature) bool { return slices.Contains(loginOnly, f) })
	}
	return list
}

// Decode reads the module's section of the configuration into v, a pointer to a struct that has the defaults.
// A key that v does not have is an error. If v is an [OptionChecker] its values are checked, and the error is
// an [*OptionError]. In Load only.
func (a *API) Decode(v any) error {
	if a.decode != nil {
		if err := a.decode(a.Module, v); err != nil {
			return err
		}
	}
	if c, ok := v.(OptionChecker); ok {
		if key, why := c.Check(); why != "" {
			return &OptionError{a.Module, key, why}
		}
	}
	return nil
}

// Advertise adds the features ns to the service discovery (XEP-0030) of the profile's hosts. In Load only.
func (a *API) Advertise(ns ...string) { a.profile.advertise(&a.profile.HostFeatures, ns) }

// AdvertiseAccount adds the features ns to the service discovery of the profile's accounts. In Load only.
func (a *API) AdvertiseAccount(ns ...string) { a.profile.advertise(&a.profile.AccountFeatures, ns) }

// An OptionChecker is a struct of options whose values can be wrong although they decode.
type OptionChecker interface {
	// Check returns the key of the first option with a wrong value, and why it is wrong, with the values that
	// are allowed. Two empty strings: all are right.
	Check() (key, why string)
}

// An OptionError says that an option of a module has a wrong value.
type OptionError struct {
	Module, Key string // where the option stands
	Why         string // what is wrong, and which values are allowed
}

// Error is the key and the reason; the caller adds file and line.
func (e *OptionError) Error() string { return e.Key + ": " + e.Why }

// CheckRanges checks numbers against their ranges. It returns the key of the first number that is out of its
// range, and the reason, as [OptionChecker] wants them.
func CheckRanges(ranges ...OptionRange) (key, why string) {
	for _, r := range ranges {
		if r.Value < r.Min || r.Value > r.Max {
			return r.Key, fmt.Sprintf("%d: write %d to %d%s", r.Value, r.Min, r.Max, r.Note)
		}
	}
	return "", ""
}

// An OptionRange is a number among a module's options, with its range.
type OptionRange struct {
	Key   string // in the module's section of the configuration
	Value int    // as configured
	Min   int    // the smallest value that is allowed
	Max   int    // the largest value that is allowed
	Note  string // a remedy that is printed after the range; may be empty
}
