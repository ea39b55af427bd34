package gates

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/exonode/exonode/catalog"
)

// Scale is the number of units in 1: effects and thresholds are integers in
// ten-thousandths.
const Scale = 10_000

// Effect is an effect vector in ten-thousandths, each 0 to Scale, in the order
// risk, fairness, privacy, novelty, security.
type Effect [5]uint16

// Dimensions are the names of an effect's elements, in order.
func Dimensions() [5]string {
	return [...]string{"risk", "fairness", "privacy", "novelty", "security"}
}

// Errors of decimals and effects; the submitter fixes the number.
var (
	// ErrRange: the number is a decimal, but outside its range.
	ErrRange = errors.New("out of range")
	// ErrMalformed: the text is no decimal with at most four places, or no
	// effect vector.
	ErrMalformed = errors.New("malformed")
)

// EffectError names the element of an effect vector that is wrong. It wraps
// ErrRange or ErrMalformed.
type EffectError struct {
	// Dimension is the element's name as it was given; "" where the vector
	// as a whole is malformed.
	Dimension string
	// Err says what is wrong.
	Err error
}

// Error implements error.
func (e *EffectError) Error() string {
	if e.Dimension == "" {
		return "effect: " + e.Err.Error()
	}
	return "effect: " + e.Dimension + ": " + e.Err.Error()
}

// Unwrap returns Err.
func (e *EffectError) Unwrap() error { return e.Err }

// ParseDecimal reads a decimal such as "0.55", "1" or "-3" exactly: an optional
// sign, digits without leading zeros, and at most four places. It returns
// ten-thousandths. The error wraps ErrMalformed, or ErrRange where the decimal
// is below 0 or above max ten-thousandths.
func ParseDecimal(text string, max uint16) (uint16, error) {
	digits, negative := text, false
	if text != "" && text[0] == '-' {
		digits, negative = text[1:], true
	}
	var n uint64
	whole, places, point := 0, 0, false
	for i := range len(digits) {
		switch c := digits[i]; {
		case c == '.' && !point && whole > 0:
			point = true
			continue
		case c < '0' || c > '9', whole == 1 && !point && digits[0] == '0':
			return 0, fmt.Errorf("%w: %.40q is not a decimal with at most four places", ErrMalformed, text)
		case point:
			places++
		default:
			whole++
		}
		// Beyond this the value is out of range whatever follows.
		if n < 1<<40 {
			n = n*10 + uint64(digits[i]-'0')
		}
	}
	if whole == 0 || places > 4 || point && places == 0 {
		return 0, fmt.Errorf("%w: %.40q is not a decimal with at most four places", ErrMalformed, text)
	}
	for range 4 - places {
		n *= 10
	}
	if negative && n != 0 || n > uint64(max) {
		return 0, fmt.Errorf("%w: %.40s is not in 0 to %s", ErrRange, text, FormatDecimal(max))
	}
	return uint16(n), nil
}

// FormatDecimal writes ten-thousandths as the shortest decimal ("0.55", "1").
func FormatDecimal(v uint16) string { return string(appendDecimal(nil, v)) }

func appendDecimal(b []byte, v uint16) []byte {
	b = strconv.AppendUint(b, uint64(v/Scale), 10)
	frac := v % Scale
	if frac == 0 {
		return b
	}
	b = append(b, '.')
	for unit := uint16(Scale / 10); frac > 0; unit /= 10 {
		b = append(b, byte('0'+frac/unit))
		frac %= unit
	}
	return b
}

// Check returns an *EffectError where an element is above Scale.
func (e Effect) Check() error {
	for i, v := range e {
		if v > Scale {
			return &EffectError{Dimension: Dimensions()[i], Err: fmt.Errorf("%w: %s is not in 0 to 1", ErrRange, FormatDecimal(v))}
		}
	}
	return nil
}

// Max returns the element-wise maximum of e and f.
func (e Effect) Max(f Effect) Effect {
	for i := range e {
		e[i] = max(e[i], f[i])
	}
	return e
}

// SquaredNorm returns the square of the Euclidean norm, in units of
// 1/(Scale*Scale).
func (e Effect) SquaredNorm() uint64 {
	var sum uint64
	for _, v := range e {
		sum += uint64(v) * uint64(v)
	}
	return sum
}

// String returns e as MarshalJSON writes it.
func (e Effect) String() string { return string(e.appendJSON(nil, false)) }

// MarshalJSON writes an object with a decimal for each element that is not
// zero, in order: {"risk":0.3,"security":0.4}.
func (e Effect) MarshalJSON() ([]byte, error) { return e.appendJSON(nil, false), nil }

// appendJSON appends e as an object, with its zero elements where all.
func (e Effect) appendJSON(b []byte, all bool) []byte {
	b = append(b, '{')
	first := true
	for i, name := range Dimensions() {
		if e[i] == 0 && !all {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, '"')
		b = append(b, name...)
		b = append(b, '"', ':')
		b = appendDecimal(b, e[i])
	}
	return append(b, '}')
}

// UnmarshalJSON reads an object as MarshalJSON writes it; absent elements are
// zero. The error is an *EffectError.
func (e *Effect) UnmarshalJSON(text []byte) error {
	members, err := catalog.ReadObject(text)
	if err != nil {
		return &EffectError{Err: fmt.Errorf("%w: %w", ErrMalformed, err)}
	}
	var read Effect
	for i, name := range Dimensions() {
		value, ok := members[name]
		if !ok {
			continue
		}
		delete(members, name)
		if read[i], err = ParseDecimal(string(value), Scale); err != nil {
			return &EffectError{Dimension: name, Err: err}
		}
	}
	if name, ok := least(members); ok {
		return &EffectError{Dimension: name, Err: fmt.Errorf("%w: no such dimension", ErrMalformed)}
	}
	*e = read
	return nil
}

// least returns the smallest key of a map, so that errors do not depend on map
// order.
func least[V any](m map[string]V) (key string, ok bool) {
	for k := range m {
		if !ok || k < key {
			key, ok = k, true
		}
	}
	return key, ok
}
