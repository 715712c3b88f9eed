package servers

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"canto/session/sasl"
)

// Accounts are those of a load test: <Prefix>0 to <Prefix>N-1, all with one password and one salt,
// so that keys are derived once. They must never be on a server that others can reach.
type Accounts struct {
	N          int    // N is how many there are.
	Prefix     string // small letters and digits; empty: bench
	Password   string // empty: bench
	Iterations int    // of PBKDF2; 0: 10,000, the default of Canto and Prosody
}

func (a Accounts) defaults() Accounts {
	if a.Prefix == "" {
		a.Prefix = "bench"
	}
	if a.Password == "" {
		a.Password = "bench"
	}
	if a.Iterations == 0 {
		a.Iterations = sasl.DefaultIterations
	}
	return a
}

// check returns an error for accounts that some server would have to escape or prepare.
func (a Accounts) check() error {
	if a.N < 0 {
		return fmt.Errorf("%d accounts can't be: give none or more", a.N)
	}
	for _, c := range a.Prefix {
		// No server then has to fold or escape a name.
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return fmt.Errorf("%q can't begin the names of accounts: use small letters and digits", a.Prefix)
		}
	}
	for _, c := range a.Password {
		if c < ' ' || c > '~' {
			return errors.New("the password has characters that need preparing: use ASCII that can be printed")
		}
	}
	if a.Iterations < sasl.MinIterations || a.Iterations > sasl.MaxIterations {
		return fmt.Errorf("%d iterations of PBKDF2 can't be: use %d to %d", a.Iterations, sasl.MinIterations,
			sasl.MaxIterations)
	}
	return nil
}

// User is the localpart of the i-th account, from 0.
func (a Accounts) User(i int) string { return a.defaults().Prefix + strconv.Itoa(i) }

// fingerprint is a line that differs if accounts, or the way a server stores them, differ.
func (a Accounts) fingerprint(kind, domain, scram string) string {
	sum := sha256.Sum256([]byte(a.Password))
	return fmt.Sprintf("%d accounts %s@%s of %s, %d iterations %s, password %x\n", a.N, a.Prefix, domain,
		kind, a.Iterations, scram, sum[:8])
}

// key derives the key for one hash. The salt is ASCII, since Prosody stores it as it is.
func (a Accounts) key(h sasl.Hash) (sasl.Key, error) {
	var b [sasl.SaltLen / 2]byte
	rand.Read(b[:])
	return a.keyOf(h, hex.EncodeToString(b[:]))
}

func (a Accounts) keyOf(h sasl.Hash, salt string) (sasl.Key, error) {
	keys, err := sasl.DeriveKeys([]byte(a.Password), a.Iterations, strings.NewReader(salt), h)
	if err != nil {
		return sasl.Key{}, err
	}
	return keys[0], nil
}

// Formats are those that Export can write.
func Formats() []string { return []string{"canto", "ejabberd"} }

// Export writes the accounts in the format of a server's own tool: "canto" for `canto user import
// --shared-salt`, "ejabberd" for `ejabberdctl load` (the text format of Mnesia, with keys for
// SCRAM-SHA-1). [ExportProsody] is for Prosody, which has a file for each account.
func Export(w io.Writer, format, domain string, a Accounts) error {
	a = a.defaults()
	if err := errors.Join(a.check(), checkDomain(domain)); err != nil {
		return err
	}
	b := bufio.NewWriter(w)
	switch format {
	case "canto":
		for i := range a.N {
			fmt.Fprintf(b, "%s@%s\t%s\n", a.User(i), domain, a.Password)
		}
	case "ejabberd":
		if err := exportEjabberd(b, domain, a, sasl.SHA1); err != nil {
			return err
		}
	default:
		return fmt.Errorf("there is no format %q: use one of %s", format, strings.Join(Formats(), ", "))
	}
	return b.Flush()
}
