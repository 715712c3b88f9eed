package stanza

import "canto/xmlstream"

// The namespaces of RFC 6120.
const (
	NSClient  = "jabber:client"                       // content of streams between client and server
	NSServer  = "jabber:server"                       // content of streams between servers
	NSStream  = "http://etherx.jabber.org/streams"    // the stream element itself, its features and errors
	NSStanzas = "urn:ietf:params:xml:ns:xmpp-stanzas" // conditions of stanza errors, section 8.3
	NSStreams = "urn:ietf:params:xml:ns:xmpp-streams" // conditions of stream errors, section 4.9
	nsXML     = "http://www.w3.org/XML/1998/namespace"
)

// The names of the three kinds of stanza, and of children that RFC 6120 and RFC 6121 define.
var (
	MessageName  = xmlstream.N(NSClient, "message")
	PresenceName = xmlstream.N(NSClient, "presence")
	IQName       = xmlstream.N(NSClient, "iq")
	ErrorName    = xmlstream.N(NSClient, "error")
	BodyName     = xmlstream.N(NSClient, "body")
	SubjectName  = xmlstream.N(NSClient, "subject")
	ThreadName   = xmlstream.N(NSClient, "thread")
	ShowName     = xmlstream.N(NSClient, "show")
	StatusName   = xmlstream.N(NSClient, "status")
	PriorityName = xmlstream.N(NSClient, "priority")
	textName     = xmlstream.N(NSStanzas, "text")
)

// The names of attributes of stanzas, stream headers and payloads.
var (
	AttrType         = xmlstream.N("", "type")
	AttrTo           = xmlstream.N("", "to")
	AttrFrom         = xmlstream.N("", "from")
	AttrID           = xmlstream.N("", "id")
	AttrVersion      = xmlstream.N("", "version")
	AttrLang         = xmlstream.N(nsXML, "lang")
	AttrJID          = xmlstream.N("", "jid")
	AttrName         = xmlstream.N("", "name")
	AttrNode         = xmlstream.N("", "node")
	AttrVar          = xmlstream.N("", "var")
	AttrVer          = xmlstream.N("", "ver")
	AttrStamp        = xmlstream.N("", "stamp")
	AttrCode         = xmlstream.N("", "code")
	AttrMechanism    = xmlstream.N("", "mechanism")
	AttrSubscription = xmlstream.N("", "subscription")
)
