package catalog

import (
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep arrays and objects may nest in a payload; the payload
// itself is the first level.
const maxDepth = 64

// A scanner walks over JSON text (RFC 8259) without building values. Its
// methods start at the first byte of what they read and leave pos behind its
// last; the first error ends the walk.
type scanner struct {
	text []byte
	pos  int
}

// token says what a value is; the zero token is none.
type token uint8

const (
	tokenString token = 1 + iota
	tokenInteger
	tokenNumber // with a fraction or an exponent
	tokenBoolean
	tokenArray
	tokenObject
	tokenNull
)

func (t token) String() string {
	return [...]string{"nothing", "string", "integer", "number", "boolean", "array", "object", "null"}[t]
}

// fits reports whether a value with token t has type want.
func (t token) fits(want Type) bool {
	switch t {
	case tokenInteger:
		return want == TypeInteger || want == TypeNumber
	case tokenString:
		return want == TypeString
	case tokenNumber:
		return want == TypeNumber
	case tokenBoolean:
		return want == TypeBoolean
	case tokenArray:
		return want == TypeArray
	case tokenObject:
		return want == TypeObject
	}
	return false
}

// syntaxError is malformed JSON.
type syntaxError struct {
	offset int
	what   string
}

func (e *syntaxError) Error() string { return fmt.Sprintf("%s at offset %d", e.what, e.offset) }

func (s *scanner) fail(what string) error {
	if s.pos >= len(s.text) {
		return &syntaxError{offset: s.pos, what: "unexpected end"}
	}
	return &syntaxError{offset: s.pos, what: what}
}

// peek returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

func (s *scanner) space() {
	for s.pos < len(s.text) {
		switch s.text[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// end requires that nothing but white space is left.
func (s *scanner) end() error {
	s.space()
	if s.pos < len(s.text) {
		return s.fail("text after the value")
	}
	return nil
}

// value reads any value, depth levels below the payload's parent.
func (s *scanner) value(depth int) (token, error) {
	switch c := s.peek(); c {
	case '"':
		_, _, err := s.str()
		return tokenString, err
	case '{':
		return tokenObject, s.object(depth, func(_ []byte, _ bool) error {
			_, err := s.value(depth + 1)
			return err
		})
	case '[':
		return tokenArray, s.array(depth, func(int) error {
			_, err := s.value(depth + 1)
			return err
		})
	case 't':
		return tokenBoolean, s.literal("true")
	case 'f':
		return tokenBoolean, s.literal("false")
	case 'n':
		return tokenNull, s.literal("null")
	default:
		if c == '-' || isDigit(c) {
			return s.number()
		}
		return 0, s.fail("no value")
	}
}

// object reads an object and calls member before each member's value, which
// member must read. The key is as it stands between the quotes; escaped says
// that it contains escapes.
func (s *scanner) object(depth int, member func(key []byte, escaped bool) error) error {
	if depth > maxDepth {
		return s.fail("nesting too deep")
	}
	s.pos++ // {
	if s.space(); s.peek() == '}' {
		s.pos++
		return nil
	}
	for {
		if s.space(); s.peek() != '"' {
			return s.fail("no object key")
		}
		key, escaped, err := s.str()
		if err != nil {
			return err
		}
		if s.space(); s.peek() != ':' {
			return s.fail("no colon after an object key")
		}
		s.pos++
		s.space()
		if err := member(key, escaped); err != nil {
			return err
		}
		s.space()
		switch s.peek() {
		case ',':
			s.pos++
		case '}':
			s.pos++
			return nil
		default:
			return s.fail("no comma or brace after an object member")
		}
	}
}

// array reads an array and calls element before each element, which element
// must read.
func (s *scanner) array(depth int, element func(i int) error) error {
	if depth > maxDepth {
		return s.fail("nesting too deep")
	}
	s.pos++ // [
	if s.space(); s.peek() == ']' {
		s.pos++
		return nil
	}
	for i := 0; ; i++ {
		s.space()
		if err := element(i); err != nil {
			return err
		}
		s.space()
		switch s.peek() {
		case ',':
			s.pos++
		case ']':
			s.pos++
			return nil
		default:
			return s.fail("no comma or bracket after an array element")
		}
	}
}

func (s *scanner) literal(word string) error {
	for i := range len(word) {
		if s.peek() != word[i] {
			return s.fail("no value")
		}
		s.pos++
	}
	return nil
}

// number reads a number; tokenInteger has neither fraction nor exponent.
func (s *scanner) number() (token, error) {
	kind := tokenInteger
	if s.peek() == '-' {
		s.pos++
	}
	if s.peek() == '0' {
		s.pos++
	} else if err := s.digits(); err != nil {
		return 0, err
	}
	if s.peek() == '.' {
		kind = tokenNumber
		s.pos++
		if err := s.digits(); err != nil {
			return 0, err
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		kind = tokenNumber
		s.pos++
		if c := s.peek(); c == '+' || c == '-' {
			s.pos++
		}
		if err := s.digits(); err != nil {
			return 0, err
		}
	}
	return kind, nil
}

// digits reads at least one digit.
func (s *scanner) digits() error {
	if !isDigit(s.peek()) {
		return s.fail("no digit")
	}
	for isDigit(s.peek()) {
		s.pos++
	}
	return nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// str reads a string and returns what stands between its quotes.
func (s *scanner) str() (raw []byte, escaped bool, err error) {
	s.pos++ // "
	start := s.pos
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case c == '"':
			raw = s.text[start:s.pos]
			s.pos++
			return raw, escaped, nil
		case c == '\\':
			escaped = true
			s.pos++
			if err := s.escape(); err != nil {
				return nil, false, err
			}
		case c < ' ':
			return nil, false, s.fail("control character in a string")
		default:
			s.pos++
		}
	}
	return nil, false, s.fail("")
}

// escape reads what follows a backslash.
func (s *scanner) escape() error {
	switch s.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos++
		return nil
	case 'u':
		s.pos++
		for range 4 {
			if _, ok := hexDigit(s.peek()); !ok {
				return s.fail("no hexadecimal digit")
			}
			s.pos++
		}
		return nil
	}
	return s.fail("unknown escape")
}

func hexDigit(c byte) (rune, bool) {
	switch {
	case isDigit(c):
		return rune(c - '0'), true
	case 'a' <= c && c <= 'f':
		return rune(c-'a') + 10, true
	case 'A' <= c && c <= 'F':
		return rune(c-'A') + 10, true
	}
	return 0, false
}

// unescape returns the string that raw, read by str, stands for. A surrogate
// without its pair becomes U+FFFD, as in encoding/json.
func unescape(raw []byte) string {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			i++
			continue
		}
		i += 2
		switch c := raw[i-1]; c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := hex4(raw[i:])
			i += 4
			if utf16.IsSurrogate(r) {
				low := rune(utf8.RuneError)
				if i+6 <= len(raw) && raw[i] == '\\' && raw[i+1] == 'u' {
					low = hex4(raw[i+2:])
				}
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
		default: // ", \ and /
			out = append(out, c)
		}
	}
	return string(out)
}

func hex4(digits []byte) (r rune) {
	for _, c := range digits[:4] {
		d, _ := hexDigit(c)
		r = r<<4 | d
	}
	return r
}
