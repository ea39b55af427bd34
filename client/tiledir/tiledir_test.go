package tiledir_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/tlogtiles"
	"github.com/exonode/exonode/client/tiledir"
)

const origin = "exonode/e0000000000000000000000000000000/0"

// testLog is a log in memory, up to a size.
type testLog struct {
	name    string
	entries [][]byte
	tree    chain.Tree
	full    map[[2]uint64][]byte

	mu sync.Mutex // guards asked
	// asked counts tiles by path; lie, where set, changes what is answered.
	asked map[string]int
	lie   func(tile tlogtiles.Tile, b []byte) ([]byte, error)
}

// newLog returns a log whose entries from fork on are another log's.
func newLog(name string, size, fork uint64) *testLog {
	l := &testLog{name: name, full: map[[2]uint64][]byte{}, asked: map[string]int{}}
	l.grow(size, fork)
	return l
}

func (l *testLog) grow(size, fork uint64) {
	for n := l.tree.Size(); n < size; n++ {
		e := fmt.Appendf(nil, "entry %d", n)
		if n >= fork {
			e = append(e, " of a fork"...)
		}
		l.append(e)
	}
}

func (l *testLog) append(e []byte) {
	l.entries = append(l.entries, e)
	l.tree.Append(e, func(level int, index uint64, tile []byte) { l.full[[2]uint64{uint64(level), index}] = tile })
}

// lying returns the log with answers that lie makes of its own.
func (l *testLog) lying(lie func(tile tlogtiles.Tile, b []byte) ([]byte, error)) *testLog {
	return &testLog{name: l.name, entries: l.entries, tree: l.tree, full: l.full, asked: map[string]int{}, lie: lie}
}

func (l *testLog) ReadTile(level int, index uint64, width int) ([]byte, error) {
	tile, ok := l.full[[2]uint64{uint64(level), index}]
	if !ok {
		return nil, chain.ErrNotFound
	}
	return tile[:32*width], nil
}

// Tile implements tiledir.Source.
func (l *testLog) Tile(_ context.Context, tile tlogtiles.Tile) ([]byte, error) {
	l.mu.Lock()
	l.asked[tile.Path()]++
	l.mu.Unlock()
	var b []byte
	if tile.Entries {
		from := tile.Index * chain.TileWidth
		for _, e := range l.entries[from : from+uint64(tile.Width)] {
			b = tlogtiles.AppendEntry(b, e)
		}
	} else {
		hashes, err := l.tree.Reader(l).ReadTile(tile.Level, tile.Index, tile.Width)
		if err != nil {
			return nil, err
		}
		b = bytes.Clone(hashes[:32*tile.Width])
	}
	if l.lie != nil {
		return l.lie(tile, b)
	}
	return b, nil
}

// note signs the tree of a size that the log has.
func (l *testLog) note(t testing.TB, size uint64) *checkpoint.Note {
	t.Helper()
	root, err := chain.RootAt(size, l.tree.Reader(l))
	if err != nil {
		t.Fatal(err)
	}
	s, err := checkpoint.NewLogSigner(l.name, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	n := &checkpoint.Note{Checkpoint: checkpoint.Checkpoint{Origin: l.name, Size: size, Root: root}}
	signature, err := s.Sign(&n.Checkpoint, 0)
	if err != nil {
		t.Fatal(err)
	}
	n.Add(signature)
	return n
}

// whole checks that everything a published checkpoint speaks of is there and right, and
// returns its size; 0 also where there is no checkpoint.
func whole(read func(path string) ([]byte, error)) (uint64, error) {
	b, err := read("checkpoint")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	n, err := checkpoint.ParseNote(b)
	if err != nil {
		return 0, err
	}
	size := n.Checkpoint.Size
	want := map[string][]byte{}
	var tree chain.Tree
	for from := uint64(0); from < size; from += chain.TileWidth {
		tile := tlogtiles.Tile{Entries: true, Index: from / chain.TileWidth, Width: int(min(chain.TileWidth, size-from))}
		b, err := read(tile.Path())
		if err != nil {
			return 0, err
		}
		entries, err := tlogtiles.ReadBundle(b)
		if err != nil || len(entries) != tile.Width {
			return 0, fmt.Errorf("%s: %d entries, %w", tile.Path(), len(entries), err)
		}
		for _, e := range entries {
			tree.Append(e, func(level int, index uint64, hashes []byte) {
				want[tlogtiles.Tile{Level: level, Index: index, Width: chain.TileWidth}.Path()] = hashes
			})
		}
	}
	for level := range chain.TileLevels {
		if index, hashes := tree.Partial(level); len(hashes) > 0 {
			want[tlogtiles.Tile{Level: level, Index: index, Width: len(hashes) / 32}.Path()] = hashes
		}
	}
	for path, hashes := range want {
		if b, err := read(path); err != nil || !bytes.Equal(b, hashes) {
			return 0, fmt.Errorf("%s is another: %w", path, err)
		}
	}
	if tree.Root() != n.Checkpoint.Root {
		return 0, fmt.Errorf("root %v, the checkpoint says %v", tree.Root(), n.Checkpoint.Root)
	}
	return size, nil
}

func wholeDir(t testing.TB, dir string, want uint64) {
	t.Helper()
	size, err := whole(func(path string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, path)) })
	if err != nil || size != want {
		t.Errorf("the directory publishes %d entries, want %d: %v", size, want, err)
	}
}

// files lists a directory.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o444 != 0o444 {
			t.Errorf("%s has mode %v: a web server can't read it", path, info.Mode())
		}
		rel, err := filepath.Rel(dir, path)
		out = append(out, filepath.ToSlash(rel))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// partialDirs are the directories of partial tiles.
func partialDirs(t *testing.T, dir string) map[string]bool {
	out := map[string]bool{}
	if _, err := os.Stat(dir); err != nil {
		return out
	}
	for _, f := range files(t, dir) {
		if d, _, ok := strings.Cut(f, ".p/"); ok {
			out[d] = true
		}
	}
	return out
}

func TestWrite(t *testing.T) {
	l := newLog(origin, 66_100, 1<<63)
	dir := filepath.Join(t.TempDir(), "a", "log")
	var from uint64
	for _, size := range []uint64{0, 1, 2, 255, 256, 257, 300, 511, 512, 1300, 65_535, 65_536, 65_537, 66_100} {
		clear(l.asked)
		partials := partialDirs(t, dir)
		var told uint64
		report, err := tiledir.Write(t.Context(), tiledir.Config{Dir: dir, Source: l, Progress: func(done uint64) { told = done }}, l.note(t, size))
		if err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		wholeDir(t, dir, size)
		if report.From != from || report.Size != size || told != size || report.Files == 0 {
			t.Errorf("size %d: %+v, told %d", size, report, told)
		}
		for d := range partialDirs(t, dir) {
			delete(partials, d)
		}
		if report.Removed != len(partials) {
			t.Errorf("size %d after %d: %d removed, and %v are gone", size, from, report.Removed, partials)
		}
		for path := range l.asked {
			tile, err := tlogtiles.Parse(path)
			if end, ok := tile.End(); err != nil || !ok || end <= from && tile.Width == chain.TileWidth {
				t.Errorf("size %d after %d asks for %s", size, from, path)
			}
		}
		// Again: nothing is asked for and nothing is written.
		clear(l.asked)
		if again, err := tiledir.Write(t.Context(), tiledir.Config{Dir: dir, Source: l}, l.note(t, size)); err != nil || again.Files != 0 || len(l.asked) != 0 || again.From != size {
			t.Errorf("size %d again: %+v, %v, asked for %v", size, again, err, l.asked)
		}
		from = size
	}
	// Of what the tree had as partial tiles, only those of tiles that are partial still
	// are there, and nothing else.
	for _, path := range files(t, dir) {
		if path == "checkpoint" {
			continue
		}
		tile, err := tlogtiles.Parse(path)
		if err != nil {
			t.Error(err)
		}
		if end, _ := (tlogtiles.Tile{Level: tile.Level, Index: tile.Index, Width: chain.TileWidth}).End(); tile.Width < chain.TileWidth && end <= from {
			t.Errorf("%s is left, a full tile has it", path)
		}
	}
	// The same tree with other cosignatures: the checkpoint alone is written.
	n := l.note(t, from)
	n.Add(checkpoint.Signature{Name: "w", KeyID: 1, Bytes: []byte{1}})
	if report, err := tiledir.Write(t.Context(), tiledir.Config{Dir: dir, Source: l}, n); err != nil || report.Files != 1 {
		t.Errorf("cosigned again: %+v, %v", report, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "checkpoint")); err != nil || !bytes.Equal(b, n.Bytes()) {
		t.Errorf("cosigned again: %q, %v", b, err)
	}
}

// TestRefuses: whatever is wrong is told as what it is, and what was published stays.
func TestRefuses(t *testing.T) {
	const had = 3000
	honest := newLog(origin, had+1000, 1<<63)
	published := t.TempDir()
	if _, err := tiledir.Write(t.Context(), tiledir.Config{Dir: published, Source: honest}, honest.note(t, had)); err != nil {
		t.Fatal(err)
	}
	lying := honest.lying
	flip := func(when func(tlogtiles.Tile) bool) *testLog {
		return lying(func(tile tlogtiles.Tile, b []byte) ([]byte, error) {
			if when(tile) {
				b[len(b)-1] ^= 1
			}
			return b, nil
		})
	}
	forkLast, forkEdge := newLog(origin, had+1000, had-10), newLog(origin, had+1000, had-1)
	forkIn, forkOut := newLog(origin, had+1000, 500), newLog(origin, had+1000, had)
	other := newLog("example.com/log", had+1000, 1<<63)
	broken := errors.New("the line is cut")
	for name, c := range map[string]struct {
		source tiledir.Source
		note   *checkpoint.Note
		change string // a file that is changed before
		want   error
		fork   bool
	}{
		"other log":                          {source: other, note: other.note(t, had+1000), want: tiledir.ErrOther},
		"no checkpoint":                      {source: honest, note: honest.note(t, had+1000), change: "checkpoint", want: tiledir.ErrOther},
		"damaged leaf":                       {source: honest, note: honest.note(t, had+1000), change: "tile/0/011.p/184", want: tiledir.ErrDamaged},
		"damaged bundle's tile":              {source: honest, note: honest.note(t, had+1000), change: "tile/0/010", want: tiledir.ErrDamaged},
		"missing tile":                       {source: honest, note: honest.note(t, had+1000), change: "-tile/0/011.p/184", want: tiledir.ErrDamaged},
		"unreadable tile":                    {source: honest, note: honest.note(t, had+1000), change: "+tile/0/011.p/184", want: syscall.EISDIR},
		"damaged, older":                     {source: honest, note: honest.note(t, 1000), change: "tile/0/003", want: tiledir.ErrDamaged},
		"older":                              {source: honest, note: honest.note(t, 1000), want: tiledir.ErrBehind},
		"older fork":                         {source: forkIn, note: forkIn.note(t, had-1000), fork: true},
		"fork of the same size":              {source: forkIn, note: forkIn.note(t, had), fork: true},
		"fork below":                         {source: forkIn, note: forkIn.note(t, had+1000), fork: true},
		"fork of the last bundle, full now":  {source: forkLast, note: forkLast.note(t, had+1000), fork: true},
		"fork of the last bundle":            {source: forkLast, note: forkLast.note(t, had+1), fork: true},
		"fork of the last entry":             {source: forkEdge, note: forkEdge.note(t, had+1), fork: true},
		"fork of the last bundle, full tree": {source: forkEdge, note: forkEdge.note(t, 3072), fork: true},
		"leaf hash that was there":           {source: flip(func(x tlogtiles.Tile) bool { return !x.Entries && x.Level == 0 && x.Index == 11 }), note: honest.note(t, had+1000), want: tiledir.ErrSource},
		"fork, one entry more":               {source: forkIn, note: forkIn.note(t, had+1), fork: true},
		"entry":                              {source: flip(func(x tlogtiles.Tile) bool { return x.Entries && x.Index == 12 }), note: honest.note(t, had+1000), want: tiledir.ErrSource},
		"entry of the last":                  {source: flip(func(x tlogtiles.Tile) bool { return x.Entries && x.Width < 256 }), note: honest.note(t, had+1000), want: tiledir.ErrSource},
		"leaf hash":                          {source: flip(func(x tlogtiles.Tile) bool { return !x.Entries && x.Level == 0 }), note: honest.note(t, had+1000), want: tiledir.ErrSource},
		"bundle's root":                      {source: flip(func(x tlogtiles.Tile) bool { return x.Level == 1 }), note: honest.note(t, had+1000), want: tiledir.ErrSource},
		"another chain's tiles":              {source: forkOut, note: honest.note(t, had+1000), want: tiledir.ErrSource},
		"a fork's tiles":                     {source: forkIn, note: honest.note(t, had+1000), want: tiledir.ErrSource}, // and the checkpoint is no fork
		"short":                              {source: lying(func(_ tlogtiles.Tile, b []byte) ([]byte, error) { return b[:len(b)-1], nil }), note: honest.note(t, had+1000), want: tiledir.ErrSource},
		"short bundle":                       {source: lying(func(x tlogtiles.Tile, b []byte) ([]byte, error) { return b[:len(b)-b2i(x.Entries)], nil }), note: honest.note(t, had+1000), want: tiledir.ErrSource},
		"no answer":                          {source: lying(func(tlogtiles.Tile, []byte) ([]byte, error) { return nil, broken }), note: honest.note(t, had+1000), want: broken},
		"no answer for a bundle":             {source: lying(func(x tlogtiles.Tile, b []byte) ([]byte, error) { return b, map[bool]error{true: broken}[x.Entries] }), note: honest.note(t, had+1000), want: broken},
		"changing its answers":               {source: once(honest), note: honest.note(t, had+1000), want: tiledir.ErrSource},
		"not a checkpoint":                   {source: honest, note: &checkpoint.Note{}, want: checkpoint.ErrFormat},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(published)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, strings.TrimLeft(c.change, "+-"))
			switch {
			case c.change == "":
			case c.change[0] == '-' || c.change[0] == '+':
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if c.change[0] == '+' { // a directory in its place
					if err := os.Mkdir(path, 0o755); err != nil {
						t.Fatal(err)
					}
				}
			case c.change == "checkpoint": // its first line and no more
				if err := os.WriteFile(path, []byte(origin), 0o644); err != nil {
					t.Fatal(err)
				}
			default:
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				b[7] ^= 1
				if err := os.WriteFile(path, b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			_, err := tiledir.Write(t.Context(), tiledir.Config{Dir: dir, Source: c.source}, c.note)
			var fork *tiledir.ForkError
			if c.fork != errors.As(err, &fork) || !c.fork && !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v, fork %v", err, c.want, c.fork)
			}
			if c.fork && (fork.Offered != c.note || fork.Published.Checkpoint.Size != had || !strings.Contains(err.Error(), "rewritten")) {
				t.Errorf("%+v: %v", fork, err)
			}
			if errors.Is(c.want, syscall.EISDIR) && errors.Is(err, tiledir.ErrDamaged) {
				t.Errorf("what can't be read is said to be damaged: %v", err)
			}
			if c.change == "" {
				wholeDir(t, dir, had)
				// What was left behind does not stand in the way of what is right.
				if _, err := tiledir.Write(t.Context(), tiledir.Config{Dir: dir, Source: honest}, honest.note(t, had+1000)); err != nil {
					t.Error(err)
				}
				wholeDir(t, dir, had+1000)
				if slices.ContainsFunc(files(t, dir), func(f string) bool { return strings.HasPrefix(f, ".") }) {
					t.Error("files are left aside")
				}
			}
		})
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// once is a log that answers wrongly the first time.
func once(l *testLog) *testLog {
	var mu sync.Mutex
	seen := map[string]bool{}
	return l.lying(func(tile tlogtiles.Tile, b []byte) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		if !seen[tile.Path()] {
			seen[tile.Path()] = true
			b[0] ^= 1
		}
		return b, nil
	})
}

// TestRefusesFirst: nothing is published before, and what comes is not what is signed.
func TestRefusesFirst(t *testing.T) {
	l, other := newLog(origin, 3000, 1<<63), newLog(origin, 3000, 2000)
	dir := t.TempDir()
	if _, err := tiledir.Write(t.Context(), tiledir.Config{Dir: dir, Source: other}, l.note(t, 3000)); !errors.Is(err, tiledir.ErrSource) {
		t.Errorf("%v", err)
	}
	for _, path := range files(t, dir) {
		t.Errorf("%s is there", path)
	}
}

// TestRefusesForeignFiles: a directory without a checkpoint, with a file where a tile goes.
func TestRefusesForeignFiles(t *testing.T) {
	l := newLog(origin, 300, 1<<63)
	dir := t.TempDir()
	path := filepath.Join(dir, "tile", "0", "000")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := tiledir.Write(t.Context(), tiledir.Config{Dir: dir, Source: l}, l.note(t, 300)); !errors.Is(err, tiledir.ErrOther) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
	if b, err := os.ReadFile(path); string(b) != "mine" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	wholeDir(t, dir, 0)
}

// TestBusy: another run publishes while one is under way. It is found out at the end, or
// before, since its files aside go with the other's.
func TestBusy(t *testing.T) {
	l := newLog(origin, 600, 1<<63)
	for name, c := range map[string]struct {
		during func(dir string) error
		want   error
	}{
		"checkpoint": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "checkpoint"), l.note(t, 600).Bytes(), 0o644)
		}, tiledir.ErrBusy},
		"a whole run": {func(dir string) error {
			_, err := tiledir.Write(t.Context(), tiledir.Config{Dir: dir, Source: l}, l.note(t, 600))
			return err
		}, fs.ErrNotExist},
	} {
		dir := t.TempDir()
		var during sync.Once
		slow := l.lying(func(_ tlogtiles.Tile, b []byte) ([]byte, error) {
			during.Do(func() {
				if err := c.during(dir); err != nil {
					t.Error(err)
				}
			})
			return b, nil
		})
		if _, err := tiledir.Write(t.Context(), tiledir.Config{Dir: dir, Source: slow}, l.note(t, 500)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "checkpoint")); err != nil || !bytes.Equal(b, l.note(t, 600).Bytes()) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestCanceled(t *testing.T) {
	l := newLog(origin, 20_000, 1<<63)
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	_, err := tiledir.Write(ctx, tiledir.Config{Dir: dir, Source: l, Progress: func(uint64) { cancel() }}, l.note(t, 20_000))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	wholeDir(t, dir, 0)
}
