package tomlstrict

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// A Path leads to a value of a file: names of keys, and numbers, from 0, of tables in a list: "phase", 1, "do", 0,
// "rate".
type Path []any

// A Misplaced is what is wrong with the value at a path. [Placed] makes a [Mistake] of it, where the text is known.
type Misplaced struct {
	Path Path
	Why  string
}

func (m *Misplaced) Error() string { return m.Why }

// At is a [Misplaced].
func At(path Path, format string, a ...any) error { return &Misplaced{path, fmt.Sprintf(format, a...)} }

// Placed is err with the line of text that it is about: a [Misplaced] becomes a [Mistake] at its value, or, if the text
// does not have it, at the nearest table around it.
func Placed(text []byte, err error) error {
	m, ok := err.(*Misplaced)
	if !ok {
		return err
	}
	best, line := 0, 0
	each(text, func(path Path, at int, _ *unstable.Node) {
		n := 0
		for n < len(path) && n < len(m.Path) && path[n] == m.Path[n] {
			n++
		}
		if n > best {
			best, line = n, at
		}
	})
	return &Mistake{line, m.Why}
}

// each calls f with the path and the line of each table and each key of text, which must be TOML, and with the key's
// value, nil for a table.
func each(text []byte, f func(path Path, line int, value *unstable.Node)) {
	var p unstable.Parser
	p.Reset(text)
	lists := make(map[string]int) // of tables: how many there are already
	section := Path{}
	// extend adds the keys of n to a path; what is the name of a list stands for its last table.
	extend := func(path Path, n *unstable.Node) (Path, int) {
		path, line := append(Path{}, path...), 0
		for it := n.Key(); it.Next(); {
			k := it.Node()
			line = p.Shape(k.Raw).Start.Line
			path = append(path, string(k.Data))
			if count := lists[fmt.Sprint(path)]; count > 0 && !it.IsLast() {
				path = append(path, count-1)
			}
		}
		return path, line
	}
	var visit func(above Path, n *unstable.Node)
	value := func(path Path, v *unstable.Node) {
		switch v.Kind {
		case unstable.InlineTable:
			for it := v.Children(); it.Next(); {
				if it.Node().Kind == unstable.KeyValue {
					visit(path, it.Node())
				}
			}
		case unstable.Array:
			i := 0
			for it := v.Children(); it.Next(); {
				if it.Node().Kind == unstable.InlineTable {
					for in := it.Node().Children(); in.Next(); {
						if in.Node().Kind == unstable.KeyValue {
							visit(append(append(Path{}, path...), i), in.Node())
						}
					}
				}
				if it.Node().Kind != unstable.Comment {
					i++
				}
			}
		}
	}
	visit = func(above Path, n *unstable.Node) {
		path, line := extend(above, n)
		f(path, line, n.Value())
		value(path, n.Value())
	}
	for p.NextExpression() {
		switch n := p.Expression(); n.Kind {
		case unstable.KeyValue:
			visit(section, n)
		case unstable.Table, unstable.ArrayTable:
			path, line := extend(nil, n)
			if n.Kind == unstable.ArrayTable {
				name := fmt.Sprint(path)
				lists[name]++
				path = append(path, lists[name]-1)
			} else if count := lists[fmt.Sprint(path)]; count > 0 {
				path = append(path, count-1)
			}
			section = path
			f(path, line, nil)
		}
	}
}

// checkLeast compares what text names with the tags of v's fields: a number that is written must be at least what the
// tag "least" says, and at most what the tag "most" says, both written as the file would write them. What text does
// not name has its default, and is not looked at; so a 0 that is written is never taken for nothing written.
func checkLeast(text []byte, v any) error {
	var found error
	each(text, func(path Path, line int, value *unstable.Node) {
		if found != nil || value == nil {
			return
		}
		f, field, ok := at(reflect.ValueOf(v), path)
		if !ok {
			return
		}
		least, most := field.Tag.Get("least"), field.Tag.Get("most")
		number, ok := numberOf(f)
		if !ok || least == "" {
			return
		}
		if !(number >= limitOf(f.Type(), least)) || most != "" && number > limitOf(f.Type(), most) {
			why := fmt.Sprintf("%s = %s: it is %s or more", path[len(path)-1], value.Data, least)
			if most != "" {
				why = fmt.Sprintf("%s = %s: it is from %s to %s", path[len(path)-1], value.Data, least, most)
			}
			if field.Tag.Get("usual") != "none" {
				why += ", or left out for what is usual"
			}
			found = &Mistake{line, why}
		}
	})
	return found
}

// at is the field of v that path leads to.
func at(v reflect.Value, path Path) (f reflect.Value, field reflect.StructField, ok bool) {
	for _, k := range path {
		for v.Kind() == reflect.Pointer && !v.IsNil() {
			v = v.Elem()
		}
		switch k := k.(type) {
		case int:
			if v.Kind() != reflect.Slice || k >= v.Len() {
				return v, field, false
			}
			v = v.Index(k)
		case string:
			if v.Kind() != reflect.Struct {
				return v, field, false
			}
			if v, field, ok = named(v, k); !ok {
				return v, field, false
			}
		}
	}
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	return v, field, true
}

// named is the field of struct v that TOML calls name, those of embedded structs among them.
func named(v reflect.Value, name string) (reflect.Value, reflect.StructField, bool) {
	t := v.Type()
	for i := range t.NumField() {
		field := t.Field(i)
		tag, _, _ := strings.Cut(field.Tag.Get("toml"), ",")
		if tag == name {
			return v.Field(i), field, true
		}
		if field.Anonymous && tag == "" && field.Type.Kind() == reflect.Struct {
			if f, sub, ok := named(v.Field(i), name); ok {
				return f, sub, true
			}
		}
	}
	return v, reflect.StructField{}, false
}

func numberOf(v reflect.Value) (float64, bool) {
	switch {
	case v.CanInt():
		return float64(v.Int()), true
	case v.CanFloat():
		return v.Float(), true
	}
	return 0, false
}

// limitOf reads a tag as a value of type t. The tags are this program's own: one that can't be read is a mistake in it.
func limitOf(t reflect.Type, tag string) float64 {
	v := reflect.New(t)
	var err error
	if u, ok := v.Interface().(encoding.TextUnmarshaler); ok {
		err = u.UnmarshalText([]byte(tag))
	} else {
		_, err = fmt.Sscan(tag, v.Interface())
	}
	if err != nil {
		panic(fmt.Sprintf("tomlstrict: the tag %q of a %s: %v", tag, t, err))
	}
	n, _ := numberOf(v.Elem())
	return n
}
