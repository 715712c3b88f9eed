package capacity

import (
	"slices"
	"strings"

	"canto/session/tomlstrict"
)

// A Profile is the behaviour of an average session in an hour. It is read from TOML:
//
//	name       = "office"
//	messages   = 20          # that it sends in an hour
//	body       = 200         # bytes of text of each
//	presence   = 6           # times that it changes presence in an hour
//	contacts   = 15          # contacts that are online, on average, and get each change
//	reconnects = 0.2         # logins in an hour
//	tls        = "starttls"  # "none", "starttls", "direct"
type Profile struct {
	Name     string  `toml:"name" json:"name"`         // Name of the profile.
	Messages float64 `toml:"messages" json:"messages"` // Messages that a session sends in an hour.
	Body     int     `toml:"body" json:"body"`         // Body of each, in bytes.
	Presence float64 `toml:"presence" json:"presence"` // Presence changes in an hour.
	// Contacts that are online on average, and get each change.
	Contacts   int     `toml:"contacts" json:"contacts"`
	Reconnects float64 `toml:"reconnects" json:"reconnects"` // Reconnects in an hour.
	TLS        string  `toml:"tls" json:"tls"`               // TLS is "none", "starttls" or "direct".
}

// Mobile is the default profile: phones. Its numbers are those of bench/scenarios/day.toml, with
// their sources: an event of a user every few minutes, and mostly presence and reconnects.
func Mobile() Profile {
	return Profile{Name: "mobile", Messages: 10, Body: 100, Presence: 1.5, Contacts: 4, Reconnects: 1,
		TLS: "starttls"}
}

// ParseProfile reads a profile; fields that are left out are those of Mobile. name is for errors,
// which are one line.
func ParseProfile(name string, text []byte) (Profile, error) {
	p := Mobile()
	p.Name = strings.TrimSuffix(name, ".toml")
	if err := tomlstrict.Decode(text, &p); err != nil {
		return p, tomlstrict.Named(name, err)
	}
	if err := p.Check(); err != nil {
		return p, tomlstrict.Named(name, tomlstrict.Placed(text, err))
	}
	return p, nil
}

// Check returns an error if a value is out of range.
func (p *Profile) Check() error {
	if p.TLS == "" {
		p.TLS = "none"
	}
	if !slices.Contains([]string{"none", "starttls", "direct"}, p.TLS) {
		return tomlstrict.At(tomlstrict.Path{"tls"}, "tls is %q: none, starttls or direct", p.TLS)
	}
	for _, v := range []struct {
		name string
		v    float64
	}{{"messages", p.Messages}, {"presence", p.Presence}, {"reconnects", p.Reconnects}} {
		if !(v.v >= 0 && v.v <= 1e6) {
			return tomlstrict.At(tomlstrict.Path{v.name}, "%s is %g: from 0 to 1,000,000 an hour", v.name, v.v)
		}
	}
	if p.Body < 0 || p.Body > 60000 {
		return tomlstrict.At(tomlstrict.Path{"body"}, "body is %d: from 0 to 60,000 bytes", p.Body)
	}
	if p.Contacts < 0 || p.Contacts > 500 {
		return tomlstrict.At(tomlstrict.Path{"contacts"}, "contacts is %d: from 0 to 500", p.Contacts)
	}
	return nil
}

// work is what a session of the profile needs in a second.
func (p Profile) work() work {
	return work{sessions: 1, messages: p.Messages / 3600,
		deliveries: p.Presence * float64(p.Contacts) / 3600, returns: p.Reconnects / 3600}
}
