package xmlstream

// A Stream is the state of one XMPP stream between reads: 24 bytes, and no buffer while no stanza is
// unfinished. It holds the unfinished stanza, what the stream header declared, the offset in the stream and
// the limits. The zero Stream waits for a header, under the default limits.
//
// A Stream is used with one [Parser] only, on the goroutine of that parser: the memory of an unfinished
// stanza belongs to the parser. It must not be copied.
type Stream struct {
	// unfinished is the stanza or header whose end has not come, with its bytes (tree.tail), or the error that
	// the stream ended with (tree.err). It is nil if there is neither.
	unfinished     *tree
	root           *Root  // what the header declared, nil before it; a shared value for usual headers
	offsetAndLimit uint64 // offset in the lower offsetBits, LimitID above
}

// offsetBits is how many bits of Stream.offsetAndLimit are the offset; the upper eight are the LimitID. An
// offset of 56 bits lasts for 64 PiB of input; then it begins at 0 again.
const offsetBits = 56

// Reset makes s ready for a new stream header, as after STARTTLS or SASL (RFC 6120 section 4.3.3), under the
// limits l, with the offset 0. It gives the memory of an unfinished stanza back to the parser and forgets an
// error. Call it when the connection ends, too. Elements that the parser returned stay good. It must not be
// called between Feed and the first Next or Stanza after that.
func (s *Stream) Reset(l LimitID) {
	s.releaseTree()
	s.root, s.offsetAndLimit = nil, uint64(l)<<offsetBits
}

// ResetFramed is Reset for a stream without a root element, as over WebSocket (RFC 7395 section 3.3): each
// top-level element declares its own namespace. [Parser.Stanza] can be called at once. Such a stream never
// returns io.EOF; its root has no end tag.
func (s *Stream) ResetFramed(l LimitID) {
	s.Reset(l)
	s.root = rootFramed
}

// SetLimits replaces the limits of s. They are in force from the next call of [Parser.Next] or
// [Parser.Stanza], also for an unfinished stanza. It is for a login without a new stream header (XEP-0388).
func (s *Stream) SetLimits(l LimitID) {
	s.offsetAndLimit = s.offsetAndLimit&(1<<offsetBits-1) | uint64(l)<<offsetBits
}

// Offset returns how many bytes of complete tokens (header, stanzas, white space, end tag) were read since
// the last Reset. Bytes of an unfinished token do not count.
func (s *Stream) Offset() int64 { return int64(s.offsetAndLimit & (1<<offsetBits - 1)) }

// Root returns what the stream header declared, or nil before there is one.
func (s *Stream) Root() *Root { return s.root }

// Pending returns how many bytes of an unfinished token s holds; 0 if there is none.
func (s *Stream) Pending() int {
	if s.unfinished == nil {
		return 0
	}
	return len(s.unfinished.tail)
}

// limits returns the limits in force. It takes no lock: an entry of limitSets never changes once it has
// an ID.
func (s *Stream) limits() *Limits { return &limitSets.at[s.offsetAndLimit>>offsetBits] }

// advance adds n to the offset.
func (s *Stream) advance(n int) {
	s.offsetAndLimit = s.offsetAndLimit&^(1<<offsetBits-1) | (s.offsetAndLimit+uint64(n))&(1<<offsetBits-1)
}

// releaseTree gives the unfinished stanza, or the error, back to the parser that s is used with.
func (s *Stream) releaseTree() {
	if t := s.unfinished; t != nil {
		s.unfinished = nil
		t.p.putTail(t)
		t.p.putTree(t)
	}
}

// A Root is what a stream header declared for all stanzas of the stream: they are parsed and written in its
// context. It is never changed, so any goroutine may read it. Streams with a usual header share one.
type Root struct {
	// Default is the content namespace, which the header declares as its default: of "jabber:client" or
	// "jabber:server" on usual streams. It is Unknown if the peer declared one that was never interned.
	Default Atom
	Lang    string // xml:lang of the header, the language of stanzas without one; empty if it has none

	contentNS []byte       // the content namespace, Default in bytes
	rootName  []byte       // the name of the root element with its prefix, which its end tag must repeat
	streams   bool         // the content namespace is the streams namespace
	nsDecls   []rootNSDecl // the prefixes that the header declares
}

// A rootNSDecl is a prefix that the stream header declared.
type rootNSDecl struct {
	prefix, uri []byte
	streams     bool // uri is the streams namespace
}

// xmlSpace is what nsURI returns for the prefix xml. It must not be changed.
var xmlSpace = []byte(NSXML)

// content reports whether the content namespace is one that XMPP knows (RFC 6120 section 4.8.2): then stanzas
// take their namespace from the header.
func (r *Root) content() bool {
	return r.Default == atomClient || r.Default == atomServer || r.Default == atomComponent
}

// The prefixes of usual headers.
var (
	streamDecl   = rootNSDecl{[]byte("stream"), []byte(NSStream), true}
	dialbackDecl = rootNSDecl{[]byte("db"), []byte(NSDialback), false}
)

// The shared Roots. Any goroutine reads them, and they are never changed.
var (
	rootNone   = &Root{} // the context in which a stream header is parsed: nothing is declared
	rootFramed = &Root{} // of a framed stream: nothing is declared either
	rootClient = &Root{Default: atomClient, contentNS: []byte(NSClient), rootName: []byte("stream:stream"),
		nsDecls: []rootNSDecl{streamDecl}}
	rootServer = &Root{Default: atomServer, contentNS: []byte(NSServer), rootName: []byte("stream:stream"),
		nsDecls: []rootNSDecl{streamDecl}}
	rootDialback = &Root{Default: atomServer, contentNS: []byte(NSServer), rootName: []byte("stream:stream"),
		nsDecls: []rootNSDecl{streamDecl, dialbackDecl}}

	// rootsLang are rootClient and rootDialback with each xml:lang of two lower-case letters.
	rootsLang = func() (m [2][26 * 26]*Root) {
		for i, r := range []*Root{rootClient, rootDialback} {
			for l := range m[i] {
				c := *r
				c.Lang = string([]byte{byte('a' + l/26), byte('a' + l%26)})
				m[i][l] = &c
			}
		}
		return m
	}()
)

// langName is the name of the attribute xml:lang.
var langName = N(NSXML, "lang")

// newRoot returns the Root that the stream header e declares. The steps:
//
//  1. Look up the default namespace, the name of the root element and xml:lang.
//  2. If name, default namespace and prefixes are those of a usual header, without a language or with one of
//     two letters, return the shared Root for it. This costs the stream no memory.
//  3. Otherwise allocate a Root with copies of what the header declares, as e does not outlive the read.
func newRoot(e Element) *Root {
	t := e.t
	nd := &t.nodes[0]
	space := t.nsURI(t.defaultNS(nd.scope))
	def := lookup(space)
	name := t.buf[nd.start+1 : nd.start+1+uint32(nd.qnameLen)]
	lang, _ := e.Attr(langName)
	for _, usual := range []*Root{rootClient, rootServer, rootDialback} {
		if usual.Default != def || string(name) != string(usual.rootName) || !t.declares(nd.scope, usual.nsDecls) {
			continue
		}
		if len(lang) == 0 {
			return usual
		}
		if a, b := int(lang[0])-'a', 0; len(lang) == 2 && usual != rootServer {
			if b = int(lang[1]) - 'a'; a >= 0 && a < 26 && b >= 0 && b < 26 {
				if usual == rootClient {
					return rootsLang[0][a*26+b]
				}
				return rootsLang[1][a*26+b]
			}
		}
	}
	r := &Root{
		Default: def, Lang: string(lang), streams: t.isStreams(t.defaultNS(nd.scope)),
		contentNS: append([]byte(nil), space...), rootName: append([]byte(nil), name...),
	}
	for s := nd.scope; s != 0; s = t.nsDecls[s-1].prev {
		if b := &t.nsDecls[s-1]; b.prefixLen != 0 &&
			string(t.buf[b.prefixOff:b.prefixOff+uint32(b.prefixLen)]) != "xml" {
			r.nsDecls = append(r.nsDecls, rootNSDecl{
				prefix: append([]byte(nil), t.buf[b.prefixOff:b.prefixOff+uint32(b.prefixLen)]...),
				uri:    append([]byte(nil), t.nsURI(s)...), streams: b.streams,
			})
		}
	}
	return r
}

// defaultNS returns the default namespace in scope, as in node.ns. scope is as in node.scope.
func (t *tree) defaultNS(scope uint16) uint16 {
	if scope == 0 {
		return nsOuter
	}
	return t.nsDecls[scope-1].def
}

// declares reports whether the prefixes that are declared in scope, as in node.scope, are those in want and
// no others. t is the tree of a stream header. A prefix that is declared twice can't be in one tag.
func (t *tree) declares(scope uint16, want []rootNSDecl) bool {
	n := 0
	for ; scope != 0; scope = t.nsDecls[scope-1].prev {
		if t.nsDecls[scope-1].prefixLen != 0 {
			n++
		}
	}
	for _, w := range want {
		ns, ok := t.lookupPrefix(w.prefix, t.nodes[0].scope)
		if !ok || string(t.nsURI(ns)) != string(w.uri) {
			return false
		}
	}
	return n == len(want)
}
