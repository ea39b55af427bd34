package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/evidence"
)

// Files of a state directory. The hashes of the verified tree lie in one file for each
// level of tiles, one after the other, and the state names the last checkpoint under
// which they were verified. They are 32 bytes for each entry, and let the monitor prove
// what the log said before, also when the log serves it no more.
//
// A file of hashes is only appended to; what is beyond the state's size counts for
// nothing. Where a recovery took entries away, the hashes go into files of the next
// generation.
const (
	stateName    = "state.json"
	stateVersion = 1
	// newSuffix ends the name of a file that is being written.
	newSuffix = ".new"
)

func hashesName(generation uint64, level int) string {
	return fmt.Sprintf("hashes-%d.%d", generation, level)
}

// state is what was verified. It is not changed once it is made.
type state struct {
	note *checkpoint.Note
	tree *chain.Tree
	// headers says that the leaves are headers of a chain; then tip is the last one.
	headers    bool
	tip        evidence.Tip
	epochs     []epochStart
	generation uint64
}

// epochStart is where an epoch of the chain begins.
type epochStart struct {
	Epoch uint64 `json:"epoch"`
	Start uint64 `json:"start"`
	// Before is the encoded header before it, which shows that the epoch had not
	// begun there; nil where Start is 0.
	Before []byte `json:"before,omitempty"`
}

func (s *state) size() uint64 { return s.note.Checkpoint.Size }

// stateFile is the state as it is on disk, but the tree.
type stateFile struct {
	Note       string       `json:"note"`
	Headers    bool         `json:"headers"`
	Tip        evidence.Tip `json:"tip"`
	Epochs     []epochStart `json:"epochs"`
	Generation uint64       `json:"generation"`
}

type versioned struct {
	Version int             `json:"version"`
	State   json.RawMessage `json:"state"`
	// Digest is the SHA-256 leaf hash over State, which tells a damaged file.
	Digest chain.Hash `json:"digest"`
}

func encodeState(s *state) ([]byte, error) {
	inner, err := json.Marshal(stateFile{string(s.note.Bytes()), s.headers, s.tip, s.epochs, s.generation})
	if err != nil {
		return nil, err
	}
	return json.Marshal(versioned{stateVersion, inner, chain.LeafHash(inner)})
}

// decodeState reads a state, without its tree.
func decodeState(b []byte) (*state, error) {
	var v versioned
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, err
	}
	if v.Version != stateVersion {
		return nil, fmt.Errorf("version %d, want %d", v.Version, stateVersion)
	}
	if chain.LeafHash(v.State) != v.Digest {
		return nil, errors.New("its content does not have its digest")
	}
	var f stateFile
	if err := json.Unmarshal(v.State, &f); err != nil {
		return nil, err
	}
	note, err := checkpoint.ParseNote([]byte(f.Note))
	if err != nil {
		return nil, err
	}
	if f.Headers && (f.Tip.Size != note.Checkpoint.Size || len(f.Epochs) == 0) {
		return nil, fmt.Errorf("the last header is entry %d of %d", f.Tip.Size, note.Checkpoint.Size)
	}
	return &state{note: note, headers: f.Headers, tip: f.Tip, epochs: f.Epochs, generation: f.Generation}, nil
}

// store keeps a state in a directory.
type store struct{ fs FS }

// hashes reads the tiles of what was verified.
type hashes struct {
	store      store
	generation uint64
}

// ReadTile implements chain.TileReader.
func (h hashes) ReadTile(level int, index uint64, width int) ([]byte, error) {
	b := make([]byte, width*len(chain.Hash{}))
	if err := h.store.fs.ReadAt(hashesName(h.generation, level), b, int64(index)*int64(chain.TileSize)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	return b, nil
}

// load returns the state, nil where there is none yet.
func (s store) load() (*state, error) {
	b, err := s.fs.ReadFile(stateName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("monitor: %w: %w", ErrState, err)
	}
	st, err := decodeState(b)
	if err != nil {
		return nil, fmt.Errorf("monitor: %w: %s is damaged: %w", ErrState, stateName, err)
	}
	// What was read may come from a rename that a crash caught before its directory
	// was synced: make it so before relying on it.
	if err := s.fs.SyncDir(); err != nil {
		return nil, fmt.Errorf("monitor: %w: %w", ErrState, err)
	}
	if st.tree, err = chain.OpenTree(st.size(), hashes{s, st.generation}); err != nil {
		return nil, fmt.Errorf("monitor: %w: the hashes: %w", ErrState, err)
	}
	if root := st.tree.Root(); root != st.note.Checkpoint.Root {
		return nil, fmt.Errorf("monitor: %w: the hashes have root %v, verified was %v", ErrState, root, st.note.Checkpoint.Root)
	}
	return st, nil
}

// save makes a state the one that load returns. Its hashes are synced already.
//
// Commit point: the sync of the directory. After a crash before it, the old state or the
// new one is there, and the hashes of both.
func (s store) save(st *state) error {
	b, err := encodeState(st)
	if err == nil {
		err = s.replace(stateName, b)
	}
	if err != nil {
		return fmt.Errorf("monitor: %w: %w", ErrState, err)
	}
	return s.clean(st.generation)
}

// clean removes files of other generations, and what writing left behind.
func (s store) clean(generation uint64) error {
	names, err := s.fs.List()
	if err != nil {
		return fmt.Errorf("monitor: %w: %w", ErrState, err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "hashes-") && !strings.HasPrefix(name, fmt.Sprintf("hashes-%d.", generation)) {
			if err := s.fs.Remove(name); err != nil {
				return fmt.Errorf("monitor: %w: %w", ErrState, err)
			}
		}
	}
	return nil
}

// replace writes a file whole: after a crash the old one is there or the new one.
func (s store) replace(name string, b []byte) error {
	if err := s.fs.WriteFile(name+newSuffix, b); err != nil {
		return err
	}
	if err := s.fs.Rename(name+newSuffix, name); err != nil {
		return err
	}
	return s.fs.SyncDir()
}

// copyHashes begins a generation with the first size entries of another one.
func (s store) copyHashes(from, to, size uint64) error {
	buf := make([]byte, 128*chain.TileSize)
	for level := range chain.TileLevels {
		end := int64(size>>(chain.TileHeight*level)) * int64(len(chain.Hash{}))
		for at := int64(0); at < end; at += int64(len(buf)) {
			part := buf[:min(int64(len(buf)), end-at)]
			if err := s.fs.ReadAt(hashesName(from, level), part, at); err != nil {
				return fmt.Errorf("monitor: %w: %w", ErrState, err)
			}
			if err := s.fs.WriteAt(hashesName(to, level), part, at); err != nil {
				return fmt.Errorf("monitor: %w: %w", ErrState, err)
			}
		}
	}
	return nil
}

// grower appends leaves to a tree, and their hashes to its files.
type grower struct {
	store      store
	generation uint64
	tree       *chain.Tree
	// levels are the hashes that are not written yet, and where they belong.
	levels [chain.TileLevels]struct {
		pending []byte
		offset  int64
		// done is how much of the level's partial tile pending has, or the file.
		done int
	}
	err error
}

// writeAt is how many bytes of hashes are written at a time.
const writeAt = 1 << 20

func (s store) grow(tree *chain.Tree, generation uint64) *grower {
	g := &grower{store: s, generation: generation, tree: tree.Clone()}
	for level := range g.levels {
		n := tree.Size() >> (chain.TileHeight * level)
		g.levels[level].offset = int64(n) * int64(len(chain.Hash{}))
		g.levels[level].done = int(n%chain.TileWidth) * len(chain.Hash{})
	}
	return g
}

func (g *grower) add(entry []byte) error {
	g.tree.Append(entry, func(level int, _ uint64, tile []byte) {
		l := &g.levels[level]
		l.pending = append(l.pending, tile[l.done:]...)
		if l.done = 0; len(l.pending) >= writeAt {
			g.write(level)
		}
	})
	return g.err
}

func (g *grower) write(level int) {
	l := &g.levels[level]
	if len(l.pending) == 0 || g.err != nil {
		return
	}
	if err := g.store.fs.WriteAt(hashesName(g.generation, level), l.pending, l.offset); err != nil {
		g.err = fmt.Errorf("monitor: %w: %w", ErrState, err)
	}
	l.offset += int64(len(l.pending))
	l.pending = l.pending[:0]
}

// flush writes and syncs all. The files are there for good once their directory is
// synced, which save does before the state says anything of them; a crash in between
// leaves the older state, which needs nothing of them.
func (g *grower) flush() error {
	for level := range g.levels {
		l := &g.levels[level]
		if _, partial := g.tree.Partial(level); len(partial) > l.done {
			l.pending = append(l.pending, partial[l.done:]...)
			l.done = len(partial)
		}
		g.write(level)
		if g.err == nil && l.offset > 0 {
			if err := g.store.fs.Sync(hashesName(g.generation, level)); err != nil {
				g.err = fmt.Errorf("monitor: %w: %w", ErrState, err)
			}
		}
	}
	if g.err == nil {
		if err := g.store.fs.SyncDir(); err != nil {
			g.err = fmt.Errorf("monitor: %w: %w", ErrState, err)
		}
	}
	return g.err
}
