//go:build chromium

package report

import (
	"bytes"
	"context"
	"fmt"
	"html"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"canto/bench/result"
)

// browse runs Chromium on a page, and returns what it prints. Nothing leaves the machine.
func browse(t *testing.T, page string, more ...string) string {
	t.Helper()
	// Chromium may still write here when it has ended, so this is not t.TempDir, which would complain.
	dir, err := os.MkdirTemp("", "report")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	args := append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
		"--no-first-run", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--hide-scrollbars", "--user-data-dir=" + dir}, more...)
	cmd := exec.CommandContext(ctx, "chromium", append(args, "file://"+page)...)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("chromium: %v: %s", err, complaints.Bytes())
	}
	return string(out)
}

// look measures the page as it was laid out: each plot, texts of a plot that lie over one another, what
// leaves its plot, and whether the page is wider than the window. It moves the pointer over a plot, too.
const look = `<script>
(function () {
  var found = [], wider = document.documentElement.scrollWidth - window.innerWidth;
  if (wider > 0) found.push('the page is ' + wider + ' px too wide');
  document.querySelectorAll('svg.time, svg.curve').forEach(function (s) {
    var name = s.getAttribute('aria-label'), b = s.getBoundingClientRect();
    if (!b.width || !b.height) return;
    found.push('plot ' + name + ': ' + s.querySelectorAll('path.line').length + ' lines');
    var texts = Array.from(s.querySelectorAll('text')).map(function (e) {
      return [e.textContent, e.getBoundingClientRect()];
    });
    texts.forEach(function (p, i) {
      var r = p[1];
      if (r.left < b.left - 1 || r.right > b.right + 1 || r.top < b.top - 1 || r.bottom > b.bottom + 1)
        found.push('outside: ' + p[0] + ' of ' + name);
      texts.slice(i + 1).forEach(function (q) {
        var o = q[1];
        if (Math.min(r.right, o.right) - Math.max(r.left, o.left) > 0 &&
            Math.min(r.bottom, o.bottom) - Math.max(r.top, o.top) > 3)
          found.push('overlap: ' + p[0] + ' and ' + q[0] + ' of ' + name);
      });
    });
    s.querySelectorAll('path.line').forEach(function (e) {
      var l = e.getBBox(), v = s.viewBox.baseVal;
      if (l.x < 0 || l.y < 0 || l.x + l.width > v.width || l.y + l.height > v.height)
        found.push('outside: a line of ' + name);
      if (getComputedStyle(e).stroke === 'none') found.push('a line without colour in ' + name);
    });
  });
  var svg = document.querySelector('svg.time');
  if (svg) {
    var b = svg.getBoundingClientRect();
    svg.dispatchEvent(new PointerEvent('pointermove', {clientX: b.left + b.width / 2, clientY: b.top + 20}));
    var shown = Array.from(document.querySelectorAll('output')).map(function (o) { return o.textContent; });
    found.push('hover: ' + shown.filter(Boolean).join('; '));
  }
  var pre = document.createElement('pre');
  pre.id = 'found';
  pre.textContent = found.join('\n');
  document.body.appendChild(pre);
})();
</script></body>`

// measure is what the browser finds on the page of r: its plots, each with its number of lines, what the
// pointer shows, and what is wrong.
func measure(t *testing.T, r *result.Run, width int) (plots map[string]bool, hover string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(name, []byte(strings.Replace(render(t, r), "</body>", look, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	dom := browse(t, name, fmt.Sprintf("--window-size=%d,1000", width), "--dump-dom")
	m := regexp.MustCompile(`(?s)<pre id="found">(.*?)</pre>`).FindStringSubmatch(dom)
	if m == nil {
		t.Fatalf("the page's scripts did not run: %.500s", dom)
	}
	plots = map[string]bool{}
	for _, l := range strings.Split(html.UnescapeString(m[1]), "\n") {
		if p, ok := strings.CutPrefix(l, "plot "); ok {
			plots[p] = true
		} else if h, ok := strings.CutPrefix(l, "hover: "); ok {
			hover = h
		} else {
			t.Error(l)
		}
	}
	return plots, hover
}

func TestChromiumDraws(t *testing.T) {
	for _, seconds := range []int{20, 300, 3600} {
		for _, width := range []int{400, 1200} {
			t.Run(fmt.Sprintf("%d s, %d px", seconds, width), func(t *testing.T) {
				plots, hover := measure(t, testRun(seconds), width)
				for _, want := range []string{"Sessions over time: 1 lines", "login throughput over time: 2 lines",
					"chat throughput over time: 3 lines", "chat latency over time: 4 lines",
					"groupchat latency over time: 4 lines",
					"CPU over time: 2 lines", "Memory over time: 2 lines", "Schedule lag over time: 1 lines",
					"latency of chat by percentile: 2 lines", "latency of login by percentile: 2 lines"} {
					if !plots[want] {
						t.Errorf("no plot %q; there are %v", want, plots)
					}
				}
				if !strings.Contains(hover, "10,000") || !strings.Contains(hover, " ms") ||
					!strings.Contains(hover, "MiB") {
					t.Errorf("the pointer shows %q", hover)
				}
			})
		}
	}
}

// Long names, many phases and odd sizes must not run into one another either.
func TestChromiumDrawsCrowds(t *testing.T) {
	r := testRun(600)
	step := r.Steps[1]
	r.Phases, r.Steps = nil, r.Steps[:1]
	for i := range 30 {
		name := fmt.Sprintf("level %d of sessions and chatter", i)
		if i%3 == 0 {
			name = "ログインの嵐" + fmt.Sprint(i)
		}
		r.Phases = append(r.Phases, result.Phase{Name: name, Kind: "hold", From: float64(20 * i),
			To: float64(20 * (i + 1)), Sessions: i})
		step.Phase, step.Name = name, "a step with a name that goes on and on and has no end in sight"
		r.Steps = append(r.Steps, step)
	}
	r.Samples[9].Steps[step.Name] = result.Interval{Sent: 1, Done: 123456789, P50: .001, P90: 1, P99: 1e3,
		Max: 3.6e6}
	r.Samples[10].Steps[step.Name] = r.Samples[9].Steps[step.Name]
	r.Samples[9].Metrics = map[string]float64{"huge": 9.87e14, "tiny": 1.3e-8, "negative": -5}
	r.Target.Name = strings.Repeat("unbreakable", 30)
	r.Scenario.Source = strings.Repeat("x", 500)
	r.Figures[0].Name = strings.Repeat("long.", 50)
	r.Refusals[0].What = strings.Repeat("unbreakable", 30)
	for _, width := range []int{400, 1200} {
		if plots, _ := measure(t, r, width); !plots["latency of "+step.Name+" by percentile: 30 lines"] ||
			!plots[step.Name+" latency over time: 4 lines"] {
			t.Errorf("%d px: %v", width, plots)
		}
	}
}

// Both grounds are painted, and differ.
func TestChromiumPaints(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "report.html")
	if err := os.WriteFile(name, []byte(render(t, testRun(300))), 0o600); err != nil {
		t.Fatal(err)
	}
	var ground []uint32
	for i, more := range [][]string{nil, {"--blink-settings=preferredColorScheme=0"}} {
		shot := filepath.Join(dir, fmt.Sprintf("%d.png", i))
		browse(t, name, append(more, "--window-size=1200,3600", "--screenshot="+shot)...)
		f, err := os.Open(shot)
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		colors := map[[3]uint32]int{}
		for y := 0; y < img.Bounds().Dy(); y += 2 {
			for x := 0; x < img.Bounds().Dx(); x += 2 {
				r, g, b, _ := img.At(x, y).RGBA()
				colors[[3]uint32{r >> 8, g >> 8, b >> 8}]++
			}
		}
		if len(colors) < 100 {
			t.Errorf("the picture has %d colours: nothing was drawn", len(colors))
		}
		r, g, b, _ := img.At(2, 2).RGBA()
		ground = append(ground, (r+g+b)/3>>8)
	}
	if ground[0] < 200 || ground[1] > 60 {
		t.Errorf("the grounds are %d bright and %d dark of 255", ground[0], ground[1])
	}
}
