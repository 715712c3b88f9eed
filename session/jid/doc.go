// Package jid has the addresses of XMPP (RFC 7622): parsing, preparation into one canonical form, and the
// partition by which entities are placed.
//
//	j, err := jid.Parse("Juliet@Example.COM/Balcony")
//	j.String()          // "juliet@example.com/Balcony"
//	j.Bare() == other   // JIDs are compared with ==
//
// A [JID] that exists is prepared: there is no way to make one from an unprepared string, and preparing its
// text again gives the same JID. So a JID may be a map key, a store key, and the subject of a right.
//
// # Canonical form
//
// The localpart is prepared by the UsernameCaseMapped profile of PRECIS (RFC 8265 §3.3) and may hold none of
// the characters that RFC 7622 §3.3.1 excludes; the resourcepart by OpaqueString (RFC 8265 §4.2). Case is
// mapped, not folded, as RFC 7622 §3.5 wants: sharp s stays (stringprep made it "ss"), and final sigma is not
// sigma. What stringprep would have folded through compatibility (long s, ligatures, unit signs) is refused,
// except for the widths, which are mapped.
//
// The domainpart is a canonical IPv4 or IPv6 literal (RFC 7622 §3.2), or a name of NR-LDH labels and U-labels
// (RFC 5890): lower case, width and NFC mapped, the ideographic full stops read as dots, one trailing dot
// dropped. An A-label ("xn--…") becomes its U-label, and only if encoding that gives the same A-label again
// (RFC 5891 §5.4).
//
// Preparation depends on the Unicode tables of the build: see [UnicodeVersion].
//
// # Goroutines
//
// Any goroutine may call everything, but for the methods of [Cache].
package jid
