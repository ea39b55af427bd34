package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ProcessUse is what a process used until the end of the cells: a node from its
// start, this process from when the cluster ran.
type ProcessUse struct {
	Name   string `json:"name"`
	Leader bool   `json:"leader"`
	// CPUSeconds are user and system time.
	CPUSeconds float64 `json:"cpu_seconds"`
	// Resident is the memory at the end of the cells, Peak the most at any
	// time.
	Resident uint64 `json:"resident_bytes"`
	Peak     uint64 `json:"peak_resident_bytes"`
	// Written is what the process had the disks write.
	Written uint64 `json:"written_bytes"`
}

// process is a process of this machine, by what /proc says of it. Where there
// is no /proc everything is zero.
type process struct {
	name, api string
	pid       int
	// cpuBefore and writtenBefore are what it had used when the cells began:
	// this process has measured the limits by then.
	cpuBefore     time.Duration
	writtenBefore uint64
}

func newProcess(name, api string, pid int) *process {
	p := &process{name: name, api: api, pid: pid}
	if pid == os.Getpid() {
		p.cpuBefore, p.writtenBefore = p.cpu(), procFile(pid, "io")["write_bytes"]
	}
	return p
}

// ticksPerSecond is USER_HZ, the unit of times in /proc: 100 on every platform
// that Go runs on.
const ticksPerSecond = 100

// cpu is the time of stat's fields utime and stime, proc_pid_stat(5).
func (p *process) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return 0
	}
	// The second field is the name in parentheses and may hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseUint(fields[11], 10, 64)
	system, _ := strconv.ParseUint(fields[12], 10, 64)
	return time.Duration(user+system) * time.Second / ticksPerSecond
}

func (p *process) use(leader string) ProcessUse {
	status, io := procFile(p.pid, "status"), procFile(p.pid, "io")
	return ProcessUse{
		Name: p.name, Leader: p.api != "" && p.api == leader, CPUSeconds: (p.cpu() - p.cpuBefore).Seconds(),
		Resident: status["VmRSS"] << 10, Peak: status["VmHWM"] << 10, Written: io["write_bytes"] - p.writtenBefore,
	}
}

// procFile reads the numbers of a file with a name and a value in each line.
func procFile(pid int, name string) map[string]uint64 {
	out := make(map[string]uint64)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(b)) {
		key, rest, _ := strings.Cut(line, ":")
		if value := strings.Fields(rest); len(value) > 0 {
			if n, err := strconv.ParseUint(value[0], 10, 64); err == nil {
				out[key] = n
			}
		}
	}
	return out
}

// loadAverage is the machine's, "" where it does not tell.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(b))
	return strings.Join(fields[:min(3, len(fields))], " ")
}

// fileSystem is the type of the file system that holds a directory, as the
// mount table has it; "" where it does not tell.
func fileSystem(dir string) string {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return ""
	}
	best, kind := "", ""
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		at := strings.TrimSuffix(f[1], "/")
		if (dir == at || strings.HasPrefix(dir, at+"/")) && len(at) >= len(best) {
			best, kind = at, f[2]
		}
	}
	return kind
}
