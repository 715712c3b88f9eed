package sessiontest

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"slices"
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
//	cut NAME                                    the following lines, if there are any, go out, and the
//	                                            connection is lost right behind them, without an end tag
//	advance 10m                                 the clock moves
//	later 10m                                   the clock moves, and whatever comes due, in the store too, is
//	                                            done before it moves on
//	account juliet@localhost                    an account without a connection
//	restart                                     the server is stopped as by SIGTERM, and started on its store
//	crash                                       the server is killed, and started on what its disk has synced
//	reload                                      the modules are loaded anew, and accounts are read again
//	memory                                      shows which accounts, and what else, are in memory
//
// What a conversation is held with again, and how it takes these steps: on a slow store all of them run. On
// a store that fails, what replaces the kernel or its modules (restart, crash, reload) runs while nothing
// fails, as connect does: a start on a store that can't be read is refused, and there would be no
// conversation. Where single stanzas are changed, nothing but what a client sends is taken from a
// conversation.
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
	out, _ := converse(t, text, opt)
	return out
}

// converse is Converse, and says besides before how many steps another kernel took over from one that had
// streams.
func converse(t testing.TB, text string, opt Options) (script string, carries int) {
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
		if opt.SwapKernels && s.SwapKernel() && s.streaming() {
			carries++
		}
		shown := s.runStep(line, body)
		got := s.collect()
		if shown != "" && got == nothingReceived {
			got = ""
		}
		out.WriteString("----\n" + shown + got)
	}
	return out.String(), carries
}

// streaming reports whether some client has a stream.
func (s *Server) streaming() bool {
	for _, c := range s.clients {
		if !c.Ended() {
			return true
		}
	}
	return false
}

// nothingReceived is what collect says when no client got anything.
const nothingReceived = "(nothing)\n"

// runStep does one step, and returns what it shows besides what the clients get.
func (s *Server) runStep(line string, body []string) (shown string) {
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
	case f[0] == "later":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			s.TB.Fatal(err)
		}
		s.AdvanceSettled(d)
	case line == "restart":
		s.Restart()
	case line == "crash":
		s.Crash()
	case line == "reload":
		s.Reload()
	case line == "memory":
		shown = "(in memory: " + strings.Join(s.inMemory(), ", ") + ")\n"
	case len(f) == 2 && f[0] == "cut" && s.clients[f[1]] != nil:
		c := s.clients[f[1]]
		c.conn.Write([]byte(text))
		c.DropConn()
	case len(f) >= 2 && s.clients[f[0]] != nil && f[1] == "sends":
		c := s.clients[f[0]]
		if len(f) == 4 {
			n, _ := strconv.Atoi(f[3])
			c.conn.SendChunks([]byte(text), n)
		} else {
			c.Send(text)
		}
	case len(f) == 2 && s.clients[f[0]] != nil && f[1] == "restarts":
		s.clients[f[0]].Open("localhost")
	case len(f) == 2 && s.clients[f[0]] != nil && f[1] == "leaves":
		s.clients[f[0]].DropConn()
	default:
		s.TB.Fatalf("no directive: %q", line)
	}
	s.Settle()
	return shown
}

// AdvanceSettled moves the clock as Advance does, and comes to rest after each second, commits on the store's
// goroutine included: what a timer sets off is done before the next one.
func (s *Server) AdvanceSettled(d time.Duration) {
	for ; d > 0; d -= time.Second {
		s.Advance(min(d, time.Second))
		s.Settle()
	}
}

// inMemory are the addresses of the entities that the kernel has in its table, sorted.
func (s *Server) inMemory() (list []string) {
	for i := range 256 {
		for _, e := range s.Router.Table.Entities(i, nil) {
			list = append(list, e.JID().String())
		}
	}
	slices.Sort(list)
	return list
}

// Settle lets everything happen, commits on the store's goroutine included, and on a slow store moves
// the clock to where it has happened.
func (s *Server) Settle() {
	for {
		s.Net.Run()
		last := s.DB.Last()
		s.DB.Wait(context.Background(), last) // that it failed is the kernel's to say
		for s.settledSeen.Load() < uint64(s.DB.Durable()) {
			runtime.Gosched() // the committer is telling us
		}
		s.Net.Run()
		if s.slow != nil && s.slow.runNext() {
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
		if c.Ended() && !c.ended {
			c.ended = true
			b.WriteString(n + ": (closed)\n")
		}
	}
	if b.Len() == 0 {
		return nothingReceived
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
