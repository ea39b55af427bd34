package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLogKey(t *testing.T) {
	dir := t.TempDir()
	key, err := loadOrCreateLogKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, logKeyFile)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want readable by its owner alone", info.Mode(), err)
	}
	if again, err := loadOrCreateLogKey(dir); err != nil || again != key {
		t.Errorf("another key on the second call: %x, %v", again, err)
	}
	other, err := loadOrCreateLogKey(t.TempDir())
	if err != nil || other == key {
		t.Errorf("two directories have one key, %v", err)
	}
	// A key that can't be read is never replaced.
	for name, content := range map[string]string{
		"empty": "", "not PEM": "key", "not a key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadOrCreateLogKey(dir); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want an error with the path", name, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != content {
			t.Errorf("%s: the file was changed", name)
		}
	}
	if _, err := loadOrCreateLogKey(filepath.Join(dir, "missing")); err == nil {
		t.Error("no error without a directory")
	}
}
