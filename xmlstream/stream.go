package xmlstream

// A Stream is what one stream keeps between reads: 24 bytes, and no buffer while idle. The zero Stream is
// one without a header yet, under the default limits. It is used with one [Parser], on that parser's
// goroutine.
type Stream struct {
	unfinished     *tree // unfinished input, or the error the stream ended with
	root           *Root // what the header declared; a shared constant for the usual one
	offsetAndLimit uint64
}

const offBits = 56 // of Stream.offsetAndLimit; above it the LimitID

// Reset makes s ready for a new header, as after STARTTLS or SASL (RFC 6120 §4.3.3), and gives back what
// it holds. Call it when the stream ends, too.
func (s *Stream) Reset(l LimitID) {
	s.releaseTree()
	s.root, s.offsetAndLimit = nil, uint64(l)<<offBits
}

// ResetFramed is Reset for a stream without a root element, as in WebSocket frames (RFC 7395 §3.3): each
// element stands for itself and declares its namespace. [Parser.Stanza] can be called at once.
func (s *Stream) ResetFramed(l LimitID) {
	s.Reset(l)
	s.root = rootFramed
}

// SetLimits puts other limits in force, from the next element on; as after login where no new header comes
// (XEP-0388).
func (s *Stream) SetLimits(l LimitID) {
	s.offsetAndLimit = s.offsetAndLimit&(1<<offBits-1) | uint64(l)<<offBits
}

// Offset returns how many bytes of the stream were consumed since the last Reset: those of complete tokens.
func (s *Stream) Offset() int64 { return int64(s.offsetAndLimit & (1<<offBits - 1)) }

// Root returns what the stream header declared, nil before there was one.
func (s *Stream) Root() *Root { return s.root }

// Pending reports whether s holds the beginning of an unfinished token, and how many bytes of it.
func (s *Stream) Pending() int {
	if s.unfinished == nil {
		return 0
	}
	return len(s.unfinished.tail)
}

func (s *Stream) limits() *Limits { return &limitSets.at[s.offsetAndLimit>>offBits] }

func (s *Stream) advance(n int) {
	s.offsetAndLimit = s.offsetAndLimit&^(1<<offBits-1) | (s.offsetAndLimit+uint64(n))&(1<<offBits-1)
}

func (s *Stream) releaseTree() {
	if t := s.unfinished; t != nil {
		s.unfinished = nil
		t.p.putTail(t)
		t.p.putTree(t)
	}
}

// A Root is what a stream header put in force for all stanzas. Never changed; any goroutine.
type Root struct {
	Default Atom   // the content namespace: that of "jabber:client" or "jabber:server"; may be Unknown
	Lang    string // xml:lang

	contentNS []byte // the content namespace
	rootName  []byte // of the root element, as its end tag must repeat it
	streams   bool   // the content namespace is the streams namespace
	nsDecls   []rootNSDecl
}

type rootNSDecl struct {
	prefix, uri []byte
	streams     bool
}

var xmlSpace = []byte(NSXML)

// content reports whether stanzas take their namespace from the header.
func (r *Root) content() bool {
	return r.Default == atomClient || r.Default == atomServer || r.Default == atomComponent
}

var (
	streamBind = rootNSDecl{[]byte("stream"), []byte(NSStream), true}
	dbBind     = rootNSDecl{[]byte("db"), []byte(NSDialback), false}

	rootNone   = &Root{} // around a stream header
	rootFramed = &Root{}
	rootClient = &Root{Default: atomClient, contentNS: []byte(NSClient), rootName: []byte("stream:stream"),
		nsDecls: []rootNSDecl{streamBind}}
	rootServer = &Root{Default: atomServer, contentNS: []byte(NSServer), rootName: []byte("stream:stream"),
		nsDecls: []rootNSDecl{streamBind}}
	rootDialback = &Root{Default: atomServer, contentNS: []byte(NSServer), rootName: []byte("stream:stream"),
		nsDecls: []rootNSDecl{streamBind, dbBind}}

	rootsLang = func() (m [2][26 * 26]*Root) { // languages of two letters, for clients and for servers
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

var langName = N(NSXML, "lang")

// newRoot returns the Root that the header e declares: a shared one if it is a usual one, so that a
// stream pays nothing for it.
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

// defaultNS returns the default namespace in scope.
func (t *tree) defaultNS(scope uint16) uint16 {
	if scope == 0 {
		return nsOuter
	}
	return t.nsDecls[scope-1].def
}

// declares reports whether exactly these prefixes are declared in scope.
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
