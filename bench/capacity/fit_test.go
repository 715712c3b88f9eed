package capacity

import (
	"math"
	"math/rand/v2"
	"testing"
)

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.IsNaN(got) || math.Abs(got-want) > tolerance*math.Max(math.Abs(want), 1e-12) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// Quantiles of Student's t, as tables have them.
func TestQuantileT(t *testing.T) {
	for _, c := range []struct {
		p    float64
		dof  int
		want float64
	}{{.975, 1, 12.7062}, {.975, 2, 4.30265}, {.975, 4, 2.77645}, {.975, 10, 2.22814},
		{.975, 100, 1.98397}, {.95, 5, 2.01505}, {.995, 3, 5.84091}, {.5, 7, 0}, {.025, 10, -2.22814}} {
		if got := quantileT(c.p, c.dof); math.Abs(got-c.want) > 2e-5*(1+math.Abs(c.want)) {
			t.Errorf("quantile %v with %d degrees is %v, want %v", c.p, c.dof, got, c.want)
		}
	}
}

// A fit that textbooks work out (heights and masses of women): y = 61.272 x - 39.062, with standard errors
// 1.776 and 2.938.
func TestFitKnown(t *testing.T) {
	h := []float64{1.47, 1.50, 1.52, 1.55, 1.57, 1.60, 1.63, 1.65, 1.68, 1.70, 1.73, 1.75, 1.78, 1.80, 1.83}
	y := []float64{52.21, 53.12, 54.48, 55.84, 57.20, 58.57, 59.93, 61.29, 63.11, 64.47, 66.28, 68.10,
		69.92, 72.19, 74.46}
	f, err := fitLine(h, y)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "intercept", f.Beta[0], -39.062, 1e-4)
	near(t, "slope", f.Beta[1], 61.272, 1e-4)
	near(t, "its standard error", math.Sqrt(f.Cov[1][1]), 1.776, 1e-3)
	near(t, "that of the intercept", math.Sqrt(f.Cov[0][0]), 2.938, 1e-3)
	near(t, "its interval", f.margin(1), 1.776*2.16037, 1e-3)
	if f.DOF != 13 || f.N != 15 {
		t.Errorf("%d degrees of freedom of %d", f.DOF, f.N)
	}
	near(t, "interval of the mean", f.spread([]float64{1, 1.65}, 0),
		quantileT(.975, 13)*math.Sqrt(f.Cov[0][0]+2*1.65*f.Cov[0][1]+1.65*1.65*f.Cov[1][1]), 1e-9)
}

// A weight of 2 is the same observation twice.
func TestFitWeights(t *testing.T) {
	x := [][]float64{{1, 1}, {1, 2}, {1, 3}, {1, 4}}
	y := []float64{1, 3, 2, 5}
	a, err := fit(x, y, []float64{1, 2, 1, 1})
	if err != nil {
		t.Fatal(err)
	}
	b, err := fit(append(x, x[1]), append(y, y[1]), nil)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "slope", a.Beta[1], b.Beta[1], 1e-12)
	near(t, "intercept", a.Beta[0], b.Beta[0], 1e-12)
}

// What was not measured has no cost, and too little gives no fit.
func TestFitEmptyColumnAndTooFew(t *testing.T) {
	f, err := fit([][]float64{{1, 0, 10}, {1, 0, 20}, {1, 0, 30}}, []float64{12, 22, 32}, nil)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "intercept", f.Beta[0], 2, 1e-9)
	near(t, "slope", f.Beta[2], 1, 1e-9)
	if f.Beta[1] != 0 || f.margin(1) != 0 {
		t.Errorf("a column of zeros has %v ± %v", f.Beta[1], f.margin(1))
	}
	if _, err := fitLine([]float64{1, 2}, []float64{1, 2}); err == nil {
		t.Error("two points have a line and a margin")
	}
	if _, err := fitLine([]float64{5, 5, 5, 5}, []float64{1, 2, 3, 4}); err == nil {
		t.Error("one place has a slope")
	}
}

// Drawn coefficients have the covariance that they should.
func TestDraw(t *testing.T) {
	f := &Fit{Beta: []float64{3, 0, -2}, Cov: [][]float64{{4, 0, 1.5}, {0, 0, 0}, {1.5, 0, 1}}, DOF: 50}
	rng := rand.New(rand.NewPCG(1, 2))
	draw := f.draws()
	var sum, square, cross float64
	const n = 40000
	for range n {
		b := draw(rng)
		if b[1] != 0 {
			t.Fatal("what was not measured varies")
		}
		sum += b[0]
		square += (b[0] - 3) * (b[0] - 3)
		cross += (b[0] - 3) * (b[2] + 2)
	}
	near(t, "mean", sum/n, 3, .02)
	near(t, "variance", square/n, 4*50/48.0, .05)
	near(t, "covariance", cross/n, 1.5*50/48.0, .07)
}

// Of many measurements, 95 % of the intervals hold what is true: of costs, of what a new look shows, and of
// how many sessions fit.
func TestCoverage(t *testing.T) {
	truth := []float64{.02, 3e-6, 60e-6, 30e-6, 600e-6, 1500e-6}
	w := Mobile().work()
	want := cpuLine(truth, w).fits(1.4)
	rng := rand.New(rand.NewPCG(3, 4))
	const n = 300
	var message, login, look, answer int
	h := stepPlan{steps: []int{1000, 2000, 3000, 4000, 5500, 7000}, rate: 3000}
	for range n {
		var obs []observation
		see := func(k work, wall float64) observation {
			cpu := 0.0
			for j, v := range k.row() {
				cpu += truth[j] * v
			}
			return observation{k, max(0, cpu+.6*math.Sqrt(variance(cpu, wall))*rng.NormFloat64()), wall}
		}
		for i, s := range h.steps {
			obs = append(obs, see(work{sessions: float64(s), logins: 700}, 2),
				see(work{sessions: float64(s), returns: 200}, 2))
			for j, q := range []float64{0, .25, .5, 1} {
				obs = append(obs, see(work{sessions: float64(s), messages: q * h.rate * (1 + .1*float64(i%2))}, 5))
				if j > 0 {
					obs = append(obs, see(work{sessions: float64(s), deliveries: q * h.rate}, 5))
				}
			}
		}
		f, err := fitCPU(obs)
		if err != nil {
			t.Fatal(err)
		}
		in := func(count *int, v, low, high float64) {
			if v >= low && v <= high {
				*count++
			}
		}
		in(&message, truth[perMessage], f.Beta[perMessage]-f.margin(perMessage), f.Beta[perMessage]+
			f.margin(perMessage))
		in(&login, truth[perReturn], f.Beta[perReturn]-f.margin(perReturn), f.Beta[perReturn]+f.margin(perReturn))
		o := see(work{9800, 2000, 1000, 0, 50}, 10)
		p := predict(f, o.row(), variance(f.at(o.row()), o.wall))
		in(&look, o.cpu, p.Low, p.High)
		draw := f.draws()
		low, high := interval(func(rng *rand.Rand) float64 { return cpuLine(draw(rng), w).fits(1.4) })
		in(&answer, want, low, high)
	}
	for name, c := range map[string]int{"a message": message, "a reconnect": login, "a new look": look,
		"the answer": answer} {
		// 95 % ± 3 standard errors of 300 tries; weights are estimated too, which costs a little.
		if share := float64(c) / n; share < .9 || share > .995 {
			t.Errorf("%.1f %% of the intervals of %s hold the truth, of 95 %%", 100*share, name)
		}
	}
}
