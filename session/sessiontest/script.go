package sessiontest

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"canto/xmlstream"
)

var rewrite = flag.Bool("rewrite", false, "write what came into the conversation scripts")

// Run holds every conversation in dir/*.txt, each with a server of its own.
//
// A script is comments ("#") and steps. A step is a directive, the lines that go with it, "----", and
// what everybody gets:
//
//	connect romeo@localhost/orchard [as NAME]   log in; NAME is the localpart if none is given
//	open NAME [HOST]                            a connection that has sent its stream header, no more
//	NAME sends                                  the following lines go out, joined
//	NAME sends in N                             in pieces of N bytes
//	NAME leaves                                 the connection is lost
//	advance 10m                                 the clock moves
//	account juliet@localhost                    an account without a connection
func Run(t *testing.T, dir string, opt Options) {
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no conversations in %s: %v", dir, err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := Converse(t, string(text), opt)
			if got == string(text) {
				return
			}
			if *rewrite {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Errorf("%s:\n%s", f, difference(string(text), got))
		})
	}
}

// difference shows the first lines that differ.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := 0; i < len(w) || i < len(g); i++ {
		at := func(l []string) string {
			if i < len(l) {
				return l[i]
			}
			return "(end)"
		}
		if at(w) != at(g) {
			return "line " + strconv.Itoa(i+1) + "\nwant: " + at(w) + "\ngot:  " + at(g)
		}
	}
	return "no difference"
}

// Converse holds one conversation and returns the script with what really came.
func Converse(t testing.TB, text string, opt Options) string {
	s := New(t, opt)
	var out strings.Builder
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := 0; i < len(lines); {
		line := lines[i]
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			out.WriteString(line + "\n")
			i++
			continue
		}
		out.WriteString(line + "\n")
		i++
		var body []string
		for i < len(lines) && lines[i] != "----" {
			body = append(body, lines[i])
			out.WriteString(lines[i] + "\n")
			i++
		}
		i++
		for i < len(lines) && strings.TrimSpace(lines[i]) != "" {
			i++ // what was expected is written anew
		}
		s.step(line, body)
		out.WriteString("----\n" + s.collect() + "")
	}
	return out.String()
}

func (s *Server) step(line string, body []string) {
	f := strings.Fields(line)
	text := strings.Join(body, "\n")
	switch {
	case f[0] == "connect":
		name, _, _ := strings.Cut(f[1], "@")
		if len(f) == 4 && f[2] == "as" {
			name = f[3]
		}
		s.Login(name, f[1])
	case f[0] == "open":
		host := "localhost"
		if len(f) > 2 {
			host = f[2]
		}
		s.logins++
		s.Dial(f[1], s.logins).Open(host)
	case f[0] == "account":
		s.AddAccount(f[1])
	case f[0] == "advance":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			s.TB.Fatal(err)
		}
		s.Advance(d)
	case len(f) >= 2 && s.clients[f[0]] != nil && f[1] == "sends":
		c := s.clients[f[0]]
		if len(f) == 4 {
			n, _ := strconv.Atoi(f[3])
			c.conn.SendCut([]byte(text), n)
		} else {
			c.Send(text)
		}
	case len(f) == 2 && s.clients[f[0]] != nil && f[1] == "restarts":
		s.clients[f[0]].Open("localhost")
	case len(f) == 2 && s.clients[f[0]] != nil && f[1] == "leaves":
		s.clients[f[0]].Cut()
	default:
		s.TB.Fatalf("no directive: %q", line)
	}
	s.Settle()
}

// Settle lets everything happen, commits on the store's goroutine included, and on a slow store moves
// the clock to where it has happened.
func (s *Server) Settle() {
	for {
		s.Net.Run()
		last := s.DB.Last()
		s.DB.Wait(context.Background(), last) // that it failed is the kernel's to say
		for s.told.Load() < uint64(s.DB.Durable()) {
			runtime.Gosched() // the committer is telling us
		}
		s.Net.Run()
		if s.late != nil && s.late.next() {
			continue
		}
		if s.DB.Last() == last {
			return
		}
	}
}

// collect is what everybody got since the last time, a stanza a line, by client.
func (s *Server) collect() string {
	var b strings.Builder
	for _, n := range s.Names() {
		c := s.clients[n]
		for _, el := range c.Stanzas() {
			b.WriteString(n + ": " + el + "\n")
		}
		if c.conn.Ended() && !c.ended {
			c.ended = true
			b.WriteString(n + ": (closed)\n")
		}
	}
	if b.Len() == 0 {
		return "(nothing)\n"
	}
	return b.String()
}

// Stanzas takes the complete top-level elements that have come; a stream header shows as
// "(stream)", the end tag as "(end of stream)".
func (c *Client) Stanzas() (list []string) {
	b := c.conn.Received()
	for len(b) > 0 {
		// A new header begins a new parse: the server restarts the stream after SASL.
		piece := b
		if i := indexOf(string(b[1:]), "<?xml"); i >= 0 {
			piece = b[:i+1]
		}
		b = b[len(piece):]
		if strings.HasPrefix(string(piece), "<?xml") {
			c.in.Reset(0)
		}
		c.parser.Feed(&c.in, piece)
		for {
			if c.in.Root() == nil {
				if _, err := c.parser.Next(&c.in); err != nil {
					break
				}
				list = append(list, "(stream)")
				continue
			}
			e, err := c.parser.Stanza(&c.in)
			if err == xmlstream.ErrNeedMore {
				break
			}
			if err != nil {
				if err.Error() == "EOF" {
					list = append(list, "(end of stream)")
				} else {
					list = append(list, "(ill-formed: "+err.Error()+")")
				}
				break
			}
			list = append(list, string(e.Raw()))
		}
	}
	return list
}

func indexOf(s, sub string) int { return strings.Index(s, sub) }
