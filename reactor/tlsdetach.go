package reactor

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"io"
	"slices"
	"sync"
)

// maxFlight bounds what is kept of the records that end a handshake; with more, crypto/tls stays.
const maxFlight = 64 << 10

// A takeover is what is noted during a handshake by crypto/tls, so that its connection can be detached
// after it. For the handshake's goroutine alone.
type takeover struct {
	client, server [48]byte // application traffic secrets, as many bytes as are in nc and ns
	nc, ns         int
	sent           []byte // the records that were written since both are known
	over           bool   // sent has got too long
}

// wrote notes records.
func (k *takeover) wrote(p []byte) {
	switch {
	case k == nil || k.nc == 0 || k.ns == 0 || k.over:
	case len(k.sent)+len(p) > maxFlight:
		k.over, k.sent = true, nil
	default:
		k.sent = append(k.sent, p...)
	}
}

// Write takes a line of the NSS key log: a label, the client's random, a secret (attack K42). The line is
// wiped: crypto/tls has made it for us alone.
func (k *takeover) Write(line []byte) (int, error) {
	defer clear(line)
	var dst *[48]byte
	var n *int
	switch {
	case bytes.HasPrefix(line, []byte("CLIENT_TRAFFIC_SECRET_0 ")):
		dst, n = &k.client, &k.nc
	case bytes.HasPrefix(line, []byte("SERVER_TRAFFIC_SECRET_0 ")):
		dst, n = &k.server, &k.ns
	default:
		return len(line), nil
	}
	h := bytes.TrimRight(line[bytes.LastIndexByte(line, ' ')+1:], "\n")
	if hex.DecodedLen(len(h)) <= len(dst) {
		*n, _ = hex.Decode(dst[:], h)
	}
	return len(line), nil
}

func (k *takeover) wipe() {
	clear(k.client[:])
	clear(k.server[:])
	k.nc, k.ns, k.sent = 0, 0, nil
}

// keyLog is k, behind the key log that a configuration has already.
func (k *takeover) keyLog(also io.Writer) io.Writer {
	if also == nil {
		return k
	}
	return twoLogs{also, k}
}

type twoLogs struct {
	first io.Writer
	k     *takeover
}

func (w twoLogs) Write(line []byte) (int, error) {
	if _, err := w.first.Write(line); err != nil {
		return 0, err
	}
	return w.k.Write(line)
}

// detach makes the record layer that follows a handshake; nil: crypto/tls stays. On the handshake's
// goroutine, when it has no more to do.
func (s *std) detach(st *tls.ConnectionState, client bool) (y *layer) {
	k := s.m.takes
	if k == nil {
		return nil
	}
	s.m.mu.Lock()
	s.m.takes = nil
	left := s.m.left
	s.m.mu.Unlock()
	defer k.wipe()
	if st.Version != tls.VersionTLS13 || left != 0 || k.over {
		return nil
	}
	theirs, ours := k.client[:k.nc], k.server[:k.ns]
	if client {
		theirs, ours = ours, theirs
	}
	y, _ = newLayer(client, st.CipherSuite, theirs, ours, k.sent)
	return y
}

// client is the configuration of a client's handshake. Who has a cache of sessions keeps crypto/tls, which
// alone can put tickets there.
func (s *std) client(cfg *tls.Config, stays bool) *tls.Config {
	if stays || cfg.ClientSessionCache != nil && !cfg.SessionTicketsDisabled {
		return cfg
	}
	s.m.takes = new(takeover)
	cfg = cfg.Clone()
	cfg.KeyLogWriter = s.m.takes.keyLog(cfg.KeyLogWriter)
	return cfg
}

// detaching are the configurations of servers' handshakes, by those that StartTLS was given. One serves all
// handshakes, as the keys that seal its tickets are its own; but when a ClientHello has come, that
// connection gets a clone with its own key log.
type detaching struct {
	mu  sync.Mutex
	all map[*tls.Config]*tls.Config
}

// maxConfigs bounds how many are kept; when they are forgotten, so are their tickets' keys.
const maxConfigs = 1024

func (d *detaching) server(s *std, cfg *tls.Config, stays bool) *tls.Config {
	if stays {
		return cfg
	}
	s.m.takes = new(takeover)
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.all[cfg]; c != nil {
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
		if !ok || m.takes == nil || !slices.Contains(hello.SupportedVersions, tls.VersionTLS13) {
			return use, nil
		}
		use = use.Clone()
		use.KeyLogWriter = m.takes.keyLog(use.KeyLogWriter)
		return use, nil
	}
	if d.all == nil || len(d.all) >= maxConfigs {
		d.all = make(map[*tls.Config]*tls.Config)
	}
	d.all[cfg] = c
	return c
}
