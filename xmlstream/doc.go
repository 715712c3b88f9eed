// Package xmlstream reads and writes the XML of an XMPP stream (RFC 6120 §11) one buffer at a time, without blocking and,
// once warm, without allocating.
package xmlstream
