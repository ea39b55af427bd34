package client

import (
	"encoding/binary"
	"io"
	"net/http"
)

// coalescer sends each message of a gRPC request stream as one write. Connect
// writes a message's prefix and its bytes one after the other, which would be
// two HTTP/2 frames, two system calls and two wake-ups of the node.
type coalescer struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (c coalescer) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r = r.Clone(r.Context())
		r.Body = &coalescedBody{body: r.Body}
	}
	return c.next.RoundTrip(r)
}

// coalescedBody returns a message's prefix together with what follows it.
type coalescedBody struct {
	body io.ReadCloser
	left int64 // of the message that is being read
}

const grpcPrefix = 5 // a flag byte and the length

// Read implements io.Reader.
func (b *coalescedBody) Read(p []byte) (n int, err error) {
	if b.left == 0 && len(p) > grpcPrefix {
		n, err = io.ReadFull(b.body, p[:grpcPrefix])
		if err != nil {
			if err == io.ErrUnexpectedEOF {
				err = io.EOF
			}
			return n, err
		}
		b.left = int64(binary.BigEndian.Uint32(p[1:grpcPrefix]))
		if b.left == 0 {
			return n, nil
		}
	}
	// The rest is on its way already: this does not wait for the caller.
	m, err := b.body.Read(p[n:min(int64(len(p)), int64(n)+max(b.left, 1))])
	b.left = max(b.left-int64(m), 0)
	return n + m, err
}

// Close implements io.Closer.
func (b *coalescedBody) Close() error { return b.body.Close() }
