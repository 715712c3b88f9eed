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
	args := append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
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
    var texts = Array.from(s.querySelectorAll('text')).map(function (e) { return [e.textContent, e.getBoundingClientRect()]; });
    texts.forEach(function (p, i) {
      var r = p[1];
      if (r.left < b.left - 1 || r.right > b.right + 1 || r.top < b.top - 1 || r.bottom > b.bottom + 1) found.push('outside: ' + p[0] + ' of ' + name);
      texts.slice(i + 1).forEach(function (q) {
        var o = q[1];
        if (Math.min(r.right, o.right) - Math.max(r.left, o.left) > 0 && Math.min(r.bottom, o.bottom) - Math.max(r.top, o.top) > 3)
          found.push('overlap: ' + p[0] + ' and ' + q[0] + ' of ' + name);
      });
    });
    s.querySelectorAll('path.line').forEach(function (e) {
      var l = e.getBBox(), v = s.viewBox.baseVal;
      if (l.x < 0 || l.y < 0 || l.x + l.width > v.width || l.y + l.height > v.height) found.push('outside: a line of ' + name);
      if (getComputedStyle(e).stroke === 'none') found.push('a line without colour in ' + name);
    });
  });
  var svg = document.querySelector('svg.time');
  if (svg) {
    var b = svg.getBoundingClientRect();
    svg.dispatchEvent(new PointerEvent('pointermove', {clientX: b.left + b.width / 2, clientY: b.top + 20}));
    found.push('hover: ' + Array.from(document.querySelectorAll('output')).map(function (o) { return o.textContent; }).filter(Boolean).join('; '));
  }
  var pre = document.createElement('pre');
  pre.id = 'found';
  pre.textContent = found.join('\n');
  document.body.appendChild(pre);
})();
</script></body>`

func TestChromiumDraws(t *testing.T) {
	for _, seconds := range []int{20, 300, 3600} {
		for _, width := range []int{400, 1200} {
			t.Run(fmt.Sprintf("%d s, %d px", seconds, width), func(t *testing.T) {
				name := filepath.Join(t.TempDir(), "report.html")
				if err := os.WriteFile(name, []byte(strings.Replace(render(t, testRun(seconds)), "</body>", look, 1)), 0o600); err != nil {
					t.Fatal(err)
				}
				dom := browse(t, name, fmt.Sprintf("--window-size=%d,1000", width), "--dump-dom")
				m := regexp.MustCompile(`(?s)<pre id="found">(.*?)</pre>`).FindStringSubmatch(dom)
				if m == nil {
					t.Fatalf("the page's scripts did not run: %.500s", dom)
				}
				plots := map[string]bool{}
				hover := ""
				for _, l := range strings.Split(html.UnescapeString(m[1]), "\n") {
					if p, ok := strings.CutPrefix(l, "plot "); ok {
						plots[p] = true
					} else if h, ok := strings.CutPrefix(l, "hover: "); ok {
						hover = h
					} else {
						t.Error(l)
					}
				}
				for _, want := range []string{"Sessions over time: 1 lines", "login throughput over time: 2 lines", "chat throughput over time: 3 lines", "chat latency over time: 4 lines", "groupchat latency over time: 4 lines",
					"CPU over time: 2 lines", "Memory over time: 2 lines", "Schedule lag over time: 1 lines", "latency of chat by percentile: 2 lines", "latency of login by percentile: 2 lines"} {
					if !plots[want] {
						t.Errorf("no plot %q; there are %v", want, plots)
					}
				}
				if !strings.Contains(hover, "10,000") || !strings.Contains(hover, " ms") || !strings.Contains(hover, "MiB") {
					t.Errorf("the pointer shows %q", hover)
				}
			})
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
