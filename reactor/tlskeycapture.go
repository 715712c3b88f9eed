package reactor

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"io"
	"slices"
	"sync"
)

// maxCapturedFlight bounds what is kept of the records that end a handshake; with more, crypto/tls stays.
const maxCapturedFlight = 64 << 10

// A takeover is what is noted during a handshake by crypto/tls, so that its connection can be detached
// after it. For the handshake's goroutine alone.
type keyCapture struct {
	client, server       [48]byte // application traffic secrets, as many bytes as are in nc and ns
	clientLen, serverLen int
	flight               []byte // the records that were written since both are known
	overflowed           bool   // sent has got too long
}

// recordWritten notes records.
func (k *keyCapture) recordWritten(p []byte) {
	switch {
	case k == nil || k.clientLen == 0 || k.serverLen == 0 || k.overflowed:
	case len(k.flight)+len(p) > maxCapturedFlight:
		k.overflowed, k.flight = true, nil
	default:
		k.flight = append(k.flight, p...)
	}
}

// Write takes a line of the NSS key log: a label, the client's random, a secret (attack K42). The line is
// wiped: crypto/tls has made it for us alone.
func (k *keyCapture) Write(line []byte) (int, error) {
	defer clear(line)
	var dst *[48]byte
	var n *int
	switch {
	case bytes.HasPrefix(line, []byte("CLIENT_TRAFFIC_SECRET_0 ")):
		dst, n = &k.client, &k.clientLen
	case bytes.HasPrefix(line, []byte("SERVER_TRAFFIC_SECRET_0 ")):
		dst, n = &k.server, &k.serverLen
	default:
		return len(line), nil
	}
	h := bytes.TrimRight(line[bytes.LastIndexByte(line, ' ')+1:], "\n")
	if hex.DecodedLen(len(h)) <= len(dst) {
		*n, _ = hex.Decode(dst[:], h)
	}
	return len(line), nil
}

func (k *keyCapture) wipe() {
	clear(k.client[:])
	clear(k.server[:])
	k.clientLen, k.serverLen, k.flight = 0, 0, nil
}

// keyLogWriter is k, behind the key log that a configuration has already.
func (k *keyCapture) keyLogWriter(also io.Writer) io.Writer {
	if also == nil {
		return k
	}
	return teeKeyLog{also, k}
}

type teeKeyLog struct {
	first io.Writer
	k     *keyCapture
}

func (w teeKeyLog) Write(line []byte) (int, error) {
	if _, err := w.first.Write(line); err != nil {
		return 0, err
	}
	return w.k.Write(line)
}

// detach makes the record layer that follows a handshake; nil: crypto/tls stays. On the handshake's
// goroutine, when it has no more to do.
func (s *stdTLS) detach(st *tls.ConnectionState, client bool) (y *tls13Layer) {
	k := s.mem.capture
	if k == nil {
		return nil
	}
	s.mem.mu.Lock()
	s.mem.capture = nil
	left := s.mem.recordLeft
	s.mem.mu.Unlock()
	defer k.wipe()
	if st.Version != tls.VersionTLS13 || left != 0 || k.overflowed {
		return nil
	}
	theirs, ours := k.client[:k.clientLen], k.server[:k.serverLen]
	if client {
		theirs, ours = ours, theirs
	}
	y, _ = newTLS13Layer(client, st.CipherSuite, theirs, ours, k.flight)
	return y
}

// clientConfig is the configuration of a client's handshake. Who has a cache of sessions keeps
// crypto/tls, which alone can put tickets there.
func (s *stdTLS) clientConfig(cfg *tls.Config, stays bool) *tls.Config {
	if stays || cfg.ClientSessionCache != nil && !cfg.SessionTicketsDisabled {
		return cfg
	}
	s.mem.capture = new(keyCapture)
	cfg = cfg.Clone()
	cfg.KeyLogWriter = s.mem.capture.keyLogWriter(cfg.KeyLogWriter)
	return cfg
}

// captureConfigs are the configurations of servers' handshakes, by those that StartTLS was given. One
// serves all handshakes, as the keys that seal its tickets are its own; but when a ClientHello has come,
// that connection gets a clone with its own key log.
type captureConfigs struct {
	mu       sync.Mutex
	byConfig map[*tls.Config]*tls.Config
}

// maxConfigs bounds how many are kept; when they are forgotten, so are their tickets' keys.
const maxConfigs = 1024

func (d *captureConfigs) serverConfig(s *stdTLS, cfg *tls.Config, stays bool) *tls.Config {
	if stays {
		return cfg
	}
	s.mem.capture = new(keyCapture)
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.byConfig[cfg]; c != nil {
		return c
	}
	c := cfg.Clone()
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		use := cfg
		if cfg.GetConfigForClient != nil {
			if other, err := cfg.GetConfigForClient(hello); err != nil {
				return nil, err
			} else if other != nil {
				use = other
			}
		}
		m, ok := hello.Conn.(*memConn)
		if !ok || m.capture == nil || !slices.Contains(hello.SupportedVersions, tls.VersionTLS13) {
			return use, nil
		}
		use = use.Clone()
		use.KeyLogWriter = m.capture.keyLogWriter(use.KeyLogWriter)
		return use, nil
	}
	if d.byConfig == nil || len(d.byConfig) >= maxConfigs {
		d.byConfig = make(map[*tls.Config]*tls.Config)
	}
	d.byConfig[cfg] = c
	return c
}
