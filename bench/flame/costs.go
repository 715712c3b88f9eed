package flame

import (
	"cmp"
	"fmt"
	"io"
	"slices"
)

// A Cost is what a module used of a profile.
type Cost struct {
	Module string // Module by name; see [Module].
	// Flat is of the samples that are charged to it. The Flat of all modules add up to Total.
	Flat  int64
	Cum   int64  // Cum is of the samples that have a function of it.
	Total int64  // Total of the profile.
	Unit  string // Unit is nanoseconds, bytes or count.
}

// Share is Flat relative to Total.
func (c Cost) Share() float64 { return share(c.Flat, c.Total) }

func share(v, total int64) float64 {
	if total == 0 {
		return 0
	}
	return float64(v) / float64(total)
}

// Costs are the costs of modules, the most expensive first. by is the module of a function, such as
// [Module].
func Costs(prof []byte, by func(name string) string) ([]Cost, error) {
	return CostsOf(prof, Option{}, by)
}

// CostsOf is Costs of the values, less the base, that opt names.
func CostsOf(prof []byte, opt Option, by func(name string) string) ([]Cost, error) {
	stacks, kind, err := read(prof, opt)
	if err != nil {
		return nil, err
	}
	if by == nil {
		by = Module
	}
	costs := map[string]*Cost{}
	var total int64
	of := func(module string) *Cost {
		c := costs[module]
		if c == nil {
			c = &Cost{Module: module, Unit: kind.Unit}
			costs[module] = c
		}
		return c
	}
	for _, s := range stacks {
		total += s.value
		of(chargedFrame(s.frames, by)).Flat += s.value
		seen := map[string]bool{}
		for _, f := range s.frames {
			if m := by(f); !seen[m] {
				seen[m] = true
				of(m).Cum += s.value
			}
		}
	}
	var all []Cost
	for _, c := range costs {
		if c.Total = total; c.Flat != 0 || c.Cum != 0 { // it may have cancelled out
			all = append(all, *c)
		}
	}
	slices.SortFunc(all, func(a, b Cost) int {
		return cmp.Or(cmp.Compare(b.Flat, a.Flat), cmp.Compare(b.Cum, a.Cum), cmp.Compare(a.Module, b.Module))
	})
	return all, nil
}

// Table writes costs as text.
func Table(w io.Writer, costs []Cost) error {
	wide := len("module")
	for _, c := range costs {
		wide = max(wide, len(c.Module))
	}
	if _, err := fmt.Fprintf(w, "%-*s  %12s  %6s  %12s  %6s\n", wide, "module", "flat", "flat%", "cum",
		"cum%"); err != nil {
		return err
	}
	for _, c := range costs {
		if _, err := fmt.Fprintf(w, "%-*s  %12s  %5.1f%%  %12s  %5.1f%%\n", wide, c.Module,
			amount(c.Flat, c.Unit), 100*c.Share(), amount(c.Cum, c.Unit), 100*share(c.Cum, c.Total)); err != nil {
			return err
		}
	}
	return nil
}
