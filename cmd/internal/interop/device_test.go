//go:build interop

package interop

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"canto/bench/xmpp"
	"canto/session/stanza"
	"canto/xmlstream"
)

// Names that a device looks for.
var (
	nameForwarded = xmlstream.N("urn:xmpp:forward:0", "forwarded")
	nameResult    = xmlstream.N(xmpp.NSMAM, "result")
	nameStanzaID  = xmlstream.N("urn:xmpp:sid:0", "stanza-id")
	nameBody      = xmlstream.N(stanza.NSClient, "body")
	nameLast      = xmlstream.N(xmpp.NSRSM, "last")
	attrBy        = xmlstream.N("", "by")
	attrQueryID   = xmlstream.N("", "queryid")
)

// A message is what a device keeps of one.
type message struct {
	how  string // "direct", or as what it was forwarded: "sent", "received", "archived"
	from string // full address of its sender
	body string
	id   string    // its id in the archive of the device's account; "" if it came without one
	at   time.Time // when a member of a conversation has heard it live
}

// A device is one session of an account, in this process. It logs in with direct TLS and PLAIN, turns
// carbons on, and is available.
type device struct {
	user    user
	address string // full
	conn    net.Conn
	xml     *xmpp.Conn

	out sync.Mutex // guards writes to conn, and lastIQ
	// lastIQ is the number of the last request.
	lastIQ int

	mu      sync.Mutex // guards all that follows
	answers map[string]chan xmlstream.Element
	pages   map[string][]message // by queryid
	ears    ears
	// ended is closed when the connection is no more; err then says why.
	ended chan struct{}
	err   error
}

// ears take what comes to a device, on its goroutine.
type ears struct {
	heard func(message)           // takes each message with a body that is no result of a query; may be nil
	seen  func(from, kind string) // takes sender and type of each presence stanza; may be nil
}

// deviceTimeout is how long a device waits for an answer: the machine may be busy with a dozen clients.
const deviceTimeout = time.Minute

// open logs in.
func (h *host) open(u user, resource string, ears ears) (*device, error) {
	pem, err := os.ReadFile(h.Certificate())
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	dialer := &net.Dialer{Timeout: deviceTimeout}
	conn, err := tls.DialWithDialer(dialer, "tcp", h.Direct, &tls.Config{RootCAs: roots,
		ServerName: "localhost"})
	if err != nil {
		return nil, err
	}
	d := &device{user: u, conn: conn, xml: xmpp.NewConn(conn), ears: ears,
		answers: make(map[string]chan xmlstream.Element), pages: make(map[string][]message),
		ended: make(chan struct{})}
	if err := d.login(resource); err != nil {
		conn.Close()
		return nil, err
	}
	go d.read()
	if _, err := d.request("set", "", "<enable xmlns='"+xmpp.NSCarbons+"'/>"); err != nil {
		d.close()
		return nil, fmt.Errorf("carbons: %w", err)
	}
	if err := d.send("<presence/>"); err != nil {
		d.close()
		return nil, err
	}
	// The answer to a later request shows that the presence was taken.
	if _, err := d.request("get", "localhost", "<ping xmlns='"+xmpp.NSPing+"'/>"); err != nil {
		d.close()
		return nil, fmt.Errorf("ping: %w", err)
	}
	return d, nil
}

func (d *device) login(resource string) error {
	d.conn.SetDeadline(time.Now().Add(deviceTimeout))
	defer d.conn.SetDeadline(time.Time{})
	if _, err := d.xml.Open("localhost", ""); err != nil {
		return err
	}
	local, _, _ := strings.Cut(d.user.address, "@")
	initial := base64.StdEncoding.EncodeToString([]byte("\x00" + local + "\x00" + d.user.password))
	if _, err := d.conn.Write(xmpp.AppendAuth(nil, "PLAIN", initial)); err != nil {
		return err
	}
	if e, err := d.xml.Next(); err != nil || !e.Is(xmpp.Success) {
		return fmt.Errorf("no login as %s: %s %w", d.user.address, e.Raw(), err)
	}
	if _, err := d.xml.Open("localhost", ""); err != nil {
		return err
	}
	if _, err := d.conn.Write(xmpp.AppendBind(nil, resource)); err != nil {
		return err
	}
	e, err := d.xml.Next()
	if err != nil {
		return err
	}
	full, ok := xmpp.BoundJID(e)
	if !ok {
		return fmt.Errorf("%s is not bound: %s", d.user.address, e.Raw())
	}
	d.address = full
	return nil
}

// read takes stanzas until the connection ends.
func (d *device) read() {
	for {
		e, err := d.xml.Next()
		if err != nil {
			d.mu.Lock()
			d.err = err
			d.mu.Unlock()
			close(d.ended)
			return
		}
		d.take(e)
	}
}

func attr(e xmlstream.Element, n xmlstream.Name) string {
	v, _ := e.Attr(n)
	return string(v)
}

func (d *device) take(e xmlstream.Element) {
	switch stanza.KindOf(e) {
	case stanza.IQ:
		if t := attr(e, stanza.AttrType); t != "result" && t != "error" {
			return
		}
		d.mu.Lock()
		answer := d.answers[attr(e, stanza.AttrID)]
		d.mu.Unlock()
		if answer != nil {
			answer <- e.Clone()
		}
	case stanza.Presence:
		if d.ears.seen != nil {
			d.ears.seen(attr(e, stanza.AttrFrom), attr(e, stanza.AttrType))
		}
	case stanza.Message:
		if r, ok := e.Child(nameResult); ok {
			m, ok := d.message("archived", forwarded(r))
			m.id = attr(r, stanza.AttrID)
			if ok {
				d.mu.Lock()
				d.pages[attr(r, attrQueryID)] = append(d.pages[attr(r, attrQueryID)], m)
				d.mu.Unlock()
			}
			return
		}
		how, inner := "direct", e
		if c, ok := e.Child(xmpp.CarbonSent); ok {
			how, inner = "sent", forwarded(c)
		} else if c, ok := e.Child(xmpp.CarbonReceived); ok {
			how, inner = "received", forwarded(c)
		}
		if m, ok := d.message(how, inner); ok && d.ears.heard != nil {
			d.ears.heard(m)
		}
	}
}

// forwarded is the message within a carbon or a result; zero if there is none.
func forwarded(e xmlstream.Element) xmlstream.Element {
	f, ok := e.Child(nameForwarded)
	if !ok {
		return xmlstream.Element{}
	}
	m, _ := f.Child(stanza.MessageName)
	return m
}

// message is what the device keeps of m; ok is false if m has no body.
func (d *device) message(how string, m xmlstream.Element) (_ message, ok bool) {
	if m.IsZero() {
		return message{}, false
	}
	b, ok := m.Child(nameBody)
	if !ok {
		return message{}, false
	}
	out := message{how: how, from: attr(m, stanza.AttrFrom), body: string(b.Text())}
	for k, ok := m.First(); ok; k, ok = k.Next() {
		if k.Is(nameStanzaID) && attr(k, attrBy) == d.user.address {
			out.id = attr(k, stanza.AttrID)
		}
	}
	return out, true
}

func (d *device) send(text string) error {
	d.out.Lock()
	defer d.out.Unlock()
	d.conn.SetWriteDeadline(time.Now().Add(deviceTimeout))
	_, err := d.conn.Write([]byte(text))
	return err
}

// say sends a chat message with its number as id and origin id.
func (d *device) say(to, id, body string) error {
	return d.send(fmt.Sprintf("<message type='chat' to='%s' id='%s'><body>%s</body>"+
		"<origin-id xmlns='urn:xmpp:sid:0' id='%[2]s'/></message>", to, id, body))
}

// request sends an iq, and returns the answer. An answer of type error is an error.
func (d *device) request(typ, to, payload string) (xmlstream.Element, error) {
	d.out.Lock()
	d.lastIQ++
	id := fmt.Sprintf("iq-%d", d.lastIQ)
	d.out.Unlock()
	answer := make(chan xmlstream.Element, 1)
	d.mu.Lock()
	d.answers[id] = answer
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.answers, id)
		d.mu.Unlock()
	}()
	if to != "" {
		to = " to='" + to + "'"
	}
	if err := d.send(fmt.Sprintf("<iq type='%s' id='%s'%s>%s</iq>", typ, id, to, payload)); err != nil {
		return xmlstream.Element{}, err
	}
	deadline := time.NewTimer(deviceTimeout)
	defer deadline.Stop()
	select {
	case e := <-answer:
		if attr(e, stanza.AttrType) == "error" {
			return e, fmt.Errorf("%s asked %s and got %s", d.address, payload, e.Raw())
		}
		return e, nil
	case <-d.ended:
		d.mu.Lock()
		defer d.mu.Unlock()
		return xmlstream.Element{}, d.err
	case <-deadline.C:
		return xmlstream.Element{}, fmt.Errorf("%s asked %s and got no answer", d.address, payload)
	}
}

// archive reads the archive of the device's account by pages, from the message behind the one with the id
// after, or from its beginning.
func (d *device) archive(after string) ([]message, error) {
	const size = 50
	var all []message
	for page := 0; ; page++ {
		query := fmt.Sprintf("page-%d-%s", page, after)
		where := ""
		if after != "" {
			where = "<after>" + string(xmlstream.AppendText(nil, after)) + "</after>"
		}
		answer, err := d.request("set", "", fmt.Sprintf("<query xmlns='%s' queryid='%s'><set xmlns='%s'>"+
			"<max>%d</max>%s</set></query>", xmpp.NSMAM, xmlstream.AppendValue(nil, query), xmpp.NSRSM, size,
			where))
		if err != nil {
			return nil, err
		}
		d.mu.Lock()
		got := d.pages[query]
		delete(d.pages, query)
		d.mu.Unlock()
		all = append(all, got...)
		fin, ok := answer.Child(xmpp.ArchiveEnd)
		if !ok {
			return nil, fmt.Errorf("no fin in %s", answer.Raw())
		}
		if attr(fin, xmpp.AttrComplete) == "true" {
			return all, nil
		}
		set, _ := fin.Child(xmpp.ResultSet)
		if set.IsZero() {
			return nil, fmt.Errorf("no set in %s", answer.Raw())
		}
		last, _ := set.Child(nameLast)
		if last.IsZero() || string(last.Text()) == after {
			return nil, fmt.Errorf("a page that is not the last one has no new last item: %s", answer.Raw())
		}
		after = string(last.Text())
	}
}

// close ends the session, and waits until the connection has ended.
func (d *device) close() {
	d.send(xmpp.EndStream)
	select {
	case <-d.ended:
	case <-time.After(deviceTimeout):
	}
	d.conn.Close()
	<-d.ended
}

// alive says why the device's connection has ended, or nil.
func (d *device) alive() error {
	select {
	case <-d.ended:
		d.mu.Lock()
		defer d.mu.Unlock()
		return errors.Join(fmt.Errorf("%s is no longer connected", d.address), d.err)
	default:
		return nil
	}
}
