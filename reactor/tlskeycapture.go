package reactor

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"io"
	"slices"
	"sync"
)

// This file takes the keys of a TLS 1.3 handshake out of crypto/tls, so that tls13Layer (tls13layer.go) can
// continue the connection. Where that is not possible, or not wanted (Config.StdTLS, FIPS 140), the
// connection stays on crypto/tls: stdTLS (tls.go) reads and writes it until its end. memConn (tls.go) is the
// net.Conn under crypto/tls; the keyCapture of a handshake is in its field capture, where both the key log
// of the configuration and memConn.Write find it. (K42 and the like are attacks with a test each:
// cmd/internal/house/attacks.txt.)

// maxCapturedFlight bounds the records that a keyCapture keeps. A server's last flight is a few kB:
// its session tickets. With a longer flight the connection stays on crypto/tls.
const maxCapturedFlight = 64 << 10

// A keyCapture records, during a handshake in crypto/tls, what tls13Layer needs to continue the connection
// after it: the two application traffic secrets (RFC 8446 section 7.1), and the records that our end has
// written since both secrets became known. Some of those records are still under the keys of the handshake.
// newTLS13Layer finds by trial which ones are under our secret, and so the next sequence number for output.
// Input needs no count: crypto/tls reads no record under the peer's secret during a handshake, and
// memConn.Read returns bytes of one record only, so later records are still in memConn.
//
// crypto/tls exposes neither. The secrets come through tls.Config.KeyLogWriter, the one official way. They
// are written nowhere else, except to the KeyLogWriter of the operator's configuration if there is one; and
// they are wiped by detach, or by beginHandshake if the handshake has failed (attack K42). What a new version
// of Go may break:
//
//   - With other labels or another format of the key log, the capture finds no secrets, newTLS13Layer fails,
//     and connections stay on crypto/tls.
//   - If crypto/tls wrote a record under a secret before logging the secret, the count of records would be
//     too low, and nonces would be used twice, without an error here. Go 1.26 logs first. With a Go that does
//     not, tests fail: their peers, crypto/tls and OpenSSL, can't open our records.
//
// It belongs to the goroutine of the handshake. memConn.Write runs on that goroutine and calls recordWritten
// under memConn.mu. detach clears memConn.capture under that mutex, because later calls of memConn.Write come
// from the loop.
type keyCapture struct {
	// The client's and the server's secret, and how many bytes of each are used: 32 or 48, by the hash of
	// the cipher suite; 0 while unknown.
	client, server       [48]byte
	clientLen, serverLen int
	flight               []byte // the records that were written since both secrets became known
	overflowed           bool   // flight would be longer than maxCapturedFlight, and was dropped
}

// recordWritten notes p, which crypto/tls has written, if both secrets are known. k may be nil: the
// connection stays on crypto/tls, or its handshake is over.
func (k *keyCapture) recordWritten(p []byte) {
	switch {
	case k == nil || k.clientLen == 0 || k.serverLen == 0 || k.overflowed:
	case len(k.flight)+len(p) > maxCapturedFlight:
		k.overflowed, k.flight = true, nil
	default:
		k.flight = append(k.flight, p...)
	}
}

// Write implements io.Writer for tls.Config.KeyLogWriter. crypto/tls calls it with one line of the
// NSS key log: a label, the client random in hex, a secret in hex (attack K42). Lines with other
// labels are ignored. The line is wiped afterwards. That is safe as long as crypto/tls makes a new
// slice for each line, as Go 1.26 does in Config.writeKeyLog; if it shared the slice, other readers
// of it would see zeros. A secret that is not hex, or is too long, leaves a length that newTLS13Layer
// rejects.
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

// wipe overwrites the secrets and drops the flight.
func (k *keyCapture) wipe() {
	clear(k.client[:])
	clear(k.server[:])
	k.clientLen, k.serverLen, k.flight = 0, 0, nil
}

// keyLogWriter returns a writer for KeyLogWriter. It passes each line to operatorLog, the key log of the
// operator's configuration, if that is not nil, and then to k.
func (k *keyCapture) keyLogWriter(operatorLog io.Writer) io.Writer {
	if operatorLog == nil {
		return k
	}
	return teeKeyLog{operatorLog, k}
}

// A teeKeyLog writes each line to two writers. It writes to k last, as k wipes the line.
type teeKeyLog struct {
	first io.Writer
	k     *keyCapture
}

// Write implements io.Writer. An error of the first writer ends the handshake, as it does in
// crypto/tls; the line is not wiped then.
func (w teeKeyLog) Write(line []byte) (int, error) {
	if _, err := w.first.Write(line); err != nil {
		return 0, err
	}
	return w.k.Write(line)
}

// detach returns the record layer that continues the connection after its handshake, or nil if the
// connection stays on crypto/tls: there is no capture, the version is not TLS 1.3, crypto/tls has read a
// part of the next record into its own buffer, the flight was too long, or newTLS13Layer failed. The
// captured keys are wiped; the layer has copies. It runs on the goroutine of the handshake, after the
// handshake.
func (s *stdTLS) detach(st *tls.ConnectionState, client bool) (y *tls13Layer) {
	k := s.mem.capture
	if k == nil {
		return nil
	}
	s.mem.mu.Lock()
	s.mem.capture = nil
	recordLeft := s.mem.recordLeft
	s.mem.mu.Unlock()
	defer k.wipe()
	if st.Version != tls.VersionTLS13 || recordLeft != 0 || k.overflowed {
		return nil
	}
	peerSecret, ourSecret := k.client[:k.clientLen], k.server[:k.serverLen]
	if client {
		peerSecret, ourSecret = ourSecret, peerSecret
	}
	y, _ = newTLS13Layer(client, st.CipherSuite, peerSecret, ourSecret, k.flight)
	return y
}

// clientConfig returns the configuration for a client's handshake: a clone of cfg with a key
// capture. It is cfg itself if the connection stays on crypto/tls: because stays is set (beginHandshake), or
// because cfg has a session cache. Tickets come after the handshake; crypto/tls puts them in the cache, and
// tls13Layer drops them. On the loop.
func (s *stdTLS) clientConfig(cfg *tls.Config, stays bool) *tls.Config {
	if stays || cfg.ClientSessionCache != nil && !cfg.SessionTicketsDisabled {
		return cfg
	}
	s.mem.capture = new(keyCapture)
	cfg = cfg.Clone()
	cfg.KeyLogWriter = s.mem.capture.keyLogWriter(cfg.KeyLogWriter)
	return cfg
}

// captureConfigs holds the configurations for servers' handshakes: for each tls.Config that StartTLS was
// given, a clone with a GetConfigForClient that adds a key capture. The clone is kept and used for all
// handshakes, as it also has the keys that seal session tickets: with a new clone for each handshake no
// session could be resumed. cfg must not be changed after its first handshake, as StartTLS says: the
// clone would not have the change. The key log of one connection must not get the secrets of another, so
// GetConfigForClient returns a further clone, with its own key log, to each connection that offers TLS
// 1.3.
type captureConfigs struct {
	mu       sync.Mutex // guards byConfig; handshakes of all loops begin here
	byConfig map[*tls.Config]*tls.Config
}

// maxConfigs bounds byConfig. A reload of certificates makes new configurations, and the old ones stay
// here. At the bound all clones are dropped, and with them their ticket keys: the next login of each client
// is a full handshake.
const maxConfigs = 1024

// serverConfig returns the configuration for a server's handshake on s, and gives s a key capture;
// it returns cfg itself if the connection stays on crypto/tls. The pointer cfg is the key of the map, so
// callers must not make a new one for each connection. On the loop. GetConfigForClient runs on the
// goroutine of the handshake:
//
//  1. It asks cfg's own GetConfigForClient, if there is one, which configuration to use.
//  2. If the client does not offer TLS 1.3, that configuration is used as it is.
//  3. Otherwise it is cloned, and the clone gets the key log of this connection. If
//     GetConfigForClient returns a configuration without ticket keys of its own, crypto/tls takes them
//     from the configuration of tls.Server (Go 1.26, Config.ticketKeys), which is the kept clone. So
//     sessions resume.
func (d *captureConfigs) serverConfig(s *stdTLS, cfg *tls.Config, stays bool) *tls.Config {
	if stays {
		return cfg
	}
	s.mem.capture = new(keyCapture)
	d.mu.Lock()
	defer d.mu.Unlock()
	if clone := d.byConfig[cfg]; clone != nil {
		return clone
	}
	clone := cfg.Clone()
	clone.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		use := cfg
		if cfg.GetConfigForClient != nil {
			if other, err := cfg.GetConfigForClient(hello); err != nil {
				return nil, err
			} else if other != nil {
				use = other
			}
		}
		mem, ok := hello.Conn.(*memConn)
		if !ok || mem.capture == nil || !slices.Contains(hello.SupportedVersions, tls.VersionTLS13) {
			return use, nil
		}
		use = use.Clone()
		use.KeyLogWriter = mem.capture.keyLogWriter(use.KeyLogWriter)
		return use, nil
	}
	if d.byConfig == nil || len(d.byConfig) >= maxConfigs {
		d.byConfig = make(map[*tls.Config]*tls.Config)
	}
	d.byConfig[cfg] = clone
	return clone
}
