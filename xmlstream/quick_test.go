package xmlstream

import (
	"fmt"
	"testing"
)

func TestQuick(t *testing.T) {
	in := "<?xml version='1.0'?><stream:stream to='localhost' xml:lang='en' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>\n<message to='a@b' id=\"1'\"><body>Hi &amp; \xd0\x96 <![CDATA[<x>]]> there</body><x xmlns='urn:x' a:b='1' xmlns:a='urn:a'/></message> <presence/></stream:stream>"
	for step := 1; step <= len(in); step++ {
		p := NewParser(nil)
		var s Stream
		out := ""
		for i := 0; i < len(in); i += step {
			p.Feed(&s, []byte(in[i:min(i+step, len(in))]))
			for {
				if s.Root() == nil {
					tok, err := p.Next(&s)
					if err == ErrNeedMore {
						break
					}
					if err != nil {
						t.Fatal(step, i, err)
					}
					to, _ := tok.Attr(N("", "to"))
					out += "H" + string(to) + s.Root().Lang + s.Root().Default.String()
					continue
				}
				e, err := p.Stanza(&s)
				if err == ErrNeedMore {
					break
				}
				if err != nil {
					out += err.Error()
					break
				}
				out += string(e.Append(nil, Streamed, Attr{N("", "from"), "x'y@z"}, Attr{N("", "to"), "n@m"}))
				if b, ok := e.First(); ok {
					out += "|" + string(b.Text()) + "|"
				}
				var a Appender
				out += string(a.Open(N("urn:f", "f")).Raw(e).Close().B)
			}
		}
		if step == 1 {
			fmt.Println(out)
		}
		if want := fmt.Sprint(s.Offset()); want != fmt.Sprint(len(in)) {
			t.Fatal(step, want, len(in), out)
		}
	}
}
