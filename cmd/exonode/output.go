package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/exonode/exonode/api"
)

// emit prints a result: as indented JSON with -o json, else by text.
func (a *app) emit(v any, text func(w io.Writer) error) error {
	if a.output != "json" {
		return text(a.stdout)
	}
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table prints rows in columns, the first row as their heads.
func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

// errorJSON is an error with -o json.
func errorJSON(err error) string {
	out := struct {
		Error struct {
			Code     string  `json:"code"`
			Message  string  `json:"message"`
			Hint     string  `json:"hint,omitempty"`
			Field    string  `json:"field,omitempty"`
			Sequence *uint64 `json:"sequence,omitempty"`
		} `json:"error"`
	}{}
	out.Error.Code, out.Error.Message = "failed", err.Error()
	var e *api.Error
	if errors.As(err, &e) {
		out.Error.Code, out.Error.Message, out.Error.Hint, out.Error.Field = string(e.Code), e.Message, e.Hint, e.Field
		if e.HasSequence {
			out.Error.Sequence = &e.Sequence
		}
	}
	b, merr := json.Marshal(out)
	if merr != nil {
		return err.Error()
	}
	return string(b)
}
