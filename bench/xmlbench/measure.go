package main

import (
	"fmt"
	"slices"
	"time"

	"canto/xmlstream/xmlstreamtest"
)

// A parser is one that is measured, with a stream open for each document that it was given. One
// goroutine uses it.
type parser interface {
	name() string // name in tables
	// add opens a stream, reads its header, and makes d ready to be fed to it. Documents are counted
	// from 0.
	add(d xmlstreamtest.Document) error
	// run feeds document i warm times, to fill caches and branch predictors, and n times more, and
	// returns how long those took.
	run(i, warm, n int) (time.Duration, error)
	elements(i int) int // elements returns how many elements document i has had in all runs so far.
}

// An effort is how long a measurement takes, and so how reliable its figures are.
type effort struct {
	rounds int
	slice  time.Duration // for one parser with one document in one round
}

var (
	full  = effort{100, 1500 * time.Microsecond}
	quick = effort{3, 200 * time.Microsecond}
)

// A cell is the time of one parser for one document.
type cell struct {
	best  float64 // ns a document, in the best round
	noise float64 // the median round as a multiple of the best
}

// measureAll measures each parser with each document in each round, one after another, so that
// other load of the machine affects all alike. The result is indexed by document and parser. Rounds
// are short, and the best one counts: a disturbance makes a round longer, never shorter.
func measureAll(docs []xmlstreamtest.Document, parsers []parser, e effort) ([][]cell, error) {
	times := make([]int, len(docs)*len(parsers)) // to feed a document, to fill a slice
	took := make([][]float64, len(times))
	for i, d := range docs {
		for j, c := range parsers {
			if err := c.add(d); err != nil {
				return nil, fmt.Errorf("%s, document %s: %w", c.name(), d.Name, err)
			}
			n, fed := 1, 0
			for {
				t, err := c.run(i, n/4+1, n)
				if err != nil {
					return nil, fmt.Errorf("%s, document %s: %w", c.name(), d.Name, err)
				}
				if fed += n/4 + 1 + n; t >= e.slice/2 {
					n = max(1, int(float64(n)*float64(e.slice)/float64(t)))
					break
				}
				n *= 2
			}
			if got := c.elements(i); got != fed*d.Elements {
				return nil, fmt.Errorf("%s, document %s: %d elements in %d documents, and there are %d in each",
					c.name(), d.Name, got, fed, d.Elements)
			}
			times[i*len(parsers)+j] = n
		}
	}
	for range e.rounds {
		for i := range docs {
			for j, c := range parsers {
				at := i*len(parsers) + j
				n := times[at]
				t, err := c.run(i, n/4+1, n)
				if err != nil {
					return nil, err
				}
				took[at] = append(took[at], float64(t.Nanoseconds())/float64(n))
			}
		}
	}
	cells := make([][]cell, len(docs))
	for i := range docs {
		for j := range parsers {
			t := took[i*len(parsers)+j]
			best := slices.Min(t)
			cells[i] = append(cells[i], cell{best, median(t) / best})
		}
	}
	return cells, nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}
