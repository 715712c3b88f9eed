package tomlstrict

import (
	"strings"
	"testing"
	"time"
)

type inner struct {
	Count int    `toml:"count,omitempty"`
	Name  string `toml:"name"`
}

// A unit is written with its unit.
type unit time.Duration

func (u *unit) UnmarshalText(b []byte) error {
	d, err := time.ParseDuration(string(b))
	*u = unit(d)
	return err
}

type outer struct {
	inner
	About string   `toml:"about"`
	Part  inner    `toml:"part"`
	Rows  []*inner `toml:"row"`
	On    bool     `toml:"on"`
	Time  unit     `toml:"time" least:"1s"`
	List  []int    `toml:"list"`
	Ratio float64  `toml:"ratio" least:"1" usual:"none"`

	Texts map[string]string `toml:"texts"`
	Any   any               `toml:"any"`
}

// Every mistake is one line with its place, and what was probably meant.
func TestMistakes(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"abuot = 'x'", `f.toml:1: there is no key "abuot": did you mean "about"?`},
		{"\n[part]\ncuont = 1", `f.toml:3: there is no key "cuont": did you mean "count"?`},
		{"[[row]]\n[[row]]\nnam=''", `f.toml:3: there is no key "nam": did you mean "name"?`},
		{"coutn = 1", `f.toml:1: there is no key "coutn": did you mean "count"?`},
		{"[other]\nx = 1", `f.toml:`},
		{"about = 3", `f.toml:1: about is a TOML integer, and must be text in quotes`},
		{"on = 'yes'", `f.toml:1: on is a TOML string, and must be true or false`},
		{"[part]\ncount = 'x'", `f.toml:2: count is a TOML string, and must be a whole number`},
		{"about = x", `f.toml:1: this is no TOML: `},

		{"\ntime = 1.5", `f.toml:2: time = 1.5: it is written in quotes, with its unit`},
		{"\ntime = 30", `f.toml:2: time = 30: it is written in quotes, with its unit`},
		{"\ntime = true", `f.toml:2: time = true: it is written in quotes, with its unit`},
		{"time = [1]", `f.toml:1: time is a TOML array, and must be text in quotes`},
		{"\ntime = 'long'", `f.toml:2: time = "long": time: invalid duration`},
		{"\ntime = '1ms'", `f.toml:2: time = 1ms: it is 1s or more, or left out`},
		{"part = {cuont = 5}", `f.toml:1: there is no key "cuont": did you mean "count"?`},
		{"part.cuont = 5", `f.toml:1: there is no key "cuont": did you mean "count"?`},
		{"row = [{}, {cuont = 5}]", `f.toml:1: there is no key "cuont": did you mean "count"?`},
		{"row = [\n{},\n{count = 'x'}]", `f.toml:3: count is a TOML string, and must be a whole number`},
		{"part = 5", `f.toml:1: part is a TOML integer, and must be a table`},
		{"row = 5", `f.toml:1: row is a TOML integer, and must be a list of tables`},
		{"row = [5]", `f.toml:1: row is a TOML integer, and must be a table`},
		{"\n[row]\ncount = 1", `f.toml:2: row is a list of tables: write [[row]]`},
		{"row.count = 1", `f.toml:1: row is a list of tables: write [[row]]`},
		{"\n[[part]]\ncount = 1", `f.toml:2: part is one table: write [part]`},
		{"[count]\nx = 1", `f.toml:1: count is a table, and must be a whole number`},
		{"count.x = 1", `f.toml:1: count is a table, and must be a whole number`},
		{"[time]\nx = 1", `f.toml:1: time is a table, and must be text in quotes`},
		{"list = 5", `f.toml:1: list is a TOML integer, and must be a list, in brackets`},
		{"list = [1, 'x']", `f.toml:1: list is a TOML string, and must be a whole number`},
		{"texts = {a = 1}", `f.toml:1: a is a TOML integer, and must be text in quotes`},
		{"[texts]\na = 1", `f.toml:2: a is a TOML integer, and must be text in quotes`},
		{"count = 1.5", `f.toml:1: count is a TOML float, and must be a whole number`},
		{"count = 9999999999999999999999", `f.toml:1: count: `},
		{"on = 1979-05-27", `f.toml:1: on is a TOML date, and must be true or false`},
		{"ratio = 'x'", `f.toml:1: ratio is a TOML string, and must be a number`},
		{"about = 'x'\nabout = 'y'", `f.toml:2: about: `},
		{"nope = 1", `f.toml:1: there is no key "nope": one of count, name, about, `},
		{"nope.cuont = 1", `f.toml:1: there is no key "nope": one of count, name, about, `},
		{"'' = 1", `f.toml:1: there is no key "": one of count`},
		{strings.Repeat("k", 2000) + " = 1", `f.toml:1: there is no key "` + strings.Repeat("k", 40) +
			`…": one of count`},
	} {
		text, want := c.text, c.want
		err := Decode([]byte(text), new(outer))
		if err == nil {
			t.Errorf("%q is taken", text)
			continue
		}
		if got := Named("f.toml", err).Error(); !strings.HasPrefix(got, want) || strings.Contains(got, "\n") {
			t.Errorf("%q: %s\nwant %s", text, got, want)
		}
	}
	if err := Decode([]byte("ratio = 0"), new(outer)); err == nil || strings.Contains(err.Error(), "left out") {
		t.Errorf("a key that can't be left out: %v", err)
	}
	for _, text := range []string{"any = 1", "any = {a = [1]}", "[any]\nx = 1", "ratio = 3", "time = '2s'",
		"list = [1, # one\n2]",
		"texts = {a = 'x'}", "[texts]\na = 'x'", "row = []", "row = [{count = 1}]", "part = {count = 1}",
		"part.count = 1"} {
		if err := Decode([]byte(text), new(outer)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	var o outer
	if err := Decode([]byte("about = 'x'\ncount = 2\n[part]\nname = 'p'\n[[row]]\ncount = 1\n"),
		&o); err != nil || o.Count != 2 || o.Part.Name != "p" || o.Rows[0].Count != 1 {
		t.Errorf("%v, %+v", err, o)
	}
}
