package main

import (
	"bufio"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"canto/xmlstream/xmlstreamtest"
)

//go:embed testdata/*.c testdata/*.h
var harnesses embed.FS

// errNoCParsers says what is missing for the parsers in C.
var errNoCParsers = errors.New("no C compiler, expat or libxml2 to build against: apt-get install gcc " +
	"libc6-dev pkg-config libexpat1-dev libxml2-dev")

// checkCParsers reports whether the harnesses can be built here.
func checkCParsers() error {
	if _, err := exec.LookPath("cc"); err != nil {
		return errNoCParsers
	}
	if exec.Command("pkg-config", "--exists", "expat", "libxml-2.0").Run() != nil {
		return errNoCParsers
	}
	return nil
}

// A peer is a parser in C: a process that measures itself.
type cParser struct {
	label   string
	version string
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	starts  []int // of each document
}

// newCParser starts a C parser in a process of its own. It writes the harness testdata/<label>.c
// to dir, asks pkg-config for the flags of library, compiles the harness with cc, starts it with
// pipes, reads its version, and sends it the stream header. It returns errNoCParsers if
// pkg-config does not know library, otherwise the error of the step that failed; the process does
// not run then.
func newCParser(dir, label, library string) (*cParser, error) {
	for _, f := range []string{"harness.h", label + ".c"} {
		b, err := harnesses.ReadFile("testdata/" + f)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, f), b, 0o644); err != nil {
			return nil, err
		}
	}
	flags, err := exec.Command("pkg-config", "--cflags", "--libs", library).Output()
	if err != nil {
		return nil, errNoCParsers
	}
	program := filepath.Join(dir, label)
	args := append([]string{"-O2", "-o", program, program + ".c"}, strings.Fields(string(flags))...)
	if b, err := exec.Command("cc", args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the harness for %s: %s", label, b)
	}
	p := &cParser{label: label, cmd: exec.Command(program)}
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if p.version, err = p.line(); err == nil {
		_, err = p.ask(fmt.Sprintf("header %d\n%s", len(xmlstreamtest.Header), xmlstreamtest.Header))
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// close ends the process.
func (p *cParser) close() {
	p.in.Close()
	p.cmd.Wait()
}

func (p *cParser) line() (string, error) {
	s, err := p.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the harness for %s ended: %w", p.label, err)
	}
	return strings.TrimSpace(s), nil
}

func (p *cParser) ask(command string) (string, error) {
	if _, err := io.WriteString(p.in, command); err != nil {
		return "", fmt.Errorf("the harness for %s ended: %w", p.label, err)
	}
	return p.line()
}

func (p *cParser) name() string { return p.label }

func (p *cParser) add(d xmlstreamtest.Document) error {
	p.starts = append(p.starts, 0)
	_, err := p.ask(fmt.Sprintf("load %d\n%s", len(d.XML), d.XML))
	return err
}

func (p *cParser) run(i, warm, n int) (time.Duration, error) {
	s, err := p.ask(fmt.Sprintf("run %d %d %d\n", i, warm, n))
	if err != nil {
		return 0, err
	}
	var ns int64
	var ends, texts int
	if _, err := fmt.Sscan(s, &ns, &p.starts[i], &ends, &texts); err != nil {
		return 0, fmt.Errorf("%s answers %q: %w", p.label, s, err)
	}
	if ends != p.starts[i] {
		return 0, fmt.Errorf("%s: %d start tags and %d end tags", p.label, p.starts[i], ends)
	}
	return time.Duration(ns), nil
}

func (p *cParser) elements(i int) int { return p.starts[i] }
