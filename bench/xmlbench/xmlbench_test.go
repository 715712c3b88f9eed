package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"canto/xmlstream/xmlstreamtest"
)

// What needs no C compiler: every document comes to the same number of elements in both parsers and
// in any pieces. The contest checks that itself.
func TestContest(t *testing.T) {
	docs := append(xmlstreamtest.Documents(), sizes()...)
	field := []parser{newCanto(0), newCanto(1), newCanto(64), newCanto(1400), &std{}}
	cells, err := measureAll(docs, field, effort{1, 1})
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range docs {
		for j, c := range cells[i] {
			if c.best <= 0 || c.noise < 1 {
				t.Errorf("%s, %s: %+v", d.Name, field[j].name(), c)
			}
		}
	}
	docs[0].Elements++
	if _, err := measureAll(docs[:1], []parser{newCanto(0)}, effort{1, 1}); err == nil {
		t.Error("a wrong number of elements was not noticed")
	}
}

func TestDocuments(t *testing.T) {
	want := []string{"message", "presence", "roster50", "mam20", "avatar4k", "tiny", "attrs", "entities",
		"cyrillic", "cjk"}
	for i, d := range xmlstreamtest.Documents() {
		if i >= len(want) || d.Name != want[i] {
			t.Errorf("document %d is %s", i, d.Name)
		}
	}
	for i, d := range sizes() {
		if want := minSize << (i % points); len(d.XML) != want {
			t.Errorf("%s, document %d of the plot: %d bytes, not %d", d.Name, i, len(d.XML), want)
		}
	}
}

// The whole command, quickly; where it can't run, that it says why.
func TestRun(t *testing.T) {
	svg := filepath.Join(t.TempDir(), "plot.svg")
	var out bytes.Buffer
	err := run(&out, effort{1, 1}, svg)
	if checkCParsers() != nil {
		// Only Go is here: one line says what to install, and there is no half of a table.
		if err != errNoCParsers || out.Len() > 0 {
			t.Errorf("without the parsers in C: %v, %q", err, out.String())
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var sum map[string]float64
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &sum); err != nil {
		t.Fatalf("last line: %v\n%s", err, out.String())
	}
	for _, k := range []string{"message_ns", "expat", "libxml2", "encoding_xml", "cyrillic_gbps",
		"split64_ratio"} {
		if sum[k] <= 0 {
			t.Errorf("%s is %v", k, sum[k])
		}
	}
	if n, ok := sum["allocs"]; !ok || n != 0 {
		t.Errorf("%v allocations a document", n)
	}
	if len(sum) != 7 {
		t.Errorf("last line has %d names", len(sum))
	}
	for _, row := range []string{"| message | 374 |", "| cjk |", "| median |", "serialized again |"} {
		if !strings.Contains(out.String(), row) {
			t.Errorf("no row %q in\n%s", row, out.String())
		}
	}
	b, err := os.ReadFile(svg)
	if err != nil {
		t.Fatal(err)
	}
	lineCount := 0
	for d := xml.NewDecoder(bytes.NewReader(b)); ; {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := tok.(xml.StartElement); ok {
			for _, a := range e.Attr {
				if a.Name.Local == "class" && strings.HasPrefix(a.Value, "line ") {
					lineCount++
				}
			}
		}
	}
	if lineCount != 2*4 {
		t.Errorf("%d lines in the plot", lineCount)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		v    []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{3, 1, 2}, 2}, {[]float64{4, 1, 2, 3}, 2.5}} {
		if got := median(c.v); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("median of %v: %v", c.v, got)
		}
	}
}

// A relay passes the bytes of the message on, or serializes it again with the same meaning.
func TestRelay(t *testing.T) {
	r := newRelay()
	for i, d := range passages() {
		if err := r.add(d); err != nil {
			t.Fatal(err)
		}
		if _, err := r.run(i, 0, 1); err != nil {
			t.Fatalf("%s: %v", d.Name, err)
		}
		want := strings.Replace(xmlstreamtest.Message, "xml:lang='en'>",
			"xml:lang='en' from='juliet@example.com/balcony'>", 1)
		if i > 0 { // a message that is serialized again is escaped in full
			want = strings.Replace(want, "cam'st", "cam&apos;st", 1)
		}
		got := string(r.boxes["romeo@example.net"].out)
		if i == 2 {
			got = strings.Replace(got, " xmlns:c='jabber:client'", "", 1) // a declared prefix stays
			want = strings.Replace(want, "&apos;", "'", 1)
		}
		if got != want {
			t.Errorf("%s:\n%s\nnot\n%s", d.Name, got, want)
		}
		if n, err := allocs(r, i, 100); n != 0 || err != nil {
			t.Errorf("%s: %v allocations, %v", d.Name, n, err)
		}
	}
}

func BenchmarkPassThrough(b *testing.B) {
	for i, d := range passages() {
		b.Run(strings.ReplaceAll(d.Name, ",", ""), func(b *testing.B) {
			r := newRelay()
			for _, d := range passages()[:i+1] {
				if err := r.add(d); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(d.XML)))
			b.ReportAllocs()
			for b.Loop() {
				if err := r.feed(r.docs[i], 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
