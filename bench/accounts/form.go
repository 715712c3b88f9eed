package accounts

import (
	"fmt"
	"strings"

	"canto/bench"
	"canto/bench/xmpp"
	"canto/session/stanza"
	"canto/xmlstream"
)

// A form has the fields that a server asks for (XEP-0077 section 3.1), and their kind.
type form struct {
	data   bool // it is a data form (XEP-0004), which takes precedence over elements
	fields []field
}

// A field is one of a form.
type field struct {
	name   string
	kind   string   // of a field of a data form
	values []string // values that it has already
}

// elsewhere is the remedy if a form can't be filled in.
const elsewhere = "turn that off on the server, or make the accounts with the server's own tool"

// askForm asks for the form, and returns an error if it can't be filled in.
func (s *stream) askForm() (*form, error) {
	e, err := s.request("get", []byte("<query xmlns='"+xmpp.NSRegister+"'/>"))
	if err != nil {
		return nil, err
	}
	if err := stanzaErrorOf(e); err != nil {
		return nil, err
	}
	q, ok := e.Child(xmpp.Register)
	if !ok {
		return nil, bench.Failure{What: "the server answers a request for its registration form with " +
			"something else", Remedy: elsewhere}
	}
	if x, ok := q.Child(xmpp.DataForm); ok {
		return dataForm(x)
	}
	f := &form{}
	for k, ok := q.First(); ok; k, ok = k.Next() {
		if string(k.Space()) != xmpp.NSRegister {
			continue
		}
		switch name := string(k.Local()); name {
		case "instructions", "registered":
		case "key": // the old protection of forms: its content is sent back
			f.fields = append(f.fields, field{name: name, values: []string{string(k.Text())}})
		default:
			f.fields = append(f.fields, field{name: name})
		}
	}
	return f, f.check()
}

// dataForm reads a data form. A CAPTCHA (XEP-0158) is an error. Optional fields without a value are
// left out.
func dataForm(x xmlstream.Element) (*form, error) {
	f := &form{data: true}
	for k, ok := x.First(); ok; k, ok = k.Next() {
		if string(k.Local()) != "field" || string(k.Space()) != xmpp.NSDataForms {
			continue
		}
		name, _ := k.Attr(stanza.AttrVar)
		kind, _ := k.Attr(stanza.AttrType)
		if len(name) == 0 || string(kind) == "fixed" {
			continue
		}
		g := field{name: string(name), kind: string(kind)}
		for v, ok := k.First(); ok; v, ok = v.Next() {
			switch {
			case v.Is(xmpp.FieldValue):
				g.values = append(g.values, string(v.Text()))
			case string(v.Space()) == xmpp.NSMediaElement: // XEP-0158: a picture to be read
				return nil, captcha
			}
		}
		// XEP-0158 §4.1 names its questions.
		if g.name == "FORM_TYPE" && len(g.values) > 0 && g.values[0] == "urn:xmpp:captcha" ||
			strings.HasSuffix(g.name, "_recog") || g.name == "ocr" || g.name == "qa" {
			return nil, captcha
		}
		_, required := k.Child(xmpp.FieldRequired)
		if required || g.known() || len(g.values) > 0 {
			f.fields = append(f.fields, g)
		}
	}
	return f, f.check()
}

var captcha = bench.Failure{What: "the server wants a captcha to be solved before it makes an account",
	Remedy: elsewhere}

// known reports whether fill has a value for the field.
func (g field) known() bool {
	switch g.name {
	case "username", "password", "email", "name", "nick", "first", "last":
		return true
	}
	return false
}

// check returns an error for a required field that fill has no value for.
func (f *form) check() error {
	has := map[string]bool{}
	for _, g := range f.fields {
		has[g.name] = true
		if !g.known() && len(g.values) == 0 {
			return bench.Failure{What: fmt.Sprintf("the server asks for %.60q, which has no value here", g.name),
				Remedy: elsewhere}
		}
	}
	if !has["username"] || !has["password"] {
		return bench.Failure{What: "the server makes accounts elsewhere: it does not ask for a name and a " +
			"password", Remedy: "make the accounts with the server's own tool"}
	}
	return nil
}

// fill is the form with the data of one account.
func (f *form) fill(user, password, domain string) []byte {
	answers := map[string]string{"username": user, "password": password, "email": user + "@" + domain,
		"name": user, "nick": user, "first": user, "last": user}
	b := []byte("<query xmlns='" + xmpp.NSRegister + "'>")
	if f.data {
		b = append(b, "<x xmlns='"+xmpp.NSDataForms+"' type='submit'>"...)
	}
	for _, g := range f.fields {
		values := g.values
		if v, ok := answers[g.name]; ok && g.known() {
			values = []string{v}
		}
		if !f.data {
			b = append(append(b, '<'), g.name...)
			b = append(b, '>')
			b = xmlstream.AppendText(b, values[0])
			b = append(append(append(b, "</"...), g.name...), '>')
			continue
		}
		b = append(b, "<field var='"...)
		b = xmlstream.AppendValue(b, g.name)
		if g.kind == "hidden" { // its type tells FORM_TYPE apart (XEP-0068)
			b = append(b, "' type='hidden"...)
		}
		b = append(b, "'>"...)
		for _, v := range values {
			b = append(b, "<value>"...)
			b = xmlstream.AppendText(b, v)
			b = append(b, "</value>"...)
		}
		b = append(b, "</field>"...)
	}
	if f.data {
		b = append(b, "</x>"...)
	}
	return append(b, "</query>"...)
}
