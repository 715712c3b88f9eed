package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// canto launches Canto, from a program that was built.
type canto struct{}

func (canto) options() map[string][]string {
	return map[string][]string{
		"archive":  {"off", "on"}, // of messages, for all; off by default, as the others have none
		"carbons":  {"on", "off"},
		"push":     {"off", "on"},
		"register": {"off", "on"},
		"memory":   {}, // "2GiB": where the collector begins to work harder
		"rate":     {}, // "10KiB/s, burst 20KiB": what a stream may send
		"roster":   {}, // "10000": contacts of an account
		"modules":  {}, // "-version +register"
	}
}

func (canto) find(ctx context.Context, p *launch) error {
	if p.Program == "" {
		return errors.New("no program is named: go build canto/cmd/canto, and name it")
	}
	// The server runs in a folder of its own: a relative path would be lost.
	program, err := exec.LookPath(p.Program)
	if err == nil {
		program, err = absolute(program)
	}
	if err != nil {
		return fmt.Errorf("%w: go build -o %s canto/cmd/canto", err, p.Program)
	}
	p.Program = program
	out, err := output(ctx, nil, nil, nil, p.Program, "version")
	if err != nil {
		return fmt.Errorf("%w: build it again: go build canto/cmd/canto", err)
	}
	p.server.Software = "Canto"
	p.server.Version = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(out), "canto "))
	// Of an older Canto some modules are unknown, and naming them would be refused.
	out, err = output(ctx, nil, nil, nil, p.Program, "modules", "--config", os.DevNull, "--data",
		p.file("data"))
	if err != nil {
		return fmt.Errorf("its modules can't be listed: %w: build it again: go build canto/cmd/canto", err)
	}
	p.found["modules"] = out
	return nil
}

// moduleLine finds a module in what canto modules prints: its state, and its name.
var moduleLine = regexp.MustCompile(`(?m)^  (loaded|off|skipped) +([a-z0-9]+) `)

// switchable are the modules that options turn on and off, by option.
var switchable = []struct{ option, module string }{
	{"register", "register"}, {"archive", "archive"}, {"carbons", "carbons"}, {"push", "push"}}

// switches returns what the configuration says of the switchable modules: those that the program has, and
// whose option differs from the program's default.
func (canto) switches(p *launch) (modules []string) {
	state := make(map[string]string)
	for _, m := range moduleLine.FindAllStringSubmatch(p.found["modules"], -1) {
		state[m[2]] = m[1]
	}
	for _, s := range switchable {
		switch on := p.option(s.option) == "on"; {
		case on && state[s.module] == "off":
			modules = append(modules, "+"+s.module)
		case !on && state[s.module] == "loaded":
			modules = append(modules, "-"+s.module)
		}
	}
	return modules
}

func (c canto) configure(p *launch) error {
	modules := c.switches(p)
	for _, m := range strings.Fields(p.option("modules")) {
		modules = append(modules, m)
	}
	for i, m := range modules {
		modules[i] = strconv.Quote(m)
	}
	debug := loopback(p.ports[2])
	p.server.Metrics = "http://" + debug.String() + "/metrics"
	p.server.Profiles = "http://" + debug.String() + "/debug/pprof/"
	return p.render("canto.toml.tmpl", p.file("canto.toml"),
		map[string]string{"modules": strings.Join(modules, ", ")})
}

func (canto) args(p *launch) []string {
	return []string{"--config", p.file("canto.toml"), "--data", p.file("data")}
}

func (c canto) populate(ctx context.Context, p *launch) error {
	var lines bytes.Buffer
	if err := Export(&lines, "canto", p.Domain, p.Accounts); err != nil {
		return err
	}
	args := append([]string{"user", "import", "--shared-salt", "--iterations",
		strconv.Itoa(p.Accounts.Iterations), "-"}, c.args(p)...)
	_, err := output(ctx, p.log, &lines, nil, p.Program, args...)
	return err
}

func (c canto) command(p *launch) command {
	return command{program: p.Program, args: append([]string{"serve"}, c.args(p)...), ready: "canto: ready"}
}
