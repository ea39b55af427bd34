package python

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"testing"
)

var must = flag.Bool("must", false, "run all, and fail where there is no python3, rather than skip")

// long skips a test of some seconds, unless all are asked for.
func long(t *testing.T) {
	t.Helper()
	if !*must {
		t.Skip("`make verify-python` runs it")
	}
}

const scripts = "../../scripts"

func python(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("python3")
	if err != nil {
		if *must {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return path
}

// verifier is a running interpreter that has loaded verify.py.
type verifier struct {
	t   *testing.T
	in  *json.Encoder
	out *bufio.Reader
}

// answer is what a function of verify.py returned, or the verify.Bad that it raised.
type answer struct {
	Value json.RawMessage
	Bad   string
	Entry *uint64
	Said  string
}

func start(t *testing.T) *verifier {
	t.Helper()
	cmd := exec.Command(python(t), "-B", "testdata/driver.py", scripts)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return &verifier{t: t, in: json.NewEncoder(in), out: bufio.NewReader(out)}
}

// ask calls a function. Byte slices are passed as bytes. Any exception but
// verify.Bad ends the interpreter, and the test.
func (v *verifier) ask(function string, args ...any) answer {
	v.t.Helper()
	q := []any{function}
	for _, a := range args {
		if b, ok := a.([]byte); ok {
			a = "hex:" + hex.EncodeToString(b)
		}
		q = append(q, a)
	}
	if err := v.in.Encode(q); err != nil {
		v.t.Fatal(err)
	}
	line, err := v.out.ReadBytes('\n')
	if err != nil {
		v.t.Fatalf("%s: %v", function, err)
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		v.t.Fatal(err)
	}
	return a
}

// text is the value of an answer that must be text.
func (v *verifier) text(a answer) string {
	v.t.Helper()
	var s string
	if a.Bad != "" {
		v.t.Fatal(a.Bad)
	}
	if err := json.Unmarshal(a.Value, &s); err != nil {
		v.t.Fatal(err)
	}
	return s
}
