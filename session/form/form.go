// Package form reads and writes data forms (XEP-0004 2.13.2) with field standardization (XEP-0068) and data
// forms validation (XEP-0122 1.0.2). A form asks for values, and a submission answers it:
//
//	S: <x xmlns='jabber:x:data' type='form'>
//	     <field var='FORM_TYPE' type='hidden'><value>urn:xmpp:mam:2</value></field>
//	     <field var='with' type='jid-single'/></x>
//	C: <x xmlns='jabber:x:data' type='submit'>
//	     <field var='FORM_TYPE' type='hidden'><value>urn:xmpp:mam:2</value></field>
//	     <field var='with'><value>juliet@capulet.lit</value></field></x>
//
// [Parse] reads a submission into a [Data], within [Limits], and the methods of Data return its values with
// their types. A [Definition] describes a form: it writes the form for a client, and checks what the client
// has submitted. What a peer did wrong is an [*Error] that names the field. The stanza error for it depends
// on the protocol: not-acceptable in general (XEP-0004 section 4), bad-request or feature-not-implemented in
// an archive query (XEP-0313 section 4.1).
//
// A Data has memory of its own, so it outlives the element that it was read from. The package has no state;
// any goroutine may call it.
package form

import (
	"slices"

	"canto/xmlstream"
)

// The namespaces, and the variable that names the kind of a form (XEP-0068 section 3).
const (
	NS         = "jabber:x:data"
	NSValidate = "http://jabber.org/protocol/xdata-validate" // of XEP-0122
	FormType   = "FORM_TYPE"
)

// X is the name of a data form.
var X = xmlstream.N(NS, "x")

// The names of the other elements and attributes.
var (
	titleName        = xmlstream.N(NS, "title")
	instructionsName = xmlstream.N(NS, "instructions")
	fieldName        = xmlstream.N(NS, "field")
	valueName        = xmlstream.N(NS, "value")
	optionName       = xmlstream.N(NS, "option")
	requiredName     = xmlstream.N(NS, "required")
	descName         = xmlstream.N(NS, "desc")
	attrVar          = xmlstream.N("", "var")
	attrType         = xmlstream.N("", "type")
	attrLabel        = xmlstream.N("", "label")
)

// The types of a form (XEP-0004 section 3.1): values of [Data.Type].
const (
	TypeForm   = "form"   // asks for values
	TypeSubmit = "submit" // answers a form
	TypeCancel = "cancel" // gives no answer
	TypeResult = "result" // reports values
)

// Limits bound what one form may make a server keep. A field of 0 means its default. They hold for what is
// read, not for what is written.
type Limits struct {
	Fields int // fields, FORM_TYPE included; by default 64
	Values int // values of all fields; by default 256
	Bytes  int // bytes of all variables and values; by default 16 KiB
}

// maxVarBytes bounds the name of a field: an error repeats it.
const maxVarBytes = 256

// withDefaults returns l with the defaults in place of zeros.
func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		v *int
		n int
	}{{&l.Fields, 64}, {&l.Values, 256}, {&l.Bytes, 16 << 10}} {
		if *d.v == 0 {
			*d.v = d.n
		}
	}
	return l
}

// A Field is one field of a [Data].
type Field struct {
	Var    string    // its name, unique in the form
	Type   FieldType // as it was sent; [TypeUnset] if it was left out, as submissions may
	Values []string  // may be empty
}

// A Data is a form with values: a submission, a result, or any other that was read by [ParseFields].
type Data struct {
	Type     string  // of the form: see [TypeSubmit]; empty if the attribute is missing
	FormType string  // the value of FORM_TYPE; empty if there is none (XEP-0068 section 4.1)
	Fields   []Field // in the order of the form, without FORM_TYPE
}

// Is reports whether e is a data form.
func Is(e xmlstream.Element) bool { return e.Is(X) }

// TypeOf returns the type of the form x; empty if the attribute is missing.
func TypeOf(x xmlstream.Element) string {
	t, _ := x.Attr(attrType)
	return string(t)
}

// Parse reads x, an element with the name [X], as a submission. The error is an [*Error]; a form of another
// type is [NotSubmitted], also one that cancels ([TypeOf] tells them apart).
func Parse(x xmlstream.Element, l Limits) (*Data, error) {
	if TypeOf(x) != TypeSubmit {
		return nil, &Error{Reason: NotSubmitted}
	}
	return ParseFields(x, l)
}

// ParseFields reads x, an element with the name [X], whatever its type is. The steps:
//
//  1. Each field gets its name; a second field of that name is a fault. A field of type fixed needs no name,
//     and is left out. Reported items of a result are not read.
//  2. Its values are copied, within l.
//  3. FORM_TYPE is taken out of the fields. In a form and in a result it counts only if it is hidden
//     (XEP-0068 section 4.3); in a submission its type does not matter.
//
// The error is an [*Error].
func ParseFields(x xmlstream.Element, l Limits) (*Data, error) {
	l = l.withDefaults()
	d := &Data{Type: knownType(TypeOf(x))}
	found := false // FORM_TYPE
	fields := 0
	for c, ok := x.First(); ok; c, ok = c.Next() {
		if !c.Is(fieldName) {
			continue
		}
		if fields++; fields > l.Fields {
			return nil, &Error{Reason: TooLarge}
		}
		f, err := parseField(c, &l)
		switch {
		case err != nil:
			return nil, err
		case f.Var == "" && f.Type == Fixed:
			continue
		case f.Var == "":
			return nil, &Error{Reason: NoName}
		case d.field(f.Var) != nil || found && f.Var == FormType:
			return nil, &Error{f.Var, Doubled}
		case f.Var == FormType && (f.Type == Hidden || d.Type != TypeForm && d.Type != TypeResult):
			if len(f.Values) != 1 || f.Values[0] == "" {
				return nil, &Error{f.Var, BadValue}
			}
			d.FormType, found = f.Values[0], true
		default:
			d.Fields = append(d.Fields, f)
		}
	}
	return d, nil
}

// knownType returns t if it is a type of a form, else nothing: such a form is read as data.
func knownType(t string) string {
	switch t {
	case TypeForm, TypeSubmit, TypeCancel, TypeResult:
		return t
	}
	return ""
}

// parseField reads the element c of a field, and takes its values and bytes off l.
func parseField(c xmlstream.Element, l *Limits) (f Field, err error) {
	name, _ := c.Attr(attrVar)
	if l.Bytes -= len(name); len(name) > maxVarBytes || l.Bytes < 0 {
		return f, &Error{Reason: TooLarge}
	}
	f.Var = string(name)
	typ, _ := c.Attr(attrType)
	f.Type = parseFieldType(typ)
	for v, ok := c.First(); ok; v, ok = v.Next() {
		if !v.Is(valueName) {
			continue
		}
		if _, child := v.First(); child {
			return f, &Error{f.Var, BadValue}
		}
		text := v.Text()
		l.Values--
		if l.Bytes -= len(text); l.Values < 0 || l.Bytes < 0 {
			return f, &Error{f.Var, TooLarge}
		}
		f.Values = append(f.Values, string(text))
	}
	return f, nil
}

// field returns the field called name; nil if there is none.
func (d *Data) field(name string) *Field {
	for i := range d.Fields {
		if d.Fields[i].Var == name {
			return &d.Fields[i]
		}
	}
	return nil
}

// Append writes d as a form of its type in the element that is open in a, FORM_TYPE first.
func (d *Data) Append(a *xmlstream.Appender) {
	a.Open(X)
	if d.Type != "" {
		a.Attr(attrType, d.Type)
	}
	if d.FormType != "" {
		a.Open(fieldName).Attr(attrVar, FormType).Attr(attrType, Hidden.String()).
			Open(valueName).Text(d.FormType).Close().Close()
	}
	for i := range d.Fields {
		f := &d.Fields[i]
		a.Open(fieldName).Attr(attrVar, f.Var)
		if f.Type != TypeUnset {
			a.Attr(attrType, f.Type.String())
		}
		for _, v := range f.Values {
			a.Open(valueName).Text(v).Close()
		}
		a.Close()
	}
	a.Close()
}

// A Reason says in which way a form is wrong.
type Reason uint8

// The reasons.
const (
	NotSubmitted  Reason = iota // the form is no submission
	TooLarge                    // it exceeds the limits
	NoName                      // a field has no name
	Doubled                     // two fields have one name
	WrongForm                   // FORM_TYPE is missing, or is not the one that is expected
	Missing                     // a required field is missing or empty
	TooManyValues               // a field for one value has several
	BadValue                    // a value is not of the field's type
	NotAnOption                 // a value is none of the options
	OutOfRange                  // a value is below the least or above the greatest one
)

// reasons has the texts of the reasons.
var reasons = [...]string{
	NotSubmitted:  "the form is not of type submit",
	TooLarge:      "the form is too large",
	NoName:        "a field has no name",
	Doubled:       "the field is there twice",
	WrongForm:     "the FORM_TYPE is missing or another one",
	Missing:       "the field is required",
	TooManyValues: "the field has more than one value",
	BadValue:      "the value is not of the type of the field",
	NotAnOption:   "the value is none of the options",
	OutOfRange:    "the value is out of range",
}

// String returns the reason in words for the user of a client.
func (r Reason) String() string { return reasons[r] }

// An Error is what is wrong with a form that a peer has sent.
type Error struct {
	Field  string // the name of the field, at most 256 bytes; empty if it is about the whole form
	Reason Reason // in which way it is wrong
}

// Error implements error: the reason, after the name of the field. The name may be the peer's, so it must be
// escaped where it is written.
func (e *Error) Error() string {
	if e.Field == "" {
		return e.Reason.String()
	}
	return e.Field + ": " + e.Reason.String()
}

// A FieldType is the type attribute of a field (XEP-0004 section 3.3).
type FieldType uint8

// The types of fields.
const (
	TypeUnset   FieldType = iota // there is no attribute; the field means what the form says, or text-single
	Boolean                      // 0, 1, true or false
	Fixed                        // text that is shown, and no value
	Hidden                       // not shown; given back as it is
	JIDMulti                     // addresses
	JIDSingle                    // one address
	ListMulti                    // some of the options
	ListSingle                   // one of the options
	TextMulti                    // lines of text
	TextPrivate                  // one line that is obscured
	TextSingle                   // one line
)

// fieldTypes has the texts of the types.
var fieldTypes = [...]string{"", "boolean", "fixed", "hidden", "jid-multi", "jid-single", "list-multi",
	"list-single", "text-multi", "text-private", "text-single"}

// String returns t as it is written; empty for [TypeUnset].
func (t FieldType) String() string { return fieldTypes[t] }

// multi reports whether a field of type t may have several values (XEP-0004 section 3.2).
func (t FieldType) multi() bool {
	return t == JIDMulti || t == ListMulti || t == TextMulti || t == Hidden
}

// parseFieldType reads the attribute type of a field. A type that is not known is text-single (XEP-0004
// section 3.3).
func parseFieldType(b []byte) FieldType {
	if i := slices.Index(fieldTypes[:], string(b)); i >= 0 {
		return FieldType(i)
	}
	return TextSingle
}
