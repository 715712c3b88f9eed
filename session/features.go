package session

// A Feature is a capability that the kernel or a loaded module has. Modules name features in their
// manifests: a module that requires one loads after whoever provides it.
type Feature string

// Core is what this kernel has, for Manifest.Requires and Conflicts to name. When a module moves
// into the kernel its name is added here, and an outside module that conflicts with it steps aside.
var Core = []Feature{
	"iq",              // routing of iq by payload, Hooks.OnIQ
	"message",         // routing of message, Hooks.Message
	"presence",        // routing of presence, Hooks.Presence
	"stream-features", // Hooks.Features
	"outgoing",        // Hooks.Outgoing
	"resident",        // Resident, ResidentOf: parts of an entity kept in memory
	"commit",          // Stanza.Commit
	"resting",         // sessions that outlive their stream: Hooks.Rest, Account.Attach
	"fanout",          // Local.Fanout
	"kinds",           // Hooks.Serve, Hooks.Make: entities other than accounts
}
