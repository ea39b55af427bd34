package python

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/cbor"
	"github.com/exonode/exonode/chain/export"
)

var chainID = chain.ID{0xe0, 0xe1, 0xe2}

// made is a chain that is made by hand, so that it can be wrong in one thing while
// every hash in it is right.
type made struct {
	t    *testing.T
	head chain.Head
	tree chain.Tree
	recs []chain.Record
}

// add appends an entry of workspace default, or what edit makes of it.
func (m *made) add(payload string, edit func(h *chain.Header)) *chain.Record {
	m.t.Helper()
	env := chain.Envelope{Payload: []byte(payload), Salt: [32]byte{byte(len(m.recs))}}
	envelope, err := env.MarshalBinary()
	if err != nil {
		m.t.Fatal(err)
	}
	h := chain.Header{
		Version: 1, ChainID: chainID, Sequence: m.head.Size, Previous: m.head.Hash, Time: m.head.Time + 1, Workspace: "default",
		Source: "test", ID: fmt.Sprint(m.head.Size), Kind: "test.event", Principal: "local",
		Envelope: chain.EnvelopeRef{Hash: chain.EnvelopeHash(envelope), Size: uint64(len(payload))},
	}
	if len(m.recs) > 0 {
		last, err := chain.DecodeHeader(m.recs[len(m.recs)-1].Header)
		if err == nil {
			h.Epoch = last.Epoch
		}
	} else {
		h.Time = 1_790_000_000_000_000_000
	}
	if edit != nil {
		edit(&h)
	}
	header, err := h.MarshalBinary()
	if err != nil {
		m.t.Fatal(err)
	}
	return m.seal(header, envelope, h.Time)
}

// seal appends an entry whose header may be anything.
func (m *made) seal(header, envelope []byte, time int64) *chain.Record {
	m.recs = append(m.recs, chain.Record{Sequence: m.head.Size, Header: header, Envelope: envelope})
	m.head = chain.Head{Size: m.head.Size + 1, Hash: chain.HeaderHash(header), Time: time}
	m.tree.Append(header, nil)
	return &m.recs[len(m.recs)-1]
}

func (m *made) system(kind, payload string) *chain.Record {
	m.t.Helper()
	return m.add(payload, func(h *chain.Header) { h.Workspace, h.Kind = "system", kind })
}

func (m *made) recovery(epoch uint64, payload string) *chain.Record {
	m.t.Helper()
	return m.add(payload, func(h *chain.Header) { h.Workspace, h.Kind, h.Epoch = "system", "chain.recover", epoch })
}

// recovered is the payload of a recovery that goes on from here.
func (m *made) recovered(epoch uint64) string {
	return fmt.Sprintf(`{"epoch":%d,"last_seq":%d,"head_hash":"%v","lost_peers":[],"reason":""}`, epoch, m.head.Size-1, m.head.Hash)
}

func (m *made) escalation(besides ...string) *chain.Record {
	m.t.Helper()
	env := chain.Envelope{Payload: []byte(`{"held":"back"}`)}
	beside, err := env.MarshalBinary()
	if err != nil {
		m.t.Fatal(err)
	}
	payload := fmt.Sprintf(`{"envelope_hash":"%v"}`, chain.EnvelopeHash(beside))
	for _, p := range besides {
		payload = strings.ReplaceAll(p, "HASH", chain.EnvelopeHash(beside).String())
	}
	r := m.system("governance.escalate", payload)
	r.Beside = beside
	return r
}

// short is a chain of three entries.
func short(t *testing.T) *made {
	t.Helper()
	m := &made{t: t}
	m.system("chain.genesis", "{}")
	m.add("one", nil)
	m.add("", func(h *chain.Header) {
		h.Subject, h.SchemaVersion, h.Causes = "s", 3, []uint64{0, 1}
		h.Extensions = []chain.Extension{{Name: "a", Value: int64(-1)}, {Name: "b", Value: false}, {Name: "c", Value: ""}}
	})
	return m
}

// sample has an entry of each kind that verification knows.
func sample(t *testing.T) *made {
	t.Helper()
	m := short(t)
	m.add("to be redacted", nil).Envelope = nil
	m.escalation()
	m.system("chain.redact", `{"target_seq":3}`)
	m.recovery(1, m.recovered(1))
	m.add("three", nil)
	m.escalation().Beside = nil
	m.system("chain.redact", `{"target_seq": 8}`)
	m.add("the last", nil)
	return m
}

// binary is the chain's export in its binary form, and where each record's frame
// begins in it.
func (m *made) binary() (data []byte, frames []int) {
	return encode(m.recs, m.head, m.tree.Root())
}

func encode(recs []chain.Record, head chain.Head, root chain.Hash) (data []byte, frames []int) {
	frame := func(b []byte) {
		data = append(binary.BigEndian.AppendUint32(data, uint32(len(b))), b...)
	}
	data = []byte("exonode-export/1\n")
	b := cbor.AppendBytes(append(cbor.AppendMap(nil, 3), 0), chainID[:])
	frame(cbor.AppendUint(append(cbor.AppendUint(append(b, 1), 0), 2), uint64(len(recs))))
	for _, r := range recs {
		n := 2
		for _, e := range [][]byte{r.Envelope, r.Beside} {
			if e != nil {
				n++
			}
		}
		b := cbor.AppendBytes(append(cbor.AppendUint(append(cbor.AppendMap(nil, n), 0), r.Sequence), 1), r.Header)
		if r.Envelope != nil {
			b = cbor.AppendBytes(append(b, 2), r.Envelope)
		}
		if r.Beside != nil {
			b = cbor.AppendBytes(append(b, 3), r.Beside)
		}
		frames = append(frames, len(data))
		frame(b)
	}
	frames = append(frames, len(data))
	b = cbor.AppendBytes(append(cbor.AppendUint(append(cbor.AppendMap(nil, 4), 0), head.Size), 1), head.Hash[:])
	b = cbor.AppendUint(append(b, 2), uint64(head.Time))
	frame(cbor.AppendBytes(append(b, 3), root[:]))
	return data, frames
}

// lines is the chain's export as JSON lines, without views.
func (m *made) lines() []byte {
	m.t.Helper()
	var out bytes.Buffer
	w, err := export.NewWriter(&out, export.JSONLines, export.Info{ChainID: chainID, To: m.head.Size})
	if err != nil {
		m.t.Fatal(err)
	}
	for i := range m.recs {
		if err := w.Write(&m.recs[i]); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		m.t.Fatal(err)
	}
	var bare []byte
	for line := range bytes.Lines(out.Bytes()) {
		if i := bytes.Index(line, []byte(`,"entry":`)); i > 0 {
			line = append(line[:i:i], "}\n"...)
		}
		bare = append(bare, line...)
	}
	return bare
}

// inGo verifies an export with package chain.
func inGo(t *testing.T, data []byte) error {
	t.Helper()
	r, err := export.NewReader(bytes.NewReader(data))
	if err != nil {
		return err
	}
	_, err = export.Verify(t.Context(), r, chain.VerifyOptions{})
	return err
}

func TestSound(t *testing.T) {
	v := start(t)
	m := sample(t)
	data, _ := m.binary()
	for form, data := range map[string][]byte{"binary": data, "JSON lines": m.lines()} {
		if err := inGo(t, data); err != nil {
			t.Fatalf("%s: chain: %v", form, err)
		}
		a := v.ask("chain", data)
		want := fmt.Sprintf(`{"size": %d, "head": "%v", "redacted": 2}`, m.head.Size, m.head.Hash)
		if a.Bad != "" || string(a.Value) != want {
			t.Errorf("%s: %s %s, want %s", form, a.Bad, a.Value, want)
		}
	}
	empty, _ := (&made{t: t}).binary()
	if a := v.ask("chain", empty); (a.Bad == "") != (inGo(t, empty) == nil) {
		t.Errorf("an empty chain: verify.py: %q, chain: %v", a.Bad, inGo(t, empty))
	}
}

// TestChanged flips bits of an export, many in each frame. The entry that holds the
// bit is named.
func TestChanged(t *testing.T) {
	long(t)
	v := start(t)
	m := sample(t)
	data, frames := m.binary()
	for at := 0; at < len(data); at += 7 {
		bad := slices.Clone(data)
		bad[at] ^= 1 << (at % 8)
		a := v.ask("chain", bad)
		if a.Bad == "" || inGo(t, bad) == nil {
			t.Fatalf("a flipped bit at %d passes", at)
		}
		next, _ := slices.BinarySearch(frames, at+1)
		if next > 0 && next < len(frames) && (a.Entry == nil || *a.Entry != uint64(next-1)) {
			t.Errorf("a flipped bit at %d, of entry %d: %s", at, next-1, a.Bad)
		}
	}
	data = m.lines()
	for at := 0; at < len(data); at += 11 {
		bad := slices.Clone(data)
		bad[at] ^= 1 << (at % 7)
		a := v.ask("chain", bad)
		if a.Bad == "" || inGo(t, bad) == nil {
			t.Fatalf("a flipped bit at %d of JSON lines passes", at)
		}
		line := bytes.Count(data[:at], []byte("\n"))
		if line > 0 && line <= len(m.recs) && (a.Entry == nil || *a.Entry != uint64(line-1)) {
			t.Errorf("JSON lines: a flipped bit at %d, of entry %d: %s", at, line-1, a.Bad)
		}
	}
	for _, cut := range []int{0, 1, 16, 17, 20, len(data) / 2, len(data) - 1} {
		if a := v.ask("chain", data[:cut]); a.Bad == "" {
			t.Errorf("the first %d bytes pass", cut)
		}
	}
	whole, _ := m.binary()
	for _, form := range [][]byte{data, whole} {
		if a := v.ask("chain", append(slices.Clone(form), '\n')); a.Bad == "" {
			t.Error("a byte behind the export passes")
		}
	}
}

// TestMadeUp verifies chains whose hashes are all right, and that are no chains.
func TestMadeUp(t *testing.T) {
	v := start(t)
	// raw appends an entry whose encoding was changed: what was hashed is not canonical.
	raw := func(old, new []byte) func(m *made) {
		return func(m *made) {
			m.add("x", func(h *chain.Header) { h.Subject = "subject" })
			r := m.recs[len(m.recs)-1]
			m.recs = m.recs[:len(m.recs)-1]
			changed := bytes.Replace(r.Header, old, new, 1)
			if bytes.Equal(changed, r.Header) {
				m.t.Fatalf("%x has no %x", r.Header, old)
			}
			n := &made{t: m.t}
			for i := range m.recs {
				n.seal(m.recs[i].Header, m.recs[i].Envelope, 0)
			}
			n.seal(changed, r.Envelope, m.head.Time)
			m.recs, m.tree = n.recs, n.tree
			m.head = n.head
		}
	}
	header := func(edit func(h *chain.Header)) func(m *made) { return func(m *made) { m.add("x", edit) } }
	tests := map[string]struct {
		make func(m *made)
		bad  bool
	}{
		"nothing":                         {func(*made) {}, false},
		"number not in its shortest form": {raw([]byte{0, 1, 1, 0x50}, []byte{0, 0x18, 1, 1, 0x50}), true},
		"length not in its shortest form": {raw([]byte("\x08\x613"), []byte("\x08\x78\x013")), true},
		"indefinite length":               {raw([]byte("\x0b\x67subject"), []byte("\x0b\x7f\x67subject\xff")), true},
		"keys out of order":               {raw([]byte("\x07\x64test\x08\x613"), []byte("\x08\x613\x07\x64test")), true},
		"key twice":                       {raw([]byte("\x07\x64test\x08\x613"), []byte("\x07\x64test\x07\x64test")), true},
		"unknown key":                     {raw([]byte("\x0b\x67subject"), []byte("\x18\x1a\x67subject")), true},
		"empty field":                     {raw([]byte("\x0b\x67subject"), []byte("\x0b\x60")), true},
		"null":                            {raw([]byte("\x0b\x67subject"), []byte("\x0b\xf6")), true},
		"tag":                             {raw([]byte("\x0b\x67subject"), []byte("\x0b\xc0\x67subject")), true},
		"control character":               {raw([]byte("subject"), []byte("sub\ncts")), true},
		"another version":                 {raw([]byte{0, 1, 1, 0x50}, []byte{0, 2, 1, 0x50}), true},
		"another chain id":                {header(func(h *chain.Header) { h.ChainID[0]++ }), true},
		"another sequence":                {header(func(h *chain.Header) { h.Sequence++ }), true},
		"the same time":                   {header(func(h *chain.Header) { h.Time-- }), true},
		"a later time":                    {header(func(h *chain.Header) { h.Time += 5 }), false},
		"another epoch":                   {header(func(h *chain.Header) { h.Epoch++ }), true},
		"another size of the payload":     {header(func(h *chain.Header) { h.Envelope.Size++ }), true},
		"another envelope":                {header(func(h *chain.Header) { h.Envelope.Hash[31]++ }), true},
		"a second genesis":                {func(m *made) { m.system("chain.genesis", "{}") }, true},
		"a genesis elsewhere":             {header(func(h *chain.Header) { h.Kind = "chain.genesis" }), false},
		"envelope missing":                {func(m *made) { m.add("x", nil).Envelope = nil }, true},
		"envelope of system missing":      {func(m *made) { m.system("test.event", "x").Envelope = nil }, true},
		"envelope not canonical": {func(m *made) {
			envelope := append([]byte("\xa2\x00\x58\x01x\x01\x58\x20"), make([]byte, 32)...)
			m.add("x", func(h *chain.Header) { h.Envelope.Hash = chain.EnvelopeHash(envelope) }).Envelope = envelope
		}, true},
		"redaction of system":     {func(m *made) { m.system("chain.redact", `{"target_seq":0}`) }, true},
		"redaction of itself":     {func(m *made) { m.system("chain.redact", `{"target_seq":3}`) }, true},
		"redaction of another":    {func(m *made) { m.add("x", nil).Envelope = nil; m.system("chain.redact", `{"target_seq":2}`) }, true},
		"redaction of what stays": {func(m *made) { m.system("chain.redact", `{"target_seq":1}`) }, false},
		"redaction elsewhere": {func(m *made) {
			m.add("x", nil).Envelope = nil
			m.add(`{"target_seq":3}`, func(h *chain.Header) { h.Kind = "chain.redact" })
		}, true},
		"escalation without its own":   {func(m *made) { m.escalation().Envelope = nil }, true},
		"escalation without the other": {func(m *made) { m.escalation().Beside = nil }, true},
		"escalation of another":        {func(m *made) { m.escalation(`{"envelope_hash":"` + strings.Repeat("0", 64) + `"}`) }, true},
		"second envelope elsewhere":    {func(m *made) { r := m.add("x", nil); r.Beside = r.Envelope }, true},
		"recovery":                     {func(m *made) { m.recovery(7, m.recovered(7)) }, false},
		"recovery in the same epoch":   {func(m *made) { m.recovery(0, m.recovered(0)) }, true},
		"recovery of another epoch":    {func(m *made) { m.recovery(1, m.recovered(2)) }, true},
		"recovery after another entry": {func(m *made) { m.recovery(1, strings.Replace(m.recovered(1), `"last_seq":2`, `"last_seq":1`, 1)) }, true},
		"recovery after another hash":  {func(m *made) { m.recovery(1, strings.Replace(m.recovered(1), "hash\":\"", "hash\":\"0", 1)) }, true},
	}
	for name, test := range tests {
		m := short(t)
		bad := m.head.Size
		test.make(m)
		data, _ := m.binary()
		err := inGo(t, data)
		a := v.ask("chain", data)
		if (err != nil) != test.bad || (a.Bad != "") != test.bad {
			t.Errorf("%s: chain: %v; verify.py: %q; want an error: %v", name, err, a.Bad, test.bad)
		}
		if !test.bad {
			continue
		}
		var named *chain.BadEntryError
		if !errors.As(err, &named) || named.Sequence != bad || a.Entry == nil || *a.Entry != bad {
			t.Errorf("%s: entry %d is bad; chain: %v; verify.py: %s", name, bad, err, a.Bad)
		}
	}

	// Entry 4 names entry 3, so it is not entry 3's fault that it does not name entry 2.
	m := short(t)
	m.add("x", func(h *chain.Header) { h.Previous[3]++ })
	m.add("y", nil)
	data, _ := m.binary()
	var named *chain.BadEntryError
	if err := inGo(t, data); !errors.As(err, &named) || named.Sequence != 2 {
		t.Errorf("another previous: chain: %v, want entry 2", err)
	}
	if a := v.ask("chain", data); a.Entry == nil || *a.Entry != 2 {
		t.Errorf("another previous: verify.py: %s, want entry 2", a.Bad)
	}
}

// TestRearranged takes entries out, and makes them change places.
func TestRearranged(t *testing.T) {
	v := start(t)
	refused := func(what string, entry uint64, recs []chain.Record, head chain.Head, root chain.Hash) {
		t.Helper()
		data, _ := encode(recs, head, root)
		a := v.ask("chain", data)
		if a.Entry == nil || *a.Entry != entry || inGo(t, data) == nil {
			t.Errorf("%s: %q, want entry %d", what, a.Bad, entry)
		}
	}
	m := sample(t)
	root := m.tree.Root()
	dropped := slices.Delete(slices.Clone(m.recs), 7, 8)
	refused("an entry dropped", 7, dropped, m.head, root)
	for i := 7; i < len(dropped); i++ {
		dropped[i].Sequence--
	}
	// The entry after it is vouched for by the next one, so that the one before is blamed.
	refused("an entry dropped, the others counted anew", 6, dropped, m.head, root)
	swapped := slices.Clone(m.recs)
	swapped[1], swapped[2] = swapped[2], swapped[1]
	refused("two entries swapped", 1, swapped, m.head, root)
	swapped[1].Sequence, swapped[2].Sequence = 1, 2
	refused("two entries swapped and counted anew", 1, swapped, m.head, root)
	last := m.head.Size - 1
	wrong := root
	wrong[0]++
	refused("another root", last, m.recs, m.head, wrong)
	head := m.head
	head.Hash[0]++
	refused("another head", last, m.recs, head, root)
	head = m.head
	head.Time++
	refused("another time", last, m.recs, head, root)
	head = m.head
	head.Size++
	refused("another size", last, m.recs, head, root)
	missing := slices.Clone(m.recs)
	missing[7].Envelope = nil
	refused("an envelope lost", 7, missing, m.head, root)
	refused("cut at its end", last-1, m.recs[:last], m.head, root)

	// The chain is cut, and says so: only a checkpoint tells.
	cut := treeOf(m.recs[:7])
	data, _ := encode(m.recs[:7], headOf(t, m.recs[:7]), cut.Root())
	if a := v.ask("chain", data); a.Bad != "" {
		t.Errorf("a shorter chain: %s", a.Bad)
	}
	var part bytes.Buffer
	start := chain.Start{ChainID: chainID, Head: headOf(t, m.recs[:2])}
	tree := treeOf(m.recs[:2])
	start.Tree = &tree
	w, err := export.NewWriter(&part, export.Binary, export.Info{ChainID: chainID, From: 2, To: 3, Start: &start})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Write(&m.recs[2]), w.Close()); err != nil {
		t.Fatal(err)
	}
	if a := v.ask("chain", part.Bytes()); !strings.Contains(a.Bad, "begins with entry 2") {
		t.Errorf("a part: %q", a.Bad)
	}
}

func headOf(t *testing.T, recs []chain.Record) chain.Head {
	t.Helper()
	r := recs[len(recs)-1]
	h, err := chain.DecodeHeader(r.Header)
	if err != nil {
		t.Fatal(err)
	}
	return chain.Head{Size: r.Sequence + 1, Hash: chain.HeaderHash(r.Header), Time: h.Time}
}

func treeOf(recs []chain.Record) (tree chain.Tree) {
	for i := range recs {
		tree.Append(recs[i].Header, nil)
	}
	return tree
}

// TestSamePayloads writes the members that verification reads in odd ways, and asks
// both verifiers.
func TestSamePayloads(t *testing.T) {
	v := start(t)
	agreed := map[bool]int{}
	same := func(payload string, m *made) {
		t.Helper()
		data, _ := m.binary()
		err := inGo(t, data)
		a := v.ask("chain", data)
		if (err == nil) != (a.Bad == "") {
			t.Errorf("%s\nchain: %v\nverify.py: %s", payload, err, a.Bad)
		}
		agreed[err == nil]++
	}
	for _, payload := range []string{
		`{"target_seq":3}`, " \t\r\n{ \"a\" : [ 1 , {} ] , \"target_seq\" : 3 } ", `{"target_seq":2,"target_seq":3}`, `{"target_seq":3,"target_seq":2}`,
		`{"target\u005fseq":3}`, `{"Target_Seq":3}`, `{"target_seq":2,"TARGET_SEQ":3}`, `{"target_seq":3.0}`, `{"target_seq":3e0}`, `{"target_seq":-3}`,
		`{"target_seq":"3"}`, `{"target_seq":03}`, `{"target_seq":null}`, `{"target_seq":18446744073709551619}`, `{"a":"\ud800","target_seq":3}`,
		"{\"a\":\"\xff\",\"target_seq\":3}", "{\"a\":\"\x01\",\"target_seq\":3}", `{"a":NaN,"target_seq":3}`, `{"target_seq":3,}`, `{"target_seq":3} x`,
		`[{"target_seq":3}]`, `{}`, ``, `null`, `{"a":{"target_seq":3}}`, `{"a":1e999,"target_seq":3}`, "\xef\xbb\xbf{\"target_seq\":3}",
		`{"a":"}","b":"\"","target_seq":3}`, `{"a":` + strings.Repeat("1", 5000) + `,"target_seq":3}`,
	} {
		m := short(t)
		m.add("x", nil).Envelope = nil
		m.system("chain.redact", payload)
		same(payload, m)
	}
	for _, payload := range []string{
		`{"envelope_hash":"HASH"}`, `{"envelope_hash": "HASH" , "x":1}`, `{"envelope_hash":"","envelope_hash":"HASH"}`, `{"envelope_hash":"HASH","envelope_hash":""}`,
		`{"envelope_hash":"0xHASH"}`, `{"envelope_hash":["HASH"]}`, `{"envelope_hash":HASH}`, `{"envelope_hash":" HASH"}`, `{"envelope_hash":"\"HASH"}`,
		`{"x":"HASH","envelope_hash":"\u0030"}`,
	} {
		m := short(t)
		m.escalation(payload)
		same(payload, m)
	}
	m := short(t)
	r := m.escalation(`{"envelope_hash":"ESCAPED"}`)
	escaped := `{"envelope_hash":"\u00` + hex.EncodeToString([]byte(chain.EnvelopeHash(r.Beside).String()[:1])) + chain.EnvelopeHash(r.Beside).String()[1:] + `"}`
	m = short(t)
	m.escalation(escaped)
	same(escaped, m)
	m = short(t)
	m.escalation(`{"envelope_hash":"` + strings.ToUpper(chain.EnvelopeHash(r.Beside).String()) + `"}`)
	same("upper case", m)
	if agreed[true] < 8 || agreed[false] < 8 {
		t.Errorf("of the payloads %d were taken, and %d not", agreed[true], agreed[false])
	}
}

// TestLines writes JSON lines in ways that the encoder would not.
func TestLines(t *testing.T) {
	v := start(t)
	m := sample(t)
	data := string(m.lines())
	for what, c := range map[string]struct{ old, new string }{
		"white space":            {`{"sequence":1,`, `{"sequence": 1,`},
		"an escape":              {`"format":"exonode-export/1"`, `"format":"exonode-export\/1"`},
		"an unknown member":      {`{"sequence":1,`, `{"a":1,"sequence":1,`},
		"members out of order":   {`"from":0,"to":11`, `"to":11,"from":0`},
		"a name in another case": {`"size"`, `"Size"`},
		"a carriage return":      {"}\n{\"size\"", "}\r\n{\"size\""},
		"a leading zero":         {`"size":11`, `"size":011`},
		"a later time":           {`000010Z"`, `000011Z"`},
		"other unused bits":      {`A=="}`, `B=="}`},
		"an hour of 24":          {`T14:`, `T24:`},
		"hex in upper case":      {m.tree.Root().String(), strings.ToUpper(m.tree.Root().String())},
		"a line behind a view":   {`{"sequence":1,"header":"` + base64.StdEncoding.EncodeToString(m.recs[1].Header) + `"`, `{"sequence":1,"header":"` + base64.StdEncoding.EncodeToString(m.recs[1].Header) + `","x":{}`},
	} {
		changed := strings.Replace(data, c.old, c.new, 1)
		if changed == data {
			t.Errorf("%s: no %s in\n%s", what, c.old, data)
			continue
		}
		if a := v.ask("chain", []byte(changed)); a.Bad == "" || inGo(t, []byte(changed)) == nil {
			t.Errorf("%s passes (verify.py: %q)", what, a.Bad)
		}
	}
}

// run runs verify.py as a command.
func run(t *testing.T, status int, args ...string) string {
	t.Helper()
	cmd := exec.Command(python(t), append([]string{"-B", filepath.Join(scripts, "verify.py")}, args...)...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != status {
		t.Errorf("verify.py %v: status %d, want %d\n%s", args, got, status, out)
	}
	return string(out)
}

func file(t *testing.T, data []byte) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func TestCommand(t *testing.T) {
	long(t)
	for _, golden := range []string{"export.bin", "export.jsonl"} {
		out := run(t, 0, filepath.Join("../../chain/testdata", golden))
		for _, want := range []string{"8 entries, 1 of them redacted", "31aa7f8c2e766461575c39fdc8cf81ec522315443348059aebf5ffa3f37497b6", "not checked: "} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in %s", golden, want, out)
			}
		}
	}
	m := sample(t)
	data, frames := m.binary()
	data[frames[5]-40]++
	if out := run(t, 1, file(t, data)); !strings.HasPrefix(out, "verify.py: entry 4: ") {
		t.Errorf("entry 4 is changed: %s", out)
	}
	run(t, 1, file(t, []byte("nonsense")))
	run(t, 1, file(t, nil))
	run(t, 2)
	run(t, 2, "--nonsense")
	run(t, 2, filepath.Join(t.TempDir(), "missing"))
	run(t, 2, "--checkpoint", "a", "--policy", "b")
	run(t, 2, "--receipt", "a")
	run(t, 2, "a", "--policy", "b")
	run(t, 0, "--help")
}
