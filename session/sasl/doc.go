// Package sasl has both ends of SASL (RFC 4422) as XMPP uses it: SCRAM with SHA-1, SHA-256 and SHA-512
// (RFC 5802, RFC 7677) with and without channel binding (RFC 9266, RFC 5929), and PLAIN (RFC 4616).
//
// It has no network, no goroutine and no store. A server's [Exchange] takes the text of <auth/> and
// <response/> and returns a [Step]: send this, look this user up, have a worker derive this key, done, or
// failed. So a loop runs it without ever waiting:
//
//	x := sasl.NewExchange(cfg)                  // <auth mechanism='SCRAM-SHA-256'>biwsbj1...</auth>
//	step := x.Start("SCRAM-SHA-256", text)      // Step{Kind: NeedUser, User: "juliet"}
//	step = x.Found(account)                     // Step{Kind: Challenge, Data: "cj1..."}
//	step = x.Next(text)                         // Step{Kind: Done, User: "juliet", Data: "dj0..."}
//
// An unknown user gets the same steps, with a salt that stays the same for the name, and costs the same work.
// The account logged in is the name that the verifier proved; an authorization identity may only repeat it.
//
// A [Secret] is compared in constant time and never prints.
//
// Nothing here is safe for two goroutines at once but values that nobody changes: [Config], [Keys],
// [MechanismSet].
package sasl
