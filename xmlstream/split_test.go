package xmlstream

import (
	"math/rand"
	"slices"
	"testing"

	"canto/xmlstream/xmlstreamtest"
)

// A stream gives the same tokens, and the same error at the same offset, cut at each byte, into single
// bytes, at pairs of bytes and at random.
func TestAttackK01(t *testing.T) {
	p := NewParser(nil)
	r := rand.New(rand.NewSource(1))
	for _, in := range streams() {
		var s Stream
		run := func(cuts ...int) string {
			s.Reset(0)
			return outcome(t, p, &s, in, cuts...)
		}
		want := run()
		check := func(cuts ...int) {
			t.Helper()
			if got := run(cuts...); got != want {
				t.Fatalf("%.2000q cut at %.100v:\n%.3000s\nwhole:\n%.3000s", in, cuts, got, want)
			}
		}
		if len(in) > 100<<10 {
			check(1, 4095, 4096, 4097, 10000)
			check(len(xmlstreamtest.Header) + 256<<10 - 1)
			check(len(xmlstreamtest.Header)+256<<10, len(xmlstreamtest.Header)+256<<10+1)
			continue
		}
		check(everyByte(len(in))...)
		step := 1 + len(in)/300
		for i := 1; i < len(in); i += step {
			check(i)
		}
		for range 40 {
			var cuts []int
			for range 1 + r.Intn(10) {
				cuts = append(cuts, 1+r.Intn(max(1, len(in)-1)))
			}
			slices.Sort(cuts)
			check(slices.Compact(cuts)...)
		}
	}
	in := xmlstreamtest.Header + "<a b='\u00e9&amp;'>]]&#65;\u20ac<![CDATA[\r\n]]>\r\n</a >" + xmlstreamtest.End
	var s Stream
	want := outcome(t, p, &s, in)
	for i := len(xmlstreamtest.Header); i < len(in); i++ {
		for j := i + 1; j < len(in); j++ {
			s.Reset(0)
			if got := outcome(t, p, &s, in, i, j); got != want {
				t.Fatalf("cut at %d, %d:\n%s\nwhole:\n%s", i, j, got, want)
			}
		}
	}
}

// The work is linear in the bytes, however they are cut. See also TestAttackX12.
func TestWork(t *testing.T) {
	body := "<message to='a@b' id='x'>" + xmlstreamtest.Message + "<x xmlns='u' a='1'>" +
		"some more text here to make it five hundred bytes &lt;&gt; &#65; and so on" + "</x></message>"
	for _, step := range []int{1, 2, 3, 7, 50} {
		p := NewParser(nil)
		var s Stream
		open(t, p, &s, xmlstreamtest.Header)
		p.tree.bytesScanned = 0
		work := 0
		for i := 0; i < len(body); i += step {
			p.Feed(&s, []byte(body[i:min(i+step, len(body))]))
			part := s.unfinished
			_, err := p.Stanza(&s)
			if err == nil && part != nil {
				work = part.bytesScanned + p.tree.bytesScanned
			} else if err != ErrNeedMore {
				t.Fatal(err)
			}
		}
		if len(body) < 450 || len(body) > 550 || work < len(body) || work > 4*len(body) {
			t.Errorf("%d bytes in reads of %d: %d bytes looked at", len(body), step, work)
		}
	}
}
