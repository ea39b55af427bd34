package server_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/tlogtiles"
)

// startTiles returns a server whose chain has 300 entries.
func startTiles(t *testing.T) (*rig, []chain.Record) {
	t.Helper()
	r := start(t, nil)
	var batch strings.Builder
	for i := range 299 {
		if i > 0 {
			batch.WriteByte(',')
		}
		fmt.Fprintf(&batch, `{"specversion":"1.0","type":"agent.spawn","source":"/a","id":"%d"}`, i)
	}
	if res, _ := r.post(t, "/v1/events", batched, nil, "["+batch.String()+"]"); res.StatusCode >= 300 {
		t.Fatal(res.Status)
	}
	records := r.node.Ledger().Records()
	if len(records) != 300 {
		t.Fatalf("%d entries", len(records))
	}
	return r, records
}

func TestTiles(t *testing.T) {
	r, records := startTiles(t)
	var leaves, bundle []byte
	for _, rec := range records {
		h := chain.LeafHash(rec.Header)
		leaves = append(leaves, h[:]...)
	}
	for _, rec := range records[256:] {
		bundle = tlogtiles.AppendEntry(bundle, rec.Header)
	}
	root, err := r.node.RootAt(t.Context(), 256)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]byte{
		"/tile/0/000":            leaves[:256*32],
		"/tile/0/000.p/255":      leaves[:255*32],
		"/tile/0/001.p/44":       leaves[256*32:],
		"/tile/0/001.p/1":        leaves[256*32 : 257*32],
		"/tile/1/000.p/1":        root[:],
		"/tile/entries/001.p/44": bundle,
	} {
		identity := map[string]string{"Accept-Encoding": "identity"}
		res, body := r.do(t, "GET", path, identity, nil)
		if res.StatusCode != 200 || body != string(want) {
			t.Errorf("%s: %s, %d bytes, want %d", path, res.Status, len(body), len(want))
		}
		for name, want := range map[string]string{
			"Content-Type": "application/octet-stream", "Cache-Control": "public, max-age=31536000, immutable", "Content-Encoding": "",
			"X-Content-Type-Options": "nosniff",
		} {
			if got := res.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		tag := res.Header.Get("ETag")
		if res, body := r.do(t, "GET", path, map[string]string{"Accept-Encoding": "identity", "If-None-Match": tag}, nil); res.StatusCode != 304 || body != "" || tag == "" {
			t.Errorf("%s again, with %q: %s, %d bytes", path, tag, res.Status, len(body))
		}
		if res, _ := r.do(t, "GET", path, map[string]string{"Accept-Encoding": "identity", "If-None-Match": `"other"`}, nil); res.StatusCode != 200 {
			t.Errorf("%s with another tag: %s", path, res.Status)
		}
		if res, body := r.do(t, "HEAD", path, identity, nil); res.StatusCode != 200 || body != "" || res.ContentLength != int64(len(want)) || res.Header.Get("ETag") != tag {
			t.Errorf("HEAD %s: %s, %d bytes announced, tag %q", path, res.Status, res.ContentLength, res.Header.Get("ETag"))
		}
	}
}

func TestBundleGzip(t *testing.T) {
	r, _ := startTiles(t)
	const path = "/tile/entries/000"
	plain, want := r.do(t, "GET", path, map[string]string{"Accept-Encoding": "identity"}, nil)
	for accept, zipped := range map[string]bool{"gzip": true, "br, gzip;q=0.5": true, "*": false, "gzip;q=0": false, "gzip; q=0.0": false, "br": false} {
		res, body := r.do(t, "GET", path, map[string]string{"Accept-Encoding": accept}, nil)
		if got := res.Header.Get("Content-Encoding") == "gzip"; got != zipped || res.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%q: gzip %v, vary %q", accept, got, res.Header.Get("Vary"))
		}
		if !zipped {
			continue
		}
		z, err := gzip.NewReader(strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(z)
		if err != nil || !bytes.Equal(b, []byte(want)) || len(body) > len(want)/2 {
			t.Errorf("%q: %d bytes, %d zipped, want %d: %v", accept, len(b), len(body), len(want), err)
		}
		if res.Header.Get("ETag") == plain.Header.Get("ETag") {
			t.Error("the same tag for two representations")
		}
	}
	if res, _ := r.do(t, "GET", "/tile/0/000", map[string]string{"Accept-Encoding": "gzip"}, nil); res.Header.Get("Content-Encoding") != "" {
		t.Error("hashes are compressed")
	}
}

func TestTilesNotFound(t *testing.T) {
	r, _ := startTiles(t)
	for path, say := range map[string]string{
		"/tile/0/001":            "beyond the tree, which has 300",
		"/tile/0/001.p/45":       "beyond the tree",
		"/tile/1/000":            "beyond the tree",
		"/tile/1/000.p/2":        "beyond the tree",
		"/tile/7/000.p/1":        "beyond the tree",
		"/tile/7/999":            "beyond the tree",
		"/tile/entries/001.p/45": "beyond the tree",
		"/tile/entries/x001/000": "beyond the tree",
		"/tile/8/000":            "level",
		"/tile/0/1":              "three digits",
		"/tile/0/000.p/256":      "width",
		"/tile/":                 "not the path of a tile",
		"/checkpoint":            "no checkpoint has been published yet",
	} {
		res, body := r.do(t, "GET", path, nil, nil)
		if res.StatusCode != http.StatusNotFound || !strings.Contains(body, say) || strings.Contains(res.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %s %s, want %q", path, res.Status, body, say)
		}
	}
	if res, _ := r.do(t, "POST", "/tile/0/000", nil, nil); res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", res.Status)
	}
}

func TestCheckpoint(t *testing.T) {
	r := start(t, nil)
	r.node.Publish([]byte("a note\n"))
	res, body := r.do(t, "GET", "/checkpoint", nil, nil)
	if res.StatusCode != 200 || body != "a note\n" || res.Header.Get("Content-Type") != "text/plain; charset=utf-8" || res.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("%s %q %v", res.Status, body, res.Header)
	}
	tag := map[string]string{"If-None-Match": res.Header.Get("ETag")}
	if res, _ := r.do(t, "GET", "/checkpoint", tag, nil); res.StatusCode != http.StatusNotModified {
		t.Errorf("again: %s", res.Status)
	}
	r.node.Publish([]byte("a newer note\n"))
	if res, body := r.do(t, "GET", "/checkpoint", tag, nil); res.StatusCode != 200 || body != "a newer note\n" {
		t.Errorf("a newer one: %s %q", res.Status, body)
	}
}
