// Package interop lets clients from elsewhere use a Canto that was just built, over real sockets, in TLS
// 1.3 and in TLS 1.2, with STARTTLS and with TLS first. Nothing is set in a client but address, password
// and the run's CA: how it logs in is its own choice. The tests need Debian's python3-slixmpp,
// python3-aioxmpp, profanity, mcabber, go-sendxmpp and tmux, npm's @xmpp/client, and the Go modules of
// testdata/goclients, and so the build tag interop; .ci/run installs them.
package interop
