package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/transport"
)

// ClusterFormat names the form of a cluster file.
const ClusterFormat = "exonode-cluster/1"

// ErrClusterFile is wrapped by every error about a cluster file: get the file
// again from where the cluster was made.
var ErrClusterFile = errors.New("cluster file is not valid")

// ClusterFile is all that a node needs to be of a cluster: the secret, and the
// genesis document. It is as secret as the secret.
type ClusterFile struct {
	Secret  transport.Secret
	Genesis *fsm.Genesis
	// Document is the genesis document as it is in the file; Hash is
	// chain.GenesisHash of it.
	Document []byte
	Hash     chain.Hash
}

// clusterJSON is the file. The document is a text in it, so that no tool that
// lays JSON out anew can change its bytes.
type clusterJSON struct {
	Format  string `json:"format"`
	Secret  string `json:"secret"`
	Genesis string `json:"genesis"`
}

// NewClusterFile joins a secret and a genesis document.
func NewClusterFile(secret transport.Secret, document []byte) (*ClusterFile, error) {
	genesis, err := fsm.ParseGenesis(document)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrClusterFile, err)
	}
	return &ClusterFile{Secret: secret, Genesis: genesis, Document: document, Hash: chain.GenesisHash(document)}, nil
}

// ParseClusterFile reads what Encode wrote.
func ParseClusterFile(b []byte) (*ClusterFile, error) {
	var c clusterJSON
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrClusterFile, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: there is more behind its end", ErrClusterFile)
	}
	if c.Format != ClusterFormat {
		return nil, fmt.Errorf("%w: format is %q, this exonode reads %q", ErrClusterFile, c.Format, ClusterFormat)
	}
	secret, err := transport.ParseSecret(c.Secret)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrClusterFile, err)
	}
	return NewClusterFile(secret, []byte(c.Genesis))
}

// Encode returns the file's bytes.
func (c *ClusterFile) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(clusterJSON{Format: ClusterFormat, Secret: c.Secret.Reveal(), Genesis: string(c.Document)}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrClusterFile, err)
	}
	return append(b, '\n'), nil
}

// LoadClusterFile reads a cluster file from disk.
func LoadClusterFile(path string) (*ClusterFile, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read cluster file: %w", err)
	}
	c, err := ParseClusterFile(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// CreateClusterFile writes a new cluster file, readable by its owner alone; it
// never replaces one.
func CreateClusterFile(path string, c *ClusterFile) error {
	b, err := c.Encode()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("create cluster file: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("create cluster file: %w", err)
	}
	return nil
}
