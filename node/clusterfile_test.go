package node_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/node"
)

func TestClusterFileRoundTrip(t *testing.T) {
	want := newCluster(t, gates.Production)
	path := filepath.Join(t.TempDir(), "cluster.json")
	if err := node.CreateClusterFile(path, want); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want readable by its owner alone", info.Mode(), err)
	}
	got, err := node.LoadClusterFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.Hash != want.Hash || !bytes.Equal(got.Document, want.Document) || got.Secret.Reveal() != want.Secret.Reveal() {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got.Hash != chain.GenesisHash(got.Document) || got.Genesis.ChainID != want.Genesis.ChainID {
		t.Errorf("hash %v and genesis %+v are not the document's", got.Hash, got.Genesis)
	}
	if err := node.CreateClusterFile(path, newCluster(t, gates.Production)); !errors.Is(err, os.ErrExist) {
		t.Errorf("a cluster file was replaced: %v", err)
	}
	if _, err := node.LoadClusterFile(path + ".missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// TestClusterFileKeepsItsSecret: nothing that prints or logs one shows it.
func TestClusterFileKeepsItsSecret(t *testing.T) {
	c := newCluster(t, gates.Development)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "cluster", c, "secret", c.Secret)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "cluster", c, "secret", c.Secret)
	cfg := node.Config{Cluster: c}
	text := log.String() + fmt.Sprintf("%v %+v %#v %s %v %+v", c, c, c, c.Secret, cfg, *c)
	secret := c.Secret.Reveal()
	raw := strings.TrimPrefix(secret, "exosecret1")
	for _, s := range []string{secret, raw, raw[:20]} {
		if strings.Contains(text, s) {
			t.Fatalf("the secret shows in %s", text)
		}
	}
}

func TestParseClusterFile(t *testing.T) {
	cluster := newCluster(t, gates.Development)
	good, err := cluster.Encode()
	if err != nil {
		t.Fatal(err)
	}
	digits := strings.TrimPrefix(cluster.Secret.Reveal(), "exosecret1")
	replace := func(old, new string) []byte {
		b := bytes.Replace(good, []byte(old), []byte(new), 1)
		if bytes.Equal(b, good) {
			t.Fatalf("%q is not in the file", old)
		}
		return b
	}
	for name, b := range map[string][]byte{
		"nothing":          nil,
		"no JSON":          []byte("exonode"),
		"cut short":        good[:len(good)-5],
		"more behind":      append(good[:len(good):len(good)], "{}"...),
		"another format":   replace("exonode-cluster/1", "exonode-cluster/2"),
		"an unknown field": replace(`"format"`, `"more": 1, "format"`),
		"a wrong type":     replace(`"exonode-cluster/1"`, `1`),
		"no secret":        replace(`"secret": "`, `"secret": "x`),
		"no genesis":       replace(`"genesis": "`, `"genesis": "x`),
	} {
		c, err := node.ParseClusterFile(b)
		if !errors.Is(err, node.ErrClusterFile) {
			t.Errorf("%s: %+v, %v", name, c, err)
			continue
		}
		if strings.Contains(err.Error(), digits[1:]) {
			t.Errorf("%s: the error quotes the secret: %v", name, err)
		}
	}
	if _, err := node.ParseClusterFile(append(good, " \n\t"...)); err != nil {
		t.Errorf("white space behind: %v", err)
	}
}

// FuzzParseClusterFile: what is read can be written, and read again as the same.
func FuzzParseClusterFile(f *testing.F) {
	for _, env := range []gates.Environment{gates.Development, gates.Staging, gates.Production} {
		b, err := newCluster(f, env).Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"format":"exonode-cluster/1","secret":"exosecret1","genesis":"{}"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := node.ParseClusterFile(b)
		if err != nil {
			return
		}
		again, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		d, err := node.ParseClusterFile(again)
		if err != nil || d.Hash != c.Hash || d.Secret.Reveal() != c.Secret.Reveal() || !bytes.Equal(d.Document, c.Document) {
			t.Fatalf("%q became %q, %v", b, again, err)
		}
	})
}
