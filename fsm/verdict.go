package fsm

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/cbor"
)

// This file encodes the parts of a proposal that have parts themselves. Sealing
// checks the values against the limits of the chain; here only the encoding is
// strict.

// verdictSize returns how many bytes an encoded verdict takes, at most.
func verdictSize(v *chain.Verdict) int {
	n := 120 + len(v.Gate) + len(v.Profile)
	for i := range v.Rules {
		n += 16 + len(v.Rules[i].ID) + len(v.Rules[i].Severity)
	}
	for i := range v.Counts {
		n += 20 + len(v.Counts[i].Name)
	}
	for _, r := range v.Reasons {
		n += 5 + len(r)
	}
	return n
}

// appendVerdict appends a verdict, encoded as it stands in a header, as a byte
// string.
func appendVerdict(b []byte, v *chain.Verdict) ([]byte, error) {
	var scratch [512]byte
	encoded, err := v.AppendBinary(scratch[:0])
	if err != nil {
		return b, err
	}
	return cbor.AppendBytes(b, encoded), nil
}

func readVerdict(r *cbor.Reader) *chain.Verdict {
	at := r.Offset()
	v := new(chain.Verdict)
	encoded := r.Bytes()
	if r.Err() != nil {
		return nil
	}
	if err := v.UnmarshalBinary(encoded); err != nil {
		r.Fail(at, err.Error())
		return nil
	}
	return v
}

// appendEffect appends an array of the five elements.
func appendEffect(b []byte, e *chain.Effect) []byte {
	b = cbor.AppendArray(b, len(e))
	for _, v := range e {
		b = cbor.AppendUint(b, uint64(v))
	}
	return b
}

func readEffect(r *cbor.Reader) *chain.Effect {
	e := new(chain.Effect)
	at := r.Offset()
	if n := r.Array(); n != len(e) {
		r.Fail(at, fmt.Sprintf("effect of %d elements", n))
		return e
	}
	for i := range e {
		v := r.Uint()
		if v > chain.MaxEffect {
			r.Fail(at, "effect out of range")
		}
		e[i] = uint16(v)
	}
	return e
}

// appendExtensions appends a map; a map's keys stand shorter first, whereas
// Event.Extensions is sorted by name.
func appendExtensions(b []byte, exts []chain.Extension) []byte {
	b = cbor.AppendMap(b, len(exts))
	// At most 64: looking for the next one costs less than sorting a copy.
	var last *chain.Extension
	for range exts {
		var least *chain.Extension
		for i := range exts {
			e := &exts[i]
			if (last == nil || cbor.CompareText(last.Name, e.Name) < 0) &&
				(least == nil || cbor.CompareText(e.Name, least.Name) < 0) {
				least = e
			}
		}
		if least == nil {
			break
		}
		b = cbor.AppendText(b, least.Name)
		switch v := least.Value.(type) {
		case string:
			b = cbor.AppendText(b, v)
		case int64:
			b = cbor.AppendInt(b, v)
		case bool:
			b = cbor.AppendBool(b, v)
		}
		last = least
	}
	return b
}

func readExtensions(r *cbor.Reader) []chain.Extension {
	m := r.TextMap()
	if m.Len() == 0 {
		return nil
	}
	exts := make([]chain.Extension, 0, min(m.Len(), chain.MaxExtensions))
	for m.Next() {
		e := chain.Extension{Name: m.Key()}
		switch r.Peek() {
		case cbor.Text:
			e.Value = r.Text()
		case cbor.Uint, cbor.Negative:
			e.Value = r.Int()
		case cbor.Bool:
			e.Value = r.Bool()
		default:
			r.Fail(r.Offset(), "an extension is text, an integer or a boolean")
		}
		exts = append(exts, e)
	}
	slices.SortFunc(exts, func(a, b chain.Extension) int { return cmp.Compare(a.Name, b.Name) })
	return exts
}
