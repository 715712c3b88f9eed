// Xmlbench measures canto/xmlstream beside expat, libxml2 and encoding/xml in one run, each with
// namespaces on, and prints tables and, as its last line, their summary in JSON:
//
//	go run ./bench/xmlbench [-quick] [-svg docs/xmlstream.svg]
//
// Every parser has one stream open for each document, whose header it has read, and is fed the
// document whole. expat and libxml2 count their callbacks and build nothing; encoding/xml returns
// tokens; canto/xmlstream builds its tree. The two in C are processes of their own, built here from
// the development packages of the distribution, that measure themselves.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"canto/xmlstream/xmlstreamtest"
)

func main() {
	fast := flag.Bool("quick", false, "few short rounds: shows that everything works, and no figures to rely on")
	svg := flag.String("svg", "", "also draw ns per byte against stanza size into this `file`")
	flag.Parse()
	e := full
	if *fast {
		e = quick
	}
	if err := run(os.Stdout, e, *svg); err != nil {
		fmt.Fprintln(os.Stderr, "xmlbench:", err)
		os.Exit(1)
	}
}

// A summary is the last line of output. The ratios of the three parsers are medians over the
// documents, of the parser's time to that of canto/xmlstream.
type summary struct {
	MessageNS   float64 `json:"message_ns"`
	Allocs      float64 `json:"allocs"` // for a document, the most that any needs
	Expat       float64 `json:"expat"`
	Libxml2     float64 `json:"libxml2"`
	EncodingXML float64 `json:"encoding_xml"`
	Cyrillic    float64 `json:"cyrillic_gbps"` // 10^9 bytes/s
	// time in pieces of 64 bytes over time whole, median over the documents
	Split64 float64 `json:"split64_ratio"`
}

// run measures all parsers and writes the tables. It builds the two parsers in C; measures the
// documents; prints and sums up the results; measures pieces and the relay; and draws the plot if
// svg names a file.
func run(w io.Writer, e effort, svg string) error {
	if err := checkCParsers(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "xmlbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	expat, err := newCParser(dir, "expat", "expat")
	if err != nil {
		return err
	}
	defer expat.close()
	libxml2, err := newCParser(dir, "libxml2", "libxml-2.0")
	if err != nil {
		return err
	}
	defer libxml2.close()
	fmt.Fprintf(w, "%s; %s, %s, %s\n%s, %d cores\n", time.Now().Format(time.DateOnly), runtime.Version(),
		expat.version, libxml2.version, cpu(), runtime.NumCPU())

	docs := xmlstreamtest.Documents()
	self := newCanto(0)
	field := []parser{self, expat, libxml2, &std{}}
	shapes := sizes()
	if svg == "" {
		shapes = nil
	}
	cells, err := measureAll(append(docs[:len(docs):len(docs)], shapes...), field, e)
	if err != nil {
		return err
	}
	var s summary
	if err := s.compare(w, docs, field, cells[:len(docs)]); err != nil {
		return err
	}
	for i := range docs {
		n, err := allocs(self, i, 200)
		if err != nil {
			return err
		}
		s.Allocs = max(s.Allocs, n)
	}
	if err := s.pieces(w, docs, e); err != nil {
		return err
	}
	if err := passThrough(w, e); err != nil {
		return err
	}
	if svg != "" {
		if err := os.WriteFile(svg, drawPlot(shapes, field, cells[len(docs):]), 0o644); err != nil {
			return err
		}
	}
	var noise []float64
	for _, row := range cells {
		for _, c := range row {
			noise = append(noise, c.noise)
		}
	}
	// much over 1.3: run it again
	fmt.Fprintf(w, "\nBest of %d rounds each, of %v; the median round took %.2f times the best.\n\n",
		e.rounds, e.slice, median(noise))
	b, err := json.Marshal(s.round())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}

// compare prints a table with a row for each document and a last one for the medians: the time and rate
// of each parser, then its time over ours, which is field[0]. It adds the medians, and the figures of the
// documents message and cyrillic, to s. The error says that the corpus has not got these two.
func (s *summary) compare(w io.Writer, docs []xmlstreamtest.Document, field []parser, cells [][]cell) error {
	fmt.Fprint(w, "\nEach document whole, ns (MB/s), and the peers' time over ours:\n\n| document | bytes |")
	rule := "|---|--:|"
	for _, c := range field {
		fmt.Fprintf(w, " %s |", c.name())
		rule += "--:|"
	}
	for _, c := range field[1:] {
		fmt.Fprintf(w, " %s ÷ |", c.name())
		rule += "--:|"
	}
	fmt.Fprintf(w, "\n%s\n", rule)
	ratios := make([][]float64, len(field))
	for i, d := range docs {
		fmt.Fprintf(w, "| %s | %d |", d.Name, len(d.XML))
		for j := range field {
			fmt.Fprintf(w, " %.0f (%.0f) |", cells[i][j].best, 1000*float64(len(d.XML))/cells[i][j].best)
			ratios[j] = append(ratios[j], cells[i][j].best/cells[i][0].best)
		}
		for j := range field[1:] {
			fmt.Fprintf(w, " %.1f |", ratios[j+1][i])
		}
		fmt.Fprintln(w)
		switch d.Name {
		case "message":
			s.MessageNS = cells[i][0].best
		case "cyrillic":
			s.Cyrillic = float64(len(d.XML)) / cells[i][0].best
		}
	}
	fmt.Fprintf(w, "| median |%s", strings.Repeat(" |", 1+len(field)))
	for j := range field[1:] {
		fmt.Fprintf(w, " **%.1f** |", median(ratios[j+1]))
	}
	fmt.Fprintln(w)
	for j, c := range field {
		switch m := median(ratios[j]); c.name() {
		case "expat":
			s.Expat = m
		case "libxml2":
			s.Libxml2 = m
		case "encoding/xml":
			s.EncodingXML = m
		}
	}
	if s.MessageNS == 0 || s.Cyrillic == 0 {
		return errors.New("the corpus has no document message or cyrillic")
	}
	return nil
}

// pieces prints what it costs when documents come in small reads.
func (s *summary) pieces(w io.Writer, docs []xmlstreamtest.Document, e effort) error {
	steps := []int{0, 1, 3, 7, 64, 1400}
	var field []parser
	for _, n := range steps {
		field = append(field, newCanto(n))
	}
	cells, err := measureAll(docs, field, e)
	if err != nil {
		return err
	}
	fmt.Fprint(w, "\nIn pieces, time over that for the document whole (ns):\n\n| document | whole |")
	rule := "|---|--:|"
	for _, n := range steps[1:] {
		fmt.Fprintf(w, " %d B |", n)
		rule += "--:|"
	}
	fmt.Fprintf(w, "\n%s\n", rule)
	ratios := make([][]float64, len(field))
	for i, d := range docs {
		fmt.Fprintf(w, "| %s | %.0f |", d.Name, cells[i][0].best)
		for j := range steps {
			r := cells[i][j].best / cells[i][0].best
			ratios[j] = append(ratios[j], r)
			if j > 0 {
				fmt.Fprintf(w, " %.2f |", r)
			}
		}
		fmt.Fprintln(w)
	}
	fmt.Fprint(w, "| median | |")
	for j := range steps[1:] {
		fmt.Fprintf(w, " **%.2f** |", median(ratios[j+1]))
		if steps[j+1] == 64 {
			s.Split64 = median(ratios[j+1])
		}
	}
	fmt.Fprintln(w)
	return nil
}

// passThrough prints what it costs to route a message.
func passThrough(w io.Writer, e effort) error {
	r := newRelay()
	docs := passages()
	e.rounds *= 10 // they are few: a neighbour of the machine must not fall on all of them
	cells, err := measureAll(docs, []parser{r}, e)
	if err != nil {
		return err
	}
	fmt.Fprint(w, "\nPass-through: parse, route by to and type, append with another from:\n\n| stanza | "+
		"bytes | ns | allocations |\n|---|--:|--:|--:|\n")
	for i, d := range docs {
		n, err := allocs(r, i, 200)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "| %s | %d | %.0f | %.0f |\n", d.Name, len(d.XML), cells[i][0].best, n)
	}
	return nil
}

// round drops digits that mean nothing.
func (s summary) round() summary {
	for _, v := range []*float64{&s.MessageNS, &s.Expat, &s.Libxml2, &s.EncodingXML, &s.Cyrillic, &s.Split64} {
		*v = float64(int(*v*100+0.5)) / 100
	}
	return s
}

// cpu names the processor, as far as the system tells.
func cpu() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}
