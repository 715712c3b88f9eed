// Package result is the result of a run: plain data that is written as JSON. The package bench
// makes it; report shows it, slo judges it, and compare compares results of servers and commits. It
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

// Format is the version of the JSON. [Load] refuses others.
const Format = 1

// A Run is the result of one run of one scenario against one server.
type Run struct {
	Format   int       `json:"format"`   // Format is the version of this type.
	Scenario Scenario  `json:"scenario"` // Scenario is what was run.
	Target   Target    `json:"target"`   // Target is the server that was measured.
	Machine  Machine   `json:"machine"`  // Machine is where canto-bench ran.
	Tool     Tool      `json:"tool"`     // Tool is the canto-bench that ran it.
	Began    time.Time `json:"began"`    // Began is when the first phase began.
	Seconds  float64   `json:"seconds"`  // Seconds from Began to the end.
	// Partial says why the run ended before its last phase did; "": it did not.
	Partial string `json:"partial,omitempty"`
	// Workers is over how many processes the clients were spread.
	Workers int `json:"workers"`
	// Sessions is the highest number of sessions that were bound at a time.
	Sessions int      `json:"sessions"`
	Base     *Sample  `json:"base,omitempty"` // Base is a sample before any client was connected.
	Phases   []Phase  `json:"phases"`         // Phases are in the order in which they ran.
	Steps    []Step   `json:"steps"`          // Steps are the kinds of operations, by phase.
	Samples  []Sample `json:"samples"`        // Samples are in the order of time.
	// Figures are what tables, requirements and comparisons name.
	Figures []Figure `json:"figures"`
	// Refusals are the kinds of failure, the most frequent first.
	Refusals []Failure `json:"refusals,omitempty"`
	// Warnings make figures of this run doubtful: the client was the bottleneck, the machine was full.
	// Reports show them in red.
	Warnings []string `json:"warnings,omitempty"`
	// Files were left beside the result: profiles, flame graphs.
	Files []File `json:"files,omitempty"`
}

// A Scenario is what was run.
type Scenario struct {
	Name   string `json:"name"`   // Name of the scenario.
	About  string `json:"about"`  // About says what it measures.
	Source string `json:"source"` // Source is its TOML, with what the command line changed.
}

// A Target is the server that was measured.
type Target struct {
	Name string `json:"name"` // Name in tables: "canto", "prosody (generational)".
	// Software is what the server reports (XEP-0092), or the name of its package.
	Software string `json:"software"`
	Version  string `json:"version"`          // Version of the software.
	Commit   string `json:"commit,omitempty"` // Commit that it was built from; "": unknown.
	Addr     string `json:"addr"`             // Addr that clients connected to.
	Domain   string `json:"domain"`           // Domain of the accounts.
	// TLS is "none", "starttls" or "direct", with version and cipher suite.
	TLS       string `json:"tls"`
	Mechanism string `json:"mechanism"` // Mechanism of SASL.
	// Config is the text of its configuration, if canto-bench wrote it.
	Config string `json:"config,omitempty"`
	PIDs   []int  `json:"pids,omitempty"` // PIDs of its processes, if they ran on this machine.
}

// A Machine is where canto-bench ran.
type Machine struct {
	CPU         string `json:"cpu"`          // CPU is the model.
	Cores       int    `json:"cores"`        // Cores that the process may use.
	Memory      int64  `json:"memory_bytes"` // Memory in bytes.
	OS          string `json:"os"`           // OS is the distribution.
	Kernel      string `json:"kernel"`       // Kernel is its release.
	Descriptors uint64 `json:"descriptors"`  // Descriptors is the limit of a process.
	Load        string `json:"load"`         // Load averages over 1, 5 and 15 minutes, before the run.
}

// A Tool is the canto-bench that ran a scenario.
type Tool struct {
	Version string `json:"version"`          // Version of canto-bench.
	Commit  string `json:"commit,omitempty"` // Commit that it was built from; "": unknown.
	Go      string `json:"go"`               // Go is the version of the toolchain.
	Command string `json:"command"`          // Command runs the same again.
}

// A Phase is one stretch of a run.
type Phase struct {
	Name string `json:"name"` // Name is unique in a run.
	// Kind is one of bench's: ramp, hold, storm, befriend, join, carbons, sm, csi, push, fill, settle, cut,
	// restart, drain.
	Kind     string  `json:"kind"`
	From     float64 `json:"from"`     // From and To are seconds since Run.Began.
	To       float64 `json:"to"`       // To: see From.
	Sessions int     `json:"sessions"` // Sessions that were bound at its end.
	// Resting are clients without a connection at its end that can resume their session.
	Resting int `json:"resting,omitempty"`
	// Server is what the server's processes used during the phase; nil where they can't be sampled.
	Server *Usage `json:"server,omitempty"`
	Client Usage  `json:"client"` // Client is what the processes of the clients used.
	// Slabs is how many bytes each of the kernel's slab caches has grown by since the time before any
	// client was connected. Caches with less than a hundredth of all are left out. Only a settle has
	// it, if root measures a server of this machine.
	Slabs map[string]int64 `json:"slabs,omitempty"`
}

// A Step is one kind of operation in one phase, with its counts.
type Step struct {
	Phase string `json:"phase"` // Phase that it ran in.
	// Name is login, chat, presence, roster, groupchat, archive and so on.
	Name string `json:"name"`
	// Open: the latency of an operation counts from the time at which it was due, whether or not it
	// was sent then. Otherwise (a closed loop) it counts from when it was sent.
	Open bool `json:"open"`
	// Receivers is how many deliveries an operation caused, on average.
	Receivers float64 `json:"receivers"`
	Intended  uint64  `json:"intended"` // Intended are the operations that were due.
	Sent      uint64  `json:"sent"`     // Sent are those that were sent.
	// Expected are the deliveries, or answers, that they should cause.
	Expected uint64 `json:"expected"`
	Done     uint64 `json:"done"` // Done are the deliveries that came, each counted once.
	// Lost are the deliveries that had not come when the run ended.
	Lost       uint64 `json:"lost"`
	Duplicated uint64 `json:"duplicated"` // Duplicated are deliveries that came again.
	// Reordered are deliveries that came after a later one of the same sender.
	Reordered uint64 `json:"reordered"`
	// Failed are deliveries that were answered by an error, or could not be sent.
	Failed uint64 `json:"failed"`
	// Wrong are stanzas that came and are not as they must be: a copy for another session, a page with a
	// hole. A page counts as Done, too, and a copy does not.
	Wrong uint64 `json:"wrong,omitempty"`
	Late  uint64 `json:"late"` // Late are deliveries that took longer than LateAfter.
	// Unsent are operations that were due in the phase and were not sent: the rate was beyond the
	// client.
	Unsent    uint64     `json:"unsent"`
	LateAfter float64    `json:"late_after_ms"` // LateAfter in ms.
	Latency   *Histogram `json:"latency"`       // Latency of the deliveries.
	Lag       *Histogram `json:"lag"`           // Lag is how much later than due operations were sent.
}

// An Interval is what a step did during one sample.
type Interval struct {
	Sent   uint64  `json:"sent"`             // Sent operations.
	Done   uint64  `json:"done"`             // Done deliveries.
	Failed uint64  `json:"failed,omitempty"` // Failed deliveries.
	P50    float64 `json:"p50_ms"`           // P50 and the following are percentiles of latency, in ms.
	P90    float64 `json:"p90_ms"`           // P90: the 90th percentile.
	P99    float64 `json:"p99_ms"`           // P99: the 99th percentile.
	P999   float64 `json:"p999_ms"`          // P999: the 99.9th percentile.
	Max    float64 `json:"max_ms"`           // Max is the highest latency, in ms.
}

// A Sample is one second of a run, or longer if so was asked for.
type Sample struct {
	At       float64             `json:"at"`              // At is when it ended, in seconds since Run.Began.
	Phase    string              `json:"phase"`           // Phase that was running.
	Sessions int                 `json:"sessions"`        // Sessions that were bound.
	Steps    map[string]Interval `json:"steps,omitempty"` // Steps by name.
	// Server is what the server's processes used; nil where they can't be sampled.
	Server *Usage `json:"server,omitempty"`
	Client Usage  `json:"client"` // Client is what the processes of the clients used.
	// LagP99 is how late the clients' event loops ran, in ms.
	LagP99 float64 `json:"lag_p99_ms"`
	// Metrics are the server's own, by name; the scraper picks them.
	Metrics map[string]float64 `json:"metrics,omitempty"`
}

// Usage is what processes have used: CPU and context switches in a stretch of time, and the rest at
// its end.
type Usage struct {
	CPU  float64 `json:"cpu_s"`     // CPU is user and system time, in seconds.
	User float64 `json:"user_s"`    // User is the user time in it.
	RSS  int64   `json:"rss_bytes"` // RSS is resident memory.
	// PSS is RSS with shared pages counted in part. It is expensive, and 0 where it was not read.
	PSS         int64 `json:"pss_bytes,omitempty"`
	FDs         int   `json:"fds,omitempty"`             // FDs are open file descriptors.
	Threads     int   `json:"threads,omitempty"`         // Threads of all processes.
	Voluntary   int64 `json:"ctx_voluntary,omitempty"`   // Voluntary context switches.
	Involuntary int64 `json:"ctx_involuntary,omitempty"` // Involuntary context switches.
	// Sockets is the kernel's memory for TCP on the whole machine (or network namespace), of both
	// ends.
	Sockets int64 `json:"socket_bytes,omitempty"`
	// Slab is the kernel's memory for all of its structures, with caches of files.
	Slab int64 `json:"slab_bytes,omitempty"`
}

// Add adds what other processes have used in the same time. Sockets are those of the machine, and
// are not added up.
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

// Since is the usage between two moments, before and u: the difference of the fields that count up
// (CPU, User and context switches), and the others as they are in u.
func (u Usage) Since(before Usage) Usage {
	u.CPU -= before.CPU
	u.User -= before.User
	u.Voluntary -= before.Voluntary
	u.Involuntary -= before.Involuntary
	return u
}

// A Figure is one number of a run that a table, a requirement or a comparison may name.
type Figure struct {
	// Name is "<phase>.<step>.<what>" or "<phase>.<what>", such as "talk.chat.p99_ms".
	Name   string  `json:"name"`
	Value  float64 `json:"value"`  // Value in Unit.
	Unit   string  `json:"unit"`   // Unit is ms, us, s, bytes, 1/s, count, cores or ratio.
	Better string  `json:"better"` // Better is "lower" or "higher".
	About  string  `json:"about"`  // About says what it is.
}

// A Failure is a kind of failure, with its count.
type Failure struct {
	What   string `json:"what"`   // What happened.
	Remedy string `json:"remedy"` // Remedy is what the operator can do about it.
	Count  uint64 `json:"count"`  // Count of its occurrences.
}

// A File was left beside the result.
type File struct {
	Name  string  `json:"name"`  // Name relative to the result.
	Kind  string  `json:"kind"`  // Kind is cpu, heap, mutex, block, trace or flame.
	Phase string  `json:"phase"` // Phase that it was captured in.
	At    float64 `json:"at"`    // At is when, in seconds since Run.Began.
}

// Progress is the state of a run, for a live view.
type Progress struct {
	Scenario      string        // Scenario that is running.
	Target        string        // Target is the server's name.
	Phase         string        // Phase that is running.
	Kind          string        // Kind of the phase.
	Index, Phases int           // Index of the phase, from 0, and how many there are.
	Elapsed       time.Duration // Elapsed time of the phase.
	// Length of the phase; 0: it ends when what it waits for has happened.
	Length    time.Duration
	Now, Goal int      // Now and Goal count what such a phase waits for; 0: nothing can be counted.
	Waiting   string   // Waiting names it: "sessions bound".
	Sample    Sample   // Sample is the last one.
	Warnings  []string // Warnings so far.
}

// Figure returns the figure of that name.
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

// Save writes r to a file, which Load reads.
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

// Load reads a file that Save has written. The error is one line with a remedy.
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
		return nil, fmt.Errorf("%s has format %d, and this canto-bench reads %d: run the scenario again",
			name, r.Format, Format)
	}
	return r, nil
}

// Nearest is the name of the figure that has most words in common with name, for an error.
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
