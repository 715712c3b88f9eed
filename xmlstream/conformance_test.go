//go:build conformance

package xmlstream

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"testing"
)

var rewriteW3C = flag.Bool("rewrite", false, "write testdata/w3c.txt anew")

// verdict returns the result of a parse in words: accept, or a condition and its offset, or unfinished.
func verdict(err error) string {
	var syn *SyntaxError
	switch {
	case err == nil || err == io.EOF:
		return "accept"
	case err == ErrNeedMore:
		return "unfinished"
	case errors.As(err, &syn):
		return fmt.Sprintf("%s@%d", syn.Condition, syn.Offset)
	}
	return err.Error()
}

// kind returns the class of a verdict: accept, not-wf, or restricted if XMPP forbids the input and XML
// does not.
func kind(v string) string {
	c, _, _ := strings.Cut(v, "@")
	switch c {
	case "accept", "none":
		return c
	case NotWellFormed, BadNamespacePrefix, "unfinished":
		return "not-wf"
	}
	return "restricted"
}

// TestConformance runs the cases of the W3C in two ways. doc: the document is a stream of its own, whose
// root is that of the stream. body: its root element, without what XMPP forbids (see w3cBody), is parsed
// by Parse. The verdicts, with conditions and offsets, must be those of testdata/w3c.txt, and that of doc
// the same in single bytes. None may contradict the suite, except those in testdata/w3c-exceptions.txt.
func TestConformance(t *testing.T) {
	tests := w3cTests(t)
	excuse := exceptions(t)
	relevant, counts := 0, map[string]int{}
	var lines []string
	p := NewParser(nil)
	for _, c := range tests {
		var s Stream
		doc, body := verdict(last(p, &s, string(c.doc))), "none"
		s.Reset(0)
		if len(c.doc) < 20000 {
			whole := outcome(t, p, &s, string(c.doc))
			s.Reset(0)
			if cut := outcome(t, p, &s, string(c.doc), everyByte(len(c.doc))...); cut != whole {
				t.Errorf("%s: in single bytes: %s\nwhole: %s", c.ID, cut, whole)
			}
			s.Reset(0)
		}
		if c.body != nil {
			_, err := Parse(c.body)
			body = verdict(err)
		}
		lines = append(lines, fmt.Sprintf("%s %s doc=%s body=%s", c.ID, c.Type, doc, body))
		group := c.Type
		if !c.ours() {
			group = "of another XML"
		} else {
			relevant++
		}
		for what, v := range map[string]string{"doc": doc, "body": body} {
			k := kind(v)
			counts[fmt.Sprintf("%s, %-14s %s", what, group+":", k)]++
			if !c.ours() || c.Type == "error" || k == "none" {
				continue
			}
			if wrong := k == "accept" && c.Type == "not-wf" || k == "not-wf" && c.Type != "not-wf"; wrong {
				if reason := excuse[c.ID+" "+what]; reason == "" {
					t.Errorf("%s, %s, is %s: %s: %.200q", c.ID, what, c.Type, v, c.doc)
				}
				delete(excuse, c.ID+" "+what)
			}
		}
	}
	for e := range excuse {
		t.Errorf("%s needs no exception", e)
	}
	t.Logf("%d cases, %d of them of XML 1.0 (5th edition) with namespaces", len(tests), relevant)
	var keys []string
	for k := range counts {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		t.Logf("%5d %s", counts[k], k)
	}
	const file = "testdata/w3c.txt"
	if *rewriteW3C {
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	recorded := strings.Split(strings.TrimSuffix(string(want), "\n"), "\n")
	if len(recorded) != len(lines) {
		t.Errorf("%d cases, %d are recorded", len(lines), len(recorded))
	}
	for i := range min(len(lines), len(recorded)) {
		if lines[i] != recorded[i] {
			t.Errorf("%s, recorded is %s", lines[i], recorded[i])
		}
	}
}

// exceptions reads testdata/w3c-exceptions.txt: sections, each of the reason, lines that begin with #,
// and the cases.
func exceptions(t *testing.T) map[string]string {
	b, err := os.ReadFile("testdata/w3c-exceptions.txt")
	if err != nil {
		t.Fatal(err)
	}
	all, reason := map[string]string{}, ""
	comment := false
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if text, ok := strings.CutPrefix(line, "#"); ok {
			if !comment {
				reason = ""
			}
			reason += text
			comment = true
			continue
		}
		comment = false
		if line == "" {
			continue
		}
		if reason == "" || all[line] != "" || len(strings.Fields(line)) != 2 {
			t.Fatalf("%q: no reason, given twice, or not a case and doc or body", line)
		}
		all[line] = reason
	}
	return all
}
