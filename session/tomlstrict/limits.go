package tomlstrict

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
)

// checkLeast compares the numbers in text with the tags of v's fields. A written number must be at least
// the tag "least", and at most the tag "most", if the field has one. Tags have the same form as values in
// a file. A key that is not in text keeps its default and is not checked; a written 0 is checked.
func checkLeast(text []byte, v any) error {
	var found error
	Walk(text, func(k Key) {
		path, line, value := k.Path, k.Line, k.Value
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

// at returns the field of v at the path, and its tags; false if there is none.
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

// named returns the field of the struct v with the TOML name. It searches embedded structs too.
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

// numberOf returns the value of a number; false for any other value.
func numberOf(v reflect.Value) (float64, bool) {
	switch {
	case v.CanInt():
		return float64(v.Int()), true
	case v.CanFloat():
		return v.Float(), true
	}
	return 0, false
}

// limitOf parses a tag as a value of type t. It panics if that fails: tags are part of the program.
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
