package stub

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"canto/bench/xmpp"
	"canto/session/sasl"
	"canto/xmlstream"
)

func TestLogins(t *testing.T) {
	s := start(t, Config{Binding: true})
	for _, m := range []sasl.Mechanism{sasl.ScramSHA1, sasl.ScramSHA256, sasl.Plain} {
		for _, how := range []string{"none", "starttls", "direct"} {
			t.Run(m.String()+" "+how, func(t *testing.T) {
				to := s.Addr()
				if how == "direct" {
					to = s.DirectAddr()
				}
				p := dial(t, to)
				if how == "direct" {
					p.secure(s)
				}
				f := p.open()
				if how == "starttls" {
					p.say("<starttls xmlns='%s'/>", xmpp.NSTLS)
					p.get("proceed")
					p.secure(s)
					f = p.open()
				}
				if secure := how != "none"; strings.Contains(string(f.Raw()), "starttls") == secure ||
					strings.Contains(string(f.Raw()), "-PLUS") != secure {
					t.Errorf("%s", f.Raw())
				}
				c := &sasl.Client{Mechanism: m, Username: "bench7", Password: sasl.SecretString("bench")}
				if e := p.auth(c); string(e.Local()) != "success" {
					t.Fatalf("%s", e.Raw())
				}
				p.open()
				p.bind("x")
				if p.jid != "bench7@localhost/x" {
					t.Errorf("bound to %s", p.jid)
				}
				p.say("<iq type='set' id='s'><session xmlns='%s'/></iq>", xmpp.NSSession)
				p.get("type='result'", "id='s'")
				p.say("</stream:stream>")
				if _, err := p.next(); err != io.EOF {
					t.Errorf("%v after the end", err)
				}
			})
		}
	}
	if n := s.Stats().Logins; n != 9 {
		t.Errorf("%d logins were counted", n)
	}
}

func TestChannelBinding(t *testing.T) {
	s := start(t, Config{Binding: true})
	p := dial(t, s.DirectAddr())
	p.secure(s)
	p.open()
	cs := p.nc.(*tls.Conn).ConnectionState()
	k, err := cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	if err != nil {
		t.Fatal(err)
	}
	c := &sasl.Client{Mechanism: sasl.ScramSHA256Plus, Username: "bench1",
		Password: sasl.SecretString("bench"), Binding: sasl.ChannelBinding{Exporter: k, TLS13: true},
		ServerPlus: true}
	if e := p.auth(c); string(e.Local()) != "success" {
		t.Errorf("%s", e.Raw())
	}
}

func TestWrongLogins(t *testing.T) {
	s := start(t, Config{})
	for _, a := range [][2]string{{"bench1", "wrong"}, {"other1", "bench"}, {"bench", "bench"},
		{"benchx", "bench"}} {
		for _, m := range []sasl.Mechanism{sasl.ScramSHA256, sasl.Plain} {
			p := dial(t, s.Addr())
			p.open()
			if e := p.auth(&sasl.Client{Mechanism: m, Username: a[0],
				Password: sasl.SecretString(a[1])}); !strings.Contains(string(e.Raw()), "<not-authorized/>") {
				t.Errorf("%s with %s: %s", a[0], a[1], e.Raw())
			}
		}
	}
	if st := s.Stats(); st.Refused != 8 || st.Logins != 0 {
		t.Errorf("%+v", st)
	}
}

// What a client derived for one account is good for all.
func TestOneSalt(t *testing.T) {
	s := start(t, Config{})
	var salted sasl.SaltedPassword
	for i, name := range []string{"bench1", "bench2"} {
		p := dial(t, s.Addr())
		p.open()
		c := &sasl.Client{Mechanism: sasl.ScramSHA256, Username: name, Password: sasl.SecretString("bench"),
			Salted: salted}
		if i > 0 {
			c.Password = sasl.Secret{} // it would have to derive from nothing
		}
		if e := p.auth(c); string(e.Local()) != "success" {
			t.Fatalf("%s", e.Raw())
		}
		salted = c.Salted
	}
	if salted.Iterations != 4096 {
		t.Errorf("%d iterations", salted.Iterations)
	}
}

func TestRequireTLS(t *testing.T) {
	s := start(t, Config{RequireTLS: true})
	p := dial(t, s.Addr())
	if f := p.open(); strings.Contains(string(f.Raw()), "mechanism") {
		t.Errorf("%s", f.Raw())
	}
	p.say("<auth xmlns='%s' mechanism='PLAIN'>AGJlbmNoMQBiZW5jaA==</auth>", xmpp.NSSASL)
	p.get("encryption-required")
}

func TestRegistration(t *testing.T) {
	s := start(t, Config{})
	p := dial(t, s.Addr())
	p.open()
	p.say("<iq type='get' id='1'><query xmlns='%s'/></iq>", xmpp.NSRegister)
	p.get("<username/>")
	form := "<iq type='set' id='2'><query xmlns='" + xmpp.NSRegister +
		"'><username>%s</username><password>secret</password></query></iq>"
	p.say(form, "new")
	p.get("type='result'", "id='2'")
	p.say(form, "new")
	p.get("<conflict")
	p.say(form, "bench3")
	p.get("<conflict")
	if e := p.auth(&sasl.Client{Mechanism: sasl.ScramSHA1, Username: "new",
		Password: sasl.SecretString("secret")}); string(e.Local()) != "success" {
		t.Errorf("%s", e.Raw())
	}
	if n := s.Stats().Registered; n != 1 {
		t.Errorf("%d registered", n)
	}
}

func TestSASL2(t *testing.T) {
	s := start(t, Config{SASL2: true, FAST: true})
	p := dial(t, s.Addr())
	f := p.open()
	if !strings.Contains(string(f.Raw()), "HT-SHA-256-NONE") {
		t.Errorf("%s", f.Raw())
	}
	c := &sasl.Client{Mechanism: sasl.ScramSHA256, Username: "bench5",
		Password: sasl.SecretString("bench"), Rand: strings.NewReader(strings.Repeat("nonce", 20))}
	first, err := c.Start()
	if err != nil {
		t.Fatal(err)
	}
	p.say("<authenticate xmlns='%s' "+
		"mechanism='SCRAM-SHA-256'><initial-response>%s</initial-response><user-agent "+
		"id='d4565fa7-4d72-4749-b3d3-740edbf87770'/>"+
		"<bind xmlns='%s'><tag>bench</tag></bind><request-token xmlns='%s' "+
		"mechanism='HT-SHA-256-NONE'/></authenticate>", xmpp.NSSASL2, first, xmpp.NSBind2, xmpp.NSFAST)
	answer, err := c.Next(p.get("challenge", xmpp.NSSASL2).Text())
	if err != nil {
		t.Fatal(err)
	}
	p.say("<response xmlns='%s'>%s</response>", xmpp.NSSASL2, answer)
	e := p.get("success", "bench5@localhost/bench~", "bound")
	data, _ := e.Child(xmlstream.N(xmpp.NSSASL2, "additional-data"))
	if err := c.Success(data.Text()); err != nil {
		t.Error(err)
	}
	p.get("features")
	p.quiet()
	tk, _ := e.Child(xmlstream.N(xmpp.NSFAST, "token"))
	token := attr(tk, xmlstream.N("", "token"))

	fast := func(token, agent string) (*peer, xmlstream.Element) {
		p := dial(t, s.Addr())
		p.open()
		p.say("<authenticate xmlns='%s' "+
			"mechanism='HT-SHA-256-NONE'><initial-response>%s</initial-response><user-agent id='%s'/><bind "+
			"xmlns='%s'/><fast xmlns='%s' count='1'/></authenticate>",
			xmpp.NSSASL2, base64.StdEncoding.EncodeToString(append([]byte("bench5\x00"),
				tokenMAC(token, "Initiator", nil)...)), agent, xmpp.NSBind2, xmpp.NSFAST)
		return p, p.get()
	}
	p, e = fast(token, "d4565fa7-4d72-4749-b3d3-740edbf87770")
	data, ok := e.Child(xmlstream.N(xmpp.NSSASL2, "additional-data"))
	if !ok || string(data.Text()) != base64.StdEncoding.EncodeToString(tokenMAC(token, "Responder", nil)) {
		t.Errorf("%s", e.Raw())
	}
	p.get("features")
	p.quiet()
	for _, wrong := range [][2]string{{"x" + token, "d4565fa7-4d72-4749-b3d3-740edbf87770"},
		{token, "another"}} {
		if _, e := fast(wrong[0], wrong[1]); !strings.Contains(string(e.Raw()), "not-authorized") {
			t.Errorf("%s", e.Raw())
		}
	}
	if n := s.Stats().Logins; n != 2 {
		t.Errorf("%d logins", n)
	}
}

func TestMessages(t *testing.T) {
	s := start(t, Config{})
	a, b := online(t, s, 1), online(t, s, 2)
	a.say("<message to='%s' type='chat' id='1'><body>a &lt; b</body></message>", b.jid)
	b.get("from='bench1@localhost/r'", "id='1'", "a &lt; b")
	a.say("<message to='BENCH2@localhost' type='chat' id='2'><body>x</body></message>")
	b.get("from='bench1@localhost/r'", "id='2'")
	a.say("<message to='bench9@localhost' id='3'><body>x</body></message>")
	a.get("type='error'", "id='3'", "service-unavailable", "from='bench9@localhost'")
	a.say("<message to='a@@b' id='4'/>")
	a.get("jid-malformed")
	a.say("<iq type='get' id='5' to='%s'><ping xmlns='urn:xmpp:ping'/></iq>", b.jid)
	b.get("from='bench1@localhost/r'", "id='5'")
	b.say("<iq type='result' id='5' to='%s'/>", a.jid)
	a.get("from='bench2@localhost/r'", "id='5'")
	if st := s.Stats(); st.Routed != 2 || st.Returned != 1 || st.IQs != 1 || st.Sessions != 2 {
		t.Errorf("%+v", st)
	}
}

// A client that binds an address in use takes it over.
func TestConflict(t *testing.T) {
	s := start(t, Config{})
	old := login(t, s, 1)
	b := login(t, s, 1)
	old.get("conflict")
	b.say("<message to='%s' id='1'/>", b.jid)
	b.get("id='1'")
	old.nc.Close()
	b.quiet()
	if st := s.Stats(); st.Sessions != 1 || st.Logins != 2 {
		t.Errorf("%+v", st)
	}
}

func TestPresence(t *testing.T) {
	s := start(t, Config{})
	s.Befriend("bench1", "bench2")
	a := online(t, s, 1)
	c := online(t, s, 3)
	b := login(t, s, 2)
	b.say("<presence><show>dnd</show></presence>")
	b.get("bench2@localhost/r", "dnd")
	b.get("bench1@localhost/r")
	a.get("bench2@localhost/r", "dnd")
	a.say("<presence><status>s</status></presence>")
	a.get("<status>s</status>")
	b.get("bench1@localhost/r", "<status>s</status>")
	a.say("<presence to='%s'/>", c.jid)
	c.get("bench1@localhost/r")
	a.nc.Close()
	b.get("unavailable", "bench1@localhost/r")
	c.get("unavailable", "bench1@localhost/r")
	b.quiet()
	c.quiet()
}

func TestAudience(t *testing.T) {
	s := start(t, Config{BroadcastToAll: true})
	a := online(t, s, 1)
	b := login(t, s, 2)
	b.say("<presence/>")
	a.get("bench2@localhost/r")
	for range 2 {
		b.get("<presence")
	}
	a.say("<presence><show>away</show></presence>")
	a.get("away")
	b.get("away")
	if n := s.Stats().Presences; n != 1+3+2 {
		t.Errorf("%d presences", n)
	}
}

func TestSubscription(t *testing.T) {
	s := start(t, Config{})
	a, b := online(t, s, 1), online(t, s, 2)
	a.say("<presence type='subscribe' to='bench2@localhost'/>")
	a.get("jabber:iq:roster", "ask='subscribe'", "bench2@localhost")
	b.get("type='subscribe'", "from='bench1@localhost'")
	b.say("<presence type='subscribed' to='bench1@localhost'/>")
	b.get("jabber:iq:roster", "subscription='from'")
	a.get("type='subscribed'")
	a.get("jabber:iq:roster", "subscription='to'")
	a.get("<presence", "bench2@localhost/r")
	b.say("<presence><show>xa</show></presence>")
	a.get("xa")
	a.say("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>")
	a.get("id='r'", "<item jid='bench2@localhost' subscription='to'/>")
	a.quiet()
}

func TestRoster(t *testing.T) {
	s := start(t, Config{})
	a := login(t, s, 1)
	a.say("<iq type='get' id='1'><query xmlns='jabber:iq:roster'/></iq>")
	a.get("id='1'", "<query xmlns='jabber:iq:roster'></query>")
	a.say("<iq type='set' id='2'><query xmlns='jabber:iq:roster'><item jid='x@localhost' name='X &amp; " +
		"Y'/></query></iq>")
	a.get("type='set'", "<item jid='x@localhost' subscription='none' name='X &amp; Y'/>")
	a.get("type='result'", "id='2'")
	a.say("<iq type='set' id='3'><query xmlns='jabber:iq:roster'><item jid='x@localhost' " +
		"subscription='remove'/></query></iq>")
	a.get("type='set'", "subscription='remove'")
	a.get("type='result'", "id='3'")
}

func TestRoom(t *testing.T) {
	s := start(t, Config{})
	a, b := online(t, s, 1), online(t, s, 2)
	join := "<presence to='room@conference.localhost/%s'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
	a.say(join, "A")
	a.get("room@conference.localhost/A", "code='110'")
	a.get("<subject/>")
	b.say(join, "A")
	b.get("conflict")
	b.say(join, "B")
	b.get("room@conference.localhost/A")
	b.get("room@conference.localhost/B", "code='110'")
	b.get("<subject/>")
	if e := a.get("room@conference.localhost/B"); strings.Contains(string(e.Raw()), "110") {
		t.Errorf("%s", e.Raw())
	}
	b.say("<message type='groupchat' to='room@conference.localhost' id='7'><body>hi</body></message>")
	for _, p := range []*peer{a, b} {
		p.get("from='room@conference.localhost/B'", "id='7'", "type='groupchat'", "to='"+p.jid+"'")
	}
	b.say("<message type='chat' to='room@conference.localhost/A' id='8'><body>hi</body></message>")
	a.get("from='room@conference.localhost/B'", "id='8'")
	b.say("<presence type='unavailable' to='room@conference.localhost/B'/>")
	a.get("unavailable", "room@conference.localhost/B")
	b.get("unavailable", "110")
	b.say("<message type='groupchat' to='room@conference.localhost' id='9'/>")
	b.get("not-acceptable")
	if st := s.Stats(); st.Routed != 3 || st.Returned != 1 {
		t.Errorf("%+v", st)
	}
}

func TestQueries(t *testing.T) {
	s := start(t, Config{Archive: 10})
	a := login(t, s, 1)
	for _, q := range [][3]string{
		{"localhost", "<ping xmlns='urn:xmpp:ping'/>", "type='result'"},
		{"localhost", "<query xmlns='jabber:iq:version'/>", "<name>stub</name>"},
		{"localhost", "<query xmlns='http://jabber.org/protocol/disco#info'/>", "category='server'"},
		{"bench1@localhost", "<query xmlns='http://jabber.org/protocol/disco#info'/>", "urn:xmpp:mam:2"},
		{"conference.localhost", "<query xmlns='http://jabber.org/protocol/disco#info'/>", "category='conference'"},
		{"localhost", "<query xmlns='http://jabber.org/protocol/disco#items'/>", "conference.localhost"},
		{"localhost", "<query xmlns='nobody:knows'/>", "service-unavailable"},
		{"bench9@localhost/x", "<ping xmlns='urn:xmpp:ping'/>", "service-unavailable"},
	} {
		a.say("<iq type='get' id='1' to='%s'>%s</iq>", q[0], q[1])
		a.get("from='"+q[0]+"'", q[2])
	}
}

// The other sessions of both sides that have asked for carbons get one of each message.
func TestCarbons(t *testing.T) {
	s := start(t, Config{})
	a, a2 := login(t, s, 1), loginAs(t, s, 1, "two")
	b, b2, b3 := login(t, s, 2), loginAs(t, s, 2, "two"), loginAs(t, s, 2, "three")
	for _, p := range []*peer{a, a2, b, b2} {
		p.say("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
		p.get("type='result'", "id='c'")
	}
	a.say("<message type='chat' id='1' to='%s'><body>x</body></message>", b.jid)
	b.get("<message type='chat' id='1'", "<body>x</body>")
	b2.get("from='bench2@localhost'", "to='"+b2.jid+"'", "<received xmlns='urn:xmpp:carbons:2'><forwarded "+
		"xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' type='chat' id='1'", "<body>x</body>")
	a2.get("from='bench1@localhost'", "<sent xmlns='urn:xmpp:carbons:2'>", "id='1'")
	a.say("<message type='headline' id='2' to='%s'><body>x</body></message>", b.jid)
	b.get("id='2'")
	b2.say("<iq type='set' id='d'><disable xmlns='urn:xmpp:carbons:2'/></iq>")
	b2.get("type='result'", "id='d'")
	a.say("<message type='chat' id='3' to='%s'><body>x</body></message>", b.jid)
	b.get("id='3'")
	a2.get("id='3'")
	for _, p := range []*peer{a, a2, b, b2, b3} {
		p.quiet()
	}
	if st := s.Stats(); st.Carbons != 3 {
		t.Errorf("%d carbons", st.Carbons)
	}
}

// Messages for an account without a session are kept, and pushed if it has registered.
func TestAway(t *testing.T) {
	s := start(t, Config{Offline: true})
	a, app, b := login(t, s, 1), login(t, s, 3), login(t, s, 2)
	b.say("<iq type='set' id='p'><enable xmlns='urn:xmpp:push:0' jid='%s' node='n'/></iq>", app.jid)
	b.get("type='result'", "id='p'")
	b.say("</stream:stream>")
	for s.Stats().Sessions > 2 {
		time.Sleep(time.Millisecond)
	}
	for i := 1; i <= 2; i++ {
		a.say("<message type='chat' id='%d' to='bench2@localhost'><body>x</body></message>", i)
		e := app.get("<publish node='n'><item><notification xmlns='urn:xmpp:push:0'/>", "from='localhost'")
		app.say("<iq type='result' id='%s' to='localhost'/>", attr(e, xmlstream.N("", "id")))
	}
	a.say("<message type='headline' id='3' to='bench2@localhost'><body>x</body></message>")
	a.get("type='error'", "id='3'")
	b = login(t, s, 2)
	b.quiet()
	b.say("<presence/>")
	b.get("<presence")
	b.get("id='1'", "<body>x</body><delay xmlns='urn:xmpp:delay'")
	b.get("id='2'", "<delay")
	b.quiet()
	b.say("<iq type='set' id='q'><disable xmlns='urn:xmpp:push:0' jid='%s'/></iq>", app.jid)
	b.get("type='result'", "id='q'")
	b.say("</stream:stream>")
	for s.Stats().Sessions > 2 {
		time.Sleep(time.Millisecond)
	}
	a.say("<message id='4' to='bench2@localhost/gone'><body>x</body></message>")
	a.quiet()
	app.quiet()
	if st := s.Stats(); st.Kept != 3 || st.Pushes != 2 || st.AnsweredPushes != 2 || st.Returned != 1 {
		t.Errorf("%+v", st)
	}
}

func TestArchive(t *testing.T) {
	s := start(t, Config{Archive: 10})
	a := login(t, s, 1)
	for _, c := range []struct {
		rsm         string
		first, last int
		complete    bool
	}{
		{"", 0, 9, true},
		{"<max>4</max>", 0, 3, false},
		{"<max>4</max><after>row3</after>", 4, 7, false},
		{"<max>4</max><after>row7</after>", 8, 9, true},
		{"<max>4</max><before/>", 6, 9, false},
		{"<max>8</max><before>row6</before>", 0, 5, true},
	} {
		set := ""
		if c.rsm != "" {
			set = "<set xmlns='http://jabber.org/protocol/rsm'>" + c.rsm + "</set>"
		}
		a.say("<iq type='set' id='1'><query xmlns='urn:xmpp:mam:2' queryid='f'>%s</query></iq>", set)
		for i := c.first; i <= c.last; i++ {
			a.get(fmt.Sprintf("queryid='f' id='row%d'", i), "forwarded", fmt.Sprintf("<body>row %d</body>", i))
		}
		e := a.get("<fin", fmt.Sprintf("row%d</first><last>row%d</last><count>10</count>", c.first, c.last))
		if strings.Contains(string(e.Raw()), "complete='true'") != c.complete {
			t.Errorf("%s: %s", c.rsm, e.Raw())
		}
	}
	a.say("<iq type='set' id='1'><query xmlns='urn:xmpp:mam:2'><set " +
		"xmlns='http://jabber.org/protocol/rsm'><after>none</after></set></query></iq>")
	a.get("item-not-found")
}

func TestBrokenXML(t *testing.T) {
	s := start(t, Config{})
	a := login(t, s, 1)
	a.say("<iq></message>")
	a.get("error", "not-well-formed")
	if _, err := a.next(); err == nil {
		t.Error("the stream goes on")
	}
}
