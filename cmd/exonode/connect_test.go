package main

import (
	"testing"

	"github.com/exonode/exonode/client"
)

func TestPickMember(t *testing.T) {
	members := []client.Member{
		{NodeID: "n2abc", Name: "n1", APIAddr: "h1:7482", PeerAddr: "h1:7480"},
		{NodeID: "nzzzz", Name: "n2", APIAddr: "h2:7482", PeerAddr: "h2:7480"},
		{NodeID: "nzyyy", Name: "twin", APIAddr: "h3:7482", PeerAddr: "h3:7480"},
		{NodeID: "nqqqq", Name: "twin", APIAddr: "h4:7482", PeerAddr: "h4:7480"},
	}
	for name, want := range map[string]string{
		"n2":      "nzzzz", // a name, though an id begins with it
		"n2a":     "n2abc",
		"nzzzz":   "nzzzz",
		"h3:7482": "nzyyy",
		"h4:7480": "nqqqq",
		"nz":      "",
		"twin":    "",
		"n9":      "",
		"":        "",
	} {
		got, err := pickMember(members, name)
		if got.NodeID != want || (err != nil) != (want == "") || want == "" && codeOf(err) != string(codeUnknownNode) {
			t.Errorf("%q: %s, %v", name, got.NodeID, err)
		}
	}
}
