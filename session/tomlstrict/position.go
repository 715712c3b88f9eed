package tomlstrict

import (
	"fmt"

	"github.com/pelletier/go-toml/v2/unstable"
)

// A Path names a value of a file: the keys, as strings, and the numbers of tables in a list, as ints from
// 0: "phase", 1, "do", 0, "rate".
type Path []any

// Names returns the keys of p without the numbers.
func (p Path) Names() (names []string) {
	for _, k := range p {
		if name, ok := k.(string); ok {
			names = append(names, name)
		}
	}
	return names
}

// A Misplaced is an error about the value at a path. Its line is not known: [Placed] makes it a [Mistake]
// with a line.
type Misplaced struct {
	Path Path   // where it is
	Why  string // one line
}

// Error returns Why.
func (m *Misplaced) Error() string { return m.Why }

// At returns a [Misplaced].
func At(path Path, format string, a ...any) error { return &Misplaced{path, fmt.Sprintf(format, a...)} }

// Placed returns err as a [Mistake] at the line of its path, if it is a [Misplaced]. Any other error is
// returned unchanged. text must be TOML.
func Placed(text []byte, err error) error {
	m, ok := err.(*Misplaced)
	if !ok {
		return err
	}
	return &Mistake{Line(text, m.Path), m.Why}
}

// Line returns the line, from 1, of the key or table at path in text, which must be TOML. If there is
// none, it returns the line of the innermost table around it that text has, or 0.
func Line(text []byte, path Path) (line int) {
	best := 0
	Walk(text, func(k Key) {
		n := 0
		for n < len(k.Path) && n < len(path) && k.Path[n] == path[n] {
			n++
		}
		if n > best {
			best, line = n, k.Line
		}
	})
	return line
}

// A Key is a key or a table as it is written in a text.
type Key struct {
	Path   Path           // its full name
	Line   int            // the line of the last part of its name, from 1
	Column int            // where its name ends, from 1
	Value  *unstable.Node // nil for the header of a table; valid during the call

	parser *unstable.Parser
}

// lineOf returns the line of a node of k's value, or k's own line if the parser does not know it.
func (k Key) lineOf(n *unstable.Node) int {
	if n.Raw.Length == 0 {
		return k.Line
	}
	return k.parser.Shape(n.Raw).Start.Line
}

// Walk calls f for each table and each key of text, which must be TOML, in the order of the text. The keys
// of an inline table come after the key that has the table.
//
// Its steps, for each expression of the parser: a header of a table sets the section, with the number of
// the table if it is one of a list; a key is passed to f with the section before its name; then the keys
// of inline tables in its value follow, also those in arrays.
func Walk(text []byte, f func(Key)) {
	var p unstable.Parser
	p.Reset(text)
	lists := make(map[string]int) // how many tables each list has, by its path
	section := Path{}
	// extend adds the names of n to a path. The name of a list stands for its last table.
	extend := func(path Path, n *unstable.Node) Key {
		path, line, column := append(Path{}, path...), 0, 0
		for it := n.Key(); it.Next(); {
			k := it.Node()
			end := p.Shape(k.Raw).End
			line, column = end.Line, end.Column
			path = append(path, string(k.Data))
			if count := lists[fmt.Sprint(path)]; count > 0 && !it.IsLast() {
				path = append(path, count-1)
			}
		}
		return Key{Path: path, Line: line, Column: column, parser: &p}
	}
	var visit func(above Path, n *unstable.Node)
	value := func(path Path, v *unstable.Node) {
		switch v.Kind {
		case unstable.InlineTable:
			for it := v.Children(); it.Next(); {
				if it.Node().Kind == unstable.KeyValue {
					visit(path, it.Node())
				}
			}
		case unstable.Array:
			i := 0
			for it := v.Children(); it.Next(); {
				if it.Node().Kind == unstable.InlineTable {
					for in := it.Node().Children(); in.Next(); {
						if in.Node().Kind == unstable.KeyValue {
							visit(append(append(Path{}, path...), i), in.Node())
						}
					}
				}
				if it.Node().Kind != unstable.Comment {
					i++
				}
			}
		}
	}
	visit = func(above Path, n *unstable.Node) {
		k := extend(above, n)
		k.Value = n.Value()
		f(k)
		value(k.Path, k.Value)
	}
	for p.NextExpression() {
		switch n := p.Expression(); n.Kind {
		case unstable.KeyValue:
			visit(section, n)
		case unstable.Table, unstable.ArrayTable:
			k := extend(nil, n)
			name := fmt.Sprint(k.Path)
			if n.Kind == unstable.ArrayTable {
				lists[name]++
			}
			if count := lists[name]; count > 0 {
				k.Path = append(k.Path, count-1)
			}
			section = k.Path
			f(k)
		}
	}
}
