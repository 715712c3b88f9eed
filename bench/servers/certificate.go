package servers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// certificate makes a certificate for the server. Every server gets the same kind, ECDSA on P-256,
// so that handshakes cost the same. No two have the same, so that it shows which server answers.
func (p *launch) certificate() error {
	dir := p.file("certs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	crt, key, err := selfSigned(p.Domain, time.Now())
	if err != nil {
		return fmt.Errorf("its certificate: %w", err)
	}
	p.certificateFiles.cert, p.certificateFiles.key = p.file("certs", p.Domain+".crt"),
		p.file("certs", p.Domain+".key")
	if err := os.WriteFile(p.certificateFiles.key, key, 0o600); err != nil {
		return err
	}
	p.server.CA = crt
	return os.WriteFile(p.certificateFiles.cert, crt, 0o600)
}

// selfSigned makes a self-signed certificate for domain and its chat rooms, in PEM.
func selfSigned(domain string, now time.Time) (crt, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: domain},
		DNSNames:     []string{domain, roomsOf(domain)},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    now.Add(-24 * time.Hour),
		NotAfter:     now.Add(365 * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k)
	if err != nil {
		return nil, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), nil
}

// roomsOf is the domain of a server's chat rooms.
func roomsOf(domain string) string { return "conference." + domain }
