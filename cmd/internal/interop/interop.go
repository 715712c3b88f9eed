// Package interop tests that clients of other projects can use a Canto that was just built: over
// real sockets, with TLS 1.3 and TLS 1.2, with STARTTLS and with direct TLS. A client gets address,
// password and the run's CA; everything else, as how it logs in, is its own choice.
//
// TestArchiveClients is about the archive, carbons, what waits, and push. Libraries run scripts of
// testdata; programs for people (profanity, Dino, Gajim) are away for a while, and then their own
// databases are read. Beside all of them two accounts with two devices each chat, and find each message
// once. CANTO_INTEROP_PEER=prosody runs this test against Debian's Prosody in the place of Canto: a script
// that fails there, too, is at fault itself.
//
// The tests need Debian's python3-slixmpp, python3-aioxmpp, python3-nbxmpp, profanity, mcabber,
// go-sendxmpp, tmux, dino-im and gajim with xvfb, dbus and iproute2, npm's @xmpp/client, and the Go
// modules of testdata/goclients. They need to be root for Dino and Gajim, which run in namespaces of
// their own. So they have the build tag interop; .ci/run installs the clients.
package interop
