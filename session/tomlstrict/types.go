package tomlstrict

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// unmarshaler is the interface of types that read themselves from text.
var unmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

// checkTypes compares the tables, keys and values of text, which must be TOML, with a value of type t that it is decoded
// into. The first that does not fit is a [Mistake]: a key that there is none of, a value of another kind, or text
// that its type does not take. nil: all fit, as far as kinds go.
func checkTypes(text []byte, t reflect.Type) error {
	var found *Mistake
	each(text, func(path Path, line int, value *unstable.Node) {
		if found != nil {
			return
		}
		at := t
		for i, k := range path {
			name, isName := k.(string)
			at = below(at)
			switch {
			case at.Kind() == reflect.Interface || at.Kind() == reflect.Map && !isName:
				return // whatever it is, it may be
			case !isName && at.Kind() == reflect.Slice:
				at = at.Elem()
				continue
			case !isName:
				found = &Mistake{line, fmt.Sprintf("%s is one table: write [%[1]s]", keyOf(path[:i]))}
				return
			case at.Kind() == reflect.Slice && below(at.Elem()).Kind() == reflect.Struct:
				found = &Mistake{line, fmt.Sprintf("%s is a list of tables: write [[%[1]s]]", keyOf(path[:i]))}
				return
			case at.Kind() == reflect.Map:
				at = at.Elem()
				continue
			case at.Kind() != reflect.Struct || reads(at):
				found = &Mistake{line, fmt.Sprintf("%s is a table, and must be %s", keyOf(path[:i]), wanted(at))}
				return
			}
			next, ok := field(at, name)
			if !ok {
				found = &Mistake{line, unknown(name, keys(at))}
				return
			}
			at = next
		}
		key := keyOf(path)
		switch at = below(at); {
		case value != nil:
			if why := fits(key, value, at); why != "" {
				found = &Mistake{line, why}
			}
		case at.Kind() == reflect.Slice && below(at.Elem()).Kind() == reflect.Struct:
			found = &Mistake{line, fmt.Sprintf("%s is a list of tables: write [[%[1]s]]", key)}
		case at.Kind() != reflect.Struct && at.Kind() != reflect.Map && at.Kind() != reflect.Interface || reads(at):
			found = &Mistake{line, fmt.Sprintf("%s is a table, and must be %s", key, wanted(at))}
		}
	})
	if found == nil {
		return nil
	}
	return found
}

// below is what t points to.
func below(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

// reads reports whether a value of type t reads itself from text.
func reads(t reflect.Type) bool { return reflect.PointerTo(t).Implements(unmarshaler) }

// keyOf is the last name of a path.
func keyOf(path Path) string {
	for i := len(path) - 1; i >= 0; i-- {
		if s, ok := path[i].(string); ok {
			return Short(s)
		}
	}
	return "the file"
}

// field is the type of the field of struct t that TOML calls name.
func field(t reflect.Type, name string) (reflect.Type, bool) {
	_, f, ok := named(reflect.New(t).Elem(), name)
	return f.Type, ok && name != ""
}

// unknown says that there is no key of a name, and which was probably meant.
func unknown(name string, known []string) string {
	why := fmt.Sprintf("there is no key %q", Short(name))
	if near := Nearest(name, known); near != "" {
		return why + fmt.Sprintf(": did you mean %q?", near)
	}
	return why + ": one of " + strings.Join(known, ", ")
}

// kinds are TOML's kinds of values, as errors call them.
var kinds = map[unstable.Kind]string{unstable.String: "string", unstable.Bool: "boolean", unstable.Integer: "integer",
	unstable.Float: "float", unstable.Array: "array", unstable.InlineTable: "inline table", unstable.DateTime: "date",
	unstable.LocalDate: "date", unstable.LocalTime: "time", unstable.LocalDateTime: "date"}

// fits says why the value of key can't be one of type t; "": it can.
func fits(key string, value *unstable.Node, t reflect.Type) string {
	t = below(t)
	kind := value.Kind
	ok := true
	switch {
	case reads(t):
		if kind != unstable.String {
			if len(value.Data) > 0 {
				return fmt.Sprintf("%s = %s: it is written in quotes, with its unit", key, Short(string(value.Data)))
			}
			ok = false
			break
		}
		err := reflect.New(t).Interface().(encoding.TextUnmarshaler).UnmarshalText(value.Data)
		if err != nil {
			return fmt.Sprintf("%s = %q: %s", key, Short(string(value.Data)), strings.ReplaceAll(err.Error(), "\n", " "))
		}
	case t.Kind() == reflect.Interface:
	case t.Kind() == reflect.String:
		ok = kind == unstable.String
	case t.Kind() == reflect.Bool:
		ok = kind == unstable.Bool
	case t.Kind() == reflect.Struct || t.Kind() == reflect.Map:
		ok = kind == unstable.InlineTable
		if ok && t.Kind() == reflect.Map {
			for it := value.Children(); it.Next(); {
				if it.Node().Kind != unstable.KeyValue {
					continue
				}
				if why := fits(key, it.Node().Value(), t.Elem()); why != "" {
					return why
				}
			}
		}
	case t.Kind() == reflect.Slice:
		if ok = kind == unstable.Array; ok {
			for it := value.Children(); it.Next(); {
				if it.Node().Kind == unstable.Comment {
					continue
				}
				if why := fits(key, it.Node(), t.Elem()); why != "" {
					return why
				}
			}
		}
	case t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64:
		ok = kind == unstable.Float || kind == unstable.Integer
	default:
		ok = kind == unstable.Integer
	}
	if ok {
		return ""
	}
	return fmt.Sprintf("%s is a TOML %s, and must be %s", key, kinds[kind], wanted(t))
}

// wanted is how a value of type t is written.
func wanted(t reflect.Type) string {
	switch t = below(t); {
	case reads(t) || t.Kind() == reflect.String:
		return "text in quotes"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Struct || t.Kind() == reflect.Map:
		return "a table"
	case t.Kind() == reflect.Slice && below(t.Elem()).Kind() == reflect.Struct:
		return "a list of tables"
	case t.Kind() == reflect.Slice:
		return "a list, in brackets"
	case t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64:
		return "a number"
	}
	return "a whole number"
}
