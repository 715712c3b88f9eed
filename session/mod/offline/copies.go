package offline

import (
	"slices"

	"canto/session/stanzaid"
)

// maxSpans is how many spans a [copies] has at most. Without the oldest ones a client may get a message
// again, under the id that its copy had.
const maxSpans = 64

// A span is the numbers from from to to, both included.
type span struct{ from, to stanzaid.ID }

// copies are the rows that wait and that a session has got as copies (XEP-0280). A span has all rows that
// were stored for later delivery between its ends. The account's lock guards it.
type copies struct {
	spans []span // in order
	open  bool   // since the last one was added, no row was stored without a copy
}

// add notes that the session has the row number, the newest one, as a copy.
func (c *copies) add(number stanzaid.ID) {
	if n := len(c.spans); c.open && n > 0 {
		c.spans[n-1].to = number
		return
	}
	if len(c.spans) == maxSpans {
		c.spans = append(c.spans[:0], c.spans[1:]...)
	}
	c.spans, c.open = append(c.spans, span{number, number}), true
}

// close notes that the newest row was stored without a copy for the session.
func (c *copies) close() { c.open = false }

// remove notes that the session has not got the row number as a copy. The number may lie in a span.
func (c *copies) remove(number stanzaid.ID) {
	c.open = false
	for i, s := range c.spans {
		if number < s.from || number > s.to {
			continue
		}
		parts := []span{{s.from, number - 1}, {number + 1, s.to}}
		parts = slices.DeleteFunc(parts, func(s span) bool { return s.from > s.to })
		c.spans = slices.Replace(c.spans, i, i+1, parts...)
		if len(c.spans) > maxSpans {
			c.spans = append(c.spans[:0], c.spans[1:]...)
		}
		return
	}
}

// has reports whether the session has the row number as a copy.
func (c *copies) has(number stanzaid.ID) bool {
	for _, s := range c.spans {
		if number >= s.from && number <= s.to {
			return true
		}
	}
	return false
}

// clone returns a copy of c, with memory of its own.
func (c *copies) clone() copies { return copies{spans: slices.Clone(c.spans), open: c.open} }
