package report

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"canto/bench/result"
)

// A Live shows a run while it goes on. On a terminal it draws a few lines in place; elsewhere it
// writes a line at each change of phase and every five seconds. Any goroutine may call its methods.
type Live struct {
	mu       sync.Mutex // guards all fields below
	w        io.Writer
	tty      bool
	color    bool
	width    int
	drawn    int             // lines of the last drawing, that the cursor stands below
	last     result.Progress // as shown
	began    bool            // last holds something
	line     time.Duration   // Elapsed of the last plain line
	told     map[string]bool // warnings that plain lines have told
	previous float64         // At of the last sample
	seconds  float64         // that the last sample stands for
}

const (
	mostSteps    = 8 // steps and warnings that are shown at a time
	mostWarnings = 4
	plainEvery   = 5 * time.Second
)

// NewLive draws on w. tty says that w is a terminal with so many columns (0: 80) that understands
// ANSI escapes. Colours are left out if the environment has NO_COLOR.
func NewLive(w io.Writer, tty bool, width int) *Live {
	l := &Live{w: w, tty: tty, color: tty && os.Getenv("NO_COLOR") == "", told: map[string]bool{}}
	l.Resize(width)
	return l
}

// Resize sets the terminal's width in columns; 0 is 80.
func (l *Live) Resize(width int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if width <= 0 {
		width = 80
	}
	l.width = width
}

// Update shows p in place of the last state.
func (l *Live) Update(p result.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seconds := p.Sample.At - l.previous
	if !(seconds > 0) {
		seconds = 1
	}
	l.previous, l.seconds = p.Sample.At, seconds
	if l.tty {
		l.draw(l.lines(p, seconds))
	} else {
		l.plain(p, seconds)
	}
	l.last, l.began = p, true
}

// Note writes a line that stays, above the drawing.
func (l *Live) Note(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	b.WriteString(l.cursorUp())
	b.WriteString(Clean(s))
	if l.tty {
		b.WriteString("\x1b[K")
	}
	b.WriteString("\n")
	l.drawn = 0
	io.WriteString(l.w, b.String())
	if l.tty && l.began {
		l.draw(l.lines(l.last, l.seconds))
	}
}

// Close leaves the last drawing, with the cursor below.
func (l *Live) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drawn, l.began = 0, false
}

// cursorUp moves the cursor to where the last drawing began, and clears it.
func (l *Live) cursorUp() string {
	if l.drawn == 0 {
		return ""
	}
	return fmt.Sprintf("\x1b[%dA\r\x1b[J", l.drawn)
}

func (l *Live) draw(lines []styled) {
	var b strings.Builder
	b.WriteString(l.cursorUp())
	for _, s := range lines {
		b.WriteString(s.render(l.width-1, l.color)) // the last column wraps on some terminals
		b.WriteString("\n")
	}
	l.drawn = len(lines)
	io.WriteString(l.w, b.String())
}

// A styled line is spans of text with an SGR number each, "" for none.
type styled []span

// A span is text with an SGR number for its style.
type span struct{ sgr, text string }

const (
	bold  = "1"
	faint = "2"
	red   = "31"
	green = "32"
)

// render cuts the line to so many columns and then colours it, so that no escape is cut.
func (s styled) render(width int, color bool) string {
	var b strings.Builder
	for _, p := range s {
		text, used := cut(p.text, width)
		width -= used
		if color && p.sgr != "" && text != "" {
			text = "\x1b[" + p.sgr + "m" + text + "\x1b[0m"
		}
		b.WriteString(text)
		if used == 0 && p.text != "" {
			break
		}
	}
	return b.String()
}

// cut is as much of s as fits into so many columns, with an ellipsis if something is missing, and
// how many columns it takes.
func cut(s string, width int) (string, int) {
	total := 0
	for _, c := range s {
		total += wide(c)
	}
	if total <= width {
		return s, total
	}
	used := 0
	for i, c := range s {
		if used+wide(c)+1 > width {
			if width <= 0 {
				return "", 0
			}
			return s[:i] + "…", used + 1
		}
		used += wide(c)
	}
	return s, used
}

// wide is how many columns a terminal may give to c: two for East Asian letters and emoji.
func wide(c rune) int {
	if c >= 0x1100 && c <= 0x115f || c >= 0x2e80 && c <= 0xa4cf || c >= 0xac00 && c <= 0xd7a3 ||
		c >= 0xf900 && c <= 0xfaff || c >= 0xfe30 && c <= 0xfe6f ||
		c >= 0xff00 && c <= 0xff60 || c >= 0xffe0 && c <= 0xffe6 || c >= 0x1f300 && c <= 0x1faff || c >= 0x20000 {
		return 2
	}
	return 1
}

// share is how far the phase of p has come, from 0 to 1, with the text that says so.
func share(p result.Progress) (float64, string) {
	if p.Length > 0 {
		return p.Elapsed.Seconds() / p.Length.Seconds(), elapsed(p.Elapsed.Seconds()) + " of " +
			elapsed(p.Length.Seconds())
	}
	what := strings.TrimSpace(Clean(p.Waiting))
	if p.Goal > 0 {
		return float64(p.Now) / float64(p.Goal), strings.TrimSpace(fmt.Sprintf("%s of %s %s", count(p.Now),
			count(p.Goal), what))
	}
	if what != "" {
		what = ", waiting for " + what
	}
	return 0, elapsed(p.Elapsed.Seconds()) + what
}

func bar(share float64, width int) string {
	full := int(min(max(share, 0), 1) * float64(width))
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}

// lines returns the lines of a drawing, from top to bottom: scenario and target, the phase with
// its progress bar, sessions and usage, a row for each step up to mostSteps, and the warnings up
// to mostWarnings. seconds is the time that the sample's counts stand for; they are divided by
// it. The caller holds l.mu.
func (l *Live) lines(p result.Progress, seconds float64) (all []styled) {
	part, of := share(p)
	all = append(all, styled{{bold, Clean(p.Scenario)}, {faint, " against "}, {bold, Clean(p.Target)},
		{faint, fmt.Sprintf("  phase %d of %d, %s", p.Index+1, p.Phases, Clean(p.Kind))}})
	all = append(all, styled{{green, bar(part, min(max(l.width/3, 4), 32))}, {bold, " " + Clean(p.Phase)},
		{"", "  " + of}})
	use := styled{{"", count(p.Sample.Sessions) + " sessions"}}
	if u := p.Sample.Server; u != nil {
		use = append(use, span{"", fmt.Sprintf("  server %s cores, %s", digits(finite(u.CPU/seconds)),
			size(float64(u.RSS)))})
	}
	use = append(use, span{faint, fmt.Sprintf("  client %s cores", digits(finite(p.Sample.Client.CPU/seconds)))})
	if p.Sample.LagP99 > 0 {
		use = append(use, span{faint, ", lag " + Amount(p.Sample.LagP99, "ms")})
	}
	all = append(all, use)
	names := stepsOf(p.Sample)
	t := table{left: 1}
	for i, n := range names {
		if i == mostSteps {
			break
		}
		s := p.Sample.Steps[n]
		row := []string{Clean(n), number(float64(s.Sent)/seconds) + "/s sent",
			number(float64(s.Done)/seconds) + "/s done", "", "", ""}
		if s.Done > 0 {
			row[3], row[4], row[5] = "p50 "+Amount(s.P50, "ms"), "p99 "+Amount(s.P99, "ms"), "max "+Amount(s.Max, "ms")
		}
		t.rows = append(t.rows, row)
	}
	if len(t.rows) > 0 {
		for i, line := range strings.Split(strings.TrimSuffix(t.String(), "\n"), "\n") {
			s := styled{{"", line}}
			if n := p.Sample.Steps[names[i]].Failed; n > 0 {
				s = append(s, span{red, "  " + count(n) + " failed"})
			}
			all = append(all, s)
		}
	}
	if n := len(names) - mostSteps; n > 0 {
		all = append(all, styled{{faint, fmt.Sprintf("and %d more steps", n)}})
	}
	for i, s := range p.Warnings {
		if i == mostWarnings {
			all = append(all, styled{{red, fmt.Sprintf("and %d more warnings", len(p.Warnings)-i)}})
			break
		}
		all = append(all, styled{{red, "! " + Clean(s)}})
	}
	return all
}

// stepsOf are the names of s's steps in a fixed order.
func stepsOf(s result.Sample) (names []string) {
	for n := range s.Steps {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// plain writes one line, for output that is no terminal.
func (l *Live) plain(p result.Progress, seconds float64) {
	for _, s := range p.Warnings {
		if !l.told[s] {
			l.told[s] = true
			fmt.Fprintf(l.w, "warning: %s\n", Clean(s))
		}
	}
	same := l.began && p.Index == l.last.Index && p.Phase == l.last.Phase
	if same && p.Elapsed-l.line < plainEvery {
		return
	}
	l.line = p.Elapsed
	_, of := share(p)
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s %d/%d  %s  %s sessions", elapsed(p.Sample.At), Clean(p.Phase), p.Index+1,
		p.Phases, of, count(p.Sample.Sessions))
	for _, n := range stepsOf(p.Sample) {
		s := p.Sample.Steps[n]
		fmt.Fprintf(&b, "  %s %s/s", Clean(n), number(float64(s.Done)/seconds))
		if s.Done > 0 {
			fmt.Fprintf(&b, " p99 %s", Amount(s.P99, "ms"))
		}
	}
	if u := p.Sample.Server; u != nil {
		fmt.Fprintf(&b, "  server %s cores %s", digits(finite(u.CPU/seconds)), size(float64(u.RSS)))
	}
	fmt.Fprintf(&b, "  client %s cores\n", digits(finite(p.Sample.Client.CPU/seconds)))
	io.WriteString(l.w, b.String())
}
