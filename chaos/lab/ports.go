package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports are drawn from below those that a system gives to outgoing connections (from
// 32768 on Linux, from 49152 elsewhere): one of those, free a moment ago, may be the
// near end of somebody's connection by the time that a node wants it.
const (
	firstPort = 10_000
	lastPort  = 32_767
)

// FreeAddr returns an address of loopback that nobody uses, by TCP or UDP. It is not held:
// only luck keeps another process that draws ports from it.
func FreeAddr() (string, error) {
	h, err := holdAddr()
	if err != nil {
		return "", err
	}
	return h.addr, h.release()
}

// held is an address in use by us.
type held struct {
	addr string
	tcp  net.Listener
	udp  net.PacketConn
}

func (h *held) release() error { return errors.Join(h.tcp.Close(), h.udp.Close()) }

func holdAddr() (*held, error) {
	var last error
	for range 200 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+rand.IntN(lastPort-firstPort+1)))
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			last = err
			continue
		}
		udp, err := net.ListenPacket("udp", addr)
		if err != nil {
			last = errors.Join(err, tcp.Close())
			continue
		}
		return &held{addr, tcp, udp}, nil
	}
	return nil, fmt.Errorf("find a free port: %w", last)
}
