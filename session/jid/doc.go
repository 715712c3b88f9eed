// Package jid has the addresses of XMPP (RFC 7622): parsing, preparation into one canonical form,
// and the partition by which entities are placed.
//
//	j, err := jid.Parse("Juliet@Example.COM/Balcony")
//	j.String()          // "juliet@example.com/Balcony"
//	j.Bare() == other   // JIDs are compared with ==
//
// A [JID] is prepared: every function but [FromPrepared], which is for text from the store,
// prepares its input. Preparing the text of a JID again gives the same JID. So a JID may be a map
// key, a store key, and the subject of a right.
//
// # Canonical form
//
// The localpart is prepared by the UsernameCaseMapped profile of PRECIS (RFC 8265 section 3.3), and
// has none of the characters that RFC 7622 section 3.3.1 excludes. The resourcepart is prepared by
// OpaqueString (RFC 8265 section 4.2). Case is mapped, not folded (RFC 7622 section 3.5): sharp s
// stays, where stringprep made it "ss", and final sigma is not sigma. Compatibility characters that
// stringprep would have folded (long s, ligatures, unit signs) are refused, but for width variants,
// which are mapped.
//
// The domainpart is a canonical IPv4 or IPv6 literal (RFC 7622 section 3.2), or a name of NR-LDH
// labels and U-labels (RFC 5890): lower case, width and NFC mapped, ideographic full stops read as
// dots, one trailing dot dropped. An A-label ("xn--…") becomes its U-label, if encoding the U-label
// gives the same A-label again (RFC 5891 section 5.4).
//
// Preparation depends on the Unicode tables of the build: see [UnicodeVersion].
//
// # Goroutines
//
// Any goroutine may call everything, but for the methods of [Cache].
package jid
