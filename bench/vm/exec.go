package vm

import (
	"runtime"
	"syscall"
)

// dieWithUs ends a child with the thread that made it.
func dieWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// thread keeps the caller's thread for it.
func thread() { runtime.LockOSThread() }
