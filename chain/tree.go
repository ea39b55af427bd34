package chain

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"
)

// The layout of the Merkle tree in tiles, as C2SP tlog-tiles has it: tile N of
// level L holds the roots of the perfect subtrees of 256^L leaves that begin at
// leaf N*256^(L+1), 32 bytes each, leftmost first. A tile is full with 256 of
// them; the last one of each level may be partial.
const (
	TileHeight = 8
	TileWidth  = 1 << TileHeight
	// TileSize is the size of a full tile in bytes.
	TileSize = TileWidth * hashSize
	// TileLevels bounds the level of any tile: sequences have 64 bits.
	TileLevels = 64 / TileHeight

	hashSize = len(Hash{})
)

// LeafHash returns the RFC 6962 hash of a leaf, which is an encoded header:
// SHA-256 over a zero byte and the header.
func LeafHash(header []byte) Hash {
	var buf [1024]byte
	return sha256.Sum256(append(append(buf[:0], 0), header...))
}

// NodeHash returns the RFC 6962 hash of an inner node: SHA-256 over a one byte
// and its children.
func NodeHash(left, right Hash) Hash {
	var buf [1 + 2*hashSize]byte
	buf[0] = 1
	copy(buf[1:], left[:])
	copy(buf[1+hashSize:], right[:])
	return sha256.Sum256(buf[:])
}

// EmptyRoot returns the root of a tree without leaves.
func EmptyRoot() Hash { return sha256.Sum256(nil) }

// TileReader reads the tiles of one tree. Implementations say whether they are
// safe for concurrent use; nothing here needs it.
type TileReader interface {
	// ReadTile returns the first width hashes of a tile (1 to TileWidth),
	// or more of them, 32 bytes each; the caller does not change them. A
	// tile that is full in the tree is asked for with any width, the last
	// one of a level never with more than it has.
	ReadTile(level int, index uint64, width int) ([]byte, error)
}

// TileFunc receives a tile that was just completed: TileSize bytes, which stay
// as they are.
type TileFunc func(level int, index uint64, tile []byte)

// Tree is the right edge of a Merkle tree: of each level the tile that is not
// full yet, and the roots of the perfect subtrees that the tree consists of. It
// grows by appending; what is to the left of the edge lies in full tiles, which
// the caller stores. It takes at most 64 KiB, whatever its size. Its zero value
// is the empty tree. Methods other than Append may run concurrently.
type Tree struct {
	size uint64
	// tiles are only appended to within their capacity, and a full tile is
	// replaced by a new array: frozen copies of the slices stay as they are.
	tiles [TileLevels][]byte
	// peaks are the perfect subtrees' roots, largest first: one for each
	// bit that is set in size.
	peaks []Hash
}

// Size returns the number of leaves.
func (t *Tree) Size() uint64 { return t.size }

// Root returns the root over all leaves.
func (t *Tree) Root() Hash {
	if len(t.peaks) == 0 {
		return EmptyRoot()
	}
	r := t.peaks[len(t.peaks)-1]
	for i := len(t.peaks) - 2; i >= 0; i-- {
		r = NodeHash(t.peaks[i], r)
	}
	return r
}

// Append adds an encoded header as the next leaf and calls full, unless nil,
// for each tile that it completes, lower levels first.
func (t *Tree) Append(header []byte, full TileFunc) { t.AppendLeaf(LeafHash(header), full) }

// AppendLeaf adds the next leaf by its leaf hash; see Append.
func (t *Tree) AppendLeaf(leaf Hash, full TileFunc) {
	t.addToTile(0, t.size, &leaf, full)
	t.carry(leaf, 0, full)
}

// appendPerfect adds TileWidth leaves, given as a tile and its root. The size is
// a multiple of TileWidth. The tile is kept by full alone.
func (t *Tree) appendPerfect(tile []byte, root Hash, full TileFunc) {
	if full != nil {
		full(0, t.size>>TileHeight, tile)
	}
	t.addToTile(1, t.size>>TileHeight, &root, full)
	t.carry(root, TileHeight, full)
}

// carry adds a perfect subtree of the given height, whose tile entry is made, to
// the peaks, merging those of equal height as binary addition carries.
func (t *Tree) carry(h Hash, height int, full TileFunc) {
	n := t.size >> height // subtrees of that height before this one
	t.size += 1 << height
	for ; n&1 == 1; n >>= 1 {
		last := len(t.peaks) - 1
		h = NodeHash(t.peaks[last], h)
		t.peaks = t.peaks[:last]
		if height++; height%TileHeight == 0 {
			t.addToTile(height/TileHeight, n>>1, &h, full)
		}
	}
	t.peaks = append(t.peaks, h)
}

// addToTile adds hash n of a level to that level's tile.
func (t *Tree) addToTile(level int, n uint64, h *Hash, full TileFunc) {
	if level == TileLevels {
		return
	}
	if t.tiles[level] == nil {
		t.tiles[level] = make([]byte, 0, TileSize)
	}
	t.tiles[level] = append(t.tiles[level], h[:]...)
	if len(t.tiles[level]) == TileSize {
		tile := t.tiles[level]
		t.tiles[level] = nil
		if full != nil {
			full(level, n>>TileHeight, tile)
		}
	}
}

// Partial returns the hashes of a level's tile that is not full, 32 bytes each,
// and the tile's index. They stay as they are when the tree grows.
func (t *Tree) Partial(level int) (index uint64, hashes []byte) {
	tile := t.tiles[level]
	return t.size >> (TileHeight * level) >> TileHeight, tile[:len(tile):len(tile)]
}

// Clone returns a tree that grows on its own.
func (t *Tree) Clone() *Tree {
	c := &Tree{size: t.size, peaks: append([]Hash(nil), t.peaks...)}
	for i, tile := range t.tiles {
		if tile != nil {
			c.tiles[i] = append(make([]byte, 0, TileSize), tile...)
		}
	}
	return c
}

// Reader returns a reader of the tree as it is now: partial tiles come from the
// edge, all others from stored. It stays valid while t grows, and is as safe
// for concurrent use as stored.
func (t *Tree) Reader(stored TileReader) TileReader {
	return &edgeReader{size: t.size, tiles: t.tiles, stored: stored}
}

type edgeReader struct {
	size   uint64
	tiles  [TileLevels][]byte
	stored TileReader
}

func (r *edgeReader) ReadTile(level int, index uint64, width int) ([]byte, error) {
	if level < TileLevels && index == r.size>>(TileHeight*level)>>TileHeight {
		if tile := r.tiles[level]; len(tile) >= width*hashSize {
			return tile[:len(tile):len(tile)], nil
		}
		return nil, fmt.Errorf("chain: tile %d/%d has no hash %d in a tree of %d", level, index, width-1, r.size)
	}
	return r.stored.ReadTile(level, index, width)
}

// OpenTree rebuilds the edge of a tree of the given size. It reads the partial
// tile of level 0, and the full tiles under the partial tiles of the others: at
// most 255 of each level.
func OpenTree(size uint64, r TileReader) (*Tree, error) {
	t := &Tree{size: size}
	for level := range t.tiles {
		n := size >> (TileHeight * level)
		width := int(n % TileWidth)
		if width == 0 {
			continue
		}
		tile := make([]byte, 0, TileSize)
		if level == 0 {
			b, err := readTile(r, 0, n>>TileHeight, width)
			if err != nil {
				return nil, err
			}
			tile = append(tile, b[:width*hashSize]...)
		} else {
			for i := n - uint64(width); i < n; i++ {
				b, err := readTile(r, level-1, i, TileWidth)
				if err != nil {
					return nil, err
				}
				h := perfectRoot(b)
				tile = append(tile, h[:]...)
			}
		}
		t.tiles[level] = tile
	}
	t.findPeaks()
	return t, nil
}

// Edge returns the hashes of all partial tiles, level 0 first: with the size all
// that it takes to rebuild the tree with NewTree.
func (t *Tree) Edge() []Hash {
	var edge []Hash
	for _, tile := range t.tiles {
		for ; len(tile) > 0; tile = tile[hashSize:] {
			edge = append(edge, Hash(tile))
		}
	}
	return edge
}

// ErrEdge says that an edge does not have the number of hashes that its size
// asks for.
var ErrEdge = errors.New("chain: edge does not fit the tree size")

// NewTree rebuilds a tree from its size and Edge.
func NewTree(size uint64, edge []Hash) (*Tree, error) {
	t := &Tree{size: size}
	for level := range t.tiles {
		width := int(size >> (TileHeight * level) % TileWidth)
		if width > len(edge) {
			return nil, ErrEdge
		}
		if width == 0 {
			continue
		}
		tile := make([]byte, 0, TileSize)
		for i := range width {
			tile = append(tile, edge[i][:]...)
		}
		t.tiles[level], edge = tile, edge[width:]
	}
	if len(edge) != 0 {
		return nil, ErrEdge
	}
	t.findPeaks()
	return t, nil
}

// findPeaks computes the peaks from the partial tiles.
func (t *Tree) findPeaks() {
	t.peaks = t.peaks[:0]
	for level := TileLevels - 1; level >= 0; level-- {
		for tile := t.tiles[level]; len(tile) > 0; {
			n := hashSize << (bits.Len(uint(len(tile)/hashSize)) - 1)
			t.peaks = append(t.peaks, perfectRoot(tile[:n]))
			tile = tile[n:]
		}
	}
}

// perfectRoot returns the root over hashes, 32 bytes each, whose number is a
// power of two up to TileWidth.
func perfectRoot(hashes []byte) Hash {
	if len(hashes) == hashSize {
		return Hash(hashes)
	}
	var row [TileSize / 2]byte
	n := foldRow(row[:], hashes)
	for n > hashSize {
		n = foldRow(row[:], row[:n])
	}
	return Hash(row[:])
}

// foldRow writes the parents of a row of hashes to dst, which may be that row,
// and returns their size.
func foldRow(dst, row []byte) int {
	var buf [1 + 2*hashSize]byte
	buf[0] = 1
	n := 0
	for ; len(row) > 0; row = row[2*hashSize:] {
		copy(buf[1:], row[:2*hashSize])
		h := sha256.Sum256(buf[:])
		n += copy(dst[n:], h[:])
	}
	return n
}

// readTile reads a tile and checks that it has what was asked for.
func readTile(r TileReader, level int, index uint64, width int) ([]byte, error) {
	b, err := r.ReadTile(level, index, width)
	if err != nil {
		return nil, fmt.Errorf("chain: tile %d/%d: %w", level, index, err)
	}
	if len(b) < width*hashSize || len(b) > TileSize || len(b)%hashSize != 0 {
		return nil, fmt.Errorf("chain: tile %d/%d: %d bytes, want %d", level, index, len(b), width*hashSize)
	}
	return b, nil
}
