package xmpp

import (
	"canto/session/stanza"
	"canto/xmlstream"
)

// Namespaces that the package stanza does not have.
const (
	NSTLS          = "urn:ietf:params:xml:ns:xmpp-tls"        // RFC 6120 section 5
	NSSASL         = "urn:ietf:params:xml:ns:xmpp-sasl"       // RFC 6120 section 6
	NSBind         = "urn:ietf:params:xml:ns:xmpp-bind"       // RFC 6120 section 7
	NSSession      = "urn:ietf:params:xml:ns:xmpp-session"    // RFC 3921 section 3
	NSRoster       = "jabber:iq:roster"                       // RFC 6121 section 2
	NSDataForms    = "jabber:x:data"                          // XEP-0004
	NSDiscoInfo    = "http://jabber.org/protocol/disco#info"  // XEP-0030
	NSDiscoItems   = "http://jabber.org/protocol/disco#items" // XEP-0030
	NSMUC          = "http://jabber.org/protocol/muc"         // XEP-0045
	NSMUCUser      = "http://jabber.org/protocol/muc#user"    // XEP-0045
	NSMUCOwner     = "http://jabber.org/protocol/muc#owner"   // XEP-0045
	NSMUCAdmin     = "http://jabber.org/protocol/muc#admin"   // XEP-0045
	NSRSM          = "http://jabber.org/protocol/rsm"         // XEP-0059
	NSPubSub       = "http://jabber.org/protocol/pubsub"      // XEP-0060
	NSRegister     = "jabber:iq:register"                     // XEP-0077
	NSVersion      = "jabber:iq:version"                      // XEP-0092
	NSMediaElement = "urn:xmpp:media-element"                 // XEP-0221, in a CAPTCHA of XEP-0158
	NSSM           = "urn:xmpp:sm:3"                          // XEP-0198
	NSPing         = "urn:xmpp:ping"                          // XEP-0199
	NSDelay        = "urn:xmpp:delay"                         // XEP-0203
	NSCarbons      = "urn:xmpp:carbons:2"                     // XEP-0280
	NSForward      = "urn:xmpp:forward:0"                     // XEP-0297
	NSMAM          = "urn:xmpp:mam:2"                         // XEP-0313
	NSCSI          = "urn:xmpp:csi:0"                         // XEP-0352
	NSPush         = "urn:xmpp:push:0"                        // XEP-0357
	NSStanzaID     = "urn:xmpp:sid:0"                         // XEP-0359
	NSBind2        = "urn:xmpp:bind:0"                        // XEP-0386
	NSSASL2        = "urn:xmpp:sasl:2"                        // XEP-0388
	NSStreamLimits = "urn:xmpp:stream-limits:0"               // XEP-0478
	NSFAST         = "urn:xmpp:fast:0"                        // XEP-0484
)

// Elements of a stream before login (RFC 6120).
var (
	Features      = xmlstream.N(stanza.NSStream, "features")
	StreamFailure = xmlstream.N(stanza.NSStream, "error") // <stream:error/>; see [StreamError]
	StartTLS      = xmlstream.N(NSTLS, "starttls")
	Proceed       = xmlstream.N(NSTLS, "proceed")
	Mechanisms    = xmlstream.N(NSSASL, "mechanisms")
	Mechanism     = xmlstream.N(NSSASL, "mechanism")
	Auth          = xmlstream.N(NSSASL, "auth")
	Challenge     = xmlstream.N(NSSASL, "challenge")
	Response      = xmlstream.N(NSSASL, "response")
	Abort         = xmlstream.N(NSSASL, "abort")
	Success       = xmlstream.N(NSSASL, "success")
	Failure       = xmlstream.N(NSSASL, "failure")
	Bind          = xmlstream.N(NSBind, "bind")
	BoundAddress  = xmlstream.N(NSBind, "jid")
	BindResource  = xmlstream.N(NSBind, "resource")
	Session       = xmlstream.N(NSSession, "session")
	Optional      = xmlstream.N(NSSession, "optional") // in Session: the client may leave the request out
	StreamLimits  = xmlstream.N(NSStreamLimits, "limits")
	MaxBytes      = xmlstream.N(NSStreamLimits, "max-bytes")
)

// Elements of SASL2 (XEP-0388) and of what is negotiated inside it: Bind 2 (XEP-0386) and FAST (XEP-0484).
var (
	Authentication  = xmlstream.N(NSSASL2, "authentication") // the feature
	Mechanism2      = xmlstream.N(NSSASL2, "mechanism")
	Inline          = xmlstream.N(NSSASL2, "inline")
	Authenticate2   = xmlstream.N(NSSASL2, "authenticate")
	InitialResponse = xmlstream.N(NSSASL2, "initial-response")
	UserAgent       = xmlstream.N(NSSASL2, "user-agent")
	Challenge2      = xmlstream.N(NSSASL2, "challenge")
	Response2       = xmlstream.N(NSSASL2, "response")
	Abort2          = xmlstream.N(NSSASL2, "abort")
	Success2        = xmlstream.N(NSSASL2, "success")
	Failure2        = xmlstream.N(NSSASL2, "failure")
	Continue2       = xmlstream.N(NSSASL2, "continue") // the server wants another task, such as a second factor
	AdditionalData  = xmlstream.N(NSSASL2, "additional-data")
	AuthorizationID = xmlstream.N(NSSASL2, "authorization-identifier")
	Bind2           = xmlstream.N(NSBind2, "bind")
	Bound2          = xmlstream.N(NSBind2, "bound")
	Bind2Inline     = xmlstream.N(NSBind2, "inline") // in Bind2: what may stand in the request
	Bind2Feature    = xmlstream.N(NSBind2, "feature")
	AttrVar         = xmlstream.N("", "var") // of Bind2Feature: a namespace
	EnableCarbons   = xmlstream.N(NSCarbons, "enable")
	Tag             = xmlstream.N(NSBind2, "tag")
	Fast            = xmlstream.N(NSFAST, "fast")
	RequestToken    = xmlstream.N(NSFAST, "request-token")
	Token           = xmlstream.N(NSFAST, "token")
	AttrToken       = xmlstream.N("", "token")
)

// Elements that a client reads or writes once it is bound.
var (
	ErrorText      = xmlstream.N(stanza.NSStanzas, "text") // in a stanza error
	SM             = xmlstream.N(NSSM, "sm")               // the feature of stream management
	SMRequest      = xmlstream.N(NSSM, "r")
	SMAnswer       = xmlstream.N(NSSM, "a")
	SMEnable       = xmlstream.N(NSSM, "enable")
	SMEnabled      = xmlstream.N(NSSM, "enabled")
	SMResume       = xmlstream.N(NSSM, "resume")
	SMResumed      = xmlstream.N(NSSM, "resumed")
	SMFailed       = xmlstream.N(NSSM, "failed")
	AttrHandled    = xmlstream.N("", "h")      // of SMAnswer and others: stanzas that were handled
	AttrPrevID     = xmlstream.N("", "previd") // of SMResume
	AttrResume     = xmlstream.N("", "resume") // of SMEnable and SMEnabled
	CSI            = xmlstream.N(NSCSI, "csi") // the feature of client state indication
	Active         = xmlstream.N(NSCSI, "active")
	Inactive       = xmlstream.N(NSCSI, "inactive")
	Ping           = xmlstream.N(NSPing, "ping")
	Roster         = xmlstream.N(NSRoster, "query")
	Register       = xmlstream.N(NSRegister, "query")
	DataForm       = xmlstream.N(NSDataForms, "x")
	FieldRequired  = xmlstream.N(NSDataForms, "required")
	FieldValue     = xmlstream.N(NSDataForms, "value")
	MUCUser        = xmlstream.N(NSMUCUser, "x")
	MUCStatus      = xmlstream.N(NSMUCUser, "status")
	ArchiveEnd     = xmlstream.N(NSMAM, "fin") // in the answer to a query of an archive
	AttrComplete   = xmlstream.N("", "complete")
	ResultSet      = xmlstream.N(NSRSM, "set")
	ResultSetFirst = xmlstream.N(NSRSM, "first")
	ArchiveResult  = xmlstream.N(NSMAM, "result") // a message out of an archive, around Forwarded
	AttrQueryID    = xmlstream.N("", "queryid")   // of the query that an ArchiveResult belongs to
	CarbonReceived = xmlstream.N(NSCarbons, "received")
	CarbonSent     = xmlstream.N(NSCarbons, "sent")
	Forwarded      = xmlstream.N(NSForward, "forwarded")
	Delay          = xmlstream.N(NSDelay, "delay")
	AttrStamp      = xmlstream.N("", "stamp")             // of Delay
	StanzaID       = xmlstream.N(NSStanzaID, "stanza-id") // the id that an archive has given to a message
	AttrBy         = xmlstream.N("", "by")                // of StanzaID: whose archive it is
	PubSub         = xmlstream.N(NSPubSub, "pubsub")
	Publish        = xmlstream.N(NSPubSub, "publish") // what a push is, to an app server (XEP-0357 section 6)
	AttrNode       = xmlstream.N("", "node")
)
