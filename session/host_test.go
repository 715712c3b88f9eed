package session

import (
	"crypto/tls"
	"testing"
)

// If a certificate is invalidated while the one before is still being read, the next handshake
// reads it again.
func TestCertificateDroppedWhileRead(t *testing.T) {
	first, second := new(tls.Certificate), new(tls.Certificate)
	first.Certificate = [][]byte{{1}}
	var h *Host
	reads := 0
	h, err := NewHost("example.org", nil, func() (*tls.Certificate, error) {
		if reads++; reads == 1 {
			h.InvalidateCertificate() // it was renewed after its files had been read
			return first, nil
		}
		return second, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := h.Certificate(); err != nil {
			t.Fatal(err)
		}
	}
	if c, _ := h.Certificate(); c != second || reads != 2 {
		t.Errorf("after %d reads it is the renewed one: %v", reads, c == second)
	}
}
