package tomlstrict

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// unmarshaler is the interface of types that decode themselves from text.
var unmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

// An Unquoted is a type that decodes itself from text (encoding.TextUnmarshaler), and that may also be
// written as an integer.
type Unquoted interface {
	// Unquoted marks the type. It is not called.
	Unquoted()
}

// A Problem is what is wrong with a key.
type Problem uint8

const (
	UnknownKey   Problem = iota // the table has no such key; see Mismatch.Known
	SingleTable                 // a list of tables is written where there is one table
	ListOfTables                // one table is written where there is a list of tables
	WrongKind                   // the value, or a table, is of another kind than Mismatch.Type
	NoQuotes                    // the value has no quotes, and its type reads itself from text
	BadText                     // the type reads itself from text, and refuses this one; see Mismatch.Err
)

// A Mismatch is the first key of a text that does not fit a type.
type Mismatch struct {
	Problem Problem // what is wrong
	Path    Path    // of the key
	Line    int     // of the key, or of the element of a list that does not fit, from 1

	Known   []string     // UnknownKey: the keys that the table may have
	Type    reflect.Type // WrongKind, NoQuotes: the type that is wanted, no pointer
	Found   string       // WrongKind, NoQuotes: TOML's word for the kind of the value; "table" for a section
	Element bool         // WrongKind, NoQuotes, BadText: it is an element of the list that the key has
	Value   string       // NoQuotes, BadText: the value as it is written, without quotes
	Err     error        // BadText: the error of the type
}

// Check compares the tables, keys and values of text, which must be TOML, with the type t. It returns the
// first key that does not fit, or nil.
//
// For each key it goes from t along the path, through fields, maps and lists of tables. A name that a
// struct does not have, or a table at a place of another type, is a mismatch. Then it compares the kind of
// the value. An interface accepts everything.
func Check(text []byte, t reflect.Type) (found *Mismatch) {
	Walk(text, func(k Key) {
		if found == nil {
			found = check(k, t)
		}
	})
	return found
}

// check is Check of one key: it returns the mismatch of k, or nil. Its steps: go from t along the path to the
// type of the key, or return the mismatch on the way, such as an unknown key; then compare the value, or the
// table, with that type. Below an interface, and below a map whose key is an index, it accepts everything.
func check(k Key, t reflect.Type) *Mismatch {
	for i, part := range k.Path {
		name, isName := part.(string)
		t = below(t)
		above := Mismatch{Path: k.Path[:i], Line: k.Line, Type: t, Found: "table"}
		switch {
		case t.Kind() == reflect.Interface || t.Kind() == reflect.Map && !isName:
			return nil
		case !isName && t.Kind() == reflect.Slice:
			t = t.Elem()
			continue
		case !isName:
			above.Problem = SingleTable
			return &above
		case isTables(t):
			above.Problem = ListOfTables
			return &above
		case t.Kind() == reflect.Map:
			t = t.Elem()
			continue
		case t.Kind() != reflect.Struct || ReadsText(t):
			above.Problem = WrongKind
			return &above
		}
		next, ok := field(t, name)
		if !ok {
			return &Mismatch{Problem: UnknownKey, Path: k.Path[:i+1], Line: k.Line, Known: keys(t)}
		}
		t = next
	}
	t = below(t)
	m := &Mismatch{Path: k.Path, Line: k.Line, Type: t, Found: "table"}
	switch {
	case k.Value != nil:
		if !m.compare(k, k.Value, t) {
			return m
		}
	case isTables(t):
		m.Problem = ListOfTables
		return m
	case t.Kind() != reflect.Struct && t.Kind() != reflect.Map && t.Kind() != reflect.Interface || ReadsText(t):
		m.Problem = WrongKind
		return m
	}
	return nil
}

// isTables reports whether t is a list of tables.
func isTables(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && below(t.Elem()).Kind() == reflect.Struct && !ReadsText(below(t.Elem()))
}

// compare reports whether value, of key k, fits the type t. If not, m says why. Its steps: fill in m as for a
// value of the wrong kind, then compare by type: text that the type parses, the other scalars, a table, and a
// list element by element. The first element that does not fit sets the line of m. It does not compare the
// keys of an inline table: Walk visits those.
func (m *Mismatch) compare(k Key, value *unstable.Node, t reflect.Type) bool {
	t = below(t)
	kind := value.Kind
	m.Problem, m.Type, m.Found, m.Value = WrongKind, t, kinds[kind], string(value.Data)
	switch {
	case ReadsText(t):
		_, unquoted := reflect.Zero(t).Interface().(Unquoted)
		switch {
		case kind == unstable.Integer && unquoted:
			return true
		case kind == unstable.String:
			m.Problem = BadText
			m.Err = reflect.New(t).Interface().(encoding.TextUnmarshaler).UnmarshalText(value.Data)
			return m.Err == nil
		case len(value.Data) > 0:
			m.Problem = NoQuotes
		}
		return false
	case t.Kind() == reflect.Interface:
		return true
	case t.Kind() == reflect.String:
		return kind == unstable.String
	case t.Kind() == reflect.Bool:
		return kind == unstable.Bool
	case t.Kind() == reflect.Struct || t.Kind() == reflect.Map:
		return kind == unstable.InlineTable // its keys follow
	case t.Kind() == reflect.Slice:
		if kind != unstable.Array {
			return false
		}
		for it := value.Children(); it.Next(); {
			if it.Node().Kind != unstable.Comment && !m.compare(k, it.Node(), t.Elem()) {
				m.Element = true
				m.Line = k.lineOf(it.Node())
				return false
			}
		}
		return true
	case t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64:
		return kind == unstable.Float || kind == unstable.Integer
	}
	return kind == unstable.Integer
}

// why returns the error text of m for Decode.
func (m *Mismatch) why() string {
	key := keyOf(m.Path)
	switch m.Problem {
	case UnknownKey:
		return unknown(key, m.Path[len(m.Path)-1].(string), m.Known)
	case SingleTable:
		return fmt.Sprintf("%s is one table: write [%[1]s]", key)
	case ListOfTables:
		return fmt.Sprintf("%s is a list of tables: write [[%[1]s]]", key)
	case NoQuotes:
		return fmt.Sprintf("%s = %s: it is written in quotes, with its unit", key, Short(m.Value))
	case BadText:
		return fmt.Sprintf("%s = %q: %s", key, Short(m.Value), strings.ReplaceAll(m.Err.Error(), "\n", " "))
	}
	if m.Found == "table" {
		return fmt.Sprintf("%s is a table, and must be %s", key, wanted(m.Type))
	}
	return fmt.Sprintf("%s is a TOML %s, and must be %s", key, m.Found, wanted(m.Type))
}

// below returns the type that t points to, through all pointers.
func below(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

// ReadsText reports whether a value of type t decodes itself from text (encoding.TextUnmarshaler). Such a
// value is written in quotes.
func ReadsText(t reflect.Type) bool { return reflect.PointerTo(t).Implements(unmarshaler) }

// keyOf returns the last name of a path.
func keyOf(path Path) string {
	for i := len(path) - 1; i >= 0; i-- {
		if s, ok := path[i].(string); ok {
			return Short(s)
		}
	}
	return "the file"
}

// field returns the type of the field of the struct t with the TOML name.
func field(t reflect.Type, name string) (reflect.Type, bool) {
	_, f, ok := named(reflect.New(t).Elem(), name)
	return f.Type, ok && name != ""
}

// unknown returns the error text for an unknown key: shown is its shortened name.
func unknown(shown, name string, known []string) string {
	why := fmt.Sprintf("there is no key %q", shown)
	if near := Nearest(name, known); near != "" {
		return why + fmt.Sprintf(": did you mean %q?", near)
	}
	return why + ": one of " + strings.Join(known, ", ")
}

// kinds are the names of TOML's kinds of values in errors.
var kinds = map[unstable.Kind]string{unstable.String: "string", unstable.Bool: "boolean",
	unstable.Integer: "integer",
	unstable.Float:   "float", unstable.Array: "array", unstable.InlineTable: "inline table",
	unstable.DateTime:  "date",
	unstable.LocalDate: "date", unstable.LocalTime: "time", unstable.LocalDateTime: "date"}

// wanted says how a value of type t is written.
func wanted(t reflect.Type) string {
	switch t = below(t); {
	case ReadsText(t) || t.Kind() == reflect.String:
		return "text in quotes"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Struct || t.Kind() == reflect.Map:
		return "a table"
	case isTables(t):
		return "a list of tables"
	case t.Kind() == reflect.Slice:
		return "a list, in brackets"
	case t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64:
		return "a number"
	}
	return "a whole number"
}
