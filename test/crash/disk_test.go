package crash_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sector is what a disk writes whole or not at all, in bytes.
const sector = 512

// disk is a tree of files as the kernel shows it, and what of it a power cut leaves.
//
// What is promised is POSIX's and no more: fsync of a file is for its content, fsync of
// a directory for the names in it. What was done since may be on disk in any part: of
// each file any sectors, independent of all others; of each directory any of its
// changes, where one rename is one change. ext4 and XFS promise more, since they keep
// the order of names; stores that hold here do not live on that.
type disk struct {
	root *node
	top  string // path of root
}

// node is a file or a directory.
type node struct {
	// names are a directory's entries, nil of a file; kept are those that were synced.
	names, kept map[string]*node
	// content is what was synced of a file.
	content []byte
	// since are the changes since the last sync, oldest first.
	since []*change
}

// change is one call that is not synced.
type change struct {
	// of a file: a write at an offset, or where data is nil a new size.
	offset int64
	data   []byte
	atMost bool // the size cuts; else it only grows the file
	// of a directory: entries that are set, nil removes.
	names map[string]*node
}

func newDir() *node { return &node{names: map[string]*node{}, kept: map[string]*node{}} }

// loadDisk is a disk all of which is synced.
func loadDisk(top string) (*disk, error) {
	root, err := loadNode(top)
	return &disk{root: root, top: top}, err
}

func loadNode(path string) (*node, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		b, err := os.ReadFile(path)
		return &node{content: b}, err
	}
	entries, err := os.ReadDir(path)
	n := newDir()
	for _, e := range entries {
		child, err := loadNode(filepath.Join(path, e.Name()))
		if err != nil {
			return nil, err
		}
		n.names[e.Name()], n.kept[e.Name()] = child, child
	}
	return n, err
}

// find returns the directory and name of a path, and what is there, nil for nothing.
func (d *disk) find(path string) (dir *node, name string, at *node, err error) {
	rel, err := filepath.Rel(d.top, path)
	if err != nil || !filepath.IsLocal(rel) {
		return nil, "", nil, fmt.Errorf("%s lies outside", path)
	}
	at = d.root
	if rel == "." {
		return nil, "", at, nil
	}
	for _, name = range strings.Split(rel, "/") {
		if dir = at; dir == nil || dir.names == nil {
			return nil, "", nil, fmt.Errorf("%s: no such directory", path)
		}
		at = dir.names[name]
	}
	return dir, name, at, nil
}

// set changes entries of a directory.
func (n *node) set(names map[string]*node) {
	for name, child := range names {
		n.put(n.names, name, child)
	}
	n.since = append(n.since, &change{names: names})
}

func (*node) put(names map[string]*node, name string, child *node) {
	if child == nil {
		delete(names, name)
		return
	}
	names[name] = child
}

// synced makes durable the first of the changes: those that a sync began after.
func (n *node) synced(changes []*change) {
	for _, c := range changes {
		i := slices.Index(n.since, c)
		if i < 0 {
			continue // another sync was there before
		}
		n.since = slices.Delete(n.since, i, i+1)
		if n.names == nil {
			n.content = c.apply(n.content, nil)
			continue
		}
		for name, child := range c.names {
			n.put(n.kept, name, child)
		}
	}
}

// apply does a file's change, of a write only the sectors that keep says; nil is all.
func (c *change) apply(b []byte, keep func(sector int64) bool) []byte {
	if c.data == nil {
		if size := int(c.offset); c.atMost && len(b) > size {
			return b[:size:size]
		} else if len(b) < size {
			return append(b, make([]byte, size-len(b))...)
		}
		return b
	}
	for at := c.offset; at < c.offset+int64(len(c.data)); {
		end := min((at/sector+1)*sector, c.offset+int64(len(c.data)))
		if keep == nil || keep(at/sector) {
			if len(b) < int(end) {
				b = append(b, make([]byte, int(end)-len(b))...)
			}
			copy(b[at:end], c.data[at-c.offset:end-c.offset])
		}
		at = end
	}
	return b
}

// luck says what of the unsynced changes a power cut leaves.
type luck struct {
	r *rand.Rand
	// names and data are each one of "none", "all", "some", "first".
	names, data string
}

func newLuck(r *rand.Rand) luck {
	kinds := []string{"none", "all", "some", "some", "first"}
	return luck{r: r, names: kinds[r.IntN(len(kinds))], data: kinds[r.IntN(len(kinds))]}
}

func (l luck) String() string { return l.names + " of the names, " + l.data + " of the data" }

// pick returns which of n changes stay.
func (l luck) pick(kind string, n int) []bool {
	stay := make([]bool, n)
	first := l.r.IntN(n + 1)
	for i := range stay {
		switch kind {
		case "all":
			stay[i] = true
		case "some":
			stay[i] = l.r.IntN(2) == 0
		case "first":
			stay[i] = i < first
		}
	}
	return stay
}

// write makes a directory as the disk may be after a power cut now.
func (d *disk) write(dir string, l luck) error { return d.root.write(dir, l) }

func (n *node) write(path string, l luck) error {
	if n.names == nil {
		return os.WriteFile(path, n.after(l), 0o600)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	names := map[string]*node{}
	for name, child := range n.kept {
		names[name] = child
	}
	for i, stays := range l.pick(l.names, len(n.since)) {
		for name, child := range n.since[i].names {
			if stays {
				n.put(names, name, child)
			}
		}
	}
	order := []string{}
	for name := range names {
		order = append(order, name)
	}
	slices.Sort(order) // the same seed, the same luck
	for _, name := range order {
		if err := names[name].write(filepath.Join(path, name), l); err != nil {
			return err
		}
	}
	return nil
}

// after is a file's content after a power cut.
func (n *node) after(l luck) []byte {
	b := slices.Clone(n.content)
	for i, stays := range l.pick(l.data, len(n.since)) {
		c := n.since[i]
		switch {
		case !stays:
		case l.data == "all" || c.data == nil || l.r.IntN(3) == 0:
			b = c.apply(b, nil)
		default:
			b = c.apply(b, l.torn(c))
		}
	}
	return b
}

// torn is a write of which a part reached the disk: its beginning, its end, or any
// sectors.
func (l luck) torn(c *change) func(int64) bool {
	first, last := c.offset/sector, (c.offset+int64(len(c.data))-1)/sector
	at := first + l.r.Int64N(last-first+2)
	switch l.r.IntN(4) {
	case 0:
		return func(s int64) bool { return s < at }
	case 1:
		return func(s int64) bool { return s >= at }
	case 2:
		return func(s int64) bool { return s != at }
	}
	return func(int64) bool { return l.r.IntN(2) == 0 }
}
