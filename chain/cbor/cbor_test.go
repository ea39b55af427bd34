package cbor_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"

	fx "github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"

	"github.com/exonode/exonode/chain/cbor"
)

// TestKnownEncodings holds the examples of RFC 8949, appendix A, that this
// subset has.
func TestKnownEncodings(t *testing.T) {
	tests := []struct {
		hex string
		got []byte
	}{
		{"00", cbor.AppendUint(nil, 0)},
		{"17", cbor.AppendUint(nil, 23)},
		{"1818", cbor.AppendUint(nil, 24)},
		{"18ff", cbor.AppendUint(nil, 255)},
		{"190100", cbor.AppendUint(nil, 256)},
		{"1a000f4240", cbor.AppendUint(nil, 1000000)},
		{"1b000000e8d4a51000", cbor.AppendUint(nil, 1000000000000)},
		{"1bffffffffffffffff", cbor.AppendUint(nil, math.MaxUint64)},
		{"20", cbor.AppendInt(nil, -1)},
		{"3903e7", cbor.AppendInt(nil, -1000)},
		{"3b7fffffffffffffff", cbor.AppendInt(nil, math.MinInt64)},
		{"40", cbor.AppendBytes(nil, nil)},
		{"4401020304", cbor.AppendBytes(nil, []byte{1, 2, 3, 4})},
		{"60", cbor.AppendText(nil, "")},
		{"6449455446", cbor.AppendText(nil, "IETF")},
		{"62c3bc", cbor.AppendText(nil, "ü")},
		{"80", cbor.AppendArray(nil, 0)},
		{"a0", cbor.AppendMap(nil, 0)},
		{"f4", cbor.AppendBool(nil, false)},
		{"f5", cbor.AppendBool(nil, true)},
	}
	for _, tt := range tests {
		if got := hex.EncodeToString(tt.got); got != tt.hex {
			t.Errorf("encoded %s, want %s", got, tt.hex)
		}
	}
}

func TestUintSize(t *testing.T) {
	for _, v := range []uint64{0, 23, 24, 255, 256, 65535, 65536, 1 << 24, math.MaxUint32, 1 << 32, 1 << 40, 1 << 48, 1 << 56, math.MaxUint64} {
		if got, want := cbor.UintSize(v), len(cbor.AppendUint(nil, v)); got != want {
			t.Errorf("UintSize(%d) = %d, want %d", v, got, want)
		}
	}
}

// TestRefused lists encodings that are valid CBOR, or nearly, and not ours.
func TestRefused(t *testing.T) {
	uints := func(r *cbor.Reader) { r.Uint() }
	ints := func(r *cbor.Reader) { r.Int() }
	text := func(r *cbor.Reader) { r.Text() }
	byteString := func(r *cbor.Reader) { r.Bytes() }
	fields := func(r *cbor.Reader) {
		for m := r.Map(); m.Next(); {
			r.Uint()
		}
	}
	attributes := func(r *cbor.Reader) {
		for m := r.TextMap(); m.Next(); {
			r.Uint()
		}
	}
	tests := []struct {
		name, hex string
		read      func(*cbor.Reader)
		offset    int
	}{
		{"nothing", "", uints, 0},
		{"1 in two bytes", "1801", uints, 0},
		{"255 in three", "1900ff", uints, 0},
		{"65535 in five", "1a0000ffff", uints, 0},
		{"2^32-1 in nine", "1b00000000ffffffff", uints, 0},
		{"cut in the head", "19ff", uints, 0},
		{"reserved length", "1c", uints, 0},
		{"indefinite", "5fff", byteString, 0},
		{"text for bytes", "6161", byteString, 0},
		{"negative for unsigned", "20", uints, 0},
		{"float", "f93c00", uints, 0},
		{"null", "f6", ints, 0},
		{"tag", "c000", ints, 0},
		{"over int64", "1b8000000000000000", ints, 0},
		{"under int64", "3b8000000000000000", ints, 0},
		{"cut in the string", "4401", byteString, 0},
		{"huge string", "5b7fffffffffffffff", byteString, 0},
		{"string of 1 in two bytes", "580161", byteString, 0},
		{"text of 23 in two bytes", "7817" + strings.Repeat("61", 23), text, 0},
		{"invalid UTF-8", "62c328", text, 0},
		{"surrogate", "63eda080", text, 0},
		{"keys not sorted", "a201000000", fields, 3},
		{"key twice", "a201000100", fields, 3},
		{"keys 24 then 1", "a21818000100", fields, 4},
		{"more pairs than data", "a5010002", fields, 0},
		{"text key for a number", "a1616100", fields, 1},
		{"text keys not sorted", "a2616200616100", attributes, 4},
		{"longer text key first", "a262616100616200", attributes, 5},
		{"text key twice", "a2616100616100", attributes, 4},
		{"data left over", "0000", uints, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data, err := hex.DecodeString(tt.hex)
			if err != nil {
				t.Fatal(err)
			}
			r := cbor.NewReader(data)
			tt.read(&r)
			err = r.Done()
			var ce *cbor.Error
			if !errors.As(err, &ce) {
				t.Fatalf("error %v, want a *cbor.Error", err)
			}
			if ce.Offset != tt.offset {
				t.Errorf("%v; want offset %d", err, tt.offset)
			}
		})
	}
}

func TestLastKey(t *testing.T) {
	b := cbor.AppendMap(nil, 2)
	b = cbor.AppendUint(cbor.AppendUint(b, math.MaxUint64), 1)
	b = cbor.AppendUint(cbor.AppendUint(b, 0), 1)
	r := cbor.NewReader(b)
	for m := r.Map(); m.Next(); {
		r.Uint()
	}
	if r.Done() == nil {
		t.Error("a key after the greatest was accepted")
	}
}

// TestErrorSticks: after an error nothing is read any more.
func TestErrorSticks(t *testing.T) {
	r := cbor.NewReader([]byte{0x01, 0x02, 0x61, 'a'})
	r.Text()
	first := r.Err()
	if first == nil {
		t.Fatal("text read from a number")
	}
	if r.Uint() != 0 || r.Text() != "" || r.Bytes() != nil && len(r.Bytes()) != 0 || r.Bool() || r.Array() != 0 || r.Int() != 0 {
		t.Error("a value was read after an error")
	}
	if m := r.Map(); m.Next() {
		t.Error("a key was read after an error")
	}
	if r.Done() != first {
		t.Errorf("the first error %v became %v", first, r.Done())
	}
}

func TestSharedTextIsStable(t *testing.T) {
	data := cbor.AppendText(nil, "shared")
	r := cbor.NewSharedReader(data)
	s := r.Text()
	clear(data)
	if s != "shared" {
		t.Errorf("text changed with its data: %q", s)
	}
}

// copyItem reads any item of the subset and writes it again.
func copyItem(r *cbor.Reader, b []byte, depth int) []byte {
	switch r.Peek() {
	case cbor.Uint:
		return cbor.AppendUint(b, r.Uint())
	case cbor.Negative:
		return cbor.AppendInt(b, r.Int())
	case cbor.Bytes:
		return cbor.AppendBytes(b, r.Bytes())
	case cbor.Text:
		return cbor.AppendText(b, r.Text())
	case cbor.Bool:
		return cbor.AppendBool(b, r.Bool())
	case cbor.Array:
		n := r.Array()
		b = cbor.AppendArray(b, n)
		for i := 0; i < n && r.Err() == nil && depth < 100; i++ {
			b = copyItem(r, b, depth+1)
		}
		return b
	case cbor.Map:
		m := r.Map()
		b = cbor.AppendMap(b, m.Len())
		for depth < 100 && m.Next() {
			b = copyItem(r, cbor.AppendUint(b, m.Key()), depth+1)
		}
		return b
	}
	r.Uint() // fails
	return b
}

// FuzzOneEncoding: what the reader accepts, the writer writes; and another
// implementation agrees that it is core deterministic.
func FuzzOneEncoding(f *testing.F) {
	for _, s := range []string{"00", "1818", "3903e7", "4401020304", "62c3bc", "83010203", "a201020304", "a10180", "f5", "8261618120"} {
		b, err := hex.DecodeString(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	mode, err := fx.CoreDetEncOptions().EncMode()
	if err != nil {
		f.Fatal(err)
	}
	dec, err := fx.DecOptions{MaxNestedLevels: 128, IntDec: fx.IntDecConvertNone}.DecMode()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := cbor.NewReader(data)
		out := copyItem(&r, nil, 0)
		if r.Done() != nil {
			return
		}
		if !bytes.Equal(out, data) {
			t.Fatalf("accepted %x, wrote %x", data, out)
		}
		var v any
		if err := dec.Unmarshal(data, &v); err != nil {
			t.Fatalf("another decoder refuses %x: %v", data, err)
		}
		if again, err := mode.Marshal(v); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("another encoder writes %x for %x (%v)", again, data, err)
		}
	})
}

func TestIntegersRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		i, u := rapid.Int64().Draw(t, "i"), rapid.Uint64().Draw(t, "u")
		r := cbor.NewReader(cbor.AppendUint(cbor.AppendInt(nil, i), u))
		if gi, gu := r.Int(), r.Uint(); r.Done() != nil || gi != i || gu != u {
			t.Fatalf("read %d, %d (%v), want %d, %d", gi, gu, r.Err(), i, u)
		}
	})
}

func TestNoAllocation(t *testing.T) {
	b := cbor.AppendMap(nil, 2)
	b = cbor.AppendBytes(append(b, 0), []byte("payload"))
	b = cbor.AppendText(append(b, 1), "text")
	n := testing.AllocsPerRun(100, func() {
		r := cbor.NewReader(b)
		for m := r.Map(); m.Next(); {
			if m.Key() == 0 {
				r.Bytes()
			} else {
				r.TextBytes()
			}
		}
		if r.Done() != nil {
			t.Fatal(r.Err())
		}
	})
	if n != 0 {
		t.Errorf("reading allocates %v times", n)
	}
}
