package xmpp

import (
	"fmt"
	"slices"

	"canto/session/sasl"
	"canto/session/stanza"
	"canto/xmlstream"
)

// AppendHeader appends the XML declaration and the header of a client's stream (RFC 6120 section 4.7). to is
// the server's domain. from is the client's bare address; a client must not send it in the clear (XEP-0388
// section 2), and "" leaves it out.
func AppendHeader(b []byte, to, from string) []byte {
	b = append(b, "<?xml version='1.0'?><stream:stream xmlns='"+stanza.NSClient+
		"' xmlns:stream='"+stanza.NSStream+"' version='1.0' to='"...)
	b = xmlstream.AppendValue(b, to)
	if from != "" {
		b = append(b, "' from='"...)
		b = xmlstream.AppendValue(b, from)
	}
	return append(b, "'>"...)
}

// RequestTLS asks for STARTTLS (RFC 6120 section 5.4.2.1). The server answers with [Proceed], or ends the
// stream.
const RequestTLS = "<starttls xmlns='" + NSTLS + "'/>"

// EndStream closes the client's stream (RFC 6120 section 4.4).
const EndStream = "</stream:stream>"

// AppendAuth appends the first message of a login (RFC 6120 section 6.4.2). initial is in base64.
func AppendAuth[S string | []byte](b []byte, mechanism string, initial S) []byte {
	return fmt.Appendf(b, "<auth xmlns='%s' mechanism='%s'>%s</auth>", NSSASL, mechanism, initial)
}

// AppendResponse appends the answer to a challenge. space is NSSASL or NSSASL2. text is in base64.
func AppendResponse[S string | []byte](b []byte, space string, text S) []byte {
	return fmt.Appendf(b, "<response xmlns='%s'>%s</response>", space, text)
}

// AppendBind appends the request to bind a resource (RFC 6120 section 7). Its id is "bind". The
// server chooses the resource if resource is "".
func AppendBind(b []byte, resource string) []byte {
	b = append(b, "<iq type='set' id='bind'><bind xmlns='"+NSBind+"'>"...)
	if resource != "" {
		b = append(b, "<resource>"...)
		b = xmlstream.AppendText(b, resource)
		b = append(b, "</resource>"...)
	}
	return append(b, "</bind></iq>"...)
}

// BoundJID is the full address in the answer to [AppendBind]. ok is false if the answer is an error or has no
// address.
func BoundJID(iq xmlstream.Element) (jid string, ok bool) {
	if t, _ := iq.Attr(stanza.AttrType); string(t) != "result" {
		return "", false
	}
	b, _ := iq.Child(Bind)
	if b.IsZero() {
		return "", false
	}
	j, ok := b.Child(BoundAddress)
	if !ok {
		return "", false
	}
	return string(j.Text()), true
}

// Offered are the mechanisms that parent lists in elements of the given name: [Mechanism] in [Mechanisms], or
// [Mechanism2] in [Authentication].
func Offered(parent xmlstream.Element, name xmlstream.Name) (names []string) {
	for k, ok := parent.First(); ok; k, ok = k.Next() {
		if k.Is(name) {
			names = append(names, string(k.Text()))
		}
	}
	return names
}

// Preferred are the mechanisms of a login without a choice of its own, in order. SCRAM-SHA-1 is
// first because every server has it, so that figures of servers can be compared. PLAIN is last: the
// client must leave it out without TLS.
var Preferred = []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"}

// Choose is the first mechanism of want that the server offers. ok is false if there is none.
func Choose(offered, want []string) (m sasl.Mechanism, ok bool) {
	for _, w := range want {
		if slices.Contains(offered, w) {
			if m, ok := sasl.ParseMechanism(w); ok {
				return m, true
			}
		}
	}
	return 0, false
}

// Condition is the name of the defined condition in an error: of a stream (stanza.NSStreams), of a stanza
// (stanza.NSStanzas) or of a login (NSSASL, also within SASL2). "" means that the error has none.
func Condition(parent xmlstream.Element, space string) string {
	for k, ok := parent.First(); ok; k, ok = k.Next() {
		if string(k.Space()) == space && string(k.Local()) != "text" {
			return string(k.Local())
		}
	}
	return ""
}
