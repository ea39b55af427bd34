package faults_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exonode/exonode/faults"
)

// newSet returns a Set that finds node n2 at address "two", and counts its deaths.
func newSet(t *testing.T) (s *faults.Set, deaths *int) {
	t.Helper()
	deaths = new(int)
	s, err := faults.New(faults.Config{
		Locate: func(addr string) string { return map[string]string{"two": "n2"}[addr] },
		Die:    func() { *deaths++ },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, deaths
}

func apply(t *testing.T, s *faults.Set, p faults.Plan) {
	t.Helper()
	if err := s.Apply(p); err != nil {
		t.Fatal(err)
	}
}

func toTwo(l faults.Link) faults.Plan { return faults.Plan{Links: map[string]faults.Link{"n2": l}} }

// pair is a connection over a link, and what its other end has heard, with when.
type pair struct {
	near  net.Conn
	far   net.Conn
	heard chan arrival
}

type arrival struct {
	text string
	at   time.Duration
}

func connect(s *faults.Set, peer string) *pair {
	near, far := net.Pipe()
	p := &pair{near: s.Wrap(near, peer), far: far, heard: make(chan arrival, 1024)}
	began := time.Now()
	go func() { // ends with the connection
		defer close(p.heard)
		buf := make([]byte, 64<<10)
		for {
			n, err := far.Read(buf)
			if err != nil {
				return
			}
			p.heard <- arrival{string(buf[:n]), time.Since(began)}
		}
	}()
	return p
}

func (p *pair) write(t *testing.T, text string) {
	t.Helper()
	if n, err := p.near.Write([]byte(text)); n != len(text) || err != nil {
		t.Fatalf("write %q: %d, %v", text, n, err)
	}
}

// end closes the connection and returns what was heard.
func (p *pair) end() (all []arrival) {
	_ = p.near.Close()
	_ = p.far.Close()
	for a := range p.heard {
		all = append(all, a)
	}
	return all
}

func TestCutHoldsBackInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSet(t)
		p, other := connect(s, "n2"), connect(s, "n3")
		p.write(t, "a")
		apply(t, s, toTwo(faults.Link{Cut: true}))
		p.write(t, "b")
		p.write(t, "c")
		other.write(t, "x") // another link
		time.Sleep(time.Minute)
		apply(t, s, faults.Plan{})
		synctest.Wait()
		p.write(t, "d")
		synctest.Wait()
		want := []arrival{{"a", 0}, {"b", time.Minute}, {"c", time.Minute}, {"d", time.Minute}}
		if got := p.end(); !slices.Equal(got, want) {
			t.Errorf("heard %v, want %v", got, want)
		}
		if got := other.end(); !slices.Equal(got, []arrival{{"x", 0}}) {
			t.Errorf("over another link: %v", got)
		}
	})
}

func TestNobodyOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSet(t)
		p := connect(s, "n2")
		apply(t, s, toTwo(faults.Link{Delay: faults.Duration(time.Second), Jitter: faults.Duration(time.Second), Drop: 0.3}))
		var want []string
		for i := range 50 {
			text := string(rune('A' + i))
			p.write(t, text)
			want = append(want, text)
			time.Sleep(10 * time.Millisecond)
		}
		apply(t, s, faults.Plan{})
		p.write(t, "end") // held behind the others
		time.Sleep(time.Hour)
		var got []string
		for _, a := range p.end() {
			if a.at < time.Second {
				t.Errorf("%s came after %v, the link takes a second", a.text, a.at)
			}
			got = append(got, a.text)
		}
		if !slices.Equal(got, append(want, "end")) {
			t.Errorf("heard %v", got)
		}
	})
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSet(t)
		p := connect(s, "n2")
		apply(t, s, toTwo(faults.Link{Rate: 1000}))
		for range 4 {
			p.write(t, strings.Repeat("x", 500))
		}
		time.Sleep(time.Minute)
		got := p.end()
		if len(got) != 4 || got[3].at != 2*time.Second {
			t.Errorf("2,000 bytes at 1,000 a second came as %d pieces, the last after %v", len(got), got[len(got)-1].at)
		}
	})
}

// A writer waits once the send buffer is full, until its deadline, and no longer.
func TestFullLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSet(t)
		p := connect(s, "n2")
		apply(t, s, toTwo(faults.Link{Cut: true}))
		began := time.Now()
		if err := p.near.SetWriteDeadline(began.Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		var err error
		written := 0
		for err == nil {
			var n int
			n, err = p.near.Write(make([]byte, 10_000))
			written += n
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 5*time.Second || written > 300_000 {
			t.Errorf("%v after %v and %d bytes", err, time.Since(began), written)
		}
		p.end()
		apply(t, s, faults.Plan{}) // lets what lingers go
	})
}

// Who closes a connection over a cut link is done with it; the other end hears nothing
// before the link is whole.
func TestCloseOverACutLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSet(t)
		p := connect(s, "n2")
		apply(t, s, toTwo(faults.Link{Cut: true}))
		if err := p.near.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.near.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
		if _, err := p.near.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case a, open := <-p.heard:
			t.Errorf("the other end heard %v, %v over a cut link", a, open)
		default:
		}
		apply(t, s, faults.Plan{})
		if a, open := <-p.heard; open {
			t.Errorf("the other end heard %v, not the end", a)
		}
	})
}

func TestDialling(t *testing.T) {
	for name, link := range map[string]faults.Link{"cut": {Cut: true}, "deaf": {Deaf: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := newSet(t)
				dial := s.Dial(func(context.Context, string) (net.Conn, error) { near, _ := net.Pipe(); return near, nil })
				apply(t, s, toTwo(link))
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				if _, err := dial(ctx, "two"); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("dialled over the link: %v", err)
				}
				if _, err := dial(t.Context(), "elsewhere"); err != nil {
					t.Errorf("dialled elsewhere: %v", err)
				}
				go func() {
					time.Sleep(time.Second)
					_ = s.Apply(faults.Plan{}) // a plan of nothing is one
				}()
				if _, err := dial(t.Context(), "two"); err != nil {
					t.Errorf("dialled once it was whole: %v", err)
				}
			})
		})
	}
}

// An accepted connection is nobody's until its other end is known.
func TestNameOfAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSet(t)
		p := connect(s, "")
		apply(t, s, toTwo(faults.Link{Cut: true}))
		p.write(t, "who is there")
		faults.Name(p.near, "n2")
		p.write(t, "held")
		time.Sleep(time.Second)
		if got := p.end(); len(got) != 1 || got[0].text != "who is there" {
			t.Errorf("heard %v", got)
		}
		apply(t, s, faults.Plan{}) // lets what lingers go
	})
}

func TestPackets(t *testing.T) {
	s, _ := newSet(t)
	count := func(l faults.Link, addr string) (lost, late int) {
		apply(t, s, toTwo(l))
		for range 1000 {
			delay, ok := s.Packet(addr)
			switch {
			case !ok:
				lost++
			case delay > 0:
				late++
			}
		}
		return lost, late
	}
	if lost, late := count(faults.Link{Cut: true}, "two"); lost != 1000 || late != 0 {
		t.Errorf("over a cut link %d are lost", lost)
	}
	if lost, late := count(faults.Link{Cut: true}, "elsewhere"); lost+late != 0 {
		t.Errorf("over another link %d are lost, %d late", lost, late)
	}
	if lost, late := count(faults.Link{Drop: 0.5}, "two"); lost < 400 || lost > 600 || late != 0 {
		t.Errorf("of 1,000 half of which are lost, %d are, and %d late", lost, late)
	}
	if lost, late := count(faults.Link{Reorder: 0.5}, "two"); lost != 0 || late < 400 || late > 600 {
		t.Errorf("of 1,000 half of which are overtaken, %d are, and %d lost", late, lost)
	}
}

func TestDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSet(t)
		apply(t, s, faults.Plan{Disk: faults.Disk{Error: "ENOSPC", Stores: []faults.Store{faults.RaftLog}, Slow: faults.Duration(time.Second)}})
		began := time.Now()
		if err := s.Write(faults.RaftLog); !errors.Is(err, syscall.ENOSPC) || time.Since(began) != time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if err := s.Write(faults.Ledger); err != nil {
			t.Errorf("another store: %v", err)
		}
		apply(t, s, faults.Plan{Disk: faults.Disk{Hang: true}})
		done := make(chan error, 1)
		go func() { done <- s.Write(faults.Ledger) }()
		time.Sleep(time.Hour)
		select {
		case err := <-done:
			t.Fatalf("a disk that hangs answers %v", err)
		default:
		}
		apply(t, s, faults.Plan{})
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestCrash(t *testing.T) {
	s, deaths := newSet(t)
	apply(t, s, faults.Plan{Crash: faults.Crash{Point: faults.AfterAppend, After: 2}})
	for i, want := range []int{0, 0, 1, 1} {
		s.Reach(faults.BeforeAppend)
		s.Reach(faults.AfterAppend)
		if *deaths != want {
			t.Fatalf("after passing it %d times: %d deaths", i+1, *deaths)
		}
	}
	apply(t, s, faults.Plan{Crash: faults.Crash{Point: faults.MidAppend}})
	halves := 0
	s.Tear(faults.MidAppend, func() error { halves++; return nil })
	s.Tear(faults.MidAppend, func() error { halves++; return nil })
	if halves != 1 || *deaths != 2 {
		t.Errorf("%d halves written, %d deaths", halves, *deaths)
	}
}

func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSet(t)
		apply(t, s, faults.Plan{Clock: faults.Clock{Offset: faults.Duration(-time.Hour)}})
		if got := time.Until(s.Now()); got != -time.Hour {
			t.Errorf("the clock is off by %v", got)
		}
	})
}

// A node that is well has no Set.
func TestNoSet(t *testing.T) {
	var s *faults.Set
	s.Reach(faults.BeforeApply)
	s.Tear(faults.MidAppend, func() error { t.Error("half a write"); return nil })
	if err := s.Write(faults.RaftLog); err != nil {
		t.Error(err)
	}
	if d := time.Since(s.Now()); d < 0 || d > time.Minute {
		t.Errorf("the clock is off by %v", d)
	}
}

func TestHandler(t *testing.T) {
	s, _ := newSet(t)
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	ask := func(method, body string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+"/plan", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, strings.TrimSpace(string(text))
	}
	const plan = `{"links":{"n2":{"cut":true,"delay":"1.5s"}},"disk":{"hang":true},"crash":{"point":"after-vote","after":1}}`
	if code, text := ask(http.MethodPut, plan); code != http.StatusNoContent {
		t.Fatalf("%d %s", code, text)
	}
	if _, text := ask(http.MethodGet, ""); text != plan {
		t.Errorf("the plan is %s", text)
	}
	for _, bad := range []string{
		`{`, `{} {}`, `{"nope":1}`, `{"links":{"":{}}}`, `{"links":{"n2":{"drop":1.5}}}`, `{"links":{"n2":{"delay":"-1s"}}}`, `{"links":{"n2":{"delay":"soon"}}}`,
		`{"disk":{"error":"EPERM"}}`, `{"disk":{"stores":["attic"]}}`, `{"disk":{"slow":"-1s"}}`, `{"crash":{"point":"anywhere"}}`, `{"crash":{"after":-1}}`,
	} {
		if code, text := ask(http.MethodPut, bad); code != http.StatusBadRequest || text == "" {
			t.Errorf("%s: %d %s", bad, code, text)
		}
	}
	if _, text := ask(http.MethodGet, ""); text != plan {
		t.Errorf("what was refused has changed the plan to %s", text)
	}
}
