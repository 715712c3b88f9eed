package sasl

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// A Client is the client's side of one login. Load clients and tests use it. One goroutine.
//
//  1. Start returns the text of <auth/>.
//  2. For SCRAM, Next takes the challenge and returns the response.
//  3. Success checks the server's last message.
type Client struct {
	Mechanism Mechanism // the mechanism to use
	Username  string    // the localpart of the account
	Authzid   string    // the authorization identity; usually empty
	Password  Secret    // needed unless Salted fits the server's challenge
	// Salted saves deriving if its hash, salt and iterations are the server's. After a login it is the one
	// that was used, so that the caller can keep it for the next login.
	Salted SaltedPassword
	// Binding is the data by which this connection can be bound. BindingType names the type to use; by
	// default it is the best.
	Binding     ChannelBinding
	BindingType string
	// ServerPlus says that the server offered -PLUS mechanisms. If it did not, and Binding has data, the
	// client says so ("y", RFC 5802 section 6), which a man in the middle that stripped the offer can't undo.
	ServerPlus bool
	Rand       io.Reader // for the nonce
	// Advertised is what the client was offered: see [Advertised]. If it is not empty, and the server says
	// what it has offered (XEP-0474), Next returns [ErrDowngrade] if that is something else.
	Advertised string
	// MinIterations, if not 0, is the smallest iteration count that the client accepts. MaxIterations bounds
	// the work that the server can cause; by default 1,000,000.
	MinIterations, MaxIterations int

	gs2             string // gs2-header of SCRAM
	clientFirstBare string // client-first-message-bare of SCRAM
	nonce           string // the client's
	binding         []byte // data of the channel binding; empty: none
	serverSignature Secret // what a server that knows the password sends in <success/>
	step            uint8  // 0: new; 1: SCRAM has begun; 2: the proof is sent; 3: PLAIN is sent; 4: over
}

// The errors of a client, besides a [Condition] of the server: the server could not prove that it knows the
// password; the server broke the protocol.
var (
	ErrServer   = errors.New("sasl: the server could not prove that it knows the password")
	ErrProtocol = errors.New("sasl: the server broke the protocol")
)

// Start returns the text of <auth/>: for PLAIN the whole message; for SCRAM the
// client-first-message, with the gs2 header that says how the channel is bound. It is called once.
// The error is [ErrProtocol] for a second call, or says what is missing.
func (c *Client) Start() ([]byte, error) {
	if c.step != 0 {
		return nil, fmt.Errorf("%w: used twice", ErrProtocol)
	}
	if c.Mechanism == Plain {
		c.step = 3
		msg := c.Authzid + "\x00" + c.Username + "\x00" + string(c.Password.Reveal())
		return encodeText(msg), nil
	}
	if c.Mechanism.Hash() == 0 {
		return nil, fmt.Errorf("sasl: no mechanism")
	}
	flag := "n"
	if c.Mechanism.Plus() {
		kind := c.BindingType
		if kind == "" {
			if kinds := c.Binding.Types(); len(kinds) > 0 {
				kind = kinds[0]
			}
		}
		if c.binding = c.Binding.Data(kind); len(c.binding) == 0 {
			return nil, fmt.Errorf("sasl: nothing to bind the channel by (%q)", kind)
		}
		flag = "p=" + kind
	} else if c.Binding.Any() && !c.ServerPlus {
		flag = "y"
	}
	if c.nonce == "" {
		nonce, err := newNonce(c.Rand)
		if err != nil {
			return nil, err
		}
		c.nonce = nonce
	}
	c.gs2 = flag + ","
	if c.Authzid != "" {
		c.gs2 += "a=" + escapeName.Replace(c.Authzid)
	}
	c.gs2 += ","
	c.clientFirstBare = "n=" + escapeName.Replace(c.Username) + ",r=" + c.nonce
	c.step = 1
	return encodeText(c.gs2 + c.clientFirstBare), nil
}

// Next takes the text of <challenge/> and returns the text of <response/>. The error is mostly
// [ErrProtocol].
//
//  1. Parse the server-first-message: nonce, salt, iterations (RFC 5802 section 7).
//  2. Check that the nonce begins with the client's, and that the iterations are within bounds.
//  3. Derive the SaltedPassword, unless c.Salted fits. This is the expensive part.
//  4. Compute the proof, and the signature that the server must send.
func (c *Client) Next(text []byte) ([]byte, error) {
	if c.step != 1 {
		return nil, fmt.Errorf("%w: a challenge out of turn", ErrProtocol)
	}
	msg, ok := decodeText(text)
	if !ok || len(text) > MaxText {
		return nil, fmt.Errorf("%w: challenge is not base64, or too long", ErrProtocol)
	}
	first := string(msg)
	attrs := strings.Split(first, ",")
	if len(attrs) < 3 { // further attributes are extensions, ignored unless mandatory (RFC 5802 section 5.1)
		return nil, fmt.Errorf("%w: challenge is incomplete", ErrProtocol)
	}
	for _, a := range attrs {
		if strings.HasPrefix(a, "m=") {
			return nil, fmt.Errorf("%w: the challenge has an extension that must be understood", ErrProtocol)
		}
	}
	nonce, ok := strings.CutPrefix(attrs[0], "r=")
	s, ok2 := strings.CutPrefix(attrs[1], "s=")
	i, ok3 := strings.CutPrefix(attrs[2], "i=")
	salt, ok4 := strictBase64([]byte(s))
	iterations, err := strconv.Atoi(i)
	if !ok || !ok2 || !ok3 || !ok4 || err != nil || len(salt) == 0 || len(salt) > maxSalt ||
		strconv.Itoa(iterations) != i {
		return nil, fmt.Errorf("%w: bad challenge", ErrProtocol)
	}
	if !strings.HasPrefix(nonce, c.nonce) || len(nonce) == len(c.nonce) || len(nonce) > 2*maxNonce {
		return nil, fmt.Errorf("%w: the server's nonce is not ours and its own", ErrProtocol)
	}
	most := c.MaxIterations
	if most == 0 {
		most = 1_000_000
	}
	if iterations < max(1, c.MinIterations) || iterations > most {
		return nil, fmt.Errorf("%w: %d iterations", ErrProtocol, iterations)
	}
	h := c.Mechanism.Hash()
	for _, a := range attrs[3:] {
		if v, ok := strings.CutPrefix(a, "h="); ok && c.Advertised != "" && v != advertisedHash(h, c.Advertised) {
			return nil, ErrDowngrade
		}
	}
	if c.Salted.Hash != h || c.Salted.Iterations != iterations || string(c.Salted.Salt) != string(salt) {
		password, err := PreparePassword(c.Password.Reveal())
		if err != nil {
			return nil, err
		}
		if c.Salted, err = saltPassword(h, password, salt, iterations); err != nil {
			return nil, err
		}
	}
	final := "c=" + base64.StdEncoding.EncodeToString(append([]byte(c.gs2), c.binding...)) + ",r=" + nonce
	auth := c.clientFirstBare + "," + first + "," + final
	proof := mac(nil, h, c.Salted.Password.Reveal(), []byte("Client Key"))
	signature := mac(nil, h, hashSum(h, proof), []byte(auth))
	for i := range proof {
		proof[i] ^= signature[i]
	}
	c.serverSignature = NewSecret(mac(nil, h, mac(nil, h, c.Salted.Password.Reveal(), []byte("Server Key")),
		[]byte(auth)))
	c.step = 2
	return encodeText(final + ",p=" + base64.StdEncoding.EncodeToString(proof)), nil
}

// Success takes the text of <success/> and checks that the server knows the password: the error is
// [ErrServer] if it does not. Without a nil error the client must not go on, whatever the server
// says.
func (c *Client) Success(text []byte) error {
	if c.step == 3 {
		c.step = 4
		return nil
	}
	if c.step != 2 {
		return fmt.Errorf("%w: success out of turn", ErrProtocol)
	}
	c.step = 4
	msg, ok := decodeText(text)
	if !ok || len(text) > MaxText {
		return fmt.Errorf("%w: success is not base64", ErrProtocol)
	}
	v, _, _ := strings.Cut(string(msg), ",")
	v, ok = strings.CutPrefix(v, "v=")
	got, ok2 := strictBase64([]byte(v))
	if !ok || !ok2 || !NewSecret(got).Equal(c.serverSignature) {
		return ErrServer
	}
	return nil
}
