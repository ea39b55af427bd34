package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"

	"github.com/exonode/exonode/chaos/lab"
)

// pprofArgs are the arguments with which a node serves profiles.
func (b *bench) pprofArgs(n lab.Node) []string {
	return []string{"--pprof", b.pprofAddr(n.Name)}
}

// pprofAddr is a node's profiling address, a port that was free when it was
// first asked for.
func (b *bench) pprofAddr(name string) string {
	if addr, ok := b.pprof[name]; ok {
		return addr
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "127.0.0.1:0" // the node listens, and its profile is missed
	}
	defer l.Close()
	if b.pprof == nil {
		b.pprof = make(map[string]string)
	}
	b.pprof[name] = l.Addr().String()
	return b.pprof[name]
}

// startProfiles takes a CPU profile of every process for the duration of a
// cell; what it returns waits for them.
func (b *bench) startProfiles(ctx context.Context, c Cell) (wait func() error) {
	if b.cfg.ProfileDir == "" || b.lab == nil {
		return func() error { return nil }
	}
	base := filepath.Join(b.cfg.ProfileDir, strings.NewReplacer("/", "_", "=", "-").Replace(c.Name()))
	var wg sync.WaitGroup
	errs := make([]error, len(b.procs)+1)
	seconds := max(1, int(b.cfg.Duration.Seconds()))
	for i, p := range b.procs {
		if p.api == "" {
			continue
		}
		role := "follower"
		if p.api == b.addrs[0] {
			role = "leader"
		}
		wg.Go(func() {
			errs[i] = b.fetchProfile(ctx, p.name, fmt.Sprintf("profile?seconds=%d", seconds), fmt.Sprintf("%s_%s-%s.cpu", base, role, p.name))
		})
	}
	own, err := createFile(base + "_clients.cpu")
	if err == nil {
		err = pprof.StartCPUProfile(own)
	}
	return func() error {
		if err == nil {
			pprof.StopCPUProfile()
			err = own.Close()
		}
		wg.Wait()
		return errors.Join(append(errs, err)...)
	}
}

// heapProfiles takes what each node allocated.
func (b *bench) heapProfiles(ctx context.Context) (err error) {
	if b.cfg.ProfileDir == "" || b.lab == nil {
		return nil
	}
	for _, p := range b.procs {
		if p.api != "" {
			err = errors.Join(err, b.fetchProfile(ctx, p.name, "allocs", filepath.Join(b.cfg.ProfileDir, p.name+".allocs")))
		}
	}
	return err
}

func (b *bench) fetchProfile(ctx context.Context, name, what, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.pprofAddr(name)+"/debug/pprof/"+what, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("profile of %s: %w", name, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("profile of %s: %s", name, res.Status)
	}
	f, err := createFile(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, res.Body)
	return errors.Join(err, f.Close())
}

func createFile(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.Create(path)
}
