package form

import (
	"slices"
	"strconv"
	"time"

	"canto/session/jid"
)

// This file has the values of a Data with their types. A field without a value and a field with one empty
// value both stand for no value (XEP-0004 section 3.6): the methods return false for them, as for a field
// that is missing. Has tells these apart.

// Has reports whether d has a field called name, whatever its values are.
func (d *Data) Has(name string) bool { return d.field(name) != nil }

// Text returns the one value of a field. ok is false if there is none. The error is an [*Error].
func (d *Data) Text(name string) (v string, ok bool, err error) {
	f := d.field(name)
	switch {
	case f == nil || len(f.Values) == 0:
		return "", false, nil
	case len(f.Values) > 1:
		return "", false, &Error{name, TooManyValues}
	}
	return f.Values[0], f.Values[0] != "", nil
}

// Values returns all values of a field, as of a list-multi or a text-multi; nil if there is none. The
// caller must not change them.
func (d *Data) Values(name string) []string {
	if f := d.field(name); f != nil && !(len(f.Values) == 1 && f.Values[0] == "") {
		return f.Values
	}
	return nil
}

// Bool returns the value of a boolean field: 1 and true are true, 0 and false are false (XEP-0004 section
// 3.3). ok is false if there is none. The error is an [*Error].
func (d *Data) Bool(name string) (v, ok bool, err error) {
	s, ok, err := d.Text(name)
	if err != nil || !ok {
		return false, false, err
	}
	v, good := parseBool(s)
	if !good {
		return false, false, &Error{name, BadValue}
	}
	return v, true, nil
}

// parseBool reads a boolean; good is false if s is none.
func parseBool(s string) (v, good bool) {
	switch s {
	case "1", "true":
		return true, true
	case "0", "false":
		return false, true
	}
	return false, false
}

// JID returns the address in a jid-single field, in canonical form. ok is false if there is none. The error
// is an [*Error].
func (d *Data) JID(name string) (j jid.JID, ok bool, err error) {
	s, ok, err := d.Text(name)
	if err != nil || !ok {
		return j, false, err
	}
	if j, err = jid.Parse(s); err != nil {
		return jid.JID{}, false, &Error{name, BadValue}
	}
	return j, true, nil
}

// JIDs returns the addresses in a jid-multi field, in canonical form, each once (XEP-0004 section 3.3); nil
// if there is none. The error is an [*Error].
func (d *Data) JIDs(name string) ([]jid.JID, error) {
	var list []jid.JID
	seen := make(map[jid.JID]bool)
	for _, s := range d.Values(name) {
		j, err := jid.Parse(s)
		if err != nil {
			return nil, &Error{name, BadValue}
		}
		if !seen[j] {
			seen[j] = true
			list = append(list, j)
		}
	}
	return list, nil
}

// Time returns the moment in a field of the datatype xs:dateTime, in UTC: see [DateTime]. ok is false if
// there is none. The error is an [*Error].
func (d *Data) Time(name string) (t time.Time, ok bool, err error) {
	s, ok, err := d.Text(name)
	if err != nil || !ok {
		return t, false, err
	}
	if t, ok = DateTime(s); !ok {
		return time.Time{}, false, &Error{name, BadValue}
	}
	return t, true, nil
}

// Int returns the number in a field of a datatype such as xs:integer. ok is false if there is none. A
// number that does not fit is [BadValue], and one outside of least and most is [OutOfRange]. The error is
// an [*Error].
func (d *Data) Int(name string, least, most int64) (n int64, ok bool, err error) {
	s, ok, err := d.Text(name)
	if err != nil || !ok {
		return 0, false, err
	}
	n, err = strconv.ParseInt(s, 10, 64)
	switch {
	case err != nil:
		return 0, false, &Error{name, BadValue}
	case n < least || n > most:
		return 0, false, &Error{name, OutOfRange}
	}
	return n, true, nil
}

// maxTimeBytes bounds the text of a moment.
const maxTimeBytes = 64

// maxOffset is the greatest offset from UTC, in minutes: that of XML Schema.
const maxOffset = 14 * 60

// DateTime reads a moment in the form of XEP-0082 section 3.2, CCYY-MM-DDThh:mm:ss[.sss]TZD, and returns it
// in UTC. ok is false for all else: for a date that no calendar has, the year 0, an hour 24, a text without
// a time zone or of more than 64 bytes, and an offset over 14 hours. Digits of a fraction after the ninth
// are cut. The second 60 is taken where UTC may have a leap second, which is in the last minute of a day,
// and is the second after it.
func DateTime(s string) (t time.Time, ok bool) {
	const form = "0000-00-00T00:00:00" // a 0 stands for a digit
	if len(s) <= len(form) || len(s) > maxTimeBytes {
		return t, false
	}
	for i := range len(form) {
		if digit := isDigit(s[i]); form[i] == '0' != digit || !digit && s[i] != form[i] {
			return t, false
		}
	}
	year, month, day := atoi(s[0:4]), atoi(s[5:7]), atoi(s[8:10])
	hour, minute, second := atoi(s[11:13]), atoi(s[14:16]), atoi(s[17:19])
	rest := s[len(form):]
	nanos := 0
	if rest[0] == '.' {
		n := 1
		for scale := 100_000_000; n < len(rest) && isDigit(rest[n]); n++ {
			nanos += int(rest[n]-'0') * scale
			scale /= 10
		}
		if n == 1 {
			return t, false
		}
		rest = rest[n:]
	}
	offset, ok := parseOffset(rest)
	if !ok || year == 0 || month == 0 || month > 12 || day == 0 || day > daysIn(year, month) || hour > 23 ||
		minute > 59 || second > 60 {
		return t, false
	}
	t = time.Date(year, time.Month(month), day, hour, minute, min(second, 59), nanos, time.UTC)
	t = t.Add(-time.Duration(offset) * time.Minute)
	if second == 60 {
		if t.Hour() != 23 || t.Minute() != 59 {
			return time.Time{}, false
		}
		t = t.Add(time.Second)
	}
	return t, true
}

// parseOffset reads a time zone: Z, or a sign, hours and minutes. It returns minutes east of UTC.
func parseOffset(s string) (minutes int, ok bool) {
	if s == "Z" {
		return 0, true
	}
	if len(s) != len("+00:00") || s[0] != '+' && s[0] != '-' || s[3] != ':' {
		return 0, false
	}
	for _, i := range []int{1, 2, 4, 5} {
		if !isDigit(s[i]) {
			return 0, false
		}
	}
	m := atoi(s[4:6])
	minutes = 60*atoi(s[1:3]) + m
	if m > 59 || minutes > maxOffset {
		return 0, false
	}
	if s[0] == '-' {
		minutes = -minutes
	}
	return minutes, true
}

// isDigit reports whether c is a digit of ASCII.
func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// atoi reads a few digits.
func atoi(s string) (n int) {
	for i := range len(s) {
		n = 10*n + int(s[i]-'0')
	}
	return n
}

// daysIn returns how many days a month has.
func daysIn(year, month int) int {
	return time.Date(year, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

// isOption reports whether v is the value of one of the options.
func isOption(options []Option, v string) bool {
	return slices.ContainsFunc(options, func(o Option) bool { return o.Value == v })
}
