// Package tiledir keeps a log as static files, as c2sp.org/tlog-tiles names them, so that
// any web server or object store serves it: the checkpoint, the tiles of hashes, and the
// bundles of entries.
//
// What a directory publishes is what its checkpoint says. The checkpoint is replaced last,
// once all that it speaks of is on disk, and nothing is written that does not lead to the
// root that it signs. A run that ends early, however it does, leaves the tree that was
// published before, whole.
//
// It verifies no signatures: whose checkpoint it is, the caller knows.
package tiledir

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/tlogtiles"
)

// Errors of Write. After each of them the directory publishes what it did before.
var (
	// ErrOther: the directory holds another log, or files that are not a log's where a
	// tile or the checkpoint belongs. The caller takes another directory.
	ErrOther = errors.New("the directory is not this log's")
	// ErrDamaged: the directory's tiles do not have the root of its own checkpoint. The
	// caller removes the directory and begins anew.
	ErrDamaged = errors.New("the directory's tiles are not those of its checkpoint")
	// ErrBehind: the checkpoint is an older one than the directory's, and agrees with it.
	// The caller gets a newer one.
	ErrBehind = errors.New("the checkpoint is older than the directory's")
	// ErrSource: what the source gave is not what the checkpoint signs. The caller takes
	// another source, and has this one checked.
	ErrSource = errors.New("not what the checkpoint signs")
	// ErrBusy: another run replaced the checkpoint meanwhile.
	ErrBusy = errors.New("the directory's checkpoint was replaced meanwhile")
)

// ForkError says that two checkpoints of one log contradict each other: no tree has both
// roots. With the log's signatures on both, they prove that the log was rewritten or told
// two stories. The caller keeps both.
type ForkError struct {
	// Published is the directory's, Offered the one that is not written.
	Published, Offered *checkpoint.Note
}

// Error implements error.
func (e *ForkError) Error() string {
	p, o := &e.Published.Checkpoint, &e.Offered.Checkpoint
	return fmt.Sprintf("the log was rewritten: the published checkpoint of %d entries with root %v and the new one of %d entries with root %v are of no common tree",
		p.Size, p.Root, o.Size, o.Root)
}

// Source has a log's tiles. It is safe for concurrent use.
type Source interface {
	// Tile returns a tile's hashes, or a bundle, of exactly the tile's width.
	Tile(ctx context.Context, tile tlogtiles.Tile) ([]byte, error)
}

// Config says what is written where.
type Config struct {
	// Dir is the directory; it is made where it is missing.
	Dir    string
	Source Source
	// Files is nil for those of the operating system.
	Files Files
	// Progress, where not nil, is told how many of the tree's entries are there. It is
	// not called concurrently.
	Progress func(done uint64)
}

// Report is what Write did.
type Report struct {
	// From is the size of the tree that was published before, Size of the one that is
	// now.
	From, Size uint64
	Root       chain.Hash
	// Files were written, with so many bytes in all.
	Files int
	Bytes int64
	// Removed is how many partial tiles a full one replaced.
	Removed int
}

// parallel is how many bundles are fetched and written at once: a disk syncs several files
// in about the time of one, and a node answers from all its cores.
const parallel = 16

// scratch is where files are until they are whole, within the directory: of one file
// system with it.
const scratch = ".export"

// Write makes the directory publish the tree of a note's checkpoint, which the source has.
// Only what is missing is fetched and written: what a directory has of a smaller tree stays
// as it is. Of two calls that write one directory at once, one fails.
//
// It takes about a quarter of a byte of memory for each new entry. The error wraps one of
// this package's, is a *ForkError, or is the source's or the file system's.
func Write(ctx context.Context, cfg Config, note *checkpoint.Note) (Report, error) {
	w := &writer{cfg: cfg, files: cfg.Files, note: note, dirs: map[string]bool{}}
	w.scratch = filepath.Join(w.path(scratch), rand.Text())
	if w.files == nil {
		w.files = osFiles{}
	}
	c := &note.Checkpoint
	w.report = Report{Size: c.Size, Root: c.Root}
	if err := c.Validate(); err != nil {
		return w.report, err
	}
	before, err := w.open()
	if err != nil {
		return w.report, err
	}
	w.report.From = before.Size()
	if err := w.write(ctx, before); err != nil {
		return w.report, err
	}
	return w.report, nil
}

// writer is one call of Write.
type writer struct {
	cfg   Config
	files Files
	note  *checkpoint.Note
	// scratch is of this run alone.
	scratch string
	// old is what was published before, as its file has it; nil is nothing.
	old []byte
	// published is old, read.
	published *checkpoint.Note

	mu     sync.Mutex // guards what follows, and calls of Progress
	dirs   map[string]bool
	temps  int
	done   uint64
	report Report
}

// path is where a resource of the log is.
func (w *writer) path(name string) string { return filepath.Join(w.cfg.Dir, filepath.FromSlash(name)) }

// open reads what is published: the edge of its tree, which has its checkpoint's root.
func (w *writer) open() (*chain.Tree, error) {
	var err error
	if w.old, err = w.files.ReadFile(w.path(tlogtiles.CheckpointPath)); errors.Is(err, fs.ErrNotExist) {
		return new(chain.Tree), nil
	} else if err != nil {
		return nil, err
	}
	if w.published, err = checkpoint.ParseNote(w.old); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrOther, w.path(tlogtiles.CheckpointPath), err)
	}
	c := &w.published.Checkpoint
	if c.Origin != w.note.Checkpoint.Origin {
		return nil, fmt.Errorf("%w: it has %q, and this is %q", ErrOther, c.Origin, w.note.Checkpoint.Origin)
	}
	tree, err := chain.OpenTree(c.Size, w)
	if err != nil {
		return nil, damaged(err)
	}
	if root := tree.Root(); root != c.Root {
		return nil, fmt.Errorf("%w: they have root %v, it says %v", ErrDamaged, root, c.Root)
	}
	return tree, nil
}

// damaged says why the published tree can't be had: a file that can't be read says nothing
// about what is in it.
func damaged(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// ReadTile implements chain.TileReader: the published tree's.
func (w *writer) ReadTile(level int, index uint64, _ int) ([]byte, error) {
	hashes := w.published.Checkpoint.Size >> (chain.TileHeight * level)
	tile := tlogtiles.Tile{Level: level, Index: index, Width: int(min(chain.TileWidth, hashes-index*chain.TileWidth))}
	return w.files.ReadFile(w.path(tile.Path()))
}

// write goes from the published tree to the note's.
func (w *writer) write(ctx context.Context, before *chain.Tree) error {
	c := &w.note.Checkpoint
	switch {
	case c.Size < before.Size():
		return w.older()
	case c.Size == before.Size() && w.published != nil && c.Root != w.published.Checkpoint.Root:
		return &ForkError{w.published, w.note}
	}
	if bytes.Equal(w.old, w.note.Bytes()) {
		return nil
	}
	if err := w.files.MkdirAll(w.scratch); err != nil {
		return err
	}
	if c.Size > before.Size() {
		after, err := grow(ctx, w.cfg.Source, before, c.Size)
		if err != nil {
			return err
		}
		if root := after.tree.Root(); root != c.Root || !after.extends {
			return w.mismatch(ctx, root)
		}
		if err := w.tiles(ctx, before, after); err != nil {
			return err
		}
	}
	if err := w.publish(); err != nil {
		return err
	}
	// From here on the new tree is there, and nothing below takes from it. With the
	// files go those that earlier runs did not bring to their places; a run that
	// still goes on fails.
	if err := errors.Join(w.removePartials(before.Size()), w.files.RemoveAll(w.path(scratch))); err != nil {
		return fmt.Errorf("the tree of %d entries is published, but not all that it makes superfluous is removed: %w", c.Size, err)
	}
	return nil
}

// tiles brings all files but the checkpoint to their places, and has them and their
// directories synced.
func (w *writer) tiles(ctx context.Context, before *chain.Tree, after *grown) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	w.done = before.Size()
	for i := after.first; i*chain.TileWidth < after.tree.Size(); i++ {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return w.bundle(ctx, after, i)
		})
	}
	for _, m := range after.full {
		g.Go(func() error { return w.put(m.tile, m.hashes) })
	}
	for level := 1; level < chain.TileLevels; level++ {
		if index, hashes := after.tree.Partial(level); len(hashes) > 0 {
			g.Go(func() error {
				return w.put(tlogtiles.Tile{Level: level, Index: index, Width: len(hashes) / hashSize}, hashes)
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for dir := range w.dirs {
		if err := w.files.Sync(dir); err != nil {
			return err
		}
	}
	return nil
}

// bundle fetches a bundle, holds it against the tree, and writes it with the tile over it.
func (w *writer) bundle(ctx context.Context, after *grown, index uint64) error {
	from := index * chain.TileWidth
	width := int(min(chain.TileWidth, after.tree.Size()-from))
	tile := tlogtiles.Tile{Entries: true, Index: index, Width: width}
	b, err := w.cfg.Source.Tile(ctx, tile)
	if err != nil {
		return fmt.Errorf("get entries %d to %d: %w", from, from+uint64(width)-1, err)
	}
	entries, err := tlogtiles.ReadBundle(b)
	if err != nil || len(entries) != width {
		return fmt.Errorf("%w: %s has %d whole entries", ErrSource, tile.Path(), len(entries))
	}
	var t chain.Tree
	var hashes []byte
	for _, e := range entries {
		t.Append(e, func(level int, _ uint64, tile []byte) { hashes = tile })
	}
	if width < chain.TileWidth {
		_, hashes = t.Partial(0)
	}
	if !after.has(index, t.Root(), hashes) {
		return fmt.Errorf("%w: entries %d to %d are others", ErrSource, from, from+uint64(width)-1)
	}
	if err := w.put(tile, b); err != nil {
		return err
	}
	tile.Entries = false
	if err := w.put(tile, hashes); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done += from + uint64(width) - max(from, w.report.From)
	if w.cfg.Progress != nil {
		w.cfg.Progress(w.done)
	}
	return nil
}

// put writes a tile that is not there yet. What is there and differs is not this log's, and
// may be all that somebody has of another: it stays.
func (w *writer) put(tile tlogtiles.Tile, b []byte) error {
	path := w.path(tile.Path())
	there, err := w.files.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := w.files.MkdirAll(filepath.Dir(path)); err != nil {
			return err
		}
		err = w.place(path, b)
	case err == nil && !bytes.Equal(there, b):
		return fmt.Errorf("%w: %s is there with other content", ErrOther, path)
	}
	if err != nil {
		return err
	}
	// Also of a file that was there: whoever wrote it may not have got that far.
	w.mu.Lock()
	defer w.mu.Unlock()
	root := filepath.Clean(w.cfg.Dir)
	for dir := filepath.Dir(path); !w.dirs[dir]; dir = filepath.Dir(dir) {
		w.dirs[dir] = true
		if dir == root {
			break
		}
	}
	return nil
}

// place writes a file aside, syncs it, and brings it to its place.
func (w *writer) place(path string, b []byte) (err error) {
	w.mu.Lock()
	temp := filepath.Join(w.scratch, strconv.Itoa(w.temps))
	w.temps++
	w.mu.Unlock()
	f, err := w.files.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := w.files.Rename(temp, path); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.report.Files++
	w.report.Bytes += int64(len(b))
	return nil
}

// publish replaces the checkpoint. The rename is the commit point.
func (w *writer) publish() error {
	path := w.path(tlogtiles.CheckpointPath)
	now, err := w.files.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !bytes.Equal(now, w.old) {
		return ErrBusy
	}
	if err := w.place(path, w.note.Bytes()); err != nil {
		return err
	}
	if err := w.files.Sync(w.cfg.Dir); err != nil {
		return err
	}
	// The directory itself may be new. That its parent can't be opened says that it
	// is not ours.
	if err := w.files.Sync(filepath.Dir(filepath.Clean(w.cfg.Dir))); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// removePartials removes the partial tiles of the tree before that are full now, of every
// width: the specification lets a log do so, and readers of an older checkpoint take the
// full tile. What a run that was killed leaves of them stays, and harms nobody.
func (w *writer) removePartials(before uint64) error {
	for _, entries := range []bool{true, false} {
		for level := range chain.TileLevels {
			was, is := before>>(chain.TileHeight*level), w.report.Size>>(chain.TileHeight*level)
			if was%chain.TileWidth == 0 || was/chain.TileWidth == is/chain.TileWidth || entries && level > 0 {
				continue
			}
			tile := tlogtiles.Tile{Entries: entries, Level: level, Index: was / chain.TileWidth, Width: 1}
			if err := w.files.RemoveAll(filepath.Dir(w.path(tile.Path()))); err != nil {
				return err
			}
			w.report.Removed++
		}
	}
	return nil
}
