// Package flame draws profiles of Go programs as flame graphs, and adds up the costs of Canto's
// modules. It reads the format of net/http/pprof and runtime/pprof. Its functions keep no state,
// and any goroutine may call them.
package flame

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/pprof/profile"
)

// An Option says which values of a profile are used, and how. The zero Option has defaults for all.
type Option struct {
	Title string // Title above the graph; "": "<sample type>, <total>".
	// Sample is the type of the values: "cpu", "samples", "alloc_space", "alloc_objects",
	// "inuse_space", "inuse_objects", "delay", "contentions". "": the profile's own default (cpu,
	// inuse_space of heap, alloc_space of allocs, delay).
	Sample string
	// Base is a profile that is subtracted: an earlier one of the same process, or one of another run.
	// Where the difference is negative, a graph has nothing, and costs have the negative value.
	Base  []byte
	Width int // Width in pixels; 0: 1,200.
}

// A stack is one sample of a profile.
type stack struct {
	frames []string // functions, innermost first
	value  int64
}

// read reads the stacks of a profile, with the type and unit of their values.
func read(prof []byte, opt Option) (stacks []stack, kind *profile.ValueType, err error) {
	p, err := parse(prof)
	if err != nil {
		return nil, nil, err
	}
	if opt.Base != nil {
		base, err := parse(opt.Base)
		if err != nil {
			return nil, nil, fmt.Errorf("what is to be subtracted: %w", err)
		}
		base.Scale(-1)
		def := p.DefaultSampleType
		if p, err = profile.Merge([]*profile.Profile{p, base}); err != nil {
			return nil, nil, fmt.Errorf("these profiles can't be subtracted (%v): name two of one kind", err)
		}
		p.DefaultSampleType = def
	}
	i, err := index(p, opt.Sample)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range p.Sample {
		if s.Value[i] != 0 {
			stacks = append(stacks, stack{frames(s), s.Value[i]})
		}
	}
	return stacks, p.SampleType[i], nil
}

func parse(prof []byte) (*profile.Profile, error) {
	p, err := profile.ParseData(prof)
	if err == nil && len(p.SampleType) == 0 {
		err = errors.New("it has no values")
	}
	if err != nil {
		return nil, fmt.Errorf("not a profile of pprof (%v): fetch one from /debug/pprof/, without debug=", err)
	}
	return p, nil
}

// index is where the values of a type are in samples.
func index(p *profile.Profile, name string) (int, error) {
	if name == "" {
		name = p.DefaultSampleType
	}
	if name == "" {
		return len(p.SampleType) - 1, nil
	}
	var have []string
	for i, t := range p.SampleType {
		if t.Type == name {
			return i, nil
		}
		have = append(have, t.Type)
	}
	return 0, fmt.Errorf("the profile has no values of type %q: it has %s", name, strings.Join(have, ", "))
}

// frames is the functions of a sample, the innermost first, those that were inlined too.
func frames(s *profile.Sample) (all []string) {
	for _, l := range s.Location {
		if len(l.Line) == 0 {
			all = append(all, fmt.Sprintf("%#x", l.Address))
		}
		for _, line := range l.Line {
			if line.Function == nil || line.Function.Name == "" {
				all = append(all, fmt.Sprintf("%#x", l.Address))
				continue
			}
			all = append(all, line.Function.Name)
		}
	}
	return all
}

// amount is a value for people.
func amount(v int64, unit string) string {
	f, steps := float64(v), []string(nil)
	by := 1000.0
	switch unit {
	case "nanoseconds":
		steps = []string{"ns", "µs", "ms", "s"}
	case "bytes":
		steps, by = []string{"B", "KiB", "MiB", "GiB", "TiB"}, 1024
	default:
		return fmt.Sprintf("%d", v)
	}
	i := 0
	for ; i < len(steps)-1 && (f >= by || f <= -by); i++ {
		f /= by
	}
	if i == 0 {
		return fmt.Sprintf("%d %s", v, steps[0])
	}
	return fmt.Sprintf("%.2f %s", f, steps[i])
}
