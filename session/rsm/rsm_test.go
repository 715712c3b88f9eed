package rsm

import (
	"errors"
	"strings"
	"testing"

	"canto/xmlstream"
)

// set parses content as the children of a <set/>.
func set(t testing.TB, content string) xmlstream.Element {
	t.Helper()
	e, err := xmlstream.Parse([]byte("<set xmlns='" + NS + "'>" + content + "</set>"))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestParse(t *testing.T) {
	id := func(s string) ID { return ID{s, true} }
	for content, want := range map[string]Request{
		"":                               {},
		"<max>10</max>":                  {Max: Some(10)},
		"<max>0</max>":                   {Max: Some(0)},
		"<max> 10\n</max>":               {Max: Some(10)},
		"<max>007</max>":                 {Max: Some(7)},
		"<max>1000000000</max>":          {Max: Some(1000000000)},
		"<max>9223372036854775807</max>": {Max: Some(maxNumber)},
		"<max>10</max><after>peter@pixyland.org</after>": {Max: Some(10), After: id("peter@pixyland.org")},
		"<before/>":                                        {Before: id("")},
		"<before></before><max>5</max>":                    {Before: id(""), Max: Some(5)},
		"<before>a&amp;b</before>":                         {Before: id("a&b")},
		"<after/>":                                         {After: id("")},
		"<after>' or 1=1--</after>":                        {After: id("' or 1=1--")},
		"<index>371</index><max>10</max>":                  {Index: Some(371), Max: Some(10)},
		"<max xmlns='other'>x</max><max>2</max>":           {Max: Some(2)},
		"<first>a</first><last>b</last><count/>":           {}, // those of a result mean nothing here
		"<after>" + strings.Repeat("x", 1024) + "</after>": {After: id(strings.Repeat("x", 1024))},
	} {
		got, err := Parse(set(t, content))
		if err != nil || got != want {
			t.Errorf("%.60s: %+v, %v; want %+v", content, got, err, want)
		}
	}
}

// Each of these is bad-request; the ids of an attack on a database are ids like others.
func TestAttackP02RequestsAreChecked(t *testing.T) {
	for content, want := range map[string]Error{
		"<max>-1</max>":                   {"max", whyNumber},
		"<max>+1</max>":                   {"max", whyNumber},
		"<max>1e9</max>":                  {"max", whyNumber},
		"<max>0x10</max>":                 {"max", whyNumber},
		"<max>1_0</max>":                  {"max", whyNumber},
		"<max>1 0</max>":                  {"max", whyNumber},
		"<max>1.0</max>":                  {"max", whyNumber},
		"<max>ten</max>":                  {"max", whyNumber},
		"<max/>":                          {"max", whyNumber},
		"<max>\u0661</max>":               {"max", whyNumber}, // an Arabic digit
		"<max>9223372036854775808</max>":  {"max", whyNumber},
		"<max>18446744073709551616</max>": {"max", whyNumber},
		"<max>" + strings.Repeat("0", 65) + "</max>":            {"max", whyNumber},
		"<max>1<b/>0</max>":                                     {"max", whyChild},
		"<max>1</max><max>1</max>":                              {"max", whyTwice},
		"<index>-1</index>":                                     {"index", whyNumber},
		"<index>1</index><index>1</index>":                      {"index", whyTwice},
		"<after>a</after><after>a</after>":                      {"after", whyTwice},
		"<before/><before/>":                                    {"before", whyTwice},
		"<after>a<b/></after>":                                  {"after", whyChild},
		"<after>" + strings.Repeat("x", 1025) + "</after>":      {"after", whyLong},
		"<before>" + strings.Repeat("x", 200_000) + "</before>": {"before", whyLong},
	} {
		refused(t, content, want)
	}
	if faultOfID([]byte("a\x00b")) != whyNUL {
		t.Error("an id with NUL was taken")
	}
}

// A page has one position.
func TestAttackK89OnePosition(t *testing.T) {
	for content, want := range map[string]Error{
		"<before>a</before><after>b</after>": {"before", whyTogether},
		"<before/><after/>":                  {"before", whyTogether},
		"<before/><index>0</index>":          {"before", whyTogether},
		"<index>0</index><after>a</after>":   {"index", whyTogether},
	} {
		refused(t, content, want)
	}
}

// refused checks that content is refused with want, and that nothing of it is returned.
func refused(t *testing.T, content string, want Error) {
	t.Helper()
	got, err := Parse(set(t, content))
	var fault *Error
	if !errors.As(err, &fault) || *fault != want || got != (Request{}) {
		t.Errorf("%.60s: %+v, %v; want %v", content, got, err, &want)
	}
}

func TestOf(t *testing.T) {
	const s = "<set xmlns='" + NS + "'><max>3</max></set>"
	for content, want := range map[string]struct {
		r     Request
		given bool
		fault bool
	}{
		"":                                     {},
		"<set/>":                               {}, // of another namespace
		"<x/>" + s:                             {r: Request{Max: Some(3)}, given: true},
		s + s:                                  {given: true, fault: true},
		"<set xmlns='" + NS + "'><max/></set>": {given: true, fault: true},
	} {
		q, err := xmlstream.Parse([]byte("<query xmlns='urn:xmpp:mam:2'>" + content + "</query>"))
		if err != nil {
			t.Fatal(err)
		}
		r, given, err := Of(q)
		if r != want.r || given != want.given || (err != nil) != want.fault {
			t.Errorf("%s: %+v %v %v", content, r, given, err)
		}
	}
}

func TestClamp(t *testing.T) {
	for _, c := range []struct {
		max             Number
		def, most, want int
	}{
		{Number{}, 50, 250, 50},
		{Number{}, 500, 250, 250},
		{Some(0), 50, 250, 0},
		{Some(10), 50, 250, 10},
		{Some(251), 50, 250, 250},
		{Some(maxNumber), 50, 250, 250},
	} {
		if got := (Request{Max: c.max}).Clamp(c.def, c.most); got != c.want {
			t.Errorf("%+v of %d and %d: %d, want %d", c.max, c.def, c.most, got, c.want)
		}
	}
}

func TestAppend(t *testing.T) {
	for want, r := range map[string]Result{
		"<set xmlns='" + NS + "'/>":                      {},
		"<set xmlns='" + NS + "'><count>0</count></set>": {Count: Some(0), Index: Some(4)},
		"<set xmlns='" + NS + "'><first index='10'>a&lt;</first><last>b</last><count>800</count></set>": {
			First: []byte("a<"), Last: []byte("b"), Index: Some(10), Count: Some(800)},
		"<set xmlns='" + NS + "'><first>a</first><last>a</last></set>": {First: []byte("a"), Last: []byte("a")},
	} {
		var a xmlstream.Appender
		r.Append(&a)
		if string(a.B) != want {
			t.Errorf("%s, want %s", a.B, want)
		}
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	var a xmlstream.Appender
	first, last := []byte("0123456789abcdef"), []byte("fedcba9876543210")
	if n := testing.AllocsPerRun(100, func() {
		a.Reset(xmlstream.Streamed)
		r := Result{First: first, Last: last, Index: Some(123456), Count: Some(10_000_000)}
		r.Append(&a)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A request that is taken means the same when it is written down and read again, and is within the bounds.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"<max>10</max><after>a</after>", "<before/>", "<index>1</index>", "<max>-1</max>",
		"<max>18446744073709551616</max>", "<before/><after/>", "<after>&#x9;<![CDATA[a]]></after>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, content string) {
		e, err := xmlstream.Parse([]byte("<set xmlns='" + NS + "'>" + content + "</set>"))
		if err != nil || !e.Is(Set) {
			return
		}
		r, err := Parse(e)
		if err != nil {
			if r != (Request{}) {
				t.Fatalf("%+v beside %v", r, err)
			}
			return
		}
		positions := 0
		for _, given := range []bool{r.After.Given, r.Before.Given, r.Index.Given} {
			if given {
				positions++
			}
		}
		if positions > 1 || r.Max.N < 0 || r.Index.N < 0 || len(r.After.Text)+len(r.Before.Text) > MaxIDBytes {
			t.Fatalf("%q: %+v", content, r)
		}
		if n := r.Clamp(50, 250); n < 0 || n > 250 {
			t.Fatalf("a page of %d", n)
		}
		var a xmlstream.Appender
		a.Open(Set)
		for _, id := range []struct {
			n xmlstream.Name
			d ID
		}{{afterName, r.After}, {before, r.Before}} {
			if id.d.Given {
				a.Open(id.n).Text(id.d.Text).Close()
			}
		}
		a.Close()
		again, err := xmlstream.Parse(a.B)
		if err != nil {
			t.Fatal(err)
		}
		if r2, err := Parse(again); err != nil || r2.After != r.After || r2.Before != r.Before {
			t.Fatalf("%q: %+v, then %+v, %v", content, r, r2, err)
		}
	})
}
