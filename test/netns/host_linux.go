package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Host is one host of a Net. Its methods are safe for concurrent use.
type Host struct {
	net   *Net
	name  string
	ns    string
	addr  netip.Addr
	addr6 netip.Addr // link-local; invalid where the machine lacks IPv6
	// fd is the namespace, open until the Net closes.
	fd *os.File
}

// Name is the host's name, as Net.Host was given it.
func (h *Host) Name() string { return h.name }

// Addr is the host's IPv4 address.
func (h *Host) Addr() netip.Addr { return h.addr }

// At is host:port for a port of this host.
func (h *Host) At(port uint16) string { return netip.AddrPortFrom(h.addr, port).String() }

// tool runs a program of the packet filter on the host.
func (h *Host) tool(name string, args ...string) command {
	return append(ip("netns", "exec", h.ns, name, "-w", "10"), args...)
}

// DialContext connects as a process on the host would. The address is an IP
// address and a port: names are not resolved.
func (h *Host) DialContext(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, fmt.Errorf("dial from %s: %w", h.name, err)
	}
	ierr := h.inside(func() {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, addr)
	})
	return conn, errors.Join(ierr, err)
}

// ListenPacket listens for datagrams as a process on the host would.
func (h *Host) ListenPacket(ctx context.Context, network, addr string) (conn net.PacketConn, err error) {
	ierr := h.inside(func() {
		var lc net.ListenConfig
		conn, err = lc.ListenPacket(ctx, network, addr)
	})
	return conn, errors.Join(ierr, err)
}

// inside runs f on a thread that is in the host's namespace: a socket belongs to
// the namespace of the thread that makes it, for ever. The thread is never
// unlocked, so that it ends with the goroutine and nothing else runs on it.
func (h *Host) inside(f func()) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(h.fd.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the namespace of %s: %w", h.name, err)
			return
		}
		f()
		done <- nil
	}()
	return <-done
}

// NoMulticast takes multicast away from the host: its interface lacks it, and
// the packet filter drops what is sent or comes nevertheless.
func (h *Host) NoMulticast(ctx context.Context) error {
	commands := []command{
		ip("-n", h.ns, "link", "set", "eth0", "multicast", "off"),
		h.tool("iptables", "-A", "INPUT", "-d", "224.0.0.0/4", "-j", "DROP"),
		h.tool("iptables", "-A", "OUTPUT", "-d", "224.0.0.0/4", "-j", "DROP"),
	}
	if h.addr6.IsValid() {
		commands = append(commands,
			h.tool("ip6tables", "-A", "INPUT", "-d", "ff00::/8", "-j", "DROP"),
			h.tool("ip6tables", "-A", "OUTPUT", "-d", "ff00::/8", "-j", "DROP"),
		)
	}
	return runAll(ctx, commands...)
}

// Drop makes the packets that come to the host and fit what the packet filter is
// told by match vanish, silently, until Net.Heal: "-p", "udp" for instance. It is for
// IPv4 and IPv6, so match names no addresses.
func (h *Host) Drop(ctx context.Context, match ...string) error {
	var commands []command
	for _, tool := range h.filters() {
		commands = append(commands, h.tool(tool, slices.Concat([]string{"-A", cutChain}, match, []string{"-j", "DROP"})...))
	}
	return runAll(ctx, commands...)
}

// Lose is Drop of each packet that fits with a probability, from 0 to 1.
func (h *Host) Lose(ctx context.Context, probability float64, match ...string) error {
	return h.Drop(ctx, append(match, "-m", "statistic", "--mode", "random",
		"--probability", strconv.FormatFloat(probability, 'f', 3, 64))...)
}

// filters are the packet filter's programs for the host's addresses.
func (h *Host) filters() []string {
	if h.addr6.IsValid() {
		return []string{"iptables", "ip6tables"}
	}
	return []string{"iptables"}
}

// Blackhole takes away the host's IPv4 route to another, until Net.Heal: what it
// sends there does not leave it, what comes from there arrives.
func (h *Host) Blackhole(ctx context.Context, to *Host) error {
	return ip("-n", h.ns, "route", "add", "blackhole", to.addr.String()+"/32").run(ctx)
}

// Link pulls the host's cable, or plugs it in again. Meanwhile the host has no route
// to anywhere: who sends gets an error.
func (h *Host) Link(ctx context.Context, up bool) error {
	if !up {
		return ip("-n", h.ns, "link", "set", "eth0", "down").run(ctx)
	}
	commands := []command{ip("-n", h.ns, "link", "set", "eth0", "up")}
	if h.addr6.IsValid() { // the kernel took it away
		commands = append(commands, ip("-n", h.ns, "addr", "replace", h.addr6.String()+"/64", "dev", "eth0", "nodad"))
	}
	return runAll(ctx, commands...)
}

// UseDNS makes processes that start on the host from now on resolve names with
// one server: they see a resolv.conf of their own.
func (h *Host) UseDNS(server netip.Addr) error {
	dir := filepath.Join(etcDir, h.ns)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("name server of %s: %w", h.name, err)
	}
	text := fmt.Sprintf("nameserver %s\noptions timeout:1 attempts:1\n", server)
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte(text), 0o644); err != nil {
		return fmt.Errorf("name server of %s: %w", h.name, err)
	}
	return nil
}

// removeFiles removes what UseDNS wrote, and the directory above where that
// leaves it empty.
func (h *Host) removeFiles() error {
	dir := filepath.Join(etcDir, h.ns)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	_ = os.Remove(etcDir) // it fails where others have files there, as it should
	return nil
}
