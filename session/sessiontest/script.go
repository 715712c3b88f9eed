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

	"canto/session/store"
	"canto/xmlstream"
)

// rewrite makes Run write what clients really got into the scripts, for review as a diff.
var rewrite = flag.Bool("rewrite", false, "write what came into the conversation scripts")

// Run plays every script dir/*.txt, each on a server of its own, and compares what the clients get with
// what the script says. With the flag -rewrite it writes the difference into the file instead.
//
// A script has comments ("#") and steps. A step is a directive, the lines that belong to it, "----", and
// what the clients get:
//
//	connect romeo@localhost/orchard [as NAME]   log in; NAME is the localpart if none is given
//	open NAME [HOST]                            a connection that has sent its stream header, no more
//	NAME sends                                  the following lines are sent, joined
//	NAME sends in N                             in pieces of N bytes
//	NAME restarts                               a new stream header on the same connection
//	NAME leaves                                 the connection is lost
//	cut NAME                                    the following lines, if there are any, are sent, and then
//	                                            the connection is lost, without an end tag
//	advance 10m                                 the clock moves
//	later 10m                                   the clock moves by seconds; after each, timers and commits
//	                                            that are due have run
//	account juliet@localhost                    an account without a connection
//	restart                                     the server is stopped as by SIGTERM, and started on its store
//	crash                                       the server is killed, and started on what its disk has synced
//	reload                                      the modules are loaded again, and accounts are reloaded
//	memory                                      shows the addresses of the entities in memory
//
// Other tests play the same scripts under faults. On a slow store all steps run. On a store that fails,
// the steps that replace the kernel or its modules (restart, crash, reload) and connect run while nothing
// fails: a start on a store that can't be read is refused, and there would be no conversation. Tests that
// change single stanzas take only what clients send from a script.
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

// difference returns the first lines that differ.
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

// Converse plays one script and returns it with what the clients really got.
func Converse(t testing.TB, text string, opt Options) string {
	out, _ := converse(t, text, opt)
	return out
}

// converse is Converse. It also returns the number of steps before which another kernel took over from one
// with open streams.
func converse(t testing.TB, text string, opt Options) (script string, swaps int) {
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
			i++ // what was expected is replaced by what the clients get
		}
		if opt.SwapKernels && s.SwapKernel() && s.streaming() {
			swaps++
		}
		shown := s.runStep(line, body)
		got := s.collect()
		if shown != "" && got == nothingReceived {
			got = ""
		}
		out.WriteString("----\n" + shown + got)
	}
	return out.String(), swaps
}

// streaming reports whether a client has an open connection.
func (s *Server) streaming() bool {
	for _, c := range s.clients {
		if !c.Ended() {
			return true
		}
	}
	return false
}

// nothingReceived is what collect returns if no client got anything.
const nothingReceived = "(nothing)\n"

// runStep runs one directive, settles the server, and returns the text that the directive shows in addition
// to the clients' output: only "memory" shows one. body are the lines below the directive, which "sends"
// and "cut" write to the client's connection. The cases are, in order: directives of the server and its
// clock, then those that begin with the name of a client or act on one. An unknown directive, or a
// duration that cannot be parsed, fails the test.
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

// AdvanceSettled moves the clock as Advance does, in steps of a second, and settles after each: what one
// timer sets off has happened before the next one is due.
func (s *Server) AdvanceSettled(d time.Duration) {
	for ; d > 0; d -= time.Second {
		s.Advance(min(d, time.Second))
		s.Settle()
	}
}

// inMemory returns the addresses of the entities in the kernel's table, sorted.
func (s *Server) inMemory() (list []string) {
	for i := range 256 {
		for _, e := range s.Router.Table.Entities(i, nil) {
			list = append(list, e.JID().String())
		}
	}
	slices.Sort(list)
	return list
}

// Settle runs the server until nothing is left to do. It waits for commits on the store's goroutine too.
// On a slow store it moves the clock to the next delayed event.
func (s *Server) Settle() {
	for {
		last := s.SettleOnce()
		s.Net.Run()
		if s.slow != nil && s.slow.runNext() {
			continue
		}
		if s.DB.Last() == last {
			return
		}
	}
}

// SettleOnce runs the server until it has nothing to do but to wait for commits, and waits for those. It
// returns the last of them. What they set off has not begun.
func (s *Server) SettleOnce() (last store.Ticket) {
	s.Net.Run()
	last = s.DB.Last()
	s.DB.Wait(context.Background(), last) // the kernel handles a failure
	for s.settledSeen.Load() < uint64(s.DB.Durable()) {
		runtime.Gosched() // the committer is about to call the callback of start
	}
	return last
}

// collect returns what the clients got since the last call: a stanza a line, by client.
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

// Stanzas returns the complete top-level elements that c got since the last call. A stream header shows as
// "(stream)", the end tag as "(end of stream)".
func (c *Client) Stanzas() (list []string) {
	b := c.conn.Received()
	for len(b) > 0 {
		// After SASL the server restarts the stream: a new header is parsed as the start of a document.
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

// indexOf returns where sub is in s, or -1.
func indexOf(s, sub string) int { return strings.Index(s, sub) }
