package xmlstream

import (
	"strings"
	"testing"

	"canto/xmlstream/xmlstreamtest"
)

func BenchmarkStanza(b *testing.B) {
	for _, x := range xmlstreamtest.Stanzas() {
		b.Run(x.Name, func(b *testing.B) {
			p := NewParser(nil)
			var s Stream
			open(b, p, &s, xmlstreamtest.Header)
			in := []byte(x.XML)
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				p.Feed(&s, in)
				if _, err := p.Stanza(&s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSplice(b *testing.B) {
	e := stanza(b, xmlstreamtest.Header, xmlstreamtest.Message)
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = e.Append(dst[:0], Streamed, Attr{from, "juliet@example.com/balcony"})
	}
}

func BenchmarkElement(b *testing.B) {
	p := NewParser(nil)
	in := []byte(xmlstreamtest.Message)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		e, err := p.Element(in)
		if err != nil {
			b.Fatal(err)
		}
		p.Release(e)
	}
}

func BenchmarkPieces(b *testing.B) {
	for _, x := range xmlstreamtest.Stanzas() {
		b.Run(x.Name, func(b *testing.B) {
			p := NewParser(nil)
			var s Stream
			open(b, p, &s, xmlstreamtest.Header)
			in := []byte(x.XML)
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				for i := 0; i < len(in); i += 64 {
					p.Feed(&s, in[i:min(i+64, len(in))])
					if _, err := p.Stanza(&s); err != nil && err != ErrNeedMore {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkAppendText(b *testing.B) {
	for name, text := range map[string]string{
		"long":  strings.Repeat("Wherefore art thou, Romeo? ", 40),
		"short": "juliet@example.com/balcony",
	} {
		b.Run(name, func(b *testing.B) {
			var dst []byte
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				dst = AppendText(dst[:0], text)
			}
		})
	}
}
