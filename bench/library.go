package bench

import (
	"embed"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

//go:embed scenarios/*.toml
var files embed.FS

// Scenarios are the names of the scenarios that are built in, sorted.
func Scenarios() (names []string) {
	list, _ := files.ReadDir("scenarios")
	for _, f := range list {
		names = append(names, strings.TrimSuffix(f.Name(), ".toml"))
	}
	slices.Sort(names) // files are sorted with their extension: archive-rows.toml is before archive.toml
	return names
}

// Find returns the built-in scenario of that name, or reads a file: a name with a dot or a slash is
// a path. The error names the alternatives.
func Find(name string) (*Scenario, error) {
	if !strings.ContainsAny(name, "./\\") {
		b, err := files.ReadFile(path.Join("scenarios", name+".toml"))
		if err != nil {
			return nil, fmt.Errorf("there is no scenario %q: one of %s, or a file (with .toml in its name)",
				name, strings.Join(Scenarios(), ", "))
		}
		return Parse(name+".toml", b)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("the scenario can't be read: %w", err)
	}
	return Parse(name, b)
}
