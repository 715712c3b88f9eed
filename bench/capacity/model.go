package capacity

import (
	"math"
	"math/rand/v2"
	"slices"
)

// A work is what a server has to do: sessions, and for each second delivered messages, delivered
// presence, first logins, and logins of sessions that come back.
type work struct{ sessions, messages, deliveries, logins, returns float64 }

// The coefficients of the CPU's fit, in cores (seconds of CPU in a second).
const (
	atRest      = iota // without clients
	perSession         // of an idle session
	perMessage         // seconds for a message
	perDelivery        // seconds for a delivery of presence
	perLogin           // seconds for a login without contacts, of many at once
	// seconds for a session to leave and come back, at a moderate rate, with the presence that its
	// contacts get
	perReturn
)

// row is w as the x of a fit.
func (w work) row() []float64 {
	return []float64{1, w.sessions, w.messages, w.deliveries, w.logins, w.returns}
}

// An observation is one stretch of a run: what the server did, and the CPU that it used.
type observation struct {
	work
	cpu  float64 // cores
	wall float64 // seconds
}

// The errors of measured CPU. The kernel counts in ticks of 10 ms for each thread, and work that
// the server does now and then (garbage collection, compaction of files) falls into one stretch or
// another; beyond that, costs vary by a share of themselves. Only the ratio of the two matters to
// the fit, which finds the scale.
const (
	noiseSeconds = .02
	noiseShare   = .1
)

// variance is that of measured cores over wall seconds.
func variance(cores, wall float64) float64 {
	a, b := noiseSeconds/max(wall, .1), noiseShare*max(cores, 0)
	return a*a + b*b
}

// fitCPU weighs each stretch by its CPU in a fit with equal weights.
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
			// The first fit may be far off for small values: the measured value is a floor.
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

// unlimited is more sessions than any machine holds: a limit that could not be measured.
const unlimited = 1_000_000_000

// A line is what sessions take of a resource: a base, and an amount for each.
type line struct{ base, each float64 }

// fits is how many sessions fit into budget.
func (l line) fits(budget float64) float64 {
	if l.each <= 0 || (budget-l.base)/l.each > unlimited {
		return unlimited
	}
	return max(0, math.Floor((budget-l.base)/l.each))
}

// cpuLine is the CPU of sessions that each need w. A negative coefficient is noise, and counts as
// 0.
func cpuLine(beta []float64, w work) line {
	l := line{base: max(beta[atRest], 0)}
	for j, v := range w.row()[perSession:] {
		l.each += v * max(beta[perSession+j], 0)
	}
	return l
}

// memoryLine adds the server's own memory and its part of the kernel's.
func memoryLine(server, kernel []float64) line {
	return line{base: max(server[0], 0), each: max(server[1], 0) + kernelShare(kernel)}
}

// inode is the kernel's memory for a socket in caches that are not measured, as they also shrink
// and grow with files: a sock_inode_cache object (832 bytes) and a dentry (192 bytes).
const inode = 1024

// leastKernel is the least that Linux uses for a TCP connection on 64 bits, by the sizes of its
// slabs: tcp_sock 2,368, socket 832, dentry 192, file 192, and an entry of epoll 128 bytes. On a
// busy machine the measured growth may be less.
const leastKernel = 2368 + 832 + 192 + 192 + 128

// kernelShare is the server's part of the kernel's memory for a session: both ends were on this
// machine.
func kernelShare(kernel []float64) float64 { return max(kernel[1]/2+inode, leastKernel) }

// bootstrapDraws is how many random draws an interval is made of: enough for its ends to be stable
// to a percent.
const bootstrapDraws = 4000

// interval is where 95 % of the values of draw lie. The seed is fixed, so that the same plan has
// the same answer.
func interval(draw func(*rand.Rand) float64) (low, high float64) {
	rng := rand.New(rand.NewPCG(20, 7))
	v := make([]float64, bootstrapDraws)
	for i := range v {
		v[i] = draw(rng)
	}
	slices.Sort(v)
	return v[bootstrapDraws/40], v[bootstrapDraws-1-bootstrapDraws/40]
}

// A Limit is how many sessions one resource of the machine allows.
type Limit struct {
	Name     string `json:"name"`     // Name is "memory", "cpu", "descriptors" or "socket memory".
	Sessions int    `json:"sessions"` // Sessions that it allows.
	Low      int    `json:"low"`      // Low end of the 95 % interval.
	// High end of the 95 % interval; a billion says that none could be measured.
	High int `json:"high"`
	// Widened says that the check was further off than the interval, which was widened.
	Widened bool   `json:"widened,omitempty"`
	Of      string `json:"of"`     // Of says how much of the resource there is.
	Remedy  string `json:"remedy"` // Remedy says how to have more.
}

func newLimit(name string, sessions, low, high float64) Limit {
	return Limit{Name: name, Sessions: int(sessions), Low: int(min(low, sessions)),
		High: int(max(high, sessions))}
}

// widen widens the interval so that it has the relative error off of the check in it.
func (l *Limit) widen(off float64) {
	low, high := float64(l.Sessions)/(1+off), min(float64(l.Sessions)*(1+off), unlimited)
	if int(low) < l.Low || int(high) > l.High {
		l.Low, l.High, l.Widened = min(l.Low, int(low)), max(l.High, int(high)), true
	}
}
