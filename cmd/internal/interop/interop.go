// Package interop lets clients that nobody here wrote use a Canto that was just built, over real
// sockets. Its tests need Debian's python3-slixmpp, python3-aioxmpp, profanity and tmux, and npm's
// @xmpp/client, and so the build tag interop; .ci/run installs them.
package interop
