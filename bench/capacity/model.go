package capacity

import (
	"math"
	"math/rand/v2"
	"slices"
)

// A work is what a server is asked to do: sessions that are there, and for each second messages that are
// delivered, presences that are delivered, first logins and reconnects.
type work struct{ sessions, messages, deliveries, logins, returns float64 }

// The coefficients of CPU, in cores (seconds of CPU in a second).
const (
	atRest      = iota // with nobody connected
	perSession         // for a session that does nothing
	perMessage         // seconds for a message
	perDelivery        // seconds for a presence that is delivered
	perLogin           // seconds for a login of one without contacts, of many at once
	perReturn          // seconds for a session that goes and comes back, at a moderate pace, with what contacts see of it
)

func (w work) row() []float64 {
	return []float64{1, w.sessions, w.messages, w.deliveries, w.logins, w.returns}
}

// An observation is one stretch of a run.
type observation struct {
	work
	cpu  float64 // cores
	wall float64 // seconds
}

// What CPU is off by: the kernel counts in steps of 10 ms, for each thread, and what a server does now and
// then (collecting garbage, tidying up files) falls into one stretch or another; and beyond that costs
// differ by a share of themselves. Only the ratio of the two matters for the fit, which finds the size.
const (
	noiseSeconds = .02
	noiseShare   = .1
)

func variance(cores, wall float64) float64 {
	a, b := noiseSeconds/max(wall, .1), noiseShare*max(cores, 0)
	return a*a + b*b
}

// fitCPU weighs each stretch by what a fit with equal weights says of its size.
func fitCPU(obs []observation) (*Fit, error) {
	var x [][]float64
	var y, w []float64
	for _, o := range obs {
		x = append(x, o.row())
		y = append(y, o.cpu)
	}
	f, err := fit(x, y, nil)
	for range 3 {
		if err != nil {
			return nil, err
		}
		w = w[:0]
		for i, o := range obs {
			// The first fit may be far off for what is small: what was seen is a floor.
			w = append(w, 1/variance(max(f.at(x[i]), o.cpu/2), o.wall))
		}
		f, err = fit(x, y, w)
	}
	return f, err
}

// fitLine is y = a + b·sessions.
func fitLine(sessions, y []float64) (*Fit, error) {
	x := make([][]float64, len(sessions))
	for i, n := range sessions {
		x[i] = []float64{1, n}
	}
	return fit(x, y, nil)
}

// unlimited is more sessions than anybody asks for: what no measured limit is below.
const unlimited = 1_000_000_000

// A line is what a number of sessions takes of something: base, and each.
type line struct{ base, each float64 }

func (l line) fits(budget float64) float64 {
	if l.each <= 0 || (budget-l.base)/l.each > unlimited {
		return unlimited
	}
	return max(0, math.Floor((budget-l.base)/l.each))
}

// cpuLine is what sessions that each ask for w take. No work gives CPU back: what is below zero is noise.
func cpuLine(beta []float64, w work) line {
	l := line{base: max(beta[atRest], 0)}
	for j, v := range w.row()[perSession:] {
		l.each += v * max(beta[perSession+j], 0)
	}
	return l
}

// memoryLine adds up the server's own memory and its part of the kernel's.
func memoryLine(server, kernel []float64) line {
	return line{base: max(server[0], 0), each: max(server[1], 0) + kernelShare(kernel)}
}

// inode is what the kernel has for a socket among its caches, which come and go with files and are not
// measured: a sock_inode_cache object (832 bytes) and a dentry (192 bytes).
const inode = 1024

// leastKernel is what Linux has for a TCP connection at least, as its slabs of 64 bits say: tcp_sock 2,368,
// socket 832, dentry 192, file 192 and an entry of epoll, 128 bytes. On a busy machine what it grows by may
// be seen as less.
const leastKernel = 2368 + 832 + 192 + 192 + 128

// kernelShare is the server's part of the kernel's memory for a session: both ends were on this machine.
func kernelShare(kernel []float64) float64 { return max(kernel[1]/2+inode, leastKernel) }

const bootstrapDraws = 4000

// interval is where 95 % of what draw gives lies. The same seed each time: a plan that is computed again
// says the same.
func interval(draw func(*rand.Rand) float64) (low, high float64) {
	rng := rand.New(rand.NewPCG(20, 7))
	v := make([]float64, bootstrapDraws)
	for i := range v {
		v[i] = draw(rng)
	}
	slices.Sort(v)
	return v[bootstrapDraws/40], v[bootstrapDraws-1-bootstrapDraws/40]
}

// A Limit is how many sessions one of the machine's goods is enough for.
type Limit struct {
	Name     string `json:"name"` // "memory", "cpu", "descriptors", "socket memory"
	Sessions int    `json:"sessions"`
	// The 95 % interval, widened where the check was further off. A High of a billion says that no upper
	// end could be measured.
	Low     int    `json:"low"`
	High    int    `json:"high"`
	Widened bool   `json:"widened,omitempty"`
	Of      string `json:"of"`     // what there is
	Remedy  string `json:"remedy"` // how to have more
}

func newLimit(name string, sessions, low, high float64) Limit {
	return Limit{Name: name, Sessions: int(sessions), Low: int(min(low, sessions)), High: int(max(high, sessions))}
}

// widen stretches l so that it holds what a check was off by, as a share of what was predicted.
func (l *Limit) widen(off float64) {
	low, high := float64(l.Sessions)/(1+off), min(float64(l.Sessions)*(1+off), unlimited)
	if int(low) < l.Low || int(high) > l.High {
		l.Low, l.High, l.Widened = min(l.Low, int(low)), max(l.High, int(high)), true
	}
}
