// Package strict reads TOML in which every key must be known: what scenarios, servers, suites, requirements
// and profiles are written in. An error is a line of the file, what is wrong there, and what was probably
// meant.
package strict

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// A Mistake is one at a line of a file.
type Mistake struct {
	Line int // from 1
	Why  string
}

func (m *Mistake) Error() string { return m.Why }

// Named is err as one line that begins with the file's name and, where it is known, the line.
func Named(file string, err error) error {
	var m *Mistake
	if errors.As(err, &m) && m.Line > 0 {
		return fmt.Errorf("%s:%d: %s", file, m.Line, m.Why)
	}
	return fmt.Errorf("%s: %w", file, err)
}

// The decoder speaks of our Go types there.
var field = regexp.MustCompile(`cannot decode TOML (\S+) into struct field .* of type (\S+)`)

// Decode reads text into v, a pointer to a struct. An error is a [Mistake], wherever the decoder knows where. Fields of
// numbers may have the tags "least" and "most": what the text names must keep to them.
func Decode(text []byte, v any) error {
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(v)
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &unknown) && len(unknown.Errors) > 0:
		e := unknown.Errors[0]
		line, _ := e.Position()
		key := e.Key()
		last := key[len(key)-1]
		why := fmt.Sprintf("there is no key %q", last)
		if known := keys(reflect.TypeOf(v), key[:len(key)-1]); len(known) > 0 {
			why += fmt.Sprintf(": did you mean %q?", Nearest(last, known))
		}
		return &Mistake{line, why}
	case errors.As(err, &wrong):
		line, _ := wrong.Position()
		why := strings.ReplaceAll(strings.TrimPrefix(wrong.Error(), "toml: "), "\n", " ")
		if m := field.FindStringSubmatch(why); m != nil && len(wrong.Key()) > 0 {
			wanted := map[string]string{"string": "text in quotes", "bool": "true or false"}[m[2]]
			why = fmt.Sprintf("%s is a TOML %s, and must be %s", wrong.Key()[len(wrong.Key())-1], m[1], cmp.Or(wanted, "a number"))
		} else if len(wrong.Key()) == 0 {
			why = "this is no TOML: " + why + ": text stands in quotes, numbers begin with a digit"
		}
		return &Mistake{line, why}
	}
	if err != nil {
		return err
	}
	return checkLeast(text, v)
}

// keys are those that the table at path may have, in a value of type t.
func keys(t reflect.Type, path []string) (all []string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		switch {
		case f.Anonymous && name == "":
			all = append(all, keys(f.Type, path)...)
		case name == "" || name == "-":
		case len(path) == 0:
			all = append(all, name)
		case name == path[0]:
			return keys(f.Type, path[1:])
		}
	}
	return all
}

// Nearest is the one of names with the fewest letters to change.
func Nearest(s string, names []string) (best string) {
	least := math.MaxInt
	for _, n := range names {
		if d := distance(s, n); d < least {
			best, least = n, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
