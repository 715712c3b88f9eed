// Package result is what a run of the load suite leaves: plain data that is written as JSON, merged over
// workers, drawn by bench/report, judged by bench/slo and compared between servers and commits. It
// measures nothing itself.
package result

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// Format is the version of the JSON; a reader refuses others.
const Format = 1

// A Run is what one run of one scenario against one server showed.
type Run struct {
	Format   int       `json:"format"`
	Scenario Scenario  `json:"scenario"`
	Target   Target    `json:"target"`
	Machine  Machine   `json:"machine"`
	Tool     Tool      `json:"tool"`
	Began    time.Time `json:"began"`
	Seconds  float64   `json:"seconds"`
	// Partial says why the run ended before its last phase did; empty: it did not.
	Partial  string    `json:"partial,omitempty"`
	Workers  int       `json:"workers"`        // processes that the clients were spread over
	Sessions int       `json:"sessions"`       // most that were bound at a time
	Base     *Sample   `json:"base,omitempty"` // before the first phase: nobody is connected
	Phases   []Phase   `json:"phases"`
	Steps    []Step    `json:"steps"`
	Samples  []Sample  `json:"samples"`
	Figures  []Figure  `json:"figures"`
	Refusals []Failure `json:"refusals,omitempty"`
	// Warnings make figures of this run doubtful (the client was the bottleneck, the machine was busy).
	// Reports show them in red.
	Warnings []string `json:"warnings,omitempty"`
	Files    []File   `json:"files,omitempty"`
}

// A Scenario is what was asked for.
type Scenario struct {
	Name   string `json:"name"`
	About  string `json:"about"`
	Source string `json:"source"` // the TOML, with what the command line changed
}

// A Target is the server that was measured.
type Target struct {
	Name      string `json:"name"`     // what a table calls it: "canto", "prosody (generational)"
	Software  string `json:"software"` // what it says of itself (XEP-0092), or its package's name
	Version   string `json:"version"`
	Commit    string `json:"commit,omitempty"`
	Addr      string `json:"addr"`
	Domain    string `json:"domain"`
	TLS       string `json:"tls"` // "none", "starttls", "direct"; with the version that was agreed on
	Mechanism string `json:"mechanism"`
	Config    string `json:"config,omitempty"` // its configuration, where the suite wrote it
	PIDs      []int  `json:"pids,omitempty"`
}

// A Machine is where it ran.
type Machine struct {
	CPU         string `json:"cpu"`
	Cores       int    `json:"cores"`
	Memory      int64  `json:"memory_bytes"`
	OS          string `json:"os"`
	Kernel      string `json:"kernel"`
	Descriptors uint64 `json:"descriptors"` // limit of a process
	Load        string `json:"load"`        // 1, 5 and 15 minutes' before the run
}

// A Tool is the load suite itself.
type Tool struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	Command string `json:"command"` // that prints this again
}

// A Phase is one stretch of a run.
type Phase struct {
	Name     string  `json:"name"`
	Kind     string  `json:"kind"` // ramp, hold, storm, settle, drain
	From     float64 `json:"from"` // seconds since Began
	To       float64 `json:"to"`
	Sessions int     `json:"sessions"` // bound at its end
	// Server and Client are what the processes used during the phase; RSS and the like at its end. Server
	// is nil where it could not be looked at.
	Server *Usage `json:"server,omitempty"`
	Client Usage  `json:"client"`
	// Slabs is how many bytes the kernel's caches have grown by since nobody was connected, of those that
	// grew by a hundredth of all or more; at the end of a settle, where root measures a server of its machine.
	Slabs map[string]int64 `json:"slabs,omitempty"`
}

// A Step is one kind of operation in one phase, counted from the moment it was meant to begin.
type Step struct {
	Phase string `json:"phase"`
	Name  string `json:"name"` // login, chat, presence, roster, groupchat, archive, ...
	// Open: the latency of each operation counts from the time it was meant to be sent at, whether or not
	// it was sent then. Else (a closed loop) from when it was sent.
	Open bool `json:"open"`
	// Receivers is how many deliveries an operation stands for (1, or the size of an audience).
	Receivers  float64    `json:"receivers"`
	Intended   uint64     `json:"intended"`
	Sent       uint64     `json:"sent"`
	Expected   uint64     `json:"expected"` // deliveries or answers that what was sent must bring
	Done       uint64     `json:"done"`     // that came, each once
	Lost       uint64     `json:"lost"`     // that had not come when the run ended
	Duplicated uint64     `json:"duplicated"`
	Reordered  uint64     `json:"reordered"` // that came behind one which the same sender had sent later
	Failed     uint64     `json:"failed"`    // that were answered by an error
	Late       uint64     `json:"late"`      // over LateAfter
	Unsent     uint64     `json:"unsent"`    // that were due in the phase and that the client did not get to
	LateAfter  float64    `json:"late_after_ms"`
	Latency    *Histogram `json:"latency"`
	Lag        *Histogram `json:"lag"` // how much later than intended the client sent
}

// An Interval is what a step did in one sample.
type Interval struct {
	Sent   uint64  `json:"sent"`
	Done   uint64  `json:"done"`
	Failed uint64  `json:"failed,omitempty"`
	P50    float64 `json:"p50_ms"`
	P90    float64 `json:"p90_ms"`
	P99    float64 `json:"p99_ms"`
	P999   float64 `json:"p999_ms"`
	Max    float64 `json:"max_ms"`
}

// A Sample is one second of a run, or a few, all of it on one time axis.
type Sample struct {
	At       float64             `json:"at"` // seconds since Began: the end of the second
	Phase    string              `json:"phase"`
	Sessions int                 `json:"sessions"`
	Steps    map[string]Interval `json:"steps,omitempty"`
	Server   *Usage              `json:"server,omitempty"`
	Client   Usage               `json:"client"`
	LagP99   float64             `json:"lag_p99_ms"` // how late the clients' loops and schedule were
	// Metrics are the server's own, scraped: by name, picked by the probe.
	Metrics map[string]float64 `json:"metrics,omitempty"`
}

// Usage is what processes have used: CPU since the last sample (or since the phase began), the rest at the
// moment.
type Usage struct {
	CPU         float64 `json:"cpu_s"` // seconds of user and system time
	User        float64 `json:"user_s"`
	RSS         int64   `json:"rss_bytes"`
	PSS         int64   `json:"pss_bytes,omitempty"`
	FDs         int     `json:"fds,omitempty"`
	Threads     int     `json:"threads,omitempty"`
	Voluntary   int64   `json:"ctx_voluntary,omitempty"` // context switches, since as CPU
	Involuntary int64   `json:"ctx_involuntary,omitempty"`
	// Sockets is the kernel's memory for TCP on the whole machine (or network namespace), both ends.
	Sockets int64 `json:"socket_bytes,omitempty"`
	// Slab is the kernel's memory for all of its structures, likewise; caches of files are in it.
	Slab int64 `json:"slab_bytes,omitempty"`
}

// Add adds what other processes have used in the same time. Sockets are those of the machine, and are not added up.
func (u *Usage) Add(o Usage) {
	u.CPU += o.CPU
	u.User += o.User
	u.RSS += o.RSS
	u.PSS += o.PSS
	u.FDs += o.FDs
	u.Threads += o.Threads
	u.Voluntary += o.Voluntary
	u.Involuntary += o.Involuntary
	u.Sockets = max(u.Sockets, o.Sockets)
}

// Since is the usage between two moments, before and u: the difference of the fields that count up (CPU, User and context
// switches), and the others as they are in u.
func (u Usage) Since(before Usage) Usage {
	u.CPU -= before.CPU
	u.User -= before.User
	u.Voluntary -= before.Voluntary
	u.Involuntary -= before.Involuntary
	return u
}

// A Figure is one number of a run that a table, a gate or a comparison may name.
type Figure struct {
	Name   string  `json:"name"` // "<phase>.<step>.<what>" or "<phase>.<what>", e.g. "talk.chat.p99_ms"
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`   // ms, us, s, bytes, 1/s, count, ratio
	Better string  `json:"better"` // "lower" or "higher"
	About  string  `json:"about"`
}

// A Refusal is a kind of failure, counted: what happened, and what to do about it.
type Failure struct {
	What   string `json:"what"`
	Remedy string `json:"remedy"`
	Count  uint64 `json:"count"`
}

// A File was left beside the report: a profile, a flame graph.
type File struct {
	Name  string  `json:"name"` // relative to the report
	Kind  string  `json:"kind"` // cpu, heap, mutex, block, trace, flame
	Phase string  `json:"phase"`
	At    float64 `json:"at"`
}

// Progress is what a live view shows once a second.
type Progress struct {
	Scenario      string
	Target        string
	Phase         string
	Kind          string
	Index, Phases int           // of the phase, from 0; how many there are
	Elapsed       time.Duration // of the phase
	Length        time.Duration // of the phase; 0: until what it waits for has happened
	// Now and Goal are what a phase without a length waits for (sessions bound), 0 where there is none.
	Now, Goal int
	Waiting   string // what for: "sessions bound"
	Sample    Sample
	Warnings  []string
}

// Figure is the figure of that name.
func (r *Run) Figure(name string) (Figure, bool) {
	i := slices.IndexFunc(r.Figures, func(f Figure) bool { return f.Name == name })
	if i < 0 {
		return Figure{}, false
	}
	return r.Figures[i], true
}

// Write writes r as JSON.
func (r *Run) Write(w io.Writer) error {
	r.Format = Format
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(r)
}

// Save writes r to a file.
func (r *Run) Save(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := r.Write(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// Load reads what Save wrote.
func Load(name string) (*Run, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("the result can't be read: %w: name the JSON that a run left", err)
	}
	r := new(Run)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s is not a result of canto-bench: %v: name the JSON that a run left", name, err)
	}
	if r.Format != Format {
		return nil, fmt.Errorf("%s has format %d, and this canto-bench reads %d: run the scenario again", name, r.Format, Format)
	}
	return r, nil
}

// Nearest is the known name that is most like name, for an error's remedy.
func (r *Run) Nearest(name string) string {
	best, most := "", -1
	for _, f := range r.Figures {
		n := 0
		for _, p := range strings.FieldsFunc(name, func(c rune) bool { return c == '.' || c == '_' }) {
			if strings.Contains(f.Name, p) {
				n++
			}
		}
		if n > most {
			best, most = f.Name, n
		}
	}
	return best
}
