package fsm

import (
	"strconv"
	"unicode/utf8"

	"github.com/exonode/exonode/chain"
)

// frozenJSON writes the payloads that the state machine itself seals. Replicas
// of different versions must write the same bytes, so the form does not depend
// on a library: fields in the order of the calls, no white space, no HTML
// escaping, short escapes for quote and backslash alone, \u00xx for the other
// control characters, U+FFFD for what is not UTF-8. Nothing here may change
// once a chain exists; what a new payload needs is added.
type frozenJSON struct {
	b []byte
	// comma is whether the next field or element needs one before it.
	comma bool
}

const hexDigits = "0123456789abcdef"

func (j *frozenJSON) open(c byte) {
	j.separate()
	j.b = append(j.b, c)
	j.comma = false
}

func (j *frozenJSON) close(c byte) {
	j.b = append(j.b, c)
	j.comma = true
}

func (j *frozenJSON) separate() {
	if j.comma {
		j.b = append(j.b, ',')
	}
	j.comma = true
}

// name writes a field's name; the value follows.
func (j *frozenJSON) name(name string) {
	j.separate()
	j.b = append(appendFrozenString(j.b, name), ':')
	j.comma = false
}

func (j *frozenJSON) text(name, v string) {
	j.name(name)
	j.element(v)
}

// optional writes a field where it is not empty.
func (j *frozenJSON) optional(name, v string) {
	if v != "" {
		j.text(name, v)
	}
}

func (j *frozenJSON) uint(name string, v uint64) {
	j.name(name)
	j.separate()
	j.b = strconv.AppendUint(j.b, v, 10)
}

func (j *frozenJSON) int(name string, v int64) {
	j.name(name)
	j.separate()
	j.b = strconv.AppendInt(j.b, v, 10)
}

func (j *frozenJSON) bool(name string, v bool) {
	j.name(name)
	j.separate()
	j.b = strconv.AppendBool(j.b, v)
}

// raw writes a field whose value is JSON already.
func (j *frozenJSON) raw(name string, v []byte) {
	j.name(name)
	j.separate()
	j.b = append(j.b, v...)
}

// element writes a text as an element of an array.
func (j *frozenJSON) element(v string) {
	j.separate()
	j.b = appendFrozenString(j.b, v)
}

// number writes a number as an element of an array.
func (j *frozenJSON) number(v uint64) {
	j.separate()
	j.b = strconv.AppendUint(j.b, v, 10)
}

func (j *frozenJSON) texts(name string, vs []string) {
	j.name(name)
	j.open('[')
	for _, v := range vs {
		j.element(v)
	}
	j.close(']')
}

// effectNames are the dimensions in the order of chain.Effect.
var effectNames = [...]string{"risk", "fairness", "privacy", "novelty", "security"}

func (j *frozenJSON) effect(name string, e chain.Effect) {
	j.name(name)
	j.open('{')
	for i, v := range e {
		j.name(effectNames[i])
		j.separate()
		j.b = appendDecimal(j.b, v)
	}
	j.close('}')
}

// appendDecimal writes ten-thousandths as a decimal without trailing zeros.
func appendDecimal(b []byte, v uint16) []byte {
	b = strconv.AppendUint(b, uint64(v/10_000), 10)
	frac := v % 10_000
	if frac == 0 {
		return b
	}
	b = append(b, '.')
	for unit := uint16(1_000); frac > 0; unit /= 10 {
		b = append(b, byte('0'+frac/unit))
		frac %= unit
	}
	return b
}

func appendFrozenString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(b, s[start:i]...)
				b = append(b, "\uFFFD"...)
				start = i + 1
			}
			i += size
			continue
		}
		if c >= 0x20 && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[start:i]...)
		if c == '"' || c == '\\' {
			b = append(b, '\\', c)
		} else {
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
		}
		i++
		start = i
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}
