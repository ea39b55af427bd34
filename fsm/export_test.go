package fsm

import "context"

// Attempt runs one attempt of catch-up, as Run does.
func (c *Catchup) Attempt(ctx context.Context) error { return c.attempt(ctx) }

// EncodeState returns the encoded folded state of a view.
func (v *View) EncodeState() ([]byte, error) { return v.state.encode() }

// RecodeState decodes an encoded state and encodes it again.
func RecodeState(data []byte) ([]byte, error) {
	s, err := decodeState(data)
	if err != nil {
		return nil, err
	}
	return s.encode()
}

// RecodeProgress decodes the state of staging and encodes it again.
func RecodeProgress(data []byte) ([]byte, error) {
	p, err := decodeProgress(data)
	if err != nil {
		return nil, err
	}
	return p.encode()
}
