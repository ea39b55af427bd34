package crash_test

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// traced are the calls that change files, and those that tell which file a descriptor
// is. What is listed and not understood fails the test where it is seen on a file.
const traced = "openat,close,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,fsync,fdatasync,msync,sync_file_range,copy_file_range," +
	"rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlinkat,dup,dup3"

// needStrace skips the test where calls can't be traced. Whoever gives -must wants it to
// run: it fails then.
func needStrace(t *testing.T) {
	t.Helper()
	if !*must {
		t.Skip("processes, under strace: `make crash` runs them")
	}
	out, err := exec.Command("strace", "-f", "--seccomp-bpf", "-o", os.DevNull, "-e", "trace=close", "true").CombinedOutput()
	if err == nil {
		return
	}
	const text = "strace does not work here (install strace 5.3 or later, and allow ptrace): %v %s"
	if *must {
		t.Fatalf(text, err, out)
	}
	t.Skipf(text, err, out)
}

// call is one system call, or one announcement of the child.
type call struct {
	name   string
	args   []string
	result int64
	// begins and ends say which end of the call this is: calls of several threads
	// overlap.
	begins, ends bool
	id           int
}

var (
	lineStart = regexp.MustCompile(`^(\d+) +(.*)$`)
	resumed   = regexp.MustCompile(`^<\.\.\. (\w+) resumed>(.*)$`)
	whole     = regexp.MustCompile(`^(\w+)\((.*)\) += (-?\d+)`)
	restOf    = regexp.MustCompile(`^(.*)\) += (-?\d+)`)
)

// parse reads strace's record.
func parse(path string) (calls []call, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	open := map[string]call{} // by thread
	in := bufio.NewScanner(f)
	in.Buffer(nil, 64<<20)
	for id := 0; in.Scan(); id++ {
		m := lineStart.FindStringSubmatch(in.Text())
		if m == nil {
			return nil, fmt.Errorf("strace's line %d: %.100q", id, in.Text())
		}
		thread, text := m[1], m[2]
		if strings.HasPrefix(text, "+++") || strings.HasPrefix(text, "---") || strings.HasPrefix(text, "???") || strings.HasPrefix(text, "<... ???") {
			continue // ends and signals; a call that a kill came before
		}
		if begun, ok := strings.CutSuffix(text, " <unfinished ...>"); ok {
			name, args, _ := strings.Cut(begun, "(")
			c := call{name: name, args: splitArgs(args), begins: true, id: id}
			open[thread] = c
			calls = append(calls, c)
			continue
		}
		if m := resumed.FindStringSubmatch(text); m != nil {
			c, rest := open[thread], restOf.FindStringSubmatch(m[2])
			if c.name != m[1] || rest == nil {
				if strings.Contains(m[2], "= ?") {
					continue // the process ended
				}
				return nil, fmt.Errorf("strace's line %d: %.100q", id, text)
			}
			c.args = append(slices.Clone(c.args), splitArgs(rest[1])...)
			c.begins, c.ends = false, true
			c.result, _ = strconv.ParseInt(rest[2], 10, 64)
			calls = append(calls, c)
			continue
		}
		m = whole.FindStringSubmatch(text)
		if m == nil {
			if strings.Contains(text, "= ?") {
				continue
			}
			return nil, fmt.Errorf("strace's line %d: %.100q", id, text)
		}
		c := call{name: m[1], args: splitArgs(m[2]), begins: true, ends: true, id: id}
		c.result, _ = strconv.ParseInt(m[3], 10, 64)
		calls = append(calls, c)
	}
	return calls, in.Err()
}

// splitArgs cuts arguments at commas; with -xx no string has one.
func splitArgs(s string) (args []string) {
	for _, a := range strings.Split(s, ",") {
		if a = strings.TrimSpace(a); a != "" {
			args = append(args, a)
		}
	}
	return args
}

// text decodes a string of strace's, written with -xx.
func text(arg string) ([]byte, error) {
	if strings.HasSuffix(arg, "...") {
		return nil, fmt.Errorf("strace cut a string: %.40s", arg)
	}
	return hex.DecodeString(strings.ReplaceAll(strings.Trim(arg, `"`), `\x`, ""))
}

// machine plays a record on a disk.
type machine struct {
	disk *disk
	// said is the file to which the child announces; heard is told of each.
	said  string
	heard func(line string) error
	// forget, where not nil, says which syncs of a path do nothing: what a test plants.
	forget func(path string) bool

	files map[string]*open // by descriptor
	syncs map[int]syncing  // by call, between its two ends
	paths map[*node]string // for forget
}

// open is an open file.
type open struct {
	at     *node // nil for what is not on the disk
	said   bool
	offset int64
}

// syncing is a sync, and what had been done when it began.
type syncing struct {
	at      *node
	changes []*change
}

func newMachine(d *disk, said string, heard func(string) error) *machine {
	return &machine{disk: d, said: said, heard: heard, files: map[string]*open{}, syncs: map[int]syncing{}, paths: map[*node]string{}}
}

// play does one end of one call.
func (m *machine) play(c call) error {
	if c.begins {
		if err := m.begin(c); err != nil {
			return fmt.Errorf("%s(%.200s): %w", c.name, strings.Join(c.args, ", "), err)
		}
	}
	if c.ends && c.result >= 0 {
		if err := m.end(c); err != nil {
			return fmt.Errorf("%s(%.200s): %w", c.name, strings.Join(c.args, ", "), err)
		}
	}
	return nil
}

// begin is for what may be on disk before a call returns, and what a sync is for.
func (m *machine) begin(c call) error {
	f := m.files[c.args[0]]
	switch c.name {
	case "close":
		delete(m.files, c.args[0])
	case "write", "pwrite64":
		if f == nil {
			return nil
		}
		b, err := text(c.args[1])
		if err != nil {
			return err
		}
		if f.said {
			return m.heard(string(b))
		}
		offset := f.offset
		if c.name == "pwrite64" {
			if offset, err = strconv.ParseInt(c.args[3], 10, 64); err != nil {
				return err
			}
		} else {
			f.offset += int64(len(b))
		}
		f.at.since = append(f.at.since, &change{offset: offset, data: b})
	case "fsync", "fdatasync":
		if f != nil {
			m.syncs[c.id] = syncing{f.at, slices.Clone(f.at.since)}
		}
	case "writev", "pwritev", "pwritev2", "dup", "dup3", "sync_file_range", "copy_file_range":
		if f != nil && !f.said {
			return fmt.Errorf("not understood on a file")
		}
	}
	return nil
}

// end is for what a call has done once it returned.
func (m *machine) end(c call) error {
	switch c.name {
	case "openat":
		return m.open(c)
	case "write", "pwrite64":
		if f := m.files[c.args[0]]; f != nil && strconv.FormatInt(c.result, 10) != c.args[2] {
			return fmt.Errorf("wrote %d bytes", c.result)
		}
	case "fsync", "fdatasync":
		s, ok := m.syncs[c.id]
		delete(m.syncs, c.id)
		if ok && (m.forget == nil || !m.forget(m.paths[s.at])) {
			s.at.synced(s.changes)
		}
	case "ftruncate", "fallocate":
		return m.resize(c)
	case "mkdirat":
		return m.name(c.args[1], newDir())
	case "unlinkat":
		return m.name(c.args[1], nil)
	case "renameat", "renameat2":
		return m.rename(c.args[1], c.args[3])
	case "rename", "unlink", "mkdir", "rmdir", "link", "linkat", "symlinkat", "truncate":
		return fmt.Errorf("not understood")
	}
	return nil
}

func (m *machine) resize(c call) error {
	f := m.files[c.args[0]]
	if f == nil {
		return nil
	}
	if c.name == "ftruncate" {
		size, err := strconv.ParseInt(c.args[1], 10, 64)
		f.at.since = append(f.at.since, &change{offset: size, atMost: true})
		return err
	}
	offset, err := strconv.ParseInt(c.args[2], 10, 64)
	if err != nil {
		return err
	}
	size, err := strconv.ParseInt(c.args[3], 10, 64)
	if c.args[1] != "0" {
		return fmt.Errorf("fallocate with mode %s is not understood", c.args[1])
	}
	f.at.since = append(f.at.since, &change{offset: offset + size})
	return err
}

// open is a descriptor's beginning.
func (m *machine) open(c call) error {
	b, err := text(c.args[1])
	if err != nil {
		return err
	}
	path, fd := filepath.Clean(string(b)), strconv.FormatInt(c.result, 10)
	if path == m.said {
		m.files[fd] = &open{said: true}
		return nil
	}
	if !filepath.IsAbs(path) || path != m.disk.top && !strings.HasPrefix(path, m.disk.top+"/") {
		return nil
	}
	dir, name, at, err := m.disk.find(path)
	if err != nil {
		return err
	}
	flags := strings.Split(c.args[2], "|")
	if slices.Contains(flags, "O_APPEND") {
		return fmt.Errorf("O_APPEND is not understood")
	}
	switch {
	case at == nil && slices.Contains(flags, "O_CREAT"):
		at = new(node)
		dir.set(map[string]*node{name: at})
	case at == nil:
		return fmt.Errorf("the record opens %s, which is not there", path)
	case slices.Contains(flags, "O_TRUNC"):
		at.since = append(at.since, &change{atMost: true})
	}
	m.paths[at] = path
	m.files[fd] = &open{at: at}
	return nil
}

// name sets or removes a path's name.
func (m *machine) name(arg string, to *node) error {
	b, err := text(arg)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(b), m.disk.top+"/") {
		return nil
	}
	dir, name, _, err := m.disk.find(string(b))
	if err != nil {
		return err
	}
	dir.set(map[string]*node{name: to})
	return nil
}

func (m *machine) rename(from, to string) error {
	a, err := text(from)
	if err != nil {
		return err
	}
	b, err := text(to)
	if err != nil {
		return err
	}
	dir, old, at, err := m.disk.find(string(a))
	if err != nil {
		return err
	}
	target, name, _, err := m.disk.find(string(b))
	if err != nil {
		return err
	}
	if dir != target {
		return fmt.Errorf("a rename between directories is not understood")
	}
	dir.set(map[string]*node{old: nil, name: at})
	return nil
}
