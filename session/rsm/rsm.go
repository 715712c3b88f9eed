// Package rsm reads and writes pages of results (XEP-0059 1.0, result set management). A client asks for a
// page of a long answer, and is told where the page lies in the whole:
//
//	C: <query xmlns='…'><set xmlns='http://jabber.org/protocol/rsm'>
//	     <max>10</max><after>i10</after></set></query>
//	S: <query xmlns='…'>…<set xmlns='http://jabber.org/protocol/rsm'>
//	     <first index='10'>i11</first><last>i20</last><count>800</count></set></query>
//
// [Of] and [Parse] read a [Request], and [Result.Append] writes a [Result]. What the ids of items are is
// for the caller to say. Every fault of a request is a *[Error], whose answer is bad-request. That an id
// names no item is not found here: the caller answers that with item-not-found (XEP-0059 section 2.4).
//
// The package imports xmlstream and the standard library. It has no state, and any goroutine may call it.
package rsm

import (
	"math"
	"strconv"

	"canto/xmlstream"
)

// NS is the namespace of result set management. An entity that pages its results advertises it as a feature
// (XEP-0059 section 4).
const NS = "http://jabber.org/protocol/rsm"

// Set is the name of the element that has a request or a result.
var Set = xmlstream.N(NS, "set")

// The names of the other elements and of the attribute of XEP-0059.
var (
	maxName   = xmlstream.N(NS, "max")
	indexName = xmlstream.N(NS, "index")
	afterName = xmlstream.N(NS, "after")
	before    = xmlstream.N(NS, "before")
	firstName = xmlstream.N(NS, "first")
	lastName  = xmlstream.N(NS, "last")
	countName = xmlstream.N(NS, "count")
	attrIndex = xmlstream.N("", "index")
)

// MaxIDBytes is how many bytes the id of an item may have in a request. A longer one is a fault (attack P02).
const MaxIDBytes = 1024

// maxNumber is the largest number that is told apart: that of xs:int, which XEP-0059 section 8 has for max,
// index and count. A larger one that fits in 64 bits is read as this.
const maxNumber = math.MaxInt32

// maxDigits bounds the text of a number, with white space and leading zeros.
const maxDigits = 64

// A Number is a number that may be absent.
type Number struct {
	N     int  // not negative; 0 if it is absent
	Given bool // the element is there
}

// Some returns n as a Number that is given.
func Some(n int) Number { return Number{n, true} }

// An ID is the id of an item that may be absent, or given and empty.
type ID struct {
	Text  string // as the client sent it; empty if it is absent
	Given bool   // the element is there
}

// A Request says which page a client asks for. The zero Request asks for the first page, of the size that the
// server chooses. At most one of Index, After and Before is given.
type Request struct {
	Max    Number // at most so many items; 0 asks for the count alone (XEP-0059 section 2.7)
	Index  Number // the position of the first item, from 0 (XEP-0059 section 2.6)
	After  ID     // the page begins after this item; an empty one begins with the first item
	Before ID     // the page ends before this item; an empty one ends with the last item (XEP-0059 section 2.5)
}

// Clamp returns how many items a page may have: what the client asks for, but not more than most, or def if
// the client does not say.
func (r Request) Clamp(def, most int) int {
	if !r.Max.Given {
		return min(def, most)
	}
	return min(r.Max.N, most)
}

// An Error is a fault in a request for a page. It is answered with bad-request.
type Error struct {
	Element string // the local name of the element in which the fault is
	Why     string // what is wrong with it, in words for the developer of a client
}

// Error implements error. The text has nothing that the client sent.
func (e *Error) Error() string { return "rsm: <" + e.Element + "/> " + e.Why }

// The faults. Each is said of the element that [Error.Element] names.
const (
	whyTwice    = "is there twice"
	whyNumber   = "is not a whole number that is 0 or more and fits in 64 bits"
	whyChild    = "has a child element"
	whyLong     = "is longer than 1024 bytes"
	whyNUL      = "has a character that XML does not allow"
	whyTogether = "is given together with another position"
)

// Of returns the request in the <set/> child of query; the zero Request if there is none. given reports
// whether there is one. The error is a *[Error]; two such children are a fault.
func Of(query xmlstream.Element) (r Request, given bool, err error) {
	for c, ok := query.First(); ok; c, ok = c.Next() {
		if !c.Is(Set) {
			continue
		}
		if given {
			return Request{}, true, &Error{"set", whyTwice}
		}
		given = true
		if r, err = Parse(c); err != nil {
			return Request{}, true, err
		}
	}
	return r, given, nil
}

// Parse returns the request in set, an element with the name [Set]. Children with other names are ignored.
// The Request keeps no bytes of set. The error is a *[Error].
func Parse(set xmlstream.Element) (r Request, err error) {
	for c, ok := set.First(); ok; c, ok = c.Next() {
		switch c.Name() {
		case maxName:
			err = r.Max.read(c)
		case indexName:
			err = r.Index.read(c)
		case afterName:
			err = r.After.read(c)
		case before:
			err = r.Before.read(c)
		}
		if err != nil {
			return Request{}, err
		}
	}
	switch {
	case r.Before.Given && (r.After.Given || r.Index.Given):
		return Request{}, &Error{"before", whyTogether}
	case r.Index.Given && r.After.Given:
		return Request{}, &Error{"index", whyTogether}
	}
	return r, nil
}

// read fills n from the text of c.
func (n *Number) read(c xmlstream.Element) error {
	why := ""
	switch _, child := c.First(); {
	case n.Given:
		why = whyTwice
	case child:
		why = whyChild
	default:
		var ok bool
		if n.N, ok = parseNumber(c.Text()); !ok {
			why = whyNumber
		}
	}
	if why != "" {
		return &Error{string(c.Local()), why}
	}
	n.Given = true
	return nil
}

// parseNumber reads decimal digits with white space around them, which XML Schema allows. It returns false
// for a sign, for no digit, for a number over 64 bits, and for a text of more than maxDigits bytes.
func parseNumber(b []byte) (int, bool) {
	if len(b) > maxDigits {
		return 0, false
	}
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && isSpace(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	v, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil {
		return 0, false
	}
	return int(min(v, maxNumber)), true
}

// isSpace reports whether c is white space of XML.
func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// read fills d from the text of c.
func (d *ID) read(c xmlstream.Element) error {
	why := ""
	switch _, child := c.First(); {
	case d.Given:
		why = whyTwice
	case child:
		why = whyChild
	default:
		why = faultOfID(c.Text())
	}
	if why != "" {
		return &Error{string(c.Local()), why}
	}
	d.Given, d.Text = true, string(c.Text())
	return nil
}

// faultOfID says what is wrong with an id, or nothing. The parser of a stream refuses NUL already; an id
// that was read in another way must not have it either, as ids become parts of keys (attack H15).
func faultOfID(b []byte) string {
	if len(b) > MaxIDBytes {
		return whyLong
	}
	for _, c := range b {
		if c == 0 {
			return whyNUL
		}
	}
	return ""
}

// A Result says where a page lies in the whole result (XEP-0059 section 2.2). An empty page has neither First
// nor Last.
type Result struct {
	// First and Last are the ids of the first and of the last item of the page. The caller owns the bytes;
	// Append copies them.
	First, Last []byte
	Index       Number // the position of the first item in the whole; it is written with First only
	Count       Number // how many items the whole has
}

// Append writes r as a <set/> in the element that is open in a. It allocates nothing if a has room.
func (r *Result) Append(a *xmlstream.Appender) {
	var digits [20]byte
	a.Open(Set)
	if len(r.First) > 0 {
		a.Open(firstName)
		if r.Index.Given {
			a.AttrBytes(attrIndex, strconv.AppendInt(digits[:0], int64(r.Index.N), 10))
		}
		a.TextBytes(r.First).Close()
		a.Open(lastName).TextBytes(r.Last).Close()
	}
	if r.Count.Given {
		a.Open(countName).TextBytes(strconv.AppendInt(digits[:0], int64(r.Count.N), 10)).Close()
	}
	a.Close()
}
