package report

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"canto/bench/result"
)

func TestText(t *testing.T) {
	r := testRun(60)
	r.Partial = "the server went away"
	r.Target.Name = "evil\x1b[2J\nname"
	var b bytes.Buffer
	if err := Text(&b, r); err != nil {
		t.Fatal(err)
	}
	s := b.String()
	for _, want := range []string{"chat against evil?[2J name (Canto 0.9.0): 10,000 sessions, 1m0s",
		"PARTIAL: the server went away\n", "WARNING: the client used", "login storm",
		"12 × policy-violation", "310 MiB"} {
		if !strings.Contains(s, want) {
			t.Errorf("the summary lacks %q:\n%s", want, s)
		}
	}
	if strings.ContainsRune(s, '\x1b') {
		t.Error("an escape came through")
	}
	var steps []string
	for _, l := range strings.Split(s, "\n") {
		if strings.Contains(l, "chat ") && strings.Contains(l, " ms") || strings.HasPrefix(l, "phase        step") {
			steps = append(steps, l)
		}
	}
	if len(steps) < 3 {
		t.Fatalf("steps:\n%s", s)
	}
	// The last letter of a column of numbers is under that of its heading.
	end := strings.Index(steps[0], "p50") + 3
	for _, l := range steps[1:] {
		if at := []rune(l); at[end-1] != 's' || at[end] != ' ' {
			t.Errorf("not aligned:\n%s\n%s", steps[0], l)
		}
	}
}

func progress(at float64, index int, phase string, elapsed time.Duration) result.Progress {
	return result.Progress{Scenario: "chat", Target: "canto", Phase: phase, Kind: "hold", Index: index,
		Phases: 3, Elapsed: elapsed, Length: time.Minute,
		Sample: result.Sample{At: at, Sessions: 1000,
			Steps: map[string]result.Interval{"chat": {Sent: 4000, Done: 3999, Failed: 1, P50: .8, P99: 3.1,
				Max: 12}, "login": {Sent: 1}},
			Server: &result.Usage{CPU: 1.25, RSS: 300 << 20}, Client: result.Usage{CPU: .5}, LagP99: .2}}
}

// screen plays what Live writes on a terminal of so many columns, and fails where a line wraps.
func screen(t *testing.T, s string, width int) (lines []string, sgr bool) {
	t.Helper()
	lines = []string{""}
	y, x := 0, 0
	for s != "" {
		if rest, ok := strings.CutPrefix(s, "\x1b["); ok {
			i := strings.IndexAny(rest, "AJKm")
			n := 0
			for _, c := range rest[:i] {
				n = n*10 + int(c-'0')
			}
			switch rest[i] {
			case 'A':
				if y -= n; y < 0 {
					t.Fatal("the cursor leaves the screen")
				}
			case 'J':
				lines = append(lines[:y], "")
			case 'm':
				sgr = true
			}
			s = rest[i+1:]
			continue
		}
		c, n := utf8.DecodeRuneInString(s)
		s = s[n:]
		switch c {
		case '\r':
			x = 0
		case '\n':
			if y, x = y+1, 0; y == len(lines) {
				lines = append(lines, "")
			}
		default:
			if x == 0 {
				lines[y] = ""
			}
			lines[y] += string(c)
			if x += wide(c); x >= width {
				t.Errorf("%q fills %d columns", lines[y], width)
			}
		}
	}
	return lines, sgr
}

func TestLiveDrawsInPlace(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	for _, width := range []int{1, 2, 10, 40, 80, 200} {
		var b bytes.Buffer
		l := NewLive(&b, true, width)
		p := progress(1, 1, "talk", time.Second)
		p.Warnings = []string{"the client is the bottleneck",
			"日本語 und so weiter, ein sehr langer Satz, der in keine Zeile passt, auch nicht in eine mit " +
				"vielen Spalten, wie sie breite Bildschirme haben \x1b[31m"}
		l.Update(p)
		l.Update(progress(2, 1, "talk", 2*time.Second))
		l.Update(progress(4, 1, "talk", 4*time.Second))
		lines, sgr := screen(t, b.String(), max(width, 2))
		if !sgr && width > 2 {
			t.Error("no colours")
		}
		if len(lines) != 6 {
			t.Errorf("%d columns: %d lines: %q", width, len(lines), lines)
		}
		if width == 200 {
			all := strings.Join(lines, "\n")
			for _, want := range []string{"chat against canto  phase 2 of 3, hold", "█░", "0:04 of 1:00",
				"1,000 sessions  server 0.625 cores, 300 MiB", "2,000/s sent", "p99 3.1 ms", "1 failed"} {
				if !strings.Contains(all, want) {
					t.Errorf("lacks %q:\n%s", want, all)
				}
			}
		}
		b.Reset()
		l.Close()
		l.Update(p)
		if strings.Contains(b.String(), "\x1b[5A") || strings.Contains(b.String(), "\x1b[6A") {
			t.Error("what was closed is drawn over")
		}
	}
}

func TestLiveNotes(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	var b bytes.Buffer
	l := NewLive(&b, true, 120)
	l.Note("before")
	l.Update(progress(1, 0, "ramp", time.Second))
	l.Note("beside\nit")
	l.Update(progress(2, 0, "ramp", 2*time.Second))
	l.Close()
	lines, sgr := screen(t, b.String(), 120)
	if sgr {
		t.Error("coloured, though NO_COLOR is set")
	}
	if len(lines) != 8 || lines[0] != "before" || lines[1] != "beside it" ||
		!strings.Contains(lines[2], "chat against canto") {
		t.Errorf("%q", lines)
	}
}

func TestLiveWaits(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	var b bytes.Buffer
	l := NewLive(&b, true, 120)
	p := progress(1, 0, "ramp", time.Second)
	p.Length, p.Now, p.Goal, p.Waiting = 0, 2500, 10000, "sessions bound"
	l.Update(p)
	if s := b.String(); !strings.Contains(s, "2,500 of 10,000 sessions bound") ||
		!strings.Contains(s, strings.Repeat("█", 8)+strings.Repeat("░", 24)) {
		t.Error(s)
	}
}

func TestLivePlain(t *testing.T) {
	var b bytes.Buffer
	l := NewLive(&b, false, 20)
	l.Note("begins")
	for i := 1; i <= 12; i++ {
		p := progress(float64(i), 0, "ramp", time.Duration(i)*time.Second)
		p.Warnings = []string{"busy"}
		l.Update(p)
	}
	l.Update(progress(13, 1, "talk", 0))
	l.Update(progress(14, 1, "talk", time.Second))
	l.Close()
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	// The first second, two more after five each, and the change of phase.
	if len(lines) != 6 || lines[0] != "begins" || lines[1] != "warning: busy" ||
		!strings.HasPrefix(lines[3], "0:06  ramp 1/3") || !strings.HasPrefix(lines[5], "0:13  talk 2/3") {
		t.Errorf("%s", b.String())
	}
	if strings.ContainsRune(b.String(), '\x1b') {
		t.Error("an escape where there is no terminal")
	}
}
