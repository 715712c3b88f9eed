// Package sasl has both sides of SASL (RFC 4422) as XMPP uses it: SCRAM with SHA-1, SHA-256 and
// SHA-512 (RFC 5802, RFC 7677), with and without channel binding (RFC 9266, RFC 5929), and PLAIN
// (RFC 4616).
//
// It has no network, no goroutine and no store. An [Exchange] is the server's side of one login. It
// takes the text of <auth/> and <response/> and returns a [Step], which says what the caller does
// next: send a challenge, look up a user, let a worker derive a key, or end. So an event loop can
// run it without ever waiting:
//
//	x := sasl.NewExchange(cfg)                  // <auth mechanism='SCRAM-SHA-256'>biwsbj1...</auth>
//	step := x.Start("SCRAM-SHA-256", text)      // Step{Kind: NeedUser, User: "juliet"}
//	step = x.UserFound(credentials)             // Step{Kind: Challenge, Data: "cj1..."}
//	step = x.Next(text)                         // Step{Kind: Done, User: "juliet", Data: "dj0..."}
//
// A [Client] is the other side. [Keys] are what the store keeps of a password, and [DeriveKeys]
// makes them.
//
// # What an attacker learns
//
// An unknown user gets the same steps as a known one, with a salt that is always the same for the
// name, and costs the same work. The user who is logged in is the one whose password was proved; an
// authorization identity may only repeat it. A [Secret] is compared in constant time and is never
// printed.
//
// # Goroutines
//
// One goroutine at a time may use a value, but for values that are not changed any more: [Config],
// [Keys], [MechanismSet].
package sasl
