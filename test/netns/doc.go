// Package netns builds networks of Linux network namespaces: hosts with an
// address each on one switch, with multicast and without any way out, whose
// links can be cut and healed. What runs on such a host sees a network of its
// own, so that discovery by multicast, packets that vanish and connections that
// nobody closes are the kernel's and not a fake's.
//
// The end-to-end tests of this directory and the fault lab use it. It needs
// root, iproute2 and iptables; it makes and removes its own namespaces and the
// files for them in /etc/netns, and must not touch anything else of the machine.
// On other systems than Linux it is empty.
package netns
