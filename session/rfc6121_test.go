package session_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each row of rfc6121.txt names tests or steps of conversations, and each of them exists.
func TestRFC6121(t *testing.T) {
	page, err := os.ReadFile("rfc6121.txt")
	if err != nil {
		t.Fatal(err)
	}
	tests := goTests(t)
	comments := map[string]string{} // by conversation
	rows, row, refs := 0, "", ""
	check := func() {
		if row != "" && refs == "" {
			t.Errorf("the row %q names no test", row)
		}
		for _, ref := range strings.Split(refs, ";") {
			if ref = strings.TrimSpace(ref); ref == "" || tests[ref] {
				continue
			}
			script, mark, ok := strings.Cut(ref, " ")
			if !ok {
				t.Errorf("the row %q: there is no %s", row, ref)
				continue
			}
			if _, ok := comments[script]; !ok {
				comments[script] = scriptComments(t, script)
			}
			// 3.1 is neither 3.10 nor 3.1.2 nor 13.1.
			if !regexp.MustCompile(`(^|[^.\d])` + regexp.QuoteMeta(mark) + `($|[^.\d]|\.($|\D))`).MatchString(
				comments[script]) {
				t.Errorf("the row %q: no comment of %s has %q", row, script, mark)
			}
		}
		row, refs = "", ""
	}
	header := regexp.MustCompile(`^ [2-8A][.\d]* `)
	for _, line := range strings.Split(string(page), "\n") {
		_, ref, first := strings.Cut(line, "           -> ")
		switch {
		case header.MatchString(line):
			check()
			rows, row = rows+1, strings.TrimSpace(line)
		case first:
			refs = ref
		case refs != "" && strings.HasPrefix(line, "              "):
			refs += line
		}
	}
	check()
	if rows < 90 {
		t.Errorf("the page has only %d rows", rows)
	}
}

// goTests are the names of the tests of the kernel, the front door and the modules.
func goTests(t *testing.T) map[string]bool {
	tests := map[string]bool{}
	for _, dir := range []string{".", "*", "mod/*"} {
		files, err := filepath.Glob(dir + "/*_test.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(b), -1) {
				tests[m[1]] = true
			}
		}
	}
	return tests
}

// scriptComments are the comments of a conversation in mod, or in c2s, on one line.
func scriptComments(t *testing.T, script string) string {
	dir, name, _ := strings.Cut(script, "/")
	if dir != "c2s" {
		dir = "mod/" + dir
	}
	b, err := os.ReadFile(filepath.Join(dir, "testdata", name+".txt"))
	if err != nil {
		t.Error(err)
	}
	var all []string
	for _, line := range strings.Split(string(b), "\n") {
		if c, ok := strings.CutPrefix(line, "# "); ok {
			all = append(all, c)
		}
	}
	return strings.Join(all, " ")
}
