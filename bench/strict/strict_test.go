package strict

import (
	"strings"
	"testing"
)

type inner struct {
	Count int    `toml:"count,omitempty"`
	Name  string `toml:"name"`
}

type outer struct {
	inner
	About string   `toml:"about"`
	Part  inner    `toml:"part"`
	Rows  []*inner `toml:"row"`
	On    bool     `toml:"on"`
}

// Every mistake is one line with its place, and what was probably meant.
func TestMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"abuot = 'x'":              `f.toml:1: there is no key "abuot": did you mean "about"?`,
		"\n[part]\ncuont = 1":      `f.toml:3: there is no key "cuont": did you mean "count"?`,
		"[[row]]\n[[row]]\nnam=''": `f.toml:3: there is no key "nam": did you mean "name"?`,
		"coutn = 1":                `f.toml:1: there is no key "coutn": did you mean "count"?`,
		"[other]\nx = 1":           `f.toml:`,
		"about = 3":                `f.toml:1: about is a TOML integer, and must be text in quotes`,
		"on = 'yes'":               `f.toml:1: on is a TOML string, and must be true or false`,
		"[part]\ncount = 'x'":      `f.toml:2: count is a TOML string, and must be a number`,
		"about = x":                `f.toml:1: this is no TOML: `,
	} {
		err := Decode([]byte(text), new(outer))
		if err == nil {
			t.Errorf("%q is taken", text)
			continue
		}
		if got := Named("f.toml", err).Error(); !strings.HasPrefix(got, want) || strings.Contains(got, "\n") {
			t.Errorf("%q: %s\nwant %s", text, got, want)
		}
	}
	var o outer
	if err := Decode([]byte("about = 'x'\ncount = 2\n[part]\nname = 'p'\n[[row]]\ncount = 1\n"), &o); err != nil || o.Count != 2 || o.Part.Name != "p" || o.Rows[0].Count != 1 {
		t.Errorf("%v, %+v", err, o)
	}
}
