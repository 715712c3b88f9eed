package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"canto/bench/vm"
)

// vmCmd is the command vm.
type vmCmd struct {
	Clients   int           `help:"Number of clients." default:"100000" placeholder:"N"`
	TLS       string        `name:"tls" help:"TLS of the clients: none, starttls or direct." default:"direct" placeholder:"KIND"`
	Mechanism string        `help:"SASL mechanism of the clients." placeholder:"NAME"`
	Scenario  string        `help:"Name of a built-in scenario (see canto-bench scenarios), or a TOML file." default:"growth"`
	Memory    int64         `help:"Memory of the guest in MiB; 0: 2 GiB, and 40 KiB for each client." placeholder:"MIB"`
	Cores     int           `help:"Cores of the guest." default:"2"`
	CPU       string        `name:"cpu" help:"CPU model of the guest, as QEMU names it." placeholder:"MODEL"`
	Accel     string        `help:"Accelerator of QEMU: tcg (emulation) or kvm." enum:"tcg,kvm" default:"tcg"`
	Kernel    string        `help:"Kernel of the guest; by default the newest /boot/vmlinuz-*-cloud-amd64." placeholder:"FILE"`
	Limit     time.Duration `help:"End the run after this time, and report what was measured." default:"28m"`
	Out       string        `help:"Folder for the results." default:"canto-bench-vm" placeholder:"DIR"`
	Quiet     bool          `short:"q" help:"Do not show the guest's console."`
}

// Run runs the guest.
func (c *vmCmd) Run(w *environment) error {
	if err := firstError(
		atLeast("--clients", c.Clients, 1, "1 or more"),
		atLeast("--memory", c.Memory, 0, "MiB, or 0 for 2 GiB and 40 KiB for each client"),
		atLeast("--cores", c.Cores, 1, "1 or more"),
		atLeast("--limit", c.Limit, time.Minute, "1m or more: the guest has to start"),
		oneOf("--tls", c.TLS, "none", "starttls", "direct"),
		oneOf("--mechanism", c.Mechanism, "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"),
	); err != nil {
		return err
	}
	cfg := vm.Config{Clients: c.Clients, TLS: c.TLS, Mechanism: c.Mechanism, Scenario: c.Scenario,
		Memory: c.Memory << 20, Cores: c.Cores, CPU: c.CPU, Accel: c.Accel, Kernel: c.Kernel,
		Limit: c.Limit, Out: c.Out, Command: w.tool().Command}
	if !c.Quiet {
		cfg.Note = func(s string) { fmt.Fprintln(w.errOut, s) }
	}
	s, err := vm.Run(w.ctx, cfg)
	if s == nil {
		return err
	}
	name, text := filepath.Join(c.Out, "vm.json"), filepath.Join(c.Out, "vm.txt")
	if err := errors.Join(s.Save(name), write(text, s.Text)); err != nil {
		return fmt.Errorf("the result can't be written: %w", err)
	}
	if err := s.Text(w.out); err != nil {
		return err
	}
	fmt.Fprintf(w.out, "\nreport: %s, %s, and report.html beside them\n", text, name)
	switch {
	case err != nil:
		return err
	case s.Partial != "":
		return errors.New(strings.ReplaceAll(s.Partial, "\n", " "))
	}
	return nil
}
