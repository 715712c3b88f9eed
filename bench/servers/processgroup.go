package servers

import "syscall"

// ownGroup puts a child in a process group of its own, which ends with the thread that made it.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
