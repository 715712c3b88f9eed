package bench

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"canto/bench/result"
	"canto/reactor"
	"canto/session/sasl"
)

// A Failure is an error with its remedy: the reason why a run, or one client, could not go on. Both
// texts are for the operator.
type Failure struct {
	What, Remedy string // what happened, and what to do about it ("" is unknown)
}

// Error is what happened and the remedy, in one line.
func (r Failure) Error() string {
	if r.Remedy == "" {
		return r.What
	}
	return r.What + ": " + r.Remedy
}

// ErrNotOffered is the error of [Run] if the server does not offer what the scenario requires.
type ErrNotOffered struct {
	Feature string // one of Scenario.Requires
}

// Error names the feature.
func (e ErrNotOffered) Error() string {
	return fmt.Sprintf("the server does not offer what the scenario requires: %s", e.Feature)
}

// failureOf explains err to the operator.
func failureOf(err error, t *Target) Failure {
	var (
		r    Failure
		cert *tls.CertificateVerificationError
		unk  x509.UnknownAuthorityError
		ne   net.Error
	)
	switch {
	case errors.As(err, &r):
		return r
	case errors.Is(err, syscall.ECONNREFUSED):
		return Failure{"connection refused", "is the server running, and is this its address?"}
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return Failure{"the bench has no descriptors left", "raise ulimit -n, or use more processes: --workers"}
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EADDRINUSE):
		return Failure{"no port is free at the source address", "give more source addresses: --source"}
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Failure{"the server reset the connection", "look at its log and its limits of connections"}
	case errors.As(err, &cert), errors.As(err, &unk):
		return Failure{"the server's certificate is not one for " + t.Domain,
			"name its CA with --ca, or take any with --insecure"}
	case errors.Is(err, sasl.ErrServer):
		return Failure{"the server could not prove that it knows the password",
			"is something between the bench and the server?"}
	case errors.Is(err, reactor.ErrHandshakeTimeout):
		return Failure{"a TLS handshake took over 10 s",
			"the server, or the bench, has too little CPU: log in slower"}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Failure{"the server closed the connection", "look at its log and its limits"}
	case errors.As(err, &ne) && ne.Timeout():
		return Failure{"connecting took too long", "the server's backlog is full, or packets are lost: log " +
			"in slower"}
	}
	return Failure{err.Error(), "look at the server's log"}
}

// saslRemedy is the remedy of a SASL failure (RFC 6120 section 6.5).
func saslRemedy(condition string) string {
	switch condition {
	case "not-authorized":
		return "the password is wrong, or the accounts do not exist: --password, --user, or make them with " +
			"canto-bench accounts"
	case "invalid-mechanism":
		return "choose another with --mechanism"
	case "encryption-required":
		return "--tls starttls"
	case "temporary-auth-failure":
		return "the server is overloaded, or can't reach its accounts: log in slower"
	case "account-disabled":
		return "the accounts are banned"
	}
	return "look at the server's log"
}

// counted is r with a count, as results have it.
func (r Failure) counted(n uint64) result.Failure {
	return result.Failure{What: r.What, Remedy: r.Remedy, Count: n}
}
