package sasl

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// A Client is the other end of an [Exchange], for one login: it is what a load client and tests log in with.
// For one goroutine.
type Client struct {
	Mechanism Mechanism
	Username  string // localpart
	Authzid   string // usually empty
	Password  Secret // or Salted
	// Salted, if its hash, salt and iterations are the server's, saves deriving. After a login it is what was
	// used, to be kept for the next.
	Salted SaltedPassword
	// Binding is what this connection can be bound by; BindingType names the type to use, by default the best.
	Binding     ChannelBinding
	BindingType string
	// ServerPlus: the server offered -PLUS. When it did not, and Binding has something, the client says so
	// ("y"), which a man in the middle who stripped it can't undo.
	ServerPlus bool
	Rand       io.Reader
	// MinIterations, if not 0, is the fewest that the server may ask for; MaxIterations bounds what it makes
	// the client compute, by default 1,000,000.
	MinIterations, MaxIterations int

	gs2, clientFirstBare, nonce string
	binding                     []byte
	serverSignature             Secret // what the server must prove with
	step                        uint8
}

// Errors of a client, besides a [Condition].
var (
	ErrServer   = errors.New("sasl: the server could not prove that it knows the password")
	ErrProtocol = errors.New("sasl: the server broke the protocol")
)

// Start returns the text of <auth/>.
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

// Next takes the text of <challenge/> and returns the text of <response/>.
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
	if len(attrs) < 3 { // what follows is an extension, and ignored unless mandatory (RFC 5802 §5.1)
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

// Success takes the text of <success/>, and says whether the server is the one that knows the password.
// Without a nil error the client is not logged in, whatever the server says.
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
