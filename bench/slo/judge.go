package slo

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"canto/bench/report"
	"canto/bench/result"
)

// A Verdict is the outcome of judging a run.
type Verdict struct {
	Pass     bool     `json:"pass"`               // Pass: all lines pass.
	Lines    []Line   `json:"lines"`              // Lines by requirement and figure.
	Warnings []string `json:"warnings,omitempty"` // Warnings of the run and of the baseline.
}

// A Line is one figure and one limit.
type Line struct {
	Pass   bool   `json:"pass"`          // Pass: the figure keeps the limit.
	Figure string `json:"figure"`        // Figure by name.
	Value  string `json:"value"`         // Value as text; a dash if there is none.
	Limit  string `json:"limit"`         // Limit as text.
	Why    string `json:"why,omitempty"` // Why has a reason or a remedy; may be empty.
}

// Judge judges r by the requirements of f. baseline is the run that ratios are to, and may be nil.
// It reads only, and any goroutine may call it.
func (f *File) Judge(r, baseline *result.Run) Verdict {
	v := Verdict{}
	if r.Partial != "" {
		v.Lines = append(v.Lines, Line{Figure: "the run", Value: "partial", Limit: "complete", Why: r.Partial})
	}
	v.Warnings = append(v.Warnings, r.Warnings...)
	if n := len(r.Warnings); f.Strict && n > 0 {
		v.Lines = append(v.Lines, Line{Figure: "warnings", Value: strconv.Itoa(n), Limit: "at most 0",
			Why: "strict = true"})
	}
	judged, ratios := 0, false
	for _, q := range f.Require {
		if s := cmp.Or(q.Scenario, f.Scenario); s != "" && s != r.Scenario.Name {
			continue
		}
		judged++
		ratios = ratios || q.RatioAtMost != nil || q.RatioAtLeast != nil
		v.Lines = append(v.Lines, q.lines(r, baseline)...)
	}
	if judged == 0 {
		v.Lines = append(v.Lines, Line{Figure: "requirements", Value: "0", Limit: "at least 1",
			Why: fmt.Sprintf("the file requires nothing of the scenario %q: add a [[require]], or judge another run",
				r.Scenario.Name)})
	}
	if ratios && baseline != nil {
		for _, w := range baseline.Warnings {
			v.Warnings = append(v.Warnings, "baseline: "+w)
		}
	}
	v.Pass = true
	for _, l := range v.Lines {
		v.Pass = v.Pass && l.Pass
	}
	return v
}

// lines are those of one requirement: one for each limit of each figure that it names.
func (q Requirement) lines(r, baseline *result.Run) (all []Line) {
	var figures []result.Figure
	name := pattern(q.Figure)
	for _, f := range r.Figures {
		if name.MatchString(f.Name) {
			figures = append(figures, f)
		}
	}
	if len(figures) == 0 {
		why := "the run has no such figure"
		if n := r.Nearest(q.Figure); n != "" {
			why += "; did you mean " + n + "?"
		}
		return []Line{q.without(q.Figure, q.limits(), why)}
	}
	for _, f := range figures {
		for _, b := range []struct {
			limit any
			words string
			least bool
		}{{q.AtMost, "at most", false}, {q.AtLeast, "at least", true}} {
			if b.limit != nil {
				all = append(all, bounded(f, b.limit, b.words, b.least))
			}
		}
		for _, b := range []struct {
			limit *float64
			words string
			least bool
		}{{q.RatioAtMost, "at most", false}, {q.RatioAtLeast, "at least", true}} {
			if b.limit != nil {
				all = append(all, q.ratio(f, r, baseline, *b.limit, b.words, b.least))
			}
		}
	}
	return all
}

// pattern is a name in which * stands for any letters.
func pattern(s string) *regexp.Regexp {
	return regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(s), `\*`, ".*") + "$")
}

// limits are the requirements of q, as the file has them.
func (q Requirement) limits() string {
	var all []string
	for _, b := range []struct {
		limit any
		words string
	}{{q.AtMost, "at most"}, {q.AtLeast, "at least"}} {
		if b.limit != nil {
			all = append(all, fmt.Sprintf("%s %v", b.words, b.limit))
		}
	}
	for _, b := range []struct {
		limit *float64
		words string
	}{{q.RatioAtMost, "at most"}, {q.RatioAtLeast, "at least"}} {
		if b.limit != nil {
			all = append(all, fmt.Sprintf("%s ×%v", b.words, *b.limit))
		}
	}
	return strings.Join(all, ", ")
}

// without is the line of a figure that a run does not have.
func (q Requirement) without(figure, limits, why string) Line {
	l := Line{Figure: figure, Value: "–", Limit: limits, Why: why}
	if q.Missing == "ignore" {
		l.Pass, l.Why = true, why+` (missing = "ignore")`
	}
	return l
}

// holds reports whether v keeps a limit. NaN does not.
func holds(v, limit float64, least bool) bool {
	if least {
		return v >= limit
	}
	return v <= limit
}

// bounded is the line of a limit on a figure. written is the limit as the file has it, least says
// which end it is.
func bounded(f result.Figure, written any, words string, least bool) Line {
	l := Line{Figure: f.Name, Value: report.Amount(f.Value, f.Unit), Limit: fmt.Sprintf("%s %v", words, written)}
	lim, err := readLimit(written)
	if err != nil {
		l.Why = err.Error()
		return l
	}
	at, err := lim.in(f.Unit)
	if err != nil {
		l.Why = err.Error()
		return l
	}
	l.Limit = words + " " + report.Amount(at, f.Unit)
	l.Pass = holds(f.Value, at, least)
	if !l.Pass && l.Limit == words+" "+l.Value {
		// Rounded alike, so the difference would not be seen.
		l.Why = fmt.Sprintf("%v, not %s %v", f.Value, words, at)
	}
	return l
}

// ratio is the line of a limit on the ratio of a figure to that of the baseline. It fails with a reason
// if there is no baseline, or one that was cut short, of another scenario, without the figure, or with
// another unit. Two zeros have the ratio 1.
func (q Requirement) ratio(f result.Figure, r, baseline *result.Run, limit float64, words string,
	least bool) Line {
	l := Line{Figure: f.Name, Value: report.Amount(f.Value, f.Unit),
		Limit: fmt.Sprintf("%s ×%v of the baseline", words, limit)}
	switch {
	case baseline == nil:
		l.Why = `there is no baseline: name one by baseline = "file.json"`
		return l
	case baseline.Partial != "":
		l.Why = "the baseline is a partial run: " + baseline.Partial
		return l
	case baseline.Scenario.Name != r.Scenario.Name:
		l.Why = fmt.Sprintf("the baseline ran the scenario %q, not %q: name a run of the same",
			baseline.Scenario.Name, r.Scenario.Name)
		return l
	}
	b, ok := baseline.Figure(f.Name)
	if !ok {
		m := q.without(f.Name, l.Limit, "the baseline has no such figure: run it again with this canto-bench")
		m.Value = l.Value
		return m
	}
	if b.Unit != f.Unit {
		l.Why = fmt.Sprintf("the baseline has it in %s, the run in %s: run the baseline again with this "+
			"canto-bench", b.Unit, f.Unit)
		return l
	}
	ratio := f.Value / b.Value
	if f.Value == 0 && b.Value == 0 {
		ratio = 1
	}
	l.Pass = holds(ratio, limit, least)
	shown := "–"
	switch {
	case math.IsInf(ratio, 1):
		shown = "×∞"
	case !math.IsNaN(ratio):
		shown = "×" + report.Amount(ratio, "ratio")
	}
	l.Why = shown + " of " + report.Amount(b.Value, b.Unit)
	return l
}

// Text writes one line for each figure and limit, then the warnings, then the outcome.
func (v Verdict) Text(w io.Writer) error {
	name, value := 0, 0
	failed := 0
	for _, l := range v.Lines {
		name, value = max(name, utf8.RuneCountInString(report.Clean(l.Figure))),
			max(value, utf8.RuneCountInString(l.Value))
		if !l.Pass {
			failed++
		}
	}
	var b strings.Builder
	for _, l := range v.Lines {
		word := "pass"
		if !l.Pass {
			word = "FAIL"
		}
		figure := report.Clean(l.Figure)
		fmt.Fprintf(&b, "%s  %s%s  %s%s  %s", word, figure,
			strings.Repeat(" ", name-utf8.RuneCountInString(figure)),
			strings.Repeat(" ", value-utf8.RuneCountInString(l.Value)), l.Value, report.Clean(l.Limit))
		if l.Why != "" {
			b.WriteString(" (" + report.Clean(l.Why) + ")")
		}
		b.WriteString("\n")
	}
	for _, s := range v.Warnings {
		b.WriteString("warning: " + report.Clean(s) + "\n")
	}
	if v.Pass {
		fmt.Fprintf(&b, "pass: all of %d\n", len(v.Lines))
	} else {
		fmt.Fprintf(&b, "FAIL: %d of %d\n", failed, len(v.Lines))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
