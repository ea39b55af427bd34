package transport_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/transport"
)

func TestIdentityIsKept(t *testing.T) {
	dir := t.TempDir()
	if _, err := transport.LoadIdentity(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("load from an empty directory: %v", err)
	}
	made, err := transport.CreateIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := transport.CreateIdentity(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second create: %v", err)
	}
	loaded, err := transport.LoadIdentity(dir)
	if err != nil || loaded.NodeID() != made.NodeID() || !loaded.PublicKey().Equal(made.PublicKey()) {
		t.Fatalf("%s, then %v, %v", made, loaded, err)
	}
	if got, err := transport.ParseNodeID(made.NodeID()); err != nil || got != made.NodeID() {
		t.Errorf("parse %s: %v", made.NodeID(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left in the directory: %v, %v", entries, err)
	}
	path := filepath.Join(dir, transport.KeyFile)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := transport.LoadIdentity(dir); err == nil {
		t.Error("a key that others may read was loaded")
	}
}

func TestDamagedKeyIsRefused(t *testing.T) {
	dir := t.TempDir()
	if _, err := transport.CreateIdentity(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, transport.KeyFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"empty":    nil,
		"cut":      good[:len(good)/2],
		"trailing": append(bytes.Clone(good), 'x'),
		"body":     bytes.Replace(good, []byte("\nM"), []byte("\nN"), 1),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if id, err := transport.LoadIdentity(dir); err == nil {
			t.Errorf("%s: loaded %s", name, id)
		}
	}
}

func TestIncarnationIsKept(t *testing.T) {
	dir := t.TempDir()
	if _, err := transport.LoadIncarnation(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("load from an empty directory: %v", err)
	}
	made, err := transport.CreateIncarnation(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := transport.CreateIncarnation(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second create: %v", err)
	}
	if loaded, err := transport.LoadIncarnation(dir); err != nil || loaded != made {
		t.Errorf("%s, then %s, %v", made, loaded, err)
	}
	if err := os.WriteFile(filepath.Join(dir, transport.IncarnationFile), []byte(made[:10]), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := transport.LoadIncarnation(dir); err == nil {
		t.Error("a damaged incarnation was loaded")
	}
}

func TestNodeAndServerIDs(t *testing.T) {
	nodeID := identity("a").NodeID()
	id := transport.ServerID(nodeID, incarnation)
	if n, inc, err := transport.SplitServerID(id); err != nil || n != nodeID || inc != incarnation {
		t.Errorf("%s splits into %s and %s, %v", id, n, inc, err)
	}
	for _, bad := range []string{
		"", nodeID, nodeID + ".", "." + incarnation, nodeID + "." + incarnation + "0",
		nodeID + "." + strings.ToUpper(incarnation[:15]+"f"), nodeID + ".0123456789abcdeg", nodeID[1:] + "." + incarnation,
	} {
		if _, _, err := transport.SplitServerID(raft.ServerID(bad)); err == nil {
			t.Errorf("server id %q accepted", bad)
		}
	}
	for _, bad := range []string{"", "n", nodeID[1:], nodeID + "a", "x" + nodeID[1:], strings.ToUpper(nodeID), nodeID[:25] + "1", nodeID[:25] + "="} {
		if _, err := transport.ParseNodeID(bad); err == nil {
			t.Errorf("node id %q accepted", bad)
		}
	}
	other := identity("b").PublicKey()
	if transport.NodeIDOf(other) == nodeID || transport.NodeIDOf(ed25519.PublicKey(other)) != identity("b").NodeID() {
		t.Error("node ids do not follow from keys")
	}
}

func TestSecretText(t *testing.T) {
	s, err := transport.NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	text := s.Reveal()
	again, err := transport.ParseSecret(text)
	if err != nil || !bytes.Equal(again.GossipKey(), s.GossipKey()) || len(s.GossipKey()) != 32 {
		t.Errorf("%v", err)
	}
	last := text[:len(text)-1]
	bad := []string{"", text[1:], last, text + "a", strings.ToUpper(text)}
	for _, digit := range "abcdefghijklmnopqrstuvwxyz234567" {
		if other := last + string(digit); other != text {
			if got, err := transport.ParseSecret(other); err == nil && bytes.Equal(got.GossipKey(), s.GossipKey()) {
				bad = append(bad, other) // two texts for one secret
			}
		}
	}
	for _, b := range bad {
		if _, err := transport.ParseSecret(b); err == nil {
			t.Errorf("%d digits accepted", len(b))
		} else if b != "" && strings.Contains(err.Error(), b) {
			t.Error("the error quotes the secret")
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s, "in", struct{ S transport.Secret }{s})
	if strings.Contains(log.String(), text[10:]) || !strings.Contains(log.String(), "[secret]") {
		t.Errorf("logged as %s", log.String())
	}
}

func TestConfigIsChecked(t *testing.T) {
	w := newWorld(t)
	ln, err := w.net.Listen("a")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	good := transport.Config{
		Identity: identity("a"), Incarnation: incarnation, Listener: ln, Members: &members{},
		Resolve: w.resolve, Secret: w.secret, Logger: slog.New(slog.DiscardHandler),
	}
	for name, spoil := range map[string]func(*transport.Config){
		"identity": func(c *transport.Config) { c.Identity = nil }, "incarnation": func(c *transport.Config) { c.Incarnation = "1" },
		"listener": func(c *transport.Config) { c.Listener = nil }, "members": func(c *transport.Config) { c.Members = nil },
		"resolver": func(c *transport.Config) { c.Resolve = nil }, "secret": func(c *transport.Config) { c.Secret = transport.Secret{} },
		"logger": func(c *transport.Config) { c.Logger = nil },
	} {
		bad := good
		spoil(&bad)
		if _, err := transport.New(bad); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	tr, err := transport.New(good)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(tr.Close(), tr.Close(), tr.Run(t.Context())); err != nil {
		t.Errorf("closed before it ran: %v", err)
	}
}
