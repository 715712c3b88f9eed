// Package interop tests that clients of other projects can use a Canto that was just built: over
// real sockets, with TLS 1.3 and TLS 1.2, with STARTTLS and with direct TLS. A client gets address,
// password and the run's CA; everything else, as how it logs in, is its own choice. The tests need
// Debian's python3-slixmpp, python3-aioxmpp, profanity, mcabber, go-sendxmpp and tmux, npm's
// @xmpp/client, and the Go modules of testdata/goclients. So they have the build tag interop;
// .ci/run installs the clients.
package interop
