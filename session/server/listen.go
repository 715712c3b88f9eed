package server

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"

	"canto/reactor"
)

// Ports are the addresses on which clients reach the server, as host:port.
type Ports struct {
	C2S    []string // XMPP with STARTTLS (RFC 6120 section 5)
	C2STLS []string // XMPP with direct TLS (XEP-0368)
	HTTP   []string // http
	HTTPS  []string // https
	// TLS returns the configuration of a port with direct TLS for the protocols with these ALPN names. Nil:
	// there is no certificate, and C2STLS and HTTPS are not opened.
	TLS func(alpn ...string) *tls.Config
}

// The ALPN names (XEP-0368 section 3; RFC 7301 section 6).
const (
	alpnXMPP = "xmpp-client"
	alpnHTTP = "http/1.1"
)

// Listeners returns what a reactor has to listen on. An address in both C2S and C2STLS, or in both
// C2STLS and HTTPS, is one port with both protocols:
//
//  1. Addresses of C2S, but for those that C2STLS has, too.
//  2. Addresses of HTTP.
//  3. Addresses of C2STLS; plain streams are allowed if C2S has the address, and http/1.1 is
//     offered by ALPN if HTTPS has it.
//  4. Addresses of HTTPS that C2STLS does not have.
func (s *Server) Listeners(p Ports) (list []reactor.Listener) {
	shared := func(addrs []string, a string) bool {
		return !strings.HasSuffix(a, ":0") && slices.Contains(addrs, a) // port 0 is another port each time
	}
	d := s.C2S
	for _, a := range p.C2S {
		if p.TLS == nil || !shared(p.C2STLS, a) {
			list = append(list, reactor.Listener{Addr: a, Name: "c2s", Handler: d, Accept: d.Accept,
				Refusal: d.Refusal, Aborted: d.ReleaseAddress})
		}
	}
	for _, a := range p.HTTP {
		list = append(list, reactor.Listener{Addr: a, Name: "http", Handler: s.HTTP, Accept: d.AcceptHTTP,
			Aborted: d.ReleaseAddress})
	}
	if p.TLS == nil {
		return list
	}
	for _, a := range p.C2STLS {
		ln := reactor.Listener{Addr: a, Name: "c2s", Handler: d, Accept: d.Accept, Refusal: d.Refusal,
			Aborted: d.ReleaseAddress, AllowPlain: shared(p.C2S, a)}
		if shared(p.HTTPS, a) {
			ln.DirectTLS = p.TLS(alpnXMPP, alpnHTTP)
			ln.Protocols = []reactor.Protocol{{ALPN: alpnHTTP, Handler: s.HTTP}}
		} else {
			ln.DirectTLS = p.TLS(alpnXMPP)
		}
		list = append(list, ln)
	}
	for _, a := range p.HTTPS {
		if !shared(p.C2STLS, a) {
			list = append(list, reactor.Listener{Addr: a, Name: "https", Handler: s.HTTP, Accept: d.AcceptHTTP,
				Aborted: d.ReleaseAddress, DirectTLS: p.TLS(alpnHTTP)})
		}
	}
	return list
}

// tlsServerEndPoint returns the tls-server-end-point of a certificate (RFC 5929 section 4.1): the
// hash of the certificate, with the hash function of its signature but SHA-256 for older ones. It
// is nil where the RFC defines none.
func tlsServerEndPoint(c *tls.Certificate) []byte {
	if c.Leaf == nil {
		return nil
	}
	switch c.Leaf.SignatureAlgorithm {
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		sum := sha512.Sum384(c.Certificate[0])
		return sum[:]
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		sum := sha512.Sum512(c.Certificate[0])
		return sum[:]
	case x509.PureEd25519:
		return nil // the signature names no hash: RFC 5929 leaves it undefined
	}
	sum := sha256.Sum256(c.Certificate[0])
	return sum[:]
}
