package servers

import "syscall"

// ownGroup puts a child in a process group of its own. The child gets SIGKILL when the thread that
// has started it ends.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
