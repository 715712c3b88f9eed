// Package live has tests of the whole server as a process, over real sockets: logins that are bound
// to their TLS channel, and attacks while two clients chat.
package live
