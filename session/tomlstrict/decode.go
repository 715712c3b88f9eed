// Package tomlstrict decodes TOML files in which every key must be known: the configuration of canto, and
// the scenarios, servers, suites, requirements and profiles of canto-bench. An error has a line of the
// file; it says what is wrong there, and which key was probably meant.
//
// [Decode] does all of it: it decodes a text into a struct and checks the limits in the tags of its
// fields. Below it, [Check] compares the keys and values of a text with a type (types.go), [Walk] visits
// the keys of a text with their lines (position.go), and [Line] finds the line of a key. Programs that
// word their errors themselves use these. All functions may be called by any goroutine.
package tomlstrict

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// A Mistake is an error at a line of a file.
type Mistake struct {
	Line int    // from 1
	Why  string // one line
}

// Error returns Why.
func (m *Mistake) Error() string { return m.Why }

// Named returns err as one line that begins with the file's name and, if it is known, the line.
func Named(file string, err error) error {
	var m *Mistake
	if errors.As(err, &m) && m.Line > 0 {
		return fmt.Errorf("%s:%d: %s", file, m.Line, m.Why)
	}
	return fmt.Errorf("%s: %w", file, err)
}

// Decode decodes text into v, a pointer to a struct. Its steps: the decoder reads the text; Check compares
// it with the type of v, which gives a better error than the decoder's; then the numbers are compared with
// the limits in the tags.
//
// An error is a [Mistake] with its line and key. A type that decodes itself from text
// (encoding.TextUnmarshaler) must be written in quotes, because a bare number has no unit. Number fields
// may have the tags "least" and "most", limits for a written value; with usual:"none" the error does not
// offer to leave the field out.
func Decode(text []byte, v any) error {
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(v)
	var wrong *toml.DecodeError
	if errors.As(err, &wrong) && len(wrong.Key()) == 0 {
		line, _ := wrong.Position()
		return &Mistake{line, "this is no TOML: " + decoders(wrong) +
			": text stands in quotes, numbers begin with a digit"}
	}
	if m := Check(text, reflect.TypeOf(v)); m != nil {
		return &Mistake{m.Line, m.why()}
	}
	if wrong != nil {
		line, _ := wrong.Position()
		return &Mistake{line, Short(wrong.Key()[len(wrong.Key())-1]) + ": " + decoders(wrong)}
	}
	if err != nil {
		return err
	}
	return checkLeast(text, v)
}

// decoders returns the decoder's text of an error, in one line.
func decoders(e *toml.DecodeError) string {
	return strings.ReplaceAll(strings.TrimPrefix(e.Error(), "toml: "), "\n", " ")
}

// Short returns a text of a file as an error shows it: long text is cut.
func Short(s string) string {
	const most = 40
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

// keys returns the keys that a table of type t may have.
func keys(t reflect.Type) (all []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		switch {
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			all = append(all, keys(f.Type)...)
		case name != "" && name != "-":
			all = append(all, name)
		}
	}
	return all
}

// Nearest returns the one of names that s was probably meant to be: the first of those with the smallest
// distance. It returns "" if none is near enough. In a short name one letter may be wrong, in a longer one
// a third of the letters and one more. Two swapped letters count as one mistake.
func Nearest(s string, names []string) (best string) {
	const (
		short   = 4   // letters: two of them may be another word
		longest = 100 // no key has as many, and distance takes time and memory by the square
	)
	if len(s) > longest {
		return ""
	}
	most := len(s)/3 + 1
	if len(s) <= short {
		most = 1
	}
	for _, n := range names {
		if d := distance(s, n); d <= most {
			best, most = n, d-1
		}
	}
	return best
}

// distance returns how many letters must be inserted, deleted, replaced or swapped with their neighbour to
// turn a into b: the optimal string alignment distance.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			rows[i][j] = min(change, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
