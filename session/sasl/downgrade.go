package sasl

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
)

// ErrDowngrade says that the server has offered other mechanisms, or other types of channel binding, than
// those that have reached the client (XEP-0474).
var ErrDowngrade = errors.New("sasl: the offer was changed on its way")

// Advertised returns the text of which XEP-0474 takes the hash (section 5.1): the mechanisms of an offer and,
// if it lists any, its types of channel binding (XEP-0440). The slices are not changed.
func Advertised(mechanisms, bindings []string) string {
	list := func(names []string) string { return strings.Join(slices.Sorted(slices.Values(names)), "\x1e") }
	s := list(mechanisms)
	if len(bindings) > 0 {
		s += "\x1f" + list(bindings)
	}
	return s
}

// advertisedHash returns the value of the attribute h in a server-first-message.
func advertisedHash(h Hash, advertised string) string {
	return base64.StdEncoding.EncodeToString(hashSum(h, []byte(advertised)))
}
