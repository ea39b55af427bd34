package signing

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeys(t *testing.T) {
	for name, load := range map[string]func(string) ([]byte, error){
		"log.key":   func(p string) ([]byte, error) { k, err := Ed25519Key(p, nil); return k, err },
		"mldsa.key": func(p string) ([]byte, error) { return MLDSASeed(p, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), name)
			key, err := load(path)
			if err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v (%v)", info, err)
			}
			if again, err := load(path); err != nil || !bytes.Equal(again, key) {
				t.Errorf("another key the second time (%v)", err)
			}
			other, err := load(filepath.Join(t.TempDir(), name))
			if err != nil || bytes.Equal(other, key) {
				t.Errorf("the same key in another directory (%v)", err)
			}
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for what, content := range map[string]string{
				"empty": "", "text": "key", "cut": string(whole[:len(whole)/2]), "more": string(whole) + "x",
				"another type": strings.ReplaceAll(string(whole), "PRIVATE KEY", "PUBLIC KEY"),
			} {
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				if _, err := load(path); err == nil || !strings.Contains(err.Error(), path) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if _, err := load(filepath.Join(filepath.Dir(path), "missing", name)); err == nil {
				t.Error("no directory, and no error")
			}
		})
	}
	// One is not the other.
	path := filepath.Join(t.TempDir(), "key")
	if _, err := Ed25519Key(path, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := MLDSASeed(path, nil); err == nil {
		t.Error("an Ed25519 key is taken for ML-DSA-44")
	}
}

// A key that was returned is there after a crash.
func TestKeySurvivesCrash(t *testing.T) {
	for stopAt := 0; stopAt < 5; stopAt++ {
		for _, lucky := range []bool{false, true} {
			d := newDisk()
			d.stopAt = stopAt
			key, err := Ed25519Key("dir/log.key", d)
			again, aerr := Ed25519Key("dir/log.key", d.restart(lucky))
			if aerr != nil {
				t.Errorf("stopped at %d: %v", stopAt, aerr)
			}
			if err == nil && !bytes.Equal(again, key) {
				t.Errorf("stopped at %d: another key after the crash", stopAt)
			}
		}
	}
}
