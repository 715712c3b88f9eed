package session

import (
	"fmt"
	"slices"
)

// core is what this kernel has where users log in, for Manifest.Requires and Conflicts to name. When a
// module moves into the kernel its name is added here, and an outside module that conflicts with it steps
// aside.
var core = []Feature{
	"iq",              // routing of iq by payload, Hooks.OnIQ
	"message",         // routing of message, Hooks.Message
	"presence",        // routing of presence, Hooks.Presence
	"stream-features", // Hooks.Features
	"outgoing",        // Hooks.Outgoing
	"resident",        // Resident, ResidentOf: parts of an entity kept in memory
	"commit",          // Stanza.Commit
	"resting",         // sessions that outlive their stream: Hooks.Hibernate, Account.Attach
	"fanout",          // Local.Fanout
	"kinds",           // Hooks.Serve, Hooks.Make: entities other than accounts
	"accounts",        // users log in at the host: it has accounts, their sessions, and streams
}

// loginOnly are those of core that a service host does not have.
var loginOnly = []Feature{"stream-features", "outgoing", "resting", "accounts"}

// CoreOf is what this kernel has at a host, for Manifest.Requires and Conflicts to name: less at a
// service host (see [NewService]), where users do not log in. Any goroutine.
func CoreOf(service bool) []Feature {
	list := slices.Clone(core)
	if service {
		list = slices.DeleteFunc(list, func(f Feature) bool { return slices.Contains(loginOnly, f) })
	}
	return list
}

// Decode reads the module's own options, strictly, over the defaults in v, and asks them whether they
// make sense: see [OptionChecker].
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

// Advertise adds entries to the service discovery (XEP-0030) of the profile's hosts.
func (a *API) Advertise(ns ...string) { a.profile.advertise(&a.profile.HostFeatures, ns) }

// AdvertiseAccount adds entries to the service discovery of the profile's accounts.
func (a *API) AdvertiseAccount(ns ...string) { a.profile.advertise(&a.profile.AccountFeatures, ns) }

// An OptionChecker is options of a module that can be wrong though they decode. Check returns the key of
// the first that is, and why, with what may stand there; two empty strings if all is well.
type OptionChecker interface{ Check() (key, why string) }

// An OptionError is an option of a module that can't be meant.
type OptionError struct{ Module, Key, Why string }

func (e *OptionError) Error() string { return e.Key + ": " + e.Why }

// CheckRanges is what Check of a module's options returns for numbers that have a least and a most: the key
// of the first that is out of its range, and why.
func CheckRanges(ranges ...OptionRange) (key, why string) {
	for _, r := range ranges {
		if r.Value < r.Min || r.Value > r.Max {
			return r.Key, fmt.Sprintf("%d: write %d to %d%s", r.Value, r.Min, r.Max, r.Note)
		}
	}
	return "", ""
}

// An OptionRange is one number of a module's options. Note, if there is one, is a remedy that follows the
// range.
type OptionRange struct {
	Key             string
	Value, Min, Max int
	Note            string
}
