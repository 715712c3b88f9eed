//go:build !linux

package vm

import "syscall"

// dieWithUs does nothing here.
func dieWithUs() *syscall.SysProcAttr { return nil }

// thread does nothing here.
func thread() {}
