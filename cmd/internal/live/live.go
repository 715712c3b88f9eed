// Package live holds tests of the whole server as a process, over real sockets: logins bound to
// their TLS channel, and attacks beside a pair that chats.
package live
