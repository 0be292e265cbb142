package cf

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// seeds are the corpus and files that are no good.
func seeds(add func(main, master string)) {
	for _, r := range corpus {
		add(r.main, r.master)
	}
	add(stockMain, stockMaster)
	add(" x = 1\n", "  smtp inet\n")
	add("a\n=\n", "s inet n - y - - smtpd -o")
	add("a=b\r", "s inet n - y - - smtpd -o {a=b -o c=d\n")
	add("a =\n \n#\n\tb\n\n", "s inet n - y - - smtpd { -o a=b } -- -o a=b\n")
}

// FuzzLogicalLines: the pieces are the bytes of the file, in order, and every
// byte that belongs to none is a comment, blank, or text Postfix skips; so a
// file with nothing replaced prints as it was read.
func FuzzLogicalLines(f *testing.F) {
	seeds(func(main, master string) { f.Add(main); f.Add(master) })
	f.Fuzz(func(t *testing.T, data string) {
		at := 0
		var out strings.Builder
		for _, l := range logicalLines(data) {
			var text strings.Builder
			for _, p := range l.pieces {
				if p.start < at || p.end < p.start || p.next < p.end || l.text[p.at:p.at+p.end-p.start] != data[p.start:p.end] {
					t.Fatalf("piece %+v of %q", p, data)
				}
				if p.line != 1+strings.Count(data[:p.start], "\n") {
					t.Fatalf("line %d of offset %d", p.line, p.start)
				}
				out.WriteString(data[at:p.end])
				text.WriteString(data[p.start:p.end])
				at = p.end
			}
			if text.String() != l.text {
				t.Fatalf("text %q, pieces %q", l.text, text.String())
			}
		}
		out.WriteString(data[at:])
		if out.String() != data || spliced(data, nil) != data {
			t.Fatalf("printed %q, read %q", out.String(), data)
		}
	})
}

// FuzzApply: an edit either is refused or reads back as planned, changes no
// other parameter, and its inverse brings the value back (the bytes too, where
// a value is replaced by another).
func FuzzApply(f *testing.F) {
	seeds(func(main, master string) {
		f.Add(main, master, "smtpd_tls_cert_file", "/b", false)
		f.Add(main, master, "smtpd_milters", "a b", true)
		f.Add(main, master, "mynetworks", "", false)
	})
	f.Fuzz(func(t *testing.T, main, master, name, value string, override bool) {
		s, err := Parse("/d", File{"m", []byte(main)}, File{"s", []byte(master)}, Outputs{All: printed()})
		if err != nil {
			return
		}
		service := ""
		if override && len(s.Services) > 0 {
			service = s.Services[len(s.Services)-1].ID()
		}
		e := s.Edit(service, name, &value)
		a, b, err := Apply(s.Main.Data, s.Master.Data, []Edit{e})
		if err != nil {
			if errors.Is(err, errUnsafe) {
				t.Fatalf("%s: %v", e, err)
			}
			return
		}
		after, err := Parse("/d", File{"m", a}, File{"s", b}, Outputs{All: printed()})
		if err != nil {
			t.Fatalf("%s: %v: %q %q", e, err, a, b)
		}
		if got, _ := after.lookup(service)(name); !readOnly[name] && got != value {
			t.Fatalf("%s: reads %q from %q %q", e, got, a, b)
		}
		for other, l := range s.settings {
			if after.settings[other].value != l.value && (other != name || service != "") {
				t.Fatalf("%s: %s was %q, is %q", e, other, l.value, after.settings[other].value)
			}
		}
		main2, master2, err := Apply(a, b, []Edit{e.Inverse()})
		if err != nil {
			t.Fatalf("inverse of %s: %v", e, err)
		}
		overLines := strings.Contains(e.OldText, "\n") || service != "" && strings.Contains(master, "{")
		if (string(main2) != main || string(master2) != master) && !overLines && !slices.ContainsFunc([]byte(main+master), func(c byte) bool { return c == '\r' || c == '\v' || c == '\f' }) {
			t.Fatalf("%s and back: %q %q, was %q %q", e, main2, master2, main, master)
		}
	})
}

// FuzzExpand: no input makes the expander panic, hang or grow without bound.
func FuzzExpand(f *testing.F) {
	for _, v := range []string{"$a", "${a?{b}:{c}}", "${{$a} == {b} ? {$c} : {d}}", "$$", "$(a)", "${", "${domain_to_ascii{x}}", "${{1} <level {2}}", "${a??x:{y}z}"} {
		f.Add(v, "$b${c?x}", "$a$a")
	}
	f.Fuzz(func(t *testing.T, a, b, c string) {
		values := map[string]string{"a": a, "b": b, "c": c}
		out, err := expand(a, func(name string) (string, bool) { v, ok := values[name]; return v, ok })
		if err == nil && len(out) > maxExpansion {
			t.Fatalf("%d bytes", len(out))
		}
	})
}

// FuzzParse: whatever postconf and the files hold, Parse answers.
func FuzzParse(f *testing.F) {
	seeds(func(main, master string) { f.Add(main, master, "a = b\n", "smtp inet n - y - - smtpd\n") })
	f.Fuzz(func(t *testing.T, main, master, all, services string) {
		s, err := Parse("/d", File{"m", []byte(main)}, File{"s", []byte(master)}, Outputs{All: printed(all), Services: []byte(services)})
		if err == nil {
			s.Listeners(Host{})
			s.CertificateEdits(Target{Path: "/x", KeyType: "rsa", Names: []string{"a"}, AdoptOverrides: true})
		}
	})
}

// FuzzPostconf: whatever postconf prints, Parse answers; and what we read of
// the two files, printed as postconf prints it, is taken for the same moment.
func FuzzPostconf(f *testing.F) {
	seeds(func(main, master string) { f.Add(main, master, "a = b\n", "smtp/inet/a = b\n") })
	f.Add("a = b\n", "smtp inet n - y - - smtpd -o a=b\n", "a = b\n  c\npostconf: warning: x\n", "smtp/inet/a = c\n/x = y\n")
	f.Fuzz(func(t *testing.T, main, master, set, overrides string) {
		m, v := File{"m", []byte(main)}, File{"s", []byte(master)}
		_, _ = Parse("/d", m, v, Outputs{All: printed(set), Set: []byte(set), Expanded: []byte(overrides), Overrides: []byte(overrides)})
		s, err := Parse("/d", m, v, Outputs{All: printed()})
		if err != nil {
			return
		}
		var out Outputs
		for name := range s.Set {
			out.Set = append(out.Set, name+" = "+normal(s.settings[name].value)+"\n"...)
		}
		out.All = printed(string(out.Set))
		for _, v := range s.Services {
			for _, o := range v.Overrides {
				last, _ := v.override(o.Name)
				out.Overrides = append(out.Overrides, v.ID()+"/"+o.Name+" = "+normal(last.Value)+"\n"...)
			}
		}
		if s.Set["mail_version"] {
			return // a setting that postconf does not print as it stands
		}
		if _, err := Parse("/d", m, v, out); err != nil {
			t.Fatalf("%v\n%s\n%s", err, out.Set, out.Overrides)
		}
	})
}

// FuzzAddresses: where a service listens is one or more addresses that can be
// dialled, and a port that fits.
func FuzzAddresses(f *testing.F) {
	for _, n := range []string{"25", "smtp", ":25", "127.0.0.1:25", "[::1]:587", "::1:25", "[::]:smtps", "host:x", "[a", "", ":", "0.0.0.0:1", "ipv6:::1:2"} {
		f.Add(n, knownPorts, "127.0.0.1, [::1]", "all")
	}
	f.Add("a", "a=b=99999, =, c=", "all", "ipv4")
	f.Fuzz(func(t *testing.T, name, known, interfaces, protocols string) {
		host, port := splitHostPort(name)
		if name != port && name != host+":"+port {
			t.Fatalf("%q is %q and %q", name, host, port)
		}
		if n := portIn(known, name); n < 0 || n > 65535 {
			t.Fatalf("port %d", n)
		}
		s := Snapshot{Parameters: map[string]string{"inet_interfaces": interfaces, "inet_protocols": protocols, "known_tcp_ports": known}}
		h := Host{Interfaces: []string{"127.0.0.1", "::1", "192.0.2.1"}}
		if n := s.port(port, h); n < 0 || n > 65535 {
			t.Fatalf("port %d", n)
		}
		for _, a := range s.listenOn(host, h) {
			if ip, err := netip.ParseAddr(a); err != nil || ip.IsUnspecified() {
				t.Fatalf("%q with %q is dialled at %q", name, interfaces, a)
			}
		}
	})
}

// FuzzTrace: two edits and a service entry, undone one by one, bring back the very
// bytes; and with a line of somebody else's at the top and at the end the values.
func FuzzTrace(f *testing.F) {
	seeds(func(main, master string) {
		f.Add(main, master, "smtpd_tls_cert_file", "/b", true)
		f.Add(main, master, "mynetworks", "", false)
	})
	f.Fuzz(func(t *testing.T, main, master, name, value string, removes bool) {
		s, err := Parse("/d", File{"m", []byte(main)}, File{"s", []byte(master)}, Outputs{All: printed()})
		if err != nil {
			return
		}
		want := &value
		if removes {
			want = nil
		}
		edits := []Edit{s.Edit("", name, want)}
		if len(s.Services) > 0 {
			edits = append(edits, s.Edit(s.Services[len(s.Services)-1].ID(), name, want))
		}
		if e, err := AddEntry(newEntry); err == nil {
			edits = append(edits, e)
		}
		a, b := []byte(main), []byte(master)
		var done []Edit
		for _, e := range edits {
			traced, a2, b2, err := Trace(a, b, []Edit{e})
			if errors.Is(err, errUnsafe) {
				t.Fatalf("%s: %v", e, err)
			}
			if err == nil {
				done, a, b = append(done, traced...), a2, b2
			}
		}
		x, y := a, b
		for _, e := range slices.Backward(done) {
			if x, y, err = Apply(x, y, []Edit{e.Inverse()}); err != nil {
				t.Fatalf("inverse of %s: %v", e, err)
			}
		}
		if string(x) != main || string(y) != master {
			t.Fatalf("undone: %q %q, was %q %q", x, y, main, master)
		}
	})
}
