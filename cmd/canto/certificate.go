package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"sync"
	"time"

	"canto/session"
	"canto/session/jid"
)

// certificates has the certificates of the hosts for TLS handshakes. The kernel keeps the
// certificate of each host; certificates loads them, and notices when their files change. Any
// goroutine.
type certificates struct {
	program *program
	mu      sync.Mutex             // guards the fields below
	byHost  map[string]*tls.Config // for STARTTLS, by the name of the host
	stamps  map[string]filePair    // the files from which the certificate of each host was last read
}

// A filePair is the state of the files of a certificate and its key.
type filePair struct{ cert, key fileStamp }

// loader returns a function that reads the certificate of a host. The kernel calls it when the
// certificate is first needed, and after it was invalidated.
func (cs *certificates) loader(name string) func() (*tls.Certificate, error) {
	return func() (*tls.Certificate, error) {
		h, ok := cs.program.config().Host[name]
		if !ok || h.Certificate == "" {
			return nil, nil
		}
		// taken before the files are read, so that a change in between is noticed later
		now := filePair{stampOf(h.Certificate), stampOf(h.Key)}
		c, err := readCertificate(h.Certificate, h.Key)
		if err == nil {
			cs.mu.Lock()
			if cs.stamps == nil {
				cs.stamps = make(map[string]filePair)
			}
			cs.stamps[name] = now
			cs.mu.Unlock()
		}
		return c, err
	}
}

// changed reports whether the files of a host's certificate differ from those that were read.
func (cs *certificates) changed(name string) bool {
	now := filePair{}
	if h, ok := cs.program.config().Host[name]; ok && h.Certificate != "" {
		now = filePair{stampOf(h.Certificate), stampOf(h.Key)}
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.stamps[name] != now
}

// readCertificate reads and parses a certificate and its key. A key that other users may read is refused.
func readCertificate(cert, key string) (*tls.Certificate, error) {
	if fi, err := os.Stat(key); err == nil && fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s: others may read the key: chmod 600 %s", key, key)
	}
	c, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: check certificate and key of the host", cert, err)
	}
	if c.Leaf == nil {
		if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &c, nil
}

// checkCertificates reads every certificate of c, so that a start or a reload with a broken one
// changes nothing.
func (c *config) checkCertificates() error {
	for _, name := range c.hostNames() {
		if h := c.Host[name]; h.Certificate != "" {
			if _, err := readCertificate(h.Certificate, h.Key); err != nil {
				return c.errorAt(err.Error(), "host", name, "certificate")
			}
		}
	}
	return nil
}

// certCheckInterval is the time between two checks of the files of certificates.
const certCheckInterval = 10 * time.Second

// watch is a goroutine. It invalidates a host's certificate when its files have changed and then
// stayed the same for one more check, as a renewal writes certificate and key one after the other.
// A pair that can't be used is logged once, and the certificate in memory stays.
func (cs *certificates) watch(ctx context.Context, every time.Duration) {
	type state struct{ used, seen filePair }
	known := make(map[string]state)
	look := func() {
		c := cs.program.config()
		for _, name := range c.hostNames() {
			h := c.Host[name]
			if h.Certificate == "" {
				continue
			}
			now := filePair{stampOf(h.Certificate), stampOf(h.Key)}
			st, ok := known[name]
			switch {
			case !ok || st.used == now:
				st.used = now
			case st.seen == now:
				st.used = now
				if _, err := readCertificate(h.Certificate, h.Key); err != nil {
					cs.program.log.Error("a certificate has changed and can't be used; the one before stays", "host", name,
						"err", err)
				} else if host, ok := cs.program.Router.Table.Host(name); ok {
					host.InvalidateCertificate()
					cs.program.log.Info("a certificate has changed", "host", name)
				}
			}
			st.seen = now
			known[name] = st
		}
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for look(); ; look() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// A fileStamp tells one state of a file from another.
type fileStamp struct {
	path    string
	modTime int64 // Unix nanoseconds; 0: there is no file
	size    int64 // bytes
}

// stampOf returns the present state of a file.
func stampOf(path string) fileStamp {
	fi, err := os.Stat(path)
	if err != nil {
		return fileStamp{path: path}
	}
	return fileStamp{path, fi.ModTime().UnixNano(), fi.Size()}
}

// errNoCertificate: no host has a certificate.
var errNoCertificate = errors.New("no certificate")

// get returns the certificate for a server_name, in any spelling: clients send A-labels, in any
// case (RFC 6066 section 3). If no host of that name has a certificate, it is that of another host.
func (cs *certificates) get(name string) (*tls.Certificate, error) {
	if domain, err := jid.PrepareDomain(name); err == nil {
		if h, ok := cs.program.Router.Table.Host(domain); ok {
			if c, err := h.Certificate(); err != nil || c != nil {
				return c, err
			}
		}
	}
	for _, n := range cs.program.config().hostNames() {
		if h, ok := cs.program.Router.Table.Host(n); ok {
			if c, err := h.Certificate(); c != nil {
				return c, err
			}
		}
	}
	return nil, errNoCertificate
}

// present is get, and tells the connection which certificate it was. A login may be bound to it
// (tls-server-end-point) long after the certificate was renewed.
func (cs *certificates) present(hello *tls.ClientHelloInfo, name string) (*tls.Certificate, error) {
	c, err := cs.get(name)
	if p, ok := hello.Conn.(interface{ Present(*tls.Certificate) }); ok && c != nil {
		p.Present(c)
	}
	return c, err
}

// directTLSConfig returns the configuration of ports with direct TLS (XEP-0368) and of https. The
// server_name chooses the certificate.
func (cs *certificates) directTLSConfig(alpn ...string) *tls.Config {
	lowest, highest := cs.program.config().startConfig.C2S.tlsRange()
	return &tls.Config{
		MinVersion: lowest,
		MaxVersion: highest,
		NextProtos: alpn,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			c, err := cs.present(hello, hello.ServerName)
			if err != nil {
				cs.program.log.Error("no certificate for a handshake", "host", hello.ServerName, "err", err)
			}
			return c, err
		},
	}
}

// startTLSConfig returns the configuration for STARTTLS at h, which the stream header has named. It
// is made once for each host; when there are 1,024 of them, all are dropped.
func (cs *certificates) startTLSConfig(h *session.Host) *tls.Config {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if c := cs.byHost[h.Name]; c != nil {
		return c
	}
	c := cs.directTLSConfig("xmpp-client")
	c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return cs.present(hello, h.Name)
	}
	if cs.byHost == nil || len(cs.byHost) >= 1024 {
		cs.byHost = make(map[string]*tls.Config)
	}
	cs.byHost[h.Name] = c
	return c
}

// selfSigned makes a self-signed certificate for a domain, for tests and --dev. It generates a
// P-256 key and a random serial number; signs a certificate that is valid from an hour ago, for
// clocks that are slow, until a year from now; and writes key (mode 0600) and certificate as PEM.
// The errors are of the domain's name, the random source or the files.
func selfSigned(domain, certFile, keyFile string) error {
	name, err := jid.NetworkName(domain)
	if err != nil {
		return fmt.Errorf("no certificate can be made for %s: %w", domain, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().AddDate(1, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	if ip := net.ParseIP(name); ip != nil {
		t.IPAddresses = []net.IP{ip}
	} else {
		t.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}),
		0o600); err != nil {
		return err
	}
	return os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}
