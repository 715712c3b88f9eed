package session

import (
	"crypto/tls"
	"sync/atomic"

	"canto/session/jid"
)

// A Host is one served domain: at most 256 bytes, so that ten thousand idle ones are nothing. Its
// fields never change but through the pointers.
type Host struct {
	Name string
	ID   uint32  // order of appearance in this process
	JID  jid.JID // of the domain

	service  bool // users do not log in: its bare domain is an entity, and what is at it is made by stanzas
	profile  atomic.Pointer[Profile]
	cert     atomic.Pointer[hostCertificate]                  // nil, or without a certificate: it is to be read
	loadCert atomic.Pointer[func() (*tls.Certificate, error)] // nil: the default certificate
	slots    atomic.Pointer[[]any]
	conns    atomic.Int32
}

// NewHost makes a host that runs p. The name is prepared (RFC 7622 §3.2) and must be a domain.
// cert reads the host's certificate, on first use and after [Host.DropCertificate]; nil: it has none.
// Any goroutine.
func NewHost(name string, p *Profile, cert func() (*tls.Certificate, error)) (*Host, error) {
	j, err := jid.Parse(name)
	if err != nil {
		return nil, err
	}
	if l, _, r := j.Parts(); l != "" || r != "" {
		return nil, jid.ErrMalformed
	}
	h := &Host{Name: j.String(), JID: j}
	if cert != nil {
		h.loadCert.Store(&cert)
	}
	h.profile.Store(p)
	return h, nil
}

// NewService makes a host without logins, with the profile p: its bare domain is an entity, like every address
// at it, of the kinds that p serves. Any goroutine.
func NewService(name string, p *Profile) (*Host, error) {
	h, err := NewHost(name, p, nil)
	if err == nil {
		h.service = true
	}
	return h, err
}

// Service reports whether h was made by NewService. Any goroutine.
func (h *Host) Service() bool { return h.service }

// renew gives h, which was removed, what a new Host of the same domain has.
func (h *Host) renew(n *Host) {
	h.loadCert.Store(n.loadCert.Load())
	h.DropCertificate()
	h.profile.Store(n.profile.Load())
}

// Profile is what h runs now; a chain asks once and stays with the answer. Any goroutine.
func (h *Host) Profile() *Profile { return h.profile.Load() }

// Swap has h run p from now on and returns what it ran before. Nothing of a session is lost: flags,
// slots, parts and atoms belong to the process. Any goroutine.
func (h *Host) Swap(p *Profile) (old *Profile) { return h.profile.Swap(p) }

// Certificate is the host's, parsed on first use; nil without an error if it has none of its own.
// It may read a file: never on a loop. Any goroutine.
func (h *Host) Certificate() (*tls.Certificate, error) {
	before := h.cert.Load()
	if before != nil && before.cert != nil {
		return before.cert, nil
	}
	load := h.loadCert.Load()
	if load == nil {
		return nil, nil
	}
	c, err := (*load)()
	if err != nil {
		return nil, err
	}
	// If it was dropped meanwhile, what was read may be the one before: the next handshake reads again.
	h.cert.CompareAndSwap(before, &hostCertificate{c})
	return c, nil
}

// DropCertificate has the next handshake read the certificate again. Any goroutine.
func (h *Host) DropCertificate() { h.cert.Store(new(hostCertificate)) }

// A hostCertificate is a state of a host's certificate: each drop makes another one.
type hostCertificate struct{ cert *tls.Certificate }

// Connections counts the streams that named h in their header. Any goroutine.
func (h *Host) Connections() int { return int(h.conns.Load()) }

// About is what the program says of itself to who asks (XEP-0092).
type About struct{ Name, Version string }
