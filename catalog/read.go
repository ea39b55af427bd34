package catalog

import "unicode/utf8"

// ReadObject returns the members of a JSON object: each value's text under its
// key. Unlike encoding/json it matches keys exactly and refuses one that comes
// twice, so that every reader of a payload reads the same.
func ReadObject(text []byte) (map[string][]byte, error) {
	s, err := newReader(text, '{', "not an object")
	if err != nil {
		return nil, err
	}
	members := map[string][]byte{}
	err = s.object(1, func(name []byte, escaped bool) error {
		key := str(name, escaped)
		if _, ok := members[key]; ok {
			return &syntaxError{offset: s.pos, what: "an object key twice"}
		}
		members[key], err = s.raw(2)
		return err
	})
	if err != nil {
		return nil, err
	}
	return members, s.end()
}

// ReadArray returns the text of each element of a JSON array.
func ReadArray(text []byte) ([][]byte, error) {
	s, err := newReader(text, '[', "not an array")
	if err != nil {
		return nil, err
	}
	var elements [][]byte
	err = s.array(1, func(int) error {
		e, err := s.raw(2)
		elements = append(elements, e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return elements, s.end()
}

// ReadString returns the value of a JSON string.
func ReadString(text []byte) (string, error) {
	s, err := newReader(text, '"', "not a string")
	if err != nil {
		return "", err
	}
	raw, escaped, err := s.str()
	if err != nil {
		return "", err
	}
	return str(raw, escaped), s.end()
}

func newReader(text []byte, first byte, otherwise string) (*scanner, error) {
	if !utf8.Valid(text) {
		return nil, &syntaxError{what: "not UTF-8"}
	}
	s := &scanner{text: text}
	if s.space(); s.peek() != first {
		return nil, &syntaxError{offset: s.pos, what: otherwise}
	}
	return s, nil
}

// raw reads a value and returns its text.
func (s *scanner) raw(depth int) ([]byte, error) {
	start := s.pos
	_, err := s.value(depth)
	return s.text[start:s.pos], err
}
