package capacity

import (
	"errors"
	"math"
	"math/rand/v2"
)

// A Fit is a linear model y = Σ Beta[j]·x[j] that was fitted by weighted least squares. Plain data: it goes
// into a Plan's JSON.
type Fit struct {
	Beta []float64   `json:"beta"`  // Beta are the coefficients.
	Cov  [][]float64 `json:"cov"`   // of Beta
	Var  float64     `json:"var"`   // of an observation of weight 1
	DOF  int         `json:"dof"`   // observations without those that the coefficients took
	N    int         `json:"count"` // observations
}

// errFew means that there is less to see than there is to fit.
var errFew = errors.New("too little was measured to fit anything")

// fit is a weighted least squares fit of y to x, with weights w (nil: all 1). It solves the normal
// equations by the inverse of their matrix, and estimates the variance from the residuals. It fails
// if there are too few observations, or if columns of x depend on each other.
func fit(x [][]float64, y, w []float64) (*Fit, error) {
	if len(x) == 0 || len(x) != len(y) {
		return nil, errFew
	}
	p := len(x[0])
	// Columns of sessions and of bytes differ by powers of ten: each is scaled by its largest value, so that
	// pivots can be compared.
	scale := make([]float64, p)
	var used []int
	for j := range p {
		for i := range x {
			scale[j] = max(scale[j], math.Abs(x[i][j]))
		}
		if scale[j] > 0 {
			used = append(used, j)
		}
	}
	k := len(used)
	f := &Fit{Beta: make([]float64, p), Cov: square(p), DOF: len(y) - k, N: len(y)}
	if f.DOF < 1 {
		return nil, errFew
	}
	weight := func(i int) float64 {
		if w == nil {
			return 1
		}
		return w[i]
	}
	a, b := square(k), make([]float64, k)
	for i := range x {
		for r, jr := range used {
			xr := x[i][jr] / scale[jr] * weight(i)
			b[r] += xr * y[i]
			for c, jc := range used {
				a[r][c] += xr * x[i][jc] / scale[jc]
			}
		}
	}
	inv, ok := inverse(a)
	if !ok {
		return nil, errFew
	}
	for r, jr := range used {
		for c := range used {
			f.Beta[jr] += inv[r][c] * b[c] / scale[jr]
		}
	}
	for i := range x {
		d := y[i] - f.at(x[i])
		f.Var += weight(i) * d * d
	}
	f.Var /= float64(f.DOF)
	for r, jr := range used {
		for c, jc := range used {
			f.Cov[jr][jc] = f.Var * inv[r][c] / scale[jr] / scale[jc]
		}
	}
	return f, nil
}

func square(n int) [][]float64 {
	m := make([][]float64, n)
	for i := range m {
		m[i] = make([]float64, n)
	}
	return m
}

// inverse is that of a symmetric matrix, by Gauss and Jordan with pivots; not ok: it has none.
func inverse(m [][]float64) (inv [][]float64, ok bool) {
	n := len(m)
	a := square(n)
	inv = square(n)
	for i := range n {
		copy(a[i], m[i])
		inv[i][i] = 1
	}
	for c := range n {
		p := c
		for r := c + 1; r < n; r++ {
			if math.Abs(a[r][c]) > math.Abs(a[p][c]) {
				p = r
			}
		}
		if math.Abs(a[p][c]) < 1e-12 {
			return nil, false
		}
		a[c], a[p] = a[p], a[c]
		inv[c], inv[p] = inv[p], inv[c]
		d := a[c][c]
		for j := range n {
			a[c][j] /= d
			inv[c][j] /= d
		}
		for r := range n {
			if k := a[r][c]; r != c && k != 0 {
				for j := range n {
					a[r][j] -= k * a[c][j]
					inv[r][j] -= k * inv[c][j]
				}
			}
		}
	}
	return inv, true
}

// at is the value of the model at x.
func (f *Fit) at(x []float64) (y float64) {
	for j, v := range x {
		y += f.Beta[j] * v
	}
	return y
}

// spread is half of the 95 % interval in which a new observation at x lies, if one of weight 1 has the
// variance Var and this one the variance Var·v; v = 0: in which the mean of observations lies.
func (f *Fit) spread(x []float64, v float64) float64 {
	s := f.Var * v
	for i := range x {
		for j := range x {
			s += x[i] * f.Cov[i][j] * x[j]
		}
	}
	return quantileT(.975, f.DOF) * math.Sqrt(max(s, 0))
}

// margin is half of the 95 % interval of a coefficient.
func (f *Fit) margin(j int) float64 {
	return quantileT(.975, f.DOF) * math.Sqrt(max(f.Cov[j][j], 0))
}

// draws gives coefficients as other measurements might have found them: of a t distribution around Beta.
func (f *Fit) draws() func(*rand.Rand) []float64 {
	l := root(f.Cov)
	return func(rng *rand.Rand) []float64 { return f.draw(l, rng) }
}

// draw is the coefficients of one random draw from the fit's distribution. l is the root of Cov.
func (f *Fit) draw(l [][]float64, rng *rand.Rand) []float64 {
	var chi float64
	for range f.DOF {
		z := rng.NormFloat64()
		chi += z * z
	}
	t := math.Sqrt(float64(f.DOF) / chi)
	z := make([]float64, len(f.Beta))
	for i := range z {
		z[i] = rng.NormFloat64() * t
	}
	b := make([]float64, len(z))
	for i := range b {
		b[i] = f.Beta[i]
		for j := 0; j <= i; j++ {
			b[i] += l[i][j] * z[j]
		}
	}
	return b
}

// root is the lower triangle L with L·Lᵀ = m (Cholesky), for an m that may have rows of zeros.
func root(m [][]float64) [][]float64 {
	l := square(len(m))
	for i := range m {
		for j := 0; j <= i; j++ {
			s := m[i][j]
			for k := range j {
				s -= l[i][k] * l[j][k]
			}
			switch {
			case i == j:
				l[i][i] = math.Sqrt(max(s, 0))
			case l[j][j] > 0:
				l[i][j] = s / l[j][j]
			}
		}
	}
	return l
}

// quantileT is the quantile p of Student's t with so many degrees of freedom.
func quantileT(p float64, dof int) float64 {
	if p < .5 {
		return -quantileT(1-p, dof)
	}
	low, high := 0.0, 1.0
	for cdfT(high, dof) < p && high < 1e9 {
		high *= 2
	}
	for range 200 {
		mid := (low + high) / 2
		if cdfT(mid, dof) < p {
			low = mid
		} else {
			high = mid
		}
	}
	return (low + high) / 2
}

// cdfT is the probability that Student's t is below t, for t ≥ 0.
func cdfT(t float64, dof int) float64 {
	v := float64(dof)
	return 1 - beta(v/(v+t*t), v/2, .5)/2
}

// beta is the regularised incomplete beta function, by its continued fraction (Lentz's method).
func beta(x, a, b float64) float64 {
	if x <= 0 || x >= 1 {
		return min(max(x, 0), 1)
	}
	if x > (a+1)/(a+b+2) {
		return 1 - beta(1-x, b, a) // the fraction converges quickly on one side only
	}
	la, _ := math.Lgamma(a)
	lb, _ := math.Lgamma(b)
	lab, _ := math.Lgamma(a + b)
	front := math.Exp(lab-la-lb+a*math.Log(x)+b*math.Log1p(-x)) / a
	const tiny = 1e-300
	away := func(v float64) float64 {
		if math.Abs(v) < tiny {
			return tiny
		}
		return v
	}
	c, d := 1.0, 1/away(1-(a+b)*x/(a+1))
	h := d
	for m := 1.0; m < 300; m++ {
		n := m * (b - m) * x / ((a + 2*m - 1) * (a + 2*m))
		d = 1 / away(1+n*d)
		c = away(1 + n/c)
		h *= d * c
		n = -(a + m) * (a + b + m) * x / ((a + 2*m) * (a + 2*m + 1))
		d = 1 / away(1+n*d)
		c = away(1 + n/c)
		h *= d * c
		if math.Abs(d*c-1) < 1e-15 {
			break
		}
	}
	return front * h
}
