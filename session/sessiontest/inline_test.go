package sessiontest_test

import (
	"strings"
	"testing"

	"canto/reactor"
	"canto/session"
	"canto/session/mod"
	"canto/session/sessiontest"
	"canto/xmlstream"
)

// A resumer is a module with requests within a login. It keeps each session that has lost its stream. Its
// request resumes the session of a resource: after a worker has run, and under the lock of the account. Its
// request in a bind notes what the session is to begin with.
type resumer struct{ begun []string }

var (
	resumeName = xmlstream.N("urn:x-resume", "resume")
	beginName  = xmlstream.N("urn:x-resume", "begin")
	attrPrevid = xmlstream.N("", "previd")
)

// Load implements session.Module.
func (m *resumer) Load(api *session.API) error {
	api.Hooks.Hibernate.Add(api.Module, session.Deliver,
		func(*session.LoopRouter, *session.Session) session.Verdict { return session.Done })
	api.Hooks.Inline = append(api.Hooks.Inline,
		session.InlineFeature{Module: api.Module, Name: resumeName, Place: session.InlineResume,
			Offer:  func(_ session.Negotiation, a *xmlstream.Appender) { a.Open(resumeName).Close() },
			Handle: m.resume},
		session.InlineFeature{Module: api.Module, Name: beginName, Place: session.InlineSession,
			Begin: func(l *session.InlineLogin, s *session.Session, e xmlstream.Element, a *xmlstream.Appender) {
				m.begun = append(m.begun, s.JID().String()+" "+l.Software)
				a.Open(xmlstream.N("urn:x-resume", "begun")).Close()
			}})
	return nil
}

// resume handles the request: it waits for a worker without a step of the negotiation, as for another loop.
func (m *resumer) resume(l *session.InlineLogin, e xmlstream.Element) {
	previd, _ := e.Attr(attrPrevid)
	want := string(previd)
	st := l.Stream()
	host, bare := st.Host(), st.Peer()
	st.LoopRouter().RunOnWorker(host, reactor.Disk, func() error { return nil },
		func(lr *session.LoopRouter, err error) {
			lr.WithAccount(host, bare, func(lr *session.LoopRouter, a *session.Account, _ bool, _ error) {
				full, _ := bare.WithResource(want)
				if s := a.Resource(full); s != nil && l.Resumed(a, s, []byte("<resumed xmlns='urn:x-resume'/>")) {
					return
				}
				lr.Loop.Post(func() {
					lr.Enter(func() {
						l.Add([]byte("<failed xmlns='urn:x-resume'/>"))
						l.Continue()
					})
				})
			})
		})
}

// K72: the order of the requests within a login: a resumption before a bind, which is not made if a session
// was resumed. What comes for the session follows the success and the features.
func TestAttackK72InlineResume(t *testing.T) {
	m := new(resumer)
	shelf := append(append([]session.Manifest(nil), mod.All...), session.Manifest{Name: "resumer",
		Requires: []session.Feature{"sasl2"}, New: func() session.Module { return m }})
	s := sessiontest.New(t, sessiontest.Options{Shelf: shelf, Modules: append(mod.DefaultNames(), "resumer")})
	login := func(name, inline string) (*sessiontest.Client, string) {
		c := s.Dial(name, 1)
		c.Open("localhost")
		s.Settle()
		if got := c.Received(); !strings.Contains(got, "<inline>") ||
			!strings.Contains(got, "<resume xmlns='urn:x-resume'/>") ||
			!strings.Contains(got, "<feature var='urn:x-resume'/>") {
			t.Fatalf("the offer: %s", got)
		}
		// The ping is sent at once: it waits for the login.
		c.Send("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>AHJvbWVvAHIwbTMw" +
			"</initial-response><user-agent><software>Test</software></user-agent>" + inline + "</authenticate>" +
			"<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
		s.Settle()
		return c, c.Received()
	}
	order := func(got string, parts ...string) {
		t.Helper()
		at := 0
		for _, p := range parts {
			i := strings.Index(got[at:], p)
			if i < 0 {
				t.Fatalf("%q is missing, or out of order, in %s", p, got)
			}
			at += i + len(p)
		}
	}
	old := s.Login("romeo", "romeo@localhost/orchard")
	old.Send("<presence/>")
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	s.Settle()
	old.DropConn()
	juliet.Send("<message to='romeo@localhost/orchard' type='chat' id='m1'><body>Hi</body></message>")
	s.Settle()
	const bind = "<bind xmlns='urn:xmpp:bind:0'><begin xmlns='urn:x-resume'/></bind>"
	// The bind is before the resumption in the element, and is left out.
	_, got := login("back", bind+"<resume xmlns='urn:x-resume' previd='orchard'/>")
	order(got, "<success ", "<authorization-identifier>romeo@localhost/orchard<", "<resumed ", "</success>",
		"id='m1'", "id='p'")
	if strings.Contains(got, "<bound") || len(m.begun) > 0 {
		t.Errorf("a resource was bound besides: %s", got)
	}
	if _, after, _ := strings.Cut(got, "</success>"); strings.Contains(after, "<stream:features>") {
		t.Errorf("features follow a resumption (XEP-0198 section 9.2): %s", got)
	}
	// What can't be resumed is answered, and the bind is done.
	_, got = login("new", "<resume xmlns='urn:x-resume' previd='none'/>"+bind)
	order(got, "<success ", "<failed xmlns='urn:x-resume'/>", "<bound ", "<begun ", "</success>",
		"<stream:features>", "id='p'")
	if len(m.begun) != 1 || !strings.HasSuffix(m.begun[0], " Test") {
		t.Errorf("begun: %q", m.begun)
	}
	// Without a bind the stream has no session: the ping, which came too early, is answered with an error.
	_, got = login("none", "<resume xmlns='urn:x-resume' previd='none'/>")
	order(got, "<success ", ">romeo@localhost<", "<failed ", "</success>", "<stream:features>", "<bind ",
		"service-unavailable")
	// A connection that ends while the handler waits.
	c := s.Dial("gone", 1)
	c.Open("localhost")
	c.Send("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>AHJvbWVvAHIwbTMw" +
		"</initial-response><resume xmlns='urn:x-resume' previd='orchard'/></authenticate>")
	c.DropConn()
	s.Settle()
}
