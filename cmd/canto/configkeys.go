package main

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"canto/session/tomlstrict"
)

// checkKeys compares c's text, which must be TOML, with v, a pointer to what it will be decoded
// into. It returns an error for the first key that is unknown or that has a value of another kind
// than v expects, with the line and the full name of the key. path is where the text stands in the
// configuration. The decoder alone does not know line or key of every mistake.
func (c *config) checkKeys(v any, path ...string) error {
	m := tomlstrict.Check(c.text, reflect.TypeOf(v))
	if m == nil {
		return nil
	}
	full := slices.Concat(path, m.Path.Names())
	name := shownKey(full)
	found := strings.TrimPrefix(m.Found, "inline ")
	var cause string
	switch {
	case m.Problem == tomlstrict.UnknownKey:
		cause = fmt.Sprintf("unknown key %q%s", name, suggestKey(full[len(full)-1], m.Known))
	case m.Problem == tomlstrict.SingleTable:
		cause = fmt.Sprintf("%s is one table: write [%[1]s]", name)
	case m.Problem == tomlstrict.ListOfTables:
		cause = fmt.Sprintf("%s is a list of tables: write [[%[1]s]]", name)
	case m.Problem == tomlstrict.BadText:
		cause = name + ": " + m.Err.Error()
	case m.Element:
		cause = fmt.Sprintf("%s has a TOML %s, and each of the list must be %s", name, found, expectedText(m.Type))
	default:
		cause = fmt.Sprintf("%s is a TOML %s, and %s is wanted", name, found, expectedText(m.Type))
	}
	err := c.errorAt(cause, full...)
	var ce *configError
	if errors.As(err, &ce) {
		ce.line = m.Line // errorAt knows the line of a key only, not of an element of a list
	}
	return err
}

// maxShownKey is how much of a key an error shows, in bytes.
const maxShownKey = 200

// shownKey returns a key as errors show it: joined by dots, and truncated.
func shownKey(path []string) string {
	name := strings.Join(path, ".")
	if len(name) > maxShownKey {
		name = strings.ToValidUTF8(name[:maxShownKey], "") + "..."
	}
	return name
}

// expectedText says what a value of type t looks like in TOML.
func expectedText(t reflect.Type) string {
	switch {
	case tomlstrict.ReadsText(t) || t.Kind() == reflect.String:
		return "a string"
	case t.Kind() == reflect.Slice:
		return "a list"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Struct || t.Kind() == reflect.Map:
		return "a table"
	}
	return "a number"
}

// keyAt returns the path of the key whose value stands at a line and column of the text.
func (c *config) keyAt(line, column int) (path []string) {
	tomlstrict.Walk(c.text, func(k tomlstrict.Key) {
		if k.Line < line || k.Line == line && k.Column <= column {
			path = k.Path.Names()
		}
	})
	return path
}
