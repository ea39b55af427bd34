package gates_test

import (
	"encoding/json"
	"errors"
	"strconv"
	"testing"

	"github.com/exonode/exonode/gates"
)

func TestDecimal(t *testing.T) {
	for _, test := range []struct {
		text string
		want uint16
		err  error
	}{
		{"0", 0, nil}, {"1", 10_000, nil}, {"0.55", 5500, nil}, {"0.0001", 1, nil}, {"1.0", 10_000, nil},
		{"1.0000", 10_000, nil}, {"0.9999", 9999, nil}, {"-0", 0, nil}, {"0.5000", 5000, nil},
		{"1.0001", 0, gates.ErrRange}, {"2", 0, gates.ErrRange}, {"-0.1", 0, gates.ErrRange}, {"-1", 0, gates.ErrRange},
		{"99999999999999999999999999", 0, gates.ErrRange}, {"18446744073709551616", 0, gates.ErrRange},
		{"", 0, gates.ErrMalformed}, {".", 0, gates.ErrMalformed}, {".5", 0, gates.ErrMalformed}, {"1.", 0, gates.ErrMalformed},
		{"0.12345", 0, gates.ErrMalformed}, {"0.50000", 0, gates.ErrMalformed}, {"1e-1", 0, gates.ErrMalformed},
		{"+1", 0, gates.ErrMalformed}, {"00", 0, gates.ErrMalformed}, {"01", 0, gates.ErrMalformed}, {"0.5.5", 0, gates.ErrMalformed},
		{"-", 0, gates.ErrMalformed}, {"--1", 0, gates.ErrMalformed}, {" 1", 0, gates.ErrMalformed}, {"1 ", 0, gates.ErrMalformed},
		{"0,5", 0, gates.ErrMalformed}, {"NaN", 0, gates.ErrMalformed}, {`"1"`, 0, gates.ErrMalformed}, {"٣", 0, gates.ErrMalformed},
	} {
		got, err := gates.ParseDecimal(test.text, gates.Scale)
		if got != test.want || !errors.Is(err, test.err) {
			t.Errorf("ParseDecimal(%q) is %d, %v; want %d, %v", test.text, got, err, test.want, test.err)
		}
	}
	for v := range uint16(gates.MaxNorm + 1) {
		text := gates.FormatDecimal(v)
		if got, err := gates.ParseDecimal(text, gates.MaxNorm); err != nil || got != v {
			t.Fatalf("%d is %q, which is %d, %v", v, text, got, err)
		}
		if want := strconv.FormatFloat(float64(v)/gates.Scale, 'f', -1, 64); text != want {
			t.Fatalf("%d is %q, want %q", v, text, want)
		}
	}
}

func TestEffectJSON(t *testing.T) {
	for text, want := range map[string]gates.Effect{
		`{}`:                          {},
		`{"risk":0.3,"security":0.4}`: {3000, 0, 0, 0, 4000},
		`{"risk":1,"fairness":0.2,"privacy":0.0001,"novelty":0.25,"security":1}`: {10_000, 2000, 1, 2500, 10_000},
	} {
		var e gates.Effect
		if err := json.Unmarshal([]byte(text), &e); err != nil || e != want {
			t.Errorf("%s is %v, %v; want %v", text, [5]uint16(e), err, [5]uint16(want))
		}
		if got, err := json.Marshal(want); err != nil || string(got) != text || want.String() != text {
			t.Errorf("%v is %s, %v; want %s", [5]uint16(want), got, err, text)
		}
	}
	for _, test := range []struct {
		text, dimension string
		err             error
	}{
		{`{"risk":1.5}`, "risk", gates.ErrRange},
		{`{"novelty":-0.5}`, "novelty", gates.ErrRange},
		{`{"privacy":0.00001}`, "privacy", gates.ErrMalformed},
		{`{"privacy":"0.5"}`, "privacy", gates.ErrMalformed},
		{`{"privacy":null}`, "privacy", gates.ErrMalformed},
		{`{"risk":0.1,"zeal":0.1,"Risk":1}`, "Risk", gates.ErrMalformed},
		{`{"risk":0.1,"risk":0.2}`, "", gates.ErrMalformed},
		{`[0.1]`, "", gates.ErrMalformed},
		{`null`, "", gates.ErrMalformed},
	} {
		e := gates.Effect{1}
		err := e.UnmarshalJSON([]byte(test.text))
		var ee *gates.EffectError
		if !errors.As(err, &ee) || ee.Dimension != test.dimension || !errors.Is(err, test.err) {
			t.Errorf("%s: %v, want %v over %q", test.text, err, test.err, test.dimension)
		}
		if e != (gates.Effect{1}) {
			t.Errorf("%s: the effect was changed", test.text)
		}
	}
}

func TestEffectArithmetic(t *testing.T) {
	a, b := gates.Effect{1, 5, 3, 0, 10_000}, gates.Effect{2, 4, 3, 1, 0}
	if got := a.Max(b); got != (gates.Effect{2, 5, 3, 1, 10_000}) || b.Max(a) != got {
		t.Errorf("maximum is %v", [5]uint16(got))
	}
	if n := (gates.Effect{10_000, 10_000, 10_000, 10_000, 10_000}).SquaredNorm(); n != 500_000_000 {
		t.Errorf("squared norm is %d", n)
	}
	if n := uint64(gates.MaxNorm); n*n < 500_000_000 || (n-1)*(n-1) >= 500_000_000 {
		t.Errorf("MaxNorm is %d", n)
	}
	if err := (gates.Effect{10_000, 0, 0, 0, 10_001}).Check(); !errors.Is(err, gates.ErrRange) {
		t.Errorf("got %v, want ErrRange", err)
	}
	if err := (gates.Effect{10_000}).Check(); err != nil {
		t.Error(err)
	}
}

func FuzzDecimal(f *testing.F) {
	for _, s := range []string{"0.55", "-1", "1.00001", "1e5", "00.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := gates.ParseDecimal(text, gates.Scale)
		if err != nil {
			if v != 0 || !errors.Is(err, gates.ErrRange) && !errors.Is(err, gates.ErrMalformed) {
				t.Fatalf("%q: %d, %v", text, v, err)
			}
			return
		}
		float, err := strconv.ParseFloat(text, 64)
		if err != nil || v > gates.Scale || int(float*gates.Scale+0.5) != int(v) {
			t.Fatalf("%q is %d, by floating point %v (%v)", text, v, float, err)
		}
	})
}

func FuzzEffect(f *testing.F) {
	f.Add([]byte(`{"risk":0.3,"security":0.4}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var e gates.Effect
		if e.UnmarshalJSON(text) != nil {
			return
		}
		if err := e.Check(); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		var again gates.Effect
		if err := again.UnmarshalJSON([]byte(e.String())); err != nil || again != e {
			t.Fatalf("%q is %s, which is %s (%v)", text, e, again, err)
		}
	})
}
