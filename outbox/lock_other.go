//go:build !unix && !windows

package outbox

import "errors"

func lock(string) (func() error, error) { return nil, errors.ErrUnsupported }
