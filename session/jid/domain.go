package jid

import (
	"bytes"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/secure/bidirule"
	"golang.org/x/text/secure/precis"
	"golang.org/x/text/unicode/bidi"
	"golang.org/x/text/unicode/norm"
	"golang.org/x/text/width"
)

// maxLabel is the longest label in its ASCII form, in bytes (RFC 1035 section 2.3.4).
const maxLabel = 63

// PrepareDomain prepares the name of a domain: the form that it has in a [JID], and in which two
// names are compared. Any error is [ErrMalformed]; a name with a localpart or a resourcepart is
// one, too.
func PrepareDomain(name string) (string, error) {
	j, err := New("", name, "")
	return j.s, err
}

// NetworkName returns the name of a domain outside of XMPP: in DNS, in certificates and in the
// server_name of TLS. It consists of A-labels (RFC 5890 section 2.3.2.1) in lower case without a
// dot at the end; an IP address has no brackets. name may be in either form, as it is prepared
// first. Any error is [ErrMalformed]; a name that is longer than DNS allows (RFC 1035 section
// 2.3.4) is one, too.
func NetworkName(name string) (string, error) {
	d, err := PrepareDomain(name)
	if err != nil {
		return "", err
	}
	if d[0] == '[' {
		return d[1 : len(d)-1], nil
	}
	b := make([]byte, 0, len(d)+16)
	for label := range strings.SplitSeq(d, ".") {
		if len(b) > 0 {
			b = append(b, '.')
		}
		if strings.IndexFunc(label, func(r rune) bool { return r >= utf8.RuneSelf }) < 0 {
			b = append(b, label...)
			continue
		}
		var ok bool
		if b, ok = punyEncode(append(b, "xn--"...), []byte(label)); !ok {
			return "", errLabelLong // does not happen: a prepared label has an A-label
		}
	}
	if len(b) > maxNetworkName {
		return "", errDomLong
	}
	return string(b), nil
}

// maxNetworkName is the longest name in DNS, in bytes, as text without the dot at the end.
const maxNetworkName = 253

// appendDomain appends the prepared form of the domainpart raw to b. raw has at most MaxPart+1
// bytes.
//
//  1. An IPv6 address in brackets goes to appendIPv6.
//  2. Lower-case letters, digits, hyphens and dots are copied, upper case is mapped, and the rules
//     for labels are checked on the way. This fast path allocates nothing.
//  3. If there is a character that is not ASCII, or a label with "--" in the third and fourth
//     place, prepareIDN starts again with the whole name.
//  4. If the last label is a number, the name must be an IPv4 address.
func appendDomain[T string | []byte](b []byte, raw T) ([]byte, error) {
	if len(raw) == 0 {
		return b, errDomEmpty
	}
	if raw[0] == '[' {
		return appendIPv6(b, raw)
	}
	// The fast path takes lower case letters, digits, hyphens and dots, with the rules for labels checked on the
	// way; everything else is for the slow one.
	start, label, n := len(b), len(b), len(raw)
	if raw[n-1] == '.' {
		n--
	}
	digits := true // the label has only digits so far
	for i := 0; i <= n; i++ {
		if i < n && raw[i] != '.' {
			c := raw[i]
			switch t := asciiClass[c]; {
			case t&okLabel != 0:
			case t&isUpper != 0:
				c |= 0x20
			case c >= utf8.RuneSelf:
				out, err := prepareIDN(string(raw))
				return append(b[:start], out...), err
			default:
				return b[:start], errDomChar
			}
			digits = digits && c >= '0' && c <= '9'
			b = append(b, c)
			continue
		}
		l := b[label:]
		if len(l) >= 4 && l[2] == '-' && l[3] == '-' {
			out, err := prepareIDN(string(raw))
			return append(b[:start], out...), err
		}
		if err := checkLDH(l); err != nil {
			return b[:start], err
		}
		if i == n {
			break
		}
		b = append(b, '.')
		label, digits = len(b), true
	}
	if len(b)-start > MaxPart {
		return b[:start], errDomLong
	}
	if digits {
		return appendIPv4(b[:start], b[start:])
	}
	return b, nil
}

// checkLDH checks the length and the hyphens of one label of letters, digits and hyphens.
func checkLDH(l []byte) error {
	switch {
	case len(l) == 0:
		return errLabelEmpty
	case len(l) > maxLabel:
		return errLabelLong
	case l[0] == '-', l[len(l)-1] == '-':
		return errLabelHyphen
	}
	return nil
}

// appendIPv4 appends raw, a name whose last label is a number. No top-level domain is one, so raw
// must be an IPv4 address of four plain numbers. Other forms that inet_aton takes (1.2, 0x7f.1,
// 010.0.0.1) are refused, as they would be a second spelling of one host.
func appendIPv4(b, raw []byte) ([]byte, error) {
	a, err := netip.ParseAddr(string(raw))
	if err != nil || !a.Is4() {
		return b, errIP
	}
	return a.AppendTo(b), nil
}

// appendIPv6 appends an IP-literal of RFC 3986, an IPv6 address in brackets without a zone, in the
// form of RFC 5952.
func appendIPv6[T string | []byte](b []byte, raw T) ([]byte, error) {
	n := len(raw)
	if raw[n-1] == '.' {
		n--
	}
	if n < 4 || n > 64 || raw[n-1] != ']' {
		return b, errIP
	}
	a, err := netip.ParseAddr(string(raw[1 : n-1]))
	if err != nil || !a.Is6() || a.Zone() != "" {
		return b, errIP
	}
	return append(a.AppendTo(append(b, '[')), ']'), nil
}

// labelProfile checks U-labels: the letters, digits and marks of PRECIS's IdentifierClass with
// their context rules, in lower case and NFC. For characters that are not ASCII this is the
// repertoire of IDNA2008.
var labelProfile = precis.NewIdentifier(precis.FoldWidth, precis.LowerCase(), precis.Norm(norm.NFC),
	precis.BidiRule)

// prepareIDN is the slow path of appendDomain, for an internationalized name: raw is not all ASCII,
// or has a label with "--".
//
//  1. Ideographic full stops become dots, then widths are mapped, and one trailing dot is dropped
//     (RFC 5895 section 2).
//  2. Each label is prepared by appendLabel.
//  3. In a name with a right-to-left label no label may begin with a digit (RFC 5893 section 2),
//     and the last label must not be a number.
//
// It takes no buffer of the caller: the buffer would escape to the heap, for plain addresses, too.
func prepareIDN(raw string) ([]byte, error) {
	if !utf8.ValidString(raw) { // x/text relies on valid UTF-8
		return nil, errUTF8
	}
	// The separators first (RFC 5895 section 2.4), then width, so that both see whole labels.
	text := make([]byte, 0, len(raw))
	for _, r := range raw {
		switch r {
		case '\u3002', '\uff0e', '\uff61':
			r = '.'
		}
		text = utf8.AppendRune(text, r)
	}
	text = width.Fold.Bytes(text)
	if n := len(text); n > 0 && text[n-1] == '.' {
		text = text[:n-1]
	}
	var b []byte
	var rtl, ldhDigit, last bool
	for label, more := []byte(nil), true; more; {
		label, text, more = bytes.Cut(text, []byte{'.'})
		n := len(b)
		var err error
		if b, err = appendLabel(b, label); err != nil {
			return nil, err
		}
		l := b[n:]
		last = true
		for _, c := range l {
			last = last && c >= '0' && c <= '9'
		}
		ldhDigit = ldhDigit || l[0] >= '0' && l[0] <= '9'
		d := bidirule.Direction(l)
		rtl = rtl || d == bidi.RightToLeft
		if len(b) > MaxPart {
			return nil, errDomLong
		}
		if more {
			b = append(b, '.')
		}
	}
	// RFC 5893 section 2: in a domain with a right-to-left label, no label begins with a digit.
	if rtl && ldhDigit {
		return nil, errLabelBidi
	}
	if last {
		return nil, errIP // an address in ASCII digits takes the fast path
	}
	return b, nil
}

// appendLabel appends the prepared form of one label of an internationalized name:
//
//   - A label with characters that are not ASCII must pass labelProfile and be a U-label.
//   - An ASCII label must be letters, digits and hyphens.
//   - An A-label ("xn--…") becomes its U-label, if encoding that gives the same A-label again:
//     otherwise two names would be one host (RFC 5891 section 5.4).
//   - Other labels with "--" in the third and fourth place are reserved (RFC 5890 section 2.3.1).
func appendLabel(b, label []byte) ([]byte, error) {
	if len(label) == 0 {
		return b, errLabelEmpty
	}
	isASCII := true
	for _, c := range label {
		isASCII = isASCII && c < utf8.RuneSelf
	}
	if !isASCII {
		u, err := labelProfile.Bytes(label)
		if err != nil {
			return b, errDomChar
		}
		return appendULabel(b, u)
	}
	n := len(b)
	for _, c := range label {
		switch t := asciiClass[c]; {
		case t&okLabel != 0:
			b = append(b, c)
		case t&isUpper != 0:
			b = append(b, c|0x20)
		default:
			return b[:n], errDomChar
		}
	}
	l := b[n:]
	if err := checkLDH(l); err != nil {
		return b[:n], err
	}
	if len(l) < 4 || l[2] != '-' || l[3] != '-' {
		return b, nil
	}
	if l[0] != 'x' || l[1] != 'n' {
		return b[:n], errLabelHyphen // reserved (RFC 5890 section 2.3.1)
	}
	// RFC 5891 section 5.4: the A-label must be what its U-label encodes to, or two names would be one host.
	u, ok := punyDecode(l[4:])
	if !ok {
		return b[:n], errLabelPuny
	}
	again, ok := punyEncode(nil, u)
	if !ok || !bytes.Equal(again, l[4:]) {
		return b[:n], errLabelPuny
	}
	prepared, err := labelProfile.Bytes(u)
	if err != nil || !bytes.Equal(prepared, u) {
		return b[:n], errLabelPuny
	}
	return appendULabel(b[:n], u)
}

// appendULabel appends u, which has passed labelProfile, if it is a U-label (RFC 5891 section
// 4.2.3): not all ASCII; its ASCII characters are letters, digits or hyphens; no hyphen at either
// end or in both the third and fourth place; no combining mark at the front; short enough as an
// A-label.
func appendULabel(b, u []byte) ([]byte, error) {
	isASCII := true
	for _, c := range u {
		if c >= utf8.RuneSelf {
			isASCII = false
		} else if asciiClass[c]&okLabel == 0 {
			return b, errDomChar
		}
	}
	if isASCII { // a mapping has left only ASCII: the rules for ASCII labels apply
		if len(u) == 0 {
			return b, errLabelEmpty
		}
		return appendLabel(b, u)
	}
	if len(u) > 4*maxLabel {
		return b, errLabelLong
	}
	switch {
	case u[0] == '-', u[len(u)-1] == '-':
		return b, errLabelHyphen
	}
	// RFC 5891 sections 4.2.3.1 and 4.2.3.2: no "--" in the third and fourth place, no combining mark at the
	// front.
	i := 0
	for pos := 0; i < len(u) && pos < 2; pos++ {
		_, n := utf8.DecodeRune(u[i:])
		i += n
	}
	if bytes.HasPrefix(u[i:], []byte("--")) {
		return b, errLabelHyphen
	}
	if startsWithMark(u) || !isStable(u) {
		return b, errDomChar
	}
	a, ok := punyEncode(nil, u)
	if !ok || len(a)+len("xn--") > maxLabel {
		return b, errLabelLong
	}
	return append(b, u...), nil
}

// isStable reports whether labelProfile leaves u as it is.
func isStable(u []byte) bool {
	again, err := labelProfile.Bytes(u)
	return err == nil && bytes.Equal(again, u)
}
