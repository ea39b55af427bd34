package raftstore

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"
)

// MaxManifestSize is the most bytes of data that a manifest may have.
const MaxManifestSize = 16 << 20

// keepManifests is how many listed manifests stay on disk.
const keepManifests = 2

const (
	listedSuffix  = ".manifest"
	pendingSuffix = ".pending"
	tempSuffix    = ".tmp"
)

// Manifests is a raft.SnapshotStore of small files in one directory.
//
// Raft makes a received snapshot durable before it restores it (raft.go:1928).
// A node that restarted between the two would believe in a state that it does
// not have, so a received manifest is pending (Open sees it, List does not)
// until Confirm; a manifest that the node took itself is confirmed by its
// Persist, through Local. Each file is
//
//	meta length u32 | meta JSON | data | CRC-32C u32 of all before it
type Manifests struct {
	dir   string
	files Files
	mu    sync.Mutex // serialises changes of the directory
}

// OpenManifests opens or creates the directory, and removes what a crash left
// half written.
func OpenManifests(dir string) (*Manifests, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("raftstore: %w", err)
	}
	return openManifests(dir, osFiles{})
}

// openManifests is OpenManifests in a directory that exists.
func openManifests(dir string, files Files) (*Manifests, error) {
	names, err := files.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("raftstore: %w", err)
	}
	for _, name := range names {
		if !strings.HasSuffix(name, tempSuffix) {
			continue
		}
		if err := files.Remove(filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("raftstore: %w", err)
		}
	}
	return &Manifests{dir: dir, files: files}, nil
}

// Create implements raft.SnapshotStore.
func (m *Manifests) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, _ raft.Transport,
) (raft.SnapshotSink, error) {
	return &sink{store: m, meta: raft.SnapshotMeta{
		Version:            version,
		ID:                 fmt.Sprintf("%020d-%020d", index, term),
		Index:              index,
		Term:               term,
		Configuration:      configuration,
		ConfigurationIndex: configurationIndex,
	}}, nil
}

// List implements raft.SnapshotStore: confirmed manifests, newest first.
func (m *Manifests) List() ([]*raft.SnapshotMeta, error) { return m.list(listedSuffix) }

// Pending returns the manifests that were received and not confirmed, newest
// first.
func (m *Manifests) Pending() ([]*raft.SnapshotMeta, error) { return m.list(pendingSuffix) }

func (m *Manifests) list(suffix string) ([]*raft.SnapshotMeta, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	names, err := m.files.ReadDir(m.dir)
	if err != nil {
		return nil, fmt.Errorf("raftstore: list manifests: %w", err)
	}
	var metas []*raft.SnapshotMeta
	for _, name := range slices.Backward(names) {
		id, ok := strings.CutSuffix(name, suffix)
		if !ok {
			continue
		}
		meta, _, err := m.read(id + suffix)
		if err != nil {
			return nil, err
		}
		metas = append(metas, meta)
	}
	return metas, nil
}

// Open implements raft.SnapshotStore. The reader is a *Reader.
func (m *Manifests) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	meta, data, err := m.read(id + listedSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		meta, data, err = m.read(id + pendingSuffix)
	}
	if err != nil {
		return nil, nil, err
	}
	return meta, &Reader{Reader: bytes.NewReader(data), store: m, meta: meta}, nil
}

// Reader reads a manifest, and confirms it.
type Reader struct {
	*bytes.Reader
	store *Manifests
	meta  *raft.SnapshotMeta
}

// Index is raft's index of the manifest.
func (r *Reader) Index() uint64 { return r.meta.Index }

// Term is the term of that index.
func (r *Reader) Term() uint64 { return r.meta.Term }

// Close implements io.Closer.
func (r *Reader) Close() error { return nil }

// Confirm makes a pending manifest listed; its return is the commit point. The
// caller has made the state that it names durable. A listed one stays listed.
func (r *Reader) Confirm() error { return r.store.Confirm(r.meta.ID) }

// Confirm is Reader.Confirm by id.
func (m *Manifests) Confirm(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.files.Rename(filepath.Join(m.dir, id+pendingSuffix), filepath.Join(m.dir, id+listedSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		if _, _, err = m.read(id + listedSuffix); err != nil {
			return err
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("raftstore: confirm manifest: %w", err)
	}
	if err := m.files.SyncDir(m.dir); err != nil {
		return err
	}
	return m.reap()
}

// reap removes all but the newest manifests, those behind the newest that can't be
// read, and pending ones that are older than the newest listed one. m.mu is held.
func (m *Manifests) reap() error {
	names, err := m.files.ReadDir(m.dir)
	if err != nil {
		return fmt.Errorf("raftstore: reap manifests: %w", err)
	}
	listed, newest := 0, ""
	for _, name := range slices.Backward(names) {
		id, ok := strings.CutSuffix(name, listedSuffix)
		if !ok {
			continue
		}
		if listed++; listed == 1 {
			newest = id
			continue
		}
		if _, _, damaged := m.read(name); damaged != nil || listed > keepManifests {
			if err := m.files.Remove(filepath.Join(m.dir, name)); err != nil {
				return fmt.Errorf("raftstore: reap manifests: %w", err)
			}
		}
	}
	for _, name := range names {
		if id, ok := strings.CutSuffix(name, pendingSuffix); ok && id < newest {
			if err := m.files.Remove(filepath.Join(m.dir, name)); err != nil {
				return fmt.Errorf("raftstore: reap manifests: %w", err)
			}
		}
	}
	return nil
}

func (m *Manifests) read(name string) (*raft.SnapshotMeta, []byte, error) {
	b, err := m.files.ReadFile(filepath.Join(m.dir, name))
	if err != nil {
		return nil, nil, fmt.Errorf("raftstore: read manifest: %w", err)
	}
	if len(b) < 8 {
		return nil, nil, fmt.Errorf("raftstore: manifest %s has %d bytes", name, len(b))
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	n := binary.BigEndian.Uint32(body)
	if crc32.Checksum(body, castagnoli) != sum || uint64(n) > uint64(len(body)-4) {
		return nil, nil, fmt.Errorf("raftstore: manifest %s fails its checksum", name)
	}
	meta := new(raft.SnapshotMeta)
	if err := json.Unmarshal(body[4:4+n], meta); err != nil {
		return nil, nil, fmt.Errorf("raftstore: manifest %s: %w", name, err)
	}
	data := body[4+n:]
	meta.Size = int64(len(data))
	return meta, data, nil
}

// sink collects one manifest in memory: it is small.
type sink struct {
	store *Manifests
	meta  raft.SnapshotMeta
	data  bytes.Buffer
	local bool
	done  bool
}

// LocalSink is a sink of this package, as the state machine's Persist sees it.
type LocalSink interface {
	raft.SnapshotSink
	// Local says that the node itself took the snapshot and that the state
	// it names is durable: Close then lists it.
	Local()
}

func (s *sink) Local()     { s.local = true }
func (s *sink) ID() string { return s.meta.ID }

func (s *sink) Write(p []byte) (int, error) {
	if s.data.Len()+len(p) > MaxManifestSize {
		return 0, fmt.Errorf("raftstore: manifest over %d bytes", MaxManifestSize)
	}
	return s.data.Write(p)
}

func (s *sink) Cancel() error {
	s.done = true
	return nil
}

// Close writes the file: first under a temporary name, synced, then renamed,
// and the directory synced, which is the commit point.
func (s *sink) Close() error {
	if s.done {
		return nil
	}
	s.done = true
	s.meta.Size = int64(s.data.Len())
	meta, err := json.Marshal(&s.meta)
	if err != nil {
		return fmt.Errorf("raftstore: manifest: %w", err)
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(len(meta)))
	b = append(append(b, meta...), s.data.Bytes()...)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	suffix := pendingSuffix
	if s.local {
		suffix = listedSuffix
	}
	m := s.store
	m.mu.Lock()
	defer m.mu.Unlock()
	path := filepath.Join(m.dir, s.meta.ID)
	if err := m.files.WriteFile(path+tempSuffix, b); err != nil {
		return err
	}
	if err := m.files.Rename(path+tempSuffix, path+suffix); err != nil {
		return fmt.Errorf("raftstore: manifest: %w", err)
	}
	if err := m.files.SyncDir(m.dir); err != nil {
		return err
	}
	return m.reap()
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("raftstore: manifest: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("raftstore: manifest: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("raftstore: %w", err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("raftstore: sync %s: %w", dir, err)
	}
	return nil
}

var (
	_ raft.SnapshotStore = (*Manifests)(nil)
	_ LocalSink          = (*sink)(nil)
)
