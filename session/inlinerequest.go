package session

import (
	"encoding/hex"
	"errors"
	"slices"

	"canto/session/jid"
	"canto/xmlstream"
)

// This file has what a client may ask for within its login (XEP-0388 section 2.1): to resume a session, to
// bind a resource, and what its session begins with (XEP-0386). Modules register such requests in
// [Hooks.Inline]. The module of SASL2 collects them, and runs them once the login has succeeded, see
// [InlineLogin.Run].

// An InlinePlace is where a request stands, and so when it is handled.
type InlinePlace uint8

// The places, in the order in which their requests are handled.
const (
	// InlineAccount is a child of <authenticate/> about the account, whatever the stream gets, as a token.
	InlineAccount InlinePlace = iota
	// InlineResume is a child of <authenticate/> that resumes a session. If it does, no resource is bound.
	InlineResume
	// InlineBind is a child of <authenticate/> that binds a resource.
	InlineBind
	// InlineSession is a child of such a <bind/>, about the new session.
	InlineSession
)

// An InlineFeature is a request that a client may make within its login. Its functions run on the stream's
// loop, under no lock, unless their comment says otherwise.
type InlineFeature struct {
	Module string         // the name of the module
	Name   xmlstream.Name // the element of the request
	Place  InlinePlace    // where the element stands
	// Offer writes the child of the advertised <inline/>. Nil: there is none.
	Offer func(st Negotiation, a *xmlstream.Appender)
	// Always makes Handle run for each login, with a zero element if the request is absent.
	Always bool
	// Handle handles the request of a child of <authenticate/>. It, or what it has begun, calls one of
	// [InlineLogin.Continue], [InlineLogin.Resumed] and [InlineLogin.Bound], once. e is valid until it returns.
	Handle func(l *InlineLogin, e xmlstream.Element)
	// Begin handles the request of a child of <bind/>: s is the new session, which has no stream yet. What it
	// appends becomes part of <bound/>. Under the account's lock.
	Begin func(l *InlineLogin, s *Session, e xmlstream.Element, a *xmlstream.Appender)
}

// MaxInline is how many requests within a login are looked at; more are ignored.
const MaxInline = 32

// An AgentID is the id of an installation of a client, a UUID (XEP-0388 section 2.3). It is never shown to
// other entities. The zero value is none.
type AgentID [16]byte

// errAgentID says that a text is no UUID.
var errAgentID = errors.New("session: the id of a user agent is not a UUID")

// ParseAgentID reads a UUID, in any case of letters (RFC 9562 section 4). The error is [errAgentID], also for
// the nil UUID.
func ParseAgentID(text []byte) (id AgentID, err error) {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return id, errAgentID
	}
	digits := slices.Concat(text[:8], text[9:13], text[14:18], text[19:23], text[24:])
	if _, err := hex.Decode(id[:], digits); err != nil || id == (AgentID{}) {
		return AgentID{}, errAgentID
	}
	return id, nil
}

// String returns the UUID in lower case, or nothing for the zero value.
func (id AgentID) String() string {
	if id == (AgentID{}) {
		return ""
	}
	x := hex.EncodeToString(id[:])
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}

// agentVar is the user agent of a session that has one.
var agentVar = NewSessionVar[AgentID]("user-agent", &Codec[AgentID]{Version: 1,
	AppendMarshal: func(dst []byte, id *AgentID) []byte { return append(dst, id[:]...) },
	Unmarshal: func(_ uint8, b []byte) (*AgentID, error) {
		if len(b) != len(AgentID{}) {
			return nil, errAgentID
		}
		return (*AgentID)(slices.Clone(b)), nil
	}})

// An InlineLogin is a login by SASL2 that has succeeded, while what it has asked for is done. Its loop owns
// it.
type InlineLogin struct {
	// Agent is the client's user agent. Software and Device are what it says of itself; both may be empty.
	Agent            AgentID
	Software, Device string
	// Account is the id of the account in the store.
	Account uint64
	// Token is what the mechanism of a token keeps for its module: nil after a login by password.
	Token any

	st       Negotiation
	requests [][]byte // the elements of the requests, each valid by itself
	// finish sends the success. addr is the bare JID, or the full JID of the session; body the answers.
	finish  func(l *InlineLogin, addr jid.JID, body []byte)
	body    []byte
	pending []*InlineFeature
	state   inlineState
	waiting bool // the stream is parked until the handler goes on
	// HasResumed is set when a session was resumed: no stream features follow (XEP-0198 section 9.2).
	HasResumed bool
}

// An inlineState says how far a handler is.
type inlineState uint8

// The states of an InlineLogin.
const (
	inlineHandling  inlineState = iota // the handler has not gone on yet
	inlineContinued                    // the next request is due
	inlineOver                         // the success is sent, or the stream is closed
)

// agentOf returns the user agent that has logged in with SASL2 and bound or resumed s; zero if it has not
// said its id. Under the account's lock.
func agentOf(s *Session) AgentID {
	if id := agentVar.Get(s); id != nil {
		return *id
	}
	return AgentID{}
}

// setAgent sets the user agent of s. Under the account's lock.
func setAgent(s *Session, id AgentID) {
	if id == (AgentID{}) {
		agentVar.Set(s, nil)
		return
	}
	agentVar.Set(s, &id)
}
