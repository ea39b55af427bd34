package server

import (
	"fmt"
	"net"
	"strings"

	"github.com/exonode/exonode/api"
)

// CheckListen says whether the API may listen at addr ("host:port"): on
// loopback always, elsewhere only with TLS or where the operator has said that
// the risk is taken. It resolves no names: "localhost" is the only one that
// counts as loopback.
func CheckListen(addr string, tls, riskAccepted bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return &api.Error{Code: api.BadField, Field: "api.listen", Message: fmt.Sprintf("%q is not of the form host:port: %v", addr, err), Hint: "such as 127.0.0.1:7482"}
	}
	if tls || riskAccepted || loopback(host) {
		return nil
	}
	return &api.Error{
		Code:    api.Precondition,
		Field:   "api.listen",
		Message: fmt.Sprintf("the API would listen at %s without TLS, and it is not loopback", addr),
		Hint:    "configure a certificate (--tls-cert, --tls-key), listen at 127.0.0.1, or accept the risk with --api-insecure",
	}
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
