package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// release is set by the linker in released builds.
var release = "0.1.0-dev"

func version() string { return release }

// build names the revision that the binary was built from, as far as the
// toolchain recorded it.
func build() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, dirty := "unknown", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "+changes"
			}
		}
	}
	return revision + dirty
}

// versionText is the version for people.
func versionText() string {
	return fmt.Sprintf("exonode %s (%s, %s, %s/%s)", version(), build(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version  string `json:"version"`
				Build    string `json:"build"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{version(), build(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			return a.emit(v, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, versionText())
				return err
			})
		},
	}
}
