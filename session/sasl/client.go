package sasl

import (
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
)

// Errors of a Client.
var (
	ErrServer   = errors.New("sasl: the server does not know the password either")
	ErrProtocol = errors.New("sasl: the server says what the mechanism does not allow")
)

// A Client is one authentication, client side. Not safe for two goroutines.
type Client struct {
	Mechanism string
	User      string
	Password  string
	Nonce     string // printable, without comma
	// Binding is the channel binding of a -PLUS mechanism: its type and data.
	BindingType string
	Binding     []byte
	// Salted, if set, gives a SaltedPassword that was kept from an earlier login.
	Salted func(h Hash, salt []byte, iterations int) Secret

	hash   Hash
	gs2    string
	bare   string
	server Secret
	auth   []byte
	step   int
}

// Start is the initial response.
func (c *Client) Start() ([]byte, error) {
	if c.Mechanism == Plain {
		return []byte("\x00" + c.User + "\x00" + c.Password), nil
	}
	h, plus, ok := hashOf(c.Mechanism)
	if !ok {
		return nil, ErrProtocol
	}
	c.hash, c.gs2 = h, "n,,"
	if plus {
		c.gs2 = "p=" + c.BindingType + ",,"
	}
	c.bare = "n=" + strings.NewReplacer("=", "=3D", ",", "=2C").Replace(c.User) + ",r=" + c.Nonce
	return []byte(c.gs2 + c.bare), nil
}

// Next answers a challenge.
func (c *Client) Next(msg []byte) ([]byte, error) {
	f := strings.Split(string(msg), ",")
	if c.step != 0 || c.hash == 0 || len(f) < 3 || !strings.HasPrefix(f[0], "r="+c.Nonce) || !strings.HasPrefix(f[1], "s=") || !strings.HasPrefix(f[2], "i=") {
		return nil, ErrProtocol
	}
	salt, err := base64.StdEncoding.DecodeString(f[1][2:])
	n, err2 := strconv.Atoi(f[2][2:])
	if err != nil || err2 != nil || n < 1 || n > 10_000_000 {
		return nil, ErrProtocol
	}
	c.step++
	derive := c.Salted
	if derive == nil {
		derive = func(h Hash, salt []byte, n int) Secret { return Salted(h, c.Password, salt, n) }
	}
	salted := derive(c.hash, salt, n)
	without := "c=" + base64.StdEncoding.EncodeToString(append([]byte(c.gs2), c.bindingData()...)) + "," + f[0]
	c.auth = []byte(c.bare + "," + string(msg) + "," + without)
	key := mac(c.hash, salted, []byte("Client Key"))
	sum := c.hash.new()()
	sum.Write(key)
	signature := mac(c.hash, sum.Sum(nil), c.auth)
	for i := range key {
		key[i] ^= signature[i]
	}
	c.server = mac(c.hash, mac(c.hash, salted, []byte("Server Key")), c.auth)
	return []byte(without + ",p=" + base64.StdEncoding.EncodeToString(key)), nil
}

func (c *Client) bindingData() []byte {
	if strings.HasPrefix(c.gs2, "p=") {
		return c.Binding
	}
	return nil
}

// Finish checks what came with the success: that the server knows the password too.
func (c *Client) Finish(final []byte) error {
	if c.hash == 0 {
		return nil
	}
	v, ok := strings.CutPrefix(string(final), "v=")
	sig, err := base64.StdEncoding.DecodeString(v)
	if !ok || err != nil || !Secret(sig).Equal(c.server) {
		return ErrServer
	}
	return nil
}
