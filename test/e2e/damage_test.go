package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/ledger"
)

// TestDamage flips bytes on the disk of a stopped node: `exonode verify --data`
// finds each flip in a header, an envelope or a tile, and names the entry.
func TestDamage(t *testing.T) {
	t.Parallel()
	c := startCluster(t, lab.Config{Nodes: 1})
	var killed *disk // its last entries are in the store's log
	for i := range 20 {
		c.pump(fmt.Sprintf("bulk%d", i), 600, 100)
		c.kill("n1")
		killed = newDisk(t, c.DataDir("n1"))
		c.start("n1")
		if len(killed.tiles) > 0 {
			break
		}
		// The store writes its log behind the answers, which raft's log covers.
		t.Logf("killed with %d entries in the store's files", len(killed.records))
	}
	c.stop("n1")
	stopped := newDisk(t, c.DataDir("n1")) // all of them are in its tables
	// Of a damaged log the store looks for the bit that makes it right, which
	// takes it half a second.
	killed.flipParts("killed", 1)
	stopped.flipParts("stopped", 3)
	killed.flipAnywhere("killed", 2)
	stopped.flipAnywhere("stopped", 25)
	stopped.flipRows()
}

// disk is a copy of a node's data directory, and what it holds.
type disk struct {
	t       *testing.T
	dir     string
	rng     *rand.Rand
	records []chain.Record
	tiles   [][]byte // of level 0
}

func newDisk(t *testing.T, data string) *disk {
	t.Helper()
	d := &disk{t: t, dir: t.TempDir(), rng: rand.New(rand.NewPCG(1, 2))}
	must(t, os.CopyFS(d.dir, os.DirFS(data)))
	var err error
	if d.records, d.tiles, err = d.read(); err != nil {
		t.Fatal(err)
	}
	if err := d.verify(); err != nil {
		t.Fatalf("before any damage: %v", err)
	}
	return d
}

func (d *disk) ledger() string { return filepath.Join(d.dir, "ledger") }

// read reads all that verification looks at.
func (d *disk) read() (records []chain.Record, tiles [][]byte, err error) {
	store, err := ledger.OpenReadOnly(d.ledger(), ledger.Options{})
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	size := store.Meta().Head.Size
	for r, err := range store.Source().Records(d.t.Context(), 0, size) {
		if err != nil {
			return nil, nil, err
		}
		records = append(records, chain.Record{Sequence: r.Sequence,
			Header: bytes.Clone(r.Header), Envelope: bytes.Clone(r.Envelope), Beside: bytes.Clone(r.Beside)})
	}
	for i := range size / chain.TileWidth {
		tile, err := store.Source().ReadTile(0, i, chain.TileWidth)
		if err != nil {
			return nil, nil, err
		}
		tiles = append(tiles, bytes.Clone(tile))
	}
	return records, tiles, nil
}

// found is what `exonode verify` says of a damaged disk.
type found struct {
	Sequence *uint64
	Part     string
	Problem  string
}

func (f *found) Error() string {
	if f.Sequence == nil {
		return fmt.Sprintf("%s: %s", f.Part, f.Problem)
	}
	return fmt.Sprintf("entry %d: %s: %s", *f.Sequence, f.Part, f.Problem)
}

// verify runs `exonode verify --data`; its error is a *found where the command
// calls the chain bad.
func (d *disk) verify() error {
	cmd := exec.Command(exonode, "verify", "--data", d.dir, "-o", "json")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var report struct {
		OK  bool
		Bad *found
	}
	if jerr := json.Unmarshal(stdout.Bytes(), &report); jerr != nil || report.OK != (err == nil) {
		return fmt.Errorf("%v: %s%s", err, stdout.String(), stderr.String())
	}
	if report.Bad != nil {
		return report.Bad
	}
	return err
}

// files are the store's tables and logs.
func (d *disk) files() []string {
	var files []string
	for _, pattern := range []string{"*.sst", "*.log"} {
		matches, err := filepath.Glob(filepath.Join(d.ledger(), "db", pattern))
		must(d.t, err)
		files = append(files, matches...)
	}
	if len(files) == 0 {
		d.t.Fatal("the store has no files")
	}
	return files
}

// flip changes one byte of a file; the returned function changes it back.
func (d *disk) flip(file string, offset int64) (back func()) {
	d.t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	must(d.t, err)
	defer f.Close()
	var old [1]byte
	_, err = f.ReadAt(old[:], offset)
	must(d.t, err)
	_, err = f.WriteAt([]byte{old[0] ^ byte(1+d.rng.IntN(255))}, offset)
	must(d.t, err)
	return func() {
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		must(d.t, err)
		defer f.Close()
		_, err = f.WriteAt(old[:], offset)
		must(d.t, err)
	}
}

// find returns where bytes that are in one place only stand in the files.
func (d *disk) find(needle []byte) (file string, offset int64, ok bool) {
	for _, name := range d.files() {
		b, err := os.ReadFile(name)
		must(d.t, err)
		if at := bytes.Index(b, needle); at >= 0 {
			return name, int64(at), true
		}
	}
	return "", 0, false
}

// flipParts flips bytes of known headers, envelopes and tiles where they stand
// in the files. A damaged file is found where it is first read, at that entry or
// one before it.
func (d *disk) flipParts(state string, entries int) {
	d.t.Helper()
	type part struct {
		name   string
		seq    uint64 // its last entry
		needle []byte
	}
	var parts []part
	size := uint64(len(d.records))
	for range entries {
		seq := 1 + d.rng.Uint64N(size-1)
		h, err := chain.DecodeHeader(d.records[seq].Header)
		must(d.t, err)
		e, err := chain.DecodeEnvelope(d.records[seq].Envelope)
		must(d.t, err)
		parts = append(parts, part{"header", seq, h.Previous[:12]}, part{"envelope", seq, e.Salt[:12]})
	}
	for i, tile := range d.tiles[:min(entries, len(d.tiles))] {
		parts = append(parts, part{"tile", uint64((i+1)*chain.TileWidth) - 1, tile[7*32:][:12]})
	}
	hits := make(map[string]int)
	for _, p := range parts {
		file, offset, ok := d.find(p.needle)
		if !ok {
			continue // the compression took it apart
		}
		back := d.flip(file, offset+int64(d.rng.IntN(len(p.needle))))
		err := d.verify()
		back()
		var bad *found
		switch {
		case err == nil:
			d.t.Errorf("%s: a byte flipped in the %s of entry %d, in %s, is not found", state, p.name, p.seq, filepath.Base(file))
		case !errors.As(err, &bad) || bad.Sequence == nil:
			d.t.Errorf("%s: a byte flipped in the %s of entry %d, in %s: no entry is named: %v", state, p.name, p.seq, filepath.Base(file), err)
		case *bad.Sequence > p.seq:
			d.t.Errorf("%s: a byte flipped in the %s of entry %d, in %s: %v", state, p.name, p.seq, filepath.Base(file), err)
		}
		hits[p.name]++
	}
	d.t.Logf("%s: bytes flipped and found: %v", state, hits)
	if hits["header"] == 0 || hits["envelope"] == 0 || hits["tile"] == 0 {
		d.t.Errorf("%s: not all parts of %d entries and %d tiles were found in the files", state, len(d.records), len(d.tiles))
	}
}

// flipAnywhere flips bytes anywhere in the files. What is not found must be in
// none of what verification is about.
func (d *disk) flipAnywhere(state string, times int) {
	d.t.Helper()
	files := d.files()
	var sizes []int64
	total := int64(0)
	for _, name := range files {
		info, err := os.Stat(name)
		must(d.t, err)
		sizes = append(sizes, info.Size())
		total += info.Size()
	}
	detected, elsewhere := 0, 0
	for range times {
		at := d.rng.Int64N(total)
		i := 0
		for at >= sizes[i] {
			at -= sizes[i]
			i++
		}
		back := d.flip(files[i], at)
		_, err := verifyLedger(d.t.Context(), d.ledger())
		if err != nil {
			detected++
		} else {
			elsewhere++
			records, tiles, err := d.read()
			if err != nil || !sameRecords(records, d.records) || !sameTiles(tiles, d.tiles) {
				d.t.Errorf("%s: byte %d of %s flipped: verified, but the chain reads differently: %v", state, at, filepath.Base(files[i]), err)
			}
		}
		back()
	}
	d.t.Logf("%s: %d of %d random flips were found, %d touched nothing of the chain", state, detected, times, elsewhere)
	if detected == 0 {
		d.t.Errorf("%s: not one of %d random flips was found", state, times)
	}
}

func sameRecords(a, b []chain.Record) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Sequence != b[i].Sequence || !bytes.Equal(a[i].Header, b[i].Header) ||
			!bytes.Equal(a[i].Envelope, b[i].Envelope) || !bytes.Equal(a[i].Beside, b[i].Beside) {
			return false
		}
	}
	return true
}

func sameTiles(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// flipRows changes rows of the store through the store's own database, as
// somebody would who is after more than a bit: all checksums of files are right.
// The entry is named exactly.
func (d *disk) flipRows() {
	d.t.Helper()
	seqKey := func(table byte, seq uint64) []byte { return binary.BigEndian.AppendUint64([]byte{table}, seq) }
	size := uint64(len(d.records))
	type row struct {
		name string
		key  []byte
		seq  uint64
		at   int // byte; negative is any
	}
	var rows []row
	for _, seq := range []uint64{0, size / 2, size - 1} {
		rows = append(rows, row{"header", seqKey('h', seq), seq, -1}, row{"envelope", seqKey('e', seq), seq, -1})
	}
	// In the genesis document, which the directory is held against.
	rows = append(rows, row{"envelope", seqKey('e', 0), 0, bytes.Index(d.records[0].Envelope, []byte("cluster_name"))})
	for i := range d.tiles {
		leaf := d.rng.IntN(chain.TileWidth)
		rows = append(rows, row{
			"tile", binary.BigEndian.AppendUint64([]byte{'t', 0}, uint64(i)),
			uint64(i*chain.TileWidth + leaf), 32*leaf + d.rng.IntN(32),
		})
	}
	for _, r := range rows {
		old := d.change(r.key, func(value []byte) []byte {
			if r.at < 0 {
				value[d.rng.IntN(len(value))] ^= byte(1 + d.rng.IntN(255))
			} else {
				value[r.at] ^= 1
			}
			return value
		})
		err := d.verify()
		d.change(r.key, func([]byte) []byte { return old })
		var bad *found
		if !errors.As(err, &bad) || bad.Sequence == nil || *bad.Sequence != r.seq {
			d.t.Errorf("a byte changed in the %s of entry %d: %v", r.name, r.seq, err)
		}
	}
	if err := d.verify(); err != nil {
		d.t.Errorf("after all was changed back: %v", err)
	}
	d.t.Logf("%d changed rows were found, each by its entry", len(rows))
}

// change replaces the value of a row and returns the old one.
func (d *disk) change(key []byte, change func([]byte) []byte) (old []byte) {
	d.t.Helper()
	db, err := pebble.Open(filepath.Join(d.ledger(), "db"), &pebble.Options{FS: vfs.Default, Logger: quiet{}})
	must(d.t, err)
	value, closer, err := db.Get(key)
	must(d.t, err)
	old = bytes.Clone(value)
	must(d.t, closer.Close())
	must(d.t, db.Set(key, change(bytes.Clone(old)), pebble.Sync))
	must(d.t, db.Close())
	return old
}

// quiet is a pebble.Logger.
type quiet struct{}

func (quiet) Infof(string, ...any)              {}
func (quiet) Errorf(string, ...any)             {}
func (quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
