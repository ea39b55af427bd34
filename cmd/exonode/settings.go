package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// envPrefix begins the environment variable of every flag.
const envPrefix = "EXONODE_"

func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// settle gives every flag that the command line does not set the value that the
// environment or the config file has for it. Both go through the flag's own
// parser, so that a value means the same wherever it stands.
func settle(cmd *cobra.Command, configFile string) error {
	if configFile == "" {
		configFile = os.Getenv(envName("config"))
	}
	file, err := readConfig(configFile)
	if err != nil {
		return err
	}
	if err := checkKeys(cmd.Root(), file, configFile); err != nil {
		return err
	}
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "help" || f.Name == "config" || isOperand(f) {
			return
		}
		if v, ok := os.LookupEnv(envName(f.Name)); ok {
			errs = append(errs, set(f, []string{v}, envName(f.Name)))
		} else if v, ok := file[f.Name]; ok {
			errs = append(errs, set(f, v, configFile))
		}
	})
	return errors.Join(errs...)
}

// operandKey marks flags that say what one command is about: they come from the
// command line alone. A data directory in the environment, meant for serve, must
// not become the payload of submit.
const operandKey = "exonode_operand"

func operands(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		// Fails only for a flag that does not exist, which every test of
		// the command would show.
		_ = cmd.Flags().SetAnnotation(name, operandKey, []string{"true"})
	}
}

func isOperand(f *pflag.Flag) bool { return f.Annotations[operandKey] != nil }

func set(f *pflag.Flag, values []string, from string) error {
	if list, ok := f.Value.(pflag.SliceValue); ok && len(values) != 1 {
		if err := list.Replace(values); err != nil {
			return usagef("%s: --%s: %w", from, f.Name, err)
		}
		f.Changed = true
		return nil
	}
	for _, v := range values {
		if err := f.Value.Set(v); err != nil {
			return usagef("%s: %w", from, badValue("--"+f.Name, f, v, err))
		}
	}
	f.Changed = true
	return nil
}

// readConfig reads the config file: flags' names to scalars or lists of them.
// Without a name, the user's own file is read where there is one.
func readConfig(path string) (map[string][]string, error) {
	optional := path == ""
	if optional {
		dir, err := os.UserConfigDir()
		if err != nil {
			return nil, nil // a machine without a home has no config file
		}
		path = filepath.Join(dir, "exonode", "config.yaml")
	}
	b, err := os.ReadFile(path)
	if optional && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, misuse(codeFile, "", fmt.Errorf("read the config file: %w", err))
	}
	var nodes map[string]yaml.Node
	if err := yaml.Unmarshal(b, &nodes); err != nil {
		return nil, usagef("config file %s: %w", path, err)
	}
	out := make(map[string][]string, len(nodes))
	for key, n := range nodes {
		switch n.Kind {
		case yaml.ScalarNode:
			out[key] = []string{n.Value}
		case yaml.SequenceNode:
			out[key] = []string{}
			for _, item := range n.Content {
				if item.Kind != yaml.ScalarNode {
					return nil, usagef("config file %s, line %d: %s: want a list of plain values", path, item.Line, key)
				}
				out[key] = append(out[key], item.Value)
			}
		default:
			return nil, usagef("config file %s, line %d: %s: want a plain value or a list", path, n.Line, key)
		}
	}
	return out, nil
}

// checkKeys refuses keys that are no command's setting: a misspelt one must not
// pass in silence.
func checkKeys(root *cobra.Command, file map[string][]string, path string) error {
	known := make(map[string]bool) // false: of the command line alone
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		c.LocalFlags().VisitAll(func(f *pflag.Flag) { known[f.Name] = known[f.Name] || !isOperand(f) })
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	for _, key := range slices.Sorted(maps.Keys(file)) {
		setting, isFlag := known[key]
		switch {
		case !isFlag:
			return usagef("config file %s: no flag is called %s", path, key)
		case !setting:
			return usagef("config file %s: --%s is no setting: it is given on the command line alone", path, key)
		}
	}
	return nil
}

// sources names where the settings of a command come from, for the record.
func sources(cmd *cobra.Command, configFile string) []string {
	out := []string{"defaults"}
	if configFile != "" {
		out = append(out, fmt.Sprintf("file %s", configFile))
	}
	env := false
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		_, ok := os.LookupEnv(envName(f.Name))
		env = env || ok && !isOperand(f)
	})
	if env {
		out = append(out, "environment")
	}
	return append(out, "flags")
}
