//go:build unix

package lab

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// detach puts the process into a group of its own: the terminal's Ctrl-C is for
// us, and we stop the nodes in order.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// Detach puts a process into a session of its own: it goes on when the terminal is
// gone.
func Detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

func terminate(p *os.Process) error     { return p.Signal(syscall.SIGTERM) }
func pauseProcess(p *os.Process) error  { return p.Signal(syscall.SIGSTOP) }
func resumeProcess(p *os.Process) error { return p.Signal(syscall.SIGCONT) }

// killed reports whether what Wait returned is of a process that SIGKILL ended.
func killed(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}
