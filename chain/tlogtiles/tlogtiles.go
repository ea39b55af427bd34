// Package tlogtiles has the names and contents of the resources that c2sp.org/tlog-tiles
// defines for a log: tiles of hashes and bundles of entries. It is pure.
package tlogtiles

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/exonode/exonode/chain"
)

// CheckpointPath is where the newest signed checkpoint is.
const CheckpointPath = "checkpoint"

// ErrPath is wrapped by Parse's errors: no tile has that path.
var ErrPath = errors.New("not the path of a tile")

// ErrBundle is wrapped where bytes are not a bundle of entries.
var ErrBundle = errors.New("not an entry bundle")

// Tile names a tile, or a bundle of entries.
type Tile struct {
	// Entries says that it is a bundle; Level is 0 then.
	Entries bool
	// Level is 0 (leaf hashes) to chain.TileLevels-1.
	Level int
	// Index is the tile's within its level.
	Index uint64
	// Width is how many hashes or entries it has, 1 to chain.TileWidth.
	Width int
}

// Path returns the tile's path under the log's prefix, without a slash before it:
// "tile/0/x001/067.p/5", "tile/entries/000".
func (t Tile) Path() string {
	n := fmt.Sprintf("%03d", t.Index%1000)
	for rest := t.Index / 1000; rest > 0; rest /= 1000 {
		n = fmt.Sprintf("x%03d/%s", rest%1000, n)
	}
	level := strconv.Itoa(t.Level)
	if t.Entries {
		level = "entries"
	}
	if t.Width < chain.TileWidth {
		return fmt.Sprintf("tile/%s/%s.p/%d", level, n, t.Width)
	}
	return fmt.Sprintf("tile/%s/%s", level, n)
}

// End returns how many leaves a tree must have for the tile to be in it, and false
// where no tree has that many.
func (t Tile) End() (size uint64, ok bool) {
	shift := chain.TileHeight * t.Level
	hashes := t.Index*chain.TileWidth + uint64(t.Width)
	if t.Index >= 1<<(63-chain.TileHeight) || hashes > 1<<63>>shift {
		return 0, false
	}
	return hashes << shift, true
}

// Parse reads a path, and nothing that Path would not write. The error wraps ErrPath.
func Parse(path string) (Tile, error) {
	bad := func(why string) (Tile, error) { return Tile{}, fmt.Errorf("%w: %q: %s", ErrPath, path, why) }
	rest, ok := strings.CutPrefix(path, "tile/")
	level, rest, more := strings.Cut(rest, "/")
	if !ok || !more {
		return bad("want tile/<level>/<index> or tile/entries/<index>")
	}
	t := Tile{Entries: level == "entries", Width: chain.TileWidth}
	var err error
	if !t.Entries {
		if t.Level, err = strconv.Atoi(level); err != nil || t.Level < 0 || t.Level >= chain.TileLevels {
			return bad(fmt.Sprintf("level %q, want 0 to %d or entries", level, chain.TileLevels-1))
		}
	}
	if number, width, partial := strings.Cut(rest, ".p/"); partial {
		rest = number
		if t.Width, err = strconv.Atoi(width); err != nil || t.Width < 1 || t.Width >= chain.TileWidth {
			return bad(fmt.Sprintf("width %q, want 1 to %d", width, chain.TileWidth-1))
		}
	}
	if t.Index, err = strconv.ParseUint(strings.NewReplacer("x", "", "/", "").Replace(rest), 10, 63); err != nil || t.Path() != path {
		return bad("want the index as three digits, with x before all but the last three, as x001/067, and plain numbers")
	}
	return t, nil
}

// AppendEntry appends an entry to a bundle: its length as two bytes, big-endian, then
// the entry, of at most 65,535 bytes (a header has at most 60,000).
func AppendEntry(bundle, entry []byte) []byte {
	return append(binary.BigEndian.AppendUint16(bundle, uint16(len(entry))), entry...)
}

// ReadBundle returns the entries of a bundle, as parts of it. The error wraps
// ErrBundle.
func ReadBundle(bundle []byte) ([][]byte, error) {
	var entries [][]byte
	for len(bundle) > 0 {
		if len(bundle) < 2 || len(bundle)-2 < int(binary.BigEndian.Uint16(bundle)) {
			return nil, fmt.Errorf("%w: entry %d is cut off", ErrBundle, len(entries))
		}
		end := 2 + int(binary.BigEndian.Uint16(bundle))
		entries, bundle = append(entries, bundle[2:end:end]), bundle[end:]
	}
	return entries, nil
}
