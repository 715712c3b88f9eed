package capacity

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"

	"canto/bench/report"
)

// Text writes the plan to w for an operator, with its columns aligned. In order: the number of
// sessions and the limit that binds, the profile, all limits, the fitted costs of memory and CPU
// with their margins, the check (predicted and seen), the warnings, and the machine. It returns
// the error of the write.
func (pl *Plan) Text(w io.Writer) error {
	b := new(strings.Builder)
	p := pl.Profile
	name := report.Clean(pl.Target.Name)
	fmt.Fprintf(b, "%s on this machine holds %s sessions of the profile %q (95 %%: %s).\n", name,
		sessions(pl.Sessions, pl.Low, pl.High), report.Clean(p.Name), between(pl.Low, pl.High))
	if len(pl.Limits) > 0 {
		l := pl.Limits[0]
		fmt.Fprintf(b, "What binds is %s: %s. For more: %s.\n", l.Name, l.Of, l.Remedy)
	}
	fmt.Fprintf(b, "A session in an hour: %g messages of %d bytes, %g changes of presence to %d "+
		"contacts, %g reconnects; tls %s.\n", p.Messages, p.Body, p.Presence, p.Contacts, p.Reconnects, p.TLS)

	b.WriteString("\nLimit\tsessions\t95 %\tof\n")
	for _, l := range pl.Limits {
		mark := ""
		if l.Widened {
			mark = " (widened: see the check)"
		}
		fmt.Fprintf(b, "%s\t%s\t%s\t%s%s\n", l.Name, sessions(l.Sessions, l.Low, l.High),
			between(l.Low, l.High), l.Of, mark)
	}

	fmt.Fprintf(b, "\nFitted\t\t95 %%\tin %d stretches with %s sessions\n", pl.CPU.N, steps(pl.Steps))
	row := func(what string, v, margin float64, unit, about string) {
		if margin == 0 {
			fmt.Fprintf(b, "%s\t%s\t\t%s\n", what, report.Amount(v, unit), about)
			return
		}
		fmt.Fprintf(b, "%s\t%s\t± %s\t%s\n", what, report.Amount(v, unit), report.Amount(margin, unit), about)
	}
	row("memory of the server", pl.RSS.Beta[0], pl.RSS.margin(0), "bytes",
		"without clients, by the fit through the steps")
	row("memory a session", pl.RSS.Beta[1], pl.RSS.margin(1), "bytes", "of the server, under load")
	if pl.Kernel != nil && kernelShare(pl.Kernel.Beta) > leastKernel {
		row("kernel a session", kernelShare(pl.Kernel.Beta), pl.Kernel.margin(1)/2, "bytes",
			fmt.Sprintf("half of what it grew by with both ends, and %d bytes for an inode", inode))
	} else {
		row("kernel a session", leastKernel, 0, "bytes", "what it has at least: what it grew by could not be seen")
	}
	if pl.Sockets != nil && pl.Sockets.Beta[1] > pl.Sockets.margin(1) {
		row("buffered a session", pl.Sockets.Beta[1]/2, pl.Sockets.margin(1)/2, "bytes", "in TCP sockets")
	}
	c := pl.CPU
	row("CPU at rest", c.Beta[atRest], c.margin(atRest), "s", "in a second")
	row("CPU a session", c.Beta[perSession]*3600, c.margin(perSession)*3600, "s",
		"in an hour in which it does nothing")
	row("CPU a message", c.Beta[perMessage], c.margin(perMessage), "s", "")
	if p.Contacts > 0 {
		row("CPU a presence", c.Beta[perDelivery], c.margin(perDelivery), "s", "to each contact")
	}
	row("CPU a reconnect", c.Beta[perReturn], c.margin(perReturn), "s",
		fmt.Sprintf("and %d contacts that see it, at a moderate rate", p.Contacts))
	row("CPU a first login", c.Beta[perLogin], c.margin(perLogin), "s", "without contacts, of many at once")

	if ch := pl.Check; ch != nil {
		fmt.Fprintf(b, "\nCheck\tpredicted\t95 %%\tseen, by a run that the fit did not see: %s sessions, "+
			"the profile %.0f times as fast\n", report.Amount(float64(ch.Sessions), "count"), ch.Speed)
		for _, x := range []struct {
			name, unit string
			p          Prediction
		}{{"memory", "bytes", ch.Memory}, {"CPU", "cores", ch.CPU}} {
			verdict := "within the margin"
			if !x.p.Held() {
				verdict = "outside of the margin, which is widened to it"
			}
			fmt.Fprintf(b, "%s\t%s\t%s to %s\t%s: %+.1f %%, %s\n", x.name, report.Amount(x.p.Predicted, x.unit),
				report.Amount(x.p.Low, x.unit), report.Amount(x.p.High, x.unit),
				report.Amount(x.p.Seen, x.unit), 100*x.p.Off(), verdict)
		}
		if over := pl.Limits[len(pl.Limits)-1].Sessions; over > 10*ch.Sessions {
			fmt.Fprintf(b, "\nAt most %s sessions were seen: limits far beyond are drawn out from there, and "+
				"hold if costs stay as they are.\n", report.Amount(float64(ch.Sessions), "count"))
		}
	}
	for i, warn := range pl.Warnings {
		if i == 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(b, "Doubtful: %s\n", report.Clean(warn))
	}
	fmt.Fprintf(b, "\n%s, %d cores, %s; %.0f s.\n", report.Clean(pl.Machine.CPU), pl.Machine.Cores,
		report.Amount(float64(pl.Machine.Memory), "bytes"), pl.Seconds)
	// The tables' lines have tabs; others pass through.
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	if _, err := io.WriteString(t, b.String()); err != nil {
		return err
	}
	return t.Flush()
}

// rounded is n with the digits that mean something, three.
func rounded(n int) string {
	if n >= unlimited {
		return "over a billion"
	}
	if n >= 1e6 {
		return report.Amount(float64(n)/1e6, "count") + " million"
	}
	if n >= 1000 {
		unit := math.Pow(10, math.Floor(math.Log10(float64(n)))-2)
		return report.Amount(math.Round(float64(n)/unit)*unit, "count")
	}
	return fmt.Sprint(n)
}

// sessions is n with all digits if it is known exactly.
func sessions(n, low, high int) string {
	if low == high && n < unlimited {
		return report.Amount(float64(n), "count")
	}
	return rounded(n)
}

func between(low, high int) string {
	switch {
	case low >= unlimited:
		return "no end was seen"
	case high >= unlimited:
		return rounded(low) + " or more"
	case low == high:
		return "known"
	}
	return rounded(low) + " to " + rounded(high)
}

func steps(n []int) string {
	if len(n) == 0 {
		return "0"
	}
	return report.Amount(float64(n[0]), "count") + " to " + report.Amount(float64(n[len(n)-1]), "count")
}
