// Package slo judges a run by requirements that a file has: limits of figures, and of their ratio
// to a baseline. A build can stop if one is not met.
//
//	baseline = "last-release.json"  # relative to this file
//	strict = true                   # warnings of the run fail it, too
//
//	[[require]]
//	figure = "talk.chat.p99_ms"
//	at_most = "250ms"
//
//	[[require]]
//	figure = "*.lost"               # each figure of that name; * stands for anything
//	at_most = 0
//
//	[[require]]
//	scenario = "chat"               # only of runs of that scenario
//	figure = "talk.cpu_us"
//	ratio_to_baseline_at_most = 1.4
//	missing = "ignore"              # default: "fail"
package slo

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"canto/bench/result"
	"canto/session/tomlstrict"
)

// A File is a file of requirements.
type File struct {
	// Baseline is the file of the result that ratios are to. Read makes it relative to the working
	// directory.
	Baseline string        `toml:"baseline"`
	Strict   bool          `toml:"strict"`   // Strict: a run with warnings fails.
	Scenario string        `toml:"scenario"` // Scenario of requirements that name none; "": any.
	Require  []Requirement `toml:"require"`  // Require has the requirements.
}

// A Requirement limits the figures of a name.
type Requirement struct {
	Figure   string `toml:"figure"`   // Figure by name; * stands for any characters, dots too.
	Scenario string `toml:"scenario"` // Scenario: runs of others are not judged by it.
	// AtMost and AtLeast are a number in the figure's own unit, or a string with a unit: "250ms",
	// "1.5MiB", "2%", "900/s". nil: no such limit.
	AtMost  any `toml:"at_most"`
	AtLeast any `toml:"at_least"` // AtLeast: see AtMost.
	// RatioAtMost and RatioAtLeast limit the ratio of the run's figure to the baseline's.
	RatioAtMost  *float64 `toml:"ratio_to_baseline_at_most"`
	RatioAtLeast *float64 `toml:"ratio_to_baseline_at_least"` // RatioAtLeast: see RatioAtMost.
	// Missing is "fail" (the default) or "ignore", for a run or a baseline without the figure.
	Missing string `toml:"missing"`
}

// Read reads a file of requirements. The error names the file, the line where it can, and what was
// probably meant.
func Read(name string) (*File, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("%s: the requirements can't be read: %w", name, errors.Unwrap(err))
	}
	f, err := parse(b)
	if err != nil {
		return nil, tomlstrict.Named(name, err)
	}
	if f.Baseline != "" && !filepath.IsAbs(f.Baseline) {
		f.Baseline = filepath.Join(filepath.Dir(name), f.Baseline)
	}
	return f, nil
}

// LoadBaseline loads the result that ratios are to; nil if the file names none.
func (f *File) LoadBaseline() (*result.Run, error) {
	if f.Baseline == "" {
		return nil, nil
	}
	r, err := result.Load(f.Baseline)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the baseline %s does not exist: run the scenario once and keep its JSON "+
			"there, or change baseline in the file of requirements", f.Baseline)
	}
	return r, err
}

// parse reads and checks requirements.
func parse(b []byte) (*File, error) {
	f := new(File)
	if err := tomlstrict.Decode(b, f); err != nil {
		return nil, err
	}
	if len(f.Require) == 0 {
		return nil, errors.New("nothing is required: add a [[require]] with a figure and a limit")
	}
	for i, q := range f.Require {
		if key, err := q.check(); err != nil {
			return nil, tomlstrict.Placed(b, tomlstrict.At(tomlstrict.Path{"require", i, key}, "%v", err))
		}
	}
	return f, nil
}

// check checks what the decoder can't. key names the field of the error.
func (q Requirement) check() (key string, err error) {
	if q.Figure == "" {
		return "", errors.New("a requirement without a figure: name one, such as figure = \"talk.chat.p99_ms\"")
	}
	if q.Missing != "" && q.Missing != "fail" && q.Missing != "ignore" {
		return "missing", fmt.Errorf("missing = %q: it is \"fail\" or \"ignore\"", q.Missing)
	}
	if q.AtMost == nil && q.AtLeast == nil && q.RatioAtMost == nil && q.RatioAtLeast == nil {
		return "figure", fmt.Errorf("%s has no limit: add at_most, at_least or ratio_to_baseline_at_most", q.Figure)
	}
	for _, l := range []struct {
		key string
		v   any
	}{{"at_most", q.AtMost}, {"at_least", q.AtLeast}} {
		if l.v == nil {
			continue
		}
		if _, err := readLimit(l.v); err != nil {
			return l.key, fmt.Errorf("%s of %s: %w", l.key, q.Figure, err)
		}
	}
	for _, l := range []struct {
		key string
		v   *float64
	}{{"ratio_to_baseline_at_most", q.RatioAtMost}, {"ratio_to_baseline_at_least", q.RatioAtLeast}} {
		if l.v != nil && (!(*l.v > 0) || math.IsInf(*l.v, 0)) {
			return l.key, fmt.Errorf("%s of %s is %v: a ratio is above 0, such as 1.4", l.key, q.Figure, *l.v)
		}
	}
	return "", nil
}

// A limit is a number in the unit that it was written in; without a name that is the figure's own.
type limit struct {
	value float64
	unit  unit
}

// units are those a limit may be written in. Within a kind the factors are whole numbers, so that "3.9ms"
// is the very 3.9 that a figure in ms has.
var units = []unit{
	{"ns", "time", 1}, {"us", "time", 1e3}, {"µs", "time", 1e3}, {"ms", "time", 1e6}, {"s", "time", 1e9},
	{"min", "time", 60e9}, {"h", "time", 3600e9},
	{"B", "number of bytes", 1}, {"kB", "number of bytes", 1e3}, {"MB", "number of bytes", 1e6},
	{"GB", "number of bytes", 1e9},
	{"KiB", "number of bytes", 1 << 10}, {"MiB", "number of bytes", 1 << 20},
	{"GiB", "number of bytes", 1 << 30},
	{"%", "share", 1}, {"percent", "share", 1}, {"/s", "rate", 1},
}

// figureUnits are the units of result.Figure that have others beside them.
var figureUnits = []unit{{"ms", "time", 1e6}, {"us", "time", 1e3}, {"s", "time", 1e9},
	{"bytes", "number of bytes", 1}, {"ratio", "share", 100}, {"1/s", "rate", 1}}

// A unit is a unit of a limit: its name, the quantity that it measures, and its size.
type unit struct {
	name, kind string
	factor     float64
}

// readLimit reads a value of at_most or at_least.
func readLimit(v any) (limit, error) {
	switch v := v.(type) {
	case int64:
		return limit{value: float64(v)}, nil
	case float64:
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			return limit{value: v}, nil
		}
	case string:
		s := strings.TrimSpace(v)
		i := strings.IndexFunc(s, func(c rune) bool { return !strings.ContainsRune("0123456789.-+_", c) })
		if i < 0 {
			i = len(s)
		}
		n, err := strconv.ParseFloat(strings.ReplaceAll(s[:i], "_", ""), 64)
		written := strings.TrimSpace(s[i:])
		if err != nil {
			break
		}
		if written == "" {
			return limit{value: n}, nil
		}
		var names []string
		for _, u := range units {
			if u.name == written {
				return limit{n, u}, nil
			}
			names = append(names, u.name)
		}
		return limit{}, fmt.Errorf("%q has the unit %q: use one of %s", v, written, strings.Join(names, " "))
	}
	return limit{}, fmt.Errorf("%v is not an amount: write a number in the figure's unit, or a string such "+
		"as \"250ms\"", v)
}

// in is the limit in a figure's unit.
func (l limit) in(name string) (float64, error) {
	if l.unit.name == "" {
		return l.value, nil
	}
	for _, u := range figureUnits {
		if u.name == name && u.kind == l.unit.kind {
			return l.value * l.unit.factor / u.factor, nil
		}
	}
	return 0, fmt.Errorf("the limit is a %s, and the figure is in %s: write it in that unit", l.unit.kind, name)
}
