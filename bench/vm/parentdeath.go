package vm

import (
	"runtime"
	"syscall"
)

// killWithParent ends a child with the thread that made it.
func killWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// thread keeps the caller's thread for it.
func thread() { runtime.LockOSThread() }
