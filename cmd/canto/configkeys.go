package main

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// checkKeys compares c's text with v, a pointer to what it is decoded into: the first key that is not known,
// or whose value is of another kind than is wanted, is an error with its line and its full name. path is
// where the text stands in the configuration. The decoder itself does not know the line or the key of all
// of them. Text that is no TOML is the decoder's.
func (c *config) checkKeys(v any, path ...string) (err error) {
	c.eachValue(func(key []string, line int, value *unstable.Node) {
		if err == nil {
			err = c.checkKey(reflect.TypeOf(v), key, value, path)
		}
	})
	return err
}

// checkKey is shape for one key. value is nil for a table.
func (c *config) checkKey(t reflect.Type, key []string, value *unstable.Node, above []string) error {
	for i, k := range key {
		t = deref(t)
		full := slices.Concat(above, key[:i+1])
		switch {
		case isText(t) || t.Kind() != reflect.Struct && t.Kind() != reflect.Map && t.Kind() != reflect.Interface:
			full = full[:len(full)-1]
			return c.errorAt(fmt.Sprintf("%s is a TOML table, and %s is wanted", shownKey(full), expectedText(t)),
				full...)
		case t.Kind() == reflect.Interface:
			return nil
		case t.Kind() == reflect.Map:
			t = t.Elem()
		default:
			known := knownKeys(t, nil)
			f, ok := fieldOf(t, k)
			if !ok {
				return c.errorAt(fmt.Sprintf("unknown key %q%s", shownKey(full), suggestKey(k, known)), full...)
			}
			t = f.Type
		}
	}
	t = deref(t)
	full := slices.Concat(above, key)
	kind := "table"
	if value != nil {
		kind = strings.ToLower(value.Kind.String())
	}
	if !accepts(t, value) {
		return c.errorAt(fmt.Sprintf("%s is a TOML %s, and %s is wanted", shownKey(full), tomlKindName(kind),
			expectedText(t)),
			full...)
	}
	if t.Kind() == reflect.Slice && value != nil {
		for it := value.Children(); it.Next(); {
			if n := it.Node(); n.Kind != unstable.Comment && !accepts(deref(t.Elem()), n) {
				return c.errorAt(fmt.Sprintf("%s has a TOML %s, and each of the list must be %s", shownKey(full),
					tomlKindName(strings.ToLower(n.Kind.String())), expectedText(deref(t.Elem()))), full...)
			}
		}
	}
	return nil
}

// maxShownKey is how much of a name is shown, in bytes.
const maxShownKey = 200

// shownKey is a key as it is shown: in one piece, and not the whole of a name that is no name.
func shownKey(path []string) string {
	name := strings.Join(path, ".")
	if len(name) > maxShownKey {
		name = strings.ToValidUTF8(name[:maxShownKey], "") + "..."
	}
	return name
}

func tomlKindName(kind string) string {
	switch kind {
	case "inlinetable":
		return "table"
	case "bool":
		return "boolean"
	}
	return kind
}

func deref(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

// isText reports whether a t is written as a string that it reads itself.
func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func fieldOf(t reflect.Type, key string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); key != "" && f.Tag.Get("toml") == key {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// accepts reports whether value, nil for a table, may be written for a t. A size may be a number, too: of
// bytes.
func accepts(t reflect.Type, value *unstable.Node) bool {
	kind := unstable.InlineTable
	if value != nil {
		kind = value.Kind
	}
	switch {
	case t.Kind() == reflect.Interface:
		return true
	case isText(t):
		return kind == unstable.String || kind == unstable.Integer && t == reflect.TypeFor[size]()
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return kind == unstable.InlineTable
	case reflect.Slice:
		return kind == unstable.Array
	case reflect.String:
		return kind == unstable.String
	case reflect.Bool:
		return kind == unstable.Bool
	default: // numbers
		return kind == unstable.Integer
	}
}

// expectedText says what is written for a t.
func expectedText(t reflect.Type) string {
	switch {
	case isText(t) || t.Kind() == reflect.String:
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

// keyAt is the path of the key whose value stands at a line and column of the text.
func (c *config) keyAt(line, column int) (path []string) {
	c.eachPlace(func(key []string, l, col int, _ *unstable.Node) {
		if l < line || l == line && col <= column {
			path = key
		}
	})
	return path
}
