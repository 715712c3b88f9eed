package flame

import (
	"bufio"
	"cmp"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strings"

	"canto/xmlstream"
)

const (
	row     = 17  // height of a box
	top     = 44  // above the first
	least   = 0.4 // px: narrower boxes are left out
	legible = 22  // px: narrower boxes have no text, as in the script
	key     = 18  // height of a line of the key
	keyCol  = 200 // width of one of its entries
)

// A node is a function as it is called by the functions above it.
type node struct {
	name  string
	value int64 // of it and all below
	own   int64 // of it alone
	below map[string]*node
}

func (n *node) child(name string) *node {
	c := n.below[name]
	if c == nil {
		c = &node{name: name}
		if n.below == nil {
			n.below = map[string]*node{}
		}
		n.below[name] = c
	}
	return c
}

// children are the nodes below n that have a value, the largest first.
func (n *node) children() (all []*node) {
	for _, c := range n.below {
		if c.value > 0 {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b *node) int {
		return cmp.Or(cmp.Compare(b.value, a.value),
			cmp.Compare(a.name, b.name))
	})
	return all
}

// sum computes the values from the nodes' own, and adds the modules' own values up. After a
// subtraction nodes may have negative values, which count as 0.
func (n *node) sum(modules map[string]int64) int64 {
	n.value = max(n.own, 0)
	modules[Module(n.name)] += n.value
	for _, c := range n.below {
		n.value += c.sum(modules)
	}
	return n.value
}

// SVG draws a profile as an icicle: callers above, the functions that they call below, each as wide
// as its share, with the colour of its [Module]. It is one file that needs no other: the pointer
// shows a box's function and value, and a click zooms. A profile without samples gives a drawing
// that says so.
func SVG(w io.Writer, prof []byte, opt Option) error {
	stacks, kind, err := read(prof, opt)
	if err != nil {
		return err
	}
	root := &node{name: "all"}
	for _, s := range stacks {
		n := root
		for _, f := range slices.Backward(s.frames) {
			n = n.child(f)
		}
		n.own += s.value
	}
	modules := map[string]int64{}
	root.sum(modules)
	if opt.Width <= 0 {
		opt.Width = 1200
	}
	d := &drawing{unit: kind.Unit, width: float64(opt.Width), total: root.value, modules: modules}
	if root.value > 0 {
		d.box(root, 10, d.width-20, 0)
	}
	title := kind.Type + ", " + amount(root.value, kind.Unit)
	if opt.Title != "" {
		title = opt.Title + " (" + title + ")"
	}
	return d.write(w, title)
}

// A drawing is the state of an SVG that is being drawn.
type drawing struct {
	unit    string
	width   float64
	total   int64
	depth   int
	boxes   strings.Builder
	modules map[string]int64 // the own values of their functions
}

// box draws n and what is below it.
func (d *drawing) box(n *node, x, width float64, depth int) {
	d.depth = max(d.depth, depth)
	module := Module(n.name)
	if depth == 0 {
		module = "all"
	}
	hidden := ""
	if width < legible {
		hidden = " visibility='hidden'"
	}
	fmt.Fprintf(&d.boxes, "<svg x='%.2f' y='%d' width='%.2f' height='%d'><title>%s\n%s, "+
		"%s%s</title><rect width='100%%' height='100%%' fill='%s'/><text x='3' y='12'%s>%s</text></svg>\n",
		x, top+depth*row, width, row-1, escaped(n.name), amount(n.value, d.unit), percent(n.value, d.total),
		of(module), colour(module), hidden, escaped(short(n.name)))
	for _, c := range n.children() {
		if wide := width * float64(c.value) / float64(n.value); wide >= least {
			d.box(c, x, wide, depth+1)
			x += wide
		}
	}
}

func of(module string) string {
	if module == "all" {
		return ""
	}
	return ", " + escaped(module)
}

func percent(v, total int64) string { return fmt.Sprintf("%.2f %%", 100*share(v, total)) }

func escaped(s string) string { return string(xmlstream.AppendValue(nil, s)) }

// short is the name of a function without the folders of its package.
func short(name string) string {
	p := pkg(name)
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		rest := name[i+1:]
		if v, after, ok := strings.Cut(rest, "."); ok && len(v) == 2 && v[0] == 'v' { // pebble/v2
			j := strings.LastIndexByte(p[:i], '/')
			return p[j+1:i] + "." + after
		}
		return rest
	}
	return name
}

// colour is always the same for a module: strong for Canto's own, each kind of a family of its own, and pale
// for others'.
func colour(module string) string {
	if name, ok := strings.CutPrefix(module, "mod/"); ok {
		v := sum(name)
		return fmt.Sprintf("hsl(%d,65%%,%d%%)", 65+v%12*9, 56+v/12%3*9)
	}
	switch module {
	case "all":
		return "#eee"
	case "session":
		return "hsl(33,95%,66%)"
	case "session/store":
		return "hsl(8,85%,70%)"
	case "reactor":
		return "hsl(212,85%,72%)"
	case "xmlstream":
		return "hsl(275,65%,78%)"
	case "bench", "cmd":
		return "hsl(48,90%,68%)"
	case "pebble":
		return "hsl(8,30%,82%)"
	case "gnet":
		return "hsl(212,30%,84%)"
	case "crypto":
		return "hsl(48,35%,82%)"
	case "runtime GC":
		return "hsl(330,60%,84%)"
	case "runtime":
		return "#d4d4d4"
	case "syscall":
		return "#a9b1b8"
	}
	if name, ok := strings.CutPrefix(module, "session/"); ok {
		v := sum(name)
		return fmt.Sprintf("hsl(%d,80%%,%d%%)", 16+v%4*3, 72+v/4%3*5)
	}
	return "#e9e9f0"
}

func sum(name string) uint32 {
	h := fnv.New32a()
	io.WriteString(h, name)
	return h.Sum32()
}

// script zooms: a click on a box makes it as wide as the drawing; a click on one that is, or
// beside, goes back.
const script = `(function () {
  var svg = document.currentScript.closest("svg"), all = [].slice.call(svg.querySelectorAll("g.boxes > svg"));
  var width = svg.viewBox.baseVal.width - 20;
  var boxes = all.map(function (e) {
    return {e: e, x: +e.getAttribute("x"), y: +e.getAttribute("y"), w: +e.getAttribute("width")};
  });
  var shown = null;
  function zoom(to) {
    shown = to;
    boxes.forEach(function (b) {
      var x = b.x, w = b.w;
      if (to) {
        var mid = to.x + to.w / 2;
        if (b.y < to.y) {
          var above = b.x <= mid && mid < b.x + b.w;
          x = 10; w = above ? width : 0;
        } else {
          var left = Math.max(b.x, to.x), right = Math.min(b.x + b.w, to.x + to.w), k = width / to.w;
          x = 10 + (left - to.x) * k; w = (right - left) * k;
          if (b.x + b.w / 2 < to.x || b.x + b.w / 2 > to.x + to.w) w = 0;
        }
      }
      b.e.style.display = w > 0 ? "" : "none";
      b.e.setAttribute("x", x);
      b.e.setAttribute("width", Math.max(w, 0));
      b.e.lastElementChild.setAttribute("visibility", w < 22 ? "hidden" : "visible");
    });
  }
  svg.addEventListener("click", function (ev) {
    var e = ev.target.closest("g.boxes > svg"), i = all.indexOf(e);
    zoom(i < 0 || boxes[i] === shown ? null : boxes[i]);
  });
})();`

const style = `.canto-flame text{font:11px ui-monospace,Menlo,Consolas,"DejaVu Sans ` +
	`Mono",monospace;fill:#111}` +
	`.canto-flame .title{font:15px sans-serif}.canto-flame .note{font:11px sans-serif;fill:#666}` +
	`.canto-flame .boxes svg{cursor:pointer}.canto-flame .boxes svg:hover rect{stroke:#000;stroke-width:2}`

// write writes the file: style, script, title, boxes, and the legend of modules.
func (d *drawing) write(w io.Writer, title string) error {
	type entry struct {
		module string
		value  int64
	}
	var entries []entry
	for m, v := range d.modules {
		if share(v, d.total) >= .001 {
			entries = append(entries, entry{m, v})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(b.value, a.value),
			cmp.Compare(a.module, b.module))
	})
	columns := max(int(d.width-20)/keyCol, 1)
	keyTop := top + (d.depth+1)*row + 14
	height := keyTop + (len(entries)+columns-1)/columns*key + 10

	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "<svg xmlns='http://www.w3.org/2000/svg' class='canto-flame' width='%.0f' "+
		"height='%d' viewBox='0 0 %[1]g %[2]d'>\n<style>%s</style>\n<rect width='100%%' height='100%%' "+
		"fill='#fff'/>\n<text class='title' x='10' y='20'>%s</text>\n",
		d.width, height, style, escaped(title))
	note := "callers above; a click zooms in and out; the key counts functions by themselves"
	if d.total <= 0 {
		note = "no samples: nothing of this kind happened while the profile was taken, or the server does " +
			"not record it"
	}
	fmt.Fprintf(out, "<text class='note' x='10' y='36'>%s</text>\n<g class='boxes'>\n%s</g>\n", note,
		d.boxes.String())
	for i, e := range entries {
		x, y := 10+i%columns*keyCol, keyTop+i/columns*key
		fmt.Fprintf(out, "<rect x='%d' y='%d' width='12' height='12' fill='%s'/><text x='%d' y='%d'>%s "+
			"%s</text>\n", x, y, colour(e.module), x+17, y+10, escaped(e.module), percent(e.value, d.total))
	}
	fmt.Fprintf(out, "<script>//<![CDATA[\n%s\n//]]></script>\n</svg>\n", script)
	return out.Flush()
}
