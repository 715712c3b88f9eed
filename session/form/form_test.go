package form

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"canto/session/jid"
	"canto/xmlstream"
)

// element parses s.
func element(t testing.TB, s string) xmlstream.Element {
	t.Helper()
	e, err := xmlstream.Parse([]byte(s))
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return e
}

// submit is a submission with the fields.
func submit(fields string) string { return "<x xmlns='jabber:x:data' type='submit'>" + fields + "</x>" }

// field is one field of a submission.
func field(name string, values ...string) string {
	s := "<field var='" + name + "'>"
	for _, v := range values {
		s += "<value>" + v + "</value>"
	}
	return s + "</field>"
}

func TestParse(t *testing.T) {
	for in, want := range map[string]Data{
		submit(""): {Type: TypeSubmit},
		submit(field("FORM_TYPE", "urn:xmpp:mam:2") + field("with", "a@b")): {Type: TypeSubmit,
			FormType: "urn:xmpp:mam:2", Fields: []Field{{Var: "with", Values: []string{"a@b"}}}},
		submit("<title>t</title><field type='fixed'><value>Section</value></field>" +
			"<field var='v' type='text-multi'>" +
			"<desc>d</desc><value>one &amp; two</value><value/><option><value>no</value></option></field>"): {
			Type: TypeSubmit, Fields: []Field{{"v", TextMulti, []string{"one & two", ""}}}},
		submit("<field var='v' type='x-colour'/>"): {Type: TypeSubmit, Fields: []Field{{"v", TextSingle, nil}}},
		submit("<field xmlns='other' var='v'/>"):   {Type: TypeSubmit},
		// XEP-0068 section 4.3: the type of FORM_TYPE matters in forms and results only.
		submit("<field var='FORM_TYPE' type='text-single'><value>a</value></field>"): {Type: TypeSubmit,
			FormType: "a"},
		"<x xmlns='jabber:x:data' type='result'>" + field("FORM_TYPE", "a") + "</x>": {Type: TypeResult,
			Fields: []Field{{Var: "FORM_TYPE", Values: []string{"a"}}}},
		"<x xmlns='jabber:x:data'>" + field("FORM_TYPE", "a") + "</x>": {FormType: "a"},
		"<x xmlns='jabber:x:data' type='result'>" +
			"<field var='FORM_TYPE' type='hidden'><value>a</value></field></x>": {
			Type: TypeResult, FormType: "a"},
	} {
		e := element(t, in)
		got, err := ParseFields(e, Limits{})
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s:\n%+v, %v; want\n%+v", in, got, err, want)
			continue
		}
		if want.Type == TypeSubmit {
			if got, err := Parse(e, Limits{}); err != nil || !reflect.DeepEqual(*got, want) {
				t.Errorf("%s: %+v, %v", in, got, err)
			}
		}
		var a xmlstream.Appender
		got.Append(&a)
		again, err := ParseFields(element(t, string(a.B)), Limits{})
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%s\nwas written as %s: %v", in, a.B, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	lim := Limits{Fields: 3, Values: 4, Bytes: 100}
	for in, want := range map[string]Error{
		"<x xmlns='jabber:x:data'/>":                              {"", NotSubmitted},
		"<x xmlns='jabber:x:data' type='form'/>":                  {"", NotSubmitted},
		"<x xmlns='jabber:x:data' type='cancel'/>":                {"", NotSubmitted},
		submit("<field><value>a</value></field>"):                 {"", NoName},
		submit("<field var=''/>"):                                 {"", NoName},
		submit(field("a") + field("b") + field("a")):              {"a", Doubled},
		submit(field("FORM_TYPE", "a") + field("FORM_TYPE", "a")): {"FORM_TYPE", Doubled},
		submit(field("FORM_TYPE")):                                {"FORM_TYPE", BadValue},
		submit(field("FORM_TYPE", "a", "b")):                      {"FORM_TYPE", BadValue},
		submit("<field var='a'><value>x<b/></value></field>"):     {"a", BadValue},
		submit(field("a") + field("b") + field("c") + field("d")): {"", TooLarge},
		submit(strings.Repeat("<field type='fixed'/>", 4)):        {"", TooLarge},
		submit(field("a", "1", "2", "3") + field("b", "4", "5")):  {"b", TooLarge},
		submit(field("a", strings.Repeat("x", 100))):              {"a", TooLarge},
		submit(field(strings.Repeat("x", 101))):                   {"", TooLarge},
	} {
		got, err := Parse(element(t, in), lim)
		var fault *Error
		if !errors.As(err, &fault) || *fault != want || got != nil {
			t.Errorf("%s: %+v, %v; want %v", in, got, err, &want)
		}
	}
	// A name is repeated in an error, so it is short whatever the limits are.
	if _, err := Parse(element(t, submit(field(strings.Repeat("x", 257)))), Limits{Bytes: 1 << 20}); err == nil {
		t.Error("a name of 257 bytes was taken")
	}
	if _, err := Parse(element(t, submit(field("v", strings.Repeat("x", 17<<10)))), Limits{}); err == nil {
		t.Error("the default limits were not applied")
	}
}

func TestValues(t *testing.T) {
	d, err := Parse(element(t, submit(field("none")+field("empty", "")+field("one", "v")+field("two", "v", "w")+
		field("yes", "1")+field("no", "false")+field("jid", "Juliet@Capulet.lit/x")+
		field("jids", "a@b", "A@b", "c@d")+field("badjids", "a@b", "@")+field("time", "2010-06-07T00:00:00Z")+
		field("num", "-7"))), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	say := func(v any, ok bool, err error) string {
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%v %v", v, ok)
	}
	text := func(n string) string { v, ok, err := d.Text(n); return say(v, ok, err) }
	boolean := func(n string) string { v, ok, err := d.Bool(n); return say(v, ok, err) }
	addr := func(n string) string { v, ok, err := d.JID(n); return say(v.String(), ok, err) }
	moment := func(n string) string { v, ok, err := d.Time(n); return say(v.Format(time.RFC3339), ok, err) }
	number := func(n string) string { v, ok, err := d.Int(n, -10, 10); return say(v, ok, err) }
	const none = " false"
	for _, c := range []struct{ got, want string }{
		{text("absent"), none}, {text("none"), none}, {text("empty"), none}, {text("one"), "v true"},
		{text("two"), "two: the field has more than one value"},
		{boolean("yes"), "true true"}, {boolean("no"), "false true"}, {boolean("empty"), "false false"},
		{boolean("one"), "one: the value is not of the type of the field"},
		{boolean("two"), "two: the field has more than one value"},
		{addr("jid"), "juliet@capulet.lit/x true"}, {addr("absent"), none},
		{addr("badjids"), "badjids: the field has more than one value"},
		{moment("time"), "2010-06-07T00:00:00Z true"}, {moment("one"), "one: " + BadValue.String()},
		{number("num"), "-7 true"}, {number("yes"), "1 true"},
		{number("one"), "one: " + BadValue.String()},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
	if _, _, err := d.Int("num", 0, 10); err == nil || err.(*Error).Reason != OutOfRange {
		t.Errorf("-7 from 0 to 10: %v", err)
	}
	if d.Values("empty") != nil || d.Values("none") != nil || !slicesEqual(d.Values("two"), "v", "w") {
		t.Errorf("%q %q %q", d.Values("empty"), d.Values("none"), d.Values("two"))
	}
	if !d.Has("none") || !d.Has("empty") || d.Has("absent") {
		t.Error("Has")
	}
	list, err := d.JIDs("jids")
	if err != nil || len(list) != 2 || list[0] != jid.FromPrepared("a@b") || list[1] != jid.FromPrepared("c@d") {
		t.Errorf("%v, %v", list, err)
	}
	if list, err := d.JIDs("absent"); list != nil || err != nil {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := d.JIDs("badjids"); err == nil {
		t.Error("a bad address was taken")
	}
}

func slicesEqual(got []string, want ...string) bool { return reflect.DeepEqual(got, want) }

func TestDateTime(t *testing.T) {
	for in, want := range map[string]string{
		"2010-06-07T00:00:00Z":                                 "2010-06-07T00:00:00Z",
		"2010-06-07T00:00:00+00:00":                            "2010-06-07T00:00:00Z",
		"2010-06-07T00:00:00-00:00":                            "2010-06-07T00:00:00Z",
		"1969-07-21T02:56:15-05:00":                            "1969-07-21T07:56:15Z",
		"1969-07-21T02:56:15+14:00":                            "1969-07-20T12:56:15Z",
		"2024-02-29T23:59:59.5Z":                               "2024-02-29T23:59:59.5Z",
		"2010-06-07T00:00:00.123456789Z":                       "2010-06-07T00:00:00.123456789Z",
		"2010-06-07T00:00:00.1234567899999+01:00":              "2010-06-06T23:00:00.123456789Z",
		"2016-12-31T23:59:60Z":                                 "2017-01-01T00:00:00Z",
		"2017-01-01T00:59:60+01:00":                            "2017-01-01T00:00:00Z",
		"0001-01-01T00:00:00Z":                                 "0001-01-01T00:00:00Z",
		"9999-12-31T23:59:59Z":                                 "9999-12-31T23:59:59Z",
		"2010-06-07T00:00:00." + strings.Repeat("0", 43) + "Z": "2010-06-07T00:00:00Z", // 64 bytes
	} {
		got, ok := DateTime(in)
		if !ok || got.Format(time.RFC3339Nano) != want || got.Location() != time.UTC {
			t.Errorf("%s: %v %v, want %s", in, got, ok, want)
		}
	}
}

// Dates of attack K89 are no dates; each is bad-request in an archive query.
func TestAttackK89Dates(t *testing.T) {
	for _, in := range []string{"", "Z", "2010-06-07", "2010-06-07T00:00:00", "20100607T00:00:00Z",
		"2010-06-07t00:00:00Z", "2010-06-07T00:00:00z", "2010-06-07 00:00:00Z", "0000-01-01T00:00:00Z",
		"-0001-01-01T00:00:00Z", "1000000000-01-01T00:00:00Z", "1000000000",
		"2010-00-07T00:00:00Z", "2010-13-07T00:00:00Z",
		"2010-06-00T00:00:00Z", "2010-06-31T00:00:00Z", "2023-02-29T00:00:00Z", "1900-02-29T00:00:00Z",
		"2010-06-07T24:00:00Z", "2010-06-07T00:60:00Z", "2010-06-07T00:00:61Z", "2010-06-07T00:00:60Z",
		"2016-12-31T23:59:60+01:00", "2010-06-07T00:00:00.Z", "2010-06-07T00:00:00.5", "2010-06-07T00:00:00,5Z",
		"2010-06-07T00:00:00+99:99", "2010-06-07T00:00:00-99:99", "2010-06-07T00:00:00+14:01",
		"2010-06-07T00:00:00-15:00",
		"2010-06-07T00:00:00+01:60", "2010-06-07T00:00:00+0100", "2010-06-07T00:00:00+01",
		"2010-06-07T00:00:00 01:00",
		"2010-06-07T00:00:00ZZ", " 2010-06-07T00:00:00Z", "2010-06-07T00:00:0\u0661Z", "2010-06-07T00:00:00Z\x00",
		"2010-06-07T00:00:00." + strings.Repeat("0", 44) + "Z",
		"2010-06-07T00:00:00." + strings.Repeat("9", 1000) + "Z",
	} {
		if got, ok := DateTime(in); ok {
			t.Errorf("%s was taken as %v", in, got)
		}
		d, err := Parse(element(t, submit(field("start", strings.ReplaceAll(in, "\x00", "?")))), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		v, ok, err := d.Time("start")
		if in != "" && (ok || err == nil || err.(*Error).Field != "start") {
			t.Errorf("%s: %v %v", in, v, err)
		}
	}
}

// room is a form with every kind of field.
var room = Definition{
	FormType: "urn:test:room", Title: "A room", Instructions: "Fill it in",
	Fields: []FieldDefinition{
		{Type: Fixed, Default: []string{"Section 1"}},
		{Var: "name", Type: TextSingle, Label: "Name", Desc: "What it is called", Required: true},
		{Var: "public", Type: Boolean, Default: []string{"1"}},
		{Var: "who", Type: ListSingle, Options: []Option{{"all", "All of them"}, {"none", ""}},
			Default: []string{"all"}},
		{Var: "langs", Type: ListMulti, Options: []Option{{"en", ""}, {"de", ""}}, Open: true},
		{Var: "admins", Type: JIDMulti},
		{Var: "owner", Type: JIDSingle},
		{Var: "max", Type: TextSingle, Datatype: "xs:nonNegativeInteger", Min: "5", Max: "5000"},
		{Var: "until", Type: TextSingle, Datatype: "xs:dateTime", Min: "2020-01-01T00:00:00Z"},
		{Var: "port", Type: TextSingle, Datatype: "xs:unsignedInt"},
		{Var: "odd", Type: TextSingle, Datatype: "x:odd"},
	},
}

func TestDefinitionAppend(t *testing.T) {
	const head = "<x xmlns='jabber:x:data' type='form'><title>A room</title>" +
		"<instructions>Fill it in</instructions>" +
		"<field var='FORM_TYPE' type='hidden'><value>urn:test:room</value></field>" +
		"<field type='fixed'>"
	const v = " xmlns='http://jabber.org/protocol/xdata-validate'"
	for _, c := range []struct {
		values func(string) []string
		want   string
	}{
		{nil, head + "<value>Section 1</value></field>" +
			"<field var='name' type='text-single' label='Name'><desc>What it is called</desc><required/></field>" +
			"<field var='public' type='boolean'><value>1</value></field>" +
			"<field var='who' type='list-single'><value>all</value>" +
			"<option label='All of them'><value>all</value></option><option><value>none</value></option></field>" +
			"<field var='langs' type='list-multi'><validate" + v + "><open/></validate>" +
			"<option><value>en</value></option><option><value>de</value></option></field>" +
			"<field var='admins' type='jid-multi'/><field var='owner' type='jid-single'/>" +
			"<field var='max' type='text-single'><validate" + v + " datatype='xs:nonNegativeInteger'>" +
			"<range min='5' max='5000'/></validate></field>" +
			"<field var='until' type='text-single'><validate" + v + " datatype='xs:dateTime'>" +
			"<range min='2020-01-01T00:00:00Z'/></validate></field>" +
			"<field var='port' type='text-single'><validate" + v + " datatype='xs:unsignedInt'><basic/></validate>" +
			"</field>" +
			"<field var='odd' type='text-single'><validate" + v + " datatype='x:odd'><basic/></validate></field></x>"},
		{func(name string) []string {
			return map[string][]string{"name": {"<a>"}, "langs": {"en", "fr"}}[name]
		}, head[:len(head)-1] + "/><field var='name' type='text-single' label='Name'>" +
			"<desc>What it is called</desc><required/><value>&lt;a&gt;</value></field>"},
	} {
		var a xmlstream.Appender
		room.Append(&a, c.values)
		if !strings.HasPrefix(string(a.B), c.want) {
			t.Errorf("%s\nwant\n%s", a.B, c.want)
		}
		if c.values == nil && string(a.B) != c.want {
			t.Errorf("%s\nwant\n%s", a.B, c.want)
		}
	}
}

func TestCheck(t *testing.T) {
	const ft = "urn:test:room"
	bad := BadValue.String()
	for in, want := range map[string]string{
		field("name", "a"): " ",
		field("name", "a") + field("public", "true") + field("who", "none") + field("langs", "fr", "de") +
			field("admins", "a@b", "c") + field("owner", "a@b") + field("max", "0012") +
			field("until", "2020-01-01T00:00:00Z") +
			field("port", "4294967295") + field("odd", "4"): " ",
		field("name", "a") + field("max"): " ",
		"":                                " name: the field is required",
		field("name"):                     " name: the field is required",
		field("name", ""):                 " name: the field is required",
		field("name", "a", "b"):           " name: the field has more than one value",
		field("name", "a") + field("public", "yes"):                  " public: " + bad,
		field("name", "a") + field("who", "some"):                    " who: the value is none of the options",
		field("name", "a") + field("who", "all", "none"):             " who: the field has more than one value",
		field("name", "a") + field("admins", "a@b", "@"):             " admins: " + bad,
		field("name", "a") + field("owner", "a@b@c/d@"):              " owner: " + bad,
		field("name", "a") + field("max", "-0x5"):                    " max: " + bad,
		field("name", "a") + field("max", "4"):                       " max: the value is out of range",
		field("name", "a") + field("max", "5001"):                    " max: the value is out of range",
		field("name", "a") + field("max", "18446744073709551616"):    " max: the value is out of range",
		field("name", "a") + field("max", strings.Repeat("9", 33)):   " max: " + bad,
		field("name", "a") + field("max", "+-5"):                     " max: " + bad,
		field("name", "a") + field("until", "2019-12-31T23:59:59Z"):  " until: the value is out of range",
		field("name", "a") + field("until", "tomorrow"):              " until: " + bad,
		field("name", "a") + field("port", "4294967296"):             " port: " + bad,
		field("name", "a") + field("port", "-1"):                     " port: " + bad,
		field("name", "a") + field("new", "b") + field("newer", "b"): "new ",
		field("new", "b"): "new name: the field is required",
		field("name", "a") + "<field var='head' type='fixed'><value>a</value></field>": " ",
	} {
		d, err := Parse(element(t, submit(field("FORM_TYPE", ft)+in)), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		unknown, err := room.Check(d)
		got := unknown + " "
		if err != nil {
			got += err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
	for _, in := range []string{"", field("FORM_TYPE", "urn:test:other")} {
		d, err := Parse(element(t, submit(in+field("name", "a"))), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := room.Check(d); err == nil || *err.(*Error) != (Error{FormType, WrongForm}) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

// A form that is taken is within the limits, and means the same when it is written and read again.
func FuzzParse(f *testing.F) {
	for _, s := range []string{submit(field("FORM_TYPE", "a") + field("b", "c", "d")),
		"<x xmlns='jabber:x:data' type='result'><reported/><item><field var='a'/></item></x>",
		submit("<field var='a' type='boolean'><value>1</value></field><field type='fixed'/>"),
		submit(field("until", "2016-12-31T23:59:60Z"))} {
		f.Add(s)
	}
	lim := Limits{Fields: 8, Values: 8, Bytes: 256}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := xmlstream.Parse([]byte(s))
		if err != nil || !e.Is(X) {
			return
		}
		d, err := ParseFields(e, lim)
		if err != nil {
			return
		}
		bytes, values := len(d.FormType), 0
		seen := make(map[string]bool)
		for _, x := range d.Fields {
			if x.Var == "" || seen[x.Var] {
				t.Fatalf("%q: field %q", s, x.Var)
			}
			seen[x.Var] = true
			bytes += len(x.Var)
			for _, v := range x.Values {
				bytes, values = bytes+len(v), values+1
			}
			d.Bool(x.Var)
			d.JIDs(x.Var)
			d.Time(x.Var)
			d.Int(x.Var, 0, 1)
		}
		if bytes > lim.Bytes || values > lim.Values || len(d.Fields) > lim.Fields {
			t.Fatalf("%q: %d bytes, %d values, %d fields", s, bytes, values, len(d.Fields))
		}
		room.Check(d)
		var a xmlstream.Appender
		d.Append(&a)
		again, err := ParseFields(element(t, string(a.B)), Limits{})
		if err != nil || !reflect.DeepEqual(again, d) {
			t.Fatalf("%q: %+v, then %+v, %v", s, d, again, err)
		}
	})
}

// What is taken as a moment is the same moment when it is written in the usual form.
func FuzzDateTime(f *testing.F) {
	for _, s := range []string{"2010-06-07T00:00:00Z", "2016-12-31T23:59:60Z", "2017-01-01T00:59:60.5+01:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := DateTime(s)
		if !ok {
			return
		}
		if y := got.Year(); y < 0 || y > 10000 || got.Location() != time.UTC {
			t.Fatalf("%q: %v", s, got)
		}
		want, err := time.Parse(time.RFC3339Nano, strings.Replace(s, ":60", ":59", 1))
		if err != nil {
			return // more digits than the library takes
		}
		if strings.Contains(s, ":60") {
			want = want.Add(time.Second)
		}
		if !got.Equal(want) {
			t.Fatalf("%q: %v, want %v", s, got, want)
		}
	})
}
