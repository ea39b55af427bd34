package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/exonode/exonode/chain/view"
	"github.com/exonode/exonode/client"
)

// viewOf renders an entry.
func viewOf(e *client.Entry) (view.Entry, error) {
	decoded, err := e.Record.Decode()
	if err != nil {
		return view.Entry{}, fmt.Errorf("entry %d: %w", e.Sequence, err)
	}
	return view.New(&decoded), nil
}

// entryPrinter prints entries one after the other: a row each for people, a line
// of JSON each for programs.
type entryPrinter struct {
	a       *app
	printed uint64
}

// columns are the widths of a row, whatever comes: entries are printed as they
// arrive. What is longer is cut; the id, which may have to be copied, is the last
// and whole.
var columns = []int{9, 24, 10, 26, 10, 20, 24}

func row(cells ...string) string {
	var b strings.Builder
	for i, c := range cells {
		if i == len(columns) {
			return b.String() + c + "\n"
		}
		text := []rune(c)
		if w := columns[i]; len(text) > w {
			text = append(text[:w-1], '…')
		}
		b.WriteString(string(text))
		b.WriteString(strings.Repeat(" ", columns[i]-len(text)+1))
	}
	return b.String()
}

func (p *entryPrinter) print(e *client.Entry) error {
	v, err := viewOf(e)
	if err != nil {
		return err
	}
	p.printed++
	if p.a.output == "json" {
		return p.a.emitLine(v)
	}
	if p.printed == 1 {
		if _, err := io.WriteString(p.a.stdout, row("SEQUENCE", "TIME", "WORKSPACE", "KIND", "VERDICT", "SUBJECT", "SOURCE", "ID")); err != nil {
			return err
		}
	}
	verdict := "-"
	if v.Verdict != nil {
		verdict = v.Verdict.Decision
	}
	subject := orDash(v.Subject)
	if v.Payload.Redacted {
		subject = "[redacted] " + subject
	}
	_, err = io.WriteString(p.a.stdout, row(fmt.Sprint(v.Sequence), milliseconds(v.Time), v.Workspace, v.Kind, verdict, subject, v.Source, v.ID))
	return err
}

// milliseconds shortens a time of nine places to three.
func milliseconds(t string) string {
	if dot := strings.IndexByte(t, '.'); dot > 0 && len(t) > dot+4 {
		return t[:dot+4] + "Z"
	}
	return t
}

// printEntry prints an entry for people.
func printEntry(w io.Writer, v view.Entry) error {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-10s %s\n", name, value)
		}
	}
	line("sequence", fmt.Sprint(v.Sequence))
	line("time", v.Time)
	line("workspace", v.Workspace)
	line("kind", v.Kind)
	line("source", v.Source)
	line("id", v.ID)
	line("subject", v.Subject)
	line("principal", v.Principal)
	if v.Verdict != nil {
		line("verdict", verdictText(v.Verdict.Decision, v.Verdict.Gate, v.Verdict.Reasons))
		line("effect", effectText(&v.Verdict.Effective))
		line("revision", fmt.Sprint(v.Verdict.Revision))
	}
	if len(v.Causes) > 0 {
		line("causes", strings.Trim(fmt.Sprint(v.Causes), "[]"))
	}
	if len(v.Extra.Extensions) > 0 {
		text, err := json.Marshal(v.Extra.Extensions)
		if err != nil {
			return err
		}
		line("extensions", string(text))
	}
	line("hash", v.Hash.String())
	line("previous", v.Extra.Previous.String())
	line("sealed by", v.Extra.SealingNode)
	payload := fmt.Sprintf("%d bytes", v.Payload.Size)
	if v.Payload.ContentType != "" {
		payload += ", " + v.Payload.ContentType
	}
	if v.Payload.Redacted {
		payload += ", redacted"
	}
	line("payload", payload)
	printData(&b, v.Payload.Data)
	if v.Beside != nil {
		line("held back", "the payload of the event that waits")
		printData(&b, *v.Beside)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func printData(b *strings.Builder, d view.Data) {
	var indented bytes.Buffer
	switch {
	case len(d.JSON) > 0 && json.Indent(&indented, d.JSON, "  ", "  ") == nil:
		fmt.Fprintf(b, "  %s\n", indented.Bytes())
	case len(d.Base64) > 0:
		text, err := json.Marshal(d.Base64)
		if err == nil {
			fmt.Fprintf(b, "  base64 %s\n", text)
		}
	}
}

func verdictText(decision, gate string, reasons []string) string {
	text := decision + " by gate " + gate
	if len(reasons) > 0 {
		text += ": " + strings.Join(reasons, ", ")
	}
	return text
}

func effectText(e *view.Effect) string {
	var parts []string
	for _, x := range []struct {
		name  string
		value json.Number
	}{{"risk", e.Risk}, {"fairness", e.Fairness}, {"privacy", e.Privacy}, {"novelty", e.Novelty}, {"security", e.Security}} {
		if x.value != "0" {
			parts = append(parts, x.name+"="+string(x.value))
		}
	}
	return strings.Join(parts, " ")
}
