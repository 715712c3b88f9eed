package form

import (
	"math/big"
	"strings"

	"canto/session/jid"
	"canto/xmlstream"
)

// The names of XEP-0122.
var (
	validateName = xmlstream.N(NSValidate, "validate")
	basicName    = xmlstream.N(NSValidate, "basic")
	openName     = xmlstream.N(NSValidate, "open")
	rangeName    = xmlstream.N(NSValidate, "range")
	attrDatatype = xmlstream.N("", "datatype")
	attrMin      = xmlstream.N("", "min")
	attrMax      = xmlstream.N("", "max")
)

// A Definition describes a form. It is meant for a package variable, and does not change; any goroutine may
// use it.
type Definition struct {
	// FormType is the value of FORM_TYPE. A submission must have it.
	FormType     string
	Title        string            // a line for the head of the form; empty: none
	Instructions string            // a line that says what to do; empty: none
	Fields       []FieldDefinition // in the order in which a client shows them
}

// A FieldDefinition describes one field of a [Definition].
type FieldDefinition struct {
	Var      string    // its name
	Type     FieldType // what it takes
	Label    string    // its name for people; empty: none
	Desc     string    // what it is for, in a sentence; empty: none
	Required bool      // a submission must have a value
	Options  []Option  // of a list-single or a list-multi
	Default  []string  // what the form shows when [Definition.Append] is given no other values
	// Datatype is that of XEP-0122 section 3.1, as xs:dateTime; empty: none is written, and it is xs:string. A
	// datatype that this package does not check is written, and checked as xs:string (XEP-0122 section 4.1).
	Datatype string
	// Open lets a list take values that are none of its options (XEP-0122 section 3.2.2).
	Open bool
	// Min and Max are the least and the greatest value of a field with a numeric datatype or xs:dateTime
	// (XEP-0122 section 3.2.3); empty: no bound.
	Min, Max string
}

// An Option is one of the values that a list offers.
type Option struct {
	Value string // what a submission has if it is chosen
	Label string // its name for people; empty: none
}

// Append writes the form for a client in the element that is open in a. values returns what a field shows,
// by its name, such as its present values; if values is nil, a field shows its default.
func (d *Definition) Append(a *xmlstream.Appender, values func(name string) []string) {
	a.Open(X).Attr(attrType, TypeForm)
	appendText(a, titleName, d.Title)
	appendText(a, instructionsName, d.Instructions)
	a.Open(fieldName).Attr(attrVar, FormType).Attr(attrType, Hidden.String())
	appendValue(a, d.FormType)
	a.Close()
	for i := range d.Fields {
		f := &d.Fields[i]
		shown := f.Default
		if values != nil {
			shown = values(f.Var)
		}
		f.append(a, shown)
	}
	a.Close()
}

// append writes f with the values that it shows.
func (f *FieldDefinition) append(a *xmlstream.Appender, shown []string) {
	a.Open(fieldName)
	if f.Var != "" {
		a.Attr(attrVar, f.Var)
	}
	if f.Type != TypeUnset {
		a.Attr(attrType, f.Type.String())
	}
	if f.Label != "" {
		a.Attr(attrLabel, f.Label)
	}
	appendText(a, descName, f.Desc)
	if f.Required {
		a.Open(requiredName).Close()
	}
	f.appendValidation(a)
	for _, v := range shown {
		appendValue(a, v)
	}
	for _, o := range f.Options {
		a.Open(optionName)
		if o.Label != "" {
			a.Attr(attrLabel, o.Label)
		}
		appendValue(a, o.Value)
		a.Close()
	}
	a.Close()
}

// appendValidation writes the datatype and the method of XEP-0122, if f has one.
func (f *FieldDefinition) appendValidation(a *xmlstream.Appender) {
	if f.Datatype == "" && !f.Open && f.Min == "" && f.Max == "" {
		return
	}
	a.Open(validateName)
	if f.Datatype != "" {
		a.Attr(attrDatatype, f.Datatype)
	}
	switch {
	case f.Open:
		a.Open(openName).Close()
	case f.Min != "" || f.Max != "":
		a.Open(rangeName)
		if f.Min != "" {
			a.Attr(attrMin, f.Min)
		}
		if f.Max != "" {
			a.Attr(attrMax, f.Max)
		}
		a.Close()
	default:
		a.Open(basicName).Close()
	}
	a.Close()
}

// appendText writes an element with a text, unless that is empty.
func appendText(a *xmlstream.Appender, name xmlstream.Name, text string) {
	if text != "" {
		a.Open(name).Text(text).Close()
	}
}

// appendValue writes one value.
func appendValue(a *xmlstream.Appender, v string) { a.Open(valueName).Text(v).Close() }

// Check checks a submission against d. unknown is the name of the first field that d does not have, and
// empty if there is none: a submission may have such fields, and they are ignored (XEP-0004 section 3.1),
// but an archive answers feature-not-implemented (XEP-0313 section 4.1.5). err is the first fault, an
// [*Error]: another FORM_TYPE, a required field without a value, or a value that its field does not take. A
// field of s that is missing or empty, and that is not required, is not checked: what that means is for the
// caller (XEP-0004 section 3.5).
func (d *Definition) Check(s *Data) (unknown string, err error) {
	if s.FormType != d.FormType {
		return "", &Error{FormType, WrongForm}
	}
	for i := range s.Fields {
		if d.definitionOf(s.Fields[i].Var) == nil && s.Fields[i].Type != Fixed {
			unknown = s.Fields[i].Var
			break
		}
	}
	for i := range d.Fields {
		if e := d.Fields[i].check(s.Values(d.Fields[i].Var)); e != nil {
			return unknown, e
		}
	}
	return unknown, nil
}

// definitionOf returns the definition of the field called name; nil if there is none.
func (d *Definition) definitionOf(name string) *FieldDefinition {
	for i := range d.Fields {
		if d.Fields[i].Var == name {
			return &d.Fields[i]
		}
	}
	return nil
}

// check checks the values that were submitted for f; nil if they are right.
func (f *FieldDefinition) check(values []string) *Error {
	if f.Type == Fixed {
		return nil // it takes no value
	}
	if len(values) == 0 {
		if f.Required {
			return &Error{f.Var, Missing}
		}
		return nil
	}
	if len(values) > 1 && !f.Type.multi() {
		return &Error{f.Var, TooManyValues}
	}
	for _, v := range values {
		if r, ok := f.checkValue(v); !ok {
			return &Error{f.Var, r}
		}
	}
	return nil
}

// checkValue checks one value of f. If ok is false, r is the reason.
func (f *FieldDefinition) checkValue(v string) (r Reason, ok bool) {
	switch f.Type {
	case Boolean:
		_, ok = parseBool(v)
		return BadValue, ok
	case JIDSingle, JIDMulti:
		_, err := jid.Parse(v)
		return BadValue, err == nil
	case ListSingle, ListMulti:
		if !f.Open && !isOption(f.Options, v) {
			return NotAnOption, false
		}
	}
	return f.checkDatatype(v)
}

// checkDatatype checks v against the datatype and the range of f.
func (f *FieldDefinition) checkDatatype(v string) (r Reason, ok bool) {
	if !isDatatype(f.Datatype, v) {
		return BadValue, false
	}
	if f.Min != "" && less(f.Datatype, v, f.Min) || f.Max != "" && less(f.Datatype, f.Max, v) {
		return OutOfRange, false
	}
	return 0, true
}

// The bounds of whole numbers by datatype; an empty one is none.
var integers = map[string]struct{ least, most string }{
	"xs:integer":            {"", ""},
	"xs:long":               {"-9223372036854775808", "9223372036854775807"},
	"xs:int":                {"-2147483648", "2147483647"},
	"xs:short":              {"-32768", "32767"},
	"xs:byte":               {"-128", "127"},
	"xs:nonNegativeInteger": {"0", ""},
	"xs:positiveInteger":    {"1", ""},
	"xs:unsignedInt":        {"0", "4294967295"},
}

// maxIntegerBytes bounds the text of a whole number: no datatype that a form of ours has needs more.
const maxIntegerBytes = 32

// isDatatype reports whether v is of a datatype. A datatype that is not known is xs:string (XEP-0122
// section 5.1).
func isDatatype(datatype, v string) bool {
	if b, ok := integers[datatype]; ok {
		return isInteger(v) && !(b.least != "" && lessInteger(v, b.least)) &&
			!(b.most != "" && lessInteger(b.most, v))
	}
	switch datatype {
	case "xs:dateTime":
		_, ok := DateTime(v)
		return ok
	case "xs:boolean":
		_, ok := parseBool(v)
		return ok
	}
	return true
}

// isInteger reports whether v is a whole number of XML Schema: a sign that may be missing, and digits.
func isInteger(v string) bool {
	digits := strings.TrimPrefix(strings.TrimPrefix(v, "-"), "+")
	if digits == "" || len(v) > maxIntegerBytes || len(v)-len(digits) > 1 {
		return false
	}
	for i := range len(digits) {
		if !isDigit(digits[i]) {
			return false
		}
	}
	return true
}

// less reports whether v is below w; both are of a datatype that has an order. Values of others are not
// compared.
func less(datatype, v, w string) bool {
	if _, ok := integers[datatype]; ok {
		return lessInteger(v, w)
	}
	if datatype == "xs:dateTime" {
		a, _ := DateTime(v)
		b, _ := DateTime(w)
		return a.Before(b)
	}
	return false
}

// lessInteger compares two whole numbers, which may have more digits than 64 bits hold.
func lessInteger(v, w string) bool {
	var a, b big.Int
	a.SetString(v, 10)
	b.SetString(w, 10)
	return a.Cmp(&b) < 0
}
