package cf

import (
	"net/netip"
	"strconv"
	"strings"
)

// splitHostPort splits the name of an inet service: "25", "smtp", ":25",
// "host:port", "[v6]:port", "v6:port" (the last colon separates).
func splitHostPort(name string) (host, port string) {
	i := strings.LastIndexByte(name, ':')
	if i < 0 || strings.HasSuffix(name, "]") {
		return "", name
	}
	return name[:i], name[i+1:]
}

// knownPorts is the default of known_tcp_ports (Postfix 3.6), for the releases
// that have no such parameter and hosts whose services(5) lacks a name.
const knownPorts = "lmtp=24, smtp=25, smtps=submissions=465, submission=587"

// port turns the port of a service name into a number, as Postfix does:
// known_tcp_ports first, then services(5); 0 if nobody knows it.
func (s Snapshot) port(name string, host Host) int {
	if n, err := strconv.ParseUint(name, 10, 16); err == nil {
		return int(n)
	}
	known, has := s.Parameters["known_tcp_ports"]
	if has {
		known = s.Effective("", "known_tcp_ports")
	}
	if n := portIn(known, name); n > 0 {
		return n
	}
	if host.Services != nil {
		if n := host.Services(name); n > 0 {
			return n
		}
	}
	if has {
		return 0
	}
	return portIn(knownPorts, name)
}

// portIn looks a name up in a list such as "smtps=submissions=465".
func portIn(known, name string) int {
	for _, group := range listOf(known) {
		words := strings.Split(group, "=")
		n, err := strconv.ParseUint(words[len(words)-1], 10, 16)
		for _, w := range words[:len(words)-1] {
			if w == name && err == nil {
				return int(n)
			}
		}
	}
	return 0
}

// listenOn is the addresses to ask a service on; name is the host part of its
// service name, or empty.
func (s Snapshot) listenOn(name string, host Host) []string {
	names := []string{name}
	if name == "" {
		value := s.exact("", "inet_interfaces")
		names = listOf(value)
		switch strings.ToLower(normal(value)) {
		case "all":
			return s.allowed(loopbacks(host, "127.0.0.1", "::1"))
		case "loopback-only":
			own := loopbacks(host, host.Interfaces...)
			if len(own) == 0 {
				own = []string{"127.0.0.1", "::1"}
			}
			return s.allowed(own)
		}
	}
	var out []string
	for _, n := range names {
		n = strings.TrimSuffix(strings.TrimPrefix(n, "["), "]")
		if strings.HasPrefix(strings.ToLower(n), "ipv6:") {
			n = n[len("ipv6:"):]
		}
		found := []string{n}
		if _, err := netip.ParseAddr(n); err != nil {
			found = nil
			if host.Resolve != nil {
				found = host.Resolve(n)
			}
		}
		for _, a := range found {
			out = append(out, dialable(a))
		}
	}
	return s.allowed(out)
}

// dialable is where to reach a socket bound to an address: a wildcard answers
// on loopback.
func dialable(address string) string {
	a, err := netip.ParseAddr(address)
	switch {
	case err != nil || !a.IsUnspecified():
		return address
	case a.Is4():
		return "127.0.0.1"
	}
	return "::1"
}

// loopbacks keeps the loopback addresses the host has.
func loopbacks(host Host, candidates ...string) []string {
	var out []string
	for _, c := range candidates {
		a, err := netip.ParseAddr(c)
		if err != nil || !a.IsLoopback() {
			continue
		}
		has := len(host.Interfaces) == 0
		for _, i := range host.Interfaces {
			b, err := netip.ParseAddr(i)
			has = has || err == nil && a == b.WithZone("")
		}
		if has {
			out = append(out, c)
		}
	}
	return out
}

// allowed keeps the addresses of the families inet_protocols allows.
func (s Snapshot) allowed(addresses []string) []string {
	v4, v6 := s.protocols()
	var out []string
	for _, address := range addresses {
		a, err := netip.ParseAddr(address)
		if err != nil {
			continue
		}
		if a = a.Unmap(); a.Is4() && v4 || a.Is6() && v6 {
			out = append(out, a.String())
		}
	}
	return out
}
