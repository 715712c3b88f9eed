package archive_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"canto/reactor"
	"canto/session"
	"canto/session/mod/archive"
	"canto/session/mod/offline"
	"canto/session/sessiontest"
)

// A page is what a client has got for one query.
type page struct {
	ids, bodies []string // of the messages, in the order in which they came
	complete    bool
	first, last string
	count       string // as it is on the wire; empty: not said
	condition   string // of the error; empty: a result
}

var (
	resultID  = regexp.MustCompile(`<result xmlns='urn:xmpp:mam:2'[^>]* id='([^']*)'`)
	stanzaID  = regexp.MustCompile(`<stanza-id xmlns='urn:xmpp:sid:0' id='([^']*)'`)
	messageID = regexp.MustCompile(`^<message[^>]* id='([^']*)'`)
	bodyText  = regexp.MustCompile(`<body>([^<]*)`)
	firstText = regexp.MustCompile(`<first[^>]*>([^<]*)`)
	lastText  = regexp.MustCompile(`<last>([^<]*)`)
	countText = regexp.MustCompile(`<count>([^<]*)`)
	errorText = regexp.MustCompile(`<error type='\w+'><([a-z-]+) `)
)

// match returns the first group of the first match, or nothing.
func match(re *regexp.Regexp, s string) string {
	if m := re.FindStringSubmatch(s); m != nil {
		return m[1]
	}
	return ""
}

// readPage reads the answer to the query with the iq's id from the elements that a client has got. live has
// the texts of the messages that came beside the page.
func readPage(t testing.TB, id string, elements []string) (p page, live []string) {
	t.Helper()
	answered := false
	for _, el := range elements {
		switch {
		case strings.Contains(el, "<result xmlns='urn:xmpp:mam:2'"):
			if answered {
				t.Errorf("a message of a page comes after its result: %s", el)
			}
			p.ids = append(p.ids, match(resultID, el))
			p.bodies = append(p.bodies, match(bodyText, el))
		case strings.HasPrefix(el, "<message"):
			live = append(live, match(bodyText, el))
		case strings.HasPrefix(el, "<iq") && strings.Contains(el, " id='"+id+"'"):
			if answered {
				t.Errorf("a second answer: %s", el)
			}
			answered = true
			p.complete = strings.Contains(el, " complete='true'")
			p.first, p.last = match(firstText, el), match(lastText, el)
			p.count, p.condition = match(countText, el), match(errorText, el)
		}
	}
	if !answered {
		t.Errorf("no answer to %s in %q", id, elements)
	}
	return p, live
}

// query sends a query with the content inside, and returns its answer.
func query(t testing.TB, s *sessiontest.Server, c *sessiontest.Client, content string) page {
	t.Helper()
	s.Settle()
	c.Stanzas()
	c.Send("<iq type='set' id='query'><query xmlns='urn:xmpp:mam:2'>" + content + "</query></iq>")
	s.Settle()
	p, _ := readPage(t, "query", c.Stanzas())
	return p
}

// set returns a <set/> of result set management.
func set(content string) string {
	return "<set xmlns='http://jabber.org/protocol/rsm'>" + content + "</set>"
}

// submit returns a form with fields, given as names and values in turn.
func submit(fields ...string) string {
	b := "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'>" +
		"<value>urn:xmpp:mam:2</value></field>"
	for i := 0; i < len(fields); i += 2 {
		b += "<field var='" + fields[i] + "'><value>" + fields[i+1] + "</value></field>"
	}
	return b + "</x>"
}

// everything reads the whole archive of c, in pages.
func everything(t testing.TB, s *sessiontest.Server, c *sessiontest.Client) (ids, bodies []string) {
	t.Helper()
	p := query(t, s, c, set("<max>100</max>"))
	for {
		if p.condition != "" {
			t.Fatalf("a page: %s", p.condition)
		}
		ids, bodies = append(ids, p.ids...), append(bodies, p.bodies...)
		if p.complete {
			return ids, bodies
		}
		p = query(t, s, c, set("<max>100</max><after>"+p.last+"</after>"))
	}
}

// chat returns a message of type chat.
func chat(to, id, text string) string {
	return "<message to='" + to + "' type='chat' id='" + id + "'><body>" + text + "</body></message>"
}

// free starts a server without a limit of rates.
func free(t testing.TB, opt sessiontest.Options) *sessiontest.Server {
	lim := session.DefaultLimits()
	lim.Rate = 0
	opt.Limits = &lim
	return sessiontest.New(t, opt)
}

// with returns options of the module archive, changed by change.
func with(change func(o *archive.Options)) func(string, any) error {
	return func(_ string, v any) error {
		switch o := v.(type) {
		case *archive.Options:
			change(o)
		case *offline.Options:
			o.MaxMessages, o.MaxBytes = 5000, 64<<20
		}
		return nil
	}
}

// numbered returns the texts from n to m, both included.
func numbered(n, m int) (list []string) {
	for i := n; i <= m; i++ {
		list = append(list, fmt.Sprint("number ", i))
	}
	return list
}

// equal compares two lists.
func equal(t testing.TB, what string, got, want []string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// eager are workers that are faster than the loop: work has ended before the hook that has asked for it, and
// so before the batch of the stanza is given to the store.
type eager struct{}

// Do implements [reactor.Workers].
func (eager) Do(_ reactor.Class, l *reactor.Loop, work func() error, then func(error)) bool {
	err := work()
	l.Post(func() { then(err) })
	return true
}

// hasten gives s workers that are faster than its loops.
func hasten(s *sessiontest.Server) { s.Router.Workers = eager{} }

// counter returns a counter of the module, with a value of its label result.
func counter(s *sessiontest.Server, name, result string) (n uint64) {
	s.Router.EachCounter(func(c session.CounterName, v uint64) {
		if c.Name == "archive_"+name && c.Value == result {
			n = v
		}
	})
	return n
}
