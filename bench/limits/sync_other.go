//go:build !linux

package limits

import "os"

func dataSync(f *os.File) error { return f.Sync() }
