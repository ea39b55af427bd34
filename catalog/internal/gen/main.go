// Command gen writes the generated part of package catalog from the data files
// in catalog/data: the tables, the constants and the payload types. It is run
// by go generate in catalog/, and its test fails where the files it wrote are
// stale.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := run("."); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// run reads dir/data and writes the generated files into dir.
func run(dir string) error {
	files, err := generateDir(dir)
	if err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// generateDir returns the generated files for the data in dir/data, by name.
func generateDir(dir string) (map[string][]byte, error) {
	kinds, err := os.ReadFile(filepath.Join(dir, "data", "kinds.tsv"))
	if err != nil {
		return nil, err
	}
	gates, err := os.ReadFile(filepath.Join(dir, "data", "gates.tsv"))
	if err != nil {
		return nil, err
	}
	return generate(kinds, gates)
}
