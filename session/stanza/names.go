package stanza

import "canto/xmlstream"

// Namespaces of RFC 6120.
const (
	NSClient  = "jabber:client"
	NSServer  = "jabber:server"
	NSStream  = "http://etherx.jabber.org/streams"
	NSStanzas = "urn:ietf:params:xml:ns:xmpp-stanzas" // conditions of stanza errors, §8.3
	NSStreams = "urn:ietf:params:xml:ns:xmpp-streams" // conditions of stream errors, §4.9
	nsXML     = "http://www.w3.org/XML/1998/namespace"
)

// Names of the elements of the three kinds, and of children that RFC 6120 and RFC 6121 define.
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

// Names of attributes that stanzas, stream headers and payloads have.
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
