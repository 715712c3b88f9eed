package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"canto/bench"
	"canto/bench/flame"
	"canto/bench/result"
	"canto/bench/sampler"
)

// profileCmd is the command profile.
type profileCmd struct {
	Scenario string `arg:"" optional:"" default:"default" help:"Name of a built-in scenario (see canto-bench scenarios), or a TOML file."`
	serverFlags
	scenarioFlags
	loadFlags
	Out   string `help:"Folder for the report, profiles and flame graphs." default:"canto-bench-report" placeholder:"DIR"`
	Top   int    `help:"Number of modules to print for each profile." default:"12"`
	Quiet bool   `short:"q" help:"Do not show progress."`
}

// Run runs a scenario with profiles. It checks the flags; runs the scenario, and records profiles
// in its holds and storms; saves the result; and prints the costs of modules. It returns an error
// if the server has no profiles or one could not be recorded, and errInterrupted after an
// interrupt; the result is saved then too, if there is one.
func (c *profileCmd) Run(w *environment) error {
	if err := firstError(atLeast("--top", c.Top, 1, "1 or more")); err != nil {
		return err
	}
	e, err := c.spec()
	if err != nil {
		return err
	}
	sc, err := c.scenario(c.Scenario)
	if err != nil {
		return err
	}
	o, err := c.options(w)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return fmt.Errorf("the report can't be written: %w", err)
	}
	p := &profiler{dir: c.Out, top: c.Top}
	r, err := measure(w, e, sc, o, "", c.Quiet, func(t *bench.Target, o *bench.Options) error {
		if t.Profiles == "" {
			return errors.New("this server has no profiles: they are Go's (net/http/pprof), and their URL is " +
				"given with --pprof")
		}
		p.base = strings.TrimSuffix(strings.TrimSuffix(t.Profiles, "/"), "/debug/pprof")
		o.Capture = p.capture
		return nil
	})
	if r != nil {
		if err := save(w, r, c.Out); err != nil {
			return err
		}
		w.out.Write(p.text.Bytes())
	}
	switch {
	case err != nil:
		return err
	case r.Partial != "":
		return errInterrupted
	}
	return p.failed
}

// A profiler captures profiles of a server during the phases of a run.
type profiler struct {
	dir, base string
	top       int
	mu        sync.Mutex // guards text and failed
	text      bytes.Buffer
	failed    error
}

// longestProfile bounds the profiles of a long phase.
const longestProfile = time.Minute

// capture captures one phase: CPU, allocations and contention over its length, a trace of two
// seconds in the middle, and the heap at its end.
func (p *profiler) capture(ctx context.Context, ph *bench.Phase) (files []result.File) {
	length := min(time.Duration(ph.Length), longestProfile).Truncate(time.Second) - time.Second
	if ph.Kind == bench.Storm {
		length = 10 * time.Second // a storm has no length
	}
	length = max(length, time.Second)
	// A profile that has begun is waited for, and the phase with it, unless the run is interrupted.
	ctx, cancel := context.WithTimeout(ctx, length+time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	fetch := func(kind string, after, d time.Duration) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			select {
			case <-time.After(after):
			case <-ctx.Done():
			}
			b, err := sampler.FetchProfile(ctx, p.base, kind, d)
			p.mu.Lock()
			defer p.mu.Unlock()
			if err != nil {
				p.failed = errors.Join(p.failed, err)
				return
			}
			files = append(files, p.keep(ph.Name, kind, b)...)
		}()
	}
	fetch("cpu", 0, length)
	fetch("allocs", 0, length)
	fetch("mutex", 0, length)
	fetch("block", 0, length)
	if length >= 5*time.Second { // while a CPU profile runs, a trace carries its samples, too
		fetch("trace", length/2, 2*time.Second)
	}
	wg.Wait()
	fetch("heap", 0, 0)
	wg.Wait()
	return files
}

// samples are the values that are used of each kind of profile. A profile of a stretch of time has
// lost its own default.
var samples = map[string]string{"cpu": "cpu", "allocs": "alloc_space", "heap": "inuse_space",
	"mutex": "delay", "block": "delay"}

// keep writes a profile and its flame graph, and adds the costs of modules to the text.
func (p *profiler) keep(phase, kind string, b []byte) (files []result.File) {
	add := func(name, kind string, b []byte) {
		if err := os.WriteFile(filepath.Join(p.dir, name), b, 0o644); err != nil {
			p.failed = errors.Join(p.failed, err)
			return
		}
		files = append(files, result.File{Name: name, Kind: kind, Phase: phase})
	}
	if kind == "trace" {
		add(phase+".trace", kind, b)
		return
	}
	add(phase+"."+kind+".pprof", kind, b)
	var svg bytes.Buffer
	opt := flame.Option{Title: phase + ": " + kind, Sample: samples[kind]}
	if err := flame.SVG(&svg, b, opt); err != nil {
		p.failed = errors.Join(p.failed, err)
		return
	}
	add(phase+"."+kind+".svg", "flame", svg.Bytes())
	costs, err := flame.CostsOf(b, opt, nil)
	if err != nil || len(costs) == 0 {
		return
	}
	fmt.Fprintf(&p.text, "\n%s in %s, by module\n", kind, phase)
	flame.Table(&p.text, costs[:min(p.top, len(costs))])
	return
}
