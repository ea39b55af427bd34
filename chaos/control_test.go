package chaos

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRefusedBySupervisor: what the supervisor does not take for an action is told as such,
// and why.
func TestRefusedBySupervisor(t *testing.T) {
	l, c := running(t, 3)
	dir, err := os.MkdirTemp("", "lab") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	listener, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: controlHandler(l, c, func() {})}
	served := make(chan struct{})
	go func() { // joined below
		defer close(served)
		_ = s.Serve(listener) // until it is closed
	}()
	defer func() {
		_ = s.Close() // the test is over
		<-served
	}()
	for text, want := range map[string]string{
		"partition n1 n9":  `not an action: there is no node "n9"`,
		"isolate n1,n2,n3": "not an action: isolate n1,n2,n3: there are no others",
	} {
		a, err := ParseAction(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Attach(dir).Do(t.Context(), a); !errors.Is(err, ErrAction) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	a, err := ParseAction("kill n1")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := Attach(dir).Do(t.Context(), a); err != nil || text != "n1 killed" {
		t.Errorf("%q, %v", text, err)
	}
	if s, err := Attach(dir).Status(context.Background()); err != nil || len(s.Active) != 1 || s.Active[0] != "n1 killed" {
		t.Errorf("%+v, %v", s, err)
	}
}
