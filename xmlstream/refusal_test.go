package xmlstream

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"canto/xmlstream/xmlstreamtest"
)

// refusals has a row for each reason to refuse input, at each place where it may be: condition, message
// and the exact offset, from the first byte of the stream for bare rows, and from the end of the header
// for others.
var refusals = []struct {
	in        string
	bare      bool
	limits    Limits
	condition string
	msg       string
	offset    int
}{
	// Before the header.
	{in: "\xFF\xFE<\x00", bare: true, condition: UnsupportedEncoding, msg: "byte order mark of UTF-16"},
	{in: " \n\u00e9", bare: true, condition: NotWellFormed, msg: "text in front of the stream header",
		offset: 2},
	{in: "x<a>", bare: true, condition: NotWellFormed, msg: "text in front of the stream header"},
	{in: " \xC3(", bare: true, condition: UnsupportedEncoding, msg: "bytes that are not UTF-8", offset: 1},
	{in: "\n<?xmlns ?>", bare: true, condition: RestrictedXML,
		msg: "processing instruction or second XML declaration", offset: 1},
	{in: "<?xml version='1.0'?>\n<?xml version='1.0'?>", bare: true, condition: RestrictedXML,
		msg: "processing instruction or second XML declaration", offset: 22},
	{in: "<?php ?><a>", bare: true, condition: RestrictedXML, msg: "processing instruction"},
	{in: "\xEF\xBB\xBF<!DOCTYPE a>", bare: true, condition: RestrictedXML,
		msg: "comment or document type declaration", offset: 3},
	{in: "<?xml version='1.0'>", bare: true, condition: NotWellFormed, msg: "broken XML declaration"},
	{in: " <?xml version=1.0?>", bare: true, condition: NotWellFormed, msg: "broken XML declaration", offset: 1},
	{in: "<?xml version='1.1'?>", bare: true, condition: NotWellFormed, msg: "XML version other than 1.0"},
	{in: "<?xml version='1.0' encoding='latin1'?>", bare: true, condition: UnsupportedEncoding,
		msg: "encoding other than UTF-8"},
	{in: "<![CDATA[x]]>", bare: true, condition: NotWellFormed, msg: "neither a tag nor a CDATA section"},
	{in: "</a>", bare: true, condition: NotWellFormed, msg: "end tag without a start tag"},
	{in: "<a " + strings.Repeat("\t", headerBytes), bare: true, condition: PolicyViolation,
		msg: "stanza or stream header too long", offset: headerBytes},
	{in: "<p:a>", bare: true, condition: BadNamespacePrefix, msg: "undeclared prefix of an element", offset: 1},
	// Between stanzas.
	{in: "\n x", condition: BadFormat, msg: "text between stanzas", offset: 2},
	{in: "<a/>&amp;", condition: BadFormat, msg: "text between stanzas", offset: 4},
	{in: "<a/>\x00", condition: BadFormat, msg: "text between stanzas", offset: 4},
	{in: "<a/>\xE9a", condition: BadFormat, msg: "text between stanzas", offset: 4},
	{in: "<a/>\x80", condition: UnsupportedEncoding, msg: "bytes that are not UTF-8", offset: 4},
	{in: "<a/><![CDATA[", condition: BadFormat, msg: "CDATA section between stanzas", offset: 4},
	{in: "<a/><!cdata[", condition: RestrictedXML, msg: "comment or document type declaration", offset: 4},
	{in: "<a/><![cdata[", condition: NotWellFormed, msg: "neither a tag nor a CDATA section", offset: 4},
	{in: "<a/></stream>", condition: NotWellFormed, msg: "end tag without a start tag", offset: 4},
	{in: "<a/></stream:stream x>", condition: NotWellFormed, msg: "end tag without a start tag", offset: 4},
	{in: "<a/><stream:stream to='x'>", condition: InvalidXML, msg: "second stream header", offset: 4},
	{in: "<a/><stream:stream to='x'/>", condition: InvalidXML, msg: "second stream header", offset: 4},
	// Character data.
	{in: "<a>b<!-- -->", condition: RestrictedXML, msg: "comment or document type declaration", offset: 4},
	{in: "<a>b<?c ?>", condition: RestrictedXML, msg: "processing instruction", offset: 4},
	{in: "<a>b&c;", condition: RestrictedXML, msg: "bad reference", offset: 4},
	{in: "<a>b&c<", condition: NotWellFormed, msg: "bad reference", offset: 4},
	{in: "<a>b& ", condition: NotWellFormed, msg: "bad reference", offset: 4},
	{in: "<a>b&#0;", condition: NotWellFormed, msg: "bad reference", offset: 4},
	{in: "<a>b&#xD800;", condition: NotWellFormed, msg: "bad reference", offset: 4},
	{in: "<a>b]]]>", condition: NotWellFormed, msg: "]]> in character data", offset: 5},
	{in: "<a>b\x0b", condition: NotWellFormed, msg: "illegal character", offset: 4},
	{in: "<a>b\u00e9\uFFFE", condition: NotWellFormed, msg: "illegal character", offset: 6},
	{in: "<a>b\u00e9\xE2\x82<", condition: UnsupportedEncoding, msg: "bytes that are not UTF-8", offset: 6},
	{in: "<a><![CDATA[b\x0b", condition: NotWellFormed, msg: "illegal character", offset: 13},
	{in: "<a><![CDATA[b\uFFFF", condition: NotWellFormed, msg: "illegal character", offset: 13},
	{in: "<a><![CDATA[b\xC3]", condition: UnsupportedEncoding, msg: "bytes that are not UTF-8", offset: 13},
	{in: "<a><![CDAT]", condition: NotWellFormed, msg: "neither a tag nor a CDATA section", offset: 3},
	// Names and tags.
	{in: "<a><1/>", condition: NotWellFormed, msg: "illegal name of an element", offset: 4},
	{in: "<a><b:1/>", condition: NotWellFormed, msg: "illegal name of an element", offset: 6},
	{in: "<a><b\u00d7/>", condition: NotWellFormed, msg: "illegal name of an element", offset: 5},
	{in: "<a><b\xC3/>", condition: UnsupportedEncoding, msg: "bytes that are not UTF-8", offset: 5},
	{in: "<a><b c:='d'/>", condition: NotWellFormed, msg: "illegal name of an attribute", offset: 8},
	{in: "<a><b -c='d'/>", condition: NotWellFormed, msg: "illegal name of an attribute", offset: 6},
	{in: "<a><b \xC3='d'/>", condition: UnsupportedEncoding, msg: "bytes that are not UTF-8", offset: 6},
	{in: "<a><b/ >", condition: NotWellFormed, msg: "broken tag", offset: 5},
	{in: "<a><b c='d'e='f'/>", condition: NotWellFormed, msg: "broken tag", offset: 11},
	{in: "<a><b c='d'\u00e9='f'/>", condition: NotWellFormed, msg: "broken tag", offset: 11},
	{in: "<a><b c='d'\xFF/>", condition: UnsupportedEncoding, msg: "bytes that are not UTF-8", offset: 11},
	{in: "<a><b c/>", condition: NotWellFormed, msg: "attribute without a value", offset: 7},
	{in: "<a><b c \xFF/>", condition: UnsupportedEncoding, msg: "bytes that are not UTF-8", offset: 8},
	{in: "<a><b c= d/>", condition: NotWellFormed, msg: "attribute value without quotes", offset: 9},
	{in: "<a><b c=\xFF/>", condition: UnsupportedEncoding, msg: "bytes that are not UTF-8", offset: 8},
	{in: "<a><b c='d<'/>", condition: NotWellFormed, msg: "illegal character in an attribute value", offset: 10},
	{in: "<a><b c='d\x00'/>", condition: NotWellFormed, msg: "illegal character in an attribute value",
		offset: 10},
	{in: "<a><b c='d\uFFFF'/>", condition: NotWellFormed, msg: "illegal character", offset: 10},
	{in: "<a><b c='d\xE2\x82'/>", condition: UnsupportedEncoding, msg: "bytes that are not UTF-8", offset: 10},
	{in: "<a><b c='d&e;'/>", condition: RestrictedXML, msg: "bad reference", offset: 10},
	{in: "<a><b c='d&e'/>", condition: NotWellFormed, msg: "bad reference", offset: 10},
	{in: "<a><b c='' d='' c=''/>", condition: NotWellFormed, msg: "attribute given twice", offset: 16},
	{in: "<a><b xmlns:c='u' xmlns:d='u' c:e='' d:e=''/>", condition: NotWellFormed,
		msg: "attribute given twice", offset: 37},
	{in: "<a></b>", condition: NotWellFormed, msg: "end tag of another element", offset: 3},
	{in: "<a></a b>", condition: NotWellFormed, msg: "end tag of another element", offset: 3},
	{in: "<a><b></bb>", condition: NotWellFormed, msg: "end tag of another element", offset: 6},
	// Namespaces.
	{in: "<a><b:c/>", condition: BadNamespacePrefix, msg: "undeclared prefix of an element", offset: 4},
	{in: "<a><b xmlns:d='u' c:d=''/>", condition: BadNamespacePrefix, msg: "undeclared prefix of an attribute",
		offset: 18},
	{in: "<a><b xmlns:c=''/>", condition: BadNamespacePrefix, msg: "forbidden namespace declaration", offset: 6},
	{in: "<a><stream:error/></a>", condition: PolicyViolation, msg: "stream-level element inside a stanza",
		offset: 3},
	// Limits.
	{in: "<a>0123456789", limits: Limits{StanzaBytes: 8}, condition: PolicyViolation,
		msg: "stanza or stream header too long", offset: 8},
	{in: "<a><b><c/></b></a>", limits: Limits{Depth: 2}, condition: PolicyViolation,
		msg: "elements nested too deep", offset: 6},
	{in: "<a><b/><c/></a>", limits: Limits{Nodes: 2}, condition: PolicyViolation, msg: "too many elements",
		offset: 7},
	{in: "<a><b c='' d=''/></a>", limits: Limits{Attrs: 1}, condition: PolicyViolation,
		msg: "too many attributes", offset: 11},
	{in: "<a><b c=''/><b d=''/></a>", limits: Limits{StanzaAttrs: 1}, condition: PolicyViolation,
		msg: "too many attributes", offset: 15},
	{in: "<a><" + strings.Repeat("b", 9) + "/></a>", limits: Limits{NameBytes: 8}, condition: PolicyViolation,
		msg: "name too long", offset: 4},
	{in: "<a><b " + strings.Repeat("c", 9) + "=''/></a>", limits: Limits{NameBytes: 8},
		condition: PolicyViolation, msg: "name too long", offset: 6},
	{in: "<a><b xmlns='012345678'/></a>", limits: Limits{NameBytes: 8}, condition: PolicyViolation,
		msg: "namespace too long", offset: 13},
	{in: "<a><b xmlns:c='u' xmlns:d='u'/></a>", limits: Limits{Prefixes: 2}, condition: PolicyViolation,
		msg: "too many namespace prefixes", offset: 18},
	{in: "<a>" + strings.Repeat("<b xmlns='u'/>", maxNSDecls+1), limits: Limits{StanzaBytes: 1 << 20,
		StanzaAttrs: 1 << 20, Nodes: 1 << 20}, condition: PolicyViolation, msg: "too many namespace declarations",
		offset: 3 + 14*maxNSDecls + 3},
}

// Each refusal has its condition, message and offset, however the input is cut, and each message of the
// package has a row.
func TestRefusals(t *testing.T) {
	p := NewParser(nil)
	missing := messages(t)
	for _, r := range refusals {
		in, want := r.in, r.offset
		if !r.bare {
			in, want = xmlstreamtest.Header+in, want+len(xmlstreamtest.Header)
		}
		id, err := r.limits.ID()
		if err != nil {
			t.Fatal(err)
		}
		var s Stream
		run := func(cuts ...int) (final string) {
			// The limits are those of the stanza: the header has the usual ones.
			s.Reset(0)
			from := 0
			for _, to := range append(cuts, len(in)) {
				p.Feed(&s, []byte(in[from:to]))
				from = to
				for err = nil; err == nil; {
					var tok Token
					if tok, err = p.Next(&s); err == nil && tok.t != nil && tok.t.header {
						s.SetLimits(id)
					}
				}
				if err != ErrNeedMore {
					break
				}
			}
			syn, ok := err.(*SyntaxError)
			if !ok {
				return fmt.Sprint(err)
			}
			return fmt.Sprintf("%s %s@%d", syn.Condition, syn.Msg, syn.Offset)
		}
		verdict := fmt.Sprintf("%s %s@%d", r.condition, r.msg, want)
		if got := run(); got != verdict {
			t.Errorf("%.60q: %s, want %s", r.in, got, verdict)
		}
		delete(missing, r.msg)
		at, step := len(in)-len(r.in), 1
		long := len(r.in) > 1000
		if long {
			step = len(r.in) / 10
		} else if got := run(everyByte(len(in))...); got != verdict {
			t.Errorf("%.60q in single bytes: %s, want %s", r.in, got, verdict)
		}
		for i := at; i < len(in); i += step {
			for j := i; j < len(in) && (j == i || !long); j += step {
				if got := run(i, j); got != verdict {
					t.Fatalf("%.60q cut at %d and %d: %s, want %s", r.in, i-at, j-at, got, verdict)
				}
			}
		}
		s.Reset(0)
	}
	// The errors of elements alone, which are never cut.
	for in, want := range map[string]string{"<a>": "input ends inside the element",
		"": "input ends inside the element", "<a/><b/>": "bytes after the element",
		"x": "bytes after the element"} {
		if _, err := Parse([]byte(in)); err == nil || err.(*SyntaxError).Msg != want ||
			condition(err) != NotWellFormed {
			t.Errorf("%q: %v", in, err)
		}
		delete(missing, want)
	}
	for msg := range missing {
		t.Errorf("no row for %q", msg)
	}
}

// messages collects the texts of SyntaxErrors from the sources.
func messages(t *testing.T) map[string]bool {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	re := regexp.MustCompile(`(?:fail|failByte|failByteAt)\([^"\n]*"([^"]*)"\)|Msg: "([^"]*)"`)
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range re.FindAllStringSubmatch(string(b), -1) {
			found[m[1]+m[2]] = true
		}
	}
	if len(found) < 30 {
		t.Fatalf("only %d messages found", len(found))
	}
	return found
}
